"""Who serves a session: the node that holds the newest glasses socket, by one compare-and-swap on one record.

Rules: one machine per session and node. Ownership does not expire: no decision rests on how old a record is. It is written
anew once a day all the same, because the engine reaps records that nobody has touched for a month. The record's revision is the fence
of every state write, so a superseded node cannot write; its epoch orders owners, and a lower epoch never overwrites a
higher one. An engine that does not answer within `patience` does not keep the wearer waiting: the session is served
provisionally under an epoch of our own and confirmed later. Nothing is saved before the former state is loaded, and
nobody is listened to before that either. A write of unknown outcome is read again before a conclusion is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, TypeAlias

import orjson

from wire.errors import InvalidTransition


class OwnershipState(Enum):
    IDLE = "idle"  # nothing has been asked yet
    CLAIMING = "claiming"  # a glasses socket is here; the record is being read and written
    PROVISIONAL = "provisional"  # served without the engine's word; to be confirmed
    OWNED = "owned"  # the record names this node
    SUPERSEDED = "superseded"  # a newer glasses socket is elsewhere: nothing is served or saved any more
    RELEASED = "released"  # the session ended here


TRANSITIONS: Final[dict[OwnershipState, frozenset[OwnershipState]]] = {
    OwnershipState.IDLE: frozenset({OwnershipState.CLAIMING, OwnershipState.RELEASED}),
    OwnershipState.CLAIMING: frozenset(
        {
            OwnershipState.PROVISIONAL,
            OwnershipState.OWNED,
            OwnershipState.SUPERSEDED,
            OwnershipState.RELEASED,
        }
    ),
    OwnershipState.PROVISIONAL: frozenset(
        {OwnershipState.OWNED, OwnershipState.SUPERSEDED, OwnershipState.RELEASED}
    ),
    OwnershipState.OWNED: frozenset({OwnershipState.SUPERSEDED, OwnershipState.RELEASED}),
    OwnershipState.SUPERSEDED: frozenset(),
    OwnershipState.RELEASED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class OwnershipTiming:
    """Seconds."""

    patience: float = 0.3  # a claim takes 2-5 ms, an election of the engine 4-9 s: nobody waits for that
    handoff: float = (
        0.4  # a frozen former owner answers never; its state is in the record, at most a second old
    )
    read: float = 0.3  # the same patience for the saved state
    read_again: float = (
        0.1  # when the engine has kept silent for `patience` already, its answer is hardly near
    )
    save: float = 1.0  # two saves of one session are this far apart: what may have to be rendered again
    retry: float = (
        0.5  # after Unavailable; doubled up to `retry_max`, so that a returning engine is not hammered
    )
    retry_max: float = 5.0
    remind: float = 1.0  # a stale owner that speaks is told at most this often
    #: The record and the state are written anew this often, a thirtieth of the engine's patience.
    refresh: float = 86_400.0
    refresh_again: float = 3_600.0  # that did not succeed, or nobody knows: an hour, of the 700 that are left


#: Epochs count takeovers of one session. A larger number was not counted, and its successor could not be written.
EPOCH_MAX = 1 << 53


@dataclass(frozen=True, slots=True)
class OwnerRecord:
    """What `own.<sid>` says. `node` is an incarnation: a restarted process is another node."""

    node: str
    epoch: int

    def encode(self) -> bytes:
        return orjson.dumps({"v": 1, "node": self.node, "epoch": self.epoch})

    @classmethod
    def decode(cls, value: bytes) -> OwnerRecord | None:
        """Tolerant: members that we do not know are ignored; what cannot be read is no record."""
        try:
            found = orjson.loads(value)
            record = cls(str(found["node"]), int(found["epoch"]))
            return record if 0 <= record.epoch < EPOCH_MAX else None
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return None

    def beats(self, other: OwnerRecord) -> bool:
        """Whether this is the newer claim. The names settle equal epochs, alike on every node."""
        return (self.epoch, self.node) > (other.epoch, other.node)


# ---------------------------------------------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class ReadOwner:
    """Read the owner record -> `owner_read` or `unavailable`."""

    attempt: int


@dataclass(frozen=True, slots=True)
class WriteOwner:
    """Write it over exactly this revision (0 = create) -> `owner_written`, `conflict` or `unavailable`."""

    attempt: int
    value: bytes
    rev: int


@dataclass(frozen=True, slots=True)
class AskHandoff:
    """Ask the former owner for everything -> `handoff_answered`. `node` None: whoever listens for the session."""

    attempt: int
    node: str | None
    epoch: int


@dataclass(frozen=True, slots=True)
class ReadState:
    """Read the saved state -> `state_read`."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """The session may go on. `source`: handoff (nothing is missing), record (at most `save` old) or none."""

    state: bytes | None
    source: Source


@dataclass(frozen=True, slots=True)
class Listen:
    """From now on this node answers for the session; tell when that is so -> `listening`."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell app edges and older owners who owns now."""

    epoch: int


