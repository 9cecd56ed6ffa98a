"""What the edge says to its glasses and hears from them, as a btsnoop file for Wireshark and for tests that play it again.

Rules of this file:

- bleak shows attribute values on every system and HCI packets on none. So each value is written as the one ATT packet that
  carries it, with the time at which the edge had it; connections, characteristics and handles are declared in the
  file as a discovery would, numbered by us. Pairing, retransmission and the host's own requests are not in it
  (`btmon -w FILE` has those, for root).
- It holds what the wearer reads and says: made on request only, readable by its owner alone.
- A capture never disturbs the radio: a disk that is full ends the capture, and says so once.
"""

from __future__ import annotations

import logging
import os
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from edge.ble import Link, Radio
from edge.profiles.base import Advert, Gatt
from wire.errors import ConfigError, GlassesError, GlassesFault

logger = logging.getLogger(__name__)

#: btsnoop version 1, HCI packets with their H4 type byte.
_HEADER = b"btsnoop\0" + struct.pack(">II", 1, 1002)
_RECORD = struct.Struct(">IIIIq")
_EPOCH = 0x00DCDDB30F2F8000  # microseconds from year 0 to 1970, as the format counts
_RECEIVED, _EVENT = 1, 2  # flags of a record
_MAC = re.compile(r"^([0-9A-F]{2}:){5}[0-9A-F]{2}$", re.IGNORECASE)
#: Twelve hours with the microphone on (230 bytes ten times a second), as much as anybody wants to open.
SIZE_MAX = 100 << 20
_ATT = 4  # L2CAP channel
_ERROR, _BY_TYPE, _BY_TYPE_SAYS, _BY_GROUP, _BY_GROUP_SAYS = 0x01, 0x08, 0x09, 0x10, 0x11
_WRITE, _WRITTEN, _COMMAND, _NOTIFY = 0x12, 0x13, 0x52, 0x1B
_PRIMARY_SERVICE, _CHARACTERISTIC = 0x2800, 0x2803
_SERVICE_HANDLE, _LAST_HANDLE = 0x0001, 0xFFFF
_PROPERTIES_WRITE, _PROPERTIES_NOTIFY = 0x0C, 0x10
_UNLIKELY_ERROR = 0x0E  # ATT; what the firmware really said is in the edge's log
_REASONS = {GlassesFault.TIMEOUT: 0x08, GlassesFault.LINK_LOST: 0x08}  # HCI; else "ended by the local host"


