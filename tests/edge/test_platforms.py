"""The branches for macOS and Windows, through backends that behave as CoreBluetooth and WinRT do.

What is different there (bleak's documentation and sources): macOS hides addresses behind UUIDs of its own, has no call to
pair and shows a small MTU at first; Windows pairs, has no UNIX sockets and no signal handlers in its loops; neither has
D-Bus, uvloop or a name for BlueZ' errors. The systems themselves were never tried.
"""

from __future__ import annotations

import asyncio
import builtins
import sys
import types
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakBluetoothNotAvailableReason,
    BleakDeviceNotFoundError,
    BleakError,
)

from edge import ble, control, daemon, doctor
from edge.ble import BleakRadio
from edge.config import EdgeConfig, parse_glasses
from edge.daemon import Daemon, Store
from edge.doctor import Level
from edge.profiles.base import Arm
from edge.profiles.g1 import UART
from tests.edge import fake_bleak
from tests.edge.fake_bleak import Script, raising
from tests.support.edge_process import cloud, until
from wire.errors import GlassesError, GlassesFault

LEFT, RIGHT = "5D8F6A1B-7C2E-4E37-9B11-0A5B1C2D3E4F", "0B1C2D3E-4F50-4617-8A9B-ACBDCEDFE0F1"


class System:
    """One operating system: what Python and bleak are like there."""

    def __init__(self, name: str, script: Script) -> None:
        self.name = name
        self.script = script


@pytest.fixture(params=["darwin", "win32"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> System:
    """Everything of the edge believes to be there; asyncio and pytest do not."""
    name: str = request.param
    there = types.SimpleNamespace(platform=name, stderr=sys.stderr, argv=sys.argv)
    for module in (ble, daemon, doctor):
        monkeypatch.setattr(module, "sys", there)
    real = builtins.__import__

    def no_linux(module: str, *rest: Any, **more: Any) -> Any:
        if module in ("dbus_fast", "edge.bluez_host", "uvloop") or module.startswith("dbus_fast."):
            raise ImportError(f"{module} is not on {name}")
        return real(module, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no_linux)
    script = fake_bleak.SCRIPTS[f"platform-{name}"] = Script()
    script.adverts = [(LEFT, "Even G1_7_L_0000AA"), (RIGHT, "Even G1_7_R_0000BB")]
    if name == "darwin":
        script.hooks["pair"] = raising(NotImplementedError("pairing is done by macOS"))
        script.payload = [20, 20, 182]  # bleak shows the MTU of an iPhone after a moment
    return System(name, script)


@asynccontextmanager
async def radio_of(system: System) -> AsyncIterator[BleakRadio]:
    radio = BleakRadio(f"tests.edge.fake_bleak:platform-{system.name}")
    radio._backends.native = True  # as `--radio default` is
    await radio.start()
    try:
        yield radio
    finally:
        await radio.stop()


async def connected(radio: BleakRadio, address: str = LEFT) -> ble.Link:
    seen: list[str] = []

    def see(advert: Any) -> None:
        seen.append(advert.address)

    radio.watch(see, UART.service)
    await until(lambda: address in seen, 5)
    return await radio.connect(address, UART, pair=True, on_notify=lambda *_: None, on_closed=lambda _: None)


async def test_pairing_is_asked_for_where_there_is_a_call_and_left_to_the_system_where_there_is_none(
    system: System,
) -> None:
    async with radio_of(system) as radio:
        link = await connected(radio)
        assert ("pair" in system.script.log) is (system.name == "win32")
        assert link.payload_max == (182 if system.name == "darwin" else 244), "the MTU as the system shows it"
        await link.write(b"\x25\x06\x00\x00\x04\x00", response=True)
        await link.close()


@pytest.mark.failure("BLE-09")
async def test_a_silent_adapter_is_told_without_switching_it(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ble, "SCAN_QUIET", 0.05)
    async with radio_of(system) as radio:
        system.script.adverts = []
        radio.watch(lambda _: None)
        await until(lambda: radio.fault is GlassesFault.ADAPTER_QUIET, 5)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (BleakBluetoothNotAvailableError("off", BleakBluetoothNotAvailableReason.POWERED_OFF), GlassesFault.ADAPTER_DOWN),
        (BleakBluetoothNotAvailableError("no", BleakBluetoothNotAvailableReason.DENIED_BY_USER), GlassesFault.PERMISSION),
        (BleakDeviceNotFoundError(LEFT), GlassesFault.NOT_FOUND),
        (BleakError("disconnected"), GlassesFault.CONNECT_FAILED),
        (OSError("[WinError -2147023673] The operation was canceled by the user"), GlassesFault.CONNECT_FAILED),
    ],
    ids=["switched off", "not allowed", "unknown device", "core bluetooth", "winrt"],
)  # fmt: skip
async def test_what_these_stacks_raise_has_our_words(
    system: System, error: BaseException, fault: GlassesFault
) -> None:
    async with radio_of(system) as radio:
        system.script.hooks["connect"] = raising(error)
        with pytest.raises(GlassesError) as caught:
            await connected(radio)
        assert caught.value.fault is fault


