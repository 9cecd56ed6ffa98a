"""Webhooks: where they may go, what they carry, and that nothing is unbounded."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from cloud.auth import hash_api_key
from cloud.listener import Listener, Reject
from cloud.webhooks import (
    REPLY_MAX,
    SIGNATURE_HEADER,
    DestinationPolicy,
    FormFile,
    WebhookClient,
    WebhookError,
    WebhookResult,
    is_public,
    sign,
    signature_is_valid,
)
from tests.support.waiting import until

WAIT = 20.0


class AppServer:
    """A real HTTP server on loopback that keeps what it was sent."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.forms: list[dict[str, Any]] = []
        self.connections = 0
        self.port = 0
        self.release = asyncio.Event()
        self.waiting = 0
        self.waiting_max = 0

    async def note(self, request: Request) -> None:
        self.seen.append((request.url.path, dict(request.headers), await request.body()))

    def app(self) -> Starlette:
        async def webhook(request: Request) -> Response:
            await self.note(request)
            return JSONResponse({"status": "success"})

        async def error(request: Request) -> Response:
            return JSONResponse({"status": "error", "message": "Failed to connect"}, status_code=500)

        async def redirect(request: Request) -> Response:
            return RedirectResponse(f"http://127.0.0.1:{self.port}/webhook", status_code=307)

        async def page(request: Request) -> Response:
            return Response("<html>no JSON</html>", media_type="text/html")

        async def endless(request: Request) -> Response:
            async def chunks() -> AsyncIterator[bytes]:
                while True:
                    yield b"x" * 8192
                    await asyncio.sleep(0)

            return StreamingResponse(chunks())

        async def bomb(request: Request) -> Response:
            import gzip

            return Response(
                gzip.compress(b'{"a":"' + b"0" * 10_000_000 + b'"}'), headers={"Content-Encoding": "gzip"}
            )

        async def hang(request: Request) -> Response:
            self.waiting += 1
            self.waiting_max = max(self.waiting_max, self.waiting)
            await self.release.wait()
            self.waiting -= 1
            return JSONResponse({})

        async def form(request: Request) -> Response:
            async with request.form() as parsed:
                found: dict[str, Any] = {}
                for name, value in parsed.multi_items():
                    found[name] = value if isinstance(value, str) else (value.filename, await value.read())
                self.forms.append(found)
            return JSONResponse({"success": True, "type": request.headers["content-type"].partition(";")[0]})

        handlers: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "webhook": webhook,
            "error": error,
            "redirect": redirect,
            "page": page,
            "endless": endless,
            "bomb": bomb,
            "hang": hang,
            "form": form,
        }
        return Starlette(
            routes=[Route(f"/{name}", handler, methods=["POST"]) for name, handler in handlers.items()]
        )


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[AppServer]:
    server = AppServer()
    listener = Listener(http_app=server.app(), upgrade=lambda request: Reject(404, {}))
    _, server.port = await listener.start("127.0.0.1", 0)
    try:
        yield server
    finally:
        server.release.set()
        await listener.close(timeout=1.0)


@contextlib.asynccontextmanager
async def client(*allow: str, **options: Any) -> AsyncIterator[WebhookClient]:
    made = WebhookClient(DestinationPolicy(allow, **options))
    try:
        yield made
    finally:
        await made.close()


async def test_a_webhook_is_posted_as_json_and_its_answer_read() -> None:
    async with served() as server, client(f"127.0.0.1:{server.port}") as webhooks:
        result = await webhooks.post(
            f"http://127.0.0.1:{server.port}/webhook?x=1",
            {"type": "session_request"},
            timeout=WAIT,
            headers={"X-App-API-Key": "h"},
        )
        assert result.ok
        assert (result.status, result.error, result.body) == (200, None, {"status": "success"})
        assert 0 < result.duration < WAIT
        path, headers, body = server.seen[0]
        assert path == "/webhook"
        assert body == b'{"type":"session_request"}'
        assert headers["content-type"] == "application/json"
        assert headers["host"] == f"127.0.0.1:{server.port}"
        assert headers["x-app-api-key"] == "h"
        assert SIGNATURE_HEADER.lower() not in headers


