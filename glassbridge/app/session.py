"""One wearer's session with this app: its connection, its reconnects, its handlers, its end.

Rules: all tasks of a session live in one task group, so that an exception in any handler ends this session and no
other. Every send looks up the connection that is up at that moment. Events are handled one after the other; audio has
its own lane, so that a slow handler never delays the sound, nor the sound a button. `on_stop` runs exactly once.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

import httpx
from pydantic import ValidationError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from glassbridge.app.display import Dashboard, Layouts
from glassbridge.app.endpoints import is_loopback
from glassbridge.app.errors import ConnectionLost, NotConnected
from glassbridge.app.events import AudioChunk, Events, Handler, Unsubscribe
from glassbridge.app.reconnect import GIVE_UP_AFTER, POLICY, Verdict, after_close
from glassbridge.app.requests import Audio, Camera, Led, Locator, Peers, Pending
from glassbridge.app.settings import Settings
from glassbridge.app.storage import Storage
from wire.backoff import Backoff
from wire.codec import TEXT_BYTES_MAX, decode, encode
from wire.errors import InvalidTransition, ProtocolError
from wire.messages import CLOUD_TO_APP
from wire.messages.app_to_cloud import (
    AppToCloud,
    OwnershipRelease,
    RequestWifiSetup,
    SubscriptionUpdate,
    TpaConnectionInit,
)
from wire.messages.cloud_to_app import (
    AppAudioPlayResponse,
    AppDirectMessageResponse,
    AppMessageReceived,
    AppRtmpStreamStatus,
    AppSettingsUpdate,
    AppStopped,
    AugmentosSettingsUpdate,
    CapabilitiesUpdate,
    CustomMessage,
    DashboardModeChanged,
    DataStream,
    DeviceStateUpdate,
    PermissionError_,
    StreamStatusCheckResponse,
    TpaConnectionAck,
    TpaConnectionError,
)
from wire.messages.glasses_to_cloud import LocationUpdate

log = logging.getLogger(__name__)

SDK_VERSION = "glassbridge-python/0.1.0"

#: The cloud waits 5 s for `tpa_connection_init` and so do we for its answer (wire spec 6.3). Seconds.
CONNECT_TIMEOUT = 5.0
#: Our own pings find a dead path within 30 s; the cloud's (every 10 s) keep middleboxes awake.
PING_INTERVAL, PING_TIMEOUT = 15.0, 15.0
#: Events that wait for the app's handlers. When full, we stop reading: the cloud then applies its slow-consumer rule.
EVENTS_MAX = 256
#: Audio chunks that wait (100 ms each as the cloud sends them: 5 s). Older ones are dropped and counted.
AUDIO_MAX = 50
#: How long `on_stop` may take.
STOP_TIMEOUT = 5.0


class SessionState(Enum):
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    ENDED = "ended"


TRANSITIONS: dict[SessionState, frozenset[SessionState]] = {
    SessionState.CONNECTING: frozenset({SessionState.CONNECTED, SessionState.ENDED}),
    SessionState.CONNECTED: frozenset({SessionState.RECONNECTING, SessionState.ENDED}),
    SessionState.RECONNECTING: frozenset({SessionState.CONNECTED, SessionState.ENDED}),
    SessionState.ENDED: frozenset(),
}


class _Over(Exception):
    """Ends the session's task group; carries the reason for `on_stop`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Closed:
    code: int
    reason: str
    was_up: bool


Calls = list[tuple[Handler[Any], Any]]
OnSession = Callable[["Session"], Awaitable[None]]
OnStop = Callable[["Session", str], Awaitable[None]]


