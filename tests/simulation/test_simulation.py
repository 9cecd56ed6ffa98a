"""The world holds its invariants for every seed of the fast set; `make simulate SEEDS=N` runs more."""

from __future__ import annotations

import pytest

from tests.simulation.runs import positions, report, run, shrink
from tests.simulation.world import FAULTS, USE, plan

#: As many as fit into the time of `make test`: about 0.15 s each. `make simulate` takes any number.
FAST = 500
#: The seeds are told in parts, so that a report comes soon and `-k "part3"` repeats less.
PARTS = 20


@pytest.mark.parametrize("part", range(PARTS), ids=lambda part: f"part{part}")
def test_the_world_holds_for_every_seed(part: int, request: pytest.FixtureRequest) -> None:
    one = request.config.getoption("--seed")
    if one is not None and part:
        return  # asked for one world
    seeds = [one] if one is not None else range(part, request.config.getoption("--seeds") or FAST, PARTS)
    failures = [outcome for seed in seeds if (outcome := run(seed)).failure is not None]
    assert not failures, "\n" + "\n".join(report(outcome, shrink(outcome)) for outcome in failures[:3])


def test_one_seed_is_one_run() -> None:
    first, again = run(7), run(7)
    assert (first.failure, first.hours, first.faults, first.steps) == (
        again.failure,
        again.hours,
        again.faults,
        again.steps,
    )


def test_plans_contain_everything_sooner_or_later() -> None:
    seen = {step.kind for seed in range(200) for step in plan(seed)}
    assert seen == set(USE) | set(FAULTS)


def test_failing_run_is_shrunk_to_the_steps_that_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault is put into the world itself; the report must name the step that shows it and how to repeat it."""
    from tests.simulation.world import World

    take = World._take

    def broken(self: World, step: object) -> None:
        take(self, step)  # type: ignore[arg-type]
        if getattr(step, "kind", "") == "long_press":
            self._hold(False, "I9: made for this test")

    monkeypatch.setattr(World, "_take", broken)
    seed = next(s for s in range(100) if any(step.kind == "long_press" for step in plan(s)))
    outcome = run(seed)
    assert outcome.failure is not None
    shrunken = shrink(outcome)
    assert [step.kind for step in shrunken.steps] == ["long_press"]
    assert len(positions(shrunken)) == 1
    assert f"python -m tests.simulation --seed {seed} --only" in report(outcome, shrunken)
