"""The offset between two clocks is known to within half a round trip, however skewed, drifting or jittery the way is."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.clock_offset import (
    FIRST_INTERVAL,
    FIRST_SAMPLES,
    INTERVAL,
    SAMPLES_MAX,
    UNANSWERED_MAX,
    ClockOffset,
)

DELAYS = st.floats(0.0, 0.5)


def exchange(clock: ClockOffset, at: float, there: float, back: float, offset: float) -> float:
    """One ping at `at` on our clock; returns when its pong is here."""
    clock.asked(at)
    clock.answered(at, at + there + offset, at + there + back)
    return at + there + back


@given(st.floats(-1e6, 1e6), st.lists(st.tuples(DELAYS, DELAYS), min_size=1, max_size=30))
def test_the_truth_is_never_further_away_than_the_error_says(
    offset: float, ways: list[tuple[float, float]]
) -> None:
    clock, now = ClockOffset(0.0), 0.0
    for there, back in ways:
        now = exchange(clock, now + 2.4, there, back, offset)
        estimate = clock.estimate(now)
        assert estimate is not None
        assert abs(estimate.offset - offset) <= estimate.error + 1e-6


@pytest.mark.parametrize("skew", [-3600.0, -0.25, 0.0, 0.25, 86_400.0])
def test_the_quickest_round_trip_counts_not_the_mean(skew: float) -> None:
    random, clock, now = Random(7), ClockOffset(0.0), 0.0
    for number in range(SAMPLES_MAX):
        there, back = (0.004, 0.004) if number == 3 else (0.004 + random.random(), 0.004)
        now = exchange(clock, now + 2.4, there, back, skew)
    estimate = clock.estimate(now)
    assert estimate is not None
    assert estimate.offset == pytest.approx(skew, abs=0.001)
    assert estimate.rtt == pytest.approx(0.008)


def test_a_drifting_clock_is_followed() -> None:
    # 40 ppm for an hour: 144 ms in all, never more than the bound at any moment.
    clock, now = ClockOffset(0.0), 0.0
    while now < 3600:
        offset = 5.0 + now * 40e-6
        now = exchange(clock, now + INTERVAL, 0.003, 0.003, offset)
        estimate = clock.estimate(now)
        assert estimate is not None
        assert abs(estimate.offset - (5.0 + now * 40e-6)) <= estimate.error + 1e-6
        assert estimate.error < 0.01


def test_a_clock_that_is_set_is_believed_at_once() -> None:
    clock, now = ClockOffset(0.0), 0.0
    for _ in range(SAMPLES_MAX):
        now = exchange(clock, now + 2.4, 0.001, 0.001, 100.0)
    now = exchange(
        clock, now + 2.4, 0.05, 0.05, -3.0
    )  # a slow round trip, and yet the old ones cannot be true
    estimate = clock.estimate(now)
    assert estimate is not None
    assert estimate.offset == pytest.approx(-3.0)


def test_the_first_samples_come_quickly_and_later_ones_only_when_nothing_else_asks() -> None:
    clock = ClockOffset(1.0)
    now = 1.0
    for number in range(1, FIRST_SAMPLES + 3):
        assert clock.deadline == now
        back = exchange(clock, now, 0.001, 0.001, 0.0)
        now = back + (FIRST_INTERVAL if number < FIRST_SAMPLES else INTERVAL)
    clock.asked(now - 1)  # liveness asked: that is a sample as well
    assert clock.deadline == now - 1 + INTERVAL


def test_silence_is_not_asked_into_more_often() -> None:
    clock = ClockOffset(0.0)
    clock.asked(0.0)
    assert clock.deadline == INTERVAL


def test_a_peer_without_a_clock_is_left_alone() -> None:
    clock = ClockOffset(0.0)
    asked = 0
    while (at := clock.deadline) is not None:
        clock.asked(at)
        asked += 1
    assert asked == UNANSWERED_MAX + 1
    assert clock.estimate(100.0) is None
    clock.answered(100.0, 5.0, 100.01)  # it has one after all
    assert clock.deadline is not None


def _impossible() -> Iterator[tuple[float, float]]:
    yield 10.0, 9.0  # answered before it was asked
    yield 10.0, 1000.0  # a minute old: of a process that slept


@pytest.mark.parametrize(("sent", "now"), list(_impossible()))
def test_impossible_times_are_ignored(sent: float, now: float) -> None:
    clock = ClockOffset(0.0)
    clock.answered(sent, 50.0, now)
    assert clock.estimate(now) is None
