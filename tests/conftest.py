"""Rules for every test: no task outlives it, a skip is a failure where all is required, levels are counted.

The last lines of a run count tests by level (the folder below tests/), so that "make test" says what it held.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio

from tests.support.tools import all_required

ROOT = Path(__file__).resolve().parent

# How long an example takes says how busy the machine is: Hypothesis' limit of 0.2 s has failed tests that were right.
hypothesis.settings.register_profile("glassbridge", deadline=None)
hypothesis.settings.load_profile("glassbridge")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="run simulations with this one seed")
    parser.addoption("--seeds", type=int, default=None, help="how many seeds a simulation runs")


@pytest_asyncio.fixture(autouse=True)
async def _leak_guard(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """An asyncio test must leave no task of its own behind."""
    before = asyncio.all_tasks()
    yield
    # Callbacks scheduled by a closing transport get a few turns of the loop; a real leak stays.
    for _ in range(10):
        left = [t for t in asyncio.all_tasks() - before if not t.done() and t is not asyncio.current_task()]
        if not left:
            return
        await asyncio.sleep(0.01)
    names = ", ".join(sorted(t.get_name() + " " + repr(t.get_coro()) for t in left))
    for task in left:
        task.cancel()
    pytest.fail(f"leaked tasks: {names}", pytrace=False)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and all_required() and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but GLASSBRIDGE_REQUIRE_ALL=1: {report.longrepr}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    levels: collections.Counter[str] = collections.Counter()
    for report in terminalreporter.stats.get("passed", []):
        if getattr(report, "when", None) == "call":
            parts = Path(report.nodeid.split("::")[0]).parts
            levels[parts[1] if len(parts) > 2 else "rules"] += 1
    if levels:
        text = " · ".join(f"{name} {count}" for name, count in sorted(levels.items()))
        terminalreporter.write_line(f"passed by level: {text}")
