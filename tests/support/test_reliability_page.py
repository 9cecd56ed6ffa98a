"""docs/reliability.md names tests and numbers that exist."""

from __future__ import annotations

import re
from pathlib import Path

from wire.link import LinkLimits
from wire.liveness import CLOUD_APP, CLOUD_GLASSES, EDGE

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_every_named_test_exists() -> None:
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    file = ""
    for name, test in re.findall(r"`(?:tests/\w+/)?(test_\w+\.py)?::(test_\w+)`", PAGE):
        file = name or file
        assert f"def {test}(" in files[file], f"{file}::{test}"


def test_numbers_are_those_of_the_code() -> None:
    limits = LinkLimits()
    assert f"{limits.log_messages_max} messages, {limits.log_bytes_max >> 20} MiB" in PAGE
    assert f"at most {limits.window_messages} messages or {limits.window_bytes >> 10} KiB in flight" in PAGE
    assert f"{limits.latest_keys_max} keys, {limits.latest_bytes_max >> 20} MiB" in PAGE
    assert limits.ack_delay == 0.0, "the page says: at once"
    for policy in (EDGE, CLOUD_GLASSES, CLOUD_APP):
        assert f"| {policy.ask:g} s | {policy.dead:g} s" in PAGE
