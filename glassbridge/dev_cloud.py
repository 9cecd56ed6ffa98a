"""The cloud as `glassbridge dev` runs it: the production server, plus the lens page and the way to the simulator.

Rules: the same listener, hub and store as ever; what is added are routes, on loopback only. Typed speech of the simulator
becomes a transcript here. Run as `python -m glassbridge.dev_cloud`; stdout carries the ready line alone.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import uvloop
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from cloud.config import CloudConfig
from cloud.http.ports import Hub, SessionView
from cloud.http.routing import Auth, Call, RouteSpec
from cloud.server import Cloud
from glassbridge.web.routes import foreign, lens_routes
from wire.errors import ConfigError

log = logging.getLogger(__name__)

#: How often the trace and the session are looked at for the page. Seconds.
POLL = 0.1
#: A comment on a quiet event stream, so that proxies keep it. Seconds.
KEEP_ALIVE = 15.0
#: A touch older than this did not cause the event of an exchange. Seconds.
CAUSE_MAX = 1.0
#: Pause before the simulator's events are asked for again after a loss. Seconds.
RETRY = 0.5


def _event(kind: str, data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(data, default=str))


def session_summary(view: SessionView | None) -> dict[str, Any]:
    """What the page shows about the session."""
    if view is None:
        return {"connected": False, "model": None, "apps": [], "microphone": None}
    apps = [app.package_name.rpartition(".")[2] for app in view.apps if app.state == "connected"]
    return {
        "connected": view.connected,
        "model": view.model_name,
        "apps": apps,
        "microphone": view.microphone,
    }


def with_touch(exchange: Mapping[str, Any], touched: float | None) -> dict[str, Any]:
    """The exchange with the time from the glasses to the edge, if a touch at that Unix time was its cause."""
    hops, sent = [dict(hop) for hop in exchange["hops"]], exchange["sent_at"]
    total = exchange["total_ms"]
    if touched is not None and sent is not None and hops[1]["who"] == "edge":
        # Whole milliseconds, and the edge's is corrected by an offset that is not quite zero.
        took = (sent - touched) * 1000
        if -5.0 <= took <= CAUSE_MAX * 1000:
            hops[1]["ms"] = max(0.0, round(took, 1))
            total = round(total + hops[1]["ms"], 1)
    return {"about": exchange["about"], "at": exchange["at"], "hops": hops, "total_ms": total}


async def page_events(hub: Hub, user: str, touched: Callable[[], float | None]) -> AsyncIterator[bytes]:
    """Server-sent events for the lens page: `session` when it changes, `exchange` for each completed one.

    `touched` is the Unix time at which the simulator last said that something was done to the glasses: the one hop that the
    cloud cannot know. Its clock and the edge's are this machine's.
    """
    loop = asyncio.get_running_loop()
    seen = max((record["seq"] for record in hub.trace()), default=0)
    said: dict[str, Any] | None = None
    spoke_at = loop.time()
    while not hub.draining:
        summary = session_summary(hub.session_view(user))
        if summary != said:
            said = summary
            spoke_at = loop.time()
            yield _event("session", summary)
        for record in hub.trace(seen):
            seen = record["seq"]
            if record["kind"] == "exchange" and record["user"] == user:
                spoke_at = loop.time()
                yield _event("exchange", with_touch(record, touched()))
        if loop.time() - spoke_at > KEEP_ALIVE:
            spoke_at = loop.time()
            yield b": quiet\n\n"
        await asyncio.sleep(POLL)


async def speak(hub: Hub, user: str, spoken: dict[str, Any]) -> None:
    """The transcript of what the simulated wearer says, word by word while the sound plays, final at its end."""
    words, began = spoken["text"].split(), spoken["started_at_ms"] / 1000
    for count in range(1, len(words) + 1):
        ends = began + spoken["duration_ms"] / 1000 * count / len(words)
        await asyncio.sleep(max(0.0, ends - time.time()))
        said, final = " ".join(words[:count]), count == len(words)
        hub.say(user, said, "en-US", final=final, utterance=f"typed-{spoken['id']}")


async def hear_the_simulator(
    control: Callable[[], str | None], took: Callable[[dict[str, Any]], None]
) -> None:
    """Passes on every change in the simulator, for ever; it may be restarted meanwhile."""
    async with httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(5.0, read=60.0)) as client:
        while True:
            url = control()
            if url is not None:
                try:
                    async with client.stream("GET", f"{url}/api/sim/events") as reply:
                        await _hear(reply, took)
                except httpx.HTTPError as error:
                    log.debug("the simulator's events ended: %s", type(error).__name__)
            await asyncio.sleep(RETRY)


async def _hear(reply: httpx.Response, took: Callable[[dict[str, Any]], None]) -> None:
    kind = ""
    async for line in reply.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data" and kind == "change":
            took(orjson.loads(value))


def specs(routes: Iterable[BaseRoute]) -> list[RouteSpec]:
    """Starlette routes as lines of the cloud's route table. Each of ours checks its caller itself."""

    def adapted(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Call], Awaitable[Response]]:
        async def handler(call: Call) -> Response:
            return await endpoint(call.request)

        return handler

    return [
        RouteSpec(method, route.path, adapted(route.endpoint), Auth.PUBLIC)
        for route in routes
        if isinstance(route, Route)
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]


