"""Virtual time: a heap of events that is emptied as fast as the machine can, in a repeatable order.

Rules: nothing here reads a clock or sleeps. Events at the same instant run in the order in which they were asked for,
so one seed gives one run. A machine that keeps asking for the same instant is a bug and ends the run.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

#: Events at one instant; the busiest real one (a replay to many apps) has a few hundred.
_SAME_INSTANT_MAX = 20_000


class Timer:
    """One event to come; `cancel` makes it a no-op."""

    __slots__ = ("at", "call")

    def __init__(self, at: float, call: Callable[[], object] | None) -> None:
        self.at = at
        self.call = call

    def cancel(self) -> None:
        self.call = None


class Pump:
    """Time and what happens in it. Seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.events = 0
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._instant = (now, 0)

    def at(self, when: float, call: Callable[[], object]) -> Timer:
        """Run `call` at `when`, or now if that has passed."""
        timer = Timer(max(when, self.now), call)
        heapq.heappush(self._heap, (timer.at, next(self._order), timer))
        return timer

    def after(self, delay: float, call: Callable[[], object]) -> Timer:
        return self.at(self.now + delay, call)

    def next_at(self) -> float | None:
        """When the next event is due."""
        while self._heap and self._heap[0][2].call is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def step(self) -> bool:
        """Run the next event. False when there is none."""
        if self.next_at() is None:
            return False
        at, _, timer = heapq.heappop(self._heap)
        self.now = at
        instant, count = self._instant
        self._instant = (at, count + 1 if at == instant else 0)
        if self._instant[1] > _SAME_INSTANT_MAX:
            raise AssertionError(
                f"time stands still at {at}: some machine asks for the same instant again and again"
            )
        self.events += 1
        call, timer.call = timer.call, None
        if call is not None:
            call()
        return True

    def run(self, until: float) -> None:
        """Run everything due up to `until` and set the clock there."""
        while (due := self.next_at()) is not None and due <= until:
            self.step()
        self.now = max(self.now, until)


class Alarm:
    """Keeps a machine's `deadline` scheduled; call `set` after every input."""

    def __init__(self, pump: Pump, deadline: Callable[[], float | None], ring: Callable[[], object]) -> None:
        self._pump = pump
        self._deadline = deadline
        self._ring = ring
        self._timer: Timer | None = None

    def set(self) -> None:
        due = self._deadline()
        if self._timer is not None and self._timer.call is not None:
            if due is not None and self._timer.at == max(due, self._pump.now):
                return
            self._timer.cancel()
        self._timer = None if due is None else self._pump.at(due, self._ring)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
