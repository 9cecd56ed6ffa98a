"""`glassbridge dev` as a process of its own, as a developer starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

#: Three Python processes have to start on a machine that is busy with other tests. Seconds.
START_MAX = 90.0
STOP_MAX = 30.0


@dataclass
class DevProcess:
    """A running `glassbridge dev`."""

    process: subprocess.Popen[str]
    ready: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    def device(self) -> dict[str, Any]:
        """The first simulated device."""
        reply = httpx.get(f"{self.url}/api/sim/state", trust_env=False, timeout=10)
        device: dict[str, Any] = reply.json()["devices"][0]
        return device

    def children(self) -> list[int]:
        """Process ids of cloud, simulator and edge."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]


def start_dev(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    """Starts it with its runtime files in `folder`, seen by no other."""
    return subprocess.Popen(
        [sys.executable, "-m", "glassbridge", "dev", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
        cwd=folder,
    )


@contextmanager
def dev_process(folder: Path, *arguments: str) -> Iterator[DevProcess]:
    """Up and ready inside the block; ended by SIGTERM, which must exit 0."""
    process = start_dev("--json", *arguments, folder=folder)
    running = DevProcess(process)
    assert process.stdout is not None
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: running.errors.extend(process.stderr or ()), daemon=True)
    reader.start()
    alarm = threading.Timer(START_MAX, process.kill)
    alarm.start()
    try:
        line = process.stdout.readline()
        alarm.cancel()
        assert line, "dev did not start: " + "".join(running.errors)
        running.ready = json.loads(line)
        yield running
    finally:
        alarm.cancel()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        reader.join(5)
        process.stdout.close()
        process.stderr.close()
    assert code == 0, f"dev ended with code {code}: " + "".join(running.errors)
