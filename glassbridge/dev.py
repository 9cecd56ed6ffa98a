"""`glassbridge dev`: simulated glasses, edge and cloud as they run in production, joined on this machine.

Rules: three child processes, joined by a real WebSocket and by Bluetooth over a UNIX socket in a private folder; secrets
live as long as the run. A child that dies is restarted and that is said; whatever way we end, no child outlives us.
The built-in clock is an app server in this process; other apps are found by `discovery`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from cloud.auth import TokenVerifier, hash_api_key
from cloud.config import new_secrets, write_private
from glassbridge.clock import PACKAGE as CLOCK_PACKAGE
from glassbridge.clock import Clock
from glassbridge.discovery import USUAL_URLS, Discovery, Outcome
from glassbridge.output import CommandError, Exit, emit, talk
from glassbridge.supervisor import Child, ChildFailed
from glassbridge.target import Target, announced

#: Whose glasses the simulated ones are.
USER = "dev@glassbridge.local"

#: Proves nothing to anybody: clock and cloud are one user's processes on loopback, for one run.
CLOCK_KEY = "built-in-clock"

#: From the start to glasses that are connected end to end; about 4 s on a quiet machine. Seconds.
CONNECTED_TIMEOUT = 60.0
#: An app that is connected for so long has told its own session count, and is not starting any more. Seconds.
SETTLED = 2.0
#: The cloud answers a start after 17 s at most (`cloud.callers`), and there is the way.
START_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Options:
    """What `glassbridge dev` was asked."""

    apps: tuple[str, ...] = ()
    once: Path | None = None
    port: int = 8002
    model: str = "g1"
    seed: int = 0
    clock: bool = True
    discover: bool = True
    verbose: bool = False
    as_json: bool = False


@dataclass
class Dev:
    """A running set: where its parts listen, and how to talk to them."""

    options: Options
    folder: Path
    admin_token: str
    core_token: str
    http: httpx.AsyncClient
    url: str = ""
    control: str = ""
    devices: list[dict[str, Any]] = field(default_factory=list)
    clock: Clock | None = None
    cloud: Child | None = None
    sim: Child | None = None
    edge: Child | None = None

    async def api(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """One request to the cloud as its administrator. Raises httpx.HTTPError."""
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        return await self.http.request(
            method, self.url + path, json=body, headers=headers, timeout=START_TIMEOUT
        )

    async def start_app(self, package: str, url: str, key: str | None = None) -> Outcome:
        """Registers an app server and starts it for the wearer. Never raises."""
        fresh = {
            "packageName": package,
            "permissions": [{"type": "ALL"}],  # it is the developer's own app, on glasses that do not exist
            "appType": "background",  # so that several can be tried beside each other
            **({"apiKey": key} if key else {}),
        }
        began = time.monotonic()
        try:
            # What the developer has imported or set meanwhile (settings, tools, permissions) outlives a restart.
            known = await self.api("GET", f"/api/admin/apps/{package}")
            record = known.json()["app"] if known.is_success else fresh
            record |= {"publicUrl": url, "installFor": [USER]}
            reply = await self.api("POST", "/api/admin/apps", record)
            if reply.is_success:
                match await self._connected_for(package):
                    case float(age) if age < SETTLED:
                        return Outcome(True, 0.0, already=True)
                    case float():
                        # Its server knows of no session: it was loaded anew inside its process (`bun --hot`), where the
                        # old code still holds the connection.
                        await self.api("POST", f"/api/admin/sessions/{USER}/apps/{package}/stop")
                began = time.monotonic()
                reply = await self.api("POST", f"/api/admin/sessions/{USER}/apps/{package}/start")
        except httpx.HTTPError as error:
            return Outcome(False, 0.0, f"the cloud did not answer ({type(error).__name__})")
        seconds = time.monotonic() - began
        if reply.is_success:
            return Outcome(True, seconds)
        try:
            words = reply.json()["error"]
        except (ValueError, KeyError, TypeError):
            words = f"HTTP {reply.status_code}"
        return Outcome(False, seconds, str(words))

    async def _connected_for(self, package: str) -> float | None:
        """How long an app has been connected, in seconds; None if it is not."""
        view = await self.session()
        for app in view["apps"] if view is not None else ():
            if app["package_name"] == package and app["state"] == "connected":
                return float(app["since"])
        return None

    async def stop_clock(self) -> bool:
        """Takes the built-in app off the lens; it can be started again by hand. False if that failed. Never raises."""
        try:
            path = f"/api/admin/sessions/{USER}/apps/{CLOCK_PACKAGE}/stop"
            return (await self.api("POST", path)).is_success
        except httpx.HTTPError:
            return False

    async def start_clock(self) -> Outcome:
        """Starts the built-in app. Never raises."""
        assert self.clock is not None
        return await self.start_app(CLOCK_PACKAGE, f"http://127.0.0.1:{self.clock.app.port}", CLOCK_KEY)

    async def session(self) -> dict[str, Any] | None:
        """The wearer's session as the cloud sees it; None while there is none."""
        try:
            reply = await self.api("GET", f"/api/admin/sessions/{USER}")
        except httpx.HTTPError:
            return None
        view: dict[str, Any] | None = reply.json() if reply.is_success else None
        return view

    async def sim_state(self) -> dict[str, Any]:
        """The first simulated device. Raises httpx.HTTPError."""
        reply = await self.http.get(f"{self.control}/api/sim/state")
        device: dict[str, Any] = reply.raise_for_status().json()["devices"][0]
        return device

    async def connected(self) -> None:
        """Waits until glasses and cloud know each other. Raises CommandError with what is missing."""
        missing = "the edge has not reached the cloud"
        try:
            async with asyncio.timeout(CONNECTED_TIMEOUT):
                while True:
                    missing = await self._missing()
                    if not missing:
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise CommandError(
                "the glasses did not connect",
                f"after {CONNECTED_TIMEOUT:.0f} s {missing}",
                "glassbridge dev --verbose",
            ) from None

    async def _missing(self) -> str:
        session = await self.session()
        if session is None or not session["connected"]:
            return "the edge has not reached the cloud"
        device = await self.sim_state()
        apart = [name for name, arm in device["arms"].items() if arm["state"] != "connected"]
        if apart:
            return f"not connected to the edge: {' and '.join(apart)} arm"
        return "" if session["model_name"] else "the edge has not reported its glasses"


