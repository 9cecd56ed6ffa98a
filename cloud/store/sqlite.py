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
import re
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import orjson

from cloud.store.base import (
    SETTINGS_KEYS_MAX,
    SETTINGS_VALUE_BYTES_MAX,
    STORAGE_KEY_MAX,
    STORAGE_TOTAL_BYTES_MAX,
    STORAGE_VALUE_BYTES_MAX,
    StorageLimit,
    StoreError,
)
from cloud.store.records import (
    AppRecord,
    AppType,
    Location,
    Permission,
    PhotoRecord,
    Registration,
    SessionRecord,
    TokenRecord,
    UserRecord,
)
from wire.errors import BridgeError, ConfigError

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

#: Writes that may wait for the disk. At 1 kB each this is 4 MB; a disk that far behind has failed.
PENDING_MAX: Final = 4096
#: How long one process waits for another's write (several workers share the file).
BUSY_TIMEOUT: Final = 5.0
#: A copy is taken when the last one is older than this, at start.
COPY_INTERVAL: Final = 24 * 3600.0


def migrations() -> list[tuple[int, str]]:
    """Number and SQL of each migration, in order."""
    found = []
    for entry in resources.files("cloud.store").joinpath("migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_\w+\.sql", entry.name)
        if match:
            found.append((int(match[1]), entry.read_text()))
    return sorted(found)


