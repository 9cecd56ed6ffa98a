"""The cloud as a process of its own: the ready line, the drain on SIGTERM, what survives kill -9."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloud.auth import TokenVerifier
from tests.support.app_server import FakeApp
from tests.support.cloud import SECRET, USER
from tests.support.fake_phone import FakePhone
from tests.support.waiting import SLOW, until

_PROGRAM = """
import sys
from cloud.config import CloudConfig
from cloud.server import run
settings = {"data_dir": sys.argv[1], "port": 0, "profile": "dev", "auth.secret": sys.argv[2]}
sys.exit(run(CloudConfig.load(overrides=settings, env={}), json_ready=True))
"""


class Process:
    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process, self.url = process, url

    def phone(self, generation: str = "T") -> FakePhone:
        token = TokenVerifier([SECRET]).mint_core_token(USER)
        return FakePhone(self.url, USER, token, generation)  # type: ignore[arg-type]

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 10 * SLOW)


@asynccontextmanager
async def cloud_process(data_dir: Path) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _PROGRAM,
        str(data_dir),
        SECRET,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 20 * SLOW)
        ready = json.loads(line)
        assert ready["event"] == "ready"
        assert ready["pid"] == process.pid
        yield Process(process, ready["url"])
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await process.stdout.read()  # lets the pipe's transport close


async def register(data_dir: Path, app: FakeApp) -> None:
    """Before the process starts: it has no way in without an administrator's token."""
    from tests.support.cloud import register as put
    from tests.support.cloud import running

    async with running(data_dir) as cloud:
        await put(cloud, app)


@pytest.mark.failure("PRO-05")
async def test_sigterm_tells_everyone_to_come_back_and_exits_zero(tmp_path: Path) -> None:
    async with FakeApp("a", "k") as app:
        await register(tmp_path, app)
        async with cloud_process(tmp_path) as cloud, cloud.phone() as glasses:
            await glasses.start_app("a")
            session = await app.started(USER)
            began = time.monotonic()
            assert await cloud.end(signal.SIGTERM) == 0
            assert time.monotonic() - began < 10 * SLOW
            await until(lambda: session.closed is not None and glasses.closed is not None, "both are told")
            assert session.closed == (1012, "Server restarting")
            assert glasses.closed == (1012, "Server restarting")


@pytest.mark.failure("PER-02")
@pytest.mark.failure("PER-05")
async def test_what_was_acknowledged_survives_kill_minus_nine(tmp_path: Path) -> None:
    async with FakeApp("a", "k", "button_press") as app:
        await register(tmp_path, app)
        async with cloud_process(tmp_path) as cloud, cloud.phone("C") as glasses:
            reply = await glasses.rest("POST", "/apps/a/start")
            assert reply.status_code == 200, reply.text
            assert await cloud.end(signal.SIGKILL) == -signal.SIGKILL
        app.sessions.clear()
        async with cloud_process(tmp_path) as cloud, cloud.phone() as glasses:
            await app.started(USER)
            await until(lambda: glasses.running() == ["a"], "the app is back")
            assert len(app.requests()) == 2
            assert await cloud.end(signal.SIGINT) == 130
