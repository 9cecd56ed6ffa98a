"""What the edge daemon says about itself, drawn for people.

Rules: asks over the daemon's own local socket; draws the way from the arms to the cloud, with the reason beside
whatever is not well, and under it what the radio is used for and what that costs. `draw` is pure.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from edge import control
from glassbridge.output import CommandError, Exit, emit, show

WATCH_EVERY = 1.0  # s; what changes faster is for `events`
_TOP = "\033[H\033[J"  # to the upper left corner, and clear what is below

_WELL = {"ready", "online"}


def ask(path: Path) -> dict[str, Any]:
    """The daemon's status. Raises CommandError (69) when none answers."""
    status: dict[str, Any] = tell(path, {"cmd": "status"})["status"]
    return status


def tell(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """What the daemon answers. Raises CommandError: 69 when none is there, 1 when it refuses."""
    try:
        said = control.ask(path, request)
    except OSError as error:
        raise CommandError(
            "no edge daemon answers on this machine",
            f"{path}: {error.strerror or error}",
            "glassbridge edge run   (or name its state with --data-dir)",
            Exit.UNREACHABLE,
        ) from None
    if not said.pop("ok", False):
        reason = said.get("error", "it gave no reason")
        raise CommandError("the edge daemon refused", reason, "glassbridge edge status   (shows its wearers)")
    return said


def follow(path: Path, *, as_json: bool, rounds: int | None = None) -> None:
    """Show the status again and again; a daemon that is away is waited for. Ends with Ctrl-C (or after `rounds`)."""
    top = _TOP if sys.stdout.isatty() and not as_json else ""
    while rounds is None or rounds > 0:
        try:
            status = ask(path)
        except CommandError as error:
            if as_json:
                emit({"error": {"what": error.what, "why": error.why, "fix": error.fix}})
            else:
                show(f"{top}{error.what}: {error.why}\n  fix: {error.fix}\n  looking again every second")
        else:
            if as_json:
                emit(status)
            else:
                show(top + draw(status) + ("" if top else "\n"))
        rounds = None if rounds is None else rounds - 1
        time.sleep(WATCH_EVERY)


def draw(status: dict[str, Any]) -> str:
    """The status as lines of text."""
    lines = []
    fault = status["radio"]["fault"]
    if fault:
        lines.append(f"radio: {fault} - run `glassbridge doctor`")
    for wearer in status["wearers"]:
        lines += _wearer(wearer, simulated=status["simulated"])
    return "\n".join(lines)


def _wearer(wearer: dict[str, Any], *, simulated: bool) -> list[str]:
    glasses, cloud = wearer["glasses"], wearer["cloud"]
    badge = "   SIMULATED" if simulated else ""
    lines = [f"{wearer['user'] or 'wearer'} · {glasses['model']} · {glasses['state']}{badge}"]
    arms = [_arm(name, arm) for name, arm in glasses["arms"].items()]
    width = max(map(len, arms), default=0)
    way = _cloud(cloud)
    match len(arms):
        case 1:
            lines.append(f"  {arms[0]} ──── edge ──── {way}")
        case 2:
            lines.append(f"  {arms[0]:{width}} ─┐")
            lines.append(f"  {'':{width}}  ├── edge ──── {way}")
            lines.append(f"  {arms[1]:{width}} ─┘")
        case _:
            lines += [f"  {arm}" for arm in arms] + [f"  edge ──── {way}"]
    lines.append(f"  audio: {_audio(wearer['audio'])}   {_display(wearer['display'])}")
    lines += [f"  {name:5} {_use(arm)}" for name, arm in glasses["arms"].items() if arm["state"] in _WELL]
    return lines


def _use(arm: dict[str, Any]) -> str:
    """What the radio of an arm carries, and what its battery says to that."""
    parts = [
        f"{arm['writes_per_minute']:.0f} writes and {_bytes(arm['bytes_per_minute'])} a minute",
    ]
    if arm["ack_ms"] is not None:
        parts.append(f"answers in {arm['ack_ms']:.0f} ms")
    if arm["bytes_per_second"] is not None:
        parts.append(f"the link carries {_bytes(arm['bytes_per_second'])} a second")
    rate = arm["battery_per_hour"]
    if rate is not None and rate > 0 and arm["battery"] is not None:
        parts.append(f"battery -{rate:.1f} % an hour, {arm['battery'] / rate:.0f} h left")
    elif rate is not None:
        parts.append("battery holds its level")
    return ", ".join(parts)


def _bytes(count: float) -> str:
    return f"{count:.0f} B" if count < 1000 else f"{count / 1000:.1f} kB"


def _arm(name: str, arm: dict[str, Any]) -> str:
    well = arm["state"] in _WELL
    parts = [f"{name:5} {'●' if well else '○'} {arm['state']}"]
    if not well and arm["reason"]:
        parts.append(f"({arm['reason']})")
    if arm["battery"] is not None:
        parts.append(f"battery {arm['battery']} %")
    if arm["rssi"] is not None:
        parts.append(f"{arm['rssi']} dBm")
    return "  ".join(parts)


def _cloud(cloud: dict[str, Any]) -> str:
    well = cloud["state"] in _WELL
    words = f"{'●' if well else '○'} cloud {cloud['state']}"
    if cloud["reason"] and not well:
        words += f" ({cloud['reason']})"
    if well and cloud["rtt_ms"] is not None:
        words += f", {cloud['rtt_ms']:.0f} ms there and back"
    return f"{words}, for {_time(cloud['for_s'])}"


def _audio(audio: dict[str, Any]) -> str:
    if not audio["asked_by_cloud"]:
        return "off (no app asked)"
    return f"{audio['microphone']} (asked for by the cloud)"


def _display(display: dict[str, Any]) -> str:
    last = display["last_shown_s"]
    return "nothing shown yet" if last is None else f"last line shown {_time(last)} ago"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
