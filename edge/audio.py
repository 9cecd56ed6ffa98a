"""Sound of the glasses to PCM: LC3 decoding with concealment of what the air lost.

Rules: one decoder per stream (a new one for each packet clicks). Time stays exact: every lost frame becomes 10 ms of
sound or silence. A broken frame is concealed, never an exception.
"""

from __future__ import annotations

import lc3

from edge.profiles.base import AudioFormat

#: Frames that are concealed in a row; beyond 50 ms the codec's guess is no longer speech, so silence follows.
CONCEAL_MAX = 5
#: A gap is filled up to this many frames (5 s): a larger one is a new stream by the rules of edge.core.glasses.
LOST_MAX = 500


class SpeechDecoder:
    """Codec frames of one microphone to PCM16 little-endian, mono, at the format's rate."""

    def __init__(self, audio: AudioFormat) -> None:
        self._audio = audio
        self._samples = round(audio.rate * audio.frame)
        self._stream: int | None = None
        self._decoder: lc3.Decoder | None = None
        self.concealed = 0
        self.broken = 0

    def decode(self, stream: int, lost: int, frames: tuple[bytes, ...]) -> bytes:
        """`lost` frames that never came, then `frames`. A new `stream` number starts a fresh decoder."""
        if stream != self._stream:
            self._stream, lost = stream, 0
            if self._audio.frame_bytes:
                self._decoder = lc3.Decoder(round(self._audio.frame * 1_000_000), self._audio.rate)
        if self._decoder is None:
            return bytes(2 * self._samples * min(lost, LOST_MAX)) + b"".join(frames)
        out = bytearray(self._conceal(min(lost, LOST_MAX)))
        for frame in frames:
            if len(frame) != self._audio.frame_bytes:
                self.broken += 1
                out += self._conceal(1)
                continue
            out += self._decoder.decode(frame, bit_depth=16)
        return bytes(out)

    def _conceal(self, lost: int) -> bytes:
        """An invalid frame makes liblc3 continue the sound; lc3py hides its complaint (measured)."""
        assert self._decoder is not None
        self.concealed += lost
        guessed = min(lost, CONCEAL_MAX)
        invalid = b"\xff" * self._audio.frame_bytes
        sound = b"".join(self._decoder.decode(invalid, bit_depth=16) for _ in range(guessed))
        return sound + bytes(2 * self._samples * (lost - guessed))
