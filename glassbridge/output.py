"""What the command line says, and how it fails.

Rules: with `--json`, stdout carries one JSON document (or one line per event) and nothing else; talk goes to stderr.
An error says what, why, and the command that fixes it. Exit codes are those of the product page.
"""

from __future__ import annotations

import re
import sys
from enum import IntEnum
from typing import Any

import orjson


class Exit(IntEnum):
    """Exit codes."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 69  # no adapter, no cloud, no simulator
    PERMISSION = 77
    CONFIG = 78
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot do what it was asked. Shown in three parts."""

    def __init__(self, what: str, why: str, fix: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why
        self.fix = fix
        self.code = code


def talk(text: str) -> None:
    """To the person: stderr, so that a pipe gets data only."""
    print(text, file=sys.stderr, flush=True)


def show(text: str) -> None:
    """The result, for people."""
    print(text, flush=True)


def emit(document: Any) -> None:
    """The result, for programs: one line of JSON."""
    sys.stdout.write(orjson.dumps(document).decode() + "\n")
    sys.stdout.flush()


def complain(what: str, why: str, fix: str, *, as_json: bool = False) -> None:
    """An error in its three parts."""
    if as_json:
        emit({"error": {"what": what, "why": why, "fix": fix}})
    talk(f"error: {what}\n  why: {why}\n  fix: {fix}")


_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|m|h)?$")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def duration(text: str) -> float:
    """`5s`, `200ms`, `2m`, or plain seconds; as seconds. Raises ValueError."""
    found = _DURATION.match(text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is not a time: write 5s, 200ms or 2m")
    return float(found[1]) * _UNITS[found[2]]
