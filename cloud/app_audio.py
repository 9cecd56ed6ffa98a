"""Audio that an app streams to the phone: the app's frames queue here until the phone fetches them (SDK 3, wire spec A.2).

Rules: bounded per stream and per session; a full queue drops the newest and counts it; a stream is fetched once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from cloud.core import effects as fx
from cloud.metrics import Metrics
from cloud.session_entry import AUDIO_CHUNKS_MAX, AudioStream, Feed, SessionEntry
from wire.messages.cloud_to_app import AudioStreamReady

#: Streams of one session: one per app that speaks, and some that nobody has fetched yet.
AUDIO_STREAMS_MAX: Final = 8
#: A frame begins with the id of its stream.
STREAM_ID_BYTES: Final = 36


class AppAudio:
    """`address`: where the phone of this user finds his session's node."""

    def __init__(self, *, feed: Feed, address: Callable[[str], str], metrics: Metrics) -> None:
        self._feed = feed
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._dropped = metrics.counter("dropped_total").labels(reason="audio_stream")

    def opened(self, entry: SessionEntry, opened: fx.AudioStreamOpened) -> None:
        """An app begins a stream, and is told where the phone will find it; of too many, the oldest ends."""
        while len(entry.streams) >= AUDIO_STREAMS_MAX:
            oldest, stream = next(iter(entry.streams.items()))
            stream.end()
            del entry.streams[oldest]
        entry.streams[opened.stream_id] = AudioStream(opened.package, opened.content_type)
        user_id = entry.session.user_id
        url = f"{self._address(user_id)}/api/audio/stream/{user_id}/{opened.stream_id}"
        ready = AudioStreamReady(stream_id=opened.stream_id, stream_url=url)
        # In the next turn: never a session from inside itself.
        self._loop.call_soon(self._feed, entry, entry.session.deliver, opened.package, ready)

    def ended(self, entry: SessionEntry, package: str, stream_id: str) -> None:
        """An app ends a stream. One that nobody has fetched yet stays until it is."""
        stream = entry.streams.get(stream_id)
        if stream is not None and stream.package == package:
            stream.end()
            if stream.taken:
                del entry.streams[stream_id]

    def left(self, entry: SessionEntry, package: str) -> None:
        """An app is gone: its streams end."""
        for stream_id in [s for s, stream in entry.streams.items() if stream.package == package]:
            self.ended(entry, package, stream_id)

    def put(self, entry: SessionEntry, package: str, data: bytes) -> None:
        """A binary frame of an app. What is no audio of a stream of its own is ignored."""
        if len(data) <= STREAM_ID_BYTES:
            return
        stream = entry.streams.get(data[:STREAM_ID_BYTES].decode("ascii", "replace"))
        if stream is None or stream.package != package:
            return
        if stream.chunks.qsize() >= AUDIO_CHUNKS_MAX:
            stream.dropped += 1
            self._dropped.inc()
            return
        stream.chunks.put_nowait(data[STREAM_ID_BYTES:])

    def take(self, entry: SessionEntry, stream_id: str) -> AsyncIterator[bytes] | None:
        """The chunks of a stream, to its end; None if there is none, or if somebody else has it."""
        stream = entry.streams.get(stream_id)
        if stream is None or stream.taken:
            return None
        stream.taken = True
        return self._chunks(entry, stream_id, stream)

    async def _chunks(self, entry: SessionEntry, stream_id: str, stream: AudioStream) -> AsyncIterator[bytes]:
        try:
            while (chunk := await stream.chunks.get()) is not None:
                yield chunk
        finally:
            if entry.streams.get(stream_id) is stream:
                del entry.streams[stream_id]
