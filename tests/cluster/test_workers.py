"""`cloud run --workers N` as real processes: one port, sessions spread, and a worker that is killed costs nobody anything."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from tests.interop.driver import SdkApp, install_sdk
from tests.support.app_server import FakeApp
from tests.support.fake_phone import FakePhone
from tests.support.waiting import SLOW, until
from tests.support.workers import Workers, alive, children, workers
from tests.system.rolling import HOOK, KEY
from wire.placement import session_key

PACKAGE = "com.example"
#: The SDK finds the REST address by cutting `/app-ws` off the address it was given: what stands before it must serve too.
STORE = "await session.simpleStorage.set('mine', 'kept'); await session.simpleStorage.flush();"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """Three workers for all tests that leave them well; each test has users and apps of its own."""
    with workers(tmp_path_factory.mktemp("workers"), 3) as running:
        yield running


def users_of(running: Workers, number: int, count: int, name: str) -> list[str]:
    """So many users whose place is that worker."""
    candidates = (f"{name}-{n}@x.example" for n in range(1000))
    return [user for user in candidates if running.place(user) == number][:count]


async def all_up(running: Workers) -> None:
    """Wait until the workers speak to each other, and know each other."""

    async def well() -> bool:
        up = await running.metric("worker_up")
        ready = await running.get("/readyz")
        return all(up.values()) and ready.status_code == 200 and "workers" not in ready.json()["checks"]

    await until(well, "all workers to be well", 20)


async def test_sessions_spread_and_each_goes_to_its_own_worker(three: Workers) -> None:
    before = await three.metric("sessions_alive")
    async with AsyncExitStack() as stack:
        users = [f"spread-{n}@x.example" for n in range(12)]
        for user in users:
            phone = await stack.enter_async_context(three.phone(user))
            await phone.next("connection_ack")
        wanted = Counter(three.place(user) for user in users)
        assert len(wanted) == 3
        sessions = await three.metric("sessions_alive")
        assert {n: sessions[n] - before[n] for n in range(3)} == {n: wanted[n] for n in range(3)}
        given = sum((await three.metric("handovers_given_total")).values())
        print(f"12 sessions on 3 workers: {dict(wanted)}; {given:.0f} connections were handed over")


async def test_every_worker_answers_health_and_the_page_of_metrics_covers_all(three: Workers) -> None:
    for path in ("/health", "/livez", "/readyz"):
        for _ in range(6):
            assert (await three.get(path)).status_code == 200
    page = (await three.get("/metrics")).text
    families = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families))
    assert {"glassbridge_worker_up", "glassbridge_worker_starts", "glassbridge_sessions_alive"} <= set(
        families
    )
    for line in page.splitlines():
        assert line.startswith("#") or 'worker="' in line
    for number in range(3):
        assert f'"worker":"{number}"' in three.logged()


async def test_a_record_written_through_one_worker_is_known_to_all(three: Workers) -> None:
    async with FakeApp("com.example.fresh") as app, AsyncExitStack() as stack:
        users = [users_of(three, number, 1, "record")[0] for number in range(3)]
        phones = [await stack.enter_async_context(three.phone(user, "T")) for user in users]
        for phone in phones:
            await phone.next("connection_ack")
        await three.register("com.example.fresh", app.url, app.api_key)
        for user, phone in zip(users, phones, strict=True):

            async def runs(user: str = user, phone: FakePhone = phone) -> bool:
                # The news may still be on their way to this worker: it refuses, and is asked again.
                await phone.start_app("com.example.fresh")
                await asyncio.sleep(0.2)
                return f"{user}-com.example.fresh" in app.sessions

            await until(runs, f"the worker of {user} knows the record")
            await app.started(user)


async def test_a_frozen_worker_costs_new_connections_a_second_at_most(three: Workers) -> None:
    frozen = await three.pid_of(0)
    assert frozen is not None
    os.kill(frozen, signal.SIGSTOP)
    try:
        for user in users_of(three, 0, 2, "frozen"):
            begin = time.monotonic()
            async with three.phone(user) as phone:
                await phone.next("connection_ack", within=15)
                print(f"served after {time.monotonic() - begin:.2f} s")
        assert (await three.get("/livez")).status_code == 200
        ready = await three.get("/readyz")
        assert ready.status_code == 200
    finally:
        os.kill(frozen, signal.SIGCONT)
    await all_up(three)


async def test_a_killed_broker_is_back_at_once_and_disturbs_no_session(three: Workers) -> None:
    async with FakeApp("com.example.broker", "key-0123456789", "button_press") as app:
        await three.register("com.example.broker", app.url, app.api_key)
        user = users_of(three, 1, 1, "broker")[0]
        async with three.phone(user, "T") as phone:
            await phone.next("connection_ack")
            await phone.start_app("com.example.broker")
            session = await app.started(user)
            assert three.broker is not None
            os.kill(three.broker, signal.SIGKILL)
            for number in range(100):
                await phone.send("button_press", buttonId=str(number), pressType="short")
                await asyncio.sleep(0.01)
            await until(lambda: len(session.events("button_press")) >= 100, "every press")
            assert [e["buttonId"] for e in session.events("button_press")] == [str(n) for n in range(100)]
            assert session.connects == 1
            await all_up(three)
            assert phone.closed is None


@pytest.mark.failure("PRO-01")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_worker_that_ends_under_a_real_sdk_app_loses_nothing(
    three: Workers, how: signal.Signals
) -> None:
    """The app is an unmodified @mentra/sdk program. Its worker is killed, or told to end, while events flow: each arrives,
    once."""
    install_sdk()
    async with AsyncExitStack() as stack:
        app = SdkApp("2.1.29", f"{PACKAGE}.{how.name.lower()}", KEY)
        stack.push_async_callback(app.close)
        await app.start(hook=HOOK + STORE)
        await three.register(app.package, app.url, KEY, "ALL")
        edges = []
        for number in (0, 1):
            edge = three.edge(users_of(three, number, 1, how.name.lower())[0])
            stack.push_async_callback(edge.kill)
            edges.append(edge)
            edge.boot()
        await until(lambda: all(edge.online for edge in edges), "the edges", 20)
        for edge in edges:
            edge.want(app.package)
        await until(lambda: len(app.seen("onSession:done")) == 2, "the app started for both", 20)

        for edge in edges:
            path = f"/s/{session_key(edge.user)}/api/sdk/simple-storage/{edge.user}"
            reply = await three.get(path, Authorization=f"Bearer {app.package}:{KEY}")
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
        victim = await three.pid_of(0)
        assert victim is not None
        killed = time.time()
        os.kill(victim, how)
        await asyncio.sleep(5.0)
        sending = False
        await task
        await until(lambda: all(edge.quiet for edge in edges), "all to be handed over", 30)
        posted = {name for edge in edges for name in edge.posted}
        missing = lambda: posted - arrivals().keys()  # noqa: E731
        await until(lambda: len(missing()) <= sum(edge.expired for edge in edges), "the last events", 15)
        await asyncio.sleep(1.0)
        got = arrivals()
        doubled = [name for name, times in got.items() if len(times) > 1]
        for edge in edges:
            times = sorted(at / 1000 for name in edge.posted for at in got.get(name, []))
            gap = max((b - a for a, b in pairwise(times) if b > killed), default=0.0)
            print(
                f"{edge.user}: {len(edge.posted)} events, longest gap {1000 * gap:.0f} ms, expired {edge.expired}"
            )
        print(f"lost {len(missing())}, doubled {len(doubled)}")
        assert len(missing()) <= sum(edge.expired for edge in edges), sorted(missing())[:10]
        if how is signal.SIGTERM:
            assert not doubled, doubled[:10]
        # What the dead worker had written to the app in its last turn and not yet acknowledged comes again
        # (docs/reliability.md).
        assert len(doubled) <= 5, doubled[:10]
        assert await until(lambda: three.pid_of(0), "the worker to be back", 20) != victim
    await all_up(three)


async def test_an_administrators_drain_is_for_all_workers_and_sigterm_leaves_no_process(
    tmp_path: Path,
) -> None:
    with workers(tmp_path, 2) as running:
        family = [*children(running.process.pid), running.process.pid]
        assert len(family) == 4, "two workers, the broker, the supervisor"
        async with AsyncExitStack() as stack:
            phones = [
                await stack.enter_async_context(running.phone(users_of(running, number, 1, "drain")[0]))
                for number in (0, 1)
            ]
            for phone in phones:
                await phone.next("connection_ack")
            assert (await running.post("/api/admin/drain")).status_code == 202
            await until(lambda: all(phone.closed for phone in phones), "both to be told", 15)
            assert [phone.closed[0] for phone in phones if phone.closed] == [1012, 1012]
            for _ in range(6):
                assert (await running.get("/readyz")).status_code == 503
        begin = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
        print(f"ended {time.monotonic() - begin:.1f} s after SIGTERM")
        assert time.monotonic() - begin < 10 * SLOW
        assert not [pid for pid in family if alive(pid)]


async def test_sigterm_tells_the_glasses_to_come_back(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as running:
        async with running.phone("anna@x.example") as phone:
            await phone.next("connection_ack")
            begin = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            await until(lambda: phone.closed is not None, "the glasses to be told", 10)
            assert phone.closed is not None
            assert phone.closed[0] == 1012
        assert await running.ended() == 0
        print(f"drained and ended after {time.monotonic() - begin:.1f} s")
        assert time.monotonic() - begin < 10 * SLOW


async def test_a_killed_supervisor_takes_its_children_along(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as running:
        family = children(running.process.pid)
        running.process.kill()
        await running.ended()
        await until(lambda: not [pid for pid in family if alive(pid)], "workers and broker to end", 15)
    with workers(tmp_path, 2, port=running.port) as again:  # and everything is free again
        assert (await again.get("/health")).status_code == 200


async def test_one_worker_is_the_one_process_that_it_always_was(tmp_path: Path) -> None:
    with workers(tmp_path, 1) as running:
        assert children(running.process.pid) == []
        assert not (tmp_path / "data" / "nats").exists()
        assert 'worker="' not in (await running.get("/metrics")).text
        async with FakeApp("com.example.app") as app, running.phone("anna@x.example", "T") as phone:
            await phone.next("connection_ack")
            await running.register("com.example.app", app.url, app.api_key)
            await phone.start_app("com.example.app")
            await app.started("anna@x.example")
            assert app.requests()[0]["mentraOSWebsocketUrl"] == f"ws://127.0.0.1:{running.port}/app-ws"
