"""Tasks that somebody owns: none is lost, none fails unseen, none outlives the hub.

Rules: a failed task is logged and counted and costs nothing else (PRO-07).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """`failed`: called once for each task that ended with an exception."""

    def __init__(self, failed: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many run."""
        return len(self._tasks)

    def own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task; it is cancelled by `close` at the latest."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failed()
            log.error("a background task failed", exc_info=task.exception())

    async def close(self) -> None:
        """Cancel what still runs and wait for it."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
