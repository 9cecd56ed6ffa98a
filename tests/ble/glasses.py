"""`make glasses`: the system stories of every model over lanes A and B, ended by one line that counts them.

Rules: nothing of the product is imported before pytest runs, for pytest rewrites the assertions of an installed plugin's
distribution when it is imported first. Stories wait more than they compute, so several run at a time.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

LANE_A = (
    "tests/system/test_edge_ble_g1.py",
    *map(str, sorted(Path("tests/system").glob("test_models_*.py"))),
)
LANE_B = "tests/ble/test_stories.py"
#: A story is several processes that mostly wait for radio intervals and timers: four share two cores well, as in `make
#: test`. More make the limits of the failure catalogue a matter of the machine.
AT_A_TIME = 4


class Count:
    """Stories by model and lane, as they end."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, str], int] = {}
        self.failed: list[str] = []
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or (report.failed and report.when == "setup"):
            place = (self.model(report.nodeid), "B" if report.nodeid.startswith(LANE_B) else "A")
            self.told[place] = self.told.get(place, 0) + 1
        if report.failed and report.nodeid not in self.failed:
            self.failed.append(report.nodeid)
        if report.skipped and report.nodeid not in self.skipped:
            self.skipped.append(report.nodeid)

    def model(self, nodeid: str) -> str:
        """The model that a story is about: named by its file, by its name, or by its parameter."""
        file, _, test = nodeid.partition("::")
        return next(
            model
            for model in self.models()
            if f"_{model}." in file or test.startswith(f"test_{model}_") or f"[{model}" in test
        )

    def models(self) -> list[str]:
        """Every model that has a driver and simulated glasses."""
        from edge.profiles import PROFILES
        from firmware_sim.firmware import MODELS

        return sorted(set(PROFILES) & set(MODELS))


def main(arguments: list[str]) -> int:
    """The exit code: 0 only if every model told all its stories on both lanes."""
    os.environ["ALL_STORIES"] = "1"
    count = Count()
    began = time.monotonic()
    how = ["-q", "--no-header", "-n", str(AT_A_TIME), "--durations", "5"]
    code = int(pytest.main([*how, *LANE_A, LANE_B, *arguments], plugins=[count]))
    for model in count.models():
        a, b = (count.told.get((model, lane), 0) for lane in "AB")
        print(f"{model}: {a + b} stories, {a} over lane A (Bumble), {b} over lane B (BlueZ)")
    for name in count.skipped:
        print(f"skipped: {name}")
    silent = [f"{m} on lane {lane}" for m in count.models() for lane in "AB" if (m, lane) not in count.told]
    for place in silent:
        print(f"no story of {place}")
    skipped = f", {len(count.skipped)} skipped" if count.skipped else ""
    print(
        f"{time.monotonic() - began:.0f} s\n"
        f"{len(count.models())} models, {sum(count.told.values())} stories, {len(count.failed)} failed{skipped}"
    )
    return code or (1 if silent else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
