"""Messages between users of the same app: broadcast, direct, rooms.

Rules: one machine per process; a member is a (user, package) whose app is connected, as said by its own session. The
sender is always the socket's own user. Everything is bounded; an empty room does not exist. Source: wire spec 3.10.8.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from wire.messages import app_to_cloud as app
from wire.messages import cloud_to_app as to_app
from wire.messages.base import Message

#: Rooms of one package, and members of a room whose creator set no limit.
ROOMS_MAX: Final = 1000
MEMBERS_MAX: Final = 100

UpdateType: TypeAlias = Literal["user_joined", "user_left", "config_changed", "room_closed"]


@dataclass(frozen=True, slots=True)
class Send:
    """A bare message to the app `package` of `user`."""

    user: str
    package: str
    message: Message


@dataclass(slots=True)
class _Room:
    limit: int
    is_private: bool
    metadata: dict[str, Any] | None
    members: dict[str, None] = field(default_factory=dict)


class Rooms:
    """Who is there, package by package."""

    def __init__(self) -> None:
        self._present: dict[str, dict[str, str]] = {}  # package -> user -> session id
        self._rooms: dict[str, dict[str, _Room]] = {}  # package -> room id -> room

    def arrived(self, user: str, package: str, session_id: str) -> None:
        """The user's app is connected."""
        self._present.setdefault(package, {})[user] = session_id

    def left(self, user: str, package: str, timestamp: str) -> list[Send]:
        """The user's app is gone: he leaves every room."""
        present = self._present.get(package)
        if present is not None:
            present.pop(user, None)
            if not present:
                del self._present[package]
        effects: list[Send] = []
        for room_id in [r for r, room in self._rooms.get(package, {}).items() if user in room.members]:
            effects += self._leave(user, package, room_id, timestamp)
        return effects

    def memberships(self, user: str, package: str) -> list[app.AppRoomJoin]:
        """The user's rooms, as joins that another node of the cluster can repeat."""
        return [
            app.AppRoomJoin(
                package_name=package,
                session_id=None,
                room_id=room_id,
                room_config=app.RoomConfig(
                    max_users=room.limit, is_private=room.is_private, metadata=room.metadata
                ),
            )
            for room_id, room in self._rooms.get(package, {}).items()
            if user in room.members
        ]

    def users_of(self, package: str) -> list[str]:
        """Users whose app is connected."""
        return list(self._present.get(package, {}))

    def broadcast(
        self, user: str, package: str, message: app.AppBroadcastMessage, timestamp: str
    ) -> list[Send]:
        """To everyone else, or everyone else in a room that the sender is in."""
        receivers = self._present.get(package, {})
        if message.room_id is not None:
            room = self._rooms.get(package, {}).get(message.room_id)
            members = room.members if room is not None and user in room.members else {}
            receivers = {u: s for u, s in receivers.items() if u in members}
        body = self._received(user, package, message.payload, message.message_id, timestamp, message.room_id)
        return [Send(other, package, body) for other in receivers if other != user]

    def direct(self, user: str, package: str, message: app.AppDirectMessage, timestamp: str) -> list[Send]:
        """To one user; the sender is told whether he was there."""
        target = message.target_user_id.lower()
        there = target in self._present.get(package, {}) and target != user
        effects = []
        if there:
            body = self._received(user, package, message.payload, message.message_id, timestamp, None)
            effects.append(Send(target, package, body))
        answer = to_app.AppDirectMessageResponse(
            message_id=message.message_id,
            success=there,
            error=None if there else "the user is not active in this app",
            target_user_id=message.target_user_id,
            timestamp=timestamp,
        )
        return [*effects, Send(user, package, answer)]

    def join(self, user: str, package: str, message: app.AppRoomJoin, timestamp: str) -> list[Send]:
        """A full room silently takes nobody (wire spec 3.10.8)."""
        rooms = self._rooms.setdefault(package, {})
        room = rooms.get(message.room_id)
        if room is None:
            if len(rooms) >= ROOMS_MAX:
                return []
            config = message.room_config
            room = rooms[message.room_id] = _Room(
                limit=min(config.max_users if config and config.max_users else MEMBERS_MAX, 10 * MEMBERS_MAX),
                is_private=bool(config and config.is_private),
                metadata=config.metadata if config else None,
            )
        if user in room.members or len(room.members) >= room.limit:
            return []
        effects = [
            Send(
                member,
                package,
                to_app.AppUserJoined(
                    user_id=user,
                    session_id=user,
                    joined_at=timestamp,
                    room_id=message.room_id,
                    timestamp=timestamp,
                ),
            )
            for member in room.members
        ]
        room.members[user] = None
        return effects + self._updated(package, message.room_id, room, "user_joined", timestamp)

    def leave(self, user: str, package: str, message: app.AppRoomLeave, timestamp: str) -> list[Send]:
        return self._leave(user, package, message.room_id, timestamp)

    def discovered(self, user: str, package: str, timestamp: str) -> list[Send]:
        """The user asked who is there: the others learn that he is."""
        return [
            Send(
                other,
                package,
                to_app.AppUserJoined(user_id=user, session_id=user, joined_at=timestamp, timestamp=timestamp),
            )
            for other in self._present.get(package, {})
            if other != user
        ]

    def _leave(self, user: str, package: str, room_id: str, timestamp: str) -> list[Send]:
        rooms = self._rooms.get(package, {})
        room = rooms.get(room_id)
        if room is None or user not in room.members:
            return []
        del room.members[user]
        if not room.members:
            del rooms[room_id]
            if not rooms:
                del self._rooms[package]
            return []
        effects = [
            Send(
                member,
                package,
                to_app.AppUserLeft(
                    user_id=user,
                    session_id="unknown",
                    left_at=timestamp,
                    room_id=room_id,
                    timestamp=timestamp,
                ),
            )
            for member in room.members
        ]
        return effects + self._updated(package, room_id, room, "user_left", timestamp)

    def _updated(
        self, package: str, room_id: str, room: _Room, update: UpdateType, timestamp: str
    ) -> list[Send]:
        data: dict[str, Any] = {
            "memberCount": len(room.members),
            "maxUsers": room.limit,
            "isPrivate": room.is_private,
        }
        if room.metadata is not None:
            data["metadata"] = room.metadata
        message = to_app.AppRoomUpdated(
            room_id=room_id, update_type=update, room_data=data, timestamp=timestamp
        )
        return [Send(member, package, message) for member in room.members]

    def _received(
        self, user: str, package: str, payload: Any, message_id: str, timestamp: str, room_id: str | None
    ) -> Message:
        return to_app.AppMessageReceived(
            payload=payload,
            message_id=message_id,
            sender_user_id=user,
            sender_session_id=self._present.get(package, {}).get(user, ""),
            room_id=room_id,
            timestamp=timestamp,
        )
