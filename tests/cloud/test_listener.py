"""The listener over real sockets: one port for HTTP and WebSocket, bounded strangers, honest handshakes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import websockets
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from websockets.asyncio.client import connect

from cloud import connection as connections
from cloud.connection import QUEUE_BYTES_MAX, QUEUE_FRAMES_MAX, Connection, Frame
from cloud.listener import Accept, Limits, Listener, Reject, UpgradeRequest, _Proxies
from wire.messages.base import Delivery

GRACE = 20.0  # generous: the machine is shared


class Recorder:
    """A handler that notes what happened and can react to text."""

    def __init__(self, on_text: Callable[[Connection, bytes], None] | None = None) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.connection: Connection | None = None
        self.closed: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self.opened: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._react = on_text

    def on_open(self, connection: Connection) -> None:
        self.connection = connection
        self.events.append(("open",))
        self.opened.set_result(connection)

    def on_text(self, data: bytes) -> None:
        self.events.append(("text", data))
        if self._react is not None:
            assert self.connection is not None
            self._react(self.connection, data)

    def on_binary(self, data: bytes) -> None:
        self.events.append(("binary", data))

    def on_pong(self, payload: bytes) -> None:
        self.events.append(("pong", payload))

    def on_closed(self, code: int, reason: str) -> None:
        self.events.append(("closed", code, reason))
        self.closed.set_result((code, reason))


class World:
    """A listener with one HTTP route and an upgrade callback that records."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.requests: list[UpgradeRequest] = []
        self.handlers: list[Recorder] = []
        self.authenticated = True
        self.react: Callable[[Connection, bytes], None] | None = None
        self.reject: Reject | None = None
        app = Starlette(
            routes=[
                Route("/health", lambda request: JSONResponse({"status": "ok"})),
                Route("/echo", self._echo, methods=["POST"]),
            ]
        )
        self.listener = Listener(http_app=app, upgrade=self._upgrade, limits=limits)
        self.port = 0

    @staticmethod
    async def _echo(request: Request) -> JSONResponse:
        assert request.client is not None
        return JSONResponse({"bytes": len(await request.body()), "client": request.client.host})

    def _upgrade(self, request: UpgradeRequest) -> Accept | Reject:
        self.requests.append(request)
        if self.reject is not None:
            return self.reject
        handler = Recorder(self.react)
        self.handlers.append(handler)
        return Accept(handler, authenticated=self.authenticated)

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def world(limits: Limits | None = None) -> AsyncIterator[World]:
    made = World(limits)
    _, made.port = await made.listener.start("127.0.0.1", 0)
    try:
        yield made
    finally:
        await made.listener.close(timeout=1.0)


