"""What an app has been sent and may not have received: at least once across a reconnect, without the app's help.

Rules: an SDK app cannot acknowledge, but every client answers a protocol ping; a pong proves that all that was sent
before its ping has left the peer's socket. Only frames without proof are sent again, dated and flagged, and only to
the same app instance. Source: architecture section 5; failure catalogue CON-16.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cloud.core.pipe import Ident

#: Frames kept per app (CON-16: 100 items) and their bytes; beyond that the oldest is dropped and counted.
ENTRIES_MAX: Final = 100
BYTES_MAX: Final = 256 * 1024
#: Between two questions for proof, in seconds. A ping and its pong cost as much as an event, so a dense stream of events
#: asks forty times a second, while each of a person's has its own; what a crash can double is what was sent within this.
PROOF_INTERVAL: Final = 0.025
#: After that time the next frame carries the question along. A timer asks by itself only when none has come for this many
#: seconds more: a stream with gaps below the interval always has one by then, so that it needs no timer.
PROOF_PATIENCE: Final = PROOF_INTERVAL
#: Older frames are never sent again: the grace of an app (5 s) and the time a dead link may go unnoticed.
AGE_MAX: Final = 10.0
_OFFSET_BYTES: Final = 8


class AppLog:
    """Reliable frames of one app session after the last proven one."""

    __slots__ = ("_ask_at", "_bytes", "_entries", "_offset", "_pinged", "dropped")

    def __init__(self) -> None:
        self._entries: deque[tuple[int, float, bytes, bool, Ident | None]] = deque()
        self._bytes = 0
        self._offset = 0
        self._pinged = False
        self._ask_at = float("-inf")  # not before this
        self.dropped = 0

    @property
    def deadline(self) -> float | None:
        """When proof is to be asked for, if no frame asks before; None = nothing to ask, or a question is open."""
        return self._ask_at + PROOF_PATIENCE if self._entries and not self._pinged else None

    def append(self, payload: bytes, sent: bool, now: float, ident: Ident | None = None) -> bytes | None:
        """Remember a frame; `sent` = put on a live socket. Returns the payload of a ping to send now, or None.

        `ident` names the frame for a node that holds the app's socket while the session's owner changes.
        """
        self._offset += 1
        entries = self._entries
        entries.append((self._offset, now, payload, sent, ident))
        self._bytes += len(payload)
        if self._bytes > BYTES_MAX or len(entries) > ENTRIES_MAX:
            self._bound()
        if not sent or self._pinged:
            return None
        # A log that fills up asks early: nothing may fall out of it for want of a question.
        if now >= self._ask_at or len(entries) * 2 > ENTRIES_MAX or self._bytes * 2 > BYTES_MAX:
            return self._ping(now)
        return None

    def ask(self, now: float) -> bytes | None:
        """The deadline: the ping that asks for proof of all that was sent so far, or None."""
        due = self.deadline
        return self._ping(now) if due is not None and now >= due else None

    def _bound(self) -> None:
        while len(self._entries) > ENTRIES_MAX or self._bytes > BYTES_MAX:
            self._bytes -= len(self._entries.popleft()[2])
            self.dropped += 1

    def proved(self, payload: bytes) -> None:
        """A pong arrived: all up to its offset is with the peer."""
        if len(payload) != _OFFSET_BYTES:
            return  # the pong of a liveness ping
        offset = int.from_bytes(payload)
        if not self._pinged or offset > self._offset:
            return
        while self._entries and self._entries[0][0] <= offset:
            self._bytes -= len(self._entries.popleft()[2])
        self._pinged = False

    def replay(self, now: float) -> tuple[list[tuple[bytes, Ident | None]], bytes | None]:
        """The same instance is back: frames without proof, in order, and the ping that follows them."""
        self._pinged = False
        fresh = [entry for entry in self._entries if now - entry[1] <= AGE_MAX]
        self.dropped += len(self._entries) - len(fresh)
        self._entries = deque((offset, at, payload, True, ident) for offset, at, payload, _, ident in fresh)
        self._bytes = sum(len(entry[2]) for entry in fresh)
        frames = [
            (payload[:-1] + b',"replayed":true}' if sent else payload, ident)
            for _, _, payload, sent, ident in fresh
        ]
        return frames, self._ping(now) if fresh else None

    def seen(self, marks: Mapping[str, tuple[int, int]]) -> None:
        """Named frames up to these have arrived: proof from the node that held the app's socket."""
        entries = self._entries
        while entries and (ident := entries[0][4]) is not None and ident[1:] <= marks.get(ident[0], (-1, 0)):
            self._bytes -= len(entries.popleft()[2])
        if not entries:
            self._pinged = False

    def export(self, now: float) -> Mapping[str, Any]:
        """The frames without proof, for the node that serves the session from now on."""
        return {
            "offset": self._offset,
            "entries": [
                [offset, round(now - at, 3), payload.decode(), sent, None if ident is None else list(ident)]
                for offset, at, payload, sent, ident in self._entries
            ],
        }

    def restore(self, state: Mapping[str, Any], now: float) -> None:
        """Go on where another node stopped. Raises KeyError, TypeError or ValueError for what cannot be read."""
        self._offset = int(state["offset"])
        for offset, age, payload, sent, ident in _rows(state["entries"])[-ENTRIES_MAX:]:
            name = None if ident is None else (str(ident[0]), int(ident[1]), int(ident[2]))
            self._entries.append((int(offset), now - float(age), payload.encode(), bool(sent), name))
            self._bytes += len(payload)

    def clear(self) -> None:
        """Another instance, or the end: nothing old is delivered as new."""
        self.dropped += len(self._entries)
        self._entries.clear()
        self._bytes = 0
        self._pinged = False

    def _ping(self, now: float) -> bytes:
        self._pinged = True  # one proof at a time
        self._ask_at = now + PROOF_INTERVAL
        return self._offset.to_bytes(_OFFSET_BYTES)


def _rows(value: Any) -> Sequence[tuple[Any, Any, str, Any, Any]]:
    """Entries as `export` wrote them; a newer version may have added members at the end."""
    return [(row[0], row[1], str(row[2]), row[3], row[4] if len(row) > 4 else None) for row in value]
