"""The radio over bleak: limits on every call, one attempt at a time, faults in our words.

The stack is scripted (tests/edge/fake_bleak.py): hangs, lies and late callbacks of operating systems.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakBluetoothNotAvailableReason,
    BleakCharacteristicNotFoundError,
    BleakDBusError,
    BleakDeviceNotFoundError,
    BleakError,
    BleakGATTProtocolError,
    BleakGATTProtocolErrorCode,
)

from edge import ble
from edge.ble import BleakRadio, Link, fault_of
from edge.profiles.base import Advert
from edge.profiles.g1 import UART
from tests.edge import fake_bleak
from tests.edge.fake_bleak import Script, hang, raising
from tests.support.edge_process import until
from wire.errors import ConfigError, GlassesError, GlassesFault

NAME = "Even G1_7_L_0000AA"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits, shortened: what is held is that each call has one."""
    for name in ("CONNECT_MAX", "NOTIFY_MAX", "WRITE_MAX", "DISCONNECT_MAX", "SCAN_START_MAX"):
        monkeypatch.setattr(ble, name, 0.2)
    monkeypatch.setattr(ble, "MTU_WAIT", 0.3)
    monkeypatch.setattr(ble, "MTU_POLL", 0.01)


class Rig:
    def __init__(self, script: Script, radio: BleakRadio) -> None:
        self.script, self.radio = script, radio
        self.seen: list[Advert] = []
        self.notes: list[tuple[str, bytes]] = []
        self.closed: list[GlassesFault] = []

    async def connect(self, address: str = "AA", *, pair: bool = False) -> Link:
        self.radio.watch(self.seen.append, UART.service)
        await until(lambda: any(a.address == address for a in self.seen), 5)
        return await self.radio.connect(
            address,
            UART,
            pair=pair,
            on_notify=lambda char, data: self.notes.append((char, data)),
            on_closed=self.closed.append,
        )


@asynccontextmanager
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    name = request.node.name
    script = fake_bleak.SCRIPTS[name] = Script()
    script.adverts = [("AA", NAME), ("BB", "Even G1_7_R_0000BB")]
    radio = BleakRadio(f"tests.edge.fake_bleak:{name}")
    await radio.start()
    try:
        yield Rig(script, radio)
    finally:
        await radio.stop()


async def fails(work: Rig, fault: GlassesFault) -> GlassesError:
    with pytest.raises(GlassesError) as error:
        await asyncio.wait_for(work.connect(), 10)
    assert error.value.fault is fault
    assert work.script.log[-2:].count("disconnect") >= 1 or "disconnect" in work.script.log
    return error.value


# ---------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("error", "fault", "retryable"),
    [
        (TimeoutError(), GlassesFault.TIMEOUT, True),
        (BleakDeviceNotFoundError("AA"), GlassesFault.NOT_FOUND, True),
        (BleakCharacteristicNotFoundError("x"), GlassesFault.INCOMPATIBLE, False),
        (BleakGATTProtocolError(BleakGATTProtocolErrorCode.INSUFFICIENT_ENCRYPTION), GlassesFault.NOT_PAIRED, False),
        (BleakGATTProtocolError(BleakGATTProtocolErrorCode.UNLIKELY_ERROR), GlassesFault.REFUSED, True),
        (BleakBluetoothNotAvailableError("x", BleakBluetoothNotAvailableReason.POWERED_OFF), GlassesFault.ADAPTER_DOWN, True),
        (BleakBluetoothNotAvailableError("x", BleakBluetoothNotAvailableReason.NO_BLUETOOTH), GlassesFault.ADAPTER_MISSING, True),
        (BleakBluetoothNotAvailableError("x", BleakBluetoothNotAvailableReason.DENIED_BY_USER), GlassesFault.PERMISSION, False),
        (BleakDBusError("org.bluez.Error.InProgress", []), GlassesFault.BUSY, True),
        (BleakDBusError("org.bluez.Error.NotReady", []), GlassesFault.ADAPTER_DOWN, True),
        (BleakDBusError("org.bluez.Error.AuthenticationFailed", []), GlassesFault.NOT_PAIRED, False),
        (BleakDBusError("org.freedesktop.DBus.Error.AccessDenied", []), GlassesFault.PERMISSION, False),
        (BleakDBusError("org.freedesktop.DBus.Error.ServiceUnknown", []), GlassesFault.ADAPTER_MISSING, True),
        (BleakDBusError("org.bluez.Error.Failed", ["le-connection-abort-by-local"]), GlassesFault.CONNECT_FAILED, True),
        (BleakDBusError("org.bluez.Error.Failed", ["Failed to initiate write"]), GlassesFault.REFUSED, True),
        (BleakDBusError("org.bluez.Error.Failed", ["Not connected"]), GlassesFault.LINK_LOST, True),
        (BleakError("anything"), GlassesFault.LINK_LOST, True),
        (BleakError("failed to connect: CONNECTION_LIMIT_EXCEEDED_ERROR"), GlassesFault.BUSY, True),
        (EOFError(), GlassesFault.LINK_LOST, True),
        (BlockingIOError(11, "x"), GlassesFault.LINK_LOST, True),
        (OSError(9, "Bad file descriptor"), GlassesFault.LINK_LOST, True),
        (FileNotFoundError(2, "no bus"), GlassesFault.ADAPTER_MISSING, True),
        (KeyError("org.bluez.GattService1"), GlassesFault.LINK_LOST, True),
    ],
)  # fmt: skip
def test_every_error_of_the_stack_has_one_fault(
    error: Exception, fault: GlassesFault, retryable: bool
) -> None:
    got = fault_of(error)
    assert (got.fault, got.retryable) == (fault, retryable)


