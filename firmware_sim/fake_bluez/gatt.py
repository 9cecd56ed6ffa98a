"""What a remote device offers, as bluetoothd exports it: services, characteristics and descriptors.

Rules of this file:

- The table is kept when the link ends, as BlueZ keeps it on disk: a reconnect trusts it and asks nothing (BLE-07).
- A characteristic is named by the handle of its declaration, one below that of its value; other stacks differ.
- Its MTU is told once: clients are not told when a later link has another one (BlueZ 5.66).
- One read and one request to write at a time per characteristic; a second meets InProgress.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bumble import att
from bumble.device import Peer
from bumble.gatt import GATT_CLIENT_CHARACTERISTIC_CONFIGURATION_DESCRIPTOR as CCCD
from bumble.gatt import Characteristic as BumbleCharacteristic
from dbus_fast import Message, Variant

from firmware_sim.fake_bluez.bus import BluezError, Exported, Reply

if TYPE_CHECKING:
    from firmware_sim.fake_bluez.device import Device

SERVICE = "org.bluez.GattService1"
CHARACTERISTIC = "org.bluez.GattCharacteristic1"
DESCRIPTOR = "org.bluez.GattDescriptor1"

HIDDEN = "00001800-0000-1000-8000-00805f9b34fb"
"""Generic Access is bluetoothd's own business."""

VALUE_MAX = 512
"""Bytes of one attribute value (Core, Vol 3 Part F, 3.2.9)."""

_FLAGS = (
    (0x01, "broadcast"),
    (0x02, "read"),
    (0x04, "write-without-response"),
    (0x08, "write"),
    (0x10, "notify"),
    (0x20, "indicate"),
    (0x40, "authenticated-signed-writes"),
    (0x80, "extended-properties"),
)


@dataclass
class Row:
    """One characteristic as discovered: handle of its value, its descriptors by handle."""

    handle: int
    uuid: str
    properties: int
    descriptors: dict[int, str] = field(default_factory=dict)
    cccd: int | None = None


@dataclass
class ServiceRow:
    handle: int
    uuid: str
    rows: list[Row] = field(default_factory=list)


def uuid_text(uuid: Any) -> str:
    """Full lower-case form."""
    text = str(uuid.to_hex_str("-")).lower()
    return text if len(text) == 36 else f"{text.zfill(8)}-0000-1000-8000-00805f9b34fb"


async def discover(peer: Peer) -> list[ServiceRow]:
    """Ask the device for everything that it has."""
    await peer.discover_services()
    await peer.discover_characteristics()
    table = []
    for service in peer.services:
        found = ServiceRow(service.handle, uuid_text(service.uuid))
        for characteristic in service.characteristics:
            await peer.discover_descriptors(characteristic)
            row = Row(characteristic.handle, uuid_text(characteristic.uuid), int(characteristic.properties))
            for descriptor in characteristic.descriptors:
                row.descriptors[descriptor.handle] = uuid_text(descriptor.type)
                if descriptor.type == CCCD:
                    row.cccd = descriptor.handle
            found.rows.append(row)
        table.append(found)
    return table


def refused(error: int) -> BluezError:
    """How bluetoothd words an ATT error."""
    match error:
        case att.ATT_READ_NOT_PERMITTED_ERROR:
            return BluezError("NotPermitted", "Read not permitted")
        case att.ATT_WRITE_NOT_PERMITTED_ERROR:
            return BluezError("NotPermitted", "Write not permitted")
        case (
            att.ATT_INSUFFICIENT_AUTHENTICATION_ERROR
            | att.ATT_INSUFFICIENT_ENCRYPTION_ERROR
            | att.ATT_INSUFFICIENT_ENCRYPTION_KEY_SIZE_ERROR
        ):
            return BluezError("NotPermitted", "Not paired")
        case att.ATT_INVALID_OFFSET_ERROR:
            return BluezError("InvalidArguments", "Invalid offset")
        case att.ATT_INVALID_ATTRIBUTE_LENGTH_ERROR:
            return BluezError("InvalidArguments", "Invalid Length")
        case att.ATT_INSUFFICIENT_AUTHORIZATION_ERROR:
            return BluezError("NotAuthorized", "Operation Not Authorized")
        case att.ATT_REQUEST_NOT_SUPPORTED_ERROR:
            return BluezError("NotSupported", "Operation is not supported")
        case _:
            return BluezError("Failed", f"Operation failed with ATT error: 0x{error:02x}")


