"""The Python app client against the real cloud: the same rows as the TypeScript SDK, told in Python.

The number in a name is the row of the wire specification's Appendix D. Rows of phones alone (22, T, B) and of SDK habits
(batched storage, `fetch`, its https rule for speech) have no part here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from cloud.auth import hash_api_key
from glassbridge.app import App, PhotoFailed, Session, StreamFailed, ToolCall
from tests.interop.driver import Report, SdkApp
from tests.interop.rows import JPEG, tone, upload_photo
from tests.interop.world import API_KEY, G1, LIVE, PACKAGE, SESSION_GRACE, World, stays
from tests.support.fake_phone import FakePhone, Generation
from tests.support.waiting import SLOW, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

Tell = Callable[[str, Any], None]
Hook = Callable[[Session, Tell], Awaitable[None]]


async def _nothing(session: Session, tell: Tell) -> None:
    pass


class PythonApp:
    """An app of `glassbridge.app` in this process; what happens in it is kept as reports."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reports: list[Report] = []
        self.hook: Hook = _nothing
        self.app: App
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        self.app = App(PACKAGE, api_key=API_KEY, port=self.port)

        @self.app.on_session
        async def begun(session: Session) -> None:
            def tell(event: str, data: Any) -> None:
                self._report(event, session, data)

            session.on_error(lambda words: tell("error", words))
            session.on_disconnected(lambda reason: tell("disconnected", reason))
            session.on_reconnected(lambda _: tell("reconnected", None))
            tell("onSession", {"user": session.user_id, "settings": session.settings.all()})
            await self.hook(session, tell)
            tell("onSession:done", None)

        @self.app.on_stop
        async def ended(session: Session, reason: str) -> None:
            self._report("onStop", session, {"reason": reason, "user": session.user_id})

        @self.app.on_tool
        async def tool(call: ToolCall) -> Any:
            self._report("tool", call.session, call.parameters)
            return call.parameters["a"] + 1

        await self._stack.enter_async_context(self.app.serving())

    async def close(self) -> None:
        await self._stack.aclose()

    def _report(self, event: str, session: Session | None, data: Any) -> None:
        self.reports.append(
            Report(event, session.session_id if session else None, data, int(time.time() * 1000))
        )

    def session(self, session_id: str) -> Session:
        return next(s for s in self.app.sessions if s.session_id == session_id)


class PythonWorld(World):
    """The world of the other rows with a Python app in the place of the Node process."""

    def __init__(self, folder: Path) -> None:
        super().__init__("2.1.29", folder)
        self.unused: SdkApp = self.app  # its port is the one that the record names
        self.python = PythonApp(self.app.port)

    async def open(self) -> None:
        await self.python.start()
        try:
            await self.start_cloud()
            await self.cloud.store.put_app(self.record)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await self.python.close()
        await super().close()

    @asynccontextmanager
    async def running(
        self, hook: Hook = _nothing, generation: Generation = "C", model: str = G1
    ) -> AsyncIterator[Running]:
        """A wearer with the app running; `hook` is what its `on_session` does."""
        self.python.hook = hook
        try:
            async with self.wearer(generation, model=model) as phone:
                live = Running(self, phone)
                await live.start()
                yield live
        finally:
            self.python.hook = _nothing
            await until(lambda: not self.python.app.sessions, "every session ended")


class Running:
    """One wearer's session, seen from the phone and from inside the app."""

    def __init__(self, world: PythonWorld, phone: FakePhone) -> None:
        self.world, self.phone = world, phone
        self.sid = f"{phone.user}-{PACKAGE}"

    @property
    def session(self) -> Session:
        return self.world.python.session(self.sid)

    async def start(self) -> None:
        since = self.mark()
        await self.phone.start_app(PACKAGE)
        await self.event("onSession:done", since=since, within=8)

    def mark(self) -> int:
        return len(self.world.python.reports)

    def seen(self, event: str, since: int = 0) -> list[Any]:
        return [
            r.data for r in self.world.python.reports[since:] if r.event == event and r.session == self.sid
        ]

    async def event(self, event: str, *, since: int = 0, within: float = 5.0) -> Any:
        """What the first report of that name says."""
        return (await until(lambda: self.seen(event, since)[:1], f"app event {event!r}", within))[0]

    async def subscribed(self, *names: str, since: int = 0) -> None:
        def holds() -> bool:
            for message in reversed(
                [r.message for r in self.phone.received[since:] if "userSession" in r.message]
            ):
                held = message["userSession"]["appSubscriptions"].get(PACKAGE, [])
                return set(names) <= {e if isinstance(e, str) else e["stream"] for e in held}
            return False

        await until(holds, f"subscriptions {names}")

    def cut(self) -> None:
        """The connection breaks without a word."""
        assert self.session._socket is not None
        self.session._socket.transport.abort()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PythonWorld]:
    world = PythonWorld(Path(tmp_path_factory.mktemp("cloud")))
    await world.open()
    yield world
    await world.close()


