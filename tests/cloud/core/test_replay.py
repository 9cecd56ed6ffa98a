"""What an app may have missed: only the unproven, in order, flagged, bounded."""

from __future__ import annotations

import orjson
import pytest

from cloud.core.replay import ENTRIES_MAX, PROOF_INTERVAL, PROOF_PATIENCE, AppLog


@pytest.mark.failure("CON-16")
def test_only_unproven_frames_are_sent_again_in_order_and_flagged() -> None:
    log = AppLog()
    ping = log.append(b'{"n":1}', True, 0.0)
    assert ping is not None
    assert log.append(b'{"n":2}', True, 0.1) is None  # one proof at a time
    log.proved(ping)
    log.append(b'{"n":3}', False, 0.2)
    frames, _ = log.replay(1.0)
    assert [orjson.loads(f) for f, _ in frames] == [{"n": 2, "replayed": True}, {"n": 3}]
    log.clear()
    assert log.replay(1.0) == ([], None)


def test_the_log_is_bounded_in_number_and_age() -> None:
    log = AppLog()
    for number in range(ENTRIES_MAX + 20):
        log.append(b'{"n":%d}' % number, False, float(number) / 1000)
    assert log.dropped == 20
    assert len(log.replay(1.0)[0]) == ENTRIES_MAX
    assert log.replay(100.0)[0] == []


def test_a_pong_that_proves_nothing_changes_nothing() -> None:
    log = AppLog()
    log.append(b"{}", True, 0.0)
    log.proved(b"")
    log.proved((99).to_bytes(8))
    assert len(log.replay(0.1)[0]) == 1


def test_a_stream_of_events_asks_for_proof_in_intervals_and_once_more_after_its_end() -> None:
    log = AppLog()
    now, pings = 0.0, 0
    while now < 0.99:
        ping = log.append(b"{}", True, now) or log.ask(now)
        if ping is not None:
            pings += 1
            log.proved(ping)
        now += 0.001
    assert 0.99 / PROOF_INTERVAL * 0.95 <= pings <= 0.99 / PROOF_INTERVAL + 1
    due = log.deadline  # the last ones are not left without a question
    assert due is not None
    assert due <= now + PROOF_INTERVAL + PROOF_PATIENCE
    last = log.ask(due)
    assert last is not None
    assert log.deadline is None
    log.proved(last)
    assert log.deadline is None
    assert log.replay(due) == ([], None)


@pytest.mark.parametrize("gap", [0.001, 0.004, 0.011, 0.024])
def test_a_stream_asks_with_its_own_frames_and_needs_no_timer(gap: float) -> None:
    log = AppLog()
    now, pings = 0.0, 0
    while now < 2.0:
        due = log.deadline
        assert due is None or due > now
        ping = log.append(b"{}", True, now)
        if ping is not None:
            pings += 1
            log.proved(ping)
        now += gap
    assert pings >= 2.0 / (PROOF_INTERVAL + gap) - 1


def test_a_log_that_fills_up_asks_early() -> None:
    log = AppLog()
    first = log.append(b"{}", True, 0.0)
    assert first is not None
    log.proved(first)
    asked = [n for n in range(ENTRIES_MAX) if log.append(b"{}", True, 0.001) is not None]
    assert len(asked) == 1
    assert asked[0] < ENTRIES_MAX * 3 // 4
    assert log.dropped == 0
