"""Bridge: what the glasses do becomes messages, what the cloud wants becomes wishes of the glasses.

Rules: pure. Two views (main, dashboard) and one notice of our own compete for the lens; the choice is made in one
place. What the cloud last wanted is kept through outages, what is older than it may be is not sent. After each
acknowledgement everything observable is announced again. Without a cloud the microphone goes off by itself.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from edge.core.arm import Connect, Disconnect, Write
from edge.core.glasses import (
    Changed,
    Decode,
    DisplayDone,
    Glasses,
    GlassesEffect,
    GlassesState,
    Happened,
    Note,
    Notice,
    Remember,
    RequestDone,
    Scan,
)
from edge.core.writer import Outcome
from edge.profiles import base as profile
from wire.errors import ProtocolError
from wire.layouts import (
    BitmapAnimation,
    BitmapView,
    ClearView,
    DashboardCard,
    DoubleTextWall,
    Layout,
    ReferenceCard,
    TextWall,
    parse_layout,
)
from wire.messages.base import Message, Timestamp
from wire.messages.cloud_to_glasses import (
    AudioPlayRequest,
    DisplayEvent,
    MicrophoneStateChange,
    PhotoRequest,
    RgbLedControl,
    SettingsUpdate,
    StartRtmpStream,
    StartStream,
)
from wire.messages.glasses_to_cloud import (
    ArmStatus,
    AudioPlayResponse,
    ButtonPress,
    DashboardState,
    DisplayResult,
    EdgeStatus,
    ErrorDetail,
    GlassesBatteryUpdate,
    GlassesConnectionState,
    HeadPosition,
    PhoneNotification,
    PhotoResponse,
    RgbLedControlResponse,
    RtmpStreamStatus,
    StreamStatus,
    TouchEvent,
    Vad,
)


@dataclass(frozen=True, slots=True)
class BridgeTiming:
    """Seconds and counts."""

    #: The lens says that the cloud is away after this; shorter outages are nobody's business (failure catalogue
    #: DSP-10: more than 5 s; EDG-02: at most 15 s).
    notice: float = 8.0
    #: ... and not again within this, so that a flapping link does not cover the captions.
    notice_again: float = 60.0
    #: Nobody listens: the cloud keeps a session for 60 s, a little more, and the microphone goes off.
    mic_off: float = 75.0
    #: Facts that change together make one status message.
    status: float = 0.2
    #: Shortest time between two pictures of an animation; a G1 takes 0.6 to 1 s for one, and then its link rests.
    frame_min: float = 0.2
    frame_rest_max: float = 1.0  # after a picture that an outage held up, too
    #: Remembered requests for photos, until their picture has been handed on. Apps wait 30 s.
    photos_max: int = 8
    photo_wait: float = 30.0
    #: Displays whose outcome is not known yet: 3 a second from the cloud, 20 s of deaf glasses.
    waiting_max: int = 64
    #: Measurements kept for the status page.
    samples_max: int = 256
    #: A display older than this was kept somewhere, its age says nothing of the way; silence is noticed within 10 s.
    downlink_max: float = 10.0


@dataclass(frozen=True, slots=True)
class Post:
    """Say this to the cloud; what happens while it is away is decided by the message's delivery class."""

    message: Message


@dataclass(frozen=True, slots=True)
class Upload:
    """Hand a picture to the app that asked for it. Answer: `uploaded` with this id."""

    request_id: str
    url: str
    token: str | None
    data: bytes
    mime: str


BridgeEffect: TypeAlias = Scan | Connect | Disconnect | Write | Decode | Remember | Notice | Post | Upload


@dataclass(slots=True)
class _View:
    """What the cloud wants in one view."""

    layout: Layout
    display_id: str | None
    received: float
    expires: float | None  # only counts while the cloud is away; otherwise the cloud ends its displays
    downlink: float | None = None  # seconds on its way from the cloud, where both clocks are known
    package: str | None = None


@dataclass(slots=True)
class _Photo:
    request: PhotoRequest
    deadline: float


_OFFLINE_TEXT = "No connection to the cloud.\nTrying again ..."


