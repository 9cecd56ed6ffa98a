"""What an app asks for and waits for: sound, photos, video, a position, light, other users.

Rules: every request has an id that cannot be guessed and a deadline; it ends with an answer, a timeout or the loss of
the connection, never in silence. Ids are made by the caller's `new_id`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlencode
from uuid import uuid4

from glassbridge.app.errors import ConnectionLost, RequestTimeout, StreamFailed
from wire.messages.app_to_cloud import (
    AppBroadcastMessage,
    AppDirectMessage,
    AppPhotoRequest,
    AppRgbLedControl,
    AppRoomJoin,
    AppRoomLeave,
    AppToCloud,
    AudioPlay,
    AudioStop,
    LocationPollRequest,
    RoomConfig,
    RtmpStreamRequest,
    RtmpStreamStop,
    StreamStatusCheck,
)
from wire.messages.cloud_to_app import AppAudioPlayResponse, AppRtmpStreamStatus, StreamStatusCheckResponse
from wire.messages.glasses_to_cloud import LocationUpdate

#: How long the wire waits (sections 3.10.3, 3.10.4, 3.10.6, 3.10.8), in seconds.
PLAY_TIMEOUT = 60.0
PHOTO_TIMEOUT = 30.0
LOCATION_TIMEOUT = 15.0
MESSAGE_TIMEOUT = 15.0
#: The cloud itself answers at once; what the glasses say of the stream comes later, as its status.
STREAM_TIMEOUT = 10.0
#: Requests one session may have open; more means that the app forgets to wait.
OPEN_MAX = 64

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Photo:
    """A picture from the glasses."""

    data: bytes
    content_type: str
    filename: str


@dataclass(frozen=True, slots=True)
class PlayResult:
    """How a sound ended. `duration` in milliseconds, where the phone told."""

    success: bool
    error: str | None
    duration: float | None


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The app's video stream as the cloud knows it. `status`: initializing, connecting, active, reconnecting, ..."""

    stream_id: str
    status: str
    url: str


class Pending:
    """Requests that wait for an answer, by id."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[Any]] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    async def ask(
        self, request_id: str, ask: Callable[[], Awaitable[None]], timeout: float, what: str
    ) -> Any:
        """Sends and waits. Raises RequestTimeout, ConnectionLost, NotConnected, or what the answer was failed with."""
        if len(self._waiting) >= OPEN_MAX:
            raise RequestTimeout(f"{what}: {OPEN_MAX} requests are open already; wait for some of them")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = answer
        try:
            await ask()
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise RequestTimeout(f"{what}: no answer within {timeout:.0f} s") from None
        finally:
            del self._waiting[request_id]

    def resolve(self, request_id: str, value: object) -> bool:
        """The answer came. False when nobody waits for it (any more)."""
        answer = self._waiting.get(request_id)
        if answer is None or answer.done():
            return False
        answer.set_result(value)
        return True

    def fail(self, request_id: str, error: Exception) -> bool:
        answer = self._waiting.get(request_id)
        if answer is None or answer.done():
            return False
        answer.set_exception(error)
        return True

    def lose(self, why: str) -> None:
        """The connection is gone: answers to these requests will not come."""
        for request_id in tuple(self._waiting):
            self.fail(request_id, ConnectionLost(f"{why} while an answer was awaited"))


class _Asker:
    def __init__(
        self,
        send: Callable[[AppToCloud], Awaitable[None]],
        pending: Pending,
        package_name: str,
        session_id: str,
    ) -> None:
        self._send = send
        self._pending = pending
        self._who: dict[str, Any] = {"package_name": package_name, "session_id": session_id}

    async def _ask(self, request_id: str, message: AppToCloud, timeout: float, what: str) -> Any:
        return await self._pending.ask(request_id, lambda: self._send(message), timeout, what)


class Audio(_Asker):
    """Sound on the phone or the glasses."""

    def __init__(
        self,
        send: Callable[[AppToCloud], Awaitable[None]],
        pending: Pending,
        package_name: str,
        session_id: str,
        cloud_url: Callable[[], str],
    ) -> None:
        super().__init__(send, pending, package_name, session_id)
        self._cloud_url = cloud_url

    async def play(
        self, url: str, *, volume: float = 1.0, stop_other_audio: bool = True, track: int = 0
    ) -> PlayResult:
        """Plays the sound at `url` and waits for its end. Raises RequestTimeout after 60 s."""
        request_id = f"audio_req_{uuid4().hex}"
        message = AudioPlay(
            **self._who, request_id=request_id, audio_url=url, volume=volume,
            stop_other_audio=stop_other_audio, track_id=track,
        )  # fmt: skip
        reply: AppAudioPlayResponse = await self._ask(request_id, message, PLAY_TIMEOUT, "playing audio")
        return PlayResult(reply.success, reply.error, reply.duration)

    async def speak(self, text: str, *, voice: str | None = None) -> PlayResult:
        """Speaks `text` through the cloud's speech synthesis, on track 2 as the TypeScript SDK does."""
        query = {"text": text} | ({"voice_id": voice} if voice else {})
        return await self.play(f"{self._cloud_url()}/api/tts?{urlencode(query)}", track=2)

    async def stop(self, *, track: int | None = None) -> None:
        await self._send(AudioStop(**self._who, track_id=track))


#: There is one video stream for each app: these stand for the ids that its messages lack.
_STREAM_BEGINS, _STREAM_CHECKED = "stream begins", "stream checked"


