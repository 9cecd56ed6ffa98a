"""What phones call: bodies and status codes of wire spec 2.7, 2.8 and 4.3."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from cloud.auth import hash_api_key, hash_with_api_key
from cloud.config import new_secrets
from cloud.http.ports import AppOutcome, AppView
from cloud.store.records import TokenRecord
from tests.cloud.http_world import ANNA, APP, BEN, KEY, OTHER, SECRET, http_world, record
from tests.cloud.test_webhooks import served
from wire.errors import ErrorCode
from wire.messages.glasses_to_cloud import CalendarEvent, LocationUpdate, PhoneNotification, PhotoResponse

RUNNING = AppView(APP, "connected", wanted=True, running=True, foreground=True)
JPEG = b"\xff\xd8\xff\xe0" + b"x" * 2000


async def test_a_core_token_is_exchanged_for_a_fresh_one_of_the_same_life(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        old = world.services.verifier.mint_core_token(ANNA, 1000, token_id="t1")
        for member in ("supabaseToken", "authingToken"):
            for prefix in ("/auth", "/api/auth"):
                answer = await world.post(f"{prefix}/exchange-token", json={member: old})
                assert answer.status_code == 200
                identity = world.services.verifier.verify(answer.json()["coreToken"])
                assert (identity.user_id, identity.token_id) == (ANNA, "t1")
                assert identity.expires_at is not None
                assert identity.expires_at <= time.time() + 1001
        world.services.verifier.revoked.add("t1")
        assert (await world.post("/auth/exchange-token", json={"supabaseToken": old})).status_code == 401


async def test_exchange_refuses_what_proves_nothing(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        none = await world.post("/auth/exchange-token", json={})
        assert (none.status_code, none.json()) == (400, {"error": "No token provided"})
        for bad in ("garbage", jwt.encode({"email": ANNA}, "w" * 32), 7, ["x"]):
            answer = await world.post("/auth/exchange-token", json={"supabaseToken": bad})
            assert (answer.status_code, answer.json()) == (401, {"error": "Invalid token"})


async def test_an_id_token_of_the_configured_issuer_is_exchanged(tmp_path: Path) -> None:
    from tests.cloud.test_auth import identity_provider, rsa_key

    key = rsa_key()
    async with identity_provider(key) as url:
        oidc = {"auth.oidc_issuer": "https://id", "auth.oidc_audience": "glass", "auth.oidc_jwks_url": url}
        async with http_world(tmp_path, oidc) as world:
            claims = {
                "iss": "https://id",
                "aud": "glass",
                "exp": int(time.time()) + 60,
                "email": "New@X.example",
            }
            token = jwt.encode(claims, key, algorithm="RS256", headers={"kid": "k1"})
            answer = await world.post("/auth/exchange-token", json={"supabaseToken": token})
            identity = world.services.verifier.verify(answer.json()["coreToken"])
            assert identity.user_id == "new@x.example"
            assert identity.expires_at is not None, "a token from elsewhere is not for ever"
            assert [one.token_id for one in await world.store.list_tokens("new@x.example")] == [
                identity.token_id
            ]
            foreign = jwt.encode(claims, rsa_key(), algorithm="RS256", headers={"kid": "k1"})
            assert (
                await world.post("/auth/exchange-token", json={"supabaseToken": foreign})
            ).status_code == 401


async def test_apps_are_listed_in_both_shapes_without_secrets(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        await world.store.put_app(record("system.clock", "k", preinstalled=True, name="Clock"))
        world.hub.connect(ANNA, RUNNING)
        for path in ("/api/apps/", "/api/apps/installed", "/apps/"):
            old = (await world.get(path, world.as_user())).json()
            assert old["success"] is True
            assert [app["packageName"] for app in old["data"]] == [APP, "system.clock"]
            assert old["data"][0]["is_running"] is True
            assert old["data"][0]["is_foreground"] is True
            assert old["data"][1]["is_running"] is False
            assert {"name", "publicUrl", "logoURL", "appType", "permissions"} <= set(old["data"][0])
        new = (await world.get("/api/client/apps", world.as_user())).json()
        assert set(new) == {"success", "data", "timestamp"}
        assert set(new["data"][0]) == {
            "packageName",
            "name",
            "webviewUrl",
            "logoUrl",
            "type",
            "permissions",
            "running",
            "healthy",
            "hardwareRequirements",
        }
        assert hash_api_key(KEY) not in str(old) + str(new)
        one = (await world.get(f"/api/apps/{APP}", world.as_user())).json()
        assert one["data"]["name"] == "Captions"


async def test_start_and_stop_report_the_outcome(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        world.hub.connect(ANNA, RUNNING)
        started = await world.post(f"/apps/{APP}/start", world.as_user())
        assert started.json() == {
            "success": True,
            "data": {
                "status": "started",
                "packageName": APP,
                "appState": {"activeAppSessions": [APP], "loadingApps": []},
            },
        }
        stopped = await world.post(f"/api/apps/{APP}/stop", world.as_user())
        assert stopped.json()["data"]["status"] == "stopped"
        assert world.hub.told == [("start", ANNA, APP), ("stop", ANNA, APP)]
        unknown = await world.post("/apps/no.app/start", world.as_user())
        assert (unknown.status_code, unknown.json()) == (404, {"success": False, "message": "App not found"})


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.SESSION_NOT_FOUND, 401),
        (ErrorCode.PACKAGE_NOT_FOUND, 404),
        (ErrorCode.APP_INCOMPATIBLE, 403),
        (ErrorCode.DRAINING, 503),
        (ErrorCode.GLASSES_DISCONNECTED, 503),
        (ErrorCode.TIMEOUT, 504),
        (ErrorCode.APP_UNREACHABLE, 502),
    ],
)
async def test_a_failed_start_is_never_a_success(tmp_path: Path, code: ErrorCode, status: int) -> None:
    async with http_world(tmp_path) as world:
        world.hub.outcome = AppOutcome(code, "words")
        answer = await world.post(f"/apps/{APP}/start", world.as_user())
        assert answer.status_code == status
        assert answer.json()["success"] is False


async def test_install_and_uninstall(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        await world.store.put_app(record("system.clock", "k", preinstalled=True))
        installed = await world.post(f"/api/apps/install/{OTHER}", world.as_user())
        assert installed.json() == {"success": True, "message": f"App {OTHER} installed successfully"}
        assert OTHER in await world.store.get_installed_apps(ANNA)
        gone = await world.post(f"/api/apps/uninstall/{OTHER}", world.as_user())
        assert gone.json()["success"] is True
        assert OTHER not in await world.store.get_installed_apps(ANNA)
        assert ("stop", ANNA, OTHER) in world.hub.told, "it is stopped first"
        assert world.hub.told.count(("apps changed", ANNA)) == 2
        assert (await world.post(f"/api/apps/uninstall/{OTHER}", world.as_user())).status_code == 400
        assert (await world.post("/api/apps/uninstall/system.clock", world.as_user())).status_code == 400
        assert (await world.post("/api/apps/install/no.app", world.as_user())).status_code == 404


@pytest.mark.failure("PER-01")
async def test_app_settings_show_the_users_values_over_the_defaults(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        page = (await world.get(f"/appsettings/{APP}", world.as_user())).json()
        assert page["success"] is True
        assert page["userId"] == ANNA
        assert page["settings"][0] == {"type": "group", "title": "General"}
        assert page["settings"][1]["selected"] == "en"
        saved = await world.post(f"/appsettings/{APP}", world.as_user(), {"key": "lang", "value": "de"})
        assert saved.json() == {"success": True, "message": "Settings updated successfully"}
        many = [{"key": "size", "value": 5}, {"key": "extra", "value": None}]
        assert (await world.post(f"/tpasettings/{APP}", world.as_user(), many)).status_code == 200
        page = (await world.get(f"/appsettings/{APP}", world.as_user())).json()
        assert [entry["selected"] for entry in page["settings"][1:]] == ["de", 5]
        assert world.hub.told == [("app settings", ANNA, APP)] * 2
        assert (await world.get("/appsettings/no.app", world.as_user())).json() == {"error": "App not found"}
        assert (await world.get(f"/appsettings/{APP}", world.as_user(BEN))).json()["settings"][1][
            "selected"
        ] == "en"


async def test_a_running_app_is_told_its_settings_by_webhook_too(tmp_path: Path) -> None:
    async with served() as server, http_world(tmp_path, {"webhooks.allow": ["loopback"]}) as world:
        await world.store.put_app(record(public_url=f"http://127.0.0.1:{server.port}"))
        await world.post(f"/appsettings/{APP}", world.as_user(), {"key": "lang", "value": "de"})
        assert server.seen == [], "not running: no webhook, no error"
        world.hub.connect(ANNA, RUNNING)
        answer = await world.post(f"/appsettings/{APP}", world.as_user(), {"key": "lang", "value": "fr"})
        assert answer.status_code == 200, "the app has no /settings route here; that is ignored"


async def test_phone_settings_are_kept_verbatim_except_the_credential(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        url = "/api/client/user/settings"
        assert (await world.get(url, world.as_user())).json() == {"success": True, "data": {"settings": {}}}
        body = {"settings": {"metric_system": True, "unknown_key": {"x": [1]}, "core_token": "secret"}}
        assert (await world.post(url, world.as_user(), body)).json() == {"success": True}
        await world.put(url, world.as_user(), {"settings": {"brightness": 70}})
        stored = (await world.get(url, world.as_user())).json()["data"]["settings"]
        assert stored == {"metric_system": True, "unknown_key": {"x": [1]}, "brightness": 70}
        assert await world.store.get_user_settings(ANNA) == {"metricSystemEnabled": True, "brightness": 70}
        assert world.hub.told == [("user settings", ANNA)] * 2
        await world.delete(url, world.as_user())
        assert (await world.get(url, world.as_user())).json()["data"]["settings"] == {}


async def test_reports_become_the_messages_of_the_socket(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        world.hub.connect(ANNA)
        me = world.as_user()
        event = {"eventId": "e", "title": "t", "dtStart": "1", "dtEnd": "2", "timezone": "Europe/Zurich"}
        fix = {"lat": 47.0, "lng": 8.5, "accuracy": 5.0}
        for path, body in (
            ("calendar", {"events": [event, event]}),
            ("location", {"location": fix}),
            ("location", {"coords": {"latitude": 47.0, "longitude": 8.5}}),
            ("location", fix),
            ("location/poll-response/poll_1_x", {"location": fix}),
            (
                "notifications",
                {"notificationId": "n", "app": "Mail", "title": "t", "content": "c", "timestamp": 1},
            ),
            ("notifications/dismissed", {"notificationId": "n", "notificationKey": "k", "packageName": "p"}),
            ("photo/response", {"requestId": "r", "success": False, "errorCode": "CAMERA_BUSY"}),
        ):
            answer = await world.post(f"/api/client/{path}", me, body)
            assert (answer.status_code, answer.json()) == (200, {"success": True}), path
        messages = [message for user, message in world.hub.events if user == ANNA]
        assert len(messages) == 9
        assert isinstance(messages[0], CalendarEvent)
        assert isinstance(messages[3], LocationUpdate)
        assert (messages[3].lat, messages[3].lng) == (47.0, 8.5)
        assert isinstance(messages[5], LocationUpdate)
        assert messages[5].correlation_id == "poll_1_x"
        assert isinstance(messages[6], PhoneNotification)
        assert isinstance(messages[8], PhotoResponse)
        kept = await world.store.get_location(ANNA)
        assert kept is not None
        assert (kept.lat, kept.lng) == (47.0, 8.5)


@pytest.mark.failure("CON-06")
async def test_without_a_session_the_phone_is_told_to_reconnect(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        for path, body in (
            ("device/state", {"connected": True}),
            ("calendar", {"events": [{"eventId": "e"}]}),
            ("location", {"lat": 1, "lng": 2}),
            ("notifications", {"title": "t"}),
            ("audio/configure", {"format": "pcm"}),
        ):
            answer = await world.post(f"/api/client/{path}", world.as_user(), body)
            assert (answer.status_code, answer.json()) == (503, {"error": "NO_ACTIVE_SESSION"}), path


@pytest.mark.failure("SEC-04")
async def test_malformed_reports_name_the_member(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        world.hub.connect(ANNA)
        for path, body in (
            ("location", {"lat": "north", "lng": 8.5}),
            ("location", {"lat": 91, "lng": 8.5}),
            ("location", {"location": [1, 2]}),
            ("calendar", {"events": {"x": 1}}),
            ("calendar", {"events": [1]}),
            ("notifications", {"title": {"x": 1}}),
            ("photo/response", {}),
            ("audio/configure", {"format": "mp3"}),
            ("audio/configure", {"format": "lc3", "lc3Config": {"frameSizeBytes": 30}}),
        ):
            answer = await world.post(f"/api/client/{path}", world.as_user(), body)
            assert answer.status_code == 400, (path, body)
            assert answer.json()["error"], path
        assert world.hub.events == []
        assert (
            await world.post("/api/client/calendar", world.as_user(), {"events": [{}] * 1001})
        ).status_code == 413


async def test_device_state_answers_what_was_applied_and_is_limited(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        world.hub.connect(ANNA)
        answer = await world.post(
            "/api/client/device/state", world.as_user(), {"modelName": "Even Realities G1"}
        )
        assert answer.json()["appliedState"]["modelName"] == "Even Realities G1"
        statuses = [
            (await world.post("/api/client/device/state", world.as_user(), {})).status_code for _ in range(10)
        ]
        assert statuses == [200] * 9 + [429]


async def test_audio_is_configured(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        world.hub.connect(ANNA)
        lc3 = {"sampleRate": 16000, "frameDurationMs": 10, "frameSizeBytes": 40}
        for body in (
            {"format": "lc3", "lc3Config": lc3},
            {"format": "lc3"},
            {"format": "pcm", "lc3Config": None},
        ):
            assert (await world.post("/api/client/audio/configure", world.as_user(), body)).status_code == 200
        assert [told[2:] for told in world.hub.told] == [
            ("lc3", lc3),
            ("lc3", lc3 | {"frameSizeBytes": 20}),
            ("pcm", None),
        ]


async def test_2025_phones_set_the_time_from_the_address_of_their_socket(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        world.hub.connect(ANNA, remote="127.0.0.1")
        world.hub.connect(BEN, remote="198.51.100.1")
        url, at = "/api/user-data/set-datetime", "2025-06-01T10:00:00-07:00"
        answer = await world.post(url, json={"userId": "Anna@home.example", "datetime": at})
        assert answer.json() == {"success": True, "userId": ANNA, "datetime": at}
        for user in (BEN, "nobody@x"):
            refused = await world.post(url, json={"userId": user, "datetime": at})
            assert (refused.status_code, refused.json()) == (404, {"error": "User not found"})
        assert (
            await world.post(url, world.as_user(BEN), {"userId": ANNA, "datetime": at})
        ).status_code == 404
        assert (await world.post(url, world.as_user(BEN), {"userId": BEN, "datetime": at})).status_code == 200
        assert (await world.post(url, json={"userId": ANNA})).status_code == 400


async def test_webview_tokens_and_hashes(tmp_path: Path) -> None:
    key = new_secrets(with_signing_key=True).signing_key
    async with http_world(tmp_path, {"auth.signing_key": key}) as world:
        me = world.as_user()
        temp = (await world.post("/api/auth/generate-webview-token", me, {"packageName": APP})).json()
        assert temp["success"] is True
        assert len(temp["token"]) == 64
        signed = (
            await world.post("/api/auth/generate-webview-signed-user-token", me, {"packageName": APP})
        ).json()
        assert signed["expiresIn"] == "10m"
        assert jwt.decode(signed["token"], options={"verify_signature": False})["sub"] == ANNA
        hashed = await world.post(
            "/api/auth/hash-with-api-key", me, {"stringToHash": "https://glass.example", "packageName": APP}
        )
        assert hashed.json() == {
            "success": True,
            "hash": hash_with_api_key("https://glass.example", hash_api_key(KEY)),
        }
        for name in ("generate-webview-token", "generate-webview-signed-user-token", "hash-with-api-key"):
            assert (await world.post(f"/api/auth/{name}", me, {})).status_code == 400
            assert (await world.post(f"/api/auth/{name}", me, {"packageName": "no.app"})).status_code == 404


async def test_signed_tokens_are_optional(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        answer = await world.post(
            "/api/auth/generate-webview-signed-user-token", world.as_user(), {"packageName": APP}
        )
        assert answer.status_code == 501
        assert answer.json()["success"] is False


def upload(data: bytes = JPEG, request_id: str | None = "r1", name: str = "p.jpg") -> dict[str, Any]:
    fields: dict[str, Any] = {"files": {"file": (name, data, "image/jpeg")}}
    if request_id is not None:
        fields["data"] = {"metadata": f'{{"requestId": "{request_id}"}}'}
    return fields


@pytest.mark.failure("SEC-06")
async def test_a_photo_is_taken_once_for_its_request_and_user(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        world.hub.expected.add((ANNA, "r1"))
        url = "/api/photos/upload"
        foreign = await world.post(url, world.as_user(BEN), **upload())
        unknown = await world.post(url, world.as_user(), **upload(request_id="r2"))
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.content == unknown.content
        taken = await world.post(url, world.as_user(), **upload(name="../../evil.jpg"))
        assert taken.status_code == 200
        photo_url = taken.json()["photoUrl"]
        assert photo_url.startswith("https://glass.example/api/photos/")
        assert (await world.post(url, world.as_user(), **upload())).status_code == 404, "once"
        path = photo_url.removeprefix("https://glass.example")
        assert (await world.get(path)).status_code == 401
        assert (await world.get(path, world.as_user(BEN))).status_code == 404
        mine = await world.get(path, world.as_user())
        assert mine.content == JPEG
        assert mine.headers["content-type"] == "image/jpeg"
        files = [file for file in tmp_path.rglob("*") if file.suffix in (".jpg", ".png")]  # noqa: ASYNC240
        assert [file.parent for file in files] == [tmp_path / "photos"]
        listed = (await world.get("/api/gallery", world.as_user())).json()["photos"]
        assert [photo["photoUrl"] for photo in listed] == [photo_url]
        assert (await world.get("/api/gallery", world.as_user(BEN))).json()["photos"] == []
        assert (await world.delete(f"/api/gallery/{listed[0]['id']}", world.as_user(BEN))).status_code == 404
        assert (await world.delete(f"/api/gallery/{listed[0]['id']}", world.as_user())).status_code == 200
        assert not files[0].exists()


@pytest.mark.failure("SEC-06")
async def test_an_upload_must_be_a_picture_of_bounded_size(tmp_path: Path) -> None:
    async with http_world(tmp_path, {"limits.photo_bytes_max": 5000}) as world:
        world.hub.expected.add((ANNA, "r1"))
        url, me = "/api/photos/upload", world.as_user()
        assert (await world.post(url, me, **upload(b"\xff\xd8\xff" + b"x" * 6000))).status_code == 413
        assert (await world.post(url, me, **upload(b"\xff\xd8\xff" + b"x" * 100_000))).status_code == 413
        assert (await world.post(url, me, **upload(b"<html>"))).status_code == 415
        assert (await world.post(url, me, **upload(request_id=None))).status_code == 404
        assert (await world.post(url, me, {"x": 1})).status_code == 400
        broken = await world.client.post(
            url, headers=me | {"Content-Type": "multipart/form-data; boundary=x"}, content=b"--x\r\nbroken"
        )
        assert broken.status_code == 400
        assert not (tmp_path / "photos").exists()
        assert (ANNA, "r1") in world.hub.expected, "the request still waits for its photo"


async def test_an_account_can_be_seen_exported_and_deleted(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        me = world.as_user()
        token = world.services.verifier.mint_core_token(ANNA, token_id="t1")
        await world.store.put_token(TokenRecord("t1", ANNA, "phone", 1.0, None, None))
        await world.store.storage_put(ANNA, APP, {"k": "v"})
        assert (await world.get("/api/account/me", me)).json()["email"] == ANNA
        exported = (await world.get("/api/account/export", me)).json()["data"]
        assert exported["apps"] == [{"packageName": APP, "settings": {}, "storage": {"k": "v"}}]
        assert SECRET not in str(exported)
        assert (await world.delete("/api/account", me)).json()["success"] is True
        assert await world.store.get_user(ANNA) is None
        assert ("end", ANNA, "account deleted") in world.hub.told
        assert ("revoked", ANNA, "t1") in world.hub.told
        gone = await world.get("/api/client/apps", {"Authorization": f"Bearer {token}"})
        assert gone.status_code == 401


async def test_the_small_routes_that_phones_expect(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        me = world.as_user()
        version = (await world.get("/api/client/min-version")).json()
        assert version == {"success": True, "data": {"required": "2.0.0", "recommended": "2.0.0"}}
        assert (await world.get("/api/client/livekit/token", me)).status_code == 501
        for path in ("/api/client/feedback", "/app/error-report", "/api/incidents/i1/logs"):
            assert (await world.post(path, me, {"x": 1})).json() == {"success": True}
        assert (await world.post("/api/incidents", me, {})).json()["incidentId"]
        attached = (await world.post("/api/incidents/i1/attachments", me, {})).json()
        assert attached == {"success": True, "uploaded": [], "errors": []}
        assert (await world.post("/api/client/goodbye", me)).json() == {"success": True}
        assert world.hub.told == [("end", ANNA, "logged out")]
        health = "/api/app-uptime/app-pkg-health-check"
        assert (await world.post(health, me, {"packageName": APP})).json() == {"success": True}
        world.hub.connect(ANNA, AppView(APP, "error", last_error="timeout"))
        assert (await world.post(health, me, {"packageName": APP})).json() == {"success": False}
        onboarding = f"/api/onboarding/status?packageName={APP}"
        assert (await world.get(onboarding, me)).json()["hasCompletedOnboarding"] is False
        await world.post("/api/onboarding/complete", me, {"packageName": APP})
        assert (await world.get(onboarding, me)).json()["hasCompletedOnboarding"] is True


@pytest.mark.failure("CON-12")
async def test_letter_case_of_a_user_does_not_matter(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        upper = {
            "Authorization": f"Bearer {jwt.encode({'email': 'Anna@HOME.Example'}, SECRET, algorithm='HS256')}"
        }
        assert [
            app["packageName"] for app in (await world.get("/api/client/apps", upper)).json()["data"]
        ] == [APP]