class Service(Exported):
    def __init__(self, device: Device, row: ServiceRow) -> None:
        path = f"{device.path}/service{row.handle:04x}"
        properties = {
            "UUID": Variant("s", row.uuid),
            "Device": Variant("o", device.path),
            "Primary": Variant("b", True),
            "Includes": Variant("ao", []),
        }
        super().__init__(device.bus, path, {SERVICE: properties})
        self.children: list[Exported] = []
        for each in row.rows:
            characteristic = Characteristic(device, path, each)
            self.children.append(characteristic)
            self.children += [
                Descriptor(device, characteristic.path, handle, uuid)
                for handle, uuid in each.descriptors.items()
            ]

    def export(self) -> None:
        super().export()
        for child in self.children:
            child.export()

    def withdraw(self) -> None:
        for child in reversed(self.children):
            child.withdraw()
        super().withdraw()

    @property
    def characteristics(self) -> list[Characteristic]:
        return [child for child in self.children if isinstance(child, Characteristic)]


class Attribute(Exported):
    """What characteristics and descriptors share: a handle, a value, one request at a time."""

    interface: str

    def __init__(self, device: Device, path: str, handle: int, properties: dict[str, Variant]) -> None:
        super().__init__(device.bus, path, {self.interface: properties})
        self.device = device
        self.handle = handle
        self._reading = self._writing = False
        self.methods = {
            (self.interface, "ReadValue"): self._read_value,
            (self.interface, "WriteValue"): self._write_value,
        }

    async def _read_value(self, message: Message) -> Reply:
        options = message.body[0]
        offset = int(options["offset"].value) if "offset" in options else 0
        link = self.device.live()
        if self._reading:
            raise BluezError("InProgress", "In Progress")
        self._reading = True
        try:
            value: bytes = await link.request(lambda: link.client.read_value(self.handle), "read")
        finally:
            self._reading = False
        if offset > len(value):
            raise refused(att.ATT_INVALID_OFFSET_ERROR)
        # Whoever watches the property sees every read, too: with StartNotify a value comes twice.
        self.announce(self.interface, "Value", Variant("ay", value))
        return Reply("ay", (value[offset:],))

    async def _write_value(self, message: Message) -> None:
        value = bytes(message.body[0])
        link = self.device.live()
        if len(value) > VALUE_MAX:
            raise refused(att.ATT_INVALID_ATTRIBUTE_LENGTH_ERROR)  # what every server answers
        if self._writing:
            raise BluezError("InProgress", "In Progress")
        self._writing = True
        try:
            await link.request(
                lambda: link.client.write_value(self.handle, value, with_response=True), "write"
            )
        finally:
            self._writing = False


class Descriptor(Attribute):
    interface = DESCRIPTOR

    def __init__(self, device: Device, characteristic: str, handle: int, uuid: str) -> None:
        properties = {
            "UUID": Variant("s", uuid),
            "Characteristic": Variant("o", characteristic),
            "Value": Variant("ay", b""),
        }
        super().__init__(device, f"{characteristic}/desc{handle:04x}", handle, properties)


