"""A host's hands on a simulated Brilliant Frame: send Lua or data, read what it printed or sent, in virtual time."""

from __future__ import annotations

from typing import Any

from firmware_sim.firmware.base import Effect
from firmware_sim.firmware.frame import FROM_FRAME, TO_FRAME, BrilliantFrame, peripherals
from tests.support.sim_host import SimHost, notified


def new_frame(**options: Any) -> BrilliantFrame:
    return BrilliantFrame(peripherals("C7:00:00:57:86:3C"), chance=lambda: 0.5, **options)


class FrameHost(SimHost):
    firmware: BrilliantFrame

    def __init__(self, *, mtu: int = 247, **options: Any) -> None:
        super().__init__(new_frame(**options), mtu=mtu, subscribe=(FROM_FRAME,))
        self.connect()

    @property
    def frame(self) -> BrilliantFrame:
        return self.firmware

    @property
    def text(self) -> str:
        return self.frame.arms["main"].screen.text

    def send(self, data: bytes | str, wait: float = 0.1) -> list[bytes]:
        """One write; the notifications in the time after it."""
        data = data.encode() if isinstance(data, str) else data
        happened = self.take(self.frame.written("main", self.link, TO_FRAME, data, self.now))
        return heard(happened + self.wait(wait))

    def message(self, code: int, body: bytes) -> list[bytes]:
        """The message convention of the libraries, a packet at a time, each waiting for an answer."""
        room = self.mtu - 3
        head = bytes([1, code]) + len(body).to_bytes(2, "big")
        packets = [head + body[: room - 4]]
        rest = body[room - 4 :]
        packets += [bytes([1, code]) + rest[i : i + room - 2] for i in range(0, len(rest), room - 2)]
        return [answer for packet in packets for answer in self.send(packet)]


def heard(effects: list[Effect]) -> list[bytes]:
    return [data for _, data in notified(effects, FROM_FRAME)]
