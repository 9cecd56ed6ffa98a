"""Writer: puts the commands for one arm on the air, one packet at a time, and credits the answers.

Rules: pure. At most one ATT write is in the stack's hands. HEARTBEAT goes before CONTROL before BULK; a heartbeat also
goes between the packets of the other two. An answer is credited only to the packet that waits for its key. Every wait
has a deadline; every queue has a bound. A bulk command that has not begun is replaced whole by a newer one. Packets that
ask for no confirmation are paced by the link itself: after so many bytes one of them asks for one, and how long that took
says how many bytes may follow.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from edge.profiles.base import Command, Lane, Packet, ReplyKey, Unsupported
from wire.errors import GlassesFault, InvalidTransition


class WriterState(Enum):
    IDLE = "idle"  # nothing to send, or no link
    WAITING_ACK = "waiting_ack"  # a packet is out: its write or its answer is awaited
    PACING = "pacing"  # the next packet may not go yet
    FAILED = "failed"  # a write failed; only a new link helps


WRITER_TRANSITIONS: dict[WriterState, frozenset[WriterState]] = {
    WriterState.IDLE: frozenset({WriterState.WAITING_ACK, WriterState.FAILED}),
    WriterState.WAITING_ACK: frozenset({WriterState.IDLE, WriterState.PACING, WriterState.FAILED}),
    WriterState.PACING: frozenset({WriterState.IDLE, WriterState.WAITING_ACK, WriterState.FAILED}),
    WriterState.FAILED: frozenset({WriterState.IDLE}),
}


class Outcome(Enum):
    """How a command ended."""

    OK = "ok"
    TIMEOUT = "timeout"  # no answer in any of its attempts
    REFUSED = "refused"  # the firmware said no
    UNSUPPORTED = "unsupported"  # this link or model cannot carry it
    REPLACED = "replaced"  # a newer one took its place before it began
    DROPPED = "dropped"  # the link went, or the queue was full


@dataclass(frozen=True, slots=True)
class WriterTiming:
    """Seconds and counts."""

    #: The stack confirms a write within an interval or two; its own limit is 5 s (edge/ble.py). A second more than
    #: that, and the confirmation was lost.
    write: float = 6.0
    #: Pause before a refused command is said again: an arm that is busy with its own screen needs a moment.
    refused: float = 0.2
    #: Failure catalogue BLE-03. Settings and questions; display text never queues here.
    queue_max: int = 64
    #: Unconfirmed bytes wait in the stack, and a heartbeat behind them. They may take this long to go out: a heartbeat's
    #: answer is waited for 1.5 s.
    window: float = 0.25
    #: Bounds of that window in bytes. Least: four packets of the largest kind, or the link would wait after each one.
    #: Most: what 0.25 s carry on the fastest link (170 kB/s).
    window_min: int = 2048
    window_max: int = 40_000


@dataclass(frozen=True, slots=True)
class PutOnAir:
    """Write one packet. The shell reports back with `written(write_id, ...)`, exactly once."""

    write_id: int
    data: bytes
    response: bool
    char: str


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a command. `began` is when its first packet left, None if none did."""

    ticket: int
    outcome: Outcome
    reason: str = ""
    began: float | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """The stack could not write: the link is of no more use."""

    fault: GlassesFault


WriterEffect: TypeAlias = PutOnAir | Done | Broken


class PerMinute:
    """How much there was in about the last minute, without a history: older amounts fade with e^(-t/60 s)."""

    __slots__ = ("_amount", "_at")

    def __init__(self) -> None:
        self._amount = 0.0
        self._at = 0.0

    def add(self, amount: float, now: float) -> None:
        self._amount = self.at(now) + amount
        self._at = now

    def at(self, now: float) -> float:
        return self._amount * math.exp(-(now - self._at) / 60.0) if now > self._at else self._amount


