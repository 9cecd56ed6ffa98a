"""What an app may have missed: only the unproven, in order, flagged, bounded."""

from __future__ import annotations

import orjson
import pytest

from cloud.core.replay import ENTRIES_MAX, AppLog


@pytest.mark.failure("CON-16")
def test_only_unproven_frames_are_sent_again_in_order_and_flagged() -> None:
    log = AppLog()
    ping = log.append(b'{"n":1}', True, 0.0)
    assert ping is not None
    assert log.append(b'{"n":2}', True, 0.1) is None  # one proof at a time
    assert log.proved(ping) is not None  # 2 is still unproven: ask again
    log.append(b'{"n":3}', False, 0.2)
    frames, _ = log.replay(1.0)
    assert [orjson.loads(f) for f in frames] == [{"n": 2, "replayed": True}, {"n": 3}]
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
    assert log.proved(b"") is None
    assert log.proved((99).to_bytes(8)) is None
    assert len(log.replay(0.1)[0]) == 1
