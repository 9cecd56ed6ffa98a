"""A pair of simulated glasses and the air between them and one adapter: the real firmware model, no radio stack.

Rules: the firmware and the edge never meet but through this file: bytes one way, bytes the other. A link dies as on the
air: both ends learn of it, each in its own time. Faults of the firmware itself are its own switches.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, assert_never

from edge.profiles.base import Advert
from edge.profiles.base import Arm as EdgeArm
from firmware_sim.firmware import g1
from firmware_sim.firmware.base import (
    Action,
    Advertise,
    ArmState,
    Disconnect,
    Effect,
    ForgetBond,
    Lit,
    Microphone,
    NoTaker,
    Notify,
    Refuse,
    Silence,
    UserInput,
)
from tests.support.pump import Alarm, Pump
from wire.errors import GlassesFault


class Host(Protocol):
    """What the edge's program is to its adapter."""

    def sighted(self, advert: Advert) -> None: ...

    def link_up(self, arm: EdgeArm, conn_id: int, payload_max: int) -> None: ...

    def link_failed(self, arm: EdgeArm, conn_id: int, fault: GlassesFault) -> None: ...

    def link_lost(self, arm: EdgeArm, conn_id: int, fault: GlassesFault) -> None: ...

    def written(self, arm: EdgeArm, conn_id: int, write_id: int, fault: GlassesFault | None) -> None: ...

    def notified(self, arm: EdgeArm, conn_id: int, char: str, data: bytes) -> None: ...


@dataclass
class AirLink:
    """One BLE connection."""

    number: int
    conn_id: int
    host: Host
    alive: bool = True
    due_out: float = 0.0  # nothing overtakes on a link
    due_in: float = 0.0


_SIDES = {EdgeArm.LEFT: g1.LEFT, EdgeArm.RIGHT: g1.RIGHT}
_ARMS = {name: arm for arm, name in _SIDES.items()}

#: A central gives up a connection attempt after this.
CONNECT_TIMEOUT = 20.0


class _Quiet(g1.EvenG1):
    """A G1 that says little: one packet of sound every 0.5 s instead of every 0.1 s. Sound is most of a run's events, and
    nothing here depends on its rate."""

    def _schedule_audio(self, due: float) -> None:
        super()._schedule_audio(due + 0.4)


