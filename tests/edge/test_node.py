"""The whole edge core in virtual time: glasses, uplink and bridge together."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.glasses import Note
from edge.profiles.base import Arm
from tests.edge.world import World
from wire.errors import GlassesFault

L, R = Arm.LEFT, Arm.RIGHT


def ready() -> World:
    world = World().start()
    world.run(5)
    assert world.node.glasses.state.value == "ready"
    assert world.node.uplink.state.value == "online"
    return world


def test_both_arms_connect_left_first_and_show_what_the_cloud_says() -> None:
    world = ready()
    world.show("Hello")
    world.run(1)
    assert [world.arms[arm].shows for arm in world.arms] == ["Hello", "Hello"]
    left, right = (world.arms[arm].pages[-1][0] for arm in (L, R))
    assert left < right, "left is told first"


def test_the_first_frame_announces_the_link_and_never_carries_the_token() -> None:
    world = ready()
    first = world.sent[0][1]
    assert first["type"] == "connection_init"
    assert first["link"]["ownEpoch"] == "edge-1"
    assert "coreToken" not in first


@pytest.mark.failure("EDG-01")
@pytest.mark.parametrize("extension", [False, True])
def test_after_each_acknowledgement_everything_is_announced_within_a_second(extension: bool) -> None:
    world = World()
    world.link_extension = extension
    world.start().run(5)
    world.event(R, "f502")
    world.mic(True)
    world.close()
    for n in range(20):
        world.audio_packet(n)
    world.sent.clear()
    world.run(3)
    kinds = [m["type"] for _, m in world.sent]
    for kind in ("glasses_connection_state", "glasses_battery_update", "head_position", "glassbridge_status"):
        assert kind in kinds
    assert world.said("glasses_connection_state")[-1]["status"] == "CONNECTED"
    assert world.said("head_position")[-1]["position"] == "up"
    hello = next(at for at, m in world.sent if m["type"] == "connection_init")
    for kind in ("glasses_connection_state", "glasses_battery_update", "head_position", "glassbridge_status"):
        assert next(at for at, m in world.sent if m["type"] == kind) - hello <= 1.0


@pytest.mark.failure("EDG-01")
def test_sound_follows_the_announcement() -> None:
    world = ready()
    world.mic(True)
    world.run(0.2)
    world.close()
    announced: list[int] = []
    seq = 0
    while not world.audio:
        seq = (seq + 1) % 256
        world.run(0.1)
        world.audio_packet(seq)
        if world.said("glasses_connection_state", since=world.now - 0.2) and not announced:
            announced.append(seq)
        assert seq < 100
    assert announced


@pytest.mark.failure("EDG-02")
def test_the_cloud_hears_of_lost_glasses_within_two_seconds_and_the_uplink_stays() -> None:
    world = ready()
    world.drop(L, gone=True)
    world.drop(R, gone=True)
    lost = world.now
    world.run(2)
    assert world.said("glasses_connection_state", since=lost)[-1]["status"] == "DISCONNECTED"
    assert world.node.uplink.state.value == "online"


@pytest.mark.failure("EDG-02")
def test_without_a_cloud_the_glasses_are_kept_and_say_so_within_fifteen_seconds() -> None:
    world = ready()
    world.show("captions")
    world.run(1)
    world.cloud_up = False
    world.close()
    world.run(15)
    assert "No connection" in (world.arms[L].shows or "")
    world.run(60)
    assert world.node.glasses.state.value == "ready"
    assert all(link.connects == 1 for link in world.node.glasses.arms.values())
    world.cloud_up = True
    world.run(40)
    assert world.arms[L].shows == "captions", "what was wanted is restored"


@pytest.mark.failure("DSP-10")
def test_short_outages_are_never_shown() -> None:
    world = ready()
    world.show("captions")
    world.run(1)
    for _ in range(20):
        world.close()
        world.run(33)
    assert {text.strip("\n") for _, text in world.arms[L].pages} == {"captions"}


@pytest.mark.failure("MIC-01")
def test_the_microphone_goes_off_by_itself_when_the_cloud_stays_away() -> None:
    world = ready()
    world.mic(True)
    world.run(1)
    world.cloud_up = False
    world.close()
    world.run(70)
    assert world.arms[R].mic
    world.run(10)
    assert not world.arms[R].mic


@pytest.mark.failure("EDG-03")
def test_sound_of_an_outage_is_never_sent() -> None:
    world = ready()
    world.mic(True)
    world.run(0.5)
    world.cloud_up = False
    world.close()
    for n in range(60 * 10):
        if world.arms[R].mic:
            world.audio_packet(n % 256)
        world.run(0.1)
    world.cloud_up = True
    before = len(world.audio)
    world.run(35)
    assert len(world.audio) == before, "what was heard during the outage stays there"


@pytest.mark.failure("EDG-03")
@pytest.mark.parametrize("extension", [False, True])
def test_taps_older_than_five_seconds_are_not_sent_and_younger_ones_keep_their_time(extension: bool) -> None:
    world = World()
    world.link_extension = extension
    world.start().run(5)
    world.cloud_up = False
    world.close()
    world.event(R, "f501")
    world.run(28)
    world.event(L, "f520")
    tapped = world.now
    world.sent.clear()
    world.cloud_up = True
    world.do(world.node.network_changed(world.now))
    world.run(6)
    taps = world.said("touch_event")
    assert [t["gesture_name"] for t in taps] == ["double_tap"]
    assert taps[0]["timestamp"] == pytest.approx((tapped + 1_700_000_000.0 - 1000.0) * 1000, abs=2)
    assert any(n.note is Note.WARNING and "too old" in n.detail for n in world.notices)


@pytest.mark.failure("CON-16")
def test_twenty_taps_during_a_short_loss_arrive_in_order_once() -> None:
    world = World()
    world.link_extension = True
    world.start().run(5)
    world.close()
    for n in range(20):
        world.event(R, "f501" if n % 2 else "f520")
        world.run(0.05)
    world.run(4)
    got = [m["gesture_name"] for m in world.said("touch_event")]
    assert got == ["double_tap", "single_tap"] * 10


@pytest.mark.failure("LIV-02")
def test_a_black_hole_is_noticed_within_ten_seconds_and_left() -> None:
    world = ready()
    world.cloud_deaf = True
    since = world.now
    world.run(10)
    assert world.hangups
    assert world.hangups[0][0] - since <= 10.0
    world.cloud_deaf = False
    world.run(10)
    assert world.node.uplink.state.value == "online"


@pytest.mark.failure("EDG-04")
@pytest.mark.parametrize("slept", [15.0, 30.0, 120.0])
def test_after_a_sleep_of_the_process_everything_works_within_ten_seconds(slept: float) -> None:
    world = ready()
    world.show("before")
    world.run(1)
    world.sent.clear()
    world.now += slept  # nothing ran: timers are late, and what the links did waits in the stack
    for arm, fake in world.arms.items():
        if slept > 32:
            fake.conn = None  # the firmware dropped an idle link
            world.do(
                world.node.link_lost(
                    arm, world.node.glasses.arms[arm].conn_id, GlassesFault.LINK_LOST, world.now
                )
            )
    world.run(3)
    assert len(world.said("ping")) <= 2
    world.run(7)
    assert world.node.counters["wakes"] == 1
    assert world.node.glasses.state.value == "ready"
    world.show("after")
    world.run(1)
    assert world.arms[L].shows == "after"


@pytest.mark.failure("CON-15")
def test_a_refused_token_is_told_and_tried_again_every_five_minutes_and_at_once_when_renewed() -> None:
    world = World()
    world.cloud_up, world.dial_status = False, 401
    world.start().run(20)
    assert len(world.dials) == 1
    assert any(n.note is Note.UPLINK_REFUSED for n in world.notices)
    world.run(300)
    assert len(world.dials) == 2
    world.cloud_up = True
    world.do(world.node.network_changed(world.now))
    world.run(1)
    assert world.node.uplink.state.value == "online"


def test_an_auth_error_in_words_pauses_too() -> None:
    world = ready()
    world.say(type="auth_error", message="expired")
    world.run(20)
    assert len(world.dials) == 1
    assert world.node.uplink.state.value == "backoff"


@pytest.mark.parametrize(
    "frame",
    [b"", b"{", b"[]", b'"x"', b'{"type":7}', b'{"type":"display_event"}', b"\xff\xfe", b'{"type":"new_thing","x":1}',
     b'{"type":"display_event","packageName":"a","view":"main","layout":{"layoutType":"nope"}}',
     b'{"type":"microphone_state_change","isMicrophoneEnabled":"maybe"}', b"[" * 5000],
)  # fmt: skip
def test_a_bad_frame_from_the_cloud_disturbs_nothing(frame: bytes) -> None:
    world = ready()
    assert world.conn is not None
    world.do(world.node.received(world.conn, frame, world.now))
    world.show("fine")
    world.run(1)
    assert world.arms[L].shows == "fine"
    assert world.node.uplink.state.value == "online"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=60) | st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=9)).map(
    lambda d: json.dumps(d).encode()), max_size=20))  # fmt: skip
def test_any_frames_from_the_cloud_leave_the_edge_alive(frames: list[bytes]) -> None:
    world = ready()
    for frame in frames:
        if world.conn is not None:
            world.do(world.node.received(world.conn, frame, world.now))
    world.run(1)
    assert world.node.glasses.state.value == "ready"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([L, R]), st.binary(max_size=210)), max_size=25))
def test_any_notifications_from_the_air_leave_the_edge_alive(packets: list[tuple[Arm, bytes]]) -> None:
    world = ready()
    for arm, data in packets:
        world.do(world.node.notified(arm, world.node.glasses.arms[arm].conn_id, "", data, world.now))
    world.run(1)
    world.event(L, "f506")
    world.event(R, "f506")
    world.show("still here")
    world.run(2)
    assert world.arms[L].shows == "still here"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_world_always_comes_back_to_the_newest_text_on_both_arms(data: st.DataObject) -> None:
    """Whatever happens for a while: once it stops, all is well again within the bounds of the backoffs."""
    world = World()
    world.link_extension = data.draw(st.booleans())
    world.start()
    texts = 0
    for _ in range(data.draw(st.integers(1, 25))):
        arm = data.draw(st.sampled_from([L, R]))
        fake = world.arms[arm]
        match data.draw(
            st.sampled_from(
                ["drop", "gone", "back", "mute", "lose", "close", "down", "up", "hole", "show", "tap", "time"]
            )
        ):
            case "drop":
                world.drop(arm)
            case "gone":
                world.drop(arm, gone=True)
            case "back":
                fake.advertising = True
            case "mute":
                fake.mute = not fake.mute
            case "lose":
                fake.unanswered[0x4E] = data.draw(st.integers(0, 5))
            case "close":
                world.close(data.draw(st.sampled_from([1000, 1006, 1012])))
            case "down":
                world.cloud_up = False
            case "up":
                world.cloud_up = True
            case "hole":
                world.cloud_deaf = not world.cloud_deaf
            case "tap":
                world.event(arm, "f501")
            case "show" if world.conn is not None:
                texts += 1
                world.show(f"text {texts}")
            case _:
                pass
        world.run(data.draw(st.sampled_from([0.0, 0.03, 0.3, 2.0, 12.0])))
    world.cloud_up, world.cloud_deaf = True, False
    for fake in world.arms.values():
        fake.advertising, fake.mute, fake.connect_fault = True, False, None
        fake.unanswered.clear()
    world.run(120)
    assert world.node.glasses.state.value == "ready"
    assert world.node.uplink.state.value == "online"
    world.show("the end")
    world.run(3)
    assert [fake.shows for fake in world.arms.values()] == ["the end", "the end"]


def test_rest_leaves_a_dark_lens_behind() -> None:
    world = ready()
    world.show("private words")
    world.run(1)
    assert world.node.rested
    world.do(world.node.rest(world.now))
    assert not world.node.rested
    world.run(1)
    assert world.node.rested
    assert [fake.shows for fake in world.arms.values()] == [" ", " "]


def test_stop_lets_go_of_everything() -> None:
    world = ready()
    world.do(world.node.stop(world.now))
    assert world.conn is None
    assert all(fake.conn is None for fake in world.arms.values())
    assert world.node.glasses.state.value == "absent"
    dials = len(world.dials)
    world.run(600)
    assert len(world.dials) == dials


def test_status_is_json_and_holds_no_text() -> None:
    world = ready()
    world.show("a secret")
    world.run(1)
    dumped = json.dumps(world.node.status(world.now))
    assert "secret" not in dumped
    status = world.node.status(world.now)
    assert status["display"]["received_to_lens_ms"]["n"] == 1
    assert status["glasses"]["arms"]["left"]["state"] == "ready"


@pytest.mark.parametrize("skew", [-86_400.0, -0.3, 0.0, 45.0])
def test_pings_and_display_results_tell_the_way_however_the_clocks_differ(skew: float) -> None:
    world = World()
    edge_wall = 1_700_000_000.0 - world.now  # as `World.start` sets it
    world.cloud_clock = edge_wall + skew
    world.start()
    world.run(5)
    ping = world.said("ping")[-1]
    assert ping["offsetMs"] == pytest.approx(skew * 1000, abs=ping["errorMs"] + 1)
    assert ping["errorMs"] <= 11  # half of 20 ms and a little drift
    assert ping["clockMs"] == pytest.approx((ping["sentMs"] / 1000 + edge_wall) * 1000, abs=0.01)
    sent = datetime.fromtimestamp(world.now - 0.04 + world.cloud_clock, UTC)  # on its way for 40 ms
    world.show("Hello", displayId="d1", timestamp=sent.isoformat())
    world.run(1)
    (result,) = world.said("glassbridge_display_result")
    assert result["downlinkMs"] == pytest.approx(40, abs=11)


def test_the_way_is_not_told_where_the_cloud_has_no_clock_or_kept_the_display() -> None:
    world = ready()
    world.show("one", displayId="d1", timestamp="2026-01-01T00:00:00.000Z")
    world.run(1)
    world.cloud_clock = 0.0
    world.run(20)
    for number, date in enumerate(("2026-01-01T00:00:00.000Z", "never", "1970-01-01T00:00:00")):
        world.show(f"{number}", displayId=f"e{number}", timestamp=date)
        world.run(1)
    results = world.said("glassbridge_display_result")
    assert len(results) == 4
    assert not any("downlinkMs" in result for result in results)


def test_sound_s_age_rides_on_the_next_ping_once() -> None:
    world = ready()
    world.mic(True)
    world.run(1)
    for seq in range(5):
        world.audio_packet(seq)
    world.run(12)
    told = [ping["audioMs"] for ping in world.said("ping") if "audioMs" in ping]
    assert len(told) == 1
    assert told[0] >= 0
