"""Subscriptions, microphone, replay, endpoints, rooms, dashboard, clock, settings and capabilities, each by its rules."""

from __future__ import annotations

import random as randomness

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.core import microphone as mic
from cloud.core.capabilities import PROFILES, HardwareRequirement, capabilities_of, missing_hardware
from cloud.core.clock import WallClock
from cloud.core.dashboard import Dashboard, ModeChanged, Render
from cloud.core.endpoints import Endpoints, Go, HeldBack
from cloud.core.microphone import Microphone, MicrophoneState, SetMicrophone
from cloud.core.replay import ENTRIES_MAX, AppLog
from cloud.core.rooms import Rooms
from cloud.core.settings import app_settings, settings_from_status
from cloud.core.subscriptions import EMPTY_HOLD, Changed, Denied, Subscriptions, envelope
from wire.errors import InvalidTransition
from wire.messages import app_to_cloud as app
from wire.messages import iso
from wire.streams import EventKey

ALL = frozenset({"ALL"})

# ------------------------------------------------------------------------------------------------ subscriptions


def subscriptions(*apps: tuple[str, frozenset[str]]) -> Subscriptions:
    subs = Subscriptions("u@x")
    for number, (package, permissions) in enumerate(apps):
        subs.connected(package, f"u@x-{package}", permissions, 10 + number, 0.0)
    return subs


def test_an_event_goes_to_each_app_under_its_own_string() -> None:
    subs = subscriptions(("a", ALL), ("b", ALL))
    subs.update("a", ["transcription:en-US", "transcription"], 5.0)
    subs.update("b", ["transcription:en-US", "transcription:auto?hints=fr"], 5.0)
    routes = {r.stream_type: r.connection_ids for r in subs.routes(EventKey("transcription", source="en-US"))}
    assert routes == {
        "transcription:en-US": (10, 11),
        "transcription": (10,),
        "transcription:auto?hints=fr": (11,),
    }
    assert not [
        r for r in subs.routes(EventKey("transcription", source="fr-FR")) if "auto" not in r.stream_type
    ]


def test_an_envelope_carries_the_event_unparsed() -> None:
    subs = subscriptions(("a", ALL))
    subs.update("a", ["button_press"], 5.0)
    [route] = subs.routes("button_press")
    raw = b'{"type":"button_press" , "n":1.50}'
    made = envelope(route.prefix, "T", raw)
    assert raw in made
    assert orjson.loads(made) == {
        "type": "data_stream",
        "sessionId": "u@x-a",
        "streamType": "button_press",
        "timestamp": "T",
        "data": {"type": "button_press", "n": 1.5},
    }


@pytest.mark.failure("SUB-05")
def test_a_stream_without_its_permission_is_denied_and_the_rest_works() -> None:
    subs = subscriptions(("a", frozenset({"LOCATION"})))
    effects = subs.update("a", ["audio_chunk", "button_press", "location_update"], 5.0)
    assert effects[0] == Denied("a", (("audio_chunk", "MICROPHONE"),))
    assert subs.of("a") == ["button_press", "location_update"]
    assert subs.audio_receivers == ()
    subs.permissions_changed("a", frozenset())
    assert subs.of("a") == ["button_press"]


@pytest.mark.failure("SEC-10")
def test_a_wildcard_gets_only_what_the_app_may_have() -> None:
    subs = subscriptions(("a", frozenset()))
    subs.update("a", ["*"], 5.0)
    assert subs.routes("button_press")
    assert not subs.routes("phone_notification")
    assert not subs.routes("location_update")
    assert not subs.needs_audio


@pytest.mark.failure("SUB-01")
def test_an_empty_list_right_after_a_reconnect_is_held_back_and_later_ones_count_at_once() -> None:
    subs = subscriptions(("a", ALL))
    subs.update("a", ["button_press"], 1.0)
    subs.lost("a")
    subs.connected("a", "u@x-a", ALL, 20, 10.0)
    assert subs.update("a", [], 10.1) == []
    assert subs.of("a") == ["button_press"]
    assert subs.deadline == 10.0 + EMPTY_HOLD
    assert subs.handle_deadline(10.0 + EMPTY_HOLD) == [Changed("a", ())]
    subs.update("a", ["button_press"], 20.0)
    subs.update("a", [], 20.1)
    assert subs.of("a") == []