class Session:
    """What `on_session` gets. Everything an app does for one wearer goes through it."""

    def __init__(
        self,
        *,
        package_name: str,
        api_key: str,
        session_id: str,
        user_id: str,
        url: str,
        http: httpx.AsyncClient,
    ) -> None:
        self.session_id = session_id
        self.user_id = user_id
        self.package_name = package_name
        self.state = SessionState.CONNECTING
        self.capabilities: dict[str, Any] | None = None  # None while the glasses are unknown
        self.device: dict[str, Any] = {}  # batteryLevel, charging, connected, modelName ... as last told
        self.dashboard_mode = "main"
        self.audio_dropped = 0  # chunks that came faster than the handlers took them
        self._api_key = api_key
        self._url = url
        self._socket: ClientConnection | None = None
        self._up = asyncio.Event()  # set once the first connection was acknowledged
        self._ended = asyncio.Event()
        self._subscriptions_dirty = asyncio.Event()
        self._announced: list[Any] | None = None  # the list that this connection's cloud has
        self._events: asyncio.Queue[Calls] = asyncio.Queue(EVENTS_MAX)
        self._audio: asyncio.Queue[bytes] = asyncio.Queue(AUDIO_MAX)
        self._group: asyncio.TaskGroup | None = None
        self._ending: str | None = None  # why we were asked to end
        self._end_asked = asyncio.Event()
        self.settled = asyncio.Event()  # set once `on_session` has returned
        self._closed_by_cloud = False
        self._lifecycle: dict[str, list[Handler[Any]]] = {}

        answers = Pending()
        self._answers = answers
        self.photos = Pending()  # answered over HTTP, so they outlive a connection
        who = (package_name, session_id)
        self.events = Events(self._subscriptions_dirty.set)
        self.layouts = Layouts(self.send, package_name)
        self.dashboard = Dashboard(self.send, package_name, session_id)
        self.settings = Settings()
        self.storage = Storage(http, lambda: self.cloud_url, user_id, package_name, api_key)
        self.audio = Audio(self.send, answers, *who, lambda: self.cloud_url)
        self.camera = Camera(self.send, answers, self.photos, *who)
        self.location = Locator(self.send, answers, *who)
        self.led = Led(self.send, answers, *who)
        self.peers = Peers(self.send, answers, *who)

    # -- for app code ---------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether a send would have a connection to go to."""
        return self.state is SessionState.CONNECTED

    async def send(self, message: AppToCloud) -> None:
        """Sends on the connection that is up now. Raises NotConnected, also when it breaks meanwhile."""
        socket = self._socket
        if socket is None:
            raise NotConnected(message.type, self.state.value)
        try:
            await socket.send(encode(message).decode())
        except ConnectionClosed:
            raise NotConnected(message.type, "losing its connection") from None

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs `work` beside the handlers until it is done or the session ends. Its exception ends the session."""
        if self._group is None:
            work.close()
            raise NotConnected("a task", self.state.value)
        return self._group.create_task(work)

    def every(self, interval: float, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Calls `work` now and every `interval` seconds for as long as the session lives.

        A round that finds no connection is left out; any other exception ends the session.
        """

        async def rounds() -> None:
            while True:
                with suppress(NotConnected):
                    await work()
                await asyncio.sleep(interval)

        return self.start_task(rounds())

    def on_disconnected(self, handler: Handler[str]) -> Unsubscribe:
        """The connection broke, with the reason; the session lives and reconnects."""
        return self._on_lifecycle("disconnected", handler)

    def on_reconnected(self, handler: Handler[None]) -> Unsubscribe:
        """A new connection is up and knows all subscriptions. What was shown may have to be shown again."""
        return self._on_lifecycle("reconnected", handler)

    def on_error(self, handler: Handler[str]) -> Unsubscribe:
        """The cloud complained: "CODE: message"."""
        return self._on_lifecycle("error", handler)

    def on_permission_denied(self, handler: Handler[str]) -> Unsubscribe:
        """A subscription was refused; the stream's name."""
        return self._on_lifecycle("permission_denied", handler)

    def on_capabilities(self, handler: Handler[dict[str, Any] | None]) -> Unsubscribe:
        """What the glasses can do has changed: others are worn now, or they were unknown until now (None)."""
        return self._on_lifecycle("capabilities", handler)

    def on_peer_message(self, handler: Handler[AppMessageReceived]) -> Unsubscribe:
        """Another user of this app sent something."""
        return self._on_lifecycle("peer_message", handler)

    def on_stream_status(self, handler: Handler[AppRtmpStreamStatus]) -> Unsubscribe:
        """The app's video stream: initializing, connecting, active, stopped, error, with `stats` where the glasses tell."""
        return self._on_lifecycle("stream_status", handler)

    async def request_wifi_setup(self, reason: str | None = None) -> None:
        """Asks the wearer, on the phone, to give the glasses a Wi-Fi; `capabilities` and `device` say whether they have one."""
        await self.send(
            RequestWifiSetup(package_name=self.package_name, session_id=self.session_id, reason=reason)
        )

    async def leave(self) -> None:
        """Gives the session up for good: the cloud will not restart the app for this wearer."""
        with suppress(NotConnected):
            await self.send(
                OwnershipRelease(
                    package_name=self.package_name, session_id=self.session_id, reason="clean_shutdown"
                )
            )
        self.end("the app left")

    def end(self, reason: str) -> None:
        """Ends the session; `wait_ended` tells when `on_stop` has run."""
        if self._ending is None and self.state is not SessionState.ENDED:
            self._ending = reason
            self._end_asked.set()

    async def wait_ended(self) -> None:
        await self._ended.wait()

    # -- for the app server ---------------------------------------------------------------------

    async def run(self, on_session: OnSession, on_stop: OnStop | None) -> str:
        """The whole life of the session; returns why it ended. Never raises for what a handler did."""
        reason = "ended"
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._stay_connected())
                group.create_task(self._announce_changes())
                group.create_task(self._handle_events())
                group.create_task(self._handle_audio())
                group.create_task(self._run_on_session(on_session))
                group.create_task(self._await_end())
        except BaseExceptionGroup as errors:
            overs, faults = errors.split(_Over)
            if faults is not None:
                fault = _first(faults)
                reason = f"a handler failed: {type(fault).__name__}"
                log.error("session ended: %s", reason, exc_info=fault)
            elif overs is not None:
                reason = str(_first(overs))
        finally:
            self._group = None
            self._answers.lose("the session ended")
            self.photos.lose("the session ended")
            try:
                await self._stop(on_stop, reason)
            finally:
                await self._close(reason)
                self._move(SessionState.ENDED)
                self._ended.set()
                self._up.set()
        return reason

    async def wait_up(self) -> bool:
        """Waits for the first acknowledgement; False if the session ended instead."""
        await self._up.wait()
        return self.state is not SessionState.ENDED

    # -- connection -----------------------------------------------------------------------------

    @property
    def cloud_url(self) -> str:
        """The cloud's HTTP address. As the SDK has it: the WebSocket address without its path (wire spec 5)."""
        return "http" + self._url.removeprefix("ws").removesuffix("/app-ws")

    def _move(self, to: SessionState) -> None:
        if to not in TRANSITIONS[self.state]:
            raise InvalidTransition("app session", self.state, to)
        self.state = to

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(POLICY)
        lost_at = loop.time()
        while True:
            closed = await self._one_connection()
            if closed.was_up:
                backoff.reset()
                lost_at = loop.time()
            match after_close(closed.code, closed.reason):
                case Verdict.FINISHED:
                    raise _Over(closed.reason or "stopped by the cloud")
                case Verdict.REFUSED:
                    raise _Over(f"the cloud refused the app: {closed.reason or closed.code}")
                case Verdict.RETRY:
                    pass
            delay = backoff.next(0.5)
            if loop.time() + delay - lost_at > GIVE_UP_AFTER:
                raise _Over(f"the cloud was not reached for {GIVE_UP_AFTER:.0f} s")
            await asyncio.sleep(delay)

    async def _one_connection(self) -> _Closed:
        """Dials, greets, reads until the connection is gone."""
        host = self._url.partition("://")[2].partition("/")[0].rpartition(":")[0].strip("[]")
        was_up = False
        socket: ClientConnection | None = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                socket = await connect(
                    self._url,
                    compression=None,  # costs the cloud more than it saves: messages are small
                    max_size=TEXT_BYTES_MAX,
                    open_timeout=None,  # the timeout around this covers it
                    ping_interval=PING_INTERVAL,
                    ping_timeout=PING_TIMEOUT,
                    close_timeout=2,
                    proxy=None if is_loopback(host) else True,
                )
                await socket.send(
                    encode(
                        TpaConnectionInit(
                            package_name=self.package_name,
                            session_id=self.session_id,
                            api_key=self._api_key,
                            sdk_version=SDK_VERSION,
                        )
                    ).decode()
                )
                was_up = await self._await_ack(socket)
            if was_up:
                async for frame in socket:
                    await self._received(frame)
            code, reason = socket.close_code, socket.close_reason
        except TimeoutError:
            code, reason = 1006, "no answer within 5 s"
        except ConnectionClosed:
            code = socket.close_code if socket else 1006
            reason = socket.close_reason if socket else ""
        except (OSError, InvalidHandshake, InvalidURI) as error:
            code, reason = 1006, f"could not connect ({type(error).__name__})"
        # On cancellation the socket stays up: `on_stop` may still say good-bye, and `_close` ends it.
        self._closed_by_cloud = True
        if socket is not None and self._socket is not socket:
            await socket.close()
        if was_up:
            self._socket = None
            self._move(SessionState.RECONNECTING)
            self._answers.lose("the connection broke")
            await self._tell("disconnected", reason or f"closed with code {code}")
            log.info("connection lost (%s)", code)
        return _Closed(code or 1006, reason or "", was_up)

    async def _await_ack(self, socket: ClientConnection) -> bool:
        """Whether the cloud took us; if not, the socket is closed."""
        async for frame in socket:
            if isinstance(frame, bytes):
                continue  # audio for the former connection
            try:
                message = decode(CLOUD_TO_APP, frame).message
            except ProtocolError as fault:
                log.warning("the cloud sent something unusable: %s", fault)
                continue
            if isinstance(message, TpaConnectionAck):
                again = self._up.is_set()
                self._socket = socket
                self._closed_by_cloud = False
                self._move(SessionState.CONNECTED)
                self._announced = None
                await self._acknowledged(message)
                if again:
                    await self._tell("reconnected", None)
                    self._subscriptions_dirty.set()
                self._up.set()
                return True
            if isinstance(message, TpaConnectionError):
                log.warning("the cloud refused the app: %s: %s", message.code, message.message)
        return False

    async def _close(self, reason: str) -> None:
        socket, self._socket = self._socket, None
        if socket is not None and not self._closed_by_cloud:
            # 1001 and 1011 are both a loss to the cloud unless it stopped us, or we released the session.
            code = 1011 if reason.startswith("a handler failed") else 1001
            await socket.close(code, reason.encode()[:120].decode(errors="ignore"))

    # -- inbound --------------------------------------------------------------------------------

    async def _received(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            if frame:
                self._received_audio(frame)
            return
        try:
            incoming = decode(CLOUD_TO_APP, frame)
        except ProtocolError as fault:
            log.warning("the cloud sent something unusable: %s", fault)
            return
        match incoming.message:
            case DataStream() as event:
                await self._received_event(event)
            case TpaConnectionAck() as ack:
                await self._acknowledged(ack)
                self._announced = None
                self._subscriptions_dirty.set()
            case AppSettingsUpdate(settings=settings):
                await self._queue(self.settings.replace(settings))
            case AugmentosSettingsUpdate(settings=system):
                await self._queue(self.settings.replace_system(system))
            case CapabilitiesUpdate(capabilities=capabilities):
                await self._can(capabilities)
            case DeviceStateUpdate(state=state, full_snapshot=full):
                self.device = dict(state) if full else {**self.device, **state}
            case DashboardModeChanged(mode=mode):
                self.dashboard_mode = mode
            case CustomMessage() as custom:
                payload = {"action": custom.action, "payload": custom.payload}
                await self._queue(self.events.calls("custom_message", payload))
            case PermissionError_() as refusal:
                for detail in refusal.details:
                    log.warning("no permission for %s: needs %s", detail.stream, detail.required_permission)
                    await self._tell("permission_denied", detail.stream)
            case TpaConnectionError() as error:
                log.warning("the cloud reports %s: %s", error.code, error.message)
                await self._tell("error", f"{error.code}: {error.message}")
            case AppAudioPlayResponse() as played:
                self._answers.resolve(played.request_id, played)
            case AppDirectMessageResponse(message_id=message_id, success=success):
                self._answers.resolve(message_id, success)
            case AppMessageReceived() as peer:
                await self._tell("peer_message", peer)
            case AppRtmpStreamStatus() as status:
                self.camera.stream_told(status)
                await self._tell("stream_status", status)
            case StreamStatusCheckResponse() as reply:
                self.camera.stream_checked(reply)
            case AppStopped() | None | _:
                # `app_stopped` announces the close that follows; other types are for newer clients than this.
                pass

    async def _can(self, capabilities: dict[str, Any] | None) -> None:
        if capabilities != self.capabilities:
            self.capabilities = capabilities
            await self._tell("capabilities", capabilities)

    async def _acknowledged(self, ack: TpaConnectionAck) -> None:
        await self._can(ack.capabilities)
        await self._queue(self.settings.replace_system(ack.mentraos_settings or ack.augmentos_settings))
        await self._queue(self.settings.replace(ack.settings))

    async def _received_event(self, event: DataStream) -> None:
        name = event.stream_type
        data = event.data
        if name in ("location_update", "location_stream") and isinstance(data, dict):
            correlation = data.get("correlationId")
            if isinstance(correlation, str) and correlation in self._answers:
                try:
                    self._answers.resolve(correlation, LocationUpdate.model_validate(data))
                except ValidationError:
                    log.warning("the answer to a location request could not be read")
        await self._queue(self.events.calls(name, data if data is not None else {}))

    def _received_audio(self, pcm: bytes) -> None:
        if self._audio.full():
            self._audio.get_nowait()
            self.audio_dropped += 1
        self._audio.put_nowait(pcm)

    async def _queue(self, calls: Calls) -> None:
        if calls:
            await self._events.put(calls)

    async def _handle_events(self) -> None:
        while True:
            for handler, value in await self._events.get():
                await _call(handler, value)

    async def _handle_audio(self) -> None:
        while True:
            chunk = AudioChunk(await self._audio.get())
            for handler, value in self.events.calls("audio_chunk", chunk):
                await _call(handler, value)

    # -- outbound state -------------------------------------------------------------------------

    async def _announce_changes(self) -> None:
        """Tells the cloud the full list whenever it changed; registrations of one turn make one message."""
        await self._up.wait()
        while True:
            await self._subscriptions_dirty.wait()
            self._subscriptions_dirty.clear()
            await self._announce()

    async def _announce(self) -> None:
        wanted = self.events.subscriptions()
        if wanted == self._announced:
            return
        # While reconnecting nothing is sent: the next connection gets the whole list anyway.
        with suppress(NotConnected):
            await self.send(
                SubscriptionUpdate(
                    package_name=self.package_name, session_id=self.session_id, subscriptions=wanted
                )
            )
            self._announced = wanted

    # -- the app's callbacks --------------------------------------------------------------------

    async def _run_on_session(self, on_session: OnSession) -> None:
        await self._up.wait()
        await on_session(self)
        # Also when nothing was registered: the cloud may remember the list of a former run of this app.
        await self._announce()
        self.settled.set()

    async def _await_end(self) -> None:
        await self._end_asked.wait()
        raise _Over(self._ending or "ended")

    async def _stop(self, on_stop: OnStop | None, reason: str) -> None:
        if on_stop is None or not self._up.is_set():
            return
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await on_stop(self, reason)
        except TimeoutError:
            log.error("on_stop took over %.0f s and was cut short", STOP_TIMEOUT)
        except Exception:  # the session is over anyway; its last handler must not take the app server along
            log.exception("on_stop failed")

    def _on_lifecycle(self, what: str, handler: Handler[Any]) -> Unsubscribe:
        handlers = self._lifecycle.setdefault(what, [])
        handlers.append(handler)

        def remove() -> None:
            if handler in handlers:
                handlers.remove(handler)

        return remove

    async def _tell(self, what: str, value: Any) -> None:
        await self._queue([(handler, value) for handler in self._lifecycle.get(what, ())])


async def _call(handler: Handler[Any], value: Any) -> None:
    try:
        result = handler(value)
        if inspect.isawaitable(result):
            await result
    except (NotConnected, ConnectionLost) as error:
        # The event is older than the loss of the connection: its answer has no addressee any more. The loss itself is told
        # where it happens.
        log.debug("a handler was interrupted: %s", error)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
