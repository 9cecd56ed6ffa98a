"""The node that holds an app's socket but not its session: keeps the app, whoever owns the session now.

Rules: the app notices nothing: its socket stays open while owners change, it is acknowledged once, and a frame that it has
already been given is not given again. The newest owner by epoch counts; an answer of an older one is a stale owner's, and
the question is asked again. What the app says is kept until an owner has it. Source: distributed design, sections 7 and 11.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

import orjson

from cloud.core.pipe import (
    Content,
    Deliver,
    Ident,
    Lost,
    Missing,
    Piece,
    Pipe,
    PipeEffect,
    PipeLimits,
    Write,
    closing,
)
from wire.codec import load_object
from wire.errors import CloseCode, InvalidTransition, ProtocolError
from wire.messages.base import Delivery


class EdgeState(Enum):
    NEW = "new"
    ATTACHING = "attaching"  # no owner has answered yet, or the last one is gone
    ATTACHED = "attached"
    CLOSED = "closed"


TRANSITIONS: Final[dict[EdgeState, frozenset[EdgeState]]] = {
    EdgeState.NEW: frozenset({EdgeState.ATTACHING, EdgeState.CLOSED}),
    EdgeState.ATTACHING: frozenset({EdgeState.ATTACHED, EdgeState.CLOSED}),
    EdgeState.ATTACHED: frozenset({EdgeState.ATTACHING, EdgeState.CLOSED}),
    EdgeState.CLOSED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class EdgeTiming:
    """Seconds."""

    ask: float = 0.5  # an owner answers in a millisecond; a frozen one never
    retry: float = 0.05  # nobody owns the session yet: a takeover lasts 3-20 ms
    retry_max: float = 1.0
    stranger: float = 4.0  # an app that was never acknowledged gives up after 5 s and wants to know why
    orphan: float = 60.0  # as long as a session waits for its glasses
    renew: float = 10.0  # an idle app's owner may have died unheard
    leave: float = 0.5  # a pong is back in a round trip; then the app is asked to come back without it


@dataclass(frozen=True, slots=True)
class AskOwner:
    """Ask whoever owns the session -> `answered` or `unanswered`."""

    attempt: int
    request: bytes
    timeout: float


@dataclass(frozen=True, slots=True)
class SendOwner:
    """To the owner, at most once; the pipe sees to the rest."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ToApp:
    """Write this to the app's socket."""

    piece: Piece


@dataclass(frozen=True, slots=True)
class CloseApp:
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class PingApp:
    """A protocol ping of our own: its pong proves that all before it has left the app's socket."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nobody serves the session: say so and close. `code` and words as the owner gave them, else None."""

    code: str | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Gone:
    """This many frames were lost for good: counted."""

    count: int


EdgeEffect: TypeAlias = AskOwner | SendOwner | ToApp | CloseApp | PingApp | GiveUp | Gone

#: Streams of frames whose last number is remembered: one of the session and one of each edge process that fed it.
STREAMS_MAX: Final = 8
#: What an owner that lost its memory is told anew: the newest of each. A display per view, the list, dashboard lines.
RESTATED_MAX: Final = 8


