"""The cloud's event path in one process with transports that only count: hub, session, connections, real frames.

Rules: everything between the bytes of a sender's socket and the `write` of its receivers is the product's own; only the
transports, the webhooks and the app servers are stand-ins, so that a run costs the same on every machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from cloud.app_socket import AppSocket, Claim
from cloud.auth import Identity, hash_api_key
from cloud.config import CloudConfig
from cloud.connection import Connection, ConnectionHandler, ConnectionStats
from cloud.glasses_socket import GlassesSocket
from cloud.hub import Hub
from cloud.metrics import Metrics
from cloud.store.records import AppRecord, AppType, Permission
from cloud.store.sqlite import SqliteStore
from cloud.webhooks import WebhookResult
from tests.support.waiting import until

USER = "anna@example.com"
KEY = "key"
#: Frames are masked with this; any key costs the same.
MASK = b"\x37\xfa\x21\x3d"


class Wire(asyncio.Transport):
    """Takes everything at once; keeps the bytes when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.bytes = 0
        self.kept: list[bytes] | None = None

    def write(self, data: Any) -> None:
        self.writes += 1
        self.bytes += len(data)
        if self.kept is not None:
            self.kept.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Nobody is behind it."""

    abort = close


class Webhooks:
    """Every app server answers at once, and its app dials in."""

    def __init__(self) -> None:
        self.dial: Callable[[str], None] = lambda package: None

    async def post(self, url: str, body: Mapping[str, Any], **_: Any) -> WebhookResult:
        if body["type"] == "session_request":
            asyncio.get_running_loop().call_soon(self.dial, body["sessionId"].removeprefix(f"{USER}-"))
        return WebhookResult(ok=True, status=200, error=None, body={"status": "success"}, duration=0.001)


def frame(payload: bytes, *, binary: bool = False) -> bytes:
    """A masked client frame below 64 KiB."""
    size = len(payload)
    head = (
        bytes((0x82 if binary else 0x81, 0x80 | size))
        if size < 126
        else (bytes((0x82 if binary else 0x81, 0x80 | 126)) + size.to_bytes(2))
    )
    pad = MASK * (size // 4 + 1)
    return head + MASK + bytes(a ^ b for a, b in zip(payload, pad, strict=False))


class HotPath:
    """One session: its glasses and apps `com.bench.a0`, `a1`... `glasses` and `apps` are connections to feed."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.stats = ConnectionStats()
        self.cork = hub.cork
        self.glasses: Connection
        self.apps: list[Connection] = []

    def connect(self, handler: ConnectionHandler) -> Connection:
        connection = Connection(
            transport=Wire(),
            protocol=ServerProtocol(state=OPEN, max_size=1 << 20),
            handler=handler,
            remote="192.0.2.1",
            text_max=1 << 20,
            binary_max=256 << 10,
            stats=self.stats,
            loop=asyncio.get_running_loop(),
            cork=self.cork,
        )
        connection.opened()
        return connection

    @staticmethod
    def wire(connection: Connection) -> Wire:
        transport = connection._transport
        assert isinstance(transport, Wire)
        return transport


@asynccontextmanager
async def hot_path(directory: Path, *, apps: int, stream: str = "button_press") -> AsyncIterator[HotPath]:
    """A session with its apps connected and subscribed to `stream`."""
    store = await SqliteStore.open(directory / "hot.db")
    for number in range(apps):
        await store.put_app(
            AppRecord(
                package_name=f"com.bench.a{number}",
                name=f"Bench {number}",
                public_url="http://192.0.2.9",
                hashed_api_key=hash_api_key(KEY),
                app_type=AppType.STANDARD if apps == 1 else AppType.BACKGROUND,
                permissions=(Permission("MICROPHONE"),),
            )
        )
    config = CloudConfig.load(
        None,
        {
            "data_dir": directory,
            "auth.secret": "bench-secret-of-at-least-32-bytes!",
            "sessions.apps_per_session_max": 2000,
        },
        env={},
    )
    webhooks = Webhooks()
    hub = Hub(
        config=config,
        store=store,
        webhooks=webhooks,  # type: ignore[arg-type]
        metrics=Metrics(),
        websocket_url=lambda: "ws://192.0.2.1/app-ws",
        base_url=lambda: "http://192.0.2.1",
    )
    path = HotPath(hub)

    def dial(package: str) -> None:
        claim = Claim(package, KEY, f"{USER}-{package}")
        path.apps.append(path.connect(AppSocket(hub, claim, init_timeout=10.0)))

    webhooks.dial = dial
    try:
        path.glasses = path.connect(GlassesSocket(hub, Identity(USER, None, None)))
        await until(lambda: hub.session_view(USER) is not None, "the session is there")
        for number in range(apps):
            package = f"com.bench.a{number}"
            assert (await hub.start_app(USER, package)).ok
            wanted = {"type": "subscription_update", "packageName": package, "subscriptions": [stream]}
            path.apps[-1].data_received(frame(orjson.dumps(wanted)))
        yield path
    finally:
        for connection in (*path.apps, path.glasses):
            connection.abort()
            connection.connection_lost(None)
        await hub.close()
        await store.close()
