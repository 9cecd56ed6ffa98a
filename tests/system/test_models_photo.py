"""A photo the whole way: app -> cloud -> edge -> glasses -> edge -> the app's own /photo-upload, nothing pretended but glass."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.support.app_server import FakeApp
from tests.support.cloud import USER, register, running
from tests.support.edge_process import edge_process
from tests.support.simulator import simulator_process
from tests.support.waiting import until

pytestmark = pytest.mark.lane("bumble")


@pytest.mark.failure("MED-01")
@pytest.mark.parametrize("model", ["live", "frame"])
async def test_an_app_asks_for_a_photo_and_gets_it(tmp_path: Path, model: str) -> None:
    async with (
        running(tmp_path / "cloud") as cloud,
        FakeApp("com.example.camera") as app,
        simulator_process(tmp_path, "--model", model) as sim,
    ):
        await register(cloud, app, "CAMERA")
        token = cloud.verifier.mint_core_token(USER)
        async with edge_process(
            tmp_path,
            cloud=cloud.url.replace("http", "ws", 1),
            radio=f"bumble:{sim.hci}",
            token=token,
            glasses=model,
        ) as edge:
            await edge.until_ready()
            async with httpx.AsyncClient(
                base_url=cloud.url, headers={"Authorization": f"Bearer {token}"}
            ) as client:
                started = await client.post(f"/apps/{app.package}/start", timeout=20)
                assert started.is_success, started.text
            session = await app.started(USER)
            await session.send("photo_request", packageName=app.package, requestId="p1", size="small")
            await until(lambda: app.photos, "the photo", 40)
            assert app.photos[0]["requestId"] == "p1"
            assert app.photos[0].get("type") != "photo_error", app.photos
