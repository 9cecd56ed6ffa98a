"""The contract that every simulated firmware shares, on the smallest firmware there can be."""

from __future__ import annotations

import itertools

import pytest

from firmware_sim.firmware.base import (
    LC3_SILENCE_TAIL,
    TIMERS_MAX,
    TRANSITIONS,
    Advertise,
    Arm,
    ArmState,
    CharacteristicSpec,
    Disconnect,
    Effect,
    Faults,
    Firmware,
    InvalidTransition,
    NoTaker,
    Notify,
    PeripheralSpec,
    Refuse,
    ServiceSpec,
    Silence,
    UserInput,
    set_faults,
)

IN, OUT = "in-uuid", "out-uuid"


class Echo(Firmware):
    """Answers every write with itself."""

    model = "echo"

    def _on_write(self, arm: Arm, characteristic: str, data: bytes, now: float) -> list[Effect]:
        return self._answer(arm, OUT, data, now)

    def user(self, what: UserInput, now: float) -> list[Effect]:
        raise NoTaker("an echo has no wearer")


def new_echo() -> Echo:
    service = ServiceSpec("s", (CharacteristicSpec(IN, write=True), CharacteristicSpec(OUT, notify=True)))
    specs = tuple(PeripheralSpec(arm, arm, "C0:00:00:00:00:01", (service,), 100) for arm in ("a", "b"))
    return Echo(specs, chance=lambda: 0.5)


def connected_echo() -> Echo:
    echo = new_echo()
    echo.start(0.0)
    echo.connected("a", 1, 50, 0.0)
    echo.subscribed("a", 1, OUT, True, 0.0)
    return echo


def test_power_on_advertises_every_arm_once() -> None:
    echo = new_echo()
    assert echo.start(0.0) == [Advertise("a", True), Advertise("b", True)]
    assert echo.start(0.0) == []


def test_a_lost_link_is_followed_by_advertising() -> None:
    echo = connected_echo()
    assert echo.disconnected("a", 1, 1.0) == [Advertise("a", True)]
    assert echo.disconnected("a", 1, 1.0) == []
    assert echo.arms["a"].counters.stale_inputs == 1


def test_inputs_of_another_link_change_nothing_and_are_counted() -> None:
    echo = connected_echo()
    assert echo.connected("a", 2, 50, 1.0) == []
    assert echo.written("a", 9, IN, b"x", 1.0) == []
    assert echo.subscribed("a", 9, OUT, False, 1.0) == []
    assert echo.mtu_changed("a", 9, 23, 1.0) == []
    assert (echo.arms["a"].link, echo.arms["a"].mtu, echo.arms["a"].subscribed) == (1, 50, {OUT})
    assert echo.arms["a"].counters.stale_inputs == 4


def test_a_timer_called_early_does_nothing() -> None:
    echo = connected_echo()
    echo.written("a", 1, IN, b"x", 1.0)
    assert echo.deadline == pytest.approx(1.03)
    assert echo.handle_deadline(1.02) == []
    assert echo.handle_deadline(1.04) == [Notify("a", 1, OUT, b"x")]
    assert echo.deadline is None


def test_an_empty_write_is_ignored_and_a_long_one_refused() -> None:
    echo = connected_echo()
    assert echo.written("a", 1, IN, b"", 1.0) == []
    assert echo.written("a", 1, IN, bytes(48), 1.0) == [Refuse(0x0D)]
    assert echo.deadline is None


def test_pending_answers_are_bounded_and_the_excess_counted() -> None:
    echo = connected_echo()
    for _ in range(TIMERS_MAX + 5):
        echo.written("a", 1, IN, b"x", 1.0)
    assert len(echo.handle_deadline(2.0)) == TIMERS_MAX
    assert echo.arms["a"].counters.dropped_queue_full == 5


