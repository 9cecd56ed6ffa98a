"""Users of the same app, on one node and on several: who is there, and what their apps say to each other."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import orjson
import pytest

from cloud.app_users import AppUsers
from cloud.core import effects as fx
from cloud.session_entry import SessionEntry
from tests.support.fed_sessions import FedSessions
from wire.errors import ProtocolError

APP = "com.example.a"


class Node:
    """A node of a cluster; `told` is what it has told, and `others` hear it at once, as written on the bus."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.others: list[Node] = []
        self.told: list[str] = []
        self.fed = FedSessions(APP)
        self.users = AppUsers(sessions=self.fed.sessions, feed=self.fed.feed, tell=self.tell)
        self.fed.also = self.perform

    def perform(self, entry: SessionEntry, effect: Any, now: float) -> None:
        match effect:
            case fx.Presence(package, session_id, True):
                self.users.arrived(entry, package, session_id)
            case fx.Presence(package, _, False):
                self.users.left(entry, package)
            case fx.ToOtherUsers(package, message):
                self.users.said(entry, package, message)

    def tell(self, what: str, /, **news: Any) -> None:
        self.told.append(what)
        for other in self.others:
            other.hear(what, {**news, "node": self.name})

    def hear(self, what: str, news: dict[str, Any]) -> None:
        user, package = news["user"], news["package"]
        match what:
            case "present":
                self.users.arrived_elsewhere(user, package, news)
            case "absent":
                self.users.left_elsewhere(user, package)
            case _:
                self.users.said_elsewhere(user, package, news)

    def user(self, name: str) -> Member:
        entry = self.fed.session(name)
        return Member(self, entry, self.fed.app(entry, APP))

    def names(self) -> set[str]:
        return {presence.user_id for presence in self.users.users_of(APP)}


class Member:
    """A user with the app connected."""

    def __init__(self, node: Node, entry: SessionEntry, connection: int) -> None:
        self.node, self.entry, self.connection = node, entry, connection

    def says(self, message: dict[str, Any]) -> None:
        full = {"packageName": APP, "sessionId": "", **message}
        self.node.fed.feed(self.entry, self.entry.session.app_text, APP, self.connection, orjson.dumps(full))

    def leaves(self) -> None:
        self.node.fed.feed(self.entry, self.entry.session.end, "over")
        if self.node.fed.sessions.get(self.entry.session.user_id) is self.entry:
            del self.node.fed.sessions[self.entry.session.user_id]

    def got(self, kind: str) -> list[dict[str, Any]]:
        return self.node.fed.sent(self.entry, self.connection, kind)


BROADCAST = {"type": "app_broadcast_message", "messageId": "m1", "payload": {"n": 1}}
JOIN = {"type": "app_room_join", "roomId": "r"}


def direct(target: str) -> dict[str, Any]:
    return {"type": "app_direct_message", "messageId": "m2", "targetUserId": target, "payload": 2}


