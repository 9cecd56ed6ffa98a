"""One line of JSON per input or effect of a machine: a trace is a test.

Rules: a line names the time, the machine and what happened; user content (text, audio, coordinates) is replaced
by its size, so that a trace may be shared.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson

#: Members whose values a user typed, said, saw or owns. Their sizes are kept, their contents never are.
PRIVATE_FIELDS = frozenset(
    {"text", "content", "title", "message", "payload", "lat", "lng", "token", "core_token", "api_key", "data", "pcm",
     "layout", "settings", "top_text", "bottom_text", "left_text", "right_text", "body"}
)  # fmt: skip


def redact(value: Any) -> Any:
    """A JSON-ready copy of `value` with private members replaced by `<kind size>`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _hide(getattr(value, f.name))
            if f.name in PRIVATE_FIELDS
            else redact(getattr(value, f.name))
            for f in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {str(k): _hide(v) if k in PRIVATE_FIELDS else redact(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(item) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<bytes {len(value)}>"
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _hide(value: Any) -> str:
    size = len(value) if hasattr(value, "__len__") else 1
    return f"<{type(value).__name__} {size}>"


def line(now: float, machine: str, direction: str, name: str, value: Any) -> bytes:
    """One trace line. `now` in monotonic seconds, `direction` is "in" or "out"."""
    return (
        orjson.dumps({"t": round(now, 6), "m": machine, "d": direction, "n": name, "v": redact(value)})
        + b"\n"
    )
