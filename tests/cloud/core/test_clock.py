"""Dates as the wire writes them."""

from __future__ import annotations

from cloud.core.clock import WallClock
from wire.messages import iso


def test_the_clock_writes_what_the_wire_writes() -> None:
    clock = WallClock(1_767_225_600.123)
    for now in (0.0, 0.5, 0.877, 1.0, 59.9, 86_400.0):
        assert clock.iso(now)[:19] == iso(now + clock.epoch_offset)[:19]
    assert clock.iso(0.0) == "2026-01-01T00:00:00.123Z"
