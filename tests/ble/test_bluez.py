"""What only BlueZ can do to us, on lane B: daemons that die, buses that stall, calls that hang, bonds that rot.

The nine hazards that real BlueZ and bleak showed (docs/ble-lanes.md) each have their test here or in
test_conformance.py; the names say which.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from bleak import BleakClient, BleakScanner
from bleak.exc import BleakError

from edge import ble
from edge.bluez_host import PairingAgent
from edge.profiles.g1 import UART
from firmware_sim.fake_bluez.adapter import Options
from firmware_sim.firmware import nex
from firmware_sim.firmware.base import ArmState
from firmware_sim.firmware.g1 import FROM_GLASSES, LEFT, RIGHT
from tests.ble.conftest import HEARTBEAT, Bench, bench_on, emulated_with
from tests.support.realbluez import lanes
from tests.support.waiting import until
from wire.errors import GlassesError, GlassesFault


async def test_hazard_1_a_stalled_bus_under_load_loses_the_link_or_nothing(bluez: Bench) -> None:
    """dbus-fast ends a connection whose socket is full. The link is then told as lost, and a new one works."""
    arm = await bluez.connect(LEFT)
    assert bluez.bus is not None
    pid = bluez.bus.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        flood = [
            asyncio.create_task(arm.link.write(bytes([0xD0]) + bytes(230), response=False))
            for _ in range(2000)
        ]
        await asyncio.sleep(0.5)
    finally:
        os.kill(pid, signal.SIGCONT)
    ends = await asyncio.wait_for(asyncio.gather(*flood, return_exceptions=True), 60)
    assert all(end is None or isinstance(end, GlassesError) for end in ends)
    if any(isinstance(end, GlassesError) and end.fault is GlassesFault.LINK_LOST for end in ends):
        await arm.until_closed()
        arm = await bluez.connect_again(LEFT)
    assert await arm.echo() == HEARTBEAT


@pytest.mark.failure("BLE-06")
async def test_hazard_2_a_dead_bluetoothd_ends_every_link_at_once_and_its_return_is_noticed(
    bluez: Bench,
) -> None:
    left, right = await bluez.connect(LEFT), await bluez.connect(RIGHT)
    await bluez.daemon.crash()
    await asyncio.gather(left.until_closed(), right.until_closed())
    with pytest.raises(GlassesError):
        await left.link.write(HEARTBEAT, response=True)
    await until(lambda: bluez.radio.fault is not None, "the fault", 10)
    await asyncio.sleep(1.0)
    await bluez.daemon.start()
    again = await bluez.connect_again(LEFT)
    assert await again.echo() == HEARTBEAT
    assert bluez.radio.fault is None
    assert len(left.closed) == len(right.closed) == 1


@pytest.mark.failure("BLE-06")
async def test_a_bus_that_dies_ends_every_link(bluez: Bench) -> None:
    left = await bluez.connect(LEFT)
    assert bluez.bus is not None
    await bluez.bus.kill()
    await left.until_closed()
    with pytest.raises(GlassesError) as error:
        await asyncio.wait_for(left.link.write(HEARTBEAT, response=True), 20)
    assert error.value.retryable


@pytest.mark.failure("BLE-06")
async def test_a_scan_outlives_an_adapter_that_was_off(bluez: Bench) -> None:
    """bluetoothd ends discovery at power off, and bleak tells nobody: our scan begins anew by itself."""
    await bluez.sight(LEFT)
    await bluez.power(False)
    await until(lambda: bluez.radio.fault is GlassesFault.ADAPTER_DOWN, "adapter down", 10)
    await asyncio.sleep(0.2)
    bluez.seen.clear()
    await bluez.power(True)
    await until(lambda: bluez.seen, "an advertisement", 10)
    assert bluez.radio.fault is None


@pytest.mark.failure("BLE-06")
async def test_an_unplugged_adapter_is_missing_and_comes_back(bluez: Bench) -> None:
    left = await bluez.connect(LEFT)
    await bluez.daemon.unplug()
    await left.until_closed()
    await until(lambda: bluez.radio.fault is GlassesFault.ADAPTER_MISSING, "adapter missing", 10)
    await bluez.daemon.plug()
    assert await (await bluez.connect_again(LEFT)).echo() == HEARTBEAT
    assert bluez.radio.fault is None


async def test_hazard_4_pairing_needs_our_agent(bluez: Bench) -> None:
    with pytest.raises(GlassesError) as error:
        await bluez.connect(LEFT, pair=True)
    assert error.value.fault is GlassesFault.NOT_PAIRED
    agent = PairingAgent()
    agent.start()
    try:
        await until(lambda: agent.registrations == 1, "the agent")
        arm = await bluez.connect(LEFT, pair=True)
        assert await arm.echo() == HEARTBEAT
        assert await bluez.device_is(LEFT, "Paired")
        await arm.link.close()
        assert await (await bluez.connect(LEFT, pair=True)).echo() == HEARTBEAT
    finally:
        await agent.stop()


async def test_the_agent_is_there_again_after_bluetoothd_was_restarted(bluez: Bench) -> None:
    agent = PairingAgent()
    agent.start()
    try:
        await until(lambda: agent.registrations == 1, "the agent")
        await bluez.daemon.crash()
        await bluez.daemon.start()
        await until(lambda: agent.registrations == 2, "the agent again", 10)
        arm = await bluez.connect_again(LEFT)
        await arm.link.close()
        assert await (await bluez.connect(LEFT, pair=True)).echo() == HEARTBEAT
    finally:
        await agent.stop()


async def test_a_refused_pairing_is_said_as_such(bluez: Bench) -> None:
    agent = PairingAgent()
    agent.start()
    try:
        await until(lambda: agent.registrations == 1, "the agent")
        bluez.glasses.peripherals[LEFT].pairing.reject = True
        with pytest.raises(GlassesError) as error:
            await bluez.connect(LEFT, pair=True)
        assert error.value.fault is GlassesFault.NOT_PAIRED
        assert not error.value.retryable
    finally:
        await agent.stop()


@pytest.mark.failure("BLE-05")
async def test_hazard_5_a_stale_mtu_refuses_the_packet_and_not_the_link(bluez: Bench) -> None:
    """BlueZ shows the MTU of the first link for ever; our port asks for the present one."""
    await (await bluez.connect(LEFT)).link.close()
    bluez.glasses.peripherals[LEFT].device.gatt_server.max_mtu = 23
    arm = await bluez.connect(LEFT)
    assert arm.link.payload_max == 20
    assert await arm.echo(response=False) == HEARTBEAT
    with pytest.raises(GlassesError) as error:
        await arm.link.write(bytes(21), response=False)
    assert error.value.fault is GlassesFault.REFUSED
    assert await arm.echo() == HEARTBEAT


async def test_hazard_7_a_read_is_not_taken_for_a_notification(bluez: Bench) -> None:
    """StartNotify reports reads too; our port offers no read of what it listens to."""
    assert not hasattr(ble.Link, "read")
    arm = await bluez.connect(LEFT)
    assert await arm.echo() == HEARTBEAT
    await asyncio.sleep(0.1)
    assert arm.said.empty()


@pytest.mark.parametrize("lane", lanes("bluez", "realbluez"))
async def test_hazard_7_with_start_notify_everybodys_read_is_told_as_a_notification(
    lane: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hazard itself, on glasses whose characteristic can be read, too; sockets of their own do not have it."""
    async with bench_on(lane, tmp_path, monkeypatch, model="nex") as bench:
        (address,) = (arm.spec.address for arm in bench.glasses.firmware.arms.values())
        device = await BleakScanner.find_device_by_address(address, timeout=20)
        assert device is not None
        for start_notify in (True, False):
            async with BleakClient(device) as glasses:
                heard: list[bytes] = []
                await glasses.start_notify(
                    nex.FROM_GLASSES,
                    lambda _, data, heard=heard: heard.append(bytes(data)),
                    bluez={"use_start_notify": start_notify},
                )
                read = bytes(await glasses.read_gatt_char(nex.FROM_GLASSES))
                await asyncio.sleep(0.2)
                assert heard == ([read] if start_notify else [])


