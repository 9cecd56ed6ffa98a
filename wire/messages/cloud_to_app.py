"""Everything the cloud says to an app server on /app-ws.

Rules: source is the wire specification, sections 3.3 to 3.11. Events travel inside `data_stream`; the types below are
the only ones that the SDK accepts bare. `settings` in the acknowledgement is a list, never an object.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from wire.messages.base import Delivery, Direction, Id, Message, Part, Registry, registry


class CloudToApp(Message):
    direction: ClassVar[Direction] = Direction.CLOUD_TO_APP


class TpaConnectionAck(CloudToApp):
    about: ClassVar[str] = "The app is connected; must arrive within 5 s of its connect."
    sends_null: ClassVar[frozenset[str]] = frozenset({"capabilities"})
    type: Literal["tpa_connection_ack"] = "tpa_connection_ack"
    session_id: str
    settings: list[dict[str, Any]] = Field(default_factory=list)
    mentraos_settings: dict[str, Any] = Field(default_factory=dict, alias="mentraosSettings")
    augmentos_settings: dict[str, Any] = Field(default_factory=dict, alias="augmentosSettings")
    capabilities: dict[str, Any] | None = None
    subscriptions: list[Any] = Field(default_factory=list)
    user_id: str | None = None
    config: dict[str, Any] | None = None


class TpaConnectionError(CloudToApp):
    about: ClassVar[str] = "An error answer. It fails nothing inside the SDK; a close may follow."
    type: Literal["tpa_connection_error"] = "tpa_connection_error"
    code: str
    message: str
    field: str | None = None
    request_id: str | None = None


class DataStream(CloudToApp):
    about: ClassVar[str] = "Envelope of every event; streamType repeats the app's own subscription string."
    type: Literal["data_stream"] = "data_stream"
    session_id: str
    stream_type: str
    data: Any
    replayed: bool | None = Field(
        None, description="sent again after a reconnect; the SDK ignores the member"
    )


class AppStopped(CloudToApp):
    about: ClassVar[str] = "Stopped; the close 1000 that follows is what the SDK acts on."
    type: Literal["app_stopped"] = "app_stopped"
    reason: Literal["user_disabled", "system_stop", "error"]


class AppSettingsUpdate(CloudToApp):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "The app's own settings, whole list; a full augmentos_settings_update must follow."
    type: Literal["settings_update"] = "settings_update"
    package_name: str
    session_id: str
    settings: list[dict[str, Any]]


class AugmentosSettingsUpdate(CloudToApp):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "All system settings; replaces the app's copy."
    type: Literal["augmentos_settings_update"] = "augmentos_settings_update"
    session_id: str
    settings: dict[str, Any]


class CapabilitiesUpdate(CloudToApp):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "Other glasses, other abilities."
    sends_null: ClassVar[frozenset[str]] = frozenset({"capabilities", "modelName"})
    type: Literal["capabilities_update"] = "capabilities_update"
    session_id: str
    model_name: str | None = None
    capabilities: dict[str, Any] | None = None


class DeviceStateUpdate(CloudToApp):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "State of the glasses; absent keys keep their value, null clears."
    type: Literal["device_state_update"] = "device_state_update"
    session_id: str
    state: dict[str, Any]
    full_snapshot: bool = False


class DashboardModeChanged(CloudToApp):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "The dashboard's mode."
    type: Literal["dashboard_mode_changed"] = "dashboard_mode_changed"
    mode: str
    session_id: str


class PermissionDetail(Part):
    stream: str
    required_permission: str
    message: str


class PermissionError_(CloudToApp):
    about: ClassVar[str] = "Some streams were refused for want of a permission."
    type: Literal["permission_error"] = "permission_error"
    message: str
    details: list[PermissionDetail]


class CustomMessage(CloudToApp):
    about: ClassVar[str] = "System message by action, e.g. update_datetime."
    type: Literal["custom_message"] = "custom_message"
    action: str
    payload: dict[str, Any]


class AppRtmpStreamStatus(CloudToApp):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "State of the app's video stream; bare, or the SDK's camera state stands still."
    type: Literal["rtmp_stream_status"] = "rtmp_stream_status"
    session_id: str
    stream_id: str
    status: str
    error_details: str | None = None
    stats: dict[str, Any] | None = None
    app_id: str | None = None


class ManagedStreamStatus(CloudToApp):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "State of a managed stream."
    type: Literal["managed_stream_status"] = "managed_stream_status"
    session_id: str
    stream_id: str
    status: str
    hls_url: str | None = None
    dash_url: str | None = None
    webrtc_url: str | None = None
    message: str | None = None


class StreamStatusCheckResponse(CloudToApp):
    about: ClassVar[str] = "Whether a stream runs."
    type: Literal["stream_status_check_response"] = "stream_status_check_response"
    session_id: str
    has_active_stream: bool
    stream_info: dict[str, Any] | None = None


class AppAudioPlayResponse(CloudToApp):
    about: ClassVar[str] = "Outcome of an audio play request; without it the app waits 60 s."
    type: Literal["audio_play_response"] = "audio_play_response"
    session_id: str
    request_id: Id
    success: bool
    error: str | None = None
    duration: float | None = None


class AppPhotoResponse(CloudToApp):
    about: ClassVar[str] = "Outcome of a photo request; only SDK 3 acts on it."
    type: Literal["photo_response"] = "photo_response"
    session_id: str
    request_id: Id
    success: bool
    photo_url: str | None = None
    error: dict[str, Any] | None = None


class AppRgbLedControlResponse(CloudToApp):
    about: ClassVar[str] = "Outcome of an LED request."
    type: Literal["rgb_led_control_response"] = "rgb_led_control_response"
    session_id: str
    request_id: Id
    success: bool
    error: str | None = None


class AppMessageReceived(CloudToApp):
    about: ClassVar[str] = "A message of another user of the same app."
    type: Literal["app_message_received"] = "app_message_received"
    payload: Any = None
    message_id: str
    sender_user_id: str
    sender_session_id: str
    room_id: str | None = None


class AppDirectMessageResponse(CloudToApp):
    about: ClassVar[str] = "Whether a direct message reached its user."
    type: Literal["app_direct_message_response"] = "app_direct_message_response"
    message_id: str
    success: bool
    error: str | None = None
    target_user_id: str


class AppUserJoined(CloudToApp):
    about: ClassVar[str] = "Another user of the same app appeared."
    type: Literal["app_user_joined"] = "app_user_joined"
    user_id: str
    session_id: str
    joined_at: str
    user_profile: dict[str, Any] | None = None
    room_id: str | None = None


class AppUserLeft(CloudToApp):
    about: ClassVar[str] = "Another user of the same app left."
    type: Literal["app_user_left"] = "app_user_left"
    user_id: str
    session_id: str
    left_at: str
    room_id: str | None = None


class AppRoomUpdated(CloudToApp):
    about: ClassVar[str] = "A room changed."
    type: Literal["app_room_updated"] = "app_room_updated"
    room_id: str
    update_type: Literal["user_joined", "user_left", "config_changed", "room_closed"]
    room_data: dict[str, Any]


class PongToApp(CloudToApp):
    delivery: ClassVar[Delivery] = Delivery.LOSSY
    about: ClassVar[str] = "Answer to SDK 3's ping. A JSON ping is never sent: SDK 2 reports it as an error."
    type: Literal["pong"] = "pong"


class AudioStreamReady(CloudToApp):
    about: ClassVar[str] = "SDK 3: where the phone will fetch the app's audio."
    type: Literal["audio_stream_ready"] = "audio_stream_ready"
    stream_id: str
    stream_url: str


CLOUD_TO_APP: Registry = registry(
    TpaConnectionAck, TpaConnectionError, DataStream, AppStopped, AppSettingsUpdate, AugmentosSettingsUpdate,
    CapabilitiesUpdate, DeviceStateUpdate, DashboardModeChanged, PermissionError_, CustomMessage, AppRtmpStreamStatus,
    ManagedStreamStatus, StreamStatusCheckResponse, AppAudioPlayResponse, AppPhotoResponse, AppRgbLedControlResponse,
    AppMessageReceived, AppDirectMessageResponse, AppUserJoined, AppUserLeft, AppRoomUpdated, PongToApp,
    AudioStreamReady,
)  # fmt: skip
