"""The session as one machine in virtual time: identity, order, grace, caches, requests, the end."""

from __future__ import annotations

import itertools
import random as randomness
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.core import effects as fx
from cloud.core.capabilities import HardwareRequirement
from cloud.core.clock import WallClock
from cloud.core.session import TRANSITIONS, AppInfo, Session, SessionState, SessionTiming, UserData
from cloud.core.session_checks import SURE
from wire.codec import validate
from wire.errors import InvalidTransition
from wire.messages import GLASSES_TO_CLOUD

USER = "anna-b@example.com"
PACKAGE = "com.example.app"
GRANTED = frozenset({"ALL"})


class Shell:
    """Performs a session's effects in virtual time: webhooks succeed when told to, storage answers at once."""

    def __init__(self, *apps: AppInfo, load: bool = True, **more: Any) -> None:
        self.now = 100.0
        self.apps = {
            a.package: a for a in apps or (AppInfo(PACKAGE, "App", "http://app", permissions=GRANTED),)
        }
        ids = itertools.count(1)
        self.session = Session(
            USER,
            apps=self.apps,
            websocket_url="ws://cloud/app-ws",
            random=randomness.Random(1).random,
            new_id=lambda: f"id{next(ids)}",
            clock=WallClock(1_767_225_600.0),
            now=self.now,
            **more,
        )
        self.effects: list[fx.Effect] = []
        self.data = UserData()
        self.loads = load
        self.connections = itertools.count(1)

    def do(self, effects: list[fx.Effect]) -> list[fx.Effect]:
        self.effects += effects
        for effect in effects:
            if isinstance(effect, fx.LoadUser) and self.loads:
                self.do(self.session.user_loaded(self.data, self.now))
            elif isinstance(effect, fx.LoadApp):
                self.do(self.session.app_loaded(effect.package, effect.cycle, {}, self.now))
        return effects

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.session.deadline) is not None and due <= end:
            self.now = max(self.now, due)
            self.do(self.session.handle_deadline(self.now))
            again = self.session.deadline
            assert again is None or again > due, "a due deadline must be dealt with"
        self.now = end

    def glasses(self, *, greets: bool = True) -> int:
        """A new glasses connection; one that greets is known not to announce a link."""
        connection = next(self.connections)
        if self.session.state is SessionState.INITIALIZING:
            self.do(self.session.start(self.now))
        self.do(self.session.glasses_connected(connection, self.now))
        if greets and self.session.glasses_connection == connection:
            self.phone(connection, type="ping")
        return connection

    def phone(self, connection: int, **message: Any) -> list[fx.Effect]:
        return self.do(self.session.glasses_text(connection, orjson.dumps(message), self.now))

    def app(self, package: str = PACKAGE, *subscriptions: Any) -> int:
        """Started, connected, subscribed."""
        self.do(self.session.start_app(package, self.now))
        return self.join(package, *subscriptions)

    def join(self, package: str, *subscriptions: Any) -> int:
        connection = next(self.connections)
        self.do(self.session.app_identified(package, connection, self.now))
        if subscriptions:
            self.say(connection, package, type="subscription_update", subscriptions=list(subscriptions))
        return connection

    def say(self, connection: int, package: str = PACKAGE, **message: Any) -> list[fx.Effect]:
        return self.do(self.session.app_text(package, connection, orjson.dumps(message), self.now))

    def of(self, kind: type[Any]) -> list[Any]:
        return [e for e in self.effects if isinstance(e, kind)]

    def to_glasses(self, kind: str | None = None) -> list[dict[str, Any]]:
        sent = [orjson.loads(e.payload) for e in self.of(fx.SendToGlasses)]
        return [m for m in sent if kind in (None, m["type"])]

    def to_app(self, connection: int, kind: str | None = None) -> list[dict[str, Any]]:
        sent = [orjson.loads(e.payload) for e in self.of(fx.SendToApps) if connection in e.connection_ids]
        return [m for m in sent if kind in (None, m["type"])]

    def events(self, connection: int, stream: str) -> list[Any]:
        return [m["data"] for m in self.to_app(connection, "data_stream") if m["streamType"] == stream]


@pytest.mark.failure("CON-05")
def test_the_acknowledgement_waits_for_neither_storage_nor_apps() -> None:
    shell = Shell(load=False)
    shell.data = UserData(wanted=(PACKAGE,))
    glasses = shell.glasses()
    assert len(shell.to_glasses("connection_ack")) == 1
    shell.phone(glasses, type="connection_init")
    assert len(shell.to_glasses("connection_ack")) == 2
    shell.do(shell.session.user_loaded(shell.data, shell.now))
    assert len(shell.of(fx.PostSessionRequest)) == 1


