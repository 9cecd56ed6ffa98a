"""Settings: the schema's defaults under the user's values, the same for every reader."""

from __future__ import annotations

from cloud.app_settings import for_app, for_phone

SCHEMA = [
    {"type": "group", "key": "", "title": "General"},
    {"key": "lang", "type": "select", "label": "Language", "defaultValue": "en"},
    {"key": "on", "type": "toggle", "defaultValue": True},
    {"key": "plain", "type": "text"},
]


def test_defaults_stand_until_the_user_chooses() -> None:
    assert [(entry["key"], entry["value"]) for entry in for_app(SCHEMA, {})] == [
        ("lang", "en"),
        ("on", True),
        ("plain", None),
    ]
    chosen = for_app(SCHEMA, {"on": False, "lang": "de"})
    assert [entry["value"] for entry in chosen] == ["de", False, None]
    assert chosen[0] == {"key": "lang", "value": "de", "type": "select", "label": "Language"}


def test_values_without_a_schema_are_handed_out() -> None:
    assert for_app([], {"x": 1}) == [{"key": "x", "value": 1}]
    assert for_app(SCHEMA, {"gone": "kept"})[-1] == {"key": "gone", "value": "kept"}


def test_the_page_shows_the_schema_with_what_is_selected() -> None:
    page = for_phone(SCHEMA, {"lang": "de"})
    assert page[0] == SCHEMA[0]
    assert [entry["selected"] for entry in page[1:]] == ["de", True, None]
    assert "selected" not in SCHEMA[1], "the schema itself is not touched"


def test_a_broken_schema_entry_harms_nobody() -> None:
    assert for_app([{"type": "text"}, {"key": 7}, {}], {"a": 1}) == [{"key": "a", "value": 1}]
    assert for_phone([{"type": "text"}, {"key": 7}], {}) == [{"type": "text"}, {"key": 7}]
