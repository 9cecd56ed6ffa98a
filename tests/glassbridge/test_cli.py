"""The command line from outside: exit codes, three-part errors, JSON, and real inputs to a real simulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from glassbridge import target
from glassbridge.cli import main
from glassbridge.commands.trace import event_line
from glassbridge.target import Target
from tests.support.simulator import Simulator, simulator_process


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `dev` of this machine's user is seen."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for name in ("GLASSBRIDGE_URL", "GLASSBRIDGE_ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest_asyncio.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with simulator_process(tmp_path) as running:
        yield running


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("dev", "sim", "edge", "tap", "say", "shot"):
        assert f" {command} " in out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("glassbridge ")


@pytest.mark.parametrize(
    "words",
    [["tap", "--sideways"], ["battery", "101"], ["lag", "soon"], ["wear"], ["say"], ["nonsense"], ["shot"]],
)
def test_a_command_that_is_not_understood_exits_2_in_three_parts(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "\n  why: " in err
    assert "--help" in err


@pytest.mark.parametrize("words", [["tap"], ["shot", "--ascii"], ["say", "hello"]])
def test_nobody_there_exits_69_and_says_what_to_start(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--url", "http://127.0.0.1:1"]) == 69
    assert "fix: glassbridge dev" in capsys.readouterr().err


def test_no_edge_daemon_exits_69(tmp_path: Path) -> None:
    assert main(["edge", "status", "--data-dir", str(tmp_path)]) == 69


async def test_inputs_reach_the_firmware(simulator: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--url", simulator.url]
    assert main(["battery", "12", *at]) == 0
    assert capsys.readouterr().out == "battery 12 %\n"
    assert main(["wear", "off", *at, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] > 0
    assert main(["look", "up", *at]) == 0
    reply = target.request(Target(simulator.url, None, None), "GET", "/api/sim/state")
    state: dict[str, Any] = reply.json()["devices"][0]["state"]
    assert (set(state["battery"].values()), state["worn"], state["head_up"]) == ({12}, False, True)


async def test_an_input_that_nothing_takes_exits_1_with_the_reason(
    simulator: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tap", "left", "--url", simulator.url]) == 1
    assert "not connected: nobody would hear the touch" in capsys.readouterr().err
    assert main(["say", "hello", "--url", simulator.url, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["why"] == "microphone is off: no app asked for it"


async def test_a_picture_of_the_lens(
    simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "out.png"
    assert main(["shot", "-o", str(picture), "--url", simulator.url]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["shot", "-o", str(tmp_path), "--url", simulator.url]) == 1
    assert "choose another place" in capsys.readouterr().err


def test_what_dev_left_is_used_only_while_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    with target.announced(Target("http://127.0.0.1:5", "secret", "dev@x", os.getpid())):
        assert target.find(None).admin_token == "secret"
        assert target.find("http://127.0.0.1:5/").admin_token == "secret"
        assert target.find("http://127.0.0.1:6").admin_token is None
        assert target._runtime_file().stat().st_mode & 0o777 == 0o600
    assert target.find(None).url == target.DEFAULT_URL
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with target.announced(Target("http://127.0.0.1:5", "secret", "dev@x", ended.pid)):
        assert target.find(None).admin_token is None


def test_an_exchange_is_one_line_with_the_time_of_each_hop() -> None:
    hops = [
        {"who": "glasses", "what": "touch_event", "ms": None, "note": ""},
        {"who": "edge", "what": "by Bluetooth", "ms": None, "note": ""},
        {"who": "cloud", "what": "edge to cloud", "ms": 4.25, "note": ""},
        {"who": "lens", "what": "lit", "ms": 60.0, "note": ""},
    ]
    record = {
        "seq": 7, "at": 0.0, "user": "anna@example.com", "kind": "exchange", "about": "touch_event",
        "package": "org.example.clock", "sent_at": None, "hops": hops, "total_ms": 64.25,
    }  # fmt: skip
    line = event_line(record)
    assert (
        "touch_event answered by org.example.clock: glasses → edge ? → cloud 4.25 → lens 60 ms, 64 in all"
        in line
    )
    assert "anna" not in line
