"""The latency figures: percentiles are right, and the measurement runs on the real set."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from glassbridge.latency import percentile, summary


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_a_measured_value(share: float, value: float) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value


def test_no_values_are_no_figures() -> None:
    with pytest.raises(ValueError, match="no values"):
        summary([])


def test_the_measurement_runs_on_the_real_set() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "glassbridge.latency", "--events", "3", "--json"],
        capture_output=True, text=True, timeout=200, check=True,
    )  # fmt: skip
    figures = json.loads(done.stdout)
    assert figures["events"] == 3
    for name in ("touch_to_app_ms", "edge_to_app_ms", "app_to_lens_ms"):
        assert 0 <= figures[name]["p50"] <= figures[name]["p99"] <= figures[name]["max"]
