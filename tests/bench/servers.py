"""The servers under test and the load generator as processes: built, pinned, asked, ended.

Rules: server on one CPU, generator on another, when the machine has two; loopback and system-chosen ports only. Every
process that was started is ended, whatever happens in between.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

HERE: Final = Path(__file__).parent
CACHE: Final = Path(tempfile.gettempdir()) / f"glassbridge-bench-{os.getuid()}"
#: Python packages that only a peer needs, kept out of the product's environment.
PEERS: Final = CACHE / "peers"


class BenchError(Exception):
    """A benchmark cannot run; the text says what to do."""


def build(name: str) -> Path:
    """The C program `native/NAME.c`, compiled when its source is newer than the last build."""
    if shutil.which("gcc") is None:
        raise BenchError("gcc is needed to build the load generator: apt install gcc libc6-dev")
    CACHE.mkdir(mode=0o700, exist_ok=True)
    source, program = HERE / "native" / f"{name}.c", CACHE / name
    newest = max(source.stat().st_mtime, (HERE / "native" / "ws.h").stat().st_mtime)
    if not program.exists() or program.stat().st_mtime < newest:
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(source)], check=True)
    return program


def cpus() -> tuple[int | None, int | None]:
    """(server's CPU, generator's CPU); None = not pinned, because there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (None, None)


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def pss_bytes(pid: int) -> int:
    """Proportional set size: what the process really costs, shared pages divided among their users."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise BenchError("the kernel does not report PSS")


class Process:
    """A child that talks JSON lines; ended by `stop` or the end of the `with` block."""

    def __init__(self, command: Sequence[str], cpu: int | None, path: str | None = None) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=HERE.parent.parent,
            env=os.environ | ({"PYTHONPATH": path} if path else {}),
            preexec_fn=None if cpu is None else lambda: os.sched_setaffinity(0, {cpu}),
        )
        self._name = " ".join(command)
        self.pid = self._child.pid

    def line(self) -> dict[str, Any]:
        """The next JSON line. Raises BenchError with the process's complaints if it ended instead."""
        assert self._child.stdout is not None
        text = self._child.stdout.readline()
        if not text:
            self._child.wait(10)
            self._log.seek(0)
            said = self._log.read()[-2000:].decode(errors="replace")
            raise BenchError(f"{self._name} ended: {said}")
        found: dict[str, Any] = json.loads(text)
        return found

    def say(self, command: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(command.encode() + b"\n")
        self._child.stdin.flush()

    def stop(self) -> None:
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(3)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout, self._log):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it listens, what the generator needs to be admitted."""

    process: Process
    port: int
    extra: tuple[str, ...] = ()
    directory: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    def stop(self) -> None:
        self.process.stop()
        if self.directory is not None:
            self.directory.cleanup()


def available(name: str) -> str | None:
    """Why this peer cannot run here; None = it can."""
    match name:
        case "node" | "node-bare":
            if shutil.which("node") is None:
                return "node is not installed"
            if not (HERE / "node_modules" / "ws").is_dir():
                return f"run: npm ci --prefix {HERE.relative_to(HERE.parent.parent)}"
        case "picows":
            if not (PEERS / "picows").is_dir():
                return f"run: pip install --target {PEERS} -r tests/bench/requirements.txt"
    return None


def start(name: str, *, users: int, apps: int, settings: Mapping[str, Any] | None = None) -> Server:
    """Start one server and wait until it serves. `settings`: of the product, by their dotted names."""
    cpu, _ = cpus()
    match name:
        case "product":
            directory = tempfile.TemporaryDirectory(prefix="glassbridge-bench-")
            webhook = free_port()
            arguments = [directory.name, str(users), str(apps), str(webhook), "0", json.dumps(settings or {})]
            process = Process([sys.executable, str(HERE / "peers" / "product.py"), *arguments], cpu)
            port = int(str(process.line()["url"]).rsplit(":", 1)[1])
            extra = ("--tokens", f"{directory.name}/tokens", "--webhook", str(webhook))
            return Server(process, port, extra, directory)
        case "c":
            process = Process([str(build("epoll_server"))], cpu)
        case "node" | "node-bare":
            how = ("0", "--bare") if name == "node-bare" else ()
            process = Process(["node", str(HERE / "peers" / "node_ws.mjs"), *how], cpu)
        case "websockets" | "picows":
            file = {"websockets": "websockets_asyncio.py", "picows": "picows_server.py"}[name]
            process = Process([sys.executable, str(HERE / "peers" / file)], cpu, str(PEERS))
        case _:
            raise BenchError(f"unknown server {name}")
    return Server(process, int(process.line()["port"]))


def generate(server: Server, mode: str, sessions: int, apps: int, *more: str) -> Process:
    """A load generator with all its connections up."""
    _, cpu = cpus()
    command = [
        *(str(build("loadgen")), "--port", str(server.port), "--pid", str(server.process.pid)),
        *("--mode", mode, "--sessions", str(sessions), "--apps", str(apps)),
        *(server.extra if apps else server.extra[:2]),  # a generator without apps has no webhook to serve
        *more,
    ]
    process = Process(command, cpu)
    try:
        process.line()
    except BaseException:
        process.stop()
        raise
    return process
