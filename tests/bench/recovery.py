"""How long until everything works again after a fault, and what is lost: real processes, 30 wearers, two SDK apps each.

    python -m tests.bench.recovery [--users 30] [--rounds 1] [--quick] [--only SIGKILL]

Prints one JSON line per fault and then a table in Markdown; exit 1 when a promise of docs/reliability.md is broken, an
AssertionError when somebody is not served again in time. The programs, the wearers and the judgement are those of
`tests/system/rolling.py`. Faults come in an order in which the links had half a minute of health before each restart of
the cloud, as in an ordinary deployment: after a flap the reconnect pauses are longer on purpose.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.system.rolling import Phase, Stage

#: What the columns of the table are called.
COLUMNS = {
    "due": "events × apps", "lost": "lost", "doubled": "doubled", "disordered": "out of order", "again": "again at a crash",
    "expired": "declared too old", "while_away": "app away", "forgotten": "edge killed", "webhooks": "webhooks",
    "online": "links back (s)", "p50": "works p50 (s)", "p99": "works p99 (s)",
}  # fmt: skip

Fault = Callable[[], Awaitable[None]]


def faults(stage: Stage, *, quick: bool) -> list[tuple[str, Fault]]:
    """Name and deed, in order. Each round begins with links that have been healthy for a while, or are new."""
    outage, hole, calm = (5.0, 12.0, 12.0) if quick else (25.0, 20.0, 32.0)

    async def nothing() -> None:
        pass

    async def healthy(fault: Fault) -> None:
        await asyncio.sleep(calm)
        await fault()

    async def no_idle_cut() -> None:
        # Proxies in the field cut after 20 s at the earliest; each side speaks every 15 s.
        await stage.idle(20.0, 45.0)
        assert stage.proxy.idle_cuts == 0, "a healthy connection was silent in one direction"

    return [
        ("nothing", nothing),
        ("RST of every connection, 5 times in 10 s", lambda: stage.resets(5, 2.0)),
        (f"both app servers away {outage:g} s", lambda: stage.restart_apps(outage)),
        ("cloud SIGTERM and restart", lambda: stage.restart_cloud(signal.SIGTERM)),
        (f"pings swallowed for {calm:g} s", lambda: stage.swallow_pings(calm)),
        ("cloud SIGKILL and restart", lambda: stage.restart_cloud(signal.SIGKILL)),
        *([] if quick else [("45 s idle, cut after 20 s per direction", no_idle_cut)]),
        (f"black hole up, {hole:g} s", lambda: stage.hole(hole, up=True)),
        (f"black hole down, {hole:g} s", lambda: healthy(lambda: stage.hole(hole, down=True))),
        (f"black hole both ways, {hole:g} s", lambda: healthy(lambda: stage.hole(hole, up=True, down=True))),
        ("SIGKILL of every third edge", lambda: stage.restart_edges(3)),
    ]


async def run(users: int, rounds: int, *, quick: bool, only: str, folder: Path) -> list[Phase]:
    """All faults, `rounds` times."""
    phases: list[Phase] = []
    async with Stage(folder, users).running() as stage:
        for _ in range(rounds):
            for name, fault in faults(stage, quick=quick):
                if only.lower() in name.lower():
                    phases.append(await stage.phase(name, fault))
                    print(json.dumps(phases[-1].row()), flush=True)
    return phases


def table(phases: list[Phase]) -> str:
    """In Markdown."""
    lines = ["| fault | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "--:|" * len(COLUMNS)]
    for phase in phases:
        row = phase.row()
        lines.append(f"| {phase.name} | " + " | ".join(str(row[name]) for name in COLUMNS) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.recovery", description=__doc__)
    parser.add_argument("--users", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="6 users, shorter faults: about two minutes")
    parser.add_argument("--only", default="", help="only faults whose name contains this")
    options = parser.parse_args()
    users = min(options.users, 6) if options.quick else options.users
    with tempfile.TemporaryDirectory() as folder:
        phases = asyncio.run(
            run(users, options.rounds, quick=options.quick, only=options.only, folder=Path(folder))
        )
    print(table(phases))
    broken = [f"{phase.name}: {promise}" for phase in phases for promise in phase.broken]
    print("\n".join(broken) or f"{users} users × 2 apps, {len(phases)} faults: every promise held")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
