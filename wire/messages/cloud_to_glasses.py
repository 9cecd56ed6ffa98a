"""Everything the cloud says to a glasses client on /glasses-ws.

Rules: source is the wire specification, section 2.4. Supersets serve every client generation at once: the
microphone message carries both the 2025 and the 2026 member, the acknowledgement carries `userSession`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from wire.messages.base import Delivery, Direction, Id, Message, Package, Part, Registry, registry


class CloudToGlasses(Message):
    direction: ClassVar[Direction] = Direction.CLOUD_TO_GLASSES


class UserSession(Part):
    """Snapshot that 2025 clients and the TypeScript test client dereference."""

    user_id: str
    session_id: str
    start_time: str
    active_app_sessions: list[str] = Field(default_factory=list)
    loading_apps: list[str] = Field(default_factory=list)
    app_subscriptions: dict[str, list[Any]] = Field(default_factory=dict)
    requires_audio: bool = False
    minimum_transcription_languages: list[str] = Field(default_factory=list)
    is_transcribing: bool = False


class LinkWelcome(Part):
    """Answer to our edge's link announcement."""

    version: Literal[1] = 1
    epoch: str
    offset: int = Field(ge=0, description="the cloud goes on after this offset of its log")
    recovered: bool = Field(description="whether nothing is missing between the edge's offset and that one")
    peer_offset: int = Field(0, ge=0, description="the edge has to go on after this offset of its own log")
    peer_recovered: bool = Field(False, description="whether the cloud missed nothing of the edge's log")


class ConnectionAck(CloudToGlasses):
    about: ClassVar[str] = "The session is up; sent at open and again after connection_init."
    type: Literal["connection_ack"] = "connection_ack"
    session_id: str
    user_session: UserSession
    link: LinkWelcome | None = None


class ConnectionError_(CloudToGlasses):
    about: ClassVar[str] = "The connection is refused; a close follows."
    type: Literal["connection_error"] = "connection_error"
    code: str | None = None
    message: str


class AuthError(CloudToGlasses):
    about: ClassVar[str] = "The credential is no longer good."
    type: Literal["auth_error"] = "auth_error"
    message: str


class AppStateChange(CloudToGlasses):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "The full list of apps and their states; replaces what the client knew."
    type: Literal["app_state_change"] = "app_state_change"
    session_id: str
    user_session: UserSession


class MicrophoneStateChange(CloudToGlasses):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "Microphone on or off; both generations' members."
    type: Literal["microphone_state_change"] = "microphone_state_change"
    session_id: str
    is_microphone_enabled: bool
    required_data: list[str]
    bypass_vad: bool = True


class DisplayEvent(CloudToGlasses):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "Show a layout; without `view` phones drop it."
    type: Literal["display_event"] = "display_event"
    package_name: Package
    view: Literal["main", "dashboard"]
    layout: dict[str, Any]
    duration_ms: float | None = None
    display_id: str | None = Field(
        None, description="link extension: named again in glassbridge_display_result"
    )

    def latest_key(self) -> str:
        return f"display_event:{self.view}"


class SettingsUpdate(CloudToGlasses):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "System settings, pushed or as a reply."
    type: Literal["settings_update"] = "settings_update"
    session_id: str | None = None
    success: bool | None = None
    message: str | None = None
    settings: dict[str, Any]


class SetLocationTier(CloudToGlasses):
    delivery: ClassVar[Delivery] = Delivery.LATEST
    about: ClassVar[str] = "How precise background location has to be."
    type: Literal["set_location_tier"] = "set_location_tier"
    tier: str


class RequestSingleLocation(CloudToGlasses):
    life: ClassVar[float | None] = 15.0  # the poll has timed out by then (wire spec 6.3)
    about: ClassVar[str] = "One fix, answered with the correlation id."
    type: Literal["request_single_location"] = "request_single_location"
    accuracy: str
    correlation_id: Id


class AppStarted(CloudToGlasses):
    about: ClassVar[str] = "An app runs."
    type: Literal["app_started"] = "app_started"
    package_name: Package


class AppStoppedNotice(CloudToGlasses):
    about: ClassVar[str] = "An app no longer runs."
    type: Literal["app_stopped"] = "app_stopped"
    package_name: Package


class PhotoRequest(CloudToGlasses):
    life: ClassVar[float | None] = 30.0  # the request has timed out by then (wire spec 6.3)
    about: ClassVar[str] = "Take a photo and upload it to `webhookUrl`."
    type: Literal["photo_request"] = "photo_request"
    session_id: str
    request_id: Id
    app_id: Package
    webhook_url: str
    auth_token: str | None = Field(None, repr=False)
    size: str = "medium"
    compress: str = "none"
    save_to_gallery: bool | None = None
    silent: bool | None = None
    sound: bool | None = None
    flash: bool | None = None
    exposure_time_ns: float | None = None


class StartRtmpStream(CloudToGlasses):
    about: ClassVar[str] = "Start a video stream, 2025 name."
    type: Literal["start_rtmp_stream"] = "start_rtmp_stream"
    session_id: str
    rtmp_url: str
    app_id: Package
    stream_id: Id
    video: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None
    stream: dict[str, Any] | None = None


