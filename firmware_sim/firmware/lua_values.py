"""The values of Lua and what every built-in function needs: types, texts, numbers, errors, argument checks.

Rules of this file: pure; strings are bytes, integers have 64 bits, sizes are bounded as on the device.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

STRING_MAX = 64 * 1024
"""Bytes of one string; the device has 256 kB of memory in all."""
TABLE_MAX = 16 * 1024
"""Entries of one table."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """The running chunk rests for so many seconds."""

    seconds: float


Run = Generator[Sleep | None, None, Any]
Value = Any
"""None, bool, int, float, bytes, Table, Function or Builtin."""


class LuaError(Exception):
    """A Lua error on its way up. `value` is any Lua value, usually a text with its position."""

    def __init__(self, value: Value) -> None:
        super().__init__(value)
        self.value = value

    @property
    def text(self) -> bytes:
        if isinstance(self.value, bytes | int | float) and not isinstance(self.value, bool):
            return tostring(self.value)
        return b"(error object is a %s value)" % type_name(self.value)


class Fail(Exception):
    """An error raised by a built-in function; whoever called it puts the position before."""


# --- values -------------------------------------------------------------------------------------------------------


class Table:
    """A Lua table. Keys are stored so that `1`, `1.0` and `true` do not meet."""

    __slots__ = ("_border", "_entries", "meta")

    def __init__(self) -> None:
        self._entries: dict[Any, tuple[Value, Value]] = {}
        self._border = 0
        self.meta: Table | None = None

    def get(self, key: Value) -> Value:
        entry = self._entries.get(_key(key))
        return entry[1] if entry is not None else None

    def set(self, key: Value, value: Value) -> None:
        if key is None:
            raise Fail("table index is nil")
        if isinstance(key, float):
            if math.isnan(key):
                raise Fail("table index is NaN")
            key = int(key) if key.is_integer() else key
        if value is None:
            self._entries.pop(_key(key), None)
        else:
            if len(self._entries) >= TABLE_MAX and _key(key) not in self._entries:
                raise Fail("not enough memory")
            self._entries[_key(key)] = (key, value)

    def length(self) -> int:
        while self._border and self._border not in self._entries:
            self._border -= 1
        while self._border + 1 in self._entries:
            self._border += 1
        return self._border

    def items(self) -> list[tuple[Value, Value]]:
        return list(self._entries.values())

    def field(self, name: str) -> Value:
        return self.get(name.encode())


def _key(key: Value) -> Any:
    if isinstance(key, bool):
        return ("bool", key)
    if isinstance(key, float) and key.is_integer():
        return int(key)
    return key


class Builtin:
    """A function of the host: takes a list of values, returns a list or a generator that returns one."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[[list[Value]], list[Value] | Run]) -> None:
        self.name, self.call = name, call


class Function:
    """A Lua closure."""

    __slots__ = ("cells", "proto")

    def __init__(self, proto: Any, cells: dict[int, list[Value]]) -> None:
        self.proto, self.cells = proto, cells


def type_name(value: Value) -> bytes:
    match value:
        case None:
            return b"nil"
        case bool():
            return b"boolean"
        case int() | float():
            return b"number"
        case bytes():
            return b"string"
        case Table():
            return b"table"
    return b"function"


def tostring(value: Value) -> bytes:
    match value:
        case None:
            return b"nil"
        case bool():
            return b"true" if value else b"false"
        case int():
            return b"%d" % value
        case float():
            return _float_text(value)
        case bytes():
            return value
    return b"%s: 0x20001000" % type_name(value)  # no true address: the same run must print the same bytes


def _float_text(value: float) -> bytes:
    if math.isinf(value):
        return b"inf" if value > 0 else b"-inf"
    if math.isnan(value):
        return b"nan"
    text = f"{value:.14g}"
    return (text if any(c in text for c in ".en") else text + ".0").encode()


def wrap(value: int) -> int:
    """An integer in 64 bits."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


_NUMBER = re.compile(
    rb"\s*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(\d+)|((?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?))\s*\Z"
)


def tonumber(text: bytes) -> int | float | None:
    found = _NUMBER.match(text) if len(text) <= 200 else None
    if found is None:
        return None
    sign = -1 if found[1] == b"-" else 1
    if found[2] is not None:
        return wrap(sign * int(found[2], 16))
    if found[3] is not None and len(found[3]) < 20 and int(found[3]) < 1 << 63:
        return sign * int(found[3])
    return sign * float(found[3] or found[4])


def number_of(value: Value) -> int | float | None:
    if isinstance(value, bytes):
        return tonumber(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def truth(value: Value) -> bool:
    return value is not None and value is not False


def integer_of(value: Value) -> int | None:
    number = number_of(value)
    if isinstance(number, float):
        return wrap(int(number)) if number.is_integer() else None
    return number


def equal(left: Value, right: Value) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float | bytes) and isinstance(right, int | float | bytes):
        return bool(left == right)
    return left is right


# --- arguments of built-in functions ------------------------------------------------------------------------------------


def any_of(args: list[Value], at: int) -> Value:
    return args[at] if at < len(args) else None


def _bad(args: list[Value], at: int, name: str, wanted: str) -> Fail:
    got = type_name(args[at]).decode() if at < len(args) else "no value"
    return Fail(f"bad argument #{at + 1} to '{name}' ({wanted} expected, got {got})")


def table(args: list[Value], at: int, name: str) -> Table:
    value = any_of(args, at)
    if not isinstance(value, Table):
        raise _bad(args, at, name, "table")
    return value


def text(args: list[Value], at: int, name: str, default: bytes | None = None) -> bytes:
    value = any_of(args, at)
    if value is None and default is not None:
        return default
    if isinstance(value, bytes):
        return value
    if number_of(value) is None:
        raise _bad(args, at, name, "string")
    return tostring(value)


def number(args: list[Value], at: int, name: str, default: float | None = None) -> int | float:
    value = any_of(args, at)
    if value is None and default is not None:
        return default
    found = number_of(value)
    if found is None:
        raise _bad(args, at, name, "number")
    return found


def integer(args: list[Value], at: int, name: str, default: int | None = None) -> int:
    value = number(args, at, name, default)
    whole = integer_of(value)
    if whole is None:
        raise Fail(f"bad argument #{at + 1} to '{name}' (number has no integer representation)")
    return whole
