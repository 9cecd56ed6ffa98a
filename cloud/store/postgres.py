"""The store in PostgreSQL, for nodes that share one: a bounded pool, and one connection that listens for others' changes.

Rules: a write is acknowledged after its COMMIT. The database may go away for a while: an operation waits for it a few
seconds and then fails with a `StoreError`; a bounded number wait; one task alone tries to reach it again. App records stay
in memory meanwhile and are read anew when it is back, because announcements may have been missed. The schema is
SQLite's, in PostgreSQL's types; a migration leaves the program before it working, so nodes of two versions share it. The
address holds a password and appears in no log and no error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import urlsplit

import asyncpg

from cloud.store.base import StorageLimit, StoreError
from cloud.store.sql import Announce, Lock, Row, Script, SqlStore, Statement, migrations
from wire.backoff import Backoff, BackoffPolicy
from wire.errors import BridgeError, ConfigError

log = logging.getLogger(__name__)

T = TypeVar("T")
Connection: TypeAlias = Any  # asyncpg has no type information

#: Operations that may wait for the database at once; at 2 kB each this is 8 MB, and 4,000 waiting callers are an outage.
PENDING_MAX: Final = 4096
#: How long an operation waits for a database that is away; a restart on the same machine takes about 2 s. Seconds.
PATIENCE: Final = 5.0
#: One attempt, from taking a connection to the COMMIT. A statement of ours takes milliseconds. Seconds.
ATTEMPT: Final = 4.0
CONNECT: Final = 3.0
#: The listening connection is asked this often whether it lives, and must answer within `CONNECT`. Seconds.
PING: Final = 5.0
#: A node that is started before its database waits this long, then ends with 78 and is started again by its supervisor.
START_PATIENCE: Final = 300.0
RETRY: Final = BackoffPolicy(first=0.1, factor=2.0, ceiling=2.0, jitter=0.0)
#: Deadlocks and serialisation failures are repeated so often at once; each repetition finds the other one done.
CONFLICTS_MAX: Final = 5
CHANNEL: Final = "glassbridge_records"
#: Failures that say nothing about what was asked: the server is not there, not yet, or not any more.
AWAY: Final = (
    OSError,  # TimeoutError, too
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.OperatorInterventionError,  # shut down by its administrator, crashed, a statement cancelled
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,  # it was the primary until a moment ago
    asyncpg.InterfaceError,  # the connection is closed already
)
#: Held while migrating, so that nodes that start together do it once. Any constant; this one spells "glas".
MIGRATION_LOCK: Final = 0x676C6173


def shown(url: str) -> str:
    """The address without user and password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "store.url"
    return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"


