"""The edge daemon on BlueZ through bad days: each ends with text on both lenses, and nobody restarted anything."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge.profiles.g1 import G1
from tests.support.bluez import BluezProcess
from tests.support.edge_process import Cloud, Edge, cloud, edge_process, spawn, until
from tests.support.realbluez import LANE_BLUEZ, RealBluezProcess, bluez_below
from tests.support.simulator import simulator_process
from tests.support.waiting import SLOW
from tests.system.test_edge_ble_g1 import Rig

PATIENCE = 15 * SLOW
"""Seconds for what the failure catalogue grants 15 (BLE-06)."""

pytestmark = pytest.mark.lane(LANE_BLUEZ)


@dataclass
class World:
    """One G1, its radio, a bluetoothd, a cloud; `options` start an edge."""

    bluez: BluezProcess | RealBluezProcess
    cloud: Cloud
    options: dict[str, Any]
    sim: Any
    folder: Path

    def seen_by(self, edge: Edge) -> Rig:
        return Rig(self.sim, self.cloud, edge, self.folder)

    async def until_connected(self) -> None:
        await until(
            lambda: any(m["status"] == "CONNECTED" for m in self.cloud.said("glasses_connection_state")),
            PATIENCE,
            "connected",
        )


@asynccontextmanager
async def world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async with (
        simulator_process(folder, "--model", "g1") as sim,
        bluez_below(folder, sim.hci) as bluez,
        cloud() as upstream,
    ):
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bluez.bus.address)
        options = {"cloud": upstream.url, "radio": "default", "token": "tok", "glasses": "g1"}
        yield World(bluez, upstream, options, sim, folder)


@pytest.mark.failure("BLE-06")
async def test_a_day_of_accidents_below_the_edge_ends_with_text_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapter off and on, unplugged and back, bluetoothd dead and restarted: one edge process lives through them."""
    async with world(tmp_path, monkeypatch) as w, edge_process(tmp_path, **w.options) as edge:
        r = w.seen_by(edge)

        async def recovered(words: str) -> None:
            await edge.until_ready(seconds=PATIENCE)
            await w.cloud.show(words)
            await r.until_shown(words)

        await recovered("morning")
        state = await w.bluez.do("state")
        devices = state["adapters"][0]["devices"].values()
        assert [d["paired"] for d in devices if d["connected"]] == [True, True], (
            "our agent let both arms pair"
        )

        async def until_lost() -> None:
            for _ in range(600):
                if await edge.state() != "ready":
                    return
                await asyncio.sleep(0.05)
            raise AssertionError("the edge never noticed")

        await w.bluez.do("power", on=False)
        await until_lost()
        await w.bluez.do("power", on=True)
        await recovered("after the adapter was off")

        await w.bluez.do("unplug")
        await until_lost()
        for _ in range(300):  # an arm rests a second or two before it looks again, and then finds no adapter
            if (await edge.status())["radio"]["fault"] == "adapter_missing":
                break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError(await edge.status())
        await w.bluez.do("plug")
        await recovered("after the adapter was pulled")

        await w.bluez.kill()
        await until_lost()
        await asyncio.sleep(1.0)
        await w.bluez.start()
        began = asyncio.get_running_loop().time()
        await recovered("after bluetoothd crashed")
        assert asyncio.get_running_loop().time() - began < PATIENCE, "15 s, and slack"
        assert (await edge.status())["restarts"] == 0


@pytest.mark.failure("BLE-07")
async def test_a_service_table_from_before_a_firmware_update_costs_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, monkeypatch) as w:
        left = w.sim.ready["devices"][0]["arms"]["left"]["address"]
        await w.bluez.do("hide", address=left, characteristic=G1.gatt.notify[0])
        async with edge_process(tmp_path, **w.options) as edge:
            began = asyncio.get_running_loop().time()
            await edge.until_ready(seconds=PATIENCE)
            took = asyncio.get_running_loop().time() - began
            await w.cloud.show("after the update")
            await w.seen_by(edge).until_shown("after the update")
            assert (await edge.arm("left"))["state"] == "ready"
            assert took < 40, "20 s, and slack for a busy machine"


@pytest.mark.failure("BLE-08")
async def test_an_edge_killed_at_any_moment_leaves_phantoms_that_the_next_one_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it connects, and when all is up: BlueZ keeps the links, which advertise to nobody."""
    async with world(tmp_path, monkeypatch) as w:
        for step in ("ready", "one link", "two links"):
            process = await spawn(tmp_path, w.options)
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), PATIENCE)
            if step == "ready":
                await w.until_connected()
            else:
                wanted = 1 if step == "one link" else 2
                for _ in range(3000):
                    state = await w.bluez.do("state")
                    devices = state["adapters"][0]["devices"].values()
                    if sum(d["connected"] for d in devices) >= wanted:
                        break
                    await asyncio.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            await process.communicate()
            process._transport.close()  # type: ignore[attr-defined]
        state = await w.bluez.do("state")
        assert any(d["connected"] for d in state["adapters"][0]["devices"].values()), "a phantom is there"
        async with edge_process(tmp_path, **w.options) as edge:
            await edge.until_ready(seconds=PATIENCE)
            await w.cloud.show("back")
            await w.seen_by(edge).until_shown("back")


@pytest.mark.failure("BLE-10")
async def test_a_stopped_edge_leaves_no_link_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path, monkeypatch) as w:
        async with edge_process(tmp_path, **w.options) as edge:
            await edge.until_ready(seconds=PATIENCE)
        state = await w.bluez.do("state")
        assert not any(d["connected"] for d in state["adapters"][0]["devices"].values())
