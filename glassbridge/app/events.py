"""What an app hears: one typed registration per stream, from which its subscriptions follow.

Rules: the subscription list is derived from the handlers and nothing else, so it is complete after every reconnect.
An event is looked up by the very string that was subscribed (wire spec 3.6). A payload that does not fit its model is
counted and left out; it never reaches a handler half-filled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from wire.messages.glasses_to_cloud import (
    ButtonPress,
    CalendarEvent,
    GlassesBatteryUpdate,
    GlassesConnectionState,
    HeadPosition,
    LocationUpdate,
    PhoneBatteryUpdate,
    PhoneNotification,
    PhoneNotificationDismissed,
    TouchEvent,
    Vad,
)
from wire.streams import LOCATION_RATES, highest_rate, parse_subscription

log = logging.getLogger(__name__)

T = TypeVar("T")
Handler: TypeAlias = Callable[[T], object]  # an awaitable result is awaited
Unsubscribe: TypeAlias = Callable[[], None]

Battery: TypeAlias = GlassesBatteryUpdate | PhoneBatteryUpdate
ConnectionState: TypeAlias = GlassesConnectionState
Location: TypeAlias = LocationUpdate
Notification: TypeAlias = PhoneNotification
NotificationDismissed: TypeAlias = PhoneNotificationDismissed
VoiceActivity: TypeAlias = Vad


class _Spoken(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    text: str = ""
    is_final: bool = False
    utterance_id: str | None = None
    transcribe_language: str | None = None
    start_time: float = 0  # ms since the session began
    end_time: float = 0
    duration: float | None = None
    speaker_id: str | int | None = None
    provider: str | None = None
    confidence: float | None = None


class Transcription(_Spoken):
    """What somebody said. Interim results repeat the growing text of one utterance; then one is final."""

    detected_language: str | None = None


class Translation(_Spoken):
    """What somebody said, in another language."""

    original_text: str | None = None
    translate_language: str | None = None
    did_translate: bool = True


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Microphone audio: PCM, 16 bit little endian, mono, 16 kHz."""

    pcm: bytes

    @property
    def duration(self) -> float:
        """Seconds of sound."""
        return len(self.pcm) / 32_000


class CustomMessage(BaseModel):
    """A system message, by action."""

    action: str = ""
    payload: dict[str, Any] = {}


@dataclass(slots=True)
class _Stream:
    parse: Callable[[Any], Any]
    handlers: list[Handler[Any]] = field(default_factory=list)
    rate: str | None = None


def _model(cls: type[BaseModel]) -> Callable[[Any], Any]:
    return cls.model_validate


def _unchanged(value: Any) -> Any:
    return value


