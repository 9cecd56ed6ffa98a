"""Sessions as the HTTP routes and the console see them: a picture of one moment.

Rules: pure functions of an entry; nothing is changed. No content of the user but what is on the glasses now.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from cloud.http.ports import AppView, SessionView
from cloud.session_entry import GLASSES, SessionEntry


def session_view(entry: SessionEntry, now: float) -> SessionView:
    """`now`: monotonic seconds."""
    session = entry.session
    connected = session.glasses_connection is not None
    return SessionView(
        user_id=session.user_id,
        session_id=session.user_id,
        state=session.state.value,
        reason=session.reason,
        since=now - session.since,
        connected=connected,
        remote=entry.remote,
        client=None if not connected else "edge" if session.link.sequenced else "phone",
        model_name=session.device.get("modelName"),
        microphone=session.microphone.state.value,
        apps=tuple(_app_view(entry, state, now) for state in session.app_states()),
        display=session.display.shown,
        history=tuple(entry.lanes.get(GLASSES, ())),
        extra={
            "edge": session.edge_status,
            "battery": session.device.get("batteryLevel"),
            "link": {
                "state": session.link.state.value,
                "sequenced": session.link.sequenced,
                "backlog": session.link.backlog,
            },
            "clock": session.hops.edge_clock,
            "speech": sorted(f"{s}>{t}" if t else s for s, t in session.subscriptions.speech),
            "audio": {
                "frames": entry.audio.frames,
                "gaps": entry.audio.gaps,
                "decode_failures": entry.audio.failures,
                "shed": session.audio_shed,
            },
            "unknown_messages": session.unknown_messages,
            "location_tier": session.subscriptions.location_tier,
        },
    )


def _app_view(entry: SessionEntry, state: Mapping[str, Any], now: float) -> AppView:
    life = entry.session.app(state["package"])
    starting = state["state"] in ("loading", "connecting")
    next_attempt = state["next_attempt"]
    info = entry.session.info(state["package"])
    states = entry.lanes.get(state["package"])
    return AppView(
        package_name=state["package"],
        state=state["state"],
        reason=state["reason"],
        wanted=state["wanted"],
        running=starting or (life is not None and life.is_running),
        foreground=info is not None and info.kind == "standard" and life is not None and life.is_running,
        since=None if not states else max(0.0, time.time() - states[-1]["at"]),
        last_active_at=entry.connected_at.get(state["package"]),
        last_error=state["last_error"] or None,
        attempt=state["failures"],
        next_attempt_in=None if next_attempt is None else max(0.0, next_attempt - now),
        subscriptions=tuple(state["subscriptions"]),
    )


def device_view(entry: SessionEntry) -> Mapping[str, Any]:
    """What is known of the glasses and the phone, in the words of the phone's own API."""
    session = entry.session
    return {
        "isGlassesConnected": bool(session.device.get("connected", session.device.get("modelName"))),
        "isPhoneConnected": session.glasses_connection is not None,
        "modelName": session.device.get("modelName"),
        "capabilities": session.capabilities,
    }
