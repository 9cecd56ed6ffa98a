"""Who may tell an app server what to do: the webhook's signature and the addresses it may name.

Rules: pure. The cloud signs `timestamp.body` with the stored form of the app's key (the SHA-256 hex that both sides
can compute), so a forged or an old request never makes the app dial out or stop anything (failure catalogue SEC-13).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from urllib.parse import urlsplit

#: A signed request older or newer than this is a replay or a broken clock. Seconds.
WINDOW = 300.0


TIMESTAMP_HEADER = "x-glassbridge-timestamp"
SIGNATURE_HEADER = "x-glassbridge-signature"


def key_of(api_key: str) -> bytes:
    """The signing key that app and cloud share: the hex form in which the cloud stores the app's key."""
    return hashlib.sha256(api_key.encode()).hexdigest().encode()


def sign(api_key: str, timestamp: str, body: bytes) -> str:
    """The signature header's value for a request at `timestamp` (Unix seconds, decimal)."""
    return "v1=" + hmac.new(key_of(api_key), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def verify(api_key: str, timestamp: str, signature: str, body: bytes, now: float) -> str | None:
    """Why this request is not from our cloud, or None if it is. `now` in Unix seconds."""
    try:
        age = now - float(timestamp)
    except ValueError:
        return "the timestamp is not a number"
    if not abs(age) <= WINDOW:  # also refuses NaN
        return f"signed {age:.0f} s ago; at most {WINDOW:.0f} s are accepted (is a clock wrong?)"
    if not hmac.compare_digest(sign(api_key, timestamp, body).encode(), signature.encode()):
        return "the signature does not fit this app's key"
    return None


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
