"""The G1 driver against the vectors that the simulated firmware is held to as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.profiles import g1, recognise
from edge.profiles.base import (
    Advert,
    Arm,
    AskBattery,
    AudioPacket,
    Battery,
    Blank,
    Brightness,
    CaseBattery,
    CaseCharging,
    Charging,
    ClearNotify,
    Clock,
    DashboardOpened,
    DisplayPosition,
    DoubleTextWall,
    Event,
    Gesture,
    Head,
    HeadUpAngle,
    Identity,
    Light,
    Microphone,
    Packet,
    Place,
    ReferenceCard,
    Reply,
    Show,
    Silent,
    SilentMode,
    TextWall,
    Touch,
    Unknown,
    Unsupported,
    Wear,
    WearDetection,
)

VECTORS = Path(__file__).parent.parent / "vectors" / "g1"
MTU_PAYLOAD = 248


def load(topic: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((VECTORS / f"{topic}.json").read_text())
    return value


def vector(topic: str, name: str) -> bytes:
    return next(bytes.fromhex(v["hex"]) for v in load(topic)["vectors"] if v["name"] == name)


def vectors(topic: str, direction: str) -> list[dict[str, Any]]:
    return [v for v in load(topic)["vectors"] if v["direction"] == direction]


def packets(arm: Arm, action: Any, driver: g1.G1Driver | None = None) -> list[bytes]:
    driver = driver or g1.G1Driver()
    return [p.data for command in driver.commands(arm, action) for p in command.encode(MTU_PAYLOAD)]


def decode(data: bytes, arm: Arm = Arm.RIGHT) -> list[Event]:
    return g1.G1Driver().decode(arm, "", data, 0.0)


# -------------------------------------------------------------------------------------------------------- vectors


# AI screens (other values of newscreen) belong to the vendor's phone app; an app's text is always plain.
PLAIN = [v for v in vectors("text", "to_glasses") if v["fields"]["newscreen"] == g1.PLAIN_TEXT]


@pytest.mark.parametrize("vec", PLAIN, ids=lambda v: v["name"])
def test_text_packets_equal_the_vectors(vec: dict[str, Any]) -> None:
    fields = vec["fields"]
    built = g1.text_packets(fields["seq"], fields["text"], fields["page"], fields["pages"], MTU_PAYLOAD)
    assert built[fields["index"]].data == bytes.fromhex(vec["hex"])
    assert len(built) == fields["total"]


def test_a_text_wall_becomes_the_vendors_page() -> None:
    assert packets(Arm.LEFT, Show(TextWall("Hello"))) == [vector("text", "one_line")]


def test_five_lines_of_ten_are_page_one_of_two() -> None:
    driver = g1.G1Driver()
    body = "\n".join(f"Line {n}" for n in range(1, 8))
    data = packets(Arm.LEFT, Show(TextWall(body)), driver)[0]
    want = vector("text", "five_lines_page_1_of_2")
    assert data[2:] == want[2:]
    assert packets(Arm.LEFT, Show(TextWall(body), page=1), driver)[0][9:] == b"\n\nLine 6\nLine 7\n"
    assert packets(Arm.LEFT, Show(TextWall(body), page=99), driver)[0][7:9] == b"\x02\x02"


def test_clearing_sends_one_space() -> None:
    for layout in (Blank(), TextWall(""), TextWall("  \n ")):
        assert packets(Arm.LEFT, Show(layout))[0][9:] == b" "


def test_setting_bytes_equal_the_vectors() -> None:
    for action, topic, name in (
        (SilentMode(True), "setting", "silent_on"),
        (SilentMode(False), "setting", "silent_off"),
        (HeadUpAngle(20), "setting", "head_up_20"),
        (HeadUpAngle(0), "setting", "head_up_0"),
        (HeadUpAngle(99), "setting", "head_up_60"),
        (Brightness(51), "setting", "brightness_21_manual"),
        (Brightness(0), "setting", "brightness_0_manual"),
        (AskBattery(), "battery", "request"),
        (ClearNotify(1), "notification", "clear"),
    ):
        assert packets(Arm.LEFT, action) == [vector(topic, name)]
    driver = g1.G1Driver()
    driver._next(Arm.LEFT, 0x26)
    assert packets(Arm.LEFT, DisplayPosition(4, 2), driver) == [
        vector("setting", "display_preview"),
        vector("setting", "display_commit"),
    ]


def test_the_clock_equals_the_vector_but_for_the_weather() -> None:
    want = vector("dashboard", "time_weather_22")
    local = int.from_bytes(want[9:17], "little") / 1000
    got = g1.clock_packet(want[3], local, twelve_hour=want[20] == 0)
    icon, temperature = 17, 18
    assert got[:icon] == want[:icon]
    assert got[temperature + 1 :] == want[temperature + 1 :]


def test_heartbeats_equal_the_vectors_and_never_use_255() -> None:
    driver = g1.G1Driver()
    sent = [driver.heartbeat(Arm.LEFT).encode(20)[0].data for _ in range(256)]
    assert sent[0] == bytes.fromhex("250600000400")
    assert sent[1] == bytes.fromhex("250600010401")
    assert sent[254] == bytes.fromhex("250600fe04fe")
    assert sent[255] == sent[0]


def test_the_microphone_is_asked_of_the_right_arm_only() -> None:
    assert packets(Arm.RIGHT, Microphone(True)) == [bytes.fromhex("0e01")]
    assert packets(Arm.RIGHT, Microphone(False)) == [bytes.fromhex("0e00")]
    assert packets(Arm.LEFT, Microphone(True)) == []


def test_picture_packets_equal_the_synthetic_vectors() -> None:
    named = {v["name"]: v for v in load("bitmap")["vectors"]}
    for fill, name in ((0x00, "zeros"), (0xFF, "ones")):
        file = g1.bitmap.bmp(bytes([fill]) * (72 * 136), 576, 136)
        built = [p.data for p in g1.picture_command(file).encode(MTU_PAYLOAD)]
        assert len(built) == 51 + 2
        expected = {k: bytes.fromhex(v["hex"]) for k, v in named.items() if k.startswith(name) and "hex" in v}
        assert built[0] == expected[f"{name}_first"]
        assert built[50] == expected[f"{name}_last"]
        assert built[51] == bytes.fromhex("200d0e")
        assert built[52] == expected[f"{name}_show"]


@pytest.mark.parametrize("vec", vectors("event", "from_glasses"), ids=lambda v: v["name"])
def test_every_event_of_the_vectors_is_understood(vec: dict[str, Any]) -> None:
    data = bytes.fromhex(vec["hex"])
    got = decode(data)
    assert not any(isinstance(event, Unknown) for event in got), got
    assert decode(data.ljust(20, b"\0")) == got or len(data) == 2


@pytest.mark.parametrize(
    ("raw", "event"),
    [
        ("f501", Touch(Gesture.SINGLE_TAP)),
        ("f500", Touch(Gesture.DOUBLE_TAP)),
        ("f520", Touch(Gesture.DOUBLE_TAP)),
        ("f517", Touch(Gesture.LONG_PRESS)),
        ("f502", Head(up=True)),
        ("f503", Head(up=False)),
        ("f506", Wear(Place.WORN)),
        ("f507", Wear(Place.OFF)),
        ("f508", Wear(Place.CASE_OPEN)),
        ("f50b", Wear(Place.CASE_CLOSED)),
        ("f50901", Charging(True)),
        ("f50a5e", Battery(94)),
        ("f50e00", CaseCharging(False)),
        ("f50f32", CaseBattery(50)),
        ("f51e", DashboardOpened(True)),
    ],
)
def test_events_mean_what_the_specification_says(raw: str, event: Event) -> None:
    assert decode(bytes.fromhex(raw)) == [event]


def test_silent_mode_is_a_triple_tap() -> None:
    assert decode(bytes.fromhex("f504")) == [Touch(Gesture.TRIPLE_TAP), Silent(True)]


def test_battery_is_the_second_byte() -> None:
    for vec in vectors("battery", "from_glasses"):
        assert Battery(vec["fields"]["percent"]) in decode(bytes.fromhex(vec["hex"]))


@pytest.mark.parametrize("vec", vectors("audio", "from_glasses"), ids=lambda v: v["name"])
def test_audio_is_ten_frames_of_twenty_bytes_from_the_right_arm(vec: dict[str, Any]) -> None:
    data = bytes.fromhex(vec["hex"])
    (event,) = decode(data)
    assert isinstance(event, AudioPacket)
    assert event.seq == vec["fields"]["seq"]
    assert [len(frame) for frame in event.frames] == [20] * 10
    assert b"".join(event.frames) == data[2:]
    assert decode(data, Arm.LEFT) == []
    assert isinstance(decode(data[:-1])[0], Unknown)


def _exchanges() -> list[dict[str, Any]]:
    value: list[dict[str, Any]] = load("exchange")["exchanges"]
    return value


@pytest.mark.parametrize(
    ("command", "exchange"),
    [
        (lambda d: d.init(Arm.LEFT)[0][0], "mtu"),
        (lambda d: d.commands(Arm.RIGHT, Microphone(True))[0], "mic_on"),
        (lambda d: d.commands(Arm.RIGHT, Microphone(False))[0], "mic_off"),
        (lambda d: d.commands(Arm.LEFT, Show(TextWall("Hello")))[0], "text"),
        (lambda d: d.commands(Arm.LEFT, SilentMode(False))[0], "silent"),
        (lambda d: d.commands(Arm.LEFT, HeadUpAngle(20))[0], "head_up"),
        (lambda d: d.commands(Arm.LEFT, WearDetection(True))[0], "wear_detection"),
        (lambda d: d.commands(Arm.LEFT, ClearNotify(1))[0], "notification_clear"),
        (lambda d: d.commands(Arm.LEFT, AskBattery())[0], "battery"),
        (lambda d: d.greet(Arm.LEFT)[1], "build"),
        (lambda d: d.greet(Arm.LEFT)[2], "serial"),
    ],
)
def test_the_recorded_answer_settles_our_command(command: Any, exchange: str) -> None:
    found = next(x for x in _exchanges() if x["name"] == exchange)
    driver = g1.G1Driver()
    packet: Packet = command(driver).encode(MTU_PAYLOAD)[-1]
    assert packet.data == bytes.fromhex(found["request_hex"])
    answer = bytes.fromhex(found["reply_hex"])
    if found["match"] == "padded":
        answer = answer.ljust(20, b"\0")
    if found["match"] == "prefix":
        answer = answer + b"S110LABD020021\0\0\0\0"
    assert Reply(packet.reply) in driver.decode(Arm.RIGHT, "", answer, 0.0)


# ---------------------------------------------------------------------------------------------------------- rules


def test_a_text_answer_settles_only_its_own_sequence_number() -> None:
    driver = g1.G1Driver()
    first = driver.commands(Arm.LEFT, Show(TextWall("a")))[0]
    one, two = first.encode(MTU_PAYLOAD)[0], first.encode(MTU_PAYLOAD)[0]
    assert one.reply != two.reply, "a retry must not be settled by the late answer to the attempt before"
    assert decode(b"\x4e\xc9" + one.data[1:2]) == [Reply(one.reply)]
    assert decode(b"\x4e\xca" + one.data[1:2]) == [Reply(one.reply, ok=False)]


@pytest.mark.parametrize("mtu", [23, 64, 185, 247, 517])
@pytest.mark.failure("BLE-05")
def test_text_fits_every_mtu_and_arrives_byte_exact(mtu: int) -> None:
    body = "Grüße 你好 " * 12
    built = g1.text_packets(7, body, 1, 1, mtu - 3)
    assert all(len(p.data) <= min(mtu - 3, 200) for p in built)
    assert b"".join(p.data[9:] for p in built) == body.encode()
    assert [p.data[3] for p in built] == list(range(len(built)))
    assert {p.data[2] for p in built} == {len(built)}


@pytest.mark.failure("BLE-05")
def test_a_picture_on_a_small_link_is_refused_with_the_reason() -> None:
    command = g1.picture_command(g1.bitmap.bmp(bytes(72 * 136), 576, 136))
    with pytest.raises(Unsupported, match="182"):
        command.encode(182)


def test_two_columns_and_cards_use_the_panel() -> None:
    data = packets(Arm.LEFT, Show(DoubleTextWall("12:30", "Sunny")))[0][9:].decode()
    assert data.strip().startswith("12:30 ")
    assert data.strip().endswith(" Sunny")
    card = packets(Arm.LEFT, Show(ReferenceCard("Title", "body")))[0][9:].decode()
    assert card == "\n\nTitle\nbody\n"


def test_missing_glyphs_are_named_to_the_developer() -> None:
    assert g1.G1Driver().warnings(TextWall("ok 👍")) == ("the lens has no glyph for U+1F44D",)
    assert not g1.G1Driver().warnings(TextWall("plain"))


def test_what_the_model_lacks_is_refused() -> None:
    with pytest.raises(Unsupported):
        g1.G1Driver().commands(Arm.LEFT, Light("r", True))


def test_the_clock_carries_local_time() -> None:
    (data,) = packets(Arm.LEFT, Clock(1_000_000.5, 3600.0))
    assert int.from_bytes(data[5:9], "little") == 1_003_600
    assert int.from_bytes(data[9:17], "little") == 1_003_600_500


@pytest.mark.parametrize(
    ("name", "arm", "pair"),
    [
        ("Even G1_74_L_57863C", Arm.LEFT, "74"),
        ("Even G1_3_R_57863C", Arm.RIGHT, "3"),
        ("G1_100_L_57863C", Arm.LEFT, "100"),
        ("Even G1_7x_L_57863C", None, None),
        ("Even G2_7_L_57863C", None, None),
        (None, None, None),
    ],
)
def test_names_tell_model_arm_and_channel(name: str | None, arm: Arm | None, pair: str | None) -> None:
    found = recognise(Advert("aa", name))
    if arm is None:
        assert found is None
    else:
        assert found is not None
        assert found[1].arm is arm
        assert found[1].pair == pair


def test_firmware_and_serial_are_reported() -> None:
    assert decode(b"net build time: 2024-12-28")[0] == Identity("firmware", "net build time: 2024-12-28")
    assert decode(b"\x34\x00S110LABD020021\0\0")[0] == Identity("serial", "S110LABD020021")


@given(st.binary(max_size=260), st.sampled_from(list(Arm)))
def test_any_bytes_decode_without_an_exception(data: bytes, arm: Arm) -> None:
    assert isinstance(decode(data, arm), list)


@given(
    st.sampled_from([0x06, 0x0E, 0x16, 0x20, 0x25, 0x26, 0x2C, 0x34, 0x4E, 0xF1, 0xF5]),
    st.binary(max_size=30),
)
def test_known_families_with_any_tail_decode_without_an_exception(kind: int, tail: bytes) -> None:
    assert isinstance(decode(bytes((kind,)) + tail), list)
