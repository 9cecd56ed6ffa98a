"""The simulated Mentra Nex: forms of speech, keep-alive, text and pictures on the lens, microphone, people."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_sim.firmware import nex
from firmware_sim.firmware.base import (
    BLANK,
    Action,
    Advertise,
    ArmState,
    AudioFormat,
    Disconnect,
    ForgetBond,
    Lit,
    Microphone,
    NoTaker,
    PictureItem,
    Silence,
    TextItem,
    UserInput,
)
from firmware_sim.firmware.nex import PHONE_TO_GLASSES, TO_GLASSES, Headers, KeepAlive, Speech
from firmware_sim.firmware.protobuf import Kind, Schema, encode
from tests.support.nex_host import NexHost, new_nex, said
from tests.support.sim_host import notified


def bmp(width: int, height: int, fill: int) -> bytes:
    stride = (width + 31) // 32 * 4
    body = bytes([fill]) * (stride * height)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 1, 0, len(body), 0, 0, 2, 0)
    return (
        b"BM"
        + struct.pack("<IHHI", 62 + len(body), 0, 0, 62)
        + info
        + bytes.fromhex("ffffff0000000000")
        + body
    )


def fragmented(body: bytes, sequence: int, size: int) -> list[bytes]:
    parts = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
    return [bytes([2, sequence, len(parts), i]) + part for i, part in enumerate(parts)]


# --- forms of speech ------------------------------------------------------------------------------------------------


def test_a_fragmented_message_is_answered_with_a_fragment_header() -> None:
    host = NexHost(mtu=23)
    for packet in fragmented(encode(PHONE_TO_GLASSES, {"glasses_info": {}}), 7, 16):
        effects = host.write(TO_GLASSES, packet, 0.3)
    replies = [data for _, data in notified(effects)]
    assert [(d[0], d[2], d[3]) for d in replies] == [(2, 2, 0), (2, 2, 1)]
    assert b"1.2.3" in b"".join(d[4:] for d in replies)


@pytest.mark.parametrize("sequence", range(256))
def test_every_sequence_number_of_the_fragment_header_is_recognised(sequence: int) -> None:
    host = NexHost()
    for packet in fragmented(encode(PHONE_TO_GLASSES, {"mic_state": {"enabled": True}}), sequence, 200):
        host.write(TO_GLASSES, packet)
    assert host.nex.microphone is not None
    assert host.nex._speech is Speech.FRAGMENTS


def test_a_long_text_arrives_in_fragments_in_any_order() -> None:
    host = NexHost(mtu=64)
    text = "".join(chr(0x4E00 + i) for i in range(300))
    packets = fragmented(encode(PHONE_TO_GLASSES, {"display_text": {"text": text}}), 200, 50)
    for packet in reversed(packets):
        host.write(TO_GLASSES, packet)
    assert host.text == text


def test_a_bare_build_cannot_read_fragments_and_the_other_way_round() -> None:
    body = encode(PHONE_TO_GLASSES, {"battery_state": {}})
    bare, fragments = NexHost(headers=Headers.BARE), NexHost(headers=Headers.FRAGMENTS)
    assert bare.write(TO_GLASSES, fragmented(body, 1, 200)[0], 0.2) == []
    assert fragments.write(TO_GLASSES, b"\x02" + body, 0.2) == []
    assert bare.write(TO_GLASSES, b"\x02" + body, 0.2) != []
    assert fragments.write(TO_GLASSES, fragmented(body, 1, 200)[0], 0.2) != []


@pytest.mark.parametrize("kind", sorted(nex.JSON_COMMANDS))
def test_every_json_command_is_known(kind: str) -> None:
    host = NexHost()
    host.send_json(kind, stream_id="002A", total_chunks=1)
    assert host.nex.arms["main"].counters.ignored_writes == 0


def test_json_words_and_colours_are_translated() -> None:
    assert nex.from_json(b'{"type":"display_text","text":"a","color":"0xF800","x":"7","y":-3}') == (
        "display_text",
        {"text": "a", "color": 0xF800, "y": 0},
    )
    assert nex.from_json(b'{"type":"display_vertical_scrolling_text","align":"center"}') == (
        "display_scrolling_text",
        {"align": 1},
    )
    for junk in (b"", b"[]", b'{"type":[]}', b'{"type":"nothing"}', b"[" * 2000, b"\xff"):
        assert nex.from_json(junk) is None


def test_json_questions_are_answered_in_json_with_every_field() -> None:
    host = NexHost()
    (info,) = host.send_json("request_glasses_info")
    assert info["fw"] == "1.2.3"
    assert info["features"]["camera"] is False
    host.send_json("set_mic_state", enabled=True)
    press = said(host.nex.user(UserInput(Action.PRESS, "left"), host.now))
    assert press[0] == {"type": "button_event", "button": "left", "state": "down"}


def test_unknown_first_bytes_and_unknown_tags_are_ignored_and_counted() -> None:
    host = NexHost()
    for data in (b"\x04\x01\x00{}", b"\x18", b"\xd0x", b"\x02\x08"):
        assert host.write(TO_GLASSES, data, 0.2) == []
    assert host.nex.arms["main"].counters.ignored_writes == 4
    unknown = b"\x02\x82\x05\x0a0123456789"  # tag 80: a canvas message of the newest app, perhaps
    assert host.write(TO_GLASSES, unknown, 0.2) == []
    assert host.nex.arms["main"].counters.unknown_commands == 1


def test_the_vendors_own_simulator_echoes_the_battery() -> None:
    host = NexHost(battery_echo=True)
    assert host.send(brightness={"value": 10}) == [{"battery_status": {"level": 82}}]


# --- keep-alive -----------------------------------------------------------------------------------------------------


@pytest.mark.failure("BLE-04")
def test_glasses_ask_every_ten_seconds_and_leave_after_three_silences() -> None:
    host = NexHost()
    for _ in range(10):
        assert said(host.wait(10.0)) == [{"ping": {}}]
        host.send(wait=0.0, pong={})
    left = host.wait(33.0)
    assert said(left) == [{"ping": {}}] * 3
    assert [type(e) for e in left if isinstance(e, Disconnect)] == [Disconnect]
    assert host.nex.arms["main"].state is ArmState.CONNECTED  # until the radio says that the link is gone
    host.drop()
    assert host.nex.deadline is not None  # only the picture's grace is left
    assert not [e for e in host.wait(120.0) if isinstance(e, Disconnect)]


def test_an_answer_within_three_seconds_counts_again_from_zero() -> None:
    host = NexHost()
    host.wait(25.0)
    host.send(wait=0.0, pong={})
    assert not [e for e in host.wait(25.0) if isinstance(e, Disconnect)]


def test_an_answer_is_not_answered_unless_the_host_is_the_one_that_asks() -> None:
    assert NexHost().send(pong={}) == []
    host = NexHost(keep_alive=KeepAlive.HOST)
    assert host.send(pong={}) == [{"ping": {}}]
    assert host.wait(120.0) == []


def test_nobody_is_asked_before_notifications_are_on() -> None:
    host = NexHost()
    host.take(host.nex.subscribed("main", host.link, nex.FROM_GLASSES, False, host.now))
    assert host.wait(120.0) == []


# --- lens -----------------------------------------------------------------------------------------------------------


def test_text_appears_where_it_should_and_replaces_text() -> None:
    host = NexHost()
    assert host.nex.arms["main"].screen.kind == "welcome"
    host.send(display_text={"text": "Hello", "x": 20, "y": 260, "size": 48})
    host.send(display_text={"text": "World", "x": 20, "y": 260, "size": 48})
    assert host.nex.arms["main"].screen.items == (TextItem("World", 20, 340, 620, 48, 2),)
    host.send(display_text={"text": " "})
    assert host.nex.arms["main"].screen == BLANK


def test_the_first_empty_text_leaves_the_welcome_screen_alone() -> None:
    host = NexHost()
    host.send(display_text={})
    assert host.nex.arms["main"].screen.kind == "welcome"
    host.send(display_text={})
    assert host.nex.arms["main"].screen == BLANK


def test_drawings_wait_for_the_commit_where_the_design_says_so() -> None:
    host = NexHost(commit_needed=True)
    host.send(display_text={"text": "A"})
    host.send(draw_line={"x2": 10})
    (info,) = host.send(queue_status_request={})
    assert info["display_queue_info"]["queued_commands"] == 2
    assert host.text != "A"
    host.send(commit={})
    assert host.text == "A"
    host.send(draw_rect={"width": 5, "height": 5})
    host.send(commit={"clear_before": True})
    assert host.nex.arms["main"].screen.kind == "bitmap"


def test_the_queue_is_bounded_and_says_when_it_was_full() -> None:
    host = NexHost(commit_needed=True)
    for i in range(nex.QUEUE_MAX + 5):
        host.send(wait=0.0, draw_line={"x1": i})
    (info,) = host.send(queue_status_request={})
    assert info["display_queue_info"] == {"queued_commands": 64, "queue_bytes": 64 * 32, "max_queue_size": 64}


def test_lines_rectangles_and_circles_light_pixels() -> None:
    host = NexHost()
    host.send(draw_line={"x1": 0, "y1": 0, "x2": 639, "y2": 0})
    host.send(draw_rect={"x": 100, "y": 100, "width": 50, "height": 20, "stroke": 2})
    host.send(draw_circle={"x": 300, "y": 200, "radius": 40})
    (picture,) = host.nex.arms["main"].screen.items
    assert isinstance(picture, PictureItem)
    assert picture.bits[:80] == b"\xff" * 80
    lit = sum(byte.bit_count() for byte in picture.bits)
    assert lit > 640 + 2 * 2 * 70 + 200


def test_the_display_can_be_off_and_brightness_is_clamped() -> None:
    host = NexHost()
    host.send(display_text={"text": "A"})
    host.send(display_power={})
    assert host.nex.arms["main"].screen == BLANK
    host.send(display_power={"on": True})
    assert host.text == "A"
    host.send(brightness={"value": 163})
    assert host.nex.settings.brightness == 100


def test_scrolling_text_moves_a_line_at_a_time_and_starts_again() -> None:
    host = NexHost()
    text = {"text": "a\nb\nc\nd", "height": 96, "size": 48, "speed": 48, "loop": True}
    host.send(wait=0.0, display_scrolling_text=text)
    seen = [host.text]
    for _ in range(3):
        assert Lit("main") in host.wait(1.0)
        seen.append(host.text)
    assert seen == ["a\nb", "b\nc", "c\nd", "a\nb"]
    host.send(clear_display={})
    assert host.nex.deadline is not None
    assert Lit("main") not in host.wait(9.0)


def test_scrolling_at_an_absurd_speed_is_slowed_down() -> None:
    host = NexHost()
    text = {"text": "a\nb\nc", "height": 1, "speed": 2**32 - 1, "loop": True}
    host.send(wait=0.0, display_scrolling_text=text)
    assert len([e for e in host.wait(10.0) if isinstance(e, Lit)]) <= 200


def test_the_last_frame_stays_for_a_while_after_the_link() -> None:
    host = NexHost()
    host.send(display_text={"text": "A"})
    host.drop()
    host.wait(nex.LAST_FRAME - 1)
    assert host.text == "A"
    host.wait(2.0)
    assert host.nex.arms["main"].screen.kind == "welcome"


def test_a_disconnect_request_clears_the_lens_and_ends_the_link() -> None:
    host = NexHost()
    host.send(display_text={"text": "A"})
    host.send(wait=0.0, disconnect={})
    assert host.nex.arms["main"].screen == BLANK
    assert [e for e in host.wait(1.0) if isinstance(e, Disconnect)]


def test_a_dashboard_in_the_glasses_shows_when_the_wearer_looks_up() -> None:
    host = NexHost()
    batch = {"commands": [{"text": {"text": "12:00", "x": 5, "y": 5}}, {"rect": {"width": 10, "height": 10}}]}
    host.send(cache_dashboard={"dashboard_id": 3, "batch": batch})
    host.send(dashboard_trigger={"dashboard_id": 3, "duration_ms": 2000})
    told = said(host.nex.user(UserInput(Action.LOOK_UP), host.now))
    assert told == [{"head_gesture": {"gesture": 2}}, {"dashboard_shown": {"dashboard_id": 3}}]
    assert host.text == "12:00"
    host.wait(2.5)
    assert host.text != "12:00"
    host.nex.user(UserInput(Action.LOOK_UP), host.now)
    host.nex.user(UserInput(Action.LOOK_DOWN), host.now)
    assert host.text != "12:00"


# --- pictures -------------------------------------------------------------------------------------------------------


def announce(host: NexHost, body: bytes, size: int = 100, **more: Any) -> None:
    total = -(-len(body) // size)
    host.send(display_image={"stream_id": "00FF", "x": 8, "y": 16, "total_chunks": total, **more})


def test_a_picture_is_shown_when_its_last_chunk_arrives() -> None:
    host, body = NexHost(), bmp(160, 56, 0x00)
    announce(host, body)
    assert host.chunks(0xFF, body, 100) == [{"image_transfer_complete": {"stream_id": "00FF"}}]
    (picture,) = host.nex.arms["main"].screen.items
    assert picture == PictureItem(8, 16, 160, 56, b"\xff" * (20 * 56))  # entry 0 of the palette is white


@pytest.mark.failure("MED-03")
@pytest.mark.parametrize("lost", [[0], [3, 7], [11], list(range(12))])
def test_lost_chunks_are_asked_for_and_the_rest_is_kept(lost: list[int]) -> None:
    host, body = NexHost(), bmp(160, 56, 0x00)
    announce(host, body)
    kept = [i for i in range(12) if i not in lost]
    answers = host.chunks(0xFF, body, 100, kept) or said(host.wait(1.5))
    report = {"stream_id": "00FF", "status": nex.INCOMPLETE, "missing_chunks": lost}
    assert answers == [{"image_transfer_complete": report}]
    assert host.chunks(0xFF, body, 100, lost) == [{"image_transfer_complete": {"stream_id": "00FF"}}]


@pytest.mark.failure("MED-03")
def test_a_picture_that_never_completes_is_forgotten() -> None:
    host, body = NexHost(), bmp(160, 56, 0x00)
    announce(host, body)
    host.chunks(0xFF, body, 100, [0])
    reports = [m for m in said(host.wait(60.0)) if "image_transfer_complete" in m]
    assert len(reports) == nex.IMAGE_ROUNDS_MAX
    assert host.nex._images == {}


def test_a_report_of_many_missing_chunks_fits_the_mtu() -> None:
    for mtu in (23, 64, 247):
        host = NexHost(mtu=mtu)
        host.send(display_image={"stream_id": "00FF", "total_chunks": 256})
        reports = said(host.wait(1.5))
        assert reports[0]["image_transfer_complete"]["missing_chunks"][:1] == [0]
        assert host.nex.arms["main"].counters.dropped_too_long == 0


def test_an_unreadable_picture_is_refused_without_missing_chunks() -> None:
    host, body = NexHost(), b"not a bitmap" * 20
    announce(host, body)
    answers = host.chunks(0xFF, body, 100)
    assert answers == [{"image_transfer_complete": {"stream_id": "00FF", "status": nex.INCOMPLETE}}]
    assert host.nex.arms["main"].screen.kind == "welcome"


def test_a_cached_picture_is_shown_by_its_number_until_it_is_cleared() -> None:
    host, body = NexHost(), bmp(32, 8, 0x00)
    host.send(cache_image={"stream_id": "0001", "image_id": 5, "total_chunks": 1})
    host.chunks(1, body, 200)
    assert host.nex.arms["main"].screen.kind == "welcome"
    host.send(display_cached_image={"image_id": 5, "x": 100, "y": 50})
    (picture,) = host.nex.arms["main"].screen.items
    assert isinstance(picture, PictureItem)
    assert (picture.x, picture.y, picture.width) == (100, 50, 32)
    host.send(clear_cached_image={"image_id": 5})
    host.send(clear_display={})
    host.send(display_cached_image={"image_id": 5})
    assert host.nex.arms["main"].screen == BLANK


def test_chunks_of_an_unannounced_picture_are_ignored() -> None:
    host = NexHost()
    assert host.chunks(9, b"x" * 50, 10) == []
    assert host.nex.arms["main"].counters.ignored_writes == 5


def test_a_lost_link_ends_every_transfer() -> None:
    host, body = NexHost(), bmp(160, 56, 0x00)
    announce(host, body)
    host.chunks(0xFF, body, 100, [0, 1])
    host.drop()
    host.connect()
    assert host.nex._images == {}
    assert [m for m in said(host.wait(9.0)) if "image_transfer_complete" in m] == []


# --- microphone -----------------------------------------------------------------------------------------------------


class Hum(Silence):
    """A source that hums for the first second and is silent then."""

    def __init__(self) -> None:
        self.given = 0

    def lc3(self, frame_bytes: int, count: int) -> list[bytes]:
        self.given += count
        return [b"\x55" * frame_bytes] * count if self.given <= 100 else super().lc3(frame_bytes, count)


@pytest.mark.parametrize(("mtu", "frames"), [(247, 5), (185, 4), (64, 1), (23, 0)])
def test_audio_begins_late_ends_late_and_fits_the_mtu(mtu: int, frames: int) -> None:
    host = NexHost(mtu=mtu)
    effects = host.write(
        TO_GLASSES, b"\x02" + encode(PHONE_TO_GLASSES, {"mic_state": {"enabled": True}}), 0.19
    )
    assert notified(effects) == []
    stream = [d for _, d in notified(host.wait(5.0)) if d[0] == 0xA0]
    assert {len(d) for d in stream} == ({2 + 40 * frames} if frames else set())
    assert abs(len(stream) * frames - (500 if frames else 0)) <= 5
    assert host.nex.microphone == AudioFormat("lc3", 16000, 40)
    off = host.write(TO_GLASSES, b"\x02" + encode(PHONE_TO_GLASSES, {"mic_state": {}}), 0.5)
    assert Microphone(False) in off
    assert bool(notified(off)) == bool(frames)
    assert [d for _, d in notified(host.wait(1.0)) if d[0] == 0xA0] == []


def test_the_microphone_ends_with_the_link() -> None:
    host = NexHost()
    host.send(mic_state={"enabled": True})
    host.drop()
    assert host.nex.microphone is None


def test_voice_begins_and_ends_once() -> None:
    host = NexHost(audio=Hum())
    (answer,) = host.send(set_vad_enabled={"msg_id": "v", "enabled": True})
    assert answer == {"vad_enabled_set": {"msg_id": "v", "success": True}}
    host.send(mic_state={"enabled": True})
    events = [m["vad_event"] for m in said(host.wait(8.0)) if "vad_event" in m]
    assert events == [{"state": 1}, {}]


def test_voice_settings_are_confirmed_or_refused() -> None:
    host = NexHost()
    (bad,) = host.send(set_vad_config={"msg_id": "c", "sensitivity": 101})
    assert bad["vad_configured"]["error"]
    (good,) = host.send(set_vad_config={"msg_id": "c", "sensitivity": 70})
    assert good == {"vad_configured": {"msg_id": "c", "success": True}}
    (status,) = host.send(request_vad_status={"msg_id": "s"})
    assert status == {"vad_status": {"msg_id": "s", "sensitivity": 70}}


# --- motion, power, people ------------------------------------------------------------------------------------------


def test_motion_streams_ten_times_a_second_until_it_is_stopped() -> None:
    host = NexHost()
    assert len([m for m in host.send(wait=1.05, imu_stream={"enabled": True}) if "imu_data" in m]) == 10
    assert host.send(wait=1.0, imu_stream={}) == []


def test_head_gestures_can_be_switched_off() -> None:
    host = NexHost()
    host.send(head_gesture={"gesture": nex.HEAD_UP, "enabled": False})
    assert said(host.nex.user(UserInput(Action.LOOK_UP), host.now)) == []
    assert host.send(head_position={}) == [{"head_position": {"angle": 30}}]


def test_restart_leaves_the_air_for_a_moment_and_factory_reset_forgets_the_bond() -> None:
    host = NexHost()
    host.send(display_text={"text": "A"})
    effects = host.write(TO_GLASSES, b"\x02" + encode(PHONE_TO_GLASSES, {"factory_reset": {}}))
    assert ForgetBond("main") in effects
    assert [e for e in effects if isinstance(e, Disconnect)]
    host.drop()
    assert host.nex.arms["main"].state is ArmState.DARK
    assert Advertise("main", True) in host.wait(nex.REBOOT)
    assert host.nex.arms["main"].screen.kind == "welcome"


@pytest.mark.parametrize(
    "what",
    [
        UserInput(Action.TAP),
        UserInput(Action.WEAR),
        UserInput(Action.CASE, None, "open"),
        UserInput(Action.PRESS, "top"),
        UserInput(Action.LOOK_UP, "left"),
        UserInput(Action.BATTERY, None, "full"),
        UserInput(Action.CHARGE, None, 3),
    ],
)
def test_what_the_glasses_do_not_have_finds_no_taker(what: UserInput) -> None:
    with pytest.raises(NoTaker):
        NexHost().nex.user(what, 1.0)


def test_nobody_hears_a_button_without_a_link() -> None:
    glasses = new_nex()
    glasses.start(0.0)
    with pytest.raises(NoTaker, match="not connected"):
        glasses.user(UserInput(Action.PRESS), 1.0)


def test_battery_and_charging_are_told_and_an_empty_one_goes_dark() -> None:
    host = NexHost()
    assert said(host.nex.user(UserInput(Action.BATTERY, None, 40), 1.0)) == [
        {"battery_status": {"level": 40}}
    ]
    assert said(host.nex.user(UserInput(Action.CHARGE), 1.0)) == [{"charging_state": {"state": 1}}]
    effects = host.nex.user(UserInput(Action.BATTERY, None, 0), 1.0)
    assert [e for e in effects if isinstance(e, Disconnect)]
    assert host.nex.arms["main"].screen == BLANK


# --- anything at all ------------------------------------------------------------------------------------------------


def of_schema(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for field in schema.fields:
        kinds: dict[Kind, st.SearchStrategy[Any]] = {
            Kind.UINT: st.sampled_from([0, 1, 2, 5, 47, 100, 300, 2**32 - 1]),
            Kind.INT: st.integers(-5, 5),
            Kind.BOOL: st.booleans(),
            Kind.STRING: st.sampled_from(["", "002A", "a\nb\nc\nd\ne", "x" * 30]) | st.text(max_size=5),
            Kind.FLOAT: st.floats(width=32),
        }
        one = of_schema(field.schema) if field.schema is not None else kinds[field.kind]
        optional[field.name] = st.lists(one, max_size=3) if field.repeated else one
    return st.fixed_dictionaries({}, optional=optional)


messages = st.sampled_from(PHONE_TO_GLASSES.fields[1:]).flatmap(
    lambda field: (
        of_schema(field.schema).map(lambda value: {field.name: value})
        if field.schema is not None
        else st.just({})
    )
)
writes = st.one_of(
    st.binary(min_size=1, max_size=200),
    st.binary(max_size=40).map(lambda b: b"\x02" + b),
    messages.map(lambda m: b"\x02" + encode(PHONE_TO_GLASSES, m)),
    st.builds(
        lambda m, seq: fragmented(encode(PHONE_TO_GLASSES, m), seq, 200)[0], messages, st.integers(0, 255)
    ),
    st.builds(
        lambda kind, rest: b"\x01" + json.dumps({"type": kind, **rest}).encode(),
        st.sampled_from(sorted(nex.JSON_COMMANDS)),
        st.dictionaries(st.sampled_from(["text", "x", "stream_id", "total_chunks", "enabled", "angle"]), st.integers() | st.text(max_size=4), max_size=4),
    ),
    st.builds(lambda i, b: b"\xb0\x00\x2a" + bytes([i]) + b, st.integers(0, 5), st.sampled_from([b"BM", b""])),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([23, 185, 247]),
    st.sampled_from(list(Headers)),
    st.booleans(),
    st.lists(st.tuples(writes, st.sampled_from([0.0, 0.05, 2.0])), max_size=12),
)
def test_any_bytes_are_answered_or_ignored(
    mtu: int, headers: Headers, commit_needed: bool, script: list[tuple[bytes, float]]
) -> None:
    host = NexHost(mtu=mtu, headers=headers, commit_needed=commit_needed)
    for data, wait in script:
        if host.nex.arms["main"].state is not ArmState.CONNECTED:
            break
        host.take(host.nex.written("main", host.link, TO_GLASSES, data[: mtu - 3], host.now))
        host.wait(wait)
    host.wait(5.0)
    assert all(len(data) <= mtu - 3 for _, data in host.sent)
    assert len(host.nex._timers) < 64
    host.nex.snapshot()
