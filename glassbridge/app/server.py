"""An app's HTTP side: the webhooks that start and stop sessions, tools, settings, photo uploads.

Rules: the answer to `session_request` comes when the connection is acknowledged and `on_session` has returned, or runs
on after 5 s. Only the cloud that the app was given may start or stop sessions: signed requests, known addresses; an
app without a cloud is in development and listens to this machine only. One session's failure is no other's.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from cloud.auth import front_end_token, hash_api_key
from cloud.webhooks import SIGNATURE_HEADER, signature_is_valid
from glassbridge.app.endpoints import is_loopback, refuse_endpoint
from glassbridge.app.errors import PhotoFailed
from glassbridge.app.requests import Photo
from glassbridge.app.session import OnSession, OnStop, Session, SessionState
from wire.codec import TEXT_BYTES_MAX
from wire.messages.webhooks import SessionRequest, StopRequest

log = logging.getLogger(__name__)

#: How long a webhook may wait for the connection, and then for `on_session` (wire spec 6.3). Seconds.
CONNECT_WAIT, ON_SESSION_WAIT = 5.0, 5.0
#: Largest photo (wire spec 4.6) and the form around it.
PHOTO_BYTES_MAX = 10 << 20

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Somebody runs one of the app's tools for a user; `session` is that user's, where one is up."""

    tool_id: str
    parameters: dict[str, Any]
    user_id: str
    session: Session | None


OnTool = Callable[[ToolCall], Awaitable[Any]]


