"""`cloud check URL`: whether phones and apps can really use a cloud from here, through whatever stands in between.

Rules: looks from outside, changes nothing, and says for each finding what it means and what mends it. Every step is
bounded; a step that cannot run because an earlier one failed is left out.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException

from wire.errors import ConfigError

STEP_TIMEOUT: Final = 10.0
#: Proxies commonly cut a direction that was idle for 60 s (failure catalogue LIV-01).
IDLE: Final = 65.0
#: Days before the end of a certificate when renewal should have happened.
CERTIFICATE_DAYS: Final = 14


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One step of the check: what was found and, unless it is ok, the cure."""

    step: str
    verdict: Verdict
    found: str
    fix: str = ""


async def check(url: str, *, token: str | None = None, idle: float = IDLE) -> AsyncIterator[Finding]:
    """Findings as they come. `token`: a core token, needed to hold a socket for `idle` seconds. Raises ConfigError."""
    base = _base(url)
    tls = base.scheme == "https"
    async with httpx.AsyncClient(timeout=STEP_TIMEOUT, trust_env=False) as client:
        first = await _health(client, base)
        yield first
        if first.verdict is Verdict.FAILED:
            return
        if tls:
            yield await _certificate(base)
        elif base.host not in ("127.0.0.1", "localhost", "::1"):
            yield Finding(
                "TLS",
                Verdict.WARNING,
                "plain HTTP: tokens and API keys travel in clear",
                "Put a proxy with a certificate in front, e.g. Caddy: `reverse_proxy 127.0.0.1:8002`.",
            )
        yield await _readiness(client, base)
    socket = "wss" if tls else "ws"
    authority = base.netloc.decode("ascii")
    yield await _upgrade(f"{socket}://{authority}/glasses-ws?token=glassbridge-check")
    yield await _app_upgrade(f"{socket}://{authority}/app-ws")
    if token is None:
        yield Finding(
            "idle socket", Verdict.WARNING, "not checked", "Give a core token with --token to check it."
        )
    else:
        yield await _idle(f"{socket}://{authority}/glasses-ws", token, idle)


def _base(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url if "://" in url else f"https://{url}")
    except httpx.InvalidURL as error:
        raise ConfigError(
            url, f"it is no URL ({error})", "Give for example https://glass.example."
        ) from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(url, "it is not http:// or https://", "Give for example https://glass.example.")
    return parsed.copy_with(path="/", query=None, fragment=None)


async def _health(client: httpx.AsyncClient, base: httpx.URL) -> Finding:
    started = time.monotonic()
    try:
        answer = await client.get(base.join("/health"))
    except httpx.ConnectError as error:
        if _has(error, ssl.SSLCertVerificationError):
            return Finding(
                "health",
                Verdict.FAILED,
                f"the certificate is not trusted ({_tls_words(error)})",
                "Install a certificate for this host name, e.g. with certbot or Caddy.",
            )
        return Finding(
            "health",
            Verdict.FAILED,
            f"cannot connect ({error})",
            "Is the cloud running, and the port forwarded?",
        )
    except httpx.HTTPError as error:
        return Finding(
            "health", Verdict.FAILED, f"no answer ({type(error).__name__})", "Look at the proxy's log."
        )
    took = (time.monotonic() - started) * 1000
    with suppress(json.JSONDecodeError, AttributeError):
        if answer.status_code == 200 and answer.json().get("status") == "ok":
            return Finding("health", Verdict.OK, f"answers in {took:.0f} ms")
    return Finding(
        "health",
        Verdict.FAILED,
        f"something else answers here (status {answer.status_code})",
        "Point the proxy at the cloud's port (8002 by default).",
    )


async def _readiness(client: httpx.AsyncClient, base: httpx.URL) -> Finding:
    try:
        answer = await client.get(base.join("/readyz"))
        checks = answer.json().get("checks", {})
    except (httpx.HTTPError, json.JSONDecodeError, AttributeError):
        return Finding("readiness", Verdict.WARNING, "/readyz does not answer", "Let the proxy pass /readyz.")
    if answer.status_code == 200:
        return Finding("readiness", Verdict.OK, "ready")
    wrong = ", ".join(f"{name}: {state}" for name, state in checks.items() if state != "ok")
    return Finding("readiness", Verdict.FAILED, wrong or "not ready", "See the log of the cloud.")