async def test_hazard_8_no_write_is_longer_than_an_attribute_value(bluez: Bench) -> None:
    bluez.glasses.peripherals[LEFT].device.gatt_server.max_mtu = 517
    arm = await bluez.connect(LEFT)
    assert arm.link.payload_max == 512
    await arm.link.write(bytes([0xD0]) + bytes(511), response=True)
    with pytest.raises(GlassesError) as error:
        await arm.link.write(bytes(513), response=True)
    assert error.value.fault is GlassesFault.REFUSED
    assert await arm.echo() == HEARTBEAT


@pytest.mark.failure("BLE-13")
async def test_hazard_9_a_bond_that_the_glasses_lost_is_given_up_and_made_anew(
    bluez: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = PairingAgent()
    agent.start()
    try:
        await until(lambda: agent.registrations == 1, "the agent")
        for side in (LEFT, RIGHT):
            await (await bluez.connect(side, pair=True)).link.close()
        await bluez.glasses.peripherals[LEFT].forget_bonds()
        monkeypatch.setattr(ble, "CONNECT_MAX", 1.0)
        for _ in range(ble.BOND_DOUBTS_MAX):
            with pytest.raises(GlassesError) as error:
                await bluez.connect(LEFT, pair=True)
            assert error.value.fault is GlassesFault.TIMEOUT
        monkeypatch.setattr(ble, "CONNECT_MAX", 20.0)
        assert await (await bluez.connect(LEFT, pair=True)).echo() == HEARTBEAT
        assert await bluez.device_is(RIGHT, "Paired"), "the other arm's bond is left alone"
    finally:
        await agent.stop()


@pytest.mark.failure("BLE-13")
@pytest.mark.parametrize("trouble", ["far", "silent", "full"])
async def test_a_bond_is_not_given_up_for_a_bad_link_or_none(
    bluez: Bench, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    agent = PairingAgent()
    agent.start()
    try:
        await until(lambda: agent.registrations == 1, "the agent")
        await (await bluez.connect(LEFT, pair=True)).link.close()
        air = bluez.room.link.air(bluez.address(LEFT))
        if trouble == "far":
            air.rssi = ble.BOND_RSSI_MIN - 15
            await bluez.sight(LEFT)
            await until(lambda: (bluez.seen[-1].rssi or 0) < ble.BOND_RSSI_MIN, "far away", 10)
            air.refuse = 0x3E
        elif trouble == "full":
            await bluez.connect(RIGHT)
            bluez.room.ports[0].controller.max_links = 1
        monkeypatch.setattr(ble, "CONNECT_MAX", 1.0)
        for _ in range(ble.BOND_DOUBTS_MAX + 1):
            await bluez.sight(LEFT)
            air.blackhole = trouble == "silent"
            with pytest.raises(GlassesError) as error:
                await bluez.connect(LEFT, pair=True, sight=False)
            assert error.value.retryable
            air.blackhole = False
        assert await bluez.device_is(LEFT, "Paired")
    finally:
        await agent.stop()


@pytest.mark.failure("BLE-07")
async def test_a_stale_service_table_is_dropped_once_and_discovered_anew(emulated: Bench) -> None:
    emulated.fake.adapters[0].hidden[emulated.address(LEFT)] = FROM_GLASSES
    with pytest.raises(GlassesError) as error:
        await emulated.connect(LEFT)
    assert error.value.fault is GlassesFault.INCOMPATIBLE
    assert await (await emulated.connect(LEFT)).echo() == HEARTBEAT


@pytest.mark.failure("BLE-08")
async def test_a_link_left_over_from_a_killed_process_is_taken_over(bluez: Bench) -> None:
    await bluez.sight(LEFT)
    await bluez.connect_by_hand(LEFT)  # somebody before us, now gone
    await until(lambda: bluez.device_is(LEFT, "ServicesResolved"), "services", 10)
    bluez.radio.unwatch(bluez.hear)
    await asyncio.sleep(ble.FRESH + 0.1)
    arm = await bluez.connect(LEFT)  # it does not advertise: it is seen because the system holds it
    assert await arm.echo() == HEARTBEAT
    await arm.link.close()
    await until(lambda: bluez.glasses.firmware.arms[LEFT].state is ArmState.ADVERTISING, "advertising")


@pytest.mark.failure("BLE-12")
@emulated_with(Options(one_connect=True))
async def test_an_adapter_that_refuses_parallel_connects_is_never_asked_for_two(emulated: Bench) -> None:
    for _ in range(5):
        await emulated.sight(LEFT)
        await emulated.sight(RIGHT)
        arms = await asyncio.gather(emulated.connect(LEFT, sight=False), emulated.connect(RIGHT, sight=False))
        assert [await arm.echo() for arm in arms] == [HEARTBEAT] * 2
        await asyncio.gather(*(arm.link.close() for arm in arms))


@pytest.mark.failure("BLE-08")
@pytest.mark.parametrize(
    ("member", "name", "text"),
    [
        ("Connect", "org.bluez.Error.InProgress", "Operation already in progress"),
        ("Connect", "org.bluez.Error.Failed", "le-connection-abort-by-local"),
        ("Connect", "org.freedesktop.DBus.Error.NoReply", ""),
        ("Connect", "org.bluez.Error.NotReady", "Resource Not Ready"),
        ("StartNotify", "org.bluez.Error.Failed", "Operation failed with ATT error: 0x0e"),
        ("StartNotify", "org.bluez.Error.NotPermitted", "Notify acquired"),
        ("WriteValue", "org.bluez.Error.InProgress", "In Progress"),
    ],
)
async def test_an_error_of_bluez_is_one_failure_and_the_next_attempt_works(
    emulated: Bench, monkeypatch: pytest.MonkeyPatch, member: str, name: str, text: str
) -> None:
    monkeypatch.setattr(ble, "CONNECT_MAX", 2.0)
    await emulated.sight(LEFT)
    emulated.fake.fail(member, name, text)
    try:
        arm = await emulated.connect(LEFT, sight=False)
    except GlassesError:
        arm = await emulated.connect_again(LEFT)
    assert await arm.echo() == HEARTBEAT
    assert arm.closed == []
    await until(
        lambda: len(emulated.room.ports[0].controller.le_connections) == 1, "one link and no leftover"
    )


@pytest.mark.failure("BLE-11")
@pytest.mark.parametrize(
    "member", ["Connect", "Pair", "StartNotify", "WriteValue", "Disconnect", "StartDiscovery"]
)
async def test_a_call_that_never_returns_is_given_up_and_the_radio_goes_on(
    emulated: Bench, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    for limit in ("CONNECT_MAX", "NOTIFY_MAX", "WRITE_MAX", "DISCONNECT_MAX", "SCAN_START_MAX"):
        monkeypatch.setattr(ble, limit, 1.0)
    agent = PairingAgent()
    agent.start()
    try:
        await until(lambda: agent.registrations == 1, "the agent")
        await emulated.sight(LEFT)
        emulated.fake.hang(member)

        async def session() -> None:
            arm = await emulated.connect(LEFT, pair=True)
            try:
                await arm.echo()
            finally:
                await arm.link.close()

        try:
            await asyncio.wait_for(session(), 15)
        except GlassesError as error:
            assert error.fault in (GlassesFault.TIMEOUT, GlassesFault.CONNECT_FAILED, GlassesFault.LINK_LOST)  # noqa: PT017
        emulated.fake.heal()
        for limit in ("CONNECT_MAX", "NOTIFY_MAX", "WRITE_MAX", "DISCONNECT_MAX", "SCAN_START_MAX"):
            monkeypatch.setattr(ble, limit, 10.0)
        assert await (await emulated.connect_again(LEFT)).echo() == HEARTBEAT
    finally:
        await agent.stop()


async def test_a_device_removed_by_hand_ends_its_link_and_is_found_again(bluez: Bench) -> None:
    arm = await bluez.connect(LEFT)
    await bluez.remove_device(LEFT)
    await arm.until_closed()
    assert await (await bluez.connect_again(LEFT)).echo() == HEARTBEAT


async def test_a_device_that_was_forgotten_between_sight_and_connect_is_not_found(bluez: Bench) -> None:
    await bluez.sight(LEFT)
    bluez.radio.unwatch(bluez.hear)
    await asyncio.sleep(0.2)
    await bluez.remove_device(LEFT)
    with pytest.raises(GlassesError) as error:
        await bluez.radio.connect(
            bluez.address(LEFT), UART, pair=False, on_notify=lambda *_: None, on_closed=lambda _: None
        )
    assert error.value.retryable
    assert await (await bluez.connect_again(LEFT)).echo() == HEARTBEAT


async def test_without_bluetoothd_there_is_no_adapter(bluez: Bench) -> None:
    await bluez.daemon.stop()
    with pytest.raises((GlassesError, BleakError)) as error:
        await asyncio.wait_for(ble.BleakRadio("default").start(), 20)
    assert isinstance(error.value, GlassesError)
    assert error.value.fault in (GlassesFault.ADAPTER_MISSING, GlassesFault.ADAPTER_DOWN)


@pytest.mark.failure("BLE-06")
async def test_a_look_for_an_adapter_outlives_the_bus_connection_that_it_shares(emulated: Bench) -> None:
    """bleak has one for all radios of a process; another one's news of bluetoothd's end cuts it under our call."""
    emulated.fake.hang("StartDiscovery")
    radio = ble.BleakRadio("default")
    starting = asyncio.create_task(radio.start())
    await until(lambda: not emulated.fake.bus.faults["StartDiscovery"], "the call is under way")
    ble._forget_bluez()
    await asyncio.wait_for(starting, 20)
    assert radio.fault is None
    await radio.stop()


@pytest.mark.failure("BLE-06")
async def test_a_bus_that_is_cut_again_and_again_is_a_missing_adapter_not_a_lost_link(
    emulated: Bench,
) -> None:
    emulated.fake.hang("StartDiscovery", times=ble.START_TRIES)
    starting = asyncio.create_task(ble.BleakRadio("default").start())
    for left in reversed(range(ble.START_TRIES)):
        await until(lambda left=left: len(emulated.fake.bus.faults["StartDiscovery"]) == left, "a try")
        ble._forget_bluez()
    with pytest.raises(GlassesError) as error:
        await asyncio.wait_for(starting, 20)
    assert error.value.fault is GlassesFault.ADAPTER_MISSING
    assert error.value.retryable