async def test_row_01_start_connects_acknowledges_and_lists_it(world: PythonWorld) -> None:
    async with world.running(generation="A") as live:
        told = await live.event("onSession")
        assert told == {"user": live.phone.user, "settings": {"lang": "en", "big": True}}
        assert (live.session.capabilities or {})["modelName"] == G1
        await until(lambda: PACKAGE in live.phone.running(), "the app in userSession")
        assert await world.app_health() == 1


async def test_rows_02_and_04_speech_switches_the_microphone_on_and_comes_by_language(
    world: PythonWorld,
) -> None:
    async def hook(session: Session, tell: Tell) -> None:
        session.events.on_transcription(lambda words: tell("english", (words.text, words.is_final)))
        session.events.on_transcription(lambda words: tell("french", words.text), language="fr-FR")
        session.events.on_transcription(
            lambda words: tell("hints", words.text), hints=["es-ES", "fr-FR"], identify_language=False
        )
        session.events.on("transcription", lambda data: tell("bare", data["text"]))

    async with world.running(hook) as live:
        change = await live.phone.next("microphone_state_change", where=lambda m: m["isMicrophoneEnabled"])
        assert change["requiredData"] == ["pcm"]
        world.cloud.hub.say(live.phone.user, "hello world", "en-US")
        await until(lambda: ("hello world", True) in live.seen("english"), "the final text")
        assert await live.event("hints") == await live.event("bare") == "hello world"
        assert not live.seen("french")
        world.cloud.hub.say(live.phone.user, "bonjour", "fr-FR")
        await until(lambda: "bonjour" in live.seen("french"), "the French text")
        assert all("bonjour" not in text for text, _ in live.seen("english"))


async def test_rows_03_and_23_audio_arrives_byte_by_byte_the_same(world: PythonWorld) -> None:
    async def hook(session: Session, tell: Tell) -> None:
        session.events.on_audio(lambda chunk: tell("audio", chunk.pcm))

    async with world.running(hook) as live:
        await live.subscribed("audio_chunk")
        sent = tone(1.0)
        await live.phone.say(sent)
        await until(lambda: len(b"".join(live.seen("audio"))) >= len(sent), "one second of audio")
        assert b"".join(live.seen("audio")) == sent
        assert live.session.audio_dropped == 0


async def test_row_05_every_event_of_a_phone_reaches_its_handler(world: PythonWorld) -> None:
    async def hook(session: Session, tell: Tell) -> None:
        events = session.events
        events.on_button_press(lambda e: tell("button", (e.button_id, e.press_type)))
        events.on_head_position(lambda e: tell("head", e.position))
        events.on_touch(lambda e: tell("touch", e.gesture_name))
        events.on_touch(lambda e: tell("double", e.gesture_name), "double_tap")
        events.on_touch(lambda e: tell("triple", e.gesture_name), "triple_tap")
        events.on_battery(lambda e: tell("battery", (e.level, e.charging)))
        events.on_phone_battery(lambda e: tell("phone battery", e.level))
        events.on_notification(lambda e: tell("notification", e.title))
        events.on_notification_dismissed(lambda e: tell("dismissed", e.notification_key))
        events.on_location(lambda e: tell("location", (e.lat, e.lng)))
        events.on_calendar_event(lambda e: tell("calendar", e.title))
        events.on_voice_activity(lambda e: tell("vad", e.status))
        events.on_connection_state(lambda e: tell("glasses", e.status))
        events.on("vps_coordinates", lambda data: tell("vps", data["x"]))

    async with world.running(hook, "A") as live:
        phone = live.phone
        await live.subscribed("vps_coordinates", "VAD", "calendar_event", "touch_event:double_tap")
        await phone.send("button_press", buttonId="main", pressType="short")
        await phone.send("head_position", position="up")
        await phone.send("touch_event", device_model=G1, gesture_name="double_tap")
        await phone.send("glasses_battery_update", level=85, charging=False, timeRemaining=120)
        await phone.send("phone_battery_update", level=70, charging=True)
        await phone.send(
            "phone_notification", notificationId="n", app="Mail", title="T", content="C", priority="normal"
        )
        await phone.send(
            "phone_notification_dismissed", notificationId="n", notificationKey="k", packageName="p"
        )
        await phone.send("location_update", lat=37.1, lng=-122.1, accuracy=12.5)
        await phone.send(
            "calendar_event", title="t", eventId="e", dtStart="1", dtEnd="2", timeZone="Europe/Berlin"
        )
        await phone.send("VAD", status="true")
        await phone.send("glasses_connection_state", modelName=G1, status="CONNECTED")
        await phone.send(
            "vps_coordinates",
            deviceModel="x",
            requestId="r",
            x=1,
            y=2,
            z=3,
            qx=0,
            qy=0,
            qz=0,
            qw=1,
            confidence=1,
        )
        expected = {
            "button": ("main", "short"), "head": "up", "touch": "double_tap", "double": "double_tap",
            "battery": (85, False), "phone battery": 70, "notification": "T", "dismissed": "k",
            "location": (37.1, -122.1), "calendar": "t", "glasses": "CONNECTED", "vps": 1,
        }  # fmt: skip
        assert {event: await live.event(event) for event in expected} == expected
        assert await live.event("vad") in (True, "true")
        assert not live.seen("triple")
        assert live.session.events.invalid == 0