class Camera(_Asker):
    """Photos, and video to a server of the app's own.

    `photos` outlive a connection (they come over HTTP); what is asked about video is lost with it (`pending`).
    """

    def __init__(
        self,
        send: Callable[[AppToCloud], Awaitable[None]],
        pending: Pending,
        photos: Pending,
        package_name: str,
        session_id: str,
    ) -> None:
        super().__init__(send, photos, package_name, session_id)
        self._video = pending

    async def start_stream(
        self,
        url: str,
        *,
        video: dict[str, Any] | None = None,
        audio: dict[str, Any] | None = None,
        sound: bool | None = None,
    ) -> str:
        """Streams video to the RTMP server at `url`; the stream's id. An earlier stream of this app ends.

        The glasses go on from there: `session.on_stream_status` tells. Raises StreamFailed when the cloud refuses,
        RequestTimeout after 10 s.
        """
        request = RtmpStreamRequest(**self._who, rtmp_url=url, video=video, audio=audio, sound=sound)
        begun: str = await self._video.ask(
            _STREAM_BEGINS, lambda: self._send(request), STREAM_TIMEOUT, "starting the video stream"
        )
        return begun

    async def stop_stream(self, stream_id: str | None = None) -> None:
        """Ends this stream, or whichever this app has."""
        await self._send(RtmpStreamStop(**self._who, stream_id=stream_id))

    async def stream(self) -> StreamInfo | None:
        """The stream of this app that runs now, also one from before a restart of the app. Raises RequestTimeout."""
        reply: StreamStatusCheckResponse = await self._video.ask(
            _STREAM_CHECKED,
            lambda: self._send(StreamStatusCheck(**self._who)),
            STREAM_TIMEOUT,
            "asking for the video stream",
        )
        info = reply.stream_info
        if not reply.has_active_stream or info is None:
            return None
        return StreamInfo(str(info.get("streamId")), str(info.get("status")), str(info.get("rtmpUrl")))

    def stream_told(self, status: AppRtmpStreamStatus) -> None:
        """For the session: a status came."""
        if status.status == "error" and not status.stream_id:
            self._video.fail(_STREAM_BEGINS, StreamFailed(status.error_details or "no reason was given"))
        elif status.status == "initializing":
            self._video.resolve(_STREAM_BEGINS, status.stream_id)

    def stream_checked(self, reply: StreamStatusCheckResponse) -> None:
        """For the session: the answer to `stream`."""
        self._video.resolve(_STREAM_CHECKED, reply)

    async def take_photo(
        self,
        *,
        size: Literal["small", "medium", "large", "full"] = "medium",
        compress: Literal["none", "medium", "heavy"] = "none",
        save_to_gallery: bool = False,
    ) -> Photo:
        """One photo. Raises PhotoFailed with the glasses' reason, RequestTimeout after 30 s."""
        request_id = f"photo_req_{uuid4().hex}"
        message = AppPhotoRequest(
            **self._who, request_id=request_id, size=size, compress=compress, save_to_gallery=save_to_gallery
        )
        photo: Photo = await self._ask(request_id, message, PHOTO_TIMEOUT, "taking a photo")
        return photo


class Locator(_Asker):
    """One position, asked for."""

    async def poll(self, accuracy: str = "standard") -> LocationUpdate:
        """A fix of at least this accuracy (`wire.streams.LOCATION_RATES`). Raises RequestTimeout after 15 s.

        The answer travels on the location stream: keep an `on_location` handler, or be asked for the permission.
        """
        correlation_id = f"poll_{uuid4().hex}"
        message = LocationPollRequest(**self._who, correlation_id=correlation_id, accuracy=accuracy)
        fix: LocationUpdate = await self._ask(
            correlation_id, message, LOCATION_TIMEOUT, "asking for the position"
        )
        return fix


class Led(_Asker):
    """The LED of the glasses."""

    async def on(
        self,
        color: Literal["red", "green", "blue", "orange", "white"] = "red",
        *,
        on: float = 1.0,
        off: float = 0.0,
        count: int = 1,
    ) -> None:
        """Lights `count` times for `on` seconds with `off` seconds between."""
        await self._send(
            AppRgbLedControl(
                **self._who, request_id=f"led_req_{uuid4().hex}", action="on", color=color,
                ontime=on * 1000, offtime=off * 1000, count=count,
            )
        )  # fmt: skip

    async def off(self) -> None:
        await self._send(AppRgbLedControl(**self._who, request_id=f"led_req_{uuid4().hex}", action="off"))


class Peers(_Asker):
    """Other users of the same app."""

    async def broadcast(self, payload: Any, *, room: str | None = None) -> None:
        """To everybody else (in `room`) who uses this app now."""
        await self._send(
            AppBroadcastMessage(**self._who, payload=payload, message_id=f"msg_{uuid4().hex}", room_id=room)
        )

    async def send(self, user_id: str, payload: Any) -> bool:
        """To one user; whether it reached them."""
        message_id = f"msg_{uuid4().hex}"
        message = AppDirectMessage(
            **self._who, target_user_id=user_id, payload=payload, message_id=message_id
        )
        return bool(await self._ask(message_id, message, MESSAGE_TIMEOUT, "sending a message"))

    async def join(self, room: str, *, max_users: int | None = None, private: bool | None = None) -> None:
        config = RoomConfig(max_users=max_users, is_private=private)
        await self._send(AppRoomJoin(**self._who, room_id=room, room_config=config))

    async def leave(self, room: str) -> None:
        await self._send(AppRoomLeave(**self._who, room_id=room))
