"""What is measured: one table, base units (seconds, bytes), no user ids and no package names in labels.

Rules: a metric is a line in `TABLE` and an attribute of `Metrics`; labels are closed sets, so the number of series is
bounded; the hot path touches counters whose children were looked up beforehand.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

#: Hops of an exchange, from under a millisecond (memory) to the 10 s budget of an app start.
_LATENCY: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: The loop is healthy below 50 ms and ill above 500 ms (PRO-02).
_LAG: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table: kind is counter, gauge or histogram; `values` documents the labels' closed sets."""

    name: str
    kind: str
    about: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = _LATENCY


TABLE: Final = (
    # connections and sessions
    Line("sessions", "gauge", "Sessions by state.", ("state",)),
    Line("app_sessions", "gauge", "App sessions by state.", ("state",)),
    Line("connects_total", "counter", "WebSockets accepted.", ("kind",)),  # glasses, app
    Line("disconnects_total", "counter", "WebSockets ended.", ("kind", "code")),  # close code, 1006 = none
    Line("reconnects_total", "counter", "Connections that continued a session.", ("kind",)),
    Line("refused_total", "counter", "Upgrades and inits refused.", ("kind", "code")),
    Line("grace_total", "counter", "Ends of a grace period.", ("kind", "outcome")),  # returned, expired
    Line("link_resumes_total", "counter", "Resumed links of our edge.", ("recovered",)),
    Line("app_restarts_total", "counter", "Supervised restarts of apps.", ("outcome",)),
    # messages
    Line("messages_total", "counter", "Messages handled, by direction.", ("direction",)),
    Line("unknown_messages_total", "counter", "Messages of unknown type, ignored.", ("direction",)),
    Line("malformed_messages_total", "counter", "Messages answered with an error.", ("direction",)),
    Line("events_delivered_total", "counter", "Events put on app sockets."),
    # too_old, log_full: reliable messages of our edge's link; app_away: sound and interim texts for an app in grace;
    # notification_rate; audio_stream; overload
    Line("dropped_total", "counter", "Messages dropped by their delivery class.", ("reason",)),
    # webhooks
    Line("webhook_seconds", "histogram", "Duration of webhooks.", ("kind",)),
    Line("webhook_failures_total", "counter", "Webhooks without a good answer.", ("error",)),
    Line("app_start_seconds", "histogram", "Request to connected.", ("outcome",)),
    # display
    Line(
        "display_updates_total", "counter", "Display requests by fate.", ("outcome",)
    ),  # shown, replaced, ...
    Line("display_queue", "gauge", "Display requests that wait for the throttle."),
    Line(
        "hop_seconds",
        "histogram",
        "Time per hop of an exchange: mic_to_edge, edge_to_cloud, provider, app (with both ways), app_round_trip, "
        "cloud_display (its turn), cloud_to_edge, edge, ble.",
        ("hop",),
    ),
    # audio and speech
    Line("audio_frames_total", "counter", "Audio frames received."),
    Line("audio_gaps_total", "counter", "Times that a stream of audio ran dry for over 100 ms."),
    Line("audio_lost_seconds_total", "counter", "Audio missing in those gaps."),
    Line("microphones_on", "gauge", "Sessions whose microphone is on."),
    Line("speech_seconds", "histogram", "End of speech to final transcript.", ("provider",)),
    Line("speech_failures_total", "counter", "Provider failures.", ("provider",)),
    # process
    Line("loop_lag_seconds", "histogram", "How late the event loop ran its timer.", (), _LAG),
    Line("admission", "gauge", "1 for the state of admission, else 0.", ("state",)),
    Line("store_failures_total", "counter", "Storage operations that failed.", ("operation",)),
    Line("errors_total", "counter", "Bugs contained by a supervision boundary.", ("where",)),
    Line("http_requests_total", "counter", "HTTP requests by route table entry.", ("route", "status")),
    Line("rate_limited_total", "counter", "Requests and messages over a rate limit.", ("kind",)),
)

#: Numbers that somebody counts already (a connection's totals), read when scraped; some only where there is a cluster.
SCRAPED: Final = (
    Line("slow_consumers_total", "counter", "Connections closed because their peer did not read."),
    Line("frames_dropped_total", "counter", "Lossy frames dropped."),
    Line("frames_replaced_total", "counter", "State frames replaced by newer."),
    Line("sessions_alive", "gauge", "Sessions in memory."),
    Line("store_away", "gauge", "1 while a shared database cannot be reached."),
    # nodes that share their users
    Line("cluster_remote_deliveries_total", "counter", "Frames handed to app sockets at other nodes."),
    Line("cluster_frames_lost_total", "counter", "Frames between nodes that could not be had again."),
    Line("cluster_takeovers_total", "counter", "Sessions that this node has taken over or begun."),
    Line("fabric_sent_total", "counter", "Messages to nodes, this one included."),
    Line("fabric_sent_remote_total", "counter", "Messages that left this node."),
    Line("fabric_received_total", "counter", "Messages that came from other nodes."),
    Line("fabric_dropped_total", "counter", "Messages to nodes that were lost here."),
    Line("fabric_gaps_total", "counter", "Moments after which messages may be missing."),
    Line("fabric_puts_total", "counter", "Records of sessions written."),
    # workers of one machine: each page is labelled `worker`
    Line("handovers_given_total", "counter", "Connections that another worker took."),
    Line("handovers_taken_total", "counter", "Connections taken from other workers."),
    Line("handovers_returned_total", "counter", "Offered connections served here after all."),
    Line("worker_starts", "gauge", "How often this worker has been started."),
)
#: Made where the pages of the workers become one; its label is the worker's number.
WORKER_UP: Final = Line("worker_up", "gauge", "Whether that worker answered this scrape.", ("worker",))

