"""ArmLink: one BLE connection of a pair of glasses, from "not seen" to "answers", and back again for ever.

Rules: pure. One attempt at a time; each attempt has a fresh `conn_id`, and what an older one still reports is counted
and ignored. Ready means that the firmware has answered, not that the stack says "connected". Two heartbeats without an
answer end the link: a write that succeeds locally proves nothing (failure catalogue BLE-01). Only reasons that a person
must cure end in GIVEN_UP; they are always told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from edge.core.writer import Broken, Done, Outcome, PutOnAir, Writer, WriterEffect, WriterTiming
from edge.profiles.base import Arm, Command, Driver, Pace, ReplyKey
from wire.backoff import Backoff, BackoffPolicy
from wire.errors import GlassesFault, InvalidTransition


class ArmState(Enum):
    IDLE = "idle"  # nobody wants it
    SCANNING = "scanning"  # waits to see its advertisement, and for its turn to connect
    CONNECTING = "connecting"  # the stack connects, finds the services and subscribes
    DISCOVERING = "discovering"  # connected; the firmware has not answered yet
    READY = "ready"  # answers
    BACKOFF = "backoff"  # waits before the next attempt
    GIVEN_UP = "given_up"  # needs a person


_S = ArmState
ARM_TRANSITIONS: dict[ArmState, frozenset[ArmState]] = {
    _S.IDLE: frozenset({_S.SCANNING}),
    _S.SCANNING: frozenset({_S.CONNECTING, _S.IDLE}),
    _S.CONNECTING: frozenset({_S.DISCOVERING, _S.BACKOFF, _S.GIVEN_UP, _S.IDLE}),
    _S.DISCOVERING: frozenset({_S.READY, _S.BACKOFF, _S.GIVEN_UP, _S.IDLE}),
    _S.READY: frozenset({_S.BACKOFF, _S.GIVEN_UP, _S.IDLE}),
    _S.BACKOFF: frozenset({_S.SCANNING, _S.IDLE}),
    _S.GIVEN_UP: frozenset({_S.SCANNING, _S.IDLE}),
}


@dataclass(frozen=True, slots=True)
class ArmTiming:
    """Seconds and counts."""

    #: The stack's own limits (edge/ble.py) are 20 s for a connection and wait for another connection of the same
    #: adapter before that; after a minute its answer is lost.
    connect: float = 60.0
    #: 1, 2, 4 ... 30 s; out of range for a day costs one scan, not one attempt per second.
    backoff: BackoffPolicy = field(default_factory=BackoffPolicy)
    #: A link that lived this long was healthy: the next loss starts again at one second.
    healthy: float = 30.0
    #: Missed heartbeats that end a link. 8 s + 1.5 s, then 2 s + 1.5 s: a dead arm is noticed within 13 s, before the
    #: firmware's own limit of 32 s and the catalogue's of 20 s.
    misses_max: int = 2
    recheck: float = 2.0
    #: Attempts that end in "not paired" or "not this model" before a person is asked (failure catalogue BLE-13).
    terminal_max: int = 3
    writer: WriterTiming = field(default_factory=WriterTiming)


#: Reasons that another attempt alone does not cure.
TERMINAL_FAULTS = frozenset({GlassesFault.NOT_PAIRED, GlassesFault.INCOMPATIBLE})


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect, find services, negotiate the MTU, subscribe. Answer: `link_up` or `link_failed` with this id."""

    arm: Arm
    conn_id: int
    address: str


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close this connection or attempt, whatever its state. No answer is needed."""

    arm: Arm
    conn_id: int


@dataclass(frozen=True, slots=True)
class Write:
    """One ATT write. Answer: `written` with this id, exactly once."""

    arm: Arm
    conn_id: int
    write_id: int
    data: bytes
    response: bool
    char: str  # empty: the profile's own


@dataclass(frozen=True, slots=True)
class Moved:
    """The arm changed state (already done when this is returned)."""

    arm: Arm
    state: ArmState
    fault: GlassesFault | None


@dataclass(frozen=True, slots=True)
class CommandDone:
    """A command submitted through `submit` ended."""

    arm: Arm
    ticket: int
    outcome: Outcome
    reason: str
    began: float | None


ArmEffect: TypeAlias = Connect | Disconnect | Write | Moved | CommandDone

#: Tickets below zero are the arm's own; see `_done`.
_INIT, _HEARTBEAT, _GREETING = -1, -2, -3


class ArmLink:
    """One arm. `jitter()` gives a number in [0, 1) for the spread of delays."""

    def __init__(
        self, arm: Arm, driver: Driver, pace: Pace, timing: ArmTiming, jitter: Callable[[], float]
    ) -> None:
        self.arm = arm
        self.state = ArmState.IDLE
        self.timing = timing
        self.pace = pace
        self.writer = Writer(timing.writer)
        self.fault: GlassesFault | None = None  # why the last link or attempt ended
        self.why = ""  # ... in the driver's words, where it was the driver that could not go on
        self.address: str | None = None  # seen, and where to connect to
        self.rssi: int | None = None
        self.connects = 0
        self.stale_inputs = 0
        self.conn_id = 0
        self._driver = driver
        self._jitter = jitter
        self._backoff = Backoff(timing.backoff)
        self._terminal = 0
        self._step = 0  # of the init sequence
        self._alternative = 0
        self._misses = 0
        self._probing = False
        self._ready_since: float | None = None
        self._beat_at: float | None = None
        self._deadline: float | None = None

    # ---------------------------------------------------------------------------------------------------- inputs

    def start(self, now: float) -> list[ArmEffect]:
        """Want the arm; after GIVEN_UP this is the person's second try."""
        if self.state not in (_S.IDLE, _S.GIVEN_UP):
            return []
        self._terminal = 0
        self._backoff.reset()
        return self._move(_S.SCANNING)

    def stop(self, now: float) -> list[ArmEffect]:
        """No longer want it."""
        if self.state is _S.IDLE:
            return []
        effects = self._leave(now)
        self.fault = None
        return effects + self._move(_S.IDLE)

    def sighted(self, address: str, rssi: int | None, now: float) -> None:
        """Its advertisement was seen; `connect` may follow when it is its turn."""
        self.rssi = rssi if rssi is not None else self.rssi
        if self.state is _S.SCANNING:
            self.address = address

    @property
    def wants_to_connect(self) -> bool:
        return self.state is _S.SCANNING and self.address is not None

    def connect(self, now: float) -> list[ArmEffect]:
        """Its turn: the owner connects arms one after the other (failure catalogue BLE-12)."""
        if not self.wants_to_connect or self.address is None:
            return []
        self.conn_id += 1
        self.why = ""
        self._deadline = now + self.timing.connect
        return [*self._move(_S.CONNECTING), Connect(self.arm, self.conn_id, self.address)]

    def link_up(self, conn_id: int, payload_max: int, now: float) -> list[ArmEffect]:
        """Connected and subscribed. The firmware still has to answer."""
        if self._stale(conn_id, _S.CONNECTING):
            return [Disconnect(self.arm, conn_id)]
        self.connects += 1
        self._deadline = None
        self._step = self._alternative = 0
        self._driver.opened(self.arm)
        effects = self._move(_S.DISCOVERING)
        effects += self._through(self.writer.opened(payload_max, now), now)
        return effects + self._next_init(now)

    def link_failed(self, conn_id: int, fault: GlassesFault, now: float) -> list[ArmEffect]:
        """The attempt came to nothing. The shell has cleaned up behind it."""
        if self._stale(conn_id, _S.CONNECTING):
            return []
        return self._fall(fault, now, hang_up=False)

    def link_lost(self, conn_id: int, fault: GlassesFault, now: float) -> list[ArmEffect]:
        """The connection is gone. Comes any number of times, and late (failure catalogue BLE-11)."""
        if self._stale(conn_id, _S.DISCOVERING, _S.READY):
            return []
        return self._fall(fault, now, hang_up=False)

    def written(self, conn_id: int, write_id: int, fault: GlassesFault | None, now: float) -> list[ArmEffect]:
        if self._stale(conn_id, _S.DISCOVERING, _S.READY):
            return []
        return self._through(self.writer.written(write_id, fault, now), now)

    def replied(self, key: ReplyKey, ok: bool, now: float) -> list[ArmEffect]:
        """An answer that the driver has read in a notification of the current connection."""
        return self._through(self.writer.replied(key, ok, now), now)

    def submit(self, command: Command, ticket: int, now: float) -> list[ArmEffect]:
        """Say something to a ready arm; `ticket` (0 or more) comes back in `CommandDone`."""
        return self._through(self.writer.submit(command, ticket, now), now)

    def probe(self, now: float) -> list[ArmEffect]:
        """Something was not answered: ask at once whether the arm still hears us."""
        if self.state is not _S.READY or self._probing or self.pace.heartbeat is None:
            return []
        return self._beat(now)

    def reset(self, fault: GlassesFault, now: float) -> list[ArmEffect]:
        """End the link and build a new one."""
        if self.state not in (_S.DISCOVERING, _S.READY):
            return []
        return self._fall(fault, now, hang_up=True)

    def woke(self, now: float) -> list[ArmEffect]:
        """The process slept: check the link at once, with one question."""
        self.writer.woke(now)
        return self.probe(now)

    @property
    def deadline(self) -> float | None:
        times = [t for t in (self._deadline, self._beat_at, self.writer.deadline) if t is not None]
        return min(times, default=None)

    def handle_deadline(self, now: float) -> list[ArmEffect]:
        effects: list[ArmEffect] = []
        if self.writer.deadline is not None and now >= self.writer.deadline:
            effects += self._through(self.writer.handle_deadline(now), now)
        if self._beat_at is not None and now >= self._beat_at:
            effects += self._beat(now)
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            if self.state is _S.BACKOFF:
                self.address = None  # rescan: what was seen before may be stale
                effects += self._move(_S.SCANNING)
            elif self.state is _S.CONNECTING:
                effects += self._fall(GlassesFault.TIMEOUT, now, hang_up=True)
        return effects

    def is_current(self, conn_id: int) -> bool:
        """Whether a notification of `conn_id` counts; stale ones are counted here."""
        return not self._stale(conn_id, _S.DISCOVERING, _S.READY)

    # --------------------------------------------------------------------------------------------------- insides

    def _stale(self, conn_id: int, *states: ArmState) -> bool:
        if conn_id == self.conn_id and self.state in states:
            return False
        self.stale_inputs += 1
        return True

    def _next_init(self, now: float) -> list[ArmEffect]:
        steps = self._driver.init(self.arm)
        if self._step < len(steps):
            return self._through(self.writer.submit(steps[self._step][self._alternative], _INIT, now), now)
        self.fault = None
        self._terminal = 0
        self._misses = 0
        self._ready_since = now
        if self.pace.heartbeat is not None:
            self._beat_at = now + self.pace.heartbeat
        effects = self._move(_S.READY)
        for command in self._driver.greet(self.arm):
            effects += self._through(self.writer.submit(command, _GREETING, now), now)
        return effects

    def _beat(self, now: float) -> list[ArmEffect]:
        command = self._driver.heartbeat(self.arm)
        # Until the answer is in, the next one is due a full period from now; a missed answer shortens that.
        self._beat_at = None if command is None or self.pace.heartbeat is None else now + self.pace.heartbeat
        if command is None:
            return []
        self._probing = True
        return self._through(self.writer.submit(command, _HEARTBEAT, now), now)

    def _through(self, effects: list[WriterEffect], now: float) -> list[ArmEffect]:
        out: list[ArmEffect] = []
        for effect in effects:
            match effect:
                case PutOnAir(write_id, data, response, char):
                    out.append(Write(self.arm, self.conn_id, write_id, data, response, char))
                case Done():
                    out += self._done(effect, now)
                case Broken(fault):
                    out += self._fall(fault, now, hang_up=True)
        return out

    def _done(self, done: Done, now: float) -> list[ArmEffect]:
        if done.ticket >= 0:
            return [CommandDone(self.arm, done.ticket, done.outcome, done.reason, done.began)]
        if done.ticket == _HEARTBEAT:
            return self._heartbeat_done(done.outcome, now)
        if done.ticket == _INIT and self.state is _S.DISCOVERING and done.outcome is not Outcome.DROPPED:
            if done.outcome is Outcome.OK:
                self._step, self._alternative = self._step + 1, 0
            else:
                self._alternative += 1
                if self._alternative >= len(self._driver.init(self.arm)[self._step]):
                    self.why = done.reason
                    return self._fall(GlassesFault.PROTOCOL, now, hang_up=True)
            return self._next_init(now)
        return []

    def _heartbeat_done(self, outcome: Outcome, now: float) -> list[ArmEffect]:
        self._probing = False
        if self.state is not _S.READY or outcome in (Outcome.DROPPED, Outcome.REPLACED):
            return []
        if outcome in (Outcome.OK, Outcome.REFUSED):  # a refusal is an answer too
            self._misses = 0
            return []
        self._misses += 1
        if self._misses >= self.timing.misses_max:
            return self._fall(GlassesFault.TIMEOUT, now, hang_up=True)
        self._beat_at = now + self.timing.recheck
        return []

    def _fall(self, fault: GlassesFault, now: float, *, hang_up: bool) -> list[ArmEffect]:
        """A link or an attempt ended: wait, then look for the arm again; or ask for a person."""
        if self.state not in (_S.CONNECTING, _S.DISCOVERING, _S.READY):
            return []
        if self._ready_since is not None and now - self._ready_since >= self.timing.healthy:
            self._backoff.reset()
        # The state changes first: whatever the writer drops below must find an arm that is no longer up.
        self.fault = fault
        self._terminal = self._terminal + 1 if fault in TERMINAL_FAULTS else 0
        to = _S.GIVEN_UP if self._terminal >= self.timing.terminal_max else _S.BACKOFF
        effects: list[ArmEffect] = [Disconnect(self.arm, self.conn_id)] if hang_up else []
        effects += self._move(to)
        effects += self._clear(now)
        if to is _S.BACKOFF:
            self._deadline = now + self._backoff.next(self._jitter())
        return effects

    def _leave(self, now: float) -> list[ArmEffect]:
        up = self.state in (_S.CONNECTING, _S.DISCOVERING, _S.READY)
        effects: list[ArmEffect] = [Disconnect(self.arm, self.conn_id)] if up else []
        return effects + self._clear(now)

    def _clear(self, now: float) -> list[ArmEffect]:
        self._ready_since = self._beat_at = self._deadline = None
        self._probing = False
        self._misses = 0
        self.address = None
        return self._through(self.writer.closed(now), now)

    def _move(self, to: ArmState) -> list[ArmEffect]:
        if to not in ARM_TRANSITIONS[self.state]:
            raise InvalidTransition(f"ArmLink {self.arm}", self.state, to)
        self.state = to
        return [Moved(self.arm, to, self.fault)]
