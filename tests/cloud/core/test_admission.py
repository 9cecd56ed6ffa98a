"""Admission: shed, then refuse, never at a single stall, never back and forth, and newcomers scattered."""

from __future__ import annotations

import random

import pytest

from cloud.core.admission import (
    TRANSITIONS,
    Admission,
    AdmissionLimits,
    AdmissionState,
    Effect,
    Moved,
    Shed,
)
from wire.errors import InvalidTransition

NORMAL, SHEDDING, REFUSING = AdmissionState
TICK = 0.25


class World:
    """Samples every quarter of a second of virtual time."""

    def __init__(self, limits: AdmissionLimits | None = None) -> None:
        self.machine = Admission(limits)
        self.now = 1000.0
        self.effects: list[Effect] = []

    def run(self, seconds: float, lag: float = 0.0, frames: float = 0.0, memory: float = 0.1) -> None:
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            self.effects += self.machine.sampled(lag, frames, memory, self.now)

    def moves(self) -> list[AdmissionState]:
        return [effect.after for effect in self.effects if isinstance(effect, Moved)]

    def ask(self, jitter: float = 0.5) -> float:
        return self.machine.ask(jitter, self.now)


@pytest.mark.failure("PRO-02")
def test_overload_sheds_first_and_refuses_only_when_shedding_everything_is_not_enough() -> None:
    world = World()
    world.run(3, lag=0.01)
    assert world.machine.state is NORMAL
    world.run(2, lag=0.5)
    assert world.machine.state is SHEDDING
    assert 0 < world.machine.shed < 1
    assert world.ask() == 0.0, "newcomers still come in"
    world.run(4, lag=0.5)
    assert world.machine.shed == 1.0
    assert world.machine.state is REFUSING
    assert world.ask() > 0
    assert world.moves() == [SHEDDING, REFUSING]


def test_who_returns_from_a_lost_node_is_paced_but_not_refused_unless_memory_runs_out() -> None:
    world = World(AdmissionLimits(rate=10.0, burst=5.0))
    world.run(9, lag=0.5)
    assert world.machine.state is REFUSING
    assert world.ask() > 0
    answers = [world.machine.ask(0.5, world.now, returning=True) for _ in range(8)]
    assert answers[:5] == [0.0] * 5
    assert all(answers[5:])
    world.run(1, lag=0.5, memory=0.95)
    assert world.machine.ask(0.5, world.now, returning=True) > 0


def test_shedding_that_helps_goes_no_further() -> None:
    world = World()
    world.run(2, lag=0.4)
    assert world.machine.state is SHEDDING
    world.run(60, lag=0.085)  # between relief and limit
    assert world.machine.state is SHEDDING
    assert world.moves() == [SHEDDING]


@pytest.mark.failure("PRO-02")
def test_one_stall_however_long_does_nothing() -> None:
    world = World()
    world.run(3, lag=0.005)
    world.now += 80.0  # the loop stood still
    world.effects += world.machine.sampled(80.0, 0.0, 0.1, world.now)
    world.run(5, lag=0.005)
    assert world.moves() == []
    assert world.ask() == 0.0


def test_a_loop_so_late_that_samples_are_seconds_apart_is_overloaded() -> None:
    world = World()
    for _ in range(20):
        world.now += 2.0
        world.effects += world.machine.sampled(1.75, 0.0, 0.1, world.now)
    assert world.machine.state is REFUSING


def test_frames_count_like_lag() -> None:
    world = World(AdmissionLimits(frames=1000))
    world.run(10, frames=900)
    assert world.moves() == []
    world.run(3, frames=1200)
    assert world.machine.state is SHEDDING
    assert "frames/s" in next(effect.why for effect in world.effects if isinstance(effect, Moved))


def test_it_goes_back_in_steps_after_lasting_calm() -> None:
    world = World()
    world.run(10, lag=0.5)
    assert world.machine.state is REFUSING
    world.run(4, lag=0.0)
    assert world.machine.state is REFUSING, "calm has to last"
    world.run(30, lag=0.0)
    assert world.machine.state is NORMAL
    assert world.machine.shed == 0.0
    assert world.moves() == [SHEDDING, REFUSING, SHEDDING, NORMAL]
    assert world.effects[-1] in (Shed(0.0), Moved(SHEDDING, NORMAL, world.machine.why))


def test_load_that_swings_around_the_limit_does_not_make_the_state_swing() -> None:
    world = World()
    for _ in range(60):
        world.run(1, lag=0.2)
        world.run(1, lag=0.02)
    assert len(world.moves()) <= 2


def test_memory_refuses_newcomers_and_sheds_nothing() -> None:
    world = World()
    world.run(1, memory=0.95)
    assert world.ask() > 0
    assert world.machine.state is NORMAL
    world.run(1, memory=0.5)
    assert world.ask() == 0.0


@pytest.mark.failure("PRO-04")
def test_a_crowd_is_let_in_at_the_rate_that_is_served_and_told_to_scatter() -> None:
    """A thousand lose their node at once; each does what it is told and no more."""
    world = World()
    world.run(1)
    rng = random.Random(1)
    waiting = [(world.now, n) for n in range(1000)]
    asked = 0
    done: list[float] = []
    while waiting:
        waiting.sort()
        at, who = waiting.pop(0)
        world.run(max(0.0, at - world.now) // TICK * TICK)
        world.now = max(world.now, at)
        asked += 1
        wait = world.ask(rng.random())
        if wait:
            assert wait <= world.machine.limits.wait
            waiting.append((world.now + max(1, round(wait)), who))  # a Retry-After is whole seconds
        else:
            done.append(world.now)
    assert len(done) == 1000
    assert done[-1] - done[0] < 10.0
    assert asked < 4000, "nobody hammers"
    for start in range(int(done[0]), int(done[-1]) + 1):
        arrived = sum(start <= at < start + 1 for at in done)
        assert arrived <= world.machine.limits.burst + world.machine.limits.rate


def test_a_household_is_never_paced() -> None:
    world = World()
    assert [world.ask() for _ in range(50)] == [0.0] * 50


def test_no_walk_breaks_the_table_or_the_bounds() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        world = World()
        for _ in range(200):
            world.now += rng.choice((0.0, 0.25, 0.25, 2.0))
            lag, frames = rng.choice((0.0, 0.08, 0.3, 5.0)), rng.choice((0.0, 90_000.0, 200_000.0))
            before = world.machine.state
            for effect in world.machine.sampled(lag, frames, rng.random(), world.now):
                match effect:
                    case Moved(old, new, _):
                        assert old is before
                        assert new in TRANSITIONS[old]
                        before = new
                    case Shed(share):
                        assert 0.0 <= share <= 1.0
            assert world.machine.state is before
            assert 0.0 <= world.ask(rng.random()) <= world.machine.limits.wait
            assert world.machine.handle_deadline(world.now) == []
            assert world.machine.deadline is None


def test_a_pair_that_is_not_in_the_table_is_refused() -> None:
    world = World()
    with pytest.raises(InvalidTransition):
        world.machine._move(REFUSING, world.now)
    assert world.machine.state is NORMAL
