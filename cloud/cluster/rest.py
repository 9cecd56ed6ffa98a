"""REST on any node: a request about a session that another node owns goes there, and its answer comes back.

Rules: who asks is known, by a verified credential, before anything is asked of another node, and that node verifies it once
more. A user without any session is answered here, from the store. A request is handed on once at most. What the whole
service knows only in parts is put together elsewhere (`cloud.http.overview`, and for the console `cloud.http.console.everywhere`);
`/api/admin/trace` shows one node.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Scope

from cloud.cluster.fabric import NoOne, Reply, Unavailable
from cloud.cluster.names import session_address
from cloud.http.routing import Auth, Call, Refusal, read_body
from wire.codec import load_object
from wire.errors import ErrorCode, ProtocolError
from wire.placement import session_key

if TYPE_CHECKING:
    from cloud.cluster.cluster import Cluster

#: Marks a request that another node has handed on.
FORWARDED: Final = "glassbridge.forwarded"
#: The longest a route takes is the start of an app: 12 s, and 5 s more for it to be on disk (`cloud.callers`).
PATIENCE: Final = 20.0
#: The bus takes 8 MB, base64 a third more. Most photos of glasses, 1-3 MB, are one piece; larger bodies go before their
#: request, piece by piece.
PIECE_BYTES_MAX: Final = 5 * 1024 * 1024
#: Pieces that wait at a node for their requests, of all together: six photos of 10 MB that arrive within a second or two.
PIECES_BYTES_MAX: Final = 64 * 1024 * 1024
#: Room for the form around a photo.
FORM_BYTES: Final = 64 * 1024
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
        self._pieces: dict[str, bytearray] = {}
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
        is_form = call.request.headers.get("content-type", "").startswith("multipart/")
        if is_form:  # a photo: its route reads it by itself, and has a limit of its own
            limit = call.services.config.limits.photo_bytes_max + FORM_BYTES
            body = await read_body(call.request, limit)
        else:
            body = await call.raw()
        address = session_address(session_key(user))
        number = secrets.token_hex(8)
        first = max(0, len(body) - 1) // PIECE_BYTES_MAX * PIECE_BYTES_MAX  # all but the last piece
        request: dict[str, Any] = {
            "v": 1,
            "op": "rest",
            "method": call.request.method,
            "path": path,
            "query": call.request.url.query,
            "headers": [[k, v] for k, v in call.request.headers.items() if k not in _NOT_FORWARDED],
            "body": base64.b64encode(body[first:]).decode(),
        }
        if first:
            request["pieces"] = [number, first]
        try:
            for start in range(0, first, PIECE_BYTES_MAX):
                await self._give(address, number, start, body[start : start + PIECE_BYTES_MAX])
            answer = await cluster.fabric.ask(address, orjson.dumps(request), PATIENCE)
            found = load_object(answer, bytes_max=len(answer))
            content = base64.b64decode(found["body"], validate=True)
            status, headers = int(found["status"]), [(str(k), str(v)) for k, v in found["headers"]]
        except (NoOne, Unavailable) as error:
            if is_form:  # it has been read, and only a session can have asked for it
                status = 404 if isinstance(error, NoOne) else 503
                raise Refusal(
                    status, "nobody serves this user's session now", code=ErrorCode.SESSION_NOT_FOUND
                ) from None
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
        """Another node hands a request on, or a piece of one that is about to come."""
        if request.get("op") == "piece":
            reply(orjson.dumps({"v": 1, "ok": self._take(request)}))
        else:
            self._cluster.spawn(self._answer(request, reply))

    async def _give(self, address: str, number: str, start: int, piece: bytes) -> None:
        """Raises what `ask` does, and Refusal if the owner has no room or is of a version that knows no pieces."""
        request = {"v": 1, "op": "piece", "number": number, "start": start}
        request["body"] = base64.b64encode(piece).decode()
        answer = await self._cluster.fabric.ask(address, orjson.dumps(request), PATIENCE)
        if load_object(answer, bytes_max=len(answer)).get("ok") is not True:
            raise Refusal(
                503,
                f"the session's node takes no body over {PIECE_BYTES_MAX} bytes from this one now; send it again",
                code=ErrorCode.OVERLOADED,
                headers={"Retry-After": "2"},
            )

    def _take(self, request: Mapping[str, Any]) -> bool:
        """Keep a piece for as long as its request may take to come; False if there is no room or it is none."""
        try:
            number, start = str(request["number"]), int(request["start"])
            piece = base64.b64decode(request["body"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error):
            return False
        kept = self._pieces.get(number, bytearray())
        room = PIECES_BYTES_MAX - sum(map(len, self._pieces.values()))
        if start != len(kept) or len(piece) > room:
            return False
        if number not in self._pieces:
            self._pieces[number] = kept
            asyncio.get_running_loop().call_later(PATIENCE, self._pieces.pop, number, None)
        kept += piece
        return True

    async def _answer(self, request: dict[str, Any], reply: Reply) -> None:
        try:
            body = base64.b64decode(request["body"], validate=True)
            if "pieces" in request:
                number, count = request["pieces"]
                first = bytes(self._pieces.pop(str(number), b""))
                if len(first) != int(count):  # they went to the node that owned the session then
                    reply(
                        orjson.dumps({"v": 1, "status": 503, "headers": [["Retry-After", "1"]], "body": ""})
                    )
                    return
                body = first + body
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
