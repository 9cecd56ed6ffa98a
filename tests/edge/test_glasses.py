"""Glasses: both arms at the same newest text, the microphone by its effect, only the lost arm reconnected."""

from __future__ import annotations

import base64
import io
import itertools
import random

import pytest
from PIL import Image

from edge.core.glasses import GlassesState, Note, Target
from edge.core.writer import Outcome
from edge.profiles.base import Advert, Arm, Brightness, Microphone, Picture, Show, TextWall
from firmware_sim.firmware.base import Action
from tests.edge.world import World
from tests.support.air import Air
from wire.errors import GlassesFault

L, R = Arm.LEFT, Arm.RIGHT


def ready(target: Target | None = None) -> World:
    world = World(target=target).start()
    world.run(5)
    assert world.node.glasses.state.value == "ready"
    return world


def one_bit_bmp() -> str:
    out = io.BytesIO()
    Image.new("1", (576, 136), 1).save(out, "BMP")
    return base64.b64encode(out.getvalue()).decode()


def want(world: World, text: str) -> None:
    world.do(world.node._glasses(world.node.glasses.want(Show(TextWall(text)), world.now), world.now))


def shows(world: World) -> tuple[str | None, str | None]:
    return world.arms[L].shows, world.arms[R].shows


# ---------------------------------------------------------------------------------------------------- discovery


@pytest.mark.failure("BLE-15")
def test_arms_of_two_pairs_are_never_combined() -> None:
    for seed in range(20):
        world = World()
        adverts = [
            Advert(f"P{pair}{side}", f"Even G1_{pair}_{side}_00000{pair}", -50)
            for pair in (3, 4)
            for side in "LR"
        ]
        random.Random(seed).shuffle(adverts)
        world.arms[L].advertising = world.arms[R].advertising = False
        world.strangers = adverts
        world.start().run(5)
        assert world.node.glasses.state.value == "absent"
        assert [n.note for n in world.notices].count(Note.AMBIGUOUS) == 1
        assert not world.remembered


@pytest.mark.failure("BLE-15")
def test_a_chosen_pair_is_taken_although_another_is_in_sight() -> None:
    world = World(target=Target("7"))
    world.strangers = [Advert("X", "Even G1_9_L_000009", -20), Advert("Y", "Even G1_9_R_000009", -20)]
    world.start().run(5)
    assert world.node.glasses.state.value == "ready"
    assert world.remembered[0].addresses == {L: "AA:L", R: "AA:R"}


def test_two_pairs_that_share_a_channel_are_not_guessed() -> None:
    world = World()
    world.strangers = [Advert("X", "Even G1_7_L_000009", -20)]
    world.start().run(5)
    assert Note.AMBIGUOUS in [n.note for n in world.notices]
    assert not world.remembered


def test_paired_addresses_win_over_names() -> None:
    world = World(target=Target("7", {L: "AA:L", R: "AA:R"}))
    world.strangers = [Advert("X", "Even G1_7_L_000009", -20), Advert("Y", "Even G1_7_R_000009", -20)]
    world.start().run(5)
    assert world.node.glasses.state.value == "ready"
    assert not world.remembered


@pytest.mark.failure("BLE-15")
def test_unseen_glasses_are_told_with_a_reason_and_looked_for_on_and_on() -> None:
    world = World()
    world.arms[L].advertising = world.arms[R].advertising = False
    world.start().run(35)
    (told,) = [n for n in world.notices if n.note is Note.NOT_SEEN]
    assert "another phone" in told.detail
    world.run(600)
    world.arms[L].advertising = world.arms[R].advertising = True
    world.scanning = True
    world.do(world._advertise())
    world.run(5)
    assert world.node.glasses.state.value == "ready"


def test_one_arm_alone_is_used_after_half_a_minute_and_joined_by_the_other() -> None:
    world = World()
    world.arms[R].advertising = False
    world.start().run(20)
    assert world.node.status(world.now)["glasses"]["state"] == "absent"
    world.run(15)
    assert world.node.status(world.now)["glasses"]["state"] == "partial"
    world.arms[R].advertising = True
    world.run(5)
    assert world.node.status(world.now)["glasses"]["state"] == "ready"
    assert world.remembered[-1].addresses == {L: "AA:L", R: "AA:R"}


