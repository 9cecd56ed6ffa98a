"""The resumable stream over many mortal connections; the same class serves the edge and the cloud.

Rules: an outgoing `reliable` message gets the next offset of this end's log and stays there until the peer has
acknowledged it; `latest` messages keep only the newest per key; `lossy` ones are written or dropped, never kept.
Offsets and acknowledgements travel as the last members of the JSON text itself (`"linkOffset"`, `"linkAck"`), and
only towards a peer that announced the extension. A frame without an offset passes straight through. Every end of
every wait is told: `Resumed.recovered` says whether anything may be missing or doubled, `Expired` what was given up.

    edge (initiator)                                            cloud (responder)
    connected() -> RESUMING                                     connected() -> RESUMING
    Announce ── connection_init {link: LinkHello} ─────────────► greeted() -> Welcome, replay, LIVE
    welcomed() ◄──────── connection_ack {link: LinkWelcome} ──
    -> replay, LIVE
    lost() -> DETACHED                                          lost() -> DETACHED

The announcement is the first frame that an initiator writes; a first frame that is none tells the responder that its
peer does not know the extension. Such a peer gets plain frames: `latest` again after each reconnect, `reliable` once.
`latest` and `lossy` need no handshake and flow as soon as there is a connection.

Exactly once and in order holds across any number of lost connections while both ends live and the log holds. When an
end has forgotten (a new process: new epoch) or the log overflowed, the stream goes on with `recovered=False`: what
was not yet acknowledged is sent again, so across a crash delivery is at least once for the unacknowledged tail.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from wire.codec import encode
from wire.effect import effect
from wire.errors import InvalidTransition
from wire.messages.base import Delivery, Message
from wire.messages.cloud_to_glasses import LinkWelcome
from wire.messages.glasses_to_cloud import LinkHello


class LinkState(Enum):
    DETACHED = "detached"  # no connection; reliable messages wait in the log
    RESUMING = "resuming"  # a connection is up; where to go on is not yet agreed
    LIVE = "live"
    CLOSED = "closed"


TRANSITIONS: dict[LinkState, frozenset[LinkState]] = {
    LinkState.DETACHED: frozenset({LinkState.RESUMING, LinkState.CLOSED}),
    LinkState.RESUMING: frozenset({LinkState.LIVE, LinkState.DETACHED, LinkState.CLOSED}),
    LinkState.LIVE: frozenset({LinkState.DETACHED, LinkState.CLOSED}),
    LinkState.CLOSED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Bounds and times, each with its reason. Seconds and bytes."""

    #: A minute of grace at 8 reliable messages a second; more is a flood, not a wearer.
    log_messages_max: int = 512
    #: Two full-size text frames; the log of an idle session is empty.
    log_bytes_max: int = 2 << 20
    #: In flight before the peer has acknowledged: below the 256 frames of a connection's outbound queue, so that
    #: a replay never looks like a slow consumer.
    window_messages: int = 64
    #: A quarter of the outbound queue's 2 MiB. One message always goes, however large.
    window_bytes: int = 512 << 10
    #: How long an acknowledgement may wait for a frame to ride on. Not at all: what a crash can double is what was
    #: processed and not acknowledged, and reliable messages are too rare for the extra frames to count.
    ack_delay: float = 0.0
    #: With a delay: acknowledge at once after this many; a quarter of the window keeps the sender moving.
    ack_every: int = 16
    #: How long the answer to the announcement may take. Longer than the edge needs to notice a dead uplink (10 s), so
    #: that a foreign cloud is not inferred from a silent path.
    handshake: float = 12.0
    #: Distinct `latest` keys: the wire has about 20 state messages; views and streams multiply a few of them.
    latest_keys_max: int = 128
    #: All `latest` values together: two full-screen pictures (main and dashboard) at the size limit of a frame.
    latest_bytes_max: int = 2 << 20


# ---------------------------------------------------------------------------------------------- effects


@effect
class Transmit:
    """Write one frame to this connection, with what its bounded queue needs to know."""

    connection_id: int
    data: bytes
    delivery: Delivery
    key: str | None = None  # of a `latest` frame
    binary: bool = False


@effect
class Deliver:
    """One frame from the peer, without the link's members; reliable ones exactly once and in order."""

    connection_id: int
    data: bytes
    offset: int | None = None  # of a reliable frame in the peer's log


