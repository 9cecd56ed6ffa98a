"""The open sockets of this node: which there are, whether their peers live, and what went over them.

Rules: one owner for liveness; any inbound byte is life. A sweep looks at a twentieth of the sockets. Totals are counted by
the connections themselves and carried over here. Sources: failure catalogue LIV-01 to LIV-08.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, assert_never

from cloud.connection import Connection, Frame
from cloud.metrics import Metrics
from wire.errors import CloseCode
from wire.liveness import Ask, Dead, Liveness, LivenessPolicy, Speak
from wire.messages.base import Delivery

log = logging.getLogger(__name__)

#: Each socket is looked at this often, seconds; the shortest interval that it serves is 10 s.
SWEEP: Final = 1.0
#: That is spread over so many turns of the loop: 6,000 sockets at once would hold up everybody for 30 ms.
SWEEP_PARTS: Final = 20

#: Keeps a proxy from cutting the silent direction towards an app: an event that no SDK has a handler for.
_APP_NOISE: Final = Frame.text(
    b'{"type":"data_stream","sessionId":"","streamType":"glassbridge_keepalive","data":{}}'
)
_GLASSES_NOISE: Final = Frame.text(b'{"type":"pong"}')


class Sockets:
    """`clock`: monotonic seconds. `open` is read on the event path."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self.open: dict[int, Connection] = {}
        self.frames = 0  # in and out, without what was shed
        #: connection -> when the oldest ping left whose pong is not here
        self.pinged: dict[int, float] = {}
        self._alive: dict[int, tuple[Liveness, bool]] = {}
        self._counted: dict[int, tuple[int, int]] = {}  # connection -> (sent, received) as counted last
        self._sent = self._received = 0
        self._messages_in = metrics.counter("messages_total").labels(direction="in")
        self._messages_out = metrics.counter("messages_total").labels(direction="out")

    def watch(self, connection: Connection, policy: LivenessPolicy, *, is_app: bool) -> None:
        """A socket is open: from now on its liveness is ours."""
        self.open[connection.id] = connection
        self._alive[connection.id] = (Liveness(connection.id, policy, self._clock()), is_app)
        self._metrics.counter("connects_total").labels(kind="app" if is_app else "glasses").inc()

    def forget(self, connection: Connection, kind: str, code: int) -> None:
        """A socket is closed."""
        self.open.pop(connection.id, None)
        self.pinged.pop(connection.id, None)
        self._alive.pop(connection.id, None)
        self._count(connection)
        del self._counted[connection.id]
        label = str(code) if 1000 <= code <= 1015 or code == CloseCode.REPLACED else "other"
        self._metrics.counter("disconnects_total").labels(kind=kind, code=label).inc()

    def peer_asked(self, connection_id: int) -> None:
        """The peer sent a ping of its own."""
        alive = self._alive.get(connection_id)
        if alive is not None:
            alive[0].peer_asked(self._clock())

    def answered(self, connection_id: int) -> float | None:
        """A pong is here: seconds since the oldest ping that it may answer, if one was out."""
        asked = self.pinged.pop(connection_id, None)
        return None if asked is None else self._clock() - asked

    def sweep(self, number: int) -> None:
        """Look at the sockets whose turn it is; `number` grows by one each time."""
        now = self._clock()
        part = number % SWEEP_PARTS
        for connection_id in [i for i in self._alive if i % SWEEP_PARTS == part]:
            alive, is_app = self._alive[connection_id]
            connection = self.open[connection_id]
            if connection.last_inbound_at > alive.heard_at:
                alive.received(connection.last_inbound_at)
            if self._count(connection):
                alive.sent(now)
            for effect in alive.handle_deadline(now):
                match effect:
                    case Ask():
                        connection.ping()
                        if is_app:
                            self.pinged.setdefault(connection_id, now)
                    case Speak():
                        connection.send(_APP_NOISE if is_app else _GLASSES_NOISE, Delivery.LOSSY)
                        self._count(connection)
                    case Dead(_, silent):
                        log.info("connection %d is dead: silent for %.0f s", connection_id, silent)
                        connection.close(CloseCode.GOING_AWAY, "Ping timeout - no pong received")
                        connection.abort()
                    case _:
                        assert_never(effect)

    def _count(self, connection: Connection) -> bool:
        """Carry a connection's own totals over; True if something was sent since the last time."""
        sent, received = self._counted.get(connection.id, (0, 0))
        self._counted[connection.id] = (connection.sent, connection.received)
        self.frames += connection.sent - sent + connection.received - received
        self._sent += connection.sent - sent
        self._received += connection.received - received
        return connection.sent != sent

    def carry(self) -> None:
        """Bring the totals over to the metrics."""
        self._messages_out.inc(self._sent)
        self._messages_in.inc(self._received)
        self._sent = self._received = 0

    @property
    def backlog(self) -> int:
        """Bytes that wait for peers to read them."""
        return sum(connection.buffered_bytes for connection in self.open.values())
