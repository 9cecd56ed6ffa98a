"""What the author of a glasses driver implements: a `Profile` (one per model) that makes a `Driver` (one per wearer).

Rules: pure (no clock, no I/O, no logging): bytes in, events out; actions in, commands out. A driver decides *which
bytes* say something and which answer proves that they arrived; when to send, retry, replace and give up is decided in
`edge/core`. A decoder never raises on what the air delivers: what it cannot use becomes an `Unknown` event.
See docs/add-glasses.md for a worked example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, ClassVar, TypeAlias

# ------------------------------------------------------------------------------------------------ identity and GATT


class Arm(StrEnum):
    """One BLE peripheral of a pair of glasses. Single-peripheral models use WHOLE."""

    LEFT = "left"
    RIGHT = "right"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Advert:
    """One advertisement as the radio reported it. `address` is opaque (a UUID on macOS)."""

    address: str
    name: str | None
    rssi: int | None = None  # dBm
    services: tuple[str, ...] = ()
    manufacturer: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What an advertisement says about our model: which arm, and the key that both arms of one pair share."""

    arm: Arm
    pair: str


@dataclass(frozen=True, slots=True)
class Gatt:
    """The attributes a driver uses; lower-case 128-bit UUIDs. `notify[0]` carries the answers to commands."""

    service: str
    write: str
    notify: tuple[str, ...]


# --------------------------------------------------------------------------------------------------------- commands


class Lane(Enum):
    """Which queue of the writer a command takes. HEARTBEAT overtakes all, between the packets of a bulk transfer too."""

    HEARTBEAT = 0
    CONTROL = 1
    BULK = 2


#: Names one outstanding answer. Equal keys mean "this answers that"; the writer never looks inside.
ReplyKey: TypeAlias = Hashable


@dataclass(frozen=True, slots=True)
class Packet:
    """One ATT write. With `reply` the next packet waits for that answer, `timeout` seconds at most."""

    data: bytes
    response: bool = True  # ATT write request (True) or write command (False)
    reply: ReplyKey | None = None
    timeout: float = 1.0
    gap: float = 0.0  # least time before the next packet, s
    char: str = ""  # another characteristic than `Gatt.write`


@dataclass(frozen=True, slots=True)
class Command:
    """A transaction with one arm. `encode(payload_max)` is called once per attempt with the largest ATT payload of
    the link at that moment, so sequence numbers are fresh and a late answer to an earlier attempt matches nothing.
    """

    name: str
    encode: Callable[[int], Sequence[Packet]]
    lane: Lane = Lane.CONTROL
    tries: int = 3  # attempts in all; failure catalogue BLE-03: 1 s, three times, then the queue moves on


class Unsupported(Exception):
    """This model, or this link, cannot do that. The message is for the person who asked."""


# ---------------------------------------------------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True)
class TextWall:
    text: str


@dataclass(frozen=True, slots=True)
class DoubleTextWall:
    top_text: str  # the left column, in the words of the protocol "top"
    bottom_text: str


@dataclass(frozen=True, slots=True)
class ReferenceCard:
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class DashboardCard:
    left_text: str
    right_text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """`data` is base64 of any picture file that Pillow reads."""

    data: str


@dataclass(frozen=True, slots=True)
class Blank:
    """Nothing on the lens."""


Layout: TypeAlias = TextWall | DoubleTextWall | ReferenceCard | DashboardCard | Picture | Blank


@dataclass(frozen=True, slots=True)
class Show:
    """Page `page` (from 0) of a layout. A page beyond the last is the last."""

    layout: Layout
    page: int = 0


@dataclass(frozen=True, slots=True)
class Microphone:
    on: bool


@dataclass(frozen=True, slots=True)
class Brightness:
    percent: int  # 0-100
    auto: bool = False


@dataclass(frozen=True, slots=True)
class HeadUpAngle:
    degrees: int


@dataclass(frozen=True, slots=True)
class DisplayPosition:
    """Where the picture floats. `height` 0-8 and `depth` 1-9 in the steps of the MentraOS settings page."""

    height: int
    depth: int


@dataclass(frozen=True, slots=True)
class WearDetection:
    on: bool


@dataclass(frozen=True, slots=True)
class SilentMode:
    on: bool


