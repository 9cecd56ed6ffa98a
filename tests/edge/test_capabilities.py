"""One table of capabilities per model: it says what the driver does, and it is the one that apps get to read."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from cloud.core.capabilities import announced, capabilities_of
from edge.profiles import PROFILES, frame, g1, nex
from edge.profiles.base import (
    Action,
    Brightness,
    Imu,
    Microphone,
    Picture,
    Show,
    TakePhoto,
    TextWall,
    Unsupported,
)
from tests.edge.test_bitmap import encoded
from tests.edge.world import World

MODELS = sorted(PROFILES)
DOT = encoded(Image.new("1", (8, 8), 1))


def can(model: str, action: Action) -> bool:
    """Whether the driver has anything to say to some arm for this."""
    driver = PROFILES[model].driver()
    try:
        return any(driver.commands(arm, action) for arm in PROFILES[model].arms)
    except Unsupported:
        return False


@pytest.mark.parametrize("model", MODELS)
def test_the_table_says_what_the_driver_can_do(model: str) -> None:
    table: Any = PROFILES[model].capabilities
    display = table["display"] or {}
    assert table["hasDisplay"] is can(model, Show(TextWall("x")))
    assert display.get("canDisplayBitmap", False) is can(model, Show(Picture(DOT)))
    assert display.get("adjustBrightness", False) is can(model, Brightness(50))
    assert table["hasCamera"] is can(model, TakePhoto("r"))
    assert table["hasMicrophone"] is can(model, Microphone(True)) is (PROFILES[model].audio is not None)
    if can(model, Imu(True)):
        assert table["hasIMU"] is True


@pytest.mark.parametrize(
    ("model", "width", "height", "font"),
    [("nex", nex.WIDTH, nex.HEIGHT, nex.FONT), ("frame", frame.WIDTH, frame.HEIGHT, frame.FONT)],
)
def test_the_lens_has_the_size_and_lines_that_the_driver_draws(
    model: str, width: int, height: int, font: Any
) -> None:
    display: Any = PROFILES[model].capabilities["display"]
    assert display["resolution"] == {"width": width, "height": height}
    assert display["maxTextLines"] == font.max_lines
    driver = PROFILES[model].driver()
    assert driver.pages(TextWall("\n".join("abcdefgh"[: font.max_lines]))) == 1
    assert driver.pages(TextWall("\n".join("abcdefgh"[: font.max_lines + 1]))) == 2


def test_the_lines_of_a_g1_are_those_of_its_driver_and_its_size_is_the_one_that_apps_know() -> None:
    display: Any = PROFILES["g1"].capabilities["display"]
    assert display["maxTextLines"] == g1.FONT.max_lines
    # As MentraOS ships it; the panel takes pictures of 576 by 136, and larger ones are scaled.
    assert display["resolution"] == {"width": 640, "height": 200}


@pytest.mark.parametrize("model", MODELS)
def test_clients_that_announce_only_a_name_get_the_same_table(model: str) -> None:
    profile = PROFILES[model]
    assert capabilities_of(profile.model) == profile.capabilities
    assert announced(profile.model, profile.capabilities) == profile.capabilities


def test_the_table_travels_with_the_announcement_of_the_glasses() -> None:
    world = World().start()
    world.run(5)
    assert world.said("glasses_connection_state")[-1]["capabilities"] == PROFILES["g1"].capabilities
