"""Glasses: the arms of one pair driven towards what is wanted of them (screen, microphone, settings).

Rules: pure. What is wanted changes only by `want`; what the arms have is forgotten with their link and brought back on
the next one. For each thing wanted there is one slot, newest wins, so there is never a backlog. The screen goes to the
left arm, then the same version to the right arm; an arm that is away or does not answer never holds up the other. Only
the arm that was lost is connected again. The microphone is on when sound arrives, not when a command was sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from edge.core.arm import (
    ArmEffect,
    ArmLink,
    ArmState,
    ArmTiming,
    CommandDone,
    Connect,
    Disconnect,
    Moved,
    Write,
)
from edge.core.writer import Outcome
from edge.profiles.base import (
    Action,
    Advert,
    Arm,
    AskBattery,
    AudioPacket,
    Battery,
    Button,
    CaseBattery,
    CaseCharging,
    Charging,
    Clock,
    DashboardOpened,
    Driver,
    Event,
    Head,
    Identity,
    Microphone,
    Motion,
    PhotoData,
    PhotoFailed,
    Place,
    Profile,
    Reply,
    Send,
    Show,
    Silent,
    Speech,
    Touch,
    Unknown,
    Unsupported,
    Warn,
    Wear,
)
from wire.errors import GlassesFault, InvalidTransition


class GlassesState(Enum):
    ABSENT = "absent"  # no arm answers
    PARTIAL = "partial"  # some arms answer: what is wanted goes to those
    READY = "ready"  # all arms answer
    ASLEEP = "asleep"  # they answer from inside the closed case: the screen rests


_G = GlassesState
#: Arms come and go in any order, so every change is legal; the table stands for docs/states.md.
GLASSES_TRANSITIONS: dict[GlassesState, frozenset[GlassesState]] = {
    state: frozenset(other for other in GlassesState if other is not state) for state in GlassesState
}


@dataclass(frozen=True, slots=True)
class GlassesTiming:
    """Seconds and counts."""

    arm: ArmTiming = field(default_factory=ArmTiming)
    #: A second pair of glasses in the room advertises within a second, usually within 0.1 s.
    settle: float = 1.0
    #: An unpaired arm that stays alone this long is used alone (the other may be flat). Also: nothing seen at all for
    #: this long is told to the wearer with the usual reasons (failure catalogue BLE-15).
    unseen: float = 30.0
    #: How long a later arm waits for an earlier one to be seen, so that left is told first (MentraOS waits 2 s).
    turn: float = 3.0
    #: The second arm gets the first arm's text while it is at most this old, then both get the newest.
    fresh: float = 0.5
    retry: float = 0.1  # first pause after an unanswered display; doubles up to retry_max
    retry_max: float = (
        0.5  # short: after a stall of the glasses the newest text should be there within a second
    )
    #: Unanswered in a row, with heartbeats answered meanwhile, before the link itself is rebuilt (about 30 s).
    unanswered_max: int = 20
    refused_max: int = 3  # the firmware's no is accepted as final after this many
    #: Failure catalogue MIC-04: sound within 2 s of "on", none later than 2 s after "off".
    mic_effect: float = 2.0
    mic_tries: int = 5
    #: With the fault told, one quiet try now and then: the wearer may have put the glasses on again.
    mic_rest: float = 30.0
    #: Equal events from both arms inside this time are one (sources debounce 200 to 500 ms).
    same: float = 0.3
    requests_max: int = 16
    #: A press of glasses that are connected and still being greeted waits for that: apps hear of glasses first, and what
    #: they answer with a photo needs them. Older than this is yesterday's news (failure catalogue EDG-03). A model whose
    #: computer boots meanwhile is asked every 2.5 s.
    early: float = 5.0
    early_max: int = 8  # nobody presses more often in that time and means each


@dataclass(frozen=True, slots=True)
class Target:
    """Which glasses. `addresses` of a paired set win over `pair`; without either, the only pair in sight is taken."""

    pair: str | None = None
    addresses: Mapping[Arm, str] = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class Scan:
    """Look for advertisements, or no longer. Each one comes back as `sighted`."""

    on: bool


@dataclass(frozen=True, slots=True)
class Decode:
    """Sound: `lost` codec frames are missing before `frames`. A new `stream` needs a fresh decoder."""

    stream: int
    lost: int
    frames: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Remember:
    """These are the wearer's glasses from now on; the shell keeps them over restarts."""

    model: str
    pair: str
    addresses: Mapping[Arm, str]


@dataclass(frozen=True, slots=True)
class Happened:
    """Something the wearer or the device did. `at`: when, if it was held until its arm was ready."""

    arm: Arm
    event: Event
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """The state of the pair or of the microphone changed (see `Glasses.state`, `Glasses.mic`)."""

    state: GlassesState


@dataclass(frozen=True, slots=True)
class DisplayDone:
    """What became of version `version` of the screen. `began`: first packet, `ended`: last answer; monotonic."""

    version: int
    outcome: Outcome
    reason: str
    began: float | None
    ended: float


@dataclass(frozen=True, slots=True)
class RequestDone:
    """The end of a `request` as far as sending goes; data that it asked for comes as `Happened`."""

    request_id: str
    outcome: Outcome
    reason: str