class Capture:
    """One btsnoop file. Raises ConfigError if it cannot be made."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._size = len(_HEADER)
        self._links = 0
        self._file: BinaryIO | None = None
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._file = os.fdopen(handle, "wb", buffering=0)
            self._file.write(_HEADER)
        except OSError as error:
            raise ConfigError(
                f"capture {path} cannot be written", error.strerror or str(error), "Set btsnoop"
            ) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def link(self, address: str, gatt: Gatt) -> CapturedLink:
        self._links = self._links % 0x0EFE + 1  # connection handles of HCI
        return CapturedLink(self, self._links, address, gatt)

    def record(self, flags: int, packet: bytes) -> None:
        """One HCI packet, with its type byte."""
        if self._file is None:
            return
        stamp = int(self._clock() * 1e6) + _EPOCH
        line = _RECORD.pack(len(packet), len(packet), flags, 0, stamp) + packet
        self._size += len(line)
        try:
            if self._size > SIZE_MAX:
                raise OSError(f"it has reached {SIZE_MAX >> 20} MB")
            self._file.write(line)
        except OSError as error:
            logger.warning("the Bluetooth capture ends here: %s", error)
            self.close()


class CapturedLink:
    """One connection in the file; declared there when its first packet comes."""

    def __init__(self, capture: Capture, number: int, address: str, gatt: Gatt) -> None:
        self._capture = capture
        self._number = number
        self._address = address
        self._gatt = gatt
        uuids = dict.fromkeys((gatt.write, *gatt.notify))
        self._handles = {uuid: 0x0010 * (at + 1) + 1 for at, uuid in enumerate(uuids)}
        self._open = False
        self._ended = False

    def up(self) -> None:
        """Declare the connection and its characteristics."""
        if self._open:
            return
        self._open = True
        mac = self._address.replace(":", "") if _MAC.match(self._address) else "00" * 6  # a UUID on macOS
        body = struct.pack("<BBHBB", 1, 0, self._number, 0, 1) + bytes.fromhex(mac)[::-1]
        # Interval, latency and time-out are not told to us: zero.
        self._event(0x3E, body + struct.pack("<HHHB", 0, 0, 0, 0))
        ask = struct.pack("<HHH", _SERVICE_HANDLE, _LAST_HANDLE, _PRIMARY_SERVICE)
        self._att(0, _BY_GROUP, ask)
        service = struct.pack("<BHH", 20, _SERVICE_HANDLE, _LAST_HANDLE) + _uuid(self._gatt.service)
        self._att(_RECEIVED, _BY_GROUP_SAYS, service)
        for uuid, handle in self._handles.items():
            self._att(0, _BY_TYPE, struct.pack("<HHH", handle - 1, _LAST_HANDLE, _CHARACTERISTIC))
            properties = _PROPERTIES_WRITE if uuid == self._gatt.write else 0
            properties |= _PROPERTIES_NOTIFY if uuid in self._gatt.notify else 0
            found = struct.pack("<BHBH", 21, handle - 1, properties, handle) + _uuid(uuid)
            self._att(_RECEIVED, _BY_TYPE_SAYS, found)

    def wrote(self, char: str, data: bytes, *, response: bool) -> None:
        self.up()
        self._att(0, _WRITE if response else _COMMAND, self._handle(char) + data)

    def confirmed(self, char: str, fault: GlassesFault | None) -> None:
        """A write request was answered."""
        if fault is None:
            self._att(_RECEIVED, _WRITTEN, b"")
        elif fault is GlassesFault.REFUSED:
            self._att(_RECEIVED, _ERROR, bytes((_WRITE,)) + self._handle(char) + bytes((_UNLIKELY_ERROR,)))

    def heard(self, char: str, data: bytes) -> None:
        self.up()
        self._att(_RECEIVED, _NOTIFY, self._handle(char) + data)

    def ended(self, fault: GlassesFault | None) -> None:
        """The connection is over; told once. `fault` None: we closed it."""
        if self._open and not self._ended:
            self._ended = True
            reason = 0x16 if fault is None else _REASONS.get(fault, 0x16)
            self._event(0x05, struct.pack("<BHB", 0, self._number, reason))

    def _handle(self, char: str) -> bytes:
        return struct.pack("<H", self._handles.get(char or self._gatt.write, 0))

    def _event(self, code: int, body: bytes) -> None:
        self._capture.record(_RECEIVED | _EVENT, bytes((0x04, code, len(body))) + body)

    def _att(self, flags: int, opcode: int, body: bytes) -> None:
        pdu = bytes((opcode,)) + body
        # The first fragment of a packet has other flags from the controller than from the host.
        handle = self._number | (0x2000 if flags & _RECEIVED else 0)
        head = struct.pack("<BHHHH", 0x02, handle, len(pdu) + 4, len(pdu), _ATT)
        self._capture.record(flags, head + pdu)


def _uuid(text: str) -> bytes:
    return UUID(text).bytes[::-1]


class CapturingRadio:
    """A `Radio` that is another one, with every value that passes written down. The file is made at the start: until
    then a daemon may find out that another one runs, whose file it would have emptied."""

    def __init__(self, radio: Radio, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._radio = radio
        self._path = path
        self._clock = clock
        self._capture: Capture | None = None

    @property
    def fault(self) -> GlassesFault | None:
        return self._radio.fault

    async def start(self) -> None:
        """As `Radio.start`. Raises ConfigError if the file cannot be made."""
        await self._radio.start()
        if self._capture is None:
            self._capture = Capture(self._path, self._clock)

    async def stop(self) -> None:
        await self._radio.stop()
        if self._capture is not None:
            self._capture.close()

    def watch(self, listener: Callable[[Advert], None], service: str = "") -> None:
        self._radio.watch(listener, service)

    def unwatch(self, listener: Callable[[Advert], None]) -> None:
        self._radio.unwatch(listener)

    async def connect(
        self,
        address: str,
        gatt: Gatt,
        *,
        pair: bool,
        on_notify: Callable[[str, bytes], None],
        on_closed: Callable[[GlassesFault], None],
    ) -> Link:
        assert self._capture is not None, "connect before start"
        record = self._capture.link(address, gatt)

        def notified(char: str, data: bytes) -> None:
            record.heard(char, data)
            on_notify(char, data)

        def closed(fault: GlassesFault) -> None:
            record.ended(fault)
            on_closed(fault)

        try:
            link = await self._radio.connect(address, gatt, pair=pair, on_notify=notified, on_closed=closed)
        except GlassesError as error:
            record.ended(error.fault)  # it may have been heard of already
            raise
        record.up()
        return _CapturingLink(link, record)


class _CapturingLink:
    """A `Link` whose writes are written down."""

    def __init__(self, link: Link, record: CapturedLink) -> None:
        self._link = link
        self._record = record

    @property
    def payload_max(self) -> int:
        return self._link.payload_max

    async def write(self, data: bytes, *, response: bool, char: str = "") -> None:
        self._record.wrote(char, data, response=response)
        try:
            await self._link.write(data, response=response, char=char)
        except GlassesError as error:
            if response:
                self._record.confirmed(char, error.fault)
            raise
        if response:
            self._record.confirmed(char, None)

    async def close(self) -> None:
        self._record.ended(None)
        await self._link.close()