class AppEdge:
    """One app socket. `new_attachment` makes numbers below 2^63 that were never used before."""

    def __init__(
        self,
        socket_id: str,
        package: str,
        *,
        new_attachment: Callable[[], int],
        random: Callable[[], float],
        timing: EdgeTiming | None = None,
        limits: PipeLimits | None = None,
        acknowledged: bool = False,
        seen: Mapping[str, tuple[int, int]] | None = None,
        said: Iterable[bytes] = (),
    ) -> None:
        """`acknowledged`, `seen` (what it was given) and `said` (what its app has last asked for): of a socket that the
        session's owner had itself until now."""
        self.socket_id = socket_id
        self.package = package
        self.timing = timing or EdgeTiming()
        self.state = EdgeState.NEW
        self.epoch = 0  # of the newest owner that was heard of
        self.owner: str | None = None  # its node, while attached
        self.is_acknowledged = acknowledged
        self.duplicates = 0
        self._new_attachment = new_attachment
        self._random = random
        self._pipe = Pipe(new_attachment(), limits)
        self._seen: OrderedDict[str, tuple[int, int]] = OrderedDict(seen or {})
        self._restated: OrderedDict[str, bytes] = OrderedDict()
        for frame in said:
            self._remember(frame)
        self._attempt = 0
        self._asking = False
        self._tries = 0
        self._ask_at: float | None = None
        self._give_up_at: float | None = None
        self._leave_by: float | None = None  # this node drains: the app gets nothing more from it

    # ------------------------------------------------------------------------------------------------ queries

    @property
    def deadline(self) -> float | None:
        if self.state is EdgeState.CLOSED:
            return None
        times = (self._ask_at, self._give_up_at, self._leave_by, self._pipe.deadline)
        return min((t for t in times if t is not None), default=None)

    @property
    def waiting(self) -> int:
        """Frames of the app that no owner has confirmed."""
        return self._pipe.waiting

    # ------------------------------------------------------------------------------------------------ attaching

    def opened(self, now: float) -> list[EdgeEffect]:
        """The app has proven who it is."""
        self._move(EdgeState.ATTACHING)
        self._give_up_at = now + (self.timing.orphan if self.is_acknowledged else self.timing.stranger)
        return [self._ask(now)]

    def _ask(self, now: float) -> AskOwner:
        self._attempt += 1
        self._asking = True
        self._ask_at = None
        request = {
            "v": 1,
            "op": "attach",
            "socket": self.socket_id,
            "package": self.package,
            "attachment": self._pipe.attachment,
            "since": self._pipe.received,
            "base": self._pipe.acknowledged,
            "epoch": self.epoch,
            "acknowledged": self.is_acknowledged,
        }
        return AskOwner(self._attempt, orjson.dumps(request), self.timing.ask)

    def answered(self, attempt: int, answer: bytes, now: float) -> list[EdgeEffect]:
        """An owner's answer. One that cannot be read is none."""
        if attempt != self._attempt or self.state is EdgeState.CLOSED:
            return []
        try:
            found = load_object(answer)
            epoch = int(found.get("epoch", 0))
        except (ProtocolError, TypeError, ValueError):
            return self.unanswered(attempt, now)
        self._asking = False
        if epoch < self.epoch:
            return self._again(now)  # a stale owner: the newest counts
        self.epoch = epoch
        if found.get("unknown"):
            # Another owner than the one these frames came from; with him we start anew.
            self._pipe.move(self._new_attachment())
            return [self._ask(now)]
        if not found.get("ok"):
            if found.get("again"):
                return self._again(now)
            self._move(EdgeState.CLOSED)
            return [GiveUp(_text(found.get("code")), _text(found.get("message")))]
        if self.state is EdgeState.ATTACHING:
            self._move(EdgeState.ATTACHED)
        self.owner = _text(found.get("node"))
        self._tries, self._give_up_at = 0, None
        self._ask_at = now + self.timing.renew
        up = found.get("up")
        has = up if isinstance(up, int) else self._pipe.acknowledged
        self._pipe.agreed(has)
        out = self._piped(self._pipe.resend(has, now), now)
        if found.get("restate"):
            for frame in list(self._restated.values()):
                out.append(SendOwner(self._pipe.send(Piece(Content.TEXT, frame), now).data))
        return out

    def unanswered(self, attempt: int, now: float) -> list[EdgeEffect]:
        """Nobody listens, or nobody answered in time."""
        if attempt != self._attempt or self.state is EdgeState.CLOSED:
            return []
        self._asking = False
        if self.state is EdgeState.ATTACHED:
            self._detach(now)
        return self._again(now)

    def _again(self, now: float) -> list[EdgeEffect]:
        delay = min(self.timing.retry_max, self.timing.retry * 2.0 ** min(self._tries, 16))
        self._tries += 1
        self._ask_at = now + delay * (0.8 + 0.4 * self._random())
        return []

    def _detach(self, now: float) -> None:
        self._move(EdgeState.ATTACHING)
        self.owner = None
        self._tries = 0
        self._give_up_at = now + (self.timing.orphan if self.is_acknowledged else self.timing.stranger)

    def announced(self, epoch: int, node: str, now: float) -> list[EdgeEffect]:
        """Somebody says that he owns the session now."""
        if self.state not in (EdgeState.ATTACHING, EdgeState.ATTACHED) or epoch < self.epoch:
            return []
        same = self.state is EdgeState.ATTACHED and node == self.owner
        self.epoch = epoch
        if same:
            return []
        if self.state is EdgeState.ATTACHED:
            self._detach(now)
        # The old attachment is with the old owner; the new one does not know it.
        self._pipe.move(self._new_attachment())
        return [self._ask(now)]

    def gap(self, now: float) -> list[EdgeEffect]:
        """The bus may have lost something, in either direction, or the news of another owner."""
        if self.state not in (EdgeState.ATTACHING, EdgeState.ATTACHED):
            return []
        return [self._ask(now)]

    # ------------------------------------------------------------------------------------------------ frames

    def from_owner(self, data: bytes, now: float) -> list[EdgeEffect]:
        """Bytes of the pipe. Raises ValueError for what is none."""
        if self.state is EdgeState.CLOSED:
            return []
        return self._piped(self._pipe.take(data, now), now)

    def from_app(self, content: Content, payload: bytes, now: float) -> list[EdgeEffect]:
        """The app says something; it is kept until an owner has it."""
        if self.state is EdgeState.CLOSED:
            return []
        delivery = Delivery.LOSSY if content is Content.BINARY else Delivery.RELIABLE
        if content is Content.PONG and payload == _LEAVING:
            return self._left(now, proved=True)
        if content is Content.TEXT:
            self._remember(payload)
        return [SendOwner(self._pipe.send(Piece(content, payload, delivery), now).data)]

    def leave(self, now: float) -> list[EdgeEffect]:
        """This node drains: see that what the app was given is known to have arrived, then send it elsewhere. So the next
        node does not say it again."""
        if self.state is EdgeState.CLOSED or self._leave_by is not None:
            return []
        self._leave_by = now + self.timing.leave
        return [PingApp(_LEAVING)]

    def _left(self, now: float, *, proved: bool) -> list[EdgeEffect]:
        if self._leave_by is None:
            return []
        self._leave_by = None
        out: list[EdgeEffect] = []
        if proved:
            seen = orjson.dumps(dict(self._seen))
            out.append(SendOwner(self._pipe.send(Piece(Content.LEFT, seen), now).data))
        out += self.app_closed(CloseCode.SERVICE_RESTART, "Server restarting", now)
        return [*out, CloseApp(CloseCode.SERVICE_RESTART, "Server restarting")]

    def app_closed(self, code: int, reason: str, now: float) -> list[EdgeEffect]:
        """The app's socket is gone."""
        if self.state is EdgeState.CLOSED:
            return []
        last = self._pipe.send(Piece(Content.CLOSE, code.to_bytes(2) + reason.encode()[:120]), now)
        self._move(EdgeState.CLOSED)
        return [SendOwner(last.data)]

    def _remember(self, payload: bytes) -> None:
        if not any(name in payload for name in _RESTATED):
            return
        try:
            message = load_object(payload)
        except ProtocolError:
            return
        match message.get("type"):
            case "subscription_update":
                key = "subscriptions"
            case "display_event":
                key = f"display:{message.get('view')}"
            case "dashboard_content_update":
                key = f"dashboard:{message.get('modes')}"
            case _:
                return
        self._restated.pop(key, None)
        self._restated[key] = payload
        while len(self._restated) > RESTATED_MAX:
            self._restated.popitem(last=False)

    def _piped(self, effects: list[PipeEffect], now: float) -> list[EdgeEffect]:
        out: list[EdgeEffect] = []
        for effect in effects:
            match effect:
                case Write(data):
                    out.append(SendOwner(data))
                case Deliver(piece):
                    out += self._deliver(piece)
                case Lost(count):
                    out.append(Gone(count))
                case Missing():
                    if not self._asking:
                        out.append(self._ask(now))
        return out

    def _deliver(self, piece: Piece) -> list[EdgeEffect]:
        if piece.content is Content.CLOSE:
            self._move(EdgeState.CLOSED)
            return [CloseApp(*closing(piece.payload))]
        if self._leave_by is not None:
            return []  # what it is not given now, another node gives it
        if piece.ident is not None and self._is_known(piece.ident):
            self.duplicates += 1
            return []
        if piece.payload.startswith(_ACK):
            if self.is_acknowledged:
                return []  # an SDK that is acknowledged twice sends its greeting twice
            self.is_acknowledged = True
        return [ToApp(piece)]

    def _is_known(self, ident: Ident) -> bool:
        stream, number, place = ident
        last = self._seen.get(stream)
        if last is not None and (number, place) <= last:
            return True
        self._seen[stream] = (number, place)
        self._seen.move_to_end(stream)
        while len(self._seen) > STREAMS_MAX:
            self._seen.popitem(last=False)
        return False

    # ------------------------------------------------------------------------------------------------ time

    def handle_deadline(self, now: float) -> list[EdgeEffect]:
        """Do what is due; early calls do nothing."""
        if self.state is EdgeState.CLOSED:
            return []
        if self._give_up_at is not None and now >= self._give_up_at:
            self._move(EdgeState.CLOSED)
            return [GiveUp(None, None)]
        if self._leave_by is not None and now >= self._leave_by:
            return self._left(now, proved=False)
        out = self._piped(self._pipe.handle_deadline(now), now)
        if self._ask_at is not None and now >= self._ask_at:
            out.append(self._ask(now))
        return out

    def _move(self, to: EdgeState) -> None:
        if to not in TRANSITIONS[self.state]:
            raise InvalidTransition(f"AppEdge({self.package})", self.state, to)
        self.state = to


_LEAVING: Final = b"leaving"
_ACK: Final = b'{"type":"tpa_connection_ack"'
_RESTATED: Final = (b'"subscription_update"', b'"display_event"', b'"dashboard_content_update"')


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
