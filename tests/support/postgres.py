"""A PostgreSQL of its own for a test: a new cluster on a unix socket in a temporary folder, ended and removed afterwards.

Rules: it is never the machine's own server. PostgreSQL refuses to run as root, so root starts it as `nobody`. `fsync` is
off: these tests kill our processes, not the machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import quote

from tests.support.tools import missing

START = 60.0  # s, on a machine that does other things, too
USER, PASSWORD = "glassbridge", "p@ss word"


@cache
def programs() -> Path | None:
    """The folder with `initdb` and `postgres`; Debian keeps it off PATH."""
    found = shutil.which("initdb")
    candidates = [Path(found).resolve().parent] if found else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in candidates if (folder / "postgres").exists()), None)


def require_postgres() -> Path:
    folder = programs()
    if folder is None:
        missing("postgres", "apt-get install postgresql")
    assert folder is not None
    return folder


class Postgres:
    """A running server: `stop`, `start` and `freeze` are the accidents that a test wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bin = require_postgres()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def _as_user(self, command: Sequence[str]) -> list[str]:
        if os.getuid() != 0:
            return list(command)
        return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command]

    def make(self) -> None:
        if os.getuid() == 0:
            shutil.chown(self.folder, "nobody", "nogroup")
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        subprocess.run(
            self._as_user(
                [
                    str(self._bin / "initdb"),
                    "--no-sync",
                    "--auth=scram-sha-256",
                    f"--username={USER}",
                    f"--pwfile={password}",
                    "--locale=C",
                    "--encoding=UTF8",
                    str(self.folder / "data"),
                ]
            ),
            check=True,
            capture_output=True,
            cwd=self.folder,
        )

    def start(self) -> None:
        """Returns when it takes connections."""
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(
            self._as_user(
                [
                    str(self._bin / "postgres"),
                    *("-D", str(self.folder / "data"), "-k", str(self.folder)),
                    *("-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=60"),
                ]
            ),
            stdout=log,
            stderr=log,
            cwd=self.folder,
            start_new_session=True,
        )
        log.close()
        deadline = time.monotonic() + START
        while self._psql("SELECT 1").returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.05)

    def stop(self) -> None:
        """At once, as after a crash: clients are cut, what was committed is recovered at the next start."""
        if self._process is not None:
            self.thaw()
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None

    def freeze(self) -> None:
        """Every process of it stands still, connections stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        group = subprocess.run(
            ["ps", "-o", "pid=", "--sid", str(self._process.pid), "--ppid", str(self._process.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        # Each backend is a leader of its own group, so the group of the postmaster does not reach them.
        for pid in {self._process.pid, *map(int, group.stdout.split())}:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def new_database(self) -> str:
        """The address of an empty database."""
        self._databases += 1
        name = f"test{os.getpid()}_{self._databases}"
        done = self._psql(f"CREATE DATABASE {name}")
        if done.returncode:
            raise RuntimeError(done.stderr)
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql://{USER}:{quote(PASSWORD)}@/{database}?host={quote(str(self.folder), safe='')}"

    def _psql(self, sql: str, database: str = "postgres") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._bin / "psql"), "-h", str(self.folder), "-U", USER, "-Atc", sql, database],
            env={**os.environ, "PGPASSWORD": PASSWORD},
            capture_output=True,
            text=True,
            check=False,
        )


@contextmanager
def postgres() -> Iterator[Postgres]:
    require_postgres()
    # The path of a unix socket may have 107 characters, so not pytest's own folder.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    server = Postgres(folder)
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
