"""A simulated Even G1 and our radio port, over each lane: A is bleak on Bumble, B is bleak's own BlueZ backend on an
emulated bluetoothd, C the same on a real one (in the guest of `make realbluez` alone).

Everything but dbus-daemon and a real bluetoothd lives in the test's event loop, so that a stack costs 50 ms; what each
lane proves stands in docs/ble-lanes.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
import pytest_asyncio
from dbus_fast import Variant
from dbus_fast.aio import MessageBus

from edge.ble import BleakRadio, Link
from edge.bluez_host import BLUEZ, call
from edge.profiles.base import Advert
from edge.profiles.g1 import UART
from firmware_sim.bleak_backend import close_radio
from firmware_sim.fake_bluez.adapter import Options
from firmware_sim.fake_bluez.daemon import Bluetoothd
from firmware_sim.peripheral import Glasses
from firmware_sim.room import Room
from tests.support import bluez as support_bluez
from tests.support import edge_process, simulator
from tests.support.bluez import PrivateBus, private_bus
from tests.support.realbluez import LANE_BLUEZ, LANES, lanes, real_bluetoothd
from tests.support.waiting import SLOW, until
from wire.errors import GlassesError, GlassesFault

HEARTBEAT = bytes.fromhex("250600010401")


ADAPTER = "/org/bluez/hci0"

if LANE_BLUEZ == "realbluez":
    # Programs of ours that start in an emulated machine: a few seconds of imports are a minute when it has little of two
    # cores.
    for _module in (support_bluez, edge_process, simulator):
        _module.START_MAX *= SLOW / 4


class Daemon(Protocol):
    """A bluetoothd, emulated or real, as far as a test may take it by the neck."""

    address: str

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def crash(self) -> None: ...
    async def unplug(self) -> None: ...
    async def plug(self) -> None: ...


@dataclass
class Arm:
    """One link of ours, with everything that it told."""

    link: Link
    said: asyncio.Queue[bytes]
    closed: list[GlassesFault]

    async def echo(self, response: bool = True) -> bytes:
        """Ask for the heartbeat and hear it."""
        await self.link.write(HEARTBEAT, response=response)
        return await asyncio.wait_for(self.said.get(), 5 * SLOW)

    async def until_closed(self, within: float = 5.0) -> None:
        await until(lambda: self.closed, "the end of the link", within)


@dataclass
class Bench:
    """One pair of glasses in a room, and one stack that can hear it."""

    lane: str
    room: Room
    radio: BleakRadio
    bluez: Daemon | None
    bus: PrivateBus | None
    seen: list[Advert] = field(default_factory=list)
    _open: list[Link] = field(default_factory=list)

    @property
    def daemon(self) -> Daemon:
        assert self.bluez is not None
        return self.bluez

    @property
    def fake(self) -> Bluetoothd:
        """Lane B's own daemon, for faults that no real one can be asked for."""
        assert isinstance(self.bluez, Bluetoothd)
        return self.bluez

    # -- what anybody on the bus can ask ---------------------------------------------------------------------------

    async def ask(
        self, path: str, interface: str, member: str, signature: str = "", body: list[Any] | None = None
    ) -> list[Any]:
        """One call to bluetoothd from a client of its own. Raises DBusError."""
        bus = await MessageBus(bus_address=self.daemon.address).connect()
        try:
            return await call(bus, BLUEZ, path, interface, member, signature, body)
        finally:
            bus.disconnect()

    def path(self, side: str) -> str:
        return f"{ADAPTER}/dev_{self.address(side).replace(':', '_')}"

    async def power(self, on: bool) -> None:
        """As a person does in the desktop's settings."""
        body = ["org.bluez.Adapter1", "Powered", Variant("b", on)]
        await self.ask(ADAPTER, "org.freedesktop.DBus.Properties", "Set", "ssv", body)

    async def device_is(self, side: str, name: str) -> bool:
        """A property of an arm's Device1; false for a device that bluetoothd does not know."""
        (objects,) = await self.ask("/", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
        properties = objects.get(self.path(side), {}).get("org.bluez.Device1", {})
        return name in properties and bool(properties[name].value)

    async def connect_by_hand(self, side: str) -> None:
        await self.ask(self.path(side), "org.bluez.Device1", "Connect")

    async def remove_device(self, side: str) -> None:
        await self.ask(ADAPTER, "org.bluez.Adapter1", "RemoveDevice", "o", [self.path(side)])

    def address(self, side: str) -> str:
        return self.glasses.firmware.arms[side].spec.address

    @property
    def glasses(self) -> Glasses:
        return next(iter(self.room.residents.values())).glasses

    async def sight(self, side: str) -> None:
        """Scan until an arm is seen anew."""
        self.seen.clear()
        self.radio.unwatch(self.hear)  # a new listener hears what is fresh; an old one only what changes
        self.radio.watch(self.hear, UART.service)
        await until(lambda: any(a.address == self.address(side) for a in self.seen), f"{side} seen", 10)

    def hear(self, advert: Advert) -> None:
        self.seen.append(advert)

    async def connect(self, side: str, *, pair: bool = False, sight: bool = True) -> Arm:
        if sight:
            await self.sight(side)
        said: asyncio.Queue[bytes] = asyncio.Queue()
        closed: list[GlassesFault] = []
        link = await self.radio.connect(
            self.address(side),
            UART,
            pair=pair,
            on_notify=lambda _, data: said.put_nowait(data),
            on_closed=closed.append,
        )
        self._open.append(link)
        return Arm(link, said, closed)

    async def connect_again(self, side: str, within: float = 15.0) -> Arm:
        """Retry as the edge does: what was seen in the moment of an outage may be gone when it is tried."""
        end = asyncio.get_running_loop().time() + within * SLOW
        while asyncio.get_running_loop().time() < end:
            try:
                return await self.connect(side)
            except GlassesError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(0.2)
        raise AssertionError(f"{side} did not come back within {within * SLOW:g} s")

    async def adapter_off(self) -> None:
        if self.bluez is not None:
            await self.power(False)
        else:
            await self.room.ports[0].close()

    async def adapter_on(self) -> None:
        if self.bluez is not None:
            await self.power(True)
        else:
            await self.room.ports[0].open()

    async def close(self) -> None:
        await asyncio.gather(*(link.close() for link in self._open))
        await self.radio.stop()


@asynccontextmanager
async def bench_on(
    lane: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: Options | None = None,
    model: str = "g1",
) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        bus: PrivateBus | None = None
        bluez: Daemon | None = None
        if lane != "bumble":
            bus = await stack.enter_async_context(private_bus(folder))
            monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
        room = await stack.enter_async_context(Room([model], hci_ports=[f"unix-server:{folder}/hci.sock"]))
        if bus is None:
            stack.push_async_callback(close_radio, room.hci[0])
        elif lane == "realbluez":
            bluez = await stack.enter_async_context(real_bluetoothd(bus.address, room.hci[0]))
        else:
            bluez = Bluetoothd(bus.address, [room.hci[0]], options)
            await bluez.start()
            stack.push_async_callback(bluez.stop)
        radio = BleakRadio("default" if bus is not None else f"bumble:{room.hci[0]}")
        bench = Bench(lane, room, radio, bluez, bus)
        stack.push_async_callback(bench.close)
        await radio.start()
        yield bench


@pytest_asyncio.fixture(params=lanes("bumble", "bluez", "realbluez"))
async def bench(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    """Each test once per lane."""
    async with bench_on(request.param, tmp_path, monkeypatch) as bench:
        yield bench


@pytest_asyncio.fixture(params=lanes("bluez", "realbluez"))
async def bluez(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    """Lanes B and C: what only BlueZ can do to us."""
    async with bench_on(request.param, tmp_path, monkeypatch) as bench:
        yield bench


@pytest_asyncio.fixture(params=[pytest.param(Options(), marks=pytest.mark.lane("bluez"), id="bluez")])
async def emulated(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    """Lane B alone: what a real bluetoothd does too rarely to wait for. Other `Options` by `emulated_with`."""
    async with bench_on("bluez", tmp_path, monkeypatch, request.param) as bench:
        yield bench


def emulated_with(options: Options) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "emulated", [pytest.param(options, marks=pytest.mark.lane("bluez"), id="bluez")], indirect=True
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the guest of lane C, what is about another lane is left out."""
    out = [item for item in items if (lane := item.get_closest_marker("lane")) and lane.args[0] not in LANES]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]
