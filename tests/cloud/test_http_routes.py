"""Who may call what: every route of the table, walked without a credential and with the wrong ones."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from cloud.http.app import route_table
from cloud.http.routing import Auth, RouteSpec
from tests.cloud.http_world import ANNA, APP, BEN, OTHER, OTHER_KEY, HttpWorld, http_world

TABLE = route_table()

#: The whole list of what anybody may call; a new entry here is a decision, not an accident.
PUBLIC = {
    "GET /health",
    "GET /livez",
    "GET /readyz",
    "GET /metrics",
    "POST /auth/exchange-token",
    "POST /api/auth/exchange-token",
    "GET /api/client/min-version",
    "GET /api/public/permissions/{package}",
    "GET /api/tts",
    "GET /api/audio/tts",
    "GET /api/audio/stream/{user_id}/{stream_id}",
    "POST /app/error-report",
}


def name(spec: RouteSpec) -> str:
    return f"{spec.method} {spec.path}"


def concrete(path: str) -> str:
    values = {"package": APP, "user_id": ANNA, "user": ANNA, "key:path": "k"}
    return re.sub(r"\{([^}]+)\}", lambda match: values.get(match[1], "x" * 36), path)


async def call(world: HttpWorld, spec: RouteSpec, headers: dict[str, str]) -> httpx.Response:
    body = (
        {}
        if spec.method in ("GET", "DELETE")
        else {"json": {"packageName": APP, "userId": ANNA, "datetime": "now"}}
    )
    return await world.client.request(spec.method, concrete(spec.path), headers=headers, **body)


def test_no_route_is_listed_twice() -> None:
    assert len({name(spec) for spec in TABLE}) == len(TABLE)


@pytest.mark.failure("SEC-02")
def test_the_public_routes_are_exactly_these() -> None:
    assert {name(spec) for spec in TABLE if spec.auth is Auth.PUBLIC} == PUBLIC


@pytest.mark.failure("SEC-02")
async def test_no_other_route_answers_without_a_credential(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        world.hub.connect(ANNA, remote="198.51.100.1")
        for spec in TABLE:
            if spec.auth is Auth.PUBLIC:
                continue
            answer = await call(world, spec, {})
            expected = 404 if spec.auth is Auth.PHONE else 401
            assert answer.status_code == expected, name(spec)
        assert world.hub.told == []
        assert world.hub.events == []


@pytest.mark.failure("SEC-02")
async def test_the_wrong_kind_of_credential_opens_nothing(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        world.hub.connect(ANNA, remote="198.51.100.1")
        credentials = {
            "garbage": {"Authorization": "Bearer garbage"},
            "basic": {"Authorization": "Basic Z2FyYmFnZTpnYXJiYWdl"},
            "empty": {"Authorization": ""},
            Auth.USER: world.as_user(),
            Auth.APP: world.as_app(),
            Auth.APP_KEY: world.as_key(OTHER_KEY),
            Auth.ADMIN: world.as_admin(),
        }
        fits = {Auth.PHONE: (Auth.USER,)}
        for spec in TABLE:
            if spec.auth is Auth.PUBLIC:
                continue
            for kind, headers in credentials.items():
                if kind is spec.auth or kind in fits.get(spec.auth, ()):
                    continue
                answer = await call(world, spec, headers)
                expected = {401, 404} if spec.auth is Auth.PHONE else {401}
                assert answer.status_code in expected, (name(spec), kind, answer.text)
        assert world.hub.told == []


@pytest.mark.failure("SEC-06")
async def test_a_foreign_id_gets_the_answer_of_an_unknown_one(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        world.hub.connect(ANNA)
        await world.store.storage_put(BEN, APP, {"secret": "canary"})

        async def same(
            method: str, foreign: str, unknown: str, headers: dict[str, str], **kwargs: object
        ) -> None:
            answers = [
                await world.client.request(method, path, headers=headers, **kwargs)  # type: ignore[arg-type]
                for path in (foreign, unknown)
            ]
            assert answers[0].status_code in (401, 403, 404)
            assert answers[0].status_code == answers[1].status_code
            assert answers[0].content == answers[1].content

        storage = "/api/sdk/simple-storage"
        for method in ("GET", "DELETE"):
            await same(method, f"{storage}/{BEN}", f"{storage}/nobody@x", world.as_app())
            await same(method, f"{storage}/{BEN}/secret", f"{storage}/nobody@x/secret", world.as_app())
        await same(
            "PUT", f"{storage}/{BEN}", f"{storage}/nobody@x", world.as_app(), json={"data": {"a": "b"}}
        )
        await same("GET", f"/api/tools/users/{BEN}/tools", "/api/tools/users/nobody@x/tools", world.as_user())
        await same("GET", f"/api/tools/apps/{OTHER}/tools", "/api/tools/apps/no.app/tools", world.as_user())
        tool = {"toolId": "add", "userId": ANNA}
        await same(
            "POST", f"/api/tools/apps/{OTHER}/tool", "/api/tools/apps/no.app/tool", world.as_user(), json=tool
        )
        assert (await world.store.storage_all(BEN, APP)) == {"secret": "canary"}
        for foreign_user in (BEN, "nobody@x"):
            answer = await world.post(
                f"/api/tools/apps/{APP}/tool", world.as_user(), {"toolId": "add", "userId": foreign_user}
            )
            assert answer.status_code == 404
            answer = await world.post(
                "/api/app-communication/discover-users",
                world.as_key(),
                {"packageName": APP, "userId": foreign_user},
            )
            assert answer.status_code == 404


@pytest.mark.failure("SEC-09")
async def test_an_unknown_app_and_a_wrong_key_look_the_same(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        path = f"/api/sdk/simple-storage/{ANNA}"
        wrong = await world.get(path, world.as_app(APP, "wrong"))
        unknown = await world.get(path, world.as_app("no.app", "wrong"))
        crossed = await world.get(path, world.as_app(APP, OTHER_KEY))
        assert wrong.status_code == unknown.status_code == crossed.status_code == 401
        assert wrong.content == unknown.content == crossed.content


async def test_error_bodies_have_the_shape_of_their_family(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        assert (await world.get("/appsettings/x")).json()["error"] == "Authorization header missing"
        assert (await world.get("/appsettings/x", {"Authorization": "Token x"})).json()["error"] == (
            "Invalid Authorization header format"
        )
        apps = (await world.get("/api/apps/")).json()
        assert apps["success"] is False
        assert apps["message"] == "Authorization header missing"
        token = (await world.post("/api/auth/generate-webview-token")).json()
        assert token["success"] is False
        assert token["error"] == "Authorization header missing"
        assert (await world.get("/nowhere")).json() == {"error": "Not Found"}
        assert (await world.client.put("/health")).status_code == 405


async def test_bodies_are_bounded_and_must_be_json(tmp_path: Path) -> None:
    async with http_world(tmp_path, {"limits.body_bytes_max": 2000}) as world:
        world.hub.connect(ANNA)
        url = "/api/client/user/settings"
        headers = world.as_user()
        assert (await world.client.post(url, headers=headers, content=b"x" * 3000)).status_code == 413

        async def endless() -> object:
            for _ in range(100):
                yield b" " * 100

        streamed = await world.client.post(url, headers=headers, content=endless())  # type: ignore[arg-type]
        assert streamed.status_code == 413
        for bad in (
            b"not json",
            b"[1]",
            b'"x"',
            b"\xff",
            b"[" * 1500,
            b'{"settings": NaN}',
            b'{"settings": []}',
        ):
            assert (await world.client.post(url, headers=headers, content=bad)).status_code == 400, bad
        for bad in (b"[1]", b"[", b'[["x"]]', b'[{"key": 1, "value": 2}]', b'{"key": "x"}'):
            answer = await world.client.post(f"/appsettings/{APP}", headers=headers, content=bad)
            assert answer.status_code == 400, bad


async def test_requests_are_limited_per_identity(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        headers = world.as_user()
        statuses = [(await world.get("/api/client/apps", headers)).status_code for _ in range(101)]
        assert statuses == [200] * 100 + [429]
        refused = await world.get("/api/client/apps", headers)
        assert refused.headers["Retry-After"] == "1"
        assert refused.json()["code"] == "RATE_LIMITED"
        assert (await world.get("/api/client/apps", world.as_user(BEN))).status_code == 200
        world.now += 1.0
        assert (await world.get("/api/client/apps", headers)).status_code == 200


@pytest.mark.failure("PER-03")
async def test_failing_storage_is_a_retryable_answer(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        await world.store.close()
        answer = await world.get("/api/client/user/settings", world.as_user())
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "2"
        assert (await world.get("/livez")).status_code == 200
        ready = await world.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["storage"] != "ok"


@pytest.mark.failure("PRO-01")
async def test_a_bug_in_a_handler_is_one_500_without_detail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with http_world(tmp_path) as world:
        world.hub.user_ids = lambda: 1 / 0  # type: ignore[assignment,method-assign,return-value]
        answer = await world.get("/api/admin/sessions", world.as_admin())
        assert answer.status_code == 500
        assert answer.json() == {"error": "Internal server error", "code": "INTERNAL_ERROR"}
        assert "GET /api/admin/sessions failed" in caplog.text


async def test_cors_is_open_for_web_views_and_closed_for_administration(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        origin = {"Origin": "https://app.example"}
        preflight = origin | {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        answer = await world.client.options("/api/auth/generate-webview-token", headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert answer.headers["access-control-allow-credentials"] == "true"
        closed = await world.client.options("/api/admin/sessions", headers=preflight)
        assert "access-control-allow-origin" not in closed.headers
        answer = await world.get("/api/admin/sessions", world.as_admin() | origin)
        assert "access-control-allow-origin" not in answer.headers


async def test_requests_are_counted_by_route_not_by_path(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        await world.get(f"/api/sdk/simple-storage/{ANNA}", world.as_app())
        text = (await world.get("/metrics")).text
        assert 'route="GET /api/sdk/simple-storage/{user_id}",status="200"' in text
        assert ANNA not in text
