"""Whether the peer of one socket is still there: asked for, never guessed; one owner per socket.

Rules: any inbound byte is life, whatever it says; the success of a write proves nothing. Every direction carries a
data frame at least every `speak` seconds, for some proxies count idleness per direction and swallow control frames.
Silence is asked about `probes_min` times before it is believed. A gap in the owner's own clock (the process slept) is
never held against the peer: one question at once, and a fresh moment for the answer. An instance belongs to one
socket and dies with it, so that nothing of socket A refreshes socket B.
Source: failure catalogue LIV-01, LIV-02, LIV-03, EDG-04.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from wire.errors import InvalidTransition


class LivenessState(Enum):
    ALIVE = "alive"
    ASKED = "asked"  # silent for a while; at least one question is open
    DEAD = "dead"  # final: the socket is to be closed


LIVENESS_TRANSITIONS: dict[LivenessState, frozenset[LivenessState]] = {
    LivenessState.ALIVE: frozenset({LivenessState.ASKED}),
    LivenessState.ASKED: frozenset({LivenessState.ALIVE, LivenessState.DEAD}),
    LivenessState.DEAD: frozenset(),
}


@dataclass(frozen=True, slots=True)
class LivenessPolicy:
    """Seconds, each with its reason."""

    #: Silence after which the peer is asked, and asked again.
    ask: float
    #: Silence after which it is believed dead. More than `probes_min` · `ask`, so that every question has an answer time.
    dead: float
    #: Longest time without a data frame of our own. Proxies cut a silent direction after 60 s, the strictest known
    #: after 20 s.
    speak: float = 12.0
    #: Questions that must have gone unanswered before the verdict.
    probes_min: int = 3
    #: A peer that asks by itself is expected to go on: its silence counts earlier, but never before this. None: never
    #: earlier than `dead`.
    dead_of_asker: float | None = None
    #: A clock gap beyond this means that we slept (EDG-04).
    sleep: float = 10.0
    #: After a sleep: time for the answer. A sleeping process has unread bytes waiting; a dead socket has none.
    wake: float = 3.0

    def __post_init__(self) -> None:
        if self.dead < self.ask * self.probes_min or self.ask <= 0:
            raise ValueError(
                "liveness: `dead` must leave time for `probes_min` questions of `ask` seconds each"
            )


#: Edge towards the cloud: dead within 9.6 s, inside the 10 s that LIV-02 allows; a proxy is kept awake every 10 s.
EDGE = LivenessPolicy(ask=2.4, dead=9.6, speak=10.0)
#: Cloud towards a glasses client: 45-60 s without any byte, or as early as 20 s for one that pings by itself (our edge
#: every 2.4 s, 2026 phones every 5 s); the catalogue wants the unreachable told within 30 s. Protocol pings every 10 s
#: are what the original sends (wire spec rule 5).
CLOUD_GLASSES = LivenessPolicy(ask=10.0, dead=50.0, dead_of_asker=20.0, wake=15.0)
#: Cloud towards an app: the SDK never speaks by itself, but its WebSocket library answers protocol pings.
CLOUD_APP = LivenessPolicy(ask=10.0, dead=50.0, wake=15.0)


@dataclass(frozen=True, slots=True)
class Ask:
    """Provoke an answer: a protocol ping (cloud), an application ping (edge)."""

    connection_id: int


@dataclass(frozen=True, slots=True)
class Speak:
    """Send any data frame: this direction has been silent for long."""

    connection_id: int


@dataclass(frozen=True, slots=True)
class Dead:
    """Close the socket now; nothing came for `silent` seconds in spite of the questions."""

    connection_id: int
    silent: float


LivenessEffect: TypeAlias = Ask | Speak | Dead

#: Questions of the peer that are remembered: three intervals make a habit.
ASKS_KEPT: Final = 4


class Liveness:
    """The liveness of one socket from its opening to its end."""

    __slots__ = (
        "_asked", "_asked_at", "_heard", "_peer_asks", "_quiet_from", "_spoke", "_state", "connection_id", "policy",
    )  # fmt: skip

    def __init__(self, connection_id: int, policy: LivenessPolicy, now: float) -> None:
        self.connection_id = connection_id
        self.policy = policy
        self._state = LivenessState.ALIVE
        self._heard = self._quiet_from = self._spoke = self._asked_at = now
        self._asked = 0  # open questions since the last inbound byte
        # When the peer asked. A list, because an empty deque takes 760 bytes and a session has three of these.
        self._peer_asks: list[float] = []

    @property
    def state(self) -> LivenessState:
        return self._state

    @property
    def heard_at(self) -> float:
        """When the last byte came in; what status pages show."""
        return self._heard

    # -- inputs

    def received(self, now: float) -> list[LivenessEffect]:
        """Bytes came in, whatever they mean. Cheap: this stands on the path of every audio frame."""
        self._heard = self._quiet_from = now
        if self._state is LivenessState.ASKED:
            self._asked = 0
            self._move(LivenessState.ALIVE)
        return []

    def peer_asked(self, now: float) -> list[LivenessEffect]:
        """The peer sent a ping of its own (as well as `received`)."""
        asks = self._peer_asks
        asks.append(now)
        if len(asks) > ASKS_KEPT:
            del asks[0]
        return []

    def sent(self, now: float) -> list[LivenessEffect]:
        """A data frame was written."""
        self._spoke = now
        return []

    def woke(self, now: float) -> list[LivenessEffect]:
        """We slept, as told by the system or seen as a gap: one question at once, no burst, a moment to answer."""
        if self._state is LivenessState.DEAD:
            return []
        self._spoke = now  # what was due while we slept is not made up for
        self._quiet_from = now + self.policy.wake - self._patience()
        self._asked = self.policy.probes_min - 1
        return self._ask(now)

    @property
    def deadline(self) -> float | None:
        """When handle_deadline has something to do; None once dead."""
        if self._state is LivenessState.DEAD:
            return None
        return min(self._next_ask(), self._spoke + self.policy.speak, self._verdict_at())

    def handle_deadline(self, now: float) -> list[LivenessEffect]:
        """Ask, speak or give the verdict. Call it at the deadline; a late call counts as a sleep of ours."""
        due = self.deadline
        if due is None or now < due:
            return []
        if now - due > self.policy.sleep:
            return self.woke(now)
        if now >= self._verdict_at():
            self._move(LivenessState.DEAD)
            return [Dead(self.connection_id, now - self._heard)]
        effects: list[LivenessEffect] = []
        if now >= self._next_ask():
            effects += self._ask(now)
        if now >= self._spoke + self.policy.speak:
            self._spoke = now
            effects.append(Speak(self.connection_id))
        return effects

    # -- inside

    def _move(self, to: LivenessState) -> None:
        if to not in LIVENESS_TRANSITIONS[self._state]:
            raise InvalidTransition("Liveness", self._state, to)
        self._state = to

    def _ask(self, now: float) -> list[LivenessEffect]:
        if self._state is LivenessState.ALIVE:
            self._move(LivenessState.ASKED)
        self._asked += 1
        self._asked_at = now
        return [Ask(self.connection_id)]

    def _next_ask(self) -> float:
        at = (self._asked_at if self._asked else self._quiet_from) + self.policy.ask
        # No question whose answer would come after the verdict.
        return at if at + self._answer <= self._verdict_at() else float("inf")

    @property
    def _answer(self) -> float:
        """The time that a question has for its answer before the verdict."""
        return min(self.policy.ask, self.policy.wake)

    def _habit(self) -> float | None:
        """The interval at which the peer asks by itself, once it has shown one."""
        asks = self._peer_asks
        if self.policy.dead_of_asker is None or len(asks) < ASKS_KEPT:
            return None
        return (asks[-1] - asks[0]) / (len(asks) - 1)

    def _patience(self) -> float:
        """How much silence is believed; less for a peer that has the habit of asking by itself."""
        habit = self._habit()
        if habit is None or self.policy.dead_of_asker is None:
            return self.policy.dead
        return min(self.policy.dead, max(self.policy.dead_of_asker, 4.0 * habit))

    def _verdict_at(self) -> float:
        # The missing pings of a peer with the habit are unanswered questions as well: one of ours is enough.
        needed = self.policy.probes_min if self._habit() is None else 1
        if self._asked < needed:
            return float("inf")
        return max(self._quiet_from + self._patience(), self._asked_at + self._answer)