@pytest.mark.failure("SEC-13")
async def test_a_signed_webhook_verifies_with_the_apps_own_key_only() -> None:
    async with served() as server, client("loopback") as webhooks:
        await webhooks.post(
            f"http://127.0.0.1:{server.port}/webhook", {"a": 1}, timeout=WAIT, signing_key=hash_api_key("key")
        )
        _, headers, body = server.seen[0]
        header = headers[SIGNATURE_HEADER.lower()]
        now = time.time()
        assert signature_is_valid(body, header, "key", now)
        assert not signature_is_valid(body, header, "other key", now)
        assert not signature_is_valid(body + b" ", header, "key", now)
        assert not signature_is_valid(body, header, "key", now + 600), "replayed later"
        assert not signature_is_valid(body, header.replace("t=", "t=1"), "key", now)
        for junk in (None, "", "t=1", "v1=x", "t=x,v1=y", sign(body, "not the hash", int(now))):
            assert not signature_is_valid(body, junk, "key", now)


@pytest.mark.parametrize(
    ("path", "error", "status"),
    [
        ("error", WebhookError.STATUS, 500),
        ("nowhere", WebhookError.STATUS, 404),
        ("redirect", WebhookError.REDIRECT, 307),
        ("endless", WebhookError.TOO_LARGE, None),
        ("bomb", None, 200),
        ("page", None, 200),
    ],
)
async def test_every_answer_is_bounded_and_has_a_verdict(
    path: str, error: WebhookError | None, status: int | None
) -> None:
    async with served() as server, client("loopback") as webhooks:
        result = await webhooks.post(f"http://127.0.0.1:{server.port}/{path}", {}, timeout=WAIT)
        assert (result.error, result.status) == (error, status)
        assert result.ok == (error is None)
        if path in ("bomb", "page"):
            assert result.body is None, "not plain JSON: ignored, never inflated"
        assert not server.seen, "a redirect is not followed"


async def test_time_is_bounded() -> None:
    async with served() as server, client("loopback") as webhooks:
        result = await webhooks.post(f"http://127.0.0.1:{server.port}/hang", {}, timeout=0.2)
        assert (result.ok, result.error, result.status) == (False, WebhookError.TIMEOUT, None)


async def test_a_hanging_host_does_not_take_every_slot() -> None:
    async with served() as server, served() as healthy, client("loopback") as webhooks:
        hanging = [
            asyncio.ensure_future(webhooks.post(f"http://127.0.0.1:{server.port}/hang", {}, timeout=WAIT))
            for _ in range(100)
        ]
        await until(lambda: server.waiting == 16, "sixteen requests hang")
        # another host (name) is served at once
        result = await webhooks.post(f"http://localhost:{healthy.port}/webhook", {}, timeout=WAIT)
        assert result.ok
        server.release.set()
        assert all(done.ok for done in await asyncio.gather(*hanging))
        assert server.waiting_max == 16


@pytest.mark.failure("APP-05")
async def test_the_time_in_our_own_queue_is_not_charged_to_the_app_server() -> None:
    async with served() as server, client("loopback") as webhooks:
        url = f"http://127.0.0.1:{server.port}"
        hanging = [asyncio.ensure_future(webhooks.post(f"{url}/hang", {}, timeout=WAIT)) for _ in range(16)]
        await until(lambda: server.waiting == 16, "all slots of this server are taken")
        limit = 1.0
        sent: list[int] = []
        queued = asyncio.ensure_future(
            webhooks.post(f"{url}/webhook", {}, timeout=limit, on_sent=lambda: sent.append(1))
        )
        await asyncio.sleep(1.5 * limit)
        assert not queued.done(), "its limit has passed, and nothing has been sent"
        assert not sent, "nor said to be"
        server.release.set()
        result = await queued
        assert result.ok
        assert result.duration < limit
        assert len(sent) == 1
        await asyncio.gather(*hanging)


