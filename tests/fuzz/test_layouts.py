"""wire.layouts: any value becomes a layout within its limits, or a ProtocolError that names the member."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.strategies import examples, json_values, mutated
from wire.errors import ProtocolError
from wire.layouts import TEXT_BYTES_MAX, cut_text, flatten, layout_to_wire, parse_layout

VALID: list[dict[str, Any]] = [
    {"layoutType": "text_wall", "text": "hello"},
    {"layoutType": "double_text_wall", "topText": "a", "bottomText": "b"},
    {"layoutType": "reference_card", "title": "a", "text": "b"},
    {"layoutType": "dashboard_card", "leftText": "a", "rightText": "b"},
    {"layoutType": "bitmap_view", "data": "Qk0="},
    {"layoutType": "bitmap_animation", "frames": ["Qk0=", "Qk0="], "interval": 500, "repeat": True},
    {"layoutType": "clear_view"},
]


def check(value: Any) -> None:
    try:
        layout = parse_layout(value)
    except ProtocolError as caught:
        words = caught.message
    else:
        assert parse_layout(layout_to_wire(layout)) == layout, "a layout survives its own wire form"
        return
    assert words


@given(json_values)
@examples(200)
def test_any_value(value: Any) -> None:
    check(value)


@given(st.sampled_from(VALID).flatmap(mutated))
@examples(400)
def test_valid_layouts_with_something_changed(value: Any) -> None:
    check(value)


def test_the_valid_ones_are_valid() -> None:
    for value in VALID:
        parse_layout(value)


@given(json_values)
@examples(200)
def test_dashboard_content_of_any_shape_becomes_text_or_is_refused(value: Any) -> None:
    try:
        text = flatten(value)
    except ProtocolError:
        return
    assert isinstance(text, str)


@given(st.text(max_size=400), st.integers(0, 200))
@examples(300)
def test_cut_text_is_a_prefix_within_the_limit(text: str, limit: int) -> None:
    cut = cut_text(text, limit)
    assert len(cut.encode("utf-8", "replace")) <= limit
    assert text.encode("utf-8", "replace").decode().startswith(cut)
    assert cut_text(text, TEXT_BYTES_MAX) == text.encode("utf-8", "replace").decode()
