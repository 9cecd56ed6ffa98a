"""Our radio port over every lane: the same promises, whatever stack is below.

Drivers may depend on what stands here and on nothing else: handles, counts of callbacks and texts of errors differ.
"""

from __future__ import annotations

import asyncio

import pytest

from edge import ble
from edge.profiles.g1 import UART
from firmware_sim import bleak_backend
from firmware_sim.control import perform
from firmware_sim.fake_bluez.adapter import LINUX_CONNECTION
from firmware_sim.firmware.base import ArmState, set_faults
from firmware_sim.firmware.g1 import LEFT, RIGHT
from tests.ble.conftest import HEARTBEAT, Bench
from tests.support.waiting import until
from wire.errors import GlassesError, GlassesFault


async def test_a_scan_shows_both_arms_with_name_and_serial(bench: Bench) -> None:
    await bench.sight(LEFT)
    await until(lambda: len({a.address for a in bench.seen}) == 2, "both arms", 10)
    newest = {a.address: a for a in bench.seen}
    names = sorted(advert.name or "" for advert in newest.values())
    assert [name.split("_")[2] for name in names] == ["L", "R"]
    assert all(b"S110" in advert.manufacturer[0xFFFF] for advert in newest.values())
    assert all(-127 < advert.rssi < 0 for advert in newest.values())


async def test_a_scan_that_begins_again_tells_of_the_same_devices_again(bench: Bench) -> None:
    for _ in range(3):
        await bench.sight(LEFT)
        bench.radio.unwatch(bench.hear)
        await asyncio.sleep(0.05)


@pytest.mark.failure("BLE-12")
async def test_both_arms_connect_at_once_and_speak(bench: Bench) -> None:
    await bench.sight(LEFT)
    await bench.sight(RIGHT)
    left, right = await asyncio.gather(bench.connect(LEFT, sight=False), bench.connect(RIGHT, sight=False))
    assert await asyncio.gather(left.echo(), right.echo()) == [HEARTBEAT, HEARTBEAT]


async def test_the_payload_is_that_of_the_negotiated_mtu(bench: Bench) -> None:
    arm = await bench.connect(LEFT)
    assert arm.link.payload_max == 248
    assert await arm.echo(response=True) == HEARTBEAT
    assert await arm.echo(response=False) == HEARTBEAT


@pytest.mark.failure("BLE-05")
@pytest.mark.parametrize("mtu", [23, 64, 517])
async def test_the_largest_payload_passes_at_every_mtu(bench: Bench, mtu: int) -> None:
    bench.glasses.peripherals[LEFT].device.gatt_server.max_mtu = mtu
    arm = await bench.connect(LEFT)
    assert arm.link.payload_max == min(mtu - 3, 512)
    for response in (True, False):
        await arm.link.write(bytes([0xD0]) + bytes(arm.link.payload_max - 1), response=response)
    counters = bench.glasses.firmware.arms[LEFT].counters
    await until(lambda: counters.written == 2, "both writes")


async def test_notifications_arrive_whole_and_in_order(bench: Bench) -> None:
    arm = await bench.connect(LEFT)
    peripheral = bench.glasses.peripherals[LEFT]
    sent = [bytes([0xF1, number & 0xFF]) + bytes(200) for number in range(200)]
    for packet in sent:
        assert peripheral.say(packet, force=False)
        await asyncio.sleep(0)
    got = [await asyncio.wait_for(arm.said.get(), 20) for _ in sent]
    assert got == sent


async def test_equal_notifications_are_each_told(bench: Bench) -> None:
    """BlueZ reports values as a property: what does not change must be told all the same."""
    arm = await bench.connect(LEFT)
    for _ in range(20):
        bench.glasses.peripherals[LEFT].say(b"\xf1\x00same", force=False)
    assert [await asyncio.wait_for(arm.said.get(), 10) for _ in range(20)] == [b"\xf1\x00same"] * 20


