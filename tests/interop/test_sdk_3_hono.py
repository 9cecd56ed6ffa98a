"""Unmodified SDK 3.0.0-hono.8 apps against the real cloud: the same rows, then what is new (Appendix A)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.interop.rows import Rows
from tests.interop.world import LIVE, World
from tests.support.waiting import SLOW

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    world = World("3.0.0-hono.8", Path(tmp_path_factory.mktemp("cloud3")))
    await world.open()
    yield world
    await world.close()


class TestRow25(Rows):
    """Row 25: the same rows with the newer SDK."""


class TestNew:
    """Appendix A.1 and A.2."""

    async def test_an_output_stream_is_relayed_to_the_phone(self, world: World) -> None:
        async with world.live("", "C") as live:
            opening = asyncio.create_task(
                live.run(
                    """state.out = await session.audio.createOutputStream({format: 'mp3'});
                       return {id: state.out.streamId, url: state.out.streamUrl}"""
                )
            )
            request = await live.phone.next("audio_play_request")
            stream = await opening
            assert request["audioUrl"] == stream["url"]
            assert request["requestId"] == f"stream_{stream['id']}"
            heard = bytearray()

            async def play() -> None:
                async with live.phone.http.stream("GET", request["audioUrl"]) as reply:
                    assert reply.status_code == 200
                    assert reply.headers["content-type"] == "audio/mpeg"
                    async for piece in reply.aiter_bytes():
                        heard.extend(piece)

            playing = asyncio.create_task(play())
            await asyncio.sleep(0.2)
            await live.run(
                "state.out.write(Buffer.from('MP3-ONE-')); state.out.write(Buffer.from('MP3-TWO'))"
            )
            await live.run("await state.out.end()")
            await asyncio.wait_for(playing, 10 * SLOW)
            assert bytes(heard) == b"MP3-ONE-MP3-TWO"

    async def test_a_refused_photo_rejects_over_either_way(self, world: World) -> None:
        code = "session.camera.requestPhoto({sound: false}).then(r => emit('photo', r), e => emit('no photo', String(e?.message ?? e)))"
        async with world.live(code, "B", model=LIVE) as live:
            request = await live.phone.next("photo_request")
            assert request["sound"] is False
            await live.phone.send(
                "photo_response",
                requestId=request["requestId"],
                success=False,
                error={"code": "CAMERA_BUSY", "message": "busy"},
            )
            assert "CAMERA_BUSY" in (await live.event("no photo")).data
            assert not live.seen("photo")

    async def test_its_ping_is_answered_and_costs_nothing(self, world: World) -> None:
        async with world.live() as live:
            pings = "const told = []; session.ws.on('message', d => { const t = String(d); if (t.includes('\"pong\"')) told.push(t) }); session.ws.send('{\"type\":\"ping\"}'); await new Promise(r => setTimeout(r, 500)); return told.length"
            assert await live.run(pings) == 1
            assert not live.seen("error")


class TestLast:
    """What must hold over all of the above."""

    async def test_the_sdk_never_met_a_message_it_does_not_know(self, world: World) -> None:
        assert [r.data for r in world.app.seen("error") if "nrecognized" in str(r.data)] == []
