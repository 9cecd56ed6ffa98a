"""Rolling restarts over real processes, small: `python -m tests.system.rolling` runs it with 30 users."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.rolling import PACKAGES, run


@pytest.mark.failure("PRO-05")
@pytest.mark.failure("APP-02")
@pytest.mark.failure("CON-16")
async def test_everybody_is_served_again_and_nothing_comes_twice(tmp_path: Path) -> None:
    phases = await run(3, 4.0, 12.0, 0.0, tmp_path, print)
    assert sum(phase.doubled for phase in phases) == 0
    for phase in phases:
        if "app server" not in phase.name and phase.name != "start":
            # What did not arrive was declared too old, or came while the apps themselves were coming back.
            slack = 0 if "reset" in phase.name or "black hole" in phase.name else 40
            assert phase.missing <= phase.declared * len(PACKAGES) + slack, phase.line()
