"""The rows of the wire specification's Appendix D that hold for every SDK generation, as test methods.

Rules: a test module subclasses `Rows` and gives it a `world`; the number in a name is the row's. Each test uses a user
of its own. What is expected stands in the specification; nothing here looks inside the cloud where a client can see it.
"""

from __future__ import annotations

import asyncio
import base64
import math
import struct
import time
from typing import Any

import httpx
import lc3
import pytest
from websockets.exceptions import InvalidStatus

from cloud.auth import hash_api_key
from tests.interop.world import (
    API_KEY,
    LIVE,
    PACKAGE,
    SESSION_GRACE,
    Live,
    World,
    nothing_alarming,
    stays,
)
from tests.support.fake_phone import FakePhone
from tests.support.waiting import SLOW, until

#: One picture that no decoder needs to like.
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8 + b"\xff\xd9"


def tone(seconds: float, hertz: float = 440.0) -> bytes:
    """PCM16 mono 16 kHz."""
    count = int(seconds * 16000)
    return struct.pack(
        f"<{count}h", *(int(12000 * math.sin(2 * math.pi * hertz * n / 16000)) for n in range(count))
    )


def rms(pcm: bytes) -> float:
    samples = struct.unpack(f"<{len(pcm) // 2}h", pcm)
    return math.sqrt(sum(s * s for s in samples) / max(len(samples), 1))


async def upload_photo(url: str, request_id: str, data: bytes = JPEG) -> httpx.Response:
    """What glasses do with a photo: straight to the app, over their own Wi-Fi."""
    async with httpx.AsyncClient() as client:
        return await client.post(
            url,
            data={"requestId": request_id, "success": "true", "type": "photo_upload"},
            files={"photo": (f"{request_id}.jpg", data, "image/jpeg")},
        )


