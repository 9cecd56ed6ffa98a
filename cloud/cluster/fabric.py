"""The fabric: how the nodes of one cloud reach each other, and the few records they agree on.

Rules: two halves behind one small interface. Messages (`send`, `ask`, `listen`) are at most once, first in first out per
sender and address, and never wait. Records (`get`, `put`) are linearizable per key, and a write can be fenced by the
revision of another key of the same session, so that whoever was superseded cannot write, without any clock. Nothing here
knows what a session is. Engines: `local.py` (one process, SQLite) and `nats.py`; one contract test holds both.

An address or key is dot-separated tokens of letters, digits, `_`, `-` and `=`; its second token names the session
(`s.<sid>`, `own.<sid>`), which decides where a record lives: a fence and the key it guards must share it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from wire.errors import BridgeError

#: First byte of every message on the bus. A node reads this version and the one before it (rolling upgrade); others are
#: counted and dropped, as if they had been lost.
VERSION: Final = 1
VERSIONS_READ: Final = frozenset({1})

#: Largest message or record, bytes. Brokers are set up for 8 MB; what is larger (photos) goes by reference.
PAYLOAD_BYTES_MAX: Final = 8 * 1024 * 1024 - 1024

#: Bytes waiting to leave for the engine, above which `send` refuses: old audio delivered late is worse than a known hole.
PENDING_BYTES_MAX: Final = 8 * 1024 * 1024

_NAME: Final = re.compile(r"[A-Za-z0-9_=-]{1,200}(\.[A-Za-z0-9_=-]{1,200}){0,7}")


class FabricError(BridgeError):
    """The fabric did not do what was asked."""


class NoOne(FabricError):
    """Nobody listens at that address; known at once, not by a time-out."""


class Conflict(FabricError):
    """The record has another revision than the caller expected. Not applied."""


class Fenced(FabricError):
    """The fence moved on (or is gone): the caller was superseded and must stop. Not applied."""


class Unavailable(FabricError):
    """The engine is away. After a `put` the outcome is unknown: read again before drawing a conclusion."""


class Rec(NamedTuple):
    """A record: its bytes and the revision that the next writer must name."""

    value: bytes
    rev: int


#: Answers an `ask`, at most once, now or later, on the loop. Later calls, and those after the asker's time-out, do nothing.
Reply = Callable[[bytes], None]
#: Receives a message. `reply` is None for a `send`. Runs on the loop, must not block, is never called inside `send`.
Handler = Callable[[bytes, Reply | None], None]
#: Ends a `listen`; the handler is not called again, not even for what has already arrived. Idempotent.
Unlisten = Callable[[], None]


@dataclass(slots=True)
class FabricStats:
    """Counters since the start; the metrics page reads them."""

    sent: int = 0
    """Messages accepted by `send` and `ask`, local or remote."""
    sent_remote: int = 0
    """Those of them that went to the engine."""
    received_remote: int = 0
    """Messages that came from other nodes."""
    dropped: int = 0
    """Messages lost here: engine away, too much pending, no listener left, unreadable."""
    gaps: int = 0
    """Moments after which messages may have been lost."""
    handler_errors: int = 0
    """Exceptions of handlers: bugs above us, contained."""
    puts: int = 0
    """Records written."""
    put_retries: int = 0
    """Conditional writes the engine asked to repeat (NATS error 10164)."""


class Fabric(Protocol):
    """See the module's rules. All methods are called on the event loop that opened the fabric."""

    @property
    def stats(self) -> FabricStats:
        """Counters of this node."""

    @property
    def connected(self) -> bool:
        """False while the engine is known to be away. Local listeners are served all the same."""

    def send(self, addr: str, data: bytes, fanout: bool = False) -> bool:
        """Hand a message on; never blocks, never raises for the engine's sake.

        With `fanout` it goes to every listener in the cluster. Without, to the newest listener of this node, or if there
        is none to the listeners elsewhere (normally one). False = dropped here and counted; True is no receipt.
        Raises ValueError for a malformed address or too large a message.
        """

    async def ask(self, addr: str, data: bytes, timeout: float) -> bytes:
        """One answer, from the same listener that `send` without `fanout` would reach.

        Raises NoOne at once if nobody listens, TimeoutError after `timeout` seconds, Unavailable if the engine is away.
        """

    async def listen(self, addr: str, fn: Handler) -> Unlisten:
        """Receive what is sent to `addr`. Returns once a later `send` of this node, or an answer to it, can reach `fn`.

        While the engine is away, remote messages follow when it is back (`on_gap` tells).
        """

    async def get(self, key: str) -> Rec | None:
        """The record, at least as new as the caller's own last `put`. Raises Unavailable."""

    async def put(
        self, key: str, value: bytes | None, *, rev: int | None = None, fence: tuple[str, int] | None = None
    ) -> int:
        """Write; returns the new revision, larger than any before it on this key.

        `rev=0` creates (the key must not exist), `rev=n` replaces exactly revision n, `fence=(key, n)` writes only while
        that other key has revision n; `value=None` deletes. `rev` and `fence` exclude each other: a fence is stronger.
        Raises Conflict (rev), Fenced (fence), Unavailable (outcome unknown), ValueError.
        """

    def on_gap(self, fn: Callable[[], None]) -> None:
        """Call `fn` after any moment in which messages from other nodes may have been lost. Never removed."""

    async def close(self) -> None:
        """Send what is pending (bounded), stop listening, let go. Idempotent."""


@lru_cache(maxsize=1 << 16)  # a node speaks to some thousands, each again and again; the bound is 10 MB
def check_name(name: str) -> str:
    """The address or key itself. Raises ValueError if it is malformed: a wildcard would reach strangers."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no address: dot-separated tokens of letters, digits, '_', '-', '=' are wanted"
        )
    return name


def check_size(data: bytes | None) -> None:
    """Raises ValueError for what is too large for any engine."""
    if data is not None and len(data) > PAYLOAD_BYTES_MAX:
        raise ValueError(
            f"{len(data)} bytes are too large for the fabric (max {PAYLOAD_BYTES_MAX}): send a reference"
        )


def check_condition(key: str, rev: int | None, fence: tuple[str, int] | None) -> None:
    """Raises ValueError for a `put` whose conditions no engine can hold in one step."""
    if fence is None:
        return
    if rev is not None:
        raise ValueError("a put has either a revision or a fence")
    check_name(fence[0])
    if shard_of(fence[0]) != shard_of(key) or fence[0] == key:
        raise ValueError(
            f"the fence {fence[0]!r} cannot guard {key!r}: another key of the same session is wanted"
        )


def shard_of(name: str) -> str:
    """The token that says where a record lives: the session's."""
    head, _, tail = name.partition(".")
    return tail.partition(".")[0] or head