# ------------------------------------------------------------------------------------------------------- display


@pytest.mark.failure("BLE-02")
def test_both_arms_converge_on_the_newest_text_whatever_is_lost() -> None:
    """Every answer to every packet of a text of several packets is lost once, on each arm."""
    long = "word " * 42
    for arm in (L, R):
        for lost in range(1, 4):
            world = ready()
            world.arms[arm].unanswered[0x4E] = lost
            want(world, long)
            world.run(8)
            left, right = shows(world)
            assert left == right
            assert left is not None
            assert left.replace("\n", " ").split() == long.split()


@pytest.mark.failure("BLE-02")
def test_a_drop_at_any_moment_of_a_text_ends_with_the_same_newest_text_on_both_arms() -> None:
    for arm in (L, R):
        for step in range(14):
            world = ready()
            want(world, "word " * 42)
            world.run(0.01 * step)
            world.drop(arm)
            want(world, f"newest {step}")
            world.run(12)
            assert shows(world) == (f"newest {step}", f"newest {step}")


@pytest.mark.failure("BLE-02")
def test_a_drop_at_any_moment_of_a_picture_ends_with_the_whole_picture_on_both_arms() -> None:
    picture = Picture(one_bit_bmp())
    for arm in (L, R):
        for step in range(0, 60, 4):
            world = ready()
            world.do(world.node._glasses(world.node.glasses.want(Show(picture), world.now), world.now))
            world.run(0.03 * step)
            world.drop(arm)
            for fake in world.arms.values():
                fake.heard.clear()
            world.run(12)
            assert (
                world.node.glasses.shown_on(L)
                == world.node.glasses.shown_on(R)
                == world.node.glasses.display_version
            )
            again = [raw for _, raw in world.arms[arm].heard if raw[0] == 0x15]
            assert len(again) == 51, "the arm that was lost gets it from the first packet"


@pytest.mark.failure("BLE-02")
def test_losing_one_arm_leaves_the_other_alone() -> None:
    world = ready()
    world.drop(R, gone=True)
    for n in range(8):
        want(world, f"text {n}")
        world.run(0.25)
    assert world.arms[L].shows == "text 7"
    assert len({text for _, text in world.arms[L].pages}) == 8, "the left arm got every update meanwhile"
    assert world.node.glasses.arms[L].connects == 1
    assert world.node.glasses.state.value == "partial"
    world.arms[R].advertising = True
    world.run(10)
    assert world.arms[R].shows == "text 7"
    assert len(world.arms[R].pages) == 1, "the arm that comes late gets the newest, not the history"
    assert world.node.glasses.arms[L].connects == 1
    assert world.node.glasses.arms[R].connects == 2


@pytest.mark.failure("DSP-01")
def test_after_a_stall_the_newest_text_comes_first_and_nothing_old_is_sent() -> None:
    world = ready()
    for fake in world.arms.values():
        fake.unanswered[0x4E] = 10_000  # everything else is answered: the link lives
    sent = {}
    for n in range(200):
        sent[f"caption {n}"] = world.now
        want(world, f"caption {n}")
        world.run(0.1)
    for fake in world.arms.values():
        fake.unanswered.clear()
    resumed = world.now
    world.run(3)
    assert shows(world) == ("caption 199", "caption 199")
    for fake in world.arms.values():
        for at, raw in fake.heard:
            if raw[0] == 0x4E:
                text = raw[9:].decode().strip("\n")
                assert at - sent[text] <= 1.0, "no text older than a second goes on the air"
        assert fake.pages[0][0] - resumed <= 2.5


def test_the_right_arm_never_runs_ahead_of_the_left() -> None:
    world = ready()
    for n in range(30):
        want(world, f"caption {n}")
        world.run(0.05)
    world.run(1)
    lefts = [text for _, text in world.arms[L].pages]
    rights = [text for _, text in world.arms[R].pages]
    assert lefts == rights, "each version that the left arm got, the right arm got too"


