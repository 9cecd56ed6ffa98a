"""The HTTP side of the cloud: one Starlette application from the route tables, health, metrics and CORS.

Rules: a path that is in no table does not exist. `/livez` depends on nothing; `/readyz` names what is not ready. CORS is
open for web views, which carry their own tokens, and closed for the administrator's routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cloud.http import admin, phone, sdk
from cloud.http.console.console import table as console_table
from cloud.http.routing import JSON, Auth, Call, RouteSpec, now_text, routes
from cloud.http.services import Services
from cloud.metrics import CONTENT_TYPE
from cloud.store.base import StoreError
from wire.placement import split_path

#: The store must answer a probe within this time to count as ready.
PROBE_TIMEOUT: Final = 2.0
#: A loop that was this late in the last seconds is overloaded (failure catalogue PRO-02).
LAG_MAX: Final = 0.5
#: Probes come every few seconds from several places; one write a second is enough for all of them.
PROBE_INTERVAL: Final = 1.0


def _version() -> str:
    try:
        return version("glassbridge")
    except PackageNotFoundError:
        return "unknown"


async def health(call: Call) -> Response:
    """Mentra's shape."""
    return JSON({"status": "ok", "timestamp": now_text(), "server": "glassbridge", "version": _version()})


async def alive(call: Call) -> Response:
    """That this answer is written is the proof."""
    return JSON({"status": "alive"})


class Readiness:
    """Whether new work may be sent here, and what is wrong if not."""

    def __init__(self) -> None:
        self._store_checked_at = float("-inf")
        self._store = "ok"
        self._checking = asyncio.Lock()

    async def __call__(self, call: Call) -> Response:
        services = call.services
        async with self._checking:  # one probe for all who ask at once
            now = services.monotonic()
            if now - self._store_checked_at >= PROBE_INTERVAL:
                self._store = await self._probe(services)
                self._store_checked_at = services.monotonic()
        lag = services.loop_watch.lag
        checks = {
            "storage": self._store,
            "drain": "draining" if services.hub.draining else "ok",
            "load": f"event loop {lag:.1f} s late" if lag > LAG_MAX else "ok",
        }
        away = services.store.away
        if away is not None:
            # All nodes share it: taking each of them out of the balancer would end what still works without it.
            checks["storage"] = "ok"
        ready = all(state == "ok" for state in checks.values())
        if away is not None:
            checks["storage"] = away
        silent = services.siblings.silent if services.siblings is not None else []
        if silent:  # the others serve what was theirs
            checks["workers"] = f"no answer from {', '.join(map(str, silent))}"
        return JSON({"status": "ready" if ready else "not ready", "checks": checks}, 200 if ready else 503)

    @staticmethod
    async def _probe(services: Services) -> str:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await services.store.check()
        except TimeoutError:
            return f"no answer in {PROBE_TIMEOUT:g} s"
        except StoreError as error:
            return str(error)
        return "ok"


async def metrics(call: Call) -> Response:
    text = call.services.metrics.text()
    if call.services.siblings is not None:
        text = await call.services.siblings.metrics(text)
    return Response(text, media_type=None, headers={"Content-Type": CONTENT_TYPE})


def route_table(extra: Sequence[RouteSpec] = ()) -> list[RouteSpec]:
    """Every route of the cloud, each with its authentication."""
    return [
        RouteSpec("GET", "/health", health, Auth.PUBLIC),
        RouteSpec("GET", "/livez", alive, Auth.PUBLIC),
        RouteSpec("GET", "/readyz", Readiness(), Auth.PUBLIC),
        RouteSpec("GET", "/metrics", metrics, Auth.PUBLIC),
        *admin.TABLE,
        *sdk.TABLE,
        *phone.TABLE,
        *extra,
    ]


class _Cors:
    """Open CORS, except for the administrator's routes: a web page has no business there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = CORSMiddleware(
            app,
            allow_origin_regex=".*",
            allow_credentials=True,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["*"],
            max_age=3600,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        closed = scope["type"] != "http" or scope["path"].startswith("/api/admin/")
        await (self._app if closed else self._open)(scope, receive, send)


class _Placed:
    """Takes off the prefix `/s/<key>` that balancers read (wire.placement)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/s/"):
            _, path = split_path(scope["path"])
            _, raw = split_path(scope["raw_path"].decode("latin-1"))
            scope = {**scope, "path": path, "raw_path": raw.encode("latin-1")}
        await self._app(scope, receive, send)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body: dict[str, Any] = {"error": error.detail}
    return JSON(body, error.status_code, headers=error.headers)


def build_http_app(services: Services, *, extra: Sequence[RouteSpec] = ()) -> ASGIApp:
    """The ASGI application for `Listener(http_app=…)`. `extra` are further tables (the lens page of `dev`)."""
    pages = console_table(at_root=all(spec.path != "/" for spec in extra))
    app = Starlette(
        routes=routes(route_table([*pages, *extra]), services),
        exception_handlers={HTTPException: _refused},
    )
    return _Placed(_Cors(app))
