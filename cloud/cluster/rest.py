"""REST on any node: a request about a session that another node owns goes there, and its answer comes back.

Rules: who asks is known, by a verified credential, before anything is asked of another node, and that node verifies it once
more. A user without any session is answered here, from the store. A request is handed on once at most. What the whole
service knows only in parts is put together elsewhere (`cloud.http.overview`); the console and `/api/admin/trace` show one node.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Scope

from cloud.cluster.fabric import NoOne, Reply, Unavailable
from cloud.cluster.names import session_address
from cloud.http.routing import Auth, Call, Refusal
from wire.codec import load_object
from wire.errors import ErrorCode, ProtocolError
from wire.placement import session_key

if TYPE_CHECKING:
    from cloud.cluster.cluster import Cluster

#: Marks a request that another node has handed on.
FORWARDED: Final = "glassbridge.forwarded"
#: The longest a route takes is the start of an app (12 s).
PATIENCE: Final = 15.0
#: The bus takes 8 MB, base64 a third more: photos of glasses have 1-3 MB.
BODY_BYTES_MAX: Final = 5 * 1024 * 1024
#: Headers of one hop, or of the body's form on it.
_NOT_FORWARDED: Final = frozenset(
    {"connection", "content-length", "transfer-encoding", "keep-alive", "upgrade"}
)
#: Answers that do not depend on a session, or that are a stream: asking another node would cost and bring nothing.
_HERE: Final = ("/api/audio/", "/api/tts", "/api/admin/config", "/api/admin/drain", "/api/admin/trace")


class Elsewhere:
    """Asked by every route's guard after it knows who asks. `app` is this node's HTTP application."""

    def __init__(self, cluster: Cluster, app: ASGIApp) -> None:
        self._cluster = cluster
        self._app = app
        cluster.answer_rest = self.answer

    async def __call__(self, call: Call) -> Response | None:
        """The owner's answer, or None: this node answers. Raises Refusal."""
        user = _user_of(call)
        path = call.request.url.path
        if not user or call.request.scope.get(FORWARDED) or path.startswith(_HERE):
            return None
        cluster = self._cluster
        if cluster.serves(user):
            return None
        body = await call.raw()
        if len(body) > BODY_BYTES_MAX:
            raise Refusal(413, f"body is larger than {BODY_BYTES_MAX} bytes", code=ErrorCode.TOO_LARGE)
        request = {
            "v": 1,
            "op": "rest",
            "method": call.request.method,
            "path": path,
            "query": call.request.url.query,
            "headers": [[k, v] for k, v in call.request.headers.items() if k not in _NOT_FORWARDED],
            "body": base64.b64encode(body).decode(),
        }
        try:
            answer = await cluster.fabric.ask(
                session_address(session_key(user)), orjson.dumps(request), PATIENCE
            )
            found = load_object(answer, bytes_max=len(answer))
            content = base64.b64decode(found["body"], validate=True)
            status, headers = int(found["status"]), [(str(k), str(v)) for k, v in found["headers"]]
        except (NoOne, Unavailable):
            return None  # nobody serves him, or nobody can be asked: what the store knows is the answer
        except (TimeoutError, ProtocolError, KeyError, TypeError, ValueError, binascii.Error):
            raise Refusal(
                504, "the session's node did not answer", code=ErrorCode.TIMEOUT, headers={"Retry-After": "2"}
            ) from None
        response = Response(content, status)
        for name, value in headers:
            if name.lower() not in _NOT_FORWARDED:
                response.headers[name] = value
        return response

    def answer(self, request: dict[str, Any], reply: Reply) -> None:
        """Another node hands a request on."""
        self._cluster.spawn(self._answer(request, reply))

    async def _answer(self, request: dict[str, Any], reply: Reply) -> None:
        try:
            body = base64.b64decode(request["body"], validate=True)
            scope = _scope(request)
        except (KeyError, TypeError, ValueError, binascii.Error):
            reply(orjson.dumps({"v": 1, "status": 400, "headers": [], "body": ""}))
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        status, headers, content = 500, [], bytearray()

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await asyncio.Event().wait()  # until the answer is complete: the asker does not hang up
            raise AssertionError("unreachable")

        async def send(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in message["headers"]]
            elif message["type"] == "http.response.body":
                content.extend(message.get("body", b""))

        try:
            async with asyncio.timeout(PATIENCE):
                await self._app(scope, receive, send)
        except TimeoutError:
            return  # the asker has given up as well
        answer = {
            "v": 1,
            "status": status,
            "headers": headers,
            "body": base64.b64encode(content).decode(),
        }
        reply(orjson.dumps(answer))


def _user_of(call: Call) -> str:
    """Whose session a request is about, as far as its credential lets it be."""
    if call.user_id:
        return call.user_id
    if call.spec.auth in (Auth.ADMIN, Auth.APP):
        for name in ("user", "user_id"):
            value = call.request.path_params.get(name)
            if isinstance(value, str):
                return value.lower()
    return ""


def _scope(request: dict[str, Any]) -> Scope:
    path = str(request["path"])
    headers = [(str(k).lower().encode("latin-1"), str(v).encode("latin-1")) for k, v in request["headers"]]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": str(request["method"]),
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "query_string": str(request.get("query", "")).encode("latin-1"),
        "headers": headers,
        "client": None,
        "server": None,
        FORWARDED: True,
    }
