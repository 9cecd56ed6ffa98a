"""The frame around every route: who may call it, how much it may send, how errors look.

Rules: a route is a line in a table that names its authentication; there is no other way to add one. A handler gets a
`Call` whose identity has been verified and returns a response or raises `Refusal`. What a client may see of an error is
its status, a code and words; never whether something exists that belongs to somebody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Any, Final, NoReturn, TypeAlias

import orjson
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cloud.auth import AuthError, api_key_matches, bearer, normal_user_id
from cloud.http.services import Services
from cloud.store.base import StorageLimit, StoreError
from cloud.store.records import AppRecord
from wire.codec import load_object
from wire.errors import ErrorCode, ProtocolError

log = logging.getLogger(__name__)

#: A whole request body within this time; the slowest honest upload is a 10 MB photo at 3 Mbit/s.
BODY_TIMEOUT: Final = 30.0


class Auth(Enum):
    """How a caller proves who it is."""

    PUBLIC = "nobody needs to"
    USER = "core token"
    APP = "Bearer <package>:<api key>"
    APP_KEY = "Bearer <api key>, with packageName in the body"
    APP_SESSION = "Bearer <id of a live app session>"
    PHONE = "core token, or the address of the user's open glasses socket"  # 2025 phones send no token here
    ADMIN = "admin token"


class Shape(StrEnum):
    """How an error body looks on a family of routes (wire spec 1.7)."""

    ERROR = "error"  # {"error": …}
    MESSAGE = "message"  # {"success": false, "message": …}
    SUCCESS_ERROR = "success_error"  # {"success": false, "error": …}


class Refusal(Exception):
    """The answer is an error: HTTP status, words for the client, and optionally the exact body."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: ErrorCode | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.body = body
        self.headers = headers


