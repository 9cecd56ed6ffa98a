"""Tools that a test needs beside Python: missing ones skip and are named, or fail where everything is required."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

#: Where a tool may be besides PATH, and the Debian package or command that brings it.
_TOOLS: dict[str, tuple[tuple[str, ...], str]] = {
    "node": (("node",), "Node 20"),
    "npm": (("npm",), "Node 20"),
    "chromium": (("chromium", "chromium-browser", "google-chrome"), "apt-get install chromium"),
    "dbus-daemon": (("dbus-daemon",), "apt-get install dbus"),
    "tshark": (("tshark",), "apt-get install tshark"),
    "nats-server": (("nats-server",), "nats-server"),
    "postgres": (("postgres",), "apt-get install postgresql"),
    "gcc": (("gcc",), "apt-get install gcc"),
    "valgrind": (("valgrind",), "apt-get install valgrind"),
}


def all_required() -> bool:
    """Whether a skip counts as a failure (GLASSBRIDGE_REQUIRE_ALL=1, as in continuous integration)."""
    return os.environ.get("GLASSBRIDGE_REQUIRE_ALL") == "1"


def missing(what: str, cure: str) -> None:
    """Skip the running test for want of `what`, or fail it where everything is required."""
    text = f"needs {what} ({cure})"
    if all_required():
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


def require_tool(name: str) -> str:
    """Path of a program, else skip or fail."""
    names, cure = _TOOLS[name]
    for candidate in names:
        found = shutil.which(candidate)
        if found:
            return found
    missing(name, cure)
    raise AssertionError("unreachable")


def require_path(path: Path, what: str, cure: str) -> Path:
    """A file or folder that a set-up step makes, else skip or fail."""
    if not path.exists():
        missing(what, cure)
    return path
