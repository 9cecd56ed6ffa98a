"""A firmware on the air: each arm a Bumble GATT peripheral, one timer, and what came of the firmware's effects.

Rules of this file:

- It decides nothing about a glasses protocol; it performs effects and reports what Bumble tells.
- Every link gets a number that is never used again; the firmware ignores what comes with an old one.
- Notifications, disconnections and advertising of one arm go through one bounded queue, so that nothing overtakes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, assert_never

from bumble import att, core, gatt, hci
from bumble.core import AdvertisingData
from bumble.device import Connection, Device, DeviceConfiguration
from bumble.host import Host
from bumble.keys import MemoryKeyStore
from bumble.pairing import PairingConfig, PairingDelegate
from bumble.transport.common import AsyncPipeSink, Transport

from firmware_sim.firmware.base import (
    Advertise,
    CharacteristicSpec,
    Disconnect,
    Effect,
    Firmware,
    ForgetBond,
    Lit,
    Microphone,
    Notify,
    PeripheralSpec,
    Refuse,
    Screen,
    UserInput,
)
from firmware_sim.radio import BUFFERS, SimController, SimLink

logger = logging.getLogger(__name__)

WORK_MAX = 512
"""Effects waiting for one arm's radio; 512 audio packets are 51 s. Beyond it notifications are lost, as on hardware."""

HANG_UP_MAX = 5.0
"""Seconds for a disconnection, which the controller of a dead link may never confirm."""

POWER_OFF_MAX = 1.0
"""Seconds for the work at hand to end when the power goes; a drain on a dead radio would take for ever."""

_link_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Rogue:
    """A notification that is sent whether or not the host subscribed: no correct device does that."""

    arm: str
    link: int
    characteristic: str
    data: bytes


Work = Notify | Disconnect | Advertise | ForgetBond | Rogue


class StrictCharacteristic(gatt.Characteristic):
    """A characteristic that refuses what its properties do not offer; Bumble's server leaves that open."""

    async def read_value(self, bearer: Any) -> bytes:
        if not self.properties & gatt.Characteristic.READ:
            raise att.ATT_Error(att.ATT_READ_NOT_PERMITTED_ERROR, self.handle)
        value: bytes = await super().read_value(bearer)
        return value

    async def write_value(self, bearer: Any, value: bytes) -> None:
        if not self.properties & (gatt.Characteristic.WRITE | gatt.Characteristic.WRITE_WITHOUT_RESPONSE):
            raise att.ATT_Error(att.ATT_WRITE_NOT_PERMITTED_ERROR, self.handle)
        await super().write_value(bearer, value)


class PairingPolicy(PairingDelegate):
    """Just Works pairing as far as the firmware allows it; a switch refuses it in any case."""

    def __init__(self, firmware_allows: Callable[[], bool]) -> None:
        super().__init__(PairingDelegate.NO_OUTPUT_NO_INPUT)
        self.reject = False
        self._firmware_allows = firmware_allows

    async def accept(self) -> bool:
        return not self.reject and self._firmware_allows()