async def test_a_flood_of_writes_without_response_arrives_in_order(bench: Bench) -> None:
    arm = await bench.connect(LEFT)
    sent = [bytes([0xD0]) + number.to_bytes(2, "big") + bytes(150) for number in range(200)]
    for packet in sent:
        await arm.link.write(packet, response=False)
    counters = bench.glasses.firmware.arms[LEFT].counters
    await until(lambda: counters.written == len(sent), "all packets", 10)
    assert [e.data for e in bench.glasses.firmware.log if e.direction == "in"] == sent


async def test_a_refused_write_is_an_answer_and_the_link_stays(bench: Bench) -> None:
    arm = await bench.connect(LEFT)
    faults = bench.glasses.firmware.arms[LEFT].faults
    set_faults(faults, {"refuse_writes": 0x80})
    with pytest.raises(GlassesError) as error:
        await arm.link.write(HEARTBEAT, response=True)
    assert error.value.fault is GlassesFault.REFUSED
    set_faults(faults, {"refuse_writes": None})
    assert await arm.echo() == HEARTBEAT
    assert arm.closed == []


async def test_our_own_end_is_quiet_and_the_glasses_advertise_again(bench: Bench) -> None:
    arm = await bench.connect(LEFT)
    await arm.link.close()
    await arm.link.close()
    state = bench.glasses.firmware.arms[LEFT]
    await until(lambda: state.state is ArmState.ADVERTISING, "advertising")
    assert arm.closed == []
    with pytest.raises(GlassesError) as error:
        await arm.link.write(HEARTBEAT, response=True)
    assert error.value.fault is GlassesFault.LINK_LOST
    assert await (await bench.connect(LEFT)).echo() == HEARTBEAT


@pytest.mark.failure("BLE-11")
@pytest.mark.parametrize("end", ["drop", "hang_up"])
async def test_an_end_by_the_other_side_is_told_once(bench: Bench, end: str) -> None:
    arm = await bench.connect(LEFT)
    await perform(bench.room, {"action": end, "side": LEFT})
    await arm.until_closed()
    await asyncio.sleep(0.1)
    assert arm.closed == [GlassesFault.LINK_LOST]
    assert await (await bench.connect(LEFT)).echo() == HEARTBEAT
    assert arm.closed == [GlassesFault.LINK_LOST]


@pytest.mark.failure("BLE-11")
async def test_after_many_reconnects_one_notification_is_one_event(bench: Bench) -> None:
    arms = []
    for _ in range(8):
        arm = await bench.connect(LEFT)
        arms.append(arm)
        bench.room.link.drop(bench.address(LEFT))
        await arm.until_closed()
    last = await bench.connect(LEFT)
    assert await last.echo() == HEARTBEAT
    await asyncio.sleep(0.1)
    assert last.said.empty()
    assert all(arm.said.empty() and len(arm.closed) == 1 for arm in arms)


@pytest.mark.failure("BLE-01")
async def test_a_silent_link_ends_within_its_supervision_time(bench: Bench) -> None:
    """Linux gives 420 ms where nobody asks for more: whatever the stack asked for, the end is told (hazard 6)."""
    arm = await bench.connect(LEFT)
    bench.room.link.blackhole(bench.address(LEFT), True)
    with pytest.raises(GlassesError) as error:
        await asyncio.wait_for(arm.link.write(HEARTBEAT, response=True), 20)
    assert error.value.fault in (GlassesFault.LINK_LOST, GlassesFault.TIMEOUT, GlassesFault.REFUSED)
    await arm.until_closed()
    bench.room.link.blackhole(bench.address(LEFT), False)
    assert await (await bench.connect(LEFT)).echo() == HEARTBEAT


