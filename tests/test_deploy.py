"""What is handed to operators as files: systemd takes the unit, and the container file names what is in the sources."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.support.tools import missing

ROOT = Path(__file__).resolve().parents[1]
UNIT = ROOT / "deploy" / "systemd" / "glassbridge-cloud.service"
CONTAINERFILE = (ROOT / "deploy" / "Containerfile").read_text()


def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze", "apt-get install systemd")
    program = tmp_path / "glassbridge"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/glassbridge", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []
    assert done.returncode == 0, done.stderr


def test_the_unit_keeps_little_open_and_gives_the_drain_its_time() -> None:
    text = UNIT.read_text()
    for line in (
        "DynamicUser=yes",
        "ProtectSystem=strict",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=\n",
    ):
        assert line in text
    assert int(re.findall(r"TimeoutStopSec=(\d+)", text)[0]) > 10  # product page: exit within 10 s of SIGTERM


def test_the_container_copies_what_exists_and_every_package() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINERFILE, re.MULTILINE)
    sources = {name for line in copied for name in line.split()}
    assert [name for name in sources if not (ROOT / name).exists()] == []
    packages = re.search(r"include = \[(.*)\]", (ROOT / "pyproject.toml").read_text())
    assert packages is not None
    assert {name.strip(' "*') for name in packages[1].split(",")} <= sources
    assert re.search(r"^USER (?!root)", CONTAINERFILE, re.MULTILINE)