async def test_rows_06_and_07_layouts_arrive_throttled_and_end_in_time(world: PythonWorld) -> None:
    async with world.running() as live:
        await asyncio.sleep(1.6)  # the boot screen is over
        layouts, since = live.session.layouts, live.phone.mark()
        for number in range(10):
            await layouts.show_text_wall(f"line {number}")
        await live.phone.shows("line 9", since=since)
        assert len(live.phone.displays(since)) <= 3
        picture = Image.new("1", (100, 100), 1)
        shows: dict[str, Callable[[], Awaitable[None]]] = {
            "double_text_wall": lambda: layouts.show_double_text_wall("top", "bottom"),
            "reference_card": lambda: layouts.show_reference_card("Title", "Body"),
            "dashboard_card": lambda: layouts.show_dashboard_card("L", "R", view="main"),
            "bitmap_view": lambda: layouts.show_bitmap(picture),
            "bitmap_animation": lambda: layouts.show_bitmap_animation([picture, picture], interval=1.65),
            "clear_view": layouts.clear,
        }
        for kind, show in shows.items():
            since = live.phone.mark()
            await show()
            await live.phone.shows(f'"layoutType": "{kind}"', since=since)
        since = live.phone.mark()
        await layouts.show_text_wall("for a moment", duration=1)
        await live.phone.shows("for a moment", since=since)
        await until(lambda: live.phone.displays(since)[-1]["layout"].get("text", "") == "", "cleared again")
        await live.session.dashboard.write("always there")
        await live.phone.shows("always there", view="dashboard")


@pytest.mark.failure("APP-02")
async def test_row_08_a_restarted_app_server_gets_its_session_back_by_webhook(world: PythonWorld) -> None:
    async def hook(session: Session, tell: Tell) -> None:
        session.events.on_button_press(lambda e: tell("button", e.button_id))

    async with world.running(hook) as live:
        mark = live.mark()
        await world.python.close()
        assert await live.event("onStop", since=mark) == {
            "reason": "the app server stops",
            "user": live.phone.user,
        }
        await world.python.start()
        await live.event("onSession:done", since=mark, within=12)
        await live.subscribed("button_press")
        await live.phone.send("button_press", buttonId="after", pressType="short")
        assert await live.event("button", since=mark) == "after"


@pytest.mark.failure("SUB-01")
@pytest.mark.failure("CON-16")
async def test_row_09_a_broken_connection_heals_and_nothing_of_meanwhile_is_lost(world: PythonWorld) -> None:
    async def hook(session: Session, tell: Tell) -> None:
        session.events.on_audio(lambda chunk: None)
        session.events.on_button_press(lambda e: tell("button", e.button_id))

    async with world.running(hook) as live:
        await live.subscribed("button_press", "audio_chunk")
        since, mark = live.phone.mark(), live.mark()
        live.cut()
        pressed = [f"press {number}" for number in range(5)]
        for name in pressed:
            await live.phone.send("button_press", buttonId=name, pressType="short")
            await asyncio.sleep(0.05)
        await live.event("reconnected", since=mark, within=6)
        await until(lambda: set(pressed) <= set(live.seen("button", mark)), "all presses")
        assert list(dict.fromkeys(live.seen("button", mark))) == pressed
        assert all(m["isMicrophoneEnabled"] for m in live.phone.of("microphone_state_change", since))
        assert len(live.seen("onSession")) == 1
        assert not live.seen("onStop")


