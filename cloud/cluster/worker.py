"""One of the workers of `cloud run --workers N`: a whole cloud that shares its port, its users and its sessions with others.

Rules: started by the supervisor only (`python -m cloud.cluster.worker DESCRIPTOR`), which speaks through the socket pair at
that descriptor: first what to serve, then nothing; the worker answers with one byte when it serves, and one more each second
as a sign of life. The end of the pair, like SIGTERM, is a drain: sessions go to the other workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import pickle
import signal
import socket
import sys
from contextlib import AsyncExitStack
from typing import Final

from cloud.cluster.handover import Handover, supported
from cloud.cluster.joining import open_fabric
from cloud.cluster.shared_store import open_shared
from cloud.cluster.siblings import Siblings
from cloud.cluster.workers import BEAT, WorkerStart
from cloud.logs import LogSystem
from cloud.server import GC_THRESHOLD, Cloud, contained, new_loop
from cloud.store.open import open_store
from cloud.store.sql import SqlStore
from wire.errors import ConfigError

log = logging.getLogger("cloud.cluster.worker")  # run as a program its name would be __main__

#: Exit code of a configuration that cannot be served (product page).
_CONFIG: Final = 78


def main(descriptor: int) -> int:
    """Serve until told to end; returns the exit code."""
    channel = socket.socket(fileno=descriptor)
    start = _received(channel)
    logs = LogSystem(start.config.log, worker=str(start.number))
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(_serve(start, channel))
    except ConfigError as error:
        log.error("%s: %s. %s", error.what, error.why, error.fix)
        return _CONFIG
    finally:
        logs.close()


def _received(channel: socket.socket) -> WorkerStart:
    """What the supervisor, our parent, wants; nobody else holds the other end."""
    with channel.makefile("rb") as stream:
        size = int.from_bytes(stream.read(4), "big")
        start = pickle.loads(stream.read(size))
    assert isinstance(start, WorkerStart)
    return start


async def _serve(start: WorkerStart, channel: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.set_exception_handler(contained)
    config = start.config
    async with AsyncExitStack() as stack:
        fabric = await open_fabric(config.cluster)
        assert fabric is not None  # the supervisor named the brokers
        stack.push_async_callback(fabric.close)
        store: SqlStore
        if config.store.url is None:
            store = await open_shared(config.database, fabric, f"{start.group}-{start.number}")
        else:
            store = await open_store(config)
        stack.push_async_callback(store.close)
        listener = socket.socket(fileno=start.listener)
        cloud = await stack.enter_async_context(Cloud(config, store=store, sock=listener, fabric=fabric))
        handover = Handover(start.directory, start.number, start.workers, cloud.listener.adopt)
        stack.push_async_callback(handover.close)
        if supported():
            handover.start()
            cloud.listener.give_away = handover.give_away
        siblings = Siblings(
            fabric,
            handover,
            cloud.metrics,
            start.group,
            start.workers,
            on_drain=lambda: cloud.hub.own(cloud.hub.drain()),
        )
        await siblings.start()
        cloud.services.siblings = siblings
        _publish(cloud, handover, start)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)
        channel.setblocking(False)
        beating = loop.create_task(_beat(channel, stop))
        stack.callback(beating.cancel)
        log.info("worker %d is serving at %s", start.number, cloud.url)
        await stop.wait()
        log.info("draining")
        handover.drain()
    return 0


async def _beat(channel: socket.socket, stop: asyncio.Event) -> None:
    """Signs of life to the supervisor; its end is ours."""
    loop = asyncio.get_running_loop()
    gone = loop.create_task(loop.sock_recv(channel, 1))
    try:
        while not gone.done():
            with contextlib.suppress(BlockingIOError):
                channel.send(b"+")
            await asyncio.wait([gone], timeout=BEAT)
    except OSError:
        pass
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
    if not stop.is_set():
        log.warning("the supervisor is gone")
        stop.set()


def _publish(cloud: Cloud, handover: Handover, start: WorkerStart) -> None:
    stats = handover.stats
    for name, about, read in (
        ("handovers_given_total", "Connections that another worker took.", lambda: stats.given),
        ("handovers_taken_total", "Connections taken from other workers.", lambda: stats.taken),
        ("handovers_returned_total", "Offered connections served here after all.", lambda: stats.returned),
    ):
        cloud.metrics.read_on_scrape(name, about, read, counter=True)
    cloud.metrics.read_on_scrape(
        "worker_starts", "How often this worker has been started.", lambda: start.starts
    )


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
