"""What the event path measures."""

from __future__ import annotations

from cloud.server import Cloud
from tests.support.app_server import FakeApp
from tests.support.cloud import USER, phone, register


async def test_the_gauges_follow_the_states(cloud: Cloud) -> None:
    async with FakeApp("a", "k") as app, phone(cloud) as glasses:
        await register(cloud, app)
        await glasses.start_app("a")
        await app.started(USER)
        cloud.hub.publish()
        text = cloud.metrics.text().decode()
        assert 'glassbridge_sessions{state="connected"} 1.0' in text
        assert 'glassbridge_app_sessions{state="connected"} 1.0' in text
