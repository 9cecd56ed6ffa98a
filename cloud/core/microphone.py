"""Whether the glasses' microphone should be on, and when to say so.

Rules: the wish is a pure function of what apps need; on is said at once, off only after a linger, because an app that
reconnects is briefly without subscriptions. What was said is remembered per connection: a new connection is told anew.
Sources: wire spec 6.6; failure catalogue MIC-01, MIC-02, MIC-03, SUB-01.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from wire.errors import InvalidTransition


class MicrophoneState(Enum):
    OFF = "off"
    ON = "on"
    LINGERING = "lingering"  # nobody needs it; off follows unless somebody does again


TRANSITIONS: Final[dict[MicrophoneState, frozenset[MicrophoneState]]] = {
    MicrophoneState.OFF: frozenset({MicrophoneState.ON}),
    MicrophoneState.ON: frozenset({MicrophoneState.LINGERING}),
    MicrophoneState.LINGERING: frozenset({MicrophoneState.ON, MicrophoneState.OFF}),
}


@dataclass(frozen=True, slots=True)
class MicrophoneTiming:
    """Seconds."""

    linger: float = 2.5  # off within 3 s of the last need (MIC-01), with room for the way to the glasses
    settle: float = 5.0  # never off for want of subscriptions this soon after a reconnect (SUB-01)
    merge: float = 1.0  # changes of `bypass_vad` while on are merged (wire spec 6.6)
    repeat: float = 10.0  # said again while on, for clients that missed it (wire spec 6.6)
    complain: float = 5.0  # unwanted audio is answered with "off" at most this often


@dataclass(frozen=True, slots=True)
class SetMicrophone:
    """Tell the glasses. `bypass_vad`: send audio although nobody speaks."""

    on: bool
    bypass_vad: bool


class Microphone:
    """The microphone of one session."""

    def __init__(self, timing: MicrophoneTiming | None = None) -> None:
        self._timing = timing or MicrophoneTiming()
        self.state = MicrophoneState.OFF
        self._bypass = False
        self._attached = False
        self._said: tuple[bool, bool] | None = None  # on this connection
        self._said_at = 0.0
        self._off_at: float | None = None
        self._not_off_before = 0.0
        self._complained_at: float | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether audio that arrives now is expected."""
        return self.state is not MicrophoneState.OFF

    @property
    def deadline(self) -> float | None:
        times: list[float] = []
        if self._off_at is not None:
            times.append(self._off_at)
        if self._attached and self.state is not MicrophoneState.OFF and self._said is not None:
            wait = self._timing.repeat if self._said == self._wish() else self._timing.merge
            times.append(self._said_at + wait)
        return min(times, default=None)

    def need(self, wanted: bool, bypass_vad: bool, now: float) -> list[SetMicrophone]:
        """What the apps need has been worked out again."""
        if wanted:
            self._bypass = bypass_vad
            self._off_at = None
            if self.state is not MicrophoneState.ON:
                self._move(MicrophoneState.ON)
            return self._tell(now)
        if self.state is MicrophoneState.ON:
            self._move(MicrophoneState.LINGERING)
            self._off_at = max(now + self._timing.linger, self._not_off_before)
        return []

    def reconnected(self, now: float) -> None:
        """A phone or an app has come back: its subscriptions may lag behind."""
        self._not_off_before = now + self._timing.settle
        if self._off_at is not None:
            self._off_at = max(self._off_at, self._not_off_before)

    def released(self) -> None:
        """The wearer stopped an app: nothing lags behind, off may follow after the ordinary linger (APP-06)."""
        self._not_off_before = 0.0

    def attached(self, now: float) -> list[SetMicrophone]:
        """A glasses connection is up, or the glasses behind it have (re)connected: it has to be told."""
        self._attached = True
        self._said = None
        return self._tell(now)

    def detached(self) -> None:
        """The glasses connection is gone; what was said to it is void."""
        self._attached = False
        self._said = None

    def unwanted_audio(self, now: float) -> list[SetMicrophone]:
        """Audio arrived although the microphone should be off."""
        if not self._attached or self.is_wanted:
            return []
        if self._complained_at is not None and now - self._complained_at < self._timing.complain:
            return []
        self._complained_at = now
        self._said = None
        return self._tell(now)

    def handle_deadline(self, now: float) -> list[SetMicrophone]:
        if self._off_at is not None and now >= self._off_at:
            self._off_at = None
            self._move(MicrophoneState.OFF)
            return self._tell(now)
        due = self.deadline
        if due is None or now < due:
            return []
        self._said = None
        return self._tell(now)

    def _wish(self) -> tuple[bool, bool]:
        on = self.state is not MicrophoneState.OFF
        return on, self._bypass and on

    def _tell(self, now: float) -> list[SetMicrophone]:
        wish = self._wish()
        if not self._attached or wish == self._said:
            return []
        switches = self._said is None or self._said[0] != wish[0]
        if not switches and now - self._said_at < self._timing.merge:
            return []  # only the detail changed; the deadline brings it
        self._said, self._said_at = wish, now
        return [SetMicrophone(*wish)]

    def _move(self, to: MicrophoneState) -> None:
        if to not in TRANSITIONS[self.state]:
            raise InvalidTransition("Microphone", self.state, to)
        self.state = to
