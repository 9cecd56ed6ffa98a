"""Text for small lenses: what a font can draw, how wide it is, where lines and pages break.

Rules: pure. Widths come from a table per device; nothing here knows a protocol. A line never ends inside a character
and its combining marks. What a lens cannot draw is transliterated, or shown as a mark and reported, never dropped
without a word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

#: Stands for a character that the lens cannot draw. In the G1 table, unlike U+FFFD, and unlike "?" never a real text.
MISSING = "◊"

_CYRILLIC = dict(
    zip(
        "абвгдеёжзийклмнопрстуфхцчшщъыьэюяіїєґ",
        [
            "a",
            "b",
            "v",
            "g",
            "d",
            "e",
            "yo",
            "zh",
            "z",
            "i",
            "y",
            "k",
            "l",
            "m",
            "n",
            "o",
            "p",
            "r",
            "s",
            "t",
            "u",
            "f",
            "kh",
            "ts",
            "ch",
            "sh",
            "shch",
            "'",
            "y",
            "'",
            "e",
            "yu",
            "ya",
            "i",
            "yi",
            "ye",
            "g",
        ],
        strict=True,
    )
)
_GREEK = dict(
    zip(
        "αβγδεζηθικλμνξοπρσςτυφχψω",
        [
            "a",
            "v",
            "g",
            "d",
            "e",
            "z",
            "i",
            "th",
            "i",
            "k",
            "l",
            "m",
            "n",
            "x",
            "o",
            "p",
            "r",
            "s",
            "s",
            "t",
            "y",
            "f",
            "ch",
            "ps",
            "o",
        ],
        strict=True,
    )
)
_SIGNS = {
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\t": "    ",
    "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2015": "—", "\u2043": "-",
    "\u201b": "'", "\u2032": "'", "\u2033": '"', "\u201f": '"',
    "\u2500": "-", "\u2502": "|", "\u25cf": "•", "\u25cb": "o", "\u25aa": "•", "\u2713": "v", "\u2714": "v",
    "\u2717": "x", "\u2718": "x", "\u21d2": "→", "\u21d0": "←", "\u2212": "−", "\u20b9": "Rs", "\u20bd": "RUB",
    "\u0142": "l", "\u0141": "L", "\u0111": "d", "\u0110": "D", "\u0131": "i", "\u0153": "oe", "\u0152": "OE",
    "ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "ŧ": "t", "ħ": "h", "ŋ": "ng",
}  # fmt: skip
#: Shape and direction controls that draw nothing themselves.
_INVISIBLE = {
    "\u200b",
    "\u200c",
    "\u200d",
    "\u200e",
    "\u200f",
    "\u2060",
    "\ufeff",
    "\ufe0e",
    "\ufe0f",
    "\u00ad",
}
_RIGHT_TO_LEFT = ("R", "AL")


@dataclass(frozen=True, slots=True)
class Font:
    """What one device draws. Widths in pixels, including the space to the next glyph."""

    widths: Mapping[str, int]
    wide: int  # East Asian wide characters, which the firmware draws without an entry in the table
    other: int  # letters of other scripts: assumed, so that lines break somewhere near the right place
    max_lines: int
    width: int  # of the text area
    missing: str = MISSING  # stands for what the font cannot draw; itself drawn by it

    def glyph(self, character: str) -> int:
        """Pixels that one character takes; combining marks and invisible controls take none."""
        known = self.widths.get(character)
        if known is not None:
            return known
        if unicodedata.combining(character) or character in _INVISIBLE:
            return 0
        return self.wide if is_wide(character) else self.other

    def measure(self, text: str) -> int:
        """Pixels that a line takes."""
        return sum(self.glyph(character) for character in text)

    def draws(self, character: str) -> bool:
        return character in self.widths or is_wide(character)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Text in characters that the font draws, and those that had to be replaced by a mark."""

    text: str
    missing: frozenset[str]


def is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in ("W", "F") and unicodedata.category(character) != "So"


def prepare(text: str, font: Font) -> Prepared:
    """`text` composed, free of control characters, and transliterated where the font has no glyph."""
    out: list[str] = []
    missing: set[str] = set()
    for character in unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")):
        if character == "\n" or font.draws(character):
            out.append(character)
        elif character in _INVISIBLE:
            continue
        elif character in _SIGNS:
            out.append(_SIGNS[character])
        elif unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn"):
            continue
        elif unicodedata.combining(character):
            # A mark that composes with nothing we draw: the letter alone is still readable.
            if out and unicodedata.bidirectional(out[-1][-1:] or " ") in _RIGHT_TO_LEFT:
                out.append(character)
        else:
            out.append(_transliterate(character, font, missing))
    return Prepared("".join(out), frozenset(missing))


def lacking(parts: Iterable[str], font: Font) -> Sequence[str]:
    """A sentence about the glyphs that the lens lacks for these texts; none if it draws them all."""
    missing = {character for part in parts for character in prepare(part, font).missing}
    if not missing:
        return ()
    names = ", ".join(f"U+{ord(c):04X}" for c in sorted(missing)[:8])
    return (f"the lens has no glyph for {names}{' and more' if len(missing) > 8 else ''}",)


