"""Rolling restarts over real processes and sockets: who is back when, and whether anything is lost or comes twice.

    python -m tests.system.rolling --users 30 --app-outage 25

The cloud is `glassbridge cloud run`, the apps are a process of their own with our Python client, the edges are the real
core and the real uplink socket (without glasses), behind a fault proxy. Every wearer presses a numbered button all the
time. Rules: loopback only, ports from the system, every process is ended here. A phase reports the time from the end of
its fault until a press made after it has reached both apps of a wearer, and counts presses that came twice or never.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from cloud.auth import TokenVerifier
from edge.core.glasses import Target
from edge.core.node import Node, NodeEffect, NodeTiming, SendAudio, SendText
from edge.core.uplink import Dial, Hangup, UplinkState
from edge.profiles.g1 import G1
from edge.uplink_socket import DialRefused, UplinkSocket
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import SLOW
from wire.errors import UplinkError
from wire.messages.glasses_to_cloud import ButtonPress, StartApp

SECRET = "rolling-secret-rolling-secret-rolling"
ADMIN = "rolling-admin-token-rolling-admin"
KEY = "rolling-api-key-0123456789"
PACKAGES = ("com.example.one", "com.example.two")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Process:
    """A program that is started again and again with the same arguments; its stdout lines go to `heard`."""

    def __init__(self, arguments: Sequence[str], env: dict[str, str], log: Path) -> None:
        self.arguments = arguments
        self.env = env
        self.log = log
        self.heard: Callable[[dict[str, object]], None] = lambda line: None
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Until it says that it is ready."""
        ready = asyncio.Event()
        with self.log.open("ab") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *self.arguments,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **self.env},
            )
        self._reader = asyncio.create_task(self._read(self._process, ready))
        await asyncio.wait_for(ready.wait(), 20 * SLOW)

    async def _read(self, process: asyncio.subprocess.Process, ready: asyncio.Event) -> None:
        assert process.stdout is not None
        async for raw in process.stdout:
            line = json.loads(raw)
            if line.get("event") == "ready":
                ready.set()
            else:
                self.heard(line)

    async def end(self, how: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(how)
            await asyncio.wait_for(self._process.wait(), 15 * SLOW)
        if self._reader is not None:
            await self._reader


class Edge:
    """One wearer's edge: the core and its uplink socket; no radio."""

    def __init__(self, user: str, token: str, url: str) -> None:
        self.user = user
        self.token = token
        self.url = url
        self.pressed: dict[str, float] = {}  # button -> wall time
        self.node: Node | None = None
        self.given_up = 0
        self._sockets: dict[int, UplinkSocket] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def boot(self) -> None:
        self.node = Node(
            G1(), Target(), NodeTiming(), jitter=random.random, link_epoch=os.urandom(8).hex(), simulated=True
        )
        self._do(self.node.start(self._now()))

    async def kill(self) -> None:
        """As SIGKILL: sockets are dropped, nothing is said, everything that was not acknowledged is forgotten."""
        if self.node is not None:
            self.given_up += self.node.link.backlog + self.node.link.counters.expired
        self.node = None
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._sockets.clear()

    @property
    def expired(self) -> int:
        """Presses that were declared too old, in all lives of this edge."""
        return self.given_up + (0 if self.node is None else self.node.link.counters.expired)

    @property
    def online(self) -> bool:
        return self.node is not None and self.node.uplink.state is UplinkState.ONLINE

    def press(self) -> None:
        if self.node is not None:
            button = f"{self.user}#{len(self.pressed)}"
            self.pressed[button] = time.time()
            now = self._now()
            self._do(
                self.node._link(
                    self.node.link.post(ButtonPress(button_id=button, press_type="short"), now), now
                )
            )

    def want(self, package: str) -> None:
        assert self.node is not None
        now = self._now()
        self._do(self.node._link(self.node.link.post(StartApp(package_name=package), now), now))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _do(self, effects: Sequence[NodeEffect]) -> None:
        for effect in effects:
            match effect:
                case Dial(conn_id):
                    task = asyncio.create_task(self._dial(conn_id), name=f"rolling-dial-{self.user}")
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                case Hangup(conn_id, code, reason):
                    if conn_id in self._sockets:
                        self._sockets[conn_id].close(code, reason)
                case SendText(conn_id, data, delivery, key):
                    if conn_id in self._sockets:
                        self._sockets[conn_id].send_text(data, delivery, key)
                case SendAudio():
                    raise AssertionError("there are no glasses")
                case _:
                    pass  # the radio, the status page
        if self._timer is not None:
            self._timer.cancel()
        if self.node is not None and (due := self.node.deadline) is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._ring)

    def _ring(self) -> None:
        if self.node is not None:
            self._do(self.node.handle_deadline(self._now()))

    async def _dial(self, conn_id: int) -> None:
        node = self.node
        assert node is not None

        def told(effects: Sequence[NodeEffect]) -> None:
            if self.node is node:
                self._do(effects)

        uplink = UplinkSocket(
            lambda: told(node.opened(conn_id, self._now())),
            lambda data: told(node.received(conn_id, data, self._now())),
            lambda code, reason: told(node.closed(conn_id, code, reason, self._now())),
        )
        self._sockets[conn_id] = uplink
        try:
            await uplink.run(self.url, self.token)
        except DialRefused as error:
            told(node.failed(conn_id, str(error), error.status, error.retry_after, self._now()))
        except UplinkError as error:
            told(node.failed(conn_id, str(error), error.status, None, self._now()))
        finally:
            self._sockets.pop(conn_id, None)


