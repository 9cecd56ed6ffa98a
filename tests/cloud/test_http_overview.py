"""Pages of all nodes' sessions put together, one user's trace over the nodes that he was at, and who did not answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from cloud.http import overview
from cloud.http.ports import SessionView
from tests.cloud.http_world import ANNA, http_world


def view(user: str, connected: bool = True) -> dict[str, Any]:
    shown: dict[str, Any] = orjson.loads(
        orjson.dumps(SessionView(user, "s", "connected", connected=connected))
    )
    return shown


def user(number: int) -> str:
    return f"u{number:04}@x.example"


async def test_pages_of_several_nodes_hold_every_session_once_and_in_order(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        for number in range(0, 50, 2):
            world.hub.connect(user(number))
        elsewhere = [user(number) for number in range(1, 30, 2)]

        async def others(question: dict[str, Any]) -> dict[str, Any]:
            after = [u for u in elsewhere if u > question["after"]][: question["limit"]]
            return {"b": {"total": len(elsewhere), "sessions": [view(u) for u in after]}, "c": None}

        world.services.others = ("a", others)
        seen: list[str] = []
        after: str | None = ""
        pages = 0
        while after is not None:
            page = await overview.sessions(world.services, "", after, 7)
            assert len(page["sessions"]) <= 7
            assert page["total"] == 40
            assert page["silent"] == ["c"]
            seen += [one["user_id"] for one in page["sessions"]]
            after, pages = page["next"], pages + 1
        assert seen == sorted([*elsewhere, *(user(n) for n in range(0, 50, 2))])
        assert pages <= 40 // 7 + 2
        found = (await world.get("/api/admin/sessions?search=U0003&limit=5", world.as_admin())).json()
        assert [(one["user_id"], one["node"]) for one in found["sessions"] if one["node"] == "a"] == []


async def test_a_session_that_is_seen_twice_while_it_moves_is_shown_where_its_glasses_are(
    tmp_path: Path,
) -> None:
    async with http_world(tmp_path) as world:
        world.hub.connect(ANNA)

        async def others(question: dict[str, Any]) -> dict[str, Any]:
            return {"b": {"total": 1, "sessions": [view(ANNA, connected=False)]}}

        world.services.others = ("a", others)
        page = await overview.sessions(world.services, "", "", 100)
        assert [(one["user_id"], one["node"]) for one in page["sessions"]] == [(ANNA, "a")]


async def test_a_users_trace_is_that_of_every_node_he_was_at_and_nobody_elses(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        world.hub.records = [
            {"seq": 1, "at": 30.0, "user": ANNA, "kind": "model"},
            {"seq": 2, "at": 31.0, "user": user(1), "kind": "model"},
        ]

        async def others(question: dict[str, Any]) -> dict[str, Any]:
            assert question == {"view": "trace", "user": ANNA}
            return {"b": {"events": [{"seq": 9, "at": 20.0, "user": ANNA, "kind": "app"}]}}

        world.services.others = ("a", others)
        found = (await world.get(f"/api/admin/sessions/{ANNA}/trace", world.as_admin())).json()
        assert [(one["at"], one["node"]) for one in found["events"]] == [(20.0, "b"), (30.0, "a")]


async def test_every_node_says_how_it_is(tmp_path: Path) -> None:
    async with http_world(tmp_path) as world:
        world.hub.connect(ANNA)
        alone = (await world.get("/api/admin/nodes", world.as_admin())).json()
        assert alone["silent"] == []
        assert alone["nodes"][""]["sessions"] == 1
        assert alone["nodes"][""]["storage"] == "ok"
