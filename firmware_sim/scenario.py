"""Timed inputs for a simulator that runs alone.

A scenario is TOML: steps with a time in seconds after the start and the fields of a control input.

    [[step]]
    at = 1.5
    action = "tap"
    side = "right"

    [[step]]
    at = 3
    action = "drop"
    side = "left"
    for = 5

A step that nothing takes is logged and the next one follows; a file that cannot be read stops the start.
"""

from __future__ import annotations

import asyncio
import logging
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firmware_sim.firmware.base import NoTaker
from firmware_sim.hci_port import SimError
from firmware_sim.sound import SoundError

if TYPE_CHECKING:
    from firmware_sim.room import Room

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    at: float
    body: dict[str, Any]


def load_scenario(path: Path) -> list[Step]:
    """The steps by time. Raises `SimError`."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise SimError(f"--scenario {path}: {error}") from error
    raw = document.pop("step", [])
    if document or not isinstance(raw, list):
        raise SimError(
            f"--scenario {path}: only [[step]] tables are known, not {', '.join(document) or 'step = ...'}"
        )
    steps = []
    for number, table in enumerate(raw, 1):
        at = table.pop("at", None) if isinstance(table, dict) else None
        if isinstance(at, bool) or not isinstance(at, int | float) or not 0 <= at < math.inf:
            raise SimError(f"--scenario {path}: step {number} needs 'at', seconds from the start")
        if not isinstance(table.get("action"), str):
            raise SimError(f"--scenario {path}: step {number} needs an 'action'")
        steps.append(Step(float(at), table))
    return sorted(steps, key=lambda step: step.at)


async def play(room: Room, steps: list[Step]) -> None:
    from firmware_sim.control import BadInput, perform

    start = asyncio.get_running_loop().time()
    for step in steps:
        await asyncio.sleep(max(0.0, start + step.at - asyncio.get_running_loop().time()))
        try:
            await perform(room, dict(step.body))
        except (BadInput, NoTaker, SoundError) as error:
            logger.warning("scenario at %.1f s: %s: %s", step.at, step.body["action"], error)
