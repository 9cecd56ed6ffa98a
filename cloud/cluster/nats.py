"""The fabric over NATS: core NATS carries messages, JetStream key-value buckets hold the records.

Rules: one `_Link` is one connection of nats-py and dies whole: nothing that waited in it is sent later, every question
pending in it fails at once, and a new one subscribes to all addresses again. Nothing is built on watches (they stall for
seconds after a broker moved). A conditional write refused with 10164 was not applied and is repeated; only 10071 means
that the condition does not hold; no answer means an unknown outcome. Reads ask the stream's leader. Sources: NATS client
protocol; JetStream API and ADR-8 (key-value); server error table; measurements in docs/scaling.md.

nats-py's own reconnecting is off: it waits for the old socket to close, which a frozen broker never lets it, and it keeps
what was published meanwhile for later.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import random
import ssl
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import nats.errors
import nats.js.errors
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import KeyValueConfig, StorageType

from cloud.cluster.broker import VERSION_MIN
from cloud.cluster.exchange import Exchange, nobody, replier
from cloud.cluster.fabric import (
    PENDING_BYTES_MAX,
    VERSION,
    VERSIONS_READ,
    Conflict,
    FabricStats,
    Fenced,
    Handler,
    NoOne,
    Rec,
    Reply,
    Unavailable,
    Unlisten,
    check_condition,
    check_name,
    check_size,
    shard_of,
)
from wire.errors import ConfigError

log = logging.getLogger(__name__)

#: One attempt to reach one server, seconds: on a network that works it takes milliseconds.
CONNECT_TIMEOUT: Final = 1.0
#: Between attempts, seconds, plus as much again by chance: 0.1 s is unnoticed, and thousands of nodes spread.
RECONNECT_DELAY: Final = 0.1
#: A broker that answers neither of two pings, sent this far apart (seconds), is frozen or cut off.
PING_INTERVAL: Final = 1.0
#: A record operation is given up after this many seconds. An election of the leader takes 4-9 s: longer than anyone waits.
RECORD_TIMEOUT: Final = 2.0
#: Pause before a write that met a concurrent one is repeated, seconds; grows to the second value. One fsync is 1-2 ms.
RETRY_DELAYS: Final = (0.001, 0.02)
#: Pause while a stream has no leader, seconds: planned moves (lame duck) take 0.02-0.5 s.
LEADERLESS_DELAY: Final = 0.05
#: Messages of one address that may wait for their listener. The client reads at most 128 kB before listeners run, 1,300
#: messages of 100 B; three times that means the loop is lost, and dropping (told by `on_gap`) is right.
WAITING_MESSAGES_MAX: Final = 4096
#: Records of sessions that nobody wrote for this long are reaped (seconds): their node died and their glasses never came
#: again. A living owner writes its own every day (`OwnershipTiming.refresh`).
RECORD_AGE_MAX: Final = 30 * 24 * 3600.0
#: What `close` waits for pending messages, and for nats-py to close its socket, seconds.
CLOSE_TIMEOUT: Final = 1.0

#: Second byte of a message: which listeners of a node it is for (see `Fabric.send`).
_UNICAST: Final = 0
_FANOUT: Final = 1
_HEADER_BYTES: Final = 2

_STATUS: Final = "Status"
_NO_RESPONDERS: Final = "503"
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
_KV_OPERATION: Final = "KV-Operation"
_GONE: Final = frozenset({"DEL", "PURGE"})
#: JetStream error codes (server/errors.json).
_WRONG_LAST_SEQUENCE: Final = 10071
_IN_PROCESS: Final = 10164
_NO_MESSAGE: Final = 10037


@dataclass(frozen=True, slots=True)
class NatsOptions:
    """How to reach the brokers and what this cell's subjects and buckets are called."""

    servers: tuple[str, ...]
    """`nats://host:port` or `tls://…`; a user and password or a token may stand before the host."""
    cell: str = "glassbridge"
    """Prefix of subjects and buckets, so that cells may share brokers."""
    replicas: int = 1
    """Copies of each record: 1 on one broker, 3 on three or more."""
    buckets: int = 4
    """Streams the records are spread over by session: each has one leader, and one fsync at a time. Never change it
    while sessions run."""
    name: str = ""
    """Shown in the broker's list of connections."""
    credentials: str | None = None
    """File with a user's JWT and seed."""
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class _Packet:
    """One thing to hand to nats-py, in order."""

    subject: str
    payload: bytes
    reply: str = ""
    headers: Mapping[str, str] | None = None


