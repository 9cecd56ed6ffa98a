"""The examples on simulated glasses, as their readers run them, and by the plugin that they are told to test with."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import until

if TYPE_CHECKING:  # at run time pytest itself imports its plugins, to rewrite them
    from glassbridge.testing import Glasses, Lens, RunningApp

pytest_plugins = ["glassbridge.testing"]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@contextmanager
def example(glasses: Glasses, name: str) -> Iterator[RunningApp]:
    with glasses.app([sys.executable, str(EXAMPLES / f"{name}.py")]) as app:
        yield app


def test_captions_show_what_is_said_and_come_back_after_a_crash(glasses: Glasses, lens: Lens) -> None:
    with example(glasses, "captions") as app:
        assert app.package == "com.example.captions"
        lens.wait_text("Listening ...")
        glasses.say("where is the station")
        lens.wait_text("station")
        app.kill()
        app.restart()
        lens.wait_text("Listening ...", within=40)


def test_notes_are_kept_over_a_restart(glasses: Glasses, lens: Lens) -> None:
    with example(glasses, "notes"):
        lens.wait_text("No notes")
        glasses.say("note buy milk")
        lens.wait_text("1. buy milk")
    lens.wait_gone("buy milk")
    with example(glasses, "notes"):
        lens.wait_text(re.compile(r"^1\. buy milk$"))
        glasses.drop("left", seconds=1)
        glasses.say("note call anna")
        lens.wait_text("2. call anna", within=40)


def test_navigation_goes_from_arrow_to_card_at_each_tap(glasses: Glasses, lens: Lens, tmp_path: Path) -> None:
    with example(glasses, "navigation"):
        lens.wait_picture(lit_min=1500)
        assert lens.shot(tmp_path / "arrow.png").read_bytes().startswith(b"\x89PNG")
        glasses.tap("right")
        lens.wait_text("Mill Lane")
        assert "350 m" in lens.text("right")
        glasses.tap("right")
        lens.wait_gone("Mill Lane")
        lens.wait_picture(lit_min=1500)


def test_photo_says_so_when_the_glasses_have_no_camera(glasses: Glasses, lens: Lens) -> None:
    with example(glasses, "photo"):
        lens.wait_text("no camera")


async def test_photo_is_taken_at_a_press_by_glasses_with_a_camera() -> None:
    from glassbridge.testing import GlassbridgeError, simulated

    with simulated("live") as (glasses, lens), example(glasses, "photo") as app:

        def taken() -> bool:
            return re.search(r"a photo of \d{4,} bytes", app.output) is not None

        # The camera's computer takes some seconds to boot: until then the button says that it does nothing. From then on
        # one press is enough, also while the daemon still greets the glasses.
        for _ in range(100):
            try:
                glasses.press()
                break
            except GlassbridgeError:
                await asyncio.sleep(0.2)
        await until(taken, "a photo, through Bluetooth and the cloud, in the app", 30)
        with pytest.raises(GlassbridgeError, match="no display"):
            lens.text()


def test_battery_is_logged_and_the_wearer_warned_once(glasses: Glasses, lens: Lens) -> None:
    with example(glasses, "battery") as app:
        glasses.battery(60)
        glasses.battery(12)
        lens.wait_text("Battery low: 12 %")
        lens.wait_gone("Battery low", within=20)
        assert re.search(r"T[\d:+]+,12,\n", app.output), app.output


# -- what the plugin says when something is wrong -----------------------------------------------------------


def test_a_text_that_never_comes_fails_with_what_is_on_the_lens(glasses: Glasses, lens: Lens) -> None:
    with example(glasses, "captions"):
        lens.wait_text("Listening ...")
        with pytest.raises(
            AssertionError, match=r"the text 'goodbye' within 0.3 s.*left: 'Listening \.\.\.'"
        ):
            lens.wait_text("goodbye", within=0.3)


def test_an_app_that_does_not_start_shows_its_own_words(glasses: Glasses) -> None:
    from glassbridge.testing import GlassbridgeError

    broken = [sys.executable, "-c", "raise SystemExit('no such module: captions')"]
    with (
        pytest.raises(GlassbridgeError, match=r"ended with code 1.*\n.*PORT.*\n.*no such module"),
        glasses.app(broken),
    ):
        pass
    with (
        pytest.raises(GlassbridgeError, match=r"/nowhere/npm was not run: No such file"),
        glasses.app(["/nowhere/npm"]),
    ):
        pass


def test_an_input_that_nothing_takes_says_why(glasses: Glasses) -> None:
    from glassbridge.testing import GlassbridgeError

    with pytest.raises(GlassbridgeError, match=r"the glasses did not take it: .*press"):
        glasses.press()


def test_what_a_test_did_to_the_glasses_is_undone(glasses: Glasses, lens: Lens) -> None:
    glasses.look("up")
    glasses.lag(0.05)
    glasses.wear(False)
    glasses.undo()
    with example(glasses, "captions"):
        lens.wait_text("Listening ...")
