"""The models against what the real SDK said and was told (tests/interop/recordings)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from wire.codec import decode, encode, validate
from wire.messages import APP_TO_CLOUD, CLOUD_TO_APP
from wire.messages import cloud_to_app as said
from wire.messages.webhooks import SessionRequest, StopRequest

RECORDINGS = Path(__file__).resolve().parent.parent / "interop" / "recordings"


def _frames(name: str) -> list[dict[str, Any]]:
    return [json.loads(line)["frame"] for line in (RECORDINGS / name).read_text().splitlines()]


UP = _frames("app_to_cloud.jsonl")
DOWN = _frames("cloud_to_app.jsonl")


def test_every_frame_of_the_sdk_parses_into_a_typed_message() -> None:
    for frame in UP:
        incoming = decode(APP_TO_CLOUD, orjson.dumps(frame))
        assert incoming.message is not None, frame["type"]
        assert type(incoming.message).wire_name() == frame["type"]


def test_no_member_that_the_sdk_sends_is_lost_or_changed() -> None:
    for frame in UP:
        # A broadcast names its sender; who speaks is known from the socket alone, so the model drops the claim.
        told = {k: v for k, v in frame.items() if v is not None and k != "senderUserId"}
        message = validate(APP_TO_CLOUD, frame)
        assert message is not None
        kept = message.to_wire()
        wrong = {k: (v, kept.get(k)) for k, v in told.items() if kept.get(k) != v}
        assert not wrong, frame["type"]


def test_the_recordings_cover_all_requests_that_the_sdk_can_send() -> None:
    # What is left comes from older SDKs, from the dashboard's own package, or answers what we never ask.
    not_recorded = {"dashboard_mode_change", "dashboard_system_update", "pong"}
    assert {f["type"] for f in UP} == set(APP_TO_CLOUD) - not_recorded


def test_our_models_can_say_all_that_the_sdk_was_told() -> None:
    #: Not ours to say: managed streaming and telemetry are the vendor's services; bad frames were sent on purpose.
    vendors_own = {"request_telemetry"}
    for frame in DOWN:
        if frame["type"] in vendors_own:
            continue
        assert frame["type"] in CLOUD_TO_APP, frame["type"]


#: What the SDK was seen to read of each answer (wire spec 3.3 to 3.10), and one instance that our server would send.
_T = "2026-01-01T00:00:00.000Z"
_SID = "user@example.com-com.example.app"
READ: list[tuple[said.CloudToApp, set[str]]] = [
    (
        said.TpaConnectionAck(
            session_id=_SID, settings=[{"key": "lang", "value": "de"}], mentraosSettings={"brightness": 50}
        ),
        {"settings", "mentraosSettings", "augmentosSettings", "capabilities"},
    ),
    (said.TpaConnectionError(code="INVALID_API_KEY", message="Invalid API key"), {"code", "message"}),
    (
        said.DataStream(session_id=_SID, stream_type="VAD", data={"status": True}, replayed=None),
        {"streamType", "data"},
    ),
    (said.AppStopped(reason="user_disabled"), {"reason"}),
    (said.AppSettingsUpdate(package_name="p", session_id=_SID, settings=[]), {"settings"}),
    (said.AugmentosSettingsUpdate(session_id=_SID, settings={"brightness": 1}), {"settings"}),
    (said.CapabilitiesUpdate(session_id=_SID), {"capabilities", "modelName"}),
    (said.DeviceStateUpdate(session_id=_SID, state={"connected": True}, full_snapshot=True), {"state"}),
    (said.DashboardModeChanged(mode="main", session_id=_SID), {"mode"}),
    (
        said.PermissionError_(
            message="m",
            details=[said.PermissionDetail(stream="VAD", required_permission="MICROPHONE", message="m")],
        ),
        {"message", "details"},
    ),
    (said.CustomMessage(action="update_datetime", payload={"datetime": _T}), {"action", "payload"}),
    (said.AppRtmpStreamStatus(session_id=_SID, stream_id="s", status="active"), {"streamId", "status"}),
    (
        said.ManagedStreamStatus(session_id=_SID, stream_id="m", status="active", hls_url="h", dash_url="d"),
        {"streamId", "status", "hlsUrl", "dashUrl"},
    ),
    (said.StreamStatusCheckResponse(session_id=_SID, has_active_stream=False), {"hasActiveStream"}),
    (
        said.AppAudioPlayResponse(session_id=_SID, request_id="r", success=True, duration=1234),
        {"requestId", "success", "duration"},
    ),
    (
        said.AppPhotoResponse(session_id=_SID, request_id="r", success=False, error={"code": "C"}),
        {"requestId", "success", "error"},
    ),
    (
        said.AppRgbLedControlResponse(session_id=_SID, request_id="r", success=True),
        {"requestId", "success"},
    ),
    (
        said.AppMessageReceived(
            payload={"a": 1}, message_id="m", sender_user_id="u", sender_session_id="s", room_id="r"
        ),
        {"payload", "messageId", "senderUserId", "roomId"},
    ),
    (
        said.AppDirectMessageResponse(message_id="m", success=False, target_user_id="u"),
        {"messageId", "success", "targetUserId"},
    ),
    (said.AppUserJoined(user_id="u", session_id="u", joined_at=_T), {"userId", "joinedAt"}),
    (said.AppUserLeft(user_id="u", session_id="u", left_at=_T), {"userId", "leftAt"}),
    (
        said.AppRoomUpdated(room_id="r", update_type="user_joined", room_data={"memberCount": 1}),
        {"roomId", "updateType", "roomData"},
    ),
    (said.PongToApp(), set()),
    (said.AudioStreamReady(stream_id="s", stream_url="http://h/x"), {"streamId", "streamUrl"}),
]


@pytest.mark.parametrize(("message", "read"), READ, ids=lambda v: getattr(v, "type", ""))
def test_our_answers_carry_what_the_sdk_reads(message: said.CloudToApp, read: set[str]) -> None:
    sent = orjson.loads(encode(message))
    assert sent["type"] == type(message).wire_name()
    assert read <= set(sent)


def test_every_message_to_an_app_is_in_that_table() -> None:
    assert {type(m) for m, _ in READ} == set(CLOUD_TO_APP.values())


def test_the_acknowledgement_has_the_two_shapes_that_decide_a_connect() -> None:
    # An object in `settings` fails the connect in silence; `{}` as capabilities is not "unknown" (wire spec 3.3).
    sent = said.TpaConnectionAck(session_id=_SID).to_wire()
    assert sent["settings"] == []
    assert sent["capabilities"] is None


def test_the_webhook_carries_both_address_members() -> None:
    sent = SessionRequest(
        session_id=_SID,
        user_id="u",
        mentraOSWebsocketUrl="ws://h/app-ws",
        augmentOSWebsocketUrl="ws://h/app-ws",
    ).to_wire()
    assert sent["mentraOSWebsocketUrl"] == sent["augmentOSWebsocketUrl"] == "ws://h/app-ws"
    assert (
        StopRequest(session_id=_SID, user_id="u", reason="system_stop").to_wire()["reason"] == "system_stop"
    )
