"""What every simulated firmware shares: peripherals, links, notifications, timers, faults and the log.

Rules of this file and of its neighbours:

- Pure: no clock, no randomness, no I/O. Time arrives as `now` (monotonic seconds), chance as a callable that
  was seeded outside, sound through `AudioSource`.
- Inputs return the effects they cause, in order; a shell (`firmware_sim/peripheral.py`) performs them.
- One device is one machine, however many peripherals ("arms") it has; a link is known by the number the shell
  gave it, and whatever concerns an older link is counted and ignored.
- Written from public protocol notes only; shares nothing with `edge`.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

LOG_MAX = 4096
"""Entries kept of the packet log: about a minute of the busiest traffic (audio, bitmap); older ones go first."""

TIMERS_MAX = 512
"""Pending timers of one device. A real transmit queue is finite too: an answer beyond it is lost and counted."""

ATT_HEADER = 3
"""Bytes of an ATT write or notification that are not value: opcode and handle."""

ATT_MTU_DEFAULT = 23

# ATT error codes a firmware uses (Core specification, Vol 3 Part F, 3.4.1.1).
ATT_INVALID_LENGTH = 0x0D

# HCI reasons a firmware gives when it ends a link.
REMOTE_USER_TERMINATED = 0x13
REMOTE_POWER_OFF = 0x15


# --- what a device looks like from the air ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CharacteristicSpec:
    uuid: str
    read: bool = False
    write: bool = False
    write_without_response: bool = False
    notify: bool = False
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    uuid: str
    characteristics: tuple[CharacteristicSpec, ...]


@dataclass(frozen=True, slots=True)
class PeripheralSpec:
    """One advertising BLE peripheral. `address` is a static random address, "C0:..." to "FF:..."."""

    arm: str
    name: str
    address: str
    services: tuple[ServiceSpec, ...]
    mtu_max: int
    manufacturer_data: bytes = b""
    """Company id (little-endian) and what follows, as it stands in the advertisement."""
    advertised_services: tuple[str, ...] = ()
    """128-bit service UUIDs, carried in the scan response."""
    interval: float = 0.1
    """Seconds between two advertisements."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes one device different from the next of its model; the room derives it from its seed."""

    number: int
    """1, 2, 3 ... within the room."""
    channel: int
    """1 to 999, unique within the room."""
    addresses: tuple[str, ...]
    """Static random addresses, as many as a model could need."""
    serial_number: int
    """0 to 999999, unique within the room."""


@dataclass(frozen=True, slots=True)
class DisplaySpec:
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """The microphone stream a firmware is sending now."""

    codec: str
    rate: int
    frame_bytes: int


class AudioSource(Protocol):
    """Where the microphone's sound comes from; the shell encodes, the firmware only asks."""

    def lc3(self, frame_bytes: int, count: int) -> list[bytes]:
        """The next `count` frames of 10 ms at 16 kHz, each `frame_bytes` long."""

    def pcm(self, samples: int, rate: int) -> bytes:
        """The next `samples` samples, signed 16-bit little-endian mono at `rate` Hz."""


LC3_SILENCE_TAIL = bytes.fromhex("0e093e5283400001")
"""The last eight bytes of a silent LC3 frame (liblc3); every byte before them is zero."""


class Silence:
    """An `AudioSource` that hears nothing."""

    def lc3(self, frame_bytes: int, count: int) -> list[bytes]:
        return [LC3_SILENCE_TAIL.rjust(frame_bytes, b"\0")] * count

    def pcm(self, samples: int, rate: int) -> bytes:
        return bytes(2 * samples)


# --- what the wearer sees ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextItem:
    """Lines of text, drawn from (x, y) in pixels, cut at `width`, one line each `line_height`."""

    text: str
    x: int
    y: int
    width: int
    line_height: int
    lines_max: int


@dataclass(frozen=True, slots=True)
class PictureItem:
    """A picture: rows top-down, each padded to whole bytes, most significant bit left, 1 = lit."""

    x: int
    y: int
    width: int
    height: int
    bits: bytes


