"""An app's settings as a user has them: the developer's schema with the user's values laid over it.

Rules: pure. The ack, the REST answers and the push all come from here, so they cannot differ (failure catalogue PER-01).
A value for a key that the schema no longer has is kept and handed out, for the schema may come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Entries that structure the settings page and hold no value.
_NO_VALUE = frozenset({"group", "titleValue", "title_value"})


def for_app(schema: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an app reads: one entry per value, `key` and `value` first, then what the schema says about it."""
    entries: list[dict[str, Any]] = []
    known = set()
    for entry in schema:
        key = entry.get("key")
        if not isinstance(key, str) or not key or entry.get("type") in _NO_VALUE:
            continue
        known.add(key)
        value = values.get(key, entry.get("defaultValue", entry.get("value")))
        extra = {name: entry[name] for name in ("type", "label") if entry.get(name) is not None}
        entries.append({"key": key, "value": value} | extra)
    entries.extend({"key": key, "value": value} for key, value in values.items() if key not in known)
    return entries


def for_phone(schema: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a settings page reads: the schema, each entry with `selected` (wire spec 4.3)."""
    entries: list[dict[str, Any]] = []
    for entry in schema:
        key = entry.get("key")
        shown = dict(entry)
        if isinstance(key, str) and key and entry.get("type") not in _NO_VALUE:
            shown["selected"] = values.get(key, entry.get("defaultValue", entry.get("value")))
        entries.append(shown)
    return entries
