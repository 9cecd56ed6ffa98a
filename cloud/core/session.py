"""One wearer in the cloud: his glasses connection, his apps, and everything that passes between them.

Rules: this machine owns all others of a session and is the only one that shells talk to. Messages are known by the
connection they came from; ids inside them are never believed. Nothing waits: what takes time goes out as an effect and
comes back as an input. An acknowledgement never waits for an app or for storage. A late report about an older
connection changes nothing. Sources: wire spec 2, 3, 6; failure catalogue CON, APP, SUB, SEC.

This file holds the life of the session and what its glasses client says. Its parts, each knowing only those before it:
`session_types` (shared data), `session_glasses` (the way to the client), `session_delivery` (frames to apps),
`session_machines` (display, microphone and the like), `session_apps` (the apps), `session_reports` (what the client
reports).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, Final

import orjson

from cloud.core.app_lifecycle import AppLifecycle, AppState, Stage, StopReason
from cloud.core.clock import WallClock
from cloud.core.effects import (
    CloseGlasses,
    Effect,
    Finished,
    LoadUser,
    Record,
    SendAudio,
    SendToGlasses,
    StartSettled,
    Unregister,
)
from cloud.core.hops import Hops
from cloud.core.session_apps import SessionApps
from cloud.core.session_checks import (
    PLAIN_PING,
    PLAIN_PONG,
    RELAYED,
    SURE,
    announcement,
    from_local,
    too_many,
    with_type,
)
from cloud.core.session_delivery import AppDelivery
from cloud.core.session_glasses import GlassesPort
from cloud.core.session_machines import Machines
from cloud.core.session_reports import Reports
from cloud.core.session_types import DASHBOARD_PACKAGE, Agenda, AppInfo, Facts, SessionTiming, UserData
from cloud.core.settings import settings_from_status
from cloud.core.subscriptions import Subscriptions
from wire import link as links
from wire.codec import load_object, message_type, validate
from wire.errors import CloseCode, InvalidTransition, ProtocolError
from wire.link import LinkState
from wire.messages import GLASSES_TO_CLOUD
from wire.messages import cloud_to_glasses as to_glasses
from wire.messages import glasses_to_cloud as glasses
from wire.messages.base import Delivery, Message
from wire.streams import event_key

__all__ = [
    "DASHBOARD_PACKAGE",
    "TRANSITIONS",
    "AppInfo",
    "Session",
    "SessionState",
    "SessionTiming",
    "UserData",
]


class SessionState(Enum):
    INITIALIZING = "initializing"
    CONNECTING = "connecting"  # the glasses are connected; what is stored about the user is being read
    CONNECTED = "connected"
    DETACHED = "detached"  # no glasses connection; everything is kept for the grace period
    DISCONNECTING = "disconnecting"  # over; the apps are being told
    DISCONNECTED = "disconnected"
    ERROR = "error"  # a bug of ours ended it


TRANSITIONS: Final[dict[SessionState, frozenset[SessionState]]] = {
    SessionState.INITIALIZING: frozenset(
        {SessionState.CONNECTING, SessionState.DETACHED, SessionState.DISCONNECTING, SessionState.ERROR}
    ),
    SessionState.CONNECTING: frozenset(
        {SessionState.CONNECTED, SessionState.DETACHED, SessionState.DISCONNECTING, SessionState.ERROR}
    ),
    SessionState.CONNECTED: frozenset(
        {SessionState.DETACHED, SessionState.DISCONNECTING, SessionState.ERROR}
    ),
    SessionState.DETACHED: frozenset(
        {SessionState.CONNECTING, SessionState.DISCONNECTING, SessionState.ERROR}
    ),
    SessionState.DISCONNECTING: frozenset({SessionState.DISCONNECTED, SessionState.ERROR}),
    SessionState.DISCONNECTED: frozenset(),
    SessionState.ERROR: frozenset({SessionState.DISCONNECTED}),
}


# Looking up a member of an Enum costs 50 ns (CPython 3.11); the deadline is asked for after most inputs.
_DISCONNECTED: Final = SessionState.DISCONNECTED
_ERROR: Final = SessionState.ERROR


class Session:
    """See the module. `apps` is a live, read-only view of the app records; `random` returns numbers in [0, 1);
    `new_id` makes unguessable ids; `link` stands in for the session's own."""

    def __init__(
        self,
        user_id: str,
        *,
        apps: Mapping[str, AppInfo],
        websocket_url: str,
        random: Callable[[], float],
        new_id: Callable[[], str],
        clock: WallClock,
        now: float,
        timing: SessionTiming | None = None,
        dashboard_package: str = DASHBOARD_PACKAGE,
        apps_max: int = 50,
        link: links.Link | None = None,
        named: bool = False,
    ) -> None:
        self.user_id = user_id
        self.timing = timing = timing or SessionTiming()
        self.clock = clock
        self.hops = Hops(clock)
        self.state = SessionState.INITIALIZING
        self.reason = "new"
        self.since = now
        self.started_at = now
        self._attached: list[float] = []  # a short list: an empty deque takes 760 bytes
        self._plain_at: float | None = None
        self._detached_at: float | None = None
        self._load_by: float | None = None
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._bad: list[float] = []
        self._audio_second = 0.0
        self._audio_count = 0
        self._unknown_messages = 0
        self.edge_status: dict[str, Any] | None = None
        self.audio_shed = 0
        self.subscriptions = Subscriptions(user_id)
        self._facts = facts = Facts()
        self.agenda = self._agenda = agenda = Agenda(timing.announce)
        self._port = port = GlassesPort(link or links.Link(new_id(), initiator=False), clock)
        self._delivery = delivery = AppDelivery(self.subscriptions, clock, agenda)
        delivery.stream, delivery.named = port.link.epoch, named
        self._machines = machines = Machines(
            user_id,
            port=port,
            delivery=delivery,
            facts=facts,
            agenda=agenda,
            records=apps,
            new_id=new_id,
            clock=clock,
            timing=timing,
            dashboard_package=dashboard_package,
        )
        self._apps = SessionApps(
            user_id,
            port=port,
            delivery=delivery,
            machines=machines,
            facts=facts,
            agenda=agenda,
            records=apps,
            websocket_url=websocket_url,
            random=random,
            clock=clock,
            timing=timing,
            apps_max=apps_max,
        )
        #: One text frame of an app: (package, connection id, data, now). The socket says whose it is.
        self.app_text = self._apps.text
        self._reports = Reports(
            port=port,
            delivery=delivery,
            machines=machines,
            apps=self._apps,
            facts=facts,
            clock=clock,
            timing=timing,
        )
        self.microphone = machines.microphone
        self.display = machines.display
        self.dashboard = machines.dashboard
        self.requests = machines.requests

    # ================================================================================================ time

    @property
    def deadline(self) -> float | None:
        """When `handle_deadline` has something to do; None = never."""
        if self.state is _DISCONNECTED or self.state is _ERROR:
            return None
        agenda = self._agenda
        if not agenda.known:
            agenda.due = min(self._deadlines(), default=None)
            agenda.known = True
        due = agenda.due
        agenda.nearer = False
        # Three move with every frame of our own edge, an event, or a frame of an app that draws: they are not remembered.
        moving = self._port.link.deadline
        if moving is not None and (due is None or moving < due):
            due = moving
        moving = self.display.deadline
        if moving is not None and (due is None or moving < due):
            due = moving
        moving = self._delivery.proof_at
        if moving is not None and (due is None or moving < due):
            due = moving
        return due

    def _deadlines(self) -> Iterable[float]:
        times: list[float | None] = [
            self._load_by,
            self._agenda.announce_at,
            self._plain_at,
            None if self._detached_at is None else self._detached_at + self.timing.grace,
            *self._machines.deadlines(),
            *self._apps.deadlines(),
        ]
        return [t for t in times if t is not None]

    def handle_deadline(self, now: float) -> list[Effect]:
        """Do what is due; early calls do nothing."""
        if self.state in (SessionState.DISCONNECTED, SessionState.ERROR):
            return []
        agenda, delivery = self._agenda, self._delivery
        if agenda.known and (agenda.due is None or now < agenda.due):
            # Of what is remembered nothing is due. Of the rest it is nearly always the proof: a burst has ended.
            link, display = self._port.link.deadline, self.display.deadline
            if (link is None or now < link) and (display is None or now < display):
                due = delivery.proof_at is not None and now >= delivery.proof_at
                return delivery.ask_for_proof(now) if due else []
        agenda.known = False
        out: list[Effect] = []
        if self._load_by is not None and now >= self._load_by:
            out.append(Record("storage_slow", {}))
            out += self._begin(UserData(), now)
        if self._plain_at is not None and now >= self._plain_at:
            self._plain_at = None
            if (
                self._port.connection_id is not None
                and self._port.link.state is LinkState.RESUMING
                and not self._port.link.sequenced
            ):
                # A client that waits in silence does not announce a link: stand in for its first frame.
                out += self._link(
                    self._port.link.received(self._port.connection_id, b'{"type":"pong"}', now), now
                )
        out += self._port.sent(self._port.link.handle_deadline(now))
        if self._delivery.proof_at is not None and now >= self._delivery.proof_at:
            out += self._delivery.ask_for_proof(now)
        out += self._apps.handle_deadline(now)
        out += self._machines.handle_deadline(now)
        if self._agenda.announce_at is not None and now >= self._agenda.announce_at:
            self._agenda.announce_at = None
            out += self._port.post(
                to_glasses.AppStateChange(session_id=self.user_id, user_session=self._snapshot()), now
            )
        if self._detached_at is not None and now >= self._detached_at + self.timing.grace:
            out += self.end("the glasses did not return", now)
        out += self._maybe_finished(now)
        return out

    # ================================================================================================ the user's data

    def start(self, now: float, *, with_glasses: bool = True) -> list[Effect]:
        """First input of every session: read what is stored. Without glasses it is an app that has come back by
        itself after our own restart; the session then waits for the glasses."""
        self._agenda.known = False
        self._load_by = now + self.timing.load
        self._port.link.holding = not self._apps.loaded  # another node's state may have begun it already
        if not with_glasses:
            self._detached_at = now
            self._move(SessionState.DETACHED, "an app came back before the glasses", now)
        return [LoadUser()]

    def user_loaded(self, data: UserData, now: float) -> list[Effect]:
        """What is stored about the user. After `load` seconds the session has gone on without; then this is late and
        only adds what is missing."""
        self._agenda.known = False
        if self.state in _OVER:
            return []
        return self._begin(replace(data, wanted=self._apps.not_stopped(data.wanted)), now)

    def _begin(self, data: UserData, now: float) -> list[Effect]:
        self._load_by = None
        self._facts.settings.update(data.settings)
        if data.location is not None and self.requests.last_location is None:
            self.requests.location(dict(data.location), None, now - 3600.0)  # too old to answer a poll
        first = not self._apps.loaded
        if self.state is SessionState.CONNECTING:
            self._move(SessionState.CONNECTED, "glasses connected", now)
        out = self._apps.known(data.wanted, now)
        if first:
            out += self._machines.rendered(self.dashboard.refresh(now), now)
            early, self._early, self._early_bytes = self._early, [], 0
            for frame in early:
                out += self._glasses_frame(frame, now)
            out += self._port.sent(self._port.link.release(now))
        out += self._apps.resume(now)
        if first and self.state is SessionState.DETACHED and not self._apps.is_anyone_here:
            out += self.end("nobody is here", now)
        return out

    # ================================================================================================ another node

    def export(self, now: float, *, complete: bool) -> dict[str, Any]:
        """Everything that another node needs to go on with this session, as plain data.

        `complete`: for a planned move, with the logs of the glasses and the apps, so that nothing is lost or doubled.
        Without them it is what a record keeps against the loss of this node.
        """
        out: dict[str, Any] = {
            "v": 1,
            "started": now - self.started_at,
            "settings": dict(self._facts.settings),
            "device": dict(self._facts.device),
            "model": self._facts.model,
            "capabilities": self._facts.capabilities,
            "datetime": self._facts.datetime,
            "utc_offset": self.clock.utc_offset,
            "calendar": [[key, event.decode()] for key, event in self._facts.calendar.items()],
            "phone": self.subscriptions.export()["phone"],
            "display": self.display.export(now),
            "dashboard": self.dashboard.export(),
            "requests": self.requests.export(now),
            **self._apps.export(now, complete=complete),
        }
        if complete:
            out["link"] = self._port.link.export(now)
            out["marks"] = self._delivery.marks
        return out

    def said(self, package: str) -> list[bytes]:
        """What an app has last asked for, as it would say it again to a node that does not know."""
        head = {"packageName": package, "sessionId": self.session_id_of(package)}
        frames = [{"type": "subscription_update", **head, "subscriptions": self.subscriptions.of(package)}]
        for view, shown in self.display.shown.items():
            if shown["package"] == package:
                frames.append({"type": "display_event", **head, "view": view, "layout": shown["layout"]})
        return [orjson.dumps(frame) for frame in frames]

    def acknowledge(self, hold: bool, now: float) -> list[Effect]:
        """Everything that the glasses have said is where it belongs: tell them. With `hold`, say nothing of what comes
        next until this is called again: an app's node must have it before the glasses forget it."""
        if not self._apps.loaded or self.state in _OVER:
            return []
        out = self._port.sent(self._port.link.release(now))
        self._port.link.holding = hold
        return out

    def marks(self) -> dict[str, tuple[int, int]]:
        """How far each stream of named frames has come: what every connected app has been given."""
        out = {stream: (count, 0) for stream, (count, _) in self._delivery.marks.items()}
        epoch, offset = self._port.link.peer
        if epoch is not None:
            out[epoch] = (offset, 1 << 30)  # whatever that frame brought about
        return out

    def restore(self, state: Mapping[str, Any], now: float) -> list[Effect]:
        """The first input of a session that another node has served: go on with what it had. What cannot be read is as
        if it were not there: a session without memory is better than none."""
        self._agenda.known = False
        out: list[Effect] = []
        try:
            if "link" in state:
                self._port.link = links.Link.restored(state["link"], now, initiator=False)
                self._delivery.stream = self._port.link.epoch
                self._delivery.restore(state.get("marks", {}))
            self.started_at = now - float(state.get("started", 0.0))
            facts = self._facts
            facts.settings.update(state.get("settings", {}))
            facts.device.update(state.get("device", {}))
            facts.model, facts.capabilities = state.get("model"), state.get("capabilities")
            facts.datetime = state.get("datetime")
            self.clock.utc_offset = float(state.get("utc_offset", self.clock.utc_offset))
            facts.calendar.update((str(key), str(event).encode()) for key, event in state.get("calendar", ()))
            self.subscriptions.phone(state.get("phone", ()))
            self.dashboard.restore(state["dashboard"])
            self.display.restore(state["display"], now)
            out += self._apps.restore(state, now)
            self.requests.restore(state.get("requests", {}), now)
            wanted = (*state["apps"], *state.get("waiting", ()))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return [*out, Record("state_unreadable", {"why": type(error).__name__})]
        out += self._begin(UserData(wanted=wanted), now)
        return [*out, Record("state_restored", {"complete": "link" in state}), *self._machines.needs(now)]

    # ================================================================================================ glasses

    @property
    def glasses_connection(self) -> int | None:
        """The live glasses connection."""
        return self._port.connection_id

    def glasses_connected(self, connection_id: int, now: float) -> list[Effect]:
        """An authenticated glasses client. The newest wins; the acknowledgement goes out at once."""
        self._agenda.known = False
        if self.state in _OVER:
            return [CloseGlasses(connection_id, CloseCode.SERVICE_RESTART, "session ending")]
        while self._attached and now - self._attached[0] > self.timing.takeover_window:
            del self._attached[0]
        if self._port.connection_id is not None and len(self._attached) >= self.timing.takeovers_max:
            return [
                Record("takeover_refused", {}),
                CloseGlasses(connection_id, CloseCode.TRY_AGAIN_LATER, "too many connections of one user"),
            ]
        self._attached.append(now)
        out: list[Effect] = []
        if self._port.connection_id is not None:
            out.append(CloseGlasses(self._port.connection_id, CloseCode.REPLACED, "replaced"))
            self.microphone.detached()
        away = None if self._detached_at is None else now - self._detached_at
        self._port.connection_id = connection_id
        self.hops.forget_edge()
        self._detached_at = None
        self._plain_at = now + self.timing.plain
        self._bad.clear()
        self.requests.has_glasses = True
        if self.state in (SessionState.INITIALIZING, SessionState.DETACHED):
            self._move(SessionState.CONNECTING, "glasses connected", now)
            if self._apps.loaded:
                self._move(SessionState.CONNECTED, "glasses connected", now)
        out.append(Record("glasses_connected", {"connection": connection_id, "away": away}))
        out += self._port.handshake(self._ack(None), now)
        for key in _REASSERTED:
            self._port.link.forget(key)  # said anew below, with what is so now
        out += self._port.sent(self._port.link.connected(connection_id, now))
        self.microphone.reconnected(now)
        out += self._machines.mic(self.microphone.attached(now), now)
        self._machines.said_tier = None
        out += self._machines.say_tier(now)
        out += self._machines.displayed(self.display.attached(now), now)
        return out + self._apps.glasses_here(now)

    def glasses_lost(self, connection_id: int, now: float) -> list[Effect]:
        """A glasses connection is closed. Only the current one counts."""
        if connection_id != self._port.connection_id:
            return []
        self._agenda.known = False
        self._port.connection_id = None
        self._plain_at = None
        self.requests.has_glasses = False
        self.microphone.detached()
        out = self._port.sent(self._port.link.lost(connection_id, now))
        if self.state in _OVER:
            return out
        self._detached_at = now
        if self.state is not SessionState.DETACHED:
            self._move(SessionState.DETACHED, "glasses connection lost", now)
        out.append(Record("glasses_lost", {"connection": connection_id}))
        return out + self._apps.glasses_gone(now)

    def glasses_text(self, connection_id: int, data: bytes, now: float) -> list[Effect]:
        """One text frame of a glasses client."""
        if connection_id != self._port.connection_id:
            return []
        link = self._port.link
        if self._apps.loaded and link.passes(connection_id, data):
            return self._glasses_frame(data, now)
        announced = b'"link"' in data and not (link.state is LinkState.LIVE and link.sequenced)
        if link.state is LinkState.RESUMING:
            self._agenda.known = False
            self._plain_at = None
        if announced:
            hello = announcement(data)
            if hello is not None:
                return self._link(self._port.link.greeted(connection_id, hello, now), now)
        return self._link(self._port.link.received(connection_id, data, now), now)

    def glasses_audio(self, connection_id: int, pcm: bytes, now: float) -> list[Effect]:
        """Decoded audio of the glasses: PCM16, whole samples."""
        if connection_id != self._port.connection_id or not pcm:
            return []
        if now - self._audio_second >= 1.0:
            self._audio_second, self._audio_count = now, 0
        self._audio_count += 1
        if self._audio_count > self.timing.audio_frames_max:
            self.audio_shed += 1
            return []
        if not self.microphone.is_wanted:
            return self._machines.mic(self.microphone.unwanted_audio(now), now)
        subscriptions = self.subscriptions
        if subscriptions.audio_missing:
            self._delivery.missed += subscriptions.audio_missing
            if self._delivery.named:
                self._delivery.keep_sound(pcm, now)
        receivers = subscriptions.audio_receivers
        return [SendAudio(receivers, pcm)] if receivers else []

    def phone_message(self, message: Message, now: float) -> list[Effect]:
        """A message of the phone that came over REST."""
        self._agenda.known = False
        if self.state in _OVER:
            return []
        payload = message.to_wire()
        return self._from_glasses(message, payload, orjson.dumps(payload), now)

    def _link(self, effects: Iterable[links.LinkEffect], now: float) -> list[Effect]:
        """What a frame of the client has brought about."""
        out: list[Effect] = []
        for effect in effects:
            match effect:
                case links.Deliver():
                    if self._apps.loaded:
                        if effect.offset is not None:
                            self._delivery.begin((self._port.link.peer[0] or "", effect.offset))
                        out += self._glasses_frame(effect.data, now)
                        self._delivery.source = None
                    else:
                        out += self._keep_early(effect.data, now)
                case links.Welcome(_, welcome):
                    self._reports.backlog_until = now + self.timing.backlog
                    out += self._port.handshake(self._ack(welcome), now)
                case _:
                    out += self._port.sent((effect,))
        return out

    def _keep_early(self, data: bytes, now: float) -> list[Effect]:
        """Frames that arrive while the user is being read are handled in order afterwards, and only then acknowledged;
        greetings at once."""
        if b'"ping"' in data or b'"connection_init"' in data:
            return self._glasses_frame(data, now)
        if (
            len(self._early) >= self.timing.early_frames_max
            or self._early_bytes + len(data) > self.timing.early_bytes_max
        ):
            return [Record("early_frame_dropped", {"bytes": len(data)})]
        self._early.append(data)
        self._early_bytes += len(data)
        return []

    def _glasses_frame(self, data: bytes, now: float) -> list[Effect]:
        connection_id = self._port.connection_id
        if data == PLAIN_PING:
            # By far the most frequent frame of a phone at rest; it has nothing to check and nothing to echo.
            agenda = self._agenda
            agenda.steady = agenda.known and not agenda.nearer and not self._port.link.sequenced
            return [] if connection_id is None else [SendToGlasses(connection_id, PLAIN_PONG, Delivery.LOSSY)]
        try:
            payload = load_object(data)
            kind = payload.get("type")
            if type(kind) is str and (sure := SURE.get(kind)) is not None and sure[0](payload):
                key = kind if kind != "touch_event" else event_key(payload)
                out = self._delivery.relay(key, data, sure[1], now)
                agenda = self._agenda
                agenda.steady = agenda.known and not agenda.nearer and not self._port.link.sequenced
                return out
            kind = message_type(payload)
            if kind == "connection_init" and connection_id is not None and not self._port.link.sequenced:
                # An announcement may come late, from a client that was taken for a plain one meanwhile.
                hello = announcement(data)
                if hello is not None:
                    return self._link(self._port.link.greeted(connection_id, hello, now), now)
            message = validate(GLASSES_TO_CLOUD, payload)
        except ProtocolError as error:
            return self._bad_glasses_frame(error, now)
        if message is None:
            return self._unknown(kind, data, now)
        return self._from_glasses(message, payload, data, now)

    def _unknown(self, kind: str, data: bytes, now: float) -> list[Effect]:
        """Relayed to apps that subscribed to exactly this, else counted."""
        self._unknown_messages += 1
        out: list[Effect] = [Record("unknown_message", {})]
        if len(kind) > 128:
            return out
        return out + self._delivery.relay(kind, data, Delivery.LOSSY, now)

    def _bad_glasses_frame(self, error: ProtocolError, now: float) -> list[Effect]:
        self._agenda.known = False
        out: list[Effect] = [Record("bad_glasses_frame", {"code": error.code, "field": error.field})]
        if self._port.connection_id is None:
            return out
        if too_many(self._bad, now, self.timing):
            out.append(CloseGlasses(self._port.connection_id, CloseCode.POLICY, "too many bad messages"))
            return out
        message = to_glasses.ConnectionError_(code=error.code, message=error.message)
        return out + self._port.handshake(message, now)

    def _from_glasses(
        self, message: Message, payload: dict[str, Any], raw: bytes, now: float
    ) -> list[Effect]:
        relay = self._delivery.relay
        # Before the match: an isinstance of a model costs more than a relay to one app.
        delivery = RELAYED.get(message.type)
        if delivery is not None:
            key = event_key(payload) if message.type == "touch_event" else message.type
            return relay(key, raw, delivery, now)
        match message:
            case glasses.Ping():
                pong = to_glasses.PongToGlasses(
                    sent_ms=message.sent_ms, clock_ms=round((now + self.clock.epoch_offset) * 1000, 3)
                )
                told = self.hops.pinged(message, now)
                out = self._port.handshake(pong, now)
                return out if told is None else [*out, Record("edge_clock", told)]
            case glasses.Pong() | glasses.LinkAck():
                return []
            case glasses.Vad():
                return relay("VAD", with_type(raw, payload, "VAD"), Delivery.LOSSY, now)
            case _:
                self._agenda.known = False
        match message:
            case glasses.ConnectionInit():
                return self._port.handshake(self._ack(None), now)
            case glasses.StartApp(package_name=package):
                return self._apps.start(package, now)
            case glasses.StopApp(package_name=package):
                return self._apps.stop(package, now)
            case glasses.HeadPosition(position=position):
                out = self._machines.rendered(self.dashboard.head_up(now), now) if position == "up" else []
                return [*out, *relay("head_position", raw, Delivery.RELIABLE, now)]
            case glasses.GlassesBatteryUpdate():
                known = None if message.level < 0 else message.level
                out = self._reports.device_changed({"batteryLevel": known, "charging": message.charging}, now)
                return [*out, *relay("glasses_battery_update", raw, Delivery.LATEST, now)]
            case glasses.GlassesConnectionState():
                return [
                    *self._reports.glasses_state(message, now),
                    *relay("glasses_connection_state", raw, Delivery.LATEST, now),
                ]
            case glasses.LocationUpdate():
                return self._reports.location(message, payload, raw, now)
            case glasses.CalendarEvent():
                return self._reports.calendar_event(message, payload, now)
            case glasses.PhoneNotification() | glasses.PhoneNotificationDismissed():
                return self._reports.notification(message, raw, now)
            case glasses.CoreStatusUpdate():
                out = self._reports.settings_changed(settings_from_status(message.status), now)
                return [*out, *relay("core_status_update", raw, Delivery.LATEST, now)]
            case glasses.SettingsUpdateRequest() | glasses.RequestSettings():
                reply = to_glasses.SettingsUpdate(
                    success=True,
                    message="Current settings retrieved successfully",
                    settings=self._facts.settings,
                )
                return self._port.post(reply, now)
            case glasses.PhotoResponse():
                out = self._machines.asked(self.requests.photo_answered(message), now)
                return [*out, *relay("photo_response", raw, Delivery.RELIABLE, now)]
            case glasses.RtmpStreamStatus() | glasses.StreamStatus():
                out = self._machines.asked(self.requests.stream_status(message, now), now)
                return [
                    *out,
                    *relay(
                        "rtmp_stream_status",
                        with_type(raw, payload, "rtmp_stream_status"),
                        Delivery.LATEST,
                        now,
                    ),
                ]
            case glasses.KeepAliveAck():
                return self._machines.asked(self.requests.keep_alive_answered(message, now), now)
            case glasses.AudioPlayResponse():
                return self._machines.asked(self.requests.audio_answered(message), now)
            case glasses.RgbLedControlResponse():
                out = self._machines.asked(self.requests.led_answered(message), now)
                return [*out, *relay("rgb_led_control_response", raw, Delivery.RELIABLE, now)]
            case glasses.LocalTranscription():
                return [
                    *relay("local_transcription", raw, Delivery.LOSSY, now),
                    *self.speech(from_local(message), now),
                ]
            case glasses.PhoneSubscriptionUpdate():
                self.subscriptions.phone(message.subscriptions)
                return self._machines.needs(now)
            case glasses.DisplayResult():
                return [
                    Record(
                        "display_result",
                        {
                            "id": message.display_id,
                            "outcome": message.outcome,
                            "reason": message.reason,
                            "downlink_ms": message.downlink_ms,
                            "edge_ms": message.edge_ms,
                            "ble_ms": message.ble_ms,
                        },
                    )
                ]
            case glasses.EdgeStatus():
                self.edge_status = message.model_dump(exclude={"type", "timestamp"}, exclude_none=True)
                out = [Record("edge_status", self.edge_status)]
                if message.shown_package is not None:
                    out += self._apps.found_on_lens(message.shown_package, now)
                return out
            case _:
                # config, switches, volume, datagram and LiveKit wishes: noted, unanswered; phones fall back to the
                # socket (wire spec 2.4).
                return [Record("noted", {"type": message.type})]

    def _ack(self, welcome: to_glasses.LinkWelcome | None) -> Message:
        return to_glasses.ConnectionAck(session_id=self.user_id, user_session=self._snapshot(), link=welcome)

    def _snapshot(self) -> to_glasses.UserSession:
        return to_glasses.UserSession(
            user_id=self.user_id,
            session_id=self.user_id,
            start_time=self.clock.iso(self.started_at),
            active_app_sessions=[p for p, a in self._delivery.apps.items() if a.life.is_running],
            loading_apps=[p for p, a in self._delivery.apps.items() if a.life.is_starting],
            app_subscriptions={
                p: list(self.subscriptions.of(p)) for p, a in self._delivery.apps.items() if a.life.is_running
            },
            requires_audio=self.subscriptions.needs_audio,
            minimum_transcription_languages=sorted(
                f"transcription:{source}" if target is None else f"translation:{source}-to-{target}"
                for source, target in self.subscriptions.speech
            ),
            is_transcribing=bool(self._machines.speech),
        )

    # ================================================================================================ reports

    def device_state(self, state: Mapping[str, Any], now: float) -> list[Effect]:
        """A phone's partial report over REST: absent members are unchanged, null clears (DSP-04)."""
        self._agenda.known = False
        return self._reports.device_changed(state, now) if self.state not in _OVER else []

    def set_datetime(self, text: str, now: float) -> list[Effect]:
        """The phone's local date and time, ISO with an offset. Raises ProtocolError."""
        self._agenda.known = False
        return self._reports.set_datetime(text, now)

    def settings_changed(self, changes: Mapping[str, Any], now: float) -> list[Effect]:
        """System settings were changed on the phone or over REST."""
        self._agenda.known = False
        return self._reports.settings_changed(changes, now)

    def announce(self, now: float) -> list[Effect]:
        """Something that clients show has changed elsewhere (installed apps, records)."""
        if self.state not in _OVER:
            self._agenda.announce(now)
        return []

    def photo_arrived(self, request_id: str, url: str, now: float) -> list[Effect]:
        """The glasses uploaded the photo to us and it went on to the app."""
        self._agenda.known = False
        answer = glasses.PhotoResponse(
            request_id=request_id, success=True, photo_url=url, error_code=None, error_message=None
        )
        return self._machines.asked(self.requests.photo_answered(answer), now)

    # ================================================================================================ apps

    def start_app(self, package: str, now: float, *, by_user: bool = True) -> list[Effect]:
        """The wearer wants an app; the outcome is a `StartSettled`."""
        self._agenda.known = False
        if self.state in _OVER:
            return [StartSettled(package, False, Stage.CONNECTION, "the session has ended")]
        return self._apps.start(package, now, by_user=by_user)

    def stop_app(
        self, package: str, now: float, reason: StopReason = StopReason.USER_DISABLED
    ) -> list[Effect]:
        """The wearer no longer wants an app; the end is a `StopSettled`."""
        self._agenda.known = False
        return self._apps.stop(package, now, reason)

    def app_server_seen(self, package: str, now: float) -> list[Effect]:
        """The app's server has shown signs of life: do not wait for the next attempt."""
        self._agenda.known = False
        return self._apps.server_seen(package, now)

    def record_changed(self, package: str, now: float) -> list[Effect]:
        """The app's record was replaced or deleted: permissions and settings follow at once."""
        self._agenda.known = False
        return self._apps.record_changed(package, now)

    def app_settings_changed(self, package: str, values: Mapping[str, Any], now: float) -> list[Effect]:
        """The wearer changed settings of an app; `values` is the whole map."""
        self._agenda.known = False
        return self._apps.settings_changed(package, values, now)

    def app_loaded(
        self, package: str, cycle: int, values: Mapping[str, Any] | None, now: float
    ) -> list[Effect]:
        """The user's settings of an app; None when storage failed: the app gets its defaults."""
        self._agenda.known = False
        return self._apps.settings_loaded(package, cycle, values, now)

    def request_sent(self, package: str, cycle: int, now: float) -> list[Effect]:
        """The session_request leaves for the app's server. See AppLifecycle.request_sent."""
        self._agenda.known = False
        return self._apps.request_sent(package, cycle, now)

    def webhook_answered(
        self,
        package: str,
        cycle: int,
        now: float,
        *,
        ok: bool,
        message: str = "",
        from_app: bool = False,
        retry_after: float = 0.0,
    ) -> list[Effect]:
        """The session_request has an outcome. See AppLifecycle.webhook_answered."""
        self._agenda.known = False
        return self._apps.webhook_answered(
            package, cycle, now, ok=ok, message=message, from_app=from_app, retry_after=retry_after
        )

    def stop_answered(self, package: str, cycle: int, now: float) -> list[Effect]:
        """The stop webhook has an outcome, whichever."""
        self._agenda.known = False
        return self._apps.stop_answered(package, cycle, now)

    def app_identified(self, package: str, connection_id: int, now: float) -> list[Effect]:
        """A socket has proven, by the app's key, to be this app."""
        self._agenda.known = False
        if self.state in _OVER:
            return self._apps.refuse(package, connection_id, now)
        return self._apps.identified(package, connection_id, now)

    def app_lost(self, package: str, connection_id: int, now: float) -> list[Effect]:
        """A socket of an app is closed. Only its current one counts."""
        self._agenda.known = False
        return self._apps.lost(package, connection_id, now)

    def app_pong(self, package: str, connection_id: int, payload: bytes, now: float) -> list[Effect]:
        """The app's WebSocket library has answered a ping: what came before it has arrived."""
        out = self._apps.pong(package, connection_id, payload, now)
        agenda = self._agenda
        agenda.steady = agenda.known and not agenda.nearer and not self._port.link.sequenced
        return out

    def sound_missed(self, sound: Sequence[bytes], now: float) -> list[Effect]:
        """Sound that was on its way to an app whose node has gone: it is kept for the app's return."""
        for pcm in sound:
            self._delivery.keep_sound(pcm, now)
        return []

    def app_proved(
        self, package: str, connection_id: int, marks: Mapping[str, tuple[int, int]], now: float
    ) -> list[Effect]:
        """The node that holds the app's socket knows that all named frames up to these have arrived."""
        each = self._delivery.apps.get(package)
        if each is not None and each.life.connection_id == connection_id:
            each.log.seen(marks)
        return []

    def app_wrong_key(self, package: str) -> None:
        """Somebody presented a wrong key for this app: no effect but on the words of a failure (APP-18)."""
        each = self._delivery.apps.get(package)
        if each is not None:
            each.life.wrong_key()

    def deliver(self, package: str, message: Message, now: float) -> list[Effect]:
        """A bare message for one app of this session, from outside (another user, a REST call)."""
        each = self._delivery.apps.get(package)
        return [] if each is None else self._delivery.to_app(each, message, now)

    # ================================================================================================ speech

    def speech(self, event: Mapping[str, Any], now: float) -> list[Effect]:
        """A result of speech recognition: a `transcription` or `translation` object (wire spec 3.7)."""
        if event.get("type") not in ("transcription", "translation") or not event.get("text"):
            return []
        final = bool(event.get("isFinal"))
        delivery = Delivery.RELIABLE if final else Delivery.LOSSY
        return self._delivery.relay(event_key(event), orjson.dumps(event), delivery, now)

    def voice(self, speaking: bool, now: float) -> list[Effect]:
        """The cloud's own detector says that somebody speaks, or no longer does."""
        return self._delivery.relay(
            "VAD", orjson.dumps({"type": "VAD", "status": speaking}), Delivery.LOSSY, now
        )

    # ================================================================================================ the end

    def end(self, reason: str, now: float) -> list[Effect]:
        """The session is over: unregister first, then tell the apps. What the wearer wants is kept."""
        if self.state in _OVER:
            return []
        self._agenda.known = False
        self._move(SessionState.DISCONNECTING, reason, now)
        self._detached_at = self._agenda.announce_at = self._load_by = None
        self._early = []
        out: list[Effect] = [Unregister(reason)]
        if self._machines.speech:
            out += self._machines.say_speech(frozenset())
        out += self._apps.end(now)
        if self._port.connection_id is not None:
            out.append(CloseGlasses(self._port.connection_id, CloseCode.GOING_AWAY, reason))
            self._port.connection_id = None
        self._port.link.close(now)
        return out + self._maybe_finished(now)

    def leave(self, code: int, reason: str, now: float) -> list[Effect]:
        """Another node serves this session from now on. Its glasses are closed with `code`; the apps' sockets stay."""
        if self.state in _OVER:
            return []
        self._agenda.known = False
        self._move(SessionState.DISCONNECTING, reason, now)
        out: list[Effect] = [Unregister(reason)]
        out += self._apps.drain(close=False)
        if self._port.connection_id is not None:
            out.append(CloseGlasses(self._port.connection_id, code, reason))
            self._port.connection_id = None
        self._port.link.close(now)
        self._move(SessionState.DISCONNECTED, reason, now)
        return [*out, Finished()]

    def drain(self, now: float) -> list[Effect]:
        """The process ends: everyone is told to come back; nobody is told that it is over."""
        if self.state in _OVER:
            return []
        self._agenda.known = False
        self._move(SessionState.DISCONNECTING, "the server restarts", now)
        out: list[Effect] = [Unregister("the server restarts")]
        out += self._apps.drain()
        if self._port.connection_id is not None:
            out.append(CloseGlasses(self._port.connection_id, CloseCode.SERVICE_RESTART, "Server restarting"))
            self._port.connection_id = None
        self._port.link.close(now)
        self._move(SessionState.DISCONNECTED, "the server restarts", now)
        return [*out, Finished()]

    def fail(self, now: float) -> list[Effect]:
        """A bug of ours was caught at the boundary of this session: end it, keep the process."""
        if self.state in (SessionState.DISCONNECTED, SessionState.ERROR):
            return []
        out: list[Effect] = [Unregister("internal error")]
        out += self._apps.fail()
        if self._port.connection_id is not None:
            out.append(CloseGlasses(self._port.connection_id, CloseCode.INTERNAL, "Internal server error"))
        self._port.link.close(now)
        self._move(SessionState.ERROR, "internal error", now)
        return [*out, Finished()]

    def is_overdue(self, now: float) -> bool:
        """Whether the session should have ended by itself: a bug of ours, for the shell to report and to cure (CON-14)."""
        match self.state:
            case SessionState.DETACHED:
                return now - self.since > self.timing.grace + OVERDUE
            case SessionState.DISCONNECTING:
                return now - self.since > OVERDUE  # every app has a second to stop
            case _:
                return False

    def _maybe_finished(self, now: float) -> list[Effect]:
        if self.state is SessionState.DISCONNECTING and self._apps.is_over:
            self._move(SessionState.DISCONNECTED, self.reason, now)
            return [Finished()]
        return []

    def _move(self, to: SessionState, reason: str, now: float) -> None:
        if to not in TRANSITIONS[self.state]:
            raise InvalidTransition("Session", self.state, to)
        self.state, self.reason, self.since = to, reason, now

    # ================================================================================================ views

    @property
    def device(self) -> Mapping[str, Any]:
        """Everything known about the glasses."""
        return self._facts.device

    @property
    def link(self) -> links.Link:
        """The resumable stream to the glasses client."""
        return self._port.link

    @property
    def settings(self) -> Mapping[str, Any]:
        """The wearer's system settings."""
        return self._facts.settings

    @property
    def capabilities(self) -> Mapping[str, Any] | None:
        """What the glasses can do; None until their model is known."""
        return self._facts.capabilities

    @property
    def notifications_shed(self) -> int:
        """Notifications beyond the rate that apps are told."""
        return self._reports.notifications_shed

    @property
    def unknown_messages(self) -> int:
        """Messages of unknown type, from the glasses and from apps."""
        return self._unknown_messages + self._apps.unknown_messages

    def app_states(self) -> list[dict[str, Any]]:
        """Every app of the session, for consoles and lists."""
        return self._apps.states()

    def lifecycles(self) -> Iterable[AppState]:
        """The state of every app, for gauges."""
        return (each.life.state for each in self._delivery.apps.values())

    def app(self, package: str) -> AppLifecycle | None:
        """The life of one app in this session."""
        each = self._delivery.apps.get(package)
        return None if each is None else each.life

    def info(self, package: str) -> AppInfo | None:
        """The record of an app of this session."""
        each = self._delivery.apps.get(package)
        return None if each is None else each.info

    def session_id_of(self, package: str) -> str | None:
        """The session id that this user's app was given."""
        each = self._delivery.apps.get(package)
        return None if each is None else each.session_id


#: Seconds that a session may take longer than it is meant to.
OVERDUE: Final = 5.0

_OVER: Final = frozenset({SessionState.DISCONNECTING, SessionState.DISCONNECTED, SessionState.ERROR})

#: State that a new glasses connection is told by its own machine, so the link need not repeat the old.
_REASSERTED: Final = (
    "microphone_state_change",
    "display_event:main",
    "display_event:dashboard",
    "app_state_change",
    "set_location_tier",
)
