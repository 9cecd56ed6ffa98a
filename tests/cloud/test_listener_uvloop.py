"""The listener's tests once more on uvloop, where the cloud really runs: its transports pause, close and swap differently."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from tests.cloud import test_listener

uvloop = pytest.importorskip("uvloop")

STORIES = [
    name
    for name, function in vars(test_listener).items()
    if name.startswith("test_")
    and inspect.iscoroutinefunction(function)
    and not inspect.signature(function).parameters
]


@pytest.mark.parametrize("name", STORIES)
def test_on_uvloop(name: str) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(getattr(test_listener, name)())


def test_the_stories_are_found() -> None:
    assert len(STORIES) >= 12
