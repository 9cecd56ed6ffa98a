"""Says which entries of the failure catalogue are held by a test, which cannot happen here, and which are missing.

Rules: `python -m tests.support.failures_report [-v]`; exit 1 when an entry is missing, unknown, or both held and
declared impossible. A marker counts when pytest collects its test; whether the test passes is pytest's business.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = ROOT / "tests" / "failure_catalogue.txt"
NOT_APPLICABLE = ROOT / "docs" / "failures-not-applicable.md"

_ID = re.compile(r"^[A-Z]{3}-\d{2}$")


def read_catalogue(text: str) -> dict[str, str]:
    """Id -> title. Raises ValueError for a line that is neither an entry nor a comment."""
    entries: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        identifier, _, title = line.partition(" ")
        if not _ID.match(identifier) or not title or identifier in entries:
            raise ValueError(f"failure catalogue: bad or repeated line {line!r}")
        entries[identifier] = title
    return entries


def read_not_applicable(text: str) -> dict[str, str]:
    """Id -> reason, from the table of the page. Raises ValueError for a row without a reason."""
    reasons: dict[str, str] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 2 and _ID.match(cells[0]):
            if not cells[1]:
                raise ValueError(f"failures-not-applicable: {cells[0]} has no reason")
            reasons[cells[0]] = cells[1]
    return reasons


@dataclass(frozen=True, slots=True)
class Report:
    covered: Mapping[str, Sequence[str]]  # id -> node ids of its tests
    not_applicable: Mapping[str, str]
    missing: Sequence[str]
    unknown: Mapping[str, Sequence[str]]  # marked, but no such entry
    contradicted: Sequence[str]  # declared impossible, yet a test holds it

    @property
    def ok(self) -> bool:
        return not (self.missing or self.unknown or self.contradicted)


def compare(
    catalogue: Mapping[str, str], marked: Mapping[str, Sequence[str]], not_applicable: Mapping[str, str]
) -> Report:
    """What the markers say about the catalogue."""
    return Report(
        covered={i: marked[i] for i in catalogue if i in marked},
        not_applicable={i: r for i, r in not_applicable.items() if i in catalogue and i not in marked},
        missing=[i for i in catalogue if i not in marked and i not in not_applicable],
        unknown={i: tests for i, tests in marked.items() if i not in catalogue}
        | {i: ["docs/failures-not-applicable.md"] for i in not_applicable if i not in catalogue},
        contradicted=[i for i in not_applicable if i in marked],
    )


class Collector:
    """pytest plugin: notes the failure markers of every collected test."""

    def __init__(self) -> None:
        self.marked: dict[str, list[str]] = defaultdict(list)
        self.errors: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.errors.append(report.nodeid)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for marker in item.iter_markers("failure"):
                for identifier in marker.args:
                    test = item.nodeid.partition("[")[0]
                    if test not in self.marked[identifier]:
                        self.marked[identifier].append(test)


def collect() -> Collector:
    """Collect the whole suite in this process, silently."""
    collector = Collector()
    # The suite's own options speak to the terminal plugin, which stays silent here.
    arguments = [
        "-o",
        "addopts=",
        "-p",
        "no:terminal",
        "-p",
        "no:cacheprovider",
        "--collect-only",
        str(ROOT / "tests"),
    ]
    code = pytest.main(arguments, plugins=[collector])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and not collector.errors:
        collector.errors.append(f"tests/ (pytest ended with {code!s})")
    return collector


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="make failures", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="name the tests of each entry")
    options = parser.parse_args(argv)
    catalogue = read_catalogue(CATALOGUE.read_text())
    collector = collect()
    report = compare(catalogue, collector.marked, read_not_applicable(NOT_APPLICABLE.read_text()))
    if options.verbose:
        for identifier, tests in report.covered.items():
            print(f"{identifier} {catalogue[identifier]}")
            for test in tests:
                print(f"    {test}")
    for identifier, reason in report.not_applicable.items():
        print(f"not applicable  {identifier} {catalogue[identifier]}: {reason}")
    for identifier in report.missing:
        print(f"MISSING         {identifier} {catalogue[identifier]}")
    for identifier, where in report.unknown.items():
        print(f"UNKNOWN ID      {identifier} in {', '.join(where)}")
    for identifier in report.contradicted:
        print(f"CONTRADICTED    {identifier} is declared not applicable, but a test holds it")
    for node in collector.errors:
        print(f"NOT COLLECTED   {node}: its markers are not counted")
    tests_total = len({test for tests in report.covered.values() for test in tests})
    print(
        f"failures: {len(catalogue)} in the catalogue, {len(report.covered)} covered by {tests_total} tests,"
        f" {len(report.not_applicable)} not applicable, {len(report.missing)} missing"
    )
    return 0 if report.ok and not collector.errors else 1


if __name__ == "__main__":
    sys.exit(main())
