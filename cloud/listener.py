"""One TCP port for everything: plain HTTP goes to uvicorn's HTTP protocol, an upgrade becomes a `Connection`.

Rules: the first request decides. Nothing is parsed before its head is complete; the head, the time it may take and the
number of sockets that have not yet proven who they are (per address) are bounded. The upgrade decision is one
synchronous callback. No task per connection.
"""

from __future__ import annotations

import asyncio
import email.utils
import http
import ipaddress
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias, cast
from urllib.parse import parse_qsl, urlsplit

import orjson
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from cloud.connection import Connection, ConnectionHandler, ConnectionStats, Cork, quiet
from cloud.handshake import ordinary
from cloud.turns import Turns
from wire.errors import CloseCode
from wire.placement import QUERY, split_path

log = logging.getLogger(__name__)

_FORWARDED: Final = "x-forwarded-for"


#: Handshakes that wait for their turn, 0.5 ms each: those behind would wait longer than clients do. Later ones are told to
#: come back after so many seconds.
WAITING_MAX: Final = 8192
BUSY_RETRY: Final = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may cost us before and after it is known. Times in seconds, sizes in bytes."""

    #: One text message. Mentra's largest legitimate one is a display bitmap, well below (failure catalogue, SEC-12).
    text_max: int = 1024 * 1024
    #: One binary message: 8 s of PCM16 at 16 kHz, or one chunk of an app's MP3.
    binary_max: int = 256 * 1024
    #: A complete request head within this time of the TCP connection (LIV-08).
    handshake_timeout: float = 10.0
    #: Request line and headers together; tokens and cookies fit many times over.
    head_max: int = 32 * 1024
    #: Sockets of one address that have not authenticated. Above it the oldest one older than `crowd_grace` is closed, so
    #: that a newcomer gets in at once while a burst of honest clients behind one proxy is not mowed down.
    unauthenticated_max: int = 64
    crowd_grace: float = 1.0
    #: Refused at once beyond this, whatever their age: 1024 sockets cost about 6 MB.
    unauthenticated_hard_max: int = 1024
    #: Compression costs 2.6 µs and 32 kB per receiver, so it is off unless configured.
    permessage_deflate: bool = False


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """What the upgrade callback decides on. Header names are lower-case; the last of repeated query keys counts."""

    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    remote: str


@dataclass(frozen=True, slots=True)
class Accept:
    """Open the WebSocket. With `authenticated=False` the handler calls `connection.authenticated()` later.

    `message_max`: bytes of one message where that is less than the listener's own limits.
    """

    handler: ConnectionHandler
    authenticated: bool = True
    message_max: int | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """Answer with plain HTTP and a JSON body, then close."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


#: At once, or a future where something has to be asked first; the handshake's time-out runs on.
Decision: TypeAlias = Accept | Reject | asyncio.Future[Accept | Reject]
UpgradeCallback: TypeAlias = Callable[[UpgradeRequest], Decision]

#: Takes a connection, the head of its upgrade request, and all that was read so far to another process; True if it did.
GiveAway: TypeAlias = Callable[[asyncio.Transport, bytes, bytes], bool]


class _ServerState(ServerState):
    """uvicorn's shared state, with the `Date` header that its own server loop would refresh each second."""

    def __init__(self) -> None:
        self._at = -1
        self._headers: list[tuple[bytes, bytes]] = []
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        now = int(time.time())
        if now != self._at:
            self._at = now
            self._headers = [(b"date", email.utils.formatdate(now, usegmt=True).encode())]
        return self._headers

    @default_headers.setter
    def default_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        """uvicorn starts with an empty list; ours is computed."""


