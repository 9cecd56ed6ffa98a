"""Connections between workers by file descriptor: in one pair of hands at any time, served by somebody always."""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from cloud.cluster import handover as module
from cloud.cluster.handover import Handover, supported
from cloud.cluster.placement import best_of
from cloud.connection import Frame
from cloud.listener import Listener
from tests.cloud.test_listener import World
from tests.support.waiting import until
from wire.messages.base import Delivery

pytestmark = pytest.mark.skipif(not supported(), reason="descriptors are handed over on Linux only")


class Worker(World):
    """A listener and its side of the hand-over."""

    def __init__(self, directory: Path, number: int, workers: int) -> None:
        super().__init__()
        self.react = lambda connection, data: connection.send(
            Frame.text(b"%d " % number + data), Delivery.RELIABLE
        )
        self.handover = Handover(directory, number, workers, self.listener.adopt)
        self.listener.give_away = self.handover.give_away


def key_for(worker: int, among: list[int]) -> str:
    return next(key for key in map(str, range(1000)) if best_of(key, among) == worker)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Worker, Worker]]:
    with tempfile.TemporaryDirectory(prefix="gb-") as directory:
        workers = Worker(Path(directory), 0, 2), Worker(Path(directory), 1, 2)
        for worker in workers:
            worker.handover.start()
            _, worker.port = await worker.listener.start("127.0.0.1", 0)
        await until(
            lambda: all(worker.handover.live == [0, 1] for worker in workers), "both to know each other"
        )
        yield workers
        for worker in workers:
            await worker.handover.close()
            await worker.listener.close(timeout=1.0)


async def test_a_connection_goes_to_the_worker_of_its_session(pair: tuple[Worker, Worker]) -> None:
    first, second = pair
    key = key_for(1, [0, 1])
    async with connect(f"{first.ws}/glasses-ws?s={key}") as client:
        await client.send("hello")
        assert await client.recv() == "1 hello"
        await client.send("x" * 100_000)
        assert await client.recv() == "1 " + "x" * 100_000
    assert not first.handlers
    assert len(second.handlers) == 1
    await until(lambda: first.handover.stats.given == 1, "the taker's word")
    assert second.handover.stats.taken == 1
    assert not first.listener.strangers
    assert second.requests[0].remote == "127.0.0.1"


async def test_one_that_belongs_here_or_nowhere_stays(pair: tuple[Worker, Worker]) -> None:
    first, second = pair
    for query in (f"?s={key_for(0, [0, 1])}", ""):
        async with connect(f"{first.ws}/glasses-ws{query}") as client:
            await client.send("hello")
            assert await client.recv() == "0 hello"
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{first.http}/health?s={key_for(1, [0, 1])}")).json() == {"status": "ok"}
    assert not second.handlers


async def test_frames_right_behind_the_handshake_are_not_lost(pair: tuple[Worker, Worker]) -> None:
    first, _ = pair
    key = key_for(1, [0, 1])
    reader, writer = await asyncio.open_connection("127.0.0.1", first.port)
    masked = b"\x81\x82\x00\x00\x00\x00hi"
    writer.write(
        f"GET /glasses-ws?s={key} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        + masked
    )
    writer.write(masked)
    assert b"101" in await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(12) == b"\x81\x041 hi" * 2
    writer.close()
    await writer.wait_closed()


async def test_many_at_once_all_arrive(pair: tuple[Worker, Worker]) -> None:
    first, second = pair
    key = key_for(1, [0, 1])

    async def one(number: int) -> None:
        async with connect(f"{first.ws}/glasses-ws?s={key}", open_timeout=60) as client:
            await client.send(str(number))
            assert (await client.recv()) in (f"1 {number}", f"0 {number}")

    await asyncio.gather(*(one(n) for n in range(150)))
    assert len(first.handlers) + len(second.handlers) == 150
    assert first.handover.stats.given + first.handover.stats.returned == 150


async def test_a_worker_that_ends_leaves_everything_to_the_others(pair: tuple[Worker, Worker]) -> None:
    first, second = pair
    key = key_for(1, [0, 1])
    await second.handover.close()
    async with connect(f"{first.ws}/glasses-ws?s={key}") as client:
        await client.send("hello")
        assert await client.recv() == "0 hello"
    await until(lambda: first.handover.live == [0], "the end to be noticed")


async def test_one_that_comes_back_is_found_again(pair: tuple[Worker, Worker]) -> None:
    first, second = pair
    await second.handover.close()
    await until(lambda: first.handover.live == [0], "the end to be noticed")
    again = Handover(second.handover._directory, 1, 2, second.listener.adopt)
    again.start()
    await until(lambda: first.handover.live == [0, 1], "the new one to be found")
    async with connect(f"{first.ws}/glasses-ws?s={key_for(1, [0, 1])}") as client:
        await client.send("hello")
        assert await client.recv() == "1 hello"
    await again.close()


FROZEN = """
import asyncio, os, signal, sys
from pathlib import Path
from cloud.cluster.handover import Handover
async def main():
    async def adopt(sock, data):
        print("ADOPTED", flush=True)
    h = Handover(Path(sys.argv[1]), 1, 2, adopt)
    h.start()
    print("up", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_a_frozen_worker_neither_keeps_nor_later_takes_a_connection() -> None:
    """The offer comes back in time; when the frozen one thaws it refuses what it finds."""
    with tempfile.TemporaryDirectory(prefix="gb-") as directory:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FROZEN, directory, stdout=asyncio.subprocess.PIPE
        )
        worker = Worker(Path(directory), 0, 2)
        worker.handover.start()
        _, worker.port = await worker.listener.start("127.0.0.1", 0)
        try:
            assert child.stdout is not None
            assert await child.stdout.readline() == b"up\n"
            await until(lambda: worker.handover.live == [0, 1], "the child")
            child.send_signal(19)  # SIGSTOP
            url = f"{worker.ws}/glasses-ws?s={key_for(1, [0, 1])}"
            begin = time.monotonic()
            first, second = await asyncio.gather(connect(url, open_timeout=60), connect(url, open_timeout=60))
            assert time.monotonic() - begin >= module.GIVE_UP * 0.9
            assert worker.handover.live == [0]
            for client in (first, second):
                await client.send("hello")
                assert await client.recv() == "0 hello"
            async with connect(url, open_timeout=60) as third:  # at once, now
                await third.send("again")
                assert await third.recv() == "0 again"
            begin = time.monotonic()
            await (
                first.close()
            )  # the frozen one holds a descriptor of it: the end reaches the peer all the same
            assert time.monotonic() - begin < 5
            child.send_signal(18)  # SIGCONT
            await until(lambda: worker.handover.live == [0, 1], "it to answer again")
            await second.send("still here")
            assert await second.recv() == "0 still here"
            await second.close()
            assert worker.handover.stats.returned == 2
        finally:
            child.kill()
            output = await child.stdout.read()
            await child.wait()
            await worker.handover.close()
            await worker.listener.close(timeout=1.0)
    assert b"ADOPTED" not in output


async def test_rubbish_on_the_socket_ends_that_guest_only(pair: tuple[Worker, Worker]) -> None:
    first, second = pair
    for rubbish in (b"x", b"O" + b"\0" * 16, b"?" * 17, b"y" * 150_000):
        guest = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        guest.connect(second.handover.address(1))
        guest.send(rubbish)
        guest.close()
    async with connect(f"{first.ws}/glasses-ws?s={key_for(1, [0, 1])}") as client:
        await client.send("hello")
        assert await client.recv() == "1 hello"
    assert isinstance(first.listener, Listener)
