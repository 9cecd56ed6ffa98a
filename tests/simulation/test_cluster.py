"""A part of `make simulate-cluster` in every test run, and proof that the simulation sees what it is there to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloud.core import app_edge, ownership, pipe
from cloud.core.session import Session
from tests.simulation.cluster import run


def test_sessions_survive_whatever_happens_to_nodes_bus_and_engine() -> None:
    failed = {seed: failure for seed in range(40) if (failure := run(seed))}
    assert not failed


def _step_over_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug 3."""
    take = pipe.Pipe._take_data

    def careless(self: pipe.Pipe, data: bytes, prev: int, seq: int, *rest: Any) -> Any:
        return take(self, data, min(prev, self._in), seq, *rest)

    monkeypatch.setattr(pipe.Pipe, "_take_data", careless)


def _believe_stale_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bugs 4 and 6: whoever claims first stays, whatever is announced."""
    monkeypatch.setattr(ownership.Ownership, "heard", lambda self, record, now: [])
    monkeypatch.setattr(ownership.OwnerRecord, "beats", lambda self, other: True)


def _deliver_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that holds an app's socket forgets what it has given it."""
    monkeypatch.setattr(app_edge.AppEdge, "_is_known", lambda self, ident: False)


def _acknowledge_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The glasses forget what no other node has yet."""
    monkeypatch.setattr(Session, "acknowledge", lambda self, hold, now: [])


def _forget_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug 1's effect: the new owner begins with nothing."""
    loaded = ownership.Ownership._loaded
    monkeypatch.setattr(
        ownership.Ownership, "_loaded", lambda self, state, source, now: loaded(self, None, "none", now)
    )


@pytest.mark.parametrize(
    "mutate",
    [_step_over_holes, _believe_stale_owners, _deliver_again, _acknowledge_too_early, _forget_the_state],
)
def test_the_simulation_sees_a_bug_of_that_kind(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    assert any(run(seed) for seed in range(400)), "400 worlds, and nobody noticed"