@dataclass
class Phase:
    """What one fault did."""

    name: str
    recovery: list[float] = field(default_factory=list)  # s, per wearer and app
    online: float = 0.0  # s until the last edge was online again
    pressed: int = 0
    missing: int = 0  # presses that did not reach an app, counted per app
    declared: int = 0  # ... of which the edge said that they were too old
    doubled: int = 0

    def line(self) -> str:
        times = sorted(self.recovery)
        p50, p99 = statistics.median(times), times[min(len(times) - 1, round(0.99 * len(times)))]
        return (
            f"{self.name:<34} online {self.online:5.1f} s  back p50 {p50:5.2f} s  p99 {p99:5.2f} s  "
            f"presses {self.pressed:5}  undelivered {self.missing:4}  expired {self.declared:4}  doubled {self.doubled}"
        )


class Stage:
    """All programs of one run."""

    def __init__(self, folder: Path, users: int) -> None:
        self.folder = folder
        self.cloud_port = free_port()
        self.app_ports = [free_port() for _ in PACKAGES]
        self.cloud = Process(
            [
                "glassbridge",
                "cloud",
                "run",
                "--json",
                "--port",
                str(self.cloud_port),
                "--data-dir",
                str(folder / "data"),
            ],
            {
                "GLASSBRIDGE_AUTH__SECRET": SECRET,
                "GLASSBRIDGE_AUTH__ADMIN_TOKEN_SHA256": hashlib.sha256(ADMIN.encode()).hexdigest(),
                "GLASSBRIDGE_WEBHOOKS__ALLOW": "loopback",
            },
            folder / "cloud.log",
        )
        apps = [f"{package}:{port}:{KEY}" for package, port in zip(PACKAGES, self.app_ports, strict=True)]
        self.apps = Process(["tests.system.rolling_app", *apps], {}, folder / "apps.log")
        self.apps.heard = self._heard
        self.proxy = FaultProxy("127.0.0.1", self.cloud_port)
        self.users = [f"user-{n}@rolling.example" for n in range(users)]
        self.edges: list[Edge] = []
        self.arrived: dict[tuple[str, str], list[float]] = {}  # (app, button) -> wall times
        self._pressing: asyncio.Task[None] | None = None

    def _heard(self, line: dict[str, object]) -> None:
        key = (str(line["app"]), str(line["button"]))
        self.arrived.setdefault(key, []).append(float(str(line["at"])))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Stage]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.cloud.end, signal.SIGKILL)
            stack.push_async_callback(self.apps.end, signal.SIGKILL)
            await self.cloud.start()
            await self.apps.start()
            await self._register()
            await stack.enter_async_context(self.proxy)
            mint = TokenVerifier([SECRET]).mint_core_token
            url = f"ws://127.0.0.1:{self.proxy.port}/glasses-ws"
            for user in self.users:
                edge = Edge(user, mint(user), url)
                stack.push_async_callback(edge.kill)
                self.edges.append(edge)
                edge.boot()
            await self.until(lambda: all(edge.online for edge in self.edges), "everybody online", 30)
            for edge in self.edges:
                for package in PACKAGES:
                    edge.want(package)
            self._pressing = asyncio.create_task(self._press_on())
            stack.push_async_callback(self._stop_pressing)
            yield self

    async def _register(self) -> None:
        async with httpx.AsyncClient(
            headers={"Authorization": f"Bearer {ADMIN}"}, timeout=10 * SLOW
        ) as admin:
            for package, port in zip(PACKAGES, self.app_ports, strict=True):
                reply = await admin.post(
                    f"http://127.0.0.1:{self.cloud_port}/api/admin/apps",
                    json={
                        "packageName": package,
                        "publicUrl": f"http://127.0.0.1:{port}",
                        "apiKey": KEY,
                        "preinstalled": True,
                        # both shall run side by side
                        "appType": "background",
                    },
                )
                reply.raise_for_status()

    async def _press_on(self) -> None:
        """Everyone presses twice a second, not all at once."""
        while True:
            for edge in list(self.edges):
                edge.press()
                await asyncio.sleep(0.5 / len(self.edges))

    async def _stop_pressing(self) -> None:
        if self._pressing is not None:
            self._pressing.cancel()
            await asyncio.gather(self._pressing, return_exceptions=True)

    async def until(self, what: Callable[[], object], why: str, within: float) -> None:
        end = time.monotonic() + within * SLOW
        while not what():
            if time.monotonic() > end:
                raise AssertionError(f"not within {within * SLOW:.0f} s: {why}")
            await asyncio.sleep(0.05)

    def back_since(self, at: float) -> dict[tuple[str, str], float]:
        """(user, app) -> arrival of the first press that was made after `at`."""
        first: dict[tuple[str, str], float] = {}
        for edge in self.edges:
            for package in PACKAGES:
                times = [
                    arrivals[0]
                    for button, pressed in edge.pressed.items()
                    if pressed >= at and (arrivals := self.arrived.get((package, button)))
                ]
                if times:
                    first[edge.user, package] = min(times)
        return first

    async def phase(self, name: str, fault: Callable[[], Awaitable[None]], *, within: float = 60.0) -> Phase:
        """Let one fault happen and wait until everyone is served again."""
        began = time.time()
        expired = sum(edge.expired for edge in self.edges)
        await fault()
        healed = time.time()
        everyone = len(self.edges) * len(PACKAGES)
        await self.until(lambda: all(edge.online for edge in self.edges), f"{name}: everybody online", within)
        online = time.time() - healed
        await self.until(
            lambda: len(self.back_since(healed)) == everyone, f"{name}: everybody served again", within
        )
        recovery = [at - healed for at in self.back_since(healed).values()]
        await asyncio.sleep(3.0)  # what is still under way
        presses = {
            button
            for edge in self.edges
            for button, at in edge.pressed.items()
            if began - 1.0 <= at < time.time() - 2.0
        }
        counts = Counter({(p, b): len(self.arrived.get((p, b), [])) for b in presses for p in PACKAGES})
        return Phase(
            name,
            recovery,
            online,
            len(presses),
            sum(1 for count in counts.values() if count == 0),
            sum(edge.expired for edge in self.edges) - expired,
            sum(1 for count in counts.values() if count > 1),
        )


