"""An edge as far as the cloud can see: it speaks the resumable link, dials again at once, and knows several nodes.

Rules: the real `wire.link` and real sockets; no decisions of its own but where to dial next. What it sends is numbered, so
that a receiver can tell what was lost or doubled. Sound that finds no connection is kept for two seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from wire.link import Announce, Deliver, Disconnect, Link, LinkEffect, LinkState, Resumed, Transmit
from wire.messages.base import Delivery
from wire.messages.cloud_to_glasses import LinkWelcome

#: Sound kept while there is no connection, in frames: 2 s at 50 a second.
SOUND_MAX: Final = 100


class LinkPhone:
    """`async with LinkPhone(urls, user, token)`; `urls` are tried in turn, the first one first."""

    def __init__(self, urls: Sequence[str], user: str, token: str, *, redial: float = 0.005) -> None:
        self.urls = list(urls)
        self.user, self.token = user, token
        self.redial = redial
        self.link = Link(secrets.token_hex(8), initiator=True)
        self.received: list[dict[str, Any]] = []
        self.resumed: list[Resumed] = []
        self.closes: list[tuple[int, str]] = []
        self.connects = 0
        self.presses = 0
        self.frames = 0
        self.at = ""  # the URL of the present connection
        self.fixed: str | None = None  # dial only this one
        self._socket: ClientConnection | None = None
        self._generation = 0
        self._sound: deque[bytes] = deque(maxlen=SOUND_MAX)
        self._wanted_elsewhere: asyncio.Future[None] | None = None
        self._readers: set[asyncio.Task[None]] = set()
        self.may_dial = True
        self._stopped = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> LinkPhone:
        self._task = asyncio.create_task(self._run(), name="link phone")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        if self._socket is not None:
            self._socket.transport.abort()
        assert self._task is not None
        self._task.cancel()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(self._task, *self._readers, return_exceptions=True)

    @property
    def is_live(self) -> bool:
        return self.link.state is LinkState.LIVE

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [m for m in self.received if m.get("type") == kind]

    def displays(self) -> list[str]:
        """Texts of the main view, in order."""
        return [m["layout"].get("text", "") for m in self.of("display_event") if m.get("view") == "main"]

    # ------------------------------------------------------------------------------------------------ what it does

    def press(self, button: str = "main") -> int:
        """A reliable event; returns its number."""
        self.presses += 1
        self._send(
            {
                "type": "button_press",
                "buttonId": f"{button}-{self.presses}",
                "pressType": "short",
                "timestamp": int(time.time() * 1000),
            },
            Delivery.RELIABLE,
        )
        return self.presses

    def say(self, kind: str, **members: Any) -> None:
        """Any reliable message."""
        self._send({"type": kind, **members}, Delivery.RELIABLE)

    def sound(self, samples: int = 320) -> int:
        """20 ms of PCM16 whose samples all carry its number; returns that."""
        self.frames += 1
        frame = (self.frames & 0x7FFF).to_bytes(2, "little") * samples
        if not self._write(frame):
            self._sound.append(frame)
        return self.frames

    def drop(self) -> None:
        """The radio is gone: no goodbye."""
        if self._socket is not None:
            self._socket.transport.abort()

    def go(self, url: str) -> None:
        """Connect anew, there, before the old connection is given up."""
        self.fixed = url
        self._generation += 1
        if self._wanted_elsewhere is not None and not self._wanted_elsewhere.done():
            self._wanted_elsewhere.set_result(None)

    def resume_dialing(self) -> None:
        """After `Nodes.lose(..., redial=False)`."""
        self.may_dial = True

    def _send(self, message: dict[str, Any], delivery: Delivery) -> None:
        data = json.dumps(message, separators=(",", ":")).encode()
        self._perform(self.link.send(data, delivery, now=self._now()))

    def _write(self, data: bytes | str) -> bool:
        """At once: what is written before a kill is with the kernel."""
        socket = self._socket
        if socket is None or socket.transport.is_closing() or not self.is_live:
            return False
        socket.protocol.send_binary(data) if isinstance(data, bytes) else socket.protocol.send_text(
            data.encode()
        )
        with contextlib.suppress(Exception):
            socket.send_data()
        return True

    # ------------------------------------------------------------------------------------------------ connections

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _next_url(self, tries: int) -> str:
        return self.fixed if self.fixed is not None and tries < 3 else self.urls[tries % len(self.urls)]

    async def _run(self) -> None:
        tries = 0
        while not self._stopped:
            if not self.may_dial:
                await asyncio.sleep(0.01)
                continue
            url = self._next_url(tries)
            generation = self._generation
            try:
                socket = await connect(
                    url.replace("http", "ws", 1) + "/glasses-ws",
                    additional_headers={"Authorization": f"Bearer {self.token}"},
                    ping_interval=None,
                    compression=None,
                    open_timeout=2.0,
                    close_timeout=0.2,
                    max_size=16 << 20,
                )
            except InvalidStatus as refused:  # 503: the node says when to come back
                tries += 1
                await asyncio.sleep(float(refused.response.headers.get("Retry-After", self.redial)))
                continue
            except (OSError, InvalidHandshake, TimeoutError, EOFError):
                tries += 1
                await asyncio.sleep(self.redial * min(20, tries))
                continue
            tries = 0
            old, self._socket = self._socket, socket
            if old is not None:
                old.transport.abort()
            self.at = url
            self.connects += 1
            await self._serve(socket, generation)
            if self._generation == generation and self._socket is socket:
                self._socket = None
                self.fixed = None
                await asyncio.sleep(self.redial)

    async def _serve(self, socket: ClientConnection, generation: int) -> None:
        """Until the connection ends, or another one is wanted."""
        number = self.connects
        if self.link.state in (LinkState.LIVE, LinkState.RESUMING):
            self.link.lost(number - 1, self._now())
        self._perform(self.link.connected(number, self._now()))
        reader = asyncio.create_task(self._read(socket, number))
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        elsewhere = self._wanted_elsewhere = asyncio.get_running_loop().create_future()
        if self._generation == generation:
            await asyncio.wait({reader, elsewhere}, return_when=asyncio.FIRST_COMPLETED)
        if reader.done():
            self.link.lost(number, self._now())

    async def _read(self, socket: ClientConnection, number: int) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in socket:
                if isinstance(frame, bytes) or self.connects != number:
                    continue
                data = frame.encode()
                if b'"connection_ack"' in data:
                    found = json.loads(data).get("link")
                    if found:
                        welcome = LinkWelcome.model_validate(found)
                        self._perform(self.link.welcomed(number, welcome, self._now()))
                    continue
                self._perform(self.link.received(number, data, self._now()))
        self.closes.append((socket.close_code or 1006, socket.close_reason or ""))

    def _perform(self, effects: Sequence[LinkEffect]) -> None:
        for effect in effects:
            match effect:
                case Announce(_, hello):
                    body = {
                        "type": "connection_init",
                        "link": hello.model_dump(by_alias=True, exclude_none=True),
                    }
                    socket = self._socket
                    if socket is not None:
                        socket.protocol.send_text(json.dumps(body, separators=(",", ":")).encode())
                        socket.send_data()
                case Transmit():
                    self._write(effect.data.decode())
                case Deliver():
                    message = json.loads(effect.data)
                    self.received.append(message)
                    if message.get("type") == "glassbridge_move":
                        self._moved()
                case Resumed():
                    self.resumed.append(effect)
                    while self._sound and self._write(self._sound[0]):
                        self._sound.popleft()
                case Disconnect():
                    self.drop()
                case _:
                    pass

    def _moved(self) -> None:
        """The node drains: go to the next one that is not it."""
        others = [url for url in self.urls if url != self.at]
        if others:
            self.go(others[0])
