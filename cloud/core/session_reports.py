"""What the glasses client reports of the wearer and the glasses, and to whom it matters.

Rules: a report changes the facts first and is passed on afterwards; what has not changed is told to nobody.
Sources: wire spec 2.6, 3.8; failure catalogue DSP-04, DSP-07.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from cloud.core.app_lifecycle import AppReason, AppState, StopReason
from cloud.core.capabilities import announced, capabilities_of, missing_hardware
from cloud.core.clock import WallClock
from cloud.core.effects import Effect, Record, SaveLocation, SaveSettings
from cloud.core.session_apps import SessionApps
from cloud.core.session_checks import epoch
from cloud.core.session_delivery import AppDelivery
from cloud.core.session_glasses import GlassesPort
from cloud.core.session_machines import Machines
from cloud.core.session_types import Facts, SessionTiming
from cloud.core.settings import DEVICE_KEYS
from wire.errors import ErrorCode, ProtocolError
from wire.messages import cloud_to_app as to_app
from wire.messages import glasses_to_cloud as glasses
from wire.messages.base import Delivery

#: Calendar entries kept for late subscribers; phones send a handful per day.
CALENDAR_MAX: Final = 100


class Reports:
    """See the module."""

    def __init__(
        self,
        *,
        port: GlassesPort,
        delivery: AppDelivery,
        machines: Machines,
        apps: SessionApps,
        facts: Facts,
        clock: WallClock,
        timing: SessionTiming,
    ) -> None:
        self.clock = clock
        self.timing = timing
        self._port = port
        self._delivery = delivery
        self._machines = machines
        self._apps = apps
        self._facts = facts
        self.display = machines.display
        self.dashboard = machines.dashboard
        self.microphone = machines.microphone
        self.requests = machines.requests
        self.subscriptions = machines.subscriptions
        self._notified: list[float] = []  # a short list: an empty deque takes 760 bytes
        self._location_saved_at = float("-inf")
        self.notifications_shed = 0
        #: Until then: what an outage has held back is no flood; the link's log bounds it.
        self.backlog_until = float("-inf")
        self._announced: dict[str, Any] | None = None  # the table that came with the glasses

    def glasses_state(self, message: glasses.GlassesConnectionState, now: float) -> list[Effect]:
        connected = message.status.upper() == "CONNECTED"
        changes: dict[str, Any] = {"connected": connected}
        renewed = False
        if message.model_name:
            changes["modelName"] = message.model_name
            table = announced(message.model_name, message.capabilities)
            renewed = table != self._announced and message.model_name == self._facts.model
            self._announced = table
        if message.wifi is not None:
            changes["wifiConnected"] = message.wifi.connected
            changes["wifiSsid"] = message.wifi.ssid
        out = self.device_changed(changes, now)
        if renewed:
            out += self._model_changed(message.model_name, now)
        if connected and self._port.connection_id is not None:
            # The glasses behind the client are new to us: they have neither microphone state nor display.
            out += self._machines.mic(self.microphone.attached(now), now)
            out += self._machines.displayed(self.display.attached(now), now)
        return out

    def device_changed(self, changes: Mapping[str, Any], now: float) -> list[Effect]:
        fresh = {
            k: v for k, v in changes.items() if k not in self._facts.device or self._facts.device[k] != v
        }
        if not fresh:
            return []
        self._facts.device.update(fresh)
        out: list[Effect] = []
        visible = {k: v for k, v in fresh.items() if k in DEVICE_KEYS}
        if visible:
            for each in self._delivery.connected():
                out += self._delivery.to_app(
                    each, to_app.DeviceStateUpdate(session_id=each.session_id, state=visible), now
                )
        if "batteryLevel" in fresh or "charging" in fresh:
            level = self._facts.device.get("batteryLevel")
            out += self._machines.rendered(
                self.dashboard.battery(
                    int(level) if isinstance(level, (int, float)) else None,
                    bool(self._facts.device.get("charging")),
                    now,
                ),
                now,
            )
        model = fresh.get("modelName")
        if isinstance(model, str) and model and model != self._facts.model:
            out += self._model_changed(model, now)
        return out

    def _model_changed(self, model: str, now: float) -> list[Effect]:
        self._facts.model = model
        table = self._announced
        self._facts.capabilities = table if table and table["modelName"] == model else capabilities_of(model)
        out: list[Effect] = [Record("model", {"model": model, "known": self._facts.capabilities is not None})]
        for each in list(self._delivery.apps.values()):
            if each.life.state is AppState.CONNECTED:
                out += self._delivery.to_app(
                    each,
                    to_app.CapabilitiesUpdate(
                        session_id=each.session_id, model_name=model, capabilities=self._facts.capabilities
                    ),
                    now,
                )
            lacking = missing_hardware(each.info.hardware, self._facts.capabilities)
            if lacking and each.life.state is not AppState.DISCONNECTED:
                out += self._apps.moved(
                    each,
                    each.life.stop(
                        StopReason.SYSTEM_STOP, now, still_wanted=True, because=AppReason.INCOMPATIBLE
                    ),
                    now,
                )
            elif not lacking and each.life.reason is AppReason.INCOMPATIBLE:
                out += self._apps.moved(
                    each, each.life.glasses(self._port.connection_id is not None, now), now
                )
        return out

    def location(
        self, message: glasses.LocationUpdate, payload: dict[str, Any], raw: bytes, now: float
    ) -> list[Effect]:
        out = self._machines.asked(self.requests.location(payload, message.correlation_id, now), now)
        if now - self._location_saved_at >= self.timing.location_save:
            self._location_saved_at = now
            out.append(SaveLocation(message.lat, message.lng, message.accuracy))
        if message.correlation_id is not None:
            return out  # the answer to one app's poll is nobody else's news
        return [*out, *self._delivery.relay("location_update", raw, Delivery.LOSSY, now)]

    def calendar_event(
        self, message: glasses.CalendarEvent, payload: dict[str, Any], now: float
    ) -> list[Effect]:
        zone = message.timezone or message.time_zone
        event = orjson.dumps({**payload, "timezone": zone} if zone else payload)
        key = message.event_id or message.title
        self._facts.calendar.pop(key, None)
        self._facts.calendar[key] = event
        while len(self._facts.calendar) > CALENDAR_MAX:
            self._facts.calendar.popitem(last=False)
        out = self._machines.rendered(
            self.dashboard.appointment(message.event_id, message.title, epoch(message.dt_start), now), now
        )
        return [*out, *self._delivery.relay("calendar_event", event, Delivery.RELIABLE, now)]

    def notification(
        self, message: glasses.PhoneNotification | glasses.PhoneNotificationDismissed, raw: bytes, now: float
    ) -> list[Effect]:
        if isinstance(message, glasses.PhoneNotification):
            out = self._machines.rendered(
                self.dashboard.notification(
                    message.notification_id or message.title, message.app, message.title, message.content, now
                ),
                now,
            )
        else:
            out = self._machines.rendered(self.dashboard.dismissed(message.notification_id, now), now)
        while self._notified and now - self._notified[0] >= 1.0:
            del self._notified[0]
        if len(self._notified) >= self.timing.notifications_max and now >= self.backlog_until:
            self.notifications_shed += 1
            return [*out, Record("notification_shed", {})]
        self._notified.append(now)
        return [*out, *self._delivery.relay(message.type, raw, Delivery.RELIABLE, now)]

    def set_datetime(self, text: str, now: float) -> list[Effect]:
        """The phone's local date and time, ISO with an offset. Raises ProtocolError."""
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise ProtocolError(
                ErrorCode.MALFORMED_MESSAGE, "datetime: not an ISO 8601 date", field="datetime"
            ) from None
        self._facts.datetime = text
        offset = at.utcoffset()
        if offset is not None:
            self.clock.utc_offset = offset.total_seconds()
        out = self._machines.rendered(self.dashboard.refresh(now), now)
        for route in self.subscriptions.routes("custom_message"):
            for package in route.packages:
                out += self._machines.custom_datetime(self._delivery.apps[package], now)
        return out

    def settings_changed(self, changes: Mapping[str, Any], now: float) -> list[Effect]:
        """System settings were changed on the phone or over REST."""
        fresh = {k: v for k, v in changes.items() if self._facts.settings.get(k) != v}
        if not fresh:
            return []
        self._facts.settings.update(fresh)
        out: list[Effect] = [SaveSettings(fresh)]
        for each in self._delivery.connected():
            out += self._apps.push_system_settings(each, now)
        return out
