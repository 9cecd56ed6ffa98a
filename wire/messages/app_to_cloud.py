"""Everything an app server says to the cloud on /app-ws.

Rules: source is the wire specification, sections 3.2, 3.5, 3.10 and A. Ids inside a message are never believed: the
socket says who speaks. `packageName` is kept only to refuse a message that claims another package.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from wire.messages.base import Delivery, Direction, Id, Message, Package, Part, Registry, Url, registry


class AppToCloud(Message):
    direction: ClassVar[Direction] = Direction.APP_TO_CLOUD

    package_name: str | None = Field(None, max_length=200)
    session_id: str | None = Field(None, max_length=600)


class TpaConnectionInit(AppToCloud):
    about: ClassVar[str] = "First frame of an app: who it is and its key."
    type: Literal["tpa_connection_init"] = "tpa_connection_init"
    package_name: Package
    session_id: str | None = Field(None, max_length=600)
    api_key: str = Field(max_length=1024, repr=False)
    sdk_version: str | None = Field(None, max_length=64)


class SubscriptionUpdate(AppToCloud):
    about: ClassVar[str] = "The app's full list of streams; replaces the former."
    type: Literal["subscription_update"] = "subscription_update"
    subscriptions: list[Any] = Field(default_factory=list, max_length=1024)


def _view(value: object) -> object:
    # The SDK coerces anything else to main as well (wire spec 3.10.1).
    return value if value in ("main", "dashboard") else "main"


class DisplayRequest(AppToCloud):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "Show a layout on a view, for a time or until replaced."
    type: Literal["display_event"] = "display_event"
    view: Annotated[Literal["main", "dashboard"], BeforeValidator(_view)] = "main"
    layout: dict[str, Any]
    duration_ms: Annotated[float, Field(ge=0, le=24 * 3600 * 1000)] | None = None
    force_display: bool = False


class DashboardContentUpdate(AppToCloud):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "An app's line on the dashboard."
    type: Literal["dashboard_content_update"] = "dashboard_content_update"
    content: str | dict[str, Any]
    modes: list[str] = Field(default_factory=lambda: ["main"], max_length=8)


class DashboardModeChange(AppToCloud):
    about: ClassVar[str] = "Dashboard mode; only the dashboard's own package may."
    type: Literal["dashboard_mode_change"] = "dashboard_mode_change"
    mode: Literal["main", "expanded", "always_on"]


class DashboardSystemUpdate(AppToCloud):
    about: ClassVar[str] = "A system section of the dashboard; only the dashboard's own package may."
    type: Literal["dashboard_system_update"] = "dashboard_system_update"
    section: Literal["topLeft", "topRight", "bottomLeft", "bottomRight"]
    content: str | dict[str, Any]


class AudioPlay(AppToCloud):
    about: ClassVar[str] = "Play audio on the phone or glasses."
    type: Literal["audio_play_request"] = "audio_play_request"
    request_id: Id
    audio_url: Url
    volume: float | None = Field(None, ge=0, le=10)
    stop_other_audio: bool | None = None
    track_id: int | None = None


class AudioStop(AppToCloud):
    about: ClassVar[str] = "Stop own audio."
    type: Literal["audio_stop_request"] = "audio_stop_request"
    track_id: int | None = None


class AppPhotoRequest(AppToCloud):
    about: ClassVar[str] = "Take a photo; it is uploaded to the app by HTTP."
    type: Literal["photo_request"] = "photo_request"
    request_id: Id
    save_to_gallery: bool | None = None
    size: Literal["small", "medium", "large", "full"] = "medium"
    compress: Literal["none", "medium", "heavy"] = "none"
    custom_webhook_url: Url | None = None
    auth_token: str | None = Field(None, max_length=4096, repr=False)
    sound: bool | None = None
    flash: bool | None = None
    silent: bool | None = None
    exposure_time_ns: float | None = None


class RtmpStreamRequest(AppToCloud):
    about: ClassVar[str] = "Stream video to the app's own RTMP server."
    type: Literal["rtmp_stream_request"] = "rtmp_stream_request"
    rtmp_url: Url
    video: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None
    stream: dict[str, Any] | None = None
    sound: bool | None = None


class RtmpStreamStop(AppToCloud):
    about: ClassVar[str] = "Stop the app's video stream."
    type: Literal["rtmp_stream_stop"] = "rtmp_stream_stop"
    stream_id: str | None = Field(None, max_length=256)


class RestreamDestination(Part):
    url: Url
    name: str | None = Field(None, max_length=200)


class ManagedStreamRequest(AppToCloud):
    about: ClassVar[str] = "Stream video through a managed service; refused here with an error status."
    type: Literal["managed_stream_request"] = "managed_stream_request"
    quality: str | None = Field(None, max_length=32)
    enable_web_rtc: bool | None = Field(None, alias="enableWebRTC")
    video: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None
    stream: dict[str, Any] | None = None
    restream_destinations: list[RestreamDestination] | None = Field(None, max_length=16)
    sound: bool | None = None


class ManagedStreamStop(AppToCloud):
    about: ClassVar[str] = "Stop the managed stream."
    type: Literal["managed_stream_stop"] = "managed_stream_stop"


class StreamStatusCheck(AppToCloud):
    about: ClassVar[str] = "Is a stream running?"
    type: Literal["stream_status_check"] = "stream_status_check"


class LocationPollRequest(AppToCloud):
    about: ClassVar[str] = "One position of the given accuracy."
    type: Literal["location_poll_request"] = "location_poll_request"
    correlation_id: Id
    accuracy: str = Field("standard", max_length=32)


class AppRgbLedControl(AppToCloud):
    about: ClassVar[str] = "Drive the LED; times in milliseconds."
    type: Literal["rgb_led_control"] = "rgb_led_control"
    request_id: Id
    action: Literal["on", "off"]
    color: str | None = Field(None, max_length=32)
    ontime: float | None = Field(None, ge=0, le=3_600_000)
    offtime: float | None = Field(None, ge=0, le=3_600_000)
    count: int | None = Field(None, ge=0, le=1_000_000)


class RequestWifiSetup(AppToCloud):
    about: ClassVar[str] = "Ask the wearer to set up Wi-Fi."
    type: Literal["request_wifi_setup"] = "request_wifi_setup"
    reason: str | None = Field(None, max_length=1000)


class AppBroadcastMessage(AppToCloud):
    about: ClassVar[str] = "To all other users of the same app."
    type: Literal["app_broadcast_message"] = "app_broadcast_message"
    payload: Any = None
    message_id: Id
    room_id: str | None = Field(None, max_length=256)


class AppDirectMessage(AppToCloud):
    about: ClassVar[str] = "To one other user of the same app."
    type: Literal["app_direct_message"] = "app_direct_message"
    target_user_id: str = Field(max_length=320)
    payload: Any = None
    message_id: Id


class RoomConfig(Part):
    max_users: int | None = Field(None, ge=1, le=10_000)
    is_private: bool | None = None
    metadata: dict[str, Any] | None = None


class AppRoomJoin(AppToCloud):
    about: ClassVar[str] = "Join a room of the same app."
    type: Literal["app_room_join"] = "app_room_join"
    room_id: Id
    room_config: RoomConfig | None = None


class AppRoomLeave(AppToCloud):
    about: ClassVar[str] = "Leave a room."
    type: Literal["app_room_leave"] = "app_room_leave"
    room_id: Id


class AppUserDiscovery(AppToCloud):
    about: ClassVar[str] = "Who else uses this app now?"
    type: Literal["app_user_discovery"] = "app_user_discovery"
    include_user_profiles: bool = False


class OwnershipRelease(AppToCloud):
    about: ClassVar[str] = "The app gives the session up on purpose: do not restart it."
    type: Literal["ownership_release"] = "ownership_release"
    reason: str = Field("unknown", max_length=64)


class AppPing(AppToCloud):
    delivery: ClassVar[Delivery] = Delivery.LOSSY
    about: ClassVar[str] = "SDK 3 heartbeat; answered by pong."
    type: Literal["ping"] = "ping"


class AppPong(AppToCloud):
    delivery: ClassVar[Delivery] = Delivery.LOSSY
    about: ClassVar[str] = "Answer to a JSON ping; only SDK 3 sends it."
    type: Literal["pong"] = "pong"


class AudioStreamStart(AppToCloud):
    about: ClassVar[str] = "SDK 3: the app will send audio bytes to be played."
    type: Literal["audio_stream_start"] = "audio_stream_start"
    stream_id: str = Field(min_length=36, max_length=36)
    content_type: str = Field("audio/mpeg", max_length=64)


class AudioStreamEnd(AppToCloud):
    about: ClassVar[str] = "SDK 3: no more audio bytes."
    type: Literal["audio_stream_end"] = "audio_stream_end"
    stream_id: str = Field(min_length=36, max_length=36)


APP_TO_CLOUD: Registry = registry(
    TpaConnectionInit, SubscriptionUpdate, DisplayRequest, DashboardContentUpdate, DashboardModeChange,
    DashboardSystemUpdate, AudioPlay, AudioStop, AppPhotoRequest, RtmpStreamRequest, RtmpStreamStop,
    ManagedStreamRequest, ManagedStreamStop, StreamStatusCheck, LocationPollRequest, AppRgbLedControl,
    RequestWifiSetup, AppBroadcastMessage, AppDirectMessage, AppRoomJoin, AppRoomLeave, AppUserDiscovery,
    OwnershipRelease, AppPing, AppPong, AudioStreamStart, AudioStreamEnd,
)  # fmt: skip
