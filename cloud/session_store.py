"""What sessions read from the store and write to it: in order per user, tried again, bounded.

Rules: a store that fails costs no session; what a user asked for last is what stays. Source: failure catalogue PER-02,
PER-03, PRO-04.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final

from cloud.core import effects as fx
from cloud.core.session import AppInfo, UserData
from cloud.metrics import Metrics
from cloud.session_entry import Feed, SessionEntry, short
from cloud.store.base import StorageLimit, Store, StoreError
from cloud.store.records import AppRecord, Location, SessionRecord
from cloud.tasks import Tasks

log = logging.getLogger(__name__)

#: A write that failed is tried again after these pauses, 2 minutes in all: a database that moves to another machine is back
#: within one. After that it is an outage, and what was asked for is lost with this process.
SAVE_PAUSES: Final = (0.2, 1.0, 3.0, *(10.0,) * 12)
#: Writes that wait for the store at once, about 2 kB each; more would be a store that is away while thousands come.
SAVES_MAX: Final = 20_000
#: Reading a user from a failing store is tried this often, with growing pauses.
LOAD_TRIES: Final = 20


class SessionStore:
    """`apps`: the records of all apps, a live view."""

    def __init__(
        self, *, store: Store, apps: Mapping[str, AppInfo], feed: Feed, tasks: Tasks, metrics: Metrics
    ) -> None:
        self._store = store
        self._apps = apps
        self._feed = feed
        self._tasks = tasks
        self._failures = metrics.counter("store_failures_total")
        self._last: dict[str, asyncio.Task[None]] = {}
        self._waiting = 0

    # ================================================================================================ writing

    def begun(self, entry: SessionEntry) -> None:
        """A session begins that another process may have to go on with."""
        user_id = entry.session.user_id
        record = SessionRecord(user_id, user_id, entry.session.link.epoch, time.time())
        self._save(entry, "put_session", partial(self._store.put_session, record))

    def ended(self, entry: SessionEntry) -> None:
        """It is over for good."""
        self._save(entry, "delete_session", partial(self._store.delete_session, entry.session.user_id))

    def seen(self, entry: SessionEntry) -> None:
        """A user is here, perhaps for the first time."""
        self._save(entry, "ensure_user", partial(self._store.ensure_user, entry.session.user_id))

    def save(self, entry: SessionEntry, effect: fx.SaveWanted | fx.SaveSettings | fx.SaveLocation) -> None:
        """What a session wants kept of its user."""
        user_id, store = entry.session.user_id, self._store
        match effect:
            case fx.SaveWanted(package, wanted):
                self._save(entry, "set_wanted", partial(store.set_wanted, user_id, package, wanted))
            case fx.SaveSettings(changes):
                write = partial(store.update_user_settings, user_id, changes)
                self._save(entry, "update_user_settings", write)
            case fx.SaveLocation(lat, lng, accuracy):
                location = Location(lat, lng, accuracy, time.time())
                self._save(entry, "put_location", partial(store.put_location, user_id, location))

    def _save(self, entry: SessionEntry, what: str, write: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        user_id = entry.session.user_id
        if self._waiting >= SAVES_MAX:
            self._failures.labels(operation=what).inc()
            return
        self._waiting += 1
        task = self._last[user_id] = self._tasks.own(self._write(what, write, self._last.get(user_id)))
        entry.saves.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._waiting -= 1
            entry.saves.discard(task)
            if self._last.get(user_id) is task:
                del self._last[user_id]

        task.add_done_callback(done)

    async def _write(
        self, what: str, write: Callable[[], Coroutine[Any, Any, Any]], before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:  # in order: what a user asked for last is what stays
            await asyncio.wait((before,))
        for pause in (*SAVE_PAUSES, None):
            try:
                await write()
                return
            except StorageLimit as error:
                log.warning("storage: %s was refused: %s", what, error)
                return
            except StoreError:
                self._failures.labels(operation=what).inc()
                if pause is None:
                    log.warning("storage: %s failed for good", what)
                    return
                await asyncio.sleep(pause)

    def put_app(self, record: AppRecord) -> None:
        """Keep a changed app record."""
        self._tasks.own(self._put_app(record))

    async def _put_app(self, record: AppRecord) -> None:
        try:
            await self._store.put_app(record)
        except StoreError:
            self._failures.labels(operation="put_app").inc()

    # ================================================================================================ reading

    def load_user(self, entry: SessionEntry) -> None:
        """Read what is known of the user; the session hears of it when it is."""
        self._tasks.own(self._load_user(entry))

    async def _load_user(self, entry: SessionEntry) -> None:
        user_id = entry.session.user_id
        for attempt in range(LOAD_TRIES):
            try:
                # One after the other: a connect costs three reads, however many users come back at once (PRO-04).
                settings = await self._store.get_user_settings(user_id)
                wanted = await self._store.get_wanted_apps(user_id)
                location = await self._store.get_location(user_id)
                break
            except StoreError:
                self._failures.labels(operation="load_user").inc()
                await asyncio.sleep(min(10.0, 0.2 * 2**attempt))
                if not entry.registered:
                    return
        else:
            log.error("storage: the data of user %s could not be read", short(user_id))
            return
        system = [p for p, i in self._apps.items() if i.kind == "system_dashboard" and p not in wanted]
        fix = None
        if location is not None:
            fix = {"type": "location_update", "lat": location.lat, "lng": location.lng}
            if location.accuracy is not None:
                fix["accuracy"] = location.accuracy
        self._feed(entry, entry.session.user_loaded, UserData(settings, (*wanted, *system), fix))

    def load_app(self, entry: SessionEntry, package: str, cycle: int) -> None:
        """Read an app's settings for its start; without them it starts with its defaults."""
        self._tasks.own(self._load_app(entry, package, cycle))

    async def _load_app(self, entry: SessionEntry, package: str, cycle: int) -> None:
        values = await self._app_settings(entry, package)
        self._feed(entry, entry.session.app_loaded, package, cycle, values)

    def push_app_settings(self, entry: SessionEntry, package: str) -> None:
        """An app's settings were changed in the store."""
        self._tasks.own(self._push_app_settings(entry, package))

    async def _push_app_settings(self, entry: SessionEntry, package: str) -> None:
        values = await self._app_settings(entry, package)
        if values is not None:
            self._feed(entry, entry.session.app_settings_changed, package, values)

    async def _app_settings(self, entry: SessionEntry, package: str) -> dict[str, Any] | None:
        try:
            return await self._store.get_app_settings(entry.session.user_id, package)
        except StoreError:
            self._failures.labels(operation="get_app_settings").inc()
            return None

    def push_user_settings(self, entry: SessionEntry) -> None:
        """The user's settings were changed in the store."""
        self._tasks.own(self._push_user_settings(entry))

    async def _push_user_settings(self, entry: SessionEntry) -> None:
        try:
            settings = await self._store.get_user_settings(entry.session.user_id)
        except StoreError:
            self._failures.labels(operation="get_user_settings").inc()
            return
        self._feed(entry, entry.session.settings_changed, settings)
