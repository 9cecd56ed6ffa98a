"""The emulated bluetoothd itself, through bleak's own BlueZ backend and bare D-Bus calls."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.exc import BleakDBusError, BleakGATTProtocolError
from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from firmware_sim.fake_bluez.adapter import Options
from firmware_sim.fake_bluez.daemon import Bluetoothd
from firmware_sim.firmware.g1 import FROM_GLASSES, LEFT, TO_GLASSES
from tests.ble.conftest import HEARTBEAT, Bench, bench_on
from tests.support.waiting import until
from wire.errors import GlassesFault

pytestmark = pytest.mark.lane("bluez")


async def found(bench: Bench) -> BLEDevice:
    device = await BleakScanner.find_device_by_address(bench.address(LEFT), timeout=20)
    assert device is not None
    return device


async def call(bus: MessageBus, path: str, interface: str, member: str) -> Message:
    reply = await bus.call(Message(destination="org.bluez", path=path, interface=interface, member=member))
    assert reply is not None
    return reply


async def test_notifications_and_writes_pass_through_acquired_sockets(bluez: Bench) -> None:
    async with BleakClient(await found(bluez)) as client:
        said: asyncio.Queue[bytes] = asyncio.Queue()
        await client.start_notify(
            FROM_GLASSES, lambda _, data: said.put_nowait(bytes(data)), bluez={"use_start_notify": False}
        )
        await client._backend._acquire_mtu()  # type: ignore[attr-defined]
        assert client.mtu_size == 251
        await client.write_gatt_char(TO_GLASSES, HEARTBEAT, response=True)
        assert await asyncio.wait_for(said.get(), 10) == HEARTBEAT
        await client.stop_notify(FROM_GLASSES)
        arm = bluez.glasses.firmware.arms[LEFT]
        await until(lambda: not arm.subscribed, "unsubscribed")


async def test_attribute_errors_keep_their_code(bluez: Bench) -> None:
    async with BleakClient(await found(bluez)) as client:
        with pytest.raises(BleakGATTProtocolError) as refused:
            await client.read_gatt_char(TO_GLASSES)
        assert refused.value.code == 0x02
        with pytest.raises(BleakDBusError, match="Failed to initiate write"):
            await client.write_gatt_char(TO_GLASSES, bytes(249), response=False)


async def test_what_was_only_seen_is_forgotten_what_was_connected_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench_on("bluez", tmp_path, monkeypatch, Options(temporary_max=0.3)) as bench:
        device = await found(bench)
        async with BleakClient(device):
            pass
        adapter = bench.daemon.adapters[0]
        await until(lambda: set(adapter.devices) == {bench.address(LEFT)}, "the other arm forgotten", 10)


async def test_discovery_and_notifications_end_with_their_client_and_links_do_not(bluez: Bench) -> None:
    adapter = bluez.daemon.adapters[0]
    bus = await MessageBus(bus_address=bluez.daemon.address).connect()
    reply = await call(bus, adapter.path, "org.bluez.Adapter1", "StartDiscovery")
    assert reply.message_type is MessageType.METHOD_RETURN
    again = await call(bus, adapter.path, "org.bluez.Adapter1", "StartDiscovery")
    assert again.error_name == "org.bluez.Error.InProgress"
    await until(lambda: bluez.address(LEFT) in adapter.devices, "seen", 10)
    device = adapter.devices[bluez.address(LEFT)]
    reply = await call(bus, device.path, "org.bluez.Device1", "Connect")
    assert reply.message_type is MessageType.METHOD_RETURN
    await until(lambda: device.is_("ServicesResolved"), "services")
    notifier = next(c for s in device.services for c in s.characteristics if c.row.uuid == FROM_GLASSES)
    reply = await call(bus, notifier.path, "org.bluez.GattCharacteristic1", "StartNotify")
    assert reply.message_type is MessageType.METHOD_RETURN
    arm = bluez.glasses.firmware.arms[LEFT]
    await until(lambda: arm.subscribed, "subscribed")
    bus.disconnect()
    await until(lambda: not arm.subscribed, "unsubscribed")
    await until(lambda: not adapter._sessions, "no discovery")
    assert device.link is not None


async def test_unknown_objects_methods_and_properties_are_refused_by_name(bluez: Bench) -> None:
    bus = await MessageBus(bus_address=bluez.daemon.address).connect()
    for path, interface, member, error in (
        ("/org/bluez/hci9", "org.bluez.Adapter1", "StartDiscovery", "UnknownObject"),
        ("/org/bluez/hci0", "org.bluez.Adapter1", "Dance", "UnknownMethod"),
        ("/org/bluez/hci0", "org.bluez.Adapter1", "StopDiscovery", "Failed"),
    ):
        reply = await call(bus, path, interface, member)
        assert reply.message_type is MessageType.ERROR
        assert str(reply.error_name).endswith(error)
    bus.disconnect()


async def test_a_second_bluetoothd_is_refused(bluez: Bench) -> None:
    second = Bluetoothd(bluez.daemon.address, [])
    with pytest.raises(RuntimeError, match="another program owns"):
        await second.start()


@pytest.mark.failure("BLE-09")
async def test_an_adapter_that_hears_nothing_is_switched_off_and_on(
    bluez: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.ble.SCAN_QUIET", 0.5)
    monkeypatch.setattr("edge.bluez_host.POWER_PAUSE", 0.1)
    adapter = bluez.daemon.adapters[0]
    adapter.mute = True
    bluez.radio.watch(bluez.hear)
    await until(lambda: bluez.radio.scan_restarts >= 2, "scanned anew", 10)
    await until(lambda: bluez.radio._power_cycled is not None, "power cycled", 10)
    await until(lambda: bluez.radio.fault is GlassesFault.ADAPTER_QUIET, "the fault is shown", 10)
    adapter.mute = False
    await until(lambda: bluez.seen, "heard again", 10)
    assert bluez.radio.fault is None
