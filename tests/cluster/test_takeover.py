"""Sessions that move between nodes: over real sockets, with the fabric in process and over NATS.

The eight bugs of the design's prototype (design, section 11) are named where a test here holds them; the others are held
by the machines' own tests (test_ownership, test_pipe) and by the fabric's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from cloud.cluster.cluster import VIEW_PATIENCE
from cloud.cluster.fabric import Fabric
from cloud.cluster.local import LocalEngine
from cloud.cluster.names import node_address, owner_key, state_key
from cloud.cluster.nats import NatsFabric, NatsOptions
from cloud.core.admission import AdmissionState
from cloud.core.ownership import Ownership, OwnershipState, OwnershipTiming
from tests.support.app_server import FakeApp, FakeSession
from tests.support.brokers import Brokers, free_ports
from tests.support.cloud import USER, register
from tests.support.fake_phone import FakePhone
from tests.support.link_phone import LinkPhone
from tests.support.nodes import MakeFabric, Nodes, nodes
from tests.support.waiting import until
from wire.errors import CloseCode
from wire.placement import session_key

APP = ("com.example.a", "key-0123456789", "button_press")


@pytest.fixture(params=["local", "nats"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[MakeFabric]:
    """A fabric for one more node."""
    if request.param == "local":
        engine = await LocalEngine.open()

        async def local() -> Fabric:
            return engine.node()

        yield local
        await engine.close()
        return
    brokers: Brokers = request.getfixturevalue("broker")
    cell = f"t{abs(hash(request.node.nodeid)) % 10**8}"

    async def remote() -> Fabric:
        return await NatsFabric.open(NatsOptions(servers=brokers.urls, cell=cell, buckets=1))

    yield remote


def pressed(session: FakeSession) -> list[int]:
    """Numbers of the presses that the app was told of, also those said again."""
    return [
        int(m["data"]["buttonId"].rpartition("-")[2])
        for m in session.of("data_stream")
        if m["streamType"] == "button_press"
    ]


async def running(world: Nodes, phone: LinkPhone, app: FakeApp) -> FakeSession:
    """The app runs and hears."""
    await until(lambda: phone.is_live, "the link is up")
    phone.say("start_app", packageName=app.package)
    session = await app.started(phone.user)

    def hears() -> bool:
        return any(
            view is not None and any(a.subscriptions for a in view.apps)
            for view in (cloud.hub.session_view(phone.user) for cloud in world.clouds)
        )

    await until(hears, "the app has subscribed")
    return session


async def until_async(what: Callable[[], Awaitable[bool]]) -> None:
    """Like `until`, for what has to be asked of the fabric."""
    for _ in range(200):
        if await what():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("not within 10 s")


async def saved(world: Nodes, what: bytes) -> None:
    """Wait until the record of the session holds this: within a second."""

    async def is_saved() -> bool:
        found = await world.fabrics[1].get(state_key(session_key(USER)))
        return found is not None and what in found.value

    await until_async(is_saved)


async def press(phone: LinkPhone, session: FakeSession, count: int = 5) -> None:
    """Presses, each of which arrives once, in order."""
    for _ in range(count):
        phone.press()
    expected = list(range(1, phone.presses + 1))
    await until(lambda: pressed(session)[-1:] == expected[-1:], f"press {phone.presses}")
    assert pressed(session) == expected


@asynccontextmanager
async def served(
    tmp_path: Path, make: MakeFabric, **options: Any
) -> AsyncIterator[tuple[Nodes, LinkPhone, FakeSession, FakeApp]]:
    """Two nodes, of which the first owns the session of one wearer; an app runs in it and hears. `options` of `nodes`."""
    async with nodes(tmp_path, make, **options) as world, FakeApp(*APP) as app:
        await register(world[0], app)
        async with world.phone() as phone:
            yield world, phone, await running(world, phone, app), app


async def test_an_app_stays_connected_while_its_session_moves_and_notices_nothing(
    tmp_path: Path, make: MakeFabric
) -> None:
    async with served(tmp_path, make) as (world, phone, session, app):
        await press(phone, session)
        await session.show("before")
        await until(lambda: "before" in phone.displays(), "the display")
        for target in (1, 0, 1):
            phone.go(world.urls[target])
            await until(lambda t=target: world.owners() == [t], "moved")  # type: ignore[misc]
            await press(phone, session)
            await session.show(f"from {target}")
            await until(lambda t=target: phone.displays()[-1:] == [f"from {t}"], "the display")  # type: ignore[misc]
        assert all(r.recovered and r.peer_recovered for r in phone.resumed[1:])
        assert session.connects == 1
        assert len(session.of("tpa_connection_ack")) == 1
        assert len(app.requests()) == 1


async def test_an_app_that_lands_on_another_node_is_served_as_if_it_had_not(
    tmp_path: Path, make: MakeFabric
) -> None:
    async with served(tmp_path, make, app_node=1) as (world, phone, session, app):
        assert world.owners() == [0]
        assert world.edges(1) == 1
        await press(phone, session)
        await session.show("from afar")
        await until(lambda: "from afar" in phone.displays(), "the display")
        phone.say("stop_app", packageName=app.package)
        await until(lambda: session.closed is not None, "the app is stopped")
        await until(lambda: world.edges(1) == 0, "its node has forgotten it")


async def test_a_lost_node_costs_nothing_reliable_and_its_state_is_at_most_a_second_old(
    tmp_path: Path, make: MakeFabric
) -> None:
    """Also bug 2: the app attaches again before anybody could have forgotten the loaded table."""
    async with served(tmp_path, make, app_node=1) as (world, phone, session, _):
        await press(phone, session)
        await session.show("still there")
        await until(lambda: "still there" in phone.displays(), "the display")
        await saved(world, b"still there")
        seen = len(phone.displays())
        await world.lose(0)
        for _ in range(3):
            phone.press()
        await until(lambda: world.owners()[-1:] == [1], "taken over")
        await press(phone, session)
        assert len(session.of("tpa_connection_ack")) == 1
        await until(lambda: "still there" in phone.displays()[seen:], "shown again")


async def test_a_question_that_is_open_at_a_move_is_answered_by_the_new_owner(
    tmp_path: Path, make: MakeFabric
) -> None:
    async with served(tmp_path, make) as (world, phone, session, app):
        question = {"packageName": app.package, "sessionId": "", "requestId": "r1"}
        await session.send("audio_play_request", **question, audioUrl="https://x.example/a.mp3")
        await until(lambda: bool(phone.of("audio_play_request")), "the glasses are asked")
        phone.go(world.urls[1])
        await until(lambda: world.owners() == [1], "moved")
        phone.say("audio_play_response", requestId="r1", success=True)
        await until(lambda: bool(session.of("audio_play_response")), "the answer")
        assert session.of("audio_play_response")[0]["success"] is True
        assert len(phone.of("audio_play_request")) == 1, "asked once"


@pytest.mark.failure("PRO-02")
async def test_a_node_that_refuses_lets_those_in_whose_node_died_and_nobody_new(
    tmp_path: Path, make: MakeFabric
) -> None:
    """Their sessions run: to refuse them would end them."""
    async with served(tmp_path, make, app_node=1) as (world, phone, session, _):
        await press(phone, session)
        await saved(world, b"button_press")
        gate = world[1].hub.gate._machine
        gate._state = AdmissionState.REFUSING
        gate._calm_since = None
        token = world[1].verifier.mint_core_token("new@example.com")
        with pytest.raises(InvalidStatus) as refused:
            await connect(
                world.urls[1].replace("http", "ws") + "/glasses-ws",
                additional_headers={"Authorization": f"Bearer {token}"},
            )
        assert refused.value.response.status_code == 503
        assert int(refused.value.response.headers["Retry-After"]) >= 1
        await world.lose(0)
        await until(lambda: world.owners()[-1:] == [1], "taken over")
        assert gate.state is AdmissionState.REFUSING, "it has refused all the time"
        await press(phone, session)


async def test_a_stale_owner_on_the_apps_own_node_is_not_believed(tmp_path: Path, make: MakeFabric) -> None:
    """Bug 4: local first reached the stale owner beside the app's socket."""
    async with served(tmp_path, make) as (world, phone, session, _):
        await press(phone, session)
        await saved(world, b"button_press")
        stale = world.seat(0)
        assert stale is not None
        stale.handoff_asked = lambda request, reply: None  # type: ignore[method-assign]
        phone.go(world.urls[1])
        await until(lambda: world.owners() == [1], "the stale owner has stopped")
        await press(phone, session)
        assert world.edges(0) == 1


