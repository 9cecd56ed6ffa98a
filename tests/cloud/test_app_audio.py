"""Audio of an app on its way to the phone: in order, bounded, fetched once."""

from __future__ import annotations

from pathlib import Path

from cloud.app_audio import AUDIO_STREAMS_MAX
from cloud.core.effects import AudioStreamOpened
from cloud.server import Cloud
from cloud.session_entry import AUDIO_CHUNKS_MAX
from tests.support.app_server import FakeApp
from tests.support.cloud import USER, phone, register
from tests.support.hot_path import USER as USER_OF_PATH
from tests.support.hot_path import hot_path
from tests.support.waiting import until


async def test_an_app_s_own_audio_reaches_the_phone_in_order_and_ends(cloud: Cloud) -> None:
    stream_id = "0123456789abcdef0123456789abcdef-abc"
    assert len(stream_id) == 36
    async with FakeApp("a", "k") as app, phone(cloud) as glasses:
        await register(cloud, app)
        await glasses.start_app("a")
        session = await app.started(USER)
        await session.send(
            "audio_stream_start", packageName="a", streamId=stream_id, contentType="audio/mpeg"
        )
        await until(lambda: session.of("audio_stream_ready"), "ready")
        assert session.socket is not None
        for number in range(5):
            await session.socket.send(stream_id.encode() + b"chunk%d" % number)
        await session.send("audio_stream_end", packageName="a", streamId=stream_id)
        await session.send("ping")
        await until(lambda: session.of("pong"), "all of it is in")
        chunks = cloud.hub.audio_stream(USER, stream_id)
        assert chunks is not None
        assert cloud.hub.audio_stream(USER, stream_id) is None
        assert [chunk async for chunk in chunks] == [b"chunk%d" % n for n in range(5)]


async def test_of_too_many_streams_the_oldest_ends_though_nobody_has_fetched_it(tmp_path: Path) -> None:
    async with hot_path(tmp_path, apps=1) as path:
        hub = path.hub
        entry = hub._sessions[USER_OF_PATH]
        for number in range(AUDIO_STREAMS_MAX + 3):
            hub._audio.opened(entry, AudioStreamOpened("com.bench.a0", 1, f"stream-{number}", "audio/mpeg"))
        assert list(entry.streams) == [f"stream-{n}" for n in range(3, AUDIO_STREAMS_MAX + 3)]
        assert hub.audio_stream(USER_OF_PATH, "stream-0") is None
        hub._audio.left(entry, "com.bench.a0")
        chunks = hub.audio_stream(USER_OF_PATH, "stream-3")
        assert chunks is not None
        assert [chunk async for chunk in chunks] == [], "its app is gone"


async def test_a_stream_that_nobody_reads_drops_the_newest_and_counts_it(tmp_path: Path) -> None:
    stream = "0123456789abcdef0123456789abcdef-abc"
    async with hot_path(tmp_path, apps=1) as path:
        hub = path.hub
        entry = hub._sessions[USER_OF_PATH]
        hub._audio.opened(entry, AudioStreamOpened("com.bench.a0", 1, stream, "audio/mpeg"))
        for _ in range(AUDIO_CHUNKS_MAX + 2):
            hub.app_binary(entry, "com.bench.a0", stream.encode() + b"x")
        hub.app_binary(entry, "com.bench.other", stream.encode() + b"x")
        hub.app_binary(entry, "com.bench.a0", b"too short")
        assert entry.streams[stream].dropped == 2
        hub._audio.ended(entry, "com.bench.a0", stream)
        chunks = hub.audio_stream(USER_OF_PATH, stream)
        assert chunks is not None
        assert len([chunk async for chunk in chunks]) == AUDIO_CHUNKS_MAX, "and then its end"
