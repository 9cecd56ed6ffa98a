"""LC3 to PCM: time stays exact, losses are concealed, nothing raises."""

from __future__ import annotations

import json
from pathlib import Path

import lc3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.audio import SpeechDecoder
from edge.profiles.base import AudioFormat

G1 = AudioFormat(frame_bytes=20)
RATE, FRAME = 16_000, 160


def tone(seconds: float, hertz: float = 300.0) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return (8000 * np.sin(2 * np.pi * hertz * t)).astype("<i2")


def encode(pcm: np.ndarray) -> list[bytes]:
    encoder = lc3.Encoder(10_000, RATE)
    return [
        bytes(encoder.encode(pcm[i : i + FRAME].tobytes(), 20, bit_depth=16))
        for i in range(0, len(pcm), FRAME)
    ]


def rms(pcm: bytes) -> float:
    return float(np.sqrt(np.mean(np.frombuffer(pcm, "<i2").astype(float) ** 2)))


def test_a_tone_comes_out_as_the_same_tone() -> None:
    source = tone(1.0)
    out = np.frombuffer(SpeechDecoder(G1).decode(1, 0, tuple(encode(source))), "<i2").astype(float)
    assert len(out) == len(source)
    correlation = max(
        float(np.corrcoef(source[1600:8000].astype(float), out[1600 + lag : 8000 + lag])[0, 1])
        for lag in range(120)
    )
    assert correlation > 0.95


def test_the_vectors_of_the_specification_decode_to_their_energy() -> None:
    file = Path(__file__).parent.parent / "vectors" / "g1" / "audio.json"
    vectors = {v["name"]: bytes.fromhex(v["hex"]) for v in json.loads(file.read_text())["vectors"]}
    frames = {name: tuple(raw[i : i + 20] for i in range(2, 202, 20)) for name, raw in vectors.items()}
    assert rms(SpeechDecoder(G1).decode(1, 0, frames["silence"])) < 5
    assert rms(SpeechDecoder(G1).decode(1, 0, frames["sine_1000_hz"])[960:]) > 1000


@pytest.mark.failure("AUD-03")
def test_lost_frames_are_concealed_then_silent_and_the_time_stays_exact() -> None:
    frames = encode(tone(1.0))
    decoder = SpeechDecoder(G1)
    before = decoder.decode(1, 0, tuple(frames[:50]))
    after = decoder.decode(1, 10, tuple(frames[60:]))
    assert len(before) + len(after) == RATE * 2
    level = rms(before[6400:])
    assert rms(after[: 5 * 320]) > 0.5 * level, "50 ms are guessed"
    assert rms(after[6 * 320 : 10 * 320]) == 0.0, "then silence"
    assert rms(after[-6400:]) > 0.8 * level
    assert decoder.concealed == 10


@pytest.mark.failure("AUD-03")
def test_frames_of_the_wrong_size_are_concealed_not_raised() -> None:
    frames = encode(tone(0.5))
    frames[10] = frames[10][:7]
    frames[20] = b""
    decoder = SpeechDecoder(G1)
    assert len(decoder.decode(1, 0, tuple(frames))) == RATE
    assert decoder.broken == 2


@pytest.mark.failure("AUD-03")
def test_one_percent_of_corrupt_frames_does_not_stop_the_stream() -> None:
    rng = np.random.default_rng(1)
    frames = [bytes(rng.bytes(20)) if n % 100 == 50 else frame for n, frame in enumerate(encode(tone(3.0)))]
    out = SpeechDecoder(G1).decode(1, 0, tuple(frames))
    assert len(out) == 3 * RATE * 2
    assert rms(out) > 4000


@pytest.mark.failure("AUD-03")
def test_any_cutting_of_the_stream_gives_the_same_sound() -> None:
    frames = tuple(encode(tone(1.0)))
    whole = SpeechDecoder(G1).decode(1, 0, frames)
    for size in (1, 3, 7, 10, 37):
        decoder = SpeechDecoder(G1)
        pieces = [decoder.decode(1, 0, frames[i : i + size]) for i in range(0, len(frames), size)]
        assert b"".join(pieces) == whole


def test_a_new_stream_starts_afresh_and_fills_no_gap() -> None:
    frames = tuple(encode(tone(0.1)))
    decoder = SpeechDecoder(G1)
    first = decoder.decode(1, 0, frames)
    assert decoder.decode(2, 400, frames) == first


def test_raw_pcm_passes_through_with_its_gaps() -> None:
    decoder = SpeechDecoder(AudioFormat(frame_bytes=0))
    decoder.decode(1, 0, ())
    assert decoder.decode(1, 2, (b"\1\0" * 160,)) == bytes(640) + b"\1\0" * 160


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 600), st.lists(st.binary(max_size=25), max_size=4)), max_size=8))
def test_any_frames_decode_to_exactly_their_time(packets: list[tuple[int, list[bytes]]]) -> None:
    decoder = SpeechDecoder(G1)
    decoder.decode(1, 0, ())
    for lost, frames in packets:
        assert len(decoder.decode(1, lost, tuple(frames))) == 320 * (min(lost, 500) + len(frames))
