"""A small proto3 codec: messages as dicts, described by a schema.

Rules of this file:

- Only what the glasses need: unsigned and signed 32-bit varints, bool, enum (as number), string, float, messages,
  repeated fields (packed where proto3 packs).
- `decode` raises `DecodeError` for anything that is not proto3 or does not fit the schema's wire types, and skips
  fields the schema does not know. Depth is bounded by the schema.
- A scalar that has its default value is not written, and is absent from what is read.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

VARINT_BYTES_MAX = 10
_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5


class DecodeError(ValueError):
    """The bytes are not this message."""


class Kind(enum.Enum):
    UINT = enum.auto()
    INT = enum.auto()
    BOOL = enum.auto()
    STRING = enum.auto()
    FLOAT = enum.auto()
    MESSAGE = enum.auto()


_WIRE_TYPES = {
    Kind.UINT: _VARINT,
    Kind.INT: _VARINT,
    Kind.BOOL: _VARINT,
    Kind.STRING: _LEN,
    Kind.FLOAT: _I32,
    Kind.MESSAGE: _LEN,
}


@dataclass(frozen=True, slots=True)
class Field:
    number: int
    name: str
    kind: Kind
    schema: Schema | None = None
    repeated: bool = False


class Schema:
    """The fields of one message type."""

    def __init__(self, *fields: Field) -> None:
        self.fields = tuple(sorted(fields, key=lambda f: f.number))
        self.by_number = {field.number: field for field in fields}
        self.by_name = {field.name: field for field in fields}


def uint(number: int, name: str) -> Field:
    return Field(number, name, Kind.UINT)


def int32(number: int, name: str) -> Field:
    return Field(number, name, Kind.INT)


def boolean(number: int, name: str) -> Field:
    return Field(number, name, Kind.BOOL)


def string(number: int, name: str) -> Field:
    return Field(number, name, Kind.STRING)


def real(number: int, name: str) -> Field:
    return Field(number, name, Kind.FLOAT)


def message(number: int, name: str, *fields: Field) -> Field:
    return Field(number, name, Kind.MESSAGE, Schema(*fields))


def many(field: Field) -> Field:
    return Field(field.number, field.name, field.kind, field.schema, repeated=True)


# --- writing ------------------------------------------------------------------------------------------------------


def encode(schema: Schema, values: Mapping[str, Any]) -> bytes:
    """The message, fields in the order of their numbers. Raises `KeyError` for a name the schema lacks."""
    for name in values:
        schema.by_name[name]
    return b"".join(_encode_field(f, values[f.name]) for f in schema.fields if f.name in values)


def _encode_field(field: Field, value: Any) -> bytes:
    if field.repeated:
        if field.kind in (Kind.MESSAGE, Kind.STRING):
            return b"".join(_tag(field, _LEN) + _sized(_encode_value(field, item)) for item in value)
        packed = b"".join(_encode_value(field, item) for item in value)
        return _tag(field, _LEN) + _sized(packed) if packed else b""
    if field.kind is not Kind.MESSAGE and not value:
        return b""
    wire_type = _WIRE_TYPES[field.kind]
    body = _encode_value(field, value)
    return _tag(field, wire_type) + (_sized(body) if wire_type == _LEN else body)


def _encode_value(field: Field, value: Any) -> bytes:
    match field.kind:
        case Kind.MESSAGE:
            assert field.schema is not None
            return encode(field.schema, value)
        case Kind.STRING:
            return bytes(value, "utf-8")
        case Kind.FLOAT:
            return struct.pack("<f", value)
    return _varint(int(value) & 0xFFFF_FFFF_FFFF_FFFF)


def _tag(field: Field, wire_type: int) -> bytes:
    return _varint(field.number << 3 | wire_type)


def _sized(body: bytes) -> bytes:
    return _varint(len(body)) + body


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# --- reading ------------------------------------------------------------------------------------------------------


def decode(schema: Schema, data: bytes) -> dict[str, Any]:
    """The fields that stand in `data`; of a repeated scalar or message, the last one counts."""
    values: dict[str, Any] = {}
    for number, wire_type, raw in _split(data):
        field = schema.by_number.get(number)
        if field is None:
            continue
        if field.repeated:
            found = values.setdefault(field.name, [])
            if wire_type == _LEN and _WIRE_TYPES[field.kind] != _LEN:
                found += _unpack(field, _bytes(raw))
                continue
            found.append(_value(field, wire_type, raw))
            continue
        value = _value(field, wire_type, raw)
        if value or field.kind is Kind.MESSAGE:
            values[field.name] = value
        else:
            values.pop(field.name, None)
    return values


def field_numbers(data: bytes) -> list[int]:
    """The numbers of the outermost fields, in order, known or not. Raises `DecodeError`."""
    return [number for number, _, _ in _split(data)]


def _split(data: bytes) -> Iterable[tuple[int, int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, wire_type = key >> 3, key & 7
        if not 1 <= number < 1 << 29:
            raise DecodeError(f"field number {number}")
        raw: int | bytes
        match wire_type:
            case 0:
                raw, at = _read_varint(data, at)
            case 1 | 5:
                raw, at = _take(data, at, 8 if wire_type == _I64 else 4)
            case 2:
                size, at = _read_varint(data, at)
                raw, at = _take(data, at, size)
            case _:
                raise DecodeError(f"wire type {wire_type}")
        yield number, wire_type, raw


def _take(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if size > len(data) - at:
        raise DecodeError("cut short")
    return data[at : at + size], at + size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(VARINT_BYTES_MAX):
        if at >= len(data):
            raise DecodeError("cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise DecodeError("number too long")


def _bytes(raw: int | bytes) -> bytes:
    if isinstance(raw, int):
        raise DecodeError("a number where bytes belong")
    return raw


def _value(field: Field, wire_type: int, raw: int | bytes) -> Any:
    if wire_type != _WIRE_TYPES[field.kind]:
        raise DecodeError(f"{field.name}: wire type {wire_type}")
    match field.kind:
        case Kind.MESSAGE:
            assert field.schema is not None
            return decode(field.schema, _bytes(raw))
        case Kind.STRING:
            try:
                return _bytes(raw).decode("utf-8")
            except UnicodeDecodeError:
                raise DecodeError(f"{field.name}: not UTF-8") from None
        case Kind.FLOAT:
            return struct.unpack("<f", _bytes(raw))[0]
    assert isinstance(raw, int)
    return _number(field, raw)


def _number(field: Field, raw: int) -> int | bool:
    match field.kind:
        case Kind.BOOL:
            return raw != 0
        case Kind.INT:
            low = raw & 0xFFFF_FFFF
            return low - (1 << 32) if low >> 31 else low
    return raw & 0xFFFF_FFFF


def _unpack(field: Field, data: bytes) -> list[Any]:
    if field.kind is Kind.FLOAT:
        if len(data) % 4:
            raise DecodeError("cut short")
        return [value for (value,) in struct.iter_unpack("<f", data)]
    values, at = [], 0
    while at < len(data):
        raw, at = _read_varint(data, at)
        values.append(_number(field, raw))
    return values
