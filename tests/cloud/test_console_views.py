"""What a console is told of what it looks at: everything once, then only what is different."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.http.console.feed import Feed
from cloud.http.console.samples import Samples
from cloud.http.console.views import (
    ROWS_MAX,
    TRACE_MAX,
    OneSession,
    Rows,
    Trace,
    View,
    make_view,
    session_page,
)
from cloud.http.ports import AppView, SessionView
from tests.cloud.http_world import ANNA, APP, BEN, ScriptedHub, http_world
from tests.cloud.test_http_console import refreshed
from wire.errors import ProtocolError


class NoSamples(Samples):
    """Of a process that has not measured yet."""

    def __init__(self) -> None:
        self._kept = deque()


def told(view: View) -> dict[str, Any]:
    (piece,) = view.pieces()
    return piece


def crowd(count: int) -> ScriptedHub:
    hub = ScriptedHub()
    for number in range(count):
        hub.connect(f"user{number:04}@home.example")
    return hub


async def test_a_page_is_told_once_and_then_only_rows_that_changed() -> None:
    hub = crowd(1000)
    feed = await refreshed(Feed(hub))
    view = Rows(feed, {"order": "user", "from": 100, "count": 50})
    first = told(view)
    assert (first["reset"], first["total"], first["matching"], first["from"]) == (True, 1000, 1000, 100)
    assert [row["u"] for row in first["rows"]] == first["users"]
    assert (len(first["users"]), first["users"][0]) == (50, "user0100@home.example")
    assert view.pieces() == []
    hub.connect("user0120@home.example", AppView(APP, "connected", wanted=True))
    hub.connect("user0500@home.example", AppView(APP, "connected", wanted=True))
    await refreshed(feed)
    piece = told(view)
    assert [row["u"] for row in piece["rows"]] == ["user0120@home.example"], (
        "the other is on no page in sight"
    )
    assert "users" not in piece
    assert "reset" not in piece


async def test_another_page_brings_only_the_rows_that_the_reader_has_not() -> None:
    feed = await refreshed(Feed(crowd(1000)))
    view = Rows(feed, {"order": "user", "count": 50})
    told(view)
    view.move({"order": "user", "from": 40, "count": 50})
    piece = told(view)
    assert (piece["from"], len(piece["users"]), len(piece["rows"])) == (40, 50, 40)
    view.move({"order": "user", "from": 40, "count": 50})
    assert told(view)["rows"] == [], "a question is answered, also if nothing is new"


async def test_a_row_that_moves_is_an_order_and_one_that_ends_a_smaller_total() -> None:
    hub = crowd(5)
    feed = await refreshed(Feed(hub))
    view = Rows(feed, {"order": "trouble"})
    told(view)
    hub.connect("user0003@home.example", AppView(APP, "error", wanted=True, last_error="it threw"))
    piece = told(view) if await refreshed(feed) else {}
    assert piece["users"][0] == "user0003@home.example"
    assert len(piece["rows"]) == 1
    del hub.sessions["user0003@home.example"]
    hub.changed = lambda since: (since + 1, None)  # type: ignore[method-assign]
    await refreshed(feed)
    piece = told(view)
    assert (piece["total"], len(piece["users"]), piece["rows"]) == (4, 4, [])


async def test_a_page_is_never_longer_than_its_bound() -> None:
    feed = await refreshed(Feed(crowd(ROWS_MAX + 50)))
    assert len(told(Rows(feed, {"count": 10**9}))["rows"]) == ROWS_MAX
    assert told(Rows(feed, {"from": 10**9}))["rows"] == []


def test_a_session_is_told_by_the_members_that_changed() -> None:
    hub = ScriptedHub()
    lanes = {"glasses": [{"at": 1.0, "state": "connected"}], APP: [{"at": 2.0, "state": "loading"}]}
    hub.lanes = lambda user_id: {name: list(states) for name, states in lanes.items()}  # type: ignore[method-assign]
    hub.connect(ANNA)
    view = OneSession(hub, {"user": ANNA})
    first = told(view)
    assert first["reset"]
    assert first["set"]["lane:glasses"] == lanes["glasses"]
    assert "lens" not in first["set"]
    assert view.pieces() == []
    lanes[APP].append({"at": 3.0, "state": "connected"})
    assert told(view) == {"type": "session", "set": {f"lane:{APP}": lanes[APP]}, "drop": []}
    del lanes[APP]
    assert told(view) == {"type": "session", "set": {}, "drop": [f"lane:{APP}"]}
    del hub.sessions[ANNA]
    gone = told(view)
    assert gone["set"] == {"gone": True}
    assert "user" in gone["drop"]


def test_the_lens_is_in_the_page_only_if_asked_for() -> None:
    display = {"main": {"package": APP, "layout": {"layoutType": "text_wall", "text": "canary"}}}
    view = SessionView(ANNA, ANNA, "connected", display=display)
    covered = session_page(view, {}, {}, 1000.0, with_lens=False)
    assert "canary" not in str(covered)
    assert covered["lens_owner"] == {"main": APP}
    assert session_page(view, {}, {}, 1000.0, with_lens=True)["lens"]["main"]["text"] == "canary"


def records(hub: ScriptedHub, count: int, **detail: Any) -> None:
    start = hub.records[-1]["seq"] if hub.records else 0
    for seq in range(start + 1, start + count + 1):
        hub.records.append({"seq": seq, "at": 1.0, "user": ANNA, "kind": "from_glasses", **detail})


def test_the_trace_is_filtered_here_and_goes_on_where_it_stood() -> None:
    hub = ScriptedHub()
    records(hub, 3, about="button_press")
    records(hub, 1, kind="webhook", package=APP, error="timeout")
    everything, faults = Trace(hub, {}), Trace(hub, {"group": "faults", "search": "timeout"})
    assert [len(told(view)["events"]) for view in (everything, faults)] == [4, 1]
    assert everything.pieces() == []
    records(hub, 1, kind="display_result", outcome="refused")
    records(hub, 1, kind="webhook_failed", why="timeout")
    assert [event["fault"] for event in told(everything)["events"]] == [True, True]
    piece = told(faults)
    assert (piece["seen"], len(piece["events"]), "reset" in piece) == (2, 1, False)
    assert len(told(Trace(hub, {"search": "on the lens"}))["events"]) == 1, "by the name that the page shows"


def test_a_trace_says_how_many_events_went_by_unseen() -> None:
    hub = ScriptedHub()
    records(hub, 1)
    view = Trace(hub, {})
    assert "missed" not in told(view)
    records(hub, 50)
    del hub.records[:11]  # the cloud keeps no more
    records(hub, TRACE_MAX)
    piece = told(view)
    assert len(piece["events"]) == TRACE_MAX
    assert piece["missed"] == 50
    assert "missed" not in told(Trace(hub, {})), "who comes new has missed nothing"


def test_webhooks_travel_once_each() -> None:
    hub = ScriptedHub()
    kept = [{"id": 1, "ok": True}]
    hub.webhooks_of = lambda package_name: kept  # type: ignore[method-assign]
    view = make_view({"view": "webhooks", "package": APP}, hub, Feed(hub), NoSamples())
    assert told(view) == {"type": "webhooks", "ids": [1], "hooks": kept, "reset": True}
    assert view.pieces() == []
    kept.append({"id": 2, "ok": False})
    assert told(view) == {"type": "webhooks", "ids": [1, 2], "hooks": [kept[1]]}
    kept[0]["replayed"] = True
    assert [hook["id"] for hook in told(view)["hooks"]] == [1]


async def test_health_brings_the_last_hour_and_then_each_sample(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        samples = Samples(world.services)
        samples.take(100.0)
        samples.take(105.0)
        view = make_view({"view": "health"}, world.hub, Feed(world.hub), samples)
        assert [(piece["reset"], len(piece["samples"])) for piece in view.pieces()] == [(True, 1)]
        assert view.pieces() == []
        samples.take(110.0)
        assert [sample["n"] for sample in told(view)["samples"]] == [2]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "view must be"),
        ({"view": "lens"}, "view must be"),
        ({"view": "session"}, "e-mail address"),
        ({"view": "session", "user": 7}, "e-mail address"),
        ({"view": "sessions", "search": "x" * 201}, "search"),
        ({"view": "sessions", "order": "fastest"}, "order must be one of trouble"),
        ({"view": "sessions", "order": ["user"]}, "order must be"),
        ({"view": "sessions", "from": -1}, "from"),
        ({"view": "sessions", "count": True}, "count"),
        ({"view": "trace", "group": "nothing"}, "group must be"),
        ({"view": "webhooks", "package": None}, "package"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_with_the_reason(asked: dict[str, Any], words: str) -> None:
    hub = ScriptedHub()
    with pytest.raises(ProtocolError, match=words):
        make_view(asked, hub, Feed(hub), NoSamples())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_NAMES = st.sampled_from(["user", "lens", "search", "order", "from", "count", "group", "package"])
_VIEWS = st.sampled_from(["sessions", "session", "trace", "webhooks", "health", "summary"])


@given(view=_VIEWS | _JSON, asked=st.dictionaries(_NAMES, _JSON))
def test_every_question_has_an_answer_or_a_reason(view: Any, asked: dict[str, Any]) -> None:
    hub = ScriptedHub()
    hub.connect(ANNA)
    try:
        made = make_view({"view": view, **asked}, hub, Feed(hub), NoSamples())
    except ProtocolError:
        return
    made.pieces()
    assert made.pieces() == []


def test_a_user_without_a_session_is_said_to_have_none() -> None:
    piece = told(OneSession(ScriptedHub(), {"user": BEN}))
    assert piece == {"type": "session", "set": {"gone": True}, "drop": [], "reset": True}