@pytest.mark.parametrize("spec", ["nonsense", "bumble:", "no.such.module:x", "json.decoder:x"])
def test_a_radio_that_cannot_be_loaded_is_a_configuration_error(spec: str) -> None:
    with pytest.raises(ConfigError, match="radio"):
        BleakRadio(spec)


# ------------------------------------------------------------------------------------------------------ connecting


async def test_connect_write_notify_close(request: pytest.FixtureRequest) -> None:
    async with rig(request) as r:
        link = await r.connect()
        assert link.payload_max == 244
        await link.write(b"\x25", response=True)
        await link.write(b"\x15", response=False)
        assert r.script.written == [(b"\x25", True), (b"\x15", False)]
        r.script.clients[-1].callbacks[UART.notify[0]](bytearray(b"\xf5\x01"))
        assert r.notes == [(UART.notify[0], b"\xf5\x01")]
        await link.close()
        r.script.clients[-1].lost()
        assert r.closed == [], "what the owner closed is not reported to it"


@pytest.mark.failure("BLE-05")
async def test_the_payload_is_polled_until_the_mtu_is_known(request: pytest.FixtureRequest) -> None:
    async with rig(request) as r:
        r.script.payload = [20, 20, 20, 180]
        assert (await r.connect()).payload_max == 180
        r.script.payload = [20]
        assert (await r.connect("BB")).payload_max == 20
        r.script.payload = [600]
        assert (await r.connect()).payload_max == 512


@pytest.mark.failure("BLE-06")
@pytest.mark.parametrize("step", ["connect", "notify"])
async def test_a_step_that_hangs_ends_within_its_limit_and_with_a_disconnect(
    request: pytest.FixtureRequest, step: str
) -> None:
    async with rig(request) as r:
        r.script.hooks[step] = hang
        await fails(r, GlassesFault.TIMEOUT)
        del r.script.hooks[step]
        assert await r.connect()


@pytest.mark.failure("BLE-10")
@pytest.mark.parametrize("step", ["connect", "notify"])
async def test_two_hundred_failures_leave_no_slot_taken(request: pytest.FixtureRequest, step: str) -> None:
    async with rig(request) as r:
        r.script.hooks[step] = raising(BleakError("le-connection-abort-by-local"))
        for _ in range(200):
            with pytest.raises(GlassesError):
                await r.connect()
        del r.script.hooks[step]
        assert await r.connect()
        assert r.script.log.count("disconnect") == 200
        assert [client.connected for client in r.script.clients[:-1]] == [False] * 200


@pytest.mark.failure("BLE-11")
async def test_a_disconnect_that_hangs_is_left_behind(request: pytest.FixtureRequest) -> None:
    async with rig(request) as r:
        link = await r.connect()
        r.script.hooks["disconnect"] = hang
        await asyncio.wait_for(link.close(), 5)
        del r.script.hooks["disconnect"]
        assert await r.connect()