async def test_an_engine_that_is_away_at_the_start_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Bug 7: a node exited when the engine was not there. It serves, and joins when it can."""
    (port,) = free_ports(1)

    async def nowhere() -> Fabric:
        return await NatsFabric.open(NatsOptions(servers=(f"nats://127.0.0.1:{port}",), buckets=1), wait=0.1)

    async with nodes(tmp_path, nowhere, 1) as world, FakeApp(*APP) as app:
        await register(world[0], app)
        async with world.phone() as phone:
            session = await running(world, phone, app)
            seat = world.seat(0)
            assert seat is not None
            assert seat.machine.state is OwnershipState.PROVISIONAL
            await press(phone, session)


async def test_two_devices_of_one_user_do_not_take_the_session_from_each_other_for_ever(
    tmp_path: Path, make: MakeFabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.cluster.seat.YOUNG", 0.0)
    async with nodes(tmp_path, make) as world:
        token = world[0].verifier.mint_core_token(USER)
        async with FakePhone(world.urls[0], USER, token, "T") as first:
            await first.next("connection_ack")
            async with FakePhone(world.urls[1], USER, token, "T") as second:
                await second.next("connection_ack")
                await until(lambda: first.closed is not None, "the older one is closed")
                assert first.closed is not None
                assert first.closed[0] == CloseCode.REPLACED, "and told to stay away"
                assert world.owners() == [1]


async def test_a_rest_call_is_answered_by_any_node(tmp_path: Path, make: MakeFabric) -> None:
    async with nodes(tmp_path, make) as world, FakeApp(*APP) as app:
        await register(world[0], app)
        token = world[0].verifier.mint_core_token(USER)
        elsewhere = FakePhone(world.urls[1], USER, token, "C")  # only its HTTP client is used
        nobody = FakePhone(
            world.urls[1], "n@example.com", world[1].verifier.mint_core_token("n@example.com"), "C"
        )
        async with FakePhone(world.urls[0], USER, token, "T") as phone:
            await until(lambda: world.owners() == [0], "the session is at the first node")
            reply = await elsewhere.rest("POST", f"/apps/{app.package}/start")
            assert reply.status_code == 200, reply.text
            session = await app.started(USER)
            await phone.send("button_press", buttonId="b-1", pressType="short")
            await until(lambda: pressed(session) == [1], "the press")
            state = await elsewhere.rest("POST", "/api/client/device/state", {"batteryLevel": 42})
            assert state.status_code == 200, state.text
            await until(
                lambda: any(m["state"].get("batteryLevel") == 42 for m in session.of("device_state_update")),
                "the app hears of it",
            )
            unknown = await elsewhere.rest("POST", "/apps/com.example.unknown/start")
            assert unknown.status_code == 404
            wrong = await elsewhere.http.request(
                "GET",
                f"/appsettings/user/{app.package}",
                headers={"Authorization": f"Bearer eve-{app.package}"},
            )
            assert wrong.status_code == 401
            right = await elsewhere.http.request(
                "GET",
                f"/appsettings/user/{app.package}",
                headers={"Authorization": f"Bearer {USER}-{app.package}"},
            )
            assert right.status_code == 200, right.text
        answer = await nobody.rest("GET", "/api/client/user/settings")
        assert answer.status_code == 200, "no session anywhere: from the store"
        await elsewhere.close()
        await nobody.close()


@pytest.mark.parametrize("size", [2_000_000, 9_900_000])
async def test_a_photo_may_be_uploaded_to_any_node(tmp_path: Path, make: MakeFabric, size: int) -> None:
    async with (
        nodes(tmp_path, make, sessions__grace=0.2) as world,
        FakeApp(*APP) as app,
        httpx.AsyncClient(base_url=world.urls[1], timeout=30.0) as http,
    ):
        await register(world[0], app, "CAMERA")
        picture = b"\xff\xd8\xff\xe0" + bytes(size)

        async def upload() -> httpx.Response:
            return await http.post(
                "/api/photos/upload",
                headers={"Authorization": f"Bearer {phone.token}"},
                files={"photo": ("p.jpg", picture, "image/jpeg")},
                data={"requestId": "p1"},
            )

        async with world.phone() as phone:
            session = await running(world, phone, app)
            assert world.owners() == [0]
            await session.send("photo_request", packageName=app.package, sessionId="", requestId="p1")
            await until(lambda: bool(phone.of("photo_request")), "the glasses are asked")
            reply = await upload()
            assert reply.status_code == 200, reply.text
            await until(lambda: [p["requestId"] for p in app.photos] == ["p1"], "the app has it")
            [kept] = await world.store.list_photos(USER)
            assert kept.size == len(picture)
        await until(lambda: world.owners() == [], "no session any more", 20)
        assert (await upload()).status_code == 404


async def test_a_node_that_drains_loses_nothing_and_its_apps_find_another(
    tmp_path: Path, make: MakeFabric
) -> None:
    async with served(tmp_path, make) as (world, phone, session, _):
        await press(phone, session)
        draining = asyncio.create_task(world[0].hub.drain())
        await until(lambda: world.owners() == [1], "moved")
        for _ in range(5):
            phone.press()
        await draining
        await until(lambda: session.closed is not None, "the app is sent elsewhere")
        assert session.closed is not None
        assert session.closed[0] == 1012
        phone.press()
        session.url = session.url.replace(world.urls[0][7:], world.urls[1][7:])
        await session.open()
        await press(phone, session)


async def test_what_a_newer_or_older_version_has_saved_is_read_as_far_as_it_is_understood(
    tmp_path: Path, make: MakeFabric
) -> None:
    async with served(tmp_path, make, app_node=1) as (world, phone, session, _):
        await press(phone, session)
        seat = world.seat(0)
        assert seat is not None
        await seat.save_now()
        await world.lose(0, redial=False)
        fabric = world.fabrics[1]
        found = await fabric.get(state_key(session_key(USER)))
        assert found is not None
        state: dict[str, Any] = orjson.loads(found.value)
        state["from_the_future"] = {"v": 99}
        state["session"] |= {"v": 99, "new_member": [1, 2], "dashboard": {"mode": "main", "new": 1}}
        del state["session"]["calendar"], state["session"]["utc_offset"]
        await fabric.put(state_key(session_key(USER)), orjson.dumps(state))
        phone.resume_dialing()
        await until(lambda: world.owners()[-1:] == [1], "taken over")
        await press(phone, session)
        assert len(session.of("tpa_connection_ack")) == 1


async def test_a_state_that_cannot_be_read_costs_the_state_not_the_session(
    tmp_path: Path, make: MakeFabric
) -> None:
    async with served(tmp_path, make, app_node=1) as (world, phone, session, _):
        await world.lose(0, redial=False)
        await world.fabrics[1].put(state_key(session_key(USER)), b'{"session":{"apps":7,"dashboard":[]}}')
        phone.resume_dialing()
        await until(lambda: world.owners()[-1:] == [1], "taken over")
        phone.press()
        await until(lambda: pressed(session)[-1:] == [phone.presses], "the app hears again")


async def test_the_end_of_a_session_leaves_no_records(tmp_path: Path, make: MakeFabric) -> None:
    async with nodes(tmp_path, make, sessions__grace=0.2) as world:
        async with world.phone() as phone:
            await until(lambda: phone.is_live and world.owners() == [0], "served")
            assert await world.fabrics[1].get(owner_key(session_key(USER))) is not None
        await until(lambda: world.owners() == [], "ended")

        async def none_left() -> bool:
            return [await world.fabrics[1].get(key(session_key(USER))) for key in (owner_key, state_key)] == [
                None,
                None,
            ]

        await until_async(none_left)


async def test_a_session_that_outlives_the_records_of_the_engine_keeps_its_own(
    tmp_path: Path, broker: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A month in three seconds: what nobody wrote for that long is reaped, and an owner writes thirty times as often."""
    monkeypatch.setattr("cloud.cluster.nats.RECORD_AGE_MAX", 3.0)
    monkeypatch.setattr(
        "cloud.cluster.seat.Ownership", partial(Ownership, timing=OwnershipTiming(refresh=0.5, save=0.1))
    )

    async def remote() -> Fabric:
        return await NatsFabric.open(NatsOptions(servers=broker.urls, cell="month", buckets=1))

    async with nodes(tmp_path, remote) as world, world.phone() as phone:
        await until(lambda: phone.is_live and world.owners() == [0], "served")
        fabric = world.fabrics[1]
        await fabric.put("own.left", b"by a node that died")
        first = await fabric.get(owner_key(session_key(USER)))

        async def reaped() -> bool:
            return await fabric.get("own.left") is None

        await until(reaped, "the engine reaps")  # type: ignore[arg-type]
        await asyncio.sleep(1.0)
        now, state = [await fabric.get(key(session_key(USER))) for key in (owner_key, state_key)]
        assert first is not None
        assert now is not None
        assert now.value == first.value
        assert now.rev > first.rev
        assert state is not None
        assert world.owners() == [0]


