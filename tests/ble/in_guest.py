"""Lane C from the inside: pytest in the guest, and its figures for the host.

What is run is the suite of the other lanes: conformance, hazards, the oracle's answers; with STORIES=1 also bad days of the
edge and a story of each model, which take two minutes each here and want a quiet machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FILES = ("test_conformance", "test_bluez", "test_oracle")
STORIES = ("test_edge_bluez", "test_stories")
FIGURES = "figures.json"


class Count:
    """Tests as they end."""

    def __init__(self) -> None:
        self.run = self.skipped = 0
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.run += report.when == "call"
        self.skipped += report.skipped
        if report.failed and report.nodeid not in self.failed:
            self.failed.append(report.nodeid)


def main(arguments: list[str]) -> int:
    """The exit code of pytest; what it found goes to /out."""
    count = Count()
    names = FILES + (STORIES if os.environ.get("STORIES") == "1" else ())
    files = [] if any(".py" in each for each in arguments) else [f"tests/ble/{name}.py" for name in names]
    # Plain tracebacks: to cut source out of a file takes pytest seconds here.
    options = ["-p", "no:cacheprovider", "--tb=native", "--durations=5"]
    try:
        return int(pytest.main([*options, *files, *arguments], plugins=[count]))
    finally:
        _tell(count)


def _tell(count: Count) -> None:
    # Not before pytest, which wants to be the first to read our modules.
    from tests.support.realbluez import DEATHS, PROGRAM

    version = subprocess.run([PROGRAM, "-v"], capture_output=True, text=True, check=True).stdout.strip()
    figures = {
        "bluetoothd": version,
        "linux": os.uname().release,
        "tests": count.run,
        "skipped": count.skipped,
        "failed": count.failed,
        "deaths": sum(DEATHS.values()),
        "kernel_bugs": len(re.findall(r"kernel BUG at|Oops:|BUG: KASAN|WARNING: CPU", _kernel_log())),
    }
    Path("/out", FIGURES).write_text(json.dumps(figures))


def _kernel_log() -> str:
    return subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
