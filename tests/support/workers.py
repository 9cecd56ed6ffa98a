"""`glassbridge cloud run --workers N` as real processes, for tests that kill them.

Rules: loopback only, ports from the system, everything started here is ended here; what it logged is shown when it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from cloud.auth import TokenVerifier
from cloud.cluster.handover import RETRY
from cloud.cluster.placement import best_of
from tests.support.brokers import nats_server
from tests.support.fake_phone import FakePhone, Generation
from tests.support.waiting import SLOW
from tests.system.rolling import Edge
from wire.placement import session_key

SECRET = "workers-secret-workers-secret-workers"
ADMIN = "workers-admin-token-workers-admin"


class Workers:
    """A running supervisor with its children."""

    def __init__(self, process: subprocess.Popen[bytes], ready: dict[str, Any], log: Path) -> None:
        self.process = process
        self.url: str = ready["url"]
        self.count = len(ready.get("workers", [0]))
        self.broker: int | None = ready.get("broker")
        self.log = log
        self.pids: list[int] = ready.get("workers", [])

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def place(self, user: str) -> int:
        """The number of the worker whose the user is while all live."""
        return best_of(session_key(user), range(self.count))

    def token(self, user: str) -> str:
        return TokenVerifier([SECRET]).mint_core_token(user)

    def phone(self, user: str, generation: Generation = "C") -> FakePhone:
        return FakePhone(self.url, user, self.token(user), generation)

    def edge(self, user: str) -> Edge:
        return Edge(user, self.token(user), f"ws://127.0.0.1:{self.port}/glasses-ws")

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """One request as the administrator, on a connection of its own: any worker may answer."""
        async with self._client() as http:
            return await http.get(path, headers=headers)

    async def post(self, path: str, body: Any = None) -> httpx.Response:
        async with self._client() as http:
            return await http.post(path, json=body)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url, headers={"Authorization": f"Bearer {ADMIN}"}, timeout=10 * SLOW
        )

    async def ended(self) -> int:
        """Wait for the supervisor's end; its exit code."""
        return await asyncio.to_thread(self.process.wait, 15 * SLOW)

    async def metric(self, name: str) -> dict[int, float]:
        """A number of each worker, summed over its labels."""
        found: dict[int, float] = {}
        for line in (await self.get("/metrics")).text.splitlines():
            if line.startswith((f"glassbridge_{name}{{", f"glassbridge_{name} ")):
                number = int(line.partition('worker="')[2].partition('"')[0])
                found[number] = found.get(number, 0.0) + float(line.rpartition(" ")[2])
        return found

    async def pid_of(self, number: int) -> int | None:
        """The process that is worker `number` now: the supervisor's child with that descriptor's socket. None: none."""
        for pid in children(self.process.pid):
            with contextlib.suppress(OSError):
                if number_of(pid) == number:
                    return pid
        return None

    async def register(self, package: str, url: str, api_key: str, *permissions: str) -> None:
        reply = await self.post(
            "/api/admin/apps",
            {
                "packageName": package,
                "name": package.rpartition(".")[2],
                "publicUrl": url,
                "apiKey": api_key,
                "appType": "background",
                "permissions": [{"type": permission} for permission in permissions],
            },
        )
        assert reply.status_code in (200, 201), reply.text

    def logged(self) -> str:
        return self.log.read_text(errors="replace")


def children(pid: int) -> list[int]:
    """Process ids of the direct children."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def number_of(pid: int) -> int | None:
    """Which worker a process is, by the UNIX socket that it listens at; None for the broker."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(entry)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    for line in Path("/proc/net/unix").read_text().splitlines():
        parts = line.split()
        if (
            len(parts) == 8
            and parts[6] in inodes
            and parts[7].endswith(".sock")
            and "glassbridge-" in parts[7]
        ):
            return int(Path(parts[7]).stem)
    return None


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def workers(folder: Path, count: int, *, port: int = 0, **settings: str) -> Iterator[Workers]:
    """`settings` by their environment names without the prefix."""
    if count > 1:
        nats_server()
    log = folder / "cloud.log"
    env = {
        "GLASSBRIDGE_AUTH__SECRET": SECRET,
        "GLASSBRIDGE_AUTH__ADMIN_TOKEN_SHA256": hashlib.sha256(ADMIN.encode()).hexdigest(),
        "GLASSBRIDGE_WEBHOOKS__ALLOW": "loopback",
        **{f"GLASSBRIDGE_{name}": value for name, value in settings.items()},
    }
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "glassbridge", "cloud", "run", "--json", "--port", str(port)),
                *("--workers", str(count), "--data-dir", str(folder / "data")),
            ],
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **env},
        )
    assert process.stdout is not None
    with process.stdout as output:
        try:
            line = output.readline() if select.select([output], [], [], 20 * SLOW)[0] else b""
            assert line, f"it did not start: {log.read_text()[-3000:]}"
            running = Workers(process, json.loads(line), log)
            if count > 1:
                _until_all_know_each_other(running)
            yield running
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(15 * SLOW)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _until_all_know_each_other(running: Workers) -> None:
    end = time.monotonic() + 10 * SLOW
    while "workers" in httpx.get(f"{running.url}/readyz", timeout=10 * SLOW).json()["checks"]:
        assert time.monotonic() < end, "the workers do not find each other"
        time.sleep(0.05)
    time.sleep(3 * RETRY)  # one of them said so; the others look as often
