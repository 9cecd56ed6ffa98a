"""The simulation finds what it is there to find: each bug put back on purpose is reported within a few seeds.

Rules: one function per bug, named for it; the bugs are those of the failure catalogue and of our own history.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloud.core.app_lifecycle import AppLifecycle, AppState
from cloud.core.display import DisplayArbiter
from cloud.core.microphone import Microphone
from cloud.core.session import Session
from cloud.core.session_apps import SessionApps
from edge.core.glasses import Glasses
from edge.core.uplink import Uplink, UplinkState
from tests.simulation.runs import run
from wire.link import Link

SEEDS_MAX = 60
Patch = Callable[[pytest.MonkeyPatch], None]


def late_close_of_glasses_counts(patch: pytest.MonkeyPatch) -> None:
    real = Session.glasses_lost

    def wrong(self: Session, connection_id: int, now: float) -> Any:
        return real(self, connection_id if self.glasses_connection is None else self.glasses_connection, now)

    patch.setattr(Session, "glasses_lost", wrong)


def late_close_of_an_app_counts(patch: pytest.MonkeyPatch) -> None:
    real = Session.app_lost

    def wrong(self: Session, package: str, connection_id: int, now: float) -> Any:
        life = self.app(package)
        return real(self, package, (life.connection_id if life else None) or connection_id, now)

    patch.setattr(Session, "app_lost", wrong)


def link_forgets_what_it_has_not_delivered(patch: pytest.MonkeyPatch) -> None:
    real = Link._go_live

    def wrong(self: Link, *args: Any, **more: Any) -> Any:
        self._log.clear()
        self._bytes, self._base, self._sent = 0, self._newest, self._newest
        return real(self, *args, **more)

    patch.setattr(Link, "_go_live", wrong)


def display_is_not_restored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DisplayArbiter, "attached", lambda self, now: [])


def microphone_is_not_restored(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: Microphone, now: float) -> list[Any]:
        self._attached = True
        return []

    patch.setattr(Microphone, "attached", wrong)


def streams_of_a_stopped_app_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SessionApps, "_forget", lambda self, each, now: [])


def dead_uplink_is_believed_alive(patch: pytest.MonkeyPatch) -> None:
    real = Uplink.handle_deadline

    def wrong(self: Uplink, now: float) -> Any:
        if self.state is UplinkState.ONLINE:
            self.heard(self.conn_id, now)
        return real(self, now)

    patch.setattr(Uplink, "handle_deadline", wrong)


def stopped_app_is_started_again(patch: pytest.MonkeyPatch) -> None:
    real = AppLifecycle.stop

    def wrong(self: AppLifecycle, *args: Any, **more: Any) -> Any:
        effects = real(self, *args, **more)
        self._start_again = self.state is AppState.STOPPING
        return effects

    patch.setattr(AppLifecycle, "stop", wrong)


def returning_arm_is_not_brought_up_to_date(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Glasses, "_forget", staticmethod(lambda slot, arm: None))


@pytest.mark.parametrize(
    "bug",
    [
        late_close_of_glasses_counts,
        late_close_of_an_app_counts,
        link_forgets_what_it_has_not_delivered,
        display_is_not_restored,
        microphone_is_not_restored,
        streams_of_a_stopped_app_stay,
        dead_uplink_is_believed_alive,
        stopped_app_is_started_again,
        returning_arm_is_not_brought_up_to_date,
    ],
)
def test_bug_is_found(bug: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    assert any(run(seed).failure is not None for seed in range(SEEDS_MAX)), (
        f"{SEEDS_MAX} seeds did not notice"
    )
