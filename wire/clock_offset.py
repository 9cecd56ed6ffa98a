"""How far the peer's clock is from ours, from the pings of one link: NTP's idea, without its network.

Rules: pure. A ping says when it left (our clock), its pong when it was answered (the peer's clock). The true offset lies
within half the round trip of what that pair suggests, whatever the two ways took; so the quickest recent pair is believed.
It ages: clocks drift. Pairs that cannot both be true mean that a clock was set: the older ones are forgotten. An instance
belongs to one connection, for the next one may end at another machine.
Source: RFC 5905, section 10 (clock filter: of the last eight samples the one with the least delay).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

#: RFC 5905 keeps eight; at one sample in 2.4 to 10 s that is 20 to 80 s.
SAMPLES_MAX = 8
#: What a cheap crystal gains or loses, seconds per second (RFC 5905: PHI is 15 ppm; phones and boards are worse).
DRIFT = 50e-6
#: The first samples follow each other quickly: one of four rarely meets a queue. Seconds and count.
FIRST_INTERVAL, FIRST_SAMPLES = 0.5, 4
#: Afterwards, when no other ping asks anyway: an idle link asks every 2.4 s. Seconds.
INTERVAL = 10.0
#: Questions without a usable answer before the peer is believed to have no clock for us (another vendor's cloud).
UNANSWERED_MAX = 8
#: Disjoint bounds mean a clock that was set, but timestamps are rounded. Seconds.
ROUNDING = 0.001


@dataclass(frozen=True, slots=True)
class Estimate:
    """Peer's clock minus ours, the most that this can be wrong by, and the round trip behind it. Seconds."""

    offset: float
    error: float
    rtt: float


@dataclass(frozen=True, slots=True)
class _Sample:
    offset: float
    rtt: float
    at: float

    def error(self, now: float) -> float:
        return self.rtt / 2 + (now - self.at) * DRIFT


class ClockOffset:
    """The peer's clock against ours. Ask at `deadline`, say `asked`, and give each answer to `answered`."""

    __slots__ = ("_ask_at", "_samples", "_unanswered", "counted")

    def __init__(self, now: float) -> None:
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES_MAX)
        self._ask_at: float | None = now
        self._unanswered = 0
        self.counted = 0  # samples taken

    @property
    def deadline(self) -> float | None:
        """When another sample is due; None: the peer has no clock for us."""
        return self._ask_at

    def asked(self, now: float) -> None:
        """A ping left, for whatever reason. Its answer brings the next; without one there is no hurry."""
        self._unanswered += 1
        self._ask_at = None if self._unanswered > UNANSWERED_MAX else now + INTERVAL

    def answered(self, sent: float, peer: float, now: float) -> None:
        """A ping that left at `sent` (our clock) was answered at `peer` (theirs). Impossible times are ignored."""
        if not 0 <= now - sent <= 60.0:
            return
        sample = _Sample(peer - (sent + now) / 2, now - sent, now)
        self._samples = deque(
            (
                old
                for old in self._samples
                if abs(old.offset - sample.offset) <= old.error(now) + sample.error(now) + ROUNDING
            ),
            maxlen=SAMPLES_MAX,
        )
        self._samples.append(sample)
        self._unanswered = 0
        self.counted += 1
        self._ask_at = now + (FIRST_INTERVAL if self.counted < FIRST_SAMPLES else INTERVAL)

    def estimate(self, now: float) -> Estimate | None:
        """What is believed now; None before the first answer."""
        if not self._samples:
            return None
        best = min(self._samples, key=lambda sample: sample.error(now))
        return Estimate(best.offset, best.error(now), best.rtt)