@asynccontextmanager
async def running(options: Options, tell: Any) -> AsyncIterator[Dev]:
    """Starts everything, and ends it on the way out. Raises CommandError when a part cannot start."""
    if find_spec("bumble") is None:
        raise CommandError(
            "the simulated glasses are not installed",
            "they are an extra, which wearers and servers do without",
            "pip install 'glassbridge[sim]'   (in a checkout: pip install '.[sim]')",
        )
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="glassbridge-")))
        secrets = new_secrets()
        token_file = folder / "core-token"
        dev = Dev(
            options,
            folder,
            secrets.admin_token,
            _core_token(secrets.auth_secret),
            await stack.enter_async_context(httpx.AsyncClient(trust_env=False)),
        )
        write_private(token_file, dev.core_token)
        sim_file = folder / "simulator"
        hci = f"unix:{folder}/hci.sock"

        def sim_ready(ready: dict[str, Any]) -> None:
            dev.control, dev.devices = ready["control"], ready["devices"]
            write_private(sim_file, dev.control)

        def cloud_ready(ready: dict[str, Any]) -> None:
            dev.url = ready["url"]

        def log(line: str) -> None:
            if options.verbose:
                tell(f"    {line}")

        python = (sys.executable, "-m")
        dev.sim = Child(
            "simulator",
            lambda: (
                *python, "firmware_sim", "--json", "--model", options.model, "--seed", str(options.seed),
                "--hci", f"unix-server:{folder}/hci.sock",
            ),
            on_ready=sim_ready, tell=tell, on_line=log,
        )  # fmt: skip
        dev.cloud = Child(
            "cloud",
            # Once it has a port, a restarted cloud keeps it: the edge and the browser come back to the same place.
            lambda: (
                *python, "glassbridge.dev_cloud", "--port", dev.url.rpartition(":")[2] or str(options.port),
                "--data-dir", str(folder / "cloud"), "--simulator-file", str(sim_file), "--user", USER,
            ),
            env={
                "GLASSBRIDGE_AUTH__SECRET": secrets.auth_secret,
                "GLASSBRIDGE_AUTH__ADMIN_TOKEN_SHA256": hash_api_key(secrets.admin_token),
            },
            on_ready=cloud_ready, tell=tell, on_line=log,
        )  # fmt: skip
        dev.edge = Child(
            "edge",
            lambda: (
                *python, "glassbridge", "edge", "run", "--json", "--simulated",
                "--cloud", "ws" + dev.url.removeprefix("http"), "--radio", f"bumble:{hci}",
                "--user", USER, "--token-file", str(token_file), "--glasses", options.model,
                "--data-dir", str(folder / "edge"),
            ),
            on_ready=lambda _: None, tell=tell, on_line=log,
        )  # fmt: skip
        if options.clock:
            dev.clock = Clock(api_key=CLOCK_KEY)
            await stack.enter_async_context(dev.clock.app.serving())
        tasks = await stack.enter_async_context(_tasks())
        await _up(tasks, dev.sim, dev.cloud)
        stack.enter_context(announced(Target(dev.url, dev.admin_token, USER, os.getpid())))
        await _up(tasks, dev.edge)
        yield dev