@pytest.mark.failure("APP-01")
async def test_row_10_a_stopped_app_ends_once_and_stays_stopped(world: PythonWorld) -> None:
    async with world.running() as live:
        await live.phone.stop_app(PACKAGE)
        assert (await live.event("onStop"))["reason"] == "user_disabled"
        await stays(lambda: len(live.seen("onStop")) == len(live.seen("onSession")) == 1, "ended once", 2.0)
        assert await world.app_health() == 0


@pytest.mark.failure("PRO-05")
async def test_row_11_a_session_survives_a_restart_of_the_cloud(world: PythonWorld) -> None:
    async def hook(session: Session, tell: Tell) -> None:
        session.events.on_button_press(lambda e: tell("button", e.button_id))

    async with world.running(hook) as live:
        await live.subscribed("button_press")
        await world.stop_cloud()
        await until(lambda: live.phone.closed is not None, "the phone told")
        await world.start_cloud()
        await live.phone.drop()
        since = live.phone.mark()
        await live.phone.connect()
        await live.phone.send("glasses_connection_state", modelName=G1, status="CONNECTED")
        await live.subscribed("button_press", since=since)
        await live.phone.send("button_press", buttonId="restarted", pressType="short")
        assert await live.event("button", within=10) == "restarted"


@pytest.mark.failure("CON-14")
async def test_rows_12_and_13_glasses_may_be_away_for_the_grace_and_no_longer(world: PythonWorld) -> None:
    async with world.running() as live:
        await live.phone.drop()
        await asyncio.sleep(SESSION_GRACE / 3)
        await live.phone.connect()
        await stays(
            lambda: not live.seen("onStop") and not live.seen("disconnected"), "undisturbed", SESSION_GRACE
        )
        mark = live.mark()
        await live.phone.drop()
        await live.event("onStop", since=mark, within=SESSION_GRACE + 3)
        await live.phone.connect()
        await live.event("onSession:done", since=mark, within=8)


@pytest.mark.failure("APP-18")
async def test_row_14_a_wrong_key_ends_the_session_and_the_start_fails(world: PythonWorld) -> None:
    async with world.changed_record(hashed_api_key=hash_api_key("another key")), world.wearer() as phone:
        reply = await phone.rest("POST", f"/apps/{PACKAGE}/start", timeout=15 * SLOW)
        assert reply.status_code >= 400 or reply.json()["success"] is False, reply.text
        await phone.rest("POST", f"/apps/{PACKAGE}/stop")
        assert not world.python.app.sessions


@pytest.mark.failure("PER-01")
async def test_row_15_changed_settings_reach_the_app(world: PythonWorld) -> None:
    async def hook(session: Session, tell: Tell) -> None:
        session.settings.on_change("lang", lambda change: tell("lang", change))
        session.settings.on_system_change("brightness", lambda change: tell("brightness", change))

    async with world.running(hook, "A") as live:
        before = live.session.settings.system["brightness"]
        await live.phone.rest("POST", f"/appsettings/{PACKAGE}", [{"key": "lang", "value": "de"}])
        assert await live.event("lang") == ("de", "en")
        assert live.session.settings.all() == {"lang": "de", "big": True}
        assert live.session.settings.system["brightness"] == before
        status = {
            "core_info": {}, "connected_glasses": {}, "glasses_settings": {"brightness": 33},
        }  # fmt: skip
        await live.phone.send("core_status_update", status={"status": status})
        assert await live.event("brightness") == (33, before)


@pytest.mark.failure("PER-04")
async def test_row_16_storage_survives_the_app(world: PythonWorld) -> None:
    async with world.running() as live:
        storage = live.session.storage
        await storage.set("k 1/ä", "v1")
        await storage.set_many({"k2": "v2", "k3": "v3"})
        assert await storage.delete("k3") is True
        assert await storage.delete("k3") is False
        await live.phone.stop_app(PACKAGE)
        await live.event("onStop")
        await live.start()
        assert await live.session.storage.all() == {"k 1/ä": "v1", "k2": "v2"}
        await live.session.storage.clear()
        assert await live.session.storage.get("k2", "gone") == "gone"