@dataclass(frozen=True, slots=True)
class Screen:
    """One lens. `text` is what a wearer would read out; a picture has none."""

    kind: str
    text: str = ""
    items: tuple[TextItem | PictureItem, ...] = ()


BLANK = Screen("blank")


# --- effects ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Notify:
    arm: str
    link: int
    characteristic: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Disconnect:
    arm: str
    link: int
    reason: int


@dataclass(frozen=True, slots=True)
class Advertise:
    arm: str
    on: bool


@dataclass(frozen=True, slots=True)
class Lit:
    """What the wearer sees on this arm has changed."""

    arm: str


@dataclass(frozen=True, slots=True)
class Microphone:
    on: bool


@dataclass(frozen=True, slots=True)
class ForgetBond:
    arm: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """The write is answered with this ATT error (a command without response is only dropped)."""

    error: int


Effect = Notify | Disconnect | Advertise | Lit | Microphone | ForgetBond | Refuse


# --- user inputs ------------------------------------------------------------------------------------------------


class Action(enum.StrEnum):
    TAP = "tap"
    DOUBLE_TAP = "double_tap"
    TRIPLE_TAP = "triple_tap"
    LONG_PRESS = "long_press"
    SWIPE = "swipe"
    PRESS = "press"
    LOOK_UP = "look_up"
    LOOK_DOWN = "look_down"
    WEAR = "wear"
    BATTERY = "battery"
    CHARGE = "charge"
    CASE = "case"


Value = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class UserInput:
    """What a person does to the glasses. `value` depends on the action, see each firmware's `user`."""

    action: Action
    side: str | None = None
    value: Value = None


class NoTaker(Exception):
    """Nothing in the glasses takes this input now; the message says why and what would help."""


class InvalidTransition(Exception):
    """The firmware model contradicts its own table: a bug of the simulator."""


# --- one arm ----------------------------------------------------------------------------------------------------


class ArmState(enum.Enum):
    DARK = "dark"
    """No power, or asleep in the closed case: not on the air."""
    ADVERTISING = "advertising"
    CONNECTED = "connected"
    LEAVING = "leaving"
    """The link is being closed and the arm goes dark after it."""


TRANSITIONS: dict[tuple[ArmState, str], ArmState] = {
    (ArmState.DARK, "wake"): ArmState.ADVERTISING,
    (ArmState.ADVERTISING, "sleep"): ArmState.DARK,
    (ArmState.ADVERTISING, "connect"): ArmState.CONNECTED,
    (ArmState.CONNECTED, "lose"): ArmState.ADVERTISING,
    (ArmState.CONNECTED, "sleep"): ArmState.LEAVING,
    (ArmState.LEAVING, "lose"): ArmState.DARK,
    (ArmState.LEAVING, "wake"): ArmState.CONNECTED,
}


@dataclass(slots=True)
class Faults:
    """Switches for failures that users of real glasses report; all off by default. Probabilities are 0 to 1."""

    ack_delay: tuple[float, float] = (0.020, 0.040)
    """Seconds between a write and its answer, uniform."""
    drop_acks: int = 0
    """How many of the next answers never leave."""
    fail_acks: int = 0
    """How many of the next commands are answered "failed"."""
    duplicate: float = 0.0
    """Chance that a notification is sent twice."""
    lose: float = 0.0
    """Chance that a notification is lost inside the glasses."""
    deaf: bool = False
    """Writes arrive but the firmware does not act on them."""
    mute: bool = False
    """The firmware acts but sends nothing."""
    disconnect_after: int | None = None
    """The link is cut once so many bytes were written on it."""
    refuse_writes: int | None = None
    """Every write is refused with this ATT error code."""
    ignore: tuple[str, ...] = ()
    """Writes that begin with one of these bytes (hex) are not acted on: a firmware that knows another variant."""
    pad: int = 0
    """Answers are padded with zeros to so many bytes: captures show padded ones."""


@dataclass(slots=True)
class Counters:
    written: int = 0
    notified: int = 0
    dropped_unsubscribed: int = 0
    dropped_too_long: int = 0
    dropped_by_fault: int = 0
    dropped_queue_full: int = 0
    ignored_writes: int = 0
    unknown_commands: int = 0
    stale_inputs: int = 0


