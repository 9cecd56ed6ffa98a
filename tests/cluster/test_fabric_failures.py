"""The NATS engine when brokers die, freeze, come late or speak another version: what is lost is known, nothing comes late."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from cloud.cluster import nats as engine
from cloud.cluster.fabric import PENDING_BYTES_MAX, NoOne, Reply, Unavailable
from cloud.cluster.local import LocalFabric
from cloud.cluster.nats import NatsFabric
from tests.cluster.conftest import nats_options
from tests.cluster.test_fabric_contract import Inbox, reached
from tests.support.brokers import Brokers
from tests.support.waiting import SLOW, until
from wire.errors import ConfigError


@pytest.fixture
async def own_broker(tmp_path: Path) -> AsyncIterator[Brokers]:
    """One server of this test's own, to be ill-treated."""
    servers = Brokers(tmp_path, 1)
    await asyncio.to_thread(servers.start)
    yield servers
    servers.close()


@contextlib.asynccontextmanager
async def nodes(servers: Brokers, count: int) -> AsyncIterator[list[NatsFabric]]:
    opened = [await NatsFabric.open(nats_options(servers), wait=5 * SLOW) for _ in range(count)]
    try:
        yield opened
    finally:
        for node in opened:
            await node.close()


async def test_a_killed_broker_loses_what_is_sent_meanwhile_and_delivers_none_of_it_late(
    own_broker: Brokers, sid: str
) -> None:
    async with nodes(own_broker, 2) as (a, b):
        inbox, gaps = Inbox(), []
        await b.listen(f"s.{sid}", inbox)
        await reached(a, f"s.{sid}")
        rev = await a.put(f"own.{sid}", b"a", rev=0)
        a.on_gap(lambda: gaps.append("a"))
        b.on_gap(lambda: gaps.append("b"))
        inbox.got.clear()

        own_broker.servers[0].kill()
        await until(lambda: not a.connected and not b.connected, "the loss to be noticed")
        dropped = a.stats.dropped
        assert not a.send(f"s.{sid}", b"into the void")
        assert a.stats.dropped == dropped + 1
        with pytest.raises(Unavailable):
            await a.ask(f"s.{sid}", b"?", 30)
        with pytest.raises(Unavailable):
            await a.get(f"own.{sid}")
        with pytest.raises(Unavailable):
            await a.put(f"own.{sid}", b"b")
        assert gaps == []

        own_broker.servers[0].start()
        await until(lambda: a.connected and b.connected, "both links")
        await until(lambda: sorted(set(gaps)) == ["a", "b"], "both to be told of the gap")
        await reached(a, f"s.{sid}")
        assert a.send(f"s.{sid}", b"after")
        await until(lambda: b"after" in inbox.got, "the message")
        assert b"into the void" not in inbox.got
        assert await b.get(f"own.{sid}") == (b"a", rev)


async def test_local_listeners_are_served_while_the_broker_is_away(own_broker: Brokers, sid: str) -> None:
    async with nodes(own_broker, 1) as (node,):
        own_broker.servers[0].kill()
        await until(lambda: not node.connected, "the loss to be noticed")
        inbox = Inbox(b"re ")
        forget = await node.listen(f"s.{sid}", inbox)
        assert node.send(f"s.{sid}", b"1")
        assert await node.ask(f"s.{sid}", b"2", 5) == b"re 2"
        assert not node.send(f"s.{sid}", b"3", fanout=True), "a fan-out cannot have reached the others"
        await until(lambda: len(inbox.got) == 3, "all three here")
        forget()


async def test_a_question_pending_in_a_broker_that_dies_fails_at_once(own_broker: Brokers, sid: str) -> None:
    async with nodes(own_broker, 2) as (a, b):
        heard = asyncio.Event()

        def answers_once(data: bytes, reply: Reply | None) -> None:
            if reply is not None and data == b"?":
                reply(b"")
            else:
                heard.set()

        await b.listen(f"s.{sid}", answers_once)
        await reached(a, f"s.{sid}")
        asking = asyncio.ensure_future(a.ask(f"s.{sid}", b"one that waits", 600))
        async with asyncio.timeout(10 * SLOW):
            await heard.wait()
        own_broker.servers[0].kill()
        with pytest.raises(Unavailable):
            async with asyncio.timeout(10 * SLOW):
                await asking


