"""The SQLite store: what it remembers, what it refuses, and what survives kill -9, corruption and upgrades."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloud.store.base import STORAGE_TOTAL_BYTES_MAX, StorageLimit, Store, StoreError
from cloud.store.records import (
    AppRecord,
    AppType,
    Location,
    Permission,
    PhotoRecord,
    Registration,
    SessionRecord,
    TokenRecord,
)
from cloud.store.sql import migrations
from cloud.store.sqlite import SqliteStore, _connect, _migrate
from wire.errors import ConfigError

U, V, P, Q = "anna@home.example", "ben@home.example", "com.example.app", "com.example.other"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "s.sqlite3")
    yield opened
    await opened.close()


def app(package: str = P) -> AppRecord:
    return AppRecord(
        package_name=package,
        name="Captions",
        public_url="http://10.0.0.5:3000",
        hashed_api_key="ab" * 32,
        app_type=AppType.BACKGROUND,
        permissions=(Permission("MICROPHONE", "to hear", True),),
        settings=({"key": "lang", "type": "select", "options": [{"label": "English", "value": "en"}]},),
        tools=({"id": "add", "description": ""},),
        hardware_requirements=({"type": "DISPLAY", "level": "REQUIRED"},),
    )


def test_the_class_implements_the_interface(store: SqliteStore) -> None:
    interface: Store = store
    assert interface is store


async def test_users_are_made_once_and_forgotten_whole(store: SqliteStore) -> None:
    assert await store.get_user(U) is None
    first = await store.ensure_user(U)
    assert await store.ensure_user(U) == first
    named = await store.ensure_user(U, "Anna")
    assert named.display_name == "Anna"
    assert (await store.ensure_user(U)).display_name == "Anna"
    await store.ensure_user(V)
    assert [user.user_id for user in await store.list_users()] == [U, V]
    await store.update_user_settings(U, {"a": 1})
    await store.update_phone_settings(U, {"a": 1})
    await store.put_app_settings(U, P, {"a": 1})
    await store.storage_put(U, P, {"a": "1"})
    await store.set_wanted(U, P, True)
    await store.put_location(U, Location(1.0, 2.0, None, 3.0))
    await store.set_onboarded(U, P)
    await store.put_session(SessionRecord(U, "s", "e", 1.0))
    await store.put_token(TokenRecord("t", U, "", 1.0, None, None))
    assert await store.delete_user(U)
    assert not await store.delete_user(U)
    assert await store.get_user(U) is None
    assert await store.get_user_settings(U) == {} == await store.get_phone_settings(U)
    assert await store.get_app_settings(U, P) == {} == await store.storage_all(U, P)
    assert await store.get_installed_apps(U) == []
    assert await store.get_location(U) is None
    assert not await store.is_onboarded(U, P)
    assert await store.list_sessions() == []
    assert await store.revoked_token_ids() == ["t"], "its tokens stay revoked"


async def test_settings_are_merged_key_by_key(store: SqliteStore) -> None:
    assert await store.update_user_settings(U, {"metric": True, "b": {"x": [1, None]}}) == {
        "metric": True,
        "b": {"x": [1, None]},
    }
    assert await store.update_user_settings(U, {"metric": False}) == {"metric": False, "b": {"x": [1, None]}}
    assert await store.get_user_settings(V) == {}
    assert await store.get_phone_settings(U) == {}
    assert await store.update_phone_settings(U, {"head_up_angle": 20, "x": 1}) == {
        "head_up_angle": 20,
        "x": 1,
    }
    assert await store.delete_phone_settings(U, ["x"]) == {"head_up_angle": 20}
    assert await store.delete_phone_settings(U) == {}
    assert await store.put_app_settings(U, P, {"lang": "de"}) == {"lang": "de"}
    assert await store.get_app_settings(U, Q) == {}


async def test_settings_are_bounded(store: SqliteStore) -> None:
    for bad in ({"k" * 300: 1}, {"k": "v" * 200_000}, {str(n): n for n in range(1001)}, {"k": object()}):
        with pytest.raises(StorageLimit):
            await store.update_user_settings(U, bad)
    assert await store.get_user_settings(U) == {}, "all or nothing"


async def test_app_records_round_trip_and_are_visible_without_waiting(store: SqliteStore) -> None:
    stored = await store.put_app(app())
    assert stored == replace(app(), updated_at=stored.updated_at)
    assert stored.updated_at == pytest.approx(time.time(), abs=60)
    assert await store.get_app(P) == stored == store.apps[P]
    assert await store.list_apps() == [stored]
    assert "abab" not in repr(stored), "a record can be logged"
    await store.install_app(U, P)
    assert await store.delete_app(P)
    assert not await store.delete_app(P)
    assert P not in store.apps
    assert await store.get_installed_apps(U) == []


@pytest.mark.failure("PER-02")
async def test_wanted_is_what_the_user_said_last(store: SqliteStore) -> None:
    await store.install_app(U, Q)
    await store.set_wanted(U, P, True)
    assert await store.get_wanted_apps(U) == [P]
    assert sorted(await store.get_installed_apps(U)) == [P, Q]
    await store.set_wanted(U, P, False)
    assert await store.get_wanted_apps(U) == []
    assert P in await store.get_installed_apps(U), "stopping does not uninstall"
    await store.set_wanted(U, Q, True)
    assert await store.uninstall_app(U, Q)
    assert not await store.uninstall_app(U, Q)
    assert await store.get_wanted_apps(U) == []
    await store.set_wanted(V, "never.installed", False)
    assert await store.get_installed_apps(V) == []


async def test_simple_storage_belongs_to_one_user_and_package(store: SqliteStore) -> None:
    await store.storage_put(U, P, {"k1": "v1", "k2": "v2", "__proto__": "x"})
    await store.storage_put(U, P, {"k2": "new"})
    assert await store.storage_all(U, P) == {"k1": "v1", "k2": "new", "__proto__": "x"}
    assert await store.storage_all(V, P) == {} == await store.storage_all(U, Q)
    assert await store.storage_get(U, P, "k1") == "v1"
    assert await store.storage_get(U, P, "k9") is None
    assert await store.storage_delete(U, P, "k1")
    assert not await store.storage_delete(U, P, "k1")
    await store.storage_clear(U, P)
    assert await store.storage_all(U, P) == {}


@pytest.mark.failure("PER-04")
async def test_simple_storage_is_limited(store: SqliteStore) -> None:
    for bad in ({"": "x"}, {"k" * 257: "x"}, {"k": "x" * (100 * 1024 + 1)}, {"k": "é" * (50 * 1024 + 1)}):
        with pytest.raises(StorageLimit):
            await store.storage_put(U, P, bad)
    for number in range(10):
        await store.storage_put(U, P, {f"k{number}": "x" * 100_000})
    with pytest.raises(StorageLimit, match="total size exceeds 1MB"):
        await store.storage_put(U, P, {"a": "small", "last": "x" * (STORAGE_TOTAL_BYTES_MAX - 1_000_000)})
    assert await store.storage_get(U, P, "a") is None, "all or none"
    await store.storage_put(U, Q, {"k": "others are not affected"})


@pytest.mark.failure("PER-04")
async def test_concurrent_writers_on_different_keys_lose_nothing(store: SqliteStore) -> None:
    await asyncio.gather(
        *(store.storage_put(U, P, {f"a{n}": "1"}) for n in range(250)),
        *(store.put_app_settings(U, P, {f"b{n}": n}) for n in range(250)),
    )
    assert len(await store.storage_all(U, P)) == 250
    assert len(await store.get_app_settings(U, P)) == 250


async def test_registrations(store: SqliteStore) -> None:
    one = Registration("r1", P, "http://10.0.0.5:3000/webhook", ("http://10.0.0.5:3000",), 1.0, 2.0)
    await store.put_registration(one)
    await store.put_registration(replace(one, registration_id="r2", package_name=Q))
    await store.put_registration(replace(one, last_seen_at=5.0))
    assert await store.get_registration("r1") == replace(one, last_seen_at=5.0)
    assert await store.get_registration("r9") is None
    assert len(await store.list_registrations()) == 2
    assert [r.registration_id for r in await store.list_registrations(Q)] == ["r2"]
    assert await store.delete_registration("r2")
    assert not await store.delete_registration("r2")


async def test_small_facts(store: SqliteStore) -> None:
    assert not await store.is_onboarded(U, P)
    await store.set_onboarded(U, P)
    await store.set_onboarded(U, P)
    assert await store.is_onboarded(U, P)
    await store.put_location(U, Location(1.5, -2.5, 10.0, 100.0))
    await store.put_location(U, Location(2.5, -2.5, None, 101.0))
    assert await store.get_location(U) == Location(2.5, -2.5, None, 101.0)


@pytest.mark.failure("SEC-14")
async def test_tokens_are_listed_and_revoked(store: SqliteStore) -> None:
    now = time.time()
    await store.put_token(TokenRecord("live", U, "phone", now, None, None))
    await store.put_token(TokenRecord("old", U, "", now - 10_000, now - 9_000, None))
    await store.put_token(TokenRecord("bens", V, "", now, now + 100, None))
    assert await store.revoked_token_ids() == []
    assert await store.revoke_token("live")
    assert await store.revoke_token("bens")
    assert await store.revoke_token("old")
    assert not await store.revoke_token("unknown")
    assert sorted(await store.revoked_token_ids()) == ["bens", "live"], "an expired one needs no list"
    assert [token.token_id for token in await store.list_tokens(U)] == ["old", "live"]
    assert len(await store.list_tokens()) == 3


async def test_sessions_and_photos(store: SqliteStore) -> None:
    await store.put_session(SessionRecord(U, "s1", "e1", 1.0))
    await store.put_session(SessionRecord(U, "s1", "e2", 2.0))
    assert await store.list_sessions() == [SessionRecord(U, "s1", "e2", 2.0)]
    await store.delete_session(U)
    assert await store.list_sessions() == []
    photo = PhotoRecord("p1", U, "r1", P, "image/jpeg", "p1.jpg", 10, 1.0)
    await store.put_photo(photo)
    assert await store.get_photo("p1") == photo
    assert await store.list_photos(U) == [photo]
    assert await store.list_photos(V) == []
    assert await store.delete_photo(V, "p1") is None, "not somebody else's"
    assert await store.delete_photo(U, "p1") == photo
    assert await store.get_photo("p1") is None


async def test_one_failing_write_takes_no_other_with_it(store: SqliteStore) -> None:
    outcomes = await asyncio.gather(
        store.storage_put(U, P, {"a": "1"}),
        store.update_user_settings(U, {str(n): n for n in range(1001)}),
        store.storage_put(U, P, {"b": "1"}),
        return_exceptions=True,
    )
    assert outcomes[0] is None
    assert outcomes[2] is None
    assert isinstance(outcomes[1], StorageLimit)
    assert set(await store.storage_all(U, P)) == {"a", "b"}
    assert await store.get_user_settings(U) == {}


async def test_a_cancelled_caller_does_not_disturb_the_batch(store: SqliteStore) -> None:
    doomed = asyncio.ensure_future(store.storage_put(U, P, {"a": "1"}))
    await asyncio.sleep(0)
    doomed.cancel()
    await store.storage_put(U, P, {"b": "1"})
    assert "b" in await store.storage_all(U, P)


@pytest.mark.failure("PER-03")
async def test_a_locked_database_is_an_error_and_nothing_is_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    store = await SqliteStore.open(path, busy_timeout=0.05)
    await store.storage_put(U, P, {"before": "1"})
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError):
        await store.check()
    with pytest.raises(StoreError):
        await store.storage_put(U, P, {"during": "1"})
    assert await store.storage_all(U, P) == {"before": "1"}, "reading still works"
    other.execute("ROLLBACK")
    other.close()
    await store.check()
    await store.storage_put(U, P, {"after": "1"})
    assert set(await store.storage_all(U, P)) == {"before", "after"}
    await store.close()


async def test_closing_finishes_writes_and_refuses_new_ones(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "s.sqlite3")
    writes = [asyncio.ensure_future(store.storage_put(U, P, {f"k{n}": "v"})) for n in range(50)]
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    await asyncio.gather(*writes)
    with pytest.raises(StoreError):
        await store.storage_put(U, P, {"late": "v"})
    with pytest.raises(StoreError):
        await store.get_user(U)
    again = await SqliteStore.open(tmp_path / "s.sqlite3")
    assert len(await again.storage_all(U, P)) == 50
    await again.close()


def test_the_file_is_private(tmp_path: Path) -> None:
    async def run() -> None:
        await (await SqliteStore.open(tmp_path / "d" / "s.sqlite3")).close()

    asyncio.run(run())
    assert stat.S_IMODE((tmp_path / "d" / "s.sqlite3").stat().st_mode) == 0o600


WRITER = """
import asyncio, sys
from pathlib import Path
from cloud.store.sqlite import SqliteStore

