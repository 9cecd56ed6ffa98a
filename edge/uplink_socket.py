"""The WebSocket to the cloud: connect, a bounded queue in front of the socket, and words for what went wrong.

Rules of this file:

- It decides nothing: when to connect, retry and give up is in `edge/core/uplink.py`.
- Nothing waits in a caller: `send` puts a frame into a bounded queue. Full queue: `lossy` drops its oldest, `latest`
  keeps the newest per key, `reliable` closes the connection (its messages are in the link's log and come again).
- The token travels in the Authorization header only, and is never logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from wire import codec
from wire.errors import CloseCode, ConfigError, UplinkError
from wire.messages.base import Delivery
from wire.placement import claimed_user, session_key, with_query

OPEN_MAX = 10.0  # s for TCP, TLS and upgrade together
CLOSE_MAX = 2.0  # s for the closing handshake: the peer may be gone
#: One second of PCM16 at 16 kHz. Older sound is dropped: captions must not lag (failure catalogue EDG-03).
AUDIO_BYTES_MAX = 32_000
#: Text frames waiting for a slow network; the link never has more than 64 unacknowledged.
TEXT_FRAMES_MAX = 256
PATH = "/glasses-ws"


class DialRefused(UplinkError):
    """The upgrade was answered with an HTTP status. `retry_after`: seconds that the server asks us to wait."""

    def __init__(self, status: int, retry_after: float | None) -> None:
        super().__init__(f"the cloud answered HTTP {status}", retryable=True, status=status)
        self.retry_after = retry_after


def endpoint(url: str) -> str:
    """The WebSocket address behind what an operator writes: `host`, `http(s)://…` and a missing path are understood.

    Raises ConfigError.
    """
    given = url if "://" in url else f"wss://{url}"
    parts = urlsplit(given)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise ConfigError(
            f"cloud address {url!r} cannot be used",
            "it is no ws:// or wss:// address",
            "Example: wss://glass.example",
        )
    path = parts.path if parts.path not in ("", "/") else PATH
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


@dataclass(slots=True)
class _Frame:
    data: bytes
    binary: bool
    delivery: Delivery
    key: str | None


class Outbox:
    """Frames on their way to the socket, bounded by delivery class."""

    def __init__(self) -> None:
        self._frames: deque[_Frame] = deque()
        self._audio_bytes = 0
        self._texts = 0
        self._ready = asyncio.Event()
        self.dropped_audio = 0

    def __len__(self) -> int:
        return len(self._frames)

    def put_text(self, data: bytes, delivery: Delivery, key: str | None) -> bool:
        """False if a reliable frame found the queue full: the connection has to go."""
        if delivery is Delivery.LATEST and key is not None:
            for frame in self._frames:
                if frame.delivery is Delivery.LATEST and frame.key == key:
                    frame.data = data
                    return True
        if self._texts >= TEXT_FRAMES_MAX:
            return delivery is Delivery.LOSSY
        self._texts += 1
        self._frames.append(_Frame(data, False, delivery, key))
        self._ready.set()
        return True

    def put_audio(self, pcm: bytes) -> None:
        self._frames.append(_Frame(pcm, True, Delivery.LOSSY, None))
        self._audio_bytes += len(pcm)
        while self._audio_bytes > AUDIO_BYTES_MAX:
            oldest = next(i for i, frame in enumerate(self._frames) if frame.binary)
            self._audio_bytes -= len(self._frames[oldest].data)
            del self._frames[oldest]
            self.dropped_audio += 1
        self._ready.set()

    async def get(self) -> _Frame:
        while not self._frames:
            self._ready.clear()
            await self._ready.wait()
        frame = self._frames.popleft()
        if frame.binary:
            self._audio_bytes -= len(frame.data)
        else:
            self._texts -= 1
        return frame


class UplinkSocket:
    """One connection. `run` lives as long as it does."""

    def __init__(
        self,
        on_opened: Callable[[], None],
        on_text: Callable[[bytes], None],
        on_closed: Callable[[int, str], None],
    ) -> None:
        self._on_opened = on_opened
        self._on_text = on_text
        self._on_closed = on_closed
        self._outbox = Outbox()
        self._socket: ClientConnection | None = None
        self._closing: tuple[int, str] | None = None
        self._wake = asyncio.Event()

    @property
    def dropped_audio(self) -> int:
        return self._outbox.dropped_audio

    async def run(self, url: str, token: str, tls: ssl.SSLContext | None = None) -> None:
        """Connect, call `on_opened`, then `on_text` for each frame, and `on_closed` once at the end.

        Raises UplinkError if the connection never came to be; then no callback has been called.
        """
        async with await self._open(url, token, tls) as socket:
            self._socket = socket
            sender = asyncio.create_task(self._send(socket), name="edge-uplink-send")
            closer = asyncio.create_task(self._close_when_told(socket), name="edge-uplink-close")
            try:
                if self._closing is None:
                    self._on_opened()
                await self._receive(socket)
            finally:
                for task in (sender, closer):
                    task.cancel()
                await asyncio.gather(sender, closer, return_exceptions=True)
                self._socket = None
        self._on_closed(socket.close_code or CloseCode.NORMAL, socket.close_reason or "")

    async def _open(self, url: str, token: str, tls: ssl.SSLContext | None) -> ClientConnection:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        user = claimed_user(token)
        try:
            return await connect(
                with_query(url, session_key(user)) if user else url,  # so that a balancer knows where to
                additional_headers=headers,
                user_agent_header="glassbridge-edge",
                open_timeout=OPEN_MAX,
                close_timeout=CLOSE_MAX,
                ping_interval=None,  # liveness is decided in one place, edge/core/uplink.py
                max_size=codec.TEXT_BYTES_MAX,
                compression=None,  # small frames, and audio that does not shrink
                ssl=tls if url.startswith("wss:") else None,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            wait = _retry_after(error.response.headers.get("Retry-After"))
            raise DialRefused(status, wait) from error
        except InvalidURI as error:
            raise UplinkError(f"not an address: {error}", retryable=True) from error
        except ssl.SSLError as error:
            raise UplinkError(f"TLS: {error.reason or error}", retryable=True) from error
        except TimeoutError as error:
            raise UplinkError(f"no answer within {OPEN_MAX:.0f} s", retryable=True) from error
        except ConnectionRefusedError as error:
            raise UplinkError("nothing listens there", retryable=True) from error
        except socket.gaierror as error:
            raise UplinkError(f"its name is not known here: {error.strerror}", retryable=True) from error
        except (OSError, InvalidHandshake, EOFError) as error:
            raise UplinkError(f"{type(error).__name__}: {error}", retryable=True) from error

    async def _receive(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in socket:
                if isinstance(frame, str):
                    self._on_text(frame.encode("utf-8", "surrogatepass"))
                # The cloud sends an edge no binary frames; a stranger that does is not worth an error.

    async def _send(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                frame = await self._outbox.get()
                await socket.send(frame.data, text=not frame.binary)

    async def _close_when_told(self, socket: ClientConnection) -> None:
        await self._wake.wait()
        assert self._closing is not None
        code, reason = self._closing
        await socket.close(code, reason)

    def send_text(self, data: bytes, delivery: Delivery, key: str | None) -> None:
        """Queue a text frame."""
        if not self._outbox.put_text(data, delivery, key):
            self.close(CloseCode.TRY_AGAIN_LATER, "slow")

    def send_audio(self, pcm: bytes) -> None:
        """Queue a binary frame; the oldest sound goes when more than a second waits."""
        self._outbox.put_audio(pcm)

    def close(self, code: int, reason: str) -> None:
        """End the connection (or the attempt, as soon as it is open); `run` returns afterwards."""
        if self._closing is None:
            self._closing = (code, reason)
            self._wake.set()


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header; its date form is not used by load balancers."""
    if value is None or not value.strip().isdigit():
        return None
    return float(value.strip())
