"""One WebSocket of a glasses client: authenticated at its upgrade, from then on a voice of its user's session.

Rules: no decisions. What comes in is handed to the hub with this connection's identity; a closed or replaced socket is
nobody. Sources: wire spec 1.3, 2.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from cloud.auth import Identity
from cloud.connection import Connection
from wire.errors import CloseCode
from wire.liveness import CLOUD_GLASSES

if TYPE_CHECKING:
    from cloud.hub import Hub
    from cloud.session_entry import SessionEntry

#: While a node makes itself the owner of the session, 3-700 ms: two seconds of sound at 100 frames a second and the
#: frames of a link's window. Sound gives way first, the oldest of it.
HELD_FRAMES_MAX: Final = 320
HELD_BYTES_MAX: Final = 1 << 20


class GlassesSocket:
    """Implements `cloud.connection.ConnectionHandler`."""

    __slots__ = ("_connection", "_entry", "_held", "_held_bytes", "_hub", "_id", "identity")

    def __init__(self, hub: Hub, identity: Identity) -> None:
        self._hub = hub
        self.identity = identity
        self._connection: Connection | None = None
        self._id = 0
        self._entry: SessionEntry | None = None
        self._held: deque[tuple[bool, bytes]] | None = None  # what came before the session did
        self._held_bytes = 0

    def on_open(self, connection: Connection) -> None:
        self._connection = connection
        self._id = connection.id
        self._hub.sockets.watch(connection, CLOUD_GLASSES, is_app=False)
        self._held = deque()
        entry = self._hub.glasses_opened(connection, self.identity, self)
        if entry is not None:
            self._entry, self._held = entry, None

    def adopt(self, entry: SessionEntry) -> None:
        """The session that this socket has waited for: it hears all that was said meanwhile, in order."""
        held, self._held = self._held or deque(), None
        self._entry = entry
        for is_text, data in held:
            if is_text:
                self.on_text(data)
            else:
                self.on_binary(data)

    def _hold(self, is_text: bool, data: bytes) -> None:
        held, connection = self._held, self._connection
        if held is None or connection is None:
            return
        held.append((is_text, data))
        self._held_bytes += len(data)
        while len(held) > HELD_FRAMES_MAX or self._held_bytes > HELD_BYTES_MAX:
            oldest = next((i for i, (text, _) in enumerate(held) if not text), None)
            if oldest is None:
                connection.close(CloseCode.TRY_AGAIN_LATER, "too much before the session is ready")
                self._held = None
                return
            self._held_bytes -= len(held[oldest][1])
            del held[oldest]

    def on_text(self, data: bytes) -> None:
        entry = self._entry
        if entry is not None:
            if data.startswith(b'{"type":"ping"'):
                self._hub.sockets.peer_asked(self._id)
            self._hub.glasses_text(entry, self._id, data)
        else:
            self._hold(True, data)

    def on_binary(self, data: bytes) -> None:
        if self._entry is not None:
            self._hub.glasses_audio(self._entry, self._id, data)
        else:
            self._hold(False, data)

    def on_pong(self, payload: bytes) -> None:
        """Any inbound byte is life; the connection has noted it already."""

    def on_closed(self, code: int, reason: str) -> None:
        if self._connection is not None:
            self._held = None
            self._hub.glasses_closed(self._entry, self.identity, self._connection, code)