@dataclass(frozen=True, slots=True)
class Announce:
    """Initiator only: write connection_init with this as the first frame of the connection, before what follows."""

    connection_id: int
    hello: LinkHello


@dataclass(frozen=True, slots=True)
class Welcome:
    """Responder only: answer the peer's announcement with an acknowledgement that carries this, before what follows."""

    connection_id: int
    welcome: LinkWelcome


@dataclass(frozen=True, slots=True)
class Resumed:
    """The link is LIVE. `recovered`: nothing the peer sent is missing or doubled. `peer_recovered`: the same for
    what this end sent. Both False on the first connection of a link, when there was nothing to recover."""

    connection_id: int
    sequenced: bool  # False: the peer does not know the extension; reliable means written once
    recovered: bool
    peer_recovered: bool
    replayed: int  # messages sent again


@dataclass(frozen=True, slots=True)
class Expired:
    """This many reliable messages outlived their `life` before they could be delivered."""

    count: int


@dataclass(frozen=True, slots=True)
class Discarded:
    """This many reliable messages fell out of a full log; the next `Resumed` says peer_recovered=False."""

    count: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """This many reliable messages of the peer outlived their `life` before they could be delivered here."""

    count: int


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close this connection: it cannot go on. The link is already DETACHED and resumes on the next one."""

    connection_id: int
    reason: str  # "slow": the peer does not acknowledge; "gap": an offset is missing;
    # "handshake": a peer that used to answer the announcement does not


LinkEffect: TypeAlias = (
    Transmit | Deliver | Announce | Welcome | Resumed | Expired | Discarded | Skipped | Disconnect
)


@dataclass(slots=True)
class LinkCounters:
    """What happened so far; only ever grows."""

    stale: int = 0  # inputs of a connection that is no longer the current one
    duplicates: int = 0  # frames the peer sent again and that were not delivered again
    lossy_dropped: int = 0
    expired: int = 0
    discarded: int = 0
    replayed: int = 0
    gaps: int = 0
    resumes: int = 0


# ---------------------------------------------------------------------------------------- the wire form

_TAIL = re.compile(rb'(?:,"linkOffset":(\d{1,15}))?(?:,"linkAck":(\d{1,15}))?\}\Z')
#: Longest tail: both members with 15 digits each.
_TAIL_BYTES_MAX = 64


def join(data: bytes, offset: int | None, ack: int | None) -> bytes:
    """The JSON object `data` with the link's members appended."""
    if offset is None and ack is None:
        return data
    head = data[:-1]
    if offset is not None:
        head += b',"linkOffset":%d' % offset
    if ack is not None:
        head += b',"linkAck":%d' % ack
    return head + b"}"


def split(data: bytes) -> tuple[bytes, int | None, int | None]:
    """(the object without the link's members, offset, ack).

    The members are recognised as the last ones of the object, exactly as `join` writes them: valid JSON cannot end
    like that inside a string or a nested object.
    """
    found = data.find(b',"link', max(0, len(data) - _TAIL_BYTES_MAX))
    if found < 0:
        return data, None, None
    match = _TAIL.search(data, found)
    if match is None or match.start() == len(data) - 1:
        return data, None, None
    offset, ack = match.groups()
    return (
        data[: match.start()] + b"}",
        int(offset) if offset is not None else None,
        int(ack) if ack is not None else None,
    )


def exact(data: bytes) -> bytes:
    """A copy that takes no more memory than it has bytes: what orjson returns keeps the 4 KiB it was written into."""
    return memoryview(data).tobytes()


def _left(expires: float, now: float) -> float | None:
    """Seconds of life that are left; None = no end."""
    return None if expires == _NEVER else expires - now


# Looking up a member of an Enum costs 50 ns (CPython 3.11), and these stand on the way of every frame.
_LIVE = LinkState.LIVE
_CLOSED = LinkState.CLOSED
_LATEST = Delivery.LATEST

_ACK = b'{"type":"glassbridge_ack"}'
_SKIP = b'{"type":"glassbridge_skip"}'


# ------------------------------------------------------------------------------------------- the machine


@dataclass(slots=True)
class _Entry:
    offset: int
    data: bytes | None  # None: expired; stands for every offset since the entry before it
    expires: float
    sent: bool = False