async def run(
    users: int, app_outage: float, hole: float, calm: float, folder: Path, say: Callable[[str], None]
) -> list[Phase]:
    """All phases, one after the other. `calm`: seconds between two; after 30 a connection counts as healthy."""
    phases: list[Phase] = []
    async with Stage(folder, users).running() as stage:

        async def nothing() -> None:
            await asyncio.sleep(0)

        async def resets() -> None:
            for _ in range(5):
                stage.proxy.reset()
                await asyncio.sleep(2.0)

        async def black_hole() -> None:
            stage.proxy.hole(up=True, down=True)
            await asyncio.sleep(hole)
            stage.proxy.heal()

        async def app_restart() -> None:
            await stage.apps.end(signal.SIGKILL)
            await asyncio.sleep(app_outage)
            await stage.apps.start()

        async def cloud_restart(how: signal.Signals) -> None:
            await stage.cloud.end(how)
            await stage.cloud.start()

        async def edges_restart() -> None:
            for edge in stage.edges[::3]:
                await edge.kill()
            await asyncio.sleep(1.0)
            for edge in stage.edges[::3]:
                edge.boot()

        for name, fault in (
            ("start", nothing),
            ("5 resets of every connection", resets),
            (f"black hole both ways, {hole:g} s", black_hole),
            (f"app server killed, {app_outage:g} s away", app_restart),
            ("cloud SIGTERM and restart", lambda: cloud_restart(signal.SIGTERM)),
            ("cloud SIGKILL and restart", lambda: cloud_restart(signal.SIGKILL)),
            ("a third of the edges killed", edges_restart),
        ):
            phases.append(await stage.phase(name, fault, within=90.0))
            say(phases[-1].line())
            await asyncio.sleep(calm)
    return phases


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.rolling", description=__doc__)
    parser.add_argument("--users", type=int, default=30)
    parser.add_argument("--app-outage", type=float, default=25.0, help="seconds")
    parser.add_argument("--hole", type=float, default=15.0, help="seconds")
    parser.add_argument("--calm", type=float, default=32.0, help="seconds between two phases")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        phases = asyncio.run(
            run(options.users, options.app_outage, options.hole, options.calm, Path(folder), _say)
        )
    doubled = sum(phase.doubled for phase in phases)
    print(f"rolling: {options.users} users × {len(PACKAGES)} apps, {len(phases)} phases, doubled {doubled}")
    return 1 if doubled else 0


if __name__ == "__main__":
    sys.exit(main())
