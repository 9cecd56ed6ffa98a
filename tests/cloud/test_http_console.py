"""The console's data (rows, samples) and its routes, and who may have them."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from cloud.http.console.console import is_own_origin
from cloud.http.console.feed import Feed, Table, moment, urgency
from cloud.http.console.samples import SAMPLES_MAX, Samples
from cloud.http.ports import AppView, SessionView
from tests.cloud.http_world import ADMIN, ANNA, APP, BEN, ScriptedHub, http_world


async def refreshed(feed: Feed) -> Feed:
    feed._looked_at = float("-inf")  # as if the last look were long ago
    await feed.refresh()
    return feed


def users(feed: Table, search: str = "", order: str = "user") -> list[str]:
    return [kept.row["u"] for kept in feed.find(search, order)]


async def test_a_row_that_did_not_change_keeps_its_version() -> None:
    hub = ScriptedHub()
    hub.connect(ANNA)
    hub.connect(BEN)
    feed = await refreshed(Feed(hub))
    before = {kept.row["u"]: kept.version for kept in feed.find("", "user")}
    hub.connect(BEN, AppView(APP, "error", wanted=True, last_error="it threw"))
    await refreshed(feed)
    after = {kept.row["u"]: kept.version for kept in feed.find("", "user")}
    assert before[ANNA] == after[ANNA]
    assert before[BEN] < after[BEN]
    assert feed.summary() == {"sessions": 2, "connected": 2, "away": 0, "failing": 1}


async def test_a_session_that_ended_is_no_row_and_one_that_came_back_is() -> None:
    hub = ScriptedHub()
    hub.connect(ANNA)
    hub.connect(BEN)
    feed = await refreshed(Feed(hub))
    del hub.sessions[BEN]
    hub.changed = lambda since: (since + 1, None)  # type: ignore[method-assign]
    assert users(await refreshed(feed)) == [ANNA]
    hub.connect(BEN)
    assert users(await refreshed(feed)) == [ANNA, BEN]


async def test_the_order_is_trouble_first_and_a_search_needs_every_word() -> None:
    hub = ScriptedHub()
    hub.connect("d@home.example")
    hub.connect("c@home.example", AppView("com.example.starts", "loading", wanted=True))
    hub.sessions["b@home.example"] = SessionView("b@home.example", "s", "detached")
    hub.connect("a@home.example", AppView("com.example.notes", "error", wanted=True, last_error="it threw"))
    feed = await refreshed(Feed(hub))
    assert [one[0] for one in users(feed, order="trouble")] == ["a", "b", "c", "d"]
    assert [urgency(kept.row) for kept in feed.find("", "trouble")] == [0, 2, 3, 4]
    assert users(feed, "AWAY") == ["b@home.example"], "by the name that the page shows"
    assert users(feed, "notes error") == ["a@home.example"]
    assert users(feed, "notes away") == []


def test_a_moment_does_not_move_with_the_rounding_of_clocks() -> None:
    assert moment(10.0, 1000.0) == 990.0
    assert moment(10.0, 1000.9, 990.0) == 990.0
    assert moment(1.0, 1000.0, 990.0) == 999.0
    assert moment(None, 1000.0) is None


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        (None, "glass.example", True),
        ("https://glass.example", "glass.example", True),
        ("https://GLASS.example:8443", "glass.example:8443", True),
        ("http://127.0.0.1:8002", "127.0.0.1:8002", True),
        ("https://public.example", "10.0.0.7:8002", True),  # a proxy that does not pass Host on
        ("https://evil.example", "glass.example", False),
        ("https://glass.example:8443", "glass.example", False),
        ("https://glass.example.evil.example", "glass.example", False),
        ("null", "glass.example", False),
        ("", "", False),
        ("file://glass.example", "glass.example", False),
    ],
)
def test_only_a_page_of_our_own_origin_may_open_the_socket(origin: str | None, host: str, own: bool) -> None:
    assert is_own_origin(origin, host, "https://public.example") is own


async def test_samples_count_what_happened_between_two_readings_and_are_bounded(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        samples, metrics = Samples(world.services), world.services.metrics
        samples.take(100.0)
        assert samples.since(0) == []
        metrics.counter("reconnects_total").labels("glasses").inc(3)
        metrics.histogram("webhook_seconds").labels("session_request").observe(0.2)
        samples.take(100.1)
        samples.take(220.0)
        first, second = samples.since(0)
        assert (first["reconnects"], first["webhook_ms"]) == (3, 200.0), "three, whatever the time between"
        assert (second["reconnects"], second["webhook_ms"]) == (0, None)
        for number in range(SAMPLES_MAX + 5):
            samples.take(300.0 + number)
        assert len(samples.since(0)) == SAMPLES_MAX


async def test_settings_of_an_app_take_only_keys_of_its_schema(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        where = f"/api/admin/apps/{APP}/settings/{ANNA}"
        good = await world.put(where, world.as_admin(), {"values": {"lang": "de"}})
        assert {entry.get("key"): entry.get("selected") for entry in good.json()["settings"]}["lang"] == "de"
        assert ("app settings", ANNA, APP) in world.hub.told
        assert (await world.put(where, world.as_admin(), {"values": {"other": 1}})).status_code == 400
        assert (await world.put(where, world.as_admin(), {})).status_code == 400


async def test_what_is_gone_cannot_be_replayed_and_the_answer_says_why(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        event = await world.post("/api/admin/trace/7/replay", world.as_admin())
        assert (event.status_code, "only the last" in event.json()["error"]) == (409, True)
        hook = await world.post(f"/api/admin/apps/{APP}/webhooks/1/replay", world.as_admin())
        assert hook.status_code == 404


async def test_wrong_admin_tokens_are_slowed_down_and_the_right_one_is_never_counted(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        world.services.admin_guesses = type(world.services.admin_guesses)(rate=0.2, burst=3)

        async def ask(token: str) -> httpx.Response:
            return await world.get("/api/admin/sessions", {"Authorization": f"Bearer {token}"})

        assert [(await ask(ADMIN)).status_code for _ in range(10)] == [200] * 10
        assert [(await ask("wrong")).status_code for _ in range(4)] == [401, 401, 401, 429]
        assert (await ask(ADMIN)).status_code == 429
        world.now += 5.0
        assert (await ask(ADMIN)).status_code == 200
