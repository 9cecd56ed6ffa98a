"""What the edge's core costs: a notification to its uplink frame, a second of sound, a display to its last packet.

Rules: the real edge core (node, glasses, profile, link) and the real codec with scripted Even G1 arms in virtual time, so
that CPU time is all there is to measure. Sound is a real LC3 stream. Figures are CPU time of this process.
"""

from __future__ import annotations

import math
import statistics
import struct
import time
from collections.abc import Sequence
from typing import Any, Final

import lc3

from edge.audio import SpeechDecoder
from edge.core.glasses import Decode
from edge.core.node import NodeEffect, SendAudio, SendText
from edge.profiles.base import Arm
from edge.profiles.g1 import G1
from tests.bench.servers import BenchError
from tests.edge.world import World

NAMES: Final = ("edge-notification", "edge-audio", "edge-display", "edge-fifty")
#: Even G1: ten LC3 frames of 20 bytes per packet, 10 ms each.
FRAMES: Final = 10
FRAME_BYTES: Final = 20


def run(name: str, *, quick: bool, peers: Sequence[str]) -> dict[str, Any]:
    count = 500 if quick else 5000
    match name:
        case "edge-notification":
            return notification(count)
        case "edge-audio":
            return audio(count)
        case "edge-display":
            return display(count // 10)
        case "edge-fifty":
            return fifty(glasses=50, seconds=2.0 if quick else 10.0)
        case _:
            raise BenchError(f"unknown benchmark {name}")


def _ready() -> World:
    world = World()
    world.link_extension = True
    world.start().run(5)
    if world.node.glasses.state.value != "ready" or world.node.uplink.state.value != "online":
        raise BenchError("the scripted glasses did not become ready")
    return world


def _percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50_us": round(statistics.median(ordered) * 1e6, 1),
        "p99_us": round(ordered[len(ordered) * 99 // 100] * 1e6, 1),
    }


def notification(count: int) -> dict[str, Any]:
    """One BLE notification (the head goes up or down) to the frame for the uplink."""
    world = _ready()
    taken = []
    for number in range(count):
        data = bytes((0xF5, 0x03 if number % 2 else 0x02))
        began = time.perf_counter()
        effects = world.notify(Arm.RIGHT, data)
        taken.append(time.perf_counter() - began)
        world.do(effects)
        if not any(isinstance(e, SendText) for e in effects):
            raise BenchError("a look up or down caused no uplink frame")
        world.run(0.4)
    return _percentiles(taken)


def sound(packets: int) -> list[bytes]:
    """A 440 Hz tone as the glasses send it: F1, a counter, ten LC3 frames."""
    encoder = lc3.Encoder(10_000, 16_000)
    made, at = [], 0
    for number in range(packets):
        frames = b""
        for _ in range(FRAMES):
            tone = [round(9000 * math.sin(2 * math.pi * 440 * (at + i) / 16_000)) for i in range(160)]
            at += 160
            frames += bytes(encoder.encode(struct.pack("<160h", *tone), FRAME_BYTES, bit_depth=16))
        made.append(bytes((0xF1, number % 256)) + frames)
    return made


class _Listener:
    """One pair of glasses with the microphone on, and the shell's part of the sound's way."""

    def __init__(self) -> None:
        self.world = _ready()
        self.world.mic(True)
        self.world.run(1)
        assert G1.audio is not None
        self.decoder = SpeechDecoder(G1.audio)

    def hear(self, packet: bytes) -> int:
        """Bytes of PCM that went up."""
        world, sent = self.world, 0
        effects: list[NodeEffect] = list(world.notify(Arm.RIGHT, packet))
        for effect in effects:
            if isinstance(effect, Decode):
                pcm = self.decoder.decode(effect.stream, effect.lost, effect.frames)
                for up in world.node.decoded(pcm, world.now, world.now):
                    if isinstance(up, SendAudio):
                        sent += len(up.pcm)
            else:
                world.do([effect])
        return sent


def audio(count: int) -> dict[str, Any]:
    """CPU per second of sound, from the notification to the uplink frame, decoding included; and the codec's part."""
    listener = _Listener()
    packets = sound(256)
    began, bytes_up = time.process_time(), 0
    for number in range(count):
        bytes_up += listener.hear(packets[number % 256])
        listener.world.now += 0.1
    cpu = time.process_time() - began
    if bytes_up != count * FRAMES * 320:
        raise BenchError(f"{bytes_up} bytes of PCM instead of {count * FRAMES * 320}")
    assert G1.audio is not None
    codec = SpeechDecoder(G1.audio)
    frames = tuple(
        packets[0][2 + i : 2 + i + FRAME_BYTES] for i in range(0, FRAMES * FRAME_BYTES, FRAME_BYTES)
    )
    began = time.process_time()
    for _ in range(count):
        codec.decode(1, 0, frames)
    codec_cpu = time.process_time() - began
    seconds = count / 10
    return {
        "cpu_ms_per_second_of_sound": round(cpu / seconds * 1e3, 3),
        "of_which_codec_ms": round(codec_cpu / seconds * 1e3, 3),
    }


def display(count: int) -> dict[str, Any]:
    """CPU from a display message to its last packet on both arms (virtual time covers the radio)."""
    world = _ready()
    taken = []
    for number in range(count):
        text = f"line {number}: the quick brown fox jumps over the lazy dog and goes home"
        began = time.process_time()
        world.show(text)
        world.run(0.6)
        taken.append(time.process_time() - began)
        if any(arm.shows is None or str(number) not in arm.shows for arm in world.arms.values()):
            raise BenchError(f"display {number} is not on both arms")
    return _percentiles(taken)


def fifty(*, glasses: int, seconds: float) -> dict[str, Any]:
    """Share of one CPU that `glasses` pairs need whose microphones are all on."""
    listeners = [_Listener() for _ in range(glasses)]
    packets = sound(256)
    turns = round(seconds * 10)
    began = time.process_time()
    for turn in range(turns):
        for listener in listeners:
            listener.hear(packets[turn % 256])
            listener.world.now += 0.1
    cpu = time.process_time() - began
    return {"glasses": glasses, "share_of_one_cpu": round(cpu / (turns / 10), 3)}
