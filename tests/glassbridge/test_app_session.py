"""A session of the Python app client, over a real WebSocket: connect, events, sends, loss, end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from glassbridge.app import App, AudioChunk, ButtonPress, NotConnected, Session, SessionState, Transcription
from glassbridge.app import session as session_module
from tests.support.app_cloud import PATIENCE, app_cloud
from tests.support.waiting import until
from wire.backoff import BackoffPolicy


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real reconnects, a hundred times faster."""
    monkeypatch.setattr(session_module, "POLICY", BackoffPolicy(0.01, 2.0, 0.05, 0.0))


def make_app() -> App:
    return App("org.example.test", api_key="key", port=0)


async def test_a_session_greets_announces_its_streams_and_shows_text() -> None:
    app = make_app()

    @app.on_session
    async def on_session(session: Session) -> None:
        session.events.on_button_press(lambda _: None)
        session.events.on_transcription(lambda _: None, language="de-DE", hints=["fr"])
        await session.layouts.show_text_wall("hello", duration=3)

    async with app_cloud(app) as cloud:
        connection, reply = await cloud.start()
        assert reply.json() == {"status": "success"}
        assert connection.init["apiKey"] == "key"
        assert connection.init["sessionId"] == "anna@example.com-org.example.test"
        display = await connection.next("display_event")
        assert display["layout"] == {"layoutType": "text_wall", "text": "hello"}
        assert display["durationMs"] == 3000
        assert (await connection.next("subscription_update"))["subscriptions"] == [
            "button_press",
            "transcription:de-DE?hints=fr",
        ]


async def test_events_reach_their_handlers_typed_and_in_order() -> None:
    app = make_app()
    heard: list[Any] = []

    @app.on_session
    async def on_session(session: Session) -> None:
        session.events.on_button_press(heard.append)
        session.events.on_transcription(heard.append)
        session.events.on_audio(heard.append)

    async with app_cloud(app) as cloud:
        connection, _ = await cloud.start()
        await connection.event(
            "button_press", {"type": "button_press", "buttonId": "main", "pressType": "short"}
        )
        await connection.event(
            "transcription:en-US", {"text": "hi", "isFinal": True, "transcribeLanguage": "en-US"}
        )
        await until(lambda: len(heard) == 2, "the app has caught up")
        await connection.socket.send(b"\x01\x00" * 160)
        await until(lambda: len(heard) == 3, "the app has caught up")
    press, words, audio = heard
    assert isinstance(press, ButtonPress)
    assert press.press_type == "short"
    assert isinstance(words, Transcription)
    assert (words.text, words.is_final) == ("hi", True)
    assert audio == AudioChunk(b"\x01\x00" * 160)
    assert audio.duration == pytest.approx(0.01)


async def test_other_glasses_are_told_once_with_what_they_can_do() -> None:
    app = make_app()
    told: list[Any] = []

    @app.on_session
    async def on_session(session: Session) -> None:
        session.on_capabilities(told.append)

    async with app_cloud(app) as cloud:
        connection, _ = await cloud.start()
        for capabilities in ({"hasCamera": True}, {"hasCamera": True}, None, {"hasCamera": False}):
            update = {"type": "capabilities_update", "sessionId": "s", "capabilities": capabilities}
            await connection.send(update | {"modelName": None})
        await until(lambda: told[-1:] == [{"hasCamera": False}], "the app has caught up")
    assert told == [{"hasCamera": True}, None, {"hasCamera": False}]


