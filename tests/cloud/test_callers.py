"""Those who wait for a start or a stop: each hears the outcome once, in time, and after it is on disk."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from cloud import callers
from cloud.callers import Callers
from cloud.cluster import rest
from cloud.core import effects as fx
from cloud.core.app_lifecycle import LifecycleTiming, Stage
from cloud.figures import Figures
from cloud.http.ports import AppOutcome
from cloud.journal import Journal
from cloud.metrics import Metrics
from cloud.session_entry import SessionEntry
from glassbridge import dev
from tests.support.fed_sessions import FedSessions
from wire.errors import ErrorCode

APP = "com.example.a"


@dataclass
class Rig:
    fed: FedSessions
    callers: Callers
    entry: SessionEntry
    metrics: Metrics
    journal: Journal

    def settle(self, stage: Stage | None, message: str = "", package: str = APP) -> None:
        """The start ends with this."""
        settled = fx.StartSettled(package, stage is None, stage, message)
        self.callers.started(self.entry, settled, asyncio.get_running_loop().time())

    def measured(self, outcome: str) -> str:
        """The line of the metrics that counts starts with this outcome."""
        wanted = f'glassbridge_app_start_seconds_count{{outcome="{outcome}"}} '
        lines = self.metrics.text().decode().splitlines()
        return next((line.removeprefix(wanted) for line in lines if line.startswith(wanted)), "none")


@pytest.fixture
async def rig() -> Rig:
    fed, metrics, clock = FedSessions(APP), Metrics(), asyncio.get_running_loop().time
    journal = Journal(metrics=metrics, figures=Figures(metrics), clock=clock, epoch_offset=0.0, watched=False)
    made = Callers(apps=fed.apps, feed=fed.feed, journal=journal, metrics=metrics)

    def perform(entry: SessionEntry, effect: Any, now: float) -> None:
        match effect:
            case fx.StartSettled():
                made.started(entry, effect, now)
            case fx.StopSettled(package):
                made.stopped(entry, package)

    fed.also = perform
    return Rig(fed, made, fed.session("anna@example.com"), metrics, journal)


async def asked(rig: Rig, *, starts: int = 1) -> list[asyncio.Task[AppOutcome]]:
    """That many wait for the start of the app."""
    tasks = [asyncio.ensure_future(rig.callers.start(rig.entry, APP)) for _ in range(starts)]
    await asyncio.sleep(0)
    return tasks


async def test_all_who_wait_for_one_start_hear_its_outcome(rig: Rig) -> None:
    waiting = await asked(rig, starts=3)
    assert not any(task.done() for task in waiting)
    rig.fed.app(rig.entry, APP)
    assert [outcome.ok for outcome in await asyncio.gather(*waiting)] == [True] * 3
    assert rig.entry.starts == {}


async def test_a_start_of_what_runs_already_is_told_at_once(rig: Rig) -> None:
    rig.fed.app(rig.entry, APP)
    assert (await rig.callers.start(rig.entry, APP)).ok


async def test_a_stop_is_told_when_the_app_has_been_told(rig: Rig) -> None:
    rig.fed.app(rig.entry, APP)
    waiting = asyncio.ensure_future(rig.callers.stop(rig.entry, APP))
    await asyncio.sleep(0)
    assert not waiting.done()
    life = rig.entry.session.app(APP)
    assert life is not None
    rig.fed.feed(rig.entry, rig.entry.session.stop_answered, APP, life.cycle)
    assert (await waiting).ok


async def test_who_starts_what_another_stops_hears_that_it_did_not_start(rig: Rig) -> None:
    [waiting] = await asked(rig)
    stop = asyncio.ensure_future(rig.callers.stop(rig.entry, APP))
    outcome = await waiting
    assert (outcome.ok, outcome.message) == (False, "stopped while starting")
    rig.fed.feed(rig.entry, rig.entry.session.stop_answered, APP, 1)
    assert (await stop).ok


@pytest.mark.failure("CON-06")
@pytest.mark.parametrize("stage", Stage)
async def test_every_way_to_fail_has_a_code_and_its_own_words(rig: Rig, stage: Stage) -> None:
    [waiting] = await asked(rig)
    rig.settle(stage, "why")
    outcome = await waiting
    expected = {
        Stage.WEBHOOK: ErrorCode.APP_UNREACHABLE,
        Stage.HELD_BACK: ErrorCode.APP_UNREACHABLE,
        Stage.TIMEOUT: ErrorCode.TIMEOUT,
        Stage.AUTHENTICATION: ErrorCode.INVALID_API_KEY,
        Stage.CONNECTION: ErrorCode.GLASSES_DISCONNECTED,
        Stage.HARDWARE: ErrorCode.APP_INCOMPATIBLE,
    }
    assert outcome == AppOutcome(expected[stage], "why")
    [record] = [r for r in rig.journal.read(0) if r["kind"] == "start_failed"]
    assert (record["package"], record["stage"], record["why"]) == (APP, stage, "why")


async def test_an_app_that_there_is_not_is_not_found(rig: Rig) -> None:
    outcome = await rig.callers.start(rig.entry, "com.example.none")
    assert outcome == AppOutcome(ErrorCode.NOT_FOUND, "App not found")


@pytest.mark.failure("APP-05")
async def test_nobody_waits_for_ever_and_who_has_left_is_forgotten(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "CALLER_PATIENCE", 0.01)
    outcome = await rig.callers.start(rig.entry, APP)
    assert outcome.code is ErrorCode.TIMEOUT
    life = rig.entry.session.app(APP)
    assert life is not None
    assert life.is_starting, "the start goes on without him"
    assert rig.entry.starts == {APP: []}


async def test_who_hangs_up_takes_nobody_else_with_him(rig: Rig) -> None:
    gone, stays = await asked(rig, starts=2)
    gone.cancel()
    await asyncio.wait([gone])
    assert len(rig.entry.starts[APP]) == 1
    rig.fed.app(rig.entry, APP)
    assert (await stays).ok


async def test_the_end_of_the_session_is_told_to_all_who_wait(rig: Rig) -> None:
    waiting = await asked(rig, starts=2)
    rig.entry.let_go()
    codes = [outcome.code for outcome in await asyncio.gather(*waiting)]
    assert codes == [ErrorCode.NO_ACTIVE_SESSION] * 2


@pytest.mark.failure("PER-02")
async def test_an_outcome_is_told_after_what_was_asked_for_is_on_disk(rig: Rig) -> None:
    written = asyncio.Event()

    async def write() -> None:
        await written.wait()

    save = asyncio.ensure_future(write())
    rig.entry.saves.add(save)
    save.add_done_callback(rig.entry.saves.discard)
    [waiting] = await asked(rig)
    rig.fed.app(rig.entry, APP)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    written.set()
    assert (await waiting).ok


@pytest.mark.failure("PER-03")
async def test_a_store_that_is_away_holds_a_caller_only_so_long(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "SAVE_PATIENCE", 0.01)
    save = asyncio.ensure_future(asyncio.Event().wait())
    rig.entry.saves.add(save)  # type: ignore[arg-type]
    [waiting] = await asked(rig)
    rig.fed.app(rig.entry, APP)
    assert (await waiting).ok
    assert not save.done(), "it is tried on without him"
    save.cancel()


async def test_a_start_is_measured_once_from_its_request_and_by_its_outcome(rig: Rig) -> None:
    now = asyncio.get_running_loop().time()
    rig.entry.started_at[APP] = now - 3.0
    rig.settle(None)
    rig.settle(None)
    assert rig.measured("ok") == "1.0"
    assert 'glassbridge_app_start_seconds_bucket{le="2.5",outcome="ok"} 0.0' in rig.metrics.text().decode()
    rig.entry.started_at[APP] = now
    rig.settle(Stage.HELD_BACK, "why")
    assert (rig.measured("held_back"), rig.measured("timeout")) == ("1.0", "none")


@pytest.mark.failure("APP-05")
def test_whoever_asks_waits_longer_than_who_is_asked() -> None:
    longest = callers.CALLER_PATIENCE + callers.SAVE_PATIENCE
    assert LifecycleTiming().start < callers.CALLER_PATIENCE
    assert longest < rest.PATIENCE, "a request handed on to the session's node"
    assert longest < dev.START_TIMEOUT
