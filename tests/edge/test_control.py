"""The daemon's local windows: control socket and status port."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge import control
from edge.control import ControlSocket, StatusPort
from tests.edge.world import World
from wire.errors import ConfigError


def status() -> dict[str, Any]:
    world = World().start()
    world.run(5)
    return {"uptime_s": 5.0, "wearers": [{"user": "anna", **world.node.status(world.now)}]}


async def ask(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    answers = []
    for line in lines:
        writer.write(line + b"\n")
        answers.append(json.loads(await asyncio.wait_for(reader.readline(), 5)))
    writer.close()
    await writer.wait_closed()
    return answers


async def test_requests_are_answered_and_nonsense_is_told(tmp_path: Path) -> None:
    socket = ControlSocket(tmp_path / "c.sock", status, {"retry": lambda _: {"did": True}})
    await socket.start()
    assert stat.S_IMODE((tmp_path / "c.sock").stat().st_mode) == 0o600
    good, custom, unknown, bad, no = await ask(
        tmp_path / "c.sock", b'{"cmd":"status"}', b'{"cmd":"retry"}', b'{"cmd":"x"}', b"\xff{", b"[1]"
    )
    assert good["status"]["wearers"][0]["glasses"]["state"] == "ready"
    assert custom == {"ok": True, "did": True}
    assert "unknown command" in unknown["error"]
    assert not bad["ok"]
    assert not no["ok"]
    await socket.stop()
    assert not (tmp_path / "c.sock").exists()


async def test_an_endless_line_ends_that_client_only(tmp_path: Path) -> None:
    socket = ControlSocket(tmp_path / "c.sock", status, {})
    await socket.start()
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "c.sock"))
    writer.write(b"x" * 100_000)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    (answer,) = await ask(tmp_path / "c.sock", b'{"cmd":"status"}')
    assert answer["ok"]
    await socket.stop()


async def test_a_second_daemon_is_refused_and_a_leftover_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    first = ControlSocket(path, status, {})
    await first.start()
    with pytest.raises(ConfigError, match="in use"):
        await ControlSocket(path, status, {}).start()
    await first.stop()
    path.touch()
    second = ControlSocket(path, status, {})
    await second.start()
    await second.stop()


async def test_status_and_metrics_are_served_on_loopback() -> None:
    port = StatusPort(0, status)
    url = await port.start()
    assert url.startswith("http://127.0.0.1:")
    async with httpx.AsyncClient() as client:
        got = (await client.get(f"{url}/status")).json()
        metrics = (await client.get(f"{url}/metrics")).text
        absent = await client.get(f"{url}/nope")
        live = await client.get(f"{url}/livez")
    await port.stop()
    assert got["wearers"][0]["cloud"]["state"] == "online"
    assert 'glassbridge_edge_arm_ready{arm="left",wearer="0"} 1.0' in metrics
    assert "anna" not in metrics, "no user in a label"
    assert absent.status_code == 404
    assert live.status_code == 200


async def test_a_taken_port_is_told() -> None:
    first = StatusPort(0, status)
    url = await first.start()
    with pytest.raises(ConfigError, match="cannot be used"):
        await StatusPort(int(url.rsplit(":", 1)[1]), status).start()
    await first.stop()


async def test_without_unix_sockets_a_loopback_port_and_a_key_do_the_same(tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    windows = ControlSocket(path, status, {"retry": lambda _: {"did": True}}, unix=False)
    await windows.start()
    assert path.is_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    good = await asyncio.to_thread(control.ask, path, {"cmd": "status"})
    assert good["status"]["wearers"][0]["glasses"]["state"] == "ready"
    assert await asyncio.to_thread(control.ask, path, {"cmd": "retry"}) == {"ok": True, "did": True}

    reader, writer = await asyncio.open_connection("127.0.0.1", json.loads(path.read_text())["port"])
    writer.write(b'{"cmd":"status"}\n{"cmd":"status","key":"guess"}\n')
    for _ in range(2):
        assert json.loads(await asyncio.wait_for(reader.readline(), 5))["ok"] is False
    writer.close()
    await writer.wait_closed()

    with pytest.raises(ConfigError, match="in use"):
        await ControlSocket(path, status, {}, unix=False).start()
    await windows.stop()
    assert not path.exists()


async def test_what_a_crash_left_behind_is_no_daemon(tmp_path: Path) -> None:
    for leftover in (b"", b"{}", b'{"port":1,"key":"k"}', b"\xff"):
        (tmp_path / "edge.sock").write_bytes(leftover)
        with pytest.raises(OSError):
            await asyncio.to_thread(control.ask, tmp_path / "edge.sock", {"cmd": "status"})
        for unix in (True, False):
            fresh = ControlSocket(tmp_path / "edge.sock", status, {}, unix=unix)
            await fresh.start()
            await fresh.stop()
