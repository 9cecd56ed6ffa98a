"""The door of a process under real load: lossy frames go first, newcomers wait outside, nobody inside is ended."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from cloud.core.admission import AdmissionState
from cloud.gate import memory_share
from cloud.server import Cloud
from tests.support.app_server import FakeApp
from tests.support.cloud import phone, register, running, subscribed
from tests.support.waiting import until

NORMAL, SHEDDING, REFUSING = AdmissionState
#: Frames a second, in and out, that count as too many in this test: a few talkers are enough.
FRAMES = 400


async def refusal(cloud: Cloud, user: str) -> InvalidStatus:
    token = cloud.verifier.mint_core_token(user)
    with pytest.raises(InvalidStatus) as caught:
        async with connect(
            f"ws://127.0.0.1:{cloud.port}/glasses-ws", additional_headers={"Authorization": f"Bearer {token}"}
        ):
            pass
    return caught.value


@pytest.mark.failure("PRO-02")
@pytest.mark.failure("PRO-04")
async def test_overload_sheds_sound_then_refuses_newcomers_and_ends_nobody(tmp_path: Path) -> None:
    users = [f"user{n}@example.com" for n in range(6)]
    async with (
        running(
            tmp_path, admission__frames_per_second=FRAMES, limits__audio_frames_per_second=10_000
        ) as cloud,
        FakeApp("a", "k", "button_press", "audio_chunk") as app,
    ):
        await register(cloud, app, "MICROPHONE")
        phones = [phone(cloud, user=user) for user in users]
        for one in phones:
            await one.connect()
            await one.start_app("a")
        sessions = {user: await app.started(user) for user in users}
        for user in users:
            await subscribed(cloud, "a", user)
        gate = cloud.hub.gate
        talking = True

        async def talk(one: object) -> None:
            while talking:
                for _ in range(5):
                    await one.send_raw(b"\0" * 320)  # type: ignore[attr-defined]
                await asyncio.sleep(0.02)

        talkers = [asyncio.create_task(talk(one)) for one in phones]
        try:
            await until(lambda: gate.state is SHEDDING, "sound is shed", 15)
            began = time.monotonic()
            newcomer = phone(cloud, user="new@example.com")
            async with newcomer:
                await newcomer.next("connection_ack")
            await until(lambda: b'dropped_total{reason="overload"}' in cloud.metrics.text(), "counted")
            # The talkers send as fast as before: with everything shed, what is left is still counted out of the limit,
            # so the pressure goes and nobody needs to be refused. Lateness goes the same way; it is provoked here.
            gate._machine.limits = type(gate._machine.limits)(lag=1e-9, frames=FRAMES)
            await until(lambda: gate.state is REFUSING, "newcomers are refused", 15)
            print(f"shedding to refusing in {time.monotonic() - began:.1f} s")
            waits = set()
            for n in range(12):
                answer = await refusal(cloud, f"late{n}@example.com")
                assert answer.response.status_code == 503
                waits.add(int(answer.response.headers["Retry-After"]))
            assert min(waits) >= 1
            assert len(waits) > 1, "not all at the same moment"
            for user, one in zip(users, phones, strict=True):
                await one.send("button_press", buttonId="main", pressType="short")
                await until(lambda user=user: sessions[user].events("button_press"), "what matters arrives")
            await phones[0].drop()
            await phones[0].connect()  # he has a session: the door is open for him
            assert cloud.hub.session_count == len(users) + 1
            assert [one.closed for one in phones[1:]] == [None] * 5, "nobody was ended"
        finally:
            talking = False
            await asyncio.gather(*talkers, return_exceptions=True)
        gate._machine.limits = type(gate._machine.limits)(frames=FRAMES)
        await until(lambda: gate.state is NORMAL, "calm brings everything back", 30)
        assert gate.share == 0.0
        async with phone(cloud, user="late0@example.com") as glasses:
            await glasses.next("connection_ack")
        for one in phones:
            await one.close()


async def test_one_session_is_shed_or_is_not_and_the_turn_goes_round(tmp_path: Path) -> None:
    async with running(tmp_path) as cloud:
        gate = cloud.hub.gate
        assert not any(gate.sheds(n / 10) for n in range(10)), "nothing is shed without need"
        gate.share = 0.3
        shed = [n for n in range(100) if gate.sheds(n / 100)]
        assert len(shed) == 30
        gate._turn += 0.618034
        assert [n for n in range(100) if gate.sheds(n / 100)] != shed
        gate.share = 1.0
        assert all(gate.sheds(n / 100) for n in range(100))


def test_memory_is_a_share_of_what_there_is() -> None:
    assert 0.0 < memory_share() < 1.0