class Note(Enum):
    """Facts for the wearer's status page and the log."""

    NOT_SEEN = "not_seen"
    AMBIGUOUS = "ambiguous"
    ARM_LOST = "arm_lost"
    ARM_READY = "arm_ready"
    NEEDS_PERSON = "needs_person"
    MIC_FAULT = "mic_fault"
    DISPLAY_REFUSED = "display_refused"
    UNSUPPORTED = "unsupported"
    WARNING = "warning"
    UPLINK_LOST = "uplink_lost"
    UPLINK_READY = "uplink_ready"
    UPLINK_REFUSED = "uplink_refused"
    UPLINK_REPLACED = "uplink_replaced"


@dataclass(frozen=True, slots=True)
class Notice:
    """One such fact. `about` names the arm or part; `detail` never carries what a wearer said, typed or saw."""

    note: Note
    about: str
    detail: str


GlassesEffect: TypeAlias = (
    Scan
    | Connect
    | Disconnect
    | Write
    | Decode
    | Remember
    | Happened
    | Changed
    | DisplayDone
    | RequestDone
    | Notice
)


class MicState(Enum):
    """What is known about the microphone, as the status page says it."""

    OFF = "off"
    STARTING = "starting"
    ON = "on"
    STOPPING = "stopping"
    FAULT = "fault"
    NONE = "none"  # this model has no microphone


# ---------------------------------------------------------------------------------------------------------- slots


@dataclass(slots=True)
class _Flight:
    """One action on its way to one arm."""

    arm: Arm
    version: int
    tickets: set[int]
    worst: Outcome = Outcome.OK
    reason: str = ""


@dataclass(slots=True)
class _Slot:
    """One thing that is wanted, and what each arm has of it."""

    action: Action
    version: int
    #: The version now being brought to all arms; older than `version` while newer ones wait.
    going: Action
    going_version: int = 0
    going_since: float = 0.0
    flight: _Flight | None = None
    has: dict[Arm, int] = field(default_factory=dict)
    passed: set[Arm] = field(
        default_factory=set
    )  # arms that failed `going_version`: try again with the newest
    failures: dict[Arm, int] = field(default_factory=dict)
    retry_at: dict[Arm, float] = field(default_factory=dict)
    began: float | None = None
    reported: int = 0


@dataclass(slots=True)
class _Request:
    request_id: str
    tickets: set[int]
    worst: Outcome = Outcome.OK
    reason: str = ""


class Drain:
    """How fast a battery empties: from the levels that it told since it was last full, charged or new to us."""

    #: Levels are whole percents: less than this says more about rounding than about the battery.
    LEAST = 600.0  # seconds

    __slots__ = ("_first", "_last", "_since")

    def __init__(self, level: int, now: float) -> None:
        self._first = self._last = level
        self._since = now

    def told(self, level: int, charging: bool, now: float) -> None:
        if charging or level > self._last:
            self._first, self._since = level, now
        self._last = level

    def per_hour(self, now: float) -> float | None:
        """Percent an hour, or None while it is too early to say."""
        lasted = now - self._since
        return (self._first - self._last) * 3600.0 / lasted if lasted >= self.LEAST else None


