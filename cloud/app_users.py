"""Who has which app connected, here and on other nodes, and what apps of one kind say to each other across users.

Rules: every node works out rooms and receivers alike (`cloud.core.rooms`) and delivers to its own users. One session is
never fed from inside another: what it is sent arrives in the next turn of the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cloud.core.rooms import Rooms, Send
from cloud.http.ports import Presence
from cloud.session_entry import Feed, SessionEntry
from wire.codec import validate
from wire.messages import APP_TO_CLOUD, iso
from wire.messages import app_to_cloud as app


class Tell(Protocol):
    """Tell all other nodes; alone, nobody."""

    def __call__(self, what: str, /, **news: Any) -> None: ...


class AppUsers:
    """`sessions`: those of this node, a live view."""

    def __init__(self, *, sessions: Mapping[str, SessionEntry], feed: Feed, tell: Tell) -> None:
        self._sessions = sessions
        self._feed = feed
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._rooms = Rooms()
        #: (user, package) of apps that other nodes have connected -> the node and since when (wall clock, seconds).
        self._elsewhere: dict[tuple[str, str], tuple[str, float]] = {}

    # ================================================================================================ at this node

    def arrived(self, entry: SessionEntry, package: str, session_id: str) -> None:
        """An app of a session here is connected."""
        entry.connected_at[package] = time.time()
        self._rooms.arrived(entry.session.user_id, package, session_id)
        self._tell_presence(entry, package, session_id)

    def left(self, entry: SessionEntry, package: str) -> None:
        """It no longer is."""
        user_id = entry.session.user_id
        self._tell("absent", user=user_id, package=package)
        entry.connected_at.pop(package, None)
        if self._sessions.get(user_id) in (entry, None):
            self._gone(user_id, package)

    def said(self, entry: SessionEntry, package: str, message: Any) -> None:
        """An app has something for its other users, or asks who they are."""
        user_id, at = entry.session.user_id, timestamp()
        self._tell("said", user=user_id, package=package, message=message.to_wire(), at=at)
        self._said(user_id, package, message, at)

    def tell_all(self) -> None:
        """A node that is new, or has missed something, asks who is where."""
        for user_id, entry in self._sessions.items():
            for package in entry.connected_at:
                self._tell_presence(entry, package, entry.session.session_id_of(package) or "")
                for join in self._rooms.memberships(user_id, package):
                    self._tell("said", user=user_id, package=package, message=join.to_wire(), at=timestamp())

    def _tell_presence(self, entry: SessionEntry, package: str, session_id: str) -> None:
        user_id, joined = entry.session.user_id, entry.connected_at[package]
        self._tell("present", user=user_id, package=package, session=session_id, joined=joined)

    # ================================================================================================ at other nodes

    def arrived_elsewhere(self, user: str, package: str, news: Mapping[str, Any]) -> None:
        """Another node has a user's app. Raises KeyError, TypeError or ValueError for what cannot be read."""
        session_id, where = str(news["session"]), (str(news["node"]), float(news["joined"]))
        self._rooms.arrived(
            user, package, session_id
        )  # read as a whole first: half an arrival would stay for ever
        self._elsewhere[user, package] = where

    def left_elsewhere(self, user: str, package: str) -> None:
        """It no longer has."""
        self._elsewhere.pop((user, package), None)
        if user not in self._sessions:
            self._gone(user, package)

    def said_elsewhere(self, user: str, package: str, news: Mapping[str, Any]) -> None:
        """An app at another node has something for its other users. Raises like `arrived_elsewhere`, and ProtocolError."""
        message = validate(APP_TO_CLOUD, news["message"])
        if message is not None:
            self._said(user, package, message, str(news["at"]))

    def node_gone(self, node: str) -> None:
        """A node has been silent for long: its users are nobody's until another node says so."""
        for (user, package), (where, _) in list(self._elsewhere.items()):
            if where == node:
                self.left_elsewhere(user, package)

    # ================================================================================================ rooms

    def _gone(self, user: str, package: str) -> None:
        self._deliver_later(self._rooms.left(user, package, timestamp()))

    def _said(self, user_id: str, package: str, message: Any, at: str) -> None:
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
        if sends:
            self._loop.call_soon(self._deliver, sends)

    def _deliver(self, sends: Sequence[Send]) -> None:
        for send in sends:
            target = self._sessions.get(send.user)
            if target is not None:
                self._feed(target, target.session.deliver, send.package, send.message)

    def users_of(self, package: str) -> Sequence[Presence]:
        """Everybody who has this app connected now."""
        found = []
        for user_id in self._rooms.users_of(package):
            entry = self._sessions.get(user_id)
            elsewhere = self._elsewhere.get((user_id, package))
            if entry is not None:
                found.append(Presence(user_id, user_id, entry.connected_at.get(package, 0.0)))
            elif elsewhere is not None:
                found.append(Presence(user_id, user_id, elsewhere[1]))
        return found


def timestamp() -> str:
    """Now, as messages to apps are dated."""
    return iso(time.time())
