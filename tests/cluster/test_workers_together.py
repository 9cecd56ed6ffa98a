"""Workers over what a cluster shares: on one machine with PostgreSQL, and on two machines of one cluster. Real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.app_server import FakeApp, FakeSession
from tests.support.brokers import Brokers
from tests.support.link_phone import LinkPhone
from tests.support.postgres import Postgres, postgres
from tests.support.waiting import SLOW, until
from tests.support.workers import ADMIN, Workers, alive, children, workers

KEY = "key-0123456789"


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


def machine(folder: Path, number: int, brokers: Brokers, database: str) -> tuple[Path, dict[str, str]]:
    """The folder and the settings of one machine of a cluster."""
    own = folder / f"machine{number}"
    own.mkdir()
    return own, {
        "CLUSTER__NATS": ",".join(brokers.urls),
        "CLUSTER__NODE": f"machine{number}",
        "CLUSTER__BUCKETS": "2",
        "STORE__URL": database,
    }


@pytest.fixture
def two_machines(tmp_path: Path, broker: Brokers, database: Postgres) -> Iterator[tuple[Workers, Workers]]:
    """Two machines with two workers each."""
    url = database.new_database()
    with ExitStack() as stack:
        made = []
        for number in range(2):
            own, settings = machine(tmp_path, number, broker, url)
            made.append(stack.enter_context(workers(own, 2, port=0, **settings)))
        yield made[0], made[1]


@asynccontextmanager
async def wearer(at: list[Workers], user: str) -> AsyncIterator[LinkPhone]:
    """An edge that dials the first of these machines first."""
    async with LinkPhone([one.url for one in at], user, at[0].token(user)) as phone:
        await until(lambda: phone.is_live, "the link is up", 15)
        yield phone


async def running(phone: LinkPhone, app: FakeApp) -> FakeSession:
    """The app runs, and has heard the first press."""
    phone.say("start_app", packageName=app.package)
    session = await app.started(phone.user)

    async def hears() -> bool:
        phone.press()
        await asyncio.sleep(0.1)
        return bool(session.events("button_press"))

    await until(hears, "the app hears", 10)
    await asyncio.sleep(0.2)
    return session


async def arrive(phone: LinkPhone, session: FakeSession, count: int = 20) -> None:
    """So many presses; each arrives once."""
    first = phone.presses + 1
    for _ in range(count):
        phone.press()
        await asyncio.sleep(0.01)
    wanted = [f"main-{n}" for n in range(first, phone.presses + 1)]

    def got() -> list[str]:
        return [e["buttonId"] for e in session.events("button_press") if e["buttonId"] in set(wanted)]

    await until(lambda: len(got()) >= count, "every press", 15)
    assert got() == wanted


async def test_workers_with_postgresql_know_each_others_records_and_survive_a_kill(
    tmp_path: Path, database: Postgres
) -> None:
    with workers(tmp_path, 2, STORE__URL=database.new_database()) as both:
        assert both.broker is not None
        names = [f"pg-{n}@x.example" for n in range(99)]
        dying, living = (next(name for name in names if both.place(name) == place) for place in (0, 1))
        async with (
            FakeApp("com.example.pg", KEY, "button_press") as app,
            wearer([both], dying) as first,
            wearer([both], living) as second,
        ):
            await both.register(app.package, app.url, app.api_key)
            await running(first, app)
            session = await running(second, app)
            victim = await both.pid_of(0)
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            await arrive(second, session)
            first.press()
            await until(lambda: first.is_live and not first.link.backlog, "the other worker serves", 15)
        family = [*children(both.process.pid), both.process.pid]
        both.process.send_signal(signal.SIGTERM)
        assert await both.ended() == 0
        assert not [pid for pid in family if alive(pid)]


async def test_a_session_moves_between_machines_of_workers_and_its_app_notices_nothing(
    two_machines: tuple[Workers, Workers],
) -> None:
    here, there = two_machines
    assert here.broker is None, "the cluster's brokers are used"
    async with FakeApp("com.example.moves", KEY, "button_press") as app:
        await here.register(app.package, app.url, app.api_key)
        async with wearer([here, there], "moves@x.example") as phone:
            session = await running(phone, app)
            for target in (there, here):
                phone.go(target.url)
                await until(lambda t=target: phone.is_live and phone.at == t.url, "moved", 15)  # type: ignore[misc]
                await arrive(phone, session)
            assert session.connects == 1
            assert all(r.recovered and r.peer_recovered for r in phone.resumed[1:])


async def test_what_a_command_changes_at_one_machine_counts_at_every_worker_of_every_machine(
    two_machines: tuple[Workers, Workers],
) -> None:
    """`glassbridge app add`, `token new` and `token revoke` ask one running cloud; the others hear of it."""
    here, there = two_machines
    users = [
        next(name for n in range(99) if there.place(name := f"cli-{n}@x.example") == place)
        for place in (0, 1)
    ]
    made = [await command(here, "token", "new", "--user", user) for user in users]
    async with FakeApp("com.example.cli", KEY, "button_press") as app, AsyncExitStack() as stack:
        phones = [LinkPhone([there.url], u, token["token"]) for u, token in zip(users, made, strict=True)]
        for phone in phones:
            await stack.enter_async_context(phone)
            await until(lambda p=phone: p.is_live, "the link is up", 15)  # type: ignore[misc]
        key = there.log.with_name("key")
        key.write_text(KEY)
        where = ("--package", app.package, "--url", app.url, "--key-file", str(key))
        await command(here, "app", "add", *where, cloud_option="--cloud")
        for phone in phones:
            await running(phone, app)
        for phone, token in zip(phones, made, strict=True):
            await command(here, "token", "revoke", token["tokenId"])
            await until(lambda p=phone: 1008 in [code for code, _ in p.closes], "the glasses are cut", 10)  # type: ignore[misc]
            reply = await there.get("/api/client/user/settings", Authorization=f"Bearer {token['token']}")
            assert reply.status_code == 401


async def command(at: Workers, *words: str, cloud_option: str = "--url") -> Any:
    """What an administrator types, and its one JSON document."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "glassbridge", *words, cloud_option, at.url, "--json"),
        env={**os.environ, "GLASSBRIDGE_ADMIN_TOKEN": ADMIN},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said
    return json.loads(said)


async def test_a_machine_of_workers_that_drains_sends_its_sessions_to_the_other_machines(
    two_machines: tuple[Workers, Workers],
) -> None:
    """Its workers end together, but they are not all there is."""
    here, there = two_machines
    async with FakeApp("com.example.drains", KEY, "button_press") as app:
        await here.register(app.package, app.url, app.api_key)
        async with wearer([here, there], "drains@x.example") as phone:
            session = await running(phone, app)
            here.process.send_signal(signal.SIGTERM)
            await until(lambda: phone.is_live and phone.at == there.url, "moved", 15)
            for _ in range(10):
                phone.press()
            assert await here.ended() == 0
            last = phone.resumed[-1]
            assert last.recovered, "the new owner got all of it from the old"
            assert last.peer_recovered
            # Its app's socket was at the machine that ended: the SDK dials again, a balancer sends it to the other.
            await until(lambda: session.closed is not None, "the app is sent elsewhere", 10)
            session.url = session.url.replace(f":{here.port}", f":{there.port}")
            await session.open()
            await arrive(phone, session)
            posted = {f"main-{n}" for n in range(1, phone.presses + 1)}
            await until(
                lambda: posted <= {e["buttonId"] for e in session.events("button_press")},
                "every press",
                5 * SLOW,
            )