class Peripheral:
    """One arm on the virtual radio."""

    def __init__(self, spec: PeripheralSpec, link: SimLink, glasses: Glasses) -> None:
        self.spec = spec
        self.glasses = glasses
        self.connection: Connection | None = None
        self.link_number: int | None = None
        self.pairing = PairingPolicy(self._may_pair)
        self._characteristics: dict[str, StrictCharacteristic] = {}
        self._work: asyncio.Queue[Work] = asyncio.Queue(WORK_MAX)
        self._worker: asyncio.Task[None] | None = None
        self._off = False
        address = hci.Address(spec.address, hci.Address.RANDOM_DEVICE_ADDRESS)
        self.controller = SimController(f"{spec.arm} {spec.name}", link, hci.Address.ANY)
        host = Host()
        host.set_packet_sink(AsyncPipeSink(self.controller))
        self.controller.host = host
        self.device = Device(config=DeviceConfiguration(name=spec.name, address=address), host=host)
        self.device.keystore = MemoryKeyStore()
        self.device.gatt_server.max_mtu = spec.mtu_max
        self.device.pairing_config_factory = lambda _: PairingConfig(
            sc=True, mitm=False, bonding=True, delegate=self.pairing
        )
        for service in spec.services:
            self.device.add_service(
                gatt.Service(service.uuid, [self._characteristic(c) for c in service.characteristics])
            )
        self.device.on("connection", self._on_connection)
        self.device.advertising_data, self.device.scan_response_data = advertisement(spec)

    def _characteristic(self, spec: CharacteristicSpec) -> StrictCharacteristic:
        flags, permissions = gatt.Characteristic.Properties, gatt.Characteristic.Permissions
        properties = flags(0)
        for wanted, flag in (
            (spec.read, flags.READ),
            (spec.write, flags.WRITE),
            (spec.write_without_response, flags.WRITE_WITHOUT_RESPONSE),
            (spec.notify, flags.NOTIFY),
        ):
            if wanted:
                properties |= flag
        allowed = permissions.READABLE | permissions.WRITEABLE
        if spec.encrypted:
            allowed |= permissions.READ_REQUIRES_ENCRYPTION | permissions.WRITE_REQUIRES_ENCRYPTION
        characteristic = StrictCharacteristic(
            spec.uuid,
            properties,
            allowed,
            gatt.CharacteristicValue(
                read=lambda _: self.glasses.firmware.value(self.spec.arm, spec.uuid),
                write=lambda connection, value: self._on_write(connection, spec.uuid, value),
            ),
        )
        characteristic.on(
            "subscription", lambda bearer, notify, _indicate: self._on_subscription(bearer, spec.uuid, notify)
        )
        self._characteristics[spec.uuid] = characteristic
        return characteristic

    def use_adapter(self, transport: Transport) -> None:
        """Go on the air with a real controller instead of the virtual one; before `power_on`."""
        self.device.host = Host(transport.source, transport.sink)

    async def power_on(self) -> None:
        await self.device.power_on()
        self._off = False
        self._worker = asyncio.create_task(self._perform(), name=f"peripheral {self.spec.name}")

    async def power_off(self) -> None:
        """Vanish from the air, as if the battery fell out."""
        if self._worker is not None:
            self._off = True
            while not self._work.empty():
                self._work.get_nowait()
            self._work.put_nowait(
                Advertise(self.spec.arm, False)
            )  # wakes the worker, which then sees the flag
            # A command on its way to the controller is let through: Bumble has no way back from half a command.
            _, late = await asyncio.wait({self._worker}, timeout=POWER_OFF_MAX)
            for worker in late:
                worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
            self._worker = None
        self.controller.power_cycle()

    # -- what Bumble tells -----------------------------------------------------------------------------------------

    def _on_connection(self, connection: Connection) -> None:
        number = next(_link_numbers)
        self.connection, self.link_number = connection, number
        connection.on("disconnection", lambda _reason: self._on_disconnection(number))
        connection.on("pairing", lambda _keys: self._on_pairing(number, str(connection.peer_address)))
        connection.on("connection_att_mtu_update", lambda: self._on_mtu(number, connection.att_mtu))
        self.glasses.feed(
            lambda now: self.glasses.firmware.connected(self.spec.arm, number, connection.att_mtu, now)
        )

    def _may_pair(self) -> bool:
        connection, number = self.connection, self.link_number
        if connection is None or number is None:
            return False
        peer, firmware = str(connection.peer_address), self.glasses.firmware
        allowed = firmware.may_pair(self.spec.arm, peer)
        self.glasses.feed(lambda now: firmware.pairing_requested(self.spec.arm, number, peer, now))
        return allowed

    def _on_pairing(self, number: int, peer: str) -> None:
        self.glasses.feed(lambda now: self.glasses.firmware.paired(self.spec.arm, number, peer, now))

    def _on_disconnection(self, number: int) -> None:
        if self.link_number == number:
            self.connection, self.link_number = None, None
        self.glasses.feed(lambda now: self.glasses.firmware.disconnected(self.spec.arm, number, now))

    def _on_mtu(self, number: int, mtu: int) -> None:
        self.glasses.feed(lambda now: self.glasses.firmware.mtu_changed(self.spec.arm, number, mtu, now))

    def _on_subscription(self, bearer: Any, uuid: str, on: bool) -> None:
        if bearer is self.connection and (number := self.link_number) is not None:
            self.glasses.feed(
                lambda now: self.glasses.firmware.subscribed(self.spec.arm, number, uuid, on, now)
            )

    def _on_write(self, connection: Connection, uuid: str, value: bytes) -> None:
        number = self.link_number
        if connection is not self.connection or number is None:
            return
        effects = self.glasses.feed(
            lambda now: self.glasses.firmware.written(self.spec.arm, number, uuid, bytes(value), now)
        )
        for effect in effects:
            if isinstance(effect, Refuse):
                raise att.ATT_Error(effect.error)

    # -- what the firmware wants -------------------------------------------------------------------------------------

    def enqueue(self, effect: Work) -> None:
        try:
            self._work.put_nowait(effect)
        except asyncio.QueueFull:
            self.glasses.firmware.arms[self.spec.arm].counters.dropped_queue_full += 1

    async def _perform(self) -> None:
        while not self._off:
            effect = await self._work.get()
            try:
                await self._do(effect)
            except (TimeoutError, hci.HCI_Error, core.BaseBumbleError) as error:
                # The link or the controller went away under the effect; the firmware hears of that by itself.
                logger.info("%s: %s did not happen: %s", self.spec.name, type(effect).__name__, error)

    async def _do(self, effect: Work) -> None:
        match effect:
            case (
                Notify(link=link, characteristic=uuid, data=data)
                | Rogue(link=link, characteristic=uuid, data=data)
            ):
                connection = self.connection
                if connection is None or self.link_number != link:
                    return
                queue = connection.data_packet_queue
                if queue is not None and queue.pending >= 2 * BUFFERS:
                    await connection.drain()  # the air is slower than the firmware: wait instead of piling up
                if self.connection is connection:
                    value, force = self._characteristics[uuid], isinstance(effect, Rogue)
                    await self.device.notify_subscriber(connection, value, data, force)
            case Disconnect(link=link, reason=reason):
                if self.connection is not None and self.link_number == link:
                    async with asyncio.timeout(HANG_UP_MAX):
                        await self.connection.disconnect(reason)
            case Advertise(on=on):
                if not on:
                    await self.device.stop_advertising()
                    return
                ms = self.spec.interval * 1000
                await self.device.start_advertising(advertising_interval_min=ms, advertising_interval_max=ms)
            case ForgetBond():
                await self.forget_bonds()
            case _:
                assert_never(effect)

    def say(self, data: bytes, force: bool) -> bool:
        """Notify bytes that the firmware did not think of, on every notifying characteristic; False without a link.

        `force` sends them to a host that has not subscribed, which no correct device does.
        """
        link = self.link_number
        if link is None:
            return False
        for service in self.spec.services:
            for characteristic in service.characteristics:
                if not characteristic.notify:
                    continue
                kind = Rogue if force else Notify
                self.enqueue(kind(self.spec.arm, link, characteristic.uuid, data))
        return True

    async def forget_bonds(self) -> None:
        if self.device.keystore is not None:
            await self.device.keystore.delete_all()


