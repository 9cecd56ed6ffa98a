"""All sessions of this process: the shell around the cores, and what the HTTP routes see of it.

Rules: one input, then all its effects, with no `await` in between. Effects that take time become tasks owned by their
session, and come back as inputs. One timer per session. `except Exception` stands around one session: a bug of ours
ends that session, not the process. No decision is made here that a core could make.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, assert_never

from cloud.app_socket import AppSocket, Claim
from cloud.audio_uplink import AudioUplink
from cloud.auth import Identity, RateLimiter, api_key_matches, hash_api_key
from cloud.config import CloudConfig
from cloud.connection import Connection, Frame, text_frame
from cloud.core import effects as fx
from cloud.core.app_lifecycle import AppState, LifecycleTiming, Stage
from cloud.core.capabilities import HardwareRequirement
from cloud.core.clock import WallClock
from cloud.core.display import DisplayTiming
from cloud.core.endpoints import Endpoints, HeldBack
from cloud.core.exchange import Exchanges
from cloud.core.microphone import MicrophoneState
from cloud.core.rooms import Rooms, Send
from cloud.core.session import AppInfo, Session, SessionState, SessionTiming, UserData
from cloud.gate import Gate
from cloud.http.ports import AppOutcome, AppView, Presence, SessionView
from cloud.metrics import Metrics, Tally
from cloud.store.base import StorageLimit, Store, StoreError
from cloud.store.records import AppRecord, Location, SessionRecord
from cloud.turns import Turns
from cloud.webhooks import FormFile, WebhookClient, WebhookError, WebhookResult
from wire.codec import load_object, message_type, validate
from wire.errors import CloseCode, ErrorCode, ProtocolError
from wire.link import split
from wire.liveness import Ask, Dead, Liveness, LivenessPolicy, Speak
from wire.messages import APP_TO_CLOUD, GLASSES_TO_CLOUD, iso
from wire.messages import app_to_cloud as app
from wire.messages.base import Delivery
from wire.messages.cloud_to_app import AudioStreamReady
from wire.messages.glasses_to_cloud import GlassesToCloud
from wire.placement import session_key, with_prefix
from wire.trace import redact

if TYPE_CHECKING:
    from cloud.cluster.cluster import Cluster
    from cloud.cluster.edge_socket import EdgeSocket
    from cloud.cluster.seat import Seat
    from cloud.glasses_socket import GlassesSocket

log = logging.getLogger(__name__)

#: Trace lines kept for the console; at a few events a second that is some minutes.
TRACE_MAX: Final = 2000
#: Connection states kept per session for the console.
HISTORY_MAX: Final = 100
#: Lanes of a session's picture (glasses, microphone, one per app): those that changed longest ago go first.
LANES_MAX: Final = 24
#: Webhooks kept per app for the console, each with its reply up to that size in bytes (SDK replies have about 100).
WEBHOOKS_MAX: Final = 10
WEBHOOK_REPLY_MAX: Final = 4096
#: Liveness of all sockets is looked at this often; the shortest interval that it serves is 10 s.
SWEEP: Final = 1.0
#: A sweep is spread over this many turns of the loop: 6,000 sockets at once would hold up everybody for 30 ms.
SWEEP_PARTS: Final = 20
#: The gauges are brought up to date every so many looks.
PUBLISH_EVERY: Final = 5
#: Seconds before a stop webhook that reached nobody is posted a second and last time.
STOP_RETRY: Final = 1.0
#: Sessions that should have ended are looked for this often, seconds (CON-14).
REAP_EVERY: Final = 20
#: Events that can be sent again from the console, while somebody watches it.
REPLAYABLE_MAX: Final = 200
#: A caller of start or stop waits this long at most: the core's own deadline and some slack (APP-05: budgets nest).
CALLER_PATIENCE: Final = 12.0
#: Chunks of an app's own audio that wait for the phone to fetch them: half a minute of MP3 in 4 kB pieces.
AUDIO_CHUNKS_MAX: Final = 256
AUDIO_STREAMS_MAX: Final = 8  # per session
#: A write that failed is tried again after these pauses, 2 minutes in all: a database that moves to another machine is back
#: within one (PER-03). After that it is an outage, and what was asked for is lost with this process.
SAVE_PAUSES: Final = (0.2, 1.0, 3.0, *(10.0,) * 12)
#: Writes that wait for the store at once, about 2 kB each; more would be a store that is away while thousands come.
SAVES_MAX: Final = 20_000
#: Reading a user from a failing store is tried this often, with growing pauses (PER-03).
LOAD_TRIES: Final = 20
#: SDKs come back by themselves 1 s and 3 s after our own restart (wire spec 3.12).
SDK_RETURN: Final = 3.5
#: Attempts to connect per user: a client with 1 s backoff never meets this limit (CON-13).
CONNECT_RATE: Final = 1.0
CONNECT_BURST: Final = 20.0

#: Keeps a proxy from cutting the silent direction towards an app: an event that no SDK has a handler for.
_APP_NOISE: Final = Frame.text(
    b'{"type":"data_stream","sessionId":"","streamType":"glassbridge_keepalive","data":{}}'
)
_GLASSES_NOISE: Final = Frame.text(b'{"type":"pong"}')
#: To our own edge: connect anew, elsewhere; this connection serves until then.
_MOVE: Final = b'{"type":"glassbridge_move"}'

_LOSSY: Final = Delivery.LOSSY

#: What changes a session enough to be kept against the loss of this node (with every move of an app).
_KEPT: Final = frozenset({"displayed", "display", "microphone", "model", "subscriptions", "state_restored"})
#: Part of the connection, not of what the wearer does.
_NOT_REPLAYED: Final = frozenset(
    {"ping", "pong", "connection_init", "glassbridge_ack", "glassbridge_status", "glassbridge_display_result"}
)

_CODES: Final[Mapping[Stage, ErrorCode]] = {
    Stage.WEBHOOK: ErrorCode.APP_UNREACHABLE,
    Stage.TIMEOUT: ErrorCode.TIMEOUT,
    Stage.AUTHENTICATION: ErrorCode.INVALID_API_KEY,
    Stage.CONNECTION: ErrorCode.GLASSES_DISCONNECTED,
    Stage.HARDWARE: ErrorCode.APP_INCOMPATIBLE,
    Stage.HELD_BACK: ErrorCode.APP_UNREACHABLE,
}


class SpeechFeed(Protocol):
    """Recognition for one session: which languages, and the audio to recognise.

    `waited`: while a final result is handed over, seconds from the end of its words until the provider had it.
    """

    waited: float | None

    def need(self, languages: frozenset[tuple[str, str | None]]) -> None: ...
    def feed(self, pcm: bytes) -> None: ...
    async def close(self) -> None: ...


#: (user id, on result, on voice) -> the feed of that session; `None` results never come.
SpeechFactory = Callable[[str, Callable[[Mapping[str, Any]], None], Callable[[bool], None]], SpeechFeed]


@dataclass(slots=True, eq=False)
class _AudioStream:
    package: str
    content_type: str
    chunks: asyncio.Queue[bytes | None]
    taken: bool = False
    dropped: int = 0


@dataclass(slots=True, eq=False)
class SessionEntry:
    """A session and what the shell keeps for it."""

    session: Session
    seat: Seat | None = None  # in a cluster: by what right this node serves the session
    timer: asyncio.TimerHandle | None = None
    timer_at: float = 0.0  # uvloop's handle of a timer that is due already cannot say when
    audio: AudioUplink = field(default_factory=AudioUplink)
    speech: SpeechFeed | None = None
    typing: tuple[str, int] | None = (
        None  # the typed sentence that is not complete: its id, when it began (ms)
    )
    remote: str | None = None
    token_id: str | None = None
    #: Its place among those whose lossy frames are dropped under overload; even over all sessions.
    slot: float = field(default_factory=random.random)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    posts: dict[tuple[str, int], asyncio.Task[None]] = field(default_factory=dict)
    saves: set[asyncio.Task[None]] = field(default_factory=set)
    starts: dict[str, list[asyncio.Future[AppOutcome]]] = field(default_factory=dict)
    stops: dict[str, list[asyncio.Future[AppOutcome]]] = field(default_factory=dict)
    started_at: dict[str, float] = field(default_factory=dict)
    connected_at: dict[str, float] = field(default_factory=dict)  # wall clock, for presence
    streams: dict[str, _AudioStream] = field(default_factory=dict)
    #: Its last states, at most `HISTORY_MAX`; a list, because most are short and an empty deque takes 760 bytes.
    history: list[dict[str, Any]] = field(default_factory=list)
    exchanges: Exchanges = field(default_factory=Exchanges)
    #: Package -> the last round trip to its socket, seconds: the two ways are at most that.
    round_trips: dict[str, float] = field(default_factory=dict)
    #: Lane -> its states with their times; lanes in the order of their last change.
    lanes: OrderedDict[str, list[dict[str, Any]]] = field(default_factory=OrderedDict)
    registered: bool = True


class _AppsView(Mapping[str, AppInfo]):
    """The store's live app records in the form that the cores read."""

    def __init__(self, records: Callable[[], Mapping[str, AppRecord]]) -> None:
        self._records = records
        self._made: dict[str, tuple[AppRecord, AppInfo]] = {}

    def __getitem__(self, package: str) -> AppInfo:
        record = self._records()[package]
        made = self._made.get(package)
        if made is None or made[0] is not record:
            made = self._made[package] = (record, _app_info(record))
        return made[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records())

    def __len__(self) -> int:
        return len(self._records())


def _app_info(record: AppRecord) -> AppInfo:
    return AppInfo(
        package=record.package_name,
        name=record.name,
        base_url=record.public_url.rstrip("/"),
        kind=record.app_type.value,
        permissions=frozenset(p.type for p in record.permissions),
        hardware=tuple(
            HardwareRequirement(str(h.get("type", "")), h.get("level", "REQUIRED") == "REQUIRED")
            for h in record.hardware_requirements
        ),
        settings=record.settings,
    )


