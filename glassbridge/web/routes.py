"""The lens page and the way to the simulator behind it, as routes for the cloud's port in `glassbridge dev`.

Rules: loopback only, and only pages of this very origin may ask (a foreign page or a rebound DNS name is refused).
The pages need nothing from elsewhere: their Content-Security-Policy allows this origin alone, and no inline code.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from urllib.parse import urlsplit

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from glassbridge.app.endpoints import is_loopback

#: What the page loads, and as what. Read once: the files are small and do not change while we run.
ASSETS: Mapping[str, tuple[str, str]] = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/lens.js": ("lens.js", "text/javascript; charset=utf-8"),
    "/lens.css": ("lens.css", "text/css; charset=utf-8"),
    "/lens.svg": ("lens.svg", "image/svg+xml"),
    "/mic-worklet.js": ("mic-worklet.js", "text/javascript; charset=utf-8"),
}

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

#: Largest request body that is passed on: the simulator's own limit for a WAV upload.
BODY_BYTES_MAX = 32 << 20

#: Headers of the simulator's answers that the page reads.
_PASSED = ("content-type", "cache-control", "x-version", "x-frame", "x-lit-at-ms", "x-width", "x-height")


def foreign(request: Request) -> JSONResponse | None:
    """A refusal unless the request comes from this machine's own page or from a program."""
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    if not is_loopback(host):
        return JSONResponse(
            {"error": f"{host} is not this machine", "fix": "open the page as http://127.0.0.1"}, 403
        )
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return JSONResponse({"error": "a page of another site may not control these glasses"}, 403)
    return None


@asynccontextmanager
async def lens_routes(sim_control_url: Callable[[], str | None]) -> AsyncIterator[list[BaseRoute]]:
    """`/` and its files, and `/api/sim/*` passed on to the simulator, for as long as the block runs.

    `sim_control_url` is asked for each request, since a restarted simulator has another port; None while there is none.
    """
    pages = files("glassbridge.web")
    contents = {path: (pages / name).read_bytes() for path, (name, _) in ASSETS.items()}
    # One client for the page's requests. Nobody waits long on loopback, except for the event stream.
    client = httpx.AsyncClient(
        trust_env=False,
        timeout=httpx.Timeout(10.0, read=None),
        # A kept connection may be closed by the simulator at the moment we use it again; on loopback a new one is cheap.
        limits=httpx.Limits(max_keepalive_connections=0),
    )

    async def asset(request: Request) -> Response:
        path = request.url.path
        return Response(contents[path], media_type=ASSETS[path][1], headers=dict(SECURITY_HEADERS))

    async def simulator(request: Request) -> Response:
        refusal = foreign(request)
        if refusal is not None:
            return refusal
        base = sim_control_url()
        if base is None:
            return _no_simulator("it is starting or being restarted")
        if int(request.headers.get("content-length") or 0) > BODY_BYTES_MAX:
            return JSONResponse({"error": f"more than {BODY_BYTES_MAX} bytes"}, 413)
        headers = {"content-type": kind} if (kind := request.headers.get("content-type")) else {}
        try:
            body = await _body(request)
            outgoing = client.build_request(
                request.method,
                base + request.url.path,
                params=request.query_params,
                content=body,
                headers=headers,
            )
            reply = await client.send(outgoing, stream=True)
        except ClientDisconnect:
            return Response(status_code=400)
        except ValueError:
            return JSONResponse({"error": f"more than {BODY_BYTES_MAX} bytes"}, 413)
        except httpx.HTTPError as error:
            return _no_simulator(type(error).__name__)
        passed = {name: value for name in _PASSED if (value := reply.headers.get(name))}
        return StreamingResponse(_relay(reply), reply.status_code, passed)

    async with client:
        yield [
            *(Route(path, asset) for path in ASSETS),
            Route("/api/sim/{rest:path}", simulator, methods=["GET", "POST"]),
        ]


async def _body(request: Request) -> bytes:
    """The whole body. Raises ValueError beyond the limit."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_BYTES_MAX:
            raise ValueError("too large")
        parts.append(part)
    return b"".join(parts)


async def _relay(reply: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in reply.aiter_raw():
            yield part
    except httpx.HTTPError:
        pass  # the simulator went away: the stream ends, and the page opens another
    finally:
        await reply.aclose()


def _no_simulator(why: str) -> JSONResponse:
    return JSONResponse(
        {"error": f"the simulator does not answer ({why})", "fix": "look at the output of glassbridge dev"},
        503,
    )
