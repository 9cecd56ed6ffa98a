"""A TCP proxy that does to a connection what networks and middleboxes do: for system tests, on loopback only.

Rules: faults are switched while connections live and act on all of them. A black hole does not lose bytes, it stops
reading, as a dead path does: TCP keeps them and delivers them when the path heals. Nothing outlives `close`.

    async with FaultProxy("127.0.0.1", cloud_port) as proxy:
        connect_to(proxy.port)
        proxy.hole(up=True)        # client -> server is dead, the other direction works
        proxy.heal()
        proxy.reset()              # RST to both ends of every connection
        proxy.abandon("client")    # RST to the client, the server's side stays open and mute (half-open)
        proxy.delay = 0.2          # seconds, each way
        proxy.idle_limit = 3.0     # cut a connection when either direction has been silent that long
        proxy.swallow_control = True   # drop WebSocket pings and pongs, both ways
        proxy.refuse = True        # accept and reset at once
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Literal, Self

_CHUNK = 64 << 10
#: Bytes that may be on their way through a delayed direction; beyond that the proxy stops reading, as a path would.
_IN_FLIGHT_MAX = 1 << 20
_PING, _PONG = 0x9, 0xA


class _ControlFilter:
    """Takes pings and pongs out of one direction of a WebSocket stream; everything else passes unchanged."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head_done = False
        self._websocket = False

    def feed(self, data: bytes, swallow: bool) -> bytes:
        self._buffer += data
        out = bytearray()
        if not self._head_done:
            end = self._buffer.find(b"\r\n\r\n") + 4
            if end < 4:
                return b""
            self._head_done = True
            self._websocket = b"upgrade: websocket" in self._buffer[:end].lower()
            out += self._buffer[:end]
            del self._buffer[:end]
        if not self._websocket:  # plain HTTP has no control frames
            out += self._buffer
            self._buffer.clear()
        while (size := self._frame_size()) is not None and len(self._buffer) >= size:
            if not (swallow and self._buffer[0] & 0x0F in (_PING, _PONG)):
                out += self._buffer[:size]
            del self._buffer[:size]
        return bytes(out)

    def _frame_size(self) -> int | None:
        head = self._buffer
        if len(head) < 2:
            return None
        masked, length = bool(head[1] & 0x80), head[1] & 0x7F
        offset = 2 + (4 if masked else 0)
        if length == 126:
            if len(head) < 4:
                return None
            return offset + 2 + int(struct.unpack_from("!H", head, 2)[0])
        if length == 127:
            if len(head) < 10:
                return None
            return offset + 8 + int(struct.unpack_from("!Q", head, 2)[0])
        return offset + length


class _Direction:
    """Bytes from one socket to the other."""

    def __init__(
        self,
        proxy: FaultProxy,
        name: Literal["up", "down"],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.proxy = proxy
        self.name = name
        self.reader = reader
        self.writer = writer
        self.last_byte = asyncio.get_running_loop().time()
        self._filter = _ControlFilter()
        self._due = 0.0
        self._in_flight = 0
        self._room = asyncio.Event()
        self._room.set()

    async def run(self) -> None:
        """Until this direction ends; then the other socket is closed as well."""
        loop = asyncio.get_running_loop()
        while True:
            await self.proxy._open[self.name].wait()
            data = await self.reader.read(_CHUNK)
            await self.proxy._open[
                self.name
            ].wait()  # what was read while the path died travels when it heals
            if not data:
                break
            self.last_byte = loop.time()
            self.proxy.bytes_seen[self.name] += len(data)
            data = self._filter.feed(data, self.proxy.swallow_control)
            if self.proxy.delay > 0 or self._in_flight:
                self._due = max(self._due + 1e-6, loop.time() + self.proxy.delay)
                self._in_flight += len(data)
                if self._in_flight > _IN_FLIGHT_MAX:
                    self._room.clear()
                loop.call_at(self._due, self._arrive, data)
                await self._room.wait()
            else:
                self.writer.write(data)
                await self.writer.drain()
        while self._in_flight:
            self._room.clear()
            await self._room.wait()

    def _arrive(self, data: bytes) -> None:
        self._in_flight -= len(data)
        if self._in_flight <= _IN_FLIGHT_MAX // 2:
            self._room.set()
        if not self.writer.is_closing():
            self.writer.write(data)


class _Passage:
    """One proxied connection."""

    def __init__(
        self,
        proxy: FaultProxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.client = client[1]
        self.server = server[1]
        self.up = _Direction(proxy, "up", client[0], server[1])
        self.down = _Direction(proxy, "down", server[0], client[1])
        self.proxy = proxy
        self.abandoned = False
        self._released = asyncio.Event()

    async def run(self) -> None:
        tasks = [asyncio.ensure_future(d.run()) for d in (self.up, self.down)]
        tasks.append(asyncio.ensure_future(self._watch_idle()))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self.abandoned:  # the surviving side must see nothing until the test ends it
                await self._released.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for writer in (self.client, self.server):
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _watch_idle(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.05)
            limit = self.proxy.idle_limit
            if limit is not None and loop.time() - min(self.up.last_byte, self.down.last_byte) > limit:
                self.proxy.idle_cuts += 1
                self.reset()
                return

    def reset(self) -> None:
        self._released.set()
        for writer in (self.client, self.server):
            _abort(writer)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class FaultProxy:
    """Listens on a free loopback port (`port`) and forwards to `target`, which may be changed for new connections."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.port = 0
        self.delay = 0.0
        self.idle_limit: float | None = None
        self.swallow_control = False
        self.refuse = False
        self.accepted = 0
        self.idle_cuts = 0
        self.bytes_seen = {"up": 0, "down": 0}
        self._open = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._server: asyncio.Server | None = None
        self._passages: dict[_Passage, asyncio.Task[None]] = {}
        self.heal()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def connections(self) -> int:
        return len(self._passages)

    def hole(self, *, up: bool = False, down: bool = False) -> None:
        """Stop moving bytes in these directions (up: client to server)."""
        for name, wanted in (("up", up), ("down", down)):
            if wanted:
                self._open[name].clear()

    def heal(self) -> None:
        """All paths work again."""
        for event in self._open.values():
            event.set()

    def reset(self) -> None:
        """RST both ends of every connection."""
        for passage in list(self._passages):
            passage.reset()

    def abandon(self, side: Literal["client", "server"]) -> None:
        """RST one end of every connection; the other end stays open and hears nothing more."""
        for passage in list(self._passages):
            passage.abandoned = True
            _abort(passage.client if side == "client" else passage.server)

    async def close(self) -> None:
        """End everything."""
        if self._server is not None:
            self._server.close()
        self.heal()
        self.reset()
        tasks = list(self._passages.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refuse:
            _abort(writer)
            return
        try:
            server = await asyncio.open_connection(*self.target)
        except OSError:
            _abort(writer)
            return
        passage = _Passage(self, (reader, writer), server)
        task = asyncio.current_task()
        assert task is not None
        self._passages[passage] = task
        try:
            await passage.run()
        except asyncio.CancelledError:
            pass  # close() ends us; the stream server's own callback must not see it
        finally:
            self._passages.pop(passage, None)
