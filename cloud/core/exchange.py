"""What happened, which app answered, when the lens lit: one exchange put together from the trace of one session.

Rules: pure. A hop's time is given where somebody measured it and left open otherwise. The ways to an app and back cannot be
told apart, for its clock is unknown: they are part of the app's time, and the round trip of its socket says how much they
can be at most. What was said or shown never passes through here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloud.core.hops import ANSWER_MAX

#: An input older than this did not cause the event that the cloud delivers now. Seconds.
CAUSE_MAX: Final = 1.0
#: Displays whose result is awaited; the edge reports each within seconds.
PENDING_MAX: Final = 64


@dataclass(slots=True)
class _Cause:
    """What the glasses said, or the recogniser heard."""

    at: float
    detail: Mapping[str, Any]
    spoken: bool


@dataclass(slots=True)
class _Event:
    at: float
    about: str
    cause: _Cause | None


@dataclass(slots=True)
class _Display:
    at: float
    package: str
    round_trip_ms: float | None
    event: _Event
    waited: float | None = None


class Exchanges:
    """Takes a session's records in order; gives each completed exchange."""

    __slots__ = ("_cause", "_displays", "_event")

    def __init__(self) -> None:
        self._cause: _Cause | None = None
        self._event: _Event | None = None
        self._displays: OrderedDict[str, _Display] = OrderedDict()

    def add(self, kind: str, at: float, detail: Mapping[str, Any]) -> dict[str, Any] | None:
        """One record, `at` in Unix seconds; the exchange that it completes: `about`, `package`, `hops`, `total_ms`."""
        match kind:
            case "from_glasses" | "transcript":
                self._cause = _Cause(at, detail, kind == "transcript")
            case "to_app":
                self._delivered(at, detail)
            case "display":
                self._displayed(at, detail)
            case "display_settled":
                display = self._displays.get(str(detail["id"]))
                if display is not None:
                    display.waited = detail["waited"]
            case "display_result":
                return self._result(detail)
        return None

    def _delivered(self, at: float, detail: Mapping[str, Any]) -> None:
        if not detail["apps"]:
            return
        cause, self._cause = self._cause, None
        about = str(detail["about"] or "event")
        # The words are heard from the sound, not from whatever the glasses said meanwhile.
        fits = cause is not None and at - cause.at <= CAUSE_MAX and cause.spoken == _is_speech(about)
        self._event = _Event(at, about, cause if fits else None)

    def _displayed(self, at: float, detail: Mapping[str, Any]) -> None:
        event = self._event
        if event is None or detail["view"] != "main" or at - event.at > ANSWER_MAX:
            return
        self._event = None  # the first answer counts
        while len(self._displays) >= PENDING_MAX:
            self._displays.popitem(last=False)
        display = _Display(at, str(detail["package"]), detail.get("app_rtt_ms"), event)
        self._displays[str(detail["id"])] = display

    def _result(self, detail: Mapping[str, Any]) -> dict[str, Any] | None:
        display = self._displays.pop(str(detail["id"]), None)
        if display is None or detail["outcome"] != "shown":
            return None
        hops = [*_way_in(display.event), *_way_out(display, detail)]
        return {
            "about": display.event.about,
            "package": display.package,
            "sent_at": None if display.event.cause is None else display.event.cause.detail.get("sent_at"),
            "hops": hops,
            "total_ms": round(sum(hop["ms"] for hop in hops if hop["ms"] is not None), 2),
        }


def _hop(who: str, what: str, ms: float | None, note: str = "") -> dict[str, Any]:
    """`ms` since the hop before; `note` says what is not known exactly."""
    return {"who": who, "what": what, "ms": None if ms is None else round(max(0.0, ms), 2), "note": note}


def _way_in(event: _Event) -> list[dict[str, Any]]:
    cause = event.cause
    if _is_speech(event.about):
        known: Mapping[str, Any] = {} if cause is None else cause.detail
        rtt, provider = known.get("rtt_ms"), known.get("provider") or "recognition"
        typed = provider == "text"
        return [
            _hop("microphone", event.about, None),
            _hop("edge", "sound to frame", None if typed else known.get("audio_ms"), "without the radio"),
            _hop(
                "cloud", "≈ half a round trip", None if typed or rtt is None else rtt / 2, "sound has no date"
            ),
            _hop(
                "provider",
                "typed" if typed else str(provider),
                known.get("provider_ms"),
                "from the last word",
            ),
        ]
    uplink = None if cause is None else cause.detail.get("uplink_ms")
    inside = None if cause is None or uplink is None else uplink + (event.at - cause.at) * 1000
    return [
        _hop("glasses", event.about, None),
        _hop("edge", "by Bluetooth", None),
        _hop("cloud", "edge to cloud", inside),
    ]


def _way_out(display: _Display, detail: Mapping[str, Any]) -> list[dict[str, Any]]:
    waited_ms = None if display.waited is None else display.waited * 1000
    app_ms = (display.at - display.event.at) * 1000 - (waited_ms or 0.0)
    rtt = display.round_trip_ms
    note = "both ways are in it, for its clock is unknown"
    if rtt is not None:
        note += f"; they take {f'{rtt:.1f}' if rtt >= 1 else 'under 1'} ms"
    return [
        _hop("app", display.package.rpartition(".")[2], app_ms, note),
        _hop("cloud", "its turn", waited_ms),
        _hop("edge", "cloud to edge", detail.get("downlink_ms")),
        _hop("radio", "to packets", detail.get("edge_ms")),
        _hop("lens", "lit", detail.get("ble_ms")),
    ]


def _is_speech(about: str) -> bool:
    return about.partition(":")[0] in ("transcription", "translation")
