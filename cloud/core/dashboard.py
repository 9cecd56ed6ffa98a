"""What stands on the dashboard: time, battery, the next appointment, notifications and a line of each app.

Rules: the cloud renders the dashboard itself; an external dashboard app, once connected, owns the sections. The
machine makes text only; pacing and arbitration belong to the display arbiter. Source: wire spec 6.8.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from cloud.core.clock import WallClock

Section: TypeAlias = Literal["topLeft", "topRight", "bottomLeft", "bottomRight"]
SECTIONS: Final[tuple[Section, ...]] = ("topLeft", "topRight", "bottomLeft", "bottomRight")

#: Apps whose newest content is kept; the oldest goes first. A wearer runs a handful.
CONTENT_MAX: Final = 64
#: Notifications that take turns on the dashboard (DSP-07: at most 4 displayed per 10 s, the rest summarised).
NOTIFICATIONS_MAX: Final = 4
NOTIFICATION_LINE: Final = 60  # characters of one notification; the lens shows about 45 in a line
#: An appointment is worth a glance when it starts within a day.
APPOINTMENT_AHEAD: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Render:
    """The dashboard reads like this now."""

    layout: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModeChanged:
    mode: str


Effect: TypeAlias = Render | ModeChanged


class Dashboard:
    """The dashboard of one session."""

    def __init__(self, clock: WallClock) -> None:
        self._clock = clock
        self.mode = "main"
        self._sections: dict[Section, str] = dict.fromkeys(SECTIONS, "")
        self._owner: str | None = None  # external dashboard app
        self._main: OrderedDict[str, str] = OrderedDict()  # oldest first
        self._expanded: OrderedDict[str, str] = OrderedDict()
        self._page = 0
        self._battery: int | None = None
        self._charging = False
        self._appointments: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._notifications: OrderedDict[str, str] = OrderedDict()
        self._hidden_notifications = 0
        self._last: dict[str, Any] | None = None
        self._deadline: float | None = None

    def export(self) -> dict[str, Any]:
        """Everything that stands here, for another node."""
        return {
            "mode": self.mode,
            "owner": self._owner,
            "sections": dict(self._sections),
            "main": list(self._main.items()),
            "expanded": list(self._expanded.items()),
            "page": self._page,
            "battery": self._battery,
            "charging": self._charging,
            "appointments": [[key, at, title] for key, (at, title) in self._appointments.items()],
            "notifications": list(self._notifications.items()),
            "hidden": self._hidden_notifications,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with what another node had. Raises KeyError, TypeError or ValueError for what cannot be read."""
        self.mode = str(state.get("mode", "main"))
        owner = state.get("owner")
        self._owner = None if owner is None else str(owner)
        given = state.get("sections", {})
        self._sections = {name: str(given.get(name, "")) for name in SECTIONS}
        self._main = OrderedDict((str(k), str(v)) for k, v in state.get("main", ()))
        self._expanded = OrderedDict((str(k), str(v)) for k, v in state.get("expanded", ()))
        self._page = int(state.get("page", 0))
        level = state.get("battery")
        self._battery = None if level is None else int(level)
        self._charging = bool(state.get("charging"))
        self._appointments = OrderedDict(
            (str(key), (float(at), str(title))) for key, at, title in state.get("appointments", ())
        )
        self._notifications = OrderedDict((str(k), str(v)) for k, v in state.get("notifications", ()))
        self._hidden_notifications = int(state.get("hidden", 0))

    @property
    def deadline(self) -> float | None:
        return self._deadline

    def handle_deadline(self, now: float) -> list[Effect]:
        if self._deadline is None or now < self._deadline:
            return []
        return self.refresh(now)

    def refresh(self, now: float) -> list[Effect]:
        """Render if the text has changed; afterwards again at the next minute."""
        self._deadline = now + self._clock.seconds_to_next_minute(now)
        layout = self._layout(now)
        if layout == self._last:
            return []
        self._last = layout
        return [Render(layout)]

    # ------------------------------------------------------------------------------------------------ the wearer's day

    def battery(self, level: int | None, charging: bool, now: float) -> list[Effect]:
        """Battery of the glasses in percent; None or negative = unknown."""
        self._battery = level if level is not None and level >= 0 else None
        self._charging = charging
        return self.refresh(now)

    def appointment(self, event_id: str, title: str, starts_at: float | None, now: float) -> list[Effect]:
        """A calendar entry. `starts_at` in seconds since 1970."""
        if starts_at is not None:
            self._appointments[event_id or title] = (starts_at, title)
            while len(self._appointments) > CONTENT_MAX:
                self._appointments.popitem(last=False)
        return self.refresh(now)

    def notification(self, key: str, app: str, title: str, content: str, now: float) -> list[Effect]:
        """A phone notification: the newest few stand on the dashboard, the rest is a number."""
        line = " ".join(f"{app}: {title} {content}".split())
        if len(line) > NOTIFICATION_LINE:
            line = line[: NOTIFICATION_LINE - 1].rstrip() + "…"
        if self._notifications.get(key) == line:
            return []
        self._notifications[key] = line
        self._notifications.move_to_end(key)
        while len(self._notifications) > NOTIFICATIONS_MAX:
            self._notifications.popitem(last=False)
            self._hidden_notifications += 1
        return self.refresh(now)

    def dismissed(self, key: str, now: float) -> list[Effect]:
        """A notification was dismissed on the phone."""
        if self._notifications.pop(key, None) is None:
            self._hidden_notifications = max(0, self._hidden_notifications - 1)
        if not self._notifications:
            self._hidden_notifications = 0
        return self.refresh(now)

    def head_up(self, now: float) -> list[Effect]:
        """The wearer looks up: the next page, if there are several."""
        if len(self._pages()) > 1:
            self._page += 1
        return self.refresh(now)

    # ------------------------------------------------------------------------------------------------ apps

    def content(self, package: str, text: str, modes: list[str], now: float) -> list[Effect]:
        """An app's line."""
        for mode, table in (("main", self._main), ("expanded", self._expanded)):
            if mode in modes:
                table.pop(package, None)
                if text:
                    table[package] = text
                    while len(table) > CONTENT_MAX:
                        table.popitem(last=False)
        return self.refresh(now)

    def section(self, package: str, section: Section, text: str, now: float) -> list[Effect]:
        """The external dashboard app fills a section; from now on the sections are its own."""
        if self._owner != package:
            self._owner = package
            self._sections = dict.fromkeys(SECTIONS, "")
        self._sections[section] = text
        return self.refresh(now)

    def set_mode(self, mode: str, now: float) -> list[Effect]:
        """The external dashboard app changes the mode."""
        if mode == self.mode:
            return []
        self.mode = mode
        return [ModeChanged(mode), *self.refresh(now)]

    def gone(self, package: str, now: float) -> list[Effect]:
        """An app has stopped: nothing of it stays on the dashboard."""
        self._main.pop(package, None)
        self._expanded.pop(package, None)
        if self._owner == package:
            self._owner = None
            self._sections = dict.fromkeys(SECTIONS, "")
            self.mode = "main"
        return self.refresh(now)

    # ------------------------------------------------------------------------------------------------ text

    def _layout(self, now: float) -> dict[str, Any]:
        sections = self._sections if self._owner else self._own_sections(now)
        if self.mode == "expanded":
            newest = next(reversed(self._expanded.values()), "No expanded content available")
            return {
                "layoutType": "text_wall",
                "text": f"{sections['topLeft']} | {sections['topRight']}\n{newest}",
            }
        top = _lines(sections["topLeft"], sections["bottomLeft"])
        pages = self._pages()
        page = pages[self._page % len(pages)] if pages else ""
        if sections["bottomRight"]:
            page = f"{sections['bottomRight']}\n\n{page}" if page else sections["bottomRight"]
        return {
            "layoutType": "double_text_wall",
            "topText": top,
            "bottomText": f"{sections['topRight']}\n{page}" if page else sections["topRight"],
        }

    def _pages(self) -> list[str]:
        """What takes turns, newest first."""
        pages = list(reversed(self._main.values()))
        if not self._owner and self._notifications:
            lines = list(reversed(self._notifications.values()))
            if self._hidden_notifications:
                lines.append(f"+{self._hidden_notifications} more")
            pages.insert(0, "\n".join(lines))
        return pages

    def _own_sections(self, now: float) -> dict[Section, str]:
        battery = ""
        if self._battery is not None:
            battery = f" {self._battery}%" + ("+" if self._charging else "")
        return {
            "topLeft": f"◌ {self._clock.local(now):%H:%M}{battery}",
            "topRight": self._next_appointment(now),
            "bottomLeft": "",
            "bottomRight": "",
        }

    def _next_appointment(self, now: float) -> str:
        wall = now + self._clock.epoch_offset
        soon = [a for a in self._appointments.values() if wall <= a[0] <= wall + APPOINTMENT_AHEAD]
        if not soon:
            return ""
        starts_at, title = min(soon)
        return f"{self._clock.local(starts_at - self._clock.epoch_offset):%H:%M} {title}"


def _lines(*parts: str) -> str:
    return "\n".join(part for part in parts if part)
