"""Moving a household from SQLite to PostgreSQL: everything or nothing, into an empty database, never while it is served."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.config import DATABASE_FILE
from cloud.instance import Instance
from cloud.store.move import move
from cloud.store.postgres import PostgresStore
from cloud.store.records import Location, PhotoRecord, Registration, SessionRecord, TokenRecord
from cloud.store.sql import TABLES, SqlStore
from cloud.store.sqlite import SqliteStore
from glassbridge.cli import main
from tests.cloud.test_store_sql import P, U, V, app
from tests.support.postgres import Postgres, postgres
from wire.errors import ConfigError


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


async def fill(directory: Path) -> None:
    """Something in every table."""
    store = await SqliteStore.open(directory / DATABASE_FILE)
    now = time.time()
    for user in (U, V):
        await store.ensure_user(user, "Änna")
        await store.update_user_settings(user, {"metric": True, "nested": {"x": [1, None, "é"]}})
        await store.update_phone_settings(user, {"head_up_angle": 20})
        await store.put_app_settings(user, P, {"lang": "de"})
        await store.storage_put(user, P, {f"k{n}": "v" * n for n in range(700)})
        await store.set_wanted(user, P, True)
        await store.set_onboarded(user, P)
        await store.put_location(user, Location(1.25, -2.5, None, now))
        await store.put_session(SessionRecord(user, "s", "e", now))
        await store.put_photo(PhotoRecord(f"p-{user}", user, "r", P, "image/jpeg", "x.jpg", 3, now))
    await store.put_file("x.jpg", b"jpg")
    await store.put_app(app())
    await store.put_registration(Registration("r1", P, "http://h/webhook", ("http://h",), 1.0, 2.0))
    await store.put_token(TokenRecord("live", U, "phone", now, None, None))
    await store.put_token(TokenRecord("dead", U, "", now, now + 9e6, now))
    await store.close()


async def everything(store: SqlStore) -> dict[str, list[tuple[object, ...]]]:
    return {
        table: sorted(tuple(row) for row in await store._read(f"SELECT * FROM {table}")) for table in TABLES
    }


async def test_every_row_arrives_as_it_was(tmp_path: Path, server: Postgres) -> None:
    await fill(tmp_path)
    url = server.new_database()
    counts = await move(tmp_path, url)
    source, target = await SqliteStore.open(tmp_path / DATABASE_FILE), await PostgresStore.open(url)
    try:
        before, after = await everything(source), await everything(target)
        assert after == before
        assert {table: len(rows) for table, rows in after.items()} | {"photo_files": 2} == counts
        assert await target.get_file("x.jpg") == b"jpg"
        assert all(counts.values()), "the test fills every table"
        assert target.apps[P].name == "Captions"
        assert await target.revoked_token_ids() == ["dead"]
    finally:
        await source.close()
        await target.close()


async def test_nothing_is_merged_into_what_is_there(tmp_path: Path, server: Postgres) -> None:
    await fill(tmp_path)
    url = server.new_database()
    await move(tmp_path, url)
    with pytest.raises(ConfigError, match="not empty"):
        await move(tmp_path, url)


async def test_a_row_that_cannot_move_stops_the_whole_move(tmp_path: Path, server: Postgres) -> None:
    await fill(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE_FILE) as file:
        file.execute(
            "UPDATE simple_storage SET value = 'nul' || char(0) WHERE key = 'k3' AND user_id = ?", (U,)
        )
    file.close()
    url = server.new_database()
    with pytest.raises(ConfigError, match=r"simple_storage.*U\+0000"):
        await move(tmp_path, url)
    target = await PostgresStore.open(url)
    assert not any((await everything(target)).values()), "all or nothing"
    await target.close()


async def test_a_directory_that_a_cloud_serves_is_not_moved(tmp_path: Path, server: Postgres) -> None:
    await fill(tmp_path)
    lock = Instance(tmp_path)
    try:
        with pytest.raises(ConfigError, match="another cloud serves it"):
            await move(tmp_path, server.new_database())
    finally:
        lock.release()


def test_one_command_moves_a_household(
    tmp_path: Path, server: Postgres, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    asyncio.run(fill(tmp_path))
    assert main(["cloud", "migrate", "--data-dir", str(tmp_path)]) == 78
    assert "GLASSBRIDGE_STORE__URL" in capsys.readouterr().err
    monkeypatch.setenv("GLASSBRIDGE_STORE__URL", server.new_database())
    assert main(["cloud", "migrate", "--data-dir", str(tmp_path), "--json"]) == 0
    moved = json.loads(capsys.readouterr().out)["moved"]
    assert moved["users"] == 2
    assert moved["simple_storage"] == 1400


def test_an_empty_place_is_named(tmp_path: Path, server: Postgres) -> None:
    import asyncio

    with pytest.raises(ConfigError, match="no database to move"):
        asyncio.run(move(tmp_path, server.new_database()))