@pytest.mark.failure("MED-01")
async def test_row_17_a_photo_arrives_or_fails_soon(world: PythonWorld) -> None:
    async with world.running(generation="B", model=LIVE) as live:
        await live.phone.send(
            "glasses_connection_state",
            modelName=LIVE,
            status="CONNECTED",
            wifi={"connected": True, "ssid": "home"},
        )
        asked = asyncio.create_task(live.session.camera.take_photo(size="large", compress="heavy"))
        request = await live.phone.next("photo_request")
        assert (request["size"], request["compress"]) == ("large", "heavy")
        assert (await upload_photo(request["webhookUrl"], request["requestId"])).status_code == 200
        photo = await asked
        assert (photo.data, photo.content_type) == (JPEG, "image/jpeg")
        since = live.phone.mark()
        refused = asyncio.create_task(live.session.camera.take_photo())
        request = await live.phone.next("photo_request", since=since)
        await live.phone.send(
            "photo_response", requestId=request["requestId"], success=False,
            error={"code": "CAMERA_BUSY", "message": "busy"},
        )  # fmt: skip
        with pytest.raises(PhotoFailed) as caught:
            await refused
        assert caught.value.code == "CAMERA_BUSY"


async def test_video_goes_to_the_app_s_own_server_or_is_refused_with_the_reason(world: PythonWorld) -> None:
    async def hook(session: Session, tell: Tell) -> None:
        session.on_stream_status(lambda status: tell("stream", [status.stream_id, status.status]))

    async with world.running(hook, generation="B", model=LIVE) as live:
        camera = live.session.camera
        assert await camera.stream() is None
        began = asyncio.create_task(camera.start_stream("rtmp://127.0.0.1/live", video={"width": 1280}))
        request = await live.phone.next("start_rtmp_stream")
        assert request["video"] == {"width": 1280}
        stream_id = await began
        assert request["streamId"] == stream_id
        await live.phone.send("rtmp_stream_status", streamId=stream_id, status="streaming")
        await until(lambda: live.seen("stream")[-1:] == [[stream_id, "active"]], "the stream runs")
        running = await camera.stream()
        assert running is not None
        assert (running.stream_id, running.status, running.url) == (
            stream_id,
            "active",
            "rtmp://127.0.0.1/live",
        )
        await camera.stop_stream(stream_id)
        await live.phone.next("stop_rtmp_stream")
        await until(lambda: live.seen("stream")[-1:] == [[stream_id, "stopped"]], "the stream has ended")
        with pytest.raises(StreamFailed, match="rtmp"):
            await camera.start_stream("https://example.com/live")


async def test_the_wearer_is_asked_for_a_wifi(world: PythonWorld) -> None:
    async with world.running(generation="B", model=LIVE) as live:
        await live.session.request_wifi_setup("for the video")
        asked = await live.phone.next("show_wifi_setup")
        assert (asked["reason"], asked["appPackageName"]) == ("for the video", PACKAGE)


@pytest.mark.failure("CON-11")
@pytest.mark.failure("CON-12")
async def test_row_21_a_hyphenated_user_in_capitals_is_one_user(world: PythonWorld) -> None:
    user = "jean-luc.multi-hyphen@sub-domain.inter-op.example"
    token = world.tokens.mint_core_token("Jean-Luc.Multi-Hyphen@Sub-Domain.Inter-Op.example")
    async with FakePhone(world.url, user, token) as phone:
        await phone.next("connection_ack")
        live = Running(world, phone)
        await live.start()
        assert live.session.user_id == user
        await live.session.layouts.show_text_wall("hyphens")
        await live.phone.shows("hyphens")
        await live.session.storage.set("a-b", "c-d")
        assert await live.session.storage.get("a-b") == "c-d"
        await live.session.dashboard.write("dash - board")
        await live.phone.shows("dash - board", view="dashboard")
        await live.phone.stop_app(PACKAGE)
        await live.event("onStop")


