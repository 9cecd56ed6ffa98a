"""Real sessions of one process without sockets: each is fed as the hub does, and what it sends to its apps is kept.

Rules: the time is the loop's; storage answers at once; what else a session wants done is offered to `also` and dropped.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import orjson

from cloud.core import effects as fx
from cloud.core.clock import WallClock
from cloud.core.session import AppInfo, Session
from cloud.core.session_types import UserData
from cloud.session_entry import SessionEntry


class FedSessions:
    """`feed` is a `cloud.session_entry.Feed`; `also`: performs an effect, as one part of the hub would."""

    def __init__(self, *apps: str) -> None:
        self.apps = {
            package: AppInfo(
                package, package, "http://192.0.2.9", kind="background", permissions=frozenset({"ALL"})
            )
            for package in apps
        }
        self.sessions: dict[str, SessionEntry] = {}
        self.also: Callable[[SessionEntry, Any, float], None] = lambda entry, effect, now: None
        self._sent: dict[tuple[str, int], list[dict[str, Any]]] = {}
        self._ids = itertools.count(1)
        self._connections = itertools.count(1)
        self._loop = asyncio.get_running_loop()
        self.nested = 0  # inputs to a session given while another was being fed
        self._feeding: list[SessionEntry] = []

    def feed(self, entry: SessionEntry, method: Callable[..., list[fx.Effect]], /, *args: Any) -> None:
        self.nested += any(other is not entry for other in self._feeding)
        self._feeding.append(entry)
        now = self._loop.time()
        for effect in method(*args, now):
            match effect:
                case fx.LoadUser():
                    self.feed(entry, entry.session.user_loaded, UserData())
                case fx.LoadApp(package, cycle):
                    self.feed(entry, entry.session.app_loaded, package, cycle, {})
                case fx.SendToApps():
                    for connection in effect.connection_ids:
                        kept = self._sent.setdefault((entry.session.user_id, connection), [])
                        kept.append(orjson.loads(effect.payload))
                case _:
                    self.also(entry, effect, now)
        self._feeding.pop()

    def session(self, user: str) -> SessionEntry:
        """A session whose glasses are connected."""
        session = Session(
            user,
            apps=self.apps,
            websocket_url="ws://192.0.2.1/app-ws",
            random=random.Random(1).random,
            new_id=lambda: f"id{next(self._ids)}",
            clock=WallClock(1_767_225_600.0),
            now=self._loop.time(),
        )
        entry = self.sessions[user] = SessionEntry(session)
        self.feed(entry, session.start)
        self.feed(entry, session.glasses_connected, next(self._connections))
        return entry

    def app(self, entry: SessionEntry, package: str, *streams: str) -> int:
        """An app of the session is started, connected and subscribed; its connection."""
        self.feed(entry, entry.session.start_app, package)
        connection = next(self._connections)
        self.feed(entry, entry.session.app_identified, package, connection)
        wanted = {"type": "subscription_update", "packageName": package, "subscriptions": streams}
        self.feed(entry, entry.session.app_text, package, connection, orjson.dumps(wanted))
        return connection

    def sent(self, entry: SessionEntry, connection: int, kind: str) -> list[dict[str, Any]]:
        """Messages of this type that went to an app."""
        sent = self._sent.get((entry.session.user_id, connection), [])
        return [message for message in sent if message["type"] == kind]

    def events(self, entry: SessionEntry, connection: int, stream: str) -> list[Any]:
        """Data of the events that were delivered to an app under `stream`."""
        return [m["data"] for m in self.sent(entry, connection, "data_stream") if m["streamType"] == stream]
