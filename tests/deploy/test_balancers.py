"""The balancers' files, run by the real programs: a key has one node, a dead node's keys move, everybody else's stay.

Rules: the files are used as they are delivered. HAProxy takes addresses from its environment; of nginx's file only names,
ports and certificate paths are replaced, and the test fails if one of them is not there.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import ssl
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from cloud.auth import hash_api_key
from cloud.http.console.console import LIVE_PATH
from tests.support.cloud import running
from tests.support.tools import missing
from tests.support.waiting import until
from wire.placement import session_key

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KEYS = [session_key(f"user{n}@home.example") for n in range(120)]


class Node:
    """Answers every request with its own name, and `/readyz` as long as it is well."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            body = self.name.encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)
            )
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None


class Balancer:
    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        self.port, self.tls = port, tls

    async def get(self, path: str) -> tuple[int, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            return int(head.split()[1]), body.decode()
        finally:
            writer.close()
            await asyncio.wait({asyncio.ensure_future(writer.wait_closed())}, timeout=2)

    async def where(self, path: str) -> str:
        status, name = await self.get(path)
        assert status == 200, (path, status, name)
        return name

    async def places(self) -> dict[str, str]:
        return {key: await self.where(f"/glasses-ws?s={key}") for key in KEYS}


def free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def certify(folder: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip


@asynccontextmanager
async def balancer(kind: str, ports: list[int]) -> AsyncIterator[Balancer]:
    program = shutil.which(kind) or shutil.which(kind, path="/usr/sbin")
    if program is None:
        missing(kind, f"apt-get install {kind}")
    assert program is not None
    if shutil.which("openssl") is None:
        missing("openssl", "apt-get install openssl")
    folder = Path(tempfile.mkdtemp(prefix="lb-"))
    port = free_port()
    certify(folder)
    certificate = folder / "both.pem"
    certificate.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    addresses = [f"127.0.0.1:{one}" for one in ports]
    environment = dict(os.environ)
    if kind == "haproxy":
        text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
        text = _replaced(text, "/etc/haproxy/glassbridge.pem", str(certificate))
        environment |= {"LISTEN": f"127.0.0.1:{port}"}
        environment |= {f"NODE_{n}": address for n, address in enumerate(addresses, 1)}
        (folder / "haproxy.cfg").write_text(text)
        command = [program, "-f", str(folder / "haproxy.cfg")]
    else:
        text = (DEPLOY / "nginx" / "glassbridge.conf").read_text()
        text = _replaced(text, "listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
        text = re.sub(r"(?m)^( *ssl_certificate +)\S+;", rf"\1{folder / 'cert.pem'};", text)
        text = re.sub(r"(?m)^( *ssl_certificate_key +)\S+;", rf"\1{folder / 'key.pem'};", text)
        for n, address in enumerate(addresses, 1):
            text = _replaced(text, f"server node-{n}:8002", f"server {address}")
        text = re.sub(r"(?m)^ *server node-\d:8002.*\n", "", text)
        temp = "".join(
            f"{name}_temp_path {folder}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nworker_processes 1;\n"
            f"events {{ worker_connections 512; }}\nhttp {{\naccess_log off;\n{temp}{text}\n}}\n"
        )
        command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    log = (folder / "log").open("wb")
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    log.close()
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    context.check_hostname = False
    proxy = Balancer(port, context)

    async def up() -> bool:
        assert process.returncode is None, (folder / "log").read_text()
        try:
            return (await proxy.get("/health"))[0] == 200
        except OSError:
            return False

    try:
        await until(up, f"{kind} serves", 10)
        yield proxy
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _replaced(text: str, old: str, new: str) -> str:
    assert old in text, f"the delivered file has no {old!r} any more"
    return text.replace(old, new)


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
async def test_a_key_has_one_node_and_only_a_dead_nodes_keys_move(kind: str) -> None:
    nodes = [Node(f"n{n}") for n in range(3)]
    for node in nodes:
        await node.start()
    try:
        async with balancer(kind, [node.port for node in nodes]) as proxy:
            before = await proxy.places()
            counts = Counter(before.values())
            print(f"{kind}: {dict(sorted(counts.items()))} of {len(KEYS)} keys")
            assert set(counts) == {"n0", "n1", "n2"}
            assert min(counts.values()) > len(KEYS) / 10
            assert await proxy.places() == before, "the same every time"
            for key in KEYS[:20]:
                assert await proxy.where(f"/s/{key}/app-ws") == before[key], "apps meet their glasses"
                assert await proxy.where(f"/s/{key}/api/tools") == before[key], "and so does their REST"
            anywhere = {await proxy.where("/api/client/user/settings") for _ in range(40)}
            assert len(anywhere) == 3, "who has no key goes anywhere"
            assert (await proxy.get("/metrics"))[0] == 403

            await nodes[1].stop()
            after = await proxy.places()  # at once: what was not sent goes to another node
            assert "n1" not in after.values()
            assert {key: node for key, node in before.items() if node != "n1"} == {
                key: node for key, node in after.items() if before[key] != "n1"
            }, "nobody else moves"
            assert len(set(after[key] for key in KEYS if before[key] == "n1")) == 2, "its keys spread"

            await nodes[1].start()

            async def home() -> bool:
                return await proxy.places() == before

            await until(home, "and they return when it does", 10)
    finally:
        for node in nodes:
            await node.stop()


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
async def test_glasses_of_one_wearer_land_on_one_real_node(kind: str, tmp_path: Path) -> None:
    """Real clouds, a real upgrade through TLS and proxy; the client's address arrives, too."""
    async with AsyncExitStack() as stack:
        clouds = [await stack.enter_async_context(running(tmp_path / str(n))) for n in range(3)]
        proxy = await stack.enter_async_context(balancer(kind, [cloud.port for cloud in clouds]))
        homes: dict[str, set[int]] = {f"user{n}@home.example": set() for n in range(8)}
        for user in [*homes, *homes]:
            token = clouds[0].verifier.mint_core_token(user)
            async with connect(
                f"wss://127.0.0.1:{proxy.port}/glasses-ws?s={session_key(user)}",
                ssl=proxy.tls,
                additional_headers={"Authorization": f"Bearer {token}"},
                proxy=None,
            ) as socket:
                await socket.send('{"type":"connection_init"}')
                assert "connection_ack" in str(await asyncio.wait_for(socket.recv(), 20))
                homes[user] |= {n for n, cloud in enumerate(clouds) if cloud.hub.session_view(user)}
        assert all(len(places) == 1 for places in homes.values()), homes
        assert len(set.union(*homes.values())) > 1


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
async def test_the_consoles_socket_passes_and_a_foreign_page_does_not(kind: str, tmp_path: Path) -> None:
    """The page's own Origin has the balancer's port; the node must see the same Host."""
    async with AsyncExitStack() as stack:
        given = {"auth__admin_token_sha256": hash_api_key("the admin token")}
        clouds = [await stack.enter_async_context(running(tmp_path / str(n), **given)) for n in range(3)]
        proxy = await stack.enter_async_context(balancer(kind, [cloud.port for cloud in clouds]))
        where = f"wss://127.0.0.1:{proxy.port}{LIVE_PATH}"
        own = f"https://127.0.0.1:{proxy.port}"
        for origin, text in ((own, "welcome"), ("https://evil.example", None)):
            dial = connect(where, ssl=proxy.tls, additional_headers={"Origin": origin}, proxy=None)
            if text is None:
                with pytest.raises(InvalidStatus, match="403"):
                    await dial
                continue
            async with dial as socket:
                await socket.send('{"type":"hello","token":"the admin token"}')
                assert text in str(await asyncio.wait_for(socket.recv(), 20))
                assert "summary" in str(await asyncio.wait_for(socket.recv(), 20)), "it is live"