@pytest.mark.failure("CON-03")
def test_frames_before_the_user_is_loaded_are_handled_in_order_afterwards() -> None:
    shell = Shell(load=False)
    glasses = shell.glasses()
    shell.phone(glasses, type="start_app", packageName=PACKAGE)
    shell.phone(glasses, type="stop_app", packageName=PACKAGE)
    shell.phone(glasses, type="start_app", packageName=PACKAGE)
    assert not shell.of(fx.PostSessionRequest)
    shell.do(shell.session.user_loaded(UserData(), shell.now))
    life = shell.session.app(PACKAGE)
    assert life is not None
    assert life.wanted


@pytest.mark.failure("CON-03")
def test_early_frames_of_an_edge_are_acknowledged_when_they_are_handled_not_when_they_are_kept() -> None:
    """Also those of a connection that is gone by then: killed meanwhile, the cloud would have lost them."""
    shell = Shell(load=False)
    hello = {"version": 1, "offset": 0, "ownEpoch": "edge-1", "ownOffset": 0}
    first = shell.glasses(greets=False)
    shell.phone(first, type="connection_init", link=hello)
    shell.phone(first, type="start_app", packageName=PACKAGE, linkOffset=1)
    shell.do(shell.session.glasses_lost(first, shell.now))
    second = shell.glasses(greets=False)
    shell.phone(second, type="connection_init", link=hello)
    shell.phone(second, type="start_app", packageName=PACKAGE, linkOffset=1)
    acks = [m for m in shell.to_glasses() if "linkAck" in m]
    assert acks == []
    assert [m["link"]["peerOffset"] for m in shell.to_glasses("connection_ack") if m.get("link")] == [0, 0]
    shell.do(shell.session.user_loaded(UserData(), shell.now))
    assert len(shell.of(fx.PostSessionRequest)) == 1
    acks = [m for m in shell.to_glasses() if "linkAck" in m]
    assert [m["linkAck"] for m in acks] == [1]


@pytest.mark.failure("PER-03")
def test_failing_storage_does_not_stop_the_session() -> None:
    shell = Shell(load=False)
    glasses = shell.glasses()
    shell.phone(glasses, type="start_app", packageName=PACKAGE)
    shell.run(2.1)
    assert shell.session.state is SessionState.CONNECTED
    assert shell.of(fx.PostSessionRequest)
    shell.do(shell.session.user_loaded(UserData({"brightness": 77}), shell.now))
    assert shell.session.settings["brightness"] == 77


@pytest.mark.failure("APP-01")
@pytest.mark.parametrize("wait", [0.0, 3.0])
def test_a_stop_that_overtakes_the_reading_of_the_user_counts(wait: float) -> None:
    shell = Shell(load=False)
    shell.glasses()
    shell.run(wait)
    shell.do(shell.session.stop_app(PACKAGE, shell.now))
    shell.do(shell.session.user_loaded(UserData(wanted=(PACKAGE,)), shell.now))
    shell.run(30.0)
    assert not shell.of(fx.PostSessionRequest)


@pytest.mark.failure("CON-01")
def test_the_late_close_of_an_old_glasses_socket_changes_nothing() -> None:
    shell = Shell()
    first = shell.glasses()
    app = shell.app(PACKAGE, "transcription:en-US", "button_press")
    second = shell.glasses()
    assert shell.of(fx.CloseGlasses)[-1] == fx.CloseGlasses(first, 4409, "replaced")
    count = len(shell.effects)
    assert shell.do(shell.session.glasses_lost(first, shell.now)) == []
    assert shell.phone(first, type="button_press", buttonId="main", pressType="short") == []
    assert len(shell.effects) == count
    shell.run(75.0)
    assert shell.session.state is SessionState.CONNECTED
    shell.phone(second, type="button_press", buttonId="main", pressType="short")
    assert len(shell.events(app, "button_press")) == 1


@pytest.mark.failure("CON-10")
def test_fighting_connections_are_limited_and_the_newest_wins() -> None:
    shell = Shell()
    for _ in range(20):
        shell.glasses()
        shell.run(0.1)
    refused = [e for e in shell.of(fx.CloseGlasses) if e.code == 1013]
    assert len(refused) == 15
    assert shell.session.glasses_connection == 5


@pytest.mark.failure("CON-14")
def test_without_glasses_the_session_ends_after_its_grace_and_apps_are_told() -> None:
    shell = Shell()
    glasses = shell.glasses()
    app = shell.app(PACKAGE, "audio_chunk")
    shell.do(shell.session.glasses_lost(glasses, shell.now))
    shell.run(59.0)
    assert shell.session.state is SessionState.DETACHED
    shell.run(2.5)
    assert shell.session.state is SessionState.DISCONNECTED
    assert shell.of(fx.PostStopRequest)[0].body["reason"] == "system_stop"
    assert [e.connection_id for e in shell.of(fx.CloseApp)] == [app]
    assert not any(e.wanted is False for e in shell.of(fx.SaveWanted))
    assert shell.session.deadline is None
    kinds = [type(e).__name__ for e in shell.effects]
    assert kinds.index("Unregister") < kinds.index("PostStopRequest")


