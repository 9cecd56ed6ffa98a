"""One wearer in the cloud: his glasses connection, his apps, and everything that passes between them.

Rules: this machine owns all others of a session and is the only one that shells talk to. Messages are known by the
connection they came from; ids inside them are never believed. Nothing waits: what takes time goes out as an effect and
comes back as an input. An acknowledgement never waits for an app or for storage. A late report about an older
connection changes nothing. Sources: wire spec 2, 3, 6; failure catalogue CON, APP, SUB, SEC.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Any, Final, assert_never

import orjson

from cloud.core import app_lifecycle as lifecycle
from cloud.core import dashboard as dashboards
from cloud.core import display as displays
from cloud.core import requests as asks
from cloud.core import subscriptions as subs
from cloud.core.app_lifecycle import AppLifecycle, AppReason, AppState, LifecycleTiming, Stage, StopReason
from cloud.core.capabilities import HardwareRequirement, capabilities_of, missing_hardware
from cloud.core.clock import WallClock
from cloud.core.dashboard import Dashboard
from cloud.core.display import DisplayArbiter, DisplayTiming
from cloud.core.effects import (
    AppMoved,
    AudioStreamEnded,
    AudioStreamOpened,
    CancelSessionRequest,
    CloseApp,
    CloseGlasses,
    Effect,
    EndpointVerdict,
    Finished,
    LoadApp,
    LoadUser,
    PingApp,
    PostPhotoFailure,
    PostSessionRequest,
    PostStopRequest,
    Presence,
    Record,
    SaveLocation,
    SaveSettings,
    SaveWanted,
    SendAudio,
    SendToApps,
    SendToGlasses,
    SpeechNeeds,
    StartSettled,
    StopSettled,
    ToOtherUsers,
    Unregister,
)
from cloud.core.microphone import Microphone, MicrophoneTiming, SetMicrophone
from cloud.core.replay import AppLog
from cloud.core.requests import Requests, RequestTiming
from cloud.core.settings import DEVICE_KEYS, SYSTEM_DEFAULTS, app_settings, settings_from_status
from cloud.core.subscriptions import Subscriptions
from wire import link as links
from wire.codec import display_event, encode, load_object, message_type, validate
from wire.errors import CloseCode, ErrorCode, InvalidTransition, ProtocolError
from wire.layouts import DURATION_MS_MAX, flatten, layout_to_wire, parse_layout
from wire.link import Link, LinkState
from wire.messages import APP_TO_CLOUD, GLASSES_TO_CLOUD
from wire.messages import app_to_cloud as app
from wire.messages import cloud_to_app as to_app
from wire.messages import cloud_to_glasses as to_glasses
from wire.messages import glasses_to_cloud as glasses
from wire.messages.base import Delivery, Message
from wire.streams import EventKey, event_key, grants


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

#: The package in whose name the cloud itself shows things; the SDK's default for the dashboard app as well.
DASHBOARD_PACKAGE: Final = "system.augmentos.dashboard"


@dataclass(frozen=True, slots=True)
class SessionTiming:
    """Seconds and counts, each with its reason; the machines inside have their own."""

    grace: float = 60.0  # without glasses (wire spec 6.5; CON-14)
    load: float = 2.0  # storage may take this long, then the session goes on without (PER-03)
    announce: float = 0.15  # app_state_change is coalesced (wire spec 6.3)
    plain: float = 3.0  # a client that says nothing for this long will not announce a link
    speech_linger: float = 5.0  # recognition outlives an app's reconnect (SUB-01)
    takeovers_max: int = 5  # within `takeover_window` (CON-10)
    takeover_window: float = 10.0
    early_frames_max: int = 64  # before the user is loaded (CON-03)
    early_bytes_max: int = 1 << 20
    bad_frames_max: int = 20  # within `bad_window` from one connection: abuse (APP-08)
    bad_window: float = 10.0
    notifications_max: int = 10  # per second to apps (DSP-07)
    audio_frames_max: int = 400  # per second; 2.5 ms pieces are the smallest of any codec (PRO-02)
    location_save: float = 60.0  # a position is stored at most this often
    restore_delay: float = 0.0  # after our own restart, SDKs that come back by themselves are given this long
    lifecycle: LifecycleTiming = field(default_factory=LifecycleTiming)
    display: DisplayTiming = field(default_factory=DisplayTiming)
    microphone: MicrophoneTiming = field(default_factory=MicrophoneTiming)
    requests: RequestTiming = field(default_factory=RequestTiming)


@dataclass(frozen=True, slots=True)
class AppInfo:
    """What a session needs to know of an app's record."""

    package: str
    name: str
    base_url: str  # without a trailing slash
    kind: str = "standard"  # standard | background | system_dashboard
    permissions: frozenset[str] = frozenset()
    hardware: tuple[HardwareRequirement, ...] = ()
    settings: tuple[Mapping[str, Any], ...] = ()  # the schema


