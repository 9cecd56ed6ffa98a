"""Scenario files are checked whole, and loudness curves are compared fairly."""

from __future__ import annotations

import io
import math
import struct
import wave
from pathlib import Path

import pytest

from glassbridge.output import CommandError, Exit
from glassbridge.scenario import curve_of_wav, likeness, load, words_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_demo_is_a_scenario_and_covers_every_verb_but_wait() -> None:
    scenario = load(EXAMPLES / "demo.toml")
    assert scenario.title == "demo"
    assert {step.verb for step in scenario.steps} == {"lens", "input", "hear", "shot"}
    assert (EXAMPLES / "station.wav").exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "1 to 1000"),
        ("speed = 3\n[[step]]\nlens = 'app'", "unknown member 'speed'"),
        ("[[step]]\nlens = 'a'\ninput = 'tap'", "exactly one of"),
        ("[[step]]\nlense = 'a'", "exactly one of"),
        ("[[step]]\nlens = 3", "must be a string"),
        ("[[step]]\nlens = 'a'\nside = 'left'", "unknown member 'side'"),
        ("[[step]]\nwait = 'soon'", "is not a time"),
        ("[[step]]\nlens = 'a'\nwithin = 'soon'", "is not a time"),
        ("[[step]", "Expected"),
        ("step = " + "[" * 2000, "recursion"),
    ],
)
def test_a_bad_file_is_refused_before_anything_starts(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(CommandError, match=why) as caught:
        load(path)
    assert caught.value.code is Exit.CONFIG


def test_a_missing_file_is_named() -> None:
    with pytest.raises(CommandError, match="is not a scenario"):
        load(Path("nowhere.toml"))


def test_what_a_lens_wraps_is_still_the_same_words() -> None:
    assert words_of("where is\nthe  station \n\n") == "where is the station"


def wav(*bursts: float, rate: int = 16000) -> bytes:
    """A tone of 0.2 s for each amplitude."""
    samples = [int(30000 * amplitude * math.sin(n / 4)) for amplitude in bursts for n in range(rate // 5)]
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return out.getvalue()


def test_sound_that_arrives_late_and_quieter_still_follows() -> None:
    played = curve_of_wav(wav(0.9, 0.1, 0.6, 0.0, 0.3))
    heard = [0.0] * 17 + [0.5 * level for level in played] + [0.0] * 3
    assert likeness(played, heard) == pytest.approx(1.0)


def test_other_sound_does_not_follow() -> None:
    played = curve_of_wav(wav(0.9, 0.1, 0.6, 0.0, 0.3))
    other = curve_of_wav(wav(0.1, 0.9, 0.0, 0.6, 0.8))
    assert likeness(played, [0.0] * 10 + other + [0.0] * 10) < 0.5


def test_nothing_is_claimed_before_all_was_heard() -> None:
    played = curve_of_wav(wav(0.9, 0.1, 0.6))
    assert likeness(played, played[:-1]) == -1.0


@pytest.mark.parametrize("raw", [b"", b"RIFF....", wav()])
def test_what_is_no_wav_is_refused(raw: bytes) -> None:
    with pytest.raises((wave.Error, EOFError, ValueError)):
        curve_of_wav(raw)
