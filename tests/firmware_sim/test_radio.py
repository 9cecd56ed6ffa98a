"""The virtual radio, seen by real Bumble hosts: order, pace, loss, silence, limits, resets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from bumble import core, hci
from bumble.device import Connection, ConnectionParametersPreferences, Device, DeviceConfiguration
from bumble.host import Host
from bumble.transport.common import AsyncPipeSink

from firmware_sim.firmware.base import ArmState, Notify
from firmware_sim.firmware.g1 import FROM_GLASSES, LEFT, RIGHT
from firmware_sim.peripheral import Glasses
from firmware_sim.radio import BUFFERS, SimController, SimLink
from tests.firmware_sim.test_g1_vectors import new_g1
from tests.support.waiting import until

PUBLIC = hci.Address.PUBLIC_DEVICE_ADDRESS


def new_central(link: SimLink, number: int, **options: int) -> tuple[Device, SimController]:
    controller = SimController(
        f"central {number}", link, hci.Address(f"02:00:00:00:00:{number:02X}", PUBLIC), **options
    )
    host = Host()
    host.set_packet_sink(AsyncPipeSink(controller))
    controller.host = host
    address = hci.Address(f"C0:00:00:00:00:{number:02X}")
    return Device(config=DeviceConfiguration(name="central", address=address), host=host), controller


class Bench:
    def __init__(self) -> None:
        self.link = SimLink(seed=1)
        self.glasses = Glasses("g1-1", new_g1(), self.link, lambda change: None)
        self.device, self.controller = new_central(self.link, 1)

    def address(self, arm: str) -> str:
        return self.glasses.firmware.arms[arm].spec.address

    async def connect(self, arm: str = LEFT, supervision_ms: int = 300) -> Connection:
        preferences = ConnectionParametersPreferences(supervision_timeout=supervision_ms)
        return await self.device.connect(
            hci.Address(self.address(arm)),
            connection_parameters_preferences={hci.Phy.LE_1M: preferences},
            timeout=10,
        )


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.glasses.power_on()
    await bench.device.power_on()
    yield bench
    bench.controller.power_cycle()
    await bench.glasses.power_off()


async def test_only_controllers_that_listen_hear_advertisements(bench: Bench) -> None:
    await asyncio.sleep(0.15)
    assert bench.link.listeners == set()
    heard: list[str] = []
    bench.device.on("advertisement", lambda a: heard.append(str(a.address).split("/")[0]))
    await bench.device.start_scanning(legacy=True)
    await until(lambda: len(set(heard)) == 2, "both arms")
    await bench.device.stop_scanning(legacy=True)
    assert bench.link.listeners == set()


async def test_the_scan_response_is_its_own(bench: Bench) -> None:
    reports: list[hci.HCI_LE_Advertising_Report_Event.Report] = []
    bench.device.host.on("advertising_report", reports.append)
    await bench.device.start_scanning(legacy=True)
    await until(lambda: len(reports) >= 4, "reports")
    data = {
        report.event_type: report.data
        for report in reports
        if report.address == hci.Address(bench.address(LEFT))
    }
    assert len(data) == 2
    assert b"S110" in data[hci.HCI_LE_Advertising_Report_Event.EventType.ADV_IND]
    assert b"Even G1_74_L" in data[hci.HCI_LE_Advertising_Report_Event.EventType.SCAN_RSP]


async def test_a_connect_that_finds_nobody_can_be_taken_back(bench: Bench) -> None:
    with pytest.raises(core.TimeoutError):
        await bench.device.connect(hci.Address("C0:99:99:99:99:99"), timeout=0.1)
    assert bench.controller.pending_le_connection is None
    assert await bench.connect()


async def test_a_connected_arm_stops_advertising_until_it_is_free_again(bench: Bench) -> None:
    connection = await bench.connect()
    advertiser = bench.glasses.peripherals[LEFT].controller.le_legacy_advertiser
    await asyncio.sleep(0.05)
    assert not advertiser.enabled
    await connection.disconnect()
    await until(lambda: advertiser.enabled, "advertising")


async def test_a_silence_longer_than_the_supervision_time_ends_the_link_at_both_sides(bench: Bench) -> None:
    connection = await bench.connect(supervision_ms=200)
    reasons: list[int] = []
    connection.on("disconnection", reasons.append)
    bench.link.blackhole(bench.address(LEFT), True)
    await until(lambda: reasons, "the time-out")
    assert reasons == [hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR]
    await until(lambda: bench.glasses.firmware.arms[LEFT].state is ArmState.ADVERTISING, "the arm noticed")
    assert bench.link.connections == set()


async def test_a_short_silence_delays_and_loses_nothing(bench: Bench) -> None:
    connection = await bench.connect(supervision_ms=4000)
    peer = core_peer(connection)
    assert await peer.request_mtu(200) == 200
    bench.link.blackhole(bench.address(LEFT), True)
    reading = asyncio.ensure_future(peer.discover_services())
    await asyncio.sleep(0.2)
    assert not reading.done()
    bench.link.blackhole(bench.address(LEFT), False)
    assert await asyncio.wait_for(reading, 10)


def core_peer(connection: Connection):  # type: ignore[no-untyped-def]
    from bumble.device import Peer

    return Peer(connection)


async def test_loss_delays_and_never_reorders(bench: Bench) -> None:
    bench.link.params.loss = 0.3
    connection = await bench.connect(supervision_ms=5000)
    peer = core_peer(connection)
    await peer.request_mtu(251)
    await peer.discover_services()
    await peer.discover_characteristics()
    (characteristic,) = peer.get_characteristics_by_uuid(core.UUID(FROM_GLASSES))
    heard: list[bytes] = []
    await peer.discover_descriptors(characteristic)
    await peer.subscribe(characteristic, heard.append)
    peripheral = bench.glasses.peripherals[LEFT]
    link = peripheral.link_number
    assert link is not None
    sent = [number.to_bytes(2, "big") * 60 for number in range(60)]
    for data in sent:
        peripheral.enqueue(Notify(LEFT, link, FROM_GLASSES, data))
    await until(lambda: len(heard) == len(sent), "all notifications")
    assert heard == sent


async def test_endless_loss_is_a_supervision_timeout(bench: Bench) -> None:
    connection = await bench.connect(supervision_ms=150)
    reasons: list[int] = []
    connection.on("disconnection", reasons.append)
    bench.link.params.loss = 1.0
    connection.send_l2cap_pdu(0x3F, b"lost")
    await until(lambda: reasons, "the time-out")
    assert reasons == [hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR]


async def test_the_pace_of_the_air_holds_the_host_back(bench: Bench) -> None:
    connection = await bench.connect(supervision_ms=5000)
    bench.link.params.interval, bench.link.params.pdus_per_event = 0.05, 1
    for _ in range(4 * BUFFERS):
        connection.send_l2cap_pdu(0x3F, bytes(200))  # a channel nobody listens on
    await asyncio.sleep(0.01)
    assert connection.data_packet_queue.pending >= 3 * BUFFERS
    bench.link.params.pdus_per_event = 64
    await asyncio.wait_for(connection.drain(), 10)


async def test_a_reset_host_leaves_its_peer_to_its_supervision_timeout(bench: Bench) -> None:
    await bench.connect(supervision_ms=200)
    await until(lambda: bench.glasses.firmware.arms[LEFT].state is ArmState.CONNECTED, "connected")
    bench.controller.power_cycle()
    assert bench.glasses.firmware.arms[LEFT].state is ArmState.CONNECTED
    await until(lambda: bench.glasses.firmware.arms[LEFT].state is ArmState.ADVERTISING, "the arm noticed")
    assert bench.link.connections == set()


async def test_a_link_that_never_came_alive_ends_with_its_status(bench: Bench) -> None:
    bench.link.air(bench.address(LEFT)).refuse = 0x3E
    connection = await bench.connect()
    reasons: list[int] = []
    connection.on("disconnection", reasons.append)
    await until(lambda: reasons, "the end")
    assert reasons == [0x3E]
    assert bench.glasses.firmware.arms[LEFT].state is ArmState.ADVERTISING


async def test_two_centrals_cannot_have_the_same_arm(bench: Bench) -> None:
    other, controller = new_central(bench.link, 2)
    await other.power_on()
    await bench.connect()
    with pytest.raises(core.TimeoutError):
        await other.connect(hci.Address(bench.address(LEFT)), timeout=0.3)
    assert await other.connect(hci.Address(bench.address(RIGHT)), timeout=10)
    controller.power_cycle()


async def test_lost_advertisements_slow_discovery_down(bench: Bench) -> None:
    bench.link.air(bench.address(LEFT)).adv_loss = 1.0
    heard: list[str] = []
    bench.device.on("advertisement", lambda a: heard.append(str(a.address).split("/")[0]))
    await bench.device.start_scanning(legacy=True)
    await until(lambda: heard.count(bench.address(RIGHT)) >= 3, "the right arm")
    assert bench.address(LEFT) not in heard
