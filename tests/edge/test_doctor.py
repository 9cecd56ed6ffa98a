"""The doctor: each trouble is one finding with one command."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from edge import doctor
from edge.config import EdgeConfig, Wearer
from edge.control import ControlSocket
from edge.doctor import (
    Level,
    check_cloud,
    check_data_dir,
    check_kernel,
    check_radio,
    check_rfkill,
    check_token,
    worst,
)
from edge.profiles.base import Arm
from tests.edge import fake_bleak
from tests.edge.fake_bleak import Script, raising
from tests.edge.world import World
from wire.errors import GlassesError, GlassesFault


def switch(root: Path, kind: str, soft: int, hard: int) -> None:
    root.mkdir(parents=True)
    for name, value in (("type", kind), ("soft", soft), ("hard", hard)):
        (root / name).write_text(f"{value}\n")


def test_a_blocked_radio_is_named_with_its_command(tmp_path: Path) -> None:
    switch(tmp_path / "rfkill0", "wlan", 1, 1)
    switch(tmp_path / "rfkill1", "bluetooth", 0, 0)
    assert check_rfkill(tmp_path) == []
    switch(tmp_path / "rfkill2", "bluetooth", 1, 0)
    switch(tmp_path / "rfkill3", "bluetooth", 1, 1)
    soft, hard = check_rfkill(tmp_path)
    assert soft.fix == "rfkill unblock bluetooth"
    assert "hardware" in hard.what
    assert check_rfkill(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("told", "warned"),
    [
        ("6.1.0-45-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-10-30)", True),
        ("6.1.192 #1 SMP", True),
        ("6.1.0-37-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.140-1 (2025-05-22)", False),
        ("6.12.117+deb12-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1~bpo12+1 (2026-10-01)", False),
        ("6.1.19 #1", False),
        ("16.1.192.3 #1", False),
    ],
)
def test_a_kernel_that_breaks_bluetooth_is_warned_of(told: str, warned: bool) -> None:
    findings = check_kernel(told)
    assert [f.level for f in findings] == [Level.WARNING] * warned
    assert all("linux-image" in f.fix for f in findings)


async def test_without_a_bus_the_finding_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/absent")
    (finding,) = await doctor.check_bluez()
    assert finding.level is Level.ERROR
    assert "D-Bus" in finding.what


async def test_radio_troubles_have_their_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SCAN_SECONDS", 0.1)
    made = fake_bleak.SCRIPTS["doctor"] = Script()
    made.adverts = [("AA", "Even G1_7_L_0000AA")]
    good = await check_radio("tests.edge.fake_bleak:doctor")
    assert [f.level for f in good] == [Level.OK, Level.OK]
    made.adverts = [("CC", "a television")]
    assert [f.level for f in await check_radio("tests.edge.fake_bleak:doctor")] == [Level.OK, Level.WARNING]
    made.adverts = []
    (silent,) = await check_radio("tests.edge.fake_bleak:doctor")
    assert silent.level is Level.WARNING
    assert "hears nothing" in silent.what
    made.hooks["scan"] = raising(GlassesError(GlassesFault.PERMISSION, "no", retryable=False))
    assert worst(await check_radio("tests.edge.fake_bleak:doctor")) == 77
    made.hooks["scan"] = raising(OSError("no"))
    assert worst(await check_radio("tests.edge.fake_bleak:doctor")) == 69
    assert worst(await check_radio("nonsense")) == 78


def jwt(**claims: float) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"h.{body}.s"


@pytest.mark.parametrize(
    ("token", "level"),
    [
        ("", Level.ERROR),
        ("opaque", Level.OK),
        (jwt(exp=1.0), Level.ERROR),
        (jwt(exp=time.time() + 3600), Level.WARNING),
        (jwt(exp=time.time() + 1e6), Level.OK),
        (jwt(), Level.OK),
        ("a.!!!.c", Level.OK),
    ],
    # named, because parallel workers must collect the same ids and two of the tokens hold the time
    ids=["empty", "opaque", "expired", "expires-soon", "expires-later", "no-expiry", "broken"],
)
def test_a_token_is_judged_without_being_shown(tmp_path: Path, token: str, level: Level) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    file.chmod(0o600)
    (finding,) = check_token(Wearer.model_validate({"token_file": file}))
    assert finding.level is level
    assert not token or token not in f"{finding}"


def test_a_token_that_others_can_read_is_told(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("x")
    file.chmod(0o644)
    (finding,) = check_token(Wearer.model_validate({"token_file": file}))
    assert finding.fix == f"chmod 600 {file}"


@pytest.mark.parametrize(("status", "level"), [(401, Level.OK), (404, Level.ERROR), (502, Level.ERROR)])
async def test_the_cloud_is_tried_without_disturbing_a_running_edge(status: int, level: Level) -> None:
    tokens: list[str | None] = []

    def answer(connection: ServerConnection, request: Request) -> Response:
        if request.path == "/health":
            return connection.respond(HTTPStatus.OK, "ok")
        tokens.append(request.headers.get("Authorization"))
        return connection.respond(HTTPStatus(status), "no")

    async def never(_: ServerConnection) -> None:
        raise AssertionError

    async with serve(never, "127.0.0.1", 0, process_request=answer) as listening:
        port = listening.sockets[0].getsockname()[1]
        findings = await check_cloud(
            Wearer.model_validate({"cloud": f"ws://127.0.0.1:{port}", "token": "tok"})
        )
    assert findings[0].level is Level.OK
    assert findings[1].level is level
    assert tokens == [None], "our own connection is not replaced by the doctor's"


async def test_a_cloud_that_is_away_is_exit_69() -> None:
    findings = await check_cloud(Wearer.model_validate({"cloud": "ws://127.0.0.1:1"}))
    assert worst(findings) == 69


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worst(check_data_dir(tmp_path / "new" / "below")) == 0
    monkeypatch.setattr("os.access", lambda *_: False)
    assert worst(check_data_dir(tmp_path)) == 77


async def test_the_whole_examination_ends_and_orders_its_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "SCAN_SECONDS", 0.05)
    fake_bleak.SCRIPTS["whole"] = Script()
    config = EdgeConfig.load(
        None, {"data_dir": str(tmp_path), "radio": "tests.edge.fake_bleak:whole", "cloud": "ws://127.0.0.1:1"}
    )
    async with asyncio.timeout(20):
        findings = await doctor.examine(config, rfkill=tmp_path)
    assert [f.what for f in findings][:2] == ["state directory", "the Bluetooth adapter hears nothing at all"]
    assert worst(findings) in (69, 78)


def test_every_fault_has_words_for_a_person() -> None:
    assert doctor.FAULT_WORDS.keys() == set(GlassesFault)


async def test_a_daemon_that_runs_is_asked_instead_of_scanning_over_its_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World().start()
    world.run(5)
    world.arms[Arm.RIGHT].connect_fault = GlassesFault.TIMEOUT
    world.drop(Arm.RIGHT)
    world.run(3)

    def status() -> dict[str, Any]:
        wearer = {"user": "", **world.node.status(world.now)}
        return {"pid": 7, "radio": {"fault": None}, "wearers": [wearer]}

    config = EdgeConfig.load(None, {"data_dir": str(tmp_path), "radio": "nonsense", "token": "t"})
    socket = ControlSocket(config.socket_path, status, {})
    await socket.start()
    monkeypatch.setattr(doctor, "HTTP_MAX", 0.2)
    # The daemon answers from this very loop.
    found = await asyncio.to_thread(doctor.check_daemon, config.socket_path)
    assert [f.what for f in found] == ["edge daemon", "Even Realities G1: right not connected"]
    assert "did not answer in time" in found[1].why
    await socket.stop()
    assert doctor.check_daemon(config.socket_path) == []