async def test_the_doctor_looks_at_the_adapter_and_not_for_bluez(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "SCAN_SECONDS", 0.1)
    options = {"data_dir": str(tmp_path), "radio": f"tests.edge.fake_bleak:platform-{system.name}"}
    found = await doctor.examine(EdgeConfig.load(None, {**options, "cloud": "ws://127.0.0.1:1"}))
    assert [f.what for f in found if f.level is Level.OK] == [
        "state directory", "Bluetooth adapter", "Even Realities G1"
    ]  # fmt: skip


@asynccontextmanager
async def daemon_on(system: System, folder: Path, **more: Any) -> AsyncIterator[Daemon]:
    options = {"data_dir": str(folder), "radio": f"tests.edge.fake_bleak:platform-{system.name}", **more}
    running = Daemon(EdgeConfig.load(None, options))
    ready = asyncio.Event()
    task = asyncio.create_task(running.run(lambda _: ready.set()))
    await asyncio.wait_for(ready.wait(), 10)
    try:
        yield running
    finally:
        running._stopping.set()
        assert await asyncio.wait_for(task, 10) == 0


async def test_a_daemon_serves_and_ends_without_signal_handlers_or_unix_sockets(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise NotImplementedError  # as the Proactor loop of Windows does

    monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", refuse)
    serve = control.ControlSocket.__init__

    def without_unix(self: control.ControlSocket, *args: Any, **more: Any) -> None:
        serve(self, *args, **{**more, "unix": False})

    if system.name == "win32":
        monkeypatch.setattr(control.ControlSocket, "__init__", without_unix)
    async with cloud() as upstream, daemon_on(system, tmp_path, cloud=upstream.url, glasses="g1") as running:
        socket = running._config.socket_path
        assert socket.is_file() is (system.name == "win32")
        status = await asyncio.to_thread(control.ask, socket, {"cmd": "status"})
        assert status["status"]["wearers"][0]["glasses"]["model"] == "Even Realities G1"
        await until(lambda: system.script.clients, 10, "it connects")
    assert not socket.exists()


@pytest.mark.failure("BLE-13")
async def test_glasses_are_remembered_and_named_by_the_identifiers_of_the_system(
    system: System, tmp_path: Path
) -> None:
    assert parse_glasses(f"g1@{LEFT},{RIGHT}").addresses == (LEFT, RIGHT)
    async with cloud() as upstream, daemon_on(system, tmp_path, cloud=upstream.url):
        await until(lambda: Store(tmp_path).load("") is not None, 10, "the only pair in sight is taken")
    saved = Store(tmp_path).load("")
    assert saved is not None
    assert saved["addresses"] == {Arm.LEFT.value: LEFT, Arm.RIGHT.value: RIGHT}


def test_without_uvloop_the_loop_of_python_serves(system: System) -> None:
    factory: Callable[[], Any] | None = daemon._loop_factory()
    assert factory is None
