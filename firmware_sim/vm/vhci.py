"""A controller of the simulator as an adapter of the Linux kernel: H4 packets between a room's HCI port and /dev/vhci.

Rules of this file:

- One read or write of /dev/vhci is one packet; the socket is a stream and is cut into packets here.
- The kernel has the adapter exactly as long as the socket lives: a dongle that is pulled is a device that is closed.
- Linux only, and only where `hci_vhci` is loaded: as root, in the guest of lane C.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os

from bumble import core
from bumble.transport.common import PacketParser

logger = logging.getLogger(__name__)

DEVICE = "/dev/vhci"
CREATE = b"\xff\x00"
"""The vendor packet that asks hci_vhci for a controller of its own (drivers/bluetooth/hci_vhci.c)."""

VENDOR = 0xFF
PACKET_MAX = 2048
"""Bytes of one packet; an ACL packet for this controller has 256, an HCI command 260."""

REPLUG = 0.1
"""Seconds between two looks for a room that does not listen."""


class VirtualAdapter:
    """`plug()` until `unplug()`; in between the adapter comes and goes with the room's port."""

    def __init__(self, transport: str) -> None:
        """`transport` is what a room's `hci` names, `unix:PATH`."""
        scheme, _, self._path = transport.partition(":")
        if scheme != "unix":
            raise ValueError(f"{transport}: the kernel's adapter wants a unix: transport of the simulator")
        self._task: asyncio.Task[None] | None = None

    def plug(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._stay_plugged(), name="vhci")

    async def unplug(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _stay_plugged(self) -> None:
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionError):
                await self._carry()
            await asyncio.sleep(REPLUG)

    async def _carry(self) -> None:
        """One life of the adapter. Raises OSError."""
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_unix_connection(self._path)
        kernel = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK)
        try:
            os.write(kernel, CREATE)

            def from_kernel() -> None:
                with contextlib.suppress(BlockingIOError):
                    packet = os.read(kernel, PACKET_MAX)
                    if packet and packet[0] != VENDOR:
                        writer.write(packet)

            loop.add_reader(kernel, from_kernel)
            parser = PacketParser(_Kernel(kernel))
            while data := await reader.read(65536):
                try:
                    parser.feed_data(data)
                except core.InvalidPacketError as error:
                    logger.warning("not HCI: %s; the adapter is pulled", error)
                    return
        finally:
            loop.remove_reader(kernel)
            os.close(kernel)
            writer.close()


class _Kernel:
    """Bumble's TransportSink."""

    def __init__(self, file: int) -> None:
        self._file = file

    def on_packet(self, packet: bytes) -> None:
        try:
            os.write(self._file, packet)
        except OSError as error:
            # The kernel refuses what it cannot place (an adapter that is being taken down); a radio loses it likewise.
            logger.debug("the kernel refused %d bytes: %s", len(packet), error)