def advertisement(spec: PeripheralSpec) -> tuple[bytes, bytes]:
    """(advertising data, scan response), each of at most 31 bytes.

    Flags and manufacturer data lead; the name follows where it fits, else in the scan response, before the
    service UUIDs.
    """
    first: list[tuple[int, bytes]] = [(AdvertisingData.FLAGS, b"\x06")]
    second: list[tuple[int, bytes]] = []
    if spec.manufacturer_data:
        first.append((AdvertisingData.MANUFACTURER_SPECIFIC_DATA, spec.manufacturer_data))
    name = (AdvertisingData.COMPLETE_LOCAL_NAME, spec.name.encode())
    (first if len(bytes(AdvertisingData([*first, name]))) <= 31 else second).append(name)
    if spec.advertised_services:
        uuids = b"".join(core.UUID(u).to_bytes() for u in spec.advertised_services)
        second.append((AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS, uuids))
    packets = bytes(AdvertisingData(first)), bytes(AdvertisingData(second))
    if max(map(len, packets)) > 31:
        raise ValueError(
            f"{spec.name}: advertisement of {len(packets[0])} and {len(packets[1])} bytes; 31 fit"
        )
    return packets


@dataclass
class Lens:
    """What one arm shows, since when."""

    screen: Screen
    version: int = 0
    frame: int = 0
    lit_at_ms: int = 0


