"""A bug in a task of the hub is seen: logged, counted, and it costs that task only."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from cloud.config import CloudConfig
from cloud.server import Cloud
from cloud.store.sqlite import SqliteStore
from tests.support.app_server import FakeApp
from tests.support.cloud import SECRET, USER, phone, register, subscribed
from tests.support.waiting import until


class BuggyStore(SqliteStore):
    """A real store with a bug in one of its writes: no StoreError, which would be retried."""

    async def set_wanted(self, user_id: str, package_name: str, wanted: bool) -> None:
        raise RuntimeError("a bug")


@pytest.mark.failure("PRO-07")
async def test_a_failed_task_is_logged_counted_and_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {
        "data_dir": str(tmp_path), "port": 0, "profile": "dev", "auth.secret": SECRET, "sessions.grace": 0.3,
    }  # fmt: skip
    store = await BuggyStore.open(tmp_path / "buggy.db")
    before = asyncio.all_tasks()
    with caplog.at_level(logging.ERROR):
        async with (
            FakeApp("com.example.app", "key", "button_press") as app,
            Cloud(CloudConfig.load(overrides=settings, env={}), store=store) as cloud,
        ):
            await register(cloud, app)
            async with phone(cloud) as glasses:
                await glasses.start_app(app.package)
                session = await app.started(USER)
                await subscribed(cloud, app.package)
                await until(lambda: b'errors_total{where="task"} 1.0' in cloud.metrics.text(), "counted")
                await glasses.send("button_press", buttonId="main", pressType="short")
                await until(lambda: session.events("button_press"), "the session goes on")
            await until(lambda: cloud.hub.session_view(USER) is None, "the session ends", 10)
    await store.close()
    await until(lambda: not (asyncio.all_tasks() - before), "as many tasks as before")
    [record] = [record for record in caplog.records if record.getMessage() == "a background task failed"]
    assert record.exc_info is not None
    assert "a bug" in str(record.exc_info[1])
