"""bleak's public API over the Bumble backend, against a room in the same process and a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from bleak import BleakClient, BleakScanner
from bleak.backends.device import BLEDevice
from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakDeviceNotFoundError,
    BleakError,
    BleakGATTProtocolError,
)

from firmware_sim.bleak_backend import RadioBackend, close_radio, radio
from firmware_sim.control import perform
from firmware_sim.firmware.base import ArmState, set_faults
from firmware_sim.firmware.g1 import FROM_GLASSES, LEFT, RIGHT, TO_GLASSES
from firmware_sim.room import Room
from tests.support.simulator import simulator_process
from tests.support.waiting import until

HEARTBEAT = bytes.fromhex("250600010401")


class Bench:
    """A room, and bleak on its radio."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.backend: RadioBackend = radio(room.hci[0])
        self.glasses = next(iter(room.residents.values())).glasses
        self.lost: list[str] = []

    def address(self, arm: str) -> str:
        return self.glasses.firmware.arms[arm].spec.address

    def client(self, target: str | BLEDevice, timeout: float = 20.0) -> BleakClient:
        return BleakClient(
            target, lambda c: self.lost.append(c.address), timeout=timeout, backend=self.backend.client
        )

    async def connected(self, arm: str) -> tuple[BleakClient, asyncio.Queue[bytes]]:
        client = self.client(self.address(arm))
        await client.connect()
        said: asyncio.Queue[bytes] = asyncio.Queue()
        await client.start_notify(FROM_GLASSES, lambda _, data: said.put_nowait(bytes(data)))
        return client, said


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Room(["g1"], hci_ports=[f"unix-server:{tmp_path}/hci.sock"]) as room:
        bench = Bench(room)
        try:
            yield bench
        finally:
            await close_radio(room.hci[0])


async def test_a_scan_shows_both_arms_with_names_and_serial(bench: Bench) -> None:
    seen: dict[str, tuple[BLEDevice, dict[int, bytes]]] = {}

    async def look() -> None:
        async with BleakScanner(backend=bench.backend.scanner) as scanner:
            async for device, data in scanner.advertisement_data():
                seen[device.address] = (device, data.manufacturer_data)
                if len(seen) == 2:
                    return

    await asyncio.wait_for(look(), 20)
    assert set(seen) == {bench.address(LEFT), bench.address(RIGHT)}
    names = sorted(device.name or "" for device, _ in seen.values())
    assert [name.split("_")[2] for name in names] == ["L", "R"]
    assert len({name.split("_")[1] for name in names}) == 1
    assert all(b"S110" in data[0xFFFF] for _, data in seen.values())


async def test_a_client_connects_negotiates_the_mtu_writes_and_is_notified(bench: Bench) -> None:
    client, said = await bench.connected(LEFT)
    assert client.is_connected
    assert client.mtu_size == 251
    characteristic = client.services.get_characteristic(TO_GLASSES)
    assert characteristic is not None
    assert characteristic.max_write_without_response_size == 248
    assert set(characteristic.properties) == {"write", "write-without-response"}
    await client.write_gatt_char(TO_GLASSES, HEARTBEAT, response=True)
    assert await asyncio.wait_for(said.get(), 5) == HEARTBEAT
    await client.write_gatt_char(TO_GLASSES, HEARTBEAT, response=False)
    assert await asyncio.wait_for(said.get(), 5) == HEARTBEAT
    await client.disconnect()
    assert not client.is_connected


async def test_parallel_connects_of_both_arms_both_succeed(bench: Bench) -> None:
    left, right = bench.client(bench.address(LEFT)), bench.client(bench.address(RIGHT))
    await asyncio.gather(left.connect(), right.connect())
    assert left.is_connected
    assert right.is_connected


async def test_the_disconnected_callback_comes_exactly_once_per_loss(bench: Bench) -> None:
    address = bench.address(LEFT)
    client, _ = await bench.connected(LEFT)
    bench.room.link.drop(address)
    await until(lambda: bench.lost, "the callback")
    await asyncio.sleep(0.05)
    assert bench.lost == [address]
    assert not client.is_connected
    await client.connect()
    await client.disconnect()
    await client.disconnect()
    assert bench.lost == [address] * 2


