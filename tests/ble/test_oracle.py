"""What bluetoothd answers to bare D-Bus calls and to bleak itself: each line was seen with the real one (lane C), and the
emulated one (lane B) has to answer the same. What they do differently stands in docs/ble-lanes.md.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.exc import BleakDBusError, BleakGATTProtocolError
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from firmware_sim.firmware.base import ArmState
from firmware_sim.firmware.g1 import FROM_GLASSES, LEFT, RIGHT, TO_GLASSES
from firmware_sim.radio import SimConnection
from tests.ble.conftest import ADAPTER, HEARTBEAT, Bench
from tests.support.waiting import SLOW, until

A, D, C = "org.bluez.Adapter1", "org.bluez.Device1", "org.bluez.GattCharacteristic1"
OK = None


class Client:
    """A program on the bus that calls and takes down the answers."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.files: list[int] = []

    async def call(
        self, path: str, interface: str, member: str, signature: str = "", *body: Any
    ) -> tuple[str, str] | None:
        """The error's name (without org.bluez.Error) and text, or OK."""
        message = Message(
            destination="org.bluez", path=path, interface=interface, member=member, signature=signature, body=list(body)
        )  # fmt: skip
        reply = await asyncio.wait_for(self.bus.call(message), 20 * SLOW)
        assert reply is not None
        self.files += reply.unix_fds
        if reply.message_type is MessageType.METHOD_RETURN:
            return OK
        return str(reply.error_name).removeprefix("org.bluez.Error."), str(reply.body[0])


@asynccontextmanager
async def client(bench: Bench) -> AsyncIterator[Client]:
    bus = await MessageBus(bus_address=bench.daemon.address, negotiate_unix_fd=True).connect()
    made = Client(bus)
    try:
        yield made
    finally:
        bus.disconnect()
        for file in made.files:
            os.close(file)


