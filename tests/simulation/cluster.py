"""Several nodes, the engine between them and everything that can go wrong, in virtual time: `python -m tests.simulation.cluster`.

Rules: the real machines (session, ownership, pipes, app edges, link) behind a small node that does what `cloud.cluster`
does. The engine is a model with the real one's weaknesses: messages at most once and late, first in first out per sender and
address only; writes whose outcome nobody tells; minutes away; conditional writes that ask to be repeated. Nodes are killed,
frozen and thawed; glasses hop. At the end the world is quiet, and then: one owner, nobody stale has written, every press
reached the app, in order, none twice but those that are marked as said again.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import orjson

from cloud.core import app_edge as edges
from cloud.core import effects as fx
from cloud.core import ownership as own
from cloud.core.app_edge import AppEdge, EdgeState
from cloud.core.app_lifecycle import AppState
from cloud.core.clock import WallClock
from cloud.core.ownership import OwnerRecord, Ownership, OwnershipState
from cloud.core.pipe import (
    Content,
    Deliver,
    Missing,
    Piece,
    Pipe,
    PipeEffect,
    Write,
    attachment_of,
    close_payload,
)
from cloud.core.session import AppInfo, Session, SessionState, UserData
from tests.support.pump import Alarm, Pump
from wire.link import Announce, Disconnect, Link, LinkEffect, Transmit
from wire.link import Deliver as FromCloud
from wire.messages.base import Delivery
from wire.messages.cloud_to_glasses import LinkWelcome

USER, PACKAGE = "anna@example.com", "com.example.app"
INFO: Final = AppInfo(PACKAGE, "App", "http://app", kind="background", permissions=frozenset({"ALL"}))
NODES: Final = 3
ACTIVE, CALM = 30.0, 90.0  # seconds of accidents, and of quiet afterwards
PRESS_EVERY: Final = 0.25
OWN, ST = "own", "st"


# ---------------------------------------------------------------------------------------------------- the engine


class Engine:
    """Two records of one session, and a bus."""

    def __init__(self, pump: Pump, rng: random.Random) -> None:
        self.pump, self.rng = pump, rng
        self.records: dict[str, tuple[bytes, int]] = {}
        self.counter = 0
        self.away_until = 0.0
        self.lossy_until = 0.0
        self.nodes: list[Node] = []
        self._newest: dict[tuple[Any, ...], float] = {}
        self.lost = self.unknown = self.repeats = 0

    # -- records

    def get(self, node: Node, key: str, done: Callable[[Any], None]) -> None:
        if self.pump.now < self.away_until:
            node.later(2.0, partial(done, "unavailable"))
        else:
            node.later(self.rng.uniform(0.001, 0.005), lambda: done(self.records.get(key)))

    def put(
        self,
        node: Node,
        key: str,
        value: bytes | None,
        rev: int | None,
        fence: int | None,
        done: Callable[[Any], None],
    ) -> None:
        """`done` gets a revision, "conflict", "fenced" or "unavailable"; the last says nothing about what was done."""
        if self.rng.random() < 0.05:
            self.repeats += 1  # 10164: the fabric repeats it itself
            self.pump.after(0.003, lambda: self.put(node, key, value, rev, fence, done))
            return
        away = self.pump.now < self.away_until
        if away and self.rng.random() < 0.7:
            node.later(2.0, partial(done, "unavailable"))
            return

        def apply() -> None:
            outcome = self._apply(key, value, rev, fence)
            if away or self.rng.random() < 0.02:  # done or not: nobody says
                self.unknown += 1
                node.later(2.0, partial(done, "unavailable"))
            else:
                node.later(self.rng.uniform(0.0005, 0.003), partial(done, outcome))

        self.pump.after(self.rng.uniform(0.001, 0.004), apply)

    def _apply(self, key: str, value: bytes | None, rev: int | None, fence: int | None) -> int | str:
        if fence is not None and self.records.get(OWN, (b"", 0))[1] != fence:
            return "fenced"
        if rev is not None and self.records.get(key, (b"", 0))[1] != rev:
            return "conflict"
        if key == ST and value is not None:
            owner = OwnerRecord.decode(self.records[OWN][0])
            assert owner is not None
            assert orjson.loads(value)["node"] == owner.node, "a superseded node has written the state"
        self.counter += 1
        if value is None:
            self.records.pop(key, None)
        else:
            self.records[key] = (value, self.counter)
        return self.counter

    # -- messages

    def send(self, node: Node, addr: str, data: bytes, fanout: bool = False) -> None:
        if addr in node.listeners:
            self._carry(node, node, addr, data, None)
            if not fanout:
                return
        for other in self.nodes:
            if other is not node and addr in other.listeners:
                self._carry(node, other, addr, data, None)

    def _carry(
        self, source: Node, target: Node, addr: str, data: bytes, reply: Callable[[bytes], None] | None
    ) -> None:
        local = source is target
        if not local and self.pump.now < self.lossy_until and self.rng.random() < 0.5:
            self.lost += 1
            return
        lane = (source.name, target.name, addr)
        at = self.pump.now + (0.0 if local else self.rng.uniform(0.0003, 0.002))
        at = max(at, self._newest.get(lane, 0.0))  # nothing overtakes on one address
        self._newest[lane] = at
        boot = target.boot
        self.pump.at(at, lambda: target.run(boot, lambda: target.heard(addr, data, reply)))

    def ask(
        self, node: Node, addr: str, data: bytes, timeout: float, done: Callable[[bytes | None], None]
    ) -> None:
        targets = [n for n in (node, *self.nodes) if addr in n.listeners and n.is_up]
        answered = False

        def once(answer: bytes | None) -> None:
            nonlocal answered
            if not answered:
                answered = True
                done(answer)

        if not targets:
            node.later(0.0007, partial(once, None))
            return
        node.later(timeout, partial(once, None))
        # This node's own listener, or else all others: of a frozen and a living one the living one answers first.
        for target in [node] if node in targets else targets:
            self._carry(node, target, addr, data, partial(self._reply, node, target, once))

    def _reply(self, node: Node, target: Node, once: Callable[[bytes], None], answer: bytes) -> None:
        if target is not node and self.pump.now < self.lossy_until and self.rng.random() < 0.5:
            self.lost += 1
            return
        node.later(0.0 if target is node else self.rng.uniform(0.0003, 0.002), partial(once, answer))


# ---------------------------------------------------------------------------------------------------- a node


@dataclass(eq=False)
class Remote:
    """The owner's end of one app elsewhere."""

    connection_id: int
    socket_id: str
    pipe: Pipe
    alarm: Alarm
    owed: list[tuple[int, float]] = field(default_factory=list)