class NatsFabric:
    """Implements `Fabric`; make one with `await NatsFabric.open(options)`."""

    def __init__(self, options: NatsOptions) -> None:
        """Internal: use `open`."""
        check_name(options.cell)
        self.options = options
        self._stats = FabricStats()
        self._exchange = Exchange(self._stats)
        self._gap_listeners: list[Callable[[], None]] = []
        self._addresses: set[str] = set()
        self._link: _Link | None = None
        self._linked = asyncio.Event()
        self._prepared = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._unfit: ConfigError | None = None
        self._opened = False
        self._told_away = False
        self._prefix = f"{options.cell}.m."

    @classmethod
    async def open(cls, options: NatsOptions, *, wait: float = 5.0) -> NatsFabric:
        """Connect. A broker that is away for `wait` seconds is no error: the fabric serves this node and keeps trying.

        Raises ConfigError if only brokers that are too old were found.
        """
        fabric = cls(options)
        fabric._spawn(fabric._keep_linked())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await fabric._linked.wait()
                await fabric._prepared.wait()
        fabric._opened = True
        if fabric._unfit is not None and not fabric.connected:
            await fabric.close()
            raise fabric._unfit
        return fabric

    # ---------------------------------------------------------------------------------------------- messages

    @property
    def stats(self) -> FabricStats:
        return self._stats

    @property
    def connected(self) -> bool:
        return self._link is not None

    def send(self, addr: str, data: bytes, fanout: bool = False) -> bool:
        check_name(addr)
        check_size(data)
        if self._closed:
            self._stats.dropped += 1
            return False
        if self._exchange.has(addr):
            self._exchange.post(addr, data, fanout=fanout)
            if not fanout:
                self._stats.sent += 1
                return True
        return self._post(_Packet(self._prefix + addr, _wrap(data, _FANOUT if fanout else _UNICAST)))

    def _post(self, packet: _Packet) -> bool:
        link = self._link
        if link is None or not link.post(packet):
            self._stats.dropped += 1
            return False
        self._stats.sent += 1
        self._stats.sent_remote += 1
        return True

    async def ask(self, addr: str, data: bytes, timeout: float) -> bytes:
        check_name(addr)
        check_size(data)
        if self._closed:
            raise Unavailable("the fabric is closed")
        async with asyncio.timeout(timeout):
            if self._exchange.has(addr):
                self._stats.sent += 1
                answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
                self._exchange.post(addr, data, reply=replier(answer), lost=nobody(answer, addr))
                return await answer
            self._stats.sent += 1
            self._stats.sent_remote += 1
            message = await self._request(self._prefix + addr, _wrap(data, _UNICAST))
            if _no_responders(message):
                raise NoOne(addr)
            body = self._unwrap(message.data)
            if body is None:
                raise Unavailable("the answer came in a version this node cannot read")
            return body[0]

    async def _request(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> Msg:
        """One answer; the caller bounds the wait. Raises Unavailable if the link is away or goes meanwhile."""
        link = self._link
        if link is None:
            raise Unavailable("the broker is away")
        return await link.request(subject, payload, headers)

    async def listen(self, addr: str, fn: Handler) -> Unlisten:
        check_name(addr)
        forget = self._exchange.add(addr, fn)
        self._addresses.add(addr)
        if self._link is not None:
            await self._link.subscribe(addr)

        def unlisten() -> None:
            forget()
            if not self._exchange.has(addr) and addr in self._addresses:
                self._addresses.discard(addr)
                if self._link is not None:
                    self._link.unsubscribe(addr)

        return unlisten

    def _received(self, addr: str, message: Msg) -> bool:
        """Hand a message to its listeners; False if there are none."""
        self._stats.received_remote += 1
        body = self._unwrap(message.data)
        if body is None:
            return True
        data, kind = body
        reply: Reply | None = None
        if message.reply:
            subject = message.reply

            def reply(answer: bytes) -> None:
                nonlocal subject
                check_size(answer)
                if subject:
                    self._post(_Packet(subject, _wrap(answer, _UNICAST)))
                    subject = ""

        return self._exchange.deliver(addr, data, reply, kind == _FANOUT)

    def _unwrap(self, payload: bytes) -> tuple[bytes, int] | None:
        if len(payload) < _HEADER_BYTES or payload[0] not in VERSIONS_READ:
            self._stats.dropped += 1
            return None
        return payload[_HEADER_BYTES:], payload[1]

    # ---------------------------------------------------------------------------------------------- records

    def _place(self, key: str) -> tuple[str, str]:
        """The stream and the subject of a record."""
        bucket = f"{self.options.cell}-{zlib.crc32(shard_of(key).encode()) % self.options.buckets}"
        return f"KV_{bucket}", f"$KV.{bucket}.{key}"

    async def get(self, key: str) -> Rec | None:
        check_name(key)
        rec, _ = await self._last(*self._place(key))
        return rec

    async def _last(self, stream: str, subject: str) -> tuple[Rec | None, int]:
        """The record, None if there is none or it was deleted; and the sequence a creator must name."""
        api = f"$JS.API.STREAM.MSG.GET.{stream}"
        answer = await self._record_request(api, orjson.dumps({"last_by_subj": subject}), {})
        error = answer.get("error")
        if error is not None:
            if error.get("err_code") == _NO_MESSAGE:
                return None, 0
            raise Unavailable(f"the record cannot be read: {error.get('description')}")
        message = answer["message"]
        sequence = int(message["seq"])
        head = base64.b64decode(message.get("hdrs") or b"").decode("latin-1")
        for line in head.split("\r\n"):
            name, _, value = line.partition(":")
            if name == _KV_OPERATION and value.strip() in _GONE:
                return None, sequence
        return Rec(base64.b64decode(message.get("data") or b""), sequence), sequence

    async def put(
        self, key: str, value: bytes | None, *, rev: int | None = None, fence: tuple[str, int] | None = None
    ) -> int:
        check_name(key)
        check_size(value)
        check_condition(key, rev, fence)
        stream, subject = self._place(key)
        headers: dict[str, str] = {}
        if fence is not None:
            headers[_EXPECTED], headers[_EXPECTED_SUBJECT] = str(fence[1]), self._place(fence[0])[1]
        elif rev is not None:
            headers[_EXPECTED] = str(rev)
        if value is None:
            headers[_KV_OPERATION] = "DEL"
        # A deleted record leaves a marker; one that is created at the same moment by another makes this a Conflict.
        for creating_over_marker in (False, True):
            answer = await self._record_request(subject, value or b"", headers)
            error = answer.get("error")
            if error is None:
                self._stats.puts += 1
                return int(answer["seq"])
            if error.get("err_code") != _WRONG_LAST_SEQUENCE:
                raise Unavailable(f"the record cannot be written: {error.get('description')}")
            if fence is not None:
                raise Fenced(f"{fence[0]} is not at revision {fence[1]}")
            if rev == 0 and not creating_over_marker:
                rec, sequence = await self._last(stream, subject)
                if rec is None and sequence:
                    headers[_EXPECTED] = str(sequence)
                    continue
            break
        raise Conflict(f"{key} is not at revision {rev}")

    async def _record_request(
        self, subject: str, payload: bytes, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        """Ask JetStream, again as long as it says that nothing was done. Raises Unavailable: outcome unknown."""
        if self._closed:
            raise Unavailable("the fabric is closed")
        delay = RETRY_DELAYS[0]
        try:
            async with asyncio.timeout(RECORD_TIMEOUT):
                while True:
                    message = await self._request(subject, payload, headers or None)
                    if _no_responders(message):  # no leader just now
                        await asyncio.sleep(LEADERLESS_DELAY * (1 + random.random()))
                        continue
                    answer = cast(dict[str, Any], orjson.loads(message.data))
                    error = answer.get("error")
                    if error is None:
                        return answer
                    if error.get("err_code") == _IN_PROCESS:
                        self._stats.put_retries += 1
                        await asyncio.sleep(delay * (1 + random.random()))
                        delay = min(2 * delay, RETRY_DELAYS[1])
                        continue
                    if error.get("code") == 503:  # JetStream is starting, or this stream's leader is moving
                        await asyncio.sleep(LEADERLESS_DELAY * (1 + random.random()))
                        continue
                    return answer
        except TimeoutError:
            raise Unavailable(f"no answer from the records within {RECORD_TIMEOUT:g} s") from None
        except orjson.JSONDecodeError as error:
            raise Unavailable("the records answered something that is no JSON") from error

    # ---------------------------------------------------------------------------------------------- the link

    def on_gap(self, fn: Callable[[], None]) -> None:
        self._gap_listeners.append(fn)

    def _gap(self) -> None:
        self._stats.gaps += 1
        for fn in self._gap_listeners:
            try:
                fn()
            except Exception:  # a bug above us
                self._stats.handler_errors += 1
                log.exception("a listener for gaps failed")

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep_linked(self) -> None:
        """For the life of the fabric: connect, serve until the link is lost, again."""
        servers = list(self.options.servers)
        while not self._closed:
            random.shuffle(servers)
            for server in servers:
                link = _Link(self, server)
                try:
                    await link.open()
                    for addr in list(self._addresses):
                        await link.subscribe(addr)
                    await link.ping(CONNECT_TIMEOUT)
                    self._link = link
                    for addr in self._addresses - link.subscriptions.keys():  # who came meanwhile
                        await link.subscribe(addr)
                    await self._serve(link)
                    break
                except ConfigError as error:
                    if self._unfit is None:
                        log.error("%s: %s. %s", error.what, error.why, error.fix)
                    self._unfit = error
                except (OSError, nats.errors.Error, Unavailable, TimeoutError) as error:
                    if not self._told_away:
                        self._told_away = True
                        log.warning(
                            "broker %s cannot be reached: %s", link.shown, error or type(error).__name__
                        )
                finally:
                    self._linked.clear()
                    self._link = None
                    await link.close()
            await asyncio.sleep(RECONNECT_DELAY * (1 + random.random()))

    async def _serve(self, link: _Link) -> None:
        """The link is up: tell, and wait for its end."""
        if self._told_away:
            log.info("connected to broker %s", link.shown)
        self._told_away = False
        self._linked.set()
        if not self._prepared.is_set():
            self._spawn(self._prepare_records(link))
        if self._opened:
            self._gap()
        await link.lost.wait()
        if not self._closed:
            self._told_away = True
            log.warning("lost broker %s", link.shown)

    async def _prepare_records(self, link: _Link) -> None:
        """Make the buckets; a cluster that starts elects its leaders within seconds, so this repeats."""
        told = False
        while self._link is link:
            try:
                await link.make_buckets()
            except (nats.errors.Error, OSError) as error:
                if not told:
                    told = True
                    log.warning("the records are not ready: %s", error or type(error).__name__)
                await asyncio.sleep(0.2)
            else:
                self._prepared.set()
                return

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        link = self._link
        if link is not None:
            with contextlib.suppress(TimeoutError, Unavailable):
                await link.ping(CLOSE_TIMEOUT)
        self._exchange.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Link:
    """One connection, from its opening to its end. `lost` is set once; nothing of it is used afterwards."""

    def __init__(self, fabric: NatsFabric, server: str) -> None:
        self._fabric = fabric
        self._server = server
        self.shown = server.rpartition("@")[2]  # without a user or token
        self.lost = asyncio.Event()
        self.subscriptions: dict[str, Subscription | None] = {}
        self._client = Client()
        self._outgoing: deque[_Packet | Subscription | asyncio.Event] = deque()
        self._outgoing_bytes = 0
        self._wake = asyncio.Event()
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._inbox = f"_INBOX.{uuid.uuid4().hex}"
        self._asked = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Connect and greet. Raises what nats-py raises, and ConfigError for a server that is too old."""
        options = self._fabric.options
        async with asyncio.timeout(2 * CONNECT_TIMEOUT):
            await self._client.connect(
                servers=[self._server],
                name=options.name,
                error_cb=self._on_error,
                closed_cb=self._on_closed,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=RECONNECT_DELAY,  # it tries twice; its default is 2 s between
                connect_timeout=CONNECT_TIMEOUT,
                ping_interval=3600,  # `_watch` does it: what nats-py does at a missing pong waits for the frozen socket
                pending_size=0,
                no_echo=True,
                user_credentials=options.credentials,
                tls=options.tls,
            )
        version = self._client.connected_server_version
        if (version.major, version.minor) < VERSION_MIN:
            raise ConfigError(
                f"broker {self.shown}",
                f"nats-server {version.major}.{version.minor} cannot guard records against a superseded owner",
                f"Upgrade it to {VERSION_MIN[0]}.{VERSION_MIN[1]} or newer.",
            )
        await self._client.subscribe(self._inbox + ".*", cb=self._answered)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._send_queued()), loop.create_task(self._watch())]

    async def close(self) -> None:
        """Let go at once; what is pending is lost."""
        self.lost.set()
        for task in self._tasks:
            task.cancel()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable("the broker went away"))
        self._fabric.stats.dropped += sum(isinstance(item, _Packet) for item in self._outgoing)
        self._outgoing.clear()
        # nats-py flushes before it closes; to a frozen broker that takes for ever, so the socket is cut first if need be.
        closing = asyncio.ensure_future(self._client.close())
        await asyncio.wait([closing], timeout=CLOSE_TIMEOUT / 4)
        if not closing.done() or not self._client.is_closed:
            writer = getattr(getattr(self._client, "_transport", None), "_io_writer", None)
            if writer is not None:
                writer.transport.abort()
            await asyncio.wait([closing], timeout=CLOSE_TIMEOUT / 4)
            closing.cancel()
        await asyncio.gather(closing, *self._tasks, return_exceptions=True)

    async def _on_error(self, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):
            self._fabric.stats.dropped += 1
            self._fabric._gap()
        elif isinstance(error, nats.errors.UnexpectedEOF):
            self.lost.set()
        else:
            log.debug("nats: %s", error)

    async def _on_closed(self) -> None:
        self.lost.set()

    # -- out

    def post(self, packet: _Packet) -> bool:
        """Queue for the sender; False if the broker does not take it in time."""
        if (
            self.lost.is_set()
            or self._outgoing_bytes + self._client.pending_data_size + len(packet.payload) > PENDING_BYTES_MAX
        ):
            return False
        self._outgoing.append(packet)
        self._outgoing_bytes += len(packet.payload)
        self._wake.set()
        return True

    async def _send_queued(self) -> None:
        client = self._client
        outgoing = self._outgoing
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                sent = 0
                while outgoing:
                    item = outgoing.popleft()
                    if isinstance(item, _Packet):
                        self._outgoing_bytes -= len(item.payload)
                        await client.publish(item.subject, item.payload, item.reply, item.headers)
                    elif isinstance(item, asyncio.Event):
                        item.set()
                    else:
                        await item.unsubscribe()
                    sent += 1
                    if sent % 256 == 0:  # about a millisecond: others on this loop have their turn
                        await asyncio.sleep(0)
        except (nats.errors.Error, OSError) as error:
            log.debug("nats: %s", error)
            self.lost.set()

    async def request(self, subject: str, payload: bytes, headers: Mapping[str, str] | None) -> Msg:
        """One answer. Raises Unavailable when the link goes; the caller bounds the wait."""
        self._asked += 1
        token = str(self._asked)
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[token] = answer
        try:
            if not self.post(_Packet(subject, payload, f"{self._inbox}.{token}", headers)):
                raise Unavailable("the broker takes nothing")
            return await answer
        finally:
            del self._waiting[token]

    async def _answered(self, message: Msg) -> None:
        answer = self._waiting.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(message)

    # -- in

    async def subscribe(self, addr: str) -> None:
        """Ask the broker for `addr`, once."""
        if addr in self.subscriptions or self.lost.is_set():
            return
        fabric = self._fabric
        self.subscriptions[addr] = None

        async def received(message: Msg) -> None:
            if not fabric._received(addr, message):
                self.unsubscribe(addr)  # its listener left while the link was made

        try:
            # It writes before it first waits, so that nothing published later overtakes it.
            subscription = await self._client.subscribe(
                fabric._prefix + addr, cb=received, pending_msgs_limit=WAITING_MESSAGES_MAX
            )
        except nats.errors.Error:  # the link goes down; the next one subscribes again
            self.subscriptions.pop(addr, None)
            self.lost.set()
            return
        if addr in self.subscriptions and self.subscriptions[addr] is None:
            self.subscriptions[addr] = subscription
        else:  # its listener left while this waited
            self._end(subscription)

    def unsubscribe(self, addr: str) -> None:
        """Nobody listens to `addr` here any more."""
        subscription = self.subscriptions.pop(addr, None)
        if subscription is not None:
            self._end(subscription)

    def _end(self, subscription: Subscription) -> None:
        self._outgoing.append(subscription)
        self._wake.set()

    # -- life

    async def ping(self, timeout: float) -> None:
        """Return when the broker has handled all that was sent so far; TimeoutError after `timeout` seconds.

        A question that nobody can answer comes back from the broker itself. nats-py's own ping is not used: a pong that
        comes after its time-out ends its reading task without a word.
        """
        async with asyncio.timeout(timeout):
            await self.request(f"{self._fabric.options.cell}.ping", b"", None)

    async def _watch(self) -> None:
        unanswered = 0
        while unanswered < 2:
            if not unanswered:
                await asyncio.sleep(PING_INTERVAL)
            try:
                await self.ping(PING_INTERVAL)
                unanswered = 0
            except TimeoutError:
                unanswered += 1  # a second one tells a frozen broker from a loop of ours that was late
            except Unavailable:
                break
        self.lost.set()

    async def make_buckets(self) -> None:
        """Create what is missing. Raises what nats-py raises when JetStream is not ready."""
        options = self._fabric.options
        jetstream = self._client.jetstream(timeout=5)
        for number in range(options.buckets):
            bucket = f"{options.cell}-{number}"
            try:
                await jetstream.create_key_value(
                    KeyValueConfig(
                        bucket=bucket,
                        replicas=options.replicas,
                        storage=StorageType.FILE,
                        history=1,
                        ttl=RECORD_AGE_MAX,
                        direct=False,
                    )
                )
            except nats.js.errors.BadRequestError as error:
                info = await jetstream.stream_info(f"KV_{bucket}")
                log.warning(
                    "bucket %s keeps its settings (%s replicas), wanted %d: %s",
                    bucket,
                    info.config.num_replicas,
                    options.replicas,
                    error.description,
                )


def _wrap(data: bytes, kind: int) -> bytes:
    return bytes((VERSION, kind)) + data


def _no_responders(message: Msg) -> bool:
    return bool(message.headers) and message.headers.get(_STATUS) == _NO_RESPONDERS
