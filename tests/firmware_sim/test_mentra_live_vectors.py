"""The simulated Mentra Live takes and produces every vector of `tests/vectors/live/`; the edge reads the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from firmware_sim.firmware import k900
from firmware_sim.firmware.base import Action, Silence, UserInput
from firmware_sim.firmware.mentra_live import AUDIO, CLASSIC, FROM_GLASSES, NEWEST, TO_GLASSES
from tests.support.live_host import LiveHost, said
from tests.support.sim_host import notified

VECTORS = Path(__file__).parent.parent / "vectors" / "live"
FILES = {path.stem: json.loads(path.read_text()) for path in sorted(VECTORS.glob("*.json"))}


def vectors(*topics: str) -> list[Any]:
    return [pytest.param(v, id=v["name"]) for topic in topics for v in FILES[topic]["vectors"]]


def vector(topic: str, name: str) -> bytes:
    (found,) = [v for v in FILES[topic]["vectors"] if v["name"] == name]
    return bytes.fromhex(found["hex"])


def test_every_file_is_consistent() -> None:
    assert set(FILES) == {"command", "reply", "event", "file", "fragment", "audio", "exchange"}
    for document in FILES.values():
        assert document["model"] == "live"
        for v in document.get("vectors", []):
            assert v["bytes"] == len(bytes.fromhex(v["hex"]))
            assert v["source"]
            assert v["direction"] in ("to_glasses", "from_glasses")


json_vectors = [p for p in vectors("command", "reply", "event", "file") if "outer" in p.values[0]["fields"]]


@pytest.mark.parametrize("v", json_vectors)
def test_each_json_frame_is_read_and_made_to_the_byte(v: dict[str, Any]) -> None:
    raw, fields = bytes.fromhex(v["hex"]), v["fields"]
    (frame,) = k900.FrameReader().feed(raw)
    assert json.loads(frame.payload) == fields["outer"]
    assert k900.frame(k900.json_bytes(fields["outer"]), fields["length_order"]) == raw
    read = k900.unwrap(frame.payload)
    if "inner" in fields:
        assert isinstance(read, k900.Message)
        assert read.fields == fields["inner"]
        assert read.wake == (fields["outer"].get("W") == 1)
    else:
        assert read == k900.Command(fields["outer"]["C"], fields["outer"]["B"])


@pytest.mark.parametrize("v", [p for p in vectors("reply", "event")])
def test_what_the_glasses_say_has_the_vectors_bytes(v: dict[str, Any]) -> None:
    fields = v["fields"]
    if "inner" in fields:
        made = k900.message_frame(k900.json_bytes(fields["inner"]).decode(), fields["length_order"])
    else:
        made = k900.command_frame(fields["outer"]["C"], fields["outer"]["B"], fields["length_order"])
    assert made.hex() == v["hex"]


@pytest.mark.parametrize("exchange", [pytest.param(e, id=e["name"]) for e in FILES["exchange"]["exchanges"]])
@pytest.mark.parametrize("build", [CLASSIC, NEWEST], ids=["classic", "newest"])
def test_each_request_gets_the_answer_of_the_exchange_table(exchange: dict[str, Any], build: Any) -> None:
    host = LiveHost(build)
    answers = said(host.write(TO_GLASSES, bytes.fromhex(exchange["request_hex"]), 0.2))
    ignored = exchange.get("ignore", [])

    def plain(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in m.items() if k not in ignored} for m in messages]

    assert plain(answers) == plain(exchange["reply"])
    assert host.live.arms["main"].counters.unknown_commands == 0


@pytest.mark.parametrize("v", [p for p in vectors("command") if p.values[0]["name"] != "chunk_0_of_2"])
def test_every_command_vector_is_known(v: dict[str, Any]) -> None:
    host = LiveHost()
    host.write(TO_GLASSES, bytes.fromhex(v["hex"]), 0.1)
    counters = host.live.arms["main"].counters
    assert (counters.unknown_commands, counters.ignored_writes) == (0, 0)


def test_the_first_chunk_is_kept_and_the_second_runs_the_whole() -> None:
    host = LiveHost(networks={})
    host.write(TO_GLASSES, vector("command", "chunk_0_of_2"), 0.1)
    (first,) = [v for v in FILES["command"]["vectors"] if v["name"] == "chunk_0_of_2"]
    rest = ',"transferMethod":"direct"}'
    last = {**first["fields"]["inner"], "c": 1, "d": rest, "mId": 42}
    assert [m["type"] for m in host.android(last)] == ["msg_ack", "photo_response"]


def test_a_double_tap_says_the_touch_vector() -> None:
    host = LiveHost(CLASSIC)
    effects = host.live.user(UserInput(Action.DOUBLE_TAP), host.now)
    assert notified(effects) == [(FROM_GLASSES, vector("event", "touch_double"))]


def test_the_heartbeat_vector_is_what_a_booted_unit_answers() -> None:
    host = LiveHost(CLASSIC)
    effects = host.write(TO_GLASSES, vector("command", "heartbeat"), 0.1)
    assert notified(effects) == [(FROM_GLASSES, vector("reply", "heartbeat_reply"))]


@pytest.mark.parametrize("v", [p for p in vectors("file") if "checksum" in p.values[0]["fields"]])
def test_each_file_packet_is_read_and_made_to_the_byte(v: dict[str, Any]) -> None:
    raw, f = bytes.fromhex(v["hex"]), v["fields"]
    packet = k900.FilePacket(
        f["type"], f["index"], f["file_size"], f["name"], f["flags"], bytes.fromhex(f["data_hex"])
    )
    assert packet.pack() == raw
    assert k900.read_file_packet(raw) == packet


@pytest.mark.parametrize("v", vectors("fragment"))
def test_each_fragment_is_read_and_made_to_the_byte(v: dict[str, Any]) -> None:
    raw, f = bytes.fromhex(v["hex"]), v["fields"]
    fragment = k900.Fragment(f["flags"], f["message_id"], f["index"], f["count"], f["payload"].encode())
    assert fragment.frame() == raw
    (frame,) = k900.FrameReader().feed(raw)
    assert frame.kind == k900.FRAGMENT_TYPE
    assert k900.read_fragment(frame.payload) == fragment


def test_the_fragment_vectors_work_on_a_unit_that_speaks_v2() -> None:
    host = LiveHost(NEWEST)
    shaken = host.write(TO_GLASSES, vector("fragment", "handshake"), 0.1)
    assert notified(shaken) == [(FROM_GLASSES, vector("fragment", "handshake"))]
    (pong,) = said(host.write(TO_GLASSES, vector("fragment", "single"), 0.1))
    fragment = k900.read_fragment(pong["fragment"])
    assert fragment is not None
    assert json.loads(fragment.payload) == {"t": "pong"}
    host.write(TO_GLASSES, vector("fragment", "first_of_two"), 0.1)
    host.write(TO_GLASSES, vector("fragment", "last_of_two"), 0.1)
    assert host.live.arms["main"].counters.unknown_commands == 0


def test_the_silent_audio_vector_is_what_an_idle_microphone_sends() -> None:
    host = LiveHost(CLASSIC, audio=Silence())
    effects = host.write(TO_GLASSES, vector("command", "microphone_on"), 0.25)
    assert notified(effects, AUDIO)[1] == (AUDIO, vector("audio", "silence"))
