"""The shell around the sessions: liveness of sockets, waiting callers, app audio, views; storage that fails."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
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
from cloud.core.endpoints import EndpointLimits, Endpoints
from cloud.core.session import SessionState
from cloud.glasses_socket import GlassesSocket
from cloud.hub import _claimed_user, short
from cloud.server import Cloud
from cloud.store.base import StoreError
from cloud.store.records import AppRecord, AppType
from cloud.webhooks import WebhookError, WebhookResult
from tests.support.app_server import FakeApp
from tests.support.cloud import USER, phone, register, running, subscribed
from tests.support.hot_path import KEY, HotPath, frame, hot_path
from tests.support.waiting import until
from wire.backoff import BackoffPolicy
from wire.errors import ProtocolError
from wire.liveness import LivenessPolicy


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    async with running(tmp_path) as cloud:
        yield cloud


@pytest.mark.failure("CON-11")
@pytest.mark.parametrize(
    ("package", "session_id", "user"),
    [
        ("b-c", "a-b-c", "a"),
        ("c", "a-b-c", "a-b"),
        ("com.x", "Anna-B@x.io-com.x", "anna-b@x.io"),
        ("com.x", "a:b%@x-com.x", "a:b%@x"),
    ],
)
def test_a_session_id_is_matched_by_its_own_package_and_never_split(
    package: str, session_id: str, user: str
) -> None:
    assert _claimed_user(Claim(package, "k", session_id)) == user


@pytest.mark.parametrize("session_id", ["", "-com.x", "com.x", "a-com.y", "nohyphen"])
def test_a_session_id_of_another_app_is_refused(session_id: str) -> None:
    with pytest.raises(ProtocolError):
        _claimed_user(Claim("com.x", "k", session_id))


@pytest.mark.failure("SEC-03")
def test_a_user_in_logs_is_no_name() -> None:
    assert USER not in short(USER)
    assert short(USER) == short(USER) != short("other@example.com")


@pytest.mark.failure("LIV-03")
async def test_a_socket_without_any_sign_of_life_is_cut_and_a_speaking_one_kept(cloud: Cloud) -> None:
    quick = LivenessPolicy(ask=0.4, dead=1.6, speak=0.5, probes_min=2, wake=0.5)
    async with phone(cloud) as mute, phone(cloud, user="lively@x.io") as lively:
        await mute.next("connection_ack")
        await lively.next("connection_ack")
        for connection in cloud.listener.connections:
            cloud.hub.watch(connection, quick, is_app=False)
        assert mute._socket is not None
        mute._socket.transport.pause_reading()  # no pong comes back
        for _ in range(60):
            await lively.send_raw(b"\0\0")
            await asyncio.sleep(0.1)
            view = cloud.hub.session_view(USER)
            if view is not None and not view.connected:
                break
        view = cloud.hub.session_view(USER)
        assert view is not None
        assert not view.connected
        assert lively.closed is None
        assert lively.count("pong") >= 1  # the silent direction was spoken in
        await mute.drop()


@pytest.mark.failure("PER-03")
async def test_a_store_that_fails_costs_no_session_and_no_wish(cloud: Cloud) -> None:
    real = cloud.store.get_user_settings
    failures = 3

    async def flaky(user_id: str) -> dict[str, Any]:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreError("the disk is away")
        return await real(user_id)

    async with FakeApp("a", "k") as app:
        await register(cloud, app)
        await cloud.store.set_wanted(USER, "a", True)
        cloud.store.get_user_settings = flaky  # type: ignore[method-assign]
        async with phone(cloud) as glasses:
            await glasses.next("connection_ack")
            await app.started(USER)
            assert failures == 0


async def test_an_app_s_own_audio_reaches_the_phone_in_order_and_ends(cloud: Cloud) -> None:
    stream_id = "0123456789abcdef0123456789abcdef-abc"
    assert len(stream_id) == 36
    async with FakeApp("a", "k") as app, phone(cloud) as glasses:
        await register(cloud, app)
        await glasses.start_app("a")
        session = await app.started(USER)
        await session.send(
            "audio_stream_start", packageName="a", streamId=stream_id, contentType="audio/mpeg"
        )
        await until(lambda: session.of("audio_stream_ready"), "ready")
        assert session.socket is not None
        for number in range(5):
            await session.socket.send(stream_id.encode() + b"chunk%d" % number)
        await session.send("audio_stream_end", packageName="a", streamId=stream_id)
        await session.send("ping")
        await until(lambda: session.of("pong"), "all of it is in")
        chunks = cloud.hub.audio_stream(USER, stream_id)
        assert chunks is not None
        assert cloud.hub.audio_stream(USER, stream_id) is None
        assert [chunk async for chunk in chunks] == [b"chunk%d" % n for n in range(5)]


async def test_views_name_states_and_hold_nothing_that_was_said(cloud: Cloud) -> None:
    async with FakeApp("a", "k", "button_press") as app, phone(cloud) as glasses:
        await register(cloud, app)
        await glasses.start_app("a")
        session = await app.started(USER)
        await subscribed(cloud, "a")
        await glasses.send(
            "phone_notification", notificationId="1", app="Mail", title="top secret", content="x"
        )
        await glasses.send("location_update", lat=12.34567, lng=2)
        await glasses.send("ping")
        await glasses.next("pong")
        view = cloud.hub.session_view(USER)
        assert view is not None
        assert (view.state, view.connected, view.apps[0].state) == ("connected", True, "connected")
        assert view.apps[0].subscriptions == ("button_press",)
        assert cloud.hub.session_owner(session.session_id) == (USER, "a")
        assert cloud.hub.session_owner("nobody-a") is None
        trace = str(cloud.hub.trace())
        assert "top secret" not in trace
        assert "12.34567" not in trace
        assert cloud.hub.trace(since=10**9) == []


async def test_an_app_server_that_returns_is_asked_at_once(cloud: Cloud) -> None:
    app = FakeApp("a", "k")
    await app.listen()
    port = app.port
    await register(cloud, app)
    async with phone(cloud) as glasses:
        await glasses.next("connection_ack")
        await app.stop()
        assert (await cloud.hub.start_app(USER, "a")).code == "APP_UNREACHABLE"
        await app.listen(port)
        before = len(app.requests())
        assert cloud.hub.app_server_restarted("a") <= 1
        await app.started(USER)
        assert len(app.requests()) == before + 1
    await app.stop()


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
        cloud.hub._endpoints = Endpoints(EndpointLimits(look=0.3 if looked_for else 600.0))
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


async def test_an_event_on_the_console_can_be_sent_once_more(cloud: Cloud) -> None:
    async with FakeApp("a", "k", "button_press") as app, phone(cloud) as glasses:
        await register(cloud, app)
        await glasses.start_app("a")
        session = await app.started(USER)
        await subscribed(cloud, "a")
        await glasses.send("button_press", buttonId="main", pressType="short")
        await until(lambda: len(session.events("button_press")) == 1, "the press")
        [record] = [
            r for r in cloud.hub.trace() if r["kind"] == "from_glasses" and r["about"] == "button_press"
        ]
        assert cloud.hub.replay(record["seq"])
        await until(lambda: len(session.events("button_press")) == 2, "the press again")
        assert not cloud.hub.replay(10**9)


async def test_each_hop_of_an_exchange_is_measured_and_told(cloud: Cloud) -> None:
    async with FakeApp("a", "k", "button_press") as app, phone(cloud) as glasses:
        await register(cloud, app)
        await glasses.start_app("a")
        session = await app.started(USER)
        await subscribed(cloud, "a")
        cloud.hub.trace()  # somebody watches from now on
        edge_ahead = 5000.0  # its clock, milliseconds
        clock = (time.time() * 1000) + edge_ahead
        await glasses.send(
            "ping", sentMs=1, clockMs=clock, offsetMs=-edge_ahead, errorMs=0.5, rttMs=1, audioMs=7.5
        )
        await glasses.send("button_press", buttonId="main", pressType="short", timestamp=round(clock))
        await until(lambda: len(session.events("button_press")) == 1, "the press")
        mark = glasses.mark()
        await session.show("pressed")
        shown = await glasses.shows("pressed", since=mark)
        await glasses.send(
            "glassbridge_display_result",
            displayId=shown["displayId"],
            outcome="shown",
            downlinkMs=2,
            edgeMs=1,
            bleMs=40,
        )
        await until(lambda: any(r["kind"] == "exchange" for r in cloud.hub.trace()), "the exchange")
        (exchange,) = (r for r in cloud.hub.trace() if r["kind"] == "exchange")
        hops = {hop["who"]: hop["ms"] for hop in exchange["hops"] if hop["ms"] is not None}
        assert exchange["about"] == "button_press"
        assert hops.keys() == {"cloud", "app", "edge", "radio", "lens"}
        assert hops["lens"] == 40
        cloud.hub.publish()
        metrics = cloud.metrics.text().decode()
        for hop in ("mic_to_edge", "edge_to_cloud", "app", "cloud_to_edge", "edge", "ble"):
            assert f'glassbridge_hop_seconds_count{{hop="{hop}"}} 1.0' in metrics, hop
        assert 'glassbridge_hop_seconds_count{hop="cloud_display"} 0.0' not in metrics, (
            "the dashboard counts too"
        )
        assert 'glassbridge_hop_seconds_sum{hop="mic_to_edge"} 0.0075' in metrics


async def test_the_gauges_follow_the_states(cloud: Cloud) -> None:
    async with FakeApp("a", "k") as app, phone(cloud) as glasses:
        await register(cloud, app)
        await glasses.start_app("a")
        await app.started(USER)
        cloud.hub.publish()
        text = cloud.metrics.text().decode()
        assert 'glassbridge_sessions{state="connected"} 1.0' in text
        assert 'glassbridge_app_sessions{state="connected"} 1.0' in text


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
        hub._webhooks = posts  # type: ignore[assignment]
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
