"""The Mentra Nex driver: its vectors, both header forms, pictures with missing chunks, and the question that must be answered."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge.profiles import proto
from edge.profiles.base import (
    Advert,
    Arm,
    AskBattery,
    AudioPacket,
    Battery,
    Blank,
    Brightness,
    Button,
    Command,
    Head,
    Microphone,
    Motion,
    Picture,
    Reply,
    Send,
    Show,
    Speech,
    TextWall,
    Unknown,
    Unsupported,
)
from edge.profiles.nex import IMAGE_ROUNDS, REPLIES, Nex, NexDriver

VECTORS = Path(__file__).parents[1] / "vectors" / "nex"
WHOLE = Arm.WHOLE


def vectors(topic: str) -> dict[str, dict[str, Any]]:
    return {v["name"]: v for v in json.loads((VECTORS / f"{topic}.json").read_text())["vectors"]}


def sent(command: Command, payload: int = 182) -> list[bytes]:
    return [packet.data for packet in command.encode(payload)]


COMMANDS = vectors("command")
EVENTS = vectors("event")


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("microphone_on", Microphone(True)),
        ("microphone_off", Microphone(False)),
        ("brightness_50", Brightness(50)),
        ("display_text", Show(TextWall("Hello"))),
        ("clear_display", Show(Blank())),
    ],
)
def test_commands_are_the_vectors(name: str, action: Any) -> None:
    made = [data for command in NexDriver().commands(WHOLE, action) for data in sent(command)]
    assert bytes.fromhex(COMMANDS[name]["hex"]) in made


def test_the_battery_is_asked_as_the_vector_does() -> None:
    [command] = NexDriver().commands(WHOLE, AskBattery())
    [data] = sent(command)
    vector = proto.fields(bytes.fromhex(COMMANDS["battery_request"]["hex"])[1:])
    assert set(proto.fields(data[1:])) == set(vector)


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("battery_82_charging", Battery(82, charging=True)),
        ("head_up", Head(up=True)),
        ("voice_active", Speech(on=True)),
        ("imu_at_rest", Motion(0.0, 0.0, 1.0)),
    ],
)
def test_events_of_the_vectors_are_understood(name: str, event: Any) -> None:
    assert event in NexDriver().decode(WHOLE, REPLIES, bytes.fromhex(EVENTS[name]["hex"]), 0.0)


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_no_vector_is_unknown(name: str) -> None:
    events = NexDriver().decode(WHOLE, REPLIES, bytes.fromhex(EVENTS[name]["hex"]), 0.0)
    assert not any(isinstance(event, Unknown) for event in events)


def test_json_of_the_first_generation_is_understood() -> None:
    vector = vectors("json")["battery_status"]
    events = NexDriver().decode(WHOLE, REPLIES, bytes.fromhex(vector["hex"]), 0.0)
    assert Battery(82, charging=False) in events


def test_audio_vectors_give_five_frames_of_forty_bytes() -> None:
    for vector in vectors("audio").values():
        [event] = NexDriver().decode(WHOLE, REPLIES, bytes.fromhex(vector["hex"]), 0.0)
        assert isinstance(event, AudioPacket)
        assert [len(frame) for frame in event.frames] == [40] * 5


def test_the_question_whether_we_live_is_answered_at_once() -> None:
    [event] = NexDriver().decode(WHOLE, REPLIES, bytes.fromhex(EVENTS["ping"]["hex"]), 0.0)
    assert isinstance(event, Send)
    assert sent(event.command) == [bytes.fromhex(COMMANDS["pong"]["hex"])]


@pytest.mark.failure("BLE-14")
def test_the_form_with_a_fragment_header_is_tried_when_the_plain_one_is_not_answered() -> None:
    driver = NexDriver()
    [[plain, fragments]] = driver.init(WHOLE)
    assert sent(plain)[0][:2] == b"\x02\x0a"
    assert sent(fragments)[0][:4] == b"\x02\x01\x01\x00"
    [command] = driver.commands(WHOLE, Microphone(True))
    assert sent(command)[0][4:] == bytes.fromhex(vectors("fragment")["microphone_on_1_of_1"]["hex"])[4:]


def test_an_answer_in_the_plain_form_brings_the_plain_form_back() -> None:
    driver = NexDriver()
    [[_, fragments]] = driver.init(WHOLE)
    sent(fragments)
    driver.decode(WHOLE, REPLIES, bytes.fromhex(EVENTS["battery_82_charging"]["hex"]), 0.0)
    [command] = driver.commands(WHOLE, Microphone(True))
    assert sent(command) == [bytes.fromhex(COMMANDS["microphone_on"]["hex"])]


def test_fragments_are_put_together_in_any_order_and_expire() -> None:
    body = bytes.fromhex(EVENTS["device_info"]["hex"])[1:]
    halves = [b"\x02\x07\x02\x00" + body[:9], b"\x02\x07\x02\x01" + body[9:]]
    driver = NexDriver()
    assert driver.decode(WHOLE, REPLIES, halves[1], 0.0) == []
    assert Reply(("info",)) in driver.decode(WHOLE, REPLIES, halves[0], 1.0)
    driver.decode(WHOLE, REPLIES, halves[1], 2.0)
    driver.handle_deadline(7.0)
    assert driver.deadline is None


def test_a_press_is_reported_when_it_ends_and_knows_whether_it_was_long() -> None:
    def press(down: bool, now: float) -> list[Any]:
        body = proto.message({41: proto.message({1: 2, 2: down})})
        return driver.decode(WHOLE, REPLIES, b"\x02" + body, now)

    driver = NexDriver()
    assert press(True, 0.0) == []
    assert press(False, 0.1) == [Button("right")]
    press(True, 1.0)
    assert press(False, 2.0) == [Button("right", long=True)]


def picture() -> Picture:
    image = Image.new("1", (64, 32), 1)
    out = io.BytesIO()
    image.save(out, "PNG")
    return Picture(base64.b64encode(out.getvalue()).decode())


def answer(driver: NexDriver, stream: str, status: int, missing: bytes = b"") -> list[Any]:
    fields: dict[int, proto.Value] = {1: stream, 2: status}
    if missing:
        fields[3] = missing
    return driver.decode(WHOLE, REPLIES, b"\x02" + proto.message({30: proto.message(fields)}), 0.0)


def test_a_picture_is_a_bmp_with_white_first_in_numbered_chunks() -> None:
    driver = NexDriver()
    [command] = driver.commands(WHOLE, Show(picture()))
    packets = command.encode(182)
    assert packets[-1].reply == ("image", "0001")
    chunks = [p.data for p in packets if p.data[0] == 0xB0]
    assert [c[3] for c in chunks] == list(range(len(chunks)))
    assert all(c[1:3] == b"\x00\x01" for c in chunks)
    file = b"".join(c[4:] for c in chunks)
    shown = Image.open(io.BytesIO(file))
    assert shown.size == (500, 220)
    assert file[54:58] == b"\xff\xff\xff\x00"
    assert shown.convert("L").getpixel((250, 110)) == 255
    assert shown.convert("L").getpixel((0, 0)) == 0


@pytest.mark.failure("MED-03")
def test_missing_chunks_are_sent_again_a_bounded_number_of_times() -> None:
    driver = NexDriver()
    [command] = driver.commands(WHOLE, Show(picture()))
    chunks = [p.data for p in command.encode(182) if p.data[0] == 0xB0]
    for _ in range(IMAGE_ROUNDS):
        [again] = answer(driver, "0001", 1, b"\x01\x03")
        assert isinstance(again, Send)
        assert sent(again.command) == [chunks[1], chunks[3]]
    refused = answer(driver, "0001", 1, b"\x01")
    assert refused[0] == Reply(("image", "0001"), ok=False)
    assert answer(driver, "0001", 0) == []


def test_an_answer_about_a_replaced_picture_is_ignored() -> None:
    driver = NexDriver()
    for _ in range(2):
        [command] = driver.commands(WHOLE, Show(picture()))
        command.encode(182)
    assert answer(driver, "0001", 1, b"\x01") == []
    assert answer(driver, "0002", 0) == [Reply(("image", "0002"))]


def test_its_name_is_recognised() -> None:
    sighting = Nex().recognise(Advert("AA", "MENTRA_DISPLAY_1a2b3c"))
    assert sighting is not None
    assert sighting.pair == "1A2B3C"


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_no_bytes_raise(notifications: list[bytes]) -> None:
    driver = NexDriver()
    for data in notifications:
        for head in (b"", b"\x02", b"\x01", b"\xa0\x00", b"\x02\x01\x02\x00"):
            driver.decode(WHOLE, REPLIES, head + data, 0.0)
    driver.handle_deadline(100.0)


@given(
    st.dictionaries(
        st.integers(1, 100), st.integers(1, 2**63) | st.text(min_size=1) | st.binary(min_size=1), max_size=6
    )
)
def test_messages_read_back_as_they_were_written(fields: dict[int, Any]) -> None:
    found = proto.fields(proto.message(fields))
    expected = {n: [v.encode("utf-8", "replace") if isinstance(v, str) else v] for n, v in fields.items()}
    assert found == expected


def test_their_question_is_answered_every_two_seconds_at_most() -> None:
    driver = NexDriver()
    ping = bytes((0x02,)) + proto.message({15: b""})

    def answers(now: float) -> int:
        return sum(isinstance(event, Send) for event in driver.decode(WHOLE, REPLIES, ping, now))

    assert [answers(at) for at in (0.0, 0.1, 1.9, 2.0, 2.1, 12.0)] == [1, 0, 0, 1, 0, 1]


def test_text_keeps_its_spaces_and_breaks_between_words() -> None:
    words = "Straße, naïve façade: a line that is longer than the lens"
    [command] = NexDriver().commands(WHOLE, Show(TextWall(words)))
    [data] = sent(command)
    body = proto.fields(proto.fields(data[1:])[30][0])[1][0]  # type: ignore[arg-type]
    assert isinstance(body, bytes)
    assert " ".join(body.decode().split("\n")) == words
    assert NexDriver().warnings(TextWall(words)) == ()


def test_a_picture_and_the_text_after_it_begin_with_a_dark_lens() -> None:
    image = Image.new("1", (8, 8), 1)
    out = io.BytesIO()
    image.save(out, "BMP")
    driver = NexDriver()
    clear = sent(driver.commands(WHOLE, Show(Blank()))[0])
    [picture] = driver.commands(WHOLE, Show(Picture(base64.b64encode(out.getvalue()).decode())))
    assert sent(picture, 244)[:1] == clear
    [text] = driver.commands(WHOLE, Show(TextWall("a")))
    assert sent(text)[:1] == clear
    assert len(sent(text)) == 1, "and the next one does not"


def test_a_link_too_small_for_words_says_what_it_needs() -> None:
    [text] = NexDriver().commands(WHOLE, Show(TextWall("some words to read")))
    with pytest.raises(Unsupported, match="MTU"):
        text.encode(20)
