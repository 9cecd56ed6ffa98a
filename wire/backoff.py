"""Exponential delays with a ceiling and jitter.

Rules: pure. The caller passes the randomness (a number in [0, 1)), so that a simulation can repeat a run.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """first · factor^n, never above `ceiling`, spread by ± `jitter` (a share of the delay). Seconds."""

    first: float = 1.0
    factor: float = 2.0
    ceiling: float = 30.0
    jitter: float = 0.2

    def delay(self, attempt: int, random: float) -> float:
        """Seconds to wait before retry number `attempt` (0 = the first retry). `random` is in [0, 1)."""
        # 2**64 s is beyond any ceiling: bounding the exponent keeps the power finite for ever.
        base = min(self.ceiling, self.first * self.factor ** min(attempt, 64))
        return base * (1.0 + self.jitter * (2.0 * random - 1.0))


class Backoff:
    """Counts the failures of one thing and says how long to wait; `reset` once it has been healthy."""

    __slots__ = ("attempt", "policy")

    def __init__(self, policy: BackoffPolicy) -> None:
        self.policy = policy
        self.attempt = 0

    def next(self, random: float) -> float:
        """The delay before the next attempt, in seconds."""
        delay = self.policy.delay(self.attempt, random)
        self.attempt += 1
        return delay

    def reset(self) -> None:
        self.attempt = 0