@dataclass(frozen=True, slots=True)
class Clock:
    """Local wall time: seconds since the epoch plus the local offset from UTC in seconds."""

    epoch: float
    utc_offset: float
    twelve_hour: bool = False


@dataclass(frozen=True, slots=True)
class AskBattery:
    pass


@dataclass(frozen=True, slots=True)
class Notify:
    """Show a phone notification in the glasses' own style."""

    number: int
    app_id: str
    app_name: str
    title: str
    subtitle: str
    text: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ClearNotify:
    number: int


@dataclass(frozen=True, slots=True)
class TakePhoto:
    request_id: str
    size: str = "medium"
    compress: str = "none"
    silent: bool = False
    flash: bool = True


@dataclass(frozen=True, slots=True)
class Light:
    """Drive a user-facing LED; times in seconds."""

    request_id: str
    on: bool
    color: str = "white"
    on_time: float = 1.0
    off_time: float = 0.0
    count: int = 1


@dataclass(frozen=True, slots=True)
class Imu:
    on: bool


Action: TypeAlias = (
    Show
    | Microphone
    | Brightness
    | HeadUpAngle
    | DisplayPosition
    | WearDetection
    | SilentMode
    | Clock
    | AskBattery
    | Notify
    | ClearNotify
    | TakePhoto
    | Light
    | Imu
)

# ----------------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to a command. `ok` False is a refusal by the firmware."""

    key: ReplyKey
    ok: bool = True


@dataclass(frozen=True, slots=True)
class Send:
    """The protocol demands an answer from us at once (an acknowledgement, a pong)."""

    command: Command


@dataclass(frozen=True, slots=True)
class Battery:
    level: int  # percent of the arm that said it
    charging: bool | None = None


@dataclass(frozen=True, slots=True)
class Charging:
    on: bool


@dataclass(frozen=True, slots=True)
class CaseBattery:
    level: int


@dataclass(frozen=True, slots=True)
class CaseCharging:
    on: bool


class Gesture(StrEnum):
    """Exactly the names that SDK apps know (wire spec 2.3)."""

    SINGLE_TAP = "single_tap"
    DOUBLE_TAP = "double_tap"
    TRIPLE_TAP = "triple_tap"
    LONG_PRESS = "long_press"
    FORWARD_SWIPE = "forward_swipe"
    BACKWARD_SWIPE = "backward_swipe"
    UP_SWIPE = "up_swipe"
    DOWN_SWIPE = "down_swipe"


@dataclass(frozen=True, slots=True)
class Touch:
    gesture: Gesture


@dataclass(frozen=True, slots=True)
class Button:
    button_id: str
    long: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    up: bool


class Place(StrEnum):
    """Where the glasses are, as far as they say."""

    WORN = "worn"
    OFF = "off"  # taken off, not in the case
    CASE_OPEN = "case_open"
    CASE_CLOSED = "case_closed"


@dataclass(frozen=True, slots=True)
class Wear:
    place: Place


@dataclass(frozen=True, slots=True)
class Silent:
    on: bool


@dataclass(frozen=True, slots=True)
class DashboardOpened:
    on: bool


@dataclass(frozen=True, slots=True)
class Speech:
    """Voice activity as the glasses hear it."""

    on: bool


@dataclass(frozen=True, slots=True)
class AudioPacket:
    """Codec frames of one notification. `seq` counts packets and wraps at `modulus`."""

    seq: int
    frames: tuple[bytes, ...]
    modulus: int = 256


@dataclass(frozen=True, slots=True)
class Identity:
    """Something the glasses said about themselves: `what` is "firmware" or "serial"."""

    what: str
    value: str


@dataclass(frozen=True, slots=True)
class PhotoData:
    """A whole picture arrived for a request."""

    request_id: str
    data: bytes
    mime: str = "image/jpeg"


@dataclass(frozen=True, slots=True)
class PhotoFailed:
    request_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Motion:
    """Acceleration in g and heading in degrees where the device knows it."""

    x: float
    y: float
    z: float
    heading: float | None = None


