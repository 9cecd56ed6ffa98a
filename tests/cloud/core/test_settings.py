"""Settings in the forms that apps read."""

from __future__ import annotations

from cloud.core.settings import app_settings, settings_from_status, settings_page

SCHEMA = [
    {"type": "group", "key": "", "title": "General"},
    {"key": "lang", "type": "select", "label": "Language", "defaultValue": "en"},
    {"key": "on", "type": "toggle", "defaultValue": True},
    {"key": "plain", "type": "text"},
]


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


def test_defaults_stand_until_the_wearer_chooses() -> None:
    assert [(entry["key"], entry["value"]) for entry in app_settings(SCHEMA, {})] == [
        ("lang", "en"),
        ("on", True),
        ("plain", None),
    ]
    assert [entry["value"] for entry in app_settings(SCHEMA, {"on": False, "lang": "de"})] == [
        "de",
        False,
        None,
    ]


def test_the_page_shows_the_schema_with_what_is_selected() -> None:
    page = settings_page(SCHEMA, {"lang": "de"})
    assert page[0] == SCHEMA[0]
    assert [entry["selected"] for entry in page[1:]] == ["de", True, None]
    assert "selected" not in SCHEMA[1], "the schema itself is not touched"


def test_a_broken_schema_entry_harms_nobody() -> None:
    assert app_settings([{"type": "text"}, {"key": 7}, {}], {"a": 1}) == [{"key": "a", "value": 1}]
    assert settings_page([{"type": "text"}, {"key": 7}], {}) == [{"type": "text"}, {"key": 7}]


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
