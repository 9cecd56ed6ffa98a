"""The voice detector: where an utterance begins and ends, in any room and any cut of the audio."""

from __future__ import annotations

import array
import math
import random

import pytest

from cloud.speech.provider import BYTES_PER_SECOND, SAMPLE_RATE
from cloud.speech.voice import FRAME_BYTES, Began, Ended, Heard, VoiceDetector, VoiceEvent, loudness


def tone(seconds: float, level_db: float = -20.0, hertz: float = 220.0) -> bytes:
    peak = 32767 * 10 ** (level_db / 20) * math.sqrt(2)
    count = int(seconds * SAMPLE_RATE)
    return array.array(
        "h", (int(peak * math.sin(2 * math.pi * hertz * n / SAMPLE_RATE)) for n in range(count))
    ).tobytes()


def noise(seconds: float, level_db: float = -60.0, seed: int = 1) -> bytes:
    rng = random.Random(seed)
    peak = 32767 * 10 ** (level_db / 20)
    return array.array("h", (int(rng.gauss(0, peak)) for _ in range(int(seconds * SAMPLE_RATE)))).tobytes()


def said(events: list[VoiceEvent]) -> bytes:
    return b"".join(event.pcm for event in events if isinstance(event, Heard))


def shape(events: list[VoiceEvent]) -> list[str]:
    return [type(event).__name__ for event in events if not isinstance(event, Heard)]


def test_loudness_is_in_db_below_full_scale() -> None:
    assert loudness(tone(0.5, -20.0)) == pytest.approx(-20.0, abs=0.3)
    assert loudness(bytes(640)) == -96.0
    assert loudness(b"") == -96.0


def test_one_utterance_begins_and_ends_with_a_little_from_before() -> None:
    events = VoiceDetector().feed(noise(1.0) + tone(1.0) + noise(1.5))
    assert shape(events) == ["Began", "Ended"]
    began, ended = (event for event in events if not isinstance(event, Heard))
    assert isinstance(began, Began)
    assert isinstance(ended, Ended)
    assert 700 <= began.at <= 1000, "the pre-roll reaches back before the first sound"
    assert 2600 <= ended.at <= 2900, "a pause of 700 ms ends it"
    assert ended.paused
    heard = said(events)
    assert tone(1.0)[: BYTES_PER_SECOND // 2] in heard, "not a sample of the speech is lost"
    assert len(heard) == (ended.at - began.at) * BYTES_PER_SECOND // 1000


@pytest.mark.failure("AUD-03")
@pytest.mark.parametrize("size", [1, 7, 319, 320, 641, 4096, 50_000])
def test_the_cut_of_the_audio_does_not_matter(size: int) -> None:
    audio = noise(0.5) + tone(0.6) + noise(1.0) + tone(0.4, hertz=300) + noise(1.2)
    whole = VoiceDetector().feed(audio)
    detector = VoiceDetector()
    pieces: list[VoiceEvent] = []
    for start in range(0, len(audio), size):
        pieces += detector.feed(audio[start : start + size])
    assert said(pieces) == said(whole)
    assert [e for e in pieces if not isinstance(e, Heard)] == [e for e in whole if not isinstance(e, Heard)]
    assert shape(whole) == ["Began", "Ended"] * 2


def test_silence_noise_and_clicks_are_no_speech() -> None:
    assert VoiceDetector().feed(bytes(5 * BYTES_PER_SECOND)) == []
    assert VoiceDetector().feed(noise(5.0, -55.0)) == []
    click = noise(1.0) + tone(0.04) + noise(1.0)
    assert VoiceDetector().feed(click) == []


def test_the_detector_learns_a_loud_room() -> None:
    detector = VoiceDetector()
    events = detector.feed(noise(12.0, -38.0))
    assert shape(events)[-1:] in ([], ["Ended"]), "after a while the fan is the room"
    assert shape(detector.feed(tone(1.0, -15.0) + noise(1.5, -38.0, seed=2))) == ["Began", "Ended"]


def test_a_pause_between_words_does_not_end_the_utterance() -> None:
    events = VoiceDetector().feed(noise(0.5) + (tone(0.3) + noise(0.4)) * 4 + noise(1.0))
    assert shape(events) == ["Began", "Ended"]


def test_a_monologue_is_cut_and_goes_on() -> None:
    talk = (tone(0.5) + noise(0.16)) * 50
    events = VoiceDetector().feed(noise(0.5) + talk + noise(1.5))
    assert shape(events) == ["Began", "Ended"] * 3
    assert [event.paused for event in events if isinstance(event, Ended)] == [False, False, True]
    assert talk[:-BYTES_PER_SECOND] in said(events), "the cuts lose nothing"


def test_audio_that_stops_without_silence_can_be_ended() -> None:
    detector = VoiceDetector()
    assert shape(detector.feed(noise(0.3) + tone(0.5))) == ["Began"]
    assert shape(detector.flush()) == ["Ended"]
    assert detector.flush() == []
    assert not detector.speaking


def test_a_rest_shorter_than_a_frame_waits() -> None:
    detector = VoiceDetector()
    detector.feed(bytes(FRAME_BYTES - 1))
    assert detector.now == 0
    detector.feed(bytes(1))
    assert detector.now == 20
