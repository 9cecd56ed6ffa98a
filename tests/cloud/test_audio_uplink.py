"""Audio of a phone becomes whole PCM samples, however it is cut and whatever is in it."""

from __future__ import annotations

import lc3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.audio_uplink import AudioUplink


def lc3_config(size: int = 20) -> dict[str, int]:
    return {"sampleRate": 16_000, "frameDurationMs": 10, "frameSizeBytes": size}


@pytest.mark.failure("AUD-03")
@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(1, 50), max_size=40))
@settings(max_examples=50, deadline=None)
def test_pcm_is_the_same_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    uplink, out, at = AudioUplink(), b"", 0
    for cut in [*cuts, len(data)]:
        out += uplink.decode(data[at : at + cut], 0.0)
        at += cut
    assert out == data[: len(data) - len(data) % 2]


@pytest.mark.parametrize("size", [20, 40, 60])
@pytest.mark.failure("AUD-03")
def test_lc3_is_the_same_however_it_is_cut(size: int) -> None:
    encoder = lc3.Encoder(10_000, 16_000)
    coded = b"".join(bytes(encoder.encode(bytes([n % 7, 1]) * 160, size, 16)) for n in range(12))
    whole, pieces = AudioUplink(), AudioUplink()
    for uplink in (whole, pieces):
        uplink.configure("lc3", lc3_config(size))
    expected = whole.decode(coded, 0.0)
    assert len(expected) == 12 * 320
    assert b"".join(pieces.decode(coded[i : i + 7], 0.0) for i in range(0, len(coded), 7)) == expected


@given(st.binary(min_size=20, max_size=200))
@settings(max_examples=50, deadline=None)
def test_noise_in_place_of_lc3_gives_sound_of_the_right_length(data: bytes) -> None:
    uplink = AudioUplink()
    uplink.configure("lc3", lc3_config())
    assert len(uplink.decode(data, 0.0)) == len(data) // 20 * 320


@pytest.mark.parametrize(
    ("form", "config", "member"),
    [
        ("opus", None, "format"),
        ("lc3", {"sampleRate": 48_000}, "sampleRate"),
        ("lc3", {"frameDurationMs": 7.5}, "frameDurationMs"),
        ("lc3", {"frameSizeBytes": 0}, "frameSizeBytes"),
    ],
)
def test_an_impossible_configuration_is_named_and_changes_nothing(
    form: str, config: dict[str, int] | None, member: str
) -> None:
    uplink = AudioUplink()
    with pytest.raises(ValueError, match=member):
        uplink.configure(form, config)
    assert uplink.decode(b"\1\2", 0.0) == b"\1\2"


def arriving(*pieces: tuple[float, float]) -> AudioUplink:
    """Pieces of PCM as (when, how many seconds of sound)."""
    uplink = AudioUplink()
    for at, seconds in pieces:
        uplink.decode(bytes(2 * round(seconds * 16_000)), at)
    return uplink


def test_gaps_inside_a_stream_are_counted_and_its_end_is_none() -> None:
    uplink = arriving((0.0, 0.02), (0.02, 0.02), (0.5, 0.02), (0.52, 0.02), (60.0, 0.02))
    assert uplink.gaps == 1
    assert uplink.lost == pytest.approx(0.46)


def test_a_stream_in_long_pieces_with_jitter_has_no_gaps() -> None:
    # G1: 100 ms per notification, each up to 30 ms early or late.
    pieces = [(n * 0.1 + (n * 7 % 5 - 2) * 0.015, 0.1) for n in range(100)]
    assert arriving(*pieces).gaps == 0


def test_a_lost_piece_is_a_gap_of_its_length() -> None:
    uplink = arriving(*((n * 0.1, 0.1) for n in range(30) if n not in (10, 11)))
    assert uplink.gaps == 1
    assert uplink.lost == pytest.approx(0.2)


def test_sound_that_comes_late_in_one_go_is_no_loss_twice() -> None:
    # Held up for 0.4 s, then everything at once: one gap, and the rest continues on time.
    held = [(0.5, 0.1)] * 4
    uplink = arriving((0.0, 0.1), *held, *((0.5 + n * 0.1, 0.1) for n in range(1, 20)))
    assert uplink.gaps == 1
    assert uplink.lost == pytest.approx(0.4)


def test_a_fast_microphone_clock_does_not_hide_gaps_for_ever() -> None:
    # 1 % too much sound for ten minutes, then a second without any.
    pieces = [(n * 0.1, 0.101) for n in range(6000)]
    assert arriving(*pieces, (601.0, 0.1)).gaps == 1
