"""Frames between a session and an app whose socket another node holds: over a bus that may lose them, without loss.

Rules: one pipe per app socket, the same class at both ends. Every frame has a number and says which number came before it;
a receiver never steps over a hole but asks for what is missing, from a bounded ring. A sender that hears nothing asks
whether the tail arrived, and then whether anybody is there. Sound that is too old to be heard leaves the ring, and the
next frame says so. Sources: distributed design, sections 7 and 11 (bug 3).
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeAlias

from wire.messages.base import Delivery


class Content(IntEnum):
    """What a frame carries."""

    TEXT = 0
    BINARY = 1
    PING = 2
    PONG = 3
    CLOSE = 4  # payload: two bytes of code, then the reason
    LEFT = 5  # payload: JSON, how far each stream of named frames has come; the app's socket is about to be closed


@dataclass(frozen=True, slots=True)
class Piece:
    """One frame for, or from, the app's socket. `ident` names a reliable frame over all owners: (stream, number)."""

    content: Content
    payload: bytes
    delivery: Delivery = Delivery.RELIABLE
    key: str | None = None
    ident: Ident | None = None


#: A frame's name: the log that it comes from, its number there, and its place among the frames that number brought.
Ident: TypeAlias = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class PipeLimits:
    """Bounds and times, each with its reason. Seconds and bytes."""

    pieces_max: int = 1000  # ten seconds of sound at 100 frames a second
    bytes_max: int = 512 * 1024  # 5 s of PCM16 and a photo's worth of texts
    lossy_age: float = 2.0  # sound older than this is of no use to anybody
    age: float = 60.0  # what nobody took within a minute of grace finds nobody
    ack_delay: float = 0.1  # one acknowledgement for ten frames of sound; it costs as much as a frame
    ack_every: int = 32
    probe: float = 0.3  # a round trip is under a millisecond: silence this long means that something was lost
    nack: float = 0.05  # a hole is asked for once per round trip, not once per frame behind it
    missing: float = 1.0  # no sign of life for this long: ask whether anybody listens


