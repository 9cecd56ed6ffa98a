"""`cloud run --workers N`: one supervisor, N worker processes that share one listening socket, one broker between them.

Rules: the supervisor serves nobody. It holds what belongs to all: the lock on the data directory, the listening socket (so
that no connection is refused while a worker is replaced, and none waits in the queue of a dead one), the broker, the signals,
the service manager. A worker that dies is started again after a growing pause; the others serve its sessions meanwhile. A
worker whose supervisor is gone drains and ends. The configuration, secrets included, goes to a worker through its own end of
a socket pair, never through its environment or command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import shutil
import signal
import socket
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from cloud.cluster.broker import ChildBroker, end, end_with_parent
from cloud.config import CloudConfig, prepare_data_dir
from cloud.instance import Instance
from cloud.logs import LogSystem
from cloud.service import notify
from cloud.store.open import open_store
from wire.backoff import Backoff, BackoffPolicy
from wire.errors import ConfigError

log = logging.getLogger(__name__)

#: A worker with its imports takes about a second on a quiet machine, seconds.
READY_TIMEOUT: Final = 60.0
#: What a drain may take beyond `drain_timeout` until the process has ended, seconds; the unit's limit is above.
STOP_MARGIN: Final = 3.0
#: The first restart is at once for those who wait; a worker that dies at each start does not fill the log.
RESTART: Final = BackoffPolicy(first=0.1, factor=3.0, ceiling=10.0, jitter=0.0)
#: A worker that ran so long (seconds) was healthy.
HEALTHY_AFTER: Final = 30.0
#: A worker gives a sign of life this often, and one that gave none for so long is replaced (seconds). Its loop has stood still
#: all that time, or it is frozen; what can be late is a machine that thrashes, and half a minute of that is dead too.
BEAT: Final = 1.0
SILENT_MAX: Final = 30.0
#: Folder of the broker's records in the data directory.
BROKER_DIRECTORY: Final = "nats"


@dataclass(frozen=True, slots=True)
class WorkerStart:
    """What a worker is told when it starts."""

    config: CloudConfig
    number: int
    workers: int
    listener: int
    """Descriptor of the listening socket."""
    directory: Path
    """Where the workers' own sockets are."""
    group: str
    """What the addresses of these workers share."""
    alone: bool
    """There are no nodes but these workers: when all of them end, their sessions have nowhere to go."""
    starts: int
    """Which start of this worker it is."""


