"""Each fault of the proxy does what it says, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import until


class Echo:
    """A WebSocket server that answers each text with the same text and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[str | bytes] = []
        self.open = 0

    async def handle(self, socket: ServerConnection) -> None:
        self.open += 1
        try:
            async for data in socket:
                self.seen.append(data)
                await socket.send(data)
        except ConnectionClosed:
            pass
        finally:
            self.open -= 1


@asynccontextmanager
async def echo_behind_proxy() -> AsyncIterator[tuple[Echo, FaultProxy, ClientConnection]]:
    echo = Echo()
    async with serve(echo.handle, "127.0.0.1", 0, ping_interval=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with (
            FaultProxy("127.0.0.1", port) as proxy,
            connect(f"ws://127.0.0.1:{proxy.port}", ping_interval=None, close_timeout=0.2) as client,
        ):
            yield echo, proxy, client


async def test_healthy_path_is_transparent() -> None:
    async with echo_behind_proxy() as (_, proxy, client):
        for text in ("a", "b" * 200_000, "ä"):
            await client.send(text)
            assert await client.recv() == text
        assert proxy.connections == 1


async def test_delay_keeps_order() -> None:
    async with echo_behind_proxy() as (_, proxy, client):
        proxy.delay = 0.05
        started = time.monotonic()
        for n in range(20):
            await client.send(str(n))
        assert [await client.recv() for _ in range(20)] == [str(n) for n in range(20)]
        assert time.monotonic() - started >= 0.1
        proxy.delay = 0.0
        await client.send("after")
        assert await client.recv() == "after"


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_black_hole_holds_one_direction_and_healing_delivers(direction: str) -> None:
    async with echo_behind_proxy() as (echo, proxy, client):
        proxy.hole(up=direction == "up", down=direction == "down")
        await client.send("x")
        if direction == "down":
            await until(lambda: echo.seen, "the server sees it")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.recv(), 0.1)
        assert bool(echo.seen) is (direction == "down")
        proxy.heal()
        assert await client.recv() == "x"


async def test_reset_ends_both_ends_at_once() -> None:
    async with echo_behind_proxy() as (echo, proxy, client):
        await client.send("x")
        await client.recv()
        proxy.reset()
        with pytest.raises(ConnectionClosed):
            await client.recv()
        await until(lambda: echo.open == 0, "the server noticed")


async def test_abandoned_client_leaves_the_server_half_open() -> None:
    async with echo_behind_proxy() as (echo, proxy, client):
        await client.send("x")
        await client.recv()
        proxy.abandon("client")
        with pytest.raises(ConnectionClosed):
            await client.recv()
        await asyncio.sleep(0.2)
        assert echo.open == 1
        proxy.reset()
        await until(lambda: echo.open == 0, "the server is released")


async def test_idle_direction_is_cut() -> None:
    async with echo_behind_proxy() as (_, proxy, client):
        proxy.idle_limit = 0.2
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert proxy.idle_cuts == 1


async def test_control_frames_vanish_and_data_passes() -> None:
    async with echo_behind_proxy() as (_, proxy, client):
        assert await asyncio.wait_for(await client.ping(), 5) >= 0
        proxy.swallow_control = True
        pong = asyncio.ensure_future(await client.ping())
        await client.send("x")
        assert await client.recv() == "x"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(pong), 0.1)
        await client.send(b"\x89" * 70_000)
        assert await client.recv() == b"\x89" * 70_000
        pong.cancel()


async def test_plain_http_passes() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await reader.read()).endswith(b"ok")
        writer.close()


async def test_refusing_and_unreachable_targets_reset_the_client() -> None:
    async with FaultProxy("127.0.0.1", 1) as proxy:
        for proxy.refuse in (True, False):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            writer.close()
        assert proxy.accepted == 2
