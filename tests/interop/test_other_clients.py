"""Clients that are neither SDK under test: other ways to identify, bare sockets, REST as phones of all years use it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.interop.rows import JPEG
from tests.interop.world import API_KEY, LIVE, PACKAGE, SECRET, RawApp, World
from tests.support.fake_phone import FakePhone
from tests.support.waiting import SLOW, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOCATION = {"lat": 48.1, "lng": 11.5, "accuracy": 5}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    world = World("2.1.29", Path(tmp_path_factory.mktemp("cloud")))
    await world.open()
    yield world
    await world.close()


def app_jwt(secret: str = SECRET, **claims: str) -> str:
    return jwt.encode({"packageName": PACKAGE, "apiKey": API_KEY, **claims}, secret, algorithm="HS256")


def app_url(world: World, path: str = "/app-ws") -> str:
    return world.url.replace("http", "ws", 1) + path


class TestApps:
    """Wire specification 1.4 and 3.2."""

    async def refused(self, world: World, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        with pytest.raises(InvalidStatus) as caught:
            async with connect(app_url(world), additional_headers=headers):
                pass
        return caught.value.response.status_code, json.loads(caught.value.response.body or b"{}")

    @pytest.mark.parametrize("way", ["jwt", "headers", "version"])
    async def test_an_app_may_identify_by_its_headers(self, world: World, way: str) -> None:
        async with world.live() as live:
            headers = {"x-user-id": live.user}
            if way == "jwt":
                headers |= {"Authorization": f"Bearer {app_jwt()}", "x-session-id": live.sid}
            else:
                headers |= {"x-package-name": PACKAGE, "x-api-key": API_KEY, "x-sdk-version": "3.1.0"}
            path = "/ws/miniapp" if way == "version" else "/app-ws"
            async with connect(
                app_url(world, path), additional_headers=headers, ping_interval=None
            ) as socket:
                app = RawApp(socket)
                ack = await app.hear()
                assert (ack["type"], ack["userId"]) == ("tpa_connection_ack", live.user)
                assert isinstance(ack["settings"], list)
                await app.say("subscription_update", packageName=PACKAGE, subscriptions=["button_press"])
                await live.subscribed("button_press")
                await live.phone.send("button_press", buttonId="x", pressType="short")
                while (told := await app.hear())["type"] != "data_stream":
                    pass
                assert (told["streamType"], told["data"]["buttonId"]) == ("button_press", "x")

    @pytest.mark.failure("SEC-07")
    async def test_headers_prove_nothing_without_a_key(self, world: World) -> None:
        async with world.live() as live:
            user = {"x-user-id": live.user, "x-session-id": live.sid}
            status, body = await self.refused(world, {"Authorization": f"Bearer {app_jwt()}"})
            assert (status, body["code"]) == (401, "MISSING_HEADERS")
            assert body["message"] == "Missing userId or sessionId in request headers"
            status, body = await self.refused(world, user | {"Authorization": f"Bearer {app_jwt('x' * 40)}"})
            assert (status, body["code"]) == (401, "JWT_INVALID")
            wrong = user | {"Authorization": f"Bearer {app_jwt(apiKey='wrong')}"}
            async with connect(app_url(world), additional_headers=wrong, ping_interval=None) as socket:
                stranger = RawApp(socket)
                assert (await stranger.hear())["code"] == "INVALID_API_KEY"
                assert (await stranger.closed())[0] == 1008
            assert not live.seen("disconnected")

    async def test_an_init_without_a_session_id_names_no_user(self, world: World) -> None:
        async with world.raw_app() as app:
            await app.say("tpa_connection_init", packageName=PACKAGE, apiKey=API_KEY)
            assert (await app.hear())["type"] == "tpa_connection_error"
            assert (await app.closed())[0] == 1008

    @pytest.mark.failure("SEC-07")
    async def test_a_socket_that_never_says_who_it_is_gets_nothing(self, world: World) -> None:
        async with world.raw_app() as app:
            await app.say("subscription_update", packageName=PACKAGE, subscriptions=["*"])
            assert (await app.hear())["type"] == "tpa_connection_error"
            assert (await app.closed())[0] == 1008

    @pytest.mark.failure("CON-02")
    async def test_the_newest_socket_of_an_app_wins_and_the_olds_close_hurts_nobody(
        self, world: World
    ) -> None:
        async with world.live() as live, world.raw_app() as newer:
            await newer.say("tpa_connection_init", sessionId=live.sid, packageName=PACKAGE, apiKey=API_KEY)
            assert (await newer.hear())["type"] == "tpa_connection_ack"
            await live.event("disconnected")
            await newer.say("subscription_update", packageName=PACKAGE, subscriptions=["button_press"])
            await live.subscribed("button_press")
            await live.phone.send("button_press", buttonId="x", pressType="short")
            while (told := await newer.hear())["type"] != "data_stream":
                pass
            assert told["data"]["buttonId"] == "x"

    @pytest.mark.failure("SEC-01")
    async def test_only_the_dashboards_own_package_may_write_its_sections(self, world: World) -> None:
        async with world.live() as live:
            await live.run(
                """session.sendMessage({type: 'dashboard_system_update', packageName: 'system.augmentos.dashboard',
                     section: 'topLeft', content: 'FORGED'});
                   session.sendMessage({type: 'dashboard_mode_change', packageName: 'system.augmentos.dashboard',
                     mode: 'expanded'});
                   session.dashboard.content.write('honest line')"""
            )
            await live.phone.shows("honest line", view="dashboard")
            assert "FORGED" not in str(live.phone.displays(view="dashboard"))

    async def test_an_app_whose_server_is_away_fails_in_words(self, world: World) -> None:
        async with world.changed_record(public_url="http://127.0.0.1:9"), world.wearer() as phone:
            began = time.monotonic()
            reply = await phone.rest("POST", f"/apps/{PACKAGE}/start", timeout=15 * SLOW)
            assert time.monotonic() - began < 11 * SLOW
            assert reply.status_code >= 400
            assert reply.json()["success"] is False
            assert reply.json()["message"]
            assert PACKAGE not in phone.running()


class TestPhones:
    """Wire specification 1.3 and 2."""

    async def test_the_newer_path_is_the_same_door(self, world: World) -> None:
        user = world.new_user()
        phone = FakePhone(world.url, user, world.tokens.mint_core_token(user), "C", path="/ws/client")
        async with phone:
            assert (await phone.next("connection_ack"))["sessionId"] == user

    async def test_an_unknown_path_is_not_found(self, world: World) -> None:
        with pytest.raises(InvalidStatus) as caught:
            async with connect(world.url.replace("http", "ws", 1) + "/nowhere"):
                pass
        assert caught.value.response.status_code == 404

    @pytest.mark.failure("CON-10")
    async def test_of_two_phones_of_one_user_the_newest_is_served(self, world: World) -> None:
        async with world.live() as live:
            newer = world.phone("C", live.user)
            async with newer:
                await newer.next("connection_ack")
                await until(lambda: live.phone.closed is not None, "the older phone let go")
                since = newer.mark()
                await live.run("session.layouts.showTextWall('who sees me')")
                await newer.shows("who sees me", since=since)
                await newer.rest("POST", f"/apps/{PACKAGE}/stop")

    async def test_a_dashboard_shows_time_and_battery_and_the_apps_line(self, world: World) -> None:
        async with world.live("session.dashboard.content.write('from the app')") as live:
            await live.phone.send("glasses_battery_update", level=73, charging=False)
            shown = await live.phone.shows("73", view="dashboard")
            assert shown["layout"]["layoutType"] == "double_text_wall"
            await live.phone.shows("from the app", view="dashboard")
            since = live.phone.mark()
            await live.phone.stop_app(PACKAGE)
            await until(
                lambda: (
                    live.phone.displays(since, "dashboard")
                    and "from the app" not in str(live.phone.displays(since, "dashboard")[-1])
                ),
                "the stopped app's line gone",
            )

    async def test_a_photo_given_to_the_cloud_goes_on_to_the_app(self, world: World) -> None:
        code = "session.camera.requestPhoto().then(r => emit('photo', {bytes: r.buffer.length, mime: r.mimeType}), e => emit('no photo', String(e)))"
        async with world.live(code, "B", model=LIVE) as live:
            request = await live.phone.next("photo_request")
            reply = await live.phone.http.post(
                "/api/photos/upload",
                data={"metadata": json.dumps({"requestId": request["requestId"]})},
                files={"file": ("x.jpg", JPEG, "image/jpeg")},
            )
            assert reply.status_code == 200, reply.text
            assert reply.json()["requestId"] == request["requestId"]
            assert (await live.event("photo")).data == {"bytes": len(JPEG), "mime": "image/jpeg"}
            assert (await live.phone.rest("GET", "/api/gallery")).json()["photos"]
            again = await live.phone.http.post(
                "/api/photos/upload",
                data={"metadata": json.dumps({"requestId": request["requestId"]})},
                files={"file": ("x.jpg", JPEG, "image/jpeg")},
            )
            assert again.status_code == 404

    @pytest.mark.failure("MED-01")
    async def test_without_glasses_requests_fail_at_once(self, world: World) -> None:
        code = """
            state.ask = () => session.camera.requestPhoto().then(r => emit('photo', 1), e => emit('no photo', String(e)));
            state.play = () => session.audio.playAudio({audioUrl: 'http://127.0.0.1/a.mp3'}).then(r => emit('played', r));
        """
        async with world.live(code, "B", model=LIVE) as live:
            await live.phone.drop()
            await live.run("state.ask(); state.play()")
            await live.event("no photo", within=3)
            assert (await live.event("played", within=3)).data["success"] is False
            await live.phone.connect()

    async def test_broken_lc3_frames_cost_only_themselves(self, world: World) -> None:
        async with world.live("session.events.onAudioChunk(d => emit('audio', d))") as live:
            await live.subscribed("audio_chunk")
            await live.phone.configure_lc3(40)
            await live.phone.send_raw(bytes(range(39)))  # no whole frame
            await live.phone.send_raw(bytes(80))
            chunk = await live.event("audio")
            assert len(base64.b64decode(chunk.data["arrayBuffer"]["bytes"])) % 320 == 0
            reply = await live.phone.rest(
                "POST", "/api/client/audio/configure", {"format": "lc3", "lc3Config": {"frameSizeBytes": 17}}
            )
            assert reply.status_code == 400
            assert live.phone.closed is None


#: Method, path, body, and what the answer must contain: wire specification 2.8 with a live session.
REST: list[tuple[str, str, Any, Any]] = [
    ("GET", "/api/client/min-version", None, {"success": True, "data": {"required": "2.0.0"}}),
    ("GET", "/api/apps/", None, {"success": True}),
    ("GET", "/apps/installed", None, {"success": True}),
    ("GET", "/api/client/apps", None, {"success": True}),
    ("POST", f"/api/apps/install/{PACKAGE}", None, {"success": True}),
    ("POST", "/api/apps/install/com.example.nobody", None, 404),
    ("POST", "/apps/com.example.nobody/start", None, {"success": False, "message": "App not found"}),
    ("GET", "/appsettings/com.example.nobody", None, {"error": "App not found"}),
    (
        "POST",
        "/api/client/user/settings",
        {"settings": {"metric_system": True, "x_unknown": [1]}},
        {"success": True},
    ),
    (
        "GET",
        "/api/client/user/settings",
        None,
        {"data": {"settings": {"metric_system": True, "x_unknown": [1]}}},
    ),
    ("POST", "/api/client/device/state", {"batteryLevel": 5}, {"success": True}),
    ("POST", "/api/client/calendar", {"events": [{"eventId": "e", "title": "t"}]}, {"success": True}),
    ("POST", "/api/client/location", {"location": LOCATION}, {"success": True}),
    ("POST", "/api/client/location", {"coords": LOCATION}, {"success": True}),
    ("POST", "/api/client/location", LOCATION, {"success": True}),
    ("POST", "/api/client/notifications", {"notificationId": "n", "app": "a"}, {"success": True}),
    ("POST", "/api/client/notifications/dismissed", {"notificationId": "n"}, {"success": True}),
    ("POST", "/api/client/audio/configure", {"format": "pcm", "lc3Config": None}, {"success": True}),
    ("POST", "/api/client/audio/configure", {"format": "opus"}, 400),
    ("GET", "/api/client/livekit/token", None, 501),
    ("POST", "/api/client/feedback", {"feedback": "nice", "phoneState": {}}, {"success": True}),
    ("POST", "/api/incidents", {"x": 1}, {"success": True}),
    ("POST", "/api/incidents/abc/logs", {"logs": []}, {"success": True}),
    ("POST", "/api/incidents/abc/attachments", None, {"success": True, "uploaded": [], "errors": []}),
    ("POST", "/api/app-uptime/app-pkg-health-check", {"packageName": PACKAGE}, {"success": True}),
    ("POST", "/app/error-report", {"any": "thing"}, {"success": True}),
    ("GET", "/api/gallery", None, {"success": True, "photos": []}),
    ("POST", "/api/auth/generate-webview-token", {"packageName": "com.example.nobody"}, 404),
    ("POST", "/auth/exchange-token", {}, {"error": "No token provided"}),
    ("POST", "/auth/exchange-token", {"supabaseToken": "forged"}, {"error": "Invalid token"}),
    ("GET", "/api/tts?text=hello", None, 501),
    ("GET", "/api/audio/tts", None, 400),
]


class TestRest:
    """Section 2.8, the answers as phones read them."""

    async def test_every_route_of_a_phone_answers_in_its_shape(self, world: World) -> None:
        async with world.wearer() as phone:
            for method, path, body, expected in REST:
                reply = await phone.rest(method, path, body)
                where = f"{method} {path}: {reply.status_code} {reply.text}"
                if isinstance(expected, int):
                    assert reply.status_code == expected, where
                    assert "error" in reply.json() or "message" in reply.json(), where
                else:
                    assert contains(reply.json(), expected), where

    async def test_app_lists_have_every_member_that_phones_filter_on(self, world: World) -> None:
        async with world.live() as live:
            older = (await live.phone.rest("GET", "/api/apps/")).json()["data"]
            mine = next(app for app in older if app["packageName"] == PACKAGE)
            assert (mine["is_running"], mine["is_foreground"], mine["appType"]) == (True, True, "standard")
            assert "hashedApiKey" not in str(older)
            page = (await live.phone.rest("GET", f"/appsettings/{PACKAGE}")).json()
            assert {"success", "userId", "name", "description", "uninstallable", "webviewURL", "version", "settings",
                    "permissions", "organization"} <= set(page)  # fmt: skip

    async def test_without_a_session_phones_are_told_to_reconnect(self, world: World) -> None:
        phone = world.phone()
        try:
            for path, body in (
                ("/api/client/device/state", {"connected": True}),
                ("/api/client/location", {"location": LOCATION}),
                ("/api/client/audio/configure", {"format": "pcm"}),
            ):
                reply = await phone.rest("POST", path, body)
                assert (reply.status_code, reply.json()["error"]) == (503, "NO_ACTIVE_SESSION")
            assert (await phone.rest("POST", f"/apps/{PACKAGE}/start")).status_code in (401, 503)
        finally:
            await phone.close()

    async def test_goodbye_ends_the_session_without_grace(self, world: World) -> None:
        async with world.live() as live:
            assert (await live.phone.rest("POST", "/api/client/goodbye")).json() == {"success": True}
            await live.event("onStop", within=3)
            await until(lambda: live.phone.closed is not None, "the socket closed")

    @pytest.mark.failure("SEC-06")
    async def test_an_app_sees_only_its_own_storage_and_only_of_its_users(self, world: World) -> None:
        async with world.live("await session.simpleStorage.set('k', 'v')") as live:
            path = f"{world.url}/api/sdk/simple-storage/{live.user}"
            async with httpx.AsyncClient() as client:
                right = {"Authorization": f"Bearer {PACKAGE}:{API_KEY}"}
                assert (await client.put(path, json={"data": {"a": "1"}}, headers=right)).status_code == 200
                assert (await client.get(path, headers=right)).json()["data"]["a"] == "1"
                for header in (
                    {},
                    {"Authorization": f"Bearer {PACKAGE}:wrong"},
                    {"Authorization": "Bearer nonsense"},
                ):
                    reply = await client.get(path, headers=header)
                    assert reply.status_code == 401
                    assert "error" in reply.json()
                assert (await client.delete(f"{path}/a", headers=right)).json()["success"] is True
                assert (await client.delete(f"{path}/a", headers=right)).status_code == 404

    async def test_metrics_count_without_naming_anybody(self, world: World) -> None:
        async with world.live() as live:
            await asyncio.sleep(0)
            async with httpx.AsyncClient() as client:
                text = (await client.get(f"{world.url}/metrics")).text
            assert "sessions_alive" in text
            assert live.user not in text
            assert "inter-op.example" not in text


def contains(whole: Any, part: Any) -> bool:
    """Whether every member of `part` is in `whole`, at any depth."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(k in whole and contains(whole[k], v) for k, v in part.items())
    return bool(whole == part)
