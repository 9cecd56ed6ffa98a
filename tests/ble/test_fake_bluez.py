"""What the emulated bluetoothd alone is asked for; what it shares with the real one stands in test_oracle.py."""

from __future__ import annotations

import pytest
from bleak import BleakClient

from firmware_sim.fake_bluez.adapter import Options
from firmware_sim.fake_bluez.daemon import Bluetoothd
from firmware_sim.firmware.g1 import LEFT
from tests.ble.conftest import Bench, emulated_with
from tests.ble.test_oracle import found
from tests.support.waiting import until
from wire.errors import GlassesFault


@emulated_with(Options(temporary_max=0.3))
async def test_what_has_no_bond_is_forgotten_when_it_is_out_of_sight(emulated: Bench) -> None:
    """Seen with the real one: 30 s after the end of the link, or of the scan."""
    async with BleakClient(await found(emulated)):
        assert emulated.fake.device(emulated.address(LEFT)) is not None
    await until(lambda: not emulated.fake.adapters[0].devices, "both arms forgotten", 10)


async def test_a_second_bluetoothd_is_refused(emulated: Bench) -> None:
    second = Bluetoothd(emulated.fake.address, [])
    with pytest.raises(RuntimeError, match="another program owns"):
        await second.start()


@pytest.mark.failure("BLE-09")
async def test_an_adapter_that_hears_nothing_is_switched_off_and_on(
    emulated: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.ble.SCAN_QUIET", 0.5)
    monkeypatch.setattr("edge.bluez_host.POWER_PAUSE", 0.1)
    adapter = emulated.fake.adapters[0]
    adapter.mute = True
    emulated.radio.watch(emulated.hear)
    await until(lambda: emulated.radio.scan_restarts >= 2, "scanned anew", 10)
    await until(lambda: emulated.radio._power_cycled is not None, "power cycled", 10)
    await until(lambda: emulated.radio.fault is GlassesFault.ADAPTER_QUIET, "the fault is shown", 10)
    adapter.mute = False
    await until(lambda: emulated.seen, "heard again", 10)
    assert emulated.radio.fault is None