async def test_an_attempt_that_never_connected_calls_nobody_back(bench: Bench) -> None:
    bench.room.link.air(bench.address(LEFT)).refuse = 0x3E
    with pytest.raises(BleakError):
        await bench.client(bench.address(LEFT), timeout=5).connect()
    assert bench.lost == []
    bench.room.link.air(bench.address(LEFT)).refuse = None
    client, _ = await bench.connected(LEFT)
    assert client.is_connected


async def test_a_pending_write_fails_when_the_link_is_lost(bench: Bench) -> None:
    client, _ = await bench.connected(LEFT)
    bench.room.link.blackhole(bench.address(LEFT), True)
    with pytest.raises(BleakError):
        await asyncio.wait_for(client.write_gatt_char(TO_GLASSES, HEARTBEAT, response=True), 20)
    assert bench.lost == [bench.address(LEFT)]
    with pytest.raises(BleakError):
        await client.write_gatt_char(TO_GLASSES, HEARTBEAT, response=True)


async def test_a_timed_out_connect_is_taken_back_and_the_next_one_works(bench: Bench) -> None:
    async with BleakScanner(backend=bench.backend.scanner):
        await until(lambda: len(radio_addresses(bench)) == 2, "both arms heard")
    bench.room.link.blackhole(bench.address(LEFT), True)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await bench.client(bench.address(LEFT), timeout=0.2).connect()
    right, _ = await bench.connected(RIGHT)  # not blocked by what was given up
    assert right.is_connected
    bench.room.link.blackhole(bench.address(LEFT), False)
    left, _ = await bench.connected(LEFT)
    assert left.is_connected


def radio_addresses(bench: Bench) -> dict[str, object]:
    return bench.backend.client.adapter.addresses  # type: ignore[attr-defined]


@pytest.mark.failure("BLE-10")
async def test_cancelled_connects_leak_no_connection_slot(bench: Bench) -> None:
    (port,) = bench.room.ports
    port.controller.max_links = 2
    for turn in range(40):
        client = bench.client(bench.address(LEFT))
        task = asyncio.create_task(client.connect())
        # From before the attempt to long after the link is up: every race between cancel and success.
        await asyncio.sleep(turn * 0.004)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if client.is_connected:  # the cancellation came too late
            await client.disconnect()
    await until(lambda: not port.controller.le_connections, "all links gone")
    assert port.controller.pending_le_connection is None
    left, _ = await bench.connected(LEFT)
    right, _ = await bench.connected(RIGHT)
    assert left.is_connected
    assert right.is_connected


async def test_a_full_adapter_is_an_error_not_a_hang(bench: Bench) -> None:
    bench.room.ports[0].controller.max_links = 1
    await bench.connected(LEFT)
    with pytest.raises(BleakError, match="CONNECTION_LIMIT"):
        await bench.client(bench.address(RIGHT), timeout=10).connect()


async def test_an_address_nobody_has_is_not_found(bench: Bench) -> None:
    with pytest.raises(BleakDeviceNotFoundError):
        await bench.client("C0:11:22:33:44:55", timeout=1.0).connect()


async def test_gatt_errors_keep_their_code(bench: Bench) -> None:
    client, _ = await bench.connected(LEFT)
    with pytest.raises(BleakGATTProtocolError) as refused:
        await client.read_gatt_char(TO_GLASSES)
    assert refused.value.code == 0x02
    set_faults(bench.glasses.firmware.arms[LEFT].faults, {"refuse_writes": 0x80})
    with pytest.raises(BleakGATTProtocolError) as refused:
        await client.write_gatt_char(TO_GLASSES, HEARTBEAT, response=True)
    assert refused.value.code == 0x80


@pytest.mark.failure("BLE-05")
async def test_a_write_without_response_longer_than_the_mtu_is_refused_locally(bench: Bench) -> None:
    bench.glasses.peripherals[LEFT].device.gatt_server.max_mtu = 23
    client, said = await bench.connected(LEFT)
    assert client.mtu_size == 23
    with pytest.raises(BleakError, match="20 bytes"):
        await client.write_gatt_char(TO_GLASSES, bytes(21), response=False)
    await client.write_gatt_char(TO_GLASSES, HEARTBEAT, response=False)
    assert await asyncio.wait_for(said.get(), 5) == HEARTBEAT