@pytest.mark.failure("BLE-01")
def test_a_deaf_arm_is_noticed_within_twenty_seconds_and_shows_the_text_again() -> None:
    world = ready()
    want(world, "before")
    world.run(1)
    world.arms[L].deaf = True
    went_deaf = world.now
    world.run(20)
    lost = [n for n in world.notices if n.note is Note.ARM_LOST]
    assert lost, "noticed"
    world.arms[L].deaf = False
    world.arms[L].pages.clear()
    want(world, "after")
    world.run(45)
    assert shows(world) == ("after", "after")
    assert world.now - went_deaf < 70


@pytest.mark.failure("BLE-01")
def test_an_arm_that_hears_but_is_not_heard_is_reset_too() -> None:
    world = ready()
    world.arms[R].mute = True
    world.run(20)
    assert {n.about for n in world.notices if n.note is Note.ARM_LOST} == {"right"}
    assert world.node.glasses.arms[L].connects == 1


@pytest.mark.failure("BLE-03")
def test_a_text_that_one_arm_refuses_still_reaches_the_other_and_is_told() -> None:
    world = ready()
    world.arms[L].refuse.add(0x4E)
    want(world, "hello")
    world.run(5)
    assert world.arms[R].shows == "hello"
    assert [n.note for n in world.notices].count(Note.DISPLAY_REFUSED) == 1
    world.arms[L].refuse.clear()
    want(world, "again")
    world.run(1)
    assert shows(world) == ("again", "again")


@pytest.mark.failure("BLE-04")
def test_heartbeats_keep_their_time_under_continuous_pictures() -> None:
    picture = one_bit_bmp()
    world = ready()
    for _ in range(60):
        world.do(world.node._glasses(world.node.glasses.want(Show(Picture(picture)), world.now), world.now))
        world.run(1)
    for fake in world.arms.values():
        beats = [at for at, raw in fake.heard if raw[0] == 0x25]
        assert len(beats) >= 7
        assert all(b - a <= 9.0 for a, b in itertools.pairwise(beats))
    assert [n.note for n in world.notices].count(Note.ARM_LOST) == 0


def test_long_text_turns_its_pages_by_itself_and_stops_at_the_last() -> None:
    world = ready()
    want(world, "\n".join(f"line {n}" for n in range(12)))
    world.run(30)
    firsts = [text.strip("\n").split("\n")[0] for _, text in world.arms[L].pages]
    assert firsts == ["line 0", "line 5", "line 10"]


def test_settings_are_brought_back_to_the_arm_that_reconnects() -> None:
    world = ready()
    world.do(world.node._glasses(world.node.glasses.want(Brightness(100), world.now), world.now))
    world.run(1)
    count = {arm: sum(raw[0] == 0x01 for _, raw in fake.heard) for arm, fake in world.arms.items()}
    assert count == {L: 1, R: 1}
    world.drop(L)
    world.run(6)
    count = {arm: sum(raw[0] == 0x01 for _, raw in fake.heard) for arm, fake in world.arms.items()}
    assert count == {L: 2, R: 1}


def test_in_the_closed_case_the_screen_rests_and_comes_back_outside() -> None:
    world = ready()
    world.event(L, "f50b")
    world.event(R, "f50b")
    assert world.node.glasses.state.value == "asleep"
    want(world, "nobody looks")
    world.run(3)
    assert world.arms[L].pages == []
    world.event(L, "f506")
    world.event(R, "f506")
    world.run(2)
    assert shows(world) == ("nobody looks", "nobody looks")


def test_a_link_too_small_for_sound_and_pictures_is_told() -> None:
    world = World()
    world.arms[L].payload = 20
    world.start().run(5)
    (told,) = [n for n in world.notices if n.note is Note.WARNING]
    assert told.about == "left"
    assert "205" in told.detail


def test_what_the_model_cannot_show_is_told_once() -> None:
    world = ready()
    world.do(world.node._glasses(world.node.glasses.want(Show(Picture("%%%")), world.now), world.now))
    world.run(1)
    assert any(n.note is Note.UNSUPPORTED and "base64" in n.detail for n in world.notices)


# ---------------------------------------------------------------------------------------------------- microphone


def mic(world: World, on: bool) -> None:
    world.do(world.node._glasses(world.node.glasses.want(Microphone(on), world.now), world.now))


