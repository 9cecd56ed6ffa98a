"""Engines of the fabric to hold to one contract: in process, NATS with one server, NATS with three.

The brokers live as long as their test module; tests keep apart by the names of their sessions (`sid`).
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from cloud.cluster.fabric import Fabric
from cloud.cluster.local import LocalEngine
from cloud.cluster.nats import NatsFabric, NatsOptions
from tests.support.brokers import Brokers
from tests.support.waiting import SLOW

MakeNode = Callable[[], Awaitable[Fabric]]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    """One nats-server."""
    yield from _brokers(tmp_path_factory.mktemp("nats"), 1)


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    """Three nats-servers in a cluster."""
    yield from _brokers(tmp_path_factory.mktemp("nats"), 3)


def _brokers(directory: Path, count: int) -> Iterator[Brokers]:
    servers = Brokers(directory, count)
    try:
        servers.start()
        yield servers
    finally:
        servers.close()


@pytest.fixture
def sid() -> str:
    """A session of this test only."""
    return uuid.uuid4().hex


def nats_options(brokers: Brokers, **more: object) -> NatsOptions:
    """Three copies where there are three servers."""
    return NatsOptions(
        servers=brokers.urls,
        cell="test",
        replicas=min(3, len(brokers.servers)),
        buckets=2,
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture(params=["local", "nats-r1", "nats-r3"])
async def make_node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeNode]:
    """Nodes of one cloud, over each engine in turn; closed after the test."""
    nodes: list[Fabric] = []
    if request.param == "local":
        engine = await LocalEngine.open(tmp_path / "fabric.sqlite3")

        async def make() -> Fabric:
            nodes.append(engine.node())
            return nodes[-1]
    else:
        servers: Brokers = request.getfixturevalue("broker" if request.param == "nats-r1" else "brokers")

        async def make() -> Fabric:
            node = await NatsFabric.open(nats_options(servers), wait=5.0 * SLOW)
            assert node._prepared.is_set(), "the records did not get ready"
            nodes.append(node)
            return node

    try:
        yield make
    finally:
        for node in nodes:
            await node.close()
        if request.param == "local":
            await engine.close()
