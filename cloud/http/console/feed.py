"""What the console's list of sessions shows, with a version on every row, so that only changes travel.

Rules: a row is worked out again when the trace names its user, and all rows now and then, a slice at a time, so that a
thousand sessions never hold up the event loop. One feed serves all open consoles; each is given the page it looks at.
Rows hold no content of the user.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from cloud.http.ports import AppView, Hub, SessionView

#: Sessions looked at before other work gets its turn: about 3 ms.
SLICE: Final = 50
#: What changes without a word in the trace (a battery) is seen after this long at the latest. Seconds.
SWEEP: Final = 20.0
#: Answers to several consoles at once come from one look. Seconds.
FRESH: Final = 0.4
#: States of the little picture in a row: at most so many, the newest.
STRIP_MAX: Final = 24
#: Orders and searches of the present version that are kept: consoles that look at the same share one sorting.
FOUND_MAX: Final = 8
#: Rows in one answer to another node: some hundred kB at most.
NEWS_MAX: Final = 200
#: Sessions that ended are remembered for the nodes that ask every second; one that asks later is told all anew.
ENDED_MAX: Final = 2000
#: Two readings of one moment differ by the rounding of two clocks. Seconds.
SAME_MOMENT: Final = 2.0

#: States that the page calls by another name, which one may search for.
_SHOWN_AS: Final = {"detached": "away", "disconnected": "stopped"}
#: States that want to be looked at before those that are well, most urgent first.
_AWAY: Final = frozenset({"initializing", "connecting", "detached", "disconnecting"})
_STARTING: Final = frozenset({"loading", "connecting", "grace", "stopping"})


def moment(age: float | None, now: float, before: float | None = None) -> float | None:
    """The wall-clock time of something `age` seconds ago; `before` if that was the same moment."""
    if age is None:
        return None
    at = round(now - age, 1)
    return before if before is not None and abs(before - at) < SAME_MOMENT else at


def _app(view: AppView) -> dict[str, Any]:
    return {
        "p": view.package_name,
        "s": view.state,
        "w": view.wanted,
        "why": view.reason,
        # Failing also while it is tried again; an app that runs has its failures behind it.
        "e": view.wanted and bool(view.last_error) and view.state != "connected",
    }


def row(view: SessionView, lanes: Mapping[str, Sequence[Mapping[str, Any]]], now: float) -> dict[str, Any]:
    """One line of the list: user, state, why and since when, glasses, microphone, apps, and the strip over time."""
    strip = [[round(one["at"], 1), one["state"]] for one in lanes.get("glasses", ())]
    return {
        "u": view.user_id,
        "s": view.state,
        "why": view.reason,
        "at": strip[-1][0] if strip else moment(view.since, now),
        "m": view.model_name,
        "mic": view.microphone,
        "bat": view.extra.get("battery"),
        "client": view.client,
        "apps": [_app(one) for one in view.apps if one.wanted or one.state != "disconnected"],
        "strip": strip[-STRIP_MAX:],
    }


def urgency(row: Mapping[str, Any]) -> int:
    """How much a session wants to be looked at: 0 first."""
    if any(app["e"] for app in row["apps"]):
        return 0
    if row["s"] != "connected":
        return 1 if row["s"] == "error" else 2 if row["s"] in _AWAY else 3
    return 3 if any(app["s"] in _STARTING for app in row["apps"]) else 4


@dataclass(slots=True)
class Kept:
    """A row, when it last changed, what a search looks in, and its place among the urgent."""

    version: int
    row: dict[str, Any]
    text: str
    urgency: int


def _kept(version: int, row: dict[str, Any]) -> Kept:
    words = [
        row["u"],
        row["s"],
        _SHOWN_AS.get(row["s"], ""),
        row["m"] or "",
        row["why"] or "",
        row.get("n", ""),
    ]
    words += [f"{app['p']} {app['s']}" for app in row["apps"]]
    return Kept(version, row, " ".join(words).lower(), urgency(row))


#: The orders that a console may ask for.
ORDERS: Final[Mapping[str, Callable[[Kept], Any]]] = {
    "trouble": lambda kept: (kept.urgency, kept.row["u"]),
    "user": lambda kept: kept.row["u"],
    "newest": lambda kept: (-(kept.row["at"] or 0.0), kept.row["u"]),
}


class Table:
    """Rows by user, each with the version at which it last changed: `find(search, order)` and `summary()`."""

    def __init__(self) -> None:
        self.version = 0
        #: In the order of their versions: what is new stands at the end.
        self._rows: dict[str, Kept] = {}
        self._found: dict[tuple[str, str], list[Kept]] = {}
        self._found_version = -1
        self._summary: dict[str, int] = {}
        self._summary_version = -1

    def put(self, user_id: str, row: dict[str, Any]) -> None:
        """The row of this user is so now."""
        kept = self._rows.get(user_id)
        if kept is not None and kept.row == row:
            return
        self.version += 1
        self._rows.pop(user_id, None)
        self._rows[user_id] = _kept(self.version, row)

    def drop(self, user_id: str) -> bool:
        """There is none; False if there was none."""
        if self._rows.pop(user_id, None) is None:
            return False
        self.version += 1
        return True

    def __len__(self) -> int:
        return len(self._rows)

    def summary(self) -> dict[str, int]:
        """Counts for the head of every page."""
        if self._summary_version != self.version:
            states = [kept.row["s"] for kept in self._rows.values()]
            connected = states.count("connected")
            self._summary = {
                "sessions": len(states),
                "connected": connected,
                "away": len(states) - connected,
                "failing": sum(any(app["e"] for app in kept.row["apps"]) for kept in self._rows.values()),
            }
            self._summary_version = self.version
        return self._summary

    def find(self, search: str, order: str) -> list[Kept]:
        """The rows that hold every word of `search`, in one of the `ORDERS`. Not to be changed by the caller."""
        if self._found_version != self.version or len(self._found) >= FOUND_MAX:
            self._found.clear()
            self._found_version = self.version
        found = self._found.get((search, order))
        if found is None:
            words = search.lower().split()
            rows = [kept for kept in self._rows.values() if all(word in kept.text for word in words)]
            found = self._found[search, order] = sorted(rows, key=ORDERS[order])
        return found


class Feed(Table):
    """This node's rows: `await refresh()`, then ask; `news` is what another node is told of them."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        #: Who asks for what is new says of which feed he has the rest: a node that was started again has another.
        self.name = secrets.token_hex(4)
        #: Whether all rows were looked at once.
        self.is_whole = False
        self._hub = hub
        self._seq = 0
        self._looked_at = float("-inf")
        self._swept_at = float("-inf")
        self._looking = asyncio.Lock()
        self._ended: dict[str, int] = {}  # the version at which a user's row went, in that order
        self._forgotten = 0  # the newest of those versions that is no longer kept

    async def refresh(self) -> None:
        """Bring the rows up to date: those that the trace names, or all of them when that is due."""
        async with self._looking:  # all consoles share one look
            now = asyncio.get_running_loop().time()
            if now - self._looked_at < FRESH:
                return
            seq, users = self._hub.changed(self._seq)
            whole = users is None or now - self._swept_at >= SWEEP
            await self._look(set(self._hub.user_ids()) | self._rows.keys() if whole else users or set())
            # A change during the look is seen by the next one: its number is greater.
            self._seq = seq
            self._looked_at = asyncio.get_running_loop().time()
            self.is_whole = True
            if whole:
                self._swept_at = self._looked_at

    async def _look(self, users: set[str]) -> None:
        for number, user_id in enumerate(users):
            if number and number % SLICE == 0:
                await asyncio.sleep(0)
            self._update(user_id)

    def _update(self, user_id: str) -> None:
        view = self._hub.session_view(user_id)
        if view is not None:
            self.put(user_id, row(view, self._hub.lanes(user_id), time.time()))
            self._ended.pop(user_id, None)
        elif self.drop(user_id):
            self._ended[user_id] = self.version
            if len(self._ended) > ENDED_MAX:
                self._forgotten = self._ended.pop(next(iter(self._ended)))

    def news(self, name: str, since: int, ended_since: int) -> dict[str, Any]:
        """What another node does not have yet, a page at a time: `next` is what it asks with next, at once if there is
        `more`. `reset`: what it has is of another time. Takes the three of `next`; "", 0, 0 at first."""
        reset = name != self.name or ended_since < self._forgotten
        if reset:
            since, ended_since = 0, self.version
        fresh = list(takewhile(lambda kept: kept.version > since, reversed(self._rows.values())))[::-1]
        page = fresh[:NEWS_MAX]
        more = len(page) < len(fresh)
        ended = [
            user for user, _ in takewhile(lambda one: one[1] > ended_since, reversed(self._ended.items()))
        ]
        return {
            "reset": reset,
            "more": more,
            "next": [self.name, page[-1].version if more else self.version, self.version],
            "ended": ended,
            "rows": [kept.row for kept in page],
        }
