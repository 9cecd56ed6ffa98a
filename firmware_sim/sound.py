"""What a simulated microphone hears: recordings, live PCM and words spoken by a toy voice, encoded as LC3.

Rules of this file:

- Inside, sound is signed 16-bit little-endian mono at 16 kHz.
- Deterministic: the same words give the same samples.
- Bounded: a recording of at most ten minutes, live sound of at most two seconds (older sound is lost first).
"""

from __future__ import annotations

import array
import io
import math
import sys
import wave
import zlib

import lc3

RATE = 16_000
FRAME_SAMPLES = 160
"""10 ms."""
SAMPLE_BYTES = 2

RECORDING_MAX = 600 * RATE * SAMPLE_BYTES
LIVE_MAX = 2 * RATE * SAMPLE_BYTES
"""A browser sends chunks of about 0.1 s; two seconds ride out its pauses without growing behind the moment."""


class SoundError(ValueError):
    """The sound cannot be used; the message says why."""


class SimMicrophone:
    """An `AudioSource` that plays what it was given, in real time, and silence otherwise."""

    def __init__(self) -> None:
        self._pcm = bytearray()
        self._encoders: dict[int, lc3.Encoder] = {}

    @property
    def seconds_left(self) -> float:
        return len(self._pcm) / (RATE * SAMPLE_BYTES)

    def play(self, pcm: bytes) -> float:
        """Queue a recording behind what still plays; seconds until it has been heard to its end."""
        if len(self._pcm) + len(pcm) > RECORDING_MAX:
            raise SoundError("more than ten minutes of sound are waiting: wait, or send 'silence' first")
        self._pcm += pcm
        return self.seconds_left

    def live(self, pcm: bytes) -> None:
        """Sound of this moment; when it comes faster than it plays, the oldest is dropped."""
        self._pcm += pcm
        if (excess := len(self._pcm) - LIVE_MAX) > 0:
            del self._pcm[: excess + excess % SAMPLE_BYTES]

    def clear(self) -> None:
        self._pcm.clear()

    def _take(self, samples: int) -> bytes:
        taken = bytes(self._pcm[: samples * SAMPLE_BYTES])
        del self._pcm[: samples * SAMPLE_BYTES]
        return taken.ljust(samples * SAMPLE_BYTES, b"\0")

    def lc3(self, frame_bytes: int, count: int) -> list[bytes]:
        # One encoder per stream format and for good: it keeps state between frames and is never really freed.
        encoder = self._encoders.get(frame_bytes)
        if encoder is None:
            encoder = self._encoders[frame_bytes] = lc3.Encoder(10_000, RATE)
        return [
            bytes(encoder.encode(self._take(FRAME_SAMPLES), frame_bytes, bit_depth=16)) for _ in range(count)
        ]

    def pcm(self, samples: int, rate: int) -> bytes:
        return resample(self._take(round(samples * RATE / rate)), RATE, rate)[: samples * SAMPLE_BYTES].ljust(
            samples * SAMPLE_BYTES, b"\0"
        )


def read_wav(data: bytes) -> bytes:
    """16-bit PCM WAV, mono or stereo, any rate from 4 to 192 kHz, as 16 kHz mono. Raises `SoundError`."""
    try:
        with wave.open(io.BytesIO(data)) as reader:
            channels, width, rate = reader.getnchannels(), reader.getsampwidth(), reader.getframerate()
            if width != 2 or channels not in (1, 2):
                raise SoundError(
                    f"a WAV of {channels} channels and {8 * width} bits: 16-bit mono or stereo is needed"
                )
            if not 4_000 <= rate <= 192_000:
                raise SoundError(f"a sample rate of {rate} Hz: 4000 to 192000 are possible")
            frames = reader.readframes(reader.getnframes())
    except (wave.Error, EOFError) as error:
        raise SoundError(f"not a PCM WAV file: {error or 'it ends early'}") from error
    frames = frames[: len(frames) // (width * channels) * width * channels]
    if channels == 2:
        both = _samples(frames)
        frames = _bytes([(left + right) // 2 for left, right in zip(both[::2], both[1::2], strict=True)])
    return resample(frames, rate, RATE)


def resample(pcm: bytes, source: int, target: int) -> bytes:
    """Average over the output period when going down (keeps aliases out), straight lines when going up."""
    if source == target or not pcm:
        return pcm
    samples = _samples(pcm)
    step = source / target
    out: list[int] = []
    last = len(samples) - 1
    for i in range(int(len(samples) / step)):
        start = i * step
        if step > 1:
            window = samples[int(start) : max(int(start) + 1, int(start + step))]
            out.append(sum(window) // len(window))
        else:
            k = int(start)
            a, b = samples[k], samples[min(k + 1, last)]
            out.append(int(a + (b - a) * (start - k)))
    return _bytes(out)


_FORMANTS = {
    "a": (730, 1090), "e": (530, 1840), "i": (270, 2290), "o": (570, 840), "u": (300, 870), "y": (300, 1900)
}  # fmt: skip
"""First two formants of an average male voice (Peterson and Barney), Hz, by vowel letter."""

_VOICED_SECONDS, _NOISE_SECONDS, _PAUSE_SECONDS = 0.11, 0.05, 0.09


def speak(text: str) -> bytes:
    """Something like speech: vowels as a buzz through two formants, consonants as short noise, words apart."""
    samples: list[int] = []
    for word in text.lower().split():
        seed = zlib.crc32(word.encode())
        pitch = 105 + seed % 40
        for letter in word:
            if letter in _FORMANTS:
                samples += _vowel(_FORMANTS[letter], pitch)
            elif letter.isalnum():
                samples += _noise(zlib.crc32(letter.encode(), seed))
        samples += [0] * int(_PAUSE_SECONDS * RATE)
    return _bytes(samples)


def _vowel(formants: tuple[int, int], pitch: int) -> list[int]:
    count = int(_VOICED_SECONDS * RATE)
    partials = [(h * pitch, _gain(h * pitch, formants)) for h in range(1, 3400 // pitch)]
    partials = sorted(partials, key=lambda p: -p[1])[:8]  # the loudest carry the vowel; more only cost time
    total = sum(gain for _, gain in partials)
    out = []
    for n in range(count):
        t = n / RATE
        envelope = math.sin(math.pi * n / count)
        value = sum(gain * math.sin(2 * math.pi * f * t) for f, gain in partials) / total
        out.append(int(14_000 * envelope * value))
    return out


def _gain(frequency: float, formants: tuple[int, int]) -> float:
    return (
        sum(1 / (1 + ((frequency - formant) / 90) ** 2) for formant in formants)
        + 200 / (frequency + 200) * 0.3
    )


def _noise(seed: int) -> list[int]:
    count = int(_NOISE_SECONDS * RATE)
    state, out = seed or 1, []
    for n in range(count):
        state = (1_103_515_245 * state + 12_345) & 0x7FFFFFFF  # ANSI C's generator: deterministic everywhere
        out.append(int(((state >> 15) / 32768 - 1) * 3_000 * math.sin(math.pi * n / count)))
    return out


def _samples(pcm: bytes) -> array.array[int]:
    samples = array.array("h")
    samples.frombytes(pcm[: len(pcm) // 2 * 2])
    if sys.byteorder == "big":
        samples.byteswap()
    return samples


def _bytes(samples: list[int]) -> bytes:
    out = array.array("h", samples)
    if sys.byteorder == "big":
        out.byteswap()
    return out.tobytes()