async def objects(bench: Bench) -> dict[str, dict[str, Any]]:
    (found,) = await bench.ask("/", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
    return dict(found)


async def characteristic(bench: Bench, uuid: str) -> str:
    return next(p for p, i in (await objects(bench)).items() if C in i and i[C]["UUID"].value == uuid)


async def both_seen(bench: Bench) -> None:
    await bench.sight(LEFT)
    await bench.sight(RIGHT)
    bench.radio.unwatch(bench.hear)


async def linked(bench: Bench) -> None:
    """The left arm, connected by somebody, with its services; nobody scans."""
    await both_seen(bench)
    await bench.connect_by_hand(LEFT)
    await until(lambda: bench.device_is(LEFT, "ServicesResolved"), "services", 10)


async def test_discovery_answers(bluez: Bench) -> None:
    async with client(bluez) as c:
        assert await c.call(ADAPTER, A, "StopDiscovery") == ("Failed", "No discovery started")
        assert await c.call(ADAPTER, A, "StartDiscovery") is OK
        assert await c.call(ADAPTER, A, "StartDiscovery") == ("InProgress", "Operation already in progress")
        assert await c.call(ADAPTER, A, "StopDiscovery") is OK
        unknown = f"{ADAPTER}/dev_00_00_00_00_00_00"
        assert await c.call(ADAPTER, A, "RemoveDevice", "o", unknown) == ("DoesNotExist", "Does Not Exist")


async def test_unknown_objects_and_methods_are_refused_by_name(bluez: Bench) -> None:
    async with client(bluez) as c:
        for path, member, error in (
            ("/org/bluez/hci9", "StartDiscovery", "org.freedesktop.DBus.Error.UnknownObject"),
            (ADAPTER, "Dance", "org.freedesktop.DBus.Error.UnknownMethod"),
        ):
            answer = await c.call(path, A, member)
            assert answer is not None
            assert answer[0] == error


async def test_an_adapter_that_is_off_is_not_ready_and_has_forgotten_who_has_no_bond(bluez: Bench) -> None:
    await both_seen(bluez)
    async with client(bluez) as c:
        assert await c.call(ADAPTER, A, "StartDiscovery") is OK
        await bluez.power(False)
        await until(lambda: _property(bluez, ADAPTER, A, "Powered", False), "off", 10)
        assert await c.call(ADAPTER, A, "StopDiscovery") == ("NotReady", "Resource Not Ready")
        assert await c.call(ADAPTER, A, "StartDiscovery") == ("NotReady", "Resource Not Ready")
        for side in (LEFT, RIGHT):
            await until(lambda side=side: _unknown(bluez, side), f"{side} forgotten", 10)  # type: ignore[misc]
        await bluez.power(True)
        await asyncio.sleep(0.5)
        assert await _property(bluez, ADAPTER, A, "Discovering", False), "nobody begins it anew"


async def _unknown(bench: Bench, side: str) -> bool:
    return bench.path(side) not in await objects(bench)


async def _property(bench: Bench, path: str, interface: str, name: str, wanted: object) -> bool:
    (value,) = await bench.ask(path, "org.freedesktop.DBus.Properties", "Get", "ss", [interface, name])
    return bool(value.value == wanted)


async def test_connecting_answers(bluez: Bench) -> None:
    await both_seen(bluez)
    async with client(bluez) as c:
        left = bluez.path(LEFT)
        assert await c.call(left, D, "Connect") is OK
        assert await c.call(left, D, "Connect") is OK
        assert await c.call(left, D, "CancelPairing") == ("DoesNotExist", "Does Not Exist")
        assert await c.call(left, D, "Pair") == ("AuthenticationFailed", "Authentication Failed")
        assert await bluez.device_is(LEFT, "Connected"), "a refused pairing does not end the link"
        assert await c.call(left, D, "Disconnect") is OK
        assert await c.call(left, D, "Disconnect") is OK, "once more does no harm"


async def test_a_silent_device_keeps_no_other_waiting(bluez: Bench) -> None:
    await both_seen(bluez)
    bluez.room.link.blackhole(bluez.address(RIGHT), True)
    async with client(bluez) as c, client(bluez) as other:
        waiting = asyncio.create_task(c.call(bluez.path(RIGHT), D, "Connect"))
        await asyncio.sleep(0.5)
        again = await other.call(bluez.path(RIGHT), D, "Connect")
        assert again == ("Failed", "Operation already in progress")
        assert await asyncio.wait_for(other.call(bluez.path(LEFT), D, "Connect"), 5 * SLOW) is OK
        assert not waiting.done()
        assert await other.call(bluez.path(RIGHT), D, "Disconnect") is OK
        ended = await waiting
        assert ended is not None


async def test_connections_are_asked_for_with_the_defaults_of_linux(bluez: Bench) -> None:
    """Hazard 6: 30 to 50 ms, and a link that is silent for 420 ms is over."""
    await linked(bluez)
    connection = bluez.room.link.connection_of(bluez.address(LEFT))
    assert isinstance(connection, SimConnection)
    assert connection.supervision == pytest.approx(0.42)


async def test_the_tree_of_a_device(bluez: Bench) -> None:
    """Handles name the objects; Generic Access is not shown; what can be acquired says so."""
    await linked(bluez)
    found = await objects(bluez)
    below = {p.removeprefix(bluez.path(LEFT)): i for p, i in found.items() if p.startswith(bluez.path(LEFT))}
    assert {p: set(i) & {D, C, "org.bluez.GattService1", "org.bluez.GattDescriptor1"} for p, i in below.items()} == {
        "": {D},
        "/service0006": {"org.bluez.GattService1"},
        "/service0006/char0007": {C},
        "/service0006/char0007/desc0009": {"org.bluez.GattDescriptor1"},
        "/service0006/char000a": {C},
        "/service0006/char000c": {C},
        "/service000e": {"org.bluez.GattService1"},
        "/service000e/char000f": {C},
        "/service000e/char000f/desc0011": {"org.bluez.GattDescriptor1"},
        "/service000e/char0012": {C},
    }  # fmt: skip
    properties = {p[-4:]: {k: v.value for k, v in i[C].items()} for p, i in below.items() if C in i}
    assert {p: set(v) for p, v in properties.items()} == {
        "0007": {"UUID", "Service", "Value", "Notifying", "Flags", "MTU"},
        "000a": {"UUID", "Service", "Value", "Flags", "MTU"},
        "000c": {"UUID", "Service", "Value", "Flags", "MTU"},
        "000f": {"UUID", "Service", "Value", "Notifying", "Flags", "NotifyAcquired", "MTU"},
        "0012": {"UUID", "Service", "Value", "Flags", "WriteAcquired", "MTU"},
    }
    assert set(properties["0012"]["Flags"]) == {"write", "write-without-response"}
    assert properties["000f"]["MTU"] == 251


async def test_reading_and_writing_answers(bluez: Bench) -> None:
    await linked(bluez)
    to, from_ = await characteristic(bluez, TO_GLASSES), await characteristic(bluez, FROM_GLASSES)
    request, command = {"type": Variant("s", "request")}, {"type": Variant("s", "command")}
    async with client(bluez) as c:

        async def write(path: str, size: int, options: dict[str, Variant]) -> tuple[str, str] | None:
            return await c.call(path, C, "WriteValue", "aya{sv}", bytes([0xD0]) + bytes(size - 1), options)

        assert await c.call(to, C, "ReadValue", "a{sv}", {}) == ("NotPermitted", "Read not permitted")
        assert await write(from_, 1, {}) == ("NotSupported", "Operation is not supported")
        assert await write(to, 513, request) == ("InvalidArguments", "Invalid Length")
        assert await write(to, 249, command) == ("Failed", "Failed to initiate write")
        assert await write(to, 248, command) is OK
        bluez.room.link.drop(bluez.address(LEFT))
        await until(lambda: _property(bluez, bluez.path(LEFT), D, "Connected", False), "lost", 10)
        assert await write(to, 1, request) == ("Failed", "Not connected")
        assert await c.call(to, C, "ReadValue", "a{sv}", {}) == ("Failed", "Not connected")


async def test_listening_answers(bluez: Bench) -> None:
    await linked(bluez)
    to, from_ = await characteristic(bluez, TO_GLASSES), await characteristic(bluez, FROM_GLASSES)
    async with client(bluez) as c:
        assert await c.call(to, C, "StartNotify") == ("NotSupported", "Operation is not supported")
        assert await c.call(from_, C, "StopNotify") == ("Failed", "No notify session started")
        assert await c.call(from_, C, "StartNotify") is OK
        assert await c.call(from_, C, "StartNotify") is OK
        assert await c.call(from_, C, "AcquireNotify", "a{sv}", {}) == ("InProgress", "In Progress")
        assert await c.call(from_, C, "StopNotify") is OK
        assert await c.call(from_, C, "AcquireNotify", "a{sv}", {}) is OK
        assert await c.call(from_, C, "AcquireNotify", "a{sv}", {}) == ("NotPermitted", "Notify acquired")
        assert await c.call(from_, C, "StartNotify") == ("NotPermitted", "Notify acquired")
        assert await c.call(to, C, "AcquireWrite", "a{sv}", {}) is OK
        assert await c.call(to, C, "AcquireWrite", "a{sv}", {}) == ("NotPermitted", "Write acquired")
        refused = await c.call(to, C, "WriteValue", "aya{sv}", b"\x25", {"type": Variant("s", "request")})
        assert refused == ("NotPermitted", "Write acquired")


async def test_a_client_hears_each_notification_once_for_every_session_there_is(bluez: Bench) -> None:
    """Sessions live over a reconnect, and belong to bus connections: one that a dead link leaves open doubles all."""
    await linked(bluez)
    path = await characteristic(bluez, FROM_GLASSES)
    async with client(bluez) as one, client(bluez) as two:
        heard: list[bytes] = []

        def hear(message: Message) -> None:
            if message.member == "PropertiesChanged" and message.path == path and "Value" in message.body[1]:
                heard.append(bytes(message.body[1]["Value"].value))

        rule = f"type='signal',path='{path}'"
        await one.bus.call(
            Message(
                destination="org.freedesktop.DBus", path="/org/freedesktop/DBus", interface="org.freedesktop.DBus",
                member="AddMatch", signature="s", body=[rule],
            )
        )  # fmt: skip
        one.bus.add_message_handler(hear)
        assert await one.call(path, C, "StartNotify") is OK
        assert await two.call(path, C, "StartNotify") is OK
        bluez.room.link.drop(bluez.address(LEFT))
        arm = bluez.glasses.firmware.arms[LEFT]
        await until(lambda: _property(bluez, bluez.path(LEFT), D, "Connected", False), "lost", 10)
        await until(lambda: arm.state is ArmState.ADVERTISING, "advertising", 10)
        await bluez.connect_by_hand(LEFT)
        await until(lambda: arm.subscribed, "subscribed again by itself", 10)
        await until(lambda: bluez.device_is(LEFT, "ServicesResolved"), "services", 10)
        bluez.glasses.peripherals[LEFT].say(b"\xf1\x01", force=False)
        await until(lambda: len(heard) >= 2, "both sessions", 10)
        await asyncio.sleep(0.2)
        assert heard == [b"\xf1\x01"] * 2


# -- through bleak -----------------------------------------------------------------------------------------------------


async def found(bench: Bench) -> BLEDevice:
    device = await BleakScanner.find_device_by_address(bench.address(LEFT), timeout=20)
    assert device is not None
    return device


async def test_notifications_and_writes_pass_through_acquired_sockets(bluez: Bench) -> None:
    async with BleakClient(await found(bluez)) as glasses:
        said: asyncio.Queue[bytes] = asyncio.Queue()
        await glasses.start_notify(
            FROM_GLASSES, lambda _, data: said.put_nowait(bytes(data)), bluez={"use_start_notify": False}
        )
        await glasses._backend._acquire_mtu()  # type: ignore[attr-defined]
        assert glasses.mtu_size == 251
        await glasses.write_gatt_char(TO_GLASSES, HEARTBEAT, response=True)
        assert await asyncio.wait_for(said.get(), 10) == HEARTBEAT
        await glasses.stop_notify(FROM_GLASSES)
        arm = bluez.glasses.firmware.arms[LEFT]
        await until(lambda: not arm.subscribed, "unsubscribed")


async def test_attribute_errors_keep_their_code(bluez: Bench) -> None:
    async with BleakClient(await found(bluez)) as glasses:
        with pytest.raises(BleakGATTProtocolError) as refused:
            await glasses.read_gatt_char(TO_GLASSES)
        assert refused.value.code == 0x02
        with pytest.raises(BleakDBusError, match="Failed to initiate write"):
            await glasses.write_gatt_char(TO_GLASSES, bytes(249), response=False)


async def test_discovery_and_notifications_end_with_their_client_and_links_do_not(bluez: Bench) -> None:
    async with client(bluez) as c:
        assert await c.call(ADAPTER, A, "StartDiscovery") is OK
        await until(lambda: bluez.device_is(LEFT, "Address"), "seen", 10)
        assert await c.call(bluez.path(LEFT), D, "Connect") is OK
        await until(lambda: bluez.device_is(LEFT, "ServicesResolved"), "services", 10)
        assert await c.call(await characteristic(bluez, FROM_GLASSES), C, "StartNotify") is OK
        arm = bluez.glasses.firmware.arms[LEFT]
        await until(lambda: arm.subscribed, "subscribed")
    await until(lambda: not arm.subscribed, "unsubscribed", 10)
    await until(lambda: _property(bluez, ADAPTER, A, "Discovering", False), "no discovery", 10)
    assert await bluez.device_is(LEFT, "Connected")
