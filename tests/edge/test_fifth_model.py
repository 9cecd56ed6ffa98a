"""The glasses of docs/add-glasses.md: both blocks of the page run against each other through the real core."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from edge.profiles import PROFILES
from edge.profiles.base import Arm, Profile, Show, TextWall
from firmware_sim.firmware import MODELS
from firmware_sim.firmware.base import set_faults
from tests.support.air import Air

PAGE = Path(__file__).parents[2] / "docs" / "add-glasses.md"


def block(kind: str) -> dict[str, Any]:
    """What the page's code of that kind defines."""
    found = re.search(rf"```python {kind}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(compile(found[1], f"{PAGE.name}:{kind}", "exec"), names)
    return names


@pytest.fixture
def air(monkeypatch: pytest.MonkeyPatch) -> Air:
    profile: Profile = block("driver")["ActiveLook"]()
    monkeypatch.setitem(PROFILES, profile.key, profile)
    monkeypatch.setitem(MODELS, profile.key, block("firmware")["build"])
    return Air(profile.key).start()


def test_its_bytes_are_those_of_the_vendors_document() -> None:
    code = block("driver")
    assert code["frame"](code["CLEAR"]).hex() == "ff010005aa"
    assert code["frame"](code["CLEAR"], query=b"\x02\x01").hex() == "ff0102070201aa"
    assert code["frame"](code["BATTERY"]).hex() == "ff050005aa"
    data = bytes.fromhex("0098008004020f") + b"Hello\0"
    assert code["frame"](code["TEXT"], data).hex() == "ff3700120098008004020f48656c6c6f00aa"


def test_it_connects_shows_the_newest_text_and_says_its_battery(air: Air) -> None:
    air.until_ready()
    air.run(1.0)
    assert air.told("glasses_battery_update")[-1]["level"] == 64
    for number in range(20):
        air.show(f"number {number}")
    air.until(lambda: air.text == "number 19", 5)
    air.layout({"layoutType": "double_text_wall", "topText": "a", "bottomText": "b"}, displayId="d")
    air.run(2.0)
    results = {m["displayId"]: m for m in air.told("glassbridge_display_result")}
    assert "DoubleTextWall" in results["d"]["reason"] or results["d"]["outcome"] == "failed"


def test_it_survives_lost_links_and_lost_answers_without_a_line_of_its_own(air: Air) -> None:
    air.until_ready()
    air.show("before")
    air.run(1.0)
    air.drop()
    air.show("after")
    air.until(lambda: air.text == "after", 20)
    set_faults(air.faults, {"drop_acks": 1})
    air.show("again")
    air.until(lambda: air.text == "again", 5)
    air.run(60.0)
    assert air.node.glasses.arms[Arm.WHOLE].connects == 2


def test_what_it_cannot_do_is_said_in_a_sentence(air: Air) -> None:
    driver = air.profile.driver()
    with pytest.raises(Exception, match="ActiveLook"):
        driver.commands(Arm.WHOLE, Show(None))  # type: ignore[arg-type]
    assert driver.commands(Arm.WHOLE, Show(TextWall("x")))
