"""A Lua 5.4 interpreter in slices: the language that Brilliant Frame runs, stoppable and resumable at every step.

Rules of this file:

- Pure. A running chunk is a Python generator: it yields `None` after every loop turn and call, and `Sleep` when it
  wants to rest, so that whoever drives it owns the time and can throw an error in ("break signal").
- Strings are bytes. Integers are 64 bits and wrap.
- Left out, because no program for glasses needs it: goto, metatables other than `__index`, coroutines, hexadecimal
  floats. What is missing fails like any nil value.
- Bounded as the device is: string and table sizes, call depth, nesting of the source. Beyond them a Lua error comes,
  never a Python one.

Theory of operation: the parser turns source into nodes. A node without a call inside is `pure` and is evaluated by
`get`; others are generators, by `run`. A local variable is a cell in the frame of its function, found by a number that
is unique in the program; a closure takes the cells it needs with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from firmware_sim.firmware.lua_library import MATH, TABLE, strings
from firmware_sim.firmware.lua_values import (
    STRING_MAX,
    Builtin,
    Fail,
    Function,
    LuaError,
    Run,
    Table,
    Value,
    any_of,
    equal,
    integer,
    integer_of,
    number_of,
    table,
    text,
    tonumber,
    tostring,
    truth,
    type_name,
    wrap,
)

CALLS_MAX = 40
"""Nested calls. Each takes about ten Python frames, and Python has a thousand."""
NESTING_MAX = 60
"""Nesting of the source (Lua's own limit is 200)."""
TREE_MAX = 150
"""Depth of one expression, such as a long chain of `..`."""
CHUNK_ID_MAX = 45
"""Characters of a source text that stand in a message (Lua: 60 with quotes)."""


# --- source to tokens -----------------------------------------------------------------------------------------------

_KEYWORDS = frozenset(
    b"and break do else elseif end false for function goto if in local nil not or repeat return then true until"
    b" while".split()
)
_SYMBOL = re.compile(rb"\.\.\.|\.\.|==|~=|<=|>=|<<|>>|//|::|[-+*/%^#&~|<>=(){}\[\];:,.]")
_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
_NUMERAL = re.compile(rb"0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_LONG = re.compile(rb"\[(=*)\[")
_ESCAPES = {
    b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v", b"\\": b"\\",
    b'"': b'"', b"'": b"'", b"\n": b"\n",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    """name, number, string, symbol (keywords too) or end."""
    value: Value
    line: int


class Lexer:
    def __init__(self, source: bytes, chunk: str) -> None:
        self._source, self._chunk = source, chunk
        self._at, self._line = 0, 1

    def tokens(self) -> list[Token]:
        found: list[Token] = []
        while True:
            self._skip_space()
            if self._at >= len(self._source):
                return [*found, Token("end", b"<eof>", self._line)]
            found.append(self._token())

    def _wrong(self, what: str) -> LuaError:
        return LuaError(f"{self._chunk}:{self._line}: {what}".encode())

    def _fail(self, what: str) -> NoReturn:
        raise self._wrong(what)

    def _skip_space(self) -> None:
        source = self._source
        while self._at < len(source):
            if source[self._at] in b" \t\r\n\f\v":
                self._line += source[self._at] == 10
                self._at += 1
            elif source.startswith(b"--", self._at):
                self._at += 2
                if self._long() is None:
                    end = source.find(b"\n", self._at)
                    self._at = len(source) if end < 0 else end
            else:
                return

    def _long(self) -> bytes | None:
        """The text in long brackets that begin here, or None."""
        begin = _LONG.match(self._source, self._at)
        if begin is None:
            return None
        close = b"]" + begin[1] + b"]"
        end = self._source.find(close, begin.end())
        if end < 0:
            self._fail("unfinished long string near '<eof>'")
        text = self._source[begin.end() : end]
        self._line += text.count(b"\n")
        self._at = end + len(close)
        return text.removeprefix(b"\n")

    def _token(self) -> Token:
        source, line = self._source, self._line
        text: bytes | None
        if (name := _NAME.match(source, self._at)) is not None:
            self._at = name.end()
            return Token("symbol" if name[0] in _KEYWORDS else "name", name[0], line)
        if (numeral := _NUMERAL.match(source, self._at)) is not None:
            self._at = numeral.end()
            value = tonumber(numeral[0])
            if value is None or _NAME.match(source, self._at):
                self._fail(f"malformed number near '{numeral[0].decode()}'")
            return Token("number", value, line)
        if source[self._at] in b"'\"":
            return Token("string", self._quoted(), line)
        if (text := self._long()) is not None:
            return Token("string", text, line)
        if (symbol := _SYMBOL.match(source, self._at)) is not None:
            self._at = symbol.end()
            return Token("symbol", symbol[0], line)
        raise self._wrong(f"unexpected symbol near '<\\{source[self._at]}>'")

    def _quoted(self) -> bytes:
        source, quote = self._source, self._source[self._at]
        out = bytearray()
        self._at += 1
        while True:
            if self._at >= len(source) or source[self._at] == 10:
                self._fail("unfinished string near <eof>")
            byte = source[self._at]
            self._at += 1
            if byte == quote:
                return bytes(out)
            if byte == 0x5C:
                out += self._escape()
            else:
                out.append(byte)

    def _escape(self) -> bytes:
        source = self._source
        letter = source[self._at : self._at + 1]
        self._at += 1
        if letter in _ESCAPES:
            self._line += letter == b"\n"
            return _ESCAPES[letter]
        if letter == b"z":
            while source[self._at : self._at + 1].isspace():
                self._line += source[self._at] == 10
                self._at += 1
            return b""
        for pattern, base in (
            (rb"x([0-9a-fA-F]{2})", 16),
            (rb"()(\d{1,3})", 10),
            (rb"u\{([0-9a-fA-F]{1,6})\}", 0),
        ):
            if (found := re.compile(pattern).match(source, self._at - 1)) is None:
                continue
            self._at = found.end()
            value = int(found[found.lastindex or 1], base or 16)
            if base == 0:
                return chr(value).encode("utf-8", "replace") if value <= 0x10FFFF else b"?"
            if value > 255:
                self._fail("decimal escape too large")
            return bytes([value])
        raise self._wrong("invalid escape sequence")


# --- nodes ------------------------------------------------------------------------------------------------------------

Frame = dict[int, list[Value]]
VARARGS = -1
"""The cell that holds the extra arguments of a function."""


class Node:
    """An expression. `pure` ones have `get`, all have `run`."""

    pure = True
    multi = False
    """May have more or fewer than one value (`values`)."""
    depth = 1

    def __init__(self, *children: Node) -> None:
        self.children = children
        self.pure = type(self).pure and all(child.pure for child in children)
        self.depth = 1 + max((child.depth for child in children), default=0)

    def apply(self, frame: Frame, values: list[Value]) -> Value:
        raise NotImplementedError

    def get(self, frame: Frame) -> Value:
        return self.apply(frame, [child.get(frame) for child in self.children])

    def run(self, frame: Frame) -> Run:
        values = []
        for child in self.children:
            values.append(child.get(frame) if child.pure else (yield from child.run(frame)))
        return self.apply(frame, values)

    def values(self, frame: Frame) -> Run:
        return [self.get(frame) if self.pure else (yield from self.run(frame))]

    def hint(self) -> str:
        """How an error message calls this value."""
        return ""


def evaluate(nodes: list[Node], frame: Frame) -> Run:
    """The values of an expression list: the last one may bring several."""
    found: list[Value] = []
    for node in nodes[:-1]:
        found.append(node.get(frame) if node.pure else (yield from node.run(frame)))
    if nodes:
        found += yield from nodes[-1].values(frame)
    return found


class Const(Node):
    def __init__(self, value: Value) -> None:
        super().__init__()
        self.value = value

    def get(self, frame: Frame) -> Value:
        return self.value

    def hint(self) -> str:
        return f" (constant '{_shown(self.value)}')" if isinstance(self.value, bytes) else ""


class Local(Node):
    def __init__(self, variable: int, name: str, kind: str) -> None:
        super().__init__()
        self.variable, self.name, self.kind = variable, name, kind

    def get(self, frame: Frame) -> Value:
        return frame[self.variable][0]

    def hint(self) -> str:
        return f" ({self.kind} '{self.name}')"


class Global(Node):
    def __init__(self, table: Table, name: bytes) -> None:
        super().__init__()
        self.table, self.name = table, name

    def get(self, frame: Frame) -> Value:
        return self.table.get(self.name)

    def hint(self) -> str:
        return f" (global '{self.name.decode()}')"


class Varargs(Node):
    multi = True

    def get(self, frame: Frame) -> Value:
        return frame[VARARGS][0] if frame[VARARGS] else None

    def values(self, frame: Frame) -> Run:
        yield from ()
        return list(frame[VARARGS])


class Paren(Node):
    def apply(self, frame: Frame, values: list[Value]) -> Value:
        return values[0]


class Index(Node):
    def __init__(self, where: str, strings: Table, base: Node, key: Node) -> None:
        super().__init__(base, key)
        self.where, self.strings = where, strings

    def apply(self, frame: Frame, values: list[Value]) -> Value:
        return index(self.strings, values[0], values[1], self.where, self.children[0])

    def hint(self) -> str:
        key = self.children[1]
        return (
            f" (field '{_shown(key.value)}')"
            if isinstance(key, Const) and isinstance(key.value, bytes)
            else ""
        )


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def index(strings: Table, base: Value, key: Value, where: str, node: Node) -> Value:
    if isinstance(base, Table):
        table: Table | None = base
        for _ in range(10):  # a chain of __index tables longer than this is a loop
            assert table is not None
            value = table.get(key)
            if value is not None or table.meta is None:
                return value
            parent = table.meta.field("__index")
            if not isinstance(parent, Table):
                return None
            table = parent
        return None
    if isinstance(base, bytes):
        return strings.get(key)
    raise LuaError(f"{where}attempt to index a {type_name(base).decode()} value{node.hint()}".encode())


class TableNode(Node):
    def __init__(self, positional: list[Node], keyed: list[tuple[Node, Node]]) -> None:
        super().__init__(*positional, *(node for pair in keyed for node in pair))
        self.positional, self.keyed = positional, keyed
        self.pure = self.pure and not (positional and positional[-1].multi)

    def _make(self, listed: list[Value], pairs: list[tuple[Value, Value]]) -> Table:
        table = Table()
        for number, value in enumerate(listed, 1):
            table.set(number, value)
        for key, value in pairs:
            table.set(key, value)
        return table

    def get(self, frame: Frame) -> Value:
        pairs = [(key.get(frame), value.get(frame)) for key, value in self.keyed]
        return self._make([node.get(frame) for node in self.positional], pairs)

    def run(self, frame: Frame) -> Run:
        pairs = []
        for key, value in self.keyed:
            first = key.get(frame) if key.pure else (yield from key.run(frame))
            pairs.append((first, value.get(frame) if value.pure else (yield from value.run(frame))))
        return self._make((yield from evaluate(self.positional, frame)), pairs)


class FunctionNode(Node):
    """A function as it stands in the source."""

    def __init__(
        self, name: str, parameters: list[int], varargs: bool, body: Block, captures: set[int]
    ) -> None:
        super().__init__()
        self.name, self.parameters, self.varargs = name, parameters, varargs
        self.body, self.captures = body, captures

    def get(self, frame: Frame) -> Value:
        return Function(self, {variable: frame[variable] for variable in self.captures})


class Unary(Node):
    def __init__(self, where: str, operator: bytes, operand: Node) -> None:
        super().__init__(operand)
        self.where, self.operator = where, operator

    def apply(self, frame: Frame, values: list[Value]) -> Value:
        (value,) = values
        match self.operator:
            case b"not":
                return not truth(value)
            case b"#":
                if isinstance(value, bytes):
                    return len(value)
                if isinstance(value, Table):
                    return value.length()
                self._fail("get length of", value)
            case b"-":
                number = number_of(value)
                if number is None:
                    self._fail("perform arithmetic on", value)
                return wrap(-number) if isinstance(number, int) else -number
        whole = integer_of(value)
        if whole is None:
            self._fail("perform bitwise operation on", value)
        return ~whole

    def _fail(self, what: str, value: Value) -> NoReturn:
        kind = type_name(value).decode()
        raise LuaError(f"{self.where}attempt to {what} a {kind} value{self.children[0].hint()}".encode())


class Binary(Node):
    def __init__(self, where: str, operator: bytes, left: Node, right: Node) -> None:
        super().__init__(left, right)
        self.where, self.operator = where, operator

    def apply(self, frame: Frame, values: list[Value]) -> Value:
        left, right = values
        match self.operator:
            case b"==":
                return equal(left, right)
            case b"~=":
                return not equal(left, right)
            case b"..":
                return self._join(left, right)
            case b"<":
                return self._less(left, right)
            case b">":
                return self._less(right, left)
            case b"<=":
                return self._less(left, right) or equal(left, right)
            case b">=":
                return self._less(right, left) or equal(left, right)
            case b"&" | b"|" | b"~" | b"<<" | b">>":
                return self._bits(left, right)
        return self._arithmetic(left, right)

    def _fail(self, text: str) -> NoReturn:
        raise LuaError(f"{self.where}{text}".encode())

    def _blame(self, what: str, left: Value, right: Value, good: Callable[[Value], bool]) -> NoReturn:
        side = 1 if good(left) else 0
        kind = type_name((left, right)[side]).decode()
        self._fail(f"attempt to {what} a {kind} value{self.children[side].hint()}")

    def _join(self, left: Value, right: Value) -> bytes:
        def good(value: Value) -> bool:
            return isinstance(value, bytes | int | float) and not isinstance(value, bool)

        if not (good(left) and good(right)):
            self._blame("concatenate", left, right, good)
        joined = tostring(left) + tostring(right)
        if len(joined) > STRING_MAX:
            self._fail("not enough memory")
        return joined

    def _less(self, left: Value, right: Value) -> bool:
        if isinstance(left, bytes) and isinstance(right, bytes):
            return left < right
        if (
            isinstance(left, bytes)
            or isinstance(right, bytes)
            or number_of(left) is None
            or number_of(right) is None
        ):
            kinds = type_name(left).decode(), type_name(right).decode()
            if kinds[0] == kinds[1]:
                self._fail(f"attempt to compare two {kinds[0]} values")
            self._fail(f"attempt to compare {kinds[0]} with {kinds[1]}")
        return bool(left < right)

    def _bits(self, left: Value, right: Value) -> int:
        a, b = integer_of(left), integer_of(right)
        if a is None or b is None:
            if number_of(left) is not None and number_of(right) is not None:
                self._fail("number has no integer representation")
            self._blame("perform bitwise operation on", left, right, lambda v: number_of(v) is not None)
        match self.operator:
            case b"&":
                return a & b
            case b"|":
                return a | b
            case b"~":
                return a ^ b
        shift = b if self.operator == b"<<" else -b
        unsigned = a & 0xFFFF_FFFF_FFFF_FFFF
        if abs(shift) >= 64:
            return 0
        return wrap(unsigned << shift if shift >= 0 else unsigned >> -shift)

    def _arithmetic(self, left: Value, right: Value) -> int | float:
        a, b = number_of(left), number_of(right)
        if a is None or b is None:
            self._blame("perform arithmetic on", left, right, lambda v: number_of(v) is not None)
        whole = isinstance(a, int) and isinstance(b, int)
        try:
            match self.operator:
                case b"+":
                    return wrap(int(a + b)) if whole else a + b
                case b"-":
                    return wrap(int(a - b)) if whole else a - b
                case b"*":
                    return wrap(int(a * b)) if whole else a * b
                case b"/":
                    return float(a) / float(b)
                case b"//":
                    return wrap(int(a // b)) if whole else float(math.floor(a / b))
                case b"%":
                    return int(a % b) if whole else _modulo(float(a), float(b))
            power = float(a) ** float(b)
            return power if isinstance(power, float) else math.nan
        except ZeroDivisionError:
            if whole and self.operator in (b"//", b"%"):
                self._fail(
                    "attempt to perform 'n%0'" if self.operator == b"%" else "attempt to divide by zero"
                )
            return _divided(float(a), float(b), self.operator)
        except (OverflowError, ValueError):
            return math.inf if self.operator != b"%" else math.nan


def _modulo(a: float, b: float) -> float:
    """The remainder with the sign of the divisor; Lua takes an infinite divisor at its word."""
    rest = math.fmod(a, b)
    return rest + b if rest and (rest < 0) != (b < 0) else rest


def _divided(a: float, b: float, operator: bytes) -> float:
    """What floating point says where Python raises."""
    if operator in (b"/", b"//") and a and not math.isnan(a):
        return math.copysign(math.inf, a) * math.copysign(1.0, b)
    return math.inf if operator == b"^" else math.nan


class Logic(Node):
    """`and` and `or`: the right side is only evaluated when it is needed."""

    def __init__(self, stop: bool, left: Node, right: Node) -> None:
        super().__init__(left, right)
        self.stop = stop
        """The truth of the left side that decides alone."""

    def get(self, frame: Frame) -> Value:
        left = self.children[0].get(frame)
        return left if truth(left) == self.stop else self.children[1].get(frame)

    def run(self, frame: Frame) -> Run:
        first, second = self.children
        left = first.get(frame) if first.pure else (yield from first.run(frame))
        if truth(left) == self.stop:
            return left
        return second.get(frame) if second.pure else (yield from second.run(frame))


class Call(Node):
    pure = False
    multi = True

    def __init__(
        self, where: str, machine: Machine, function: Node, arguments: list[Node], method: str = ""
    ) -> None:
        super().__init__(function, *arguments)
        self.where, self.machine, self.method = where, machine, method
        self.function, self.arguments = function, arguments

    def run(self, frame: Frame) -> Run:
        values = yield from self.values(frame)
        return values[0] if values else None

    def values(self, frame: Frame) -> Run:
        node = self.function
        function = node.get(frame) if node.pure else (yield from node.run(frame))
        before: list[Value] = []
        if self.method:
            before = [function]
            function = index(self.machine.strings, function, self.method.encode(), self.where, node)
        arguments = before + (yield from evaluate(self.arguments, frame))
        if not isinstance(function, Function | Builtin):
            hint = f" (method '{self.method}')" if self.method else node.hint()
            kind = type_name(function).decode()
            raise LuaError(f"{self.where}attempt to call a {kind} value{hint}".encode())
        try:
            return (yield from self.machine.call(function, arguments))
        except Fail as failure:
            raise LuaError(f"{self.where}{failure}".encode("utf-8", "surrogateescape")) from None


# --- statements -------------------------------------------------------------------------------------------------------

BREAK = object()
"""What a block returns when a `break` left it; a `return` leaves a list of values."""


class Statement:
    where = ""

    def run(self, frame: Frame) -> Run:
        raise NotImplementedError


class Block:
    def __init__(self, statements: list[Statement]) -> None:
        self.statements = statements

    def run(self, frame: Frame) -> Run:
        for statement in self.statements:
            try:
                outcome = yield from statement.run(frame)
            except Fail as failure:
                raise LuaError(f"{statement.where}{failure}".encode("utf-8", "surrogateescape")) from None
            if outcome is not None:
                return outcome
        return None


class Declare(Statement):
    def __init__(self, variables: list[int], values: list[Node]) -> None:
        self.variables, self.expressions = variables, values

    def run(self, frame: Frame) -> Run:
        values = yield from evaluate(self.expressions, frame)
        for number, variable in enumerate(self.variables):
            frame[variable] = [values[number] if number < len(values) else None]


class DeclareFunction(Statement):
    """`local function`: the name is known inside."""

    def __init__(self, variable: int, function: FunctionNode) -> None:
        self.variable, self.function = variable, function

    def run(self, frame: Frame) -> Run:
        yield from ()
        frame[self.variable] = [None]
        frame[self.variable][0] = self.function.get(frame)


class Assign(Statement):
    def __init__(self, where: str, targets: list[Node], values: list[Node]) -> None:
        self.where, self.targets, self.expressions = where, targets, values

    def run(self, frame: Frame) -> Run:
        places: list[tuple[Value, Value]] = []
        for target in self.targets:
            if isinstance(target, Index):
                base, key = target.children
                table = base.get(frame) if base.pure else (yield from base.run(frame))
                places.append((table, key.get(frame) if key.pure else (yield from key.run(frame))))
            else:
                places.append((None, None))
        values = yield from evaluate(self.expressions, frame)
        for number, (target, (table, key)) in enumerate(zip(self.targets, places, strict=True)):
            value = values[number] if number < len(values) else None
            match target:
                case Local():
                    frame[target.variable][0] = value
                case Global():
                    target.table.set(target.name, value)
                case Index():
                    if not isinstance(table, Table):
                        kind, hint = type_name(table).decode(), target.children[0].hint()
                        raise LuaError(f"{target.where}attempt to index a {kind} value{hint}".encode())
                    table.set(key, value)


class CallStatement(Statement):
    def __init__(self, call: Call) -> None:
        self.call, self.where = call, call.where

    def run(self, frame: Frame) -> Run:
        yield from self.call.values(frame)


class Do(Statement):
    def __init__(self, body: Block) -> None:
        self.body = body

    def run(self, frame: Frame) -> Run:
        return (yield from self.body.run(frame))


class If(Statement):
    def __init__(self, branches: list[tuple[Node, Block]], otherwise: Block | None) -> None:
        self.branches, self.otherwise = branches, otherwise

    def run(self, frame: Frame) -> Run:
        for condition, body in self.branches:
            if truth(condition.get(frame) if condition.pure else (yield from condition.run(frame))):
                return (yield from body.run(frame))
        return (yield from self.otherwise.run(frame)) if self.otherwise is not None else None


class While(Statement):
    def __init__(self, where: str, condition: Node, body: Block) -> None:
        self.where, self.condition, self.body = where, condition, body

    def run(self, frame: Frame) -> Run:
        condition = self.condition
        while truth(condition.get(frame) if condition.pure else (yield from condition.run(frame))):
            yield None
            outcome = yield from self.body.run(frame)
            if outcome is not None:
                return None if outcome is BREAK else outcome
        return None


class Repeat(Statement):
    def __init__(self, where: str, condition: Node, body: Block) -> None:
        self.where, self.condition, self.body = where, condition, body

    def run(self, frame: Frame) -> Run:
        condition = self.condition
        while True:
            yield None
            outcome = yield from self.body.run(frame)
            if outcome is not None:
                return None if outcome is BREAK else outcome
            if truth(condition.get(frame) if condition.pure else (yield from condition.run(frame))):
                return None


class NumericFor(Statement):
    def __init__(self, where: str, variable: int, limits: list[Node], body: Block) -> None:
        self.where, self.variable, self.limits, self.body = where, variable, limits, body

    def run(self, frame: Frame) -> Run:
        values = yield from evaluate(self.limits, frame)
        numbers = [n for v in values[:3] if (n := number_of(v)) is not None and not isinstance(v, bytes)]
        if len(numbers) != min(len(values), 3):
            raise Fail("'for' limit must be a number")
        value, limit, step = numbers if len(numbers) == 3 else (*numbers, 1)
        if step == 0:
            raise Fail("'for' step is zero")
        if any(isinstance(n, float) for n in (value, step)):
            value, step = float(value), float(step)
        while value <= limit if step > 0 else value >= limit:
            yield None
            frame[self.variable] = [value]
            outcome = yield from self.body.run(frame)
            if outcome is not None:
                return None if outcome is BREAK else outcome
            value += step
        return None


class GenericFor(Statement):
    def __init__(
        self, where: str, machine: Machine, variables: list[int], values: list[Node], body: Block
    ) -> None:
        self.where, self.machine = where, machine
        self.variables, self.expressions, self.body = variables, values, body

    def run(self, frame: Frame) -> Run:
        values = (yield from evaluate(self.expressions, frame)) + [None] * 3
        iterate, state, control = values[:3]
        if not isinstance(iterate, Function | Builtin):
            raise Fail(f"for iterator 'for iterator' is not callable (a {type_name(iterate).decode()} value)")
        while True:
            yield None
            found = yield from self.machine.call(iterate, [state, control])
            control = found[0] if found else None
            if control is None:
                return None
            for number, variable in enumerate(self.variables):
                frame[variable] = [found[number] if number < len(found) else None]
            outcome = yield from self.body.run(frame)
            if outcome is not None:
                return None if outcome is BREAK else outcome


class Break(Statement):
    def run(self, frame: Frame) -> Run:
        yield from ()
        return BREAK


class Return(Statement):
    def __init__(self, where: str, values: list[Node]) -> None:
        self.where, self.expressions = where, values

    def run(self, frame: Frame) -> Run:
        return (yield from evaluate(self.expressions, frame))


# --- tokens to nodes --------------------------------------------------------------------------------------------------

_PRIORITY: dict[bytes, tuple[int, int]] = {
    b"or": (1, 1), b"and": (2, 2),
    b"<": (3, 3), b">": (3, 3), b"<=": (3, 3), b">=": (3, 3), b"~=": (3, 3), b"==": (3, 3),
    b"|": (4, 4), b"~": (5, 5), b"&": (6, 6), b"<<": (7, 7), b">>": (7, 7), b"..": (9, 8),
    b"+": (10, 10), b"-": (10, 10), b"*": (11, 11), b"/": (11, 11), b"//": (11, 11), b"%": (11, 11),
    b"^": (14, 13),
}  # fmt: skip
"""Left and right binding; right below left makes an operator right-associative."""
_UNARY_PRIORITY = 12


class _Scope:
    """The functions and blocks around the place that is being parsed."""

    def __init__(self, outer: _Scope | None, varargs: bool) -> None:
        self.outer, self.varargs = outer, varargs
        self.blocks: list[dict[str, int]] = [{}]
        self.captures: set[int] = set()
        self.loops = 0

    def find(self, name: str) -> int | None:
        return next((block[name] for block in reversed(self.blocks) if name in block), None)


class Parser:
    def __init__(self, source: bytes, chunk: str, machine: Machine) -> None:
        self._chunk, self._machine = chunk, machine
        self._tokens = Lexer(source, chunk).tokens()
        self._at = 0
        self._nesting = 0
        self._scope = _Scope(None, varargs=True)

    def chunk(self) -> FunctionNode:
        body = self._block()
        if self._next.kind != "end":
            self._fail("'<eof>' expected")
        return FunctionNode("main chunk", [], True, body, set())

    # -- tools

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _fail(self, what: str) -> NoReturn:
        token = self._next
        near = "<eof>" if token.kind == "end" else f"'{_shown(tostring(token.value))}'"
        raise LuaError(f"{self._chunk}:{token.line}: {what} near {near}".encode())

    def _where(self) -> str:
        return f"{self._chunk}:{self._next.line}: "

    def _is(self, *symbols: bytes) -> bool:
        return self._next.kind == "symbol" and self._next.value in symbols

    def _take(self, symbol: bytes) -> bool:
        if self._is(symbol):
            self._at += 1
            return True
        return False

    def _expect(self, symbol: bytes) -> None:
        if not self._take(symbol):
            self._fail(f"'{symbol.decode()}' expected")

    def _name(self) -> str:
        token = self._next
        if token.kind != "name":
            self._fail("<name> expected")
        self._at += 1
        return str(token.value, "ascii")

    def _deeper(self) -> None:
        self._nesting += 1
        if self._nesting > NESTING_MAX:
            self._fail("chunk has too many syntax levels")

    def _declare(self, name: str) -> int:
        variable = self._machine.new_variable()
        self._scope.blocks[-1][name] = variable
        return variable

    def _variable(self, name: str) -> Node:
        scope: _Scope | None = self._scope
        crossed: list[_Scope] = []
        while scope is not None:
            variable = scope.find(name)
            if variable is not None:
                for inner in crossed:
                    inner.captures.add(variable)
                return Local(variable, name, "upvalue" if crossed else "local")
            crossed.append(scope)
            scope = scope.outer
        return Global(self._machine.globals, name.encode())

    # -- statements

    def _block(self) -> Block:
        self._deeper()
        self._scope.blocks.append({})
        statements: list[Statement] = []
        while not self._is(b"end", b"else", b"elseif", b"until") and self._next.kind != "end":
            if self._take(b";"):
                continue
            if self._is(b"return"):
                statements.append(self._return())
                break
            statements.append(self._statement())
        self._scope.blocks.pop()
        self._nesting -= 1
        return Block(statements)

    def _return(self) -> Statement:
        where = self._where()
        self._expect(b"return")
        stops = (b"end", b"else", b"elseif", b"until", b";")
        values = [] if self._is(*stops) or self._next.kind == "end" else self._expressions()
        self._take(b";")
        return Return(where, values)

    def _loop_body(self) -> Block:
        self._scope.loops += 1
        body = self._block()
        self._scope.loops -= 1
        return body

    def _statement(self) -> Statement:
        where = self._where()
        if self._take(b"if"):
            return self._if()
        if self._take(b"while"):
            condition = self._expression()
            self._expect(b"do")
            body = self._loop_body()
            self._expect(b"end")
            return While(where, condition, body)
        if self._take(b"do"):
            body = self._block()
            self._expect(b"end")
            return Do(body)
        if self._take(b"for"):
            return self._for(where)
        if self._take(b"repeat"):
            return self._repeat(where)
        if self._take(b"function"):
            return self._named_function(where)
        if self._take(b"local"):
            return self._local()
        if self._is(b"break"):
            if not self._scope.loops:
                self._fail("break outside a loop")
            self._at += 1
            return Break()
        return self._expression_statement(where)

    def _if(self) -> Statement:
        branches = []
        otherwise = None
        while True:
            condition = self._expression()
            self._expect(b"then")
            branches.append((condition, self._block()))
            if self._take(b"elseif"):
                continue
            if self._take(b"else"):
                otherwise = self._block()
            self._expect(b"end")
            return If(branches, otherwise)

    def _repeat(self, where: str) -> Statement:
        # The condition sees the locals of the body.
        self._deeper()
        self._scope.loops += 1
        self._scope.blocks.append({})
        statements: list[Statement] = []
        while not self._is(b"until"):
            if self._next.kind == "end":
                self._fail("'until' expected")
            if not self._take(b";"):
                statements.append(self._return() if self._is(b"return") else self._statement())
        self._expect(b"until")
        condition = self._expression()
        self._scope.blocks.pop()
        self._scope.loops -= 1
        self._nesting -= 1
        return Repeat(where, condition, Block(statements))

    def _for(self, where: str) -> Statement:
        names = [self._name()]
        numeric = self._take(b"=")
        if not numeric:
            while self._take(b","):
                names.append(self._name())
            self._expect(b"in")
        limits = self._expressions()
        if numeric and len(limits) not in (2, 3):
            self._fail("'for' needs a start and a limit")
        self._expect(b"do")
        self._scope.blocks.append({})
        variables = [self._declare(name) for name in names]
        body = self._loop_body()
        self._scope.blocks.pop()
        self._expect(b"end")
        if numeric:
            return NumericFor(where, variables[0], limits, body)
        return GenericFor(where, self._machine, variables, limits, body)

    def _named_function(self, where: str) -> Statement:
        name = self._name()
        target = self._variable(name)
        method = False
        while self._is(b".", b":"):
            method = self._take(b":")
            if not method:
                self._at += 1
            part = self._name()
            name += (":" if method else ".") + part
            target = Index(where, self._machine.strings, target, Const(part.encode()))
            if method:
                break
        return Assign(where, [target], [self._function(name, method)])

    def _local(self) -> Statement:
        if self._take(b"function"):
            name = self._name()
            variable = self._declare(name)
            return DeclareFunction(variable, self._function(name))
        names = [self._name()]
        self._attribute()
        while self._take(b","):
            names.append(self._name())
            self._attribute()
        values = self._expressions() if self._take(b"=") else []
        return Declare([self._declare(name) for name in names], values)

    def _attribute(self) -> None:
        if self._take(b"<"):
            self._name()
            self._expect(b">")

    def _expression_statement(self, where: str) -> Statement:
        first = self._suffixed()
        if isinstance(first, Call):
            return CallStatement(first)
        targets = [first]
        while self._take(b","):
            targets.append(self._suffixed())
        if not self._is(b"=") or not all(isinstance(t, Local | Global | Index) for t in targets):
            self._fail("syntax error")
        self._at += 1
        return Assign(where, targets, self._expressions())

    # -- expressions

    def _expressions(self) -> list[Node]:
        found = [self._expression()]
        while self._take(b","):
            found.append(self._expression())
        return found

    def _expression(self, limit: int = 0) -> Node:
        self._deeper()
        where = self._where()
        if self._is(b"not", b"-", b"#", b"~"):
            operator = self._next.value
            self._at += 1
            left: Node = Unary(where, operator, self._expression(_UNARY_PRIORITY))
        else:
            left = self._simple()
        while self._next.kind == "symbol" and self._next.value in _PRIORITY:
            operator = self._next.value
            bind_left, bind_right = _PRIORITY[operator]
            if bind_left <= limit:
                break
            where = self._where()
            self._at += 1
            right = self._expression(bind_right)
            if operator in (b"and", b"or"):
                left = Logic(operator == b"or", left, right)
            else:
                left = Binary(where, operator, left, right)
            if left.depth > TREE_MAX:
                self._fail("expression too complex")
        self._nesting -= 1
        return left

    def _simple(self) -> Node:
        token = self._next
        if token.kind in ("number", "string"):
            self._at += 1
            return Const(token.value)
        for symbol, value in ((b"nil", None), (b"true", True), (b"false", False)):
            if self._take(symbol):
                return Const(value)
        if self._is(b"..."):
            if not self._scope.varargs:
                self._fail("cannot use '...' outside a vararg function")
            self._at += 1
            return Varargs()
        if self._is(b"{"):
            return self._table()
        if self._take(b"function"):
            return self._function("anonymous")
        return self._suffixed()

    def _suffixed(self) -> Node:
        node: Node
        if self._take(b"("):
            node = Paren(self._expression())
            self._expect(b")")
        elif self._next.kind == "name":
            node = self._variable(self._name())
        else:
            self._fail("unexpected symbol")
        while True:
            where = self._where()
            if self._take(b"."):
                node = Index(where, self._machine.strings, node, Const(self._name().encode()))
            elif self._take(b"["):
                key = self._expression()
                self._expect(b"]")
                node = Index(where, self._machine.strings, node, key)
            elif self._take(b":"):
                method = self._name()
                node = Call(where, self._machine, node, self._arguments(), method)
            elif self._is(b"(", b"{") or self._next.kind == "string":
                node = Call(where, self._machine, node, self._arguments())
            else:
                return node
            if node.depth > TREE_MAX:
                self._fail("expression too complex")

    def _arguments(self) -> list[Node]:
        if self._next.kind == "string":
            self._at += 1
            return [Const(self._tokens[self._at - 1].value)]
        if self._is(b"{"):
            return [self._table()]
        self._expect(b"(")
        found = [] if self._is(b")") else self._expressions()
        self._expect(b")")
        return found

    def _table(self) -> Node:
        self._deeper()
        self._expect(b"{")
        positional: list[Node] = []
        keyed: list[tuple[Node, Node]] = []
        while not self._is(b"}"):
            after = self._tokens[self._at + 1] if self._next.kind == "name" else None
            if self._take(b"["):
                key = self._expression()
                self._expect(b"]")
                self._expect(b"=")
                keyed.append((key, self._expression()))
            elif after is not None and after.kind == "symbol" and after.value == b"=":
                name = self._name()
                self._expect(b"=")
                keyed.append((Const(name.encode()), self._expression()))
            else:
                positional.append(self._expression())
            if not (self._take(b",") or self._take(b";")):
                break
        self._expect(b"}")
        self._nesting -= 1
        return TableNode(positional, keyed)

    def _function(self, name: str, method: bool = False) -> FunctionNode:
        self._deeper()
        self._expect(b"(")
        outer, self._scope = self._scope, _Scope(self._scope, varargs=False)
        parameters = [self._declare("self")] if method else []
        while not self._is(b")"):
            if self._take(b"..."):
                self._scope.varargs = True
                break
            parameters.append(self._declare(self._name()))
            if not self._take(b","):
                break
        self._expect(b")")
        body = self._block()
        self._expect(b"end")
        scope, self._scope = self._scope, outer
        self._nesting -= 1
        return FunctionNode(name, parameters, scope.varargs, body, scope.captures)


# --- the machine ------------------------------------------------------------------------------------------------------


def chunk_id(source: bytes) -> str:
    """How Lua names a chunk that was given as text."""
    first, newline, _ = source.partition(b"\n")
    if newline or len(source) >= CHUNK_ID_MAX:
        return f'[string "{_shown(first[:CHUNK_ID_MAX])}..."]'
    return f'[string "{_shown(source)}"]'


class Machine:
    """One Lua state: its globals and its call depth. The basic library is there; the rest is `add`ed."""

    def __init__(self) -> None:
        self.globals = Table()
        self._variables = 0
        self._depth = 0
        self.globals.set(b"_G", self.globals)
        self.globals.set(b"_VERSION", b"Lua 5.4")
        for name in ("assert", "error", "ipairs", "next", "pairs", "pcall", "rawequal", "rawget", "rawlen", "rawset",
                     "select", "setmetatable", "getmetatable", "tonumber", "tostring", "type", "load",
                     "collectgarbage"):  # fmt: skip
            self.globals.set(name.encode(), Builtin(name, getattr(self, f"_{name}")))
        self.add("math", MATH)
        self.add("table", {**TABLE, "sort": self._sort})
        self.strings = self.add("string", strings(self.call))
        """Also reached as methods of a string."""
        self.globals.field("math").set(b"pi", math.pi)
        self.globals.field("math").set(b"huge", math.inf)
        self.globals.field("math").set(b"maxinteger", (1 << 63) - 1)
        self.globals.field("math").set(b"mininteger", -(1 << 63))

    def add(self, library: str, functions: dict[str, Callable[[list[Value]], list[Value] | Run]]) -> Table:
        """A library as a global table; a dotted name reaches into another one."""
        table = Table()
        for name, call in functions.items():
            table.set(name.encode(), Builtin(name, call))
        parent, _, last = library.rpartition(".")
        base = self.globals
        for part in filter(None, parent.split(".")):
            base = base.field(part)
        base.set(last.encode(), table)
        return table

    def new_variable(self) -> int:
        self._variables += 1
        return self._variables

    def load(self, source: bytes, name: str | None = None) -> Function:
        """The chunk as a function. Raises `LuaError` for a syntax error."""
        try:
            node = Parser(source, name or chunk_id(source), self).chunk()
        except RecursionError:
            raise LuaError(b"chunk has too many syntax levels") from None
        return Function(node, {})

    def call(self, function: Function | Builtin, arguments: list[Value]) -> Run:
        """Run to the end; returns the list of results. Raises `LuaError`, or `Fail` from a built-in itself."""
        if isinstance(function, Builtin):
            result = function.call(arguments)
            return result if isinstance(result, list) else (yield from result)
        if self._depth >= CALLS_MAX:
            raise Fail("stack overflow")
        proto = function.proto
        frame: Frame = dict(function.cells)
        for number, variable in enumerate(proto.parameters):
            frame[variable] = [arguments[number] if number < len(arguments) else None]
        if proto.varargs:
            frame[VARARGS] = arguments[len(proto.parameters) :]
        self._depth += 1
        try:
            yield None
            outcome = yield from proto.body.run(frame)
        except RecursionError:
            raise LuaError(b"stack overflow") from None
        finally:
            self._depth -= 1
        return outcome if isinstance(outcome, list) else []

    # -- the basic library

    def _assert(self, args: list[Value]) -> list[Value]:
        if not args:
            raise Fail("bad argument #1 to 'assert' (value expected)")
        if truth(args[0]):
            return args
        return self._error(args[1:2] or [b"assertion failed!"])

    def _error(self, args: list[Value]) -> list[Value]:
        value = args[0] if args else None
        level = args[1] if len(args) > 1 else 1
        if isinstance(value, bytes) and level != 0:
            raise Fail(value.decode("utf-8", "surrogateescape"))
        raise LuaError(value)

    def _pcall(self, args: list[Value]) -> Run:
        if not args:
            raise Fail("bad argument #1 to 'pcall' (value expected)")
        if not isinstance(args[0], Function | Builtin):
            return [False, b"attempt to call a %s value" % type_name(args[0])]
        depth = self._depth
        try:
            return [True, *(yield from self.call(args[0], args[1:]))]
        except LuaError as error:
            self._depth = depth
            return [False, error.value]
        except Fail as failure:
            self._depth = depth
            return [False, str(failure).encode("utf-8", "surrogateescape")]

    def _load(self, args: list[Value]) -> list[Value]:
        try:
            return [self.load(text(args, 0, "load"))]
        except LuaError as error:
            return [None, error.value]

    def _pairs(self, args: list[Value]) -> list[Value]:
        found = table(args, 0, "pairs")
        keys = iter([key for key, _ in found.items()])

        def step(_: list[Value]) -> list[Value]:
            for key in keys:
                value = found.get(key)
                if value is not None:  # it may have been removed meanwhile
                    return [key, value]
            return [None]

        return [Builtin("next", step), found, None]

    def _ipairs(self, args: list[Value]) -> list[Value]:
        found = table(args, 0, "ipairs")

        def step(state: list[Value]) -> list[Value]:
            number = state[1] + 1
            value = found.get(number)
            return [None] if value is None else [number, value]

        return [Builtin("ipairs_aux", step), found, 0]

    def _next(self, args: list[Value]) -> list[Value]:
        items = table(args, 0, "next").items()
        wanted = args[1] if len(args) > 1 else None
        if wanted is None:
            return list(items[0]) if items else [None]
        for number, (key, _) in enumerate(items):
            if equal(key, wanted):
                return list(items[number + 1]) if number + 1 < len(items) else [None]
        raise Fail("invalid key to 'next'")

    def _rawequal(self, args: list[Value]) -> list[Value]:
        return [equal(any_of(args, 0), any_of(args, 1))]

    def _rawget(self, args: list[Value]) -> list[Value]:
        return [table(args, 0, "rawget").get(any_of(args, 1))]

    def _rawlen(self, args: list[Value]) -> list[Value]:
        return [len(args[0]) if args and isinstance(args[0], bytes) else table(args, 0, "rawlen").length()]

    def _rawset(self, args: list[Value]) -> list[Value]:
        table(args, 0, "rawset").set(any_of(args, 1), any_of(args, 2))
        return args[:1]

    def _select(self, args: list[Value]) -> list[Value]:
        if args and args[0] == b"#":
            return [len(args) - 1]
        number = integer(args, 0, "select")
        if number == 0 or -number > len(args) - 1:
            raise Fail("bad argument #1 to 'select' (index out of range)")
        return args[number:] if number > 0 else args[len(args) + number :]

    def _setmetatable(self, args: list[Value]) -> list[Value]:
        target, meta = table(args, 0, "setmetatable"), any_of(args, 1)
        target.meta = meta if isinstance(meta, Table) else None
        return [target]

    def _getmetatable(self, args: list[Value]) -> list[Value]:
        return [args[0].meta if args and isinstance(args[0], Table) else None]

    def _tonumber(self, args: list[Value]) -> list[Value]:
        value = any_of(args, 0)
        if len(args) > 1:
            base = integer(args, 1, "tonumber")
            if not 2 <= base <= 36:
                raise Fail("bad argument #2 to 'tonumber' (base out of range)")
            try:
                return [wrap(int(text(args, 0, "tonumber")[:100].strip(), base))]
            except ValueError:
                return [None]
        return [number_of(value)]

    def _tostring(self, args: list[Value]) -> list[Value]:
        return [tostring(any_of(args, 0))]

    def _type(self, args: list[Value]) -> list[Value]:
        if not args:
            raise Fail("bad argument #1 to 'type' (value expected)")
        return [type_name(args[0])]

    def _collectgarbage(self, args: list[Value]) -> list[Value]:
        return [64.0 if args and args[0] == b"count" else 0]

    def _sort(self, args: list[Value]) -> Run:
        """Insertion by halves, because the comparison may be a Lua function that sleeps."""
        found = table(args, 0, "sort")
        less = args[1] if len(args) > 1 else None
        done: list[Value] = []
        for number in range(1, found.length() + 1):
            value = found.get(number)
            low, high = 0, len(done)
            while low < high:
                yield None
                middle = (low + high) // 2
                if isinstance(less, Function | Builtin):
                    result = yield from self.call(less, [value, done[middle]])
                    before = bool(result) and truth(result[0])
                else:
                    before = Binary("", b"<", Const(value), Const(done[middle])).get({})
                low, high = (low, middle) if before else (middle + 1, high)
            done.insert(low, value)
        for number, value in enumerate(done, 1):
            found.set(number, value)
        return []
