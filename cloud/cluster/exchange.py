"""Delivery between the parts of one node: what every engine does for listeners that need no engine.

Rules: one queue and one turn of the loop later, in order, so that whoever sends is not entered again by what it causes. A
handler's failure costs its message. Nothing here knows of other nodes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from cloud.cluster.fabric import FabricStats, Handler, NoOne, Reply, Unlisten, check_size

log = logging.getLogger(__name__)

#: Told when a message that was accepted finds no listener any more.
Lost = Callable[[], None]


class Exchange:
    """Delivers between the parts of one node, in order, one loop turn later.

    The queue needs no bound of its own: each turn empties what the turn before has put in.
    """

    def __init__(self, stats: FabricStats) -> None:
        self._stats = stats
        self._listeners: dict[str, list[Handler]] = {}
        self._queue: deque[tuple[str, bytes, Reply | None, bool, Lost | None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._scheduled = False

    def add(self, addr: str, fn: Handler) -> Unlisten:
        """Listen; the newest listener of an address is the one that plain messages reach."""

        def handler(data: bytes, reply: Reply | None) -> None:  # its own object: `fn` may listen twice
            fn(data, reply)

        self._listeners.setdefault(addr, []).append(handler)

        def unlisten() -> None:
            handlers = self._listeners.get(addr, [])
            if handler in handlers:
                handlers.remove(handler)
                if not handlers:
                    del self._listeners[addr]

        return unlisten

    def has(self, addr: str) -> bool:
        """True if a plain message would find somebody."""
        return addr in self._listeners

    def post(
        self,
        addr: str,
        data: bytes,
        *,
        reply: Reply | None = None,
        fanout: bool = False,
        lost: Lost | None = None,
    ) -> None:
        """Deliver in the next turn of the loop."""
        self._queue.append((addr, data, reply, fanout, lost))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._deliver_queued)

    def _deliver_queued(self) -> None:
        self._scheduled = False
        for _ in range(len(self._queue)):  # what handlers post meanwhile waits a turn, so sockets get theirs
            addr, data, reply, fanout, lost = self._queue.popleft()
            if not self.deliver(addr, data, reply, fanout) and lost is not None:
                lost()
        if self._queue and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._deliver_queued)

    def deliver(self, addr: str, data: bytes, reply: Reply | None, fanout: bool) -> bool:
        """Call the listeners now; False if there are none."""
        handlers = self._listeners.get(addr)
        if not handlers:
            self._stats.dropped += 1
            return False
        for handler in tuple(handlers) if fanout else (handlers[-1],):
            if handler not in handlers:
                continue  # one of those before it ended this one
            try:
                handler(data, reply)
            except Exception:  # a bug above us costs one message, not the bus
                self._stats.handler_errors += 1
                log.exception("a listener of %s failed", addr.partition(".")[0])
        return True

    def clear(self) -> None:
        """Forget everybody; messages under way are lost."""
        self._listeners.clear()
        self._queue.clear()


def replier(answer: asyncio.Future[bytes]) -> Reply:
    """A `Reply` that resolves `answer` once."""

    def reply(data: bytes) -> None:
        check_size(data)
        if not answer.done():
            answer.set_result(data)

    return reply


def nobody(answer: asyncio.Future[bytes], addr: str) -> Lost:
    """Fails `answer` when the listener left between the question and its delivery."""

    def lost() -> None:
        if not answer.done():
            answer.set_exception(NoOne(addr))

    return lost
