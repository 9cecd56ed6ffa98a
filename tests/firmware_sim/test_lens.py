"""From screens to pixels."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from firmware_sim.firmware.base import BLANK, PictureItem, Screen, TextItem
from firmware_sim.firmware.g1 import PANEL
from firmware_sim.lens import advance, ascii_art, packed, png, render, text_width


def text(lines: str, width: int = 488) -> Screen:
    return Screen("text", lines, (TextItem(lines, 44, 0, width, 27, 5),))


def lit(screen: Screen, box: tuple[int, int, int, int] | None = None) -> int:
    image = render(screen, PANEL)
    return (image.crop(box) if box else image).convert("L").histogram()[255]


@pytest.mark.parametrize(
    ("line", "width"),
    [
        ("Hello", 40),
        ("The quick brown fox jumps over the lazy dog", 402),
        ("iiiiiiiiii", 40),
        ("MMMMMMMMMM", 160),
        ("0123456789", 116),
        ("你好", 42),
    ],
)
def test_lines_are_as_wide_as_on_the_glasses(line: str, width: int) -> None:
    assert text_width(line) == width


def test_the_png_is_one_bit_and_blank_is_dark() -> None:
    image = Image.open(io.BytesIO(png(BLANK, PANEL)))
    assert (image.mode, image.size, image.getextrema()) == ("1", (576, 136), (0, 0))
    assert packed(BLANK, PANEL) == bytes(72 * 136)


def test_each_of_five_lines_lights_its_own_rows_and_a_sixth_none() -> None:
    for row in range(5):
        screen = text("\n" * row + "Hello")
        assert lit(screen, (0, row * 27, 576, row * 27 + 27)) > 100
        assert lit(screen) == lit(screen, (0, row * 27, 576, row * 27 + 27))
    assert lit(text("\n" * 5 + "Hello")) == 0


def test_text_stays_inside_its_area_and_a_long_line_is_cut_at_the_edge() -> None:
    screen = text("M" * 100)
    assert lit(screen) > 0
    assert lit(screen, (0, 0, 44, 136)) == 0
    assert lit(screen, (44 + 488, 0, 576, 136)) == 0


@pytest.mark.parametrize("character", [*"aZ09?!@&ßüöäéñçøåŠž€£°½→“”", "你", "Я", "λ"])
def test_every_common_character_is_drawn_and_none_leaves_its_cell(character: str) -> None:
    screen = text(" " + character)
    left = 44 + advance(" ")
    assert lit(screen, (left, 0, left + advance(character), 27)) > 0
    assert lit(screen) == lit(screen, (left, 0, left + advance(character), 27))


def test_different_texts_give_different_pixels_and_the_same_text_the_same() -> None:
    assert png(text("a"), PANEL) == png(text("a"), PANEL)
    assert png(text("a"), PANEL) != png(text("b"), PANEL)


def test_a_picture_is_pasted_bit_by_bit() -> None:
    bits = bytes([0b10000000, 0b00000001])
    screen = Screen("bitmap", "", (PictureItem(8, 2, 8, 2, bits),))
    image = render(screen, PANEL)
    assert [
        point for y in range(136) for x in range(576) if image.getpixel((x, y)) for point in [(x, y)]
    ] == [
        (8, 2),
        (15, 3),
    ]
    assert packed(screen, PANEL)[72 * 2 + 1] == 0b10000000


def test_ascii_art_shows_two_rows_of_pixels_per_line() -> None:
    screen = Screen("bitmap", "", (PictureItem(0, 0, 8, 3, bytes([0xC0, 0xA0, 0x80])),))
    lines = ascii_art(screen, PANEL).split("\n")
    assert len(lines) == 68
    assert lines[0] == "█▀▄"
    assert lines[1] == "▀"


def test_text_of_a_taller_line_has_larger_letters() -> None:
    small, large = (Screen("text", "Hg", (TextItem("Hg", 0, 0, 500, height, 1),)) for height in (27, 60))
    assert lit(large) > 2.5 * lit(small)
    assert lit(large, (0, 54, 576, 136)) == 0, "and stays in its line"
