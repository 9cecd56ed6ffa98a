"""Audio of one glasses client on its way to the apps: whatever arrives becomes whole PCM16 samples, decoded once.

Rules: nothing is assumed of how the client cuts its stream: a rest shorter than one LC3 frame, or than one sample, waits
for the next piece. A new configuration starts a new decoder. Source: wire spec 2.5; failure catalogue AUD-03.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import lc3

SAMPLE_RATE: Final = 16_000
#: Frame sizes that phones use: 16, 32 and 48 kbit/s (wire spec 2.5).
FRAME_BYTES: Final = (20, 40, 60)
FRAME_MS: Final = 10
#: Sound that is missing for longer is worth counting, in seconds. A listener hides less than this.
GAP: Final = 0.1
#: A longer silence is the end of a stream (microphone off, nobody speaks), not a gap.
GAP_MAX: Final = 2.0
#: Sound may be ahead of its time by so much: pieces that waited for a slow network come in one go, and a microphone's
#: clock that is a little fast must not hide real gaps for ever.
AHEAD_MAX: Final = 0.5


class AudioUplink:
    """The decoder of one session. Until configured, clients send PCM."""

    __slots__ = ("_decoder", "_frame_bytes", "_lasts_until", "_rest", "failures", "frames", "gaps", "lost")

    def __init__(self) -> None:
        self._decoder: lc3.Decoder | None = None
        self._frame_bytes = 0
        self._rest = b""
        #: When a listener who began with the first piece runs out of sound.
        self._lasts_until: float | None = None
        self.frames = 0
        self.failures = 0
        self.gaps = 0
        self.lost = 0.0  # seconds inside gaps

    def configure(self, format: str, lc3_config: Mapping[str, Any] | None) -> None:
        """`pcm`, or `lc3` with sampleRate, frameDurationMs and frameSizeBytes. Raises ValueError naming the member."""
        self._rest = b""
        if format == "pcm":
            self._decoder = None
            return
        if format != "lc3":
            raise ValueError(f"format: {format!r} is neither pcm nor lc3")
        config = lc3_config or {}
        rate = config.get("sampleRate", SAMPLE_RATE)
        duration = config.get("frameDurationMs", FRAME_MS)
        size = config.get("frameSizeBytes", FRAME_BYTES[0])
        if rate != SAMPLE_RATE:
            raise ValueError("lc3Config.sampleRate: only 16000 is supported")
        if duration != FRAME_MS:
            raise ValueError("lc3Config.frameDurationMs: only 10 is supported")
        if size not in FRAME_BYTES:
            raise ValueError("lc3Config.frameSizeBytes: must be 20, 40 or 60")
        self._decoder = lc3.Decoder(FRAME_MS * 1000, SAMPLE_RATE)
        self._frame_bytes = int(size)

    def reset(self) -> None:
        """Another connection: a rest of the old one belongs to nothing."""
        self._rest = b""
        self._lasts_until = None

    def decode(self, data: bytes, now: float) -> bytes:
        """PCM16 little-endian, mono, 16 kHz: every sample that is complete by now."""
        self.frames += 1
        pcm = self._samples(data)
        # A gap is sound that was not there when the sound before it had ended. The time between two pieces says
        # nothing: G1 sends 100 ms in one notification.
        until = self._lasts_until
        late = 0.0 if until is None else now - until
        if GAP < late < GAP_MAX:
            self.gaps += 1
            self.lost += late
        begins = now if until is None or late > 0 else min(until, now + AHEAD_MAX)
        self._lasts_until = begins + len(pcm) / (2 * SAMPLE_RATE)
        return pcm

    def _samples(self, data: bytes) -> bytes:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if self._decoder is None:
            if len(data) & 1:
                self._rest = data[-1:]
                return data[:-1]
            return data
        size = self._frame_bytes
        whole = len(data) - len(data) % size
        if whole != len(data):
            self._rest = data[whole:]
        pieces: list[bytes] = []
        for start in range(0, whole, size):
            try:
                pieces.append(bytes(self._decoder.decode(data[start : start + size], 16)))
            except lc3.BaseError:
                # The codec conceals a lost frame; one that it refuses outright becomes silence of its length.
                self.failures += 1
                pieces.append(bytes(2 * SAMPLE_RATE * FRAME_MS // 1000))
        return b"".join(pieces)
