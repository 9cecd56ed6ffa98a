"""The simulator for tests: as a process of its own, or as a room inside the test's event loop."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_MAX = 30.0
"""Seconds for a Python process to import Bumble on a busy two-core machine (about 1 s on a quiet one)."""


@dataclass
class Simulator:
    """A running simulator process."""

    ready: dict[str, Any]
    process: asyncio.subprocess.Process

    @property
    def url(self) -> str:
        return str(self.ready["control"])

    @property
    def hci(self) -> str:
        """What follows `bumble:` in the edge's `--radio`."""
        return str(self.ready["hci"][0])


@asynccontextmanager
async def simulator_process(folder: Path, *arguments: str, ports: int = 1) -> AsyncIterator[Simulator]:
    """`python -m firmware_sim` with `ports` HCI ports in `folder`; ended by SIGTERM, which must exit 0."""
    for number in range(ports):
        arguments = (*arguments, "--hci", f"unix-server:{folder}/hci{number}.sock")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "firmware_sim", "--json", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_MAX)
        assert line, f"the simulator ended with code {await process.wait()}"
        yield Simulator(json.loads(line), process)
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            code = await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        transport = process._transport  # type: ignore[attr-defined]
        transport.close()
    assert code == 0, f"the simulator ended with code {code}"
