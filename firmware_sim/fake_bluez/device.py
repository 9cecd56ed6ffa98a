"""A remote device as bluetoothd sees it: Device1, its link, its bond.

Rules of this file:

- A device without a bond goes away by itself when it has not been seen or connected for a while.
- `Connect` answers when the link carries ATT; the services follow. A link that dies before answers
  "le-connection-abort-by-local", after `Connected` was told true and false.
- Links belong to nobody: they stay when the client that asked for them is killed (BLE-08).
- A request to the peer is never abandoned half way; a caller may leave, the answer is still waited for.
- A bond that the peer has lost makes every link end before `Connect` has answered; the cure is RemoveDevice.
- `Connect` that the controller refuses is never answered for a device without a bond: it is forgotten instead.
- All of this was seen with BlueZ 5.66 on Linux 6.12 (docs/ble-lanes.md, "What the oracle taught").
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bleak.exc import BleakError
from bumble import att, core, hci
from bumble.core import AdvertisingData
from bumble.device import Advertisement, Connection, Peer
from dbus_fast import Message, Variant

from firmware_sim.bleak_backend import MTU, address_text
from firmware_sim.fake_bluez.bus import BluezError, Exported, NoAnswer
from firmware_sim.fake_bluez.gatt import HIDDEN, Service, discover, refused, uuid_text

if TYPE_CHECKING:
    from firmware_sim.fake_bluez.adapter import Adapter

DEVICE = "org.bluez.Device1"

RSSI_STEP = 8
"""dB of change that bluetoothd finds worth telling within one round of discovery."""

CONNECT_MAX = 40.0
"""Seconds of an attempt; the kernel's own limit is 20 for each of its two steps."""

HANG_UP_MAX = 5.0
"""Seconds for the end of a link to be confirmed; a dead peer is noticed by the supervision time-out."""

COMMANDS_PENDING_MAX = 16
"""ACL packets queued on one link before a write command waits for the air."""

UNENCRYPTED = (
    att.ATT_INSUFFICIENT_AUTHENTICATION_ERROR,
    att.ATT_INSUFFICIENT_ENCRYPTION_ERROR,
)