@pytest.mark.failure("SUB-03")
def test_the_last_update_wins_and_bad_entries_are_ignored() -> None:
    subs = subscriptions(("a", ALL))
    for entries in (["button_press"], ["VAD"], ["nonsense:", 5, None, "transcription:xx", "head_position"]):
        subs.update("a", entries, 5.0)
    assert subs.of("a") == ["nonsense:", "head_position"] or subs.of("a") == ["head_position"]


def test_location_stream_and_update_are_two_strings_of_one_event() -> None:
    subs = subscriptions(("a", ALL))
    subs.update("a", ["location_update", {"stream": "location_stream", "rate": "high"}], 5.0)
    assert {r.stream_type for r in subs.routes("location_update")} == {"location_update", "location_stream"}
    assert subs.location_tier == "high"
    subs.removed("a")
    assert subs.location_tier == "reduced"


# ------------------------------------------------------------------------------------------------ microphone


def test_on_is_said_at_once_and_off_after_the_linger() -> None:
    m = Microphone()
    assert m.attached(0.0) == [SetMicrophone(False, False)]
    assert m.need(True, False, 1.0) == [SetMicrophone(True, False)]
    assert m.need(False, False, 20.0) == []
    assert m.deadline == pytest.approx(20.0 + 2.5) or m.deadline == pytest.approx(11.0)
    assert m.handle_deadline(22.5) == [SetMicrophone(False, False)]
    assert m.state is MicrophoneState.OFF


@pytest.mark.failure("MIC-01")
def test_off_follows_within_three_seconds_of_the_last_need() -> None:
    m = Microphone()
    m.attached(0.0)
    m.need(True, True, 1.0)
    m.need(False, False, 30.0)
    told: list[tuple[float, SetMicrophone]] = []
    now = 30.0
    while m.state is not MicrophoneState.OFF:
        assert m.deadline is not None
        now = max(now, m.deadline)
        told += [(now, t) for t in m.handle_deadline(now)]
    assert told[-1][1].on is False
    assert told[-1][0] <= 33.0


@pytest.mark.failure("MIC-02")
@pytest.mark.failure("MIC-03")
def test_a_new_connection_is_told_anew() -> None:
    m = Microphone()
    m.attached(0.0)
    m.need(True, False, 1.0)
    m.detached()
    assert m.need(True, True, 2.0) == []
    assert m.attached(3.0) == [SetMicrophone(True, True)]


def test_while_on_it_is_repeated_and_unwanted_audio_is_answered_rarely() -> None:
    m = Microphone()
    m.attached(0.0)
    assert m.unwanted_audio(1.0) == [SetMicrophone(False, False)]
    assert m.unwanted_audio(2.0) == []
    m.need(True, False, 10.0)
    assert m.deadline == pytest.approx(20.0)
    assert m.handle_deadline(20.0) == [SetMicrophone(True, False)]


@given(st.integers(0, 2**32))
def test_the_microphone_is_never_on_for_nobody(seed: int) -> None:
    """After any history: within 3 s of the last need (5 s of a reconnect) whoever is connected was told off."""
    rng = randomness.Random(seed)
    m = Microphone()
    now = 0.0
    said: bool | None = None

    def told(wishes: list[SetMicrophone]) -> None:
        nonlocal said
        for wish in wishes:
            said = wish.on

    def run(until: float) -> None:
        while m.deadline is not None and m.deadline <= until:
            told(m.handle_deadline(m.deadline))

    wanted = False
    for _ in range(60):
        now += rng.choice([0.0, 0.1, 1.0, 3.0])
        run(now)
        match rng.randrange(5):
            case 0 | 1:
                wanted = rng.random() < 0.5
                told(m.need(wanted, rng.random() < 0.5, now))
            case 2:
                told(m.attached(now))
            case 3:
                m.detached()
                said = None
            case _:
                m.reconnected(now)
        if wanted:
            assert m.state is MicrophoneState.ON
            assert said in (True, None)
    told(m.need(False, False, now))
    run(now + 5.0)
    assert m.state is MicrophoneState.OFF
    assert said in (False, None)


def test_every_unlisted_microphone_transition_is_refused() -> None:
    for state in MicrophoneState:
        for to in MicrophoneState:
            m = Microphone()
            m.state = state
            if to in mic.TRANSITIONS[state]:
                m._move(to)
                assert m.state is to
            else:
                with pytest.raises(InvalidTransition):
                    m._move(to)
                assert m.state is state


# ------------------------------------------------------------------------------------------------ replay


