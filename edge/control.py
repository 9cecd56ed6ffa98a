"""Local windows into the daemon: a UNIX socket for the command line, and /status and /metrics on loopback.

Rules: read-mostly and local. The socket takes one JSON object per line and answers with one; the HTTP port answers GET
only and binds to loopback only. No contents of screens, no tokens. Where Python has no UNIX sockets (Windows) the socket's
path holds a loopback port and a key instead, in a folder that only its owner can read.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from wire.errors import ConfigError

#: A request is one short line; more is no request of ours.
LINE_MAX = 4096
#: Watchers of `edge status --watch` and a little more; a local process must not exhaust our files.
CLIENTS_MAX = 16
IDLE_MAX = 60.0  # s without a request, then the client is gone

#: Whether Python serves UNIX sockets here.
HAS_UNIX = hasattr(asyncio, "start_unix_server")
ASK_MAX = 5.0  # s; the daemon answers from memory
ANSWER_MAX = 1 << 20  # bytes; 20 wearers are 40 kB

Status = Callable[[], dict[str, Any]]
#: Commands besides `status`: name -> what it does with the rest of the request, returning the answer's members.
Commands = dict[str, Callable[[dict[str, Any]], dict[str, Any]]]


def ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """One question to the daemon that listens at `path`. Raises OSError if none answers."""
    address: Any = str(path)
    if path.is_file():
        try:
            entry = orjson.loads(path.read_bytes())
            address = ("127.0.0.1", int(entry["port"]))
            request = {**request, "key": str(entry["key"])}
        except (ValueError, KeyError, TypeError):
            raise ConnectionRefusedError(f"{path} names no daemon") from None
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    with socket.socket(family) as connection:
        connection.settimeout(ASK_MAX)
        connection.connect(address)
        connection.sendall(orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE))
        answer = b""
        while not answer.endswith(b"\n"):
            part = connection.recv(65536)
            answer += part
            if not part or len(answer) > ANSWER_MAX:
                raise ConnectionAbortedError("the answer was cut short")
    said: dict[str, Any] = orjson.loads(answer)
    return said


class ControlSocket:
    """`{"cmd": "status"}` and what the daemon adds, over a UNIX socket that only its owner can open."""

    def __init__(self, path: Path, status: Status, commands: Commands, *, unix: bool = HAS_UNIX) -> None:
        self.path = path
        self._unix = unix
        self._key: str | None = None  # what a client has to know where the socket itself asks nobody
        self._status = status
        self._commands = commands
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def start(self) -> None:
        """Raises ConfigError if another daemon listens there, or the path cannot be used."""
        await self._refuse_second()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.unlink(missing_ok=True)
            old = os.umask(0o177)
            try:
                if self._unix:
                    self._server = await asyncio.start_unix_server(
                        self._client, str(self.path), limit=LINE_MAX
                    )
                else:
                    await self._serve_loopback()
            finally:
                os.umask(old)
        except OSError as error:
            raise ConfigError(
                f"control socket {self.path} cannot be made",
                error.strerror or str(error),
                "Set control_socket or data_dir",
            ) from error

    async def _serve_loopback(self) -> None:
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=LINE_MAX)
        self._key = secrets.token_hex(16)
        entry = {"port": self._server.sockets[0].getsockname()[1], "key": self._key}
        self.path.write_bytes(orjson.dumps(entry))

    async def _refuse_second(self) -> None:
        try:
            await asyncio.to_thread(ask, self.path, {"cmd": "status"})
        except OSError:
            return  # nobody there: a leftover of a crash at most
        raise ConfigError(
            f"control socket {self.path} is in use",
            "an edge daemon already runs there",
            "Stop it, or set data_dir",
        )

    async def stop(self) -> None:
        self._stopped = True
        if self._server is not None:
            self._server.close()
            await asyncio.sleep(0)  # a connection accepted in this very turn gets to know that we stop
            for task in tuple(self._clients):
                task.cancel()
            await asyncio.gather(*self._clients, return_exceptions=True)
            await self._server.wait_closed()
            self.path.unlink(missing_ok=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if self._stopped or len(self._clients) > CLIENTS_MAX:
                return
            while True:
                async with asyncio.timeout(IDLE_MAX):
                    line = await reader.readline()
                    if not line:
                        return
                    writer.write(orjson.dumps(self._answer(line), option=orjson.OPT_APPEND_NEWLINE))
                    await writer.drain()
        except (OSError, TimeoutError, ValueError, asyncio.CancelledError):
            pass  # the client left, sleeps, or sent an endless line: its affair alone
        finally:
            self._clients.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = orjson.loads(line)
        except orjson.JSONDecodeError:
            request = None
        if not isinstance(request, dict) or not isinstance(request.get("cmd"), str):
            return {"ok": False, "error": 'a request is one line of JSON such as {"cmd": "status"}'}
        if self._key is not None and not hmac.compare_digest(str(request.get("key")), self._key):
            return {"ok": False, "error": f"the key that stands in {self.path} is missing"}
        name = request["cmd"]
        if name == "status":
            return {"ok": True, "status": self._status()}
        command = self._commands.get(name)
        if command is None:
            known = ", ".join(["status", *self._commands])
            return {"ok": False, "error": f"unknown command {name!r} (there are: {known})"}
        return {"ok": True, **command(request)}


class StatusPort:
    """GET /status (JSON), /metrics (Prometheus text), /livez on a loopback port."""

    def __init__(self, port: int, status: Status) -> None:
        self._port = port
        self._status = status
        self._server: Server | None = None
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Metrics(status))

    async def start(self) -> str:
        """The base URL. Raises ConfigError if the port is taken."""
        try:
            self._server = await serve(_no_websocket, "127.0.0.1", self._port, process_request=self._request)
        except OSError as error:
            raise ConfigError(
                f"status port {self._port} cannot be used",
                error.strerror or str(error),
                "Choose another --status-port",
            ) from error
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def _request(self, _: ServerConnection, request: Request) -> Response:
        match request.path.partition("?")[0]:
            case "/status" | "/":
                return _response(HTTPStatus.OK, "application/json", orjson.dumps(self._status()))
            case "/metrics":
                return _response(HTTPStatus.OK, "text/plain; version=0.0.4", generate_latest(self._registry))
            case "/livez":
                return _response(HTTPStatus.OK, "text/plain", b"ok\n")
            case _:
                return _response(
                    HTTPStatus.NOT_FOUND, "text/plain", b"there are /status, /metrics and /livez\n"
                )


async def _no_websocket(connection: ServerConnection) -> None:
    await connection.close(
        1003, "plain HTTP only"
    )  # not reached: every request is answered before the upgrade


def _response(status: HTTPStatus, kind: str, body: bytes) -> Response:
    headers = Headers([("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")])
    return Response(status.value, status.phrase, headers, body)


#: Status member of an arm -> (metric, help, scale to base units).
_ARM_GAUGES = (
    ("battery", "glassbridge_edge_arm_battery_ratio", "Battery of the arm, 0 to 1.", 0.01),
    (
        "battery_per_hour",
        "glassbridge_edge_arm_battery_drain_ratio_per_second",
        "How fast the battery of the arm empties.",
        0.01 / 3600,
    ),
    ("rssi", "glassbridge_edge_arm_rssi_dbm", "Signal strength of the last advertisement.", 1.0),
    ("ack_ms", "glassbridge_edge_arm_ack_seconds", "Smoothed time from a packet to its answer.", 0.001),
    (
        "bytes_per_second",
        "glassbridge_edge_arm_link_bytes_per_second",
        "What the link carried when a bulk transfer measured it last.",
        1.0,
    ),
    ("queued", "glassbridge_edge_arm_queued_commands", "Commands waiting in front of the arm.", 1.0),
)
_ARM_COUNTERS = (
    ("connects", "glassbridge_edge_arm_connects", "Links made to the arm."),
    ("written_bytes", "glassbridge_edge_arm_written_bytes", "Bytes written to the arm."),
    ("written_packets", "glassbridge_edge_arm_written_packets", "ATT writes to the arm."),
    ("retries", "glassbridge_edge_arm_retries", "Commands said again for want of an answer."),
)


class _Metrics(Collector):
    """The status as Prometheus families. Labels: index of the wearer and arm, never a user."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        wearers = status["wearers"]
        up = GaugeMetricFamily(
            "glassbridge_edge_cloud_online", "1 while the cloud has acknowledged.", labels=["wearer"]
        )
        attempts = CounterMetricFamily(
            "glassbridge_edge_cloud_attempts", "Attempts to connect.", labels=["wearer"]
        )
        ready = GaugeMetricFamily(
            "glassbridge_edge_arm_ready", "1 while the arm answers.", labels=["wearer", "arm"]
        )
        lost = CounterMetricFamily(
            "glassbridge_edge_audio_lost_packets", "Sound lost on the air.", labels=["wearer"]
        )
        yield GaugeMetricFamily(
            "glassbridge_edge_uptime_seconds", "Since the daemon started.", value=status["uptime_s"]
        )
        for index, wearer in enumerate(wearers):
            label = [str(index)]
            up.add_metric(label, float(wearer["cloud"]["state"] == "online"))
            attempts.add_metric(label, wearer["cloud"]["attempts"])
            lost.add_metric(label, wearer["glasses"]["counters"]["audio_lost"])
            for arm, facts in wearer["glasses"]["arms"].items():
                ready.add_metric([*label, arm], float(facts["state"] == "ready"))
        yield from (up, attempts, ready, lost)
        for member, name, words, scale in _ARM_GAUGES:
            gauge = GaugeMetricFamily(name, words, labels=["wearer", "arm"])
            for labels, facts in _arms(wearers):
                if facts[member] is not None:
                    gauge.add_metric(labels, facts[member] * scale)
            yield gauge
        for member, name, words in _ARM_COUNTERS:
            counter = CounterMetricFamily(name, words, labels=["wearer", "arm"])
            for labels, facts in _arms(wearers):
                counter.add_metric(labels, facts[member])
            yield counter


def _arms(wearers: list[dict[str, Any]]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    for index, wearer in enumerate(wearers):
        for arm, facts in wearer["glasses"]["arms"].items():
            yield [str(index), arm], facts
