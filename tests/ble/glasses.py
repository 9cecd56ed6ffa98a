"""`make glasses`: the system stories of every model over lanes A and B, ended by one line that counts them."""

from __future__ import annotations

import os
import sys

import pytest

from edge.profiles import PROFILES
from firmware_sim.firmware import MODELS

LANE_A = "tests/system/test_models_{model}.py"
LANE_B = "tests/ble/test_stories.py"


class Count:
    """Stories by model, as they end."""

    def __init__(self, models: list[str]) -> None:
        self.models = dict.fromkeys(models, 0)
        self.failed: list[str] = []
        self.skipped = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or (report.failed and report.when == "setup"):
            self.models[self._model(report.nodeid)] += 1
        if report.failed and report.nodeid not in self.failed:
            self.failed.append(report.nodeid)
        self.skipped += report.skipped

    def _model(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        return next(m for m in self.models if f"_{m}." in file or test.startswith(f"test_{m}_"))


def main(arguments: list[str]) -> int:
    """The exit code: 0 only if every model told all its stories."""
    models = sorted(set(PROFILES) & set(MODELS))
    os.environ["ALL_STORIES"] = "1"
    files = {m: LANE_A.format(model=m) if m != "g1" else "tests/system/test_edge_ble_g1.py" for m in models}
    count = Count(models)
    code = int(pytest.main(["-q", "--no-header", *files.values(), LANE_B, *arguments], plugins=[count]))
    for model, stories in count.models.items():
        print(f"{model}: {stories} stories")
    skipped = f", {count.skipped} skipped" if count.skipped else ""
    stories = sum(count.models.values())
    print(f"{len(models)} models, {stories} stories, {len(count.failed)} failed{skipped}")
    return code or (0 if all(count.models.values()) else 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
