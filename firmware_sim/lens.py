"""From a screen to pixels: the framebuffer of one lens as PNG, packed bits, ASCII art or text.

Rules of this file:

- One bit per pixel, lit or dark, no grey: what is drawn is what the glasses could show.
- Text advances by the width table of the real glasses (public knowledge, measured by driver authors), so a line
  that is too long for the lens is too long here as well and is cut at its edge.
- Pure in its result: the same screen gives the same bytes.
"""

from __future__ import annotations

import functools
import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from firmware_sim.firmware.base import DisplaySpec, PictureItem, Screen, TextItem

FONT = Path(__file__).with_name("lens.ttf")
"""A subset of DejaVu Sans Condensed, whose letters nearly have the widths of the table below. Bundled, so that
every machine draws the same pixels."""

FONT_SIZE = 18
"""Pixels: the largest size whose widest letters stay in their cells."""

CELL_HEIGHT = 27
"""Room for accents above and tails below; the line height of the lens."""

WIDE_ADVANCE = 21
"""Glyphs without a known width (CJK): sources assume 18 to 21 px."""

_WIDTHS: dict[int, str] = {
    1: "!',.:;il|¦·˙‘’‚",
    2: ' "()I[]`j°´¸ÌÍìíĳ˚˛₁',
    3: "*/1J\\_rt{}¨¯ÎÏîïˆˇ˜“”„•‹›⁰⁴⁵⁶⁷⁸⁹₀₂₃₄₅₆₇₈₉",
    4: "+-<=>EFL^bcdefghknopqsz±ÈÉÊË×ßçèéêëñòóôõö÷þĲšž˘˝…⁄−≠≤≥",
    5: "$023456789?BCDGHKNOPQRSTUZauvxy¢¥§«¬®»¿ÇÐÑÒÓÔÕÖÙÚÛÜÞàáâãäåðøùúûüýÿŠŽ฿ẞ†‡₿∂∏∑√∫≈◊",
    6: "#%AVXY£¼½ÀÁÂÃÄÅØÝŸ–—ⁱ⁲⁳™⅛⅞↑↓↕↖↗↘↙",
    7: "&@MWmw~¶¾‰€⅜⅝←→",
    8: "©Ææ↔∞",
    9: "◌",
}
_ADVANCE = {character: 2 * (width + 1) for width, characters in _WIDTHS.items() for character in characters}


@functools.lru_cache(maxsize=4096)
def advance(character: str) -> int:
    """Pixels from one character to the next. What the table does not know is as wide as in our font."""
    known = _ADVANCE.get(character)
    if known is not None:
        return known
    return WIDE_ADVANCE if ord(character) > 0x2E7F else max(2, round(_font().getlength(character)))


def text_width(text: str) -> int:
    return sum(map(advance, text))


@functools.cache
def _font(size: int = FONT_SIZE) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT), size, layout_engine=ImageFont.Layout.BASIC)


def _scale(item: TextItem) -> float:
    """How much larger than G1's the letters of this text are. Brilliant Frame's 60-pixel lines carry letters of twice
    the width of G1's table (its own table says so within two pixels a letter); other models are drawn in proportion."""
    return max(1.0, item.line_height / 30)


@functools.lru_cache(maxsize=1024)
def _glyph(character: str, scale: float) -> Image.Image:
    """One character in its cell, 1-bit, as wide as its advance."""
    width, height = round(scale * advance(character)), round(scale * CELL_HEIGHT)
    font = _font(round(scale * FONT_SIZE))
    cell = Image.new("1", (width, height))
    draw = ImageDraw.Draw(cell)
    draw.fontmode = "1"
    if ord(character) > 0x2E7F:  # the font has no such glyph: a box says that there is one
        draw.rectangle((1, 4, width - 3, height - 6), outline=1)
        return cell
    left, _, right, _ = draw.textbbox((0, 0), character, font=font)
    draw.text((round((width - (right - left)) / 2 - left), round(2 * scale)), character, fill=1, font=font)
    return cell


def render(screen: Screen, display: DisplaySpec) -> Image.Image:
    """The lens as a 1-bit image, white = lit."""
    image = Image.new("1", (display.width, display.height))
    for item in screen.items:
        match item:
            case PictureItem():
                picture = Image.frombytes("1", (item.width, item.height), item.bits)
                image.paste(picture, (item.x, item.y))
            case TextItem():
                _write(image, item)
    return image


def _write(image: Image.Image, item: TextItem) -> None:
    scale = _scale(item)
    for row, line in enumerate(item.text.split("\n")[: item.lines_max]):
        x, y = item.x, item.y + row * item.line_height
        for character in line:
            glyph = _glyph(character, scale)
            width = glyph.width
            if x + width > item.x + item.width:
                break
            image.paste(1, (x, y), glyph)
            x += width


def png(screen: Screen, display: DisplaySpec) -> bytes:
    out = io.BytesIO()
    render(screen, display).save(out, "PNG", optimize=True)
    return out.getvalue()


def packed(screen: Screen, display: DisplaySpec) -> bytes:
    """Rows top-down, (width + 7) // 8 bytes each, most significant bit left, 1 = lit."""
    return render(screen, display).tobytes()


def ascii_art(screen: Screen, display: DisplaySpec) -> str:
    """Half-block characters, two rows of pixels per line of text."""
    image = render(screen, display)
    pixels = image.load()
    assert pixels is not None
    width, height = image.size

    def lit(x: int, y: int) -> bool:
        return y < height and bool(pixels[x, y])

    signs = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
    return "\n".join(
        "".join(signs[lit(x, y), lit(x, y + 1)] for x in range(width)).rstrip() for y in range(0, height, 2)
    )
