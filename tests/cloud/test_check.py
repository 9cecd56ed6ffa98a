"""`cloud check`: what it finds on a sound cloud, on a broken proxy and on nobody."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from cloud.check import Finding, Verdict, check
from cloud.connection import Connection
from cloud.listener import Accept, Listener, Reject, UpgradeRequest
from tests.cloud.test_auth import rsa_key
from wire.errors import ConfigError


class Silent:
    """A handler that may close at once, as a proxy with a short idle time-out would."""

    def __init__(self, closes: bool = False) -> None:
        self._closes = closes

    def on_open(self, connection: Connection) -> None:
        if self._closes:
            connection.close(1001, "idle")

    def on_text(self, data: bytes) -> None: ...
    def on_binary(self, data: bytes) -> None: ...
    def on_pong(self, payload: bytes) -> None: ...
    def on_closed(self, code: int, reason: str) -> None: ...


@contextlib.asynccontextmanager
async def cloud(
    *, health: bool = True, ready: bool = True, sockets: bool = True, cuts: bool = False
) -> AsyncIterator[str]:
    def upgrade(request: UpgradeRequest) -> Accept | Reject:
        if not sockets:
            return Reject(404, {})
        if request.path == "/app-ws":
            return Accept(Silent(), authenticated=False)
        if request.headers.get("authorization") == "Bearer good":
            return Accept(Silent(cuts))
        return Reject(401, {"type": "connection_error", "message": "Invalid core token"})

    checks = {"storage": "ok" if ready else "disk full"}
    routes = [Route("/readyz", lambda r: JSONResponse({"checks": checks}, 200 if ready else 503))]
    if health:
        routes.append(Route("/health", lambda r: JSONResponse({"status": "ok"})))
    else:
        routes.append(Route("/health", lambda r: PlainTextResponse("It works!")))
    listener = Listener(http_app=Starlette(routes=routes), upgrade=upgrade)
    _, port = await listener.start("127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await listener.close(timeout=1.0)


async def findings(url: str, token: str | None = None, idle: float = 0.1) -> dict[str, Finding]:
    return {finding.step: finding async for finding in check(url, token=token, idle=idle)}


async def test_a_sound_cloud_passes_every_step() -> None:
    async with cloud() as url:
        found = await findings(url + "/some/page?x=1", "good")
    assert list(found) == ["health", "readiness", "glasses socket", "app socket", "idle socket"]
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}


async def test_without_a_token_the_idle_step_says_that_it_was_left_out() -> None:
    async with cloud() as url:
        found = await findings(url)
    assert found["idle socket"].verdict is Verdict.WARNING
    assert "--token" in found["idle socket"].fix


async def test_a_proxy_that_cuts_idle_sockets_is_named() -> None:
    async with cloud(cuts=True) as url:
        found = await findings(url, "good", idle=10.0)
    assert found["idle socket"].verdict is Verdict.FAILED
    assert "proxy_read_timeout" in found["idle socket"].fix


async def test_a_proxy_that_passes_no_upgrades_is_named() -> None:
    async with cloud(sockets=False) as url:
        found = await findings(url)
    assert found["glasses socket"].verdict is Verdict.FAILED
    assert "Upgrade" in found["glasses socket"].fix
    assert found["app socket"].verdict is Verdict.FAILED


async def test_a_refused_token_and_a_cloud_that_is_not_ready_are_named() -> None:
    async with cloud(ready=False) as url:
        found = await findings(url, "bad")
    assert found["readiness"].found == "storage: disk full"
    assert found["idle socket"].verdict is Verdict.FAILED
    assert "token new" in found["idle socket"].fix


async def test_another_server_and_nobody_end_the_check() -> None:
    async with cloud(health=False) as url:
        found = await findings(url)
    assert list(found) == ["health"]
    assert found["health"].verdict is Verdict.FAILED
    assert list(await findings("http://127.0.0.1:1")) == ["health"]


async def test_an_untrusted_certificate_is_named(tmp_path: Path) -> None:
    key = rsa_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "tls.pem"
    pem.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.public_bytes(Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    found = await findings(f"https://localhost:{port}")
    server.close()
    await server.wait_closed()
    assert found["health"].verdict is Verdict.FAILED
    assert "certificate" in found["health"].found


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://[::1", ""])
async def test_what_is_no_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError):
        await findings(url)
