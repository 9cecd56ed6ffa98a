"""The Mentra Live driver: its vectors, framing in both length orders, acknowledgements, and photos that lose packets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.profiles.base import (
    Advert,
    Arm,
    AudioPacket,
    Battery,
    Button,
    Command,
    Event,
    Gesture,
    Microphone,
    PhotoData,
    PhotoFailed,
    Reply,
    Send,
    Show,
    TakePhoto,
    TextWall,
    Touch,
    Unknown,
    Unsupported,
)
from edge.profiles.mentra_live import (
    COMMANDS,
    END,
    FILES,
    MICROPHONE,
    REPLIES,
    START,
    WRITE_MAX,
    MentraLive,
    MentraLiveDriver,
    bes,
    frame,
    message_id,
    soc,
)

VECTORS = Path(__file__).parents[1] / "vectors" / "live"
WHOLE = Arm.WHOLE


def vectors(topic: str) -> list[dict[str, Any]]:
    return list(json.loads((VECTORS / f"{topic}.json").read_text())["vectors"])


def reply(message: dict[str, Any], order: str = "big") -> bytes:
    inner = json.dumps(message)
    raw = json.dumps({"C": inner, "V": 1, "B": {}}).encode()
    return START + b"\x30" + len(raw).to_bytes(2, "big" if order == "big" else "little") + raw + END


def packets(command: Command) -> list[bytes]:
    return [packet.data for packet in command.encode(509)]


def said(command: Command) -> list[dict[str, Any]]:
    """What a command says to the SoC, chunks put together."""
    inner = ""
    for data in packets(command):
        outer = json.loads(data[5:-2])
        value = json.loads(outer["C"])
        if value.get("t") != "ck":
            return [value]
        inner += value["d"]
    return [json.loads(inner)]


def pack(
    name: str, index: int, data: bytes, size: int, flags: int = 2, pack_size: int | None = None
) -> bytes:
    head = (pack_size if pack_size is not None else len(data)).to_bytes(2, "big") + index.to_bytes(2, "big")
    head += size.to_bytes(4, "big") + name.encode().ljust(16, b"\0") + flags.to_bytes(2, "big")
    return START + b"\x31" + head + data + bytes((sum(data) & 0xFF,)) + END


@pytest.mark.parametrize("vector", vectors("command"), ids=lambda v: str(v["name"]))
def test_commands_are_the_vectors(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    outer = vector["fields"]["outer"]
    if "W" in outer or str(outer["C"]).startswith("{"):
        inner = json.loads(outer["C"])
        if inner.get("t") == "ck":
            made = soc({"type": "x", "requestId": "r" * 240})[0]
            chunk = json.loads(json.loads(made[5:-2])["C"])
            assert set(inner) == set(chunk)
            return
        assert soc(inner, wake="W" in outer) == [data]
    else:
        assert bes(outer["C"], outer["B"], version="V" in outer) == data


@pytest.mark.parametrize(
    "vector", [v for t in ("event", "reply") for v in vectors(t)], ids=lambda v: str(v["name"])
)
def test_what_the_glasses_say_is_understood(vector: dict[str, Any]) -> None:
    events = MentraLiveDriver().decode(WHOLE, REPLIES, bytes.fromhex(vector["hex"]), 0.0)
    assert events
    assert not any(isinstance(event, Unknown) for event in events)


def test_audio_vectors_give_ten_frames_of_forty_bytes() -> None:
    for vector in vectors("audio"):
        [event] = MentraLiveDriver().decode(WHOLE, MICROPHONE, bytes.fromhex(vector["hex"]), 0.0)
        assert isinstance(event, AudioPacket)
        assert [len(frame) for frame in event.frames] == [40] * 10


@pytest.mark.parametrize("order", ["big", "little"])
def test_lengths_are_read_in_both_orders_whole_and_byte_by_byte(order: str) -> None:
    data = reply({"type": "button_press", "buttonId": "camera", "pressType": "long"}, order)
    data += reply({"type": "touch_event", "gesture_name": "double_tap"}, order)
    whole = MentraLiveDriver().decode(WHOLE, REPLIES, data, 0.0)
    driver, pieces = MentraLiveDriver(), []
    for byte in data:
        pieces += driver.decode(WHOLE, REPLIES, bytes((byte,)), 0.0)
    assert whole == pieces == [Button("camera", long=True), Touch(Gesture.DOUBLE_TAP)]


def test_an_end_mark_inside_the_text_does_not_cut_the_message() -> None:
    data = reply({"type": "button_press", "buttonId": "a$$b", "pressType": "short"})
    assert MentraLiveDriver().decode(WHOLE, REPLIES, data, 0.0) == [Button("a$$b")]


def test_rubbish_between_frames_is_skipped_and_told() -> None:
    events = MentraLiveDriver().decode(WHOLE, REPLIES, b"noise" + reply({"type": "pong"}), 0.0)
    assert events == [Unknown(b"noise"), Reply(("pong",))]


def test_a_message_of_the_glasses_is_acknowledged_each_time_and_acted_on_once() -> None:
    driver = MentraLiveDriver()
    data = reply({"type": "button_press", "buttonId": "camera", "pressType": "short", "mId": 7})
    first, again = driver.decode(WHOLE, REPLIES, data, 0.0), driver.decode(WHOLE, REPLIES, data, 1.0)
    assert [type(e) for e in first] == [Send, Button]
    assert [type(e) for e in again] == [Send]
    assert isinstance(first[0], Send)
    assert said(first[0].command)[0]["mId"] == 7


def test_every_write_stays_within_what_the_firmware_takes() -> None:
    wish = TakePhoto('a"quoted"request/with\\everything-' + '"' * 60, size="large", compress="heavy")
    [command] = MentraLiveDriver().commands(WHOLE, wish)
    data = packets(command)
    assert len(data) > 1
    assert max(map(len, data)) <= WRITE_MAX
    assert said(command)[0]["requestId"] == wish.request_id


def test_chunks_of_the_glasses_are_put_together_in_any_order_and_expire() -> None:
    driver = MentraLiveDriver()
    inner = json.dumps({"type": "version_info", "build_number": "31"})
    parts = [inner[:20], inner[20:]]
    made = [reply({"t": "ck", "id": "s", "c": i, "n": 2, "d": d}) for i, d in enumerate(parts)]
    assert driver.decode(WHOLE, REPLIES, made[1], 0.0) == []
    assert driver.deadline == 30.0
    assert any(isinstance(e, Reply) for e in driver.decode(WHOLE, REPLIES, made[0], 1.0))
    driver.decode(WHOLE, REPLIES, made[1], 2.0)
    driver.handle_deadline(40.0)
    assert driver.deadline is None
    assert driver.decode(WHOLE, REPLIES, made[0], 41.0) == []


def test_readiness_is_awaited_while_the_computer_boots() -> None:
    driver = MentraLiveDriver()

    def heart(ready: int, level: int) -> list[Event]:
        body = json.dumps({"C": "sr_hrt", "B": {"pt": level, "ready": ready, "charg": 0}}).encode()
        return driver.decode(WHOLE, REPLIES, START + b"\x30" + len(body).to_bytes(2, "big") + body + END, 0.0)

    assert Reply(("sr_hrt",)) not in heart(0, 80)
    assert Reply(("sr_hrt",), ok=False) in heart(0, 15)
    assert heart(1, 80) == [Battery(80, charging=False), Reply(("sr_hrt",))]


def shoot(driver: MentraLiveDriver, request: str = "r1") -> str:
    """Ask for a photo; the name under which its packets come."""
    driver.commands(WHOLE, TakePhoto(request))
    return f"I{message_id(request) % 1_000_000:06d}"


PICTURE = bytes(range(256)) * 4


def cut(name: str, size: int = 400) -> list[bytes]:
    return [
        pack(name, index, PICTURE[at : at + size], len(PICTURE), pack_size=len(PICTURE[at : at + size]))
        for index, at in enumerate(range(0, len(PICTURE), size))
    ]


def test_a_photo_arrives_whole_and_its_end_is_confirmed() -> None:
    driver = MentraLiveDriver()
    name = shoot(driver)
    events = [e for p in cut(name + ".jpg") for e in driver.decode(WHOLE, FILES, p, 0.0)]
    photo, done = events
    assert photo == PhotoData("r1", PICTURE)
    assert isinstance(done, Send)
    assert said(done.command)[0] == {
        "type": "transfer_complete", "fileName": name + ".jpg", "success": True, "timestamp": 0}  # fmt: skip


@pytest.mark.failure("MED-03")
@pytest.mark.parametrize("lost", range(3))
def test_a_lost_photo_packet_is_asked_for_and_the_photo_completes(lost: int) -> None:
    driver = MentraLiveDriver()
    name = shoot(driver)
    parts = cut(name)
    for index, part in enumerate(parts):
        if index != lost:
            driver.decode(WHOLE, FILES, part, 0.0)
    assert driver.deadline == 1.0
    [(arm, event)] = driver.handle_deadline(1.0)
    assert arm is WHOLE
    assert isinstance(event, Send)
    assert said(event.command)[0]["missingPackets"] == [lost]
    events = driver.decode(WHOLE, FILES, parts[lost], 1.1)
    assert events[0] == PhotoData("r1", PICTURE)
    assert driver.deadline is None


@pytest.mark.failure("MED-03")
def test_a_photo_that_never_completes_fails_after_three_rounds_and_frees_its_memory() -> None:
    driver = MentraLiveDriver()
    name = shoot(driver)
    driver.decode(WHOLE, FILES, cut(name)[0], 0.0)
    now, failed = 0.0, []
    while driver.deadline is not None:
        now = driver.deadline
        failed += [e for _, e in driver.handle_deadline(now) if isinstance(e, PhotoFailed)]
    assert now <= 30.0
    assert failed == [PhotoFailed("r1", "2 of 3 packets never arrived")]
    name = shoot(driver, "r2")
    assert driver.decode(WHOLE, FILES, cut(name)[0], now) == []  # the next transfer is not disturbed


def test_the_inflated_size_of_the_bluetooth_processor_is_seen_through() -> None:
    driver = MentraLiveDriver()
    name = shoot(driver)
    sizes = (221, 221, 100)  # packets of another size, while the size says three times 400
    events = [
        e
        for index, size in enumerate(sizes)
        for e in driver.decode(WHOLE, FILES, pack(name, index, bytes(size), 1200, flags=0), 0.0)
    ]
    assert events[0] == PhotoData("r1", bytes(sum(sizes)))


def test_a_packet_size_that_lies_is_corrected_by_the_end_of_the_notification() -> None:
    driver = MentraLiveDriver()
    name = shoot(driver)
    events = driver.decode(WHOLE, FILES, pack(name, 0, b"abcde", 5, pack_size=400), 0.0)
    assert isinstance(events[0], PhotoData)
    assert events[0].data == b"abcde"


def test_a_refused_photo_says_why() -> None:
    driver = MentraLiveDriver()
    shoot(driver)
    message = {"type": "photo_response", "requestId": "r1", "success": False, "error": {"code": "BUSY"}}
    assert driver.decode(WHOLE, REPLIES, reply(message), 0.0) == [PhotoFailed("r1", "BUSY")]


def test_there_is_no_display() -> None:
    with pytest.raises(Unsupported, match="no display"):
        MentraLiveDriver().commands(WHOLE, Show(TextWall("hello")))


def test_microphone_is_a_string_inside_the_body() -> None:
    [command] = MentraLiveDriver().commands(WHOLE, Microphone(True))
    [vector] = [v for v in vectors("command") if v["name"] == "microphone_on"]
    assert packets(command) == [bytes.fromhex(vector["hex"])]


@pytest.mark.parametrize("name", ["Xy_A", "XyBLE_12", "MENTRA_LIVE_BLE_1", "mentra_live_x"])
def test_its_names_are_recognised(name: str) -> None:
    sighting = MentraLive().recognise(Advert("AA", name))
    assert sighting is not None
    assert sighting.pair == "AA"


@given(
    st.lists(
        st.tuples(st.sampled_from([REPLIES, FILES, MICROPHONE, COMMANDS]), st.binary(max_size=600)),
        max_size=8,
    )
)
def test_no_bytes_raise(notifications: list[tuple[str, bytes]]) -> None:
    driver = MentraLiveDriver()
    shoot(driver)
    for char, data in notifications:
        driver.decode(WHOLE, char, data, 0.0)
        driver.decode(WHOLE, char, START + data, 0.0)
    driver.handle_deadline(100.0)


def test_charging_is_what_the_chip_says_and_a_guess_only_until_then() -> None:
    driver = MentraLiveDriver()

    def charging(name: str, **body: Any) -> bool | None:
        events = driver.decode(Arm.WHOLE, REPLIES, frame(json.dumps({"C": name, "B": body})), 1.0)
        [battery] = [event for event in events if isinstance(event, Battery)]
        return battery.charging

    assert charging("sr_batv", pt=90, vt=4100) is True
    assert charging("sr_batv", pt=50, vt=3800) is False
    assert charging("sr_hrt", pt=90, charg=0, ready=1) is False
    assert charging("sr_batv", pt=90, vt=4100) is False, "a full battery has more than 4 V without a charger"
    assert charging("sr_hrt", pt=90, charg=1, ready=1) is True
    assert charging("sr_batv", pt=50, vt=3800) is True


@pytest.mark.failure("BLE-05")
def test_messages_are_cut_to_what_a_small_link_carries() -> None:
    message = {"type": "take_photo", "requestId": "r" * 100, "mId": 7}
    for limit in (140, 182, 253):
        pieces = soc(message, wake=True, limit=limit)
        assert all(len(piece) <= limit for piece in pieces)
        inner = (
            "".join(json.loads(json.loads(piece[5:-2])["C"])["d"] for piece in pieces)
            if len(pieces) > 1
            else ""
        )
        assert not inner or json.loads(inner) == message


def test_whether_it_charges_is_asked_after_each_level_but_not_more_often_than_every_two_seconds() -> None:
    driver = MentraLiveDriver()
    level = reply_of_chip("sr_batv", {"vt": 4000, "pt": 80})
    asked = []
    now = 100.0
    for _ in range(50):  # a firmware that tells its level ten times a second
        driver.decode(WHOLE, REPLIES, level, now)
        if driver.deadline is not None and driver.deadline <= now:
            for _, event in driver.handle_deadline(now):
                assert isinstance(event, Send)
                assert packets(event.command) == [bes("cs_hrt", version=False)]
                asked.append(now)
        now += 0.1
    assert len(asked) == 3
    heartbeat = reply_of_chip("sr_hrt", {"pt": 80, "ready": 1, "charg": 1})
    assert Battery(80, charging=True) in driver.decode(WHOLE, REPLIES, heartbeat, now)
    assert driver.decode(WHOLE, REPLIES, level, now)[0] == Battery(80, charging=True)


def reply_of_chip(name: str, body: dict[str, Any]) -> bytes:
    raw = json.dumps({"C": name, "B": body}).encode()
    return START + b"\x30" + len(raw).to_bytes(2, "little") + raw + END