def stream(world: World, seconds: float) -> None:
    """Sound as long as the fake's microphone is on: one packet each 100 ms."""
    for n in range(round(seconds * 10)):
        if world.arms[R].mic and world.arms[R].conn is not None:
            world.audio_packet(n % 256)
        world.run(0.1)


@pytest.mark.failure("MIC-04")
@pytest.mark.parametrize("lost", [1, 2, 3, 4])
def test_lost_microphone_commands_are_repeated_until_acknowledged(lost: int) -> None:
    world = ready()
    world.arms[R].unanswered[0x0E] = lost
    world.arms[R].mic = False
    mic(world, True)
    stream(world, 5)
    assert world.arms[R].mic
    assert world.node.glasses.mic.value == "on"


@pytest.mark.failure("MIC-04")
def test_an_acknowledged_microphone_without_sound_is_a_fault_not_a_loop() -> None:
    world = ready()
    before = len(world.arms[R].heard)
    mic(world, True)
    world.run(30)
    commands = [raw for _, raw in world.arms[R].heard[before:] if raw[0] == 0x0E]
    assert 5 <= len(commands) <= 7
    assert [n.note for n in world.notices].count(Note.MIC_FAULT) == 1
    assert world.node.glasses.mic.value == "fault"


@pytest.mark.failure("MIC-04")
def test_sound_after_off_is_switched_off_again() -> None:
    world = ready()
    mic(world, True)
    stream(world, 1)
    mic(world, False)
    world.run(0.2)
    world.arms[R].mic = True  # it was switched on by something else
    before = len(world.arms[R].heard)
    for n in range(25):
        world.audio_packet(n)
        world.run(0.1)
    offs = [raw for _, raw in world.arms[R].heard[before:] if raw == b"\x0e\x00"]
    assert offs
    assert not world.decodes[-1:] or world.node.glasses.counters["audio_unwanted"] >= 20


@pytest.mark.failure("MIC-02")
def test_the_microphone_is_switched_on_again_after_its_arm_was_lost() -> None:
    world = ready()
    mic(world, True)
    stream(world, 1)
    assert world.node.glasses.mic.value == "on"
    world.arms[R].mic = False
    world.drop(R)
    assert world.node.status(world.now)["audio"]["microphone"] == "starting"
    world.run(5)
    assert world.arms[R].mic
    stream(world, 1)
    assert world.node.status(world.now)["audio"]["microphone"] == "on"


@pytest.mark.failure("MIC-05")
def test_without_the_glasses_there_is_no_sound_and_the_status_says_so() -> None:
    world = ready()
    mic(world, True)
    stream(world, 1)
    world.drop(R, gone=True)
    world.drop(L, gone=True)
    before = len(world.decodes)
    stream(world, 5)
    assert len(world.decodes) == before
    assert world.said("glassbridge_status")[-1]["microphone"] == "starting"


@pytest.mark.failure("MIC-01")
def test_a_microphone_left_on_by_somebody_else_is_switched_off_at_connect() -> None:
    world = World()
    world.arms[R].mic = True
    world.start().run(5)
    assert not world.arms[R].mic


def test_the_left_arm_is_never_asked_for_sound() -> None:
    world = ready()
    mic(world, True)
    stream(world, 1)
    assert not [raw for _, raw in world.arms[L].heard if raw[0] == 0x0E]


@pytest.mark.failure("AUD-06")
def test_sound_is_continuous_over_the_wrap_with_gaps_and_duplicates_counted() -> None:
    world = ready()
    mic(world, True)
    world.run(0.2)
    for seq in [250, 251, 252, 254, 255, 255, 0, 1, 2, 1, 5]:
        world.audio_packet(seq)
    assert [d.lost for d in world.decodes] == [0, 0, 0, 10, 0, 0, 0, 0, 20]
    assert len({d.stream for d in world.decodes}) == 1
    world.audio_packet(205)
    assert world.decodes[-1].lost == 0
    assert world.decodes[-1].stream != world.decodes[-2].stream, "a gap of 200 is another stream"


def test_a_restarted_count_is_followed_at_once() -> None:
    world = ready()
    mic(world, True)
    world.run(0.2)
    for seq in range(100):
        world.audio_packet(seq)
    world.arms[R].mic = False
    world.drop(R)
    world.run(5)
    world.decodes.clear()
    for seq in range(3):
        world.audio_packet(seq)
    assert [d.lost for d in world.decodes] == [0, 0, 0]


