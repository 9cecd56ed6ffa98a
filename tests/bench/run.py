"""How fast the product is beside its peers: `python -m tests.bench [--quick] [--only NAME] [--out DIR]`.

Rules: all servers of a scenario stand at the same time and are loaded in turn, in short bursts, so that the mood of the
machine falls on all alike. The figure is deliveries per CPU-second of the server (the scheduler's own nanoseconds);
a ratio is one of medians over rounds. The generator's busy share is printed as the proof that it was not the limit.
The last line is one JSON object with the headline ratios to node `ws`; `kb_per_conn` is in kilobytes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench import edge, extra, plot
from tests.bench.servers import HERE, BenchError, available, build, cpus, generate, start

REFERENCE: Final = "node"
PEERS: Final = ("product", "node", "c", "websockets", "picows")


@dataclass(frozen=True, slots=True)
class Scenario:
    """`sessions` x `apps` connections under one kind of load; `size` in bytes of the event as sent."""

    name: str
    about: str
    mode: str
    sessions: int
    apps: int
    size: int
    headline: str | None = None
    more: tuple[str, ...] = ()
    #: Peers that make sense here alone; not with --quick.
    also: tuple[str, ...] = ()


SCENARIOS: Final = (
    Scenario("fanout-1", "JSON event to 1 app, 200 B", "fanout", 100, 1, 200, "fanout1"),
    Scenario("fanout-10", "JSON event to 10 apps, 200 B", "fanout", 10, 10, 200, "json10"),
    Scenario("fanout-100", "JSON event to 100 apps, 200 B", "fanout", 2, 100, 200, "fanout100"),
    Scenario("fanout-1000", "JSON event to 1,000 apps, 200 B", "fanout", 1, 1000, 200),
    Scenario("fanout-1-3k", "JSON event to 1 app, 3.2 kB", "fanout", 100, 1, 3200),
    Scenario("fanout-100-3k", "JSON event to 100 apps, 3.2 kB", "fanout", 2, 100, 3200),
    Scenario("audio-1", "audio to 1 app, 640 B", "audio", 100, 1, 640),
    Scenario("audio-10", "audio to 10 apps, 3.2 kB", "audio", 10, 10, 3200, "audio10"),
    Scenario(
        "reverse",
        "display of an app to the glasses, 200 B",
        "reverse",
        100,
        1,
        200,
        "reverse",
        also=("node-bare",),
    ),
    Scenario(
        "fanout-1-single",
        "JSON event to 1 app, one at a time",
        "fanout",
        100,
        1,
        200,
        None,
        ("--window", "1"),
    ),
    Scenario(
        "fanout-10-single",
        "JSON event to 10 apps, one at a time",
        "fanout",
        10,
        10,
        200,
        None,
        ("--window", "1"),
    ),
    Scenario("echo", "ping of the glasses", "echo", 100, 0, 200),
    Scenario(
        "accept", "glasses connect, are acknowledged, leave", "accept", 300, 0, 200, None, ("--window", "32")
    ),
)


@dataclass(slots=True)
class Result:
    """Of one server in one scenario. `rates`: deliveries per CPU-second, one per round."""

    server: str
    rates: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    failures: int = 0
    ratio: float | None = None
    #: Ratio of the best rounds: neighbours on the machine can only add cost, so this is what a quiet one would show.
    best_ratio: float | None = None

    @property
    def rate(self) -> float:
        return statistics.median(self.rates) if self.rates else 0.0


def measure(scenario: Scenario, names: Sequence[str], *, rounds: int, seconds: float) -> list[Result]:
    """All servers at once, loaded in turn."""
    results = [Result(name) for name in names]
    servers, generators = [], []
    try:
        for name in names:
            servers.append(start(name, users=scenario.sessions, apps=scenario.apps))
            size = ("--size", str(scenario.size), *scenario.more)
            generators.append(generate(servers[-1], scenario.mode, scenario.sessions, scenario.apps, *size))
        for _ in range(rounds):
            for result, generator in zip(results, generators, strict=True):
                generator.say(f"run {seconds}")
                done = generator.line()
                result.rates.append(done["delivered"] / max(done["server_cpu"], 1e-6))
                result.busy.append(done["generator_cpu"] / done["wall"])
                result.failures += done["failures"]
    finally:
        for process in generators:
            process.stop()
        for server in servers:
            server.stop()
    reference = next((r for r in results if r.server == REFERENCE), None)
    for result in results:
        if reference is not None and reference.rate:
            result.ratio = result.rate / reference.rate
            result.best_ratio = max(result.rates) / max(reference.rates)
    return results


def show(scenario: Scenario, results: Sequence[Result]) -> None:
    print(f"\n{scenario.name}: {scenario.about} ({scenario.sessions} sessions x {scenario.apps} apps)")
    for r in results:
        ratio = "" if r.ratio is None else f"{r.ratio:5.2f} x {REFERENCE} (best rounds {r.best_ratio:.2f})"
        note = "" if not r.failures else f"   {r.failures} connections FAILED"
        print(
            f"  {r.server:11} {r.rate:10,.0f} per CPU-second  {ratio}   "
            f"generator {statistics.median(r.busy):4.0%} busy{note}",
            flush=True,
        )


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    names = [*(s.name for s in SCENARIOS), *extra.NAMES, *edge.NAMES]
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Benchmarks beside peers, in turn."
    )
    parser.add_argument("--quick", action="store_true", help="the headline ratios in under 50 s")
    parser.add_argument("--only", action="append", choices=names, help="this one alone; may be repeated")
    parser.add_argument("--peers", default=",".join(PEERS), help="servers to run, comma-separated")
    parser.add_argument("--rounds", type=int, help="bursts per server (default 5, quick 3)")
    parser.add_argument("--seconds", type=float, help="length of a burst (default 1.0, quick 0.3)")
    parser.add_argument("--day", action="store_true", help="add the day in five minutes")
    parser.add_argument("--out", type=Path, help="write results.json and bench.svg there")
    options = parser.parse_args(arguments)

    rounds = options.rounds or (3 if options.quick else 5)
    seconds = options.seconds or (0.3 if options.quick else 1.0)
    peers = [p for p in options.peers.split(",") if p]
    if options.quick:
        peers = [p for p in peers if p in ("product", "node")]
    for name in list(peers):
        why = available(name)
        if why is not None:
            print(f"without {name}: {why}", file=sys.stderr)
            peers.remove(name)
    try:
        build("loadgen")
        server_cpu, generator_cpu = cpus()
        print(f"server on CPU {server_cpu}, generator on CPU {generator_cpu}; {rounds} rounds of {seconds} s")
        found: dict[str, Any] = {"machine": machine(), "scenarios": {}, "extra": {}}
        headline: dict[str, float] = {}
        failed: list[str] = []
        for scenario in SCENARIOS:
            if options.only is not None and scenario.name not in options.only:
                continue
            if options.quick and options.only is None and scenario.headline is None:
                continue
            also = () if options.quick else tuple(p for p in scenario.also if available(p) is None)
            results = measure(scenario, [*peers, *also], rounds=rounds, seconds=seconds)
            show(scenario, results)
            found["scenarios"][scenario.name] = {
                "about": scenario.about,
                "results": [{**asdict(r), "rate": r.rate} for r in results],
            }
            for r in results:
                if r.server == "product" and scenario.headline and r.ratio is not None:
                    headline[scenario.headline] = round(r.ratio, 2)
        wanted = set(
            options.only or (("memory-connection",) if options.quick else (*extra.NAMES, *edge.NAMES))
        )
        if not options.day and options.only is None:
            wanted.discard("day")
        for name in (*extra.NAMES, *edge.NAMES):
            if name in wanted:
                part = extra if name in extra.NAMES else edge
                try:
                    result = part.run(name, quick=options.quick, peers=peers)
                except BenchError as error:  # the others are still worth having
                    failed.append(f"{name}: {error}")
                    continue
                found["extra"][name] = result
                print(f"\n{name}: {json.dumps(result)}", flush=True)
                if name == "memory-connection":
                    headline["kb_per_conn"] = result["product"]["kb"]
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
        if found["scenarios"]:
            (options.out / "bench.svg").write_text(plot.bars(found))
    for complaint in failed:
        print(f"bench: {complaint}", file=sys.stderr)
    print(json.dumps(headline))
    return 1 if failed else 0


__all__ = ["HERE", "SCENARIOS", "main", "measure"]
