"""The libraries `string`, `table` and `math` of the Lua interpreter, patterns and binary packing included.

Rules of this file: pure; every function takes a list of values and returns one (or a generator, where it calls back
into Lua); sizes and match steps are bounded; a wrong argument is a `Fail`, never a Python error.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Generator
from typing import Any

from firmware_sim.firmware.lua_values import (
    STRING_MAX,
    TABLE_MAX,
    Builtin,
    Fail,
    Function,
    Run,
    Table,
    Value,
    any_of,
    integer,
    integer_of,
    number,
    table,
    text,
    tostring,
    truth,
    type_name,
    wrap,
)

Library = dict[str, Callable[[list[Value]], list[Value] | Run]]
Caller = Callable[[Function | Builtin, list[Value]], Run]
"""How a library function calls back into Lua."""

MATCH_STEPS_MAX = 20_000
"""Steps of one pattern match; Lua itself gives up at "pattern too complex"."""
MATCH_DEPTH_MAX = 150
CAPTURES_MAX = 32

# --- math -------------------------------------------------------------------------------------------------------------


def _floor(args: list[Value], name: str, towards: Callable[[float], int]) -> list[Value]:
    value = number(args, 0, name)
    if isinstance(value, float):
        return [towards(value) if math.isfinite(value) and abs(value) < 2**63 else value]
    return [value]


def _extreme(args: list[Value], name: str, better: Callable[[Any, Any], bool]) -> list[Value]:
    best = number(args, 0, name)
    for at in range(1, len(args)):
        value = number(args, at, name)
        if better(value, best):
            best = value
    return [best]


def _real(name: str, call: Callable[[float], float]) -> Callable[[list[Value]], list[Value]]:
    def run(args: list[Value]) -> list[Value]:
        try:
            return [call(float(number(args, 0, name)))]
        except (ValueError, OverflowError):
            return [math.nan]

    return run


def _fmod(args: list[Value]) -> list[Value]:
    a, b = number(args, 0, "fmod"), number(args, 1, "fmod")
    if b == 0 and isinstance(b, int) and isinstance(a, int):
        raise Fail("bad argument #2 to 'fmod' (zero)")
    try:
        result = math.fmod(a, b)
    except (ValueError, OverflowError):
        return [math.nan]
    return [int(result) if isinstance(a, int) and isinstance(b, int) else result]


def _tointeger(args: list[Value]) -> list[Value]:
    return [integer_of(any_of(args, 0))]


def _math_type(args: list[Value]) -> list[Value]:
    value = any_of(args, 0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return [None]
    return [b"integer" if isinstance(value, int) else b"float"]


MATH: Library = {
    "abs": lambda args: [abs(number(args, 0, "abs"))],
    "ceil": lambda args: _floor(args, "ceil", math.ceil),
    "floor": lambda args: _floor(args, "floor", math.floor),
    "max": lambda args: _extreme(args, "max", lambda a, b: a > b),
    "min": lambda args: _extreme(args, "min", lambda a, b: a < b),
    "sqrt": _real("sqrt", math.sqrt),
    "sin": _real("sin", math.sin),
    "cos": _real("cos", math.cos),
    "tan": _real("tan", math.tan),
    "exp": _real("exp", math.exp),
    "log": _real("log", math.log),
    "atan": lambda args: [math.atan2(number(args, 0, "atan"), number(args, 1, "atan", 1.0))],
    "fmod": _fmod,
    "tointeger": _tointeger,
    "type": _math_type,
}


# --- table ------------------------------------------------------------------------------------------------------------


def _insert(args: list[Value]) -> list[Value]:
    found = table(args, 0, "insert")
    length = found.length()
    if len(args) == 2:
        found.set(length + 1, args[1])
        return []
    if len(args) != 3:
        raise Fail("wrong number of arguments to 'insert'")
    at = integer(args, 1, "insert")
    if not 1 <= at <= length + 1:
        raise Fail("bad argument #2 to 'insert' (position out of bounds)")
    for position in range(length, at - 1, -1):
        found.set(position + 1, found.get(position))
    found.set(at, args[2])
    return []


def _remove(args: list[Value]) -> list[Value]:
    found = table(args, 0, "remove")
    length = found.length()
    at = integer(args, 1, "remove", length)
    if len(args) > 1 and length + 1 != at and not 1 <= at <= max(length, 1):
        raise Fail("bad argument #2 to 'remove' (position out of bounds)")
    removed = found.get(at)
    for position in range(at, length):
        found.set(position, found.get(position + 1))
    if at <= length:
        found.set(length, None)
    return [removed]


def _concat(args: list[Value]) -> list[Value]:
    found, between = table(args, 0, "concat"), text(args, 1, "concat", b"")
    first, last = integer(args, 2, "concat", 1), integer(args, 3, "concat", found.length())
    parts: list[bytes] = []
    size = 0
    for at in range(first, min(last, first + TABLE_MAX) + 1):
        value = found.get(at)
        if isinstance(value, bool) or not isinstance(value, bytes | int | float):
            raise Fail(f"invalid value (at index {at}) in table for 'concat'")
        parts.append(tostring(value))
        size += len(parts[-1]) + len(between)
        if size > STRING_MAX:
            raise Fail("not enough memory")
    return [between.join(parts)]


def _unpack(args: list[Value]) -> list[Value]:
    found = table(args, 0, "unpack")
    first, last = integer(args, 1, "unpack", 1), integer(args, 2, "unpack", found.length())
    if last - first >= 1000:
        raise Fail("too many results to unpack")
    return [found.get(at) for at in range(first, last + 1)]


def _pack(args: list[Value]) -> list[Value]:
    packed = Table()
    for at, value in enumerate(args, 1):
        packed.set(at, value)
    packed.set(b"n", len(args))
    return [packed]


TABLE: Library = {
    "insert": _insert,
    "remove": _remove,
    "concat": _concat,
    "unpack": _unpack,
    "pack": _pack,
}


# --- string: plain ----------------------------------------------------------------------------------------------------


def _range(args: list[Value], name: str, size: int, first: int, last: int) -> tuple[int, int]:
    """Python bounds of the Lua range in arguments 2 and 3."""
    begin, end = integer(args, 1, name, first), integer(args, 2, name, last)
    begin = max(size + begin + 1, 1) if begin < 0 else max(begin, 1)
    end = size + end + 1 if end < 0 else min(end, size)
    return begin - 1, max(end, begin - 1)


def _byte(args: list[Value]) -> list[Value]:
    subject = text(args, 0, "byte")
    at = integer(args, 1, "byte", 1)
    begin, end = _range(args, "byte", len(subject), 1, at)
    if end - begin > 1000:
        raise Fail("string slice too long")
    return list(subject[begin:end])


def _char(args: list[Value]) -> list[Value]:
    codes = [integer(args, at, "char") for at in range(len(args))]
    for at, code in enumerate(codes):
        if not 0 <= code <= 255:
            raise Fail(f"bad argument #{at + 1} to 'char' (value out of range)")
    return [bytes(codes)]


def _sub(args: list[Value]) -> list[Value]:
    subject = text(args, 0, "sub")
    begin, end = _range(args, "sub", len(subject), 1, -1)
    return [subject[begin:end]]


def _rep(args: list[Value]) -> list[Value]:
    subject, count, between = text(args, 0, "rep"), integer(args, 1, "rep"), text(args, 2, "rep", b"")
    if count <= 0:
        return [b""]
    if (len(subject) + len(between)) * count > STRING_MAX:
        raise Fail("not enough memory")
    if not subject and not between:
        return [b""]
    return [between.join([subject] * count)]


# --- string: patterns -------------------------------------------------------------------------------------------------

_CLASSES: dict[int, bytes] = {
    ord("a"): bytes(range(65, 91)) + bytes(range(97, 123)),
    ord("d"): b"0123456789",
    ord("l"): bytes(range(97, 123)),
    ord("s"): b" \t\n\r\f\v",
    ord("u"): bytes(range(65, 91)),
    ord("w"): b"0123456789" + bytes(range(65, 91)) + bytes(range(97, 123)),
    ord("x"): b"0123456789abcdefABCDEF",
    ord("p"): bytes(c for c in range(33, 127) if not chr(c).isalnum()),
    ord("c"): bytes([*range(32), 127]),
    ord("g"): bytes(range(33, 127)),
}


def _in_class(byte: int, letter: int) -> bool:
    members = _CLASSES.get(letter | 0x20)
    if members is None:
        return byte == letter
    return (byte in members) == (letter | 0x20 == letter)


class Matcher:
    """One match of a Lua pattern against a subject."""

    def __init__(self, subject: bytes, pattern: bytes) -> None:
        self.subject, self.pattern = subject, pattern
        self.captures: list[tuple[int, int]] = []
        """Start and length; -1 is still open, -2 is a position."""
        self._steps = 0

    def match(self, s: int, p: int, depth: int = 0) -> int | None:
        """The end of the match of pattern[p:] at subject[s:], or None."""
        subject, pattern = self.subject, self.pattern
        if depth > MATCH_DEPTH_MAX:
            raise Fail("pattern too complex")
        while True:
            self._steps += 1
            if self._steps > MATCH_STEPS_MAX:
                raise Fail("pattern too complex")
            if p >= len(pattern):
                return s
            byte = pattern[p]
            if byte == 0x28:  # (
                if pattern[p + 1 : p + 2] == b")":
                    return self._capture(s, p + 2, -2, depth)
                return self._capture(s, p + 1, -1, depth)
            if byte == 0x29:  # )
                return self._close(s, p + 1, depth)
            if byte == 0x24 and p + 1 == len(pattern):  # $ at the end
                return s if s == len(subject) else None
            if byte == 0x25 and pattern[p + 1 : p + 2] == b"b":
                after = self._balance(s, p + 2)
                if after is None:
                    return None
                s, p = after, p + 4
                continue
            if byte == 0x25 and pattern[p + 1 : p + 2].isdigit():
                after = self._back(s, pattern[p + 1] - 0x31)
                if after is None:
                    return None
                s, p = after, p + 2
                continue
            end = self._class_end(p)
            suffix = pattern[end : end + 1]
            if suffix == b"?":
                if self._single(s, p, end) and (found := self.match(s + 1, end + 1, depth + 1)) is not None:
                    return found
                p = end + 1
            elif suffix in (b"*", b"+"):
                return self._greedy(s, p, end, 1 if suffix == b"+" else 0, depth)
            elif suffix == b"-":
                return self._lazy(s, p, end, depth)
            elif self._single(s, p, end):
                s, p = s + 1, end
            else:
                return None

    def _class_end(self, p: int) -> int:
        pattern = self.pattern
        if pattern[p] == 0x25:
            if p + 1 >= len(pattern):
                raise Fail("malformed pattern (ends with '%')")
            return p + 2
        if pattern[p] != 0x5B:
            return p + 1
        p += 2 if pattern[p + 1 : p + 2] == b"^" else 1
        first = True
        while first or pattern[p : p + 1] != b"]":
            if p >= len(pattern):
                raise Fail("malformed pattern (missing ']')")
            p += 2 if pattern[p] == 0x25 else 1
            first = False
        return p + 1

    def _single(self, s: int, p: int, end: int) -> bool:
        if s >= len(self.subject):
            return False
        byte, pattern = self.subject[s], self.pattern
        match pattern[p]:
            case 0x2E:  # .
                return True
            case 0x25:
                return _in_class(byte, pattern[p + 1])
            case 0x5B:
                return self._in_set(byte, p, end - 1)
        return pattern[p] == byte

    def _in_set(self, byte: int, p: int, end: int) -> bool:
        pattern = self.pattern
        positive = pattern[p + 1] != 0x5E
        p += 1 if positive else 2
        while p < end:
            if pattern[p] == 0x25 and p + 1 < end:
                if _in_class(byte, pattern[p + 1]):
                    return positive
                p += 2
            elif p + 2 < end and pattern[p + 1] == 0x2D:
                if pattern[p] <= byte <= pattern[p + 2]:
                    return positive
                p += 3
            else:
                if pattern[p] == byte:
                    return positive
                p += 1
        return not positive

    def _greedy(self, s: int, p: int, end: int, least: int, depth: int) -> int | None:
        count = 0
        while self._single(s + count, p, end):
            count += 1
        self._steps += count
        while count >= least:
            found = self.match(s + count, end + 1, depth + 1)
            if found is not None:
                return found
            count -= 1
        return None

    def _lazy(self, s: int, p: int, end: int, depth: int) -> int | None:
        while True:
            found = self.match(s, end + 1, depth + 1)
            if found is not None:
                return found
            if not self._single(s, p, end):
                return None
            s += 1

    def _capture(self, s: int, p: int, kind: int, depth: int) -> int | None:
        if len(self.captures) >= CAPTURES_MAX:
            raise Fail("too many captures")
        self.captures.append((s, kind))
        found = self.match(s, p, depth + 1)
        if found is None:
            self.captures.pop()
        return found

    def _close(self, s: int, p: int, depth: int) -> int | None:
        for at in range(len(self.captures) - 1, -1, -1):
            start, size = self.captures[at]
            if size == -1:
                self.captures[at] = (start, s - start)
                found = self.match(s, p, depth + 1)
                if found is None:
                    self.captures[at] = (start, -1)
                return found
        raise Fail("invalid pattern capture")

    def _balance(self, s: int, p: int) -> int | None:
        if p + 1 >= len(self.pattern):
            raise Fail("malformed pattern (missing arguments to '%b')")
        begin, end = self.pattern[p], self.pattern[p + 1]
        if s >= len(self.subject) or self.subject[s] != begin:
            return None
        level = 1
        for at in range(s + 1, len(self.subject)):
            if self.subject[at] == end:
                level -= 1
                if level == 0:
                    return at + 1
            elif self.subject[at] == begin:
                level += 1
        return None

    def _back(self, s: int, number: int) -> int | None:
        if not 0 <= number < len(self.captures) or self.captures[number][1] < 0:
            raise Fail(f"invalid capture index %{number + 1}")
        start, size = self.captures[number]
        part = self.subject[start : start + size]
        return s + size if self.subject.startswith(part, s) else None

    def values(self, s: int, end: int) -> list[Value]:
        """The captures, or the whole match when there are none."""
        found: list[Value] = []
        for start, size in self.captures:
            if size == -1:
                raise Fail("unfinished capture")
            found.append(start + 1 if size == -2 else self.subject[start : start + size])
        return found or [self.subject[s:end]]


def _search(subject: bytes, pattern: bytes, start: int) -> tuple[Matcher, int, int] | None:
    anchored = pattern.startswith(b"^")
    steps = 0
    for s in range(start, start + 1 if anchored else len(subject) + 1):
        matcher = Matcher(subject, pattern)
        end = matcher.match(s, int(anchored))
        if end is not None:
            return matcher, s, end
        steps += matcher._steps
        if steps > 5 * MATCH_STEPS_MAX:
            raise Fail("pattern too complex")
    return None


def _start(args: list[Value], name: str, size: int) -> int:
    start = integer(args, 2, name, 1)
    return max(size + start, 0) if start < 0 else max(start - 1, 0)


def _find(args: list[Value]) -> list[Value]:
    subject, pattern = text(args, 0, "find"), text(args, 1, "find")
    start = _start(args, "find", len(subject))
    if start > len(subject):
        return [None]
    if truth(any_of(args, 3)) or not any(byte in b"^$*+?.([%-" for byte in pattern):
        at = subject.find(pattern, start)
        return [None] if at < 0 else [at + 1, at + len(pattern)]
    found = _search(subject, pattern, start)
    if found is None:
        return [None]
    matcher, s, end = found
    return [s + 1, end, *(matcher.values(s, end) if matcher.captures else [])]


def _match(args: list[Value]) -> list[Value]:
    subject, pattern = text(args, 0, "match"), text(args, 1, "match")
    start = _start(args, "match", len(subject))
    found = _search(subject, pattern, start) if start <= len(subject) else None
    return [None] if found is None else found[0].values(found[1], found[2])


def _gmatch(args: list[Value]) -> list[Value]:
    subject, pattern = text(args, 0, "gmatch"), text(args, 1, "gmatch")
    state = {"at": 0, "last": -1}

    def step(_: list[Value]) -> list[Value]:
        for s in range(state["at"], len(subject) + 1):
            matcher = Matcher(subject, pattern)
            end = matcher.match(s, 0)
            if end is not None and end != state["last"]:
                state["at"] = state["last"] = end
                return matcher.values(s, end)
        state["at"] = len(subject) + 1
        return [None]

    return [Builtin("gmatch_aux", step)]


def _gsub(call: Caller) -> Callable[[list[Value]], Run]:
    def gsub(args: list[Value]) -> Run:
        subject, pattern = text(args, 0, "gsub"), text(args, 1, "gsub")
        replacement = any_of(args, 2)
        if not isinstance(replacement, bytes | int | float | Table | Function | Builtin):
            kind = type_name(replacement).decode()
            raise Fail(f"bad argument #3 to 'gsub' (string/function/table expected, got {kind})")
        limit = integer(args, 3, "gsub", len(subject) + 1)
        anchored = pattern.startswith(b"^")
        out, s, count = bytearray(), 0, 0
        while count < limit:
            matcher = Matcher(subject, pattern)
            end = matcher.match(s, int(anchored))
            if end is not None:
                count += 1
                values = matcher.values(s, end)
                out += yield from _replace(call, replacement, values, subject[s:end])
            if end is not None and end > s:
                s = end
            elif s < len(subject):
                out.append(subject[s])
                s += 1
            else:
                break
            if len(out) > STRING_MAX:
                raise Fail("not enough memory")
            if anchored:
                break
        return [bytes(out) + subject[s:], count]

    return gsub


def _replace(
    call: Caller, replacement: Value, values: list[Value], whole: bytes
) -> Generator[Any, None, bytes]:
    result: Value
    match replacement:
        case Table():
            result = replacement.get(values[0])
        case Function() | Builtin():
            results = yield from call(replacement, values)
            result = results[0] if results else None
        case _:
            return _filled(tostring(replacement), values, whole)
    if not truth(result):
        return whole
    if isinstance(result, bool) or not isinstance(result, bytes | int | float):
        raise Fail(f"invalid replacement value (a {type_name(result).decode()})")
    return tostring(result)


def _filled(template: bytes, values: list[Value], whole: bytes) -> bytes:
    out, at = bytearray(), 0
    while at < len(template):
        byte = template[at]
        at += 1
        if byte != 0x25:
            out.append(byte)
            continue
        mark = template[at : at + 1]
        at += 1
        if mark == b"%":
            out += b"%"
        elif mark == b"0":
            out += whole
        elif mark.isdigit() and int(mark) <= len(values):
            out += tostring(values[int(mark) - 1])
        else:
            raise Fail("invalid use of '%' in replacement string")
    return bytes(out)


# --- string: format and packing -----------------------------------------------------------------------------------------


def _format(args: list[Value]) -> list[Value]:
    template = text(args, 0, "format")
    out, at, used = bytearray(), 0, 0
    while at < len(template):
        if template[at] != 0x25:
            out.append(template[at])
            at += 1
            continue
        end = at + 1
        while end < len(template) and template[end] in b"-+ #0123456789.":
            end += 1
        flags, letter = template[at + 1 : end].decode(), template[end : end + 1].decode("latin-1")
        at = end + 1
        if letter == "%" and not flags:
            out += b"%"
            continue
        used += 1
        if used >= len(args):
            raise Fail(f"bad argument #{used + 1} to 'format' (no value)")
        out += _formatted(args, used, flags, letter)
        if len(out) > STRING_MAX:
            raise Fail("not enough memory")
    return [bytes(out)]


def _formatted(args: list[Value], at: int, flags: str, letter: str) -> bytes:
    widths = flags.lstrip("-+ #0").split(".")
    if len(widths) > 2 or any(len(w) > 2 for w in widths) or any(w and not w.isdigit() for w in widths):
        raise Fail(f"invalid conversion '%{flags}{letter}' to 'format'")
    match letter:
        case "d" | "i":
            return f"%{flags}d".encode() % integer(args, at, "format")
        case "u" | "x" | "X" | "o":
            return f"%{flags}{letter}".encode() % (integer(args, at, "format") & 0xFFFF_FFFF_FFFF_FFFF)
        case "c":
            return bytes([integer(args, at, "format") & 0xFF])
        case "f" | "e" | "g" | "E" | "G" | "F":
            return f"%{flags}{letter}".encode() % float(number(args, at, "format"))
        case "s":
            return f"%{flags}s".encode() % tostring(args[at])
        case "q":
            quoted = tostring(args[at]).replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\\n")
            return b'"' + quoted + b'"' if isinstance(args[at], bytes) else tostring(args[at])
    raise Fail(f"invalid conversion '%{flags}{letter}' to 'format'")


_SIZES = {"b": 1, "B": 1, "h": 2, "H": 2, "i": 4, "I": 4, "l": 8, "L": 8, "j": 8, "J": 8, "T": 8, "s": 8}
_FLOATS = {"f": "f", "d": "d", "n": "d"}


def _layout(layout: str) -> list[tuple[str, int, str]]:
    """(letter, size, byte order) of each item of a packing layout."""
    items: list[tuple[str, int, str]] = []
    order, at = "little", 0
    while at < len(layout):
        letter = layout[at]
        at += 1
        digits = ""
        while at < len(layout) and layout[at].isdigit() and letter in "iIsc!":
            digits += layout[at]
            at += 1
        if letter in "<=> !":
            order = "big" if letter == ">" else order if letter in " !" else "little"
            continue
        if letter == "c":
            size = int(digits or 0) if len(digits) < 6 else STRING_MAX + 1
            if not digits or size > STRING_MAX:
                raise Fail("missing size for format option 'c'")
        elif letter in _SIZES:
            size = int(digits) if digits and len(digits) < 4 else _SIZES[letter]
            if not 1 <= size <= 16:
                raise Fail(f"integral size ({size}) out of limits [1,16]")
        elif letter in _FLOATS:
            size = 4 if letter == "f" else 8
        elif letter in "xz":
            size = 1
        else:
            raise Fail(f"invalid format option '{letter}'")
        items.append((letter, size, order))
    return items


def _string_pack(args: list[Value]) -> list[Value]:
    out, at = bytearray(), 0
    for letter, size, order in _layout(text(args, 0, "pack").decode("latin-1")):
        if letter == "x":
            out.append(0)
            continue
        at += 1
        if letter in _FLOATS:
            code = (">" if order == "big" else "<") + _FLOATS[letter]
            try:
                out += struct.pack(code, float(number(args, at, "pack")))
            except OverflowError:
                out += struct.pack(code, math.inf)
        elif letter in "zsc":
            body = text(args, at, "pack")
            if letter == "s":
                out += len(body).to_bytes(size, "big" if order == "big" else "little") + body
            elif letter == "z":
                out += body + b"\0"
            elif len(body) > size:
                raise Fail(f"bad argument #{at + 1} to 'pack' (string longer than given size)")
            else:
                out += body.ljust(size, b"\0")
        else:
            value = integer(args, at, "pack")
            low = 0 if letter.isupper() else -(1 << 8 * size - 1)
            high = 1 << 8 * size if letter.isupper() else 1 << 8 * size - 1
            if size < 8 and not low <= value < high:
                raise Fail(f"bad argument #{at + 1} to 'pack' (integer overflow)")
            out += (value % (1 << 8 * size)).to_bytes(size, "big" if order == "big" else "little")
        if len(out) > STRING_MAX:
            raise Fail("not enough memory")
    return [bytes(out)]


def _string_unpack(args: list[Value]) -> list[Value]:
    layout, data = text(args, 0, "unpack").decode("latin-1"), text(args, 1, "unpack")
    at = _start(args, "unpack", len(data))
    values: list[Value] = []

    def take(size: int) -> bytes:
        nonlocal at
        if at + size > len(data):
            raise Fail("bad argument #2 to 'unpack' (data string too short)")
        at += size
        return data[at - size : at]

    for letter, size, order in _layout(layout):
        order_of: Any = order
        if letter == "x":
            take(1)
        elif letter in _FLOATS:
            code = (">" if order == "big" else "<") + _FLOATS[letter]
            values.append(struct.unpack(code, take(size))[0])
        elif letter == "s":
            values.append(take(int.from_bytes(take(size), order_of)))
        elif letter == "c":
            values.append(take(size))
        elif letter == "z":
            end = data.find(b"\0", at)
            if end < 0:
                raise Fail("bad argument #2 to 'unpack' (unfinished string for format 'z')")
            values.append(take(end - at))
            take(1)
        else:
            values.append(wrap(int.from_bytes(take(size), order_of, signed=letter.islower())))
    return [*values, at + 1]


def strings(call: Caller) -> Library:
    """The `string` library; `call` is how gsub calls a Lua function."""
    return {
        "byte": _byte,
        "char": _char,
        "sub": _sub,
        "rep": _rep,
        "len": lambda args: [len(text(args, 0, "len"))],
        "lower": lambda args: [text(args, 0, "lower").lower()],
        "upper": lambda args: [text(args, 0, "upper").upper()],
        "reverse": lambda args: [text(args, 0, "reverse")[::-1]],
        "find": _find,
        "match": _match,
        "gmatch": _gmatch,
        "gsub": _gsub(call),
        "format": _format,
        "pack": _string_pack,
        "unpack": _string_unpack,
    }
