"""A cloud with wearers and apps, and a browser on its console whose every fault is noted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, ViewportSize, async_playwright
from starlette.responses import JSONResponse, Response

from cloud.auth import hash_api_key
from cloud.server import Cloud
from tests.support.app_server import FakeApp, FakeSession
from tests.support.cloud import phone, register, running, subscribed
from tests.support.fake_phone import FakePhone
from tests.support.tools import require_tool

ADMIN = "the admin token of the console's tests"
ANNA, BEN = "anna@home.example", "ben@home.example"
CAPTIONS, NOTES = "com.example.captions", "com.example.notes"
DESKTOP: ViewportSize = {"width": 1440, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}

SETTINGS: tuple[dict[str, Any], ...] = (
    {"type": "group", "title": "Captions"},
    {"key": "live", "type": "toggle", "label": "Show while speaking", "defaultValue": True},
    {"key": "lines", "type": "slider", "label": "Lines", "min": 1, "max": 5, "defaultValue": 3},
    {
        "key": "language",
        "type": "select",
        "label": "Language",
        "options": [{"label": "English", "value": "en"}, {"label": "Deutsch", "value": "de"}],
        "defaultValue": "en",
    },
    {"key": "prefix", "type": "text", "label": "Text before each line", "defaultValue": ""},
)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Debian's Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=require_tool("chromium"), args=["--no-sandbox"]
        )
        yield browser
        await browser.close()


@dataclass
class Faults:
    """What a page must not do: log errors (CSP violations are such), throw, or ask another origin."""

    origin: str
    found: list[str] = field(default_factory=list)
    #: Refusals that a test provokes: the browser logs their status, the page shows them.
    expected: tuple[str, ...] = ()

    def watch(self, page: Page) -> None:
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("pageerror", lambda error: self.found.append(str(error)))
        page.on("request", lambda request: self._asked(request.url))
        page.on("websocket", lambda socket: self._asked(socket.url.replace("ws", "http", 1)))

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not any(part in text for part in self.expected):
            self.found.append(text)

    def _asked(self, url: str) -> None:
        if not url.startswith(self.origin):
            self.found.append(f"asked {url}")


@asynccontextmanager
async def opened(
    browser: Browser,
    cloud: Cloud,
    where: str = "",
    *,
    viewport: ViewportSize = DESKTOP,
    expected: tuple[str, ...] = (),
    url: str | None = None,
) -> AsyncIterator[Page]:
    """The console at `#{where}`, at the cloud's own address or by way of `url`; leaving fails if the page broke a rule."""
    url = url or cloud.url
    context = await browser.new_context(viewport=viewport, has_touch=viewport["width"] < 500)
    page = await context.new_page()
    faults = Faults(url, expected=expected)
    faults.watch(page)
    await page.goto(f"{url}/console#{where}")
    try:
        yield page
    finally:
        await context.close()
    assert faults.found == []


@dataclass
class World:
    """Anna wears glasses with captions (which work) and notes (whose server fails until `mend()`)."""

    cloud: Cloud
    captions: FakeApp
    notes: FakeApp
    anna: FakePhone

    def mend(self) -> None:
        self.notes.answer = None


async def _fails(body: dict[str, Any]) -> Response | None:
    if body["type"] != "session_request":
        return None
    return JSONResponse({"status": "error", "message": "onSession threw"}, 500)


async def _greets(session: FakeSession) -> None:
    await session.show("where is the station\nplatform 4, in two minutes")


@asynccontextmanager
async def world(folder: Path, **overrides: Any) -> AsyncIterator[World]:
    """`profile="production"` asks for the admin token; the default is `dev`."""
    async with AsyncExitStack() as stack:
        captions = await stack.enter_async_context(
            FakeApp(CAPTIONS, "key-of-captions", "transcription:en-US")
        )
        notes = await stack.enter_async_context(FakeApp(NOTES, "key-of-notes"))
        captions.on_session, notes.answer = _greets, _fails
        allow = [url.removeprefix("http://") for url in (captions.url, notes.url)]
        given = {"webhooks__allow": allow, "auth__admin_token_sha256": hash_api_key(ADMIN), **overrides}
        cloud = await stack.enter_async_context(running(folder, **given))
        await register(cloud, captions, "MICROPHONE", settings=SETTINGS)
        await register(cloud, notes, "NOTIFICATIONS")
        anna = await stack.enter_async_context(phone(cloud, "T", ANNA))
        await anna.next("connection_ack")
        await anna.send("glasses_connection_state", modelName="Even G1", status="CONNECTED")
        await anna.send(
            "glassbridge_status",
            modelName="Even G1",
            arms={
                "left": {"state": "ready", "battery": 87, "rssi": -58},
                "right": {"state": "backoff", "reason": "out of range", "battery": 85},
            },
            simulated=True,
        )
        for package in (CAPTIONS, NOTES):
            await anna.start_app(package)
        await subscribed(cloud, CAPTIONS, ANNA)
        yield World(cloud, captions, notes, anna)
