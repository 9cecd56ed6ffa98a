"""What the console's list of sessions shows, with a version on every row, so that only changes travel.

Rules: a row is worked out again when the trace names its user, and all rows now and then, a slice at a time, so that a
thousand sessions never hold up the event loop. One feed serves all open consoles. Rows hold no content of the user.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloud.http.ports import AppView, Hub, SessionView

#: Sessions looked at before other work gets its turn: about 3 ms.
SLICE: Final = 50
#: What changes without a word in the trace (a battery) is seen after this long at the latest. Seconds.
SWEEP: Final = 20.0
#: Answers to several consoles at once come from one look. Seconds.
FRESH: Final = 0.4
#: Departures remembered for consoles that come back; an older one gets the whole list.
GONE_MAX: Final = 5000
#: A list never holds more rows than this, those that changed last; the counts in the head are of all.
ROWS_MAX: Final = 5000
#: Rows in one piece of the stream: the first paint need not wait for the last row.
PAGE: Final = 250
#: States of the little picture in a row: at most so many, the newest.
STRIP_MAX: Final = 24
#: Two readings of one moment differ by the rounding of two clocks. Seconds.
SAME_MOMENT: Final = 2.0


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


@dataclass(slots=True)
class _Kept:
    version: int
    row: dict[str, Any]


class Feed:
    """Rows by user in the order of their last change. `await refresh()`, then `changes(since, epoch)`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        #: Versions of another process mean nothing here.
        self.epoch = secrets.token_hex(4)
        self.version = 0
        self._rows: OrderedDict[str, _Kept] = OrderedDict()
        self._gone: deque[tuple[int, str]] = deque(maxlen=GONE_MAX)
        self._seq = 0
        self._looked_at = float("-inf")
        self._swept_at = float("-inf")
        self._looking = asyncio.Lock()

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
            if whole:
                self._swept_at = self._looked_at

    async def _look(self, users: set[str]) -> None:
        for number, user_id in enumerate(users):
            if number and number % SLICE == 0:
                await asyncio.sleep(0)
            self._update(user_id)

    def _update(self, user_id: str) -> None:
        view = self._hub.session_view(user_id)
        kept = self._rows.get(user_id)
        if view is None:
            if kept is not None:
                self.version += 1
                del self._rows[user_id]
                self._gone.append((self.version, user_id))
            return
        fresh = row(view, self._hub.lanes(user_id), time.time())
        if kept is not None and kept.row == fresh:
            return
        self.version += 1
        self._rows[user_id] = _Kept(self.version, fresh)
        self._rows.move_to_end(user_id)

    def summary(self) -> dict[str, int]:
        """Counts for the head of every page."""
        states = [kept.row["s"] for kept in self._rows.values()]
        failing = sum(any(app["e"] for app in kept.row["apps"]) for kept in self._rows.values())
        connected = states.count("connected")
        return {
            "sessions": len(states),
            "connected": connected,
            "away": len(states) - connected,
            "failing": failing,
        }

    def changes(self, since: int, epoch: str) -> list[dict[str, Any]]:
        """Pieces of the stream that bring a console from version `since` to now; the first one may start anew."""
        oldest = self._gone[0][0] if len(self._gone) == GONE_MAX else 0
        reset = epoch != self.epoch or since == 0 or since < oldest or since > self.version
        since = 0 if reset else since
        found: list[dict[str, Any]] = []
        for kept in reversed(self._rows.values()):
            if kept.version <= since or len(found) >= ROWS_MAX:
                break
            found.append(kept.row)
        gone = [] if reset else [user for version, user in self._gone if version > since]
        if not (found or gone or reset):
            return []
        pages = [found[start : start + PAGE] for start in range(0, len(found), PAGE)] or [[]]
        last = len(pages) - 1
        head = {"type": "rows", "epoch": self.epoch}
        return [
            {
                **head,
                "reset": reset and number == 0,
                # Only the last piece moves the version on: a console that lost the stream in between asks again.
                "v": self.version if number == last else 0,
                "rows": page,
                "gone": [user for user in gone if user not in self._rows] if number == last else [],
            }
            for number, page in enumerate(pages)
        ]
