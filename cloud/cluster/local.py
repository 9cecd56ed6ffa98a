"""The fabric without a server: messages within this process, records in one SQLite file.

Rules: a handler never runs inside `send` (it runs in the next turn of the loop), so a machine that performs its effects is
not entered again by what they cause; remote engines behave the same. Records go through one writer thread with group
commit: what returned is on disk (WAL, synchronous=FULL), and revision and fence are checked inside the transaction.
Several nodes may live in one process (`LocalEngine.node`): that is how most tests of the cluster run.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from cloud.cluster.exchange import Exchange, nobody, replier
from cloud.cluster.fabric import (
    Conflict,
    FabricError,
    FabricStats,
    Fenced,
    Handler,
    NoOne,
    Rec,
    Unavailable,
    Unlisten,
    check_condition,
    check_name,
    check_size,
)
from wire.errors import ConfigError

#: Records written by one transaction. One fsync costs about 1 ms: 512 per fsync is far above what sessions need, and
#: keeps the first of a batch from waiting long for the last.
BATCH_MAX: Final = 512
#: Writes waiting for the disk; a disk that far behind has failed.
PENDING_MAX: Final = 8192

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, value BLOB NOT NULL, rev INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counter (one INTEGER PRIMARY KEY CHECK (one = 1), rev INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES (1, 0);
"""


class SqliteRecords:
    """The records half in one SQLite file; shared by the nodes of one process."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Internal: use `open`."""
        self._connection = connection
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fabric")
        self._pending: list[tuple[_Work, asyncio.Future[Rec | None]]] = []
        self._committing: asyncio.Future[list[Rec | FabricError | None]] | None = None
        self._closed = False

    @classmethod
    async def open(cls, path: Path | None) -> SqliteRecords:
        """`path` None keeps the records in memory. Raises ConfigError if the file cannot be used."""
        try:
            return cls(await asyncio.to_thread(_connect, path))
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"database {path}", f"it cannot be opened ({error})", "Check the owner of the data directory."
            ) from error

    async def run(self, work: _Work) -> Rec | None:
        """Put one operation into the next transaction; returns when that is on disk."""
        if self._closed:
            raise Unavailable("the fabric is closed")
        if len(self._pending) >= PENDING_MAX:
            raise Unavailable("too many writes wait for the disk")
        done: asyncio.Future[Rec | None] = asyncio.get_running_loop().create_future()
        self._pending.append((work, done))
        if self._committing is None:
            self._next_batch()
        return await done

    def _next_batch(self) -> None:
        batch, self._pending = self._pending[:BATCH_MAX], self._pending[BATCH_MAX:]
        if not batch:
            self._committing = None
            return
        self._committing = asyncio.get_running_loop().run_in_executor(
            self._thread, _commit, self._connection, [work for work, _ in batch]
        )
        # `batch` is bound here, not looked up later: by then the name means the next one.
        self._committing.add_done_callback(lambda finished, batch=batch: self._finish(batch, finished))  # type: ignore[misc]

    def _finish(
        self,
        batch: list[tuple[_Work, asyncio.Future[Rec | None]]],
        finished: asyncio.Future[list[Rec | FabricError | None]],
    ) -> None:
        for (_, done), outcome in zip(batch, finished.result(), strict=True):
            if done.done():  # its caller was cancelled; the write stands
                continue
            if isinstance(outcome, FabricError):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)
        self._next_batch()

    async def close(self) -> None:
        """Finish what was accepted, let go of the file."""
        if self._closed:
            return
        self._closed = True
        while self._committing is not None:
            await asyncio.wait([self._committing])
            await asyncio.sleep(0)
        await asyncio.to_thread(self._thread.shutdown)
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()


class LocalEngine:
    """What the nodes of one process share. `await LocalEngine.open(path)`, then `engine.node()` for each."""

    def __init__(self, records: SqliteRecords) -> None:
        """Internal: use `open`."""
        self.records = records
        self.nodes: list[LocalFabric] = []

    @classmethod
    async def open(cls, path: Path | None = None) -> LocalEngine:
        """`path` None keeps the records in memory. Raises ConfigError."""
        return cls(await SqliteRecords.open(path))

    def node(self) -> LocalFabric:
        """Another node. Closing it leaves the engine open."""
        node = LocalFabric(self)
        self.nodes.append(node)
        return node

    async def close(self) -> None:
        """Close every node and the records."""
        for node in list(self.nodes):
            await node.close()
        await self.records.close()


