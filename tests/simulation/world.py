"""The whole world of one run: wearers with glasses and edges, one cloud with its store, app servers, and all their faults.

Rules: one seed is one run. A run is a list of steps made from the seed before anything happens, so that a failing run
can be shrunk by leaving steps out. After the last step everything is healed and left alone for `SETTLE`; then what was
wanted must be so, and what was said must be true. Invariants (issue of the simulation, by number): I1 links lose and
double nothing, I2 no data to a stopped app, I3 no byte of another user, I4 the microphone is as needed, I5 the lens
ends with the newest wanted text, I6 status is true, I7 sizes are bounded.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from cloud.core.app_lifecycle import AppState
from cloud.core.session import AppInfo, SessionState
from edge.core.glasses import GlassesState, MicState
from edge.core.uplink import UplinkState
from firmware_sim.firmware import g1
from firmware_sim.firmware.base import Action
from tests.simulation.app_server import AppServer, AppSession
from tests.simulation.cloud_program import CloudProgram
from tests.simulation.edge_program import EdgeProgram
from tests.simulation.glasses import Glasses
from tests.simulation.watch import Sent
from tests.support.pump import Pump

#: How long a healed world may take to be whole. Longest waits, one after the other: a connection attempt to an arm
#: (20 s) after its backoff (30 s), the uplink's backoff (30 s) and then an app's restart (30 s + 20 %, start 10 s).
SETTLE = 170.0
#: An app server that never worked, as far as this cloud process knows, is probed every five minutes only (APP-11): a run
#: in which app servers fail may have to wait for that.
SETTLE_SLOW = 380.0
START = 1000.0  # the monotonic clock of a machine that has been up for a while


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens at `at` seconds. `value`, in [0, 1), is what the kind makes of it."""

    at: float
    kind: str
    who: int = 0
    value: float = 0.0

    def __str__(self) -> str:
        return f"{self.at:8.3f}  {self.kind:<14} wearer {self.who}  value {self.value:g}"


@dataclass(frozen=True, slots=True)
class AppKind:
    """A model app."""

    package: str
    streams: tuple[Any, ...]
    draws: bool
    kind: str
    permissions: frozenset[str]

    @property
    def needs_audio(self) -> bool:
        return any(str(s).startswith(("audio_chunk", "transcription")) for s in self.streams)


APPS = (
    AppKind("com.example.captions", ("audio_chunk", "transcription:en-US", "button_press"), True, "standard",
            frozenset({"MICROPHONE"})),
    AppKind("com.example.counter", ("touch_event", "button_press"), True, "standard", frozenset()),
    AppKind("com.example.logger", ("touch_event", "button_press", "glasses_battery_update"), False, "background",
            frozenset()),
    AppKind("com.example.recorder", ("audio_chunk",), False, "background", frozenset({"MICROPHONE"})),
)  # fmt: skip

#: kind -> weight: ordinary use.
USE = {
    "start": 8, "stop": 4, "tap": 12, "double_tap": 1, "look": 3, "long_press": 2, "battery": 2, "draw": 4,
    "speech": 3, "app_streams": 2,
}  # fmt: skip
#: kind -> weight: faults.
FAULTS = {
    "net_reset": 6, "net_hold_up": 3, "net_hold_down": 3, "net_hold_both": 4, "net_slow": 2, "swallow": 1, "twin": 2,
    "cloud_kill": 3, "cloud_drain": 3, "store_slow": 2, "store_away": 2,
    "app_reset": 6, "app_kill": 4, "app_hang": 2, "app_crash": 2, "app_mute": 2,
    "arm_drop": 4, "arms_drop": 2, "adapter": 2, "deaf": 2, "mute": 2, "drop_acks": 3, "lossy": 2, "fail_acks": 2,
    "edge_kill": 3, "edge_freeze": 3, "clock": 2, "case": 1, "wear": 1,
}  # fmt: skip


def plan(seed: int, *, wearers: int = 2, steps: int = 40) -> list[Step]:
    """The steps of one run."""
    rng = random.Random(f"plan {seed}")
    faults = rng.choice([0.2, 0.4, 0.6])
    calm = rng.choice([0.3, 2.0, 8.0])  # mean pause between steps, s
    at = rng.random() * 12
    made = [Step(0.0, "start", who, rng.random()) for who in range(wearers)]
    for _ in range(steps):
        at += rng.expovariate(1 / calm)
        table = FAULTS if rng.random() < faults else USE
        kind = rng.choices(list(table), list(table.values()))[0]
        made.append(Step(round(at, 3), kind, rng.randrange(wearers), round(rng.random(), 3)))
    return made


