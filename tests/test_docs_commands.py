"""Every command that README and docs show is run here, or stands below with the reason why not.

Rules: a command is a line that begins with `$ ` in a fenced block. The words of the page are run unchanged; only ports,
folders and the secret of the moment come from the environment. Python blocks are compiled, whole apps are made.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glassbridge.app import App
from glassbridge.cli import main
from tests.support.dev_process import START_MAX, STOP_MAX, DevProcess, dev_process

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

#: Pages whose commands are work on Glassbridge itself, and where that work is done. Their options are checked all the same.
WORKSHOPS = {
    "docs/ble-lanes.md": "needs a message bus and runs for ever; tests/ble starts each of these programs",
    "docs/performance.md": "measures for minutes, with tools of the system; `make bench`",
    "docs/reliability.md": "thousands of runs; tests/simulation plays some of the seeds",
}
#: Beginnings of commands that are not run here, and why.
NOT_RUN = {
    "make ": "a target of the Makefile; tests/glassbridge/test_dev.py plays what `make demo` plays",
    "npm ": "the reader's own app; tests/interop runs unmodified SDK apps",
    "python examples/": "runs for ever; tests/glassbridge/test_examples.py runs each of them",
    "pytest --glassbridge-url": "the plugin is used by tests/glassbridge/test_examples.py",
    ". .venv/bin/activate": "changes the reader's shell",
    "glassbridge app import app_config.json": "needs the reader's app; tests/glassbridge/test_dev.py imports one",
    "pip install": "changes this environment",
    "systemctl ": "needs root and systemd as init",
    "podman ": "needs a container engine",
    "glassbridge dev": "runs for ever; tests/glassbridge/test_dev.py",
    "glassbridge events -f": "runs for ever; `events` is run",
    "glassbridge record": "runs until interrupted; tests/glassbridge/test_recording.py, and below with `replay`",
    "glassbridge doctor": "examines this machine's Bluetooth; tests/edge/test_doctor.py",
    "glassbridge pair": "needs glasses in an open case; tests/edge/test_pairing.py pairs simulated ones",
    "glassbridge edge run": "needs glasses and a cloud elsewhere; tests/system runs it against simulated ones",
    "glassbridge edge status": "needs a running daemon; tests/glassbridge/test_edge_status.py",
    "glassbridge sim run": "needs Bluetooth adapters; tests/system/test_own_radio.py runs it on a foreign controller",
    "glassbridge service": "changes services of whoever tests; tests/glassbridge/test_systemd.py runs each of them",
    "glassbridge cloud run --workers": "needs a nats-server; tests/cluster/test_workers.py",
    "GLASSBRIDGE_STORE__URL=postgresql:": "needs a PostgreSQL; tests/cloud/test_store_move.py",
    "glassbridge cloud check": "needs a server with TLS on the internet; tests/cloud/test_check.py",
}

#: Commands of the wearer and the onlooker: run against `glassbridge dev`.
ON_DEV = ("say", "tap", "look", "battery", "wear", "press", "shot", "lag", "drop", "events", "replay")
#: Commands of the operator: run against a cloud that `cloud init` has made, in the order of the pages.
ON_CLOUD = ("cloud init", "cloud run", "config", "user", "token", "app")


def commands() -> list[tuple[str, str]]:
    """(page, command) of every page, in order, without its comment."""
    found = []
    for page in PAGES:
        for block in re.findall(
            r"^ *```(?:console|sh)\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL
        ):
            for line in re.findall(r"^ *\$ (.*)$", block, re.MULTILINE):
                for part in line.split(" ; "):
                    found.append((str(page.relative_to(ROOT)), re.sub(r"\s+#.*$", "", part).strip()))
    return found


ALL = commands()


def _reason(command: str, page: str = "") -> str | None:
    if page in WORKSHOPS:
        return WORKSHOPS[page]
    longest = max((start for start in NOT_RUN if command.startswith(start)), key=len, default=None)
    return NOT_RUN[longest] if longest else None


def _of(groups: tuple[str, ...]) -> list[str]:
    """The distinct commands of these groups that are run."""
    wanted = [
        c
        for page, c in ALL
        if page not in WORKSHOPS and any(re.match(rf"glassbridge {group}\b", c) for group in groups)
    ]
    return [c for c in dict.fromkeys(wanted) if _reason(c) is None]


def test_every_command_is_run_or_has_a_reason() -> None:
    assert len(ALL) > 40
    run = {*_of(ON_DEV), *_of(ON_CLOUD)} | {"chmod 600 token", "export GLASSBRIDGE_ADMIN_TOKEN=..."}
    left = [
        (page, c)
        for page, c in ALL
        if c not in run and _reason(c, page) is None and not c.startswith("sqlite3 ")
    ]
    assert left == [], "run these, or give a reason in NOT_RUN"
    unused = [start for start in NOT_RUN if not any(c.startswith(start) for _, c in ALL)]
    assert unused == [], "no page shows these any more"


def test_every_command_and_option_of_the_pages_exists(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of those that are not run: each path is a command, each option is in its help."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    helps: dict[tuple[str, ...], str] = {}

    def help_of(path: tuple[str, ...]) -> str:
        if path not in helps:
            code = main([*path, "--help"])
            helps[path] = capsys.readouterr().out if code == 0 else ""
            capsys.readouterr()
        return helps[path]

    for page, command in ALL:
        if not command.startswith("glassbridge "):
            continue
        words = shlex.split(command.partition(" > ")[0])[1:]
        path: tuple[str, ...] = ()
        for word in words:
            if (
                word.startswith("-")
                or (path and "Commands" not in help_of(path))
                or not help_of((*path, word))
            ):
                break
            path = (*path, word)
        assert path, f"{page}: {command}"
        for option in (word for word in words[len(path) :] if word.startswith("-")):
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", help_of(path)), (
                f"{page}: {command}: {option}"
            )


# -- the wearer's and the onlooker's ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevProcess]:
    # With the clock, which listens and shows; without an app that somebody else runs on this machine meanwhile.
    with dev_process(tmp_path_factory.mktemp("dev"), "--no-discover") as running:
        yield running


def test_commands_for_simulated_glasses_do_what_the_pages_say(
    dev: DevProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLASSBRIDGE_URL", dev.url)
    monkeypatch.chdir(tmp_path)
    _wait(
        lambda: any("battery" in arm["lens"]["text"] for arm in dev.device()["arms"].values()),
        "the clock's face",
    )
    _wait(lambda: main(["say", "anybody there"]) == 0, "an app that listens")
    recorder = subprocess.Popen(
        [sys.executable, "-m", "glassbridge", "record", "demo.jsonl"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert recorder.stderr is not None
        assert "recording" in recorder.stderr.readline()
    finally:
        recorder.send_signal(signal.SIGINT)
        recorder.communicate(timeout=30)
    commands = _of(ON_DEV)
    assert len(commands) >= 10
    for command in commands:
        # An arm that a page has dropped takes a moment to be back.
        _wait(lambda words=shlex.split(command)[1:]: main(words) == 0, command)
    capsys.readouterr()
    assert (tmp_path / "lens.png").read_bytes().startswith(b"\x89PNG")


# -- the operator's -----------------------------------------------------------------------------------------


def test_commands_for_a_server_do_what_the_pages_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLASSBRIDGE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("GLASSBRIDGE_PORT", "0")
    commands = _of(ON_CLOUD)
    assert commands[:1] == ["glassbridge cloud init"]
    process: subprocess.Popen[str] | None = None
    try:
        for command in commands:
            line, _, file = command.partition(" > ")
            words = shlex.split(line)[1:]
            if words == ["cloud", "run"]:
                process, url = _serve(words)
                monkeypatch.setenv("GLASSBRIDGE_URL", url)
                continue
            code = main(words)
            said = capsys.readouterr()
            assert code == 0, f"{command}: {said.err}"
            if words == ["cloud", "init"]:  # export GLASSBRIDGE_ADMIN_TOKEN=...
                monkeypatch.setenv("GLASSBRIDGE_ADMIN_TOKEN", said.out.strip())
            if file:
                (tmp_path / file).write_text(said.out)
        (tmp_path / "token").chmod(0o600)  # chmod 600 token
        assert (tmp_path / "token").read_text().count(".") == 2, "a JWT, and nothing else"
        assert main(["user", "list"]) == 0
        assert "anna@home.example" in capsys.readouterr().out
    finally:
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=STOP_MAX)
            assert process.returncode == 0


def test_the_backup_command_copies_the_database(tmp_path: Path) -> None:
    """With the module instead of the program, which says the same: SQLite's own backup of a database in use."""
    import sqlite3

    (command,) = {c for _, c in ALL if c.startswith("sqlite3 ")}
    assert shlex.split(command)[2] == ".backup backup.sqlite3"
    with sqlite3.connect(tmp_path / "live.sqlite3") as live:
        live.execute("CREATE TABLE kept (value)")
        live.execute("INSERT INTO kept VALUES (42)")
        live.commit()
        copy = sqlite3.connect(tmp_path / "backup.sqlite3")
        live.backup(copy)
    assert copy.execute("SELECT value FROM kept").fetchall() == [(42,)]
    copy.close()
    live.close()


