"""A host's hands on a simulated Mentra Nex, in the three forms it speaks, all in virtual time."""

from __future__ import annotations

import json
from typing import Any

from firmware_sim.firmware.base import Effect
from firmware_sim.firmware.nex import (
    FROM_GLASSES,
    GLASSES_TO_PHONE,
    PHONE_TO_GLASSES,
    TO_GLASSES,
    MentraNex,
    peripherals,
)
from firmware_sim.firmware.protobuf import decode, encode
from tests.support.sim_host import SimHost, notified


def new_nex(**options: Any) -> MentraNex:
    return MentraNex(peripherals("C0:00:00:57:86:3C"), chance=lambda: 0.5, **options)


class NexHost(SimHost):
    firmware: MentraNex

    def __init__(self, *, mtu: int = 247, **options: Any) -> None:
        super().__init__(new_nex(**options), mtu=mtu, subscribe=(FROM_GLASSES,))
        self.connect()

    @property
    def nex(self) -> MentraNex:
        return self.firmware

    @property
    def text(self) -> str:
        return self.nex.arms["main"].screen.text

    def send(self, wait: float = 0.1, **fields: Any) -> list[dict[str, Any]]:
        """A bare protobuf message; what was said in the time after it."""
        return said(self.write(TO_GLASSES, b"\x02" + encode(PHONE_TO_GLASSES, fields), wait))

    def send_json(self, kind: str, wait: float = 0.1, **fields: Any) -> list[dict[str, Any]]:
        body = json.dumps({"type": kind, "msg_id": "m", **fields}).encode()
        return said(self.write(TO_GLASSES, b"\x01" + body, wait))

    def chunks(
        self, stream: int, body: bytes, size: int, only: list[int] | None = None
    ) -> list[dict[str, Any]]:
        effects: list[Effect] = []
        for index in range(-(-len(body) // size)) if only is None else only:
            part = body[index * size : (index + 1) * size]
            effects += self.write(
                TO_GLASSES, b"\xb0" + stream.to_bytes(2, "big") + bytes([index]) + part, 0.01
            )
        return said(effects + self.wait(0.1))


def said(effects: list[Effect]) -> list[dict[str, Any]]:
    """What the glasses said, audio aside: protobuf as a dict, JSON as it is."""
    found: list[dict[str, Any]] = []
    for _, data in notified(effects, FROM_GLASSES):
        if data[0] == 0x01:
            found.append(json.loads(data[1:]))
        elif data[0] == 0x02:
            found.append(decode(GLASSES_TO_PHONE, data[1:]))
    return found
