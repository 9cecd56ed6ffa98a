"""The shell around the sessions: one input and all its effects, the pace of restarts, and the end of all of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cloud.app_socket import AppSocket, Claim
from cloud.auth import Identity, hash_api_key
from cloud.connection import Connection
from cloud.core.app_lifecycle import AppLifecycle, AppState
from cloud.core.endpoints import EndpointLimits
from cloud.core.session import SessionState
from cloud.glasses_socket import GlassesSocket
from cloud.server import Cloud
from cloud.store.records import AppRecord, AppType
from cloud.webhooks import WebhookError, WebhookResult
from tests.support.app_server import FakeApp
from tests.support.cloud import USER, phone, register, running, subscribed
from tests.support.hot_path import KEY, HotPath, frame, hot_path
from tests.support.waiting import until
from wire.backoff import BackoffPolicy
from wire.errors import ErrorCode


@pytest.mark.failure("APP-02")
@pytest.mark.failure("APP-10")
@pytest.mark.parametrize("looked_for", [True, False])
async def test_the_first_success_after_an_outage_brings_everybody_back_at_the_pace(
    tmp_path: Path, looked_for: bool
) -> None:
    """By their own next attempts they would be back in ten minutes. Somebody looks, or a wearer asks."""
    users = [f"user{n}@x.io" for n in range(4)]
    async with running(tmp_path, sessions__app_grace=0.2) as cloud, AsyncExitStack() as stack:
        slow = BackoffPolicy(600.0, 1.0, 600.0, 0.0)
        cloud.hub._endpoints._limits = EndpointLimits(look=0.3 if looked_for else 600.0)
        timing = cloud.hub._timing
        cloud.hub._timing = replace(timing, lifecycle=replace(timing.lifecycle, restart=slow))
        app = FakeApp("a", "k", "button_press")
        await app.listen()
        stack.push_async_callback(app.stop)
        port = app.port
        await register(cloud, app)
        for user in users:
            glasses = await stack.enter_async_context(phone(cloud, user=user))
            await glasses.next("connection_ack")
            assert (await cloud.hub.start_app(user, "a")).ok
        await app.stop()

        def lives() -> list[AppLifecycle | None]:
            return [entry.session.app("a") for entry in cloud.hub._sessions.values()]

        await until(lambda: all(life and life.state is AppState.ERROR for life in lives()), "the outage")
        assert not (await cloud.hub.start_app(users[0], "a")).ok, "it is known to be away"
        before = len(app.requests())
        await app.listen(port)
        at = cloud.hub._loop.time()
        if not looked_for:
            assert (await cloud.hub.start_app(users[0], "a")).ok
        for user in users:
            await app.started(user)
            await subscribed(cloud, "a", user)
        assert len(app.requests()) <= before + len(users) + looked_for, "each is asked once"
        assert cloud.hub._loop.time() - at >= (len(users) - 2) * cloud.hub._endpoints.pause


@pytest.mark.failure("CON-14")
async def test_a_session_beyond_its_time_is_ended_and_counted(cloud: Cloud) -> None:
    async with FakeApp("a", "k") as app:
        await register(cloud, app)
        async with phone(cloud) as glasses:
            await glasses.next("connection_ack")
            assert (await cloud.hub.start_app(USER, "a")).ok
        entry = cloud.hub._sessions[USER]
        await until(lambda: entry.session.state is SessionState.DETACHED, "the glasses are gone")
        now = cloud.hub._loop.time()
        cloud.hub._reap(now + 60.0)
        assert cloud.hub._sessions == {USER: entry}, "within its time"
        cloud.hub._reap(now + 66.0)  # as if its own timer had been lost
        assert cloud.hub._sessions == {}
        assert entry.timer is None
        assert 'glassbridge_errors_total{where="overdue_session"} 1.0' in cloud.metrics.text().decode()
        await until(lambda: app.session(USER).closed is not None, "its app's socket is closed")


@pytest.mark.failure("PRO-05")
@pytest.mark.parametrize("presses", [1, 3, 15, 40])
async def test_an_acknowledgement_is_written_after_what_it_acknowledges_is_written_to_every_app(
    tmp_path: Path, presses: int
) -> None:
    """Also of frames that came in one read, whose answers are written together; killed in between, none is lost."""
    written: list[tuple[str, bytes]] = []

    class Log(list[bytes]):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def append(self, data: bytes) -> None:
            written.append((self.name, data))

    async with hot_path(tmp_path, apps=2) as path:
        one, two = path.apps
        wish = {
            "type": "subscription_update",
            "packageName": "com.bench.a1",
            "subscriptions": ["head_position"],
        }
        two.data_received(frame(orjson.dumps(wish)))
        for name, connection in (("edge", path.glasses), ("one", one), ("two", two)):
            path.wire(connection).kept = Log(name)
        hello = {"version": 1, "offset": 0, "ownEpoch": "edge-1", "ownOffset": 0}
        path.glasses.data_received(frame(orjson.dumps({"type": "connection_init", "link": hello})))
        messages = [
            {"type": "button_press", "pressType": "short", "buttonId": f"press-{n}", "linkOffset": n}
            for n in range(1, presses + 1)
        ]
        last = {"type": "head_position", "position": "down", "linkOffset": presses + 1}
        # The only one for the second app comes last, when the answers to the edge have long begun to collect.
        path.glasses.data_received(b"".join(frame(orjson.dumps(m)) for m in [*messages, last]))
    have = 0
    for name, data in written:
        if name == "one":
            have += data.count(b'"press-')
        elif name == "two":
            have += data.count(b'"head_position"') > 0
        else:
            for ack in re.findall(rb'"linkAck":(\d+)', data):
                assert int(ack) <= have
    assert have == presses + 1


class Posts:
    """Webhooks that note when each was posted; their app dials in, unless its server is away."""

    def __init__(self, path: HotPath) -> None:
        self.path = path
        self.away = False
        self.at: list[float] = []
        self.apps: list[Connection] = []

    async def post(self, url: str, body: Mapping[str, Any], **_: Any) -> WebhookResult:
        self.at.append(asyncio.get_running_loop().time())
        if self.away:
            return WebhookResult(ok=False, status=None, error=WebhookError.CONNECT, body=None, duration=0.0)
        if body["type"] == "session_request":
            claim = Claim("com.bench.a0", KEY, body["sessionId"])
            self.apps.append(self.path.connect(AppSocket(self.path.hub, claim, init_timeout=10.0)))
        return WebhookResult(ok=True, status=200, error=None, body={"status": "success"}, duration=0.0)


@pytest.mark.failure("APP-10")
async def test_fifty_users_of_one_app_server_are_brought_back_at_its_rate(tmp_path: Path) -> None:
    """As it leaves the cloud: at the app server, a busy machine may bunch them."""
    users = 50
    async with hot_path(tmp_path, apps=0) as path:
        hub = path.hub
        posts = Posts(path)
        hub._webhooks._client = posts  # type: ignore[assignment]
        quick = BackoffPolicy(0.1, 1.0, 0.1, 0.0)
        hub._timing = replace(
            hub._timing, lifecycle=replace(hub._timing.lifecycle, grace=0.05, restart=quick)
        )
        await hub._store.put_app(
            AppRecord(
                package_name="com.bench.a0",
                name="Bench",
                public_url="http://192.0.2.9",
                hashed_api_key=hash_api_key(KEY),
                app_type=AppType.BACKGROUND,
            )
        )
        glasses = [
            path.connect(GlassesSocket(hub, Identity(f"user{n}@x.io", None, None))) for n in range(users)
        ]
        await asyncio.gather(*(hub.start_app(f"user{n}@x.io", "com.bench.a0") for n in range(users)))
        assert len(posts.apps) == users, "a wearer's own start waits for nobody"

        def running() -> int:
            lives = [entry.session.app("com.bench.a0") for entry in hub._sessions.values()]
            return sum(1 for life in lives if life is not None and life.state is AppState.CONNECTED)

        posts.away = True
        posts.at.clear()
        for app in posts.apps:
            app.connection_lost(None)  # the process is gone, with all its sockets at once
        await until(lambda: len(posts.at) >= 5, "attempts while it is away")
        posts.away = False
        await until(lambda: running() == users, "everybody is back", 10)
        rate = 1.0 / hub._endpoints.pause
        most = max(sum(1 for at in posts.at if start <= at < start + 1.0) for start in posts.at)
        assert most <= rate + 1 + 3, "three for a loop that was held up"
        for connection in (*posts.apps, *glasses):
            connection.abort()
            connection.connection_lost(None)


async def test_a_drain_of_many_sessions_leaves_the_others_their_turns(tmp_path: Path) -> None:
    """All at once, 2,000 sessions held up everybody for 0.14 to 0.3 s."""
    async with hot_path(tmp_path, apps=0) as path:
        hub = path.hub
        glasses = [path.connect(GlassesSocket(hub, Identity(f"u{n}@x.io", None, None))) for n in range(600)]
        await until(lambda: not any(entry.saves for entry in hub._sessions.values()), "all are on disk", 30)
        turns = 0

        async def somebody_else() -> None:
            nonlocal turns
            while hub._sessions:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.ensure_future(somebody_else())
        spent = asyncio.get_running_loop().time()
        await asyncio.gather(hub.drain(), hub.drain())
        spent = asyncio.get_running_loop().time() - spent
        assert hub.draining
        assert hub._sessions == {}, "also for the second who asked"
        assert turns >= 4, f"in slices of 5 ms; it took {spent * 1000:.0f} ms"
        assert hub.admission("new@x.io") == (503, ErrorCode.DRAINING, 5.0)
        await other
        for connection in glasses:
            connection.abort()
            connection.connection_lost(None)
