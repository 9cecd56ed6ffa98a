"""What the simulated microphone hears: recordings at any rate, live chunks, the toy voice, LC3 that decodes again."""

from __future__ import annotations

import io
import wave

import lc3
import numpy as np
import pytest

from firmware_sim.sound import RATE, SimMicrophone, SoundError, read_wav, resample, speak


def sine(frequency: float, rate: int, seconds: float = 1.0, amplitude: int = 8000) -> np.ndarray:
    t = np.arange(int(rate * seconds)) / rate
    return np.asarray(amplitude * np.sin(2 * np.pi * frequency * t)).astype("<i2")


def wav(samples: np.ndarray, rate: int, channels: int = 1, width: int = 2) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(width)
        writer.setframerate(rate)
        writer.writeframes(samples.tobytes())
    return out.getvalue()


def loudest(pcm: bytes) -> float:
    """Frequency of the strongest component, Hz."""
    samples = np.frombuffer(pcm, "<i2").astype(float)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE / len(samples))


def rms(pcm: bytes) -> float:
    return float(np.sqrt(np.mean(np.frombuffer(pcm, "<i2").astype(float) ** 2)))


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_recording_keeps_pitch_length_and_loudness_at_any_rate(rate: int, channels: int) -> None:
    samples = np.repeat(sine(440, rate), channels)
    pcm = read_wav(wav(samples, rate, channels))
    assert len(pcm) / 2 == pytest.approx(RATE, rel=0.01)
    assert loudest(pcm) == pytest.approx(440, abs=3)
    assert rms(pcm) == pytest.approx(8000 / 2**0.5, rel=0.05)


def test_what_is_above_the_new_band_does_not_come_back_as_alias() -> None:
    pcm = resample(sine(15_000, 48_000).tobytes(), 48_000, RATE)
    assert rms(pcm) < 0.35 * 8000 / 2**0.5


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "not a PCM WAV"),
        (b"RIFF\0\0\0\0WAVE", "not a PCM WAV"),
        (wav(sine(440, 16000), 16000, width=1), "8 bits"),
        (wav(sine(440, 16000), 500), "sample rate of 500"),
        (wav(np.repeat(sine(440, 8000), 3), 8000, 3), "3 channels"),
    ],
)
def test_what_cannot_be_played_is_said(data: bytes, word: str) -> None:
    with pytest.raises(SoundError, match=word):
        read_wav(data)


def test_a_truncated_recording_plays_what_is_there() -> None:
    assert 0 < len(read_wav(wav(sine(440, 16000), 16000)[:20_001])) <= 20_001


@pytest.mark.failure("AUD-03")
def test_encoded_frames_decode_to_the_same_tone_whatever_the_chunks() -> None:
    tone = sine(1000, RATE).tobytes()
    streams = []
    for size in (2, 74, 320, 642, 4096, len(tone)):
        microphone = SimMicrophone()
        for start in range(0, len(tone), size):
            microphone.play(tone[start : start + size])
        streams.append(b"".join(b"".join(microphone.lc3(20, 10)) for _ in range(10)))
    assert len(set(streams)) == 1
    decoder = lc3.Decoder(10_000, RATE)
    frames = [streams[0][i : i + 20] for i in range(0, 2000, 20)]
    heard = b"".join(bytes(decoder.decode(frame, bit_depth=16)) for frame in frames)
    assert loudest(heard[3200:]) == pytest.approx(1000, abs=5)
    assert rms(heard[3200:]) == pytest.approx(rms(tone), rel=0.12)  # 1 dB


def test_silence_follows_when_the_recording_ends() -> None:
    microphone = SimMicrophone()
    microphone.play(bytes(320 * 3))
    assert microphone.seconds_left == 0.03
    assert len(microphone.lc3(20, 10)) == 10
    assert microphone.seconds_left == 0


def test_live_sound_keeps_the_newest_two_seconds_and_recordings_end_at_ten_minutes() -> None:
    microphone = SimMicrophone()
    for second in range(5):
        microphone.live(bytes([second, 0]) * RATE)
    assert microphone.seconds_left == 2
    assert microphone.pcm(1, RATE) == b"\x03\x00"
    microphone.clear()
    microphone.play(bytes(500 * RATE * 2))
    with pytest.raises(SoundError, match="ten minutes"):
        microphone.play(bytes(101 * RATE * 2))


def test_speech_is_deterministic_loud_and_in_the_band_of_voices() -> None:
    pcm = speak("where is the station")
    assert pcm == speak("where is the station")
    assert pcm != speak("where is the airport")
    assert 1.0 < len(pcm) / 2 / RATE < 4.0
    assert rms(pcm) > 500
    assert 80 < loudest(pcm) < 3000
    assert speak("你好 ...") is not None


def test_pcm_is_delivered_at_other_rates() -> None:
    microphone = SimMicrophone()
    microphone.play(sine(440, RATE).tobytes())
    half = microphone.pcm(800, 8000)
    assert len(half) == 1600
    assert rms(half) > 4000
    assert microphone.seconds_left == pytest.approx(0.9)