class Node:
    """What `cloud.cluster` does, without sockets. `boot` counts lives."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.boot = 0
        self.is_up = True
        self.is_frozen = False
        self.backlog: list[Callable[[], None]] = []
        self.listeners: dict[str, Callable[[bytes, Callable[[bytes], None] | None], None]] = {}
        self.edges: dict[str, tuple[AppEdge, Alarm, AppSocket]] = {}
        self.seat: Seat | None = None
        self.listen_node()

    @property
    def incarnation(self) -> str:
        return f"{self.name}-{self.boot}"

    def listen_node(self) -> None:
        self.listeners[f"n.{self.incarnation}"] = self._asked

    def run(self, boot: int, what: Callable[[], None]) -> None:
        """Now, after the thaw, or never."""
        if boot != self.boot or not self.is_up:
            return
        if self.is_frozen:
            self.backlog.append(lambda: self.run(boot, what))
        else:
            what()

    def later(self, delay: float, what: Callable[[], None]) -> None:
        boot = self.boot
        self.world.pump.after(delay, lambda: self.run(boot, what))

    def heard(self, addr: str, data: bytes, reply: Callable[[bytes], None] | None) -> None:
        listener = self.listeners.get(addr)
        if listener is not None:
            listener(data, reply)

    def _asked(self, data: bytes, reply: Callable[[bytes], None] | None) -> None:
        request = orjson.loads(data)
        assert reply is not None
        if self.seat is None:
            reply(b'{"ok":false}')
        else:
            self.seat.handoff_asked(request, reply)

    # -- accidents

    def kill(self) -> None:
        self.is_up, self.is_frozen = False, False
        self.backlog.clear()
        self.listeners.clear()
        if self.seat is not None:
            self.seat.alarms_off()
            self.seat = None
        gone, self.edges = self.edges, {}
        for _, alarm, _socket in gone.values():
            alarm.cancel()
        self.world.node_died(self)

    def restart(self) -> None:
        if not self.is_up:
            self.boot += 1
            self.is_up = True
            self.listen_node()

    def freeze(self) -> None:
        self.is_frozen = True
        self.world.kills.append(self.world.pump.now)  # whoever takes over has to do without it

    def thaw(self) -> None:
        if self.is_frozen:
            self.is_frozen = False
            backlog, self.backlog = self.backlog, []
            for what in backlog:
                what()

    # -- app sockets

    def adopt(self, socket: AppSocket, **former: Any) -> None:
        """An app's socket without a session here."""
        rng = self.world.rng
        machine = AppEdge(
            socket.id, PACKAGE, new_attachment=lambda: rng.getrandbits(62) + 1, random=rng.random, **former
        )
        alarm = Alarm(
            self.world.pump,
            lambda: machine.deadline,
            lambda: self.run(boot, lambda: self.edge_feed(socket.id, machine.handle_deadline)),
        )
        boot = self.boot
        socket.edge = machine
        self.edges[socket.id] = (machine, alarm, socket)
        self.listeners[f"a.{socket.id}"] = partial(self._edge_heard, socket.id)
        self.listeners[f"e/{socket.id}"] = lambda data, reply: None
        self.later(0.001, lambda: self.edge_feed(socket.id, machine.opened))

    def _edge_heard(self, socket_id: str, data: bytes, reply: Callable[[bytes], None] | None) -> None:
        if reply is not None:
            reply(b"{}")
        elif socket_id in self.edges:
            self.edge_feed(socket_id, self.edges[socket_id][0].from_owner, data)

    def edge_feed(self, socket_id: str, method: Callable[..., list[edges.EdgeEffect]], *args: Any) -> None:
        if socket_id not in self.edges:
            return
        machine, alarm, socket = self.edges[socket_id]
        for effect in method(*args, self.world.pump.now):
            match effect:
                case edges.ToApp(piece):
                    if piece.content is Content.PING:
                        socket.ping(piece.payload)
                    elif piece.content is Content.TEXT:
                        socket.receive(piece.payload)
                case edges.SendOwner(data):
                    self.world.engine.send(self, "s", data)
                case edges.AskOwner(attempt, request, timeout):
                    self.world.engine.ask(
                        self,
                        "s",
                        request,
                        timeout,
                        lambda answer, attempt=attempt: (  # type: ignore[misc]
                            self.edge_feed(socket_id, machine.unanswered, attempt)
                            if answer is None
                            else self.edge_feed(socket_id, machine.answered, attempt, answer)
                        ),
                    )
                case edges.CloseApp(code, _):
                    self.drop_edge(socket_id)
                    socket.close(code)
                case edges.GiveUp():
                    self.drop_edge(socket_id)
                    socket.close(1008)
                case _:
                    pass
        if socket_id in self.edges:
            alarm.set()

    def drop_edge(self, socket_id: str) -> None:
        found = self.edges.pop(socket_id, None)
        if found is not None:
            found[1].cancel()
        self.listeners.pop(f"a.{socket_id}", None)
        self.listeners.pop(f"e/{socket_id}", None)