class SqliteStore:
    """Implements `cloud.store.base.Store`. Make one with `await SqliteStore.open(path)`."""

    def __init__(self, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        """Internal: use `open`."""
        self._writer = writer
        self._reader = reader
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="store-read")
        self._pending: list[tuple[Work[Any], asyncio.Future[Any]]] = []
        self._committing: asyncio.Future[Any] | None = None
        self._closed = False
        self._apps: dict[str, AppRecord] = {}

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
            _migrate(writer, path, migrations())
            _keep_good_copy(writer, path)
            return cls(writer, _connect(path, busy_timeout))
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

    async def check(self) -> None:
        def probe(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO health VALUES (1, ?)", (time.time(),))

        await self._write(probe)

    async def _read(self, work: Work[T]) -> T:
        if self._closed:
            raise StoreError("the store is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._read_thread, work, self._reader)
        except sqlite3.Error as error:
            raise StoreError(f"read failed: {error}") from error

    async def _write(self, work: Work[T]) -> T:
        if self._closed:
            raise StoreError("the store is closed")
        if len(self._pending) >= PENDING_MAX:
            raise StoreError("too many writes wait for the disk")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._pending.append((work, done))
        if self._committing is None:
            self._next_batch()
        return await done

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

    # ---------------------------------------------------------------------------------------------- users

    async def get_user(self, user_id: str) -> UserRecord | None:
        return await self._read(lambda c: _one(c, UserRecord, "users", "user_id = ?", user_id))

    async def ensure_user(self, user_id: str, display_name: str | None = None) -> UserRecord:
        def work(connection: sqlite3.Connection) -> UserRecord:
            connection.execute(
                "INSERT INTO users VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET"
                " display_name = coalesce(excluded.display_name, display_name)",
                (user_id, display_name, time.time()),
            )
            found = _one(connection, UserRecord, "users", "user_id = ?", user_id)
            assert found is not None
            return found

        known = await self.get_user(user_id)
        if known is not None and display_name in (None, known.display_name):
            return known  # the usual case needs no write
        return await self._write(work)

    async def list_users(self) -> list[UserRecord]:
        return await self._read(lambda c: _many(c, UserRecord, "users", "1 ORDER BY user_id"))

    async def delete_user(self, user_id: str) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            rows = 0
            for table in _TABLES_OF_A_USER:
                rows += connection.execute(f"DELETE FROM {table} WHERE user_id = ?", (user_id,)).rowcount
            # The ids of tokens that could still be presented stay revoked.
            connection.execute(
                "UPDATE tokens SET revoked_at = coalesce(revoked_at, ?), user_id = '', label = ''"
                " WHERE user_id = ?",
                (time.time(), user_id),
            )
            return rows > 0

        return await self._write(work)

    # ---------------------------------------------------------------------------------------------- settings maps

    async def get_user_settings(self, user_id: str) -> dict[str, Any]:
        return await self._read(lambda c: _map(c, "user_settings", user_id=user_id, kind="system"))

    async def update_user_settings(self, user_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        return await self._merge("user_settings", changes, user_id=user_id, kind="system")

    async def get_phone_settings(self, user_id: str) -> dict[str, Any]:
        return await self._read(lambda c: _map(c, "user_settings", user_id=user_id, kind="phone"))

    async def update_phone_settings(self, user_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        return await self._merge("user_settings", changes, user_id=user_id, kind="phone")

    async def delete_phone_settings(self, user_id: str, keys: Sequence[str] | None = None) -> dict[str, Any]:
        def work(connection: sqlite3.Connection) -> dict[str, Any]:
            if keys is None:
                connection.execute(
                    "DELETE FROM user_settings WHERE user_id = ? AND kind = 'phone'", (user_id,)
                )
            else:
                connection.executemany(
                    "DELETE FROM user_settings WHERE user_id = ? AND kind = 'phone' AND key = ?",
                    [(user_id, key) for key in keys],
                )
            return _map(connection, "user_settings", user_id=user_id, kind="phone")

        return await self._write(work)

    async def get_app_settings(self, user_id: str, package_name: str) -> dict[str, Any]:
        return await self._read(lambda c: _map(c, "app_settings", user_id=user_id, package_name=package_name))

    async def put_app_settings(
        self, user_id: str, package_name: str, changes: Mapping[str, Any]
    ) -> dict[str, Any]:
        return await self._merge("app_settings", changes, user_id=user_id, package_name=package_name)

    async def _merge(self, table: str, changes: Mapping[str, Any], **where: str) -> dict[str, Any]:
        encoded: dict[str, str] = {}
        for key, value in changes.items():
            try:
                text = orjson.dumps(value).decode()
            except (TypeError, ValueError) as error:  # JSONEncodeError is a TypeError
                raise StorageLimit(f"setting {key[:60]!r} has a value that JSON cannot carry") from error
            if len(key) > STORAGE_KEY_MAX or len(text) > SETTINGS_VALUE_BYTES_MAX:
                raise StorageLimit(f"setting {key[:60]!r} is too large")
            encoded[key] = text
        columns = ", ".join(where)
        marks = ", ".join("?" * (len(where) + 2))

        def work(connection: sqlite3.Connection) -> dict[str, Any]:
            connection.executemany(
                f"INSERT INTO {table} ({columns}, key, value) VALUES ({marks})"
                " ON CONFLICT DO UPDATE SET value = excluded.value",
                [(*where.values(), key, text) for key, text in encoded.items()],
            )
            merged = _map(connection, table, **where)
            if len(merged) > SETTINGS_KEYS_MAX:
                raise StorageLimit(f"more than {SETTINGS_KEYS_MAX} settings")
            return merged

        return await self._write(work)

    # ---------------------------------------------------------------------------------------------- apps

    @property
    def apps(self) -> Mapping[str, AppRecord]:
        return MappingProxyType(self._apps)

    async def get_app(self, package_name: str) -> AppRecord | None:
        def work(connection: sqlite3.Connection) -> AppRecord | None:
            row = connection.execute(
                "SELECT record FROM apps WHERE package_name = ?", (package_name,)
            ).fetchone()
            return _app(row[0]) if row else None

        found = await self._read(work)
        if found is None:
            self._apps.pop(package_name, None)
        else:
            self._apps[package_name] = found
        return found

    async def list_apps(self) -> list[AppRecord]:
        rows = await self._read(
            lambda c: c.execute("SELECT record FROM apps ORDER BY package_name").fetchall()
        )
        found = [_app(row[0]) for row in rows]
        self._apps = {record.package_name: record for record in found}
        return found

    async def put_app(self, record: AppRecord) -> AppRecord:
        stamped = replace(record, updated_at=time.time())
        text = orjson.dumps(stamped, default=_plain).decode()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO apps VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET"
                " record = excluded.record, updated_at = excluded.updated_at",
                (stamped.package_name, text, stamped.updated_at),
            )

        await self._write(work)
        self._apps[stamped.package_name] = stamped
        return stamped

    async def delete_app(self, package_name: str) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            connection.execute("DELETE FROM installed_apps WHERE package_name = ?", (package_name,))
            connection.execute("DELETE FROM registrations WHERE package_name = ?", (package_name,))
            return connection.execute("DELETE FROM apps WHERE package_name = ?", (package_name,)).rowcount > 0

        deleted = await self._write(work)
        self._apps.pop(package_name, None)
        return deleted

    async def get_installed_apps(self, user_id: str) -> list[str]:
        return await self._read(
            lambda c: _column(c, "SELECT package_name FROM installed_apps WHERE user_id = ?", user_id)
        )

    async def install_app(self, user_id: str, package_name: str) -> None:
        await self._write(
            lambda c: (
                c.execute(
                    "INSERT INTO installed_apps VALUES (?, ?, 0, ?) ON CONFLICT DO NOTHING",
                    (user_id, package_name, time.time()),
                )
                and None
            )
        )

    async def uninstall_app(self, user_id: str, package_name: str) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            return (
                connection.execute(
                    "DELETE FROM installed_apps WHERE user_id = ? AND package_name = ?",
                    (user_id, package_name),
                ).rowcount
                > 0
            )

        return await self._write(work)

    async def get_wanted_apps(self, user_id: str) -> list[str]:
        return await self._read(
            lambda c: _column(
                c,
                "SELECT package_name FROM installed_apps WHERE user_id = ? AND wanted ORDER BY installed_at",
                user_id,
            )
        )

    async def set_wanted(self, user_id: str, package_name: str, wanted: bool) -> None:
        def work(connection: sqlite3.Connection) -> None:
            if wanted:
                connection.execute(
                    "INSERT INTO installed_apps VALUES (?, ?, 1, ?) ON CONFLICT DO UPDATE SET wanted = 1",
                    (user_id, package_name, time.time()),
                )
            else:
                connection.execute(
                    "UPDATE installed_apps SET wanted = 0 WHERE user_id = ? AND package_name = ?",
                    (user_id, package_name),
                )

        await self._write(work)

    # ---------------------------------------------------------------------------------------------- simple storage

    async def storage_all(self, user_id: str, package_name: str) -> dict[str, str]:
        def work(connection: sqlite3.Connection) -> dict[str, str]:
            return dict(
                connection.execute(
                    "SELECT key, value FROM simple_storage WHERE user_id = ? AND package_name = ?",
                    (user_id, package_name),
                )
            )

        return await self._read(work)

    async def storage_get(self, user_id: str, package_name: str, key: str) -> str | None:
        def work(connection: sqlite3.Connection) -> str | None:
            row = connection.execute(
                "SELECT value FROM simple_storage WHERE user_id = ? AND package_name = ? AND key = ?",
                (user_id, package_name, key),
            ).fetchone()
            return row[0] if row else None

        return await self._read(work)

    async def storage_put(self, user_id: str, package_name: str, items: Mapping[str, str]) -> None:
        for key, value in items.items():
            if not 0 < len(key) <= STORAGE_KEY_MAX:
                raise StorageLimit(f"keys have 1 to {STORAGE_KEY_MAX} characters")
            if len(value.encode(errors="replace")) > STORAGE_VALUE_BYTES_MAX:
                raise StorageLimit(f"a value may have {STORAGE_VALUE_BYTES_MAX} bytes")

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT INTO simple_storage VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
                [(user_id, package_name, key, value) for key, value in items.items()],
            )
            (total,) = connection.execute(
                "SELECT coalesce(sum(length(CAST(key AS BLOB)) + length(CAST(value AS BLOB))), 0)"
                " FROM simple_storage WHERE user_id = ? AND package_name = ?",
                (user_id, package_name),
            ).fetchone()
            if total > STORAGE_TOTAL_BYTES_MAX:
                raise StorageLimit("total size exceeds 1MB")

        await self._write(work)

    async def storage_delete(self, user_id: str, package_name: str, key: str) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            return (
                connection.execute(
                    "DELETE FROM simple_storage WHERE user_id = ? AND package_name = ? AND key = ?",
                    (user_id, package_name, key),
                ).rowcount
                > 0
            )

        return await self._write(work)

    async def storage_clear(self, user_id: str, package_name: str) -> None:
        await self._write(
            lambda c: (
                c.execute(
                    "DELETE FROM simple_storage WHERE user_id = ? AND package_name = ?",
                    (user_id, package_name),
                )
                and None
            )
        )

    # ---------------------------------------------------------------------------------------------- registrations

    async def put_registration(self, registration: Registration) -> None:
        await self._write(
            lambda c: (
                c.execute(
                    "INSERT OR REPLACE INTO registrations VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        registration.registration_id,
                        registration.package_name,
                        registration.webhook_url,
                        orjson.dumps(registration.server_urls).decode(),
                        registration.created_at,
                        registration.last_seen_at,
                    ),
                )
                and None
            )
        )

    async def get_registration(self, registration_id: str) -> Registration | None:
        found = await self._read(
            lambda c: _one(c, Registration, "registrations", "registration_id = ?", registration_id)
        )
        return None if found is None else _registration(found)

    async def list_registrations(self, package_name: str | None = None) -> list[Registration]:
        found = await self._read(
            lambda c: _many(
                c, Registration, "registrations", "? IS NULL OR package_name = ?", package_name, package_name
            )
        )
        return [_registration(one) for one in found]

    async def delete_registration(self, registration_id: str) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            return (
                connection.execute(
                    "DELETE FROM registrations WHERE registration_id = ?", (registration_id,)
                ).rowcount
                > 0
            )

        return await self._write(work)

    # ---------------------------------------------------------------------------------------------- small facts

    async def is_onboarded(self, user_id: str, package_name: str) -> bool:
        found = await self._read(
            lambda c: _column(
                c,
                "SELECT 1 FROM onboarding WHERE user_id = ? AND package_name = ?",
                user_id,
                package_name,
            )
        )
        return bool(found)

    async def set_onboarded(self, user_id: str, package_name: str) -> None:
        await self._write(
            lambda c: (
                c.execute(
                    "INSERT INTO onboarding VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                    (user_id, package_name, time.time()),
                )
                and None
            )
        )

    async def get_location(self, user_id: str) -> Location | None:
        def work(connection: sqlite3.Connection) -> Location | None:
            row = connection.execute(
                "SELECT lat, lng, accuracy, at FROM last_location WHERE user_id = ?", (user_id,)
            ).fetchone()
            return Location(*row) if row else None

        return await self._read(work)

    async def put_location(self, user_id: str, location: Location) -> None:
        await self._write(
            lambda c: (
                c.execute(
                    "INSERT OR REPLACE INTO last_location VALUES (?, ?, ?, ?, ?)",
                    (user_id, location.lat, location.lng, location.accuracy, location.at),
                )
                and None
            )
        )

    # ---------------------------------------------------------------------------------------------- tokens

    async def put_token(self, token: TokenRecord) -> None:
        await self._write(lambda c: _insert(c, "tokens", token))

    async def list_tokens(self, user_id: str | None = None) -> list[TokenRecord]:
        return await self._read(
            lambda c: _many(
                c, TokenRecord, "tokens", "(? IS NULL OR user_id = ?) ORDER BY created_at", user_id, user_id
            )
        )

    async def revoke_token(self, token_id: str) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            return (
                connection.execute(
                    "UPDATE tokens SET revoked_at = coalesce(revoked_at, ?) WHERE token_id = ?",
                    (time.time(), token_id),
                ).rowcount
                > 0
            )

        return await self._write(work)

    async def revoked_token_ids(self) -> list[str]:
        # An hour beyond expiry covers every leeway; after that the expiry refuses the token by itself.
        return await self._read(
            lambda c: _column(
                c,
                "SELECT token_id FROM tokens WHERE revoked_at IS NOT NULL"
                " AND (expires_at IS NULL OR expires_at > ?)",
                time.time() - 3600,
            )
        )

    # ---------------------------------------------------------------------------------------------- sessions

    async def put_session(self, session: SessionRecord) -> None:
        await self._write(lambda c: _insert(c, "sessions", session))

    async def list_sessions(self) -> list[SessionRecord]:
        return await self._read(lambda c: _many(c, SessionRecord, "sessions", "1"))

    async def delete_session(self, user_id: str) -> None:
        await self._write(lambda c: c.execute("DELETE FROM sessions WHERE user_id = ?", (user_id,)) and None)

    # ---------------------------------------------------------------------------------------------- photos

    async def put_photo(self, photo: PhotoRecord) -> None:
        await self._write(lambda c: _insert(c, "photos", photo))

    async def get_photo(self, photo_id: str) -> PhotoRecord | None:
        return await self._read(lambda c: _one(c, PhotoRecord, "photos", "photo_id = ?", photo_id))

    async def list_photos(self, user_id: str) -> list[PhotoRecord]:
        return await self._read(
            lambda c: _many(c, PhotoRecord, "photos", "user_id = ? ORDER BY created_at DESC", user_id)
        )

    async def delete_photo(self, user_id: str, photo_id: str) -> PhotoRecord | None:
        def work(connection: sqlite3.Connection) -> PhotoRecord | None:
            found = _one(connection, PhotoRecord, "photos", "photo_id = ? AND user_id = ?", photo_id, user_id)
            if found is not None:
                connection.execute("DELETE FROM photos WHERE photo_id = ?", (photo_id,))
            return found

        return await self._write(work)


_TABLES_OF_A_USER: Final = (
    "users",
    "installed_apps",
    "user_settings",
    "app_settings",
    "simple_storage",
    "onboarding",
    "last_location",
    "sessions",
    "photos",
)


# -------------------------------------------------------------------------------------------------- in the threads


def _connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    # Each connection is used by one thread at a time: opened in one, used in its executor's only thread.
    connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _commit(connection: sqlite3.Connection, batch: Sequence[Work[Any]]) -> list[Any]:
    """Run every work in one transaction; an outcome is its result or a BridgeError."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        outcomes: list[Any] = []
        for work in batch:
            connection.execute("SAVEPOINT one")
            try:
                outcomes.append(work(connection))
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
        if number > version:
            # executescript commits what is open, so the transaction is part of the script
            connection.executescript(f"BEGIN IMMEDIATE;\n{sql}\nPRAGMA user_version = {number};\nCOMMIT;")


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


# -------------------------------------------------------------------------------------------------- rows


def _names(record: type[Any]) -> str:
    return ", ".join(field.name for field in fields(record))


def _one(connection: sqlite3.Connection, record: type[T], table: str, where: str, *args: Any) -> T | None:
    row = connection.execute(f"SELECT {_names(record)} FROM {table} WHERE {where}", args).fetchone()
    return record(*row) if row else None


def _many(connection: sqlite3.Connection, record: type[T], table: str, where: str, *args: Any) -> list[T]:
    return [
        record(*row)
        for row in connection.execute(f"SELECT {_names(record)} FROM {table} WHERE {where}", args)
    ]


def _insert(connection: sqlite3.Connection, table: str, record: Any) -> None:
    values = [getattr(record, field.name) for field in fields(record)]
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT OR REPLACE INTO {table} ({_names(type(record))}) VALUES ({marks})", values)


def _column(connection: sqlite3.Connection, sql: str, *args: Any) -> list[Any]:
    return [row[0] for row in connection.execute(sql, args)]


def _map(connection: sqlite3.Connection, table: str, **where: str) -> dict[str, Any]:
    condition = " AND ".join(f"{name} = ?" for name in where)
    rows = connection.execute(f"SELECT key, value FROM {table} WHERE {condition}", tuple(where.values()))
    return {key: orjson.loads(value) for key, value in rows}


def _app(text: str) -> AppRecord:
    raw = orjson.loads(text)
    known = {field.name for field in fields(AppRecord)}
    raw = {key: value for key, value in raw.items() if key in known}  # a downgrade must still read
    raw["app_type"] = AppType(raw["app_type"])
    raw["permissions"] = tuple(Permission(**permission) for permission in raw["permissions"])
    for name in ("settings", "tools", "hardware_requirements"):
        raw[name] = tuple(raw[name])
    return AppRecord(**raw)


def _registration(raw: Registration) -> Registration:
    urls: Any = raw.server_urls  # still the JSON text of the column
    return replace(raw, server_urls=tuple(orjson.loads(urls)))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
