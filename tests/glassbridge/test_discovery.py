"""Apps are found by their health answer, started, and started again when they come back."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest

from glassbridge import discovery
from glassbridge.app import App, Session
from glassbridge.discovery import Absent, Discovery, Found, Outcome, Problem, judge, probe
from tests.support.app_cloud import app_cloud
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "PROBE_INTERVAL", 0.02)
    monkeypatch.setattr(discovery, "PROBE_TIMEOUT", 20.0)  # a busy machine is no deaf app


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, None, "has no /health"),
        (500, None, "HTTP 500"),
        (200, {"status": "ok"}, "no `app` field: not an SDK app?"),
        (200, [], "no `app` field"),
        (200, {"app": 5}, "no `app` field"),
    ],
)
def test_every_answer_that_is_no_app_is_named(status: int, body: object, words: str) -> None:
    verdict = judge("http://127.0.0.1:3000", status, body)
    assert isinstance(verdict, Problem)
    assert words in verdict.words
    assert verdict.words.startswith(":3000")


def test_an_app_is_known_by_its_package() -> None:
    body = {"status": "healthy", "app": "com.example.captions", "activeSessions": 1}
    assert judge("http://127.0.0.1:3000", 200, body) == Found("com.example.captions", 1)


async def test_a_port_without_listener_and_one_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "PROBE_TIMEOUT", 0.1)
    mute = socket.create_server(("127.0.0.1", 0))  # the kernel accepts, nobody reads
    port = mute.getsockname()[1]
    async with httpx.AsyncClient(trust_env=False) as client:
        assert await probe(client, "http://127.0.0.1:1") == Absent()
        silent = await probe(client, f"http://127.0.0.1:{port}")
        assert isinstance(silent, Problem)
        assert "does not answer" in silent.words
    mute.close()


async def test_a_restarted_app_is_started_again_and_its_absence_is_said_once() -> None:
    told: list[str] = []
    starts: list[str] = []
    app = App("com.example.captions", api_key="key", port=0)

    @app.on_session
    async def on_session(session: Session) -> None:
        pass

    async with app_cloud(app) as cloud:

        async def start(package: str, url: str) -> Outcome:
            starts.append(package)
            try:
                await cloud.start()
            except (httpx.HTTPError, RuntimeError):  # the server, or our client, is being closed
                return Outcome(False, 0.0, "gone meanwhile")
            return Outcome(True, 0.41)

        port = app.port
        watching = asyncio.create_task(Discovery([f"http://127.0.0.1:{port}/"], start, told.append).run())
        await until(lambda: starts, "the app is started")
        await until(lambda: app.sessions and app.sessions[0].settled.is_set(), "its session is up")
        for session in app.sessions:  # a restarted process has no sessions
            session.end("restart")
        await until(lambda: len(starts) >= 2 and app.sessions, "it is started again")
    await until(lambda: told and "is gone" in told[-1], f"its absence is said: {told}")
    assert told[0] == f"com.example.captions on :{port} started, 410 ms"
    assert sum("is gone" in words for words in told) == 1
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_a_start_that_fails_is_retried_with_growing_pauses_and_said_once() -> None:
    told: list[str] = []
    starts: list[float] = []
    app = App("com.example.captions", api_key="key", port=0)

    @app.on_session
    async def on_session(session: Session) -> None:
        pass

    async with app_cloud(app):

        async def start(package: str, url: str) -> Outcome:
            starts.append(asyncio.get_running_loop().time())
            return Outcome(False, 9.8, "onSession took 9.8 s")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(discovery, "RETRY_FIRST", 0.05)
            watching = asyncio.create_task(
                Discovery([f"http://127.0.0.1:{app.port}"], start, told.append).run()
            )
            await until(lambda: len(starts) >= 3, "three attempts")
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert len(told) == 1
    assert "did not start: onSession took 9.8 s" in told[0]
    assert starts[1] - starts[0] >= 0.05
    assert starts[2] - starts[1] >= 0.1  # doubled


async def test_an_app_that_counts_no_sessions_is_started_once() -> None:
    """Some replace the SDK's `/health` with their own."""
    starts: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        probes.append(await reader.readuntil(b"\r\n\r\n"))
        body = b'{"status": "healthy", "app": "com.example.hangman"}'
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await writer.drain()
        writer.close()

    async def start(package: str, url: str) -> Outcome:
        starts.append(package)
        return Outcome(len(starts) > 1, 0.1, "busy")

    probes: list[bytes] = []
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(discovery, "RETRY_FIRST", 0.01)
            patch.setattr(discovery, "PROBE_INTERVAL", 0.01)
            watching = asyncio.create_task(Discovery([url], start, lambda _: None).run())
            await until(lambda: len(starts) >= 2, "the failed start is tried again")
            seen = len(probes)
            await until(lambda: len(probes) >= seen + 5, "it is looked at further")
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert len(starts) == 2


async def test_a_connection_that_breaks_at_a_restart_is_no_problem_yet() -> None:
    told: list[str] = []
    healthy, broken = True, 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal broken
        await reader.readuntil(b"\r\n\r\n")
        if healthy:
            body = b'{"app": "com.example.captions", "activeSessions": 1}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
        else:
            broken += 1
        writer.close()

    async def start(package: str, url: str) -> Outcome:
        raise AssertionError("it has a session")

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        place = discovery._Place(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        finder = Discovery([], start, told.append)
        async with httpx.AsyncClient(trust_env=False) as client:
            await finder._look(client, place)
            healthy = False
            await finder._look(client, place)
            assert (broken, told) == (1, [])
            await finder._look(client, place)
    assert "does not speak HTTP" in told[0]
