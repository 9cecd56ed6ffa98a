"""Bridge: views, events, settings and requests between glasses and cloud."""

from __future__ import annotations

import base64
import io
import itertools

import pytest
from PIL import Image

from edge.core.glasses import Note
from edge.profiles.base import Arm
from tests.edge.world import World
from tests.support.air import Air

L, R = Arm.LEFT, Arm.RIGHT


def ready() -> World:
    world = World().start()
    world.run(5)
    world.sent.clear()
    return world


def results(world: World) -> list[tuple[str, str]]:
    return [(m["displayId"], m["outcome"]) for m in world.said("glassbridge_display_result")]


def picture(fill: int = 1) -> str:
    out = io.BytesIO()
    Image.new("1", (576, 135), fill).save(out, "BMP")
    return base64.b64encode(out.getvalue()).decode()


def test_every_display_with_an_id_is_told_its_outcome_once() -> None:
    world = ready()
    for n in range(5):
        world.show(f"text {n}", displayId=f"d{n}")
    world.run(2)
    got = dict(results(world))
    assert len(results(world)) == 5
    assert got["d0"] == "shown"
    assert got["d4"] == "shown"
    assert set(got.values()) == {"shown", "replaced"}
    last = next(m for m in world.said("glassbridge_display_result") if m["displayId"] == "d4")
    assert last["bleMs"] > 0
    world.drop(L)
    world.run(5)
    assert len(results(world)) == 5, "shown again after a reconnect, but told once"


@pytest.mark.failure("DSP-08")
def test_without_glasses_a_display_is_told_to_have_failed_and_is_shown_when_they_come() -> None:
    world = ready()
    world.drop(L, gone=True)
    world.drop(R, gone=True)
    world.show("later", displayId="d1")
    assert results(world) == [("d1", "failed")]
    for fake in world.arms.values():
        fake.advertising = True
    world.run(5)
    assert world.arms[L].shows == world.arms[R].shows == "later"


@pytest.mark.failure("DSP-09")
def test_a_bad_layout_is_answered_and_the_screen_stays() -> None:
    world = ready()
    world.show("good")
    world.run(1)
    world.say(
        type="display_event", packageName="a", view="main", layout={"layoutType": "nope"}, displayId="d9"
    )
    world.run(1)
    assert results(world) == [("d9", "failed")]
    assert world.arms[L].shows == "good"


def test_the_dashboard_shows_while_the_head_is_up_and_main_returns() -> None:
    world = ready()
    world.show("main text")
    world.show("10:30  87 %", view="dashboard")
    world.run(1)
    assert world.arms[L].shows == "main text"
    world.event(R, "f502")
    world.run(1)
    assert world.arms[L].shows == world.arms[R].shows == "10:30  87 %"
    world.show("10:31  87 %", view="dashboard")
    world.show("new main")
    world.run(1)
    assert world.arms[L].shows == "10:31  87 %"
    world.event(R, "f503")
    world.run(1)
    assert world.arms[L].shows == world.arms[R].shows == "new main"
    assert [m["position"] for m in world.said("head_position")] == ["up", "down"]


def test_an_empty_dashboard_does_not_cover_the_main_view() -> None:
    world = ready()
    world.show("main text")
    world.show("  ", view="dashboard")
    world.event(R, "f502")
    world.run(1)
    assert world.arms[L].shows == "main text"


def test_clearing_blanks_the_lens() -> None:
    world = ready()
    world.show("x")
    world.run(1)
    world.say(type="display_event", packageName="a", view="main", layout={"layoutType": "clear_view"})
    world.run(1)
    assert world.arms[L].shows == world.arms[R].shows == " "