class Seat:
    """The session at one node."""

    def __init__(self, node: Node, glasses: GlassesSocket) -> None:
        self.node, self.world = node, node.world
        self.machine = Ownership(node.incarnation)
        self.session: Session | None = None
        self.waiting: GlassesSocket | None = glasses
        self.remotes: dict[int, Remote] = {}
        self.locals: dict[int, AppSocket] = {}
        self.questions: dict[str, Callable[[bytes], None]] = {}
        self.asked = 0
        self.ups: dict[str, int] = {}
        self.expects_until = float("-inf")
        self.closed = False
        boot = node.boot
        self.alarm = Alarm(
            self.world.pump,
            lambda: self.machine.deadline,
            lambda: node.run(boot, lambda: self.feed(self.machine.handle_deadline)),
        )
        self.timer = Alarm(
            self.world.pump,
            lambda: None if self.session is None else self.session.deadline,
            lambda: node.run(boot, lambda: self.session_feed(lambda now: self.session.handle_deadline(now))),  # type: ignore[union-attr]
        )

    def claim(self) -> None:
        skew = self.world.rng.uniform(-0.05, 0.05)  # clocks of nodes differ
        self.feed(self.machine.claim, round((1000.0 + self.world.pump.now + skew) * 1000))

    def alarms_off(self) -> None:
        self.closed = True
        self.alarm.cancel()
        self.timer.cancel()
        for remote in self.remotes.values():
            remote.alarm.cancel()

    # -- ownership

    def feed(self, method: Callable[..., list[own.Effect]], *args: Any) -> None:
        if self.closed:
            return
        engine, node, machine = self.world.engine, self.node, self.machine
        for effect in method(*args, self.world.pump.now):
            match effect:
                case own.ReadOwner(attempt):
                    engine.get(node, OWN, partial(self._owner_read, attempt))
                case own.WriteOwner(attempt, value, rev):
                    engine.put(node, OWN, value, rev, None, partial(self._owner_written, attempt))
                case own.AskHandoff(attempt, other, epoch):
                    body = orjson.dumps({"epoch": epoch, "node": node.incarnation, "op": "handoff"})
                    addr = "s" if other is None else f"n.{other}"
                    engine.ask(node, addr, body, machine.timing.handoff, partial(self._handed, attempt))
                case own.ReadState(attempt):
                    engine.get(
                        node,
                        ST,
                        lambda found, attempt=attempt: self.feed(  # type: ignore[misc]
                            machine.state_read, attempt, found[0] if isinstance(found, tuple) else None
                        ),
                    )
                case own.Loaded(state, source):
                    self._begin(state, source)
                case own.Listen():
                    node.later(self.world.rng.uniform(0.0005, 0.003), self._listen)
                case own.Announce(epoch):
                    self.world.announce(node, epoch)
                case own.SaveState(attempt, rev):
                    value = self.envelope(False)
                    engine.put(node, ST, value, None, rev, partial(self._saved, attempt))
                case own.GiveState(to):
                    self.questions.pop(to)(self.envelope(True))
                case own.RefuseHandoff(to, epoch):
                    refusal = {"ok": False, "epoch": epoch, "node": node.incarnation}
                    self.questions.pop(to)(orjson.dumps(refusal))
                case own.Stop(_, _):
                    self._stop()
                case own.Forget(rev):
                    engine.put(node, OWN, None, rev, None, lambda _: None)
        if not self.closed:
            self.alarm.set()

    def _owner_read(self, attempt: int, found: Any) -> None:
        if found == "unavailable":
            self.feed(self.machine.unavailable, attempt)
        else:
            value, rev = found if found is not None else (None, 0)
            self.feed(self.machine.owner_read, attempt, value, rev)

    def _owner_written(self, attempt: int, outcome: Any) -> None:
        match outcome:
            case "unavailable":
                self.feed(self.machine.unavailable, attempt)
            case "conflict":
                self.feed(self.machine.conflict, attempt)
            case _:
                self.feed(self.machine.owner_written, attempt, outcome)

    def _saved(self, attempt: int, outcome: Any) -> None:
        match outcome:
            case "unavailable":
                self.feed(self.machine.unavailable, attempt)
            case "fenced":
                self.feed(self.machine.fenced, attempt)
            case _:
                self.feed(self.machine.saved, attempt)

    def _handed(self, attempt: int, answer: bytes | None) -> None:
        state = None
        if answer is not None:
            found = orjson.loads(answer)
            if found.get("ok"):
                state = answer
            elif "epoch" in found:
                self.feed(self.machine.heard, OwnerRecord(found["node"], found["epoch"]))
        self.feed(self.machine.handoff_answered, attempt, state)

    def handoff_asked(self, request: dict[str, Any], reply: Callable[[bytes], None]) -> None:
        self.asked += 1
        to = str(self.asked)
        self.questions[to] = reply
        self.feed(self.machine.handoff_asked, to, OwnerRecord(request["node"], request["epoch"]))

    def envelope(self, complete: bool) -> bytes:
        assert self.session is not None
        now = self.world.pump.now
        value: dict[str, Any] = {"ok": True, "node": self.node.incarnation, "epoch": self.machine.epoch}
        if complete:
            self.session.acknowledge(False, now)
            value["ups"] = {r.socket_id: r.pipe.received for r in self.remotes.values()}
        value["session"] = self.session.export(now, complete=complete)
        return orjson.dumps(value)

    def _listen(self) -> None:
        if not self.closed:
            self.node.listeners["s"] = self._heard
            self.feed(self.machine.listening)

    def _heard(self, data: bytes, reply: Callable[[bytes], None] | None) -> None:
        if not data.startswith(b"{"):
            remote = self.remotes.get(attachment_of(data))
            if remote is not None:
                self.remote_feed(remote, remote.pipe.take(data, self.world.pump.now))
            return
        request = orjson.loads(data)
        if reply is None:
            return
        if request["op"] == "handoff":
            self.handoff_asked(request, reply)
        else:
            self._attach(request, reply)

    def _attach(self, request: dict[str, Any], reply: Callable[[bytes], None]) -> None:
        answer: dict[str, Any] = {"ok": False, "epoch": self.machine.epoch, "node": self.node.incarnation}
        known = request["epoch"]
        if known > self.machine.epoch:
            self.feed(self.machine.verify)
        if self.session is None or not self.machine.is_serving or known > self.machine.epoch:
            reply(orjson.dumps({**answer, "again": True}))
            return
        attachment, since = request["attachment"], request["since"]
        remote = self.remotes.get(attachment)
        if remote is not None:
            reply(orjson.dumps({**answer, "ok": True, "up": remote.pipe.received}))
            self.remote_feed(remote, remote.pipe.resend(since, self.world.pump.now))
            return
        if since:
            reply(orjson.dumps({**answer, "unknown": True}))
            return
        for former in [r for r in self.remotes.values() if r.socket_id == request["socket"]]:
            former.alarm.cancel()
            del self.remotes[former.pipe.attachment]
        handled = self.ups.pop(request["socket"], None)
        received = request["base"] if handled is None else max(request["base"], handled)
        pipe = Pipe(attachment, in_from=received)
        boot = self.node.boot
        remote = Remote(self.world.new_id(), request["socket"], pipe, None)  # type: ignore[arg-type]
        remote.alarm = Alarm(
            self.world.pump,
            lambda: pipe.deadline,
            lambda: self.node.run(
                boot, lambda: self.remote_feed(remote, pipe.handle_deadline(self.world.pump.now))
            ),
        )
        self.remotes[attachment] = remote
        restate = request["acknowledged"] and self.machine.source != "handoff"
        reply(orjson.dumps({**answer, "ok": True, "up": received, "restate": restate}))
        self.settle()
        connection_id = remote.connection_id
        self.session_feed(lambda now: self.session.app_identified(PACKAGE, connection_id, now))  # type: ignore[union-attr]

    def remote_feed(self, remote: Remote, effects: list[PipeEffect]) -> None:
        if self.closed or remote.pipe.attachment not in self.remotes:
            return
        for effect in effects:
            match effect:
                case Write(data):
                    self.world.engine.send(self.node, f"a.{remote.socket_id}", data)
                case Deliver(piece):
                    self._from_remote(remote, piece)
                case Missing():
                    self.world.engine.ask(
                        self.node, f"a.{remote.socket_id}", b"{}", 1.0, partial(self._there, remote)
                    )
                case _:
                    pass
        if not self.closed:
            if remote.owed:
                self.settle()
            remote.alarm.set()

    def _there(self, remote: Remote, answer: bytes | None) -> None:
        anybody = any(f"a.{remote.socket_id}" in n.listeners for n in self.world.engine.nodes)
        if answer is None and not anybody and remote.pipe.attachment in self.remotes:
            self._remote_lost(remote)

    def _remote_lost(self, remote: Remote) -> None:
        remote.alarm.cancel()
        self.remotes.pop(remote.pipe.attachment, None)
        self.settle()
        self.session_feed(lambda now: self.session.app_lost(PACKAGE, remote.connection_id, now))  # type: ignore[union-attr]

    def _from_remote(self, remote: Remote, piece: Piece) -> None:
        session, connection_id = self.session, remote.connection_id
        assert session is not None
        match piece.content:
            case Content.TEXT:
                self.session_feed(lambda now: session.app_text(PACKAGE, connection_id, piece.payload, now))
            case Content.PONG:
                self.session_feed(lambda now: session.app_pong(PACKAGE, connection_id, piece.payload, now))
            case Content.CLOSE:
                self._remote_lost(remote)
            case _:
                pass

    @property
    def expects(self) -> bool:
        return (
            self.session is not None
            and self.world.pump.now < self.expects_until
            and AppState.GRACE in self.session.lifecycles()
        )

    def settle(self) -> None:
        now = self.world.pump.now
        for remote in self.remotes.values():
            remote.owed = [
                (s, at) for s, at in remote.owed if s > remote.pipe.acknowledged and now - at <= 0.5
            ]
        if self.session is not None and not self.expects and not any(r.owed for r in self.remotes.values()):
            self.session_feed(lambda at: self.session.acknowledge(bool(self.remotes), at))  # type: ignore[union-attr]

    # -- the session

    def _begin(self, state: bytes | None, source: str) -> None:
        now = self.world.pump.now
        self.world.sources[source] = self.world.sources.get(source, 0) + 1
        session = self.session = Session(
            USER,
            apps={PACKAGE: INFO},
            websocket_url="ws://cloud/app-ws",
            random=self.world.rng.random,
            new_id=lambda: f"id{self.world.new_id()}",
            clock=WallClock(1000.0),
            now=now,
            named=True,
        )
        if state is not None:
            found = orjson.loads(state)
            self.ups = found.get("ups", {})
            self.session_feed(lambda at: session.restore(found["session"], at))
            self.expects_until = now + 1.0
            self.node.later(1.0, self.settle)
        self.machine.dirty(now)
        waiting, self.waiting = self.waiting, None
        here = waiting is not None and waiting.is_open
        self.session_feed(lambda at: session.start(at, with_glasses=here))
        if state is not None:
            self.session_feed(lambda at: session.acknowledge(True, at))
        if waiting is not None and here:
            waiting.seat = self
            self.session_feed(lambda at: session.glasses_connected(waiting.id, at))
            held, waiting.held = waiting.held, []
            for data in held:
                self.from_glasses(waiting.id, data)

    def from_glasses(self, connection_id: int, data: bytes) -> None:
        if self.session is not None and not self.closed:
            session = self.session
            self.session_feed(lambda now: session.glasses_text(connection_id, data, now))
            if self.remotes or self.expects:
                self.settle()

    def session_feed(self, method: Callable[[float], list[fx.Effect]]) -> None:
        if self.session is None or self.closed:
            return
        self.perform(method(self.world.pump.now))
        if not self.closed:
            self.timer.set()

    def perform(self, effects: list[fx.Effect]) -> None:
        now, session = self.world.pump.now, self.session
        assert session is not None
        for effect in effects:
            match effect:
                case fx.SendToApps():
                    for connection_id in effect.connection_ids:
                        self._to_app(connection_id, effect, now)
                case fx.SendToGlasses(connection_id, payload, _, _):
                    self.world.to_glasses(connection_id, payload)
                case fx.CloseGlasses(connection_id, code, _):
                    self.world.close_glasses(connection_id, code)
                case fx.PingApp(connection_id, payload):
                    self._put(connection_id, Piece(Content.PING, payload), now)
                    if connection_id in self.locals:
                        self.locals[connection_id].ping(payload)
                case fx.CloseApp(connection_id, code, reason):
                    self._put(connection_id, Piece(Content.CLOSE, close_payload(code, reason)), now)
                    if connection_id in self.locals:
                        self.locals.pop(connection_id).close(code)
                case fx.LoadUser():
                    self.node.later(0.003, lambda: self._user_loaded(session))
                case fx.LoadApp(package, cycle):
                    self.node.later(
                        0.002,
                        lambda package=package, cycle=cycle: self.session_feed(  # type: ignore[misc]
                            lambda at: session.app_loaded(package, cycle, {}, at)
                        ),
                    )
                case fx.PostSessionRequest(package, cycle):
                    self.world.app.webhook()
                    self.node.later(
                        0.0,
                        lambda package=package, cycle=cycle: self.session_feed(  # type: ignore[misc]
                            lambda at: session.request_sent(package, cycle, at)
                        ),
                    )
                    self.node.later(
                        0.05,
                        lambda package=package, cycle=cycle: self.session_feed(  # type: ignore[misc]
                            lambda at: session.webhook_answered(package, cycle, at, ok=True)
                        ),
                    )
                case fx.PostStopRequest(package, cycle):
                    self.node.later(
                        0.01,
                        lambda package=package, cycle=cycle: self.session_feed(  # type: ignore[misc]
                            lambda at: session.stop_answered(package, cycle, at)
                        ),
                    )
                case fx.AppMoved():
                    self.dirty()
                case fx.Displayed():
                    self.dirty()
                case fx.Record(kind, _) if kind in ("display", "subscriptions", "microphone"):
                    self.dirty()
                case fx.Unregister():
                    self._unregister()
                case _:
                    pass

    def _user_loaded(self, session: Session) -> None:
        if self.session is session:
            self.session_feed(lambda now: session.user_loaded(UserData(wanted=(PACKAGE,)), now))

    def dirty(self) -> None:
        self.machine.dirty(self.world.pump.now)
        if not self.closed:
            self.alarm.set()

    def _to_app(self, connection_id: int, effect: fx.SendToApps, now: float) -> None:
        local = self.locals.get(connection_id)
        if local is not None:
            local.receive(effect.payload)
            return
        remote = next((r for r in self.remotes.values() if r.connection_id == connection_id), None)
        if remote is not None and effect.ident is not None and effect.ident[2]:
            remote.owed.append((remote.pipe.newest + 1, now))
        self._put(
            connection_id, Piece(Content.TEXT, effect.payload, effect.delivery, effect.key, effect.ident), now
        )

    def _put(self, connection_id: int, piece: Piece, now: float) -> None:
        remote = next((r for r in self.remotes.values() if r.connection_id == connection_id), None)
        if remote is not None:
            self.world.engine.send(self.node, f"a.{remote.socket_id}", remote.pipe.send(piece, now).data)
            remote.alarm.set()

    def _stop(self) -> None:
        """Another node has it: glasses are sent away, apps stay."""
        session, waiting = self.session, self.waiting
        here, self.locals = self.locals, {}
        self.vacate()
        if waiting is not None:
            waiting.end(1012)
        if session is None:
            return
        seen, said = session.marks(), session.said(PACKAGE)
        self.session = None
        for effect in session.leave(1012, "moved", self.world.pump.now):
            if isinstance(effect, fx.CloseGlasses):
                self.world.close_glasses(effect.connection_id, effect.code)
        for socket in here.values():
            socket.seat = None
            self.node.adopt(socket, acknowledged=True, seen=seen, said=said)

    def _unregister(self) -> None:
        if not self.closed:
            self.feed(self.machine.end)
            self.vacate()

    def vacate(self) -> None:
        self.alarms_off()
        self.remotes.clear()
        self.node.listeners.pop("s", None)
        if self.node.seat is self:
            self.node.seat = None
        for reply in self.questions.values():
            reply(b'{"ok":false}')


