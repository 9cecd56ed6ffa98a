"""A host's hands on a simulated Mentra Live: JSON in, JSON out, packets of a photo, all in virtual time."""

from __future__ import annotations

import json
from typing import Any

from firmware_sim.firmware import k900
from firmware_sim.firmware.base import Effect
from firmware_sim.firmware.mentra_live import (
    AUDIO,
    CLASSIC,
    FILES,
    FROM_GLASSES,
    TO_GLASSES,
    Build,
    MentraLive,
    peripherals,
)
from firmware_sim.firmware.picture import PictureSource
from tests.support.sim_host import SimHost, notified


class Card:
    """A camera that always sees the same 5000 bytes, which look like a JPEG from outside."""

    def jpeg(self, width: int, height: int, quality: int) -> bytes:
        return b"\xff\xd8" + bytes(i * 7 & 0xFF for i in range(4996)) + b"\xff\xd9"


def new_live(build: Build = CLASSIC, **options: Any) -> MentraLive:
    pictures: PictureSource = options.pop("pictures", Card())
    specs = peripherals(build, "C0:00:00:57:86:3C", 0x1234)
    return MentraLive(specs, chance=lambda: 0.5, build=build, pictures=pictures, **options)


class LiveHost(SimHost):
    firmware: MentraLive

    def __init__(
        self, build: Build = CLASSIC, *, mtu: int = 512, booted: bool = True, **options: Any
    ) -> None:
        super().__init__(new_live(build, **options), mtu=mtu, subscribe=(FROM_GLASSES, FILES, AUDIO))
        if booted:
            self.wait(self.firmware.boot_time)
        self.connect()

    @property
    def live(self) -> MentraLive:
        return self.firmware

    def chip(self, name: str, body: Any = "", wait: float = 0.1) -> list[dict[str, Any]]:
        return said(
            self.write(TO_GLASSES, k900.frame(k900.json_bytes({"C": name, "B": body}), "little"), wait)
        )

    def android(self, fields: dict[str, Any], wait: float = 0.1, **outer: Any) -> list[dict[str, Any]]:
        """Send a message to the Android side; what was said in the time after it."""
        outer = {"C": k900.json_bytes(fields).decode(), **outer}
        return said(self.write(TO_GLASSES, k900.frame(k900.json_bytes(outer), "little"), wait))


def said(effects: list[Effect]) -> list[dict[str, Any]]:
    """The JSON in the frames on the reply characteristic: inner messages as they are, chip messages as C and B."""
    reader = k900.FrameReader()
    found: list[dict[str, Any]] = []
    for _, data in notified(effects, FROM_GLASSES):
        for frame in reader.feed(data):
            outer = json.loads(frame.payload) if frame.kind == k900.JSON_TYPE else {"fragment": frame.payload}
            inner = k900.read_object(outer.get("C", ""))
            found.append(inner if inner is not None else outer)
    return found


def packets(effects: list[Effect], uuid: str = FILES) -> list[k900.FilePacket]:
    read = [k900.read_file_packet(data) for _, data in notified(effects, uuid)]
    return [packet for packet in read if packet is not None]