class Glasses:
    """The wearer's glasses, and the adapter of the host beside them."""

    def __init__(self, pump: Pump, rng: random.Random, number: int) -> None:
        self.pump = pump
        self.rng = rng
        base = 0xC0DE00000000 + number * 2
        addresses = tuple(":".join(f"{base + n:012X}"[i : i + 2] for i in range(0, 12, 2)) for n in range(2))
        serial = f"S110LABD{number:06d}"
        specs = g1.peripherals(number, addresses[0], addresses[1], serial)
        self.firmware = _Quiet(specs, serial=serial, chance=rng.random, audio=Silence())
        self.alarm = Alarm(pump, lambda: self.firmware.deadline, self._ring)
        self.host: Host | None = None
        self.adapter_up = True
        self.scanning = False
        self.links: dict[str, AirLink] = {}
        self.mic_on = False
        self._numbers = itertools.count(1)
        self._scan_round = 0
        self._attempts: dict[str, object] = {}  # the attempt under way per arm
        self._host_life = 0  # grows when the host's process dies: what it waited for is nobody's any more
        self.texts: dict[str, list[tuple[float, str]]] = {name: [] for name in self.firmware.arms}

    # -- people

    def start(self) -> None:
        self._do(self.firmware.start(self.pump.now))

    def user(self, action: Action, side: str | None = None, value: bool | int | str | None = None) -> bool:
        """Somebody touches or moves the glasses. False: nobody would notice."""
        try:
            effects = self.firmware.user(UserInput(action, side, value), self.pump.now)
        except NoTaker:
            return False
        self._do(effects)
        return True

    def text(self, arm: str) -> str:
        """What one lens says now."""
        return self.firmware.arms[arm].screen.text

    # -- faults of the air

    def drop(self, arm: str) -> None:
        """The radio link of one arm is gone; the host learns of it within its supervision time."""
        link = self.links.pop(arm, None)
        if link is None:
            return
        link.alive = False
        self._do(self.firmware.disconnected(arm, link.number, self.pump.now))
        self._tell(
            self.pump.now + self.rng.choice([0.0, 0.1, 4.0]),
            lambda: link.host.link_lost(_ARMS[arm], link.conn_id, GlassesFault.LINK_LOST),
        )

    def adapter(self, up: bool) -> None:
        """The host's adapter disappears or returns."""
        self.adapter_up = up
        if not up:
            for arm in list(self.links):
                self.drop(arm)

    def host_died(self) -> None:
        """The process beside the glasses is gone, and with it its connections."""
        self.host, self.scanning = None, False
        self._host_life += 1
        self._attempts.clear()
        for arm, link in list(self.links.items()):
            del self.links[arm]
            link.alive = False
            self._do(self.firmware.disconnected(arm, link.number, self.pump.now))

    # -- the adapter, as the edge's shell uses it

    def scan(self, host: Host, on: bool) -> None:
        self.host = host
        if on and not self.scanning:
            self._scan_round += 1
            self.scanning = True
            self._advertise(self._scan_round)
        self.scanning = on

    def _advertise(self, scan_round: int) -> None:
        if not self.scanning or scan_round != self._scan_round or self.host is None:
            return
        if self.adapter_up:
            for name, arm in self.firmware.arms.items():
                if arm.state is ArmState.ADVERTISING and self.rng.random() < 0.8:
                    self.host.sighted(Advert(arm.spec.address, arm.spec.name, -50))
                    if name in self.links or not self.scanning:
                        break
        self.pump.after(0.3 + 0.2 * self.rng.random(), lambda: self._advertise(scan_round))

    def connect(self, host: Host, arm: EdgeArm, conn_id: int, address: str) -> None:
        self.host = host
        name = _SIDES[arm]
        token = self._attempts[name] = object()
        give_up = self.pump.now + CONNECT_TIMEOUT

        def attempt() -> None:
            if self._attempts.get(name) is not token:
                return
            if not self.adapter_up:
                self._fail(host, arm, conn_id, GlassesFault.ADAPTER_DOWN)
            elif self.firmware.arms[name].state is ArmState.ADVERTISING:
                if self.rng.random() < 0.05:
                    self._fail(host, arm, conn_id, GlassesFault.CONNECT_FAILED)
                else:
                    self._link_up(host, arm, conn_id)
            elif self.pump.now >= give_up:
                self._fail(host, arm, conn_id, GlassesFault.NOT_FOUND)
            else:
                self.pump.after(1.0, attempt)

        self.pump.after(0.1 + 0.4 * self.rng.random(), attempt)

    def _fail(self, host: Host, arm: EdgeArm, conn_id: int, fault: GlassesFault) -> None:
        del self._attempts[_SIDES[arm]]
        host.link_failed(arm, conn_id, fault)

    def _link_up(self, host: Host, arm: EdgeArm, conn_id: int) -> None:
        name = _SIDES[arm]
        del self._attempts[name]
        link = AirLink(next(self._numbers), conn_id, host)
        self.links[name] = link
        mtu = self.rng.choice([247, 247, 251, 210])  # 205 carry a packet of sound
        self._do(self.firmware.connected(name, link.number, mtu, self.pump.now))
        self._do(self.firmware.subscribed(name, link.number, g1.FROM_GLASSES, True, self.pump.now))
        host.link_up(arm, conn_id, mtu - 3)

    def disconnect(self, host: Host, arm: EdgeArm, conn_id: int) -> None:
        name = _SIDES[arm]
        self._attempts.pop(name, None)
        link = self.links.get(name)
        if link is not None and link.conn_id == conn_id:
            del self.links[name]
            link.alive = False
            self._do(self.firmware.disconnected(name, link.number, self.pump.now))

    def _tell(self, at: float, call: Callable[[], None]) -> None:
        """Report to the process that asked, unless it has died meanwhile."""
        life = self._host_life
        self.pump.at(at, lambda: call() if life == self._host_life else None)

    def write(
        self, arm: EdgeArm, conn_id: int, write_id: int, data: bytes, response: bool, host: Host
    ) -> None:
        name = _SIDES[arm]
        link = self.links.get(name)
        if link is None or link.conn_id != conn_id:
            self._tell(
                self.pump.now + 0.001, lambda: host.written(arm, conn_id, write_id, GlassesFault.LINK_LOST)
            )
            return
        link.due_in = max(link.due_in + 0.001, self.pump.now + 0.008 + 0.015 * self.rng.random())

        def arrive() -> None:
            if not link.alive:
                host.written(arm, conn_id, write_id, GlassesFault.LINK_LOST)
                return
            effects = self.firmware.written(name, link.number, g1.TO_GLASSES, data, self.pump.now)
            refused = any(isinstance(effect, Refuse) for effect in effects)
            host.written(arm, conn_id, write_id, GlassesFault.REFUSED if refused and response else None)
            self._do(effects)

        self._tell(link.due_in, arrive)

    # -- the firmware's effects

    def _ring(self) -> None:
        self._do(self.firmware.handle_deadline(self.pump.now))

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Notify(arm, number, characteristic, data):
                    self._notify(arm, number, characteristic, data)
                case Disconnect(arm, number):
                    link = self.links.get(arm)
                    if link is not None and link.number == number:
                        self.drop(arm)
                case Lit(arm):
                    text = self.text(arm)
                    history = self.texts[arm]
                    if not history or history[-1][1] != text:
                        history.append((self.pump.now, text))
                        del history[:-64]
                case Microphone(on):
                    self.mic_on = on
                case Advertise() | ForgetBond() | Refuse():
                    pass
                case _:
                    assert_never(effect)
        self.alarm.set()

    def _notify(self, arm: str, number: int, characteristic: str, data: bytes) -> None:
        link = self.links.get(arm)
        if link is None or link.number != number:
            return
        link.due_out = max(link.due_out + 0.0005, self.pump.now + 0.005 + 0.01 * self.rng.random())

        def arrive() -> None:
            if link.alive:
                link.host.notified(_ARMS[arm], link.conn_id, characteristic, data)

        self.pump.at(link.due_out, arrive)
