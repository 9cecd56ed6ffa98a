"""A peer for benchmarks: the `picows` package on uvloop, doing the same work as the other peers.

Rules: no checks of who speaks, no states; an event is wrapped and encoded once, then sent to each receiver; a display is
looked at as `displays.py` says.
"""

from __future__ import annotations

import asyncio
import json
import sys
from urllib.parse import parse_qs, urlsplit

import orjson
import uvloop
from displays import Views  # type: ignore[import-not-found,unused-ignore]
from picows import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_create_server,
)


class Session:
    def __init__(self, user: str) -> None:
        self.user = user
        self.glasses: WSTransport | None = None
        self.events: set[WSTransport] = set()
        self.audio: set[WSTransport] = set()
        self.views = Views()


SESSIONS: dict[str, Session] = {}


def session_of(user: str) -> Session:
    return SESSIONS.setdefault(user, Session(user))


class Glasses(WSListener):  # type: ignore[misc,unused-ignore]
    def __init__(self, user: str) -> None:
        super().__init__()
        self.session = session_of(user)

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.session.glasses = transport
        transport.send(WSMsgType.TEXT, b'{"type":"connection_ack"}')

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY:
            data = frame.get_payload_as_bytes()
            for receiver in self.session.audio:
                receiver.send(WSMsgType.BINARY, data)
        elif frame.msg_type == WSMsgType.TEXT:
            event = orjson.loads(frame.get_payload_as_bytes())
            if event["type"] == "ping":
                transport.send(WSMsgType.TEXT, b'{"type":"pong"}')
                return
            wrapped = orjson.dumps(
                {
                    "type": "data_stream",
                    "sessionId": self.session.user,
                    "streamType": event["type"],
                    "timestamp": "2026-01-01T00:00:00.000Z",
                    "data": event,
                }
            )
            for receiver in self.session.events:
                receiver.send(WSMsgType.TEXT, wrapped)


class App(WSListener):  # type: ignore[misc,unused-ignore]
    def __init__(self) -> None:
        super().__init__()
        self.session: Session | None = None
        self.owner = ""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            return
        data = frame.get_payload_as_bytes()
        message = orjson.loads(data)
        match message["type"]:
            case "display_event":
                if self.session is not None and self.session.glasses is not None:
                    out = self.session.views.display(message, self.owner)
                    if out is not None:
                        self.session.glasses.send(WSMsgType.TEXT, out)
            case "tpa_connection_init":
                self.owner = message["packageName"]
                self.session = session_of(message["sessionId"].removesuffix("-" + message["packageName"]))
                transport.send(WSMsgType.TEXT, b'{"type":"tpa_connection_ack","settings":[]}')
            case "subscription_update" if self.session is not None:
                self.on_ws_disconnected(transport)
                if "button_press" in message["subscriptions"]:
                    self.session.events.add(transport)
                if "audio_chunk" in message["subscriptions"]:
                    self.session.audio.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self.session is not None:
            self.session.events.discard(transport)
            self.session.audio.discard(transport)


def listener(request: WSUpgradeRequest) -> WSListener:
    query = parse_qs(urlsplit(request.path.decode()).query)
    return Glasses(query["u"][0]) if "u" in query else App()


async def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    server = await ws_create_server(listener, "127.0.0.1", port, backlog=4096)
    print(json.dumps({"event": "ready", "port": server.sockets[0].getsockname()[1]}), flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(main())
