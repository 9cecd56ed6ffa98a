"""The test's end of a real SDK app server: a Node process of its own, orders in, reports out.

Rules: the SDK is unmodified (`apps/probe.mjs`); everything said over the control socket is kept in order; every wait
is bounded; the process dies with its control socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.tools import missing, require_tool
from tests.support.waiting import SLOW, until

HERE = Path(__file__).resolve().parent
#: SDK generations under test: label -> value of PROBE_SDK.
GENERATIONS = {"2.1.29": "2", "3.0.0-hono.8": "3"}


def install_sdk() -> None:
    """`npm ci` once per lock file; a stamp inside node_modules remembers which lock it came from."""
    require_tool("node")
    npm = require_tool("npm")
    digest = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    stamp = HERE / "node_modules" / ".glassbridge-lock"
    with (HERE / "package-lock.json").open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # parallel workers come here at the same time
        if stamp.exists() and stamp.read_text() == digest and _installed():
            return
        # No package of ours needs its install script, and none gets to run one.
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts"],
            cwd=HERE,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode or not _installed():
            missing("the packages of tests/interop", f"npm ci: {done.stderr.strip()[-300:]}")
        stamp.write_text(digest)


def _installed() -> bool:
    return all(
        (HERE / "node_modules" / "@mentra" / name / "package.json").exists() for name in ("sdk", "sdk-3")
    )


def free_port() -> int:
    """A loopback port that nobody holds now; the SDK cannot tell which one it got if asked for port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Report:
    """One thing that happened inside the app. `at_ms` is the app's wall clock."""

    event: str
    session: str | None
    data: Any
    at_ms: int


class OrderFailed(Exception):
    """The code of an order threw inside the app."""


class SdkApp:
    """One SDK AppServer process on a fixed loopback port; may be killed and started again."""

    def __init__(self, sdk: str, package: str, api_key: str, port: int | None = None) -> None:
        self.sdk, self.package, self.api_key = sdk, package, api_key
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.reports: list[Report] = []
        self.ended = asyncio.Event()
        self._folder = Path(tempfile.mkdtemp(prefix="gb-interop-"))
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count(1)
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, hook: str = "", environment: dict[str, str] | None = None) -> SdkApp:
        """Start the process and wait for its HTTP server. `hook` is code that runs inside onSession."""
        mark = self.mark()
        self.ended.clear()
        path = self._folder / f"control-{next(self._ids)}"
        self._server = await asyncio.start_unix_server(self._serve, path, limit=32 << 20)
        with (self._folder / "output.log").open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                require_tool("node"),
                str(HERE / "apps" / "probe.mjs"),
                cwd=HERE,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={
                    **os.environ,
                    "PROBE_SDK": GENERATIONS[self.sdk],
                    "PROBE_CONTROL": str(path),
                    "PROBE_PACKAGE": self.package,
                    "PROBE_API_KEY": self.api_key,
                    "PROBE_PORT": str(self.port),
                    "PROBE_HOOK": hook,
                    "NODE_TLS_REJECT_UNAUTHORIZED": "1",
                    **(environment or {}),
                },
            )
        try:
            await self.event("ready", since=mark, within=10)
        except AssertionError:
            said = self.output()[-2000:]
            await self.close()
            raise AssertionError(f"the SDK app did not start: {said}") from None
        return self

    def output(self) -> str:
        """What the process printed: for the message of a failing test."""
        path = self._folder / "output.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        try:
            while line := await reader.readline():
                told = json.loads(line)
                if "id" in told:
                    answer = self._answers.pop(told["id"], None)
                    if answer is None or answer.done():
                        continue
                    if told["ok"]:
                        answer.set_result(told["value"])
                    else:
                        answer.set_exception(OrderFailed(told["value"]))
                else:
                    self.reports.append(Report(told["event"], told["session"], told["data"], told["at"]))
        except ConnectionError:
            pass  # killed: the same as an end
        finally:
            self.ended.set()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(OrderFailed("the app process ended"))
            self._answers.clear()
            writer.close()

    async def run(self, code: str, session: str | None = None, within: float = 10.0) -> Any:
        """Run JavaScript inside the app, in the live session if one is named; its returned value as JSON."""
        assert self._writer is not None
        number = next(self._ids)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._writer.write(json.dumps({"id": number, "session": session, "code": code}).encode() + b"\n")
        return await asyncio.wait_for(answer, within * SLOW)

    def mark(self) -> int:
        """A position in the reports, for `since`."""
        return len(self.reports)

    def seen(self, event: str, since: int = 0, session: str | None = None) -> list[Report]:
        """All reports of one name after a mark."""
        return [
            r for r in self.reports[since:] if r.event == event and (session is None or r.session == session)
        ]

    async def event(
        self,
        event: str,
        *,
        since: int = 0,
        session: str | None = None,
        where: Callable[[Any], bool] | None = None,
        within: float = 5.0,
    ) -> Report:
        """The first report of that name (and content) after the mark."""

        def find() -> Any:
            return next((r for r in self.seen(event, since, session) if where is None or where(r.data)), None)

        found: Report = await until(find, f"app event {event!r}", within)
        return found

    def _summary(self, since: int) -> list[str]:
        return [f"{r.event}:{json.dumps(r.data)[:80]}" for r in self.reports[since:]][-12:]

    async def kill(self) -> None:
        """kill -9: TCP resets, no goodbye."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await self._close_control()

    async def terminate(self) -> int:
        """SIGTERM as a process manager sends it; the exit code."""
        assert self._process is not None
        self._process.terminate()
        code = await asyncio.wait_for(self._process.wait(), 10 * SLOW)
        await self._close_control()
        return code

    async def _close_control(self) -> None:
        if self._server is not None:
            if self._writer is not None:
                self._writer.close()
                await asyncio.wait_for(self.ended.wait(), 5 * SLOW)
            self._server.close()
            self._server, self._writer, self._process = None, None, None

    async def close(self) -> None:
        """End the process, and leave nothing behind."""
        await self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
