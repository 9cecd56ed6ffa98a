"""Brilliant Frame on the air: real bleak, a real radio stack, a Lua interpreter in the glasses, every program a process."""

from __future__ import annotations

import asyncio
import io
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.edge_process import edge_process, until
from tests.support.rig import bitmap_view, correlation, photo_desk, picture, rig, speech_like

pytestmark = pytest.mark.lane("bumble")


async def test_it_pairs_shows_text_and_pictures_feels_taps_and_looks_up(tmp_path: Path) -> None:
    async with rig(tmp_path, "frame") as r:
        assert (await r.state())["state"]["bonded"]
        await until(lambda: r.cloud.said("glasses_battery_update"))
        assert r.cloud.said("glasses_battery_update")[-1]["level"] == 87

        await r.cloud.show("Grüße from the cloud", displayId="d1")
        await r.until_shown("Grüße from the cloud")
        await until(lambda: r.cloud.said("glassbridge_display_result"))
        assert r.cloud.said("glassbridge_display_result")[0]["outcome"] == "shown"
        assert (await r.screenshot()).any()

        await r.act("double_tap")
        await until(lambda: r.cloud.said("touch_event"), why="taps are counted for 0.3 s")
        assert [m["gesture_name"] for m in r.cloud.said("touch_event")] == ["double_tap"]

        await r.cloud.show("10:30", view="dashboard")
        await r.act("look_up")
        await r.until_shown("10:30")
        await r.act("look_down")
        await r.until_shown("Grüße from the cloud")

        layout = bitmap_view(picture(200, 100))
        await r.cloud.say(type="display_event", packageName="a", view="main", layout=layout, displayId="p1")
        await until(lambda: any(m["displayId"] == "p1" for m in r.cloud.said("glassbridge_display_result")))
        lens = await r.screenshot()
        rows, columns = np.nonzero(lens)
        shown = lens[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert shown.tolist() == np.asarray(Image.open(io.BytesIO(picture(200, 100)))).tolist()


async def test_settings_cards_and_pictures_that_move_travel(tmp_path: Path) -> None:
    async with rig(tmp_path, "frame") as r:
        await r.set(brightness=100, headUpAngle=25)
        await r.until_state(brightness=2)
        await r.set(brightness=0)
        await r.until_state(brightness=-2)
        layout: dict[str, Any] = {"layoutType": "reference_card", "title": "Title", "text": "body"}
        await r.cloud.say(type="display_event", packageName="a", view="main", layout=layout)
        await r.until_shown("Title\nbody")
        frames = [bitmap_view(picture(width, 100))["data"] for width in (100, 200)]
        layout = {"layoutType": "bitmap_animation", "frames": frames, "interval": 500, "repeat": True}
        await r.cloud.say(type="display_event", packageName="a", view="main", layout=layout)

        async def moves() -> bool:
            return bool((await r.lens())["kind"] == "bitmap")

        await r.wait(moves, 60)
        await r.cloud.show("after the pictures")
        await r.until_shown("after the pictures", 60)
        await r.act("battery", value=41)
        await until(lambda: any(m["level"] == 41 for m in r.cloud.said("glasses_battery_update")), 120)


async def test_its_sound_follows_the_source(tmp_path: Path) -> None:
    async with rig(tmp_path, "frame") as r:
        await r.cloud.mic(True)
        await r.until_mic(True)
        source = speech_like()
        heard = await r.hear(source, 3.0)
        # 8 kHz with 8 bits, and straight lines between samples.
        assert correlation(source, heard) > 0.9
        assert all(len(frame) % 320 == 0 for _, frame in r.cloud.audio)
        await r.cloud.mic(False)
        await r.until_mic(False)


@pytest.mark.failure("MED-01")
async def test_a_photo_reaches_the_app_that_asked(tmp_path: Path) -> None:
    async with rig(tmp_path, "frame") as r, photo_desk() as desk:
        await r.cloud.say(
            type="photo_request", sessionId="u", requestId="ph1", appId="com.example", webhookUrl=desk.url, size="small"
        )  # fmt: skip
        await until(lambda: r.cloud.said("photo_response"), 40)
        assert r.cloud.said("photo_response")[0]["success"] is True
        [(request, jpeg)] = desk.photos
        assert request == "ph1"
        assert Image.open(io.BytesIO(jpeg)).size == (256, 256)


async def test_after_a_lost_link_the_program_runs_again_and_shows_the_newest(tmp_path: Path) -> None:
    async with rig(tmp_path, "frame") as r:
        await r.cloud.show("before")
        await r.until_shown("before")
        await r.act("drop", **{"for": 2})
        await r.cloud.show("after")
        await r.until_shown("after", 60)
        assert (await r.edge.arm("whole"))["connects"] >= 2


@pytest.mark.failure("BLE-13")
async def test_a_host_without_the_bond_gives_up_and_says_how_to_unpair(tmp_path: Path) -> None:
    async with rig(tmp_path, "frame", "--hci", f"unix-server:{tmp_path}/second.sock") as r:
        r.edge.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(r.edge.process.wait(), 15)
        # A new process has new keys: to the glasses it is another host, and they keep one bond.
        async with edge_process(
            tmp_path, cloud=r.cloud.url, radio=f"bumble:{r.sim.hci}", token="tok", glasses="frame"
        ) as stranger:

            async def gave_up() -> bool:
                return str((await stranger.arm("whole"))["state"]) == "given_up"

            await r.wait(gave_up, 60)
            assert (await stranger.arm("whole"))["reason"] == "not_paired"
