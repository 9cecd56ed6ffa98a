"""The lens page's own routes: safe headers, one origin, and a proxy that passes on what the simulator says."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from glassbridge.app.server import _Server
from glassbridge.web.routes import ASSETS, lens_routes
from tests.support.simulator import simulator_process


@asynccontextmanager
async def page(control: str | None) -> AsyncIterator[httpx.AsyncClient]:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with lens_routes(lambda: control) as routes:
        config = uvicorn.Config(
            Starlette(routes=routes),
            lifespan="off",
            ws="none",
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
                yield client
        finally:
            server.should_exit = True
            await task
            listener.close()


async def test_every_file_is_served_under_a_policy_that_allows_this_origin_alone() -> None:
    async with page(None) as client:
        for path in ASSETS:
            reply = await client.get(path)
            assert reply.status_code == 200
            policy = reply.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert reply.headers["x-content-type-options"] == "nosniff"


def test_the_page_asks_nobody_else_and_has_no_inline_code() -> None:
    folder = Path(__file__).resolve().parents[2] / "glassbridge" / "web"
    html = (folder / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)", html)
    assert not re.search(r"\s(on\w+|style)=", html)
    for name in ("index.html", "lens.js", "lens.css", "mic-worklet.js"):
        text = (folder / name).read_text()
        assert not re.search(r"https?://(?!www\.w3\.org)", text), name
        assert "innerHTML" not in text


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
)
async def test_a_foreign_page_cannot_control_the_glasses(headers: dict[str, str]) -> None:
    async with page("http://127.0.0.1:1") as client:
        reply = await client.post("/api/sim/input", json={"action": "tap"}, headers=headers)
        assert reply.status_code == 403


@pytest.mark.parametrize("control", [None, "http://127.0.0.1:1"])
async def test_a_missing_simulator_is_an_answer(control: str | None) -> None:
    async with page(control) as client:
        reply = await client.get("/api/sim/state")
        assert reply.status_code == 503
        assert "simulator does not answer" in reply.json()["error"]


async def test_the_simulator_is_reached_through_the_page_and_its_events_flow(tmp_path: Path) -> None:
    async with simulator_process(tmp_path) as simulator, page(simulator.url) as client:
        assert (await client.get("/api/sim/state")).json()["devices"][0]["id"] == "g1-1"
        pixels = await client.get("/api/sim/framebuffer", params={"side": "right"})
        assert (len(pixels.content), pixels.headers["x-width"]) == (576 * 136 // 8, "576")
        refused = await client.post("/api/sim/input", json={"action": "press"})
        assert refused.status_code == 409
        async with client.stream("GET", "/api/sim/events") as events:
            lines = events.aiter_lines()
            assert await anext(lines) == "event: state"
            await client.post("/api/sim/input", json={"action": "battery", "value": 5})
            async with asyncio.timeout(20):
                async for line in lines:
                    if line == "event: change":
                        break
