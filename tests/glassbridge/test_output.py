"""Times as people write them, and errors in three parts."""

from __future__ import annotations

import json

import pytest

from glassbridge.output import complain, duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5.0), ("200ms", 0.2), ("2m", 120.0), ("1.5", 1.5), (" 1H ", 3600.0)]
)
def test_times(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "5 x", "-1s", "1s2"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="200ms"):
        duration(text)


def test_an_error_has_three_parts_on_stderr_and_one_document_on_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    complain("tap was not taken", "the arm is away", "glassbridge edge status", as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["fix"] == "glassbridge edge status"
    assert err.splitlines() == [
        "error: tap was not taken", "  why: the arm is away", "  fix: glassbridge edge status",
    ]  # fmt: skip