async def turn() -> None:
    """What was left for the next turn of the loop is done."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@pytest.fixture
async def nodes() -> tuple[Node, Node]:
    a, b = Node("a"), Node("b")
    a.others, b.others = [b], [a]
    return a, b


async def test_a_session_is_not_fed_from_inside_another() -> None:
    node = Node("alone")
    one, two = node.user("u1"), node.user("u2")
    one.says(BROADCAST)
    assert two.got("app_message_received") == [], "not within the sender's own input"
    await turn()
    assert [m["payload"] for m in two.got("app_message_received")] == [{"n": 1}]
    assert node.fed.nested == 0


async def test_users_of_two_nodes_hear_each_other_once_and_an_answer_comes_once(
    nodes: tuple[Node, Node],
) -> None:
    a, b = nodes
    one, two, three = a.user("u1"), b.user("u2"), b.user("u3")
    one.says(BROADCAST)
    one.says(direct("u2"))
    one.says(direct("nobody"))
    await turn()
    assert [m["senderUserId"] for m in two.got("app_message_received")] == ["u1", "u1"]
    assert [m["messageId"] for m in three.got("app_message_received")] == ["m1"]
    assert one.got("app_message_received") == []
    answers = [(m["targetUserId"], m["success"]) for m in one.got("app_direct_message_response")]
    assert answers == [("u2", True), ("nobody", False)]


async def test_a_room_is_the_same_room_on_every_node(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    one, two, three = a.user("u1"), b.user("u2"), b.user("u3")
    for member in (one, two):
        member.says(JOIN)
    one.says({**BROADCAST, "roomId": "r"})
    await turn()
    assert len(two.got("app_message_received")) == 1
    assert three.got("app_message_received") == []
    two.leaves()
    await turn()
    assert len(one.got("app_user_left")) == 1, "whose app is gone leaves its rooms everywhere"


async def test_who_is_there_is_known_on_every_node_with_the_same_times(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    one, _two = a.user("u1"), b.user("u2")
    assert a.names() == b.names() == {"u1", "u2"}
    times = [{p.user_id: p.joined_at for p in node.users.users_of(APP)} for node in nodes]
    assert times[0] == times[1]
    one.leaves()
    assert a.names() == b.names() == {"u2"}
    assert one.entry.connected_at == {}


async def test_a_node_that_asks_is_told_who_is_here_and_in_which_rooms(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    b.others = []  # its news are lost
    two = b.user("u2")
    two.says(JOIN)
    assert a.names() == set()
    b.others = [a]
    b.told.clear()
    b.users.tell_all()
    assert Counter(b.told) == {"present": 1, "said": 1}
    assert a.names() == {"u2"}
    one = a.user("u1")
    one.says(JOIN)
    two.says({**BROADCAST, "roomId": "r"})
    await turn()
    assert len(one.got("app_message_received")) == 1


async def test_the_users_of_a_node_that_fell_silent_are_nobodys(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    one, two = a.user("u1"), b.user("u2")
    for member in (one, two):
        member.says(JOIN)
    a.users.node_gone("c")
    assert a.names() == {"u1", "u2"}, "another node's silence is not theirs"
    a.users.node_gone("b")
    await turn()
    assert a.names() == {"u1"}
    assert len(one.got("app_user_left")) == 1


@pytest.mark.failure("CON-02")
async def test_the_old_node_s_farewell_does_not_take_a_user_away_from_the_new_one(
    nodes: tuple[Node, Node],
) -> None:
    a, b = nodes
    old = a.user("u1")
    b.user("u1")  # moved
    old.leaves()
    assert b.names() == {"u1"}
    b.users.node_gone("a")
    assert b.names() == {"u1"}


@pytest.mark.failure("CON-02")
async def test_the_end_of_a_former_session_does_not_take_the_app_of_the_present_one_away() -> None:
    node = Node("alone")
    old = node.user("u1")
    new = node.user("u1")
    assert node.fed.sessions["u1"] is new.entry
    old.leaves()
    assert node.names() == {"u1"}
    new.leaves()
    assert node.names() == set()


WHO: dict[str, Any] = {"user": "u2", "package": APP, "node": "b"}
UNREADABLE: list[tuple[str, dict[str, Any], type[Exception]]] = [
    ("present", WHO, KeyError),
    ("present", {**WHO, "session": "s", "joined": None}, TypeError),
    ("present", {**WHO, "session": "s", "joined": "soon"}, ValueError),
    ("said", WHO, KeyError),
    ("said", {**WHO, "message": {"type": "app_room_join"}, "at": "T"}, ProtocolError),
]


@pytest.mark.parametrize(("what", "news", "error"), UNREADABLE)
async def test_news_that_cannot_be_read_are_refused_and_change_nothing(
    what: str, news: dict[str, Any], error: type[Exception]
) -> None:
    node = Node("alone")
    one = node.user("u1")
    with pytest.raises(error):
        node.hear(what, news)
    assert node.names() == {"u1"}
    one.says(direct("u2"))
    await turn()
    assert [m["success"] for m in one.got("app_direct_message_response")] == [False]


async def test_a_kind_of_message_that_this_version_does_not_know_is_passed_over() -> None:
    node = Node("alone")
    node.user("u1")
    news = {"user": "u2", "package": APP, "node": "b", "message": {"type": "of_tomorrow"}, "at": "T"}
    node.hear("said", news)
    await turn()
    assert node.names() == {"u1"}


async def test_who_asks_for_the_others_is_made_known_to_them_and_not_to_himself() -> None:
    node = Node("alone")
    one, two = node.user("u1"), node.user("u2")
    one.says({"type": "app_user_discovery"})
    await turn()
    assert [m["userId"] for m in two.got("app_user_joined")] == ["u1"]
    assert one.got("app_user_joined") == []
