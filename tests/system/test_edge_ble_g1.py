"""The edge daemon with real bleak over the Bumble radio, against simulated Even G1 and a real WebSocket cloud.

Every program is a process of its own. Times are generous: the machine is shared; order and counts are what is held.
"""

from __future__ import annotations

import asyncio
import base64
import io
import signal
import time
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed

from edge.control import ask
from tests.support.edge_process import Cloud, Edge, cloud, edge_process, spawn, until
from tests.support.fault_proxy import FaultProxy
from tests.support.rig import picture
from tests.support.simulator import Simulator, simulator_process

pytestmark = pytest.mark.lane("bumble")


@dataclass
class Rig:
    """Simulator, cloud and edge."""

    sim: Simulator
    cloud: Cloud
    edge: Edge
    folder: Path

    async def act(self, action: str, **body: Any) -> dict[str, Any]:
        async with httpx.AsyncClient() as client:
            answer = await client.post(
                f"{self.sim.url}/api/sim/input", json={"action": action, **body}, timeout=20
            )
        got: dict[str, Any] = answer.json()
        assert answer.is_success, got
        return got

    async def state(self, device: int = 0) -> dict[str, Any]:
        async with httpx.AsyncClient() as client:
            got: dict[str, Any] = (await client.get(f"{self.sim.url}/api/sim/state", timeout=20)).json()[
                "devices"
            ][device]
        return got

    async def lens(self, side: str, device: int = 0) -> str:
        return str((await self.state(device))["arms"][side]["lens"].get("text") or "").strip("\n")

    async def until_shown(self, text: str, *sides: str, seconds: float = 30.0, device: int = 0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            shown = [await self.lens(side, device) for side in (sides or ("left", "right"))]
            if all(words == text for words in shown):
                return
            assert time.monotonic() < deadline, f"{shown} instead of {text!r}"
            await asyncio.sleep(0.05)


@asynccontextmanager
async def rig(folder: Path, *sim_arguments: str, **overrides: Any) -> AsyncIterator[Rig]:
    async with (
        simulator_process(folder, "--model", "g1", *sim_arguments) as sim,
        cloud() as upstream,
        edge_process(
            folder,
            **{
                "cloud": upstream.url,
                "radio": f"bumble:{sim.hci}",
                "token": "tok",
                "glasses": "g1",
                **overrides,
            },
        ) as edge,
    ):
        await edge.until_ready()
        await until(lambda: upstream.said("glasses_connection_state"), why="announced")
        yield Rig(sim, upstream, edge, folder)


async def test_text_taps_and_head_travel_both_ways(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        assert r.cloud.tokens == ["Bearer tok"]
        await until(lambda: any(m["status"] == "CONNECTED" for m in r.cloud.said("glasses_connection_state")))
        await until(lambda: r.cloud.said("glasses_battery_update"))
        assert r.cloud.said("glasses_battery_update")[-1]["level"] == 87

        await r.cloud.show("Grüße from the cloud", displayId="d1")
        await r.until_shown("Grüße from the cloud")
        await until(lambda: r.cloud.said("glassbridge_display_result"))
        assert r.cloud.said("glassbridge_display_result")[0]["outcome"] == "shown"

        await r.act("tap", side="right")
        await until(lambda: r.cloud.said("touch_event") and r.cloud.said("button_press"))
        assert r.cloud.said("touch_event")[0]["gesture_name"] == "single_tap"
        assert r.cloud.said("button_press")[0]["buttonId"] == "right"

        await r.cloud.show("10:30", view="dashboard")
        await r.act("look_up")
        await r.until_shown("10:30")
        await r.act("look_down")
        await r.until_shown("Grüße from the cloud")


async def test_sound_over_the_air_follows_the_source(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.cloud.mic(True)
        await _until_mic(r, on=True)
        rate = 16_000
        t = np.arange(2 * rate) / rate
        loud = (9000 * np.sin(2 * np.pi * 440 * t) * (t < 1)).astype("<i2")
        out = io.BytesIO()
        with wave.open(out, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(loud.tobytes())
        before = len(r.cloud.pcm)
        await r.act("wav", wav=base64.b64encode(out.getvalue()).decode())
        await until(lambda: len(r.cloud.pcm) - before >= 3 * rate * 2, why="three seconds of sound")
        heard = np.frombuffer(r.cloud.pcm[before:], "<i2").astype(float)
        frames = heard[: len(heard) // 160 * 160].reshape(-1, 160)
        level = np.sqrt((frames**2).mean(axis=1))
        assert 85 <= int((level > 2000).sum()) <= 115, "one second of tone arrived"
        strongest = np.abs(np.fft.rfft(heard[np.argmax(np.abs(heard) > 2000) :][: rate // 2])).argmax() * 2
        assert abs(strongest - 440) <= 4
        assert all(len(frame) % 320 == 0 for _, frame in r.cloud.audio)
        assert (await r.edge.status())["wearers"][0]["glasses"]["counters"]["audio_lost"] == 0

        await r.cloud.mic(False)
        await _until_mic(r, on=False)


async def _until_mic(r: Rig, *, on: bool) -> None:
    deadline = time.monotonic() + 15
    while (await r.state())["microphone"]["on"] is not on:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.failure("BLE-02")
async def test_only_the_lost_arm_reconnects_and_both_show_the_newest(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.cloud.show("before")
        await r.until_shown("before")
        await r.act("drop", side="right", **{"for": 3})
        for n in range(5):
            await r.cloud.show(f"meanwhile {n}")
            await r.until_shown(f"meanwhile {n}", "left")
        await r.until_shown("meanwhile 4", "right")
        left, right = await r.edge.arm("left"), await r.edge.arm("right")
        assert left["connects"] == 1
        assert right["connects"] >= 2


@pytest.mark.failure("BLE-01")
async def test_an_arm_that_hears_nothing_any_more_is_found_out_and_rebuilt(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.act("faults", side="left", faults={"deaf": True})
        deadline = time.monotonic() + 30
        while (await r.edge.arm("left"))["state"] == "ready":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        assert (await r.edge.arm("right"))["connects"] == 1
        await r.act("faults", side="left", faults={"deaf": False})
        await r.cloud.show("again")
        await r.until_shown("again", seconds=60)


async def test_a_picture_arrives_dot_by_dot_on_both_arms(tmp_path: Path) -> None:
    drawn = Image.new("1", (576, 135), 0)
    for x in range(576):
        drawn.putpixel((x, (x * 7) % 135), 255)
    out = io.BytesIO()
    drawn.save(out, "BMP")
    async with rig(tmp_path) as r:
        layout = {"layoutType": "bitmap_view", "data": base64.b64encode(out.getvalue()).decode()}
        await r.cloud.say(type="display_event", packageName="a", view="main", layout=layout, displayId="p1")
        await until(lambda: r.cloud.said("glassbridge_display_result"), why="told")
        assert r.cloud.said("glassbridge_display_result")[0]["outcome"] == "shown"
        async with httpx.AsyncClient() as client:
            for side in ("left", "right"):
                shot = await client.get(f"{r.sim.url}/api/sim/screenshot", params={"side": side}, timeout=20)
                lit = np.asarray(Image.open(io.BytesIO(shot.content)).convert("1"))
                assert lit[:135].tolist() == np.asarray(drawn).tolist()
                assert not lit[135:].any()


async def until_state(r: Rig, **wanted: Any) -> None:
    deadline = time.monotonic() + 20
    while True:
        facts = (await r.state())["state"]
        if all(facts[key] == value for key, value in wanted.items()):
            return
        assert time.monotonic() < deadline, f"{facts} instead of {wanted}"
        await asyncio.sleep(0.05)


async def test_every_setting_and_layout_and_what_the_wearer_does_travels(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        settings = {"brightness": 40, "autoBrightness": False, "headUpAngle": 25, "sensingEnabled": False}
        settings |= {"dashboardHeight": 6, "dashboardDepth": 3, "silentMode": False}
        await r.cloud.say(type="settings_update", success=True, settings=settings)
        await until_state(r, brightness=16, auto_brightness=False, head_up_angle=25, wear_detection=False)
        await until_state(r, position=[6, 3], silent=False)

        async def layout(kind: str, **members: Any) -> None:
            await r.cloud.say(
                type="display_event", packageName="a", view="main", layout={"layoutType": kind, **members}
            )

        await layout("double_text_wall", topText="here", bottomText="there")
        await until_lens(r, lambda text: text.startswith("here ") and text.endswith(" there"))
        await layout("reference_card", title="Title", text="body")
        await r.until_shown("Title\nbody")
        await layout("dashboard_card", leftText="10:30", rightText="87 %")
        await until_lens(r, lambda text: text.startswith("10:30") and text.endswith("87 %"))
        frames = [base64.b64encode(picture(width, 100)).decode() for width in (100, 200)]
        await layout("bitmap_animation", frames=frames, interval=400, repeat=True)
        await r.cloud.show("after the pictures")
        await r.until_shown("after the pictures")

        await r.act("wear", value=False)
        await r.act("triple_tap", side="right")
        await until_edge(r, lambda glasses: glasses["silent"] is True)
        await r.cloud.say(type="settings_update", success=True, settings={"silentMode": False})
        await until_state(r, silent=False)
        await r.act("case", value="closed")
        await until_edge(r, lambda glasses: glasses["state"] == "asleep")
        await r.act("case", value="out")
        await r.act("wear", value=True)
        await until_edge(r, lambda glasses: glasses["state"] == "ready")
        await r.until_shown("after the pictures")
        await r.act("battery", value=41, side="left")
        await until(lambda: any(m["level"] == 41 for m in r.cloud.said("glasses_battery_update")))


async def until_edge(r: Rig, what: Callable[[dict[str, Any]], bool]) -> None:
    deadline = time.monotonic() + 20
    while not what(glasses := (await r.edge.status())["wearers"][0]["glasses"]):
        assert time.monotonic() < deadline, glasses
        await asyncio.sleep(0.05)


async def until_lens(r: Rig, what: Callable[[str], bool]) -> None:
    deadline = time.monotonic() + 20
    while True:
        shown = [await r.lens(side) for side in ("left", "right")]
        if all(what(text) for text in shown):
            return
        assert time.monotonic() < deadline, shown
        await asyncio.sleep(0.05)


async def test_a_notification_of_this_host_is_shown_in_the_glasses_own_style_and_told_to_the_cloud(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        await r.cloud.show("captions")
        await r.until_shown("captions")
        control = Path(r.edge.ready["control"])
        wish = {"cmd": "notify", "app": "Calendar", "title": "Standup", "text": "in five minutes"}
        assert await asyncio.to_thread(ask, control, wish) == {
            "ok": True, "own_style": True, "model": "Even Realities G1"
        }  # fmt: skip
        await until(lambda: r.cloud.said("phone_notification"))
        [told] = r.cloud.said("phone_notification")
        assert (told["app"], told["title"], told["content"]) == ("Calendar", "Standup", "in five minutes")
        await until_lens(r, lambda text: "in five minutes" in text)
        await until_state(r, unread=1)
        refused = await asyncio.to_thread(ask, control, {"cmd": "notify", "title": ""})
        assert refused["ok"] is False
        refused = await asyncio.to_thread(ask, control, {"cmd": "notify", "title": "x", "user": "nobody"})
        assert refused == {"ok": False, "error": "no such wearer"}


@pytest.mark.failure("EDG-01")
@pytest.mark.failure("EDG-02")
async def test_a_cloud_that_goes_and_comes_finds_everything_announced(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.cloud.show("kept")
        await r.until_shown("kept")
        await r.cloud.stop()
        await asyncio.sleep(0.5)
        r.cloud.texts.clear()
        await r.cloud.start()
        await until(lambda: r.cloud.said("glassbridge_status"), why="announced again")
        assert r.cloud.said("glasses_connection_state")[-1]["status"] == "CONNECTED"
        assert r.cloud.said("glasses_battery_update")
        assert (await r.edge.arm("left"))["connects"] == 1
        await r.cloud.show("new")
        await r.until_shown("new")


@pytest.mark.failure("BLE-08")
async def test_after_kill_9_a_new_daemon_shows_text_within_half_a_minute(tmp_path: Path) -> None:
    async with (
        simulator_process(tmp_path, "--model", "g1") as sim,
        cloud() as upstream,
    ):
        options: dict[str, Any] = {"cloud": upstream.url, "radio": f"bumble:{sim.hci}", "glasses": "g1"}
        first = await spawn(tmp_path, options)
        assert first.stdout is not None
        assert await asyncio.wait_for(first.stdout.readline(), 30)
        await until(
            lambda: any(m["status"] == "CONNECTED" for m in upstream.said("glasses_connection_state"))
        )
        first.send_signal(signal.SIGKILL)
        await first.communicate()
        first._transport.close()  # type: ignore[attr-defined]
        async with edge_process(tmp_path, **options) as edge:
            await edge.until_ready(seconds=30)
            assert (await edge.status())["wearers"][0]["glasses"]["pair"], "the paired glasses are remembered"
            r = Rig(sim, upstream, edge, tmp_path)
            await upstream.show("back")
            await r.until_shown("back")


async def test_one_daemon_serves_two_wearers_with_their_own_glasses(tmp_path: Path) -> None:
    async with (
        simulator_process(tmp_path, "--model", "g1", "--count", "2") as sim,
        cloud() as a,
        cloud() as b,
    ):
        pairs = [device["arms"]["left"]["name"].split("_")[1] for device in sim.ready["devices"]]
        config = tmp_path / "edge.toml"
        config.write_text(
            f'[[wearers]]\nuser = "anna"\ncloud = "{a.url}"\nglasses = "g1:{pairs[0]}"\n'
            f'[[wearers]]\nuser = "ben"\ncloud = "{b.url}"\nglasses = "g1:{pairs[1]}"\n'
        )
        async with edge_process(tmp_path, config, radio=f"bumble:{sim.hci}") as edge:
            await edge.until_ready(0, 60)
            await edge.until_ready(1, 60)
            await a.show("for anna")
            await b.show("for ben")
            r = Rig(sim, a, edge, tmp_path)
            await r.until_shown("for anna", device=0)
            await r.until_shown("for ben", device=1)
            await b.stop()
            await a.show("anna goes on")
            await r.until_shown("anna goes on", device=0)
            await b.start()


@pytest.mark.failure("LIV-02")
async def test_a_path_that_swallows_everything_is_left_within_ten_seconds(tmp_path: Path) -> None:
    async with (
        simulator_process(tmp_path, "--model", "g1") as sim,
        cloud() as upstream,
        FaultProxy("127.0.0.1", upstream.port) as proxy,
        edge_process(
            tmp_path, cloud=f"ws://127.0.0.1:{proxy.port}", radio=f"bumble:{sim.hci}", glasses="g1"
        ) as edge,
    ):
        await edge.until_ready()
        await until(lambda: upstream.said("glasses_connection_state"))
        proxy.hole(up=True, down=True)
        started = time.monotonic()
        while (await edge.status())["wearers"][0]["cloud"]["state"] == "online":
            assert time.monotonic() - started < 20, "10 s, and as much for the busy machine"
            await asyncio.sleep(0.1)
        proxy.heal()
        r = Rig(sim, upstream, edge, tmp_path)
        deadline = time.monotonic() + 20
        while (await edge.status())["wearers"][0]["cloud"]["state"] != "online":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        await upstream.show("captions again")
        await r.until_shown("captions again")
        assert (await edge.arm("left"))["connects"] == 1


@pytest.mark.failure("EDG-04")
async def test_a_stopped_and_continued_daemon_works_again_at_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.edge.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(13)
        r.edge.process.send_signal(signal.SIGCONT)
        woke = time.monotonic()
        await until(lambda: r.cloud.sockets, 20, "a connection to the cloud")
        while True:
            try:
                await r.cloud.show("awake")
                await r.until_shown("awake", seconds=3)
                break
            except (AssertionError, IndexError, ConnectionClosed):
                assert time.monotonic() - woke < 30
        assert (await r.edge.status())["wearers"][0]["counters"]["wakes"] >= 1


async def test_without_any_configuration_the_glasses_in_sight_are_found_and_remembered(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, glasses="") as r:
        assert (await r.edge.status())["wearers"][0]["glasses"]["model"] == "Even Realities G1"
        remembered = (tmp_path / "glasses.json").read_text()
        assert r.sim.ready["devices"][0]["arms"]["left"]["address"] in remembered


@pytest.mark.failure("BLE-11")
async def test_after_many_reconnects_a_tap_is_one_event(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        for _ in range(4):
            connects = (await r.edge.arm("right"))["connects"]
            await r.act("drop", side="right")
            deadline = time.monotonic() + 40
            while (arm := await r.edge.arm("right"))["connects"] <= connects or arm["state"] != "ready":
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
        r.cloud.texts.clear()
        await r.act("tap", side="right")
        await until(lambda: r.cloud.said("touch_event"))
        await asyncio.sleep(0.3)
        assert len(r.cloud.said("touch_event")) == 1


@pytest.mark.failure("BLE-05")
@pytest.mark.parametrize("mtu", [23, 64, 185, 517])
async def test_text_is_byte_exact_at_every_mtu(tmp_path: Path, mtu: int) -> None:
    async with rig(tmp_path) as r:
        await r.act("mtu", value=mtu)
        for side in ("left", "right"):
            await r.act("drop", side=side)
        await asyncio.sleep(0.2)
        await r.edge.until_ready(seconds=40)
        words = "Grüße 你好 0123456789 " * 6
        await r.cloud.show(words)
        deadline = time.monotonic() + 40
        while True:
            shown = [(await r.lens(side)).split() for side in ("left", "right")]
            if shown == [words.split(), words.split()]:
                break
            assert time.monotonic() < deadline, shown
            await asyncio.sleep(0.1)
        assert (await r.edge.arm("left"))["payload"] == min(mtu - 3, 512)


async def test_no_adapter_is_exit_69(tmp_path: Path) -> None:
    process = await spawn(tmp_path, {"radio": f"bumble:unix:{tmp_path}/absent.sock"})
    _, log = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 69
    assert b"adapter" in log
    assert b"Traceback" not in log
    process._transport.close()  # type: ignore[attr-defined]


async def test_a_second_daemon_on_the_same_data_is_exit_78(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        second = await spawn(tmp_path, {"radio": f"bumble:{r.sim.hci}"})
        _, log = await asyncio.wait_for(second.communicate(), 60)
        assert second.returncode == 78
        assert b"Traceback" not in log
        second._transport.close()  # type: ignore[attr-defined]


async def test_a_stopped_daemon_leaves_a_dark_lens_behind(tmp_path: Path) -> None:
    async with simulator_process(tmp_path, "--model", "g1") as sim, cloud() as upstream:
        async with edge_process(
            tmp_path, cloud=upstream.url, radio=f"bumble:{sim.hci}", glasses="g1"
        ) as edge:
            await edge.until_ready()
            r = Rig(sim, upstream, edge, tmp_path)
            await upstream.show("private words")
            await r.until_shown("private words")
        for side in ("left", "right"):
            assert (await r.lens(side)).strip() == ""