@dataclass(slots=True)
class _Latest:
    data: bytes
    expires: float
    written_to: int | None = None  # the connection that carries it already


_NEVER = float("inf")


@dataclass(slots=True)
class _Peer:
    """What is known of the peer's log."""

    epoch: str | None = None
    offset: int = 0  # last offset processed
    acked: int = 0  # last offset acknowledged to the peer
    since: float = field(default=_NEVER)  # when the oldest unacknowledged one was processed


class Link:
    """One end of a resumable stream. `epoch` is a fresh random name of this end's log, made by the caller for each
    new Link and never used again; `initiator` is True at the edge, which announces, False at the cloud."""

    __slots__ = (
        "_base", "_bytes", "_connection", "_heard", "_latest", "_latest_bytes", "_log", "_newest", "_peer", "_resume_by", "_sent",
        "_state", "_unacked_bytes", "counters", "epoch", "holding", "initiator", "limits", "sequenced",
    )  # fmt: skip

    def __init__(self, epoch: str, *, initiator: bool, limits: LinkLimits | None = None) -> None:
        self.epoch = epoch
        self.initiator = initiator
        self.limits = limits or LinkLimits()
        #: Whether the peer of the current or last connection knows the extension; settled when LIVE.
        self.sequenced = False
        #: Whether what arrives is only kept for later: it is not acknowledged then, so that nothing is lost when the
        #: process that keeps it is killed. `release` ends it.
        self.holding = False
        self.counters = LinkCounters()
        self._state = LinkState.DETACHED
        self._connection: int | None = None
        self._heard = False  # whether the current connection has brought anything
        self._log: deque[_Entry] = deque()
        self._base = 0  # last offset that left the log for good
        self._newest = 0  # last offset given out
        self._sent = 0  # last offset written to the current connection
        self._bytes = 0
        self._unacked_bytes = 0  # of what is written and not acknowledged
        self._latest: dict[str, _Latest] = {}
        self._latest_bytes = 0
        self._peer = _Peer()
        self._resume_by = _NEVER

    # -- what is so

    @property
    def state(self) -> LinkState:
        return self._state

    @property
    def connection_id(self) -> int | None:
        """The current connection, or None."""
        return self._connection

    @property
    def peer(self) -> tuple[str | None, int]:
        """Name of the peer's log, and the last offset of it that was delivered."""
        return self._peer.epoch, self._peer.offset

    @property
    def backlog(self) -> int:
        """Reliable messages that the peer has not acknowledged."""
        return sum(1 for entry in self._log if entry.data is not None)

    @property
    def backlog_bytes(self) -> int:
        return self._bytes

    @property
    def deadline(self) -> float | None:
        """When handle_deadline has something to do, or None."""
        since = self._peer.since
        if since == self._resume_by == _NEVER:  # a peer without the extension, or nothing to acknowledge
            return None
        ack_by = _NEVER
        if self._state is LinkState.LIVE and not self.holding:
            ack_by = since + self.limits.ack_delay
        due = min(ack_by, self._resume_by)
        return None if due == _NEVER else due

    def handle_deadline(self, now: float) -> list[LinkEffect]:
        """Send an acknowledgement that found no frame to ride on; give up waiting for the extension."""
        effects: list[LinkEffect] = []
        if now >= self._resume_by and self._connection is not None:
            if self._heard and self._peer.epoch is None:
                effects += self._plain(self._connection, now)
            else:
                effects += self._disconnect("handshake")
        if (
            self._state is LinkState.LIVE
            and not self.holding
            and now >= self._peer.since + self.limits.ack_delay
        ):
            effects.append(self._acknowledge())
        return effects

    def release(self, now: float) -> list[LinkEffect]:
        """What was kept has been handled: acknowledge it, and from now on everything at once."""
        self.holding = False
        if self._peer.acked < self._peer.offset and self._state is LinkState.LIVE:
            self._peer.since = min(self._peer.since, now)
        return self.handle_deadline(now)

    # -- connections

    def connected(self, connection_id: int, now: float) -> list[LinkEffect]:
        """A connection is open and authenticated; it replaces any other. The initiator's first effect is Announce."""
        if self._state is LinkState.CLOSED:
            return []
        self._detach()
        self._connection = connection_id
        self._move(LinkState.RESUMING)
        if not self.initiator:
            return self._reassert(now)
        self._resume_by = now + self.limits.handshake
        hello = LinkHello(
            epoch=self._peer.epoch, offset=self._peer.offset, own_epoch=self.epoch, own_offset=self._base
        )
        return [Announce(connection_id, hello), *self._reassert(now)]

    def greeted(self, connection_id: int, hello: LinkHello, now: float) -> list[LinkEffect]:
        """The responder got the initiator's announcement. The first effect is the Welcome to answer with."""
        if not self._current(connection_id):
            return []
        same = hello.epoch == self.epoch
        recovered_out = same and self._base <= hello.offset <= self._newest
        recovered_in = hello.own_epoch == self._peer.epoch and self._peer.offset >= hello.own_offset
        if recovered_out:
            self._acknowledged(hello.offset)
        if not recovered_in:
            self._peer = _Peer(epoch=hello.own_epoch, offset=hello.own_offset, acked=hello.own_offset)
        if not self.holding:
            self._peer.acked, self._peer.since = self._peer.offset, _NEVER
        welcome = LinkWelcome(
            epoch=self.epoch,
            offset=self._base,
            recovered=recovered_out,
            peer_offset=self._peer.acked,
            peer_recovered=recovered_in,
        )
        return [
            Welcome(connection_id, welcome),
            *self._go_live(
                connection_id, sequenced=True, recovered=recovered_in, peer_recovered=recovered_out, now=now
            ),
        ]

    def welcomed(self, connection_id: int, welcome: LinkWelcome, now: float) -> list[LinkEffect]:
        """The initiator got the responder's answer. A second answer on the same connection changes nothing."""
        if not self._current(connection_id) or not (
            self._state is LinkState.RESUMING
            or (self._state is LinkState.LIVE and not self.sequenced)  # the answer came after `handshake`
        ):
            return []
        agreed = self._base <= welcome.peer_offset <= self._newest
        if agreed:
            self._acknowledged(welcome.peer_offset)
        else:  # it remembers another past than ours: go on where it stands, with everything unacknowledged
            self._renumber(welcome.peer_offset)
        recovered = welcome.recovered and welcome.epoch == self._peer.epoch
        if not recovered:
            self._peer = _Peer(epoch=welcome.epoch, offset=welcome.offset)
        self._peer.acked, self._peer.since = self._peer.offset, _NEVER
        return self._go_live(
            connection_id,
            sequenced=True,
            recovered=recovered,
            peer_recovered=welcome.peer_recovered and agreed,
            now=now,
        )

    def refused(self, connection_id: int, now: float) -> list[LinkEffect]:
        """The initiator's announcement was answered without a link: the peer does not know the extension."""
        if not self._current(connection_id) or self._state is not LinkState.RESUMING:
            return []
        return self._plain(connection_id, now)

    def lost(self, connection_id: int, now: float) -> list[LinkEffect]:
        """A connection is gone, or is given up. A late report about an older one is only counted."""
        if self._current(connection_id):
            self._detach()
        return []

    def close(self, now: float) -> list[LinkEffect]:
        """The stream ends for good; nothing happens after this."""
        if self._state is not LinkState.CLOSED:
            self._move(LinkState.CLOSED)
            self._connection = None
            self._resume_by = self._peer.since = _NEVER
            self._log.clear()
            self._latest.clear()
            self._bytes = self._unacked_bytes = self._latest_bytes = 0
        return []

    # -- another process

    def export(self, now: float) -> dict[str, Any]:
        """This end as plain data, for a process that goes on with the same stream: nothing is lost or doubled."""
        return {
            "epoch": self.epoch,
            "base": self._base,
            "newest": self._newest,
            # What is only kept for later is not part of this; it comes again.
            "peer": [self._peer.epoch, self._peer.acked if self.holding else self._peer.offset],
            "log": [
                [
                    entry.offset,
                    None if entry.data is None else entry.data.decode(),
                    _left(entry.expires, now),
                    entry.sent,
                ]
                for entry in self._log
            ],
            "latest": [
                [key, latest.data.decode(), _left(latest.expires, now)]
                for key, latest in self._latest.items()
            ],
        }

    @classmethod
    def restored(
        cls, state: Mapping[str, Any], now: float, *, initiator: bool, limits: LinkLimits | None = None
    ) -> Link:
        """The end that `export` described, DETACHED. Raises KeyError, TypeError or ValueError for what is no such data."""
        link = cls(str(state["epoch"]), initiator=initiator, limits=limits)
        link._base = link._sent = int(state["base"])
        link._newest = int(state["newest"])
        epoch, offset = state["peer"]
        link._peer = _Peer(epoch=None if epoch is None else str(epoch), offset=int(offset), acked=int(offset))
        for offset, data, left, sent in state["log"]:
            payload = None if data is None else str(data).encode()
            link._log.append(_Entry(int(offset), payload, _NEVER if left is None else now + left, bool(sent)))
            link._bytes += 0 if payload is None else len(payload)
        for key, data, left in state["latest"]:
            link._latest[str(key)] = _Latest(str(data).encode(), _NEVER if left is None else now + left)
            link._latest_bytes += len(link._latest[str(key)].data)
        return link

    # -- messages

    def post(self, message: Message, now: float) -> list[LinkEffect]:
        """Send a message as its class says (delivery, key, life)."""
        return self.send(
            encode(message), message.delivery, now=now, key=message.latest_key(), life=message.life
        )

    def send(
        self,
        data: bytes,
        delivery: Delivery,
        *,
        now: float,
        key: str | None = None,
        life: float | None = None,
        binary: bool = False,
    ) -> list[LinkEffect]:
        """Send one frame: a JSON object, or with `binary` (lossy only) any bytes.

        `key` names what a `latest` frame is the newest of. `life`, in seconds, bounds how late a reliable frame may
        be delivered and how long a latest one is worth re-asserting.
        """
        if self._state is _CLOSED:
            return []
        expires = _NEVER if life is None else now + life
        if delivery is _LATEST:
            latest = self.state_is(key or "", exact(data), expires)
            return [] if latest is None else [latest]
        match delivery:
            case Delivery.LOSSY:
                if self._connection is None:
                    self.counters.lossy_dropped += 1
                    return []
                return [self._transmit(data, binary=binary)]
            case _:
                return self._send_reliable(data, expires, now)

    def forget(self, key: str) -> None:
        """Do not re-assert this `latest` key any more: what it said is no longer so."""
        forgotten = self._latest.pop(key, None)
        if forgotten is not None:
            self._latest_bytes -= len(forgotten.data)

    def passes(self, connection_id: int, data: bytes) -> bool:
        """Whether `received` would only hand this frame through: a LIVE link to a peer without the extension."""
        return (
            not self.sequenced
            and self._state is _LIVE
            and connection_id == self._connection
            and data.find(b',"link', -_TAIL_BYTES_MAX) < 0
        )

    def received(self, connection_id: int, data: bytes, now: float) -> list[LinkEffect]:
        """One text frame from the peer."""
        if not self._current(connection_id):
            return []
        effects: list[LinkEffect] = []
        self._heard = True
        if self._state is LinkState.RESUMING and not self.initiator:
            effects += self._plain(connection_id, now)  # its first frame was not the announcement
        data, offset, ack = split(data)
        if ack is not None and self.sequenced and self._base < ack <= self._sent:
            self._acknowledged(ack)
            effects += self._pump()
        if offset is None or not (self.sequenced or self._state is LinkState.RESUMING):
            if data != _ACK:
                effects.append(Deliver(connection_id, data))
            return effects
        if self._state is not LinkState.LIVE:
            # Sent before the handshake of this connection was done: no agreed log to place it in. It comes again.
            self.counters.gaps += 1
            return effects
        if offset <= self._peer.offset:
            self.counters.duplicates += 1
            # The sender evidently does not know: tell it again soon.
            self._peer.since = min(self._peer.since, now)
            return effects
        if data == _SKIP:
            effects.append(Skipped(offset - self._peer.offset))
            self._peer.offset = offset
        elif offset == self._peer.offset + 1:
            self._peer.offset = offset
            effects.append(Deliver(connection_id, data, offset))
        else:
            # TCP does not reorder: frames are missing. A new handshake either replays them or says so.
            self.counters.gaps += 1
            return [*effects, *self._disconnect("gap")]
        self._peer.since = min(self._peer.since, now)
        if self.holding:
            return effects
        if self.limits.ack_delay <= 0 or self._peer.offset - self._peer.acked >= self.limits.ack_every:
            effects.append(self._acknowledge())
        return effects

    # -- inside

    def _move(self, to: LinkState) -> None:
        if to not in TRANSITIONS[self._state]:
            raise InvalidTransition("Link", self._state, to)
        self._state = to

    def _current(self, connection_id: int) -> bool:
        if connection_id == self._connection:
            return True
        self.counters.stale += 1
        return False

    def _detach(self) -> None:
        self._connection = None
        self._heard = False
        self._resume_by = _NEVER
        self._sent = self._base
        self._unacked_bytes = 0
        self._peer.since = _NEVER  # nobody to acknowledge to; the handshake will
        if self._state in (LinkState.RESUMING, LinkState.LIVE):
            self._move(LinkState.DETACHED)

    def _disconnect(self, reason: str) -> list[LinkEffect]:
        connection_id = self._connection
        assert connection_id is not None
        self._detach()
        return [Disconnect(connection_id, reason)]

    def _plain(self, connection_id: int, now: float) -> list[LinkEffect]:
        """Go on with a peer that does not know the extension."""
        self._resume_by = _NEVER
        # What a former peer may already have processed is not repeated to one that cannot tell, and a burst beyond
        # the window would look like a slow consumer.
        waiting = [entry for entry in self._log if entry.data is not None]
        unsent = [entry for entry in waiting if not entry.sent]
        fresh = [entry for entry in unsent if entry.expires > now]
        flush = fresh[-self.limits.window_messages :]
        expired, discarded = len(unsent) - len(fresh), len(waiting) - len(unsent) + len(fresh) - len(flush)
        self.counters.expired += expired
        self.counters.discarded += discarded
        self._log.clear()
        self._bytes = self._unacked_bytes = 0
        self._base = self._sent = self._newest
        self._peer = _Peer()
        effects: list[LinkEffect] = []
        if expired:
            effects.append(Expired(expired))
        if discarded:
            effects.append(Discarded(discarded))
        return effects + self._go_live(
            connection_id,
            sequenced=False,
            recovered=False,
            peer_recovered=False,
            now=now,
            flush=[entry.data for entry in flush if entry.data is not None],
        )

    def _go_live(
        self,
        connection_id: int,
        *,
        sequenced: bool,
        recovered: bool,
        peer_recovered: bool,
        now: float,
        flush: Sequence[bytes] = (),
    ) -> list[LinkEffect]:
        self._resume_by = _NEVER
        self.sequenced = sequenced
        if self._state is not LinkState.LIVE:
            self._move(LinkState.LIVE)
        self.counters.resumes += 1
        self._sent = self._base
        self._unacked_bytes = 0
        again = sum(1 for entry in self._log if entry.sent and entry.data is not None and entry.expires > now)
        self.counters.replayed += again
        effects: list[LinkEffect] = [
            Resumed(connection_id, sequenced, recovered, peer_recovered, again),
            *self._expire(now),
            *self._pump(),
            *(self._transmit(data, Delivery.RELIABLE) for data in flush),
        ]
        return effects + self._reassert(now)

    def _reassert(self, now: float) -> list[LinkEffect]:
        """State that this connection has not carried yet. It needs no handshake: the newest counts, twice is once."""
        for key in [key for key, latest in self._latest.items() if latest.expires <= now]:
            self.forget(key)
        effects: list[LinkEffect] = []
        for key, latest in self._latest.items():
            if latest.written_to != self._connection:
                latest.written_to = self._connection
                effects.append(self._transmit(latest.data, Delivery.LATEST, key=key))
        return effects

    def _transmit(
        self,
        data: bytes,
        delivery: Delivery = Delivery.LOSSY,
        *,
        key: str | None = None,
        offset: int | None = None,
        binary: bool = False,
    ) -> Transmit:
        """A frame for the current connection; text carries whatever acknowledgement is due."""
        assert self._connection is not None
        ack = None
        if (
            self.sequenced
            and self._state is _LIVE
            and self._peer.since != _NEVER
            and not (binary or self.holding)
        ):
            ack = self._peer.acked = self._peer.offset
            self._peer.since = _NEVER
        return Transmit(self._connection, join(data, offset, ack), delivery, key, binary)

    def _acknowledge(self) -> Transmit:
        # Reliable for the connection's queue: an acknowledgement that a full queue may drop would stall the peer.
        return self._transmit(_ACK, Delivery.RELIABLE)

    def state_is(self, key: str, data: bytes, expires: float = _NEVER) -> Transmit | None:
        """`send` for a `latest` frame: what is so now, kept until `expires` for the next connection. None: there is no
        connection to write it to. `data` is kept as it is: see `exact`."""
        if self._state is _CLOSED:
            return None
        # Re-inserting keeps the order of last change; the oldest keys give way in a flood of keys.
        latest, connection_id = self._latest, self._connection
        entry = latest.pop(key, None)
        if entry is None:
            entry = _Latest(b"", expires, connection_id)
        self._latest_bytes += len(data) - len(entry.data)
        entry.data, entry.expires, entry.written_to = data, expires, connection_id
        latest[key] = entry
        limits = self.limits
        while len(latest) > limits.latest_keys_max or (
            self._latest_bytes > limits.latest_bytes_max and len(latest) > 1
        ):
            self.forget(next(iter(latest)))
        if connection_id is None:
            return None
        if self.sequenced:
            return self._transmit(data, _LATEST, key=key)
        return Transmit(connection_id, data, _LATEST, key)

    def _send_reliable(self, data: bytes, expires: float, now: float) -> list[LinkEffect]:
        if self._state is LinkState.LIVE and not self.sequenced:
            return [self._transmit(data, Delivery.RELIABLE)]
        self._newest += 1
        self._log.append(_Entry(self._newest, exact(data), expires))
        self._bytes += len(data)
        return self._pump() + self._bound(now)

    def _bound(self, now: float) -> list[LinkEffect]:
        """Keep the log within its limits: the peer that does not acknowledge is cut, the oldest messages go."""
        if not self._over():
            return []
        effects = self._expire(now)
        if not self._over():
            return effects
        if self._connection is not None:
            effects += self._disconnect("slow")
        discarded = 0
        while self._over():
            entry = self._log.popleft()
            self._base = self._sent = entry.offset
            if entry.data is not None:
                self._bytes -= len(entry.data)
                discarded += 1
        self.counters.discarded += discarded
        if discarded:
            effects.append(Discarded(discarded))
        return effects

    def _over(self) -> bool:
        return len(self._log) > self.limits.log_messages_max or self._bytes > self.limits.log_bytes_max

    def _renumber(self, base: int) -> None:
        self._base = self._sent = self._newest = base
        for entry in self._log:
            self._newest += 1
            entry.offset = self._newest

    def _expire(self, now: float) -> list[LinkEffect]:
        """Turn messages that outlived their life into skips; those already written to this connection stay."""
        count = 0
        kept: deque[_Entry] = deque()
        for entry in self._log:
            if entry.data is not None and entry.expires <= now and entry.offset > self._sent:
                self._bytes -= len(entry.data)
                entry.data = None
                count += 1
            if entry.data is None and kept and kept[-1].data is None and kept[-1].offset > self._sent:
                kept[-1].offset = entry.offset
            else:
                kept.append(entry)
        self._log = kept
        if not count:
            return []
        self.counters.expired += count
        return [Expired(count)]

    def _acknowledged(self, offset: int) -> None:
        while self._log and self._log[0].offset <= offset:
            entry = self._log.popleft()
            if entry.data is not None:
                self._bytes -= len(entry.data)
                if entry.offset <= self._sent:
                    self._unacked_bytes -= len(entry.data)
        self._base = offset
        self._sent = max(self._sent, offset)

    def _pump(self) -> list[LinkEffect]:
        """Write what the window allows."""
        effects: list[LinkEffect] = []
        if self._state is not LinkState.LIVE or not self.sequenced or self._sent == self._newest:
            return effects
        for entry in self._unsent():
            size = 0 if entry.data is None else len(entry.data)
            in_flight = self._sent - self._base
            if in_flight >= self.limits.window_messages or (
                in_flight and self._unacked_bytes + size > self.limits.window_bytes
            ):
                break
            entry.sent = True
            self._sent = entry.offset
            self._unacked_bytes += size
            data = _SKIP if entry.data is None else entry.data
            effects.append(self._transmit(data, Delivery.RELIABLE, offset=entry.offset))
        return effects

    def _unsent(self) -> Iterator[_Entry]:
        # From the right: in the steady state only the newest entry is unwritten.
        pending: list[_Entry] = []
        for entry in reversed(self._log):
            if entry.offset <= self._sent:
                break
            pending.append(entry)
        return reversed(pending)
