"""Webhooks of sessions: a stop that reached nobody, a start that found our own queue full."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cloud.app_webhooks import QUEUE_RETRY
from cloud.auth import hash_api_key
from cloud.server import Cloud
from cloud.store.records import AppRecord, AppType
from cloud.webhooks import WebhookError, WebhookResult
from tests.support.app_server import FakeApp
from tests.support.cloud import USER, phone, register, running
from tests.support.hot_path import USER as USER_OF_PATH
from tests.support.hot_path import hot_path
from tests.support.waiting import until
from wire.errors import ErrorCode

OTHER = "other@example.com"


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    async with running(tmp_path) as cloud:
        yield cloud


@pytest.mark.failure("APP-06")
async def test_a_stop_webhook_that_reaches_nobody_is_posted_once_more(cloud: Cloud) -> None:
    app = FakeApp("a", "k")
    await app.listen()
    port = app.port
    await register(cloud, app)
    async with phone(cloud) as glasses:
        await glasses.next("connection_ack")
        assert (await cloud.hub.start_app(USER, "a")).ok
        await app.stop()
        assert (await cloud.hub.stop_app(USER, "a")).ok, "nobody waits for it"
        await app.listen(port)
        await until(lambda: len(app.requests("stop_request")) == 1, "the stop is told")
    await app.stop()


@pytest.mark.failure("APP-05")
async def test_an_app_server_has_its_time_from_when_a_slot_is_free_for_its_webhook(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.webhooks.PER_HOST_MAX", 1)
    loop = asyncio.get_running_loop()
    slow = {user: asyncio.Event() for user in (USER, OTHER)}

    async def answer(webhook: dict[str, Any]) -> None:
        if webhook["type"] == "session_request":
            await slow[webhook["userId"]].wait()

    async with FakeApp("a", "k") as app, phone(cloud) as one, phone(cloud, user=OTHER) as two:
        app.answer = answer
        await register(cloud, app)
        await one.start_app("a")
        await until(lambda: app.requests(), "the only slot is taken")
        await two.start_app("a")
        life = await until(lambda: cloud.hub._sessions[OTHER].session.app("a"), "the second start waits")
        assert life is not None
        waiting, began = life.deadline, loop.time()
        assert waiting is not None
        await until(lambda: loop.time() > began + 0.2, "it waits a while")
        assert (life.is_starting, life.deadline, len(app.requests())) == (True, waiting, 1)
        slow[USER].set()
        await until(lambda: len(app.requests()) == 2, "its turn")
        assert life.deadline is not None
        assert life.deadline >= began + 0.2 + life.timing.start
        slow[OTHER].set()
        await app.started(OTHER)


class Full:
    """Webhooks while all slots are taken by others."""

    async def post(self, url: str, body: Mapping[str, Any], **_: Any) -> WebhookResult:
        return WebhookResult(ok=False, status=None, error=WebhookError.QUEUE, body=None, duration=0.0)


@pytest.mark.failure("APP-05")
@pytest.mark.failure("APP-11")
async def test_a_start_that_finds_our_own_queue_full_is_held_back_and_not_counted_against_the_server(
    tmp_path: Path,
) -> None:
    async with hot_path(tmp_path, apps=0) as path:
        hub = path.hub
        record = AppRecord(
            package_name="b",
            name="B",
            public_url="http://192.0.2.9",
            hashed_api_key=hash_api_key("k"),
            app_type=AppType.BACKGROUND,
        )
        await hub._store.put_app(record)
        hub._webhooks._client = Full()  # type: ignore[assignment]
        outcome = await hub.start_app(USER_OF_PATH, "b")
        assert outcome.code == ErrorCode.APP_UNREACHABLE
        assert outcome.message.startswith("queue_full")
        assert hub._endpoints._known["http://192.0.2.9"].failures == 0
        life = hub._sessions[USER_OF_PATH].session.app("b")
        assert life is not None
        assert life.next_attempt is not None
        assert life.next_attempt > asyncio.get_running_loop().time() + QUEUE_RETRY / 2
        [kept] = hub.webhooks_of("b")
        assert kept["error"] is WebhookError.QUEUE
