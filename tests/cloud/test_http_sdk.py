"""What app servers and web views call: wire spec 5 and 4.4."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cloud.auth import hash_api_key
from cloud.core.settings import app_settings
from cloud.http.ports import AppView
from cloud.listener import Listener, Reject
from tests.cloud.http_world import ANNA, APP, BEN, KEY, OTHER, OTHER_KEY, http_world, record

RUNNING = AppView(APP, "connected", running=True)


async def test_permissions_are_public(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        answer = await world.get(f"/api/public/permissions/{APP}")
        assert answer.json() == {
            "success": True,
            "packageName": APP,
            "permissions": [{"type": "MICROPHONE", "description": "to hear", "required": False}],
        }
        assert (await world.get("/api/public/permissions/no.app")).status_code == 404


@pytest.mark.failure("CON-11")
async def test_settings_are_read_with_the_session_id_as_bearer(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        session = f"some-one@my-home.example-{APP}"
        world.hub.owners[session] = (ANNA, APP)
        await world.store.put_app_settings(ANNA, APP, {"lang": "fr", "old": 1})
        for prefix in ("appsettings", "tpasettings"):
            answer = await world.get(f"/{prefix}/user/{APP}", {"Authorization": f"Bearer {session}"})
            record = await world.store.get_app(APP)
            assert record is not None
            assert answer.json() == {
                "success": True,
                "settings": app_settings(record.settings, {"lang": "fr", "old": 1}),
            }, "the same list as in the acknowledgement"
        other = await world.get(f"/appsettings/user/{OTHER}", {"Authorization": f"Bearer {session}"})
        assert (other.status_code, other.json()) == (404, {"error": "App not found"})
        guessed = await world.get(f"/appsettings/user/{APP}", {"Authorization": f"Bearer {BEN}-{APP}"})
        assert guessed.status_code == 401, "an id is worth something only while that app session lives"


async def test_simple_storage_as_the_sdk_uses_it(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        url, app = "/api/sdk/simple-storage/anna%40home.example", world.as_app()
        assert (await world.get(url, app)).json() == {"success": True, "data": {}}
        assert (await world.put(url, app, {"data": {"k1": "v1", "k/2": "v2"}})).status_code == 200
        assert (await world.get(url, app)).json()["data"] == {"k1": "v1", "k/2": "v2"}
        assert (await world.get(f"{url}/k1", app)).json() == {"success": True, "data": "v1"}
        assert (await world.put(f"{url}/k1", app, {"value": "new"})).json()["success"] is True
        assert (await world.get(f"{url}/k%2F2", app)).json()["data"] == "v2"
        assert (await world.delete(f"{url}/k1", app)).json()["success"] is True
        missing = await world.delete(f"{url}/k1", app)
        assert (missing.status_code, missing.json()["success"]) == (404, False)
        assert (await world.get(f"{url}/k1", app)).status_code == 404
        assert (await world.delete(url, app)).json()["success"] is True
        assert (await world.get(url, app)).json()["data"] == {}


@pytest.mark.failure("PER-04")
async def test_simple_storage_is_limited_and_private(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        url = f"/api/sdk/simple-storage/{ANNA}"
        await world.store.install_app(ANNA, OTHER)
        await world.put(url, world.as_app(), {"data": {"mine": "1"}})
        assert (await world.get(url, world.as_app(OTHER, OTHER_KEY))).json()["data"] == {}
        large = await world.put(url, world.as_app(), {"data": {"k": "x" * 103_000}})
        assert large.status_code == 413
        for bad in ({"data": {"k": 1}}, {"data": ["x"]}, {}):
            assert (await world.put(url, world.as_app(), bad)).status_code == 400
        statuses = [(await world.get(url, world.as_app())).status_code for _ in range(100)]
        assert statuses[-1] == 429
        world.now += 60.0
        assert (await world.get(url, world.as_app())).status_code == 200


async def test_an_app_keeps_data_for_users_who_have_it(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        ben = f"/api/sdk/simple-storage/{BEN}"
        assert (await world.put(ben, world.as_app(), {"data": {"k": "v"}})).status_code == 404
        world.hub.connect(BEN, RUNNING)
        assert (await world.put(ben, world.as_app(), {"data": {"k": "v"}})).status_code == 200
        await world.store.put_app(record("system.clock", "k", preinstalled=True))
        assert (await world.get(ben, world.as_app("system.clock", "k"))).status_code == 200


async def test_a_temporary_token_is_exchanged_once(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:

        async def issue() -> str:
            made = await world.post("/api/auth/generate-webview-token", world.as_user(), {"packageName": APP})
            return str(made.json()["token"])

        url, body = "/api/auth/exchange-user-token", {"aos_temp_token": await issue(), "packageName": APP}
        good = await world.post(url, world.as_key(), body)
        assert good.json() == {"success": True, "userId": ANNA}
        again = await world.post(url, world.as_key(), body)
        assert (again.status_code, again.json()) == (
            401,
            {"success": False, "error": "Invalid or expired token"},
        )
        stolen = {"aos_temp_token": await issue(), "packageName": OTHER}
        assert (await world.post(url, world.as_key(OTHER_KEY), stolen)).status_code == 401
        late = {"aos_temp_token": await issue(), "packageName": APP}
        world.now += 61.0
        assert (await world.post(url, world.as_key(), late)).status_code == 401
        missing = await world.post(url, world.as_key(), {"packageName": APP})
        assert (missing.status_code, missing.json()) == (
            400,
            {"success": False, "error": "Missing aos_temp_token"},
        )
        wrong_key = {"aos_temp_token": await issue(), "packageName": APP}
        assert (await world.post(url, world.as_key("wrong"), wrong_key)).status_code == 401


async def test_users_of_the_same_app_find_each_other(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        url = "/api/app-communication/discover-users"
        world.hub.connect(ANNA, RUNNING)
        world.hub.connect(BEN, RUNNING)
        body = {"packageName": APP, "userId": ANNA, "includeUserProfiles": True}
        found = (await world.post(url, world.as_key(), body)).json()
        assert found["totalUsers"] == 1
        assert found["users"][0]["userId"] == BEN
        assert found["users"][0]["joinedAt"].endswith("Z")
        assert found["users"][0]["userProfile"]["displayName"] == BEN
        plain = (await world.post(url, world.as_key(), body | {"includeUserProfiles": False})).json()
        assert "userProfile" not in plain["users"][0]
        nobody = await world.post(
            "/api/tpa-communication/discover-users", world.as_key(), body | {"userId": "x@y"}
        )
        assert (nobody.status_code, nobody.json()["error"]) == (404, "No active session found for user")
        no_package = await world.post(url, world.as_key(), {"userId": ANNA})
        assert (no_package.status_code, no_package.json()["error"]) == (400, "packageName is required")


async def test_app_servers_register_and_bring_their_users_back(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        base, app = "/api/app-server", world.as_app()
        body = {
            "webhookUrl": "http://10.0.0.5:3000/webhook",
            "serverUrls": "http://10.0.0.5:3000, http://b:1",
        }
        made = (await world.post(f"{base}/register", app, body)).json()
        assert made["success"] is True
        assert made["recoveredSessions"] == 2
        one = {"registrationId": made["registrationId"]}
        stored = await world.store.get_registration(made["registrationId"])
        assert stored is not None
        assert stored.server_urls == ("http://10.0.0.5:3000", "http://b:1")
        world.hub.connect(ANNA, RUNNING)
        assert (await world.post(f"{base}/heartbeat", app, one)).json()["activeSessions"] == 1
        assert (await world.post(f"{base}/restart", app, one)).json()["recoveredSessions"] == 2
        assert world.hub.told.count(("restarted", APP)) == 2
        foreign = await world.post(f"{base}/heartbeat", world.as_app(OTHER, OTHER_KEY), one)
        unknown = await world.post(f"{base}/heartbeat", app, {"registrationId": "x"})
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.content == unknown.content
        listed = (await world.get("/api/admin/registrations", world.as_admin())).json()["registrations"]
        assert listed[0]["activeSessions"] == 1
        path = f"{base}/unregister/{made['registrationId']}"
        assert (await world.delete(path, app)).status_code == 200
        assert (await world.delete(path, app)).status_code == 404
        for bad in ({"webhookUrl": "ftp://x"}, {"webhookUrl": 1}, {"serverUrls": ["x"]}, {"serverUrls": 5}):
            assert (await world.post(f"{base}/register", app, bad)).status_code == 400
        for _ in range(40):
            await world.post("/api/tpa-server/register", app, {})
        assert len(await world.store.list_registrations(APP)) == 32


@contextlib.asynccontextmanager
async def tool_server() -> AsyncIterator[tuple[int, list[tuple[dict[str, object], str]]]]:
    calls: list[tuple[dict[str, object], str]] = []

    async def tool(request: Request) -> Response:
        body = await request.json()
        calls.append((body, request.headers["x-app-api-key"]))
        if body["toolParameters"].get("fail"):
            return JSONResponse({"status": "error", "message": "boom"}, status_code=500)
        return JSONResponse({"status": "success", "reply": "done"})

    listener = Listener(
        http_app=Starlette(routes=[Route("/tool", tool, methods=["POST"])]),
        upgrade=lambda request: Reject(404, {}),
    )
    _, port = await listener.start("127.0.0.1", 0)
    try:
        yield port, calls
    finally:
        await listener.close()


async def test_a_tool_runs_in_the_app_for_its_user(tmp_path: Path) -> None:
    async with (
        tool_server() as (port, calls),
        http_world(tmp_path, {"webhooks.allow": ["loopback"]}) as world,
    ):
        await world.store.put_app(
            record(public_url=f"http://127.0.0.1:{port}", tools=({"id": "add", "description": "Adds"},))
        )
        url, me = f"/api/tools/apps/{APP}/tool", world.as_user()
        body = {"toolId": "add", "toolParameters": {"a": 1}, "userId": ANNA}
        assert (await world.post(url, me, body)).json() == {"status": "success", "reply": "done"}
        sent, key = calls[0]
        assert key == hash_api_key(KEY)
        assert {"toolId", "toolParameters", "timestamp", "userId"} == set(sent)
        failed = await world.post(url, me, body | {"toolParameters": {"fail": True}})
        assert (failed.status_code, failed.json()["message"]) == (500, "boom")
        assert len(calls) == 2, "a tool that answered is not run again"
        for bad, message in (
            ({"userId": ANNA}, "Missing required fields: toolId"),
            ({"toolId": "add"}, "Missing required fields: userId"),
        ):
            answer = await world.post(url, me, bad)
            assert answer.status_code == 400
            assert answer.json() == {"error": True, "message": message, "details": {}}
        assert (await world.post(url, me, body | {"toolId": "nope"})).status_code == 404
        tools = (await world.get(f"/api/tools/apps/{APP}/tools", me)).json()
        assert tools == [{"id": "add", "description": "Adds"}]
        mine = (await world.get(f"/api/tools/users/{ANNA}/tools", me)).json()
        assert mine == [{"id": "add", "description": "Adds", "appPackageName": APP}]


@pytest.mark.failure("SEC-08")
async def test_a_tool_at_a_forbidden_address_is_not_called(tmp_path: Path) -> None:
    async with tool_server() as (port, calls), http_world(tmp_path) as world:
        await world.store.put_app(record(public_url=f"http://127.0.0.1:{port}"))
        body = {"toolId": "add", "toolParameters": {}, "userId": ANNA}
        answer = await world.post(f"/api/tools/apps/{APP}/tool", world.as_user(), body)
        assert (answer.status_code, answer.json()["error"]) == (500, True)
        assert "forbidden_address" in answer.json()["message"]
        assert calls == []


async def test_speech_is_501_until_an_endpoint_is_configured(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        for path in ("/api/tts", "/api/audio/tts"):
            answer = await world.get(path, params={"text": "hello"})
            assert answer.status_code == 501
            assert "speech.tts_url" in answer.json()["message"]
            assert (await world.get(path)).json() == {"success": False, "message": "text is required"}


async def test_speech_is_streamed_from_the_endpoint_and_limited_by_address(tmp_path: Path) -> None:
    asked: list[dict[str, object]] = []

    async def speak(request: Request) -> Response:
        asked.append(await request.json())
        if request.headers.get("authorization") != "Bearer provider-key":
            return Response(status_code=401)
        return Response(b"ID3 mp3 bytes", media_type="audio/mpeg")

    provider = Listener(
        http_app=Starlette(routes=[Route("/v1/audio/speech", speak, methods=["POST"])]),
        upgrade=lambda request: Reject(404, {}),
    )
    _, port = await provider.start("127.0.0.1", 0)
    url = f"http://127.0.0.1:{port}/v1/audio/speech"
    try:
        settings = {"speech.tts_url": url, "speech.api_key": "provider-key"}
        async with http_world(tmp_path, settings) as world:
            spoken = await world.get("/api/tts", params={"text": "hello", "voice_id": "nova"})
            assert spoken.headers["content-type"] == "audio/mpeg"
            assert spoken.content == b"ID3 mp3 bytes"
            assert asked[0]["voice"] == "nova"
            assert asked[0]["input"] == "hello"
            assert (await world.get("/api/tts", params={"text": "x" * 9000})).status_code == 413
            statuses = [(await world.get("/api/tts", params={"text": "x"})).status_code for _ in range(10)]
            assert statuses == [200] * 9 + [429]
        async with http_world(tmp_path / "other", {"speech.tts_url": url}) as world:
            assert (await world.get("/api/tts", params={"text": "hello"})).status_code == 502
        async with http_world(tmp_path / "third", {"speech.tts_url": "http://127.0.0.1:1/"}) as world:
            assert (await world.get("/api/tts", params={"text": "hello"})).status_code == 502
    finally:
        await provider.close()


@pytest.mark.failure("SEC-11")
async def test_an_audio_stream_is_found_by_its_secret_id_in_any_case(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        stream = "0f8fad5b-d9cb-469f-a165-70867728950e"
        world.hub.streams[ANNA, stream] = [b"mp3", b"data"]
        for spelling in (stream, stream.upper()):
            answer = await world.get(f"/api/audio/stream/{ANNA}/{spelling}")
            assert answer.content == b"mp3data"
            assert answer.headers["content-type"] == "audio/mpeg"
        assert (await world.get(f"/api/audio/stream/{BEN}/{stream}")).status_code == 404
        assert (await world.get(f"/api/audio/stream/{ANNA}/other")).status_code == 404
