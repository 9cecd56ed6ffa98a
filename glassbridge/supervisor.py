"""Child processes that belong together: started, watched, restarted, ended together.

Rules: a child that dies is started again after a growing pause, and that is said. Children die with their parent,
however it dies: they get SIGTERM, and where the kernel can do it (Linux) also when the parent is killed. What a child
writes to stderr is kept in a bounded tail and shown when it fails; its first line on stdout is its ready line.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from wire.backoff import Backoff, BackoffPolicy

#: A Python process with its imports takes about a second on a quiet machine. Seconds.
READY_TIMEOUT = 60.0
#: The product page promises a drained process within 10 s of SIGTERM.
STOP_TIMEOUT = 12.0
#: A child that ran so long was healthy: the next restart is quick again.
HEALTHY_AFTER = 30.0
RESTART = BackoffPolicy(first=0.5, factor=2.0, ceiling=10.0, jitter=0.0)
#: Lines of stderr that are kept for the moment of failure.
TAIL_LINES = 30
#: Longest line a child may write, in bytes; a ready line with many devices is well below.
LINE_BYTES_MAX = 1 << 20

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Runs in the child before exec: SIGTERM when the parent goes away."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Child:
    """One child process and its successors."""

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        *,
        env: Mapping[str, str] | None = None,
        on_ready: Callable[[dict[str, Any]], None],
        tell: Callable[[str], None],
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self.ready = asyncio.Event()  # cleared while there is none
        self.starts = 0
        self._command = command
        self._env = env
        self._on_ready = on_ready
        self._tell = tell
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def run(self) -> None:
        """Keeps the child running until cancelled; then ends it.

        Raises ChildFailed when the first start fails: that is a fault of the set-up, and repeating it helps nobody.
        """
        backoff = Backoff(RESTART)
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                code = await self._once()
            finally:
                self.ready.clear()
                await self._end()
            if not self.starts:
                raise ChildFailed(self.name, code, "\n".join(self._tail))
            if loop.time() - began > HEALTHY_AFTER:
                backoff.reset()
            delay = backoff.next(0.5)
            self._tell(f"{self.name} ended with code {code}; starting it again in {delay:.1f} s")
            for line in list(self._tail)[-5:]:
                self._tell(f"    {line}")
            await asyncio.sleep(delay)

    async def _once(self) -> int:
        """One life of the child: its exit code."""
        self._tail.clear()
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command(),
            env={**os.environ, **(self._env or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        errors = asyncio.create_task(self._keep_tail(process.stderr))
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                line = await process.stdout.readline()
            if not line:
                return await process.wait()
            self._on_ready(orjson.loads(line))
            self.starts += 1
            self.ready.set()
            async for _ in process.stdout:
                pass  # nothing more is expected, but a full pipe would stop the child
            return await process.wait()
        except TimeoutError:
            self._tail.append(f"no ready line within {READY_TIMEOUT:.0f} s")
            return -1
        except orjson.JSONDecodeError:
            self._tail.append("its first line was not JSON")
            return -1
        finally:
            if process.returncode is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):  # what it wrote last is the most interesting
                        await errors
            errors.cancel()
            await asyncio.gather(errors, return_exceptions=True)

    async def _keep_tail(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            text = line.decode(errors="replace").rstrip()
            self._tail.append(text)
            if self._on_line is not None:
                self._on_line(text)

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            self._process = None
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            self._tell(f"{self.name} did not end within {STOP_TIMEOUT:.0f} s and was killed")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        self._process = None


class ChildFailed(Exception):
    """A child ended before it was ready for the first time."""

    def __init__(self, name: str, code: int, tail: str) -> None:
        super().__init__(f"{name} ended with code {code} before it was ready")
        self.name = name
        self.code = code
        self.tail = tail
