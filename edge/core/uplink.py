"""Uplink: one WebSocket to the cloud, kept alive for as long as the wearer wants one.

Rules: pure. It retries for ever; only "replaced by a newer connection of the same user" stops it, and a refused
credential slows it down. Success counts after a stable period, so that a server which accepts and closes is not
hammered. Endpoint and token are read by the shell at each attempt, never kept here. Any inbound byte is life; silence
is asked about, and then believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from wire.backoff import Backoff, BackoffPolicy
from wire.clock_offset import ClockOffset, Estimate
from wire.errors import TERMINAL_CLOSES, CloseCode, InvalidTransition
from wire.liveness import EDGE, Dead, Liveness, LivenessEffect, LivenessPolicy


class UplinkState(Enum):
    OFFLINE = "offline"  # nobody wants a cloud
    DIALING = "dialing"  # TCP, TLS and the upgrade are under way
    GREETING = "greeting"  # open; the cloud has not acknowledged yet
    ONLINE = "online"
    BACKOFF = "backoff"  # waits before the next attempt
    STOPPED = "stopped"  # another device of the same user took over: needs a person


_U = UplinkState
UPLINK_TRANSITIONS: dict[UplinkState, frozenset[UplinkState]] = {
    _U.OFFLINE: frozenset({_U.DIALING}),
    _U.DIALING: frozenset({_U.GREETING, _U.BACKOFF, _U.STOPPED, _U.OFFLINE}),
    _U.GREETING: frozenset({_U.ONLINE, _U.BACKOFF, _U.STOPPED, _U.OFFLINE}),
    _U.ONLINE: frozenset({_U.BACKOFF, _U.STOPPED, _U.OFFLINE}),
    _U.BACKOFF: frozenset({_U.DIALING, _U.OFFLINE}),
    _U.STOPPED: frozenset({_U.DIALING, _U.OFFLINE}),
}


@dataclass(frozen=True, slots=True)
class UplinkTiming:
    """Seconds."""

    #: The shell limits an attempt to 10 s; its report is lost after 15.
    dial: float = 15.0
    #: The cloud acknowledges at open, before it does anything else; a slow mobile network gets this long for it.
    greet: float = 5.0
    liveness: LivenessPolicy = EDGE
    backoff: BackoffPolicy = field(default_factory=BackoffPolicy)
    #: A healthy cloud that says "restarting" (1001, 1012) is back within seconds: look more often, for a minute. Everybody
    #: does, so the looks are spread wide (failure catalogue PRO-04, PRO-05).
    restart: BackoffPolicy = field(default_factory=lambda: BackoffPolicy(ceiling=5.0, jitter=0.5))
    restart_window: float = 60.0
    #: A connection that we gave up may reach the cloud this much later, and replace our newer one there.
    stray: float = 60.0
    #: Told to move this soon after a connection, the ordinary wait applies: nodes that send us round are no use.
    move: float = 1.0
    #: Failure catalogue CON-13: an attempt counts as a success after half a minute.
    healthy: float = 30.0
    #: A healthy connection that breaks is dialled again at once, in a cluster another node serves by then; spread a little,
    #: because everybody of a lost node does so. Only when this fails begin the waits of `backoff`.
    at_once: float = 0.1
    #: A refused credential is tried again after this (CON-09): the operator may have renewed it meanwhile.
    refused: float = 300.0
    #: Longest wait that a server may ask for with Retry-After.
    retry_after_max: float = 300.0


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect with the newest endpoint and token. Answer: `opened` or `failed` with this id."""

    conn_id: int


