"""Forgetting an account forgets every part of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud.http.accounts import forget_account, forget_photo
from cloud.store.records import PhotoRecord, TokenRecord
from tests.cloud.http_world import ANNA, BEN, HttpWorld, http_world


async def keep_photo(world: HttpWorld, user_id: str, photo_id: str) -> Path:
    directory = world.services.config.directory / "photos"
    directory.mkdir(exist_ok=True)
    path = directory / f"{photo_id}.jpg"
    path.write_bytes(b"jpeg")
    await world.store.put_photo(PhotoRecord(photo_id, user_id, "r", None, "image/jpeg", path.name, 4, 1.0))
    return path


async def test_nothing_of_the_user_is_left_and_nobody_else_is_touched(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        mine, theirs = await keep_photo(world, ANNA, "p1"), await keep_photo(world, BEN, "p2")
        await world.store.put_token(TokenRecord("t1", ANNA, "", 1.0, None, None))
        assert await forget_account(world.services, ANNA, "account removed")
        assert not mine.exists()
        assert theirs.exists()
        assert "t1" in world.services.verifier.revoked
        assert world.hub.told == [("end", ANNA, "account removed"), ("revoked", ANNA, "t1")]
        assert not await forget_account(world.services, ANNA, "account removed")
        assert await world.store.get_user(BEN) is not None


@pytest.mark.failure("SEC-06")
async def test_a_photo_is_forgotten_by_its_owner_only_even_if_its_file_is_gone(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        path = await keep_photo(world, ANNA, "p1")
        assert not await forget_photo(world.services, BEN, "p1")
        path.unlink()
        assert await forget_photo(world.services, ANNA, "p1")
        assert not await forget_photo(world.services, ANNA, "p1")
