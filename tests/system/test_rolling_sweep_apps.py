"""One fault at every frame between the cloud and an app, in both directions, over real sockets: each run recovers.

The story: the wearer starts an app, gets three notifications, sees the app's count of them on the lens, gets another one and
stops the app. The app server behaves as the SDK does: it opens a socket when it is asked to, reconnects by itself after one
and three seconds, draws what it knows whenever it is acknowledged. Each run has a wearer and a fault proxy between its app
session and the cloud; webhooks do not pass it. A frame is counted when the app hands it to its socket or gets it from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from cloud.server import Cloud
from tests.support.app_server import FakeApp, FakeSession
from tests.support.cloud import register, running
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import until
from tests.system.rolling import Edge
from tests.system.test_rolling_sweep import Fault, black_hole, delay, half_open, reset, sweep
from wire.messages.glasses_to_cloud import PhoneNotification

PACKAGE = "com.example.counter"
#: Runs at the same time. Most of a run is waiting: for the end of the fault, for the next attempt.
PARALLEL = 16
#: Seconds for one step on a quiet machine: the app's own reconnects (1 s, 3 s), its grace (5 s), a new start after that.
STEP_MAX = 20.0
NOTES = ["note 0", "note 1", "note 2"]
LAST = "note 3"
#: When the SDK dials again after a loss, in seconds from the loss and from the first failure.
RECONNECTS = (1.0, 2.0)
#: Close codes after which the SDK does not come back by itself.
FINAL = (1000, 1001, 1008)


def cloud_side_lost(proxy: FaultProxy) -> None:
    """The cloud loses the socket; the app goes on believing in it, until the cloud asks for a new session."""
    proxy.abandon("server")


@dataclass
class Counting(FakeSession):
    """An app session that counts notifications and draws how many it has seen."""

    run: Run = field(kw_only=True)

    async def send(self, kind: str, **members: Any) -> None:
        self.run.count()
        await super().send(kind, **members)

    async def _read(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for data in socket:
                if socket is not self.socket or self.run.session is not self:
                    return  # the app has moved on to another socket or instance; that one got this frame, too
                self.run.count()
                message = json.loads(data)
                self.received.append(message)
                if message["type"] == "data_stream":
                    self.run.arrived.append(
                        (message["data"]["notificationId"], message.get("replayed", False))
                    )
                    await self.draw()
        if socket is self.socket:
            self.closed = (socket.close_code or 1006, socket.close_reason or "")
            if self.closed[0] not in FINAL and not self.stopped and self.run.session is self:
                self.run.spawn(self.back())

    async def back(self) -> None:
        """What the SDK does by itself after a loss."""
        for pause in RECONNECTS:
            await asyncio.sleep(pause)
            if self.stopped or self.run.session is not self:
                return
            with contextlib.suppress(OSError, InvalidStatus, InvalidMessage, ConnectionClosed):
                await self.open()
                await self.draw()
                return

    async def draw(self) -> None:
        await self.show(f"{len(set(self.run.arrived_ids))} for {self.user_id}")


@dataclass
class Run:
    """The story once, with `fault` at frame number `at`; None = undisturbed."""

    name: str
    at: int = -1
    fault: Fault | None = None
    frames: int = 0
    proxy: FaultProxy | None = None
    session: Counting | None = None
    arrived: list[tuple[str, bool]] = field(
        default_factory=list
    )  # notification, whether it was flagged as replayed
    shown: list[bytes] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def user(self) -> str:
        return f"{self.name}@sweep.example"

    @property
    def arrived_ids(self) -> list[str]:
        return [note for note, _ in self.arrived]

    def count(self) -> None:
        if self.frames == self.at and self.fault is not None and self.proxy is not None:
            self.fault(self.proxy)
        self.frames += 1

    def spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine, name=f"sweep-{self.name}")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def asked(self, app: FakeApp, body: dict[str, Any]) -> Response:
        """The webhook of this wearer."""
        if body["type"] == "stop_request":
            if self.session is not None:
                self.session.stopped.append(body["reason"])
                await self.session.close()
            return JSONResponse({"status": "success"})
        assert self.proxy is not None
        old = self.session
        url = f"ws://127.0.0.1:{self.proxy.port}/app-ws"
        session = self.session = Counting(app, body["sessionId"], body["userId"], url, run=self)
        if old is not None:
            for task in list(self.tasks):  # the old instance dials no more
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            await old.close()
        try:
            await session.open()
            await session.draw()
        except (OSError, InvalidStatus, InvalidMessage, ConnectionClosed, AssertionError):
            return JSONResponse({"status": "error", "message": "Failed to connect"}, 500)
        if session.closed is not None:
            return JSONResponse({"status": "error", "message": "Failed to connect"}, 500)
        return JSONResponse({"status": "success"})

    async def play(self, cloud: Cloud, app: FakeApp) -> None:
        """Raises AssertionError that says which step did not come about."""
        async with FaultProxy("127.0.0.1", cloud.port) as proxy, contextlib.AsyncExitStack() as stack:
            self.proxy = proxy
            edge = Edge(
                self.user,
                cloud.verifier.mint_core_token(self.user),
                f"ws://127.0.0.1:{cloud.port}/glasses-ws",
            )
            stack.push_async_callback(edge.kill)
            stack.push_async_callback(self.end)

            def heard(data: bytes) -> None:
                if b'"display_event"' in data and b'"view":"main"' in data:
                    self.shown.append(data)

            edge.heard = heard
            edge.boot()
            await self.until(lambda: edge.online, "online")
            edge.want(PACKAGE)
            await self.until(lambda: self.listens(cloud), "app listens")
            for note in NOTES:
                self.post(edge, note)
            if self.fault is not cloud_side_lost:
                await self.until(lambda: set(self.arrived_ids) == set(NOTES), "notes")
                await self.until(lambda: self.lens_says(3), "count on the lens")
            # An app that is away without knowing it is asked back after its grace; what is older than 5 s by then is given up.
            await self.until(lambda: self.listens(cloud), "app listens still")
            if self.fault is cloud_side_lost:
                await asyncio.sleep(6.0 if self.frames > self.at >= 0 else 0.0)
                await self.until(lambda: self.listens(cloud), "app listens again")
            self.post(edge, LAST)
            await self.until(lambda: LAST in self.arrived_ids, "the last note")
            await self.until(lambda: self.lens_says(len(set(self.arrived_ids))), "the last count on the lens")
            edge.stop(PACKAGE)
            await self.until(
                lambda: self.session is not None and bool(self.session.stopped), "app told to stop"
            )
            await self.until(lambda: edge.quiet, "everything handed over")
            self.judge(cloud, app)

    def judge(self, cloud: Cloud, app: FakeApp) -> None:
        first = list(dict.fromkeys(self.arrived_ids))
        assert first == sorted(first), f"{self.name}: out of order: {self.arrived}"
        if self.fault is not cloud_side_lost:
            assert first == [*NOTES, LAST], f"{self.name}: lost: {self.arrived}"
        seen: set[str] = set()
        for note, replayed in self.arrived:
            assert note not in seen or replayed, f"{self.name}: doubled without a flag: {self.arrived}"
            seen.add(note)
        asked = Counter(w["type"] for w in app.webhooks if w.get("userId") == self.user)
        assert asked["stop_request"] == 1, f"{self.name}: {asked}"
        assert asked["session_request"] <= (3 if self.fault in (reset, half_open, cloud_side_lost) else 1), (
            f"{self.name}: {asked}"
        )
        view = cloud.hub.session_view(self.user)
        assert view is not None
        states = [str(found.state) for found in view.apps if found.package_name == PACKAGE]
        assert "connected" not in states, f"{self.name}: {states}"

    async def end(self) -> None:
        if self.session is not None:
            await self.session.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def listens(self, cloud: Cloud) -> bool:
        """The cloud has a connected app session that has said what it listens to."""
        view = cloud.hub.session_view(self.user)
        return view is not None and any(
            found.package_name == PACKAGE and bool(found.subscriptions) and str(found.state) == "connected"
            for found in view.apps
        )

    def lens_says(self, count: int) -> bool:
        return bool(self.shown) and f"{count} for {self.user}".encode() in self.shown[-1]

    @staticmethod
    def post(edge: Edge, note: str) -> None:
        edge.post(PhoneNotification(notification_id=note, app="Chat", priority=None, package_name=None))

    async def until(self, what: Callable[[], bool], why: str) -> None:
        await until(what, f"{self.name}: {why}", STEP_MAX)


@pytest.mark.failure("APP-01")
@pytest.mark.failure("CON-16")
async def test_a_fault_at_every_frame_between_cloud_and_app_loses_nothing_and_flags_what_comes_again(
    tmp_path: Path,
) -> None:
    runs: dict[str, Run] = {}
    async with running(tmp_path) as cloud, FakeApp(PACKAGE, "key", "phone_notification") as app:

        async def answer(body: dict[str, Any]) -> Response:
            return await runs[body["userId"]].asked(app, body)

        app.answer = answer
        await register(cloud, app, "READ_NOTIFICATIONS")
        good = Run("undisturbed")
        runs[good.user] = good
        await good.play(cloud, app)
        swept = [
            Run(f"{fault.__name__}-{at}".replace("_", "-"), at, fault)
            for fault in (reset, half_open, cloud_side_lost, black_hole, delay)
            for at in range(good.frames)
        ]
        runs.update((run.user, run) for run in swept)
        failures = await sweep([run.play(cloud, app) for run in swept], PARALLEL, 90.0)
        assert failures == [], f"{len(failures)} of {len(swept)} runs"
        met = sum(run.frames > run.at for run in swept)
        again = sum(replayed for run in swept for _, replayed in run.arrived)
        print(
            f"app sweep: {good.frames} frames, {len(swept)} runs, {met} faults met, {again} frames flagged as replayed, "
            f"{len(failures)} failures"
        )
        assert good.frames >= 12
        assert met >= 0.8 * len(swept)