async def until(condition: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + GRACE
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "condition never came true"
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def raw(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare TCP connection, really closed at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def read_all(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(GRACE):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def test_http_and_websocket_share_one_port() -> None:
    async with world() as w, httpx.AsyncClient() as client:
        assert (await client.get(f"{w.http}/health")).json() == {"status": "ok"}
        assert (await client.get(f"{w.http}/nowhere")).status_code == 404
        async with connect(f"{w.ws}/glasses-ws?token=abc&livekit=true", compression=None) as ws:
            await ws.send('{"type":"ping"}')
            await ws.send(b"\x01\x02")
            await until(lambda: len(w.handlers[0].events) == 3)
        assert (await w.handlers[0].closed)[0] == 1000
        assert w.handlers[0].events[:3] == [("open",), ("text", b'{"type":"ping"}'), ("binary", b"\x01\x02")]
        request = w.requests[0]
        assert request.path == "/glasses-ws"
        assert request.query == {"token": "abc", "livekit": "true"}
        assert request.headers["upgrade"].lower() == "websocket"


async def test_keep_alive_and_pipelining_work() -> None:
    async with world() as w, raw(w.port) as (reader, writer):
        get = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write(get + get + b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await read_all(reader)
        assert answer.count(b"HTTP/1.1 200 OK") == 3
        assert b"\r\ndate: " in answer


async def test_a_large_body_reaches_the_application() -> None:
    async with world() as w, httpx.AsyncClient() as client:
        answer = await client.post(f"{w.http}/echo", content=b"x" * 3_000_000)
        assert answer.json()["bytes"] == 3_000_000


async def test_an_upgrade_may_follow_a_plain_request_on_the_same_connection() -> None:
    async with world() as w, raw(w.port) as (reader, writer):
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b'{"status":"ok"}')
        writer.write(UPGRADE)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"101 Switching Protocols" in head
        writer.write(masked(0x81, b"hi"))
        await until(lambda: bool(w.handlers) and ("text", b"hi") in w.handlers[0].events)


UPGRADE = (
    b"GET /app-ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def masked(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, 0xFE, size)
    else:
        head = struct.pack("!BBQ", first, 0xFF, size)
    mask = b"\x01\x02\x03\x04"
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


@pytest.mark.failure("CON-03")
async def test_messages_sent_right_behind_the_handshake_are_delivered() -> None:
    async with world() as w, raw(w.port) as (_, writer):
        writer.write(UPGRADE + masked(0x81, b"first") + masked(0x82, b"second"))
        await until(lambda: bool(w.handlers) and len(w.handlers[0].events) == 3)
        assert w.handlers[0].events == [("open",), ("text", b"first"), ("binary", b"second")]


async def test_a_head_that_arrives_byte_by_byte_is_understood() -> None:
    async with world() as w, raw(w.port) as (reader, writer):
        for byte in UPGRADE:
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0)
        assert b"101 Switching" in await reader.readuntil(b"\r\n\r\n")


async def test_a_refused_upgrade_answers_with_json() -> None:
    async with world() as w:
        w.reject = Reject(401, {"type": "connection_error", "message": "No core token provided"})
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with connect(f"{w.ws}/glasses-ws"):
                pass
        response = refused.value.response
        assert response.status_code == 401
        assert response.headers["Content-Type"] == "application/json"
        assert json.loads(response.body or b"") == {
            "type": "connection_error",
            "message": "No core token provided",
        }


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (UPGRADE.replace(b"Version: 13", b"Version: 8"), 400),
        (UPGRADE.replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""), 400),
        (UPGRADE.replace(b"GET", b"POST"), 405),
        (UPGRADE.replace(b"Connection: Upgrade", b"Connection: close"), 426),
        (b"GET /x HTTP/1.1\r\nA: " + b"x" * 40_000, 431),
        (UPGRADE.replace(b"Host: x", b"X: " + b"y" * 9000), 431),
        (UPGRADE.replace(b"/app-ws", b"//["), 400),
        (UPGRADE.replace(b"/app-ws", b"/x?" + b"&".join(b"a%d=1" % i for i in range(200))), 400),
        (b"\x16\x03\x01garbage\r\n\r\n", 400),
        (b"\x16\x03\x01\x00\xc8\x01", 400),  # TLS on the plain port is told so at once
        (b"\x16", 400),
    ],
)
async def test_a_bad_request_gets_its_status_and_the_socket_is_closed(
    request_bytes: bytes, status: int
) -> None:
    async with world() as w, raw(w.port) as (reader, writer):
        writer.write(request_bytes)
        answer = await read_all(reader)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:80]
        assert not w.handlers


