"""Where speech begins and ends in a stream of audio: an energy detector that knows its room.

Rules: pure and deterministic; any cut of the same samples gives the same result. It decides over 20 ms frames against a
noise floor that follows the quiet parts. An utterance brings a little of what came before it, because the first sound of
a word is soft, and ends after a pause or at its greatest length.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from operator import mul
from typing import Final, TypeAlias

from cloud.speech.provider import BYTES_PER_SECOND, SAMPLE_RATE

FRAME_MS: Final = 20
FRAME_BYTES: Final = BYTES_PER_SECOND * FRAME_MS // 1000
#: Every third sample is enough to judge energy and costs a third.
_STEP: Final = 3


@dataclass(frozen=True, slots=True)
class VoiceTiming:
    """Thresholds; levels in dB below full scale, times in milliseconds."""

    #: Speech stands out of the room by at least this much. 9 dB: quiet talk beside a fan.
    margin_db: float = 9.0
    #: Below this nothing is speech, however quiet the room.
    least_db: float = -52.0
    #: Voiced frames out of the last eight that start an utterance: 100 ms, longer than a click.
    start_frames: int = 5
    #: Silence that ends an utterance: longer than the pause between words, shorter than impatience.
    pause: int = 700
    #: An utterance is cut here, so that a monologue gives captions and buffers stay small.
    longest: int = 15_000
    #: What is kept from before the start.
    pre_roll: int = 300


@dataclass(frozen=True, slots=True)
class Began:
    """Somebody speaks. `at` is milliseconds since the detector was made."""

    at: int


@dataclass(frozen=True, slots=True)
class Heard:
    """Audio of the utterance that has begun."""

    pcm: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The utterance is over; `paused` is False if it was only cut for its length."""

    at: int
    paused: bool


VoiceEvent: TypeAlias = Began | Heard | Ended


class VoiceDetector:
    """Feed audio, get utterances."""

    __slots__ = (
        "_floor",
        "_frames",
        "_pre_roll",
        "_quiet",
        "_recent",
        "_rest",
        "_speaking",
        "_started",
        "_timing",
    )

    def __init__(self, timing: VoiceTiming | None = None) -> None:
        self._timing = timing or VoiceTiming()
        self._rest = b""
        self._frames = 0
        self._floor = -60.0
        self._recent: list[bool] = []
        self._speaking = False
        self._quiet = 0
        self._started = 0
        self._pre_roll: list[bytes] = []

    @property
    def speaking(self) -> bool:
        return self._speaking

    @property
    def now(self) -> int:
        """Milliseconds of audio heard so far."""
        return self._frames * FRAME_MS

    def feed(self, pcm: bytes) -> list[VoiceEvent]:
        """The next piece of audio, of any size."""
        data = self._rest + pcm if self._rest else pcm
        whole = len(data) - len(data) % FRAME_BYTES
        self._rest = data[whole:]
        events: list[VoiceEvent] = []
        heard: list[bytes] = []
        for start in range(0, whole, FRAME_BYTES):
            self._frame(data[start : start + FRAME_BYTES], heard, events)
        self._flush(heard, events)
        return events

    def flush(self) -> list[VoiceEvent]:
        """The audio stopped coming: an utterance in progress ends here."""
        self._rest = b""
        self._recent.clear()
        self._pre_roll.clear()
        if not self._speaking:
            return []
        self._speaking = False
        return [Ended(self.now, True)]

    def _frame(self, frame: bytes, heard: list[bytes], events: list[VoiceEvent]) -> None:
        timing = self._timing
        self._frames += 1
        level = loudness(frame)
        voiced = level > max(self._floor + timing.margin_db, timing.least_db)
        if level < self._floor:
            self._floor = level + (self._floor - level) * 0.7  # down within a few frames
        else:
            # Up slowly: 10 dB a second at most, 3 while somebody speaks. Talk dips to the floor between words, which
            # holds it down; a fan does not, and becomes the room.
            self._floor += min(0.06 if self._speaking else 0.2, (level - self._floor) * 0.02)
        if self._speaking:
            heard.append(frame)
            self._quiet = 0 if voiced else self._quiet + FRAME_MS
            length = self.now - self._started
            if self._quiet >= timing.pause:
                self._end(heard, events, paused=True)
            elif length >= timing.longest:
                self._end(heard, events, paused=False)
                self._begin(events)
            return
        self._pre_roll.append(frame)
        del self._pre_roll[: -(timing.pre_roll // FRAME_MS)]
        self._recent.append(voiced)
        del self._recent[:-8]
        if sum(self._recent) >= timing.start_frames:
            self._begin(events)
            heard.extend(self._pre_roll)
            self._pre_roll.clear()
            self._recent.clear()

    def _begin(self, events: list[VoiceEvent]) -> None:
        self._speaking = True
        self._quiet = 0
        self._started = max(0, self.now - len(self._pre_roll) * FRAME_MS)
        events.append(Began(self._started))

    def _end(self, heard: list[bytes], events: list[VoiceEvent], *, paused: bool) -> None:
        self._flush(heard, events)
        self._speaking = False
        events.append(Ended(self.now, paused))

    @staticmethod
    def _flush(heard: list[bytes], events: list[VoiceEvent]) -> None:
        if heard:
            events.append(Heard(b"".join(heard)))
            heard.clear()


def loudness(pcm: bytes) -> float:
    """Energy of PCM16 audio in dB relative to full scale; -96 for silence."""
    samples = array("h", pcm)[::_STEP]
    if not samples:
        return -96.0
    energy = sum(map(mul, samples, samples)) / len(samples)
    return max(-96.0, 10.0 * math.log10(energy / (32768.0 * 32768.0))) if energy > 0.0 else -96.0


assert FRAME_BYTES * 1000 == BYTES_PER_SECOND * FRAME_MS, "a frame is a whole number of samples"
assert SAMPLE_RATE % 1000 == 0
