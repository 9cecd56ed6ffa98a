"""What the console sees of the past: records, exchanges, events to send again."""

from __future__ import annotations

import time

from cloud.server import Cloud
from tests.support.app_server import FakeApp
from tests.support.cloud import USER, phone, register, subscribed
from tests.support.waiting import until


async def test_an_event_on_the_console_can_be_sent_once_more(cloud: Cloud) -> None:
    async with FakeApp("a", "k", "button_press") as app, phone(cloud) as glasses:
        await register(cloud, app)
        await glasses.start_app("a")
        session = await app.started(USER)
        await subscribed(cloud, "a")
        await glasses.send("button_press", buttonId="main", pressType="short")
        await until(lambda: len(session.events("button_press")) == 1, "the press")
        [record] = [
            r for r in cloud.hub.trace() if r["kind"] == "from_glasses" and r["about"] == "button_press"
        ]
        assert cloud.hub.replay(record["seq"])
        await until(lambda: len(session.events("button_press")) == 2, "the press again")
        assert not cloud.hub.replay(10**9)


async def test_each_hop_of_an_exchange_is_measured_and_told(cloud: Cloud) -> None:
    async with FakeApp("a", "k", "button_press") as app, phone(cloud) as glasses:
        await register(cloud, app)
        await glasses.start_app("a")
        session = await app.started(USER)
        await subscribed(cloud, "a")
        cloud.hub.trace()  # somebody watches from now on
        edge_ahead = 5000.0  # its clock, milliseconds
        clock = (time.time() * 1000) + edge_ahead
        await glasses.send(
            "ping", sentMs=1, clockMs=clock, offsetMs=-edge_ahead, errorMs=0.5, rttMs=1, audioMs=7.5
        )
        await glasses.send("button_press", buttonId="main", pressType="short", timestamp=round(clock))
        await until(lambda: len(session.events("button_press")) == 1, "the press")
        mark = glasses.mark()
        await session.show("pressed")
        shown = await glasses.shows("pressed", since=mark)
        await glasses.send(
            "glassbridge_display_result",
            displayId=shown["displayId"],
            outcome="shown",
            downlinkMs=2,
            edgeMs=1,
            bleMs=40,
        )
        await until(lambda: any(r["kind"] == "exchange" for r in cloud.hub.trace()), "the exchange")
        (exchange,) = (r for r in cloud.hub.trace() if r["kind"] == "exchange")
        hops = {hop["who"]: hop["ms"] for hop in exchange["hops"] if hop["ms"] is not None}
        assert exchange["about"] == "button_press"
        assert hops.keys() == {"cloud", "app", "edge", "radio", "lens"}
        assert hops["lens"] == 40
        cloud.hub.publish()
        metrics = cloud.metrics.text().decode()
        for hop in ("mic_to_edge", "edge_to_cloud", "app", "cloud_to_edge", "edge", "ble"):
            assert f'glassbridge_hop_seconds_count{{hop="{hop}"}} 1.0' in metrics, hop
        assert 'glassbridge_hop_seconds_count{hop="cloud_display"} 0.0' not in metrics, (
            "the dashboard counts too"
        )
        assert 'glassbridge_hop_seconds_sum{hop="mic_to_edge"} 0.0075' in metrics
