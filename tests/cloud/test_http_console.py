"""The console's data: versions of rows, pieces of the stream, samples, and who may have them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import orjson

from cloud.http.console.console import session_page
from cloud.http.console.feed import PAGE, Feed, moment
from cloud.http.console.samples import SAMPLES_MAX, Samples
from cloud.http.ports import AppView, SessionView
from tests.cloud.http_world import ADMIN, ANNA, APP, BEN, ScriptedHub, http_world


async def refreshed(feed: Feed) -> Feed:
    feed._looked_at = float("-inf")  # as if the last look were long ago
    await feed.refresh()
    return feed


async def test_the_first_answer_holds_all_rows_in_pages_and_the_next_only_changes() -> None:
    hub = ScriptedHub()
    for number in range(PAGE + 10):
        hub.connect(f"user{number}@home.example")
    feed = await refreshed(Feed(hub))
    first, second = feed.changes(0, "")
    assert (len(first["rows"]), len(second["rows"])) == (PAGE, 10)
    assert first["reset"]
    assert not second["reset"]
    assert (first["v"], second["v"]) == (0, feed.version)
    assert feed.changes(feed.version, feed.epoch) == []
    seen = feed.version
    hub.connect("user3@home.example", AppView(APP, "error", wanted=True, last_error="it threw"))
    await refreshed(feed)
    (piece,) = feed.changes(seen, feed.epoch)
    assert [row["u"] for row in piece["rows"]] == ["user3@home.example"]
    assert feed.summary()["failing"] == 1


async def test_a_row_that_ended_is_named_once_and_one_that_came_back_is_not() -> None:
    hub = ScriptedHub()
    hub.connect(ANNA)
    hub.connect(BEN)
    feed = await refreshed(Feed(hub))
    seen = feed.version
    del hub.sessions[BEN]
    hub.changed = lambda since: (since + 1, None)  # type: ignore[method-assign]
    await refreshed(feed)
    (piece,) = feed.changes(seen, feed.epoch)
    assert piece["gone"] == [BEN]
    hub.connect(BEN)
    await refreshed(feed)
    (piece,) = feed.changes(seen, feed.epoch)
    assert piece["gone"] == []
    assert [row["u"] for row in piece["rows"]] == [BEN]


async def test_versions_of_another_process_start_anew() -> None:
    hub = ScriptedHub()
    hub.connect(ANNA)
    feed = await refreshed(Feed(hub))
    (piece,) = feed.changes(1, "of another process")
    assert piece["reset"]
    assert len(piece["rows"]) == 1


def test_a_moment_does_not_move_with_the_rounding_of_clocks() -> None:
    assert moment(10.0, 1000.0) == 990.0
    assert moment(10.0, 1000.9, 990.0) == 990.0
    assert moment(1.0, 1000.0, 990.0) == 999.0
    assert moment(None, 1000.0) is None


def test_the_lens_is_in_the_page_only_if_asked_for() -> None:
    display = {"main": {"package": APP, "layout": {"layoutType": "text_wall", "text": "canary"}}}
    view = SessionView(ANNA, ANNA, "connected", display=display)
    covered = session_page(view, {}, {}, 1000.0, with_lens=False)
    assert "canary" not in str(covered)
    assert covered["lens_owner"] == {"main": APP}
    assert session_page(view, {}, {}, 1000.0, with_lens=True)["lens"]["main"]["text"] == "canary"


async def test_samples_are_rates_between_two_readings_and_bounded(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        samples, metrics = Samples(world.services), world.services.metrics
        samples.take(100.0)
        assert samples.since(0) == []
        metrics.counter("reconnects_total").labels("glasses").inc(3)
        metrics.histogram("webhook_seconds").labels("session_request").observe(0.2)
        samples.take(160.0)
        samples.take(220.0)
        first, second = samples.since(0)
        assert (first["reconnects"], first["webhook_ms"]) == (3.0, 200.0)
        assert (second["reconnects"], second["webhook_ms"]) == (0.0, None)
        for number in range(SAMPLES_MAX + 5):
            samples.take(300.0 + number)
        assert len(samples.since(0)) == SAMPLES_MAX


async def stream(world: Any, query: str, pieces: int) -> list[dict[str, Any]]:
    """The first pieces of a stream; the cloud drains afterwards, so that the in-process transport ends."""

    async def drain() -> None:
        await asyncio.sleep(0.1)
        world.hub.draining = True

    draining = asyncio.create_task(drain())
    answer = await world.get(f"/api/admin/console/stream?{query}", world.as_admin())
    await draining
    assert answer.status_code == 200, answer.text
    return [orjson.loads(line) for line in answer.content.splitlines()][:pieces]


async def test_a_stream_tells_the_counts_and_then_its_view(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        world.hub.connect(ANNA)
        summary, rows = await stream(world, "view=sessions", 2)
        assert summary == {"type": "summary", "sessions": 1, "connected": 1, "away": 0, "failing": 0}
        assert [row["u"] for row in rows["rows"]] == [ANNA]


async def test_a_session_s_stream_says_when_there_is_none(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        _, piece = await stream(world, f"view=session&user={BEN}", 2)
        assert piece == {"type": "session", "set": {"gone": True}, "drop": []}


async def test_a_question_that_makes_no_sense_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        for query, words in (
            ("view=lens", "view must"),
            ("since=x", "since"),
            ("view=session&user=", "user"),
        ):
            answer = await world.get(f"/api/admin/console/stream?{query}", world.as_admin())
            assert answer.status_code == 400
            assert words in answer.json()["error"]


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
            return await world.get("/api/admin/console", {"Authorization": f"Bearer {token}"})

        assert [(await ask(ADMIN)).status_code for _ in range(10)] == [200] * 10
        assert [(await ask("wrong")).status_code for _ in range(4)] == [401, 401, 401, 429]
        assert (await ask(ADMIN)).status_code == 429
        world.now += 5.0
        assert (await ask(ADMIN)).status_code == 200
