"""What README promises is so: links lead somewhere, make targets exist, the app in it works.

Its commands are run, with those of all pages, by test_docs_commands.py.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from glassbridge.app import App
from tests.support.app_cloud import app_cloud

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_every_link_and_picture_exists() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)", README) if "://" not in target]
    assert "docs/img/lens-page.png" in targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_make_target_in_the_read_me_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", README))
    assert named <= targets


async def test_the_app_in_the_read_me_shows_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    monkeypatch.setattr(App, "run", lambda self: None)
    scope: dict[str, Any] = {}
    exec(compile(code[1].replace("port=7010", "port=0"), "README.md", "exec"), scope)
    async with app_cloud(scope["app"]) as cloud:
        connection, _ = await cloud.start()
        await connection.event("transcription:en-US", {"text": "hello", "isFinal": True})
        assert (await connection.next("display_event"))["layout"]["text"] == "hello"


async def test_the_captions_example_shows_what_is_said() -> None:
    scope: dict[str, Any] = {"__name__": "captions"}
    path = ROOT / "examples" / "captions.py"
    exec(compile(path.read_text().replace("port=7010", "port=0"), os.fspath(path), "exec"), scope)
    async with app_cloud(scope["app"]) as cloud:
        connection, _ = await cloud.start()
        assert (await connection.next("display_event"))["layout"]["text"] == "Listening ..."
        await connection.event("transcription:en-US", {"text": "hello", "isFinal": True})
        shown = await connection.next("display_event")
        assert (shown["layout"]["text"], shown["durationMs"]) == ("hello", 10_000)
        await connection.event("touch_event:double_tap", {"gesture_name": "double_tap"})
        assert (await connection.next("display_event"))["layout"]["layoutType"] == "clear_view"
