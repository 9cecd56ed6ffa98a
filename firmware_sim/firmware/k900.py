"""The packets of the K900 platform (Mentra Live): framed JSON, file packets, wire v2 fragments, chunked messages.

Rules of this file:

- Pure bytes in, values out; a reader never raises: what is not a packet is skipped and counted.
- Every buffer is bounded, by the largest packet that the platform knows.
- Frame: `23 23 | type | u16 length | payload | 24 24`; file packet: `23 23 | type 31-35 | 24 bytes of header |
  data | sum | 24 24`, always big-endian.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

ByteOrder = Literal["big", "little"]

HEAD, TAIL = b"##", b"$$"
JSON_TYPE, FRAGMENT_TYPE = 0x30, 0x40
PHOTO, VIDEO, MUSIC, AUDIO, DATA = 0x31, 0x32, 0x33, 0x34, 0x35

FRAME_OVERHEAD = 7
PAYLOAD_MAX = 512
"""Largest payload taken for true; longer lengths are read as garbage (phone-side parsers do the same)."""

FILE_HEADER, FILE_OVERHEAD = 29, 32
FILE_DATA_MAX = 800
"""Largest pack known (over L2CAP)."""
NAME_BYTES = 16

FRAGMENT_HEADER = struct.Struct("<BHBBH")
FRAGMENT_DATA_MAX = 480
FIRST, LAST, WAKE, HANDSHAKE, ACK_WANTED = 0x01, 0x02, 0x04, 0x08, 0x10


def frame(payload: bytes, order: ByteOrder, kind: int = JSON_TYPE) -> bytes:
    """One frame. The payload must be at most 65535 bytes."""
    return HEAD + bytes([kind]) + len(payload).to_bytes(2, order) + payload + TAIL


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def read_json(text: str | bytes) -> Any:
    """The value, or None for what is not JSON (too deep counts as that)."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def read_object(text: object) -> dict[str, Any] | None:
    value = read_json(text) if isinstance(text, str | bytes) else None
    return value if isinstance(value, dict) else None


# --- frames -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    kind: int
    payload: bytes


