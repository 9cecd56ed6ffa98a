"""Benchmarks that are not a rate: memory, latency at a given pace, a storm of returning connections, a day.

Rules: as in `run.py`; each returns a JSON object. The product's own `/metrics` says how late its event loop was.
"""

from __future__ import annotations

import re
import statistics
import threading
import time
import urllib.request
from collections.abc import Sequence
from typing import Any, Final

from tests.bench.servers import BenchError, Process, Server, generate, pss_bytes, start

NAMES: Final = ("memory-connection", "memory-session", "latency", "storm", "day")


def run(name: str, *, quick: bool, peers: Sequence[str]) -> dict[str, Any]:
    match name:
        case "memory-connection":
            return memory_connection(1000, [p for p in peers if p in ("product", "node", "c")])
        case "memory-session":
            return {str(n): memory_session(n) for n in ((200,) if quick else (1000, 5000))}
        case "latency":
            return latency([p for p in peers if p in ("product", "c", "node")], rounds=2 if quick else 5)
        case "storm":
            return storm(glasses=400 if quick else 2000, apps=2, within=1.0 if quick else 4.0)
        case "day":
            return day(minutes=0.5 if quick else 5.0)
        case _:
            raise BenchError(f"unknown benchmark {name}")


def memory_connection(count: int, names: Sequence[str]) -> dict[str, Any]:
    """PSS per idle WebSocket that has been upgraded and has said nothing: the price of a connection itself."""
    found = {}
    for name in names:
        server = start(name, users=count, apps=1)
        try:
            with generate(server, "sockets", 50, 0):  # what the first connections load once for all
                pass
            time.sleep(0.3)
            before = pss_bytes(server.process.pid)
            with generate(server, "sockets", count, 0):
                found[name] = {
                    "connections": count,
                    "kb": round((pss_bytes(server.process.pid) - before) / count / 1000, 2),
                }
        finally:
            server.stop()
    return found


def memory_session(count: int) -> dict[str, Any]:
    """PSS per full session of the product: glasses and two connected, subscribed apps."""
    server = start("product", users=count, apps=2)
    try:
        before = pss_bytes(server.process.pid)
        with generate(server, "idle", count, 2):
            time.sleep(1.0)  # webhook connections close, starts settle
            after = pss_bytes(server.process.pid)
        return {"kb": round((after - before) / count / 1000, 1)}
    finally:
        server.stop()


def latency(names: Sequence[str], rounds: int) -> dict[str, Any]:
    """Glasses to app at a pace far below saturation; medians over the rounds, milliseconds, by events per second."""
    found: dict[str, Any] = {}
    for rate in (1000, 5000):
        servers: list[Server] = []
        generators: list[Process] = []
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        try:
            for name in names:
                servers.append(start(name, users=100, apps=1))
                generators.append(generate(servers[-1], "paced", 100, 1, "--rate", str(rate)))
            for _ in range(rounds):
                for name, generator in zip(names, generators, strict=True):
                    generator.say("run 1.0")
                    samples[name].append(generator.line()["latency_ms"])
        finally:
            for process in generators:
                process.stop()
            for server in servers:
                server.stop()
        found[str(rate)] = {
            name: {key: round(statistics.median(s[key] for s in taken), 3) for key in ("p50", "p99")}
            for name, taken in samples.items()
        }
    return found


class _Lag:
    """Event loop lag of the product from its metrics: the histogram's growth between two scrapes."""

    def __init__(self, server: Server) -> None:
        self._url = f"http://127.0.0.1:{server.port}/metrics"
        self._before = self._buckets()

    def _buckets(self) -> list[tuple[float, float]]:
        with urllib.request.urlopen(self._url, timeout=30) as reply:
            text = reply.read().decode()
        pairs = re.findall(r'glassbridge_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', text)
        return [(float(le), float(count)) for le, count in pairs]

    def p99(self) -> float:
        """Upper bound of the bucket in which the 99th percentile since the start lies, in seconds."""
        before = dict(self._before)
        grown = [(le, count - before.get(le, 0.0)) for le, count in self._buckets()]
        total = grown[-1][1] if grown else 0.0
        return next((le for le, count in grown if count >= 0.99 * total), float("inf"))


def storm(*, glasses: int, apps: int, within: float) -> dict[str, Any]:
    """All of `glasses` sessions and their apps lose their connections at once and return within `within` seconds, while
    50 other sessions go on undisturbed: their latency before and during."""
    server = start("product", users=glasses + 50, apps=apps)
    running = crowd = None
    try:
        crowd = generate(server, "idle", glasses, apps)
        # The witnesses are the last users of the token file; what they feel is the time of a ping.
        running = generate(server, "probe", 50, 0, "--first", str(glasses), "--rate", "500")
        running.say("run 2")
        quiet = running.line()["latency_ms"]
        lag = _Lag(server)
        results: dict[str, Any] = {}
        assert crowd is not None

        def watch() -> None:
            assert running is not None
            running.say(f"run {within + 2}")
            results["during"] = running.line()["latency_ms"]

        thread = threading.Thread(target=watch)
        thread.start()
        time.sleep(0.5)
        crowd.say(f"storm {within}")
        done = crowd.line()
        thread.join()
        return {
            "connections": done["of"],
            "back": done["back"],
            "took_s": done["took"],
            "webhooks": done["webhooks"],
            "redialled": done["redialled"],
            "server_cpu_s": done["server_cpu"],
            "witness_ms": {"quiet": quiet, "during": results["during"]},
            "loop_lag_p99_s": lag.p99(),
        }
    finally:
        for process in (running, crowd):
            if process is not None:
                process.stop()
        server.stop()


def day(*, minutes: float) -> dict[str, Any]:
    """Sessions come and go; memory must end where it began once the first round has filled the caches."""
    settings = {"sessions.grace": 1.0}  # all end between the rounds
    server = start("product", users=400, apps=2, settings=settings)
    sizes: list[float] = []
    end = time.monotonic() + minutes * 60
    try:
        while time.monotonic() < end or len(sizes) < 3:
            with generate(server, "fanout", 200, 2, "--window", "2") as load:
                load.say("run 3")
                load.line()
            time.sleep(2.0)
            sizes.append(round(pss_bytes(server.process.pid) / 1e6, 2))
    finally:
        server.stop()
    half = len(sizes) // 2
    return {
        "rounds": len(sizes),
        "mb": sizes,
        "growth_mb_second_half": round(sizes[-1] - sizes[half], 2),
    }