# ---------------------------------------------------------------------------------------------------- the ends


@dataclass(eq=False)
class AppSocket:
    """One socket of the app at one node."""

    id: str
    node: Node
    app: App
    boot: int
    edge: AppEdge | None = None
    seat: Seat | None = None
    connection_id: int = 0
    is_open: bool = True
    inbox_at: float = 0.0

    def receive(self, payload: bytes) -> None:
        """The node writes to the app: in order, a moment later, unless the socket is gone by then."""
        self.inbox_at = max(
            self.inbox_at, self.app.world.pump.now + self.app.world.rng.uniform(0.0002, 0.001)
        )
        self.app.world.pump.at(self.inbox_at, lambda: self.app.received(self, payload))

    def ping(self, payload: bytes) -> None:
        self.inbox_at = max(self.inbox_at, self.app.world.pump.now + 0.0005)
        self.app.world.pump.at(self.inbox_at, lambda: self.say(Content.PONG, payload))

    def say(self, content: Content, payload: bytes) -> None:
        """The app writes."""
        if self.is_open and self.app.socket is self:
            self.node.run(self.boot, lambda: self._heard(content, payload))

    def _heard(self, content: Content, payload: bytes) -> None:
        if self.seat is not None:
            seat, session = self.seat, self.seat.session
            if session is None:
                return
            if content is Content.TEXT:
                seat.session_feed(lambda now: session.app_text(PACKAGE, self.connection_id, payload, now))
            else:
                seat.session_feed(lambda now: session.app_pong(PACKAGE, self.connection_id, payload, now))
        elif self.edge is not None and self.edge.state is not EdgeState.CLOSED:
            self.node.edge_feed(self.id, self.edge.from_app, content, payload)

    def close(self, code: int) -> None:
        """The node closes it."""
        if self.is_open:
            self.is_open = False
            self.app.world.pump.after(0.001, lambda: self.app.closed(self, code))