async def _up(tasks: list[asyncio.Task[None]], *children: Child) -> None:
    """Starts these children and waits until all are ready."""
    runs = [asyncio.create_task(child.run(), name=child.name) for child in children]
    tasks += runs

    async def all_ready() -> None:
        for child in children:
            await child.ready.wait()

    ready = asyncio.create_task(all_ready())
    done, _ = await asyncio.wait([*runs, ready], return_when=asyncio.FIRST_COMPLETED)
    if ready in done:
        return
    ready.cancel()
    for run in runs:
        if run in done and isinstance(error := run.exception(), ChildFailed):
            why = (
                error.tail.strip().splitlines()[-1]
                if error.tail.strip()
                else f"it ended with code {error.code}"
            )
            raise CommandError(
                f"the {error.name} did not start",
                why,
                "glassbridge dev --port 0" if "in use" in why else "glassbridge dev --verbose",
                Exit(error.code) if error.code in list(Exit) else Exit.FAILED,
            )
    raise CommandError("a part did not start", "it ended without a reason", "glassbridge dev --verbose")


@asynccontextmanager
async def _tasks() -> AsyncIterator[list[asyncio.Task[None]]]:
    """Tasks that are ended together: the edge before what it talks to."""
    tasks: list[asyncio.Task[None]] = []
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _core_token(secret: str) -> str:
    return TokenVerifier([secret]).mint_core_token(USER, None)


def run(options: Options) -> int:
    """The command. Returns its exit code."""
    return asyncio.run(_main(options))


async def _main(options: Options) -> int:
    stop = asyncio.Event()
    code = Exit.OK

    def interrupted() -> None:
        nonlocal code
        code = Exit.INTERRUPTED
        stop.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, interrupted)
    session = asyncio.create_task(_once(options) if options.once else _session(options, stop))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([session, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not session.done() and options.once:
        session.cancel()
    try:
        result = await session
    except asyncio.CancelledError:
        return code
    return code or result


async def _session(options: Options, stop: asyncio.Event) -> int:
    """Until stopped."""
    say = _Say(options.as_json)
    async with running(options, say.line) as dev:
        watching = asyncio.create_task(_live(dev, say))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([watching, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        watching.cancel()
        outcome = (await asyncio.gather(watching, return_exceptions=True))[0]
        if isinstance(outcome, Exception):
            raise outcome
        say.line("ending")
    return Exit.OK


async def _live(dev: Dev, say: _Say) -> None:
    say.part("cloud", f"{dev.url:<30} loopback only, dev keys")
    await dev.connected()
    device = await dev.sim_state()
    say.part("glasses", _describe(device))
    say.part("lens", f"{dev.url + '/':<30} open it: what the wearer sees")
    urls = [*(USUAL_URLS if dev.options.discover else ()), *dev.options.apps]
    apps = []
    if dev.clock is not None:
        outcome = await dev.start_clock()
        apps.append("clock (built in) " + ("running" if outcome.ok else f"did not start: {outcome.words}"))
    if urls:
        apps.append("looking on " + ", ".join(url.removeprefix("http://127.0.0.1") for url in urls))
    say.part("apps", " · ".join(apps) or "none, and looking nowhere: name them with --app URL")
    say.ready(
        {"event": "ready", "url": dev.url, "lens": dev.url + "/", "simulator": dev.control, "user": USER}
    )

    clock_shown = dev.clock is not None

    async def start(package: str, url: str) -> Outcome:
        # The clock answers every word and tap as well, and would keep the lens from an app that is slower by a moment.
        nonlocal clock_shown
        if clock_shown:
            clock_shown = False  # before the wait: another app may be found meanwhile
            back = f"glassbridge app start {CLOCK_PACKAGE} brings it back"
            clock_shown = not await dev.stop_clock()
            if not clock_shown:
                say.part("apps", f"clock leaves the lens to yours ({back})")
        return await dev.start_app(package, url)

    await Discovery(urls, start, lambda words: say.part("apps", words)).run()


async def _once(options: Options) -> int:
    """Plays the scenario against a set of its own."""
    from glassbridge.scenario import load, play

    assert options.once is not None
    scenario = load(options.once)  # before anything starts: a typing error should cost no time
    say = _Say(options.as_json)
    began = time.monotonic()
    async with running(options, say.line) as dev:
        return await play(scenario, dev, say.line, began=began, as_json=options.as_json)


def _describe(device: dict[str, Any]) -> str:
    names = {"g1": "Even G1", "live": "Mentra Live", "nex": "Mentra Nex", "frame": "Brilliant Frame"}
    arms = " + ".join(device["arms"])
    battery = device["state"].get("battery")
    levels = [n for n in (battery.values() if isinstance(battery, dict) else [battery]) if isinstance(n, int)]
    charge = f", battery {min(levels)} %" if levels else ""
    words = f"simulated {names.get(device['model'], device['model'])}, {arms}{charge}"
    return f"{words:<58} SIMULATED"


class _Say:
    """What dev prints: lines for people, or one ready line of JSON."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def part(self, name: str, words: str) -> None:
        self.line(f"{name:<9} {words}")

    def line(self, words: str) -> None:
        talk(f"  {words}")

    def ready(self, document: dict[str, Any]) -> None:
        if self._as_json:
            emit(document)