class Link:
    """One connection. Its requests end with it."""

    def __init__(self, device: Device, connection: Connection) -> None:
        self.device = device
        self.connection = connection
        self.peer = Peer(connection)
        self.client = self.peer.gatt_client
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._commands = asyncio.Lock()
        connection.on("disconnection", self._on_disconnection)

    def _on_disconnection(self, reason: int) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)
            self.device.link_lost(self, reason)

    @property
    def mtu(self) -> int:
        return int(self.connection.att_mtu)

    async def run(self, work: Coroutine[Any, Any, Any], name: str) -> Any:
        """One exchange, in a task of its own. Raises `BluezError` for a lost link, what Bumble raises otherwise."""
        task = self.device.adapter.controller.spawn(work, f"{name} {self.device.address}")
        await asyncio.wait({task, self.ended}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
        if task.cancelled() or not task.done():
            raise refused(att.ATT_UNLIKELY_ERROR_ERROR)
        return task.result()

    async def request(self, work: Callable[[], Coroutine[Any, Any, Any]], name: str) -> Any:
        """An ATT request; an attribute that wants encryption gets it, as bluetoothd does, and is asked again."""
        try:
            try:
                return await self.run(work(), name)
            except att.ATT_Error as error:
                if error.error_code not in UNENCRYPTED or self.connection.is_encrypted:
                    raise
            await self.device.secure(self)
            return await self.run(work(), name)
        except att.ATT_Error as error:
            raise refused(error.error_code) from error
        except (core.BaseBumbleError, hci.HCI_Error, asyncio.InvalidStateError) as error:
            raise refused(att.ATT_UNLIKELY_ERROR_ERROR) from error

    async def command(self, handle: int, value: bytes) -> None:
        """A write without response, in order; it waits only for room on the air."""
        async with self._commands:
            queue = self.connection.data_packet_queue
            if queue is not None and queue.pending >= COMMANDS_PENDING_MAX:
                await self.run(self.connection.drain(), "drain")
            if self.ended.done():
                raise BluezError("Failed", "Not connected")
            await self.client.write_value(handle, value)

    async def hang_up(self) -> None:
        if self.ended.done():
            return
        with contextlib.suppress(core.BaseBumbleError, hci.HCI_Error, TimeoutError):
            async with asyncio.timeout(HANG_UP_MAX):
                await asyncio.shield(
                    self.device.adapter.controller.spawn(self.connection.disconnect(), "hang up")
                )
        self._on_disconnection(hci.HCI_ErrorCode.CONNECTION_TERMINATED_BY_LOCAL_HOST_ERROR)


@dataclass(frozen=True, eq=False)
class _Ear:
    """Hears one device, once (the controller's idea of a scanner)."""

    address: str
    event: asyncio.Event

    def heard(self, address: str, _: Advertisement) -> None:
        if address == self.address:
            self.event.set()


class Device(Exported):
    def __init__(self, adapter: Adapter, address: hci.Address) -> None:
        self.adapter = adapter
        self.address_object = address
        self.address = address_text(address)
        dashed = self.address.replace(":", "-")
        kind = "public" if address.is_public else "random"
        properties = {
            "Address": Variant("s", self.address),
            "AddressType": Variant("s", kind),
            "Alias": Variant("s", dashed),
            "Paired": Variant("b", False),
            "Bonded": Variant("b", False),
            "Trusted": Variant("b", False),
            "Blocked": Variant("b", False),
            "LegacyPairing": Variant("b", False),
            "Connected": Variant("b", False),
            "UUIDs": Variant("as", []),
            "Adapter": Variant("o", adapter.path),
            "ServicesResolved": Variant("b", False),
        }
        super().__init__(
            adapter.bus, f"{adapter.path}/dev_{self.address.replace(':', '_')}", {DEVICE: properties}
        )
        self.link: Link | None = None
        self.mtu = att.ATT_DEFAULT_MTU
        self.services: list[Service] = []
        self.temporary = True
        self._told_round = -1
        self._expiry: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._pairing: asyncio.Task[None] | None = None
        self.methods = {
            (DEVICE, "Connect"): self._connect,
            (DEVICE, "Disconnect"): self._disconnect,
            (DEVICE, "Pair"): self._pair,
            (DEVICE, "CancelPairing"): self._cancel_pairing,
        }

    def live(self) -> Link:
        """The link. Raises `BluezError`."""
        if self.link is None:
            raise BluezError("Failed", "Not connected")
        return self.link

    def is_(self, name: str) -> bool:
        return bool(self.interfaces[DEVICE][name].value)

    async def set_property(self, interface: str, name: str, value: Any) -> None:
        if name not in ("Trusted", "Blocked", "Alias"):
            await super().set_property(interface, name, value)
        self.change(DEVICE, {name: Variant("s" if name == "Alias" else "b", value)})

    # -- seen --------------------------------------------------------------------------------------------------------

    def heard(self, advertisement: Advertisement, discovery_round: int) -> None:
        """An advertisement in the given round of discovery; each round tells about a device at least once."""
        properties = self.interfaces[DEVICE]
        data = advertisement.data
        changed: dict[str, Variant | None] = {}
        name = data.get(AdvertisingData.COMPLETE_LOCAL_NAME) or data.get(AdvertisingData.SHORTENED_LOCAL_NAME)
        if isinstance(name, str):
            changed |= {"Name": Variant("s", name), "Alias": Variant("s", name)}
        if manufacturer := data.get_all(AdvertisingData.MANUFACTURER_SPECIFIC_DATA):
            content = {company: Variant("ay", bytes(value)) for company, value in manufacturer}
            changed["ManufacturerData"] = Variant("a{qv}", content)
        uuids = [
            uuid_text(uuid)
            for kind in (
                AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS,
                AdvertisingData.INCOMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS,
                AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
                AdvertisingData.INCOMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
            )
            for entry in data.get_all(kind)
            for uuid in entry
        ]
        if uuids:
            changed["UUIDs"] = Variant("as", sorted({*properties["UUIDs"].value, *uuids}))
        rssi = properties.get("RSSI")
        # Bumble hands over a device after its scan response, so the name is there at once.
        if (
            rssi is None
            or self._told_round != discovery_round
            or abs(rssi.value - advertisement.rssi) >= RSSI_STEP
        ):
            changed["RSSI"] = Variant("n", advertisement.rssi)
        if self._told_round != discovery_round and rssi is not None:
            properties.pop("RSSI", None)  # the same strength in a new round is news
        self._told_round = discovery_round
        if self.bus.objects.get(self.path) is self:
            self.change(DEVICE, changed)
        else:
            properties.update({key: value for key, value in changed.items() if value is not None})
            self.export()
        self.expire_later()

    def out_of_sight(self) -> None:
        """Discovery has ended: how strong it was means nothing any more."""
        self.change(DEVICE, {"RSSI": None})

    def expire_later(self) -> None:
        """A device without a bond goes when it is not seen again."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if self.temporary and self.link is None:
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(self.adapter.options.temporary_max, self._expire)

    def _expire(self) -> None:
        if self.temporary and self.link is None and self._connecting is None:
            self.adapter.forget(self)

    # -- connecting ----------------------------------------------------------------------------------------------------

    async def _connect(self, _: Message) -> None:
        await self.connect()

    async def connect(self) -> None:
        """Raises `BluezError`."""
        if not self.adapter.powered:
            raise BluezError("NotReady", "Resource Not Ready")
        if self.link is not None:
            return
        if self._connecting is not None:
            raise BluezError("Failed", "Operation already in progress")
        if self.adapter.options.one_connect and self.adapter.connecting:
            raise BluezError("InProgress", "Operation already in progress")
        self.temporary = False
        self.expire_later()
        self.adapter.connecting += 1
        attempt = self._connecting = self.bus.spawn(self._bring_up(), f"connect {self.address}")
        try:
            await asyncio.wait({attempt})
        finally:
            self.adapter.connecting -= 1
            self._connecting = None
            attempt.cancel()
            self._rest()
        if attempt.cancelled():
            raise BluezError("Failed", "le-connection-canceled")
        attempt.result()

    async def _bring_up(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_MAX):
                await self._until_heard()
                connection = await self.adapter.controller.connect(self.address_object)
        except TimeoutError as error:
            raise BluezError("Failed", "le-connection-abort-by-local") from error
        except hci.HCI_Error as error:
            if self.is_("Bonded"):
                raise BluezError("Failed", "le-connection-abort-by-local") from error
            self.adapter.forget(self)
            raise NoAnswer from error
        except (core.BaseBumbleError, BleakError) as error:
            raise BluezError("Failed", "le-connection-unknown") from error
        link = self.link = Link(self, connection)
        self.expire_later()
        if self.bus.objects.get(self.path) is not self:
            await link.hang_up()  # removed meanwhile
            raise BluezError("org.freedesktop.DBus.Error.UnknownObject", "the device was removed")
        self.change(DEVICE, {"Connected": Variant("b", True)})
        if self.is_("Paired"):
            await self._encrypt(link)
        try:
            self.mtu = await link.run(link.client.request_mtu(MTU), "mtu")
        except (BluezError, core.BaseBumbleError, hci.HCI_Error) as error:
            await link.hang_up()
            raise BluezError("Failed", "le-connection-abort-by-local") from error
        self.bus.spawn(self._resolve(link), f"discover {self.address}")

    async def _until_heard(self) -> None:
        """The kernel listens for all devices that somebody wants, and begins with one when it hears it: an attempt on a
        device that is silent does not keep another waiting."""
        heard = asyncio.Event()
        ear: Any = _Ear(self.address, heard)
        await self.adapter.controller.add_scanner(ear)
        try:
            await heard.wait()
        finally:
            await self.adapter.controller.remove_scanner(ear)

    async def _encrypt(self, link: Link) -> None:
        try:
            await link.run(link.connection.encrypt(), "encrypt")
        except (BluezError, core.BaseBumbleError, hci.HCI_Error) as error:
            await link.hang_up()  # the peer has lost its key
            raise BluezError("Failed", "le-connection-abort-by-local") from error

    async def _resolve(self, link: Link) -> None:
        """Discover, or trust what is known from an earlier link."""
        if not self.services:
            try:
                table = await link.run(discover(link.peer), "discover")
            except (BluezError, core.BaseBumbleError, hci.HCI_Error):
                await link.hang_up()
                return
            hidden = self.adapter.hidden.pop(self.address, None)
            for row in table:
                row.rows = [each for each in row.rows if each.uuid != hidden]
            if self.link is not link:
                return
            uuids = {*self.interfaces[DEVICE]["UUIDs"].value, *(row.uuid for row in table)}
            self.change(DEVICE, {"UUIDs": Variant("as", sorted(uuids))})
            self.services = [Service(self, row) for row in table if row.uuid != HIDDEN]
            for service in self.services:
                service.export()
        for service in self.services:
            for characteristic in service.characteristics:
                await characteristic.link_back()
        if self.link is link:
            self.change(DEVICE, {"ServicesResolved": Variant("b", True)})

    def link_lost(self, link: Link, _reason: int) -> None:
        if self.link is not link:
            return
        self.link = None
        for service in self.services:
            for characteristic in service.characteristics:
                characteristic.link_lost()
        self.change(DEVICE, {"ServicesResolved": Variant("b", False), "Connected": Variant("b", False)})
        self._rest()

    def _rest(self) -> None:
        """Nobody is connected or connecting: without a bond it is a device that was seen, and no more."""
        if self.link is None:
            self.temporary = not self.is_("Bonded")
            self.expire_later()

    async def _disconnect(self, _: Message) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            if self.link is not None:
                await self.link.hang_up()
            return
        if self.link is None:
            return
        if self.adapter.options.disconnect_delay:
            await asyncio.sleep(self.adapter.options.disconnect_delay)
        await self.hang_up()

    async def hang_up(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self.link is not None:
            await self.link.hang_up()

    # -- pairing -------------------------------------------------------------------------------------------------------

    async def _pair(self, message: Message) -> None:
        if self.is_("Paired"):
            raise BluezError("AlreadyExists", "Already Exists")
        if self._pairing is not None:
            raise BluezError("InProgress", "In Progress")
        if self.adapter.agents.of(str(message.sender)) is None:
            # A headless bluetoothd is not pairable before somebody offers to answer questions.
            raise BluezError("AuthenticationFailed", "Authentication Failed")
        if self.link is None:
            try:
                await self.connect()
            except BluezError as error:
                raise BluezError("ConnectionAttemptFailed", "Page Timeout") from error
        await self._bond(self.live())

    async def _bond(self, link: Link) -> None:
        """Raises `BluezError`."""
        pairing = self._pairing = self.bus.spawn(link.run(link.connection.pair(), "pair"), "pair")
        try:
            await asyncio.wait({pairing})
        finally:
            pairing.cancel()
            self._pairing = None
        if pairing.cancelled():
            raise BluezError("AuthenticationCanceled", "Authentication Canceled")
        if pairing.exception() is not None:
            raise BluezError("AuthenticationFailed", "Authentication Failed")
        self.temporary = False
        self.change(DEVICE, {"Paired": Variant("b", True), "Bonded": Variant("b", True)})

    async def secure(self, link: Link) -> None:
        """An attribute wants encryption: pair, if an agent allows it; without one the kernel waits for ever."""
        agent = self.adapter.agents.of("")
        if agent is None:
            await link.ended
            raise refused(att.ATT_UNLIKELY_ERROR_ERROR)
        if not await self.adapter.agents.authorised(agent, self.path):
            raise refused(att.ATT_INSUFFICIENT_AUTHENTICATION_ERROR)
        if self._pairing is None:
            await self._bond(link)
        else:
            await asyncio.wait({self._pairing})

    async def _cancel_pairing(self, _: Message) -> None:
        if self._pairing is None:
            raise BluezError("DoesNotExist", "Does Not Exist")
        self._pairing.cancel()

    # -- the end -------------------------------------------------------------------------------------------------------

    def departed(self, client: str) -> None:
        """A client left the bus: what it listened to ends, the link stays."""
        for service in self.services:
            for characteristic in service.characteristics:
                characteristic.departed(client)

    def withdraw(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        services, self.services = self.services, []
        for service in services:
            service.withdraw()
        super().withdraw()
