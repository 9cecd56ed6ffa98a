"""The simulated G1 takes and produces every vector of `tests/vectors/g1/`; the edge reads the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from firmware_sim.firmware.base import BLANK, Action, Effect, Notify, PictureItem, UserInput
from firmware_sim.firmware.g1 import FROM_GLASSES, LEFT, RIGHT, TO_GLASSES, EvenG1, peripherals

VECTORS = Path(__file__).parent.parent / "vectors" / "g1"
FILES = {path.stem: json.loads(path.read_text()) for path in sorted(VECTORS.glob("*.json"))}


def vectors(topic: str, direction: str) -> list[Any]:
    return [
        pytest.param(v, id=v["name"]) for v in FILES[topic].get("vectors", []) if v["direction"] == direction
    ]


def new_g1(**options: Any) -> EvenG1:
    specs = peripherals(74, "C0:00:00:57:86:3C", "C0:00:00:57:86:3D", "S110LABD020021")
    return EvenG1(specs, serial="S110LABD020021", chance=lambda: 0.5, **options)


def connected_g1(**options: Any) -> EvenG1:
    g1 = new_g1(**options)
    g1.start(0.0)
    for number, arm in enumerate((LEFT, RIGHT)):
        g1.connected(arm, number, 251, 0.0)
        g1.subscribed(arm, number, FROM_GLASSES, True, 0.0)
    return g1


def write(g1: EvenG1, arm: str, data: bytes, now: float = 1.0) -> list[Effect]:
    """A write and everything the arm says in the 50 ms after it."""
    link = g1.arms[arm].link
    assert link is not None
    return g1.written(arm, link, TO_GLASSES, data, now) + g1.handle_deadline(now + 0.05)


def said(effects: list[Effect], arm: str) -> list[bytes]:
    return [e.data for e in effects if isinstance(e, Notify) and e.arm == arm]


def test_every_file_is_consistent() -> None:
    assert set(FILES) >= {
        "text",
        "heartbeat",
        "microphone",
        "audio",
        "bitmap",
        "event",
        "battery",
        "exchange",
    }
    for document in FILES.values():
        for vector in document.get("vectors", []):
            assert vector["bytes"] == len(bytes.fromhex(vector["hex"]))
            assert vector["source"]
            assert vector["direction"] in ("to_glasses", "from_glasses")


@pytest.mark.parametrize("exchange", [pytest.param(e, id=e["name"]) for e in FILES["exchange"]["exchanges"]])
def test_each_request_gets_the_answer_of_the_exchange_table(exchange: dict[str, str]) -> None:
    expected = bytes.fromhex(exchange["reply_hex"])
    for arm in (LEFT, RIGHT) if exchange["arm"] == "both" else (exchange["arm"],):
        replies = said(write(connected_g1(), arm, bytes.fromhex(exchange["request_hex"])), arm)
        match exchange["match"]:
            case "exact":
                assert replies[0] == expected
            case "padded":
                assert replies[0] == expected.ljust(20, b"\0")
            case "prefix":
                assert replies[0].startswith(expected)


@pytest.mark.parametrize("vector", [v for v in vectors("text", "to_glasses") if v.id != "captured_prefix"])
def test_the_wearer_reads_each_text_vector(vector: dict[str, Any]) -> None:
    g1 = connected_g1()
    fields = vector["fields"]
    packets = [
        bytes.fromhex(v["hex"])
        for v in FILES["text"]["vectors"]
        if v["direction"] == "to_glasses" and v["fields"]["seq"] == fields["seq"]
    ]
    for packet in packets:
        assert said(write(g1, LEFT, packet), LEFT)[0][:2] in (b"\x4e\xc9", b"\x4e\xcb")
    if fields["text"].strip():
        assert g1.arms[LEFT].screen.text == fields["text"]
    else:
        assert g1.arms[LEFT].screen == BLANK
    assert g1.arms[RIGHT].screen == BLANK


@pytest.mark.parametrize(
    "vector",
    [
        v
        for t in ("dashboard", "quick_note", "stream", "setting", "session")
        for v in vectors(t, "to_glasses")
    ],
)
def test_no_command_vector_is_refused(vector: dict[str, Any]) -> None:
    g1 = connected_g1()
    replies = said(write(g1, LEFT, bytes.fromhex(vector["hex"])), LEFT)
    assert all(0xCA not in (reply[1:2] + reply[-1:]) for reply in replies)
    assert g1.arms[LEFT].counters.unknown_commands == 0
    assert bool(replies) == (vector["name"] != "debug_channel")


@pytest.mark.parametrize("name", ["zeros", "ones"])
def test_a_synthetic_bitmap_is_shown_when_its_crc_matches(name: str) -> None:
    by_name = {v["name"]: v for v in FILES["bitmap"]["vectors"]}
    fields = by_name[f"{name}_show"]["fields"]
    body = bytes.fromhex(fields["header_hex"])
    body += bytes.fromhex(fields["fill_hex"]) * (fields["file_bytes"] - len(body))
    packets = [
        bytes([0x15, i]) + (b"\x00\x1c\x00\x00" if i == 0 else b"") + body[i * 194 : (i + 1) * 194]
        for i in range(-(-len(body) // 194))
    ]
    assert packets[0].hex() == by_name[f"{name}_first"]["hex"]
    assert packets[-1].hex() == by_name[f"{name}_last"]["hex"]
    g1 = connected_g1()
    for packet in packets:
        assert said(write(g1, LEFT, packet), LEFT) == []
    assert said(write(g1, LEFT, bytes.fromhex("200d0e")), LEFT) == [bytes.fromhex("20c9")]
    show = bytes.fromhex(by_name[f"{name}_show"]["hex"])
    assert said(write(g1, LEFT, show), LEFT) == [show + b"\xc9"]
    (picture,) = g1.arms[LEFT].screen.items
    assert isinstance(picture, PictureItem)
    assert set(picture.bits) == set(bytes.fromhex(fields["fill_hex"]))
    # One byte off, or one packet missing: refused, and the picture that is shown stays.
    write(g1, RIGHT, packets[0])
    write(g1, RIGHT, packets[2])
    assert said(write(g1, RIGHT, bytes.fromhex("200d0e")), RIGHT) == [bytes.fromhex("20ca")]
    assert said(write(g1, RIGHT, show), RIGHT) == [show + b"\xca"]


EVENTS = {
    "single_tap": UserInput(Action.TAP),
    "head_up": UserInput(Action.LOOK_UP),
    "head_down": UserInput(Action.LOOK_DOWN),
    "silent_on": UserInput(Action.TRIPLE_TAP),
    "worn": UserInput(Action.WEAR, None, True),
    "not_worn": UserInput(Action.WEAR, None, False),
    "case_open": UserInput(Action.CASE, None, "open"),
    "case_closed": UserInput(Action.CASE, None, "closed"),
    "charging": UserInput(Action.CHARGE, None, True),
    "not_charging": UserInput(Action.CHARGE, None, False),
    "battery_94": UserInput(Action.BATTERY, None, 94),
    "case_charging": UserInput(Action.CASE, None, "charging"),
    "case_battery_50": UserInput(Action.CASE, None, 50),
    "double_tap": UserInput(Action.DOUBLE_TAP),
    "dashboard_open": UserInput(Action.DOUBLE_TAP),
    "long_press_start": UserInput(Action.LONG_PRESS, LEFT),
}


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_each_gesture_says_its_event_vector(name: str) -> None:
    (vector,) = [v for v in FILES["event"]["vectors"] if v["name"] == name]
    effects = connected_g1().user(EVENTS[name], 1.0)
    assert bytes.fromhex(vector["hex"]) in said(effects, EVENTS[name].side or RIGHT)


def test_the_other_event_vectors_appear_in_their_situations() -> None:
    events = {v["name"]: bytes.fromhex(v["hex"]) for v in FILES["event"]["vectors"]}
    g1 = connected_g1()
    assert events["bound"] in said(write(g1, LEFT, bytes.fromhex("4dfb")), LEFT)
    g1.user(UserInput(Action.TRIPLE_TAP), 1.0)
    assert events["silent_off"] in said(g1.user(UserInput(Action.TRIPLE_TAP), 1.0), RIGHT)
    g1.user(UserInput(Action.DOUBLE_TAP), 1.0)
    assert events["dashboard_close"] in said(g1.user(UserInput(Action.DOUBLE_TAP), 1.0), RIGHT)
    g1.user(UserInput(Action.LONG_PRESS, LEFT, 0.5), 2.0)
    assert events["long_press_stop"] in said(g1.handle_deadline(2.5), LEFT)
    write(g1, LEFT, bytes.fromhex("4e00010071000001010a0a48656c6c6f0a"), 3.0)
    assert events["double_tap_exit"] in said(g1.user(UserInput(Action.DOUBLE_TAP), 4.0), RIGHT)


@pytest.mark.parametrize(("percent", "name"), [(55, "reply_55"), (100, "reply_100")])
def test_battery_reply_vectors(percent: int, name: str) -> None:
    (vector,) = [v for v in FILES["battery"]["vectors"] if v["name"] == name]
    g1 = connected_g1(battery=percent)
    assert said(write(g1, LEFT, b"\x2c\x01"), LEFT) == [bytes.fromhex(vector["hex"])]


def test_the_silent_audio_vector_is_what_an_idle_microphone_sends() -> None:
    (vector,) = [v for v in FILES["audio"]["vectors"] if v["name"] == "silence"]
    g1 = connected_g1()
    write(g1, RIGHT, b"\x0e\x01", 0.0)
    g1.handle_deadline(0.1)
    assert said(g1.handle_deadline(0.2), RIGHT) == [bytes.fromhex(vector["hex"])]
