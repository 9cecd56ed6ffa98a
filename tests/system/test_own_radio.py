"""Simulated glasses on a controller that is not the simulator's own: what `--hci usb:0` does with a dongle.

The controller here is another simulator's HCI port behind a socket, so everything but USB and radio waves is the real way:
Bumble's host stack in the glasses' process drives a foreign controller over HCI, which advertises and accepts.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.edge_process import cloud, edge_process, until
from tests.support.simulator import simulator_process

pytestmark = pytest.mark.lane("bumble")


async def test_glasses_on_a_foreign_controller_are_found_and_used(tmp_path: Path) -> None:
    (tmp_path / "air").mkdir()
    (tmp_path / "glasses").mkdir()
    async with (
        simulator_process(tmp_path / "air", "--model", "nex", ports=2) as air,
        simulator_process(  # another seed: the same one would give both devices one address
            tmp_path / "glasses", "--model", "live", "--seed", "7", "--hci", air.ready["hci"][0], ports=0
        ) as glasses,
        cloud() as upstream,
        edge_process(
            tmp_path, cloud=upstream.url, radio=f"bumble:{air.ready['hci'][1]}", token="tok", glasses="live"
        ) as edge,
    ):
        assert glasses.ready["hci"] == [], "it offers no port of its own"
        await edge.until_ready(seconds=60)
        await until(lambda: upstream.said("glasses_battery_update"))
        await upstream.mic(True)
        await until(lambda: upstream.audio, 30, "sound over the foreign controller")
