"""A bleak backend that misbehaves on command, loaded by the edge by its dotted name: `tests.edge.fake_bleak:<any name>`.

The Bumble radio cannot hang a call or lie about a connection; operating systems do. Each name has a `Script`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from bleak.backends.adapter import BaseBleakAdapter
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.descriptor import BleakGATTDescriptor
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection

from edge.profiles.g1 import UART


class Script:
    """What the stack does. Hooks are awaited with no argument and may raise or hang."""

    def __init__(self) -> None:
        self.adverts: list[tuple[str, str]] = []
        self.held_by_system: list[tuple[str, str]] = []
        self.payload: list[int] = [244]  # successive answers of max_write_without_response_size
        self.characteristics = [UART.write, *UART.notify]
        self.hooks: dict[str, Callable[[], Any]] = {}
        self.log: list[str] = []
        self.clients: list[FakeClient] = []
        self.scanners: list[FakeScanner] = []
        self.connecting = 0
        self.connecting_max = 0
        self.written: list[tuple[bytes, bool]] = []

    async def run(self, what: str) -> None:
        self.log.append(what)
        hook = self.hooks.get(what)
        if hook is not None:
            await hook()


async def hang() -> None:
    await asyncio.Event().wait()


def raising(error: BaseException) -> Callable[[], Any]:
    async def hook() -> None:
        raise error

    return hook


class Backend(NamedTuple):
    scanner: type[BaseBleakScanner]
    client: type[BaseBleakClient]
    adapter: type[BaseBleakAdapter]


SCRIPTS: dict[str, Script] = {}


def radio(name: str) -> Backend:
    script = SCRIPTS.setdefault(name, Script())
    return Backend(
        type("Scanner", (FakeScanner,), {"script": script}),
        type("Client", (FakeClient,), {"script": script}),
        type("Adapter", (FakeAdapter,), {"script": script}),
    )


class FakeAdapter(BaseBleakAdapter):
    script: Script

    @classmethod
    async def get(cls, **kwargs: Any) -> FakeAdapter:
        return cls()

    async def get_connected_devices(self, service_uuids: frozenset[str]) -> list[BLEDevice]:
        return [BLEDevice(address, name, None) for address, name in self.script.held_by_system]


class FakeScanner(BaseBleakScanner):
    script: Script

    def __init__(
        self, detection_callback: Any, service_uuids: Any, scanning_mode: Any, **kwargs: Any
    ) -> None:
        super().__init__(detection_callback, service_uuids)
        self.running = False
        self.script.scanners.append(self)

    async def start(self) -> None:
        await self.script.run("scan")
        assert self.script.connecting == 0, "a scan beside a connection attempt"
        self.running = True
        asyncio.get_running_loop().call_soon(self.advertise)

    async def stop(self) -> None:
        self.running = False
        await self.script.run("stop scan")

    def advertise(self) -> None:
        for address, name in self.script.adverts if self.running else []:
            data = AdvertisementData(name, {}, {}, [], None, -50, ())
            device = self.create_or_update_device(address, address, name, None, data)
            self.call_detection_callbacks(device, data)


class FakeClient(BaseBleakClient):
    script: Script

    def __init__(self, address_or_ble_device: BLEDevice | str, **kwargs: Any) -> None:
        super().__init__(address_or_ble_device, **kwargs)
        self.connected = False
        self.callbacks: dict[str, Callable[[bytearray], None]] = {}
        self.script.clients.append(self)

    @property
    def name(self) -> str:
        return "fake"

    @property
    def mtu_size(self) -> int:
        return 247

    @property
    def is_connected(self) -> bool:
        return self.connected

    def lost(self) -> None:
        """The stack says "disconnected"."""
        if self._disconnected_callback is not None:
            self._disconnected_callback()

    async def connect(self, pair: bool, **kwargs: Any) -> None:
        self.script.connecting += 1
        self.script.connecting_max = max(self.script.connecting_max, self.script.connecting)
        try:
            await self.script.run("connect")
        finally:
            self.script.connecting -= 1
        self.connected = True
        collection = BleakGATTServiceCollection()
        service = BleakGATTService(None, 1, UART.service)
        collection.add_service(service)
        for handle, uuid in enumerate(self.script.characteristics, 2):
            collection.add_characteristic(
                BleakGATTCharacteristic(
                    None, handle, uuid, ["write", "write-without-response", "notify"], self._payload, service
                )
            )
        self.services = collection

    def _payload(self) -> int:
        return self.script.payload.pop(0) if len(self.script.payload) > 1 else self.script.payload[0]

    async def disconnect(self) -> None:
        self.connected = False
        await self.script.run("disconnect")

    async def pair(self, *args: Any, **kwargs: Any) -> None:
        await self.script.run("pair")

    async def unpair(self) -> None:
        await self.script.run("unpair")

    async def read_gatt_char(self, characteristic: BleakGATTCharacteristic, **kwargs: Any) -> bytearray:
        raise NotImplementedError

    async def read_gatt_descriptor(self, descriptor: BleakGATTDescriptor, **kwargs: Any) -> bytearray:
        raise NotImplementedError

    async def write_gatt_char(
        self, characteristic: BleakGATTCharacteristic, data: Any, response: bool
    ) -> None:
        await self.script.run("write")
        self.script.written.append((bytes(data), response))

    async def write_gatt_descriptor(self, descriptor: BleakGATTDescriptor, data: Any) -> None:
        raise NotImplementedError

    async def start_notify(
        self, characteristic: BleakGATTCharacteristic, callback: Any, **kwargs: Any
    ) -> None:
        await self.script.run("notify")
        self.callbacks[characteristic.uuid] = callback

    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        await self.script.run("stop notify")
