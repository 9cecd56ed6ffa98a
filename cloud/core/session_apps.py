"""The apps of one session: which are wanted, how each lives, and what each says.

Rules: the socket says whose a frame is; names inside are compared, never believed. What the wearer wanted is changed by
the wearer (and by the foreground rule) only. Until the user's data is known, wishes and sockets wait here.
Sources: wire spec 3; failure catalogue APP, SUB, CON-03, SEC.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, assert_never

from cloud.core import app_lifecycle as lifecycle
from cloud.core import requests as asks
from cloud.core.app_lifecycle import AppLifecycle, AppReason, AppState, Stage, StopReason
from cloud.core.capabilities import missing_hardware
from cloud.core.clock import WallClock
from cloud.core.effects import (
    AppMoved,
    AudioStreamEnded,
    AudioStreamOpened,
    CancelSessionRequest,
    CloseApp,
    Effect,
    EndpointVerdict,
    LoadApp,
    PingApp,
    PostSessionRequest,
    PostStopRequest,
    Presence,
    Record,
    SaveWanted,
    SendAudio,
    SendToApps,
    StartSettled,
    StopSettled,
    ToOtherUsers,
)
from cloud.core.session_checks import is_plain_display, request_id_of, too_many
from cloud.core.session_delivery import AppDelivery
from cloud.core.session_glasses import GlassesPort
from cloud.core.session_machines import Machines
from cloud.core.session_types import Agenda, AppInfo, Facts, SessionApp, SessionTiming
from cloud.core.settings import DEVICE_KEYS, app_settings
from wire.codec import check_depth, encode, parse_object, validate
from wire.errors import CloseCode, ErrorCode, ProtocolError
from wire.layouts import flatten, layout_to_wire, parse_layout
from wire.messages import APP_TO_CLOUD
from wire.messages import app_to_cloud as app
from wire.messages import cloud_to_app as to_app
from wire.messages.base import Delivery, Message
from wire.streams import grants

_CONNECTED: Final = AppState.CONNECTED  # looking up a member of an Enum costs 50 ns


class SessionApps:
    """See the module. `records` is a live, read-only view; `random` returns numbers in [0, 1)."""

    def __init__(
        self,
        user_id: str,
        *,
        port: GlassesPort,
        delivery: AppDelivery,
        machines: Machines,
        facts: Facts,
        agenda: Agenda,
        records: Mapping[str, AppInfo],
        websocket_url: str,
        random: Callable[[], float],
        clock: WallClock,
        timing: SessionTiming,
        apps_max: int,
    ) -> None:
        self.user_id = user_id
        self.timing = timing
        self.clock = clock
        self._port = port
        self._delivery = delivery
        self._machines = machines
        self._facts = facts
        self._agenda = agenda
        self._records = records
        self._url = websocket_url
        self._random = random
        self._apps_max = apps_max
        self._apps = delivery.apps
        self.subscriptions = machines.subscriptions
        self.microphone = machines.microphone
        self.display = machines.display
        self.dashboard = machines.dashboard
        self.requests = machines.requests
        self.loaded = False  # the user's data is known, or was given up on
        self.restore_at: float | None = None
        self._restore: list[str] = []  # wanted apps whose turn to be restored has not come
        self._early_starts: OrderedDict[str, None] = OrderedDict()
        self._early_apps: dict[str, int] = {}
        self._early_stops: set[str] | None = set()  # stops that what is being read does not know of yet
        self.unknown_messages = 0

    def deadlines(self) -> Iterable[float | None]:
        """The next restore, and every app's own."""
        yield self.restore_at
        for each in self._apps.values():
            yield each.life.deadline

    def handle_deadline(self, now: float) -> list[Effect]:
        """Do what is due; early calls do nothing."""
        out: list[Effect] = []
        if self.restore_at is not None and now >= self.restore_at:
            self.restore_at = None
            out += self._start_restored(now)
        for each in list(self._apps.values()):
            out += self.moved(each, each.life.handle_deadline(now), now)
        return out

    # ================================================================================================ the user's data

    def not_stopped(self, wanted: Iterable[str]) -> tuple[str, ...]:
        """Of the stored wishes, those that the wearer has not taken back while they were being read."""
        stops, self._early_stops = self._early_stops or set(), None
        return tuple(p for p in wanted if p not in stops)

    def known(self, stored: Iterable[str], now: float) -> list[Effect]:
        """What the wearer wants is known, or was given up on; once more if storage answers late."""
        first, self.loaded = not self.loaded, True
        wanted = [p for p in stored if p in self._records]
        self._restore = [*self._restore, *(p for p in wanted if p not in self._restore)]
        out = self._adopt(wanted, now)
        if first and not any(self._records[p].kind == "standard" for p in wanted):
            out += self._machines.displayed(self.display.wipe(now), now)
        return out

    def resume(self, now: float) -> list[Effect]:
        """After `known`: bring back what was running, then start what was asked for meanwhile."""
        out: list[Effect] = []
        if self._restore:
            if self.timing.restore_delay > 0:
                self.restore_at = now + self.timing.restore_delay
            elif self._port.connection_id is not None:
                out += self._start_restored(now)
        starts, self._early_starts = self._early_starts, OrderedDict()
        for package in starts:
            out += self.start(package, now)
        return out

    def _adopt(self, wanted: list[str], now: float) -> list[Effect]:
        """Apps that came back by themselves while the user was being read: welcome if wanted, else refused."""
        out: list[Effect] = []
        waiting, self._early_apps = self._early_apps, {}
        for package, connection_id in waiting.items():
            each = self._apps[package]
            if package in wanted:
                each.life.adopt()
            out += self.moved(each, each.life.identified(connection_id, now), now)
        return out

    def _start_restored(self, now: float) -> list[Effect]:
        """Bring back what the wearer had running; of several foreground apps only the newest (APP-16)."""
        packages, self._restore = self._restore, []
        standard = [p for p in packages if p in self._records and self._records[p].kind == "standard"]
        out: list[Effect] = []
        for package in packages:
            if package not in self._records:
                continue
            if package in standard[:-1]:
                out.append(SaveWanted(package, False))  # a later start of the wearer took its place
                continue
            known = self._apps.get(package)
            if known is not None and known.life.state is not AppState.DISCONNECTED:
                continue
            rivals = [a for a in self._apps.values() if a.life.wanted and a.info.kind == "standard"]
            if package in standard and rivals:
                if known not in rivals:
                    out.append(SaveWanted(package, False))
                continue
            out += self.start(package, now, by_user=False)
        return out

    def found_on_lens(self, package: str, now: float) -> list[Effect]:
        """The glasses client has told whose display it holds; after our own restart nobody else knows."""
        each = self._apps.get(package)
        owned = package in self._restore or (each is not None and each.life.wanted)
        return self._machines.displayed(self.display.found(package, owned, now), now)

    def glasses_here(self, now: float) -> list[Effect]:
        """The glasses have come back: restore what waited for them, and tell every app's life and requests."""
        out: list[Effect] = []
        if self.loaded and self._restore and self.restore_at is None:
            out += self._start_restored(now)
        for each in list(self._apps.values()):
            out += self.moved(each, each.life.glasses(True, now), now)
            out += self._machines.asked(self.requests.app_returned(each.info.package), now)
        return out

    def glasses_gone(self, now: float) -> list[Effect]:
        """The glasses are gone: attempts without them are not worth a webhook."""
        out: list[Effect] = []
        for each in list(self._apps.values()):
            out += self.moved(each, each.life.glasses(False, now), now)
        return out

    # ================================================================================================ the end

    def end(self, now: float) -> list[Effect]:
        """The session is over; what the wearer wants stays wanted."""
        self.restore_at, self._restore = None, []
        out: list[Effect] = [
            StartSettled(package, False, Stage.CONNECTION, "the session has ended")
            for package in self._early_starts
        ]
        self._early_starts.clear()
        for each in list(self._apps.values()):
            waiting = self._early_apps.pop(each.info.package, None)
            if waiting is not None:
                out += self.refuse(each.info.package, waiting, now)
            out += self.moved(each, each.life.stop(StopReason.SYSTEM_STOP, now, still_wanted=True), now)
        return out

    def export(self, now: float, *, complete: bool) -> dict[str, Any]:
        """Every app that the wearer wants. `complete`: with the frames that no app has proven to have."""
        streams = self.subscriptions.export()["apps"]
        out: dict[str, Any] = {}
        for package, each in self._apps.items():
            if each.life.wanted:
                out[package] = {
                    "life": each.life.export(now),
                    "values": each.values,
                    "streams": streams.get(package, []),
                }
                if complete:
                    out[package]["log"] = each.log.export(now)
        return {"apps": out, "waiting": list(self._restore)}

    def restore(self, state: Mapping[str, Any], now: float) -> list[Effect]:
        """Go on with the apps of another node. Raises KeyError, TypeError or ValueError for what cannot be read."""
        out: list[Effect] = []
        for package, given in state["apps"].items():
            info = self._records.get(package)
            if info is None:
                continue
            each = self._new_app(info)
            each.values = dict(given.get("values", {}))
            moves = each.life.restore(given["life"], now)
            if moves:
                self.subscriptions.restore(
                    package, each.session_id, info.permissions, given.get("streams", ())
                )
            if "log" in given:
                each.log.restore(given["log"], now)
            out += self.moved(each, moves, now)
        return out

    def drain(self, *, close: bool = True) -> list[Effect]:
        """The process ends: every socket is told to come back; what is still answered finds nobody. Without `close`
        the sockets stay: the session goes on at another node, and they with it."""
        out: list[Effect] = []
        for each in self._apps.values():
            if each.life.connection_id is not None:
                if close:
                    out.append(
                        CloseApp(each.life.connection_id, CloseCode.SERVICE_RESTART, "Server restarting")
                    )
                each.life.connection_id = None
            out.append(CancelSessionRequest(each.info.package, each.life.cycle))
            if each.life.is_starting:
                out.append(StartSettled(each.info.package, False, Stage.CONNECTION, "the server restarts"))
        self._apps.clear()
        return out

    def fail(self) -> list[Effect]:
        """A bug of ours: every socket is closed, everyone who waits is answered."""
        out: list[Effect] = []
        for each in self._apps.values():
            if each.life.connection_id is not None:
                out.append(
                    CloseApp(each.life.connection_id, CloseCode.SERVICE_RESTART, "Internal server error")
                )
            out.append(StartSettled(each.info.package, False, Stage.CONNECTION, "internal error"))
            out.append(StopSettled(each.info.package))
        self._apps.clear()
        return out

    @property
    def is_over(self) -> bool:
        """Whether no app has anything left to do."""
        return all(each.life.state is AppState.DISCONNECTED for each in self._apps.values())

    @property
    def is_anyone_here(self) -> bool:
        """Whether any app has a socket."""
        return any(each.life.connection_id for each in self._apps.values())

    # ================================================================================================ wanted

    def start(self, package: str, now: float, *, by_user: bool = True) -> list[Effect]:
        """The wearer wants an app; the outcome is a `StartSettled`."""
        if self._early_stops is not None and by_user:
            self._early_stops.discard(package)
        if not self.loaded:
            self._early_starts[package] = None
            return []
        info = self._records.get(package)
        if info is None:
            return [StartSettled(package, False, Stage.WEBHOOK, f"App {package} not found")]
        lacking = missing_hardware(info.hardware, self._facts.capabilities)
        if lacking:
            return [
                StartSettled(
                    package, False, Stage.HARDWARE, f"the glasses have no {', '.join(lacking).lower()}"
                )
            ]
        if by_user and self._port.connection_id is None:
            return [
                StartSettled(package, False, Stage.CONNECTION, "the glasses are not connected at the moment")
            ]
        each = self._apps.get(package)
        if each is None:
            if len(self._apps) >= self._apps_max and not self._make_room():
                return [StartSettled(package, False, Stage.CONNECTION, f"{self._apps_max} apps run already")]
            each = self._new_app(info)
        each.info = info
        out: list[Effect] = []
        if info.kind == "standard":
            for other in list(self._apps.values()):
                if other is not each and other.info.kind == "standard" and other.life.wanted:
                    out += self._stop(other, StopReason.SYSTEM_STOP, now)
            for waiting in [p for p in self._restore if p != package]:
                if waiting in self._records and self._records[waiting].kind == "standard":
                    self._restore.remove(waiting)
                    out.append(SaveWanted(waiting, False))
        if by_user:
            out.append(SaveWanted(package, True))
        idle = not each.life.is_starting and not each.life.is_running
        if by_user and idle:
            each.heard_until = now
            each.made_up.clear()
        moves = each.life.start(now, by_user=by_user)
        if by_user and idle and info.package != self._machines.dashboard_package:
            out += self._machines.displayed(self.display.starting(package, info.name, now), now)
        return out + self.moved(each, moves, now)

    def stop(self, package: str, now: float, reason: StopReason = StopReason.USER_DISABLED) -> list[Effect]:
        """The wearer no longer wants an app; the end is a `StopSettled`."""
        self._early_starts.pop(package, None)
        if self._early_stops is not None:
            self._early_stops.add(package)
        if package in self._restore:
            self._restore.remove(package)
        each = self._apps.get(package)
        # One that has not come back since our restart may still have its text on the lens.
        out = self._machines.displayed(self.display.stopped(package, now), now)
        if each is None:
            return [*out, SaveWanted(package, False), StopSettled(package)]
        return [*out, *self._stop(each, reason, now)]

    def _stop(self, each: SessionApp, reason: StopReason, now: float) -> list[Effect]:
        self.microphone.released()
        return [
            SaveWanted(each.info.package, False),
            *self.moved(each, each.life.stop(reason, now), now),
        ]

    def _new_app(self, info: AppInfo) -> SessionApp:
        each = SessionApp(
            info,
            f"{self.user_id}-{info.package}",
            AppLifecycle(info.package, self.timing.lifecycle, random=self._random),
        )
        self._apps[info.package] = each
        each.life.glasses(self._port.connection_id is not None, 0.0)
        return each

    def _make_room(self) -> bool:
        """Forget one app that is neither wanted nor running."""
        for package, each in self._apps.items():
            if not each.life.wanted and each.life.state is AppState.DISCONNECTED:
                del self._apps[package]
                return True
        return False

    def server_seen(self, package: str, now: float) -> list[Effect]:
        """The app's server has shown signs of life: do not wait for the next attempt."""
        each = self._apps.get(package)
        return [] if each is None else self.moved(each, each.life.retry_now(now), now)

    def record_changed(self, package: str, now: float) -> list[Effect]:
        """The app's record was replaced or deleted: permissions and settings follow at once."""
        each = self._apps.get(package)
        if each is None:
            return []
        info = self._records.get(package)
        if info is None:
            out = self._stop(each, StopReason.SYSTEM_STOP, now)
            each.info = AppInfo(package, each.info.name, each.info.base_url)
            return out
        each.info = info
        return self._machines.subscribed(
            self.subscriptions.permissions_changed(package, info.permissions), now
        )

    def settings_changed(self, package: str, values: Mapping[str, Any], now: float) -> list[Effect]:
        """The wearer changed settings of an app; `values` is the whole map."""
        each = self._apps.get(package)
        if each is None:
            return []
        each.values = dict(values)
        if each.life.state is not AppState.CONNECTED:
            return []  # the next acknowledgement carries them
        message = to_app.AppSettingsUpdate(
            package_name=package,
            session_id=each.session_id,
            settings=app_settings(each.info.settings, each.values),
        )
        # The SDK overwrites its system settings with this list; the full map must follow (wire spec rule 24).
        return [*self._delivery.to_app(each, message, now), *self.push_system_settings(each, now)]

    def push_system_settings(self, each: SessionApp, now: float) -> list[Effect]:
        message = to_app.AugmentosSettingsUpdate(
            session_id=each.session_id, settings=dict(self._facts.settings)
        )
        return self._delivery.to_app(each, message, now)

    # ================================================================================================ observed

    def settings_loaded(
        self, package: str, cycle: int, values: Mapping[str, Any] | None, now: float
    ) -> list[Effect]:
        """The user's settings of an app; None when storage failed: the app gets its defaults."""
        each = self._apps.get(package)
        if each is None or cycle != each.life.cycle:
            return []
        if values is not None:
            each.values = dict(values)
        return self.moved(each, each.life.loaded(cycle, now), now)

    def request_sent(self, package: str, cycle: int, now: float) -> list[Effect]:
        """The session_request leaves for the app's server. See AppLifecycle.request_sent."""
        each = self._apps.get(package)
        return [] if each is None else self.moved(each, each.life.request_sent(cycle, now), now)

    def webhook_answered(
        self,
        package: str,
        cycle: int,
        now: float,
        *,
        ok: bool,
        message: str = "",
        from_app: bool = False,
        retry_after: float = 0.0,
    ) -> list[Effect]:
        """The session_request has an outcome. See AppLifecycle.webhook_answered."""
        each = self._apps.get(package)
        if each is None:
            return []
        moves = each.life.webhook_answered(
            cycle, now, ok=ok, message=message, from_app=from_app, retry_after=retry_after
        )
        return self.moved(each, moves, now)

    def stop_answered(self, package: str, cycle: int, now: float) -> list[Effect]:
        """The stop webhook has an outcome, whichever."""
        each = self._apps.get(package)
        return [] if each is None else self.moved(each, each.life.stop_answered(cycle, now), now)

    def identified(self, package: str, connection_id: int, now: float) -> list[Effect]:
        """A socket has proven, by the app's key, to be this app."""
        each = self._apps.get(package)
        if each is None:
            info = self._records.get(package)
            restoring = package in self._restore
            if info is None or (self.loaded and not restoring):
                return self.refuse(package, connection_id, now)
            # After our own restart the SDK may be back before anybody knows whether its app is wanted, or after the
            # glasses but before its turn to be restored.
            each = self._new_app(info)
            if restoring:
                each.life.adopt()
        if not self.loaded:
            out: list[Effect] = []
            if package in self._early_apps:
                older, connection_id = sorted((self._early_apps[package], connection_id))
                out.append(CloseApp(older, CloseCode.POLICY, "replaced"))
            self._early_apps[package] = connection_id
            return out
        return self.moved(each, each.life.identified(connection_id, now), now)

    def lost(self, package: str, connection_id: int, now: float) -> list[Effect]:
        """A socket of an app is closed. Only its current one counts."""
        each = self._apps.get(package)
        if self._early_apps.get(package) == connection_id:
            del self._early_apps[package]
        if each is None or each.life.connection_id != connection_id:
            return []
        each.early.clear()
        return self.moved(each, each.life.lost(connection_id, now), now)

    def pong(self, package: str, connection_id: int, payload: bytes, now: float) -> list[Effect]:
        """The app's WebSocket library has answered a ping: what came before it has arrived."""
        each = self._apps.get(package)
        if each is None or each.life.connection_id != connection_id:
            return []
        self._delivery.proved(each, payload)
        return []

    def refuse(self, package: str, connection_id: int, now: float) -> list[Effect]:
        error = to_app.TpaConnectionError(
            code=ErrorCode.APP_NOT_STARTED,
            message=f"App not started for this user: {package}",
            timestamp=self.clock.iso(now),
        )
        return [
            SendToApps((connection_id,), encode(error), Delivery.RELIABLE, None, error.type),
            CloseApp(connection_id, CloseCode.POLICY, "App not started"),
        ]

    def moved(self, each: SessionApp, moves: Iterable[lifecycle.Effect], now: float) -> list[Effect]:
        out: list[Effect] = []
        package = each.info.package
        for move in moves:
            match move:
                case lifecycle.Launch(cycle, first, by_user):
                    if first:
                        out.append(LoadApp(package, cycle))
                    if each.life.state is AppState.CONNECTING:
                        continue  # it came by itself: only its settings are missing
                    out.append(
                        PostSessionRequest(
                            package,
                            cycle,
                            each.info.base_url,
                            {
                                "type": "session_request",
                                "sessionId": each.session_id,
                                "userId": self.user_id,
                                "timestamp": self.clock.iso(now),
                                "mentraOSWebsocketUrl": self._url,
                                "augmentOSWebsocketUrl": self._url,
                            },
                            self.timing.lifecycle.webhook,
                            by_user,
                        )
                    )
                case lifecycle.CancelLaunch(cycle):
                    out.append(CancelSessionRequest(package, cycle))
                case lifecycle.Accepted(connection_id, fresh):
                    out += self._accept(each, connection_id, fresh, now)
                case lifecycle.Refused(connection_id):
                    out += self.refuse(package, connection_id, now)
                case lifecycle.CloseSocket(connection_id, code, reason):
                    if each.life.state is AppState.DISCONNECTED and code == CloseCode.NORMAL:
                        stopped = to_app.AppStopped(reason=_told(each.life.reason))
                        stopped.timestamp = self.clock.iso(now)
                        out.append(
                            SendToApps(
                                (connection_id,), encode(stopped), Delivery.RELIABLE, None, stopped.type
                            )
                        )
                    out.append(CloseApp(connection_id, code, reason))
                case lifecycle.PostStop(cycle, reason):
                    out.append(
                        PostStopRequest(
                            package,
                            cycle,
                            each.info.base_url,
                            {
                                "type": "stop_request",
                                "sessionId": each.session_id,
                                "userId": self.user_id,
                                "reason": reason.value,
                                "timestamp": self.clock.iso(now),
                            },
                            5.0,  # APP-06; nothing waits for it
                        )
                    )
                case lifecycle.Started(ok, stage, message, by_user):
                    out.append(StartSettled(package, ok, stage, message))
                    if ok:
                        out.append(EndpointVerdict(each.info.base_url, True))
                    else:
                        each.last_error = message
                        if each.life.state in (AppState.ERROR, AppState.DISCONNECTED) and stage in (
                            Stage.WEBHOOK,
                            Stage.TIMEOUT,
                        ):
                            out.append(EndpointVerdict(each.info.base_url, False))
                        if each.life.state is AppState.STOPPING or not by_user:
                            out += self._machines.displayed(self.display.stopped(package, now), now)
                        else:
                            out += self._machines.displayed(self.display.failed(package, now), now)
                case lifecycle.Stopped():
                    out.append(StopSettled(package))
                case lifecycle.Forget():
                    out += self._forget(each, now)
                case lifecycle.Moved(before, after, reason):
                    out.append(AppMoved(package, before, after, reason))
                    out += self._app_moved(each, before, after, now)
                case _:
                    assert_never(move)
        return out

    def _app_moved(self, each: SessionApp, before: AppState, after: AppState, now: float) -> list[Effect]:
        out: list[Effect] = []
        if before is AppState.CONNECTED:
            each.heard_until = now
            each.made_up.clear()
        elif before is AppState.GRACE and after is AppState.CONNECTED:
            each.heard_until = float("inf")  # its own log has what it missed
        if self._delivery.missed:
            out.append(Record("apps_missed", {"count": self._delivery.missed}))
            self._delivery.missed = 0
        self._agenda.announce(now)
        if after is AppState.CONNECTED:
            if not each.present:
                each.present = True
                out.append(Presence(each.info.package, each.session_id, True))
        elif after is AppState.GRACE:
            each.away_since = now
            self.subscriptions.lost(each.info.package)
        elif each.present and after is not AppState.CONNECTING:
            each.present = False
            self.subscriptions.lost(each.info.package)
            out.append(Presence(each.info.package, each.session_id, False))
        return out

    def _forget(self, each: SessionApp, now: float) -> list[Effect]:
        """The app no longer counts: its streams, display, dashboard line and open requests go."""
        package = each.info.package
        each.log.clear()
        out = self._machines.subscribed(self.subscriptions.removed(package), now)
        out += self._machines.displayed(self.display.stopped(package, now), now)
        out += self._machines.rendered(self.dashboard.gone(package, now), now)
        out += self._machines.asked(self.requests.app_gone(package), now)
        return out

    def _accept(self, each: SessionApp, connection_id: int, fresh: bool, now: float) -> list[Effect]:
        package = each.info.package
        info = self._records.get(package, each.info)
        each.info = info
        if fresh:
            each.log.clear()
            self.subscriptions.removed(package)  # another instance starts with an empty list (SUB-01)
        self.subscriptions.connected(package, each.session_id, info.permissions, connection_id, now)
        self.microphone.reconnected(now)
        each.accepted_at = now
        each.bad.clear()
        ack = to_app.TpaConnectionAck(
            session_id=each.session_id,
            settings=app_settings(info.settings, each.values),
            mentraosSettings=dict(self._facts.settings),
            augmentosSettings=dict(self._facts.settings),
            capabilities=self._facts.capabilities,
            subscriptions=list(self.subscriptions.of(package)),
            user_id=self.user_id,
        )
        state = {k: v for k, v in self._facts.device.items() if k in DEVICE_KEYS}
        snapshot = to_app.DeviceStateUpdate(session_id=each.session_id, state=state, full_snapshot=True)
        out: list[Effect] = []
        for message in (ack, snapshot):
            message.timestamp = self.clock.iso(now)
            out.append(SendToApps((connection_id,), encode(message), Delivery.RELIABLE, None, message.type))
        if not fresh:
            frames, ping = each.log.replay(now)
            out += [
                SendToApps((connection_id,), frame, Delivery.RELIABLE, None, "replay", name)
                for frame, name in frames
            ]
            if ping is not None:
                out.append(PingApp(connection_id, ping))
            if connection_id in self.subscriptions.audio_receivers:
                sound = self._delivery.sound_since(each.away_since, now)
                out += [SendAudio((connection_id,), pcm) for pcm in sound]
        foreground = info.kind == "standard"
        out += self._machines.displayed(self.display.running(package, foreground=foreground, now=now), now)
        out += self._machines.asked(self.requests.app_returned(package), now)
        out += self._machines.needs(now)
        early, each.early = each.early, []
        for sender, frame in early:
            if sender == connection_id:
                out += self.text(package, connection_id, frame, now)
        return out

    # ================================================================================================ what they say

    def text(self, package: str, connection_id: int, data: bytes, now: float) -> list[Effect]:
        """One text frame of an app. The socket says whose it is."""
        each = self._apps.get(package)
        if each is None or (
            connection_id != each.life.connection_id and connection_id != self._early_apps.get(package)
        ):
            return []
        if each.life.state is not _CONNECTED:
            self._agenda.known = False
            return self._keep_early(each, connection_id, data)
        request_id: str | None = None
        try:
            payload = parse_object(data)
            if is_plain_display(payload, package):
                view, layout, duration = payload["view"], payload["layout"], payload.get("durationMs")
                force = payload.get("forceDisplay", False)
                if duration is not None:
                    duration /= 1000.0
                show = self.display.again(package, view, layout, duration, now, force)
                if show is not None:
                    out = self._machines.shown_again(show, now)
                    agenda = self._agenda
                    if (
                        show.duration is None
                    ):  # so no deadline came nearer; one that a view had is armed already
                        agenda.steady = agenda.known and not agenda.nearer and not self._port.link.sequenced
                    return out
                requested = self.display.request(package, view, layout, duration, now, force=force)
                return self._machines.displayed(requested, now)
            check_depth(data, payload)
            self._agenda.known = False
            request_id = request_id_of(payload)
            message = validate(APP_TO_CLOUD, payload)
            if message is None:
                self.unknown_messages += 1
                return [Record("unknown_message", {"package": package})]
            claimed = getattr(message, "package_name", None)
            if claimed is not None and claimed != package:
                raise ProtocolError(
                    ErrorCode.WRONG_PACKAGE,
                    f"this connection belongs to {package}, not to the package named in the message",
                    field="packageName",
                )
            return self._said(each, message, payload, connection_id, now)
        except ProtocolError as error:
            self._agenda.known = False
            return self._bad_frame(each, connection_id, error, request_id, now)

    def _keep_early(self, each: SessionApp, connection_id: int, data: bytes) -> list[Effect]:
        """Frames sent before the acknowledgement wait for it, in order (CON-03)."""
        size = sum(len(frame) for _, frame in each.early) + len(data)
        if len(each.early) >= self.timing.early_frames_max or size > self.timing.early_bytes_max:
            return [Record("early_frame_dropped", {"package": each.info.package, "bytes": len(data)})]
        each.early.append((connection_id, data))
        return []

    def _bad_frame(
        self, each: SessionApp, connection_id: int, error: ProtocolError, request_id: str | None, now: float
    ) -> list[Effect]:
        answer = to_app.TpaConnectionError(
            code=error.code, message=error.message, field=error.field, request_id=request_id
        )
        out: list[Effect] = [
            Record(
                "bad_app_frame",
                {"package": each.info.package, "code": error.code, "field": error.field},
            ),
            *self._delivery.to_app(each, answer, now),
        ]
        if too_many(each.bad, now, self.timing):
            out.append(CloseApp(connection_id, CloseCode.POLICY, "too many bad messages"))
        return out

    def _said(
        self, each: SessionApp, message: Message, payload: dict[str, Any], connection_id: int, now: float
    ) -> list[Effect]:
        package, sid = each.info.package, each.session_id
        match message:
            case app.DisplayRequest():
                return self._display_request(each, message, payload, now)
            case app.SubscriptionUpdate():
                return self._machines.subscribed(
                    self.subscriptions.update(package, message.subscriptions, now), now
                )
            case app.TpaConnectionInit():
                # The same app again on the same socket: another acknowledgement is harmless (wire spec 3.1).
                return self._accept(each, connection_id, False, now)
            case app.DashboardContentUpdate():
                text = flatten(message.content)
                return self._machines.rendered(self.dashboard.content(package, text, message.modes, now), now)
            case app.DashboardModeChange():
                self._only_dashboard(each)
                return self._machines.rendered(self.dashboard.set_mode(message.mode, now), now)
            case app.DashboardSystemUpdate():
                self._only_dashboard(each)
                text = flatten(message.content)
                return self._machines.rendered(
                    self.dashboard.section(package, message.section, text, now), now
                )
            case app.AudioPlay():
                return self._machines.asked(self.requests.play(package, sid, message, now), now)
            case app.AudioStop():
                return self._machines.asked(self.requests.stop_audio(package, message), now)
            case app.AppPhotoRequest():
                return self._machines.asked(self._photo(each, message, now), now)
            case app.RtmpStreamRequest():
                refusal = self._camera_refusal(each)
                if refusal is not None:
                    error = to_app.AppRtmpStreamStatus(
                        session_id=sid, stream_id="", status="error", error_details=refusal[1], app_id=package
                    )
                    return self._delivery.to_app(each, error, now)
                started = self.clock.iso(now)
                return self._machines.asked(
                    self.requests.start_stream(package, sid, message, started, now), now
                )
            case app.RtmpStreamStop():
                return self._machines.asked(self.requests.stop_stream(package, message), now)
            case app.ManagedStreamRequest():
                return self._machines.asked(self.requests.managed_stream(package, sid), now)
            case app.ManagedStreamStop():
                return self._machines.asked(self.requests.managed_stream_stopped(package, sid), now)
            case app.StreamStatusCheck():
                return self._machines.asked(self.requests.check_stream(package, sid), now)
            case app.LocationPollRequest():
                if not grants(self._machines.permissions(each), "LOCATION"):
                    raise ProtocolError(ErrorCode.PERMISSION_DENIED, "the app has no LOCATION permission")
                return self._machines.asked(self.requests.poll_location(package, sid, message, now), now)
            case app.AppRgbLedControl():
                return self._machines.asked(self.requests.led(package, sid, message, now), now)
            case app.RequestWifiSetup():
                return self._machines.asked(self.requests.wifi_setup(package, message), now)
            case (
                app.AppBroadcastMessage()
                | app.AppDirectMessage()
                | app.AppRoomJoin()
                | app.AppRoomLeave()
                | app.AppUserDiscovery()
            ):
                return [ToOtherUsers(package, message)]
            case app.OwnershipRelease():
                each.life.released(connection_id)
                return [Record("ownership_release", {"package": package, "reason": message.reason})]
            case app.AppPing():
                return self._delivery.to_app(each, to_app.PongToApp(), now)
            case app.AppPong():
                return []
            case app.AudioStreamStart():
                return [AudioStreamOpened(package, connection_id, message.stream_id, message.content_type)]
            case app.AudioStreamEnd():
                return [AudioStreamEnded(package, message.stream_id)]
            case _:
                raise AssertionError(f"no handler for {message.type}")

    def _display_request(
        self, each: SessionApp, message: app.DisplayRequest, payload: dict[str, Any], now: float
    ) -> list[Effect]:
        # Members that we do not know go through unchanged; text and pictures within their limits.
        layout = {**message.layout, **layout_to_wire(parse_layout(message.layout))}
        duration = None if message.duration_ms is None else message.duration_ms / 1000.0
        return self._machines.displayed(
            self.display.request(
                each.info.package, message.view, layout, duration, now, force=message.force_display
            ),
            now,
        )

    def _only_dashboard(self, each: SessionApp) -> None:
        if each.info.package != self._machines.dashboard_package and each.info.kind != "system_dashboard":
            raise ProtocolError(ErrorCode.PERMISSION_DENIED, "only the dashboard app may do this")

    def _camera_refusal(self, each: SessionApp) -> tuple[ErrorCode, str] | None:
        if not grants(self._machines.permissions(each), "CAMERA"):
            return ErrorCode.PERMISSION_DENIED, "the app has no CAMERA permission"
        if self._facts.capabilities is not None and not self._facts.capabilities["hasCamera"]:
            return ErrorCode.UNSUPPORTED, "these glasses have no camera"
        return None

    def _photo(self, each: SessionApp, message: app.AppPhotoRequest, now: float) -> list[asks.Effect]:
        package, sid = each.info.package, each.session_id
        url = each.info.base_url + "/photo-upload"
        refusal = self._camera_refusal(each)
        if refusal is not None:
            return self.requests.refuse_photo(package, sid, url, message, *refusal, now)
        return self.requests.photo(package, sid, url, message, now)

    # ================================================================================================ views

    def states(self) -> list[dict[str, Any]]:
        """Every app of the session, for consoles and lists."""
        return [
            {
                "package": package,
                "name": each.info.name,
                "state": each.life.state.value,
                "reason": each.life.reason.value,
                "wanted": each.life.wanted,
                "failures": each.life.failures,
                "next_attempt": each.life.next_attempt,
                "last_error": each.life.last_error or each.last_error,
                "connection": each.life.connection_id,
                "subscriptions": list(self.subscriptions.of(package)),
                "replay_dropped": each.log.dropped,
            }
            for package, each in self._apps.items()
        ]


def _told(reason: AppReason) -> Any:
    """The word for an app's end (wire spec 3.8)."""
    if reason is AppReason.USER_STOP:
        return "user_disabled"
    return "system_stop"
