"""The failure report counts what is held and never lets an entry fall through."""

from __future__ import annotations

import pytest

from tests.support.failures_report import (
    CATALOGUE,
    NOT_APPLICABLE,
    compare,
    read_catalogue,
    read_not_applicable,
)

CATALOGUE_TEXT = "# comment\nCON-01 one\nCON-02 two\nCON-03 three\n"


def test_every_entry_is_covered_not_applicable_or_missing() -> None:
    report = compare(read_catalogue(CATALOGUE_TEXT), {"CON-01": ["t"]}, {"CON-02": "why"})
    assert (list(report.covered), list(report.not_applicable), report.missing) == (
        ["CON-01"],
        ["CON-02"],
        ["CON-03"],
    )
    assert not report.ok


def test_unknown_ids_and_contradictions_fail() -> None:
    catalogue = read_catalogue("CON-01 one\n")
    assert not compare(catalogue, {"CON-01": ["t"], "CON-99": ["t"]}, {}).ok
    assert not compare(catalogue, {"CON-01": ["t"]}, {"CON-01": "why"}).ok
    assert not compare(catalogue, {"CON-01": ["t"]}, {"CON-77": "why"}).ok
    assert compare(catalogue, {"CON-01": ["t"]}, {}).ok


@pytest.mark.parametrize("text", ["CON-1 x\n", "CON-01\n", "CON-01 a\nCON-01 b\n", "hello\n"])
def test_bad_catalogue_line_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="bad or repeated"):
        read_catalogue(text)


def test_reason_is_required() -> None:
    assert read_not_applicable("| CON-01 | because |\n| Entry | Why |\n") == {"CON-01": "because"}
    with pytest.raises(ValueError, match="no reason"):
        read_not_applicable("| CON-01 | |\n")


def test_the_committed_files_are_readable_and_complete() -> None:
    catalogue = read_catalogue(CATALOGUE.read_text())
    assert len(catalogue) == 120
    assert set(read_not_applicable(NOT_APPLICABLE.read_text())) <= set(catalogue)
