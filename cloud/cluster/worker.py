"""One of the workers of `cloud run --workers N`: a whole cloud that shares its port, its users and its sessions with others.

Rules: started by the supervisor only (`python -m cloud.cluster.worker DESCRIPTOR`), which speaks through the socket pair at
that descriptor: first what to serve, then one byte when all workers are to end; the worker answers with one byte when it
serves, and one more each second as a sign of life. SIGTERM is a drain of this worker alone: its sessions go to the others.
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
    start = pickle.loads(_exactly(channel, int.from_bytes(_exactly(channel, 4), "big")))
    assert isinstance(start, WorkerStart)
    return start


def _exactly(channel: socket.socket, count: int) -> bytes:
    """Not a byte more: the next one is an order."""
    data = b""
    while len(data) < count:
        piece = channel.recv(count - len(data))
        if not piece:
            sys.exit("the supervisor is gone")
        data += piece
    return data


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
        cluster = cloud.hub.cluster
        assert cluster is not None

        def drain_all() -> None:
            cluster.everybody_ends = start.alone
            cloud.hub.own(cloud.hub.drain())

        siblings = Siblings(
            fabric,
            handover,
            cloud.metrics,
            start.group,
            start.workers,
            on_drain=drain_all,
        )
        await siblings.start()
        cloud.services.siblings = siblings
        _publish(cloud, handover, start)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)
        channel.setblocking(False)
        beating = loop.create_task(_beat(channel))
        stack.callback(beating.cancel)
        beating.add_done_callback(lambda _: stop.set())
        log.info("worker %d is serving at %s", start.number, cloud.url)
        await stop.wait()
        cluster.everybody_ends = start.alone and beating.done()
        log.info("draining")
        handover.drain()
    return 0


async def _beat(channel: socket.socket) -> None:
    """Signs of life to the supervisor, until it says that all workers end, or is gone, which comes to the same."""
    told = asyncio.get_running_loop().create_task(_told(channel))
    try:
        while not told.done():
            with contextlib.suppress(BlockingIOError):
                channel.send(b"+")
            await asyncio.wait([told], timeout=BEAT)
    except OSError:
        log.warning("the supervisor is gone")
    finally:
        told.cancel()
        await asyncio.gather(told, return_exceptions=True)


async def _told(channel: socket.socket) -> None:
    if not await asyncio.get_running_loop().sock_recv(channel, 1):
        log.warning("the supervisor is gone")


def _publish(cloud: Cloud, handover: Handover, start: WorkerStart) -> None:
    stats = handover.stats
    cloud.metrics.read_on_scrape("handovers_given_total", lambda: stats.given)
    cloud.metrics.read_on_scrape("handovers_taken_total", lambda: stats.taken)
    cloud.metrics.read_on_scrape("handovers_returned_total", lambda: stats.returned)
    cloud.metrics.read_on_scrape("worker_starts", lambda: start.starts)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
