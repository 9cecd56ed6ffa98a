"""Stream names, the grammar of subscriptions, and which event reaches which subscription.

Rules: an app receives an event under exactly the string that it subscribed with (wire spec 3.5, 3.6), so a
subscription keeps its string for ever and is never normalised in place. Unknown names are kept and match nothing
but an event of the very same name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

_LANGUAGE = re.compile(r"[a-z]{2,3}-[A-Z]{2}")

#: Longest subscription string that is accepted; the longest seen from a real SDK is under 100 characters.
NAME_MAX = 512
#: Most subscriptions one app may hold; the SDK can produce about 40 distinct ones.
SUBSCRIPTIONS_MAX = 256

#: Most options in one subscription string; the SDK knows two.
OPTIONS_MAX = 16

DEFAULT_LANGUAGE = "en-US"  # what a bare `transcription` means (wire spec 3.5)

#: Streams that need the microphone. VAD alone does not switch it on (wire spec 6.6).
AUDIO_STREAMS = frozenset({"audio_chunk", "transcription", "translation"})

LOCATION_RATES = (
    # least to most demanding (wire spec 6.9)
    "reduced",
    "threeKilometers",
    "kilometer",
    "hundredMeters",
    "tenMeters",
    "standard",
    "high",
    "realtime",
)

WILDCARDS = frozenset({"*", "all"})

#: Permission that a stream needs; streams that are not listed need none (wire spec 6.7).
STREAM_PERMISSIONS: Mapping[str, str] = {
    "audio_chunk": "MICROPHONE",
    "transcription": "MICROPHONE",
    "translation": "MICROPHONE",
    "VAD": "MICROPHONE",
    "local_transcription": "MICROPHONE",
    "location_update": "LOCATION",
    "location_stream": "LOCATION",
    "calendar_event": "CALENDAR",
    "phone_notification": "READ_NOTIFICATIONS",
    "phone_notification_dismissed": "READ_NOTIFICATIONS",
    "photo_taken": "CAMERA",
    "photo_response": "CAMERA",
    "vps_coordinates": "CAMERA",
}

PERMISSIONS = frozenset(
    {"MICROPHONE", "LOCATION", "BACKGROUND_LOCATION", "CALENDAR", "CAMERA", "READ_NOTIFICATIONS", "POST_NOTIFICATIONS",
     "ALL"}
)  # fmt: skip

#: Names that older records use for the same thing.
PERMISSION_ALIASES: Mapping[str, str] = {"NOTIFICATIONS": "READ_NOTIFICATIONS"}


@dataclass(frozen=True, slots=True)
class Subscription:
    """One entry of an app's list. `name` is the string under which events are delivered."""

    name: str
    stream: str  # the part before ':' and '?'
    qualifier: str | None = None  # a gesture, a settings key
    source: str | None = None  # language that is heard; "auto" and "all" are wishes, not languages
    target: str | None = None  # language to translate into
    options: Mapping[str, str | bool] = field(default_factory=dict)
    rate: str | None = None  # of a location stream

    @property
    def needs_audio(self) -> bool:
        return self.stream in AUDIO_STREAMS

    @property
    def permission(self) -> str | None:
        """The permission that this stream needs, or None."""
        return STREAM_PERMISSIONS.get(self.stream)


def parse_subscription(entry: object) -> Subscription | None:
    """One element of `subscriptions` as an app sends it, or None if it is no subscription at all.

    >>> parse_subscription("transcription:en-US?hints=fr").source
    'en-US'
    """
    if isinstance(entry, Mapping):
        stream, rate = entry.get("stream"), entry.get("rate")
        if stream != "location_stream" or not isinstance(rate, str) or rate not in LOCATION_RATES:
            return None
        return Subscription(name="location_stream", stream="location_stream", rate=rate)
    if not isinstance(entry, str) or not entry or len(entry) > NAME_MAX:
        return None
    head, _, query = entry.partition("?")
    stream, _, qualifier = head.partition(":")
    if not stream:
        return None
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=OPTIONS_MAX)
    except ValueError:
        return None
    options: dict[str, str | bool] = {
        key: {"true": True, "false": False}.get(value, value) for key, value in pairs
    }
    match stream:
        case "transcription":
            source = qualifier or DEFAULT_LANGUAGE
            if source != "auto" and not _LANGUAGE.fullmatch(source):
                return None
            return Subscription(entry, stream, None, source, None, options)
        case "translation":
            source, separator, target = qualifier.partition("-to-")
            if (
                not separator
                or not _LANGUAGE.fullmatch(target)
                or not (source == "all" or _LANGUAGE.fullmatch(source))
            ):
                return None
            return Subscription(entry, stream, None, source, target, options)
        case _:
            return Subscription(entry, stream, qualifier or None, None, None, options)


def parse_subscriptions(entries: Iterable[object]) -> tuple[list[Subscription], list[object]]:
    """All usable entries in order without repeats, and what could not be used."""
    good: dict[str, Subscription] = {}
    bad: list[object] = []
    for entry in entries:
        parsed = parse_subscription(entry)
        if parsed is None or len(good) >= SUBSCRIPTIONS_MAX:
            bad.append(entry)
        else:
            good[parsed.name] = parsed
    return list(good.values()), bad


@dataclass(frozen=True, slots=True)
class EventKey:
    """What an event is about, as far as subscriptions can tell events apart."""

    stream: str
    qualifier: str | None = None
    source: str | None = None
    target: str | None = None


def event_key(event: Mapping[str, Any]) -> EventKey:
    """The key of a phone's or a speech engine's event object (wire spec 3.6, 3.7)."""
    stream = event["type"]
    match stream:
        case "touch_event":
            return EventKey(stream, qualifier=_text(event.get("gesture_name")))
        case "transcription":
            return EventKey(stream, source=_text(event.get("transcribeLanguage")) or DEFAULT_LANGUAGE)
        case "translation":
            return EventKey(
                stream,
                source=_text(event.get("transcribeLanguage")),
                target=_text(event.get("translateLanguage")),
            )
        case _:
            return EventKey(stream)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def matches(subscription: Subscription, key: EventKey) -> bool:
    """Whether an event with `key` is delivered under `subscription`.

    Wildcards match every stream; whether the app may have it is decided by its permissions, never here.
    """
    if subscription.stream in WILDCARDS:
        return True
    if key.stream == "location_update" and subscription.stream == "location_stream":
        return True
    if subscription.stream != key.stream:
        return False
    match key.stream:
        case "transcription":
            return subscription.source in ("auto", key.source)
        case "translation":
            return subscription.target == key.target and subscription.source in ("all", key.source)
        case _:
            return subscription.qualifier is None or subscription.qualifier == key.qualifier


def grants(granted: Iterable[str], needed: str | None) -> bool:
    """Whether a list of permission types covers one need. Unknown words grant nothing."""
    if needed is None:
        return True
    held = {PERMISSION_ALIASES.get(p, p) for p in granted}
    if "ALL" in held or needed in held:
        return True
    return needed == "LOCATION" and "BACKGROUND_LOCATION" in held


def highest_rate(rates: Iterable[str]) -> str:
    """The most demanding location rate asked for; `reduced` when nobody asks (wire spec 6.9)."""
    return max(rates, key=LOCATION_RATES.index, default="reduced")
