"""Whether a process has room: it sheds lossy frames first, refuses newcomers next, and never ends what runs.

Rules: room is how late the event loop is, how many frames a second it handles and how full its memory is; never a number
of sessions, because one session may be silent and another speak to ten apps. Both steps are taken only after pressure
that lasts, and taken back only after calm that lasts, so that a single stall does nothing. Newcomers are paced, and those
who must wait are told times that scatter them. A session that exists is never asked. Sources: failure catalogue PRO-02,
PRO-04.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from wire.errors import InvalidTransition


class AdmissionState(Enum):
    NORMAL = "normal"
    SHEDDING = "shedding"  # a share of the sessions has its lossy frames dropped at the door
    REFUSING = "refusing"  # and nobody new comes in


TRANSITIONS: Final[Mapping[AdmissionState, frozenset[AdmissionState]]] = {
    AdmissionState.NORMAL: frozenset({AdmissionState.SHEDDING}),
    AdmissionState.SHEDDING: frozenset({AdmissionState.NORMAL, AdmissionState.REFUSING}),
    AdmissionState.REFUSING: frozenset({AdmissionState.SHEDDING}),
}


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Seconds, frames per second, shares."""

    #: Smoothed lateness of the loop. A loop that keeps up is under 20 ms late; at 100 ms captions are late to a reader.
    lag: float = 0.1
    #: Frames handled per second, in and out. One core of 2020 does 160,000 to 290,000 (docs/performance.md); a smaller
    #: one is late before it gets there.
    frames: float = 100_000.0
    #: Memory in use, as a share of what the process may have. Above it the next thing to happen is the kernel's.
    memory: float = 0.9
    #: Pressure lasts this long before the next step: the pause of one garbage collection is far shorter.
    rise: float = 1.0
    #: Calm lasts this long before a step back.
    calm: float = 5.0
    #: Calm is pressure below this share of a limit; between the two nothing changes.
    relief: float = 0.7
    #: Sessions that may begin per second: each costs 1 to 3 ms of CPU with its apps (docs/scaling.md).
    rate: float = 200.0
    #: And at once: two seconds' worth, so that a household or a small node that comes back is never paced.
    burst: float = 400.0
    #: Longest wait that a newcomer is told.
    wait: float = 30.0


#: One late sample counts for at most this much: how long one stall was says nothing about the load that follows.
LATE_MAX: Final = 1.0
#: Weight of the newest sample in the smoothed figures; at four samples a second their memory is about a second.
NEWEST: Final = 0.3
#: Change of the share that is shed, per sample: everything within 2.5 s, and back within 5 s.
MORE: Final = 0.1
LESS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Moved:
    """The state changed; `why` names the figure that is nearest to its limit."""

    before: AdmissionState
    after: AdmissionState
    why: str


@dataclass(frozen=True, slots=True)
class Shed:
    """From now on this share (0 to 1) of the sessions goes without its lossy frames."""

    share: float


Effect: TypeAlias = Moved | Shed


