"""One line of JSON per input or effect of a machine: a trace is a test.

Rules: a line names the time, the machine and what happened; user content (text, audio, coordinates) is replaced
by its size, so that a trace may be shared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import orjson
from pydantic import BaseModel

#: Members whose values a user typed, said, saw or owns. Their sizes are kept, their contents never are.
PRIVATE_FIELDS = frozenset(
    {"text", "original_text", "content", "title", "message", "payload", "lat", "lng", "token", "core_token",
     "auth_token", "api_key", "data", "photo_data", "pcm", "layout", "settings", "top_text", "bottom_text", "left_text",
     "right_text", "body"}
)  # fmt: skip

#: The same names as they read in Python and on the wire (`core_token`, `coreToken`).
_PRIVATE = frozenset(name.replace("_", "") for name in PRIVATE_FIELDS)


def redact(value: Any) -> Any:
    """A JSON-ready copy of `value` with private members replaced by `<kind size>`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _members((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    if isinstance(value, BaseModel):
        return _members(iter(value))
    if isinstance(value, dict):
        return _members(iter(value.items()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(item) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<bytes {len(value)}>"
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _members(pairs: Iterator[tuple[Any, Any]]) -> dict[str, Any]:
    return {
        str(name): _hide(value) if str(name).replace("_", "").lower() in _PRIVATE else redact(value)
        for name, value in pairs
    }


def _hide(value: Any) -> str | None:
    if value is None:
        return None
    size = len(value) if hasattr(value, "__len__") else 1
    return f"<{type(value).__name__} {size}>"


def line(now: float, machine: str, direction: str, name: str, value: Any) -> bytes:
    """One trace line. `now` in monotonic seconds, `direction` is "in" or "out"."""
    return (
        orjson.dumps({"t": round(now, 6), "m": machine, "d": direction, "n": name, "v": redact(value)})
        + b"\n"
    )
