"""A small world for the pure edge core: two scripted arms, a scripted cloud, virtual time.

The arms here only acknowledge (and fail on request); the real firmware model meets the edge in tests/simulation and
tests/system. `World.run(seconds)` advances the time from event to event, without sleeping.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from edge.core.arm import Connect, Disconnect, Write
from edge.core.bridge import Upload
from edge.core.glasses import Decode, Notice, Remember, Scan, Target
from edge.core.node import Node, NodeEffect, NodeTiming, SendAudio, SendText
from edge.core.uplink import Dial, Hangup
from edge.profiles.base import Advert, Arm
from edge.profiles.g1 import G1
from wire.errors import GlassesFault

SIDES = {Arm.LEFT: "L", Arm.RIGHT: "R"}


@dataclass
class FakeArm:
    """One G1 arm as seen over the air; every switch is a fault."""

    arm: Arm
    address: str
    name: str
    advertising: bool = True
    connect_fault: GlassesFault | None = None
    payload: int = 248
    mute: bool = False  # hears everything, answers nothing
    deaf: bool = False  # takes writes, does nothing with them
    refuse: set[int] = field(default_factory=set)  # first bytes answered with CA
    unanswered: dict[int, int] = field(default_factory=dict)  # first byte -> how many more go unanswered
    ack_delay: float = 0.03
    conn: int | None = None
    heard: list[tuple[float, bytes]] = field(default_factory=list)
    pages: list[tuple[float, str]] = field(default_factory=list)
    mic: bool = False
    _parts: dict[int, list[bytes]] = field(default_factory=dict)

    def answers(self, data: bytes, now: float) -> list[bytes]:
        if self.deaf:
            return []
        self.heard.append((now, data))
        kind = data[0]
        if self.unanswered.get(kind, 0) > 0:
            self.unanswered[kind] -= 1
            return []
        if kind in self.refuse:
            return [] if self.mute else [bytes((kind, 0xCA)) + data[1:2]]
        out = self._answer(kind, data, now)
        return [] if self.mute else out

    def _answer(self, kind: int, data: bytes, now: float) -> list[bytes]:
        if kind == 0x25:
            return [data]
        if kind == 0x4E:
            self._parts.setdefault(data[1], []).append(data[9:])
            if data[3] + 1 < data[2]:
                return [bytes((0x4E, 0xCB, data[1]))]
            self.pages.append((now, b"".join(self._parts.pop(data[1])).decode()))
            return [bytes((0x4E, 0xC9, data[1]))]
        if kind == 0x0E:
            self.mic = bool(data[1])
            return [bytes((0x0E, 0xC9, data[1]))]
        if kind == 0x2C:
            return [bytes((0x2C, 0x66, 87)).ljust(20, b"\0")]
        if kind == 0x06:
            return [data[:4].ljust(20, b"\0")]
        if kind == 0x15:
            return []
        if kind == 0x16:
            return [data + b"\xc9"]
        if kind == 0x23:
            return [b"net build time: 2025"]
        if kind == 0x34:
            return [b"\x34\x00S110LABD020021".ljust(20, b"\0")]
        if kind == 0x26:
            return [bytes((0x26, 6, 0, data[3], 2, 0xC9))]
        return [bytes((kind, 0xC9)).ljust(20, b"\0")]

    @property
    def shows(self) -> str | None:
        return self.pages[-1][1].strip("\n") if self.pages else None


class World:
    """Everything around one Node."""

    def __init__(
        self, timing: NodeTiming | None = None, target: Target | None = None, *, seed: int = 1
    ) -> None:
        self.now = 1000.0
        self.arms = {
            Arm.LEFT: FakeArm(Arm.LEFT, "AA:L", "Even G1_7_L_0000AA"),
            Arm.RIGHT: FakeArm(Arm.RIGHT, "AA:R", "Even G1_7_R_0000BB"),
        }
        self.strangers: list[Advert] = []
        noise = itertools.cycle((0.1, 0.9, 0.5, 0.3, 0.7))
        self.node = Node(
            G1(),
            target or Target(),
            timing or NodeTiming(),
            jitter=lambda: next(noise),
            link_epoch=f"edge-{seed}",
        )
        self.queue: list[tuple[float, int, Callable[[], Sequence[NodeEffect]]]] = []
        self._count = itertools.count()
        self.scanning = False
        self.cloud_clock: float | None = None  # its Unix seconds minus `now`; None: it does not tell
        self.notices: list[Notice] = []
        self.remembered: list[Remember] = []
        self.sent: list[tuple[float, dict[str, Any]]] = []
        self.audio: list[tuple[float, bytes]] = []
        self.dials: list[float] = []
        self.hangups: list[tuple[float, int]] = []
        self.uploads: list[Upload] = []
        self.decodes: list[Decode] = []
        self.cloud_up = True
        self.cloud_deaf = False  # the path is a black hole: nothing arrives, nothing fails
        self.dial_status: int | None = None
        self.conn: int | None = None
        self.link_extension = False
        self.cloud_offset = 0

    # ------------------------------------------------------------------------------------------------- running

    def start(self) -> World:
        self.do(self.node.start(self.now))
        self.do(self.node.wall_clock(1_700_000_000.0 - self.now, 3600.0, self.now))
        return self

    def at(self, delay: float, what: Callable[[], Sequence[NodeEffect]]) -> None:
        heapq.heappush(self.queue, (self.now + delay, next(self._count), what))

    def run(self, seconds: float) -> None:
        """Let that much time pass. Bounded: a machine that spins fails the test."""
        end = self.now + seconds
        for _ in range(200_000):
            deadline = self.node.deadline
            event = self.queue[0][0] if self.queue else None
            at = min((t for t in (deadline, event) if t is not None), default=None)
            if at is None or at > end:
                self.now = end
                return
            self.now = max(self.now, at)
            if event is not None and (deadline is None or event <= deadline):
                self.do(heapq.heappop(self.queue)[2]())
            else:
                self.do(self.node.handle_deadline(self.now))
        raise AssertionError("the machine spins")

    def do(self, effects: Sequence[NodeEffect]) -> None:
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: NodeEffect) -> None:
        match effect:
            case Scan(on):
                was, self.scanning = self.scanning, on
                if on and not was:
                    self.at(0.05, self._advertise)
            case Connect(arm, conn_id, _):
                self.at(0.2, lambda: self._connect(arm, conn_id))
            case Disconnect(arm, conn_id):
                if self.arms[arm].conn == conn_id:
                    self.arms[arm].conn = None
            case Write(arm, conn_id, write_id, data):
                self._write(arm, conn_id, write_id, data)
            case Decode():
                self.decodes.append(effect)
                captured = self.now
                pcm = b"\1\0" * (160 * (effect.lost + len(effect.frames)))
                self.do(self.node.decoded(pcm, captured, self.now))
            case Remember():
                self.remembered.append(effect)
            case Notice():
                self.notices.append(effect)
            case Upload():
                self.uploads.append(effect)
            case Dial(conn_id):
                self.dials.append(self.now)
                self.at(0.05, lambda: self._dialled(conn_id))
            case Hangup(conn_id, code, _):
                self.hangups.append((self.now, code))
                if self.conn == conn_id:
                    self.conn = None
            case SendText(conn_id, data):
                if self.conn == conn_id and not self.cloud_deaf:
                    self._cloud(conn_id, data)
            case SendAudio(conn_id, pcm):
                if self.conn == conn_id and not self.cloud_deaf:
                    self.audio.append((self.now, pcm))
            case _:
                assert_never(effect)

    # --------------------------------------------------------------------------------------------------- radio

    def _advertise(self) -> list[NodeEffect]:
        if not self.scanning:
            return []
        effects: list[NodeEffect] = []
        for advert in self.strangers:
            effects += self.node.sighted(advert, self.now)
        for arm in self.arms.values():
            if arm.advertising and arm.conn is None:
                effects += self.node.sighted(Advert(arm.address, arm.name, -50), self.now)
        self.at(0.1, self._advertise)
        return effects

    def _connect(self, arm: Arm, conn_id: int) -> Sequence[NodeEffect]:
        fake = self.arms[arm]
        if fake.connect_fault is not None:
            return self.node.link_failed(arm, conn_id, fake.connect_fault, self.now)
        if not fake.advertising:
            return self.node.link_failed(arm, conn_id, GlassesFault.NOT_FOUND, self.now)
        fake.conn = conn_id
        return self.node.link_up(arm, conn_id, fake.payload, self.now)

    def _write(self, arm: Arm, conn_id: int, write_id: int, data: bytes) -> None:
        fake = self.arms[arm]
        if fake.conn != conn_id:
            self.at(
                0.001, lambda: self.node.written(arm, conn_id, write_id, GlassesFault.LINK_LOST, self.now)
            )
            return
        answers = fake.answers(data, self.now)
        self.at(0.01, lambda: self.node.written(arm, conn_id, write_id, None, self.now))
        for answer in answers:
            self.at(fake.ack_delay, lambda answer=answer: self.notify(arm, answer, conn_id))  # type: ignore[misc]

    def notify(self, arm: Arm, data: bytes, conn_id: int | None = None) -> Sequence[NodeEffect]:
        fake = self.arms[arm]
        conn = fake.conn if conn_id is None else conn_id
        if conn is None or conn != fake.conn:
            return []
        return self.node.notified(arm, conn, "", data, self.now)

    def event(self, arm: Arm, raw: str) -> None:
        """The glasses say something of themselves, now."""
        self.do(self.notify(arm, bytes.fromhex(raw)))

    def drop(self, arm: Arm, *, gone: bool = False) -> None:
        """The radio link of one arm ends; with `gone` it does not advertise afterwards."""
        fake = self.arms[arm]
        conn, fake.conn = fake.conn, None
        fake.advertising = not gone
        if conn is not None:
            self.do(self.node.link_lost(arm, conn, GlassesFault.LINK_LOST, self.now))

    # --------------------------------------------------------------------------------------------------- cloud

    def _dialled(self, conn_id: int) -> Sequence[NodeEffect]:
        if not self.cloud_up:
            return self.node.failed(conn_id, "refused", self.dial_status, None, self.now)
        self.conn = conn_id
        self.at(0.02, lambda: self.say_on(conn_id, ACK))
        return self.node.opened(conn_id, self.now)

    def say_on(self, conn_id: int, message: dict[str, Any]) -> Sequence[NodeEffect]:
        if self.conn != conn_id or self.cloud_deaf:
            return []
        return self.node.received(conn_id, json.dumps(message).encode(), self.now)

    def say(self, **message: Any) -> None:
        """The cloud sends a message, now."""
        assert self.conn is not None
        self.do(self.say_on(self.conn, message))

    def show(self, text: str, view: str = "main", **more: Any) -> None:
        self.say(
            type="display_event",
            packageName="com.example",
            view=view,
            layout={"layoutType": "text_wall", "text": text},
            **more,
        )

    def mic(self, on: bool) -> None:
        self.say(
            type="microphone_state_change",
            sessionId="u",
            isMicrophoneEnabled=on,
            requiredData=["pcm"] if on else [],
        )

    def _cloud(self, conn_id: int, data: bytes) -> None:
        message = json.loads(data)
        self.sent.append((self.now, message))
        if message["type"] == "ping":
            pong = {"type": "pong", "sentMs": message.get("sentMs")}
            if self.cloud_clock is not None:
                pong["clockMs"] = (self.now + 0.01 + self.cloud_clock) * 1000  # half-way
            self.at(0.02, lambda: self.say_on(conn_id, pong))
        if message["type"] == "connection_init":
            ack = dict(ACK)
            if self.link_extension:
                hello = message["link"]
                ack["link"] = {
                    "epoch": "c1",
                    "offset": 0,
                    "recovered": False,
                    "peerOffset": hello["ownOffset"],
                }
            self.at(0.02, lambda: self.say_on(conn_id, ack))

    def close(self, code: int = 1006, reason: str = "") -> None:
        """The cloud or the network ends the connection."""
        conn, self.conn = self.conn, None
        if conn is not None:
            self.do(self.node.closed(conn, code, reason, self.now))

    def said(self, kind: str, since: float = 0.0) -> list[dict[str, Any]]:
        return [m for at, m in self.sent if m["type"] == kind and at >= since]

    def audio_packet(self, seq: int) -> None:
        self.do(self.notify(Arm.RIGHT, bytes((0xF1, seq)) + bytes(200)))


SESSION = {"userId": "u", "sessionId": "u", "startTime": "2026-01-01T00:00:00.000Z"}
ACK: dict[str, Any] = {"type": "connection_ack", "sessionId": "u", "userSession": SESSION}