PREFIX: Final = "glassbridge_"


_SCRAPED: Final = {line.name: line for line in SCRAPED}


class Metrics:
    """All metrics of one process.

    Owners look theirs up once, when they are made: an unknown name is a KeyError then, not under load.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # CPU, memory and open files, by the names that every dashboard knows.
        ProcessCollector(registry=self.registry)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for line in TABLE:
            name = PREFIX + line.name
            if line.kind == "counter":
                self._counters[line.name] = Counter(name, line.about, line.labels, registry=self.registry)
            elif line.kind == "gauge":
                self._gauges[line.name] = Gauge(name, line.about, line.labels, registry=self.registry)
            else:
                self._histograms[line.name] = Histogram(
                    name, line.about, line.labels, buckets=line.buckets, registry=self.registry
                )

    def counter(self, name: str) -> Counter:
        return self._counters[name]

    def gauge(self, name: str) -> Gauge:
        return self._gauges[name]

    def histogram(self, name: str) -> Histogram:
        return self._histograms[name]

    def read_on_scrape(self, name: str, read: Callable[[], float]) -> None:
        """Publish a number of `SCRAPED`. Raises KeyError for any other."""
        line = _SCRAPED[name]
        self.registry.register(_Reader(PREFIX + name, line.about, read, line.kind == "counter"))

    def text(self) -> bytes:
        """The Prometheus text form."""
        return generate_latest(self.registry)


class _Reader(Collector):
    def __init__(self, name: str, about: str, read: Callable[[], float], counter: bool) -> None:
        self._name, self._about, self._read, self._counter = name, about, read, counter

    def collect(self) -> list[Metric]:
        kind = CounterMetricFamily if self._counter else GaugeMetricFamily
        return [kind(self._name, self._about, value=self._read())]

    def describe(self) -> list[Metric]:
        return []


class Tally:
    """One series of a histogram, for the event path: a plain list until `carry` brings it into the registry.

    `Histogram.observe` takes two locks and 0.5 µs, a quarter of what a display costs.
    """

    __slots__ = ("_bounds", "_counts", "_series", "_sum")

    def __init__(self, series: Histogram, bounds: tuple[float, ...] = _LATENCY) -> None:
        """`bounds`: the buckets of the histogram that `series` is of, without infinity."""
        self._series = series
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count this value, so many times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def carry(self) -> None:
        """Before a scrape: what was observed since the last time."""
        # The library has no public way to add many at once; a test compares this with `observe`.
        for bucket, count in zip(self._series._buckets, self._counts, strict=True):
            if count:
                bucket.inc(count)
        self._series._sum.inc(self._sum)
        self._counts = [0] * len(self._counts)
        self._sum = 0.0


class LoopWatch:
    """Measures how late the event loop is; one timer, no task. `lag` is the worst of the last few seconds."""

    INTERVAL: Final = 0.25
    WINDOW: Final = 20  # samples: 5 s, so that one readiness probe in that time sees a stall

    def __init__(self, metrics: Metrics) -> None:
        self._observe = metrics.histogram("loop_lag_seconds").observe
        #: Called with each sample: how late (seconds), and the loop's time.
        self.on_sample: Callable[[float, float], None] | None = None
        #: Loop time of the last sample, for a watcher in another thread: a float is written in one step.
        self.beat = 0.0
        self._recent: list[float] = []
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    @property
    def lag(self) -> float:
        """Seconds; the largest delay in the window."""
        return max(self._recent, default=0.0)

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.beat = loop.time()
        self._due = self.beat + self.INTERVAL
        self._timer = loop.call_at(self._due, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        self.beat = now
        lag = max(0.0, now - self._due)
        self.sample(lag)
        if self.on_sample is not None:
            self.on_sample(lag, now)
        self._due = now + self.INTERVAL
        self._timer = loop.call_at(self._due, self._tick, loop)

    def sample(self, lag: float) -> None:
        self._observe(lag)
        self._recent.append(lag)
        del self._recent[: -self.WINDOW]

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
