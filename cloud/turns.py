"""Work that may wait for another turn of the event loop, so that thousands of it do not hold up everybody else.

Rules: in the order in which it was asked for; at once as long as this turn has time left, else in slices, one per turn.
What waits is bounded by what causes it: a handshake, a lost connection, a session's timer or its end each wait at most
once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Final

log = logging.getLogger(__name__)

#: Seconds of such work per turn. A handshake takes 0.5 ms, so that a storm of them still goes at full speed, while a ping of
#: somebody else waits 5 ms and not for the whole storm.
SLICE: Final = 0.005


class Turns:
    """One per event loop."""

    __slots__ = ("_busy", "_called", "_left", "_loop", "_waiting", "delayed")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Callable[[], None]] = deque()
        self._called = False  # the next turn will call us
        self._busy = False  # what a piece of work asks for waits until that piece is done
        self._left = SLICE
        self.delayed = 0  # pieces of work that had to wait, since the start

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def do(self, work: Callable[[], None]) -> bool:
        """Do this now, or when its turn comes; True if it is done."""
        if not self._called:
            self._called = True
            self._loop.call_soon(self._turn)
        if self._busy or self._waiting or self._left <= 0.0:
            self._waiting.append(work)
            self.delayed += 1
            return False
        start = perf_counter()
        self._busy = True
        try:
            work()
        finally:
            self._busy = False
            self._left -= perf_counter() - start
        return True

    async def each(self, works: Iterable[Callable[[], None]]) -> None:
        """All of these, in order; returns when the last is done."""
        for work in works:
            self.do(work)
        done = asyncio.Event()
        self.do(done.set)
        await done.wait()

    def _turn(self) -> None:
        """A new turn: time for those who wait. A bug in one piece of work does not keep the others waiting."""
        waiting = self._waiting
        start = perf_counter()
        self._called, self._left, self._busy = False, SLICE, True
        while waiting and self._left > 0.0:
            try:
                waiting.popleft()()
            except Exception:
                log.exception("work that had waited for its turn failed")
            self._left = SLICE - (perf_counter() - start)
        self._busy = False
        if waiting and not self._called:
            self._called = True
            self._loop.call_soon(self._turn)
