"""What operators call, and who counts as one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cloud.auth import api_key_matches, hash_api_key
from cloud.config import SpeechConfig
from cloud.http.ports import AppOutcome
from cloud.speech.service import SpeechService
from tests.cloud.http_world import ANNA, APP, BEN, KEY, http_world
from wire.errors import ErrorCode

CAPTIONS = {
    "packageName": "com.example.captions",
    "name": "Captions",
    "publicUrl": "http://10.0.0.5:3000/",
    "permissions": ["MICROPHONE", {"type": "LOCATION", "description": "why"}],
    "appType": "background",
}


async def test_an_app_is_created_with_a_key_shown_once(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        made = await world.post("/api/admin/apps", world.as_admin(), CAPTIONS)
        assert made.status_code == 201
        key = made.json()["apiKey"]
        stored = await world.store.get_app("com.example.captions")
        assert stored is not None
        assert api_key_matches(key, stored.hashed_api_key)
        assert stored.public_url == "http://10.0.0.5:3000"
        assert [permission.type for permission in stored.permissions] == ["MICROPHONE", "LOCATION"]
        assert "webhooks.allow" in made.json()["warnings"][0], "a private address is pointed out"
        again = await world.post("/api/admin/apps", world.as_admin(), CAPTIONS | {"name": "New name"})
        assert again.status_code == 200
        assert "apiKey" not in again.json()
        assert again.json()["app"]["name"] == "New name"
        kept = await world.store.get_app("com.example.captions")
        assert kept is not None
        assert kept.hashed_api_key == stored.hashed_api_key
        everything = (await world.get("/api/admin/apps", world.as_admin())).text
        assert key not in everything
        assert stored.hashed_api_key not in everything
        one = (await world.get("/api/admin/apps/com.example.captions", world.as_admin())).json()["app"]
        assert (await world.post("/api/admin/apps", world.as_admin(), one)).status_code == 200, (
            "export = import"
        )


async def test_a_key_can_be_given_and_installation_ordered(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        body = CAPTIONS | {"apiKey": "my-own-key", "installFor": [BEN, "New@User.example"]}
        made = await world.post("/api/admin/apps", world.as_admin(), body)
        assert "apiKey" not in made.json()
        assert "com.example.captions" in await world.store.get_installed_apps(BEN)
        assert "com.example.captions" in await world.store.get_installed_apps("new@user.example")
        assert world.store.apps["com.example.captions"].hashed_api_key == hash_api_key("my-own-key")
        changed = await world.post("/api/admin/apps", world.as_admin(), CAPTIONS | {"apiKey": "another-key"})
        assert changed.status_code == 200
        assert ("close app", "com.example.captions", "API key changed") in world.hub.told
        await world.post("/api/admin/apps", world.as_admin(), CAPTIONS | {"installFor": "all"})
        assert world.store.apps["com.example.captions"].preinstalled


@pytest.mark.parametrize(
    ("change", "member"),
    [
        ({"packageName": "bad name"}, "packageName"),
        ({"packageName": "../x"}, "packageName"),
        ({"packageName": None}, "packageName"),
        ({"publicUrl": "ftp://x"}, "publicUrl"),
        ({"publicUrl": "http://user:pw@x"}, "publicUrl"),
        ({"publicUrl": None}, "publicUrl"),
        ({"permissions": ["MICROFONE"]}, "permissions"),
        ({"appType": "other"}, "appType"),
        ({"hashedApiKey": "short"}, "hashedApiKey"),
        ({"settings": "x"}, "settings"),
        ({"installFor": "some"}, "installFor"),
        ({"installFor": [7]}, "user"),
    ],
)
async def test_a_bad_record_is_refused_by_member(
    tmp_path: Path, change: dict[str, object], member: str
) -> None:
    async with http_world(tmp_path) as world:
        answer = await world.post("/api/admin/apps", world.as_admin(), CAPTIONS | change)
        assert answer.status_code == 400
        assert member in answer.json()["error"]
        assert "com.example.captions" not in world.store.apps


@pytest.mark.failure("SEC-14")
async def test_rotating_a_key_or_removing_an_app_ends_its_connections(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        rotated = (await world.post(f"/api/admin/apps/{APP}/rotate-key", world.as_admin())).json()
        assert rotated["apiKey"] != KEY
        assert (await world.get(f"/api/sdk/simple-storage/{ANNA}", world.as_app())).status_code == 401
        good = world.as_app(APP, rotated["apiKey"])
        assert (await world.get(f"/api/sdk/simple-storage/{ANNA}", good)).status_code == 200
        assert (await world.delete(f"/api/admin/apps/{APP}", world.as_admin())).json() == {"deleted": APP}
        assert (await world.delete(f"/api/admin/apps/{APP}", world.as_admin())).status_code == 404
        assert [told[0] for told in world.hub.told].count("close app") == 2
        assert (await world.get(f"/api/sdk/simple-storage/{ANNA}", good)).status_code == 401


async def test_users_and_tokens(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        admin = world.as_admin()
        new = await world.post("/api/admin/users", admin, {"user": "Carl@X.example", "displayName": "Carl"})
        assert (new.status_code, new.json()["user"]["user_id"]) == (201, "carl@x.example")
        assert (await world.post("/api/admin/users", admin, {"user": "carl@x.example"})).status_code == 200
        listed = (await world.get("/api/admin/users", admin)).json()["users"]
        assert [user["user_id"] for user in listed] == [ANNA, BEN, "carl@x.example"]
        made = await world.post(
            "/api/admin/tokens", admin, {"user": "dora@x.example", "label": "phone", "ttl": 60}
        )
        assert made.status_code == 201
        identity = world.services.verifier.verify(made.json()["token"])
        assert identity.user_id == "dora@x.example"
        assert identity.expires_at is not None
        tokens = (await world.get("/api/admin/tokens?user=dora@x.example", admin)).json()["tokens"]
        assert [token["token_id"] for token in tokens] == [made.json()["tokenId"]]
        assert made.json()["token"] not in str(tokens)
        gone = await world.delete(f"/api/admin/tokens/{made.json()['tokenId']}", admin)
        assert gone.status_code == 200
        assert ("revoked", "dora@x.example", made.json()["tokenId"]) in world.hub.told
        with_it = {"Authorization": f"Bearer {made.json()['token']}"}
        assert (await world.get("/api/client/apps", with_it)).status_code == 401
        assert (await world.delete("/api/admin/tokens/unknown", admin)).status_code == 404
        assert (await world.delete("/api/admin/users/dora@x.example", admin)).status_code == 200
        assert (await world.delete("/api/admin/users/dora@x.example", admin)).status_code == 404
        for bad in ({}, {"user": "a b"}, {"user": ANNA, "ttl": "long"}, {"user": ANNA, "ttl": True}):
            assert (await world.post("/api/admin/tokens", admin, bad)).status_code == 400


async def test_sessions_are_shown_and_controlled(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        admin = world.as_admin()
        none = (await world.get("/api/admin/sessions", admin)).json()
        assert none == {"sessions": [], "total": 0, "next": None, "silent": []}
        assert (await world.get("/api/admin/sessions?limit=many", admin)).status_code == 400
        assert (await world.get(f"/api/admin/sessions/{ANNA}", admin)).status_code == 404
        world.hub.connect(ANNA)
        shown = (await world.get("/api/admin/sessions", admin)).json()["sessions"]
        assert (shown[0]["user_id"], shown[0]["state"]) == (ANNA, "connected")
        assert (await world.get(f"/api/admin/sessions/{ANNA}", admin)).json()["user_id"] == ANNA
        assert (await world.post(f"/api/admin/sessions/{ANNA}/apps/{APP}/start", admin)).json() == {
            "ok": True
        }
        world.hub.outcome = AppOutcome(ErrorCode.TIMEOUT, "no answer in 9 s")
        failed = await world.post(f"/api/admin/sessions/{ANNA}/apps/{APP}/stop", admin)
        assert (failed.status_code, failed.json()) == (502, {"error": "no answer in 9 s", "code": "TIMEOUT"})
        said = await world.post(
            f"/api/admin/sessions/{ANNA}/say", admin, {"text": "hello", "language": "de-DE"}
        )
        assert said.json() == {"said": True}
        assert ("say", ANNA, "hello", "de-DE", True) in world.hub.told
        assert (await world.post(f"/api/admin/sessions/{BEN}/say", admin, {"text": "x"})).status_code == 409
        for bad in ({}, {"text": ""}, {"text": 1}, {"text": "x", "language": ""}):
            assert (await world.post(f"/api/admin/sessions/{ANNA}/say", admin, bad)).status_code == 400
        assert (await world.delete(f"/api/admin/sessions/{ANNA}", admin)).json() == {"ended": True}
        assert (await world.delete(f"/api/admin/sessions/{ANNA}", admin)).status_code == 404


async def test_the_trace_can_be_followed(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        admin = world.as_admin()
        world.hub.records = [{"seq": 1, "event": "a"}, {"seq": 2, "event": "b"}]
        assert len((await world.get("/api/admin/trace", admin)).json()["events"]) == 2
        assert (await world.get("/api/admin/trace?since=1", admin)).json()["events"] == [
            {"seq": 2, "event": "b"}
        ]
        assert (await world.get("/api/admin/trace?since=2", admin)).json()["events"] == []
        following = asyncio.ensure_future(world.get("/api/admin/trace?since=2&wait=20", admin))
        await asyncio.sleep(0.05)
        world.hub.records.append({"seq": 3, "event": "c"})
        assert (await following).json()["events"] == [{"seq": 3, "event": "c"}]
        assert (await world.get("/api/admin/trace?since=x", admin)).status_code == 400


@pytest.mark.failure("PRO-05")
async def test_drain_answers_first_and_readiness_follows(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        assert (await world.get("/readyz")).json()["status"] == "ready"
        assert (await world.post("/api/admin/drain", world.as_admin())).status_code == 202
        ready = await world.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"] == {"storage": "ok", "drain": "draining", "load": "ok"}


@pytest.mark.failure("SEC-03")
async def test_the_configuration_is_shown_without_secrets(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        answer = await world.get("/api/admin/config", world.as_admin())
        shown = {setting["key"]: setting for setting in answer.json()["settings"]}
        assert shown["port"]["value"] == "8002"
        assert shown["auth.secret"]["origin"] == "flag"
        assert "ssss" not in answer.text


async def test_where_audio_goes_is_shown(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        shown = (await world.get("/api/admin/speech", world.as_admin())).json()
        assert shown == {"provider": "off", "where": None, "state": "off"}
        config = SpeechConfig(provider="wyoming:tcp://10.0.0.5:10300")
        world.services.speech = SpeechService.make(config, world.services.metrics)
        shown = (await world.get("/api/admin/speech", world.as_admin())).json()
        assert shown["where"] == "tcp://10.0.0.5:10300"
        assert shown["state"] == "ok"


async def test_dev_is_open_to_programs_on_this_machine_but_not_to_web_pages(tmp_path: Path) -> None:
    async with http_world(tmp_path, {"profile": "dev"}) as world:
        url = "/api/admin/sessions"
        local = {"Host": "127.0.0.1:8002"}
        assert (await world.get(url, local)).status_code == 200
        assert (await world.get(url, {"Host": "localhost:8002"})).status_code == 200
        assert (await world.get(url, local | {"Origin": "http://127.0.0.1:8002"})).status_code == 200
        assert (await world.get(url, local | {"Origin": "https://evil.example"})).status_code == 401
        assert (await world.get(url, {"Host": "rebound.evil.example:8002"})).status_code == 401
        assert (await world.get(url, local | {"Authorization": "Bearer wrong"})).status_code == 401
