"""What a console of a cluster sees: everybody once, in step with each node, and who does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cloud.http.console import everywhere as module
from cloud.http.console.everywhere import MISSED_MAX, PAGES_MAX, Everywhere, answer
from cloud.http.console.feed import ENDED_MAX, NEWS_MAX, Feed
from cloud.http.console.samples import Samples
from cloud.http.console.views import TRACE_MAX, OneSession, make_view, steady
from cloud.http.ports import AppView
from tests.cloud.http_world import ANNA, APP, BEN, HttpWorld, ScriptedHub, http_world
from tests.cloud.test_http_console import refreshed, users
from tests.support.waiting import until

MANY = 3 * NEWS_MAX + 7


class Cluster:
    """Node a, whose console is open, and node b; what they say goes through JSON as on the bus."""

    def __init__(self, a: HttpWorld, b: HttpWorld) -> None:
        self.a, self.b = a, b
        self.feeds = {"a": Feed(a.hub), "b": Feed(b.hub)}
        self.rounds = 0
        self.is_silent = self.is_gone = False
        a.services.others, b.services.others = ("a", self.ask), ("b", self.ask)
        self.everywhere = Everywhere(a.services, self.feeds["a"])

    async def ask(self, question: dict[str, Any], only: Collection[str] | None = None) -> dict[str, Any]:
        self.rounds += 1
        if self.is_gone:
            return {}
        if self.is_silent or (only is not None and "b" not in only):
            return {"b": None}
        said = orjson.loads(orjson.dumps(question))
        return {"b": orjson.loads(orjson.dumps(answer(self.b.services, self.feeds["b"], said)))}

    async def look(self) -> Everywhere:
        for feed in self.feeds.values():
            await refreshed(feed)
        await self.everywhere.own()
        while await self.everywhere.look():
            pass
        return self.everywhere

    def nodes(self) -> dict[str, str]:
        return {kept.row["u"]: kept.row["n"] for kept in self.everywhere.find("", "user")}


@asynccontextmanager
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        worlds = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            worlds.append(await stack.enter_async_context(http_world(tmp_path / name)))
        yield Cluster(*worlds)


def ends(hub: ScriptedHub, user: str) -> None:
    del hub.sessions[user]
    hub.changed = lambda since: (since + 1, None)  # type: ignore[method-assign]


async def test_the_list_has_the_sessions_of_all_nodes_each_with_its_node(tmp_path: Path) -> None:
    async with cluster(tmp_path) as world:
        world.a.hub.connect(ANNA)
        world.b.hub.connect(BEN, AppView(APP, "error", wanted=True, last_error="it threw"))
        everywhere = await world.look()
        assert world.nodes() == {ANNA: "a", BEN: "b"}
        assert users(everywhere, order="trouble") == [BEN, ANNA]
        assert everywhere.summary() == {"sessions": 2, "connected": 2, "away": 0, "failing": 1}
        assert everywhere.find("b", "user")[0].row["u"] == BEN
        ends(world.b.hub, BEN)
        await world.look()
        assert world.nodes() == {ANNA: "a"}


async def test_only_what_changed_comes_again_and_many_come_in_pages(tmp_path: Path) -> None:
    async with cluster(tmp_path) as world:
        for number in range(MANY):
            world.b.hub.connect(f"u{number:04}@x.example")
        everywhere = await world.look()
        assert len(everywhere) == MANY
        assert world.rounds == MANY // NEWS_MAX + 1
        version = everywhere.version
        await world.look()
        assert everywhere.version == version
        world.b.hub.connect("u0003@x.example", AppView(APP, "connected", wanted=True))
        await world.look()
        assert everywhere.version == version + 1


async def test_a_node_that_was_started_again_is_told_anew(tmp_path: Path) -> None:
    async with cluster(tmp_path) as world:
        world.b.hub.connect(BEN)
        world.b.hub.connect("old@x.example")
        await world.look()
        del world.b.hub.sessions["old@x.example"]
        world.feeds["b"] = Feed(world.b.hub)
        await world.look()
        assert world.nodes() == {BEN: "b"}


async def test_more_ends_than_are_remembered_are_told_as_all_anew(tmp_path: Path) -> None:
    hub = ScriptedHub()
    for number in range(ENDED_MAX + 2):
        hub.connect(f"u{number:04}@x.example")
    feed = await refreshed(Feed(hub))
    mark: list[Any] = ["", 0, 0]
    while (news := feed.news(*mark))["more"]:
        mark = news["next"]
    hub.sessions = {ANNA: replace(hub.sessions["u0000@x.example"], user_id=ANNA)}
    hub.changed = lambda since: (since + 1, None)  # type: ignore[method-assign]
    feed._swept_at = float("-inf")
    await refreshed(feed)
    news = feed.news(*news["next"])
    assert (news["reset"], [row["u"] for row in news["rows"]]) == (True, [ANNA])
    assert feed.news(*news["next"])["reset"] is False


async def test_who_is_at_two_nodes_while_he_moves_is_shown_where_he_is_connected(tmp_path: Path) -> None:
    async with cluster(tmp_path) as world:
        world.a.hub.connect(ANNA)
        world.a.hub.sessions[ANNA] = replace(world.a.hub.sessions[ANNA], state="detached")
        world.b.hub.connect(ANNA)
        await world.look()
        assert world.nodes() == {ANNA: "b"}
        ends(world.b.hub, ANNA)
        await world.look()
        assert world.nodes() == {ANNA: "a"}


async def test_a_silent_node_is_named_and_its_rows_go_until_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path) as world:
        world.a.hub.connect(ANNA)
        world.b.hub.connect(BEN)
        everywhere = await world.look()
        world.is_silent = True
        for missed in range(1, MISSED_MAX + 1):
            await world.look()
            assert everywhere.silent == (["b"] if missed == MISSED_MAX else [])
        assert world.nodes() == {ANNA: "a"}
        world.is_silent = False
        await world.look()
        assert (everywhere.silent, world.nodes()) == ([], {ANNA: "a", BEN: "b"})
        world.is_gone = True
        await world.look()
        assert (everywhere.silent, world.nodes()) == ([], {ANNA: "a"}), "it left in order"
        world.is_gone, world.is_silent = False, True
        for _ in range(MISSED_MAX):
            await world.look()
        world.is_gone = True
        await world.look()
        assert everywhere.silent == ["b"], "given up by the cluster, and still named"
        monkeypatch.setattr(module, "NAMED", 0.0)
        await world.look()
        assert everywhere.silent == []


async def test_an_answer_of_another_version_is_none(tmp_path: Path) -> None:
    async with cluster(tmp_path) as world:
        answers: list[dict[str, Any]] = [
            {},
            {"news": {"rows": 7}},
            {"news": None, "health": {}, "pages": [[1]]},
        ]
        for told in answers:

            async def says(question: object, only: object = None, told: Any = told) -> dict[str, Any]:
                return {"b": told}

            world.everywhere._ask = says
            await world.everywhere.look()
        assert world.everywhere.silent == ["b"]


async def test_the_page_of_a_session_elsewhere_comes_when_it_is_looked_at(tmp_path: Path) -> None:
    async with cluster(tmp_path) as world:
        world.b.hub.connect(BEN)
        view = OneSession(world.a.hub, {"user": BEN}, world.everywhere)
        assert view.pieces() == [], "they are being asked"
        await world.look()
        (piece,) = view.pieces()
        assert (piece["set"]["user"], piece["set"]["node"], piece["reset"]) == (BEN, "b", True)
        assert "lens" not in piece["set"]
        await world.look()
        assert view.pieces() == []
        ends(world.b.hub, BEN)
        await world.look()
        assert view.pieces()[0]["set"] == {"gone": True}
        assert len(world.everywhere._wishes) == 1


async def test_pages_that_are_asked_for_are_as_many_as_consoles_and_end_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path) as world:
        for number in range(PAGES_MAX + 5):
            world.everywhere.page(f"u{number}@x.example", with_lens=False)
        assert len(world.everywhere._wishes) == PAGES_MAX
        monkeypatch.setattr(module, "WANTED", -1.0)
        await world.look()
        assert (world.everywhere._wishes, world.everywhere._pages) == ({}, {})


def test_a_time_that_another_node_rounds_otherwise_stays() -> None:
    before = {"at": 100.0, "apps": [{"package": APP, "at": 50.0, "next_attempt_at": None}]}
    page = {"at": 100.1, "apps": [{"package": APP, "at": 50.3, "next_attempt_at": 60.0}]}
    assert steady(page, before) == {
        "at": 100.0,
        "apps": [{"package": APP, "at": 50.0, "next_attempt_at": 60.0}],
    }
    assert steady({"gone": True}, before) == {"gone": True}
    assert steady({"at": 103.0, "apps": []}, before)["at"] == 103.0


def record(seq: int, **more: Any) -> dict[str, Any]:
    return {"seq": seq, "at": float(seq), "user": ANNA, "kind": "model", **more}


async def test_the_trace_is_that_of_all_nodes_and_says_what_went_by(tmp_path: Path) -> None:
    async with cluster(tmp_path) as world:
        world.a.hub.records = [record(7)]
        world.b.hub.records = [record(3, user=BEN)]
        view = make_view(
            {"view": "trace"}, world.a.hub, world.everywhere, Samples(world.a.services), world.everywhere
        )
        (piece,) = view.pieces()
        assert [(one["node"], one["own"]) for one in piece["events"]] == [("a", 7)]
        await world.look()
        (piece,) = view.pieces()
        assert [(one["node"], one["own"]) for one in piece["events"]] == [("b", 3)]
        assert "missed" not in piece
        await world.look()
        assert view.pieces() == []
        world.b.hub.records += [record(seq) for seq in range(4, 4 + TRACE_MAX + 10)]
        await world.look()
        (piece,) = view.pieces()
        assert (len(piece["events"]), piece["missed"]) == (TRACE_MAX, 10)


async def test_the_trace_is_asked_for_only_while_somebody_looks(tmp_path: Path) -> None:
    async with cluster(tmp_path) as world:
        world.b.hub.records = [record(3)]
        await world.look()
        assert not world.everywhere._records
        world.everywhere.trace()
        await world.look()
        assert len(world.everywhere.trace()) == 1
        world.everywhere._traced_at = float("-inf")
        assert world.everywhere.trace() == []
        await world.look()
        assert len(world.everywhere.trace()) == 1, "begun anew, it is all there once"


async def test_a_node_that_has_not_looked_at_its_sessions_yet_is_asked_again_soon(tmp_path: Path) -> None:
    async with cluster(tmp_path) as world:
        world.b.hub.connect(BEN)
        await world.everywhere.look()
        assert (world.nodes(), world.everywhere.silent) == ({}, [])
        assert world.everywhere._wanted.is_set()


async def test_each_node_has_a_line_of_its_health(tmp_path: Path) -> None:
    async with cluster(tmp_path) as world:
        world.b.hub.connect(BEN)
        world.b.services.metrics.gauge("admission").labels(state="shedding").set(1)
        everywhere = await world.look()
        assert [
            (one["node"], one["sessions"], one["admission"], one["storage"]) for one in everywhere.health()
        ] == [("a", 0, "normal", "ok"), ("b", 1, "shedding", "ok")]


async def test_a_node_alone_has_no_everywhere(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        with pytest.raises(ValueError, match="alone"):
            Everywhere(world.services, Feed(world.hub))


async def test_a_new_wish_is_asked_for_at_once(tmp_path: Path) -> None:
    async with cluster(tmp_path) as world:
        asking = asyncio.create_task(world.everywhere.run())
        await asyncio.sleep(0)
        await refreshed(world.feeds["b"])
        world.b.hub.connect(BEN)
        world.everywhere.page(BEN, with_lens=False)
        await until(lambda: world.everywhere.page(BEN, with_lens=False), "the answer")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
