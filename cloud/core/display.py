"""Who is shown on the glasses, and when: one arbiter per session, the same pacing for each view.

Rules: each app has at most one live request per view, the newest. A view is never written faster than its interval and
the last update always arrives. What is shown follows from the live requests alone, so nothing needs restoring: after
every change the winner is worked out again. Sources: wire spec 6.4; failure catalogue DSP-01..11, APP-16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from wire.effect import effect
from wire.errors import InvalidTransition

View: TypeAlias = Literal["main", "dashboard"]


class ViewState(Enum):
    EMPTY = "empty"
    BOOT = "boot"  # the boot screen covers the view
    SHOWING = "showing"


TRANSITIONS: Final[dict[ViewState, frozenset[ViewState]]] = {
    ViewState.EMPTY: frozenset({ViewState.BOOT, ViewState.SHOWING, ViewState.EMPTY}),
    ViewState.BOOT: frozenset({ViewState.BOOT, ViewState.SHOWING, ViewState.EMPTY}),
    ViewState.SHOWING: frozenset({ViewState.BOOT, ViewState.SHOWING, ViewState.EMPTY}),
}


#: Display ids that the former owner may have used after its state was saved: a second's worth, tenfold.
IDS_SKIPPED: Final = 1000


_SHOWING: Final = ViewState.SHOWING  # looking up a member of an Enum costs 50 ns


@dataclass(frozen=True, slots=True)
class DisplayTiming:
    """Seconds."""

    interval: float = 0.3  # one update per view (wire spec 6.3; DSP-02)
    boot: float = 1.5  # longest the boot screen hides something else, and stays after the app runs (DSP-06)
    lock: float = 10.0  # a background app holds the screen at most this long (DSP-11)
    lock_idle: float = 2.0  # and this long without an update
    lock_pause: float = 2.0  # and may not take it back before, while the foreground waits
    notice: float = 3.0  # a failure notice
    card: float = 10.0  # an app's card on the dashboard view, without a duration of its own


@effect
class Show:
    """Send a layout to the glasses. `duration` in seconds, None = until replaced."""

    view: View
    package: str
    layout: dict[str, Any]
    duration: float | None
    display_id: int


@effect
class Settled:
    """What became of one request: shown, replaced, expired or refused."""

    package: str
    display_id: int
    outcome: Literal["shown", "replaced", "expired", "refused"]
    reason: str = ""
    waited: float = 0.0  # seconds from the request to the screen


Effect: TypeAlias = Show | Settled


@dataclass(slots=True)
class _Request:
    package: str
    layout: dict[str, Any]
    duration: float | None
    display_id: int
    asked_at: float
    shown_at: float | None = None

    def expires_at(self) -> float | None:
        """A duration runs from the moment of showing."""
        if self.duration is None or self.shown_at is None:
            return None
        return self.shown_at + self.duration


@dataclass(slots=True)
class _View:
    name: View
    state: ViewState = ViewState.EMPTY
    live: dict[str, _Request] = field(default_factory=dict)
    current: _Request | None = None
    sent_at: float = float("-inf")
    clear_with: tuple[str, dict[str, Any]] | None = None  # an app's own way of clearing, sent in its name
    urgent: bool = False  # the next update may skip the interval
    deadline: float | None = None


class DisplayArbiter:
    """The views of one session. `system` is the package in whose name the cloud itself shows things."""

    def __init__(self, system: str, timing: DisplayTiming | None = None) -> None:
        self._system = system
        self._timing = timing or DisplayTiming()
        self._main = _View("main")
        self._dashboard = _View("dashboard")
        self._ids = 0
        self._foreground: str | None = None
        self._running: set[str] = set()
        self._boot: dict[str, tuple[str, float]] = {}  # package -> (name, since)
        self._boot_lingers: float | None = None  # the last app runs but shows nothing yet
        self._boot_shown: _Request | None = None
        self._left: str | None = None  # whose display has been on the lens since before our restart
        self._holder: str | None = None  # background app that has the screen
        self._held_since = 0.0
        self._held_active = 0.0
        self._paused: dict[str, float] = {}  # background app -> may take the screen again

    # ------------------------------------------------------------------------------------------------ inputs

    def request(
        self,
        package: str,
        view: View,
        layout: dict[str, Any],
        duration: float | None,
        now: float,
        *,
        force: bool = False,
    ) -> list[Effect]:
        """An app, or the cloud in the name of `system`, wants something shown."""
        again = self.again(package, view, layout, duration, now, force)
        if again is not None:
            return [again, Settled(package, again.display_id, "shown")]
        self._ids += 1
        target = self._main if view == "main" else self._dashboard
        if package != self._system and package not in self._running and package not in self._boot:
            return [Settled(package, self._ids, "refused", "the app is not running")]
        if duration == 0:  # "for no time": the original's way of clearing
            duration = None
            layout = {"layoutType": "clear_view"} if _is_blank(layout) else layout
        if view == "dashboard" and package != self._system and duration is None:
            duration = self._timing.card
        if layout.get("layoutType") == "clear_view" or (package == self._system and _is_blank(layout)):
            return self._cleared(target, package, layout, now)
        if view == "main" and package not in (self._foreground, self._system):
            refusal = self._take_lock(package, now)
            if refusal:
                return [Settled(package, self._ids, "refused", refusal)]
        effects = self._replace(target, package)
        request = _Request(package, layout, duration, self._ids, now)
        # The newest request is the last of the table: among equals it wins.
        target.live.pop(package, None)
        target.live[package] = request
        target.urgent = target.urgent or force
        if view == "main" and package == self._foreground and self._holder in (None, package):
            self._holder = None
        return effects + self._evaluate(target, now)

    def again(
        self,
        package: str,
        name: View,
        layout: dict[str, Any],
        duration: float | None,
        now: float,
        force: bool,
    ) -> Show | None:
        """The common case of `request` without its detours: the only app with something on this view shows something
        else there, at once. Its request is settled as shown. None: it is not that case, and nothing has happened.

        What the detours would find is known: the winner among one is that one (on the dashboard view a card covers what
        the cloud itself shows), and nothing of it was waiting.
        """
        view = self._main if name == "main" else self._dashboard
        old = view.live.get(package)
        if (
            old is None
            or old is not view.current
            or not (force or view.urgent or now >= view.sent_at + self._timing.interval)
            or package not in self._running
            or package == self._system
            or duration == 0
            or layout.get("layoutType") == "clear_view"
        ):
            return None
        if len(view.live) > 1:
            below = view.live.get(self._system)
            if view is self._main or len(view.live) > 2 or below is None or below.duration is not None:
                return None
            view.live[package] = view.live.pop(package)  # the newest is the last
        deadline = None
        if view is self._main:
            if self._boot or self._boot_lingers is not None:
                return None
            if package == self._foreground:
                if self._holder is not None:
                    return None
            elif self._holder != package or now >= self._lock_ends():
                return None
            else:
                self._held_active = now
                deadline = self._lock_ends()
        elif duration is None:
            duration = self._timing.card
        remaining = None
        if duration is not None:
            expires = now + duration
            remaining = max(0.0, expires - now)
            deadline = expires if deadline is None else min(deadline, expires)
        self._ids = number = self._ids + 1
        # The old request is of no more use to anybody, so it becomes the new one.
        old.layout, old.duration, old.display_id = layout, duration, number
        old.asked_at = old.shown_at = now
        view.sent_at, view.deadline = now, deadline
        view.clear_with, view.urgent = None, False
        if view.state is not _SHOWING:
            self._move(view, _SHOWING)
        return Show(name, package, layout, remaining, number)

    def starting(self, package: str, name: str, now: float) -> list[Effect]:
        """The wearer has started an app: say so on the glasses until it runs."""
        self._boot[package] = (name, now)
        self._boot_lingers = None
        return self._evaluate(self._main, now)

    def running(self, package: str, *, foreground: bool, now: float) -> list[Effect]:
        """The app is connected and may show things."""
        self._running.add(package)
        if foreground:
            self._foreground = package
            if self._holder == package:
                self._holder = None
        if self._boot.pop(package, None) is not None and not self._boot and package not in self._main.live:
            self._boot_lingers = now + self._timing.boot
        return self._evaluate(self._main, now)

    def failed(self, package: str, now: float) -> list[Effect]:
        """A start that the wearer asked for has failed: replace the boot screen by a short notice."""
        booting = self._boot.pop(package, None)
        if booting is None:
            return []
        notice = {"layoutType": "text_wall", "text": f"{booting[0]} could not start"}
        return self.request(self._system, "main", notice, self._timing.notice, now, force=True)

    def stopped(self, package: str, now: float) -> list[Effect]:
        """The app is gone: nothing of it may be shown any more."""
        self._running.discard(package)
        self._boot.pop(package, None)
        self._paused.pop(package, None)
        if self._foreground == package:
            self._foreground = None
        if self._holder == package:
            self._holder = None
        effects: list[Effect] = []
        for view in (self._main, self._dashboard):
            effects += self._replace(view, package, "the app has stopped")
            view.live.pop(package, None)
            view.urgent = view.urgent or (view.current is not None and view.current.package == package)
            if view.clear_with is not None and view.clear_with[0] == package:
                view.clear_with = None
            effects += self._evaluate(view, now)
        left = self._left == package if self._left is not None else self._foreground is None
        if left and self._main.sent_at == float("-inf"):
            effects += self._clear(self._main, now)  # its text may be there since before our restart
        return effects

    def found(self, package: str, owned: bool, now: float) -> list[Effect]:
        """The glasses client holds a display of `package` in the main view; `owned`: that app is wanted. If nothing has
        been sent yet, it is from before our restart: what nobody owns is taken away, the rest when its app stops."""
        if self._main.sent_at > float("-inf"):
            return []
        self._left = package
        return [] if owned else self._clear(self._main, now)

    def attached(self, now: float) -> list[Effect]:
        """A glasses connection is up and knows nothing: show what should be there, with its remaining time."""
        effects: list[Effect] = []
        for view in (self._main, self._dashboard):
            self._drop_expired(view, now)
            winner = self._winner(view, now)
            if winner is not None:
                effects += self._show(view, winner, now)
            elif view is self._main and view.sent_at > float("-inf"):
                # The clearing itself may have been lost with the last connection.
                effects += self._clear(view, now)
            elif view.current is not None:
                view.current = None
                self._move(view, ViewState.EMPTY)
            self._set_deadline(view, now)
        return effects

    def wipe(self, now: float) -> list[Effect]:
        """Nobody will draw soon: take away what a cloud before our restart may have left on the lens."""
        return self._clear(self._main, now) if self._main.state is ViewState.EMPTY else []

    @property
    def deadline(self) -> float | None:
        main, dashboard = self._main.deadline, self._dashboard.deadline
        if main is None or dashboard is None:
            return dashboard if main is None else main
        return min(main, dashboard)

    def handle_deadline(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for view in (self._main, self._dashboard):
            if view.deadline is not None and now >= view.deadline:
                effects += self._evaluate(view, now)
        return effects

    # ------------------------------------------------------------------------------------------------ another node

    def export(self, now: float) -> dict[str, Any]:
        """The live requests, and who may show; boot screens end with the node."""
        return {
            "ids": self._ids,
            "foreground": self._foreground,
            "running": sorted(self._running),
            "holder": None
            if self._holder is None
            else [self._holder, now - self._held_since, now - self._held_active],
            "views": {
                view.name: [
                    [
                        r.package,
                        r.layout,
                        r.duration,
                        now - r.asked_at,
                        None if r.shown_at is None else now - r.shown_at,
                    ]
                    for r in view.live.values()
                ]
                for view in (self._main, self._dashboard)
            },
        }

    def restore(self, state: Mapping[str, Any], now: float) -> None:
        """Go on with what another node had; `attached` shows it. Raises KeyError, TypeError or ValueError for what
        cannot be read."""
        self._ids = int(state.get("ids", 0)) + IDS_SKIPPED
        foreground = state.get("foreground")
        self._foreground = None if foreground is None else str(foreground)
        self._running = {str(package) for package in state.get("running", ())}
        holder = state.get("holder")
        if holder is not None:
            self._holder = str(holder[0])
            self._held_since, self._held_active = now - float(holder[1]), now - float(holder[2])
        for view in (self._main, self._dashboard):
            for package, layout, duration, asked, shown in state.get("views", {}).get(view.name, ()):
                self._ids += 1
                request = _Request(
                    str(package),
                    dict(layout),
                    None if duration is None else float(duration),
                    self._ids,
                    now - float(asked),
                )
                request.shown_at = None if shown is None else now - float(shown)
                view.live[request.package] = request
            self._set_deadline(view, now)

    # ------------------------------------------------------------------------------------------------ queries

    @property
    def shown(self) -> dict[str, dict[str, Any]]:
        """View -> {package, layout} as the glasses were told last."""
        return {
            v.name: {"package": v.current.package, "layout": v.current.layout}
            for v in (self._main, self._dashboard)
            if v.current is not None
        }

    @property
    def state(self) -> ViewState:
        """State of the main view."""
        return self._main.state

    # ------------------------------------------------------------------------------------------------ inside

    def _cleared(self, view: _View, package: str, layout: dict[str, Any], now: float) -> list[Effect]:
        effects = self._replace(view, package)
        owned = view.current is not None and view.current.package == package
        view.live.pop(package, None)
        if self._holder == package:
            self._holder = None
        # What it takes away may be on the lens since before our restart.
        left = view is self._main and view.sent_at == float("-inf")
        left = left and (self._left or self._foreground or package) == package
        if owned or left:
            view.clear_with = (package, layout)
        effects.append(Settled(package, self._ids, "shown", "cleared"))
        return effects + (self._clear(view, now) if left else self._evaluate(view, now))

    def _take_lock(self, package: str, now: float) -> str:
        """Give the screen to a background app, or say why not."""
        self._lapse(now)
        if self._holder == package:
            self._held_active = now
            return ""
        if self._holder is not None:
            return f"{self._holder} has the screen"
        foreground_waits = self._foreground is not None and self._foreground in self._main.live
        if foreground_waits and now < self._paused.get(package, float("-inf")):
            return "it had the screen a moment ago"
        self._holder, self._held_since, self._held_active = package, now, now
        return ""

    def _lapse(self, now: float) -> None:
        """A background app keeps the screen for a bounded time; afterwards its display has no precedence."""
        if self._holder is None or now < self._lock_ends():
            return
        self._paused = {p: at for p, at in self._paused.items() if at > now}
        self._paused[self._holder] = now + self._timing.lock_pause
        self._holder = None

    def _lock_ends(self) -> float:
        return min(self._held_since + self._timing.lock, self._held_active + self._timing.lock_idle)

    def _replace(self, view: _View, package: str, reason: str = "") -> list[Effect]:
        old = view.live.get(package)
        if old is None or old.shown_at is not None:
            return []
        return [Settled(package, old.display_id, "replaced", reason)]

    def _drop_expired(self, view: _View, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for package, request in list(view.live.items()):
            expires = request.expires_at()
            if expires is not None and now >= expires:
                del view.live[package]
                if self._holder == package and view is self._main:
                    self._holder = None
                if view.current is request:
                    # The interval keeps an app from flooding the glasses; the end of a display is no flood.
                    effects.append(Settled(package, request.display_id, "expired"))
        return effects

    def _winner(self, view: _View, now: float) -> _Request | None:
        """The request that should be on the glasses now."""
        if view is self._dashboard:
            # An app's card for its time, else the dashboard itself.
            cards = [r for p, r in view.live.items() if p != self._system]
            return cards[-1] if cards else view.live.get(self._system)
        self._lapse(now)
        boot = self._boot_screen(now)
        if boot is not None:
            return boot
        if self._system in view.live:  # a notice
            return view.live[self._system]
        if self._holder is not None and self._holder in view.live:
            return view.live[self._holder]
        if self._foreground is not None and self._foreground in view.live:
            return view.live[self._foreground]
        if view.current is not None and view.live.get(view.current.package) is view.current:
            return view.current
        waiting = list(view.live.values())
        return waiting[-1] if waiting else None

    def _boot_screen(self, now: float) -> _Request | None:
        if self._boot:
            newest = max(since for _, since in self._boot.values())
            if self._main.live and now >= newest + self._timing.boot:
                return None  # something else waits to be seen
            if any(package in self._main.live for package in self._running - self._boot.keys()) and (
                now >= newest + self._timing.boot
            ):
                return None
            names = ", ".join(name for name, _ in self._boot.values())
        elif self._boot_lingers is not None and self._boot_shown is not None:
            if now >= self._boot_lingers or self._main.live:
                self._boot_lingers = None
                return None
            return self._boot_shown
        else:
            return None
        title = "// MentraOS - Starting App" + ("s" if len(self._boot) > 1 else "")
        layout = {"layoutType": "reference_card", "title": title, "text": names}
        if self._boot_shown is None or self._boot_shown.layout != layout or self._main.current is None:
            self._ids += 1
            self._boot_shown = _Request(self._system, layout, None, self._ids, now)
        return self._boot_shown

    def _evaluate(self, view: _View, now: float) -> list[Effect]:
        effects = self._drop_expired(view, now)
        winner = self._winner(view, now)
        if winner is view.current and winner is not None:
            view.clear_with = None
        elif (winner is not None or view.current is not None) and (
            view.urgent or now >= view.sent_at + self._timing.interval
        ):
            effects += self._show(view, winner, now) if winner is not None else self._clear(view, now)
        self._set_deadline(view, now)
        return effects

    def _show(self, view: _View, request: _Request, now: float) -> list[Effect]:
        first = request.shown_at is None
        if first:
            request.shown_at = now
        remaining = request.duration
        if remaining is not None and request.shown_at is not None:
            remaining = max(0.0, request.shown_at + remaining - now)
        view.current, view.sent_at = request, now
        view.clear_with, view.urgent = None, False
        self._move(view, ViewState.BOOT if request is self._boot_shown else ViewState.SHOWING)
        effects: list[Effect] = [
            Show(view.name, request.package, request.layout, remaining, request.display_id)
        ]
        if first:
            effects.append(
                Settled(request.package, request.display_id, "shown", waited=now - request.asked_at)
            )
        return effects

    def _clear(self, view: _View, now: float) -> list[Effect]:
        package, layout = view.clear_with or (self._system, {"layoutType": "text_wall", "text": ""})
        view.current, view.sent_at = None, now
        view.clear_with, view.urgent = None, False
        self._move(view, ViewState.EMPTY)
        self._ids += 1
        return [Show(view.name, package, layout, 0.0, self._ids)]

    def _set_deadline(self, view: _View, now: float) -> None:
        times: list[float] = [t for r in view.live.values() if (t := r.expires_at()) is not None]
        if self._winner(view, now) is not view.current:
            times.append(view.sent_at + self._timing.interval)
        if view is self._main:
            if self._holder is not None:
                times.append(self._lock_ends())
            if self._boot:
                ends = max(since for _, since in self._boot.values()) + self._timing.boot
                if ends > now:
                    times.append(ends)
            elif self._boot_lingers is not None:
                times.append(self._boot_lingers)
        view.deadline = min(times, default=None)

    def _move(self, view: _View, to: ViewState) -> None:
        if to not in TRANSITIONS[view.state]:
            raise InvalidTransition(f"DisplayArbiter({view.name})", view.state, to)
        view.state = to


def _is_blank(layout: dict[str, Any]) -> bool:
    return layout.get("layoutType") == "text_wall" and not layout.get("text")
