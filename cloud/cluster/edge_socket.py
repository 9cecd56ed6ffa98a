"""An app's socket at a node that does not own its session: the shell of `cloud.core.app_edge`.

Rules: no decision of its own. The socket stays with its `AppSocket`; this object stands where the session would.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, assert_never

from cloud.cluster.fabric import NoOne, Reply, Unavailable, Unlisten
from cloud.cluster.names import epoch_address, session_address, socket_address
from cloud.connection import Connection, Frame
from cloud.core import app_edge as edge
from cloud.core.app_edge import AppEdge, EdgeState
from cloud.core.pipe import Content, Piece
from wire.codec import load_object
from wire.errors import ErrorCode, ProtocolError
from wire.placement import session_key

if TYPE_CHECKING:
    from cloud.app_socket import AppSocket
    from cloud.cluster.cluster import Cluster


class EdgeSocket:
    """See the module. Made by `Cluster.adopt`."""

    def __init__(
        self,
        cluster: Cluster,
        socket: AppSocket,
        connection: Connection,
        user_id: str,
        package: str,
        *,
        acknowledged: bool = False,
        seen: Mapping[str, tuple[int, int]] | None = None,
        said: Iterable[bytes] = (),
    ) -> None:
        self.cluster = cluster
        self.user_id = user_id
        self.package = package
        self.socket_id = f"{cluster.node}-{connection.id}"
        self._socket = socket
        self._connection = connection
        self._sid = session_key(user_id)
        self._loop = asyncio.get_running_loop()
        self.machine = AppEdge(
            self.socket_id,
            package,
            new_attachment=lambda: secrets.randbits(62) + 1,
            random=random.random,
            acknowledged=acknowledged,
            seen=seen,
            said=said,
        )
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._unlisten: list[Unlisten] = []

    # ------------------------------------------------------------------------------------------------ inputs

    def start(self) -> None:
        """Look for the owner."""
        self.cluster.edges[self.socket_id] = self
        self.cluster.spawn(self._start())

    async def _start(self) -> None:
        for address, handler in (
            (socket_address(self.socket_id), self._from_owner),
            (epoch_address(self._sid), self._announced),
        ):
            self._unlisten.append(await self.cluster.fabric.listen(address, handler))
        if self.machine.state is EdgeState.CLOSED:
            self._hush()
            return
        self.feed(self.machine.opened)

    def from_app(self, content: Content, payload: bytes) -> None:
        """A frame of the app."""
        self.feed(self.machine.from_app, content, payload)

    def closed(self, code: int, reason: str) -> None:
        """The app's socket is gone."""
        if self.machine.state is not EdgeState.CLOSED:
            self.feed(self.machine.app_closed, code, reason)
        self._end()

    def leave(self) -> None:
        """This node drains: the app is asked to come back, and finds another."""
        self.feed(self.machine.leave)

    def stop(self) -> None:
        """The process ends."""
        self._end()

    def gap(self) -> None:
        """The bus may have lost something."""
        self.feed(self.machine.gap)

    def feed(self, method: Callable[..., list[edge.EdgeEffect]], *args: Any) -> None:
        """One input of the machine, and all its effects."""
        self._perform(method(*args, self._loop.time()))
        self._arm()

    # ------------------------------------------------------------------------------------------------ effects

    def _perform(self, effects: list[edge.EdgeEffect]) -> None:
        for effect in effects:
            match effect:
                case edge.ToApp(piece):
                    self._to_app(piece)
                case edge.SendOwner(data):
                    self.cluster.fabric.send(session_address(self._sid), data)
                case edge.AskOwner():
                    self.cluster.spawn(self._ask(effect))
                case edge.CloseApp(code, reason):
                    self._connection.close(code, reason)
                    self._end()
                case edge.PingApp(payload):
                    self._connection.ping(payload)
                case edge.GiveUp(code, message):
                    self._end()
                    known = ErrorCode(code) if code in _CODES else ErrorCode.SESSION_NOT_FOUND
                    self._socket.refuse(known, message or "Session not found")
                case edge.Gone(count):
                    self.cluster.counted_lost(count)
                case _:
                    assert_never(effect)

    def _to_app(self, piece: Piece) -> None:
        match piece.content:
            case Content.TEXT:
                self._connection.send(Frame.text(piece.payload), piece.delivery, piece.key)
            case Content.BINARY:
                self._connection.send(Frame.binary(piece.payload), piece.delivery)
            case Content.PING:
                self._connection.ping(piece.payload)
            case Content.PONG | Content.CLOSE | Content.LEFT:
                pass  # the machine handles a close itself; owners send neither of the others
            case _:
                assert_never(piece.content)

    async def _ask(self, ask: edge.AskOwner) -> None:
        try:
            answer = await self.cluster.fabric.ask(session_address(self._sid), ask.request, ask.timeout)
        except (NoOne, Unavailable, TimeoutError):
            self.feed(self.machine.unanswered, ask.attempt)
        else:
            self.feed(self.machine.answered, ask.attempt, answer)

    def _from_owner(self, data: bytes, reply: Reply | None) -> None:
        if reply is not None:
            reply(b'{"ok":true}')  # somebody asks whether we are there
            return
        try:
            self.feed(self.machine.from_owner, data)
        except ValueError:
            self.cluster.counted("malformed", "pipe")

    def _announced(self, data: bytes, reply: Reply | None) -> None:
        try:
            found = load_object(data)
            self.feed(self.machine.announced, int(found["epoch"]), str(found["node"]))
        except (ProtocolError, KeyError, TypeError, ValueError):
            self.cluster.counted("malformed", "announcement")

    # ------------------------------------------------------------------------------------------------ time, the end

    def _arm(self) -> None:
        due = self.machine.deadline
        if due is None:
            return
        if self._timer is not None:
            if self._timer_at <= due:
                return  # it fires early, which does nothing but set it anew: cheaper than cancelling per frame
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(due, self._tick), due

    def _tick(self) -> None:
        self._timer = None
        self.feed(self.machine.handle_deadline)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._hush()
        self.cluster.released(self)

    def _hush(self) -> None:
        for undo in self._unlisten:
            undo()
        self._unlisten.clear()


_CODES = frozenset(code.value for code in ErrorCode)
