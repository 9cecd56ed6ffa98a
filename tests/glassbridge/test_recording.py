"""Recordings: what was done and shown is kept line by line, and must come back pixel for pixel."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from glassbridge.app import App, Battery, Session
from glassbridge.commands.trace import until_interrupted
from glassbridge.output import CommandError, Exit
from glassbridge.recording import Input, Line, Shown, difference, expectations, header, line, read
from tests.support.dev_process import DevProcess, dev_process
from tests.support.waiting import SLOW, until


def shown(at: float, arm: str, lit: int) -> Shown:
    return Shown(at, arm, "text", bytes([lit]) * 16, 16)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    entries: list[Line] = [Input(0.5, {"action": "tap", "side": "left"}), shown(0.6, "left", 0xF0)]
    path = tmp_path / "a.jsonl"
    path.write_bytes(header() + b"".join(map(line, entries)))
    assert read(path) == entries


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]\n",
        '{"glassbridge_recording": 2}',
        '{"glassbridge_recording": 1}\n{"t": 1, "lens": "left"}',
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(CommandError) as caught:
        read(path)
    assert caught.value.code is Exit.CONFIG


TAP = Input(1.0, {"action": "tap"})


def test_only_pictures_that_stood_are_expected_again() -> None:
    entries: list[Line] = [
        shown(0.1, "left", 1),
        shown(0.2, "left", 2),
        TAP,
        shown(1.1, "right", 3),
        shown(1.2, "left", 4),
    ]
    assert [(one.arm, one.pixels[0]) for one in expectations(entries)] == [
        ("left", 2),
        ("right", 3),
        ("left", 4),
    ]


def test_the_difference_is_red_where_pixels_are_missing_and_blue_where_there_are_too_many() -> None:
    image = difference(shown(0, "left", 0b11000000), shown(0, "left", 0b10100000))
    assert [image.getpixel((x, 0)) for x in range(4)] == [(0, 255, 0), (255, 0, 0), (0, 0, 255), (0, 0, 0)]


def battery_app(wording: list[str]) -> App:
    app = App("org.example.battery", api_key="battery-key", port=0)

    @app.on_session
    async def on_session(session: Session) -> None:
        async def powered(event: Battery) -> None:
            await session.layouts.show_text_wall(f"{wording[0]} {event.level}")

        session.events.on_battery(powered)

    return app


def command(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "glassbridge", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
    )


async def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = await asyncio.to_thread(process.communicate, None, 120)
    return process.returncode, out + err


def test_an_interrupt_that_meets_a_finaliser_counts() -> None:
    """Raised there as an exception, Python drops it with "Exception ignored in ..."."""

    class Finalised:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    async def work() -> None:
        while True:
            Finalised()
            await asyncio.sleep(0)

    assert until_interrupted(work()) is True


def test_work_that_ends_by_itself_was_not_interrupted_and_its_failure_is_told() -> None:
    async def fails() -> None:
        raise CommandError("what", "why", "fix")

    assert until_interrupted(asyncio.sleep(0)) is False
    with pytest.raises(CommandError):
        until_interrupted(fails())


async def test_a_recording_replays_and_a_changed_app_is_caught(tmp_path: Path) -> None:
    wording = ["battery"]
    app = battery_app(wording)
    async with app.serving():
        with dev_process(tmp_path, "--no-clock", "--app", f"http://127.0.0.1:{app.port}") as dev:
            await until(lambda: app.sessions, "the app is started")
            await finished(command(tmp_path, "battery", "50"))
            await _shown(dev, "battery 50")
            path = tmp_path / "demo.jsonl"
            recorder = command(tmp_path, "record", str(path))
            assert recorder.stderr is not None
            assert "recording to" in await asyncio.to_thread(recorder.stderr.readline)
            for percent in (30, 60, 87):
                code, words = await finished(command(tmp_path, "battery", str(percent)))
                assert code == 0, words
                await _shown(dev, f"battery {percent}")
            recorder.send_signal(signal.SIGINT)
            code, words = await finished(recorder)
            assert code == 0, words
            assert sum(isinstance(entry, Input) for entry in read(path)) == 3

            code, words = await finished(command(tmp_path, "replay", str(path), "--expect-lens"))
            assert (code, "6 of 6 pictures appeared again" in words) == (0, True), words

            wording[0] = "charge"
            code, words = await finished(command(tmp_path, "replay", str(path), "--expect-lens"))
            assert code == 1
            assert "the left lens should show 'battery 30'" in words
            names = [name for name in os.listdir(tmp_path) if name.startswith("difference-left-")]
            with Image.open(tmp_path / names[0]) as picture:
                assert picture.size == (576, 136)


async def _shown(dev: DevProcess, words: str) -> None:
    """Waits for the words. Asked from a thread: the app of this test lives in our loop and has to go on meanwhile."""
    async with asyncio.timeout(10 * SLOW):
        while True:
            device = await asyncio.to_thread(dev.device)
            if words in str(device["arms"]["right"]["lens"]["text"]):
                return
            await asyncio.sleep(0.05)
