"""Bytes to messages and back, with every limit checked before anything is built.

Rules: limits come first (size, nesting), JSON second, the model last. A bad frame raises ProtocolError naming the
member; an unknown type is no error: it comes back without a model. NaN and Infinity are refused by orjson.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
from pydantic import ValidationError

from wire.errors import ErrorCode, ProtocolError
from wire.messages.base import Message, Registry

#: Largest text frame: a full-screen picture as base64 with room to spare.
TEXT_BYTES_MAX = 1 << 20
#: Largest audio frame: 2 s of PCM16 at 16 kHz.
AUDIO_BYTES_MAX = 64 << 10
#: Deepest nesting of arrays and objects; the deepest real message has 6.
DEPTH_MAX = 32


@dataclass(frozen=True, slots=True)
class Incoming:
    """One text frame, decoded. `message` is None when the type is unknown to the registry."""

    type: str
    payload: dict[str, Any]
    message: Message | None


def load_object(
    data: bytes | bytearray | memoryview | str, bytes_max: int = TEXT_BYTES_MAX
) -> dict[str, Any]:
    """The JSON object in one text frame. Raises ProtocolError(TOO_LARGE or MALFORMED_MESSAGE)."""
    if type(data) is bytes and len(data) <= bytes_max and data.find(b"{", 1) < 0 and data.find(b"[") < 0:
        # An event has no bracket but its own, so that nothing is nested: the short way of what follows.
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            pass  # refused below, in words
        else:
            if type(value) is dict:
                return value
    value = parse_object(data, bytes_max)
    check_depth(data, value)
    return value


def parse_object(
    data: bytes | bytearray | memoryview | str, bytes_max: int = TEXT_BYTES_MAX
) -> dict[str, Any]:
    """`load_object` without the limit on nesting: for who looks at every member anyway, or calls `check_depth`."""
    if type(data) is not bytes:
        # The limit is in bytes; a lone surrogate passes here and is refused as JSON below.
        data = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
    if len(data) > bytes_max:
        raise ProtocolError(ErrorCode.TOO_LARGE, f"message of {len(data)} bytes; the limit is {bytes_max}")
    try:
        value = orjson.loads(data)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise ProtocolError(ErrorCode.MALFORMED_MESSAGE, f"not JSON: {str(error).split(':')[0]}") from None
    if type(value) is not dict:
        raise ProtocolError(
            ErrorCode.MALFORMED_MESSAGE, "a message must be a JSON object with a string `type`"
        )
    return value


def check_depth(data: bytes | bytearray | memoryview | str, value: dict[str, Any]) -> None:
    """Whether an object is nested within reason. Raises ProtocolError(MALFORMED_MESSAGE)."""
    if type(data) is not bytes:
        data = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
    # Looking for brackets is far cheaper than walking the value: an event has none but its own, a message few.
    if data.find(b"{", 1) < 0 and data.find(b"[") < 0:
        return
    if data.count(b"[") + data.count(b"{") > DEPTH_MAX and _depth(value) > DEPTH_MAX:
        raise ProtocolError(ErrorCode.MALFORMED_MESSAGE, f"nested deeper than {DEPTH_MAX} levels")


def _depth(value: object) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        if deepest > DEPTH_MAX:
            return deepest
        below: list[object] = []
        for item in level:
            if type(item) is dict:
                below.extend(v for v in item.values() if type(v) in (dict, list))
            elif type(item) is list:
                below.extend(v for v in item if type(v) in (dict, list))
        level = below
    return deepest


def message_type(payload: dict[str, Any]) -> str:
    """The `type` member. Raises ProtocolError when there is none."""
    kind = payload.get("type")
    if type(kind) is not str or not kind:
        raise ProtocolError(ErrorCode.MALFORMED_MESSAGE, "type: a non-empty string is required", field="type")
    return kind


def validate(registry: Registry, payload: dict[str, Any]) -> Message | None:
    """The typed message, or None for a type that the registry does not know.

    Raises ProtocolError(MALFORMED_MESSAGE) with the dotted path of the first bad member.
    """
    kind = message_type(payload)
    model = registry.get(kind)
    if model is None and kind == "vad":  # the TypeScript test client's spelling
        model, payload = registry.get("VAD"), {**payload, "type": "VAD"}
    if model is None:
        return None
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        path = ".".join(str(part) for part in first["loc"]) or "message"
        raise ProtocolError(
            ErrorCode.MALFORMED_MESSAGE, f"{kind}: {path}: {first['msg']}", field=path
        ) from None


def decode(registry: Registry, data: bytes | bytearray | memoryview | str) -> Incoming:
    """One text frame as a typed message. Raises ProtocolError."""
    payload = load_object(data)
    return Incoming(message_type(payload), payload, validate(registry, payload))


def encode(message: Message) -> bytes:
    """The JSON text of a message."""
    return orjson.dumps(message.to_wire())


def encode_object(payload: dict[str, Any]) -> bytes:
    """The JSON text of an object that is already in wire form."""
    return orjson.dumps(payload)


def data_stream(session_id: str, stream_type: str, data: bytes, timestamp: str) -> bytes:
    """The envelope in which an event reaches an app; `data` is the event's JSON, spliced in unparsed.

    The fixed members are dumped (ids may need escaping), the payload is copied once.
    """
    head = orjson.dumps(
        {"type": "data_stream", "sessionId": session_id, "streamType": stream_type, "timestamp": timestamp}
    )
    return b'%b,"data":%b}' % (head[:-1], data)


@lru_cache(maxsize=1024)  # as many apps as are on at a time
def _display_middle(package: str, view: str) -> bytes:
    return b'","packageName":%b,"view":%b,"layout":' % (orjson.dumps(package), orjson.dumps(view))


def display_event(
    package: str, view: str, layout: dict[str, Any], duration: float | None, display_id: int, timestamp: bytes
) -> bytes:
    """A `DisplayEvent` of parts that are known to be good; `duration` in seconds, None = until replaced.

    Spliced, because all but the layout is the same each time; and no longer than its bytes (`wire.link.exact`).
    """
    end = (
        b',"displayId":"%d"}' % display_id
        if duration is None
        else b',"durationMs":%d,"displayId":"%d"}' % (round(duration * 1000), display_id)
    )
    middle = _display_middle(package, view)
    return b"".join((b'{"type":"display_event","timestamp":"', timestamp, middle, orjson.dumps(layout), end))
