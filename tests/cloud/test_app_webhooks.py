"""Webhooks of sessions: a stop that reached nobody, a start that found our own queue full."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from cloud.core.endpoints import EndpointLimits
from cloud.server import Cloud
from cloud.webhooks import WebhookError
from tests.support.app_server import FakeApp
from tests.support.cloud import USER, phone, register
from tests.support.waiting import until
from wire.errors import ErrorCode

OTHER = "other@example.com"


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


@pytest.mark.failure("APP-05")
@pytest.mark.failure("APP-11")
async def test_a_start_that_finds_our_own_queue_full_is_held_back_and_not_counted_against_the_server(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.webhooks.PER_HOST_MAX", 1)
    monkeypatch.setattr("cloud.webhooks.QUEUE_TIMEOUT", 0.05)
    monkeypatch.setattr("cloud.app_webhooks.QUEUE_RETRY", 2.5)
    slow = asyncio.Event()

    async def answer(webhook: dict[str, Any]) -> Response | None:
        if webhook["userId"] == OTHER:
            return None
        await slow.wait()
        return JSONResponse({"status": "success"})  # and never connects: nothing speaks for the server

    async with FakeApp("a", "k") as app, phone(cloud) as one, phone(cloud, user=OTHER) as two:
        app.answer = answer
        await register(cloud, app)
        await two.next("connection_ack")
        await one.start_app("a")
        await until(lambda: app.requests(), "the only slot is taken")
        for _ in range(EndpointLimits().failures + 1):
            outcome = await cloud.hub.start_app(OTHER, "a")
            assert outcome.code == ErrorCode.APP_UNREACHABLE
            assert outcome.message.startswith("queue_full")
        assert cloud.hub.webhooks_of("a")[-1]["error"] is WebhookError.QUEUE
        view = cloud.hub.session_view(OTHER)
        assert view is not None
        assert (view.apps[0].state, view.apps[0].attempt) == ("error", 0)
        assert view.apps[0].next_attempt_in is not None
        assert 1.0 < view.apps[0].next_attempt_in <= 2.5
        assert len(app.requests()) == 1, "nothing of it has reached the server"
        slow.set()
        # Were the server thought dead, it would be asked again in five minutes.
        await app.started(OTHER)
