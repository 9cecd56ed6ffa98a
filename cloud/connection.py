"""One open WebSocket of the cloud: frames in, frames out, a bounded queue, one end.

Rules: no task and no `await` per connection. The ordinary frame (whole, unfragmented, masked, no extension) takes a
fast path of our own; every other byte goes through the Sans-I/O core of `websockets`, always cut at a frame boundary,
so that both see the same stream. `send` never blocks and never raises. A connection ends exactly once.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.protocol import OPEN, SEND_EOF
from websockets.server import ServerProtocol

from cloud.turns import Turns
from wire.errors import CloseCode
from wire.messages.base import Delivery

try:  # the C routine that websockets ships; its Python twin gives the same bytes
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - a platform without the compiled wheel
    from websockets.utils import apply_mask

log = logging.getLogger(__name__)

#: The Sans-I/O core logs each handshake at INFO; connections are logged by their owners, once.
quiet = logging.getLogger("glassbridge.websocket")
quiet.setLevel(logging.WARNING)

#: Frames and bytes that may wait for a peer whose socket is full. 256 frames are 2.5 s of 10 ms audio; 2 MiB holds two
#: of the largest text frames. Beyond that a peer is not slow but gone.
QUEUE_FRAMES_MAX: Final = 256
QUEUE_BYTES_MAX: Final = 2 * 1024 * 1024
#: A message that must arrive may wait this long for a full socket before the peer is given up.
STALL_MAX: Final = 10.0
#: After a close the descriptor is freed at the latest after this time, even if the peer is mute.
CLOSE_TIMEOUT: Final = 5.0
#: Fragments per message. Browsers cut at 16 KiB and more, so 1 MiB needs 64; a million one-byte fragments are an attack.
FRAGMENTS_MAX: Final = 4096
#: Messages handled in one turn of the loop; the rest of a large read waits for the next turn, so that one flooder
#: delays its neighbours by at most 256 handlers.
TURN_MAX: Final = 256

#: Small frames for one receiver that one turn of a sender produces are written together: a `write` is a system call
#: of 3-5 µs on every loop, more than all our own work for a frame. 16 frames of 4 KiB stay below the transport's
#: high-water mark, so that back-pressure is felt as before.
CORK_FRAMES_MAX: Final = 16
CORK_FRAME_BYTES_MAX: Final = 4096

_FIN_TEXT: Final = 0x81
_FIN_BINARY: Final = 0x82
_FIN_PING: Final = 0x89
_FIN_PONG: Final = 0x8A

_pack_head = struct.Struct(">BBH").pack
#: Ids of connections, also of those that stand for a socket elsewhere: they share one name space.
next_connection_id = itertools.count(1).__next__


def text_frame(payload: bytes) -> bytes:
    """What a server writes for one text message; `payload` is UTF-8 (the caller made it with orjson)."""
    size = len(payload)
    if 126 <= size < 65536:  # by far the most
        return _pack_head(_FIN_TEXT, 126, size) + payload
    return Frame.text(payload).data


class Frame:
    """One WebSocket message as a server puts it on the wire: unmasked, hence the same bytes for every receiver.

    Made once per message with `Frame.text` or `Frame.binary` and given to any number of connections.
    """

    __slots__ = ("data", "is_text", "payload_start")

    def __init__(self, data: bytes, payload_start: int, is_text: bool) -> None:
        self.data = data
        self.payload_start = payload_start
        self.is_text = is_text

    @classmethod
    def text(cls, payload: bytes) -> Frame:
        """A text frame; `payload` is UTF-8 (the caller made it with orjson)."""
        return cls._make(_FIN_TEXT, payload)

    @classmethod
    def binary(cls, payload: bytes) -> Frame:
        """A binary frame."""
        return cls._make(_FIN_BINARY, payload)

    @classmethod
    def _make(cls, first: int, payload: bytes) -> Frame:
        size = len(payload)
        if size < 126:
            head = bytes((first, size))
        elif size < 65536:
            head = bytes((first, 126)) + size.to_bytes(2)
        else:
            head = bytes((first, 127)) + size.to_bytes(8)
        return cls(head + payload, len(head), first == _FIN_TEXT)

    @property
    def payload(self) -> bytes:
        return self.data[self.payload_start :]

    def __len__(self) -> int:
        return len(self.data)


class ConnectionHandler(Protocol):
    """What the owner of a connection implements. Called from the loop, in arrival order, never concurrently."""

    def on_open(self, connection: Connection) -> None: ...

    def on_text(self, data: bytes) -> None:
        """One complete text message within the limit. UTF-8 is checked by the JSON parser, not here."""

    def on_binary(self, data: bytes) -> None: ...

    def on_pong(self, payload: bytes) -> None: ...

    def on_closed(self, code: int, reason: str) -> None:
        """Exactly once. 1006 when the transport went away without a close frame."""


@dataclass(slots=True)
class ConnectionStats:
    """Totals over all connections of one listener; what a single connection loses outlives it here."""

    opened: int = 0
    closed: int = 0
    dropped_lossy: int = 0
    replaced_latest: int = 0
    slow_consumers: int = 0
    handler_errors: int = 0


class Cork:
    """Who has frames to write at the end of the present turn. One per listener; a turn never spans an `await`.

    `source` is the connection whose frames are being handled. It is written last: what it is told has happened is then on
    the way to everybody else, also if the process is killed in between.
    """

    __slots__ = ("active", "dirty", "source")

    def __init__(self) -> None:
        self.active = False
        self.source: Connection | None = None
        self.dirty: list[Connection] = []

    def pull(self) -> None:
        """The turn is over: write what it produced."""
        self.active = False
        dirty = self.dirty
        if dirty:
            for connection in dirty:
                connection.uncork()
            self.dirty = []
        self.source = None


class _Queued:
    __slots__ = ("delivery", "frame", "key")

    def __init__(self, frame: Frame, delivery: Delivery, key: str | None) -> None:
        self.frame = frame
        self.delivery = delivery
        self.key = key


class Connection(asyncio.Protocol):
    """One WebSocket after its handshake.

    `id` is unique in the process and grows, so it serves as the connection's generation. `remote` is the peer's
    address. `last_inbound_at` (loop time) moves with every byte received: any byte is a sign of life. `protocol` has done
    the handshake; None if `cloud.handshake` has.
    """

    __slots__ = (
        "_binary_max",
        "_buffer",
        "_closed",
        "_core",
        "_cork",
        "_corked",
        "_deflate",
        "_fragment_is_text",
        "_fragments",
        "_fragments_seen",
        "_handler",
        "_kill_timer",
        "_latest",
        "_loop",
        "_lossy",
        "_need",
        "_on_authenticated",
        "_on_lost",
        "_open",
        "_paused",
        "_queue",
        "_queue_bytes",
        "_sequence",
        "_stall_timer",
        "_stats",
        "_text_max",
        "_transport",
        "_turn_pending",
        "_turns",
        "_writable",
        "_write",
        "dropped_lossy",
        "id",
        "last_inbound_at",
        "opened_at",
        "received",
        "remote",
        "replaced_latest",
        "sent",
    )

    def __init__(
        self,
        *,
        transport: asyncio.Transport,
        protocol: ServerProtocol | None,
        handler: ConnectionHandler,
        remote: str,
        text_max: int,
        binary_max: int,
        stats: ConnectionStats,
        loop: asyncio.AbstractEventLoop,
        cork: Cork | None = None,
        turns: Turns | None = None,
        on_authenticated: Callable[[], None] | None = None,
        on_lost: Callable[[Connection], None] | None = None,
    ) -> None:
        self.id: int = next_connection_id()
        self.remote = remote
        self.opened_at = self.last_inbound_at = loop.time()
        self.sent = 0
        self.received = 0
        self.dropped_lossy = 0
        self.replaced_latest = 0
        self._loop = loop
        self._transport = transport
        self._core = protocol
        self._handler = handler
        self._text_max = text_max
        self._binary_max = binary_max
        self._stats = stats
        self._on_authenticated = on_authenticated
        self._on_lost = on_lost
        self._write = transport.write
        self._cork = Cork() if cork is None else cork
        self._turns = turns
        self._corked: list[bytes] | None = None
        self._deflate = protocol is not None and bool(protocol.extensions)
        self._open = True
        self._paused = False
        self._writable = not self._deflate
        self._closed = False
        # Inbound: bytes of an incomplete frame, and how many bytes it takes to look again.
        self._buffer = bytearray()
        self._need = 0
        self._turn_pending = False
        self._fragments: bytearray | None = None
        self._fragment_is_text = False
        self._fragments_seen = 0
        # Outbound queue; made on first use, because most connections never need one.
        self._queue: OrderedDict[int, _Queued] | None = None
        self._latest: dict[str, int] = {}
        self._lossy: deque[int] | None = None
        self._queue_bytes = 0
        self._sequence = 0
        self._stall_timer: asyncio.TimerHandle | None = None
        self._kill_timer: asyncio.TimerHandle | None = None
        stats.opened += 1

    @property
    def _protocol(self) -> ServerProtocol:
        """The Sans-I/O core. Most connections need none before they close, so it is made on first use."""
        core = self._core
        if core is None:
            core = self._core = ServerProtocol(state=OPEN, max_size=self._text_max, logger=quiet)
        return core

    # ---------------------------------------------------------------------------------------------- for the owner

    @property
    def is_open(self) -> bool:
        """True until a close was sent or received."""
        return self._open

    @property
    def buffered_bytes(self) -> int:
        """Bytes accepted by `send` that the kernel has not taken yet."""
        corked = sum(map(len, self._corked)) if self._corked else 0
        return self._queue_bytes + corked + (0 if self._closed else self._transport.get_write_buffer_size())

    def opened(self) -> None:
        """Tell the handler that it owns this connection (called once, by the listener)."""
        try:
            self._handler.on_open(self)
        except Exception:
            self._handler_failed()

    def authenticated(self) -> None:
        """Say that the peer has proven who it is; it no longer counts against the limit of its address."""
        if self._on_authenticated is not None:
            self._on_authenticated()
            self._on_authenticated = None

    def put(self, data: bytes) -> bool:
        """Write a whole frame (`Frame.data`) if nothing stands in its way: the common case, without what a queue must
        know. False = nothing has happened; `send` knows what to do."""
        if not self._writable:
            return False
        self.sent += 1
        cork = self._cork
        if cork.active and len(data) <= CORK_FRAME_BYTES_MAX:
            corked = self._corked
            if corked is None:
                self._corked = [data]
                cork.dirty.append(self)
            else:
                corked.append(data)
                if len(corked) >= CORK_FRAMES_MAX:
                    self.uncork()
            return True
        if self._corked is not None:
            self.uncork()
        self._write(data)
        return True

    def send(self, frame: Frame, delivery: Delivery, key: str | None = None) -> bool:
        """Put one message on its way. Never blocks, never raises; False = this connection is gone or dropped it."""
        if self.put(frame.data):
            return True
        if not self._open:
            return False
        if not self._paused and not self._queue:
            self._transmit(frame)
            return True
        return self._enqueue(frame, delivery, key)

    def ping(self, payload: bytes = b"") -> None:
        """Send a protocol ping; its pong arrives as `on_pong`. The payload is at most 125 bytes."""
        if self._writable:
            data = bytes((_FIN_PING, len(payload))) + payload
            if self._corked is not None:  # in the same write as what it asks about
                self._corked.append(data)
            else:
                self._write(data)
        elif self._open:
            self._protocol.send_ping(payload)
            self._flush_protocol()

    def close(self, code: int, reason: str = "") -> None:
        """Close with code and reason (at most 123 bytes of UTF-8, cut). Everything queued reliably goes out first.

        Idempotent. No message reaches the handler afterwards, except `on_closed`, at most 5 s later.
        """
        if not self._open:
            return
        if self._queue:
            for queued in self._queue.values():
                if queued.delivery is not Delivery.LOSSY:
                    self._transmit(queued.frame)
        self._close_now(code, reason)

    def abort(self) -> None:
        """Drop the transport at once, without a close frame."""
        self._shut()
        self._transport.abort()

    # ---------------------------------------------------------------------------------------------- outbound

    def uncork(self) -> None:
        """Write what the present turn has collected for this peer, in order."""
        corked = self._corked
        if corked is not None:
            if self._cork.source is self:
                for other in self._cork.dirty:
                    if other is not self:
                        other.uncork()
            self._corked = None
            self._write(corked[0] if len(corked) == 1 else b"".join(corked))

    def _transmit(self, frame: Frame) -> None:
        if self._corked is not None:
            self.uncork()
        if self._deflate:
            if frame.is_text:
                self._protocol.send_text(frame.payload)
            else:
                self._protocol.send_binary(frame.payload)
            for data in self._protocol.data_to_send():
                self._write(data)
        else:
            self._write(frame.data)
        self.sent += 1

    def _enqueue(self, frame: Frame, delivery: Delivery, key: str | None) -> bool:
        queue = self._queue
        if queue is None:
            queue = self._queue = OrderedDict()
        lossy = self._lossy
        if lossy is None:
            lossy = self._lossy = deque()
        if delivery is Delivery.LATEST and key is not None:
            old = self._latest.get(key)
            if old is not None:
                self._queue_bytes -= len(queue.pop(old).frame)
                self.replaced_latest += 1
                self._stats.replaced_latest += 1
        size = len(frame)
        while len(queue) >= QUEUE_FRAMES_MAX or self._queue_bytes + size > QUEUE_BYTES_MAX:
            if lossy:  # the oldest expendable frame makes room, whoever asks
                self._queue_bytes -= len(queue.pop(lossy.popleft()).frame)
                self._count_drop()
            elif delivery is Delivery.LOSSY:
                self._count_drop()
                return False
            else:
                self._give_up_slow_peer()
                return False
        self._sequence += 1
        queue[self._sequence] = _Queued(frame, delivery, key)
        self._queue_bytes += size
        if delivery is Delivery.LOSSY:
            lossy.append(self._sequence)
            return True
        if delivery is Delivery.LATEST and key is not None:
            self._latest[key] = self._sequence
        if self._stall_timer is None:
            self._stall_timer = self._loop.call_later(STALL_MAX, self._give_up_slow_peer)
        return True

    def _count_drop(self) -> None:
        self.dropped_lossy += 1
        self._stats.dropped_lossy += 1

    def _give_up_slow_peer(self) -> None:
        """The peer does not read what must arrive: end the connection, not the session (1013 = come back)."""
        self._stall_timer = None
        if not self._open:
            return
        self._stats.slow_consumers += 1
        self._close_now(int(CloseCode.TRY_AGAIN_LATER), "slow consumer")

    def pause_writing(self) -> None:
        self._paused = True
        self._writable = False

    def resume_writing(self) -> None:
        self._paused = False
        queue = self._queue
        if queue:
            while queue and not self._paused:  # `_transmit` may pause us again
                sequence, queued = queue.popitem(last=False)
                self._queue_bytes -= len(queued.frame)
                if queued.delivery is Delivery.LOSSY:
                    assert self._lossy is not None
                    self._lossy.popleft()  # the first of the queue is the first of the lossy ones
                elif queued.key is not None and self._latest.get(queued.key) == sequence:
                    del self._latest[queued.key]
                self._transmit(queued.frame)
        if not queue:
            if self._stall_timer is not None:
                self._stall_timer.cancel()
                self._stall_timer = None
            self._writable = self._open and not self._paused and not self._deflate

    # ---------------------------------------------------------------------------------------------- inbound

    def data_received(self, data: bytes) -> None:
        self.last_inbound_at = self._loop.time()
        if self._buffer or self._turn_pending:
            self._buffer += data
            if len(self._buffer) < self._need or self._turn_pending:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        size = len(data)
        if (
            size > 8
            and data[0] == _FIN_TEXT
            and self._open
            and (self._core is None or self._core.current_size is None)
        ):
            # Nearly every read is one whole text frame and nothing else: `_parse` without its loop.
            length, body = data[1] - 128, 6
            if length == 126:
                length, body = data[2] << 8 | data[3], 8
            if body + length == size and data[1] != 255 and length <= self._text_max:
                self.received += 1
                try:
                    self._handler.on_text(apply_mask(data[body:], data[body - 4 : body]))
                except Exception:
                    self._handler_failed()
                return
        cork = self._cork
        try:
            self._parse(data, cork)
        finally:
            if cork.active:
                cork.pull()

    def _parse(self, data: bytes, cork: Cork) -> None:
        """Take whole frames off `data`; keep the rest in `_buffer`. The caller pulls the cork."""
        handler = self._handler
        position, end, turn = 0, len(data), 0
        while position < end:
            if not self._open:  # closing: `websockets` looks for the peer's close frame and discards the rest
                self._feed(data[position:])
                return
            if turn >= TURN_MAX:
                self._yield_turn(data[position:])
                return
            if end - position < 2:
                self._keep(data[position:], 2)
                return
            first = data[position]
            length = data[position + 1] - 128
            body = position + 6
            if length >= 126:
                body += 2 if length == 126 else 8
                if end < body - 4:
                    if first & 0x0F in _RESERVED:
                        self._feed(data[position:])
                    else:
                        self._keep(data[position:], body - 4 - position)
                    return
                if length == 126:
                    length = data[position + 2] << 8 | data[position + 3]
                else:
                    length = int.from_bytes(data[position + 2 : position + 10])
            stop = body + length
            if stop <= end and length >= 0 and (self._core is None or self._core.current_size is None):
                if first == _FIN_TEXT:
                    if length <= self._text_max:
                        payload = apply_mask(data[body:stop], data[body - 4 : body])
                        position = stop
                        turn += 1
                        self.received += 1
                        if stop < end:  # more follows: what they cause is written together
                            cork.active, cork.source = True, self
                        try:
                            handler.on_text(payload)
                        except Exception:
                            self._handler_failed()
                        continue
                elif first == _FIN_BINARY and length <= self._binary_max:
                    payload = apply_mask(data[body:stop], data[body - 4 : body])
                    position = stop
                    turn += 1
                    self.received += 1
                    if stop < end:
                        cork.active, cork.source = True, self
                    try:
                        handler.on_binary(payload)
                    except Exception:
                        self._handler_failed()
                    continue
            if first == _FIN_PONG and 0 <= length < 126 and stop <= end:
                # The proof of delivery: as frequent as events when they are rare. It may stand between fragments.
                payload = apply_mask(data[body:stop], data[body - 4 : body])
                position = stop
                turn += 1
                self._call(handler.on_pong, payload)
                continue
            # Everything unusual goes to `websockets`, cut at the frame boundary so that the fast path can take the next
            # frame again. What can only fail is handed over at once: it knows the right close code.
            opcode = first & 0x0F
            room = self._text_max - (0 if self._core is None else self._core.current_size or 0)
            if length < 0 or opcode in _RESERVED or length > room:
                self._feed(data[position:])
                return
            if opcode == Opcode.BINARY and length > self._binary_max:
                self._fail(CloseCode.TOO_BIG, f"binary message exceeds {self._binary_max} bytes")
                return
            if stop > end:
                self._keep(data[position:], stop - position)
                return
            self._feed(data[position:stop])
            position = stop
            turn += 1

    def _keep(self, rest: bytes, need: int) -> None:
        self._buffer += rest
        self._need = need

    def _yield_turn(self, rest: bytes) -> None:
        """Leave the rest of a large read to the next turn of the loop, and read no more until then."""
        self._buffer += rest
        self._turn_pending = True
        self._transport.pause_reading()
        self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turn_pending = False
        if self._closed:
            return
        data = bytes(self._buffer)
        self._buffer.clear()
        cork = self._cork
        try:
            self._parse(data, cork)
        finally:
            if cork.active:
                cork.pull()
        if not self._turn_pending and not self._transport.is_closing():
            self._transport.resume_reading()

    def _feed(self, data: bytes) -> None:
        """Give bytes to the Sans-I/O core, write its answers, hand its messages to the handler."""
        if self._closed:
            return
        protocol = self._protocol
        protocol.receive_data(data)
        events = protocol.events_received()
        for event in events:
            if not self._open:
                break
            assert isinstance(event, WireFrame)
            opcode = event.opcode
            if opcode is Opcode.PONG:
                self._call(self._handler.on_pong, bytes(event.data))
            elif opcode is Opcode.TEXT or opcode is Opcode.BINARY:
                self._assemble(event, opcode is Opcode.TEXT)
            elif opcode is Opcode.CONT:
                self._assemble(event, self._fragment_is_text)
        if protocol.state is not OPEN:
            self._shut()
        self._flush_protocol()

    def _assemble(self, frame: WireFrame, is_text: bool) -> None:
        """Join fragments. One `bytearray` per message, so that a million fragments cost a byte each."""
        if frame.fin and self._fragments is None:
            payload = bytes(frame.data)
        else:
            if self._fragments is None:
                self._fragments = bytearray()
                self._fragments_seen = 0
                self._fragment_is_text = is_text
            self._fragments += frame.data
            self._fragments_seen += 1
            if not is_text and len(self._fragments) > self._binary_max:
                self._fail(CloseCode.TOO_BIG, f"binary message exceeds {self._binary_max} bytes")
                return
            if self._fragments_seen > FRAGMENTS_MAX:
                self._fail(CloseCode.TOO_BIG, f"message has more than {FRAGMENTS_MAX} fragments")
                return
            if not frame.fin:
                return
            payload = bytes(self._fragments)
            self._fragments = None
        if not is_text and len(payload) > self._binary_max:  # inflated beyond the limit
            self._fail(CloseCode.TOO_BIG, f"binary message exceeds {self._binary_max} bytes")
            return
        self.received += 1
        self._call(self._handler.on_text if is_text else self._handler.on_binary, payload)

    def _call(self, method: Callable[[bytes], None], payload: bytes) -> None:
        try:
            method(payload)
        except Exception:
            self._handler_failed()

    def _handler_failed(self) -> None:
        """A bug above us ends this connection, not the process."""
        log.exception("handler of connection %d failed", self.id)
        self._stats.handler_errors += 1
        if self._open:
            self._close_now(int(CloseCode.INTERNAL), "Internal server error")

    # ---------------------------------------------------------------------------------------------- the end

    def _fail(self, code: CloseCode, reason: str) -> None:
        if self._protocol.state is OPEN:
            self._protocol.fail(int(code), reason)
        self._shut()
        self._flush_protocol()

    def _close_now(self, code: int, reason: str) -> None:
        self._protocol.send_close(code, reason.encode()[:123].decode(errors="ignore"))
        self._shut()
        self._flush_protocol()

    def _shut(self) -> None:
        """No message passes in either direction any more; the descriptor has at most `CLOSE_TIMEOUT` left."""
        if not self._open:
            return
        self._open = self._writable = False
        self._let_go()
        if not self._closed:
            self._kill_timer = self._loop.call_later(CLOSE_TIMEOUT, self._transport.abort)

    def _let_go(self) -> None:
        """What waits for the peer to read waits no longer."""
        self._queue = None
        self._queue_bytes = 0
        self._latest.clear()
        self._lossy = None
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _flush_protocol(self) -> None:
        if self._closed:
            return
        if self._corked is not None:  # a control frame does not overtake what was sent before it
            self.uncork()
        for data in () if self._core is None else self._core.data_to_send():
            if data == SEND_EOF:
                self._transport.close()  # a server closes TCP first (RFC 6455 section 7.1.1)
            else:
                self._write(data)
        # Answers to a flood of pings must not grow without bound when their sender does not read them.
        if self._paused and self._transport.get_write_buffer_size() > QUEUE_BYTES_MAX + 65536:
            self._stats.slow_consumers += 1
            self.abort()

    def eof_received(self) -> bool | None:
        """The peer is gone, and thousands with it perhaps: nothing is done here that can wait for its turn."""
        if self._corked is not None:
            self.uncork()
        self._open = self._writable = False
        self._take_turn(self._hang_up)
        return True  # the transport is closed below

    def _hang_up(self) -> None:
        self._let_go()
        if not self._closed and not self._transport.is_closing():
            if self._kill_timer is None and self._transport.get_write_buffer_size():
                self._kill_timer = self._loop.call_later(CLOSE_TIMEOUT, self._transport.abort)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._open = self._writable = False
        self._write = _discard
        self._stats.closed += 1
        self._take_turn(self._end)

    def _take_turn(self, work: Callable[[], None]) -> None:
        if self._turns is None:
            work()
        else:
            self._turns.do(work)

    def _end(self) -> None:
        """Tell the owner, once, and let go of everything."""
        self._let_go()
        if self._kill_timer is not None:
            self._kill_timer.cancel()
            self._kill_timer = None
        self._buffer.clear()
        self._fragments = None
        self.authenticated()  # frees the place of one that never was
        code, reason = self._verdict()
        if self._on_lost is not None:
            self._on_lost(self)
            self._on_lost = None
        try:
            self._handler.on_closed(code, reason)
        except Exception:
            log.exception("on_closed of connection %d failed", self.id)
            self._stats.handler_errors += 1
        # Without these cycles nothing of a connection waits for the garbage collector: the owner knows us, and the
        # generator inside `websockets` its protocol.
        self._handler = _NOBODY
        if self._core is not None:
            self._core.parser.close()

    def _verdict(self) -> tuple[int, str]:
        protocol = self._core
        if protocol is None:
            return 1006, ""
        if protocol.close_rcvd is not None and protocol.close_rcvd_then_sent:
            return int(protocol.close_rcvd.code), protocol.close_rcvd.reason
        if protocol.close_sent is not None:  # ours, answered or not
            return int(protocol.close_sent.code), protocol.close_sent.reason
        return 1006, ""


#: Opcodes that RFC 6455 reserves.
_RESERVED: Final = frozenset({3, 4, 5, 6, 7, 11, 12, 13, 14, 15})


class _Nobody:
    """Owns a connection that has ended."""

    def on_open(self, connection: Connection) -> None: ...
    def on_text(self, data: bytes) -> None: ...
    def on_binary(self, data: bytes) -> None: ...
    def on_pong(self, payload: bytes) -> None: ...
    def on_closed(self, code: int, reason: str) -> None: ...


_NOBODY: Final = _Nobody()


def _discard(data: bytes | bytearray | memoryview) -> None:
    """Stands for the write of a transport that is gone."""