class StopRtmpStream(CloudToGlasses):
    about: ClassVar[str] = "Stop a video stream, 2025 name."
    type: Literal["stop_rtmp_stream"] = "stop_rtmp_stream"
    session_id: str
    app_id: Package
    stream_id: str


class KeepRtmpStreamAlive(CloudToGlasses):
    life: ClassVar[float | None] = 15.0  # the next one is due by then (wire spec 6.3)
    about: ClassVar[str] = "Keep-alive of a video stream, 2025 name."
    type: Literal["keep_rtmp_stream_alive"] = "keep_rtmp_stream_alive"
    session_id: str
    stream_id: str
    ack_id: Id


class StartStream(CloudToGlasses):
    about: ClassVar[str] = "Start a video stream, 2026 name."
    type: Literal["start_stream"] = "start_stream"
    stream_url: str
    stream_id: Id
    app_id: Package
    video: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None
    sound: bool | None = None
    flash: bool | None = None


class StopStream(CloudToGlasses):
    about: ClassVar[str] = "Stop a video stream, 2026 name."
    type: Literal["stop_stream"] = "stop_stream"
    stream_id: str
    app_id: Package | None = None


class KeepStreamAlive(CloudToGlasses):
    life: ClassVar[float | None] = 15.0  # the next one is due by then (wire spec 6.3)
    about: ClassVar[str] = "Keep-alive of a video stream, 2026 name."
    type: Literal["keep_stream_alive"] = "keep_stream_alive"
    stream_id: str
    ack_id: Id


class RgbLedControl(CloudToGlasses):
    life: ClassVar[float | None] = 5.0  # a late blink misleads
    about: ClassVar[str] = "Drive the LED; times in milliseconds."
    type: Literal["rgb_led_control"] = "rgb_led_control"
    session_id: str
    request_id: Id
    app_id: Package
    package_name: Package
    action: str
    color: str | None = None
    ontime: float | None = None
    offtime: float | None = None
    count: int | None = None


class AudioPlayRequest(CloudToGlasses):
    life: ClassVar[float | None] = 60.0  # the app has stopped waiting by then (wire spec 6.3)
    about: ClassVar[str] = "Play audio from a URL."
    type: Literal["audio_play_request"] = "audio_play_request"
    session_id: str
    request_id: Id
    app_id: Package
    package_name: Package
    audio_url: str
    volume: float | None = None
    stop_other_audio: bool | None = None
    track_id: int | None = None


class AudioStopRequest(CloudToGlasses):
    about: ClassVar[str] = "Stop an app's audio."
    type: Literal["audio_stop_request"] = "audio_stop_request"
    session_id: str
    app_id: Package
    package_name: Package
    track_id: int | None = None


class ShowWifiSetup(CloudToGlasses):
    about: ClassVar[str] = "Ask the wearer to set up Wi-Fi."
    type: Literal["show_wifi_setup"] = "show_wifi_setup"
    reason: str | None = None
    app_package_name: str | None = None


class PongToGlasses(CloudToGlasses):
    delivery: ClassVar[Delivery] = Delivery.LOSSY
    about: ClassVar[str] = "Answer to a ping."
    type: Literal["pong"] = "pong"
    sent_ms: float | None = Field(None, description="echo of the ping's clock")
    clock_ms: float | None = Field(None, description="the cloud's clock, for the offset between the two")


class PingToGlasses(CloudToGlasses):
    delivery: ClassVar[Delivery] = Delivery.LOSSY
    about: ClassVar[str] = "Application-level liveness towards our edge."
    type: Literal["ping"] = "ping"
    sent_ms: float | None = None


class MoveToAnotherNode(CloudToGlasses):
    about: ClassVar[str] = (
        "To our edge: this node of the cloud is about to go. Connect anew; the link resumes at another one."
    )
    type: Literal["glassbridge_move"] = "glassbridge_move"


class LinkAckToGlasses(CloudToGlasses):
    delivery: ClassVar[Delivery] = Delivery.LOSSY
    about: ClassVar[str] = "Link extension: all up to `linkAck` is processed; any frame may say so."
    type: Literal["glassbridge_ack"] = "glassbridge_ack"
    link_ack: int = Field(ge=0)


class LinkSkipToGlasses(CloudToGlasses):
    delivery: ClassVar[Delivery] = Delivery.LOSSY
    about: ClassVar[str] = "Link extension: what came before and at `linkOffset` was too old to deliver."
    type: Literal["glassbridge_skip"] = "glassbridge_skip"
    link_offset: int = Field(ge=0)


CLOUD_TO_GLASSES: Registry = registry(
    ConnectionAck, ConnectionError_, AuthError, AppStateChange, MicrophoneStateChange, DisplayEvent, SettingsUpdate,
    SetLocationTier, RequestSingleLocation, AppStarted, AppStoppedNotice, PhotoRequest, StartRtmpStream,
    StopRtmpStream, KeepRtmpStreamAlive, StartStream, StopStream, KeepStreamAlive, RgbLedControl, AudioPlayRequest,
    AudioStopRequest, ShowWifiSetup, PongToGlasses, PingToGlasses, MoveToAnotherNode, LinkAckToGlasses,
    LinkSkipToGlasses,
)  # fmt: skip
