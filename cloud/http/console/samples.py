"""Samples of the process's own metrics for the console's plots: the last hour, one every few seconds.

Rules: reads what is measured anyway (cloud/metrics.py) and measures nothing itself. A sample has what happened since the one
before, as a count or a mean; never a rate, which makes five hundred a minute of one event in a tenth of a second. Bounded by `SAMPLES_MAX`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from cloud.http.services import Services
from cloud.metrics import PREFIX

#: One hour at one sample every 5 s (the hub publishes its gauges that often).
SAMPLES_MAX: Final = 720

#: Counter families, each as the sum over its labels.
_COUNTERS: Final = (
    "reconnects_total",
    "connects_total",
    "disconnects_total",
    "events_delivered_total",
    "webhook_failures_total",
)


@dataclass(frozen=True, slots=True)
class _Reading:
    at: float
    counts: dict[str, float]
    webhook_sum: float
    webhook_count: float


class Samples:
    """`take()` after each publication of the gauges; `since(number)` gives the samples after a number."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._before: _Reading | None = None
        self._kept: deque[dict[str, Any]] = deque(maxlen=SAMPLES_MAX)
        self._number = 0

    def take(self, at: float) -> None:
        """Add a sample; `at` is wall clock, seconds. The first reading only gives the next one its base."""
        reading, states = self._read(at)
        before, self._before = self._before, reading
        if before is None or at <= before.at:
            return
        webhooks = reading.webhook_count - before.webhook_count
        self._number += 1
        self._kept.append(
            {
                "n": self._number,
                "at": round(at, 1),
                "lag_ms": round(self._services.loop_watch.lag * 1000, 1),
                "backlog_bytes": self._services.hub.backlog,
                "sessions": states.get("connected", 0.0),
                "detached": states.get("detached", 0.0),
                "webhook_ms": round((reading.webhook_sum - before.webhook_sum) / webhooks * 1000, 1)
                if webhooks
                else None,
                **{
                    name.removesuffix("_total"): round(reading.counts[name] - before.counts[name])
                    for name in _COUNTERS
                },
            }
        )

    def since(self, number: int) -> list[dict[str, Any]]:
        """Samples after this number, oldest first. Counters are counts since the sample before, the other members say their unit."""
        return [sample for sample in self._kept if sample["n"] > number]

    def _read(self, at: float) -> tuple[_Reading, dict[str, float]]:
        counts = dict.fromkeys(_COUNTERS, 0.0)
        states: dict[str, float] = {}
        webhook_sum = webhook_count = 0.0
        metrics = self._services.metrics
        for name in _COUNTERS:
            for family in metrics.counter(name).collect():
                counts[name] = sum(one.value for one in family.samples if one.name.endswith("_total"))
        for family in metrics.histogram("webhook_seconds").collect():
            for one in family.samples:
                if one.name == PREFIX + "webhook_seconds_sum":
                    webhook_sum += one.value
                elif one.name == PREFIX + "webhook_seconds_count":
                    webhook_count += one.value
        for family in metrics.gauge("sessions").collect():
            states = {one.labels["state"]: one.value for one in family.samples}
        return _Reading(at, counts, webhook_sum, webhook_count), states