# -- code ---------------------------------------------------------------------------------------------------


def _python_blocks() -> list[tuple[str, str]]:
    return [
        (f"{page.relative_to(ROOT)} #{number}", block)
        for page in PAGES
        if page.name != "reliability.md"  # shows the shape of a loop, with `...` for its cases
        for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S), 1)
    ]


@pytest.mark.parametrize(("where", "block"), _python_blocks(), ids=[where for where, _ in _python_blocks()])
def test_python_of_the_pages_is_python_and_names_what_exists(
    where: str, block: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(App, "run", lambda self: None)
    code = compile(block, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    exec(code, {})


def test_calls_that_the_pages_show_exist_on_a_session() -> None:
    """`session.part.call(` in any Python block is a method of that part."""
    from glassbridge.app.session import Session
    from glassbridge.testing import Glasses, Lens

    made = Session(
        package_name="p",
        api_key="k",
        session_id="s",
        user_id="u",
        url="ws://127.0.0.1/app-ws",
        http=None,  # type: ignore[arg-type]
    )
    for where, block in _python_blocks():
        for part, call in re.findall(r"session\.(\w+)\.(\w+)\(", block):
            assert hasattr(getattr(made, part), call), f"{where}: session.{part}.{call}"
        for owner, kind in (("glasses", Glasses), ("lens", Lens)):
            for call in re.findall(rf"(?<!\w){owner}\.(\w+)\(", block):
                assert hasattr(kind, call), f"{where}: {owner}.{call}"


# -- helpers ------------------------------------------------------------------------------------------------


def _serve(words: list[str]) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "glassbridge", *words, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=dict(os.environ),
    )  # fmt: skip
    alarm = threading.Timer(START_MAX, process.kill)
    alarm.start()
    assert process.stdout is not None
    line = process.stdout.readline()
    alarm.cancel()
    ready: dict[str, Any] = json.loads(line)
    assert ready["event"] == "ready"
    return process, str(ready["url"])


def _wait(probe: Any, what: str, within: float = 60.0) -> None:
    end = time.monotonic() + within
    while not probe():
        assert time.monotonic() < end, f"not within {within:g} s: {what}"
        time.sleep(0.1)