async def test_an_operator_sees_the_whole_cluster_from_any_node_and_who_does_not_answer(
    tmp_path: Path, make: MakeFabric
) -> None:
    async with (
        nodes(tmp_path, make, 3) as world,
        world.phone("a@example.com") as moving,
        world.phone("b@example.com", first=1) as staying,
        httpx.AsyncClient() as http,
    ):
        await until(lambda: moving.is_live and staying.is_live, "both are served")

        async def asked(node: int, path: str) -> Any:
            return (await http.get(f"{world.urls[node]}/api/admin{path}")).json()

        async def all_answer() -> bool:
            return len((await asked(2, "/nodes"))["nodes"]) == 3

        await until_async(all_answer)
        first = await asked(2, "/sessions?limit=1")
        assert [one["user_id"] for one in first["sessions"]] == ["a@example.com"]
        second = await asked(2, f"/sessions?limit=1&after={first['next']}")
        assert [one["user_id"] for one in second["sessions"]] == ["b@example.com"]
        assert first["sessions"][0]["node"] != second["sessions"][0]["node"]
        moving.go(world.urls[1])
        await until(lambda: world.owners("a@example.com") == [1], "moved")
        for node in range(3):
            events = (await asked(node, "/sessions/a@example.com/trace"))["events"]
            assert {one["node"].partition("-")[0] for one in events} == {"node0", "node1"}
        lost = world[1].hub.cluster
        assert lost is not None
        lost._asked = lambda data, reply: None  # type: ignore[method-assign]
        lost._unlisten[0]()
        lost._unlisten[0] = await world.fabrics[1].listen(node_address(lost.node), lost._asked)
        begin = asyncio.get_running_loop().time()
        page = await asked(0, "/sessions")
        assert page["silent"] == [lost.node]
        assert asyncio.get_running_loop().time() - begin < VIEW_PATIENCE + 2.0
        await world.clouds[2].hub.close()
        gone = world[2].hub.cluster
        assert gone is not None

        async def said_goodbye() -> bool:
            return gone.node not in (await asked(0, "/nodes"))["silent"]

        await until_async(said_goodbye)


