"""A peer for benchmarks: the `websockets` package as its documentation shows it, doing the same work as the other peers.

Rules: no checks of who speaks, no states, displays as `displays.py` says; `broadcast()` for fan-out, as the package recommends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from urllib.parse import parse_qs, urlsplit

import orjson
import uvloop
from displays import Views  # type: ignore[import-not-found,unused-ignore]
from websockets.asyncio.server import ServerConnection, broadcast, serve


class Session:
    def __init__(self) -> None:
        self.glasses: ServerConnection | None = None
        self.events: set[ServerConnection] = set()
        self.audio: set[ServerConnection] = set()
        self.views = Views()


SESSIONS: defaultdict[str, Session] = defaultdict(Session)


async def handle(ws: ServerConnection) -> None:
    assert ws.request is not None
    query = parse_qs(urlsplit(ws.request.path).query)
    if "u" in query:
        await glasses(ws, query["u"][0])
    else:
        await app(ws)


async def glasses(ws: ServerConnection, user: str) -> None:
    session = SESSIONS[user]
    session.glasses = ws
    await ws.send('{"type":"connection_ack"}')
    async for data in ws:
        if isinstance(data, bytes):
            broadcast(session.audio, data)
            continue
        event = orjson.loads(data)
        if event["type"] == "ping":
            await ws.send('{"type":"pong"}')
            continue
        wrapped = {
            "type": "data_stream",
            "sessionId": user,
            "streamType": event["type"],
            "timestamp": "2026-01-01T00:00:00.000Z",
            "data": event,
        }
        broadcast(session.events, orjson.dumps(wrapped).decode())


async def app(ws: ServerConnection) -> None:
    session: Session | None = None
    owner = ""
    try:
        async for data in ws:
            message = orjson.loads(data)
            match message["type"]:
                case "display_event":
                    out = session.views.display(message, owner) if session else None
                    if session and session.glasses and out is not None:
                        await session.glasses.send(out, text=True)
                case "tpa_connection_init":
                    owner = message["packageName"]
                    session = SESSIONS[message["sessionId"].removesuffix("-" + message["packageName"])]
                    await ws.send('{"type":"tpa_connection_ack","settings":[]}')
                case "subscription_update" if session:
                    session.events.discard(ws)
                    session.audio.discard(ws)
                    if "button_press" in message["subscriptions"]:
                        session.events.add(ws)
                    if "audio_chunk" in message["subscriptions"]:
                        session.audio.add(ws)
    finally:
        if session:
            session.events.discard(ws)
            session.audio.discard(ws)


async def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    async with serve(handle, "127.0.0.1", port, compression=None, ping_interval=None, backlog=4096) as server:
        bound = next(iter(server.sockets)).getsockname()[1]
        print(json.dumps({"event": "ready", "port": bound}), flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(main())
