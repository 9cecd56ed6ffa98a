"""Who receives which event, worked out in advance so that the event path only looks it up.

Rules: an app's list is replaced whole, in arrival order; permissions are applied to every list and again to every
wildcard; an event is delivered under the subscriber's own string. A list survives its connection for as long as its
owner says so. Sources: wire spec 3.5, 3.6, 6.7; failure catalogue SUB-01..05, SEC-10.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import orjson

from wire.streams import (
    STREAM_PERMISSIONS,
    WILDCARDS,
    EventKey,
    Subscription,
    grants,
    highest_rate,
    matches,
    parse_subscriptions,
)

#: An empty list this soon after a connect is the SDK's greeting, not a wish (SUB-01: held back at most 2 s).
EMPTY_HOLD: Final = 2.0
#: Distinct event keys whose routes are remembered; a session meets about twenty. Then the memory starts afresh.
ROUTES_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Denied:
    """Streams that an app asked for and may not have."""

    package: str
    streams: tuple[tuple[str, str], ...]  # (subscription string, permission that is missing)


@dataclass(frozen=True, slots=True)
class Changed:
    """The effective list of an app is another one now. `added` are entries it did not have before."""

    package: str
    added: tuple[Subscription, ...]


Effect: TypeAlias = Denied | Changed


@dataclass(frozen=True, slots=True)
class Route:
    """Receivers of one event under one string: the start of the envelope and the connections."""

    stream_type: str
    prefix: bytes  # up to and including `"timestamp":"`
    packages: tuple[str, ...]  # all, also those whose connection is down at the moment
    connection_ids: tuple[int, ...]


@dataclass(slots=True)
class _App:
    session_id: str
    permissions: frozenset[str]
    asked: list[Subscription] = field(default_factory=list)
    effective: list[Subscription] = field(default_factory=list)
    connection_id: int | None = None
    connected_at: float = 0.0
    emptied_at: float | None = None  # when a held-back empty list takes effect


class Subscriptions:
    """The subscriptions of all apps of one session, and those of the phone itself."""

    def __init__(self, user_id: str) -> None:
        self._user_id = user_id
        self._apps: dict[str, _App] = {}
        self._phone: list[Subscription] = []
        #: Event -> receivers, as far as `routes` has worked them out; only to look into.
        self.known_routes: dict[EventKey | str, tuple[Route, ...]] = {}
        self.audio_receivers: tuple[int, ...] = ()
        self.audio_missing = 0  # apps that want sound and have no connection at the moment

    # ------------------------------------------------------------------------------------------------ inputs

    def connected(
        self, package: str, session_id: str, permissions: frozenset[str], connection_id: int, now: float
    ) -> None:
        """The app is connected. Its former list, if any, stays in force until its next update."""
        app = self._apps.get(package)
        if app is None:
            app = self._apps[package] = _App(session_id, permissions)
        app.session_id, app.connection_id, app.connected_at = session_id, connection_id, now
        app.permissions = permissions
        app.emptied_at = None
        self._reroute()

    def export(self) -> dict[str, Any]:
        """What every app asked for, and the phone."""
        return {
            "apps": {package: [s.name for s in app.asked] for package, app in self._apps.items()},
            "phone": [s.name for s in self._phone],
        }

    def restore(
        self, package: str, session_id: str, permissions: frozenset[str], entries: Iterable[object]
    ) -> None:
        """The list of an app that this node has not met yet; its connection comes later."""
        app = self._apps[package] = _App(session_id, permissions)
        app.asked, _ = parse_subscriptions(entries)
        app.effective = [s for s in app.asked if grants(permissions, s.permission)]
        self._reroute()

    def lost(self, package: str) -> None:
        """The app's connection is down; its list still counts."""
        app = self._apps.get(package)
        if app is not None:
            app.connection_id = None
            self._reroute()

    def removed(self, package: str) -> list[Effect]:
        """The app is gone: its list no longer counts."""
        if self._apps.pop(package, None) is None:
            return []
        self._reroute()
        return [Changed(package, ())]

    def update(self, package: str, entries: Iterable[object], now: float) -> list[Effect]:
        """The app's full list. Entries that cannot be used are ignored: they are harmless (wire spec 3.5)."""
        app = self._apps.get(package)
        if app is None:
            return []
        asked, _ = parse_subscriptions(entries)
        if not asked and app.effective and now < app.connected_at + EMPTY_HOLD:
            app.emptied_at = app.connected_at + EMPTY_HOLD
            return []
        app.emptied_at = None
        app.asked = asked
        return self._apply(package, app)

    def permissions_changed(self, package: str, permissions: frozenset[str]) -> list[Effect]:
        """The app's record grants something else now."""
        app = self._apps.get(package)
        if app is None or app.permissions == permissions:
            return []
        app.permissions = permissions
        return self._apply(package, app)

    def phone(self, entries: Iterable[object]) -> None:
        """Streams that the phone's own apps need; they count for the microphone only."""
        self._phone, _ = parse_subscriptions(entries)

    @property
    def deadline(self) -> float | None:
        return min((a.emptied_at for a in self._apps.values() if a.emptied_at is not None), default=None)

    def handle_deadline(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for package, app in self._apps.items():
            if app.emptied_at is not None and now >= app.emptied_at:
                app.emptied_at = None
                app.asked = []
                effects += self._apply(package, app)
        return effects

    def _apply(self, package: str, app: _App) -> list[Effect]:
        before = {s.name for s in app.effective}
        denied = [(s.name, s.permission) for s in app.asked if not grants(app.permissions, s.permission)]
        refused = {name for name, _ in denied}
        app.effective = [s for s in app.asked if s.name not in refused]
        self._reroute()
        effects: list[Effect] = []
        if denied:
            effects.append(Denied(package, tuple((name, str(need)) for name, need in denied)))
        effects.append(Changed(package, tuple(s for s in app.effective if s.name not in before)))
        return effects

    # ------------------------------------------------------------------------------------------------ what is needed

    @property
    def needs_audio(self) -> bool:
        """Whether the microphone is needed (wire spec 6.6; VAD alone does not count)."""
        return any(s.needs_audio for s in self._all())

    @property
    def wants_raw_audio(self) -> bool:
        """Whether anyone wants the audio itself, so that silence must be sent too."""
        return any(s.stream == "audio_chunk" for s in self._all())

    @property
    def speech(self) -> frozenset[tuple[str, str | None]]:
        """Every (source language, target language or None) that apps want recognised; union over apps."""
        return frozenset(
            (s.source, s.target)
            for app in self._apps.values()
            for s in app.effective
            if s.stream in ("transcription", "translation") and s.source is not None
        )

    @property
    def location_tier(self) -> str:
        """The most demanding location rate (wire spec 6.9)."""
        return highest_rate(
            s.rate for app in self._apps.values() for s in app.effective if s.rate is not None
        )

    def of(self, package: str) -> list[str]:
        """The effective list of one app, as strings."""
        app = self._apps.get(package)
        return [] if app is None else [s.name for s in app.effective]

    def _all(self) -> Iterable[Subscription]:
        for app in self._apps.values():
            yield from app.effective
        yield from self._phone

    # ------------------------------------------------------------------------------------------------ routes

    def routes(self, key: EventKey | str) -> tuple[Route, ...]:
        """The receivers of an event; a plain stream may be named by its string alone."""
        found = self.known_routes.get(key)
        if found is None:
            if len(self.known_routes) >= ROUTES_MAX:
                self.known_routes.clear()
            found = self.known_routes[key] = self._route(EventKey(key) if isinstance(key, str) else key)
        return found

    def _route(self, key: EventKey) -> tuple[Route, ...]:
        need = STREAM_PERMISSIONS.get(key.stream)
        receivers: dict[str, list[tuple[str, _App]]] = {}
        for package, app in self._apps.items():
            for subscription in app.effective:
                if not matches(subscription, key):
                    continue
                if subscription.stream in WILDCARDS and not grants(app.permissions, need):
                    continue
                receivers.setdefault(subscription.name, []).append((package, app))
        return tuple(
            Route(
                stream_type,
                # Several receivers share one frame, so it names the user's session; the SDK reads neither.
                envelope_prefix(
                    apps[0][1].session_id if len(apps) == 1 else self._user_id,
                    stream_type,
                ),
                tuple(package for package, _ in apps),
                tuple(app.connection_id for _, app in apps if app.connection_id is not None),
            )
            for stream_type, apps in receivers.items()
        )

    def _reroute(self) -> None:
        self.known_routes.clear()
        wanting = [
            app.connection_id
            for app in self._apps.values()
            if any(s.stream == "audio_chunk" for s in app.effective)
        ]
        self.audio_receivers = tuple(c for c in wanting if c is not None)
        self.audio_missing = len(wanting) - len(self.audio_receivers)


def envelope_prefix(session_id: str, stream_type: str) -> bytes:
    """Start of a `data_stream` message; the date, `","data":`, the event and `}` follow."""
    head: dict[str, Any] = {"type": "data_stream", "sessionId": session_id, "streamType": stream_type}
    return orjson.dumps(head)[:-1] + b',"timestamp":"'


def envelope(prefix: bytes, timestamp: bytes, data: bytes) -> bytes:
    """A whole `data_stream` message: the event's JSON is spliced in unparsed."""
    return b"".join((prefix, timestamp, b'","data":', data, b"}"))
