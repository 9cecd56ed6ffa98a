"""One app inside one session: wanted or not, and how far it has come.

Rules: `wanted` is changed only by the wearer (start, stop); failures change only `state`. At most one session_request
is in flight; its cycle number makes late answers harmless. Its server's time runs from when the request has left: what
it waits in our own queue is bounded apart and charged to nobody. Restarts are spaced, jittered and counted; a stopped app
never comes back. Sources: wire spec 6.1, 6.2, 6.5, 3.9-3.14; failure catalogue APP-01..18, SUB-01.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, Final, TypeAlias

from wire.backoff import BackoffPolicy
from wire.errors import CloseCode, ErrorCode, InvalidTransition


class AppState(Enum):
    LOADING = "loading"  # the session_request is out, or waits in our own queue
    CONNECTING = "connecting"  # its socket is here and identified; its settings are not loaded yet
    CONNECTED = "connected"
    GRACE = "grace"  # socket lost; the SDK may come back by itself
    STOPPING = "stopping"  # the stop webhook is out; the socket closes within a second
    DISCONNECTED = "disconnected"
    ERROR = "error"  # not running although wanted; the next attempt is scheduled


TRANSITIONS: Final[dict[AppState, frozenset[AppState]]] = {
    # GRACE: it ran when another node served the session, and is expected here any moment.
    AppState.DISCONNECTED: frozenset({AppState.LOADING, AppState.CONNECTING, AppState.GRACE}),
    AppState.LOADING: frozenset(
        {AppState.CONNECTING, AppState.CONNECTED, AppState.ERROR, AppState.STOPPING, AppState.DISCONNECTED}
    ),
    AppState.CONNECTING: frozenset(
        {AppState.CONNECTED, AppState.LOADING, AppState.STOPPING, AppState.DISCONNECTED, AppState.ERROR}
    ),
    AppState.CONNECTED: frozenset({AppState.GRACE, AppState.STOPPING, AppState.DISCONNECTED, AppState.ERROR}),
    AppState.GRACE: frozenset(
        {AppState.CONNECTED, AppState.LOADING, AppState.ERROR, AppState.STOPPING, AppState.DISCONNECTED}
    ),
    AppState.STOPPING: frozenset({AppState.DISCONNECTED}),
    AppState.ERROR: frozenset(
        {AppState.LOADING, AppState.CONNECTING, AppState.CONNECTED, AppState.STOPPING, AppState.DISCONNECTED}
    ),
}


class AppReason(StrEnum):
    """Why the app is in its state; shown to people."""

    NEW = "not started"
    USER = "started by the wearer"
    RESTORED = "restored"
    RESTART = "restarting"
    RUNNING = "running"
    LINK_LOST = "connection lost"
    WEBHOOK = "webhook failed"
    TIMEOUT = "no connection in time"
    AUTHENTICATION = "wrong API key"
    CRASHING = "keeps ending soon after its start"
    ON_SESSION_FAILED = "its onSession failed"
    USER_STOP = "stopped by the wearer"
    SYSTEM_STOP = "stopped by the system"
    RELEASED = "gave the session up"
    DORMANT = "waiting for the glasses"
    MOVED = "its session moved to this node"
    INCOMPATIBLE = "the glasses lack required hardware"


class StopReason(StrEnum):
    """What an app is told about its end (wire spec 4.2)."""

    USER_DISABLED = "user_disabled"
    SYSTEM_STOP = "system_stop"
    ERROR = "error"


class Stage(StrEnum):
    """Where a start failed (wire spec 6.1)."""

    WEBHOOK = "WEBHOOK"
    TIMEOUT = "TIMEOUT"
    AUTHENTICATION = "AUTHENTICATION"
    CONNECTION = "CONNECTION"
    HARDWARE = "HARDWARE_CHECK"
    HELD_BACK = "HELD_BACK"  # the app's server is being spared; nothing was asked of it


@dataclass(frozen=True, slots=True)
class LifecycleTiming:
    """Seconds and counts."""

    #: From the first request that has left until the app is connected (failure catalogue, time budgets).
    start: float = 10.0
    #: A request that has not left by then is given up. The shell's own limits, 4 s for the endpoint's pace and 5 s for a
    #: free slot, end before and know the reason. A start takes at most this and `start` together.
    unsent: float = 10.0
    webhook: float = 9.0  # inside the start budget, which begins at the same moment
    webhook_retry: float = 1.0  # pause before the second try of a start (wire spec 6.3)
    settings: float = 4.0  # an app gives up 5 s after its connect: acknowledge with defaults before that
    grace: float = 5.0  # wire spec 6.5
    stop: float = 1.0  # the stop webhook may run onStop this long before the socket is closed (APP-06)
    late: float = 60.0  # a socket this long after its session_request is still welcome (APP-05)
    keep_subscriptions: float = 30.0  # of a wanted app that is being restarted (SUB-02)
    healthy: float = 60.0  # a shorter run counts as a failure (APP-15)
    restart: BackoffPolicy = field(default_factory=lambda: BackoffPolicy(1.0, 2.0, 30.0, 0.2))  # APP-02
    give_up_pace_after: float = 600.0  # failing this long: only every `slow` (APP-02)
    slow: float = 300.0
    crash_count: int = 5  # this many short runs in `crash_window` are a crash loop (APP-15)
    crash_window: float = 300.0


@dataclass(frozen=True, slots=True)
class Launch:
    """Load the app's settings and post its session_request; `request_sent` tells when it leaves. `by_user` skips the
    endpoint's circuit breaker."""

    cycle: int
    first: bool  # False: a second post of the same cycle; settings are loading already
    by_user: bool