class App:
    """One SDK session of the app."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.socket: AppSocket | None = None
        self.presses: list[tuple[int, bool]] = []  # number, marked as said again
        self.acks = 0
        self.losses = 0  # sockets that ended without the app's doing

    def webhook(self) -> None:
        self.world.pump.after(0.01, self.connect)

    def connect(self) -> None:
        """To any node that lives: a balancer has looked."""
        up = [n for n in self.world.nodes if n.is_up and not n.is_frozen]
        if not up:
            self.world.pump.after(0.5, self.connect)
            return
        node = self.world.rng.choice(up)
        old, self.socket = self.socket, AppSocket(f"x{self.world.new_id()}", node, self, node.boot)
        if old is not None and old.is_open:
            self.leave(old)
        socket = self.socket
        seat = node.seat
        if seat is not None and seat.session is not None and seat.machine.is_serving:
            socket.seat, socket.connection_id = seat, self.world.new_id()
            seat.locals[socket.connection_id] = socket
            session = seat.session
            seat.session_feed(lambda now: session.app_identified(PACKAGE, socket.connection_id, now))
        else:
            node.adopt(socket)

    def leave(self, socket: AppSocket) -> None:
        """The app's own side ends."""
        socket.is_open = False
        node = socket.node
        if socket.seat is not None and socket.seat.session is not None:
            seat, session = socket.seat, socket.seat.session
            seat.locals.pop(socket.connection_id, None)
            node.run(
                socket.boot,
                lambda: seat.session_feed(lambda now: session.app_lost(PACKAGE, socket.connection_id, now)),
            )
        elif socket.edge is not None and socket.edge.state is not EdgeState.CLOSED:
            edge = socket.edge
            node.run(socket.boot, lambda: node.edge_feed(socket.id, edge.app_closed, 1006, ""))
            node.drop_edge(socket.id)

    def received(self, socket: AppSocket, payload: bytes) -> None:
        if socket is not self.socket or not socket.is_open:
            return
        message = orjson.loads(payload)
        if message["type"] == "tpa_connection_ack":
            self.acks += 1
            body = {
                "type": "subscription_update",
                "packageName": PACKAGE,
                "sessionId": "",
                "subscriptions": ["button_press"],
            }
            socket.say(Content.TEXT, orjson.dumps(body))
        elif message["type"] == "data_stream":
            self.presses.append((int(message["data"]["buttonId"]), bool(message.get("replayed"))))

    def closed(self, socket: AppSocket, code: int) -> None:
        """SDKs come back by themselves a second later, except after 1000 and 1008."""
        if socket is self.socket:
            self.losses += 1
            self.socket = None
            if code not in (1000, 1008):
                self.world.pump.after(1.0, self._again)

    def _again(self) -> None:
        if self.socket is None:
            self.connect()


