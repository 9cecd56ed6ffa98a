"""The store of strings, against a real HTTP server with the wire's answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from glassbridge.app import StorageError
from glassbridge.app.server import _Server
from glassbridge.app.storage import VALUE_BYTES_MAX, Storage


@asynccontextmanager
async def storage() -> AsyncIterator[Storage]:
    kept: dict[str, str] = {}

    async def user(request: Request) -> JSONResponse:
        assert unquote(request.path_params["user"]) == "anna@example.com"
        if request.headers["authorization"] != "Bearer org.example.test:key":
            return JSONResponse({"error": "Invalid API key"}, 401)
        match request.method:
            case "PUT":
                kept.update((await request.json())["data"])
            case "DELETE":
                kept.clear()
        return JSONResponse({"success": True, "data": kept})

    async def one(request: Request) -> JSONResponse:
        found = kept.pop(request.path_params["key"], None) is not None
        return JSONResponse({"success": found}, 200 if found else 404)

    base = "/api/sdk/simple-storage/{user}"
    routes: list[Any] = [
        Route(base, user, methods=["GET", "PUT", "DELETE"]),
        Route(base + "/{key}", one, methods=["DELETE"]),
    ]
    listener = socket.create_server(("127.0.0.1", 0))
    server = _Server(uvicorn.Config(Starlette(routes=routes), lifespan="off", log_level="warning"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with httpx.AsyncClient(trust_env=False) as client:
        yield Storage(client, lambda: url, "anna@example.com", "org.example.test", "key")
    server.should_exit = True
    await task
    listener.close()


async def test_what_was_set_is_there_until_it_is_deleted() -> None:
    async with storage() as store:
        await store.set_many({"a": "1", "b": "2"})
        assert await store.get("a") == "1"
        assert await store.get("c", "nothing") == "nothing"
        assert await store.delete("a") is True
        assert await store.delete("a") is False
        assert await store.all() == {"b": "2"}
        await store.clear()
        assert await store.all() == {}


async def test_a_value_over_the_limit_is_refused_before_it_travels() -> None:
    async with storage() as store:
        with pytest.raises(StorageError, match="over 100000 bytes"):
            await store.set("a", "x" * (VALUE_BYTES_MAX + 1))


async def test_a_refusal_carries_its_status_and_reason() -> None:
    async with storage() as store:
        store._headers = {"Authorization": "Bearer org.example.test:wrong"}
        with pytest.raises(StorageError, match="Invalid API key") as caught:
            await store.all()
        assert caught.value.status == 401


async def test_an_unreachable_cloud_is_named() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        store = Storage(client, lambda: "http://127.0.0.1:1", "u", "p", "k")
        with pytest.raises(StorageError, match="not reached"):
            await store.all()
