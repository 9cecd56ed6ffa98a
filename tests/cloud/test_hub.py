"""The shell around the cores: one timer per session on either event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from cloud.config import CloudConfig
from cloud.hub import Hub, SessionEntry
from cloud.metrics import Metrics


class OverdueSession:
    """A session whose deadline has passed when it is looked at, twice; then it has none."""

    user_id = "anna@example.com"

    def __init__(self) -> None:
        self.deadline: float | None = 0.0
        self.ticks = 0

    def input(self, now: float) -> list[Any]:
        return []

    def handle_deadline(self, now: float) -> list[Any]:
        self.ticks += 1
        self.deadline = 0.0 if self.ticks < 2 else None
        return []


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_deadline_that_has_passed_is_served_and_the_next_input_too(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def story() -> tuple[int, float]:
        metrics = Metrics()
        hub = Hub(
            config=CloudConfig(),
            store=None,  # type: ignore[arg-type] # this story stores nothing
            webhooks=None,  # type: ignore[arg-type]
            metrics=metrics,
            websocket_url=lambda: "",
            base_url=lambda: "",
        )
        session = OverdueSession()
        entry = SessionEntry(session=session)  # type: ignore[arg-type]
        for _ in range(3):  # further inputs while the timer is pending
            hub.feed(entry, session.input)
        for _ in range(5):
            await asyncio.sleep(0)
        await hub.close()
        return session.ticks, metrics.counter("errors_total").labels(where="session")._value.get()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(story()) == (2, 0)
