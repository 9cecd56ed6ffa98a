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


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("role", ["edge", "cloud"])
def test_systemd_accepts_the_unit(role: Role, tmp_path: Path) -> None:
    unit = make(role, [], for_user=False)
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main(["service", "install", "edge", "--cloud", "wss://glass.home.example", "--dry-run"]) == 0
    assert not list(tmp_path.iterdir())
    shown = capsys.readouterr().out
    assert main(["service", "install", "edge", "--cloud", "wss://glass.home.example"]) == 0
    out = capsys.readouterr().out
    assert "systemctl --user enable --now glassbridge-edge.service" in out
    written = (tmp_path / "systemd" / "user" / "glassbridge-edge.service").read_text()
    assert shown.strip() == written.strip()
    assert written in out
