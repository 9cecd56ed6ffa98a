"""The whole cloud over real sockets and real webhooks: the thin path, losses, restarts, refusals, the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from cloud.server import Cloud
from cloud.store.records import AppType
from tests.support.app_server import FakeApp
from tests.support.cloud import USER, phone, register, running, subscribed
from tests.support.fake_phone import FakePhone
from tests.support.waiting import until


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    async with running(tmp_path, sessions__app_grace=0.4, display__interval=0.1) as cloud:
        yield cloud


async def test_an_app_is_started_fed_shown_and_stopped(cloud: Cloud) -> None:
    async with (
        FakeApp("com.example.app", "key", "button_press", "audio_chunk") as app,
        phone(cloud) as glasses,
    ):
        await register(cloud, app, "MICROPHONE", kind=AppType.STANDARD)
        ack = await glasses.next("connection_ack")
        assert ack["sessionId"] == USER
        await glasses.start_app(app.package)
        session = await app.started(USER)
        assert session.of("tpa_connection_ack")[0]["settings"] == []
        await until(lambda: glasses.microphone, "microphone on")
        await glasses.send("button_press", buttonId="main", pressType="short")
        await until(lambda: session.events("button_press"), "the press arrives")
        assert session.events("button_press")[0]["buttonId"] == "main"
        await glasses.say(b"\x01\x02" * 1600)
        await until(lambda: b"".join(session.binary) == b"\x01\x02" * 1600, "the very bytes arrive")
        await session.show("hello")
        await glasses.shows("hello")
        await glasses.stop_app(app.package)
        await until(lambda: session.stopped == ["user_disabled"], "onStop ran once")
        await until(lambda: session.closed is not None, "the socket is closed")
        await until(lambda: not glasses.microphone, "microphone off")
        await until(lambda: glasses.running() == [], "the phone knows")
        assert len(app.requests()) == 1


@pytest.mark.failure("DSP-02")
async def test_a_burst_of_displays_ends_with_the_last_one(cloud: Cloud) -> None:
    async with FakeApp() as app, phone(cloud) as glasses:
        await register(cloud, app)
        await glasses.start_app(app.package)
        session = await app.started(USER)
        for number in range(30):
            await session.show(f"line {number}")
        await glasses.shows("line 29")
        assert len([d for d in glasses.displays() if "line" in json.dumps(d["layout"])]) <= 4


@pytest.mark.failure("CON-02")
@pytest.mark.failure("MIC-02")
async def test_an_app_back_within_grace_goes_on_and_the_microphone_never_stops(cloud: Cloud) -> None:
    async with FakeApp("a", "k", "transcription:en-US", "button_press") as app, phone(cloud) as glasses:
        await register(cloud, app, "MICROPHONE")
        await glasses.start_app("a")
        session = await app.started(USER)
        await subscribed(cloud, "a")
        await until(lambda: glasses.microphone, "microphone on")
        mark = glasses.mark()
        session.drop()
        for number in range(5):
            await glasses.send("button_press", buttonId=str(number), pressType="short")
        await session.open()
        await until(lambda: len(session.events("button_press")) >= 5, "no press is lost")
        assert [e["buttonId"] for e in session.events("button_press")] == ["0", "1", "2", "3", "4"]
        assert all(m["isMicrophoneEnabled"] for m in glasses.of("microphone_state_change", mark))
        assert len(app.requests()) == 1


@pytest.mark.failure("APP-04")
async def test_an_app_that_stays_away_is_restarted_by_webhook(cloud: Cloud) -> None:
    async with FakeApp("a", "k", "button_press") as app, phone(cloud) as glasses:
        await register(cloud, app)
        await glasses.start_app("a")
        first = await app.started(USER)
        first.drop()
        await until(lambda: len(app.requests()) == 2, "a second session_request")
        await until(lambda: app.session(USER) is not first, "a new session in the app")
        second = await app.started(USER)
        await subscribed(cloud, "a")
        await glasses.send("button_press", buttonId="m", pressType="short")
        await until(lambda: second.events("button_press"), "events flow again")
        assert app.requests()[0]["sessionId"] == app.requests()[1]["sessionId"]


@pytest.mark.failure("CON-03")
async def test_an_init_and_its_subscriptions_in_one_write_are_both_taken(cloud: Cloud) -> None:
    async with FakeApp("a", "k") as app, phone(cloud) as glasses:
        await register(cloud, app)
        await glasses.start_app("a")
        session = await app.started(USER)
        for number in range(20):
            stream = f"touch_event:gesture{number}"
            async with connect(f"{cloud.url.replace('http', 'ws')}/app-ws", ping_interval=None) as socket:
                init = {"type": "tpa_connection_init", "packageName": "a", "apiKey": "k"}
                update = {"type": "subscription_update", "subscriptions": [stream]}
                await asyncio.gather(
                    socket.send(json.dumps({**init, "sessionId": session.session_id})),
                    socket.send(json.dumps(update)),
                )
                assert json.loads(await socket.recv())["type"] == "tpa_connection_ack"
                await until(
                    lambda s=stream: cloud.hub.session_view(USER).apps[0].subscriptions == (s,),  # type: ignore[misc,union-attr]
                    "the list counts",
                )


@pytest.mark.failure("APP-18")
@pytest.mark.failure("SEC-07")
async def test_strangers_change_nothing_and_hear_the_same_answer(cloud: Cloud) -> None:
    async with FakeApp("a", "right key") as app, phone(cloud) as glasses:
        await register(cloud, app)
        app.connects = False
        await glasses.start_app("a")
        await until(lambda: app.requests(), "the session_request")
        url = cloud.url.replace("http", "ws") + "/app-ws"
        answers = set()
        for package, key in (("a", "wrong"), ("unknown", "right key"), ("a", "")):
            async with connect(url, ping_interval=None) as socket:
                sid = f"{USER}-{package}"
                init = {
                    "type": "tpa_connection_init",
                    "packageName": package,
                    "apiKey": key,
                    "sessionId": sid,
                }
                await socket.send(json.dumps(init))
                error = json.loads(await socket.recv())
                answers.add((error["type"], error["code"], error["message"]))
                await socket.wait_closed()
                assert socket.close_code == 1008
        assert answers == {("tpa_connection_error", "INVALID_API_KEY", "Invalid API key")}
        async with connect(url, ping_interval=None) as socket:
            init = {
                "type": "tpa_connection_init",
                "packageName": "a",
                "apiKey": "right key",
                "sessionId": f"{USER}-a",
            }
            await socket.send(json.dumps(init))
            assert json.loads(await socket.recv())["type"] == "tpa_connection_ack"
        async with connect(url, ping_interval=None) as socket:
            init["sessionId"] = "bob@example.com-a"
            await socket.send(json.dumps(init))
            assert json.loads(await socket.recv())["code"] == "SESSION_NOT_FOUND"


@pytest.mark.failure("LIV-08")
async def test_a_socket_that_never_says_who_it_is_is_closed(tmp_path: Path) -> None:
    async with (
        running(tmp_path, limits__handshake_timeout=0.3) as cloud,
        connect(cloud.url.replace("http", "ws") + "/app-ws", ping_interval=None) as socket,
    ):
        assert json.loads(await socket.recv())["code"] == "MALFORMED_MESSAGE"
        await socket.wait_closed()
        assert socket.close_code == 1008


async def test_other_runtimes_say_who_they_are_in_headers(cloud: Cloud) -> None:
    import jwt

    from tests.support.cloud import SECRET

    url = cloud.url.replace("http", "ws") + "/app-ws"
    async with FakeApp("a", "k") as app, phone(cloud) as glasses:
        await register(cloud, app)
        app.connects = False
        await glasses.start_app("a")
        await until(lambda: app.requests(), "the session_request")
        token = jwt.encode({"packageName": "a", "apiKey": "k"}, SECRET, algorithm="HS256")
        headers = {"Authorization": f"Bearer {token}", "x-user-id": USER, "x-session-id": f"{USER}-a"}
        async with connect(url, additional_headers=headers, ping_interval=None) as socket:
            assert json.loads(await socket.recv())["type"] == "tpa_connection_ack"
        headers = {"x-user-id": USER, "x-package-name": "a", "x-api-key": "k"}
        async with connect(url, additional_headers=headers, ping_interval=None) as socket:
            assert json.loads(await socket.recv())["type"] == "tpa_connection_ack"
        with pytest.raises(InvalidStatus) as refused:
            await connect(url, additional_headers={"Authorization": f"Bearer {token}"})
        assert refused.value.response.status_code == 401


@pytest.mark.failure("CON-06")
async def test_each_reason_not_to_start_has_its_own_code(cloud: Cloud) -> None:
    async with FakeApp("a", "k") as app:
        await register(cloud, app)
        assert (await cloud.hub.start_app(USER, "a")).code == "SESSION_NOT_FOUND"
        glasses = phone(cloud)
        await glasses.connect()
        assert (await cloud.hub.start_app(USER, "nowhere")).code == "NOT_FOUND"
        outcome = await cloud.hub.start_app(USER, "a")
        assert outcome.ok
        await app.stop()
        assert (await cloud.hub.stop_app(USER, "a")).ok
        assert (await cloud.hub.start_app(USER, "a")).code == "APP_UNREACHABLE"
        await glasses.drop()
        await until(lambda: not cloud.hub.session_view(USER).connected, "the loss is known")  # type: ignore[union-attr]
        assert (await cloud.hub.start_app(USER, "a")).code == "GLASSES_DISCONNECTED"
        await cloud.hub.drain()
        assert (await cloud.hub.start_app(USER, "a")).code == "DRAINING"
        await glasses.close()


async def test_a_wrong_token_is_refused_at_the_upgrade(cloud: Cloud) -> None:
    wrong = FakePhone(cloud.url, USER, "nonsense", "A")
    with pytest.raises(InvalidStatus) as refused:
        await wrong.connect()
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body or b"")["message"] == "Invalid core token"
    with pytest.raises(InvalidStatus) as unknown:
        await connect(cloud.url.replace("http", "ws") + "/elsewhere")
    assert unknown.value.response.status_code == 404
    await wrong.close()


@pytest.mark.failure("CON-12")
async def test_letter_case_makes_no_second_person(cloud: Cloud) -> None:
    async with phone(cloud, user="Anna-B@Example.COM") as one:
        await one.next("connection_ack")
        async with phone(cloud) as two:
            await two.next("connection_ack")
            assert len(cloud.hub.user_ids()) == 1
            await until(lambda: one.closed is not None, "the older is told")
            assert one.closed == (4409, "replaced")


@pytest.mark.failure("PRO-05")
@pytest.mark.failure("PER-02")
async def test_after_a_restart_wanted_apps_run_again_with_one_request_each(tmp_path: Path) -> None:
    async with FakeApp("a", "k", "button_press") as app:
        async with running(tmp_path) as first:
            await register(first, app)
            async with phone(first) as glasses:
                await glasses.start_app("a")
                session = await app.started(USER)
                await subscribed(first, "a")
                await first.hub.drain()
                await until(lambda: session.closed is not None, "the app is told")
                assert session.closed == (1012, "Server restarting")
                await until(lambda: glasses.closed is not None, "the phone is told")
                assert glasses.closed == (1012, "Server restarting")
        app.sessions.clear()
        async with running(tmp_path) as second, phone(second) as glasses:
            await app.started(USER)
            await until(lambda: glasses.running() == ["a"], "the phone sees it run")
            assert len(app.requests()) == 2
            await glasses.stop_app("a")
            await until(lambda: len(app.requests("stop_request")) == 1, "stopped")
        async with running(tmp_path) as third, phone(third) as glasses:
            await glasses.next("connection_ack")
            await asyncio.sleep(0.2)
            assert len(app.requests()) == 2


@pytest.mark.failure("LIV-07")
async def test_an_sdk_that_returns_before_the_phone_after_a_crash_is_welcome(tmp_path: Path) -> None:
    async with FakeApp("a", "k", "button_press") as app:
        async with running(tmp_path) as first:
            await register(first, app)
            async with phone(first) as glasses:
                await glasses.start_app("a")
                session = await app.started(USER)
                await subscribed(first, "a")
                await first.hub.drain()  # as far as the records go, a crash: the session stays on disk
        async with running(tmp_path) as second:
            session.url = second.url.replace("http", "ws") + "/app-ws"
            await session.open()
            assert session.closed is None
            async with phone(second) as glasses:
                await glasses.next("connection_ack")
                await glasses.send("button_press", buttonId="m", pressType="short")
                await until(lambda: session.events("button_press"), "events flow")
                assert len(app.requests()) == 1
            await session.close()


@pytest.mark.failure("LIV-04")
async def test_half_of_the_apps_dying_costs_the_other_half_nothing(cloud: Cloud) -> None:
    apps = [FakeApp(f"app{n}", "k", "button_press") for n in range(6)]
    try:
        async with phone(cloud) as glasses:
            for app in apps:
                await app.listen()
                await register(cloud, app)
                await glasses.start_app(app.package)
            sessions = [await app.started(USER) for app in apps]
            for app in apps:
                await subscribed(cloud, app.package)
            for number in range(60):
                if number in (10, 20, 30):
                    sessions[number // 10].drop()
                await glasses.send("button_press", buttonId=str(number), pressType="short")
            for index in (0, 4, 5):
                live = sessions[index]
                await until(lambda s=live: len(s.events("button_press")) == 60, "all sixty")  # type: ignore[misc]
                assert [e["buttonId"] for e in live.events("button_press")] == [str(n) for n in range(60)]
    finally:
        for app in apps:
            await app.stop()


@pytest.mark.failure("SEC-05")
async def test_two_wearers_of_one_app_hear_only_themselves_and_each_other_s_messages(cloud: Cloud) -> None:
    async with (
        FakeApp("a", "k", "button_press") as app,
        phone(cloud, user="u1@x.io") as one,
        phone(cloud, user="u2@x.io") as two,
    ):
        await register(cloud, app)
        for glasses in (one, two):
            await glasses.start_app("a")
        first, second = await app.started("u1@x.io"), await app.started("u2@x.io")
        await subscribed(cloud, "a", "u1@x.io")
        await one.send("button_press", buttonId="one", pressType="short")
        await until(lambda: first.events("button_press"), "the press")
        await first.send("app_direct_message", targetUserId="u2@x.io", messageId="m", payload={"b": 2})
        await until(lambda: second.of("app_message_received"), "the message")
        assert second.of("app_message_received")[0]["senderUserId"] == "u1@x.io"
        await until(lambda: first.of("app_direct_message_response"), "the answer")
        assert second.events("button_press") == []
        await first.show("for one")
        await one.shows("for one")
        assert not [d for d in two.displays() if "for one" in json.dumps(d)]
        assert {p.user_id for p in cloud.hub.users_of("a")} == {"u1@x.io", "u2@x.io"}


async def test_a_changed_setting_reaches_the_live_app_followed_by_the_repair(cloud: Cloud) -> None:
    schema = ({"key": "lang", "type": "text", "label": "Language", "defaultValue": "en"},)
    async with FakeApp("a", "k") as app, phone(cloud, "C") as glasses:
        await register(cloud, app, settings=schema)
        await cloud.store.install_app(USER, "a")
        await glasses.start_app("a")
        session = await app.started(USER)
        assert session.of("tpa_connection_ack")[0]["settings"][0]["value"] == "en"
        reply = await glasses.rest("POST", "/appsettings/a", {"key": "lang", "value": "de"})
        assert reply.status_code == 200
        await until(lambda: session.of("augmentos_settings_update"), "the repair")
        assert session.of("settings_update")[0]["settings"][0]["value"] == "de"


async def test_typed_words_become_interim_and_final_transcripts(cloud: Cloud) -> None:
    streams = ("transcription:en-US", "transcription", "transcription:en-US?hints=de", "VAD")
    async with FakeApp("a", "k", *streams) as app, phone(cloud) as glasses:
        await register(cloud, app, "MICROPHONE")
        await glasses.start_app("a")
        session = await app.started(USER)
        await subscribed(cloud, "a")
        assert cloud.hub.say(USER, "where is the station", "en-US")
        for stream in streams[:3]:
            await until(lambda s=stream: len(session.events(s)) == 2, f"events of {stream}")  # type: ignore[misc]
            assert [e["isFinal"] for e in session.events(stream)] == [False, True]
            assert session.events(stream)[1]["text"] == "where is the station"
        await until(lambda: [e["status"] for e in session.events("VAD")] == [True, False], "voice")


@pytest.mark.failure("AUD-03")
async def test_lc3_is_decoded_however_it_is_cut(cloud: Cloud) -> None:
    import lc3

    encoder = lc3.Encoder(10_000, 16_000)
    tone = b"".join(
        int(8000 * ((n // 20) % 2 * 2 - 1)).to_bytes(2, "little", signed=True) for n in range(16_000)
    )
    coded = b"".join(bytes(encoder.encode(tone[i : i + 320], 20, 16)) for i in range(0, len(tone), 320))
    async with FakeApp("a", "k", "audio_chunk") as app, phone(cloud, "C") as glasses:
        await register(cloud, app, "MICROPHONE")
        await glasses.start_app("a")
        session = await app.started(USER)
        await until(lambda: glasses.microphone, "microphone on")
        assert (await glasses.configure_lc3(20)).status_code == 200
        cut = 0
        for size in (1, 19, 20, 33, 47, 200, 7, 1000):
            await glasses.send_raw(coded[cut : cut + size])
            cut += size
        whole = cut // 20 * 320
        await until(lambda: len(b"".join(session.binary)) == whole, "every whole frame")
        heard = b"".join(session.binary)
        assert (
            max(abs(int.from_bytes(heard[i : i + 2], "little", signed=True)) for i in range(0, whole, 2))
            > 4000
        )


@pytest.mark.failure("SEC-14")
async def test_a_revoked_credential_ends_its_connection(cloud: Cloud) -> None:
    token = cloud.verifier.mint_core_token(USER, token_id="t1")
    async with FakePhone(cloud.url, USER, token, "T") as glasses:
        await glasses.next("connection_ack")
        cloud.hub.token_revoked(USER, "other")
        assert glasses.closed is None
        cloud.hub.token_revoked(USER, "t1")
        await glasses.next("auth_error")
        await until(lambda: glasses.closed is not None, "closed")
        assert glasses.closed == (1008, "credential revoked")


@pytest.mark.failure("CON-14")
@pytest.mark.failure("PRO-03")
async def test_sessions_end_after_their_grace_and_leave_nothing_behind(tmp_path: Path) -> None:
    async with running(tmp_path, sessions__grace=0.3) as cloud, FakeApp("a", "k", "audio_chunk") as app:
        await register(cloud, app, "MICROPHONE")
        for number in range(10):
            user = f"user{number}@x.io"
            glasses = phone(cloud, user=user)
            await glasses.connect()
            await glasses.start_app("a")
            await app.started(user)
            await glasses.drop()
            await glasses.close()
        await until(lambda: cloud.hub.session_count == 0, "no session")
        await until(lambda: not cloud.listener.connections, "no socket")
        await until(lambda: len(app.requests("stop_request")) == 10, "every app was told")
        await until(lambda: len(cloud.hub.tasks) == 0, "no task")
        assert {w["reason"] for w in app.requests("stop_request")} == {"system_stop"}
        assert not cloud.hub.sockets.open
        assert not cloud.hub.sockets._alive
        assert not cloud.hub.sockets._counted
        assert await cloud.store.list_sessions() == []
        assert await cloud.store.get_wanted_apps("user3@x.io") == ["a"]


@pytest.mark.failure("PRO-01")
async def test_a_bug_in_one_session_ends_that_session_alone(
    cloud: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeApp("a", "k") as app, phone(cloud) as good, phone(cloud, user="bad@x.io") as bad:
        await register(cloud, app)
        for glasses in (good, bad):
            await glasses.start_app("a")
        await app.started(USER)
        victim = await app.started("bad@x.io")

        def bug(now: float) -> list[object]:
            raise ZeroDivisionError

        cloud.hub.feed(cloud.hub._sessions["bad@x.io"], bug)  # type: ignore[arg-type]
        await until(
            lambda: bad.closed is not None and victim.closed is not None, "the broken session is closed"
        )
        assert bad.closed == (1011, "Internal server error")
        assert cloud.hub.user_ids() == [USER]
        assert (await cloud.hub.stop_app(USER, "a")).ok
        assert good.closed is None
    assert "session of user" in caplog.text
    assert "bad@x.io" not in caplog.text


@pytest.mark.failure("LIV-06")
async def test_an_app_that_does_not_read_costs_neither_memory_nor_the_others(cloud: Cloud) -> None:
    async with FakeApp("slow", "k", "audio_chunk") as slow, FakeApp("quick", "k", "audio_chunk") as quick:
        for app in (slow, quick):
            await register(cloud, app, "MICROPHONE")
        async with phone(cloud) as glasses:
            for app in (slow, quick):
                await glasses.start_app(app.package)
            stuck, lively = await slow.started(USER), await quick.started(USER)
            await until(lambda: glasses.microphone, "microphone on")
            assert stuck.socket is not None
            stuck.socket.transport.pause_reading()
            sent = 0
            for _ in range(10):  # below the rate limit of audio frames
                await glasses.say(bytes(30_000) * 30, 30_000)
                sent += 900_000
                await until(lambda n=sent: len(b"".join(lively.binary)) == n, "the reader has it all")  # type: ignore[misc]
            buffered = sum(c.buffered_bytes for c in cloud.listener.connections)
            assert buffered < 4 << 20
            stuck.socket.transport.resume_reading()


@pytest.mark.failure("MED-01")
async def test_a_photo_that_cannot_be_taken_fails_at_the_app_s_own_route(cloud: Cloud) -> None:
    async with FakeApp("a", "k") as app, phone(cloud) as glasses:
        await register(cloud, app, "CAMERA")
        await glasses.start_app("a")
        session = await app.started(USER)
        await session.send("photo_request", packageName="a", requestId="p1")
        asked = await glasses.next("photo_request")
        assert (asked["appId"], asked["webhookUrl"]) == ("a", f"{app.url}/photo-upload")
        await glasses.send(
            "photo_response", requestId="p1", success=False, error={"code": "BUSY", "message": "b"}
        )
        await until(lambda: app.photos, "the failure")
        assert app.photos[0] == {
            "requestId": "p1",
            "type": "photo_error",
            "success": "false",
            "errorCode": "BUSY",
            "errorMessage": "b",
        }


async def test_metrics_and_health_answer_on_the_same_port(cloud: Cloud) -> None:
    async with phone(cloud) as glasses, httpx.AsyncClient(base_url=cloud.url) as http:
        await glasses.next("connection_ack")
        assert (await http.get("/health")).json()["status"] == "ok"
        assert (await http.get("/livez")).status_code == 200
        assert (await http.get("/readyz")).status_code == 200
        text = (await http.get("/metrics")).text
        assert "glassbridge_sessions_alive 1" in text
        assert USER not in text


@pytest.mark.failure("CON-13")
async def test_a_client_that_hammers_is_told_when_to_come_back(cloud: Cloud) -> None:
    glasses = phone(cloud)
    refused = None
    for _ in range(40):
        try:
            await glasses.connect()
        except InvalidStatus as error:
            refused = error.response
            break
        await glasses.drop()
    assert refused is not None
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    await glasses.close()
