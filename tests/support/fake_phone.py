"""Phones that front glasses, as MentraOS shipped them: generations A, B, C and the TypeScript test client T.

Rules: source is the wire specification, section 2.1 and 2.2: what each generation sends at connect, where it puts its
token, how it shows that it lives, and which members it reads. A phone here is a real WebSocket and a real HTTP client;
it records everything received and judges nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.waiting import SLOW, until

Generation = Literal["A", "B", "C", "T"]

#: 20 ms of 16 kHz PCM16: the size in which tests speak.
CHUNK_BYTES = 640


@dataclass(frozen=True, slots=True)
class Habits:
    """What sets one generation apart."""

    token_in: Literal["header", "query"]
    query: str = ""
    init_after: float | None = None  # seconds after open until connection_init; None: never
    init_names_user: bool = False
    json_ping_every: float | None = None  # seconds; a pong missed for as long means reconnect
    reads_required_data: bool = False  # which member of microphone_state_change counts
    configures_audio: bool = False


HABITS: dict[Generation, Habits] = {
    "A": Habits("header", init_after=1.0),
    "B": Habits("query", "&livekit=true", reads_required_data=True, configures_audio=True),
    "C": Habits(
        "query", "&livekit=true", json_ping_every=5.0, reads_required_data=True, configures_audio=True
    ),
    "T": Habits("header", init_after=0.0, init_names_user=True),
}


@dataclass(frozen=True, slots=True)
class Received:
    """One text frame from the cloud. `at` is the loop's clock, in seconds."""

    at: float
    message: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.message["type"])


