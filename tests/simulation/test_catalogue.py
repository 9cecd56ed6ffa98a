"""Entries of the failure catalogue, provoked as the catalogue says, where a machine's own test sees only a part of it."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest

from cloud.core import effects as fx
from cloud.core.app_lifecycle import AppState
from cloud.core.session import AppInfo
from tests.cloud.core.test_session import GRANTED, PACKAGE, Shell
from tests.simulation.test_stories import COUNTER, LOGGER, RECORDER, settled, start, state, stop
from tests.simulation.world import World

#: An event of the phone for each stream that the tests below listen to.
EVENTS: dict[str, dict[str, Any]] = {
    "button_press": {"type": "button_press", "buttonId": "a", "pressType": "short"},
    "head_position": {"type": "head_position", "position": "up"},
    "phone_notification": {
        "type": "phone_notification", "notificationId": "n", "app": "Chat", "title": "t", "content": "c",
        "priority": "normal",
    },
}  # fmt: skip


def lists(shell: Shell) -> list[tuple[bool, bool]]:
    """For each list that the glasses client was sent: whether it calls the app running, and starting."""
    users = [m["userSession"] for m in shell.to_glasses("app_state_change")]
    return [(PACKAGE in u["activeAppSessions"], PACKAGE in u["loadingApps"]) for u in users]


@pytest.mark.failure("APP-03")
def test_an_app_that_answers_the_webhook_and_never_connects_is_at_no_time_called_running() -> None:
    shell = Shell()
    shell.glasses()
    began = shell.now
    shell.do(shell.session.start_app(PACKAGE, shell.now))
    request = shell.of(fx.PostSessionRequest)[-1]
    shell.do(shell.session.webhook_answered(PACKAGE, request.cycle, shell.now + 0.1, ok=True))
    shell.run(0.5)
    assert lists(shell)[-1] == (False, True)
    while lists(shell)[-1] != (False, False):
        shell.run(0.5)
        assert shell.now - began <= 11.0, "it leaves the list of starting apps within its budget and a second"
    assert not any(running for running, _ in lists(shell))
    settled_as = shell.of(fx.StartSettled)[-1]
    assert (settled_as.ok, settled_as.stage.value) == (False, "TIMEOUT")


@pytest.mark.failure("APP-09")
def test_while_one_app_hangs_in_its_start_sound_flows_to_another_and_a_stop_takes_effect_at_once() -> None:
    world = settled()
    start(world, RECORDER)
    world.advance(4.0)

    def longest_gap() -> float:
        """Seconds between two pieces of sound, as the app hears them, within five seconds."""
        gaps = []
        for _ in range(50):
            world.advance(0.1)
            gaps.append(world.pump.now - world.servers[RECORDER].audio_at["user0"])
        return max(gaps)

    usual = longest_gap()
    world.servers[COUNTER].hangs = True
    start(world, COUNTER)
    assert longest_gap() <= usual + 0.1
    assert state(world, COUNTER) is AppState.LOADING
    stop(world, COUNTER)
    world.advance(1.0)
    assert state(world, COUNTER) not in (AppState.LOADING, AppState.CONNECTED)
    assert COUNTER not in world.cloud.stored["user0"].wanted


@pytest.mark.failure("APP-11")
def test_dead_and_deleted_apps_do_not_delay_twenty_reconnects_nor_are_asked_at_each() -> None:
    world = settled()
    deleted = "com.example.deleted"
    world.cloud.stored["user0"].wanted.extend([COUNTER, deleted])
    asked: list[str] = []
    server = world.servers[COUNTER]
    server.up = False
    answer = server.webhook

    def webhook(body: dict[str, Any], reply: Any) -> None:
        asked.append(body["type"])
        answer(body, reply)

    server.webhook = webhook  # type: ignore[assignment]
    world.cloud.kill()
    world.advance(1.0)
    world.cloud.boot()
    world.advance(10.0)
    edge = world.edges[0]
    for _ in range(20):
        edge.kill()
        world.advance(1.0)
        edge.boot()
        world.advance(2.0)
        assert edge.node is not None
        assert edge.node.uplink.state.value == "online", "acknowledged within two seconds"
        world.advance(27.0)
    assert 1 <= len(asked) <= 10
    assert world.cloud.seats["user0"].session.app(deleted) is None


@pytest.mark.failure("APP-17")
@pytest.mark.parametrize("model", ["Glasses of Tomorrow", "even realities g1"])
def test_unknown_glasses_have_no_capabilities_and_not_those_of_a_g1(model: str) -> None:
    shell = Shell(AppInfo(PACKAGE, "App", "http://app", permissions=GRANTED))
    glasses = shell.glasses()
    app = shell.app()
    shell.phone(glasses, type="glasses_connection_state", modelName=model, status="CONNECTED")
    said = [m["capabilities"] for m in shell.to_app(app, "capabilities_update")]
    assert not said or said[-1] is None or said[-1]["modelName"] == model


@pytest.mark.failure("DSP-04")
def test_a_display_is_taken_whatever_the_last_report_left_out_and_however_old_it_is() -> None:
    shell = Shell()
    glasses = shell.glasses()
    app = shell.app()

    def shows(words: str) -> bool:
        layout = {"layoutType": "text_wall", "text": words}
        shell.say(app, type="display_event", packageName=PACKAGE, view="main", layout=layout)
        shell.run(2.0)
        return any(m["layout"].get("text") == words for m in shell.to_glasses("display_event"))

    shell.run(3.0)
    shell.phone(glasses, type="glasses_connection_state", modelName="Even Realities G1", status="CONNECTED")
    assert shows("after the model")
    shell.phone(glasses, type="glasses_battery_update", level=50, charging=False)
    assert shows("after a battery level")
    shell.phone(glasses, type="glasses_connection_state", status="CONNECTED")
    assert shows("after a report without a model")
    assert shell.session.device["modelName"] == "Even Realities G1"
    for _ in range(30):  # five minutes in which nothing is reported
        shell.run(10.0)
        shell.phone(glasses, type="ping")
    assert shows("after five minutes")


@pytest.mark.failure("MIC-03")
@pytest.mark.parametrize("on", [True, False])
def test_a_microphone_wish_around_a_reset_reaches_the_glasses(on: bool) -> None:
    for wait in (0.0, 0.02, 0.05, 0.2):
        world = settled()
        if not on:
            start(world, RECORDER)
            world.advance(4.0)
            assert world.glasses[0].mic_on
        (start if on else stop)(world, RECORDER)
        world.advance(wait)
        for connection in [c for c in world.cloud.connections if c.ends[0] is world.edges[0]]:
            connection.reset()
        world.advance(7.0)
        assert world.glasses[0].mic_on is on, f"reset {wait} s after the wish"


@pytest.mark.failure("PRO-09")
@pytest.mark.parametrize(
    "stamp",
    ["1970-01-01T00:00:00.000Z", "2100-01-01T00:00:00.000Z", "yesterday", "", 0, -1, 4_102_444_800_000, None],
)
def test_an_event_counts_whatever_its_timestamp_says(stamp: object) -> None:
    shell = Shell()
    glasses = shell.glasses()
    app = shell.app(PACKAGE, "button_press")
    shell.phone(glasses, type="button_press", buttonId="a", pressType="short", timestamp=stamp)
    assert [event["buttonId"] for event in shell.events(app, "button_press")] == ["a"]


@pytest.mark.failure("SUB-03")
def test_of_any_burst_of_updates_the_last_one_is_in_force() -> None:
    rng = random.Random(3)
    for _ in range(50):
        shell = Shell()
        glasses = shell.glasses()
        app = shell.app(PACKAGE, "button_press")
        shell.run(6.0)  # an empty list of an app that has just come is held back
        last: list[str] = []
        for _ in range(rng.randint(2, 6)):
            last = rng.sample(sorted(EVENTS), rng.randint(0, len(EVENTS)))
            shell.say(app, type="subscription_update", subscriptions=last)
        shell.run(1.0)
        shell.effects.clear()
        for event in EVENTS.values():
            shell.phone(glasses, **event)
        heard = {m["streamType"] for m in shell.to_app(app, "data_stream")}
        assert heard == set(last)


@pytest.mark.failure("SUB-03")
@pytest.mark.parametrize("update_first", [True, False])
def test_an_update_and_a_stop_at_the_same_moment_leave_no_data_flowing_and_no_microphone(
    update_first: bool,
) -> None:
    shell = Shell()
    glasses = shell.glasses()
    app = shell.app(PACKAGE, "button_press", "audio_chunk")
    shell.run(5.0)

    def update() -> None:
        shell.say(app, type="subscription_update", subscriptions=[*EVENTS, "audio_chunk"])

    if update_first:
        update()
    shell.do(shell.session.stop_app(PACKAGE, shell.now))
    if not update_first:
        update()
    shell.run(3.0)
    assert shell.to_glasses("microphone_state_change")[-1]["isMicrophoneEnabled"] is False
    shell.effects.clear()
    for event in EVENTS.values():
        shell.phone(glasses, **event)
    shell.do(shell.session.glasses_audio(glasses, bytes(320), shell.now))
    assert shell.of(fx.SendToApps) == shell.of(fx.SendAudio) == []


@pytest.mark.failure("APP-07")
@pytest.mark.parametrize("seed", range(3))
def test_after_each_quiet_moment_the_list_on_the_phone_is_what_runs(seed: int) -> None:
    """Random starts, stops, kills and reconnects; a moment is quiet when nothing is being started or awaited."""
    rng = random.Random(seed)
    world = settled(seed=seed)
    said: list[str] = []
    receive = world.edges[0].received

    def heard(connection: object, data: bytes, binary: bool) -> None:
        message = orjson.loads(data)
        if message["type"] in ("connection_ack", "app_state_change"):
            said[:] = message["userSession"]["activeAppSessions"]
        receive(connection, data, binary)  # type: ignore[arg-type]

    world.edges[0].received = heard  # type: ignore[method-assign]
    quiet = 0
    for _ in range(20):
        package = rng.choice([COUNTER, LOGGER, RECORDER])
        match rng.randrange(4):
            case 0 | 1:
                start(world, package)
            case 2:
                stop(world, package)
            case 3:
                for connection in [c for c in world.cloud.connections if c.ends[0] is world.edges[0]]:
                    connection.reset()
        world.advance(5.0)
        lives = [state(world, p) for p in world.servers]
        if all(life in (None, AppState.CONNECTED, AppState.DISCONNECTED) for life in lives):
            quiet += 1
            assert set(said) == {p for p, server in world.servers.items() if server.live("user0")}
    assert quiet >= 5


@pytest.mark.failure("APP-13")
def test_twenty_dashboards_are_fresh_within_fifteen_seconds_of_their_app_s_or_the_cloud_s_return() -> None:
    world = World(4, wearers=20)
    world.cloud.records[LOGGER] = AppInfo(LOGGER, LOGGER, f"http://{LOGGER}", "system_dashboard", frozenset())
    world.advance(15.0)
    for edge in world.edges:
        start(world, LOGGER, edge.user)
    world.advance(10.0)

    def refreshed(round_name: str) -> None:
        for edge in world.edges:
            [session] = world.servers[LOGGER].live(edge.user)
            content = f"{round_name} for {edge.user}"
            session._send({"type": "dashboard_system_update", "section": "topRight", "content": content})
        world.advance(1.0)
        for edge in world.edges:
            shown = world.cloud.seats[edge.user].session.display.shown["dashboard"]
            assert f"{round_name} for {edge.user}" in orjson.dumps(shown["layout"]).decode()

    refreshed("first")
    world.servers[LOGGER].kill()
    world.advance(3.0)
    world.servers[LOGGER].boot()
    world.advance(14.0)
    refreshed("second")
    world.cloud.kill()
    world.advance(2.0)
    world.cloud.boot()
    world.advance(14.0)
    refreshed("third")
