"""Wall time for the wire, derived from the monotonic `now` of the machines.

Rules: durations and order never use this; it only writes dates into messages and the clock onto the dashboard.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from wire.messages import iso

#: How a date ends: made once, because this stands on the event path.
_ENDS: Final = tuple(f"{milliseconds:03d}Z".encode() for milliseconds in range(1000))


class WallClock:
    """Turns `now` into dates. `epoch_offset` is seconds since 1970 minus `now`; `utc_offset` the wearer's zone."""

    __slots__ = (
        "_bytes", "_bytes_at", "_second", "_second_ms", "_text", "_text_at", "epoch_offset", "utc_offset",
    )  # fmt: skip

    def __init__(self, epoch_offset: float, utc_offset: float = 0.0) -> None:
        self.epoch_offset = epoch_offset
        self.utc_offset = utc_offset
        self._second = b""  # the date up to the point before the milliseconds
        self._second_ms = -1000  # when that second began, milliseconds since 1970
        self._text_at = self._bytes_at = float("nan")
        self._text = ""
        self._bytes = b""

    def iso(self, now: float) -> str:
        """`2026-01-01T00:00:00.000Z`."""
        if now != self._text_at:
            self._text_at, self._text = now, self.iso_bytes(now).decode()
        return self._text

    def iso_bytes(self, now: float) -> bytes:
        """The same as bytes, made once per moment, the whole second once per second: this stands on the event path."""
        if now != self._bytes_at:  # the clock of the event loop counts milliseconds
            rest = int((now + self.epoch_offset) * 1000) - self._second_ms
            if not 0 <= rest < 1000:
                second, rest = divmod(rest + self._second_ms, 1000)
                self._second_ms, self._second = second * 1000, iso(second)[:20].encode()
            self._bytes_at, self._bytes = now, self._second + _ENDS[rest]
        return self._bytes

    def epoch_ms(self, now: float) -> int:
        """Milliseconds since 1970."""
        return int((now + self.epoch_offset) * 1000)

    def local(self, now: float) -> datetime:
        """The wearer's local time, as a naive datetime."""
        at = datetime.fromtimestamp(now + self.epoch_offset, UTC) + timedelta(seconds=self.utc_offset)
        return at.replace(tzinfo=None)

    def seconds_to_next_minute(self, now: float) -> float:
        """Seconds until the local clock shows another minute."""
        return 60.0 - (now + self.epoch_offset + self.utc_offset) % 60.0