async def _certificate(base: httpx.URL) -> Finding:
    try:
        async with asyncio.timeout(STEP_TIMEOUT):
            _, writer = await asyncio.open_connection(
                base.host, base.port or 443, ssl=ssl.create_default_context(), server_hostname=base.host
            )
            certificate = writer.get_extra_info("peercert")
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400
    except (OSError, TimeoutError, KeyError, ValueError) as error:
        return Finding(
            "TLS", Verdict.FAILED, f"handshake failed ({type(error).__name__})", "Look at the proxy's log."
        )
    if days < CERTIFICATE_DAYS:
        return Finding(
            "TLS",
            Verdict.WARNING,
            f"the certificate ends in {days:.0f} days",
            "Renew it, and let that happen by itself.",
        )
    return Finding("TLS", Verdict.OK, f"certificate valid for {days:.0f} more days")


async def _upgrade(url: str) -> Finding:
    """A bad token must reach us and be refused by us: that proves the upgrade and the query string pass."""
    step = "glasses socket"
    proxy = "Let the proxy pass `Upgrade` and `Connection` headers (nginx: proxy_http_version 1.1)."
    try:
        async with connect(url, open_timeout=STEP_TIMEOUT, proxy=None):
            return Finding(
                step, Verdict.FAILED, "a socket opened with a made-up token", "Is this Glassbridge?"
            )
    except InvalidStatus as error:
        body = bytes(error.response.body or b"")
        status = error.response.status_code
        if status == 401 and b"connection_error" in body:
            return Finding(step, Verdict.OK, "the upgrade reaches the cloud, which refuses a made-up token")
        if status == 503:
            return Finding(step, Verdict.WARNING, "the cloud is draining or full", "Try again in a minute.")
        return Finding(step, Verdict.FAILED, f"the upgrade was answered with status {status}", proxy)
    except (OSError, TimeoutError, InvalidHandshake, WebSocketException) as error:
        return Finding(step, Verdict.FAILED, f"the upgrade failed ({type(error).__name__})", proxy)


async def _app_upgrade(url: str) -> Finding:
    step = "app socket"
    started = time.monotonic()
    try:
        async with connect(url, open_timeout=STEP_TIMEOUT, proxy=None) as socket:
            opened = (time.monotonic() - started) * 1000
            async with asyncio.timeout(STEP_TIMEOUT):
                pong = await socket.ping()
                await pong
            return Finding(step, Verdict.OK, f"opens in {opened:.0f} ms")
    except (OSError, TimeoutError, InvalidHandshake, WebSocketException) as error:
        return Finding(
            step,
            Verdict.FAILED,
            f"apps cannot connect ({type(error).__name__})",
            "Let the proxy pass WebSocket upgrades on /app-ws.",
        )


async def _idle(url: str, token: str, idle: float) -> Finding:
    """Hold a socket as quiet as ours ever gets: we say nothing, and only protocol pings are answered."""
    step = "idle socket"
    started = time.monotonic()
    try:
        async with connect(
            url,
            open_timeout=STEP_TIMEOUT,
            proxy=None,
            ping_interval=None,
            additional_headers={"Authorization": f"Bearer {token}"},
        ) as socket:
            with suppress(TimeoutError):
                async with asyncio.timeout(idle):
                    async for _ in socket:
                        pass
                held = time.monotonic() - started
                return Finding(
                    step,
                    Verdict.FAILED,
                    f"cut after {held:.0f} s (code {socket.close_code})",
                    "Raise the proxy's idle time-outs in both directions"
                    " (nginx: proxy_read_timeout and proxy_send_timeout 3600s).",
                )
    except InvalidStatus as error:
        return Finding(
            step,
            Verdict.FAILED,
            f"the token was refused ({error.response.status_code})",
            "Make one: `token new --user …`.",
        )
    except (OSError, TimeoutError, WebSocketException) as error:
        return Finding(step, Verdict.FAILED, f"failed ({type(error).__name__})", "Look at the proxy's log.")
    return Finding(step, Verdict.OK, f"held for {idle:.0f} s without a word from the client")


def _has(error: BaseException, kind: type[BaseException]) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, kind):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _tls_words(error: BaseException) -> str:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return seen.verify_message
        seen = seen.__cause__ or seen.__context__
    return "unknown"
