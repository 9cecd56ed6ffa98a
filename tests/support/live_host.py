"""A host's hands on a simulated Mentra Live: JSON in, JSON out, packets of a photo, all in virtual time."""

from __future__ import annotations

import json
import zlib
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
    options.setdefault("chance", lambda: 0.5)
    pictures: PictureSource = options.pop("pictures", Card())
    specs = peripherals(build, "C0:00:00:57:86:3C", 0x1234)
    return MentraLive(specs, build=build, pictures=pictures, **options)


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

    def fetch_photo(self, request_id: str, rounds: int = 3) -> bytes | None:
        """Ask for a photo as a patient host does: acknowledge, ask for what is missing, give up after `rounds`."""
        ask = {"type": "take_photo", "requestId": request_id, "transferMethod": "ble", "bleImgId": "I1"}
        found: dict[int, bytes] = {}
        expected = 0
        for attempt in range(6):  # the question itself may be lost
            before = len(self.effects)
            self.android({**ask, "mId": zlib.crc32(request_id.encode())})
            if self.live.photo is not None or attempt == 5:
                break
        for _ in range(rounds + 1):
            self.wait(4.0)
            for message in said(self.effects[before:]):
                if "mId" in message:
                    self.android({"type": "msg_ack", "mId": message["mId"]})
            arrived = packets(self.effects[before:], self.live.build.files)
            found |= {p.index: p.data for p in arrived}
            if arrived:
                pack = max(len(p.data) for p in arrived)
                inflated = self.live.build.inflated_size and pack != 400
                size = arrived[0].file_size
                expected = size // 400 if inflated else -(-size // pack)
            missing = [i for i in range(expected) if i not in found]
            name = arrived[0].name if arrived else "I1"
            if expected and not missing:
                self.android({"type": "transfer_complete", "fileName": name, "success": True})
                return b"".join(found[i] for i in sorted(found))
            if missing:
                for at in range(0, len(missing), 20):  # a question of its own for each that fits one write
                    part = missing[at : at + 20]
                    self.android(
                        {"type": "request_missing_packets", "fileName": name, "missingPackets": part},
                        wait=2.0,
                    )
        return None


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