@pytest.mark.failure("BLE-05")
async def test_a_flood_of_writes_arrives_whole_and_in_order_over_a_slow_lossy_radio(bench: Bench) -> None:
    client, _ = await bench.connected(LEFT)
    bench.room.link.params.interval, bench.room.link.params.loss = 0.0075, 0.1
    sent = [bytes([0xD0]) + number.to_bytes(2, "big") + bytes(150) for number in range(150)]
    for packet in sent:
        await client.write_gatt_char(TO_GLASSES, packet, response=False)
    arm = bench.glasses.firmware.arms[LEFT]
    await until(lambda: arm.counters.written == len(sent), "all packets")
    assert [e.data for e in bench.glasses.firmware.log if e.direction == "in"] == sent


@pytest.mark.failure("BLE-11")
async def test_subscribing_twice_hears_everything_once(bench: Bench) -> None:
    client, first = await bench.connected(LEFT)
    second: asyncio.Queue[bytes] = asyncio.Queue()
    await client.start_notify(FROM_GLASSES, lambda _, data: second.put_nowait(bytes(data)))
    await client.write_gatt_char(TO_GLASSES, HEARTBEAT, response=True)
    assert await asyncio.wait_for(second.get(), 5) == HEARTBEAT
    await asyncio.sleep(0.02)
    assert first.empty()
    assert second.empty()
    await client.stop_notify(FROM_GLASSES)
    await until(lambda: not bench.glasses.firmware.arms[LEFT].subscribed, "unsubscribed")


@pytest.mark.failure("BLE-14")
async def test_unknown_and_unasked_notifications_reach_only_who_subscribed(bench: Bench) -> None:
    client, said = await bench.connected(LEFT)
    peripheral = bench.glasses.peripherals[LEFT]
    assert peripheral.say(b"\xf5\x7f\x01", force=False)
    assert await asyncio.wait_for(said.get(), 5) == b"\xf5\x7f\x01"
    await client.stop_notify(FROM_GLASSES)
    assert peripheral.say(b"\xf5\x01", force=True)
    await client.write_gatt_char(TO_GLASSES, HEARTBEAT, response=True)
    assert said.empty()
    assert client.is_connected
    await client.disconnect()
    await until(lambda: not peripheral.say(b"x", force=True), "nobody there")


async def test_an_orderly_end_by_the_glasses_is_told_once(bench: Bench) -> None:
    client, _ = await bench.connected(LEFT)
    await perform(bench.room, {"action": "hang_up", "side": LEFT})
    await until(lambda: not client.is_connected, "the end")
    assert bench.lost == [bench.address(LEFT)]


async def test_pairing_survives_a_reconnect_and_a_lost_bond_is_an_error(bench: Bench) -> None:
    client, _ = await bench.connected(LEFT)
    await client.pair()
    await client.disconnect()
    await client.connect()
    assert client._backend._connection.is_encrypted  # type: ignore[attr-defined]
    await client.disconnect()
    await bench.glasses.peripherals[LEFT].forget_bonds()
    with pytest.raises(BleakError):
        await client.connect()
    await client.unpair()
    await client.connect()
    assert client.is_connected


async def test_a_refused_pairing_is_an_error(bench: Bench) -> None:
    client, _ = await bench.connected(LEFT)
    bench.glasses.peripherals[LEFT].pairing.reject = True
    with pytest.raises(BleakError):
        await asyncio.wait_for(client.pair(), 10)


async def test_a_pulled_dongle_ends_every_link_and_can_be_plugged_in_again(bench: Bench) -> None:
    await bench.connected(LEFT)
    await bench.connected(RIGHT)
    bench.room.ports[0].unplug()
    await until(lambda: len(bench.lost) == 2, "both callbacks")
    # The glasses notice after their supervision time-out and advertise again.
    arms = bench.glasses.firmware.arms.values()
    await until(lambda: all(arm.state is ArmState.ADVERTISING for arm in arms), "advertising", within=10)
    client, _ = await bench.connected(LEFT)
    assert client.is_connected


