"""The Lua interpreter: the answers of real Lua, slices, limits, and any source at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_sim.firmware.lua import Machine
from firmware_sim.firmware.lua_values import Builtin, Fail, LuaError, Sleep, Value, tostring

CASES = json.loads((Path(__file__).parent / "lua_cases.json").read_text())["cases"]


class Prompt:
    """Runs chunks and keeps what they print."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.printed: list[str] = []
        self.machine.globals.set(b"print", Builtin("print", self._print))
        self.machine.globals.set(b"sleep", Builtin("sleep", self._sleep))

    def _print(self, args: list[Value]) -> list[Value]:
        self.printed.append(b"\t".join(tostring(a) for a in args).decode("latin-1"))
        return []

    def _sleep(self, args: list[Value]) -> Any:
        yield Sleep(args[0])
        return []

    def run(self, source: str | bytes, steps: int = 200_000) -> list[str]:
        try:
            function = self.machine.load(source.encode() if isinstance(source, str) else source)
            for number, _ in enumerate(self.machine.call(function, [])):
                if number > steps:
                    self.printed.append("...")
                    break
        except LuaError as error:
            self.printed.append("ERR " + error.text.decode("latin-1"))
        return self.printed


@pytest.mark.parametrize("case", [pytest.param(c, id=c["source"][:40]) for c in CASES])
def test_a_chunk_prints_what_real_lua_prints(case: dict[str, Any]) -> None:
    assert Prompt().run(case["source"]) == case["printed"]


def test_a_loop_without_end_runs_in_slices_and_can_be_broken() -> None:
    prompt = Prompt()
    run = prompt.machine.call(prompt.machine.load(b"x = 0\nwhile true do\nx = x + 1 end"), [])
    for _ in range(1000):
        assert next(run) is None
    with pytest.raises(LuaError, match="break signal") as broken:
        run.throw(Fail("break signal"))
    assert broken.value.text.startswith(b'[string "x = 0..."]:2: ')
    assert prompt.machine.globals.get(b"x") > 900


def test_pcall_catches_a_break_as_it_does_on_the_device() -> None:
    prompt = Prompt()
    run = prompt.machine.call(prompt.machine.load(b"print(pcall(function() while true do end end))"), [])
    for _ in range(10):
        next(run)
    with pytest.raises(StopIteration):
        run.throw(Fail("break signal"))
    assert prompt.printed[0].startswith("false\t")


def test_a_sleep_is_handed_to_whoever_drives() -> None:
    prompt = Prompt()
    run = prompt.machine.call(prompt.machine.load(b"for i = 1, 3 do sleep(i) end"), [])
    assert [step.seconds for step in run if step is not None] == [1, 2, 3]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("local function f() return f() + 1 end f()", "stack overflow"),
        ("local function f() return pcall(f) end print(f())", None),
        ("x = ('x'):rep(70000)", "not enough memory"),
        ("x = 'x' while true do x = x .. x end", "not enough memory"),
        ("t = {} while true do t[#t + 1] = 1 end", "not enough memory"),
        ("return " + "(" * 200 + "1" + ")" * 200, "syntax levels"),
        ("return " + "1+" * 500 + "1", "too complex"),
        ("return " + "- " * 300 + "1", "syntax levels"),
        ("return " + "{" * 100 + "}" * 100, "syntax levels"),
        ("do " * 100 + "end " * 100, "syntax levels"),
        ("return x" + ".x" * 300, "too complex"),
        ("return (('a'):rep(300)):find(('a*'):rep(60) .. 'b')", "pattern too complex"),
        ("return ('x'):rep(3000):match(('(x'):rep(40))", "captures"),
        ("return table.concat({('x'):rep(60000), ('x'):rep(60000)})", "not enough memory"),
        ("return string.format('%99999d', 1)", "invalid conversion"),
        ("return string.pack('c99999', 'x')", "size"),
        ("return table.unpack({}, 1, 1e9)", "too many results"),
    ],
)
def test_what_the_device_could_not_hold_is_a_lua_error(source: str, message: str | None) -> None:
    printed = Prompt().run(source)
    if message is not None:
        assert printed[-1].startswith("ERR ")
        assert message in printed[-1]


def test_a_callback_keeps_its_own_variables() -> None:
    prompt = Prompt()
    prompt.run(
        "function make() local n = 0 return function() n = n + 1 return n end end a, b = make(), make()"
    )
    assert prompt.run("a() print(a(), b())") == ["2\t1"]


words = (
    "and break do else elseif end false for function if in local nil not or repeat return then true until while"
    " x y t f print pairs ipairs pcall error string table math 1 2.5 0x1f 'a' \"b\" [[c]] ( ) { } [ ] = == ~= < > <= >= + -"
    " * / // % ^ # .. ... . : , ; & | ~ << >> string.rep string.find string.gsub string.format string.unpack"
    " table.concat table.insert table.sort table.unpack math.floor select tostring tonumber setmetatable '%a+' '(.-)'"
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(words.split(" ")), max_size=25).map(" ".join))
def test_any_words_run_or_are_a_lua_error(source: str) -> None:
    Prompt().run(source, steps=500)


@given(st.binary(max_size=60))
def test_any_bytes_run_or_are_a_lua_error(source: bytes) -> None:
    Prompt().run(source, steps=500)


values = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.binary(max_size=8),
    st.sampled_from([b"%d", b"%s%q", b"<I2", b">i3z", b"s1", b"%b()", b"[^a-z]", b"()", b"%f", b"%1", b"a-", b"$"]),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_arguments_of_any_library_function_are_fine_or_a_failure(data: st.DataObject) -> None:
    machine = Machine()
    library = machine.globals.field(data.draw(st.sampled_from(["string", "table", "math", "_G"])))
    functions = [value for _, value in library.items() if isinstance(value, Builtin)]
    function = data.draw(st.sampled_from(sorted(functions, key=lambda f: f.name)))
    table = machine.globals.field("math") if data.draw(st.booleans()) else None
    args = (
        [table, *data.draw(st.lists(values, max_size=4))]
        if table
        else data.draw(st.lists(values, max_size=4))
    )
    try:
        for number, _ in enumerate(machine.call(function, args)):
            if number > 500:
                break
    except (Fail, LuaError):
        pass
