"""Unmodified SDK 2.1.29 apps against the real cloud: Appendix D row by row, then the surprises of section 7."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.interop.rows import Rows
from tests.interop.world import LIVE, PACKAGE, Live, World, stays
from tests.support.waiting import SLOW, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    world = World("2.1.29", Path(tmp_path_factory.mktemp("cloud")))
    await world.open()
    yield world
    await world.close()


class TestAppendixD(Rows):
    """Rows 1 to 24."""


class TestSurprises:
    """Section 7, as far as a row above does not hold it already.

    4, 6: row 04 · 7: row 09 · 9, 10, 36: row 15 · 11: rows 10, 13 (we end with 1000) · 12: row 11 · 15, 26: `TestLast` ·
    20: row 03 · 23, 24: row 17 · 25: row 20 · 27: rows 22, 23 · 28: row 05 · 29: generation T · 30: row 21, and every
    user here · 31: the cloud never asks for that counter · the others: their numbers stand in the names below.
    """

    @pytest.mark.failure("APP-09")
    async def test_surprises_01_and_35_a_slow_on_session_is_neither_waited_for_nor_restarted(
        self, world: World
    ) -> None:
        await world.app.run(
            "state.hook = `session.events.onButtonPress(d => emit('button', d)); await new Promise(r => setTimeout(r, 5000))`"
        )
        try:
            async with world.wearer() as phone:
                live = Live(world, phone)
                await phone.start_app(PACKAGE)  # answered although onSession is still running
                await live.subscribed("button_press")
                await phone.send("button_press", buttonId="early", pressType="short")
                await live.event("button", where=lambda d: d["buttonId"] == "early")
                assert not live.seen("onSession:done")
                await live.event("onSession:done", within=8)
                await stays(lambda: len(live.seen("onSession")) == 1, "no second session_request", 1.5)
                assert not live.seen("disconnected")
        finally:
            await world.app.run("state.hook = ''")

    @pytest.mark.failure("APP-15")
    async def test_surprise_35_a_throwing_on_session_is_ended_cleanly_and_paced(self, world: World) -> None:
        await world.app.run("state.hook = `throw new Error('boom in onSession')`")
        try:
            async with world.wearer() as phone:
                live = Live(world, phone)
                await phone.rest("POST", f"/apps/{PACKAGE}/start", timeout=15 * SLOW)
                await live.event("onSession")
                await asyncio.sleep(4)
                assert 1 <= len(live.seen("onSession")) <= 4  # 1, 2, 4 ... s apart, never a loop
                await phone.rest("POST", f"/apps/{PACKAGE}/stop")
                await world.app.run("state.hook = ''")
                count = len(live.seen("onSession"))
                await stays(lambda: len(live.seen("onSession")) == count, "stopped means stopped", 3)
        finally:
            await world.app.run("state.hook = ''")

    async def test_surprises_02_and_03_the_ack_fills_settings_and_system_settings(self, world: World) -> None:
        async with world.live() as live:
            assert await live.run("return session.settings.get('lang')") == "en"
            system = await live.run("return session.settings.mentraosSettings")
            assert {"metricSystemEnabled", "brightness"} <= set(system)
            state = await live.run("return session.device.state.getSnapshot()")
            assert state["connected"] is True
            assert state["modelName"] == "Even Realities G1"

    async def test_surprise_05_stream_states_reach_the_camera_module(self, world: World) -> None:
        code = "session.camera.onStreamStatus(d => emit('status', d)); await session.camera.startStream({rtmpUrl: 'rtmp://h/live/k'})"
        async with world.live(code, "B", model=LIVE) as live:
            phone = live.phone
            request = await phone.next("start_rtmp_stream")
            assert (request["rtmpUrl"], request["appId"]) == ("rtmp://h/live/k", PACKAGE)
            await live.event("status", where=lambda d: d["status"] == "initializing")
            await phone.send(
                "rtmp_stream_status", streamId=request["streamId"], status="streaming", stats={"fps": 30}
            )
            await live.event("status", where=lambda d: d["status"] == "active")
            assert await live.run("return session.camera.isCurrentlyStreaming()") is True
            check = await live.run("return await session.camera.checkExistingStream()", within=6)
            assert check["hasActiveStream"] is True
            await live.run("await session.camera.stopStream()")
            await phone.next("stop_rtmp_stream")
            await phone.send("rtmp_stream_status", streamId=request["streamId"], status="stopped")
            await live.event("status", where=lambda d: d["status"] == "stopped")
            await until(lambda: live.run("return session.camera.isCurrentlyStreaming() === false"), "stopped")

    @pytest.mark.failure("SEC-01")
    async def test_surprise_08_messages_are_routed_by_their_socket(self, world: World) -> None:
        async with world.live("", "B", model=LIVE) as live, world.live("", "B", model=LIVE) as other:
            await live.run(
                "session.led.turnOn({color: 'green', ontime: 500, offtime: 200, count: 3})"
            )  # unknown-session-id
            led = await live.phone.next("rgb_led_control")
            assert (led["packageName"], led["appId"], led["color"], led["ontime"]) == (
                PACKAGE,
                PACKAGE,
                "green",
                500,
            )
            await live.run("session.dashboard.content.write('mine alone')")  # doubled suffix
            await live.phone.shows("mine alone", view="dashboard")
            forged = {"type": "display_event", "packageName": PACKAGE, "sessionId": other.sid, "view": "main",
                      "layout": {"layoutType": "text_wall", "text": "for whom"}}  # fmt: skip
            await live.run(f"session.sendMessage({forged!r})".replace("True", "true"))
            await live.phone.shows("for whom")
            await live.run("session.requestWifiSetup('need wifi')")
            assert (await live.phone.next("show_wifi_setup"))["reason"] == "need wifi"
            assert not other.phone.of("rgb_led_control")
            assert "for whom" not in str(other.phone.displays())
            assert "mine alone" not in str(other.phone.displays(view="dashboard"))

    @pytest.mark.failure("APP-05")
    async def test_surprises_13_and_34_a_late_init_is_refused_at_once(self, world: World) -> None:
        async with world.wearer() as phone, world.raw_app() as late:
            await late.say(
                "tpa_connection_init",
                sessionId=f"{phone.user}-{PACKAGE}",
                packageName=PACKAGE,
                apiKey=world.app.api_key,
            )
            answer = await late.hear()
            assert (answer["type"], answer["code"]) == ("tpa_connection_error", "APP_NOT_STARTED")
            assert (await late.closed())[0] == 1008
        async with world.raw_app() as stranger:
            await stranger.say(
                "tpa_connection_init", sessionId=f"nobody@inter-op.example-{PACKAGE}", packageName=PACKAGE,
                apiKey=world.app.api_key,
            )  # fmt: skip
            assert (await stranger.hear())["type"] == "tpa_connection_error"
            assert (await stranger.closed())[0] == 1008

    @pytest.mark.failure("APP-08")
    async def test_surprise_14_an_error_answer_ends_nothing(self, world: World) -> None:
        async with world.live("session.events.onButtonPress(d => emit('button', d))") as live:
            await live.run(
                "session.sendMessage({type: 'display_event', view: 'main', layout: {layoutType: 'hologram'}})"
            )
            assert "layout" in (await live.event("error")).data
            await live.subscribed("button_press")
            await live.phone.send("button_press", buttonId="x", pressType="short")
            await live.event("button")

    @pytest.mark.failure("APP-02")
    async def test_surprise_16_a_terminated_app_server_is_brought_back(self, world: World) -> None:
        async with world.live() as live:
            assert await world.app.terminate() == 0
            mark = live.mark()
            await world.app.start()
            await live.event("onSession:done", since=mark, within=12)

    @pytest.mark.failure("APP-14")
    async def test_surprise_17_a_second_session_request_replaces_the_first_session(
        self, world: World
    ) -> None:
        async with world.live() as live:
            await world.app.run("state.hook = `session.events.onButtonPress(d => emit('button', d))`")
            try:
                mark = live.mark()
                async with httpx.AsyncClient(timeout=10 * SLOW) as client:
                    socket_url = world.url.replace("http", "ws", 1) + "/app-ws"
                    await client.post(
                        f"{world.app.url}/webhook",
                        json={"type": "session_request", "sessionId": live.sid, "userId": live.user,
                              "mentraOSWebsocketUrl": socket_url, "augmentOSWebsocketUrl": socket_url},
                    )  # fmt: skip
                await live.event("onSession:done", since=mark)
                await live.subscribed("button_press")
                await live.phone.send("button_press", buttonId="once", pressType="short")
                await live.event("button")
                await stays(lambda: len(live.seen("button")) == 1, "delivered once", 1.0)
                assert PACKAGE in live.phone.running()
            finally:
                await world.app.run("state.hook = ''")

    @pytest.mark.failure("APP-06")
    async def test_surprises_18_and_19_a_stop_ends_even_if_the_apps_on_stop_hangs(self, world: World) -> None:
        async with world.live() as live:
            await world.app.run("state.stopHook = `await new Promise(r => setTimeout(r, 20000))`")
            try:
                began = asyncio.get_running_loop().time()
                await live.phone.stop_app(PACKAGE)
                await until(lambda: PACKAGE not in live.phone.running(), "stopped for the wearer")
                assert asyncio.get_running_loop().time() - began < 3 * SLOW
            finally:
                await world.app.run("state.stopHook = ''")

    async def test_surprise_21_a_managed_stream_is_refused_not_left_hanging(self, world: World) -> None:
        code = "session.camera.startManagedStream({quality: '720p'}).then(r => emit('started', r), e => emit('refused', String(e?.message ?? e)))"
        async with world.live(code, "B", model=LIVE) as live:
            await live.event("refused")
            assert not live.seen("started")

    async def test_surprise_22_tls_on_the_plain_port_disturbs_nobody(self, world: World) -> None:
        async with world.live(
            "session.events.onTranscription(d => 0)"
        ) as live:  # asks permissions over https
            reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rsplit(":", 1)[1]))
            writer.write(bytes.fromhex("16030100c8010000c40303") + bytes(200))
            await asyncio.wait_for(reader.read(), 15 * SLOW)
            writer.close()
            assert (await live.phone.rest("GET", "/health")).json()["status"] == "ok"
            permissions = (await live.phone.rest("GET", f"/api/public/permissions/{PACKAGE}")).json()
            assert permissions["permissions"][0]["type"] == "ALL"
            assert live.phone.closed is None

    async def test_surprise_32_a_burst_of_subscriptions_is_told_once(self, world: World) -> None:
        async with world.live() as live:
            await asyncio.sleep(0.5)
            since = live.phone.mark()
            await live.run(
                """for (const name of ['button_press', 'head_position', 'VAD', 'glasses_battery_update', 'audio_chunk',
                     'phone_battery_update', 'glasses_connection_state', 'phone_notification', 'location_update',
                     'calendar_event', 'touch_event', 'vps_coordinates', 'photo_taken', 'custom_message'])
                     session.on(name, () => 0);
                   for (let i = 0; i < 14; i++) session.on('touch_event:' + i, () => 0)"""
            )
            await live.subscribed("custom_message", "audio_chunk", "touch_event:13")
            await asyncio.sleep(0.5)
            assert len(live.phone.of("app_state_change", since)) <= 6
            assert len(live.phone.of("microphone_state_change", since)) == 1

    async def test_surprise_33_location_streams_set_the_phones_tier(self, world: World) -> None:
        code = "session.location.subscribeToStream({accuracy: 'high'}, d => emit('fix', d))"
        async with world.live(code) as live:
            await live.subscribed("location_update")  # the SDK loses the rate ...
            await live.phone.send("location_update", lat=1, lng=2)
            await live.event("fix")
            since = live.phone.mark()
            update = "session.sendMessage({type: 'subscription_update', subscriptions: %s})"
            await live.run(
                update % "[{stream: 'location_stream', rate: 'high'}]"
            )  # ... other clients keep it
            await live.phone.next("set_location_tier", since=since, where=lambda m: m["tier"] == "high")
            await live.run(update % "['location_update']")
            await live.phone.next("set_location_tier", since=since, where=lambda m: m["tier"] == "reduced")


class TestServices:
    """What the SDK offers beyond the rows."""

    async def test_messages_between_users_of_one_app(self, world: World) -> None:
        code = """
            session.onAppMessage(d => emit('message', d)); session.onAppUserJoined(d => emit('joined', d));
            session.onAppUserLeft(d => emit('left', d)); session.onAppRoomUpdated(d => emit('room', d));
        """
        async with world.live(code) as anna, world.live(code) as ben:
            await anna.run("await session.broadcastToAppUsers({a: 1})")
            message = (await ben.event("message")).data
            assert (message["payload"], message["senderUserId"]) == ({"a": 1}, anna.user)
            assert not anna.seen("message")  # never echoed
            assert await anna.run(f"return await session.sendDirectMessage('{ben.user}', {{b: 2}})") is True
            await ben.event("message", where=lambda d: d["payload"] == {"b": 2})
            assert (
                await anna.run("return await session.sendDirectMessage('nobody@inter-op.example', {})")
                is False
            )
            await ben.run("await session.joinAppRoom('room1', {maxUsers: 5})")
            await anna.run("await session.joinAppRoom('room1')")
            await ben.event(
                "room", where=lambda d: d["updateType"] == "user_joined" and d["roomData"]["memberCount"] == 2
            )
            await anna.run("await session.leaveAppRoom('room1')")
            await ben.event("room", where=lambda d: d["updateType"] == "user_left")
            found = await anna.run(f"return await session.discoverAppUsers('{world.url}', true)")
            assert ben.user in {u["userId"] for u in found["users"]}

    async def test_a_tool_call_travels_through(self, world: World) -> None:
        async with world.live() as live:
            await world.app.run("state.tool = `return 'sum ' + (call.toolParameters.a + 1)`")
            reply = await live.phone.rest(
                "POST",
                f"/api/tools/apps/{PACKAGE}/tool",
                {"toolId": "add", "toolParameters": {"a": 1}, "userId": live.user},
            )
            assert reply.json() == {"status": "success", "reply": "sum 2"}
            tools = (await live.phone.rest("GET", f"/api/tools/apps/{PACKAGE}/tools")).json()
            assert tools[0]["id"] == "add"

    async def test_a_released_session_is_not_brought_back(self, world: World) -> None:
        async with world.live() as live:
            await live.run("await session.disconnect({releaseOwnership: true, reason: 'user_logout'})")
            await until(lambda: PACKAGE not in live.phone.running(), "stopped", 8)
            await stays(lambda: len(live.seen("onSession")) == 1, "not resurrected", 7.0)

    @pytest.mark.failure("SUB-05")
    @pytest.mark.failure("SEC-10")
    async def test_a_missing_permission_is_told_and_nothing_leaks(self, world: World) -> None:
        async with world.changed_record(permissions=()), world.live() as live:
            await live.run(
                """session.events.onPermissionError(d => emit('denied', d)); session.on('*', d => emit('star', d));
                   session.events.onAudioChunk(d => emit('audio', d)); session.events.onLocation(d => emit('fix', d));
                   session.events.onButtonPress(d => emit('button', d))"""
            )
            denied = (await live.event("denied")).data
            assert {d["requiredPermission"] for d in denied["details"]} & {"MICROPHONE", "LOCATION"}
            await live.subscribed("button_press")
            await live.phone.send("location_update", lat=1, lng=2)
            await live.phone.say(bytes(640))
            await live.phone.send("button_press", buttonId="b", pressType="short")
            await live.event("button")
            assert not live.phone.microphone
            assert not live.seen("audio") + live.seen("fix")
            assert {r.data["type"] for r in live.seen("star")} <= {"button_press", "glasses_connection_state"}

    async def test_device_state_and_capabilities_follow_the_glasses(self, world: World) -> None:
        async with world.live("session.events.onCapabilitiesUpdate(d => emit('capabilities', d))") as live:
            reply = await live.phone.rest(
                "POST", "/api/client/device/state",
                {"connected": True, "modelName": LIVE, "batteryLevel": 55, "charging": False, "wifiConnected": True, "wifiSsid": "home"},
            )  # fmt: skip
            assert reply.json()["appliedState"]["modelName"] == LIVE
            await live.event("capabilities", where=lambda d: d["modelName"] == LIVE)
            assert await live.run("return session.capabilities.hasCamera") is True
            await until(
                lambda: live.run("return session.device.state.getSnapshot().batteryLevel === 55"),
                "battery in device state",
            )

    async def test_the_date_reaches_apps_that_want_it(self, world: World) -> None:
        async with world.live(
            "session.events.onCustomMessage('update_datetime', d => emit('date', d)); session.on('custom_message', () => 0)",
            "A",
        ) as live:
            await live.subscribed("custom_message")
            date = "2025-06-01T10:00:00-07:00"
            await live.phone.rest(
                "POST", "/api/user-data/set-datetime", {"userId": live.user, "datetime": date}
            )
            assert (await live.event("date")).data["datetime"] == date

    async def test_late_subscribers_get_what_is_cached(self, world: World) -> None:
        async with world.live() as live:
            await live.phone.rest(
                "POST", "/api/client/calendar",
                {"events": [{"eventId": "e1", "title": "Dentist", "dtStart": "2026-01-01T09:00:00Z", "dtEnd": "2026-01-01T10:00:00Z", "timezone": "UTC"}]},
            )  # fmt: skip
            await live.phone.rest(
                "POST", "/api/client/location", {"location": {"lat": 48.1, "lng": 11.5, "accuracy": 5}}
            )
            await live.run(
                "session.events.onCalendarEvent(d => emit('entry', d)); session.events.onLocation(d => emit('fix', d))"
            )
            assert (await live.event("entry")).data["title"] == "Dentist"
            assert (await live.event("fix")).data["lat"] == 48.1

    async def test_notifications_over_http_reach_the_app(self, world: World) -> None:
        async with world.live(
            "session.events.onPhoneNotifications(d => emit('note', d)); session.events.onPhoneNotificationDismissed(d => emit('gone', d))"
        ) as live:
            await live.subscribed("phone_notification", "phone_notification_dismissed")
            body = {
                "notificationId": "n",
                "app": "Mail",
                "title": "T",
                "content": "C",
                "priority": "normal",
                "timestamp": 1,
                "packageName": "m",
            }
            assert (await live.phone.rest("POST", "/api/client/notifications", body)).json()[
                "success"
            ] is True
            assert (await live.event("note")).data["content"] == "C"
            gone = {"notificationId": "n", "notificationKey": "k", "packageName": "m"}
            assert (await live.phone.rest("POST", "/api/client/notifications/dismissed", gone)).json()[
                "success"
            ] is True
            assert (await live.event("gone")).data["notificationKey"] == "k"

    async def test_translation_reaches_exactly_its_subscribers(self, world: World) -> None:
        code = """
            session.events.ontranslationForLanguage('es-ES', 'en-US', d => emit('english', d));
            session.on('translation:all-to-de-DE', d => emit('german', d));
            session.on('translation:fr-FR-to-en-US', d => emit('french', d));
        """
        async with world.live(code) as live:
            await live.subscribed("translation:es-ES-to-en-US", "translation:all-to-de-DE")
            await live.phone.next("microphone_state_change", where=lambda m: m["isMicrophoneEnabled"])
            world.cloud.hub.say(live.user, "hola", "es-ES")
            english = (await live.event("english", where=lambda d: d["isFinal"])).data
            assert (english["originalText"], english["transcribeLanguage"], english["translateLanguage"]) == (
                "hola", "es-ES", "en-US",
            )  # fmt: skip
            await live.event("german")
            assert not live.seen("french")


class TestLast:
    """What must hold over all of the above."""

    async def test_the_sdk_never_met_a_message_it_does_not_know(self, world: World) -> None:
        strange = [r.data for r in world.app.seen("error") if "nrecognized" in str(r.data)]
        assert strange == []
