"""What the parts of a session share: their limits, an app's record, what is known of the wearer, what is due.

Rules: data without decisions. Each value has one writer, named beside it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cloud.core.app_lifecycle import AppLifecycle, LifecycleTiming
from cloud.core.capabilities import HardwareRequirement
from cloud.core.display import DisplayTiming
from cloud.core.microphone import MicrophoneTiming
from cloud.core.replay import AppLog
from cloud.core.requests import RequestTiming
from cloud.core.settings import SYSTEM_DEFAULTS

#: The package in whose name the cloud itself shows things; the SDK's default for the dashboard app as well.
DASHBOARD_PACKAGE: Final = "system.augmentos.dashboard"


@dataclass(frozen=True, slots=True)
class SessionTiming:
    """Seconds and counts, each with its reason; the machines inside have their own."""

    grace: float = 60.0  # without glasses (wire spec 6.5; CON-14)
    load: float = 2.0  # storage may take this long, then the session goes on without (PER-03)
    announce: float = 0.15  # app_state_change is coalesced (wire spec 6.3)
    plain: float = 3.0  # a client that says nothing for this long will not announce a link
    speech_linger: float = 5.0  # recognition outlives an app's reconnect (SUB-01)
    takeovers_max: int = 5  # within `takeover_window` (CON-10)
    takeover_window: float = 10.0
    early_frames_max: int = 128  # before the user is loaded: a link's window, and as many states (CON-03)
    early_bytes_max: int = 1 << 20
    bad_frames_max: int = 20  # within `bad_window` from one connection: abuse (APP-08)
    bad_window: float = 10.0
    notifications_max: int = 10  # per second to apps (DSP-07)
    backlog: float = 2.0  # after a resumed link, notifications are those of the outage and not thinned
    audio_frames_max: int = 400  # per second; 2.5 ms pieces are the smallest of any codec (PRO-02)
    location_save: float = 60.0  # a position is stored at most this often
    restore_delay: float = 0.0  # after our own restart, SDKs that come back by themselves are given this long
    lifecycle: LifecycleTiming = field(default_factory=LifecycleTiming)
    display: DisplayTiming = field(default_factory=DisplayTiming)
    microphone: MicrophoneTiming = field(default_factory=MicrophoneTiming)
    requests: RequestTiming = field(default_factory=RequestTiming)


@dataclass(frozen=True, slots=True)
class AppInfo:
    """What a session needs to know of an app's record."""

    package: str
    name: str
    base_url: str  # without a trailing slash
    kind: str = "standard"  # standard | background | system_dashboard
    permissions: frozenset[str] = frozenset()
    hardware: tuple[HardwareRequirement, ...] = ()
    settings: tuple[Mapping[str, Any], ...] = ()  # the schema


@dataclass(frozen=True, slots=True)
class UserData:
    """What is stored about a user."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()
    location: Mapping[str, Any] | None = None  # a location_update object


@dataclass(slots=True)
class SessionApp:
    """One app of a session: its record, its life, and what is kept of its traffic."""

    info: AppInfo
    session_id: str
    life: AppLifecycle
    log: AppLog = field(default_factory=AppLog)
    values: dict[str, Any] = field(default_factory=dict)
    early: list[tuple[int, bytes]] = field(default_factory=list)  # frames before the acknowledgement
    bad: list[float] = field(default_factory=list)
    present: bool = False
    last_error: str = ""
    #: Events up to then were for an earlier instance, or are made up for already.
    heard_until: float = float("-inf")
    made_up: set[str] = field(default_factory=set)  # streams whose missed events this instance has been sent
    accepted_at: float = float("-inf")
    away_since: float = float("inf")  # when its socket was lost last


@dataclass(slots=True)
class Facts:
    """What is known of the wearer and the glasses; only `session_reports` writes it, and the user's data at the start."""

    settings: dict[str, Any] = field(default_factory=lambda: dict(SYSTEM_DEFAULTS))  # of the system
    device: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    capabilities: dict[str, Any] | None = None
    datetime: str | None = None  # the phone's, ISO with an offset
    calendar: OrderedDict[str, bytes] = field(default_factory=OrderedDict)


class Agenda:
    """The session's next moment, remembered until something changes, and the announcement that all parts may ask for.

    `known` is set to False by whoever changes what is due; only `Session.deadline` sets it. `steady` says that the input
    just handled has moved no deadline, so that the shell need not ask for it; the shell clears it. `nearer` says that one
    of those that are not remembered, because they move with every frame, is due earlier than before.
    """

    __slots__ = ("_delay", "announce_at", "due", "known", "nearer", "steady")

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self.announce_at: float | None = None
        self.due: float | None = None
        self.known = False
        self.steady = False
        self.nearer = False

    def announce(self, now: float) -> None:
        """Clients are to be told soon what runs; many changes are one announcement."""
        if self.announce_at is None:
            self.announce_at = now + self._delay
            self.known = False