async def test_a_frozen_broker_is_noticed_bounds_what_waits_and_delivers_nothing_old(
    own_broker: Brokers, sid: str
) -> None:
    async with nodes(own_broker, 2) as (a, b):
        inbox = Inbox()
        await b.listen(f"s.{sid}", inbox)
        await reached(a, f"s.{sid}")
        inbox.got.clear()
        frozen = own_broker.servers[0]
        frozen.freeze()
        try:
            begin = time.monotonic()
            with pytest.raises(Unavailable):  # unknown outcome, told in bounded time
                await a.put(f"own.{sid}", b"a", rev=0)
            assert time.monotonic() - begin < engine.RECORD_TIMEOUT + 2 * SLOW
            refused = accepted = 0
            chunk = bytes(64 * 1024)
            while a.connected:  # far more than sockets and buffers hold
                if a.send(f"s.{sid}", chunk):
                    accepted += 1
                else:
                    refused += 1
                    await asyncio.sleep(0.01)
                if accepted % 16 == 0:
                    await asyncio.sleep(0)
                assert time.monotonic() - begin < 30 * SLOW, "the frozen broker was not noticed"
            noticed = time.monotonic() - begin
            # What waits: our queue, what nats-py handed to its transport, and the kernel's socket buffers.
            assert accepted * len(chunk) < 4 * PENDING_BYTES_MAX
            print(f"noticed after {noticed:.1f} s; {accepted} chunks accepted, {refused} refused")
            assert not a.send(f"s.{sid}", b"stale")
            await until(lambda: not b.connected, "the other node to notice")
        finally:
            frozen.thaw()
        await until(lambda: a.connected and b.connected, "both links")
        await reached(a, f"s.{sid}")
        assert b"stale" not in inbox.got
        # The outcome of that put is found by reading.
        rec = await a.get(f"own.{sid}")
        assert rec is None or rec.value == b"a"


async def test_a_loop_that_was_late_does_not_cost_the_link(own_broker: Brokers) -> None:
    async with nodes(own_broker, 1) as (node,):
        gaps: list[int] = []
        node.on_gap(lambda: gaps.append(1))
        link = node._link
        for _ in range(2):
            await asyncio.sleep(engine.PING_INTERVAL * 0.6)
            time.sleep(engine.PING_INTERVAL * 1.3)  # noqa: ASYNC251 - that is the point
        await asyncio.sleep(0.2)
        assert node._link is link
        assert gaps == []


async def test_a_node_that_starts_before_its_broker_serves_and_joins_later(tmp_path: Path, sid: str) -> None:
    servers = Brokers(tmp_path, 1)
    node = await NatsFabric.open(nats_options(servers), wait=0.2)
    try:
        gaps: list[int] = []
        node.on_gap(lambda: gaps.append(1))
        assert not node.connected
        inbox = Inbox(b"re ")
        await node.listen(f"s.{sid}", inbox)
        assert await node.ask(f"s.{sid}", b"1", 5) == b"re 1"
        with pytest.raises(Unavailable):
            await node.put(f"own.{sid}", b"a", rev=0)
        await asyncio.to_thread(servers.start)
        await until(lambda: node.connected and gaps, "the link, told as a gap")
        await until(node._prepared.is_set, "the records")
        assert await node.put(f"own.{sid}", b"a", rev=0)
        async with nodes(servers, 1) as (other,):
            await reached(other, f"s.{sid}")
    finally:
        await node.close()
        servers.close()


async def test_one_of_three_brokers_may_die_without_a_record_lost(tmp_path: Path, sid: str) -> None:
    servers = Brokers(tmp_path, 3)
    await asyncio.to_thread(servers.start)
    try:
        async with nodes(servers, 2) as (a, b):
            inbox = Inbox()
            await b.listen(f"s.{sid}", inbox)
            written = {f"st.{sid}.{n}": await a.put(f"st.{sid}.{n}", b"%d" % n) for n in range(20)}
            victim = next(s for s in servers.servers if a._link is not None and s.url == a._link._server)
            victim.kill()
            begin = time.monotonic()
            await until(
                lambda: a.connected and a._link is not None and a._link._server != victim.url, "another"
            )
            print(f"connected to another broker after {1000 * (time.monotonic() - begin):.0f} ms")
            await until(lambda: b.connected, "the other node")
            await reached(a, f"s.{sid}")

            async def readable() -> bool:
                try:
                    return all(
                        [
                            (await b.get(key)) == (b"%d" % n, rev)
                            for n, (key, rev) in enumerate(written.items())
                        ]
                    )
                except Unavailable:
                    return False

            await until(readable, "all records to be read from the new leader", within=10)
    finally:
        servers.close()


async def test_a_listener_that_is_flooded_is_a_gap_not_a_growing_queue(
    own_broker: Brokers, sid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "WAITING_MESSAGES_MAX", 5)
    async with nodes(own_broker, 2) as (a, b):
        inbox, gaps = Inbox(), []
        b.on_gap(lambda: gaps.append(1))
        await b.listen(f"s.{sid}", inbox)
        await reached(a, f"s.{sid}")
        inbox.got.clear()
        # The loop stands still until the broker has sent everything: it finds all of it at once.
        with socket.create_connection(("127.0.0.1", own_broker.servers[0].port)) as publisher:
            publisher.sendall(b"CONNECT {}\r\n")
            for n in range(2000):
                publisher.sendall(b"PUB test.m.s.%b 6\r\n\x01\x00%04d\r\n" % (sid.encode(), n))
            publisher.sendall(b"PING\r\n")
            while b"PONG" not in publisher.recv(65536):
                pass
        await until(lambda: gaps, "the gap")
        assert b.stats.dropped
        await reached(a, f"s.{sid}")
        numbers = [int(data) for data in inbox.got if data != b"?"]
        assert len(numbers) < 2000
        assert numbers == sorted(set(numbers)), "what comes is in order and comes once"