class Characteristic(Attribute):
    interface = CHARACTERISTIC

    def __init__(self, device: Device, service: str, row: Row) -> None:
        flags = [word for bit, word in _FLAGS if row.properties & bit]
        properties = {
            "UUID": Variant("s", row.uuid),
            "Service": Variant("o", service),
            "Value": Variant("ay", b""),
            "Flags": Variant("as", flags),
            "MTU": Variant("q", device.mtu),
        }
        self._notifies = bool(
            row.properties
            & (BumbleCharacteristic.Properties.NOTIFY | BumbleCharacteristic.Properties.INDICATE)
        )
        if self._notifies:
            properties["Notifying"] = Variant("b", False)
        if "notify" in flags:
            properties["NotifyAcquired"] = Variant("b", False)
        if "write-without-response" in flags:
            properties["WriteAcquired"] = Variant("b", False)
        super().__init__(device, f"{service}/char{row.handle - 1:04x}", row.handle, properties)
        self.row = row
        self.flags = flags
        self.watchers: set[str] = set()
        """Clients with StartNotify; they stay over a reconnect until they leave the bus."""
        self._notify_socket: socket.socket | None = None
        self._write_socket: socket.socket | None = None
        self.notify_dropped = 0
        self.methods |= {
            (CHARACTERISTIC, "StartNotify"): self._start_notify,
            (CHARACTERISTIC, "StopNotify"): self._stop_notify,
            (CHARACTERISTIC, "AcquireNotify"): self._acquire_notify,
            (CHARACTERISTIC, "AcquireWrite"): self._acquire_write,
        }

    # -- writing -----------------------------------------------------------------------------------------------------

    async def _write_value(self, message: Message) -> None:
        options = message.body[1]
        wanted = options["type"].value if "type" in options else None
        if not {"write", "write-without-response"} & set(self.flags):
            raise BluezError("NotSupported", "Operation is not supported")
        if self._write_socket is not None:
            raise BluezError("NotPermitted", "Write acquired")
        if wanted == "command" or (wanted is None and "write" not in self.flags):
            await self._command(bytes(message.body[0]))
        else:
            await super()._write_value(message)

    async def _command(self, value: bytes) -> None:
        link = self.device.live()
        if "write-without-response" not in self.flags:
            raise BluezError("NotSupported", "Operation is not supported")
        if len(value) > link.mtu - 3:
            raise BluezError("Failed", "Failed to initiate write")
        await link.command(self.handle, value)

    async def _acquire_write(self, _: Message) -> Reply:
        link = self.device.live()
        if "write-without-response" not in self.flags:
            raise BluezError("NotSupported", "Operation is not supported")
        if self._write_socket is not None:
            raise BluezError("NotPermitted", "Write acquired")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._write_socket = ours
        self.change(CHARACTERISTIC, {"WriteAcquired": Variant("b", True)})
        self.bus.spawn(self._forward(ours), f"writes of {self.path}")
        return _hand_over(theirs, link.mtu)

    async def _forward(self, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            with contextlib.suppress(OSError, BluezError):
                while value := await loop.sock_recv(ours, VALUE_MAX):
                    await self._command(value)
            self._release_write(ours)
        finally:
            ours.close()

    def _release_write(self, ours: socket.socket | None) -> None:
        if ours is not None and self._write_socket is ours:
            self._write_socket = None
            _hang_up(ours)
            self.change(CHARACTERISTIC, {"WriteAcquired": Variant("b", False)})

    # -- notifications -----------------------------------------------------------------------------------------------

    async def _start_notify(self, message: Message) -> None:
        client = str(message.sender)
        if not self._notifies:
            raise BluezError("NotSupported", "Operation is not supported")
        if self._notify_socket is not None:
            raise BluezError("NotPermitted", "Notify acquired")
        if client in self.watchers:
            return
        if self.device.link is None:
            self.watchers.add(client)  # begins with the next link
            return
        link = self.device.link
        await self._switch(True)
        if self.device.link is link:
            self.watchers.add(client)
            self.change(CHARACTERISTIC, {"Notifying": Variant("b", True)})

    async def _stop_notify(self, message: Message) -> None:
        if str(message.sender) not in self.watchers:
            raise BluezError("Failed", "No notify session started")
        self.departed(str(message.sender))

    async def _acquire_notify(self, _: Message) -> Reply:
        link = self.device.live()
        if not self._notifies:
            raise BluezError("NotSupported", "Operation is not supported")
        if self._notify_socket is not None:
            raise BluezError("NotPermitted", "Notify acquired")
        if self.watchers:
            raise BluezError("InProgress", "In Progress")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._notify_socket = ours
        try:
            await self._switch(True)
        except BluezError:
            self._notify_socket = None
            ours.close()
            theirs.close()
            raise
        self.change(CHARACTERISTIC, {"NotifyAcquired": Variant("b", True), "Notifying": Variant("b", True)})
        self.bus.spawn(self._until_released(ours), f"notifications of {self.path}")
        return _hand_over(theirs, link.mtu)

    async def _until_released(self, ours: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):
                while await asyncio.get_running_loop().sock_recv(ours, 1):
                    pass  # a client has nothing to say here; the end is what counts
            released = self._release_notify(ours)
        finally:
            ours.close()
        if released:
            await self._off()

    def _release_notify(self, ours: socket.socket | None) -> bool:
        if ours is None or self._notify_socket is not ours:
            return False
        self._notify_socket = None
        _hang_up(ours)
        self.change(CHARACTERISTIC, {"NotifyAcquired": Variant("b", False), "Notifying": Variant("b", False)})
        return True

    async def _switch(self, on: bool) -> None:
        """Write the client characteristic configuration. Raises `BluezError`."""
        link = self.device.live()
        link.client.notification_subscribers[self.handle] = {self._notified}
        link.client.indication_subscribers[self.handle] = {self._notified}
        if self.row.cccd is None:
            return
        notify = self.row.properties & BumbleCharacteristic.Properties.NOTIFY
        bits = (b"\x01\x00" if notify else b"\x02\x00") if on else b"\x00\x00"
        cccd = self.row.cccd
        await link.request(lambda: link.client.write_value(cccd, bits, with_response=True), "subscribe")

    async def _off(self) -> None:
        with contextlib.suppress(BluezError):
            await self._switch(False)

    def _notified(self, value: bytes) -> None:
        if self._notify_socket is not None:
            try:
                self._notify_socket.send(value)
            except BlockingIOError:
                self.notify_dropped += 1  # a client that does not read loses what is new
            except OSError:
                self._release_notify(self._notify_socket)
            return
        for _ in self.watchers:
            # Once for each session: a client whose bus connection outlives its link hears of all its sessions.
            self.announce(CHARACTERISTIC, "Value", Variant("ay", bytes(value)))

    # -- what ends -----------------------------------------------------------------------------------------------------

    def departed(self, client: str) -> None:
        """A client left the bus, or stopped."""
        if client not in self.watchers:
            return
        self.watchers.discard(client)
        if not self.watchers:
            self.change(CHARACTERISTIC, {"Notifying": Variant("b", False)})
            if self.device.link is not None:
                self.bus.spawn(self._off(), f"stop {self.path}")

    def link_lost(self) -> None:
        """Sockets end with the link, sessions of StartNotify do not."""
        self._release_notify(self._notify_socket)
        self._release_write(self._write_socket)

    async def link_back(self) -> None:
        """bluetoothd switches on again what clients have not switched off (a surprise that bleak knows)."""
        if self.watchers:
            with contextlib.suppress(BluezError):
                await self._switch(True)


def _hand_over(theirs: socket.socket, mtu: int) -> Reply:
    return Reply("hq", (0, mtu), theirs)


def _hang_up(ours: socket.socket) -> None:
    """Wake the task that reads from it; that one closes."""
    with contextlib.suppress(OSError):
        ours.shutdown(socket.SHUT_RDWR)
