"""The opening handshake of RFC 6455 as nearly every client sends it, checked in one pass.

Rules: pure. It only ever says yes: a head that is repeated, split, negotiated or odd in any way is None, and `websockets`
judges it. What is accepted here `websockets` accepts too, with the same bytes in answer; a test holds both together.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Final

#: Longer heads are left to `websockets`, which has limits per line and on the number of lines.
_HEAD_MAX: Final = 8192
_LINES_MAX: Final = 64

_HEAD: Final = re.compile(
    rb"GET ([!-~]+) HTTP/1\.1\r\n((?:[-!#$%&'*+.^_`|~0-9A-Za-z]+:[\t -~]*\r\n)+)\r\n", re.DOTALL
)
#: 16 bytes in base64, without stray bits at its end.
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
#: What browsers, the `ws` package and mobile stacks say.
_CONNECTION: Final = frozenset({"upgrade", "keep-alive, upgrade"})
#: Negotiations and bodies are not for this way.
_UNUSUAL: Final = ("sec-websocket-protocol", "content-length", "transfer-encoding")


@dataclass(frozen=True, slots=True)
class Handshake:
    """A request to open a WebSocket. Header names are lower-case, and each came once."""

    target: str
    headers: dict[str, str]
    accept: bytes

    def answer(self, date: bytes) -> bytes:
        """The response that opens it; `date` as in the `Date` header."""
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nDate: %b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % (date, self.accept)
        )


def ordinary(head: bytes, *, extensions: bool = False) -> Handshake | None:
    """The handshake in this head (with its empty line), or None for `websockets` to judge.

    `extensions`: the server offers some, so that a client that asks for them is not ordinary.
    """
    if len(head) > _HEAD_MAX:
        return None
    match = _HEAD.fullmatch(head)
    if match is None:
        return None
    lines = match[2].decode("ascii").split("\r\n")
    if len(lines) > _LINES_MAX:
        return None
    headers: dict[str, str] = {}
    for line in lines[:-1]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip(" \t")
    key = headers.get("sec-websocket-key", "")
    if (
        len(headers) != len(lines) - 1  # one came twice
        or headers.get("upgrade", "").lower() != "websocket"
        or headers.get("connection", "").lower() not in _CONNECTION
        or headers.get("sec-websocket-version") != "13"
        or _KEY.fullmatch(key) is None
        or (extensions and "sec-websocket-extensions" in headers)
        or any(name in headers for name in _UNUSUAL)
    ):
        return None
    accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest())
    return Handshake(match[1].decode("ascii"), headers, accept)
