"""A simulated Even G1 and our radio port, over each lane: A is bleak on Bumble, B is bleak's own BlueZ backend.

Everything but dbus-daemon lives in the test's event loop, so that a stack costs 50 ms; what each lane proves stands in
docs/ble-lanes.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from edge.ble import BleakRadio, Link
from edge.profiles.base import Advert
from edge.profiles.g1 import UART
from firmware_sim.bleak_backend import close_radio
from firmware_sim.fake_bluez.adapter import Options
from firmware_sim.fake_bluez.daemon import Bluetoothd
from firmware_sim.peripheral import Glasses
from firmware_sim.room import Room
from tests.support.bluez import PrivateBus, private_bus
from tests.support.waiting import SLOW, until
from wire.errors import GlassesError, GlassesFault

HEARTBEAT = bytes.fromhex("250600010401")


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
    bluez: Bluetoothd | None
    bus: PrivateBus | None
    seen: list[Advert] = field(default_factory=list)
    _open: list[Link] = field(default_factory=list)

    @property
    def daemon(self) -> Bluetoothd:
        assert self.bluez is not None
        return self.bluez

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
            await self.bluez.power(False)
        else:
            await self.room.ports[0].close()

    async def adapter_on(self) -> None:
        if self.bluez is not None:
            await self.bluez.power(True)
        else:
            await self.room.ports[0].open()

    async def close(self) -> None:
        await asyncio.gather(*(link.close() for link in self._open))
        await self.radio.stop()


@asynccontextmanager
async def bench_on(
    lane: str, folder: Path, monkeypatch: pytest.MonkeyPatch, options: Options | None = None
) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        bus = bluez = None
        if lane == "bluez":
            bus = await stack.enter_async_context(private_bus(folder))
            monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
        room = await stack.enter_async_context(Room(["g1"], hci_ports=[f"unix-server:{folder}/hci.sock"]))
        if bus is not None:
            bluez = Bluetoothd(bus.address, [room.hci[0]], options)
            await bluez.start()
            radio = BleakRadio("default")
        else:
            radio = BleakRadio(f"bumble:{room.hci[0]}")
        bench = Bench(lane, room, radio, bluez, bus)
        try:
            await radio.start()
            yield bench
        finally:
            await bench.close()
            if bluez is not None:
                await bluez.stop()
            else:
                await close_radio(room.hci[0])


@pytest_asyncio.fixture(
    params=[
        pytest.param("bumble", marks=pytest.mark.lane("bumble")),
        pytest.param("bluez", marks=pytest.mark.lane("bluez")),
    ]
)
async def bench(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    """Each test once per lane."""
    async with bench_on(request.param, tmp_path, monkeypatch) as bench:
        yield bench


@pytest_asyncio.fixture
async def bluez(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """Lane B alone: what only BlueZ can do to us."""
    async with bench_on("bluez", tmp_path, monkeypatch) as bench:
        yield bench
