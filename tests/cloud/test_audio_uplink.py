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


def test_gaps_inside_a_stream_are_counted_and_its_end_is_none() -> None:
    uplink = AudioUplink()
    for at in (0.0, 0.02, 0.5, 0.52, 60.0):
        uplink.decode(b"\0\0", at)
    assert uplink.gaps == 1
    assert uplink.lost == pytest.approx(0.48)
