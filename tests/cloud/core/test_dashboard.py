"""What stands on the dashboard."""

from __future__ import annotations

import pytest

from cloud.core.clock import WallClock
from cloud.core.dashboard import Dashboard, ModeChanged, Render


def layout(effects: object) -> dict[str, str]:
    assert isinstance(effects, list)
    return next(e.layout for e in effects if isinstance(e, Render))


def test_the_cloud_renders_time_battery_and_the_next_appointment() -> None:
    clock = WallClock(1_767_225_600.0, 3600.0)  # 2026-01-01T00:00:00Z, one hour east
    board = Dashboard(clock)
    assert layout(board.refresh(0.0))["topText"] == "◌ 01:00"
    assert layout(board.battery(87, True, 1.0))["topText"] == "◌ 01:00 87%+"
    shown = layout(board.appointment("e", "Dentist", 1_767_225_600.0 + 1800, 2.0))
    assert shown["bottomText"] == "01:30 Dentist"
    assert board.deadline == pytest.approx(60.0)
    assert layout(board.handle_deadline(60.0))["topText"].startswith("◌ 01:01")


@pytest.mark.failure("DSP-07")
def test_notifications_are_few_and_the_rest_is_a_number() -> None:
    board = Dashboard(WallClock(0.0))
    for number in range(20):
        board.notification(str(number), "Mail", f"n{number}", "x" * 200, 1.0)
    shown = layout([Render(board._layout(1.0))])["bottomText"]
    assert shown.count("Mail:") == 4
    assert "+16 more" in shown
    assert board.notification("19", "Mail", "n19", "x" * 200, 1.0) == []
    board.dismissed("19", 2.0)
    assert "n19" not in layout([Render(board._layout(2.0))])["bottomText"]


def test_apps_take_turns_and_leave_nothing_behind() -> None:
    board = Dashboard(WallClock(0.0))
    board.content("a", "from a", ["main"], 1.0)
    assert "from b" in layout(board.content("b", "from b", ["main"], 2.0))["bottomText"]
    assert "from a" in layout(board.head_up(3.0))["bottomText"]
    board.gone("a", 4.0)
    assert "from a" not in str(board._layout(4.0))


def test_an_external_dashboard_app_owns_the_sections_until_it_goes() -> None:
    board = Dashboard(WallClock(0.0))
    assert layout(board.section("dash", "topLeft", "9:41", 1.0))["topText"] == "9:41"
    effects = board.set_mode("expanded", 2.0)
    assert effects[0] == ModeChanged("expanded")
    assert "No expanded content available" in layout(effects)["text"]
    assert layout(board.gone("dash", 3.0))["topText"].startswith("◌")
