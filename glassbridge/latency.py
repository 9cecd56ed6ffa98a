"""How long a touch takes to the app, and a text to the lens, in the set-up of the demo.

Rules: three real processes, real sockets, Bluetooth with its connection intervals; one event at a time, apart by more
than the cloud's display interval, so that nothing waits in a queue. All stamps are this machine's clock, whole
milliseconds where a process of ours wrote them. Run as `python -m glassbridge.latency`.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import httpx
import orjson

from glassbridge.app import App, Session, TouchEvent
from glassbridge.dev import Dev, Options, running
from glassbridge.output import CommandError, Exit, complain, emit, show, talk

PACKAGE = "org.glassbridge.latency"
KEY = "latency-probe"
#: The cloud shows at most one display per 300 ms; the next event begins later. Seconds.
PAUSE = 0.35
#: An event that takes longer is lost. Seconds.
LOST = 10.0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed. Raises ValueError for none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(values: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the maximum, in milliseconds."""
    return {
        name: round(percentile(values, share), 1)
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }


class Lenses:
    """What both arms show and since when, from the simulator's events."""

    def __init__(self) -> None:
        self.lit: dict[str, tuple[str, float]] = {}
        self.changed = asyncio.Event()

    async def follow(self, control: str) -> None:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(5.0, read=60.0)) as client,
            client.stream("GET", f"{control}/api/sim/events") as reply,
        ):
            async for line in reply.aiter_lines():
                if line.startswith("data: "):
                    self._take(orjson.loads(line[6:]))

    def _take(self, change: dict[str, Any]) -> None:
        if change.get("kind") == "lens":
            lens = change["lens"]
            self.lit[change["arm"]] = (lens["text"].strip(), lens["lit_at_ms"])
            self.changed.set()

    async def showing(self, text: str) -> float:
        """Unix milliseconds at which the last of both arms lit with `text`."""
        async with asyncio.timeout(LOST):
            while True:
                at = [when for shown, when in self.lit.values() if shown == text]
                if len(at) == 2:
                    return max(at)
                self.changed.clear()
                await self.changed.wait()


async def measure(dev: Dev, events: int) -> dict[str, Any]:
    """The figures. Raises TimeoutError when an event is lost."""
    app = App(PACKAGE, api_key=KEY, port=0)
    touches: asyncio.Queue[tuple[TouchEvent, float]] = asyncio.Queue()
    sessions: list[Session] = []

    @app.on_session
    async def on_session(session: Session) -> None:
        sessions.append(session)
        session.events.on_touch(lambda event: touches.put_nowait((event, time.time() * 1000)))

    lenses = Lenses()
    following = asyncio.create_task(lenses.follow(dev.control))
    input_to_app, edge_to_app, app_to_lens = [], [], []
    try:
        async with app.serving():
            outcome = await dev.start_app(PACKAGE, f"http://127.0.0.1:{app.port}", KEY)
            if not outcome.ok:
                raise CommandError("the probe did not start", outcome.words, "glassbridge dev --verbose")
            await asyncio.sleep(1)  # its subscription has to arrive
            for number in range(events):
                began = time.time() * 1000
                reply = await dev.http.post(
                    f"{dev.control}/api/sim/input", json={"action": "tap", "side": "right"}
                )
                reply.raise_for_status()
                async with asyncio.timeout(LOST):
                    event, heard = await touches.get()
                input_to_app.append(heard - began)
                if isinstance(event.timestamp, (int, float)):
                    edge_to_app.append(max(0.0, heard - event.timestamp))
                sent = time.time() * 1000
                await sessions[-1].layouts.show_text_wall(f"event {number}")
                app_to_lens.append(max(0.0, await lenses.showing(f"event {number}") - sent))
                await asyncio.sleep(PAUSE)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    figures = {"touch_to_app_ms": summary(input_to_app), "app_to_lens_ms": summary(app_to_lens)}
    if edge_to_app:
        figures["edge_to_app_ms"] = summary(edge_to_app)
    return {"events": events, **figures}


async def _main(events: int) -> dict[str, Any]:
    async with running(Options(port=0, clock=False), lambda line: talk(f"  {line}")) as dev:
        await dev.connected()
        return await measure(dev, events)


def main() -> int:
    parser = argparse.ArgumentParser(prog="glassbridge.latency", description=__doc__)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        figures = asyncio.run(_main(arguments.events))
    except CommandError as error:
        complain(error.what, error.why, error.fix, as_json=arguments.json)
        return error.code
    except TimeoutError:
        complain(
            "an event was lost",
            f"it took over {LOST:.0f} s",
            "glassbridge dev --verbose",
            as_json=arguments.json,
        )
        return Exit.FAILED
    if arguments.json:
        emit(figures)
        return Exit.OK
    for name, values in figures.items():
        if isinstance(values, dict):
            words = name.removesuffix("_ms").replace("_", " ").replace(" to ", " -> ")
            show(
                f"{words:<14} p50 {values['p50']:6.1f} ms   p99 {values['p99']:6.1f} ms   max {values['max']:6.1f} ms"
            )
    show(f"{figures['events']} events, one at a time")
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