class Workers:
    """The supervisor: `async with Workers(config) as workers`, then `await workers.run()`."""

    def __init__(self, config: CloudConfig) -> None:
        self.config = config.ready_to_serve()
        self.children = [_Child(self, number) for number in range(config.workers)]
        self.listener: socket.socket
        #: None where the configuration names brokers.
        self.broker: ChildBroker | None = None
        self.directory: Path
        self._stack = AsyncExitStack()

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Where the workers listen."""
        host = "127.0.0.1" if self.config.host in ("0.0.0.0", "::", "") else self.config.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def __aenter__(self) -> Workers:
        """Everything runs and serves. Raises ConfigError."""
        stack = self._stack
        try:
            directory = prepare_data_dir(self.config.directory)
            instance = Instance(directory)
            stack.callback(instance.release)
            # Checked and migrated once, before several open it.
            await (await open_store(self.config)).close()
            self.listener = _listen(self.config)
            stack.callback(self.listener.close)
            # Not in the data directory: the path of a UNIX socket has room for 107 bytes. mkdtemp lets only us in.
            self.directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="glassbridge-"))
            stack.callback(shutil.rmtree, self.directory, True)
            if not self.config.cluster.nats:
                self.broker = ChildBroker(directory / BROKER_DIRECTORY)
                stack.push_async_callback(self.broker.stop)
                await self.broker.start()
            stack.push_async_callback(self._stop_workers)
            for child in self.children:
                child.start()
            await asyncio.gather(*(child.first_ready() for child in self.children))
        except BaseException:
            await stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def start_of(self, number: int, starts: int) -> WorkerStart:
        """What worker `number` is told."""
        cluster = self.config.cluster
        own: dict[str, Any] = {"node": f"{cluster.node or socket.gethostname()}-{number}"}
        if self.broker is not None:
            own |= {"nats": (self.broker.url,), "replicas": 1}
        config = self.config.model_copy(update={"cluster": cluster.model_copy(update=own)})
        return WorkerStart(
            config=config,
            number=number,
            workers=len(self.children),
            listener=self.listener.fileno(),
            directory=self.directory,
            group=self.directory.name,
            alone=self.broker is not None,
            starts=starts,
        )

    async def _stop_workers(self) -> None:
        """Drain all at once. The listening socket goes first: who comes now is refused, not left waiting."""
        self.listener.close()
        await asyncio.gather(*(child.stop() for child in self.children))


class _Child:
    """One worker and its successors."""

    def __init__(self, workers: Workers, number: int) -> None:
        self._workers = workers
        self.number = number
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._starts = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def start(self) -> None:
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def first_ready(self) -> None:
        """Raises ConfigError if the first start fails: that is a fault of the set-up."""
        await asyncio.shield(self._ready)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        pause = Backoff(RESTART)
        while True:
            began = loop.time()
            try:
                code: int | str = await self._once()
            except OSError as error:  # no room for a process just now
                code = str(error)
            if not self._ready.done():
                self._ready.set_exception(
                    ConfigError(
                        f"worker {self.number}",
                        f"it ended ({code}) before it served",
                        "Its own words are above.",
                    )
                )
                return
            if loop.time() - began > HEALTHY_AFTER:
                pause.reset()
            delay = pause.next(0.5)
            log.warning("worker %d ended (%s); starting it again in %.1f s", self.number, code, delay)
            await asyncio.sleep(delay)

    async def _once(self) -> int:
        """One life: its exit code."""
        self._starts += 1
        start = self._workers.start_of(self.number, self._starts)
        ours, theirs = socket.socketpair()
        with ours:  # open as long as the worker lives: its end is how a worker hears of ours
            with theirs:
                self._process = process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "cloud.cluster.worker",
                    str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    pass_fds=(start.listener, theirs.fileno()),
                    start_new_session=True,  # Ctrl-C at a terminal is for us, who end the workers in order
                    preexec_fn=end_with_parent,
                )
            ours.setblocking(False)
            try:
                await self._attend(process, ours, start)
                return await process.wait()
            except asyncio.CancelledError:
                await self._end(process, ours)
                raise

    async def _attend(
        self, process: asyncio.subprocess.Process, channel: socket.socket, start: WorkerStart
    ) -> None:
        """Tell it what to serve; then listen for its signs of life. Returns when it has ended or is about to."""
        loop = asyncio.get_running_loop()
        body = pickle.dumps(start)
        patience = READY_TIMEOUT
        try:
            await loop.sock_sendall(channel, len(body).to_bytes(4, "big") + body)
            while True:
                async with asyncio.timeout(patience):
                    if not await loop.sock_recv(channel, 64):
                        return
                if not self._ready.done():
                    self._ready.set_result(None)
                elif patience == READY_TIMEOUT:
                    log.info("worker %d serves again", self.number)
                patience = SILENT_MAX
        except TimeoutError:
            log.warning("worker %d has given no sign of life for %g s; replacing it", self.number, patience)
            process.kill()
        except OSError as error:  # it ended while it was told
            log.debug("worker %d: %s", self.number, error)

    async def _end(self, process: asyncio.subprocess.Process, channel: socket.socket) -> None:
        """All workers end: by word, because a signal would make this one move its sessions to the others."""
        patience = self._workers.config.drain_timeout + STOP_MARGIN
        if self._ready.done():
            with contextlib.suppress(OSError):
                channel.send(b"E")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await process.wait()
        await end(process, 1.0)

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if not self._ready.done():
            self._ready.cancel()
        elif not self._ready.cancelled():
            self._ready.exception()  # seen


def _listen(config: CloudConfig) -> socket.socket:
    """The socket that all workers accept from. Raises ConfigError."""
    listener: socket.socket | None = None
    try:
        found = socket.getaddrinfo(
            config.host or None, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # as one process does it
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.setblocking(False)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise ConfigError(
            f"port {config.port} on {config.host}",
            f"it cannot be used ({error.strerror or error})",
            "Choose another with --port, or stop the program that holds it.",
        ) from error
    return listener


def run_workers(config: CloudConfig, *, json_ready: bool) -> int:
    """Serve with several processes until SIGTERM or SIGINT; returns the exit code. Raises ConfigError before serving."""
    if sys.platform == "win32":
        raise ConfigError(
            "workers",
            "this system cannot hand a listening socket to child processes the way this needs",
            "Set workers = 1, or run the cloud on Linux.",
        )
    logs = LogSystem(config.log)
    try:
        return asyncio.run(_serve(config, json_ready))
    finally:
        logs.close()


async def _serve(config: CloudConfig, json_ready: bool) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    received: list[int] = []

    def on_signal(code: int) -> None:
        received.append(code)
        stop.set()

    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        loop.add_signal_handler(number, on_signal, code)
    starting = asyncio.ensure_future(Workers(config).__aenter__())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        workers = await starting
        ready: dict[str, Any] = {
            "event": "ready",
            "url": workers.url,
            "pid": os.getpid(),
            "workers": [child.pid for child in workers.children],
            "broker": workers.broker.pid if workers.broker is not None else None,
        }
        if json_ready:
            sys.stdout.buffer.write(orjson.dumps(ready) + b"\n")
            sys.stdout.flush()
        log.info("cloud is serving at %s with %d workers", workers.url, len(workers.children))
        notify("READY=1")
        await stopped
        log.info("draining")
        notify("STOPPING=1")
        await workers.__aexit__(None, None, None)
    stopped.cancel()
    return received[0] if received else 0
