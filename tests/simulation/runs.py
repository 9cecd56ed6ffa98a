"""One seed is one run: run it, and if it fails find the few steps that are enough to make it fail.

Rules: a run never depends on anything but its seed and the steps that are left in. A shrunken run fails with the same
kind of words as the whole one, so that shrinking does not wander off to another bug.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from tests.simulation.world import START, Step, Violation, World, plan


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run."""

    seed: int
    failure: str | None  # in words, with the simulated time
    where: str  # for an exception of a core: its innermost frames
    hours: float  # simulated wearer hours
    faults: int
    steps: Sequence[Step]

    @property
    def kind(self) -> str:
        """The failure without its numbers and names."""
        words = re.sub(r"\([\d.]+ s\)|\d+|\[.*", "", self.failure or "")
        return re.sub(r"\s+", " ", words)[:60]


def run(seed: int, steps: Sequence[Step] | None = None, *, wearers: int = 2) -> Outcome:
    """Run one seed, or the given steps with its chances."""
    chosen = plan(seed, wearers=wearers) if steps is None else steps
    world = World(seed, wearers=wearers)
    failure, where = None, ""
    try:
        world.run(chosen)
    except Violation as error:
        failure = str(error)
    except Exception as error:  # a core raised: that is what we are here to find
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        failure = f"{type(error).__name__}: {error} ({world.pump.now - START:.3f} s)"
        where = " <- ".join(f"{f.filename.rsplit('/', 2)[-1]}:{f.lineno} {f.name}" for f in reversed(frames))
    hours = wearers * (world.pump.now - START) / 3600
    return Outcome(seed, failure, where, hours, world.faults, chosen)


def shrink(outcome: Outcome, *, wearers: int = 2, runs_max: int = 200) -> Outcome:
    """Leave out steps as long as the run still fails the same way; bounded by `runs_max` runs."""
    best = outcome
    size = max(1, len(best.steps) // 2)
    runs = 0
    while size >= 1 and runs < runs_max:
        start = 0
        while start < len(best.steps) and runs < runs_max:
            fewer = [*best.steps[:start], *best.steps[start + size :]]
            runs += 1
            tried = run(best.seed, fewer, wearers=wearers)
            if tried.failure is not None and tried.kind == outcome.kind:
                best = tried
            else:
                start += size
        size //= 2
    return best


def positions(outcome: Outcome, wearers: int = 2) -> list[int]:
    """Which steps of the seed's plan are left."""
    whole = plan(outcome.seed, wearers=wearers)
    return [whole.index(step) for step in outcome.steps]


def report(outcome: Outcome, shrunken: Outcome) -> str:
    """What a person needs to go after it."""
    lines = [
        f"seed {outcome.seed}: {outcome.failure}",
        *([f"  raised in {outcome.where}"] if outcome.where else []),
        f"  again:    python -m tests.simulation --seed {outcome.seed}",
        f"  shrunken: python -m tests.simulation --seed {outcome.seed} --only "
        + ",".join(map(str, positions(shrunken)))
        + " --trace",
        f"  {shrunken.failure}",
        *(f"    {step}" for step in shrunken.steps),
    ]
    return "\n".join(lines)
