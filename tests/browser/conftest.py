"""Debian's Chromium on a running `glassbridge dev`; whatever breaks the page's own rules fails the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from tests.support.dev_process import DevProcess, dev_process
from tests.support.tools import require_tool

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "img"


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevProcess]:
    """One for all tests of the pages."""
    require_tool("chromium")
    # An app that somebody runs on this machine meanwhile would write on the lens, too.
    with dev_process(tmp_path_factory.mktemp("dev"), "--no-discover") as running:
        yield running


@pytest_asyncio.fixture
async def browser(dev: DevProcess) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        chromium = await playwright.chromium.launch(executable_path=require_tool("chromium"), args=arguments)
        yield chromium
        await chromium.close()


class Watched:
    """A page whose console errors, exceptions and foreign requests are remembered."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.faults: list[str] = []
        self.foreign: list[str] = []
        page.on("console", lambda message: self._console(message.type, message.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((origin, "data:", "blob:"))
                else self.foreign.append(request.url)
            ),
        )

    def _console(self, kind: str, text: str) -> None:
        # A refused input is an answer that the page shows; the browser logs its status all the same.
        if kind in ("error", "warning") and "status of 409" not in text:
            self.faults.append(text)

    def check(self) -> None:
        assert self.faults == []
        assert self.foreign == []


@pytest_asyncio.fixture
async def page(browser: Browser, dev: DevProcess) -> AsyncIterator[Page]:
    """The lens page on a desktop screen, live."""
    async for opened in open_page(browser, dev, 1440, 900, 1.0):
        yield opened


async def open_page(
    browser: Browser, dev: DevProcess, width: int, height: int, ratio: float
) -> AsyncIterator[Page]:
    context = await browser.new_context(
        viewport={"width": width, "height": height}, device_scale_factor=ratio, permissions=["microphone"]
    )
    opened = await context.new_page()
    watched = Watched(opened, dev.url)
    await opened.goto(dev.url)
    await opened.locator("#link-page[data-state=on]").wait_for()
    yield opened
    watched.check()
    await context.close()