def short(user_id: str) -> str:
    """A user in logs: recognisable within a log, not a name (SEC-03)."""
    return hashlib.sha256(user_id.encode()).hexdigest()[:8]


class Hub:
    """See the module. Implements `cloud.http.ports.Hub`."""

    def __init__(
        self,
        *,
        config: CloudConfig,
        store: Store,
        webhooks: WebhookClient,
        metrics: Metrics,
        websocket_url: Callable[[], str],
        base_url: Callable[[], str],
        speech: SpeechFactory | None = None,
        timing: SessionTiming | None = None,
        returning_users: frozenset[str] = frozenset(),
        adopt_keys: bool = False,
    ) -> None:
        """`returning_users`: those whose sessions the previous process left behind. `adopt_keys`: whatever key an app
        shows becomes its key (`glassbridge dev`, where the developer need not register anything)."""
        self._config = config
        self._store = store
        self._webhooks = webhooks
        self._metrics = metrics
        self._websocket_url = websocket_url
        self._base_url = base_url
        self._speech = speech
        self._timing = timing or _timing(config)
        self._returning = set(returning_users)
        self._adopt_keys = adopt_keys
        self._loop = asyncio.get_running_loop()
        self._epoch_offset = time.time() - self._loop.time()
        self._started_at = self._loop.time()
        self._random = random.Random()
        self._sessions: dict[str, SessionEntry] = {}
        self._ending: set[SessionEntry] = set()
        self._connections: dict[int, Connection] = {}
        self._alive: dict[int, tuple[Liveness, bool]] = {}
        self._counted: dict[int, tuple[int, int]] = {}  # connection -> (sent, received) as counted last
        self._sweeps = 0
        self._replayable: OrderedDict[int, tuple[str, bytes]] = OrderedDict()
        self._apps = _AppsView(lambda: store.apps)
        #: This node's part in a cluster; None: the only process, which owns every session.
        self.cluster: Cluster | None = None
        self._app_sockets: dict[int, AppSocket] = {}
        #: (user, package) of apps that other nodes have connected -> the node and since when (wall clock, seconds).
        self._elsewhere: dict[tuple[str, str], tuple[str, float]] = {}
        self._endpoints = Endpoints()
        self._looking: set[str] = set()  # endpoints that are away and looked at
        self._rooms = Rooms()
        #: (number, wall clock, user, kind, detail); made presentable, and private members hidden, only when read
        self._trace: deque[tuple[int, float, str, str, Mapping[str, Any]]] = deque(maxlen=TRACE_MAX)
        self._trace_seq = 0
        self._watched_until = float("inf") if config.profile == "dev" else 0.0
        self._webhook_log: dict[str, deque[dict[str, Any]]] = {}
        self._webhook_id = 0
        #: Called each time the gauges were brought up to date, for those who keep samples of them.
        self.on_published: Callable[[], None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_save: dict[str, asyncio.Task[None]] = {}
        self._saves_waiting = 0
        self._frames = 0  # handled by connections, in and out, without what was shed
        self.gate = Gate(config.admission, metrics, lambda: self._frames)
        self._draining = False
        self.turns = Turns()
        self._connects = RateLimiter(CONNECT_RATE, CONNECT_BURST)
        self._sweeper: asyncio.TimerHandle | None = self._loop.call_later(SWEEP / SWEEP_PARTS, self._sweep)
        self._delivered = metrics.counter("events_delivered_total")
        self._messages_in = metrics.counter("messages_total").labels(direction="in")
        self._messages_out = metrics.counter("messages_total").labels(direction="out")
        self._audio_frames = metrics.counter("audio_frames_total")
        # Counted as plain numbers on the event path and carried over before each scrape: a counter has a lock.
        self._events_delivered = 0
        self._audio_received = 0
        self._sent = self._received = 0
        displays = metrics.counter("display_updates_total")
        self._display_updates = {
            outcome: displays.labels(outcome=outcome)
            for outcome in ("shown", "replaced", "expired", "refused")
        }
        self._displays_settled = dict.fromkeys(self._display_updates, 0)
        self._errors = metrics.counter("errors_total")
        self._hops = metrics.histogram("hop_seconds")
        self._display_hop = Tally(self._hops.labels(hop="cloud_display"))
        #: Members of trace records (milliseconds) -> the hop that they measure.
        self._hop_of = {
            name: self._hops.labels(hop=hop)
            for name, hop in (
                ("audio_ms", "mic_to_edge"),
                ("uplink_ms", "edge_to_cloud"),
                ("downlink_ms", "cloud_to_edge"),
                ("edge_ms", "edge"),
                ("ble_ms", "ble"),
            )
        }
        self._app_hop = self._hops.labels(hop="app")
        self._round_trip = self._hops.labels(hop="app_round_trip")
        self._provider_hop = self._hops.labels(hop="provider")
        self._pinged: dict[int, float] = {}  # connection -> when the oldest ping left whose pong is not here

    # ================================================================================================ one input

    def feed(self, entry: SessionEntry, method: Callable[..., list[fx.Effect]], *args: Any) -> None:
        """Give one input to a session and perform all its effects. Never raises, never blocks."""
        now = self._loop.time()
        try:
            self._perform(entry, method(*args, now), now)
        except Exception:
            self._failed(entry, now)
        self._arm(entry)

    def _arm(self, entry: SessionEntry) -> None:
        """See to it that the session is woken at its deadline; one that moved later wakes it early, which is nothing."""
        agenda = entry.session.agenda
        if agenda.steady:
            agenda.steady = False
            return
        due = entry.session.deadline
        timer = entry.timer
        if due is not None and (timer is None or due < entry.timer_at):
            if timer is not None:
                timer.cancel()
            entry.timer, entry.timer_at = self._loop.call_at(due, self._tick, entry), due

    def _tick(self, entry: SessionEntry) -> None:
        entry.timer = None
        self.turns.do(partial(self.feed, entry, entry.session.handle_deadline))

    def _failed(self, entry: SessionEntry, now: float) -> None:
        log.exception("session of user %s failed", short(entry.session.user_id))
        self._errors.labels(where="session").inc()
        try:
            self._perform(entry, entry.session.fail(now), now)
        except Exception:  # the end itself must not fail: what is left is cut
            log.exception("ending the failed session of user %s", short(entry.session.user_id))
            self._unregister(entry)
            self._finish(entry)

    def _perform(self, entry: SessionEntry, effects: list[fx.Effect], now: float) -> None:
        connections = self._connections
        for effect in effects:
            match effect:
                # The frequent ones first and without captures: a pattern that binds five names costs 0.3 µs more.
                case fx.SendToApps():
                    if effect.delivery is _LOSSY and self.gate.sheds(entry.slot):
                        continue
                    data = text_frame(effect.payload)
                    ids = effect.connection_ids
                    for connection_id in ids:
                        target = connections.get(connection_id)
                        if target is None:
                            if self.cluster is not None:
                                self.cluster.send_to_app(connection_id, effect)
                        elif not target.put(data):
                            target.send(Frame.text(effect.payload), effect.delivery, effect.key)
                    self._events_delivered += len(ids)
                    if now < self._watched_until:
                        size = len(effect.payload)
                        self._note(entry, "to_app", {"about": effect.about, "apps": len(ids), "bytes": size})
                case fx.SendAudio():
                    frame = Frame.binary(effect.pcm)
                    for connection_id in effect.connection_ids:
                        target = connections.get(connection_id)
                        if target is None:
                            if self.cluster is not None:
                                self.cluster.send_audio(connection_id, effect.pcm)
                        elif not target.put(frame.data):
                            target.send(frame, Delivery.LOSSY)
                case fx.SendToGlasses():
                    target = connections.get(effect.connection_id)
                    if target is not None and not target.put(text_frame(effect.payload)):
                        target.send(Frame.text(effect.payload), effect.delivery, effect.key)
                case fx.Record():
                    self._recorded(entry, effect.kind, effect.detail, now)
                case fx.PingApp():
                    target = connections.get(effect.connection_id)
                    if target is not None:
                        target.ping(effect.payload)
                        self._pinged.setdefault(effect.connection_id, now)
                    elif self.cluster is not None:
                        self.cluster.ping_app(effect.connection_id, effect.payload)
                case fx.CloseGlasses(connection_id, code, reason) | fx.CloseApp(connection_id, code, reason):
                    target = connections.get(connection_id)
                    if target is not None:
                        target.close(code, reason)
                    elif self.cluster is not None:
                        self.cluster.close_app(connection_id, code, reason)
                case fx.AppMoved():
                    self._app_moved(entry, effect, now)
                case fx.LoadUser():
                    self._spawn(entry, self._load_user(entry))
                case fx.LoadApp(package, cycle):
                    self._spawn(entry, self._load_app(entry, package, cycle))
                case fx.PostSessionRequest():
                    self._post_session_request(entry, effect, now)
                case fx.CancelSessionRequest(package, cycle):
                    task = entry.posts.pop((package, cycle), None)
                    if task is not None:
                        task.cancel()
                case fx.PostStopRequest():
                    self._spawn(entry, self._post_stop(entry, effect))
                case fx.PostPhotoFailure():
                    self._spawn(entry, self._post_photo_failure(effect))
                case fx.SaveWanted(package, wanted):
                    user_id = entry.session.user_id
                    self._save(entry, "set_wanted", partial(self._store.set_wanted, user_id, package, wanted))
                case fx.SaveSettings(changes):
                    user_id = entry.session.user_id
                    self._save(
                        entry,
                        "update_user_settings",
                        partial(self._store.update_user_settings, user_id, changes),
                    )
                case fx.SaveLocation(lat, lng, accuracy):
                    location = Location(lat, lng, accuracy, time.time())
                    user_id = entry.session.user_id
                    self._save(entry, "put_location", partial(self._store.put_location, user_id, location))
                case fx.StartSettled():
                    self._start_settled(entry, effect, now)
                case fx.StopSettled(package):
                    for waiter in entry.stops.pop(package, []):
                        if not waiter.done():
                            waiter.set_result(AppOutcome())
                case fx.EndpointVerdict(url, ok):
                    if not ok:
                        self._endpoints.failed(url, now)
                        if url not in self._looking and self._endpoints.is_away(url, now):
                            self._looking.add(url)
                            self.own(self._look(url))
                    elif self._endpoints.succeeded(url, now):
                        self.own(self._bring_back(self._waiting_for(url)))
                case fx.Presence(package, session_id, present):
                    self._presence(entry, package, session_id, present)
                case fx.ToOtherUsers(package, message):
                    self._to_other_users(entry, package, message)
                case fx.SpeechNeeds(languages):
                    self._speech_needs(entry, languages)
                case fx.AudioStreamOpened():
                    self._audio_opened(entry, effect)
                case fx.AudioStreamEnded(package, stream_id):
                    self._audio_ended(entry, package, stream_id)
                case fx.Unregister(reason):
                    self._unregister(entry)
                    self._note(entry, "session_ended", {"reason": reason})
                case fx.Finished():
                    self._finish(entry)
                case _:
                    assert_never(effect)

    # ================================================================================================ sessions

    def _create(
        self,
        user_id: str,
        *,
        with_glasses: bool,
        seat: Seat | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> SessionEntry:
        """`seat`: of a node in a cluster, which owns the session. `state`: what another node has made of it."""
        now = self._loop.time()
        timing = self._timing
        if user_id in self._returning:
            self._returning.discard(user_id)
            left = self._started_at + SDK_RETURN - now
            if left > 0:
                timing = _with_restore_delay(timing, left)
        session = Session(
            user_id,
            apps=self._apps,
            websocket_url=self._app_url(user_id),
            random=self._random.random,
            new_id=lambda: secrets.token_urlsafe(16),
            clock=WallClock(self._epoch_offset, _local_utc_offset()),
            now=now,
            timing=timing,
            apps_max=self._config.sessions.apps_per_session_max,
            named=seat is not None,
        )
        entry = SessionEntry(session, seat=seat)
        self._sessions[user_id] = entry
        if self._speech is not None:
            entry.speech = self._speech(
                user_id,
                lambda event: self._heard(entry, event),
                lambda speaking: self.feed(entry, session.voice, speaking),
            )
        if seat is not None:
            seat.entry = entry
            if state is not None:
                self.feed(entry, session.restore, state)
            seat.dirty()
        else:
            record = SessionRecord(user_id, user_id, session.link.epoch, time.time())
            self._save(entry, "put_session", lambda: self._store.put_session(record))
        if with_glasses:
            self._save(entry, "ensure_user", lambda: self._store.ensure_user(user_id))
        self.feed(entry, lambda at: session.start(at, with_glasses=with_glasses))
        return entry

    def _app_url(self, user_id: str) -> str:
        """Where this user's apps connect. Among several nodes the address says which one is nearest to the session."""
        url = self._websocket_url()
        return url if self.cluster is None else with_prefix(url, session_key(user_id))

    def _heard(self, entry: SessionEntry, event: Mapping[str, Any]) -> None:
        """A result of recognition; the time of the final one is a hop."""
        waited = entry.speech.waited if entry.speech is not None else None
        if event.get("isFinal") and event.get("type") == "transcription":
            if waited is not None:
                self._provider_hop.observe(waited)
            self._note(
                entry,
                "transcript",
                {
                    "language": event.get("transcribeLanguage"),
                    "provider": event.get("provider"),
                    "provider_ms": None if waited is None else round(waited * 1000, 1),
                    "audio_ms": (entry.session.hops.edge_clock or {}).get("audio_ms"),
                    "rtt_ms": (entry.session.hops.edge_clock or {}).get("rtt_ms"),
                },
            )
        self.feed(entry, entry.session.speech, event)

    def _is_young(self) -> bool:
        """Whether sessions of the previous process may still be picked up: as long as their grace would last."""
        return self._loop.time() - self._started_at < self._timing.grace

    def _unregister(self, entry: SessionEntry) -> None:
        """Compare-and-delete: only this very session, never its successor (CON-08)."""
        user_id = entry.session.user_id
        if self._sessions.get(user_id) is entry:
            del self._sessions[user_id]
        if entry.registered:
            entry.registered = False
            self._ending.add(entry)
            if entry.seat is not None:
                entry.seat.end()
            elif not self._draining and user_id not in self._sessions:
                self._save(entry, "delete_session", lambda: self._store.delete_session(user_id))
        self._history(entry)

    def _finish(self, entry: SessionEntry) -> None:
        """Let go of everything that the session held."""
        self._ending.discard(entry)
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        gone = AppOutcome(ErrorCode.NO_ACTIVE_SESSION, "the session has ended")
        for waiters in (*entry.starts.values(), *entry.stops.values()):
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(gone)
        entry.starts.clear()
        entry.stops.clear()
        for stream in entry.streams.values():
            _end_stream(stream)
        entry.streams.clear()
        for post in entry.posts.values():
            post.cancel()
        entry.posts.clear()
        if entry.speech is not None:
            speech, entry.speech = entry.speech, None
            self.own(speech.close())

    def _history(self, entry: SessionEntry) -> None:
        session = entry.session
        last = entry.history[-1] if entry.history else None
        if last is None or last["state"] != session.state.value:
            entry.history.append({"state": session.state.value, "reason": session.reason, "at": time.time()})
            del entry.history[:-HISTORY_MAX]
            self._lane(entry, "glasses", session.state.value, session.reason)

    def _lane(self, entry: SessionEntry, lane: str, state: str, reason: str | None) -> None:
        """One more state in a session's picture over time; a repetition is none."""
        states = entry.lanes.get(lane)
        if states is None:
            while len(entry.lanes) >= LANES_MAX:
                entry.lanes.popitem(last=False)
            states = entry.lanes[lane] = []
        if not states or states[-1]["state"] != state or states[-1]["reason"] != reason:
            states.append({"state": state, "reason": reason, "at": time.time()})
            del states[:-HISTORY_MAX]
            entry.lanes.move_to_end(lane)

    # ------------------------------------------------------------------------------------------------ tasks

    def _spawn(self, entry: SessionEntry, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that belongs to a session; its failure is logged and counted, never lost (PRO-07)."""
        task = self.own(work)
        entry.tasks.add(task)
        task.add_done_callback(entry.tasks.discard)
        return task

    def own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that ends with the hub; its failure is logged and counted."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._errors.labels(where="task").inc()
            log.error("a background task failed", exc_info=task.exception())

    def _save(self, entry: SessionEntry, what: str, write: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        user_id = entry.session.user_id
        if self._saves_waiting >= SAVES_MAX:
            self._metrics.counter("store_failures_total").labels(operation=what).inc()
            return
        self._saves_waiting += 1
        task = self._last_save[user_id] = self.own(self._write(what, write, self._last_save.get(user_id)))
        entry.saves.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._saves_waiting -= 1
            entry.saves.discard(task)
            if self._last_save.get(user_id) is task:
                del self._last_save[user_id]

        task.add_done_callback(done)

    async def _write(
        self, what: str, write: Callable[[], Coroutine[Any, Any, Any]], before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:  # in order: what a user asked for last is what stays
            await asyncio.wait((before,))
        for pause in (*SAVE_PAUSES, None):
            try:
                await write()
                return
            except StorageLimit as error:
                log.warning("storage: %s was refused: %s", what, error)
                return
            except StoreError:
                self._metrics.counter("store_failures_total").labels(operation=what).inc()
                if pause is None:
                    log.warning("storage: %s failed for good", what)
                    return
                await asyncio.sleep(pause)

    async def _load_user(self, entry: SessionEntry) -> None:
        user_id = entry.session.user_id
        for attempt in range(LOAD_TRIES):
            try:
                # One after the other: a connect costs three reads, however many users come back at once (PRO-04).
                settings = await self._store.get_user_settings(user_id)
                wanted = await self._store.get_wanted_apps(user_id)
                location = await self._store.get_location(user_id)
                break
            except StoreError:
                self._metrics.counter("store_failures_total").labels(operation="load_user").inc()
                await asyncio.sleep(min(10.0, 0.2 * 2**attempt))
                if not entry.registered:
                    return
        else:
            log.error("storage: the data of user %s could not be read", short(user_id))
            return
        system = [p for p, i in self._apps.items() if i.kind == "system_dashboard" and p not in wanted]
        fix = None
        if location is not None:
            fix = {"type": "location_update", "lat": location.lat, "lng": location.lng}
            if location.accuracy is not None:
                fix["accuracy"] = location.accuracy
        self.feed(entry, entry.session.user_loaded, UserData(settings, (*wanted, *system), fix))

    async def _load_app(self, entry: SessionEntry, package: str, cycle: int) -> None:
        values: dict[str, Any] | None = None
        try:
            values = await self._store.get_app_settings(entry.session.user_id, package)
        except StoreError:
            self._metrics.counter("store_failures_total").labels(operation="get_app_settings").inc()
        self.feed(entry, entry.session.app_loaded, package, cycle, values)

    # ------------------------------------------------------------------------------------------------ webhooks

    def _post_session_request(self, entry: SessionEntry, request: fx.PostSessionRequest, now: float) -> None:
        entry.started_at.setdefault(request.package, now)
        verdict = self._endpoints.ask(request.base_url, now, by_user=request.by_user)
        if isinstance(verdict, HeldBack):
            task = self._spawn(entry, self._held_back(entry, request, verdict.retry_after))
        else:
            task = self._spawn(entry, self._ask_app(entry, request, verdict.delay))
        entry.posts[request.package, request.cycle] = task

    async def _held_back(
        self, entry: SessionEntry, request: fx.PostSessionRequest, retry_after: float
    ) -> None:
        self._webhook_answered(
            entry, request, ok=False, message="the app's server does not answer", retry_after=retry_after
        )

    async def _ask_app(self, entry: SessionEntry, request: fx.PostSessionRequest, delay: float) -> None:
        if delay > 0:
            await asyncio.sleep(delay)
        result = await self._post(
            request.base_url + "/webhook",
            request.package,
            request.body,
            request.timeout,
            0.0 if request.by_user else self._endpoints.pause,
        )
        self._metrics.histogram("webhook_seconds").labels(kind="session_request").observe(result.duration)
        self._keep_webhook(request.package, request.body, result)
        self._note(
            entry,
            "webhook",
            {
                "package": request.package,
                "type": "session_request",
                "status": result.status,
                "error": result.error,
                "ms": round(result.duration * 1000),
            },
        )
        # The SDK answers 500 with this body when its onSession threw or its own connect failed (wire spec 4.1).
        refused = result.status == 500 and (result.body or {}).get("status") == "error"
        self._webhook_answered(entry, request, ok=result.ok, message=_why(result), from_app=refused)

    def _webhook_answered(
        self,
        entry: SessionEntry,
        request: fx.PostSessionRequest,
        *,
        ok: bool,
        message: str,
        from_app: bool = False,
        retry_after: float = 0.0,
    ) -> None:
        session = entry.session
        entry.posts.pop((request.package, request.cycle), None)
        if not ok:
            self._metrics.counter("webhook_failures_total").labels(error=message.split(":")[0]).inc()
        self.feed(
            entry,
            lambda now: session.webhook_answered(
                request.package,
                request.cycle,
                now,
                ok=ok,
                message=message,
                from_app=from_app,
                retry_after=retry_after,
            ),
        )

    async def _post(
        self, url: str, package: str, body: Mapping[str, Any], timeout: float, pause: float = 0.0
    ) -> WebhookResult:
        record = self._store.apps.get(package)
        key = record.hashed_api_key if record else None
        return await self._webhooks.post(url, body, timeout=timeout, signing_key=key, pause=pause)

    def _keep_webhook(
        self, package: str, body: Mapping[str, Any], result: WebhookResult, *, replayed: bool = False
    ) -> dict[str, Any]:
        """Remember a webhook and its reply for the console; the body holds no key and no content of the user."""
        reply = result.body
        if reply is not None and len(str(reply)) > WEBHOOK_REPLY_MAX:
            reply = {"note": f"a reply of over {WEBHOOK_REPLY_MAX} characters is not kept"}
        self._webhook_id += 1
        record = {
            "id": self._webhook_id,
            "at": time.time(),
            "user": body.get("userId"),
            "request": dict(body),
            "ok": result.ok,
            "status": result.status,
            "error": result.error,
            "reply": reply,
            "ms": round(result.duration * 1000, 1),
            "replayed": replayed,
        }
        self._webhook_log.setdefault(package, deque(maxlen=WEBHOOKS_MAX)).append(record)
        return record

    def webhooks_of(self, package_name: str) -> Sequence[dict[str, Any]]:
        """The last webhooks to this app with their replies, oldest first."""
        return list(self._webhook_log.get(package_name, ()))

    async def replay_webhook(self, package_name: str, number: int) -> Mapping[str, Any] | None:
        """Send a kept webhook once more to where the app is now; its new record, or None if it is no longer kept."""
        kept = next((one for one in self.webhooks_of(package_name) if one["id"] == number), None)
        record = self._store.apps.get(package_name)
        if kept is None or record is None:
            return None
        entry = self._sessions.get(str(kept["user"]))
        if kept["request"].get("type") == "session_request" and entry is not None:
            life = entry.session.app(package_name)
            if life is None or not life.is_running:
                # An app that nobody expects would be turned away when it connects: it is started, by the same request.
                before, user_id = self._webhook_id, entry.session.user_id
                await self.start_app(user_id, package_name)
                # The app is started when its socket is here; its reply to the webhook may come later.
                end = self._loop.time() + self._timing.lifecycle.webhook
                while self._loop.time() < end:
                    for newer in self.webhooks_of(package_name):
                        if newer["id"] > before and newer["user"] == user_id:
                            newer["replayed"] = True
                            return newer
                    await asyncio.sleep(0.02)
        url = record.public_url.rstrip("/") + "/webhook"
        result = await self._post(url, package_name, kept["request"], self._timing.lifecycle.webhook)
        return self._keep_webhook(package_name, kept["request"], result, replayed=True)

    async def _post_stop(self, entry: SessionEntry, request: fx.PostStopRequest) -> None:
        url = request.base_url + "/webhook"
        result = await self._post(url, request.package, request.body, request.timeout)
        if result.error in (WebhookError.CONNECT, WebhookError.LOST):  # nobody was there; once more (APP-06)
            await asyncio.sleep(STOP_RETRY)
            result = await self._post(url, request.package, request.body, request.timeout)
        self._metrics.histogram("webhook_seconds").labels(kind="stop_request").observe(result.duration)
        self._keep_webhook(request.package, request.body, result)
        self._note(
            entry,
            "webhook",
            {
                "package": request.package,
                "type": "stop_request",
                "status": result.status,
                "error": result.error,
                "ms": round(result.duration * 1000),
            },
        )
        self.feed(entry, entry.session.stop_answered, request.package, request.cycle)

    async def _post_photo_failure(self, request: fx.PostPhotoFailure) -> None:
        fields = {
            "requestId": request.request_id,
            "type": "photo_error",
            "success": "false",
            "errorCode": request.code,
            "errorMessage": request.message,
        }
        await self._webhooks.post_form(request.url, fields, timeout=10.0)

    # ================================================================================================ sockets

    def watch(self, connection: Connection, policy: LivenessPolicy, *, is_app: bool) -> None:
        """A socket is open: from now on its liveness is ours."""
        self._connections[connection.id] = connection
        self._alive[connection.id] = (Liveness(connection.id, policy, self._loop.time()), is_app)
        self._metrics.counter("connects_total").labels(kind="app" if is_app else "glasses").inc()

    def peer_asked(self, connection_id: int) -> None:
        """The peer sent a ping of its own."""
        alive = self._alive.get(connection_id)
        if alive is not None:
            alive[0].peer_asked(self._loop.time())

    def _sweep(self) -> None:
        now = self._loop.time()
        self._sweeper = self._loop.call_later(SWEEP / SWEEP_PARTS, self._sweep)
        self._sweeps += 1
        if self._sweeps % (PUBLISH_EVERY * SWEEP_PARTS) == 0:
            self.publish()
        if self._sweeps % (REAP_EVERY * SWEEP_PARTS) == 0:
            self._reap(now)
        part = self._sweeps % SWEEP_PARTS
        for connection_id in [i for i in self._alive if i % SWEEP_PARTS == part]:
            alive, is_app = self._alive[connection_id]
            connection = self._connections[connection_id]
            if connection.last_inbound_at > alive.heard_at:
                alive.received(connection.last_inbound_at)
            if self._count(connection):
                alive.sent(now)
            for effect in alive.handle_deadline(now):
                match effect:
                    case Ask():
                        connection.ping()
                        if is_app:
                            self._pinged.setdefault(connection_id, now)
                    case Speak():
                        connection.send(_APP_NOISE if is_app else _GLASSES_NOISE, Delivery.LOSSY)
                        self._count(connection)
                    case Dead(_, silent):
                        log.info("connection %d is dead: silent for %.0f s", connection_id, silent)
                        connection.close(CloseCode.GOING_AWAY, "Ping timeout - no pong received")
                        connection.abort()
                    case _:
                        assert_never(effect)

    def _reap(self, now: float) -> None:
        """The second line behind every session's own timer: one that is overdue is ended, and told as the bug it is."""
        for entry in [*self._sessions.values(), *self._ending]:
            if entry.session.is_overdue(now):
                log.error("session of user %s is overdue", short(entry.session.user_id))
                self._errors.labels(where="overdue_session").inc()
                self.feed(entry, entry.session.fail)

    def _count(self, connection: Connection) -> bool:
        """Carry a connection's own totals over to the metrics; True if something was sent since the last time."""
        sent, received = self._counted.get(connection.id, (0, 0))
        self._counted[connection.id] = (connection.sent, connection.received)
        self._frames += connection.sent - sent + connection.received - received
        self._sent += connection.sent - sent
        self._received += connection.received - received
        return connection.sent != sent

    def _forget_connection(self, connection: Connection, kind: str, code: int) -> None:
        self._connections.pop(connection.id, None)
        self._pinged.pop(connection.id, None)
        self._alive.pop(connection.id, None)
        self._count(connection)
        del self._counted[connection.id]
        label = str(code) if 1000 <= code <= 1015 or code == CloseCode.REPLACED else "other"
        self._metrics.counter("disconnects_total").labels(kind=kind, code=label).inc()

    def admission(self, user_id: str) -> tuple[int, ErrorCode, float] | None:
        """Why this user may not connect now: HTTP status, code and seconds to wait; None = welcome."""
        if self._draining:
            return 503, ErrorCode.DRAINING, 5.0
        if user_id not in self._sessions and (pause := self.gate.ask(self._loop.time())):
            return 503, ErrorCode.OVERLOADED, pause
        wait = self._connects.retry_after(user_id, self._loop.time())
        if wait > 0:
            self._metrics.counter("rate_limited_total").labels(kind="connect").inc()
            return 429, ErrorCode.RATE_LIMITED, wait
        return None

    def glasses_opened(
        self, connection: Connection, identity: Identity, socket: GlassesSocket
    ) -> SessionEntry | None:
        """An authenticated glasses client is here. None: closed, or it waits until this node owns its session."""
        if self._draining:
            connection.close(CloseCode.SERVICE_RESTART, "Server restarting")
            return None
        entry = self._sessions.get(identity.user_id)
        if entry is None and self.cluster is not None:
            self.cluster.claim(identity.user_id, connection, identity, socket)
            return None
        if entry is None:
            entry = self._create(identity.user_id, with_glasses=True)
        elif entry.session.state is SessionState.DETACHED:
            self._metrics.counter("reconnects_total").labels(kind="glasses").inc()
            self._metrics.counter("grace_total").labels(kind="glasses", outcome="returned").inc()
        if entry.seat is not None and self.cluster is not None:
            self.cluster.returned(entry.seat)
        self._attach(entry, connection, identity)
        return entry

    def _attach(self, entry: SessionEntry, connection: Connection, identity: Identity) -> None:
        entry.remote, entry.token_id = connection.remote, identity.token_id
        entry.audio.reset()
        self.feed(entry, entry.session.glasses_connected, connection.id)
        self._history(entry)

    def glasses_closed(
        self, entry: SessionEntry | None, identity: Identity, connection: Connection, code: int
    ) -> None:
        self._forget_connection(connection, "glasses", code)
        if entry is None and self.cluster is not None:
            self.cluster.forsaken(identity.user_id, connection)
        if entry is not None:
            self.feed(entry, entry.session.glasses_lost, connection.id)
            self._history(entry)

    def glasses_text(self, entry: SessionEntry, connection_id: int, data: bytes) -> None:
        """A text frame of a glasses client: `feed`, with one call less."""
        now = self._loop.time()
        if now < self._watched_until:
            self._keep_for_replay(entry, data)
        try:
            self._perform(entry, entry.session.glasses_text(connection_id, data, now), now)
            if entry.seat is not None and (entry.seat.remotes or entry.seat.expects):
                entry.seat.settle()
        except Exception:
            self._failed(entry, now)
        self._arm(entry)

    def _keep_for_replay(self, entry: SessionEntry, data: bytes) -> None:
        try:
            payload = load_object(split(data)[0])
            kind = message_type(payload)
        except ProtocolError:
            return
        if kind in _NOT_REPLAYED or kind not in GLASSES_TO_CLOUD:
            return
        hops, stamp = entry.session.hops, payload.get("timestamp")
        way = hops.way_here(stamp, self._loop.time())
        self._note(
            entry,
            "from_glasses",
            {
                "about": kind,
                "bytes": len(data),
                "sent_at": hops.sent_at(stamp),
                "uplink_ms": None if way is None else round(way * 1000, 2),
            },
        )
        self._replayable[self._trace_seq] = (entry.session.user_id, data)
        while len(self._replayable) > REPLAYABLE_MAX:
            self._replayable.popitem(last=False)

    def replay(self, seq: int) -> bool:
        """Send the event of this trace record (`from_glasses`) through its session once more; False if it is gone."""
        user_id, data = self._replayable.get(seq, ("", b""))
        entry = self._sessions.get(user_id)
        if entry is None:
            return False
        message = validate(GLASSES_TO_CLOUD, load_object(split(data)[0]))
        if message is None:
            return False
        self.feed(entry, entry.session.phone_message, message)
        return True

    def glasses_audio(self, entry: SessionEntry, connection_id: int, data: bytes) -> None:
        """A binary frame of a glasses client: decoded once, whoever listens."""
        session = entry.session
        if session.glasses_connection != connection_id:
            return
        if self.gate.share and self.gate.sheds(entry.slot):
            self._frames -= 1
            return
        self._audio_received += 1
        audio = entry.audio
        gaps, lost = audio.gaps, audio.lost
        pcm = audio.decode(data, self._loop.time())
        if audio.gaps != gaps:
            self._metrics.counter("audio_gaps_total").inc(audio.gaps - gaps)
            self._metrics.counter("audio_lost_seconds_total").inc(audio.lost - lost)
        if entry.speech is not None and session.microphone.is_wanted and pcm:
            entry.speech.feed(pcm)
        self.feed(entry, session.glasses_audio, connection_id, pcm)

    def app_opened(
        self, socket: AppSocket, connection: Connection, claim: Claim
    ) -> SessionEntry | tuple[EdgeSocket]:
        """Prove who an app socket is: an app of a session here, or (in a tuple) of one elsewhere. Raises ProtocolError with the words
        that it is told."""
        record = self._store.apps.get(claim.package)
        user_id = _claimed_user(claim)
        entry = self._sessions.get(user_id)
        if self._adopt_keys and record is not None and entry is not None:
            record = self._adopted(entry, record, claim.api_key)
        if record is None or not api_key_matches(claim.api_key, record.hashed_api_key):
            if entry is not None:
                entry.session.app_wrong_key(claim.package)
            raise ProtocolError(ErrorCode.INVALID_API_KEY, "Invalid API key")
        if self._draining:
            raise ProtocolError(ErrorCode.DRAINING, "the server is restarting")
        self._app_sockets[connection.id] = socket
        if entry is None:
            if self.cluster is not None:
                return (self.cluster.adopt(socket, connection, user_id, claim.package),)
            if self.gate.trouble is not None:
                raise ProtocolError(ErrorCode.OVERLOADED, "the server is overloaded")
            if user_id not in self._returning or not self._is_young():
                raise ProtocolError(ErrorCode.SESSION_NOT_FOUND, "Session not found")
            # The previous process left this user's session behind, and his app is back before his glasses.
            entry = self._create(user_id, with_glasses=False)
        return entry

    def app_pong(self, entry: SessionEntry, package: str, connection_id: int, payload: bytes) -> None:
        """An app's WebSocket library has answered a ping: there and back, and proof of what was sent before."""
        asked = self._pinged.pop(connection_id, None)
        if asked is not None:
            seconds = self._loop.time() - asked
            entry.round_trips[package] = seconds
            self._round_trip.observe(seconds)
        if payload:
            self.feed(entry, entry.session.app_pong, package, connection_id, payload)

    def _adopted(self, entry: SessionEntry, record: AppRecord, key: str) -> AppRecord:
        if api_key_matches(key, record.hashed_api_key):
            return record
        record = replace(record, hashed_api_key=hash_api_key(key))
        self._spawn(entry, self._store_record(record))
        return record

    async def _store_record(self, record: AppRecord) -> None:
        try:
            await self._store.put_app(record)
        except StoreError:
            self._metrics.counter("store_failures_total").labels(operation="put_app").inc()

    def app_text(self, entry: SessionEntry, package: str, connection_id: int, data: bytes) -> None:
        """A text frame of an app that has proven who it is: `feed`, with one call less."""
        now = self._loop.time()
        try:
            self._perform(entry, entry.session.app_text(package, connection_id, data, now), now)
        except Exception:
            self._failed(entry, now)
        self._arm(entry)

    def app_closed(self, entry: SessionEntry | None, package: str, connection: Connection, code: int) -> None:
        self._forget_connection(connection, "app", code)
        self._app_sockets.pop(connection.id, None)
        if entry is not None:
            self.feed(entry, entry.session.app_lost, package, connection.id)

    def refused(self, code: ErrorCode) -> None:
        """For the metrics: an app socket was turned away."""
        self._metrics.counter("refused_total").labels(kind="app", code=code.value).inc()

    def timestamp(self) -> str:
        return iso(time.time())

    # ================================================================================================ other nodes

    def connection(self, connection_id: int | None) -> Connection | None:
        """An open socket of this node."""
        return None if connection_id is None else self._connections.get(connection_id)

    def seat_taken(
        self,
        seat: Seat,
        state: Mapping[str, Any] | None,
        waiting: tuple[Connection, Identity, GlassesSocket] | None,
    ) -> None:
        """This node owns a session: it begins here with what it was, and then with the glasses that wait for it."""
        entry = self._create(seat.user_id, with_glasses=waiting is not None, seat=seat, state=state)
        if state is not None:
            seat.expect()
        if waiting is not None and self._sessions.get(seat.user_id) is entry:
            connection, identity, socket = waiting
            self._attach(entry, connection, identity)
            socket.adopt(entry)

    def seat_lost(self, entry: SessionEntry, code: int, reason: str) -> None:
        """Another node owns this session: it ends here. The apps' sockets stay open and go on with its new owner."""
        session, cluster = entry.session, self.cluster
        assert cluster is not None
        sockets = []
        for state in session.app_states():
            socket = self._app_sockets.get(state["connection"]) if state["connection"] is not None else None
            if socket is not None:
                package = state["package"]
                said = session.said(package)
                sockets.append((package, self._connections[state["connection"]], socket, said))
        seen = session.marks()
        self.feed(entry, session.leave, code, reason)
        for package, connection, socket, said in sockets:
            socket.move(cluster.keep(socket, connection, session.user_id, package, seen, said))

    def move(self, entry: SessionEntry) -> bool:
        """This node drains: the glasses are asked to go elsewhere; the session is served until another node takes it.
        False: there are none to ask."""
        connection = self.connection(entry.session.glasses_connection)
        if connection is None:
            return False
        if entry.session.link.sequenced:
            connection.send(Frame.text(_MOVE), Delivery.RELIABLE)
        else:
            connection.close(CloseCode.SERVICE_RESTART, "Server restarting")
        return True

    def count_error(self, where: str) -> None:
        """A bug of ours was caught elsewhere in this node."""
        self._errors.labels(where=where).inc()

    def told(self, news: Mapping[str, Any]) -> None:
        """Another node tells all others what has changed. Raises KeyError, TypeError or ValueError for what cannot be
        read."""
        user, package = str(news.get("user", "")), str(news.get("package", ""))
        match news.get("what"):
            case "present":
                self._rooms.arrived(user, package, str(news["session"]))
                self._elsewhere[user, package] = (str(news["node"]), float(news["joined"]))
            case "absent":
                self._elsewhere.pop((user, package), None)
                if user not in self._sessions:
                    self._deliver_later(self._rooms.left(user, package, self.timestamp()))
            case "said":
                message = validate(APP_TO_CLOUD, news["message"])
                if message is not None:
                    self._said(user, package, message, str(news["at"]))
            case "who":
                self._tell_all()
            case "app_server":
                self._bring_back_here(package)
            case "close_app":
                self._close_app_here(package, str(news["reason"]))
            case "token_revoked":
                self._token_revoked_here(user, str(news["token"]))

    def node_gone(self, node: str) -> None:
        """A node has been silent for long: its users are nobody's until another node says so."""
        for (user, package), (where, _) in list(self._elsewhere.items()):
            if where == node:
                del self._elsewhere[user, package]
                if user not in self._sessions:
                    self._deliver_later(self._rooms.left(user, package, self.timestamp()))

    def _tell_presence(self, entry: SessionEntry, package: str, session_id: str) -> None:
        if self.cluster is not None:
            user_id, joined = entry.session.user_id, entry.connected_at[package]
            self.cluster.tell("present", user=user_id, package=package, session=session_id, joined=joined)

    def _tell_all(self) -> None:
        """A node that is new, or has missed something, asks who is where."""
        for user_id, entry in self._sessions.items():
            for package in entry.connected_at:
                self._tell_presence(entry, package, entry.session.session_id_of(package) or "")
                if self.cluster is not None:
                    for join in self._rooms.memberships(user_id, package):
                        self.cluster.tell(
                            "said", user=user_id, package=package, message=join.to_wire(), at=self.timestamp()
                        )

    # ================================================================================================ effects in detail

    def _recorded(self, entry: SessionEntry, kind: str, detail: Mapping[str, Any], now: float) -> None:
        if entry.seat is not None and kind in _KEPT:
            entry.seat.dirty()
        match kind:
            case "displayed" if now < self._watched_until:
                self._recorded(entry, "display", detail, now)
                self._recorded(entry, "display_settled", detail, now)
                return
            case "displayed":
                # Both at once, and nobody looks: captions would push everything else out of the trace.
                self._displays_settled["shown"] += 1
                self._display_hop.observe(0.0)
                if detail["answered"] is not None:
                    self._app_hop.observe(detail["answered"])
                return
            case "display_settled":
                outcome = detail["outcome"]
                self._displays_settled[outcome] += 1
                if outcome == "shown":
                    self._display_hop.observe(detail["waited"])
                    if detail["answered"] is not None:
                        self._app_hop.observe(detail["answered"])
            case "display" if now < self._watched_until:
                seconds = entry.round_trips.get(detail["package"])
                detail = {**detail, "app_rtt_ms": None if seconds is None else round(seconds * 1000, 2)}
            case "display_result":
                self._observe_hops(detail)
            case "edge_clock":
                self._observe_hops(detail)
                return  # every 2.4 s: the console shows the last one
            case "link_gave_up":
                self._metrics.counter("dropped_total").labels(reason=detail["why"]).inc(detail["count"])
            case "apps_missed":
                self._metrics.counter("dropped_total").labels(reason="app_away").inc(detail["count"])
                return
            case "notification_shed":
                self._metrics.counter("dropped_total").labels(reason="notification_rate").inc()
                return
            case "link_resumed":
                recovered = str(detail["recovered"]).lower()
                self._metrics.counter("link_resumes_total").labels(recovered=recovered).inc()
            case "bad_glasses_frame" | "bad_app_frame":
                self._metrics.counter("malformed_messages_total").labels(direction="in").inc()
            case "unknown_message":
                self._metrics.counter("unknown_messages_total").labels(direction="in").inc()
                return
            case "glasses_connected" | "glasses_lost":
                self._history(entry)
            case "microphone":
                self._lane(entry, "microphone", "on" if detail["on"] else "off", None)
        self._trace_seq += 1
        self._trace.append((self._trace_seq, now + self._epoch_offset, entry.session.user_id, kind, detail))
        if now < self._watched_until:
            self._join(entry, kind, now, detail)

    def _join(self, entry: SessionEntry, kind: str, now: float, detail: Mapping[str, Any]) -> None:
        """Somebody watches: the records that belong to one exchange become one more."""
        exchange = entry.exchanges.add(kind, now + self._epoch_offset, detail)
        if exchange is not None:
            self._note(entry, "exchange", exchange)

    def _observe_hops(self, detail: Mapping[str, Any]) -> None:
        for name, hop in self._hop_of.items():
            value = detail.get(name)
            if value is not None:
                hop.observe(value / 1000)

    def _note(self, entry: SessionEntry, kind: str, detail: Mapping[str, Any]) -> None:
        self._trace_seq += 1
        now = self._loop.time()
        at = now + self._epoch_offset
        self._trace.append((self._trace_seq, at, entry.session.user_id, kind, detail))
        if now < self._watched_until:
            self._join(entry, kind, now, detail)

    def _app_moved(self, entry: SessionEntry, moved: fx.AppMoved, now: float) -> None:
        if entry.seat is not None:
            entry.seat.dirty()
        match (moved.before, moved.after):
            case (AppState.GRACE, AppState.CONNECTED):
                self._metrics.counter("grace_total").labels(kind="app", outcome="returned").inc()
                self._metrics.counter("reconnects_total").labels(kind="app").inc()
            case (AppState.GRACE, AppState.ERROR | AppState.DISCONNECTED):
                self._metrics.counter("grace_total").labels(kind="app", outcome="expired").inc()
            case (AppState.ERROR, AppState.LOADING):
                self._metrics.counter("app_restarts_total").labels(outcome="tried").inc()
        self._log_move(entry, moved)
        self._lane(entry, moved.package, moved.after.value, moved.reason.value)
        self._note(
            entry,
            "app",
            {
                "package": moved.package,
                "before": moved.before.value,
                "after": moved.after.value,
                "reason": moved.reason.value,
            },
        )

    def _log_move(self, entry: SessionEntry, moved: fx.AppMoved) -> None:
        """The first failure of an outage is a warning, its repetitions are not; the recovery is news."""
        life = entry.session.app(moved.package)
        user = short(entry.session.user_id)
        if moved.after is AppState.ERROR and life is not None and life.failures == 1:
            log.warning("user %s: %s: %s", user, moved.package, moved.reason.value)
        elif moved.after is AppState.CONNECTED and life is not None and life.failures:
            log.info("user %s: %s runs again after %d failures", user, moved.package, life.failures)
        else:
            log.debug("user %s: %s is %s", user, moved.package, moved.after.value)

    def _start_settled(self, entry: SessionEntry, settled: fx.StartSettled, now: float) -> None:
        began = entry.started_at.pop(settled.package, None)
        if began is not None:
            outcome = "ok" if settled.ok else (settled.stage or Stage.CONNECTION).value.lower()
            self._metrics.histogram("app_start_seconds").labels(outcome=outcome).observe(now - began)
        if settled.ok:
            result = AppOutcome()
        elif settled.stage is Stage.WEBHOOK and settled.package not in self._apps:
            result = AppOutcome(ErrorCode.NOT_FOUND, "App not found")
        else:
            result = AppOutcome(_CODES[settled.stage or Stage.CONNECTION], settled.message)
        for waiter in entry.starts.pop(settled.package, []):
            if not waiter.done():
                waiter.set_result(result)
        if not settled.ok:
            self._note(
                entry,
                "start_failed",
                {"package": settled.package, "stage": settled.stage, "why": settled.message},
            )

    def _presence(self, entry: SessionEntry, package: str, session_id: str, present: bool) -> None:
        user_id = entry.session.user_id
        if present:
            entry.connected_at[package] = time.time()
            self._rooms.arrived(user_id, package, session_id)
            self._tell_presence(entry, package, session_id)
        else:
            if self.cluster is not None:
                self.cluster.tell("absent", user=user_id, package=package)
            entry.connected_at.pop(package, None)
            entry.round_trips.pop(package, None)
            if self._sessions.get(user_id) in (entry, None):
                self._deliver_later(self._rooms.left(user_id, package, self.timestamp()))
            for stream_id in [s for s, stream in entry.streams.items() if stream.package == package]:
                self._audio_ended(entry, package, stream_id)

    def _to_other_users(self, entry: SessionEntry, package: str, message: Any) -> None:
        user_id, at = entry.session.user_id, self.timestamp()
        if self.cluster is not None:
            self.cluster.tell("said", user=user_id, package=package, message=message.to_wire(), at=at)
        self._said(user_id, package, message, at)

    def _said(self, user_id: str, package: str, message: Any, at: str) -> None:
        """Every node of a cluster works this out alike, and delivers to its own users."""
        match message:
            case app.AppBroadcastMessage():
                sends = self._rooms.broadcast(user_id, package, message, at)
            case app.AppDirectMessage():
                sends = self._rooms.direct(user_id, package, message, at)
            case app.AppRoomJoin():
                sends = self._rooms.join(user_id, package, message, at)
            case app.AppRoomLeave():
                sends = self._rooms.leave(user_id, package, message, at)
            case _:
                sends = self._rooms.discovered(user_id, package, at)
        self._deliver_later(sends)

    def _deliver_later(self, sends: Sequence[Send]) -> None:
        """Other sessions are fed in the next turn: never one session from inside another."""
        if sends:
            self._loop.call_soon(self._deliver, sends)

    def _deliver(self, sends: Sequence[Send]) -> None:
        for send in sends:
            target = self._sessions.get(send.user)
            if target is not None:
                self.feed(target, target.session.deliver, send.package, send.message)

    def _speech_needs(self, entry: SessionEntry, languages: frozenset[tuple[str, str | None]]) -> None:
        if entry.speech is not None:
            entry.speech.need(languages)
        self._note(entry, "speech", {"languages": sorted(f"{s}>{t}" if t else s for s, t in languages)})

    # ------------------------------------------------------------------------------------------------ audio of apps

    def _audio_opened(self, entry: SessionEntry, opened: fx.AudioStreamOpened) -> None:
        while len(entry.streams) >= AUDIO_STREAMS_MAX:
            oldest = next(iter(entry.streams))
            self._audio_ended(entry, entry.streams[oldest].package, oldest)
        entry.streams[opened.stream_id] = _AudioStream(
            opened.package, opened.content_type, asyncio.Queue(AUDIO_CHUNKS_MAX + 1)
        )
        base, user_id = self._base_url(), entry.session.user_id
        if self.cluster is not None:
            base += f"/s/{session_key(user_id)}"  # a stream is no answer that another node could bring
        url = f"{base}/api/audio/stream/{user_id}/{opened.stream_id}"
        ready = AudioStreamReady(stream_id=opened.stream_id, stream_url=url)
        self._loop.call_soon(self.feed, entry, entry.session.deliver, opened.package, ready)

    def _audio_ended(self, entry: SessionEntry, package: str, stream_id: str) -> None:
        stream = entry.streams.get(stream_id)
        if stream is not None and stream.package == package:
            _end_stream(stream)
            if stream.taken:
                del entry.streams[stream_id]

    def app_binary(self, entry: SessionEntry, package: str, data: bytes) -> None:
        """SDK 3: 36 bytes of stream id, then audio for the phone. Anything else is ignored (wire spec A.2)."""
        if len(data) <= 36:
            return
        stream = entry.streams.get(data[:36].decode("ascii", "replace"))
        if stream is None or stream.package != package:
            return
        if stream.chunks.qsize() >= AUDIO_CHUNKS_MAX:
            stream.dropped += 1
            self._metrics.counter("dropped_total").labels(reason="audio_stream").inc()
            return
        stream.chunks.put_nowait(data[36:])

    def audio_stream(self, user_id: str, stream_id: str) -> AsyncIterator[bytes] | None:
        entry = self._sessions.get(user_id)
        stream = None if entry is None else entry.streams.get(stream_id)
        if entry is None or stream is None or stream.taken:
            return None
        stream.taken = True
        return self._chunks(entry, stream_id, stream)

    async def _chunks(
        self, entry: SessionEntry, stream_id: str, stream: _AudioStream
    ) -> AsyncIterator[bytes]:
        try:
            while (chunk := await stream.chunks.get()) is not None:
                yield chunk
        finally:
            if entry.streams.get(stream_id) is stream:
                del entry.streams[stream_id]

    # ================================================================================================ for the routes

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def session_count(self) -> int:
        """Sessions that live, and those that are being wound up."""
        return len(self._sessions) + len(self._ending)

    def snapshot(self) -> Sequence[SessionView]:
        return [self._view(entry) for entry in self._sessions.values()]

    def session_view(self, user_id: str) -> SessionView | None:
        entry = self._sessions.get(user_id)
        return None if entry is None else self._view(entry)

    def _view(self, entry: SessionEntry) -> SessionView:
        session, now = entry.session, self._loop.time()
        self._history(entry)
        return SessionView(
            user_id=session.user_id,
            session_id=session.user_id,
            state=session.state.value,
            reason=session.reason,
            since=now - session.since,
            connected=session.glasses_connection is not None,
            remote=entry.remote,
            client=None if session.glasses_connection is None else _client(session),
            model_name=session.device.get("modelName"),
            microphone=session.microphone.state.value,
            apps=tuple(_app_view(entry, state, now) for state in session.app_states()),
            display=session.display.shown,
            history=tuple(entry.history),
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

    def user_ids(self) -> list[str]:
        """Everybody who has a session now."""
        return list(self._sessions)

    def lanes(self, user_id: str) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """How glasses, microphone and each app fared: lane -> states with reason and time (wall clock, seconds)."""
        entry = self._sessions.get(user_id)
        return {} if entry is None else {lane: list(states) for lane, states in entry.lanes.items()}

    def changed(self, since: int) -> tuple[int, set[str] | None]:
        """The newest number of the trace, and who is named in it after `since`; None: too long ago to say."""
        if self._trace and self._trace[0][0] > since + 1:
            return self._trace_seq, None
        users = set()
        for number, _, user, _, _ in reversed(self._trace):
            if number <= since:
                break
            users.add(user)
        return self._trace_seq, users

    @property
    def backlog(self) -> int:
        """Bytes that wait for peers to read them."""
        return sum(connection.buffered_bytes for connection in self._connections.values())

    def session_owner(self, session_id: str) -> tuple[str, str] | None:
        for user_id, entry in self._sessions.items():
            if not session_id.startswith(user_id):
                continue
            for state in entry.session.app_states():
                if entry.session.session_id_of(state["package"]) == session_id:
                    return user_id, state["package"]
        return None

    def users_of(self, package_name: str) -> Sequence[Presence]:
        found = []
        for user_id in self._rooms.users_of(package_name):
            entry = self._sessions.get(user_id)
            elsewhere = self._elsewhere.get((user_id, package_name))
            if entry is not None:
                found.append(Presence(user_id, user_id, entry.connected_at.get(package_name, 0.0)))
            elif elsewhere is not None:
                found.append(Presence(user_id, user_id, elsewhere[1]))
        return found

    def trace(self, since: int = 0) -> Sequence[Mapping[str, Any]]:
        self._watched_until = max(self._watched_until, self._loop.time() + 60.0)
        return [
            {"seq": number, "at": at, "user": user, "kind": kind, **redact(dict(detail))}
            for number, at, user, kind, detail in self._trace
            if number > since
        ]

    async def start_app(self, user_id: str, package_name: str) -> AppOutcome:
        if self._draining:
            return AppOutcome(ErrorCode.DRAINING, "the server is restarting")
        entry = self._sessions.get(user_id)
        if entry is None:
            return AppOutcome(ErrorCode.SESSION_NOT_FOUND, "no glasses client is connected for this user")
        if entry.session.state is SessionState.DETACHED:
            return AppOutcome(
                ErrorCode.GLASSES_DISCONNECTED, "the glasses client is gone for the moment; try again"
            )
        return await self._wait(entry, entry.starts, package_name, entry.session.start_app, ErrorCode.TIMEOUT)

    async def stop_app(self, user_id: str, package_name: str) -> AppOutcome:
        entry = self._sessions.get(user_id)
        if entry is None:
            # Without a session nothing runs; what the user wants is remembered all the same.
            try:
                await self._store.set_wanted(user_id, package_name, False)
            except StoreError as error:
                return AppOutcome(ErrorCode.INTERNAL_ERROR, str(error))
            return AppOutcome()
        return await self._wait(entry, entry.stops, package_name, entry.session.stop_app, ErrorCode.TIMEOUT)

    async def _wait(
        self,
        entry: SessionEntry,
        waiters: dict[str, list[asyncio.Future[AppOutcome]]],
        package: str,
        method: Callable[..., list[fx.Effect]],
        late: ErrorCode,
    ) -> AppOutcome:
        future: asyncio.Future[AppOutcome] = self._loop.create_future()
        waiters.setdefault(package, []).append(future)
        self.feed(entry, method, package)
        try:
            outcome = await asyncio.wait_for(future, CALLER_PATIENCE)
        except TimeoutError:
            outcome = AppOutcome(late, "no outcome in time")
        finally:
            if future in waiters.get(package, []):
                waiters[package].remove(future)
        if entry.saves:  # what the user asked for is on disk before he is told so
            await asyncio.wait(set(entry.saves), timeout=5.0)
        return outcome

    async def end_session(self, user_id: str, reason: str) -> bool:
        entry = self._sessions.get(user_id)
        if entry is None:
            return False
        self.feed(entry, entry.session.end, reason)
        return True

    def phone_event(self, user_id: str, message: GlassesToCloud) -> bool:
        entry = self._sessions.get(user_id)
        if entry is None:
            return False
        self.feed(entry, entry.session.phone_message, message)
        return True

    def device_state(self, user_id: str, changes: Mapping[str, Any]) -> Mapping[str, Any] | None:
        entry = self._sessions.get(user_id)
        if entry is None:
            return None
        self.feed(entry, entry.session.device_state, changes)
        session = entry.session
        return {
            "isGlassesConnected": bool(session.device.get("connected", session.device.get("modelName"))),
            "isPhoneConnected": session.glasses_connection is not None,
            "modelName": session.device.get("modelName"),
            "capabilities": session.capabilities,
        }

    def configure_audio(self, user_id: str, format: str, lc3: Mapping[str, Any] | None) -> bool:
        """Raises ValueError naming the member that cannot be used."""
        entry = self._sessions.get(user_id)
        if entry is None:
            return False
        entry.audio.configure(format, lc3)
        self._note(entry, "audio_configured", {"format": format})
        return True

    def set_datetime(self, user_id: str, datetime: str) -> bool:
        """Raises ProtocolError for a text that is no date."""
        entry = self._sessions.get(user_id)
        if entry is None:
            return False
        now = self._loop.time()
        effects = entry.session.set_datetime(datetime, now)  # its complaint belongs to the caller
        self.feed(entry, lambda at: effects)
        return True

    def photo_expected(self, user_id: str, request_id: str) -> bool:
        entry = self._sessions.get(user_id)
        return entry is not None and entry.session.requests.photo_uploaded(request_id) is not None

    def photo_uploaded(self, user_id: str, request_id: str, data: bytes, mime_type: str, url: str) -> bool:
        entry = self._sessions.get(user_id)
        package = None if entry is None else entry.session.requests.photo_uploaded(request_id)
        record = None if package is None else self._store.apps.get(package)
        if entry is None or record is None:
            return False
        self._spawn(entry, self._forward_photo(record, request_id, data, mime_type))
        self.feed(entry, entry.session.photo_arrived, request_id, url)
        return True

    async def _forward_photo(self, record: AppRecord, request_id: str, data: bytes, mime_type: str) -> None:
        suffix = mime_type.rpartition("/")[2] or "jpeg"
        await self._webhooks.post_form(
            record.public_url.rstrip("/") + "/photo-upload",
            {"requestId": request_id, "success": "true", "type": "photo_upload"},
            FormFile("photo", f"{request_id}.{suffix}", data, mime_type),
            timeout=20.0,
        )

    def say(
        self, user_id: str, text: str, language: str, *, final: bool = True, utterance: str | None = None
    ) -> bool:
        entry = self._sessions.get(user_id)
        if entry is None or not text:
            return False
        session = entry.session
        at = round((self._loop.time() - session.started_at) * 1000)
        if utterance is None or entry.typing is None or entry.typing[0] != utterance:
            entry.typing = (utterance or secrets.token_hex(6), at)
            self.feed(entry, session.voice, True)
        number, began = entry.typing
        event = {
            "type": "transcription",
            "text": text,
            "utteranceId": number,
            "transcribeLanguage": language,
            "startTime": began,
            "endTime": at,
            "duration": at - began,
            "provider": "text",
        }
        self.feed(entry, session.speech, {**event, "isFinal": False})
        if final:
            entry.typing = None
            self._heard(entry, {**event, "isFinal": True})
            # Typed words can only be passed on untranslated; the apps see that.
            for source, target in session.subscriptions.speech:
                if target is not None and source in ("all", language):
                    translated = {
                        **event,
                        "type": "translation",
                        "originalText": text,
                        "translateLanguage": target,
                        "didTranslate": False,
                        "isFinal": True,
                    }
                    self.feed(entry, session.speech, translated)
            self.feed(entry, session.voice, False)
        return True

    def push_app_settings(self, user_id: str, package_name: str) -> None:
        entry = self._sessions.get(user_id)
        if entry is not None:
            self._spawn(entry, self._push_app_settings(entry, package_name))

    async def _push_app_settings(self, entry: SessionEntry, package: str) -> None:
        try:
            values = await self._store.get_app_settings(entry.session.user_id, package)
        except StoreError:
            self._metrics.counter("store_failures_total").labels(operation="get_app_settings").inc()
            return
        self.feed(entry, entry.session.app_settings_changed, package, values)

    def push_user_settings(self, user_id: str) -> None:
        entry = self._sessions.get(user_id)
        if entry is not None:
            self._spawn(entry, self._push_user_settings(entry))

    async def _push_user_settings(self, entry: SessionEntry) -> None:
        try:
            settings = await self._store.get_user_settings(entry.session.user_id)
        except StoreError:
            self._metrics.counter("store_failures_total").labels(operation="get_user_settings").inc()
            return
        self.feed(entry, entry.session.settings_changed, settings)

    def apps_changed(self, user_id: str | None) -> None:
        entries = list(self._sessions.values()) if user_id is None else [self._sessions.get(user_id)]
        for entry in entries:
            if entry is None:
                continue
            for state in entry.session.app_states():
                self.feed(entry, entry.session.record_changed, state["package"])
            self.feed(entry, entry.session.announce)

    def app_server_restarted(self, package_name: str) -> int:
        """The app's server was found, registered itself or restarted: bring its sessions back now, at every node. How
        many they are is known of this node only."""
        if self.cluster is not None:
            self.cluster.tell("app_server", package=package_name)
        return self._bring_back_here(package_name)

    def _bring_back_here(self, package_name: str) -> int:
        record = self._store.apps.get(package_name)
        if record is None:
            return 0
        self._endpoints.seen(record.public_url.rstrip("/"))
        waiting = [
            (entry, package_name)
            for entry in self._sessions.values()
            if (life := entry.session.app(package_name)) and life.wanted and life.state is AppState.ERROR
        ]
        self.own(self._bring_back(waiting))
        return len(waiting)

    def _waiting_for(self, url: str) -> list[tuple[SessionEntry, str]]:
        """Who waits for the next attempt at an app of this endpoint."""
        packages = [app for app, record in self._store.apps.items() if record.public_url.rstrip("/") == url]
        return [
            (entry, package)
            for entry in self._sessions.values()
            for package in packages
            if (life := entry.session.app(package)) is not None and life.awaits_its_server
        ]

    async def _look(self, url: str) -> None:
        """While several wait for an endpoint that worked, try it on behalf of the one whose turn is farthest away: the
        pauses of users who lost it together grow together, so that it could be back for long before anybody asks."""
        try:
            while self._endpoints.is_away(url, self._loop.time()):
                await asyncio.sleep(self._endpoints.look)
                waiting = self._waiting_for(url)
                if len(waiting) > 1 and self._endpoints.is_away(url, self._loop.time()):
                    entry, package = max(waiting, key=_next_attempt)
                    self.feed(entry, entry.session.app_server_seen, package)
        finally:
            self._looking.discard(url)

    async def _bring_back(self, waiting: list[tuple[SessionEntry, str]]) -> None:
        """One after the other at the pace of the endpoint, so that nobody is held back for a full queue."""
        for entry, package in waiting:
            self.feed(entry, entry.session.app_server_seen, package)
            await asyncio.sleep(self._endpoints.pause)

    def close_app(self, package_name: str, reason: str) -> None:
        if self.cluster is not None:
            self.cluster.tell("close_app", package=package_name, reason=reason)
        self._close_app_here(package_name, reason)

    def _close_app_here(self, package_name: str, reason: str) -> None:
        for entry in list(self._sessions.values()):
            if entry.session.app(package_name) is not None:
                self.feed(entry, entry.session.stop_app, package_name)
                self._note(entry, "app_closed", {"package": package_name, "reason": reason})

    def token_revoked(self, user_id: str, token_id: str) -> None:
        if self.cluster is not None:
            self.cluster.tell("token_revoked", user=user_id, token=token_id)
        self._token_revoked_here(user_id, token_id)

    def _token_revoked_here(self, user_id: str, token_id: str) -> None:
        entry = self._sessions.get(user_id)
        if entry is None or entry.token_id != token_id:
            return
        connection_id = entry.session.glasses_connection
        connection = None if connection_id is None else self._connections.get(connection_id)
        if connection is not None:
            body = b'{"type":"auth_error","message":"This credential was revoked"}'
            connection.send(Frame.text(body), Delivery.RELIABLE)
            connection.close(CloseCode.POLICY, "credential revoked")

    async def drain(self) -> None:
        """Everyone is told to come back (1012); state is flushed. Ends within the configured time."""
        if not self._draining:
            self._draining = True
            if self.cluster is not None:
                await self.cluster.drain(self._config.drain_timeout)
            for entry in list(self._sessions.values()):
                self.feed(entry, entry.session.drain)
        saves = {task for entry in (*self._sessions.values(), *self._ending) for task in entry.saves}
        if saves:
            await asyncio.wait(saves, timeout=self._config.drain_timeout)

    async def close(self) -> None:
        """Stop every timer and task. After this nothing of the hub lives."""
        await self.drain()
        if self.cluster is not None:
            await self.cluster.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for entry in (*self._sessions.values(), *list(self._ending)):
            self._finish(entry)
        await asyncio.sleep(0)
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)

    def publish(self) -> None:
        """Bring the metrics up to date."""
        self._delivered.inc(self._events_delivered)
        self._audio_frames.inc(self._audio_received)
        self._messages_out.inc(self._sent)
        self._messages_in.inc(self._received)
        self._events_delivered = self._audio_received = self._sent = self._received = 0
        for outcome, count in self._displays_settled.items():
            self._display_updates[outcome].inc(count)
            self._displays_settled[outcome] = 0
        self._display_hop.carry()
        states = dict.fromkeys(SessionState, 0)
        app_states = dict.fromkeys(AppState, 0)
        microphones = 0
        for entry in self._sessions.values():
            states[entry.session.state] += 1
            microphones += entry.session.microphone.state is not MicrophoneState.OFF
            for state in entry.session.lifecycles():
                app_states[state] += 1
        for session_state, count in states.items():
            self._metrics.gauge("sessions").labels(state=session_state.value).set(count)
        for app_state, count in app_states.items():
            self._metrics.gauge("app_sessions").labels(state=app_state.value).set(count)
        self._metrics.gauge("microphones_on").set(microphones)
        if self.on_published is not None:
            self.on_published()


def _next_attempt(waiting: tuple[SessionEntry, str]) -> float:
    life = waiting[0].session.app(waiting[1])
    return (life and life.next_attempt) or 0.0


def _timing(config: CloudConfig) -> SessionTiming:
    return SessionTiming(
        grace=config.sessions.grace,
        audio_frames_max=config.limits.audio_frames_per_second,
        lifecycle=LifecycleTiming(grace=config.sessions.app_grace, webhook=config.webhooks.timeout),
        display=DisplayTiming(interval=config.display.interval, boot=config.display.boot),
    )


def _with_restore_delay(timing: SessionTiming, delay: float) -> SessionTiming:
    values = {name: getattr(timing, name) for name in SessionTiming.__dataclass_fields__}
    return SessionTiming(**(values | {"restore_delay": delay}))


def _local_utc_offset() -> float:
    """The server's zone, until the phone tells the wearer's."""
    return float(time.localtime().tm_gmtoff)


def _claimed_user(claim: Claim) -> str:
    """The user that a claim names. Its own package is the suffix; nothing is split (CON-11)."""
    if claim.user_id:
        return claim.user_id.lower()
    session_id, suffix = claim.session_id or "", f"-{claim.package}"
    if not session_id.endswith(suffix) or len(session_id) == len(suffix):
        raise ProtocolError(
            ErrorCode.SESSION_NOT_FOUND,
            "Session not found" if "-" in session_id else "Invalid session ID format",
        )
    return session_id[: -len(suffix)].lower()


def _why(result: WebhookResult) -> str:
    """A failure in words for the developer."""
    if result.ok:
        return ""
    if result.status is not None:
        return f"error_status: the webhook answered {result.status}"
    return (result.error.value if result.error else "failed") + ": the webhook brought no answer"


def _client(session: Session) -> str:
    return "edge" if session.link.sequenced else "phone"


def _end_stream(stream: _AudioStream) -> None:
    if not stream.chunks.full():
        stream.chunks.put_nowait(None)


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