@dataclass(frozen=True, slots=True)
class CancelLaunch:
    """The session_request of this cycle no longer matters."""

    cycle: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """Acknowledge the app. `fresh`: another instance than before, so nothing old is replayed."""

    connection_id: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer this socket with an error and close it."""

    connection_id: int
    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class CloseSocket:
    connection_id: int
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class PostStop:
    """Post the stop webhook; the answer comes back as `stop_answered`."""

    cycle: int
    reason: StopReason


@dataclass(frozen=True, slots=True)
class Started:
    """A start that somebody may wait for has ended."""

    ok: bool
    stage: Stage | None = None
    message: str = ""
    by_user: bool = False


@dataclass(frozen=True, slots=True)
class Stopped:
    """A stop has ended."""


@dataclass(frozen=True, slots=True)
class Forget:
    """The app's subscriptions, display and dashboard content no longer count."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The state changed; phones and consoles want to know."""

    before: AppState
    after: AppState
    reason: AppReason


Effect: TypeAlias = (
    Launch | CancelLaunch | Accepted | Refused | CloseSocket | PostStop | Started | Stopped | Forget | Moved
)


class AppLifecycle:
    """Drives one app from wanted to running and back. `random` returns numbers in [0, 1) for jitter."""

    def __init__(
        self, package: str, timing: LifecycleTiming | None = None, *, random: Callable[[], float]
    ) -> None:
        self.package = package
        self.timing = timing or LifecycleTiming()
        self._random = random
        self.state = AppState.DISCONNECTED
        self.reason = AppReason.NEW
        self.wanted = False
        self.connection_id: int | None = None
        self.cycle = 0
        self.failures = 0  # since the last healthy run
        self.last_error = ""
        self._glasses = True
        self._deadline: float | None = None  # of the present state
        self._forget_at: float | None = None
        self._tries = 0
        self._retry_post = False  # the deadline is that of the second post, not of the state
        self._start_deadline = 0.0
        self._sent = False  # the present post has left
        self._counting = False  # a post of this cycle has left: `_start_deadline` counts from there
        self._requested_at: float | None = None  # when the newest post was asked for, then when it left
        self._request_refused = False  # the app itself answered that cycle with a failure
        self._wrong_key = False
        self._by_user = False
        self._fresh = True
        self._loaded = False
        self._connected_at = 0.0
        self._failing_since: float | None = None
        self._short_runs: list[float] = []  # the last `crash_count`
        self._start_again = False
        self._released = False
        self._stop_reason = AppReason.USER_STOP

    # ------------------------------------------------------------------------------------------------ queries

    @property
    def is_running(self) -> bool:
        """Connected, or briefly away."""
        return self.state in (AppState.CONNECTED, AppState.GRACE)

    @property
    def is_starting(self) -> bool:
        return self.state in (AppState.LOADING, AppState.CONNECTING)

    @property
    def awaits_its_server(self) -> bool:
        """Whether the next attempt need not wait once the app's server is known to be back. One that connects and then
        ends is another matter."""
        return self.state is AppState.ERROR and self.wanted and self.reason in _SERVER_AWAY

    @property
    def next_attempt(self) -> float | None:
        """When a failed app is tried again."""
        return self._deadline if self.state is AppState.ERROR else None

    @property
    def deadline(self) -> float | None:
        return min((t for t in (self._deadline, self._forget_at) if t is not None), default=None)

    # ------------------------------------------------------------------------------------------------ another node

    def export(self, now: float) -> dict[str, Any]:
        """What another node needs to go on."""
        return {
            "state": self.state.value,
            "wanted": self.wanted,
            "cycle": self.cycle,
            "failures": self.failures,
            "failing": None if self._failing_since is None else now - self._failing_since,
            "short_runs": [now - at for at in self._short_runs],
            "connected": now - self._connected_at,
            "last_error": self.last_error,
        }

    def restore(self, state: Mapping[str, Any], now: float) -> list[Effect]:
        """Go on where another node stopped: an app that ran is expected back within its grace; one that was starting or
        failing is started again by its session. Raises KeyError, TypeError or ValueError for what cannot be read."""
        ran = state["state"] in (AppState.CONNECTED.value, AppState.CONNECTING.value, AppState.GRACE.value)
        self.wanted = bool(state["wanted"])
        self.cycle = int(state.get("cycle", 0))
        self.failures = int(state.get("failures", 0))
        failing = state.get("failing")
        self._failing_since = None if failing is None else now - float(failing)
        self._short_runs.extend(now - float(age) for age in state.get("short_runs", ()))
        del self._short_runs[: -self.timing.crash_count]
        self._connected_at = now - float(state.get("connected", 0.0))
        self.last_error = str(state.get("last_error", ""))
        if not ran or not self.wanted:
            return []
        self._loaded = True
        effects = self._move(AppState.GRACE, AppReason.MOVED, now)
        self._deadline = now + self.timing.grace
        return effects

    # ------------------------------------------------------------------------------------------------ the wearer

    def start(self, now: float, *, by_user: bool = True) -> list[Effect]:
        """The wearer wants the app, or it is restored because he did."""
        self.wanted = True
        match self.state:
            case AppState.CONNECTED:
                return [Started(True, by_user=by_user)]
            case AppState.LOADING | AppState.CONNECTING:
                self._by_user = self._by_user or by_user
                return []  # the first attempt's outcome is this one's as well
            case AppState.STOPPING:
                self._start_again = True
                self._by_user = by_user
                return []
            case AppState.DISCONNECTED | AppState.ERROR | AppState.GRACE:
                if by_user:
                    self._short_runs.clear()  # the wearer asked again: he has the benefit of the doubt
                    self.failures = 0
                    self._failing_since = None
                return self._launch(AppReason.USER if by_user else AppReason.RESTORED, now, by_user=by_user)

    def adopt(self) -> None:
        """The wearer wanted the app before our own restart; its socket is about to be identified."""
        self.wanted = True

    def stop(
        self,
        reason: StopReason,
        now: float,
        *,
        still_wanted: bool = False,
        because: AppReason | None = None,
    ) -> list[Effect]:
        """The wearer no longer wants the app; with `still_wanted` only this session (or these glasses) ends it."""
        if not still_wanted:
            self.wanted = False
        self._start_again = False
        if because is None:
            because = AppReason.USER_STOP if reason is StopReason.USER_DISABLED else AppReason.SYSTEM_STOP
        self._stop_reason = because
        match self.state:
            case AppState.DISCONNECTED:
                self.reason = because
                forget: list[Effect] = [] if self._forget_at is None else [Forget()]
                self._forget_at = None
                return [*forget, Stopped()]
            case AppState.STOPPING:
                return []
            case AppState.ERROR:
                effects = self._move(AppState.DISCONNECTED, because, now)
                return [*effects, Forget(), Stopped()]
            case AppState.LOADING | AppState.CONNECTING | AppState.CONNECTED | AppState.GRACE:
                effects = []
                if self.is_starting:
                    effects.append(CancelLaunch(self.cycle))
                    effects.append(
                        Started(False, Stage.CONNECTION, "stopped while starting", by_user=self._by_user)
                    )
                effects += self._move(AppState.STOPPING, because, now)
                self._deadline = now + self.timing.stop
                return [*effects, Forget(), PostStop(self.cycle, reason)]

    def glasses(self, present: bool, now: float) -> list[Effect]:
        """The session has, or no longer has, a glasses client. Apps are not restarted for nobody."""
        self._glasses = present
        if present and self.wanted and self.state is AppState.DISCONNECTED and self.reason in _RESUMABLE:
            return self._launch(AppReason.RESTORED, now, by_user=False)
        return []

    # ------------------------------------------------------------------------------------------------ the start

    def loaded(self, cycle: int, now: float) -> list[Effect]:
        """The app's settings are at hand."""
        if cycle != self.cycle:
            return []
        self._loaded = True
        return self._accept(now) if self.state is AppState.CONNECTING else []

    def request_sent(self, cycle: int, now: float) -> list[Effect]:
        """The session_request of `cycle` leaves for the app's server; until now it has waited in our own queue."""
        if cycle != self.cycle or not self.is_starting or self._sent or self._retry_post:
            return []
        self._sent = True
        self._requested_at = now
        if not self._counting:  # a second post shares the time of the first
            self._counting = True
            self._start_deadline = now + self.timing.start
            if self.state is AppState.LOADING:
                self._deadline = self._start_deadline
        return []

    def webhook_answered(
        self,
        cycle: int,
        now: float,
        *,
        ok: bool,
        message: str = "",
        from_app: bool = False,
        retry_after: float = 0.0,
    ) -> list[Effect]:
        """The session_request of `cycle` was answered, failed or was held back.

        `from_app`: the failure is the app's own answer, so its onSession has not run to its end. `retry_after`:
        seconds during which the endpoint is left alone.
        """
        if cycle != self.cycle:
            return []
        if ok:
            return self.request_sent(cycle, now)  # at the latest
        self.last_error = message
        match self.state:
            case AppState.LOADING if retry_after:
                held = self._recover(AppReason.WEBHOOK, now, retry_after)
                return [*held, Started(False, Stage.HELD_BACK, message, by_user=self._by_user)]
            case AppState.LOADING:
                self._request_refused = from_app
                second_try = now + self.timing.webhook_retry
                if self._by_user and self._tries < 2 and second_try < self._start_deadline:
                    self._retry_post = True
                    self._deadline = second_try
                    return []
                stage = Stage.AUTHENTICATION if self._wrong_key else Stage.WEBHOOK
                return self._fail(stage, message, now)
            case AppState.CONNECTING if from_app:
                # It gave up waiting for our acknowledgement; acknowledged now, its socket would have no code behind it
                # (wire spec 3.12, 16d).
                assert self.connection_id is not None
                close = CloseSocket(self.connection_id, CloseCode.POLICY, "acknowledged too late")
                self.connection_id = None
                return [close, *self._fail(Stage.CONNECTION, message, now)]
            case AppState.CONNECTED if from_app:
                # Its socket is up but its stop handlers are not: end it cleanly and start it anew (wire spec 4.1).
                assert self.connection_id is not None
                close = CloseSocket(self.connection_id, CloseCode.NORMAL, "onSession failed")
                self.connection_id = None
                return [close, *self._unhealthy_end(AppReason.ON_SESSION_FAILED, now)]
            case _:
                return []

    def wrong_key(self) -> None:
        """A socket claimed to be this app with another key. It changes nothing but the words of a later failure."""
        self._wrong_key = True

    def identified(self, connection_id: int, now: float) -> list[Effect]:
        """A socket has proven to be this app. Accepted while the app is wanted and expected. Ids of sockets grow as they
        are opened."""
        welcome = self.wanted and (
            self.state in (AppState.LOADING, AppState.CONNECTING, AppState.CONNECTED, AppState.GRACE)
            or (self.state is AppState.ERROR and self._is_late_but_welcome(now))
            or (self.state is AppState.DISCONNECTED and self.reason in _WELCOME)
        )
        if not welcome:
            return [
                Refused(
                    connection_id, ErrorCode.APP_NOT_STARTED, f"App not started for this user: {self.package}"
                )
            ]
        effects: list[Effect] = []
        if self.connection_id is not None and connection_id < self.connection_id:
            # Opened before the present one and only now heard of: of an instance that was given up, or of an attempt
            # that a slow network kept. There is no code behind it any more.
            return [CloseSocket(connection_id, CloseCode.POLICY, "replaced")]
        if self.connection_id is not None and self.connection_id != connection_id:
            # Newest wins. 1008: an SDK instance that was replaced stays away (wire spec 3.11).
            effects.append(CloseSocket(self.connection_id, CloseCode.POLICY, "replaced"))
        self.connection_id = connection_id
        self._released = False
        match self.state:
            case AppState.CONNECTED:
                self._connected_at = now
                return [*effects, Accepted(connection_id, fresh=False)]
            case AppState.GRACE:
                effects += self._move(AppState.CONNECTED, AppReason.RUNNING, now)
                return [*effects, Accepted(connection_id, fresh=False)]
            case AppState.CONNECTING:
                return effects
            case _:
                # LOADING, a late arrival, or an app that outlived our own restart.
                self._fresh = self.state is not AppState.DISCONNECTED or self.reason is AppReason.RELEASED
                if self.state is AppState.DISCONNECTED:
                    self.cycle += 1
                    self._loaded = False
                    effects.append(Launch(self.cycle, first=True, by_user=False))
                effects += self._move(AppState.CONNECTING, self.reason, now)
                self._retry_post = False
                self._deadline = now + self.timing.settings
                return effects + (self._accept(now) if self._loaded else [])

    def _is_late_but_welcome(self, now: float) -> bool:
        """After the app itself has answered with a failure, its socket is one without code behind it (spec 16c)."""
        return (
            self._requested_at is not None
            and now - self._requested_at <= self.timing.late
            and not self._request_refused
        )

    def _accept(self, now: float) -> list[Effect]:
        assert self.connection_id is not None
        self._connected_at = now
        self._forget_at = None
        effects = self._move(AppState.CONNECTED, AppReason.RUNNING, now)
        return [*effects, Accepted(self.connection_id, self._fresh), Started(True, by_user=self._by_user)]

    # ------------------------------------------------------------------------------------------------ the loss

    def lost(self, connection_id: int, now: float) -> list[Effect]:
        """A socket of this app is closed. Only the current one counts."""
        if connection_id != self.connection_id:
            return []
        self.connection_id = None
        match self.state:
            case AppState.CONNECTED if self._released:
                return [*self._move(AppState.DISCONNECTED, AppReason.RELEASED, now), Forget()]
            case AppState.CONNECTED:
                effects = self._move(AppState.GRACE, AppReason.LINK_LOST, now)
                self._deadline = now + self.timing.grace
                return effects
            case AppState.CONNECTING:
                effects = self._move(AppState.LOADING, self.reason, now)
                self._deadline = self._start_deadline
                return effects
            case AppState.STOPPING:
                return []  # the webhook's answer, or the deadline, ends the stop
            case _:
                return []

    def released(self, connection_id: int) -> None:
        """The app says that it gives this session up; its close will be on purpose (wire spec 3.10.9)."""
        if connection_id == self.connection_id:
            self._released = True

    def stop_answered(self, cycle: int, now: float) -> list[Effect]:
        """The stop webhook was answered or failed: onStop has run, or never will."""
        if self.state is not AppState.STOPPING or cycle != self.cycle:
            return []
        return self._end_stop(now)

    def retry_now(self, now: float) -> list[Effect]:
        """The app's server was seen alive: do not wait for the next attempt."""
        if self.state is AppState.ERROR and self.wanted and self._glasses:
            return self._launch(AppReason.RESTART, now, by_user=False)
        return []

    # ------------------------------------------------------------------------------------------------ time

    def handle_deadline(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if self._forget_at is not None and now >= self._forget_at:
            self._forget_at = None
            effects.append(Forget())
        if self._deadline is None or now < self._deadline:
            return effects
        self._deadline = None
        match self.state:
            case AppState.LOADING if self._retry_post:
                self._retry_post = False
                self._deadline = self._start_deadline
                self._tries += 1
                self._sent = False
                self._requested_at = now
                effects.append(Launch(self.cycle, first=False, by_user=self._by_user))
            case AppState.LOADING if self._wrong_key:
                effects += self._fail(Stage.AUTHENTICATION, "the app did not connect in time", now)
            case AppState.LOADING if self._sent:
                effects += self._fail(Stage.TIMEOUT, "the app did not connect in time", now)
            case AppState.LOADING if self._tries > 1:
                effects += self._fail(Stage.WEBHOOK, self.last_error, now)  # the first post's own failure
            case AppState.LOADING:
                # Nothing was asked of the app's server: no failure of its app. A pause as long as this wait lets our
                # queue drain.
                self.last_error = "too many other starts are on their way"
                effects.append(CancelLaunch(self.cycle))
                effects += self._recover(AppReason.WEBHOOK, now, self.timing.unsent)
                effects.append(Started(False, Stage.HELD_BACK, self.last_error, by_user=self._by_user))
            case AppState.CONNECTING:
                effects += self._accept(now)  # storage is slow: defaults now are better than nothing
            case AppState.GRACE:
                effects += self._unhealthy_end(AppReason.LINK_LOST, now)
            case AppState.STOPPING:
                effects += self._end_stop(now)
            case AppState.ERROR if self._glasses:
                effects += self._launch(AppReason.RESTART, now, by_user=False)
            case AppState.ERROR:
                effects += self._rest(now)
            case AppState.CONNECTED | AppState.DISCONNECTED:
                pass
        return effects

    # ------------------------------------------------------------------------------------------------ inside

    def _launch(self, reason: AppReason, now: float, *, by_user: bool) -> list[Effect]:
        effects = self._move(AppState.LOADING, reason, now)
        self.cycle += 1
        self._tries = 1
        self._by_user = by_user
        self._fresh = True
        self._loaded = self._retry_post = self._request_refused = self._wrong_key = False
        self._sent = self._counting = False
        self._requested_at = now
        self._start_deadline = self._deadline = now + self.timing.unsent
        return [*effects, Launch(self.cycle, first=True, by_user=by_user)]

    def _fail(self, stage: Stage, message: str, now: float) -> list[Effect]:
        self.last_error = message
        reason = {
            Stage.AUTHENTICATION: AppReason.AUTHENTICATION,
            Stage.TIMEOUT: AppReason.TIMEOUT,
        }.get(stage, AppReason.WEBHOOK)
        by_user = self._by_user
        self._count_failure(now)
        effects: list[Effect] = [CancelLaunch(self.cycle)]
        effects += self._recover(reason, now)
        return [*effects, Started(False, stage, message, by_user=by_user)]

    def _unhealthy_end(self, reason: AppReason, now: float) -> list[Effect]:
        """A run is over against the wearer's wish."""
        if now - self._connected_at >= self.timing.healthy:
            self.failures = 0
            self._failing_since = None
            self._short_runs.clear()
        else:
            self._short_runs.append(now)
            del self._short_runs[: -self.timing.crash_count]
        self._count_failure(now)
        self._forget_at = now + self.timing.keep_subscriptions
        return self._recover(reason, now)

    def _count_failure(self, now: float) -> None:
        self.failures += 1
        if self._failing_since is None:
            self._failing_since = now

    def _recover(self, reason: AppReason, now: float, retry_after: float = 0.0) -> list[Effect]:
        if not self._glasses:
            return self._rest(now)
        if self.is_crashing(now):
            reason = AppReason.CRASHING
        effects = self._move(AppState.ERROR, reason, now)
        if self._forget_at is None:
            # A start over a lost connection: what the former instance had subscribed ends as well (SUB-02).
            self._forget_at = now + self.timing.keep_subscriptions
        self._deadline = now + max(self._restart_delay(now), retry_after)
        return effects

    def _rest(self, now: float) -> list[Effect]:
        """Wait for the glasses. The same instance may still come back by itself, and finds its streams and display."""
        forget_at = self._forget_at or now + self.timing.keep_subscriptions
        effects = self._move(AppState.DISCONNECTED, AppReason.DORMANT, now)
        self._forget_at = forget_at
        return effects

    def is_crashing(self, now: float) -> bool:
        """Whether the app has ended early so often that it is left alone for a while."""
        runs = self._short_runs
        return len(runs) == self.timing.crash_count and now - runs[0] <= self.timing.crash_window

    def _restart_delay(self, now: float) -> float:
        timing = self.timing
        lasting = self._failing_since is not None and now - self._failing_since > timing.give_up_pace_after
        if lasting or self.is_crashing(now):
            return BackoffPolicy(timing.slow, 1.0, timing.slow, timing.restart.jitter).delay(
                0, self._random()
            )
        return timing.restart.delay(self.failures - 1, self._random())

    def _end_stop(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if self.connection_id is not None:
            effects.append(CloseSocket(self.connection_id, CloseCode.NORMAL, "App stopped"))
            self.connection_id = None
        effects += self._move(AppState.DISCONNECTED, self._stop_reason, now)
        effects.append(Stopped())
        if self._start_again:
            self._start_again = False
            effects += self._launch(AppReason.USER, now, by_user=self._by_user)
        return effects

    def _move(self, to: AppState, reason: AppReason, now: float) -> list[Effect]:
        if to not in TRANSITIONS[self.state]:
            raise InvalidTransition(f"AppLifecycle({self.package})", self.state, to)
        before, self.state, self.reason = self.state, to, reason
        self._deadline = None
        if to in (AppState.DISCONNECTED, AppState.STOPPING):
            self._forget_at = None
        return [Moved(before, to, reason)]


#: Reasons of being disconnected from which a wanted app returns by itself.
_RESUMABLE: Final = frozenset({AppReason.NEW, AppReason.DORMANT, AppReason.INCOMPATIBLE})
#: Reasons of an error that are over once the server answers anybody.
_SERVER_AWAY: Final = frozenset({AppReason.WEBHOOK, AppReason.TIMEOUT, AppReason.LINK_LOST})
#: Reasons of being disconnected in which a wanted app that dials by itself is let in. An SDK that gets a second
#: session_request releases its first socket and then opens another (wire spec 3.10.9).
_WELCOME: Final = _RESUMABLE | {AppReason.RELEASED}