class Events:
    """A session's registrations. Every `on_...` returns a function that takes the registration back."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._streams: dict[str, _Stream] = {}
        self.invalid = 0  # events left out because their payload did not fit
        self.unclaimed = 0  # events under a name that nobody (any longer) subscribes to

    # -- registration, by stream --------------------------------------------------------------

    def on_transcription(
        self,
        handler: Handler[Transcription],
        *,
        language: str = "en-US",
        hints: Iterable[str] = (),
        identify_language: bool = True,
    ) -> Unsubscribe:
        """Speech in `language` ("xx-YY", or "auto" with `hints`). Raises ValueError for anything else."""
        options = [] if identify_language else ["no-language-identification=true"]
        hinted = ",".join(hints)
        if hinted:
            options.append(f"hints={quote(hinted, safe='')}")
        name = f"transcription:{language}" + (f"?{'&'.join(options)}" if options else "")
        return self._on(name, _model(Transcription), handler)

    def on_translation(
        self, handler: Handler[Translation], *, source: str = "all", target: str = "en-US"
    ) -> Unsubscribe:
        """Speech in `source` ("all" for any language), put into `target`."""
        return self._on(f"translation:{source}-to-{target}", _model(Translation), handler)

    def on_audio(self, handler: Handler[AudioChunk]) -> Unsubscribe:
        """The microphone. It is switched on when the first app asks, and off after the last."""
        return self._on("audio_chunk", _unchanged, handler)

    def on_voice_activity(self, handler: Handler[VoiceActivity]) -> Unsubscribe:
        return self._on("VAD", _model(Vad), handler)

    def on_button_press(self, handler: Handler[ButtonPress]) -> Unsubscribe:
        return self._on("button_press", _model(ButtonPress), handler)

    def on_touch(self, handler: Handler[TouchEvent], gesture: str | None = None) -> Unsubscribe:
        """Touches on the temples; only `gesture` ("double_tap", "forward_swipe" ...) when one is given."""
        name = f"touch_event:{gesture}" if gesture else "touch_event"
        return self._on(name, _model(TouchEvent), handler)

    def on_head_position(self, handler: Handler[HeadPosition]) -> Unsubscribe:
        return self._on("head_position", _model(HeadPosition), handler)

    def on_battery(self, handler: Handler[GlassesBatteryUpdate]) -> Unsubscribe:
        """Battery of the glasses, percent."""
        return self._on("glasses_battery_update", _model(GlassesBatteryUpdate), handler)

    def on_phone_battery(self, handler: Handler[PhoneBatteryUpdate]) -> Unsubscribe:
        return self._on("phone_battery_update", _model(PhoneBatteryUpdate), handler)

    def on_connection_state(self, handler: Handler[ConnectionState]) -> Unsubscribe:
        """The glasses came, went or changed their Wi-Fi."""
        return self._on("glasses_connection_state", _model(GlassesConnectionState), handler)

    def on_location(self, handler: Handler[Location], *, rate: str | None = None) -> Unsubscribe:
        """Position fixes. With `rate` (one of `wire.streams.LOCATION_RATES`) the phone is asked for that precision."""
        if rate is None:
            return self._on("location_update", _model(LocationUpdate), handler)
        if rate not in LOCATION_RATES:
            raise ValueError(f"rate {rate!r} is not one of {', '.join(LOCATION_RATES)}")
        return self._on("location_stream", _model(LocationUpdate), handler, rate=rate)

    def on_calendar_event(self, handler: Handler[CalendarEvent]) -> Unsubscribe:
        return self._on("calendar_event", _model(CalendarEvent), handler)

    def on_notification(self, handler: Handler[Notification]) -> Unsubscribe:
        return self._on("phone_notification", _model(PhoneNotification), handler)

    def on_notification_dismissed(self, handler: Handler[NotificationDismissed]) -> Unsubscribe:
        return self._on("phone_notification_dismissed", _model(PhoneNotificationDismissed), handler)

    def on_custom_message(self, handler: Handler[CustomMessage]) -> Unsubscribe:
        return self._on("custom_message", _model(CustomMessage), handler)

    def on(self, stream: str, handler: Handler[Any]) -> Unsubscribe:
        """Any stream by its subscription string; the handler gets the JSON value as it came."""
        return self._on(stream, _unchanged, handler)

    def _on(
        self, name: str, parse: Callable[[Any], Any], handler: Handler[Any], *, rate: str | None = None
    ) -> Unsubscribe:
        if parse_subscription({"stream": name, "rate": rate} if rate else name) is None:
            raise ValueError(f"{name!r} is not a subscription; a language is written like en-US")
        stream = self._streams.setdefault(name, _Stream(parse))
        stream.handlers.append(handler)
        if rate is not None:
            stream.rate = highest_rate([rate, stream.rate or rate])
        self._changed()

        def unsubscribe() -> None:
            if handler in stream.handlers:
                stream.handlers.remove(handler)
            if not stream.handlers and self._streams.get(name) is stream:
                del self._streams[name]
                self._changed()

        return unsubscribe

    # -- for the session ------------------------------------------------------------------------

    def subscriptions(self) -> list[Any]:
        """The full list, as the wire wants it."""
        return [
            {"stream": name, "rate": stream.rate} if stream.rate else name
            for name, stream in self._streams.items()
        ]

    def calls(self, name: str, payload: Any) -> list[tuple[Handler[Any], Any]]:
        """Which handlers this event goes to, and with what."""
        stream = self._streams.get(name)
        if stream is None:
            self.unclaimed += 1
            return []
        try:
            value = stream.parse(payload)
        except ValidationError as error:
            self.invalid += 1
            first = error.errors(include_url=False, include_input=False)[0]
            path = ".".join(str(part) for part in first["loc"])
            log.warning("left out a %s event: %s: %s", name.partition(":")[0], path, first["msg"])
            return []
        return [(handler, value) for handler in tuple(stream.handlers)]
