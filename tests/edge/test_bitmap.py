"""Pictures to 1-bit rows and BMP files."""

from __future__ import annotations

import base64
import io
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge.profiles import bitmap
from edge.profiles.base import Unsupported


def encoded(picture: Image.Image, kind: str = "PNG") -> str:
    out = io.BytesIO()
    picture.save(out, kind)
    return base64.b64encode(out.getvalue()).decode()


def test_a_blank_and_a_full_screen_have_the_checksums_of_the_specification() -> None:
    for fill, crc in ((0x00, 0xCA87012A), (0xFF, 0x6BDCFB3D)):
        file = bitmap.bmp(bytes([fill]) * (72 * 136), 576, 136)
        assert len(file) == 9854
        assert zlib.crc32(bytes.fromhex("001c0000") + file) == crc


def test_a_one_bit_bmp_of_the_sdk_arrives_dot_by_dot() -> None:
    picture = Image.new("1", (576, 135), 0)
    picture.putpixel((0, 0), 255)
    picture.putpixel((575, 134), 255)
    bits = bitmap.lens_bits(encoded(picture, "BMP"), 576, 136)
    assert len(bits) == 72 * 136
    assert bits[0] == 0x80
    assert bits[134 * 72 + 71] == 0x01
    assert sum(byte.bit_count() for byte in bits) == 2


def test_the_bmp_we_build_reads_back_as_the_same_picture() -> None:
    picture = Image.new("1", (576, 136), 0)
    for x in range(0, 576, 3):
        picture.putpixel((x, x % 136), 255)
    bits = bitmap.lens_bits(encoded(picture), 576, 136)
    again = Image.open(io.BytesIO(bitmap.bmp(bits, 576, 136)))
    assert again.size == (576, 136)
    assert again.convert("1").tobytes() == picture.tobytes()


def test_grey_becomes_dots_in_proportion() -> None:
    bits = bitmap.lens_bits(encoded(Image.new("L", (576, 136), 128)), 576, 136)
    share = sum(byte.bit_count() for byte in bits) / (576 * 136)
    assert 0.45 < share < 0.55


def test_a_large_colour_picture_is_fitted_and_a_small_one_centred() -> None:
    big = bitmap.lens_bits(encoded(Image.new("RGB", (2000, 2000), "white"), "JPEG"), 576, 136)
    assert sum(b.bit_count() for b in big) == 136 * 136
    small = bitmap.lens_bits(encoded(Image.new("1", (8, 8), 255)), 576, 136)
    assert sum(b.bit_count() for b in small) == 64
    assert small[64 * 72 : 64 * 72 + 72].lstrip(b"\0") != small[64 * 72 : 64 * 72 + 72]


def test_transparent_is_dark() -> None:
    assert not any(bitmap.lens_bits(encoded(Image.new("RGBA", (10, 10), (255, 255, 255, 0))), 576, 136))


def test_a_data_url_is_understood() -> None:
    url = "data:image/png;base64," + encoded(Image.new("1", (8, 8), 255))
    assert any(bitmap.lens_bits(url, 576, 136))


@pytest.mark.parametrize(
    "data", ["", "%%%", base64.b64encode(b"no picture").decode(), base64.b64encode(b"BM").decode()]
)
def test_what_is_no_picture_is_refused_with_a_reason(data: str) -> None:
    with pytest.raises(Unsupported, match="picture"):
        bitmap.lens_bits(data, 576, 136)


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(Unsupported, match="pixels"):
        bitmap.lens_bits(encoded(Image.new("1", (8000, 8000))), 576, 136)


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"BM", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff"])
)
def test_any_bytes_give_a_picture_or_a_reason(body: bytes, magic: bytes) -> None:
    try:
        size = len(bitmap.lens_bits(base64.b64encode(magic + body).decode(), 576, 136))
    except Unsupported:
        return
    assert size == 72 * 136
