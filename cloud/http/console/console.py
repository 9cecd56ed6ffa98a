"""The console's routes: its files for everybody, and its one live WebSocket for the administrator.

Rules: the page is a shell without data, so it is public; everything it shows comes with the admin token, in a header or in
the first message of the socket. The token lies in the browser tab's session storage and never in a cookie: nothing that a
foreign site can make the browser send carries it, so there is nothing to forge; besides, a socket that another site opens is
refused by its Origin. The page may load from this origin alone and run no inline code.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.responses import RedirectResponse, Response

from cloud.http import overview
from cloud.http.console import everywhere
from cloud.http.console.everywhere import Everywhere
from cloud.http.console.feed import Feed
from cloud.http.console.samples import Samples
from cloud.http.console.socket import MESSAGE_MAX, ConsoleSocket
from cloud.http.console.views import GROUPS, KINDS
from cloud.http.routing import Auth, Call, RouteSpec
from cloud.http.services import Services
from cloud.listener import Accept, Reject, UpgradeRequest
from wire.errors import ErrorCode

log = logging.getLogger(__name__)

LIVE_PATH: Final = "/api/admin/console/live"
#: How often a console is told what has changed. Seconds; a person does not see sooner.
TICK: Final = 0.5
#: Open consoles of one process: a team, not an audience.
SOCKETS_MAX: Final = 32

#: What the page loads, and as what.
ASSETS: Final[Mapping[str, tuple[str, str]]] = {
    "/console": ("console.html", "text/html; charset=utf-8"),
    "/console/console.css": ("console.css", "text/css; charset=utf-8"),
    "/console/console.js": ("console.js", "text/javascript; charset=utf-8"),
    "/console/dom.js": ("dom.js", "text/javascript; charset=utf-8"),
    "/console/draw.js": ("draw.js", "text/javascript; charset=utf-8"),
    "/console/live.js": ("live.js", "text/javascript; charset=utf-8"),
    "/console/sessions.js": ("sessions.js", "text/javascript; charset=utf-8"),
    "/console/apps.js": ("apps.js", "text/javascript; charset=utf-8"),
    "/console/trace.js": ("trace.js", "text/javascript; charset=utf-8"),
    "/console/users.js": ("users.js", "text/javascript; charset=utf-8"),
    "/console/health.js": ("health.js", "text/javascript; charset=utf-8"),
    "/console/console.svg": ("console.svg", "image/svg+xml"),
}

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

#: Read once: the files are small and do not change while we run.
_FILES: Final = {path: (files(__package__) / name).read_bytes() for path, (name, _) in ASSETS.items()}


async def asset(call: Call) -> Response:
    """A file of the page."""
    path = call.spec.path
    return Response(_FILES[path], media_type=ASSETS[path][1], headers=dict(SECURITY_HEADERS))


async def to_console(call: Call) -> Response:
    """`/` is the console where no lens page is mounted."""
    return RedirectResponse("/console", headers={"Cache-Control": "no-store"})


class Console:
    """The state behind the live sockets of one process. They share one task, which lives while there are any."""

    def __init__(self, services: Services, *, has_lens: bool = False) -> None:
        """`has_lens`: the lens page of the simulator is at `/`."""
        self.services = services
        self.feed = Feed(services.hub)
        self.samples = Samples(services)
        self._has_lens = has_lens
        self._sockets: set[ConsoleSocket] = set()
        self._telling: asyncio.Task[None] | None = None
        #: In a cluster, while a console is open.
        self.everywhere: Everywhere | None = None
        self._asking: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        #: Whether the rows are those of now; not while nobody looks.
        self.is_fresh = False

    def sample(self) -> None:
        """For the hub, after it brought its gauges up to date."""
        self.samples.take(time.time())

    def about(self) -> dict[str, Any]:
        """What the page needs to know of this cloud. `now` is wall clock, seconds."""
        config = self.services.config
        return {
            "profile": config.profile,
            "url": self.services.base_url,
            "speech": config.speech.provider,
            "lens": self._has_lens,
            "node": self.everywhere.me if self.everywhere is not None else None,
            "now": time.time(),
            "trace": {"kinds": KINDS, "groups": {name: words for name, (words, _) in GROUPS.items()}},
        }

    def summary(self) -> dict[str, Any]:
        """For the head of every page."""
        return {
            **(self.feed if self.everywhere is None else self.everywhere).summary(),
            "draining": self.services.hub.draining,
            "silent": self.everywhere.silent if self.everywhere is not None else [],
        }

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """What this node tells another. Raises KeyError, TypeError or ValueError for a question that cannot be read."""
        if question["view"] != "console":
            return overview.answer(self.services, question)
        # Its rows are those of the last question, a second ago, while they are brought up to date for the next one.
        if self._telling is None and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh(), name="console rows")
        return everywhere.answer(self.services, self.feed, question)

    async def _refresh(self) -> None:
        try:
            await self.feed.refresh()
        except Exception:
            self._failed()

    # ------------------------------------------------------------------------------------------------ sockets

    def upgrade(self, request: UpgradeRequest) -> Accept | Reject:
        """A browser asks for the live socket. Who is behind it is proven by its first message."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if not is_own_origin(origin, host, self.services.base_url):
            code = ErrorCode.PERMISSION_DENIED
            self.services.metrics.counter("refused_total").labels(kind="console", code=code.value).inc()
            words = (
                "the console's socket is for the console's own page. Behind a proxy: let it pass the Host header on, port"
                " included, or set public_url"
            )
            return Reject(403, {"error": words, "code": code})
        timeout = self.services.config.limits.handshake_timeout
        handler = ConsoleSocket(self, host=host, origin=origin, hello_timeout=timeout)
        return Accept(handler, authenticated=False, message_max=MESSAGE_MAX)

    def joined(self, socket: ConsoleSocket) -> bool:
        """A console has proven who it is. False: there are too many."""
        if len(self._sockets) >= SOCKETS_MAX:
            return False
        self._sockets.add(socket)
        if self._telling is None:
            loop = asyncio.get_running_loop()
            if self.services.others is not None:
                self.everywhere = Everywhere(self.services, self.feed)
                self._asking = loop.create_task(self._ask(self.everywhere), name="console of all nodes")
            self._telling = loop.create_task(self._tell(), name="console")
        return True

    def left(self, socket: ConsoleSocket) -> None:
        """Also for one that never joined."""
        self._sockets.discard(socket)
        if not self._sockets and self._telling is not None:
            self._telling.cancel()
            self._telling, self.is_fresh = None, False
            if self._asking is not None:
                self._asking.cancel()
                self._asking = self.everywhere = None

    async def _ask(self, all_nodes: Everywhere) -> None:
        while True:
            try:
                await all_nodes.run()
            except Exception:
                self._failed()
            await asyncio.sleep(TICK)

    def _failed(self) -> None:
        """A bug of the console costs its sockets, which come again."""
        log.exception("the console failed")
        self.services.metrics.counter("errors_total").labels("console").inc()
        for socket in list(self._sockets):
            socket.fail()

    async def _tell(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self.feed.refresh()
                if self.everywhere is not None:
                    await self.everywhere.own()
                self.is_fresh = True
                for socket in list(self._sockets):
                    socket.tell(loop.time())
            except Exception:
                self._failed()
            await asyncio.sleep(TICK)


def is_own_origin(origin: str | None, host: str, base_url: str) -> bool:
    """Whether a page of this origin is ours: it came from the Host that it asks now, or from the configured address.

    Only browsers send an Origin; a program has to show a token anyway.
    """
    if origin is None:
        return True
    page, own = urlsplit(origin), urlsplit(base_url)
    if page.scheme not in ("http", "https") or not page.netloc:  # such as "null"
        return False
    return page.netloc.lower() == host.lower() or (page.scheme, page.netloc.lower()) == (
        own.scheme,
        own.netloc.lower(),
    )


def table(*, at_root: bool) -> list[RouteSpec]:
    """The console's lines of the route table; `at_root`: it also answers at `/`."""
    return [
        *(RouteSpec("GET", path, asset, Auth.PUBLIC) for path in ASSETS),
        *([RouteSpec("GET", "/", to_console, Auth.PUBLIC)] if at_root else []),
    ]
