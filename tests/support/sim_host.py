"""A host's hands on one simulated peripheral in virtual time: write, wait, and read what the glasses notified."""

from __future__ import annotations

from firmware_sim.firmware.base import Effect, Firmware, Notify


class SimHost:
    """One link to one arm. `effects` keeps everything that happened, `sent` every notification as (uuid, bytes)."""

    def __init__(
        self, firmware: Firmware, arm: str = "main", *, mtu: int, subscribe: tuple[str, ...]
    ) -> None:
        self.firmware = firmware
        self.arm = arm
        self.mtu = mtu
        self.subscribe = subscribe
        self.now = 0.0
        self.link = 0
        self.effects: list[Effect] = []
        self.take(firmware.start(self.now))

    def take(self, effects: list[Effect]) -> list[Effect]:
        self.effects += effects
        return effects

    def connect(self) -> None:
        self.link += 1
        self.take(self.firmware.connected(self.arm, self.link, self.mtu, self.now))
        for uuid in self.subscribe:
            self.take(self.firmware.subscribed(self.arm, self.link, uuid, True, self.now))

    def drop(self) -> None:
        self.take(self.firmware.disconnected(self.arm, self.link, self.now))

    def wait(self, seconds: float) -> list[Effect]:
        """Let virtual time pass; returns what happened, in order."""
        end, happened = self.now + seconds, []
        for _ in range(1_000_000):
            due = self.firmware.deadline
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            happened += self.take(self.firmware.handle_deadline(self.now))
        else:
            raise AssertionError("the firmware asks for a new deadline without end")
        self.now = end
        return happened

    def write(self, uuid: str, data: bytes, wait: float = 0.0) -> list[Effect]:
        """Write in pieces that fit the MTU, then let time pass; returns what happened."""
        happened: list[Effect] = []
        for i in range(0, len(data), self.mtu - 3):
            piece = data[i : i + self.mtu - 3]
            happened += self.take(self.firmware.written(self.arm, self.link, uuid, piece, self.now))
        return happened + self.wait(wait)

    @property
    def sent(self) -> list[tuple[str, bytes]]:
        return notified(self.effects)


def notified(effects: list[Effect], uuid: str | None = None) -> list[tuple[str, bytes]]:
    return [
        (e.characteristic, e.data)
        for e in effects
        if isinstance(e, Notify) and uuid in (None, e.characteristic)
    ]
