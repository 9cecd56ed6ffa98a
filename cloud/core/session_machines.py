"""The machines inside a session (display, dashboard, microphone, subscriptions, requests) and what their effects become.

Rules: each method takes the effects of one machine and returns those of the session. What the apps need together
(microphone, recognition, position) is worked out here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, assert_never

import orjson

from cloud.core import dashboard as dashboards
from cloud.core import display as displays
from cloud.core import requests as asks
from cloud.core import subscriptions as subs
from cloud.core.clock import WallClock
from cloud.core.dashboard import Dashboard
from cloud.core.display import DisplayArbiter
from cloud.core.effects import Displayed, Effect, PostPhotoFailure, Record, SpeechNeeds
from cloud.core.microphone import Microphone, SetMicrophone
from cloud.core.requests import Requests
from cloud.core.session_delivery import AppDelivery
from cloud.core.session_glasses import GlassesPort
from cloud.core.session_types import Agenda, AppInfo, Facts, SessionApp, SessionTiming
from cloud.core.subscriptions import Subscriptions
from wire.codec import display_event
from wire.messages import cloud_to_app as to_app
from wire.messages import cloud_to_glasses as to_glasses
from wire.streams import grants

#: What a `latest` frame of each view is the newest of.
_VIEW_KEYS: Final = {"main": "display_event:main", "dashboard": "display_event:dashboard"}


class Machines:
    """See the module. `records` is a live, read-only view of the app records."""

    def __init__(
        self,
        user_id: str,
        *,
        port: GlassesPort,
        delivery: AppDelivery,
        facts: Facts,
        agenda: Agenda,
        records: Mapping[str, AppInfo],
        new_id: Callable[[], str],
        clock: WallClock,
        timing: SessionTiming,
        dashboard_package: str,
    ) -> None:
        self.user_id = user_id
        self.timing = timing
        self.clock = clock
        self._port = port
        self._delivery = delivery
        self._facts = facts
        self._agenda = agenda
        self._records = records
        self.dashboard_package = dashboard_package
        self.speech: frozenset[tuple[str, str | None]] = frozenset()  # what recognition has been told
        self.speech_at: float | None = None
        self.said_tier: str | None = None
        self.subscriptions: Subscriptions = delivery.subscriptions
        self.microphone = Microphone(timing.microphone)
        self.display = DisplayArbiter(dashboard_package, timing.display)
        self.dashboard = Dashboard(clock)
        self.requests = Requests(user_id, new_id=new_id, timing=timing.requests)

    def deadlines(self) -> Iterable[float | None]:
        """Of all but the display, which moves with every frame of an app that draws."""
        return (
            self.speech_at,
            self.subscriptions.deadline,
            self.microphone.deadline,
            self.dashboard.deadline,
            self.requests.deadline,
        )

    def handle_deadline(self, now: float) -> list[Effect]:
        """Do what is due; early calls do nothing."""
        out = self.subscribed(self.subscriptions.handle_deadline(now), now)
        out += self.mic(self.microphone.handle_deadline(now), now)
        out += self.displayed(self.display.handle_deadline(now), now)
        out += self.rendered(self.dashboard.handle_deadline(now), now)
        out += self.asked(self.requests.handle_deadline(now), now)
        if self.speech_at is not None and now >= self.speech_at:
            self.speech_at = None
            out += self.say_speech(self.subscriptions.speech)
        return out

    def subscribed(self, effects: Iterable[subs.Effect], now: float) -> list[Effect]:
        out: list[Effect] = []
        changed = False
        for effect in effects:
            each = self._delivery.apps.get(effect.package)
            match effect:
                case subs.Denied(package, streams):
                    if each is None:
                        continue
                    details = [
                        to_app.PermissionDetail(
                            stream=name,
                            required_permission=need,
                            message=f"To subscribe to {name}, add the {need} permission to the app's record",
                        )
                        for name, need in streams
                    ]
                    text = "Some subscriptions were rejected due to missing permissions"
                    out += self._delivery.to_app(
                        each, to_app.PermissionError_(message=text, details=details), now
                    )
                    out.append(
                        Record("permission_denied", {"package": package, "streams": [n for n, _ in streams]})
                    )
                case subs.Changed(_, added):
                    changed = True
                    if each is not None:
                        for subscription in added:
                            out += self._catch_up(each, subscription.name, subscription.stream, now)
                        if added:
                            out += self._delivery.make_up(each, {s.name for s in added}, now)
                case _:
                    assert_never(effect)
        if changed:
            out.append(Record("subscriptions", {"apps": len(self._delivery.apps)}))
            out += self.needs(now)
            self._agenda.announce(now)
        return out

    def _catch_up(self, each: SessionApp, name: str, stream: str, now: float) -> list[Effect]:
        """What a late subscriber has missed and still needs (wire spec 3.5)."""
        out: list[Effect] = []
        if stream == "calendar_event":
            for event in self._facts.calendar.values():
                out += self._delivery.event_to(each, name, event, now)
        elif stream in ("location_update", "location_stream"):
            fix = self.requests.last_location
            if fix is not None:
                out += self._delivery.event_to(each, name, orjson.dumps(fix), now)
        elif stream == "custom_message":
            out += self.custom_datetime(each, now)
        return out

    def custom_datetime(self, each: SessionApp, now: float) -> list[Effect]:
        if self._facts.datetime is None:
            return []
        message = to_app.CustomMessage(
            action="update_datetime", payload={"datetime": self._facts.datetime, "section": "topLeft"}
        )
        return self._delivery.to_app(each, message, now)

    def permissions(self, each: SessionApp) -> frozenset[str]:
        """As the record says now; a record that is gone grants nothing (SUB-05)."""
        info = self._records.get(each.info.package)
        return frozenset() if info is None else info.permissions

    def needs(self, now: float) -> list[Effect]:
        """Work out anew what the apps together need: microphone, recognition, position."""
        bypass = self.subscriptions.wants_raw_audio or bool(self._facts.settings.get("bypassVad"))
        out = self.mic(self.microphone.need(self.subscriptions.needs_audio, bypass, now), now)
        wish = self.subscriptions.speech
        if wish - self.speech:
            out += self.say_speech(wish | self.speech)
        if self.speech - wish:
            if self.speech_at is None:
                self.speech_at = now + self.timing.speech_linger
        else:
            self.speech_at = None
        out += self.say_tier(now)
        return out

    def say_speech(self, languages: frozenset[tuple[str, str | None]]) -> list[Effect]:
        if languages == self.speech:
            return []
        self.speech = languages
        return [SpeechNeeds(languages)]

    def say_tier(self, now: float) -> list[Effect]:
        tier = self.subscriptions.location_tier
        if self._port.connection_id is None or tier == self.said_tier:
            return []
        self.said_tier = tier
        return self._port.post(to_glasses.SetLocationTier(tier=tier), now)

    def mic(self, effects: Iterable[SetMicrophone], now: float) -> list[Effect]:
        out: list[Effect] = []
        for wish in effects:
            out += self._port.post(
                to_glasses.MicrophoneStateChange(
                    session_id=self.user_id,
                    is_microphone_enabled=wish.on,
                    required_data=["pcm"] if wish.on else [],
                    bypass_vad=wish.bypass_vad,
                ),
                now,
            )
            out.append(Record("microphone", {"on": wish.on}))
        return out

    def shown_again(self, show: displays.Show, now: float) -> list[Effect]:
        """`displayed` for a request that was shown at once: one record instead of two."""
        view, package, number, layout = show.view, show.package, show.display_id, show.layout
        data = display_event(package, view, layout, show.duration, number, self.clock.iso_bytes(now))
        frame = self._port.state_is(_VIEW_KEYS[view], data)
        answered = self._delivery.answered(package, now)
        record = Displayed(number, view, package, layout["layoutType"], answered)
        return [record] if frame is None else [frame, record]

    def displayed(self, effects: Iterable[displays.Effect], now: float) -> list[Effect]:
        out: list[Effect] = []
        for effect in effects:
            match effect:
                case displays.Show():
                    view, layout, number = effect.view, effect.layout, effect.display_id
                    if self._port.connection_id is not None:  # else they are told anew when they return
                        data = display_event(
                            effect.package, view, layout, effect.duration, number, self.clock.iso_bytes(now)
                        )
                        frame = self._port.state_is(_VIEW_KEYS[view], data)
                        if frame is not None:
                            out.append(frame)
                    kind = layout.get("layoutType")
                    detail = {"id": number, "view": view, "package": effect.package, "layout": kind}
                    out.append(Record("display", detail))
                case displays.Settled():
                    settled = {
                        "id": effect.display_id,
                        "package": effect.package,
                        "outcome": effect.outcome,
                        "reason": effect.reason,
                        "waited": effect.waited,
                    }
                    if effect.outcome == "shown":
                        settled["answered"] = self._delivery.answered(effect.package, now - effect.waited)
                    out.append(Record("display_settled", settled))
                case _:
                    assert_never(effect)
        return out

    def rendered(self, effects: Iterable[dashboards.Effect], now: float) -> list[Effect]:
        out: list[Effect] = []
        for effect in effects:
            match effect:
                case dashboards.Render(layout):
                    out += self.displayed(
                        self.display.request(self.dashboard_package, "dashboard", layout, None, now), now
                    )
                case dashboards.ModeChanged(mode):
                    for each in self._delivery.connected():
                        out += self._delivery.to_app(
                            each, to_app.DashboardModeChanged(mode=mode, session_id=each.session_id), now
                        )
                case _:
                    assert_never(effect)
        return out

    def asked(self, effects: Iterable[asks.Effect], now: float) -> list[Effect]:
        out: list[Effect] = []
        for effect in effects:
            match effect:
                case asks.ToGlasses(message):
                    out += self._port.post(message, now)
                case asks.ToApp(package, message):
                    each = self._delivery.apps.get(package)
                    out += [] if each is None else self._delivery.to_app(each, message, now)
                case asks.LocationTo(package, fix):
                    out += self._poll_answer(package, fix, now)
                case asks.PhotoFailed(package, request_id, url, code, text):
                    out.append(PostPhotoFailure(package, url, request_id, code, text))
                case asks.Failed(package, request_id, code, text):
                    each = self._delivery.apps.get(package)
                    error = to_app.TpaConnectionError(code=code, message=text, request_id=request_id)
                    out += [] if each is None else self._delivery.to_app(each, error, now)
                case _:
                    assert_never(effect)
        return out

    def _poll_answer(self, package: str, fix: dict[str, Any], now: float) -> list[Effect]:
        """A poll's answer goes under `location_update`, which the SDK subscribes to around the poll."""
        each = self._delivery.apps.get(package)
        if each is None or not grants(self.permissions(each), "LOCATION"):
            return []
        return self._delivery.event_to(each, "location_update", orjson.dumps(fix), now)