def test_every_layout_reaches_the_lens() -> None:
    world = ready()
    for layout, words in (
        ({"layoutType": "double_text_wall", "topText": "left", "bottomText": "right"}, ["left", "right"]),
        ({"layoutType": "reference_card", "title": "Title", "text": "body"}, ["Title", "body"]),
        ({"layoutType": "dashboard_card", "leftText": "12:30", "rightText": "sunny"}, ["12:30", "sunny"]),
    ):
        world.say(type="display_event", packageName="a", view="main", layout=layout)
        world.run(1)
        assert (world.arms[R].shows or "").split() == words


def test_a_picture_goes_out_with_its_checksum() -> None:
    world = ready()
    world.say(
        type="display_event", packageName="a", view="main", layout={"layoutType": "bitmap_view", "data": picture()},
        displayId="p",
    )  # fmt: skip
    world.run(3)
    for fake in world.arms.values():
        data = [raw for _, raw in fake.heard if raw[0] == 0x15]
        assert len(data) == 51
    assert results(world) == [("p", "shown")]


def test_an_animation_runs_through_its_frames_and_stops_when_replaced() -> None:
    world = ready()
    layout = {
        "layoutType": "bitmap_animation",
        "frames": [picture(0), picture(1)],
        "interval": 2000,
        "repeat": True,
    }
    world.say(type="display_event", packageName="a", view="main", layout=layout)
    world.run(9)
    shows = [raw for _, raw in world.arms[L].heard if raw[0] == 0x16]
    assert len(shows) >= 4
    assert len(set(shows)) == 2
    world.show("done")
    world.run(10)
    assert world.arms[L].shows == "done"
    assert len([raw for _, raw in world.arms[L].heard if raw[0] == 0x16]) <= len(shows) + 1


def pictures_at(world: World) -> list[float]:
    return [at for at, raw in world.arms[L].heard if raw[0] == 0x16]


@pytest.mark.failure("DSP-01")
@pytest.mark.parametrize("interval", [50, 300, 1000])
def test_an_animation_leaves_some_of_the_link_free_and_keeps_moving(interval: int) -> None:
    world = ready()
    frames = [picture(0), picture(1), picture(0), picture(1), picture(0)]
    layout = {"layoutType": "bitmap_animation", "frames": frames, "interval": interval, "repeat": True}
    world.say(type="display_event", packageName="a", view="main", layout=layout)
    world.run(30)
    heard = [each for fake in world.arms.values() for each in fake.heard]
    data = sorted(at for at, raw in heard if raw[0] in (0x15, 0x20, 0x16))
    gaps = [after - before for before, after in itertools.pairwise(data)]
    resting = sum(gap for gap in gaps if gap > 0.1)
    assert resting > 0.15 * 30, "the link is not kept busy"
    assert len(pictures_at(world)) >= 8, "and it moves"
    asked = world.now
    world.show("a caption in between")
    world.run(3)
    assert world.arms[L].shows == "a caption in between"
    assert world.arms[L].pages[-1][0] - asked < 1.6, "one picture's time at most"


def test_an_animation_that_does_not_repeat_ends_with_its_last_frame_however_slow_the_link() -> None:
    world = ready()
    frames = [picture(0), picture(1), picture(0), picture(1)]
    layout = {"layoutType": "bitmap_animation", "frames": frames, "interval": 200, "repeat": False}
    world.say(type="display_event", packageName="a", view="main", layout=layout)
    world.run(20)
    count = len(pictures_at(world))
    assert 2 <= count <= 4
    last = [raw for _, raw in world.arms[L].heard if raw[0] == 0x16][-1]
    world.run(20)
    assert len(pictures_at(world)) == count
    world.say(
        type="display_event",
        packageName="a",
        view="main",
        layout={"layoutType": "bitmap_view", "data": picture(1)},
    )
    world.run(3)
    assert [raw for _, raw in world.arms[L].heard if raw[0] == 0x16][-1] == last, "it was the last frame"


