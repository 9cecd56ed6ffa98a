"""The door of a process: feeds `cloud/core/admission.py` with what it measures, and does what that decides.

Rules: no decision of its own. Lateness comes from the loop watch, frames from the connections' totals, memory from the
kernel; all are cheap enough to read four times a second. A share of the sessions that is shed changes hands every few
seconds, so that nobody goes without sound for long.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final, assert_never

from cloud.config import AdmissionConfig
from cloud.core.admission import Admission, AdmissionLimits, AdmissionState, Moved, Shed
from cloud.metrics import Metrics

log = logging.getLogger(__name__)

#: Seconds after which other sessions are shed.
TURN: Final = 10.0
#: Memory changes slowly: every so many samples is often enough.
MEMORY_EVERY: Final = 20


class Gate:
    """One per process; `sampled` is called by the loop watch."""

    def __init__(self, config: AdmissionConfig, metrics: Metrics, frames: Callable[[], int]) -> None:
        """`frames`: how many frames were handled so far, in and out."""
        self._machine = Admission(
            AdmissionLimits(
                lag=config.lag,
                frames=config.frames_per_second,
                memory=config.memory_share,
                rate=config.sessions_per_second,
                burst=2 * config.sessions_per_second,
            )
        )
        self._frames = frames
        self._counted = frames()
        self._sampled_at: float | None = None
        self._samples = 0
        self._memory = memory_share()
        self._random = random.Random()
        self._turn = 0.0
        self._state = metrics.gauge("admission")
        self._dropped = metrics.counter("dropped_total").labels(reason="overload")
        #: Share of the sessions that are shed now; read on the hot path.
        self.share = 0.0
        self._publish()

    @property
    def state(self) -> AdmissionState:
        return self._machine.state

    @property
    def trouble(self) -> str | None:
        """Why newcomers are refused, for the readiness check."""
        return self._machine.why if self.state is AdmissionState.REFUSING else None

    def sampled(self, lag: float, now: float) -> None:
        """The loop was `lag` seconds late."""
        if self._samples % MEMORY_EVERY == 0:
            self._memory = memory_share()
        self._samples += 1
        total = self._frames()
        passed = 0.0 if self._sampled_at is None else now - self._sampled_at
        rate = (total - self._counted) / passed if passed > 0 else 0.0
        self._counted, self._sampled_at = total, now
        self._turn = now // TURN * 0.618034  # far from where it was, and never twice the same
        for effect in self._machine.sampled(lag, rate, self._memory, now):
            match effect:
                case Moved(before, after, why):
                    worse = before is AdmissionState.NORMAL or after is AdmissionState.REFUSING
                    log.log(
                        logging.WARNING if worse else logging.INFO,
                        "admission: %s, it was %s (%s)",
                        after.value,
                        before.value,
                        why,
                    )
                    self._publish()
                case Shed(share):
                    self.share = share
                case _:
                    assert_never(effect)

    def _publish(self) -> None:
        for state in AdmissionState:
            self._state.labels(state=state.value).set(state is self.state)

    def sheds(self, slot: float) -> bool:
        """Whether the lossy frames of a session with this place (0 to 1) are dropped now; counts one that is."""
        if self.share > 0.0 and (slot + self._turn) % 1.0 < self.share:
            self._dropped.inc()
            return True
        return False

    def ask(self, now: float, *, returning: bool = False) -> float:
        """Somebody new wants a session, or one whose node is gone: 0.0 = come in, else the seconds to wait."""
        return self._machine.ask(self._random.random(), now, returning=returning)


def memory_share() -> float:
    """Memory of this process as a share of what it may have: its control group's limit, else the machine's.

    0.0 where the kernel does not say (not Linux).
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        used = pages * 4096
        return used / _memory_limit()
    except (OSError, ValueError, IndexError, ZeroDivisionError):
        return 0.0


def _memory_limit() -> int:
    limit = None
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        limit = None if text == "max" else int(text)
    except (OSError, ValueError):
        pass
    if limit is None:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                limit = int(line.split()[1]) * 1024
    return limit or 0
