"""Finds app servers on this machine, has them started, and starts them again when they come back.

Rules: an app is known by its `GET /health` answer `{"app": "<package>"}`. Whoever answers without running a session is
started; so a restarted app gets its webhook within a probe's time. Every failure is said once, in words, and again only
when it changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import httpx

#: Where the SDK's examples and templates listen.
USUAL_URLS = ("http://127.0.0.1:3000", "http://127.0.0.1:7010")

#: Between two probes of one address, in seconds: an edit-save-restart is noticed within this time.
PROBE_INTERVAL = 1.0
#: An app server on this machine answers `/health` at once, unless it is busy starting. Seconds.
PROBE_TIMEOUT = 2.0
#: Pauses after failed starts, doubling; a developer is reading the reason meanwhile. Seconds.
RETRY_FIRST, RETRY_CEILING = 2.0, 30.0


@dataclass(frozen=True, slots=True)
class Found:
    """An app server."""

    package: str
    active_sessions: int | None  # None if it does not say


@dataclass(frozen=True, slots=True)
class Problem:
    """Something answers, but not as an app server does."""

    words: str


@dataclass(frozen=True, slots=True)
class Absent:
    """Nobody answers."""


Probe = Found | Problem | Absent


def judge(url: str, status: int, body: object) -> Found | Problem:
    """What an answer to `GET /health` says about who listens at `url`."""
    where = url.removeprefix("http://127.0.0.1")
    if status == 404:
        return Problem(
            f"{where} answers, but has no /health: not an SDK app, or its health check is disabled"
        )
    if status != 200:
        return Problem(f"{where} answers /health with HTTP {status}")
    package = body.get("app") if isinstance(body, dict) else None
    if not isinstance(package, str) or not package:
        return Problem(f"{where} answers but /health has no `app` field: not an SDK app?")
    active = body.get("activeSessions") if isinstance(body, dict) else None
    return Found(package, active if isinstance(active, int) else None)


async def probe(client: httpx.AsyncClient, url: str) -> Probe:
    """Asks once. Never raises."""
    try:
        reply = await client.get(f"{url}/health", timeout=PROBE_TIMEOUT)
    except httpx.ConnectError:
        return Absent()
    except httpx.TimeoutException:
        return Problem(f"{url} accepts connections but does not answer within {PROBE_TIMEOUT:.0f} s")
    except httpx.HTTPError as error:
        return Problem(f"{url} does not speak HTTP ({type(error).__name__})")
    try:
        body = reply.json()
    except ValueError:
        body = None
    return judge(url, reply.status_code, body)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a start went. `seconds` until the app's own code had run; `already` if it ran before, and nothing was done."""

    ok: bool
    seconds: float
    words: str = ""
    already: bool = False


class Starter(Protocol):
    """Registers an app server with the cloud and starts it for the wearer."""

    def __call__(self, package: str, url: str) -> Awaitable[Outcome]: ...


@dataclass(slots=True)
class _Place:
    url: str
    said: str = ""
    package: str | None = None
    started: bool = False
    failures: int = 0
    not_before: float = 0.0
    last: Probe = field(default_factory=Absent)


class Discovery:
    """Watches some addresses until cancelled."""

    def __init__(self, urls: Iterable[str], start: Starter, tell: Callable[[str], None]) -> None:
        self._places = [_Place(url.rstrip("/")) for url in dict.fromkeys(urls)]
        self._start = start
        self._tell = tell

    async def run(self) -> None:
        """Probes every address each second."""
        async with httpx.AsyncClient(trust_env=False) as client:
            while True:
                await asyncio.gather(*(self._look(client, place) for place in self._places))
                await asyncio.sleep(PROBE_INTERVAL)

    async def _look(self, client: httpx.AsyncClient, place: _Place) -> None:
        now = asyncio.get_running_loop().time()
        before, place.last = place.last, await probe(client, place.url)
        seen = place.last
        match seen:
            case Absent():
                if place.package is not None:
                    self._say(place, f"{place.package} on {_port(place.url)} is gone; waiting for it")
                    place.package, place.started = None, False
                    # A fresh process deserves a fresh start, whatever happened to the last.
                    place.failures, place.not_before = 0, 0.0
            case Problem(words=words):
                # An app that is being restarted may take a connection with it: the second look knows better.
                if place.package is None or isinstance(before, Problem):
                    self._say(place, words)
            case Found(package=package, active_sessions=active):
                place.package = package
                idle = active == 0 or (active is None and not place.started)
                if idle and now >= place.not_before:
                    await self._begin(place, package)

    async def _begin(self, place: _Place, package: str) -> None:
        outcome = await self._start(package, place.url)
        loop = asyncio.get_running_loop()
        if outcome.ok:
            place.failures, place.started = 0, True
            # Its session counter may lag behind our success by a moment.
            place.not_before = loop.time() + PROBE_INTERVAL
            if outcome.already:
                return
            took = f"{outcome.seconds * 1000:.0f} ms" if outcome.seconds < 1 else f"{outcome.seconds:.1f} s"
            place.said = ""
            self._say(place, f"{package} on {_port(place.url)} started, {took}")
            return
        pause = min(RETRY_CEILING, RETRY_FIRST * 2**place.failures)
        place.failures = min(place.failures + 1, 10)
        place.not_before = loop.time() + pause
        self._say(place, f"{package} on {_port(place.url)} did not start: {outcome.words}")

    def _say(self, place: _Place, words: str) -> None:
        if place.said != words:
            place.said = words
            self._tell(words)


def _port(url: str) -> str:
    return url.removeprefix("http://127.0.0.1")