async def test_a_version_that_this_node_cannot_read_is_dropped_and_counted(
    own_broker: Brokers, sid: str
) -> None:
    async with nodes(own_broker, 1) as (node,):
        inbox = Inbox()
        await node.listen(f"s.{sid}", inbox)
        await node._link.ping(5)  # type: ignore[union-attr]
        foreign = await nats.connect(own_broker.urls[0])
        for payload in (b"", b"\x01", b"\x09\x00from the future", b"\x01\x00readable"):
            await foreign.publish(f"test.m.s.{sid}", payload)
        await foreign.flush()
        await until(lambda: inbox.got, "the readable one")
        assert inbox.got == [b"readable"]
        assert node.stats.dropped == 3
        await foreign.close()


async def test_leaving_and_listening_again_leaves_one_subscription(own_broker: Brokers, sid: str) -> None:
    async with nodes(own_broker, 2) as (a, b):
        inbox = Inbox()
        for _ in range(50):
            forget = await b.listen(f"s.{sid}", inbox)
            forget()
        await b.listen(f"s.{sid}", inbox)
        await reached(a, f"s.{sid}")
        inbox.got.clear()
        a.send(f"s.{sid}", b"once")
        await reached(a, f"s.{sid}")
        assert inbox.got.count(b"once") == 1
        assert len(b._link._client._subs) <= 3  # type: ignore[union-attr]  # the address, two inboxes for answers


async def test_an_address_nobody_listens_to_any_more_is_no_one_again(own_broker: Brokers, sid: str) -> None:
    async with nodes(own_broker, 2) as (a, b):
        forget = await b.listen(f"s.{sid}", Inbox())
        await reached(a, f"s.{sid}")
        forget()

        async def empty() -> bool:
            try:
                await a.ask(f"s.{sid}", b"?", 1)
            except NoOne:
                return True
            except TimeoutError:
                pass
            return False

        await until(empty, "the broker to forget the address")


async def test_a_password_in_the_address_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    servers = Brokers(tmp_path, 1)
    options = engine.NatsOptions((servers.urls[0].replace("//", "//user:secret-word@"),))
    node = await NatsFabric.open(options, wait=0.2)
    await until(lambda: caplog.records, "a log line")
    await node.close()
    assert "secret-word" not in caplog.text
    assert servers.urls[0].partition("//")[2] in caplog.text


async def test_a_server_too_old_to_fence_is_refused_in_words() -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.10.26","headers":true,"max_payload":1048576}\r\n')
        while line := await reader.readline():
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(old, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConfigError, match=r"2\.10 cannot guard records"):
        await NatsFabric.open(engine.NatsOptions((f"nats://127.0.0.1:{port}",)), wait=0.5)
    server.close()
    await server.wait_closed()


def test_nats_py_still_has_the_inside_that_a_torn_link_is_cut_by() -> None:
    """A frozen broker keeps nats-py's close waiting; the socket is cut through these names."""
    assert "_io_writer" in vars(TcpTransport())
    assert "_transport" in vars(Client())
    source = inspect.getsource(Client._process_pong)
    assert "set_result" in source
    assert "done()" not in source, "a late pong no longer ends the reader: `flush` may be used"


# ---------------------------------------------------------------------------------------------- in process


async def test_what_a_put_returned_survives_kill_9_of_the_process(tmp_path: Path) -> None:
    path = tmp_path / "fabric.sqlite3"
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom cloud.cluster.local import LocalFabric\n"
        "async def main():\n    f = await LocalFabric.open(Path(sys.argv[1]))\n    n = 0\n"
        "    while True:\n        print(n, await f.put(f'st.{n}', b'%d' % n), flush=True)\n        n += 1\n"
        "asyncio.run(main())\n"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(path), stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    lines = [await child.stdout.readline() for _ in range(50)]
    os.kill(child.pid, signal.SIGKILL)
    lines += (await child.stdout.read()).splitlines()
    await child.wait()
    fabric = await LocalFabric.open(path)
    for line in lines:
        if line.count(b" ") == 1 and line.split()[1:]:
            n, rev = line.split()
            assert await fabric.get(f"st.{n.decode()}") == (n, int(rev))
    assert await fabric.put("st.new", b"") > len(lines), "revisions go on growing"
    await fabric.close()
