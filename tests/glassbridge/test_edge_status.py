"""The picture of the link, and what is said when there is no daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glassbridge.edge_status import ask, draw, follow
from glassbridge.output import CommandError, Exit


def arm(state: str = "ready", reason: str | None = None) -> dict[str, Any]:
    radio = {"writes_per_minute": 7.4, "bytes_per_minute": 1240, "ack_ms": 31.2, "battery_per_hour": None}
    radio |= {"bytes_per_second": None}
    return {"state": state, "reason": reason, "battery": 87, "rssi": -52, **radio}


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
        "  left  7 writes and 1.2 kB a minute, answers in 31 ms",
    ]


@pytest.mark.parametrize(
    ("rate", "words"),
    [(None, "31 ms"), (5.8, "battery -5.8 % an hour, 15 h left"), (0.0, "battery holds its level")],
)
def test_what_the_radio_does_stands_beside_what_it_costs(rate: float | None, words: str) -> None:
    assert "the link carries 31.0 kB a second" in draw(status(main={**arm(), "bytes_per_second": 31_000}))
    picture = draw(status(main={**arm(), "battery_per_hour": rate}))
    assert picture.splitlines()[-1].endswith(words)


def test_watching_waits_for_a_daemon_that_is_away_and_shows_it_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: list[dict[str, Any]] = [{"ok": True, "status": status(main=arm())}]

    def ask_daemon(path: Path, request: dict[str, Any]) -> dict[str, Any]:
        if not answers:
            raise ConnectionRefusedError("nobody listens")
        return answers.pop()

    monkeypatch.setattr("edge.control.ask", ask_daemon)
    monkeypatch.setattr("glassbridge.edge_status.WATCH_EVERY", 0.0)
    follow(tmp_path / "edge.sock", as_json=False, rounds=2)
    out = capsys.readouterr().out
    assert out.index("Even Realities G1 · ready") < out.index("nobody listens") < out.index("looking again")
    answers.append({"ok": True, "status": status(main=arm())})
    follow(tmp_path / "edge.sock", as_json=True, rounds=2)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["wearers"][0]["glasses"]["state"] == "ready"
    assert second["error"]["fix"].startswith("glassbridge edge run")


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
