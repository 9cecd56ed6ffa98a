"""No task of the cloud vanishes: under constant garbage collection every timer still rings, and every task has an end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.app_server import FakeApp
from tests.support.cloud import USER, phone, register, running, subscribed
from tests.support.waiting import until


@contextlib.asynccontextmanager
async def collecting_garbage(every: float) -> AsyncIterator[None]:
    """asyncio keeps weak references to tasks only: a task without an owner is gone with the next collection."""

    async def collect() -> None:
        while True:
            gc.collect()
            await asyncio.sleep(every)

    task = asyncio.create_task(collect(), name="collect garbage")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.failure("PRO-07")
async def test_grace_restart_and_end_happen_while_garbage_is_collected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    before = set(asyncio.all_tasks())
    with caplog.at_level(logging.ERROR):
        async with (
            collecting_garbage(0.05),
            running(tmp_path, sessions__app_grace=0.3, sessions__grace=1.0) as cloud,
            FakeApp("com.example.app", "key", "button_press") as app,
        ):
            await register(cloud, app)
            glasses = phone(cloud)
            async with glasses:
                await glasses.start_app(app.package)
                (
                    await app.started(USER)
                ).drop()  # nobody reconnects: grace ends, then the app is started anew
                await until(lambda: len(app.requests()) >= 2, "the app is restarted", 10)
                session = await app.started(USER)
                await subscribed(cloud, app.package)
                await glasses.send("button_press", buttonId="main", pressType="short")
                await until(lambda: session.events("button_press"), "the press arrives")
            await until(lambda: cloud.hub.session_view(USER) is None, "the session ends after its grace", 10)
            await until(lambda: app.requests("stop_request"), "the app is told", 10)
        gc.collect()
        await asyncio.sleep(0)
    left = [
        task
        for task in asyncio.all_tasks() - before
        if not task.done() and task is not asyncio.current_task()
    ]
    assert left == []
    assert complaints == []
    words = ("was destroyed", "never retrieved", "never awaited")
    assert not [record for record in caplog.records if any(word in record.getMessage() for word in words)]
