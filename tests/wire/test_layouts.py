"""A layout is used, clamped by a stated rule, or refused by the name of its member (wire/layouts.py)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import ErrorCode, ProtocolError
from wire.layouts import (
    BITMAP_CHARS_MAX,
    FRAMES_MAX,
    TEXT_BYTES_MAX,
    TextWall,
    cut_text,
    flatten,
    layout_to_wire,
    parse_layout,
)

GOOD: list[dict[str, Any]] = [
    {"layoutType": "text_wall", "text": "hello"},
    {"layoutType": "double_text_wall", "topText": "top", "bottomText": "bottom"},
    {"layoutType": "reference_card", "title": "Title", "text": "Body"},
    {"layoutType": "dashboard_card", "leftText": "L", "rightText": "R"},
    {"layoutType": "bitmap_view", "data": "Qk0="},
    {"layoutType": "bitmap_animation", "frames": ["AAAA", "BBBB"], "interval": 1650.0, "repeat": True},
    {"layoutType": "clear_view"},
]


@pytest.mark.parametrize("layout", GOOD, ids=lambda v: v["layoutType"])
def test_every_layout_of_the_sdk_survives_the_round_trip(layout: dict[str, Any]) -> None:
    assert layout_to_wire(parse_layout(layout)) == layout


@pytest.mark.failure("DSP-09")
@pytest.mark.parametrize(
    ("layout", "field"),
    [
        (None, "layout"), (5, "layout"), ("text", "layout"), ([], "layout"), ({}, "layout"),
        ({"layoutType": None}, "layout"), ({"layoutType": "hologram", "text": "x"}, "layout"),
        ({"layoutType": ["text_wall"]}, "layout"), ({"text": "no type"}, "layout"),
        ({"layoutType": "text_wall", "text": {}}, "layout.text_wall.text"),
        ({"layoutType": "text_wall", "text": ["a"]}, "layout.text_wall.text"),
        ({"layoutType": "text_wall", "text": True}, "layout.text_wall.text"),
        ({"layoutType": "double_text_wall", "topText": {}, "bottomText": ""}, "layout.double_text_wall.topText"),
        ({"layoutType": "reference_card", "title": []}, "layout.reference_card.title"),
        ({"layoutType": "dashboard_card", "leftText": False}, "layout.dashboard_card.leftText"),
        ({"layoutType": "bitmap_view"}, "layout.bitmap_view.data"),
        ({"layoutType": "bitmap_view", "data": None}, "layout.bitmap_view.data"),
        ({"layoutType": "bitmap_view", "data": "x" * (BITMAP_CHARS_MAX + 1)}, "layout.bitmap_view.data"),
        ({"layoutType": "bitmap_animation", "frames": []}, "layout.bitmap_animation.frames"),
        ({"layoutType": "bitmap_animation", "frames": ["A"] * (FRAMES_MAX + 1)}, "layout.bitmap_animation.frames"),
        ({"layoutType": "bitmap_animation", "frames": ["A"], "interval": 0}, "layout.bitmap_animation.interval"),
        ({"layoutType": "bitmap_animation", "frames": ["A"], "interval": -1}, "layout.bitmap_animation.interval"),
        ({"layoutType": "bitmap_animation", "frames": ["A"], "interval": 1e12}, "layout.bitmap_animation.interval"),
        ({"layoutType": "bitmap_animation", "frames": ["A"], "interval": float("nan")},
         "layout.bitmap_animation.interval"),
        ({"layoutType": "bitmap_animation", "frames": [5]}, "layout.bitmap_animation.frames.0"),
    ],
)  # fmt: skip
def test_a_bad_layout_is_refused_by_the_name_of_its_member(layout: object, field: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_layout(layout)
    assert caught.value.code is ErrorCode.MALFORMED_MESSAGE
    assert caught.value.field == field
    assert field in caught.value.message


@pytest.mark.failure("DSP-09")
def test_null_and_numbers_become_text_as_javascript_clients_mean_them() -> None:
    assert parse_layout({"layoutType": "text_wall", "text": None}) == TextWall(text="")
    assert parse_layout({"layoutType": "text_wall"}) == TextWall(text="")
    assert parse_layout({"layoutType": "text_wall", "text": 42}) == TextWall(text="42")


@pytest.mark.failure("DSP-09")
def test_too_long_a_text_is_cut_not_refused() -> None:
    layout = parse_layout({"layoutType": "text_wall", "text": "ä" * 1_000_000})
    assert isinstance(layout, TextWall)
    assert layout.text == "ä" * (TEXT_BYTES_MAX // 2)


FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
WAVE = "\U0001f44b\U0001f3fd"
FLAG = "\U0001f1e9\U0001f1ea"
COMBINED = "e\u0301\u0323"
HEART = "\u2764\ufe0f"
HANGUL = "\u1112\u1161\u11ab"
THAI = "ก\u0e34"
PIRATE = "\U0001f3f4\u200d\u2620\ufe0f"


@pytest.mark.failure("DSP-09")
@pytest.mark.parametrize(
    "character", [FAMILY, WAVE, FLAG, COMBINED, HEART, HANGUL, THAI, PIRATE, "\r\n", "漢", "a"]
)
def test_a_cut_never_falls_inside_what_a_reader_sees_as_one_character(character: str) -> None:
    text = character * 60
    for limit in range(len(character.encode()) * 3, len(character.encode()) * 3 + 40):
        cut = cut_text(text, limit)
        assert len(cut.encode()) <= limit
        assert cut == character * (len(cut) // len(character))
        assert len(cut.encode()) + len(character.encode()) > limit  # and no more is lost than must be


def test_a_base_under_thousands_of_marks_is_cut_hard() -> None:
    cut = cut_text("a" + "\u0301" * 10_000, 101)
    assert 95 <= len(cut.encode()) <= 101


@given(st.text(max_size=200), st.integers(0, 300))
def test_a_cut_is_a_prefix_within_its_limit(text: str, limit: int) -> None:
    cut = cut_text(text, limit)
    assert len(cut.encode()) <= limit
    assert text.encode("utf-8", "replace").decode().startswith(cut)


@pytest.mark.parametrize(
    ("content", "flat"),
    [
        ("plain", "plain"),
        (GOOD[0], "hello"),
        (GOOD[1], "top\nbottom"),
        (GOOD[2], "Title\nBody"),
        (GOOD[3], "L | R"),
        (GOOD[4], ""),
        (GOOD[6], ""),
    ],
)
def test_dashboard_content_flattens_to_text(content: object, flat: str) -> None:
    assert flatten(content) == flat
