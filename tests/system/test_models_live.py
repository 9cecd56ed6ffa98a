"""Mentra Live on the air: real bleak, a real radio stack, every program a process; a photo from the app to the app."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.support.edge_process import until
from tests.support.rig import correlation, photo_desk, rig, speech_like

pytestmark = pytest.mark.lane("bumble")


async def test_buttons_touches_and_the_battery_reach_the_cloud(tmp_path: Path) -> None:
    async with rig(tmp_path, "live") as r:
        await until(lambda: r.cloud.said("glasses_battery_update"))
        assert r.cloud.said("glasses_battery_update")[-1]["level"] == 85
        assert r.cloud.said("glasses_battery_update")[-1]["charging"] is False

        await r.act("press")
        await until(lambda: r.cloud.said("button_press"))
        press = r.cloud.said("button_press")[0]
        assert (press["buttonId"], press["pressType"]) == ("camera", "short")

        await r.act("double_tap")
        await until(lambda: r.cloud.said("touch_event"))
        assert r.cloud.said("touch_event")[0]["gesture_name"] == "double_tap"

        await r.act("battery", value=41)
        await until(lambda: any(m["level"] == 41 for m in r.cloud.said("glasses_battery_update")))

        # It has no display: who asks is told so, and nothing breaks.
        await r.cloud.show("nobody can read this", displayId="d1")
        await until(lambda: r.cloud.said("glassbridge_display_result"))
        assert r.cloud.said("glassbridge_display_result")[0]["outcome"] == "failed"
        assert "no display" in r.cloud.said("glassbridge_display_result")[0]["reason"]


@pytest.mark.failure("AUD-03")
async def test_its_sound_follows_the_source_through_lc3(tmp_path: Path) -> None:
    async with rig(tmp_path, "live") as r:
        await r.cloud.mic(True)
        await r.until_mic(True)
        source = speech_like()
        heard = await r.hear(source, 3.0)
        assert correlation(source, heard) > 0.9  # LC3 at 32 kbit/s
        assert (await r.edge.status())["wearers"][0]["glasses"]["counters"]["audio_lost"] == 0
        await r.cloud.mic(False)
        await r.until_mic(False)


@pytest.mark.failure("MED-01")
async def test_a_photo_reaches_the_app_that_asked(tmp_path: Path) -> None:
    async with rig(tmp_path, "live") as r, photo_desk() as desk:
        await r.cloud.say(
            type="photo_request", sessionId="u", requestId="ph1", appId="com.example", webhookUrl=desk.url, size="small"
        )  # fmt: skip
        await until(lambda: r.cloud.said("photo_response"), 40)
        assert r.cloud.said("photo_response")[0]["success"] is True
        [(request, jpeg)] = desk.photos
        assert request == "ph1"
        Image.open(io.BytesIO(jpeg)).verify()


async def test_after_a_lost_link_it_is_ready_again(tmp_path: Path) -> None:
    async with rig(tmp_path, "live") as r:
        await r.act("drop", **{"for": 2})

        async def back() -> bool:
            return bool((await r.edge.arm("whole"))["connects"] >= 2 and await r.edge.state() == "ready")

        await r.wait(back, 60)
        await r.act("press")
        await until(lambda: r.cloud.said("button_press"))


async def test_what_it_lacks_or_the_edge_cannot_carry_is_refused_with_a_sentence(tmp_path: Path) -> None:
    async with rig(tmp_path, "live") as r:
        await r.cloud.say(
            type="rgb_led_control", sessionId="u", requestId="l1", appId="a", packageName="a", action="on"
        )
        await until(lambda: r.cloud.said("rgb_led_control_response"))
        assert r.cloud.said("rgb_led_control_response")[0]["success"] is False
        await r.cloud.say(
            type="audio_play_request",
            sessionId="u",
            requestId="a1",
            appId="a",
            packageName="a",
            audioUrl="http://x/a.mp3",
        )
        await until(lambda: r.cloud.said("audio_play_response"))
        assert r.cloud.said("audio_play_response")[0]["success"] is False
        await r.cloud.say(
            type="start_rtmp_stream", sessionId="u", streamId="s1", rtmpUrl="rtmp://x/y", appId="a"
        )
        await until(lambda: r.cloud.said("rtmp_stream_status"))
        assert r.cloud.said("rtmp_stream_status")[0]["status"] == "error"
        for gesture in ("long_press", "triple_tap"):
            await r.act(gesture)
        await r.act("swipe", value="forward")
        await until(lambda: len(r.cloud.said("touch_event")) == 3)
        assert [m["gesture_name"] for m in r.cloud.said("touch_event")] == [
            "long_press", "triple_tap", "forward_swipe"
        ]  # fmt: skip
        await r.act("charge", value=True)
        await until(lambda: r.cloud.said("glasses_battery_update")[-1]["charging"] is True, 90)
