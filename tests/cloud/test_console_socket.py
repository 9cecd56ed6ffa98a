"""The console's one WebSocket, over real sockets: who gets in, what it is told, and what a slow reader costs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from cloud.auth import RateLimiter
from cloud.connection import Connection
from cloud.http.app import build_http_app
from cloud.http.console import console as consoles
from cloud.http.console import socket as sockets
from cloud.http.console.console import LIVE_PATH, Console
from cloud.http.console.socket import MESSAGE_MAX
from cloud.http.ports import AppView
from cloud.listener import Limits, Listener
from tests.cloud.http_world import ADMIN, ANNA, APP, HttpWorld, ScriptedHub, http_world
from tests.support.waiting import SLOW, until


class Live:
    """A console over a listener of its own, and pages that look at it."""

    def __init__(self, world: HttpWorld, console: Console, listener: Listener, port: int) -> None:
        self.world, self.console, self.listener, self.port = world, console, listener, port

    @property
    def hub(self) -> ScriptedHub:
        return self.world.hub

    def dial(self, origin: str | None = None, **options: Any) -> connect:
        headers = {"Origin": origin} if origin is not None else None
        where = f"ws://127.0.0.1:{self.port}{LIVE_PATH}"
        return connect(where, additional_headers=headers, proxy=None, compression=None, **options)

    @asynccontextmanager
    async def page(self, token: str | None = ADMIN, **options: Any) -> AsyncIterator[Page]:
        async with self.dial(**options) as link:
            page = Page(link)
            await page.say(type="hello", token=token)
            yield page

    @property
    def connection(self) -> Connection:
        (connection,) = self.listener.connections
        return connection


class Page:
    def __init__(self, link: ClientConnection) -> None:
        self.link = link
        self.looks = 0

    async def say(self, **message: Any) -> None:
        await self.link.send(json.dumps(message))

    async def look(self, view: str, **asked: Any) -> int:
        self.looks += 1
        await self.say(type="look", look=self.looks, view=view, **asked)
        return self.looks

    async def hear(self, kind: str) -> dict[str, Any]:
        """The next message of this kind; others are skipped."""
        while True:
            message: dict[str, Any] = json.loads(await asyncio.wait_for(self.link.recv(), 5 * SLOW))
            if message["type"] == kind:
                return message

    async def end(self) -> tuple[list[dict[str, Any]], int]:
        """What is said until the cloud closes, and its close code."""
        said = []
        try:
            async with asyncio.timeout(5 * SLOW):
                while True:
                    said.append(json.loads(await self.link.recv()))
        except ConnectionClosed as closed:
            return said, closed.rcvd.code if closed.rcvd is not None else 1006


@asynccontextmanager
async def live(tmp_path: Path, overrides: Mapping[str, Any] | None = None) -> AsyncIterator[Live]:
    async with http_world(tmp_path, overrides) as world:
        console = Console(world.services)
        limits = Limits(unauthenticated_max=2, unauthenticated_hard_max=3, crowd_grace=0.0)
        listener = Listener(http_app=build_http_app(world.services), upgrade=console.upgrade, limits=limits)
        _, port = await listener.start("127.0.0.1", 0)
        try:
            yield Live(world, console, listener, port)
        finally:
            await listener.close(timeout=1.0)
        assert console._telling is None, "nobody looks, so nothing runs"


async def test_the_right_token_is_welcomed_and_told_the_counts_and_what_it_looks_at(tmp_path: Path) -> None:
    async with live(tmp_path) as scene, scene.page() as page:
        scene.hub.connect(ANNA)
        welcome = await page.hear("welcome")
        assert welcome["profile"] == "production"
        assert "faults" in welcome["trace"]["groups"]
        assert (await page.hear("summary"))["connected"] == 1
        number = await page.look("sessions")
        rows = await page.hear("rows")
        assert (rows["look"], rows["users"]) == (number, [ANNA])
        scene.hub.connect(ANNA, AppView(APP, "error", wanted=True, last_error="it threw"))
        assert (await page.hear("summary"))["failing"] == 1
        rows = await page.hear("rows")
        assert "users" not in rows
        assert rows["rows"][0]["apps"][0]["e"] is True
        await page.look("session", user=ANNA)
        assert (await page.hear("session"))["set"]["user"] == ANNA
        assert scene.listener.strangers == 0


@pytest.mark.parametrize("token", ["a wrong one", "", None])
async def test_a_wrong_token_or_none_is_told_so_and_closed(tmp_path: Path, token: str | None) -> None:
    async with live(tmp_path) as scene:
        scene.hub.connect(ANNA)
        async with scene.page(token) as page:
            (error,), code = await page.end()
            assert (error["code"], code) == ("INVALID_TOKEN", 1008)
            assert ANNA not in str(error)


async def test_guessing_tokens_on_the_socket_is_as_slow_as_over_http(tmp_path: Path) -> None:
    async with live(tmp_path) as scene:
        scene.world.services.admin_guesses = RateLimiter(rate=0.2, burst=2)
        codes = []
        for token in ("a", "b", "c", ADMIN):
            async with scene.page(token) as page:
                said, closed = await page.end()
                codes.append((said[0]["code"], closed))
        wrong, slow = ("INVALID_TOKEN", 1008), ("RATE_LIMITED", 1013)
        assert codes == [wrong, wrong, slow, slow]
        scene.world.now += 10.0
        async with scene.page() as page:
            await page.hear("welcome")


async def test_a_socket_that_does_not_say_who_it_is_is_closed_in_time(tmp_path: Path) -> None:
    async with live(tmp_path, {"limits.handshake_timeout": 0.2}) as scene, scene.dial() as link:
        (error,), code = await Page(link).end()
        assert (error["code"], code) == ("TIMEOUT", 1008)


@pytest.mark.parametrize(
    ("first", "closed"),
    [
        ('{"type":"look","look":1,"view":"sessions"}', 1008),
        ('{"type":"hello","token":7}', 1008),
        ("no JSON", 1008),
        ("[]", 1008),
        ("x" * (MESSAGE_MAX + 1), 1009),
        (b"binary", 1003),
    ],
)
async def test_what_is_no_hello_ends_a_stranger(tmp_path: Path, first: str | bytes, closed: int) -> None:
    async with live(tmp_path) as scene, scene.dial() as link:
        await link.send(first)
        _, code = await Page(link).end()
        assert code == closed


async def test_a_message_in_many_fragments_is_no_way_around_the_size_limit(tmp_path: Path) -> None:
    async with live(tmp_path) as scene, scene.dial() as link:

        async def fragments() -> AsyncIterator[str]:
            for _ in range(100):
                yield "x" * 1000

        with contextlib.suppress(ConnectionClosed):
            await link.send(fragments())
        await asyncio.wait_for(link.wait_closed(), 5 * SLOW)
        assert link.close_code == 1009


async def test_a_page_of_another_site_gets_no_socket_even_where_no_token_is_asked_for(tmp_path: Path) -> None:
    async with live(tmp_path, {"profile": "dev", "host": "127.0.0.1"}) as scene:
        for origin in ("https://evil.example", "null", f"http://127.0.0.1:{scene.port + 1}"):
            with pytest.raises(InvalidStatus) as refused:
                async with scene.dial(origin):
                    pass
            assert refused.value.response.status_code == 403
            assert b"PERMISSION_DENIED" in refused.value.response.body
        own = f"http://127.0.0.1:{scene.port}"
        async with scene.page(None, origin=own) as page:
            await page.hear("welcome")
        async with scene.page(None) as page:  # a program on this machine
            await page.hear("welcome")
        rebound = {"Host": f"evil.example:{scene.port}", "Origin": f"http://evil.example:{scene.port}"}
        where = f"ws://127.0.0.1:{scene.port}{LIVE_PATH}"
        async with connect(where, additional_headers=rebound, proxy=None) as link:
            page = Page(link)
            await page.say(type="hello", token=None)
            (error,), code = await page.end()
            assert (error["code"], code) == ("INVALID_TOKEN", 1008)


async def test_a_crowd_of_strangers_makes_room_for_a_console(tmp_path: Path) -> None:
    async with live(tmp_path) as scene:
        crowd = [await scene.dial() for _ in range(3)]
        async with scene.page() as page:
            await page.hear("welcome")
            assert scene.listener.strangers <= 2
        for link in crowd:
            await link.close()


async def test_there_are_only_so_many_consoles_and_one_that_leaves_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles, "SOCKETS_MAX", 1)
    async with live(tmp_path) as scene:
        async with scene.page() as first:
            await first.hear("welcome")
            async with scene.page() as second:
                (error,), code = await second.end()
                assert (error["code"], code) == ("OVERLOADED", 1013)
        await until(lambda: not scene.listener.connections, "the first has left")
        async with scene.page() as third:
            await third.hear("welcome")


async def test_a_question_that_makes_no_sense_is_answered_and_the_last_look_goes_on(tmp_path: Path) -> None:
    async with live(tmp_path) as scene, scene.page() as page:
        scene.hub.connect(ANNA)
        await page.hear("welcome")
        await page.look("sessions")
        await page.hear("rows")
        await page.look("lens")
        error = await page.hear("error")
        assert (error["code"], "view must be" in error["message"]) == ("MALFORMED_MESSAGE", True)
        await page.say(type="hello", token=ADMIN)
        assert "type must be look" in (await page.hear("error"))["message"]
        scene.hub.connect("carl@home.example")
        assert (await page.hear("rows"))["total"] == 2


async def test_a_console_of_a_process_alone_knows_of_no_other_and_asks_none(tmp_path: Path) -> None:
    async with live(tmp_path) as scene, scene.page() as page:
        assert (await page.hear("welcome"))["node"] is None
        assert (await page.hear("summary"))["silent"] == []
        assert (scene.console.everywhere, scene.console._asking) == (None, None)


async def test_a_console_of_a_cluster_shows_all_nodes_and_asks_only_while_it_is_open(tmp_path: Path) -> None:
    asked = []

    async def others(question: dict[str, Any], only: Any = None) -> dict[str, Any]:
        asked.append(question)
        return {"b": None}

    async with live(tmp_path) as scene:
        scene.world.services.others = ("a", others)
        scene.hub.connect(ANNA)
        async with scene.page() as page:
            assert (await page.hear("welcome"))["node"] == "a"
            await page.look("sessions")
            rows = await page.hear("rows")
            assert [(row["u"], row["n"]) for row in rows["rows"]] == [(ANNA, "a")]
            await page.look("health")
            assert [node["node"] for node in (await page.hear("nodes"))["nodes"]] == ["a"]
            while (await page.hear("summary"))["silent"] != ["b"]:
                pass
        await until(lambda: scene.console.everywhere is None, "the console is closed")
        count = len(asked)
        await asyncio.sleep(0)
        assert len(asked) == count


async def test_the_lens_is_told_only_to_who_asks_for_it(tmp_path: Path) -> None:
    async with live(tmp_path) as scene, scene.page() as page:
        scene.hub.connect(ANNA)
        await page.hear("welcome")
        await page.look("session", user=ANNA)
        assert "lens" not in (await page.hear("session"))["set"]
        await page.look("session", user=ANNA, lens=True)
        assert "lens" in (await page.hear("session"))["set"]


async def test_a_flood_of_questions_is_answered_at_the_pace_of_the_cloud(tmp_path: Path) -> None:
    async with live(tmp_path) as scene, scene.page() as page:
        scene.hub.connect(ANNA)
        await page.hear("welcome")
        began = asyncio.get_running_loop().time()
        for _ in range(500):
            last = await page.look("sessions")
        answers = 1
        while (await page.hear("rows"))["look"] != last:
            answers += 1
        took = asyncio.get_running_loop().time() - began
        assert answers <= took / sockets.LOOK_PAUSE + took / consoles.TICK + 2


async def test_a_reader_that_does_not_read_costs_one_look_and_then_gets_the_newest(tmp_path: Path) -> None:
    async with live(tmp_path) as scene:
        for number in range(1000):
            scene.hub.connect(
                f"user{number:04}@home.example",
                *(AppView(f"com.example.app{n}", "connected", wanted=True) for n in range(20)),
            )
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # the kernel takes little for it
        held.connect(("127.0.0.1", scene.port))
        async with scene.page(sock=held, max_queue=1) as page:
            await page.hear("welcome")
            await page.hear("summary")
            connection, highest = scene.connection, 0
            for _ in range(60):
                last = await page.look("sessions", order="user", count=200)
                await asyncio.sleep(sockets.LOOK_PAUSE * 1.5)
                highest = max(highest, connection.buffered_bytes)
            assert connection.is_open
            assert 0 < highest < 700_000, "one look of 200 rows with 20 apps, not sixty"
            for n in range(50):
                scene.hub.connect("user0007@home.example", AppView(f"com.example.new{n}", "connected"))
                await asyncio.sleep(0)
            waiting = await page.hear("rows")
            while waiting["look"] != last or all("new49" not in str(row) for row in waiting["rows"]):
                waiting = await page.hear("rows")
            assert connection.dropped_lossy == 0, "skipped, not torn out of a chain of diffs"


async def test_a_peer_that_is_gone_without_a_word_gives_its_place_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "DEAD_AFTER", 0.6)
    async with live(tmp_path) as scene:
        _, writer = await asyncio.open_connection("127.0.0.1", scene.port)
        head = (
            f"GET {LIVE_PATH} HTTP/1.1\r\nHost: 127.0.0.1:{scene.port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        hello = json.dumps({"type": "hello", "token": ADMIN}).encode()
        writer.write(head.encode() + bytes([0x81, 0x80 | len(hello), 0, 0, 0, 0]) + hello)
        await until(lambda: bool(scene.console._sockets), "it is in")
        await until(lambda: not scene.connection.is_open, "it was silent for too long")
        writer.close()
        await until(lambda: not scene.console._sockets, "its place is free")


async def test_a_quiet_console_hears_that_it_is_quiet_and_is_asked_for_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "KEEP_ALIVE", 0.3)
    async with live(tmp_path) as scene, scene.page() as page:
        await page.hear("welcome")
        before = scene.connection.last_inbound_at
        await page.hear("quiet")
        await until(lambda: scene.connection.last_inbound_at > before, "the browser answers pings by itself")


async def test_a_bug_of_the_console_costs_its_sockets_and_they_may_come_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with live(tmp_path) as scene:
        async with scene.page() as page:
            await page.hear("summary")
            find, scene.hub.changed = scene.hub.changed, None  # type: ignore[method-assign, assignment]
            _, code = await page.end()
            assert code == 1011
        assert "the console failed" in caplog.text
        scene.hub.changed = find  # type: ignore[method-assign]
        async with scene.page() as page:
            await page.hear("summary")


async def test_a_drain_is_told_and_the_end_is_come_back(tmp_path: Path) -> None:
    async with live(tmp_path) as scene, scene.page() as page:
        await page.hear("summary")
        scene.hub.draining = True
        assert (await page.hear("summary"))["draining"] is True
        closing = asyncio.create_task(scene.listener.close(timeout=2.0))
        _, code = await page.end()
        await closing
        assert code == 1012
