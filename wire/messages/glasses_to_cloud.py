"""Everything a glasses client (a MentraOS phone, or our edge) says to the cloud on /glasses-ws.

Rules: source is the wire specification, section 2.3; tolerances for old clients stand at the member that needs them.
Events that are only relayed keep their raw bytes; their models exist for validation and documentation.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import BeforeValidator, Field

from wire.messages.base import (
    Delivery,
    Direction,
    Id,
    LenientBool,
    Message,
    Package,
    Part,
    Registry,
    Timestamp,
    Url,
    Words,
    registry,
)


class GlassesToCloud(Message):
    direction: ClassVar[Direction] = Direction.GLASSES_TO_CLOUD


class LinkHello(Part):
    """What our edge announces in `connection_init` to resume its link; Mentra clients never send it."""

    version: Literal[1] = 1
    epoch: str | None = Field(
        None, max_length=64, description="epoch of the cloud's log that the edge last saw"
    )
    offset: int = Field(0, ge=0, description="last cloud offset that the edge has processed")
    own_epoch: str = Field(
        min_length=1, max_length=64, description="epoch of the edge's own log; new after an edge restart"
    )
    own_offset: int = Field(0, ge=0, description="the edge's log holds what comes after this offset")


class ConnectionInit(GlassesToCloud):
    about: ClassVar[str] = "Asks for (another) acknowledgement; our edge also announces its link here."
    type: Literal["connection_init"] = "connection_init"
    core_token: str | None = Field(None, max_length=8192, repr=False)
    user_id: str | None = Field(None, max_length=320)
    link: LinkHello | None = None


class Ping(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LOSSY
    about: ClassVar[str] = "Application-level liveness; answered by pong at once."
    type: Literal["ping"] = "ping"
    sent_ms: float | None = Field(default=None, description="link extension: sender's clock, echoed in pong")
    clock_ms: float | None = Field(
        default=None, description="link extension: the edge's wall clock as this leaves"
    )
    offset_ms: float | None = Field(
        default=None,
        description="link extension: the cloud's clock minus the edge's wall clock, as the edge has measured it",
    )
    error_ms: float | None = Field(
        default=None, ge=0, description="link extension: the most by which offsetMs is wrong"
    )
    rtt_ms: float | None = Field(
        default=None, ge=0, description="link extension: the round trip behind offsetMs"
    )
    audio_ms: float | None = Field(
        default=None,
        ge=0,
        description="link extension: median from sound's notification until its frame left, lately",
    )


class Pong(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LOSSY
    about: ClassVar[str] = "Answer to a ping of the cloud."
    type: Literal["pong"] = "pong"
    sent_ms: float | None = None


class StartApp(GlassesToCloud):
    about: ClassVar[str] = "The wearer wants an app."
    type: Literal["start_app"] = "start_app"
    package_name: Package


class StopApp(GlassesToCloud):
    about: ClassVar[str] = "The wearer no longer wants an app."
    type: Literal["stop_app"] = "stop_app"
    package_name: Package


class Vad(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LOSSY
    about: ClassVar[str] = "Voice activity; the test client writes the type in lower case."
    type: Literal["VAD"] = "VAD"
    status: LenientBool


class HeadPosition(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "Head up or down; up turns the dashboard's page."
    type: Literal["head_position"] = "head_position"
    position: Literal["up", "down"]


class ButtonPress(GlassesToCloud):
    life: ClassVar[float | None] = 5.0  # an old press must not fire an action
    about: ClassVar[str] = "A hardware button."
    type: Literal["button_press"] = "button_press"
    button_id: Id
    press_type: str = Field(max_length=32)


GESTURES = frozenset(
    {"single_tap", "double_tap", "triple_tap", "long_press", "forward_swipe", "backward_swipe", "up_swipe",
     "down_swipe"}
)  # fmt: skip


class TouchEvent(GlassesToCloud):
    life: ClassVar[float | None] = 5.0  # an old press must not fire an action
    about: ClassVar[str] = "A touch on a temple."
    type: Literal["touch_event"] = "touch_event"
    device_model: str = Field("", alias="device_model", max_length=128)
    gesture_name: str = Field(alias="gesture_name", max_length=64)


class SwipeVolumeStatus(GlassesToCloud):
    about: ClassVar[str] = "Whether swipes change the volume; noted only."
    type: Literal["swipe_volume_status"] = "swipe_volume_status"
    enabled: LenientBool


class SwitchStatus(GlassesToCloud):
    about: ClassVar[str] = "A hardware switch; noted only."
    type: Literal["switch_status"] = "switch_status"
    switch_type: int = Field(alias="switch_type")
    switch_value: int = Field(alias="switch_value")


Level = Annotated[int, Field(ge=-1, le=100)]  # -1: unknown


class GlassesBatteryUpdate(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "Battery of the glasses in percent; -1 unknown."
    type: Literal["glasses_battery_update"] = "glasses_battery_update"
    level: Level
    charging: bool | None = None
    time_remaining: float | None = None


class PhoneBatteryUpdate(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "Battery of the phone in percent; -1 unknown."
    type: Literal["phone_battery_update"] = "phone_battery_update"
    level: Level
    charging: bool | None = None
    time_remaining: float | None = None


class Wifi(Part):
    connected: bool | None = None
    ssid: str | None = Field(None, max_length=64)


class GlassesConnectionState(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "Which glasses are connected; decides the capabilities that apps see."
    type: Literal["glasses_connection_state"] = "glasses_connection_state"
    model_name: str = Field("", max_length=128)
    device_model: str | None = Field(None, max_length=128)
    status: str = Field(max_length=64)
    wifi: Wifi | None = None
    #: Link extension: what the model can do, from the table of its driver; other clouds know models by name.
    capabilities: dict[str, Any] | None = Field(None, max_length=32)


class LocationUpdate(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LOSSY
    about: ClassVar[str] = "A position fix; with a correlation id it answers a poll."
    type: Literal["location_update"] = "location_update"
    lat: float = Field(ge=-90, le=90)
    lng: float = Field(ge=-180, le=180)
    accuracy: float | None = None
    correlation_id: Id | None = None


class CalendarEvent(GlassesToCloud):
    about: ClassVar[str] = "One calendar entry; phones say timeZone, apps read timezone."
    type: Literal["calendar_event"] = "calendar_event"
    title: Words = ""
    event_id: str = Field("", max_length=512)
    dt_start: str | int | float | None = None
    dt_end: str | int | float | None = None
    time_zone: str | None = Field(None, max_length=128)
    timezone: str | None = Field(None, alias="timezone", max_length=128)


class PhoneNotification(GlassesToCloud):
    life: ClassVar[float | None] = 60.0  # older than the session grace is history, not news
    about: ClassVar[str] = "A notification arrived on the phone."
    type: Literal["phone_notification"] = "phone_notification"
    notification_id: str = Field("", max_length=512)
    app: str = Field("", max_length=256)
    title: Words = ""
    content: Words = ""
    priority: str | None = Field(None, max_length=32)
    package_name: str | None = Field(None, max_length=256)


class PhoneNotificationDismissed(GlassesToCloud):
    about: ClassVar[str] = "A notification was dismissed on the phone."
    type: Literal["phone_notification_dismissed"] = "phone_notification_dismissed"
    notification_id: str = Field("", max_length=512)
    notification_key: str | None = Field(None, max_length=512)
    package_name: str | None = Field(None, max_length=256)
    app: str | None = Field(None, max_length=256)
    title: Words | None = None
    content: Words | None = None


def _json_object(value: object) -> object:
    # The TypeScript test client sends the status as a JSON string.
    if isinstance(value, str):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return {}
    return value


class CoreStatusUpdate(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "Old phones' full status; mapped to system settings (wire spec 2.6)."
    type: Literal["core_status_update"] = "core_status_update"
    status: Annotated[dict[str, Any], BeforeValidator(_json_object)] = Field(default_factory=dict)


class SettingsUpdateRequest(GlassesToCloud):
    about: ClassVar[str] = "Asks for the system settings."
    type: Literal["settings_update_request"] = "settings_update_request"


class RequestSettings(GlassesToCloud):
    about: ClassVar[str] = "Asks for the system settings (older form)."
    type: Literal["request_settings"] = "request_settings"


class DashboardState(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "Whether the dashboard is open; relayed."
    type: Literal["dashboard_state"] = "dashboard_state"
    is_open: LenientBool


class OpenDashboard(GlassesToCloud):
    about: ClassVar[str] = "The dashboard was opened; relayed."
    type: Literal["open_dashboard"] = "open_dashboard"


class Config(GlassesToCloud):
    about: ClassVar[str] = "Old phones' wishes about speech streams; informational."
    type: Literal["config"] = "config"
    streams: list[dict[str, Any]] = Field(default_factory=list)


class ErrorDetail(Part):
    code: str = Field("UNKNOWN", max_length=128)
    message: str = Field("", max_length=4096)


def _error_detail(value: object) -> object:
    return {"message": value} if isinstance(value, str) else value


LenientError = Annotated[ErrorDetail | None, BeforeValidator(_error_detail)]


class PhotoResponse(GlassesToCloud):
    about: ClassVar[str] = "Outcome of a photo request; an absent `success` means success."
    type: Literal["photo_response"] = "photo_response"
    request_id: Id
    success: bool = True
    photo_url: str | None = Field(None, max_length=4096)
    saved_to_gallery: bool | None = None
    error: LenientError = None
    error_code: str | None = Field(None, max_length=128)
    error_message: str | None = Field(None, max_length=4096)


class PhotoTaken(GlassesToCloud):
    about: ClassVar[str] = "A photo inside the message; rare, relayed."
    type: Literal["photo_taken"] = "photo_taken"
    photo_data: str = ""
    mime_type: str = Field("image/jpeg", max_length=64)


class VideoStreamResponse(GlassesToCloud):
    about: ClassVar[str] = "Legacy answer of a video stream; noted only."
    type: Literal["video_stream_response"] = "video_stream_response"
    app_id: str | None = Field(None, max_length=200)
    stream_url: str | None = Field(None, max_length=4096)


class StreamStats(Part):
    bitrate: float | None = None
    fps: float | None = None
    dropped_frames: int | None = None
    duration: float | None = None


class RtmpStreamStatus(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "State of a video stream."
    type: Literal["rtmp_stream_status"] = "rtmp_stream_status"
    stream_id: str = Field("", max_length=256)
    status: str = Field(max_length=64)
    error_details: str | None = Field(None, max_length=4096)
    stats: StreamStats | None = None

    def latest_key(self) -> str:
        return f"stream_status:{self.stream_id}"


class StreamStatus(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "State of a video stream, 2026 name of rtmp_stream_status."
    type: Literal["stream_status"] = "stream_status"
    stream_id: str = Field("", max_length=256)
    status: str = Field(max_length=64)
    error_details: str | None = Field(None, max_length=4096)
    stats: StreamStats | None = None

    def latest_key(self) -> str:
        return f"stream_status:{self.stream_id}"


class KeepAliveAck(GlassesToCloud):
    about: ClassVar[str] = "Answer to a stream keep-alive."
    type: Literal["keep_alive_ack"] = "keep_alive_ack"
    stream_id: str = Field("", max_length=256)
    ack_id: Id


class AudioPlayResponse(GlassesToCloud):
    about: ClassVar[str] = "Outcome of an audio play request."
    type: Literal["audio_play_response"] = "audio_play_response"
    request_id: Id
    success: bool = True
    error: str | None = Field(None, max_length=4096)
    duration: float | None = None


class RgbLedControlResponse(GlassesToCloud):
    about: ClassVar[str] = "Outcome of an LED request."
    type: Literal["rgb_led_control_response"] = "rgb_led_control_response"
    request_id: Id
    success: bool = True
    error: str | None = Field(None, max_length=4096)


class LocalTranscription(GlassesToCloud):
    life: ClassVar[float | None] = 60.0  # older than the session grace is history, not news
    about: ClassVar[str] = "Speech recognised on the phone."
    type: Literal["local_transcription"] = "local_transcription"
    text: Words
    is_final: bool = False
    start_time: float | None = None
    end_time: float | None = None
    speaker_id: str | int | None = None
    transcribe_language: str = Field("en-US", max_length=16)
    provider: str | None = Field(None, max_length=64)


class VpsCoordinates(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LOSSY
    about: ClassVar[str] = "Visual position; relayed."
    type: Literal["vps_coordinates"] = "vps_coordinates"
    device_model: str = Field("", max_length=128)
    request_id: str = Field("", max_length=256)
    x: float = 0
    y: float = 0
    z: float = 0
    qx: float = 0
    qy: float = 0
    qz: float = 0
    qw: float = 1
    confidence: float = 0


class UdpRegister(GlassesToCloud):
    about: ClassVar[str] = "Wants datagram audio; unanswered, so that the phone falls back to the socket."
    type: Literal["udp_register"] = "udp_register"
    user_id_hash: int


class UdpUnregister(GlassesToCloud):
    about: ClassVar[str] = "No longer wants datagram audio."
    type: Literal["udp_unregister"] = "udp_unregister"
    user_id_hash: int | None = None


class LivekitInit(GlassesToCloud):
    about: ClassVar[str] = "Wants LiveKit; unanswered, so that the phone falls back to the socket."
    type: Literal["livekit_init"] = "livekit_init"
    mode: str | None = Field(None, max_length=32)


class PhoneSubscriptionUpdate(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "Streams that apps on the phone need; counts for the microphone."
    type: Literal["phone_subscription_update"] = "phone_subscription_update"
    subscriptions: list[str | dict[str, Any]] = Field(default_factory=list, max_length=1024)


class LinkAck(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LOSSY
    about: ClassVar[str] = "Link extension: all up to `linkAck` is processed; any frame may say so."
    type: Literal["glassbridge_ack"] = "glassbridge_ack"
    link_ack: int = Field(ge=0)


class LinkSkip(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LOSSY
    about: ClassVar[str] = "Link extension: what came before and at `linkOffset` was too old to deliver."
    type: Literal["glassbridge_skip"] = "glassbridge_skip"
    link_offset: int = Field(ge=0)


class DisplayResult(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LOSSY
    about: ClassVar[str] = "Link extension: what became of one display_event, with the time each hop took."
    type: Literal["glassbridge_display_result"] = "glassbridge_display_result"
    display_id: Id
    outcome: Literal["shown", "replaced", "failed"]
    reason: str | None = Field(None, max_length=256)
    downlink_ms: float | None = Field(
        None, ge=0, description="sent by the cloud until received here, by the offset of the two clocks"
    )
    edge_ms: float | None = Field(
        None, ge=0, description="received from the cloud until the first packet left"
    )
    ble_ms: float | None = Field(None, ge=0, description="first packet until the last acknowledgement")


class ArmStatus(Part):
    state: str = Field(max_length=32)
    reason: str | None = Field(None, max_length=256)
    battery: Level | None = None
    rssi: int | None = None
    mtu: int | None = None


class EdgeStatus(GlassesToCloud):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = (
        "Link extension: state of each arm and the microphone, for console and status pages."
    )
    type: Literal["glassbridge_status"] = "glassbridge_status"
    model_name: str = Field("", max_length=128)
    arms: dict[str, ArmStatus] = Field(default_factory=dict, max_length=8)
    microphone: str | None = Field(None, max_length=64)
    shown_package: str | None = Field(None, max_length=256)  # whose display is in the main view
    simulated: bool = False


GLASSES_TO_CLOUD: Registry = registry(
    ConnectionInit, Ping, Pong, StartApp, StopApp, Vad, HeadPosition, ButtonPress, TouchEvent, SwipeVolumeStatus,
    SwitchStatus, GlassesBatteryUpdate, PhoneBatteryUpdate, GlassesConnectionState, LocationUpdate, CalendarEvent,
    PhoneNotification, PhoneNotificationDismissed, CoreStatusUpdate, SettingsUpdateRequest, RequestSettings,
    DashboardState, OpenDashboard, Config, PhotoResponse, PhotoTaken, VideoStreamResponse, RtmpStreamStatus,
    StreamStatus, KeepAliveAck, AudioPlayResponse, RgbLedControlResponse, LocalTranscription, VpsCoordinates,
    UdpRegister, UdpUnregister, LivekitInit, PhoneSubscriptionUpdate, LinkAck, LinkSkip, DisplayResult, EdgeStatus,
)  # fmt: skip

__all__ = ["GLASSES_TO_CLOUD", "GESTURES", "GlassesToCloud", "Timestamp", "Url", *(
    cls.__name__ for cls in GLASSES_TO_CLOUD.values())]  # fmt: skip
