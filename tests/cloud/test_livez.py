"""`/livez` beside a loop that is blocked, busy, dead or well; and everybody else's connections, which it must not disturb."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.cloud import SECRET, phone, running
from tests.support.waiting import SLOW, until

#: A cloud whose loop can be made to stand still from outside: SIGUSR1 blocks it as a bug or a slow disk would, SIGUSR2
#: keeps it busy in Python.
PROGRAM = """
import asyncio, signal, sys, time
from cloud.config import CloudConfig
from cloud import server

def block(seconds): time.sleep(seconds)
def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end: pass

enter = server.Cloud.__aenter__
async def entered(self):
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, block, float(sys.argv[3]))
    loop.add_signal_handler(signal.SIGUSR2, spin, float(sys.argv[3]))
    return await enter(self)
server.Cloud.__aenter__ = entered
settings = {"data_dir": sys.argv[1], "port": 0, "profile": "dev", "auth.secret": sys.argv[2],
            "admission.dead_after": float(sys.argv[4])}
sys.exit(server.run(CloudConfig.load(overrides=settings, env={}), json_ready=True))
"""


@contextmanager
def process(data_dir: Path, *, stall: float, dead_after: float = 30.0) -> Iterator[tuple[int, str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(data_dir), SECRET, str(stall), str(dead_after)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert child.stdout is not None
    try:
        yield child.pid, json.loads(child.stdout.readline())["url"]
    finally:
        child.send_signal(signal.SIGCONT)
        child.terminate()
        child.wait(15 * SLOW)
        child.stdout.close()


def ask(url: str, path: str = "/livez", timeout: float = 20.0) -> tuple[int, dict[str, Any], float]:
    began = time.monotonic()
    try:
        with urllib.request.urlopen(url + path, timeout=timeout) as reply:
            return reply.status, json.loads(reply.read()), time.monotonic() - began
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read()), time.monotonic() - began


@pytest.mark.failure("PRO-02")
@pytest.mark.parametrize("how", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_loop_that_stands_still_for_five_seconds_does_not_look_dead(
    tmp_path: Path, how: signal.Signals
) -> None:
    with process(tmp_path, stall=5.0) as (pid, url):
        assert ask(url)[:2] == (200, {"status": "alive"}), "a loop that turns answers itself"
        os.kill(pid, how)
        time.sleep(0.3)
        others: list[tuple[int, float]] = []

        def other() -> None:
            status, _, took = ask(url, "/health")
            others.append((status, took))

        waiting = [threading.Thread(target=other) for _ in range(20)]
        for thread in waiting:
            thread.start()
        times = []
        for _ in range(10):
            status, body, took = ask(url)
            assert status == 200
            assert body["status"] == "alive"
            assert body["late"] > 0, "it was not the loop that answered"
            times.append(took)
        print(
            f"livez beside a blocked loop: p50 {sorted(times)[5] * 1000:.0f} ms, max {max(times) * 1000:.0f} ms"
        )
        assert sorted(times)[5] < 0.1 * SLOW
        for thread in waiting:
            thread.join(20 * SLOW)
        assert [status for status, _ in others] == [200] * 20, (
            "nobody else is lost: the loop serves them later"
        )
        assert min(took for _, took in others) > 2.0


@pytest.mark.failure("PRO-02")
def test_a_loop_that_never_turns_again_is_dead(tmp_path: Path) -> None:
    with process(tmp_path, stall=6.0, dead_after=1.0) as (pid, url):
        os.kill(pid, signal.SIGUSR1)
        time.sleep(0.3)
        assert ask(url)[0] == 200
        time.sleep(1.5)
        status, body, _ = ask(url)
        assert (status, body["status"]) == (503, "dead")
        assert body["late"] > 1.0


async def test_connections_that_were_left_waiting_are_served_whatever_they_are(tmp_path: Path) -> None:
    """A WebSocket, a request, half a request, one that says nothing and one that leaves, all during a stall."""
    async with running(tmp_path) as cloud:
        loop = asyncio.get_running_loop()
        port = cloud.port
        socks: list[socket.socket] = []
        answers: dict[str, bytes] = {}

        def during() -> None:
            time.sleep(0.05)
            for data in (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /li", b"", None):
                sock = socket.create_connection(("127.0.0.1", port))
                if data is None:
                    sock.close()
                    continue
                if data:
                    sock.sendall(data)
                socks.append(sock)
            probe = socket.create_connection(("127.0.0.1", port))
            probe.sendall(b"GET /livez?x=1 HTTP/1.1\r\nHost: x\r\n\r\n")
            answers["livez"] = probe.recv(4096)
            probe.close()

        thread = threading.Thread(target=during)
        thread.start()
        time.sleep(0.8)  # noqa: ASYNC251 - the loop stands still, that is the test
        await asyncio.to_thread(thread.join)
        assert answers["livez"].startswith(b"HTTP/1.1 200 OK")
        assert b'"alive"' in answers["livez"]
        socks[1].sendall(b"vez HTTP/1.1\r\nHost: x\r\n\r\n")
        for sock in socks:
            sock.setblocking(False)
        for sock in socks[:2]:
            assert (await asyncio.wait_for(loop.sock_recv(sock, 4096), 5 * SLOW)).startswith(b"HTTP/1.1 200")
        async with phone(cloud) as glasses:
            await glasses.next("connection_ack")
        for sock in socks:
            sock.close()


async def test_the_thread_is_gone_when_the_cloud_is(tmp_path: Path) -> None:
    async with running(tmp_path):
        assert [thread for thread in threading.enumerate() if thread.name == "livez"]
    await until(lambda: not [t for t in threading.enumerate() if t.name == "livez"], "it has ended")
