"""What a session asks its shell to do.

Rules: frozen and complete: a shell needs nothing else to perform them, and none of them blocks. Payloads are the bytes
of one JSON text; the same object may go to many connections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, TypeAlias

from cloud.core.app_lifecycle import AppReason, AppState, Stage
from cloud.core.pipe import Ident
from wire.effect import effect
from wire.messages.base import Delivery, Message


@effect
class SendToGlasses:
    connection_id: int
    payload: bytes = field(repr=False)
    delivery: Delivery
    key: str | None = None  # what a `latest` frame is the newest of


@effect
class CloseGlasses:
    connection_id: int
    code: int
    reason: str


@effect
class SendToApps:
    """One frame for all these connections. `about`: type or stream, for the trace. `ident` names a frame that must not
    be given twice to an app whose socket outlives the node that serves its session."""

    connection_ids: tuple[int, ...]
    payload: bytes = field(repr=False)
    delivery: Delivery
    key: str | None
    about: str
    ident: Ident | None = None


@effect
class SendAudio:
    """PCM16 little-endian, mono, 16 kHz."""

    connection_ids: tuple[int, ...]
    pcm: bytes = field(repr=False)


@effect
class PingApp:
    """A protocol ping whose pong comes back as `app_pong`."""

    connection_id: int
    payload: bytes


@effect
class CloseApp:
    connection_id: int
    code: int
    reason: str


@effect
class LoadUser:
    """Read what is stored about the user; the result comes back as `user_loaded`."""


@effect
class LoadApp:
    """Read the user's settings of an app; the result comes back as `app_loaded`."""

    package: str
    cycle: int


@effect
class PostSessionRequest:
    """The start webhook; `request_sent` tells when it leaves, the outcome comes back as `webhook_answered`."""

    package: str
    cycle: int
    base_url: str
    body: Mapping[str, Any]
    timeout: float
    by_user: bool


@effect
class CancelSessionRequest:
    package: str
    cycle: int


@effect
class PostStopRequest:
    """The stop webhook; the outcome comes back as `stop_answered`."""

    package: str
    cycle: int
    base_url: str
    body: Mapping[str, Any]
    timeout: float


@effect
class PostPhotoFailure:
    """Multipart to the app's photo route (wire spec 4.6)."""

    package: str
    url: str
    request_id: str
    code: str
    message: str


@effect
class SaveWanted:
    package: str
    wanted: bool


@effect
class SaveSettings:
    """Changed system settings."""

    changes: Mapping[str, Any] = field(repr=False)


@effect
class SaveLocation:
    lat: float = field(repr=False)
    lng: float = field(repr=False)
    accuracy: float | None


@effect
class StartSettled:
    """A start that somebody may wait for has ended."""

    package: str
    ok: bool
    stage: Stage | None
    message: str


@effect
class StopSettled:
    package: str


@effect
class EndpointVerdict:
    """An app server has, or has not, brought a session to life."""

    base_url: str
    ok: bool


@effect
class Presence:
    """The app of this user is connected or not, for messages between users."""

    package: str
    session_id: str
    present: bool


@effect
class ToOtherUsers:
    """A message between users of one app, for the process-wide rooms."""

    package: str
    message: Message


@effect
class SpeechNeeds:
    """(source language, target language or None) pairs to recognise from now on."""

    languages: frozenset[tuple[str, str | None]]


@effect
class AudioStreamOpened:
    """SDK 3: the app will send audio for the phone to fetch."""

    package: str
    connection_id: int
    stream_id: str
    content_type: str


@effect
class AudioStreamEnded:
    package: str
    stream_id: str


@effect
class AppMoved:
    """For metrics, logs and consoles."""

    package: str
    before: AppState
    after: AppState
    reason: AppReason


@effect
class Record:
    """One line of the trace: names and sizes, never contents."""

    kind: str
    detail: Mapping[str, Any]


@effect
class Displayed:
    """A display was put on the glasses the moment that it was asked for: by far the most frequent record of an app that
    draws. `answered`: seconds since the event that it answers."""

    display_id: int
    view: str
    package: str
    layout: str
    answered: float | None


@effect
class Unregister:
    """From now on this user has no session; a new connection makes a new one."""

    reason: str


@effect
class Finished:
    """Nothing is left to do."""


Effect: TypeAlias = (
    SendToGlasses
    | CloseGlasses
    | SendToApps
    | SendAudio
    | PingApp
    | CloseApp
    | LoadUser
    | LoadApp
    | PostSessionRequest
    | CancelSessionRequest
    | PostStopRequest
    | PostPhotoFailure
    | SaveWanted
    | SaveSettings
    | SaveLocation
    | StartSettled
    | StopSettled
    | EndpointVerdict
    | Presence
    | ToOtherUsers
    | SpeechNeeds
    | AudioStreamOpened
    | AudioStreamEnded
    | AppMoved
    | Record
    | Displayed
    | Unregister
    | Finished
)