def test_a_phone_back_within_grace_finds_the_same_session_and_the_right_microphone() -> None:
    shell = Shell()
    glasses = shell.glasses()
    shell.app(PACKAGE, "audio_chunk")
    shell.do(shell.session.glasses_lost(glasses, shell.now))
    shell.run(30.0)
    shell.effects.clear()
    shell.glasses()
    assert shell.to_glasses("connection_ack")
    assert shell.to_glasses("microphone_state_change")[-1]["isMicrophoneEnabled"] is True
    assert not shell.of(fx.PostSessionRequest)


@pytest.mark.failure("MIC-06")
@pytest.mark.parametrize("stream", ["audio_chunk", "transcription:en-US", "translation:es-ES-to-en-US"])
def test_any_need_for_audio_switches_the_microphone_on_and_its_end_off(stream: str) -> None:
    shell = Shell()
    shell.glasses()
    shell.app(PACKAGE, stream)
    state = shell.to_glasses("microphone_state_change")[-1]
    assert (state["isMicrophoneEnabled"], state["requiredData"]) == (True, ["pcm"])
    shell.run(10.0)
    shell.do(shell.session.stop_app(PACKAGE, shell.now))
    shell.run(3.0)
    state = shell.to_glasses("microphone_state_change")[-1]
    assert (state["isMicrophoneEnabled"], state["requiredData"]) == (False, [])


def test_the_initial_empty_list_of_the_sdk_does_not_flicker_the_microphone() -> None:
    shell = Shell()
    shell.glasses()
    app = shell.app(PACKAGE, "audio_chunk")
    shell.run(20.0)
    shell.do(shell.session.app_lost(PACKAGE, app, shell.now))
    shell.run(1.0)
    again = shell.join(PACKAGE)
    shell.say(again, type="subscription_update", subscriptions=[])
    shell.run(0.3)
    shell.say(again, type="subscription_update", subscriptions=["audio_chunk"])
    shell.run(10.0)
    states = [m["isMicrophoneEnabled"] for m in shell.to_glasses("microphone_state_change")]
    assert False not in states[states.index(True) :]


@pytest.mark.failure("CON-16")
def test_what_flows_while_an_app_is_away_is_dropped_and_counted() -> None:
    shell = Shell()
    glasses = shell.glasses()
    app = shell.app(PACKAGE, "audio_chunk", "transcription:en-US")
    interim = {"type": "transcription", "text": "so", "isFinal": False, "transcribeLanguage": "en-US"}

    def flow(count: int) -> None:
        for _ in range(count):
            shell.do(shell.session.speech(interim, shell.now))
            shell.do(shell.session.glasses_audio(glasses, bytes(640), shell.now))

    flow(3)
    shell.do(shell.session.app_lost(PACKAGE, app, shell.now))
    flow(20)
    again = shell.join(PACKAGE)
    flow(2)
    assert [r.detail for r in shell.of(fx.Record) if r.kind == "apps_missed"] == [{"count": 40}]
    assert len(shell.events(again, "transcription:en-US")) == 2


@pytest.mark.failure("CON-16")
def test_presses_during_an_app_s_short_absence_arrive_once_and_in_order() -> None:
    shell = Shell()
    glasses = shell.glasses()
    app = shell.app(PACKAGE, "button_press")
    shell.phone(glasses, type="button_press", buttonId="0", pressType="short")
    for ping in shell.of(fx.PingApp):
        shell.do(shell.session.app_pong(PACKAGE, ping.connection_id, ping.payload, shell.now))
    shell.do(shell.session.app_lost(PACKAGE, app, shell.now))
    for number in range(1, 21):
        shell.phone(glasses, type="button_press", buttonId=str(number), pressType="short")
        shell.run(0.1)
    again = shell.join(PACKAGE)
    received = [e["buttonId"] for e in shell.events(again, "button_press")]
    assert received == [str(n) for n in range(1, 21)]


def test_another_instance_is_not_given_old_presses() -> None:
    shell = Shell()
    glasses = shell.glasses()
    app = shell.app(PACKAGE, "button_press")
    shell.do(shell.session.app_lost(PACKAGE, app, shell.now))
    shell.phone(glasses, type="button_press", buttonId="old", pressType="short")
    shell.run(7.0)
    assert len(shell.of(fx.PostSessionRequest)) == 2
    again = shell.join(PACKAGE, "button_press")
    assert shell.events(again, "button_press") == []


