"""Ways between edge and cloud are told where the clocks' offset is known, and only there."""

from __future__ import annotations

import pytest

from cloud.core.clock import WallClock
from cloud.core.hops import Hops
from wire.messages.glasses_to_cloud import Ping

EPOCH = 1_700_000_000.0  # the cloud's Unix time at now = 0


def pinged(skew: float, way: float, now: float = 5.0, error: float = 2.0) -> Hops:
    """After a ping of an edge whose wall clock is `skew` seconds behind ours, and that took `way` seconds."""
    hops = Hops(WallClock(EPOCH))
    left = (EPOCH + now - way - skew) * 1000
    told = hops.pinged(
        Ping(
            sent_ms=1.0, clock_ms=left, offset_ms=skew * 1000, error_ms=error, rtt_ms=2 * error, audio_ms=3.5
        ),
        now,
    )
    assert told is not None
    assert told["uplink_ms"] == pytest.approx(way * 1000, abs=0.01)
    return hops


@pytest.mark.parametrize("skew", [-3600.0, -0.2, 0.0, 0.2, 86_400.0])
def test_the_way_of_an_event_is_known_however_the_clocks_differ(skew: float) -> None:
    hops = pinged(skew, 0.03)
    stamp = round((EPOCH + 7.0 - 0.05 - skew) * 1000)
    assert hops.way_here(stamp, 7.0) == pytest.approx(0.05, abs=0.001)
    assert hops.sent_at(stamp) == pytest.approx(EPOCH + 6.95, abs=0.001)
    assert hops.edge_clock is not None
    assert hops.edge_clock["audio_ms"] == 3.5


def test_a_client_that_measures_nothing_has_no_ways() -> None:
    hops = Hops(WallClock(EPOCH))
    assert hops.pinged(Ping(sent_ms=1.0), 5.0) is None
    assert hops.way_here(EPOCH * 1000, 5.0) is None
    assert hops.edge_clock is None


def test_another_connection_starts_without_a_clock() -> None:
    hops = pinged(10.0, 0.01)
    hops.forget_edge()
    assert hops.way_here((EPOCH + 5 - 10) * 1000, 5.0) is None


@pytest.mark.parametrize("stamp", [None, "2026-01-01T00:00:00Z", True, [], 0, 1e18])
def test_what_is_no_date_of_this_moment_has_no_way(stamp: object) -> None:
    assert pinged(0.0, 0.01).way_here(stamp, 5.0) is None


def test_a_quick_way_is_not_negative() -> None:
    # The offset is known to half a round trip only.
    assert pinged(0.0, 0.0).way_here((EPOCH + 5.004) * 1000, 5.0) == 0.0