class Bridge:
    """Owns the choice of what is on the lens; drives `glasses`."""

    def __init__(self, glasses: Glasses, timing: BridgeTiming, *, simulated: bool = False) -> None:
        self.glasses = glasses
        self.timing = timing
        self.simulated = simulated
        self.online = False
        self.display_ms: deque[float] = deque(
            maxlen=timing.samples_max
        )  # received from the cloud -> last answer
        self.last_display: float | None = None  # when the lens last took something
        self.mic_asked_by_cloud = False
        self.cloud_clock: float | None = None  # the cloud's epoch seconds minus our monotonic seconds
        self._wall_offset = 0.0  # epoch seconds minus monotonic seconds
        self._views: dict[str, _View] = {}
        self._notice_shown = False
        self._notice_last: float | None = None
        self._offline_since: float | None = None
        self._mic_cut = False
        self._status_at: float | None = None
        #: Version of the screen -> the view that it came from, until the glasses say what became of it.
        self._waiting: OrderedDict[int, _View] = OrderedDict()
        self._frame_at: float | None = None
        self._frame = 0
        self._frame_began = 0.0
        self._frame_version = 0
        self._photos: OrderedDict[str, _Photo] = OrderedDict()
        self._was_connected: bool | None = None
        self._notifications = (
            0  # number of the last one, u32; begins at the time of day, so that none comes twice
        )

    # ------------------------------------------------------------------------------------------------ the cloud

    def start(self, now: float) -> list[BridgeEffect]:
        self._offline_since = now
        return []

    def wall_clock(self, epoch_offset: float, utc_offset: float, now: float) -> list[BridgeEffect]:
        """The wall clock: epoch seconds minus monotonic seconds, and local time minus UTC, both in seconds."""
        self._wall_offset = epoch_offset
        return self.glasses_did(self.glasses.clock(profile.Clock(now + epoch_offset, utc_offset), now), now)

    def acknowledged(self, now: float) -> list[BridgeEffect]:
        """The cloud acknowledged the session: announce everything (failure catalogue EDG-01)."""
        self.online = True
        self._offline_since = None
        effects = self.announce(now)
        if self._mic_cut:
            self._mic_cut = False
            if self.mic_asked_by_cloud:  # said on this connection, ahead of the acknowledgement
                effects += self._drive(self.glasses.want(profile.Microphone(True), now), now)
        if self._notice_shown:
            self._notice_shown = False
            effects += self._show(now)
        return effects

    def announce(self, now: float) -> list[BridgeEffect]:
        """Everything observable, the connection first: it decides what the cloud believes of the rest."""
        effects: list[BridgeEffect] = [self._post(self._connection(), now)]
        if self.glasses.level is not None:
            effects.append(self._post(self._battery(), now))
        if self.glasses.head_up is not None:
            effects.append(self._post(HeadPosition(position="up" if self.glasses.head_up else "down"), now))
        if self.glasses.speech is not None:
            effects.append(self._post(Vad(status=self.glasses.speech), now))
        self._status_at = None
        return [*effects, self._post(self._status(), now)]

    def rest(self, now: float) -> list[BridgeEffect]:
        """The edge is about to stop: leave a dark lens behind, not somebody's last words."""
        self._views.clear()
        self._notice_shown = False
        return self._show(now)

    def cloud_lost(self, now: float) -> list[BridgeEffect]:
        """The cloud is away."""
        if self.online or self._offline_since is None:
            self._offline_since = now
        self.online = False
        return []

    def cloud_said(self, message: Message, now: float) -> list[BridgeEffect]:
        """A message from the cloud; what a glasses client need not know is ignored."""
        match message:
            case DisplayEvent():
                return self._display(message, now)
            case MicrophoneStateChange(is_microphone_enabled=on):
                self.mic_asked_by_cloud = on
                if self._mic_cut:
                    return []  # the acknowledgement decides
                if on == self.glasses.mic_wanted:
                    return []
                return self._drive(self.glasses.want(profile.Microphone(on), now), now)
            case SettingsUpdate(settings=settings):
                return self._settings(settings, now)
            case PhotoRequest():
                return self._photo(message, now)
            case RgbLedControl():
                return self._light(message, now)
            case AudioPlayRequest(request_id=request_id):
                return [
                    self._post(
                        AudioPlayResponse(
                            request_id=request_id, success=False, error="the glasses have no speaker"
                        ),
                        now,
                    )
                ]
            case StartRtmpStream(stream_id=stream_id):
                return [
                    self._post(
                        RtmpStreamStatus(
                            stream_id=stream_id, status="error", error_details=self._no("camera")
                        ),
                        now,
                    )
                ]
            case StartStream(stream_id=stream_id):
                return [
                    self._post(
                        StreamStatus(stream_id=stream_id, status="error", error_details=self._no("camera")),
                        now,
                    )
                ]
            case _:
                return []

    def uploaded(self, request_id: str, ok: bool, reason: str, now: float) -> list[BridgeEffect]:
        """The shell has handed a picture on, or could not."""
        photo = self._photos.pop(request_id, None)
        if photo is None:
            return []
        if not ok:
            return [self._photo_failed(request_id, "UPLOAD_FAILED", reason, now)]
        return [self._photo_ended(request_id, photo.request.webhook_url, None, now)]

    # ---------------------------------------------------------------------------------------------- the glasses

    def glasses_did(self, effects: Sequence[GlassesEffect], now: float) -> list[BridgeEffect]:
        """Pass on what the glasses machine returned for an input, translated where it concerns the cloud."""
        out: list[BridgeEffect] = []
        for effect in effects:
            match effect:
                case Happened(arm, event, at):
                    out += self._happened(arm, event, now, now if at is None else at)
                case Changed(state):
                    out += self._changed(state, now)
                case DisplayDone():
                    out += self._displayed(effect, now)
                case RequestDone():
                    out += self._requested(effect, now)
                case Notice(note=note):
                    out.append(effect)
                    if note in (Note.ARM_LOST, Note.ARM_READY, Note.NEEDS_PERSON):
                        self._status_soon(now)
                case _:
                    out.append(effect)
        return out

    # ----------------------------------------------------------------------------------------------------- time

    @property
    def deadline(self) -> float | None:
        times = [self._status_at, self._frame_at]
        if self._offline_since is not None:
            if not self._notice_shown:
                times.append(self._notice_due())
            if self.glasses.mic_wanted:
                times.append(self._offline_since + self.timing.mic_off)
            main = self._views.get("main")
            if main is not None and main.expires is not None:
                times.append(max(main.expires, self._offline_since))
        times += [photo.deadline for photo in self._photos.values()]
        return min((at for at in times if at is not None), default=None)

    def _notice_due(self) -> float | None:
        if self._offline_since is None:
            return None
        due = self._offline_since + self.timing.notice
        return due if self._notice_last is None else max(due, self._notice_last + self.timing.notice_again)

    def handle_deadline(self, now: float) -> list[BridgeEffect]:
        effects: list[BridgeEffect] = []
        if self._status_at is not None and now >= self._status_at:
            self._status_at = None
            effects.append(self._post(self._status(), now))
        if self._frame_at is not None and now >= self._frame_at:
            effects += self._next_frame(now)
        if self._offline_since is not None:
            effects += self._outage(now)
        for request_id in [r for r, photo in self._photos.items() if now >= photo.deadline]:
            del self._photos[request_id]
            effects.append(
                self._photo_failed(request_id, "TIMEOUT", "the glasses sent no picture in time", now)
            )
        return effects

    def _outage(self, now: float) -> list[BridgeEffect]:
        effects: list[BridgeEffect] = []
        assert self._offline_since is not None
        due = self._notice_due()
        if not self._notice_shown and due is not None and now >= due:
            self._notice_shown = True
            self._notice_last = now
            effects += self._show(now)
        if self.glasses.mic_wanted and now >= self._offline_since + self.timing.mic_off:
            self._mic_cut = True
            self.mic_asked_by_cloud = False  # whoever asked may be long gone
            effects += self._drive(self.glasses.want(profile.Microphone(False), now), now)
        main = self._views.get("main")
        if main is not None and main.expires is not None and now >= main.expires:
            # The cloud would have ended it; it is not there to do so.
            del self._views["main"]
            effects += self._show(now)
        return effects

    # -------------------------------------------------------------------------------------------------- the lens

    def _display(self, message: DisplayEvent, now: float) -> list[BridgeEffect]:
        try:
            layout = parse_layout(message.layout)
        except ProtocolError as error:
            return self._result(message.display_id, "failed", error.message, now)
        expires = now + message.duration_ms / 1000 if message.duration_ms else None
        downlink = self._on_its_way(message.timestamp, now)
        view = _View(layout, message.display_id, now, expires, downlink, message.package_name)
        replaced = self._views.get(message.view)
        self._views[message.view] = view
        effects: list[BridgeEffect] = []
        if replaced is not None and replaced not in self._waiting.values():
            effects += self._result(replaced.display_id, "replaced", None, now)  # it never had its turn
        if message.view == self._visible():
            if self.glasses.state in (GlassesState.ABSENT, GlassesState.ASLEEP):
                away = (
                    "not connected" if self.glasses.state is GlassesState.ABSENT else "in their closed case"
                )
                effects += self._result(view.display_id, "failed", f"the glasses are {away}", now)
                view.display_id = None
            effects += self._show(now)
        return effects

    def _on_its_way(self, sent: Timestamp, now: float) -> float | None:
        """Seconds since the cloud wrote this date; None where its clock is unknown or the date is none."""
        if self.cloud_clock is None or not isinstance(sent, str):
            return None
        try:
            date = datetime.fromisoformat(sent)
        except ValueError:
            return None
        age = now + self.cloud_clock - date.timestamp()
        # Dates are whole milliseconds and the offset is known to half a round trip, so a quick way may look negative.
        # What was kept through an outage was not on its way; a date without a zone is a stranger's.
        believable = date.tzinfo is not None and -1.0 <= age <= self.timing.downlink_max
        return max(0.0, age) if believable else None

    def _visible(self) -> str:
        dashboard = self._views.get("dashboard")
        shows = (
            dashboard is not None
            and not isinstance(dashboard.layout, ClearView)
            and _has_content(dashboard.layout)
        )
        return "dashboard" if self.glasses.head_up and shows else "main"

    def _show(self, now: float) -> list[BridgeEffect]:
        """Want on the lens what is due there now."""
        self._frame_at = None
        if self._notice_shown:
            return self._drive(self.glasses.want(profile.Show(profile.TextWall(_OFFLINE_TEXT)), now), now)
        view = self._views.get(self._visible())
        if view is None:
            return self._drive(self.glasses.want(profile.Show(profile.Blank()), now), now)
        if isinstance(view.layout, BitmapAnimation):
            self._frame, self._frame_began = 0, now
            self._frame_version = self.glasses.display_version + 1
        # The screen's next version belongs to this view; said first, for the answer may come at once.
        self._waiting[self.glasses.display_version + 1] = view
        effects: list[BridgeEffect] = []
        while len(self._waiting) > self.timing.waiting_max:
            _, oldest = self._waiting.popitem(last=False)
            effects += self._result(oldest.display_id, "replaced", None, now)
        local = _to_profile(view.layout, 0)
        for words in self.glasses.driver.warnings(local):
            effects.append(Notice(Note.WARNING, "display", words))
        return effects + self._drive(self.glasses.want(profile.Show(local), now), now)

    def _interval(self, animation: BitmapAnimation) -> float:
        return max(self.timing.frame_min, animation.interval / 1000)

    def _frame_done(self, done: DisplayDone) -> None:
        """A frame has reached the lens: when the next one may go. After it the link rests for a quarter of the time that
        it took, so that captions and settings never find it taken for good."""
        view = self._views.get(self._visible())
        if view is None or not isinstance(view.layout, BitmapAnimation) or done.version < self._frame_version:
            return
        last = not view.layout.repeat and self._frame == len(view.layout.frames) - 1
        if last or done.outcome is Outcome.UNSUPPORTED:
            return
        interval = self._interval(view.layout)
        turn = self._frame_began + (int((done.ended - self._frame_began) / interval) + 1) * interval
        busy = done.ended - done.began if done.began is not None else 0.0
        self._frame_at = max(turn, done.ended + min(busy / 4, self.timing.frame_rest_max))

    def _next_frame(self, now: float) -> list[BridgeEffect]:
        """The frame whose turn it is by the clock; those that the link had no time for are left out."""
        self._frame_at = None
        view = self._views.get(self._visible())
        if self._notice_shown or view is None or not isinstance(view.layout, BitmapAnimation):
            return []
        interval, count = self._interval(view.layout), len(view.layout.frames)
        number = int((now - self._frame_began) / interval + 1e-6)
        frame = number % count if view.layout.repeat else min(number, count - 1)
        if frame == self._frame:
            self._frame_at = self._frame_began + (number + 1) * interval  # the same again: nothing to send
            return []
        self._frame = frame
        self._frame_version = self.glasses.display_version + 1
        return self._drive(self.glasses.want(profile.Show(_to_profile(view.layout, frame)), now), now)

    def _displayed(self, done: DisplayDone, now: float) -> list[BridgeEffect]:
        if done.outcome is Outcome.OK:
            self.last_display = done.ended
        self._frame_done(done)
        effects: list[BridgeEffect] = []
        while self._waiting and next(iter(self._waiting)) <= done.version:
            version, view = self._waiting.popitem(last=False)
            if version < done.version:
                effects += self._result(view.display_id, "replaced", None, now)
                continue
            if done.outcome is Outcome.OK:
                self.display_ms.append((done.ended - view.received) * 1000)
                began = done.began if done.began is not None else done.ended
                effects += self._result(
                    view.display_id,
                    "shown",
                    None,
                    now,
                    view.downlink,
                    began - view.received,
                    done.ended - began,
                )
            else:
                effects += self._result(view.display_id, "failed", done.reason or done.outcome.value, now)
            view.display_id = None  # shown again after a reconnect, but told once
        return effects

    def _result(
        self,
        display_id: str | None,
        outcome: str,
        reason: str | None,
        now: float,
        downlink: float | None = None,
        edge: float | None = None,
        ble: float | None = None,
    ) -> list[BridgeEffect]:
        if display_id is None:
            return []
        message = DisplayResult.model_validate(
            {
                "type": "glassbridge_display_result",
                "displayId": display_id,
                "outcome": outcome,
                "reason": reason[:256] if reason else None,
                "downlinkMs": _milliseconds(downlink),
                "edgeMs": _milliseconds(edge),
                "bleMs": _milliseconds(ble),
            }
        )
        return [self._post(message, now)]

    # ---------------------------------------------------------------------------------------------------- events

    def _happened(self, arm: profile.Arm, event: profile.Event, now: float, at: float) -> list[BridgeEffect]:
        """`at` is when it happened, for what was held."""
        model = self.glasses.profile.model
        match event:
            case profile.Touch(gesture):
                touched = self._post(TouchEvent(device_model=model, gesture_name=gesture.value), at)
                taps = (profile.Gesture.SINGLE_TAP, profile.Gesture.LONG_PRESS)
                if self.glasses.profile.taps_are_buttons and gesture in taps:
                    press = _press(gesture is profile.Gesture.LONG_PRESS)
                    return [touched, self._post(ButtonPress(button_id=arm.value, press_type=press), at)]
                return [touched]
            case profile.Button(button_id, long):
                return [self._post(ButtonPress(button_id=button_id, press_type=_press(long)), at)]
            case profile.Head(up):
                moved = self._post(HeadPosition(position="up" if up else "down"), now)
                dashboard = self._views.get("dashboard")
                if dashboard is not None and _has_content(dashboard.layout):
                    return [moved, *self._show(now)]
                return [moved]
            case profile.Battery() | profile.Charging():
                self._status_soon(now)
                return [self._post(self._battery(), now)] if self.glasses.level is not None else []
            case profile.Speech(on):
                return [self._post(Vad(status=on), now)]
            case profile.DashboardOpened(on):
                return [self._post(DashboardState(is_open=on), now)]
            case profile.PhotoData(request_id, data, mime):
                photo = self._photos.get(request_id)
                if photo is None:
                    return []  # nobody waits for it any more
                return [Upload(request_id, photo.request.webhook_url, photo.request.auth_token, data, mime)]
            case profile.PhotoFailed(request_id, reason):
                if self._photos.pop(request_id, None) is None:
                    return []
                return [self._photo_failed(request_id, "CAMERA_FAILED", reason, now)]
            case profile.Wear() | profile.Silent() | profile.CaseBattery() | profile.CaseCharging():
                self._status_soon(now)
                return []
            case _:
                return []

    def _changed(self, state: GlassesState, now: float) -> list[BridgeEffect]:
        self._status_soon(now)
        connected = state is not GlassesState.ABSENT
        if connected == self._was_connected:
            return []
        self._was_connected = connected
        return [self._post(self._connection(), now)]

    def _connection(self) -> GlassesConnectionState:
        connected = self.glasses.state is not GlassesState.ABSENT
        return GlassesConnectionState(
            model_name=self.glasses.profile.model,
            device_model=self.glasses.profile.model,
            status="CONNECTED" if connected else "DISCONNECTED",
            capabilities=dict(self.glasses.profile.capabilities),
        )

    def _battery(self) -> GlassesBatteryUpdate:
        level = self.glasses.level
        return GlassesBatteryUpdate(
            level=-1 if level is None else level, charging=bool(self.glasses.charging)
        )

    def _status_soon(self, now: float) -> None:
        if self._status_at is None:
            self._status_at = now + self.timing.status

    def _status(self) -> EdgeStatus:
        glasses, main = self.glasses, self._views.get("main")
        return EdgeStatus(
            model_name=glasses.profile.model,
            arms={
                arm.value: ArmStatus(
                    state=link.state.value,
                    reason=link.fault.value if link.fault is not None else None,
                    battery=glasses.battery.get(arm),
                    rssi=link.rssi,
                    mtu=link.writer.payload_max + 3 if link.connects else None,
                )
                for arm, link in glasses.arms.items()
            },
            microphone=glasses.mic.value,
            shown_package=main.package if main is not None and _has_content(main.layout) else None,
            simulated=self.simulated,
        )

    # ------------------------------------------------------------------------------------------ settings, requests

    def _settings(self, settings: dict[str, Any], now: float) -> list[BridgeEffect]:
        """The settings that the glasses themselves carry out; names of both client generations."""
        actions: list[profile.Action] = []
        brightness = _number(settings, "brightness")
        auto = _flag(settings, "autoBrightness", "auto_brightness")
        if brightness is not None or auto is not None:
            actions.append(profile.Brightness(int(brightness if brightness is not None else 50), bool(auto)))
        angle = _number(settings, "headUpAngle", "head_up_angle")
        if angle is not None:
            actions.append(profile.HeadUpAngle(int(angle)))
        height = _number(settings, "dashboard_height", "dashboardHeight")
        depth = _number(settings, "dashboard_depth", "dashboardDepth")
        if height is not None or depth is not None:
            actions.append(
                profile.DisplayPosition(
                    int(height if height is not None else 4), int(depth if depth is not None else 5)
                )
            )
        wear = _flag(settings, "sensingEnabled", "sensing_enabled")
        if wear is not None:
            actions.append(profile.WearDetection(wear))
        silent = _flag(settings, "silentMode", "silent_mode")
        if silent is not None:
            actions.append(profile.SilentMode(silent))
        effects: list[BridgeEffect] = []
        for action in actions:
            effects += self._drive(self.glasses.want(action, now), now)
        return effects

    def _photo(self, request: PhotoRequest, now: float) -> list[BridgeEffect]:
        if request.request_id in self._photos:
            return []  # said again: the first one is under way
        if len(self._photos) >= self.timing.photos_max:
            return [
                self._photo_failed(request.request_id, "CAMERA_BUSY", "too many photos are under way", now)
            ]
        self._photos[request.request_id] = _Photo(request, now + self.timing.photo_wait)
        action = profile.TakePhoto(
            request.request_id,
            request.size,
            request.compress,
            silent=bool(request.silent),
            flash=request.flash is not False,
        )
        return self._drive(self.glasses.request(request.request_id, action, now), now)

    def notify(self, app_id: str, app_name: str, title: str, text: str, now: float) -> list[BridgeEffect]:
        """A notification arrived on this host: the cloud is told as a phone tells it, and glasses that show
        notifications in a style of their own do so."""
        epoch = int(now + self._wall_offset)
        self._notifications = max(self._notifications + 1, epoch) & 0xFFFF_FFFF
        number = self._notifications
        message = PhoneNotification(
            notification_id=str(number),
            app=app_name,
            title=title,
            content=text,
            priority="normal",
            package_name=app_id,
        )
        action = profile.Notify(number, app_id, app_name, title, "", text, epoch)
        request_id = f"notify {number}"
        return [self._post(message, now), *self._drive(self.glasses.request(request_id, action, now), now)]

    @property
    def shows_notifications(self) -> bool:
        """Whether this model has a style of its own for them."""
        example = profile.Notify(1, "a", "a", "a", "", "a", 0)
        try:
            return any(self.glasses.driver.commands(arm, example) for arm in self.glasses.profile.arms)
        except profile.Unsupported:
            return False

    def _light(self, request: RgbLedControl, now: float) -> list[BridgeEffect]:
        action = profile.Light(
            request.request_id,
            on=request.action == "on",
            color=request.color or "white",
            on_time=(request.ontime or 1000.0) / 1000,
            off_time=(request.offtime or 0.0) / 1000,
            count=int(request.count or 1),
        )
        return self._drive(self.glasses.request(f"led {request.request_id}", action, now), now)

    def _requested(self, done: RequestDone, now: float) -> list[BridgeEffect]:
        ok = done.outcome is Outcome.OK
        reason = done.reason or done.outcome.value
        if done.request_id in self._photos:
            if ok:
                return []  # the picture follows
            del self._photos[done.request_id]
            code = "UNSUPPORTED" if done.outcome is Outcome.UNSUPPORTED else "CAMERA_FAILED"
            return [self._photo_failed(done.request_id, code, reason, now)]
        if done.request_id.startswith("led "):
            request_id = done.request_id.removeprefix("led ")
            response = RgbLedControlResponse(request_id=request_id, success=ok, error=None if ok else reason)
            return [self._post(response, now)]
        return []

    def _photo_failed(self, request_id: str, code: str, reason: str, now: float) -> Post:
        return self._photo_ended(request_id, None, ErrorDetail(code=code, message=reason[:4096]), now)

    def _photo_ended(self, request_id: str, url: str | None, error: ErrorDetail | None, now: float) -> Post:
        return self._post(
            PhotoResponse(
                request_id=request_id,
                success=error is None,
                photo_url=url,
                error=error,
                error_code=error.code if error else None,
                error_message=error.message if error else None,
            ),
            now,
        )

    def _no(self, what: str) -> str:
        return f"{self.glasses.profile.model} has no {what} that the edge can stream from"

    def _drive(self, effects: Sequence[GlassesEffect], now: float) -> list[BridgeEffect]:
        return self.glasses_did(effects, now)

    def _post(self, message: Message, now: float) -> Post:
        """A message with the wall time of what it reports; milliseconds, as phones send them."""
        message.timestamp = round((now + self._wall_offset) * 1000)
        return Post(message)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else max(0.0, round(seconds * 1000, 2))