@pytest.mark.failure("SEC-01")
@pytest.mark.failure("APP-08")
def test_bad_requests_are_answered_by_name_and_the_socket_lives() -> None:
    shell = Shell()
    shell.glasses()
    app = shell.app()
    bad: list[dict[str, Any]] = [
        {"type": "display_event", "layout": {"layoutType": "nonsense"}},
        {"type": "display_event", "layout": 5},
        {"type": "display_event", "packageName": "com.other", "layout": {"layoutType": "text_wall"}},
        {"type": "display_event", "layout": {"layoutType": "text_wall", "text": {}}},
        {"type": "display_event", "layout": {"layoutType": "text_wall"}, "durationMs": -5},
        {"type": "photo_request"},
        {"type": "audio_play_request", "requestId": "r"},
        {"type": "location_poll_request"},
        {"type": "subscription_update", "subscriptions": "all"},
        {"type": "dashboard_mode_change", "mode": "main"},
        {"type": "rgb_led_control", "requestId": "r", "action": "explode"},
        {"type": "app_direct_message", "messageId": "m"},
    ]
    for number, message in enumerate(bad):
        shell.say(app, **message)
        errors = shell.to_app(app, "tpa_connection_error")
        assert len(errors) == number + 1, message
        assert errors[-1]["code"] in ("MALFORMED_MESSAGE", "WRONG_PACKAGE", "PERMISSION_DENIED")
        shell.run(1.0)
        shell.say(app, type="display_event", layout={"layoutType": "text_wall", "text": f"ok {number}"})
        assert shell.to_glasses("display_event")[-1]["layout"]["text"] == f"ok {number}"
    assert not shell.of(fx.CloseApp)


@pytest.mark.failure("SEC-04")
def test_nonsense_from_the_phone_is_answered_and_only_a_flood_closes() -> None:
    shell = Shell()
    glasses = shell.glasses()
    for raw in (b"", b"null", b"[]", b"5", b"{", b'{"a":1}', b'{"type":5}', b'{"type":"button_press"}'):
        shell.do(shell.session.glasses_text(glasses, raw, shell.now))
    assert len(shell.to_glasses("connection_error")) == 8
    assert not shell.of(fx.CloseGlasses)
    for _ in range(30):
        shell.do(shell.session.glasses_text(glasses, b"{", shell.now))
    assert shell.of(fx.CloseGlasses)[0].code == 1008


@pytest.mark.failure("APP-16")
def test_only_one_foreground_app_is_wanted_at_a_time() -> None:
    shell = Shell(
        AppInfo("a", "A", "http://a"),
        AppInfo("b", "B", "http://b"),
        AppInfo("c", "C", "http://c", "background"),
    )
    glasses = shell.glasses()
    shell.app("c")
    shell.phone(glasses, type="start_app", packageName="a")
    shell.phone(glasses, type="start_app", packageName="b")
    shell.run(20.0)
    wanted = {s["package"] for s in shell.session.app_states() if s["wanted"]}
    assert wanted == {"b", "c"}


def test_of_several_restored_foreground_apps_one_runs() -> None:
    shell = Shell(
        AppInfo("a", "A", "http://a"),
        AppInfo("b", "B", "http://b"),
        AppInfo("c", "C", "http://c", "background"),
    )
    shell.data = UserData(wanted=("a", "b", "c", "deleted"))
    shell.glasses()
    assert [e.package for e in shell.of(fx.PostSessionRequest)] == ["b", "c"]


@pytest.mark.failure("APP-17")
def test_apps_follow_the_glasses_model() -> None:
    needs_camera = (HardwareRequirement("CAMERA", True),)
    shell = Shell(AppInfo(PACKAGE, "Cam", "http://app", hardware=needs_camera, permissions=GRANTED))
    glasses = shell.glasses()
    app = shell.app()
    assert shell.to_app(app, "tpa_connection_ack")[0]["capabilities"] is None
    shell.phone(glasses, type="glasses_connection_state", modelName="Mentra Live", status="CONNECTED")
    assert shell.to_app(app, "capabilities_update")[-1]["capabilities"]["hasCamera"] is True
    shell.phone(glasses, type="glasses_connection_state", modelName="", status="CONNECTED")
    assert len(shell.to_app(app, "capabilities_update")) == 1
    shell.phone(glasses, type="glasses_connection_state", modelName="Even Realities G1", status="CONNECTED")
    shell.run(2.0)
    life = shell.session.app(PACKAGE)
    assert life is not None
    assert life.state.value == "disconnected"
    assert life.wanted
    shell.do(shell.session.start_app(PACKAGE, shell.now))
    settled = shell.of(fx.StartSettled)[-1]
    assert (settled.ok, settled.stage.value) == (False, "HARDWARE_CHECK")
    shell.phone(glasses, type="glasses_connection_state", modelName="Mentra Live", status="CONNECTED")
    assert life.state.value == "loading"


def test_late_subscribers_are_given_the_caches() -> None:
    shell = Shell()
    glasses = shell.glasses()
    shell.phone(
        glasses, type="calendar_event", eventId="e", title="t", dtStart="1767229200000", timeZone="UTC"
    )
    shell.phone(glasses, type="location_update", lat=1.5, lng=2.5)
    shell.do(shell.session.set_datetime("2026-01-01T10:00:00+02:00", shell.now))
    app = shell.app(PACKAGE, "calendar_event", "location_update", "custom_message")
    assert shell.events(app, "calendar_event")[0]["timezone"] == "UTC"
    assert shell.events(app, "location_update")[0]["lat"] == 1.5
    assert shell.to_app(app, "custom_message")[0]["payload"]["datetime"] == "2026-01-01T10:00:00+02:00"