@dataclass(frozen=True, slots=True)
class Write:
    """Put these bytes on the bus."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Deliver:
    """The next frame, in order, once."""

    piece: Piece


@dataclass(frozen=True, slots=True)
class Lost:
    """This many frames can never be had: they were too old, or too many."""

    count: int


@dataclass(frozen=True, slots=True)
class Missing:
    """The peer is silent although it owes an answer: find out whether it is there."""


PipeEffect: TypeAlias = Write | Deliver | Lost | Missing

_HEAD: Final = struct.Struct(">BQIIIBBB")
_DATA, _ACK, _NACK, _PROBE = 1, 2, 3, 4
_CONTENTS: Final = frozenset(Content)
_DELIVERIES: Final = (Delivery.LOSSY, Delivery.LATEST, Delivery.RELIABLE)
_NUMBER: Final = {delivery: number for number, delivery in enumerate(_DELIVERIES)}


@dataclass(slots=True)
class _Entry:
    seq: int
    at: float
    piece: Piece


class Pipe:
    """One end. `attachment` names this pair of ends; frames of another are ignored."""

    __slots__ = (
        "_ack_at", "_acked", "_asked_at", "_bytes", "_heard_at", "_in", "_in_acked", "_missing_at", "_nacked_at",
        "_next", "_probe_at", "_ring", "attachment", "limits", "lost", "resent", "stale",
    )  # fmt: skip

    def __init__(
        self,
        attachment: int,
        limits: PipeLimits | None = None,
        *,
        out_from: int = 0,
        in_from: int = 0,
    ) -> None:
        """`out_from`, `in_from`: the last numbers that were used before this pipe."""
        self.attachment = attachment
        self.limits = limits or PipeLimits()
        self.lost = self.resent = self.stale = 0
        self._next = out_from + 1
        self._acked = out_from
        self._ring: deque[_Entry] = deque()
        self._bytes = 0
        self._in = in_from
        self._in_acked = in_from
        self._ack_at: float | None = None
        self._probe_at: float | None = None
        self._missing_at: float | None = None
        self._nacked_at = float("-inf")

    # ------------------------------------------------------------------------------------------------ queries

    @property
    def received(self) -> int:
        """Number of the last frame delivered."""
        return self._in

    @property
    def acknowledged(self) -> int:
        """Number of the last own frame that the peer has."""
        return self._acked

    @property
    def newest(self) -> int:
        """Number of the last frame sent."""
        return self._next - 1

    @property
    def waiting(self) -> int:
        """Frames without acknowledgement."""
        return len(self._ring)

    @property
    def deadline(self) -> float | None:
        return min(
            (t for t in (self._ack_at, self._probe_at, self._missing_at) if t is not None), default=None
        )

    # ------------------------------------------------------------------------------------------------ inputs

    def send(self, piece: Piece, now: float) -> Write:
        """The next frame."""
        entry = _Entry(self._next, now, piece)
        self._next += 1
        self._ring.append(entry)
        self._bytes += len(piece.payload)
        if len(self._ring) > self.limits.pieces_max or self._bytes > self.limits.bytes_max:
            self._bound(now)
        if self._probe_at is None:
            self._probe_at = now + self.limits.probe
            if self._missing_at is None:
                self._missing_at = now + self.limits.missing
        return Write(self._data(entry, entry.seq - 1))

    def take(self, data: bytes, now: float) -> list[PipeEffect]:
        """Bytes from the bus. Raises ValueError for what is no frame."""
        try:
            kind, attachment, prev, seq, ack, flags, key_size, ident_size = _HEAD.unpack_from(data)
        except struct.error:
            raise ValueError("no pipe frame: too short") from None
        if attachment != self.attachment:
            self.stale += 1
            return []
        self._missing_at = None if not self._ring else now + self.limits.missing
        self._take_ack(ack, now)
        match kind:
            case 1:  # _DATA
                return self._take_data(data, prev, seq, flags, key_size, ident_size, now)
            case 2:  # _ACK
                return []
            case 3:  # _NACK
                return self.resend(ack, now)
            case 4:  # _PROBE
                if seq > self._in:
                    return self._complain(now)
                return [self._acknowledge()]
            case _:
                return []  # of a newer version

    def resend(self, after: int, now: float) -> list[PipeEffect]:
        """Everything after that number that is still worth it, in order."""
        self._expire(now)
        previous = after
        out: list[PipeEffect] = []
        for entry in self._ring:
            if entry.seq <= after:
                continue
            out.append(Write(self._data(entry, previous)))
            previous = entry.seq
            self.resent += 1
        if previous < self.newest:  # what is missing at the end has left the ring: say so
            out.append(Write(self._head(_DATA, previous, self.newest, _GONE)))
        if self._ring:
            self._probe_at = now + self.limits.probe
        return out

    def unheard(self, now: float) -> list[bytes]:
        """Sound that the peer has not confirmed and that is still worth hearing."""
        self._expire(now)
        return [e.piece.payload for e in self._ring if e.piece.content is Content.BINARY]

    def handle_deadline(self, now: float) -> list[PipeEffect]:
        out: list[PipeEffect] = []
        if self._ack_at is not None and now >= self._ack_at:
            out.append(self._acknowledge())
        if self._probe_at is not None and now >= self._probe_at:
            self._expire(now)
            if self._ring or self._acked < self.newest:
                self._probe_at = now + self.limits.probe
                out.append(Write(self._head(_PROBE, 0, self.newest, 0)))
            else:
                self._probe_at = self._missing_at = None
        if self._missing_at is not None and now >= self._missing_at:
            self._missing_at = now + self.limits.missing
            if self._acked < self.newest:
                out.append(Missing())
        return out

    def move(self, attachment: int) -> None:
        """This end keeps what was not acknowledged and goes on with another peer, who knows nothing yet."""
        self.attachment = attachment
        self._in = self._in_acked = 0
        self._ack_at = self._probe_at = self._missing_at = None
        self._nacked_at = float("-inf")

    def agreed(self, peer_has: int) -> None:
        """The new peer knows the frames up to this number."""
        self._drop_until(peer_has)

    # ------------------------------------------------------------------------------------------------ inside

    def _take_data(
        self, data: bytes, prev: int, seq: int, flags: int, key_size: int, ident_size: int, now: float
    ) -> list[PipeEffect]:
        if seq <= self._in:
            self._ack_at = now  # the sender evidently does not know
            return []
        if prev > self._in:
            return self._complain(now)
        out: list[PipeEffect] = []
        count = seq - self._in - 1 if not flags & _GONE else seq - self._in
        if count:
            self.lost += count
            out.append(Lost(count))
        self._in = seq
        if not flags & _GONE:
            at = _HEAD.size
            key = data[at : at + key_size].decode() if key_size else None
            at += key_size
            ident = _ident(data[at : at + ident_size]) if ident_size else None
            at += ident_size
            delivery = _DELIVERIES[min(flags & 3, 2)]
            if flags >> 3 in _CONTENTS:  # a newer version may say more
                out.append(Deliver(Piece(Content(flags >> 3), data[at:], delivery, key, ident)))
        if self._in - self._in_acked >= self.limits.ack_every or flags & 3 == _NUMBER[Delivery.RELIABLE]:
            out.append(self._acknowledge())  # of a reliable frame at once: the glasses wait for it
        elif self._ack_at is None:
            self._ack_at = now + self.limits.ack_delay
        return out

    def _complain(self, now: float) -> list[PipeEffect]:
        """There is a hole: ask for what follows the last good frame."""
        if now - self._nacked_at < self.limits.nack:
            return []
        self._nacked_at = now
        self._ack_at = None
        self._in_acked = self._in
        return [Write(self._head(_NACK, 0, 0, 0))]

    def _take_ack(self, ack: int, now: float) -> None:
        if ack <= self._acked or ack > self.newest:
            return
        self._drop_until(ack)
        self._probe_at = now + self.limits.probe if self._ring else None
        if not self._ring:
            self._missing_at = None

    def _drop_until(self, ack: int) -> None:
        while self._ring and self._ring[0].seq <= ack:
            self._bytes -= len(self._ring.popleft().piece.payload)
        self._acked = max(self._acked, min(ack, self.newest))

    def _expire(self, now: float) -> None:
        limits = self.limits
        kept: deque[_Entry] = deque()
        for entry in self._ring:
            age = limits.lossy_age if entry.piece.delivery is Delivery.LOSSY else limits.age
            if now - entry.at > age:
                self._bytes -= len(entry.piece.payload)
            else:
                kept.append(entry)
        self._ring = kept

    def _bound(self, now: float) -> None:
        """Too much is waiting: sound goes first, then the oldest."""
        self._expire(now)
        limits = self.limits
        if len(self._ring) <= limits.pieces_max and self._bytes <= limits.bytes_max:
            return
        for lossy_only in (True, False):
            kept: deque[_Entry] = deque()
            over = len(self._ring) - limits.pieces_max
            for entry in self._ring:
                expendable = entry.piece.delivery is Delivery.LOSSY or not lossy_only
                if (
                    (over > 0 or self._bytes > limits.bytes_max)
                    and expendable
                    and entry is not self._ring[-1]
                ):
                    self._bytes -= len(entry.piece.payload)
                    over -= 1
                else:
                    kept.append(entry)
            self._ring = kept

    def _acknowledge(self) -> Write:
        self._ack_at = None
        self._in_acked = self._in
        return Write(self._head(_ACK, 0, 0, 0))

    def _head(self, kind: int, prev: int, seq: int, flags: int) -> bytes:
        return _HEAD.pack(kind, self.attachment, prev, seq, self._in, flags, 0, 0)

    def _data(self, entry: _Entry, previous: int) -> bytes:
        piece = entry.piece
        key = b"" if piece.key is None else piece.key.encode()[:255]
        ident = b"" if piece.ident is None else b"%s:%d:%d" % (piece.ident[0].encode(), *piece.ident[1:])
        flags = _NUMBER[piece.delivery] | piece.content << 3
        if self._ack_at is not None:  # this frame carries the acknowledgement
            self._ack_at = None
            self._in_acked = self._in
        head = _HEAD.pack(_DATA, self.attachment, previous, entry.seq, self._in, flags, len(key), len(ident))
        return b"".join((head, key, ident, piece.payload))


#: Flag of a frame without content: everything up to its number is gone.
_GONE: Final = 4


def _ident(data: bytes) -> Ident | None:
    stream, number, place = data.rsplit(b":", 2)
    return stream.decode(), int(number), int(place)


def attachment_of(data: bytes) -> int:
    """Which pair of ends a frame belongs to. Raises ValueError."""
    try:
        return int(_HEAD.unpack_from(data)[1])
    except struct.error:
        raise ValueError("no pipe frame: too short") from None


def close_payload(code: int, reason: str) -> bytes:
    """The content of a CLOSE frame."""
    return code.to_bytes(2) + reason.encode()[:120]


def closing(payload: bytes) -> tuple[int, str]:
    """Code and reason of a CLOSE frame."""
    return int.from_bytes(payload[:2]), payload[2:].decode("utf-8", "replace")
