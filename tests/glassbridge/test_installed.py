"""From nothing to a lit lens: an installed wheel, and `make demo` in a checkout that is set up. Prints what it measured."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import httpx
import pytest

from tests.support.dev_process import START_MAX, STOP_MAX
from tests.support.tools import missing
from tests.support.waiting import SLOW

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("wire", "edge", "cloud", "firmware_sim", "glassbridge")
#: The product's promises. Seconds.
LIT_MAX, DEMO_MAX = 5.0, 60.0


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a fresh environment with the wheel; its dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, source], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    home = folder / "environment"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True, timeout=300)
    # A path, not a copy: what is editable there stays unseen, for only the files of this environment's own are read.
    (library,) = home.glob("lib/python*/site-packages")
    (library / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = subprocess.run(
        [python, "-c", "import glassbridge, cloud.http; print(glassbridge.__file__, cloud.http.__file__)"],
        check=True, capture_output=True, text=True, cwd=folder,
    ).stdout  # fmt: skip
    assert all(path.startswith(str(home)) for path in where.split()), where
    return home / "bin"


def test_an_installed_wheel_lights_the_lens_within_five_seconds(installed: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    process = subprocess.Popen(
        [installed / "glassbridge", "dev", "--port", "0", "--json", "--no-discover"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        while True:
            device = httpx.get(f"{url}/api/sim/state", trust_env=False, timeout=10).json()["devices"][0]
            if all(arm["lens"]["text"].strip() for arm in device["arms"].values()):
                break
            assert time.monotonic() - began < START_MAX
            time.sleep(0.02)
        lit = time.monotonic() - began
        print(f"installed wheel: both lenses lit after {lit:.1f} s")
        for path, kind in (("/", "text/html"), ("/lens.js", "text/javascript"), ("/console", "text/html")):
            reply = httpx.get(url + path, trust_env=False, timeout=10)
            assert reply.headers["content-type"].startswith(kind), f"{path} is not in the wheel"
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=STOP_MAX)
    assert "clock (built in) running" in said
    assert "looking on" not in said, "--no-discover leaves the ports of others alone"
    assert lit <= LIT_MAX * SLOW


def test_make_demo_plays_within_a_minute_in_a_checkout_that_is_set_up(tmp_path: Path) -> None:
    if Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("`make` would set up an environment of its own")
    if shutil.which("make") is None:
        missing("make", "apt-get install make")
    began = time.monotonic()
    done = subprocess.run(
        ["make", "--no-print-directory", "demo", "ONCE=1", "ARGS=--port 0"],
        capture_output=True, text=True, cwd=ROOT, timeout=200,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    took = time.monotonic() - began
    print(f"make demo ONCE=1: {took:.1f} s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert took <= DEMO_MAX * SLOW
