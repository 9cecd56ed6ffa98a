"""App servers that fail and return, and those who wait for them."""

from __future__ import annotations

from cloud.server import Cloud
from tests.support.app_server import FakeApp
from tests.support.cloud import USER, phone, register


async def test_an_app_server_that_returns_is_asked_at_once(cloud: Cloud) -> None:
    app = FakeApp("a", "k")
    await app.listen()
    port = app.port
    await register(cloud, app)
    async with phone(cloud) as glasses:
        await glasses.next("connection_ack")
        await app.stop()
        assert (await cloud.hub.start_app(USER, "a")).code == "APP_UNREACHABLE"
        await app.listen(port)
        before = len(app.requests())
        assert cloud.hub.app_server_restarted("a") <= 1
        await app.started(USER)
        assert len(app.requests()) == before + 1
    await app.stop()
