"""The cloud as a process: the real sessions behind a small hub, a store that survives it, and sockets that do not.

Rules: what a hub must do and no more: one session per user, late things to their own session, one timer per session,
liveness per socket. The store is durable and may be slow or away. A bug in one session ends that session; here it also
ends the run.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

import orjson

from cloud.core import effects as do
from cloud.core.app_lifecycle import AppState
from cloud.core.clock import WallClock
from cloud.core.endpoints import Endpoints, HeldBack
from cloud.core.session import AppInfo, Session, SessionState, SessionTiming, UserData
from tests.simulation.app_server import AppServer, AppSession
from tests.simulation.edge_program import EdgeProgram
from tests.simulation.network import Connection, End
from tests.simulation.watch import Sent, WatchedLink
from tests.support.pump import Alarm, Pump
from wire.codec import encode
from wire.liveness import CLOUD_APP, CLOUD_GLASSES, Ask, Dead, Liveness, LivenessEffect, LivenessPolicy, Speak
from wire.messages.cloud_to_glasses import PingToGlasses

#: After a restart SDKs that come back by themselves are given this long (wire spec 3.12), as the hub does.
SDK_RETURN = 3.5


@dataclass
class Stored:
    """What is durable about one user."""

    wanted: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What an app has last drawn, as far as it reached the cloud, and which life of the cloud that was."""

    text: str
    cloud_boot: int


@dataclass(eq=False)
class Seat:
    """One session and its timer."""

    user: str
    session: Session
    alarm: Alarm
    watched: WatchedLink


@dataclass(eq=False)
class Socket:
    """One accepted connection."""

    id: int
    connection: Connection
    seat: Seat | None = None  # glasses: from the start; apps: once identified
    package: str | None = None
    liveness: Liveness | None = None
    alarm: Alarm | None = None
    refused: bool = False  # asked to be closed; its end comes with the next turn of the loop


class Broken(AssertionError):
    """The cloud did something that no shell could perform."""


