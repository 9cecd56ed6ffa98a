"""The thin path through the whole cloud over real sockets and real webhooks: connect, start, events, display, stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud.auth import hash_api_key
from cloud.config import CloudConfig
from cloud.server import Cloud
from cloud.store.records import AppRecord, AppType, Permission
from tests.support.app_server import FakeApp
from tests.support.fake_phone import FakePhone
from tests.support.waiting import until

USER = "anna-b@example.com"


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    config = CloudConfig.load(overrides={"data_dir": str(tmp_path), "port": 0, "profile": "dev"}, env={})
    async with Cloud(config) as cloud:
        yield cloud


async def register(cloud: Cloud, app: FakeApp, *permissions: str, kind: AppType = AppType.STANDARD) -> None:
    await cloud.store.put_app(
        AppRecord(
            package_name=app.package,
            name=app.package.rpartition(".")[2],
            public_url=app.url,
            hashed_api_key=hash_api_key(app.api_key),
            app_type=kind,
            permissions=tuple(Permission(p) for p in permissions),
        )
    )


def phone(cloud: Cloud, generation: str = "A", user: str = USER) -> FakePhone:
    return FakePhone(cloud.url, user, cloud.verifier.mint_core_token(user), generation)  # type: ignore[arg-type]


async def test_an_app_is_started_fed_shown_and_stopped(cloud: Cloud) -> None:
    async with (
        FakeApp("com.example.app", "key", "button_press", "audio_chunk") as app,
        phone(cloud) as glasses,
    ):
        await register(cloud, app, "MICROPHONE")
        ack = await glasses.next("connection_ack")
        assert ack["sessionId"] == USER
        await glasses.send("start_app", packageName=app.package)
        session = await app.started(USER)
        assert session.of("tpa_connection_ack")[0]["settings"] == []
        await until(lambda: glasses.microphone, "glasses.microphone")
        await glasses.send("button_press", buttonId="main", pressType="short", timestamp=1)
        await until(lambda: session.events("button_press"), "session.events('button_press')")
        assert session.events("button_press") == [
            {"type": "button_press", "buttonId": "main", "pressType": "short", "timestamp": 1}
        ]
        await glasses.say(b"\x01\x02" * 1600)
        await until(
            lambda: b"".join(session.binary) == b"\x01\x02" * 1600,
            "b''.join(session.binary) == b'\x01\x02' * 1600",
        )
        await session.show("hello")
        await glasses.shows("hello")
        await glasses.send("stop_app", packageName=app.package)
        await until(lambda: session.stopped == ["user_disabled"], "session.stopped == ['user_disabled']")
        await until(lambda: session.closed is not None, "session.closed is not None")
        await until(lambda: not glasses.microphone, "not glasses.microphone")
        assert len(app.requests()) == 1


async def test_a_burst_of_displays_ends_with_the_last_one(cloud: Cloud) -> None:
    async with FakeApp() as app, phone(cloud) as glasses:
        await register(cloud, app)
        await glasses.send("start_app", packageName=app.package)
        session = await app.started(USER)
        for number in range(30):
            await session.show(f"line {number}")
        await glasses.shows("line 29")
        shown = [d for d in glasses.displays() if d["layout"].get("text", "").startswith("line")]
        assert len(shown) <= 4


async def test_a_wrong_token_is_refused_at_the_upgrade(cloud: Cloud) -> None:
    from websockets.exceptions import InvalidStatus

    wrong = FakePhone(cloud.url, USER, "nonsense", "A")
    with pytest.raises(InvalidStatus) as refused:
        await wrong.connect()
    assert refused.value.response.status_code == 401
    await wrong.close()


async def test_unknown_messages_disturb_nobody(cloud: Cloud) -> None:
    async with phone(cloud, "C") as glasses:
        await glasses.send("something_from_2031", a=1)
        await glasses.send_raw("not json")
        await glasses.send("ping")
        await glasses.next("pong")
        assert glasses.closed is None
        await asyncio.sleep(0)
