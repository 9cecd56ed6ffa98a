"""A controller as bluetoothd sees it: Adapter1, discovery, and the devices that were seen on it.

Rules of this file:

- Discovery belongs to the clients that started it and runs while there is one; everybody hears what it finds.
- Power off ends discovery and every link; an unplugged adapter takes its devices with it from the bus.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from bleak.exc import BleakError
from bumble.device import Advertisement, ConnectionParametersPreferences
from bumble.device import Device as BumbleDevice
from dbus_fast import Message, Variant

from firmware_sim import bleak_backend
from firmware_sim.bleak_backend import address_text
from firmware_sim.fake_bluez.agents import Agents
from firmware_sim.fake_bluez.bus import BluezError, Bus, Exported
from firmware_sim.fake_bluez.device import Device

logger = logging.getLogger(__name__)

ADAPTER = "org.bluez.Adapter1"

ROUND = 10.24
"""Seconds after which the kernel starts an LE scan anew, so that every device is news again."""

DEVICES_MAX = 256
"""Devices that were only seen; the oldest goes first. A busy train has about 200."""


LINUX_CONNECTION = ConnectionParametersPreferences(
    connection_interval_min=30, connection_interval_max=50, supervision_timeout=420
)
"""Milliseconds; what Linux 6.1 and 6.12 ask for where nobody has told them otherwise (hazard 6)."""


@dataclass
class Options:
    """How this bluetoothd behaves where versions and hosts differ. Seconds."""

    temporary_max: float = 30.0
    """A device that was only seen is forgotten after so long; 30 in BlueZ."""
    disconnect_delay: float = 0.0
    """How long `Disconnect` takes: 1.9 to 2.8 measured with BlueZ 5.66."""
    one_connect: bool = False
    """Refuse a second connection attempt with InProgress instead of queueing it (BLE-12)."""


class Controller(bleak_backend.Adapter):
    """The Bumble host on one HCI transport, which says when that transport is gone, and connects as Linux does."""

    parameters = LINUX_CONNECTION

    def __init__(self, transport: str, on_gone: Callable[[], None]) -> None:
        super().__init__(transport)
        self._on_gone = on_gone

    def _on_transport_lost(self, device: BumbleDevice) -> None:
        held = self._device is device
        super()._on_transport_lost(device)
        if held:
            self._on_gone()

    async def bonded(self) -> set[str]:
        """Addresses with a key."""
        return {name.split("/")[0].upper() for name, _ in await self._keys.get_all()}


class Adapter(Exported):
    def __init__(self, bus: Bus, number: int, transport: str, agents: Agents, options: Options) -> None:
        properties = {
            "Address": Variant("s", "00:00:00:00:00:00"),
            "AddressType": Variant("s", "public"),
            "Name": Variant("s", "glassbridge"),
            "Alias": Variant("s", "glassbridge"),
            "Class": Variant("u", 0),
            "Powered": Variant("b", False),
            "Discoverable": Variant("b", False),
            "Pairable": Variant("b", False),
            "Discovering": Variant("b", False),
            "UUIDs": Variant("as", []),
            "Roles": Variant("as", ["central", "peripheral"]),
        }
        super().__init__(bus, f"/org/bluez/hci{number}", {ADAPTER: properties})
        self.agents = agents
        self.options = options
        self.controller = Controller(transport, self._transport_lost)
        self.devices: dict[str, Device] = {}
        self.connecting = 0
        """Attempts under way."""
        self.hidden: dict[str, str] = {}
        """Address -> a characteristic that the next discovery of that device overlooks (a stale cache, BLE-07)."""
        self.mute = False
        """Discovery runs and hears nothing (BLE-09)."""
        self._sessions: set[str] = set()
        self._round_since = 0.0
        self._round = 0
        self._power = asyncio.Lock()
        self.methods = {
            (ADAPTER, "StartDiscovery"): self._start_discovery,
            (ADAPTER, "StopDiscovery"): self._stop_discovery,
            (ADAPTER, "SetDiscoveryFilter"): self._set_discovery_filter,
            (ADAPTER, "RemoveDevice"): self._remove_device,
        }
        bus.departures.append(self._departed)

    @property
    def powered(self) -> bool:
        return bool(self.interfaces[ADAPTER]["Powered"].value)

    # -- power and plug ------------------------------------------------------------------------------------------------

    async def plug(self) -> None:
        """Appear on the bus, powered. Raises `BleakError` when there is no controller at the transport."""
        device = await self.controller.device()
        self.interfaces[ADAPTER]["Address"] = Variant("s", address_text(device.public_address))
        self.interfaces[ADAPTER]["Powered"] = Variant("b", True)
        self.export()

    async def unplug(self) -> None:
        """Vanish from the bus with everything that was there."""
        self._end_discovery()
        self._withdraw_all()
        self.interfaces[ADAPTER]["Powered"] = Variant("b", False)
        await self.controller.close()

    def _withdraw_all(self) -> None:
        for device in list(self.devices.values()):
            self.forget(device)
        self.withdraw()

    def _transport_lost(self) -> None:
        """The dongle was pulled."""
        self._end_discovery()
        for device in list(self.devices.values()):
            if device.link is not None:
                device.link_lost(device.link, 0)
        self._withdraw_all()
        self.interfaces[ADAPTER]["Powered"] = Variant("b", False)

    async def set_property(self, interface: str, name: str, value: Any) -> None:
        match name:
            case "Powered":
                await self.set_power(bool(value))
            case "Alias":
                self.change(ADAPTER, {name: Variant("s", value)})
            case "Discoverable" | "Pairable":
                self.change(ADAPTER, {name: Variant("b", value)})
            case _:
                await super().set_property(interface, name, value)

    async def set_power(self, on: bool) -> None:
        """Raises `BluezError`."""
        async with self._power:
            if on == self.powered:
                return
            if on:
                try:
                    await self.controller.device()
                except BleakError as error:
                    raise BluezError("Failed", "Failed") from error
            else:
                self._end_discovery()
                await asyncio.gather(*(device.hang_up() for device in list(self.devices.values())))
                await self.controller.close()
                for device in [each for each in self.devices.values() if each.temporary]:
                    self.forget(device)
            self.change(ADAPTER, {"Powered": Variant("b", on)})

    # -- discovery -----------------------------------------------------------------------------------------------------

    async def _set_discovery_filter(self, _: Message) -> None:
        """Everything that a filter could hide is shown: clients filter again anyway."""

    async def _start_discovery(self, message: Message) -> None:
        if not self.powered:
            raise BluezError("NotReady", "Resource Not Ready")
        client = str(message.sender)
        if client in self._sessions:
            raise BluezError("InProgress", "Operation already in progress")
        self._sessions.add(client)
        self._round += 1
        self._round_since = asyncio.get_running_loop().time()
        try:
            await self.controller.add_scanner(cast(Any, self))
        except BleakError as error:
            self._sessions.discard(client)
            raise BluezError("Failed", "Failed to start discovery") from error
        self.change(ADAPTER, {"Discovering": Variant("b", True)})

    async def _stop_discovery(self, message: Message) -> None:
        client = str(message.sender)
        if not self.powered:
            raise BluezError("NotReady", "Resource Not Ready")
        if client not in self._sessions:
            raise BluezError("Failed", "No discovery started")
        self._sessions.discard(client)
        await self._rest()

    async def _rest(self) -> None:
        if not self._sessions:
            await self.controller.remove_scanner(cast(Any, self))
        if not self._sessions:  # a client may have begun anew meanwhile
            self._end_discovery()

    def _end_discovery(self) -> None:
        self._sessions.clear()
        self.change(ADAPTER, {"Discovering": Variant("b", False)})
        for device in self.devices.values():
            device.out_of_sight()

    def heard(self, address: str, advertisement: Advertisement) -> None:
        """An advertisement (the controller's word to its scanners)."""
        if self.mute or not self._sessions:
            return
        now = asyncio.get_running_loop().time()
        if now - self._round_since >= ROUND:
            self._round, self._round_since = self._round + 1, now
        device = self.devices.get(address)
        if device is None:
            device = self.devices[address] = Device(self, advertisement.address)
            while len(self.devices) > DEVICES_MAX:
                seen = [each for each in self.devices.values() if each.temporary and each.link is None]
                if not seen:
                    break
                self.forget(seen[0])
        device.heard(advertisement, self._round)

    # -- devices -------------------------------------------------------------------------------------------------------

    async def _remove_device(self, message: Message) -> None:
        device = next((d for d in self.devices.values() if d.path == message.body[0]), None)
        if device is None:
            raise BluezError("DoesNotExist", "Does Not Exist")
        await self.remove(device)

    async def remove(self, device: Device) -> None:
        """Forget a device with its bond and its services; its link ends."""
        await device.hang_up()
        await self.controller.forget(device.address_object)
        self.forget(device)

    def forget(self, device: Device) -> None:
        if self.devices.get(device.address) is device:
            del self.devices[device.address]
        device.withdraw()

    def _departed(self, client: str) -> None:
        for device in list(self.devices.values()):
            device.departed(client)
        if client in self._sessions:
            self._sessions.discard(client)
            self.bus.spawn(self._rest(), "end discovery")

    async def close(self) -> None:
        """Let the controller go without a word on the bus: the process ends."""
        for device in list(self.devices.values()):
            device.withdraw()
        with contextlib.suppress(BleakError):
            await self.controller.close()
