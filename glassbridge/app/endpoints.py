"""Which addresses an app server may be sent to by a webhook.

Rules: pure. A webhook names the WebSocket address to which the app then shows its key, so the address is judged before
anything is dialled (failure catalogue SEC-13). Whether the webhook itself is genuine is for `cloud.webhooks` to say.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine, by name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_endpoint(url: str, allowed: frozenset[str]) -> str | None:
    """Why the app may not connect to `url`, or None if it may.

    `allowed` holds `host` or `host:port`; an empty set means development, and allows this machine only.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "the WebSocket address cannot be read"
    if parts.scheme not in ("ws", "wss") or not host:
        return "the WebSocket address must begin with ws:// or wss://"
    if not allowed:
        return None if is_loopback(host) else f"{host} is not this machine: name it with App(cloud=...)"
    port = port or (443 if parts.scheme == "wss" else 80)
    if host in allowed or f"{host}:{port}" in allowed:
        return None
    return f"{host}:{port} is not the cloud that this app was given"
