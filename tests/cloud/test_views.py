"""Pictures of a session for the routes."""

from __future__ import annotations

from cloud.server import Cloud
from tests.support.app_server import FakeApp
from tests.support.cloud import USER, phone, register, subscribed


async def test_views_name_states_and_hold_nothing_that_was_said(cloud: Cloud) -> None:
    async with FakeApp("a", "k", "button_press") as app, phone(cloud) as glasses:
        await register(cloud, app)
        await glasses.start_app("a")
        session = await app.started(USER)
        await subscribed(cloud, "a")
        await glasses.send(
            "phone_notification", notificationId="1", app="Mail", title="top secret", content="x"
        )
        await glasses.send("location_update", lat=12.34567, lng=2)
        await glasses.send("ping")
        await glasses.next("pong")
        view = cloud.hub.session_view(USER)
        assert view is not None
        assert (view.state, view.connected, view.apps[0].state) == ("connected", True, "connected")
        assert view.apps[0].subscriptions == ("button_press",)
        assert cloud.hub.session_owner(session.session_id) == (USER, "a")
        assert cloud.hub.session_owner("nobody-a") is None
        trace = str(cloud.hub.trace())
        assert "top secret" not in trace
        assert "12.34567" not in trace
        assert cloud.hub.trace(since=10**9) == []