class _Proxies:
    """Addresses and networks, as configured."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._addresses = frozenset(entries)
        self._networks = tuple(ipaddress.ip_network(one, strict=False) for one in entries if "/" in one)

    def __contains__(self, address: str) -> bool:
        if address in self._addresses or not self._networks:
            return address in self._addresses
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:  # a forwarded header may hold anything
            return False
        return any(ip in network for network in self._networks)


class Listener:
    """Owns the server socket and every connection that came through it."""

    def __init__(
        self,
        *,
        http_app: ASGIApp,
        upgrade: UpgradeCallback,
        limits: Limits | None = None,
        trusted_proxies: Sequence[str] = ("127.0.0.1", "::1"),
        turns: Turns | None = None,
        cork: Cork | None = None,
    ) -> None:
        """`trusted_proxies`: addresses and networks whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed."""
        self.limits = limits or Limits()
        self.stats = ConnectionStats()
        self.cork = Cork() if cork is None else cork
        self.turns = turns
        self.waiting = 0  # handshakes that wait for their turn
        self.connections: set[Connection] = set()
        self.accepted = 0  # connections that the loop has taken from the queue of the listening socket
        self._upgrade = upgrade
        self._trusted = _Proxies(trusted_proxies)
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._state = _ServerState()
        self._config = Config(
            http_app,
            http="h11",
            ws=self._upgrade_later,  # type: ignore[arg-type]
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=65,  # longer than the 60 s of common proxies, so that they never reuse a socket just closed
            server_header=False,
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=list(trusted_proxies),
            h11_max_incomplete_event_size=self.limits.head_max,
        )
        self._config.load()
        self._strangers: dict[str, OrderedDict[_Stranger, float]] = {}
        #: Set where several processes share the port (`cloud.cluster.handover`).
        self.give_away: GiveAway | None = None

    @property
    def sockets(self) -> Sequence[Any]:
        """What listens, for who else may accept from it (`cloud/livez.py`)."""
        return () if self._server is None else self._server.sockets

    async def adopt(
        self, sock: socket.socket, data: bytes, *, placed: bool = True
    ) -> asyncio.BaseTransport | None:
        """Serve a connection that was accepted elsewhere; `data` is what was read of it there. Owns the socket.

        `placed`: another process has decided that it belongs here. None: its peer has gone meanwhile.
        """
        loop = asyncio.get_running_loop()
        try:
            transport, opening = await loop.connect_accepted_socket(
                lambda: _Opening(self, taken=placed), sock
            )
        except OSError:
            sock.close()
            return None
        if data and not transport.is_closing():
            opening.data_received(data)
        return transport

    async def start(
        self, host: str, port: int, *, sock: socket.socket | None = None, reuse_port: bool = False
    ) -> tuple[str, int]:
        """Listen; returns the real address (`port` 0 lets the system choose). Raises OSError if it is taken."""
        loop = self._loop = asyncio.get_running_loop()
        if sock is not None:
            self._server = await loop.create_server(self._opening, sock=sock, backlog=2048)
        else:
            self._server = await loop.create_server(
                self._opening, host, port, backlog=2048, reuse_port=reuse_port or None
            )
        name = self._server.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def stop_accepting(self) -> None:
        """Close the listening socket; open connections live on."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for crowd in list(self._strangers.values()):
            for stranger in list(crowd):
                if isinstance(stranger, _Opening):
                    stranger.evict()

    async def close(self, *, timeout: float = 6.0) -> None:
        """Stop accepting, close what is still open (1012), wait at most `timeout` for the last byte and HTTP reply."""
        await self.stop_accepting()
        for connection in list(self.connections):
            connection.close(int(CloseCode.SERVICE_RESTART), "Server shutting down")
        for protocol in list(self._state.connections):
            protocol.shutdown()
        deadline = asyncio.get_running_loop().time() + timeout
        # uvicorn has no hook for its last connection, hence a poll; it runs once in the life of the process.
        while self.connections or self._state.connections or self._state.tasks:
            if asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(0.01)
        for task in list(self._state.tasks):
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)
        for connection in list(self.connections):
            connection.abort()
        for protocol in list(self._state.connections):
            protocol.transport.abort()
        for _ in range(3):  # connection_lost comes in one of the next turns of the loop
            await asyncio.sleep(0)

    # ---------------------------------------------------------------------------------------------- first requests

    def _opening(self) -> _Opening:
        self.accepted += 1
        return _Opening(self)

    def _upgrade_later(self, **_: object) -> _Opening:
        """An upgrade that comes after plain requests on a kept-alive connection (called by uvicorn)."""
        return _LateOpening(self)

    def serve_http(self, transport: asyncio.Transport, head: bytes) -> None:
        """Give the connection, and what came with it so far, to uvicorn for good."""
        protocol = H11Protocol(config=self._config, server_state=self._state, app_state={})
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(head)

    def decide(self, request: UpgradeRequest) -> Decision:
        try:
            return self._upgrade(request)
        except Exception:
            return self._undecided(request.path)

    def decided(self, path: str, decision: asyncio.Future[Accept | Reject]) -> Accept | Reject:
        """What a future has come to; its failure is one of the callback."""
        try:
            return decision.result()
        except (Exception, asyncio.CancelledError):
            return self._undecided(path)

    def _undecided(self, path: str) -> Reject:
        """A bug above us costs one handshake."""
        log.exception("upgrade callback failed for %s", path)
        self.stats.handler_errors += 1
        return Reject(500, {"error": "INTERNAL_ERROR", "message": "Internal server error"})

    @property
    def date(self) -> bytes:
        """For the `Date` header of an answer."""
        return self._state.default_headers[0][1]

    def remote_of(self, address: str, forwarded: Sequence[str]) -> str:
        """The client's address: the last hop in `X-Forwarded-For` that is not a proxy of ours."""
        if address not in self._trusted:
            return address
        hops = [hop.strip() for value in forwarded for hop in value.split(",")]
        for hop in reversed(hops):
            if hop and hop not in self._trusted:
                return hop[:64]
        return address

    # ---------------------------------------------------------------------------------------------- strangers

    def admit(self, address: str, stranger: _Stranger, now: float) -> bool:
        """Count a socket that has not authenticated; the oldest of a crowd makes room. False = no room at all."""
        crowd = self._strangers.setdefault(address, OrderedDict())
        while len(crowd) >= self.limits.unauthenticated_max:
            oldest, since = next(iter(crowd.items()))
            if now - since < self.limits.crowd_grace:
                break
            del crowd[oldest]
            oldest.evict()
        crowd = self._strangers.setdefault(address, crowd)  # eviction may have dropped an empty one
        if len(crowd) >= self.limits.unauthenticated_hard_max:
            return False
        crowd[stranger] = now
        return True

    def known(self, address: str, stranger: _Stranger) -> None:
        """The socket has authenticated, turned out to be plain HTTP, or is gone."""
        crowd = self._strangers.get(address)
        if crowd is not None:
            crowd.pop(stranger, None)
            if not crowd:
                del self._strangers[address]

    @property
    def strangers(self) -> int:
        """Sockets that have not authenticated yet."""
        return sum(map(len, self._strangers.values()))