async def test_a_post_that_gets_no_slot_says_that_the_queue_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as server, client("loopback") as webhooks:
        url = f"http://127.0.0.1:{server.port}"
        hanging = [asyncio.ensure_future(webhooks.post(f"{url}/hang", {}, timeout=WAIT)) for _ in range(16)]
        await until(lambda: server.waiting == 16, "all slots of this server are taken")
        monkeypatch.setattr("cloud.webhooks.QUEUE_TIMEOUT", 0.1)
        result = await webhooks.post(f"{url}/webhook", {}, timeout=WAIT)
        assert (result.ok, result.error, result.duration) == (False, WebhookError.QUEUE, 0.0)
        assert not server.seen, "nothing was sent"
        server.release.set()
        assert all(done.ok for done in await asyncio.gather(*hanging))


@pytest.mark.failure("APP-10")
async def test_posts_that_queued_behind_a_slow_server_still_keep_their_pace() -> None:
    loop = asyncio.get_running_loop()
    async with served() as server, client("loopback") as webhooks:
        url, pause = f"http://127.0.0.1:{server.port}/hang", 0.02
        posts = [
            asyncio.ensure_future(webhooks.post(url, {}, timeout=WAIT, pause=pause)) for _ in range(16 + 30)
        ]
        await until(lambda: server.waiting == 16, "all slots are taken by a slow server")
        released = loop.time()
        server.release.set()  # from here on it answers at once
        assert all(result.ok for result in await asyncio.gather(*posts))
        assert loop.time() - released >= 29 * pause, "thirty at once, or nearly"


async def test_nobody_listening_and_garbage_are_named() -> None:
    answer = b"SSH-2.0-OpenSSH\r\n"

    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async with client("loopback") as webhooks:

        async def error(scheme: str = "http") -> WebhookError | None:
            return (await webhooks.post(f"{scheme}://127.0.0.1:{port}/", {}, timeout=WAIT)).error

        assert await error() is WebhookError.PROTOCOL
        assert await error("https") is WebhookError.TLS
        answer = b""
        assert await error() in (WebhookError.LOST, WebhookError.PROTOCOL)
        server.close()
        await server.wait_closed()
        assert await error() is WebhookError.CONNECT


FORBIDDEN = [
    "http://127.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://localhost:{port}/",
    "http://localhost.:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.0.0.1:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://0.0.0.0:{port}/",
    "http://0:{port}/",
    "http://[::1]:{port}/",
    "http://[::]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/",
    "http://[64:ff9b:1::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[2001:0:0:0:0:0:80ff:fffe]:{port}/",
    "http://[fe80::1]:{port}/",
    "http://[fe80::1%25lo]:{port}/",
    "http://[fd00::1]:{port}/",
    "http://[ff02::1]:{port}/",
    "http://10.1.2.3:{port}/",
    "http://172.16.0.1:{port}/",
    "http://192.168.1.1:{port}/",
    "http://100.64.0.1:{port}/",
    "http://169.254.169.254/latest/meta-data",
    "http://224.0.0.1:{port}/",
    "http://255.255.255.255:{port}/",
    "http://192.0.2.1:{port}/",
    "http://user@127.0.0.1:{port}/",
    "http://user:pw@example.com:{port}/",
    "http://93.184.216.34:22/",
    "http://93.184.216.34:25/",
    "ftp://127.0.0.1:{port}/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "127.0.0.1:{port}",
    "http://",
    "http:///webhook",
    "",
    "http://[::1",
    "http://127.0.0.1:99999/",
    "http://exa mple/",
    "http://127.0.0.1\\@example.com:{port}/",
    "http://" + "a" * 3000,
]


