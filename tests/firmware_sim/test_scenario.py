"""Scenario files: what they may say, and that their steps happen in time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from firmware_sim.firmware.g1 import RIGHT
from firmware_sim.hci_port import SimError
from firmware_sim.room import Room
from firmware_sim.scenario import Step, load_scenario, play


def test_steps_are_read_and_sorted_by_time(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        '[[step]]\nat = 3\naction = "drop"\nfor = 5\n[[step]]\nat = 1.5\naction = "tap"\nside = "right"\n'
    )
    assert load_scenario(file) == [
        Step(1.5, {"action": "tap", "side": "right"}),
        Step(3.0, {"action": "drop", "for": 5}),
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[[step]\n", "s.toml"),
        ('[[step]]\naction = "tap"\n', "step 1 needs 'at'"),
        ('[[step]]\nat = -1\naction = "tap"\n', "at"),
        ('[[step]]\nat = true\naction = "tap"\n', "at"),
        ('[[step]]\nat = nan\naction = "tap"\n', "at"),
        ('[[step]]\nat = inf\naction = "tap"\n', "at"),
        ("step = " + "[" * 2000, "recursion"),
        ("[[step]]\nat = 1\n", "action"),
        ("[stepp]\nat = 1\n", "stepp"),
        ("step = 3\n", "step"),
    ],
)
def test_a_wrong_file_is_named_with_its_step(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(text)
    with pytest.raises(SimError, match=word):
        load_scenario(file)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SimError, match=r"nothing\.toml"):
        load_scenario(tmp_path / "nothing.toml")


async def test_steps_happen_and_one_without_taker_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with Room(["g1"], hci_ports=[]) as room:
        steps = [
            Step(0.0, {"action": "tap", "side": RIGHT}),
            Step(0.01, {"action": "nonsense"}),
            Step(0.02, {"action": "battery", "value": 5}),
        ]
        await asyncio.wait_for(play(room, steps), 10)
        assert room.state()["devices"][0]["state"]["battery"][RIGHT] == 5
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "not connected" in caplog.text