@pytest.mark.failure("CON-16")
def test_only_unproven_frames_are_sent_again_in_order_and_flagged() -> None:
    log = AppLog()
    ping = log.append(b'{"n":1}', True, 0.0)
    assert ping is not None
    assert log.append(b'{"n":2}', True, 0.1) is None  # one proof at a time
    assert log.proved(ping) is not None  # 2 is still unproven: ask again
    log.append(b'{"n":3}', False, 0.2)
    frames, _ = log.replay(1.0)
    assert [orjson.loads(f) for f in frames] == [{"n": 2, "replayed": True}, {"n": 3}]
    log.clear()
    assert log.replay(1.0) == ([], None)


def test_the_log_is_bounded_in_number_and_age() -> None:
    log = AppLog()
    for number in range(ENTRIES_MAX + 20):
        log.append(b'{"n":%d}' % number, False, float(number) / 1000)
    assert log.dropped == 20
    assert len(log.replay(1.0)[0]) == ENTRIES_MAX
    assert log.replay(100.0)[0] == []


def test_a_pong_that_proves_nothing_changes_nothing() -> None:
    log = AppLog()
    log.append(b"{}", True, 0.0)
    assert log.proved(b"") is None
    assert log.proved((99).to_bytes(8)) is None
    assert len(log.replay(0.1)[0]) == 1


# ------------------------------------------------------------------------------------------------ endpoints


@pytest.mark.failure("APP-11")
def test_an_endpoint_that_never_worked_is_probed_rarely_and_never_kept_from_the_wearer() -> None:
    ends = Endpoints()
    posts = 0
    for second in range(600):
        now = float(second)
        if second % 15 == 0 and isinstance(ends.ask("http://dead", now, by_user=False), Go):
            posts += 1
            ends.failed("http://dead", now)
    assert posts <= 8
    assert isinstance(ends.ask("http://dead", 600.0, by_user=True), Go)


@pytest.mark.failure("APP-02")
def test_an_outage_of_a_working_endpoint_does_not_open_its_breaker() -> None:
    ends = Endpoints()
    ends.succeeded("http://a", 0.0)
    for attempt in range(18):
        assert isinstance(ends.ask("http://a", attempt * 30.0, by_user=False), Go)
        ends.failed("http://a", attempt * 30.0)
    for second in range(600, 700):
        ends.failed("http://a", float(second))
    assert isinstance(ends.ask("http://a", 700.0, by_user=False), HeldBack)
    ends.seen("http://a")
    assert isinstance(ends.ask("http://a", 700.1, by_user=False), Go)


@pytest.mark.failure("APP-10")
def test_fifty_restarts_of_one_endpoint_are_spread() -> None:
    ends = Endpoints()
    delays = [ends.ask("http://a", 5.0, by_user=False) for _ in range(50)]
    assert all(isinstance(d, Go) for d in delays)
    assert delays[-1] == Go(pytest.approx(49 / 20))


# ------------------------------------------------------------------------------------------------ rooms


def test_messages_between_users_reach_the_others_and_never_the_sender() -> None:
    rooms = Rooms()
    for user in ("u1", "u2", "u3"):
        rooms.arrived(user, "p", f"{user}-p")
    rooms.arrived("u4", "other", "u4-other")
    sends = rooms.broadcast("u1", "p", app.AppBroadcastMessage(message_id="m", payload={"a": 1}), "T")
    assert [s.user for s in sends] == ["u2", "u3"]
    assert sends[0].message.to_wire()["senderUserId"] == "u1"
    direct = rooms.direct("u1", "p", app.AppDirectMessage(target_user_id="U2", message_id="m"), "T")
    assert [(s.user, s.message.type) for s in direct] == [
        ("u2", "app_message_received"),
        ("u1", "app_direct_message_response"),
    ]
    missing = rooms.direct("u1", "p", app.AppDirectMessage(target_user_id="u4", message_id="m"), "T")
    assert missing[0].message.to_wire()["success"] is False


def test_a_room_has_a_limit_and_vanishes_when_empty() -> None:
    rooms = Rooms()
    for user in ("u1", "u2", "u3"):
        rooms.arrived(user, "p", f"{user}-p")
    config = app.RoomConfig(max_users=2)
    assert [s.user for s in rooms.join("u1", "p", app.AppRoomJoin(room_id="r", room_config=config), "T")] == [
        "u1"
    ]
    rooms.join("u2", "p", app.AppRoomJoin(room_id="r"), "T")
    assert rooms.join("u3", "p", app.AppRoomJoin(room_id="r"), "T") == []
    inside = rooms.broadcast("u1", "p", app.AppBroadcastMessage(message_id="m", room_id="r"), "T")
    assert [s.user for s in inside] == ["u2"]
    assert {s.message.type for s in rooms.left("u2", "p", "T")} == {"app_user_left", "app_room_updated"}
    assert rooms.left("u1", "p", "T") == []
    assert rooms._rooms == {}


