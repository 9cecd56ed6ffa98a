"""Tolerances and refusals of single messages (wire/messages/)."""

from __future__ import annotations

from typing import Any

import pytest

from wire.codec import validate
from wire.errors import ProtocolError
from wire.messages import ALL, APP_TO_CLOUD, CLOUD_TO_GLASSES, GLASSES_TO_CLOUD, iso
from wire.messages import cloud_to_glasses as phone
from wire.messages import glasses_to_cloud as glasses
from wire.messages.webhooks import settings_body, tool_body


def from_phone(kind: str, **members: Any) -> Any:
    message = validate(GLASSES_TO_CLOUD, {"type": kind, **members})
    assert message is not None
    return message


def from_app(kind: str, **members: Any) -> Any:
    message = validate(APP_TO_CLOUD, {"type": kind, **members})
    assert message is not None
    return message


def test_every_class_says_what_it_is_and_has_its_own_name() -> None:
    for registry in ALL:
        for name, cls in registry.items():
            assert cls.wire_name() == name
            assert cls.about.endswith((".", "?")), name


@pytest.mark.parametrize("status", [True, False, "true", "false", "TRUE"])
def test_vad_status_may_be_a_word(status: object) -> None:
    assert from_phone("VAD", status=status).status is (str(status).lower() == "true")


@pytest.mark.parametrize("stamp", [1767225600000, 1767225600000.5, "2026-01-01T00:00:00.000Z", None])
def test_a_phones_timestamp_may_have_any_form(stamp: object) -> None:
    assert from_phone("ping", timestamp=stamp).type == "ping"


def test_a_core_status_may_be_json_in_a_string() -> None:
    assert from_phone("core_status_update", status='{"status":{"core_info":{}}}').status == {
        "status": {"core_info": {}}
    }
    assert from_phone("core_status_update", status="not json").status == {}
    assert from_phone("core_status_update", status={"status": {}}, details="x").status == {"status": {}}


def test_a_photo_answer_without_success_is_a_success() -> None:
    assert from_phone("photo_response", requestId="r", photoUrl="https://h/x").success is True
    failed = from_phone(
        "photo_response", requestId="r", success=False, error={"code": "CAMERA_BUSY", "message": "busy"}
    )
    assert (failed.success, failed.error.code) == (False, "CAMERA_BUSY")
    assert from_phone("photo_response", requestId="r", success=False, error="busy").error.message == "busy"


def test_wifi_members_may_be_unknown() -> None:
    state = from_phone(
        "glasses_connection_state",
        modelName="Mentra Live",
        status="CONNECTED",
        wifi={"connected": None, "ssid": None},
    )
    assert state.wifi.connected is None


def test_a_calendar_entry_may_use_either_clock_form() -> None:
    android = from_phone(
        "calendar_event", title="t", eventId="e", dtStart="1767225600000", timeZone="Europe/Berlin"
    )
    assert (android.dt_start, android.time_zone) == ("1767225600000", "Europe/Berlin")
    assert from_phone("calendar_event", dtStart=1767225600000, timezone="UTC").timezone == "UTC"


def test_battery_may_be_unknown_but_not_nonsense() -> None:
    assert from_phone("glasses_battery_update", level=-1, charging=False).level == -1
    for level in (101, -2, "full", None):
        with pytest.raises(ProtocolError):
            from_phone("glasses_battery_update", level=level)


def test_a_fix_must_be_on_earth() -> None:
    assert from_phone("location_update", lat=90, lng=-180).lat == 90
    for lat, lng in ((91, 0), (0, 181), ("north", 0), (None, None)):
        with pytest.raises(ProtocolError):
            from_phone("location_update", lat=lat, lng=lng)


def test_a_phones_subscriptions_may_hold_objects() -> None:
    update = from_phone("phone_subscription_update", subscriptions=["transcription:en-US", {"stream": "x"}])
    assert len(update.subscriptions) == 2


