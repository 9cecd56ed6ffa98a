"""The composition root: sessions that survive, pairs that are remembered, a clean end."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from edge import daemon as daemon_module
from edge.config import EdgeConfig
from edge.core.glasses import Note, Notice
from edge.daemon import Daemon, Store, Trace
from edge.service import ServiceManager
from tests.edge import fake_bleak
from tests.edge.fake_bleak import Script
from tests.support.edge_process import cloud, until
from wire.errors import ConfigError


def test_paired_glasses_are_kept_per_wearer_and_forgotten_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.load("anna") is None
    entry = {"model": "g1", "pair": "7", "addresses": {"left": "AA", "right": "BB"}}
    store.save("anna", entry)
    store.save("ben", {**entry, "pair": "8"})
    assert Store(tmp_path).load("anna") == entry
    store.save("anna", None)
    assert store.load("anna") is None
    assert store.load("ben") is not None


@pytest.mark.parametrize(
    "content", ["", "[]", '{"anna": 5}', '{"anna": {"model": "g9", "addresses": {}}}', "{", '"x"']
)
@pytest.mark.failure("BLE-13")
def test_a_damaged_file_of_pairs_is_no_pair_and_no_crash(tmp_path: Path, content: str) -> None:
    (tmp_path / "glasses.json").write_text(content)
    store = Store(tmp_path)
    assert store.load("anna") is None
    store.save("anna", {"model": "g1", "pair": "7", "addresses": {}})
    assert store.load("anna") is not None


def test_a_trace_holds_sizes_not_contents(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "t.jsonl")
    trace.write(1.5, "anna", "in", "received", b'{"type":"display_event","layout":{"text":"secret"}}')
    trace.close()
    (line,) = (tmp_path / "t.jsonl").read_text().splitlines()
    assert "secret" not in line
    assert json.loads(line)["n"] == "received"
    with pytest.raises(ConfigError):
        Trace(tmp_path / "no" / "such" / "folder")


class Running:
    """A daemon inside the test's loop, over a scripted stack."""

    def __init__(self, tmp_path: Path, name: str, **overrides: Any) -> None:
        self.script = fake_bleak.SCRIPTS[name] = Script()
        self.script.adverts = [("AA", "Even G1_7_L_0000AA"), ("BB", "Even G1_7_R_0000BB")]
        config = EdgeConfig.load(
            None,
            {
                "data_dir": str(tmp_path),
                "radio": f"tests.edge.fake_bleak:{name}",
                "glasses": "g1",
                **overrides,
            },
        )
        self.daemon = Daemon(config)
        self.ready = asyncio.Event()
        self.task = asyncio.create_task(self.daemon.run(lambda _: self.ready.set()))

    async def __aenter__(self) -> Running:
        await asyncio.wait_for(self.ready.wait(), 10)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.daemon._stopping.set()
        assert await asyncio.wait_for(self.task, 10) == 0

    @property
    def session(self) -> Any:
        return self.daemon._sessions[0]


@pytest.mark.failure("EDG-02")
@pytest.mark.failure("PRO-01")
async def test_a_crash_in_one_session_is_survived_and_the_session_built_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(daemon_module, "RESTART_AFTER", 0.05)
    async with cloud() as upstream, Running(tmp_path, "crash", cloud=upstream.url) as r:
        await until(lambda: r.script.clients and r.script.clients[-1].callbacks)
        first = r.session
        first.node.glasses.driver.decode = None  # our bug, whatever it may be
        r.script.clients[-1].callbacks[next(iter(r.script.clients[-1].callbacks))](bytearray(b"\xf5\x01"))
        await until(lambda: r.daemon.restarts == 1 and r.session is not first)
        await until(lambda: len(upstream.said("connection_init")) == 2, why="it dials again")
        assert "session failed" in caplog.text
        assert not r.task.done()


async def test_a_lasting_fact_is_a_warning_once_however_often_it_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="edge.daemon")
    async with cloud() as upstream, Running(tmp_path, "facts", cloud=upstream.url) as r:
        await until(lambda: r.daemon._sessions)
        caplog.clear()
        for number in range(100):
            r.session._notice(Notice(Note.UNSUPPORTED, "show", "it has no display"))
            r.session._notice(Notice(Note.WARNING, "display", f"no glyph {number % 3}"))
        levels = [record.levelname for record in caplog.records]
        assert levels.count("WARNING") == 4
        assert levels.count("DEBUG") == 196


async def test_without_a_model_the_first_known_glasses_in_sight_are_taken(tmp_path: Path) -> None:
    async with cloud() as upstream, Running(tmp_path, "auto", cloud=upstream.url, glasses="") as r:
        await until(lambda: r.daemon._sessions and r.script.clients)
        assert r.session.node.glasses.profile.key == "g1"


async def test_a_pair_is_remembered_as_soon_as_it_is_chosen(tmp_path: Path) -> None:
    async with cloud() as upstream, Running(tmp_path, "remember", cloud=upstream.url) as r:
        await until(lambda: Store(tmp_path).load("") is not None)
        assert Store(tmp_path).load("") == {
            "model": "g1",
            "pair": "7",
            "addresses": {"left": "AA", "right": "BB"},
        }
        assert r.daemon._forget({"user": ""}) == {"forgotten": True}
        assert Store(tmp_path).load("") is None
        assert r.daemon._forget({"user": "nobody"})["ok"] is False


@pytest.mark.failure("CON-13")
async def test_the_token_file_is_read_at_each_attempt(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    async with (
        cloud() as upstream,
        Running(tmp_path, "token", cloud=upstream.url, token_file=str(token)) as r,
    ):
        await until(lambda: upstream.tokens == ["Bearer first"])
        token.write_text("second")
        upstream.sockets[0].transport.abort()
        await until(lambda: r.session.node.uplink.state.value == "backoff")
        r.daemon._hangup()  # SIGHUP
        await until(lambda: upstream.tokens == ["Bearer first", "Bearer second"])


async def test_an_unreadable_token_file_is_an_outage_not_a_crash(tmp_path: Path) -> None:
    async with Running(tmp_path, "no-token", token_file=str(tmp_path / "absent")) as r:
        await until(lambda: r.session.node.uplink.attempts >= 2)
        assert "token file" in r.session.node.uplink.reason
        assert r.daemon.restarts == 0


async def test_the_service_manager_is_told_and_the_watchdog_fed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
        manager = ServiceManager()
        manager.ready()
        await asyncio.sleep(0.1)
        await manager.stopping()
        got = [systemd.recv(100) for _ in range(4)]
    assert got[0] == b"READY=1"
    assert got.count(b"WATCHDOG=1") >= 2


async def test_without_a_service_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    manager = ServiceManager()
    manager.ready()
    await manager.stopping()
