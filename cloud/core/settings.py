"""System settings of a wearer and settings of an app, in the forms that apps read.

Rules: pure data. An app's settings are always a list (an object silently breaks the SDK); system settings are always
the whole map. Sources: wire spec 2.6, 3.3, 3.8, 4.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

#: What apps see before the wearer has chosen anything (wire spec 2.6, the newer default of the head-up angle).
SYSTEM_DEFAULTS: Final[Mapping[str, Any]] = {
    "useOnboardMic": False,
    "contextualDashboard": True,
    "headUpAngle": 45,
    "brightness": 50,
    "autoBrightness": False,
    "sensingEnabled": True,
    "alwaysOnStatusBar": False,
    "bypassVad": False,
    "bypassAudioEncoding": False,
    "metricSystemEnabled": False,
}

#: (setting, section of the 2025 phones' status, member) (wire spec 2.6).
_FROM_STATUS: Final = (
    ("useOnboardMic", "core_info", "force_core_onboard_mic"),
    ("contextualDashboard", "core_info", "contextual_dashboard_enabled"),
    ("metricSystemEnabled", "core_info", "metric_system_enabled"),
    ("sensingEnabled", "core_info", "sensing_enabled"),
    ("alwaysOnStatusBar", "core_info", "always_on_status_bar_enabled"),
    ("bypassVad", "core_info", "bypass_vad_for_debugging"),
    ("bypassAudioEncoding", "core_info", "bypass_audio_encoding_for_debugging"),
    ("headUpAngle", "connected_glasses", "head_up_angle"),
    ("brightness", "glasses_settings", "brightness"),
    ("autoBrightness", "glasses_settings", "auto_brightness"),
    ("dashboard_height", "glasses_settings", "dashboard_height"),
    ("dashboard_depth", "glasses_settings", "dashboard_depth"),
)

#: Members of a phone's glasses report that apps may see (wire spec 3.8).
DEVICE_KEYS: Final = frozenset(
    {"connected", "modelName", "wifiConnected", "wifiSsid", "wifiLocalIp", "batteryLevel", "charging",
     "caseBatteryLevel", "caseCharging", "caseOpen", "caseRemoved", "hotspotEnabled", "hotspotSsid"}
)  # fmt: skip


def settings_from_status(status: Mapping[str, Any]) -> dict[str, Any]:
    """System settings out of a `core_status_update`; empty if it lacks its two main sections."""
    inner = status.get("status")
    if not isinstance(inner, Mapping):
        return {}
    if not isinstance(inner.get("core_info"), Mapping) or not isinstance(
        inner.get("connected_glasses"), Mapping
    ):
        return {}
    found: dict[str, Any] = {}
    for name, section, member in _FROM_STATUS:
        part = inner.get(section)
        value = part.get(member) if isinstance(part, Mapping) else None
        if isinstance(value, (bool, int, float, str)):
            found[name] = value
    return found


#: Entries that structure the settings page and hold no value.
_NO_VALUE: Final = frozenset({"group", "titleValue", "title_value"})


def app_settings(schema: Iterable[Mapping[str, Any]], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an app reads, in its acknowledgement, in a push and over REST alike (PER-01): every keyed entry of the schema
    with its stored value or its default. A value whose key the schema no longer has is kept: it may come back."""
    found: list[dict[str, Any]] = []
    known: set[str] = set()
    for entry in schema:
        key = _key_of(entry)
        if key is not None:
            known.add(key)
            found.append({**entry, "value": _value_of(entry, key, values)})
    found += [{"key": key, "value": value} for key, value in values.items() if key not in known]
    return found


def settings_page(schema: Iterable[Mapping[str, Any]], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a phone draws: the whole schema, each entry with a value told what is `selected` (wire spec 4.3)."""
    page: list[dict[str, Any]] = []
    for entry in schema:
        key = _key_of(entry)
        page.append(dict(entry) if key is None else {**entry, "selected": _value_of(entry, key, values)})
    return page


def _key_of(entry: Mapping[str, Any]) -> str | None:
    key = entry.get("key")
    return key if isinstance(key, str) and key and entry.get("type") not in _NO_VALUE else None


def _value_of(entry: Mapping[str, Any], key: str, values: Mapping[str, Any]) -> Any:
    return values.get(key, entry.get("defaultValue", entry.get("value")))