@pytest.mark.failure("CON-04")
async def test_after_a_reconnect_everything_outbound_uses_the_new_connection() -> None:
    app = make_app()
    sessions: list[Session] = []

    @app.on_session
    async def on_session(session: Session) -> None:
        sessions.append(session)
        session.events.on_button_press(lambda _: None)

    async with app_cloud(app) as cloud:
        first, _ = await cloud.start()
        await first.socket.close(1012, "service restart")
        second = await cloud.connection()
        assert second.init["type"] == "tpa_connection_init"
        assert (await second.next())["subscriptions"] == ["button_press"]
        session = sessions[0]
        await session.layouts.show_text_wall("again")
        await session.layouts.clear()
        await session.dashboard.write("line")
        await session.led.on("green")
        await session.audio.stop()
        await session.peers.broadcast({"a": 1})
        await session.peers.join("room")
        kinds = [(await second.next())["type"] for _ in range(7)]
        assert kinds == [
            "display_event", "display_event", "dashboard_content_update", "rgb_led_control",
            "audio_stop_request", "app_broadcast_message", "app_room_join",
        ]  # fmt: skip
        photo = asyncio.create_task(session.camera.take_photo())
        assert (await second.next())["type"] == "photo_request"
        play = asyncio.create_task(session.audio.play("http://a/b.mp3"))
        request = await second.next("audio_play_request")
        await second.send(
            {
                "type": "audio_play_response",
                "sessionId": "s",
                "requestId": request["requestId"],
                "success": True,
            }
        )
        assert (await play).success
        photo.cancel()
        assert len(sessions) == 1, "on_session runs once per session, not per connection"


@pytest.mark.failure("CON-04")
async def test_a_send_without_a_connection_fails_loudly() -> None:
    app = make_app()
    sessions: list[Session] = []
    lost = asyncio.Event()

    @app.on_session
    async def on_session(session: Session) -> None:
        sessions.append(session)
        session.on_disconnected(lambda _: lost.set())

    async with app_cloud(app) as cloud:
        connection, _ = await cloud.start()
        cloud.accepting = False
        await connection.socket.close(1012, "")
        await lost.wait()
        with pytest.raises(NotConnected, match="reconnecting"):
            await sessions[0].layouts.show_text_wall("nobody hears this")
        cloud.accepting = True
        await cloud.connection()
        await until(lambda: sessions[0].connected, "the app has caught up")


@pytest.mark.failure("APP-10")
async def test_a_failing_handler_ends_its_own_session_only() -> None:
    app = make_app()
    stops: list[tuple[str, str]] = []

    @app.on_session
    async def on_session(session: Session) -> None:
        async def pressed(event: ButtonPress) -> None:
            if session.user_id == "bad@example.com":
                raise ValueError("boom")
            await session.layouts.show_text_wall("fine")

        session.events.on_button_press(pressed)

    @app.on_stop
    async def on_stop(session: Session, reason: str) -> None:
        stops.append((session.user_id, reason))

    press = {"type": "button_press", "buttonId": "main", "pressType": "short"}
    async with app_cloud(app) as cloud:
        good, _ = await cloud.start("good@example.com")
        bad, _ = await cloud.start("bad@example.com")
        await bad.event("button_press", press)
        await bad.socket.wait_closed()
        assert bad.socket.close_code == 1011
        assert stops == [("bad@example.com", "a handler failed: ValueError")]
        await good.event("button_press", press)
        assert (await good.next("display_event"))["layout"]["text"] == "fine"
        assert len(app.sessions) == 1


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, "App stopped"), (1001, ""), (1008, "Invalid API key"), (1011, "User session ended"), (4409, "")],
)
async def test_a_final_close_ends_the_session_and_calls_on_stop_once(code: int, reason: str) -> None:
    app = make_app()
    stops: list[str] = []

    @app.on_session
    async def on_session(session: Session) -> None:
        pass

    @app.on_stop
    async def on_stop(session: Session, why: str) -> None:
        stops.append(why)

    async with app_cloud(app) as cloud:
        connection, _ = await cloud.start()
        session = app.sessions[0]
        await connection.socket.close(code, reason)
        async with asyncio.timeout(PATIENCE):
            await session.wait_ended()
        assert session.state is SessionState.ENDED
        assert len(stops) == 1
        assert app.sessions == ()


async def test_the_stop_webhook_lets_on_stop_say_good_bye_while_connected() -> None:
    app = make_app()

    @app.on_session
    async def on_session(session: Session) -> None:
        pass

    @app.on_stop
    async def on_stop(session: Session, reason: str) -> None:
        await session.layouts.show_text_wall(f"bye: {reason}")

    async with app_cloud(app) as cloud:
        connection, _ = await cloud.start()
        assert (await cloud.stop()).json() == {"status": "success"}
        assert (await connection.next("display_event"))["layout"]["text"] == "bye: user_disabled"
        await connection.socket.wait_closed()
        assert app.sessions == ()


