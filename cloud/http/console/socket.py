"""One WebSocket of an open console: a stranger until its token is proven, from then on told what changes of what it looks at.

Rules: the token comes in the first message, never in the address, where logs would keep it. Before it a socket can do
nothing, and has little time and room. It looks at one thing at a time; the newest question counts. A reader that has not
read yet is told nothing new: the next diff is against what it was last sent, so it skips states and never falls behind, and
what waits for it is one look at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import orjson

from cloud.auth import AuthError
from cloud.connection import Connection, Frame
from cloud.http.console.views import Nothing, Rows, View, make_view
from cloud.http.routing import Refusal, admit_admin, plain
from wire.codec import load_object
from wire.errors import CloseCode, ErrorCode, ProtocolError
from wire.messages.base import Delivery

if TYPE_CHECKING:
    from cloud.http.console.console import Console

#: Bytes of one message of a console: a token or a question, with room for a long search in any script.
MESSAGE_MAX: Final = 4096
#: Questions are answered at once, but not more often than this: scrolling asks 60 times a second. Seconds.
LOOK_PAUSE: Final = 0.03
#: A quiet socket says so, for proxies and for the page's own watchdog, and asks for a sign of life. Seconds.
KEEP_ALIVE: Final = 10.0
#: Silence after which a console is believed gone: four questions of which none was answered. Seconds.
DEAD_AFTER: Final = 45.0


class ConsoleSocket:
    """Implements `cloud.connection.ConnectionHandler`. `host` and `origin` are those of the upgrade request."""

    def __init__(self, console: Console, *, host: str, origin: str | None, hello_timeout: float) -> None:
        self._console = console
        self._host, self._origin = host, origin
        self._hello_timeout = hello_timeout
        self._loop = asyncio.get_running_loop()
        self._connection: Connection
        self._timer: asyncio.TimerHandle | None = None  # first for the hello, then for the next answer
        self._is_admitted = False
        self._view: View = Nothing()
        self._look: int | None = None
        self._summary: dict[str, Any] | None = None
        self._spoke_at = self._asked_at = self._answered_at = self._loop.time()

    # ------------------------------------------------------------------------------------------- what comes in

    def on_open(self, connection: Connection) -> None:
        self._connection = connection
        self._timer = self._loop.call_later(self._hello_timeout, self._late)

    def on_text(self, data: bytes) -> None:
        try:
            message = load_object(data, MESSAGE_MAX)
            if not self._is_admitted:
                self._hello(message)
            elif message.get("type") != "look":
                raise ProtocolError(ErrorCode.MALFORMED_MESSAGE, "type must be look")
            else:
                self._asks(message)
        except ProtocolError as error:
            if self._is_admitted:
                self._send({"type": "error", "code": error.code, "message": error.message})
            else:
                self._refuse(error.code, error.message)

    def on_binary(self, data: bytes) -> None:
        self._connection.close(CloseCode.UNSUPPORTED_DATA, "a console speaks text")

    def on_pong(self, payload: bytes) -> None:
        """Any inbound byte is life; the connection has noted it already."""

    def on_closed(self, code: int, reason: str) -> None:
        self._stop_timer()
        self._console.left(self)

    # ------------------------------------------------------------------------------------------- who it is

    def _hello(self, message: Mapping[str, Any]) -> None:
        token = message.get("token")
        if message.get("type") != "hello" or not isinstance(token, str | None):
            raise ProtocolError(
                ErrorCode.MALFORMED_MESSAGE, "the first message must be a hello with the admin token"
            )
        address = self._connection.remote
        try:
            admit_admin(
                self._console.services, token or None, address=address, host=self._host, origin=self._origin
            )
        except (Refusal, AuthError) as error:
            self._refuse(error.code or ErrorCode.INVALID_TOKEN, error.message)
            return
        if not self._console.joined(self):
            self._refuse(ErrorCode.OVERLOADED, "too many open consoles")
            return
        self._stop_timer()
        self._is_admitted = True
        self._connection.authenticated()
        self._send({"type": "welcome", **self._console.about()})

    def _late(self) -> None:
        self._timer = None
        self._refuse(ErrorCode.TIMEOUT, f"no hello within {self._hello_timeout:g} seconds")

    def _refuse(self, code: ErrorCode, message: str) -> None:
        """Say why and close: 1013 if it may be tried again, else 1008."""
        again = code in (ErrorCode.RATE_LIMITED, ErrorCode.OVERLOADED)
        self._console.services.metrics.counter("refused_total").labels(kind="console", code=code.value).inc()
        self._send({"type": "error", "code": code, "message": message})
        self._connection.close(CloseCode.TRY_AGAIN_LATER if again else CloseCode.POLICY, message)

    # ------------------------------------------------------------------------------------------- what it sees

    def _asks(self, message: Mapping[str, Any]) -> None:
        look = message.get("look")
        if not isinstance(look, int):
            raise ProtocolError(ErrorCode.MALFORMED_MESSAGE, "look must be the number of the question")
        if look == self._look and isinstance(self._view, Rows) and message.get("view") == "sessions":
            self._view.move(message)
        else:
            console = self._console
            everywhere = console.everywhere
            self._view = make_view(
                message,
                console.services.hub,
                console.feed if everywhere is None else everywhere,
                console.samples,
                everywhere,
            )
            self._look = look
        if self._timer is None:
            wait = max(0.0, self._answered_at + LOOK_PAUSE - self._loop.time())
            self._timer = self._loop.call_later(wait, self._answer)

    def _answer(self) -> None:
        self._timer = None
        self._answered_at = self._loop.time()
        if self._console.is_fresh:  # else the first look at all sessions is under way and ends with `tell`
            self.tell(self._answered_at)

    def tell(self, now: float) -> None:
        """Send what has changed, unless the reader still has something to read; `now` is loop time."""
        connection = self._connection
        if now - connection.last_inbound_at >= DEAD_AFTER:
            connection.close(CloseCode.TRY_AGAIN_LATER, "no sign of life")
            return
        if now - self._asked_at >= KEEP_ALIVE:
            self._asked_at = now
            connection.ping()
        if connection.buffered_bytes:
            return
        summary = self._console.summary()
        if summary != self._summary:
            self._summary = summary
            self._send({"type": "summary", **summary})
        for piece in self._view.pieces():
            self._send({**piece, "look": self._look})
        if now - self._spoke_at >= KEEP_ALIVE:
            self._send({"type": "quiet"})

    def fail(self) -> None:
        """Our own bug: the page says that it is not live, and comes again."""
        self._connection.close(CloseCode.INTERNAL, "Internal server error")

    def _send(self, message: Mapping[str, Any]) -> None:
        self._spoke_at = self._loop.time()
        # Lossy, because a slow console is no reason to end anything; nothing is lost, as `tell` waits for an empty queue.
        self._connection.send(Frame.text(orjson.dumps(message, default=plain)), Delivery.LOSSY)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