@dataclass(frozen=True, slots=True)
class Warn:
    """Something the wearer or the developer should know (a glyph that the lens lacks, a refused picture)."""

    text: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A packet that this driver does not know. Counted, otherwise without effect (failure catalogue BLE-14)."""

    data: bytes


Event: TypeAlias = (
    Reply
    | Send
    | Battery
    | Charging
    | CaseBattery
    | CaseCharging
    | Touch
    | Button
    | Head
    | Wear
    | Silent
    | DashboardOpened
    | Speech
    | AudioPacket
    | Identity
    | PhotoData
    | PhotoFailed
    | Motion
    | Warn
    | Unknown
)

# ------------------------------------------------------------------------------------------------ profile and driver


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How the microphone is coded. `frame_bytes` 0 means that `frames` are raw PCM16 at `rate`."""

    frame_bytes: int
    frame: float = 0.01  # seconds of sound in one frame
    rate: int = 16_000


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a model wants to hear from us. Seconds."""

    heartbeat: float | None = 8.0  # None: the model needs none
    heartbeat_timeout: float = 1.5  # what the driver's heartbeat allows for its answer
    mic_beat: float | None = None  # repeat "microphone on" this often
    battery: float = 80.0  # ask for the battery this often
    page: float = 8.0  # a text of several pages turns by itself after this time
    clock: float = 600.0  # set the clock this often; clocks in glasses drift by seconds a day


class Driver(ABC):
    """The conversation with one pair of glasses; survives reconnects. Holds sequence numbers and half-read messages."""

    @abstractmethod
    def opened(self, arm: Arm) -> None:
        """A fresh link to `arm`: forget half-read messages of the old one."""

    @abstractmethod
    def init(self, arm: Arm) -> Sequence[Sequence[Command]]:
        """Steps to run in order after `opened`. Each step lists alternatives; the first that is answered will do
        (failure catalogue BLE-14). A step without an answer ends the attempt to connect."""

    def greet(self, arm: Arm) -> Sequence[Command]:
        """Questions to ask once an arm is ready (battery, serial number). No answer is no harm."""
        return ()

    @abstractmethod
    def heartbeat(self, arm: Arm) -> Command | None:
        """A command whose answer proves that this arm hears us and is heard, or None."""

    @abstractmethod
    def commands(self, arm: Arm, action: Action) -> Sequence[Command]:
        """What `arm` has to be told for `action`; empty if that arm has no part in it. Raises Unsupported."""

    @abstractmethod
    def decode(self, arm: Arm, char: str, data: bytes, now: float) -> list[Event]:
        """The events in one notification. Never raises, whatever the bytes."""

    def pages(self, layout: Layout) -> int:
        """How many pages `layout` takes on this lens, at least 1."""
        return 1

    def warnings(self, layout: Layout) -> Sequence[str]:
        """What a developer should know about `layout` on this lens, e.g. glyphs that it lacks."""
        return ()

    @property
    def deadline(self) -> float | None:
        """When `handle_deadline` wants to be called (monotonic seconds), for half-read transfers that expire."""
        return None

    def handle_deadline(self, now: float) -> list[tuple[Arm, Event]]:
        return []


class Profile(ABC):
    """Everything about one model that does not change while it runs."""

    key: ClassVar[str]  # short name on the command line: "g1"
    model: ClassVar[str]  # the name MentraOS clients know: "Even Realities G1"
    arms: ClassVar[tuple[Arm, ...]]  # in the order in which they are told things
    gatt: ClassVar[Gatt]
    pace: ClassVar[Pace]
    audio: ClassVar[AudioFormat | None]
    capabilities: ClassVar[Mapping[str, Any]]  # wire spec appendix B
    mtu: ClassVar[int] = 0  # ATT MTU that the driver needs to work fully; 0: any
    bonds: ClassVar[bool] = False  # whether the model asks for bonding
    unpair: ClassVar[str] = (
        ""  # how a person ends a bond that is no longer valid, where this model has its own way
    )
    #: A tap also reaches apps that only know buttons, for models that have a touch pad and no button.
    taps_are_buttons: ClassVar[bool] = False

    @abstractmethod
    def recognise(self, advert: Advert) -> Sighting | None:
        """Which arm of which pair sent this advertisement, or None if it is not ours."""

    @abstractmethod
    def driver(self) -> Driver:
        """A fresh conversation for one pair of glasses."""
