"""The whole chain: an unmodified SDK app, the cloud, the edge and simulated glasses, as `glassbridge dev` runs them.

Rules: everything between the app and the lens is a process of its own, joined by real sockets and BLE packets; the test
touches only the two ends.
"""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.interop.driver import SdkApp, install_sdk
from tests.interop.rows import rms
from tests.interop.world import API_KEY, PACKAGE
from tests.support.waiting import SLOW, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

HANDLERS = """
    session.events.onButtonPress(d => emit('button', d));
    session.events.onHeadPosition(d => emit('head', d));
    session.events.onAudioChunk(d => emit('audio', d));
"""


@dataclass
class Chain:
    """The two ends."""

    app: SdkApp
    ready: dict[str, Any]
    http: httpx.AsyncClient

    @property
    def sid(self) -> str:
        return f"{self.ready['user']}-{PACKAGE}"

    async def texts(self) -> dict[str, str]:
        """What each lens shows now."""
        state = (await self.http.get(f"{self.ready['simulator']}/api/sim/state")).json()
        return {name: arm["lens"]["text"] for name, arm in state["devices"][0]["arms"].items()}

    async def wear(self, **action: Any) -> None:
        """Something that the wearer does."""
        reply = await self.http.post(f"{self.ready['simulator']}/api/sim/input", json=action)
        assert reply.status_code == 200, reply.text


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chain]:
    install_sdk()
    app = SdkApp("2.1.29", PACKAGE, API_KEY)
    await app.start(hook=HANDLERS)
    errors = Path(tmp_path_factory.mktemp("dev")) / "stderr"
    with errors.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "glassbridge", "dev", "--json", "--port", "0", "--no-clock", "--app", app.url,
            stdout=asyncio.subprocess.PIPE, stderr=stderr,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        first = await asyncio.wait_for(process.stdout.readline(), 30 * SLOW)
        assert first, errors.read_text()
        async with httpx.AsyncClient(timeout=10 * SLOW) as client:
            yield Chain(app, json.loads(first), client)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.communicate(), 15 * SLOW)
        await app.close()


async def test_an_sdk_app_writes_on_both_lenses_hears_and_feels_the_wearer(chain: Chain) -> None:
    app = chain.app
    await app.event("onSession:done", session=chain.sid, within=20)

    await app.run("session.layouts.showTextWall('Hello from the SDK')", chain.sid)

    async def lit() -> Any:
        return {"Hello from the SDK"} == {text.strip() for text in (await chain.texts()).values()}

    await until(lit, "the text on both lenses", 8)

    await chain.wear(action="tap", side="right")
    assert (await app.event("button", within=8)).data["pressType"] == "short"
    await chain.wear(action="look_up")
    assert (await app.event("head", within=8)).data["position"] == "up"
    await chain.wear(action="look_down")

    mark = app.mark()
    await chain.wear(action="say", text="where is the station")

    def loudest() -> float:
        chunks = [base64.b64decode(r.data["arrayBuffer"]["bytes"]) for r in app.seen("audio", mark)]
        return max((rms(chunk) for chunk in chunks if chunk), default=0.0)

    await until(lambda: loudest() > 500, "the wearer's voice as PCM", 12)

    mark = app.mark()
    user = chain.ready["user"]
    reply = await chain.http.post(f"{chain.ready['url']}/api/admin/sessions/{user}/apps/{PACKAGE}/stop")
    assert reply.status_code == 200, reply.text
    await app.event("onStop", since=mark)
    await asyncio.sleep(1.0)
    assert len(app.seen("onStop", mark)) == 1

    async def dark() -> Any:
        return "Hello from the SDK" not in "".join((await chain.texts()).values())

    await until(dark, "the lens cleared of the stopped app", 8)
