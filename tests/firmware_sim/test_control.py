"""The control API over real HTTP: state, pictures, inputs with and without a taker, the stream of changes."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from firmware_sim.control import served
from firmware_sim.firmware.base import ArmState
from firmware_sim.firmware.g1 import FROM_GLASSES, LEFT, RIGHT, TO_GLASSES
from firmware_sim.hci_port import SimError
from firmware_sim.peripheral import Glasses
from firmware_sim.room import Room
from tests.support.waiting import until

HELLO = bytes.fromhex("4e00010071000001010a0a48656c6c6f0a")
MIC_ON = b"\x0e\x01"


class Bench:
    def __init__(self, room: Room, http: httpx.AsyncClient) -> None:
        self.room = room
        self.http = http
        self.glasses: Glasses = next(iter(room.residents.values())).glasses

    def connect(self, arm: str) -> None:
        """As the radio would tell the firmware; the API is what is under test here."""
        self.glasses.feed(lambda now: self.glasses.firmware.connected(arm, 1, 251, now))
        self.glasses.feed(lambda now: self.glasses.firmware.subscribed(arm, 1, FROM_GLASSES, True, now))

    def write(self, arm: str, data: bytes) -> None:
        self.glasses.feed(lambda now: self.glasses.firmware.written(arm, 1, TO_GLASSES, data, now))

    async def input(self, action: str, **fields: Any) -> httpx.Response:
        return await self.http.post("/api/sim/input", json={"action": action, **fields})

    async def arm(self, name: str) -> dict[str, Any]:
        state = (await self.http.get("/api/sim/state")).json()
        arm: dict[str, Any] = state["devices"][0]["arms"][name]
        return arm


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with (
        Room(["g1"], count=2, hci_ports=[f"unix-server:{tmp_path}/hci.sock"], seed=3) as room,
        served(room, 0) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        yield Bench(room, http)


async def test_the_state_names_devices_arms_and_ports(bench: Bench) -> None:
    state = (await bench.http.get("/api/sim/state")).json()
    assert [device["id"] for device in state["devices"]] == ["g1-1", "g1-2"]
    assert state["hci"][0]["connected"] is False
    arm = state["devices"][0]["arms"][LEFT]
    assert arm["state"] == "advertising"
    assert arm["lens"] == {"kind": "blank", "text": "", "version": 0, "frame": 0, "lit_at_ms": None}
    assert state["devices"][0]["state"]["battery"] == {LEFT: 87, RIGHT: 87}


async def test_a_lit_lens_has_text_pixels_version_and_time(bench: Bench) -> None:
    bench.connect(LEFT)
    before = bench.room.version
    bench.write(LEFT, HELLO)
    lens = (await bench.arm(LEFT))["lens"]
    assert lens["text"] == "\n\nHello\n"
    assert (lens["frame"], lens["version"] > before, lens["lit_at_ms"] > 1_700_000_000_000) == (1, True, True)
    shot = await bench.http.get("/api/sim/screenshot", params={"side": LEFT})
    assert shot.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(shot.content))
    assert (image.size, image.mode) == ((576, 136), "1")
    assert 50 < sum(pixel > 0 for pixel in image.tobytes()) < 2000
    bits = await bench.http.get("/api/sim/framebuffer", params={"side": LEFT})
    assert bits.content == image.tobytes()
    assert (bits.headers["x-width"], bits.headers["x-height"], bits.headers["x-frame"]) == ("576", "136", "1")
    right = await bench.http.get("/api/sim/framebuffer", params={"side": RIGHT})
    assert not any(right.content)
    text = await bench.http.get("/api/sim/screenshot", params={"side": LEFT, "format": "text"})
    assert text.text == "\n\nHello\n"
    ascii_art = await bench.http.get("/api/sim/screenshot", params={"side": LEFT, "format": "ascii"})
    assert "█" in ascii_art.text


@pytest.mark.parametrize(
    ("request_body", "status", "word"),
    [
        ({"action": "tap", "side": "left"}, 409, "not connected"),
        ({"action": "press"}, 409, "no button"),
        ({"action": "say", "text": "hello"}, 409, "microphone is off: no app asked for it"),
        ({"action": "drop"}, 409, "no arm is connected"),
        ({"action": "battery", "value": 150}, 409, "0 to 100"),
        ({"action": "battery", "value": "x" * 10}, 409, "number"),
        ({"action": "dance"}, 400, "unknown action"),
        ({"side": "left"}, 400, "no 'action'"),
        ({"action": "tap", "side": 7}, 400, "string"),
        ({"action": "tap", "value": []}, 400, "value"),
        ({"action": "say", "text": ""}, 400, "text"),
        ({"action": "say", "text": "x" * 5000}, 400, "2000"),
        ({"action": "wav", "wav": "%%%"}, 400, "base64"),
        ({"action": "wav"}, 400, "multipart"),
        ({"action": "lag", "ms": True}, 400, "number"),
        ({"action": "drop", "for": 1e9}, 400, "for"),
        ({"action": "rssi", "value": 400}, 400, "value"),
        ({"action": "faults", "faults": {"explode": 1}}, 400, "unknown fault"),
        ({"action": "faults", "faults": {"lose": 2}}, 400, "lose"),
        ({"action": "faults", "faults": 3}, 400, "object"),
        ({"action": "notify", "hex": "f501"}, 409, "no arm is connected"),
        ({"action": "notify", "hex": "xyz"}, 400, "hex"),
        ({"action": "notify"}, 400, "at least one byte"),
        ({"action": "hang_up"}, 409, "no arm is connected"),
        ({"action": "drop", "side": "middle"}, 404, "no side"),
        ({"action": "tap", "device": "g1-9"}, 404, "no device"),
        ([], 400, "object"),
    ],
)
async def test_an_input_without_taker_or_sense_says_why(
    bench: Bench, request_body: Any, status: int, word: str
) -> None:
    answer = await bench.http.post("/api/sim/input", json=request_body)
    assert answer.status_code == status
    assert word in answer.json()["error"]


async def test_a_body_that_is_no_json_is_a_clear_error(bench: Bench) -> None:
    for body in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        answer = await bench.http.post("/api/sim/input", content=body)
        assert answer.status_code == 400
        assert "JSON" in answer.json()["error"]
    assert (await bench.http.get("/api/sim/nothing")).status_code == 404
    assert (await bench.http.get("/api/sim/input")).status_code == 405


async def test_gestures_reach_the_firmware(bench: Bench) -> None:
    bench.connect(RIGHT)
    assert (await bench.input("tap", side=RIGHT)).status_code == 200
    assert bench.glasses.firmware.log[-1].hex == "f501"
    assert (await bench.input("battery", value=12)).status_code == 200
    state = (await bench.http.get("/api/sim/state")).json()
    assert state["devices"][0]["state"]["battery"] == {LEFT: 12, RIGHT: 12}
    assert state["devices"][1]["state"]["battery"] == {LEFT: 87, RIGHT: 87}


async def test_spoken_words_are_announced_and_fill_the_microphone(bench: Bench) -> None:
    bench.connect(RIGHT)
    bench.write(RIGHT, MIC_ON)
    answer = await bench.input("say", text="where is the station")
    assert answer.status_code == 200
    spoken = answer.json()["spoken"]
    assert spoken["text"] == "where is the station"
    assert spoken["duration_ms"] > 1000
    device = (await bench.http.get("/api/sim/state")).json()["devices"][0]
    assert device["spoken"] == [spoken]
    assert device["microphone"]["on"] is True
    assert device["microphone"]["queued_s"] > 1
    assert (await bench.input("silence")).status_code == 200
    assert bench.room.residents["g1-1"].microphone.seconds_left == 0


def tone(rate: int = 48_000, channels: int = 2) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(bytes(rate * channels))  # half a second
    return out.getvalue()


async def test_a_wav_is_taken_as_json_and_as_a_form(bench: Bench) -> None:
    assert (await bench.input("wav", wav=base64.b64encode(tone()).decode())).status_code == 409
    bench.connect(RIGHT)
    bench.write(RIGHT, MIC_ON)
    answer = await bench.input("wav", wav=base64.b64encode(tone()).decode())
    assert answer.json()["seconds"] == 0.5
    answer = await bench.http.post("/api/sim/input", files={"wav": ("a.wav", tone(8000, 1))})
    assert (answer.status_code, answer.json()["seconds"]) == (200, 0.5)
    answer = await bench.input("wav", wav=base64.b64encode(b"RIFFnonsense").decode())
    assert (answer.status_code, "not a PCM WAV" in answer.json()["error"]) == (400, True)


async def test_live_sound_is_taken_and_bounded(bench: Bench) -> None:
    assert (await bench.http.post("/api/sim/audio", content=bytes(3200))).status_code == 409
    bench.connect(RIGHT)
    bench.write(RIGHT, MIC_ON)
    assert (await bench.http.post("/api/sim/audio", content=bytes(3201))).status_code == 400
    for _ in range(40):
        assert (await bench.http.post("/api/sim/audio", content=bytes(3200))).status_code == 200
    assert bench.room.residents["g1-1"].microphone.seconds_left <= 2
    assert (await bench.http.post("/api/sim/audio", content=bytes(100_000))).status_code == 413


async def test_radio_switches_are_set_and_end_by_themselves(bench: Bench) -> None:
    left = bench.glasses.firmware.arms[LEFT].spec.address
    air = bench.room.link.air(left)
    assert (await bench.input("lag", ms=250, side=LEFT, **{"for": 0.05})).status_code == 200
    assert air.latency == 0.25
    await until(lambda: air.latency == 0, "the lag to end")
    assert (await bench.input("blackhole", side=LEFT, **{"for": 0.05})).status_code == 200
    assert air.blackhole
    await until(lambda: not air.blackhole, "the blackhole to end")
    assert (await bench.input("drop", side=LEFT, **{"for": 0.05})).status_code == 200
    assert air.blackhole
    await until(lambda: not air.blackhole, "the drop to end")
    for action, fields in (
        ("refuse_connect", {"side": LEFT}),
        ("rssi", {"value": -90}),
        ("adv_loss", {"value": 0.5}),
        ("mtu", {"value": 23}),
        ("forget_bonds", {}),
        ("reject_pairing", {"value": True}),
        ("unplug", {}),
        ("radio", {"interval_ms": 15, "pdus_per_event": 4, "loss": 0.1, "max_links": 5}),
        ("faults", {"faults": {"lose": 0.01, "ack_delay": [0, 1.2]}}),
    ):
        assert (await bench.input(action, **fields)).status_code == 200, action
    assert (air.refuse, air.rssi, air.adv_loss) == (0x3E, -90, 0.5)
    assert bench.room.link.params.interval == 0.015
    assert bench.glasses.firmware.arms[RIGHT].faults.ack_delay == (0, 1.2)


async def events(response: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    kind = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            yield kind, json.loads(line[6:])


async def test_the_stream_begins_with_the_state_and_tells_every_change(bench: Bench) -> None:
    async with bench.http.stream("GET", "/api/sim/events") as response:
        stream = events(response)
        kind, state = await asyncio.wait_for(anext(stream), 10)
        assert (kind, len(state["devices"])) == ("state", 2)
        bench.connect(LEFT)
        bench.write(LEFT, HELLO)
        kind, change = await asyncio.wait_for(anext(stream), 10)
        assert (kind, change["kind"], change["device"]) == ("change", "link", "g1-1")
        kind, change = await asyncio.wait_for(anext(stream), 10)
        assert (change["kind"], change["arm"], change["lens"]["text"]) == ("lens", LEFT, "\n\nHello\n")
        assert change["version"] == change["lens"]["version"] == bench.room.version
        await stream.aclose()


async def test_a_watcher_that_sleeps_gets_the_state_anew_and_all_end_with_the_room(bench: Bench) -> None:
    async with bench.http.stream("GET", "/api/sim/events") as response:
        stream = events(response)
        await asyncio.wait_for(anext(stream), 10)
        for number in range(1000):  # in one turn of the loop: nobody can follow
            bench.room.announce("g1-1", "input", number=number)
        async with asyncio.timeout(10):
            while (event := await anext(stream))[0] != "state":
                pass
        assert event[1]["version"] == bench.room.version
        bench.room.stop_watching()
        async with asyncio.timeout(10):
            async for _ in stream:
                pass


async def test_a_closed_case_takes_the_glasses_off_the_air(bench: Bench) -> None:
    assert (await bench.input("case", value="closed")).status_code == 200
    await until(
        lambda: all(arm.state is ArmState.DARK for arm in bench.glasses.firmware.arms.values()),
        "both arms dark",
    )
    await until(
        lambda: not bench.glasses.peripherals[LEFT].controller.le_legacy_advertiser.enabled,
        "no advertisement",
    )
    assert (await bench.input("case", value="open")).status_code == 200
    await until(
        lambda: bench.glasses.peripherals[LEFT].controller.le_legacy_advertiser.enabled, "advertising again"
    )


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Host": "evil.example:80"}, {"Origin": "https://evil.example"}]
)
async def test_a_foreign_page_or_name_is_refused(bench: Bench, headers: dict[str, str]) -> None:
    answer = await bench.http.post("/api/sim/input", json={"action": "look_up"}, headers=headers)
    assert answer.status_code == 403
    assert bench.glasses.firmware.snapshot()["head_up"] is False
    page = {"Origin": "http://localhost:8002"}
    assert (
        await bench.http.post("/api/sim/input", json={"action": "look_up"}, headers=page)
    ).status_code == 200


async def test_a_taken_port_is_said(bench: Bench) -> None:
    port = bench.http.base_url.port
    assert port
    with pytest.raises(SimError, match=str(port)):
        async with served(bench.room, port):
            pass
