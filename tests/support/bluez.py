"""A private system bus for tests: dbus-daemon as a process, and the environment that points bleak at it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass
class BluezProcess:
    """The emulated bluetoothd as a process of its own, over one HCI transport of a simulator."""

    bus: PrivateBus
    hci: str
    process: asyncio.subprocess.Process | None = None
    _control: int = 0

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "firmware_sim.fake_bluez",
            "--bus",
            self.bus.address,
            "--hci",
            self.hci,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), START_MAX)
        assert line, f"fake_bluez ended with code {await self.process.wait()}"
        self._control = json.loads(line)["control"]

    async def kill(self) -> None:
        """As a segmentation fault would end it."""
        if self.process is None:
            return
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        self.process._transport.close()  # type: ignore[attr-defined]
        self.process = None

    async def do(self, what: str, **more: Any) -> dict[str, Any]:
        """A wish to its control port (firmware_sim/fake_bluez/daemon.py)."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._control)
        try:
            writer.write(json.dumps({"do": what, **more}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(await asyncio.wait_for(reader.readline(), START_MAX))
        finally:
            writer.close()
        assert "error" not in answer, answer
        return answer


@asynccontextmanager
async def bluez_process(folder: Path, hci: str) -> AsyncIterator[BluezProcess]:
    """A private bus with a bluetoothd on it; whoever is started with its address finds the simulated radio."""
    async with private_bus(folder) as bus:
        running = BluezProcess(bus, hci)
        try:
            await running.start()
            yield running
        finally:
            await running.kill()
