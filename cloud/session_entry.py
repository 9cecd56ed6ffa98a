"""What this process keeps for one session: the session itself and all that must end with it.

Rules: data and its own end; no decisions. The hub alone feeds a session; whoever else has something for it is given a
`Feed`.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from cloud.audio_uplink import AudioUplink
from cloud.core import effects as fx
from cloud.core.exchange import Exchanges
from cloud.core.session import Session
from cloud.http.ports import AppOutcome
from wire.errors import ErrorCode

if TYPE_CHECKING:
    from cloud.cluster.seat import Seat

#: Chunks of an app's own audio that wait for the phone to fetch them: half a minute of MP3 in 4 kB pieces.
AUDIO_CHUNKS_MAX: Final = 256
#: The lane of a session's picture that shows its glasses; the others are named as their apps.
GLASSES: Final = "glasses"


class SpeechFeed(Protocol):
    """Recognition for one session: which languages, and the audio to recognise.

    `waited`: while a final result is handed over, seconds from the end of its words until the provider had it.
    """

    waited: float | None

    def need(self, languages: frozenset[tuple[str, str | None]]) -> None: ...
    def feed(self, pcm: bytes) -> None: ...
    async def close(self) -> None: ...


#: (user id, on result, on voice) -> the feed of that session; `None` results never come.
SpeechFactory = Callable[[str, Callable[[Mapping[str, Any]], None], Callable[[bool], None]], SpeechFeed]


@dataclass(slots=True, eq=False)
class AudioStream:
    """Audio of an app on its way to the phone."""

    package: str
    content_type: str
    taken: bool = False
    dropped: int = 0
    #: One more than the chunks, so that the end (None) always finds room.
    chunks: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(AUDIO_CHUNKS_MAX + 1))

    def end(self) -> None:
        if not self.chunks.full():
            self.chunks.put_nowait(None)


@dataclass(slots=True, eq=False)
class SessionEntry:
    """A session and what the shell keeps for it."""

    session: Session
    seat: Seat | None = None  # in a cluster: by what right this node serves the session
    timer: asyncio.TimerHandle | None = None
    timer_at: float = 0.0  # uvloop's handle of a timer that is due already cannot say when
    audio: AudioUplink = field(default_factory=AudioUplink)
    speech: SpeechFeed | None = None
    #: The typed sentence that is not complete: its id, when it began (ms).
    typing: tuple[str, int] | None = None
    remote: str | None = None
    token_id: str | None = None
    #: Its place among those whose lossy frames are dropped under overload; even over all sessions.
    slot: float = field(default_factory=random.random)
    posts: dict[tuple[str, int], asyncio.Task[None]] = field(default_factory=dict)
    saves: set[asyncio.Task[None]] = field(default_factory=set)
    starts: dict[str, list[asyncio.Future[AppOutcome]]] = field(default_factory=dict)
    stops: dict[str, list[asyncio.Future[AppOutcome]]] = field(default_factory=dict)
    started_at: dict[str, float] = field(default_factory=dict)
    connected_at: dict[str, float] = field(default_factory=dict)  # wall clock, for presence
    streams: dict[str, AudioStream] = field(default_factory=dict)
    exchanges: Exchanges = field(default_factory=Exchanges)
    #: Package -> the last round trip to its socket, seconds: the two ways are at most that.
    round_trips: dict[str, float] = field(default_factory=dict)
    #: Lane -> its last states with their times; lanes in the order of their last change. Lists, because most are short
    #: and an empty deque takes 760 bytes.
    lanes: OrderedDict[str, list[dict[str, Any]]] = field(default_factory=OrderedDict)
    registered: bool = True

    def let_go(self) -> SpeechFeed | None:
        """The session is over: its timer, its callers, its streams and its webhooks end. What remains to be closed."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        gone = AppOutcome(ErrorCode.NO_ACTIVE_SESSION, "the session has ended")
        for waiters in (*self.starts.values(), *self.stops.values()):
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(gone)
        self.starts.clear()
        self.stops.clear()
        for stream in self.streams.values():
            stream.end()
        self.streams.clear()
        for post in self.posts.values():
            post.cancel()
        self.posts.clear()
        speech, self.speech = self.speech, None
        return speech


class Feed(Protocol):
    """Give one input to a session and perform all its effects (`cloud.hub.Hub.feed`). Never raises, never blocks."""

    def __call__(
        self, entry: SessionEntry, method: Callable[..., list[fx.Effect]], /, *args: Any
    ) -> None: ...


def short(user_id: str) -> str:
    """A user in logs: recognisable within a log, not a name (SEC-03)."""
    return hashlib.sha256(user_id.encode()).hexdigest()[:8]
