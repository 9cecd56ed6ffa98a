"""Semantic layouts: what an app wants shown, before any lens turns it into lines and pixels.

Rules: the cloud decides *who* is shown, only `edge/profiles` knows pixels. A layout that cannot be used is refused
with the name of the offending member; text that is merely too long is cut where a reader would cut it.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from wire.errors import ErrorCode, ProtocolError

#: Longest text of one member, in UTF-8 bytes; a lens shows a few hundred characters (failure catalogue DSP-09).
TEXT_BYTES_MAX = 10_000
#: One 576x136 1-bit BMP is 13 kB as base64; colour PNGs from older SDKs are larger.
BITMAP_CHARS_MAX = 400_000
FRAMES_MAX = 64
DURATION_MS_MAX = 24 * 3600 * 1000


#: Farthest that a cut moves back to spare a character; the longest emoji in use have about 10 code points.
_CLUSTER_MAX = 32


def cut_text(text: str, limit: int = TEXT_BYTES_MAX) -> str:
    """`text` within `limit` UTF-8 bytes, cut where a reader sees the end of a character."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit:
        return raw.decode("utf-8")
    whole = raw.decode("utf-8")
    hard = len(raw[:limit].decode("utf-8", "ignore"))
    for end in range(hard, max(hard - _CLUSTER_MAX, 0), -1):
        if not _joined(whole, end):
            return whole[:end]
    return whole[:hard]  # no real text: one base under dozens of marks


def _joined(text: str, at: int) -> bool:
    # Whether the code points around `at` are seen as one character: the rules of Unicode annex 29 that matter on
    # a lens (marks, emoji sequences, flags, line ends, Hangul), without its tables.
    before, after = text[at - 1], text[at]
    if before == "\u200d" or after in "\u200d\u200c" or unicodedata.category(after) in ("Mn", "Me", "Mc"):
        return True
    if before == "\r" and after == "\n":
        return True
    if "\U0001f3fb" <= after <= "\U0001f3ff" or "\U000e0020" <= after <= "\U000e007f":
        return True  # skin tones, flag tags
    if "\u1160" <= after <= "\u11ff":
        return True  # vowels and finals of decomposed Hangul
    if _is_flag_half(before) and _is_flag_half(after):
        halves = 1
        while halves < at and _is_flag_half(text[at - 1 - halves]):
            halves += 1
        return halves % 2 == 1
    return False


def _is_flag_half(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def _as_text(value: object) -> object:
    # The SDK turns null into ""; other JavaScript clients send numbers where a text is meant.
    if value is None:
        return ""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return str(value)
    return cut_text(value) if isinstance(value, str) else value


Text: TypeAlias = Annotated[str, BeforeValidator(_as_text)]
Picture: TypeAlias = Annotated[str, Field(max_length=BITMAP_CHARS_MAX)]


class _Layout(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


class TextWall(_Layout):
    layout_type: Literal["text_wall"] = "text_wall"
    text: Text = ""


class DoubleTextWall(_Layout):
    layout_type: Literal["double_text_wall"] = "double_text_wall"
    top_text: Text = ""
    bottom_text: Text = ""


class ReferenceCard(_Layout):
    layout_type: Literal["reference_card"] = "reference_card"
    title: Text = ""
    text: Text = ""


class DashboardCard(_Layout):
    layout_type: Literal["dashboard_card"] = "dashboard_card"
    left_text: Text = ""
    right_text: Text = ""


class BitmapView(_Layout):
    """`data` is base64 of a picture file; the SDK sends a 576x135 1-bit BMP."""

    layout_type: Literal["bitmap_view"] = "bitmap_view"
    data: Picture


class BitmapAnimation(_Layout):
    """Pictures shown in turn; `interval` in milliseconds."""

    layout_type: Literal["bitmap_animation"] = "bitmap_animation"
    frames: Annotated[list[Picture], Field(min_length=1, max_length=FRAMES_MAX)]
    interval: Annotated[float, Field(gt=0, le=3_600_000)] = 1000
    repeat: bool = False


class ClearView(_Layout):
    layout_type: Literal["clear_view"] = "clear_view"


Layout: TypeAlias = Annotated[
    TextWall | DoubleTextWall | ReferenceCard | DashboardCard | BitmapView | BitmapAnimation | ClearView,
    Field(discriminator="layout_type"),
]

_ADAPTER: TypeAdapter[Layout] = TypeAdapter(Layout)


def parse_layout(value: object) -> Layout:
    """The layout object of a `display_event`. Raises ProtocolError(MALFORMED_MESSAGE) naming the member."""
    try:
        return _ADAPTER.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(["layout", *(str(part) for part in first["loc"])])
        raise ProtocolError(ErrorCode.MALFORMED_MESSAGE, f"{path}: {first['msg']}", field=path) from None


def layout_to_wire(layout: Layout) -> dict[str, Any]:
    """The layout as the JSON object that phones and our edge read."""
    return layout.model_dump(by_alias=True)


def flatten(content: object) -> str:
    """Dashboard content as plain text; old SDKs send a layout object instead of a string (wire spec 6.8)."""
    if isinstance(content, str):
        return cut_text(content)
    layout = parse_layout(content)
    match layout:
        case TextWall():
            return layout.text
        case DoubleTextWall():
            return "\n".join(part for part in (layout.top_text, layout.bottom_text) if part)
        case DashboardCard():
            return f"{layout.left_text} | {layout.right_text}"
        case ReferenceCard():
            return f"{layout.title}\n{layout.text}"
        case _:
            return ""
