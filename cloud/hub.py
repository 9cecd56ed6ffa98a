"""All sessions of this process: the shell around the cores, and what the HTTP routes see of it.

Rules: one input, then all its effects, with no `await` in between. Effects that take time become tasks, and come back as
inputs. One timer per session. `except Exception` stands around one session: a bug of ours ends that session, not the
process. No decision is made here that a core could make. What one subject needs stands in its own file: `sockets`,
`journal`, `figures`, `session_store`, `app_webhooks`, `app_servers`, `app_users`, `app_audio`, `callers`, `spoken`, `views`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, assert_never

from cloud.app_audio import AppAudio
from cloud.app_records import AppRecords
from cloud.app_servers import AppServers
from cloud.app_socket import AppSocket, Claim
from cloud.app_users import AppUsers
from cloud.app_webhooks import AppWebhooks
from cloud.auth import Identity, RateLimiter, api_key_matches, hash_api_key
from cloud.callers import Callers
from cloud.config import CloudConfig
from cloud.connection import Connection, Cork, Frame, text_frame
from cloud.core import effects as fx
from cloud.core.app_lifecycle import LifecycleTiming
from cloud.core.clock import WallClock
from cloud.core.display import DisplayTiming
from cloud.core.endpoints import Endpoints
from cloud.core.session import Session, SessionState, SessionTiming
from cloud.figures import Figures
from cloud.gate import Gate
from cloud.http.ports import AppOutcome, Presence, SessionView
from cloud.journal import Journal
from cloud.metrics import Metrics
from cloud.session_entry import SessionEntry, SpeechFactory, short
from cloud.session_store import SessionStore
from cloud.sockets import SWEEP, SWEEP_PARTS, Sockets
from cloud.spoken import Spoken
from cloud.store.base import Store, StoreError
from cloud.tasks import Tasks
from cloud.turns import Turns
from cloud.views import device_view, session_view
from cloud.webhooks import WebhookClient
from wire.errors import CloseCode, ErrorCode, ProtocolError
from wire.messages.base import Delivery, Message
from wire.placement import session_key, with_prefix

if TYPE_CHECKING:
    from cloud.cluster.cluster import Cluster
    from cloud.cluster.edge_socket import EdgeSocket
    from cloud.cluster.seat import Seat
    from cloud.glasses_socket import GlassesSocket

log = logging.getLogger(__name__)

#: The gauges are brought up to date this often, seconds.
PUBLISH_EVERY: Final = 5
#: Sessions that should have ended are looked for this often, seconds (CON-14).
REAP_EVERY: Final = 20
#: SDKs come back by themselves 1 s and 3 s after our own restart (wire spec 3.12).
SDK_RETURN: Final = 3.5
#: Attempts to connect per user: a client with 1 s backoff never meets this limit (CON-13).
CONNECT_RATE: Final = 1.0
CONNECT_BURST: Final = 20.0

#: To our own edge: connect anew, elsewhere; this connection serves until then.
_MOVE: Final = b'{"type":"glassbridge_move"}'
_REVOKED: Final = b'{"type":"auth_error","message":"This credential was revoked"}'

_LOSSY: Final = Delivery.LOSSY


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
        self._websocket_url = websocket_url
        self._base_url = base_url
        self._timing = timing or _timing(config)
        self._returning = set(returning_users)
        self._adopt_keys = adopt_keys
        self._loop = asyncio.get_running_loop()
        self._epoch_offset = time.time() - self._loop.time()
        self._started_at = self._loop.time()
        self._random = random.Random()
        self._metrics = metrics
        self._errors = metrics.counter("errors_total")
        #: This node's part in a cluster; None: the only process, which owns every session.
        self.cluster: Cluster | None = None
        self._sessions: dict[str, SessionEntry] = {}
        self._ending: set[SessionEntry] = set()
        self._app_sockets: dict[int, AppSocket] = {}
        self._drain: asyncio.Task[None] | None = None
        self._connects = RateLimiter(CONNECT_RATE, CONNECT_BURST)
        self._sweeps = 0
        self._sweeper: asyncio.TimerHandle | None = self._loop.call_later(SWEEP / SWEEP_PARTS, self._sweep)
        #: Called each time the gauges were brought up to date, for those who keep samples of them.
        self.on_published: Callable[[], None] | None = None

        clock, feed = self._loop.time, self.feed
        self.tasks = tasks = Tasks(partial(self.count_error, "task"))
        self.turns = Turns()
        #: Shared with the listener's connections: what one input makes for a receiver is written together.
        self.cork = Cork()
        self.sockets = sockets = Sockets(metrics, clock)
        self._connections = sockets.open
        self.gate = Gate(config.admission, metrics, lambda: sockets.frames)
        self._figures = figures = Figures(metrics)
        self._journal = journal = Journal(
            metrics=metrics,
            figures=figures,
            clock=clock,
            epoch_offset=self._epoch_offset,
            watched=config.profile == "dev",
        )
        self._apps = apps = AppRecords(lambda: store.apps)
        self._saves = SessionStore(store=store, apps=apps, feed=feed, tasks=tasks, metrics=metrics)
        self._callers = Callers(apps=apps, feed=feed, journal=journal, metrics=metrics)
        self._spoken = Spoken(factory=speech, feed=feed, journal=journal, figures=figures, clock=clock)
        self._audio = AppAudio(feed=feed, address=self._address, metrics=metrics)
        self._users = AppUsers(sessions=self._sessions, feed=feed, tell=self._tell)
        self._endpoints = Endpoints()
        self._servers = AppServers(
            endpoints=self._endpoints,
            sessions=self._sessions,
            records=lambda: store.apps,
            feed=feed,
            tasks=tasks,
            clock=clock,
        )
        self._webhooks = AppWebhooks(
            client=webhooks,
            endpoints=self._endpoints,
            sessions=self._sessions,
            records=lambda: store.apps,
            feed=feed,
            start=self.start_app,
            tasks=tasks,
            journal=journal,
            metrics=metrics,
            patience=self._timing.lifecycle.webhook,
        )

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
        due = entry.session.deadline
        if due is not None and due > self._loop.time():  # it moved since
            entry.timer, entry.timer_at = self._loop.call_at(due, self._tick, entry), due
        else:
            self.turns.do(partial(self.feed, entry, entry.session.handle_deadline))

    def _failed(self, entry: SessionEntry, now: float) -> None:
        log.exception("session of user %s failed", short(entry.session.user_id))
        self.count_error("session")
        try:
            self._perform(entry, entry.session.fail(now), now)
        except Exception:  # the end itself must not fail: what is left is cut
            log.exception("ending the failed session of user %s", short(entry.session.user_id))
            self._unregister(entry)
            self._finish(entry)

    def _perform(
        self, entry: SessionEntry, effects: list[fx.Effect], now: float, source: int | None = None
    ) -> None:
        """`source`: the connection whose frame has brought them about."""
        connections, cork = self._connections, self.cork
        if len(effects) > 1 and not cork.active and type(effects[1]) is not fx.Displayed:
            # Mostly an event and the ping that asks for its proof: what goes to one receiver is one write.
            cork.active, cork.source = True, None if source is None else connections.get(source)
            try:
                self._perform(entry, effects, now)
            finally:
                cork.pull()
            return
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
                    self._figures.delivered += len(ids)
                    if now < self._journal.watched_until:
                        size = len(effect.payload)
                        detail = {"about": effect.about, "apps": len(ids), "bytes": size}
                        self._journal.note(entry, "to_app", detail)
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
                case fx.Displayed():
                    self._journal.displayed(entry, effect, now)
                case fx.Record():
                    self._journal.recorded(entry, effect.kind, effect.detail, now)
                case fx.PingApp():
                    target = connections.get(effect.connection_id)
                    if target is not None:
                        target.ping(effect.payload)
                        self.sockets.pinged.setdefault(effect.connection_id, now)
                    elif self.cluster is not None:
                        self.cluster.ping_app(effect.connection_id, effect.payload)
                case fx.CloseGlasses(connection_id, code, reason) | fx.CloseApp(connection_id, code, reason):
                    target = connections.get(connection_id)
                    if target is not None:
                        target.close(code, reason)
                    elif self.cluster is not None:
                        self.cluster.close_app(connection_id, code, reason)
                case fx.AppMoved():
                    self._journal.moved(entry, effect)
                case fx.LoadUser():
                    self._saves.load_user(entry)
                case fx.LoadApp(package, cycle):
                    self._saves.load_app(entry, package, cycle)
                case fx.SaveWanted() | fx.SaveSettings() | fx.SaveLocation():
                    self._saves.save(entry, effect)
                case fx.PostSessionRequest():
                    self._webhooks.ask(entry, effect, now)
                case fx.CancelSessionRequest(package, cycle):
                    self._webhooks.cancel(entry, package, cycle)
                case fx.PostStopRequest():
                    self._webhooks.tell_stop(entry, effect)
                case fx.PostPhotoFailure():
                    self._webhooks.tell_photo_failure(effect)
                case fx.EndpointVerdict(url, ok):
                    self._servers.verdict(url, ok)
                case fx.StartSettled():
                    self._callers.started(entry, effect, now)
                case fx.StopSettled(package):
                    self._callers.stopped(entry, package)
                case fx.Presence(package, session_id, present):
                    if present:
                        self._users.arrived(entry, package, session_id)
                    else:
                        entry.round_trips.pop(package, None)
                        self._users.left(entry, package)
                        self._audio.left(entry, package)
                case fx.ToOtherUsers(package, message):
                    self._users.said(entry, package, message)
                case fx.SpeechNeeds(languages):
                    self._spoken.needs(entry, languages)
                case fx.AudioStreamOpened():
                    self._audio.opened(entry, effect)
                case fx.AudioStreamEnded(package, stream_id):
                    self._audio.ended(entry, package, stream_id)
                case fx.Unregister(reason):
                    self._unregister(entry)
                    self._journal.note(entry, "session_ended", {"reason": reason})
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
                timing = replace(timing, restore_delay=left)
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
        self._spoken.listen(entry)
        if seat is not None:
            seat.entry = entry
            if state is not None:
                self.feed(entry, session.restore, state)
            seat.dirty()
        else:
            self._saves.begun(entry)
        if with_glasses:
            self._saves.seen(entry)
        self.feed(entry, lambda at: session.start(at, with_glasses=with_glasses))
        return entry

    def _app_url(self, user_id: str) -> str:
        """Where this user's apps connect. Among several nodes the address says which one is nearest to the session."""
        url = self._websocket_url()
        return url if self.cluster is None else with_prefix(url, session_key(user_id))

    def _address(self, user_id: str) -> str:
        """Where this user's phone fetches what is at this node: no other could bring it."""
        base = self._base_url()
        return base if self.cluster is None else base + f"/s/{session_key(user_id)}"

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
            elif not self.draining and user_id not in self._sessions:
                self._saves.ended(entry)
        self._journal.state(entry)

    def _finish(self, entry: SessionEntry) -> None:
        """Let go of everything that the session held."""
        self._ending.discard(entry)
        speech = entry.let_go()
        if speech is not None:
            self.own(speech.close())

    def own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that ends with the hub; its failure is logged and counted."""
        return self.tasks.own(work)

    def count_error(self, where: str) -> None:
        """A bug of ours was caught elsewhere in this node."""
        self._errors.labels(where=where).inc()

    def _sweep(self) -> None:
        """Twenty times a second: a part of the sockets, and what comes round less often."""
        self._sweeper = self._loop.call_later(SWEEP / SWEEP_PARTS, self._sweep)
        self._sweeps += 1
        if self._sweeps % (PUBLISH_EVERY * SWEEP_PARTS) == 0:
            self.publish()
        if self._sweeps % (REAP_EVERY * SWEEP_PARTS) == 0:
            self._reap(self._loop.time())
        self.sockets.sweep(self._sweeps)

    def _reap(self, now: float) -> None:
        """The second line behind every session's own timer: one that is overdue is ended, and told as the bug it is."""
        for entry in [*self._sessions.values(), *self._ending]:
            if entry.session.is_overdue(now):
                log.error("session of user %s is overdue", short(entry.session.user_id))
                self.count_error("overdue_session")
                self.feed(entry, entry.session.fail)

    # ================================================================================================ sockets

    def admission(self, user_id: str, *, returning: bool = False) -> tuple[int, ErrorCode, float] | None:
        """Why this user may not connect now: HTTP status, code and seconds to wait; None = welcome. `returning`: his
        session runs, on a node that is gone or that he left."""
        if self.draining:
            return 503, ErrorCode.DRAINING, 5.0
        if user_id not in self._sessions and (pause := self.gate.ask(self._loop.time(), returning=returning)):
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
        if self.draining:
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
        self._journal.state(entry)

    def glasses_closed(
        self, entry: SessionEntry | None, identity: Identity, connection: Connection, code: int
    ) -> None:
        self.sockets.forget(connection, "glasses", code)
        if entry is None and self.cluster is not None:
            self.cluster.forsaken(identity.user_id, connection)
        if entry is not None:
            self.feed(entry, entry.session.glasses_lost, connection.id)
            self._journal.state(entry)

    def glasses_text(self, entry: SessionEntry, connection_id: int, data: bytes) -> None:
        """A text frame of a glasses client: `feed`, with one call less."""
        now = self._loop.time()
        if now < self._journal.watched_until:
            self._journal.from_glasses(entry, data)
        try:
            effects = entry.session.glasses_text(connection_id, data, now)
            self._perform(entry, effects, now, connection_id)
            if entry.seat is not None and (entry.seat.remotes or entry.seat.expects):
                entry.seat.settle()
        except Exception:
            self._failed(entry, now)
        agenda = entry.session.agenda
        if agenda.steady:  # what `_arm` asks first
            agenda.steady = False
        else:
            self._arm(entry)

    def glasses_audio(self, entry: SessionEntry, connection_id: int, data: bytes) -> None:
        """A binary frame of a glasses client: decoded once, whoever listens."""
        session = entry.session
        if session.glasses_connection != connection_id:
            return
        if self.gate.share and self.gate.sheds(entry.slot):
            self.sockets.frames -= 1
            return
        self._figures.audio_frames += 1
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
        user_id = claim.user()
        entry = self._sessions.get(user_id)
        matches = record is not None and api_key_matches(claim.api_key, record.hashed_api_key)
        if self._adopt_keys and record is not None and entry is not None and not matches:
            self._saves.put_app(replace(record, hashed_api_key=hash_api_key(claim.api_key)))
            matches = True
        if not matches:
            if entry is not None:
                entry.session.app_wrong_key(claim.package)
            raise ProtocolError(ErrorCode.INVALID_API_KEY, "Invalid API key")
        if self.draining:
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
        seconds = self.sockets.answered(connection_id)
        if seconds is not None:
            entry.round_trips[package] = seconds
            self._figures.round_trip.observe(seconds)
        if payload:
            self.feed(entry, entry.session.app_pong, package, connection_id, payload)

    def app_text(self, entry: SessionEntry, package: str, connection_id: int, data: bytes) -> None:
        """A text frame of an app that has proven who it is: `feed`, with one call less."""
        now = self._loop.time()
        try:
            effects = entry.session.app_text(package, connection_id, data, now)
            self._perform(entry, effects, now, connection_id)
        except Exception:
            self._failed(entry, now)
        agenda = entry.session.agenda
        if agenda.steady:
            agenda.steady = False
        else:
            self._arm(entry)

    def app_closed(self, entry: SessionEntry | None, package: str, connection: Connection, code: int) -> None:
        self.sockets.forget(connection, "app", code)
        self._app_sockets.pop(connection.id, None)
        if entry is not None:
            self.feed(entry, entry.session.app_lost, package, connection.id)

    def refused(self, code: ErrorCode) -> None:
        """For the metrics: an app socket was turned away."""
        self._metrics.counter("refused_total").labels(kind="app", code=code.value).inc()

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

    def _tell(self, what: str, /, **news: Any) -> None:
        """To all other nodes; alone, nobody."""
        if self.cluster is not None:
            self.cluster.tell(what, **news)

    def told(self, news: Mapping[str, Any]) -> None:
        """Another node tells all others what has changed. Raises KeyError, TypeError or ValueError for what cannot be
        read."""
        user, package = str(news.get("user", "")), str(news.get("package", ""))
        match news.get("what"):
            case "present":
                self._users.arrived_elsewhere(user, package, news)
            case "absent":
                self._users.left_elsewhere(user, package)
            case "said":
                self._users.said_elsewhere(user, package, news)
            case "who":
                self._users.tell_all()
            case "app_server":
                self._servers.restarted(package)
            case "close_app":
                self._close_app_here(package, str(news["reason"]))
            case "token_revoked":
                self._token_revoked_here(user, str(news["token"]))

    def node_gone(self, node: str) -> None:
        """A node has been silent for long: its users are nobody's until another node says so."""
        self._users.node_gone(node)

    # ================================================================================================ for the routes

    @property
    def draining(self) -> bool:
        return self._drain is not None

    @property
    def session_count(self) -> int:
        """Sessions that live, and those that are being wound up."""
        return len(self._sessions) + len(self._ending)

    def session_view(self, user_id: str) -> SessionView | None:
        entry = self._sessions.get(user_id)
        return None if entry is None else self._view(entry)

    def _view(self, entry: SessionEntry) -> SessionView:
        self._journal.state(entry)
        return session_view(entry, self._loop.time())

    def user_ids(self) -> list[str]:
        """Everybody who has a session now."""
        return list(self._sessions)

    def lanes(self, user_id: str) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """How glasses, microphone and each app fared: lane -> states with reason and time (wall clock, seconds)."""
        entry = self._sessions.get(user_id)
        return {} if entry is None else {lane: list(states) for lane, states in entry.lanes.items()}

    def changed(self, since: int) -> tuple[int, set[str] | None]:
        """The newest number of the trace, and who is named in it after `since`; None: too long ago to say."""
        return self._journal.changed(since)

    def trace(self, since: int = 0) -> Sequence[Mapping[str, Any]]:
        return self._journal.read(since)

    def replay(self, seq: int) -> bool:
        """Send the event of this trace record (`from_glasses`) through its session once more; False if it is gone."""
        event = self._journal.event(seq)
        return event is not None and self.phone_event(*event)

    def webhooks_of(self, package_name: str) -> Sequence[Mapping[str, Any]]:
        """The last webhooks to this app with their replies, oldest first."""
        return self._webhooks.kept(package_name)

    async def replay_webhook(self, package_name: str, number: int) -> Mapping[str, Any] | None:
        """Send a kept webhook once more to where the app is now; its new record, or None if it is no longer kept."""
        return await self._webhooks.replay(package_name, number)

    @property
    def backlog(self) -> int:
        """Bytes that wait for peers to read them."""
        return self.sockets.backlog

    def session_owner(self, session_id: str) -> tuple[str, str] | None:
        for user_id, entry in self._sessions.items():
            if not session_id.startswith(user_id):
                continue
            for state in entry.session.app_states():
                if entry.session.session_id_of(state["package"]) == session_id:
                    return user_id, state["package"]
        return None

    def users_of(self, package_name: str) -> Sequence[Presence]:
        return self._users.users_of(package_name)

    async def start_app(self, user_id: str, package_name: str) -> AppOutcome:
        if self.draining:
            return AppOutcome(ErrorCode.DRAINING, "the server is restarting")
        entry = self._sessions.get(user_id)
        if entry is None:
            return AppOutcome(ErrorCode.SESSION_NOT_FOUND, "no glasses client is connected for this user")
        if entry.session.state is SessionState.DETACHED:
            return AppOutcome(
                ErrorCode.GLASSES_DISCONNECTED, "the glasses client is gone for the moment; try again"
            )
        return await self._callers.start(entry, package_name)

    async def stop_app(self, user_id: str, package_name: str) -> AppOutcome:
        entry = self._sessions.get(user_id)
        if entry is None:
            # Without a session nothing runs; what the user wants is remembered all the same.
            try:
                await self._store.set_wanted(user_id, package_name, False)
            except StoreError as error:
                return AppOutcome(ErrorCode.INTERNAL_ERROR, str(error))
            return AppOutcome()
        return await self._callers.stop(entry, package_name)

    async def end_session(self, user_id: str, reason: str) -> bool:
        entry = self._sessions.get(user_id)
        if entry is None:
            return False
        self.feed(entry, entry.session.end, reason)
        return True

    def phone_event(self, user_id: str, message: Message) -> bool:
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
        return device_view(entry)

    def configure_audio(self, user_id: str, format: str, lc3: Mapping[str, Any] | None) -> bool:
        """Raises ValueError naming the member that cannot be used."""
        entry = self._sessions.get(user_id)
        if entry is None:
            return False
        entry.audio.configure(format, lc3)
        self._journal.note(entry, "audio_configured", {"format": format})
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
        self._webhooks.forward_photo(record, request_id, data, mime_type)
        self.feed(entry, entry.session.photo_arrived, request_id, url)
        return True

    def say(
        self, user_id: str, text: str, language: str, *, final: bool = True, utterance: str | None = None
    ) -> bool:
        entry = self._sessions.get(user_id)
        if entry is None or not text:
            return False
        self._spoken.typed(entry, text, language, final=final, utterance=utterance)
        return True

    def app_binary(self, entry: SessionEntry, package: str, data: bytes) -> None:
        """SDK 3: audio for the phone."""
        self._audio.put(entry, package, data)

    def audio_stream(self, user_id: str, stream_id: str) -> AsyncIterator[bytes] | None:
        entry = self._sessions.get(user_id)
        return None if entry is None else self._audio.take(entry, stream_id)

    # ------------------------------------------------------------------------------------------------ what has changed

    def push_app_settings(self, user_id: str, package_name: str) -> None:
        entry = self._sessions.get(user_id)
        if entry is not None:
            self._saves.push_app_settings(entry, package_name)

    def push_user_settings(self, user_id: str) -> None:
        entry = self._sessions.get(user_id)
        if entry is not None:
            self._saves.push_user_settings(entry)

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
        self._tell("app_server", package=package_name)
        return self._servers.restarted(package_name)

    def close_app(self, package_name: str, reason: str) -> None:
        self._tell("close_app", package=package_name, reason=reason)
        self._close_app_here(package_name, reason)

    def _close_app_here(self, package_name: str, reason: str) -> None:
        for entry in list(self._sessions.values()):
            if entry.session.app(package_name) is not None:
                self.feed(entry, entry.session.stop_app, package_name)
                self._journal.note(entry, "app_closed", {"package": package_name, "reason": reason})

    def token_revoked(self, user_id: str, token_id: str) -> None:
        self._tell("token_revoked", user=user_id, token=token_id)
        self._token_revoked_here(user_id, token_id)

    def _token_revoked_here(self, user_id: str, token_id: str) -> None:
        entry = self._sessions.get(user_id)
        if entry is None or entry.token_id != token_id:
            return
        connection = self.connection(entry.session.glasses_connection)
        if connection is not None:
            connection.send(Frame.text(_REVOKED), Delivery.RELIABLE)
            connection.close(CloseCode.POLICY, "credential revoked")

    # ================================================================================================ the end

    async def drain(self) -> None:
        """Everyone is told to come back (1012); state is flushed. Ends within the configured time; whoever asks while it
        goes on waits for it as well."""
        if self._drain is None:
            self._drain = self.own(self._send_away())
        await asyncio.wait((self._drain,))
        saves = {task for entry in (*self._sessions.values(), *self._ending) for task in entry.saves}
        if saves:
            await asyncio.wait(saves, timeout=self._config.drain_timeout)

    async def _send_away(self) -> None:
        """In slices: 2,000 sessions at once would hold up everybody who is still served for 0.3 s."""
        if self.cluster is not None:
            await self.cluster.drain(self._config.drain_timeout)
        sessions = list(self._sessions.values())
        await self.turns.each(partial(self.feed, entry, entry.session.drain) for entry in sessions)

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
        await self.tasks.close()

    def publish(self) -> None:
        """Bring the metrics up to date."""
        self._figures.carry()
        self.sockets.carry()
        self._figures.gauge(entry.session for entry in self._sessions.values())
        if self.on_published is not None:
            self.on_published()


def _timing(config: CloudConfig) -> SessionTiming:
    return SessionTiming(
        grace=config.sessions.grace,
        audio_frames_max=config.limits.audio_frames_per_second,
        lifecycle=LifecycleTiming(grace=config.sessions.app_grace, webhook=config.webhooks.timeout),
        display=DisplayTiming(interval=config.display.interval, boot=config.display.boot),
    )


def _local_utc_offset() -> float:
    """The server's zone, until the phone tells the wearer's."""
    return float(time.localtime().tm_gmtoff)
