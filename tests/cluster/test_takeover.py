"""Sessions that move between nodes: over real sockets, with the fabric in process and over NATS."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cloud.cluster.local import LocalEngine
from tests.support.app_server import FakeApp, FakeSession
from tests.support.cloud import USER, register
from tests.support.nodes import Nodes, nodes
from tests.support.waiting import until


def pressed(session: FakeSession) -> list[int]:
    """Numbers of the presses that the app was told of, those flagged as said again left out."""
    return [
        int(m["data"]["buttonId"].rpartition("-")[2])
        for m in session.of("data_stream")
        if m["streamType"] == "button_press" and not m.get("replayed")
    ]


async def started(world: Nodes, app: FakeApp, user: str = USER) -> FakeSession:
    session = await app.started(user)
    await until(lambda: any(m["type"] == "tpa_connection_ack" for m in session.received), "ack")
    return session


async def test_a_session_begins_in_a_cluster_as_it_does_alone(tmp_path: Path) -> None:
    engine = await LocalEngine.open()

    async def make():  # type: ignore[no-untyped-def]
        return engine.node()

    async with (
        nodes(tmp_path, make) as world,
        FakeApp("com.example.a", "key-0123456789", "button_press") as app,
    ):
        await register(world[0], app)
        async with world.phone() as phone:
            await until(lambda: phone.is_live, "the link is up")
            phone.say("start_app", packageName=app.package)
            session = await started(world, app)
            await until(lambda: world.seat(0) is not None and bool(app.sessions), "seat")
            await asyncio.sleep(0.3)
            for _ in range(5):
                phone.press()
            await until(lambda: len(pressed(session)) == 5, "five presses")
            assert world.owners() == [0]
            # the glasses go to the other node
            phone.go(world.urls[1])
            await until(lambda: world.owners() == [1], "moved")
            for _ in range(5):
                phone.press()
            await until(lambda: len(pressed(session)) >= 10, "ten presses")
            assert pressed(session) == list(range(1, 11))
            assert world.edges(0) == 1
            assert len(session.of("tpa_connection_ack")) == 1
            await session.show("hello from afar")
            await until(lambda: "hello from afar" in phone.displays(), "the display")
    await engine.close()