@dataclass(slots=True)
class Arm:
    """The part of a device that belongs to one peripheral. Only `Firmware` changes `state`."""

    spec: PeripheralSpec
    state: ArmState = ArmState.DARK
    link: int | None = None
    mtu: int = ATT_MTU_DEFAULT
    subscribed: set[str] = field(default_factory=set)
    bytes_written: int = 0
    last_write: float = 0.0
    last_due: float = 0.0
    screen: Screen = BLANK
    faults: Faults = field(default_factory=Faults)
    counters: Counters = field(default_factory=Counters)

    @property
    def name(self) -> str:
        return self.spec.arm


@dataclass(frozen=True, slots=True)
class LogEntry:
    t: float
    arm: str
    direction: str
    """"in" (host to glasses), "out", or "unknown" for an "in" that no command table lists."""
    data: bytes

    @property
    def hex(self) -> str:
        return self.data.hex()


# --- the machine ------------------------------------------------------------------------------------------------


class Firmware(ABC):
    """One pair of glasses. Subclasses say what a write means (`_on_write`) and what a person can do (`user`)."""

    model: ClassVar[str]
    display: ClassVar[DisplaySpec | None] = None

    def __init__(
        self,
        peripherals: tuple[PeripheralSpec, ...],
        *,
        chance: Callable[[], float],
        audio: AudioSource | None = None,
    ) -> None:
        """`chance` returns the next pseudo-random number in [0, 1)."""
        self.arms: dict[str, Arm] = {spec.arm: Arm(spec) for spec in peripherals}
        self.log: deque[LogEntry] = deque(maxlen=LOG_MAX)
        self.audio: AudioSource = audio or Silence()
        self._chance = chance
        self._timers: dict[Hashable, tuple[float, int, Callable[[float], list[Effect]]]] = {}
        self._order = 0

    # -- for subclasses to fill ----------------------------------------------------------------------------------

    @abstractmethod
    def _on_write(self, arm: Arm, characteristic: str, data: bytes, now: float) -> list[Effect]:
        """Act on a write of 1 to mtu - 3 bytes. Any bytes: act, answer or ignore, never raise."""

    @abstractmethod
    def user(self, what: UserInput, now: float) -> list[Effect]:
        """A person does something. Raises `NoTaker` with the reason when nothing takes it."""

    def _on_connected(self, arm: Arm, now: float) -> list[Effect]:
        return []

    def _on_subscribed(self, arm: Arm, characteristic: str, on: bool, now: float) -> list[Effect]:
        return []

    def _on_lost(self, arm: Arm, now: float) -> list[Effect]:
        return []

    def may_pair(self, arm_name: str, peer: str) -> bool:
        """Whether the device lets this host pair now."""
        return True

    def pairing_requested(self, arm_name: str, link: int, peer: str, now: float) -> list[Effect]:
        """A host asks to pair; the answer is `may_pair`."""
        return []

    def paired(self, arm_name: str, link: int, peer: str, now: float) -> list[Effect]:
        """Pairing succeeded."""
        return []

    def value(self, arm_name: str, characteristic: str) -> bytes:
        """What reading a readable characteristic returns."""
        return b""

    @property
    def microphone(self) -> AudioFormat | None:
        """What the glasses stream now, or None while nobody asked for sound."""
        return None

    def snapshot(self) -> dict[str, Any]:
        """The device's own state as JSON values, beside what `arms` tells."""
        return {}

    # -- inputs --------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        """Power on: every arm begins to advertise."""
        return [effect for arm in self.arms.values() for effect in self._wake(arm, now)]

    def connected(self, arm_name: str, link: int, mtu: int, now: float) -> list[Effect]:
        arm = self.arms[arm_name]
        if arm.state is not ArmState.ADVERTISING:
            arm.counters.stale_inputs += 1
            return []
        self._move(arm, "connect")
        arm.link, arm.mtu, arm.subscribed = link, mtu, set()
        arm.bytes_written, arm.last_write, arm.last_due = 0, now, now
        return self._on_connected(arm, now)

    def disconnected(self, arm_name: str, link: int, now: float) -> list[Effect]:
        arm = self._current(arm_name, link)
        if arm is None:
            return []
        self._move(arm, "lose")
        arm.link = None
        arm.subscribed = set()
        for key in [key for key in self._timers if isinstance(key, tuple) and key[:2] == ("send", arm_name)]:
            del self._timers[key]
        effects = self._on_lost(arm, now)
        if arm.state is ArmState.ADVERTISING:
            effects.append(Advertise(arm_name, True))
        return effects

    def mtu_changed(self, arm_name: str, link: int, mtu: int, now: float) -> list[Effect]:
        if (arm := self._current(arm_name, link)) is not None:
            arm.mtu = mtu
        return []

    def subscribed(self, arm_name: str, link: int, characteristic: str, on: bool, now: float) -> list[Effect]:
        arm = self._current(arm_name, link)
        if arm is None:
            return []
        if on:
            arm.subscribed.add(characteristic)
        else:
            arm.subscribed.discard(characteristic)
        return self._on_subscribed(arm, characteristic, on, now)

    def written(self, arm_name: str, link: int, characteristic: str, data: bytes, now: float) -> list[Effect]:
        """A write reached the attribute. `Refuse` among the effects is its ATT error."""
        arm = self._current(arm_name, link)
        if arm is None:
            return []
        self.log.append(LogEntry(now, arm_name, "in", data))
        if arm.faults.refuse_writes is not None:
            return [Refuse(arm.faults.refuse_writes)]
        if len(data) > arm.mtu - ATT_HEADER:
            return [Refuse(ATT_INVALID_LENGTH)]
        arm.counters.written += 1
        arm.bytes_written += len(data)
        arm.last_write = now
        effects: list[Effect] = []
        if arm.faults.deaf or not data or data.hex().startswith(arm.faults.ignore):
            arm.counters.ignored_writes += 1
        else:
            effects = self._on_write(arm, characteristic, data, now)
        if arm.faults.disconnect_after is not None and arm.bytes_written >= arm.faults.disconnect_after:
            arm.faults.disconnect_after = None
            effects.append(self._hang_up(arm))
        return effects

    @property
    def deadline(self) -> float | None:
        return min((due for due, _, _ in self._timers.values()), default=None)

    def handle_deadline(self, now: float) -> list[Effect]:
        ready = sorted((due, order, key) for key, (due, order, _) in self._timers.items() if due <= now)
        effects: list[Effect] = []
        for due, order, key in ready:
            timer = self._timers.get(key)
            if timer is None or timer[:2] != (due, order):
                continue  # an earlier one of this round cancelled or replaced it
            del self._timers[key]
            effects += timer[2](now)
        return effects

    # -- tools for subclasses ------------------------------------------------------------------------------------

    def _current(self, arm_name: str, link: int) -> Arm | None:
        arm = self.arms[arm_name]
        if arm.link == link:
            return arm
        arm.counters.stale_inputs += 1
        return None

    def _move(self, arm: Arm, event: str) -> ArmState:
        try:
            arm.state = TRANSITIONS[arm.state, event]
        except KeyError:
            raise InvalidTransition(f"{arm.name} arm: {event!r} in state {arm.state.value}") from None
        return arm.state

    def _wake(self, arm: Arm, now: float) -> list[Effect]:
        if arm.state in (ArmState.ADVERTISING, ArmState.CONNECTED):
            return []
        return [Advertise(arm.name, True)] if self._move(arm, "wake") is ArmState.ADVERTISING else []

    def _sleep(self, arm: Arm, now: float) -> list[Effect]:
        if arm.state in (ArmState.DARK, ArmState.LEAVING):
            return []
        was_connected = arm.state is ArmState.CONNECTED
        self._move(arm, "sleep")
        return [self._hang_up(arm, REMOTE_POWER_OFF)] if was_connected else [Advertise(arm.name, False)]

    def _hang_up(self, arm: Arm, reason: int = REMOTE_USER_TERMINATED) -> Effect:
        assert arm.link is not None
        return Disconnect(arm.name, arm.link, reason)

    def _set_timer(self, key: Hashable, due: float, then: Callable[[float], list[Effect]]) -> None:
        """At `due`, `then(now)`. A timer with the same key is replaced."""
        self._order += 1
        self._timers[key] = (due, self._order, then)

    def _cancel_timer(self, key: Hashable) -> None:
        self._timers.pop(key, None)

    def _has_timer(self, key: Hashable) -> bool:
        return key in self._timers

    def _answer(self, arm: Arm, characteristic: str, data: bytes, now: float) -> list[Effect]:
        """Send the answer to a write after the firmware's thinking time; answers of one arm keep their order."""
        if arm.faults.drop_acks > 0:
            arm.faults.drop_acks -= 1
            arm.counters.dropped_by_fault += 1
            return []
        if len(self._timers) >= TIMERS_MAX:
            arm.counters.dropped_queue_full += 1
            return []
        data = data.ljust(min(arm.faults.pad, arm.mtu - ATT_HEADER), b"\0")
        low, high = arm.faults.ack_delay
        due = max(arm.last_due, now + low + (high - low) * self._chance())
        arm.last_due = due
        link = arm.link

        def send(then: float) -> list[Effect]:
            return self._notify(arm, characteristic, data, then) if arm.link == link else []

        self._set_timer(("send", arm.name, self._order), due, send)
        return []

    def _notify(self, arm: Arm, characteristic: str, data: bytes, now: float) -> list[Effect]:
        """Send a notification now, if the link, the subscription, the MTU and the faults let it pass."""
        if arm.link is None or characteristic not in arm.subscribed:
            arm.counters.dropped_unsubscribed += 1
            return []
        if len(data) > arm.mtu - ATT_HEADER:
            arm.counters.dropped_too_long += 1
            return []
        faults = arm.faults
        if faults.mute or (faults.lose and self._chance() < faults.lose):
            arm.counters.dropped_by_fault += 1
            return []
        twice = bool(faults.duplicate) and self._chance() < faults.duplicate
        arm.counters.notified += 1
        self.log.append(LogEntry(now, arm.name, "out", data))
        return [Notify(arm.name, arm.link, characteristic, data)] * (2 if twice else 1)

    def _take_failure(self, arm: Arm) -> bool:
        """True when the next answer must say "failed"."""
        if arm.faults.fail_acks > 0:
            arm.faults.fail_acks -= 1
            return True
        return False

    def _show(self, arm: Arm, screen: Screen) -> list[Effect]:
        if arm.screen == screen:
            return []
        arm.screen = screen
        return [Lit(arm.name)]