class LocalFabric:
    """Implements `Fabric` for one node; see the module."""

    def __init__(self, engine: LocalEngine) -> None:
        """Internal: use `LocalEngine.node` or `open`."""
        self._engine = engine
        self._stats = FabricStats()
        self._exchange = Exchange(self._stats)
        self._owns_engine = False
        self._closed = False

    @classmethod
    async def open(cls, path: Path | None = None) -> LocalFabric:
        """The only node of an engine of its own. Raises ConfigError."""
        fabric = (await LocalEngine.open(path)).node()
        fabric._owns_engine = True
        return fabric

    @property
    def stats(self) -> FabricStats:
        return self._stats

    @property
    def connected(self) -> bool:
        return not self._closed

    def send(self, addr: str, data: bytes, fanout: bool = False) -> bool:
        check_name(addr)
        check_size(data)
        if self._closed:
            self._stats.dropped += 1
            return False
        self._stats.sent += 1
        if self._exchange.has(addr):
            self._exchange.post(addr, data, fanout=fanout)
            if not fanout:
                return True
        for node in self._engine.nodes:
            if node is not self and node._exchange.has(addr):
                self._stats.sent_remote += 1
                node._stats.received_remote += 1
                node._exchange.post(addr, data, fanout=fanout)
        return True

    async def ask(self, addr: str, data: bytes, timeout: float) -> bytes:
        check_name(addr)
        check_size(data)
        if self._closed:
            raise Unavailable("the fabric is closed")
        target = next((n for n in (self, *self._engine.nodes) if n._exchange.has(addr)), None)
        if target is None:
            raise NoOne(addr)
        self._stats.sent += 1
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        target._exchange.post(addr, data, reply=replier(answer), lost=nobody(answer, addr))
        async with asyncio.timeout(timeout):
            return await answer

    async def listen(self, addr: str, fn: Handler) -> Unlisten:
        return self._exchange.add(check_name(addr), fn)

    async def get(self, key: str) -> Rec | None:
        check_name(key)
        return await self._run(lambda connection: _get(connection, key))

    async def _run(self, work: _Work) -> Rec | None:
        if self._closed:
            raise Unavailable("the fabric is closed")
        return await self._engine.records.run(work)

    async def put(
        self, key: str, value: bytes | None, *, rev: int | None = None, fence: tuple[str, int] | None = None
    ) -> int:
        check_name(key)
        check_size(value)
        check_condition(key, rev, fence)
        written = await self._run(lambda connection: _put(connection, key, value, rev, fence))
        assert written is not None
        self._stats.puts += 1
        return written.rev

    def on_gap(self, fn: Callable[[], None]) -> None:
        """Nothing is lost within a process."""

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._exchange.clear()
        self._engine.nodes.remove(self)
        if self._owns_engine:
            await self._engine.close()


# -------------------------------------------------------------------------------------------------- the writer thread

_Work = Callable[[sqlite3.Connection], Rec | None]


def _connect(path: Path | None) -> sqlite3.Connection:
    connection = sqlite3.connect(
        ":memory:" if path is None else path,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=32,
    )
    if path is not None:
        path.chmod(0o600)
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.executescript(_SCHEMA)
    return connection


def _commit(connection: sqlite3.Connection, batch: list[_Work]) -> list[Rec | FabricError | None]:
    """Run a batch in one transaction. A refused condition changes nothing and so needs no savepoint."""
    outcomes: list[Rec | FabricError | None] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for work in batch:
            try:
                outcomes.append(work(connection))
            except FabricError as refused:
                outcomes.append(refused)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        return [Unavailable(f"the records cannot be written: {error}")] * len(batch)
    return outcomes


def _get(connection: sqlite3.Connection, key: str) -> Rec | None:
    row = connection.execute("SELECT value, rev FROM records WHERE key = ?", (key,)).fetchone()
    return Rec(*row) if row else None


def _put(
    connection: sqlite3.Connection,
    key: str,
    value: bytes | None,
    rev: int | None,
    fence: tuple[str, int] | None,
) -> Rec:
    if fence is not None:
        guard = _get(connection, fence[0])
        if guard is None or guard.rev != fence[1]:
            raise Fenced(f"{fence[0]} is not at revision {fence[1]}")
    if rev is not None:
        found = _get(connection, key)
        if (found.rev if found else 0) != rev:
            raise Conflict(f"{key} is not at revision {rev}")
    (new,) = connection.execute("UPDATE counter SET rev = rev + 1 RETURNING rev").fetchone()
    if value is None:
        connection.execute("DELETE FROM records WHERE key = ?", (key,))
    else:
        connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (key, value, new))
    return Rec(b"", new)
