"""What the consoles of this node see of all nodes: one list of sessions, pages of sessions that others serve, one trace.

Rules: exists only in a cluster and while a console is open. One question a second goes to every other node, and holds all
that the open consoles want to know; an answer says what is new since the last one. A node that does not answer is named and
its rows are taken away; nobody waits for it. What is kept is bounded by the sessions of the cluster, a row each.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cloud.http import overview
from cloud.http.console.feed import Feed, Table
from cloud.http.console.views import TRACE_MAX, session_page
from cloud.http.services import Services

#: What other nodes know is asked for this often, seconds, and at once when a console begins to look at something new;
#: but with a pause in between, seconds.
PACE: Final = 1.0
PAUSE: Final = 0.1
#: Answers in a row that may follow from one question while a node tells all its sessions, 200 at a time.
ROUNDS_MAX: Final = 10
#: A page or the trace is asked for until nobody has looked at it for this long. Seconds; consoles look every half second.
WANTED: Final = 5.0
#: A node is named as silent after so many questions without an answer: one may fall into a moment of work.
MISSED_MAX: Final = 2
#: And is still named for this long after the cluster has given it up. Seconds.
NAMED: Final = 60.0
#: Records of all nodes that are kept while somebody looks at the trace: as many as one node keeps.
RECORDS_MAX: Final = 2000
#: Pages that other nodes are asked for: one for each console that may be open.
PAGES_MAX: Final = 32

_GONE: Final[Mapping[str, Any]] = {"gone": True}


def answer(services: Services, feed: Feed, question: Mapping[str, Any]) -> dict[str, Any]:
    """What this node tells another that has consoles open. Raises KeyError, TypeError or ValueError for a question that
    cannot be read."""
    me = services.others[0] if services.others is not None else ""
    name, since, ended_since = question["have"].get(me, ("", 0, 0))
    told: dict[str, Any] = {
        "news": feed.news(str(name), int(since), int(ended_since)) if feed.is_whole else None,
        "health": overview.answer(services, {"view": "health"}),
        "pages": [],
    }
    for user, with_lens in question["pages"][:PAGES_MAX]:
        view = services.hub.session_view(str(user))
        if view is not None:
            lanes = services.hub.lanes(view.user_id)
            told["pages"].append(
                [user, with_lens, session_page(view, lanes, {}, time.time(), with_lens=bool(with_lens))]
            )
    if question["trace"] is not None:
        seen = int(question["trace"].get(me, 0))
        records = services.hub.trace(seen)
        lost = max(0, len(records) - TRACE_MAX) + (records[0]["seq"] - seen - 1 if records else 0)
        told["trace"] = {"records": records[-TRACE_MAX:], "lost": lost if seen else 0}
    return told


@dataclass(slots=True)
class _Node:
    """What is known of one node. `next` is what its next news begin with."""

    next: list[Any] = field(default_factory=lambda: ["", 0, 0])
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    health: dict[str, Any] | None = None
    seen: int = 0  # number of its last record that is in our trace
    missed: int = 0


class Everywhere(Table):
    """The rows of all nodes; `run()` keeps up with the others, `own()` with this one."""

    def __init__(self, services: Services, feed: Feed) -> None:
        """Raises ValueError where there are no others."""
        super().__init__()
        if services.others is None:
            raise ValueError("this node is alone: its own feed has all there is")
        self.me, self._ask = services.others
        self._services, self._feed = services, feed
        self._nodes: dict[str, _Node] = {self.me: _Node()}
        self._lost: dict[str, float] = {}  # silent nodes -> loop time when they were last known to be members
        self._loop = asyncio.get_running_loop()
        self._wanted = asyncio.Event()
        self._wishes: dict[tuple[str, bool], float] = {}  # pages -> loop time when somebody last looked
        self._pages: dict[tuple[str, bool], Mapping[str, Any]] = {}
        self._traced_at = float("-inf")
        self._records: deque[dict[str, Any]] = deque(maxlen=RECORDS_MAX)
        self._number = 0

    # ------------------------------------------------------------------------------------------- for the views

    @property
    def silent(self) -> list[str]:
        """Nodes that do not answer, by name."""
        return sorted(self._lost)

    def health(self) -> list[dict[str, Any]]:
        """How each node is that answers, this one first; lag in ms."""
        self._nodes[self.me].health = overview.answer(self._services, {"view": "health"})
        return [
            {
                "node": name,
                "lag_ms": round(node.health["loop_lag"] * 1000),
                **{key: node.health.get(key) for key in ("sessions", "admission", "draining", "storage")},
            }
            for name, node in self._nodes.items()
            if node.health is not None
        ]

    def page(self, user: str, *, with_lens: bool) -> Mapping[str, Any] | None:
        """The page of a session that another node serves; `gone` if none does, None while they are asked."""
        wish = (user, with_lens)
        if wish not in self._wishes and len(self._wishes) < PAGES_MAX:
            self._wanted.set()
        if wish in self._wishes or len(self._wishes) < PAGES_MAX:
            self._wishes[wish] = self._loop.time()
        return self._pages.get(wish)

    def trace(self, since: int = 0) -> Sequence[Mapping[str, Any]]:
        """As `Hub.trace`, of all nodes, in the order in which they became known here. `own` is a record's number at its
        `node`."""
        if self._loop.time() - self._traced_at > WANTED:  # begin anew: nobody kept up
            self._records.clear()
            for node in self._nodes.values():
                node.seen = 0
            self._wanted.set()
        self._traced_at = self._loop.time()
        own = self._nodes[self.me]
        fresh = self._services.hub.trace(own.seen)
        self._recorded(self.me, own, fresh, 0)
        return [record for record in self._records if record["seq"] > since]

    def _recorded(self, name: str, node: _Node, records: Sequence[Mapping[str, Any]], lost: int) -> None:
        self._number += lost  # a gap in the numbers, which is told as such
        for record in records:
            self._number += 1
            self._records.append({**record, "seq": self._number, "node": name, "own": record["seq"]})
        if records:
            node.seen = records[-1]["seq"]

    # ------------------------------------------------------------------------------------------- keeping up

    async def own(self) -> None:
        """Take over what changed in this node's own feed."""
        node, more = self._nodes[self.me], True
        while more:
            more = self._took(self.me, node, self._feed.news(*node.next))
            if more:
                await asyncio.sleep(0)

    async def run(self) -> None:
        """Ask the others, until cancelled."""
        while True:
            if await self.look():
                self._wanted.set()
            await asyncio.sleep(PAUSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PACE - PAUSE):
                    await self._wanted.wait()
            self._wanted.clear()

    async def look(self) -> bool:
        """Ask every other node once, and those on that have more to tell; True if they still have."""
        now = self._loop.time()
        self._wishes = {wish: at for wish, at in self._wishes.items() if now - at <= WANTED}
        self._pages = {wish: page for wish, page in self._pages.items() if wish in self._wishes}
        wishes = list(self._wishes)
        answers = await self._ask(self._question(wishes, is_traced=now - self._traced_at <= WANTED))
        pages: dict[tuple[str, bool], Mapping[str, Any]] = {}
        more = [name for name, told in answers.items() if self._told(name, told, pages)]
        self._missing(answers.keys())
        for wish in wishes:
            self._pages[wish] = pages.get(wish, _GONE)
        for _ in range(ROUNDS_MAX):
            if not more:
                break
            answers = await self._ask(self._question([], is_traced=False), more)
            more = [name for name, told in answers.items() if self._told(name, told, {})]
        return bool(more)

    def _question(self, wishes: list[tuple[str, bool]], *, is_traced: bool) -> dict[str, Any]:
        return {
            "view": "console",
            "have": {name: node.next for name, node in self._nodes.items()},
            "pages": wishes,
            "trace": {name: node.seen for name, node in self._nodes.items()} if is_traced else None,
        }

    def _told(
        self, name: str, told: Mapping[str, Any] | None, pages: dict[tuple[str, bool], Mapping[str, Any]]
    ) -> bool:
        """A node's answer, None if it gave none; True if it has more to tell."""
        node = self._nodes.setdefault(name, _Node())
        try:
            if told is None:
                raise ValueError("no answer")
            more = False
            if told["news"] is None:  # it looks at its sessions for the first time: ask again soon
                self._wanted.set()
            else:
                more = self._took(name, node, told["news"])
            node.health = {"sessions": 0, "loop_lag": 0.0, **told["health"]}
            for user, with_lens, page in told["pages"]:
                known = pages.get((user, with_lens))
                if known is None or page["state"] == "connected":  # seen twice while it moved
                    pages[user, with_lens] = {**page, "node": name}
            if "trace" in told:
                self._recorded(name, node, told["trace"]["records"], told["trace"]["lost"])
        except (KeyError, TypeError, ValueError, IndexError):  # or one of a version that answers otherwise
            node.missed += 1
            if node.missed >= MISSED_MAX:
                self._lost[name] = self._loop.time()
                self._forget(name)
            return False
        node.missed = 0
        self._lost.pop(name, None)
        return more

    def _missing(self, members: Iterable[str]) -> None:
        """Nodes that are no longer in the cluster: gone in order, or silent and given up."""
        here = {self.me, *members}
        for name in [one for one in self._nodes if one not in here]:
            self._forget(name)
            del self._nodes[name]
        now = self._loop.time()
        self._lost = {name: at for name, at in self._lost.items() if name in here or now - at < NAMED}

    def _took(self, name: str, node: _Node, news: Mapping[str, Any]) -> bool:
        changed = [row["u"] for row in news["rows"]]
        if news["reset"]:
            changed += node.rows
            node.rows = {}
        for user in news["ended"]:
            node.rows.pop(user, None)
            changed.append(user)
        for row in news["rows"]:
            node.rows[row["u"]] = row
        node.next = news["next"]
        self._settle(changed)
        return bool(news["more"])

    def _forget(self, name: str) -> None:
        node = self._nodes[name]
        users = list(node.rows)
        node.rows, node.next, node.health = {}, ["", 0, 0], None
        self._settle(users)

    def _settle(self, users: Iterable[str]) -> None:
        """Which node's row of these users is shown: the connected one while two have him, as he moves."""
        for user in users:
            rows = [(name, node.rows[user]) for name, node in self._nodes.items() if user in node.rows]
            if not rows:
                self.drop(user)
                continue
            name, row = next((one for one in rows if one[1]["s"] == "connected"), rows[0])
            self.put(user, {**row, "n": name})