def _transliterate(character: str, font: Font, missing: set[str]) -> str:
    lower = character.lower()
    spelled = _CYRILLIC.get(lower) or _GREEK.get(lower)
    if spelled is None:
        plain = unicodedata.normalize("NFKD", character)
        base = "".join(c for c in plain if not unicodedata.combining(c))
        spelled_base = _GREEK.get(base.lower()) or _CYRILLIC.get(base.lower())
        if spelled_base is not None:
            spelled, lower = spelled_base, base.lower()
            character = base
        elif base and base != character and all(font.draws(c) for c in base):
            return base
    if spelled is not None:
        return spelled if character == lower else spelled[:1].upper() + spelled[1:]
    missing.add(character)
    # A letter of another script may be in the firmware although no table lists it: let the device try.
    return character if unicodedata.category(character).startswith("L") else font.missing


def clusters(text: str) -> list[str]:
    """`text` in units that must stay together: a character with the marks that follow it."""
    out: list[str] = []
    for character in text:
        if out and (unicodedata.combining(character) or character in _INVISIBLE):
            out[-1] += character
        else:
            out.append(character)
    return out


def wrap(text: str, font: Font, width: int | None = None) -> list[str]:
    """`text` in lines of at most `width` pixels (default: the whole area). Breaks at the last space that fits, between
    wide characters anywhere, and inside a word only when the word alone is too long. Keeps empty lines."""
    limit = font.width if width is None else width
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines.extend(_wrap_paragraph(paragraph.rstrip(" "), font, limit))
    return lines


def _wrap_paragraph(paragraph: str, font: Font, limit: int) -> list[str]:
    lines: list[str] = []
    units = clusters(paragraph)
    start = 0
    while start < len(units):
        used, end, space = 0, start, -1
        while end < len(units):
            used += font.measure(units[end])
            # A space at the border costs nothing: it is where the line ends.
            if used > limit and units[end] != " ":
                break
            if units[end] == " " or (end > start and is_wide(units[end][0]) and is_wide(units[end - 1][0])):
                space = end
            end += 1
        if end == len(units):
            lines.append("".join(units[start:]))
            break
        # A single glyph wider than the area still has to go somewhere: one per line, never an endless loop.
        cut = space if space > start else max(end, start + 1)
        lines.append("".join(units[start:cut]).rstrip(" "))
        start = cut
        while start < len(units) and units[start] == " ":
            start += 1
    return lines or [""]


def columns(left: str, right: str, font: Font, left_width: int, right_at: int) -> list[str]:
    """Two columns as lines: the right one begins at pixel `right_at`, reached with spaces."""
    left_lines = wrap(left, font, left_width) if left else []
    right_lines = wrap(right, font, font.width - right_at) if right else []
    rows = max(len(left_lines), len(right_lines))
    space = font.measure(" ")
    lines: list[str] = []
    for row in range(rows):
        a = left_lines[row] if row < len(left_lines) else ""
        b = right_lines[row] if row < len(right_lines) else ""
        lines.append(a + " " * max(1, (right_at - font.measure(a)) // space) + b if b else a)
    return lines


def paginate(lines: Sequence[str], max_lines: int) -> list[list[str]]:
    """`lines` in pages of at most `max_lines`; blank lines at the end make no page."""
    kept = list(lines)
    while kept and not kept[-1].strip():
        kept.pop()
    return [kept[i : i + max_lines] for i in range(0, len(kept), max_lines)] or [[]]


def visual_order(line: str) -> str:
    """`line` in the order in which a left-to-right drawing device has to be given it.

    Whole runs of right-to-left letters are turned round, numbers inside them are not, brackets are mirrored. This is
    the part of the Unicode bidirectional algorithm that one line without embedding controls needs.
    """
    if not any(unicodedata.bidirectional(c) in _RIGHT_TO_LEFT for c in line):
        return line
    units = clusters(line)
    kinds = [unicodedata.bidirectional(unit[0]) for unit in units]
    strong = [
        "R"
        if k in _RIGHT_TO_LEFT
        else "L"
        if k == "L"
        else "N"
        if k in ("EN", "AN", "ET", "ES", "CS")
        else ""
        for k in kinds
    ]
    base = next((s for s in strong if s in ("L", "R")), "L")
    levels = _levels(strong, base)
    # Rule L2: from the highest level to the lowest odd one, reverse every run at that level or above.
    for level in range(max(levels), 0, -1):
        i = 0
        while i < len(units):
            if levels[i] >= level:
                j = i
                while j < len(units) and levels[j] >= level:
                    j += 1
                units[i:j] = reversed(units[i:j])
                levels[i:j] = reversed(levels[i:j])
                i = j
            else:
                i += 1
    return "".join(_mirror(unit) if levels[k] % 2 else unit for k, unit in enumerate(units))


def _levels(strong: list[str], base: str) -> list[int]:
    resolved = list(strong)
    i = 0
    while i < len(resolved):
        if resolved[i]:
            i += 1
            continue
        j = i
        while j < len(resolved) and not resolved[j]:
            j += 1
        # Neutrals take the direction of their neighbours if those agree (a number counts as right-to-left here).
        before = next((("R" if s == "N" and base == "R" else s) for s in reversed(resolved[:i]) if s), base)
        after = next((("R" if s == "N" and base == "R" else s) for s in resolved[j:] if s), base)
        resolved[i:j] = [before if before == after and before in ("L", "R") else base] * (j - i)
        i = j
    low = 0 if base == "L" else 1
    levels: list[int] = []
    last = base
    for kind in resolved:
        if kind in ("L", "R"):
            last = kind
        if kind == "N":
            levels.append(2 if last == "R" or base == "R" else 0)
        elif kind == "L":
            levels.append(low if base == "L" else 2)
        else:
            levels.append(1)
    return levels


_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")


def _mirror(unit: str) -> str:
    return unit.translate(_MIRRORED)
