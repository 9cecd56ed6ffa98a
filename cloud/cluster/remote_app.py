"""An app of a session of ours whose socket another node holds: what the owner writes to and hears from.

Rules: to the session it is a connection id like any other. Frames go through a pipe, so that what the bus loses is asked
for again. A node that is gone is told by nobody listening there, not by a time-out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, assert_never

from cloud.cluster.fabric import NoOne, Unavailable
from cloud.cluster.names import socket_address
from cloud.connection import next_connection_id
from cloud.core import effects as fx
from cloud.core.pipe import Content, Deliver, Lost, Missing, Piece, Pipe, PipeEffect, Write, close_payload
from wire.codec import load_object
from wire.errors import ProtocolError
from wire.messages.base import Delivery

if TYPE_CHECKING:
    from cloud.cluster.seat import Seat

#: The glasses keep a frame at most this long for a node that does not confirm it: a probe and its answer take 0.3 s.
OWED: Final = 0.5


class RemoteApp:
    """See the module."""

    __slots__ = (
        "_checking", "_closed", "_loop", "_owed", "_pipe", "_seat", "_timer", "_timer_at", "connection_id", "package", "socket_id",
    )  # fmt: skip

    def __init__(self, seat: Seat, socket_id: str, package: str, attachment: int, received: int) -> None:
        """`received`: the last frame of the app that has been handled already."""
        self.connection_id = next_connection_id()
        self.socket_id = socket_id
        self.package = package
        self._seat = seat
        self._pipe = Pipe(attachment, in_from=received)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._checking = False
        self._closed = False
        self._owed: deque[tuple[int, float]] = (
            deque()
        )  # frames that the glasses keep until the other node has them

    @property
    def owes(self) -> bool:
        """Whether the other node has yet to confirm a frame that the glasses could repeat. Not for ever: a bus that is
        away must not stop the glasses, and what it owes is in the pipe and in the app's log."""
        now = self._loop.time()
        while self._owed and (self._owed[0][0] <= self._pipe.acknowledged or now - self._owed[0][1] > OWED):
            self._owed.popleft()
        return bool(self._owed)

    @property
    def attachment(self) -> int:
        return self._pipe.attachment

    @property
    def received(self) -> int:
        """Number of the last frame of the app that was handled."""
        return self._pipe.received

    # ------------------------------------------------------------------------------------------------ to the app

    def send(self, effect: fx.SendToApps) -> None:
        """One text frame."""
        if effect.ident is not None and effect.ident[2]:  # brought about by a frame of the glasses' log
            self._owed.append((self._pipe.newest + 1, self._loop.time()))
        self._put(Piece(Content.TEXT, effect.payload, effect.delivery, effect.key, effect.ident))

    def send_audio(self, pcm: bytes) -> None:
        self._put(Piece(Content.BINARY, pcm, Delivery.LOSSY))

    def unheard(self) -> list[bytes]:
        """Sound on its way to a node that may be gone."""
        return self._pipe.unheard(self._loop.time())

    def ping(self, payload: bytes) -> None:
        """A protocol ping of the app; its pong comes back as one of a local socket would."""
        self._put(Piece(Content.PING, payload))

    def close(self, code: int, reason: str) -> None:
        """Close the app's socket; the session is told at once, as of any closed connection."""
        self._put(Piece(Content.CLOSE, close_payload(code, reason)))
        self._loop.call_soon(self._lost)

    def _put(self, piece: Piece) -> None:
        if not self._closed:
            self._write(self._pipe.send(piece, self._loop.time()).data)
            self._arm()

    def _write(self, data: bytes) -> None:
        self._seat.cluster.fabric.send(socket_address(self.socket_id), data)
        self._seat.cluster.remote_deliveries += 1

    # ------------------------------------------------------------------------------------------------ from the app

    def take(self, data: bytes) -> None:
        """Bytes of the pipe. Raises ValueError for what is none."""
        self._perform(self._pipe.take(data, self._loop.time()))
        if self._owed:
            self._seat.settle()
        self._arm()

    def resend(self, after: int) -> None:
        """The other node asks for what it has not got."""
        self._perform(self._pipe.resend(after, self._loop.time()))
        self._arm()

    def _perform(self, effects: list[PipeEffect]) -> None:
        for effect in effects:
            match effect:
                case Write(data):
                    self._write(data)
                case Deliver(piece):
                    self._deliver(piece)
                case Lost(count):
                    self._seat.cluster.counted_lost(count)
                case Missing():
                    if not self._checking:
                        self._checking = True
                        self._seat.cluster.spawn(self._check())
                case _:
                    assert_never(effect)

    def _deliver(self, piece: Piece) -> None:
        entry = self._seat.entry
        if entry is None or self._closed:
            return
        hub = self._seat.cluster.hub
        match piece.content:
            case Content.TEXT:
                hub.feed(entry, entry.session.app_text, self.package, self.connection_id, piece.payload)
            case Content.BINARY:
                hub.app_binary(entry, self.package, piece.payload)
            case Content.PONG:
                hub.feed(entry, entry.session.app_pong, self.package, self.connection_id, piece.payload)
            case Content.LEFT:
                seen = _seen(piece.payload)
                hub.feed(entry, entry.session.app_proved, self.package, self.connection_id, seen)
            case Content.CLOSE:
                self._lost()
            case Content.PING:
                pass  # the node with the socket answers pings itself
            case _:
                assert_never(piece.content)

    async def _check(self) -> None:
        """Is anybody there? Only a clear no counts: a bus that is away says nothing about the app."""
        try:
            await self._seat.cluster.fabric.ask(socket_address(self.socket_id), b'{"op":"there"}', 1.0)
        except NoOne:
            self._lost()
        except (Unavailable, TimeoutError):
            pass
        finally:
            self._checking = False

    def _lost(self) -> None:
        if self._closed:
            return
        sound = self.unheard()
        self.drop()
        entry = self._seat.entry
        self._seat.remotes.pop(self.attachment, None)
        self._seat.cluster.gone(self)
        self._seat.settle()
        if entry is not None:
            hub = self._seat.cluster.hub
            hub.feed(entry, entry.session.app_lost, self.package, self.connection_id)
            hub.feed(entry, entry.session.sound_missed, sound)

    def drop(self) -> None:
        """Forget this app without a word: its node goes on with another owner."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ------------------------------------------------------------------------------------------------ time

    def _arm(self) -> None:
        due = self._pipe.deadline
        if due is None or self._closed:
            return
        if self._timer is not None:
            if self._timer_at <= due:
                return  # it fires early, which does nothing but set it anew: cheaper than cancelling per frame
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(due, self._tick), due

    def _tick(self) -> None:
        self._timer = None
        self._perform(self._pipe.handle_deadline(self._loop.time()))
        if self._owed:
            self._seat.settle()
        self._arm()


def _seen(payload: bytes) -> dict[str, tuple[int, int]]:
    """How far each stream has come, as the app's node tells; what cannot be read proves nothing."""
    try:
        found = load_object(payload)
        return {str(stream): (int(mark[0]), int(mark[1])) for stream, mark in found.items()}
    except (ProtocolError, TypeError, ValueError, IndexError, KeyError):
        return {}
