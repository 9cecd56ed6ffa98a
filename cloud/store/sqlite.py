"""The store in one SQLite file: WAL, one writer with group commit, numbered migrations.

Rules: a write is acknowledged after its COMMIT with synchronous=FULL, so it survives kill -9 and a power cut. Writes
that arrive while one is being committed share the next commit; each has its own savepoint, so one that fails takes no
other with it. SQL runs in two threads of its own, never in the event loop. A database that cannot be read is set aside
as `*.corrupt-N`, never deleted, and the last good copy takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from cloud.store.base import StoreError
from cloud.store.sql import Row, Script, SqlStore, Statement, migrations
from wire.errors import BridgeError, ConfigError

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[], Script[T]]

#: Writes that may wait for the disk. At 1 kB each this is 4 MB; a disk that far behind has failed.
PENDING_MAX: Final = 4096
#: How long one process waits for another's write (several workers share the file).
BUSY_TIMEOUT: Final = 5.0
#: Folder beside the database with the bytes of photos.
PHOTOS: Final = "photos"
#: A copy is taken when the last one is older than this, at start.
COPY_INTERVAL: Final = 24 * 3600.0


class SqliteStore(SqlStore):
    """Implements `cloud.store.base.Store`. Make one with `await SqliteStore.open(path)`."""

    BYTES_OF = "length(CAST({} AS BLOB))"

    def __init__(self, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        """Internal: use `open`."""
        super().__init__()
        self._photos = Path(PHOTOS)
        self._writer = writer
        self._reader = reader
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="store-read")
        self._pending: list[tuple[Work[Any], asyncio.Future[Any]]] = []
        self._committing: asyncio.Future[Any] | None = None
        self._closed = False

    @classmethod
    async def open(cls, path: Path, *, busy_timeout: float = BUSY_TIMEOUT) -> SqliteStore:
        """Open, check, migrate. Raises ConfigError if the file cannot be used (not writable, from a newer version)."""
        store = await asyncio.to_thread(cls._open, path, busy_timeout)
        await store.list_apps()
        return store

    @classmethod
    def _open(cls, path: Path, busy_timeout: float) -> SqliteStore:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            _set_aside_if_corrupt(path)
            writer = _connect(path, busy_timeout)
            _migrate(writer, path, migrations("sqlite"))
            _keep_good_copy(writer, path)
            store = cls(writer, _connect(path, busy_timeout))
            store._photos = path.parent / PHOTOS
            return store
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"database {path}", f"it cannot be opened ({error})", "Check the owner of the data directory."
            ) from error

    # ---------------------------------------------------------------------------------------------- plumbing

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        while self._committing is not None:
            await asyncio.wait([self._committing])
            await asyncio.sleep(0)
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        self._write_thread.shutdown()
        self._read_thread.shutdown()
        self._reader.close()
        with contextlib.suppress(sqlite3.Error):
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._writer.close()

    async def _read(self, sql: str, *args: Any) -> Sequence[Row]:
        if self._closed:
            raise StoreError("the store is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._read_thread, _rows, self._reader, Statement(sql, args)
            )
        except sqlite3.Error as error:
            raise StoreError(f"read failed: {error}") from error

    async def _write(self, sql: str, *args: Any) -> Sequence[Row]:
        def script() -> Script[Sequence[Row]]:
            return (yield Statement(sql, args))

        return await self._transact(script)

    async def _transact(self, script: Work[T]) -> T:
        if self._closed:
            raise StoreError("the store is closed")
        if len(self._pending) >= PENDING_MAX:
            raise StoreError("too many writes wait for the disk")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._pending.append((script, done))
        if self._committing is None:
            self._next_batch()
        return await done

    async def put_file(self, name: str, data: bytes) -> None:
        def write() -> None:
            self._photos.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._photos / name).write_bytes(data)

        try:
            await asyncio.to_thread(write)
        except OSError as error:
            raise StoreError(f"write failed: {error.strerror}") from error

    async def get_file(self, name: str) -> bytes | None:
        try:
            return await asyncio.to_thread((self._photos / name).read_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"read failed: {error.strerror}") from error

    async def delete_file(self, name: str) -> None:
        with contextlib.suppress(
            OSError
        ):  # it is gone already, or will be found by whoever cleans the folder
            await asyncio.to_thread((self._photos / name).unlink)

    def _next_batch(self) -> None:
        if not self._pending:
            self._committing = None
            return
        batch, self._pending = self._pending, []
        self._committing = asyncio.get_running_loop().run_in_executor(
            self._write_thread, _commit, self._writer, [work for work, _ in batch]
        )
        self._committing.add_done_callback(lambda finished: self._finish(batch, finished))

    def _finish(
        self, batch: list[tuple[Work[Any], asyncio.Future[Any]]], finished: asyncio.Future[list[Any]]
    ) -> None:
        for (_, done), outcome in zip(batch, finished.result(), strict=True):
            if done.done():  # its caller was cancelled; the write stands
                continue
            if isinstance(outcome, BridgeError):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)
        self._next_batch()


# -------------------------------------------------------------------------------------------------- in the threads


def _connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    # Each connection is used by one thread at a time: opened in one, used in its executor's only thread.
    connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _rows(connection: sqlite3.Connection, statement: Statement) -> Sequence[Row]:
    if statement.many:
        connection.executemany(statement.sql, statement.args)
        return ()
    return connection.execute(statement.sql, tuple(statement.args)).fetchall()


def _play(connection: sqlite3.Connection, script: Script[T]) -> T:
    """Run a script inside the open transaction. There is one writer, and nobody else to tell."""
    rows: Sequence[Row] = ()
    try:
        step = next(script)
        while True:
            rows = _rows(connection, step) if isinstance(step, Statement) else ()
            step = script.send(rows)
    except StopIteration as end:
        result: T = end.value
        return result


def _commit(connection: sqlite3.Connection, batch: Sequence[Work[Any]]) -> list[Any]:
    """Run every work in one transaction; an outcome is its result or a BridgeError."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        outcomes: list[Any] = []
        for work in batch:
            connection.execute("SAVEPOINT one")
            try:
                outcomes.append(_play(connection, work()))
            except Exception as error:
                connection.execute("ROLLBACK TO one")
                if not isinstance(error, BridgeError):
                    log.warning("a write failed: %s", error)
                    error = StoreError(f"write failed: {error}")
                outcomes.append(error)
            connection.execute("RELEASE one")
        connection.execute("COMMIT")
    except sqlite3.Error as error:  # locked, full, read-only: nothing was written, nobody is told otherwise
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        return [StoreError(f"write failed: {error}") for _ in batch]
    return outcomes