@pytest.mark.failure("MED-01")
def test_every_photo_request_has_one_end() -> None:
    shell = Shell()
    glasses = shell.glasses()
    app = shell.app()
    for request in ("ok", "bad", "late"):
        shell.say(app, type="photo_request", requestId=request)
    shell.say(app, type="photo_request", requestId="ok")
    asked = shell.to_glasses("photo_request")
    assert [(m["requestId"], m["webhookUrl"]) for m in asked] == [
        (r, "http://app/photo-upload") for r in ("ok", "bad", "late")
    ]
    shell.phone(glasses, type="photo_response", requestId="ok", photoUrl="u")
    error = {"code": "CAMERA_BUSY", "message": "busy"}
    shell.phone(glasses, type="photo_response", requestId="bad", success=False, error=error)
    shell.run(31.0)
    shell.phone(glasses, type="photo_response", requestId="late", photoUrl="u")
    answers = [(m["requestId"], m["success"]) for m in shell.to_app(app, "photo_response")]
    assert answers == [("bad", False), ("late", False)], "the upload is the answer where one succeeds"
    assert [(e.request_id, e.code) for e in shell.of(fx.PostPhotoFailure)] == [
        ("bad", "CAMERA_BUSY"),
        ("late", "TIMEOUT"),
    ]


@pytest.mark.failure("MED-01")
def test_what_is_impossible_is_said_at_once() -> None:
    shell = Shell(AppInfo(PACKAGE, "App", "http://app", permissions=frozenset({"LOCATION"})))
    glasses = shell.glasses()
    app = shell.app()
    shell.say(app, type="photo_request", requestId="p")
    assert shell.of(fx.PostPhotoFailure)[0].code == "PERMISSION_DENIED"
    shell.do(shell.session.glasses_lost(glasses, shell.now))
    shell.say(app, type="audio_play_request", requestId="a", audioUrl="https://x/a.mp3")
    assert shell.to_app(app, "audio_play_response")[0]["success"] is False
    shell.say(app, type="rtmp_stream_request", rtmpUrl="rtmp://x")
    assert shell.to_app(app, "rtmp_stream_status")[0]["status"] == "error"
    shell.say(app, type="managed_stream_request")
    assert shell.to_app(app, "managed_stream_status")[0]["status"] == "error"
    shell.say(app, type="stream_status_check", sessionId="unknown-session-id")
    assert shell.to_app(app, "stream_status_check_response")[0]["hasActiveStream"] is False


def test_a_location_poll_is_answered_from_the_cache_or_by_the_phone() -> None:
    shell = Shell()
    glasses = shell.glasses()
    app = shell.app(PACKAGE, "location_update")
    shell.say(app, type="location_poll_request", correlationId="p1", accuracy="realtime")
    assert shell.to_glasses("request_single_location")[0]["correlationId"] == "p1"
    shell.phone(glasses, type="location_update", lat=1, lng=2, correlationId="p1")
    shell.say(app, type="location_poll_request", correlationId="p2", accuracy="kilometer")
    assert [e["correlationId"] for e in shell.events(app, "location_update")] == ["p1", "p2"]


@pytest.mark.failure("MED-02")
def test_a_stream_is_kept_alive_and_given_up_when_nobody_answers() -> None:
    shell = Shell()
    glasses = shell.glasses()
    app = shell.app()
    shell.say(app, type="rtmp_stream_request", rtmpUrl="rtmp://x/y")
    started = shell.to_glasses("start_rtmp_stream")[0]
    shell.phone(glasses, type="rtmp_stream_status", streamId=started["streamId"], status="streaming")
    shell.run(16.0)
    keep = shell.to_glasses("keep_rtmp_stream_alive")[0]
    shell.phone(glasses, type="keep_alive_ack", streamId=started["streamId"], ackId=keep["ackId"])
    shell.run(90.0)
    assert [m["status"] for m in shell.to_app(app, "rtmp_stream_status")] == [
        "initializing",
        "active",
        "timeout",
    ]


@pytest.mark.failure("SUB-02")
def test_a_dead_app_s_subscriptions_end_and_the_microphone_with_them() -> None:
    shell = Shell()
    shell.glasses()
    app = shell.app(PACKAGE, "audio_chunk")
    shell.run(10.0)
    shell.do(shell.session.app_lost(PACKAGE, app, shell.now))
    shell.run(5.0 + 30.0 + 3.5)
    assert shell.to_glasses("microphone_state_change")[-1]["isMicrophoneEnabled"] is False
    life = shell.session.app(PACKAGE)
    assert life is not None
    assert life.wanted


@pytest.mark.failure("CON-11")
def test_hyphens_in_names_confuse_nobody() -> None:
    shell = Shell(
        AppInfo("com.x", "1", "http://1", "background"), AppInfo("com.x-y", "2", "http://2", "background")
    )
    shell.glasses()
    one, two = shell.app("com.x", "button_press"), shell.app("com.x-y", "head_position")
    assert shell.session.subscriptions.of("com.x") == ["button_press"]
    assert shell.session.subscriptions.of("com.x-y") == ["head_position"]
    assert shell.to_app(one, "tpa_connection_ack")[0]["sessionId"] == f"{USER}-com.x"
    assert shell.to_app(two, "tpa_connection_ack")[0]["sessionId"] == f"{USER}-com.x-y"