async def test_settings_are_replaced_whole_and_changes_are_told() -> None:
    app = make_app()
    changes: list[Any] = []

    @app.on_session
    async def on_session(session: Session) -> None:
        session.settings.on_change("lang", changes.append)

    async with app_cloud(app) as cloud:
        cloud.ack = {
            "type": "tpa_connection_ack",
            "sessionId": "s",
            "settings": [{"key": "lang", "value": "en"}],
            "mentraosSettings": {"brightness": 50},
        }
        connection, _ = await cloud.start()
        session = app.sessions[0]
        assert session.settings.get("lang") == "en"
        assert session.settings.system == {"brightness": 50}
        await connection.send(
            {
                "type": "settings_update",
                "packageName": "p",
                "sessionId": "s",
                "settings": [{"key": "lang", "value": "de"}],
            }
        )
        await until(lambda: changes == [("de", "en")], "the app has caught up")


async def test_device_state_keeps_absent_keys_until_a_full_snapshot() -> None:
    app = make_app()

    @app.on_session
    async def on_session(session: Session) -> None:
        pass

    async with app_cloud(app) as cloud:
        connection, _ = await cloud.start()
        session = app.sessions[0]
        for state, full in (({"batteryLevel": 80, "connected": True}, True), ({"batteryLevel": 79}, False)):
            await connection.send(
                {"type": "device_state_update", "sessionId": "s", "state": state, "fullSnapshot": full}
            )
        await until(
            lambda: session.device == {"batteryLevel": 79, "connected": True}, "the app has caught up"
        )


@pytest.mark.parametrize(
    "garbage",
    ["not json", "[]", "null", '{"no":"type"}', '{"type":"from_the_future"}', '{"type":"data_stream"}'],
)
async def test_garbage_from_the_cloud_disturbs_nothing(garbage: str) -> None:
    app = make_app()
    heard: list[Any] = []

    @app.on_session
    async def on_session(session: Session) -> None:
        session.events.on_head_position(heard.append)

    async with app_cloud(app) as cloud:
        connection, _ = await cloud.start()
        await connection.socket.send(garbage)
        await connection.event("head_position", {"position": "sideways"})
        await connection.event("head_position", {"position": "up"})
        await until(lambda: heard, "the app has caught up")
        assert len(heard) == 1
        assert app.sessions[0].events.invalid == 1


async def test_an_app_that_nobody_acknowledges_fails_its_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app()

    @app.on_session
    async def on_session(session: Session) -> None:
        pytest.fail("on_session must not run without an acknowledgement")

    async with app_cloud(app) as cloud:
        cloud.refusal = (1008, "Invalid API key")
        reply = await cloud.post("/webhook", cloud.session_request())
        assert reply.status_code == 500
        assert app.sessions == ()


async def test_every_skips_rounds_without_a_connection_and_ends_with_the_session() -> None:
    app = make_app()
    rounds = 0

    @app.on_session
    async def on_session(session: Session) -> None:
        async def tick() -> None:
            nonlocal rounds
            rounds += 1
            await session.layouts.show_text_wall(str(rounds))

        session.every(0.01, tick)

    async with app_cloud(app) as cloud:
        first, _ = await cloud.start()
        await first.next("display_event")
        await first.socket.close(1012, "")
        second = await cloud.connection()
        await second.next("display_event")
    assert app.sessions == ()


async def test_audio_faster_than_its_handler_drops_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app()
    gate = asyncio.Event()
    heard: list[bytes] = []

    @app.on_session
    async def on_session(session: Session) -> None:
        async def slow(chunk: AudioChunk) -> None:
            await gate.wait()
            heard.append(chunk.pcm)

        session.events.on_audio(slow)

    async with app_cloud(app) as cloud:
        connection, _ = await cloud.start()
        session = app.sessions[0]
        total = session_module.AUDIO_MAX + 20
        for number in range(total):
            await connection.socket.send(number.to_bytes(2, "little"))
        await until(lambda: session.audio_dropped >= 19, "the app has caught up")
        gate.set()
        await until(lambda: heard and heard[-1] == (total - 1).to_bytes(2, "little"), "the app has caught up")