class CloudProgram:
    """The process and, beside it, its durable store."""

    def __init__(
        self, pump: Pump, rng: random.Random, epochs: dict[str, Sent], servers: dict[str, AppServer]
    ) -> None:
        self.pump = pump
        self.rng = rng
        self.epochs = epochs
        self.servers = servers
        self.up = True
        self.boots = 1
        self.draining = False
        self.booted_at = float("-inf")
        self.returning: set[str] = set()  # users of the former process who have not been seen yet
        self.stored: dict[str, Stored] = {}
        self.store_delay = 0.005
        self.store_away = False
        self.records: dict[str, AppInfo] = {}
        self.seats: dict[str, Seat] = {}
        self.ending: list[Seat] = []  # unregistered, not finished
        self.sockets: dict[int, Socket] = {}
        self.connections: list[Connection] = []
        self.delay = 0.02
        self.holes = (False, False)
        self.endpoints = Endpoints()
        self.post_stop_holds = 0
        self.started: list[do.StartSettled] = []
        self.drawn: dict[tuple[str, str], Drawn] = {}  # (user, package); for the questions, not for the hub
        self._ids = itertools.count(1)
        self._names = itertools.count(1)

    # -- the process

    def boot(self) -> None:
        self.up, self.draining = True, False
        self.boots += 1
        self.booted_at = self.pump.now
        self.returning = set(self.stored)
        self.endpoints = Endpoints()

    def kill(self) -> None:
        """SIGKILL."""
        self.up = False
        for seat in [*self.seats.values(), *self.ending]:
            seat.alarm.cancel()
        for socket in list(self.sockets.values()):
            if socket.alarm is not None:
                socket.alarm.cancel()
            socket.connection.kill(1)
        self.seats.clear()
        self.ending.clear()
        self.sockets.clear()
        self.connections.clear()

    def drain(self) -> None:
        """SIGTERM: everyone is told to come back, then the process ends."""
        self.draining = True
        for seat in list(self.seats.values()):
            self._perform(seat, seat.session.drain(self.pump.now))
        boot = self.boots
        self.pump.after(0.5, lambda: self.kill() if self.up and boot == self.boots else None)

    def _later(self, delay: float, call: Callable[[], None]) -> None:
        """Something that the process waits for; gone with it."""
        boot = self.boots
        self.pump.after(delay, lambda: call() if self.up and boot == self.boots else None)

    def _store(self, call: Callable[[], None]) -> None:
        def attempt() -> None:
            if self.store_away:
                self._later(1.0, attempt)
            else:
                call()

        self._later(self.store_delay * (0.5 + self.rng.random()), attempt)

    # -- glasses

    def dial_glasses(self, edge: EdgeProgram, conn_id: int) -> None:
        boot = edge.boots
        if any(self.holes):
            return
        if not self.up or self.draining:
            status = 503 if self.draining else None
            self.pump.after(self.delay, lambda: edge.dial_failed(conn_id, boot, status))
            return

        def accept() -> None:
            if not self.up or self.draining:
                edge.dial_failed(conn_id, boot, None)
                return
            if boot != edge.boots or edge.node is None:
                return  # the process that dialled has died, and its socket with it
            connection = self._connect(edge)
            edge.dialled(conn_id, connection, boot)
            seat = self._seat(edge.user)
            socket = Socket(connection.keys[1], connection, seat)
            self.sockets[socket.id] = socket
            self._watch(socket, CLOUD_GLASSES)
            self._perform(seat, seat.session.glasses_connected(socket.id, self.pump.now))

        self.pump.after(self.delay, accept)

    def _connect(self, other: End) -> Connection:
        connection = Connection(self.pump, self.rng, (other, self), self.delay)
        connection.keys[1] = next(self._ids)
        connection.held = [self.holes[1], self.holes[0]]
        self.connections = [c for c in self.connections if c.alive]
        self.connections.append(connection)
        return connection

    def _seat(self, user: str, *, with_glasses: bool = True) -> Seat:
        seat = self.seats.get(user)
        if seat is None:
            left = self.booted_at + SDK_RETURN - self.pump.now
            returns = user in self.returning and left > 0
            self.returning.discard(user)
            name = f"{user}/cloud{next(self._names)}"
            watched = WatchedLink(name, initiator=False, peers=self.epochs)
            session = Session(
                user,
                apps=self.records,
                websocket_url="ws://cloud/app-ws",
                random=self.rng.random,
                new_id=lambda: f"{user}/cloud{next(self._names)}",
                clock=WallClock(1_700_000_000.0),
                now=self.pump.now,
                timing=SessionTiming(restore_delay=left if returns else 0.0),
                link=watched,
            )
            alarm = Alarm(self.pump, lambda: session.deadline, lambda: self._ring(seat))
            seat = self.seats[user] = Seat(user, session, alarm, watched)
            self._perform(seat, session.start(self.pump.now, with_glasses=with_glasses))
        return seat

    def _ring(self, seat: Seat | None) -> None:
        assert seat is not None
        self._perform(seat, seat.session.handle_deadline(self.pump.now))

    # -- apps

    def dial_app(self, end: AppSession, opened: Callable[[Connection | None], None]) -> None:
        def accept() -> None:
            if not self.up or self.draining:
                opened(None)
                return
            connection = self._connect(end)
            connection.held = [False, False]  # the network faults of wearers are not those of app servers
            socket = Socket(connection.keys[1], connection)
            self.sockets[socket.id] = socket
            self._watch(socket, CLOUD_APP)
            opened(connection)

        self.pump.after(self.delay, accept)

    def _identify(self, socket: Socket, data: bytes) -> None:
        message = orjson.loads(data)
        server = self.servers.get(message["packageName"])
        user = message["sessionId"].removesuffix(f"-{message['packageName']}")
        if user in self.returning and user not in self.seats and server is not None:
            self._seat(user, with_glasses=False)  # back before the glasses of a user of the former process
        seat = self.seats.get(user)
        if server is None or message["apiKey"] != server.key or seat is None:
            socket.connection.send(
                1, orjson.dumps({"type": "tpa_connection_error", "code": "SESSION_NOT_FOUND"})
            )
            self._close(socket, 1008, "Session not found")
            return
        socket.seat, socket.package = seat, message["packageName"]
        self._perform(seat, seat.session.app_identified(socket.package, socket.id, self.pump.now))

    # -- what sockets bring

    def received(self, connection: Connection, data: bytes, binary: bool) -> None:
        socket = self.sockets.get(connection.keys[1])
        if socket is None:
            return
        self._heard(socket)
        now = self.pump.now
        if socket.seat is None:
            self._identify(socket, data)
        elif socket.package is not None:
            if not binary:
                self._note_drawing(socket.seat, socket, data)
                self._perform(socket.seat, socket.seat.session.app_text(socket.package, socket.id, data, now))
        elif binary:
            self._perform(socket.seat, socket.seat.session.glasses_audio(socket.id, data, now))
        else:
            if b'"type":"ping"' in data and socket.liveness is not None:
                socket.liveness.peer_asked(now)
            self._perform(socket.seat, socket.seat.session.glasses_text(socket.id, data, now))

    def misheld(self, seat: Seat) -> str | None:
        """What a session believes of its connections against what is so; words for the difference."""
        session = seat.session
        mine = [
            s for s in self.sockets.values() if s.seat is seat and s.package is None and s.refused is False
        ]
        newest = max((s.id for s in mine), default=None)
        if session.glasses_connection != newest:
            return f"its glasses connection is {session.glasses_connection}, the newest open one is {newest}"
        for package in self.servers:
            life = session.app(package)
            if (
                life is not None
                and life.state is AppState.CONNECTED
                and life.connection_id not in self.sockets
            ):
                return f"{package} is called connected on {life.connection_id}, which is closed"
        return None

    def _note_drawing(self, seat: Seat, socket: Socket, data: bytes) -> None:
        life = seat.session.app(socket.package or "")  # of this socket
        if life is None or life.connection_id != socket.id or life.state is not AppState.CONNECTED:
            return
        message = orjson.loads(data)
        if message["type"] == "display_event":
            text = message["layout"].get("text", "")
            self.drawn[seat.user, life.package] = Drawn(text, self.boots)

    def ponged(self, connection: Connection, payload: bytes) -> None:
        socket = self.sockets.get(connection.keys[1])
        if socket is None:
            return
        self._heard(socket)
        if socket.seat is not None and socket.package is not None and payload:
            self._perform(
                socket.seat, socket.seat.session.app_pong(socket.package, socket.id, payload, self.pump.now)
            )

    def closed(self, connection: Connection, code: int, reason: str) -> None:
        socket = self.sockets.pop(connection.keys[1], None)
        if socket is None:
            return
        if socket.alarm is not None:
            socket.alarm.cancel()
        if socket.seat is None:
            return
        if socket.package is not None:
            self._perform(socket.seat, socket.seat.session.app_lost(socket.package, socket.id, self.pump.now))
        else:
            self._perform(socket.seat, socket.seat.session.glasses_lost(socket.id, self.pump.now))

    # -- liveness: one owner per socket

    def _watch(self, socket: Socket, policy: LivenessPolicy) -> None:
        liveness = Liveness(socket.id, policy, self.pump.now)
        socket.liveness = liveness
        socket.alarm = Alarm(
            self.pump,
            lambda: liveness.deadline,
            lambda: self._live(socket, liveness.handle_deadline(self.pump.now)),
        )
        socket.alarm.set()

    def _heard(self, socket: Socket) -> None:
        if socket.liveness is not None:
            socket.liveness.received(
                self.pump.now
            )  # only ever moves the deadline out: the alarm may ring early

    def _live(self, socket: Socket, effects: Sequence[LivenessEffect]) -> None:
        for effect in effects:
            match effect:
                case Ask():
                    socket.connection.ping(1, b"")
                case Speak():
                    if socket.package is None and socket.seat is not None:
                        socket.connection.send(1, encode(PingToGlasses(sent_ms=None)))
                case Dead():
                    self._close(socket, 1001, "silent")
                    return
                case _:
                    assert_never(effect)
        if socket.alarm is not None:
            socket.alarm.set()

    def _close(self, socket: Socket, code: int, reason: str) -> None:
        socket.connection.close(1, code, reason)

    # -- effects

    def _perform(self, seat: Seat, effects: Sequence[do.Effect]) -> None:
        session, now = seat.session, self.pump.now
        for effect in effects:
            match effect:
                case do.SendToGlasses(connection_id, payload):
                    self._send(seat, connection_id, None, payload)
                case do.SendToApps(connection_ids, payload, _, _, about):
                    for connection_id in connection_ids:
                        self._send(seat, connection_id, about, payload)
                case do.SendAudio(connection_ids, pcm):
                    for connection_id in connection_ids:
                        self._send(seat, connection_id, "audio", pcm, binary=True)
                case do.PingApp(connection_id, payload):
                    if connection_id in self.sockets:
                        self.sockets[connection_id].connection.ping(1, payload)
                case do.CloseGlasses(connection_id, code, reason) | do.CloseApp(connection_id, code, reason):
                    if connection_id in self.sockets:
                        # on_closed comes later, from the loop
                        socket = self.sockets[connection_id]
                        socket.refused = True
                        self._later(0.0, lambda s=socket, c=code, r=reason: self._close(s, c, r))  # type: ignore[misc]
                case do.LoadUser():
                    self._load_user(seat)
                case do.LoadApp(package, cycle):
                    self._store(
                        lambda p=package, c=cycle: self._perform(  # type: ignore[misc]
                            seat, session.app_loaded(p, c, {}, self.pump.now)
                        )
                    )
                case do.PostSessionRequest():
                    self._post(seat, effect)
                case do.CancelSessionRequest():
                    pass  # the answer of a cancelled request is stale by its cycle
                case do.PostStopRequest():
                    self._post_stop(seat, effect)
                case do.SaveWanted(package, wanted):
                    stored = self.stored.setdefault(seat.user, Stored())
                    if wanted and package not in stored.wanted:
                        stored.wanted.append(package)
                    elif not wanted and package in stored.wanted:
                        stored.wanted.remove(package)
                case do.SaveSettings(changes):
                    self.stored.setdefault(seat.user, Stored()).settings.update(changes)
                case do.EndpointVerdict(base_url, ok):
                    if not ok:
                        self.endpoints.failed(base_url, now)
                    elif self.endpoints.succeeded(base_url, now):
                        self._later(0.0, lambda url=base_url: self._server_is_back(url))  # type: ignore[misc]
                case do.StartSettled():
                    self.started.append(effect)
                case do.Unregister():
                    if self.seats.get(seat.user) is seat:
                        del self.seats[seat.user]
                        self.ending.append(seat)
                case do.Finished():
                    if seat in self.ending:
                        self.ending.remove(seat)
                    seat.alarm.cancel()
                case (
                    do.PostPhotoFailure()
                    | do.SaveLocation()
                    | do.StopSettled()
                    | do.Presence()
                    | do.ToOtherUsers()
                    | do.SpeechNeeds()
                    | do.AudioStreamOpened()
                    | do.AudioStreamEnded()
                    | do.AppMoved()
                    | do.Record()
                    | do.Displayed()
                ):
                    pass
                case _:
                    assert_never(effect)
        if session.state in (SessionState.DISCONNECTED, SessionState.ERROR):
            seat.alarm.cancel()
        elif self.up:
            seat.alarm.set()

    def _server_is_back(self, base_url: str) -> None:
        """The outage of an app server has ended: nobody waits for his own next attempt."""
        for seat in list(self.seats.values()):
            for package, record in self.records.items():
                life = seat.session.app(package)
                if record.base_url == base_url and life is not None and life.awaits_its_server:
                    self._perform(seat, seat.session.app_server_seen(package, self.pump.now))

    def _send(
        self, seat: Seat, connection_id: int, about: str | None, payload: bytes, binary: bool = False
    ) -> None:
        socket = self.sockets.get(connection_id)
        if socket is None:
            return
        if socket.seat is not seat:
            raise Broken(
                f"I3: {seat.user} sends {about} to a connection of {socket.seat and socket.seat.user}"
            )
        if (about is None) != (socket.package is None):
            raise Broken(f"I3: {seat.user}: frame for glasses and apps confused")
        if socket.package is not None and (binary or payload.startswith(b'{"type":"data_stream"')):
            life = seat.session.app(socket.package)
            if life is None or not life.wanted or life.state is not AppState.CONNECTED:
                state = None if life is None else (life.state, life.wanted)
                raise Broken(f"I2: {about} to {socket.package} of {seat.user}, which is {state}")
        if socket.liveness is not None:
            socket.liveness.sent(self.pump.now)
        socket.connection.send(1, payload, binary)

    def _load_user(self, seat: Seat) -> None:
        def loaded() -> None:
            stored = self.stored.setdefault(seat.user, Stored())
            data = UserData(settings=dict(stored.settings), wanted=tuple(stored.wanted))
            self._perform(seat, seat.session.user_loaded(data, self.pump.now))

        self._store(loaded)

    def _post(self, seat: Seat, request: do.PostSessionRequest) -> None:
        package, cycle, session = request.package, request.cycle, seat.session
        ruling = self.endpoints.ask(request.base_url, self.pump.now, by_user=request.by_user)
        answered = False

        def answer(ok: bool, from_app: bool, retry_after: float = 0.0) -> None:
            nonlocal answered
            if not answered:
                answered = True
                self._perform(
                    seat,
                    session.webhook_answered(
                        package,
                        cycle,
                        self.pump.now,
                        ok=ok,
                        message="" if ok else "failed",
                        from_app=from_app,
                        retry_after=retry_after,
                    ),
                )

        if isinstance(ruling, HeldBack):
            self._later(0.0, lambda: answer(False, False, ruling.retry_after))
            return
        server = self.servers[package]
        body = dict(request.body)
        self._later(
            ruling.delay,
            lambda: self._perform(seat, session.request_sent(package, cycle, self.pump.now)),
        )
        self.pump.after(
            ruling.delay + 0.01,
            lambda: server.webhook(
                body, lambda ok, from_app: self._later(0.01, lambda: answer(ok, from_app))
            ),
        )
        self._later(ruling.delay + request.timeout, lambda: answer(False, False))

    def _post_stop(self, seat: Seat, request: do.PostStopRequest) -> None:
        answered = False

        def answer() -> None:
            nonlocal answered
            if not answered:
                answered = True
                self._perform(seat, seat.session.stop_answered(request.package, request.cycle, self.pump.now))

        server, body = self.servers[request.package], dict(request.body)
        self.pump.after(0.01, lambda: server.webhook(body, lambda ok, from_app: self._later(0.01, answer)))
        self._later(request.timeout, answer)
