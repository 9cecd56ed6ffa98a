"""The picture of the link, and what is said when there is no daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glassbridge.edge_status import ask, draw
from glassbridge.output import CommandError, Exit


def arm(state: str = "ready", reason: str | None = None) -> dict[str, Any]:
    return {"state": state, "reason": reason, "battery": 87, "rssi": -52}


def status(**arms: dict[str, Any]) -> dict[str, Any]:
    return {
        "simulated": True,
        "radio": {"fault": None},
        "wearers": [
            {
                "user": "anna@home.example",
                "glasses": {"model": "Even Realities G1", "state": "ready", "arms": arms},
                "cloud": {"state": "online", "reason": None, "rtt_ms": 3.2, "for_s": 61},
                "audio": {"microphone": "off", "asked_by_cloud": False},
                "display": {"last_shown_s": 12.0},
            }
        ],
    }


def test_two_arms_join_at_the_edge() -> None:
    assert draw(status(left=arm(), right=arm("backoff", "link_lost"))).splitlines() == [
        "anna@home.example · Even Realities G1 · ready   SIMULATED",
        "  left  ● ready  battery 87 %  -52 dBm                ─┐",
        "                                                       ├── edge ──── "
        "● cloud online, 3 ms there and back, for 61 s",
        "  right ○ backoff  (link_lost)  battery 87 %  -52 dBm ─┘",
        "  audio: off (no app asked)   last line shown 12 s ago",
    ]


def test_one_arm_is_one_line_and_a_sick_radio_is_told_first() -> None:
    sick = status(main=arm())
    sick["radio"]["fault"] = "adapter_down"
    sick["wearers"][0]["cloud"] |= {"state": "backoff", "reason": "refused"}
    lines = draw(sick).splitlines()
    assert lines[0] == "radio: adapter_down - run `glassbridge doctor`"
    assert "○ cloud backoff (refused)" in lines[2]


def test_without_a_daemon_the_command_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        ask(tmp_path / "edge.sock")
    assert caught.value.code is Exit.UNREACHABLE
    assert "glassbridge edge run" in caught.value.fix