@pytest.mark.failure("PER-01")
def test_settings_reach_the_live_app_and_its_system_settings_are_repaired() -> None:
    schema = ({"key": "lang", "type": "select", "label": "L", "defaultValue": "en"},)
    shell = Shell(AppInfo(PACKAGE, "App", "http://app", settings=schema))
    shell.glasses()
    app = shell.app()
    assert shell.to_app(app, "tpa_connection_ack")[0]["settings"][0]["value"] == "en"
    shell.do(shell.session.app_settings_changed(PACKAGE, {"lang": "de"}, shell.now))
    kinds = [m["type"] for m in shell.to_app(app)][-2:]
    assert kinds == ["settings_update", "augmentos_settings_update"]
    assert "brightness" in shell.to_app(app)[-1]["settings"]


@pytest.mark.failure("DSP-04")
def test_partial_device_reports_change_only_what_they_name() -> None:
    shell = Shell()
    shell.glasses()
    app = shell.app()
    shell.do(shell.session.device_state({"modelName": "Mentra Live", "batteryLevel": 50}, shell.now))
    shell.do(shell.session.device_state({"batteryLevel": 49}, shell.now))
    assert shell.session.device["modelName"] == "Mentra Live"
    updates = [m["state"] for m in shell.to_app(app, "device_state_update") if not m["fullSnapshot"]]
    assert updates == [{"modelName": "Mentra Live", "batteryLevel": 50}, {"batteryLevel": 49}]


def test_our_edge_resumes_its_link_and_gets_reliable_messages_once() -> None:
    shell = Shell()
    glasses = shell.glasses(greets=False)
    shell.phone(glasses, type="connection_init", link={"ownEpoch": "e"})
    welcome = shell.to_glasses("connection_ack")[-1]["link"]
    assert welcome["recovered"] is False
    app = shell.app()
    shell.do(shell.session.glasses_lost(glasses, shell.now))
    shell.say(app, type="rgb_led_control", requestId="gone", action="on")
    again = shell.glasses(greets=False)
    shell.phone(
        again,
        type="connection_init",
        link={"epoch": welcome["epoch"], "offset": welcome["offset"], "ownEpoch": "e"},
    )
    assert shell.to_glasses("connection_ack")[-1]["link"]["recovered"] is True


def test_a_drain_asks_everyone_to_come_back_and_forgets_no_wish() -> None:
    shell = Shell()
    glasses = shell.glasses()
    app = shell.app()
    shell.do(shell.session.drain(shell.now))
    assert [(e.connection_id, e.code) for e in shell.of(fx.CloseApp)] == [(app, 1012)]
    assert [(e.connection_id, e.code) for e in shell.of(fx.CloseGlasses)] == [(glasses, 1012)]
    assert not shell.of(fx.PostStopRequest)
    assert shell.session.state is SessionState.DISCONNECTED


def test_after_our_restart_an_app_that_is_back_first_is_accepted_if_wanted() -> None:
    shell = Shell(load=False)
    shell.do(shell.session.start(shell.now, with_glasses=False))
    wanted = shell.join(PACKAGE, "button_press")
    shell.do(shell.session.user_loaded(UserData(wanted=(PACKAGE,)), shell.now))
    assert shell.to_app(wanted, "tpa_connection_ack")
    assert shell.session.subscriptions.of(PACKAGE) == ["button_press"]
    assert shell.session.state is SessionState.DETACHED
    glasses = shell.glasses()
    assert shell.session.state is SessionState.CONNECTED
    assert not shell.of(fx.PostSessionRequest)
    shell.phone(glasses, type="button_press", buttonId="m", pressType="short")
    assert len(shell.events(wanted, "button_press")) == 1


def test_after_our_restart_the_lens_keeps_the_display_of_a_wanted_app_and_of_no_other() -> None:
    for held, blanks in ((PACKAGE, []), ("com.example.gone", [""]), ("system.augmentos.dashboard", [""])):
        shell = Shell(AppInfo(PACKAGE, "A", "http://a"), load=False)
        glasses = shell.glasses()
        shell.phone(glasses, type="glassbridge_status", shownPackage=held)  # before anybody can judge it
        shell.do(shell.session.user_loaded(UserData(wanted=(PACKAGE,)), shell.now))
        shell.join(PACKAGE)
        shell.run(3.0)
        views = [m for m in shell.to_glasses("display_event") if m["view"] == "main"]
        assert [m["layout"].get("text") for m in views] == blanks, held


@pytest.mark.failure("SEC-07")
def test_after_our_restart_an_unwanted_app_is_refused_and_the_session_ends() -> None:
    shell = Shell(load=False)
    shell.do(shell.session.start(shell.now, with_glasses=False))
    unwanted = shell.join(PACKAGE)
    shell.do(shell.session.user_loaded(UserData(), shell.now))
    assert shell.to_app(unwanted, "tpa_connection_error")[0]["code"] == "APP_NOT_STARTED"
    assert shell.session.state is SessionState.DISCONNECTED


