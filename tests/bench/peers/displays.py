"""What a server has to do with a display, for the peers in Python: looked at as far as its receiver can tell.

Rules: the same as `display` in `node_ws.mjs`: a good layout of the app that it names, no faster than its view takes updates,
numbered, dated and encoded; the last one of each view is kept for glasses that come back.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Final

import orjson

_TEXTS: Final = {
    "text_wall": ("text",),
    "double_text_wall": ("topText", "bottomText"),
    "reference_card": ("title", "text"),
    "dashboard_card": ("leftText", "rightText"),
}
_INTERVAL: Final = 0.3


class Views:
    """The views of one session."""

    def __init__(self) -> None:
        self.shown: dict[str, tuple[float, str, bytes]] = {}
        self.displays = 0

    def display(self, message: dict[str, Any], owner: str) -> bytes | None:
        """The frame that goes to the glasses now, or None."""
        layout, view, duration = message.get("layout"), message.get("view"), message.get("durationMs")
        members = _TEXTS.get(layout.get("layoutType", "")) if isinstance(layout, dict) else None
        if members is None or layout is None or message.get("packageName") != owner:
            return None
        if view not in ("main", "dashboard") or not (duration is None or duration >= 0):
            return None
        for member in members:
            text = layout.get(member)
            if not isinstance(text, str) or len(text) > 10_000:
                return None
        now = time.time()
        last = self.shown.get(view)
        if last is not None and not message.get("forceDisplay") and now - last[0] < _INTERVAL:
            return None
        self.displays += 1
        date = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
        event = {
            "type": "display_event", "timestamp": date, "packageName": owner, "view": view, "layout": layout,
            "displayId": str(self.displays),
        }  # fmt: skip
        if duration is not None:
            event["durationMs"] = duration
        data = orjson.dumps(event)
        self.shown[view] = (now, owner, data)
        return data
