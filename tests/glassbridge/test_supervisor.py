"""Children are started, watched, restarted and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import pytest

from glassbridge import supervisor
from glassbridge.supervisor import Child, ChildFailed
from tests.support.waiting import until
from wire.backoff import BackoffPolicy

READY_THEN_SLEEP = 'import sys, time; print(\'{"event": "ready"}\', flush=True); time.sleep(600)'


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RESTART", BackoffPolicy(0.01, 2.0, 0.05, 0.0))


def child(code: str, told: list[str], readies: list[dict[str, Any]]) -> Child:
    return Child("part", lambda: [sys.executable, "-c", code], on_ready=readies.append, tell=told.append)


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_child_that_dies_is_started_again_and_that_is_said() -> None:
    told: list[str] = []
    readies: list[dict[str, Any]] = []
    part = child(READY_THEN_SLEEP, told, readies)
    task = asyncio.create_task(part.run())
    await until(lambda: readies, "the child is ready")
    first = part.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: len(readies) == 2, "its successor is ready")
    assert part.pid != first
    assert any("ended with code -9" in line for line in told)
    await stopped(task)
    assert part.pid is None


async def test_a_child_that_never_gets_ready_fails_with_what_it_wrote() -> None:
    part = child("import sys; sys.stderr.write('no such port\\n'); sys.exit(78)", [], [])
    with pytest.raises(ChildFailed) as caught:
        await part.run()
    assert (caught.value.code, caught.value.tail) == (78, "no such port")


async def test_a_child_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STOP_TIMEOUT", 0.2)
    told: list[str] = []
    readies: list[dict[str, Any]] = []
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + READY_THEN_SLEEP
    part = child(stubborn, told, readies)
    task = asyncio.create_task(part.run())
    await until(lambda: readies, "the child is ready")
    pid = part.pid
    assert pid is not None
    await stopped(task)
    assert told == ["part did not end within 0 s and was killed"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux'")
async def test_children_die_with_a_parent_that_is_killed() -> None:
    parent = (
        "import asyncio, sys\n"
        "from glassbridge.supervisor import Child\n"
        "async def main():\n"
        f"    c = Child('part', lambda: [sys.executable, '-c', {READY_THEN_SLEEP!r}],\n"
        "              on_ready=lambda _: print(c.pid, flush=True), tell=print)\n"
        "    await c.run()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", parent, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    pid = int(await process.stdout.readline())
    process.kill()
    await process.wait()

    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # Without an init that reaps, the dead child stays as a zombie.
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"

    await until(gone, "the orphan has ended")
    process._transport.close()  # type: ignore[attr-defined]
