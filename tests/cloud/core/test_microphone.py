"""On at once, off soon, never for nobody; told anew on each connection."""

from __future__ import annotations

import random as randomness

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.core import microphone as mic
from cloud.core.microphone import Microphone, MicrophoneState, SetMicrophone
from wire.errors import InvalidTransition


def test_on_is_said_at_once_and_off_after_the_linger() -> None:
    m = Microphone()
    assert m.attached(0.0) == [SetMicrophone(False, False)]
    assert m.need(True, False, 1.0) == [SetMicrophone(True, False)]
    assert m.need(False, False, 20.0) == []
    assert m.handle_deadline(20.0) == [SetMicrophone(True, False)]  # the repetition that was due
    assert m.deadline == pytest.approx(22.5)
    assert m.handle_deadline(22.5) == [SetMicrophone(False, False)]
    assert m.state is MicrophoneState.OFF


@pytest.mark.failure("MIC-01")
def test_off_follows_within_three_seconds_of_the_last_need() -> None:
    m = Microphone()
    m.attached(0.0)
    m.need(True, True, 1.0)
    m.need(False, False, 30.0)
    told: list[tuple[float, SetMicrophone]] = []
    now = 30.0
    while m.state is not MicrophoneState.OFF:
        assert m.deadline is not None
        now = max(now, m.deadline)
        told += [(now, t) for t in m.handle_deadline(now)]
    assert told[-1][1].on is False
    assert told[-1][0] <= 33.0


@pytest.mark.failure("MIC-02")
@pytest.mark.failure("MIC-03")
def test_a_new_connection_is_told_anew() -> None:
    m = Microphone()
    m.attached(0.0)
    m.need(True, False, 1.0)
    m.detached()
    assert m.need(True, True, 2.0) == []
    assert m.attached(3.0) == [SetMicrophone(True, True)]


def test_while_on_it_is_repeated_and_unwanted_audio_is_answered_rarely() -> None:
    m = Microphone()
    m.attached(0.0)
    assert m.unwanted_audio(1.0) == [SetMicrophone(False, False)]
    assert m.unwanted_audio(2.0) == []
    m.need(True, False, 10.0)
    assert m.deadline == pytest.approx(20.0)
    assert m.handle_deadline(20.0) == [SetMicrophone(True, False)]


@given(st.integers(0, 2**32))
def test_the_microphone_is_never_on_for_nobody(seed: int) -> None:
    """After any history: within 3 s of the last need (5 s of a reconnect) whoever is connected was told off."""
    rng = randomness.Random(seed)
    m = Microphone()
    now = 0.0
    said: bool | None = None

    def told(wishes: list[SetMicrophone]) -> None:
        nonlocal said
        for wish in wishes:
            said = wish.on

    def run(until: float) -> None:
        while m.deadline is not None and m.deadline <= until:
            told(m.handle_deadline(m.deadline))

    wanted = False
    for _ in range(60):
        now += rng.choice([0.0, 0.1, 1.0, 3.0])
        run(now)
        match rng.randrange(5):
            case 0 | 1:
                wanted = rng.random() < 0.5
                told(m.need(wanted, rng.random() < 0.5, now))
            case 2:
                told(m.attached(now))
            case 3:
                m.detached()
                said = None
            case _:
                m.reconnected(now)
        if wanted:
            assert m.state is MicrophoneState.ON
            assert said in (True, None)
    told(m.need(False, False, now))
    run(now + 5.0)
    assert m.state is MicrophoneState.OFF
    assert said in (False, None)


def test_every_unlisted_microphone_transition_is_refused() -> None:
    for state in MicrophoneState:
        for to in MicrophoneState:
            m = Microphone()
            m.state = state
            if to in mic.TRANSITIONS[state]:
                m._move(to)
                assert m.state is to
            else:
                with pytest.raises(InvalidTransition):
                    m._move(to)
                assert m.state is state