# -------------------------------------------------------------------------------------------------------- events


@pytest.mark.failure("BLE-11")
def test_after_twenty_reconnects_one_tap_is_one_event() -> None:
    world = ready()
    for _ in range(20):
        world.drop(R)
        world.run(40)
    world.sent.clear()
    world.event(R, "f501")
    world.run(1)
    assert len(world.said("touch_event")) == 1


def test_head_events_of_the_left_arm_count_only_without_the_right() -> None:
    world = ready()
    world.sent.clear()
    world.event(L, "f502")
    assert world.said("head_position") == []
    world.event(R, "f502")
    assert len(world.said("head_position")) == 1
    world.drop(R, gone=True)
    world.event(L, "f503")
    assert len(world.said("head_position")) == 2


def test_the_weaker_arm_is_the_battery() -> None:
    world = ready()
    world.sent.clear()
    world.event(L, "2c6632")
    assert world.said("glasses_battery_update")[-1]["level"] == 50
    assert world.node.glasses.level == 50


def test_a_request_without_glasses_is_answered_at_once() -> None:
    world = World()
    done = world.node.glasses.request("r", Brightness(5), world.now)
    assert [getattr(e, "outcome", None) for e in done] == [Outcome.DROPPED]


@pytest.mark.failure("BLE-10")
def test_two_hundred_failing_attempts_leave_nothing_behind() -> None:
    world = World()
    for fake in world.arms.values():
        fake.connect_fault = GlassesFault.CONNECT_FAILED
    world.start().run(200 * 32)
    attempts = sum(link.conn_id for link in world.node.glasses.arms.values())
    assert attempts >= 200
    for fake in world.arms.values():
        fake.connect_fault = None
    world.run(40)
    assert world.node.glasses.state.value == "ready"


# ---------------------------------------------------------------------------------- presses before they are greeted


def booted_but_not_greeted() -> Air:
    """A Mentra Live whose computer has booted; the edge asks every 2.5 s whether it has."""
    air = Air("live").start()
    air.until(lambda: air.firmware.snapshot()["android"] == "ready")
    assert air.node.glasses.state is GlassesState.ABSENT
    return air


@pytest.mark.failure("CON-03")
def test_a_press_while_the_glasses_are_greeted_waits_and_comes_after_them_with_its_own_time() -> None:
    air = booted_but_not_greeted()
    pressed = air.now
    air.user(Action.PRESS)
    air.run(0.1)
    assert not air.told("button_press")
    assert air.until(lambda: air.told("button_press"), 5.0) > 0.1
    order = [
        message for _, message in air.said if message["type"] in ("glasses_connection_state", "button_press")
    ]
    assert [m.get("status", "pressed") for m in order][-2:] == ["CONNECTED", "pressed"]
    assert order[-1]["timestamp"] == pytest.approx((pressed + 1_700_000_000.0 - 100.0) * 1000, abs=100)
    air.run(10.0)
    assert len(air.told("button_press")) == 1
    assert air.node.glasses.counters["early_lost"] == 0


def test_more_presses_than_anybody_means_keep_the_newest_and_the_rest_is_counted() -> None:
    air = booted_but_not_greeted()
    for _ in range(10):
        air.user(Action.PRESS)
        air.run(0.01)
    air.until(lambda: air.told("button_press"), 5.0)
    air.run(5.0)
    assert len(air.told("button_press")) == 8
    assert air.node.glasses.counters["early_events"] == 10
    assert air.node.glasses.counters["early_lost"] == 2


@pytest.mark.failure("EDG-03")
def test_a_press_that_nobody_could_pass_on_in_time_is_told_as_lost_not_delivered_late() -> None:
    air = booted_but_not_greeted()
    air.black_hole_in = True  # what the edge says is not heard: it cannot greet them
    air.user(Action.PRESS)
    air.run(6.0)
    air.black_hole_in = False
    air.until_ready()
    air.run(5.0)
    assert not air.told("button_press")
    assert air.node.glasses.status(air.now)["counters"]["early_lost"] == 1
    assert any("press before" in notice.detail for notice in air.notices)
