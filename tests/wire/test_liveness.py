"""Liveness: a dead peer is noticed in time, a living one is never killed, a sleep of ours is nobody's fault."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.errors import InvalidTransition
from wire.liveness import (
    CLOUD_APP,
    CLOUD_GLASSES,
    EDGE,
    LIVENESS_TRANSITIONS,
    Ask,
    Dead,
    Liveness,
    LivenessEffect,
    LivenessPolicy,
    LivenessState,
    Speak,
)

POLICIES = {"edge": EDGE, "glasses": CLOUD_GLASSES, "app": CLOUD_APP}
each_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


def run(
    liveness: Liveness,
    until: float,
    peer: Callable[[float, LivenessEffect], float | None] = lambda at, e: None,
) -> list[tuple[float, LivenessEffect]]:
    """Drive the machine by its own deadlines; `peer` says when the answer to an effect arrives, or None."""
    seen: list[tuple[float, LivenessEffect]] = []
    answers: list[float] = []
    while True:
        due = liveness.deadline
        arrival = min(answers, default=None)
        now = min((t for t in (due, arrival) if t is not None), default=None)
        if now is None or now > until:
            return seen
        if arrival is not None and arrival <= now:
            answers.remove(arrival)
            liveness.received(arrival)
            continue
        for effect in liveness.handle_deadline(now):
            seen.append((now, effect))
            answer = peer(now, effect)
            if answer is not None:
                answers.append(answer)


def verdict(seen: list[tuple[float, LivenessEffect]]) -> float | None:
    return next((at for at, effect in seen if isinstance(effect, Dead)), None)


@pytest.mark.failure("LIV-02")
@pytest.mark.parametrize(
    ("policy", "least", "most"),
    [(EDGE, 5, 10), (CLOUD_GLASSES, 45, 60), (CLOUD_APP, 45, 60)],
)
def test_silent_peer_is_dead_in_time(policy: LivenessPolicy, least: float, most: float) -> None:
    at = verdict(run(Liveness(1, policy, 0.0), 100.0))
    assert at is not None
    assert least <= at <= most


@pytest.mark.failure("LIV-03")
@each_policy
def test_verdict_needs_three_unanswered_questions(policy: LivenessPolicy) -> None:
    seen = run(Liveness(1, policy, 0.0), 100.0)
    assert sum(isinstance(e, Ask) for _, e in seen) >= 3
    asks = [at for at, e in seen if isinstance(e, Ask)]
    assert all(b - a >= policy.ask - 1e-9 for a, b in itertools.pairwise(asks)), "no burst of questions"


@pytest.mark.failure("LIV-02")
def test_glasses_that_ping_by_themselves_are_told_unreachable_within_30_s() -> None:
    for interval in (1.5, 2.4, 5.0):
        liveness = Liveness(1, CLOUD_GLASSES, 0.0)
        at = 0.0
        for _ in range(6):
            at += interval
            liveness.received(at)
            liveness.peer_asked(at)
        dead = verdict(run(liveness, 200.0))
        assert dead is not None
        assert 15 <= dead - at <= 30


@pytest.mark.failure("LIV-03")
@each_policy
def test_peer_that_answers_nothing_but_sends_data_is_kept(policy: LivenessPolicy) -> None:
    liveness = Liveness(1, policy, 0.0)
    for n in range(300 * 50):
        now = n * 0.02
        liveness.received(now)
        assert not any(isinstance(e, (Dead, Ask)) for e in liveness.handle_deadline(now))


@pytest.mark.failure("LIV-03")
@each_policy
def test_peer_that_only_answers_is_kept(policy: LivenessPolicy) -> None:
    liveness = Liveness(1, policy, 0.0)
    seen = run(liveness, 300.0, lambda at, e: at + 0.3 if isinstance(e, Ask) else None)
    assert verdict(seen) is None


@pytest.mark.failure("LIV-03")
@each_policy
def test_peer_that_answers_one_question_in_three_is_kept(policy: LivenessPolicy) -> None:
    count = 0

    def peer(at: float, effect: LivenessEffect) -> float | None:
        nonlocal count
        count += isinstance(effect, Ask)
        return at + 0.05 if isinstance(effect, Ask) and count % 3 == 0 else None

    assert verdict(run(Liveness(1, policy, 0.0), 600.0, peer)) is None


@pytest.mark.failure("LIV-01")
@each_policy
def test_each_side_originates_a_data_frame_every_15_s(policy: LivenessPolicy) -> None:
    liveness = Liveness(1, policy, 0.0)
    spoken = [0.0]
    for at, effect in run(liveness, 300.0, lambda at, e: at + 0.1):
        if isinstance(effect, Speak):
            spoken.append(at)
    assert max(b - a for a, b in itertools.pairwise(spoken)) <= 15
    assert len(spoken) >= 20


def test_traffic_of_our_own_spares_the_extra_frame() -> None:
    liveness = Liveness(1, CLOUD_APP, 0.0)
    for n in range(100):
        liveness.sent(float(n))
        liveness.received(float(n))
        assert liveness.handle_deadline(float(n)) == []


@pytest.mark.failure("EDG-04")
@pytest.mark.parametrize("sleep", [12.0, 30.0, 120.0, 7200.0])
def test_sleep_asks_once_and_waits_a_moment(sleep: float) -> None:
    liveness = Liveness(1, EDGE, 0.0)
    now = 2.0 + sleep
    assert liveness.handle_deadline(now) == [Ask(1)]
    assert liveness.handle_deadline(now) == []
    seen = run(liveness, now + 100)
    dead = verdict(seen)
    assert dead is not None
    assert dead - now <= 5
    assert sum(isinstance(e, Ask) for _, e in seen) <= 1


@pytest.mark.failure("EDG-04")
@pytest.mark.failure("PRO-02")
@each_policy
def test_peer_that_answers_after_our_sleep_is_kept(policy: LivenessPolicy) -> None:
    liveness = Liveness(1, policy, 0.0)
    liveness.handle_deadline(100.0)
    liveness.received(100.2)  # what had waited in the socket
    assert liveness.state is LivenessState.ALIVE
    assert verdict(run(liveness, 300.0, lambda at, e: at + 0.1)) is None


@each_policy
@pytest.mark.parametrize("late", [0.5, 3.0, 6.0, 9.5])
def test_late_timer_gives_no_verdict_without_the_questions(policy: LivenessPolicy, late: float) -> None:
    """A loop that stalls for less than a sleep must not skip the questions that it was too late to ask."""
    liveness = Liveness(1, policy, 0.0)
    asked = 0
    while liveness.state is not LivenessState.DEAD:
        due = liveness.deadline
        assert due is not None
        for effect in liveness.handle_deadline(due + late):
            asked += isinstance(effect, Ask)
            assert not isinstance(effect, Dead) or asked >= 3


def test_answer_on_another_socket_refreshes_nothing() -> None:
    a, b = Liveness(1, EDGE, 0.0), Liveness(2, EDGE, 0.0)
    for n in range(1, 9):
        b.received(float(n))
    assert verdict(run(a, 20.0)) == pytest.approx(9.6)
    assert b.state is LivenessState.ALIVE


def test_dead_is_final() -> None:
    liveness = Liveness(1, EDGE, 0.0)
    assert verdict(run(liveness, 20.0)) is not None
    assert liveness.deadline is None
    assert liveness.handle_deadline(99.0) == []
    assert liveness.woke(99.0) == []
    liveness.received(99.0)
    assert liveness.state is LivenessState.DEAD


def test_policy_without_time_for_its_questions_is_refused() -> None:
    with pytest.raises(ValueError, match="questions"):
        LivenessPolicy(ask=5.0, dead=10.0)


def test_unlisted_transition_raises_and_changes_nothing() -> None:
    for state, row in LIVENESS_TRANSITIONS.items():
        for to in set(LivenessState) - set(row):
            liveness = Liveness(1, EDGE, 0.0)
            liveness._state = state
            with pytest.raises(InvalidTransition):
                liveness._move(to)
            assert liveness.state is state


@given(st.integers(0, 2**32), st.sampled_from(sorted(POLICIES)))
@settings(max_examples=80, deadline=None)
def test_random_peer_is_dead_only_after_real_silence(seed: int, name: str) -> None:
    """Whatever the traffic, the timers' lateness and the sleeps: Dead means that nothing came for long, and a silent
    peer is dead within its time."""
    rng = random.Random(seed)
    policy = POLICIES[name]
    liveness = Liveness(1, policy, 0.0)
    now = heard = 0.0
    slept_at = -1e9
    for _ in range(400):
        due = liveness.deadline
        assert due is not None
        if rng.random() < 0.3:
            now = min(due, now + rng.random() * policy.ask)
            liveness.received(now)
            heard = now
            if rng.random() < 0.5:
                liveness.peer_asked(now)
            continue
        late = rng.choice([0.0, 0.0, 0.0, 0.01, 1.0, 30.0])
        now = max(now, due + late)
        if late > policy.sleep:
            slept_at = now
        for effect in liveness.handle_deadline(now):
            if isinstance(effect, Dead):
                assert now - heard >= min(policy.dead, policy.dead_of_asker or policy.dead) or (
                    now - slept_at >= min(policy.wake, policy.ask)
                )
                return
        # each timer was at most 1 s late since the last sleep: three questions, a verdict, some speaking
        assert now - max(heard, slept_at) <= policy.dead + 10.0
