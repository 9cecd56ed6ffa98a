"""The development loop with unmodified SDK apps: edit, save, and the lens is back without a click."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.driver import HERE, free_port, install_sdk
from tests.support.dev_process import DevProcess, dev_process
from tests.support.tools import require_tool
from tests.support.waiting import SLOW

PACKAGES = {"2.1.29": "@mentra/sdk", "3.0.0-hono.8": "@mentra/sdk-3"}
#: From the saved file to both lenses; the app's own restart is in it. Seconds.
BACK_MAX = 10.0


@contextmanager
def developing(folder: Path, sdk: str, port: int) -> Iterator[Path]:
    """An app under `node --watch`, as `npm run dev` runs it; gives its source file."""
    source = folder / "index.mjs"
    shutil.copy(HERE / "apps" / "captions.mjs", source)
    (folder / "node_modules").symlink_to(HERE / "node_modules")
    with (folder / "app.log").open("wb") as log:
        process = subprocess.Popen(
            [require_tool("node"), "--watch", source.name],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, "APP_SDK": PACKAGES[sdk], "PORT": str(port)},
        )  # fmt: skip
        try:
            yield source
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def lit(dev: DevProcess, words: str, log: Path, within: float) -> float:
    """Seconds until both lenses show the words."""
    began = time.monotonic()
    while not all(words in arm["lens"]["text"] for arm in dev.device()["arms"].values()):
        waited = time.monotonic() - began
        assert waited < within, (
            f"no {words!r} after {waited:.0f} s; {dev.errors[-5:]}; {log.read_text()[-1500:]}"
        )
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize("sdk", PACKAGES)
def test_an_edited_app_is_back_on_the_lens_without_a_click(tmp_path: Path, sdk: str) -> None:
    install_sdk()
    port = free_port()
    with (
        dev_process(tmp_path, "--no-clock", "--no-discover", "--app", f"http://127.0.0.1:{port}") as dev,
        developing(tmp_path, sdk, port) as source,
    ):
        log = tmp_path / "app.log"
        lit(dev, "Hello", log, 30 * SLOW)
        for words in ("Edited once", "Edited twice"):
            text = source.read_text()
            before = text[text.index("GREETING = ") :].partition("\n")[0]
            source.write_text(text.replace(before, f'GREETING = "{words}";'))
            back = lit(dev, words, log, BACK_MAX * SLOW)
            print(f"SDK {sdk}: on both lenses {back:.1f} s after it was saved")
