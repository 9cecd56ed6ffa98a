"""The broker that the workers of one machine speak through: started, supervised, ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud.cluster import broker as module
from cloud.cluster.broker import ChildBroker, find_nats_server, require_nats_server
from cloud.cluster.nats import NatsFabric, NatsOptions
from tests.support.brokers import nats_server
from tests.support.waiting import until
from wire.errors import ConfigError


@pytest.fixture
async def child(tmp_path: Path) -> AsyncIterator[ChildBroker]:
    nats_server()
    broker = ChildBroker(tmp_path / "nats")
    await broker.start()
    yield broker
    await broker.stop()
    assert broker.pid is None


async def test_it_serves_whoever_has_the_password_and_nobody_else(child: ChildBroker) -> None:
    fabric = await NatsFabric.open(NatsOptions((child.url,), buckets=1))
    assert fabric.connected
    assert await fabric.put("own.x", b"1", rev=0)
    await fabric.close()
    stranger = await NatsFabric.open(NatsOptions((child.url.partition("@")[2],)), wait=0.3)
    assert not stranger.connected
    await stranger.close()


async def test_what_holds_the_password_is_for_its_owner_only(child: ChildBroker, tmp_path: Path) -> None:
    assert (tmp_path / "nats").stat().st_mode & 0o077 == 0
    assert (tmp_path / "nats" / "nats.conf").stat().st_mode & 0o077 == 0


async def test_a_broker_that_is_killed_comes_back_with_its_records(child: ChildBroker) -> None:
    fabric = await NatsFabric.open(NatsOptions((child.url,), buckets=1))
    rev = await fabric.put("own.x", b"1", rev=0)
    killed = child.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    await until(lambda: child.pid not in (None, killed), "a new broker")
    await until(lambda: fabric.connected, "the link to it")
    assert await fabric.get("own.x") == (b"1", rev)
    await fabric.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
async def test_a_broker_ends_with_its_parent_even_if_that_is_killed(tmp_path: Path) -> None:
    nats_server()
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom cloud.cluster.broker import ChildBroker\n"
        "async def main():\n    b = ChildBroker(Path(sys.argv[1]))\n    await b.start()\n"
        "    print(b.pid, flush=True)\n    await asyncio.sleep(60)\nasyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path / "nats"), stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    await until(lambda: not Path(f"/proc/{pid}").exists() or _zombie(pid), "the broker to end")


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_a_broker_that_cannot_start_says_where_its_last_words_are(tmp_path: Path) -> None:
    nats_server()
    directory = tmp_path / "nats"
    directory.mkdir()
    (directory / "jetstream").write_text("in the way")
    broker = ChildBroker(directory)
    with pytest.raises(ConfigError, match=r"nats\.log"):
        await broker.start()
    await broker.stop()


def test_one_on_the_path_is_preferred_unless_it_is_too_old(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "bin"
    own.mkdir()
    monkeypatch.setattr(module.sys, "executable", str(own / "python"))
    for folder, version in ((tmp_path, "v2.10.26"), (own, "v2.15.1")):
        program = folder / "nats-server"
        program.write_text(f"#!/bin/sh\necho nats-server: {version}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert find_nats_server() == str(own / "nats-server")
    (tmp_path / "nats-server").write_text("#!/bin/sh\necho nats-server: v2.11.0\n")
    assert find_nats_server() == str(tmp_path / "nats-server")
    (tmp_path / "nats-server").write_text("#!/bin/sh\nexit 1\n")
    (own / "nats-server").unlink()
    assert find_nats_server() is None


def test_without_a_nats_server_the_error_names_the_cure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module.sys, "executable", str(tmp_path / "python"))
    assert find_nats_server() is None
    with pytest.raises(ConfigError, match=r"glassbridge\[cluster\]"):
        require_nats_server()
