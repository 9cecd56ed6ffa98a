"""A self-hoster's first ten minutes, with every command as it is typed: init, run, token, app, edge, lens."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from glassbridge.app import App, Session, TouchEvent
from glassbridge.scenario import words_of
from tests.support.simulator import Simulator, simulator_process
from tests.support.waiting import SLOW, until

USER = "anna@home.example"


async def run(*words: str, env: dict[str, str]) -> str:
    """One command to its end; stdout. Fails the test when it fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "glassbridge", *words,
        env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, f"{' '.join(words)}: {err.decode()}"
    return out.decode().strip()


@asynccontextmanager
async def daemon(*words: str, env: dict[str, str]) -> AsyncIterator[dict[str, Any]]:
    """A program in the background: its ready line. SIGTERM must end it with 0."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "glassbridge", *words, "--json",
        env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20 * SLOW):
            line = await process.stdout.readline()
        assert line, f"{' '.join(words)} ended with code {await process.wait()}"
        yield json.loads(line)
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(10 * SLOW):
            code = await process.wait()
        process._transport.close()  # type: ignore[attr-defined]
    assert code == 0


@pytest.mark.failure("SEC-13")
async def test_from_nothing_to_a_lit_lens_with_a_signed_webhook(tmp_path: Path) -> None:
    app = App("com.example.hello", api_key="", port=0, cloud="127.0.0.1")

    @app.on_session
    async def on_session(session: Session) -> None:
        async def touched(event: TouchEvent) -> None:
            await session.storage.set("touched", event.gesture_name)
            kept = await session.storage.get("touched")
            await session.layouts.show_text_wall(f"kept: {kept}")

        session.events.on_touch(touched)
        await session.layouts.show_text_wall("hello from home")

    env = {key: value for key, value in os.environ.items() if not key.startswith("GLASSBRIDGE_")}
    env |= {"XDG_RUNTIME_DIR": str(tmp_path), "GLASSBRIDGE_DATA_DIR": str(tmp_path / "state")}
    async with simulator_process(tmp_path) as simulator, app.serving():
        env["GLASSBRIDGE_ADMIN_TOKEN"] = await run("cloud", "init", env=env)
        assert len(env["GLASSBRIDGE_ADMIN_TOKEN"]) > 30
        assert await run("config", "check", env=env) == "the configuration is good"
        allowed = env | {"GLASSBRIDGE_WEBHOOKS__ALLOW": f"127.0.0.1:{app.port}"}
        async with daemon("cloud", "run", "--port", "0", env=allowed) as cloud:
            env["GLASSBRIDGE_URL"] = cloud["url"]
            await run("user", "add", USER, env=env)
            token_file = tmp_path / "token"
            token_file.write_text(await run("token", "new", "--user", USER, env=env))
            url = f"http://127.0.0.1:{app.port}"
            app._api_key = await run("app", "add", "--package", app.package_name, "--url", url, env=env)
            words = (
                "--cloud", cloud["url"].replace("http", "ws"), "--radio", f"bumble:{simulator.hci}",
                "--token-file", str(token_file), "--user", USER,
            )  # fmt: skip
            async with daemon("edge", "run", *words, env=env):
                await _shows_up(env)
                assert "Even Realities G1 · ready" in await run("edge", "status", env=env)
                await run("app", "start", app.package_name, "--user", USER, env=env)
                await _lens(simulator, "hello from home")
                await _post(simulator, {"action": "tap", "side": "left"})
                await _lens(simulator, "kept: single_tap")
                await run("app", "stop", app.package_name, "--user", USER, env=env)
                await until(lambda: not app.sessions, "the app is stopped")
                assert "display" in await run("events", env=env)


async def _shows_up(env: dict[str, str]) -> None:
    async with asyncio.timeout(15 * SLOW):
        while True:
            status = json.loads(await run("edge", "status", "--json", env=env))
            if status["wearers"][0]["glasses"]["state"] == "ready":
                return
            await asyncio.sleep(0.2)


async def _lens(simulator: Simulator, words: str) -> None:
    async with asyncio.timeout(10 * SLOW), httpx.AsyncClient(trust_env=False) as client:
        while True:
            state = (await client.get(f"{simulator.url}/api/sim/state")).json()
            if all(words_of(arm["lens"]["text"]) == words for arm in state["devices"][0]["arms"].values()):
                return
            await asyncio.sleep(0.05)


async def _post(simulator: Simulator, body: dict[str, Any]) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        (await client.post(f"{simulator.url}/api/sim/input", json=body)).raise_for_status()