async def test_row_18_sound_is_played_spoken_and_stopped(world: PythonWorld) -> None:
    async with world.running(generation="B") as live:
        audio, since = live.session.audio, live.phone.mark()
        playing = asyncio.create_task(audio.play("http://127.0.0.1/b.mp3", volume=0.5))
        request = await live.phone.next("audio_play_request")
        assert (request["packageName"], request["audioUrl"], request["volume"]) == (
            PACKAGE,
            "http://127.0.0.1/b.mp3",
            0.5,
        )
        await live.phone.send(
            "audio_play_response", requestId=request["requestId"], success=True, duration=1234
        )
        played = await playing
        assert (played.success, played.duration) == (True, 1234)
        speaking = asyncio.create_task(audio.speak("Hello there"))
        request = await live.phone.next(
            "audio_play_request", since=since, where=lambda m: "/api/tts" in m["audioUrl"]
        )
        await live.phone.send(
            "audio_play_response", requestId=request["requestId"], success=False, error="no speech"
        )
        assert (await speaking).error == "no speech"
        await audio.stop()
        assert (await live.phone.next("audio_stop_request"))["packageName"] == PACKAGE


async def test_row_19_the_latest_location_is_polled(world: PythonWorld) -> None:
    async with world.running(generation="B") as live:
        asked = asyncio.create_task(live.session.location.poll("realtime"))
        request = await live.phone.next("request_single_location")
        assert request["accuracy"] == "realtime"
        await live.phone.send(
            "location_update", lat=1.5, lng=2.5, accuracy=3, correlationId=request["correlationId"]
        )
        fix = await asked
        assert (fix.lat, fix.lng) == (1.5, 2.5)


@pytest.mark.failure("SEC-11")
async def test_row_20_a_web_view_knows_its_user_once(world: PythonWorld) -> None:
    async with world.running() as live:
        made = await live.phone.rest("POST", "/api/auth/generate-webview-token", {"packageName": PACKAGE})
        query = {"aos_temp_token": made.json()["token"]}
        assert await world.python.app.webview_user(query, cloud_url=world.url) == live.phone.user
        assert await world.python.app.webview_user(query, cloud_url=world.url) is None
        key = await live.phone.rest(
            "POST", "/api/auth/hash-with-api-key", {"stringToHash": live.phone.user, "packageName": PACKAGE}
        )
        good = f"{live.phone.user}:{key.json()['hash']}"
        assert await world.python.app.webview_user({"aos_frontend_token": good}) == live.phone.user
        assert (
            await world.python.app.webview_user(
                {"aos_frontend_token": f"eve@example.com:{key.json()['hash']}"}
            )
            is None
        )
        assert await world.python.app.webview_user({}) is None


@pytest.mark.failure("SEC-04")
async def test_row_24_what_a_newer_cloud_may_send_disturbs_nobody(world: PythonWorld) -> None:
    async def hook(session: Session, tell: Tell) -> None:
        session.events.on_button_press(lambda e: tell("button", e.button_id))

    async with world.running(hook) as live:
        await live.subscribed("button_press")
        socket = live.session._socket
        assert socket is not None
        for raw in (
            "",
            "null",
            "[]",
            "not json",
            '{"type":"hologram"}',
            '{"type":"subscription_update"}',
            b"binary",
        ):
            await socket.send(raw)
        await live.phone.send("button_press", buttonId="still alive", pressType="short")
        assert await live.event("button") == "still alive"
        assert not live.seen("disconnected")


async def test_tools_are_called_for_the_wearer(world: PythonWorld) -> None:
    async with world.running() as live, httpx.AsyncClient() as client:
        body = {"toolId": "add", "toolParameters": {"a": 41}, "userId": live.phone.user}
        reply = await client.post(f"{world.app.url}/tool", json=body)
        assert reply.json() == {"status": "success", "reply": 42}
        assert await live.event("tool") == {"a": 41}


async def test_two_wearers_talk_through_the_app(world: PythonWorld) -> None:
    async def hook(session: Session, tell: Tell) -> None:
        session.on_peer_message(lambda message: tell("peer", message.payload))

    async with world.running(hook) as anna, world.wearer() as phone:
        bert = Running(world, phone)
        world.python.hook = hook
        await bert.start()
        await anna.session.peers.broadcast({"text": "hello all"})
        assert await bert.event("peer") == {"text": "hello all"}
        assert await bert.session.peers.send(anna.phone.user, {"text": "hello you"}) is True
        assert await anna.event("peer") == {"text": "hello you"}
        assert await bert.session.peers.send("nobody@inter-op.example", "?") is False
