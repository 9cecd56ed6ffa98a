"""What a simulated camera sees: a drawn scene with the number of the photo in it, as a real JPEG.

Rules of this file: deterministic (the same photo number and size give the same bytes); no files, no network; always
marked as simulated, so that nobody takes it for a photograph.
"""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont

SIDE_MIN, SIDE_MAX = 16, 2048
"""Pixels. A Frame asks for 720 at most, a Mentra Live for 960."""


class SimCamera:
    """A `PictureSource` that draws: sky, ground, a sun that moves on with every photo."""

    def __init__(self) -> None:
        self.taken = 0

    def jpeg(self, width: int, height: int, quality: int) -> bytes:
        """Baseline JPEG with the standard tables: its scan data begin at byte 623, as the firmwares expect."""
        self.taken += 1
        width, height = (min(max(side, SIDE_MIN), SIDE_MAX) for side in (width, height))
        image = Image.new("RGB", (width, height), (150, 190, 230))
        draw = ImageDraw.Draw(image)
        horizon = height * 2 // 3
        draw.rectangle((0, horizon, width, height), fill=(90, 130, 80))
        radius = max(2, width // 12)
        sun = (self.taken * width // 7) % width
        draw.ellipse((sun - radius, height // 6, sun + radius, height // 6 + 2 * radius), fill=(250, 220, 90))
        for post in range(width // 8, width, max(1, width // 4)):
            draw.line(
                (post, horizon, post, horizon - height // 5), fill=(70, 50, 40), width=max(1, width // 100)
            )
        font = ImageFont.load_default(max(8, height // 10))
        draw.text((4, height - height // 6), f"SIMULATED {self.taken}", fill=(255, 255, 255), font=font)
        out = io.BytesIO()
        image.save(out, "JPEG", quality=min(max(quality, 1), 95), subsampling=0)
        return out.getvalue()
