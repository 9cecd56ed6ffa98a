"""What a pair of simulated G1 does beyond single vectors: pages, time, the microphone, people, faults, any bytes."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_sim.firmware.base import (
    ATT_INVALID_LENGTH,
    BLANK,
    Action,
    Advertise,
    ArmState,
    Disconnect,
    ForgetBond,
    Identity,
    Lit,
    Microphone,
    NoTaker,
    Notify,
    PictureItem,
    Refuse,
    UserInput,
)
from firmware_sim.firmware.g1 import (
    _COMMANDS,
    BITMAP_CHUNK,
    FROM_GLASSES,
    LEFT,
    RIGHT,
    TO_GLASSES,
    EvenG1,
    build,
)
from tests.firmware_sim.test_g1_vectors import connected_g1, new_g1, said, write


def text_packets(seq: int, text: str, size: int = 191, newscreen: int = 0x71) -> list[bytes]:
    body = text.encode()
    chunks = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
    return [
        bytes([0x4E, seq, len(chunks), index, newscreen, 0, 0, 1, 1]) + chunk
        for index, chunk in enumerate(chunks)
    ]


def ack(g1: EvenG1, arm: str, data: bytes, now: float = 1.0) -> bytes:
    (reply,) = said(write(g1, arm, data, now), arm)
    return reply


# --- text -------------------------------------------------------------------------------------------------------------


def test_a_character_cut_between_two_packets_is_whole_on_the_lens() -> None:
    g1 = connected_g1()
    text = "x" * 190 + "€ and more 你好"
    first, second = text_packets(5, text)
    assert ack(g1, LEFT, first) == b"\x4e\xcb\x05"
    assert g1.arms[LEFT].screen == BLANK
    assert ack(g1, LEFT, second) == b"\x4e\xc9\x05"
    assert g1.arms[LEFT].screen.text == text


def test_the_arms_show_what_each_was_sent() -> None:
    g1 = connected_g1()
    write(g1, LEFT, text_packets(1, "left")[0])
    write(g1, RIGHT, text_packets(1, "right")[0])
    assert (g1.arms[LEFT].screen.text, g1.arms[RIGHT].screen.text) == ("left", "right")


def test_a_page_with_a_missing_packet_is_refused_and_the_old_one_stays() -> None:
    g1 = connected_g1()
    write(g1, LEFT, text_packets(1, "old")[0])
    packets = text_packets(2, "y" * 500)
    write(g1, LEFT, packets[0])
    assert ack(g1, LEFT, packets[2]) == b"\x4e\xca\x02"
    assert g1.arms[LEFT].screen.text == "old"
    # The packet that was missing completes the page, in whatever order it comes.
    assert ack(g1, LEFT, packets[1]) == b"\x4e\xc9\x02"
    assert g1.arms[LEFT].screen.text == "y" * 500


def test_a_repeated_last_packet_is_acknowledged_again_and_shown_once() -> None:
    g1 = connected_g1()
    first, last = text_packets(9, "z" * 300)
    write(g1, LEFT, first)
    effects = write(g1, LEFT, last) + write(g1, LEFT, last, 2.0)
    assert said(effects, LEFT) == [b"\x4e\xc9\x09"] * 2
    assert effects.count(Lit(LEFT)) == 1


def test_a_used_number_with_other_content_is_a_new_page() -> None:
    g1 = connected_g1()
    for text in ("first", "second"):
        assert ack(g1, LEFT, text_packets(7, text)[0]) == b"\x4e\xc9\x07"
        assert g1.arms[LEFT].screen.text == text


@pytest.mark.parametrize(
    "packet",
    [
        "4e",
        "4e01",
        "4e01010071000001",
        "4e01000071000001014142",
        "4e010101710000010141",
        "4e0101000100000101",
        "4e01010078000001",
    ],
)
def test_a_broken_text_header_is_refused(packet: str) -> None:
    data = bytes.fromhex(packet)
    assert ack(connected_g1(), LEFT, data) == bytes([0x4E, 0xCA, data[1] if len(data) > 1 else 0])


def test_exit_goes_back_to_the_empty_screen() -> None:
    g1 = connected_g1()
    write(g1, LEFT, text_packets(1, "here")[0])
    assert Lit(LEFT) in write(g1, LEFT, b"\x18")
    assert g1.arms[LEFT].screen == BLANK


def test_streamed_text_grows_on_the_lens() -> None:
    g1 = connected_g1()
    for seq, body in ((2, b"one"), (3, b"one two")):
        packet = bytes([0x54, 12 + len(body), 0, seq, 3, 1, 0, 1, 0, 0, 0, 0xFF]) + body
        assert ack(g1, LEFT, packet)[-1] == 0xC9
        assert g1.arms[LEFT].screen.text == body.decode()
    assert ack(g1, LEFT, bytes([0x54, 99, 0, 4, 3, 1, 0, 1, 0, 0, 0, 0xFF]))[1] == 0xCA


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.failure("BLE-04")
def test_an_arm_hangs_up_after_32_s_without_a_write_and_not_before() -> None:
    g1 = connected_g1()
    write(g1, LEFT, b"\x25", 10.0)
    assert not [e for e in g1.handle_deadline(31.9) if isinstance(e, Disconnect)]
    assert [e.arm for e in g1.handle_deadline(32.0) if isinstance(e, Disconnect)] == [RIGHT]
    assert not g1.handle_deadline(41.9)
    assert [e.arm for e in g1.handle_deadline(42.0) if isinstance(e, Disconnect)] == [LEFT]


def test_heartbeats_every_8_s_keep_the_link_for_hours() -> None:
    g1 = connected_g1()
    for tick in range(1, 900):
        for arm in (LEFT, RIGHT):
            effects = write(g1, arm, b"\x25\x06\x00\x01\x04\x01", tick * 8.0)
            assert not [e for e in effects if isinstance(e, Disconnect)]


def test_answers_come_after_20_to_40_ms_in_the_order_of_the_questions() -> None:
    chances = iter([0.99, 0.0] * 50)
    g1 = connected_g1()
    g1._chance = lambda: next(chances)
    for seq in range(10):
        g1.written(LEFT, 0, TO_GLASSES, text_packets(seq, "x")[0], 1.0)
    assert g1.handle_deadline(1.0199) == []
    replies = said(g1.handle_deadline(1.041), LEFT)
    assert replies == [bytes([0x4E, 0xC9, seq]) for seq in range(10)]


def test_an_answer_is_not_sent_into_the_next_link() -> None:
    g1 = connected_g1()
    g1.written(LEFT, 0, TO_GLASSES, b"\x25", 1.0)
    g1.disconnected(LEFT, 0, 1.01)
    g1.connected(LEFT, 5, 251, 1.02)
    g1.subscribed(LEFT, 5, FROM_GLASSES, True, 1.02)
    assert said(g1.handle_deadline(2.0), LEFT) == []
    assert g1.written(LEFT, 0, TO_GLASSES, b"\x25", 2.0) == []
    assert g1.disconnected(LEFT, 0, 2.0) == []
    assert g1.arms[LEFT].state is ArmState.CONNECTED


# --- subscription and MTU -----------------------------------------------------------------------------------------------


def test_nothing_is_notified_before_the_subscription_and_nothing_beyond_the_mtu() -> None:
    g1 = new_g1()
    g1.start(0.0)
    g1.connected(RIGHT, 1, 23, 0.0)
    assert said(write(g1, RIGHT, b"\x25"), RIGHT) == []
    assert g1.arms[RIGHT].counters.dropped_unsubscribed == 1
    g1.subscribed(RIGHT, 1, FROM_GLASSES, True, 1.0)
    write(g1, RIGHT, b"\x0e\x01", 2.0)
    assert said(g1.handle_deadline(2.2), RIGHT) == []
    assert g1.arms[RIGHT].counters.dropped_too_long == 1
    g1.mtu_changed(RIGHT, 1, 205, 2.2)
    assert len(said(g1.handle_deadline(2.31), RIGHT)[0]) == 202


@pytest.mark.failure("BLE-05")
def test_a_write_longer_than_the_mtu_is_refused_and_one_beyond_200_bytes_is_not_answered() -> None:
    g1 = connected_g1()
    assert write(g1, LEFT, bytes(249)) == [Refuse(ATT_INVALID_LENGTH)]
    assert write(g1, LEFT, b"\x25" + bytes(200)) == []
    assert g1.arms[LEFT].counters.ignored_writes == 1


# --- microphone ---------------------------------------------------------------------------------------------------------


def test_the_microphone_streams_every_100_ms_from_sequence_0_and_wraps() -> None:
    g1 = connected_g1()
    effects = write(g1, RIGHT, b"\x0e\x01", 1.0)
    assert Microphone(True) in effects
    assert g1.microphone is not None
    sequence = []
    for tick in range(1, 260):
        now = 1.0 + tick * 0.1 + 0.001
        sequence += [p[1] for p in said(g1.handle_deadline(now), RIGHT) if p[0] == 0xF1]
        if tick % 50 == 0:
            for link, arm in enumerate((LEFT, RIGHT)):
                g1.written(arm, link, TO_GLASSES, b"\x25", now)
    assert sequence == [n % 256 for n in range(259)]
    assert Microphone(False) in write(g1, RIGHT, b"\x0e\x00", 30.0)
    assert g1.microphone is None
    assert said(g1.handle_deadline(31.0), RIGHT) == []
    write(g1, RIGHT, b"\x0e\x01", 40.0)
    assert said(g1.handle_deadline(40.15), RIGHT)[0][:2] == b"\xf1\x00"


def test_a_repeated_switch_on_does_not_restart_the_stream() -> None:
    g1 = connected_g1()
    write(g1, RIGHT, b"\x0e\x01", 1.0)
    g1.handle_deadline(1.11)
    assert ack(g1, RIGHT, b"\x0e\x01", 1.12) == b"\x0e\xc9\x01"
    assert said(g1.handle_deadline(1.21), RIGHT)[0][:2] == b"\xf1\x01"


def test_the_left_arm_acknowledges_the_switch_and_stays_silent() -> None:
    g1 = connected_g1()
    assert ack(g1, LEFT, b"\x0e\x01") == b"\x0e\xc9\x01"
    assert g1.microphone is None
    assert ack(connected_g1(left_microphone=0xCA), LEFT, b"\x0e\x01") == b"\x0e\xca\x01"


def test_link_loss_of_the_right_arm_ends_the_microphone_and_of_the_left_does_not() -> None:
    g1 = connected_g1()
    write(g1, RIGHT, b"\x0e\x01")
    assert Microphone(False) not in g1.disconnected(LEFT, 0, 2.0)
    assert Microphone(False) in g1.disconnected(RIGHT, 1, 2.0)


def test_a_shell_that_slept_does_not_burst_but_goes_on() -> None:
    g1 = connected_g1()
    write(g1, RIGHT, b"\x0e\x01", 1.0)
    g1.handle_deadline(1.1)
    assert len([p for p in said(g1.handle_deadline(20.0), RIGHT) if p[0] == 0xF1]) == 1
    assert g1.deadline == pytest.approx(20.1)


# --- bitmaps ------------------------------------------------------------------------------------------------------------


def send_bitmap(g1: EvenG1, arm: str, file: bytes) -> bytes:
    for index in range(-(-len(file) // BITMAP_CHUNK)):
        prefix = b"\x00\x1c\x00\x00" if index == 0 else b""
        write(g1, arm, bytes([0x15, index]) + prefix + file[index * BITMAP_CHUNK :][:BITMAP_CHUNK])
    assert ack(g1, arm, b"\x20\x0d\x0e") == b"\x20\xc9"
    return ack(g1, arm, b"\x16" + zlib.crc32(b"\x00\x1c\x00\x00" + file).to_bytes(4, "big"))


def bmp(height: int, rows: list[bytes], palette: bytes = bytes.fromhex("00000000ffffff00")) -> bytes:
    size = 62 + 72 * len(rows)
    header = b"BM" + size.to_bytes(4, "little") + bytes(4) + (62).to_bytes(4, "little")
    header += (
        (40).to_bytes(4, "little") + (576).to_bytes(4, "little") + height.to_bytes(4, "little", signed=True)
    )
    header += b"\x01\x00\x01\x00" + bytes(24) + palette
    return header + b"".join(rows)


def test_rows_stand_bottom_up_unless_the_height_is_negative_and_the_palette_says_what_is_lit() -> None:
    top, bottom = b"\xff" + bytes(71), bytes(71) + b"\x01"
    for file in (bmp(2, [bottom, top]), bmp(-2, [top, bottom])):
        g1 = connected_g1()
        assert send_bitmap(g1, LEFT, file)[-1] == 0xC9
        (picture,) = g1.arms[LEFT].screen.items
        assert isinstance(picture, PictureItem)
        assert picture.bits == top + bottom
    g1 = connected_g1()
    inverted = bmp(1, [bytes([0x0F] * 72)], bytes.fromhex("ffffff0000000000"))
    assert send_bitmap(g1, LEFT, inverted)[-1] == 0xC9
    (picture,) = g1.arms[LEFT].screen.items
    assert isinstance(picture, PictureItem)
    assert picture.bits == bytes([0xF0] * 72)


@pytest.mark.parametrize(
    "file", [b"BM" + bytes(100), bmp(2, [bytes(72)]), bmp(200, [bytes(72)] * 200), b"PNG" + bytes(200)]
)
def test_a_correct_crc_over_no_bitmap_shows_nothing(file: bytes) -> None:
    g1 = connected_g1()
    assert send_bitmap(g1, LEFT, file)[-1] == 0xCA
    assert g1.arms[LEFT].screen == BLANK


# --- notifications and the dashboard ------------------------------------------------------------------------------------


def push(app: str, number: int = 1, message: str = "Lunch?") -> list[bytes]:
    body = json.dumps(
        {"ncs_notification": {"msg_id": number, "app_identifier": app, "title": "Ada", "message": message}}
    ).encode()
    chunks = [body[i : i + 176] for i in range(0, len(body), 176)]
    return [bytes([0x4B, 1, len(chunks), index]) + chunk for index, chunk in enumerate(chunks)]


def allow(g1: EvenG1, *apps: str) -> None:
    body = json.dumps({"app": {"list": [{"id": app, "name": app} for app in apps], "enable": True}}).encode()
    assert ack(g1, LEFT, b"\x04\x01\x00" + body)[:2] == b"\x04\xc9"


def test_a_notification_of_an_allowed_app_shows_on_both_arms_for_its_time() -> None:
    g1 = connected_g1()
    allow(g1, "chat")
    write(g1, LEFT, text_packets(1, "app text")[0])
    for packet in push("chat"):
        write(g1, LEFT, packet, 1.0)
    assert {arm.screen.text for arm in g1.arms.values()} == {"Ada\nLunch?"}
    g1.handle_deadline(6.1)
    assert g1.arms[LEFT].screen.text == "app text"
    assert g1.arms[RIGHT].screen == BLANK


def test_other_apps_are_acknowledged_and_not_shown_and_a_clear_ends_it_early() -> None:
    g1 = connected_g1()
    allow(g1, "chat")
    assert ack(g1, LEFT, push("mail")[0])[:2] == b"\x4b\xc9"
    assert g1.arms[LEFT].screen == BLANK
    write(g1, LEFT, push("chat", 7)[0])
    assert g1.arms[LEFT].screen.kind == "notification"
    write(g1, LEFT, bytes.fromhex("4c00000007"))
    assert g1.arms[LEFT].screen == BLANK


def test_a_push_that_is_no_json_is_refused() -> None:
    assert ack(connected_g1(), LEFT, b"\x4b\x01\x01\x00{nonsense")[:2] == b"\x4b\xca"
    assert ack(connected_g1(), LEFT, b"\x04\x01\x00[]")[:2] == b"\x04\xca"


def test_looking_up_with_an_empty_screen_shows_the_dashboard() -> None:
    g1 = connected_g1()
    for arm in (LEFT, RIGHT):
        write(g1, arm, bytes.fromhex("0616000201805b1d667b6cade28e0100001015000100"))
    write(g1, LEFT, bytes.fromhex("1e23009003010001000101055469746c651000546869732069732074686520626f6479"))
    effects = g1.user(UserInput(Action.LOOK_UP), 2.0)
    assert said(effects, LEFT) == [b"\xf5\x02"]
    assert said(effects, RIGHT)[0] == b"\xf5\x02"
    assert said(effects, RIGHT)[1][:1] == b"\x22"
    assert g1.arms[LEFT].screen.text == "16:53 21°C\nTitle: This is the body"
    g1.user(UserInput(Action.LOOK_DOWN), 3.0)
    assert g1.arms[LEFT].screen == BLANK


# --- people -------------------------------------------------------------------------------------------------------------


def test_a_double_tap_closes_what_an_app_shows() -> None:
    g1 = connected_g1()
    write(g1, LEFT, text_packets(1, "app")[0])
    write(g1, RIGHT, text_packets(1, "app")[0])
    assert said(g1.user(UserInput(Action.DOUBLE_TAP, LEFT), 2.0), LEFT) == [b"\xf5\x00"]
    assert {arm.screen for arm in g1.arms.values()} == {BLANK}


def test_silent_mode_wear_and_the_case_darken_the_lens_and_give_it_back() -> None:
    g1 = connected_g1()
    write(g1, LEFT, text_packets(1, "app")[0])
    for dark, light in (
        (UserInput(Action.TRIPLE_TAP), UserInput(Action.TRIPLE_TAP)),
        (UserInput(Action.WEAR, None, False), UserInput(Action.WEAR, None, True)),
        (UserInput(Action.CASE, None, "open"), UserInput(Action.WEAR, None, True)),
    ):
        g1.user(dark, 2.0)
        assert g1.arms[LEFT].screen == BLANK
        g1.user(light, 3.0)
        assert g1.arms[LEFT].screen.text == "app"


def test_an_empty_battery_takes_the_arm_off_the_air_until_it_is_charged() -> None:
    g1 = connected_g1()
    effects = g1.user(UserInput(Action.BATTERY, LEFT, 0), 2.0)
    assert [e.arm for e in effects if isinstance(e, Disconnect)] == [LEFT]
    assert g1.disconnected(LEFT, 0, 2.1) == []
    assert g1.arms[LEFT].state is ArmState.DARK
    assert g1.user(UserInput(Action.BATTERY, LEFT, 40), 3.0) == [Advertise(LEFT, True)]
    assert g1.arms[RIGHT].state is ArmState.CONNECTED


def test_a_lid_opened_again_while_the_link_ends_leaves_the_arm_on_the_air() -> None:
    g1 = connected_g1()
    g1.user(UserInput(Action.CASE, None, "closed"), 2.0)
    g1.handle_deadline(2.6)
    assert g1.arms[LEFT].state is ArmState.LEAVING
    g1.user(UserInput(Action.CASE, None, "open"), 2.7)
    assert g1.disconnected(LEFT, 0, 2.8) == [Advertise(LEFT, True)]


@pytest.mark.parametrize(
    "what",
    [
        UserInput(Action.PRESS),
        UserInput(Action.SWIPE),
        UserInput(Action.TAP, "middle"),
        UserInput(Action.BATTERY, None, "full"),
        UserInput(Action.BATTERY, None, True),
        UserInput(Action.CASE, None, "broken"),
        UserInput(Action.WEAR, None, 3),
        UserInput(Action.LONG_PRESS, LEFT, -1),
    ],
)
def test_what_the_glasses_cannot_take_is_refused_with_a_reason(what: UserInput) -> None:
    g1 = connected_g1()
    before = g1.snapshot()
    with pytest.raises(NoTaker, match=r"\w+ \w+"):
        g1.user(what, 1.0)
    assert g1.snapshot() == before


def test_a_tap_that_nobody_would_hear_is_refused() -> None:
    g1 = new_g1()
    g1.start(0.0)
    with pytest.raises(NoTaker, match="not connected"):
        g1.user(UserInput(Action.TAP), 1.0)
    g1.connected(RIGHT, 1, 251, 1.0)
    with pytest.raises(NoTaker, match="notifications are off"):
        g1.user(UserInput(Action.TAP), 1.0)


def test_a_held_touch_ends_by_itself_after_30_s() -> None:
    g1 = connected_g1()
    g1.user(UserInput(Action.LONG_PRESS, LEFT, 60), 1.0)
    write(g1, LEFT, b"\x25", 20.0)
    assert said(g1.handle_deadline(31.0), LEFT) == [b"\xf5\x18"]


def test_unpairing_forgets_the_bond_and_hangs_up() -> None:
    assert write(connected_g1(), LEFT, b"\x47")[:2] == [ForgetBond(LEFT), Disconnect(LEFT, 0, 0x13)]


def test_a_reboot_ends_both_links_and_comes_back() -> None:
    g1 = connected_g1()
    effects = write(g1, LEFT, b"\x23\x72", 1.0)
    assert [e.arm for e in effects if isinstance(e, Disconnect)] == [LEFT, RIGHT]
    for link, arm in enumerate((LEFT, RIGHT)):
        g1.disconnected(arm, link, 1.1)
    assert [e for e in g1.handle_deadline(4.0) if isinstance(e, Advertise)] == [
        Advertise(LEFT, True),
        Advertise(RIGHT, True),
    ]


# --- faults -------------------------------------------------------------------------------------------------------------


@pytest.mark.failure("BLE-01")
def test_a_mute_arm_acts_and_says_nothing_and_a_deaf_one_does_neither() -> None:
    g1 = connected_g1()
    g1.arms[LEFT].faults.mute = True
    g1.arms[RIGHT].faults.deaf = True
    assert said(write(g1, LEFT, text_packets(1, "x")[0]), LEFT) == []
    assert said(write(g1, RIGHT, text_packets(1, "x")[0]), RIGHT) == []
    assert (g1.arms[LEFT].screen.text, g1.arms[RIGHT].screen) == ("x", BLANK)


@pytest.mark.failure("BLE-03")
def test_answers_can_be_dropped_failed_doubled_and_late() -> None:
    g1 = connected_g1()
    faults = g1.arms[LEFT].faults
    faults.drop_acks = 1
    assert said(write(g1, LEFT, b"\x25"), LEFT) == []
    assert said(write(g1, LEFT, b"\x25"), LEFT) == [b"\x25"]
    faults.fail_acks = 1
    assert said(write(g1, LEFT, text_packets(3, "x")[0]), LEFT) == [b"\x4e\xca\x03"]
    faults.duplicate = 1.0
    assert said(write(g1, LEFT, b"\x25"), LEFT) == [b"\x25", b"\x25"]
    faults.duplicate, faults.ack_delay = 0.0, (1.2, 1.2)
    g1.written(LEFT, 0, TO_GLASSES, b"\x25", 5.0)
    assert said(g1.handle_deadline(6.19), LEFT) == []
    assert said(g1.handle_deadline(6.21), LEFT) == [b"\x25"]


def test_a_link_can_be_cut_at_byte_n() -> None:
    g1 = connected_g1()
    g1.arms[LEFT].faults.disconnect_after = 10
    assert not [e for e in write(g1, LEFT, bytes([0x25] * 6)) if isinstance(e, Disconnect)]
    assert [e for e in write(g1, LEFT, bytes([0x25] * 6)) if isinstance(e, Disconnect)]


# --- identity and any bytes ---------------------------------------------------------------------------------------------


def test_names_carry_the_channel_and_the_low_address_bytes() -> None:
    identity = Identity(1, 74, ("EA:A4:A5:57:86:3C", "EA:A4:A5:11:F1:A7"), 20021)
    g1 = build(identity, chance=lambda: 0.0, audio=new_g1().audio)
    assert [arm.spec.name for arm in g1.arms.values()] == ["Even G1_74_L_57863C", "Even G1_74_R_11F1A7"]
    assert g1.serial == "S110LABD020021"
    assert b"S110LABD020021\0" in g1.arms[LEFT].spec.manufacturer_data


packets = st.one_of(
    st.binary(max_size=248),
    st.builds(
        lambda head, tail: bytes([head]) + tail,
        st.sampled_from(sorted(_COMMANDS)),
        st.binary(max_size=200),
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([LEFT, RIGHT]), packets), max_size=12))
def test_any_bytes_are_answered_or_ignored_and_never_raise(writes: list[tuple[str, bytes]]) -> None:
    g1: Any = connected_g1()
    now = 1.0
    for arm, data in writes:
        now += 0.05
        link = g1.arms[arm].link
        if link is None:
            continue
        for effect in g1.written(arm, link, TO_GLASSES, data, now) + g1.handle_deadline(now):
            if isinstance(effect, Notify):
                assert len(effect.data) <= 248
            if isinstance(effect, Disconnect) and g1.arms[effect.arm].link == effect.link:
                g1.disconnected(effect.arm, effect.link, now)
    json.dumps(g1.snapshot())
    assert len(g1._timers) < 100