@dataclass(frozen=True, slots=True)
class UserData:
    """What is stored about a user."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()
    location: Mapping[str, Any] | None = None  # a location_update object


@dataclass(slots=True)
class _App:
    info: AppInfo
    session_id: str
    life: AppLifecycle
    log: AppLog = field(default_factory=AppLog)
    values: dict[str, Any] = field(default_factory=dict)
    early: list[tuple[int, bytes]] = field(default_factory=list)  # frames before the acknowledgement
    bad: deque[float] = field(default_factory=deque)
    present: bool = False
    last_error: str = ""
    heard_until: float = float(
        "-inf"
    )  # events up to then were for an earlier instance, or are made up for already
    made_up: set[str] = field(default_factory=set)  # streams whose missed events this instance has been sent
    accepted_at: float = float("-inf")


#: Events that an app missed while it was starting, or we were, reach it when it has subscribed: a press of the last
#: seconds is still meant (CON-16: 5 s, 100 items). Large ones are not worth keeping.
MISSED_AGE: Final = 5.0
MISSED_MAX: Final = 100
MISSED_BYTES_MAX: Final = 4096

#: Calendar entries kept for late subscribers; phones send a handful per day.
CALENDAR_MAX: Final = 100


class Session:
    """See the module. `apps` is a live, read-only view of the app records; `random` returns numbers in [0, 1);
    `new_id` makes unguessable ids; `epoch` names this session's link for its life."""

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
    ) -> None:
        self.user_id = user_id
        self.timing = timing or SessionTiming()
        self.clock = clock
        self.state = SessionState.INITIALIZING
        self.reason = "new"
        self.since = now
        self.started_at = now
        self._records = apps
        self._url = websocket_url
        self._random = random
        self._new_id = new_id
        self._dashboard_package = dashboard_package
        self._apps_max = apps_max
        self._glasses: int | None = None
        self._attached: deque[float] = deque()
        self._plain_at: float | None = None
        self._detached_at: float | None = None
        self._loaded = False
        self._load_by: float | None = None
        self._early: list[tuple[int, bytes]] = []
        self._early_bytes = 0
        self._early_starts: OrderedDict[str, None] = OrderedDict()
        self._early_apps: dict[str, int] = {}
        self._early_stops: set[str] | None = set()  # stops that what is being read does not know of yet
        self._restore_at: float | None = None
        self._restore: list[str] = []
        self._announce_at: float | None = None
        self._proof_at: float | None = None  # the next app that must be asked what it has received
        self._speech: frozenset[tuple[str, str | None]] = frozenset()
        self._speech_at: float | None = None
        self._bad: deque[float] = deque()
        self._notified: deque[float] = deque()
        self._audio_second = 0.0
        self._audio_count = 0
        self._said_tier: str | None = None
        self._location_saved_at = float("-inf")
        self._calendar: OrderedDict[str, bytes] = OrderedDict()
        self._recent: deque[tuple[float, EventKey | str, bytes]] = deque(maxlen=MISSED_MAX)
        self._datetime: str | None = None
        self._device: dict[str, Any] = {}
        self._model: str | None = None
        self.capabilities: dict[str, Any] | None = None
        self.settings: dict[str, Any] = dict(SYSTEM_DEFAULTS)
        self.edge_status: dict[str, Any] | None = None
        self.unknown_messages = 0
        self.audio_shed = 0
        self.notifications_shed = 0
        self._due: float | None = None
        self._due_known = False
        self.link = Link(new_id(), initiator=False)
        self._apps: dict[str, _App] = {}
        self.subscriptions = Subscriptions(user_id)
        self.microphone = Microphone(self.timing.microphone)
        self.display = DisplayArbiter(dashboard_package, self.timing.display)
        self.dashboard = Dashboard(clock)
        self.requests = Requests(user_id, new_id=new_id, timing=self.timing.requests)

    # ================================================================================================ time

    @property
    def deadline(self) -> float | None:
        """When `handle_deadline` has something to do; None = never."""
        if self.state is SessionState.DISCONNECTED or self.state is SessionState.ERROR:
            return None
        if not self._due_known:
            self._due = min(self._deadlines(), default=None)
            self._due_known = True
        due = self._due
        # Two move with every frame of our own edge, or of an app that draws, so they are not remembered.
        moving = self.link.deadline
        if moving is not None and (due is None or moving < due):
            due = moving
        moving = self.display.deadline
        if moving is not None and (due is None or moving < due):
            due = moving
        return due

    def _deadlines(self) -> Iterable[float]:
        times: list[float | None] = [
            self._load_by,
            self._restore_at,
            self._announce_at,
            self._speech_at,
            self._plain_at,
            self._proof_at,
            None if self._detached_at is None else self._detached_at + self.timing.grace,
            self.subscriptions.deadline,
            self.microphone.deadline,
            self.dashboard.deadline,
            self.requests.deadline,
        ]
        times += [a.life.deadline for a in self._apps.values()]
        return [t for t in times if t is not None]

    def handle_deadline(self, now: float) -> list[Effect]:
        """Do what is due; early calls do nothing."""
        if self.state in (SessionState.DISCONNECTED, SessionState.ERROR):
            return []
        self._due_known = False
        out: list[Effect] = []
        if self._load_by is not None and now >= self._load_by:
            out.append(Record("storage_slow", {}))
            out += self._begin(UserData(), now)
        if self._plain_at is not None and now >= self._plain_at:
            self._plain_at = None
            if (
                self._glasses is not None
                and self.link.state is LinkState.RESUMING
                and not self.link.sequenced
            ):
                # A client that waits in silence does not announce a link: stand in for its first frame.
                out += self._link(self.link.received(self._glasses, b'{"type":"pong"}', now), now)
        out += self._link(self.link.handle_deadline(now), now)
        if self._proof_at is not None and now >= self._proof_at:
            out += self._ask_for_proof(now)
        if self._restore_at is not None and now >= self._restore_at:
            self._restore_at = None
            out += self._start_restored(now)
        for each in list(self._apps.values()):
            out += self._lifecycle(each, each.life.handle_deadline(now), now)
        out += self._subscribed(self.subscriptions.handle_deadline(now), now)
        out += self._mic(self.microphone.handle_deadline(now), now)
        out += self._displayed(self.display.handle_deadline(now), now)
        out += self._dashboard(self.dashboard.handle_deadline(now), now)
        out += self._asked(self.requests.handle_deadline(now), now)
        if self._speech_at is not None and now >= self._speech_at:
            self._speech_at = None
            out += self._say_speech(self.subscriptions.speech)
        if self._announce_at is not None and now >= self._announce_at:
            self._announce_at = None
            out += self._to_glasses(
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
        self._due_known = False
        self._load_by = now + self.timing.load
        if not with_glasses:
            self._detached_at = now
            self._move(SessionState.DETACHED, "an app came back before the glasses", now)
        return [LoadUser()]

    def user_loaded(self, data: UserData, now: float) -> list[Effect]:
        """What is stored about the user. After `load` seconds the session has gone on without; then this is late and
        only adds what is missing."""
        self._due_known = False
        if self.state in _OVER:
            return []
        stops, self._early_stops = self._early_stops or set(), None
        if stops:
            data = replace(data, wanted=tuple(p for p in data.wanted if p not in stops))
        return self._begin(data, now)

    def _begin(self, data: UserData, now: float) -> list[Effect]:
        self._load_by = None
        self.settings.update(data.settings)
        if data.location is not None and self.requests.last_location is None:
            self.requests.location(dict(data.location), None, now - 3600.0)  # too old to answer a poll
        out: list[Effect] = []
        first = not self._loaded
        self._loaded = True
        if self.state is SessionState.CONNECTING:
            self._move(SessionState.CONNECTED, "glasses connected", now)
        wanted = [p for p in data.wanted if p in self._records]
        self._restore = [*self._restore, *(p for p in wanted if p not in self._restore)]
        out += self._adopt(wanted, now)
        if first:
            if not any(self._records[p].kind == "standard" for p in wanted):
                out += self._displayed(self.display.wipe(now), now)
            out += self._dashboard(self.dashboard.refresh(now), now)
            early, self._early, self._early_bytes = self._early, [], 0
            for connection_id, frame in early:
                if connection_id == self._glasses:
                    out += self._glasses_frame(frame, now)
        if self._restore:
            if self.timing.restore_delay > 0:
                self._restore_at = now + self.timing.restore_delay
            elif self._glasses is not None:
                out += self._start_restored(now)
        starts, self._early_starts = self._early_starts, OrderedDict()
        for package in starts:
            out += self.start_app(package, now)
        if (
            first
            and self.state is SessionState.DETACHED
            and not any(a.life.connection_id for a in self._apps.values())
        ):
            out += self.end("nobody is here", now)
        return out

    def _adopt(self, wanted: list[str], now: float) -> list[Effect]:
        """Apps that came back by themselves while the user was being read: welcome if wanted, else refused."""
        out: list[Effect] = []
        waiting, self._early_apps = self._early_apps, {}
        for package, connection_id in waiting.items():
            each = self._apps[package]
            if package in wanted:
                each.life.adopt()
            out += self._lifecycle(each, each.life.identified(connection_id, now), now)
        return out

    def _start_restored(self, now: float) -> list[Effect]:
        """Bring back what the wearer had running; of several foreground apps only the newest (APP-16)."""
        packages, self._restore = self._restore, []
        standard = [p for p in packages if p in self._records and self._records[p].kind == "standard"]
        out: list[Effect] = []
        for package in packages:
            if package not in self._records:
                continue
            if package in standard[:-1]:
                out.append(SaveWanted(package, False))  # a later start of the wearer took its place
                continue
            known = self._apps.get(package)
            if known is not None and known.life.state is not AppState.DISCONNECTED:
                continue
            rivals = [a for a in self._apps.values() if a.life.wanted and a.info.kind == "standard"]
            if package in standard and rivals:
                if known not in rivals:
                    out.append(SaveWanted(package, False))
                continue
            out += self.start_app(package, now, by_user=False)
        return out

    # ================================================================================================ glasses

    @property
    def glasses_connection(self) -> int | None:
        """The live glasses connection."""
        return self._glasses

    def glasses_connected(self, connection_id: int, now: float) -> list[Effect]:
        """An authenticated glasses client. The newest wins; the acknowledgement goes out at once."""
        self._due_known = False
        if self.state in _OVER:
            return [CloseGlasses(connection_id, CloseCode.SERVICE_RESTART, "session ending")]
        while self._attached and now - self._attached[0] > self.timing.takeover_window:
            self._attached.popleft()
        if self._glasses is not None and len(self._attached) >= self.timing.takeovers_max:
            return [
                Record("takeover_refused", {}),
                CloseGlasses(connection_id, CloseCode.TRY_AGAIN_LATER, "too many connections of one user"),
            ]
        self._attached.append(now)
        out: list[Effect] = []
        if self._glasses is not None:
            out.append(CloseGlasses(self._glasses, CloseCode.REPLACED, "replaced"))
            self.microphone.detached()
        away = None if self._detached_at is None else now - self._detached_at
        self._glasses = connection_id
        self._detached_at = None
        self._plain_at = now + self.timing.plain
        self._bad.clear()
        self.requests.has_glasses = True
        if self.state in (SessionState.INITIALIZING, SessionState.DETACHED):
            self._move(SessionState.CONNECTING, "glasses connected", now)
            if self._loaded:
                self._move(SessionState.CONNECTED, "glasses connected", now)
        out.append(Record("glasses_connected", {"connection": connection_id, "away": away}))
        out += self._handshake(self._ack(None), now)
        for key in _REASSERTED:
            self.link.forget(key)  # said anew below, with what is so now
        out += self._link(self.link.connected(connection_id, now), now)
        self.microphone.reconnected(now)
        out += self._mic(self.microphone.attached(now), now)
        self._said_tier = None
        out += self._tier(now)
        out += self._displayed(self.display.attached(now), now)
        if self._loaded and self._restore and self._restore_at is None:
            out += self._start_restored(now)
        for each in list(self._apps.values()):
            out += self._lifecycle(each, each.life.glasses(True, now), now)
            out += self._asked(self.requests.app_returned(each.info.package), now)
        return out

    def glasses_lost(self, connection_id: int, now: float) -> list[Effect]:
        """A glasses connection is closed. Only the current one counts."""
        if connection_id != self._glasses:
            return []
        self._due_known = False
        self._glasses = None
        self._plain_at = None
        self.requests.has_glasses = False
        self.microphone.detached()
        out = self._link(self.link.lost(connection_id, now), now)
        if self.state in _OVER:
            return out
        self._detached_at = now
        if self.state is not SessionState.DETACHED:
            self._move(SessionState.DETACHED, "glasses connection lost", now)
        out.append(Record("glasses_lost", {"connection": connection_id}))
        for each in list(self._apps.values()):
            out += self._lifecycle(each, each.life.glasses(False, now), now)
        return out

    def glasses_text(self, connection_id: int, data: bytes, now: float) -> list[Effect]:
        """One text frame of a glasses client."""
        if connection_id != self._glasses:
            return []
        link = self.link
        # An announcement may come late, from a client that was taken for a plain one meanwhile.
        announced = b'"link"' in data and not (link.state is LinkState.LIVE and link.sequenced)
        if not announced and link.passes(connection_id, data) and self._loaded:
            return self._glasses_frame(data, now)
        if link.state is LinkState.RESUMING:
            self._due_known = False
            self._plain_at = None
        if announced:
            hello = _announcement(data)
            if hello is not None:
                return self._link(self.link.greeted(connection_id, hello, now), now)
        return self._link(self.link.received(connection_id, data, now), now)

    def glasses_audio(self, connection_id: int, pcm: bytes, now: float) -> list[Effect]:
        """Decoded audio of the glasses: PCM16, whole samples."""
        if connection_id != self._glasses or not pcm:
            return []
        if now - self._audio_second >= 1.0:
            self._audio_second, self._audio_count = now, 0
        self._audio_count += 1
        if self._audio_count > self.timing.audio_frames_max:
            self.audio_shed += 1
            return []
        if not self.microphone.is_wanted:
            return self._mic(self.microphone.unwanted_audio(now), now)
        receivers = self.subscriptions.audio_receivers
        return [SendAudio(receivers, pcm)] if receivers else []

    def phone_message(self, message: Message, now: float) -> list[Effect]:
        """A message of the phone that came over REST."""
        self._due_known = False
        if self.state in _OVER:
            return []
        payload = message.to_wire()
        return self._from_glasses(message, payload, orjson.dumps(payload), now)

    def _link(self, effects: Iterable[links.LinkEffect], now: float) -> list[Effect]:
        out: list[Effect] = []
        for effect in effects:
            match effect:
                case links.Deliver():
                    if self._loaded:
                        out += self._glasses_frame(effect.data, now)
                    else:
                        out += self._keep_early(effect.connection_id, effect.data, now)
                case links.Transmit():
                    out.append(SendToGlasses(effect.connection_id, effect.data, effect.delivery, effect.key))
                case links.Welcome(_, welcome):
                    out += self._handshake(self._ack(welcome), now)
                case links.Resumed():
                    out.append(
                        Record(
                            "link_resumed",
                            {
                                "sequenced": effect.sequenced,
                                "recovered": effect.recovered,
                                "peer_recovered": effect.peer_recovered,
                                "replayed": effect.replayed,
                            },
                        )
                    )
                case links.Expired(count) | links.Discarded(count):
                    out.append(Record("link_gave_up", {"count": count, "why": type(effect).__name__}))
                case links.Disconnect(connection_id, reason):
                    out.append(CloseGlasses(connection_id, CloseCode.TRY_AGAIN_LATER, reason))
                case links.Announce():
                    raise AssertionError("the cloud never announces")
                case _:
                    assert_never(effect)
        return out

    def _keep_early(self, connection_id: int, data: bytes, now: float) -> list[Effect]:
        """Frames that arrive while the user is being read are handled in order afterwards; greetings at once."""
        if b'"ping"' in data or b'"connection_init"' in data:
            return self._glasses_frame(data, now)
        if (
            len(self._early) >= self.timing.early_frames_max
            or self._early_bytes + len(data) > self.timing.early_bytes_max
        ):
            return [Record("early_frame_dropped", {"bytes": len(data)})]
        self._early.append((connection_id, data))
        self._early_bytes += len(data)
        return []

    def _glasses_frame(self, data: bytes, now: float) -> list[Effect]:
        if data == _PLAIN_PING:
            # By far the most frequent frame of a phone at rest; it has nothing to check and nothing to echo.
            return (
                [SendToGlasses(self._glasses, _PLAIN_PONG, Delivery.LOSSY)]
                if self._glasses is not None
                else []
            )
        try:
            payload = load_object(data)
            kind = message_type(payload)
            check = _SURE.get(kind)
            if check is not None and check(payload):
                key = kind if kind != "touch_event" else event_key(payload)
                return self._relay(key, data, _RELAYED[kind], now)
            message = validate(GLASSES_TO_CLOUD, payload)
        except ProtocolError as error:
            return self._bad_glasses_frame(error, now)
        if message is None:
            return self._unknown(kind, data, now)
        return self._from_glasses(message, payload, data, now)

    def _unknown(self, kind: str, data: bytes, now: float) -> list[Effect]:
        """Relayed to apps that subscribed to exactly this, else counted."""
        self.unknown_messages += 1
        out: list[Effect] = [Record("unknown_message", {})]
        if len(kind) > 128:
            return out
        return out + self._relay(kind, data, Delivery.LOSSY, now)

    def _bad_glasses_frame(self, error: ProtocolError, now: float) -> list[Effect]:
        self._due_known = False
        out: list[Effect] = [Record("bad_glasses_frame", {"code": error.code, "field": error.field})]
        if self._glasses is None:
            return out
        if _too_many(self._bad, now, self.timing):
            out.append(CloseGlasses(self._glasses, CloseCode.POLICY, "too many bad messages"))
            return out
        message = to_glasses.ConnectionError_(code=error.code, message=error.message)
        return out + self._handshake(message, now)

    def _from_glasses(
        self, message: Message, payload: dict[str, Any], raw: bytes, now: float
    ) -> list[Effect]:
        relay = self._relay
        delivery = _RELAYED.get(message.type)
        if (
            delivery is not None
        ):  # before the match: an isinstance of a model costs more than a relay to one app
            return relay(
                event_key(payload) if message.type == "touch_event" else message.type, raw, delivery, now
            )
        match message:
            case glasses.Ping():
                pong = to_glasses.PongToGlasses(
                    sent_ms=message.sent_ms, clock_ms=float(self.clock.epoch_ms(now))
                )
                return self._handshake(pong, now)
            case glasses.Pong() | glasses.LinkAck():
                return []
            case glasses.Vad():
                return relay("VAD", _with_type(raw, payload, "VAD"), Delivery.LOSSY, now)
            case _:
                self._due_known = False
        match message:
            case glasses.ConnectionInit():
                return self._handshake(self._ack(None), now)
            case glasses.StartApp(package_name=package):
                return self.start_app(package, now)
            case glasses.StopApp(package_name=package):
                return self.stop_app(package, now)
            case glasses.HeadPosition(position=position):
                out = self._dashboard(self.dashboard.head_up(now), now) if position == "up" else []
                return [*out, *relay("head_position", raw, Delivery.RELIABLE, now)]
            case glasses.GlassesBatteryUpdate():
                known = None if message.level < 0 else message.level
                out = self._device_changed({"batteryLevel": known, "charging": message.charging}, now)
                return [*out, *relay("glasses_battery_update", raw, Delivery.LATEST, now)]
            case glasses.GlassesConnectionState():
                return [
                    *self._glasses_state(message, now),
                    *relay("glasses_connection_state", raw, Delivery.LATEST, now),
                ]
            case glasses.LocationUpdate():
                return self._location(message, payload, raw, now)
            case glasses.CalendarEvent():
                return self._calendar_event(message, payload, now)
            case glasses.PhoneNotification() | glasses.PhoneNotificationDismissed():
                return self._notification(message, raw, now)
            case glasses.CoreStatusUpdate():
                out = self.settings_changed(settings_from_status(message.status), now)
                return [*out, *relay("core_status_update", raw, Delivery.LATEST, now)]
            case glasses.SettingsUpdateRequest() | glasses.RequestSettings():
                reply = to_glasses.SettingsUpdate(
                    success=True, message="Current settings retrieved successfully", settings=self.settings
                )
                return self._to_glasses(reply, now)
            case glasses.PhotoResponse():
                out = self._asked(self.requests.photo_answered(message), now)
                return [*out, *relay("photo_response", raw, Delivery.RELIABLE, now)]
            case glasses.RtmpStreamStatus() | glasses.StreamStatus():
                out = self._asked(self.requests.stream_status(message, now), now)
                return [
                    *out,
                    *relay(
                        "rtmp_stream_status",
                        _with_type(raw, payload, "rtmp_stream_status"),
                        Delivery.LATEST,
                        now,
                    ),
                ]
            case glasses.KeepAliveAck():
                return self._asked(self.requests.keep_alive_answered(message, now), now)
            case glasses.AudioPlayResponse():
                return self._asked(self.requests.audio_answered(message), now)
            case glasses.RgbLedControlResponse():
                out = self._asked(self.requests.led_answered(message), now)
                return [*out, *relay("rgb_led_control_response", raw, Delivery.RELIABLE, now)]
            case glasses.LocalTranscription():
                return [
                    *relay("local_transcription", raw, Delivery.LOSSY, now),
                    *self.speech(_from_local(message), now),
                ]
            case glasses.PhoneSubscriptionUpdate():
                self.subscriptions.phone(message.subscriptions)
                return self._needs(now)
            case glasses.DisplayResult():
                return [
                    Record(
                        "display_result",
                        {
                            "id": message.display_id,
                            "outcome": message.outcome,
                            "reason": message.reason,
                            "edge_ms": message.edge_ms,
                            "ble_ms": message.ble_ms,
                        },
                    )
                ]
            case glasses.EdgeStatus():
                self.edge_status = message.model_dump(exclude={"type", "timestamp"}, exclude_none=True)
                return [Record("edge_status", self.edge_status)]
            case _:
                # config, switches, volume, datagram and LiveKit wishes: noted, unanswered; phones fall back to the
                # socket (wire spec 2.4).
                return [Record("noted", {"type": message.type})]

    def _ack(self, welcome: to_glasses.LinkWelcome | None) -> Message:
        return to_glasses.ConnectionAck(session_id=self.user_id, user_session=self._snapshot(), link=welcome)

    def _handshake(self, message: Message, now: float) -> list[Effect]:
        """Greetings, pongs and errors belong to the connection, not to the stream that outlives it."""
        if self._glasses is None:
            return []
        message.timestamp = self.clock.iso(now)
        return [SendToGlasses(self._glasses, encode(message), Delivery.RELIABLE)]

    def _to_glasses(self, message: Message, now: float) -> list[Effect]:
        message.timestamp = self.clock.iso(now)
        if self._glasses is None and message.delivery is not Delivery.RELIABLE:
            return []  # state is said anew when they return
        return self._link(self.link.post(message, now), now)

    def _snapshot(self) -> to_glasses.UserSession:
        return to_glasses.UserSession(
            user_id=self.user_id,
            session_id=self.user_id,
            start_time=self.clock.iso(self.started_at),
            active_app_sessions=[p for p, a in self._apps.items() if a.life.is_running],
            loading_apps=[p for p, a in self._apps.items() if a.life.is_starting],
            app_subscriptions={
                p: list(self.subscriptions.of(p)) for p, a in self._apps.items() if a.life.is_running
            },
            requires_audio=self.subscriptions.needs_audio,
            minimum_transcription_languages=sorted(
                f"transcription:{source}" if target is None else f"translation:{source}-to-{target}"
                for source, target in self.subscriptions.speech
            ),
            is_transcribing=bool(self._speech),
        )

    # ------------------------------------------------------------------------------------------------ what they report

    def _glasses_state(self, message: glasses.GlassesConnectionState, now: float) -> list[Effect]:
        connected = message.status.upper() == "CONNECTED"
        changes: dict[str, Any] = {"connected": connected}
        if message.model_name:
            changes["modelName"] = message.model_name
        if message.wifi is not None:
            changes["wifiConnected"] = message.wifi.connected
            changes["wifiSsid"] = message.wifi.ssid
        out = self._device_changed(changes, now)
        if connected:
            # The glasses behind the client are new to us: they have neither microphone state nor display.
            out += self._mic(self.microphone.attached(now), now) if self._glasses is not None else []
            out += self._displayed(self.display.attached(now), now) if self._glasses is not None else []
        return out

    def device_state(self, state: Mapping[str, Any], now: float) -> list[Effect]:
        """A phone's partial report over REST: absent members are unchanged, null clears (DSP-04)."""
        self._due_known = False
        return self._device_changed(state, now) if self.state not in _OVER else []

    @property
    def device(self) -> Mapping[str, Any]:
        """Everything known about the glasses."""
        return self._device

    def _device_changed(self, changes: Mapping[str, Any], now: float) -> list[Effect]:
        fresh = {k: v for k, v in changes.items() if k not in self._device or self._device[k] != v}
        if not fresh:
            return []
        self._device.update(fresh)
        out: list[Effect] = []
        visible = {k: v for k, v in fresh.items() if k in DEVICE_KEYS}
        if visible:
            for each in self._connected_apps():
                out += self._to_app(
                    each, to_app.DeviceStateUpdate(session_id=each.session_id, state=visible), now
                )
        if "batteryLevel" in fresh or "charging" in fresh:
            level = self._device.get("batteryLevel")
            out += self._dashboard(
                self.dashboard.battery(
                    int(level) if isinstance(level, (int, float)) else None,
                    bool(self._device.get("charging")),
                    now,
                ),
                now,
            )
        model = fresh.get("modelName")
        if isinstance(model, str) and model and model != self._model:
            out += self._model_changed(model, now)
        return out

    def _model_changed(self, model: str, now: float) -> list[Effect]:
        self._model = model
        self.capabilities = capabilities_of(model)
        out: list[Effect] = [Record("model", {"model": model, "known": self.capabilities is not None})]
        for each in list(self._apps.values()):
            if each.life.state is AppState.CONNECTED:
                out += self._to_app(
                    each,
                    to_app.CapabilitiesUpdate(
                        session_id=each.session_id, model_name=model, capabilities=self.capabilities
                    ),
                    now,
                )
            lacking = missing_hardware(each.info.hardware, self.capabilities)
            if lacking and each.life.state is not AppState.DISCONNECTED:
                out += self._lifecycle(
                    each,
                    each.life.stop(
                        StopReason.SYSTEM_STOP, now, still_wanted=True, because=AppReason.INCOMPATIBLE
                    ),
                    now,
                )
            elif not lacking and each.life.reason is AppReason.INCOMPATIBLE:
                out += self._lifecycle(each, each.life.glasses(self._glasses is not None, now), now)
        return out

    def _location(
        self, message: glasses.LocationUpdate, payload: dict[str, Any], raw: bytes, now: float
    ) -> list[Effect]:
        out = self._asked(self.requests.location(payload, message.correlation_id, now), now)
        if now - self._location_saved_at >= self.timing.location_save:
            self._location_saved_at = now
            out.append(SaveLocation(message.lat, message.lng, message.accuracy))
        if message.correlation_id is not None:
            return out  # the answer to one app's poll is nobody else's news
        return [*out, *self._relay("location_update", raw, Delivery.LOSSY, now)]

    def _calendar_event(
        self, message: glasses.CalendarEvent, payload: dict[str, Any], now: float
    ) -> list[Effect]:
        zone = message.timezone or message.time_zone
        event = orjson.dumps({**payload, "timezone": zone} if zone else payload)
        key = message.event_id or message.title
        self._calendar.pop(key, None)
        self._calendar[key] = event
        while len(self._calendar) > CALENDAR_MAX:
            self._calendar.popitem(last=False)
        out = self._dashboard(
            self.dashboard.appointment(message.event_id, message.title, _epoch(message.dt_start), now), now
        )
        return [*out, *self._relay("calendar_event", event, Delivery.RELIABLE, now)]

    def _notification(
        self, message: glasses.PhoneNotification | glasses.PhoneNotificationDismissed, raw: bytes, now: float
    ) -> list[Effect]:
        if isinstance(message, glasses.PhoneNotification):
            out = self._dashboard(
                self.dashboard.notification(
                    message.notification_id or message.title, message.app, message.title, message.content, now
                ),
                now,
            )
        else:
            out = self._dashboard(self.dashboard.dismissed(message.notification_id, now), now)
        while self._notified and now - self._notified[0] >= 1.0:
            self._notified.popleft()
        if len(self._notified) >= self.timing.notifications_max:
            self.notifications_shed += 1
            return out
        self._notified.append(now)
        return [*out, *self._relay(message.type, raw, Delivery.RELIABLE, now)]

    def set_datetime(self, text: str, now: float) -> list[Effect]:
        """The phone's local date and time, ISO with an offset. Raises ProtocolError."""
        self._due_known = False
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise ProtocolError(
                ErrorCode.MALFORMED_MESSAGE, "datetime: not an ISO 8601 date", field="datetime"
            ) from None
        self._datetime = text
        offset = at.utcoffset()
        if offset is not None:
            self.clock.utc_offset = offset.total_seconds()
        out = self._dashboard(self.dashboard.refresh(now), now)
        for route in self.subscriptions.routes("custom_message"):
            for package in route.packages:
                out += self._custom_datetime(self._apps[package], now)
        return out

    def _custom_datetime(self, each: _App, now: float) -> list[Effect]:
        if self._datetime is None:
            return []
        message = to_app.CustomMessage(
            action="update_datetime", payload={"datetime": self._datetime, "section": "topLeft"}
        )
        return self._to_app(each, message, now)

    def settings_changed(self, changes: Mapping[str, Any], now: float) -> list[Effect]:
        """System settings were changed on the phone or over REST."""
        self._due_known = False
        fresh = {k: v for k, v in changes.items() if self.settings.get(k) != v}
        if not fresh:
            return []
        self.settings.update(fresh)
        out: list[Effect] = [SaveSettings(fresh)]
        for each in self._connected_apps():
            out += self._push_system_settings(each, now)
        return out

    def _push_system_settings(self, each: _App, now: float) -> list[Effect]:
        message = to_app.AugmentosSettingsUpdate(session_id=each.session_id, settings=dict(self.settings))
        return self._to_app(each, message, now)

    # ================================================================================================ apps: wanted

    def start_app(self, package: str, now: float, *, by_user: bool = True) -> list[Effect]:
        """The wearer wants an app; the outcome is a `StartSettled`."""
        self._due_known = False
        if self.state in _OVER:
            return [StartSettled(package, False, Stage.CONNECTION, "the session has ended")]
        if self._early_stops is not None and by_user:
            self._early_stops.discard(package)
        if not self._loaded:
            self._early_starts[package] = None
            return []
        info = self._records.get(package)
        if info is None:
            return [StartSettled(package, False, Stage.WEBHOOK, f"App {package} not found")]
        lacking = missing_hardware(info.hardware, self.capabilities)
        if lacking:
            return [
                StartSettled(
                    package, False, Stage.HARDWARE, f"the glasses have no {', '.join(lacking).lower()}"
                )
            ]
        if by_user and self._glasses is None:
            return [
                StartSettled(package, False, Stage.CONNECTION, "the glasses are not connected at the moment")
            ]
        each = self._apps.get(package)
        if each is None:
            if len(self._apps) >= self._apps_max and not self._make_room():
                return [StartSettled(package, False, Stage.CONNECTION, f"{self._apps_max} apps run already")]
            each = self._new_app(info)
        each.info = info
        out: list[Effect] = []
        if info.kind == "standard":
            for other in list(self._apps.values()):
                if other is not each and other.info.kind == "standard" and other.life.wanted:
                    out += self._stop(other, StopReason.SYSTEM_STOP, now)
            for waiting in [p for p in self._restore if p != package]:
                if waiting in self._records and self._records[waiting].kind == "standard":
                    self._restore.remove(waiting)
                    out.append(SaveWanted(waiting, False))
        if by_user:
            out.append(SaveWanted(package, True))
        idle = not each.life.is_starting and not each.life.is_running
        if by_user and idle:
            each.heard_until = now
            each.made_up.clear()
        moves = each.life.start(now, by_user=by_user)
        if by_user and idle and info.package != self._dashboard_package:
            out += self._displayed(self.display.starting(package, info.name, now), now)
        return out + self._lifecycle(each, moves, now)

    def stop_app(
        self, package: str, now: float, reason: StopReason = StopReason.USER_DISABLED
    ) -> list[Effect]:
        """The wearer no longer wants an app; the end is a `StopSettled`."""
        self._due_known = False
        self._early_starts.pop(package, None)
        if self._early_stops is not None:
            self._early_stops.add(package)
        if package in self._restore:
            self._restore.remove(package)
        each = self._apps.get(package)
        # One that has not come back since our restart may still have its text on the lens.
        out = self._displayed(self.display.stopped(package, now), now)
        if each is None:
            return [*out, SaveWanted(package, False), StopSettled(package)]
        return [*out, *self._stop(each, reason, now)]

    def _stop(self, each: _App, reason: StopReason, now: float) -> list[Effect]:
        self.microphone.released()
        return [
            SaveWanted(each.info.package, False),
            *self._lifecycle(each, each.life.stop(reason, now), now),
        ]

    def _new_app(self, info: AppInfo) -> _App:
        each = _App(
            info,
            f"{self.user_id}-{info.package}",
            AppLifecycle(info.package, self.timing.lifecycle, random=self._random),
        )
        self._apps[info.package] = each
        each.life.glasses(self._glasses is not None, 0.0)
        return each

    def _make_room(self) -> bool:
        """Forget one app that is neither wanted nor running."""
        for package, each in self._apps.items():
            if not each.life.wanted and each.life.state is AppState.DISCONNECTED:
                del self._apps[package]
                return True
        return False

    def app_server_seen(self, package: str, now: float) -> list[Effect]:
        """The app's server has shown signs of life: do not wait for the next attempt."""
        self._due_known = False
        each = self._apps.get(package)
        return [] if each is None else self._lifecycle(each, each.life.retry_now(now), now)

    def record_changed(self, package: str, now: float) -> list[Effect]:
        """The app's record was replaced or deleted: permissions and settings follow at once."""
        self._due_known = False
        each = self._apps.get(package)
        if each is None:
            return []
        info = self._records.get(package)
        if info is None:
            out = self._stop(each, StopReason.SYSTEM_STOP, now)
            each.info = AppInfo(package, each.info.name, each.info.base_url)
            return out
        each.info = info
        return self._subscribed(self.subscriptions.permissions_changed(package, info.permissions), now)

    def app_settings_changed(self, package: str, values: Mapping[str, Any], now: float) -> list[Effect]:
        """The wearer changed settings of an app; `values` is the whole map."""
        self._due_known = False
        each = self._apps.get(package)
        if each is None:
            return []
        each.values = dict(values)
        if each.life.state is not AppState.CONNECTED:
            return []  # the next acknowledgement carries them
        message = to_app.AppSettingsUpdate(
            package_name=package,
            session_id=each.session_id,
            settings=app_settings(each.info.settings, each.values),
        )
        # The SDK overwrites its system settings with this list; the full map must follow (wire spec rule 24).
        return [*self._to_app(each, message, now), *self._push_system_settings(each, now)]

    # ================================================================================================ apps: observed

    def app_loaded(
        self, package: str, cycle: int, values: Mapping[str, Any] | None, now: float
    ) -> list[Effect]:
        """The user's settings of an app; None when storage failed: the app gets its defaults."""
        self._due_known = False
        each = self._apps.get(package)
        if each is None or cycle != each.life.cycle:
            return []
        if values is not None:
            each.values = dict(values)
        return self._lifecycle(each, each.life.loaded(cycle, now), now)

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
        self._due_known = False
        each = self._apps.get(package)
        if each is None:
            return []
        moves = each.life.webhook_answered(
            cycle, now, ok=ok, message=message, from_app=from_app, retry_after=retry_after
        )
        return self._lifecycle(each, moves, now)

    def stop_answered(self, package: str, cycle: int, now: float) -> list[Effect]:
        """The stop webhook has an outcome, whichever."""
        self._due_known = False
        each = self._apps.get(package)
        return [] if each is None else self._lifecycle(each, each.life.stop_answered(cycle, now), now)

    def announce(self, now: float) -> list[Effect]:
        """Something that clients show has changed elsewhere (installed apps, records)."""
        self._due_known = False
        if self._announce_at is None and self.state not in _OVER:
            self._announce_at = now + self.timing.announce
        return []

    def photo_arrived(self, request_id: str, url: str, now: float) -> list[Effect]:
        """The glasses uploaded the photo to us and it went on to the app."""
        self._due_known = False
        answer = glasses.PhotoResponse(
            request_id=request_id, success=True, photo_url=url, error_code=None, error_message=None
        )
        return self._asked(self.requests.photo_answered(answer), now)

    def app_wrong_key(self, package: str) -> None:
        """Somebody presented a wrong key for this app: no effect but on the words of a failure (APP-18)."""
        each = self._apps.get(package)
        if each is not None:
            each.life.wrong_key()

    def app_identified(self, package: str, connection_id: int, now: float) -> list[Effect]:
        """A socket has proven, by the app's key, to be this app."""
        self._due_known = False
        if self.state in _OVER:
            return self._refuse(package, connection_id, now)
        each = self._apps.get(package)
        if each is None:
            info = self._records.get(package)
            restoring = package in self._restore
            if info is None or (self._loaded and not restoring):
                return self._refuse(package, connection_id, now)
            # After our own restart the SDK may be back before anybody knows whether its app is wanted, or after the
            # glasses but before its turn to be restored.
            each = self._new_app(info)
            if restoring:
                each.life.adopt()
        if not self._loaded:
            out: list[Effect] = []
            if package in self._early_apps:
                out.append(CloseApp(self._early_apps[package], CloseCode.POLICY, "replaced"))
            self._early_apps[package] = connection_id
            return out
        return self._lifecycle(each, each.life.identified(connection_id, now), now)

    def app_lost(self, package: str, connection_id: int, now: float) -> list[Effect]:
        """A socket of an app is closed. Only its current one counts."""
        self._due_known = False
        each = self._apps.get(package)
        if self._early_apps.get(package) == connection_id:
            del self._early_apps[package]
        if each is None or each.life.connection_id != connection_id:
            return []
        each.early.clear()
        return self._lifecycle(each, each.life.lost(connection_id, now), now)

    def app_pong(self, package: str, connection_id: int, payload: bytes, now: float) -> list[Effect]:
        """The app's WebSocket library has answered a ping: what came before it has arrived."""
        each = self._apps.get(package)
        if each is None or each.life.connection_id != connection_id:
            return []
        each.log.proved(payload)
        self._expect_proof(each.log)
        return []

    def _expect_proof(self, log: AppLog) -> None:
        """See to it that a log with unproven frames is asked about at its time."""
        due = log.deadline
        if due is not None and (self._proof_at is None or due < self._proof_at):
            self._proof_at = due
            self._due_known = False

    def _ask_for_proof(self, now: float) -> list[Effect]:
        out: list[Effect] = []
        self._proof_at = None
        for each in self._apps.values():
            connection_id = each.life.connection_id
            if each.life.state is not AppState.CONNECTED or connection_id is None:
                continue
            ping = each.log.ask(now)
            if ping is not None:
                out.append(PingApp(connection_id, ping))
            self._expect_proof(each.log)
        return out

    def _refuse(self, package: str, connection_id: int, now: float) -> list[Effect]:
        error = to_app.TpaConnectionError(
            code=ErrorCode.APP_NOT_STARTED,
            message=f"App not started for this user: {package}",
            timestamp=self.clock.iso(now),
        )
        return [
            SendToApps((connection_id,), encode(error), Delivery.RELIABLE, None, error.type),
            CloseApp(connection_id, CloseCode.POLICY, "App not started"),
        ]

    def _lifecycle(self, each: _App, moves: Iterable[lifecycle.Effect], now: float) -> list[Effect]:
        out: list[Effect] = []
        package = each.info.package
        for move in moves:
            match move:
                case lifecycle.Launch(cycle, first, by_user):
                    if first:
                        out.append(LoadApp(package, cycle))
                    if each.life.state is AppState.CONNECTING:
                        continue  # it came by itself: only its settings are missing
                    out.append(
                        PostSessionRequest(
                            package,
                            cycle,
                            each.info.base_url,
                            {
                                "type": "session_request",
                                "sessionId": each.session_id,
                                "userId": self.user_id,
                                "timestamp": self.clock.iso(now),
                                "mentraOSWebsocketUrl": self._url,
                                "augmentOSWebsocketUrl": self._url,
                            },
                            self.timing.lifecycle.webhook,
                            by_user,
                        )
                    )
                case lifecycle.CancelLaunch(cycle):
                    out.append(CancelSessionRequest(package, cycle))
                case lifecycle.Accepted(connection_id, fresh):
                    out += self._accept(each, connection_id, fresh, now)
                case lifecycle.Refused(connection_id):
                    out += self._refuse(package, connection_id, now)
                case lifecycle.CloseSocket(connection_id, code, reason):
                    if each.life.state is AppState.DISCONNECTED and code == CloseCode.NORMAL:
                        stopped = to_app.AppStopped(reason=_told(each.life.reason))
                        stopped.timestamp = self.clock.iso(now)
                        out.append(
                            SendToApps(
                                (connection_id,), encode(stopped), Delivery.RELIABLE, None, stopped.type
                            )
                        )
                    out.append(CloseApp(connection_id, code, reason))
                case lifecycle.PostStop(cycle, reason):
                    out.append(
                        PostStopRequest(
                            package,
                            cycle,
                            each.info.base_url,
                            {
                                "type": "stop_request",
                                "sessionId": each.session_id,
                                "userId": self.user_id,
                                "reason": reason.value,
                                "timestamp": self.clock.iso(now),
                            },
                            5.0,  # APP-06; nothing waits for it
                        )
                    )
                case lifecycle.Started(ok, stage, message, by_user):
                    out.append(StartSettled(package, ok, stage, message))
                    if ok:
                        out.append(EndpointVerdict(each.info.base_url, True))
                    else:
                        each.last_error = message
                        if each.life.state in (AppState.ERROR, AppState.DISCONNECTED) and stage in (
                            Stage.WEBHOOK,
                            Stage.TIMEOUT,
                        ):
                            out.append(EndpointVerdict(each.info.base_url, False))
                        if each.life.state is AppState.STOPPING or not by_user:
                            out += self._displayed(self.display.stopped(package, now), now)
                        else:
                            out += self._displayed(self.display.failed(package, now), now)
                case lifecycle.Stopped():
                    out.append(StopSettled(package))
                case lifecycle.Forget():
                    out += self._forget(each, now)
                case lifecycle.Moved(before, after, reason):
                    out.append(AppMoved(package, before, after, reason))
                    out += self._app_moved(each, before, after, now)
                case _:
                    assert_never(move)
        return out

    def _app_moved(self, each: _App, before: AppState, after: AppState, now: float) -> list[Effect]:
        out: list[Effect] = []
        if before is AppState.CONNECTED:
            each.heard_until = now
            each.made_up.clear()
        elif before is AppState.GRACE and after is AppState.CONNECTED:
            each.heard_until = float("inf")  # its own log has what it missed
        if self._announce_at is None:
            self._announce_at = now + self.timing.announce
        if after is AppState.CONNECTED:
            if not each.present:
                each.present = True
                out.append(Presence(each.info.package, each.session_id, True))
        elif after is AppState.GRACE:
            self.subscriptions.lost(each.info.package)
        elif each.present and after is not AppState.CONNECTING:
            each.present = False
            self.subscriptions.lost(each.info.package)
            out.append(Presence(each.info.package, each.session_id, False))
        return out

    def _forget(self, each: _App, now: float) -> list[Effect]:
        """The app no longer counts: its streams, display, dashboard line and open requests go."""
        package = each.info.package
        each.log.clear()
        out = self._subscribed(self.subscriptions.removed(package), now)
        out += self._displayed(self.display.stopped(package, now), now)
        out += self._dashboard(self.dashboard.gone(package, now), now)
        out += self._asked(self.requests.app_gone(package), now)
        return out

    def _accept(self, each: _App, connection_id: int, fresh: bool, now: float) -> list[Effect]:
        package = each.info.package
        info = self._records.get(package, each.info)
        each.info = info
        if fresh:
            each.log.clear()
            self.subscriptions.removed(package)  # another instance starts with an empty list (SUB-01)
        self.subscriptions.connected(package, each.session_id, info.permissions, connection_id, now)
        self.microphone.reconnected(now)
        each.accepted_at = now
        each.bad.clear()
        ack = to_app.TpaConnectionAck(
            session_id=each.session_id,
            settings=app_settings(info.settings, each.values),
            mentraosSettings=dict(self.settings),
            augmentosSettings=dict(self.settings),
            capabilities=self.capabilities,
            subscriptions=list(self.subscriptions.of(package)),
            user_id=self.user_id,
        )
        state = {k: v for k, v in self._device.items() if k in DEVICE_KEYS}
        snapshot = to_app.DeviceStateUpdate(session_id=each.session_id, state=state, full_snapshot=True)
        out: list[Effect] = []
        for message in (ack, snapshot):
            message.timestamp = self.clock.iso(now)
            out.append(SendToApps((connection_id,), encode(message), Delivery.RELIABLE, None, message.type))
        if not fresh:
            frames, ping = each.log.replay(now)
            out += [
                SendToApps((connection_id,), frame, Delivery.RELIABLE, None, "replay") for frame in frames
            ]
            if ping is not None:
                out.append(PingApp(connection_id, ping))
        foreground = info.kind == "standard"
        out += self._displayed(self.display.running(package, foreground=foreground, now=now), now)
        out += self._asked(self.requests.app_returned(package), now)
        out += self._needs(now)
        early, each.early = each.early, []
        for sender, frame in early:
            if sender == connection_id:
                out += self.app_text(package, connection_id, frame, now)
        return out

    def _connected_apps(self) -> list[_App]:
        return [a for a in self._apps.values() if a.life.state is AppState.CONNECTED]

    # ================================================================================================ apps: what they say

    def app_text(self, package: str, connection_id: int, data: bytes, now: float) -> list[Effect]:
        """One text frame of an app. The socket says whose it is."""
        each = self._apps.get(package)
        if each is None or connection_id not in (each.life.connection_id, self._early_apps.get(package)):
            return []
        if each.life.state is not AppState.CONNECTED:
            self._due_known = False
            return self._keep_early_app(each, connection_id, data)
        request_id: str | None = None
        try:
            payload = load_object(data)
            if _is_plain_display(payload, package):
                duration = payload.get("durationMs")
                return self._displayed(
                    self.display.request(
                        package,
                        payload["view"],
                        payload["layout"],
                        None if duration is None else duration / 1000.0,
                        now,
                        force=payload.get("forceDisplay", False),
                    ),
                    now,
                )
            self._due_known = False
            request_id = _request_id(payload)
            message = validate(APP_TO_CLOUD, payload)
            if message is None:
                self.unknown_messages += 1
                return [Record("unknown_message", {"package": package})]
            claimed = getattr(message, "package_name", None)
            if claimed is not None and claimed != package:
                raise ProtocolError(
                    ErrorCode.WRONG_PACKAGE,
                    f"this connection belongs to {package}, not to the package named in the message",
                    field="packageName",
                )
            return self._from_app(each, message, payload, connection_id, now)
        except ProtocolError as error:
            self._due_known = False
            return self._bad_app_frame(each, connection_id, error, request_id, now)

    def _keep_early_app(self, each: _App, connection_id: int, data: bytes) -> list[Effect]:
        """Frames sent before the acknowledgement wait for it, in order (CON-03)."""
        size = sum(len(frame) for _, frame in each.early) + len(data)
        if len(each.early) >= self.timing.early_frames_max or size > self.timing.early_bytes_max:
            return [Record("early_frame_dropped", {"package": each.info.package, "bytes": len(data)})]
        each.early.append((connection_id, data))
        return []

    def _bad_app_frame(
        self, each: _App, connection_id: int, error: ProtocolError, request_id: str | None, now: float
    ) -> list[Effect]:
        answer = to_app.TpaConnectionError(
            code=error.code, message=error.message, field=error.field, request_id=request_id
        )
        out: list[Effect] = [
            Record(
                "bad_app_frame",
                {"package": each.info.package, "code": error.code, "field": error.field},
            ),
            *self._to_app(each, answer, now),
        ]
        if _too_many(each.bad, now, self.timing):
            out.append(CloseApp(connection_id, CloseCode.POLICY, "too many bad messages"))
        return out

    def _from_app(
        self, each: _App, message: Message, payload: dict[str, Any], connection_id: int, now: float
    ) -> list[Effect]:
        package, sid = each.info.package, each.session_id
        match message:
            case app.DisplayRequest():
                return self._display_request(each, message, payload, now)
            case app.SubscriptionUpdate():
                return self._subscribed(self.subscriptions.update(package, message.subscriptions, now), now)
            case app.TpaConnectionInit():
                # The same app again on the same socket: another acknowledgement is harmless (wire spec 3.1).
                return self._accept(each, connection_id, False, now)
            case app.DashboardContentUpdate():
                text = flatten(message.content)
                return self._dashboard(self.dashboard.content(package, text, message.modes, now), now)
            case app.DashboardModeChange():
                self._only_dashboard(each)
                return self._dashboard(self.dashboard.set_mode(message.mode, now), now)
            case app.DashboardSystemUpdate():
                self._only_dashboard(each)
                text = flatten(message.content)
                return self._dashboard(self.dashboard.section(package, message.section, text, now), now)
            case app.AudioPlay():
                return self._asked(self.requests.play(package, sid, message, now), now)
            case app.AudioStop():
                return self._asked(self.requests.stop_audio(package, message), now)
            case app.AppPhotoRequest():
                return self._asked(self._photo(each, message, now), now)
            case app.RtmpStreamRequest():
                refusal = self._camera_refusal(each)
                if refusal is not None:
                    error = to_app.AppRtmpStreamStatus(
                        session_id=sid, stream_id="", status="error", error_details=refusal[1], app_id=package
                    )
                    return self._to_app(each, error, now)
                started = self.clock.iso(now)
                return self._asked(self.requests.start_stream(package, sid, message, started, now), now)
            case app.RtmpStreamStop():
                return self._asked(self.requests.stop_stream(package, message), now)
            case app.ManagedStreamRequest():
                return self._asked(self.requests.managed_stream(package, sid), now)
            case app.ManagedStreamStop():
                return self._asked(self.requests.managed_stream_stopped(package, sid), now)
            case app.StreamStatusCheck():
                return self._asked(self.requests.check_stream(package, sid), now)
            case app.LocationPollRequest():
                if not grants(self._permissions(each), "LOCATION"):
                    raise ProtocolError(ErrorCode.PERMISSION_DENIED, "the app has no LOCATION permission")
                return self._asked(self.requests.poll_location(package, sid, message, now), now)
            case app.AppRgbLedControl():
                return self._asked(self.requests.led(package, sid, message, now), now)
            case app.RequestWifiSetup():
                return self._asked(self.requests.wifi_setup(package, message), now)
            case (
                app.AppBroadcastMessage()
                | app.AppDirectMessage()
                | app.AppRoomJoin()
                | app.AppRoomLeave()
                | app.AppUserDiscovery()
            ):
                return [ToOtherUsers(package, message)]
            case app.OwnershipRelease():
                each.life.released(connection_id)
                return [Record("ownership_release", {"package": package, "reason": message.reason})]
            case app.AppPing():
                return self._to_app(each, to_app.PongToApp(), now)
            case app.AppPong():
                return []
            case app.AudioStreamStart():
                return [AudioStreamOpened(package, connection_id, message.stream_id, message.content_type)]
            case app.AudioStreamEnd():
                return [AudioStreamEnded(package, message.stream_id)]
            case _:
                raise AssertionError(f"no handler for {message.type}")

    def _display_request(
        self, each: _App, message: app.DisplayRequest, payload: dict[str, Any], now: float
    ) -> list[Effect]:
        # Members that we do not know go through unchanged; text and pictures within their limits.
        layout = {**message.layout, **layout_to_wire(parse_layout(message.layout))}
        duration = None if message.duration_ms is None else message.duration_ms / 1000.0
        return self._displayed(
            self.display.request(
                each.info.package, message.view, layout, duration, now, force=message.force_display
            ),
            now,
        )

    def _permissions(self, each: _App) -> frozenset[str]:
        """As the record says now; a record that is gone grants nothing (SUB-05)."""
        info = self._records.get(each.info.package)
        return frozenset() if info is None else info.permissions

    def _only_dashboard(self, each: _App) -> None:
        if each.info.package != self._dashboard_package and each.info.kind != "system_dashboard":
            raise ProtocolError(ErrorCode.PERMISSION_DENIED, "only the dashboard app may do this")

    def _camera_refusal(self, each: _App) -> tuple[ErrorCode, str] | None:
        if not grants(self._permissions(each), "CAMERA"):
            return ErrorCode.PERMISSION_DENIED, "the app has no CAMERA permission"
        if self.capabilities is not None and not self.capabilities["hasCamera"]:
            return ErrorCode.UNSUPPORTED, "these glasses have no camera"
        return None

    def _photo(self, each: _App, message: app.AppPhotoRequest, now: float) -> list[asks.Effect]:
        package, sid = each.info.package, each.session_id
        url = each.info.base_url + "/photo-upload"
        refusal = self._camera_refusal(each)
        if refusal is not None:
            return self.requests.refuse_photo(package, sid, url, message, *refusal, now)
        return self.requests.photo(package, sid, url, message, now)

    def deliver(self, package: str, message: Message, now: float) -> list[Effect]:
        """A bare message for one app of this session, from outside (another user, a REST call)."""
        each = self._apps.get(package)
        return [] if each is None else self._to_app(each, message, now)

    # ================================================================================================ sending to apps

    def _to_app(self, each: _App, message: Message, now: float) -> list[Effect]:
        if message.timestamp is None:
            message.timestamp = self.clock.iso(now)
        payload = encode(message)
        connection_id = each.life.connection_id if each.life.state is AppState.CONNECTED else None
        if connection_id is None:
            if message.delivery is Delivery.RELIABLE and each.life.state is AppState.GRACE:
                each.log.append(payload, False, now)
            return []
        key = message.latest_key() if message.delivery is Delivery.LATEST else None
        out: list[Effect] = [SendToApps((connection_id,), payload, message.delivery, key, message.type)]
        if message.delivery is Delivery.RELIABLE:
            ping = each.log.append(payload, True, now)
            if ping is not None:
                out.append(PingApp(connection_id, ping))
            else:
                self._expect_proof(each.log)
        return out

    def _relay(self, key: EventKey | str, raw: bytes, delivery: Delivery, now: float) -> list[Effect]:
        """An event to everyone who subscribed to it, each under its own string. This is the hot path."""
        if delivery is Delivery.RELIABLE and len(raw) <= MISSED_BYTES_MAX:
            self._recent.append((now, key, raw))
        routes = self.subscriptions.routes(key)
        if not routes:
            return []
        timestamp = self.clock.iso_bytes(now)
        out: list[Effect] = []
        for route in routes:
            payload = subs.envelope(route.prefix, timestamp, raw)
            if route.connection_ids:
                latest = route.stream_type if delivery is Delivery.LATEST else None
                out.append(SendToApps(route.connection_ids, payload, delivery, latest, route.stream_type))
            if delivery is Delivery.RELIABLE:
                self._remember(route.packages, payload, now, out)
        return out

    def _remember(self, packages: Iterable[str], payload: bytes, now: float, out: list[Effect]) -> None:
        """Keep a frame that has just been relayed until its receivers have proven that they have it."""
        apps = self._apps
        for package in packages:
            each = apps[package]
            life, log = each.life, each.log
            if life.state is AppState.CONNECTED:
                ping = log.append(payload, True, now)
                if ping is not None and life.connection_id is not None:
                    out.append(PingApp(life.connection_id, ping))
                elif self._proof_at is None:
                    self._expect_proof(log)
            elif life.state is AppState.GRACE:
                log.append(payload, False, now)

    def _event_to(self, each: _App, stream_type: str, raw: bytes, now: float) -> list[Effect]:
        """One event to one app under one of its strings."""
        payload = subs.envelope(
            subs.envelope_prefix(each.session_id, stream_type), self.clock.iso_bytes(now), raw
        )
        if each.life.state is not AppState.CONNECTED or each.life.connection_id is None:
            return []
        return [SendToApps((each.life.connection_id,), payload, Delivery.RELIABLE, None, stream_type)]

    # ================================================================================================ speech

    def speech(self, event: Mapping[str, Any], now: float) -> list[Effect]:
        """A result of speech recognition: a `transcription` or `translation` object (wire spec 3.7)."""
        if event.get("type") not in ("transcription", "translation") or not event.get("text"):
            return []
        final = bool(event.get("isFinal"))
        delivery = Delivery.RELIABLE if final else Delivery.LOSSY
        return self._relay(event_key(event), orjson.dumps(event), delivery, now)

    def voice(self, speaking: bool, now: float) -> list[Effect]:
        """The cloud's own detector says that somebody speaks, or no longer does."""
        return self._relay("VAD", orjson.dumps({"type": "VAD", "status": speaking}), Delivery.LOSSY, now)

    # ================================================================================================ the machines inside

    def _subscribed(self, effects: Iterable[subs.Effect], now: float) -> list[Effect]:
        out: list[Effect] = []
        changed = False
        for effect in effects:
            each = self._apps.get(effect.package)
            match effect:
                case subs.Denied(package, streams):
                    if each is None:
                        continue
                    details = [
                        to_app.PermissionDetail(
                            stream=name,
                            required_permission=need,
                            message=f"To subscribe to {name}, add the {need} permission to the app's record",
                        )
                        for name, need in streams
                    ]
                    text = "Some subscriptions were rejected due to missing permissions"
                    out += self._to_app(each, to_app.PermissionError_(message=text, details=details), now)
                    out.append(
                        Record("permission_denied", {"package": package, "streams": [n for n, _ in streams]})
                    )
                case subs.Changed(_, added):
                    changed = True
                    if each is not None:
                        for subscription in added:
                            out += self._catch_up(each, subscription.name, subscription.stream, now)
                        if added:
                            out += self._make_up(each, {s.name for s in added}, now)
                case _:
                    assert_never(effect)
        if changed:
            out += self._needs(now)
            if self._announce_at is None:
                self._announce_at = now + self.timing.announce
        return out

    def _make_up(self, each: _App, added: set[str], now: float) -> list[Effect]:
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
                    out.append(
                        SendToApps(
                            (each.life.connection_id,), payload, Delivery.RELIABLE, None, route.stream_type
                        )
                    )
                    self._remember((package,), payload, now, out)
        return out

    def _catch_up(self, each: _App, name: str, stream: str, now: float) -> list[Effect]:
        """What a late subscriber has missed and still needs (wire spec 3.5)."""
        out: list[Effect] = []
        if stream == "calendar_event":
            for event in self._calendar.values():
                out += self._event_to(each, name, event, now)
        elif stream in ("location_update", "location_stream"):
            fix = self.requests.last_location
            if fix is not None:
                out += self._event_to(each, name, orjson.dumps(fix), now)
        elif stream == "custom_message":
            out += self._custom_datetime(each, now)
        return out

    def _needs(self, now: float) -> list[Effect]:
        """Work out anew what the apps together need: microphone, recognition, position."""
        bypass = self.subscriptions.wants_raw_audio or bool(self.settings.get("bypassVad"))
        out = self._mic(self.microphone.need(self.subscriptions.needs_audio, bypass, now), now)
        wish = self.subscriptions.speech
        if wish - self._speech:
            out += self._say_speech(wish | self._speech)
        if self._speech - wish:
            if self._speech_at is None:
                self._speech_at = now + self.timing.speech_linger
        else:
            self._speech_at = None
        out += self._tier(now)
        return out

    def _say_speech(self, languages: frozenset[tuple[str, str | None]]) -> list[Effect]:
        if languages == self._speech:
            return []
        self._speech = languages
        return [SpeechNeeds(languages)]

    def _tier(self, now: float) -> list[Effect]:
        tier = self.subscriptions.location_tier
        if self._glasses is None or tier == self._said_tier:
            return []
        self._said_tier = tier
        return self._to_glasses(to_glasses.SetLocationTier(tier=tier), now)

    def _mic(self, effects: Iterable[SetMicrophone], now: float) -> list[Effect]:
        out: list[Effect] = []
        for wish in effects:
            out += self._to_glasses(
                to_glasses.MicrophoneStateChange(
                    session_id=self.user_id,
                    is_microphone_enabled=wish.on,
                    required_data=["pcm"] if wish.on else [],
                    bypass_vad=wish.bypass_vad,
                ),
                now,
            )
            out.append(Record("microphone", {"on": wish.on}))
        return out

    def _displayed(self, effects: Iterable[displays.Effect], now: float) -> list[Effect]:
        out: list[Effect] = []
        for effect in effects:
            match effect:
                case displays.Show():
                    view, layout, number = effect.view, effect.layout, effect.display_id
                    if self._glasses is not None:  # else they are told anew when they return
                        data = display_event(
                            effect.package, view, layout, effect.duration, str(number), self.clock.iso(now)
                        )
                        key = "display_event:main" if view == "main" else "display_event:dashboard"
                        out += self._link(
                            self.link.send(data, Delivery.LATEST, now=now, key=key),
                            now,
                        )
                    kind = layout.get("layoutType")
                    detail = {"id": number, "view": view, "package": effect.package, "layout": kind}
                    out.append(Record("display", detail))
                case displays.Settled():
                    settled = {
                        "id": effect.display_id,
                        "package": effect.package,
                        "outcome": effect.outcome,
                        "reason": effect.reason,
                        "waited": effect.waited,
                    }
                    out.append(Record("display_settled", settled))
                case _:
                    assert_never(effect)
        return out

    def _dashboard(self, effects: Iterable[dashboards.Effect], now: float) -> list[Effect]:
        out: list[Effect] = []
        for effect in effects:
            match effect:
                case dashboards.Render(layout):
                    out += self._displayed(
                        self.display.request(self._dashboard_package, "dashboard", layout, None, now), now
                    )
                case dashboards.ModeChanged(mode):
                    for each in self._connected_apps():
                        out += self._to_app(
                            each, to_app.DashboardModeChanged(mode=mode, session_id=each.session_id), now
                        )
                case _:
                    assert_never(effect)
        return out

    def _asked(self, effects: Iterable[asks.Effect], now: float) -> list[Effect]:
        out: list[Effect] = []
        for effect in effects:
            match effect:
                case asks.ToGlasses(message):
                    out += self._to_glasses(message, now)
                case asks.ToApp(package, message):
                    each = self._apps.get(package)
                    out += [] if each is None else self._to_app(each, message, now)
                case asks.LocationTo(package, fix):
                    out += self._poll_answer(package, fix, now)
                case asks.PhotoFailed(package, request_id, url, code, text):
                    out.append(PostPhotoFailure(package, url, request_id, code, text))
                case asks.Failed(package, request_id, code, text):
                    each = self._apps.get(package)
                    error = to_app.TpaConnectionError(code=code, message=text, request_id=request_id)
                    out += [] if each is None else self._to_app(each, error, now)
                case _:
                    assert_never(effect)
        return out

    def _poll_answer(self, package: str, fix: dict[str, Any], now: float) -> list[Effect]:
        """A poll's answer goes under `location_update`, which the SDK subscribes to around the poll."""
        each = self._apps.get(package)
        if each is None or not grants(self._permissions(each), "LOCATION"):
            return []
        return self._event_to(each, "location_update", orjson.dumps(fix), now)

    # ================================================================================================ the end

    def end(self, reason: str, now: float) -> list[Effect]:
        """The session is over: unregister first, then tell the apps. What the wearer wants is kept."""
        if self.state in _OVER:
            return []
        self._due_known = False
        self._move(SessionState.DISCONNECTING, reason, now)
        self._detached_at = self._announce_at = self._restore_at = self._load_by = None
        self._early, self._restore = [], []
        out: list[Effect] = [Unregister(reason)]
        if self._speech:
            out += self._say_speech(frozenset())
        for package in self._early_starts:
            out.append(StartSettled(package, False, Stage.CONNECTION, "the session has ended"))
        self._early_starts.clear()
        for each in list(self._apps.values()):
            waiting = self._early_apps.pop(each.info.package, None)
            if waiting is not None:
                out += self._refuse(each.info.package, waiting, now)
            out += self._lifecycle(each, each.life.stop(StopReason.SYSTEM_STOP, now, still_wanted=True), now)
        if self._glasses is not None:
            out.append(CloseGlasses(self._glasses, CloseCode.GOING_AWAY, reason))
            self._glasses = None
        self.link.close(now)
        return out + self._maybe_finished(now)

    def drain(self, now: float) -> list[Effect]:
        """The process ends: everyone is told to come back; nobody is told that it is over."""
        if self.state in _OVER:
            return []
        self._due_known = False
        self._move(SessionState.DISCONNECTING, "the server restarts", now)
        out: list[Effect] = [Unregister("the server restarts")]
        for each in self._apps.values():
            if each.life.connection_id is not None:
                out.append(CloseApp(each.life.connection_id, CloseCode.SERVICE_RESTART, "Server restarting"))
                each.life.connection_id = None
            out.append(CancelSessionRequest(each.info.package, each.life.cycle))
            if each.life.is_starting:
                out.append(StartSettled(each.info.package, False, Stage.CONNECTION, "the server restarts"))
        if self._glasses is not None:
            out.append(CloseGlasses(self._glasses, CloseCode.SERVICE_RESTART, "Server restarting"))
            self._glasses = None
        self.link.close(now)
        self._apps.clear()  # what storage or an app server still answers finds nobody
        self._move(SessionState.DISCONNECTED, "the server restarts", now)
        return [*out, Finished()]

    def fail(self, now: float) -> list[Effect]:
        """A bug of ours was caught at the boundary of this session: end it, keep the process."""
        if self.state in (SessionState.DISCONNECTED, SessionState.ERROR):
            return []
        out: list[Effect] = [Unregister("internal error")]
        for each in self._apps.values():
            if each.life.connection_id is not None:
                out.append(
                    CloseApp(each.life.connection_id, CloseCode.SERVICE_RESTART, "Internal server error")
                )
            out.append(StartSettled(each.info.package, False, Stage.CONNECTION, "internal error"))
            out.append(StopSettled(each.info.package))
        if self._glasses is not None:
            out.append(CloseGlasses(self._glasses, CloseCode.INTERNAL, "Internal server error"))
        self.link.close(now)
        self._apps.clear()
        self._move(SessionState.ERROR, "internal error", now)
        return [*out, Finished()]

    def _maybe_finished(self, now: float) -> list[Effect]:
        if self.state is SessionState.DISCONNECTING and all(
            a.life.state is AppState.DISCONNECTED for a in self._apps.values()
        ):
            self._move(SessionState.DISCONNECTED, self.reason, now)
            return [Finished()]
        return []

    def _move(self, to: SessionState, reason: str, now: float) -> None:
        if to not in TRANSITIONS[self.state]:
            raise InvalidTransition("Session", self.state, to)
        self.state, self.reason, self.since = to, reason, now

    # ================================================================================================ views

    def app_states(self) -> list[dict[str, Any]]:
        """Every app of the session, for consoles and lists."""
        return [
            {
                "package": package,
                "name": each.info.name,
                "state": each.life.state.value,
                "reason": each.life.reason.value,
                "wanted": each.life.wanted,
                "failures": each.life.failures,
                "next_attempt": each.life.next_attempt,
                "last_error": each.life.last_error or each.last_error,
                "connection": each.life.connection_id,
                "subscriptions": list(self.subscriptions.of(package)),
                "replay_dropped": each.log.dropped,
            }
            for package, each in self._apps.items()
        ]

    def lifecycles(self) -> Iterable[AppState]:
        """The state of every app, for gauges."""
        return (each.life.state for each in self._apps.values())

    def app(self, package: str) -> AppLifecycle | None:
        """The life of one app in this session."""
        each = self._apps.get(package)
        return None if each is None else each.life

    def info(self, package: str) -> AppInfo | None:
        """The record of an app of this session."""
        each = self._apps.get(package)
        return None if each is None else each.info

    def session_id_of(self, package: str) -> str | None:
        """The session id that this user's app was given."""
        each = self._apps.get(package)
        return None if each is None else each.session_id


_OVER: Final = frozenset({SessionState.DISCONNECTING, SessionState.DISCONNECTED, SessionState.ERROR})

#: State that a new glasses connection is told by its own machine, so the link need not repeat the old.
_REASSERTED: Final = (
    "microphone_state_change",
    "display_event:main",
    "display_event:dashboard",
    "app_state_change",
    "set_location_tier",
)

#: Events that concern apps only: validated, then passed on as they came.
_RELAYED: Final[Mapping[str, Delivery]] = {
    "button_press": Delivery.RELIABLE,
    "touch_event": Delivery.RELIABLE,
    "phone_battery_update": Delivery.LATEST,
    "dashboard_state": Delivery.LATEST,
    "open_dashboard": Delivery.LATEST,
    "photo_taken": Delivery.RELIABLE,
    "vps_coordinates": Delivery.LOSSY,
    "swipe_volume_status": Delivery.LOSSY,
    "switch_status": Delivery.LOSSY,
}


_PLAIN_PING: Final = b'{"type":"ping"}'
_PLAIN_PONG: Final = b'{"type":"pong"}'


#: Types of the `timestamp` member.
_DATES: Final[tuple[type, ...]] = (int, str, float, type(None))


def _is_text(value: object, longest: int) -> bool:
    return type(value) is str and 0 < len(value) <= longest


def _is_sure_button(p: Mapping[str, Any]) -> bool:
    return (
        _is_text(p.get("buttonId"), 256)
        and _is_text(p.get("pressType"), 32)
        and type(p.get("timestamp")) in _DATES
    )


def _is_sure_touch(p: Mapping[str, Any]) -> bool:
    return (
        _is_text(p.get("gesture_name"), 64)
        and _is_text(p.get("device_model"), 128)
        and type(p.get("timestamp")) in _DATES
    )


#: Events of the hot path that are surely what their model demands; whatever fails here is judged, and refused in words,
#: by the model. A test holds each check against its model.
_SURE: Final[Mapping[str, Callable[[dict[str, Any]], bool]]] = {
    "button_press": _is_sure_button,
    "touch_event": _is_sure_touch,
}

_DISPLAY_MEMBERS: Final = frozenset(
    {"type", "timestamp", "packageName", "sessionId", "view", "layout", "durationMs", "forceDisplay"}
)
#: Layouts of texts only, with the members that the wire requires of them.
_TEXT_LAYOUTS: Final[Mapping[str, tuple[str, ...]]] = {
    "text_wall": ("text",),
    "double_text_wall": ("topText", "bottomText"),
    "reference_card": ("title", "text"),
    "dashboard_card": ("leftText", "rightText"),
}
#: Characters of one text that are surely within the limit of 10,000 bytes of UTF-8.
_SHORT: Final = 2500


def _is_plain_display(payload: Mapping[str, Any], package: str) -> bool:
    """Whether this is a display of short texts that is surely what the models demand, as it stands. Captions are: ten
    and more a second per app. Everything else is judged, completed and refused in words by the models."""
    layout = payload.get("layout")
    if payload.get("type") != "display_event" or type(layout) is not dict:
        return False
    kind, duration = layout.get("layoutType"), payload.get("durationMs")
    if type(kind) is not str or kind not in _TEXT_LAYOUTS or payload.get("packageName", package) != package:
        return False
    for member in _TEXT_LAYOUTS[kind]:
        text = layout.get(member)
        if type(text) is not str or len(text) > _SHORT:
            return False
    return (
        payload.keys() <= _DISPLAY_MEMBERS
        and payload.get("view") in ("main", "dashboard")
        and type(payload.get("forceDisplay", False)) is bool
        and (duration is None or (type(duration) in (int, float) and 0 <= duration <= DURATION_MS_MAX))
        and type(payload.get("timestamp")) in _DATES
        and _is_text(payload.get("sessionId", "-") or "-", 600)
    )


def _announcement(data: bytes) -> glasses.LinkHello | None:
    """The link announcement in a client's first frame, if there is a good one."""
    if b'"link"' not in data:
        return None
    try:
        message = validate(GLASSES_TO_CLOUD, load_object(data))
    except ProtocolError:
        return None
    return message.link if isinstance(message, glasses.ConnectionInit) else None


def _too_many(times: deque[float], now: float, timing: SessionTiming) -> bool:
    times.append(now)
    while times and now - times[0] > timing.bad_window:
        times.popleft()
    return len(times) > timing.bad_frames_max


def _with_type(raw: bytes, payload: Mapping[str, Any], kind: str) -> bytes:
    return raw if payload.get("type") == kind else orjson.dumps({**payload, "type": kind})


def _request_id(payload: Mapping[str, Any]) -> str | None:
    for name in ("requestId", "correlationId", "messageId", "streamId"):
        value = payload.get(name)
        if isinstance(value, str) and value:
            return value[:256]
    return None


def _told(reason: AppReason) -> Any:
    """The word for an app's end (wire spec 3.8)."""
    if reason is AppReason.USER_STOP:
        return "user_disabled"
    return "system_stop"


def _epoch(text: str | int | float | None) -> float | None:
    """A phone's date: ISO text, or epoch milliseconds as text or number. Seconds since 1970."""
    if text is None or isinstance(text, bool):
        return None
    try:
        return float(text) / 1000.0
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


def _from_local(message: glasses.LocalTranscription) -> dict[str, Any]:
    return {
        "type": "transcription",
        "text": message.text,
        "isFinal": message.is_final,
        "transcribeLanguage": message.transcribe_language,
        "startTime": message.start_time or 0,
        "endTime": message.end_time or 0,
        "speakerId": None if message.speaker_id is None else str(message.speaker_id),
        "provider": message.provider or "phone",
    }
