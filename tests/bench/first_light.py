"""From nothing to a lit lens: `python -m tests.bench.first_light [--runs 5] [--only wheel|clone] [--cache]`.

Rules: what is measured is the last commit, as a stranger gets it: a clean clone, a wheel built from it, an environment with
nothing in it but that wheel and what the lock pins. Lit means that both lenses show text, asked of the firmware. Packages
come from the network into an empty cache, unless `--cache` says to use the one that is there. Progress goes to stderr; the
last line is one JSON object, and the exit code says whether both targets were met.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

ROOT: Final = Path(__file__).resolve().parents[2]
#: The product's promises, in seconds: an installed `glassbridge dev`, and `make demo` in a fresh clone.
WHEEL_TARGET: Final = 5.0
CLONE_TARGET: Final = 60.0
#: Packages over a slow line take minutes; a run that hangs should not hang for ever. Seconds.
STEP_MAX: Final = 900.0
#: Seconds for a process that was asked to end; its children are given 10.
STOP_MAX: Final = 30.0
#: Between two looks at the lens, in seconds: small beside what is measured, and no load.
LOOK: Final = 0.02
#: Lines of a failed program that are shown.
TAIL: Final = 20


class BenchError(Exception):
    """A step did not work; the words are for whoever runs this."""


def tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def environment(folder: Path, cache: bool) -> dict[str, str]:
    """This process' environment without what would lead the measured ones back to this checkout."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GLASSBRIDGE_", "PYTHON"))
        and name not in ("VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")
    }
    own = str(Path(sys.prefix) / "bin")
    kept["PATH"] = os.pathsep.join(part for part in kept.get("PATH", "").split(os.pathsep) if part != own)
    kept["XDG_RUNTIME_DIR"] = str(folder)
    if not cache:
        kept["PIP_CACHE_DIR"] = str(folder / "pip-cache")
    return kept


def step(what: str, command: Sequence[str | Path], env: dict[str, str], cwd: Path) -> float:
    """Runs one program; seconds it took. Raises BenchError with its last lines."""
    tell(f"  {what} ...")
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, env=env, cwd=cwd, check=False, text=True, timeout=STEP_MAX,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BenchError(f"{what}: not done within {STEP_MAX:.0f} s") from None
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-TAIL:])
        raise BenchError(f"{what}: ended with code {done.returncode}\n{tail}")
    return time.monotonic() - began


@contextmanager
def running(command: Sequence[str | Path], env: dict[str, str], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A program in a process group of its own, which is interrupted as Ctrl-C does it."""
    process = subprocess.Popen(
        command, env=env, cwd=cwd, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    alarm = threading.Timer(STEP_MAX, process.kill)
    alarm.start()
    try:
        yield process
    finally:
        alarm.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.communicate(timeout=STOP_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def lit(command: Sequence[str | Path], env: dict[str, str], cwd: Path) -> dict[str, float]:
    """Starts `glassbridge dev --json` in some way: seconds until it said that it is ready, and until both lenses were lit."""
    began = time.monotonic()
    with running(command, env, cwd) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
        reader.start()
        url = None
        for line in process.stdout:
            if line.startswith("{"):
                url = json.loads(line)["url"]
                break
            tell(f"  {time.monotonic() - began:5.1f} s  {line.rstrip()}")  # `make` says what it does before
        if url is None:
            process.wait(STOP_MAX)
            reader.join(STOP_MAX)
            raise BenchError(
                f"no ready line; it ended with code {process.returncode}\n{''.join(errors[-TAIL:])}"
            )
        ready = time.monotonic() - began
        with httpx.Client(trust_env=False, timeout=10) as http:
            while True:
                state = http.get(f"{url}/api/sim/state").raise_for_status().json()
                if all(arm["lens"]["text"].strip() for arm in state["devices"][0]["arms"].values()):
                    break
                if time.monotonic() - began > STEP_MAX:
                    raise BenchError("the lens stayed dark")
                time.sleep(LOOK)
        return {"ready": round(ready, 2), "lit": round(time.monotonic() - began, 2)}


DEV: Final = ("--port", "0", "--json", "--no-discover")


def wheel(clone: Path, folder: Path, env: dict[str, str], runs: int) -> dict[str, Any]:
    """An installed wheel: what its making took, and each start. The first start is cold, as far as a page cache allows."""
    home = folder / "environment"
    made = step("a virtual environment", [sys.executable, "-m", "venv", home], env, folder)
    pip: list[str | Path] = [home / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = step("the wheel", [*pip, "wheel", "--no-deps", "--wheel-dir", folder, clone], env, folder)
    (file,) = folder.glob("glassbridge-*.whl")
    lock = clone / "requirements.lock"
    install = step("its packages", [*pip, "install", "--constraint", lock, f"{file}[sim]"], env, folder)
    starts = []
    for number in range(1, runs + 1):
        starts.append(lit([home / "bin" / "glassbridge", "dev", *DEV], env, folder))
        tell(f"  glassbridge dev, start {number} of {runs}: lit after {starts[-1]['lit']:.1f} s")
    times = [start["lit"] for start in starts]
    return {
        "venv": round(made, 1),
        "build": round(build, 1),
        "install": round(install, 1),
        "starts": starts,
        "lit_first": times[0],
        "lit_median": statistics.median(times),
        "lit_max": max(times),
        "target": WHEEL_TARGET,
    }


def checkout(clone: Path, took: float, env: dict[str, str]) -> dict[str, Any]:
    """`make demo` where nothing has been set up: environment, packages, start, lens."""
    tell("  make demo ...")
    times = lit(["make", "--no-print-directory", "demo", f"ARGS={' '.join(DEV)}"], env, clone)
    again = lit(["make", "--no-print-directory", "demo", f"ARGS={' '.join(DEV)}"], env, clone)
    tell(f"  make demo: lit after {times['lit']:.1f} s, the second time after {again['lit']:.1f} s")
    return {
        "clone": round(took, 1),
        "lit": times["lit"],
        "total": round(took + times["lit"], 1),
        "lit_again": again["lit"],
        "target": CLONE_TARGET,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints one JSON object. Returns 0 if both targets were met, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.first_light", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--runs", type=int, default=5, help="starts of the installed wheel")
    parser.add_argument("--only", choices=("wheel", "clone"), help="one of the two")
    parser.add_argument("--cache", action="store_true", help="use the packages that pip has in its cache")
    options = parser.parse_args(argv)
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    load = os.getloadavg()[0]
    result: dict[str, Any] = {
        "bench": "first_light",
        "cpus": os.cpu_count(),
        "load_before": round(load, 2),
        "python": sys.version.split()[0],
        "cache": options.cache,
    }
    try:
        with tempfile.TemporaryDirectory(prefix="glassbridge-first-light-") as name:
            folder = Path(name)
            env = environment(folder, options.cache)
            clone = folder / "clone"
            took = step("a clone", ["git", "clone", "--quiet", "--no-hardlinks", ROOT, clone], env, folder)
            commit = subprocess.run(
                ["git", "rev-parse", "--short", "HEAD"], cwd=clone, check=True, capture_output=True, text=True
            )
            result["commit"] = commit.stdout.strip()
            if options.only != "wheel":
                result["clone"] = checkout(clone, took, env)
            if options.only != "clone":
                result["wheel"] = wheel(clone, folder, env, options.runs)
    except BenchError as error:
        tell(f"failed: {error}")
        return 1
    met = [
        result[part][figure] <= result[part]["target"]
        for part, figure in (("clone", "total"), ("wheel", "lit_median"))
        if part in result
    ]
    result["ok"] = all(met)
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
