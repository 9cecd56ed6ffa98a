"""Connections between simulated programs: ordered, delayed, held by black holes, cut at any moment.

Rules: a connection has two ends, 0 (the one that dialled) and 1. In one direction nothing overtakes. A held direction
loses nothing, as TCP: it delivers when the path heals. A cut loses whatever is on its way. An end is told of its
connection's end exactly once, unless its own process died.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

from tests.support.pump import Pump

_Item: TypeAlias = tuple[float, Callable[[], None]]


class End(Protocol):
    """What a program does with its end of a connection."""

    def received(self, connection: Connection, data: bytes, binary: bool) -> None: ...

    def ponged(self, connection: Connection, payload: bytes) -> None: ...

    def closed(self, connection: Connection, code: int, reason: str) -> None: ...


class Connection:
    """One WebSocket. `key` is whatever each end calls it."""

    def __init__(self, pump: Pump, rng: random.Random, ends: tuple[End, End], delay: float) -> None:
        self._pump = pump
        self._rng = rng
        self.ends = ends
        self.keys: list[int] = [0, 0]
        self.delay = delay
        self.open = [True, True]  # as each end sees it
        self.held = [False, False]  # towards end 0, towards end 1
        self.swallow_control = False
        self._due = [0.0, 0.0]
        #: What is on its way to each end, in order, with the time at which it arrives at the earliest.
        self._queue: tuple[deque[_Item], deque[_Item]] = (deque(), deque())
        self.delivered = 0

    # -- what a program does

    def send(self, side: int, data: bytes, binary: bool = False) -> None:
        """End `side` writes a frame."""
        if self.open[side]:
            other = 1 - side
            self._travel(other, lambda: self._arrive(other, data, binary))

    def ping(self, side: int, payload: bytes) -> None:
        """End `side` sends a protocol ping; the other end's WebSocket library answers it."""
        if not self.open[side] or self.swallow_control:
            return
        other = 1 - side

        def pinged() -> None:
            if self.open[other] and not self.swallow_control:
                self._travel(side, lambda: self._pong(side, payload))

        self._travel(other, pinged)

    def close(self, side: int, code: int, reason: str = "") -> None:
        """End `side` closes; what it wrote before still arrives. It is told at once, the other after the last frame."""
        if not self.open[side]:
            return
        other = 1 - side
        self._travel(other, lambda: self._end(other, code, reason))
        self._end(side, code, reason)

    def kill(self, side: int) -> None:
        """The process at `side` is gone: it is told nothing; the other end's system reports it if the path works."""
        if self.open[side]:
            self.open[side] = False
            self._travel(1 - side, lambda: self._end(1 - side, 1006, ""))

    # -- what the network does

    def reset(self) -> None:
        """Both ends learn of the loss at once; what was on its way is lost."""
        for queue in self._queue:
            queue.clear()
        for side in (0, 1):
            self._end(side, 1006, "")

    def hold(self, towards: int) -> None:
        """Frames towards this end stop arriving."""
        self.held[towards] = True

    def heal(self) -> None:
        """The path works again: retransmissions bring what was held, in order."""
        for towards in (0, 1):
            if self.held[towards]:
                self.held[towards] = False
                self._pump.after(0.001, lambda towards=towards: self._deliver(towards))  # type: ignore[misc]

    @property
    def alive(self) -> bool:
        return self.open[0] or self.open[1]

    # -- inside

    def _travel(self, towards: int, deliver: Callable[[], None]) -> None:
        jitter = self._rng.random()
        self._due[towards] = max(self._due[towards], self._pump.now + self.delay * (0.5 + jitter))
        self._queue[towards].append((self._due[towards], deliver))
        self._pump.at(self._due[towards], lambda: self._deliver(towards))

    def _deliver(self, towards: int) -> None:
        queue = self._queue[towards]
        while queue and queue[0][0] <= self._pump.now and not self.held[towards]:
            queue.popleft()[1]()

    def _arrive(self, side: int, data: bytes, binary: bool) -> None:
        if self.open[side]:
            self.delivered += 1
            self.ends[side].received(self, data, binary)

    def _pong(self, side: int, payload: bytes) -> None:
        if self.open[side]:
            self.ends[side].ponged(self, payload)

    def _end(self, side: int, code: int, reason: str) -> None:
        if self.open[side]:
            self.open[side] = False
            self.ends[side].closed(self, code, reason)
