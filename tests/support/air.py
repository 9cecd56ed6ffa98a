"""One simulated pair of glasses of any model, the edge's whole core beside it, and the air between them, in virtual time.

Rules: no radio stack, no codec, no sleep; bytes one way and bytes the other. Whatever can go wrong on the air is a switch
here; whatever can go wrong inside the glasses is a switch of the firmware (`faults`). The cloud is one that always
answers: what it was told lies in `said`.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from edge.audio import SpeechDecoder
from edge.core.arm import Connect, Disconnect, Write
from edge.core.bridge import Upload
from edge.core.glasses import Decode, Notice, Remember, Scan, Target
from edge.core.node import Node, NodeEffect, NodeTiming, SendAudio, SendText
from edge.core.uplink import Dial, Hangup
from edge.profiles import PROFILES
from edge.profiles.base import Advert, Arm
from firmware_sim.firmware import MODELS
from firmware_sim.firmware import base as sim
from tests.support.pump import Alarm, Pump
from wire.errors import GlassesFault

HOST = "5A:00:00:00:00:01"
_SESSION = {"userId": "u", "sessionId": "u", "startTime": "2026-01-01T00:00:00.000Z"}
_ACK = {"type": "connection_ack", "sessionId": "u", "userSession": _SESSION}


@dataclass
class _Link:
    number: int
    conn_id: int
    alive: bool = True
    due_in: float = 0.0  # nothing overtakes on a link
    due_out: float = 0.0


@dataclass
class Air:
    """The world of one model. `mtu`: of every link from now on; `delay`: one way, seconds."""

    model: str
    mtu: int = 247
    seed: int = 1
    delay: float = 0.0075  # half a connection interval of 15 ms
    audio: sim.AudioSource = field(default_factory=sim.Silence)
    decode: bool = False  # run the real codec, so that `pcm` is sound
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pump = Pump(100.0)
        self.rng = random.Random(self.seed)
        addresses = ("C0:5A:51:00:00:01", "C0:5A:51:00:00:02")
        identity = sim.Identity(1, 7, addresses, 4711)
        self.firmware = MODELS[self.model](identity, chance=self.rng.random, audio=self.audio, **self.options)
        self.profile = PROFILES[self.model]
        self.arms: dict[Arm, str] = dict(zip(self.profile.arms, self.firmware.arms, strict=True))
        self.node = Node(
            self.profile, Target(), NodeTiming(), jitter=self.rng.random, link_epoch="e", simulated=True
        )
        self.decoder = SpeechDecoder(self.profile.audio) if self.decode and self.profile.audio else None
        self.links: dict[str, _Link] = {}
        self.scanning = False
        self.said: list[tuple[float, dict[str, Any]]] = []
        self.uploads: list[tuple[float, Upload]] = []
        self.notices: list[Notice] = []
        self.pcm = bytearray()
        self.writes: list[tuple[float, bytes]] = []  # those that reached the glasses
        self.notified = 0
        self.texts: dict[str, list[tuple[float, str]]] = {arm: [] for arm in self.firmware.arms}
        # switches
        self.drop_write: int | None = None  # the link ends when so many more writes have arrived
        self.drop_notification: int | None = None  # ... or so many more notifications have left
        self.black_hole_in = False  # writes succeed, the glasses hear nothing
        self.black_hole_out = False  # the edge hears nothing
        self.on_notify: Callable[[bytes], list[tuple[float, bytes]]] = lambda data: [(0.0, data)]
        self._numbers = itertools.count(1)
        self._sim_alarm = Alarm(self.pump, lambda: self.firmware.deadline, self._sim_ring)
        self._node_alarm = Alarm(self.pump, lambda: self.node.deadline, self._node_ring)
        self._conn: int | None = None

    # -- people and clouds

    def start(self) -> Air:
        self._do(self.firmware.start(self.now))
        self.feed(self.node.start(self.now))
        self.feed(self.node.wall_clock(1_700_000_000.0 - self.now, 0.0, self.now))
        return self

    @property
    def now(self) -> float:
        return self.pump.now

    def run(self, seconds: float) -> None:
        self.pump.run(self.now + seconds)

    def until(self, what: Callable[[], object], seconds: float = 60.0) -> float:
        """Let time pass until it is so; how long that took. Fails after `seconds`."""
        began = self.now
        while not what():
            due = self.pump.next_at()
            assert due is not None, "nothing will ever happen again"
            assert due - began <= seconds, f"not within {seconds} s of virtual time"
            self.pump.step()
        return self.now - began

    def until_ready(self, seconds: float = 60.0) -> float:
        return self.until(lambda: self.node.glasses.state.value == "ready", seconds)

    def user(self, action: sim.Action, value: sim.Value = None) -> None:
        self._do(self.firmware.user(sim.UserInput(action, None, value), self.now))

    def say(self, **message: Any) -> None:
        assert self._conn is not None, "the cloud has no connection yet"
        self.feed(self.node.received(self._conn, json.dumps(message).encode(), self.now))

    def show(self, text: str, **more: Any) -> None:
        self.layout({"layoutType": "text_wall", "text": text}, **more)

    def layout(self, layout: dict[str, Any], **more: Any) -> None:
        self.say(type="display_event", packageName="com.example", view="main", layout=layout, **more)

    def mic(self, on: bool) -> None:
        data = ["pcm"] if on else []
        self.say(type="microphone_state_change", sessionId="u", isMicrophoneEnabled=on, requiredData=data)

    def photo(self, request_id: str) -> None:
        self.say(
            type="photo_request", sessionId="u", requestId=request_id, appId="com.example", webhookUrl="http://app/photo",
            authToken="t", size="small", compress="none",
        )  # fmt: skip

    def uploaded(self, upload: Upload) -> None:
        self.feed(self.node.uploaded(upload.request_id, True, "", self.now))

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [message for _, message in self.said if message["type"] == kind]

    @property
    def text(self) -> str:
        """What the (first) lens says now."""
        return next(iter(self.firmware.arms.values())).screen.text.strip("\n")

    @property
    def screen(self) -> sim.Screen:
        return next(iter(self.firmware.arms.values())).screen

    @property
    def faults(self) -> sim.Faults:
        return next(iter(self.firmware.arms.values())).faults

    # -- the edge's effects

    def feed(self, effects: Sequence[NodeEffect]) -> None:
        for effect in effects:
            self._perform(effect)
        self._node_alarm.set()

    def _node_ring(self) -> None:
        self.feed(self.node.handle_deadline(self.now))

    def _perform(self, effect: NodeEffect) -> None:
        match effect:
            case Scan(on):
                was, self.scanning = self.scanning, on
                if on and not was:
                    self.pump.after(0.05, self._advertise)
            case Connect(arm, conn_id, _):
                self.pump.after(0.3, lambda: self._connect(arm, conn_id))
            case Disconnect(arm, conn_id):
                link = self.links.get(self.arms[arm])
                if link is not None and link.conn_id == conn_id:
                    self._end(self.arms[arm])
            case Write(arm, conn_id, write_id, data, response, char):
                self._write(arm, conn_id, write_id, data, response, char or self.profile.gatt.write)
            case Decode(stream, lost, frames):
                if self.decoder is not None:
                    pcm = self.decoder.decode(stream, lost, frames)
                    self.feed(self.node.decoded(pcm, self.now, self.now))
            case SendAudio(_, pcm):
                self.pcm += pcm
            case Upload():
                self.uploads.append((self.now, effect))
            case Notice():
                self.notices.append(effect)
            case Dial(conn_id):
                self.pump.after(0.05, lambda: self._dialled(conn_id))
            case SendText(conn_id, data):
                self._cloud(conn_id, json.loads(data))
            case Remember() | Hangup():
                pass
            case _:
                assert_never(effect)

    def _dialled(self, conn_id: int) -> None:
        self._conn = conn_id
        self.feed(self.node.opened(conn_id, self.now))
        # One at open, one for the announcement, as a cloud without the link extension answers.
        self.feed(self.node.received(conn_id, json.dumps(_ACK).encode(), self.now))

    def _cloud(self, conn_id: int, message: dict[str, Any]) -> None:
        self.said.append((self.now, message))
        answer: dict[str, Any] | None = None
        if message["type"] == "connection_init":
            answer = _ACK
        if message["type"] == "ping":
            answer = {"type": "pong", "sentMs": message.get("sentMs")}
        if answer is not None:
            raw = json.dumps(answer).encode()
            self.pump.after(0.02, lambda: self.feed(self.node.received(conn_id, raw, self.now)))

    # -- the air

    def _advertise(self) -> None:
        if not self.scanning:
            return
        for arm in self.firmware.arms.values():
            if arm.state is sim.ArmState.ADVERTISING:
                self.feed(self.node.sighted(Advert(arm.spec.address, arm.spec.name, -50), self.now))
        self.pump.after(0.25, self._advertise)

    def _connect(self, arm: Arm, conn_id: int) -> None:
        name = self.arms[arm]
        if self.firmware.arms[name].state is not sim.ArmState.ADVERTISING:
            self.feed(self.node.link_failed(arm, conn_id, GlassesFault.NOT_FOUND, self.now))
            return
        link = self.links[name] = _Link(next(self._numbers), conn_id)
        mtu = min(self.mtu, self.firmware.arms[name].spec.mtu_max)
        self._do(self.firmware.connected(name, link.number, 23, self.now))
        self._do(self.firmware.mtu_changed(name, link.number, mtu, self.now))
        for uuid in self.profile.gatt.notify:
            self._do(self.firmware.subscribed(name, link.number, uuid, True, self.now))
        self.feed(self.node.link_up(arm, conn_id, mtu - 3, self.now))

    def _end(self, name: str) -> _Link | None:
        link = self.links.pop(name, None)
        if link is not None:
            link.alive = False
            self._do(self.firmware.disconnected(name, link.number, self.now))
        return link

    def drop(self, name: str | None = None) -> None:
        """The radio link is gone; the edge learns of it at once."""
        name = name or next(iter(self.firmware.arms))
        link = self._end(name)
        if link is not None:
            arm = next(arm for arm, known in self.arms.items() if known == name)
            self.feed(self.node.link_lost(arm, link.conn_id, GlassesFault.LINK_LOST, self.now))

    def _write(self, arm: Arm, conn_id: int, write_id: int, data: bytes, response: bool, char: str) -> None:
        name = self.arms[arm]
        link = self.links.get(name)

        def done(fault: GlassesFault | None) -> None:
            self.feed(self.node.written(arm, conn_id, write_id, fault, self.now))

        if link is None or link.conn_id != conn_id:
            self.pump.after(0.001, lambda: done(GlassesFault.LINK_LOST))
            return
        link.due_in = max(link.due_in + 0.0005, self.now + self.delay)

        def arrive() -> None:
            if not link.alive:
                done(GlassesFault.LINK_LOST)
                return
            if self.drop_write is not None:
                self.drop_write -= 1
                if self.drop_write < 0:
                    self.drop_write = None
                    self.drop(name)
                    return
            effects: list[sim.Effect] = []
            if not self.black_hole_in:
                self.writes.append((self.now, data))
                effects = self.firmware.written(name, link.number, char, data, self.now)
            refused = response and any(isinstance(effect, sim.Refuse) for effect in effects)
            # A write with response is confirmed an interval later; the stack takes a command at once.
            self.pump.after(
                self.delay if response else 0.0, lambda: done(GlassesFault.REFUSED if refused else None)
            )
            self._do(effects)

        self.pump.at(link.due_in, arrive)

    # -- the firmware's effects

    def _sim_ring(self) -> None:
        self._do(self.firmware.handle_deadline(self.now))

    def _do(self, effects: list[sim.Effect]) -> None:
        for effect in effects:
            match effect:
                case sim.Notify(arm, number, characteristic, data):
                    self._notify(arm, number, characteristic, data)
                case sim.Disconnect(arm, number):
                    link = self.links.get(arm)
                    if link is not None and link.number == number:
                        self.drop(arm)
                case sim.Lit(arm):
                    self.texts[arm].append((self.now, self.firmware.arms[arm].screen.text))
                case sim.Microphone() | sim.Advertise() | sim.ForgetBond() | sim.Refuse():
                    pass
                case _:
                    assert_never(effect)
        self._sim_alarm.set()

    def _notify(self, name: str, number: int, characteristic: str, data: bytes) -> None:
        link = self.links.get(name)
        if link is None or link.number != number or self.black_hole_out:
            return
        if self.drop_notification is not None:
            self.drop_notification -= 1
            if self.drop_notification < 0:
                self.drop_notification = None
                self.pump.after(0.0, lambda: self.drop(name))
                return
        arm = next(arm for arm, known in self.arms.items() if known == name)
        self.notified += 1
        for late, changed in self.on_notify(data):
            due = self.now + self.delay + late
            if not late:
                due = link.due_out = max(link.due_out + 0.0005, due)

            def arrive(changed: bytes = changed) -> None:
                if link.alive:
                    self.feed(self.node.notified(arm, link.conn_id, characteristic, changed, self.now))

            self.pump.at(due, arrive)