async def test_a_failing_upgrade_callback_costs_one_handshake(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:

        def explode(request: UpgradeRequest) -> Accept:
            raise RuntimeError("bug")

        w.listener._upgrade = explode
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with connect(w.ws):
                pass
        assert refused.value.response.status_code == 500
        assert "upgrade callback failed" in caplog.text


async def test_a_decision_that_takes_its_time_holds_up_nobody_else_and_loses_no_frame() -> None:
    async with (
        world() as w,
        raw(w.port) as (reader, writer),
        raw(w.port) as (told, other),
        raw(w.port) as (_, gone),
    ):
        decisions: list[asyncio.Future[Accept | Reject]] = []

        def later(request: UpgradeRequest) -> asyncio.Future[Accept | Reject]:
            decisions.append(asyncio.get_running_loop().create_future())
            return decisions[-1]

        w.listener._upgrade = later
        for number, each in enumerate((writer, other, gone), 1):
            each.write(UPGRADE + masked(0x81, b"first"))
            await until(lambda n=number: len(decisions) == n)  # type: ignore[misc]
        writer.write(masked(0x82, b"second"))
        gone.transport.abort()
        await asyncio.sleep(0.05)
        handler = Recorder(None)
        decisions[0].set_result(Accept(handler))
        decisions[1].set_exception(RuntimeError("bug"))
        decisions[2].set_result(Accept(Recorder(None)))
        assert b"101 Switching" in await reader.readuntil(b"\r\n\r\n")
        await until(lambda: len(handler.events) == 3)
        assert handler.events == [("open",), ("text", b"first"), ("binary", b"second")]
        assert (await read_all(told)).startswith(b"HTTP/1.1 500 ")
        assert len(w.listener.connections) == 1


@pytest.mark.failure("LIV-08")
async def test_half_sent_upgrades_are_closed_at_the_deadline() -> None:
    async with world(Limits(handshake_timeout=0.2)) as w, contextlib.AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(raw(w.port)) for _ in range(20)]
        for _, writer in pairs:
            writer.write(UPGRADE[:-10])
        for reader, _ in pairs:
            assert await read_all(reader) == b""
        assert w.listener.strangers == 0


@pytest.mark.failure("LIV-08")
async def test_a_crowd_of_strangers_makes_room_for_a_newcomer() -> None:
    limits = Limits(handshake_timeout=GRACE, unauthenticated_max=8, crowd_grace=0.0)
    async with world(limits) as w, contextlib.AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(raw(w.port)) for _ in range(40)]
        for _, writer in idle:
            writer.write(UPGRADE[:-10])
        await until(lambda: 0 < w.listener.strangers <= 8)
        async with connect(f"{w.ws}/glasses-ws") as ws:
            await ws.send("hello")
            await until(lambda: ("text", b"hello") in w.handlers[-1].events)


@pytest.mark.failure("LIV-08")
async def test_sockets_without_credentials_are_counted_until_they_authenticate() -> None:
    limits = Limits(unauthenticated_max=3, crowd_grace=0.0)
    async with world(limits) as w:
        w.authenticated = False
        first = await connect(f"{w.ws}/app-ws")
        connection = await w.handlers[0].opened
        assert w.listener.strangers == 1
        connection.authenticated()
        assert w.listener.strangers == 0
        others = [await connect(f"{w.ws}/app-ws") for _ in range(4)]
        await until(lambda: w.handlers[1].closed.done())
        assert (await w.handlers[1].closed)[0] == 1008, "the oldest stranger made room"
        assert not w.handlers[0].closed.done(), "a known peer stays"
        for ws in (first, *others):
            await ws.close()
        await until(lambda: w.listener.strangers == 0)


async def test_the_hard_limit_refuses_at_once() -> None:
    limits = Limits(unauthenticated_max=2, crowd_grace=100.0, unauthenticated_hard_max=4)
    async with world(limits) as w, contextlib.AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(raw(w.port)) for _ in range(4)]
        await until(lambda: w.listener.strangers == 4)
        reader, _ = await stack.enter_async_context(raw(w.port))
        assert await read_all(reader) == b""
        assert len(pairs) == w.listener.strangers