@dataclass(slots=True)
class _Progress:
    """One command on its way."""

    command: Command
    ticket: int
    attempt: int = 0
    packets: tuple[Packet, ...] = ()
    index: int = 0
    write_id: int | None = None  # in the stack's hands
    awaiting: ReplyKey | None = None  # answer still to come
    deadline: float | None = None  # of the write, then of the answer, then of the pause
    began: float | None = None
    refused: bool = False
    confirmed: bool = True  # whether the packet in the stack's hands asked for a confirmation
    sent: float = 0.0  # when the stack got it


class Writer:
    """The queue in front of one arm. Inputs return effects; `deadline` says when to call `handle_deadline`."""

    def __init__(self, timing: WriterTiming | None = None) -> None:
        self.state = WriterState.IDLE
        self.timing = timing or WriterTiming()
        self.payload_max = 20
        #: Smoothed time from a packet's confirmation to its answer; 1/8 of each new value, as TCP does.
        self.ack_time: float | None = None
        self.written_bytes = 0
        self.written_packets = 0
        self.bytes_rate = PerMinute()
        self.packets_rate = PerMinute()
        self.retries = 0
        self.stray_replies = 0
        self.window = self.timing.window_min  # unconfirmed bytes that the link may hold
        self.link_rate: float | None = (
            None  # bytes a second, from the last confirmation that stood behind a window
        )
        self._unconfirmed = 0
        self._window_began = 0.0
        self._open = False
        self._control: deque[tuple[Command, int]] = deque()
        self._bulk: tuple[Command, int] | None = None
        self._pulse: tuple[Command, int] | None = None
        self._current: _Progress | None = None
        self._beat: _Progress | None = None
        self._next_write = 0

    # ---------------------------------------------------------------------------------------------------- inputs

    def opened(self, payload_max: int, now: float) -> list[WriterEffect]:
        """A fresh link that carries `payload_max` bytes in one ATT write."""
        effects = self.closed(now)
        self.payload_max = payload_max
        self.window = self.timing.window_min
        self.link_rate = None
        self._unconfirmed = 0
        self._open = True
        return effects

    def closed(self, now: float) -> list[WriterEffect]:
        """The link is gone: everything that was to be said is dropped; what is wanted is said again on the next one."""
        self._open = False
        waiting = [(p.ticket, p.began) for p in (self._current, self._beat) if p is not None]
        waiting += [(ticket, None) for _, ticket in self._control]
        waiting += [(slot[1], None) for slot in (self._bulk, self._pulse) if slot is not None]
        self._control.clear()
        self._bulk = self._pulse = self._current = self._beat = None
        if self.state is not WriterState.IDLE:
            self._move(WriterState.IDLE)
        return [Done(ticket, Outcome.DROPPED, "link lost", began) for ticket, began in waiting]

    def submit(self, command: Command, ticket: int, now: float) -> list[WriterEffect]:
        """Take a command; `ticket` comes back in its `Done`."""
        if not self._open or self.state is WriterState.FAILED:
            return [Done(ticket, Outcome.DROPPED, "no link")]
        effects: list[WriterEffect] = []
        match command.lane:
            case Lane.HEARTBEAT:
                if self._pulse is not None:
                    effects.append(Done(self._pulse[1], Outcome.REPLACED))
                self._pulse = (command, ticket)
            case Lane.BULK:
                if self._bulk is not None:
                    effects.append(Done(self._bulk[1], Outcome.REPLACED))
                self._bulk = (command, ticket)
            case Lane.CONTROL:
                if len(self._control) >= self.timing.queue_max:
                    return [Done(ticket, Outcome.DROPPED, "queue full")]
                self._control.append((command, ticket))
        return effects + self._pump(now)

    def written(self, write_id: int, fault: GlassesFault | None, now: float) -> list[WriterEffect]:
        """The stack is done with a packet. A confirmation of an earlier link is ignored."""
        progress = next(
            (p for p in (self._beat, self._current) if p is not None and p.write_id == write_id), None
        )
        if progress is None:
            return []
        progress.write_id = None
        if fault is GlassesFault.REFUSED:
            # An ATT error: the arm is there and said no.
            progress.refused = True
            return self._again(progress, now)
        if fault is not None:
            return self._break(fault, now)
        packet = progress.packets[progress.index]
        self._measure(len(packet.data), progress, now)
        self.written_packets += 1
        self.written_bytes += len(packet.data)
        self.packets_rate.add(1, now)
        self.bytes_rate.add(len(packet.data), now)
        if progress.awaiting is not None:
            progress.deadline = now + packet.timeout
            return self._pump(now)
        return self._advance(progress, packet, now)

    def replied(self, key: ReplyKey, ok: bool, now: float) -> list[WriterEffect]:
        """The arm answered. An answer that nobody waits for is counted, nothing more."""
        for progress in (self._beat, self._current):
            if progress is None or progress.awaiting is None or progress.awaiting != key:
                continue
            progress.awaiting = None
            if not ok:
                progress.refused = True
                return self._again(progress, now) if progress.write_id is None else []
            packet = progress.packets[progress.index]
            if progress.write_id is not None:
                return []  # answered before the stack confirmed: `written` goes on from here
            if progress.deadline is not None:
                took = now - (progress.deadline - packet.timeout)
                self.ack_time = took if self.ack_time is None else self.ack_time + (took - self.ack_time) / 8
            return self._advance(progress, packet, now)
        self.stray_replies += 1
        return []

    def woke(self, now: float) -> None:
        """The process slept: what looks overdue may be waiting in the stack. Give every open wait its time again."""
        for progress in (self._beat, self._current):
            if progress is not None and progress.deadline is not None and progress.deadline < now:
                progress.deadline = now + 1.0

    @property
    def deadline(self) -> float | None:
        times = [p.deadline for p in (self._beat, self._current) if p is not None and p.deadline is not None]
        return min(times, default=None)

    @property
    def busy(self) -> bool:
        """Whether anything but a heartbeat is under way or waits."""
        return self._current is not None or bool(self._control) or self._bulk is not None

    @property
    def queued(self) -> int:
        return len(self._control) + (self._bulk is not None)

    def handle_deadline(self, now: float) -> list[WriterEffect]:
        effects: list[WriterEffect] = []
        for progress in (self._beat, self._current):
            if progress is None or progress.deadline is None or now < progress.deadline:
                continue
            if progress.write_id is not None:
                return effects + self._break(GlassesFault.TIMEOUT, now)
            progress.deadline = None
            if progress.awaiting is not None:
                progress.awaiting = None
                effects += self._again(progress, now)
            else:
                effects += self._pump(now)
        return effects

    # --------------------------------------------------------------------------------------------------- insides

    def _pump(self, now: float) -> list[WriterEffect]:
        effects: list[WriterEffect] = []
        while self._open and self.state is not WriterState.FAILED and not self._writing():
            if self._beat is None and self._pulse is not None:
                command, ticket = self._pulse
                self._pulse, self._beat = None, _Progress(command, ticket)
                effects += self._start(self._beat, now)
            elif self._beat is not None and self._beat.awaiting is None and self._beat.deadline is None:
                effects += self._send(self._beat, now)
            elif self._current is not None:
                if self._current.awaiting is not None or self._current.deadline is not None:
                    break
                effects += self._send(self._current, now)
            elif self._control:
                self._current = _Progress(*self._control.popleft())
                effects += self._start(self._current, now)
            elif self._bulk is not None:
                self._current, self._bulk = _Progress(*self._bulk), None
                effects += self._start(self._current, now)
            else:
                break
        return effects

    def _writing(self) -> bool:
        return any(p is not None and p.write_id is not None for p in (self._beat, self._current))

    def _start(self, progress: _Progress, now: float) -> list[WriterEffect]:
        """Begin an attempt: encode afresh, first packet."""
        try:
            progress.packets = tuple(progress.command.encode(self.payload_max))
        except Unsupported as error:
            return self._finish(progress, Outcome.UNSUPPORTED, str(error), now)
        longest = max((len(packet.data) for packet in progress.packets), default=0)
        if longest > self.payload_max:
            # Stacks cut such a write, refuse it, or end the link over it (failure catalogue BLE-05).
            reason = f"{progress.command.name}: needs an MTU of {longest + 3}, this link has {self.payload_max + 3}"
            return self._finish(progress, Outcome.UNSUPPORTED, reason, now)
        progress.index = 0
        progress.refused = False
        progress.attempt += 1
        if progress.attempt > 1:
            self.retries += 1
        if not progress.packets:
            return self._finish(progress, Outcome.OK, "", now)
        return self._send(progress, now)

    def _send(self, progress: _Progress, now: float) -> list[WriterEffect]:
        if progress.index < 0:  # a pause before the next attempt is over
            return self._start(progress, now)
        packet = progress.packets[progress.index]
        self._next_write += 1
        progress.write_id = self._next_write
        progress.awaiting = packet.reply
        progress.deadline = now + self.timing.write
        if progress.began is None:
            progress.began = now
        if progress is self._current:
            self._move(WriterState.WAITING_ACK)
        progress.confirmed = packet.response or self._unconfirmed + len(packet.data) > self.window
        progress.sent = now
        return [PutOnAir(self._next_write, packet.data, progress.confirmed, packet.char)]

    def _measure(self, size: int, progress: _Progress, now: float) -> None:
        """Learn from a confirmation how fast the link empties what was unconfirmed before it."""
        if not progress.confirmed:
            if not self._unconfirmed:
                self._window_began = progress.sent
            self._unconfirmed += size
            return
        took = now - self._window_began
        if self._unconfirmed >= self.timing.window_min // 2 and took > 0:
            # Less than that measures the interval of the link and not its rate.
            self.link_rate = (self._unconfirmed + size) / took
            wanted = int(self.link_rate * self.timing.window)
            self.window = max(self.timing.window_min, min(self.timing.window_max, wanted))
        self._unconfirmed = 0

    def _advance(self, progress: _Progress, packet: Packet, now: float) -> list[WriterEffect]:
        """A packet is delivered: the next one, or the end."""
        progress.deadline = None
        if progress.refused:
            return self._again(progress, now)
        progress.index += 1
        if progress.index >= len(progress.packets):
            return self._finish(progress, Outcome.OK, "", now) + self._pump(now)
        if packet.gap:
            progress.deadline = now + packet.gap
            if progress is self._current:
                self._move(WriterState.PACING)
        return self._pump(now)

    def _again(self, progress: _Progress, now: float) -> list[WriterEffect]:
        """An attempt failed: another one, or give up and let the queue move on."""
        progress.awaiting = None
        if progress.attempt >= progress.command.tries:
            outcome = Outcome.REFUSED if progress.refused else Outcome.TIMEOUT
            return self._finish(progress, outcome, "", now) + self._pump(now)
        progress.index = -1
        progress.deadline = now + self.timing.refused if progress.refused else None
        if progress is self._current:
            self._move(WriterState.PACING)
        return self._pump(now)

    def _finish(self, progress: _Progress, outcome: Outcome, reason: str, now: float) -> list[WriterEffect]:
        if progress is self._beat:
            self._beat = None
        else:
            self._current = None
            if self.state is not WriterState.IDLE:
                self._move(WriterState.IDLE)
        return [Done(progress.ticket, outcome, reason, progress.began)]

    def _break(self, fault: GlassesFault, now: float) -> list[WriterEffect]:
        effects: list[WriterEffect] = [*self.closed(now), Broken(fault)]
        self._move(WriterState.FAILED)
        return effects

    def _move(self, to: WriterState) -> None:
        if to is self.state:
            return
        if to not in WRITER_TRANSITIONS[self.state]:
            raise InvalidTransition("Writer", self.state, to)
        self.state = to