def _migrate(connection: sqlite3.Connection, path: Path, known: Sequence[tuple[int, str]]) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    newest = known[-1][0]
    if version > newest:
        raise ConfigError(
            f"database {path}",
            f"it has version {version}, this program knows {newest}",
            "Run the newer program, or restore the copy made before the upgrade.",
        )
    if 0 < version < newest:
        _copy(connection, path.with_name(f"{path.name}.before-{newest:04d}"))
    for number, sql in known:
        # Several workers may open the file at once: whoever waited here finds the work done.
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        try:
            if number > version:
                for statement in _statements(sql):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


def _statements(sql: str) -> Iterator[str]:
    """The statements of a migration, one by one: `executescript` would commit before it begins."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement


def _copy(connection: sqlite3.Connection, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    copy = sqlite3.connect(temporary)
    try:
        connection.backup(copy)
    finally:
        copy.close()
    temporary.replace(target)


def _good_copy(path: Path) -> Path:
    return path.with_name(path.name + ".good")


def _keep_good_copy(connection: sqlite3.Connection, path: Path) -> None:
    """Once a day, of a database that has just passed its check."""
    copy = _good_copy(path)
    if not copy.exists() or time.time() - copy.stat().st_mtime > COPY_INTERVAL:
        _copy(connection, copy)


def _set_aside_if_corrupt(path: Path) -> None:
    """Quarantine a file that is no database, and put the last good copy in its place (PER-05)."""
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT)
        try:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
        if verdict == "ok":
            return
        problem = str(verdict)
    except sqlite3.OperationalError:
        raise  # locked or not readable: not a verdict about its content
    except sqlite3.DatabaseError as error:
        problem = str(error)
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    good = _good_copy(path)
    if good.exists():
        source = sqlite3.connect(good)
        try:
            _copy(source, path)
        finally:
            source.close()
    log.error(
        "database %s cannot be read (%s); it is kept as %s, %s",
        path,
        problem,
        aside.name,
        "the last good copy is used" if good.exists() else "an empty one is used",
    )
