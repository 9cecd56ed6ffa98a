"""The little of proto3 that Mentra Nex needs: varints, fixed 32-bit floats, strings, nested messages.

Rules: pure; a message is fields in ascending order of number, values that are the default are left out, as proto3 does.
A reader takes any order, skips what it does not know and raises ValueError on anything malformed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TypeAlias

#: What `message` writes: number -> int, bool, str, bytes (a nested message) or float.
Value: TypeAlias = int | bool | str | bytes | float
#: What `fields` reads: varints as int, everything else as bytes.
Raw: TypeAlias = int | bytes

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    """An unsigned integer of at most 64 bits; a negative one as its two's complement."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(fields: Mapping[int, Value]) -> bytes:
    """An encoded message. A nested message (bytes) is written even when it is empty: its presence is its meaning."""
    out = bytearray()
    for number, value in sorted(fields.items()):
        if isinstance(value, bytes):
            out += varint(number << 3 | BYTES) + varint(len(value)) + value
        elif isinstance(value, str):
            raw = value.encode("utf-8", "replace")
            if raw:
                out += varint(number << 3 | BYTES) + varint(len(raw)) + raw
        elif isinstance(value, float):
            if value:
                out += varint(number << 3 | FIXED32) + struct.pack("<f", value)
        elif value:
            out += varint(number << 3 | VARINT) + varint(int(value))
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number is cut off or too long")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
        shift += 7


def fields(data: bytes) -> dict[int, list[Raw]]:
    """The fields of a message, each with all its values in order. Raises ValueError."""
    found: dict[int, list[Raw]] = {}
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, kind = key >> 3, key & 7
        value: Raw
        if number == 0:
            raise ValueError("field number 0")
        if kind == VARINT:
            value, at = _read_varint(data, at)
        elif kind in (FIXED32, FIXED64, BYTES):
            size, at = (4 if kind == FIXED32 else 8, at) if kind != BYTES else _read_varint(data, at)
            if at + size > len(data):
                raise ValueError("a field is cut off")
            value, at = data[at : at + size], at + size
        else:
            raise ValueError(f"wire type {kind}")
        found.setdefault(number, []).append(value)
    return found


def number(found: dict[int, list[Raw]], field: int, default: int = 0) -> int:
    """The last varint of a field, as proto3 reads repeated singular fields."""
    value = found.get(field, [default])[-1]
    return value if isinstance(value, int) else default


def signed(found: dict[int, list[Raw]], field: int) -> int:
    """An int32 or int64 field."""
    value = number(found, field)
    return value - (1 << 64) if value >> 63 else value


def text(found: dict[int, list[Raw]], field: int) -> str:
    value = found.get(field, [b""])[-1]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def real(found: dict[int, list[Raw]], field: int) -> float:
    value = found.get(field, [b""])[-1]
    if not isinstance(value, bytes) or len(value) != 4:
        return 0.0
    return float(struct.unpack("<f", value)[0])


def numbers(found: dict[int, list[Raw]], field: int) -> list[int]:
    """A repeated integer field, packed or not. Raises ValueError."""
    values: list[int] = []
    for value in found.get(field, []):
        if isinstance(value, int):
            values.append(value)
            continue
        at = 0
        while at < len(value):
            one, at = _read_varint(value, at)
            values.append(one)
    return values
