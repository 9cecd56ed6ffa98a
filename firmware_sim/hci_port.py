"""A socket that offers one virtual controller to one host, as a USB plug offers a dongle.

Rules of this file:

- One host at a time; a second one is sent away while the first is there.
- A host that goes away pulls the plug: its links die as the radio would let them die.
- `unix-server:PATH` (mode 0600) and `tcp-server:HOST:PORT` (port 0 picks a free one), H4 framing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from bumble import core
from bumble.snoop import Snooper
from bumble.transport.common import PacketParser

from firmware_sim.radio import SimController

logger = logging.getLogger(__name__)

UNREAD_MAX = 4 * 1024 * 1024
"""Bytes a host may leave unread before it counts as hung: two seconds of the fastest traffic measured."""


class SimError(Exception):
    """The simulator cannot do what was asked: what, why and what would help, in one sentence."""


class HciPort:
    def __init__(self, spec: str, controller: SimController, snooper: Snooper | None = None) -> None:
        """Raises `SimError` when `spec` is no server address."""
        scheme, _, self._where = spec.partition(":")
        if scheme not in ("unix-server", "tcp-server") or not self._where:
            raise SimError(f"--hci {spec}: expected unix-server:PATH or tcp-server:HOST:PORT")
        self.spec = spec
        self.controller = controller
        self.snooper = snooper
        self._unix = scheme == "unix-server"
        self._server: asyncio.Server | None = None
        self._client: _Client | None = None

    @property
    def connected(self) -> bool:
        return self._client is not None

    async def open(self) -> str:
        """Listen; the transport name with which a host connects (Bumble's notation)."""
        loop = asyncio.get_running_loop()
        try:
            if self._unix:
                # asyncio removes a socket file that a killed simulator left behind.
                self._server = await loop.create_unix_server(lambda: _Client(self), self._where)
                _make_private(self._where)
                return f"unix:{self._where}"
            host, _, port = self._where.rpartition(":")
            self._server = await loop.create_server(lambda: _Client(self), host or "127.0.0.1", int(port))
        except (OSError, ValueError) as error:
            raise SimError(f"--hci {self.spec}: cannot listen there: {error}") from error
        address = self._server.sockets[0].getsockname()
        return f"tcp-client:{address[0]}:{address[1]}"

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._client is not None and self._client.transport is not None:
            self._client.transport.abort()
            await asyncio.sleep(0)  # lets connection_lost run
        if self._unix:
            _remove(self._where)

    def unplug(self) -> None:
        """Cut the host off, as pulling the dongle would; it may come back."""
        if self._client is not None and self._client.transport is not None:
            self._client.transport.abort()

    def _attach(self, client: _Client) -> bool:
        if self._client is not None:
            logger.warning("%s: a second host was sent away", self.spec)
            return False
        self._client = client
        self.controller.host = client
        return True

    def _detach(self, client: _Client) -> None:
        if self._client is client:
            self._client = None
            self.controller.host = None
            self.controller.power_cycle()


def _make_private(path: str) -> None:
    Path(path).chmod(0o600)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()


class _Client(asyncio.Protocol):
    """One connected host: the sink of the controller's packets, the source of its commands."""

    def __init__(self, port: HciPort) -> None:
        self.port = port
        self.transport: asyncio.Transport | None = None
        self._parser = PacketParser(_Commands(port))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if self.port._attach(self):
            self.transport = transport
        else:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.port._detach(self)

    def data_received(self, data: bytes) -> None:
        if self.transport is None:
            return
        try:
            self._parser.feed_data(data)
        except core.InvalidPacketError as error:
            logger.warning("%s: not HCI: %s; the host is cut off", self.port.spec, error)
            self.transport.abort()

    def on_packet(self, packet: bytes) -> None:
        """The controller speaks (Bumble's TransportSink)."""
        if self.transport is None or self.transport.is_closing():
            return
        if self.port.snooper is not None:
            self.port.snooper.snoop(packet, Snooper.Direction.CONTROLLER_TO_HOST)
        self.transport.write(packet)
        if self.transport.get_write_buffer_size() > UNREAD_MAX:
            logger.warning("%s: the host does not read; it is cut off", self.port.spec)
            self.transport.abort()


class _Commands:
    """What the host says, to the controller (Bumble's TransportSink)."""

    def __init__(self, port: HciPort) -> None:
        self._port = port

    def on_packet(self, packet: bytes) -> None:
        if self._port.snooper is not None:
            self._port.snooper.snoop(packet, Snooper.Direction.HOST_TO_CONTROLLER)
        self._port.controller.on_packet(packet)
