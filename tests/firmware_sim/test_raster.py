"""One-bit drawing and bitmap reading."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_sim.firmware.base import PictureItem
from firmware_sim.firmware.raster import Canvas, read_bmp


def art(picture: PictureItem) -> list[str]:
    stride = (picture.width + 7) // 8
    rows = [picture.bits[i : i + stride] for i in range(0, len(picture.bits), stride)]
    return ["".join(f"{byte:08b}" for byte in row)[: picture.width].replace("0", ".") for row in rows]


def bmp(width: int, rows: list[bytes], *, palette: bytes, top_down: bool = False) -> bytes:
    stride = (width + 31) // 32 * 4
    body = b"".join(row.ljust(stride, b"\xff") for row in (rows if top_down else rows[::-1]))
    height = -len(rows) if top_down else len(rows)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 1, 0, len(body), 0, 0, 2, 0)
    return b"BM" + struct.pack("<IHHI", 62 + len(body), 0, 0, 62) + info + palette + body


BLACK_WHITE, WHITE_BLACK = bytes.fromhex("00000000ffffff00"), bytes.fromhex("ffffff0000000000")


def test_shapes_are_where_they_should_be() -> None:
    canvas = Canvas(10, 5)
    canvas.rectangle(0, 0, 10, 5)
    canvas.line(2, 2, 7, 2)
    assert art(canvas.picture()) == ["1111111111", "1........1", "1.111111.1", "1........1", "1111111111"]


def test_a_circle_is_round() -> None:
    canvas = Canvas(7, 7)
    canvas.circle(3, 3, 3)
    assert art(canvas.picture()) == [
        "..111..", ".1...1.", "1.....1", "1.....1", "1.....1", ".1...1.", "..111..",
    ]  # fmt: skip


def test_a_stroke_is_as_wide_as_asked() -> None:
    canvas = Canvas(8, 5)
    canvas.line(-5, 2, 20, 2, 3)
    assert art(canvas.picture()) == ["........", "11111111", "11111111", "11111111", "........"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-(2**31), 2**32), min_size=5, max_size=5))
def test_no_number_is_too_large_or_too_slow(numbers: list[int]) -> None:
    canvas = Canvas(640, 480)
    canvas.line(*numbers)
    canvas.rectangle(*numbers)
    canvas.circle(*numbers[:4])
    assert len(canvas.picture().bits) == 80 * 480


@pytest.mark.parametrize("top_down", [True, False])
@pytest.mark.parametrize(("palette", "lit"), [(BLACK_WHITE, "1"), (WHITE_BLACK, ".")])
def test_lit_is_where_the_palette_is_white(palette: bytes, lit: str, top_down: bool) -> None:
    picture = read_bmp(
        bmp(10, [b"\xff\x00", b"\x00\x00"], palette=palette, top_down=top_down), 3, 4, 640, 480
    )
    assert picture is not None
    assert (picture.x, picture.y, picture.width, picture.height) == (3, 4, 10, 2)
    dark = "." if lit == "1" else "1"
    assert art(picture) == [lit * 8 + dark * 2, dark * 10]


@pytest.mark.parametrize(
    "bad", [b"", b"BM", bmp(10, [b"\0\0"], palette=BLACK_WHITE)[:-1], bmp(700, [b""], palette=BLACK_WHITE)]
)
def test_what_is_no_such_bitmap_is_none(bad: bytes) -> None:
    assert read_bmp(bad, 0, 0, 640, 480) is None


@given(st.binary(max_size=120))
def test_any_bytes_are_a_picture_or_none(data: bytes) -> None:
    read_bmp(data, 0, 0, 640, 480)
    read_bmp(b"BM" + data, 0, 0, 640, 480)
