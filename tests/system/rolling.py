"""Real processes, real sockets and real SDK apps under faults: who is served again when, and what is lost or doubled.

The cloud is `glassbridge cloud run`, each app a Node process with the unmodified SDK, the edges are the real core and
the real uplink socket (without glasses), behind a fault proxy. Every wearer sends numbered events all the time:
presses (worth nothing after 5 s) and notifications (60 s). `Stage.phase` lets one fault happen, waits until
everybody is served again, then lets the wearers pause until all is quiet, and judges every event of the phase.

Rules: loopback only, ports from the system, every process is ended here. An event that did not arrive needs an excuse
that is written down in docs/reliability.md, else it is lost: a press that its edge declared too old; an event that an
edge had not handed over when it was killed; an event that came while that app was away and returned as a new instance.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from cloud.auth import TokenVerifier
from edge.core.glasses import Target
from edge.core.node import Node, NodeEffect, NodeTiming, SendAudio, SendText
from edge.core.uplink import Dial, Hangup, UplinkState
from edge.profiles.g1 import G1
from edge.uplink_socket import DialRefused, UplinkSocket
from tests.interop.driver import SdkApp, free_port, install_sdk
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import SLOW
from wire.errors import UplinkError
from wire.messages.base import Message
from wire.messages.glasses_to_cloud import ButtonPress, PhoneNotification, StartApp, StopApp

SECRET = "rolling-secret-rolling-secret-rolling"
ADMIN = "rolling-admin-token-rolling-admin"
KEY = "rolling-api-key-0123456789"
PACKAGES = ("com.example.one", "com.example.two")
#: One event of so many is a notification: the backlog of an outage stays below the ten per second that the cloud relays.
NOTE_EVERY = 8
#: What each app does in its onSession: report the number of every event.
HOOK = """
    session.events.onButtonPress(d => emit('event', d.buttonId));
    session.events.onPhoneNotifications(d => emit('event', d.notificationId));