async def test_a_caller_that_leaves_while_the_adapter_opens_breaks_nothing(bench: Bench) -> None:
    for turns in range(12):
        await close_radio(bench.room.hci[0])
        await until(lambda: not bench.room.ports[0].connected, "the port to be free")
        scanning = asyncio.create_task(BleakScanner(backend=bench.backend.scanner).start())
        for _ in range(turns):
            await asyncio.sleep(0)
        scanning.cancel()
        await asyncio.gather(scanning, return_exceptions=True)
        scanner = BleakScanner(backend=bench.backend.scanner)
        await asyncio.wait_for(scanner.start(), 10)
        await scanner.stop()


async def test_a_scan_given_up_in_its_first_steps_leaves_no_scan_running(bench: Bench) -> None:
    await bench.backend.client.adapter.device()  # type: ignore[attr-defined]
    for turns in range(25):
        scanning = asyncio.create_task(BleakScanner(backend=bench.backend.scanner).start())
        for _ in range(turns):
            await asyncio.sleep(0)
        scanning.cancel()
        await asyncio.gather(scanning, return_exceptions=True)
    bench.backend.client.adapter.scanners.clear()  # type: ignore[attr-defined]  # those that did start
    scanner = BleakScanner(backend=bench.backend.scanner)
    await scanner.start()
    await until(lambda: len(scanner.discovered_devices) == 2, "both arms")
    await scanner.stop()
    await until(lambda: not bench.room.ports[0].controller.le_scan_enable, "no scan")


async def test_no_controller_is_said_as_such(tmp_path: Path) -> None:
    nowhere = f"unix:{tmp_path}/nothing.sock"
    with pytest.raises(BleakBluetoothNotAvailableError, match="no Bluetooth controller"):
        await BleakScanner(backend=radio(nowhere).scanner).start()


async def session(bench: Bench) -> None:
    """Connect, discover, subscribe, ask five things of which one is long, and hear five answers."""
    client, said = await bench.connected(LEFT)
    for number in range(5):
        packet = bytes([0x25, number]) + bytes(150 if number == 3 else 4)
        await client.write_gatt_char(TO_GLASSES, packet, response=number % 2 == 0)
        await until(lambda: not said.empty() or not client.is_connected, "an answer, or the end")
        if said.empty():
            raise BleakError("lost while waiting for the answer")
        assert said.get_nowait()[1] == number
    await client.disconnect()


@pytest.mark.failure("BLE-10")
async def test_a_link_cut_at_any_packet_fails_cleanly_and_the_next_session_is_whole(bench: Bench) -> None:
    peripheral = bench.glasses.peripherals[LEFT]
    peripheral.spec = dataclasses.replace(peripheral.spec, interval=0.02)
    set_faults(bench.glasses.firmware.arms[LEFT].faults, {"ack_delay": [0.001, 0.002]})
    bench.room.ports[0].controller.max_links = 1
    air = bench.room.link.air(bench.address(LEFT))
    air.cut_after = 1_000_000
    await session(bench)
    packets = 1_000_000 - air.cut_after
    assert 30 < packets < 200
    for number in range(packets):
        before = len(bench.lost)
        air.cut_after = number
        with contextlib.suppress(BleakError, TimeoutError):
            await session(bench)
        assert len(bench.lost) - before <= 1
        if number % 10 == 0:
            air.cut_after = None
            await session(bench)
    air.cut_after = None
    await session(bench)
    await until(lambda: not bench.room.ports[0].controller.le_connections, "no link left")


async def test_two_processes_speak_over_the_socket_as_one_does(tmp_path: Path) -> None:
    async with simulator_process(tmp_path, "--seed", "7") as simulator:
        (device,) = simulator.ready["devices"]
        backend = radio(simulator.hci)
        try:
            async with BleakClient(device["arms"][RIGHT]["address"], backend=backend.client) as client:
                said: asyncio.Queue[bytes] = asyncio.Queue()
                await client.start_notify(FROM_GLASSES, lambda _, data: said.put_nowait(bytes(data)))
                await client.write_gatt_char(TO_GLASSES, b"\x0e\x01", response=True)
                assert await asyncio.wait_for(said.get(), 10) == b"\x0e\xc9\x01"
                packets = [await asyncio.wait_for(said.get(), 10) for _ in range(3)]
                assert [packet[:2] for packet in packets] == [b"\xf1\x00", b"\xf1\x01", b"\xf1\x02"]
                assert {len(packet) for packet in packets} == {202}
        finally:
            await close_radio(simulator.hci)