class Glasses:
    """One pair (or one single device). `jitter()` gives numbers in [0, 1)."""

    def __init__(
        self,
        profile: Profile,
        target: Target,
        timing: GlassesTiming,
        jitter: Callable[[], float],
        driver: Driver | None = None,
    ) -> None:
        self.profile = profile
        self.target = target
        self.timing = timing
        self.state = _G.ABSENT
        self.driver = driver or profile.driver()
        self.arms = {arm: ArmLink(arm, self.driver, profile.pace, timing.arm, jitter) for arm in profile.arms}
        self.mic = MicState.OFF if profile.audio is not None else MicState.NONE
        self._mic_arms = (
            [arm for arm in profile.arms if self.driver.commands(arm, Microphone(True))]
            if profile.audio
            else []
        )
        # observed facts, for status and for announcing again
        self.battery: dict[Arm, int] = {}
        self.drain: dict[Arm, Drain] = {}
        self.charging: bool | None = None
        self.case_battery: int | None = None
        self.case_charging: bool | None = None
        self.place: dict[Arm, Place] = {}
        self.head_up: bool | None = None
        self.silent: bool | None = None
        self.speech: bool | None = None
        self.identity: dict[str, str] = {}
        self.simulated = False
        self.display_version = 0
        self.counters = {"audio_packets": 0, "audio_lost": 0, "audio_unwanted": 0, "unknown": 0, "notices": 0}
        self.counters |= {"early_events": 0, "early_lost": 0}
        self._running = False
        self._scanning = False
        self._slots: dict[type, _Slot] = {}
        self._requests: dict[int, _Request] = {}
        self._ticket = 0
        self._seen: dict[str, dict[Arm, dict[str, float]]] = {}
        self._searching_since: float | None = None
        self._told_unseen = False
        self._ambiguous_since: float | None = None
        self._first_seen: dict[Arm, float] = {}
        self._audio_next: int | None = None
        self._audio_stream = 0
        self._last_audio: float | None = None
        self._mic_check: float | None = None
        self._mic_tries = 0
        self._mic_beat: float | None = None
        self._battery_at: float | None = None
        self._page = 0
        self._page_at: float | None = None
        self._recent: dict[Event, tuple[Arm, float]] = {}
        self._early: deque[Happened] = deque()

    # ----------------------------------------------------------------------------------------- inputs: the wearer

    def start(self, now: float) -> list[GlassesEffect]:
        """Look for the glasses and keep them connected."""
        self._running = True
        effects: list[GlassesEffect] = []
        for arm in self.arms.values():
            effects += self._from_arm(arm.start(now), now)
        if self.profile.audio is not None and Microphone not in self._slots:
            # Never leave a microphone running that somebody else switched on.
            effects += self.want(Microphone(False), now)
        return effects + self._settle(now)

    def stop(self, now: float) -> list[GlassesEffect]:
        """Let go of the glasses. What is wanted stays wanted."""
        self._running = False
        effects: list[GlassesEffect] = []
        for arm in self.arms.values():
            effects += self._from_arm(arm.stop(now), now)
        return effects + self._settle(now)

    def want(self, action: Action, now: float) -> list[GlassesEffect]:
        """Want this from now on, instead of the last of its kind."""
        kind = type(action)
        slot = self._slots.get(kind)
        if slot is None:
            slot = self._slots[kind] = _Slot(action, 0, action)
        slot.version += 1
        slot.action = action
        effects: list[GlassesEffect] = []
        if isinstance(action, Show):
            self.display_version = slot.version
            self._page, self._page_at = action.page, None
        if isinstance(action, Microphone):
            self._mic_tries = 0
            if action.on:
                effects += self._mic_to(MicState.STARTING)
            else:
                effects += self._mic_to(MicState.STOPPING if self._mic_up() else MicState.OFF)
        return effects + self._settle(now)

    def request(self, request_id: str, action: Action, now: float) -> list[GlassesEffect]:
        """Do this once, now or never; the end is a `RequestDone`."""
        if len(self._requests) >= self.timing.requests_max:
            return [RequestDone(request_id, Outcome.DROPPED, "too many requests are under way")]
        effects: list[GlassesEffect] = []
        request = _Request(request_id, set())
        try:
            plan = [
                (arm, self.driver.commands(arm.arm, action)) for arm in self.arms.values() if self._up(arm)
            ]
        except Unsupported as error:
            return [RequestDone(request_id, Outcome.UNSUPPORTED, str(error))]
        submits = [(arm, command) for arm, commands in plan for command in commands]
        if not submits:
            return [RequestDone(request_id, Outcome.DROPPED, "the glasses are not connected")]
        for _ in submits:
            self._ticket += 1
            request.tickets.add(self._ticket)
            self._requests[self._ticket] = request
        first = self._ticket - len(submits) + 1
        for offset, (arm, command) in enumerate(submits):
            effects += self._from_arm(arm.submit(command, first + offset, now), now)
        return effects + self._settle(now)

    # ------------------------------------------------------------------------------------------ inputs: the radio

    def sighted(self, advert: Advert, now: float) -> list[GlassesEffect]:
        """An advertisement; those of other devices are ignored."""
        sighting = self.profile.recognise(advert)
        if sighting is None or sighting.arm not in self.arms or not self._running:
            return []
        effects: list[GlassesEffect] = []
        if self.target.addresses:
            known = self.target.addresses.get(sighting.arm)
            if known is None and sighting.pair == self.target.pair:
                # The other arm of a pair of which one arm was paired alone.
                known = advert.address
                self.target = Target(self.target.pair, {**self.target.addresses, sighting.arm: known})
                effects.append(Remember(self.profile.key, sighting.pair, self.target.addresses))
            if known == advert.address:
                if self.target.pair is None:
                    self.target = Target(sighting.pair, self.target.addresses)
                self._first_seen.setdefault(sighting.arm, now)
                self.arms[sighting.arm].sighted(advert.address, advert.rssi, now)
        elif self.target.pair in (None, sighting.pair) and self._candidates() < 64:
            # 64 addresses of one model in one room is beyond any real place; a hostile radio must not fill memory.
            self._seen.setdefault(sighting.pair, {}).setdefault(sighting.arm, {}).setdefault(
                advert.address, now
            )
        return effects + self._settle(now)

    def link_up(self, arm: Arm, conn_id: int, payload_max: int, now: float) -> list[GlassesEffect]:
        return self._from_arm(self.arms[arm].link_up(conn_id, payload_max, now), now) + self._settle(now)

    def link_failed(self, arm: Arm, conn_id: int, fault: GlassesFault, now: float) -> list[GlassesEffect]:
        return self._from_arm(self.arms[arm].link_failed(conn_id, fault, now), now) + self._settle(now)

    def link_lost(self, arm: Arm, conn_id: int, fault: GlassesFault, now: float) -> list[GlassesEffect]:
        return self._from_arm(self.arms[arm].link_lost(conn_id, fault, now), now) + self._settle(now)

    def written(
        self, arm: Arm, conn_id: int, write_id: int, fault: GlassesFault | None, now: float
    ) -> list[GlassesEffect]:
        return self._from_arm(self.arms[arm].written(conn_id, write_id, fault, now), now) + self._settle(now)

    def notified(self, arm: Arm, conn_id: int, char: str, data: bytes, now: float) -> list[GlassesEffect]:
        """A notification. Those of a connection that is no longer current are counted and ignored."""
        link = self.arms[arm]
        if not link.is_current(conn_id):
            return []
        effects: list[GlassesEffect] = []
        for event in self.driver.decode(arm, char, data, now):
            effects += self._event(arm, event, now)
        return effects + self._settle(now)

    # ----------------------------------------------------------------------------------------------- inputs: time

    def woke(self, now: float) -> list[GlassesEffect]:
        """The process slept: ask every arm at once whether it is still there."""
        effects: list[GlassesEffect] = []
        for arm in self.arms.values():
            effects += self._from_arm(arm.woke(now), now)
        if self._mic_check is not None:
            self._mic_check = max(self._mic_check, now + self.timing.mic_effect)
        return effects + self._settle(now)

    @property
    def deadline(self) -> float | None:
        times = [arm.deadline for arm in self.arms.values()]
        times += [self._mic_check, self._mic_beat, self._battery_at, self._page_at, self.driver.deadline]
        times += [self._choice_at(), self._turn_at()]
        times += [held.at + self.timing.early for held in self._early if held.at is not None]
        times += [
            slot.retry_at[arm]
            for slot in self._slots.values()
            if slot.flight is None
            for arm in slot.retry_at
            if self._up(self.arms[arm])
        ]
        return min((t for t in times if t is not None), default=None)

    def handle_deadline(self, now: float) -> list[GlassesEffect]:
        effects: list[GlassesEffect] = []
        for link in self.arms.values():
            if link.deadline is not None and now >= link.deadline:
                effects += self._from_arm(link.handle_deadline(now), now)
        if self.driver.deadline is not None and now >= self.driver.deadline:
            for arm, event in self.driver.handle_deadline(now):
                effects += self._event(arm, event, now)
        if self._mic_check is not None and now >= self._mic_check:
            effects += self._check_mic(now)
        if self._mic_beat is not None and now >= self._mic_beat:
            self._mic_beat = None
            self._reassert(Microphone)
        if self._battery_at is not None and now >= self._battery_at:
            effects += self._ask_battery(now)
        if self._page_at is not None and now >= self._page_at:
            effects += self._turn_page(now)
        for slot in self._slots.values():
            for name in [a for a, at in slot.retry_at.items() if now >= at]:
                del slot.retry_at[name]
        return effects + self._settle(now)

    # --------------------------------------------------------------------------------------------------- discovery

    def _choice_at(self) -> float | None:
        """When to decide again which pair to take, or to tell that nothing is in sight."""
        if not self._running or self._searching_since is None:
            return None
        if self.target.addresses or not self._seen:
            return None if self._told_unseen else self._searching_since + self.timing.unseen
        if self._ambiguous_since is not None:
            return self._ambiguous_since + self.timing.unseen
        first = min(at for arms in self._seen.values() for seen in arms.values() for at in seen.values())
        return first + (self.timing.settle if self._complete() else self.timing.unseen)

    def _candidates(self) -> int:
        return sum(len(seen) for arms in self._seen.values() for seen in arms.values())

    def _complete(self) -> list[str]:
        return [pair for pair, arms in self._seen.items() if set(arms) == set(self.arms)]

    def _choose(self, now: float) -> list[GlassesEffect]:
        at = self._choice_at()
        chosen = self.target.pair is not None and bool(self._complete()) and self._ambiguous_since is None
        if at is None or (now < at and not chosen):
            return []
        if self._ambiguous_since is not None:
            # Look again: one of them may have left the room.
            self._ambiguous_since = None
            self._seen.clear()
            return []
        if self.target.addresses or not self._seen:
            self._told_unseen = True
            away = [arm for arm, link in self.arms.items() if link.state is ArmState.SCANNING]
            return [
                self._notice(
                    Note.NOT_SEEN,
                    " and ".join(away),
                    "not advertising: in the closed case, out of range, or held by another phone "
                    "(disconnect them there); still looking",
                )
            ]
        complete = self._complete()
        twins = [pair for pair, arms in self._seen.items() if any(len(seen) > 1 for seen in arms.values())]
        if len(complete) > 1 or twins or (not complete and len(self._seen) > 1):
            self._ambiguous_since = now
            names = ", ".join(sorted(self._seen))
            return [
                self._notice(
                    Note.AMBIGUOUS,
                    "glasses",
                    f"more than one pair in sight ({names}); choose one by its address",
                )
            ]
        pair = complete[0] if complete else next(iter(self._seen))
        addresses = {arm: next(iter(seen)) for arm, seen in self._seen[pair].items()}
        self.target = Target(pair, addresses)
        self._seen.clear()
        effects: list[GlassesEffect] = [Remember(self.profile.key, pair, addresses)]
        for arm, address in addresses.items():
            self._first_seen.setdefault(arm, now)
            self.arms[arm].sighted(address, None, now)
        return effects

    def _turn_at(self) -> float | None:
        for arm, link in self.arms.items():
            if link.wants_to_connect and not self._connecting():
                return self._first_seen.get(arm, 0.0) + self.timing.turn
        return None

    def _connecting(self) -> bool:
        return any(link.state in (ArmState.CONNECTING, ArmState.DISCOVERING) for link in self.arms.values())

    def _connect(self, now: float) -> list[GlassesEffect]:
        """One arm at a time, left first."""
        if self._connecting():
            return []
        unseen_before = False
        for arm, link in self.arms.items():
            waited = now - self._first_seen.get(arm, now) >= self.timing.turn
            if link.wants_to_connect and (not unseen_before or waited):
                return self._from_arm(link.connect(now), now)
            if link.state is ArmState.SCANNING and link.fault is None:
                unseen_before = True  # never tried yet: it may show up in a moment
        return []

    # ------------------------------------------------------------------------------------------------------ arms

    def _from_arm(self, effects: list[ArmEffect], now: float) -> list[GlassesEffect]:
        out: list[GlassesEffect] = []
        for effect in effects:
            match effect:
                case Connect() | Disconnect() | Write():
                    out.append(effect)
                case Moved(arm, state, fault):
                    out += self._moved(arm, state, fault, now)
                case CommandDone():
                    out += self._done(effect, now)
        return out

    def _moved(
        self, arm: Arm, state: ArmState, fault: GlassesFault | None, now: float
    ) -> list[GlassesEffect]:
        if state is ArmState.READY:
            for slot in self._slots.values():
                self._forget(slot, arm)
            self._audio_next = None
            self._battery_at = now + self.profile.pace.battery
            notices: list[GlassesEffect] = [self._notice(Note.ARM_READY, arm, "")]
            mtu = self.arms[arm].writer.payload_max + 3
            if mtu < self.profile.mtu:
                words = f"this link carries an MTU of {mtu}, sound and pictures need {self.profile.mtu}"
                notices.append(self._notice(Note.WARNING, arm, words))
            return notices
        if state in (ArmState.BACKOFF, ArmState.GIVEN_UP, ArmState.IDLE):
            for slot in self._slots.values():
                self._forget(slot, arm)
            self._first_seen.pop(arm, None)
            self.place.pop(arm, None)
        if state is ArmState.BACKOFF:
            reason = self.arms[arm].why or (fault.value if fault else "")
            return [self._notice(Note.ARM_LOST, arm, reason)]
        if state is ArmState.GIVEN_UP:
            cure = (
                self.profile.unpair or "pair them again: the bond is no longer valid on one side"
                if fault is GlassesFault.NOT_PAIRED
                else "these glasses lack a service that the driver needs: update their firmware"
            )
            return [self._notice(Note.NEEDS_PERSON, arm, cure)]
        return []

    @staticmethod
    def _forget(slot: _Slot, arm: Arm) -> None:
        slot.has.pop(arm, None)
        slot.passed.discard(arm)
        slot.failures.pop(arm, None)
        slot.retry_at.pop(arm, None)
        if slot.flight is not None and slot.flight.arm is arm:
            slot.flight = None

    @staticmethod
    def _up(link: ArmLink) -> bool:
        return link.state is ArmState.READY

    # ------------------------------------------------------------------------------------- wanted against observed

    def _settle(self, now: float) -> list[GlassesEffect]:
        """Everything that follows from the facts as they are now. Called at the end of every input."""
        effects: list[GlassesEffect] = []
        effects += self._search(now)
        effects += self._choose(now)
        effects += self._connect(now)
        effects += self._refresh_state()
        if self._early:
            effects += self._release(now)
        # Slots are few; the order of insertion puts the microphone (privacy) first.
        for kind in list(self._slots):
            effects += self._reconcile(kind, self._slots[kind], now)
        effects += self._watch_mic(now)
        return effects

    def _search(self, now: float) -> list[GlassesEffect]:
        searching = any(link.state is ArmState.SCANNING for link in self.arms.values())
        if searching and self._searching_since is None:
            self._searching_since, self._told_unseen = now, False
        elif not searching:
            self._searching_since = None
        if searching == self._scanning:
            return []
        self._scanning = searching
        return [Scan(searching)]

    def _refresh_state(self) -> list[GlassesEffect]:
        up = [arm for arm, link in self.arms.items() if self._up(link)]
        if not up:
            state = _G.ABSENT
        elif all(self.place.get(arm) is Place.CASE_CLOSED for arm in up):
            state = _G.ASLEEP
        else:
            state = _G.READY if len(up) == len(self.arms) else _G.PARTIAL
        if state is self.state:
            return []
        if self.state is _G.ASLEEP:
            # What was on the lens before the case is gone, and the firmware stopped the microphone.
            self._reassert(Show)
            self._reassert(Microphone)
        return self._move(state)

    def _move(self, to: GlassesState) -> list[GlassesEffect]:
        if to not in GLASSES_TRANSITIONS[self.state]:
            raise InvalidTransition("Glasses", self.state, to)
        self.state = to
        return [Changed(to)]

    def _reconcile(self, kind: type, slot: _Slot, now: float) -> list[GlassesEffect]:
        if kind is Show and self.state is _G.ASLEEP:
            return []
        effects: list[GlassesEffect] = []
        # Bounded: each round sends something (and leaves), or settles one arm for good.
        for _ in range(2 * len(self.arms) + 1):
            if slot.flight is not None:
                return effects
            arm = self._next_arm(slot, now)
            if arm is None:
                return effects
            effects += self._submit(kind, slot, arm, now)
        return effects

    def _next_arm(self, slot: _Slot, now: float) -> Arm | None:
        """The arm to be told next, having first moved on to a newer version where that is due."""
        ready = [arm for arm, link in self.arms.items() if self._up(link) and arm not in slot.retry_at]
        behind = [a for a in ready if slot.has.get(a) != slot.going_version and a not in slot.passed]
        stale = slot.going_version != slot.version and now - slot.going_since > self.timing.fresh
        if not behind or stale or slot.going_version == 0:
            if not any(slot.has.get(arm) != slot.version for arm in ready):
                return None
            slot.going, slot.going_version, slot.going_since = slot.action, slot.version, now
            slot.passed.clear()
            slot.began = None
            behind = [arm for arm in ready if slot.has.get(arm) != slot.version]
        return behind[0] if behind else None

    def _submit(self, kind: type, slot: _Slot, arm: Arm, now: float) -> list[GlassesEffect]:
        try:
            commands = self.driver.commands(arm, slot.going)
        except Unsupported as error:
            return self._settled(kind, slot, arm, Outcome.UNSUPPORTED, str(error), now)
        if not commands:
            slot.has[arm] = slot.going_version
            return []
        flight = slot.flight = _Flight(arm, slot.going_version, set())
        first = self._ticket + 1
        self._ticket += len(commands)
        flight.tickets.update(range(first, self._ticket + 1))
        effects: list[GlassesEffect] = []
        for ticket, command in enumerate(commands, first):
            effects += self._from_arm(self.arms[arm].submit(command, ticket, now), now)
        return effects

    def _done(self, done: CommandDone, now: float) -> list[GlassesEffect]:
        request = self._requests.pop(done.ticket, None)
        if request is not None:
            request.tickets.discard(done.ticket)
            if done.outcome is not Outcome.OK:
                request.worst, request.reason = done.outcome, done.reason
            if request.tickets:
                return []
            return [RequestDone(request.request_id, request.worst, request.reason)]
        for kind, slot in self._slots.items():
            flight = slot.flight
            if flight is None or done.ticket not in flight.tickets:
                continue
            flight.tickets.discard(done.ticket)
            if done.outcome is not Outcome.OK:
                flight.worst, flight.reason = done.outcome, done.reason
            if slot.began is None:
                slot.began = done.began
            if flight.tickets:
                return []
            slot.flight = None
            return self._settled(kind, slot, flight.arm, flight.worst, flight.reason, now)
        return []

    def _settled(
        self, kind: type, slot: _Slot, arm: Arm, outcome: Outcome, reason: str, now: float
    ) -> list[GlassesEffect]:
        """One arm has answered, or has not, for `slot.going`."""
        effects: list[GlassesEffect] = []
        if outcome is Outcome.OK:
            slot.has[arm] = slot.going_version
            slot.failures.pop(arm, None)
            if kind is Microphone:
                effects += self._mic_acknowledged(now)
        elif outcome is Outcome.UNSUPPORTED:
            slot.has[arm] = slot.going_version
            effects.append(self._notice(Note.UNSUPPORTED, kind.__name__.lower(), reason))
        elif self._up(self.arms[arm]):
            failures = slot.failures.get(arm, 0) + 1
            slot.failures[arm] = failures
            slot.passed.add(arm)
            slot.retry_at[arm] = now + min(self.timing.retry_max, self.timing.retry * 2 ** (failures - 1))
            if outcome is Outcome.REFUSED and failures >= self.timing.refused_max:
                slot.has[arm] = slot.going_version
                slot.retry_at.pop(arm)
                slot.failures.pop(arm)
                effects.append(
                    self._notice(Note.DISPLAY_REFUSED, arm, f"{kind.__name__.lower()} refused by the glasses")
                )
            elif failures >= self.timing.unanswered_max:
                return effects + self._from_arm(self.arms[arm].reset(GlassesFault.TIMEOUT, now), now)
            elif outcome is Outcome.TIMEOUT:
                effects += self._from_arm(self.arms[arm].probe(now), now)
        if kind is Show:
            effects += self._display_settled(slot, outcome, reason, now)
        return effects

    def _display_settled(self, slot: _Slot, outcome: Outcome, reason: str, now: float) -> list[GlassesEffect]:
        """Tell what became of a version once every arm that is up has had its turn."""
        version = slot.going_version
        ready = [arm for arm, link in self.arms.items() if self._up(link)]
        if version <= slot.reported or any(
            slot.has.get(a) != version and a not in slot.passed for a in ready
        ):
            return []
        shown = [arm for arm in ready if slot.has.get(arm) == version]
        slot.reported = version
        if version == slot.version and shown and isinstance(slot.going, Show):
            pages = self.driver.pages(slot.going.layout)
            self._page_at = now + self.profile.pace.page if slot.going.page + 1 < pages else None
        final = Outcome.OK if shown and outcome is not Outcome.UNSUPPORTED else outcome
        return [DisplayDone(version, final, reason if final is not Outcome.OK else "", slot.began, now)]

    def _turn_page(self, now: float) -> list[GlassesEffect]:
        self._page_at = None
        slot = self._slots.get(Show)
        if slot is None or not isinstance(slot.action, Show):
            return []
        return self.want(Show(slot.action.layout, slot.action.page + 1), now)

    def _reassert(self, kind: type) -> None:
        """Say it again although every arm has it: its effect is missing."""
        slot = self._slots.get(kind)
        if slot is not None:
            slot.version += 1

    # ------------------------------------------------------------------------------------------------- microphone

    @property
    def mic_wanted(self) -> bool:
        slot = self._slots.get(Microphone)
        return slot is not None and isinstance(slot.action, Microphone) and slot.action.on

    def _mic_to(self, state: MicState) -> list[GlassesEffect]:
        if self.mic in (state, MicState.NONE):
            return []
        self.mic = state
        return [Changed(self.state)]

    def _mic_acknowledged(self, now: float) -> list[GlassesEffect]:
        """The glasses took the command; sound, or silence, has to follow."""
        slot = self._slots[Microphone]
        tired = self._mic_tries >= self.timing.mic_tries
        self._mic_check = now + (self.timing.mic_rest if tired else self.timing.mic_effect)
        if isinstance(slot.going, Microphone) and slot.going.on:
            self._audio_next = None  # the firmware counts from zero again
            if self.mic is not MicState.ON:
                self._audio_stream += 1
            beat = self.profile.pace.mic_beat
            self._mic_beat = now + beat if beat is not None else None
            return []
        self._mic_beat = None
        return self._mic_to(MicState.OFF)

    def _watch_mic(self, now: float) -> list[GlassesEffect]:
        """Follow the link: without its arm there is no sound, whatever was acknowledged before."""
        if self._mic_up() or self.mic in (MicState.OFF, MicState.NONE):
            return []
        self._mic_check = self._mic_beat = None
        self._mic_tries = 0
        return self._mic_to(MicState.STARTING if self.mic_wanted else MicState.OFF)

    def _mic_up(self) -> bool:
        return any(self._up(self.arms[arm]) for arm in self._mic_arms)

    def _check_mic(self, now: float) -> list[GlassesEffect]:
        self._mic_check = None
        heard = self._last_audio is not None and now - self._last_audio < self.timing.mic_effect
        if not self._mic_up() or self.state is _G.ASLEEP or heard == self.mic_wanted:
            if heard and self.mic_wanted:
                self._mic_tries = 0
                self._mic_check = now + self.timing.mic_effect  # keep listening: the stream may stop
            return []
        self._mic_tries += 1
        self._reassert(Microphone)
        effects: list[GlassesEffect] = []
        if self._mic_tries == self.timing.mic_tries:
            effects.append(
                self._notice(
                    Note.MIC_FAULT,
                    "microphone",
                    "no sound although switched on" if self.mic_wanted else "sound although switched off",
                )
            )
        if self._mic_tries >= self.timing.mic_tries:
            self._mic_check = now + self.timing.mic_rest
            effects += self._mic_to(MicState.FAULT)
        else:
            self._mic_check = now + self.timing.mic_effect
            if self.mic_wanted:
                effects += self._mic_to(MicState.STARTING)
        return effects

    def _audio(self, packet: AudioPacket, now: float) -> list[GlassesEffect]:
        self._last_audio = now
        self.counters["audio_packets"] += 1
        if not self.mic_wanted:
            self.counters["audio_unwanted"] += 1
            if self._mic_check is None:
                self._mic_check = now + self.timing.mic_effect
            return []
        effects = self._mic_to(MicState.ON)
        if self._mic_check is None:
            self._mic_check = now + self.timing.mic_effect
        gap = 0 if self._audio_next is None else (packet.seq - self._audio_next) % packet.modulus
        if gap >= packet.modulus - 10:
            return effects  # a duplicate, or later than its concealment
        if gap > 50:
            # Failure catalogue AUD-06: five seconds are no gap but another count.
            gap = 0
            self._audio_stream += 1
        self._audio_next = (packet.seq + 1) % packet.modulus
        self.counters["audio_lost"] += gap
        return [*effects, Decode(self._audio_stream, gap * len(packet.frames), packet.frames)]

    # ----------------------------------------------------------------------------------------------------- events

    def _event(self, arm: Arm, event: Event, now: float) -> list[GlassesEffect]:
        match event:
            case Reply(key, ok):
                return self._from_arm(self.arms[arm].replied(key, ok, now), now)
            case Send(command):
                self._ticket += 1
                return self._from_arm(self.arms[arm].submit(command, self._ticket, now), now)
            case AudioPacket():
                return self._audio(event, now)
            case Unknown():
                self.counters["unknown"] += 1
                return []
            case Identity(what, value):
                self.identity[what if what != "firmware" or len(self.arms) == 1 else f"firmware {arm}"] = (
                    value
                )
                return []
            case Warn(words):
                return [self._notice(Note.WARNING, arm, words)]
            case Battery(level, charging):
                known = self.battery.get(arm)
                self.battery[arm] = level
                if charging is not None:
                    self.charging = charging
                if arm in self.drain:
                    self.drain[arm].told(level, bool(self.charging), now)
                else:
                    self.drain[arm] = Drain(level, now)
                return [Happened(arm, event)] if known != level or charging is not None else []
            case Wear(place):
                self.place[arm] = place
            case Charging(on):
                self.charging = on
            case CaseBattery(level):
                self.case_battery = level
            case CaseCharging(on):
                self.case_charging = on
            case Silent(on):
                self.silent = on
            case Speech(on):
                self.speech = on
            case Head(up):
                first = self.arms.get(Arm.RIGHT)
                if arm is Arm.LEFT and first is not None and self._up(first):
                    return []  # both say it; the right one counts
                self.head_up = up
            case Touch() | Button() | DashboardOpened() | PhotoData() | PhotoFailed() | Motion():
                pass
        if isinstance(event, (Touch, Button)):
            self.place.pop(arm, None)  # a hand on them: not in the closed case, whatever was said last
            if not self._up(self.arms[arm]):
                return self._hold(Happened(arm, event, now))
        elif isinstance(event, (Wear, Silent, Charging, CaseBattery, CaseCharging)):
            recent = self._recent.get(event)
            self._recent[event] = (arm, now)
            if recent is not None and recent[0] is not arm and now - recent[1] < self.timing.same:
                return []
            if len(self._recent) > 64:  # values of batteries make new keys; old ones are of no use
                self._recent = {key: at for key, at in self._recent.items() if now - at[1] < 1.0}
        return [Happened(arm, event)]

    def _hold(self, happened: Happened) -> list[GlassesEffect]:
        """Keep a press until its arm has been greeted; with too many, the oldest goes."""
        self.counters["early_events"] += 1
        if len(self._early) >= self.timing.early_max:
            self._early.popleft()
            self.counters["early_lost"] += 1
        self._early.append(happened)
        return []

    def _release(self, now: float) -> list[GlassesEffect]:
        """Pass on what was held for arms that are ready now; what is too old, or whose link has gone, is counted."""
        out: list[GlassesEffect] = []
        for _ in range(len(self._early)):
            held = self._early.popleft()
            link = self.arms[held.arm]
            assert held.at is not None
            if link.state is ArmState.DISCOVERING and now < held.at + self.timing.early:
                self._early.append(held)
            elif self._up(link) and now < held.at + self.timing.early:
                out.append(held)
            else:
                self.counters["early_lost"] += 1
                out.append(
                    self._notice(Note.WARNING, held.arm, "a press before the glasses were ready was lost")
                )
        return out

    def _ask_battery(self, now: float) -> list[GlassesEffect]:
        self._battery_at = None
        effects: list[GlassesEffect] = []
        for link in self.arms.values():
            if not self._up(link):
                continue
            self._battery_at = now + self.profile.pace.battery
            try:
                commands = self.driver.commands(link.arm, AskBattery())
            except Unsupported:
                self._battery_at = None
                return effects
            for command in commands:
                self._ticket += 1
                effects += self._from_arm(link.submit(command, self._ticket, now), now)
        return effects

    def clock(self, clock: Clock, now: float) -> list[GlassesEffect]:
        """Set the glasses' clock where the model has one."""
        try:
            self.driver.commands(self.profile.arms[0], clock)
        except Unsupported:
            return []
        return self.want(clock, now)

    # ----------------------------------------------------------------------------------------------------- status

    def _notice(self, note: Note, about: str, detail: str) -> Notice:
        self.counters["notices"] += 1
        return Notice(note, str(about), detail)

    @property
    def level(self) -> int | None:
        """Battery of the pair: the weaker arm decides."""
        return min(self.battery.values(), default=None)

    def shown_on(self, arm: Arm) -> int:
        """Version of the screen that `arm` has acknowledged, 0 for none."""
        slot = self._slots.get(Show)
        return slot.has.get(arm, 0) if slot is not None else 0

    def _per_hour(self, arm: Arm, now: float) -> float | None:
        rate = self.drain[arm].per_hour(now) if arm in self.drain else None
        return None if rate is None else round(rate, 1)

    def status(self, now: float) -> dict[str, Any]:
        """Everything a status page says, without contents of the screen."""
        return {
            "model": self.profile.model,
            "state": self.state.value,
            "pair": self.target.pair,
            "microphone": self.mic.value,
            "battery": self.level,
            "charging": self.charging,
            "case_battery": self.case_battery,
            "head_up": self.head_up,
            "silent": self.silent,
            "identity": dict(self.identity),
            "display_version": self.display_version,
            "counters": dict(self.counters),
            "arms": {
                arm.value: {
                    "state": link.state.value,
                    "reason": link.fault.value if link.fault else None,
                    "address": self.target.addresses.get(arm) or link.address,
                    "battery": self.battery.get(arm),
                    "battery_per_hour": self._per_hour(arm, now),
                    "rssi": link.rssi,
                    "place": self.place[arm].value if arm in self.place else None,
                    "payload": link.writer.payload_max,
                    "ack_ms": round(link.writer.ack_time * 1000, 1)
                    if link.writer.ack_time is not None
                    else None,
                    "bytes_per_second": round(link.writer.link_rate)
                    if link.writer.link_rate is not None
                    else None,
                    "queued": link.writer.queued,
                    "connects": link.connects,
                    "display_version": self.shown_on(arm),
                    "written_bytes": link.writer.written_bytes,
                    "written_packets": link.writer.written_packets,
                    "bytes_per_minute": round(link.writer.bytes_rate.at(now)),
                    "writes_per_minute": round(link.writer.packets_rate.at(now), 1),
                    "retries": link.writer.retries,
                }
                for arm, link in self.arms.items()
            },
        }