def test_an_animation_waits_while_the_glasses_are_away_and_goes_on_after() -> None:
    world = ready()
    layout = {
        "layoutType": "bitmap_animation",
        "frames": [picture(0), picture(1)],
        "interval": 500,
        "repeat": True,
    }
    world.say(type="display_event", packageName="a", view="main", layout=layout)
    world.run(5)
    for arm in world.arms:
        world.drop(arm, gone=True)
    world.run(30)
    for fake in world.arms.values():
        fake.advertising = True
    before = len(pictures_at(world))
    world.run(40)
    assert len(pictures_at(world)) > before + 4


def test_a_picture_that_cannot_be_read_is_told_to_the_developer() -> None:
    world = ready()
    world.say(
        type="display_event", packageName="a", view="main", layout={"layoutType": "bitmap_view", "data": "%%%"},
        displayId="p",
    )  # fmt: skip
    world.run(1)
    (told,) = world.said("glassbridge_display_result")
    assert told["outcome"] == "failed"
    assert "base64" in told["reason"]


def test_glyphs_that_the_lens_lacks_are_told() -> None:
    world = ready()
    world.show("nice 👍")
    world.run(1)
    assert any(n.note is Note.WARNING and "U+1F44D" in n.detail for n in world.notices)


def test_a_display_with_a_duration_ends_without_the_cloud() -> None:
    world = ready()
    world.show("for a moment", durationMs=20_000)
    world.run(1)
    world.cloud_up = False
    world.close()
    world.run(25)
    world.cloud_up = True
    world.run(40)
    assert world.arms[L].shows == " "


@pytest.mark.parametrize(
    ("raw", "gesture", "button"),
    [("f501", "single_tap", "short"), ("f520", "double_tap", None), ("f500", "double_tap", None),
     ("f517", "long_press", "long"), ("f512", "long_press", "long"), ("f504", "triple_tap", None)],
)  # fmt: skip
def test_gestures_reach_the_cloud_and_taps_reach_apps_that_only_know_buttons(
    raw: str, gesture: str, button: str | None
) -> None:
    world = ready()
    world.event(L, raw)
    (touch,) = world.said("touch_event")
    assert touch["gesture_name"] == gesture
    assert touch["device_model"] == "Even Realities G1"
    presses = [(m["buttonId"], m["pressType"]) for m in world.said("button_press")]
    assert presses == ([("left", button)] if button else [])


def test_settings_of_both_client_generations_reach_the_glasses() -> None:
    world = ready()
    for settings in (
        {
            "brightness": 100,
            "autoBrightness": False,
            "headUpAngle": 30,
            "dashboard_height": 4,
            "dashboard_depth": 2,
        },
        {"brightness": 100, "auto_brightness": False, "head_up_angle": 30},
    ):
        before = {arm: len(fake.heard) for arm, fake in world.arms.items()}
        world.say(type="settings_update", sessionId="u", settings=settings)
        world.run(2)
        for arm, fake in world.arms.items():
            got = [raw for _, raw in fake.heard[before[arm] :]]
            assert bytes((0x01, 41, 0)) in got
            assert bytes((0x0B, 30, 1)) in got


@pytest.mark.parametrize(
    "settings", [{"brightness": "x"}, {"brightness": float("1e300")}, {"headUpAngle": None}, {}]
)
def test_settings_that_make_no_sense_change_nothing(settings: dict[str, object]) -> None:
    world = ready()
    before = len(world.arms[L].heard)
    world.say(type="settings_update", sessionId="u", settings=settings)
    world.run(1)
    assert not [raw for _, raw in world.arms[L].heard[before:] if raw[0] in (0x01, 0x0B)]


