"""Write apps for smart glasses in Python: the ideas of `@mentra/sdk` as asyncio and pydantic.

    from glassbridge.app import App, ButtonPress, Session

    app = App("org.example.hello", api_key="...", port=7010)

    @app.on_session
    async def hello(session: Session) -> None:
        await session.layouts.show_text_wall("Hello")

        async def pressed(event: ButtonPress) -> None:
            await session.layouts.show_text_wall(f"{event.button_id}: {event.press_type}")

        session.events.on_button_press(pressed)

    app.run()

Rules: an exception in a handler ends that one session and no other. Whatever is sent goes to the connection that is
up at that moment, and raises `NotConnected` when there is none. Durations are seconds.
"""

from glassbridge.app.errors import (
    AppError,
    ConnectionLost,
    NotConnected,
    PhotoFailed,
    RequestTimeout,
    StorageError,
    StreamFailed,
)
from glassbridge.app.events import (
    AudioChunk,
    Battery,
    ConnectionState,
    CustomMessage,
    Events,
    Location,
    Notification,
    NotificationDismissed,
    Transcription,
    Translation,
    VoiceActivity,
)
from glassbridge.app.requests import Photo, PlayResult, StreamInfo
from glassbridge.app.server import App, ToolCall
from glassbridge.app.session import Session, SessionState
from wire.messages.cloud_to_app import AppRtmpStreamStatus as StreamStatus
from wire.messages.glasses_to_cloud import ButtonPress, CalendarEvent, HeadPosition, TouchEvent

__all__ = [
    "App",
    "AppError",
    "AudioChunk",
    "Battery",
    "ButtonPress",
    "CalendarEvent",
    "ConnectionLost",
    "ConnectionState",
    "CustomMessage",
    "Events",
    "HeadPosition",
    "Location",
    "NotConnected",
    "Notification",
    "NotificationDismissed",
    "Photo",
    "PhotoFailed",
    "PlayResult",
    "RequestTimeout",
    "Session",
    "SessionState",
    "StorageError",
    "StreamFailed",
    "StreamInfo",
    "StreamStatus",
    "ToolCall",
    "TouchEvent",
    "Transcription",
    "Translation",
    "VoiceActivity",
]
