"""Interop runs count themselves: the last line says how many rows passed against which SDKs."""

from __future__ import annotations

import pytest

from tests.interop.driver import GENERATIONS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """`interop: N rows, N passed, N failed (SDK ...)`. A row is one test; a skipped row is a failed one."""

    def count(*outcomes: str) -> int:
        found = {
            report.nodeid
            for outcome in outcomes
            for report in terminalreporter.stats.get(outcome, [])
            if report.nodeid.startswith("tests/interop/") and (outcome != "passed" or report.when == "call")
        }
        return len(found)

    passed, failed = count("passed"), count("failed", "error", "skipped")
    if passed or failed:
        names = ", ".join(GENERATIONS)
        terminalreporter.write_line(
            f"interop: {passed + failed} rows, {passed} passed, {failed} failed (SDK {names})"
        )
