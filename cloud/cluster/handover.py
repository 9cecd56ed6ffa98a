"""A connection that was accepted by one worker goes to another, with what was read of it: its file descriptor, over a UNIX
socket.

Rules: the connection is never in two hands and never in none. The giver keeps a copy of the descriptor until the taker has
said that it took it; if that is not said in time the giver serves it. The taker takes nothing that is older than it may be
(both read the same monotonic clock), so a process that was frozen cannot take what has been given up. Everything is bounded,
and whatever does not work ends in serving it here. Linux only (SEQPACKET); elsewhere every worker serves what it accepts.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloud.cluster.placement import best_of, key_of_request

log = logging.getLogger(__name__)

#: An offer older than this is not taken (seconds), and one unanswered for `GIVE_UP` is served by its giver. The difference
#: covers what lies between the taker's look at the clock and its answer.
OFFER_AGE_MAX: Final = 0.5
GIVE_UP: Final = 0.8
#: Offers under way to one worker. A storm of reconnects is accepted in batches of some hundreds.
OFFERS_MAX: Final = 1024
#: Head (32 kB) and what came right behind it; more is served where it is. One SEQPACKET message holds some 200 kB.
DATA_BYTES_MAX: Final = 96 * 1024
#: Between attempts to reach a worker that is away, and between pings to one that does not answer, seconds.
RETRY: Final = 0.2

_HEADER: Final = struct.Struct("!cQd")  # kind, number of the offer, monotonic seconds of its making
_OFFER: Final = b"O"
_TAKEN: Final = b"T"
_PING: Final = b"P"
_RECEIVE: Final = _HEADER.size + DATA_BYTES_MAX

#: How long after its end a connection that came back is cut, seconds; what was written last has left by then.
CUT_AFTER: Final = 0.25

#: Serve a connection here, given its socket and what was read of it; answers with its transport, None if it is gone.
Adopt = Callable[[socket.socket, bytes], Coroutine[Any, Any, asyncio.BaseTransport | None]]


def supported() -> bool:
    """Whether this system can hand connections over."""
    return sys.platform == "linux" and hasattr(socket, "send_fds")


@dataclass(slots=True)
class HandoverStats:
    """Counters since the start."""

    given: int = 0
    """Connections that another worker took."""
    taken: int = 0
    """Connections taken from others."""
    returned: int = 0
    """Offers that were not taken, and served here after all."""
    refused: int = 0
    """Offers that came too late to be taken."""


@dataclass(slots=True)
class _Offer:
    sock: socket.socket
    data: bytes
    made: float
    timer: asyncio.TimerHandle


class Handover:
    """One worker's side. `await start()`, give `give_away` to the listener, `await close()`."""

    def __init__(self, directory: Path, me: int, workers: int, adopt: Adopt) -> None:
        """`directory`: where the workers' sockets are; only their user may enter it."""
        self.stats = HandoverStats()
        self.me = me
        self._directory = directory
        self._adopt = adopt
        self._loop = asyncio.get_running_loop()
        self._peers = {n: _Peer(self, n) for n in range(workers) if n != me}
        self._server: socket.socket | None = None
        self._guests: dict[int, socket.socket] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    def address(self, worker: int) -> str:
        return str(self._directory / f"{worker}.sock")

    @property
    def live(self) -> list[int]:
        """Workers that can take a connection now, this one among them."""
        return sorted([self.me, *(n for n, peer in self._peers.items() if peer.answers)])

    def start(self) -> None:
        """Listen, and begin to reach for the others. Raises OSError."""
        address = self.address(self.me)
        with contextlib.suppress(FileNotFoundError):  # of a predecessor that died
            os.unlink(address)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        server.bind(address)
        server.listen(64)
        self._server = server
        self._loop.add_reader(server.fileno(), self._accept)
        for peer in self._peers.values():
            self.spawn(peer.keep())

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket, data: bytes) -> None:
        await self._adopt(sock, data)

    async def _serve_again(self, sock: socket.socket, data: bytes) -> None:
        """The frozen worker it was offered to still has a descriptor in its queue, so that closing ours would tell the peer
        nothing: once we have closed it the connection itself is ended."""
        with sock.dup() as held:
            transport = await self._adopt(sock, data)
            while transport is not None:  # few: only what was offered before the worker was found out
                ended = transport.is_closing()
                await asyncio.sleep(CUT_AFTER)
                if ended:
                    with contextlib.suppress(OSError):
                        held.shutdown(socket.SHUT_RDWR)
                    return

    def drain(self) -> None:
        """Take nothing any more; offers from now on stay with their givers."""
        self._draining = True
        if self._server is not None:
            self._loop.remove_reader(self._server.fileno())
            self._server.close()
            self._server = None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.address(self.me))
        for number in list(self._guests):
            self._leave(number)

    async def close(self) -> None:
        """End; what is still on offer is served here or lost with this process."""
        self.drain()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self._peers.values():
            peer.close()

    # ---------------------------------------------------------------------------------------------- giving

    def give_away(self, transport: asyncio.Transport, head: bytes, data: bytes) -> bool:
        """For `Listener.give_away`: True if the connection is another worker's, or will be served here by `adopt`."""
        if self._draining:
            return False
        key = key_of_request(head)
        if key is None:
            return False
        best = best_of(key, self.live)
        if best == self.me or len(data) > DATA_BYTES_MAX:
            return False
        peer = self._peers[best]
        held = transport.get_extra_info("socket")
        if held is None or not peer.has_room:
            return False
        transport.pause_reading()  # what comes from now on is for its new owner
        peer.offer(socket.socket(fileno=os.dup(held.fileno())), data)
        return True

    # ---------------------------------------------------------------------------------------------- taking

    def _accept(self) -> None:
        assert self._server is not None
        with contextlib.suppress(BlockingIOError, ConnectionError):
            guest, _ = self._server.accept()
            guest.setblocking(False)
            number = guest.fileno()
            self._guests[number] = guest
            self._loop.add_reader(number, self._read_guest, number)

    def _leave(self, number: int) -> None:
        guest = self._guests.pop(number)
        self._loop.remove_reader(number)
        guest.close()

    def _read_guest(self, number: int) -> None:
        guest = self._guests[number]
        for _ in range(64):  # a storm of offers leaves the loop to others in between
            try:
                message, descriptors = _receive(guest)
            except BlockingIOError:
                return
            except OSError:
                message, descriptors = b"", []
            if not message:
                self._leave(number)
                return
            self._take(guest, message, descriptors)

    def _take(self, guest: socket.socket, message: bytes, descriptors: list[int]) -> None:
        kind, offer, made = _HEADER.unpack_from(message)
        late = time.monotonic() - made > OFFER_AGE_MAX
        answered = not late and _send(guest, _HEADER.pack(_TAKEN, offer, made))
        if kind != _OFFER or len(descriptors) != 1 or not answered:
            if kind == _OFFER:
                self.stats.refused += 1
            for descriptor in descriptors:
                os.close(descriptor)
            return
        self.stats.taken += 1
        sock = socket.socket(fileno=descriptors[0])
        sock.setblocking(False)
        self.spawn(self._serve(sock, message[_HEADER.size :]))