class Rows:
    """See the module."""

    # ------------------------------------------------------------------------------------- rows 1 to 5: in

    async def test_row_01_start_app_connects_acknowledges_and_lists_it(self, world: World) -> None:
        async with world.wearer("A") as phone:
            live = Live(world, phone)
            with nothing_alarming(world.app):
                await live.start()
                told = (await live.event("onSession")).data
                await until(lambda: PACKAGE in phone.running(), "the app in userSession")
            assert told["userId"] == phone.user
            assert {s["key"]: s["value"] for s in told["settings"] if s["key"]} == {"lang": "en", "big": True}
            assert told["capabilities"]["modelName"] == "Even Realities G1"
            assert await world.app_health() >= 1

    async def test_row_02_a_transcription_handler_switches_the_microphone_on(self, world: World) -> None:
        async with world.live() as live:
            before = time.monotonic()
            await live.run("session.events.onTranscription(d => emit('text', d))")
            change = await live.phone.next(
                "microphone_state_change", where=lambda m: m["isMicrophoneEnabled"]
            )
            assert time.monotonic() - before < 0.2 * SLOW
            assert change["requiredData"] == ["pcm"]
            assert change["bypassVad"] in (True, False)

    async def test_row_03_audio_arrives_byte_by_byte_the_same(self, world: World) -> None:
        async with world.live() as live:
            await live.handler("session.events.onAudioChunk", "audio", "audio_chunk")
            sent = tone(1.0)
            await live.phone.say(sent)

            def heard() -> bytes:
                return b"".join(base64.b64decode(r.data["arrayBuffer"]["bytes"]) for r in live.seen("audio"))

            await until(lambda: len(heard()) >= len(sent), "one second of audio")
            assert heard() == sent
            # Surprises 15 and 20: an empty frame would be an error event, so it goes no further.
            mark = live.mark()
            await live.phone.send_raw(b"")
            await live.phone.say(tone(0.02))
            await live.event("audio", since=mark)
            assert not live.seen("error")

    async def test_row_04_speech_reaches_every_form_of_subscription_by_its_own_name(
        self, world: World
    ) -> None:
        code = """
            session.events.onTranscription(d => emit('default', d));
            session.on('transcription', d => emit('bare', d));
            session.events.onTranscriptionForLanguage('auto', d => emit('auto', d), {hints: ['es', 'fr']});
            session.on('transcription:en-US?no-language-identification=true&hints=es-ES%2Cfr-FR', d => emit('hints', d));
            session.events.onTranscriptionForLanguage('fr-FR', d => emit('french', d));
            session.on('*', d => emit('wildcard', d));
        """
        async with world.live(code) as live:
            await live.subscribed("transcription", "transcription:en-US", "transcription:fr-FR")
            world.cloud.hub.say(live.user, "hello world", "en-US")
            for event in ("default", "bare", "hints"):
                final = await live.event(event, where=lambda d: d["isFinal"])
                assert final.data["text"] == "hello world"
                assert final.data["transcribeLanguage"] == "en-US"
            assert not live.seen("french")
            # Surprise 6: the original sends base names, which a wildcard handler never gets. We send its own string.
            await live.event("wildcard", where=lambda d: d.get("text") == "hello world")
            world.cloud.hub.say(live.user, "bonjour", "fr-FR")
            await live.event("french", where=lambda d: d["isFinal"] and d["text"] == "bonjour")
            assert all(r.data["text"] != "bonjour" for r in live.seen("default") + live.seen("bare"))

    async def test_row_05_every_event_of_a_phone_reaches_its_handler(self, world: World) -> None:
        code = """
            session.events.onButtonPress(d => emit('button', d));
            session.events.onHeadPosition(d => emit('head', d));
            session.events.onTouchEvent(d => emit('touch', d));
            session.events.onTouchEvent('double_tap', d => emit('double', d));
            session.events.onTouchEvent('triple_tap', d => emit('triple', d));
            session.events.onGlassesBattery(d => emit('glasses battery', d));
            session.events.onPhoneBattery(d => emit('phone battery', d));
            session.events.onPhoneNotifications(d => emit('notification', d));
            session.events.onPhoneNotificationDismissed(d => emit('dismissed', d));
            session.events.onLocation(d => emit('location', d));
            session.events.onCalendarEvent(d => emit('calendar', d));
            session.events.onVoiceActivity(d => emit('vad', d));
            session.onGlassesConnectionState(d => emit('glasses', d));
            session.onVpsCoordinates(d => emit('vps', d));
        """
        async with world.live(code, "A") as live:
            phone = live.phone
            await live.subscribed("vps_coordinates", "VAD", "calendar_event", "touch_event:double_tap")
            await phone.send("button_press", buttonId="main", pressType="short")
            await phone.send("head_position", position="up")
            await phone.send("touch_event", device_model="Even Realities G1", gesture_name="double_tap")
            await phone.send("glasses_battery_update", level=85, charging=False, timeRemaining=120)
            await phone.send("phone_battery_update", level=70, charging=True)
            await phone.send(
                "phone_notification",
                notificationId="n1",
                app="Mail",
                title="T",
                content="C",
                priority="normal",
            )
            await phone.send(
                "phone_notification_dismissed", notificationId="n1", notificationKey="k", packageName="p"
            )
            await phone.send("location_update", lat=37.1, lng=-122.1, accuracy=12.5)
            await phone.send(
                "calendar_event",
                title="t",
                eventId="e",
                dtStart="1",
                dtEnd="2",
                timeZone="America/Los_Angeles",
            )
            await phone.send("VAD", status="true")
            await phone.send("glasses_connection_state", modelName="Even Realities G1", status="CONNECTED")
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
            told = {
                event: (await live.event(event)).data
                for event in (
                    "button", "head", "touch", "double", "glasses battery", "phone battery", "notification", "dismissed",
                    "location", "calendar", "vad", "glasses", "vps",
                )
            }  # fmt: skip
            assert (told["button"]["buttonId"], told["button"]["pressType"]) == ("main", "short")
            assert told["head"]["position"] == "up"
            assert told["touch"]["gesture_name"] == told["double"]["gesture_name"] == "double_tap"
            assert told["glasses battery"]["level"] == 85
            assert told["phone battery"]["charging"] is True
            assert told["notification"]["title"] == "T"
            assert told["dismissed"]["notificationKey"] == "k"
            assert (told["location"]["lat"], told["location"]["lng"]) == (37.1, -122.1)
            assert told["calendar"]["timezone"] == "America/Los_Angeles"  # surprise 28
            assert told["vad"]["status"] in (True, "true")
            assert told["glasses"]["status"] == "CONNECTED"
            assert told["vps"]["x"] == 1
            assert not live.seen("triple")

    # ------------------------------------------------------------------------------------- rows 6 and 7: out

    async def test_row_06_displays_are_throttled_and_the_last_one_arrives(self, world: World) -> None:
        async with world.live() as live:
            await asyncio.sleep(1.6)  # the boot screen is over
            since = live.phone.mark()
            await live.run("for (let i = 0; i < 10; i++) session.layouts.showTextWall('line ' + i)")
            await live.phone.shows("line 9", since=since)
            texts = [d["layout"]["text"] for d in live.phone.displays(since)]
            assert texts[-1] == "line 9"
            times = [r.at for r in live.phone.received[since:] if r.type == "display_event"]
            # At most one per 300 ms over the whole; two neighbours may arrive closer than they were sent.
            assert len(times) <= 1.2 + (times[-1] - times[0]) / 0.3
            assert len(texts) <= 3
            assert all(d["packageName"] == PACKAGE for d in live.phone.displays(since))

    async def test_row_06_every_layout_arrives_as_it_was_asked_for(self, world: World) -> None:
        calls = {
            "double_text_wall": "session.layouts.showDoubleTextWall('top', 'bottom')",
            "reference_card": "session.layouts.showReferenceCard('Title', 'Body')",
            "dashboard_card": "session.layouts.showDashboardCard('L', 'R', {view: 'main'})",
            "bitmap_animation": "session.layouts.showBitmapAnimation(['AAAA', 'BBBB'], 1650, true)",
            "clear_view": "session.layouts.clearView()",
        }
        async with world.live() as live:
            await asyncio.sleep(1.6)
            for kind, call in calls.items():
                since = live.phone.mark()
                await live.run(call)
                assert (await live.phone.shows(f'"layoutType": "{kind}"', since=since))["view"] == "main"

    async def test_row_07_a_duration_ends_with_a_clear(self, world: World) -> None:
        async with world.live() as live:
            await asyncio.sleep(1.6)
            since = live.phone.mark()
            await live.run("session.layouts.showTextWall('for a moment', {durationMs: 2000})")
            await live.phone.shows("for a moment", since=since)
            shown_at = next(r.at for r in live.phone.received[since:] if r.type == "display_event")

            def cleared() -> float | None:
                for r in live.phone.received[since:]:
                    if r.type == "display_event" and r.at > shown_at:
                        layout = r.message["layout"]
                        if layout["layoutType"] == "clear_view" or layout.get("text") == "":
                            return r.at
                return None

            cleared_at = await until(cleared, "a clear display")
            assert cleared_at is not None
            assert 1.5 < cleared_at - shown_at < 2.5 * SLOW

    # ------------------------------------------------------------------------------------- rows 8 to 13: loss

    @pytest.mark.failure("APP-02")
    async def test_row_08_a_killed_app_server_comes_back_by_webhook(self, world: World) -> None:
        async with world.live() as live:
            await world.app.kill()
            await world.app.start(hook="session.events.onButtonPress(d => emit('button', d))")
            try:
                await live.event("onSession:done", since=live.mark(), within=12)
                await live.subscribed("button_press")
                await live.phone.send("button_press", buttonId="after", pressType="short")
                await live.event("button", where=lambda d: d["buttonId"] == "after")
                assert len(world.app.seen("onSession", live.began, live.sid)) == 2
            finally:
                await world.app.run("state.hook = ''")

    @pytest.mark.failure("SUB-01")
    @pytest.mark.failure("MIC-02")
    async def test_row_09_a_dropped_socket_heals_without_the_microphone_going_off(self, world: World) -> None:
        code = "session.events.onAudioChunk(d => emit('audio', d)); session.events.onButtonPress(d => emit('button', d))"
        async with world.live(code) as live:
            await live.phone.next("microphone_state_change", where=lambda m: m["isMicrophoneEnabled"])
            since, mark = live.phone.mark(), live.mark()
            await live.run("session.ws.terminate()")
            await live.event("connected", since=mark, within=4)
            await live.subscribed("audio_chunk", "button_press")
            await live.phone.send("button_press", buttonId="healed", pressType="short")
            await live.event("button", since=mark, where=lambda d: d["buttonId"] == "healed")
            await asyncio.sleep(3.2)  # the linger of the microphone: an off would be out by now (surprise 7)
            assert all(m["isMicrophoneEnabled"] for m in live.phone.of("microphone_state_change", since))
            assert len(live.seen("onSession")) == 1
            assert not live.seen("onStop")

    @pytest.mark.failure("CON-16")
    async def test_row_09_what_happened_meanwhile_is_delivered_after_the_reconnect(
        self, world: World
    ) -> None:
        async with world.live("session.events.onButtonPress(d => emit('button', d))") as live:
            await live.subscribed("button_press")
            await live.run("session.ws.terminate()")
            pressed = [f"press {n}" for n in range(5)]
            for name in pressed:
                await live.phone.send("button_press", buttonId=name, pressType="short")
                await asyncio.sleep(0.1)

            def felt() -> list[str]:
                return [r.data["buttonId"] for r in live.seen("button")]

            await until(lambda: set(pressed) <= set(felt()), "all presses")
            assert list(dict.fromkeys(felt())) == pressed  # in order; twice only where the loss cut the proof
            assert len(live.seen("onSession")) == 1

    @pytest.mark.failure("CON-07")
    async def test_a_burst_arrives_whole_and_in_order(self, world: World) -> None:
        code = "session.events.onTranscription(d => { if (d.isFinal) emit('final', d.text) })"
        async with world.live(code) as live:
            await live.subscribed("transcription:en-US")
            words = [f"word {n}" for n in range(300)]
            for word in words:
                world.cloud.hub.say(live.user, word, "en-US")
            await until(lambda: len(live.seen("final")) >= len(words), "300 finals")
            assert [r.data for r in live.seen("final")] == words

    @pytest.mark.failure("APP-01")
    async def test_row_10_a_stopped_app_ends_once_and_stays_stopped(self, world: World) -> None:
        async with world.live() as live:
            before = await world.app_health()
            since = live.phone.mark()
            await live.phone.stop_app(PACKAGE)
            stopped = await live.event("onStop")
            assert stopped.data["reason"] == "user_disabled"
            await stays(lambda: len(live.seen("onStop")) == 1, "onStop once", 2.0)
            assert await world.app_health() == before - 1
            assert len(live.seen("onSession")) == 1
            await until(lambda: PACKAGE not in live.phone.running(), "the app gone from userSession")
            assert live.phone.of("app_state_change", since)

    @pytest.mark.failure("PRO-05")
    @pytest.mark.failure("PER-02")
    async def test_row_11_apps_survive_a_restart_of_the_cloud(self, world: World) -> None:
        await world.app.run("state.hook = `session.events.onButtonPress(d => emit('button', d))`")
        try:
            async with world.live() as live:
                await live.subscribed("button_press")
                mark = live.mark()
                await world.stop_cloud()
                await until(lambda: live.phone.closed is not None, "the phone told")
                assert live.phone.closed is not None
                assert live.phone.closed[0] == 1012
                await world.start_cloud()
                await live.phone.drop()
                since = live.phone.mark()
                await live.phone.connect()
                await live.phone.send(
                    "glasses_connection_state", modelName="Even Realities G1", status="CONNECTED"
                )
                await live.subscribed("button_press", since=since)
                await live.phone.send("button_press", buttonId="restarted", pressType="short")
                await live.event("button", since=mark, where=lambda d: d["buttonId"] == "restarted")
        finally:
            await world.app.run("state.hook = ''")

    @pytest.mark.failure("CON-01")
    async def test_row_12_a_phone_that_returns_in_time_finds_everything(self, world: World) -> None:
        code = (
            "session.events.onAudioChunk(d => emit('audio', d)); session.layouts.showTextWall('still here')"
        )
        async with world.live(code) as live:
            await live.subscribed("audio_chunk")
            await live.phone.shows("still here")
            mark = live.mark()
            await live.phone.drop()
            await asyncio.sleep(SESSION_GRACE / 3)
            since = live.phone.mark()
            await live.phone.connect()
            await live.phone.next(
                "microphone_state_change", since=since, where=lambda m: m["isMicrophoneEnabled"]
            )
            await live.phone.shows("still here", since=since)
            await stays(lambda: len(live.phone.of("connection_ack", since)) == 1, "one ack", SESSION_GRACE)
            assert not live.seen("onStop", mark)
            assert not live.seen("disconnected", mark)
            await live.phone.say(tone(0.1))
            await live.event("audio", since=mark)

    @pytest.mark.failure("CON-14")
    async def test_row_13_a_phone_gone_too_long_ends_its_apps_and_the_next_connect_restarts_them(
        self, world: World
    ) -> None:
        async with world.live() as live:
            mark = live.mark()
            await live.phone.drop()
            stopped = await live.event("onStop", since=mark, within=SESSION_GRACE + 3)
            assert "User session ended" in stopped.data["reason"] or stopped.data["reason"] == "system_stop"
            assert not live.seen("onSession", mark)
            await live.phone.connect()
            await live.event("onSession:done", since=mark, within=8)
            await until(lambda: PACKAGE in live.phone.running(), "the app running again")

    # ------------------------------------------------------------------------------------- rows 14 to 21: services

    @pytest.mark.failure("APP-18")
    async def test_row_14_a_wrong_key_is_refused_and_the_start_fails(self, world: World) -> None:
        async with world.live() as live, world.raw_app() as stranger:
            await stranger.say("tpa_connection_init", sessionId=live.sid, packageName=PACKAGE, apiKey="wrong")
            refusal = await stranger.hear()
            assert (refusal["type"], refusal["code"]) == ("tpa_connection_error", "INVALID_API_KEY")
            assert (await stranger.closed())[0] == 1008
            assert not live.seen("disconnected")  # the genuine one is not disturbed
        async with world.changed_record(hashed_api_key=hash_api_key("another key")), world.wearer() as phone:
            since = world.app.mark()
            reply = await phone.rest("POST", f"/apps/{PACKAGE}/start", timeout=15 * SLOW)
            assert reply.status_code >= 400 or reply.json()["success"] is False, reply.text
            assert not world.app.seen("onSession", since, f"{phone.user}-{PACKAGE}")
            await phone.rest("POST", f"/apps/{PACKAGE}/stop")

    @pytest.mark.failure("PER-01")
    async def test_row_15_a_changed_setting_reaches_the_app_and_leaves_system_settings_whole(
        self, world: World
    ) -> None:
        code = """
            session.settings.onValueChange('lang', (now, before) => emit('lang', {now, before}));
            session.events.onSettingsUpdate(d => emit('update', d));
            session.settings.onMentraosChange('brightness', (now, before) => emit('brightness', {now, before}));
        """
        async with world.live(code) as live:
            before = await live.run("return session.settings.getMentraOS('brightness')")
            assert isinstance(before, int)
            page = (await live.phone.rest("GET", f"/appsettings/{PACKAGE}")).json()
            assert next(s for s in page["settings"] if s["key"] == "lang")["selected"] == "en"
            reply = await live.phone.rest("POST", f"/appsettings/{PACKAGE}", [{"key": "lang", "value": "de"}])
            assert reply.json() == {"success": True, "message": "Settings updated successfully"}
            assert (await live.event("lang")).data["now"] == "de"
            await live.event("update")
            # Surprises 10 and 36: the SDK spoils its copy of the system settings and needs the repair that follows.
            await until(
                lambda: live.seen("brightness") == [] or live.seen("brightness")[-1].data["now"] == before,
                "the repair",
            )
            assert await live.run("return session.settings.getMentraOS('brightness')") == before
            fetched = await live.run("return await session.settings.fetch()")  # surprise 9
            assert {s["key"]: s["value"] for s in fetched if s.get("key")}["lang"] == "de"
            assert not live.seen("error")

    @pytest.mark.failure("PER-04")
    async def test_row_16_simple_storage_survives_the_app(self, world: World) -> None:
        async with world.live() as live:
            await live.run(
                "await session.simpleStorage.set('k1', 'v1'); await session.simpleStorage.setMultiple({k2: 'v2', k3: 'v3'})"
            )
            assert await live.run("return await session.simpleStorage.get('k1')") == "v1"

            async def stored() -> Any:
                return await world.cloud.store.storage_all(live.user, PACKAGE) == {
                    "k1": "v1",
                    "k2": "v2",
                    "k3": "v3",
                }

            await until(stored, "the batch of the SDK, 3 s after the last set", 6)
            assert await live.run("return await session.simpleStorage.delete('k3')") is True
            await live.phone.stop_app(PACKAGE)
            await live.event("onStop")
            await live.start()
            assert await live.run("return await session.simpleStorage.get('k2')") == "v2"
            assert sorted(await live.run("return await session.simpleStorage.keys()")) == ["k1", "k2"]

    @pytest.mark.failure("MED-01")
    async def test_row_17_a_photo_arrives_or_fails_soon(self, world: World) -> None:
        ask = """session.camera.requestPhoto({size: 'large', compress: 'heavy'}).then(
                    r => emit('photo', {bytes: r.buffer.length, mime: r.mimeType}), e => emit('no photo', String(e?.message ?? e)))"""
        async with world.live("", "B", model=LIVE) as live:
            await live.phone.send(
                "glasses_connection_state",
                modelName=LIVE,
                status="CONNECTED",
                wifi={"connected": True, "ssid": "home"},
            )
            await live.run(ask)
            request = await live.phone.next("photo_request")
            assert request["appId"] == PACKAGE
            assert (request["size"], request["compress"]) == ("large", "heavy")
            assert request["webhookUrl"] == f"{world.app.url}/photo-upload"
            assert (await upload_photo(request["webhookUrl"], request["requestId"])).status_code == 200
            assert (await live.event("photo")).data == {"bytes": len(JPEG), "mime": "image/jpeg"}
            await live.phone.send("photo_response", requestId=request["requestId"], photoUrl="", success=True)
            # The glasses say no, over the socket (surprises 23 and 24: it must travel as a multipart error).
            since = live.phone.mark()
            await live.run(ask)
            second = await live.phone.next("photo_request", since=since)
            await live.phone.send(
                "photo_response",
                requestId=second["requestId"],
                success=False,
                error={"code": "CAMERA_BUSY", "message": "busy"},
            )
            assert "CAMERA_BUSY" in (await live.event("no photo")).data
            # And over HTTP, as 2026 phones do.
            mark, since = live.mark(), live.phone.mark()
            await live.run(ask)
            third = await live.phone.next("photo_request", since=since)
            reply = await live.phone.rest(
                "POST", "/api/client/photo/response",
                {"requestId": third["requestId"], "success": False, "errorCode": "NO_STORAGE", "errorMessage": "full"},
            )  # fmt: skip
            assert reply.status_code == 200, reply.text
            assert "NO_STORAGE" in (await live.event("no photo", since=mark)).data

    async def test_row_18_play_audio_resolves_with_the_phones_answer(self, world: World) -> None:
        async with world.live("", "B") as live:
            await live.run(
                "session.audio.playAudio({audioUrl: 'http://127.0.0.1/b.mp3'}).then(r => emit('played', r))"
            )
            request = await live.phone.next("audio_play_request")
            assert (request["packageName"], request["appId"]) == (PACKAGE, PACKAGE)
            assert (request["audioUrl"], request["volume"]) == ("http://127.0.0.1/b.mp3", 1)
            await live.phone.send(
                "audio_play_response", requestId=request["requestId"], success=True, error=None, duration=1234
            )
            played = (await live.event("played")).data
            assert (played["success"], played["duration"]) == (True, 1234)
            # `speak` fetches over https by the SDK's own rule, whatever the socket is (surprise 22).
            since, mark = live.phone.mark(), live.mark()
            await live.run("session.audio.speak('Hello there').then(r => emit('spoken', r))")
            speech = await live.phone.next("audio_play_request", since=since)
            assert speech["audioUrl"].startswith("https://127.0.0.1")
            assert "/api/tts?text=Hello" in speech["audioUrl"]
            await live.phone.send(
                "audio_play_response", requestId=speech["requestId"], success=False, error="no speech"
            )
            assert (await live.event("spoken", since=mark)).data["success"] is False
            await live.run("session.audio.stopAudio()")
            assert (await live.phone.next("audio_stop_request", since=since))["packageName"] == PACKAGE

    async def test_row_19_the_latest_location_is_polled(self, world: World) -> None:
        ask = "session.location.getLatestLocation({accuracy: 'realtime'}).then(r => emit('fix', r), e => emit('no fix', String(e?.message ?? e)))"
        async with world.live("", "B") as live:
            await live.run(ask)
            request = await live.phone.next("request_single_location")
            assert request["accuracy"] == "realtime"
            await live.phone.send(
                "location_update", lat=1.5, lng=2.5, accuracy=3, correlationId=request["correlationId"]
            )
            fix = (await live.event("fix")).data
            assert (fix["lat"], fix["lng"]) == (1.5, 2.5)
            # 2026 phones answer over HTTP.
            await asyncio.sleep(1.1)  # a realtime fix is fresh for one second
            since, mark = live.phone.mark(), live.mark()
            await live.run(ask)
            again = await live.phone.next("request_single_location", since=since)
            reply = await live.phone.rest(
                "POST",
                f"/api/client/location/poll-response/{again['correlationId']}",
                {"location": {"lat": 3, "lng": 4, "accuracy": 1}},
            )
            assert reply.status_code == 200, reply.text
            assert (await live.event("fix", since=mark)).data["lat"] == 3
            # A fresh fix is not asked for again.
            since, mark = live.phone.mark(), live.mark()
            await live.run(ask.replace("realtime", "kilometer"))
            assert (await live.event("fix", since=mark)).data["lat"] == 3
            assert not live.phone.of("request_single_location", since)

    @pytest.mark.failure("SEC-11")
    async def test_row_20_a_webview_knows_its_user_once(self, world: World) -> None:
        async with world.live() as live:
            phone = live.phone
            token = (
                await phone.rest("POST", "/api/auth/generate-webview-token", {"packageName": PACKAGE})
            ).json()
            assert token["success"] is True
            assert len(token["token"]) == 64
            checksum = (
                await phone.rest(
                    "POST", "/api/auth/hash-with-api-key", {"stringToHash": world.url, "packageName": PACKAGE}
                )
            ).json()["hash"]
            query = {
                "aos_temp_token": token["token"], "cloudApiUrl": world.url, "cloudApiUrlChecksum": checksum,
            }  # fmt: skip
            async with httpx.AsyncClient() as browser:
                assert (await browser.get(f"{world.app.url}/who", params=query)).json() == {
                    "user": phone.user
                }
            async with httpx.AsyncClient() as another:
                assert (await another.get(f"{world.app.url}/who", params=query)).json() == {"user": None}
            # The front-end token works without the cloud.
            key = (
                await phone.rest(
                    "POST",
                    "/api/auth/hash-with-api-key",
                    {"stringToHash": phone.user, "packageName": PACKAGE},
                )
            ).json()["hash"]
            async with httpx.AsyncClient() as third:
                page = await third.get(
                    f"{world.app.url}/who", params={"aos_frontend_token": f"{phone.user}:{key}"}
                )
                assert page.json() == {"user": phone.user}

    @pytest.mark.failure("CON-11")
    @pytest.mark.failure("CON-12")
    async def test_row_21_a_hyphenated_user_in_capitals_is_one_user(self, world: World) -> None:
        user = "jean-luc.multi-hyphen@sub-domain.inter-op.example"
        phone = FakePhone(
            world.url, user, world.tokens.mint_core_token("Jean-Luc.Multi-Hyphen@Sub-Domain.Inter-Op.example")
        )
        async with phone:
            await phone.next("connection_ack")
            live = Live(world, phone)
            await live.start()
            assert (await live.event("onSession")).data["userId"] == user
            await live.run("session.layouts.showTextWall('hyphens')")
            await phone.shows("hyphens")
            await live.run("await session.simpleStorage.set('a-b', 'c-d'); await session.settings.fetch()")
            await live.run("session.dashboard.content.write('dash - board')")
            await phone.shows("dash - board", view="dashboard")
            await phone.stop_app(PACKAGE)
            assert (await live.event("onStop")).data["userId"] == user

    # ------------------------------------------------------------------------------------- rows 22 to 24: phones

    async def test_row_22_generation_a_is_served_by_header_init_and_the_old_microphone_member(
        self, world: World
    ) -> None:
        async with world.live("", "A") as live:
            phone = live.phone
            await until(lambda: phone.count("connection_ack") >= 2, "an ack for connection_init")
            assert not phone.microphone
            await live.handler("session.events.onAudioChunk", "audio", "audio_chunk")
            await until(lambda: phone.microphone, "isMicrophoneEnabled")
            await phone.send("settings_update_request")
            answer = await phone.next("settings_update", where=lambda m: m.get("success") is True)
            assert "brightness" in answer["settings"]
            await phone.send(
                "core_status_update",
                status={
                    "status": {
                        "core_info": {"metric_system_enabled": True},
                        "connected_glasses": {},
                        "glasses_settings": {"brightness": 33},
                    }
                },
            )
            await until(
                lambda: world.app.run("return session.settings.getMentraOS('brightness') === 33", live.sid),
                "brightness 33",
            )
            await phone.stop_app(PACKAGE)
            await until(lambda: not phone.microphone, "microphone off after the last need", 6)

    async def test_row_23_generation_c_is_served_by_query_json_pings_and_lc3(self, world: World) -> None:
        async with world.live() as live:
            phone = live.phone
            await until(lambda: phone.count("pong") >= 1, "pong")
            assert (await phone.configure_lc3(20)).json()["success"] is True
            await live.handler("session.events.onAudioChunk", "audio", "audio_chunk")
            await until(lambda: phone.microphone, "requiredData")
            encoder = lc3.Encoder(10_000, 16_000)
            sound = tone(1.0)
            for start in range(0, len(sound), 3200):  # ten frames of 10 ms in one packet
                block = sound[start : start + 3200]
                await phone.send_raw(
                    b"".join(
                        encoder.encode(block[at : at + 320], 20, bit_depth=16)
                        for at in range(0, len(block), 320)
                    )
                )

            def heard() -> bytes:
                return b"".join(base64.b64decode(r.data["arrayBuffer"]["bytes"]) for r in live.seen("audio"))

            await until(lambda: len(heard()) >= len(sound), "one second, decoded")
            assert len(heard()) == len(sound)
            assert 0.7 < rms(heard()[3200:]) / rms(sound[3200:]) < 1.3
            reply = await phone.rest(
                "POST", "/api/client/audio/configure", {"format": "pcm", "lc3Config": None}
            )
            assert reply.json()["success"] is True
            mark = live.mark()
            await phone.say(tone(0.02))
            chunk = await live.event("audio", since=mark)
            assert base64.b64decode(chunk.data["arrayBuffer"]["bytes"]) == tone(0.02)
            assert phone.pongs_missed == 0

    @pytest.mark.failure("SEC-04")
    async def test_row_24_unknown_and_broken_messages_disturb_nobody(self, world: World) -> None:
        async with world.live("session.events.onButtonPress(d => emit('button', d))") as live:
            await live.subscribed("button_press")
            for raw in ("", "null", "[]", "5", "not json", '{"nope":1}', '{"type":[]}', '{"type":"hologram","a":1}',
                        '{"type":"button_press","buttonId":{}}', '{"type":"head_position","position":"sideways"}'):  # fmt: skip
                await live.phone.send_raw(raw)
                await live.run("session.ws.send(" + repr(raw) + ")")
            await live.run("session.sendMessage({type: 'display_event', layout: 5})")
            await live.run("session.sendMessage({type: 'subscription_update', subscriptions: 'all'})")
            await live.run(
                "session.sendMessage({type: 'hologram'}); session.ws.send(Buffer.from('binary nobody asked for'))"
            )
            await live.phone.send("button_press", buttonId="still alive", pressType="short")
            await live.event("button", where=lambda d: d["buttonId"] == "still alive")
            assert live.phone.closed is None
            assert not live.seen("disconnected")

    async def test_row_24_a_bad_token_is_refused_at_the_door(self, world: World) -> None:
        for token, words in (("", "No core token provided"), ("forged.token.here", "Invalid core token")):
            for generation in ("A", "C"):
                phone = FakePhone(world.url, "nobody@inter-op.example", token, generation)
                try:
                    with pytest.raises(InvalidStatus) as caught:
                        await phone.connect()
                finally:
                    await phone.close()
                assert caught.value.response.status_code == 401
                assert words in bytes(caught.value.response.body or b"").decode()

    async def test_generation_t_reads_user_session_and_writes_its_own_way(self, world: World) -> None:
        async with world.wearer("T") as phone:
            live = Live(world, phone)
            await until(lambda: phone.count("connection_ack") >= 2, "an ack for its init")
            await live.start()
            await until(lambda: PACKAGE in phone.running(), "userSession.activeAppSessions")
            await live.handler("session.events.onVoiceActivity", "vad", "VAD")
            await phone.send("vad", status="true")
            assert (await live.event("vad")).data["status"] in (True, "true")
            await phone.send("core_status_update", status='{"status":{}}', details="x")
            await phone.stop_app(PACKAGE)
            await until(lambda: PACKAGE not in phone.running(), "the stop in userSession")

    async def test_generation_b_starts_over_http_and_gets_no_livekit(self, world: World) -> None:
        async with world.live("", "B") as live:
            ack = live.phone.of("connection_ack")[0]
            assert "livekit" not in ack
            assert "udpHost" not in ack
            apps = (await live.phone.rest("GET", "/api/client/apps")).json()["data"]
            mine = next(a for a in apps if a["packageName"] == PACKAGE)
            assert mine["running"] is True
            assert {
                "name",
                "webviewUrl",
                "logoUrl",
                "type",
                "permissions",
                "healthy",
                "hardwareRequirements",
            } <= set(mine)
            await live.phone.send("livekit_init", mode="publish")
            await live.phone.send("udp_register", userIdHash=2166136261)
            await live.phone.send(
                "local_transcription",
                text="hi",
                isFinal=True,
                transcribeLanguage="en-US",
                startTime=0,
                endTime=9,
            )
            assert live.phone.closed is None


__all__ = ["API_KEY", "Rows", "rms", "tone", "upload_photo"]