@pytest.mark.failure("MED-01")
def test_what_the_glasses_lack_is_refused_with_a_reason() -> None:
    world = ready()
    world.say(type="photo_request", sessionId="u", requestId="p1", appId="a", webhookUrl="http://x/photo")
    world.say(
        type="rgb_led_control",
        sessionId="u",
        requestId="l1",
        appId="a",
        packageName="a",
        action="on",
        color="red",
    )
    world.say(
        type="audio_play_request",
        sessionId="u",
        requestId="s1",
        appId="a",
        packageName="a",
        audioUrl="http://x/a.mp3",
    )
    world.say(type="start_rtmp_stream", sessionId="u", rtmpUrl="rtmp://x", appId="a", streamId="v1")
    world.run(1)
    (photo,) = world.said("photo_response")
    assert photo["requestId"] == "p1"
    assert photo["success"] is False
    assert photo["error"]["code"] == "UNSUPPORTED"
    assert world.said("rgb_led_control_response")[0]["success"] is False
    assert world.said("audio_play_response")[0]["success"] is False
    assert world.said("rtmp_stream_status")[0]["status"] == "error"


def test_the_status_names_each_arm_and_why() -> None:
    world = ready()
    world.drop(L, gone=True)
    world.run(2)
    status = world.said("glassbridge_status")[-1]
    assert status["arms"]["left"]["reason"] == "link_lost"
    assert status["arms"]["right"]["state"] == "ready"
    assert status["microphone"] == "off"


def test_the_status_names_whose_display_the_edge_holds() -> None:
    """For a cloud that was restarted and does not know."""
    world = ready()

    def status() -> str | None:
        world.drop(L)
        world.run(3)
        shown: str | None = world.said("glassbridge_status")[-1].get("shownPackage")
        return shown

    assert status() is None
    wall = {"layoutType": "text_wall", "text": "hello"}
    world.say(type="display_event", packageName="com.a", view="main", layout=wall, displayId="1")
    assert status() == "com.a"
    world.say(
        type="display_event", packageName="com.a", view="main", layout={**wall, "text": ""}, displayId="2"
    )
    assert status() is None


def test_battery_in_every_message_is_the_weaker_arm() -> None:
    world = ready()
    world.event(L, "2c6614")
    world.event(R, "f50901")
    got = world.said("glasses_battery_update")
    assert [m["level"] for m in got] == [20, 20]
    assert got[-1]["charging"] is True


def test_the_clock_of_the_glasses_is_set_on_both_arms_left_first() -> None:
    world = World().start()
    world.run(5)
    at = {arm: next(t for t, raw in fake.heard if raw[0] == 0x06) for arm, fake in world.arms.items()}
    assert at[L] < at[R]


def test_a_notification_of_this_host_goes_to_the_cloud_and_to_the_left_arm_alone() -> None:
    world = ready()
    assert world.node.bridge.shows_notifications
    for _ in range(2):
        world.do(world.node.notify("org.example", "Mail", "Ben", "lunch?", world.now))
        world.run(2)
    told = world.said("phone_notification")
    assert [(m["app"], m["title"], m["content"]) for m in told] == [("Mail", "Ben", "lunch?")] * 2
    assert len({m["notificationId"] for m in told}) == 2
    heard = {
        arm: [data for _, data in fake.heard if data[0] in (0x04, 0x4B)] for arm, fake in world.arms.items()
    }
    assert heard[Arm.RIGHT] == []
    assert {data[0] for data in heard[Arm.LEFT]} == {0x04, 0x4B}


@pytest.mark.parametrize("model", ["nex", "frame", "live"])
def test_a_model_without_a_style_of_its_own_leaves_notifications_to_apps(model: str) -> None:
    air = Air(model).start()
    air.until_ready()
    assert not air.node.bridge.shows_notifications
    air.feed(air.node.notify("org.example", "Mail", "Ben", "lunch?", air.now))
    air.run(1.0)
    assert len(air.told("phone_notification")) == 1


def test_silent_mode_is_a_setting() -> None:
    world = ready()
    world.say(type="settings_update", success=True, settings={"silentMode": True})
    world.run(1)
    for fake in world.arms.values():
        assert any(data[:2] == b"\x03\x0c" for _, data in fake.heard)
