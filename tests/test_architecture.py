"""The import rules and the machine contract of ARCHITECTURE.md, held by reading the source."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"wire", "edge", "cloud", "firmware_sim", "glassbridge"}

#: Packages that must stay free of clocks, randomness, I/O and logging.
PURE = ("wire", "edge/core", "edge/profiles", "cloud/core", "firmware_sim/firmware")
IMPURE_MODULES = {
    "asyncio",
    "socket",
    "threading",
    "time",
    "random",
    "logging",
    "os",
    "secrets",
    "subprocess",
}

#: folder -> what its files may import of ours and of others (standard library always allowed). Longest match wins.
ALLOWED: dict[str, set[str]] = {
    "wire": {"wire", "pydantic", "orjson"},
    "edge/profiles": {"edge.profiles", "PIL"},
    "edge/core": {"edge.core", "edge.profiles", "wire"},
    "edge": {
        "edge", "wire", "bleak", "bleak_retry_connector", "dbus_fast", "websockets", "uvloop", "pydantic",
        "pydantic_settings", "lc3", "orjson", "PIL", "prometheus_client", "httpx",
    },
    "cloud/core": {"cloud.core", "wire", "orjson"},
    "cloud": {
        "cloud", "wire", "websockets", "uvloop", "starlette", "uvicorn", "httpx", "httpcore", "jwt", "cryptography",
        "nats", "asyncpg", "prometheus_client", "pydantic", "pydantic_settings", "orjson", "lc3", "multipart",
        "python_multipart", "anyio", "wyoming",
    },
    "firmware_sim/firmware": {"firmware_sim.firmware"},
    "firmware_sim": {
        "firmware_sim", "bumble", "bleak", "lc3", "PIL", "starlette", "uvicorn", "uvloop", "orjson", "dbus_fast",
        "python_multipart", "numpy",
    },
}  # fmt: skip


def _files(folder: str) -> Iterator[Path]:
    yield from sorted((ROOT / folder).rglob("*.py"))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level + (node.module or "")
            else:
                yield node.lineno, node.module or ""


def _rule_for(path: Path) -> set[str] | None:
    relative = path.relative_to(ROOT).as_posix()
    best = max((f for f in ALLOWED if relative.startswith(f + "/")), key=len, default=None)
    return ALLOWED[best] if best else None


def _allowed(module: str, rule: set[str]) -> bool:
    top = module.split(".")[0]
    if top in sys.stdlib_module_names:
        return True
    return any(module == entry or module.startswith(entry + ".") for entry in rule)


@pytest.mark.parametrize("folder", sorted(OURS - {"glassbridge"}))
def test_imports_point_in_one_direction(folder: str) -> None:
    wrong = []
    for path in _files(folder):
        rule = _rule_for(path)
        assert rule is not None
        for line, module in _imports(path):
            if module.startswith("."):
                wrong.append(f"{path.relative_to(ROOT)}:{line} relative import {module}")
            elif not _allowed(module, rule):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", PURE)
def test_cores_are_pure(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in _files(folder)
        for line, module in _imports(path)
        if module.split(".")[0] in IMPURE_MODULES
    ]
    assert not wrong, "\n".join(wrong)


def test_only_edge_ble_imports_bleak() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in _files("edge")
        for line, module in _imports(path)
        if module.split(".")[0] in ("bleak", "bleak_retry_connector")
        and path.name not in ("ble.py", "bluez_host.py")
    ]
    assert not wrong, wrong


def test_only_radio_overrides_bumble_internals() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {module}"
        for path in _files("firmware_sim")
        for line, module in _imports(path)
        if module in ("bumble.controller", "bumble.link", "bumble.ll") and path.name != "radio.py"
    ]
    assert not wrong, wrong


def test_every_file_opens_with_a_sentence() -> None:
    wrong = []
    for folder in OURS:
        for path in _files(folder):
            source = path.read_text()
            if source.strip() and not ast.get_docstring(ast.parse(source)):
                wrong.append(str(path.relative_to(ROOT)))
    assert not wrong, wrong


def _machines() -> Iterator[tuple[str, type, dict[object, object]]]:
    """Every (module, state enum, TRANSITIONS) in the pure packages. A module may hold several machines, each with
    a table named TRANSITIONS or *_TRANSITIONS."""
    for package in ("wire", "edge.core", "cloud.core", "firmware_sim.firmware"):
        module = importlib.import_module(package)
        for info in pkgutil.walk_packages(module.__path__, package + "."):
            loaded = importlib.import_module(info.name)
            for name, table in vars(loaded).items():
                if (
                    (name == "TRANSITIONS" or name.endswith("_TRANSITIONS"))
                    and isinstance(table, dict)
                    and table
                ):
                    first = next(iter(table))
                    if isinstance(first, Enum):
                        yield f"{info.name}.{name}", type(first), table


def test_transition_tables_name_every_state() -> None:
    found = list(_machines())
    assert found, "no machine has a TRANSITIONS table"
    for name, states, table in found:
        assert set(table) == set(states), f"{name}: every state needs a row"
        for row in table.values():
            assert set(row) <= set(states), f"{name}: a row leads out of the enum"  # type: ignore[call-overload]


def test_states_change_only_in_move() -> None:
    """`self._state` / `self.state` is assigned only in __init__ and _move of a machine with a table."""
    wrong = []
    for folder in ("wire", "edge/core", "cloud/core", "firmware_sim/firmware"):
        for path in _files(folder):
            tree = ast.parse(path.read_text())
            if "TRANSITIONS" not in path.read_text():
                continue
            for function in ast.walk(tree):
                if not isinstance(function, ast.FunctionDef) or function.name in ("__init__", "_move"):
                    continue
                for node in ast.walk(function):
                    targets = node.targets if isinstance(node, ast.Assign) else []
                    for target in targets:
                        if (
                            isinstance(target, ast.Attribute)
                            and target.attr in ("state", "_state")
                            and isinstance(target.value, ast.Name)
                            and target.value.id == "self"
                        ):
                            wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} in {function.name}")
    assert not wrong, wrong


def test_no_sleep_outside_support() -> None:
    """Unit tests use virtual time. System levels may wait for real things, through tests/support."""
    wrong = []
    for level in ("wire", "edge/core", "edge/profiles", "cloud/core", "firmware_sim/firmware", "simulation"):
        for path in _files(f"tests/{level}"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "asyncio.sleep"):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, wrong
