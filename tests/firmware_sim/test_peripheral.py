"""A firmware on the air: advertisements that fit, effects in order, sound from microphone to host, no leak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import lc3
import numpy as np
import pytest
import pytest_asyncio
from bleak import BleakClient

from firmware_sim.bleak_backend import RadioBackend, close_radio, radio
from firmware_sim.firmware.base import (
    Advertise,
    ArmState,
    CharacteristicSpec,
    Notify,
    PeripheralSpec,
    ServiceSpec,
)
from firmware_sim.firmware.g1 import FROM_GLASSES, LEFT, RIGHT, TO_GLASSES
from firmware_sim.peripheral import WORK_MAX, advertisement
from firmware_sim.room import Room
from tests.support.waiting import until

SERVICE = "6e400001-b5a3-f393-e0a9-e50e24dcca9e"


def spec(name: str, manufacturer: bytes = b"", uuids: tuple[str, ...] = ()) -> PeripheralSpec:
    service = ServiceSpec(SERVICE, (CharacteristicSpec(FROM_GLASSES, notify=True),))
    return PeripheralSpec("main", name, "C0:00:00:00:00:01", (service,), 247, manufacturer, uuids)


def test_a_short_name_stands_in_the_advertisement_a_long_one_in_the_scan_response() -> None:
    first, second = advertisement(spec("Short"))
    assert b"Short" in first
    assert second == b""
    first, second = advertisement(spec("Even G1_74_L_57863C", b"\xff\xff" + bytes(15)))
    assert b"Even" not in first
    assert second.endswith(b"Even G1_74_L_57863C")


def test_service_uuids_stand_in_the_scan_response() -> None:
    first, second = advertisement(spec("Mentra", uuids=(SERVICE,)))
    assert len(first) <= 31
    assert bytes.fromhex(SERVICE.replace("-", ""))[::-1] in second


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="31 fit"):
        advertisement(spec("x" * 28, b"\xff\xff" + bytes(20), (SERVICE,)))


@pytest_asyncio.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with Room(["g1"], hci_ports=[f"unix-server:{tmp_path}/hci.sock"]) as room:
        try:
            yield room
        finally:
            await close_radio(room.hci[0])


async def connected(room: Room, arm: str) -> tuple[BleakClient, asyncio.Queue[bytes]]:
    backend: RadioBackend = radio(room.hci[0])
    address = room.residents["g1-1"].glasses.firmware.arms[arm].spec.address
    client = BleakClient(address, backend=backend.client)
    await client.connect()
    said: asyncio.Queue[bytes] = asyncio.Queue()
    await client.start_notify(FROM_GLASSES, lambda _, data: said.put_nowait(bytes(data)))
    return client, said


async def test_a_spoken_sentence_arrives_as_sound_of_its_length_and_loudness(room: Room) -> None:
    client, said = await connected(room, RIGHT)
    resident = room.residents["g1-1"]
    await client.write_gatt_char(TO_GLASSES, b"\x0e\x01", response=True)
    assert await asyncio.wait_for(said.get(), 10) == b"\x0e\xc9\x01"
    spoken = await room.say(resident, "one two")
    packets = []
    while len(packets) < spoken.duration_ms // 100 + 8:
        packets.append(await asyncio.wait_for(said.get(), 10))
    assert [packet[1] for packet in packets] == list(range(len(packets)))
    decoder = lc3.Decoder(10_000, 16_000)
    frames = [packet[2:][i : i + 20] for packet in packets for i in range(0, 200, 20)]
    pcm = np.frombuffer(b"".join(bytes(decoder.decode(f, bit_depth=16)) for f in frames), "<i2").astype(float)
    loud = np.sqrt(np.mean(pcm.reshape(-1, 1600) ** 2, axis=1)) > 100
    assert loud.sum() == pytest.approx(spoken.duration_ms / 100, abs=3)
    assert not loud[-2:].any()


async def test_notifications_on_a_slow_radio_wait_and_keep_their_order(room: Room) -> None:
    _, said = await connected(room, LEFT)
    room.link.params.interval, room.link.params.pdus_per_event = 0.0075, 2
    peripheral = room.residents["g1-1"].glasses.peripherals[LEFT]
    assert peripheral.link_number is not None
    sent = [number.to_bytes(2, "big") * 100 for number in range(100)]
    for data in sent:
        peripheral.enqueue(Notify(LEFT, peripheral.link_number, FROM_GLASSES, data))
    heard = [await asyncio.wait_for(said.get(), 20) for _ in sent]
    assert heard == sent


async def test_a_radio_that_stands_still_loses_the_excess_and_counts_it(room: Room) -> None:
    await connected(room, LEFT)
    glasses = room.residents["g1-1"].glasses
    address = glasses.firmware.arms[LEFT].spec.address
    room.link.blackhole(address, True)
    number = glasses.peripherals[LEFT].link_number
    assert number is not None
    for _ in range(WORK_MAX + 100):
        glasses.peripherals[LEFT].enqueue(Notify(LEFT, number, FROM_GLASSES, bytes(200)))
    assert glasses.firmware.arms[LEFT].counters.dropped_queue_full >= 100
    room.link.blackhole(address, False)


async def test_an_idle_arm_hangs_up_and_can_be_reached_again(room: Room) -> None:
    client, said = await connected(room, LEFT)
    glasses = room.residents["g1-1"].glasses
    arm = glasses.firmware.arms[LEFT]
    arm.last_write -= 31.9  # as if 31.9 s had passed
    glasses.feed(glasses.firmware.handle_deadline)
    glasses.firmware._watch_idle(arm, 0.0)  # type: ignore[attr-defined]
    glasses._set_timer()
    await until(lambda: not client.is_connected, "the arm to hang up")
    assert said.empty()
    await until(lambda: arm.state is ArmState.ADVERTISING, "advertising")
    await client.connect()
    assert client.is_connected


async def test_effects_of_an_old_link_are_not_performed_on_the_new_one(room: Room) -> None:
    client, _ = await connected(room, LEFT)
    peripheral = room.residents["g1-1"].glasses.peripherals[LEFT]
    old = peripheral.link_number
    assert old is not None
    await client.disconnect()
    _, said = await connected(room, LEFT)
    peripheral.enqueue(Notify(LEFT, old, FROM_GLASSES, b"old"))
    assert peripheral.link_number is not None
    peripheral.enqueue(Notify(LEFT, peripheral.link_number, FROM_GLASSES, b"new"))
    assert await asyncio.wait_for(said.get(), 10) == b"new"


async def test_advertising_can_stop_and_start_many_times(room: Room) -> None:
    peripheral = room.residents["g1-1"].glasses.peripherals[LEFT]
    for _ in range(20):
        peripheral.enqueue(Advertise(LEFT, False))
        peripheral.enqueue(Advertise(LEFT, True))
    await until(lambda: peripheral._work.empty(), "all done")
    await until(lambda: peripheral.controller.le_legacy_advertiser.enabled, "advertising")
