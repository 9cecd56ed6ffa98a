"""A cloud, one real SDK app server and as many phones as a test wants, joined by real sockets on loopback.

Rules: one cloud and one Node process serve a whole module; every test brings a user of its own, so that tests do not
meet. Durations that the wire fixes (SDK timers, app grace) are kept; only the session grace and the webhook time-out
are shortened, by configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect

from cloud.auth import TokenVerifier, hash_api_key
from cloud.config import CloudConfig
from cloud.server import Cloud
from cloud.store.records import AppRecord, Permission
from tests.interop.driver import Report, SdkApp, install_sdk
from tests.support.fake_phone import FakePhone, Generation
from tests.support.waiting import SLOW, until

PACKAGE = "com.example.probe"
API_KEY = "probe-api-key-0123456789"
SECRET = "interop-secret-interop-secret-interop"
#: Seconds. Long enough that a phone can come back at leisure, short enough that a test can wait for the end.
SESSION_GRACE = 3.0
#: Seconds. Shorter than the slow onSession of a test.
WEBHOOK_TIMEOUT = 3.0
G1, LIVE = "Even Realities G1", "Mentra Live"
SETTINGS: tuple[dict[str, Any], ...] = (
    {"type": "group", "key": "", "label": "", "title": "General"},
    {
        "key": "lang", "type": "select", "label": "Language", "defaultValue": "en",
        "options": [{"label": "English", "value": "en"}, {"label": "Deutsch", "value": "de"}],
    },
    {"key": "big", "type": "toggle", "label": "Big", "defaultValue": True},
)  # fmt: skip
TOOLS: tuple[dict[str, Any], ...] = (
    {
        "id": "add",
        "description": "Adds",
        "parameters": {"a": {"type": "number", "description": "a", "required": True}},
    },
)

_users = itertools.count(1)


class World:
    """See the module."""

    def __init__(self, sdk: str, folder: Path) -> None:
        self.sdk = sdk
        self.folder = folder
        self.app = SdkApp(sdk, PACKAGE, API_KEY)
        self.tokens = TokenVerifier([SECRET])
        self.record = AppRecord(
            package_name=PACKAGE, name="Probe", public_url=self.app.url, hashed_api_key=hash_api_key(API_KEY),
            description="Interop probe", permissions=(Permission("ALL"),), settings=SETTINGS, tools=TOOLS,
            webview_url=f"{self.app.url}/who", version="1.0.0", preinstalled=True,
        )  # fmt: skip
        self.cloud: Cloud
        self._port = 0
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Start the app server and the cloud."""
        install_sdk()
        await self.app.start()
        try:
            await self.start_cloud()
            await self.cloud.store.put_app(self.record)
        except BaseException:
            await self.close()
            raise

    async def start_cloud(self) -> None:
        """Start (again) on the same port and the same data."""
        config = CloudConfig.load(
            None,
            {
                "port": self._port,
                "data_dir": self.folder,
                "auth.secret": SECRET,
                "webhooks.allow": ["loopback"],
                "webhooks.timeout": WEBHOOK_TIMEOUT,
                "sessions.grace": SESSION_GRACE,
                "speech.provider": "text",
            },
            env={},
        )
        self.cloud = await self._stack.enter_async_context(Cloud(config))
        self._port = int(self.cloud.url.rsplit(":", 1)[1])

    async def stop_cloud(self) -> None:
        """As SIGTERM does it."""
        await self._stack.aclose()

    async def close(self) -> None:
        await self.app.close()
        await self._stack.aclose()

    @property
    def url(self) -> str:
        return self.cloud.url

    def new_user(self) -> str:
        """Nobody yet: with hyphens on both sides, since ids must never be split at them (surprise 30)."""
        return f"anna-lena-{next(_users)}@inter-op.example"

    def phone(self, generation: Generation = "C", user: str | None = None) -> FakePhone:
        """A phone that is not connected yet."""
        user = user or self.new_user()
        return FakePhone(self.url, user, self.tokens.mint_core_token(user), generation)

    @asynccontextmanager
    async def wearer(
        self, generation: Generation = "C", user: str | None = None, model: str | None = G1
    ) -> AsyncIterator[FakePhone]:
        """A connected phone whose glasses are on."""
        async with self.phone(generation, user) as phone:
            await phone.next("connection_ack")
            if model is not None:
                await phone.send("glasses_connection_state", modelName=model, status="CONNECTED")
            yield phone
            if phone.closed is None:
                await phone.rest("POST", f"/apps/{PACKAGE}/stop")

    @asynccontextmanager
    async def live(
        self,
        code: str = "",
        generation: Generation = "C",
        user: str | None = None,
        model: str | None = G1,
    ) -> AsyncIterator[Live]:
        """A wearer with the probe app running; `code` has been run inside the session."""
        async with self.wearer(generation, user, model) as phone:
            live = Live(self, phone)
            await live.start()
            if code:
                await live.run(code)
            yield live

    @asynccontextmanager
    async def changed_record(self, **changes: Any) -> AsyncIterator[None]:
        """Other registration data while the block runs."""
        await self.cloud.store.put_app(dataclasses.replace(self.record, **changes))
        try:
            yield
        finally:
            await self.cloud.store.put_app(self.record)

    @asynccontextmanager
    async def raw_app(self) -> AsyncIterator[RawApp]:
        """A bare socket on /app-ws: for what no SDK would say."""
        async with connect(
            self.url.replace("http", "ws", 1) + "/app-ws", ping_interval=None, open_timeout=10 * SLOW
        ) as socket:
            yield RawApp(socket)

    async def app_health(self) -> int:
        """`activeSessions` as the SDK counts them."""
        async with httpx.AsyncClient() as client:
            return int((await client.get(f"{self.app.url}/health")).json()["activeSessions"])