@dataclass(frozen=True, slots=True)
class Hangup:
    """Close this connection or attempt. No answer is needed."""

    conn_id: int
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Greet:
    """The socket is open: say hello (the owner knows what)."""

    conn_id: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Send an application-level ping."""

    conn_id: int


@dataclass(frozen=True, slots=True)
class Online:
    conn_id: int


@dataclass(frozen=True, slots=True)
class Offline:
    """The connection ended, or an attempt failed. `lasting`: a person has to act, or five minutes have to pass."""

    reason: str
    lasting: bool
    was_online: bool


UplinkEffect: TypeAlias = Dial | Hangup | Greet | Probe | Online | Offline

#: HTTP answers to the upgrade that mean "not with this credential".
REFUSED_STATUS = frozenset({401, 403})


class Uplink:
    """The connection to the cloud. `jitter()` gives numbers in [0, 1)."""

    def __init__(self, timing: UplinkTiming, jitter: Callable[[], float]) -> None:
        self.state = UplinkState.OFFLINE
        self.timing = timing
        self.reason = ""  # why it is not online
        self.conn_id = 0
        self.attempts = 0
        self.stale_inputs = 0
        self.since = 0.0  # in this state
        self._jitter = jitter
        self._backoff = Backoff(timing.backoff)
        self._wait_until: float | None = None
        self._restarting_until = float("-inf")  # the cloud said that it restarts
        self._stray_until = float("-inf")  # an attempt of our own may still arrive there
        self._liveness: Liveness | None = None  # of the current connection
        #: Of the current connection: the next may end at another machine.
        self._clock: ClockOffset | None = None

    # ---------------------------------------------------------------------------------------------------- inputs

    def start(self, now: float) -> list[UplinkEffect]:
        """Want a cloud; after STOPPED this is the wearer's "take over again"."""
        if self.state not in (_U.OFFLINE, _U.STOPPED):
            return []
        self._backoff.reset()
        return self._dial(now)

    def stop(self, code: int, reason: str, now: float) -> list[UplinkEffect]:
        """No longer want one."""
        if self.state is _U.OFFLINE:
            return []
        effects = self._end(code, reason)
        self._wait_until = None
        self._move(_U.OFFLINE, now)
        return effects

    def retry_now(self, now: float) -> list[UplinkEffect]:
        """The network came back, or the credential changed: do not sit out the wait."""
        if self.state is not _U.BACKOFF:
            return []
        return self._dial(now)

    def opened(self, conn_id: int, now: float) -> list[UplinkEffect]:
        """The upgrade succeeded."""
        if self._stale(conn_id, _U.DIALING):
            return [Hangup(conn_id, 1000, "superseded")]
        self._liveness = Liveness(conn_id, self.timing.liveness, now)
        self._move(_U.GREETING, now)
        return [Greet(conn_id)]

    def failed(
        self, conn_id: int, reason: str, status: int | None, retry_after: float | None, now: float
    ) -> list[UplinkEffect]:
        """The attempt came to nothing. `status`: HTTP status of a refused upgrade."""
        if self._stale(conn_id, _U.DIALING):
            return []
        return self._fall(reason, now, refused=status in REFUSED_STATUS, retry_after=retry_after)

    def closed(self, conn_id: int, code: int, reason: str, now: float) -> list[UplinkEffect]:
        """The connection ended, by whomever."""
        if self._stale(conn_id, _U.GREETING, _U.ONLINE):
            return []
        if code in TERMINAL_CLOSES or (code == 1008 and "replaced" in reason.lower()):
            if now < self._stray_until:
                self._stray_until = float("-inf")  # told again, it is somebody else
                return self._fall("replaced by an earlier attempt of our own", now)
            was_online = self.state is _U.ONLINE
            self.reason = "replaced by another device of the same user"
            self._move(_U.STOPPED, now)
            return [Offline(self.reason, True, was_online)]
        healthy = self.state is _U.ONLINE and now - self.since >= self.timing.healthy
        if healthy and code in (CloseCode.GOING_AWAY, CloseCode.SERVICE_RESTART):
            self._restarting_until = now + self.timing.restart_window
        # 1008 before the acknowledgement is a refused credential; afterwards it is an ordinary end.
        refused = code == 1008 and self.state is _U.GREETING
        return self._fall(f"closed by the cloud ({code})", now, refused=refused)

    def refused(self, conn_id: int, now: float) -> list[UplinkEffect]:
        """The cloud said in words that the credential is no good."""
        if self._stale(conn_id, _U.GREETING, _U.ONLINE):
            return []
        return [
            Hangup(conn_id, 1000, "refused"),
            *self._fall("the credential was refused", now, refused=True),
        ]

    def moved(self, conn_id: int, now: float) -> list[UplinkEffect]:
        """The node of the cloud that we are connected to is about to go: the next connection reaches another one, which
        waits for us. At once, but not over and over."""
        if self._stale(conn_id, _U.ONLINE):
            return []
        asked_too_soon = now - self.since < self.timing.move
        out = [*self._end(1000, "moving"), *self._fall("the cloud moved us", now)]
        return out if asked_too_soon else [*out, *self._dial(now)]

    def acknowledged(self, conn_id: int, now: float) -> list[UplinkEffect]:
        """The cloud acknowledged the session. A second acknowledgement changes nothing."""
        if self._stale(conn_id, _U.GREETING):
            return []
        self.reason = ""
        self._clock = ClockOffset(now)
        self._move(_U.ONLINE, now)
        return [Online(conn_id)]

    def ponged(self, conn_id: int, sent: float, clock: float | None, now: float) -> list[UplinkEffect]:
        """A ping that left at `sent` was answered; `clock` is the cloud's, in Unix seconds, if it said so."""
        if not self._stale(conn_id, _U.GREETING, _U.ONLINE) and self._clock is not None and clock is not None:
            self._clock.answered(sent, clock, now)
        return []

    def clock(self, now: float) -> Estimate | None:
        """The cloud's Unix clock minus `now`; None while it is not known on this connection."""
        return None if self._clock is None else self._clock.estimate(now)

    def heard(self, conn_id: int, now: float) -> bool:
        """A frame came in. False if it belongs to a connection that no longer counts."""
        if self._stale(conn_id, _U.GREETING, _U.ONLINE):
            return False
        if self._liveness is not None:
            self._liveness.received(now)
        return True

    def spoke(self, now: float) -> None:
        """A data frame went out."""
        if self._liveness is not None:
            self._liveness.sent(now)

    def woke(self, now: float) -> list[UplinkEffect]:
        """The process slept: ask once and wait a moment before believing the silence; or redial at once."""
        if self.state is _U.BACKOFF:
            return self._dial(now)
        if self.state is not _U.ONLINE or self._liveness is None:
            return []
        return self._alive(self._liveness.woke(now), now)

    @property
    def deadline(self) -> float | None:
        match self.state:
            case _U.DIALING:
                return self.since + self.timing.dial
            case _U.GREETING:
                return self.since + self.timing.greet
            case _U.BACKOFF:
                return self._wait_until
            case _U.ONLINE:
                times = (each.deadline for each in (self._liveness, self._clock) if each is not None)
                return min((at for at in times if at is not None), default=None)
            case _:
                return None

    def handle_deadline(self, now: float) -> list[UplinkEffect]:
        at = self.deadline
        if at is None or now < at:
            return []
        match self.state:
            case _U.BACKOFF:
                return self._dial(now)
            case _U.DIALING:
                self._stray_until = now + self.timing.stray
                return [*self._end(1000, "timeout"), *self._fall("no answer from the network", now)]
            case _U.GREETING:
                return [*self._end(1000, "timeout"), *self._fall("the cloud did not acknowledge", now)]
            case _:
                assert self._liveness is not None
                effects = self._alive(self._liveness.handle_deadline(now), now)
                due = self._clock.deadline if self._clock is not None else None
                return effects or ([self._probe(now)] if due is not None and now >= due else [])

    # --------------------------------------------------------------------------------------------------- insides

    def _alive(self, effects: Sequence[LivenessEffect], now: float) -> list[UplinkEffect]:
        """A question and a sign of life are the same to the cloud: one ping."""
        if any(isinstance(effect, Dead) for effect in effects):
            return [*self._end(1001, "silent"), *self._fall("the cloud fell silent", now)]
        return [self._probe(now)] if effects else []

    def _probe(self, now: float) -> Probe:
        if self._clock is not None:
            self._clock.asked(now)
        return Probe(self.conn_id)

    def _stale(self, conn_id: int, *states: UplinkState) -> bool:
        if conn_id == self.conn_id and self.state in states:
            return False
        self.stale_inputs += 1
        return True

    def _dial(self, now: float) -> list[UplinkEffect]:
        self.conn_id += 1
        self.attempts += 1
        self._wait_until = None
        self._clock = None
        self._move(_U.DIALING, now)
        return [Dial(self.conn_id)]

    def _end(self, code: int, reason: str) -> list[UplinkEffect]:
        if self.state in (_U.DIALING, _U.GREETING, _U.ONLINE):
            return [Hangup(self.conn_id, code, reason)]
        return []

    def _fall(
        self, reason: str, now: float, *, refused: bool = False, retry_after: float | None = None
    ) -> list[UplinkEffect]:
        was_online = self.state is _U.ONLINE
        was_healthy = was_online and now - self.since >= self.timing.healthy
        restarting = now < self._restarting_until
        if was_healthy:
            self._backoff.reset()
        self._backoff.policy = self.timing.restart if restarting else self.timing.backoff
        if was_healthy and not restarting:
            delay = self.timing.at_once * self._jitter()
        else:
            delay = self._backoff.next(self._jitter())
        if refused:
            delay = self.timing.refused
        elif retry_after is not None:
            delay = max(delay, min(retry_after, self.timing.retry_after_max))
        self.reason = reason
        self._wait_until = now + delay
        self._move(_U.BACKOFF, now)
        return [Offline(reason, refused, was_online)]

    def _move(self, to: UplinkState, now: float) -> None:
        if to not in UPLINK_TRANSITIONS[self.state]:
            raise InvalidTransition("Uplink", self.state, to)
        self.state = to
        self.since = now
