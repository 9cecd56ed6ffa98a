"""Those who wait until an app is started or stopped: each is told the outcome, in time, and after it is on disk.

Rules: nobody waits for ever; a session that ends tells all who wait (`SessionEntry.let_go`). Source: failure catalogue
APP-05 (budgets nest).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Mapping
from typing import Final

from cloud.core import effects as fx
from cloud.core.app_lifecycle import Stage
from cloud.http.ports import AppOutcome
from cloud.journal import Journal
from cloud.metrics import Metrics
from cloud.session_entry import Feed, SessionEntry
from wire.errors import ErrorCode

#: A caller of start or stop waits this long at most, seconds: what an app's server has for a start (10 s) and some slack. A
#: start that waited long in our own queue may end later; its caller is told so, and lists tell its end.
CALLER_PATIENCE: Final = 12.0
#: And then for what it asked for to be on disk; a store that is away is tried on without it.
SAVE_PATIENCE: Final = 5.0

_CODES: Final[Mapping[Stage, ErrorCode]] = {
    Stage.WEBHOOK: ErrorCode.APP_UNREACHABLE,
    Stage.TIMEOUT: ErrorCode.TIMEOUT,
    Stage.AUTHENTICATION: ErrorCode.INVALID_API_KEY,
    Stage.CONNECTION: ErrorCode.GLASSES_DISCONNECTED,
    Stage.HARDWARE: ErrorCode.APP_INCOMPATIBLE,
    Stage.HELD_BACK: ErrorCode.APP_UNREACHABLE,
}


class Callers:
    """`apps`: the packages that there are."""

    def __init__(self, *, apps: Container[str], feed: Feed, journal: Journal, metrics: Metrics) -> None:
        self._apps = apps
        self._feed = feed
        self._journal = journal
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()

    async def start(self, entry: SessionEntry, package: str) -> AppOutcome:
        """Start an app; returns when it is connected or has failed."""
        return await self._wait(entry, entry.starts, package, entry.session.start_app)

    async def stop(self, entry: SessionEntry, package: str) -> AppOutcome:
        """Stop an app; returns when it is stopped."""
        return await self._wait(entry, entry.stops, package, entry.session.stop_app)

    async def _wait(
        self,
        entry: SessionEntry,
        waiters: dict[str, list[asyncio.Future[AppOutcome]]],
        package: str,
        method: Callable[..., list[fx.Effect]],
    ) -> AppOutcome:
        future: asyncio.Future[AppOutcome] = self._loop.create_future()
        waiters.setdefault(package, []).append(future)
        self._feed(entry, method, package)
        try:
            outcome = await asyncio.wait_for(future, CALLER_PATIENCE)
        except TimeoutError:
            outcome = AppOutcome(ErrorCode.TIMEOUT, "no outcome yet; the state of the app tells how it ends")
        finally:
            if future in waiters.get(package, []):
                waiters[package].remove(future)
        if entry.saves:  # what the user asked for is on disk before he is told so
            await asyncio.wait(set(entry.saves), timeout=SAVE_PATIENCE)
        return outcome

    def started(self, entry: SessionEntry, settled: fx.StartSettled, now: float) -> None:
        """A start has ended, well or not."""
        began = entry.started_at.pop(settled.package, None)
        if began is not None:
            outcome = "ok" if settled.ok else (settled.stage or Stage.CONNECTION).value.lower()
            self._metrics.histogram("app_start_seconds").labels(outcome=outcome).observe(now - began)
        if settled.ok:
            result = AppOutcome()
        elif settled.stage is Stage.WEBHOOK and settled.package not in self._apps:
            result = AppOutcome(ErrorCode.NOT_FOUND, "App not found")
        else:
            result = AppOutcome(_CODES[settled.stage or Stage.CONNECTION], settled.message)
        _tell(entry.starts.pop(settled.package, []), result)
        if not settled.ok:
            self._journal.note(
                entry,
                "start_failed",
                {"package": settled.package, "stage": settled.stage, "why": settled.message},
            )

    @staticmethod
    def stopped(entry: SessionEntry, package: str) -> None:
        """A stop has ended."""
        _tell(entry.stops.pop(package, []), AppOutcome())


def _tell(waiters: list[asyncio.Future[AppOutcome]], outcome: AppOutcome) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(outcome)
