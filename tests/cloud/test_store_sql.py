"""The operations of the store, the same on every engine: what it remembers and what it refuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
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
from cloud.store.sql import TABLES, SqlStore
from cloud.store.sqlite import SqliteStore
from tests.support.postgres import Postgres, postgres

U, V, P, Q = "anna@home.example", "ben@home.example", "com.example.app", "com.example.other"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


async def opened(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> SqlStore:
    if engine == "sqlite":
        return await SqliteStore.open(tmp_path / "s.sqlite3")
    from cloud.store.postgres import PostgresStore

    return await PostgresStore.open(request.getfixturevalue("server").new_database())


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    made = await opened(request.param, request, tmp_path)
    yield made
    await made.close()


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


async def test_the_class_implements_the_interface(store: SqlStore) -> None:
    interface: Store = store
    assert interface is store


async def test_users_are_made_once_and_forgotten_whole(store: SqlStore) -> None:
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


async def test_settings_are_merged_key_by_key(store: SqlStore) -> None:
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


async def test_settings_are_bounded(store: SqlStore) -> None:
    for bad in ({"k" * 300: 1}, {"k": "v" * 200_000}, {str(n): n for n in range(1001)}, {"k": object()}):
        with pytest.raises(StorageLimit):
            await store.update_user_settings(U, bad)
    assert await store.get_user_settings(U) == {}, "all or nothing"


async def test_app_records_round_trip_and_are_visible_without_waiting(store: SqlStore) -> None:
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
async def test_wanted_is_what_the_user_said_last(store: SqlStore) -> None:
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


async def test_simple_storage_belongs_to_one_user_and_package(store: SqlStore) -> None:
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
async def test_simple_storage_is_limited(store: SqlStore) -> None:
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
async def test_concurrent_writers_on_different_keys_lose_nothing(store: SqlStore) -> None:
    await asyncio.gather(
        *(store.storage_put(U, P, {f"a{n}": "1"}) for n in range(250)),
        *(store.put_app_settings(U, P, {f"b{n}": n}) for n in range(250)),
    )
    assert len(await store.storage_all(U, P)) == 250
    assert len(await store.get_app_settings(U, P)) == 250


async def test_registrations(store: SqlStore) -> None:
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


async def test_small_facts(store: SqlStore) -> None:
    assert not await store.is_onboarded(U, P)
    await store.set_onboarded(U, P)
    await store.set_onboarded(U, P)
    assert await store.is_onboarded(U, P)
    await store.put_location(U, Location(1.5, -2.5, 10.0, 100.0))
    await store.put_location(U, Location(2.5, -2.5, None, 101.0))
    assert await store.get_location(U) == Location(2.5, -2.5, None, 101.0)


@pytest.mark.failure("SEC-14")
async def test_tokens_are_listed_and_revoked(store: SqlStore) -> None:
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


async def test_sessions_and_photos(store: SqlStore) -> None:
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


async def test_files_of_photos_are_kept_and_dropped(store: SqlStore) -> None:
    data = bytes(range(256)) * 4096
    assert await store.get_file("p1.jpg") is None
    await store.put_file("p1.jpg", data)
    await store.put_file("p1.jpg", data[:-1])
    assert await store.get_file("p1.jpg") == data[:-1]
    await store.delete_file("p1.jpg")
    await store.delete_file("p1.jpg")
    assert await store.get_file("p1.jpg") is None


async def test_one_failing_write_takes_no_other_with_it(store: SqlStore) -> None:
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


async def test_a_cancelled_caller_does_not_disturb_the_batch(store: SqlStore) -> None:
    doomed = asyncio.ensure_future(store.storage_put(U, P, {"a": "1"}))
    await asyncio.sleep(0)
    doomed.cancel()
    await store.storage_put(U, P, {"b": "1"})
    assert "b" in await store.storage_all(U, P)


async def test_texts_sort_by_their_bytes_and_times_keep_their_fractions(store: SqlStore) -> None:
    for name in ("zoe@x", "Anna@x", "anna@x", "éva@x"):
        await store.ensure_user(name)
    assert [user.user_id for user in await store.list_users()] == ["Anna@x", "anna@x", "zoe@x", "éva@x"]
    await store.put_location(U, Location(52.5200066, 13.404954, None, 1795406145.931894))
    assert await store.get_location(U) == Location(52.5200066, 13.404954, None, 1795406145.931894)


async def test_what_one_engine_cannot_hold_none_holds(store: SqlStore) -> None:
    for bad in ({"k\0": "v"}, {"k": "v\0"}):
        with pytest.raises(StorageLimit, match=r"U\+0000"):
            await store.storage_put(U, P, bad)
    with pytest.raises(StorageLimit, match=r"U\+0000"):
        await store.update_user_settings(U, {"k\0": 1})
    assert await store.update_user_settings(U, {"k": "v\0"}) == {"k": "v\0"}, "JSON has a form for it"


async def test_a_closed_store_says_so(store: SqlStore) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.get_user(U)
    with pytest.raises(StoreError, match="closed"):
        await store.set_wanted(U, P, True)


@pytest.mark.failure("PER-04")
async def test_limits_hold_against_two_writers_at_once(store: SqlStore) -> None:
    """Each of these fits alone; the sum of all does not."""
    outcomes = await asyncio.gather(
        *(store.storage_put(U, P, {f"k{n}": "x" * 100_000}) for n in range(14)), return_exceptions=True
    )
    stored = await store.storage_all(U, P)
    assert len(stored) == 10
    assert sum(isinstance(outcome, StorageLimit) for outcome in outcomes) == 4


async def test_the_tables_are_all_named(store: SqlStore) -> None:
    """A new table is copied by `cloud migrate`, too."""
    if isinstance(store, SqliteStore):
        rows = await store._read("SELECT name FROM sqlite_master WHERE type = 'table'")
    else:
        rows = await store._read("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert {row[0] for row in rows} - {"health", "schema_version", "photo_files"} == set(TABLES)