def test_speech_reaches_each_string_and_finals_are_reliable() -> None:
    shell = Shell()
    shell.glasses()
    app = shell.app(PACKAGE, "transcription:en-US", "transcription:auto")
    assert shell.of(fx.SpeechNeeds)[-1].languages == {("en-US", None), ("auto", None)}
    event = {"type": "transcription", "text": "hello", "isFinal": True, "transcribeLanguage": "en-US"}
    shell.do(shell.session.speech(event, shell.now))
    assert [e["text"] for e in shell.events(app, "transcription:en-US")] == ["hello"]
    assert [e["text"] for e in shell.events(app, "transcription:auto")] == ["hello"]
    assert shell.of(fx.PingApp)
    shell.do(shell.session.stop_app(PACKAGE, shell.now))
    shell.run(6.0)
    assert shell.of(fx.SpeechNeeds)[-1].languages == frozenset()


@pytest.mark.failure("DSP-07")
def test_a_notification_flood_is_thinned_for_apps_and_counted() -> None:
    shell = Shell()
    glasses = shell.glasses()
    app = shell.app(PACKAGE, "phone_notification")
    for number in range(200):
        shell.phone(
            glasses, type="phone_notification", notificationId=str(number), app="Mail", title=str(number)
        )
    assert len(shell.events(app, "phone_notification")) == 10
    assert shell.session.notifications_shed == 190
    assert len([r for r in shell.of(fx.Record) if r.kind == "notification_shed"]) == 190


@pytest.mark.failure("DSP-07")
def test_notifications_that_an_outage_has_held_back_are_no_flood() -> None:
    shell = Shell()
    glasses = shell.glasses(greets=False)
    hello = {"version": 1, "offset": 0, "ownEpoch": "edge-1", "ownOffset": 0}
    shell.phone(glasses, type="connection_init", link=hello)
    app = shell.app(PACKAGE, "phone_notification")

    def notify(numbers: range) -> None:
        for n in numbers:
            note = {"notificationId": str(n), "app": "Mail", "title": str(n), "linkOffset": n}
            shell.phone(glasses, type="phone_notification", **note)

    notify(range(1, 101))
    assert len(shell.events(app, "phone_notification")) == 100
    shell.run(5.0)
    notify(range(101, 201))
    assert len(shell.events(app, "phone_notification")) == 110


def test_events_that_an_edge_declared_too_old_are_counted_here_too() -> None:
    shell = Shell()
    glasses = shell.glasses(greets=False)
    hello = {"version": 1, "offset": 0, "ownEpoch": "edge-1", "ownOffset": 0}
    shell.phone(glasses, type="connection_init", link=hello)
    shell.phone(glasses, type="glassbridge_skip", linkOffset=3)
    assert [r.detail for r in shell.of(fx.Record) if r.kind == "link_gave_up"] == [
        {"count": 3, "why": "too_old"}
    ]


def test_every_transition_is_listed() -> None:
    for state in SessionState:
        for to in SessionState:
            shell = Shell()
            shell.session.state = state
            if to in TRANSITIONS[state]:
                shell.session._move(to, "test", 0.0)
                assert shell.session.state is to
            else:
                with pytest.raises(InvalidTransition):
                    shell.session._move(to, "test", 0.0)
                assert shell.session.state is state


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_any_story_ends_quietly(seed: int) -> None:
    """Whatever happens in whatever order: no exception, one live glasses connection, nothing after the end."""
    rng = randomness.Random(seed)
    packages = ["a", "b", "c"]
    shell = Shell(
        *(AppInfo(p, p, f"http://{p}", "standard" if p != "c" else "background", GRANTED) for p in packages),
        timing=SessionTiming(),
    )
    glasses: list[int] = [shell.glasses()]
    apps: list[tuple[str, int]] = []
    for _ in range(80):
        package = rng.choice(packages)
        match rng.randrange(14):
            case 0:
                glasses.append(shell.glasses())
            case 1:
                shell.do(shell.session.glasses_lost(rng.choice(glasses), shell.now))
            case 2:
                shell.phone(rng.choice(glasses), type="start_app", packageName=package)
            case 3:
                shell.phone(rng.choice(glasses), type="stop_app", packageName=package)
            case 4 | 5:
                apps.append((package, shell.join(package, "button_press", "audio_chunk", "transcription")))
            case 6 if apps:
                gone = rng.choice(apps)
                shell.do(shell.session.app_lost(*gone, shell.now))
            case 7:
                life = shell.session.app(package)
                if life is not None:
                    shell.do(
                        shell.session.webhook_answered(
                            package, life.cycle, shell.now, ok=rng.random() < 0.5, from_app=rng.random() < 0.5
                        )
                    )
            case 8:
                life = shell.session.app(package)
                if life is not None:
                    shell.do(shell.session.stop_answered(package, life.cycle, shell.now))
            case 9 if apps:
                sender = rng.choice(apps)
                shell.say(
                    sender[1],
                    sender[0],
                    type="display_event",
                    layout={"layoutType": "text_wall", "text": "x"},
                )
            case 10:
                shell.phone(rng.choice(glasses), type="button_press", buttonId="m", pressType="short")
            case 11:
                shell.do(shell.session.glasses_audio(rng.choice(glasses), b"\0\0" * 160, shell.now))
            case 12:
                shell.phone(
                    rng.choice(glasses),
                    type="glasses_connection_state",
                    modelName="Mentra Live",
                    status="CONNECTED",
                )
            case _:
                pass
        shell.run(rng.choice([0.0, 0.1, 1.0, 6.0]))
    if shell.session.glasses_connection is not None:
        shell.do(shell.session.glasses_lost(shell.session.glasses_connection, shell.now))
    shell.run(70.0)
    assert shell.session.state is SessionState.DISCONNECTED
    assert shell.session.deadline is None
    live = {e.connection_id for e in shell.of(fx.CloseApp)}
    for state in shell.session.app_states():
        assert state["connection"] is None or state["connection"] in live
    shell.effects.clear()
    shell.do(shell.session.glasses_text(glasses[-1], b"{}", shell.now))
    shell.do(shell.session.start_app("a", shell.now))
    assert not shell.of(fx.SendToGlasses)
    assert not shell.of(fx.PostSessionRequest)


