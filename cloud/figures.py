"""What the event path measures: plain numbers while events run, metrics when somebody reads them.

Rules: nothing here takes a lock per event; `carry` brings the numbers over, every few seconds and before each scrape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cloud.core.app_lifecycle import AppState
from cloud.core.microphone import MicrophoneState
from cloud.core.session import Session, SessionState
from cloud.metrics import Metrics, Tally


class Figures:
    """One per process. What is public is counted up, or observed, by the event path itself."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.delivered = 0  # events put on app sockets
        self.audio_frames = 0  # received
        self._delivered = metrics.counter("events_delivered_total")
        self._audio_frames = metrics.counter("audio_frames_total")
        updates = metrics.counter("display_updates_total")
        self._display_updates = {
            outcome: updates.labels(outcome=outcome)
            for outcome in ("shown", "replaced", "expired", "refused")
        }
        self.displays = dict.fromkeys(self._display_updates, 0)  # requests by their fate
        self.displayed_at_once = 0  # shown, and did not wait: not part of `displays` yet
        hops = metrics.histogram("hop_seconds")
        self.display_hop = Tally(hops.labels(hop="cloud_display"))
        self.app_hop = hops.labels(hop="app")
        self.round_trip = Tally(hops.labels(hop="app_round_trip"))
        self.provider = hops.labels(hop="provider")
        #: Members of trace records (milliseconds) -> the hop that they measure.
        self._hop_of = {
            name: hops.labels(hop=hop)
            for name, hop in (
                ("audio_ms", "mic_to_edge"),
                ("uplink_ms", "edge_to_cloud"),
                ("downlink_ms", "cloud_to_edge"),
                ("edge_ms", "edge"),
                ("ble_ms", "ble"),
            )
        }

    def hops(self, detail: Mapping[str, Any]) -> None:
        """The hops that a report of the edge names."""
        for name, hop in self._hop_of.items():
            value = detail.get(name)
            if value is not None:
                hop.observe(value / 1000)

    def carry(self) -> None:
        """Bring the numbers of the event path over to the metrics."""
        self._delivered.inc(self.delivered)
        self._audio_frames.inc(self.audio_frames)
        self.delivered = self.audio_frames = 0
        self.displays["shown"] += self.displayed_at_once
        self.display_hop.observe(0.0, self.displayed_at_once)
        self.displayed_at_once = 0
        for outcome, count in self.displays.items():
            self._display_updates[outcome].inc(count)
            self.displays[outcome] = 0
        self.display_hop.carry()
        self.round_trip.carry()

    def gauge(self, sessions: Iterable[Session]) -> None:
        """How many sessions, apps and microphones are in which state."""
        states = dict.fromkeys(SessionState, 0)
        app_states = dict.fromkeys(AppState, 0)
        microphones = 0
        for session in sessions:
            states[session.state] += 1
            microphones += session.microphone.state is not MicrophoneState.OFF
            for state in session.lifecycles():
                app_states[state] += 1
        for session_state, count in states.items():
            self._metrics.gauge("sessions").labels(state=session_state.value).set(count)
        for app_state, count in app_states.items():
            self._metrics.gauge("app_sessions").labels(state=app_state.value).set(count)
        self._metrics.gauge("microphones_on").set(microphones)