def set_faults(faults: Faults, changes: Mapping[str, Any]) -> None:
    """Apply named changes; raises `ValueError` for an unknown name or a value of the wrong kind."""
    checks: dict[str, Callable[[Any], bool]] = {
        "ack_delay": lambda v: (
            isinstance(v, list | tuple)
            and len(v) == 2
            and all(isinstance(x, int | float) and not isinstance(x, bool) for x in v)
            and 0 <= v[0] <= v[1] <= 60
        ),
        "drop_acks": _is_count,
        "fail_acks": _is_count,
        "duplicate": _is_chance,
        "lose": _is_chance,
        "deaf": lambda v: isinstance(v, bool),
        "mute": lambda v: isinstance(v, bool),
        "disconnect_after": lambda v: v is None or _is_count(v),
        "refuse_writes": lambda v: v is None or (_is_count(v) and v <= 0xFF),
        "ignore": lambda v: isinstance(v, list | tuple) and all(isinstance(x, str) and _is_hex(x) for x in v),
        "pad": _is_count,
    }
    for name, value in changes.items():
        if name not in checks:
            raise ValueError(f"unknown fault {name!r}; known: {', '.join(sorted(checks))}")
        if not checks[name](value):
            raise ValueError(f"fault {name!r} cannot be {value!r}")
    for name, value in changes.items():
        setattr(faults, name, tuple(value) if isinstance(value, list) else value)


def _is_hex(text: str) -> bool:
    return bool(text) and set(text) <= set("0123456789abcdef")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_chance(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
