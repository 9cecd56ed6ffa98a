"""How much of a sound survives the glasses, the air, the codec and the edge: `python -m tests.bench.edge_sound [--model g1]`.

Rules: simulator, edge and cloud are real programs. A speech-like chirp (300 to 2500 Hz with the rhythm of syllables) is played
to the microphone; what the cloud gets is aligned with it and compared. `snr_db` is signal over what differs after the
best gain. Printed as JSON, one line a model.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.rig import Rig, correlation, rig, speech_like
from tests.system.test_edge_ble_g1 import rig as g1_rig

MODELS = ("g1", "live", "nex", "frame")


async def measure(model: str) -> dict[str, Any]:
    source = speech_like(2.0)
    with tempfile.TemporaryDirectory() as name:
        if model == "g1":
            async with g1_rig(Path(name)) as pair:
                heard = await _hear(Rig(pair.sim, pair.cloud, pair.edge, pair.folder), source)
        else:
            async with rig(Path(name), model) as one:
                heard = await _hear(one, source)
    likeness = correlation(source, heard)
    # A best correlation r leaves r^2 of the energy explained.
    return {
        "model": model,
        "correlation": round(likeness, 4),
        "snr_db": round(float(10 * np.log10(likeness**2 / (1 - likeness**2))), 1),
    }


async def _hear(r: Any, source: Any) -> Any:
    await r.cloud.mic(True)
    await r.until_mic(True)
    await asyncio.sleep(1.0)
    heard = await r.hear(source, 4.0)
    await r.cloud.mic(False)
    await r.until_mic(False)
    return heard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, action="append")
    for model in parser.parse_args().model or MODELS:
        with contextlib.redirect_stderr(io.StringIO()):
            figures = asyncio.run(measure(model))
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