def _sure_and_unsure(kind: str) -> list[dict[str, object]]:
    texts: list[object] = ["", "short", "x" * 32, "x" * 33, "x" * 300, 5, True, None, [], {}]
    names = {"button_press": ("buttonId", "pressType"), "touch_event": ("gesture_name", "device_model")}[kind]
    dates: list[object] = [None, 1767225600000, 1.5, "2026-01-01T00:00:00Z", True, [], {}]
    return [
        {"type": kind, names[0]: first, names[1]: second, "timestamp": date, "extra": 1}
        for first in texts
        for second in texts
        for date in dates
    ]


@pytest.mark.parametrize("kind", ["button_press", "touch_event"])
def test_the_cheap_check_of_an_event_never_passes_what_its_model_refuses(kind: str) -> None:
    passed = 0
    for payload in _sure_and_unsure(kind):
        if SURE[kind][0](payload):
            passed += 1
            validate(GLASSES_TO_CLOUD, payload)  # raises if the model disagrees
    assert passed > 20


@pytest.mark.failure("CON-16")
def test_an_app_that_subscribes_stream_by_stream_gets_what_it_missed_of_each_once() -> None:
    shell = Shell()
    glasses = shell.glasses()
    first = shell.app(PACKAGE, "button_press", "phone_notification")
    shell.run(60.0)
    shell.do(shell.session.app_lost(PACKAGE, first, shell.now))
    shell.run(8.0)  # its grace is over, it is asked to start again
    shell.phone(glasses, type="button_press", buttonId="main", pressType="short")
    shell.phone(glasses, type="phone_notification", notificationId="n1", app="Chat", title="A", content="B")
    shell.run(0.5)
    again = shell.join(PACKAGE, "button_press")
    for streams in (["button_press", "phone_notification"], [], ["button_press", "phone_notification"]):
        shell.say(again, type="subscription_update", subscriptions=streams)
    assert [event["buttonId"] for event in shell.events(again, "button_press")] == ["main"]
    assert [event["notificationId"] for event in shell.events(again, "phone_notification")] == ["n1"]


def test_an_app_s_first_display_after_an_event_that_it_asked_for_is_its_answer() -> None:
    shell = Shell()
    glasses = shell.glasses()
    app = shell.app(PACKAGE, "touch_event")
    shell.run(10)

    def answered() -> list[float | None]:
        return [
            e.answered if isinstance(e, fx.Displayed) else e.detail["answered"]
            for e in shell.effects
            if (isinstance(e, fx.Displayed) and e.package == PACKAGE)
            or (
                isinstance(e, fx.Record)
                and e.kind == "display_settled"
                and e.detail["package"] == PACKAGE
                and e.detail["outcome"] == "shown"
            )
        ]

    def show(text: str) -> None:
        layout = {"layoutType": "text_wall", "text": text}
        shell.say(app, type="display_event", packageName=PACKAGE, view="main", layout=layout)
        shell.run(1)

    show("nothing happened")
    shell.phone(glasses, type="touch_event", device_model="G1", gesture_name="single_tap", timestamp=1)
    shell.phone(glasses, type="button_press", buttonId="left", pressType="short", timestamp=1)  # not its own
    shell.now += 0.02
    show("the answer")
    show("no answer any more")
    shell.phone(glasses, type="touch_event", device_model="G1", gesture_name="single_tap", timestamp=2)
    shell.run(5)
    show("too late to be one")
    assert answered() == [None, pytest.approx(0.02), None, None]