def test_every_unlisted_transition_is_refused_and_changes_nothing() -> None:
    echo = new_echo()
    arm = echo.arms["a"]
    events = {event for _, event in TRANSITIONS}
    for state, event in itertools.product(ArmState, events):
        arm.state = state
        if (state, event) in TRANSITIONS:
            echo._move(arm, event)
            assert arm.state is TRANSITIONS[state, event]
        else:
            with pytest.raises(InvalidTransition):
                echo._move(arm, event)
            assert arm.state is state


def test_the_log_keeps_both_directions_in_order() -> None:
    echo = connected_echo()
    echo.written("a", 1, IN, b"\x01", 1.0)
    echo.handle_deadline(1.1)
    assert [(e.t, e.arm, e.direction, e.hex) for e in echo.log] == [
        (1.0, "a", "in", "01"),
        (1.1, "a", "out", "01"),
    ]


def test_refused_writes_and_the_cut_after_n_bytes() -> None:
    echo = connected_echo()
    set_faults(echo.arms["a"].faults, {"refuse_writes": 0x80})
    assert echo.written("a", 1, IN, b"x", 1.0) == [Refuse(0x80)]
    set_faults(echo.arms["a"].faults, {"refuse_writes": None, "disconnect_after": 3})
    assert echo.written("a", 1, IN, b"xx", 1.0) == []
    assert echo.written("a", 1, IN, b"xx", 1.0) == [Disconnect("a", 1, 0x13)]


def test_lost_and_doubled_notifications_follow_their_chance() -> None:
    echo = connected_echo()
    echo._chance = iter([0.5, 0.4, 0.5, 0.6, 0.5, 0.6, 0.1]).__next__
    faults = echo.arms["a"].faults
    faults.lose = 0.5
    for now in (1.0, 2.0):  # 0.4 is lost, 0.6 is not
        echo.written("a", 1, IN, b"x", now)
        echo.handle_deadline(now + 0.1)
    assert echo.arms["a"].counters.dropped_by_fault == 1
    faults.duplicate = 0.5
    echo.written("a", 1, IN, b"x", 3.0)
    assert len(echo.handle_deadline(3.1)) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"lose": -0.1},
        {"lose": "much"},
        {"lose": True},
        {"deaf": 1},
        {"drop_acks": -1},
        {"ack_delay": [2, 1]},
        {"ack_delay": 3},
        {"ack_delay": [0, 1000]},
        {"refuse_writes": 256},
        {"ignore": "4d"},
        {"ignore": ["4D"]},
        {"pad": -1},
        {"nonsense": 1},
    ],
)
def test_a_wrong_fault_is_named_and_nothing_is_set(changes: dict[str, object]) -> None:
    faults = Faults()
    with pytest.raises(ValueError, match=next(iter(changes))):
        set_faults(faults, {"mute": True, **changes})
    assert faults == Faults()


@pytest.mark.failure("BLE-14")
def test_a_firmware_can_ignore_one_variant_and_pad_its_answers() -> None:
    echo = connected_echo()
    set_faults(echo.arms["a"].faults, {"ignore": ["4d01", "25"], "pad": 20})
    for data in (b"\x4d\x01", b"\x25", b"\x4d\xfb"):
        echo.written("a", 1, IN, data, 1.0)
    assert echo.handle_deadline(2.0) == [Notify("a", 1, OUT, b"\x4d\xfb".ljust(20, b"\0"))]
    assert echo.arms["a"].counters.ignored_writes == 2


def test_silence_has_the_length_that_was_asked_for() -> None:
    frames = Silence().lc3(20, 10)
    assert len(frames) == 10
    assert {len(frame) for frame in frames} == {20}
    assert frames[0].endswith(LC3_SILENCE_TAIL)
    assert Silence().pcm(160, 8000) == bytes(320)


def test_a_device_without_rules_of_its_own_lets_every_host_pair() -> None:
    echo = connected_echo()
    assert echo.may_pair("a", "AA")
    assert echo.pairing_requested("a", 1, "AA", 1.0) == []
    assert echo.paired("a", 1, "AA", 1.0) == []
