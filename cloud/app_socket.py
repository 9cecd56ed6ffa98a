"""One WebSocket of an app server: a stranger until its key is proven, from then on one app of one user's session.

Rules: an unproven socket can do nothing and lives at most `init_timeout`; after that the connection says who speaks, never
a message. Sources: wire spec 1.4, 3.1, 3.2; failure catalogue CON-11, SEC-01, SEC-07, LIV-08, APP-18.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloud.app_users import timestamp
from cloud.connection import Connection, Frame
from cloud.core.pipe import Content
from wire.codec import decode, encode
from wire.errors import CloseCode, ErrorCode, ProtocolError
from wire.liveness import CLOUD_APP
from wire.messages import APP_TO_CLOUD, Delivery
from wire.messages.app_to_cloud import TpaConnectionInit
from wire.messages.cloud_to_app import TpaConnectionError

if TYPE_CHECKING:
    from cloud.cluster.edge_socket import EdgeSocket
    from cloud.hub import Hub
    from cloud.session_entry import SessionEntry


@dataclass(frozen=True, slots=True)
class Claim:
    """Who a socket says it is, before anything is proven. `session_id` or `user_id` names the user."""

    package: str
    api_key: str
    session_id: str | None = None
    user_id: str | None = None

    def __repr__(self) -> str:
        return f"Claim({self.package})"

    def user(self) -> str:
        """The user that is named. The claim's own package is the suffix of the session's id; nothing is split (CON-11).
        Raises ProtocolError."""
        if self.user_id:
            return self.user_id.lower()
        session_id, suffix = self.session_id or "", f"-{self.package}"
        if not session_id.endswith(suffix) or len(session_id) == len(suffix):
            raise ProtocolError(
                ErrorCode.SESSION_NOT_FOUND,
                "Session not found" if "-" in session_id else "Invalid session ID format",
            )
        return session_id[: -len(suffix)].lower()


class AppSocket:
    """Implements `cloud.connection.ConnectionHandler`. `claim`: made at the upgrade by header, instead of an init.

    A socket that does not say who it is within `init_timeout` seconds is closed (LIV-08). The SDK needs 15 ms.
    """

    __slots__ = (
        "_claim",
        "_connection",
        "_edge",
        "_entry",
        "_hub",
        "_id",
        "_init_timeout",
        "_timer",
        "package",
    )

    def __init__(self, hub: Hub, claim: Claim | None = None, *, init_timeout: float) -> None:
        self._hub = hub
        self._init_timeout = init_timeout
        self._claim = claim
        self._connection: Connection | None = None
        self._id = 0
        self._entry: SessionEntry | None = None
        self._edge: EdgeSocket | None = None  # stands for the session while another node serves it
        self._timer: asyncio.TimerHandle | None = None
        self.package = ""

    def on_open(self, connection: Connection) -> None:
        self._connection = connection
        self._id = connection.id
        self._hub.sockets.watch(connection, CLOUD_APP, is_app=True)
        if self._claim is not None:
            self._identify(self._claim)
        else:
            self._timer = asyncio.get_running_loop().call_later(self._init_timeout, self._late)

    def on_text(self, data: bytes) -> None:
        entry = self._entry
        if entry is not None:
            self._hub.app_text(entry, self.package, self._id, data)
            return
        if self._edge is not None:
            self._edge.from_app(Content.TEXT, data)
            return
        if self._connection is None:
            return
        try:
            incoming = decode(APP_TO_CLOUD, data)
        except ProtocolError as error:
            self.refuse(error.code, error.message)
            return
        message = incoming.message
        if not isinstance(message, TpaConnectionInit):
            self.refuse(ErrorCode.MALFORMED_MESSAGE, "the first message must be tpa_connection_init")
            return
        self._identify(Claim(message.package_name, message.api_key, message.session_id))

    def _identify(self, claim: Claim) -> None:
        assert self._connection is not None
        self._claim = None
        self.package = claim.package
        try:
            session = self._hub.app_opened(self, self._connection, claim)
        except ProtocolError as error:
            self.refuse(error.code, error.message)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._connection.authenticated()
        if isinstance(session, tuple):
            (self._edge,) = session
            self._edge.start()
            return
        # The session may answer at once; the socket already knows whose it is.
        self._entry = session
        sound = session.seat.unheard(claim.package) if session.seat is not None else []
        self._hub.feed(session, session.session.app_identified, claim.package, self._connection.id)
        for pcm in sound:
            self._connection.send(Frame.binary(pcm), Delivery.LOSSY)

    def move(self, edge: EdgeSocket) -> None:
        """Another node serves the session now; this socket stays."""
        self._entry, self._edge = None, edge
        edge.start()

    def refuse(self, code: ErrorCode, message: str) -> None:
        """Answer with an error and close. 1008: an SDK that was never accepted stays away."""
        if self._connection is None:
            return
        self._hub.refused(code)
        error = TpaConnectionError(code=code, message=message, timestamp=timestamp())
        self._connection.send(Frame.text(encode(error)), Delivery.RELIABLE)
        self._connection.close(CloseCode.POLICY, message)

    def _late(self) -> None:
        self._timer = None
        self.refuse(
            ErrorCode.MALFORMED_MESSAGE, f"no tpa_connection_init within {self._init_timeout:g} seconds"
        )

    def on_binary(self, data: bytes) -> None:
        if self._entry is not None:
            self._hub.app_binary(self._entry, self.package, data)
        elif self._edge is not None:
            self._edge.from_app(Content.BINARY, data)

    def on_pong(self, payload: bytes) -> None:
        if self._entry is not None and self._connection is not None:
            self._hub.app_pong(self._entry, self.package, self._connection.id, payload)
        elif self._edge is not None and payload:
            self._edge.from_app(Content.PONG, payload)

    def on_closed(self, code: int, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connection is not None:
            self._hub.app_closed(self._entry, self.package, self._connection, code)
        if self._edge is not None:
            self._edge.closed(code, reason)
