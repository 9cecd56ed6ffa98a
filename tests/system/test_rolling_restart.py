"""Rolling restarts over real processes and real SDK apps, small; `python -m tests.bench.recovery` runs 30 wearers."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.waiting import SLOW
from tests.system.rolling import PACKAGES, Stage

USERS = 6


@pytest.mark.failure("PRO-05")
@pytest.mark.failure("APP-02")
@pytest.mark.failure("APP-04")
@pytest.mark.failure("CON-16")
async def test_everybody_is_served_again_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    async with Stage(tmp_path, USERS).running() as stage:
        faults: list[tuple[str, Callable[[], Awaitable[None]], float]] = [
            # The bound: seconds from the end of the fault until the slowest wearer's apps are served, on a quiet machine.
            ("resets", lambda: stage.resets(3, 1.0), 10.0),
            ("app servers restarted", lambda: stage.restart_apps(3.0), 10.0),
            ("cloud SIGTERM", lambda: stage.restart_cloud(signal.SIGTERM), 20.0),
            ("cloud SIGKILL", lambda: stage.restart_cloud(signal.SIGKILL), 20.0),
            ("edges killed", lambda: stage.restart_edges(3), 5.0),
        ]
        for name, fault, bound in faults:
            phase = await stage.phase(name, fault)
            assert phase.broken == [], phase.row()
            assert phase.recovery[-1] <= bound * SLOW, phase.row()
            assert len(phase.recovery) == USERS * len(PACKAGES)
            if name in ("resets", "edges killed"):  # the apps were there all the time
                assert phase.while_away == phase.again == phase.webhooks == 0, phase.row()