@dataclass(eq=False)
class GlassesSocket:
    """One connection of the glasses to one node."""

    id: int
    node: Node
    boot: int
    seat: Seat | None = None
    is_open: bool = True
    held: list[bytes] = field(default_factory=list)
    up_at: float = 0.0
    down_at: float = 0.0

    def end(self, code: int) -> None:
        if self.is_open:
            self.is_open = False
            self.node.world.pump.after(0.001, lambda: self.node.world.glasses_closed(self, code))


class World:
    """One seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.pump = Pump()
        self.engine = Engine(self.pump, self.rng)
        self._ids = itertools.count(1)
        self.nodes = [Node(self, f"node{n}") for n in range(NODES)]
        self.engine.nodes = self.nodes
        self.app = App(self)
        self.sources: dict[str, int] = {}
        self.faults = 0
        self.link = Link(f"edge{seed}", initiator=True)
        self.link_alarm = Alarm(
            self.pump,
            lambda: self.link.deadline,
            lambda: self.link_do(self.link.handle_deadline(self.pump.now)),
        )
        self.sockets: dict[int, GlassesSocket] = {}
        self.socket: GlassesSocket | None = None
        self.pressed = 0
        self.pressed_at: list[float] = []
        self.unreachable: list[float] = []
        self.kills: list[float] = []
        self.given_up = 0

    def new_id(self) -> int:
        return next(self._ids)

    def announce(self, node: Node, epoch: int) -> None:
        """`e.<sid>`: every edge and every other owner."""
        for other in self.nodes:
            remote = other is not node
            if remote and self.pump.now < self.engine.lossy_until and self.rng.random() < 0.5:
                self.engine.lost += 1
                continue
            boot, name = other.boot, node.incarnation
            delay = self.rng.uniform(0.0003, 0.002) if remote else 0.0
            self.pump.after(delay, partial(other.run, boot, partial(self._announced, other, name, epoch)))

    @staticmethod
    def _announced(node: Node, name: str, epoch: int) -> None:
        seat = node.seat
        if seat is not None and seat.machine.is_listening:
            seat.feed(seat.machine.heard, OwnerRecord(name, epoch))
        for socket_id, (machine, _, _) in list(node.edges.items()):
            node.edge_feed(socket_id, machine.announced, epoch, name)

    # -- glasses

    def dial(self) -> None:
        """To a node that takes connections; a frozen one is tried too, and given up."""
        up = [n for n in self.nodes if n.is_up and not n.is_frozen]
        if not up:
            self.pump.after(0.5, self.dial)
            return
        node = self.rng.choice(up)
        old = self.socket
        self.socket = socket = GlassesSocket(self.new_id(), node, node.boot)
        self.sockets[socket.id] = socket
        if old is not None and old.is_open:
            self.leave(old)
        self.link_do(self.link.connected(socket.id, self.pump.now))
        node.run(socket.boot, lambda: self._opened(socket))

    def _opened(self, socket: GlassesSocket) -> None:
        node = socket.node
        if not socket.is_open:
            return
        seat = node.seat
        if seat is not None and seat.session is not None and seat.machine.is_serving:
            socket.seat = seat
            seat.feed(seat.machine.verify)
            if not seat.closed and seat.session is not None:
                session = seat.session
                seat.session_feed(lambda now: session.glasses_connected(socket.id, now))
            return
        if seat is not None:
            if seat.waiting is not None:
                seat.waiting.end(1012)
            seat.waiting = socket
            return
        node.seat = Seat(node, socket)
        node.seat.claim()

    def leave(self, socket: GlassesSocket) -> None:
        socket.is_open = False
        seat = socket.seat
        if seat is not None and seat.session is not None:
            session = seat.session
            socket.node.run(
                socket.boot, lambda: seat.session_feed(lambda now: session.glasses_lost(socket.id, now))
            )

    def glasses_closed(self, socket: GlassesSocket, code: int) -> None:
        if socket is self.socket:
            self.socket = None
            self.link_do(self.link.lost(socket.id, self.pump.now))
            self.pump.after(self.rng.uniform(0.005, 0.05), self._redial)

    def _redial(self) -> None:
        if self.socket is None:
            self.dial()

    def link_do(self, effects: list[LinkEffect]) -> None:
        for effect in effects:
            match effect:
                case Announce(_, hello):
                    body = {
                        "type": "connection_init",
                        "link": hello.model_dump(by_alias=True, exclude_none=True),
                    }
                    self._up(orjson.dumps(body))
                case Transmit(_, data):
                    self._up(data)
                case Disconnect():
                    if self.socket is not None:
                        old = self.socket
                        self.leave(old)
                        self.glasses_closed(old, 1006)
                case FromCloud():
                    pass
                case _:
                    name = type(effect).__name__
                    if name in ("Expired", "Discarded"):
                        self.given_up += 1
        self.link_alarm.set()

    def _up(self, data: bytes) -> None:
        socket = self.socket
        if socket is None or not socket.is_open:
            return
        socket.up_at = max(socket.up_at, self.pump.now + self.rng.uniform(0.001, 0.004))
        self.pump.at(socket.up_at, lambda: socket.node.run(socket.boot, lambda: self._arrives(socket, data)))

    @staticmethod
    def _arrives(socket: GlassesSocket, data: bytes) -> None:
        if socket.seat is not None:
            socket.seat.from_glasses(socket.id, data)
        else:
            socket.held.append(data)

    def to_glasses(self, connection_id: int, data: bytes) -> None:
        socket = self.sockets.get(connection_id)
        if socket is None or not socket.is_open:
            return
        socket.down_at = max(socket.down_at, self.pump.now + self.rng.uniform(0.001, 0.004))
        self.pump.at(socket.down_at, lambda: self._reads(socket, data))

    def _reads(self, socket: GlassesSocket, data: bytes) -> None:
        if socket is not self.socket or not socket.is_open:
            return
        if b'"connection_ack"' in data:
            found = orjson.loads(data).get("link")
            if found:
                self.link_do(self.link.welcomed(socket.id, LinkWelcome.model_validate(found), self.pump.now))
            return
        self.link_do(self.link.received(socket.id, data, self.pump.now))

    def close_glasses(self, connection_id: int, code: int) -> None:
        socket = self.sockets.get(connection_id)
        if socket is not None:
            socket.end(code)

    def _look(self) -> None:
        """Twenty times a second: can the app be reached at all?"""
        socket = self.app.socket
        here = socket is not None and socket.is_open and socket.node.is_up and not socket.node.is_frozen
        if not here:
            self.unreachable.append(self.pump.now)
        if self.pump.now < 5.0 + ACTIVE + 20.0:
            self.pump.after(0.05, self._look)

    def _is_excused(self, number: int) -> bool:
        """Two accidents at once: the app could not be reached, and the node that kept the press for it died or froze."""
        at = self.pressed_at[number - 1]
        away = any(at - 0.5 <= t <= at + 1.0 for t in self.unreachable)
        # Beyond its grace of 5 s an app is started anew, and what its former instance has missed is not told to it.
        too_long = sum(0.05 for t in self.unreachable if at - 6.0 <= t <= at + 7.0) >= 4.5
        return too_long or (away and any(at - 0.1 <= t <= at + 15.0 for t in self.kills))

    def press(self) -> None:
        self.pressed += 1
        self.pressed_at.append(self.pump.now)
        body = {"type": "button_press", "buttonId": str(self.pressed), "pressType": "short"}
        self.link_do(self.link.send(orjson.dumps(body), Delivery.RELIABLE, now=self.pump.now))

    def node_died(self, node: Node) -> None:
        """RST to everybody who was connected there."""
        self.kills.append(self.pump.now)
        for socket in list(self.sockets.values()):
            if socket.node is node and socket.is_open:
                socket.end(1006)
        app = self.app.socket
        if app is not None and app.node is node and app.is_open:
            app.close(1006)

    # -- the run

    def run(self) -> None:
        """Raises AssertionError for whatever must not be."""
        self.dial()
        self.pump.run(5.0)
        assert self.app.acks == 1, "the app did not start in a world at peace"
        first = 1
        self._look()
        for step in range(int(ACTIVE / PRESS_EVERY)):
            self.pump.at(5.0 + step * PRESS_EVERY, self.press)
        self._plan()
        self.pump.run(5.0 + ACTIVE)
        for node in self.nodes:
            node.thaw()
            node.restart()
        self.engine.away_until = self.engine.lossy_until = 0.0
        self.pump.run(5.0 + ACTIVE + CALM)
        self.check(first)

    def _plan(self) -> None:
        at = 6.0
        while at < 3.0 + ACTIVE:
            self.faults += 1
            kind = self.rng.choice(("kill", "freeze", "hop", "away", "lossy", "app", "hop", "both"))
            node = self.rng.choice(self.nodes)
            length = self.rng.uniform(0.2, 6.0)
            match kind:
                case "kill":
                    self.pump.at(at, node.kill)
                    self.pump.at(at + length, node.restart)
                    at += 1.0
                case "freeze":
                    self.pump.at(at, node.freeze)
                    self.pump.at(at + length, node.thaw)
                    self.pump.at(at + min(length, self.rng.uniform(0.1, 2.0)), partial(self._away_from, node))
                case "hop":
                    self.pump.at(at, self._hop)
                case "away":
                    self.pump.at(at, partial(self._away, length))
                case "lossy":
                    self.pump.at(at, partial(self._lossy, min(length, 1.5)))
                    self.pump.at(at + min(length, 1.5) + 0.01, self._gap)
                    at += min(length, 1.5) + 1.0
                case "both":  # what the bus has lost is still with the glasses when the owner dies
                    self.pump.at(at, partial(self._lossy, 0.3))
                    self.pump.at(at + 0.28, partial(self._kill_owner, length))
                    self.pump.at(at + 0.31, self._gap)
                    at += 1.5
                case "app":
                    self.pump.at(at, self._app_drops)
            at += self.rng.uniform(0.05, 6.0)

    def _away(self, length: float) -> None:
        self.engine.away_until = self.pump.now + length

    def _lossy(self, length: float) -> None:
        self.engine.lossy_until = self.pump.now + length

    def _kill_owner(self, length: float) -> None:
        owner = next((n for n in self.nodes if n.seat is not None and n.seat.machine.is_serving), None)
        if owner is not None and self.app.socket is not None and self.app.socket.node is not owner:
            owner.kill()
            self.pump.after(length, owner.restart)

    def _gap(self) -> None:
        for node in self.nodes:
            if node.is_up and not node.is_frozen:
                if node.seat is not None:
                    node.seat.feed(node.seat.machine.gap)
                for socket_id, (machine, _, _) in list(node.edges.items()):
                    node.edge_feed(socket_id, machine.gap)

    def _away_from(self, node: Node) -> None:
        """The glasses' pings to a frozen node are not answered."""
        if self.socket is not None and self.socket.node is node and node.is_frozen:
            self._hop()

    def _hop(self) -> None:
        old = self.socket
        if old is not None:
            self.leave(old)
            self.glasses_closed(old, 1006)

    def _app_drops(self) -> None:
        socket = self.app.socket
        if socket is not None and socket.is_open:
            self.leave_app(socket)

    def leave_app(self, socket: AppSocket) -> None:
        self.app.leave(socket)
        self.app.closed(socket, 1006)

    def check(self, first: int) -> None:
        """What must be so when all is quiet."""
        owners = [n for n in self.nodes if n.seat is not None and n.seat.machine.is_serving]
        assert len(owners) == 1, f"owners: {[n.name for n in owners]}"
        seat = owners[0].seat
        assert seat is not None
        assert seat.machine.state is OwnershipState.OWNED, seat.machine.state
        record = OwnerRecord.decode(self.engine.records[OWN][0])
        assert record == seat.machine.claim_record, f"the record names {record}"
        assert seat.session is not None
        assert seat.session.state is SessionState.CONNECTED, seat.session.state
        assert self.socket is not None
        assert self.socket.seat is seat, "the glasses are elsewhere"
        assert self.link.backlog == 0, f"{self.link.backlog} presses were never acknowledged"
        got = [number for number, _ in self.app.presses]
        missing = sorted(n for n in set(range(first, self.pressed + 1)) - set(got) if not self._is_excused(n))
        assert not missing or self.given_up, f"lost: {missing[:10]}"
        fresh = [number for number, again in self.app.presses if not again]
        doubled = len(fresh) - len(set(fresh))
        assert not doubled or self.app.losses, f"{doubled} doubled"
        if not self.app.losses:
            assert fresh == sorted(fresh), "out of order"
        state = seat.session.app(PACKAGE)
        assert state is not None
        assert state.is_running, f"the app is {state.state}"


def run(seed: int) -> str | None:
    """None, or what went wrong."""
    world = World(seed)
    try:
        world.run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.cluster", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int, help="this one only, with its traceback")
    options = parser.parse_args()
    if options.seed is not None:
        World(options.seed).run()
        print("all invariants hold")
        return 0
    began, failed, faults = time.monotonic(), 0, 0
    sources: dict[str, int] = {}
    for seed in range(options.start, options.start + options.seeds):
        world = World(seed)
        try:
            world.run()
        except Exception as error:
            failed += 1
            if failed <= 10:
                print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
        faults += world.faults
        for source, count in world.sources.items():
            sources[source] = sources.get(source, 0) + count
    took = time.monotonic() - began
    print(
        f"cluster simulation: {options.seeds} seeds, {faults} faults, begun from {sources}, {failed} failed, {took:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
