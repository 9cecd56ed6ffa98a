"""The cloud as an operator runs it, a process of its own: its restarts as SDK apps and phones live through them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from cloud.auth import TokenVerifier
from tests.interop.driver import SdkApp, free_port, install_sdk
from tests.interop.world import API_KEY, PACKAGE, SECRET
from tests.support.fake_phone import FakePhone
from tests.support.waiting import SLOW, until

ADMIN = "interop-admin-token-interop-admin"
USER = "op-erator@inter-op.example"


class CloudProcess:
    """`glassbridge cloud run` on one port and one data directory, again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with (self.folder / "stderr").open("ab") as stderr:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "glassbridge", "cloud", "run", "--json", "--port", str(self.port),
                "--data-dir", str(self.folder / "data"),
                stdout=asyncio.subprocess.PIPE, stderr=stderr,
                env={
                    **os.environ,
                    "GLASSBRIDGE_AUTH__SECRET": SECRET,
                    "GLASSBRIDGE_AUTH__ADMIN_TOKEN_SHA256": hashlib.sha256(ADMIN.encode()).hexdigest(),
                    "GLASSBRIDGE_WEBHOOKS__ALLOW": "loopback",
                },
            )  # fmt: skip
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 20 * SLOW)
        told = json.loads(line) if line else {}
        assert told.get("event") == "ready", f"{told} {(self.folder / 'stderr').read_text()}"

    async def end(self, how: signal.Signals) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(how)
        await asyncio.wait_for(self.process.communicate(), 10 * SLOW)
        assert self.process.returncode is not None
        return self.process.returncode


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[CloudProcess]:
    process = CloudProcess(tmp_path)
    try:
        await process.start()
        yield process
    finally:
        await process.end(signal.SIGKILL)


@pytest.fixture
async def app() -> AsyncIterator[SdkApp]:
    install_sdk()
    app = SdkApp("2.1.29", PACKAGE, API_KEY)
    await app.start(hook="session.events.onButtonPress(d => emit('button', d))")
    yield app
    await app.close()


@pytest.mark.failure("PRO-05")
@pytest.mark.failure("PER-02")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restarted_cloud_finds_users_apps_and_wishes_again(
    cloud: CloudProcess, app: SdkApp, how: signal.Signals
) -> None:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {ADMIN}"}, timeout=10 * SLOW) as admin:
        reply = await admin.post(
            f"{cloud.url}/api/admin/apps",
            json={"packageName": PACKAGE, "publicUrl": app.url, "apiKey": API_KEY, "preinstalled": True},
        )
        assert reply.is_success, reply.text
    phone = FakePhone(cloud.url, USER, TokenVerifier([SECRET]).mint_core_token(USER))
    async with phone:
        await phone.next("connection_ack")
        await phone.start_app(PACKAGE)
        await app.event("onSession:done", within=8)
        assert await app.run("return await session.settings.fetch()", f"{USER}-{PACKAGE}") == []
        code = await cloud.end(how)
        assert code == (0 if how is signal.SIGTERM else -signal.SIGKILL)
        mark = app.mark()
        await until(lambda: phone.closed is not None, "the phone told")
        assert phone.closed is not None
        assert phone.closed[0] == (1012 if how is signal.SIGTERM else 1006)
        await cloud.start()
        await phone.drop()
        since = phone.mark()
        await phone.connect()
        # Back by itself if the cloud was away for less than three seconds, else by webhook: in any case back.
        await until(lambda: PACKAGE in _running(phone, since), "the app running again", 15)
        await until(lambda: "button_press" in str(phone.of("app_state_change", since)), "its subscriptions")
        await phone.send("button_press", buttonId="restarted", pressType="short")
        await app.event("button", since=mark, where=lambda d: d["buttonId"] == "restarted")
        assert len(app.seen("button", mark)) == 1
        await phone.stop_app(PACKAGE)
        await app.event("onStop", since=mark, where=lambda d: d["reason"] == "user_disabled")


def _running(phone: FakePhone, since: int) -> list[str]:
    told = phone.of("app_state_change", since) + phone.of("connection_ack", since)
    return [package for message in told for package in message["userSession"]["activeAppSessions"]]
