"""A private system bus for tests: dbus-daemon as a process, and the environment that points bleak at it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.tools import require_tool

START_MAX = 30.0
"""Seconds for dbus-daemon to print its address on a busy machine (it takes 10 ms)."""

_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>
  <limit name="max_replies_per_connection">50000</limit>
</busconfig>
"""


@dataclass
class PrivateBus:
    """`address` is what DBUS_SYSTEM_BUS_ADDRESS wants."""

    address: str
    process: asyncio.subprocess.Process

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def private_bus(folder: Path) -> AsyncIterator[PrivateBus]:
    """A bus of its own in `folder`; killed at the end."""
    program = require_tool("dbus-daemon")
    config = folder / "bus.conf"
    config.write_text(_CONFIG.format(socket=folder / "bus.sock"))
    process = await asyncio.create_subprocess_exec(
        program,
        f"--config-file={config}",
        "--nofork",
        "--nopidfile",
        "--print-address=1",
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    bus = PrivateBus(f"unix:path={folder / 'bus.sock'}", process)
    try:
        assert await asyncio.wait_for(process.stdout.readline(), START_MAX), "dbus-daemon did not start"
        yield bus
    finally:
        await bus.kill()
        process._transport.close()  # type: ignore[attr-defined]
