"""The app that `glassbridge dev` brings along: time, battery, what you touch and what you say, on the lens.

Rules: an app like any other, written with `glassbridge.app` alone; five short lines, so that no lens has to wrap them.
It is also what `dev --once` measures with: a face remembers what it sent and what it heard, as figures.
"""

from __future__ import annotations

import array
import math
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime

from glassbridge.app import (
    App,
    AudioChunk,
    Battery,
    ButtonPress,
    HeadPosition,
    Session,
    TouchEvent,
    Transcription,
)

PACKAGE = "org.glassbridge.clock"

#: Shown at most this often while sound comes in; the cloud's own limit is one display per 300 ms. Seconds.
METER_INTERVAL = 0.4
#: Loudness of the meter's ends, in dB below full scale: a quiet room and a raised voice at the glasses.
QUIET_DB, LOUD_DB = -60.0, -10.0
METER_WIDTH = 20
#: After so long without sound the meter disappears, in seconds.
METER_LINGER = 1.5
#: Slices of sound whose loudness is remembered: 20 ms each (640 bytes), for a minute.
SLICE, SLICE_BYTES, LEVELS_MAX = 0.02, 640, 3000
#: About one line of a lens.
CAPTION_CHARS_MAX = 40

WORDS = {
    "single_tap": "tap",
    "double_tap": "double tap",
    "triple_tap": "triple tap",
    "long_press": "long press",
    "forward_swipe": "swipe forward",
    "backward_swipe": "swipe back",
}


def loudness(pcm: bytes) -> float:
    """Root mean square of PCM16 little endian, in dB below full scale; -100 for silence or nothing."""
    samples = array.array("h", pcm[: len(pcm) // 2 * 2])
    if not samples:
        return -100.0
    power = sum(sample * sample for sample in samples) / len(samples)
    return max(-100.0, 10 * math.log10(power / 32768**2)) if power else -100.0


def meter(level: float) -> str:
    """A bar for a loudness in dB."""
    share = (level - QUIET_DB) / (LOUD_DB - QUIET_DB)
    return "|" * max(0, min(METER_WIDTH, round(share * METER_WIDTH)))


@dataclass
class Face:
    """What one wearer's clock knows, and the text that follows from it."""

    session: Session
    battery: int | None = None
    touches: int = 0
    touch: str = ""
    caption: str = ""
    head_up: bool = False
    level: float = -100.0
    heard_at: float = -math.inf  # monotonic, of the last chunk
    shown: str = ""  # the text last sent
    shown_at: float = -math.inf
    #: Loudness of each slice heard, in order.
    levels: deque[float] = field(default_factory=lambda: deque(maxlen=LEVELS_MAX))

    def text(self, clock: datetime, now: float) -> str:
        """Five lines at most. `now` is monotonic."""
        battery = f"   battery {self.battery} %" if self.battery is not None and self.battery >= 0 else ""
        lines = [f"{clock:%H:%M}   {clock:%a %d %b}{battery}"]
        if self.touches:
            lines.append(f"{self.touch}   touches: {self.touches}")
        else:
            lines.append("Hello. Tap the glasses, or speak.")
        if now - self.heard_at < METER_LINGER:
            lines.append(f"mic {meter(self.level)}".rstrip())
        if self.caption:
            lines.append(self.caption)
        return "\n".join(lines)

    async def show(self, *, at_most_every: float = 0.0) -> None:
        """Sends the text if it changed."""
        now = time.monotonic()
        text = self.text(datetime.now(), now)
        if text == self.shown or now - self.shown_at < at_most_every:
            return
        self.shown, self.shown_at = text, now
        await self.session.layouts.show_text_wall(text)

    async def again(self, _: None) -> None:
        """After a reconnect: the cloud may have lost what was shown."""
        self.shown = ""
        await self.show()

    async def touched(self, event: TouchEvent) -> None:
        self.touches += 1
        self.touch = WORDS.get(event.gesture_name, event.gesture_name)
        await self.show()

    async def pressed(self, event: ButtonPress) -> None:
        self.touches += 1
        self.touch = f"{event.press_type} press"
        await self.show()

    async def moved(self, event: HeadPosition) -> None:
        self.head_up = event.position == "up"

    async def powered(self, event: Battery) -> None:
        self.battery = event.level
        await self.show()

    async def heard(self, chunk: AudioChunk) -> None:
        now = time.monotonic()
        self.level = loudness(chunk.pcm)
        self.heard_at = now
        self.levels.extend(
            loudness(chunk.pcm[at : at + SLICE_BYTES]) for at in range(0, len(chunk.pcm), SLICE_BYTES)
        )
        await self.show(at_most_every=METER_INTERVAL)

    async def said(self, words: Transcription) -> None:
        text = words.text.strip()
        self.caption = text if len(text) <= CAPTION_CHARS_MAX else "…" + text[-CAPTION_CHARS_MAX:]
        await self.show()


class Clock:
    """The app and its faces, by user."""

    def __init__(self, *, api_key: str, host: str = "127.0.0.1", port: int = 0) -> None:
        self.app = App(PACKAGE, api_key=api_key, host=host, port=port)
        self.faces: dict[str, Face] = {}
        self.app.on_session(self._on_session)
        self.app.on_stop(self._on_stop)

    async def _on_session(self, session: Session) -> None:
        face = self.faces[session.user_id] = Face(session)
        battery = session.device.get("batteryLevel")
        face.battery = battery if isinstance(battery, int) else None
        events = session.events
        events.on_battery(face.powered)
        events.on_touch(face.touched)
        if (session.capabilities or {}).get("hasButton"):
            # Glasses without a button report a tap as a press as well, for apps that know nothing else.
            events.on_button_press(face.pressed)
        events.on_head_position(face.moved)
        events.on_audio(face.heard)
        events.on_transcription(face.said)
        session.on_reconnected(face.again)
        session.every(1.0, face.show)

    async def _on_stop(self, session: Session, reason: str) -> None:
        face = self.faces.get(session.user_id)
        if face is not None and face.session is session:
            del self.faces[session.user_id]