class RawApp:
    """An app without an SDK."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    async def say(self, kind: str, **members: Any) -> None:
        await self._socket.send(json.dumps({"type": kind, **members}))

    async def hear(self) -> dict[str, Any]:
        """The next text frame."""
        found: dict[str, Any] = json.loads(await asyncio.wait_for(self._socket.recv(), 5 * SLOW))
        return found

    async def closed(self) -> tuple[int, str]:
        """Code and reason of the close that the cloud sends."""
        await asyncio.wait_for(self._socket.wait_closed(), 5 * SLOW)
        return self._socket.close_code, self._socket.close_reason


class Live:
    """One user's running app session, seen from both ends."""

    def __init__(self, world: World, phone: FakePhone) -> None:
        self.world, self.phone, self.app = world, phone, world.app
        self.user = phone.user
        self.sid = f"{phone.user}-{PACKAGE}"
        self.began = self.app.mark()

    async def start(self) -> None:
        """Ask for the app and wait until its onSession has returned."""
        since = self.app.mark()
        await self.phone.start_app(PACKAGE)
        await self.event("onSession:done", since=since, within=8)

    async def run(self, code: str, within: float = 10.0) -> Any:
        """JavaScript inside the session."""
        return await self.app.run(code, self.sid, within)

    def mark(self) -> int:
        return self.app.mark()

    async def event(self, event: str, **options: Any) -> Report:
        """A report of this session (see SdkApp.event)."""
        return await self.app.event(event, session=self.sid, **options)

    def seen(self, event: str, since: int | None = None) -> list[Report]:
        return self.app.seen(event, self.began if since is None else since, self.sid)

    async def subscribed(self, *names: str, since: int = 0) -> None:
        """Wait until the cloud has told the phone that these streams of the running app are subscribed."""

        def holds() -> bool:
            for received in reversed(self.phone.received[since:]):
                if received.type in ("app_state_change", "connection_ack"):
                    told = received.message["userSession"]
                    held = told["appSubscriptions"].get(PACKAGE, [])
                    names_held = {e if isinstance(e, str) else e["stream"] for e in held}
                    return PACKAGE in told["activeAppSessions"] and set(names) <= names_held
            return False

        await until(holds, f"subscriptions {names}")

    async def handler(self, method: str, event: str, stream: str | None = None) -> None:
        """Register a handler that reports as `event`; wait for the subscription if `stream` names one."""
        await self.run(f"{method}(d => emit({event!r}, d))")
        if stream:
            await self.subscribed(stream)


async def stays(probe: Any, what: str, for_: float) -> None:
    """`probe` stays truthy for that many seconds."""
    end = asyncio.get_running_loop().time() + for_
    while asyncio.get_running_loop().time() < end:
        assert probe(), what
        await asyncio.sleep(0.02)


@contextlib.contextmanager
def nothing_alarming(app: SdkApp) -> Any:
    """The SDK reports no message of ours as unknown or broken while the block runs."""
    since = app.mark()
    yield
    bad = [
        r.data for r in app.seen("error", since) if "nrecognized" in str(r.data) or "iterable" in str(r.data)
    ]
    assert not bad
