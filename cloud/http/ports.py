"""What the HTTP routes ask of the running sessions: the interface that the hub implements.

Rules: queries and notifications are synchronous; only what must wait for an app is a coroutine. Methods that need a live
session say by their result that there is none. Views are plain data, made for JSON; they hold no tokens and no content
that a user said, typed or was sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from wire.errors import ErrorCode
from wire.messages.glasses_to_cloud import GlassesToCloud


@dataclass(frozen=True, slots=True)
class AppView:
    """One app inside one session."""

    package_name: str
    state: str  # of the app lifecycle machine: "loading", "connected", ...
    reason: str | None = None
    wanted: bool = False
    running: bool = False  # loading, connecting, connected or in grace
    foreground: bool = False
    since: float | None = None  # seconds in this state
    last_active_at: float | None = None  # wall clock, seconds
    last_error: str | None = None
    attempt: int = 0  # restarts since the app was last healthy
    next_attempt_in: float | None = None
    subscriptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionView:
    """One user's glasses in the cloud."""

    user_id: str
    session_id: str
    state: str
    reason: str | None = None
    since: float | None = None
    connected: bool = False  # a glasses socket is open
    remote: str | None = None
    client: str | None = None  # which kind of client: edge, phone
    model_name: str | None = None
    microphone: str | None = None
    apps: tuple[AppView, ...] = ()
    display: Mapping[str, Any] = field(default_factory=dict)  # what each view shows: layout, owner
    history: tuple[Mapping[str, Any], ...] = ()  # connection states with their times
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AppOutcome:
    """What became of a request to start or stop an app. `code` None means that it was done."""

    code: ErrorCode | None = None
    message: str = ""

    @property
    def ok(self) -> bool:
        return self.code is None


@dataclass(frozen=True, slots=True)
class Presence:
    """A user who has a given app connected (app-to-app discovery)."""

    user_id: str
    session_id: str
    joined_at: float  # wall clock, seconds


class Hub(Protocol):
    """Implemented by `cloud.hub.Hub`."""

    # ---- what is so
    @property
    def draining(self) -> bool: ...
    def session_view(self, user_id: str) -> SessionView | None:
        """The session of this user, also in grace; None if there is none."""

    def session_owner(self, session_id: str) -> tuple[str, str] | None:
        """User and package of a live app session, by its opaque id."""

    def users_of(self, package_name: str) -> Sequence[Presence]:
        """Everybody who has this app connected now."""

    def trace(self, since: int = 0) -> Sequence[Mapping[str, Any]]:
        """The last event records, oldest first, each with a growing `seq`; those after `since`."""

    # ---- for the console
    @property
    def backlog(self) -> int:
        """Bytes that wait for peers to read them."""

    def user_ids(self) -> list[str]:
        """Everybody who has a session now."""

    def changed(self, since: int) -> tuple[int, set[str] | None]:
        """The newest number of the trace, and who is named in it after `since`; None: too long ago to say."""

    def lanes(self, user_id: str) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """How glasses, microphone and each app fared: lane -> states with reason and time (wall clock, seconds)."""

    def webhooks_of(self, package_name: str) -> Sequence[Mapping[str, Any]]:
        """The last webhooks to this app with their replies, oldest first."""

    async def replay_webhook(self, package_name: str, number: int) -> Mapping[str, Any] | None:
        """Send a kept webhook once more to where the app is now; its new record, or None if it is no longer kept."""

    def replay(self, seq: int) -> bool:
        """Send the event of this trace record (`from_glasses`) through its session once more; False if it is gone."""

    # ---- what the user asks
    async def start_app(self, user_id: str, package_name: str) -> AppOutcome:
        """Ends when the app is connected or has failed; SESSION_NOT_FOUND without a session."""

    async def stop_app(self, user_id: str, package_name: str) -> AppOutcome:
        """Also right for an app that does not run."""

    async def end_session(self, user_id: str, reason: str) -> bool:
        """The user logged out or was removed: no grace."""

    # ---- what a phone says over REST instead of its socket; False = no session
    def phone_event(self, user_id: str, message: GlassesToCloud) -> bool: ...
    def device_state(self, user_id: str, changes: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Merge what the phone reports about glasses and phone; returns the applied state, None without a session."""

    def configure_audio(self, user_id: str, format: str, lc3: Mapping[str, Any] | None) -> bool:
        """`pcm` or `lc3`; `lc3` has sampleRate, frameDurationMs, frameSizeBytes."""

    def set_datetime(self, user_id: str, datetime: str) -> bool: ...
    def photo_expected(self, user_id: str, request_id: str) -> bool:
        """Whether this user's session waits for the photo of this request."""

    def photo_uploaded(self, user_id: str, request_id: str, data: bytes, mime_type: str, url: str) -> bool:
        """Glasses uploaded a photo to us; it goes on to the app. Once per request."""

    def say(
        self, user_id: str, text: str, language: str, *, final: bool = True, utterance: str | None = None
    ) -> bool:
        """Typed words become a transcript (speech provider `text`). `utterance`: further words of the same sentence."""

    # ---- what changed in the store
    def push_app_settings(self, user_id: str, package_name: str) -> None: ...
    def push_user_settings(self, user_id: str) -> None: ...
    def apps_changed(self, user_id: str | None) -> None:
        """Installed apps or records changed; None = for everybody."""

    def close_app(self, package_name: str, reason: str) -> None:
        """The app's record or key is gone: close its sockets everywhere (failure catalogue SEC-14)."""

    def app_server_restarted(self, package_name: str) -> int:
        """The app's server came (back) up: try at once for every session that wants it; how many those are."""

    def token_revoked(self, user_id: str, token_id: str) -> None:
        """Close glasses sockets that were opened with this token."""

    # ---- audio that an app streams to the phone (SDK 3.0, wire spec A.2)
    def audio_stream(self, user_id: str, stream_id: str) -> AsyncIterator[bytes] | None:
        """MP3 chunks until the app ends the stream; None if there is no such stream."""

    async def drain(self) -> None:
        """Stop accepting, close everything with 'come back' (1012)."""