class _Stranger(Protocol):
    """A socket that counts against its address until it has proven who it is."""

    def evict(self) -> None:
        """Close it: it is the oldest of a crowd, out of time, or the server goes down."""


class _UnknownPeer:
    """An open WebSocket whose peer still owes its credentials."""

    __slots__ = ("connection",)

    def __init__(self) -> None:
        self.connection: Connection | None = None

    def evict(self) -> None:
        if self.connection is not None:
            self.connection.close(int(CloseCode.POLICY), "too many unauthenticated connections")


class _Opening(asyncio.Protocol):
    """A TCP connection until its first request head is complete."""

    __slots__ = (
        "_address", "_buffer", "_decision", "_head_end", "_listener", "_loop", "_taken", "_timer", "_transport", "_waits",
    )  # fmt: skip

    def __init__(self, listener: Listener, *, taken: bool = False) -> None:
        """`taken`: another process gave it to us, so that here it stays."""
        self._listener = listener
        self._taken = taken
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._head_end = 0
        self._waits = False  # for its turn, with reading paused
        self._decision: Decision | None = None  # held while it takes its time: the loop holds tasks weakly
        self._transport: asyncio.Transport | None = None
        self._address = ""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses of asyncio's
        self._transport = stream
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else "local"
        if not self._listener.admit(self._address, self, self._loop.time()):
            stream.abort()
            return
        self._timer = self._loop.call_later(self._listener.limits.handshake_timeout, self.evict)

    def evict(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def _leave(self) -> None:
        self._listener.known(self._address, self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def eof_received(self) -> bool | None:
        return None

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        scan_from = max(0, len(self._buffer) - 3)
        self._buffer += data
        if self._waits:
            return
        if self._buffer[0] == _TLS_HANDSHAKE:
            # SDKs ask for permissions over https whatever the socket is (wire spec 5.1); waiting for the end of a head
            # that never comes would hold them, and a place among the strangers, until the handshake deadline.
            self._answer(Reject(400, {"error": "this port speaks plain HTTP, not TLS"}))
            return
        head_end = self._buffer.find(b"\r\n\r\n", scan_from)
        if head_end < 0:
            if len(self._buffer) > self._listener.limits.head_max:
                self._answer(Reject(431, {"error": "request head is too large"}))
            return
        head = bytes(self._buffer[: head_end + 4])
        if head_end <= self._listener.limits.head_max and not _asks_for_websocket(head):
            self._leave()
            self._transport = None
            self._listener.serve_http(transport, bytes(self._buffer))
            return
        give_away = self._listener.give_away
        if give_away is not None and not self._taken and give_away(transport, head, bytes(self._buffer)):
            self._leave()
            self._transport = None
            transport.abort()  # our hold on it; the connection lives on elsewhere
            return
        self._head_end = head_end + 4
        turns = self._listener.turns
        if turns is None:
            self._take_turn()
        elif self._listener.waiting >= WAITING_MAX:
            busy = {"error": "too many connections at once"}
            self._answer(Reject(503, busy, {"Retry-After": str(BUSY_RETRY)}))
        elif not turns.do(self._take_turn):
            self._waits = True
            self._listener.waiting += 1
            self._listener.known(self._address, self)  # it is we who are slow
            transport.pause_reading()  # what comes meanwhile would have no bound

    def _take_turn(self) -> None:
        transport = self._transport
        if self._waits:
            self._listener.waiting -= 1
        if transport is None or transport.is_closing():
            return
        if self._waits:
            transport.resume_reading()
        self._handshake(
            transport, bytes(self._buffer[: self._head_end]), bytes(self._buffer[self._head_end :])
        )

    def _handshake(self, transport: asyncio.Transport, head: bytes, rest: bytes) -> None:
        listener = self._listener
        limits = listener.limits
        plain = ordinary(head, extensions=limits.permessage_deflate)
        if plain is not None:
            protocol, writes = None, [plain.answer(listener.date)]
            target, headers = plain.target, plain.headers
            forwarded = [headers[_FORWARDED]] if _FORWARDED in headers else []
        else:
            protocol = ServerProtocol(
                max_size=limits.text_max,
                logger=quiet,
                extensions=[_DEFLATE] if limits.permessage_deflate else None,
            )
            protocol.receive_data(head)
            events = protocol.events_received()
            if not events or not isinstance(events[0], Request):
                # Malformed beyond repair; websockets has written its answer (431, 414) or none at all (400).
                malformed = _simple_response(400, {"error": "malformed request"})
                self._finish(protocol.data_to_send() or [malformed])
                return
            request = events[0]
            response = protocol.accept(request)
            protocol.send_response(response)
            writes = protocol.data_to_send()
            if response.status_code != 101:
                self._finish(writes)
                return
            target, forwarded = request.path, request.headers.get_all(_FORWARDED)
            headers = {name.lower(): value for name, value in request.headers.raw_items()}
        try:
            parts = urlsplit(target)
            query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=100))
            key, path = split_path(parts.path)
            if key is not None:
                query[QUERY] = key
        except ValueError as error:
            self._answer(Reject(400, {"error": f"malformed request target: {error}"}))
            return
        remote = listener.remote_of(self._address, forwarded)
        decision = listener.decide(UpgradeRequest(path=path, query=query, headers=headers, remote=remote))
        if isinstance(decision, asyncio.Future):
            self._waits = True
            self._decision = decision
            transport.pause_reading()  # as above
            decision.add_done_callback(
                lambda done: self._decided(listener.decided(path, done), transport, protocol, writes, remote)
            )
            return
        self._open(decision, transport, protocol, writes, remote, rest)

    def _decided(
        self,
        decision: Accept | Reject,
        transport: asyncio.Transport,
        protocol: ServerProtocol | None,
        writes: Sequence[bytes],
        remote: str,
    ) -> None:
        """The answer that took its time is here; so may be frames, and the peer may have gone."""
        if not transport.is_closing():
            transport.resume_reading()
            self._open(decision, transport, protocol, writes, remote, bytes(self._buffer[self._head_end :]))

    def _open(
        self,
        decision: Accept | Reject,
        transport: asyncio.Transport,
        protocol: ServerProtocol | None,
        writes: Sequence[bytes],
        remote: str,
        rest: bytes,
    ) -> None:
        listener = self._listener
        limits = listener.limits
        if isinstance(decision, Reject):
            self._answer(decision)
            return
        self._leave()
        self._transport = None
        on_authenticated: Callable[[], None] | None = None
        stranger = None
        if not decision.authenticated:
            stranger = _UnknownPeer()
            if not listener.admit(remote, stranger, self._loop.time()):
                transport.abort()
                return
            on_authenticated = _Forget(listener, remote, stranger)
        message_max = decision.message_max or limits.text_max
        if protocol is not None:
            protocol.max_message_size = message_max
        connection = Connection(
            transport=transport,
            protocol=protocol,
            handler=decision.handler,
            remote=remote,
            text_max=message_max,
            binary_max=min(limits.binary_max, message_max),
            stats=listener.stats,
            loop=self._loop,
            cork=listener.cork,
            turns=listener.turns,
            on_authenticated=on_authenticated,
            on_lost=listener.connections.discard,
        )
        if stranger is not None:
            stranger.connection = connection
        listener.connections.add(connection)
        transport.set_protocol(connection)
        # The answer and what the owner says first go out together.
        cork = listener.cork
        cork.active = True
        for data in writes:
            if not connection.put(data):  # compressed connections have no short way
                transport.write(data)
        connection.sent = 0
        connection.opened()
        cork.pull()
        if rest:  # frames that came right behind the handshake (CON-03)
            connection.data_received(rest)

    def _answer(self, reject: Reject) -> None:
        self._finish([_simple_response(reject.status, reject.body, reject.headers)])

    def _finish(self, writes: Sequence[bytes]) -> None:
        """Write an HTTP answer and close; the handshake timer still guards against a peer that does not read it."""
        assert self._transport is not None
        self._buffer.clear()
        for data in writes:
            if data:
                self._transport.write(data)
        self._transport.close()


