"""The SQLite store where several workers share its file: what one of them changes, the others hear of and read again.

Rules: each worker is told after the change is on disk. News are at most once, so after any moment in which some may have been
lost everything is read again. (PostgreSQL tells by itself.)
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import orjson

from cloud.cluster.fabric import Fabric, Reply
from cloud.store.base import StoreError
from cloud.store.sql import Announce, Script
from cloud.store.sqlite import SqliteStore

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Where the workers of one machine hear of each other's changes.
NEWS: Final = "store.changed"


class SharedSqliteStore(SqliteStore):
    """`await SharedSqliteStore.open(path)`, then `await store.share(fabric)`."""

    def __init__(self, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        super().__init__(writer, reader)
        self._fabric: Fabric | None = None
        self._me = ""
        self._refreshing: set[asyncio.Task[None]] = set()

    async def share(self, fabric: Fabric, me: str) -> None:
        """Tell the others of changes made here, and hear of theirs. `me` tells this worker from them."""
        self._fabric, self._me = fabric, me
        await fabric.listen(NEWS, self._heard)
        fabric.on_gap(lambda: self._refresh_soon("", ""))
        await self._refresh("", "")  # what changed between opening and listening

    async def close(self) -> None:
        for task in list(self._refreshing):
            task.cancel()
        await super().close()

    async def _transact(self, script: Callable[[], Script[T]]) -> T:
        told: list[Announce] = []

        def listened() -> Script[T]:
            told.clear()
            inner = script()
            try:
                step = next(inner)
                while True:
                    if isinstance(step, Announce):
                        told.append(step)
                    step = inner.send((yield step))
            except StopIteration as end:
                result: T = end.value
                return result

        result = await super()._transact(listened)
        for news in told:
            if self._fabric is not None:
                body = orjson.dumps({"by": self._me, "kind": news.kind, "key": news.key})
                self._fabric.send(NEWS, body, fanout=True)
        return result

    def _heard(self, data: bytes, reply: Reply | None) -> None:
        try:
            news = orjson.loads(data)
            by, kind, key = str(news["by"]), str(news["kind"]), str(news["key"])
        except (ValueError, KeyError, TypeError):
            log.warning("news of the store that cannot be read")
            return
        if by != self._me:
            self._refresh_soon(kind, key)

    def _refresh_soon(self, kind: str, key: str) -> None:
        task = asyncio.get_running_loop().create_task(self._refresh(kind, key))
        self._refreshing.add(task)
        task.add_done_callback(self._refreshing.discard)

    async def _refresh(self, kind: str, key: str) -> None:
        """Another process changed something: read it, then tell our own."""
        news = [(one, key) for one in ((kind,) if kind else ("app", "token"))]
        if kind in ("app", ""):
            keys = {package: record.hashed_api_key for package, record in self.apps.items()}
            try:
                await (self.get_app(key) if key else self.list_apps())
            except StoreError as error:
                log.warning("records that changed cannot be read: %s", error)
                return
            news += [
                ("key", package)
                for package, record in self.apps.items()
                if keys.get(package, record.hashed_api_key) != record.hashed_api_key
            ]
        tell = self.on_change
        if tell is not None:
            for one in news:  # in a turn of its own: what goes wrong there is not this task's end
                asyncio.get_running_loop().call_soon(tell, *one)


async def open_shared(path: Path, fabric: Fabric, me: str) -> SharedSqliteStore:
    """Open the file and join the others. Raises ConfigError."""
    store = await SharedSqliteStore.open(path)
    assert isinstance(store, SharedSqliteStore)
    await store.share(fabric, me)
    return store
