"""The PostgreSQL engine: nodes that share it, and what happens while it is away, frozen, wrong or not there yet."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from cloud.store import postgres as engine
from cloud.store.base import StorageLimit, StoreError
from cloud.store.postgres import PostgresStore, for_postgres, shown
from cloud.store.records import TokenRecord
from tests.cloud.test_store_sql import app
from tests.support.postgres import PASSWORD, Postgres, postgres
from tests.support.waiting import SLOW, until
from wire.errors import ConfigError

U, P, Q = "anna@home.example", "com.example.app", "com.example.other"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture
async def store(server: Postgres) -> AsyncIterator[PostgresStore]:
    made = await PostgresStore.open(server.new_database(), patience=0.5)
    yield made
    await made.close()


async def test_another_nodes_change_is_seen_without_asking(server: Postgres) -> None:
    url = server.new_database()
    one, other = await PostgresStore.open(url), await PostgresStore.open(url)
    heard: list[tuple[str, str]] = []
    other.on_change = lambda kind, key: heard.append((kind, key))
    own: list[tuple[str, str]] = []
    one.on_change = lambda kind, key: own.append((kind, key))
    try:
        stored = await one.put_app(app())
        await until(lambda: other.apps.get(P) == stored, "the other node knows the app")
        await one.put_app(replace(app(), name="New name"))
        await until(lambda: other.apps[P].name == "New name", "and its change")
        await one.put_token(TokenRecord("t1", U, "", 1.0, None, None))
        await one.revoke_token("t1")
        await until(lambda: ("token", "t1") in heard, "and that a token was revoked")
        await one.delete_app(P)
        await until(lambda: P not in other.apps, "and that the app is gone")
        assert ("app", P) in heard
        assert own == [], "nobody is told what he did himself"
    finally:
        await one.close()
        await other.close()


@pytest.mark.failure("PER-03")
async def test_while_it_is_away_records_stay_and_operations_fail_in_time(
    server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    url = server.new_database()
    store = await PostgresStore.open(url, patience=0.5)
    other = await PostgresStore.open(url, patience=30.0 * SLOW)
    try:
        await store.put_app(app())
        await store.storage_put(U, P, {"before": "1"})
        heard: list[tuple[str, str]] = []
        other.on_change = lambda kind, key: heard.append((kind, key))
        server.stop()
        began = time.monotonic()
        with pytest.raises(StoreError):
            await store.storage_put(U, P, {"during": "1"})
        with pytest.raises(StoreError):
            await store.get_user(U)
        assert time.monotonic() - began < 4 * SLOW
        await until(lambda: store.away is not None, "it is noticed")
        with pytest.raises(StoreError, match="away for"):
            await store.check()
        assert store.apps[P].name == "Captions", "lookups that cannot wait go on"
        patient = asyncio.ensure_future(other.storage_put(U, Q, {"patient": "1"}))
        await asyncio.sleep(0)
    finally:
        server.start()
    try:
        await patient
        await until(lambda: store.away is None, "it is back")
        await store.storage_put(U, P, {"after": "1"})
        assert set(await store.storage_all(U, P)) == {"before", "after"}
        assert await store.storage_get(U, Q, "patient") == "1"
        await until(lambda: ("app", "") in heard and ("token", "") in heard, "changes may have been missed")
        messages = [
            record.getMessage() for record in caplog.records if "the database is" in record.getMessage()
        ]
        assert len([m for m in messages if "is away" in m]) == 2, "once per node and outage"
        assert len([m for m in messages if "is back" in m]) == 2
    finally:
        await store.close()
        await other.close()


@pytest.mark.failure("PER-03")
async def test_a_frozen_server_is_a_server_that_is_away(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "ATTEMPT", 0.3)
    monkeypatch.setattr(engine, "CONNECT", 0.3)
    store = await PostgresStore.open(server.new_database(), patience=0.5)
    try:
        await store.storage_put(U, P, {"before": "1"})
        server.freeze()
        try:
            began = time.monotonic()
            outcomes = await asyncio.gather(
                *(store.storage_put(U, P, {f"k{n}": "1"}) for n in range(30)), return_exceptions=True
            )
            assert all(isinstance(outcome, StoreError) for outcome in outcomes)
            assert time.monotonic() - began < 5 * SLOW
        finally:
            server.thaw()
        await until(lambda: store.away is None, "it is back")
        await store.storage_put(U, P, {"after": "1"})
        assert "after" in await store.storage_all(U, P)
    finally:
        await store.close()


@pytest.mark.failure("PER-03")
async def test_a_primary_that_was_demoted_is_left_for_its_successor(server: Postgres) -> None:
    store = await PostgresStore.open(server.new_database())
    try:
        await store.storage_put(U, P, {"before": "1"})
        # Connections that are open now stay read-only, those that are made anew are not.
        for connection in store._pool._holders:
            if connection._con is not None:
                await connection._con.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        await store.storage_put(U, P, {"after": "1"})
        assert set(await store.storage_all(U, P)) == {"before", "after"}
    finally:
        await store.close()


async def test_closing_does_not_wait_for_a_server_that_is_away(server: Postgres) -> None:
    store = await PostgresStore.open(server.new_database(), patience=0.2)
    await store.check()
    server.stop()
    try:
        began = time.monotonic()
        await store.close()
        assert time.monotonic() - began < 6 * SLOW
    finally:
        server.start()


async def test_only_so_many_wait(
    store: PostgresStore, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PENDING_MAX", 10)
    server.stop()
    try:
        outcomes = await asyncio.gather(*(store.check() for _ in range(20)), return_exceptions=True)
        refused = [o for o in outcomes if isinstance(o, StoreError) and "too many operations" in str(o)]
        assert len(refused) == 10
    finally:
        server.start()


async def test_nodes_that_start_together_migrate_once(server: Postgres) -> None:
    url = server.new_database()
    stores = await asyncio.gather(*(PostgresStore.open(url) for _ in range(4)))
    rows = await stores[0]._read("SELECT version FROM schema_version")
    assert [row[0] for row in rows] == [number for number, _ in engine.migrations("postgres")]
    await asyncio.gather(*(store.close() for store in stores))


async def test_the_next_version_is_tolerated_the_one_after_is_not(server: Postgres) -> None:
    url = server.new_database()
    store = await PostgresStore.open(url)
    newest = engine.migrations("postgres")[-1][0]
    await store._write("INSERT INTO schema_version VALUES (?)", newest + 1)
    await (await PostgresStore.open(url)).close()  # while nodes are replaced one by one, both versions serve
    await store._write("INSERT INTO schema_version VALUES (?)", newest + 2)
    await store.close()
    with pytest.raises(ConfigError, match="this program knows"):
        await PostgresStore.open(url)


async def test_a_node_started_before_its_database_waits_for_it(
    server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    url = server.new_database()
    server.stop()
    opening = asyncio.ensure_future(PostgresStore.open(url))
    await until(lambda: "does not answer yet" in caplog.text, "it says that it waits")
    server.start()
    store = await opening
    await store.check()
    await store.close()


@pytest.mark.failure("SEC-03")
@pytest.mark.parametrize("what", ["password", "database", "scheme", "nobody", "shape"])
async def test_an_address_that_cannot_work_is_a_config_error_without_the_password(
    server: Postgres, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = server.new_database()
    bad = {
        "password": good.replace("p%40ss%20word", "hunter2-wrong"),
        "database": good.replace("/test", "/nosuch"),
        "scheme": "mysql://glassbridge:hunter2-wrong@localhost/x",
        "nobody": "postgresql://glassbridge:hunter2-wrong@127.0.0.1:1/x",
        "shape": "postgresql://glassbridge:hunter2-wrong@[::/x",
    }[what]
    with pytest.raises(ConfigError) as caught:
        await PostgresStore.open(bad, start_patience=0.3)
    for secret in (PASSWORD, "p%40ss", "hunter2"):
        assert secret not in str(caught.value)
        assert secret not in caplog.text
        assert secret not in repr(caught.value.__context__)


async def test_text_that_the_database_cannot_hold_is_refused_for_good(store: PostgresStore) -> None:
    with pytest.raises(StorageLimit):
        await store.get_user("nul\0")
    await store.check()


def test_addresses_are_shown_without_secrets() -> None:
    assert shown("postgresql://a:b@h:5432/d?x=y") == "postgresql://h:5432/d"


def test_types_are_translated() -> None:
    assert for_postgres("a TEXT, b REAL, c INTEGER) WITHOUT ROWID;").split() == (
        ["a", "TEXT", "COLLATE", '"C",', "b", "DOUBLE", "PRECISION,", "c", "BIGINT)", ";"]
    )
