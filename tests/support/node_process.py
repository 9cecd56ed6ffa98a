"""Nodes of one cloud as processes of their own, to be killed, frozen and brought back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.interop.driver import free_port
from tests.support.cloud import SECRET
from tests.support.waiting import SLOW


class Node:
    """`glassbridge cloud run` with a `[cluster]` section; the same port after each start."""

    def __init__(self, directory: Path, name: str, settings: dict[str, Any]) -> None:
        self.directory = directory / name
        self.directory.mkdir(exist_ok=True)
        self.name = name
        self.port = free_port()
        self.settings = settings
        self.process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        """Returns when it serves."""
        environment = {
            **os.environ,
            "GLASSBRIDGE_DATA_DIR": str(self.directory),
            "GLASSBRIDGE_PORT": str(self.port),
            "GLASSBRIDGE_PROFILE": "dev",
            "GLASSBRIDGE_AUTH__SECRET": SECRET,
            "GLASSBRIDGE_CLUSTER__NODE": self.name,
            "GLASSBRIDGE_LOG__FORMAT": "json",
            **{f"GLASSBRIDGE_{k.upper().replace('.', '__')}": _text(v) for k, v in self.settings.items()},
        }
        with (self.directory / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "glassbridge",
                "cloud",
                "run",
                "--json",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 30 * SLOW)
        if not line or json.loads(line).get("event") != "ready":
            raise AssertionError(f"{self.name} did not start: {self.log()[-2000:]}")

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    async def kill(self) -> None:
        """kill -9, and reap."""
        if self.process is not None:
            self.send(signal.SIGKILL)
            await self.process.wait()

    async def drain(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.send(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 60 * SLOW)


def _text(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(str(part) for part in value)
    return str(value)