class FrameReader:
    """Finds frames in a byte stream, whichever byte order their length has and however the stream is cut.

    A length is believed when `$$` stands exactly behind the payload. Where both byte orders fit, the shorter frame
    is taken, so that the result does not depend on how the stream was cut; JSON never makes them both fit.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.skipped = 0
        """Bytes that belonged to no frame."""

    def feed(self, data: bytes) -> list[Frame]:
        self._buffer += data
        return list(self._take())

    def clear(self) -> None:
        self.skipped += len(self._buffer)
        self._buffer.clear()

    def _take(self) -> Iterator[Frame]:
        buffer = self._buffer
        while buffer:
            start = buffer.find(HEAD)
            if start < 0:
                # A single `#` at the end may be half of the next head.
                self._skip(len(buffer) - buffer.endswith(HEAD[:1]))
                return
            self._skip(start)
            if len(buffer) < 5:
                return
            wait = False
            for length in sorted({int.from_bytes(buffer[3:5], "big"), int.from_bytes(buffer[3:5], "little")}):
                if length > PAYLOAD_MAX:
                    continue
                if len(buffer) < length + FRAME_OVERHEAD:
                    wait = (
                        True  # bounds the buffer: at most PAYLOAD_MAX + FRAME_OVERHEAD bytes are waited for
                    )
                elif buffer[5 + length : 7 + length] == TAIL:
                    yield Frame(buffer[2], bytes(buffer[5 : 5 + length]))
                    del buffer[: length + FRAME_OVERHEAD]
                    break
            else:
                if wait:
                    return
                self._skip(1)

    def _skip(self, count: int) -> None:
        self.skipped += count
        del self._buffer[:count]


# --- JSON wrapping ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Command:
    """A message for the Bluetooth chip itself."""

    name: str
    body: Any


@dataclass(frozen=True, slots=True)
class Message:
    """A message for the Android side."""

    fields: dict[str, Any]
    wake: bool


def unwrap(payload: bytes) -> Command | Message | None:
    outer = read_object(payload)
    if outer is None or not isinstance(outer.get("C"), str):
        return None
    inner = read_object(outer["C"])
    if inner is not None:
        return Message(inner, outer.get("W") == 1)
    return Command(outer["C"], outer.get("B"))


def command_frame(name: str, body: Any, order: ByteOrder) -> bytes:
    """What the Bluetooth chip says."""
    return frame(json_bytes({"C": name, "B": body}), order)


def message_frame(text: str, order: ByteOrder) -> bytes:
    """What the Android side says: JSON text inside JSON."""
    return frame(json_bytes({"C": text, "V": 1, "B": {}}), order)


# --- chunked messages ---------------------------------------------------------------------------------------------

CHUNK_BYTES = 80
CHUNKS_MAX = 255
"""Pieces of one message: 20 kB of JSON, ten times the longest message known."""
CHUNK_SESSIONS_MAX = 10
CHUNK_TIMEOUT = 30.0


def pieces(text: str, size: int = CHUNK_BYTES) -> list[str]:
    """The text in pieces of at most `size` bytes of UTF-8, no character cut."""
    done: list[str] = []
    piece: list[str] = []
    used = 0
    for character in text:
        width = len(character.encode("utf-8", "replace"))
        if used + width > size:
            done.append("".join(piece))
            piece, used = [], 0
        piece.append(character)
        used += width
    done.append("".join(piece))
    return done


@dataclass(slots=True)
class _Session:
    total: int
    begun: float
    parts: dict[int, str]
    message_id: int | None = None


class Chunks:
    """Joins messages that came in pieces, in any order, any piece twice."""

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, fields: dict[str, Any], now: float) -> tuple[str, int | None] | None:
        """The whole text and the message id of its last piece, once the last missing piece is here."""
        match fields:
            case {"t": "ck", "id": key, "c": index, "n": total, "d": str(data)}:
                pass
            case {"type": "chunked_msg", "chunkId": key, "chunk": index, "total": total, "data": str(data)}:
                pass
            case _:
                return None
        if not (_is_int(index) and _is_int(total) and 0 <= index < total <= CHUNKS_MAX):
            return None
        for old in [k for k, s in self._sessions.items() if now - s.begun >= CHUNK_TIMEOUT]:
            del self._sessions[old]
        session = self._sessions.get(str(key))
        if session is None or session.total != total:
            self._sessions.pop(str(key), None)
            if len(self._sessions) >= CHUNK_SESSIONS_MAX:
                del self._sessions[next(iter(self._sessions))]
            session = self._sessions[str(key)] = _Session(total, now, {})
        session.parts[index] = data
        if _is_int(fields.get("mId")):
            session.message_id = fields["mId"]
        if len(session.parts) < total:
            return None
        del self._sessions[str(key)]
        return "".join(session.parts[i] for i in range(total)), session.message_id

    def clear(self) -> None:
        self._sessions.clear()


def is_chunk(fields: dict[str, Any]) -> bool:
    return fields.get("t") == "ck" or fields.get("type") == "chunked_msg"


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# --- wire v2 ------------------------------------------------------------------------------------------------------

SHORT_KEYS = {"type": "t", "requestId": "r", "timestamp": "ts", "status": "s"}
LONG_KEYS = {short: long for long, short in SHORT_KEYS.items()}


@dataclass(frozen=True, slots=True)
class Fragment:
    flags: int
    message_id: int
    index: int
    count: int
    payload: bytes

    def frame(self) -> bytes:
        header = FRAGMENT_HEADER.pack(self.flags, self.message_id, self.index, self.count, len(self.payload))
        return frame(header + self.payload, "little", FRAGMENT_TYPE)


def read_fragment(payload: bytes) -> Fragment | None:
    if len(payload) < FRAGMENT_HEADER.size:
        return None
    flags, message_id, index, count, length = FRAGMENT_HEADER.unpack_from(payload)
    body = payload[FRAGMENT_HEADER.size :]
    if length != len(body) or length > FRAGMENT_DATA_MAX or index >= count:
        return None
    return Fragment(flags, message_id, index, count, body)


def fragments(message_id: int, payload: bytes, size: int = FRAGMENT_DATA_MAX) -> list[Fragment]:
    """A message cut for the air; at most 255 fragments of `size` bytes."""
    parts = [payload[i : i + size] for i in range(0, len(payload), size)] or [b""]
    return [
        Fragment(FIRST * (i == 0) | LAST * (i == len(parts) - 1), message_id & 0xFFFF, i, len(parts), part)
        for i, part in enumerate(parts[:255])
    ]


# --- files --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FilePacket:
    kind: int
    index: int
    file_size: int
    name: str
    flags: int
    data: bytes

    def pack(self) -> bytes:
        head = struct.pack(">HHI", len(self.data), self.index, self.file_size & 0xFFFFFFFF)
        name = self.name.encode("ascii", "replace")[:NAME_BYTES].ljust(NAME_BYTES, b"\0")
        body = head + name + self.flags.to_bytes(2, "big") + self.data
        return HEAD + bytes([self.kind]) + body + bytes([sum(self.data) & 0xFF]) + TAIL


def read_file_packet(data: bytes) -> FilePacket | None:
    """A whole packet, or None when it is none or its checksum is wrong."""
    if len(data) < FILE_OVERHEAD or data[:2] != HEAD or data[-2:] != TAIL or not PHOTO <= data[2] <= DATA:
        return None
    size, index, file_size = struct.unpack_from(">HHI", data, 3)
    body = data[FILE_HEADER:-3]
    if size != len(body) or sum(body) & 0xFF != data[-3]:
        return None
    name = data[11:27].rstrip(b"\0").decode("ascii", "replace")
    return FilePacket(data[2], index, file_size, name, int.from_bytes(data[27:29], "big"), body)
