"""Posts to app servers: signed, bounded, and never to an address that the operator did not permit.

Rules: a name is resolved once, every address is judged, and the connection goes to a judged address, so DNS cannot
change its mind in between. No redirects, no proxies, no connection reuse. Time, reply size and requests in flight are
bounded (in total and per host). The wait for a slot is ours and the time of the answer is the app server's: each has its
own limit. Nothing here raises: the outcome is a `WebhookResult`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias
from weakref import WeakValueDictionary

import httpx
import orjson

log = logging.getLogger(__name__)

#: The SDK's answers have fewer than 200 bytes; a tool's answer may be a page of text.
REPLY_MAX: Final = 64 * 1024
#: A hanging app server holds at most this many of the slots that all share.
PER_HOST_MAX: Final = 16
#: Addresses tried of one name; more only delays the verdict.
ADDRESSES_MAX: Final = 3
#: Longest wait for a slot, seconds. With the 4 s in which a start may wait for its endpoint's pace it ends before the start
#: is given up as unsent (10 s), so that its caller hears the true reason.
QUEUE_TIMEOUT: Final = 5.0
#: A name that takes longer to resolve is as good as unknown to the operator who registers it, seconds.
REFUSAL_TIMEOUT: Final = 5.0
#: A signature is accepted this long, seconds either way (failure catalogue SEC-13).
SIGNATURE_WINDOW: Final = 300.0

SIGNATURE_HEADER: Final = "X-Glassbridge-Signature"
DELIVERY_HEADER: Final = "X-Glassbridge-Delivery"

#: Entry of the allow list that stands for every loopback address (the dev profile).
LOOPBACK: Final = "loopback"

Resolve: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class WebhookError(StrEnum):
    """Why a webhook brought no good answer. Values are for the developer: no internal detail."""

    INVALID_URL = "invalid_url"  # not http(s), credentials inside, unparsable
    FORBIDDEN = "forbidden_address"  # private or reserved address, odd port
    DNS = "name_not_found"
    CONNECT = "connect_failed"
    LOST = "connection_lost"  # broke off before the answer was complete
    TLS = "tls_failed"
    TIMEOUT = "timeout"
    QUEUE = "queue_full"  # ours: no slot came free in time, and nothing was sent
    REDIRECT = "redirect_refused"
    TOO_LARGE = "reply_too_large"
    PROTOCOL = "bad_reply"
    STATUS = "error_status"  # an answer with a status outside 200-299


@dataclass(frozen=True, slots=True)
class WebhookResult:
    """Outcome of one POST. `body` is the answer's JSON object, if it was one; `duration` in seconds from when
    the request had its slot, so that the app server is not charged with our own queue."""

    ok: bool
    status: int | None
    error: WebhookError | None
    body: dict[str, Any] | None
    duration: float


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file part of a multipart form."""

    field: str
    name: str
    data: bytes
    mime_type: str


# -------------------------------------------------------------------------------------------------- signatures