@pytest.mark.failure("BLE-11")
async def test_thirteen_disconnect_callbacks_are_one_report_and_late_ones_none(
    request: pytest.FixtureRequest,
) -> None:
    async with rig(request) as r:
        await r.connect()
        old = r.script.clients[-1]
        for _ in range(13):
            old.lost()
        assert r.closed == [GlassesFault.LINK_LOST]
        await r.connect()
        old.lost()
        old.callbacks[UART.notify[0]](bytearray(b"late"))
        assert r.closed == [GlassesFault.LINK_LOST]
        assert r.notes == []


@pytest.mark.failure("BLE-12")
async def test_connections_are_made_one_after_the_other_and_never_beside_a_scan(
    request: pytest.FixtureRequest,
) -> None:
    async with rig(request) as r:

        async def slow() -> None:
            await asyncio.sleep(0.05)

        r.script.hooks["connect"] = slow
        r.radio.watch(r.seen.append)
        await until(lambda: len(r.seen) >= 2, 5)
        await asyncio.gather(*(r.connect(address) for address in ("AA", "BB", "AA")))
        assert r.script.connecting_max == 1
        await until(lambda: any(s.running for s in r.script.scanners), 5, "scanning goes on afterwards")


@pytest.mark.failure("BLE-07")
async def test_a_missing_characteristic_is_an_explicit_fault(request: pytest.FixtureRequest) -> None:
    async with rig(request) as r:
        r.script.characteristics = [UART.write]
        error = await fails(r, GlassesFault.INCOMPATIBLE)
        assert "6e400003" in str(error)
        assert not error.retryable


