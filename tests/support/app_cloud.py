"""A cloud small enough to read, for tests of an app: one WebSocket listener and the webhooks it posts.

It says what the wire specification's section 3 says and nothing else; every frame of the app is kept, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
from websockets.asyncio.server import Server, ServerConnection, serve

from cloud.auth import hash_api_key
from cloud.webhooks import SIGNATURE_HEADER, sign
from glassbridge.app import App

PATIENCE = 10.0  # generous: the machine is shared


class AppConnection:
    """One connection of an app, as the cloud sees it."""

    def __init__(self, socket: ServerConnection, init: dict[str, Any]) -> None:
        self.socket = socket
        self.init = init
        self.frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def next(self, kind: str | None = None) -> dict[str, Any]:
        """The app's next frame; of type `kind`, others being skipped."""
        async with asyncio.timeout(PATIENCE):
            while True:
                frame = await self.frames.get()
                if kind is None or frame["type"] == kind:
                    return frame

    async def send(self, message: dict[str, Any]) -> None:
        await self.socket.send(orjson.dumps(message).decode())

    async def event(self, stream: str, data: Any) -> None:
        await self.send(
            {
                "type": "data_stream",
                "sessionId": "s",
                "streamType": stream,
                "data": data,
                "timestamp": "2026-01-01T00:00:00.000Z",
            }
        )


class AppCloud:
    """`start` an app over its webhook, then talk on the connection it opens."""

    def __init__(self, app: App, url: str, client: httpx.AsyncClient) -> None:
        self.app = app
        self.url = url
        self.ack: dict[str, Any] | None = {"type": "tpa_connection_ack", "sessionId": "s", "settings": []}
        self.refusal: tuple[int, str] | None = None  # close instead of an ack
        self.accepting = True  # False: the upgrade is answered 503
        self._client = client
        self._connections: asyncio.Queue[AppConnection] = asyncio.Queue()

    async def connection(self) -> AppConnection:
        async with asyncio.timeout(PATIENCE):
            return await self._connections.get()

    async def post(
        self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> httpx.Response:
        url = f"http://127.0.0.1:{self.app.port}{path}"
        return await self._client.post(url, content=orjson.dumps(body), headers=headers or {})

    def session_request(self, user: str = "anna@example.com") -> dict[str, Any]:
        return {
            "type": "session_request",
            "sessionId": f"{user}-{self.app.package_name}",
            "userId": user,
            "timestamp": "2026-01-01T00:00:00.000Z",
            "mentraOSWebsocketUrl": self.url,
            "augmentOSWebsocketUrl": self.url,
        }

    async def start(self, user: str = "anna@example.com") -> tuple[AppConnection, httpx.Response]:
        reply = await self.post("/webhook", self.session_request(user))
        return await self.connection(), reply

    async def stop(self, user: str = "anna@example.com") -> httpx.Response:
        return await self.post(
            "/webhook", {**self.session_request(user), "type": "stop_request", "reason": "user_disabled"}
        )

    async def accept(self, socket: ServerConnection) -> None:
        init = orjson.loads(await socket.recv())
        if self.refusal is not None:
            await socket.close(*self.refusal)
            return
        connection = AppConnection(socket, init)
        if self.ack is not None:
            await connection.send(self.ack)
        await self._connections.put(connection)
        async for frame in socket:
            await connection.frames.put(orjson.loads(frame))


def signed(api_key: str, body: dict[str, Any], at: float) -> dict[str, str]:
    """The headers that make this body believable."""
    return {SIGNATURE_HEADER: sign(orjson.dumps(body), hash_api_key(api_key), int(at))}


@asynccontextmanager
async def app_cloud(app: App) -> AsyncIterator[AppCloud]:
    """Serves `app` and a cloud for it, both on loopback."""
    cloud: AppCloud | None = None

    async def accept(socket: ServerConnection) -> None:
        assert cloud is not None
        await cloud.accept(socket)

    def gate(socket: ServerConnection, request: Any) -> Any:
        assert cloud is not None
        return None if cloud.accepting else socket.respond(503, "starting\n")

    async with (
        app.serving(),
        serve(accept, "127.0.0.1", 0, process_request=gate, close_timeout=1) as server,
        httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client,
    ):
        cloud = AppCloud(app, f"ws://127.0.0.1:{_port(server)}/app-ws", client)
        yield cloud


def _port(server: Server) -> int:
    port: int = next(iter(server.sockets)).getsockname()[1]
    return port