def sign(body: bytes, hashed_api_key: str, timestamp: int) -> str:
    """The signature header: HMAC-SHA256 over time and raw body, keyed with the hash of the app's API key.

    The cloud stores that hash and the app can compute it, so no further secret needs to be exchanged.
    """
    digest = hmac.new(hashed_api_key.encode(), b"%d." % timestamp + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def signature_is_valid(body: bytes, header: str | None, api_key: str, now: float) -> bool:
    """Whether `header` signs `body` with this app's key within five minutes of `now` (wall clock, seconds)."""
    parts = dict(part.partition("=")[::2] for part in (header or "").split(","))
    try:
        timestamp = int(parts["t"])
        given = parts["v1"]
    except (KeyError, ValueError):
        return False
    expected = sign(body, hashlib.sha256(api_key.encode()).hexdigest(), timestamp).partition("v1=")[2]
    return abs(now - timestamp) <= SIGNATURE_WINDOW and hmac.compare_digest(expected.encode(), given.encode())


# -------------------------------------------------------------------------------------------------- destinations


def is_public(address: Address) -> bool:
    """Whether an address belongs to the open Internet, after taking off every IPv6 wrapping of an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address.teredo is not None:
            inner = address.teredo[1]
        if inner is None and (int(address) >> 32 == 0 or address in _NAT64):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and address not in _NAT64_LOCAL


_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
#: Locally chosen NAT64 prefixes (RFC 8215); where the IPv4 address lies inside is not fixed.
_NAT64_LOCAL: Final = ipaddress.IPv6Network("64:ff9b:1::/48")


async def system_resolve(host: str, port: int) -> list[str]:
    """Addresses of a name, as the operating system knows them. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _Refused(Exception):
    def __init__(self, error: WebhookError) -> None:
        super().__init__(error)
        self.error = error


class DestinationPolicy:
    """Decides which addresses may be reached. `allow` holds exact host:port pairs, or `loopback`."""

    def __init__(
        self,
        allow: Collection[str] = (),
        *,
        allow_http: bool = True,
        resolve: Resolve = system_resolve,
    ) -> None:
        self._allow = frozenset(entry.lower() for entry in allow)
        self._schemes = ("http", "https") if allow_http else ("https",)
        self._resolve = resolve

    async def vet(self, text: str) -> tuple[httpx.URL, list[str]]:
        """The parsed URL and the addresses it may be sent to. Raises _Refused."""
        url = self.parse(text)
        return url, await self.addresses(url)

    def parse(self, text: str) -> httpx.URL:
        """What can be said without asking for the name. Raises _Refused."""
        try:
            url = httpx.URL(text)
        except (httpx.InvalidURL, TypeError, ValueError):
            raise _Refused(WebhookError.INVALID_URL) from None
        if url.scheme not in self._schemes or not url.host or url.userinfo or len(text) > 2048:
            raise _Refused(WebhookError.INVALID_URL)
        return url

    async def addresses(self, url: httpx.URL) -> list[str]:
        """The addresses that a URL may be sent to. Raises _Refused."""
        host = url.raw_host.decode("ascii").lower().strip("[]")
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            found = [host.partition("%")[0]] if ":" in host else await self._resolve(host, port)
            addresses = [ipaddress.ip_address(entry.partition("%")[0]) for entry in found]
        except (OSError, UnicodeError, ValueError):
            raise _Refused(WebhookError.DNS) from None
        good = [str(address) for address in addresses if self._may_reach(host, address, port)]
        if not good:
            raise _Refused(WebhookError.FORBIDDEN if addresses else WebhookError.DNS)
        return good[:ADDRESSES_MAX]

    def _may_reach(self, host: str, address: Address, port: int) -> bool:
        if any(_pair(name, port) in self._allow for name in (host, str(address))):
            return True
        if LOOPBACK in self._allow and address.is_loopback:
            return True
        # Below 1024 only the web's own ports: mail, databases and remote shells are no app servers.
        return is_public(address) and (port in (80, 443) or port >= 1024)


def _pair(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -------------------------------------------------------------------------------------------------- the client


class _Pace:
    """The time between two posts to one server that wait for its slots together; without it a server that was slow and
    answers again would get all that had queued up at once (APP-10)."""

    __slots__ = ("__weakref__", "_next")

    def __init__(self) -> None:
        self._next = 0.0

    async def turn(self, pause: float) -> None:
        now = asyncio.get_running_loop().time()
        at = max(now, self._next)
        self._next = at + pause
        if at > now:
            await asyncio.sleep(at - now)


class WebhookClient:
    """Posts webhooks. One per process; `await close()` when done."""

    def __init__(
        self,
        policy: DestinationPolicy,
        *,
        concurrency_max: int = 64,
        on_result: Callable[[WebhookResult], None] | None = None,
    ) -> None:
        self._policy = policy
        self._on_result = on_result
        self._slots = asyncio.Semaphore(concurrency_max)
        self._hosts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._paces: WeakValueDictionary[bytes, _Pace] = WeakValueDictionary()
        self._client = httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            # A kept connection would belong to an address, not to a name: another app on the same address could get
            # its request. Webhooks are rare enough to connect each time.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            headers={
                "User-Agent": "Glassbridge",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            },
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def refusal(self, url: str) -> WebhookError | None:
        """Why a webhook to this URL would not even be sent; None if it would be."""
        try:
            async with asyncio.timeout(REFUSAL_TIMEOUT):
                await self._policy.vet(url)
        except _Refused as refused:
            return refused.error
        except TimeoutError:
            return WebhookError.TIMEOUT
        return None

    async def post(
        self,
        url: str,
        body: Mapping[str, Any],
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
        signing_key: str | None = None,
        pause: float = 0.0,
        on_sent: Callable[[], None] | None = None,
    ) -> WebhookResult:
        """POST a JSON object; `signing_key` is the app's `hashed_api_key`. `timeout` is the app server's time, in seconds,
        from when the request has its slot and `on_sent` is called; `pause` is the least time to the post before, of those
        that waited for the same server."""
        payload = orjson.dumps(body)
        extra = {"Content-Type": "application/json", DELIVERY_HEADER: uuid.uuid4().hex, **(headers or {})}
        if signing_key is not None:
            extra[SIGNATURE_HEADER] = sign(payload, signing_key, int(time.time()))
        return await self._attempt(url, timeout, pause, on_sent, content=payload, headers=extra)

    async def post_form(
        self, url: str, fields: Mapping[str, str], file: FormFile | None = None, *, timeout: float
    ) -> WebhookResult:
        """POST `multipart/form-data`, even without a file: the SDK parses no other form (wire spec 4.6)."""
        parts: list[tuple[str, Any]] = [(name, (None, value)) for name, value in fields.items()]
        if file is not None:
            parts.append((file.field, (file.name, file.data, file.mime_type)))
        return await self._attempt(url, timeout, 0.0, None, files=parts)

    async def _attempt(
        self, url: str, timeout: float, pause: float, on_sent: Callable[[], None] | None, **request: Any
    ) -> WebhookResult:
        loop = asyncio.get_running_loop()
        started: float | None = None
        status: int | None = None
        error: WebhookError | None = None
        body: dict[str, Any] | None = None
        try:
            target = self._policy.parse(url)
            host = self._hosts.setdefault(target.host, asyncio.Semaphore(PER_HOST_MAX))
            pace = self._paces.setdefault(target.netloc, _Pace())
            async with asyncio.timeout(QUEUE_TIMEOUT) as limit, host, self._slots:
                if pause:
                    await pace.turn(pause)
                started = loop.time()
                limit.reschedule(started + timeout)
                if on_sent is not None:
                    on_sent()
                status, body = await self._send(target, await self._policy.addresses(target), request)
            if 300 <= status < 400:
                error = WebhookError.REDIRECT
            elif not 200 <= status < 300:
                error = WebhookError.STATUS
        except _Refused as refused:
            error = refused.error
        except (TimeoutError, httpx.TimeoutException):
            error = WebhookError.QUEUE if started is None else WebhookError.TIMEOUT
        except httpx.ConnectError as problem:
            error = WebhookError.TLS if _is_tls(problem) else WebhookError.CONNECT
        except httpx.NetworkError:
            error = WebhookError.LOST
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            error = WebhookError.PROTOCOL
        duration = 0.0 if started is None else loop.time() - started
        result = WebhookResult(error is None, status, error, body, duration)
        if self._on_result is not None:
            self._on_result(result)
        return result

    async def _send(
        self, url: httpx.URL, addresses: list[str], request: dict[str, Any]
    ) -> tuple[int, dict[str, Any] | None]:
        headers = {**request.pop("headers", {}), "Host": url.netloc.decode("ascii")}
        host = url.raw_host.decode("ascii")
        for number, address in enumerate(addresses):
            pinned = self._client.build_request(
                "POST",
                url.copy_with(host=address, fragment=None),
                headers=headers,
                # The certificate must name the host that was asked for, not the address that was dialled.
                extensions={"sni_hostname": host},
                timeout=None,  # one deadline over everything, in `_attempt`
                **request,
            )
            try:
                response = await self._client.send(pinned, stream=True)
            except httpx.ConnectError as problem:
                if number + 1 == len(addresses) or _is_tls(problem):
                    raise
                continue
            try:
                return response.status_code, await _read_object(response)
            finally:
                await response.aclose()
        raise AssertionError("unreachable: the last address returns or raises")


async def _read_object(response: httpx.Response) -> dict[str, Any] | None:
    """The JSON object of a bounded reply; None for anything else. Raises _Refused if it is too large."""
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > REPLY_MAX:
            raise _Refused(WebhookError.TOO_LARGE)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _is_tls(problem: BaseException) -> bool:
    seen: BaseException | None = problem
    while seen is not None:
        if type(seen).__module__ == "ssl" or "SSL" in type(seen).__name__:
            return True
        seen = seen.__cause__ or seen.__context__
    return False