class Admission:
    """One per process. Samples come about four times a second; without them nothing changes."""

    def __init__(self, limits: AdmissionLimits | None = None) -> None:
        self.limits = limits or AdmissionLimits()
        self._state = AdmissionState.NORMAL
        self._lag = 0.0
        self._frames = 0.0
        self._memory = 0.0
        self._share = 0.0
        self._over_since: float | None = None
        self._calm_since: float | None = None
        self._room = self.limits.burst
        self._room_at: float | None = None
        self._refused = 0.0  # newcomers turned away lately, decaying: how many will be back

    @property
    def state(self) -> AdmissionState:
        return self._state

    @property
    def shed(self) -> float:
        """Share of the sessions that go without their lossy frames."""
        return self._share

    @property
    def deadline(self) -> float | None:
        """Nothing happens by itself: time passes with the samples."""
        return None

    def handle_deadline(self, now: float) -> list[Effect]:
        return []

    def sampled(self, lag: float, frames: float, memory: float, now: float) -> list[Effect]:
        """How late the loop was (seconds), frames handled per second, and the share of memory in use."""
        self._lag += NEWEST * (min(lag, LATE_MAX) - self._lag)
        self._frames += NEWEST * (frames - self._frames)
        self._memory = memory
        self._refused *= 1.0 - NEWEST / 10  # forgotten within about ten seconds
        pressure = self.pressure
        self._over_since = None if pressure < 1.0 else self._over_since or now
        self._calm_since = None if pressure >= self.limits.relief else self._calm_since or now
        return [*self._step(now), *self._reshare(pressure, now)]

    @property
    def pressure(self) -> float:
        """The worst of lag and frames, as a share of its limit."""
        return max(self._lag / self.limits.lag, self._frames / self.limits.frames)

    def _step(self, now: float) -> list[Effect]:
        over = self._over_since is not None and now - self._over_since >= self.limits.rise
        calm = self._calm_since is not None and now - self._calm_since >= self.limits.calm
        match self._state:
            case AdmissionState.NORMAL if over:
                return self._move(AdmissionState.SHEDDING, now)
            case AdmissionState.SHEDDING if over and self._share >= 1.0:
                return self._move(AdmissionState.REFUSING, now)  # shedding was not enough
            case AdmissionState.SHEDDING if calm and self._share <= 0.0:
                return self._move(AdmissionState.NORMAL, now)
            case AdmissionState.REFUSING if calm:
                return self._move(AdmissionState.SHEDDING, now)
        return []

    def _reshare(self, pressure: float, now: float) -> list[Effect]:
        before = self._share
        if self._state is AdmissionState.NORMAL:
            self._share = 0.0
        elif pressure >= 1.0:
            self._share = min(1.0, round(before + MORE, 6))
            if self._share >= 1.0 > before:
                self._over_since = now  # shedding everything gets its own time to help
        elif pressure < self.limits.relief and self._state is AdmissionState.SHEDDING:
            # Newcomers are let in before the last frames are: a caption that flickers beats a door that does.
            self._share = max(0.0, round(before - LESS, 6))
        return [Shed(self._share)] if self._share != before else []

    def _move(self, after: AdmissionState, now: float) -> list[Effect]:
        before = self._state
        if after not in TRANSITIONS[before]:
            raise InvalidTransition("admission", before, after)
        self._state = after
        # The next step needs its own time.
        self._over_since = now if self._over_since is not None else None
        self._calm_since = now if self._calm_since is not None else None
        return [Moved(before, after, self.why)]

    @property
    def why(self) -> str:
        """The figure nearest to its limit, in words."""
        if self._lag / self.limits.lag >= self._frames / self.limits.frames:
            return f"event loop {self._lag * 1000:.0f} ms late"
        return f"{self._frames:.0f} frames/s"

    def ask(self, jitter: float, now: float, *, returning: bool = False) -> float:
        """Somebody without a session here wants one: 0.0 = come in, else seconds to wait. `jitter`: from 0 to 1, evenly.
        `returning`: his session runs, on a node that is gone; he is paced like all, and refused only where there is no
        memory, because that would end everybody's.

        The wait grows with the number of those who were turned away, so that they come back at the rate that is served.
        """
        limits = self.limits
        if self._room_at is not None:
            self._room = min(limits.burst, self._room + (now - self._room_at) * limits.rate)
        self._room_at = now
        refusing = self._state is AdmissionState.REFUSING and not returning
        full = refusing or self._memory >= limits.memory
        if not full and self._room >= 1.0:
            self._room -= 1.0
            self._refused = max(0.0, self._refused - 1.0)
            return 0.0
        self._refused += 1.0
        spread = max(limits.calm if full else 1.0, self._refused / limits.rate)
        return min(limits.wait, 1.0 + jitter * spread)
