"""The Brilliant Frame driver: its vectors, its program on real Lua, one write at a time, taps, sound and photos."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.profiles import frame
from edge.profiles.base import (
    Advert,
    Arm,
    AudioPacket,
    Battery,
    Blank,
    Brightness,
    Command,
    Event,
    Gesture,
    Head,
    Identity,
    Lane,
    Microphone,
    Motion,
    PhotoData,
    PhotoFailed,
    Reply,
    Show,
    TakePhoto,
    TextWall,
    Touch,
    Unknown,
    Unsupported,
    Warn,
)
from edge.profiles.base import WearDetection as Detect
from edge.profiles.frame import PROGRAM, Frame, FrameDriver, capture, lua, message
from tests.support.tools import missing

WHOLE = Arm.WHOLE
VECTORS = Path(__file__).parents[1] / "vectors" / "frame"
DEVICE = Path(__file__).with_name("frame_device.lua")


def vectors(topic: str) -> dict[str, bytes]:
    listed = json.loads((VECTORS / f"{topic}.json").read_text())["vectors"]
    return {v["name"]: bytes.fromhex(v["hex"]) for v in listed if "hex" in v}


MESSAGES, NOTIFIED, CONTROL = vectors("message"), vectors("notify"), vectors("control")


def read(raw: bytes, driver: FrameDriver | None = None, now: float = 1.0) -> list[Event]:
    return (driver or FrameDriver()).decode(WHOLE, frame.REPLIES, raw, now)


def first(driver: FrameDriver, action: Any) -> Command:
    [command] = driver.commands(WHOLE, action)
    return command


# --------------------------------------------------------------------------------------------------------- vectors


def test_messages_are_framed_as_the_vectors_say() -> None:
    assert message(0x0D, capture(4, 512), 244) == [MESSAGES["capture_512_very_high"]]
    line = struct.pack(">HHBB", 1, 1, 1, 4) + b"Hello"
    assert message(0x12, line, 244) == [MESSAGES["plain_text_hello"]]
    packets = message(0x20, bytes(500), 244)
    assert [len(packet) for packet in packets] == [244, 244, 20]
    assert {packets[0], packets[-1]} <= set(MESSAGES.values())


def test_the_start_breaks_resets_and_breaks() -> None:
    packets = FrameDriver().init(WHOLE)[0][0].encode(244)
    controls = [packet.data for packet in packets[:3]]
    assert controls == [b"\x03", b"\x04", b"\x03"]
    assert set(controls) <= set(CONTROL.values())
    assert all(packet.gap >= 0.2 for packet in packets[:3])


@pytest.mark.parametrize(
    ("raw", "events"),
    [
        ("31", [Reply(("print", b"1"))]),
        ("6e696c", [Unknown(b"nil")]),
        ("0109", []),
        ("010c57", [Battery(87)]),
        ("010a00640038ff2c01000000000010", [Motion(0.0, 0.0, 1.0)]),
        ("010a000000c842000048c30000964300000000000000000000803f", [Motion(0.0, 0.0, 1.0)]),
        ("01200000", [Unknown(bytes.fromhex("01200000"))]),
        ("0100", [Unknown(b"\x01\x00")]),
        ("0106", []),
        ("0107ffd8ffe0", []),
        ("0108", []),
    ],
)
def test_notifications_mean_what_the_vectors_say(raw: str, events: list[Event]) -> None:
    assert read(bytes.fromhex(raw)) == events


def test_every_notified_vector_is_read() -> None:
    for raw in NOTIFIED.values():
        read(raw)
    [packet] = read(bytes.fromhex("0105000102030405060708090a0b0c0d0e0f"))
    assert isinstance(packet, AudioPacket)
    assert len(packet.frames[0]) == 16 * 4, "twice the rate, twice the bytes"


# ----------------------------------------------------------------------------------------------------- the program


@pytest.mark.parametrize("payload", [61, 182, 244, 514])
def test_the_program_travels_in_statements_that_fit_and_say_their_number(payload: int) -> None:
    pieces = lua(payload)
    assert all(len(piece) <= min(payload, 244) for piece in pieces)
    body = "".join(piece.decode().partition('"')[2].rpartition('"')[0] for piece in pieces)
    assert body == PROGRAM
    assert all(piece.endswith(f"print({number})".encode()) for number, piece in enumerate(pieces, 1))


def test_the_program_does_on_real_lua_what_the_driver_counts_on() -> None:
    interpreter = shutil.which("lua5.4")
    if interpreter is None:
        missing("lua5.4", "apt-get install lua5.4")
    assert interpreter is not None
    done = subprocess.run(
        [interpreter, str(DEVICE)], input=PROGRAM, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    acts = [line.replace("\t", " ") for line in lines if not line.startswith("sent")]
    assert acts == [
        "microphone off",
        "text Ab 1 1", "text c 1 61", "show",
        "brightness 2",
        "microphone 8000 8",
        "capture 512 HIGH 0",
        "microphone off",
        "bitmap 1 2 8 2 0 5", "show",
        "text   1 1", "show",
        "microphone off", "text   1 1", "show",
    ]  # fmt: skip
    sent = [bytes.fromhex(line.split("\t")[1]) for line in lines if line.startswith("sent")]
    driver = FrameDriver()
    driver.commands(WHOLE, TakePhoto("p"))
    events = [event for raw in sent for event in driver.decode(WHOLE, "", b"\x01" + raw, 1.0)]
    assert Identity("firmware", "v1") in events
    assert Reply(("ready",)) in events
    assert Battery(87) in events
    assert Head(up=True) in events
    assert Motion(0.0, 0.0, 1.0) in events
    assert Reply(("ack", 0x28, 1)) in events, "the second packet of a message"
    assert Reply(("ack", 0x29, 0), ok=False) in events, "an unknown message is refused"
    sound = [event for event in events if isinstance(event, AudioPacket)]
    assert [packet.seq for packet in sound] == list(range(len(sound)))
    assert {len(packet.frames) for packet in sound} == {3}, "30 ms each"
    assert [e.reason for e in events if isinstance(e, PhotoFailed)] == [
        "what arrived is no whole JPEG picture"
    ]


# -------------------------------------------------------------------------------------------------- one at a time


def test_every_packet_waits_for_an_answer_of_its_own_and_attempts_never_share_one() -> None:
    driver = FrameDriver()
    command = first(driver, Show(TextWall("word " * 200)))
    keys = [packet.reply for _ in range(5) for packet in command.encode(61)]
    assert None not in keys
    assert len(set(keys)) == len(keys)


def test_a_heartbeat_queues_with_everything_else() -> None:
    assert FrameDriver().heartbeat(WHOLE).lane is Lane.CONTROL


def test_a_link_too_small_says_what_it_needs() -> None:
    with pytest.raises(Unsupported, match=r"MTU of 23.*needs 64"):
        FrameDriver().init(WHOLE)[0][0].encode(20)
    with pytest.raises(Unsupported, match="MTU of 86"):
        first(FrameDriver(), Microphone(True)).encode(61)


def test_an_error_of_lua_is_told_and_our_own_break_is_not() -> None:
    [warning] = read(b"[string \"prnt(1)\"]:1: attempt to call a nil value (global 'prnt')")
    assert isinstance(warning, Warn)
    assert "nil value" in warning.text
    assert read(b'[string "x"]:1: break signal') == []


# ----------------------------------------------------------------------------------------------------------- acts


@pytest.mark.parametrize(("percent", "step"), [(0, 0), (50, 2), (100, 4), (-5, 0), (1000, 4)])
def test_brightness_has_five_steps(percent: int, step: int) -> None:
    [packet] = first(FrameDriver(), Brightness(percent)).encode(244)
    assert packet.data[4:] == b"B" + bytes((step,))


def test_blank_is_an_empty_text() -> None:
    [packet] = first(FrameDriver(), Show(Blank())).encode(244)
    assert packet.data[2:] == b"\0\1T"


def test_lines_break_where_the_devices_font_says() -> None:
    driver = FrameDriver()
    words = "The quick brown fox jumps over the lazy dog and runs away"
    [packet] = first(driver, Show(TextWall(words))).encode(244)
    lines = packet.data[5:].decode().split("\n")
    assert " ".join(lines) == words
    assert all(frame.FONT.measure(line) <= 640 for line in lines)
    assert driver.pages(TextWall("line\n" * 13)) == 3
    assert driver.warnings(TextWall("a ✈")) == ("the lens has no glyph for U+2708",)


def test_what_it_lacks_is_refused() -> None:
    with pytest.raises(Unsupported):
        FrameDriver().commands(WHOLE, Detect(True))


# ------------------------------------------------------------------------------------------------ taps, sound, photos


@pytest.mark.parametrize(
    ("times", "gesture"),
    [
        ([0.0], Gesture.SINGLE_TAP),
        ([0.0, 0.02], Gesture.SINGLE_TAP),
        ([0.0, 0.2], Gesture.DOUBLE_TAP),
        ([0.0, 0.2, 0.4], Gesture.TRIPLE_TAP),
        ([0.0, 0.2, 0.4, 0.6, 0.8], Gesture.TRIPLE_TAP),
    ],
)
def test_taps_are_counted_and_bounces_are_not(times: list[float], gesture: Gesture) -> None:
    driver = FrameDriver()
    for at in times:
        assert read(b"\x01\x09", driver, at) == []
    assert driver.deadline is not None
    assert driver.handle_deadline(driver.deadline - 0.01) == []
    assert driver.handle_deadline(driver.deadline) == [(WHOLE, Touch(gesture))]
    assert driver.deadline is None


def test_sound_is_widened_without_a_step_between_packets() -> None:
    driver = FrameDriver()
    [one] = read(b"\x01\x15\x07" + bytes([10] * 240), driver)
    [two] = read(b"\x01\x15\x08" + bytes([20] * 240), driver)
    assert isinstance(one, AudioPacket)
    assert isinstance(two, AudioPacket)
    assert (one.seq, two.seq) == (7, 8)
    assert [len(part) for part in one.frames] == [320] * 3
    assert struct.unpack("<3h", two.frames[0][:6]) == (15 * 256, 20 * 256, 20 * 256)


JPEG = b"\xff\xd8" + bytes(700) + b"\xff\xd9"


def test_a_photo_is_whole_or_failed() -> None:
    driver = FrameDriver()
    driver.commands(WHOLE, TakePhoto("p"))
    with pytest.raises(Unsupported, match="busy"):
        driver.commands(WHOLE, TakePhoto("q"))
    read(b"\x01\x07" + JPEG[:400], driver)
    read(b"\x01\x07" + JPEG[400:], driver)
    assert read(b"\x01\x08" + len(JPEG).to_bytes(4, "big"), driver) == [PhotoData("p", JPEG)]

    driver.commands(WHOLE, TakePhoto("r"))
    read(b"\x01\x07" + JPEG[:400], driver)
    assert read(b"\x01\x08" + len(JPEG).to_bytes(4, "big"), driver) == [
        PhotoFailed("r", "400 of 704 bytes arrived")
    ]


@pytest.mark.failure("MED-01")
def test_a_photo_that_stops_or_loses_its_link_fails_in_time() -> None:
    driver = FrameDriver()
    driver.commands(WHOLE, TakePhoto("p"))
    read(b"\x01\x07" + JPEG[:400], driver, 10.0)
    assert driver.deadline == 15.0
    [(_, failed)] = driver.handle_deadline(15.0)
    assert failed == PhotoFailed("p", "the glasses stopped sending after 400 bytes")

    driver.commands(WHOLE, TakePhoto("q"))
    driver.opened(WHOLE)
    assert read(b"0", driver) == [PhotoFailed("q", "the link was lost"), Reply(("print", b"0"))]


def test_only_frames_are_recognised() -> None:
    profile = Frame()
    assert profile.recognise(Advert("AA", "Frame 4F")) is not None
    for name in ("Frame Update", "Frame", "Halo 4F", "frame 4f", None):
        assert profile.recognise(Advert("AA", name)) is None


@given(st.binary(max_size=260), st.floats(0, 1e6))
def test_nothing_on_the_air_makes_it_raise(raw: bytes, now: float) -> None:
    driver = FrameDriver()
    driver.commands(WHOLE, TakePhoto("p"))
    for prefix in (b"", b"\x01", b"\x01\x05", b"\x01\x15\x00", b"\x01\x0a", b"\x01\x08"):
        driver.decode(WHOLE, "", prefix + raw, now)
