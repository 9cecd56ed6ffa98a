"""What one frame costs above the sockets: `python -m tests.bench.path [--only LOAD] [--profile]`.

Rules: hub, session and connections are the product's own, transports only count (`tests/support/hot_path.py`), so that
the figure holds no system call. The best of many short runs is shown: neighbours on the machine can only add. With
`--profile`, cProfile's table of the functions that took most; its own cost is part of those figures.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

from cloud.server import GC_THRESHOLD
from tests.support.hot_path import frame, hot_path

EVENT: Final = frame(
    b'{"type":"button_press","pressType":"short","timestamp":1767225600000,"buttonId":"main","padding":"'
    + b"x" * 100
    + b'"}'
)
DISPLAY: Final = frame(
    b'{"type":"display_event","sessionId":"","packageName":"com.bench.a0","view":"main","forceDisplay":true,'
    b'"layout":{"layoutType":"text_wall","text":"' + b"x" * 60 + b'"}}'
)

#: name -> (frame, subscribed stream, apps, whether an app sends it)
LOADS: Final[dict[str, tuple[bytes, str, int, bool]]] = {
    "event to 1 app": (EVENT, "button_press", 1, False),
    "event to 10 apps": (EVENT, "button_press", 10, False),
    "event to 100 apps": (EVENT, "button_press", 100, False),
    "audio to 10 apps": (frame(bytes(640), binary=True), "audio_chunk", 10, False),
    "ping": (frame(b'{"type":"ping"}'), "button_press", 1, False),
    "display": (DISPLAY, "button_press", 1, True),
}
BURST: Final = 8  # frames in one read, as the load generator's window has it


async def cost(load: str, rounds: int, profile: cProfile.Profile | None) -> tuple[float, float]:
    """Nanoseconds per frame: (one frame per read, `BURST` frames per read)."""
    data, stream, apps, from_app = LOADS[load]
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    with tempfile.TemporaryDirectory() as directory:
        async with hot_path(Path(directory), apps=apps, stream=stream) as path:
            source = path.apps[0] if from_app else path.glasses
            found = []
            for read, count in ((data, 400), (data * BURST, 50)):
                best = float("inf")
                for _ in range(rounds):
                    start = time.perf_counter_ns()
                    for _ in range(count):
                        source.data_received(read)
                    best = min(best, (time.perf_counter_ns() - start) / 400)
                    await asyncio.sleep(0.001)  # the clock of the loop moves, timers run
                found.append(best)
            if profile is not None:
                profile.enable()
                for _ in range(2000):
                    source.data_received(data * BURST)
                profile.disable()
    return found[0], found[1]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.path", description=__doc__)
    parser.add_argument("--only", action="append", choices=LOADS)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args(arguments)
    for load in options.only or LOADS:
        profile = cProfile.Profile() if options.profile else None
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            single, burst = runner.run(cost(load, options.rounds, profile))
        print(f"{load:18} {single:8,.0f} ns per frame alone, {burst:8,.0f} ns in a burst of {BURST}")
        if profile is not None:
            pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(25)
    return 0


if __name__ == "__main__":
    sys.exit(main())
