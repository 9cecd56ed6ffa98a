"""How long each hop of an exchange takes, as far as somebody measured it: the ways from and to the edge, and the app.

Rules: pure. What happens on one machine is measured there. The way between edge and cloud is the difference of two clocks:
the edge estimates their offset (wire/clock_offset.py) and tells it in its pings; without that (phones) a way is unknown,
never guessed. Nothing here runs for each event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cloud.core.clock import WallClock
from wire.messages.glasses_to_cloud import Ping

#: What an app shows later than this after an event is no answer to it. Seconds.
ANSWER_MAX: Final = 2.0
#: A date further in the past or the future was not written for this moment, or by another clock. Seconds.
WAY_MAX: Final = 10.0
WAY_MIN: Final = -1.0


class Hops:
    """The hops of one session."""

    __slots__ = ("_clock", "_edge_offset", "_edge_told")

    def __init__(self, clock: WallClock) -> None:
        self._clock = clock
        self._edge_offset: float | None = (
            None  # our clock minus the wall clock of the edge on this connection, seconds
        )
        self._edge_told: Mapping[str, float | None] | None = None

    @property
    def edge_clock(self) -> Mapping[str, float | None] | None:
        """What the edge said last: `offset_ms`, `error_ms`, `rtt_ms`, `uplink_ms`, `audio_ms`. For the console."""
        return self._edge_told

    def forget_edge(self) -> None:
        """Another connection, perhaps of another device."""
        self._edge_offset = self._edge_told = None

    def pinged(self, ping: Ping, now: float) -> Mapping[str, float | None] | None:
        """The edge's measurements in this ping, with its way here; None: the client makes none."""
        if ping.offset_ms is None or ping.clock_ms is None:
            return None
        self._edge_offset = ping.offset_ms / 1000
        way = self.way_here(ping.clock_ms, now)
        self._edge_told = {
            "offset_ms": ping.offset_ms,
            "error_ms": ping.error_ms,
            "rtt_ms": ping.rtt_ms,
            "uplink_ms": None if way is None else round(way * 1000, 3),
            "audio_ms": ping.audio_ms,
        }
        return self._edge_told

    def sent_at(self, stamp: object) -> float | None:
        """A date of the edge (milliseconds since 1970 by its clock) as Unix seconds by ours; None if that is unknown."""
        if self._edge_offset is None or type(stamp) not in (int, float):
            return None
        assert isinstance(stamp, (int, float))
        return stamp / 1000 + self._edge_offset

    def way_here(self, stamp: object, now: float) -> float | None:
        """Seconds that something dated by the edge took to here; None if the clocks' offset is unknown."""
        sent = self.sent_at(stamp)
        if sent is None:
            return None
        way = now + self._clock.epoch_offset - sent
        # The offset is known to half a round trip: a quick way may look negative.
        return max(0.0, way) if WAY_MIN <= way <= WAY_MAX else None
