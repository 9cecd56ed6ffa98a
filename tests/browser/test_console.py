"""The console in a real browser: what an operator sees and does, keys alone, a phone, no token, a thousand sessions."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect
from websockets.asyncio.client import connect

from cloud.auth import hash_api_key
from cloud.cluster.fabric import Fabric
from cloud.cluster.nats import NatsFabric, NatsOptions
from cloud.core.session import SessionState
from cloud.http.console.console import ASSETS, LIVE_PATH
from cloud.http.console.samples import Samples
from cloud.hub import Hub
from cloud.session_entry import SessionEntry
from tests.browser.conftest import IMAGES
from tests.support.brokers import Brokers
from tests.support.cloud import phone, running
from tests.support.console import (
    ADMIN,
    ANNA,
    BEN,
    CAPTIONS,
    NOTES,
    PHONE,
    chromium,
    opened,
    world,
)
from tests.support.fault_proxy import FaultProxy
from tests.support.nodes import nodes
from tests.support.waiting import SLOW, until

expect.set_options(timeout=10_000 * SLOW)

SESSIONS = 1000
#: Samples in the picture of the health page, and how far they are apart in a cloud, in seconds.
HISTORY, SAMPLE_EVERY = 240, 5.0
#: Scrolling through all rows: how long the frames took, in milliseconds.
SCROLL = """async () => {
  const list = document.querySelector(".list"), times = [];
  let before = performance.now();
  for (let step = 0; step <= 120; step++) {
    list.scrollTop = (list.scrollHeight - list.clientHeight) * step / 120;
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    times.push(now - before);
    before = now;
  }
  return times;
}"""


@pytest_asyncio.fixture
async def console() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    servers = Brokers(tmp_path_factory.mktemp("nats"), 1)
    try:
        servers.start()
        yield servers
    finally:
        servers.close()


async def shoot(page: Page, name: str) -> None:
    await page.screenshot(path=IMAGES / f"console-{name}.png")


async def test_a_session_s_page_shows_links_apps_lens_and_why(console: Browser, tmp_path: Path) -> None:
    async with world(tmp_path) as scene, opened(console, scene.cloud) as page:
        row = page.locator(".line", has_text=ANNA)
        await expect(row).to_contain_text("connected")
        await expect(row.locator(".chip.app[data-state=bad]")).to_have_text("notes")
        await row.click()
        await expect(page.locator("h2")).to_have_text(ANNA)
        await expect(page.locator(".glass")).to_contain_text("platform 4")
        await expect(page.locator(".arm", has_text="right")).to_contain_text("out of range")
        failed = page.locator(f".card[data-package='{NOTES}']")
        await expect(failed).to_contain_text("the webhook answered 500")
        await expect(failed).to_contain_text("next")
        for lane in ("glasses", "microphone", "captions", "notes"):
            await expect(page.locator(".picture .lane", has_text=lane)).to_be_visible()
        assert await page.locator(".picture .bar-bad").count() >= 1
        await page.wait_for_timeout(3000)  # so that the picture has something to show
        await shoot(page, "session")
        scene.mend()
        await failed.get_by_role("button", name="Try now").click()
        await expect(failed).to_contain_text("connected")
        await failed.get_by_role("button", name="Stop").click()
        await expect(failed).to_contain_text("stopped")
        await failed.get_by_role("button", name="Start").click()
        await expect(failed).to_contain_text("connected")


async def test_a_lost_session_is_away_and_its_loss_is_drawn(console: Browser, tmp_path: Path) -> None:
    async with world(tmp_path) as scene, opened(console, scene.cloud) as page:
        row = page.locator(".line", has_text=ANNA)
        await expect(row).to_contain_text("connected")
        await scene.anna.drop()
        await expect(row).to_contain_text("away")
        await expect(page.locator("#count-away")).to_have_text("1 away")
        await row.click()
        await expect(page.locator(".picture .bar-wait").first).to_be_visible()
        await scene.anna.connect()
        await expect(page.locator(".facts")).to_contain_text("connected")


async def test_a_failed_webhook_is_shown_and_replayed_after_the_repair(
    console: Browser, tmp_path: Path
) -> None:
    async with world(tmp_path) as scene, opened(console, scene.cloud, f"/apps/{NOTES}") as page:
        newest = page.locator(".hook").first
        await expect(newest).to_contain_text("500")
        await expect(newest).to_contain_text("onSession threw")
        await expect(newest).to_contain_text('"type": "session_request"')
        await shoot(page, "webhook")
        scene.mend()
        await newest.get_by_role("button", name="Replay").click()
        await expect(page.locator(".hook", has_text="replayed").first).to_contain_text("200")
        await scene.notes.started(ANNA)

        def runs() -> bool:
            view = scene.cloud.hub.session_view(ANNA)
            return view is not None and any(
                app.package_name == NOTES and app.state == "connected" for app in view.apps
            )

        await until(runs, "the replayed request brought the app back")


async def test_an_app_is_registered_set_up_and_removed(console: Browser, tmp_path: Path) -> None:
    async with world(tmp_path) as scene:
        store = scene.cloud.store
        async with opened(console, scene.cloud, "/apps") as page:
            await page.click("#new-app")
            await page.fill("[name=packageName]", "com.example.weather")
            await page.fill("[name=name]", "Weather")
            await page.fill("[name=publicUrl]", "http://127.0.0.1:3999")
            await page.check("[name=permission][value=LOCATION]")
            await page.locator("form.record").get_by_role("button", name="Register").click()
            key = await page.locator(".secret").input_value()
            assert len(key) == 64
            record = await store.get_app("com.example.weather")
            assert record is not None
            assert [one.type for one in record.permissions] == ["LOCATION"]
            await page.reload()
            await page.get_by_role("link", name="Weather").wait_for()
            assert key not in await page.content()
            await page.get_by_role("link", name="Weather").click()
            await page.get_by_role("button", name="New key").click()
            await page.get_by_role("button", name="The old key ends. Sure?").click()
            assert await page.locator(".secret").input_value() != key
            await page.get_by_role("button", name="Remove").click()
            await page.get_by_role("button", name="Really remove it?").click()
            await expect(page.locator("h2")).to_have_text("Apps")
            assert await store.get_app("com.example.weather") is None


async def test_the_settings_form_follows_the_schema_and_tells_the_app(
    console: Browser, tmp_path: Path
) -> None:
    async with world(tmp_path) as scene, opened(console, scene.cloud, f"/apps/{CAPTIONS}") as page:
        form = page.locator("form.settings")
        await form.get_by_label("Show while speaking").uncheck()
        await form.get_by_label("Language").select_option("Deutsch")
        await form.get_by_label("Text before each line").fill("» ")
        await form.get_by_role("button", name="Save settings").click()
        await expect(page.locator("#toast")).to_contain_text("Saved")
        await shoot(page, "app")
        stored = await scene.cloud.store.get_app_settings(ANNA, CAPTIONS)
        assert stored == {"live": False, "language": "de", "prefix": "» "}
        session = scene.captions.session(ANNA)
        await until(lambda: session.of("settings_update"), "the app hears of it")


async def test_the_trace_shows_hops_filters_and_sends_an_event_again(
    console: Browser, tmp_path: Path
) -> None:
    async with world(tmp_path) as scene:
        app = scene.captions.session(ANNA)
        await app.subscribe("transcription:en-US", "button_press")
        scene.mend()  # its failure stays in the trace, but no notice of it covers the screen any more
        await scene.notes.started(ANNA)

        async def answers() -> None:
            seen = 0
            while True:
                presses = len(app.events("button_press"))
                if presses > seen:
                    seen = presses
                    since = scene.anna.mark()
                    await app.show(f"pressed {seen}")
                    shown = await scene.anna.shows(f"pressed {seen}", since=since)
                    await scene.anna.send(
                        "glassbridge_display_result",
                        displayId=shown["displayId"],
                        outcome="shown",
                        downlinkMs=8,
                        edgeMs=2,
                        bleMs=140,
                    )
                await asyncio.sleep(0.01)

        answering = asyncio.create_task(answers())
        try:
            async with opened(console, scene.cloud, "/trace") as page:
                await page.locator(".trace li[data-kind]").first.wait_for()
                await page.wait_for_timeout(5000)  # boot screen and notice have their time
                # As our edge does it: its clock first, and on every event the time when it happened.
                clock = time.time() * 1000 - 3
                await scene.anna.send(
                    "ping", sentMs=1, clockMs=clock, offsetMs=0, errorMs=0.8, rttMs=5, audioMs=2
                )
                stamp = round(time.time() * 1000 - 3)
                await scene.anna.send("button_press", buttonId="main", pressType="short", timestamp=stamp)
                press = page.locator(".trace li[data-kind=from_glasses]", has_text="button_press")
                await expect(press).to_have_count(1)
                await expect(page.locator(".hops").first).to_contain_text("lens 140 ms")
                await shoot(page, "trace")
                assert "platform 4" not in await page.content()
                await press.get_by_role("button", name="Replay").click()
                await until(lambda: len(app.events("button_press")) == 2, "the event came again")
                await page.get_by_label("Which events").select_option("faults")
                await expect(page.locator(".trace li[data-kind=webhook]").first).to_contain_text("500")
                await expect(page.locator(".trace li[data-kind=from_glasses]")).to_have_count(0)
                await page.get_by_label("Filter the trace").fill("nobody@nowhere")
                await expect(page.locator(".trace li.empty")).to_be_visible()
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)


async def test_a_token_is_minted_once_and_revoked(console: Browser, tmp_path: Path) -> None:
    async with world(tmp_path) as scene, opened(console, scene.cloud, "/users") as page:
        await page.get_by_label("E-mail address of the user").fill(BEN)
        await page.get_by_role("button", name="Add user").click()
        card = page.locator(f".card[data-user='{BEN}']")
        await card.get_by_label("Label of the new token").fill("kitchen Pi")
        await card.get_by_role("button", name="Mint a token").click()
        token = await page.locator(".secret").input_value()
        assert scene.cloud.verifier.verify(token).user_id == BEN
        await expect(card).to_contain_text("kitchen Pi")
        await shoot(page, "users")
        await page.get_by_role("button", name="I have it").click()
        assert token not in await page.content()
        await card.get_by_role("button", name="Revoke").click()
        await card.get_by_role("button", name="Really revoke?").click()
        await expect(card).to_contain_text("revoked")
        assert len(scene.cloud.verifier.revoked) == 1


async def test_health_draws_what_the_process_measures(console: Browser, tmp_path: Path) -> None:
    async with world(tmp_path) as scene:
        await scene.captions.session(ANNA).subscribe("transcription:en-US", "button_press")
        hub, samples = scene.cloud.hub, Samples(scene.cloud.services)
        scene.cloud._console.samples = samples
        # Twenty minutes in a few seconds: what is measured is real, only the clock of the samples runs faster.
        steps = iter(range(10**6))
        begin = time.time() - HISTORY * SAMPLE_EVERY
        hub.on_published = lambda: samples.take(begin + next(steps) * SAMPLE_EVERY)
        for number in range(HISTORY):
            if number in (90, 175):
                await scene.anna.drop()
            elif number in (94, 177):
                await scene.anna.connect()
            elif number % 7 == 4:
                await scene.anna.send("button_press", buttonId="main", pressType="short")
            hub.publish()
            await asyncio.sleep(0.03)
        hub.on_published = scene.cloud._console.sample
        kept = samples.since(0)
        assert sum(one["reconnects"] for one in kept) == 2
        failures = sum(one["webhook_failures"] for one in kept)
        async with opened(console, scene.cloud, "/health") as page:
            await expect(page.locator("[data-plot=sessions] output")).to_have_text("1")
            await expect(page.locator("[data-plot=reconnects] output")).to_have_text("0 in the last minute")
            for name, count in (("reconnects", 2), ("webhook_failures", failures)):
                bars = page.locator(f"[data-plot={name}] rect.count")
                told = await bars.all_text_contents()
                assert sum(int(words.split()[0]) for words in told) == count, "one looks like one"
            assert await page.locator(".plot svg path.curve").count() == 5
            await expect(page.locator(".facts")).to_contain_text("ready")
            await expect(page.locator("#nodes")).to_be_hidden()
            await shoot(page, "health")


async def test_only_the_admin_token_opens_the_console(console: Browser, tmp_path: Path) -> None:
    async with (
        world(tmp_path, profile="production") as scene,
        opened(console, scene.cloud) as page,
    ):
        field = page.get_by_label("Admin token")
        await expect(field).to_be_focused()
        assert ANNA not in await page.content()
        await field.fill("a wrong one")
        await page.keyboard.press("Enter")
        await expect(page.locator("#fault")).to_contain_text("not the admin token")
        await shoot(page, "login")
        await field.fill(ADMIN)
        await page.keyboard.press("Enter")
        await expect(page.locator(".line", has_text=ANNA)).to_be_visible()
        assert await page.context.cookies() == []
        await page.goto(f"{scene.cloud.url}/console#/session/{ANNA}")
        await expect(page.locator(".arm").first).to_be_visible()
        assert "platform 4" not in await page.content()  # what a wearer reads is shown on demand
        await page.click("#show-lens")
        await expect(page.locator(".glass")).to_contain_text("platform 4")
        await page.click("#leave")
        await expect(page.get_by_label("Admin token")).to_be_visible()


async def test_a_page_whose_cloud_is_gone_says_so_stands_still_and_comes_back(
    console: Browser, tmp_path: Path
) -> None:
    refused = ("WebSocket connection to", "ERR_CONNECTION_REFUSED")
    async with AsyncExitStack() as life:
        first = await life.enter_async_context(
            running(tmp_path, auth__admin_token_sha256=hash_api_key(ADMIN))
        )
        anna = await life.enter_async_context(phone(first, "T", ANNA))
        await anna.next("connection_ack")
        async with opened(console, first, expected=refused) as page:
            line = page.locator(".line", has_text=ANNA)
            await expect(line).to_contain_text("connected")
            await expect(page.locator("#live")).to_have_text("live")
            await expect(page.locator("#not-live")).to_be_hidden()
            await life.aclose()
            notice = page.locator("#not-live")
            await expect(notice).to_contain_text("Not live.")
            await expect(notice).to_contain_text("What you see is from")
            await expect(page.locator("#live")).to_have_text("not live")
            age = await line.locator("[data-since]").text_content()
            await page.wait_for_timeout(2500)
            assert await line.locator("[data-since]").text_content() == age, "what is not known does not grow"
            assert float(await page.locator("main").evaluate("item => getComputedStyle(item).opacity")) < 0.7
            again = running(tmp_path, port=first.port, auth__admin_token_sha256=hash_api_key(ADMIN))
            async with again as second:
                await notice.get_by_role("button", name="Try now").click()
                await expect(page.locator("#live")).to_have_text("live")
                await expect(notice).to_be_hidden()
                await expect(page.locator(".empty")).to_contain_text("Nobody is connected")
                async with phone(second, "T", ANNA) as back:
                    await back.next("connection_ack")
                    await expect(line).to_contain_text("connected")


async def test_what_a_page_shows_stays_to_be_read_while_the_network_is_away(
    console: Browser, tmp_path: Path
) -> None:
    async with world(tmp_path) as scene, FaultProxy("127.0.0.1", scene.cloud.port) as proxy:
        url, where = f"http://127.0.0.1:{proxy.port}", f"/session/{ANNA}"
        async with opened(console, scene.cloud, where, url=url, expected=("WebSocket connection",)) as page:
            await expect(page.locator(".glass")).to_contain_text("platform 4")
            await page.wait_for_timeout(3000)  # so that the picture has something to show
            proxy.hole(up=True, down=True)
            proxy.reset()
            notice = page.locator("#not-live")
            await expect(notice).to_contain_text("What you see is from")
            await expect(page.locator(".glass")).to_contain_text("platform 4")
            await shoot(page, "not-live")
            proxy.heal()
            proxy.reset()  # what was asked meanwhile is lost, as on a network that comes back
            await expect(page.locator("#live")).to_have_text("live")
            await expect(notice).to_be_hidden()
            await expect(page.locator(".facts")).to_contain_text("connected")


async def test_the_token_travels_in_no_address_and_the_page_asks_its_own_origin_only(
    console: Browser, tmp_path: Path
) -> None:
    async with world(tmp_path, profile="production") as scene:
        sockets: list[str] = []
        async with opened(console, scene.cloud, expected=("Content Security Policy",)) as page:
            await expect(
                page.get_by_label("Admin token")
            ).to_be_focused()  # it was tried without a token first
            page.on("websocket", lambda socket: sockets.append(socket.url))
            await page.get_by_label("Admin token").fill(ADMIN)
            await page.keyboard.press("Enter")
            await expect(page.locator(".line", has_text=ANNA)).to_be_visible()
            for view in ("Apps", "Trace", "Health", "Sessions"):
                await page.get_by_role("link", name=view, exact=True).click()
                await expect(page.locator("h2")).to_have_text(view)
            assert sockets == [scene.cloud.url.replace("http", "ws") + LIVE_PATH], "one for all views"
            said: list[str] = []
            page.on("console", lambda message: said.append(message.text))
            for code in (
                "new WebSocket('ws://127.0.0.1:9/')",
                "fetch('http://127.0.0.1:9/').catch(() => 0)",
                "document.body.setAttribute('onclick', 'window.ran = 1')",
            ):
                await page.evaluate(f"() => {{ try {{ {code} }} catch {{ }} }}")
            await until(lambda: sum("Content Security Policy" in one for one in said) >= 3, "each is refused")


async def test_guessing_the_admin_token_is_slow_and_a_page_of_another_site_gets_nothing(
    tmp_path: Path,
) -> None:
    async with (
        world(tmp_path, profile="production") as scene,
        httpx.AsyncClient(base_url=scene.cloud.url, trust_env=False) as client,
    ):
        for path in ASSETS:
            answer = await client.get(path)
            assert answer.status_code == 200
            assert "'unsafe" not in answer.headers["content-security-policy"]
        root = await client.get("/")
        assert root.headers["location"] == "/console"
        foreign = await client.get("/api/admin/sessions", headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 401
        assert "access-control-allow-origin" not in foreign.headers
        wrong = [
            (await client.get("/api/admin/sessions", headers={"Authorization": f"Bearer {n}"})).status_code
            for n in range(20)
        ]
        assert wrong[:5] == [401] * 5
        assert wrong[-1] == 429


async def test_the_console_works_with_keys_alone(console: Browser, tmp_path: Path) -> None:
    async with world(tmp_path) as scene, opened(console, scene.cloud) as page:
        await page.locator(".line").first.wait_for()
        await page.keyboard.press("/")
        await expect(page.get_by_label("Search sessions")).to_be_focused()
        await page.keyboard.type("anna")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("table", name="Sessions")).to_be_focused()
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("Enter")
        await expect(page.locator("h2")).to_have_text(ANNA)
        stop = page.locator(f".card[data-package='{CAPTIONS}']").get_by_role("button", name="Stop")
        await expect(stop).to_be_visible()
        for _ in range(40):
            await page.keyboard.press("Tab")
            if await page.evaluate(
                "document.activeElement.textContent === 'Stop' && document.activeElement.closest('.card')"
                f".dataset.package === '{CAPTIONS}'"
            ):
                break
        await page.keyboard.press("Enter")
        await expect(page.locator(f".card[data-package='{CAPTIONS}']")).to_contain_text("stopped")


async def test_a_console_shows_the_sessions_of_all_nodes_and_names_the_one_that_is_silent(
    console: Browser, tmp_path: Path, broker: Brokers
) -> None:
    async def make() -> Fabric:
        return await NatsFabric.open(NatsOptions(servers=broker.urls, cell="console", buckets=1))

    async with (
        nodes(tmp_path, make) as world,
        world.phone(ANNA, first=0) as anna,
        world.phone(BEN, first=1) as ben,
    ):
        await until(lambda: anna.is_live and ben.is_live, "both wear glasses")
        first, second = (cloud.services.others[0] for cloud in world.clouds if cloud.services.others)
        async with opened(console, world[0]) as page:
            rows = page.locator(".line .user")
            await expect(rows).to_have_text([f"{ANNA} {first}", f"{BEN} {second}"])
            await expect(page.locator("#count-sessions")).to_have_text("2 connected")
            await page.get_by_label("Search sessions").fill("node1")
            await expect(page.locator("#total")).to_have_text("1 of 2")
            await expect(rows).to_have_count(1)
            await rows.click()
            await expect(page.locator("h2")).to_have_text(BEN)
            await expect(page.locator(".facts")).to_contain_text(second)
            await expect(page.locator(".facts .chip").first).to_have_text("connected")
            await page.get_by_role("link", name="Trace").last.click()
            event = page.locator(".trace li[data-kind=from_glasses]", has_text=BEN)

            async def noted() -> bool:
                """Events are noted while somebody watches: the first question to the other node begins that."""
                ben.press()
                await asyncio.sleep(0.5)
                return await event.count() > 0

            await until(noted, "the trace of the other node", 20)
            await expect(event.first).to_contain_text(second)
            await expect(event.get_by_role("button", name="Replay")).to_have_count(0)
            await page.get_by_role("link", name="Health", exact=True).click()
            line = page.locator(f"#nodes tr[data-node={second}]")
            await expect(line).to_contain_text("normal")
            await expect(line.locator("td").last).to_have_text("1")
            await page.wait_for_timeout(5500)  # the lag is the worst of 5 s, and both have just started
            await page.locator("#nodes").screenshot(path=IMAGES / "console-cluster.png")
            await expect(page.locator("#silent")).to_be_hidden()
            await world.lose(1, redial=False)
            await expect(page.locator("#silent")).to_contain_text(f"No answer from {second}")
            await expect(line).to_have_count(0)
            await page.get_by_role("link", name="Sessions", exact=True).click()
            await page.get_by_label("Search sessions").fill("")
            await expect(rows).to_have_text([f"{ANNA} {first}"])


async def test_the_last_of_a_thousand_is_one_key_away_and_its_page_comes_when_it_is_looked_at(
    console: Browser, tmp_path: Path
) -> None:
    async with world(tmp_path) as scene:
        for number in range(400):
            scene.cloud.hub._create(f"user{number:04}@home.example", with_glasses=True)
        async with opened(console, scene.cloud) as page:
            await page.get_by_label("Order").select_option("user")
            await expect(page.locator("#total")).to_have_text("401 sessions")
            await expect(page.locator(".line").first).to_contain_text(ANNA)
            table = page.get_by_role("table", name="Sessions")
            await table.focus()
            await page.keyboard.press("End")
            last = page.locator(".line.cursor")
            await expect(last).to_contain_text("user0399")
            await expect(page.locator(".line.blank")).to_have_count(0)
            await page.keyboard.press("ArrowUp")
            await page.keyboard.press("Enter")
            await expect(page.locator("h2")).to_have_text("user0398@home.example")


async def test_a_phone_shows_every_view_without_sideways_scrolling(console: Browser, tmp_path: Path) -> None:
    async with world(tmp_path) as scene, opened(console, scene.cloud, viewport=PHONE) as page:
        await page.locator(".line").first.wait_for()
        for where, landmark in (
            ("/apps", ".card"),
            (f"/apps/{CAPTIONS}", "form.settings"),
            ("/trace", ".trace li[data-kind]"),
            ("/users", ".card"),
            ("/health", ".facts .chip"),
            (f"/session/{ANNA}", ".picture svg"),
        ):
            await page.goto(f"{scene.cloud.url}/console#{where}")
            await page.locator(landmark).first.wait_for()
            assert await page.evaluate("document.documentElement.scrollWidth") <= 390, where
        await shoot(page, "phone")


def flap(hub: Hub, entries: list[SessionEntry]) -> None:
    """Ten sessions lose their glasses, ten others get them back."""
    for entry in random.sample(entries, 20):
        if entry.session.glasses_connection is None:
            hub.feed(entry, entry.session.glasses_connected, 2_000_000 + random.randrange(10**6))
        else:
            hub.feed(entry, entry.session.glasses_lost, entry.session.glasses_connection)


async def churn(hub: Hub, entries: list[SessionEntry], per_second: int) -> None:
    while per_second:
        flap(hub, entries)
        await asyncio.sleep(20 / per_second)


async def streamed(url: str, once_a_second: Callable[[], None]) -> dict[str, int]:
    """What one console is sent: for its page of the list, and per second while things change."""
    sizes: list[int] = []
    async with connect(url.replace("http", "ws", 1) + LIVE_PATH, proxy=None, compression=None) as socket:
        await socket.send(json.dumps({"type": "hello", "token": ADMIN}))
        await socket.send(json.dumps({"type": "look", "look": 1, "view": "sessions", "count": 120}))

        async def read() -> None:
            async for piece in socket:
                sizes.append(len(piece))

        reading = asyncio.create_task(read())
        await until(lambda: sum(sizes) > 10_000, "the page of the list")
        await asyncio.sleep(1)
        whole = sum(sizes)
        for _ in range(5):
            once_a_second()
            await asyncio.sleep(1)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    return {"page_bytes": whole, "changes_per_s": 20, "bytes_per_s": (sum(sizes) - whole) // 5}


async def test_a_thousand_sessions_stay_smooth(console: Browser, tmp_path: Path) -> None:
    async with world(tmp_path) as scene:
        hub = scene.cloud.hub
        # Real sessions, each with a socket that the hub believes in: a thousand TCP connections would prove no more here.
        entries = [hub._create(f"user{n:04}@home.example", with_glasses=True) for n in range(SESSIONS - 1)]
        for number, entry in enumerate(entries):
            hub.feed(entry, entry.session.glasses_connected, 1_000_000 + number)
        await until(
            lambda: all(one.session.state is SessionState.CONNECTED for one in entries),
            "all are connected",
            20.0,
        )
        for number, entry in enumerate(entries):
            if number % 9 == 0:
                hub.feed(entry, entry.session.glasses_lost, 1_000_000 + number)
            # A past for the strips: a quarter of an hour cannot be waited for here.
            for state, ago in (
                ("connected", 30 + number % 90),
                ("detached", 60 + 7 * number % 500),
                ("connected", 880),
            ):
                entry.lanes["glasses"].insert(0, {"state": state, "reason": None, "at": time.time() - ago})
        began = time.monotonic()
        async with opened(console, scene.cloud) as page:
            await expect(page.locator("#total")).to_have_text(f"{SESSIONS} sessions")
            first = time.monotonic() - began
            paint = await page.evaluate(
                "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
            )
            assert await page.locator(".line").count() < 60
            figures: dict[str, Any] = {
                "sessions": SESSIONS,
                "first_paint_ms": round(paint),
                "open_to_all_rows_s": round(first, 2),
                "rows_in_page": await page.locator(".line").count(),
            }
            for changes in (0, 100):  # a second, while the list is scrolled from top to bottom
                changing = asyncio.create_task(churn(hub, entries, changes))
                ordered = sorted(await page.evaluate(SCROLL))
                changing.cancel()
                await asyncio.gather(changing, return_exceptions=True)
                figures[f"frame_ms_with_{changes}_changes_per_s"] = {
                    "median": round(ordered[len(ordered) // 2], 1),
                    "p95": round(ordered[int(len(ordered) * 0.95)], 1),
                    "max": round(ordered[-1], 1),
                }
                # 60 frames a second are 16.7 ms; the bound leaves room for a machine that runs other tests.
                assert ordered[len(ordered) // 2] < 25 * SLOW
                await expect(page.locator(".line.blank")).to_have_count(0)
            print(json.dumps(figures))
            await page.evaluate("document.querySelector('.list').scrollTop = 0")
            await page.get_by_label("Order").select_option("trouble")
            await page.wait_for_timeout(500)
            await shoot(page, "sessions")
            asked = [0]
            page.on("request", lambda request: asked.__setitem__(0, asked[0] + 1))
            stream = await streamed(scene.cloud.url, lambda: flap(hub, entries))
            print(json.dumps(stream))
            assert stream["bytes_per_s"] < 100_000, "twenty changes a second are not twenty lists"
            await hub.end_session("user0500@home.example", "over")
            await expect(page.locator("#total")).to_have_text(f"{SESSIONS - 1} sessions")
            assert asked[0] == 0  # the change came over the open stream
            await page.get_by_label("Search sessions").fill("user0042")
            await expect(page.locator("#total")).to_have_text(f"1 of {SESSIONS - 1}")
