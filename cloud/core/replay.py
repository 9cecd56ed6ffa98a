"""What an app has been sent and may not have received: at least once across a reconnect, without the app's help.

Rules: an SDK app cannot acknowledge, but every client answers a protocol ping; a pong proves that all that was sent
before its ping has left the peer's socket. Only frames without proof are sent again, dated and flagged, and only to
the same app instance. Source: architecture section 5; failure catalogue CON-16.
"""

from __future__ import annotations

from collections import deque
from typing import Final

#: Frames kept per app (CON-16: 100 items) and their bytes; beyond that the oldest is dropped and counted.
ENTRIES_MAX: Final = 100
BYTES_MAX: Final = 256 * 1024
#: Older frames are never sent again: the grace of an app (5 s) and the time a dead link may go unnoticed.
AGE_MAX: Final = 10.0
_OFFSET_BYTES: Final = 8


class AppLog:
    """Reliable frames of one app session after the last proven one."""

    __slots__ = ("_bytes", "_entries", "_offset", "_pinged", "dropped")

    def __init__(self) -> None:
        self._entries: deque[tuple[int, float, bytes, bool]] = deque()
        self._bytes = 0
        self._offset = 0
        self._pinged: int | None = None
        self.dropped = 0

    def append(self, payload: bytes, sent: bool, now: float) -> bytes | None:
        """Remember a frame; `sent` = put on a live socket. Returns the payload of a ping to send now, or None."""
        offset = self._offset = self._offset + 1
        self._entries.append((offset, now, payload, sent))
        self._bytes += len(payload)
        if self._bytes > BYTES_MAX or len(self._entries) > ENTRIES_MAX:
            self._bound()
        if not sent or self._pinged is not None:
            return None
        return self._ping()

    def _bound(self) -> None:
        while len(self._entries) > ENTRIES_MAX or self._bytes > BYTES_MAX:
            self._bytes -= len(self._entries.popleft()[2])
            self.dropped += 1

    def proved(self, payload: bytes) -> bytes | None:
        """A pong arrived: all up to its offset is with the peer. Returns the next ping, or None."""
        if len(payload) != _OFFSET_BYTES:
            return None  # the pong of a liveness ping
        offset = int.from_bytes(payload)
        if self._pinged is None or offset > self._offset:
            return None
        while self._entries and self._entries[0][0] <= offset:
            self._bytes -= len(self._entries.popleft()[2])
        self._pinged = None
        return self._ping() if self._entries else None

    def replay(self, now: float) -> tuple[list[bytes], bytes | None]:
        """The same instance is back: frames without proof, in order, and the ping that follows them."""
        self._pinged = None
        fresh = [entry for entry in self._entries if now - entry[1] <= AGE_MAX]
        self.dropped += len(self._entries) - len(fresh)
        self._entries = deque((offset, at, payload, True) for offset, at, payload, _ in fresh)
        self._bytes = sum(len(entry[2]) for entry in fresh)
        frames = [payload[:-1] + b',"replayed":true}' if sent else payload for _, _, payload, sent in fresh]
        return frames, self._ping() if fresh else None

    def clear(self) -> None:
        """Another instance, or the end: nothing old is delivered as new."""
        self.dropped += len(self._entries)
        self._entries.clear()
        self._bytes = 0
        self._pinged = None

    def _ping(self) -> bytes | None:
        if self._pinged is not None:
            return None  # one proof at a time; the pong asks for the next
        self._pinged = self._offset
        return self._offset.to_bytes(_OFFSET_BYTES)