class PostgresStore(SqlStore):
    """Implements `cloud.store.base.Store`. Make one with `await PostgresStore.open(url)`."""

    BYTES_OF = "octet_length({})"

    def __init__(self, url: str, *, pool_max: int, patience: float) -> None:
        """Internal: use `open`."""
        super().__init__()
        self._url = url
        self._patience = patience
        self._pool_max = pool_max
        self._pool: Any = None
        self._me = secrets.token_hex(8)
        self._up = asyncio.Event()
        self._suspect = asyncio.Event()
        self._reload: set[str] = set()
        self._waiting = 0
        self._closed = False
        self._problem = "it was never reached"
        self._down_at = 0.0
        self._watcher: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        pool_max: int = 10,
        patience: float = PATIENCE,
        start_patience: float = START_PATIENCE,
    ) -> PostgresStore:
        """Connect, migrate, read the app records. Waits for a database that does not answer yet.

        Raises ConfigError: the database refuses us, or is not there in `start_patience` seconds.
        """
        store = cls(url, pool_max=pool_max, patience=patience)
        loop = asyncio.get_running_loop()
        give_up = loop.time() + start_patience
        backoff = Backoff(RETRY)
        while True:
            try:
                await store._prepare()
                break
            except asyncpg.ClientConfigurationError as error:
                raise ConfigError(
                    "store.url", _why(error), "It looks like postgresql://user:password@host/name."
                ) from error
            except AWAY as error:
                if loop.time() >= give_up:
                    raise ConfigError(
                        f"store {shown(url)}",
                        f"it did not answer within {start_patience:g} s ({_why(error)})",
                        "Start PostgreSQL, or correct store.url.",
                    ) from error
                if not store._down_at:
                    store._down_at = loop.time()
                    log.warning("store %s does not answer yet: %s", shown(url), _why(error))
                await asyncio.sleep(backoff.next(0.5))
            except (asyncpg.PostgresError, ValueError) as error:
                raise ConfigError(
                    f"store {shown(url)}",
                    f"it refuses us: {_why(error)}",
                    "Correct store.url; `psql` with the same address shows what is wrong.",
                ) from error
        try:
            await store.list_apps()
        except BaseException:
            await store.close()
            raise
        return store

    async def _prepare(self) -> None:
        """One attempt to reach the database and bring its schema up to date; then the pool and the watcher."""
        connection = await self._connect()
        try:
            await _migrate(connection, shown(self._url))
            # From here on nothing that others change is missed; what is read, is read after this.
            await connection.add_listener(CHANNEL, self._heard)
        except BaseException:
            connection.terminate()
            raise
        self._pool = asyncpg.create_pool(
            self._url,
            min_size=0,  # what has gone away is not waited for
            max_size=self._pool_max,
            max_inactive_connection_lifetime=300.0,
            timeout=CONNECT,
            command_timeout=ATTEMPT,
            server_settings=_SERVER_SETTINGS,
        )
        await self._pool
        self._up.set()
        self._watcher = asyncio.create_task(self._watch(connection), name="store-watch")

    async def _connect(self) -> Connection:
        return await asyncpg.connect(
            self._url, timeout=CONNECT, command_timeout=ATTEMPT, server_settings=_SERVER_SETTINGS
        )

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._up.set()  # those who wait find it closed
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), ATTEMPT)
            except (TimeoutError, *AWAY):
                self._pool.terminate()

    @property
    def away(self) -> str | None:
        """Why the database cannot be reached, and since when; None = it can."""
        if self._up.is_set():
            return None
        return f"away for {asyncio.get_running_loop().time() - self._down_at:.0f} s ({self._problem})"

    # ---------------------------------------------------------------------------------------------- operations

    async def _read(self, sql: str, *args: Any) -> Sequence[Row]:
        text = _numbered(sql)
        return await self._carry_out("read", lambda connection: connection.fetch(text, *args))

    async def _write(self, sql: str, *args: Any) -> Sequence[Row]:
        # One statement is a transaction of its own.
        text = _numbered(sql)
        return await self._carry_out("write", lambda connection: connection.fetch(text, *args))

    async def _transact(self, script: Callable[[], Script[T]]) -> T:
        async def work(connection: Connection) -> T:
            async with connection.transaction():
                return await _play(connection, script(), self._me)

        return await self._carry_out("write", work)

    async def put_file(self, name: str, data: bytes) -> None:
        await self._write(
            "INSERT INTO photo_files VALUES (?, ?) ON CONFLICT (file_name) DO UPDATE SET data = excluded.data",
            name,
            data,
        )

    async def get_file(self, name: str) -> bytes | None:
        rows = await self._read("SELECT data FROM photo_files WHERE file_name = ?", name)
        return rows[0][0] if rows else None

    async def delete_file(self, name: str) -> None:
        await self._write("DELETE FROM photo_files WHERE file_name = ?", name)

    async def _carry_out(self, what: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Repeat until done, refused, or the patience is over. Raises StoreError or StorageLimit."""
        if self._waiting >= PENDING_MAX:
            raise StoreError("too many operations wait for the database")
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._patience
        conflicts = 0
        pause = 0.02
        self._waiting += 1
        try:
            while True:
                await self._reachable(give_up)
                try:
                    async with asyncio.timeout_at(min(loop.time() + ATTEMPT, give_up + 1.0)):
                        return await self._attempt(work)
                except BridgeError:
                    raise
                except asyncpg.DataError as error:
                    raise StorageLimit(f"the value cannot be stored: {_why(error)}") from error
                except ValueError as error:
                    if not isinstance(error, asyncpg.InterfaceError):
                        raise
                    raise StorageLimit("the value has no form in the database") from error
                except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError) as error:
                    conflicts += 1
                    if conflicts > CONFLICTS_MAX:
                        raise StoreError(f"{what} failed: {_why(error)}") from error
                except AWAY as error:
                    self._problem = _why(error)
                    self._suspect.set()
                    if loop.time() >= give_up:
                        raise StoreError(f"{what} failed: {self._problem}") from error
                    # Connections that died with the server leave the pool one by one, each at its next use.
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, 0.5)
                except asyncpg.PostgresError as error:
                    log.warning("a %s failed: %s", what, _why(error))
                    raise StoreError(f"{what} failed: {_why(error)}") from error
        finally:
            self._waiting -= 1

    async def _reachable(self, give_up: float) -> None:
        if not self._up.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(give_up):
                    await self._up.wait()
        if self._closed:
            raise StoreError("the store is closed")
        if not self._up.is_set():
            raise StoreError(f"the database is {self.away}")

    async def _attempt(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        connection = await self._pool.acquire()
        try:
            result = await work(connection)
        except BaseException as error:
            # After a timeout (which arrives as a cancellation) the server may be frozen: a polite release would wait.
            # One that was demoted stays read-only: the name leads elsewhere now.
            if isinstance(error, (TimeoutError, asyncio.CancelledError, asyncpg.ReadOnlySQLTransactionError)):
                connection.terminate()
            await self._pool.release(connection)
            raise
        await self._pool.release(connection)
        return result

    # ---------------------------------------------------------------------------------------------- the watcher

    async def _watch(self, connection: Connection | None) -> None:
        """Listen for others' changes; notice that the database is away, and that it is back."""
        backoff = Backoff(RETRY)
        while True:
            try:
                if connection is None:
                    connection = await self._return()
                backoff.reset()
                await self._listen(connection)
            except (*AWAY, asyncpg.PostgresError, StoreError) as error:
                self._fell(_why(error))
                await asyncio.sleep(backoff.next(0.5))
            finally:
                if connection is not None:
                    connection.terminate()
                    connection = None

    async def _return(self) -> Connection:
        """Reach it again. What others changed meanwhile was not announced to us, so all is read anew."""
        connection = await self._connect()
        try:
            await connection.add_listener(CHANNEL, self._heard)
            if not self._up.is_set():
                away = asyncio.get_running_loop().time() - self._down_at
                log.info("store: the database is back after %.0f s", away)
                self._up.set()
            await self._refresh("", "")
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _listen(self, connection: Connection) -> None:
        """Until the connection fails a ping: every few seconds, and at once when an operation failed."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING):
                    await self._suspect.wait()
            self._suspect.clear()
            async with asyncio.timeout(CONNECT):
                await connection.execute("SELECT 1")
            while self._reload:
                kind, _, key = self._reload.pop().partition(":")
                await self._refresh(kind, key)

    def _fell(self, problem: str) -> None:
        self._problem = problem
        if self._up.is_set():
            self._down_at = asyncio.get_running_loop().time()
            self._up.clear()
            log.warning("store: the database is away: %s", problem)

    def _heard(self, connection: object, process: int, channel: str, payload: object) -> None:
        sender, _, what = str(payload).partition(" ")
        if sender != self._me:
            self._reload.add(what)
            self._suspect.set()  # wakes the watcher, which has the time to read

    async def _refresh(self, kind: str, key: str) -> None:
        """Another process changed something: read it, then tell our own."""
        news = [(one, key) for one in ((kind,) if kind else ("app", "token"))]
        if kind in ("app", ""):
            keys = {package: record.hashed_api_key for package, record in self._apps.items()}
            if key:
                await self.get_app(key)
            else:
                await self.list_apps()
            news += [
                ("key", package)
                for package, record in self._apps.items()
                if keys.get(package, record.hashed_api_key) != record.hashed_api_key
            ]
        tell = self.on_change
        if tell is not None:
            for one in news:  # in a turn of its own: what goes wrong there is not this task's end
                asyncio.get_running_loop().call_soon(tell, *one)


# -------------------------------------------------------------------------------------------------- on one connection

_SERVER_SETTINGS: Final = {
    "application_name": "glassbridge",
    # A node that freezes in the middle of a transaction does not hold its rows for long.
    "statement_timeout": "10s",
    "idle_in_transaction_session_timeout": "10s",
    "lock_timeout": "3s",
}


async def _play(connection: Connection, script: Script[T], me: str) -> T:
    """Run a script inside the open transaction."""
    try:
        step = next(script)
        while True:
            rows: Sequence[Row] = ()
            match step:
                case Lock(name):
                    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", name)
                case Announce(kind, key):
                    # Delivered at COMMIT. A payload has room for 8,000 bytes; a name that long is announced as "any".
                    known = key if len(key.encode()) <= 1000 else ""
                    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, f"{me} {kind}:{known}")
                case Statement(sql, args, many=True):
                    await connection.executemany(_numbered(sql), args)
                case Statement(sql, args):
                    rows = await connection.fetch(_numbered(sql), *args)
            step = script.send(rows)
    except StopIteration as end:
        result: T = end.value
        return result


async def _migrate(connection: Connection, where: str) -> None:
    known = migrations("postgres")
    newest = known[-1][0]
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
        await connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY)")
        version = await connection.fetchval("SELECT coalesce(max(version), 0) FROM schema_version")
        if version > newest + 1:
            raise ConfigError(
                f"store {where}",
                f"it has version {version}, this program knows {newest}",
                "Run the newer program: versions may differ by one while nodes are replaced, not by more.",
            )
        if version > newest:
            log.warning("store %s was made by the next version of this program", where)
        for number, sql in known:
            if number > version:
                await connection.execute(for_postgres(sql))
                await connection.execute("INSERT INTO schema_version VALUES ($1)", number)


def for_postgres(sql: str) -> str:
    """A migration in PostgreSQL's types. Texts sort by their bytes, as in SQLite, whatever the database's collation."""
    for pattern, replacement in (
        (r"\bWITHOUT ROWID\b", ""),
        (r"\bTEXT\b", 'TEXT COLLATE "C"'),
        (r"\bREAL\b", "DOUBLE PRECISION"),  # PostgreSQL's REAL would round a time to 2 minutes
        (r"\bINTEGER\b", "BIGINT"),
    ):
        sql = re.sub(pattern, replacement, sql)
    return sql


_texts: dict[str, str] = {}


def _numbered(sql: str) -> str:
    """`?` as `$1`, `$2` ...; remembered, because the number of different statements is that of the program's lines."""
    text = _texts.get(sql)
    if text is None:
        head, *rest = sql.split("?")
        text = head + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))
        _texts[sql] = text
    return text


def _why(error: BaseException) -> str:
    """Words without the address: asyncpg's texts name host and user, never the password."""
    return str(error).strip().split("\n")[0] or type(error).__name__
