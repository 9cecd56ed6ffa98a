"""The supervisor of workers: what it cannot start it says, and a worker that gives no sign of life is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from cloud.cluster import workers as module
from cloud.cluster.workers import Workers, WorkerStart
from cloud.config import CloudConfig
from cloud.instance import Instance
from tests.support.brokers import nats_server
from tests.support.waiting import SLOW, until
from wire.errors import ConfigError


def config(folder: Path, **overrides: object) -> CloudConfig:
    nats_server()
    settings = {"data_dir": str(folder), "port": 0, "profile": "dev", "workers": 2, **overrides}
    return CloudConfig.load(overrides=settings, env={})


async def test_a_worker_without_a_sign_of_life_is_replaced_and_the_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT_MAX", 3.0 * SLOW)
    async with Workers(config(tmp_path)) as workers:
        first, second = (child.pid for child in workers.children)
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        await until(lambda: workers.children[0].pid not in (None, first), "another process", 10)
        assert workers.children[1].pid == second
        reader, writer = await asyncio.open_connection("127.0.0.1", workers.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"200" in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_a_data_directory_has_one_supervisor(tmp_path: Path) -> None:
    held = Instance(tmp_path)
    with pytest.raises(ConfigError, match="another cloud"):
        await Workers(config(tmp_path)).__aenter__()
    held.release()


async def test_a_port_that_is_taken_is_said_before_anything_is_started(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="cannot be used"):
            await Workers(config(tmp_path, port=other.getsockname()[1])).__aenter__()
    Instance(tmp_path).release()  # the directory is free again
    assert not (tmp_path / "nats").exists()


@pytest.mark.parametrize("fault", ["configuration", "process"])
async def test_workers_that_cannot_serve_end_the_start_with_what_they_ended_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    workers = Workers(config(tmp_path))
    started = workers.start_of

    def broken(number: int, starts: int) -> WorkerStart:
        start = started(number, starts)
        if fault == "process":  # a descriptor that there is not
            return replace(start, listener=987)
        cluster = start.config.cluster.model_copy(update={"tls_ca": tmp_path / "no-such-file"})
        return replace(start, config=start.config.model_copy(update={"cluster": cluster}))

    monkeypatch.setattr(workers, "start_of", broken)
    async with asyncio.timeout(30 * SLOW):
        with pytest.raises(
            ConfigError, match=r"worker \d: it ended \(78" if fault == "configuration" else r"worker \d"
        ):
            await workers.__aenter__()
    assert not [child.pid for child in workers.children if child.pid is not None]
    Instance(tmp_path).release()
