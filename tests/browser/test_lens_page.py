"""The lens page in a real browser: the firmware's pixels, every input, keys alone, a phone, a screen reader."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.browser.conftest import IMAGES, open_page
from tests.support.dev_process import DevProcess
from tests.support.waiting import until

WAV = Path(__file__).resolve().parents[2] / "examples" / "station.wav"
LIT_AFTER_MS = 1300  # a change is marked for a second; then a lit pixel has the device's green

#: The canvas as one bit per pixel, packed as the firmware packs it.
READ_CANVAS = """(id) => {
  const canvas = document.getElementById(id);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const packed = new Uint8Array(canvas.width * canvas.height / 8);
  for (let at = 0; at < packed.length * 8; at++) if (data[at * 4 + 1] > 128) packed[at >> 3] |= 128 >> (at & 7);
  return btoa(String.fromCharCode(...packed));
}"""


TEXTS_OF_HALF_A_SECOND = """async () => {
  const seen = new Set();
  for (const end = Date.now() + 500; Date.now() < end; await new Promise((go) => setTimeout(go, 5)))
    seen.add(document.getElementById("lens-text").textContent);
  return [...seen];
}"""


async def framebuffer(dev: DevProcess, side: str) -> bytes:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"{dev.url}/api/sim/framebuffer", params={"side": side})).content


async def test_the_canvas_has_exactly_the_firmware_s_pixels(page: Page, dev: DevProcess) -> None:
    async def same() -> bool:
        await page.wait_for_timeout(LIT_AFTER_MS)
        for side in ("left", "right"):
            wanted = await framebuffer(dev, side)
            shown = base64.b64decode(await page.evaluate(READ_CANVAS, f"canvas-{side}"))
            if not any(wanted) or shown != wanted:
                return False
        return True

    for _ in range(20):  # the clock's minute may change between the two readings
        if await same():
            return
    pytest.fail("the canvases never equalled the framebuffers")


async def test_a_pixel_of_the_lens_is_a_square_of_whole_device_pixels(page: Page) -> None:
    width = await page.evaluate("document.getElementById('canvas-left').getBoundingClientRect().width")
    assert width % 576 == 0


STATE_INPUTS: list[tuple[str, Callable[[dict[str, Any]], bool]]] = [
    ("button[data-action=look_up]", lambda device: device["state"]["head_up"] is True),
    ("button[data-action=look_down]", lambda device: device["state"]["head_up"] is False),
    ("#wear", lambda device: device["state"]["worn"] is False),
    ("#wear", lambda device: device["state"]["worn"] is True),
]


async def test_head_and_wear_buttons_reach_the_firmware(page: Page, dev: DevProcess) -> None:
    for selector, holds in STATE_INPUTS:
        worn = await page.get_attribute("#wear", "aria-pressed")
        await page.click(selector)
        await until(partial(_holds, holds, dev), f"{selector} has arrived")
        if selector == "#wear":  # a toggle: the next click is made by whoever sees the button as it is now
            await expect(page.locator("#wear")).not_to_have_attribute("aria-pressed", str(worn))


def _holds(holds: Callable[[dict[str, Any]], bool], dev: DevProcess) -> bool:
    return holds(dev.device())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("action", "words"), [("tap", "tap"), ("double_tap", "double tap")])
async def test_touches_come_back_as_what_the_app_shows(
    page: Page, side: str, action: str, words: str
) -> None:
    await page.click(f"button[data-action={action}][data-side={side}]")
    await expect(page.locator("#lens-text")).to_contain_text(f"{words} touches", timeout=40_000)


async def test_an_answer_that_an_event_has_overtaken_changes_nothing(page: Page, dev: DevProcess) -> None:
    held: list[Route] = []
    async with httpx.AsyncClient(trust_env=False) as client:
        old = (await client.get(f"{dev.url}/api/sim/state")).content

    async def hold(route: Route) -> None:
        held.append(route)

    await page.route("**/api/sim/state", hold, times=1)
    await page.click("button[data-action=tap][data-side=left]")
    await expect(page.locator("#lens-text")).to_contain_text("tap", timeout=40_000)
    await until(lambda: bool(held), "the page has asked")
    await page.click("button[data-action=long_press][data-side=right]")
    await expect(page.locator("#lens-text")).to_contain_text("long press", timeout=40_000)
    watching = asyncio.create_task(page.evaluate(TEXTS_OF_HALF_A_SECOND))
    await held[0].fulfill(body=old, content_type="application/json")
    assert [text for text in await watching if "long press" not in text] == []


async def test_the_battery_slider_and_the_radio_reach_the_simulator(page: Page, dev: DevProcess) -> None:
    await page.locator("#battery").fill("40")
    await until(lambda: set(dev.device()["state"]["battery"].values()) == {40}, "the battery is set")
    await expect(page.locator("#lens-text")).to_contain_text("battery 40 %", timeout=40_000)
    await page.locator("#lag").fill("50")
    await expect(page.locator("#lag-value")).to_have_text("50 ms")
    await page.locator("#lag").fill("0")
    await page.click("button[data-action=drop][data-side=right]")
    await expect(page.locator("#link-right")).not_to_have_attribute("data-state", "on")
    await expect(page.locator("#link-right")).to_have_attribute("data-state", "on", timeout=60_000)


async def test_typed_words_appear_on_the_lens_and_their_way_is_drawn(page: Page) -> None:
    await page.fill("#words", "where is the station")
    await page.press("#words", "Enter")
    await expect(page.locator("#lens-text")).to_contain_text("where is the station", timeout=40_000)
    await expect(page.locator("#words")).to_have_value("")
    await page.keyboard.press("Escape")
    await page.locator("body").click(position={"x": 5, "y": 5})
    await page.keyboard.press("ArrowRight")
    hops = page.locator("#hops li")
    await expect(hops.first).to_contain_text("touch_event", timeout=40_000)
    assert await hops.locator(".who").all_text_contents() == [
        "glasses", "edge", "cloud", "app", "cloud", "edge", "radio", "lens",
    ]  # fmt: skip
    assert "–" not in await hops.locator(".ms").all_text_contents(), "each hop is measured"
    await expect(page.locator("#exchange-total")).to_contain_text("in all")
    await page.wait_for_timeout(LIT_AFTER_MS)
    await expect(page.locator("#differ")).to_be_hidden()
    await page.screenshot(path=IMAGES / "lens-page.png")


async def test_keys_alone_are_enough(page: Page, dev: DevProcess) -> None:
    await page.keyboard.press("ArrowUp")
    await until(lambda: dev.device()["state"]["head_up"] is True, "the head is up")
    await page.keyboard.press("ArrowDown")
    await until(lambda: dev.device()["state"]["head_up"] is False, "the head is down")
    await page.keyboard.press("Shift+ArrowLeft")
    await expect(page.locator("#lens-text")).to_contain_text("double tap", timeout=40_000)
    await page.keyboard.press("/")
    await expect(page.locator("#words")).to_be_focused()
    await page.keyboard.type("typed w and m")  # letters are words here, not keys
    await expect(page.locator("#words")).to_have_value("typed w and m")
    await expect(page.locator("#wear")).to_have_attribute("aria-pressed", "true")


async def test_a_wav_file_and_the_microphone_of_the_computer_are_heard(page: Page) -> None:
    await page.set_input_files("#wav", WAV)
    await expect(page.locator("#changes")).to_contain_text("WAV of 1.6 s is playing", timeout=40_000)
    await page.click("#mic")
    await expect(page.locator("#mic")).to_have_attribute("aria-pressed", "true", timeout=40_000)
    await expect(page.locator("#lens-text")).to_contain_text("mic |", timeout=40_000)
    await page.click("#mic")
    await expect(page.locator("#mic")).to_have_attribute("aria-pressed", "false")


async def test_a_screen_reader_hears_the_lens_and_knows_every_control(page: Page) -> None:
    live = page.locator("#lens-text")
    assert await live.get_attribute("aria-live") == "polite"
    assert "battery" in (await page.locator("#canvas-left").get_attribute("aria-label") or "")
    unnamed = await page.evaluate(
        """() => [...document.querySelectorAll("button, input, a, [role=img]")]
             .filter((e) => !(e.textContent.trim() || e.ariaLabel || e.closest("label")?.textContent.trim()))
             .map((e) => e.outerHTML)"""
    )
    assert unnamed == []


async def test_an_input_that_nothing_takes_is_told(page: Page) -> None:
    await page.evaluate("document.getElementById('press').hidden = false")
    await page.click("#press")
    await expect(page.locator("#toast")).to_contain_text("Even G1 has no button", timeout=20_000)


async def test_a_phone_needs_no_sideways_scrolling(browser: Browser, dev: DevProcess) -> None:
    async for phone in open_page(browser, dev, 390, 844, 3.0):
        await expect(phone.locator("#lens-text")).not_to_be_empty(timeout=40_000)
        await phone.locator("button[data-action=tap]").first.click()
        await expect(phone.locator("#hops li").last).to_contain_text("lens", timeout=40_000)
        await phone.wait_for_timeout(LIT_AFTER_MS)
        assert await phone.evaluate("document.documentElement.scrollWidth") <= 390
        small = await phone.evaluate(
            "() => [...document.querySelectorAll('button:not([hidden])')].filter((b) => b.offsetHeight < 44).length"
        )
        assert small == 0, "a finger needs 44 pixels"
        await phone.screenshot(path=IMAGES / "lens-phone.png")


async def test_the_picture_of_the_lens_for_the_read_me(page: Page) -> None:
    await page.fill("#words", "where is the station")
    await page.press("#words", "Enter")
    await expect(page.locator("#lens-text")).to_contain_text("where is the station", timeout=40_000)
    await page.wait_for_timeout(LIT_AFTER_MS)
    await page.locator("#lens-left .glass").screenshot(path=IMAGES / "lens.png")
