"""Pictures as the wire carries them."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from glassbridge.app.display import BITMAP_SIZE, bitmap_data


@pytest.mark.parametrize("size", [(576, 135), (10, 10), (2000, 1000)])
def test_any_picture_becomes_a_one_bit_bmp_of_the_lens_size(size: tuple[int, int]) -> None:
    raw = base64.b64decode(bitmap_data(Image.new("RGB", size, "white")))
    image = Image.open(io.BytesIO(raw))
    assert (image.format, image.mode, image.size) == ("BMP", "1", BITMAP_SIZE)
    assert image.getpixel((BITMAP_SIZE[0] // 2, BITMAP_SIZE[1] // 2)) == 255


def test_a_full_lens_has_the_size_that_the_sdk_sends() -> None:
    # 9,720 bytes of pixels, 62 of header (wire spec 3.10.1: 9,782).
    assert len(base64.b64decode(bitmap_data(Image.new("1", BITMAP_SIZE)))) == 9782
