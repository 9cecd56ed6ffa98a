"""Several nodes of one cloud in one process: real sockets, one store, a fabric between them.

Rules: whatever a cluster test wants to know of the inside it asks here, so that a changed inside breaks one file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from cloud.cluster.fabric import Fabric
from cloud.cluster.seat import Seat
from cloud.config import CloudConfig
from cloud.server import Cloud
from cloud.store.sqlite import SqliteStore
from tests.support.cloud import SECRET, USER
from tests.support.link_phone import LinkPhone

MakeFabric = Callable[[], Awaitable[Fabric]]


class Nodes:
    """`clouds` in the order of their making; all share `store`."""

    def __init__(self, clouds: list[Cloud], store: SqliteStore, fabrics: list[Fabric]) -> None:
        self.clouds, self.store = clouds, store
        self.fabrics = fabrics
        self.phones: list[LinkPhone] = []

    def __getitem__(self, index: int) -> Cloud:
        return self.clouds[index]

    @property
    def urls(self) -> list[str]:
        return [cloud.url for cloud in self.clouds]

    def phone(self, user: str = USER, first: int = 0, **options: Any) -> LinkPhone:
        """An edge that dials node `first` first."""
        urls = self.urls[first:] + self.urls[:first]
        phone = LinkPhone(urls, user, self.clouds[0].verifier.mint_core_token(user), **options)
        self.phones.append(phone)
        return phone

    def seat(self, index: int, user: str = USER) -> Seat | None:
        cluster = self.clouds[index].hub.cluster
        assert cluster is not None
        return cluster.seats.get(user)

    def owners(self, user: str = USER) -> list[int]:
        """Nodes that serve the session now; more than one is a split that has to end."""
        return [
            index
            for index in range(len(self.clouds))
            if (seat := self.seat(index, user)) is not None and seat.machine.is_serving
        ]

    async def lose(self, index: int, *, redial: bool = True) -> None:
        """As if the node had died: off the bus, no new connections, every socket cut. What lives on in this process has
        nobody to talk to. Without `redial` the phones of `phone` wait until they are told."""
        for phone in self.phones:
            phone.may_dial = redial
        self.clouds[index]._livez.stop()  # it holds the listening socket too
        await self.fabrics[index].close()
        await self.clouds[index].listener.stop_accepting()
        for connection in list(self.clouds[index].listener.connections):
            connection.abort()
        await asyncio.sleep(0)

    def edges(self, index: int) -> int:
        """App sockets that this node holds for sessions elsewhere."""
        cluster = self.clouds[index].hub.cluster
        assert cluster is not None
        return len(cluster.edges)


@asynccontextmanager
async def nodes(tmp: Path, make: MakeFabric, count: int = 2, **overrides: Any) -> AsyncIterator[Nodes]:
    """`overrides` as for `tests.support.cloud.running`; `app_node=N`: apps are sent to that node, wherever they are
    started (default: to where they are started)."""
    app_node = overrides.pop("app_node", None)
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    async with AsyncExitStack() as stack:
        store = await SqliteStore.open(tmp / "shared.sqlite3")
        stack.push_async_callback(store.close)
        made: dict[int, Cloud] = {}
        fabrics: dict[int, Fabric] = {}
        order = list(range(count))
        if app_node is not None:  # its address is what the others tell apps
            order.sort(key=lambda index: index != app_node)
        for index in order:
            directory = tmp / f"node{index}"
            directory.mkdir(exist_ok=True)
            settings = {
                "data_dir": str(directory),
                "port": 0,
                "profile": "dev",
                "auth.secret": SECRET,
                "drain_timeout": 3.0,
                "cluster.node": f"node{index}",
                **given,
            }
            if app_node is not None and index != app_node:
                settings["public_url"] = made[app_node].url
            fabric = await make()
            stack.push_async_callback(fabric.close)
            fabrics[index] = fabric
            config = CloudConfig.load(overrides=settings, env={})
            made[index] = await stack.enter_async_context(Cloud(config, store=store, fabric=fabric))
        yield Nodes([made[i] for i in range(count)], store, [fabrics[i] for i in range(count)])
