"""Questions that apps ask the glasses, each with exactly one terminal answer: photo, audio, LED, location, video.

Rules: a request is known by the app's own id together with its package; a repeated id starts nothing new; what cannot
be done is said at once, what takes too long is said at its deadline; a late result after that is dropped. Sources:
wire spec 3.10.3-3.10.7, 6.3, 6.9; failure catalogue MED-01, MED-02.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from wire.errors import ErrorCode
from wire.messages import app_to_cloud as app
from wire.messages import cloud_to_app as to_app
from wire.messages import cloud_to_glasses as to_glasses
from wire.messages import glasses_to_cloud as glasses
from wire.messages.base import Message
from wire.streams import LOCATION_RATES

#: Requests of one session that may be open at once; an app has one or two.
OPEN_MAX: Final = 256
#: Answered ids that are remembered, so that a repetition or a late result changes nothing.
REMEMBERED_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class RequestTiming:
    """Seconds; wire spec 6.3."""

    photo: float = 30.0
    audio: float = 60.0
    led: float = 30.0  # nobody waits; this only bounds the memory
    location: float = 15.0
    stream_keep_alive: float = 15.0
    stream_ack: float = 5.0
    stream_misses: int = 3
    stream_silence: float = 60.0


#: How old a cached position may be to answer a poll (wire spec 3.10.6). Seconds.
FRESH_ENOUGH: Final[Mapping[str, float]] = {
    "realtime": 1.0,
    "high": 10.0,
    "tenMeters": 30.0,
    "hundredMeters": 30.0,
    "kilometer": 60.0,
    "threeKilometers": 300.0,
    "reduced": 900.0,
    "standard": 900.0,
}

#: What a phone says about a stream -> what an app is told (wire spec 3.10.5).
STREAM_WORDS: Final[Mapping[str, str]] = {
    "initializing": "initializing",
    "connecting": "initializing",
    "reconnecting": "initializing",
    "reconnected": "active",
    "active": "active",
    "streaming": "active",
    "stopping": "stopping",
    "stopped": "stopped",
    "disconnected": "stopped",
    "error": "error",
    "reconnect_failed": "error",
    "timeout": "error",
}
_FINAL_WORDS: Final = frozenset({"stopped", "error", "timeout"})


@dataclass(frozen=True, slots=True)
class ToGlasses:
    message: Message


@dataclass(frozen=True, slots=True)
class ToApp:
    """A bare message to one app."""

    package: str
    message: Message


@dataclass(frozen=True, slots=True)
class LocationTo:
    """Answer a poll: this fix, wrapped, to this app."""

    package: str
    fix: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PhotoFailed:
    """Post the failure to the app's photo route, for SDK 2 hears of it in no other way (wire spec 4.6)."""

    package: str
    request_id: str
    url: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A request ended badly; an error frame names it."""

    package: str
    request_id: str
    code: ErrorCode
    message: str


Effect: TypeAlias = ToGlasses | ToApp | LocationTo | PhotoFailed | Failed
Kind: TypeAlias = Literal["photo", "audio", "led", "location"]
_KINDS: Final[frozenset[Kind]] = frozenset({"photo", "audio", "led", "location"})


@dataclass(slots=True)
class _Open:
    kind: Kind
    package: str
    request_id: str
    session_id: str
    expires_at: float
    url: str = ""


@dataclass(slots=True)
class _Stream:
    stream_id: str
    package: str
    session_id: str
    url: str
    started_at: str
    status: str
    heard_at: float
    keep_alive_at: float
    ack_id: str | None = None
    ack_by: float | None = None
    misses: int = 0


class Requests:
    """The open requests of one session. `new_id` makes unguessable ids."""

    def __init__(
        self, user_id: str, *, new_id: Callable[[], str], timing: RequestTiming | None = None
    ) -> None:
        self._user_id = user_id
        self._new_id = new_id
        self._timing = timing or RequestTiming()
        self._open: OrderedDict[tuple[Kind, str], _Open] = OrderedDict()
        self._done: OrderedDict[tuple[Kind, str, str], None] = OrderedDict()
        self._streams: dict[str, _Stream] = {}
        self._fix: tuple[float, dict[str, Any]] | None = None
        self.has_glasses = False

    # ------------------------------------------------------------------------------------------------ photo

    def photo(
        self, package: str, session_id: str, url: str, request: app.AppPhotoRequest, now: float
    ) -> list[Effect]:
        """`url`: where the glasses upload to unless the app named another place."""
        target = request.custom_webhook_url or url
        opened = self._begin(
            "photo", package, request.request_id, session_id, self._timing.photo, now, target
        )
        if opened is None:
            return []
        if not self.has_glasses:
            return self._photo_failed(
                opened, ErrorCode.GLASSES_DISCONNECTED, "the glasses are not connected at the moment"
            )
        return [
            ToGlasses(
                to_glasses.PhotoRequest(
                    session_id=self._user_id,
                    request_id=request.request_id,
                    app_id=package,
                    webhook_url=target,
                    auth_token=request.auth_token,
                    size=request.size,
                    compress=request.compress,
                    save_to_gallery=request.save_to_gallery,
                    silent=request.silent,
                    sound=request.sound,
                    flash=request.flash,
                    exposure_time_ns=request.exposure_time_ns,
                )
            )
        ]

    def refuse_photo(
        self,
        package: str,
        session_id: str,
        url: str,
        request: app.AppPhotoRequest,
        code: ErrorCode,
        message: str,
        now: float,
    ) -> list[Effect]:
        """The app may not, or these glasses cannot."""
        target = request.custom_webhook_url or url
        opened = self._begin(
            "photo", package, request.request_id, session_id, self._timing.photo, now, target
        )
        return [] if opened is None else self._photo_failed(opened, code, message)

    def photo_answered(self, answer: glasses.PhotoResponse) -> list[Effect]:
        """The phone's verdict. A success needs no word of ours: the upload is the answer, SDK 2 warns of any other, and
        SDK 3 would take it for the whole answer and lose a photo that is still on its way."""
        opened = self._end("photo", answer.request_id)
        if opened is None or answer.success:
            return []
        code = answer.error_code or (answer.error.code if answer.error else "UNKNOWN")
        message = answer.error_message or (answer.error.message if answer.error else "")
        return self._photo_failed(opened, code, message or "the glasses could not take the photo")

    def photo_uploaded(self, request_id: str) -> str | None:
        """A photo for this request has arrived; returns the package it is for, if the request is open."""
        opened = self._open.get(("photo", request_id))
        return None if opened is None else opened.package

    def _photo_failed(self, opened: _Open, code: str, message: str) -> list[Effect]:
        self._forget(opened)
        return [
            PhotoFailed(opened.package, opened.request_id, opened.url, str(code), message),
            ToApp(
                opened.package,
                to_app.AppPhotoResponse(
                    session_id=opened.session_id,
                    request_id=opened.request_id,
                    success=False,
                    error={"code": str(code), "message": message},
                ),
            ),
        ]

    # ------------------------------------------------------------------------------------------------ audio, LED, Wi-Fi

    def play(self, package: str, session_id: str, request: app.AudioPlay, now: float) -> list[Effect]:
        opened = self._begin("audio", package, request.request_id, session_id, self._timing.audio, now)
        if opened is None:
            return []
        if not self.has_glasses:
            return self._audio_failed(opened, "the glasses are not connected at the moment")
        return [
            ToGlasses(
                to_glasses.AudioPlayRequest(
                    session_id=self._user_id,
                    request_id=request.request_id,
                    app_id=package,
                    package_name=package,
                    audio_url=request.audio_url,
                    volume=request.volume,
                    stop_other_audio=request.stop_other_audio,
                    track_id=request.track_id,
                )
            )
        ]

    def audio_answered(self, answer: glasses.AudioPlayResponse) -> list[Effect]:
        opened = self._end("audio", answer.request_id)
        if opened is None:
            return []
        return [
            ToApp(
                opened.package,
                to_app.AppAudioPlayResponse(
                    session_id=opened.session_id,
                    request_id=opened.request_id,
                    success=answer.success,
                    error=answer.error,
                    duration=answer.duration,
                ),
            )
        ]

    def _audio_failed(self, opened: _Open, message: str) -> list[Effect]:
        self._forget(opened)
        return [
            ToApp(
                opened.package,
                to_app.AppAudioPlayResponse(
                    session_id=opened.session_id, request_id=opened.request_id, success=False, error=message
                ),
            )
        ]

    def stop_audio(self, package: str, request: app.AudioStop) -> list[Effect]:
        """Nobody waits for an answer."""
        return [
            ToGlasses(
                to_glasses.AudioStopRequest(
                    session_id=self._user_id, app_id=package, package_name=package, track_id=request.track_id
                )
            )
        ]

    def led(self, package: str, session_id: str, request: app.AppRgbLedControl, now: float) -> list[Effect]:
        opened = self._begin("led", package, request.request_id, session_id, self._timing.led, now)
        if opened is None:
            return []
        if not self.has_glasses:
            return self._led_failed(opened, "the glasses are not connected at the moment")
        return [
            ToGlasses(
                to_glasses.RgbLedControl(
                    session_id=self._user_id,
                    request_id=request.request_id,
                    app_id=package,
                    package_name=package,
                    action=request.action,
                    color=request.color,
                    ontime=request.ontime,
                    offtime=request.offtime,
                    count=request.count,
                )
            )
        ]

    def led_answered(self, answer: glasses.RgbLedControlResponse) -> list[Effect]:
        opened = self._end("led", answer.request_id)
        if opened is None:
            return []
        return [
            ToApp(
                opened.package,
                to_app.AppRgbLedControlResponse(
                    session_id=opened.session_id,
                    request_id=opened.request_id,
                    success=answer.success,
                    error=answer.error,
                ),
            )
        ]

    def _led_failed(self, opened: _Open, message: str) -> list[Effect]:
        self._forget(opened)
        return [
            ToApp(
                opened.package,
                to_app.AppRgbLedControlResponse(
                    session_id=opened.session_id, request_id=opened.request_id, success=False, error=message
                ),
            )
        ]

    def wifi_setup(self, package: str, request: app.RequestWifiSetup) -> list[Effect]:
        return [ToGlasses(to_glasses.ShowWifiSetup(reason=request.reason, app_package_name=package))]

    # ------------------------------------------------------------------------------------------------ location

    def poll_location(
        self, package: str, session_id: str, request: app.LocationPollRequest, now: float
    ) -> list[Effect]:
        accuracy = request.accuracy if request.accuracy in LOCATION_RATES else "standard"
        if self._fix is not None and now - self._fix[0] <= FRESH_ENOUGH[accuracy]:
            return [LocationTo(package, {**self._fix[1], "correlationId": request.correlation_id})]
        opened = self._begin(
            "location", package, request.correlation_id, session_id, self._timing.location, now
        )
        if opened is None:
            return []
        if not self.has_glasses:
            self._forget(opened)
            return [
                Failed(
                    package,
                    request.correlation_id,
                    ErrorCode.GLASSES_DISCONNECTED,
                    "no recent position, and the glasses are not connected at the moment",
                )
            ]
        return [
            ToGlasses(
                to_glasses.RequestSingleLocation(accuracy=accuracy, correlation_id=request.correlation_id)
            )
        ]

    def location(self, fix: dict[str, Any], correlation_id: str | None, now: float) -> list[Effect]:
        """A position fix came in; with a correlation id it answers a poll."""
        self._fix = (now, {k: v for k, v in fix.items() if k != "correlationId"})
        opened = self._end("location", correlation_id) if correlation_id else None
        if opened is None:
            return []
        return [LocationTo(opened.package, {**self._fix[1], "correlationId": opened.request_id})]

    @property
    def last_location(self) -> dict[str, Any] | None:
        """The newest fix, as an event object."""
        return None if self._fix is None else self._fix[1]

    # ------------------------------------------------------------------------------------------------ video

    def start_stream(
        self, package: str, session_id: str, request: app.RtmpStreamRequest, started_at: str, now: float
    ) -> list[Effect]:
        if not request.rtmp_url.startswith(("rtmp://", "rtmps://")):
            return [
                self._stream_word(package, session_id, "", "error", "rtmpUrl must be rtmp:// or rtmps://")
            ]
        if not self.has_glasses:
            return [
                self._stream_word(
                    package, session_id, "", "error", "the glasses are not connected at the moment"
                )
            ]
        effects = self.stop_streams(package)
        stream = _Stream(
            self._new_id(),
            package,
            session_id,
            request.rtmp_url,
            started_at,
            "initializing",
            now,
            now + self._timing.stream_keep_alive,
        )
        self._streams[stream.stream_id] = stream
        # Each client generation knows one of the two names and ignores the other (wire spec 2.4).
        effects.append(
            ToGlasses(
                to_glasses.StartRtmpStream(
                    session_id=self._user_id,
                    rtmp_url=request.rtmp_url,
                    app_id=package,
                    stream_id=stream.stream_id,
                    video=request.video,
                    audio=request.audio,
                    stream=request.stream,
                )
            )
        )
        effects.append(
            ToGlasses(
                to_glasses.StartStream(
                    stream_url=request.rtmp_url,
                    stream_id=stream.stream_id,
                    app_id=package,
                    video=request.video,
                    audio=request.audio,
                    sound=request.sound,
                )
            )
        )
        effects.append(self._stream_word(package, session_id, stream.stream_id, "initializing"))
        return effects

    def stop_stream(self, package: str, request: app.RtmpStreamStop) -> list[Effect]:
        """Stop one stream of the app, or all without an id. Only its own."""
        if request.stream_id and self._owner(request.stream_id) not in (package, None):
            return []
        effects = self.stop_streams(package, only=request.stream_id)
        if not effects:  # unknown to us, perhaps not to the glasses
            effects = self._stop_words(package, request.stream_id or "")
        return effects

    def stop_streams(self, package: str, only: str | None = None) -> list[Effect]:
        effects: list[Effect] = []
        for stream in [
            s for s in self._streams.values() if s.package == package and only in (None, s.stream_id)
        ]:
            del self._streams[stream.stream_id]
            effects += self._stop_words(package, stream.stream_id)
            effects.append(self._stream_word(package, stream.session_id, stream.stream_id, "stopped"))
        return effects

    def stream_status(
        self, status: glasses.RtmpStreamStatus | glasses.StreamStatus, now: float
    ) -> list[Effect]:
        stream = self._streams.get(status.stream_id)
        if stream is None:
            return []
        stream.heard_at = now
        word = STREAM_WORDS.get(status.status.lower(), "error")
        if word == stream.status and status.stats is None:
            return []  # never two identical statuses in a row (MED-02)
        stream.status = word
        if word in _FINAL_WORDS:
            del self._streams[stream.stream_id]
        stats = None if status.stats is None else status.stats.model_dump(by_alias=True, exclude_none=True)
        return [
            self._stream_word(
                stream.package, stream.session_id, stream.stream_id, word, status.error_details, stats
            )
        ]

    def keep_alive_answered(self, answer: glasses.KeepAliveAck, now: float) -> list[Effect]:
        for stream in self._streams.values():
            if stream.ack_id == answer.ack_id:
                stream.ack_id = stream.ack_by = None
                stream.misses, stream.heard_at = 0, now
        return []

    def managed_stream(self, package: str, session_id: str) -> list[Effect]:
        """There is no managed streaming service here; the SDK rejects its promise on `error`."""
        return [
            ToApp(
                package,
                to_app.ManagedStreamStatus(
                    session_id=session_id,
                    stream_id="",
                    status="error",
                    message="this cloud offers no managed streaming; use startStream with an RTMP URL",
                ),
            )
        ]

    def managed_stream_stopped(self, package: str, session_id: str) -> list[Effect]:
        return [
            ToApp(
                package,
                to_app.ManagedStreamStatus(session_id=session_id, stream_id="", status="stopped"),
            )
        ]

    def check_stream(self, package: str, session_id: str) -> list[Effect]:
        mine = next((s for s in self._streams.values() if s.package == package), None)
        info = None
        if mine is not None:
            info = {
                "type": "unmanaged",
                "streamId": mine.stream_id,
                "status": mine.status,
                "createdAt": mine.started_at,
                "rtmpUrl": mine.url,
                "requestingAppId": package,
            }
        return [
            ToApp(
                package,
                to_app.StreamStatusCheckResponse(
                    session_id=session_id, has_active_stream=mine is not None, stream_info=info
                ),
            )
        ]

    def app_returned(self, package: str) -> list[Effect]:
        """The app has reconnected: the present status of its stream, once (MED-02)."""
        return [
            self._stream_word(package, s.session_id, s.stream_id, s.status)
            for s in self._streams.values()
            if s.package == package
        ]

    # ------------------------------------------------------------------------------------------------ ends

    def app_gone(self, package: str) -> list[Effect]:
        """The app has stopped: nothing of it goes on, nobody waits for answers."""
        for opened in [o for o in self._open.values() if o.package == package]:
            self._forget(opened)
        return [e for e in self.stop_streams(package) if isinstance(e, ToGlasses)]

    @property
    def deadline(self) -> float | None:
        times = [o.expires_at for o in self._open.values()]
        for stream in self._streams.values():
            times += [stream.keep_alive_at, stream.heard_at + self._timing.stream_silence]
            if stream.ack_by is not None:
                times.append(stream.ack_by)
        return min(times, default=None)

    def handle_deadline(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for opened in [o for o in self._open.values() if now >= o.expires_at]:
            effects += self._timed_out(opened)
        for stream in list(self._streams.values()):
            effects += self._keep_alive(stream, now)
        return effects

    def _timed_out(self, opened: _Open) -> list[Effect]:
        match opened.kind:
            case "photo":
                return self._photo_failed(opened, ErrorCode.TIMEOUT, "no photo within 30 s")
            case "audio":
                return self._audio_failed(opened, "no answer from the glasses within 60 s")
            case "led":
                self._forget(opened)
                return []
            case "location":
                self._forget(opened)
                return [
                    Failed(opened.package, opened.request_id, ErrorCode.TIMEOUT, "no position within 15 s")
                ]

    def _keep_alive(self, stream: _Stream, now: float) -> list[Effect]:
        timing = self._timing
        if stream.ack_by is not None and now >= stream.ack_by:
            stream.ack_id = stream.ack_by = None
            stream.misses += 1
        if stream.misses >= timing.stream_misses or now >= stream.heard_at + timing.stream_silence:
            del self._streams[stream.stream_id]
            return [
                *self._stop_words(stream.package, stream.stream_id),
                self._stream_word(
                    stream.package,
                    stream.session_id,
                    stream.stream_id,
                    "timeout",
                    "the glasses do not answer",
                ),
            ]
        if now < stream.keep_alive_at:
            return []
        stream.keep_alive_at = now + timing.stream_keep_alive
        stream.ack_id, stream.ack_by = self._new_id(), now + timing.stream_ack
        return [
            ToGlasses(
                to_glasses.KeepRtmpStreamAlive(
                    session_id=self._user_id, stream_id=stream.stream_id, ack_id=stream.ack_id
                )
            ),
            ToGlasses(to_glasses.KeepStreamAlive(stream_id=stream.stream_id, ack_id=stream.ack_id)),
        ]

    # ------------------------------------------------------------------------------------------------ another node

    def export(self, now: float) -> dict[str, Any]:
        """What is open, for the node that goes on with it: no app waits for an answer that nobody owes it any more.

        Times are seconds from now. Keep-alives under way are asked anew; answered ids are not carried over.
        """
        return {
            "open": [
                [o.kind, o.package, o.request_id, o.session_id, o.expires_at - now, o.url]
                for o in self._open.values()
            ],
            "streams": [
                [s.stream_id, s.package, s.session_id, s.url, s.started_at, s.status, now - s.heard_at]
                for s in self._streams.values()
            ],
            "fix": None if self._fix is None else [now - self._fix[0], self._fix[1]],
        }

    def restore(self, state: Mapping[str, Any], now: float) -> None:
        """Go on with what another node has exported; what ran out on the way is answered at the next deadline. Raises
        TypeError or ValueError for what cannot be read."""
        for kind, package, request_id, session_id, left, url in list(state.get("open", ()))[:OPEN_MAX]:
            if kind not in _KINDS:
                continue  # of a version that knows more
            self._begin(kind, str(package), str(request_id), str(session_id), float(left), now, str(url))
        for stream_id, package, session_id, url, started_at, status, silent in state.get("streams", ()):
            self._streams[str(stream_id)] = _Stream(
                str(stream_id),
                str(package),
                str(session_id),
                str(url),
                str(started_at),
                str(status),
                heard_at=now - float(silent),
                keep_alive_at=now,
            )
        fix = state.get("fix")
        if fix is not None:
            self._fix = (now - float(fix[0]), dict(fix[1]))

    # ------------------------------------------------------------------------------------------------ inside

    def _begin(
        self,
        kind: Kind,
        package: str,
        request_id: str,
        session_id: str,
        patience: float,
        now: float,
        url: str = "",
    ) -> _Open | None:
        """Open a request; None if this id is open or was answered already."""
        if (kind, request_id) in self._open or (kind, package, request_id) in self._done:
            return None
        if (
            len(self._open) >= OPEN_MAX
        ):  # an app that never stops asking loses its oldest answer, nobody else's
            self._forget(
                next(
                    (o for o in self._open.values() if o.package == package), next(iter(self._open.values()))
                )
            )
        opened = _Open(kind, package, request_id, session_id, now + patience, url)
        self._open[kind, request_id] = opened
        return opened

    def _end(self, kind: Kind, request_id: str) -> _Open | None:
        opened = self._open.get((kind, request_id))
        if opened is not None:
            self._forget(opened)
        return opened

    def _forget(self, opened: _Open) -> None:
        self._open.pop((opened.kind, opened.request_id), None)
        self._done[opened.kind, opened.package, opened.request_id] = None
        while len(self._done) > REMEMBERED_MAX:
            self._done.popitem(last=False)

    def _owner(self, stream_id: str) -> str | None:
        stream = self._streams.get(stream_id)
        return None if stream is None else stream.package

    def _stop_words(self, package: str, stream_id: str) -> list[Effect]:
        return [
            ToGlasses(
                to_glasses.StopRtmpStream(session_id=self._user_id, app_id=package, stream_id=stream_id)
            ),
            ToGlasses(to_glasses.StopStream(stream_id=stream_id, app_id=package)),
        ]

    def _stream_word(
        self,
        package: str,
        session_id: str,
        stream_id: str,
        status: str,
        details: str | None = None,
        stats: dict[str, Any] | None = None,
    ) -> ToApp:
        return ToApp(
            package,
            to_app.AppRtmpStreamStatus(
                session_id=session_id,
                stream_id=stream_id,
                status=status,
                error_details=details,
                stats=stats,
                app_id=package,
            ),
        )
