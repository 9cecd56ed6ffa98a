"""App servers as the SDK makes them: sessions opened by webhook, reconnects that give up, subscriptions sent twice.

Rules: behaviour follows the recordings of SDK 2.1.29 (wire spec 3.1, 3.11, 3.12, 3.14, 4.1): first `[]`, then the full
list; 1000/1001 end, 1008 kills without a word, everything else is retried at +1 s and +3 s and given up at +6 s; a
session_request for a session that exists makes a second one beside it. A killed server forgets everything.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from tests.simulation.network import Connection
from tests.support.pump import Pump, Timer


class AppCloud(Protocol):
    """Where an app server connects to."""

    def dial_app(self, end: AppSession, opened: Callable[[Connection | None], None]) -> None:
        """`opened` gets the connection, or None when the cloud is not there."""


Answer = Callable[[bool, bool], None]  # ok, whether the app itself said no


@dataclass(eq=False)
class AppSession:
    """One SDK session object: one user's life inside the app server."""

    server: AppServer
    session_id: str
    user: str
    answer: Answer | None = None
    connection: Connection | None = None
    acknowledged: bool = False
    was_acknowledged: bool = False
    over: bool = False
    attempts: int = 0
    dropped_at: float = 0.0
    life: int = 0
    timers: list[Timer] = field(default_factory=list)
    events: list[tuple[float, str, bool, Any]] = field(default_factory=list)
    last_display: str | None = None
    audio_bytes: int = 0

    # -- connecting

    def connect(self) -> None:
        life = self.server.life
        self.life += 1
        mine = self.life

        def opened(connection: Connection | None) -> None:
            if life != self.server.life or self.over or mine != self.life:
                if connection is not None:
                    connection.kill(0)
                return
            if connection is None:
                self._failed()
                return
            self.connection, self.acknowledged = connection, False
            self._send(
                {
                    "type": "tpa_connection_init",
                    "packageName": self.server.package,
                    "sessionId": self.session_id,
                    "apiKey": self.server.key,
                }
            )
            self._after(5.0, lambda: self._ack_missing(connection))

        self.server.cloud.dial_app(self, opened)

    def _ack_missing(self, connection: Connection) -> None:
        if self.connection is connection and not self.acknowledged and self.answer is not None:
            # The webhook answers 500; a late acknowledgement would still be taken, without session code (16d).
            self._respond(False)

    def _failed(self) -> None:
        if self.was_acknowledged:
            waited = self.server.pump.now - self.dropped_at
            if self.attempts >= 2 or waited >= 6.0:
                self._after(max(0.0, 6.0 - waited), self.end)
            else:
                self.attempts += 1
                self._after(2.0 ** (self.attempts - 1) if self.attempts == 1 else 2.0, self.connect)
        else:
            self._respond(False)
            self.end()

    def _respond(self, ok: bool) -> None:
        if self.answer is not None:
            answer, self.answer = self.answer, None
            answer(ok, not ok)

    def _after(self, delay: float, call: Callable[[], None]) -> None:
        life = self.server.life
        self.timers = [t for t in self.timers if t.call is not None]
        self.timers.append(
            self.server.pump.after(
                delay, lambda: call() if life == self.server.life and not self.over else None
            )
        )

    # -- the connection's end

    def received(self, connection: Connection, data: bytes, binary: bool) -> None:
        if connection is not self.connection or self.over:
            return
        if binary:
            self.audio_bytes += len(data)
            self.server.audio_at[self.user] = self.server.pump.now
            return
        message = orjson.loads(data)
        match message["type"]:
            case "tpa_connection_ack":
                self._acknowledged()
            case "data_stream":
                self._event(message)
            case _:
                self.server.other[message["type"]] = self.server.other.get(message["type"], 0) + 1

    def _acknowledged(self) -> None:
        first, self.acknowledged, self.attempts = not self.was_acknowledged, True, 0
        self.was_acknowledged = True
        self._send({"type": "subscription_update", "packageName": self.server.package, "subscriptions": []})
        if self.answer is None and first:
            return  # acknowledged after the SDK gave up: a socket without session code
        self._send(
            {
                "type": "subscription_update",
                "packageName": self.server.package,
                "subscriptions": self.server.streams,
            }
        )
        if first:
            if self.server.draws:
                self.show(f"{self.server.package}/ready/{self.user}")
            self._after(self.server.on_session, lambda: self._respond(True))
            if self.server.crashes:
                self._after(0.5, lambda: self.connection.close(0, 1006) if self.connection else None)

    def _event(self, message: dict[str, Any]) -> None:
        self.events.append(
            (self.server.pump.now, message["streamType"], bool(message.get("replayed")), message["data"])
        )
        self.server.heard(self, message)
        if self.server.draws and message["streamType"] in ("button_press", "touch_event"):
            self.server.counter += 1
            self.show(f"{self.server.package}/event{self.server.counter}/{self.user}")

    def show(self, text: str) -> None:
        self.last_display = text
        self._send(
            {
                "type": "display_event",
                "packageName": self.server.package,
                "view": "main",
                "layout": {"layoutType": "text_wall", "text": text},
            }
        )

    def _send(self, message: dict[str, Any]) -> None:
        if self.connection is not None:
            self.connection.send(0, orjson.dumps(message))

    def ponged(self, connection: Connection, payload: bytes) -> None:
        pass

    def closed(self, connection: Connection, code: int, reason: str) -> None:
        if connection is not self.connection:
            return
        self.connection = None
        if self.over:
            return
        if code in (1000, 1001, 1008):
            self._respond(False)
            self.end()
        elif self.was_acknowledged:
            self.dropped_at, self.attempts = self.server.pump.now, 1
            self._after(1.0, self.connect)
        else:
            self._respond(False)
            self.end()

    def end(self) -> None:
        """The session object is done; its socket closes without a code."""
        if self.over:
            return
        self.over = True
        for timer in self.timers:
            timer.cancel()
        if self.connection is not None:
            connection, self.connection = self.connection, None
            connection.close(0, 1005)
        self.server.sessions.discard(self)


