"""A connection's queue and its end, in virtual time against a transport that can be as slow as a test likes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any, cast

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from cloud.connection import (
    CLOSE_TIMEOUT,
    FRAGMENTS_MAX,
    QUEUE_BYTES_MAX,
    QUEUE_FRAMES_MAX,
    STALL_MAX,
    TURN_MAX,
    Connection,
    ConnectionStats,
    Frame,
    text_frame,
)
from wire.messages.base import Delivery


class Timer:
    def __init__(self, when: float, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.when, self.callback, self.args, self.cancelled = when, callback, args, False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """The three loop methods that a connection uses, in virtual time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        timer = Timer(self.now + delay, callback, args)
        self.timers.append(timer)
        return timer

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Timer:
        return self.call_later(0, callback, *args)

    def advance(self, by: float) -> None:
        end = self.now + by
        while due := sorted(
            (t for t in self.timers if not t.cancelled and t.when <= end), key=lambda t: t.when
        ):
            self.timers.remove(due[0])
            self.now = max(self.now, due[0].when)
            due[0].callback(*due[0].args)
        self.timers = [t for t in self.timers if not t.cancelled]
        self.now = end


class Pipe(asyncio.Transport):
    """A transport whose peer reads only when told; it pauses its protocol like asyncio's own."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Connection | None = None
        self.taken = b""
        self.waiting = bytearray()
        self.reads = True
        self.closing = self.aborted = self.reading_paused = False

    def write(self, data: Any) -> None:
        assert not self.aborted
        if self.reads:
            self.taken += data
            return
        self.waiting += data
        assert self.protocol is not None
        self.protocol.pause_writing()

    def read_all(self) -> None:
        """The peer reads again."""
        self.reads = True
        self.taken += self.waiting
        self.waiting = bytearray()
        assert self.protocol is not None
        self.protocol.resume_writing()
        if self.closing:
            self.protocol.connection_lost(None)

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def close(self) -> None:
        self.closing = True
        if not self.waiting and self.protocol is not None:
            self.protocol.connection_lost(None)

    def abort(self) -> None:
        self.closing = self.aborted = True
        assert self.protocol is not None
        self.protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False


class Sink:
    def __init__(self) -> None:
        self.got: list[tuple[Any, ...]] = []
        self.react: Callable[[], None] | None = None

    def on_open(self, connection: Connection) -> None:
        self.got.append(("open",))

    def on_text(self, data: bytes) -> None:
        self.got.append(("text", data))
        if self.react is not None:
            self.react()

    def on_binary(self, data: bytes) -> None:
        self.got.append(("binary", data))

    def on_pong(self, payload: bytes) -> None:
        self.got.append(("pong", payload))

    def on_closed(self, code: int, reason: str) -> None:
        self.got.append(("closed", code, reason))


class Rig:
    def __init__(self, *, text_max: int = 2**20, binary_max: int = 2**18, deflate: bool = False) -> None:
        self.clock, self.pipe, self.sink, self.stats = Clock(), Pipe(), Sink(), ConnectionStats()
        protocol = ServerProtocol(state=OPEN, max_size=text_max)
        if deflate:
            protocol.extensions = [PerMessageDeflate(False, False, 12, 12)]
        self.connection = Connection(
            transport=self.pipe,
            protocol=protocol,
            handler=self.sink,
            remote="192.0.2.1",
            text_max=text_max,
            binary_max=binary_max,
            stats=self.stats,
            loop=cast(asyncio.AbstractEventLoop, self.clock),
        )
        self.pipe.protocol = self.connection

    def send(self, name: str, delivery: Delivery = Delivery.RELIABLE, key: str | None = None) -> bool:
        return self.connection.send(Frame.text(name.encode()), delivery, key)

    def stall(self) -> None:
        """Fill the socket: the peer stops reading."""
        self.pipe.reads = False
        self.send("plug")

    def receive(self, *frames: WireFrame) -> None:
        self.connection.data_received(b"".join(frame.serialize(mask=True) for frame in frames))

    def texts(self) -> list[str]:
        """The text frames that the peer has got, in order."""
        data, found = self.pipe.taken, []
        while data:
            length, start = data[1], 2
            if length == 126:
                length, start = int.from_bytes(data[2:4]), 4
            elif length == 127:
                length, start = int.from_bytes(data[2:10]), 10
            if data[0] == 0x81:
                found.append(data[start : start + length].decode())
            elif data[0] == 0x88:
                found.append(f"<close {int.from_bytes(data[start : start + 2])}>")
            data = data[start + length :]
        return found


R, L, X = Delivery.RELIABLE, Delivery.LATEST, Delivery.LOSSY


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 70000])
def test_a_frame_is_what_websockets_would_have_sent(size: int) -> None:
    payload = b"x" * size
    assert Frame.text(payload).data == WireFrame(Opcode.TEXT, payload).serialize(mask=False)
    assert Frame.binary(payload).data == WireFrame(Opcode.BINARY, payload).serialize(mask=False)
    assert Frame.text(payload).payload == payload


def test_ids_grow_and_are_unique() -> None:
    first, second = Rig().connection.id, Rig().connection.id
    assert first < second


def test_a_writable_socket_takes_frames_at_once() -> None:
    rig = Rig()
    assert rig.send("a")
    assert rig.send("b", X)
    assert rig.texts() == ["a", "b"]
    assert rig.connection.sent == 2
    assert rig.connection.buffered_bytes == 0


def test_a_full_socket_queues_and_resumes_in_order() -> None:
    rig = Rig()
    rig.stall()
    for name in ("a", "b", "c"):
        assert rig.send(name)
    assert rig.connection.buffered_bytes > 0
    rig.pipe.read_all()
    assert rig.texts() == ["plug", "a", "b", "c"]
    assert rig.connection.buffered_bytes == 0
    assert rig.send("d")
    assert rig.texts()[-1] == "d"


def test_resuming_stops_when_the_socket_fills_again() -> None:
    rig = Rig()
    rig.stall()
    for name in ("a", "b", "c"):
        rig.send(name)
    rig.connection.resume_writing()  # room for one write only: the pipe pauses again at once
    assert rig.pipe.waiting.endswith(b"a")
    rig.send("d")
    rig.pipe.read_all()
    assert rig.texts() == ["plug", "a", "b", "c", "d"]


def test_the_newest_of_a_key_replaces_the_queued_one_and_comes_after_what_preceded_it() -> None:
    rig = Rig()
    rig.stall()
    rig.send("view 1", L, "main")
    rig.send("other", L, "dashboard")
    rig.send("important")
    rig.send("view 2", L, "main")
    rig.pipe.read_all()
    assert rig.texts() == ["plug", "other", "important", "view 2"]
    assert rig.connection.replaced_latest == rig.stats.replaced_latest == 1


def test_latest_without_a_key_is_never_replaced() -> None:
    rig = Rig()
    rig.stall()
    rig.send("a", L)
    rig.send("b", L)
    rig.pipe.read_all()
    assert rig.texts() == ["plug", "a", "b"]


@pytest.mark.failure("LIV-06")
def test_lossy_frames_drop_the_oldest_and_are_counted() -> None:
    rig = Rig()
    rig.stall()
    for number in range(QUEUE_FRAMES_MAX + 10):
        assert rig.send(f"{number}", X)
    assert rig.connection.dropped_lossy == rig.stats.dropped_lossy == 10
    rig.pipe.read_all()
    assert rig.texts() == ["plug"] + [str(number) for number in range(10, QUEUE_FRAMES_MAX + 10)]


def test_reliable_frames_push_lossy_ones_out() -> None:
    rig = Rig()
    rig.stall()
    for number in range(QUEUE_FRAMES_MAX):
        rig.send(f"lossy {number}", X)
    for number in range(5):
        assert rig.send(f"reliable {number}")
    rig.pipe.read_all()
    assert [text for text in rig.texts() if text.startswith("reliable")] == [
        f"reliable {n}" for n in range(5)
    ]
    assert rig.connection.dropped_lossy == 5


@pytest.mark.failure("LIV-06")
def test_a_queue_full_of_reliable_frames_closes_the_connection_as_slow() -> None:
    rig = Rig()
    rig.stall()
    for number in range(QUEUE_FRAMES_MAX):
        assert rig.send(f"{number}")
    assert not rig.send("one too many", X), "nothing expendable: the lossy newcomer is dropped"
    assert rig.connection.is_open
    assert not rig.send("one too many")
    assert not rig.connection.is_open
    assert rig.stats.slow_consumers == 1
    rig.pipe.read_all()
    assert rig.texts() == ["plug", "<close 1013>"]


@pytest.mark.failure("LIV-06")
def test_the_queue_is_bounded_in_bytes_too() -> None:
    rig = Rig()
    rig.stall()
    big = Frame.binary(b"x" * (QUEUE_BYTES_MAX // 4))
    for _ in range(100):
        rig.connection.send(big, X)
        assert rig.connection.buffered_bytes <= QUEUE_BYTES_MAX + 100


@pytest.mark.failure("LIV-06")
def test_a_reliable_frame_waits_ten_seconds_at_most() -> None:
    rig = Rig()
    rig.stall()
    rig.send("must arrive")
    rig.clock.advance(STALL_MAX - 0.1)
    assert rig.connection.is_open
    rig.clock.advance(0.2)
    assert not rig.connection.is_open
    assert rig.stats.slow_consumers == 1


def test_a_peer_that_only_misses_lossy_frames_is_thinned_not_closed() -> None:
    rig = Rig()
    rig.stall()
    for _ in range(100):
        rig.send("tick", X)
        rig.clock.advance(1.0)
    assert rig.connection.is_open


def test_a_peer_that_recovers_in_time_is_kept() -> None:
    rig = Rig()
    for _ in range(3):
        rig.stall()
        rig.send("must arrive")
        rig.clock.advance(STALL_MAX * 0.9)
        rig.pipe.read_all()
    rig.clock.advance(STALL_MAX * 2)
    assert rig.connection.is_open


def test_close_sends_what_was_queued_reliably_first() -> None:
    rig = Rig()
    rig.stall()
    rig.send("audio", X)
    rig.send("app_stopped")
    rig.connection.close(1000, "App stopped")
    assert not rig.send("late")
    rig.pipe.read_all()
    assert rig.texts() == ["plug", "app_stopped", "<close 1000>"]


@pytest.mark.failure("LIV-03")
def test_the_descriptor_is_freed_within_five_seconds_although_the_peer_is_mute() -> None:
    rig = Rig()
    rig.connection.close(1000, "bye")
    rig.clock.advance(CLOSE_TIMEOUT - 0.1)
    assert not rig.pipe.aborted
    rig.clock.advance(0.2)
    assert rig.pipe.aborted
    assert rig.sink.got == [("closed", 1000, "bye")]


@pytest.mark.failure("LIV-04")
def test_sending_to_a_closed_connection_is_false_and_nothing_else() -> None:
    rig = Rig()
    rig.connection.connection_lost(ConnectionResetError())
    assert not rig.send("x")
    rig.connection.ping()
    rig.connection.close(1000)
    rig.connection.connection_lost(None)
    assert rig.sink.got == [("closed", 1006, "")]
    assert rig.connection.buffered_bytes == 0
    rig.clock.advance(60)
    assert not rig.pipe.aborted, "no timer outlives the connection"


def test_the_peers_close_is_answered_and_reported_once() -> None:
    rig = Rig()
    rig.receive(WireFrame(Opcode.CLOSE, b"\x03\xe9gone"), WireFrame(Opcode.TEXT, b"after the end"))
    assert rig.sink.got == [("closed", 1001, "gone")]
    assert rig.texts() == ["<close 1001>"]


def test_nothing_reaches_the_handler_after_its_own_close() -> None:
    rig = Rig()
    rig.sink.react = lambda: rig.connection.close(1000, "enough")
    rig.receive(*[WireFrame(Opcode.TEXT, b"%d" % number) for number in range(3)])
    assert rig.sink.got == [("text", b"0")]
    rig.receive(WireFrame(Opcode.CLOSE, b"\x03\xe8"))
    assert rig.sink.got == [("text", b"0"), ("closed", 1000, "enough")]


@pytest.mark.failure("PRO-01")
def test_a_failing_handler_ends_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()

    def explode() -> None:
        raise RuntimeError("bug")

    rig.sink.react = explode
    rig.receive(WireFrame(Opcode.TEXT, b"x"))
    assert rig.texts() == ["<close 1011>"]
    assert rig.stats.handler_errors == 1
    assert "handler of connection" in caplog.text


def test_pings_are_answered_and_pongs_reported() -> None:
    rig = Rig()
    rig.receive(WireFrame(Opcode.PING, b"p"), WireFrame(Opcode.PONG, b"q"))
    assert rig.pipe.taken == b"\x8a\x01p"
    assert rig.sink.got == [("pong", b"q")]
    rig.connection.ping(b"r")
    assert rig.pipe.taken.endswith(b"\x89\x01r")


def test_a_ping_flood_of_a_peer_that_does_not_read_is_cut_off() -> None:
    rig = Rig()
    rig.stall()
    ping = WireFrame(Opcode.PING, b"x" * 125)
    for _ in range(200):
        rig.receive(*[ping] * 200)
        while rig.pipe.reading_paused:
            rig.clock.advance(0.001)
        if rig.pipe.aborted:
            break
    assert rig.pipe.aborted
    assert QUEUE_BYTES_MAX < len(rig.pipe.waiting) < QUEUE_BYTES_MAX + 200_000


def test_fragments_are_joined() -> None:
    rig = Rig()
    rig.receive(
        WireFrame(Opcode.TEXT, b"he", fin=False),
        WireFrame(Opcode.PING, b""),
        WireFrame(Opcode.CONT, b"ll", fin=False),
        WireFrame(Opcode.CONT, b"o"),
        WireFrame(Opcode.BINARY, b"\x01"),
    )
    assert rig.sink.got == [("text", b"hello"), ("binary", b"\x01")]


@pytest.mark.failure("SEC-12")
def test_a_million_fragments_are_refused() -> None:
    rig = Rig()
    rig.receive(WireFrame(Opcode.TEXT, b"", fin=False))
    for _ in range(FRAGMENTS_MAX // 100 + 1):
        rig.receive(*[WireFrame(Opcode.CONT, b"x", fin=False)] * 100)
    rig.clock.advance(0.01)
    assert rig.texts() == ["<close 1009>"]


@pytest.mark.failure("SEC-12")
@pytest.mark.parametrize(
    "frames",
    [
        [WireFrame(Opcode.TEXT, b"x" * 1001)],
        [WireFrame(Opcode.TEXT, b"x" * 600, fin=False), WireFrame(Opcode.CONT, b"x" * 600)],
        [WireFrame(Opcode.BINARY, b"x" * 101)],
        [WireFrame(Opcode.BINARY, b"x" * 60, fin=False), WireFrame(Opcode.CONT, b"x" * 60)],
    ],
)
def test_messages_beyond_the_limit_close_with_1009(frames: list[WireFrame]) -> None:
    rig = Rig(text_max=1000, binary_max=100)
    rig.receive(*frames)
    assert rig.texts() == ["<close 1009>"]
    assert not [event for event in rig.sink.got if event[0] in ("text", "binary")]


@pytest.mark.failure("SEC-12")
def test_a_deflate_bomb_is_refused() -> None:
    rig = Rig(text_max=10_000, deflate=True)
    client = PerMessageDeflate(False, False, 12, 12)
    rig.connection.data_received(
        WireFrame(Opcode.TEXT, b"0" * 5_000_000).serialize(mask=True, extensions=[client])
    )
    assert not rig.connection.is_open
    assert rig.pipe.closing
    assert not [event for event in rig.sink.got if event[0] == "text"]


def test_the_size_of_a_huge_frame_is_refused_before_its_bytes_arrive() -> None:
    rig = Rig()
    rig.connection.data_received(b"\x81\xff" + (2**40).to_bytes(8))
    assert rig.texts() == ["<close 1009>"]


def test_one_large_read_yields_to_the_neighbours() -> None:
    rig = Rig()
    rig.receive(*[WireFrame(Opcode.TEXT, b"%d" % number) for number in range(TURN_MAX * 2 + 5)])
    assert len(rig.sink.got) == TURN_MAX
    assert rig.pipe.reading_paused
    rig.clock.advance(0.001)
    assert [event[1] for event in rig.sink.got] == [b"%d" % number for number in range(TURN_MAX * 2 + 5)]
    assert not rig.pipe.reading_paused


def test_every_inbound_byte_is_a_sign_of_life() -> None:
    rig = Rig()
    rig.clock.advance(30.0)
    rig.connection.data_received(b"\x81")
    assert rig.connection.last_inbound_at == rig.clock.now
    assert rig.connection.opened_at == rig.clock.now - 30.0


def test_an_overlong_reason_is_cut_at_a_character() -> None:
    rig = Rig()
    rig.connection.close(1008, "é" * 100)
    rig.clock.advance(CLOSE_TIMEOUT)
    assert rig.sink.got == [("closed", 1008, "é" * 61)]


def test_the_short_way_writes_or_leaves_everything_as_it_was() -> None:
    rig = Rig()
    frame = Frame.text(b"a")
    assert text_frame(b"a") == frame.data
    assert text_frame(b"b" * 300) == Frame.text(b"b" * 300).data
    assert rig.connection.put(frame.data)
    rig.stall()
    before = rig.connection.sent
    assert not rig.connection.put(frame.data)
    assert rig.connection.sent == before


def test_a_peer_that_hangs_up_is_let_go_in_turn() -> None:
    later: list[Callable[[], None]] = []

    class Queue:
        def do(self, work: Callable[[], None]) -> bool:
            later.append(work)
            return False

    rig = Rig()
    rig.connection._turns = cast(Any, Queue())
    assert rig.connection.eof_received()
    assert not rig.connection.is_open
    assert not rig.send("too late")
    while later:
        later.pop(0)()
    assert rig.sink.got[-1] == ("closed", 1006, "")
    assert [event[0] for event in rig.sink.got].count("closed") == 1


def test_a_lost_connection_does_not_wait_for_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        rig = Rig()
        rig.connection.data_received(b"\x81")  # an incomplete frame
        rig.connection.connection_lost(None)
        assert rig.sink.got[-1] == ("closed", 1006, "")
        kinds = (Connection, ServerProtocol)
        before = sum(isinstance(o, kinds) for o in gc.get_objects())
        rig.pipe.protocol = None  # as a transport does after `connection_lost`
        del rig
        assert before - sum(isinstance(o, kinds) for o in gc.get_objects()) == 2
    finally:
        gc.enable()
