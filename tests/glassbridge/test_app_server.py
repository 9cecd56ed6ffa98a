"""The app server's HTTP side: who may start it, what it answers, photos and tools."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from glassbridge.app import App, PhotoFailed, Session, ToolCall
from tests.support.app_cloud import PATIENCE, app_cloud, signed


def make_app(cloud: str | None = None) -> App:
    app = App("org.example.test", api_key="key", port=0, cloud=cloud)

    @app.on_session
    async def on_session(session: Session) -> None:
        pass

    return app


async def test_health_names_the_app() -> None:
    async with app_cloud(app := make_app()) as cloud:
        await cloud.start()
        reply = await cloud._client.get(f"http://127.0.0.1:{app.port}/health")
        assert reply.json() == {"status": "healthy", "app": "org.example.test", "activeSessions": 1}


@pytest.mark.failure("SEC-13")
async def test_only_a_fresh_request_signed_with_the_key_is_believed_once_a_cloud_is_set() -> None:
    app = make_app(cloud="127.0.0.1")
    async with app_cloud(app) as cloud:
        body = cloud.session_request()
        forged: list[dict[str, str]] = [
            {},
            signed("another key", body, time.time()),
            signed("key", {**body, "userId": "eve@example.com"}, time.time()),
            signed("key", body, time.time() - 600),
        ]
        for headers in forged:
            assert (await cloud.post("/webhook", body, headers)).status_code == 401
            assert app.sessions == ()
        assert (await cloud.post("/webhook", body, signed("key", body, time.time()))).status_code == 200
        stop = {**body, "type": "stop_request", "reason": "user_disabled"}
        assert (await cloud.post("/webhook", stop)).status_code == 401
        assert len(app.sessions) == 1
        assert (await cloud.post("/tool", {"toolId": "t", "userId": "u"})).status_code == 401


@pytest.mark.failure("SEC-13")
@pytest.mark.parametrize(
    "url", ["ws://evil.example/app-ws", "http://127.0.0.1/app-ws", "ws://[::1", "nonsense"]
)
async def test_the_key_is_never_taken_to_a_foreign_address(url: str) -> None:
    app = make_app()
    async with app_cloud(app) as cloud:
        body = {**cloud.session_request(), "mentraOSWebsocketUrl": url, "augmentOSWebsocketUrl": url}
        assert (await cloud.post("/webhook", body)).status_code == 403
        assert app.sessions == ()


async def test_in_development_a_cloud_on_this_machine_need_not_know_the_key_yet() -> None:
    app = make_app()
    async with app_cloud(app) as cloud:
        body = cloud.session_request()
        reply = await cloud.post("/webhook", body, signed("a key that the cloud made up", body, time.time()))
        assert reply.status_code == 200


async def test_a_second_start_of_the_same_session_replaces_the_first() -> None:
    app = make_app()
    stops: list[str] = []

    @app.on_stop
    async def on_stop(session: Session, reason: str) -> None:
        stops.append(reason)

    async with app_cloud(app) as cloud:
        first, _ = await cloud.start()
        second, reply = await cloud.start()
        assert reply.status_code == 200
        assert (await first.next("ownership_release"))["reason"] == "clean_shutdown"
        await first.socket.wait_closed()
        assert stops == ["the app left"]
        assert len(app.sessions) == 1
        assert second.socket.close_code is None


async def test_on_session_that_fails_answers_500_and_closes_the_connection() -> None:
    app = App("org.example.test", api_key="key", port=0)

    @app.on_session
    async def on_session(session: Session) -> None:
        raise RuntimeError("boom")

    async with app_cloud(app) as cloud:
        connection, reply = await cloud.start()
        assert reply.status_code == 500
        assert reply.json()["message"] == "a handler failed: RuntimeError"
        await connection.socket.wait_closed()


async def test_on_session_may_run_as_long_as_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glassbridge.app.server.ON_SESSION_WAIT", 0.05)
    app = App("org.example.test", api_key="key", port=0)

    @app.on_session
    async def on_session(session: Session) -> None:
        await asyncio.Event().wait()

    async with app_cloud(app) as cloud:
        _, reply = await cloud.start()
        assert reply.status_code == 200
        assert len(app.sessions) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 400), ({"type": "else"}, 400), ({"type": "session_request"}, 400), ({"type": "stop_request"}, 400)],
)
async def test_a_bad_webhook_is_answered_with_its_reason(body: dict[str, Any], status: int) -> None:
    async with app_cloud(make_app()) as cloud:
        reply = await cloud.post("/webhook", body)
        assert reply.status_code == status
        assert reply.json()["message"]


async def test_a_tool_call_gets_the_users_session_and_its_reply_is_returned() -> None:
    app = make_app()

    @app.on_tool
    async def tool(call: ToolCall) -> Any:
        assert call.session is not None
        if call.tool_id == "fail":
            raise ValueError("no such sum")
        return sum(call.parameters.values())

    async with app_cloud(app) as cloud:
        await cloud.start()
        body = {"toolId": "add", "toolParameters": {"a": 1, "b": 2}, "userId": "anna@example.com"}
        assert (await cloud.post("/tool", body)).json() == {"status": "success", "reply": 3}
        failed = await cloud.post("/tool", {**body, "toolId": "fail"})
        assert (failed.status_code, failed.json()["message"]) == (500, "no such sum")


async def test_a_photo_is_delivered_by_its_request_id_and_refused_without() -> None:
    app = make_app()
    async with app_cloud(app) as cloud:
        connection, _ = await cloud.start()
        session = app.sessions[0]
        url = f"http://127.0.0.1:{app.port}/photo-upload"
        taking = asyncio.create_task(session.camera.take_photo())
        request = await connection.next("photo_request")
        file = {"photo": ("x.jpg", b"jpeg bytes", "image/jpeg")}
        unknown = await cloud._client.post(url, data={"requestId": "guess"}, files=file)
        assert unknown.status_code == 404
        done = await cloud._client.post(
            url, data={"requestId": request["requestId"], "success": "true"}, files=file
        )
        assert done.json()["success"] is True
        async with asyncio.timeout(PATIENCE):
            photo = await taking
        assert (photo.data, photo.content_type) == (b"jpeg bytes", "image/jpeg")

        taking = asyncio.create_task(session.camera.take_photo())
        request = await connection.next("photo_request")
        fields = {
            "requestId": request["requestId"],
            "type": "photo_error",
            "errorCode": "BUSY",
            "errorMessage": "m",
        }
        await cloud._client.post(url, data=fields, files={"unused": b""})
        with pytest.raises(PhotoFailed, match="BUSY"):
            await taking


async def test_a_taken_port_is_an_error_and_not_an_exit() -> None:
    first = make_app()
    async with first.serving():
        second = App("org.example.second", api_key="key", port=first.port)
        second.on_session(first._on_session)  # type: ignore[arg-type]
        with pytest.raises(OSError):
            async with second.serving():
                pass