async def test_users_of_one_app_reach_each_other_over_nodes(tmp_path: Path, make: MakeFabric) -> None:
    async with nodes(tmp_path, make) as world, FakeApp(*APP) as app:
        await register(world[0], app)
        async with world.phone("a@example.com") as first, world.phone("b@example.com", first=1) as second:
            mine, theirs = await running(world, first, app), await running(world, second, app)
            assert world.owners("a@example.com") == [0]
            assert world.owners("b@example.com") == [1]
            for cloud in world.clouds:
                await until(lambda c=cloud: len(c.hub.users_of(app.package)) == 2, "both are known")  # type: ignore[misc]
            for session in (mine, theirs):
                await session.send("app_room_join", packageName=app.package, sessionId="", roomId="r")
            await until(lambda: bool(mine.of("app_room_updated")), "the rooms agree")
            await mine.send(
                "app_broadcast_message",
                packageName=app.package,
                sessionId="",
                payload="hello",
                messageId="m1",
                roomId="r",
            )
            await until(lambda: bool(theirs.of("app_message_received")), "the broadcast")
            assert theirs.of("app_message_received")[0]["senderUserId"] == "a@example.com"
            assert mine.of("app_message_received") == []
            await mine.send(
                "app_direct_message",
                packageName=app.package,
                sessionId="",
                payload="you",
                messageId="m2",
                targetUserId="b@example.com",
            )
            await until(lambda: bool(mine.of("app_direct_message_response")), "the answer")
            assert mine.of("app_direct_message_response")[0]["success"] is True
            await until(lambda: len(theirs.of("app_message_received")) == 2, "the direct message")
        cluster = world[0].hub.cluster
        assert cluster is not None
        world[0].hub.node_gone(world[1].hub.cluster.node)  # type: ignore[union-attr]
