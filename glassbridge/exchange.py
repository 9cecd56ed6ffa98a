"""The last exchange, put together from the cloud's trace: what happened, which app answered, when the lens lit.

Rules: pure. A hop's time is shown where somebody measured it and left open otherwise. The start is the simulator's word
that something was done to the glasses; all clocks are this machine's. What was said or shown never passes through here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: An answer that comes later than this is no answer to that event. Seconds.
ANSWER_MAX = 2.0
#: An input older than this did not cause the event that the cloud delivers now. Seconds.
CAUSE_MAX = 1.0
#: Displays whose result is awaited; the edge reports each within seconds.
PENDING_MAX = 64


@dataclass(slots=True)
class _Event:
    at: float
    about: str
    input_at: float | None


@dataclass(slots=True)
class _Display:
    at: float
    package: str
    event: _Event
    waited: float | None = None


class Exchanges:
    """Takes the trace's records of one user in order; gives each completed exchange."""

    def __init__(self, user: str) -> None:
        self._user = user
        self._input_at: float | None = None
        self._event: _Event | None = None
        self._displays: OrderedDict[Any, _Display] = OrderedDict()

    def touched(self, at: float) -> None:
        """Something was done to the glasses. `at` in Unix seconds."""
        self._input_at = at

    def add(self, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """One record of the trace; an exchange, if this completes one."""
        if record.get("user") != self._user:
            return None
        match record["kind"]:
            case "to_app":
                self._delivered(record)
            case "display":
                self._displayed(record)
            case "display_settled":
                display = self._displays.get(record.get("id"))
                if display is not None:
                    display.waited = record.get("waited")
            case "display_result":
                return self._result(record)
        return None

    def _delivered(self, record: Mapping[str, Any]) -> None:
        if not record.get("apps"):
            return
        at, cause = float(record["at"]), self._input_at
        self._input_at = None
        fits = cause is not None and 0 <= at - cause <= CAUSE_MAX
        self._event = _Event(at, str(record.get("about") or "event"), cause if fits else None)

    def _displayed(self, record: Mapping[str, Any]) -> None:
        event = self._event
        if event is None or record.get("view") != "main" or record["at"] - event.at > ANSWER_MAX:
            return
        self._event = None  # the first answer counts
        while len(self._displays) >= PENDING_MAX:
            self._displays.popitem(last=False)
        self._displays[record["id"]] = _Display(float(record["at"]), str(record["package"]), event)

    def _result(self, record: Mapping[str, Any]) -> dict[str, Any] | None:
        # The edge names the display as text, the cloud's own records by number.
        number = record.get("id")
        display = self._displays.pop(number, None)
        if display is None and isinstance(number, str) and number.isdigit():
            display = self._displays.pop(int(number), None)
        if display is None or record.get("outcome") != "shown":
            return None
        return _exchange(display, record.get("edge_ms"), record.get("ble_ms"))


def _exchange(display: _Display, edge_ms: float | None, ble_ms: float | None) -> dict[str, Any]:
    event = display.event
    waited_ms = None if display.waited is None else display.waited * 1000
    arrived_ms = None if event.input_at is None else (event.at - event.input_at) * 1000
    app_ms = max(0.0, (display.at - event.at) * 1000 - (waited_ms or 0.0))
    hops: list[dict[str, Any]] = [
        {"who": "glasses", "what": event.about, "ms": None},
        {"who": "cloud", "what": "by Bluetooth and edge", "ms": arrived_ms},
        {"who": "app", "what": display.package.rpartition(".")[2], "ms": app_ms},
        {"who": "cloud", "what": "display_event", "ms": waited_ms},
        {"who": "edge", "what": "to packets", "ms": edge_ms},
        {"who": "lens", "what": "lit", "ms": ble_ms},
    ]
    known = [float(hop["ms"]) for hop in hops if isinstance(hop["ms"], (int, float))]
    return {"at": display.at, "hops": hops, "total_ms": sum(known)}
