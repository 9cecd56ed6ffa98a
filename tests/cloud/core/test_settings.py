"""Settings in the forms that apps read."""

from __future__ import annotations

from cloud.core.settings import app_settings, settings_from_status


def test_app_settings_are_always_a_list_with_values_or_defaults() -> None:
    schema = [
        {"type": "group", "title": "General"},
        {"key": "lang", "type": "select", "label": "L", "defaultValue": "en"},
    ]
    assert app_settings(schema, {}) == [{**schema[1], "value": "en"}]
    assert app_settings(schema, {"lang": "de", "old": 1}) == [
        {**schema[1], "value": "de"},
        {"key": "old", "value": 1},
    ]


def test_a_2025_status_becomes_settings_only_when_whole() -> None:
    status = {
        "status": {
            "core_info": {"bypass_vad_for_debugging": True},
            "connected_glasses": {"head_up_angle": 30},
        }
    }
    assert settings_from_status(status) == {"bypassVad": True, "headUpAngle": 30}
    assert settings_from_status({"status": {"core_info": {}}}) == {}
    assert settings_from_status({}) == {}
