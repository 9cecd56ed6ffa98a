"""Mentra Nex on the air: real bleak, a real radio stack, every program a process."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.edge_process import until
from tests.support.rig import bitmap_view, correlation, photo_desk, picture, rig, speech_like

pytestmark = pytest.mark.lane("bumble")


async def test_text_pictures_and_buttons_travel(tmp_path: Path) -> None:
    async with rig(tmp_path, "nex") as r:
        await until(lambda: r.cloud.said("glasses_battery_update"))
        await r.cloud.show("Grüße from the cloud", displayId="d1")
        await r.until_shown("Grüße from the\ncloud")
        await until(lambda: r.cloud.said("glassbridge_display_result"))
        assert r.cloud.said("glassbridge_display_result")[0]["outcome"] == "shown"

        layout = bitmap_view(picture(500, 220))
        await r.cloud.say(type="display_event", packageName="a", view="main", layout=layout, displayId="p1")
        await until(
            lambda: any(m["displayId"] == "p1" for m in r.cloud.said("glassbridge_display_result")), 60
        )
        lens = await r.screenshot()
        rows, columns = np.nonzero(lens)
        shown = lens[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert shown.tolist() == np.asarray(Image.open(io.BytesIO(picture(500, 220)))).tolist()

        await r.cloud.show("short")
        await r.until_shown("short")
        assert int((await r.screenshot()).sum()) < int(lens.sum()), "nothing of the picture is left"

        await r.act("press")
        await until(lambda: r.cloud.said("button_press"))


@pytest.mark.failure("MED-03")
async def test_a_picture_that_loses_chunks_in_the_glasses_is_completed(tmp_path: Path) -> None:
    async with rig(tmp_path, "nex") as r:
        layout = bitmap_view(picture(500, 220))
        ignore = ["b0000103"]  # chunk 3 of the first picture, however often it is sent
        await r.act("faults", faults={"ignore": ignore, "duplicate": 0.3})
        await r.cloud.say(type="display_event", packageName="a", view="main", layout=layout, displayId="p1")

        async def shown() -> bool:
            return bool((await r.lens())["kind"] == "bitmap")

        # Refused after three rounds of missing chunks; then the whole picture goes out again, with another number.
        await r.wait(shown, 60)


async def test_its_sound_follows_the_source_through_lc3(tmp_path: Path) -> None:
    async with rig(tmp_path, "nex") as r:
        await r.cloud.mic(True)
        await r.until_mic(True)
        source = speech_like()
        heard = await r.hear(source, 3.0)
        assert correlation(source, heard) > 0.9
        await r.cloud.mic(False)
        await r.until_mic(False)


async def test_after_a_lost_link_it_shows_the_newest(tmp_path: Path) -> None:
    async with rig(tmp_path, "nex") as r:
        await r.cloud.show("before")
        await r.until_shown("before")
        await r.act("drop", **{"for": 2})
        await r.cloud.show("after")
        await r.until_shown("after", 60)


async def test_settings_head_and_cards_travel(tmp_path: Path) -> None:
    async with rig(tmp_path, "nex") as r:
        await r.set(brightness=40, autoBrightness=False, headUpAngle=25, dashboardHeight=6, dashboardDepth=3)
        await r.until_state(brightness=40, auto_brightness=False, head_up_angle=25, position=[6, 3])
        layout: dict[str, Any] = {"layoutType": "double_text_wall", "topText": "here", "bottomText": "there"}
        await r.cloud.say(type="display_event", packageName="a", view="main", layout=layout)

        async def columns() -> bool:
            text = (await r.lens())["text"] or ""
            return text.startswith("here") and text.endswith("there")

        await r.wait(columns)
        await r.cloud.show("10:30", view="dashboard")
        await r.act("look_up")
        await r.until_shown("10:30")
        await r.act("look_down")
        await r.wait(columns)
        assert [m["position"] for m in r.cloud.said("head_position")][-2:] == ["up", "down"]
        frames = [bitmap_view(picture(width, 100))["data"] for width in (100, 200)]
        layout = {"layoutType": "bitmap_animation", "frames": frames, "interval": 500, "repeat": True}
        await r.cloud.say(type="display_event", packageName="a", view="main", layout=layout)

        async def moves() -> bool:
            return bool((await r.lens())["kind"] == "bitmap")

        await r.wait(moves, 60)
        await r.cloud.show("after the pictures")
        await r.until_shown("after the pictures", 60)


async def test_what_it_lacks_is_refused_with_a_sentence(tmp_path: Path) -> None:
    async with rig(tmp_path, "nex") as r, photo_desk() as desk:
        await r.cloud.say(
            type="photo_request", sessionId="u", requestId="ph1", appId="com.example", webhookUrl=desk.url
        )
        await until(lambda: r.cloud.said("photo_response"))
        assert r.cloud.said("photo_response")[0]["success"] is False
        assert "TakePhoto" in r.cloud.said("photo_response")[0]["errorMessage"]
        await r.cloud.say(
            type="rgb_led_control", sessionId="u", requestId="l1", appId="a", packageName="a", action="on"
        )
        await until(lambda: r.cloud.said("rgb_led_control_response"))
        assert r.cloud.said("rgb_led_control_response")[0]["success"] is False
