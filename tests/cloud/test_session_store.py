"""What sessions write while the store is away: in order, tried again, bounded, and on disk when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cloud import session_store
from cloud.config import CloudConfig
from cloud.server import Cloud
from cloud.store.base import StorageLimit, StoreError
from cloud.store.sqlite import SqliteStore
from tests.support.app_server import FakeApp
from tests.support.cloud import SECRET, USER, phone, register, running, subscribed
from tests.support.postgres import postgres
from tests.support.waiting import until


class AwayStore(SqliteStore):
    """A real store that refuses the first writes of what a user wants, as one that is away would."""

    refusals = 3
    tried = 0

    async def set_wanted(self, user_id: str, package_name: str, wanted: bool) -> None:
        self.tried += 1
        if self.tried <= self.refusals:
            await asyncio.sleep(0.01)
            raise StoreError("away")
        await super().set_wanted(user_id, package_name, wanted)


async def cloud_on(tmp_path: Path, store: SqliteStore) -> Cloud:
    settings: dict[str, Any] = {
        "data_dir": str(tmp_path), "port": 0, "profile": "dev", "auth.secret": SECRET,
    }  # fmt: skip
    return Cloud(CloudConfig.load(overrides=settings, env={}), store=store)


@pytest.mark.failure("PER-02")
@pytest.mark.failure("PER-03")
async def test_a_stop_that_follows_a_start_is_what_stays_however_late_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_store, "SAVE_PAUSES", (0.05,) * 10)
    store = await AwayStore.open(tmp_path / "s.db")
    assert isinstance(store, AwayStore)
    async with FakeApp("a", "k", "button_press") as app, await cloud_on(tmp_path, store) as cloud:
        await register(cloud, app)
        async with phone(cloud) as glasses:
            await glasses.start_app("a")
            await app.started(USER)
            await glasses.stop_app("a")
            await until(lambda: store.tried == AwayStore.refusals + 2, "both are written")
            await until(lambda: glasses.running() == [], "stopped")
    assert await store.get_wanted_apps(USER) == [], "the first, tried again, has not overtaken the second"
    assert await store.get_installed_apps(USER) == ["a"]
    await store.close()


async def test_what_can_never_be_stored_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await AwayStore.open(tmp_path / "s.db")
    calls = []

    async def refuse(*_: object) -> dict[str, Any]:
        calls.append(1)
        raise StorageLimit("too large")

    monkeypatch.setattr(store, "put_session", refuse)
    async with await cloud_on(tmp_path, store) as cloud, phone(cloud) as glasses:
        await glasses.next("connection_ack")
        await until(lambda: calls, "it was tried")
    assert calls == [1]
    await store.close()


async def test_only_so_many_writes_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_store, "SAVES_MAX", 0)
    async with running(tmp_path) as cloud, phone(cloud) as glasses:
        await glasses.next("connection_ack")
        assert b'store_failures_total{operation="put_session"} 1.0' in cloud.metrics.text()


@pytest.mark.failure("SEC-14")
async def test_nodes_that_share_a_database_follow_each_others_records(tmp_path: Path) -> None:
    with postgres() as server:
        url = server.new_database()
        async with (
            FakeApp("a", "k", "button_press") as app,
            running(tmp_path / "1", store__url=url) as one,
            running(tmp_path / "2", store__url=url) as two,
        ):
            await register(one, app)
            await until(lambda: "a" in two.store.apps, "the other node knows the app")
            made = await two.store.list_tokens()
            assert made == []
            async with phone(two) as glasses:
                await glasses.start_app("a")
                session = await app.started(USER)
                await subscribed(two, "a")
                record = one.store.apps["a"]
                await one.store.put_app(type(record)(**{**_members(record), "hashed_api_key": "00" * 32}))
                await until(lambda: session.closed is not None, "its old key is worthless there, too")
            assert (await one.store.list_sessions()) != []


def _members(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in type(record).__dataclass_fields__}


@pytest.mark.failure("SEC-14")
async def test_a_token_revoked_on_one_node_ends_its_connection_on_another(tmp_path: Path) -> None:
    with postgres() as server:
        url = server.new_database()
        async with (
            running(tmp_path / "1", store__url=url) as one,
            running(tmp_path / "2", store__url=url) as two,
        ):
            from cloud.store.records import TokenRecord

            token = one.verifier.mint_core_token(USER, token_id="t1")
            await one.store.put_token(TokenRecord("t1", USER, "", 1.0, None, None))
            glasses = phone(two)
            glasses.token = token
            async with glasses:
                await glasses.next("connection_ack")
                await one.store.revoke_token("t1")
                await until(lambda: glasses.closed is not None, "it is ended")
            assert "t1" in two.verifier.revoked


@pytest.mark.failure("PER-03")
async def test_a_node_stays_in_service_while_the_shared_database_is_away(tmp_path: Path) -> None:
    with postgres() as server:
        async with (
            FakeApp("a", "k", "button_press") as app,
            running(tmp_path, store__url=server.new_database()) as cloud,
        ):
            await register(cloud, app)
            async with phone(cloud) as glasses:
                await glasses.start_app("a")
                session = await app.started(USER)
                await subscribed(cloud, "a")
                server.stop()
                await until(lambda: cloud.store.away is not None, "it is noticed", 10)
                reply = await glasses.rest("GET", "/readyz")
                assert reply.status_code == 200, "every node would leave the balancer at once"
                assert "away for" in reply.json()["checks"]["storage"]
                await glasses.send("button_press", buttonId="main", pressType="short")
                await until(lambda: session.events("button_press"), "who is connected goes on")
                await glasses.stop_app("a")
                await until(lambda: glasses.running() == [], "a stop takes effect at once")
                server.start()
                await until(lambda: cloud.store.away is None, "it is back", 10)

                async def written() -> bool:
                    return await cloud.store.get_wanted_apps(USER) == []

                probe: Callable[[], bool | Awaitable[bool]] = written
                await until(probe, "and is written when it can be", 15)


@pytest.mark.failure("PER-03")
async def test_a_store_that_fails_costs_no_session_and_no_wish(tmp_path: Path) -> None:
    async with running(tmp_path) as cloud:
        real = cloud.store.get_user_settings
        failures = 3

        async def flaky(user_id: str) -> dict[str, Any]:
            nonlocal failures
            if failures:
                failures -= 1
                raise StoreError("the disk is away")
            return await real(user_id)

        async with FakeApp("a", "k") as app:
            await register(cloud, app)
            await cloud.store.set_wanted(USER, "a", True)
            cloud.store.get_user_settings = flaky  # type: ignore[method-assign]
            async with phone(cloud) as glasses:
                await glasses.next("connection_ack")
                await app.started(USER)
                assert failures == 0
