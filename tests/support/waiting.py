"""Waiting for real things in system tests: poll a condition, never guess a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

#: Slack for a loaded machine: every bound in a system test is multiplied by it.
SLOW = float(os.environ.get("GLASSBRIDGE_SLOW", "4"))


async def until(probe: Callable[[], T | Awaitable[T]], what: str, within: float = 5.0) -> T:
    """The first truthy result of `probe`, asked every 10 ms; fails with `what` after `within` · SLOW seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within * SLOW
    while True:
        result = probe()
        if asyncio.iscoroutine(result) or isinstance(result, asyncio.Future):
            result = await result
        if result:
            return result  # type: ignore[return-value]
        if loop.time() > end:
            raise AssertionError(f"not within {within * SLOW:g} s: {what}")
        await asyncio.sleep(0.01)
