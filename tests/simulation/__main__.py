"""Runs many simulated worlds: `python -m tests.simulation --seeds N [--start K]`, or one with `--seed K [--trace]`."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator

from tests.simulation import trace
from tests.simulation.runs import Outcome, report, run, shrink
from tests.simulation.world import plan


def _outcomes(seeds: range, jobs: int) -> Iterator[Outcome]:
    if jobs <= 1:
        yield from map(run, seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(run, seeds, chunksize=4)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to run")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this one only")
    parser.add_argument("--only", help="with --seed: numbers of the steps to keep, from a shrunken report")
    parser.add_argument("--trace", action="store_true", help="with --seed: print what happens")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--shrink", type=int, default=3, help="how many failing seeds to shrink")
    options = parser.parse_args()
    if options.seed is not None:
        steps = plan(options.seed)
        if options.only is not None:
            steps = [steps[int(n)] for n in options.only.split(",") if n]
        with trace.printing(options.trace):
            outcome = run(options.seed, steps)
        print(outcome.failure or "all invariants hold", outcome.where)
        if outcome.failure and options.only is None:
            print(report(outcome, shrink(outcome)))
        return 1 if outcome.failure else 0
    began, hours, faults, runs = time.monotonic(), 0.0, 0, 0
    kinds: Counter[str] = Counter()
    for outcome in _outcomes(range(options.start, options.start + options.seeds), options.jobs):
        runs, hours, faults = runs + 1, hours + outcome.hours, faults + outcome.faults
        if outcome.failure is not None:
            kinds[outcome.kind] += 1
            if sum(kinds.values()) <= options.shrink:
                print(report(outcome, shrink(outcome)), flush=True)
            else:
                print(f"seed {outcome.seed}: {outcome.failure}", flush=True)
        if sys.stderr.isatty() and runs % 20 == 0:
            print(f"\r{runs}/{options.seeds} seeds", end="", file=sys.stderr, flush=True)
    for kind, count in kinds.most_common():
        print(f"  {count:5}  {kind}")
    print(
        f"simulation: {runs} seeds, {hours:.1f} simulated wearer hours, {faults} faults injected,"
        f" {sum(kinds.values())} violations, {time.monotonic() - began:.0f} s"
    )
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main())