@dataclass(frozen=True)
class Change:
    """Something about one device has changed; `arm` when it is one arm's lens."""

    device: str
    kind: str
    arm: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


class Glasses:
    """One firmware with its peripherals, its timer and the people who watch it."""

    def __init__(
        self, name: str, firmware: Firmware, link: SimLink, on_change: Callable[[Change], None]
    ) -> None:
        """`on_change` hears every change; for a lens it sets the version."""
        self.name = name
        self.firmware = firmware
        self.peripherals = {arm: Peripheral(state.spec, link, self) for arm, state in firmware.arms.items()}
        self.lenses = {arm: Lens(state.screen) for arm, state in firmware.arms.items()}
        self._on_change = on_change
        self._timer: asyncio.TimerHandle | None = None

    async def power_on(self) -> None:
        for peripheral in self.peripherals.values():
            await peripheral.power_on()
        self.feed(self.firmware.start)

    async def power_off(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for peripheral in self.peripherals.values():
            await peripheral.power_off()

    def user(self, what: UserInput) -> None:
        """Raises `NoTaker`."""
        at_ms = time.time_ns() // 1_000_000
        self.feed(lambda now: self.firmware.user(what, now))
        done = {"action": what.action.value, "side": what.side, "value": what.value, "at_ms": at_ms}
        self._on_change(
            Change(self.name, "input", None, {key: value for key, value in done.items() if value is not None})
        )

    def feed(self, give: Callable[[float], list[Effect]]) -> list[Effect]:
        """One input to the firmware, and all its effects, without a pause in between."""
        states = [(arm.state, arm.mtu) for arm in self.firmware.arms.values()]
        effects = give(asyncio.get_running_loop().time())
        for effect in effects:
            self._perform(effect)
        self._set_timer()
        if states != [(arm.state, arm.mtu) for arm in self.firmware.arms.values()]:
            self._on_change(Change(self.name, "link"))
        return effects

    def _set_timer(self) -> None:
        deadline = self.firmware.deadline
        if self._timer is not None:
            if deadline == self._timer.when():
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._expired)

    def _expired(self) -> None:
        self._timer = None
        self.feed(self.firmware.handle_deadline)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Notify() | Disconnect() | Advertise() | ForgetBond():
                self.peripherals[effect.arm].enqueue(effect)
            case Lit(arm=arm):
                lens = self.lenses[arm]
                lens.screen = self.firmware.arms[arm].screen
                lens.frame += 1
                lens.lit_at_ms = time.time_ns() // 1_000_000
                self._on_change(Change(self.name, "lens", arm))
            case Microphone(on=on):
                self._on_change(Change(self.name, "microphone", None, {"on": on}))
            case Refuse():
                pass  # the write that caused it answers
            case _:
                assert_never(effect)
