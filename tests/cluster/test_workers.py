"""`cloud run --workers N` as real processes: one port, sessions spread, and a worker that is killed costs nobody anything."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from tests.interop.driver import SdkApp, install_sdk
from tests.support.app_server import FakeApp
from tests.support.waiting import SLOW, until
from tests.support.workers import Workers, alive, children, workers
from tests.system.rolling import HOOK, KEY
from wire.placement import session_key

PACKAGE = "com.example.one"
#: The SDK finds the REST address by cutting `/app-ws` off the address it was given: what stands before it must serve too.
STORE = "await session.simpleStorage.set('mine', 'kept'); await session.simpleStorage.flush();"


def users_of(running: Workers, number: int, count: int) -> list[str]:
    """So many users whose place is that worker."""
    return [user for user in (f"user-{n}@x.example" for n in range(1000)) if running.place(user) == number][
        :count
    ]


async def test_sessions_spread_over_the_workers_and_each_goes_to_its_own(tmp_path: Path) -> None:
    async with workers(tmp_path, 3) as running, AsyncExitStack() as stack:
        users = [f"user-{n}@x.example" for n in range(12)]
        for user in users:
            phone = await stack.enter_async_context(running.phone(user))
            await phone.next("connection_ack")
        wanted = Counter(running.place(user) for user in users)
        assert len(wanted) == 3
        sessions = await running.metric("sessions_alive")
        assert sessions == {n: wanted[n] for n in range(3)}
        given = sum((await running.metric("handovers_given_total")).values())
        print(f"12 sessions on 3 workers: {dict(sessions)}; {given:.0f} connections were handed over")
        assert (await running.metric("worker_up")) == {0: 1.0, 1: 1.0, 2: 1.0}


async def test_every_worker_answers_health_and_the_page_of_metrics_covers_all(tmp_path: Path) -> None:
    async with workers(tmp_path, 2) as running:
        for path in ("/health", "/livez", "/readyz"):
            for _ in range(5):
                assert (await running.http.get(path)).status_code == 200
        page = (await running.http.get("/metrics")).text
        families = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")]
        assert len(families) == len(set(families))
        assert {"glassbridge_worker_up", "glassbridge_worker_starts", "glassbridge_sessions_alive"} <= set(
            families
        )
        for line in page.splitlines():
            assert line.startswith("#") or 'worker="' in line
        assert '"worker":"0"' in running.logged()
        assert '"worker":"1"' in running.logged()


async def test_a_record_written_through_one_worker_is_known_to_all(tmp_path: Path) -> None:
    async with (
        workers(tmp_path, 2) as running,
        FakeApp("com.example.fresh") as app,
        AsyncExitStack() as stack,
    ):
        phones = []
        for number in (0, 1):
            user = users_of(running, number, 1)[0]
            phones.append((user, await stack.enter_async_context(running.phone(user, "T"))))
            await phones[-1][1].next("connection_ack")
        await running.register("com.example.fresh", app.url, app.api_key)
        for user, phone in phones:
            await phone.start_app("com.example.fresh")
            await app.started(user)


async def test_sigterm_drains_all_and_leaves_no_process(tmp_path: Path) -> None:
    async with workers(tmp_path, 2) as running:
        family = [*children(running.process.pid), running.process.pid]
        assert len(family) == 4, "two workers, the broker, the supervisor"
        async with running.phone("anna@x.example") as phone:
            await phone.next("connection_ack")
            begin = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            await until(lambda: phone.closed is not None, "the glasses to be told", 10)
            assert phone.closed is not None
            assert phone.closed[0] == 1012
        assert await running.process.wait() == 0
        took = time.monotonic() - begin
        print(f"drained and ended after {took:.1f} s")
        assert took < 10 * SLOW
        assert not [pid for pid in family if alive(pid)]


async def test_an_administrators_drain_is_for_all_workers(tmp_path: Path) -> None:
    async with workers(tmp_path, 2) as running, AsyncExitStack() as stack:
        phones = [
            await stack.enter_async_context(running.phone(users_of(running, number, 1)[0]))
            for number in (0, 1)
        ]
        for phone in phones:
            await phone.next("connection_ack")
        assert (await running.http.post("/api/admin/drain")).status_code == 202
        await until(lambda: all(phone.closed for phone in phones), "both to be told", 15)
        assert [phone.closed[0] for phone in phones if phone.closed] == [1012, 1012]
        for _ in range(10):
            assert (await running.http.get("/readyz")).status_code == 503


async def test_a_killed_supervisor_takes_its_children_along(tmp_path: Path) -> None:
    async with workers(tmp_path, 2) as running:
        family = children(running.process.pid)
        running.process.kill()
        await running.process.wait()
        await until(lambda: not [pid for pid in family if alive(pid)], "workers and broker to end", 15)
    async with workers(tmp_path, 2, port=running.port) as again:  # and everything is free again
        assert (await again.http.get("/health")).status_code == 200


async def test_one_worker_is_the_one_process_that_it_always_was(tmp_path: Path) -> None:
    async with workers(tmp_path, 1) as running:
        assert children(running.process.pid) == []
        assert not (tmp_path / "data" / "nats").exists()
        assert 'worker="' not in (await running.http.get("/metrics")).text
        async with FakeApp("com.example.app") as app, running.phone("anna@x.example", "T") as phone:
            await phone.next("connection_ack")
            await running.register("com.example.app", app.url, app.api_key)
            await phone.start_app("com.example.app")
            session = await app.started("anna@x.example")
            assert session.url == f"ws://127.0.0.1:{running.port}/app-ws"


async def test_a_frozen_worker_costs_new_connections_a_second_at_most(tmp_path: Path) -> None:
    async with workers(tmp_path, 2) as running:
        frozen = running.pids[0]
        user, other = users_of(running, 0, 2)
        os.kill(frozen, signal.SIGSTOP)
        try:
            for name in (user, other):
                begin = time.monotonic()
                async with running.phone(name) as phone:
                    await phone.next("connection_ack", within=15)
                    print(f"served after {time.monotonic() - begin:.2f} s")
            assert (await running.http.get("/livez")).status_code == 200
            ready = await running.http.get("/readyz")
            assert ready.status_code == 200
            assert ready.json()["checks"]["workers"] == "no answer from 0"
        finally:
            os.kill(frozen, signal.SIGCONT)


@pytest.mark.failure("PRO-01")
async def test_a_worker_killed_under_a_real_sdk_app_loses_nothing(tmp_path: Path) -> None:
    """The app is an unmodified @mentra/sdk program. Its worker is killed while events flow: each arrives, once."""
    install_sdk()
    async with workers(tmp_path, 2) as running, AsyncExitStack() as stack:
        app = SdkApp("2.1.29", PACKAGE, KEY)
        stack.push_async_callback(app.close)
        await app.start(hook=HOOK + STORE)
        await running.register(PACKAGE, app.url, KEY, "ALL")
        edges = []
        for number in (0, 1):
            edge = running.edge(users_of(running, number, 1)[0])
            stack.push_async_callback(edge.kill)
            edges.append(edge)
            edge.boot()
        await until(lambda: all(edge.online for edge in edges), "the edges", 20)
        for edge in edges:
            edge.want(PACKAGE)
        await until(lambda: len(app.seen("onSession:done")) == 2, "the app started for both", 20)

        for edge in edges:
            path = f"/s/{session_key(edge.user)}/api/sdk/simple-storage/{edge.user}"
            reply = await running.http.get(path, headers={"Authorization": f"Bearer {PACKAGE}:{KEY}"})
            assert reply.json() == {"success": True, "data": {"mine": "kept"}}

        def arrivals() -> dict[str, list[int]]:
            found: dict[str, list[int]] = {}
            for report in app.seen("event"):
                found.setdefault(str(report.data), []).append(report.at_ms)
            return found

        sending = True

        async def send() -> None:
            while sending:
                for edge in edges:
                    edge.event()
                await asyncio.sleep(0.02)

        task = asyncio.create_task(send())
        stack.push_async_callback(asyncio.gather, task, return_exceptions=True)
        await until(lambda: len(arrivals()) > 50, "events to flow", 20)
        victim = await running.pid_of(0)
        assert victim is not None
        killed = time.time()
        os.kill(victim, signal.SIGKILL)
        await asyncio.sleep(5.0)
        sending = False
        await task
        await until(lambda: all(edge.quiet for edge in edges), "all to be handed over", 30)
        posted = {name for edge in edges for name in edge.posted}
        missing = lambda: posted - arrivals().keys()  # noqa: E731
        await until(lambda: len(missing()) <= sum(edge.expired for edge in edges), "the last events", 15)
        await asyncio.sleep(1.0)
        got = arrivals()
        lost = missing()
        doubled = [name for name, times in got.items() if len(times) > 1]
        for edge in edges:
            times = sorted(at / 1000 for name in edge.posted for at in got.get(name, []))
            gap = max((b - a for a, b in pairwise(times) if b > killed), default=0.0)
            print(
                f"{edge.user}: {len(edge.posted)} events, longest gap {1000 * gap:.0f} ms, expired {edge.expired}"
            )
        print(f"lost {len(lost)}, doubled {len(doubled)}")
        expired = sum(edge.expired for edge in edges)
        assert len(lost) <= expired, sorted(lost)[:10]
        assert not doubled or len(doubled) <= 5, doubled[:10]
        back = await until(lambda: running.pid_of(0), "the worker to be back", 20)
        assert back != victim


async def test_a_killed_broker_is_back_at_once_and_disturbs_no_session(tmp_path: Path) -> None:
    async with (
        workers(tmp_path, 2) as running,
        FakeApp("com.example.app", "key-0123456789", "button_press") as app,
    ):
        await running.register("com.example.app", app.url, app.api_key)
        user = users_of(running, 0, 1)[0]
        async with running.phone(user, "T") as phone:
            await phone.next("connection_ack")
            await phone.start_app("com.example.app")
            session = await app.started(user)
            await until(lambda: running.metric("sessions_alive"), "the session")
            assert running.broker is not None
            os.kill(running.broker, signal.SIGKILL)
            for number in range(100):
                await phone.send("button_press", buttonId=str(number), pressType="short")
                await asyncio.sleep(0.01)
            await until(lambda: len(session.events("button_press")) >= 100, "every press")
            assert [e["buttonId"] for e in session.events("button_press")] == [str(n) for n in range(100)]
            assert session.connects == 1

            async def both_up() -> bool:
                return (await running.metric("worker_up")) == {0: 1.0, 1: 1.0}

            await until(both_up, "the workers to speak again", 10)
            assert phone.closed is None