class Violation(AssertionError):
    """An invariant does not hold."""


class World:
    """Everything of one run."""

    def __init__(self, seed: int, *, wearers: int = 2) -> None:
        self.seed = seed
        self.pump = Pump(START)
        self.epochs: dict[str, Sent] = {}
        self.faults = 0
        self.servers: dict[str, AppServer] = {}
        self.cloud = CloudProgram(self.pump, random.Random(f"cloud {seed}"), self.epochs, self.servers)
        self.kinds = {kind.package: kind for kind in APPS}
        for kind in APPS:
            server = AppServer(
                self.pump,
                random.Random(f"app {seed} {kind.package}"),
                self.cloud,
                kind.package,
                list(kind.streams),
                draws=kind.draws,
            )
            server.heard = self._app_heard
            self.servers[kind.package] = server
            self.cloud.records[kind.package] = AppInfo(
                kind.package, kind.package, f"http://{kind.package}", kind.kind, kind.permissions
            )
        self.glasses: list[Glasses] = []
        self.edges: list[EdgeProgram] = []
        self.words = 0
        self.slow_apps = False
        self.dismissed: set[int] = set()
        self.event_times: dict[tuple[int, int, bytes], int] = {}
        for n in range(wearers):
            glasses = Glasses(self.pump, random.Random(f"air {seed} {n}"), n + 1)
            edge = EdgeProgram(
                self.pump, random.Random(f"edge {seed} {n}"), f"user{n}", glasses, self.cloud, self.epochs
            )
            glasses.start()
            edge.boot()
            self.glasses.append(glasses)
            self.edges.append(edge)

    # -- running

    def run(self, steps: Sequence[Step]) -> None:
        """The steps, then the peace after them, then the questions. Raises Violation (or what a core raised)."""
        kinds = {step.kind for step in steps}
        self.slow_apps |= bool(kinds & {"app_kill", "app_hang", "app_crash"})
        self._run_to(START + 8.0)  # everybody is connected once
        for step in steps:
            self._run_to(START + 8.0 + step.at)
            self.faults += step.kind in FAULTS
            self._take(step)
        self.heal()
        self._settle(SETTLE_SLOW if self.slow_apps else SETTLE)

    def _settle(self, limit: float) -> None:
        """Leave the world alone until it is whole and stays so; every fourth run waits the whole time."""
        end, whole = self.pump.now + limit, 0
        self.pump.after(30.0, self._look_around)
        self.pump.after(limit - 30.0, self._look_around)
        self._run_to(self.pump.now + 40.0)
        while whole < 3 or self.seed % 4 == 0:
            self._run_to(min(end, self.pump.now + 10.0))
            if self.pump.now >= end:
                self.check_end()
                return
            try:
                self.check_end()
            except Violation:
                whole = 0
            else:
                whole += 1

    def advance(self, seconds: float) -> None:
        """Let time pass; for tests that tell a story of their own."""
        self._run_to(self.pump.now + seconds)

    def _run_to(self, until: float) -> None:
        pump = self.pump
        while (due := pump.next_at()) is not None and due <= until:
            pump.step()
            if pump.events % 32 == 0:
                self.check_always()
        pump.now = max(pump.now, until)
        self.check_always()

    # -- steps

    def _take(self, step: Step) -> None:
        glasses, edge, value = self.glasses[step.who], self.edges[step.who], step.value
        cloud, after = self.cloud, self.pump.after
        side = g1.LEFT if value < 0.5 else g1.RIGHT
        arm = glasses.firmware.arms[side]
        server = self.servers[APPS[int(value * 997) % len(APPS)].package]
        long = 0.5 + 60 * value**3  # mostly short, sometimes a minute
        mine = [c for c in cloud.connections if c.ends[0] is edge]
        of_app = [
            c for c in cloud.connections if isinstance(c.ends[0], AppSession) and c.ends[0].server is server
        ]
        match step.kind:
            # ordinary use
            case "start" | "stop":
                seat = cloud.seats.get(edge.user)
                if seat is not None and cloud.up:
                    act = seat.session.start_app if step.kind == "start" else seat.session.stop_app
                    cloud._perform(seat, act(server.package, self.pump.now))
            case "tap":
                glasses.user(Action.TAP, side)
            case "double_tap":
                if glasses.user(Action.DOUBLE_TAP, side):
                    self.dismissed.add(step.who)  # on the glasses a double tap leaves the text
            case "long_press":
                glasses.user(Action.LONG_PRESS, side)
            case "look":
                glasses.user(Action.LOOK_UP if value < 0.5 else Action.LOOK_DOWN)
            case "battery":
                glasses.user(Action.BATTERY, None, 1 + int(value * 99))
            case "draw":
                for session in server.live(edge.user):
                    for _ in range(1 + int(value * 5)):
                        self.words += 1
                        session.show(
                            f"{server.package}/text{self.words}/{edge.user} " * (1 + int(value * 20))
                        )
                    self.dismissed.discard(step.who)
            case "speech":
                seat = cloud.seats.get(edge.user)
                if seat is not None and cloud.up:
                    self.words += 1
                    event = {
                        "type": "transcription",
                        "text": f"speech{self.words} of {edge.user}",
                        "isFinal": value < 0.5,
                        "transcribeLanguage": "en-US",
                    }
                    cloud._perform(seat, seat.session.speech(event, self.pump.now))
            case "app_streams":
                for session in server.live(edge.user):  # an app that changes its mind twice in one write
                    for streams in ([], list(server.streams)):
                        session._send(
                            {
                                "type": "subscription_update",
                                "packageName": server.package,
                                "subscriptions": streams,
                            }
                        )
            # the wearer's network
            case "net_reset":
                for connection in mine:
                    connection.reset()
            case "net_hold_up" | "net_hold_down" | "net_hold_both":
                up, down = step.kind != "net_hold_down", step.kind != "net_hold_up"
                cloud.holes = (up, down)
                for connection in cloud.connections:
                    if isinstance(connection.ends[0], EdgeProgram):
                        connection.held[1] |= up
                        connection.held[0] |= down
                after(long, self._heal_network)
            case "net_slow":
                self._set_delay(2 * value)
                after(10 + long, lambda: self._set_delay(0.02))
            case "swallow":
                for connection in cloud.connections:
                    connection.swallow_control = True
            case "twin":
                # the same user's edge dials again while its old connection still stands
                if edge.node is not None and not edge.frozen and mine and cloud.up:
                    for connection in mine:
                        connection.held = [True, True]
                    edge.lose_sight_of(mine[-1])
                    for connection in mine:
                        after(long / 4, connection.reset)
            # the cloud
            case "cloud_kill":
                if cloud.up:
                    cloud.kill()
                    after(long, lambda: None if cloud.up else cloud.boot())
            case "cloud_drain":
                if cloud.up and not cloud.draining:
                    cloud.drain()
                    after(1.0 + long / 4, lambda: None if cloud.up else cloud.boot())
            case "store_slow":
                cloud.store_delay = 8 * value
                after(5 + long, lambda: setattr(cloud, "store_delay", 0.005))
            case "store_away":
                cloud.store_away = True
                after(long, lambda: setattr(cloud, "store_away", False))
            # app servers
            case "app_reset":
                for connection in of_app:
                    connection.reset()
            case "app_kill":
                server.kill()
                after(long, server.boot)
            case "app_hang":
                server.hangs = True
                after(long, lambda: setattr(server, "hangs", False))
            case "app_crash":
                server.crashes = True
                self.slow_apps = True
                after(long, lambda: setattr(server, "crashes", False))
            case "app_mute":
                for connection in of_app:
                    connection.hold(0)
                    connection.hold(1)
                    after(long, connection.heal)
            # the glasses and the radio
            case "arm_drop":
                glasses.drop(side)
            case "arms_drop":
                glasses.drop(g1.LEFT)
                glasses.drop(g1.RIGHT)
            case "adapter":
                glasses.adapter(False)
                after(long, lambda: glasses.adapter(True))
            case "deaf" | "mute":
                setattr(arm.faults, step.kind, True)
                after(long, lambda: setattr(arm.faults, step.kind, False))
            case "drop_acks":
                arm.faults.drop_acks += 1 + int(value * 6)
            case "fail_acks":
                arm.faults.fail_acks += 1 + int(value * 3)
            case "lossy":
                arm.faults.lose = value / 2
                after(long, lambda: setattr(arm.faults, "lose", 0.0))
            case "case":
                glasses.user(Action.CASE, None, "closed")
                after(1 + long, lambda: glasses.user(Action.CASE, None, "out"))
            case "wear":
                glasses.user(Action.WEAR, None, False)
                after(1 + long, lambda: glasses.user(Action.WEAR, None, True))
            # the edge's host
            case "edge_kill":
                edge.kill()
                after(0.5 + long / 4, edge.boot_if_down)
            case "edge_freeze":
                edge.freeze(long * 2)
            case "clock":
                edge.step_wall_clock((value - 0.5) * 7200)
            case _:
                raise ValueError(step.kind)

    def _heal_network(self) -> None:
        self.cloud.holes = (False, False)
        for connection in self.cloud.connections:
            connection.heal()

    def _set_delay(self, delay: float) -> None:
        self.cloud.delay = delay
        for connection in self.cloud.connections:
            connection.delay = delay

    def heal(self) -> None:
        """Every fault ends. What time and the programs do not cure by themselves after this is a bug."""
        cloud = self.cloud
        self._heal_network()
        self._set_delay(0.02)
        cloud.store_delay, cloud.store_away = 0.005, False
        if not cloud.up:
            cloud.boot()
        for connection in cloud.connections:
            connection.swallow_control = False
        for server in self.servers.values():
            server.hangs = server.crashes = False
            server.boot()
        for glasses, edge in zip(self.glasses, self.edges, strict=True):
            glasses.adapter_up = True
            for arm in glasses.firmware.arms.values():
                arm.faults = type(arm.faults)()
            glasses.user(Action.CASE, None, "out")
            glasses.user(Action.WEAR, None, True)
            edge.thaw()
            edge.boot_if_down()

    def _look_around(self) -> None:
        """Everyone moves the head: where it was during an outage nobody could tell."""
        for glasses in self.glasses:
            glasses.user(Action.LOOK_UP)
            self.pump.after(2.0, lambda glasses=glasses: glasses.user(Action.LOOK_DOWN))  # type: ignore[misc]

    # -- questions

    def _app_heard(self, session: AppSession, message: dict[str, Any]) -> None:
        """I3, and I1 as an app sees it: what is not flagged as replayed is new, and everything is the user's own."""
        text = str(message["data"])
        for edge in self.edges:
            self._hold(
                edge.user == session.user or edge.user not in text,
                f"I3: {session.server.package} of {session.user} heard of {edge.user}",
            )
        if message["streamType"] in ("touch_event", "button_press"):
            event = orjson.dumps(message["data"])
            # Across a crash of the cloud what was not acknowledged comes again (docs/reliability.md).
            key = (id(session), self.cloud.boots, event)
            times = self.event_times[key] = self.event_times.get(key, 0) + (not message.get("replayed"))
            happened = sum(sent.messages.count(event) for sent in self.epochs.values())
            self._hold(
                times <= happened,
                f"I1: {session.server.package} of {session.user} got an event {times} times, it happened {happened} times",
            )

    def check_always(self) -> None:
        """I1 (links), I7 (bounds); cheap, for it is asked all the time."""
        for edge in self.edges:
            node = edge.node
            if node is None:
                continue
            self._hold(
                node.link.backlog <= node.timing.link.log_messages_max, "I7: the edge's log is bounded"
            )
            wrong = edge.watched.violation() if edge.watched is not None else None
            self._hold(wrong is None, f"I1: {wrong}")
            for arm in node.glasses.arms.values():
                self._hold(arm.writer.queued <= 64, "I7: the writer's queue is bounded")
        for seat in self.cloud.seats.values():
            wrong = seat.watched.violation()
            self._hold(wrong is None, f"I1: {wrong}")
            self._hold(seat.watched.backlog <= 512, "I7: the cloud's log is bounded")
            self._hold(len(seat.session.app_states()) <= 50, "I7: the apps of a session are bounded")
            wrong = self.cloud.misheld(seat)
            self._hold(wrong is None, f"I6: {seat.user}: {wrong}")
        self._hold(len(self.cloud.seats) <= len(self.edges), "I7: one session per user")

    def check_end(self) -> None:
        """After the peace: everything that was wanted is so, everything that is said is true."""
        cloud = self.cloud
        self._hold(not cloud.ending, f"I6: {len(cloud.ending)} sessions never finished")
        for n, (glasses, edge) in enumerate(zip(self.glasses, self.edges, strict=True)):
            node, user = edge.node, edge.user
            assert node is not None
            up, pair = node.uplink, node.glasses
            arms = {a.value: (link.state.value, link.fault) for a, link in pair.arms.items()}
            self._hold(up.state is UplinkState.ONLINE, f"{user}: the uplink is {up.state.value}: {up.reason}")
            self._hold(
                pair.state is GlassesState.READY, f"{user}: the glasses are {pair.state.value}: {arms}"
            )
            seat = cloud.seats.get(user)
            self._hold(seat is not None, f"{user}: has no session")
            assert seat is not None
            session = seat.session
            self._hold(session.state is SessionState.CONNECTED, f"I6: {user}: session {session.state.value}")
            for end, watched in (("edge", edge.watched), ("cloud", seat.watched)):
                assert watched is not None
                self._hold(
                    watched.backlog == 0, f"I1: {user}: {watched.backlog} messages of the {end} never arrived"
                )
                self._hold(
                    watched.lost_in_silence() == 0,
                    f"I1: {user}: {watched.lost_in_silence()} messages of the {end} are lost in silence",
                )
            self._check_apps(user)
            self._check_microphone(glasses, edge)
            if n not in self.dismissed:
                self._check_lens(glasses, edge)

    def _check_apps(self, user: str) -> None:
        session, wanted = self.cloud.seats[user].session, self.cloud.stored[user].wanted
        for package, server in self.servers.items():
            life, live = session.app(package), server.live(user)
            if package in wanted:
                state = None if life is None else (life.state.value, life.reason.value, life.failures)
                self._hold(
                    life is not None and life.state is AppState.CONNECTED,
                    f"{user}: {package} is wanted, but {state}",
                )
                self._hold(
                    len(live) == 1,
                    f"I6: {user}: {package} is called connected, the app has {len(live)} sessions",
                )
            else:
                self._hold(
                    life is None or life.state is AppState.DISCONNECTED,
                    f"{user}: {package} is not wanted, but {life and life.state.value}",
                )
                self._hold(not live, f"I2: {user}: {package} is not wanted, but the app still has a socket")
        standard = [p for p in wanted if self.kinds[p].kind == "standard"]
        self._hold(len(standard) <= 1, f"{user}: two foreground apps are wanted: {standard}")

    def _check_microphone(self, glasses: Glasses, edge: EdgeProgram) -> None:
        node, user = edge.node, edge.user
        assert node is not None
        listeners = [p for p in self.cloud.stored[user].wanted if self.kinds[p].needs_audio]
        self._hold(
            glasses.mic_on is bool(listeners),
            f"I4: {user}: microphone on={glasses.mic_on}, wanted by {listeners}",
        )
        said = node.glasses.mic
        self._hold(
            said is (MicState.ON if listeners else MicState.OFF),
            f"I6: {user}: status says microphone {said.value}, it is on={glasses.mic_on}",
        )
        for package in listeners:
            silent = self.pump.now - self.servers[package].audio_at.get(user, 0.0)
            self._hold(silent < 2.0, f"I4: {user}: {package} wants sound and heard none for {silent:.1f} s")

    def _check_lens(self, glasses: Glasses, edge: EdgeProgram) -> None:
        """The newest text of the wanted foreground app; nothing of an app that is gone."""
        user = edge.user
        standard = [p for p in self.cloud.stored[user].wanted if self.kinds[p].kind == "standard"]
        drawn = self.cloud.drawn.get((user, standard[0])) if standard else None
        for side in (g1.LEFT, g1.RIGHT):
            text = glasses.text(side)
            strangers = [e.user for e in self.edges if e.user != user and e.user in text]
            self._hold(not strangers, f"I3: {user}: {side} shows what belongs to {strangers}")
            if drawn is None or drawn.cloud_boot != self.cloud.boots:
                # A text that was drawn before a restart of the cloud may not have reached the lens, or may have been
                # covered since: nobody can ask an SDK app to draw again (docs/reliability.md, limits). But nothing of an
                # app that nobody wants stays.
                ok = not any(p in text for p in self.servers if p not in self.cloud.stored[user].wanted)
            else:
                # Whichever page of it the wearer has turned to.
                shown, wanted = "".join(text.split()), "".join(drawn.text.split())
                ok = shown in wanted and shown != ""
            self._hold(
                ok,
                f"I5: {user}: {side} shows {text[:50]!r}, wanted {drawn and drawn.text[:50]!r} of {standard}",
            )

    def _hold(self, ok: bool, what: str) -> None:
        if not ok:
            raise Violation(f"{what} ({self.pump.now - START:.3f} s)")
