"""Pixels as text for a terminal: two by four dots in each character, Unicode's Braille patterns.

Rules: pure. Only the lit part is drawn; what is wider than the terminal is drawn at half size, dots joined, so that thin
strokes stay.
"""

from __future__ import annotations

#: Bit of each dot in a Braille pattern, by row and column.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))

Pixels = list[list[bool]]


def unpack(packed: bytes, width: int) -> Pixels:
    """Rows of pixels from packed bits: rows top-down, most significant bit left."""
    stride = (width + 7) // 8
    return [
        [bool(packed[start + (x >> 3)] >> (7 - (x & 7)) & 1) for x in range(width)]
        for start in range(0, len(packed) - stride + 1, stride)
    ]


def crop(pixels: Pixels) -> Pixels:
    """The smallest part that has all lit pixels; nothing when none is lit."""
    rows = [y for y, row in enumerate(pixels) if any(row)]
    if not rows:
        return []
    columns = [x for x in range(len(pixels[0])) if any(row[x] for row in pixels)]
    return [row[columns[0] : columns[-1] + 1] for row in pixels[rows[0] : rows[-1] + 1]]


def halve(pixels: Pixels) -> Pixels:
    """Half the size; a dot is lit when one of its four was."""

    def at(x: int, y: int) -> bool:
        return y < len(pixels) and x < len(pixels[0]) and pixels[y][x]

    return [
        [any(at(x + dx, y + dy) for dx in (0, 1) for dy in (0, 1)) for x in range(0, len(pixels[0]), 2)]
        for y in range(0, len(pixels), 2)
    ]


def draw(packed: bytes, width: int, *, columns: int) -> str:
    """The lit part of a framebuffer, within `columns` characters where halving allows. Dark: an empty text."""
    pixels = crop(unpack(packed, width))
    if not pixels:
        return ""
    if len(pixels[0]) > columns * 2:
        pixels = halve(pixels)
    lines = []
    for top in range(0, len(pixels), 4):
        line = ""
        for left in range(0, len(pixels[0]), 2):
            dots = 0
            for dy, row in enumerate(_DOTS[: len(pixels) - top]):
                for dx, dot in enumerate(row[: len(pixels[0]) - left]):
                    if pixels[top + dy][left + dx]:
                        dots |= dot
            line += chr(0x2800 + dots)
        lines.append(line.rstrip("\u2800"))
    return "\n".join(lines)