class FakePhone:
    """One phone of one generation; `async with` connects, leaves by closing 1000."""

    def __init__(
        self, base_url: str, user: str, token: str, generation: Generation = "C", *, path: str = "/glasses-ws"
    ) -> None:
        self.base_url, self.user, self.token, self.generation = base_url.rstrip("/"), user, token, generation
        self.habits = HABITS[generation]
        self.path = path
        self.received: list[Received] = []
        self.binary: list[bytes] = []
        self.closed: tuple[int, str] | None = None
        self.pongs_missed = 0
        self.http = httpx.AsyncClient(
            base_url=self.base_url, headers={"Authorization": f"Bearer {token}"}, timeout=10 * SLOW
        )
        self._socket: ClientConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # --- the socket ---------------------------------------------------------------------------------------------

    async def __aenter__(self) -> FakePhone:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self) -> None:
        """Open the socket as this generation does. Raises websockets' InvalidStatus when refused."""
        url = self.base_url.replace("http", "ws", 1) + self.path
        headers = {}
        if self.habits.token_in == "header":
            headers["Authorization"] = f"Bearer {self.token}"
        else:
            url += f"?token={self.token}{self.habits.query}"
        # Phones answer the server's protocol pings and send none of their own that we need.
        self._socket = await connect(
            url, additional_headers=headers, ping_interval=None, max_size=16 << 20, open_timeout=10 * SLOW
        )
        self.closed = None
        self._tasks = [asyncio.create_task(self._listen(self._socket), name="phone listen")]
        if self.habits.init_after is not None:
            self._tasks.append(asyncio.create_task(self._greet(self.habits.init_after), name="phone greet"))
        if self.habits.json_ping_every is not None:
            self._tasks.append(
                asyncio.create_task(self._ping(self.habits.json_ping_every), name="phone ping")
            )

    async def _listen(self, socket: ClientConnection) -> None:
        clock = asyncio.get_running_loop().time
        try:
            async for frame in socket:
                if isinstance(frame, bytes):
                    self.binary.append(frame)
                else:
                    self.received.append(Received(clock(), json.loads(frame)))
        except ConnectionClosed:
            pass
        self.closed = (socket.close_code or 1006, socket.close_reason or "")

    async def _greet(self, after: float) -> None:
        await asyncio.sleep(after)
        extra = {"userId": self.user} if self.habits.init_names_user else {}
        await self.send("connection_init", coreToken=self.token, **extra)

    async def _ping(self, every: float) -> None:
        while True:
            before = self.count("pong")
            await self.send("ping")
            await asyncio.sleep(every)
            if self.count("pong") == before:
                self.pongs_missed += 1

    async def close(self) -> None:
        """Say goodbye and release everything."""
        await self.drop(goodbye=True)
        await self.http.aclose()

    async def drop(self, *, goodbye: bool = False) -> None:
        """Lose the socket: without goodbye the TCP connection is reset, as when radio coverage ends."""
        for task in self._tasks[1:]:
            task.cancel()
        if self._socket is not None:
            if goodbye:
                with contextlib.suppress(ConnectionClosed):
                    await self._socket.close()
            else:
                self._socket.transport.abort()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                await task
        self._tasks = []

    async def send(self, kind: str, **members: Any) -> None:
        """One message, with the epoch-milliseconds timestamp of native phones."""
        await self.send_raw(json.dumps({"type": kind, "timestamp": int(time.time() * 1000), **members}))

    async def send_raw(self, data: str | bytes) -> None:
        """One frame as it stands."""
        assert self._socket is not None
        await self._socket.send(data)

    async def say(self, pcm: bytes, chunk: int = CHUNK_BYTES) -> None:
        """Audio up, in frames of `chunk` bytes, unpaced."""
        for start in range(0, len(pcm), chunk):
            await self.send_raw(pcm[start : start + chunk])

    # --- what came ----------------------------------------------------------------------------------------------

    def mark(self) -> int:
        """A position in what was received, for `since`."""
        return len(self.received)

    def of(self, kind: str, since: int = 0) -> list[dict[str, Any]]:
        """All messages of one type after a mark."""
        return [r.message for r in self.received[since:] if r.type == kind]

    def count(self, kind: str) -> int:
        """How many messages of one type came."""
        return sum(r.type == kind for r in self.received)

    async def next(
        self,
        kind: str,
        *,
        since: int = 0,
        where: Callable[[dict[str, Any]], bool] | None = None,
        within: float = 5.0,
    ) -> dict[str, Any]:
        """The first message of that type (and content) after the mark."""

        def find() -> Any:
            return next((m for m in self.of(kind, since) if where is None or where(m)), None)

        found: dict[str, Any] = await until(find, f"{kind} for phone {self.generation}", within)
        return found

    def displays(self, since: int = 0, view: str = "main") -> list[dict[str, Any]]:
        """What a lens would have been told: `display_event`s without a view are dropped by phones."""
        return [m for m in self.of("display_event", since) if m.get("view") == view]

    async def shows(
        self, text: str, *, since: int = 0, view: str = "main", within: float = 5.0
    ) -> dict[str, Any]:
        """The first display whose layout contains `text`."""

        def find() -> Any:
            return next((m for m in self.displays(since, view) if text in json.dumps(m["layout"])), None)

        found: dict[str, Any] = await until(find, f"text {text!r} on the lens", within)
        return found

    @property
    def microphone(self) -> bool:
        """What this generation's microphone does now, by the member that it reads."""
        states = self.of("microphone_state_change")
        if not states:
            return False
        if self.habits.reads_required_data:
            return bool(states[-1].get("requiredData"))
        return bool(states[-1].get("isMicrophoneEnabled"))

    def running(self) -> list[str]:
        """Apps that the newest session snapshot names as running (generations A and T read it there)."""
        snapshots = [
            r.message["userSession"]
            for r in self.received
            if r.type in ("app_state_change", "connection_ack")
        ]
        return list(snapshots[-1]["activeAppSessions"]) if snapshots else []

    # --- HTTP ---------------------------------------------------------------------------------------------------

    async def rest(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """One request with the core token."""
        return await self.http.request(method, path, json=body, **options)

    async def configure_lc3(self, frame_bytes: int = 20) -> httpx.Response:
        """What B and C say before they send LC3: 16 kHz, 10 ms frames."""
        return await self.rest(
            "POST",
            "/api/client/audio/configure",
            {
                "format": "lc3",
                "lc3Config": {"sampleRate": 16000, "frameDurationMs": 10, "frameSizeBytes": frame_bytes},
            },
        )

    async def start_app(self, package: str) -> None:
        """Start an app the way this generation does: A and T over the socket, B and C over HTTP."""
        if self.generation in ("A", "T"):
            await self.send("start_app", packageName=package)
        else:
            reply = await self.rest("POST", f"/apps/{package}/start")
            assert reply.status_code == 200, reply.text

    async def stop_app(self, package: str) -> None:
        """Stop an app the way this generation does."""
        if self.generation in ("A", "T"):
            await self.send("stop_app", packageName=package)
        else:
            reply = await self.rest("POST", f"/apps/{package}/stop")
            assert reply.status_code == 200, reply.text
