"""ArmLink: one link, from unseen to answering, for ever."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.arm import (
    ARM_TRANSITIONS,
    ArmEffect,
    ArmLink,
    ArmState,
    ArmTiming,
    Connect,
    Disconnect,
    Moved,
    Write,
)
from edge.profiles.base import Arm
from edge.profiles.g1 import G1
from wire.errors import GlassesFault


def arm() -> ArmLink:
    profile = G1()
    return ArmLink(Arm.LEFT, profile.driver(), profile.pace, ArmTiming(), lambda: 0.5)


def writes(effects: list[ArmEffect]) -> list[Write]:
    return [e for e in effects if isinstance(e, Write)]


def connect(a: ArmLink, now: float) -> int:
    a.start(now)
    a.sighted("AA", -50, now)
    (connecting,) = [e for e in a.connect(now) if isinstance(e, Connect)]
    return connecting.conn_id


def answer_init(a: ArmLink, effects: list[ArmEffect], now: float) -> list[ArmEffect]:
    (mtu,) = writes(effects)
    assert mtu.data == b"\x4d\xfb"
    a.written(mtu.conn_id, mtu.write_id, None, now)
    return a.replied((0x4D,), True, now)


def ready(a: ArmLink, now: float = 0.0) -> int:
    """Bring it up and answer its first questions."""
    conn = connect(a, now)
    effects = answer_init(a, a.link_up(conn, 248, now), now)
    for _ in range(3):  # battery, firmware, serial
        for write in writes(effects):
            effects = a.written(conn, write.write_id, None, now)
            key = (write.data[0],)
            effects = a.replied(key, True, now)
    assert a.state is ArmState.READY
    assert not a.writer.busy
    return conn


@pytest.mark.failure("BLE-14")
def test_connected_is_not_ready_until_the_firmware_answers() -> None:
    a = arm()
    conn = connect(a, 0.0)
    effects = a.link_up(conn, 248, 0.0)
    assert a.state is ArmState.DISCOVERING
    answer_init(a, effects, 0.1)
    assert a.state.value == "ready"


@pytest.mark.failure("BLE-14")
def test_the_second_variant_of_the_greeting_is_tried_within_five_seconds() -> None:
    a = arm()
    conn = connect(a, 0.0)
    (first,) = writes(a.link_up(conn, 248, 0.0))
    assert first.data == b"\x4d\xfb"
    a.written(conn, first.write_id, None, 0.0)
    now = 0.0
    while True:
        assert a.deadline is not None
        now = a.deadline
        (again,) = writes(a.handle_deadline(now))
        if again.data == b"\x4d\x01":
            break
        a.written(conn, again.write_id, None, now)
    assert now <= 5.0
    a.written(conn, again.write_id, None, now)
    a.replied((0x4D,), True, now)
    assert a.state is ArmState.READY


def test_a_firmware_that_answers_nothing_is_left_and_tried_again() -> None:
    a = arm()
    conn = connect(a, 0.0)
    effects = a.link_up(conn, 248, 0.0)
    now = 0.0
    while a.state is ArmState.DISCOVERING:
        for write in writes(effects):
            a.written(conn, write.write_id, None, now)
        assert a.deadline is not None
        now = a.deadline
        effects = a.handle_deadline(now)
    assert a.state.value == "backoff"
    assert a.fault is GlassesFault.PROTOCOL
    assert Disconnect(Arm.LEFT, conn) in effects


@pytest.mark.failure("BLE-01")
def test_two_unanswered_heartbeats_end_the_link_within_twenty_seconds() -> None:
    a = arm()
    conn = ready(a)
    now = 0.0
    while a.state is ArmState.READY:
        assert a.deadline is not None
        now = a.deadline
        for write in writes(a.handle_deadline(now)):
            a.written(conn, write.write_id, None, now)  # writes succeed; nobody answers
    assert now <= 20.0
    assert a.fault is GlassesFault.TIMEOUT


@pytest.mark.failure("BLE-04")
def test_a_heartbeat_leaves_every_eight_seconds() -> None:
    a = arm()
    conn = ready(a)
    beats, now = [], 0.0
    while now < 120.0:
        assert a.deadline is not None
        now = a.deadline
        for write in writes(a.handle_deadline(now)):
            assert write.data[0] == 0x25
            beats.append(now)
            a.written(conn, write.write_id, None, now)
            a.replied((0x25,), True, now + 0.03)
    gaps = [b - a for a, b in itertools.pairwise(beats)]
    assert all(7.0 <= gap <= 9.0 for gap in gaps)
    assert a.state is ArmState.READY


@pytest.mark.failure("BLE-11")
def test_the_disconnect_of_an_older_link_does_not_touch_the_new_one() -> None:
    a = arm()
    old = ready(a)
    a.link_lost(old, GlassesFault.LINK_LOST, 1.0)
    a.handle_deadline(5.0)
    new = connect_again(a, 5.0)
    for late in (5.1, 6.0, 9.9):
        assert a.link_lost(old, GlassesFault.LINK_LOST, late) == []
    assert a.state is ArmState.READY
    assert a.conn_id == new
    assert a.stale_inputs >= 3


def connect_again(a: ArmLink, now: float) -> int:
    a.sighted("AA", -50, now)
    (connecting,) = [e for e in a.connect(now) if isinstance(e, Connect)]
    answer_init(a, a.link_up(connecting.conn_id, 248, now), now)
    return connecting.conn_id


@pytest.mark.failure("BLE-11")
def test_thirteen_disconnect_callbacks_are_one_loss() -> None:
    a = arm()
    conn = ready(a)
    moves = [
        e for _ in range(13) for e in a.link_lost(conn, GlassesFault.LINK_LOST, 1.0) if isinstance(e, Moved)
    ]
    assert [m.state for m in moves] == [ArmState.BACKOFF]


def test_a_link_that_comes_up_after_it_was_given_up_is_closed() -> None:
    a = arm()
    conn = connect(a, 0.0)
    a.stop(1.0)
    assert a.link_up(conn, 248, 1.1) == [Disconnect(Arm.LEFT, conn)]


@pytest.mark.failure("BLE-13")
def test_out_of_range_is_waited_for_and_found_again() -> None:
    a = arm()
    conn = ready(a)
    a.link_lost(conn, GlassesFault.LINK_LOST, 100.0)
    assert a.deadline is not None
    a.handle_deadline(a.deadline)
    assert a.state is ArmState.SCANNING
    assert a.deadline is None, "a day out of range costs no attempts"
    connect_again(a, 86_400.0)
    assert a.state.value == "ready"


@pytest.mark.failure("BLE-13")
def test_a_lost_bond_asks_for_a_person_after_three_attempts() -> None:
    a = arm()
    a.start(0.0)
    now = 0.0
    for _ in range(3):
        a.sighted("AA", None, now)
        a.connect(now)
        a.link_failed(a.conn_id, GlassesFault.NOT_PAIRED, now)
        if a.deadline is not None:
            now = a.deadline
            a.handle_deadline(now)
    assert a.state is ArmState.GIVEN_UP
    assert a.deadline is None
    a.start(now)
    assert a.state.value == "scanning"


@pytest.mark.failure("BLE-08")
@pytest.mark.parametrize(
    "fault", [f for f in GlassesFault if f not in (GlassesFault.NOT_PAIRED, GlassesFault.INCOMPATIBLE)]
)
def test_every_other_fault_is_retried_for_ever_with_bounded_delay(fault: GlassesFault) -> None:
    a = arm()
    a.start(0.0)
    now = 0.0
    for _ in range(60):
        a.sighted("AA", None, now)
        a.connect(now)
        a.link_failed(a.conn_id, fault, now)
        assert a.deadline is not None
        assert a.deadline - now <= 36.0
        now = a.deadline
        a.handle_deadline(now)
        assert a.state is ArmState.SCANNING


def test_a_connect_that_the_stack_never_answers_is_taken_back() -> None:
    a = arm()
    conn = connect(a, 0.0)
    assert Disconnect(Arm.LEFT, conn) in a.handle_deadline(60.0)
    assert a.state is ArmState.BACKOFF


@settings(max_examples=200)
@given(st.data())
def test_random_walk_stays_in_the_table_and_tries_one_link_at_a_time(data: st.DataObject) -> None:
    a = arm()
    now, open_links, last_write = 0.0, set(), (0, 0)

    def take(effects: list[ArmEffect]) -> None:
        nonlocal last_write
        for effect in effects:
            match effect:
                case Connect(_, conn_id):
                    open_links.add(conn_id)
                    assert len(open_links) == 1, "the older link is closed before the next is tried"
                case Disconnect(_, conn_id):
                    open_links.discard(conn_id)
                case Write(_, conn_id, write_id):
                    last_write = (conn_id, write_id)

    for _ in range(data.draw(st.integers(1, 60))):
        now += data.draw(st.sampled_from([0.0, 0.05, 1.0, 9.0]))
        conn = a.conn_id - data.draw(st.sampled_from([0, 0, 0, 1]))
        match data.draw(
            st.sampled_from(
                ["start", "stop", "see", "connect", "up", "fail", "lost", "written", "reply", "time", "wake"]
            )
        ):
            case "start":
                take(a.start(now))
            case "stop":
                take(a.stop(now))
            case "see":
                a.sighted("AA", -40, now)
            case "connect":
                take(a.connect(now))
            case "up":
                take(a.link_up(conn, 248, now))
            case "fail":
                if conn == a.conn_id and a.state is ArmState.CONNECTING:
                    open_links.discard(conn)
                take(a.link_failed(conn, data.draw(st.sampled_from(list(GlassesFault))), now))
            case "lost":
                if conn == a.conn_id and a.state in (ArmState.READY, ArmState.DISCOVERING):
                    open_links.discard(conn)
                take(a.link_lost(conn, GlassesFault.LINK_LOST, now))
            case "written":
                take(
                    a.written(
                        *last_write, data.draw(st.sampled_from([None, None, GlassesFault.LINK_LOST])), now
                    )
                )
            case "reply":
                take(a.replied((data.draw(st.sampled_from([0x4D, 0x25, 0x2C])),), True, now))
            case "wake":
                take(a.woke(now))
            case _:
                if a.deadline is not None:
                    now = max(now, a.deadline)
                    take(a.handle_deadline(now))
        assert a.state in ARM_TRANSITIONS
