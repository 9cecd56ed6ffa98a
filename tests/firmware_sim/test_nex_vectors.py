"""The simulated Mentra Nex takes and produces every vector of `tests/vectors/nex/`; the edge reads the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from firmware_sim.firmware.base import Action, UserInput
from firmware_sim.firmware.nex import FROM_GLASSES, GLASSES_TO_PHONE, PHONE_TO_GLASSES, TO_GLASSES, to_json
from firmware_sim.firmware.protobuf import decode, encode
from tests.support.nex_host import NexHost, said
from tests.support.sim_host import notified

VECTORS = Path(__file__).parent.parent / "vectors" / "nex"
FILES = {path.stem: json.loads(path.read_text()) for path in sorted(VECTORS.glob("*.json"))}


def vectors(topic: str) -> list[Any]:
    return [pytest.param(v, id=v["name"]) for v in FILES[topic]["vectors"]]


def vector(topic: str, name: str) -> bytes:
    (found,) = [v for v in FILES[topic]["vectors"] if v["name"] == name]
    return bytes.fromhex(found["hex"])


def test_every_file_is_consistent() -> None:
    assert set(FILES) == {"command", "event", "json", "image", "fragment", "audio", "exchange"}
    for document in FILES.values():
        assert document["model"] == "nex"
        for v in document.get("vectors", []):
            assert v["bytes"] == len(bytes.fromhex(v["hex"]))
            assert v["source"]


@pytest.mark.parametrize("v", vectors("command"))
def test_each_command_is_read_and_made_to_the_byte(v: dict[str, Any]) -> None:
    raw, message = bytes.fromhex(v["hex"]), v["fields"]["message"]
    assert raw[0] == 0x02
    assert decode(PHONE_TO_GLASSES, raw[1:]) == message
    assert encode(PHONE_TO_GLASSES, message) == raw[1:]


@pytest.mark.parametrize("v", vectors("event"))
def test_each_event_is_read_and_made_to_the_byte(v: dict[str, Any]) -> None:
    raw, message = bytes.fromhex(v["hex"]), v["fields"]["message"]
    assert decode(GLASSES_TO_PHONE, raw[1:]) == message
    assert b"\x02" + encode(GLASSES_TO_PHONE, message) == raw


@pytest.mark.parametrize("topic", ["command", "json", "fragment"])
def test_every_command_vector_is_known(topic: str) -> None:
    for v in FILES[topic]["vectors"]:
        if v["direction"] == "to_glasses":
            host = NexHost()
            host.write(TO_GLASSES, bytes.fromhex(v["hex"]), 0.1)
            counters = host.nex.arms["main"].counters
            assert (counters.ignored_writes, counters.unknown_commands) == (0, 0), v["name"]


@pytest.mark.parametrize("exchange", [pytest.param(e, id=e["name"]) for e in FILES["exchange"]["exchanges"]])
def test_each_request_gets_the_answer_of_the_exchange_table(exchange: dict[str, Any]) -> None:
    host = NexHost()
    host.nex.charging = True
    effects = host.write(TO_GLASSES, bytes.fromhex(exchange["request_hex"]), 0.1)
    assert [data.hex() for _, data in notified(effects)] == exchange["reply_hex"]


def test_the_text_vectors_are_what_the_wearer_reads() -> None:
    for topic in ("command", "json"):
        host = NexHost()
        host.write(TO_GLASSES, vector(topic, "display_text"), 0.1)
        assert host.text == "Hello"


def test_the_microphone_vectors_work_in_both_forms() -> None:
    for topic, name in (("command", "microphone_on"), ("fragment", "microphone_on_1_of_1")):
        host = NexHost()
        host.write(TO_GLASSES, vector(topic, name), 0.1)
        assert host.nex.microphone is not None
        host.write(TO_GLASSES, vector("command", "microphone_off"), 0.1)
        assert host.nex.microphone is None


def test_people_and_time_say_the_event_vectors() -> None:
    host = NexHost()
    press = host.nex.user(UserInput(Action.PRESS, "right"), host.now)
    assert notified(press)[0] == (FROM_GLASSES, vector("event", "button_right_down"))
    look = host.nex.user(UserInput(Action.LOOK_UP), host.now)
    assert notified(look) == [(FROM_GLASSES, vector("event", "head_up"))]
    assert notified(host.wait(10.0)) == [(FROM_GLASSES, vector("event", "ping"))]


def test_the_missing_chunk_vector_is_what_a_gap_is_answered_with() -> None:
    host = NexHost()
    host.send(display_image={"stream_id": "002A", "total_chunks": 5})
    effects = []
    for index in (0, 2, 4):
        effects += host.write(TO_GLASSES, b"\xb0\x00\x2a" + bytes([index]) + b"BM", 0.05)
    assert notified(effects) == [(FROM_GLASSES, vector("event", "image_missing_1_3"))]


def test_the_image_chunk_vector_is_taken() -> None:
    host = NexHost()
    host.write(TO_GLASSES, vector("command", "display_image"))
    host.write(TO_GLASSES, vector("image", "chunk_0"))
    assert host.nex._images[0x2A].parts == {0: b"BM"}


def test_the_json_battery_vector_is_made_to_the_byte() -> None:
    made = to_json("battery_status", {"level": 82})
    assert b"\x01" + made == vector("json", "battery_status")


def test_the_json_ping_vector_is_answered() -> None:
    host = NexHost()
    assert said(host.write(TO_GLASSES, vector("json", "ping"), 0.1)) == [{"type": "pong"}]


def test_the_silent_audio_vector_is_what_an_idle_microphone_sends() -> None:
    host = NexHost()
    effects = host.write(TO_GLASSES, vector("command", "microphone_on"), 0.22)
    assert notified(effects) == [(FROM_GLASSES, vector("audio", "silence"))]