async def main():
    store = await SqliteStore.open(Path(sys.argv[1]))
    async def write(n):
        await store.storage_put("u@x", "p", {f"k{n}": "v"})
        print(n, flush=True)
    await asyncio.gather(*(write(n) for n in range(40)))
    for n in range(40, 10**9):
        await write(n)

asyncio.run(main())
"""


@pytest.mark.failure("PER-04")
@pytest.mark.failure("PER-05")
def test_acknowledged_writes_survive_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(60)]
        os.kill(process.pid, signal.SIGKILL)
        rest, _ = process.communicate()
        acknowledged += [int(line) for line in rest.splitlines() if line.strip()]

        async def read() -> dict[str, str]:
            store = await SqliteStore.open(path)
            try:
                return await store.storage_all("u@x", "p")
            finally:
                await store.close()

        found = asyncio.run(read())
        assert {f"k{n}" for n in acknowledged} <= set(found)


@pytest.mark.failure("PER-05")
@pytest.mark.parametrize("damage", ["garbage", "truncated", "zeroed"])
async def test_a_corrupt_file_is_set_aside_and_the_last_good_copy_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.sqlite3"
    store = await SqliteStore.open(path)
    await store.put_app(app())
    await store.close()
    (tmp_path / "s.sqlite3.good").unlink()
    await (await SqliteStore.open(path)).close()  # makes a good copy that holds the app
    content = path.read_bytes()
    broken = {
        "garbage": b"not a database " * 1000,
        "truncated": content[: len(content) // 2 - 100],
        "zeroed": content[:100] + bytes(len(content) - 100),
    }[damage]
    path.write_bytes(broken)
    store = await SqliteStore.open(path)
    assert [record.package_name for record in await store.list_apps()] == [P]
    await store.put_app(app(Q))
    await store.close()
    assert (tmp_path / "s.sqlite3.corrupt-1").read_bytes() == broken
    assert "cannot be read" in caplog.text


@pytest.mark.failure("PER-05")
async def test_a_corrupt_file_without_a_copy_starts_empty(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    path.write_bytes(b"x" * 5000)
    store = await SqliteStore.open(path)
    assert await store.list_apps() == []
    await store.close()
    assert (tmp_path / "s.sqlite3.corrupt-1").exists()


def test_an_upgrade_keeps_a_copy_of_the_old_database(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    connection = _connect(path, 1.0)
    _migrate(connection, path, migrations())
    assert not list(tmp_path.glob("*.before-*")), "nothing to copy for a new file"
    connection.execute("INSERT INTO users VALUES ('u', NULL, 1.0)")
    later = [*migrations(), (2, "ALTER TABLE users ADD COLUMN extra TEXT;")]
    _migrate(connection, path, later)
    assert connection.execute("SELECT user_id, extra FROM users").fetchall() == [("u", None)]
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()
    copy = sqlite3.connect(tmp_path / "s.sqlite3.before-0002")
    assert copy.execute("SELECT * FROM users").fetchall() == [("u", None, 1.0)]
    copy.close()


def test_a_migration_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    connection = _connect(path, 1.0)
    _migrate(connection, path, migrations())
    with pytest.raises(sqlite3.Error):
        _migrate(connection, path, [*migrations(), (2, "CREATE TABLE x (a); CREATE TABLE users (b);")])
    connection.rollback()
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'x'").fetchall() == []
    connection.close()


async def test_a_database_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    await (await SqliteStore.open(path)).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="version 99"):
        await SqliteStore.open(path)


async def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be opened"):
        await SqliteStore.open(tmp_path / "file" / "s.sqlite3")