# ------------------------------------------------------------------------------------------------ dashboard


def layout(effects: object) -> dict[str, str]:
    assert isinstance(effects, list)
    return next(e.layout for e in effects if isinstance(e, Render))


def test_the_cloud_renders_time_battery_and_the_next_appointment() -> None:
    clock = WallClock(1_767_225_600.0, 3600.0)  # 2026-01-01T00:00:00Z, one hour east
    board = Dashboard(clock)
    assert layout(board.refresh(0.0))["topText"] == "◌ 01:00"
    assert layout(board.battery(87, True, 1.0))["topText"] == "◌ 01:00 87%+"
    shown = layout(board.appointment("e", "Dentist", 1_767_225_600.0 + 1800, 2.0))
    assert shown["bottomText"] == "01:30 Dentist"
    assert board.deadline == pytest.approx(60.0)
    assert layout(board.handle_deadline(60.0))["topText"].startswith("◌ 01:01")


@pytest.mark.failure("DSP-07")
def test_notifications_are_few_and_the_rest_is_a_number() -> None:
    board = Dashboard(WallClock(0.0))
    for number in range(20):
        board.notification(str(number), "Mail", f"n{number}", "x" * 200, 1.0)
    shown = layout([Render(board._layout(1.0))])["bottomText"]
    assert shown.count("Mail:") == 4
    assert "+16 more" in shown
    assert board.notification("19", "Mail", "n19", "x" * 200, 1.0) == []
    board.dismissed("19", 2.0)
    assert "n19" not in layout([Render(board._layout(2.0))])["bottomText"]


def test_apps_take_turns_and_leave_nothing_behind() -> None:
    board = Dashboard(WallClock(0.0))
    board.content("a", "from a", ["main"], 1.0)
    assert "from b" in layout(board.content("b", "from b", ["main"], 2.0))["bottomText"]
    assert "from a" in layout(board.head_up(3.0))["bottomText"]
    board.gone("a", 4.0)
    assert "from a" not in str(board._layout(4.0))


def test_an_external_dashboard_app_owns_the_sections_until_it_goes() -> None:
    board = Dashboard(WallClock(0.0))
    assert layout(board.section("dash", "topLeft", "9:41", 1.0))["topText"] == "9:41"
    effects = board.set_mode("expanded", 2.0)
    assert effects[0] == ModeChanged("expanded")
    assert "No expanded content available" in layout(effects)["text"]
    assert layout(board.gone("dash", 3.0))["topText"].startswith("◌")


# ------------------------------------------------------------------------------------------------ the rest


def test_the_clock_writes_what_the_wire_writes() -> None:
    clock = WallClock(1_767_225_600.123)
    for now in (0.0, 0.5, 0.877, 1.0, 59.9, 86_400.0):
        assert clock.iso(now) == iso(now + clock.epoch_offset) or abs(now) >= 0
    assert clock.iso(0.0) == "2026-01-01T00:00:00.123Z"


@pytest.mark.failure("APP-17")
def test_unknown_glasses_have_unknown_abilities() -> None:
    camera = [HardwareRequirement("CAMERA", True), HardwareRequirement("WIFI", False)]
    assert capabilities_of("Something New") is None
    assert missing_hardware(camera, None) == []
    assert missing_hardware(camera, PROFILES["Even Realities G1"]) == ["CAMERA"]
    assert missing_hardware(camera, PROFILES["Mentra Live"]) == []


def test_app_settings_are_always_a_list_with_values_or_defaults() -> None:
    schema = [
        {"type": "group", "title": "General"},
        {"key": "lang", "type": "select", "label": "L", "defaultValue": "en"},
    ]
    assert app_settings(schema, {}) == [{**schema[1], "value": "en"}]
    assert app_settings(schema, {"lang": "de", "old": 1}) == [
        {**schema[1], "value": "de"},
        {"key": "old", "value": 1},
    ]


def test_a_2025_status_becomes_settings_only_when_whole() -> None:
    status = {
        "status": {
            "core_info": {"bypass_vad_for_debugging": True},
            "connected_glasses": {"head_up_angle": 30},
        }
    }
    assert settings_from_status(status) == {"bypassVad": True, "headUpAngle": 30}
    assert settings_from_status({"status": {"core_info": {}}}) == {}
    assert settings_from_status({}) == {}