async def test_forwarded_addresses_are_believed_from_trusted_proxies_only() -> None:
    async with world() as w, httpx.AsyncClient() as client:
        headers = {"X-Forwarded-For": "198.51.100.7, 203.0.113.9, 127.0.0.1"}
        async with connect(w.ws, additional_headers=headers):
            pass
        assert w.requests[0].remote == "203.0.113.9", (
            "the last hop that is not ours; the rest is the client's word"
        )
        answer = await client.post(f"{w.http}/echo", headers=headers, content=b"")
        assert answer.json()["client"] == "203.0.113.9"
        w.listener._trusted = _Proxies(["127.0.0.0/8", "203.0.113.0/24"])
        async with connect(w.ws, additional_headers=headers):
            pass
        assert w.requests[1].remote == "198.51.100.7", "a network of proxies"
        w.listener._trusted = _Proxies([])
        async with connect(w.ws, additional_headers=headers):
            pass
        assert w.requests[2].remote == "127.0.0.1"
        assert "nonsense" not in _Proxies(["10.0.0.0/8"])


async def test_closing_ends_open_connections_with_service_restart() -> None:
    w = World()
    _, w.port = await w.listener.start("127.0.0.1", 0)
    ws = await connect(w.ws)
    await w.handlers[0].opened
    await w.listener.close()
    with pytest.raises(websockets.ConnectionClosed):
        await ws.recv()
    assert ws.close_code == 1012
    assert not w.listener.connections
    with pytest.raises(OSError):
        await connect(w.ws)


async def test_compression_is_declined_by_default_and_works_when_configured() -> None:
    async with world() as w, connect(w.ws, compression="deflate") as ws:
        assert not ws.protocol.extensions
    async with world(Limits(permessage_deflate=True)) as w:
        w.react = lambda connection, data: (
            connection.send(Frame.text(data), Delivery.RELIABLE),
            connection.send(Frame.binary(data), Delivery.RELIABLE),
            None,
        )[2]
        async with connect(w.ws, compression="deflate") as ws:
            assert ws.protocol.extensions
            for size in (10, 5000, 200_000):
                await ws.send("ab" * size)
                assert await ws.recv() == "ab" * size
                assert await ws.recv() == b"ab" * size


@pytest.mark.failure("LIV-06")
async def test_a_peer_that_never_reads_costs_a_bounded_buffer_and_is_closed() -> None:
    async with world() as w, raw(w.port) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(UPGRADE)
        await until(lambda: bool(w.handlers))
        connection = await w.handlers[0].opened
        audio = Frame.binary(b"x" * 64_000)
        for _ in range(400):  # 25 MB into a socket that nobody empties
            connection.send(audio, Delivery.LOSSY)
            assert connection.buffered_bytes < 2 * QUEUE_BYTES_MAX
            await asyncio.sleep(0)
        assert connection.dropped_lossy > 100
        assert connection.is_open, "a peer that only misses lossy frames is thinned"
        sent = [
            connection.send(Frame.text(b"%d" % n), Delivery.RELIABLE) for n in range(QUEUE_FRAMES_MAX + 10)
        ]
        assert not all(sent)
        assert not connection.is_open
        assert w.listener.stats.slow_consumers == 1
        connection.abort()
        assert (await w.handlers[0].closed)[0] == 1013


@pytest.mark.failure("LIV-03")
async def test_the_descriptor_of_a_mute_peer_is_freed_after_a_close() -> None:
    async with world() as w, raw(w.port) as (reader, writer):
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        connection = await w.handlers[0].opened
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connections, "CLOSE_TIMEOUT", 0.05)  # its real value is held in virtual time
            connection.close(1000, "bye")
            assert await asyncio.wait_for(w.handlers[0].closed, GRACE) == (1000, "bye")
        assert not w.listener.connections


@pytest.mark.failure("LIV-04")
async def test_resets_while_sending_harm_nobody_else() -> None:
    async with world() as w, contextlib.AsyncExitStack() as stack:
        keeper = await stack.enter_async_context(connect(w.ws, compression=None))
        received = 0

        async def read() -> None:
            nonlocal received
            async for _ in keeper:
                received += 1

        reading = asyncio.ensure_future(read())
        event = Frame.text(b'{"type":"event"}')
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", w.port)
            writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            for handler in w.handlers:
                if handler.connection is not None:
                    handler.connection.send(event, Delivery.RELIABLE)
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await until(lambda: received == 20)
        await until(lambda: len(w.listener.connections) == 1)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