@pytest.mark.failure("BLE-01")
async def test_hazard_6_links_with_the_defaults_of_linux_live_through_a_blink_and_die_in_half_a_second(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux asks for 30 to 50 ms and 420 ms of silence at most; lane A is told to ask for the same."""
    monkeypatch.setattr(bleak_backend.Adapter, "parameters", LINUX_CONNECTION)
    arm = await bench.connect(LEFT)
    connection = bench.room.link.connection_of(bench.address(LEFT))
    assert connection is not None
    assert connection.supervision == pytest.approx(0.42)
    bench.room.link.blackhole(bench.address(LEFT), True)
    bench.room.link.blackhole(bench.address(LEFT), False)
    assert await arm.echo() == HEARTBEAT
    assert arm.closed == []
    bench.room.link.blackhole(bench.address(LEFT), True)
    await arm.until_closed()
    bench.room.link.blackhole(bench.address(LEFT), False)
    assert await (await bench.connect_again(LEFT)).echo() == HEARTBEAT


@pytest.mark.failure("BLE-10")
async def test_failing_attempts_leak_no_slot(bench: Bench) -> None:
    """An adapter with two slots, and attempts that fail before, during and after the link comes up."""
    (port,) = bench.room.ports
    port.controller.max_links = 2
    await bench.sight(LEFT)
    for turn in range(30):
        task = asyncio.create_task(bench.connect(LEFT, sight=False))
        await asyncio.sleep(turn * 0.006)
        task.cancel()
        done = (await asyncio.gather(task, return_exceptions=True))[0]
        if not isinstance(done, BaseException):
            await done.link.close()
    await until(lambda: not port.controller.le_connections, "all links gone", 10)
    left, right = await bench.connect(LEFT), await bench.connect(RIGHT)
    assert [await left.echo(), await right.echo()] == [HEARTBEAT, HEARTBEAT]


async def test_an_attempt_that_never_comes_alive_fails_once_and_the_next_works(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 3: bleak retries inside and calls back many times; our caller hears of one failure and no loss."""
    monkeypatch.setattr("edge.ble.CONNECT_MAX", 2.0)
    await bench.sight(LEFT)
    bench.room.link.air(bench.address(LEFT)).refuse = 0x3E
    closed: list[GlassesFault] = []
    with pytest.raises(GlassesError) as error:
        await bench.radio.connect(
            bench.address(LEFT), UART, pair=False, on_notify=lambda *_: None, on_closed=closed.append
        )
    assert error.value.fault in (GlassesFault.CONNECT_FAILED, GlassesFault.TIMEOUT)
    assert closed == []
    bench.room.link.air(bench.address(LEFT)).refuse = None
    assert await (await bench.connect(LEFT)).echo() == HEARTBEAT


async def test_a_full_adapter_is_told_not_a_hang(bench: Bench) -> None:
    """BlueZ does not say why it failed, nor that it failed: it forgets the device, and that is how we know at once."""
    bench.room.ports[0].controller.max_links = 1
    await bench.sight(RIGHT)
    left = await bench.connect(LEFT)
    began = asyncio.get_running_loop().time()
    with pytest.raises(GlassesError) as error:
        await bench.connect(RIGHT, sight=False)
    assert asyncio.get_running_loop().time() - began < ble.CONNECT_MAX / 2
    on_bluez = bench.bluez is not None
    assert error.value.fault is (GlassesFault.CONNECT_FAILED if on_bluez else GlassesFault.BUSY)
    await left.link.close()
    assert await (await bench.connect_again(RIGHT)).echo() == HEARTBEAT


@pytest.mark.failure("BLE-06")
async def test_an_adapter_switched_off_and_on_loses_links_once_and_works_again(bench: Bench) -> None:
    left, right = await bench.connect(LEFT), await bench.connect(RIGHT)
    bench.radio.unwatch(bench.hear)  # both arms are up: nobody needs to scan
    await bench.adapter_off()
    await asyncio.gather(left.until_closed(), right.until_closed())
    bench.radio.watch(bench.hear)
    await until(lambda: bench.radio.fault is not None, "the fault", 10)
    assert bench.radio.fault in (GlassesFault.ADAPTER_DOWN, GlassesFault.ADAPTER_MISSING)
    await bench.adapter_on()
    again = await bench.connect_again(LEFT)
    assert await again.echo() == HEARTBEAT
    assert bench.radio.fault is None
    assert len(left.closed) == len(right.closed) == 1


async def test_a_pulled_dongle_ends_every_link_and_can_be_plugged_in_again(bench: Bench) -> None:
    left = await bench.connect(LEFT)
    bench.room.ports[0].unplug()
    await left.until_closed()
    assert await (await bench.connect_again(LEFT)).echo() == HEARTBEAT
