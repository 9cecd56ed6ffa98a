"""The uplink's socket against a real WebSocket server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import jwt
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from edge.uplink_socket import AUDIO_BYTES_MAX, DialRefused, Outbox, UplinkSocket, endpoint
from wire.errors import ConfigError, UplinkError
from wire.messages.base import Delivery
from wire.placement import session_key


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("wss://glass.example", "wss://glass.example/glasses-ws"),
        ("glass.example", "wss://glass.example/glasses-ws"),
        ("http://127.0.0.1:8002/", "ws://127.0.0.1:8002/glasses-ws"),
        ("https://x.example", "wss://x.example/glasses-ws"),
        ("ws://x:1/ws/client?s=1", "ws://x:1/ws/client?s=1"),
    ],
)
def test_what_an_operator_writes_becomes_an_endpoint(given: str, wanted: str) -> None:
    assert endpoint(given) == wanted


@pytest.mark.parametrize("given", ["ftp://x", "wss://", "://"])
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ConfigError):
        endpoint(given)


# --------------------------------------------------------------------------------------------------------- outbox


async def drain(outbox: Outbox) -> list[bytes]:
    return [(await outbox.get()).data for _ in range(len(outbox))]


async def test_the_newest_of_a_key_replaces_the_waiting_one_in_its_place() -> None:
    outbox = Outbox()
    outbox.put_text(b"a1", Delivery.LATEST, "a")
    outbox.put_text(b"r", Delivery.RELIABLE, None)
    outbox.put_text(b"a2", Delivery.LATEST, "a")
    assert await drain(outbox) == [b"a2", b"r"]


@pytest.mark.failure("EDG-03")
async def test_of_too_much_sound_the_oldest_goes() -> None:
    outbox = Outbox()
    outbox.put_text(b"t", Delivery.RELIABLE, None)
    for n in range(20):
        outbox.put_audio(bytes([n]) * 3200)
    assert outbox.dropped_audio == 10
    got = await drain(outbox)
    assert got[0] == b"t"
    assert [frame[0] for frame in got[1:]] == list(range(10, 20))
    assert sum(len(frame) for frame in got[1:]) <= AUDIO_BYTES_MAX


async def test_a_full_queue_drops_lossy_text_and_refuses_reliable_text() -> None:
    outbox = Outbox()
    for _ in range(256):
        assert outbox.put_text(b"x", Delivery.RELIABLE, None)
    assert outbox.put_text(b"ping", Delivery.LOSSY, None)
    assert len(outbox) == 256
    assert not outbox.put_text(b"y", Delivery.RELIABLE, None)


# --------------------------------------------------------------------------------------------------------- socket

Handler = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def server(
    handler: Handler, process: Callable[[ServerConnection, Request], Response | None] | None = None
) -> AsyncIterator[str]:
    async with serve(handler, "127.0.0.1", 0, process_request=process) as listening:
        yield f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/glasses-ws"


class Seen:
    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.closed: list[tuple[int, str]] = []
        self.opened = asyncio.Event()
        self.socket = UplinkSocket(
            self.opened.set, self.texts.append, lambda code, reason: self.closed.append((code, reason))
        )


async def test_text_and_sound_go_up_and_text_comes_down() -> None:
    got: list[str | bytes] = []
    headers: list[str | None] = []

    async def cloud(ws: ServerConnection) -> None:
        assert ws.request is not None
        headers.append(ws.request.headers.get("Authorization"))
        await ws.send('{"type":"hello"}')
        await ws.send(b"binary of no meaning")
        async for frame in ws:
            got.append(frame)
            if len(got) == 2:
                await ws.close(1012, "restart")

    seen = Seen()
    async with server(cloud) as url:
        running = asyncio.create_task(seen.socket.run(url, "tok"))
        await asyncio.wait_for(seen.opened.wait(), 10)
        seen.socket.send_text(b'{"a":1}', Delivery.RELIABLE, None)
        seen.socket.send_audio(b"\1\2")
        await asyncio.wait_for(running, 10)
    assert headers == ["Bearer tok"]
    assert got == ['{"a":1}', b"\1\2"]
    assert seen.texts == [b'{"type":"hello"}']
    assert seen.closed == [(1012, "restart")]


async def test_the_address_says_whose_session_it_is_where_the_token_does() -> None:
    paths: list[str] = []

    async def cloud(ws: ServerConnection) -> None:
        assert ws.request is not None
        paths.append(ws.request.path)
        await ws.close()

    async with server(cloud) as url:
        await Seen().socket.run(url, "opaque")
        await Seen().socket.run(url + "?x=1", jwt.encode({"email": "Anna@x.example"}, "k" * 32))
    assert paths == ["/glasses-ws", f"/glasses-ws?x=1&s={session_key('anna@x.example')}"]


@pytest.mark.failure("CON-09")
@pytest.mark.parametrize(("status", "wait"), [(401, None), (403, None), (503, 7.0), (500, None)])
async def test_a_refused_upgrade_says_which_status_and_how_long_to_wait(
    status: int, wait: float | None
) -> None:
    def refuse(connection: ServerConnection, _: Request) -> Response:
        response = connection.respond(HTTPStatus(status), "no\n")
        if wait is not None:
            response.headers["Retry-After"] = "7"
        return response

    async def never(_: ServerConnection) -> None:
        raise AssertionError

    seen = Seen()
    async with server(never, refuse) as url:
        with pytest.raises(DialRefused) as refused:
            await seen.socket.run(url, "tok")
    assert refused.value.status == status
    assert refused.value.retry_after == wait
    assert not seen.opened.is_set()
    assert seen.closed == []


@pytest.mark.failure("CON-09")
@pytest.mark.parametrize("url", ["ws://127.0.0.1:1/x", "ws://no-such-host.invalid/x"])
async def test_an_unreachable_cloud_is_a_retryable_error_in_words(url: str) -> None:
    with pytest.raises(UplinkError) as failed:
        await Seen().socket.run(url, "tok")
    assert failed.value.retryable
    assert "tok" not in str(failed.value)


async def test_a_server_that_speaks_no_websocket_is_an_error_in_words() -> None:
    async def rude(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        writer.close()

    listening = await asyncio.start_server(rude, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(UplinkError):
            await Seen().socket.run(f"ws://127.0.0.1:{port}/", "")


async def test_close_says_goodbye_and_ends_the_run() -> None:
    codes: list[int | None] = []

    async def cloud(ws: ServerConnection) -> None:
        await ws.wait_closed()
        codes.append(ws.close_code)

    seen = Seen()
    async with server(cloud) as url:
        running = asyncio.create_task(seen.socket.run(url, ""))
        await asyncio.wait_for(seen.opened.wait(), 10)
        seen.socket.close(1001, "edge stops")
        await asyncio.wait_for(running, 10)
    assert codes == [1001]


async def test_a_close_before_it_is_open_never_reports_open() -> None:
    async def cloud(ws: ServerConnection) -> None:
        await ws.wait_closed()

    seen = Seen()
    async with server(cloud) as url:
        seen.socket.close(1000, "changed my mind")
        await asyncio.wait_for(seen.socket.run(url, ""), 10)
    assert not seen.opened.is_set()


async def test_a_connection_cut_without_a_word_is_1006() -> None:
    async def cloud(ws: ServerConnection) -> None:
        ws.transport.abort()

    seen = Seen()
    async with server(cloud) as url:
        await asyncio.wait_for(seen.socket.run(url, ""), 10)
    assert seen.closed[0][0] == 1006
