"""The emulated bluetoothd: composition root, faults and a control port.

Rules of this file:

- `stop()` leaves like SIGTERM, `crash()` like SIGKILL: no signal is sent, the name simply has no owner any more.
- Bonds outlive a crash when the same `Bluetoothd` is started again, as files on a disk would.
- The control port listens on loopback only: one JSON object per line, one answer per line.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from bleak.exc import BleakError
from bumble.keys import MemoryKeyStore

from firmware_sim.fake_bluez.adapter import Adapter, Options
from firmware_sim.fake_bluez.agents import Agents
from firmware_sim.fake_bluez.bus import BluezError, Bus, Fault
from firmware_sim.fake_bluez.device import Device

logger = logging.getLogger(__name__)

REPLUG = 0.5
"""Seconds between two looks for a controller that has gone; udev is faster, a person plugging it in is not."""


class Bluetoothd:
    """org.bluez on the bus at `address`, with one adapter for each HCI transport."""

    def __init__(self, address: str, transports: list[str], options: Options | None = None) -> None:
        self.address = address
        self.transports = transports
        self.options = options or Options()
        self.adapters: list[Adapter] = []
        self.bus = Bus(address)
        self.agents = Agents(self.bus)
        self._keys = [MemoryKeyStore() for _ in transports]
        self._unplugged: set[int] = set()

    async def start(self) -> None:
        """Raises OSError without a bus, RuntimeError when the name is taken, `BleakError` without a controller."""
        self.bus = Bus(self.address)
        await self.bus.open()
        self.agents = Agents(self.bus)
        self.agents.export()
        self.adapters = []
        try:
            for number, transport in enumerate(self.transports):
                adapter = Adapter(self.bus, number, transport, self.agents, self.options)
                adapter.controller._keys = self._keys[number]
                self.adapters.append(adapter)
                await adapter.plug()
            await self.bus.own_name()
        except BaseException:
            await self.stop()
            raise
        self.bus.spawn(self._keep_plugged(), "replug")

    async def stop(self) -> None:
        for adapter in self.adapters:
            await adapter.close()
        await self.bus.close()

    async def crash(self) -> None:
        """Go without a word: the bus connection first, so that nothing of the end is told."""
        await self.bus.close()
        for adapter in self.adapters:
            await adapter.close()

    async def _keep_plugged(self) -> None:
        while True:
            await asyncio.sleep(REPLUG)
            for number, adapter in enumerate(self.adapters):
                if self.bus.objects.get(adapter.path) is not adapter and number not in self._unplugged:
                    try:
                        await adapter.plug()
                    except BleakError as error:
                        logger.debug("no controller for hci%d: %s", number, error)

    # -- faults ------------------------------------------------------------------------------------------------------

    def fail(self, member: str, name: str, text: str = "", times: int = 1) -> None:
        """The next calls of a method end with this error."""
        self.bus.faults[member].extend([Fault(BluezError(name, text))] * times)

    def hang(self, member: str, times: int = 1) -> None:
        """The next calls of a method are never answered."""
        self.bus.faults[member].extend([Fault(None)] * times)

    def heal(self) -> None:
        self.bus.faults.clear()

    async def power(self, on: bool, number: int = 0) -> None:
        """Switch an adapter, as a person or rfkill would."""
        await self.adapters[number].set_power(on)

    async def unplug(self, number: int = 0) -> None:
        self._unplugged.add(number)
        await self.adapters[number].unplug()

    async def plug(self, number: int = 0) -> None:
        """Raises `BleakError`."""
        self._unplugged.discard(number)
        await self.adapters[number].plug()

    def device(self, address: str) -> Device | None:
        """The device with this address on any adapter."""
        return next((a.devices[address] for a in self.adapters if address in a.devices), None)

    async def remove_device(self, address: str) -> None:
        """As the person does in the desktop's settings."""
        device = self.device(address)
        if device is not None:
            await device.adapter.remove(device)

    # -- the control port ----------------------------------------------------------------------------------------------

    async def control(self, port: int) -> asyncio.Server:
        """Serve the faults on 127.0.0.1; port 0 picks a free one."""
        return await asyncio.start_server(self._converse, "127.0.0.1", port)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                try:
                    answer = await self._do(json.loads(line))
                except (ValueError, KeyError, IndexError, TypeError, BluezError, BleakError) as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError):
            pass  # the caller is gone, or sent a line without end
        finally:
            writer.close()

    async def _do(self, wish: dict[str, Any]) -> dict[str, Any]:
        number = int(wish.get("adapter", 0))
        match wish["do"]:
            case "power":
                await self.power(bool(wish["on"]), number)
            case "unplug":
                await self.unplug(number)
            case "plug":
                await self.plug(number)
            case "remove_device":
                await self.remove_device(str(wish["address"]).upper())
            case "hide":
                self.adapters[number].hidden[str(wish["address"]).upper()] = str(wish["characteristic"])
            case "mute":
                self.adapters[number].mute = bool(wish["on"])
            case "fail":
                self.fail(wish["member"], wish["name"], wish.get("text", ""), int(wish.get("times", 1)))
            case "hang":
                self.hang(wish["member"], int(wish.get("times", 1)))
            case "heal":
                self.heal()
            case "state":
                pass
            case unknown:
                raise ValueError(f"unknown wish {unknown!r}")
        return {
            "calls": self.bus.calls,
            "adapters": [
                {
                    "path": adapter.path,
                    "powered": adapter.powered,
                    "devices": {
                        device.address: {"connected": device.link is not None, "paired": device.is_("Paired")}
                        for device in adapter.devices.values()
                    },
                }
                for adapter in self.adapters
            ],
        }
