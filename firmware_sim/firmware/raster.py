"""One-bit drawing: lines, rectangles, circles on a canvas, and 1-bit Windows bitmaps read into pictures.

Rules of this file: pure; coordinates outside the canvas are skipped, never an error; the work of one call is bounded by
the canvas, whatever the numbers.
"""

from __future__ import annotations

import struct

from firmware_sim.firmware.base import PictureItem

FAR = 4096
"""Coordinates beyond this are drawn as if they were this: bounds the steps of a line that leads off the lens."""
STROKE_MAX = 64


class Canvas:
    """Rows top-down, most significant bit left, 1 = lit; (0, 0) is the upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._rows = [0] * height
        """One integer per row, its most significant bit the leftmost pixel: a wide stroke is a few operations."""

    def picture(self) -> PictureItem:
        stride = (self.width + 7) // 8
        pad = stride * 8 - self.width
        bits = b"".join((row << pad).to_bytes(stride, "big") for row in self._rows)
        return PictureItem(0, 0, self.width, self.height, bits)

    def dot(self, x: int, y: int, size: int = 1) -> None:
        """A square of `size` pixels around (x, y)."""
        left, top = x - size // 2, y - size // 2
        first, end = max(0, left), min(self.width, left + size)
        if first >= end:
            return
        span = ((1 << end - first) - 1) << self.width - end
        for row in range(max(0, top), min(self.height, top + size)):
            self._rows[row] |= span

    def line(self, x1: int, y1: int, x2: int, y2: int, stroke: int = 1) -> None:
        x1, y1, x2, y2 = (min(max(v, -FAR), FAR) for v in (x1, y1, x2, y2))
        steps = max(abs(x2 - x1), abs(y2 - y1), 1)
        for i in range(steps + 1):
            self.dot(round(x1 + (x2 - x1) * i / steps), round(y1 + (y2 - y1) * i / steps), _stroke(stroke))

    def rectangle(self, x: int, y: int, width: int, height: int, stroke: int = 1) -> None:
        """The outline; its corners are inside the width and height."""
        if width < 1 or height < 1:
            return
        right, bottom = x + width - 1, y + height - 1
        for x1, y1, x2, y2 in (
            (x, y, right, y),
            (x, bottom, right, bottom),
            (x, y, x, bottom),
            (right, y, right, bottom),
        ):
            self.line(x1, y1, x2, y2, stroke)

    def circle(self, x: int, y: int, radius: int, stroke: int = 1) -> None:
        """The outline, by the midpoint rule."""
        dx, dy, error = min(max(radius, 0), FAR), 0, 1 - min(max(radius, 0), FAR)
        while dx >= dy:
            for a, b in ((dx, dy), (dy, dx)):
                for px, py in ((x + a, y + b), (x - a, y + b), (x + a, y - b), (x - a, y - b)):
                    self.dot(px, py, _stroke(stroke))
            dy += 1
            if error < 0:
                error += 2 * dy + 1
            else:
                dx -= 1
                error += 2 * (dy - dx) + 1


def _stroke(width: int) -> int:
    return min(max(width, 1), STROKE_MAX)


BMP_HEADER = 62


def read_bmp(data: bytes, x: int, y: int, width_max: int, height_max: int) -> PictureItem | None:
    """A 1-bit Windows bitmap as a picture at (x, y), or None. Lit is where its palette is brighter."""
    if len(data) < BMP_HEADER or data[:2] != b"BM":
        return None
    offset, width, height, bits = struct.unpack_from("<I4xiixxH", data, 10)
    rows = abs(height)
    if bits != 1 or not 1 <= width <= width_max or not 1 <= rows <= height_max or offset < BMP_HEADER:
        return None
    stride = (width + 31) // 32 * 4
    if len(data) < offset + stride * rows:
        return None
    lines = [data[offset + stride * r :][: (width + 7) // 8] for r in range(rows)]
    if height > 0:  # rows stand bottom-up
        lines.reverse()
    flip = (1 << width) - 1 if sum(data[54:57]) > sum(data[58:61]) else 0  # a 0 bit may be the bright one
    pad = -width % 8
    whole = (((int.from_bytes(line, "big") >> pad) ^ flip) << pad for line in lines)
    return PictureItem(x, y, width, rows, b"".join(row.to_bytes((width + 7) // 8, "big") for row in whole))
