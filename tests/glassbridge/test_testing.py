"""The pytest plugin as its users meet it: their own pytest, their own language, their running `dev`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.interop.driver import HERE as SDK_FOLDER
from tests.interop.driver import install_sdk
from tests.support.tools import require_tool

if TYPE_CHECKING:  # at run time pytest itself imports its plugins, to rewrite them
    from glassbridge.target import Target
    from glassbridge.testing import Glasses, Lens

pytest_plugins = ["glassbridge.testing"]

#: A whole app with the unmodified SDK; as its templates do, it listens where PORT says.
SDK_APP = """
import { AppServer } from "@mentra/sdk";
class Captions extends AppServer {
  async onSession(session) {
    session.layouts.showTextWall("from the SDK");
    session.events.onTranscription((words) => session.layouts.showTextWall(words.text));
  }
}
await new Captions({ packageName: "com.example.sdk", apiKey: "any", port: Number(process.env.PORT) }).start();
"""

THEIR_TESTS = """
import sys

def test_captions(glasses, lens):
    with glasses.app([sys.executable, {example!r}]):
        lens.wait_text("Listening")

def test_that_fails(lens):
    lens.wait_text("never", within=0.2)
"""


def test_an_unmodified_sdk_app_is_tested_the_same_way(glasses: Glasses, lens: Lens) -> None:
    install_sdk()
    command = [require_tool("node"), "--input-type=module", "--eval", SDK_APP]
    with glasses.app(command, cwd=SDK_FOLDER) as app:
        assert app.package == "com.example.sdk"
        lens.wait_text("from the SDK")
        glasses.say("where is the station")
        lens.wait_text("station")
        app.kill()
        app.restart()
        lens.wait_text("from the SDK", within=40)


def test_a_running_dev_is_attached_to_and_left_running(
    glassbridge_dev: Target, glasses: Glasses, tmp_path: Path
) -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "captions.py"
    (tmp_path / "test_theirs.py").write_text(THEIR_TESTS.format(example=str(example)))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "glassbridge.testing", "-p", "no:cacheprovider",
         "--glassbridge-url", glassbridge_dev.url, str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "the lenses did not show the text 'never' within 0.2 s. They show left: " in done.stdout
    glasses.tap()  # it still runs


def test_an_app_server_that_runs_already_is_named_by_its_address(glasses: Glasses, lens: Lens) -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "captions.py"
    with glasses.app([sys.executable, str(example)]) as running, glasses.app(url=running.url) as named:
        assert named.package == running.package
        lens.wait_text("Listening")
