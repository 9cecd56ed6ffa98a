"""The edge daemon as a process of its own, and a small real cloud for it: for system tests."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

START_MAX = 30.0
"""Seconds for a Python process to import everything on a busy two-core machine."""

_MAIN = """
import json, sys
from pathlib import Path
from edge.config import EdgeConfig
from edge.daemon import run
from wire.errors import ConfigError
path, overrides = json.loads(sys.argv[1])
try:
    config = EdgeConfig.load(Path(path) if path else None, overrides)
except ConfigError as error:
    print(error, file=sys.stderr)
    sys.exit(78)
sys.exit(run(config, json_ready=True))
"""


async def until(what: Callable[[], object], seconds: float = 30.0, why: str = "") -> None:
    """Wait for something to become true; generous, for the machine is shared."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {why or what}"
        await asyncio.sleep(0.02)


@dataclass
class Cloud:
    """Acknowledges, answers pings, records; sends what a test tells it to."""

    texts: list[dict[str, Any]] = field(default_factory=list)
    audio: list[tuple[float, bytes]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    sockets: list[ServerConnection] = field(default_factory=list)
    port: int = 0
    _server: Server | None = None

    async def start(self) -> None:
        self._server = await serve(self._client, "127.0.0.1", self.port)
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        """End the server and every connection, without a word of goodbye."""
        assert self._server is not None
        for socket in self.sockets:
            socket.transport.abort()
        self._server.close()
        await self._server.wait_closed()
        self.sockets.clear()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def _client(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.tokens.append(socket.request.headers.get("Authorization"))
        self.sockets.append(socket)
        session = {"userId": "u", "sessionId": "u", "startTime": "2026-01-01T00:00:00.000Z"}
        ack = json.dumps({"type": "connection_ack", "sessionId": "u", "userSession": session})
        try:
            await socket.send(ack)
            async for frame in socket:
                if isinstance(frame, bytes):
                    self.audio.append((time.monotonic(), frame))
                    continue
                message = json.loads(frame)
                if message["type"] == "ping":
                    await socket.send(json.dumps({"type": "pong", "sentMs": message.get("sentMs")}))
                    continue
                self.texts.append(message)
                if message["type"] == "connection_init":
                    await socket.send(ack)
        except ConnectionClosed:
            pass
        finally:
            if socket in self.sockets:
                self.sockets.remove(socket)

    async def say(self, **message: Any) -> None:
        await self.sockets[-1].send(json.dumps(message))

    async def show(self, text: str, view: str = "main", **more: Any) -> None:
        layout = {"layoutType": "text_wall", "text": text}
        await self.say(type="display_event", packageName="com.example", view=view, layout=layout, **more)

    async def mic(self, on: bool) -> None:
        data = ["pcm"] if on else []
        await self.say(
            type="microphone_state_change", sessionId="u", isMicrophoneEnabled=on, requiredData=data
        )

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [m for m in self.texts if m["type"] == kind]

    @property
    def pcm(self) -> bytes:
        return b"".join(frame for _, frame in self.audio)


@asynccontextmanager
async def cloud() -> AsyncIterator[Cloud]:
    running = Cloud()
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


@dataclass
class Edge:
    """A running edge daemon."""

    process: asyncio.subprocess.Process
    ready: dict[str, Any]

    async def status(self) -> dict[str, Any]:
        async with httpx.AsyncClient() as client:
            got: dict[str, Any] = (await client.get(f"{self.ready['status']}/status", timeout=10)).json()
        return got

    async def arm(self, name: str, wearer: int = 0) -> dict[str, Any]:
        facts: dict[str, Any] = (await self.status())["wearers"][wearer]["glasses"]["arms"][name]
        return facts

    async def state(self, wearer: int = 0) -> str:
        return str((await self.status())["wearers"][wearer]["glasses"]["state"])

    async def until_ready(self, wearer: int = 0, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while await self.state(wearer) != "ready":
            assert time.monotonic() < deadline, json.dumps(await self.status())
            await asyncio.sleep(0.1)


async def spawn(
    folder: Path, overrides: dict[str, Any], config: Path | None = None
) -> asyncio.subprocess.Process:
    """Start the daemon; nothing is waited for."""
    arguments = json.dumps(
        [str(config) if config else None, {"data_dir": str(folder), "status_port": 0, **overrides}]
    )
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", _MAIN, arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


@asynccontextmanager
async def edge_process(folder: Path, config: Path | None = None, **overrides: Any) -> AsyncIterator[Edge]:
    """The daemon with `overrides`; ended by SIGTERM, which must exit 0."""
    process = await spawn(folder, overrides, config)
    assert process.stdout is not None
    assert process.stderr is not None
    # The log is read, so that a full pipe never stops the daemon, and shown when a test fails.
    log = asyncio.create_task(_copy(process.stderr))
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_MAX)
        assert line, f"the edge ended with code {await process.wait()}"
        yield Edge(process, json.loads(line))
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await log
        process._transport.close()  # type: ignore[attr-defined]


async def _copy(stream: asyncio.StreamReader) -> None:
    while line := await stream.readline():
        sys.stderr.write(line.decode(errors="replace"))
