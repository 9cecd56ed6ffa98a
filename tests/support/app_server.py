"""An app server as the SDK behaves on the wire: a real HTTP server for webhooks and a real WebSocket client.

Rules: source is the wire specification, sections 3.1, 3.12, 4.1 and 4.2. It does what SDK 2.1.29 was recorded doing, records
everything, and judges nothing. What a test wants different is set on the object before it happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.waiting import SLOW, until


@dataclass
class FakeSession:
    """One user's session inside the app server."""

    app: FakeApp
    session_id: str
    user_id: str
    url: str
    socket: ClientConnection | None = None
    received: list[dict[str, Any]] = field(default_factory=list)
    binary: list[bytes] = field(default_factory=list)
    closed: tuple[int, str] | None = None
    connects: int = 0
    stopped: list[str] = field(default_factory=list)
    reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, introduce itself, wait for the acknowledgement, send the greeting's empty list."""
        self.socket = await connect(self.url, ping_interval=None, max_size=16 << 20, open_timeout=10 * SLOW)
        self.connects += 1
        self.closed = None
        before = len(self.of("tpa_connection_ack"))
        await self.send(
            "tpa_connection_init",
            packageName=self.app.package,
            sessionId=self.session_id,
            apiKey=self.app.api_key,
            timestamp="2026-01-01T00:00:00.000Z",
        )
        self.reader = asyncio.create_task(self._read(self.socket), name="fake app reads")
        await until(
            lambda: len(self.of("tpa_connection_ack")) > before or self.closed is not None,
            "answer to the init",
        )
        if self.closed is None:
            await self.subscribe(*self.app.subscriptions)

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for data in socket:
                if isinstance(data, bytes):
                    self.binary.append(data)
                else:
                    self.received.append(json.loads(data))
        except ConnectionClosed:
            pass
        if socket is self.socket:
            self.closed = (socket.close_code or 1006, socket.close_reason or "")

    async def send(self, kind: str, **members: Any) -> None:
        """One message; a socket that is gone swallows it, as the SDK does."""
        assert self.socket is not None
        with contextlib.suppress(ConnectionClosed):
            await self.socket.send(json.dumps({"type": kind, **members}))

    async def subscribe(self, *streams: Any) -> None:
        await self.send(
            "subscription_update",
            packageName=self.app.package,
            sessionId=self.session_id,
            subscriptions=list(streams),
        )

    async def show(self, text: str, **members: Any) -> None:
        await self.send(
            "display_event",
            sessionId="",
            packageName=self.app.package,
            view=members.pop("view", "main"),
            layout={"layoutType": "text_wall", "text": text},
            **members,
        )

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [m for m in self.received if m.get("type") == kind]

    def events(self, stream: str) -> list[dict[str, Any]]:
        """Data of the events that were delivered under `stream`."""
        return [m["data"] for m in self.of("data_stream") if m["streamType"] == stream]

    def drop(self) -> None:
        """The network goes: no close frame."""
        assert self.socket is not None
        self.socket.transport.abort()

    async def close(self, code: int = 1005) -> None:
        if self.socket is not None:
            if code == 1005:
                await self.socket.close()
            else:
                await self.socket.close(code)
        if self.reader is not None:
            await asyncio.gather(self.reader, return_exceptions=True)


class FakeApp:
    """`async with FakeApp(package) as app`: listening at `app.url`."""

    def __init__(
        self, package: str = "com.example.app", api_key: str = "key-0123456789", *subscriptions: Any
    ) -> None:
        self.package, self.api_key = package, api_key
        self.subscriptions: list[Any] = list(subscriptions)
        self.sessions: dict[str, FakeSession] = {}
        self.webhooks: list[dict[str, Any]] = []
        self.photos: list[dict[str, str]] = []
        self.connects = True  # whether a session_request makes it connect
        self.on_session: Callable[[FakeSession], Awaitable[None]] | None = None
        self.answer: Callable[[dict[str, Any]], Awaitable[Response | None]] | None = None
        self.port = 0
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> FakeApp:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def listen(self, port: int = 0) -> None:
        routes = [
            Route("/webhook", self._webhook, methods=["POST"]),
            Route("/photo-upload", self._photo, methods=["POST"]),
            Route("/settings", self._ok, methods=["POST"]),
            Route("/health", self._health),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), host="127.0.0.1", port=port, log_config=None, lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        self._serving = asyncio.create_task(self._server._serve(), name="fake app serves")
        await until(lambda: self._server is not None and self._server.started, "the fake app serves")
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As SIGTERM does: sockets close without a code, no ownership release."""
        for session in self.sessions.values():
            await session.close()
        self.sessions.clear()
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            self._server.force_exit = True
            await self._serving
            self._server = None

    def session(self, user: str) -> FakeSession:
        return self.sessions[f"{user}-{self.package}"]

    async def started(self, user: str) -> FakeSession:
        """Wait until the user's session is acknowledged."""

        def find() -> FakeSession | None:
            session = self.sessions.get(f"{user}-{self.package}")
            return session if session is not None and session.of("tpa_connection_ack") else None

        found = await until(find, f"{self.package} is started for {user}")
        assert found is not None
        return found

    def requests(self, kind: str = "session_request") -> list[dict[str, Any]]:
        return [w for w in self.webhooks if w["type"] == kind]

    async def _webhook(self, request: Request) -> Response:
        body = await request.json()
        self.webhooks.append(body)
        if self.answer is not None:
            answer = await self.answer(body)
            if answer is not None:
                return answer
        if body["type"] == "stop_request":
            session = self.sessions.get(body["sessionId"])
            if session is not None:
                session.stopped.append(body["reason"])
                await session.close()
            return JSONResponse({"status": "success"})
        if self.connects:
            session = FakeSession(self, body["sessionId"], body["userId"], body["mentraOSWebsocketUrl"])
            self.sessions[body["sessionId"]] = session
            try:
                await session.open()
            except (OSError, InvalidStatus, ConnectionClosed):
                return JSONResponse({"status": "error", "message": "Failed to connect"}, 500)
            if session.closed is not None:
                return JSONResponse({"status": "error", "message": "Failed to connect"}, 500)
            if self.on_session is not None:
                await self.on_session(session)
        return JSONResponse({"status": "success"})

    async def _photo(self, request: Request) -> Response:
        async with request.form() as form:
            self.photos.append({k: v for k, v in form.items() if isinstance(v, str)})
        return JSONResponse({"success": True})

    async def _ok(self, request: Request) -> Response:
        self.webhooks.append({"type": "settings", **(await request.json())})
        return JSONResponse({"status": "success"})

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "healthy", "app": self.package, "activeSessions": len(self.sessions)})