class _LateOpening(_Opening):
    """An upgrade request replayed by uvicorn, which installs this protocol only after it has fed it."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.pause_reading()  # nothing may overtake the handshake
        self._loop.call_soon(self._resume, data)

    def _resume(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            super().data_received(data)


class _Forget:
    """Takes an authenticated peer off the list; an object, because a closure would cost a cell per connection."""

    __slots__ = ("address", "listener", "stranger")

    def __init__(self, listener: Listener, address: str, stranger: _Stranger) -> None:
        self.listener = listener
        self.address = address
        self.stranger = stranger

    def __call__(self) -> None:
        self.listener.known(self.address, self.stranger)


#: First byte of a TLS record that opens a handshake.
_TLS_HANDSHAKE: Final = 0x16

_DEFLATE: Final = ServerPerMessageDeflateFactory(
    server_no_context_takeover=False, server_max_window_bits=12, client_max_window_bits=12
)


def _asks_for_websocket(head: bytes) -> bool:
    """True if a header says `Upgrade: websocket`; whether the handshake is sound is for `websockets` to say."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"upgrade":
            return b"websocket" in value.lower()
    return False


def _simple_response(status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> bytes:
    payload = orjson.dumps(body)
    phrase = ""
    with suppress(ValueError):
        phrase = http.HTTPStatus(status).phrase
    fields = Headers(
        {
            "Date": email.utils.formatdate(usegmt=True),
            "Content-Type": "application/json",
            "Content-Length": str(len(payload)),
            "Connection": "close",
            **(headers or {}),
        }
    )
    return bytes(Response(status, phrase, fields, payload).serialize())
