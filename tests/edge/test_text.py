"""Wrapping, pagination and glyphs for small lenses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.profiles import text
from edge.profiles.g1 import COLUMN, FONT, SECOND_COLUMN


@pytest.mark.parametrize(
    ("line", "pixels"),
    [
        ("Hello", 40),
        ("The quick brown fox jumps over the lazy dog", 402),
        ("iiiiiiiiii", 40),
        ("MMMMMMMMMM", 160),
        ("0123456789", 116),
    ],
)
def test_widths_equal_the_check_values_of_the_specification(line: str, pixels: int) -> None:
    assert FONT.measure(line) == pixels


def test_the_table_has_every_glyph_of_the_specification() -> None:
    assert len(FONT.widths) == 264


def test_a_line_breaks_at_the_last_space_that_fits() -> None:
    lines = text.wrap("The quick brown fox jumps over the lazy dog and then sleeps for a long time", FONT)
    assert lines == ["The quick brown fox jumps over the lazy dog and then", "sleeps for a long time"]


def test_a_word_longer_than_a_line_is_cut_hard() -> None:
    lines = text.wrap("W" * 100, FONT)
    assert "".join(lines) == "W" * 100
    assert all(FONT.measure(line) <= FONT.width for line in lines)


def test_newlines_are_kept_and_blank_lines_too() -> None:
    assert text.wrap("a\n\nb", FONT) == ["a", "", "b"]


def test_wide_characters_break_anywhere() -> None:
    lines = text.wrap("你好世界" * 20, FONT)
    assert len(lines) > 1
    assert "".join(lines) == "你好世界" * 20
    assert all(FONT.measure(line) <= FONT.width for line in lines)


@given(st.text(max_size=300), st.integers(min_value=24, max_value=600))
def test_wrapping_terminates_fits_and_loses_nothing_but_spaces(raw: str, width: int) -> None:
    ready = text.prepare(raw, FONT).text
    lines = text.wrap(ready, FONT, width)
    assert "".join(lines).replace(" ", "") == ready.replace("\n", "").replace(" ", "")
    for line in lines:
        assert FONT.measure(line) <= width or len(text.clusters(line)) == 1


@given(st.text(max_size=200))
def test_prepared_text_draws_or_is_reported(raw: str) -> None:
    ready = text.prepare(raw, FONT)
    for character in ready.text:
        known = character == "\n" or FONT.draws(character)
        assert known or character in ready.missing or text.unicodedata.combining(character)


def test_decomposed_letters_are_composed() -> None:
    assert text.prepare("Gru\u0308ße", FONT).text == "Grüße"


def test_scripts_without_glyphs_are_spelled_in_latin() -> None:
    assert text.prepare("Привет, Ёж", FONT).text == "Privet, Yozh"
    assert text.prepare("Αθήνα", FONT).text == "Athina"
    assert not text.prepare("Привет", FONT).missing


def test_accents_that_the_lens_lacks_are_dropped_not_the_letter() -> None:
    assert text.prepare("ěščřžů Łódź", FONT).text == "ešcržu Lódz"


def test_an_emoji_becomes_a_mark_and_is_reported() -> None:
    ready = text.prepare("ok 👍🏽!", FONT)
    assert ready.text.startswith("ok ◊")
    assert "👍" in ready.missing


def test_control_characters_never_reach_the_lens() -> None:
    assert text.prepare("a\x00b\x1bc\u200bd\r\ne", FONT).text == "abcd\ne"


def test_the_right_column_begins_at_its_pixel() -> None:
    lines = text.columns("Left", "Right", FONT, COLUMN, SECOND_COLUMN)
    assert lines == ["Left" + " " * ((SECOND_COLUMN - FONT.measure("Left")) // 6) + "Right"]
    assert SECOND_COLUMN - 6 < FONT.measure(lines[0][: lines[0].index("R")]) <= SECOND_COLUMN


def test_columns_of_unequal_length_keep_their_rows() -> None:
    lines = text.columns("a\nb\nc", "x", FONT, COLUMN, SECOND_COLUMN)
    assert [line[0] for line in lines] == ["a", "b", "c"]
    assert lines[0].endswith("x")


def test_pages_hold_five_lines_and_no_blank_tail() -> None:
    assert text.paginate(["1", "2", "3", "4", "5", "6", "", ""], 5) == [["1", "2", "3", "4", "5"], ["6"]]
    assert text.paginate(["", ""], 5) == [[]]


def test_a_hebrew_line_is_turned_round_for_a_device_that_draws_from_the_left() -> None:
    assert text.visual_order("שלום") == "םולש"


def test_numbers_inside_right_to_left_text_keep_their_order() -> None:
    assert text.visual_order("אב 123 גד") == "דג 123 בא"


def test_latin_around_hebrew_stays_in_place() -> None:
    assert text.visual_order("abc אב def") == "abc בא def"


def test_brackets_are_mirrored_in_right_to_left_text() -> None:
    assert text.visual_order("(אב)") == "(בא)"


@given(st.text(max_size=80))
def test_visual_order_only_rearranges(raw: str) -> None:
    line = raw.replace("\n", "")
    swap = str.maketrans("([{<«", ")]}>»")
    assert sorted(text.visual_order(line).translate(swap)) == sorted(line.translate(swap))
