"""Bars of one benchmark run as SVG, written by hand: no plotting library is needed.

Rules: readable in both light and dark pages (mid grey text), one row per scenario and server, ratios to the reference.
"""

from __future__ import annotations

from html import escape
from typing import Any, Final

_COLOURS: Final = {
    "product": "#1f9d55",
    "node": "#8a8f98",
    "node-bare": "#b4b8bf",
    "c": "#c05621",
    "websockets": "#3b6fb6",
    "picows": "#7b57b2",
}
_ROW: Final = 16
_LEFT: Final = 190
_WIDTH: Final = 860


def bars(found: dict[str, Any]) -> str:
    """The chart of `results.json`'s content."""
    scenarios = found["scenarios"]
    widest = max((r["ratio"] or 0.0 for s in scenarios.values() for r in s["results"]), default=1.0) or 1.0
    scale = (_WIDTH - _LEFT - 70) / widest
    lines: list[str] = []
    y = 34
    for name, scenario in scenarios.items():
        lines.append(_text(10, y + 12, f"{name}: {scenario['about']}", bold=True))
        y += 20
        for r in scenario["results"]:
            ratio = r["ratio"] or 0.0
            width = max(1.0, ratio * scale)
            lines.append(_text(24, y + 11, r["server"]))
            lines.append(
                f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_ROW - 4}" '
                f'fill="{_COLOURS.get(r["server"], "#888")}"/>'
            )
            lines.append(_text(_LEFT + width + 6, y + 11, f"{ratio:.2f}"))
            y += _ROW
        y += 8
    one = _LEFT + scale
    machine = found["machine"]
    title = f"deliveries per CPU-second of the server, node ws = 1 ({machine['date']}, {machine['cpu']})"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 6}" '
        f'font-family="sans-serif" font-size="11">\n'
        + _text(10, 18, title)
        + f'\n<line x1="{one:.1f}" y1="30" x2="{one:.1f}" y2="{y}" stroke="#8a8f98" stroke-dasharray="3 3"/>\n'
        + "\n".join(lines)
        + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}" fill="#6b7280"{weight}>{escape(text)}</text>'
