"""The node that keeps an app's socket while owners of its session come and go."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest

from cloud.core.app_edge import (
    AppEdge,
    AskOwner,
    CloseApp,
    EdgeEffect,
    EdgeState,
    GiveUp,
    PingApp,
    SendOwner,
    ToApp,
)
from cloud.core.pipe import Content, Piece, Pipe, close_payload
from wire.errors import InvalidTransition

ACK = b'{"type":"tpa_connection_ack"}'


def new(**former: Any) -> AppEdge:
    numbers = itertools.count(1)
    return AppEdge(
        "socket", "com.example.a", new_attachment=lambda: next(numbers), random=lambda: 0.5, **former
    )


def only(effects: list[EdgeEffect], kind: type) -> Any:
    found = [e for e in effects if isinstance(e, kind)]
    assert len(found) == 1, effects
    return found[0]


def answer(epoch: int = 1, node: str = "a", **more: Any) -> bytes:
    return orjson.dumps({"ok": True, "epoch": epoch, "node": node, **more})


def given(edge: AppEdge, pipe: Pipe, payload: bytes, now: float, ident: Any = None) -> list[bytes]:
    """What the app is given when its owner sends this."""
    data = pipe.send(Piece(Content.TEXT, payload, ident=ident), now).data
    return [e.piece.payload for e in edge.from_owner(data, now) if isinstance(e, ToApp)]


def attached(**former: Any) -> tuple[AppEdge, Pipe]:
    edge = new(**former)
    ask = only(edge.opened(0.0), AskOwner)
    edge.answered(ask.attempt, answer(), 0.01)
    assert edge.state is EdgeState.ATTACHED
    return edge, Pipe(orjson.loads(ask.request)["attachment"])


def test_without_an_owner_the_socket_is_kept_and_he_is_looked_for_with_growing_pauses() -> None:
    edge = new(acknowledged=True)
    effects, now, pauses = edge.opened(0.0), 0.0, []
    while now < 5.0:
        ask = only(effects, AskOwner)
        edge.unanswered(ask.attempt, now)
        assert edge.deadline is not None
        pauses.append(round(edge.deadline - now, 2))
        now = edge.deadline
        effects = edge.handle_deadline(now)
    assert pauses[:6] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0]
    assert only(edge.handle_deadline(60.0), GiveUp) == GiveUp(None, None)
    assert edge.handle_deadline(61.0) == []


def test_an_app_that_was_never_acknowledged_is_told_before_it_gives_up_itself() -> None:
    edge = new()
    ask = only(edge.opened(0.0), AskOwner)
    edge.unanswered(ask.attempt, 0.1)
    assert any(isinstance(e, GiveUp) for e in edge.handle_deadline(4.0))


def test_an_app_is_acknowledged_once_whoever_owns_its_session() -> None:
    edge, first = attached()
    assert given(edge, first, ACK, 0.1) == [ACK]
    ask = only(edge.announced(2, "b", 1.0), AskOwner)
    second = Pipe(orjson.loads(ask.request)["attachment"])
    assert second.attachment != first.attachment
    edge.answered(ask.attempt, answer(2, "b"), 1.1)
    assert given(edge, second, ACK, 1.2) == []
    assert given(edge, second, b'{"type":"data_stream"}', 1.2) == [b'{"type":"data_stream"}']


def test_a_frame_that_another_owner_has_given_is_not_given_again() -> None:
    edge, first = attached()
    assert given(edge, first, b"one", 0.1, ("glasses", 7, 1)) == [b"one"]
    assert given(edge, first, b"two", 0.1, ("glasses", 7, 2)) == [b"two"]
    ask = only(edge.announced(2, "b", 1.0), AskOwner)
    second = Pipe(orjson.loads(ask.request)["attachment"])
    edge.answered(ask.attempt, answer(2, "b"), 1.1)
    assert given(edge, second, b"one", 1.2, ("glasses", 7, 1)) == []
    assert given(edge, second, b"two", 1.2, ("glasses", 7, 2)) == []
    assert given(edge, second, b"three", 1.2, ("glasses", 8, 1)) == [b"three"]
    assert edge.duplicates == 2


def test_a_stale_owners_answer_is_not_believed() -> None:
    edge = new()
    ask = only(edge.opened(0.0), AskOwner)
    edge.announced(5, "b", 0.01)
    again = orjson.loads(ask.request)
    assert again["epoch"] == 0
    ask = AskOwner(2, b"", 0.5)
    assert edge.answered(2, answer(4, "a"), 0.02) == []
    assert edge.state is EdgeState.ATTACHING
    assert edge.deadline == pytest.approx(0.07)


def test_the_same_owner_under_a_new_epoch_is_no_other_owner() -> None:
    edge, pipe = attached()
    assert edge.announced(9, "a", 1.0) == []
    assert edge.state is EdgeState.ATTACHED
    assert given(edge, pipe, b"x", 1.0) == [b"x"]


def test_what_the_app_said_reaches_an_owner_and_the_newest_of_its_wishes_one_without_memory() -> None:
    edge, first = attached(acknowledged=True)
    wishes = b'{"type":"subscription_update","subscriptions":["button_press"]}'
    first.take(only(edge.from_app(Content.TEXT, wishes, 0.1), SendOwner).data, 0.1)
    lost = b'{"type":"app_broadcast_message"}'
    edge.from_app(Content.TEXT, lost, 0.2)  # this never arrives
    ask = only(edge.announced(2, "b", 1.0), AskOwner)
    request = orjson.loads(ask.request)
    second = Pipe(request["attachment"], in_from=request["base"])
    out = edge.answered(ask.attempt, answer(2, "b", up=request["base"], restate=True), 1.1)
    heard = [
        e.piece.payload
        for s in out
        if isinstance(s, SendOwner)
        for e in second.take(s.data, 1.1)
        if hasattr(e, "piece")
    ]
    assert lost in heard
    assert heard[-1] == wishes


def test_an_owner_that_closes_the_app_is_obeyed() -> None:
    edge, pipe = attached()
    data = pipe.send(Piece(Content.CLOSE, close_payload(1000, "App stopped")), 0.1).data
    assert only(edge.from_owner(data, 0.1), CloseApp) == CloseApp(1000, "App stopped")
    assert edge.from_app(Content.TEXT, b"{}", 0.2) == []


def test_an_owner_that_refuses_for_good_ends_it_with_his_words() -> None:
    edge = new()
    ask = only(edge.opened(0.0), AskOwner)
    body = orjson.dumps({"ok": False, "epoch": 1, "code": "APP_NOT_STARTED", "message": "no"})
    assert edge.answered(ask.attempt, body, 0.1) == [GiveUp("APP_NOT_STARTED", "no")]


def test_a_draining_node_proves_what_the_app_has_before_it_sends_it_away() -> None:
    edge, pipe = attached()
    given(edge, pipe, b"one", 0.1, ("glasses", 7, 1))
    ping = only(edge.leave(1.0), PingApp)
    assert given(edge, pipe, b"two", 1.01, ("glasses", 8, 1)) == []  # another node gives it this
    out = edge.from_app(Content.PONG, ping.payload, 1.02)
    told = [
        e.piece
        for s in out
        if isinstance(s, SendOwner)
        for e in pipe.take(s.data, 1.03)
        if hasattr(e, "piece")
    ]
    assert told[0].content is Content.LEFT
    assert orjson.loads(told[0].payload) == {"glasses": [7, 1]}
    assert only(out, CloseApp).code == 1012


def test_an_app_that_answers_no_ping_is_sent_away_all_the_same() -> None:
    edge, _ = attached()
    edge.leave(1.0)
    assert only(edge.handle_deadline(1.5), CloseApp).code == 1012


def test_an_answer_that_cannot_be_read_is_none_and_an_unlisted_move_is_refused() -> None:
    edge = new()
    ask = only(edge.opened(0.0), AskOwner)
    assert edge.answered(ask.attempt, b"[1]", 0.1) == []
    assert edge.state is EdgeState.ATTACHING
    with pytest.raises(InvalidTransition):
        edge._move(EdgeState.NEW)
