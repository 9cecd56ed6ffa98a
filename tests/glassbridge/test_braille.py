"""Pixels as text: what is lit is drawn, nothing else."""

from __future__ import annotations

import pytest

from glassbridge.braille import crop, draw, halve, unpack


def packed(*rows: str) -> bytes:
    return b"".join(int(row.ljust(8, ".").replace("#", "1").replace(".", "0"), 2).to_bytes() for row in rows)


def test_a_dark_lens_is_an_empty_text() -> None:
    assert draw(bytes(72 * 136), 576, columns=80) == ""


def test_dots_stand_where_pixels_are_lit() -> None:
    assert draw(packed("#.", ".#", "#.", ".#"), 8, columns=80) == chr(0x2800 + 0x01 + 0x10 + 0x04 + 0x80)


def test_only_the_lit_part_is_drawn() -> None:
    assert crop(unpack(packed("....", "..#.", "...."), 8)) == [[True]]


def test_thin_strokes_survive_halving() -> None:
    assert halve(unpack(packed(".#......", "........", "......#."), 8)) == [
        [True, False, False, False],
        [False, False, False, True],
    ]


@pytest.mark.parametrize(("columns", "width"), [(4, 4), (3, 2)])
def test_what_is_too_wide_is_halved(columns: int, width: int) -> None:
    assert len(draw(packed("########"), 8, columns=columns)) == width
