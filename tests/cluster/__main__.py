"""`make cluster`: the table of failures × gaps × losses, one JSON line each. QUICK=1: one run of each."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path

from tests.cluster.scenarios import MASS, SCENARIOS, main


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    names = ", ".join([*(s.name for s in SCENARIOS), MASS])
    parser.add_argument("names", nargs="*", help="parts of names: " + names)
    parser.add_argument("--runs", type=int, default=10, help="of each failure")
    parser.add_argument("--each", action="store_true", help="print every run")
    parser.add_argument("--keep", type=Path, help="keep the logs here")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, flush=True)


def _run() -> int:
    given = _arguments()
    with contextlib.ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gb-cluster-")))
        folder.mkdir(exist_ok=True)
        good = asyncio.run(main(folder, given.names, given.runs, _say, each=given.each))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(_run())
