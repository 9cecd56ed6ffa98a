"""Which Glassbridge a command talks to."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

import orjson
import pytest

from glassbridge import target
from glassbridge.target import Target, announced, running_dev


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "glassbridge-dev.json"


def test_a_running_dev_is_found_and_forgotten_when_it_ends(runtime: Path) -> None:
    mine = Target("http://127.0.0.1:1", "token", "user", os.getpid())
    with announced(mine):
        assert runtime.stat().st_mode & 0o777 == 0o600
        assert running_dev() == mine
    assert not runtime.exists()
    assert running_dev() is None


def test_the_file_of_a_dead_process_counts_for_nothing(runtime: Path) -> None:
    with announced(Target("http://127.0.0.1:1", "token", "user", 2**22 + 1)):
        assert running_dev() is None


def test_a_second_dev_that_took_over_keeps_its_file(runtime: Path) -> None:
    with announced(Target("http://127.0.0.1:1", "first", "user", os.getpid())):
        runtime.write_bytes(orjson.dumps(asdict(Target("http://127.0.0.1:2", "second", "user", 1))))
    assert b"second" in runtime.read_bytes()


def test_without_a_runtime_folder_it_lies_in_a_private_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert target._runtime_file().parent.name == f"glassbridge-{os.getuid()}"


def test_on_windows_commands_look_at_the_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no user ids, and `os.kill(pid, 0)` would end the process."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(os, "getuid")
    monkeypatch.delattr(os, "kill")
    for name in ("XDG_RUNTIME_DIR", "GLASSBRIDGE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert target._runtime_file().name == "glassbridge-dev.json"
    assert target.find(None).url == target.DEFAULT_URL
