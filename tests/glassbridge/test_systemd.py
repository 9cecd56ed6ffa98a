"""The unit that is written is one that systemd accepts, and starts this installation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from glassbridge.cli import main
from glassbridge.systemd import Role, make


@pytest.mark.parametrize("role", ["edge", "cloud"])
@pytest.mark.parametrize("for_user", [True, False])
def test_the_unit_restarts_its_program_and_ends_it_in_time(role: Role, for_user: bool) -> None:
    unit = make(role, ["--cloud", "wss://a b/"], for_user=for_user, data_dir=Path("/var/lib/100% mine"))
    assert f' {role} run --cloud "wss://a b/"' in unit.text
    assert 'Environment="GLASSBRIDGE_DATA_DIR=/var/lib/100%% mine"' in unit.text
    assert "Restart=always" in unit.text
    assert ("DynamicUser=yes" in unit.text) is not for_user
    assert ("--user" in unit.start) is for_user


def test_a_service_of_the_machine_keeps_its_state_where_it_may_write() -> None:
    text = make("edge", [], for_user=False).text
    assert "Environment=GLASSBRIDGE_DATA_DIR=/var/lib/glassbridge\n" in text
    assert "StateDirectory=glassbridge\n" in text
    assert "DATA_DIR" not in make("edge", [], for_user=True).text


@pytest.mark.failure("SEC-03")
def test_a_service_of_the_machine_gets_its_token_from_systemd_and_a_users_reads_the_file(
    tmp_path: Path,
) -> None:
    token = tmp_path / "my token"
    machine = make("edge", [], for_user=False, token_file=token)
    assert f'LoadCredential=token:"{token}"' in machine.text
    assert "run --token-file %d/token\n" in machine.text
    mine = make("edge", [], for_user=True, token_file=token)
    assert f'run --token-file "{token}"\n' in mine.text
    assert "enable-linger" in mine.start, "else it ends when its user logs out"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("role", ["edge", "cloud"])
def test_systemd_accepts_the_unit(role: Role, tmp_path: Path) -> None:
    unit = make(role, [], for_user=False, token_file=tmp_path / "token" if role == "edge" else None)
    path = tmp_path / unit.name
    path.write_text(unit.text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []


def test_install_shows_the_unit_then_writes_it(
    systemd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "install", "edge", "--cloud", "wss://glass.home.example", "--dry-run"]) == 0
    assert not (tmp_path / "systemd").exists()
    shown = capsys.readouterr().out
    assert main(["service", "install", "edge", "--cloud", "wss://glass.home.example"]) == 0
    out = capsys.readouterr().out
    assert "systemctl --user enable --now glassbridge-edge.service" in out
    written = (tmp_path / "systemd" / "user" / "glassbridge-edge.service").read_text()
    assert shown.strip() == written.strip()
    assert written in out


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs of systemd that write down how they were called; no service of this machine is touched."""
    programs, calls = tmp_path / "bin", tmp_path / "calls"
    programs.mkdir()
    for name in ("systemctl", "journalctl"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return calls


def test_uninstall_stops_it_and_removes_what_install_wrote(
    systemd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "install", "edge"]) == 0
    unit = tmp_path / "systemd" / "user" / "glassbridge-edge.service"
    assert unit.exists()
    assert main(["service", "uninstall", "edge"]) == 0
    assert not unit.exists()
    assert systemd.read_text().splitlines() == [
        "systemctl --user disable --now glassbridge-edge.service",
        "systemctl --user daemon-reload",
    ]
    capsys.readouterr()
    assert main(["service", "uninstall", "edge"]) == 1
    said = capsys.readouterr().err
    assert "not installed" in said
    assert "glassbridge service install edge" in said


def test_the_log_is_that_of_the_unit(systemd: Path) -> None:
    assert main(["service", "logs", "-n", "5", "--follow"]) == 0
    assert main(["service", "logs", "cloud", "--system"]) == 0
    assert systemd.read_text().splitlines() == [
        "journalctl --user-unit=glassbridge-edge.service --lines=5 --output=cat --follow",
        "journalctl --unit=glassbridge-cloud.service --lines=100 --output=cat",
    ]


def test_without_systemd_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main(["service", "install", "edge"]) == 69
    assert main(["service", "logs"]) == 69
    assert "glassbridge edge run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_token_that_is_not_there_is_told_before_anything_is_written(
    systemd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "install", "edge", "--token-file", str(tmp_path / "absent")]) == 78
    assert "glassbridge token new" in capsys.readouterr().err
    assert not (tmp_path / "systemd").exists()
