"""Reads what a host and its glasses said to each other from a btsnoop capture: the ATT layer, put together again.

Rules: format as published (btsnoop version 1, datalink 1002, HCI UART); every length is checked; what is no ATT is passed
over. For tests that play a captured session again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct(">8sII")
_RECORD = struct.Struct(">IIIIq")
_EPOCH = 0x00DCDDB30F2F8000  # microseconds from year 0 to 1970, as the format counts
_ACL, _ATT_CHANNEL = 0x02, 4
WRITES, NOTIFICATION = (0x12, 0x52), 0x1B


@dataclass(frozen=True, slots=True)
class Att:
    """One ATT packet. `time`: seconds since 1970; `link`: the connection handle."""

    time: float
    to_glasses: bool
    link: int
    pdu: bytes

    @property
    def written(self) -> bytes | None:
        """The value, if this is a write."""
        return self.pdu[3:] if self.to_glasses and self.pdu[0] in WRITES else None

    @property
    def notified(self) -> bytes | None:
        return self.pdu[3:] if not self.to_glasses and self.pdu[0] == NOTIFICATION else None


def read(path: Path) -> Iterator[Att]:
    """Raises ValueError for a file that is no such capture."""
    raw = path.read_bytes()
    name, version, kind = _HEADER.unpack_from(raw)
    if (name, version, kind) != (b"btsnoop\0", 1, 1002):
        raise ValueError(f"{path} is no btsnoop capture of HCI packets")
    at = _HEADER.size
    half: dict[tuple[int, bool], bytearray] = {}
    while at < len(raw):
        original, included, flags, _, stamp = _RECORD.unpack_from(raw, at)
        at += _RECORD.size
        packet = raw[at : at + included]
        at += included
        if len(packet) != original or packet[0] != _ACL:
            continue
        handle, size = struct.unpack_from("<HH", packet, 1)
        to_glasses, link, body = not flags & 1, handle & 0x0FFF, packet[5 : 5 + size]
        whole = half.setdefault((link, to_glasses), bytearray())
        if handle >> 12 & 3 != 1:  # not a continuation
            whole.clear()
        whole += body
        if len(whole) < 4:
            continue
        length, channel = struct.unpack_from("<HH", whole)
        if len(whole) == 4 + length and length:
            if channel == _ATT_CHANNEL:
                yield Att((stamp - _EPOCH) / 1e6, to_glasses, link, bytes(whole[4:]))
            whole.clear()
