"""`make interop`: the whole interop level in two processes side by side, and one line that counts its rows.

Rules: most of a row is waiting (for timers that the SDK has compiled in), so two processes halve the time of two cores;
each has ports and folders of its own. A row is one test; a skipped row counts as failed. Arguments go to pytest.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tests.interop.driver import GENERATIONS, HERE, install_sdk

#: The first group takes about as long as all others together.
FIRST = "test_sdk_2_1_29.py"


def main(arguments: list[str]) -> int:
    """Run everything; the exit code is pytest's worst."""
    install_sdk()  # once, before two processes want it
    others = sorted(str(path) for path in HERE.glob("test_*.py") if path.name != FIRST)
    groups = [[str(HERE / FIRST)], others]
    with tempfile.TemporaryDirectory() as folder:
        results = [Path(folder) / f"{number}.xml" for number, _ in enumerate(groups)]
        processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "pytest",
                    "-q",
                    "--no-header",
                    f"--junitxml={result}",
                    *arguments,
                    *group,
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for group, result in zip(groups, results, strict=True)
        ]
        outputs = [process.communicate()[0] for process in processes]
        codes = [process.returncode for process in processes]
        rows = bad = 0
        for output, code, result in zip(outputs, codes, results, strict=True):
            if code:
                print(output)
            if result.exists():
                for suite in ElementTree.parse(result).getroot().iter("testsuite"):
                    rows += int(suite.get("tests", 0))
                    bad += sum(int(suite.get(kind, 0)) for kind in ("failures", "errors", "skipped"))
    print(f"interop: {rows} rows, {rows - bad} passed, {bad} failed (SDK {', '.join(GENERATIONS)})")
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
