"""App servers that fail and return: what follows from it for everybody who waits for one.

Rules: `cloud.core.endpoints` decides, here are only the tasks that wait. Nobody is brought back faster than the endpoint's
pace. Source: failure catalogue APP-02, APP-10, APP-11.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from cloud.core.app_lifecycle import AppState
from cloud.core.endpoints import Endpoints
from cloud.session_entry import Feed, SessionEntry
from cloud.store.records import AppRecord
from cloud.tasks import Tasks


class AppServers:
    """`sessions` and `records` (package -> app) are live views; `clock`: monotonic seconds."""

    def __init__(
        self,
        *,
        endpoints: Endpoints,
        sessions: Mapping[str, SessionEntry],
        records: Callable[[], Mapping[str, AppRecord]],
        feed: Feed,
        tasks: Tasks,
        clock: Callable[[], float],
    ) -> None:
        self._endpoints = endpoints
        self._sessions = sessions
        self._records = records
        self._feed = feed
        self._tasks = tasks
        self._clock = clock

    def verdict(self, url: str, ok: bool) -> None:
        """A start at this endpoint has ended."""
        now = self._clock()
        if ok:
            if self._endpoints.succeeded(url, now):
                self._tasks.own(self._bring_back(self._waiting_for(url)))
        elif self._endpoints.failed(url, now):
            self._tasks.own(self._look(url))

    def restarted(self, package: str) -> int:
        """The app's server was found, registered itself or restarted: its sessions here are brought back now. How many."""
        record = self._records().get(package)
        if record is None:
            return 0
        self._endpoints.seen(record.public_url.rstrip("/"))
        waiting = [
            (entry, package)
            for entry in self._sessions.values()
            if (life := entry.session.app(package)) and life.wanted and life.state is AppState.ERROR
        ]
        self._tasks.own(self._bring_back(waiting))
        return len(waiting)

    def _waiting_for(self, url: str) -> list[tuple[SessionEntry, str]]:
        """Who waits for the next attempt at an app of this endpoint."""
        packages = [app for app, record in self._records().items() if record.public_url.rstrip("/") == url]
        return [
            (entry, package)
            for entry in self._sessions.values()
            for package in packages
            if (life := entry.session.app(package)) is not None and life.awaits_its_server
        ]

    async def _look(self, url: str) -> None:
        """One task per endpoint that is away; it ends with the outage, or when the endpoint is given up as dead."""
        while self._endpoints.looks_on(url, self._clock()):
            await asyncio.sleep(self._endpoints.look)
            if not self._endpoints.looks_on(url, self._clock()):
                return
            waiting = self._waiting_for(url)
            scout = self._endpoints.scout([_next_attempt(*one) for one in waiting])
            if scout is not None:
                entry, package = waiting[scout]
                self._feed(entry, entry.session.app_server_seen, package)

    async def _bring_back(self, waiting: list[tuple[SessionEntry, str]]) -> None:
        """One after the other at the pace of the endpoint, so that nobody is held back for a full queue."""
        for entry, package in waiting:
            self._feed(entry, entry.session.app_server_seen, package)
            await asyncio.sleep(self._endpoints.pause)


def _next_attempt(entry: SessionEntry, package: str) -> float:
    life = entry.session.app(package)
    return (life and life.next_attempt) or 0.0
