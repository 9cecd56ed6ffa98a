"""One wearer, two apps of two SDK generations: each is told under its own words, and one screen is shared by rule."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from cloud.auth import hash_api_key
from cloud.store.records import AppType
from tests.interop.driver import SdkApp
from tests.interop.rows import tone
from tests.interop.world import PACKAGE, Live, World, stays
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHER = "com.example.second"


@dataclass
class Pair:
    """The probe of every interop test (SDK 2, foreground) and another app (SDK 3)."""

    world: World
    other: SdkApp

    async def register(self, kind: AppType) -> None:
        await self.world.cloud.store.put_app(
            dataclasses.replace(
                self.world.record, package_name=OTHER, name="Second", public_url=self.other.url,
                hashed_api_key=hash_api_key(self.other.api_key), app_type=kind,
            )
        )  # fmt: skip

    async def start_other(self, live: Live) -> str:
        """Start the other app for the same wearer; its session id."""
        sid, since = f"{live.user}-{OTHER}", self.other.mark()
        await live.phone.start_app(OTHER)
        await self.other.event("onSession:done", session=sid, since=since, within=8)
        return sid


def heard(app: SdkApp, session: str) -> bytes:
    """All audio that one session was given."""
    return b"".join(base64.b64decode(r.data["arrayBuffer"]["bytes"]) for r in app.seen("audio", 0, session))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    world = World("2.1.29", Path(tmp_path_factory.mktemp("cloud")))
    await world.open()
    other = SdkApp("3.0.0-hono.8", OTHER, "second-api-key-0123456789")
    await other.start()
    yield Pair(world, other)
    await other.close()
    await world.close()


async def test_both_hear_everything_each_by_its_own_subscription(pair: Pair) -> None:
    await pair.register(AppType.BACKGROUND)
    code = "session.events.onTranscription(d => emit('text', d)); session.events.onAudioChunk(d => emit('audio', d))"
    async with pair.world.live(code) as live:
        sid = await pair.start_other(live)
        await pair.other.run(
            """session.events.onTranscriptionForLanguage('en-US', d => emit('text', d), {hints: ['fr-FR']});
               session.events.onAudioChunk(d => emit('audio', d))""",
            sid,
        )
        await until(
            lambda: any(
                "hints=" in str(m["userSession"]["appSubscriptions"].get(OTHER))
                for m in live.phone.of("app_state_change")
            ),
            "the other's subscription",
        )
        pair.world.cloud.hub.say(live.user, "to both", "en-US")
        await live.event("text", where=lambda d: d["text"] == "to both" and d["isFinal"])
        await pair.other.event("text", session=sid, where=lambda d: d["text"] == "to both" and d["isFinal"])
        await live.phone.say(tone(0.2))
        for app, session in ((live.app, live.sid), (pair.other, sid)):
            await until(lambda a=app, s=session: heard(a, s) == tone(0.2), "the same audio at both")  # type: ignore[misc]
        # The microphone stays on while one of them needs it.
        since = live.phone.mark()
        await live.phone.stop_app(PACKAGE)
        await stays(
            lambda: all(m["isMicrophoneEnabled"] for m in live.phone.of("microphone_state_change", since)),
            "on",
            3.5,
        )
        await live.phone.stop_app(OTHER)
        await live.phone.next(
            "microphone_state_change", since=since, where=lambda m: not m["isMicrophoneEnabled"]
        )


@pytest.mark.failure("DSP-11")
@pytest.mark.failure("DSP-05")
async def test_a_background_app_borrows_the_screen_and_gives_it_back(pair: Pair) -> None:
    await pair.register(AppType.BACKGROUND)
    async with pair.world.live() as live:
        sid = await pair.start_other(live)
        await live.run("session.layouts.showTextWall('foreground')")
        await live.phone.shows("foreground")
        since = live.phone.mark()
        await pair.other.run("session.layouts.showTextWall('pop-up', {durationMs: 1500})", sid)
        await live.phone.shows("pop-up", since=since)
        await live.run("session.layouts.showTextWall('foreground again')")
        await live.phone.shows("foreground again", since=since, within=12)
        since = live.phone.mark()
        await live.phone.stop_app(OTHER)
        await pair.other.event("onStop", session=sid)
        await stays(lambda: "pop-up" not in str(live.phone.displays(since)), "no ghost", 1.0)


@pytest.mark.failure("APP-16")
async def test_a_second_foreground_app_takes_the_place_of_the_first(pair: Pair) -> None:
    await pair.register(AppType.STANDARD)
    async with pair.world.live() as live:
        await live.run("session.layouts.showTextWall('first')")
        await live.phone.shows("first")
        sid = await pair.start_other(live)
        await live.event("onStop")
        await until(lambda: live.phone.running() == [OTHER], "only the second")
        since = live.phone.mark()
        await pair.other.run("session.layouts.showTextWall('second')", sid)
        await live.phone.shows("second", since=since)
        assert "first" not in str(live.phone.displays(since))
        await live.phone.stop_app(OTHER)
        await stays(lambda: PACKAGE not in live.phone.running(), "the first stays stopped", 1.5)
