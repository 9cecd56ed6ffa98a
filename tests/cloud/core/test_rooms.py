"""Messages between users of one app."""

from __future__ import annotations

from cloud.core.rooms import Rooms
from wire.messages import app_to_cloud as app


def test_messages_between_users_reach_the_others_and_never_the_sender() -> None:
    rooms = Rooms()
    for user in ("u1", "u2", "u3"):
        rooms.arrived(user, "p", f"{user}-p")
    rooms.arrived("u4", "other", "u4-other")
    sends = rooms.broadcast("u1", "p", app.AppBroadcastMessage(message_id="m", payload={"a": 1}), "T")
    assert [s.user for s in sends] == ["u2", "u3"]
    assert sends[0].message.to_wire()["senderUserId"] == "u1"
    direct = rooms.direct("u1", "p", app.AppDirectMessage(target_user_id="U2", message_id="m"), "T")
    assert [(s.user, s.message.type) for s in direct] == [
        ("u2", "app_message_received"),
        ("u1", "app_direct_message_response"),
    ]
    missing = rooms.direct("u1", "p", app.AppDirectMessage(target_user_id="u4", message_id="m"), "T")
    assert missing[0].message.to_wire()["success"] is False


def test_a_room_has_a_limit_and_vanishes_when_empty() -> None:
    rooms = Rooms()
    for user in ("u1", "u2", "u3"):
        rooms.arrived(user, "p", f"{user}-p")
    config = app.RoomConfig(max_users=2)
    assert [s.user for s in rooms.join("u1", "p", app.AppRoomJoin(room_id="r", room_config=config), "T")] == [
        "u1"
    ]
    rooms.join("u2", "p", app.AppRoomJoin(room_id="r"), "T")
    assert rooms.join("u3", "p", app.AppRoomJoin(room_id="r"), "T") == []
    inside = rooms.broadcast("u1", "p", app.AppBroadcastMessage(message_id="m", room_id="r"), "T")
    assert [s.user for s in inside] == ["u2"]
    assert {s.message.type for s in rooms.left("u2", "p", "T")} == {"app_user_left", "app_room_updated"}
    assert rooms.left("u1", "p", "T") == []
    assert rooms._rooms == {}
