"""The edge as a process: the real core behind a small shell that can be killed, restarted, frozen and cut off.

Rules: what survives a restart is what the daemon stores (which glasses). A frozen process hears nothing until it goes
on; what arrived meanwhile waits in the system's buffers, timers ring late.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol, assert_never

from edge.core.arm import Connect, Disconnect, Write
from edge.core.bridge import Upload
from edge.core.glasses import Decode, Notice, Remember, Scan, Target
from edge.core.node import Node, NodeEffect, NodeTiming, SendAudio, SendText
from edge.core.uplink import Dial, Hangup
from edge.profiles.base import Advert
from edge.profiles.base import Arm as EdgeArm
from edge.profiles.g1 import G1
from tests.simulation.glasses import Glasses
from tests.simulation.network import Connection
from tests.simulation.watch import Sent, WatchedLink
from tests.support.pump import Alarm, Pump
from wire.errors import GlassesFault


class Cloud(Protocol):
    """Where the edge dials."""

    def dial_glasses(self, edge: EdgeProgram, conn_id: int) -> None:
        """Ends in `dialled` or `dial_failed` of the edge, with its `boots` of now; in nothing if the path is dead."""


class EdgeProgram:
    """One wearer's edge daemon and the machine it runs on."""

    def __init__(
        self,
        pump: Pump,
        rng: random.Random,
        user: str,
        glasses: Glasses,
        cloud: Cloud,
        epochs: dict[str, Sent],
    ) -> None:
        self.pump = pump
        self.rng = rng
        self.user = user
        self.glasses = glasses
        self.cloud = cloud
        self.epochs = epochs
        self.target = Target()  # durable
        self.node: Node | None = None
        self.watched: WatchedLink | None = None
        self.connections: dict[int, Connection] = {}
        self.audio_frames = 0
        self.wall_offset = 1_700_000_000.0
        self.boots = 0
        self._frozen_until: float | None = None
        self._waiting: list[Callable[[], None]] = []
        self.alarm = Alarm(pump, self._deadline, self._ring)

    # -- the process

    def boot(self) -> None:
        """Start, or start again with what was stored."""
        self.boots += 1
        epoch = f"{self.user}/edge{self.boots}"
        node = Node(G1(), self.target, NodeTiming(), jitter=self.rng.random, link_epoch=epoch, simulated=True)
        node.link = self.watched = WatchedLink(
            epoch, initiator=True, limits=node.timing.link, peers=self.epochs
        )
        self.node = node
        self._perform(node.start(self.pump.now))
        self._perform(node.wall_clock(self.wall_offset - self.pump.now, 0.0, self.pump.now))

    def boot_if_down(self) -> None:
        if self.node is None:
            self.boot()

    def kill(self) -> None:
        """SIGKILL: sockets are reset by the system, the radio links fall."""
        self.node = None
        self._waiting.clear()
        self._frozen_until = None
        self.alarm.cancel()
        for connection in self.connections.values():
            connection.kill(0)
        self.connections.clear()
        self.glasses.host_died()

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, then SIGCONT."""
        if self.node is None:
            return
        self._frozen_until = self.pump.now + seconds
        self.alarm.cancel()
        self.pump.after(seconds, lambda: self.thaw() if self.pump.now >= (self._frozen_until or 0) else None)

    def thaw(self) -> None:
        """SIGCONT."""
        if self._frozen_until is None:
            return
        self._frozen_until = None
        if self.node is None:
            return
        # The loop runs its overdue timers and its sockets in one turn; either may come first.
        waiting, self._waiting = self._waiting, []
        if self.rng.random() < 0.5:
            self._ring()
        for call in waiting:
            call()
        self.alarm.set()

    @property
    def frozen(self) -> bool:
        return self._frozen_until is not None

    def step_wall_clock(self, seconds: float) -> None:
        """Somebody sets the clock."""
        self.wall_offset += seconds
        if self.node is not None and not self.frozen:
            self._perform(self.node.wall_clock(self.wall_offset - self.pump.now, 0.0, self.pump.now))

    def _input(self, node: Node | None, call: Callable[[Node], Sequence[NodeEffect]]) -> None:
        """Something reaches the process; it is for the incarnation that asked for it."""
        if node is None or node is not self.node:
            return
        if self.frozen:
            self._waiting.append(lambda: self._input(node, call))
            return
        self._perform(call(node))

    def _deadline(self) -> float | None:
        return self.node.deadline if self.node is not None and not self.frozen else None

    def _ring(self) -> None:
        if self.node is not None and not self.frozen:
            self._perform(self.node.handle_deadline(self.pump.now))

    # -- from the adapter

    def sighted(self, advert: Advert) -> None:
        self._input(self.node, lambda node: node.sighted(advert, self.pump.now))

    def link_up(self, arm: EdgeArm, conn_id: int, payload_max: int) -> None:
        self._input(self.node, lambda node: node.link_up(arm, conn_id, payload_max, self.pump.now))

    def link_failed(self, arm: EdgeArm, conn_id: int, fault: GlassesFault) -> None:
        self._input(self.node, lambda node: node.link_failed(arm, conn_id, fault, self.pump.now))

    def link_lost(self, arm: EdgeArm, conn_id: int, fault: GlassesFault) -> None:
        self._input(self.node, lambda node: node.link_lost(arm, conn_id, fault, self.pump.now))

    def written(self, arm: EdgeArm, conn_id: int, write_id: int, fault: GlassesFault | None) -> None:
        self._input(self.node, lambda node: node.written(arm, conn_id, write_id, fault, self.pump.now))

    def notified(self, arm: EdgeArm, conn_id: int, char: str, data: bytes) -> None:
        self._input(self.node, lambda node: node.notified(arm, conn_id, char, data, self.pump.now))

    # -- from the network

    def dialled(self, conn_id: int, connection: Connection, boot: int) -> None:
        if boot != self.boots or self.node is None:
            connection.kill(0)  # the process that dialled is gone
            return
        connection.keys[0] = conn_id
        self.connections[conn_id] = connection
        self._input(self.node, lambda node: node.opened(conn_id, self.pump.now))

    def dial_failed(
        self, conn_id: int, boot: int, status: int | None, retry_after: float | None = None
    ) -> None:
        if boot != self.boots:
            return
        reason = "refused" if status is None else f"HTTP {status}"
        self._input(self.node, lambda node: node.failed(conn_id, reason, status, retry_after, self.pump.now))

    def received(self, connection: Connection, data: bytes, binary: bool) -> None:
        conn_id = connection.keys[0]
        if not binary:
            self._input(self.node, lambda node: node.received(conn_id, data, self.pump.now))

    def ponged(self, connection: Connection, payload: bytes) -> None:
        pass  # the edge asks in data frames

    def closed(self, connection: Connection, code: int, reason: str) -> None:
        conn_id = connection.keys[0]
        self.connections.pop(conn_id, None)
        self._input(self.node, lambda node: node.closed(conn_id, code, reason, self.pump.now))

    def lose_sight_of(self, connection: Connection) -> None:
        """The host's network changes: its end of a connection is gone, nobody tells the other end."""
        self.closed(connection, 1006, "")
        connection.open[0] = False

    # -- effects

    def _perform(self, effects: Sequence[NodeEffect]) -> None:
        node = self.node
        assert node is not None
        for effect in effects:
            match effect:
                case Scan(on):
                    self.glasses.scan(self, on)
                case Connect(arm, conn_id, address):
                    self.glasses.connect(self, arm, conn_id, address)
                case Disconnect(arm, conn_id):
                    self.glasses.disconnect(self, arm, conn_id)
                case Write(arm, conn_id, write_id, data, response):
                    self.glasses.write(arm, conn_id, write_id, data, response, self)
                case Decode(_, lost, frames):
                    pcm = bytes(320 * (lost + len(frames)))
                    captured = self.pump.now
                    self.pump.after(
                        0.001,
                        lambda pcm=pcm, captured=captured: self._input(  # type: ignore[misc]
                            node, lambda node: node.decoded(pcm, captured, self.pump.now)
                        ),
                    )
                case Remember(_, pair, addresses):
                    self.target = Target(pair, addresses)
                case Upload(request_id):
                    self.pump.after(
                        0.2,
                        lambda request_id=request_id: self._input(  # type: ignore[misc]
                            node, lambda node: node.uploaded(request_id, True, "", self.pump.now)
                        ),
                    )
                case Notice():
                    pass
                case Dial(conn_id):
                    self.cloud.dial_glasses(self, conn_id)
                case Hangup(conn_id, code, reason):
                    connection = self.connections.pop(conn_id, None)
                    if connection is not None:
                        connection.close(0, code, reason)
                case SendText(conn_id, data):
                    if conn_id in self.connections:
                        self.connections[conn_id].send(0, data)
                case SendAudio(conn_id, pcm):
                    if conn_id in self.connections:
                        self.audio_frames += 1
                        self.connections[conn_id].send(0, pcm, binary=True)
                case _:
                    assert_never(effect)
        self.alarm.set()