@pytest.mark.failure("SEC-08")
@pytest.mark.parametrize("url", FORBIDDEN)
async def test_forbidden_destinations_are_never_contacted(url: str) -> None:
    contacts = 0

    async def canary(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal contacts
        contacts += 1
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(canary, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with client("127.0.0.1:1", "10.9.9.9:3000") as webhooks:
        result = await webhooks.post(url.format(port=port), {}, timeout=WAIT)
    server.close()
    await server.wait_closed()
    assert not result.ok
    assert result.error in (WebhookError.FORBIDDEN, WebhookError.INVALID_URL, WebhookError.DNS)
    assert contacts == 0


@pytest.mark.failure("SEC-08")
async def test_a_name_that_flips_is_resolved_once_and_pinned() -> None:
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[min(len(asked) - 1, 1)]

    policy = DestinationPolicy(resolve=resolve)
    _, addresses = await policy.vet("http://flip.example:8080/")
    assert addresses == ["93.184.216.34"]
    assert asked == ["flip.example"]
    async with served() as server, client(resolve=resolve) as webhooks:
        result = await webhooks.post(f"http://flip.example:{server.port}/webhook", {}, timeout=WAIT)
        assert result.error is WebhookError.FORBIDDEN
        assert not server.seen


@pytest.mark.failure("SEC-08")
async def test_only_the_public_addresses_of_a_mixed_name_are_used() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["10.0.0.1", "93.184.216.34", "::1"]

    _, addresses = await DestinationPolicy(resolve=resolve).vet("https://mixed.example/")
    assert addresses == ["93.184.216.34"]


async def test_the_request_goes_to_the_vetted_address_with_the_asked_host() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with served() as server:
        pair = f"captions.home:{server.port}"
        async with client(pair, resolve=resolve) as webhooks:
            assert (await webhooks.post(f"http://{pair}/webhook", {}, timeout=WAIT)).ok
            other = await webhooks.post(f"http://other.home:{server.port}/webhook", {}, timeout=WAIT)
            assert other.error is WebhookError.FORBIDDEN, "the allow list is exact"
        assert server.seen[0][1]["host"] == pair


async def test_the_next_address_is_tried_when_one_is_dead() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.9", "127.0.0.1"]

    async with served() as server, client("loopback", resolve=resolve) as webhooks:
        result = await webhooks.post(f"http://two.home:{server.port}/webhook", {}, timeout=WAIT)
        assert result.ok


async def test_http_can_be_forbidden() -> None:
    async with served() as server, client("loopback", allow_http=False) as webhooks:
        result = await webhooks.post(f"http://127.0.0.1:{server.port}/webhook", {}, timeout=WAIT)
        assert result.error is WebhookError.INVALID_URL


async def test_forms_are_multipart_with_and_without_a_file() -> None:
    async with served() as server, client("loopback") as webhooks:
        url = f"http://127.0.0.1:{server.port}/form"
        photo = FormFile("photo", "r1.jpg", b"\xff\xd8" * 5000, "image/jpeg")
        done = await webhooks.post_form(url, {"requestId": "r1", "success": "true"}, photo, timeout=WAIT)
        assert done.ok
        failed = await webhooks.post_form(url, {"requestId": "r2", "type": "photo_error"}, timeout=WAIT)
        assert failed.body == {"success": True, "type": "multipart/form-data"}
        assert server.forms == [
            {"requestId": "r1", "success": "true", "photo": ("r1.jpg", b"\xff\xd8" * 5000)},
            {"requestId": "r2", "type": "photo_error"},
        ]


async def test_results_are_reported_for_the_metrics() -> None:
    reported: list[WebhookResult] = []
    webhooks = WebhookClient(DestinationPolicy(), on_result=reported.append)
    result = await webhooks.post("http://127.0.0.1:1/", {}, timeout=WAIT)
    await webhooks.close()
    assert reported == [result]


@pytest.mark.parametrize("text", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_public_in_every_wrapping(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


def test_the_reply_limit_fits_the_answers_of_tools() -> None:
    assert REPLY_MAX == 65536
