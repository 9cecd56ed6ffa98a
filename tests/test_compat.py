"""docs/compat.md says of every message and route whether it is supported, and the code agrees."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.http.app import route_table
from wire.messages import ALL, Direction, Registry

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "compat.md").read_text()
#: A message or route of ours is described by one of the first four words, one that we do not have by the last two.
HAVE = {"supported", "noted", "refused", "extension"}
LACK = {"not sent", "not served"}


def rows(title: str) -> Iterator[tuple[list[str], str, str]]:
    """Names, status and note of each row of one section."""
    section = PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `"):
            yield re.findall(r"`([^`]+)`", cells[0]), cells[1], cells[2]


def registry_of(direction: Direction) -> Registry:
    return next(r for r in ALL if next(iter(r.values())).direction is direction)


@pytest.mark.parametrize("direction", Direction, ids=lambda d: d.value)
def test_every_message_is_described_and_every_supported_one_exists(direction: Direction) -> None:
    described = {name: status for names, status, _ in rows(direction.value) for name in names}
    assert set(described.values()) <= HAVE | LACK
    registry = registry_of(direction)
    missing = {name for name in registry if described.get(name) not in HAVE}
    assert not missing, f"in wire/messages/ but not described as ours: {missing}"
    # telemetry_response is refused without a model: nobody asks for it.
    invented = {n for n, s in described.items() if s in HAVE and n not in registry} - {"telemetry_response"}
    assert not invented, f"described as ours but not in wire/messages/: {invented}"


def test_every_route_is_described_and_every_supported_one_is_served() -> None:
    described = {name: status for names, status, _ in rows("HTTP") for name in names}
    assert set(described.values()) <= HAVE | LACK
    served = {f"{s.method} {s.path}" for s in route_table() if not s.path.startswith("/api/admin/")}
    assert served == {name for name, status in described.items() if status in HAVE}


def test_nothing_is_described_twice() -> None:
    for title in (*(d.value for d in Direction), "HTTP"):
        counts = Counter(name for names, _, _ in rows(title) for name in names)
        assert [name for name, count in counts.items() if count > 1] == []


def test_what_is_not_plainly_supported_says_why() -> None:
    for title in (*(d.value for d in Direction), "HTTP"):
        for names, status, note in rows(title):
            assert status in ("supported", "extension") or note, names
