"""Pictures for 1-bit lenses: base64 of any picture file to packed rows, and a Windows BMP around them.

Rules: pure; the only file of the edge that uses Pillow. Size is checked before pixels are decoded, so that a small
file cannot ask for much memory. A pixel that is lit on the lens is white in the picture.
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
import warnings

from PIL import Image, UnidentifiedImageError

from edge.profiles.base import Unsupported

#: Larger than any lens here by a factor of 8 in each direction; a 16-megapixel photo costs 48 MB while it is scaled.
PIXELS_MAX = 16_000_000


def lens_bits(data: str, width: int, height: int) -> bytes:
    """The picture in `data` (base64) fitted into `width` x `height`: packed rows from the top, 1 = lit, MSB left.

    Larger pictures are scaled down, smaller ones centred as they are; greys become Floyd-Steinberg dots.
    Raises Unsupported with the reason if it is no picture.
    """
    picture = _open(data)
    if picture.width > width or picture.height > height:
        picture.thumbnail((width, height), Image.Resampling.LANCZOS)
    colours = picture.getcolors(maxcolors=2)
    bilevel = colours is not None and all(value in (0, 255) for _, value in colours)
    dots = picture.convert("1", dither=Image.Dither.NONE if bilevel else Image.Dither.FLOYDSTEINBERG)
    lens = Image.new("1", (width, height), 0)
    lens.paste(dots, ((width - picture.width) // 2, (height - picture.height) // 2))
    return lens.tobytes()


def _open(data: str) -> Image.Image:
    # Browsers hand over data: URLs; the payload follows the comma.
    body = data.partition(",")[2] if data.startswith("data:") else data
    try:
        raw = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise Unsupported(
            "the picture is not base64: send the bytes of a BMP or PNG file as base64"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own, smaller limit follows
            picture = Image.open(io.BytesIO(raw), formats=("BMP", "PNG", "GIF", "JPEG"))
            if picture.width * picture.height > PIXELS_MAX:
                raise Unsupported(
                    f"the picture has {picture.width}x{picture.height} pixels: at most {PIXELS_MAX} are decoded"
                )
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                # Transparent is dark: a lens adds light to the world, it cannot cover it.
                ground = Image.new("RGBA", picture.size, (0, 0, 0, 255))
                ground.alpha_composite(picture.convert("RGBA"))
                return ground.convert("L")
            return picture.convert("L")
    except Unsupported:
        raise
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
    ) as error:
        raise Unsupported(
            f"the picture cannot be read ({type(error).__name__}): send a BMP or PNG file"
        ) from None
    except (struct.error, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        # Pillow's decoders let these escape on damaged files.
        raise Unsupported(
            f"the picture is damaged ({type(error).__name__}): send a BMP or PNG file"
        ) from None


def bmp(bits: bytes, width: int, height: int, *, white_first: bool = False) -> bytes:
    """A Windows BMP with 1 bit per pixel: 62-byte header, palette black then white, rows from the bottom.

    With `white_first` the palette is turned round and so are the bits: the picture is the same.
    """
    palette = bytes.fromhex("00000000ffffff00")
    if white_first:
        bits = bytes(byte ^ 0xFF for byte in bits)
        palette = palette[4:] + palette[:4]
    row = (width + 31) // 32 * 4
    packed = (width + 7) // 8
    rows = [bits[i * packed : (i + 1) * packed].ljust(row, b"\0") for i in range(height)]
    body = b"".join(reversed(rows))
    header = b"BM" + struct.pack("<IHHI", 62 + len(body), 0, 0, 62)
    # 2835 pixels per metre is 72 dpi, what every drawing program writes; the glasses ignore it.
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 1, 0, len(body), 2835, 2835, 2, 2)
    return header + info + palette + body