class _Peer:
    """The way to one other worker."""

    def __init__(self, handover: Handover, number: int) -> None:
        self._handover = handover
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._offers: dict[int, _Offer] = {}
        self._unsent: deque[int] = deque()
        self._count = 0
        self._gone = asyncio.Event()
        self._told = False
        #: It has answered, and nothing has gone unanswered since.
        self.answers = False

    @property
    def has_room(self) -> bool:
        return len(self._offers) < OFFERS_MAX

    async def keep(self) -> None:
        """Reach for it as long as we live; ask it whether it answers while it does not."""
        while True:
            self._connect()
            while self._socket is not None:
                if not self.answers:
                    _send(self._socket, _HEADER.pack(_PING, 0, time.monotonic()))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY):
                        await self._gone.wait()
            await asyncio.sleep(RETRY)

    def _connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self._handover.address(self._number))
        except OSError:
            sock.close()
            return
        self._socket = sock
        self._gone.clear()
        self._loop.add_reader(sock.fileno(), self._read)

    def close(self) -> None:
        """The way is gone; what was on offer is served here."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._gone.set()
        self.answers = False
        for offer in list(self._offers):
            self._take_back(offer)

    def offer(self, sock: socket.socket, data: bytes) -> None:
        """Give it; comes back by itself if it is not taken."""
        self._count += 1
        number = self._count
        timer = self._loop.call_later(GIVE_UP, self._unanswered, number)
        self._offers[number] = _Offer(sock, data, time.monotonic(), timer)
        self._unsent.append(number)
        self._send_unsent()

    def _send_unsent(self) -> None:
        sock = self._socket
        while self._unsent and sock is not None:
            offer = self._offers.get(self._unsent[0])
            if offer is not None:
                message = _HEADER.pack(_OFFER, self._unsent[0], offer.made) + offer.data
                try:
                    socket.send_fds(sock, [message], [offer.sock.fileno()])
                except BlockingIOError:
                    self._loop.add_writer(sock.fileno(), self._send_unsent)
                    return
                except OSError:
                    self.close()
                    return
            self._unsent.popleft()
        if sock is not None:
            self._loop.remove_writer(sock.fileno())

    def _read(self) -> None:
        sock = self._socket
        while sock is not None:
            try:
                message = sock.recv(_HEADER.size)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self.close()
                return
            _, number, _ = _HEADER.unpack(message)
            if not self.answers:
                self.answers = True
                if self._told:
                    log.info("worker %d answers again", self._number)
            self._told = False
            offer = self._offers.pop(number, None)
            if offer is not None:
                offer.timer.cancel()
                offer.sock.close()
                self._handover.stats.given += 1

    def _unanswered(self, number: int) -> None:
        if self.answers:
            log.warning("worker %d does not answer; its sessions are served by the others", self._number)
            self._told = True
        self.answers = False
        self._take_back(number)

    def _take_back(self, number: int) -> None:
        offer = self._offers.pop(number, None)
        if offer is not None:
            offer.timer.cancel()
            self._handover.stats.returned += 1
            self._handover.spawn(self._handover._serve_again(offer.sock, offer.data))


def _send(sock: socket.socket, message: bytes) -> bool:
    try:
        sock.send(message)
    except OSError:
        return False
    return True


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One message and its descriptors; b"" at the end. A message that was cut counts as the end: it is none of ours."""
    space = socket.CMSG_SPACE(array.array("i").itemsize)
    message, ancillary, flags, _ = sock.recvmsg(_RECEIVE, space, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or 0 < len(message) < _HEADER.size:
        for descriptor in descriptors:
            os.close(descriptor)
        return b"", []
    return message, list(descriptors)