@asynccontextmanager
async def serving(
    config: CloudConfig, control: Callable[[], str | None], user: str
) -> AsyncIterator[tuple[Cloud, asyncio.Task[None]]]:
    """The cloud with the page, for as long as the block runs, and the task that hears the simulator. Raises ConfigError.

    That task never ends by itself: if it does, it has failed, and nothing typed would become a transcript any more.
    """

    touched_at: float | None = None

    async def events(call: Call) -> Response:
        refusal = foreign(call.request)
        if refusal is not None:
            return refusal
        return StreamingResponse(
            page_events(call.services.hub, user, lambda: touched_at),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )

    async with AsyncExitStack() as stack:
        page = await stack.enter_async_context(lens_routes(control))
        extra = [*specs(page), RouteSpec("GET", "/api/dev/events", events, Auth.PUBLIC)]
        cloud = await stack.enter_async_context(Cloud(config, extra_routes=extra, adopt_keys=True))

        def took(change: dict[str, Any]) -> None:
            nonlocal touched_at
            if change.get("kind") == "input" and "at_ms" in change:  # the others are done to the radio
                touched_at = change["at_ms"] / 1000
            if change.get("kind") == "spoken":
                speaking.create_task(speak(cloud.hub, user, change["spoken"]))

        speaking = asyncio.TaskGroup()  # as many as sentences wait in the simulated microphone

        async def hear() -> None:
            try:
                async with speaking:
                    await hear_the_simulator(control, took)
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None  # one reason is what its reader can use

        hearing = asyncio.create_task(hear())
        try:
            yield cloud, hearing
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)


async def _main(config: CloudConfig, control: Callable[[], str | None], user: str) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(config, control, user) as (cloud, hearing):
        ready = {"event": "ready", "url": cloud.url, "pid": os.getpid()}
        sys.stdout.buffer.write(orjson.dumps(ready) + b"\n")
        sys.stdout.flush()
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, hearing], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if hearing.done():
            hearing.result()  # raises: whoever watches this process says why it ended, and starts it again
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="glassbridge.dev_cloud")
    parser.add_argument("--port", type=int, default=8002)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--simulator-file", type=Path, required=True, help="holds the simulator's address")
    parser.add_argument("--user", required=True, help="whose glasses the page shows")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)

    def control() -> str | None:
        try:
            return str(arguments.simulator_file.read_text()).strip() or None
        except OSError:
            return None

    flags = {"profile": "dev", "host": "127.0.0.1", "port": arguments.port, "data_dir": arguments.data_dir}
    try:
        config = CloudConfig.load(None, flags)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_main(config, control, arguments.user))
    except ConfigError as error:
        print(f"{error.what}: {error.why}", file=sys.stderr)
        return 78


if __name__ == "__main__":
    sys.exit(main())
