"""One WebSocket of a glasses client: authenticated at its upgrade, from then on a voice of its user's session.

Rules: no decisions. What comes in is handed to the hub with this connection's identity; a closed or replaced socket is
nobody. Sources: wire spec 1.3, 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloud.auth import Identity
from cloud.connection import Connection
from wire.liveness import CLOUD_GLASSES

if TYPE_CHECKING:
    from cloud.hub import Hub, SessionEntry


class GlassesSocket:
    """Implements `cloud.connection.ConnectionHandler`."""

    __slots__ = ("_connection", "_entry", "_hub", "_id", "identity")

    def __init__(self, hub: Hub, identity: Identity) -> None:
        self._hub = hub
        self.identity = identity
        self._connection: Connection | None = None
        self._id = 0
        self._entry: SessionEntry | None = None

    def on_open(self, connection: Connection) -> None:
        self._connection = connection
        self._id = connection.id
        self._hub.watch(connection, CLOUD_GLASSES, is_app=False)
        self._entry = self._hub.glasses_opened(connection, self.identity)

    def on_text(self, data: bytes) -> None:
        entry = self._entry
        if entry is not None:
            if data.startswith(b'{"type":"ping"'):
                self._hub.peer_asked(self._id)
            self._hub.glasses_text(entry, self._id, data)

    def on_binary(self, data: bytes) -> None:
        if self._entry is not None:
            self._hub.glasses_audio(self._entry, self._id, data)

    def on_pong(self, payload: bytes) -> None:
        """Any inbound byte is life; the connection has noted it already."""

    def on_closed(self, code: int, reason: str) -> None:
        if self._connection is not None:
            self._hub.glasses_closed(self._entry, self._connection, code)