@pytest.mark.parametrize("view", ["main", "always_on", None, 5, "Dashboard"])
def test_an_unknown_view_is_main_as_in_the_sdk(view: object) -> None:
    assert from_app("display_event", layout={}, view=view).view == "main"


@pytest.mark.failure("DSP-09")
@pytest.mark.parametrize("duration", [-1, 24 * 3600 * 1000 + 1, "soon", {}, float("nan"), float("inf")])
def test_a_duration_that_no_timer_can_have_is_refused(duration: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        from_app("display_event", layout={"layoutType": "text_wall"}, durationMs=duration)
    assert caught.value.field == "durationMs"


def test_an_init_may_leave_out_its_session_and_bring_its_version() -> None:
    init = from_app("tpa_connection_init", packageName="p", apiKey="k", sdkVersion="3.1.0")
    assert (init.session_id, init.sdk_version) == (None, "3.1.0")


def test_secrets_do_not_show_in_a_repr() -> None:
    assert "key-in-clear" not in repr(from_app("tpa_connection_init", packageName="p", apiKey="key-in-clear"))
    assert "token-in-clear" not in repr(from_phone("connection_init", coreToken="token-in-clear"))


def test_a_subscription_list_is_bounded_and_a_list() -> None:
    for bad in ("*", {"a": 1}, None, ["x"] * 1025):
        with pytest.raises(ProtocolError):
            from_app("subscription_update", subscriptions=bad)


def test_an_output_stream_id_has_the_length_that_prefixes_its_binary_frames() -> None:
    assert from_app("audio_stream_start", streamId="x" * 36).content_type == "audio/mpeg"
    with pytest.raises(ProtocolError):
        from_app("audio_stream_start", streamId="short")


def test_what_phones_need_is_present_in_what_we_send() -> None:
    show = phone.DisplayEvent(
        package_name="p", view="main", layout={"layoutType": "clear_view"}, display_id=None
    )
    assert show.to_wire() == {
        "type": "display_event",
        "packageName": "p",
        "view": "main",
        "layout": {"layoutType": "clear_view"},
    }
    mic = phone.MicrophoneStateChange(session_id="u", is_microphone_enabled=False, required_data=[])
    assert mic.to_wire()["requiredData"] == []  # absent would be "off" by accident, not by word
    assert mic.to_wire()["isMicrophoneEnabled"] is False
    ack = phone.ConnectionAck(
        session_id="u", user_session=phone.UserSession(user_id="u", session_id="u", start_time="T")
    ).to_wire()
    assert ack["userSession"]["activeAppSessions"] == []
    assert "udpHost" not in ack
    assert set(CLOUD_TO_GLASSES) >= {"connection_ack", "pong", "app_state_change", "photo_request"}


def test_link_members_are_checked() -> None:
    hello = from_phone("connection_init", link={"version": 1, "ownEpoch": "e", "offset": 3})
    assert isinstance(hello.link, glasses.LinkHello)
    for bad in (
        {"version": 2, "ownEpoch": "e"},
        {"version": 1},
        {"version": 1, "ownEpoch": "e", "offset": -1},
    ):
        with pytest.raises(ProtocolError):
            from_phone("connection_init", link=bad)


def test_iso_times_have_milliseconds_and_utc() -> None:
    assert iso(1767225600.0) == "2026-01-01T00:00:00.000Z"
    assert iso(1767225600.1239) == "2026-01-01T00:00:00.123Z"
    assert iso(1767225599.9996) == "2025-12-31T23:59:59.999Z"


def test_bodies_of_the_other_webhooks() -> None:
    assert settings_body("u", [{"key": "k", "value": 1}])["userIdForSettings"] == "u"
    assert tool_body("add", {"a": 1}, "u", "T") == {
        "toolId": "add", "toolParameters": {"a": 1}, "timestamp": "T", "userId": "u",
    }  # fmt: skip
    assert (
        from_app("audio_play_request", requestId="r", audioUrl="https://h/a.mp3").to_wire()["audioUrl"]
        == "https://h/a.mp3"
    )
