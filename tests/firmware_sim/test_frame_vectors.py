"""The simulated Frame takes and produces every vector of `tests/vectors/frame/`; the edge reads the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from firmware_sim.firmware.base import Action, UserInput
from tests.support.frame_host import FrameHost

VECTORS = Path(__file__).parent.parent / "vectors" / "frame"
FILES = {path.stem: json.loads(path.read_text()) for path in sorted(VECTORS.glob("*.json"))}

LIBRARY = """
ok = ...
received = {}
sizes = {}
function take(data)
  local code = data:byte(1)
  if sizes[code] == nil then
    sizes[code] = data:byte(2) * 256 + data:byte(3)
    received[code] = data:sub(4)
  else
    received[code] = received[code] .. data:sub(2)
  end
  if #received[code] >= sizes[code] then
    done = received[code]
    sizes[code] = nil
    if handle then handle(code, done) end
  end
  frame.bluetooth.send('\\1\\0\\0')
end
frame.bluetooth.receive_callback(take)
"""
"""A program on the glasses that speaks the message convention, as the vendor's libraries upload one."""


def vector(topic: str, name: str) -> bytes:
    (found,) = [v for v in FILES[topic]["vectors"] if v["name"] == name]
    return bytes.fromhex(found["hex"])


def test_every_file_is_consistent() -> None:
    assert set(FILES) == {"lua", "control", "notify", "message", "exchange"}
    for document in FILES.values():
        assert document["model"] == "frame"
        for v in document.get("vectors", []):
            assert v["bytes"] == len(bytes.fromhex(v["hex"]))
            assert v["source"]


@pytest.mark.parametrize("v", [pytest.param(v, id=v["name"]) for v in FILES["lua"]["vectors"]])
def test_each_lua_vector_prints_what_it_says(v: dict[str, Any]) -> None:
    host, fields = FrameHost(), v["fields"]
    assert bytes.fromhex(v["hex"]).decode() == fields["lua"]
    assert host.send(bytes.fromhex(v["hex"])) == [p.encode() for p in fields["printed"]]
    if "text" in fields:
        assert host.text == fields["text"]


@pytest.mark.parametrize("exchange", [pytest.param(e, id=e["name"]) for e in FILES["exchange"]["exchanges"]])
def test_each_request_gets_the_answer_of_the_exchange_table(exchange: dict[str, Any]) -> None:
    answers = FrameHost().send(bytes.fromhex(exchange["request_hex"]))
    assert [a.hex() for a in answers] == exchange["reply_hex"]


def test_the_control_vectors_stop_and_reset() -> None:
    host = FrameHost()
    host.send("x = 1 while true do end")
    assert host.frame._tasks
    (error,) = host.send(vector("control", "break"))
    assert error == b'[string "x = 1 while true do end"]:1: break signal'
    assert host.send("print(x)") == [b"1"]
    host.send(vector("control", "reset"))
    assert host.send("print(x)") == [b"nil"]
    assert b"unexpected symbol" in host.send(vector("control", "remove_main"))[0]


NOTIFIED = {
    "printed_1": "print(1)",
    "printed_nil": "print(nil)",
    "battery_87": "frame.bluetooth.send('\\x0c' .. string.char(frame.battery_level()))",
    "ack_old": "frame.bluetooth.send('\\0')",
    "ack_ok": "frame.bluetooth.send('\\1\\0\\0')",
    "ack_fail": "frame.bluetooth.send('\\1\\0\\1')",
    "imu_int16": "r=frame.imu.raw() c=r.compass a=r.accelerometer "
    "frame.bluetooth.send(string.pack('<BBhhhhhh',10,0,c.x,c.y,c.z,a.x,a.y,a.z))",
    "imu_float32": "r=frame.imu.raw() c=r.compass a=r.accelerometer "
    "frame.bluetooth.send(string.pack('<BBffffff',10,0,c.x,c.y,c.z,a.x/4096,a.y/4096,a.z/4096))",
    "audio_end": "if not frame.microphone.read(2) then frame.bluetooth.send('\\6') end",
    "photo_chunk": "frame.camera.capture{} frame.sleep(.2) frame.bluetooth.send('\\7'..frame.camera.read(4))",
    "photo_end": "frame.bluetooth.send('\\8')",
}


@pytest.mark.parametrize("name", sorted(NOTIFIED))
def test_a_program_can_send_each_notify_vector(name: str) -> None:
    assert FrameHost().send(NOTIFIED[name], wait=0.5) == [vector("notify", name)]


def test_a_tap_is_the_tap_vector_for_a_program_that_listens() -> None:
    host = FrameHost()
    host.send("frame.imu.tap_callback(function() frame.bluetooth.send('\\x09') end)")
    host.frame.user(UserInput(Action.TAP), host.now)
    host.wait(0.1)
    assert [data for _, data in host.sent] == [vector("notify", "tap")]


def test_eight_bit_audio_is_the_high_bytes_of_the_sound() -> None:
    class Ramp:
        def lc3(self, frame_bytes: int, count: int) -> list[bytes]:
            raise AssertionError("Frame does not ask for LC3")

        def pcm(self, samples: int, rate: int) -> bytes:
            return b"".join(bytes([0, i & 0xFF]) for i in range(samples))

    host = FrameHost(audio=Ramp())
    host.send("frame.microphone.start{sample_rate=8000,bit_depth=8}", wait=0.0)
    host.wait(0.5)
    assert host.send("frame.bluetooth.send('\\5'..frame.microphone.read(16))") == [
        vector("notify", "audio_8_bit")
    ]


def program(host: FrameHost) -> None:
    host.frame.files["app.lua"] = LIBRARY.encode()
    assert host.send("require('app');print(1)") == [b"1"]


def test_the_message_vectors_reach_a_program_whole() -> None:
    host = FrameHost()
    program(host)
    assert host.send(vector("message", "capture_512_very_high")) == [vector("notify", "ack_ok")]
    assert host.send("print(done:byte(1),#done)")[0] == b"4"
    host.send(vector("message", "plain_text_hello"))
    assert host.send("print(done:sub(7))") == [b"Hello"]
    for part in ("first", "middle", "last"):
        assert host.send(vector("message", f"sprite_500_{part}")) == [vector("notify", "ack_ok")]
    assert host.send("print(#done)") == [b"500"]