@dataclass(frozen=True, slots=True)
class SaveState:
    """Write the state, fenced by this revision of the owner record -> `saved`, `fenced` or `unavailable`."""

    attempt: int
    rev: int


@dataclass(frozen=True, slots=True)
class GiveState:
    """Answer the handoff request with everything; `Stop` follows."""

    to: str


@dataclass(frozen=True, slots=True)
class RefuseHandoff:
    """The asker's claim is older than ours."""

    to: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Serve this session no longer. `handed_over`: its new owner has all of it."""

    reason: str
    handed_over: bool


@dataclass(frozen=True, slots=True)
class Forget:
    """The session is over: delete its records, as far as this revision still holds."""

    rev: int


Source: TypeAlias = Literal["handoff", "record", "none"]

Effect: TypeAlias = (
    ReadOwner
    | WriteOwner
    | AskHandoff
    | ReadState
    | Loaded
    | Listen
    | Announce
    | SaveState
    | GiveState
    | RefuseHandoff
    | Stop
    | Forget
)

_SERVING: Final = frozenset({OwnershipState.PROVISIONAL, OwnershipState.OWNED})
_OVER: Final = frozenset({OwnershipState.SUPERSEDED, OwnershipState.RELEASED})


class Ownership:
    """See the module. `node` is this process' incarnation name."""

    def __init__(self, node: str, timing: OwnershipTiming | None = None) -> None:
        self.node = node
        self.timing = timing or OwnershipTiming()
        self.state = OwnershipState.IDLE
        self.epoch = 0
        self.is_loaded = False
        self.is_listening = False
        self.source: Source = "none"
        self._rev: int | None = None  # of the record that names us
        self._attempt = 0  # the question that is out; older answers are ignored
        self._ordered = False  # the epoch came from the glasses themselves: a higher one is a newer socket
        self._former: str | None = None  # whom the record named before us
        self._raced = False  # somebody else wrote between our read and our write
        self._provisional_at: float | None = None
        self._again_at: float | None = None  # when the engine is asked again
        self._waits = 0  # in a row for the engine
        self._load_attempt = 0
        self._load_by: float | None = None
        self._asks_handoff = False
        self._handoff_to: tuple[str, OwnerRecord] | None = None  # asked while we were loading ourselves
        self._dirty = False
        self._save_at: float | None = None
        self._saving = 0  # attempt of the save in flight
        self._saves = 0
        self._saved_at = float("-inf")
        self._refresh_at: float | None = None
        self._reminded_at = float("-inf")

    # ------------------------------------------------------------------------------------------------ queries

    @property
    def claim_record(self) -> OwnerRecord:
        return OwnerRecord(self.node, self.epoch)

    @property
    def is_serving(self) -> bool:
        """Loaded, and not known to be superseded."""
        return self.is_loaded and self.state in _SERVING

    @property
    def is_dirty(self) -> bool:
        """A save is planned already."""
        return self._dirty

    @property
    def deadline(self) -> float | None:
        if self.state in _OVER:
            return None
        times = (self._provisional_at, self._again_at, self._load_by, self._save_at, self._refresh_at)
        return min((t for t in times if t is not None), default=None)

    # ------------------------------------------------------------------------------------------------ the claim

    def claim(self, clock_ms: int, now: float, *, token: int | None = None) -> list[Effect]:
        """A glasses socket is here. `clock_ms`: wall clock; `token`: the last epoch that these glasses know of."""
        if self.state is not OwnershipState.IDLE:
            return []
        self._move(OwnershipState.CLAIMING)
        self._ordered = token is not None
        self.epoch = max(clock_ms, 0 if token is None else token + 1)
        self._provisional_at = now + self.timing.patience
        return [self._read()]

    def verify(self, now: float) -> list[Effect]:
        """Another glasses socket came to a session that is served already: has it been taken over meanwhile?"""
        if self.state is not OwnershipState.OWNED or self._again_at is not None:
            return []
        return [self._read()]

    def owner_read(self, attempt: int, value: bytes | None, rev: int, now: float) -> list[Effect]:
        """The owner record and its revision; None = there is none."""
        if not self._expected(attempt):
            return []
        self._waits, self._again_at = 0, None
        found = None if value is None else OwnerRecord.decode(value)
        mine = self.claim_record
        if found == mine:
            return self._confirmed(rev, now)
        if self.state is OwnershipState.OWNED:
            # Deleted under us, or overwritten: only a newer claim does that; what cannot be read is written again.
            if found is not None:
                return self._superseded("the session has a newer owner")
            return [self._write(rev)]
        if found is not None and found.beats(mine):
            known_older = self._ordered or self._raced or self.state is OwnershipState.PROVISIONAL
            if known_older:
                return self._superseded("a newer glasses connection is elsewhere")
            self.epoch = found.epoch + 1  # a socket without a token: ours came after that claim
        self._former = found.node if found is not None else None
        return [self._write(rev)]

    def owner_written(self, attempt: int, rev: int, now: float) -> list[Effect]:
        """The record names this node."""
        if not self._expected(attempt):
            return []
        self._refresh_at = now + self.timing.refresh
        return self._confirmed(rev, now)

    def conflict(self, attempt: int, now: float) -> list[Effect]:
        """Somebody else wrote meanwhile: look who."""
        if not self._expected(attempt):
            return []
        self._raced = True
        return [self._read()]

    def unavailable(self, attempt: int, now: float) -> list[Effect]:
        """The engine did not answer; a write may or may not have been done, so the record is read again."""
        if attempt == self._saving and attempt:
            self._saving = 0
            self._dirty = True
            self._save_at = now + self._wait()
            return []
        if not self._expected(attempt):
            return []
        self._again_at = now + self._wait()
        return []

    def _expected(self, attempt: int) -> bool:
        return attempt == self._attempt and self.state not in _OVER and self.state is not OwnershipState.IDLE

    def _read(self) -> ReadOwner:
        self._attempt += 1
        return ReadOwner(self._attempt)

    def _write(self, rev: int) -> WriteOwner:
        self._attempt += 1
        return WriteOwner(self._attempt, self.claim_record.encode(), rev)

    def _wait(self) -> float:
        delay = min(self.timing.retry_max, self.timing.retry * 2.0 ** min(self._waits, 16))
        self._waits += 1
        return delay

    def _confirmed(self, rev: int, now: float) -> list[Effect]:
        self._rev, self._waits, self._again_at = rev, 0, None
        was_provisional = self.state is OwnershipState.PROVISIONAL
        if self.state is not OwnershipState.OWNED:
            self._move(OwnershipState.OWNED)
        self._provisional_at = None
        if self._refresh_at is None:  # read, after a write of unknown outcome: written just now, or nearly
            self._refresh_at = now + self.timing.refresh
        if self._load_attempt == 0:
            return self._load(now)
        self._plan_save(now)
        return [Announce(self.epoch)] if was_provisional and self.is_listening else []

    # ------------------------------------------------------------------------------------------------ the state

    def _load(self, now: float) -> list[Effect]:
        """Get what the session was. The former owner has all of it, the record nearly all."""
        self._load_attempt = 1
        if self.state is OwnershipState.PROVISIONAL:
            return [self._ask_handoff(None, now)]
        if self._former is not None and self._former != self.node:
            return [self._ask_handoff(self._former, now)]
        if self._former is None:
            return self._loaded(None, "none", now)
        return [self._read_state(now)]

    def _ask_handoff(self, node: str | None, now: float) -> AskHandoff:
        self._asks_handoff = True
        self._load_by = now + self.timing.handoff
        return AskHandoff(self._load_attempt, node, self.epoch)

    def _read_state(self, now: float) -> ReadState:
        self._asks_handoff = False
        self._load_attempt += 1
        hopeless = self.state is OwnershipState.PROVISIONAL
        self._load_by = now + (self.timing.read_again if hopeless else self.timing.read)
        return ReadState(self._load_attempt)

    def handoff_answered(self, attempt: int, state: bytes | None, now: float) -> list[Effect]:
        """What the former owner gave; None: it is gone, frozen, or has nothing."""
        if attempt != self._load_attempt or self.is_loaded or self.state in _OVER:
            return []
        if state is not None:
            return self._loaded(state, "handoff", now)
        return [self._read_state(now)]

    def state_read(self, attempt: int, state: bytes | None, now: float) -> list[Effect]:
        """The saved state; None: there is none, or it cannot be had."""
        if attempt != self._load_attempt or self.is_loaded or self.state in _OVER:
            return []
        return self._loaded(state, "record" if state is not None else "none", now)

    def _loaded(self, state: bytes | None, source: Source, now: float) -> list[Effect]:
        self.is_loaded, self.source, self._load_by = True, source, None
        self._load_attempt += 1  # whatever still comes is too late
        self._plan_save(now)
        out: list[Effect] = [Loaded(state, source), Listen()]
        if self._handoff_to is not None:
            to, asked = self._handoff_to
            self._handoff_to = None
            out += self._give(to, asked)
        return out

    def listening(self, now: float) -> list[Effect]:
        """Whoever asks for the session now reaches this node."""
        if self.state in _OVER:
            return []
        self.is_listening = True
        return [Announce(self.epoch)]

    # ------------------------------------------------------------------------------------------------ others

    def heard(self, record: OwnerRecord, now: float) -> list[Effect]:
        """Somebody says that he owns the session, under this epoch."""
        if self.state in _OVER or self.state is OwnershipState.IDLE or record.node == self.node:
            return []
        if record.beats(self.claim_record):
            if self.state is OwnershipState.CLAIMING and not self._ordered:
                return []  # a claim before ours; the record will tell
            return self._superseded("the session has a newer owner")
        if not self.is_listening or now - self._reminded_at < self.timing.remind:
            return []
        self._reminded_at = now
        return [Announce(self.epoch)]

    def gap(self, now: float) -> list[Effect]:
        """Messages may have been lost: say again who owns, and look whether that is still so."""
        if not self.is_listening or self.state not in _SERVING:
            return []
        return [Announce(self.epoch), *self.verify(now)]

    def handoff_asked(self, to: str, record: OwnerRecord, now: float) -> list[Effect]:
        """A node with a newer glasses socket wants everything. `to` names the question for the answer."""
        if self.state in _OVER:
            return [RefuseHandoff(to, self.epoch)]
        if self.state is OwnershipState.IDLE or not record.beats(self.claim_record):
            return [RefuseHandoff(to, self.epoch)]
        if not self.is_loaded:
            # What the former owner is about to give us belongs to the asker. He waits 0.4 s at most, we no longer.
            self._handoff_to = (to, record)
            return []
        return self._give(to, record)

    def _give(self, to: str, record: OwnerRecord) -> list[Effect]:
        return [GiveState(to), *self._superseded("handed over", handed_over=True)]

    def _superseded(self, reason: str, *, handed_over: bool = False) -> list[Effect]:
        self._move(OwnershipState.SUPERSEDED)
        self._clear()
        return [Stop(reason, handed_over)]

    # ------------------------------------------------------------------------------------------------ saving

    def dirty(self, now: float) -> None:
        """Something worth keeping has changed."""
        if self._dirty or self.state in _OVER:
            return
        self._dirty = True
        self._plan_save(now)

    def _plan_save(self, now: float) -> None:
        """Never before the state is loaded: an empty one would overwrite the old."""
        if (
            self._dirty
            and self.is_loaded
            and self.state is OwnershipState.OWNED
            and not self._saving
            and self._save_at is None
        ):
            self._save_at = max(now, self._saved_at + self.timing.save)

    def final_save(self) -> SaveState | None:
        """The save of a node that is about to go, dirty or not; None if the record is not ours to write."""
        if self._rev is None or not self.is_loaded or self.state is not OwnershipState.OWNED:
            return None
        self._saves += 1
        self._saving = -self._saves
        return SaveState(self._saving, self._rev)

    def saved(self, attempt: int, now: float) -> list[Effect]:
        """The state is in the record."""
        if attempt != self._saving:
            return []
        self._saving = self._waits = 0
        self._saved_at = now
        self._plan_save(now)
        return []

    def fenced(self, attempt: int, now: float) -> list[Effect]:
        """The fence had moved: superseded, unless it was our own write of unknown outcome that moved it."""
        if attempt != self._saving:
            return []
        self._saving = 0
        self._dirty = True
        return [self._read()] if self.state is OwnershipState.OWNED else []

    def end(self, now: float) -> list[Effect]:
        """The session is over here."""
        if self.state in _OVER:
            return []
        rev = self._rev if self.state is OwnershipState.OWNED else None
        self._move(OwnershipState.RELEASED)
        self._clear()
        return [] if rev is None else [Forget(rev)]

    # ------------------------------------------------------------------------------------------------ time

    def handle_deadline(self, now: float) -> list[Effect]:
        """Do what is due; early calls do nothing."""
        out: list[Effect] = []
        if self.state in _OVER:
            return out
        if self._provisional_at is not None and now >= self._provisional_at:
            self._provisional_at = None
            self._move(OwnershipState.PROVISIONAL)
            out += self._load(now)
        if self._again_at is not None and now >= self._again_at:
            self._again_at = None
            out.append(self._read())
        if self._load_by is not None and now >= self._load_by:
            self._load_by = None
            if self._asks_handoff:
                out.append(self._read_state(now))
            else:
                out += self._loaded(None, "none", now)
        if self._save_at is not None and now >= self._save_at and self.state is OwnershipState.OWNED:
            self._save_at = None
            if self._rev is not None and not self._saving:
                self._dirty = False
                self._saves += 1
                self._saving = -self._saves  # never equal to the attempt of a claim
                out.append(SaveState(self._saving, self._rev))
        if self._refresh_at is not None and now >= self._refresh_at:
            self._refresh_at = now + self.timing.refresh_again
            out += self._refresh()
        return out

    def _refresh(self) -> list[Effect]:
        """Write the record over itself, and then the state. Whoever took the session meanwhile makes this a conflict."""
        if self._rev is None or self._again_at is not None or self.state is not OwnershipState.OWNED:
            return []
        self._dirty = True  # saved under the new revision once it is known
        return [self._write(self._rev)]

    # ------------------------------------------------------------------------------------------------ inside

    def _clear(self) -> None:
        self._provisional_at = self._again_at = self._load_by = self._save_at = self._refresh_at = None
        self._dirty, self._saving = False, 0

    def _move(self, to: OwnershipState) -> None:
        if to not in TRANSITIONS[self.state]:
            raise InvalidTransition("Ownership", self.state, to)
        self.state = to
