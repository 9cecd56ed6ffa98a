"""What happened to the sessions: the trace, the states over time and the exchanges that the console shows.

Rules: all of it is bounded, and nothing a user typed, said or saw is kept. Records are made presentable, and private
members hidden, only when somebody reads them. What costs the event path something is done only while somebody watches.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cloud.core import effects as fx
from cloud.core.app_lifecycle import AppState
from cloud.figures import Figures
from cloud.metrics import Metrics
from cloud.session_entry import GLASSES, SessionEntry, short
from wire.codec import load_object, message_type, validate
from wire.errors import ProtocolError
from wire.link import split
from wire.messages import GLASSES_TO_CLOUD, Message
from wire.trace import redact

log = logging.getLogger(__name__)

#: Trace lines kept for the console; at a few events a second that is some minutes.
TRACE_MAX: Final = 2000
#: States kept per lane of a session for the console, 130 bytes each: somebody who flaps all day stays below 20 kB.
HISTORY_MAX: Final = 40
#: Lanes of a session's picture (glasses, microphone, one per app): of apps, those that changed longest ago go first.
LANES_MAX: Final = 24
#: Events that can be sent again from the console, while somebody watches it.
REPLAYABLE_MAX: Final = 200
#: Who has read the trace counts as watching for this long, seconds; the console reads on at once.
WATCHED: Final = 60.0

#: What changes a session enough to be kept against the loss of this node (with every move of an app).
_KEPT: Final = frozenset({"display", "microphone", "model", "subscriptions", "state_restored"})
#: Part of the connection, not of what the wearer does.
_NOT_REPLAYED: Final = frozenset(
    {"ping", "pong", "connection_init", "glassbridge_ack", "glassbridge_status", "glassbridge_display_result"}
)


class Journal:
    """`clock`: monotonic seconds; `epoch_offset`: what makes it wall clock. `watched`: always, as in `glassbridge dev`."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        figures: Figures,
        clock: Callable[[], float],
        epoch_offset: float,
        watched: bool,
    ) -> None:
        self._metrics = metrics
        self._figures = figures
        self._clock = clock
        self._epoch_offset = epoch_offset
        self.watched_until = float("inf") if watched else 0.0
        #: (number, wall clock, user, kind, detail)
        self._trace: deque[tuple[int, float, str, str, Mapping[str, Any]]] = deque(maxlen=TRACE_MAX)
        self._number = 0
        self._replayable: OrderedDict[int, tuple[str, bytes]] = OrderedDict()

    # ================================================================================================ what happens

    def displayed(self, entry: SessionEntry, effect: fx.Displayed, now: float) -> None:
        """A display that did not wait. Two records if somebody looks, else only figures: captions would push everything
        else out of the trace."""
        if now < self.watched_until:
            shown = {"id": effect.display_id, "package": effect.package}
            self.recorded(entry, "display", {**shown, "view": effect.view, "layout": effect.layout}, now)
            settled = {"outcome": "shown", "reason": "", "waited": 0.0, "answered": effect.answered}
            self.recorded(entry, "display_settled", {**shown, **settled}, now)
            return
        if entry.seat is not None:
            entry.seat.dirty()
        self._figures.displayed_at_once += 1
        if effect.answered is not None:
            self._figures.app_hop.observe(effect.answered)

    def recorded(self, entry: SessionEntry, kind: str, detail: Mapping[str, Any], now: float) -> None:
        """A session says what it did."""
        if entry.seat is not None and kind in _KEPT:
            entry.seat.dirty()
        match kind:
            case "display_settled":
                figures, outcome = self._figures, detail["outcome"]
                figures.displays[outcome] += 1
                if outcome == "shown":
                    figures.display_hop.observe(detail["waited"])
                    if detail["answered"] is not None:
                        figures.app_hop.observe(detail["answered"])
            case "display" if now < self.watched_until:
                seconds = entry.round_trips.get(detail["package"])
                detail = {**detail, "app_rtt_ms": None if seconds is None else round(seconds * 1000, 2)}
            case "display_result":
                self._figures.hops(detail)
            case "edge_clock":
                self._figures.hops(detail)
                return  # every 2.4 s: the console shows the last one
            case "link_gave_up":
                self._metrics.counter("dropped_total").labels(reason=detail["why"]).inc(detail["count"])
            case "apps_missed":
                self._metrics.counter("dropped_total").labels(reason="app_away").inc(detail["count"])
                return
            case "notification_shed":
                self._metrics.counter("dropped_total").labels(reason="notification_rate").inc()
                return
            case "link_resumed":
                recovered = str(detail["recovered"]).lower()
                self._metrics.counter("link_resumes_total").labels(recovered=recovered).inc()
            case "bad_glasses_frame" | "bad_app_frame":
                self._metrics.counter("malformed_messages_total").labels(direction="in").inc()
            case "unknown_message":
                self._metrics.counter("unknown_messages_total").labels(direction="in").inc()
                return
            case "glasses_connected" | "glasses_lost":
                self.state(entry)
            case "microphone":
                self._lane(entry, "microphone", "on" if detail["on"] else "off", None)
        self._add(entry, kind, detail, now)

    def note(self, entry: SessionEntry, kind: str, detail: Mapping[str, Any]) -> None:
        """The shell says what it did for a session."""
        self._add(entry, kind, detail, self._clock())

    def _add(self, entry: SessionEntry, kind: str, detail: Mapping[str, Any], now: float) -> None:
        self._number += 1
        at = now + self._epoch_offset
        self._trace.append((self._number, at, entry.session.user_id, kind, detail))
        if now < self.watched_until:
            # Somebody watches: the records that belong to one exchange become one more.
            exchange = entry.exchanges.add(kind, at, detail)
            if exchange is not None:
                self._add(entry, "exchange", exchange, now)

    def moved(self, entry: SessionEntry, moved: fx.AppMoved) -> None:
        """An app has changed its state."""
        if entry.seat is not None:
            entry.seat.dirty()
        match (moved.before, moved.after):
            case (AppState.GRACE, AppState.CONNECTED):
                self._metrics.counter("grace_total").labels(kind="app", outcome="returned").inc()
                self._metrics.counter("reconnects_total").labels(kind="app").inc()
            case (AppState.GRACE, AppState.ERROR | AppState.DISCONNECTED):
                self._metrics.counter("grace_total").labels(kind="app", outcome="expired").inc()
            case (AppState.ERROR, AppState.LOADING):
                self._metrics.counter("app_restarts_total").labels(outcome="tried").inc()
        _log_move(entry, moved)
        self._lane(entry, moved.package, moved.after.value, moved.reason.value)
        self.note(
            entry,
            "app",
            {
                "package": moved.package,
                "before": moved.before.value,
                "after": moved.after.value,
                "reason": moved.reason.value,
            },
        )

    def state(self, entry: SessionEntry) -> None:
        """The session may have changed its state: if so, it becomes part of its history."""
        session = entry.session
        states = entry.lanes.get(GLASSES)
        if not states or states[-1]["state"] != session.state.value:
            self._lane(entry, GLASSES, session.state.value, session.reason)

    def _lane(self, entry: SessionEntry, lane: str, state: str, reason: str | None) -> None:
        """One more state in a session's picture over time; a repetition is none."""
        states = entry.lanes.get(lane)
        if states is None:
            while len(entry.lanes) >= LANES_MAX:
                del entry.lanes[next(name for name in entry.lanes if name != GLASSES)]
            states = entry.lanes[lane] = []
        if not states or states[-1]["state"] != state or states[-1]["reason"] != reason:
            states.append({"state": state, "reason": reason, "at": time.time()})
            del states[:-HISTORY_MAX]
            entry.lanes.move_to_end(lane)

    def from_glasses(self, entry: SessionEntry, data: bytes) -> None:
        """Somebody watches and the glasses say something: it can be sent once more from the console."""
        try:
            payload = load_object(split(data)[0])
            kind = message_type(payload)
        except ProtocolError:
            return
        if kind in _NOT_REPLAYED or kind not in GLASSES_TO_CLOUD:
            return
        hops, stamp = entry.session.hops, payload.get("timestamp")
        way = hops.way_here(stamp, self._clock())
        number = self._number + 1
        self.note(
            entry,
            "from_glasses",
            {
                "about": kind,
                "bytes": len(data),
                "sent_at": hops.sent_at(stamp),
                "uplink_ms": None if way is None else round(way * 1000, 2),
            },
        )
        self._replayable[number] = (entry.session.user_id, data)
        while len(self._replayable) > REPLAYABLE_MAX:
            self._replayable.popitem(last=False)

    # ================================================================================================ who reads it

    def read(self, since: int) -> Sequence[Mapping[str, Any]]:
        """The records after this number, oldest first. Whoever reads is watching."""
        self.watched_until = max(self.watched_until, self._clock() + WATCHED)
        return [
            {"seq": number, "at": at, "user": user, "kind": kind, **redact(dict(detail))}
            for number, at, user, kind, detail in self._trace
            if number > since
        ]

    def changed(self, since: int) -> tuple[int, set[str] | None]:
        """The newest number, and who is named after `since`; None: too long ago to say."""
        if self._trace and self._trace[0][0] > since + 1:
            return self._number, None
        users = set()
        for number, _, user, _, _ in reversed(self._trace):
            if number <= since:
                break
            users.add(user)
        return self._number, users

    def event(self, number: int) -> tuple[str, Message] | None:
        """The user and the message of a `from_glasses` record; None if it is gone."""
        user_id, data = self._replayable.get(number, ("", b""))
        if not user_id:
            return None
        message = validate(GLASSES_TO_CLOUD, load_object(split(data)[0]))
        return None if message is None else (user_id, message)


def _log_move(entry: SessionEntry, moved: fx.AppMoved) -> None:
    """The first failure of an outage is a warning, its repetitions are not; the recovery is news."""
    life = entry.session.app(moved.package)
    user = short(entry.session.user_id)
    if moved.after is AppState.ERROR and life is not None and life.failures == 1:
        log.warning("user %s: %s: %s", user, moved.package, moved.reason.value)
    elif moved.after is AppState.CONNECTED and life is not None and life.failures:
        log.info("user %s: %s runs again after %d failures", user, moved.package, life.failures)
    else:
        log.debug("user %s: %s is %s", user, moved.package, moved.after.value)