class AppServer:
    """One app's process, serving all users."""

    def __init__(
        self,
        pump: Pump,
        rng: random.Random,
        cloud: AppCloud,
        package: str,
        streams: list[Any],
        *,
        draws: bool,
    ) -> None:
        self.pump = pump
        self.rng = rng
        self.cloud = cloud
        self.package = package
        self.streams = streams
        self.draws = draws
        self.key = f"key-of-{package}"
        self.up = True
        self.life = 0
        self.on_session = 0.05
        self.hangs = False  # accepts webhooks and never answers them
        self.crashes = False  # every session dies half a second after its acknowledgement
        self.sessions: set[AppSession] = set()
        self.requests: list[tuple[float, str]] = []  # session_requests that arrived: when, for which user
        self.audio_at: dict[str, float] = {}
        self.other: dict[str, int] = {}
        self.counter = 0
        self.heard: Callable[[AppSession, dict[str, Any]], None] = lambda session, message: None

    def kill(self) -> None:
        self.up = False
        self.life += 1
        for session in self.sessions:
            session.over = True
            if session.connection is not None:
                session.connection.kill(0)
        self.sessions.clear()

    def boot(self) -> None:
        self.up = True

    def webhook(self, body: dict[str, Any], answer: Answer) -> None:
        """A webhook has arrived. `answer` at most once; never when the server hangs or dies."""
        if not self.up:
            answer(False, False)
            return
        if self.hangs:
            return
        if body["type"] == "session_request":
            self.requests.append((self.pump.now, body["userId"]))
            session = AppSession(self, body["sessionId"], body["userId"], answer)
            self.sessions.add(session)
            self.pump.after(0.005 + 0.05 * self.rng.random(), session.connect)
        else:
            for session in [s for s in self.sessions if s.session_id == body["sessionId"]]:
                session.end()
            self.pump.after(0.02, lambda: answer(True, True))

    def live(self, user: str) -> list[AppSession]:
        """Sessions of a user whose socket is acknowledged."""
        return [s for s in self.sessions if s.user == user and s.acknowledged and s.connection is not None]
