"""The simulator process: identities from the seed, the ready line, orderly ends, named errors."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from pathlib import Path

import httpx
import pytest
from bleak import BleakClient

from firmware_sim.bleak_backend import close_radio, radio
from firmware_sim.firmware import MODELS
from firmware_sim.firmware.g1 import FROM_GLASSES, TO_GLASSES
from firmware_sim.hci_port import SimError
from firmware_sim.room import Room
from tests.support.simulator import simulator_process


async def names(seed: int, count: int) -> list[tuple[str, str]]:
    room = Room(["g1"], count=count, hci_ports=[], seed=seed)
    return [
        (arm.spec.name, arm.spec.address)
        for resident in room.residents.values()
        for arm in resident.glasses.firmware.arms.values()
    ]


@pytest.mark.failure("BLE-15")
async def test_devices_of_one_seed_are_distinct_and_the_same_each_time() -> None:
    first = await names(5, 40)
    assert first == await names(5, 40)
    assert first != await names(6, 40)
    assert len({address for _, address in first}) == 80
    assert len({name.split("_")[1] for name, _ in first}) == 40
    for name, address in first:
        assert re.fullmatch(r"Even G1_\d{1,3}_[LR]_[0-9A-F]{6}", name)
        assert name.endswith(address.replace(":", "")[-6:])
        assert int(address[:2], 16) >= 0xC0


@pytest.mark.parametrize(
    ("models", "count", "word"),
    [(["g9"], 1, "g9"), ([], 1, "none"), (["g1"], 0, "0 devices"), (["g1"], 500, "500")],
)
async def test_a_room_that_cannot_be_says_why(models: list[str], count: int, word: str) -> None:
    with pytest.raises(SimError, match=word):
        Room(models, count=count, hci_ports=[])


async def test_a_failed_opening_leaves_nothing_open(tmp_path: Path) -> None:
    good = f"unix-server:{tmp_path}/a.sock"
    with pytest.raises(SimError, match="nowhere"):
        async with Room(["g1"], hci_ports=[good, f"unix-server:{tmp_path}/nowhere/b.sock"]):
            pass
    assert not (tmp_path / "a.sock").exists()
    with pytest.raises(SimError, match="btsnoop"):
        async with Room(["g1"], hci_ports=[good], btsnoop=tmp_path / "nowhere" / "x"):
            pass
    with pytest.raises(SimError, match="1 real adapters for 2 arms"):
        async with Room(["g1"], hci_ports=["usb:0"]):
            pass
    with pytest.raises(SimError, match="cannot open that adapter"):
        async with Room(["g1"], hci_ports=[f"unix:{tmp_path}/none", f"unix:{tmp_path}/none"]):
            pass


async def test_arms_can_go_on_air_with_controllers_of_their_own(tmp_path: Path) -> None:
    """Another room's ports stand in for two dongles: the glasses only see HCI."""
    servers = [f"unix-server:{tmp_path}/{n}.sock" for n in range(3)]
    async with (
        Room(["g1"], hci_ports=servers, seed=1) as air,
        Room(["g1"], hci_ports=air.hci[:2], seed=2) as glasses,
    ):
        backend = radio(air.hci[2])
        arm = glasses.residents["g1-1"].glasses.firmware.arms["right"]
        try:
            async with BleakClient(arm.spec.address, backend=backend.client) as client:
                said: asyncio.Queue[bytes] = asyncio.Queue()
                await client.start_notify(FROM_GLASSES, lambda _, data: said.put_nowait(bytes(data)))
                await client.write_gatt_char(TO_GLASSES, b"\x0e\x01", response=True)
                assert await asyncio.wait_for(said.get(), 10) == b"\x0e\xc9\x01"
        finally:
            await close_radio(air.hci[2])


async def test_a_tcp_port_of_0_is_told_as_it_is() -> None:
    async with Room(["g1"], hci_ports=["tcp-server:127.0.0.1:0"]) as room:
        assert re.fullmatch(r"tcp-client:127\.0\.0\.1:[1-9]\d+", room.hci[0])


async def test_the_process_prints_one_ready_line_and_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    snoop = tmp_path / "log.btsnoop"
    async with simulator_process(tmp_path, "--count", "2", "--btsnoop", str(snoop), ports=2) as simulator:
        ready = simulator.ready
        assert ready["event"] == "ready"
        assert len(ready["hci"]) == 2
        assert [device["id"] for device in ready["devices"]] == ["g1-1", "g1-2"]
        async with httpx.AsyncClient() as http:
            state = (await http.get(f"{simulator.url}/api/sim/state")).json()
            # An open event stream must not hold the end up.
            async with http.stream("GET", f"{simulator.url}/api/sim/events") as response:
                await anext(response.aiter_lines())
                simulator.process.send_signal(signal.SIGTERM)
                assert await asyncio.wait_for(simulator.process.wait(), 10) == 0
        assert state["devices"][0]["arms"]["left"]["name"] == ready["devices"][0]["arms"]["left"]["name"]
    assert snoop.read_bytes().startswith(b"btsnoop\0")
    assert not (tmp_path / "hci0.sock").exists()


async def test_bad_arguments_exit_78_with_one_sentence() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "firmware_sim", "--model", "g9", stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 78
    assert errors.decode().count("\n") == 1
    assert "g9" in errors.decode()


async def test_an_interrupted_process_says_130() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "firmware_sim", "--json", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30)
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 10) == 130


@pytest.mark.parametrize("model", sorted(MODELS))
async def test_every_model_goes_on_the_air_and_tells_its_state(model: str, tmp_path: Path) -> None:
    async with Room([model], hci_ports=[f"unix-server:{tmp_path}/hci.sock"]) as room:
        (device,) = room.state()["devices"]
        assert device["model"] == model
        arm = next(iter(device["arms"].values()))
        try:
            async with BleakClient(arm["address"], backend=radio(room.hci[0]).client) as client:
                assert any("notify" in c.properties for c in client.services.characteristics.values())
        finally:
            await close_radio(room.hci[0])
