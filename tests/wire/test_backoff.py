"""Delays grow, stay below their ceiling and spread (wire/backoff.py)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wire.backoff import Backoff, BackoffPolicy

EXACT = 0.5  # the middle of the jitter


def test_the_sequence_doubles_to_the_ceiling() -> None:
    backoff = Backoff(BackoffPolicy())
    assert [backoff.next(EXACT) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]


def test_a_reset_starts_over() -> None:
    backoff = Backoff(BackoffPolicy())
    for _ in range(5):
        backoff.next(EXACT)
    backoff.reset()
    assert backoff.next(EXACT) == 1


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_every_delay_is_finite_and_within_its_spread(attempt: int, random: float) -> None:
    policy = BackoffPolicy(first=1, factor=2, ceiling=30, jitter=0.2)
    assert 0.8 <= policy.delay(attempt, random) <= 36


def test_jitter_uses_the_randomness_it_is_given() -> None:
    policy = BackoffPolicy(jitter=0.2)
    assert policy.delay(0, 0.0) == 0.8
    assert abs(policy.delay(0, 0.999999) - 1.2) < 1e-5
    assert BackoffPolicy(jitter=0).delay(3, 0.9) == 8
