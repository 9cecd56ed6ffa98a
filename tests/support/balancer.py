"""What stands before the nodes: hands a connection to the node that is preferred for its session, else to one that lives.

Rules: it does what a balancer that hashes the key in the path does; which node the hash names, a test says. A node that is
marked down gets nothing new, as after a failed health check. The end of either side is the end of the other, at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Final

_KEY: Final = re.compile(rb"^\S+ /s/([a-z0-9]+)/")


class Balancer:
    """`async with Balancer([port, ...])`: listening at `url`."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.preferred: dict[str, int] = {}  # key -> index of a node
        self.down: set[int] = set()
        self.joined: dict[str, int] = {}  # key -> the node that got its newest connection
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Balancer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                head = await reader.readuntil(b"\r\n\r\n")
                found = _KEY.match(head)
                await self._join(head, found[1].decode() if found else "", reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _join(
        self, head: bytes, key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        first = self.preferred.get(key, 0)
        for step in range(len(self.ports)):
            index = (first + step) % len(self.ports)
            if index in self.down:
                continue
            try:
                there, back = await asyncio.open_connection("127.0.0.1", self.ports[index], limit=1 << 20)
            except OSError:
                continue
            back.write(head)
            self.joined[key] = index
            ways = [asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(0.01)  # a close frame may still be on its way
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
                back.transport.abort()
            return


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