@pytest.mark.failure("BLE-07")
async def test_a_stale_service_table_is_given_up_at_most_once_in_five_minutes(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared: list[str] = []

    async def clear_cache(address: str) -> bool:
        cleared.append(address)
        return True

    # This library reads BlueZ's files over D-Bus; with a scripted stack there is none (tests/ble has the real thing).
    monkeypatch.setattr("bleak_retry_connector.clear_cache", clear_cache)
    monkeypatch.setattr("sys.platform", "linux")
    async with rig(request) as r:
        r.radio._backends.native = True
        r.script.characteristics = [UART.write]
        for _ in range(3):
            await fails(r, GlassesFault.INCOMPATIBLE)
        assert cleared == ["AA"]
        r.radio._cache_cleared["AA"] -= 301.0
        await fails(r, GlassesFault.INCOMPATIBLE)
        assert cleared == ["AA", "AA"]
        r.radio._backends.native = False


async def test_an_address_that_was_never_seen_is_not_found(request: pytest.FixtureRequest) -> None:
    async with rig(request) as r:
        with pytest.raises(GlassesError) as error:
            await r.radio.connect("ZZ", UART, pair=False, on_notify=lambda *_: None, on_closed=lambda _: None)
        assert error.value.fault is GlassesFault.NOT_FOUND


async def test_a_cancelled_attempt_cleans_up(request: pytest.FixtureRequest) -> None:
    async with rig(request) as r:
        r.script.hooks["notify"] = hang
        r.radio.watch(r.seen.append)
        await until(lambda: r.seen, 5)
        task = asyncio.create_task(r.connect())
        await until(lambda: "notify" in r.script.log, 5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert r.script.log[-1] in ("disconnect", "scan")
        del r.script.hooks["notify"]
        assert await r.connect()


# --------------------------------------------------------------------------------------------------------- writing


@pytest.mark.failure("BLE-03")
async def test_a_write_that_hangs_ends_within_its_limit(request: pytest.FixtureRequest) -> None:
    async with rig(request) as r:
        link = await r.connect()
        r.script.hooks["write"] = hang
        with pytest.raises(GlassesError) as error:
            await asyncio.wait_for(link.write(b"x", response=True), 5)
        assert error.value.fault is GlassesFault.TIMEOUT


async def test_a_write_under_way_ends_when_the_link_is_lost(request: pytest.FixtureRequest) -> None:
    async with rig(request) as r:
        link = await r.connect()
        r.script.hooks["write"] = hang
        writing = asyncio.create_task(link.write(b"x", response=True))
        await until(lambda: "write" in r.script.log, 5)
        r.script.clients[-1].lost()
        with pytest.raises(GlassesError) as error:
            await asyncio.wait_for(writing, 5)
        assert error.value.fault is GlassesFault.LINK_LOST
        with pytest.raises(GlassesError):
            await link.write(b"y", response=True)


@pytest.mark.parametrize("error", [BlockingIOError(11, "x"), EOFError(), BleakError("x"), KeyError("x")])
async def test_whatever_a_write_raises_is_a_fault(request: pytest.FixtureRequest, error: Exception) -> None:
    async with rig(request) as r:
        link = await r.connect()
        r.script.hooks["write"] = raising(error)
        with pytest.raises(GlassesError):
            await link.write(b"x", response=False)


# -------------------------------------------------------------------------------------------------------- scanning


@pytest.mark.failure("BLE-09")
async def test_a_quiet_scan_is_restarted(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ble, "SCAN_QUIET", 0.1)
    async with rig(request) as r:
        r.script.adverts = []
        r.radio.watch(r.seen.append)
        await until(lambda: r.radio.scan_restarts >= 2, 5)
        r.script.adverts = [("AA", NAME)]
        await until(lambda: r.seen, 5)


@pytest.mark.failure("BLE-09")
async def test_silence_that_no_restart_ends_is_shown_until_something_is_heard(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ble, "SCAN_QUIET", 0.05)
    async with rig(request) as r:
        r.script.adverts = []
        r.radio.watch(r.seen.append)
        await until(lambda: r.radio.fault is GlassesFault.ADAPTER_QUIET, 5)
        restarts = r.radio.scan_restarts
        await until(lambda: r.radio.scan_restarts > restarts + 2, 5)
        assert r.radio.fault is GlassesFault.ADAPTER_QUIET, "it does not flicker with each scan"
        r.script.adverts = [("AA", NAME)]
        await until(lambda: r.seen, 5)
        assert r.radio.fault is None


@pytest.mark.failure("BLE-06")
@pytest.mark.parametrize(
    "hook", [hang, raising(BleakDBusError("org.freedesktop.DBus.Error.ServiceUnknown", []))]
)
async def test_a_scan_that_fails_is_tried_again_and_the_fault_is_shown(
    request: pytest.FixtureRequest, hook: object
) -> None:
    async with rig(request) as r:
        r.script.hooks["scan"] = hook  # type: ignore[assignment]
        r.radio.watch(r.seen.append)
        await until(lambda: r.radio.fault is not None, 5)
        del r.script.hooks["scan"]
        await until(lambda: r.seen, 10)
        assert r.radio.fault is None


@pytest.mark.failure("BLE-08")
async def test_a_link_left_by_a_crashed_daemon_is_taken_over(request: pytest.FixtureRequest) -> None:
    async with rig(request) as r:
        r.script.adverts = []
        r.script.held_by_system = [("CC", "Even G1_9_L_0000CC")]
        assert await r.connect("CC")
        count = len([a for a in r.seen if a.address == "CC"])
        r.radio.unwatch(r.seen.append)
        r.radio.watch(r.seen.append, UART.service)
        await asyncio.sleep(0.05)
        assert len([a for a in r.seen if a.address == "CC"]) == count, "our own link is no leftover"


async def test_nobody_watching_means_no_scan(request: pytest.FixtureRequest) -> None:
    async with rig(request) as r:
        r.radio.watch(r.seen.append)
        await until(lambda: r.seen, 5)
        r.radio.unwatch(r.seen.append)
        await until(lambda: not any(s.running for s in r.script.scanners), 5)


async def test_an_adapter_that_is_missing_is_told_at_start() -> None:
    script = fake_bleak.SCRIPTS["missing"] = Script()
    script.hooks["scan"] = raising(
        BleakBluetoothNotAvailableError("none", BleakBluetoothNotAvailableReason.NO_BLUETOOTH)
    )
    with pytest.raises(GlassesError) as error:
        await BleakRadio("tests.edge.fake_bleak:missing").start()
    assert error.value.fault is GlassesFault.ADAPTER_MISSING
