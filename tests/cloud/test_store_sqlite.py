"""The SQLite store: what it remembers, what it refuses, and what survives kill -9, corruption and upgrades."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cloud.store.base import StoreError
from cloud.store.records import (
    AppRecord,
    AppType,
    Permission,
)
from cloud.store.sql import migrations
from cloud.store.sqlite import SqliteStore, _connect, _migrate
from wire.errors import ConfigError

U, V, P, Q = "anna@home.example", "ben@home.example", "com.example.app", "com.example.other"


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
    _migrate(connection, path, migrations("sqlite"))
    assert not list(tmp_path.glob("*.before-*")), "nothing to copy for a new file"
    connection.execute("INSERT INTO users VALUES ('u', NULL, 1.0)")
    later = [*migrations("sqlite"), (2, "ALTER TABLE users ADD COLUMN extra TEXT;")]
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
    _migrate(connection, path, migrations("sqlite"))
    with pytest.raises(sqlite3.Error):
        _migrate(
            connection, path, [*migrations("sqlite"), (2, "CREATE TABLE x (a); CREATE TABLE users (b);")]
        )
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
