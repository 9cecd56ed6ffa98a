"""The console's routes: its files for everybody, its data and its one live stream for the administrator.

Rules: the page is a shell without data, so it is public; everything it shows comes with the admin token in a header. The
token lies in the browser tab's session storage and never in a cookie: nothing that a foreign site can make the browser
send carries it, so there is nothing to forge. The page may load from this origin alone and run no inline code.
A stream is one view; its pieces are lines of JSON, each only what changed since the last.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import Any, Final

import orjson
from starlette.responses import RedirectResponse, Response, StreamingResponse

from cloud.auth import normal_user_id
from cloud.http.console.feed import Feed, moment
from cloud.http.console.samples import Samples
from cloud.http.ports import AppView, SessionView
from cloud.http.routing import JSON, Auth, Call, Refusal, RouteSpec
from cloud.http.services import Services
from wire.errors import ErrorCode

#: How often a stream looks for changes. Seconds; a person does not see sooner.
TICK: Final = 0.5
#: A quiet stream says so, for proxies and for the page's own watchdog. Seconds.
KEEP_ALIVE: Final = 10.0
#: Open consoles of one process: a team, not an audience.
STREAMS_MAX: Final = 32
#: Trace records in one piece; the rest follow in the next tick.
TRACE_PAGE: Final = 500

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
    """The state behind the live streams of one process."""

    def __init__(self, services: Services, *, has_lens: bool = False) -> None:
        """`has_lens`: the lens page of the simulator is at `/`."""
        self._services = services
        self._has_lens = has_lens
        self._feed = Feed(services.hub)
        self._samples = Samples(services)
        self._streams = 0

    def sample(self) -> None:
        """For the hub, after it brought its gauges up to date."""
        self._samples.take(time.time())

    async def about(self, call: Call) -> Response:
        """What the page needs to know of this cloud; also the question whether a token is right."""
        config = call.services.config
        return JSON(
            {
                "profile": config.profile,
                "url": call.services.base_url,
                "speech": config.speech.provider,
                "lens": self._has_lens,
                "draining": call.services.hub.draining,
                "now": time.time(),
            }
        )

    async def stream(self, call: Call) -> Response:
        """One view, live: `view=sessions|session|trace|health|summary`, and where the page stands (`since`, `epoch`)."""
        view = call.query("view") or "sessions"
        try:
            since = int(call.query("since") or 0)
        except ValueError:
            raise Refusal(400, "since must be a number", code=ErrorCode.MALFORMED_MESSAGE) from None
        look: Callable[[], list[dict[str, Any]]]
        match view:
            case "sessions":
                look = self._rows(since, call.query("epoch") or "")
            case "session":
                user = normal_user_id(call.query("user"))
                if user is None:
                    raise Refusal(
                        400, "user: an e-mail address is required", code=ErrorCode.MALFORMED_MESSAGE
                    )
                look = self._session(user, with_lens=call.query("lens") == "1")
            case "trace":
                look = self._trace(since)
            case "health":
                look = self._health(since)
            case "summary":
                look = list
            case _:
                raise Refusal(
                    400,
                    "view must be sessions, session, trace, health or summary",
                    code=ErrorCode.MALFORMED_MESSAGE,
                )
        if self._streams >= STREAMS_MAX:
            raise Refusal(
                503, "too many open consoles", code=ErrorCode.OVERLOADED, headers={"Retry-After": "10"}
            )
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._pieces(look), media_type="application/x-ndjson", headers=headers)

    async def _pieces(self, look: Callable[[], list[dict[str, Any]]]) -> AsyncIterator[bytes]:
        loop, hub = asyncio.get_running_loop(), self._services.hub
        spoke_at, said = loop.time(), None
        self._streams += 1
        try:
            while not hub.draining:
                await self._feed.refresh()
                pieces = look()
                summary = self._feed.summary()
                if summary != said:
                    said = summary
                    pieces.insert(0, {"type": "summary", **summary})
                if not pieces and loop.time() - spoke_at >= KEEP_ALIVE:
                    pieces = [{"type": "quiet"}]
                for piece in pieces:
                    spoke_at = loop.time()
                    yield orjson.dumps(piece, default=_plain) + b"\n"
                await asyncio.sleep(TICK)
            yield b'{"type":"draining"}\n'
        finally:
            self._streams -= 1

    # ------------------------------------------------------------------------------------------------ views

    def _rows(self, since: int, epoch: str) -> Callable[[], list[dict[str, Any]]]:
        def look() -> list[dict[str, Any]]:
            nonlocal since, epoch
            pieces = self._feed.changes(since, epoch)
            since, epoch = self._feed.version, self._feed.epoch
            return pieces

        return look

    def _session(self, user: str, *, with_lens: bool) -> Callable[[], list[dict[str, Any]]]:
        hub = self._services.hub
        said: dict[str, Any] = {}

        def look() -> list[dict[str, Any]]:
            view = hub.session_view(user)
            if view is None:
                now = {"gone": True}
            else:
                now = session_page(view, hub.lanes(user), said, time.time(), with_lens=with_lens)
            changed = {name: value for name, value in now.items() if name not in said or said[name] != value}
            dropped = [name for name in said if name not in now]
            said.clear()
            said.update(now)
            return [{"type": "session", "set": changed, "drop": dropped}] if changed or dropped else []

        return look

    def _trace(self, since: int) -> Callable[[], list[dict[str, Any]]]:
        hub = self._services.hub

        def look() -> list[dict[str, Any]]:
            nonlocal since
            records = hub.trace(since)[-TRACE_PAGE:]
            if not records:
                return []
            since = records[-1]["seq"]
            return [{"type": "trace", "events": records}]

        return look

    def _health(self, since: int) -> Callable[[], list[dict[str, Any]]]:
        def look() -> list[dict[str, Any]]:
            nonlocal since
            samples = self._samples.since(since)
            if not samples:
                return []
            since = samples[-1]["n"]
            return [{"type": "samples", "samples": samples}]

        return look


def session_page(
    view: SessionView,
    lanes: Mapping[str, Any],
    before: Mapping[str, Any],
    now: float,
    *,
    with_lens: bool,
) -> dict[str, Any]:
    """One session's page. Times are wall clock and do not change while nothing happens; the lens only if asked for."""
    old = {one["package"]: one for one in before.get("apps", ())}
    page: dict[str, Any] = {
        "gone": False,
        "user": view.user_id,
        "state": view.state,
        "reason": view.reason,
        "at": moment(view.since, now, before.get("at")),
        "remote": view.remote,
        "client": view.client,
        "model": view.model_name,
        "microphone": view.microphone,
        "battery": view.extra.get("battery"),
        "edge": view.extra.get("edge"),
        "link": view.extra.get("link"),
        "clock": view.extra.get("clock"),
        "audio": view.extra.get("audio"),
        "speech": view.extra.get("speech"),
        "location_tier": view.extra.get("location_tier"),
        "apps": [_app(one, old.get(one.package_name, {}), now) for one in view.apps],
        "lanes": lanes,
        "lens_owner": {name: shown.get("package") for name, shown in view.display.items()},
    }
    if with_lens:
        page["lens"] = {name: dict(shown.get("layout") or {}) for name, shown in view.display.items()}
    return page


def _app(view: AppView, before: Mapping[str, Any], now: float) -> dict[str, Any]:
    left = view.next_attempt_in
    values = asdict(view)
    for name in ("package_name", "since", "next_attempt_in", "last_active_at"):
        del values[name]
    return {
        "package": view.package_name,
        **values,
        "at": moment(view.since, now, before.get("at")),
        "next_attempt_at": moment(None if left is None else -left, now, before.get("next_attempt_at")),
    }


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def table(console: Console, *, at_root: bool) -> list[RouteSpec]:
    """The console's lines of the route table; `at_root`: it also answers at `/`."""
    return [
        *(RouteSpec("GET", path, asset, Auth.PUBLIC) for path in ASSETS),
        *([RouteSpec("GET", "/", to_console, Auth.PUBLIC)] if at_root else []),
        RouteSpec("GET", "/api/admin/console", console.about, Auth.ADMIN),
        RouteSpec("GET", "/api/admin/console/stream", console.stream, Auth.ADMIN),
    ]
