"""What the session can say of a frame without the message models: surely good, too much, or what it is about.

Rules: pure functions of bytes and decoded JSON. A check that says yes agrees with the model; tests hold each against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from cloud.core.session_types import SessionTiming
from wire.codec import load_object, validate
from wire.errors import ProtocolError
from wire.layouts import DURATION_MS_MAX
from wire.messages import GLASSES_TO_CLOUD
from wire.messages import glasses_to_cloud as glasses
from wire.messages.base import Delivery

#: Events that concern apps only: validated, then passed on as they came.
RELAYED: Final[Mapping[str, Delivery]] = {
    "button_press": Delivery.RELIABLE,
    "touch_event": Delivery.RELIABLE,
    "phone_battery_update": Delivery.LATEST,
    "dashboard_state": Delivery.LATEST,
    "open_dashboard": Delivery.LATEST,
    "photo_taken": Delivery.RELIABLE,
    "vps_coordinates": Delivery.LOSSY,
    "swipe_volume_status": Delivery.LOSSY,
    "switch_status": Delivery.LOSSY,
}


PLAIN_PING: Final = b'{"type":"ping"}'
PLAIN_PONG: Final = b'{"type":"pong"}'


#: Types of the `timestamp` member.
_DATES: Final[tuple[type, ...]] = (int, str, float, type(None))


def _is_text(value: object, longest: int) -> bool:
    return type(value) is str and 0 < len(value) <= longest


def _is_sure_button(p: Mapping[str, Any]) -> bool:
    button, press = p.get("buttonId"), p.get("pressType")
    return (
        type(button) is str
        and 0 < len(button) <= 256
        and type(press) is str
        and 0 < len(press) <= 32
        and type(p.get("timestamp")) in _DATES
    )


def _is_sure_touch(p: Mapping[str, Any]) -> bool:
    return (
        _is_text(p.get("gesture_name"), 64)
        and _is_text(p.get("device_model"), 128)
        and type(p.get("timestamp")) in _DATES
    )


#: Events of the hot path: the check that says that one is surely what its model demands, and its delivery. Whatever fails
#: the check is judged, and refused in words, by the model. A test holds each check against its model.
SURE: Final[Mapping[str, tuple[Callable[[dict[str, Any]], bool], Delivery]]] = {
    "button_press": (_is_sure_button, RELAYED["button_press"]),
    "touch_event": (_is_sure_touch, RELAYED["touch_event"]),
}

_DISPLAY_MEMBERS: Final = frozenset(
    {"type", "timestamp", "packageName", "sessionId", "view", "layout", "durationMs", "forceDisplay"}
)
#: Layouts of texts only, with the members that the wire requires of them.
_TEXT_LAYOUTS: Final[Mapping[str, tuple[str, ...]]] = {
    "text_wall": ("text",),
    "double_text_wall": ("topText", "bottomText"),
    "reference_card": ("title", "text"),
    "dashboard_card": ("leftText", "rightText"),
}
#: Characters of one text that are surely within the limit of 10,000 bytes of UTF-8.
_SHORT: Final = 2500


def is_plain_display(payload: Mapping[str, Any], package: str) -> bool:
    """Whether this is a display of short texts that is surely what the models demand, as it stands. Captions are: ten
    and more a second per app. Everything else is judged, completed and refused in words by the models."""
    if payload.get("type") != "display_event":
        return False
    layout = payload.get("layout")
    if type(layout) is not dict:
        return False
    kind = layout.get("layoutType")
    if kind == "text_wall":  # nearly all
        text = layout.get("text")
        if type(text) is not str or len(text) > _SHORT or len(layout) != 2:
            return False
    else:
        members = _TEXT_LAYOUTS.get(kind) if type(kind) is str else None
        if members is None or len(layout) != len(members) + 1:
            return False
        for member in members:
            text = layout.get(member)
            if type(text) is not str or len(text) > _SHORT:
                return False
    view, duration, session_id = payload.get("view"), payload.get("durationMs"), payload.get("sessionId")
    return (
        (view == "main" or view == "dashboard")
        and payload.get("packageName", package) == package
        and type(payload.get("forceDisplay", False)) is bool
        and type(payload.get("timestamp")) in _DATES
        and (duration is None or (type(duration) in (int, float) and 0 <= duration <= DURATION_MS_MAX))
        and (session_id is None or (type(session_id) is str and len(session_id) <= 600))
        and _DISPLAY_MEMBERS.issuperset(payload)
    )


def announcement(data: bytes) -> glasses.LinkHello | None:
    """The link announcement in a client's first frame, if there is a good one."""
    if b'"link"' not in data:
        return None
    try:
        message = validate(GLASSES_TO_CLOUD, load_object(data))
    except ProtocolError:
        return None
    return message.link if isinstance(message, glasses.ConnectionInit) else None


def too_many(times: list[float], now: float, timing: SessionTiming) -> bool:
    times.append(now)
    while times and now - times[0] > timing.bad_window:
        del times[0]
    return len(times) > timing.bad_frames_max


def with_type(raw: bytes, payload: Mapping[str, Any], kind: str) -> bytes:
    return raw if payload.get("type") == kind else orjson.dumps({**payload, "type": kind})


def request_id_of(payload: Mapping[str, Any]) -> str | None:
    for name in ("requestId", "correlationId", "messageId", "streamId"):
        value = payload.get(name)
        if isinstance(value, str) and value:
            return value[:256]
    return None


def epoch(text: str | int | float | None) -> float | None:
    """A phone's date: ISO text, or epoch milliseconds as text or number. Seconds since 1970."""
    if text is None or isinstance(text, bool):
        return None
    try:
        return float(text) / 1000.0
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


def from_local(message: glasses.LocalTranscription) -> dict[str, Any]:
    return {
        "type": "transcription",
        "text": message.text,
        "isFinal": message.is_final,
        "transcribeLanguage": message.transcribe_language,
        "startTime": message.start_time or 0,
        "endTime": message.end_time or 0,
        "speakerId": None if message.speaker_id is None else str(message.speaker_id),
        "provider": message.provider or "phone",
    }
