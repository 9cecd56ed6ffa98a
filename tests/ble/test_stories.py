"""The system stories of every model once more, on lane B (in the guest: C): the same tests, with BlueZ between the edge
and the radio.

Nothing is copied: the tests of tests/system are collected here a second time, and a fixture puts a bluetoothd where
their edge would have opened the virtual radio itself. An ordinary run takes the story that touches most of each model;
`make glasses` (ALL_STORIES=1) takes all.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support import edge_process
from tests.support.realbluez import LANE_BLUEZ, bluez_below
from tests.system import (
    test_edge_ble_g1,
    test_models_frame,
    test_models_live,
    test_models_nex,
    test_models_photo,
)

pytestmark = pytest.mark.lane(LANE_BLUEZ)

_STORIES = {
    "g1": test_edge_ble_g1,
    "live": test_models_live,
    "nex": test_models_nex,
    "frame": test_models_frame,
    "camera": test_models_photo,  # each story once per model with a camera
}
#: Stories about what only lane A does.
_ONLY_A = {
    "test_no_adapter_is_exit_69",
    "test_a_host_without_the_bond_gives_up_and_says_how_to_unpair",  # BlueZ keeps bonds, the edge process does not
}
_EVERY_RUN = {
    "test_text_taps_and_head_travel_both_ways",
    "test_after_kill_9_a_new_daemon_shows_text_within_half_a_minute",
    "test_buttons_touches_and_the_battery_reach_the_cloud",
    "test_text_pictures_and_buttons_travel",
    "test_it_pairs_shows_text_and_pictures_feels_taps_and_looks_up",
}
for _model, _module in _STORIES.items():
    for _name, _story in vars(_module).items():
        if not _name.startswith("test_") or _name in _ONLY_A:
            continue
        if "ALL_STORIES" in os.environ or _name in _EVERY_RUN:
            globals()[f"test_{_model}_{_name.removeprefix('test_')}"] = _story


@pytest_asyncio.fixture(autouse=True)
async def _bluez_below_the_edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """An edge that is told to use the virtual radio finds a bluetoothd on it instead."""
    spawn = edge_process.spawn
    running: dict[str, str] = {}
    async with AsyncExitStack() as stack:

        async def spawn_on_bluez(folder: Path, overrides: dict[str, Any], config: Path | None = None) -> Any:
            hci = str(overrides["radio"]).removeprefix("bumble:")
            if hci not in running:
                bluez = await stack.enter_async_context(bluez_below(tmp_path, hci))
                running[hci] = bluez.bus.address
            monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", running[hci])
            return await spawn(folder, {**overrides, "radio": "default"}, config)

        monkeypatch.setattr(edge_process, "spawn", spawn_on_bluez)
        monkeypatch.setattr(test_edge_ble_g1, "spawn", spawn_on_bluez)
        yield
