"""What an open console may look at: a page of sessions, one session, the trace, an app's webhooks, the plots.

Rules: a view remembers what it has said and says only what is different now; its first piece says `reset`. It is asked for
pieces only when the reader has read the last ones, so a slow reader skips what came between and gets the newest. What a
view remembers is bounded by one page. Nothing here waits.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, Protocol

from cloud.auth import normal_user_id
from cloud.http.console.feed import ORDERS, SAME_MOMENT, Table, moment
from cloud.http.console.samples import Samples
from cloud.http.ports import AppView, Hub, SessionView
from wire.errors import ErrorCode, ProtocolError

#: Rows in one page: a tall screen shows 40, and some more on both sides are there before one scrolls to them.
ROWS_MAX: Final = 200
#: Trace records in one piece, and what the page keeps: nobody reads further back than that.
TRACE_MAX: Final = 300
#: A search that somebody types.
SEARCH_MAX: Final = 200

#: How the page names the kinds of the trace; others are shown as they are, with spaces.
KINDS: Final[Mapping[str, str]] = {
    "from_glasses": "from glasses",
    "to_app": "to apps",
    "display_settled": "display decided",
    "display_result": "on the lens",
}

_EXCHANGE: Final = frozenset(
    {
        "from_glasses",
        "transcript",
        "to_app",
        "display",
        "display_settled",
        "display_result",
        "exchange",
    }
)
_APPS: Final = frozenset(
    {"app", "webhook", "start_failed", "app_closed", "ownership_release", "permission_denied"}
)
_LINKS: Final = frozenset(
    {
        "glasses_connected",
        "glasses_lost",
        "link_resumed",
        "link_gave_up",
        "session_ended",
        "takeover_refused",
        "edge_status",
        "model",
    }
)
_FAULTS: Final = re.compile("fail|bad_|denied|refused|gave_up|dropped|slow")


def is_fault(record: Mapping[str, Any]) -> bool:
    """Whether a record of the trace tells of something that went wrong."""
    return bool(
        _FAULTS.search(record["kind"])
        or record.get("after") == "error"
        or record.get("error")
        or record.get("outcome") == "refused"
    )


#: What the trace may be narrowed to: words for the reader, and which records fit.
GROUPS: Final[Mapping[str, tuple[str, Callable[[Mapping[str, Any]], bool]]]] = {
    "all": ("everything", lambda record: True),
    "exchange": ("exchanges", lambda record: record["kind"] in _EXCHANGE),
    "apps": ("apps and webhooks", lambda record: record["kind"] in _APPS),
    "links": ("connections", lambda record: record["kind"] in _LINKS),
    "faults": ("faults", is_fault),
}


class View(Protocol):
    """One thing to look at. `pieces()` is what has changed since it was last asked, and moves on."""

    def pieces(self) -> list[dict[str, Any]]: ...


class Rows:
    """A page of the list: `count` rows from number `start` on, of those that hold all words of `search`."""

    def __init__(self, feed: Table, asked: Mapping[str, Any]) -> None:
        self._feed = feed
        self._head: tuple[int, int, int, list[str]] | None = None
        self._told: dict[str, int] = {}  # version of each row of the page that the reader has
        self._is_new = True
        self.move(asked)

    def move(self, asked: Mapping[str, Any]) -> None:
        """Another page, search or order of the same list; rows that the reader has are not said again."""
        self._search = text_of(asked, "search", "", SEARCH_MAX)
        self._order = choice_of(asked, "order", ORDERS)
        self._start = number_of(asked, "from", 0, 10**7)
        self._count = max(1, number_of(asked, "count", 50, ROWS_MAX))
        self._head = None  # a question is answered, also if the answer is the same

    def pieces(self) -> list[dict[str, Any]]:
        found = self._feed.find(self._search, self._order)
        page = found[self._start : self._start + self._count]
        users = [kept.row["u"] for kept in page]
        head = (len(self._feed), len(found), self._start, users)
        changed = [kept.row for kept in page if self._told.get(kept.row["u"]) != kept.version]
        if head == self._head and not changed:
            return []
        piece = {"type": "rows", "total": len(self._feed), "matching": len(found), "rows": changed}
        if self._head is None or self._head[2:] != head[2:]:
            piece |= {"from": self._start, "users": users}
        if self._is_new:
            piece["reset"] = True
        self._is_new = False
        self._head = head
        self._told = {kept.row["u"]: kept.version for kept in page}
        return [piece]


class OneSession:
    """The page of one session, wherever it is; what the lens shows only if `lens` is asked for."""

    def __init__(self, hub: Hub, asked: Mapping[str, Any], everywhere: Others | None = None) -> None:
        user = normal_user_id(asked.get("user"))
        if user is None:
            raise ProtocolError(ErrorCode.MALFORMED_MESSAGE, "user: an e-mail address is required")
        self._hub, self._user, self._with_lens = hub, user, asked.get("lens") is True
        self._everywhere = everywhere
        self._said: dict[str, Any] = {}

    def pieces(self) -> list[dict[str, Any]]:
        view = self._hub.session_view(self._user)
        now: dict[str, Any] = {"gone": True}
        if view is not None:
            lanes = self._hub.lanes(self._user)
            now = session_page(view, lanes, self._said, time.time(), with_lens=self._with_lens)
        elif self._everywhere is not None:
            page = self._everywhere.page(self._user, with_lens=self._with_lens)
            if page is None:  # they are being asked
                return []
            now = steady(page, self._said)
        said, self._said = self._said, now
        changed = {name: value for name, value in now.items() if name not in said or said[name] != value}
        dropped = [name for name in said if name not in now]
        if not changed and not dropped:
            return []
        piece = {"type": "session", "set": changed, "drop": dropped}
        return [piece if said else piece | {"reset": True}]


class Others(Protocol):
    """What the other nodes know; implemented by `cloud.http.console.everywhere.Everywhere`."""

    def page(self, user: str, *, with_lens: bool) -> Mapping[str, Any] | None: ...
    def trace(self, since: int = 0) -> Sequence[Mapping[str, Any]]: ...
    def health(self) -> list[dict[str, Any]]: ...


class Trace:
    """Records of a group that hold all words of `search`, as they come; at first the newest of those that are kept."""

    def __init__(self, source: Hub | Others, asked: Mapping[str, Any]) -> None:
        self._source = source
        self._words = text_of(asked, "search", "", SEARCH_MAX).lower().split()
        self._fits = GROUPS[choice_of(asked, "group", GROUPS)][1]
        self._since: int | None = None

    def pieces(self) -> list[dict[str, Any]]:
        is_new = self._since is None
        records = self._source.trace(self._since or 0)
        if not records and not is_new:
            return []
        missed = 0 if self._since is None else records[0]["seq"] - self._since - 1
        self._since = records[-1]["seq"] if records else 0
        found = [one for one in records if self._fits(one) and self._holds(one)]
        missed += max(0, len(found) - TRACE_MAX) if not is_new else 0
        events = [{**one, "fault": True} if is_fault(one) else one for one in found[-TRACE_MAX:]]
        piece = {"type": "trace", "events": events, "seen": len(records)}
        if missed:  # passed by while the reader was slow
            piece["missed"] = missed
        return [piece | {"reset": True} if is_new else piece]

    def _holds(self, record: Mapping[str, Any]) -> bool:
        if not self._words:
            return True
        kind = record["kind"]
        values = (str(value) for name, value in record.items() if name not in ("seq", "own", "at", "hops"))
        text = " ".join((*values, kind.replace("_", " "), KINDS.get(kind, ""))).lower()
        return all(word in text for word in self._words)


class Webhooks:
    """The last webhooks to an app with their replies, oldest first."""

    def __init__(self, hub: Hub, asked: Mapping[str, Any]) -> None:
        self._hub, self._package = hub, text_of(asked, "package", "", SEARCH_MAX)
        self._said: dict[int, dict[str, Any]] | None = None

    def pieces(self) -> list[dict[str, Any]]:
        now = {one["id"]: dict(one) for one in self._hub.webhooks_of(self._package)}
        said, self._said = self._said, now
        if said == now:
            return []
        fresh = [hook for number, hook in now.items() if said is None or said.get(number) != hook]
        piece = {"type": "webhooks", "ids": list(now), "hooks": fresh}
        return [piece | {"reset": True} if said is None else piece]


class Health:
    """Samples of this node for the plots: at first the last hour, then each new one. And in a cluster how each node is."""

    def __init__(self, samples: Samples, everywhere: Others | None = None) -> None:
        self._samples, self._everywhere = samples, everywhere
        self._since: int | None = None
        self._nodes: list[dict[str, Any]] = []

    def pieces(self) -> list[dict[str, Any]]:
        nodes = self._everywhere.health() if self._everywhere is not None else []
        if nodes == self._nodes:
            return self._plots()
        self._nodes = nodes
        return [*self._plots(), {"type": "nodes", "nodes": nodes}]

    def _plots(self) -> list[dict[str, Any]]:
        fresh = self._samples.since(self._since or 0)
        is_new, self._since = self._since is None, fresh[-1]["n"] if fresh else self._since or 0
        if is_new:
            return [{"type": "samples", "reset": True, "samples": fresh}]
        return [{"type": "samples", "samples": fresh}] if fresh else []


class Nothing:
    """Pages that ask instead of listening; the counts in the head come all the same."""

    def pieces(self) -> list[dict[str, Any]]:
        return []


def make_view(
    asked: Mapping[str, Any], hub: Hub, feed: Table, samples: Samples, everywhere: Others | None = None
) -> View:
    """The view that a console asks for; `everywhere` in a cluster. Raises ProtocolError."""
    match asked.get("view"):
        case "sessions":
            return Rows(feed, asked)
        case "session":
            return OneSession(hub, asked, everywhere)
        case "trace":
            return Trace(hub if everywhere is None else everywhere, asked)
        case "webhooks":
            return Webhooks(hub, asked)
        case "health":
            return Health(samples, everywhere)
        case "summary":
            return Nothing()
        case _:
            words = "view must be sessions, session, trace, webhooks, health or summary"
            raise ProtocolError(ErrorCode.MALFORMED_MESSAGE, words)


def text_of(asked: Mapping[str, Any], name: str, default: str, most: int) -> str:
    """A short text of a question. Raises ProtocolError."""
    value = asked.get(name, default)
    if not isinstance(value, str) or len(value) > most:
        raise ProtocolError(
            ErrorCode.MALFORMED_MESSAGE, f"{name} must be a text of at most {most} characters"
        )
    return value


def number_of(asked: Mapping[str, Any], name: str, default: int, most: int) -> int:
    """A count of a question, cut to `most`. Raises ProtocolError."""
    value = asked.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ProtocolError(ErrorCode.MALFORMED_MESSAGE, f"{name} must be a whole number from 0 on")
    return min(value, most)


def choice_of(asked: Mapping[str, Any], name: str, choices: Mapping[str, Any]) -> str:
    """One of the names in `choices`; the first if the question has none. Raises ProtocolError."""
    value = asked.get(name, next(iter(choices)))
    if not isinstance(value, str) or value not in choices:
        raise ProtocolError(ErrorCode.MALFORMED_MESSAGE, f"{name} must be one of {', '.join(choices)}")
    return value


def session_page(
    view: SessionView,
    lanes: Mapping[str, Any],
    before: Mapping[str, Any],
    now: float,
    *,
    with_lens: bool,
) -> dict[str, Any]:
    """One session's page. Times are wall clock and do not change while nothing happens; the lens only if asked for.

    Each lane over time is a member of its own, `lane:<name>`: the one that moved travels without the others.
    """
    old = {one["package"]: one for one in before.get("apps", ())}
    page: dict[str, Any] = {
        "gone": False,
        "user": view.user_id,
        "state": view.state,
        "reason": view.reason,
        "at": moment(view.since, now, before.get("at")),
        "remote": view.remote,
        "client": view.client,
        "model": view.model_name,
        "microphone": view.microphone,
        "battery": view.extra.get("battery"),
        "edge": view.extra.get("edge"),
        "link": view.extra.get("link"),
        "clock": view.extra.get("clock"),
        "audio": view.extra.get("audio"),
        "speech": view.extra.get("speech"),
        "location_tier": view.extra.get("location_tier"),
        "apps": [_app(one, old.get(one.package_name, {}), now) for one in view.apps],
        "lens_owner": {name: shown.get("package") for name, shown in view.display.items()},
        **{f"lane:{name}": states for name, states in lanes.items()},
    }
    if with_lens:
        page["lens"] = {name: dict(shown.get("layout") or {}) for name, shown in view.display.items()}
    return page


def steady(page: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """A page that another node made: times that differ from those said by the rounding of clocks stay as they were said."""
    old = {one["package"]: one for one in before.get("apps", ())}
    now = _steady(page, before, ("at",))
    if "apps" in now:
        times = ("at", "next_attempt_at")
        now["apps"] = [_steady(one, old.get(one["package"], {}), times) for one in now["apps"]]
    return now


def _steady(now: Mapping[str, Any], before: Mapping[str, Any], times: Sequence[str]) -> dict[str, Any]:
    same = {
        name: before[name]
        for name in times
        if now.get(name) is not None
        and before.get(name) is not None
        and abs(now[name] - before[name]) < SAME_MOMENT
    }
    return {**now, **same}


def _app(view: AppView, before: Mapping[str, Any], now: float) -> dict[str, Any]:
    left = view.next_attempt_in
    values = asdict(view)
    for name in ("package_name", "since", "next_attempt_in", "last_active_at"):
        del values[name]
    return {
        "package": view.package_name,
        **values,
        "at": moment(view.since, now, before.get("at")),
        "next_attempt_at": moment(None if left is None else -left, now, before.get("next_attempt_at")),
    }