def _press(long: bool) -> str:
    return "long" if long else "short"


def _number(settings: dict[str, Any], *names: str) -> float | None:
    for name in names:
        value = settings.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6:
            return float(value)
    return None


def _flag(settings: dict[str, Any], *names: str) -> bool | None:
    for name in names:
        value = settings.get(name)
        if isinstance(value, bool):
            return value
    return None


def _has_content(layout: Layout) -> bool:
    match layout:
        case TextWall(text=text):
            return bool(text.strip())
        case DoubleTextWall(top_text=a, bottom_text=b) | DashboardCard(left_text=a, right_text=b):
            return bool((a + b).strip())
        case ReferenceCard(title=a, text=b):
            return bool((a + b).strip())
        case ClearView():
            return False
        case _:
            return True


def _to_profile(layout: Layout, frame: int) -> profile.Layout:
    """The same thing in the words of the drivers, which know nothing of the wire."""
    match layout:
        case TextWall(text=text):
            return profile.TextWall(text)
        case DoubleTextWall(top_text=top, bottom_text=bottom):
            return profile.DoubleTextWall(top, bottom)
        case ReferenceCard(title=title, text=text):
            return profile.ReferenceCard(title, text)
        case DashboardCard(left_text=left, right_text=right):
            return profile.DashboardCard(left, right)
        case BitmapView(data=data):
            return profile.Picture(data)
        case BitmapAnimation(frames=frames):
            return profile.Picture(frames[frame])
        case ClearView():
            return profile.Blank()
