"""The real bluetoothd as a process, over a controller that the kernel has from /dev/vhci (in the guest of lane C).

`lanes()` says which lanes a run is about: A and B on every machine, C alone in the guest, where the others prove nothing.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import DBusError, Variant
from dbus_fast.aio import MessageBus

from edge.bluez_host import BLUEZ, adapters, call
from firmware_sim.vm.vhci import VirtualAdapter
from tests.support.bluez import START_MAX, BluezProcess, PrivateBus, bluez_process, private_bus
from tests.support.waiting import SLOW, until

PROGRAM = Path("/usr/libexec/bluetooth/bluetoothd")
STORAGE = Path("/var/lib/bluetooth")

STOP_MAX = 10.0
"""Seconds for bluetoothd to end after SIGTERM; it takes its links down first."""

RESTART = 0.5
"""Seconds until a bluetoothd that died is started again."""

DEATHS: collections.Counter[int] = collections.Counter()
"""How often a bluetoothd of this run died unasked, by signal."""

LANES = os.environ.get("GLASSBRIDGE_LANES", "bumble,bluez").split(",")
"""`realbluez` in the guest."""


LANE_BLUEZ = "realbluez" if "realbluez" in LANES else "bluez"
"""Whose bluetoothd the stories of this run have below them."""


def lanes(*wanted: str) -> list[object]:
    """Parameters of a fixture: those of the wanted lanes that this run is about."""
    return [pytest.param(lane, marks=pytest.mark.lane(lane)) for lane in wanted if lane in LANES]


class RealBluetoothd:
    """bluetoothd over one HCI transport of the simulator; the same calls as `firmware_sim.fake_bluez`'s `Bluetoothd`."""

    def __init__(self, address: str, transport: str) -> None:
        self.address = address
        self.adapter = VirtualAdapter(transport)
        self.process: asyncio.subprocess.Process | None = None
        self.deaths: list[int] = []
        """Signals that ended it unasked."""
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Until it is there, with its adapter powered; from then on it is started again when it dies by itself."""
        self.adapter.plug()
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name="bluetoothd")
        await until(self._powered, "bluetoothd with a powered adapter", START_MAX / SLOW)

    async def _spawn(self) -> None:
        environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.address}
        debug = ["-d"] if os.environ.get("GLASSBRIDGE_BLUETOOTHD_DEBUG") else []
        self.process = await asyncio.create_subprocess_exec(PROGRAM, "-n", *debug, env=environment)

    async def _keep(self) -> None:
        """As systemd starts it again on behalf of the bus: the next call to org.bluez activates it."""
        while self.process is not None:
            code = await self.process.wait()
            if self.process is None or code >= 0:
                return  # asked to, or its bus has gone
            self.deaths.append(-code)
            DEATHS[-code] += 1
            await asyncio.sleep(RESTART)
            await self._spawn()

    async def _powered(self) -> bool:
        with contextlib.suppress(Exception):  # not on the bus yet, or not ready
            return await powered(self.address)
        return False

    async def _end(self, number: signal.Signals) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        process, self.process = self.process, None
        if process is None:
            return
        if process.returncode is None:
            process.send_signal(number)
            try:
                await asyncio.wait_for(process.wait(), STOP_MAX * SLOW)
            except TimeoutError:
                process.kill()
        await process.wait()

    async def crash(self) -> None:
        """As a segmentation fault would end it. The kernel keeps the adapter and its links."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)
        await self.adapter.unplug()

    async def unplug(self) -> None:
        await self.adapter.unplug()

    async def plug(self) -> None:
        self.adapter.plug()


async def powered(address: str) -> bool:
    """Whether there is an adapter, and it is on. Raises what `edge.bluez_host.call` raises."""
    bus = await MessageBus(bus_address=address).connect()
    try:
        return any(properties["Powered"] for properties in (await adapters(bus)).values())
    finally:
        bus.disconnect()


def forget_all() -> None:
    """Bonds and service tables of earlier tests."""
    assert STORAGE.is_mount(), "not in the guest: these would be the bonds of a person"
    for adapter in STORAGE.iterdir():
        shutil.rmtree(adapter)


@asynccontextmanager
async def real_bluetoothd(address: str, transport: str) -> AsyncIterator[RealBluetoothd]:
    """A bluetoothd that knows no device, ended with its adapter."""
    forget_all()
    daemon = RealBluetoothd(address, transport)
    try:
        await daemon.start()
        yield daemon
    finally:
        await daemon.stop()


class RealBluezProcess:
    """What `tests.support.bluez.BluezProcess` is on lane B: a bluetoothd below an edge that is a process of its own."""

    def __init__(self, bus: PrivateBus, daemon: RealBluetoothd) -> None:
        self.bus = bus
        self._daemon = daemon

    async def start(self) -> None:
        await self._daemon.start()

    async def kill(self) -> None:
        await self._daemon.crash()

    async def do(self, what: str, **more: Any) -> dict[str, Any]:
        """`power` (on), `unplug`, `plug`, `state`, with the answers of lane B's control port."""
        match what:
            case "power":
                await self._ask("Set", "ssv", ["org.bluez.Adapter1", "Powered", Variant("b", more["on"])])
            case "unplug":
                await self._daemon.unplug()
            case "plug":
                await self._daemon.plug()
            case "state":
                pass
            case unknown:
                raise ValueError(f"no real bluetoothd can be asked to {unknown}")
        return {"adapters": [{"devices": await self._devices()}]}

    async def _ask(self, member: str, signature: str, body: list[Any]) -> None:
        bus = await MessageBus(bus_address=self.bus.address).connect()
        try:
            interface = "org.freedesktop.DBus.Properties"
            await call(bus, BLUEZ, "/org/bluez/hci0", interface, member, signature, body)
        finally:
            bus.disconnect()

    async def _devices(self) -> dict[str, dict[str, bool]]:
        bus = await MessageBus(bus_address=self.bus.address).connect()
        try:
            (objects,) = await call(
                bus, BLUEZ, "/", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"
            )
        except DBusError:
            return {}  # it is starting
        finally:
            bus.disconnect()
        devices = [i["org.bluez.Device1"] for i in objects.values() if "org.bluez.Device1" in i]
        return {
            d["Address"].value: {"connected": d["Connected"].value, "paired": d["Paired"].value}
            for d in devices
        }


@asynccontextmanager
async def bluez_below(folder: Path, hci: str) -> AsyncIterator[BluezProcess | RealBluezProcess]:
    """A private bus with the bluetoothd of this run's lane on it."""
    if LANE_BLUEZ == "bluez":
        async with bluez_process(folder, hci) as emulated:
            yield emulated
        return
    async with private_bus(folder) as bus, real_bluetoothd(bus.address, hci) as daemon:
        yield RealBluezProcess(bus, daemon)
