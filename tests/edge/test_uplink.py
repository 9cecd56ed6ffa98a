"""Uplink: retries for ever, at a decent rate, and believes only what it hears."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.uplink import (
    UPLINK_TRANSITIONS,
    Dial,
    Greet,
    Hangup,
    Offline,
    Online,
    Probe,
    Uplink,
    UplinkEffect,
    UplinkState,
    UplinkTiming,
)


def uplink(jitter: float = 0.5) -> Uplink:
    return Uplink(UplinkTiming(), lambda: jitter)


def online(u: Uplink, now: float = 0.0) -> int:
    """Bring it up; returns the connection's id. The first question, about the cloud's clock, has left."""
    u.start(now)
    u.opened(u.conn_id, now)
    u.acknowledged(u.conn_id, now)
    assert u.state is UplinkState.ONLINE
    assert u.handle_deadline(now) == [Probe(u.conn_id)]
    return u.conn_id


def kinds(effects: list[UplinkEffect]) -> list[type]:
    return [type(effect) for effect in effects]


def test_dial_greet_online() -> None:
    u = uplink()
    assert u.start(0.0) == [Dial(1)]
    assert u.opened(1, 0.1) == [Greet(1)]
    assert u.acknowledged(1, 0.2) == [Online(1)]
    assert u.acknowledged(1, 0.3) == [], "a second acknowledgement changes nothing"
    assert u.start(0.4) == []


@pytest.mark.failure("CON-09")
def test_failures_are_retried_for_ever_with_a_growing_bounded_delay() -> None:
    u = uplink()
    u.start(0.0)
    now, delays = 0.0, []
    for _ in range(200):
        (offline,) = u.failed(u.conn_id, "no route", None, None, now)
        assert isinstance(offline, Offline)
        assert u.deadline is not None
        delays.append(u.deadline - now)
        now = u.deadline
        assert kinds(u.handle_deadline(now)) == [Dial]
    assert delays[:6] == pytest.approx([1, 2, 4, 8, 16, 30])
    assert max(delays) <= 30.0


@pytest.mark.failure("CON-09")
@pytest.mark.parametrize("status", [400, 404, 429, 500, 502, 503, 504, None])
def test_no_http_status_but_a_refused_credential_pauses_longer_than_the_backoff(status: int | None) -> None:
    u = uplink()
    u.start(0.0)
    u.failed(1, "x", status, None, 0.0)
    assert u.deadline == pytest.approx(1.0)


@pytest.mark.failure("CON-09")
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_credential_pauses_five_minutes_and_is_retried(status: int) -> None:
    u = uplink()
    u.start(0.0)
    (offline,) = u.failed(1, "refused", status, None, 0.0)
    assert offline == Offline("refused", True, False)
    assert u.deadline == pytest.approx(300.0)
    assert u.handle_deadline(300.0) == [Dial(2)]
    u.failed(2, "refused", status, None, 301.0)
    assert u.retry_now(302.0) == [Dial(3)], "a new token is tried at once"


def test_retry_after_is_obeyed_within_bounds() -> None:
    u = uplink()
    u.start(0.0)
    u.failed(1, "busy", 503, 20.0, 0.0)
    assert u.deadline == pytest.approx(20.0)
    u.handle_deadline(20.0)
    u.failed(2, "busy", 503, 1e9, 20.0)
    assert u.deadline == pytest.approx(320.0)


@pytest.mark.failure("CON-13")
def test_a_server_that_accepts_and_closes_is_not_hammered() -> None:
    u = uplink(jitter=0.0)
    u.start(0.0)
    now, dials = 0.0, [0.0]
    while now < 300.0:
        u.opened(u.conn_id, now)
        u.acknowledged(u.conn_id, now)
        now += 0.05
        u.closed(u.conn_id, 1011, "", now)
        assert u.deadline is not None
        now = u.deadline
        u.handle_deadline(now)
        dials.append(now)
    assert sum(1 for at in dials if at <= 60) <= 10
    for minute in (120, 180, 240):
        assert sum(1 for at in dials if minute - 60 < at <= minute) <= 3


@pytest.mark.failure("CON-13")
def test_the_backoff_is_forgotten_after_a_healthy_half_minute() -> None:
    u = uplink()
    conn = online(u)
    for _ in range(4):
        u.closed(conn, 1006, "", 1.0)
        u.retry_now(1.0)
        u.opened(u.conn_id, 1.0)
        u.acknowledged(u.conn_id, 1.0)
        conn = u.conn_id
    for t in range(2, 32):
        u.heard(conn, float(t))
    u.closed(conn, 1006, "", 31.5)
    assert u.deadline == pytest.approx(31.55), "once at once"
    u.handle_deadline(31.55)
    u.failed(u.conn_id, "refused", None, None, 31.6)
    assert u.deadline == pytest.approx(32.6), "then from the first wait on"


def test_what_has_just_connected_is_not_dialled_again_at_once() -> None:
    u = uplink()
    conn = online(u)
    u.closed(conn, 1006, "", 1.0)
    assert u.deadline == pytest.approx(2.0)


@pytest.mark.failure("CON-10")
@pytest.mark.parametrize(("code", "reason"), [(4409, ""), (1008, "replaced by a newer connection")])
def test_a_replaced_connection_does_not_fight(code: int, reason: str) -> None:
    u = uplink()
    conn = online(u)
    (offline,) = u.closed(conn, code, reason, 5.0)
    assert isinstance(offline, Offline)
    assert offline.lasting
    assert u.state is UplinkState.STOPPED
    assert u.deadline is None
    assert kinds(u.start(100.0)) == [Dial], "the wearer may take over again"


@pytest.mark.failure("CON-09")
def test_a_late_attempt_of_our_own_is_no_other_device() -> None:
    """The dial that was given up reaches the cloud after the newer one and replaces it there: come back, once."""
    u = uplink()
    u.start(0.0)
    u.handle_deadline(15.0)  # the dial is given up
    u.handle_deadline(u.deadline or 0.0)
    u.opened(u.conn_id, 17.0)
    u.acknowledged(u.conn_id, 17.0)
    u.closed(u.conn_id, 4409, "replaced", 18.0)
    assert u.state is UplinkState.BACKOFF
    u.handle_deadline(u.deadline or 0.0)
    u.opened(u.conn_id, 22.0)
    u.acknowledged(u.conn_id, 22.0)
    u.closed(u.conn_id, 4409, "replaced", 23.0)
    assert u.state is UplinkState.STOPPED


@pytest.mark.failure("PRO-05")
@pytest.mark.parametrize("code", [1001, 1012])
def test_a_cloud_that_restarts_is_looked_for_often_for_a_minute(code: int) -> None:
    u = uplink()
    conn = online(u)
    u.closed(conn, code, "", 100.0)
    now, waits = 100.0, []
    for _ in range(20):
        assert u.deadline is not None
        waits.append((now, u.deadline - now))
        now = u.deadline
        u.handle_deadline(now)
        u.failed(u.conn_id, "refused", None, None, now)
    assert all(wait <= 5.0 for at, wait in waits if at < 160.0)
    assert waits[0][1] == pytest.approx(1.0)
    assert waits[-1][1] == pytest.approx(30.0)
    assert sum(1 for at, _ in waits if at < 160.0) <= 16


@pytest.mark.failure("LIV-07")
@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 1008, 1011, 1012, 1013, 4000])
def test_every_other_close_is_retried(code: int) -> None:
    u = uplink()
    conn = online(u)
    u.closed(conn, code, "", 5.0)
    assert u.state is UplinkState.BACKOFF
    assert u.deadline == pytest.approx(6.0)


def test_1008_before_the_acknowledgement_is_a_refused_credential() -> None:
    u = uplink()
    u.start(0.0)
    u.opened(1, 0.0)
    u.closed(1, 1008, "bad token", 0.1)
    assert u.deadline == pytest.approx(300.1)


@pytest.mark.failure("LIV-02")
def test_a_silent_cloud_is_asked_and_given_up_within_ten_seconds() -> None:
    u = uplink()
    online(u)
    probes, now = 0, 0.0
    while u.state is UplinkState.ONLINE:
        assert u.deadline is not None
        now = u.deadline
        effects = u.handle_deadline(now)
        probes += sum(isinstance(e, Probe) for e in effects)
    assert now <= 10.0
    assert probes == 3
    assert kinds(effects) == [Hangup, Offline]


@pytest.mark.failure("LIV-02")
def test_any_inbound_frame_is_life() -> None:
    u = uplink()
    conn = online(u)
    for t in range(1, 100):
        assert u.heard(conn, t * 2.9)
        u.spoke(t * 2.9)
        assert kinds(u.handle_deadline(t * 2.9)) in ([], [Probe])  # now and then for the cloud's clock
    assert u.state is UplinkState.ONLINE


@pytest.mark.failure("LIV-01")
def test_a_quiet_edge_speaks_at_least_every_ten_seconds_whatever_comes_in() -> None:
    u = uplink()
    conn = online(u)
    now, probes = 0.0, []
    while now < 60.0:
        now += 0.5
        u.heard(conn, now)
        if any(isinstance(e, Probe) for e in u.handle_deadline(now)):
            probes.append(now)
    assert len(probes) in (5, 6)


@pytest.mark.failure("EDG-04")
def test_after_a_sleep_one_question_decides() -> None:
    u = uplink()
    conn = online(u)
    assert u.woke(120.0) == [Probe(conn)]
    assert u.deadline == pytest.approx(123.0)
    u.heard(conn, 120.2)
    assert u.handle_deadline(122.5) == []
    u.woke(300.0)
    assert kinds(u.handle_deadline(303.0)) == [Hangup, Offline]


@pytest.mark.failure("EDG-04")
def test_a_sleep_ends_the_waiting() -> None:
    u = uplink()
    u.start(0.0)
    u.failed(1, "x", None, None, 0.0)
    assert u.woke(50.0) == [Dial(2)]


def test_a_dial_or_greeting_without_an_answer_ends() -> None:
    u = uplink()
    u.start(0.0)
    assert kinds(u.handle_deadline(15.0)) == [Hangup, Offline]
    u.retry_now(15.0)
    u.opened(u.conn_id, 15.0)
    assert kinds(u.handle_deadline(20.0)) == [Hangup, Offline]


@pytest.mark.failure("CON-01")
def test_reports_about_older_connections_do_nothing() -> None:
    u = uplink()
    first = online(u)
    u.closed(first, 1006, "", 1.0)
    u.retry_now(1.0)
    assert u.closed(first, 1006, "", 1.1) == []
    assert u.failed(first, "late", None, None, 1.1) == []
    assert u.acknowledged(first, 1.1) == []
    assert not u.heard(first, 1.1)
    assert u.opened(first, 1.1) == [Hangup(first, 1000, "superseded")]
    assert u.state is UplinkState.DIALING
    assert u.stale_inputs == 5


def test_stop_hangs_up_and_nothing_happens_after() -> None:
    u = uplink()
    conn = online(u)
    assert u.stop(1001, "bye", 1.0) == [Hangup(conn, 1001, "bye")]
    assert u.closed(conn, 1001, "", 1.1) == []
    assert u.deadline is None
    assert u.stop(1001, "bye", 2.0) == []


@settings(max_examples=300)
@given(st.data())
def test_random_walk_never_leaves_the_table_and_always_has_a_way_on(data: st.DataObject) -> None:
    u = uplink()
    now = 0.0
    for _ in range(data.draw(st.integers(1, 60))):
        now += data.draw(st.sampled_from([0.0, 0.1, 2.0, 40.0]))
        conn = u.conn_id - data.draw(st.sampled_from([0, 0, 0, 1]))
        match data.draw(
            st.sampled_from(
                ["start", "stop", "open", "fail", "close", "ack", "hear", "wake", "time", "retry"]
            )
        ):
            case "start":
                u.start(now)
            case "stop":
                u.stop(1000, "", now)
            case "open":
                u.opened(conn, now)
            case "fail":
                u.failed(conn, "x", data.draw(st.sampled_from([None, 401, 503])), None, now)
            case "close":
                u.closed(conn, data.draw(st.sampled_from([1000, 1006, 1008, 4409])), "", now)
            case "ack":
                u.acknowledged(conn, now)
            case "hear":
                u.heard(conn, now)
            case "wake":
                u.woke(now)
            case "retry":
                u.retry_now(now)
            case _:
                if u.deadline is not None:
                    now = max(now, u.deadline)
                    u.handle_deadline(now)
        assert u.state in UPLINK_TRANSITIONS
        if u.state not in (UplinkState.OFFLINE, UplinkState.STOPPED):
            assert u.deadline is not None, "it never waits for nothing"


@pytest.mark.parametrize("skew", [-7200.0, 0.0, 31.5])
def test_the_cloud_s_clock_is_known_after_the_first_answer(skew: float) -> None:
    u = uplink()
    conn = online(u)
    assert u.clock(0.0) is None
    u.heard(conn, 0.02)
    u.ponged(conn, 0.0, 0.01 + skew, 0.02)
    estimate = u.clock(0.02)
    assert estimate is not None
    assert estimate.offset == pytest.approx(skew)
    assert estimate.error <= 0.011


def test_the_clock_of_another_connection_is_not_believed() -> None:
    u = uplink()
    conn = online(u)
    u.ponged(conn, 0.0, 100.0, 0.02)
    u.closed(conn, 1006, "", 5.0)
    u.handle_deadline(u.deadline or 0.0)
    again = u.conn_id
    u.opened(again, 10.0)
    u.acknowledged(again, 10.0)
    u.ponged(conn, 9.99, 100.0, 10.0)  # of the old one, late
    assert u.clock(10.0) is None


def test_a_cloud_without_a_clock_is_soon_left_alone() -> None:
    u = uplink()
    conn = online(u)
    asked = []
    for tenth in range(1, 3000):
        now = tenth / 10
        u.heard(conn, now)
        u.spoke(now)
        if u.handle_deadline(now):
            asked.append(now)
    assert len(asked) == 8
    assert asked[-1] <= 81


def test_a_node_that_is_about_to_go_is_left_at_once_for_another_but_not_over_and_over() -> None:
    uplink = Uplink(UplinkTiming(), lambda: 0.5)
    uplink.start(0.0)
    uplink.opened(1, 0.1)
    uplink.acknowledged(1, 0.2)
    effects = uplink.moved(1, 10.0)
    assert [type(e).__name__ for e in effects] == ["Hangup", "Offline", "Dial"]
    assert uplink.moved(1, 10.0) == []  # the old connection says it again
    uplink.opened(2, 10.1)
    uplink.acknowledged(2, 10.2)
    assert [type(e).__name__ for e in uplink.moved(2, 10.3)] == ["Hangup", "Offline"]
