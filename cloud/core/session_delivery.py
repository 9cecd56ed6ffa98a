"""Frames towards the apps of a session: the hot relay, single messages, and the proof that they have arrived.

Rules: an event is built once per distinct subscriber string and the same bytes go to all. A reliable frame is kept in
the app's log until a pong has proven it. Nothing here decides who runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final

from cloud.core import subscriptions as subs
from cloud.core.app_lifecycle import AppState
from cloud.core.clock import WallClock
from cloud.core.effects import Effect, PingApp, SendToApps
from cloud.core.hops import ANSWER_MAX
from cloud.core.pipe import Ident
from cloud.core.replay import AppLog
from cloud.core.session_types import Agenda, SessionApp
from cloud.core.subscriptions import Subscriptions
from wire.codec import encode
from wire.messages.base import Delivery, Message
from wire.streams import EventKey

#: Events that an app missed while it was starting, or we were, reach it when it has subscribed: a press of the last
#: seconds is still meant (CON-16: 5 s, 100 items). Large ones are not worth keeping.
MISSED_AGE: Final = 5.0
MISSED_MAX: Final = 100
MISSED_BYTES_MAX: Final = 4096

# Looking up a member of an Enum costs 50 ns (CPython 3.11), a tenth of a delivery.
_RELIABLE: Final = Delivery.RELIABLE
_LATEST: Final = Delivery.LATEST
_LOSSY: Final = Delivery.LOSSY
_CONNECTED: Final = AppState.CONNECTED
_GRACE: Final = AppState.GRACE


#: Sound kept for apps that are away for a moment, seconds and bytes: 2 s of PCM16 at 16 kHz are 64 kB, an utterance's
#: beginning. Older sound would only put captions behind.
SOUND_AGE: Final = 2.0
SOUND_BYTES_MAX: Final = 128 * 1024


class AppDelivery:
    """`apps` holds every app of the session; `session_apps` adds and removes."""

    __slots__ = (
        "_agenda", "_answered", "_count", "_place", "_recent", "_routes", "_sound", "_sound_bytes", "apps", "clock", "missed", "named", "proof_at",
        "source", "stream", "subscriptions",
    )  # fmt: skip

    def __init__(self, subscriptions: Subscriptions, clock: WallClock, agenda: Agenda) -> None:
        self.subscriptions = subscriptions
        self._routes = subscriptions.known_routes
        self.clock = clock
        self._agenda = agenda
        self.apps: dict[str, SessionApp] = {}
        self.missed = 0  # lossy frames for apps that were away, since they were counted last
        self.proof_at: float | None = None  # the next app that must be asked what it has received
        self._recent: deque[tuple[float, EventKey | str, bytes]] = deque(maxlen=MISSED_MAX)
        self._answered = float("-inf")  # when the newest event came that an app has answered on the display
        self._sound: deque[tuple[float, bytes]] = deque()
        self._sound_bytes = 0
        self.named = False  # whether reliable frames get names: only nodes that share sessions need them
        self.stream = ""  # names what this session says of its own accord; the session sets it
        #: Log and offset of the reliable frame that is being handled: it names what it brings about, at every owner alike.
        self.source: tuple[str, int] | None = None
        self._place = 0
        self._count = 0

    def keep_sound(self, pcm: bytes, now: float) -> None:
        """An app that wants to hear this is away for a moment: its session, or its socket, is on the way between nodes."""
        sound = self._sound
        sound.append((now, pcm))
        self._sound_bytes += len(pcm)
        while now - sound[0][0] > SOUND_AGE or self._sound_bytes > SOUND_BYTES_MAX:
            self._sound_bytes -= len(sound.popleft()[1])

    def sound_since(self, since: float, now: float) -> list[bytes]:
        """What an app has missed since then that is still worth hearing."""
        return [pcm for at, pcm in self._sound if at >= since and now - at <= SOUND_AGE]

    def begin(self, source: tuple[str, int]) -> None:
        """What follows is brought about by this frame of the glasses' log."""
        self.source, self._place = source, 0

    @property
    def marks(self) -> dict[str, list[int]]:
        """How far this session has come in its own numbering, for the node that goes on with it."""
        return {self.stream: [self._count, 0]}

    def restore(self, marks: Mapping[str, Any]) -> None:
        """Go on numbering where another node stopped."""
        for count, _ in marks.values():
            self._count = max(self._count, int(count))

    def _name(self) -> Ident | None:
        if not self.named:
            return None
        if self.source is not None:
            self._place += 1
            return (*self.source, self._place)
        self._count += 1
        return (self.stream, self._count, 0)

    def connected(self) -> list[SessionApp]:
        return [a for a in self.apps.values() if a.life.state is AppState.CONNECTED]

    def to_app(self, each: SessionApp, message: Message, now: float) -> list[Effect]:
        if message.timestamp is None:
            message.timestamp = self.clock.iso(now)
        payload = encode(message)
        connection_id = each.life.connection_id if each.life.state is AppState.CONNECTED else None
        if connection_id is None:
            if message.delivery is Delivery.RELIABLE and each.life.state is AppState.GRACE:
                each.log.append(payload, False, now, self._name())
            return []
        key = message.latest_key() if message.delivery is Delivery.LATEST else None
        name = self._name() if message.delivery is Delivery.RELIABLE else None
        out: list[Effect] = [SendToApps((connection_id,), payload, message.delivery, key, message.type, name)]
        if message.delivery is Delivery.RELIABLE:
            ping = each.log.append(payload, True, now, name)
            if ping is not None:
                out.append(PingApp(connection_id, ping))
            else:
                self._expect_proof(each.log)
        return out

    def relay(self, key: EventKey | str, raw: bytes, delivery: Delivery, now: float) -> list[Effect]:
        """An event to everyone who subscribed to it, each under its own string. This is the hot path."""
        reliable = delivery is _RELIABLE
        if reliable and len(raw) <= MISSED_BYTES_MAX:
            self._recent.append((now, key, raw))
        out: list[Effect] = []
        routes = self._routes.get(key)
        if routes is None:
            routes = self.subscriptions.routes(key)
        for route in routes:
            payload = subs.envelope(route.prefix, self.clock.iso_bytes(now), raw)
            name = self._name() if reliable and self.named else None
            if route.connection_ids:
                latest = route.stream_type if delivery is _LATEST else None
                out.append(
                    SendToApps(route.connection_ids, payload, delivery, latest, route.stream_type, name)
                )
            if reliable:
                self._remember(route.packages, payload, now, out, name)
            elif delivery is _LOSSY:
                self.missed += len(route.packages) - len(route.connection_ids)
        return out

    def answered(self, package: str, at: float) -> float | None:
        """Seconds from the newest event to this app's first display after it, at `at`; None: it answers nothing."""
        recent = self._recent
        if not recent or recent[-1][0] <= self._answered or at - recent[-1][0] > ANSWER_MAX:
            return None  # as the loop below would say
        # A tap is two events (touch, button) and an app may have asked for the first only.
        for sent, key, _ in islice(reversed(recent), 4):
            if sent <= self._answered or not 0 <= at - sent <= ANSWER_MAX:
                return None
            if any(package in route.packages for route in self.subscriptions.routes(key)):
                self._answered = sent
                return at - sent
        return None

    def _remember(
        self,
        packages: Iterable[str],
        payload: bytes,
        now: float,
        out: list[Effect],
        name: Ident | None,
    ) -> None:
        """Keep a frame that has just been relayed until its receivers have proven that they have it."""
        apps = self.apps
        for package in packages:
            each = apps[package]
            state = each.life.state
            if state is _CONNECTED:
                ping = each.log.append(payload, True, now, name)
                if ping is None:
                    if self.proof_at is None:
                        self._expect_proof(each.log)
                elif each.life.connection_id is not None:
                    out.append(PingApp(each.life.connection_id, ping))
            elif state is _GRACE:
                each.log.append(payload, False, now, name)

    def event_to(self, each: SessionApp, stream_type: str, raw: bytes, now: float) -> list[Effect]:
        """One event to one app under one of its strings."""
        payload = subs.envelope(
            subs.envelope_prefix(each.session_id, stream_type), self.clock.iso_bytes(now), raw
        )
        if each.life.state is not AppState.CONNECTED or each.life.connection_id is None:
            return []
        return [SendToApps((each.life.connection_id,), payload, Delivery.RELIABLE, None, stream_type)]

    def make_up(self, each: SessionApp, added: set[str], now: float) -> list[Effect]:
        """What happened in the last seconds and no instance of the app has seen, flagged as said again.

        Once for each stream: an SDK subscribes to them one after the other.
        """
        out: list[Effect] = []
        if now - each.accepted_at > MISSED_AGE:
            return out  # it has been here and did not want it
        streams = added - each.made_up
        each.made_up |= streams
        since = each.heard_until
        package = each.info.package
        for at, key, raw in self._recent:
            if at <= since or now - at > MISSED_AGE:
                continue
            for route in self.subscriptions.routes(key):
                wanted = route.stream_type in streams and package in route.packages
                if wanted and each.life.connection_id is not None:
                    payload = subs.envelope(route.prefix, self.clock.iso_bytes(now), raw)
                    payload = payload[:-1] + b',"replayed":true}'
                    name = self._name()
                    out.append(
                        SendToApps(
                            (each.life.connection_id,),
                            payload,
                            Delivery.RELIABLE,
                            None,
                            route.stream_type,
                            name,
                        )
                    )
                    self._remember((package,), payload, now, out, name)
        return out

    def _expect_proof(self, log: AppLog) -> None:
        """See to it that a log with unproven frames is asked about at its time."""
        due = log.deadline
        if due is not None and (self.proof_at is None or due < self.proof_at):
            self.proof_at = due
            self._agenda.nearer = True

    def ask_for_proof(self, now: float) -> list[Effect]:
        out: list[Effect] = []
        self.proof_at = None
        for each in self.apps.values():
            connection_id = each.life.connection_id
            if each.life.state is not AppState.CONNECTED or connection_id is None:
                continue
            ping = each.log.ask(now)
            if ping is not None:
                out.append(PingApp(connection_id, ping))
            self._expect_proof(each.log)
        return out

    def proved(self, each: SessionApp, payload: bytes) -> None:
        """A pong: all frames up to the ping's offset have arrived."""
        each.log.proved(payload)
        self._expect_proof(each.log)
