"""Every operation of the store as SQL that SQLite and PostgreSQL both understand; an engine only carries it out.

Rules: an operation is one statement, or a script: a generator that yields statements and is sent their rows, so that one
text serves an engine with threads and one with `await`. A script may be run again after a failure, so it keeps nothing
between runs and every write is an upsert or a deletion. Parameters are `?`; a statement that changes rows and whose count
matters says `RETURNING`. Maps are one row per key: two writers on different keys never lose each other's change.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import resources
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

import orjson

from cloud.store.base import (
    SETTINGS_KEYS_MAX,
    SETTINGS_VALUE_BYTES_MAX,
    STORAGE_KEY_MAX,
    STORAGE_TOTAL_BYTES_MAX,
    STORAGE_VALUE_BYTES_MAX,
    StorageLimit,
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

T = TypeVar("T")
Row: TypeAlias = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; with `many`, `args` are the rows to run it for."""

    sql: str
    args: Sequence[Any] = ()
    many: bool = False


@dataclass(frozen=True, slots=True)
class Lock:
    """Whoever else asks for this name waits for the end of this transaction; where there is one writer, nothing to do."""

    name: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell other processes that share the store, once this is committed: `kind` of record, and which one."""

    kind: str
    key: str


Script: TypeAlias = Generator[Statement | Lock | Announce, Sequence[Row], T]


def migrations(engine: str) -> list[tuple[int, str]]:
    """Number and SQL of each version of the schema, in order, for "sqlite" or "postgres".

    A file without an engine in its name is for both, in SQLite's words; PostgreSQL's are derived from them.
    """
    found = []
    for entry in resources.files("cloud.store").joinpath("migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_\w+?(?:\.(\w+))?\.sql", entry.name)
        if match and match[2] in (None, engine):
            found.append((int(match[1]), entry.read_text()))
    return sorted(found)


class SqlStore(ABC):
    """Implements `cloud.store.base.Store` upon three primitives of an engine."""

    #: SQL for the number of bytes of a text.
    BYTES_OF: ClassVar[str]

    def __init__(self) -> None:
        self._apps: dict[str, AppRecord] = {}
        self.on_change: Callable[[str, str], None] | None = None

    @abstractmethod
    async def _read(self, sql: str, *args: Any) -> Sequence[Row]:
        """The rows of a query. Raises StoreError."""

    @abstractmethod
    async def _write(self, sql: str, *args: Any) -> Sequence[Row]:
        """One statement, on disk when this returns; the rows of its RETURNING. Raises StoreError."""

    @abstractmethod
    async def _transact(self, script: Callable[[], Script[T]]) -> T:
        """All of a script or nothing, on disk when this returns. Raises StoreError."""

    @abstractmethod
    async def close(self) -> None:
        """Finish every write and let go."""

    # ---------------------------------------------------------------------------------------------- health

    @property
    def away(self) -> str | None:
        """A store that is part of this machine is never away."""
        return None

    async def check(self) -> None:
        await self._write(
            "INSERT INTO health VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET checked_at = excluded.checked_at",
            time.time(),
        )

    # ---------------------------------------------------------------------------------------------- users

    async def get_user(self, user_id: str) -> UserRecord | None:
        return await self._one(UserRecord, "users", "user_id = ?", user_id)

    async def ensure_user(self, user_id: str, display_name: str | None = None) -> UserRecord:
        known = await self.get_user(user_id)
        if known is not None and display_name in (None, known.display_name):
            return known  # the usual case needs no write
        rows = await self._write(
            "INSERT INTO users VALUES (?, ?, ?) ON CONFLICT (user_id) DO UPDATE SET"
            " display_name = coalesce(excluded.display_name, users.display_name)"
            f" RETURNING {_names(UserRecord)}",
            user_id,
            display_name,
            time.time(),
        )
        return UserRecord(*rows[0])

    async def list_users(self) -> list[UserRecord]:
        return await self._many(UserRecord, "users ORDER BY user_id")

    async def delete_user(self, user_id: str) -> bool:
        def script() -> Script[bool]:
            found = False
            for table in TABLES_OF_A_USER:
                rows = yield Statement(f"DELETE FROM {table} WHERE user_id = ? RETURNING 1", (user_id,))
                found = found or bool(rows)
            # The ids of tokens that could still be presented stay revoked.
            yield Statement(
                "UPDATE tokens SET revoked_at = coalesce(revoked_at, ?), user_id = '', label = '' WHERE user_id = ?",
                (time.time(), user_id),
            )
            yield Announce("token", "")
            return found

        return await self._transact(script)

    # ---------------------------------------------------------------------------------------------- settings maps

    async def get_user_settings(self, user_id: str) -> dict[str, Any]:
        return await self._map("user_settings", user_id=user_id, kind="system")

    async def update_user_settings(self, user_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        return await self._merge("user_settings", changes, user_id=user_id, kind="system")

    async def get_phone_settings(self, user_id: str) -> dict[str, Any]:
        return await self._map("user_settings", user_id=user_id, kind="phone")

    async def update_phone_settings(self, user_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        return await self._merge("user_settings", changes, user_id=user_id, kind="phone")

    async def delete_phone_settings(self, user_id: str, keys: Sequence[str] | None = None) -> dict[str, Any]:
        def script() -> Script[dict[str, Any]]:
            where = "user_id = ? AND kind = 'phone'"
            if keys is None:
                yield Statement(f"DELETE FROM user_settings WHERE {where}", (user_id,))
            else:
                yield Statement(
                    f"DELETE FROM user_settings WHERE {where} AND key = ?",
                    [(user_id, key) for key in keys],
                    many=True,
                )
            return _decoded((yield _select_map("user_settings", {"user_id": user_id, "kind": "phone"})))

        return await self._transact(script)

    async def get_app_settings(self, user_id: str, package_name: str) -> dict[str, Any]:
        return await self._map("app_settings", user_id=user_id, package_name=package_name)

    async def put_app_settings(
        self, user_id: str, package_name: str, changes: Mapping[str, Any]
    ) -> dict[str, Any]:
        return await self._merge("app_settings", changes, user_id=user_id, package_name=package_name)

    async def _map(self, table: str, **where: str) -> dict[str, Any]:
        select = _select_map(table, where)
        return _decoded(await self._read(select.sql, *select.args))

    async def _merge(self, table: str, changes: Mapping[str, Any], **where: str) -> dict[str, Any]:
        encoded: dict[str, str] = {}
        for key, value in changes.items():
            try:
                text = orjson.dumps(value).decode()
            except (TypeError, ValueError) as error:  # JSONEncodeError is a TypeError
                raise StorageLimit(f"setting {key[:60]!r} has a value that JSON cannot carry") from error
            if len(key) > STORAGE_KEY_MAX or len(text) > SETTINGS_VALUE_BYTES_MAX:
                raise StorageLimit(f"setting {key[:60]!r} is too large")
            _storable(key)
            encoded[key] = text
        columns = ", ".join(where)
        marks = ", ".join("?" * (len(where) + 2))

        def script() -> Script[dict[str, Any]]:
            yield Lock(" ".join((table, *where.values())))
            yield Statement(
                f"INSERT INTO {table} ({columns}, key, value) VALUES ({marks})"
                f" ON CONFLICT ({columns}, key) DO UPDATE SET value = excluded.value",
                [(*where.values(), key, text) for key, text in encoded.items()],
                many=True,
            )
            merged = _decoded((yield _select_map(table, where)))
            if len(merged) > SETTINGS_KEYS_MAX:
                raise StorageLimit(f"more than {SETTINGS_KEYS_MAX} settings")
            return merged

        return await self._transact(script)

    # ---------------------------------------------------------------------------------------------- apps

    @property
    def apps(self) -> Mapping[str, AppRecord]:
        return MappingProxyType(self._apps)

    async def get_app(self, package_name: str) -> AppRecord | None:
        rows = await self._read("SELECT record FROM apps WHERE package_name = ?", package_name)
        if not rows:
            self._apps.pop(package_name, None)
            return None
        found = self._apps[package_name] = _app(rows[0][0])
        return found

    async def list_apps(self) -> list[AppRecord]:
        rows = await self._read("SELECT record FROM apps ORDER BY package_name")
        found = [_app(row[0]) for row in rows]
        self._apps = {record.package_name: record for record in found}
        return found

    async def put_app(self, record: AppRecord) -> AppRecord:
        stamped = replace(record, updated_at=time.time())
        text = orjson.dumps(stamped, default=_plain).decode()

        def script() -> Script[None]:
            yield Statement(
                "INSERT INTO apps VALUES (?, ?, ?) ON CONFLICT (package_name) DO UPDATE SET"
                " record = excluded.record, updated_at = excluded.updated_at",
                (stamped.package_name, text, stamped.updated_at),
            )
            yield Announce("app", stamped.package_name)

        await self._transact(script)
        self._apps[stamped.package_name] = stamped
        return stamped

    async def delete_app(self, package_name: str) -> bool:
        def script() -> Script[bool]:
            yield Statement("DELETE FROM installed_apps WHERE package_name = ?", (package_name,))
            yield Statement("DELETE FROM registrations WHERE package_name = ?", (package_name,))
            rows = yield Statement("DELETE FROM apps WHERE package_name = ? RETURNING 1", (package_name,))
            yield Announce("app", package_name)
            return bool(rows)

        deleted = await self._transact(script)
        self._apps.pop(package_name, None)
        return deleted

    async def get_installed_apps(self, user_id: str) -> list[str]:
        rows = await self._read("SELECT package_name FROM installed_apps WHERE user_id = ?", user_id)
        return [row[0] for row in rows]

    async def install_app(self, user_id: str, package_name: str) -> None:
        await self._write(
            "INSERT INTO installed_apps VALUES (?, ?, 0, ?) ON CONFLICT DO NOTHING",
            user_id,
            package_name,
            time.time(),
        )

    async def uninstall_app(self, user_id: str, package_name: str) -> bool:
        return await self._removed("installed_apps", user_id=user_id, package_name=package_name)

    async def get_wanted_apps(self, user_id: str) -> list[str]:
        rows = await self._read(
            "SELECT package_name FROM installed_apps WHERE user_id = ? AND wanted = 1 ORDER BY installed_at",
            user_id,
        )
        return [row[0] for row in rows]

    async def set_wanted(self, user_id: str, package_name: str, wanted: bool) -> None:
        if wanted:
            await self._write(
                "INSERT INTO installed_apps VALUES (?, ?, 1, ?)"
                " ON CONFLICT (user_id, package_name) DO UPDATE SET wanted = 1",
                user_id,
                package_name,
                time.time(),
            )
        else:
            await self._write(
                "UPDATE installed_apps SET wanted = 0 WHERE user_id = ? AND package_name = ?",
                user_id,
                package_name,
            )

    # ---------------------------------------------------------------------------------------------- simple storage

    async def storage_all(self, user_id: str, package_name: str) -> dict[str, str]:
        rows = await self._read(
            "SELECT key, value FROM simple_storage WHERE user_id = ? AND package_name = ?",
            user_id,
            package_name,
        )
        return {key: value for key, value in rows}

    async def storage_get(self, user_id: str, package_name: str, key: str) -> str | None:
        rows = await self._read(
            "SELECT value FROM simple_storage WHERE user_id = ? AND package_name = ? AND key = ?",
            user_id,
            package_name,
            key,
        )
        return rows[0][0] if rows else None

    async def storage_put(self, user_id: str, package_name: str, items: Mapping[str, str]) -> None:
        for key, value in items.items():
            if not 0 < len(key) <= STORAGE_KEY_MAX:
                raise StorageLimit(f"keys have 1 to {STORAGE_KEY_MAX} characters")
            if len(value.encode(errors="replace")) > STORAGE_VALUE_BYTES_MAX:
                raise StorageLimit(f"a value may have {STORAGE_VALUE_BYTES_MAX} bytes")
            _storable(key)
            _storable(value)

        def script() -> Script[None]:
            yield Lock(f"storage {user_id} {package_name}")
            yield Statement(
                "INSERT INTO simple_storage VALUES (?, ?, ?, ?)"
                " ON CONFLICT (user_id, package_name, key) DO UPDATE SET value = excluded.value",
                [(user_id, package_name, key, value) for key, value in items.items()],
                many=True,
            )
            ((total,),) = yield Statement(
                f"SELECT CAST(coalesce(sum({self.BYTES_OF.format('key')} + {self.BYTES_OF.format('value')}), 0)"
                " AS BIGINT) FROM simple_storage WHERE user_id = ? AND package_name = ?",
                (user_id, package_name),
            )
            if total > STORAGE_TOTAL_BYTES_MAX:
                raise StorageLimit("total size exceeds 1MB")

        await self._transact(script)

    async def storage_delete(self, user_id: str, package_name: str, key: str) -> bool:
        return await self._removed("simple_storage", user_id=user_id, package_name=package_name, key=key)

    async def storage_clear(self, user_id: str, package_name: str) -> None:
        await self._removed("simple_storage", user_id=user_id, package_name=package_name)

    # ---------------------------------------------------------------------------------------------- registrations

    async def put_registration(self, registration: Registration) -> None:
        urls: Any = orjson.dumps(registration.server_urls).decode()
        await self._put("registrations", replace(registration, server_urls=urls))

    async def get_registration(self, registration_id: str) -> Registration | None:
        found = await self._one(Registration, "registrations", "registration_id = ?", registration_id)
        return None if found is None else _registration(found)

    async def list_registrations(self, package_name: str | None = None) -> list[Registration]:
        if package_name is None:
            found = await self._many(Registration, "registrations ORDER BY registration_id")
        else:
            found = await self._many(
                Registration, "registrations WHERE package_name = ? ORDER BY registration_id", package_name
            )
        return [_registration(one) for one in found]

    async def delete_registration(self, registration_id: str) -> bool:
        return await self._removed("registrations", registration_id=registration_id)

    # ---------------------------------------------------------------------------------------------- small facts

    async def is_onboarded(self, user_id: str, package_name: str) -> bool:
        return bool(
            await self._read(
                "SELECT 1 FROM onboarding WHERE user_id = ? AND package_name = ?", user_id, package_name
            )
        )

    async def set_onboarded(self, user_id: str, package_name: str) -> None:
        await self._write(
            "INSERT INTO onboarding VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            user_id,
            package_name,
            time.time(),
        )

    async def get_location(self, user_id: str) -> Location | None:
        return await self._one(Location, "last_location", "user_id = ?", user_id)

    async def put_location(self, user_id: str, location: Location) -> None:
        await self._write(
            "INSERT INTO last_location VALUES (?, ?, ?, ?, ?) ON CONFLICT (user_id) DO UPDATE SET"
            " lat = excluded.lat, lng = excluded.lng, accuracy = excluded.accuracy, at = excluded.at",
            user_id,
            location.lat,
            location.lng,
            location.accuracy,
            location.at,
        )

    # ---------------------------------------------------------------------------------------------- tokens

    async def put_token(self, token: TokenRecord) -> None:
        await self._put("tokens", token)

    async def list_tokens(self, user_id: str | None = None) -> list[TokenRecord]:
        if user_id is None:
            return await self._many(TokenRecord, "tokens ORDER BY created_at")
        return await self._many(TokenRecord, "tokens WHERE user_id = ? ORDER BY created_at", user_id)

    async def revoke_token(self, token_id: str) -> bool:
        def script() -> Script[bool]:
            rows = yield Statement(
                "UPDATE tokens SET revoked_at = coalesce(revoked_at, ?) WHERE token_id = ? RETURNING 1",
                (time.time(), token_id),
            )
            yield Announce("token", token_id)
            return bool(rows)

        return await self._transact(script)

    async def revoked_token_ids(self) -> list[str]:
        # An hour beyond expiry covers every leeway; after that the expiry refuses the token by itself.
        rows = await self._read(
            "SELECT token_id FROM tokens WHERE revoked_at IS NOT NULL AND (expires_at IS NULL OR expires_at > ?)",
            time.time() - 3600,
        )
        return [row[0] for row in rows]

    # ---------------------------------------------------------------------------------------------- sessions

    async def put_session(self, session: SessionRecord) -> None:
        await self._put("sessions", session)

    async def list_sessions(self) -> list[SessionRecord]:
        return await self._many(SessionRecord, "sessions")

    async def delete_session(self, user_id: str) -> None:
        await self._removed("sessions", user_id=user_id)

    # ---------------------------------------------------------------------------------------------- photos

    async def put_photo(self, photo: PhotoRecord) -> None:
        await self._put("photos", photo)

    async def get_photo(self, photo_id: str) -> PhotoRecord | None:
        return await self._one(PhotoRecord, "photos", "photo_id = ?", photo_id)

    async def list_photos(self, user_id: str) -> list[PhotoRecord]:
        return await self._many(PhotoRecord, "photos WHERE user_id = ? ORDER BY created_at DESC", user_id)

    async def delete_photo(self, user_id: str, photo_id: str) -> PhotoRecord | None:
        rows = await self._write(
            f"DELETE FROM photos WHERE photo_id = ? AND user_id = ? RETURNING {_names(PhotoRecord)}",
            photo_id,
            user_id,
        )
        return PhotoRecord(*rows[0]) if rows else None

    @abstractmethod
    async def put_file(self, name: str, data: bytes) -> None: ...
    @abstractmethod
    async def get_file(self, name: str) -> bytes | None: ...
    @abstractmethod
    async def delete_file(self, name: str) -> None: ...

    # ---------------------------------------------------------------------------------------------- forms

    async def _one(self, record: type[T], table: str, where: str, *args: Any) -> T | None:
        rows = await self._read(f"SELECT {_names(record)} FROM {table} WHERE {where}", *args)
        return record(*rows[0]) if rows else None

    async def _many(self, record: type[T], rest: str, *args: Any) -> list[T]:
        return [record(*row) for row in await self._read(f"SELECT {_names(record)} FROM {rest}", *args)]

    async def _removed(self, table: str, **where: str) -> bool:
        condition = " AND ".join(f"{name} = ?" for name in where)
        return bool(await self._write(f"DELETE FROM {table} WHERE {condition} RETURNING 1", *where.values()))

    async def _put(self, table: str, record: Any) -> None:
        """Create or replace; the first field is the key."""
        names = [field.name for field in fields(record)]
        changes = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        await self._write(
            f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
            f" ON CONFLICT ({names[0]}) DO UPDATE SET {changes}",
            *(getattr(record, name) for name in names),
        )


#: Every table, in an order in which they can be filled.
TABLES: Final = (
    "users",
    "apps",
    "installed_apps",
    "user_settings",
    "app_settings",
    "simple_storage",
    "registrations",
    "onboarding",
    "last_location",
    "tokens",
    "sessions",
    "photos",
)
TABLES_OF_A_USER: Final = tuple(table for table in TABLES if table not in ("apps", "registrations", "tokens"))


def _names(record: type[Any]) -> str:
    return ", ".join(field.name for field in fields(record))


def _storable(text: str) -> None:
    """PostgreSQL's text has no NUL; refused everywhere, so that a household can move from one engine to the other."""
    if "\0" in text:
        raise StorageLimit("a key or value may not hold the character U+0000")


def _select_map(table: str, where: Mapping[str, str]) -> Statement:
    condition = " AND ".join(f"{name} = ?" for name in where)
    return Statement(f"SELECT key, value FROM {table} WHERE {condition} ORDER BY key", tuple(where.values()))


def _decoded(rows: Sequence[Row]) -> dict[str, Any]:
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