Handler: TypeAlias = Callable[["Call"], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One line of a route table. `missing` are the words for a call without any credential."""

    method: str
    path: str
    handler: Handler
    auth: Auth
    shape: Shape = Shape.ERROR
    missing: str = "Authorization header missing"
    body_max: int | None = None  # bytes; None = the configured limit for JSON


@dataclass(slots=True)
class Call:
    """One request after its guard: `user_id` or `app` is set as the route's authentication says."""

    request: Request
    services: Services
    spec: RouteSpec
    user_id: str = ""
    app: AppRecord | None = None
    token_id: str | None = None
    is_claimed: bool = False  # an app session that only another node can know
    _raw: bytes | None = None

    @property
    def record(self) -> AppRecord:
        assert self.app is not None, "only on routes that an app authenticates for"
        return self.app

    @property
    def address(self) -> str:
        client = self.request.client
        return client.host if client else "local"

    def path(self, name: str) -> str:
        return str(self.request.path_params[name])

    def query(self, name: str) -> str | None:
        return self.request.query_params.get(name)

    async def raw(self) -> bytes:
        """The body, bounded in size and time."""
        if self._raw is None:
            limit = self.spec.body_max or self.services.config.limits.body_bytes_max
            self._raw = await read_body(self.request, limit)
        return self._raw

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty body is an empty object."""
        data = await self.raw()
        if not data.strip():
            return {}
        return load_object(data, bytes_max=len(data))

    async def json_or_list(self) -> dict[str, Any] | list[dict[str, Any]]:
        """The body as a JSON object or an array of objects."""
        data = await self.raw()
        if not data.lstrip().startswith(b"["):
            return await self.json()
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise Refusal(400, "body is not JSON", code=ErrorCode.MALFORMED_MESSAGE) from error
        if not all(isinstance(entry, dict) for entry in value):
            raise Refusal(400, "body must be an array of objects", code=ErrorCode.MALFORMED_MESSAGE)
        return list(value)


async def read_body(request: Request, limit: int) -> bytes:
    """Read a body of at most `limit` bytes within `BODY_TIMEOUT`. Raises Refusal."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        _too_large(limit)
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limit:
                    _too_large(limit)
    except TimeoutError as error:
        raise Refusal(408, "body did not arrive in time", code=ErrorCode.TIMEOUT) from error
    return bytes(data)


def _too_large(limit: int) -> NoReturn:
    raise Refusal(413, f"body is larger than {limit} bytes", code=ErrorCode.TOO_LARGE)


class JSON(Response):
    """A JSON answer, encoded by orjson."""

    media_type = "application/json"

    def __init__(
        self,
        content: Any,
        status: int = 200,
        *,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        super().__init__(
            orjson.dumps(content, default=plain), status, headers=dict(headers or {}), background=background
        )


def plain(value: object) -> object:
    """For orjson: what it does not know by itself."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def now_text() -> str:
    """ISO-8601 UTC with milliseconds, as every Mentra answer carries it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -------------------------------------------------------------------------------------------------- the guard


class Guard:
    """An ASGI endpoint: authenticates, limits, calls the handler, shapes errors, counts."""

    def __init__(self, spec: RouteSpec, services: Services) -> None:
        self._spec = spec
        self._services = services
        self._count = services.metrics.counter("http_requests_total")
        self._name = f"{spec.method} {spec.path}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return
        self._count.labels(self._name, str(response.status_code)).inc()
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        call = Call(request, self._services, self._spec)
        try:
            await self._authenticate(call)
            self._limit(call)
            if self._services.elsewhere is not None:
                answer: Response | None = await self._services.elsewhere(call)
                if answer is not None:
                    return answer
                if call.is_claimed:
                    raise Refusal(401, "Invalid session", code=ErrorCode.SESSION_NOT_FOUND)
            return await self._spec.handler(call)
        except Refusal as refusal:
            return self._shaped(refusal)
        except AuthError as error:
            return self._shaped(Refusal(error.status, error.message, code=error.code))
        except ProtocolError as error:
            status = 413 if error.code is ErrorCode.TOO_LARGE else 400
            return self._shaped(Refusal(status, error.message, code=error.code))
        except StorageLimit as error:
            return self._shaped(Refusal(413, str(error), code=ErrorCode.TOO_LARGE))
        except StoreError:
            self._services.metrics.counter("store_failures_total").labels("http").inc()
            log.warning("storage failed during %s", self._name)
            again = {"Retry-After": "2"}
            return self._shaped(
                Refusal(503, "storage is not available", code=ErrorCode.OVERLOADED, headers=again)
            )
        except ClientDisconnect:
            raise
        except Exception:  # a bug in one handler costs one answer
            log.exception("%s failed", self._name)
            self._services.metrics.counter("errors_total").labels("http").inc()
            return self._shaped(Refusal(500, "Internal server error", code=ErrorCode.INTERNAL_ERROR))

    def _shaped(self, refusal: Refusal) -> Response:
        body: dict[str, Any]
        if refusal.body is not None:
            body = dict(refusal.body)
        else:
            match self._spec.shape:
                case Shape.ERROR:
                    body = {"error": refusal.message}
                case Shape.MESSAGE:
                    body = {"success": False, "message": refusal.message}
                case Shape.SUCCESS_ERROR:
                    body = {"success": False, "error": refusal.message}
            if refusal.code is not None:
                body["code"] = refusal.code
        return JSON(body, refusal.status, headers=refusal.headers)

    # ---- identity

    async def _authenticate(self, call: Call) -> None:
        header = call.request.headers.get("authorization")
        token = bearer(header)
        match self._spec.auth:
            case Auth.PUBLIC:
                return
            case Auth.USER:
                self._user(call, header, token)
            case Auth.PHONE:
                if token is not None:
                    self._user(call, header, token)
            case Auth.ADMIN:
                headers = call.request.headers
                admit_admin(
                    self._services,
                    token,
                    address=call.address,
                    host=headers.get("host", ""),
                    origin=headers.get("origin"),
                )
            case Auth.APP:
                await self._app(call, header, token)
            case Auth.APP_KEY:
                if token is None:
                    raise Refusal(
                        401, "Missing or invalid Authorization header", code=ErrorCode.INVALID_API_KEY
                    )
                package = (await call.json()).get("packageName")
                if not isinstance(package, str) or not package:
                    raise Refusal(400, "packageName is required", code=ErrorCode.MALFORMED_MESSAGE)
                await self._check_key(call, package, token)
            case Auth.APP_SESSION:
                if token is None:
                    raise Refusal(401, self._spec.missing)
                owner = self._services.hub.session_owner(token)
                if owner is None:
                    owner = self._claimed_session(token)
                    call.is_claimed = owner is not None
                record = await self._services.app(owner[1]) if owner else None
                if owner is None or record is None:
                    raise Refusal(401, "Invalid session", code=ErrorCode.SESSION_NOT_FOUND)
                call.user_id, call.app = owner[0], record

    def _claimed_session(self, token: str) -> tuple[str, str] | None:
        """Several nodes: an app session that this node does not know may be another's, whose word counts. (A request that
        has been handed on is not asked about again.)"""
        if self._services.elsewhere is None:
            return None
        for package in self._services.apps:
            if token.endswith(f"-{package}") and len(token) > len(package) + 1:
                return token.removesuffix(f"-{package}").lower(), package
        return None

    def _user(self, call: Call, header: str | None, token: str | None) -> None:
        if token is None:
            words = self._spec.missing if not header else "Invalid Authorization header format"
            raise Refusal(401, words, code=ErrorCode.INVALID_TOKEN)
        identity = self._services.verifier.verify(token)
        call.user_id, call.token_id = identity.user_id, identity.token_id

    async def _app(self, call: Call, header: str | None, token: str | None) -> None:
        package, colon, key = (token or "").partition(":")
        if not colon:
            words = self._spec.missing if not header else "Invalid Authorization header format"
            raise Refusal(401, words, code=ErrorCode.INVALID_API_KEY)
        await self._check_key(call, package, key)

    async def _check_key(self, call: Call, package: str, key: str) -> None:
        record = await self._services.app(package)
        if not api_key_matches(key, record.hashed_api_key if record else None):
            raise Refusal(401, "Invalid API key", code=ErrorCode.INVALID_API_KEY)
        call.app = record

    # ---- rate

    def _limit(self, call: Call) -> None:
        if self._spec.auth is Auth.ADMIN:
            return
        who = call.user_id or (f"app {call.app.package_name}" if call.app else f"address {call.address}")
        limit(call, self._services.requests, who)


def admit_admin(
    services: Services, token: str | None, *, address: str, host: str, origin: str | None
) -> None:
    """Let the administrator pass, by token or as a program on this machine. Raises Refusal or AuthError."""
    if token is not None:
        # A right token gives back what it took: only wrong ones are counted, and guessing is slow.
        guesses, now = services.admin_guesses, services.monotonic()
        slow_down(services, guesses, address)
        services.admin.check(token)
        guesses.retry_after(address, now, cost=-1.0)
        return
    # `dev` on loopback is open to programs on this machine, but not to web pages that the browser shows: those come
    # with an Origin of their own or, by DNS rebinding, with a Host that is no loopback name.
    if (
        services.config.profile == "dev"
        and services.config.is_loopback
        and host.rpartition(":")[0].strip("[]") in ("127.0.0.1", "localhost", "::1")
        and origin in (None, f"http://{host}")
    ):
        return
    raise Refusal(401, "Admin token required", code=ErrorCode.INVALID_TOKEN)


def limit(call: Call, limiter: Any, identity: str, *, status: int = 429) -> None:
    """Raise Refusal(429) if `identity` asks too often."""
    slow_down(call.services, limiter, identity, status=status)


def slow_down(services: Services, limiter: Any, identity: str, *, status: int = 429) -> None:
    """`limit` where there is no call."""
    wait = limiter.retry_after(identity, services.monotonic())
    if wait > 0.0:
        services.metrics.counter("rate_limited_total").labels("http").inc()
        raise Refusal(
            status,
            "too many requests",
            code=ErrorCode.RATE_LIMITED,
            headers={"Retry-After": str(max(1, round(wait)))},
        )


def user_in_body(call: Call, value: object) -> str:
    """A user id that the client repeats in its request: it must be the caller's own. Raises Refusal(404)."""
    if normal_user_id(value) != call.user_id:
        raise Refusal(404, "User not found", code=ErrorCode.NOT_FOUND)
    return call.user_id


def routes(table: Sequence[RouteSpec], services: Services) -> list[Route]:
    """Starlette routes of a table."""
    return [Route(spec.path, Guard(spec, services), methods=[spec.method]) for spec in table]
