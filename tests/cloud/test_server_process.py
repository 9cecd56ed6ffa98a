"""The cloud as a process of its own: the ready line, the drain on SIGTERM, what survives kill -9."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from cloud.auth import TokenVerifier
from tests.interop.driver import free_port
from tests.support.app_server import FakeApp
from tests.support.cloud import SECRET, USER
from tests.support.fake_phone import FakePhone
from tests.support.waiting import SLOW, until
from tests.system.rolling import Edge
from wire.messages.glasses_to_cloud import PhotoTaken

#: More by hand: GLASSBRIDGE_KILLS=50 pytest -s tests/cloud/test_server_process.py -k under_traffic
KILLS = int(os.environ.get("GLASSBRIDGE_KILLS", "3"))

_PROGRAM = """
import sys
from cloud.config import CloudConfig
from cloud.server import run
settings = {"data_dir": sys.argv[1], "port": int(sys.argv[3]), "profile": "dev", "auth.secret": sys.argv[2]}
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
async def cloud_process(data_dir: Path, port: int = 0) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _PROGRAM,
        str(data_dir),
        SECRET,
        str(port),
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


async def register(data_dir: Path, app: FakeApp, *permissions: str) -> None:
    """Before the process starts: it has no way in without an administrator's token."""
    from tests.support.cloud import register as put
    from tests.support.cloud import running

    async with running(data_dir) as cloud:
        await put(cloud, app, *permissions)


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


@asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def return_by_itself(app: FakeApp) -> None:
    """The SDK's own habit: a lost socket is opened anew after a second."""
    while True:
        for session in list(app.sessions.values()):
            if session.closed is not None:
                await asyncio.sleep(1.0)
                with suppress(OSError, InvalidStatus, ConnectionClosed):
                    await session.open()
        await asyncio.sleep(0.05)


@pytest.mark.failure("CON-16")
@pytest.mark.failure("PRO-05")
async def test_kill_minus_nine_under_traffic_loses_no_event_and_doubles_only_those_of_one_turn(
    tmp_path: Path,
) -> None:
    """An event is acknowledged to the edge right after it was written to the apps' sockets, so what was not acknowledged
    was not written either, but for the turn in which the process died (docs/reliability.md)."""
    kills, burst = KILLS, 20 + random.randrange(20)
    port = free_port()
    url, nowhere = (f"ws://127.0.0.1:{number}/glasses-ws" for number in (port, free_port()))
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(FakeApp("a", "k", "photo_taken"))
        await register(tmp_path, app, "CAMERA")
        edge = Edge(USER, TokenVerifier([SECRET]).mint_core_token(USER), url)
        stack.push_async_callback(edge.kill)
        await stack.enter_async_context(background(return_by_itself(app)))
        posted = greeted = 0

        def event() -> None:
            nonlocal posted
            edge.post(PhotoTaken(photo_data=str(posted), mime_type="image/jpeg"))
            posted += 1

        def received() -> list[int]:
            return [int(e["photoData"]) for s in app.sessions.values() for e in s.events("photo_taken")]

        def acks() -> int:
            return len(app.session(USER).of("tpa_connection_ack"))

        def is_back() -> bool:
            return acks() > greeted

        for round_ in range(kills + 1):
            async with cloud_process(tmp_path, port) as cloud:
                if round_ == 0:
                    edge.boot()
                    await until(lambda: edge.online, "the edge is online")
                    edge.want("a")
                else:
                    # The app first, and only then the edge: what nobody can take within 5 s of its coming is too old, and
                    # a busy machine may need longer for the app.
                    await until(is_back, "the app is back", 10)
                    edge.url = url
                    if edge.node is not None:  # spare the pauses that grow with every outage
                        edge._do(edge.node.network_changed(edge._now()))
                await until(lambda: edge.quiet, "everything is acknowledged", 10)
                await app.started(USER)
                event()
                await until(lambda: received()[-1:] == [posted - 1], "an event reaches the app", 10)
                if round_ == kills:
                    break
                for _ in range(burst):
                    for _ in range(5):
                        event()
                    await asyncio.sleep(0.001)
                edge.url, greeted = nowhere, acks()
                cloud.process.kill()  # events of the last milliseconds are on their way
                await cloud.process.wait()
                await until(
                    lambda: app.session(USER).closed is not None and not edge.online, "both noticed", 15
                )
        counts = Counter(received())
        assert set(counts) == set(range(posted)), "lost"
        doubled = [number for number, count in counts.items() if count > 1]
        print(f"{posted} events, {kills} kills: 0 lost, {len(doubled)} doubled")
        assert len(doubled) <= 5 * kills