"""
#: Seconds. An app that has just come back is served once the cloud knows what it listens to; and an event that left its
#: edge this long before an app was lost may have been on its way.
EDGE_OF_ABSENCE = 1.0
#: Seconds. What the cloud processed this long before it was killed may not have been acknowledged yet and comes again
#: (docs/reliability.md: 0.2 s), and what an app got this long before its socket was lost may lack its proof (0.25 s).
UNPROVEN = 1.0


class Process:
    """A program that is started again and again with the same arguments."""

    def __init__(self, arguments: Sequence[str], env: dict[str, str], log: Path) -> None:
        self.arguments = arguments
        self.env = env
        self.log = log
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
        first = asyncio.create_task(ready.wait())
        await asyncio.wait({first, self._reader}, timeout=20 * SLOW, return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            first.cancel()
            raise AssertionError(f"{self.arguments[0]} did not start: {self.log.read_text()[-2000:]}")

    async def _read(self, process: asyncio.subprocess.Process, ready: asyncio.Event) -> None:
        assert process.stdout is not None
        async for raw in process.stdout:
            if json.loads(raw).get("event") == "ready":
                ready.set()

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
        self.posted: dict[str, float] = {}  # event -> wall time, in order
        self.forgotten: set[str] = set()  # not yet acknowledged when this edge was killed
        self.node: Node | None = None
        self.heard: Callable[[bytes], None] = lambda data: None
        self.said: Callable[[bytes], None] = lambda data: None
        self._expired = 0
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
            self._expired += self.node.link.counters.expired
            if backlog := self.node.link.backlog:
                self.forgotten.update(list(self.posted)[-backlog:])
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
        return self._expired + (0 if self.node is None else self.node.link.counters.expired)

    @property
    def online(self) -> bool:
        return self.node is not None and self.node.uplink.state is UplinkState.ONLINE

    @property
    def quiet(self) -> bool:
        """Everything reliable has been acknowledged."""
        return self.online and self.node is not None and self.node.link.backlog == 0

    def post(self, message: Message) -> None:
        """Send one message as its class says."""
        assert self.node is not None
        now = self._now()
        self._do(self.node._link(self.node.link.post(message, now), now))

    def event(self) -> None:
        """The next numbered event; a killed edge sends none."""
        if self.node is None:
            return
        number = len(self.posted)
        note = number % NOTE_EVERY == 0
        name = f"{'note' if note else 'press'} {self.user} {number}"
        self.posted[name] = time.time()
        if not note:
            self.post(ButtonPress(button_id=name, press_type="short"))
        else:
            self.post(PhoneNotification(notification_id=name, app="Chat", priority=None, package_name=None))

    def want(self, package: str) -> None:
        self.post(StartApp(package_name=package))

    def stop(self, package: str) -> None:
        self.post(StopApp(package_name=package))

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
                        self.said(data)
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

        def received(data: bytes) -> None:
            self.heard(data)
            told(node.received(conn_id, data, self._now()))

        uplink = UplinkSocket(
            lambda: told(node.opened(conn_id, self._now())),
            received,
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
    """What one fault did. Events are counted once per app that should get them."""

    name: str
    due: int = 0  # events times apps
    lost: int = 0  # did not arrive, and nothing excuses it
    doubled: int = 0  # arrived twice, and nothing excuses it
    disordered: int = 0  # arrived after a later one of the same wearer and stream
    again: int = 0  # arrived twice, within the documented moment before a crash or a lost app socket
    expired: int = 0  # presses that their edge declared too old
    while_away: int = 0  # the app was away and came back as a new instance, or too late
    forgotten: int = 0  # not handed over when their edge was killed
    webhooks: int = 0  # session_requests that were posted
    starts_per_second: int = (
        0  # most onSession of one app server within a second; a busy machine bunches them
    )
    recovery: list[float] = field(default_factory=list)  # s, per wearer and app, sorted
    online: float = 0.0  # s until the last edge was online again
    broken: list[str] = field(default_factory=list)  # promises

    def percentile(self, share: float) -> float:
        """Seconds."""
        return self.recovery[min(len(self.recovery) - 1, round(share * len(self.recovery)))]

    def row(self) -> dict[str, Any]:
        """For a table."""
        row = asdict(self)
        del row["recovery"]
        row["p50"] = round(statistics.median(self.recovery), 2)
        row["p99"] = round(self.percentile(0.99), 2)
        row["online"] = round(self.online, 2)
        return row


class Stage:
    """All programs of one run."""

    def __init__(self, folder: Path, users: int, *, every: float = 0.5) -> None:
        """`every`: seconds between two events of one wearer."""
        self.every = every
        self.cloud_port = free_port()
        self.cloud = Process(
            ["glassbridge", "cloud", "run", "--json", "--port", str(self.cloud_port), "--data-dir", str(folder / "data")],
            {
                "GLASSBRIDGE_AUTH__SECRET": SECRET,
                "GLASSBRIDGE_AUTH__ADMIN_TOKEN_SHA256": hashlib.sha256(ADMIN.encode()).hexdigest(),
                "GLASSBRIDGE_WEBHOOKS__ALLOW": "loopback",
            },
            folder / "cloud.log",
        )  # fmt: skip
        self.apps = [SdkApp("2.1.29", package, KEY) for package in PACKAGES]
        self.hooks = [HOOK] * len(self.apps)  # what each does in its onSession
        self.proxy = FaultProxy("127.0.0.1", self.cloud_port)
        self.users = [f"user-{n}@rolling.example" for n in range(users)]
        self.edges: list[Edge] = []
        self.cloud_killed: list[float] = []  # wall times
        self.app_killed: list[float] = []
        self.sending = True
        self._judged: dict[str, int] = Counter()  # user -> events that have been judged

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Stage]:
        install_sdk()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.cloud.end, signal.SIGKILL)
            await self.cloud.start()
            for app, hook in zip(self.apps, self.hooks, strict=True):
                stack.push_async_callback(app.close)
                await app.start(hook=hook)
            self.http = await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=f"http://127.0.0.1:{self.cloud_port}",
                    headers={"Authorization": f"Bearer {ADMIN}"},
                    timeout=10 * SLOW,
                )
            )
            await self._register()
            await stack.enter_async_context(self.proxy)
            mint = TokenVerifier([SECRET]).mint_core_token
            for user in self.users:
                edge = Edge(user, mint(user), f"ws://127.0.0.1:{self.proxy.port}/glasses-ws")
                stack.push_async_callback(edge.kill)
                self.edges.append(edge)
                edge.boot()
            await self.until(lambda: all(edge.online for edge in self.edges), "everybody online", 30)
            for edge in self.edges:
                for package in PACKAGES:
                    edge.want(package)
            await self.until(
                lambda: all(len(app.seen("onSession:done")) == len(self.users) for app in self.apps),
                "every app started for everybody",
                30,
            )
            for _ in range(400):  # 20 s; webhooks are counted when they are answered
                if await self.webhooks() >= len(self.users) * len(PACKAGES):
                    break
                await asyncio.sleep(0.05)
            sending = asyncio.create_task(self._send_on(), name="rolling-events")
            try:
                yield self
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def _register(self) -> None:
        for app in self.apps:
            record = {
                "packageName": app.package, "publicUrl": app.url, "apiKey": KEY, "preinstalled": True,
                "permissions": ["READ_NOTIFICATIONS"], "appType": "background",  # both shall run side by side
            }  # fmt: skip
            (await self.http.post("/api/admin/apps", json=record)).raise_for_status()

    async def _send_on(self) -> None:
        """Everyone sends all the time, not all at once."""
        while self.edges:
            for edge in self.edges:
                if self.sending:
                    edge.event()
                await asyncio.sleep(self.every / len(self.edges))

    async def until(self, what: Callable[[], object], why: str, within: float) -> None:
        end = time.monotonic() + within * SLOW
        while not what():
            if time.monotonic() > end:
                raise AssertionError(f"not within {within * SLOW:.0f} s: {why}")
            await asyncio.sleep(0.05)

    # ------------------------------------------------------------------------------------------------ faults

    async def restart_cloud(self, how: signal.Signals) -> None:
        self.cloud_killed.append(time.time())
        await self.cloud.end(how)
        await self.cloud.start()

    async def restart_apps(self, outage: float) -> None:
        """All app servers are away for `outage` seconds."""
        self.app_killed.append(time.time())
        for app in self.apps:
            await app.kill()
        await asyncio.sleep(outage)
        for app, hook in zip(self.apps, self.hooks, strict=True):
            await app.start(hook=hook)

    async def restart_edges(self, step: int) -> None:
        """Every `step`-th edge is killed and started again."""
        for edge in self.edges[::step]:
            await edge.kill()
        await asyncio.sleep(1.0)
        for edge in self.edges[::step]:
            edge.boot()

    async def resets(self, count: int, pause: float) -> None:
        for _ in range(count):
            self.proxy.reset()
            await asyncio.sleep(pause)

    async def hole(self, seconds: float, *, up: bool = False, down: bool = False) -> None:
        self.proxy.hole(up=up, down=down)
        await asyncio.sleep(seconds)
        self.proxy.heal()

    async def swallow_pings(self, seconds: float) -> None:
        self.proxy.swallow_control = True
        await asyncio.sleep(seconds)
        self.proxy.swallow_control = False

    async def idle(self, limit: float, seconds: float) -> None:
        """Nobody says anything, and the network cuts what is silent for `limit` seconds in either direction."""
        self.sending = False
        self.proxy.idle_limit = limit
        await asyncio.sleep(seconds)
        self.proxy.idle_limit = None
        self.sending = True

    # ------------------------------------------------------------------------------------------------ judgement

    def arrivals(self) -> dict[tuple[str, str], list[float]]:
        """(app, event) -> wall times, in the order of arrival."""
        found: dict[tuple[str, str], list[float]] = {}
        for app in self.apps:
            for report in app.seen("event"):
                found.setdefault((app.package, report.data), []).append(report.at_ms / 1000)
        return found

    def absences(self, app: SdkApp) -> dict[str, list[tuple[float, float]]]:
        """User -> from when to when this app was not there."""
        tail = f"-{app.package}"
        gone: dict[str, float] = {}
        found: dict[str, list[tuple[float, float]]] = {}
        kills = list(self.app_killed)
        for report in app.reports:
            at = report.at_ms / 1000
            while kills and at > kills[0]:
                for user in self.users:
                    gone.setdefault(user, kills[0])
                kills.pop(0)
            user = (report.session or "").removesuffix(tail)
            if report.event == "disconnected":
                gone.setdefault(user, at)
            elif report.event in ("connected", "onSession:done") and user in gone:
                found.setdefault(user, []).append((gone.pop(user), at))
        return found

    async def webhooks(self) -> int:
        """session_requests that this life of the cloud has posted."""
        text = (await self.http.get("/metrics")).text
        found = re.search(r'^glassbridge_webhook_seconds_count\{kind="session_request"\} (\S+)', text, re.M)
        return int(float(found[1])) if found else 0

    async def phase(self, name: str, fault: Callable[[], Awaitable[None]], *, within: float = 60.0) -> Phase:
        """Let one fault happen, wait until everyone is served again, judge. `within`: seconds for that, times SLOW."""
        expired = {edge.user: edge.expired for edge in self.edges}
        posted_before, lives = await self.webhooks(), len(self.cloud_killed)
        began = time.time()
        await fault()
        healed = time.time()
        phase = Phase(name)
        await self.until(lambda: all(edge.online for edge in self.edges), f"{name}: everybody online", within)
        phase.online = time.time() - healed
        everyone = len(self.edges) * len(PACKAGES)
        back: dict[tuple[str, str], float] = {}

        def served() -> bool:
            arrived = self.arrivals()
            for edge in self.edges:
                fresh = [event for event, at in edge.posted.items() if at >= healed]
                for package in PACKAGES:
                    times = [arrived[package, event][0] for event in fresh if (package, event) in arrived]
                    if times:
                        back[edge.user, package] = min(times) - healed
            return len(back) == everyone

        await self.until(served, f"{name}: everybody served again", within)
        phase.recovery = sorted(back.values())
        self.sending = False
        await self.until(lambda: all(edge.quiet for edge in self.edges), f"{name}: all handed over", within)
        await asyncio.sleep(1.5)  # the last events to the apps, and doubles
        self._judge(phase, expired)
        self.sending = True
        posted = await self.webhooks()
        phase.webhooks = posted if len(self.cloud_killed) > lives else posted - posted_before
        for app in self.apps:
            starts = [r.at_ms / 1000 for r in app.seen("onSession") if r.at_ms / 1000 >= began]
            most = max((sum(at <= other < at + 1.0 for other in starts) for at in starts), default=0)
            phase.starts_per_second = max(phase.starts_per_second, most)
        for count, what in (
            (phase.lost, "lost"),
            (phase.doubled, "doubled"),
            (phase.disordered, "out of order"),
        ):
            if count:
                phase.broken.append(f"{count} events {what}")
        if phase.webhooks > 8 * everyone:
            phase.broken.append("more than eight session_requests per wearer and app (APP-04)")
        return phase

    def _judge(self, phase: Phase, expired_before: dict[str, int]) -> None:
        arrived = self.arrivals()
        away = {app.package: self.absences(app) for app in self.apps}
        examples: list[str] = []
        for edge in self.edges:
            events = list(edge.posted.items())[self._judged[edge.user] :]
            self._judged[edge.user] = len(edge.posted)
            missing: dict[str, list[str]] = {}  # event -> apps
            for package in PACKAGES:
                gaps = away[package].get(edge.user, [])
                latest: dict[str, float] = {}  # per stream: a new instance is made up to one after the other
                for event, at in events:
                    phase.due += 1
                    times = arrived.get((package, event), [])
                    if len(times) > 1:
                        crashes = [*self.cloud_killed, *(start for start, _ in gaps)]
                        if any(0 <= crash - times[0] <= UNPROVEN for crash in crashes):
                            phase.again += len(times) - 1
                        else:
                            phase.doubled += len(times) - 1
                    if times:
                        stream = event.partition(" ")[0]
                        phase.disordered += times[0] < latest.get(stream, 0.0)
                        latest[stream] = max(latest.get(stream, 0.0), times[0])
                    elif event in edge.forgotten:
                        phase.forgotten += 1
                    elif any(s - EDGE_OF_ABSENCE <= at <= e + EDGE_OF_ABSENCE for s, e in gaps):
                        phase.while_away += 1
                    else:
                        missing.setdefault(event, []).append(package)
            declared = edge.expired - expired_before[edge.user]
            for event, packages in missing.items():
                if event.startswith("press") and len(packages) == len(PACKAGES) and declared > 0:
                    declared -= 1
                    phase.expired += len(packages)
                else:
                    phase.lost += len(packages)
                    age = time.time() - edge.posted[event]
                    examples.append(f"{event} ({age:.1f} s old, missing in {len(packages)})")
        if examples:
            phase.broken.append(f"lost: {'; '.join(examples[:10])}")