class App:
    """One app, serving any number of wearers.

    `port` is by default what PORT says, else 7010, where `glassbridge dev` looks; 0 is any free one.
    `cloud` names the clouds that may start it, as `host` or `host:port`, comma-separated; default: GLASSBRIDGE_CLOUD.
    Without one the app is in development: it takes unsigned requests, but from and to this machine only.
    """

    def __init__(
        self,
        package_name: str,
        *,
        api_key: str,
        host: str = "127.0.0.1",
        port: int | None = None,
        cloud: str | None = None,
    ) -> None:
        self.package_name = package_name
        self.host = host
        self.port = int(os.environ.get("PORT", "7010")) if port is None else port  # the real one once serving
        self._api_key = api_key
        clouds = cloud if cloud is not None else os.environ.get("GLASSBRIDGE_CLOUD", "")
        self._clouds = frozenset(part.strip() for part in clouds.split(",") if part.strip())
        self._on_session: OnSession | None = None
        self._on_stop: OnStop | None = None
        self._on_tool: OnTool | None = None
        self._sessions: dict[str, Session] = {}  # by session id
        self._runs: dict[asyncio.Task[str], Session] = {}
        self._http: httpx.AsyncClient | None = None

    # -- registration ---------------------------------------------------------------------------

    def on_session(self, handler: OnSession) -> OnSession:
        """Decorator: called for each session once it is connected. It may return, or run as long as the session."""
        self._on_session = handler
        return handler

    def on_stop(self, handler: OnStop) -> OnStop:
        """Decorator: called once at the end of each session, with the reason."""
        self._on_stop = handler
        return handler

    def on_tool(self, handler: OnTool) -> OnTool:
        """Decorator: called for each tool call; what it returns (any JSON value) is the reply."""
        self._on_tool = handler
        return handler

    async def webview_user(self, query: Mapping[str, str], *, cloud_url: str | None = None) -> str | None:
        """Who opened a page of the app, by the page's query parameters; None for somebody unknown.

        A token of the phone (`aos_temp_token`) is good once and for 60 s, and is shown to `cloud_url`; default: the
        cloud of the sessions that are up. The page's own token (`aos_frontend_token`) is checked here. Addresses that
        a query brings along are not believed. Raises httpx.HTTPError when the cloud is not reached.
        """
        assert self._http is not None, "the app is not serving"
        front_end = query.get("aos_frontend_token", "")
        user, _, _ = front_end.rpartition(":")
        good = front_end_token(user, hash_api_key(self._api_key))
        if user and hmac.compare_digest(front_end.encode(), good.encode()):
            return user
        cloud = cloud_url or next((session.cloud_url for session in self.sessions), None)
        token = query.get("aos_temp_token")
        if not token or cloud is None:
            return None
        reply = await self._http.post(
            f"{cloud}/api/auth/exchange-user-token",
            json={"aos_temp_token": token, "packageName": self.package_name},
            headers={"Authorization": f"Bearer {self._api_key}"},
        )
        found = _object(reply.content).get("userId") if reply.is_success else None
        return found if isinstance(found, str) else None

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Those that have not ended."""
        return tuple(s for s in self._sessions.values() if s.state is not SessionState.ENDED)

    # -- serving --------------------------------------------------------------------------------

    def run(self) -> None:
        """Serves until SIGINT or SIGTERM."""
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
        asyncio.run(self._run())

    async def _run(self) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with self.serving():
            await stop.wait()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serves inside a running loop; `app.port` is then the real port. Sessions are ended on the way out.

        Raises OSError when the port is taken.
        """
        if self._on_session is None:
            raise ValueError("the app has no @app.on_session handler")
        listener = socket.create_server((self.host, self.port))
        self.port = listener.getsockname()[1]
        server = _Server(
            uvicorn.Config(
                self.asgi(), lifespan="off", ws="none", log_level="warning", timeout_graceful_shutdown=5
            )
        )
        # Loopback is never behind a proxy, whatever the environment says.
        mounts = {f"all://{name}": None for name in ("127.0.0.1", "localhost", "[::1]")}
        self._http = httpx.AsyncClient(timeout=10.0, mounts=mounts)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            log.info("%s serves on http://%s:%d", self.package_name, self.host, self.port)
            yield
        finally:
            self._end_all()
            server.should_exit = True
            await task
            self._end_all()  # a request under way may have begun one meanwhile
            if self._runs:
                await asyncio.wait(self._runs, timeout=10)  # STOP_TIMEOUT and the closing handshake
            listener.close()
            await self._http.aclose()

    def _end_all(self) -> None:
        for session in self._runs.values():
            session.end("the app server stops")

    def asgi(self) -> Starlette:
        """The routes, to mount in a server of your own (within `serving`'s lifetime)."""
        return Starlette(
            routes=[
                Route("/webhook", self._webhook, methods=["POST"]),
                Route("/health", self._health),
                Route("/settings", self._settings, methods=["POST"]),
                Route("/tool", self._tool, methods=["POST"]),
                Route("/photo-upload", self._photo_upload, methods=["POST"]),
            ]
        )

    async def _health(self, request: Request) -> JSONResponse:
        return JSONResponse(
            {"status": "healthy", "app": self.package_name, "activeSessions": len(self.sessions)}
        )

    async def _webhook(self, request: Request) -> JSONResponse:
        raw, refusal = await self._authentic(request)
        if refusal is not None:
            return refusal
        body = _object(raw)
        try:
            match body.get("type"):
                case "session_request":
                    return await self._start(SessionRequest.model_validate(body | _both_urls(body)))
                case "stop_request":
                    return await self._stop(StopRequest.model_validate(body))
                case _:
                    return _error(400, "Unknown webhook request type")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            return _error(400, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")

    async def _authentic(self, request: Request) -> tuple[bytes, JSONResponse | None]:
        """The body, and a refusal unless the request may be believed (failure catalogue SEC-13)."""
        raw = b""
        async for part in request.stream():
            raw += part
            if len(raw) > TEXT_BYTES_MAX:
                return b"", _error(413, f"the body is over {TEXT_BYTES_MAX} bytes")
        signature = request.headers.get(SIGNATURE_HEADER)
        if signature is not None and signature_is_valid(raw, signature, self._api_key, time.time()):
            fault = None
        elif self._clouds:
            fault = "it is not signed with this app's key, or over 5 minutes ago (a wrong clock?)"
        elif request.client is None or not is_loopback(request.client.host):
            fault = "without App(cloud=...) only requests from this machine are believed unsigned"
        else:
            fault = None  # development: the cloud learns our key only when we connect, so it cannot sign with it yet
        if fault is None:
            return raw, None
        log.warning("refused a request to %s: %s", request.url.path, fault)
        return b"", _error(401, fault)

    async def _start(self, wanted: SessionRequest) -> JSONResponse:
        url = wanted.mentra_os_websocket_url or wanted.augment_os_websocket_url
        fault = refuse_endpoint(url, self._clouds)
        if fault is not None:
            log.warning("refused to connect: %s", fault)
            return _error(403, fault)
        assert self._on_session is not None
        assert self._http is not None
        former = self._sessions.pop(wanted.session_id, None)
        if former is not None:
            # The cloud starts anew what it believes lost: hand the old connection over, or it would be resurrected.
            await former.leave()
            await former.wait_ended()
        session = Session(
            package_name=self.package_name,
            api_key=self._api_key,
            session_id=wanted.session_id,
            user_id=wanted.user_id,
            url=url,
            http=self._http,
        )
        self._sessions[wanted.session_id] = session
        run = asyncio.create_task(session.run(self._on_session, self._on_stop))
        self._runs[run] = session
        run.add_done_callback(self._ran)
        try:
            async with asyncio.timeout(CONNECT_WAIT):
                up = await session.wait_up()
        except TimeoutError:
            session.end("the cloud did not acknowledge the connection in time")
            up = False
        if not up:
            return _error(500, "Failed to connect")
        await asyncio.wait(
            [run, settled := asyncio.ensure_future(session.settled.wait())],
            timeout=ON_SESSION_WAIT,
            return_when=asyncio.FIRST_COMPLETED,
        )
        settled.cancel()
        if run.done():
            return _error(500, run.result())
        return JSONResponse({"status": "success"})

    def _ran(self, run: asyncio.Task[str]) -> None:
        session = self._runs.pop(run)
        if self._sessions.get(session.session_id) is session:
            del self._sessions[session.session_id]

    async def _stop(self, wanted: StopRequest) -> JSONResponse:
        session = self._sessions.get(wanted.session_id)
        if session is not None:
            session.end(wanted.reason)
            with suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await session.wait_ended()
        return JSONResponse({"status": "success"})

    async def _settings(self, request: Request) -> JSONResponse:
        raw, refusal = await self._authentic(request)
        if refusal is not None:
            return refusal
        body = _object(raw)
        user, settings = body.get("userIdForSettings"), body.get("settings")
        if not isinstance(user, str) or not isinstance(settings, list):
            return _error(400, "Missing userId or settings array in request body")
        # The open connection gets the same list as `settings_update`; applying both would call handlers twice.
        updated = sum(session.user_id == user for session in self.sessions)
        return JSONResponse(
            {"status": "success", "message": "Settings updated successfully", "sessionsUpdated": updated}
        )

    async def _tool(self, request: Request) -> JSONResponse:
        raw, refusal = await self._authentic(request)
        if refusal is not None:
            return refusal
        body = _object(raw)
        tool_id, user = body.get("toolId"), body.get("userId")
        if not isinstance(tool_id, str) or not isinstance(user, str):
            return _error(400, "toolId and userId are required")
        if self._on_tool is None:
            return _error(404, "this app has no tools: register one with @app.on_tool")
        session = next((s for s in self.sessions if s.user_id == user), None)
        parameters = body.get("toolParameters")
        call = ToolCall(tool_id, parameters if isinstance(parameters, dict) else {}, user, session)
        try:
            reply = await self._on_tool(call)
            return JSONResponse({"status": "success", "reply": reply})
        except Exception as error:  # a tool's fault is its caller's answer; sessions go on
            log.exception("a tool failed")
            return _error(500, str(error) or type(error).__name__)

    async def _photo_upload(self, request: Request) -> JSONResponse:
        """Comes from the glasses or the phone, so it is known by its request id, which nobody can guess."""
        length = request.headers.get("content-length", "")
        if not length.isdigit() or int(length) > PHOTO_BYTES_MAX + (64 << 10):
            return JSONResponse({"success": False, "error": "a photo of at most 10 MB is expected"}, 413)
        if request.headers.get("content-type", "").startswith("application/json"):
            fields: dict[str, Any] = _object(await request.body())
            photo = None
        else:
            form = await request.form(max_files=1, max_fields=16, max_part_size=64 << 10)
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            upload = form.get("photo")
            photo = (
                Photo(
                    await upload.read(), upload.content_type or "image/jpeg", upload.filename or "photo.jpg"
                )
                if isinstance(upload, UploadFile)
                else None
            )
            await form.close()
        return self._photo_arrived(fields, photo)

    def _photo_arrived(self, fields: dict[str, Any], photo: Photo | None) -> JSONResponse:
        request_id = fields.get("requestId")
        if not isinstance(request_id, str) or not request_id:
            return JSONResponse({"success": False, "error": "No requestId provided"}, 400)
        session = next((s for s in self.sessions if request_id in s.photos), None)
        if session is None:
            why = "No pending request found for this photo (may have timed out or session ended)"
            return JSONResponse({"success": False, "error": why}, 404)
        if photo is None:
            code = str(fields.get("errorCode") or "NO_PHOTO")
            message = str(fields.get("errorMessage") or "the upload carried no photo")
            session.photos.fail(request_id, PhotoFailed(code, message))
        else:
            session.photos.resolve(request_id, photo)
        return JSONResponse(
            {"success": True, "requestId": request_id, "message": "Photo received successfully"}
        )


class _Server(uvicorn.Server):
    """uvicorn inside a loop of ours, which keeps the signals to itself."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        # What was accepted just now becomes a connection first; else nobody would close it, and the end took its 5 s.
        await asyncio.sleep(0.01)
        await super().shutdown(sockets)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _both_urls(body: dict[str, Any]) -> dict[str, Any]:
    # Either address will do (wire spec 4.1).
    url = body.get("mentraOSWebsocketUrl") or body.get("augmentOSWebsocketUrl")
    return {"mentraOSWebsocketUrl": url, "augmentOSWebsocketUrl": url}


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"status": "error", "message": message}, status)
