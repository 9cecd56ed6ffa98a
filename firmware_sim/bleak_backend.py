"""bleak over Bumble: a scanner and a client class that speak HCI to the simulator, or to a dongle.

Rules of this file:

- One Bumble device per HCI transport, shared by all scanners and clients of the process.
- One connection attempt at a time per adapter; a cancelled attempt is taken back in HCI before the next begins, so
  that no link is left behind.
- A request to the peer is never abandoned half way: its caller may leave, the answer is still waited for, because
  ATT has no numbers and the next request would take it for its own.
- `disconnected_callback` is called exactly once per established link.

Load it by name: `backend = radio("unix:/path"); BleakScanner(backend=backend.scanner)`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from bleak.args import SizedBuffer
from bleak.assigned_numbers import gatt_char_props_to_strs
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient, NotifyCallback
from bleak.backends.descriptor import BleakGATTDescriptor
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData as BleakAdvertisementData
from bleak.backends.scanner import AdvertisementDataCallback, BaseBleakScanner
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakBluetoothNotAvailableReason,
    BleakDeviceNotFoundError,
    BleakError,
    BleakGATTProtocolError,
)
from bleak.uuids import normalize_uuid_str
from bumble import att, core, hci
from bumble.core import AdvertisingData
from bumble.device import (
    Advertisement,
    Connection,
    ConnectionParametersPreferences,
    Device,
    DeviceConfiguration,
    Peer,
)
from bumble.host import Host
from bumble.keys import MemoryKeyStore
from bumble.pairing import PairingConfig, PairingDelegate
from bumble.transport import open_transport
from bumble.transport.common import Transport

logger = logging.getLogger(__name__)

T = TypeVar("T")

MTU = 517
"""What BlueZ and Android ask for."""

CONNECTION = ConnectionParametersPreferences(
    connection_interval_min=15, connection_interval_max=30, supervision_timeout=2000
)
"""Milliseconds. The default of desktop stacks is 30 to 50 ms; audio wants it shorter. Two seconds without a packet
end the link."""

OPEN_MAX = 5.0
"""Seconds to open the transport and reset the controller."""

CANCEL_MAX = 5.0
"""Seconds for taking a connection attempt back or ending a link; a controller answers in milliseconds."""

WRITES_PENDING_MAX = 16
"""ACL packets queued for one link before a write without response waits: about two connection events."""


class RadioBackend(NamedTuple):
    """What `BleakScanner(backend=...)` and `BleakClient(..., backend=...)` take."""

    scanner: type[BaseBleakScanner]
    client: type[BaseBleakClient]


_adapters: dict[str, Adapter] = {}


def radio(hci_transport: str) -> RadioBackend:
    """The backend classes for one adapter, e.g. `unix:/run/sim.sock`, `tcp-client:127.0.0.1:9000`, `usb:0`.

    Nothing is opened before the first scan or connection. Calling it again gives classes on the same adapter.
    """
    adapter = _adapters.setdefault(hci_transport, Adapter(hci_transport))
    scanner = type("BumbleScanner", (BumbleScanner,), {"adapter": adapter})
    client = type("BumbleClient", (BumbleClient,), {"adapter": adapter, "scanner": scanner})
    return RadioBackend(scanner, client)


async def close_radio(hci_transport: str) -> None:
    """Close the adapter: links end, its socket too. A later scan or connection opens it again."""
    adapter = _adapters.get(hci_transport)
    if adapter is not None:
        await adapter.close()


class Adapter:
    """One HCI controller and the Bumble host on it."""

    parameters = CONNECTION

    def __init__(self, transport_name: str) -> None:
        self.transport_name = transport_name
        self.scanners: set[BumbleScanner] = set()
        self.addresses: dict[str, hci.Address] = {}
        """Every address that was ever heard, with its type."""
        self._device: Device | None = None
        self._transport: Transport | None = None
        self._opening: asyncio.Task[None] | None = None
        self._connecting: asyncio.Lock | None = None
        self._scanning: asyncio.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._keys = MemoryKeyStore()

    async def device(self) -> Device:
        """The powered device. Raises `BleakBluetoothNotAvailableError` when the controller cannot be reached."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # A new event loop (tests): whatever belonged to the old one is gone with it.
            self._loop, self._device, self._transport, self._opening = loop, None, None, None
            self._connecting, self._scanning = asyncio.Lock(), asyncio.Lock()
            self._tasks.clear()
        if self._device is None:
            if self._opening is None:
                self._opening = self.spawn(self._open_once(), "open")
            # All callers wait for the same opening; one that leaves does not break it off half way.
            await asyncio.shield(self._opening)
        if self._device is None:
            raise BleakBluetoothNotAvailableError(
                f"the Bluetooth controller at {self.transport_name} went away at once",
                BleakBluetoothNotAvailableReason.NO_BLUETOOTH,
            )
        return self._device

    async def _open_once(self) -> None:
        try:
            async with asyncio.timeout(OPEN_MAX):
                self._device = await self._open()
        except (OSError, TimeoutError, core.BaseBumbleError, hci.HCI_Error) as error:
            raise BleakBluetoothNotAvailableError(
                f"no Bluetooth controller at {self.transport_name}: {error or type(error).__name__}",
                BleakBluetoothNotAvailableReason.NO_BLUETOOTH,
            ) from error
        finally:
            self._opening = None
            if self._device is None:
                await self._close_transport()

    async def _open(self) -> Device:
        self._transport = transport = await open_transport(self.transport_name)
        host = Host(transport.source, transport.sink)
        device = Device(
            config=DeviceConfiguration(name="glassbridge", address=hci.Address.generate_static_address()),
            host=host,
        )
        device.keystore = self._keys
        device.pairing_config_factory = lambda _: PairingConfig(
            sc=True, mitm=False, bonding=True, delegate=PairingDelegate(PairingDelegate.NO_OUTPUT_NO_INPUT)
        )
        device.on("advertisement", self._on_advertisement)
        await device.power_on()
        terminated = getattr(transport.source, "terminated", None)
        if isinstance(terminated, asyncio.Future):
            terminated.add_done_callback(lambda _: self._on_transport_lost(device))
        return device

    def _on_transport_lost(self, device: Device) -> None:
        if self._device is device:
            logger.warning("the controller at %s is gone", self.transport_name)
            self._device = None

    async def close(self) -> None:
        device, self._device = self._device, None
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CANCEL_MAX)
        if device is not None:
            for connection in list(device.connections.values()):
                await _disconnect(connection)
            device.host.on_transport_lost()
        await self._close_transport()
        self.scanners.clear()

    async def _close_transport(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()
            await asyncio.sleep(0)  # the socket's connection_lost runs in the next turn of the loop

    def own_address_type(self, device: Device) -> hci.OwnAddressType:
        """A public address survives a restart, so a bond does; controllers without one use a random address."""
        public = device.public_address
        return hci.OwnAddressType.RANDOM if public in (None, hci.Address.ANY) else hci.OwnAddressType.PUBLIC

    # -- scanning --------------------------------------------------------------------------------------------------

    async def add_scanner(self, scanner: BumbleScanner) -> None:
        device = await self.device()
        self.scanners.add(scanner)
        try:
            await asyncio.shield(self.spawn(self._scan_as_wanted(device), "scan"))
        except BaseException:
            self.scanners.discard(scanner)
            self.spawn(self._scan_as_wanted(device), "scan")
            raise

    async def remove_scanner(self, scanner: BumbleScanner) -> None:
        self.scanners.discard(scanner)
        if self._device is not None:
            with contextlib.suppress(BleakError):
                await asyncio.shield(self.spawn(self._scan_as_wanted(self._device), "scan"))

    async def _scan_as_wanted(self, device: Device) -> None:
        """Scan while there is a scanner. In a task of its own, because a command must not be broken off half way:
        the controller's answer would be taken for that of the next one."""
        assert self._scanning is not None
        async with self._scanning:
            try:
                if self.scanners and not device.is_scanning:
                    own = self.own_address_type(device)
                    await device.start_scanning(legacy=True, active=True, own_address_type=own)
                elif not self.scanners and device.is_scanning:
                    await device.stop_scanning(legacy=True)
            except (hci.HCI_Error, core.BaseBumbleError) as error:
                raise BleakError(f"the controller does not scan: {error}") from error

    def _on_advertisement(self, advertisement: Advertisement) -> None:
        name = address_text(advertisement.address)
        self.addresses[name] = advertisement.address
        for scanner in list(self.scanners):
            scanner.heard(name, advertisement)

    # -- connecting ------------------------------------------------------------------------------------------------

    async def connect(self, address: hci.Address) -> Connection:
        """Connect, however long it takes; a cancelled caller leaves no attempt and no link behind."""
        give_up = asyncio.Event()
        attempt = self.spawn(self._attempt(address, give_up), f"connect {address_text(address)}")
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            give_up.set()
            raise

    async def _attempt(self, address: hci.Address, give_up: asyncio.Event) -> Connection:
        device = await self.device()
        assert self._connecting is not None
        async with self._connecting:
            if give_up.is_set():
                raise BleakError("connection attempt was cancelled")
            connecting = asyncio.ensure_future(
                device.connect(
                    address,
                    transport=core.PhysicalTransport.LE,
                    connection_parameters_preferences={hci.Phy.LE_1M: self.parameters},
                    own_address_type=self.own_address_type(device),
                )
            )
            leaving = asyncio.ensure_future(give_up.wait())
            try:
                await asyncio.wait({connecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if connecting.done() and not give_up.is_set():
                    return await connecting
            finally:
                leaving.cancel()
                if not connecting.done() or give_up.is_set():
                    await self._take_back(device, connecting)
            raise BleakError("connection attempt was cancelled")

    async def _take_back(self, device: Device, connecting: asyncio.Future[Connection]) -> None:
        """Cancel in HCI. The attempt may have succeeded in the same moment: then the link is ended."""
        if not connecting.done():
            with contextlib.suppress(hci.HCI_Error, core.BaseBumbleError):
                # Refused (0x0C) when the connection was completed meanwhile: its event is on the way.
                await device.cancel_connection()
        await asyncio.wait({connecting}, timeout=CANCEL_MAX)
        if not connecting.done():
            connecting.cancel()
            return
        if connecting.cancelled() or connecting.exception() is not None:
            return
        await _disconnect(connecting.result())

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name=f"{self.transport_name} {name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have left; the error was theirs to read

    async def forget(self, address: hci.Address) -> None:
        await self._keys.delete(str(address))


def address_text(address: hci.Address) -> str:
    """`C0:00:00:57:86:3C`, without Bumble's type suffix."""
    return str(address).split("/")[0].upper()


class BumbleScanner(BaseBleakScanner):
    adapter: Adapter

    def __init__(
        self,
        detection_callback: AdvertisementDataCallback | None,
        service_uuids: list[str] | None,
        scanning_mode: str = "active",
        **_kwargs: Any,
    ) -> None:
        super().__init__(
            detection_callback, [normalize_uuid_str(u) for u in service_uuids] if service_uuids else None
        )

    async def start(self) -> None:
        self.seen_devices = {}
        await self.adapter.add_scanner(self)

    async def stop(self) -> None:
        await self.adapter.remove_scanner(self)

    def heard(self, address: str, advertisement: Advertisement) -> None:
        data = advertisement.data
        uuids = [
            normalize_uuid_str(uuid.to_hex_str("-"))
            for kind in (
                AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS,
                AdvertisingData.INCOMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS,
                AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
                AdvertisingData.INCOMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
            )
            for entry in data.get_all(kind)
            for uuid in entry
        ]
        name = data.get(AdvertisingData.COMPLETE_LOCAL_NAME) or data.get(AdvertisingData.SHORTENED_LOCAL_NAME)
        manufacturer: dict[int, bytes] = {
            company: bytes(value)
            for company, value in data.get_all(AdvertisingData.MANUFACTURER_SPECIFIC_DATA)
        }
        seen = BleakAdvertisementData(
            local_name=name,
            manufacturer_data=manufacturer,
            service_data={},
            service_uuids=uuids,
            tx_power=None,
            rssi=advertisement.rssi,
            platform_data=(advertisement,),
        )
        device = self.create_or_update_device(address, address, name, advertisement.address, seen)
        if self.is_allowed_uuid(uuids):
            self.call_detection_callbacks(device, seen)


class BumbleClient(BaseBleakClient):
    adapter: Adapter
    scanner: type[BumbleScanner]

    def __init__(self, address_or_ble_device: BLEDevice | str, **kwargs: Any) -> None:
        super().__init__(address_or_ble_device, **kwargs)
        self.address = self.address.upper()
        self._given = address_or_ble_device
        self._name: str | None = (
            address_or_ble_device.name if isinstance(address_or_ble_device, BLEDevice) else None
        )
        self._peer: Peer | None = None
        self._connection: Connection | None = None
        self._closed: asyncio.Future[None] | None = None
        self._subscribers: dict[int, Callable[[bytes], None]] = {}
        self._calls: set[asyncio.Task[Any]] = set()
        self._announced = False

    @property
    def name(self) -> str:
        return self._name or self.address.replace(":", "-")

    @property
    def mtu_size(self) -> int:
        return self._connection.att_mtu if self._connection is not None else att.ATT_DEFAULT_MTU

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    # -- connection ------------------------------------------------------------------------------------------------

    async def connect(self, pair: bool, **_kwargs: Any) -> None:
        """Raises `BleakDeviceNotFoundError`, `TimeoutError` or `BleakError`."""
        if self.is_connected:
            raise BleakError(f"already connected to {self.address}")
        # The search ends a little before the whole, so that "not found" can be said.
        search_until = asyncio.get_running_loop().time() + 0.9 * self._timeout
        async with asyncio.timeout(self._timeout):
            address = await self._address(search_until)
            try:
                connection = await self.adapter.connect(address)
            except (core.BaseBumbleError, hci.HCI_Error) as error:
                raise BleakError(f"failed to connect to {self.address}: {error}") from error
            self._bind(connection)
            try:
                await self._prepare(connection, pair)
            except BaseException:
                await self._hang_up(connection)
                raise
            self._announced = True

    async def _address(self, search_until: float) -> hci.Address:
        details = self._given.details if isinstance(self._given, BLEDevice) else None
        if isinstance(details, hci.Address):
            return details
        if (known := self.adapter.addresses.get(self.address)) is None:
            found = asyncio.Event()
            scanner = self.scanner(
                lambda device, _: found.set() if device.address == self.address else None, None, "active"
            )
            await scanner.start()
            try:
                async with asyncio.timeout_at(search_until):
                    await found.wait()
            except TimeoutError:
                raise BleakDeviceNotFoundError(
                    self.address, f"Device with address {self.address} was not found."
                ) from None
            finally:
                await scanner.stop()
            known = self.adapter.addresses[self.address]
        return known

    def _bind(self, connection: Connection) -> None:
        self._connection, self._peer = connection, Peer(connection)
        self._closed = asyncio.get_running_loop().create_future()
        self._subscribers = {}
        connection.on("disconnection", lambda reason: self._on_disconnection(connection, reason))

    def _on_disconnection(self, connection: Connection, reason: int) -> None:
        if self._connection is not connection:
            return
        logger.debug("%s disconnected, reason 0x%02x", self.address, reason)
        self._connection = None
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        for call in list(self._calls):
            call.cancel()  # those whose caller has left, too: nothing will answer them
        announced, self._announced = self._announced, False
        if announced and self._disconnected_callback is not None:
            self._disconnected_callback()

    async def _prepare(self, connection: Connection, pair: bool) -> None:
        """What an operating system does before it calls a device connected."""
        if connection.device.keystore is not None and await connection.device.keystore.get(
            str(connection.peer_address)
        ):
            await self._call(connection.encrypt(), "encrypt")
        elif pair:
            await self._call(connection.pair(), "pair")
        peer = self._peer
        assert peer is not None
        await self._call(peer.request_mtu(MTU), "mtu")
        self.services = await self._call(self._discover(peer), "discover")

    async def _discover(self, peer: Peer) -> BleakGATTServiceCollection:
        await peer.discover_services()
        await peer.discover_characteristics()
        collection = BleakGATTServiceCollection()
        for service in peer.services:
            bleak_service = BleakGATTService(
                service, service.handle, normalize_uuid_str(service.uuid.to_hex_str("-"))
            )
            collection.add_service(bleak_service)
            for characteristic in service.characteristics:
                await peer.discover_descriptors(characteristic)
                bleak_characteristic = BleakGATTCharacteristic(
                    characteristic,
                    characteristic.handle,
                    normalize_uuid_str(characteristic.uuid.to_hex_str("-")),
                    list(gatt_char_props_to_strs(int(characteristic.properties))),
                    lambda: self.mtu_size - 3,
                    bleak_service,
                )
                collection.add_characteristic(bleak_characteristic)
                for descriptor in characteristic.descriptors:
                    collection.add_descriptor(
                        BleakGATTDescriptor(
                            descriptor,
                            descriptor.handle,
                            normalize_uuid_str(descriptor.type.to_hex_str("-")),
                            bleak_characteristic,
                        )
                    )
        return collection

    async def disconnect(self) -> None:
        if (connection := self._connection) is not None:
            await self._hang_up(connection)

    async def _hang_up(self, connection: Connection) -> None:
        hanging_up = self.adapter.spawn(_disconnect(connection), f"disconnect {self.address}")
        await asyncio.shield(hanging_up)
        # A controller that never confirms must not keep the client "connected".
        self._on_disconnection(connection, 0)

    async def pair(self, *_args: Any, **_kwargs: Any) -> None:
        connection = self._live()
        if not connection.is_encrypted:
            await self._call(connection.pair(), "pair")

    async def unpair(self) -> None:
        if (connection := self._connection) is not None:
            await self.adapter.forget(connection.peer_address)
            await self._hang_up(connection)
        elif (address := self.adapter.addresses.get(self.address)) is not None:
            await self.adapter.forget(address)

    # -- attributes ------------------------------------------------------------------------------------------------

    def _live(self) -> Connection:
        if self._connection is None:
            raise BleakError("Not connected")
        return self._connection

    async def _call(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Run one exchange to its end in its own task; the end of the link ends it too."""
        closed = self._closed
        if self._connection is None or closed is None:
            work.close()
            raise BleakError("Not connected")
        task = self.adapter.spawn(work, f"{name} {self.address}")
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        either: set[asyncio.Future[Any]] = {task, closed}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            raise BleakError(f"disconnected during {name}")
        try:
            return task.result()
        except att.ATT_Error as error:
            raise BleakGATTProtocolError(error.error_code) from error
        except asyncio.CancelledError:
            raise BleakError(f"disconnected during {name}") from None
        except (core.BaseBumbleError, hci.HCI_Error) as error:
            raise BleakError(f"{name} failed: {error}") from error

    async def read_gatt_char(
        self, characteristic: BleakGATTCharacteristic, *, use_cached: bool = False, **_kwargs: Any
    ) -> bytearray:
        return bytearray(await self._read(characteristic.handle))

    async def read_gatt_descriptor(
        self, descriptor: BleakGATTDescriptor, *, use_cached: bool = False, **_kwargs: Any
    ) -> bytearray:
        return bytearray(await self._read(descriptor.handle))

    async def _read(self, handle: int) -> bytes:
        self._live()
        assert self._peer is not None
        return bytes(await self._call(self._peer.gatt_client.read_value(handle), "read"))

    async def write_gatt_char(
        self, characteristic: BleakGATTCharacteristic, data: SizedBuffer, response: bool
    ) -> None:
        value = bytes(data)
        if response:
            await self._write(characteristic.handle, value)
            return
        connection = self._live()
        if len(value) > connection.att_mtu - 3:
            raise BleakError(
                f"a write without response carries at most {connection.att_mtu - 3} bytes, not {len(value)}"
            )
        queue = connection.data_packet_queue
        if queue is not None and queue.pending >= WRITES_PENDING_MAX:
            await self._call(connection.drain(), "write")
        assert self._peer is not None
        self._live()  # it may have ended while the queue drained
        await self._peer.gatt_client.write_value(characteristic.handle, value)

    async def write_gatt_descriptor(self, descriptor: BleakGATTDescriptor, data: SizedBuffer) -> None:
        await self._write(descriptor.handle, bytes(data))

    async def _write(self, handle: int, value: bytes) -> None:
        self._live()
        assert self._peer is not None
        await self._call(self._peer.gatt_client.write_value(handle, value, with_response=True), "write")

    async def start_notify(
        self, characteristic: BleakGATTCharacteristic, callback: NotifyCallback, **_kwargs: Any
    ) -> None:
        self._live()
        assert self._peer is not None
        handle = characteristic.handle
        if (old := self._subscribers.pop(handle, None)) is not None:
            # Subscribing again replaces the callback, it does not add one.
            for subscribers in self._peer.gatt_client.notification_subscribers.values():
                subscribers.discard(old)

        def notify(value: bytes) -> None:
            callback(bytearray(value))

        self._subscribers[handle] = notify
        await self._call(self._peer.subscribe(characteristic.obj, notify), "subscribe")

    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        self._live()
        assert self._peer is not None
        self._subscribers.pop(characteristic.handle, None)
        await self._call(self._peer.unsubscribe(characteristic.obj), "unsubscribe")


async def _disconnect(connection: Connection) -> None:
    if connection.device.connections.get(connection.handle) is not connection:
        return  # it ended by itself; a controller would not confirm ending it again
    with contextlib.suppress(hci.HCI_Error, core.BaseBumbleError, TimeoutError):
        async with asyncio.timeout(CANCEL_MAX):
            await connection.disconnect()
