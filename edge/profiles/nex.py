"""Mentra Nex ("Mentra Display"): protobuf over two characteristics, LC3 microphone, pictures in chunks that are asked for again.

Rules: pure; bytes as docs/glasses/nex.md says. The first byte of a packet is its kind. Firmware generations differ in one
header (`02` + message, or `02 seq total index` + fragment): the plain form is tried first, the other when nothing
answers, and the form of the last answer is kept. The glasses ask whether we live; that is answered at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from edge.profiles import bitmap, proto, text
from edge.profiles.base import (
    Action,
    Advert,
    Arm,
    AskBattery,
    AudioFormat,
    AudioPacket,
    Battery,
    Blank,
    Brightness,
    Button,
    Charging,
    Clock,
    Command,
    DashboardCard,
    DashboardOpened,
    DisplayPosition,
    DoubleTextWall,
    Driver,
    Event,
    Gatt,
    Head,
    HeadUpAngle,
    Identity,
    Imu,
    Lane,
    Layout,
    Microphone,
    Motion,
    Pace,
    Packet,
    Picture,
    Profile,
    ReferenceCard,
    Reply,
    Send,
    Show,
    Sighting,
    Speech,
    TextWall,
    Unknown,
    Unsupported,
    Warn,
)

# ------------------------------------------------------------------------------------------------------ the bytes

_BASE = "0000{}-0000-1000-8000-00805f9b34fb"
COMMANDS = _BASE.format("71ff")
REPLIES = _BASE.format("70ff")
_NAME = re.compile(r"^MENTRA_DISPLAY_([0-9A-Fa-f]+)$")

JSON_KIND, PROTO_KIND, AUDIO_KIND, IMAGE_KIND = 0x01, 0x02, 0xA0, 0xB0

# PhoneToGlasses
TO_BATTERY, TO_INFO, TO_HEAD_ANGLE, TO_PONG = 11, 12, 15, 16
TO_MIC, TO_TEXT, TO_IMAGE, TO_BRIGHTNESS, TO_AUTO_BRIGHTNESS = 20, 30, 31, 37, 38
TO_DISTANCE, TO_HEIGHT, TO_CLEAR, TO_IMU_STREAM, TO_VERSION = 44, 45, 46, 57, 70


class From(IntEnum):
    """GlassesToPhone"""

    BATTERY = 10
    CHARGING = 11
    INFO = 12
    HEAD_POSITION = 13
    ANGLE_SET = 14
    PING = 15
    VAD = 20
    IMAGE = 30
    IMU = 40
    BUTTON = 41
    GESTURE = 42
    DASHBOARD = 43
    VERSION = 70


HEADER = 10  # the newest app keeps ten bytes of the ATT payload free for its headers
FRAGMENTS_MAX = 255
FRAGMENT_TIMEOUT = 5.0
CHUNK_GAP = 0.010
CHUNKS_MAX = 256
IMAGE_ROUNDS = 3  # failure catalogue MED-03
IMAGE_WAIT = 5.0  # the glasses draw only when all chunks are there
AUDIO_FRAME = 40
ANSWER_EVERY = 2.0
_CLEAR = proto.message({TO_CLEAR: b""})
LONG_PRESS = 0.5  # guess: the firmware reports down and up, not how long

# The text defaults of the vendor's app. The firmware adds 80 to y by itself. Several lines grow upwards from there, so
# that the last one is on the panel.
TEXT_X, TEXT_Y, TEXT_SIZE, TEXT_COLOUR = 20, 260, 48, 10_000
WIDTH, HEIGHT = 500, 220  # the canvas that the newest app draws on
TEXT_OVERHEAD = 25  # bytes around the words of a text message: kind, tags, lengths, place, size and colour
TEXT_MIN = 16  # bytes of words; a link that carries less says nothing useful
LINES = 4  # of 48 pixels on 220
#: No width table of the device's font is known: every letter of Latin script counts as half its height, which is wide
#: rather than narrow. What lies beyond Latin is a guess, so the wearer's developer is told about it.
_LATIN = "".join(map(chr, (*range(0x20, 0x7F), *range(0xA0, 0xAD), *range(0xAE, 0x180)))) + "–—‘’“”•…€™←→−◊"
FONT = text.Font(
    widths=dict.fromkeys(_LATIN, TEXT_SIZE // 2),
    wide=TEXT_SIZE,
    other=TEXT_SIZE // 2,
    max_lines=LINES,
    width=WIDTH - 2 * TEXT_X,
)
COLUMN, SECOND_COLUMN = 230, 250

_BUTTONS = ("center", "left", "right")


@dataclass
class _Image:
    """A picture that the glasses are collecting."""

    chunks: list[bytes]
    rounds: int = 0


@dataclass
class _Fragments:
    total: int
    since: float
    parts: dict[int, bytes] = field(default_factory=dict)


class NexDriver(Driver):
    """The conversation with one Mentra Nex."""

    def __init__(self) -> None:
        self._headers = False  # whether the firmware speaks the form with a fragment header
        self._seq = 0
        self._image_number = 0
        self._images: dict[str, _Image] = {}
        self._fragments: dict[int, _Fragments] = {}
        self._audio = 0
        self._pressed: dict[int, float] = {}
        self._head_up_angle = 20  # degrees; until the wearer sets one
        self._picture_shown = False
        self._answered: float | None = None

    def opened(self, arm: Arm) -> None:
        self._fragments.clear()
        self._images.clear()
        self._pressed.clear()
        self._picture_shown = True  # unknown: they keep their last picture over a reconnect

    def init(self, arm: Arm) -> Sequence[Sequence[Command]]:
        ask = proto.message({1: "hello", TO_BATTERY: b""})

        def plain(_: int) -> Sequence[Packet]:
            self._headers = False
            return (Packet(bytes((PROTO_KIND,)) + ask, reply=("battery",), timeout=3.0),)

        def with_header(payload_max: int) -> Sequence[Packet]:
            self._headers = True
            return self._packets(ask, payload_max, ("battery",), 3.0)

        return ((Command("hello", plain, tries=2), Command("hello in fragments", with_header, tries=2)),)

    def greet(self, arm: Arm) -> Sequence[Command]:
        return (
            self._command("device info", {TO_INFO: b""}, reply=("info",)),
            self._command("version", {TO_VERSION: proto.message({1: "v"})}, reply=("version",)),
        )

    def heartbeat(self, arm: Arm) -> Command:
        return self._command(
            "heartbeat", {1: "beat", TO_BATTERY: b""}, reply=("battery",), lane=Lane.HEARTBEAT, tries=1
        )

    def commands(self, arm: Arm, action: Action) -> Sequence[Command]:
        match action:
            case Show(Picture(data)):
                return (self._picture(data),)
            case Show(Blank()):
                return (self._command("clear", {TO_CLEAR: b""}, lane=Lane.BULK, tries=1),)
            case Show(layout, page):
                pages = _pages(layout)
                lines = pages[max(0, min(page, len(pages) - 1))]
                return (self._text("\n".join(text.visual_order(line) for line in lines)),)
            case Microphone(on):
                return (self._command("microphone", {TO_MIC: proto.message({1: on})}),)
            case Brightness(percent, auto):
                level = proto.message({1: max(0, min(100, percent))})
                return (
                    self._command("auto brightness", {TO_AUTO_BRIGHTNESS: proto.message({1: auto})}),
                    *(() if auto else (self._command("brightness", {TO_BRIGHTNESS: level}),)),
                )
            case HeadUpAngle(degrees):
                self._head_up_angle = max(0, min(60, degrees))
                wish = {TO_HEAD_ANGLE: proto.message({1: self._head_up_angle})}
                return (self._command("head-up angle", wish, reply=("angle",)),)
            case DisplayPosition(height, depth):
                return (
                    self._command("display height", {TO_HEIGHT: proto.message({1: max(0, height)})}),
                    self._command("display distance", {TO_DISTANCE: proto.message({1: max(0, depth)})}),
                )
            case AskBattery():
                return (self._command("battery", {1: "ask", TO_BATTERY: b""}, reply=("battery",)),)
            case Imu(on):
                return (self._command("motion", {TO_IMU_STREAM: proto.message({1: on})}),)
            case Clock():
                return ()  # no message sets a clock on this model
            case _:
                raise Unsupported(f"Mentra Nex has no {type(action).__name__}")

    def pages(self, layout: Layout) -> int:
        return len(_pages(layout))

    def warnings(self, layout: Layout) -> Sequence[str]:
        return text.lacking(_texts(layout), FONT)

    def _command(
        self,
        name: str,
        message: Mapping[int, proto.Value],
        *,
        reply: tuple[Any, ...] | None = None,
        lane: Lane = Lane.CONTROL,
        tries: int = 3,
    ) -> Command:
        body = proto.message(message)
        return Command(
            name, lambda payload_max: self._packets(body, payload_max, reply, 1.0), lane=lane, tries=tries
        )

    def _packets(
        self, body: bytes, payload_max: int, reply: tuple[Any, ...] | None, timeout: float
    ) -> Sequence[Packet]:
        if not self._headers:
            if 1 + len(body) > payload_max:
                raise Unsupported(f"a message of {len(body) + 1} bytes; this link carries {payload_max}")
            return (Packet(bytes((PROTO_KIND,)) + body, reply=reply, timeout=timeout),)
        size = max(1, payload_max - HEADER)
        parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
        if len(parts) > FRAGMENTS_MAX:
            raise Unsupported(
                f"a message of {len(body)} bytes does not fit into {FRAGMENTS_MAX} fragments of {size}"
            )
        self._seq = self._seq % 255 + 1
        return [
            Packet(
                bytes((PROTO_KIND, self._seq, len(parts), index)) + part,
                reply=reply if index == len(parts) - 1 else None,
                timeout=timeout,
                gap=CHUNK_GAP,
            )
            for index, part in enumerate(parts)
        ]

    def _text(self, body: str) -> Command:
        def encode(payload_max: int) -> Sequence[Packet]:
            shown = body
            if not self._headers and len(body.encode()) > payload_max - TEXT_OVERHEAD:
                if payload_max < TEXT_OVERHEAD + TEXT_MIN:
                    needed = TEXT_OVERHEAD + TEXT_MIN + 3
                    raise Unsupported(f"text needs an MTU of {needed}, this link has {payload_max + 3}")
                shown = _cut(body, payload_max - TEXT_OVERHEAD)
            y = TEXT_Y - TEXT_SIZE * shown.count("\n")
            message: dict[int, proto.Value] = {1: shown, 2: TEXT_COLOUR, 3: TEXT_X, 4: y, 5: TEXT_SIZE}
            clear, self._picture_shown = self._picture_shown, False
            return (
                *(self._packets(_CLEAR, payload_max, None, 1.0) if clear else ()),
                *self._packets(proto.message({TO_TEXT: proto.message(message)}), payload_max, None, 1.0),
            )

        return Command("text", encode, lane=Lane.BULK, tries=1)

    def _picture(self, data: str) -> Command:
        file = bitmap.bmp(bitmap.lens_bits(data, WIDTH, HEIGHT), WIDTH, HEIGHT, white_first=True)

        def encode(payload_max: int) -> Sequence[Packet]:
            size = max(1, payload_max - 4)
            chunks = [file[at : at + size] for at in range(0, len(file), size)]
            if len(chunks) > CHUNKS_MAX:
                raise Unsupported(f"pictures need an ATT payload of {-(-len(file) // CHUNKS_MAX) + 4} bytes, this link has {payload_max}")  # fmt: skip
            self._image_number = (self._image_number + 1) % 0x10000
            stream = f"{self._image_number:04X}"
            self._images = {stream: _Image(chunks)}  # a newer picture replaces the one under way
            wish = proto.message({1: stream, 4: WIDTH, 5: HEIGHT, 6: "bmp", 7: len(chunks)})
            head = proto.message({TO_IMAGE: wish})
            self._picture_shown = True
            return (
                *self._packets(_CLEAR, payload_max, None, 1.0),  # a picture is drawn over what was there
                *self._packets(head, payload_max, None, 1.0),
                *_chunk_packets(stream, chunks, range(len(chunks))),
            )

        return Command("picture", encode, lane=Lane.BULK, tries=1)

    # ---------------------------------------------------------------------------------------------------- decode

    def decode(self, arm: Arm, char: str, data: bytes, now: float) -> list[Event]:
        kind = data[0] if data else -1
        try:
            if kind == AUDIO_KIND and len(data) >= 2 + AUDIO_FRAME:
                return self._sound(data)
            if kind == JSON_KIND:
                return _json(data[1:])
            if kind == PROTO_KIND:
                return self._proto(data, now)
        except ValueError:
            pass
        return [Unknown(data)]

    def _sound(self, data: bytes) -> list[Event]:
        if data[1] != 0:
            return []  # our own sound, echoed
        # The packet has no number, so a lost one cannot be seen here; counting keeps the decoder's clock right.
        self._audio = (self._audio + 1) % 256
        count = (len(data) - 2) // AUDIO_FRAME
        return [
            AudioPacket(
                self._audio,
                tuple(data[2 + i * AUDIO_FRAME : 2 + (i + 1) * AUDIO_FRAME] for i in range(count)),
            )
        ]

    def _proto(self, data: bytes, now: float) -> list[Event]:
        try:
            plain = proto.fields(data[1:])
        except ValueError:
            plain = {}
        if plain and all(10 <= number <= 70 or number == 1 for number in plain):
            self._headers = False
            return self._message(plain, now)
        if len(data) < 4 or data[2] < 1 or data[3] >= data[2]:
            raise ValueError("neither a message nor a fragment")
        self._headers = True
        seq, total, index = data[1], data[2], data[3]
        half = self._fragments.get(seq)
        if half is None or half.total != total:
            while len(self._fragments) >= 4:  # one message at a time is usual
                del self._fragments[next(iter(self._fragments))]
            half = self._fragments[seq] = _Fragments(total, now)
        half.parts[index] = data[4:]
        if len(half.parts) < total:
            return []
        del self._fragments[seq]
        return self._message(proto.fields(b"".join(half.parts[i] for i in range(total))), now)

    def _message(self, found: dict[int, list[proto.Raw]], now: float) -> list[Event]:
        events: list[Event] = []
        for number, values in found.items():
            body = values[-1]
            if isinstance(body, bytes) and number != 1:
                events += self._event(number, proto.fields(body), now)
        return events

    def _event(self, number: int, body: dict[int, list[proto.Raw]], now: float) -> list[Event]:
        match number:
            case From.BATTERY:
                level = max(0, min(100, proto.number(body, 1)))
                return [Battery(level, charging=bool(proto.number(body, 2))), Reply(("battery",))]
            case From.CHARGING:
                return [Charging(on=bool(proto.number(body, 1)))]
            case From.INFO:
                firmware = proto.text(body, 1)
                return [*([Identity("firmware", firmware[:64])] if firmware else []), Reply(("info",))]
            case From.HEAD_POSITION:
                return [Head(up=proto.signed(body, 1) >= self._head_up_angle)]
            case From.ANGLE_SET:
                return [Reply(("angle",), ok=bool(proto.number(body, 1)))]
            case From.PING:
                # Firmware with the two names reversed would answer our answer: once in a while is enough (it asks
                # every 10 s and waits 3 s), and no loop comes of it.
                if self._answered is not None and now - self._answered < ANSWER_EVERY:
                    return []
                self._answered = now
                return [Send(self._command("answer", {TO_PONG: b""}, lane=Lane.HEARTBEAT, tries=1))]
            case From.VAD:
                return [Speech(on=proto.number(body, 1) == 1)]
            case From.IMAGE:
                return self._image_answer(body)
            case From.IMU:
                accel = body.get(1, [b""])[-1]
                vector = proto.fields(accel) if isinstance(accel, bytes) else {}
                return [Motion(proto.real(vector, 1), proto.real(vector, 2), proto.real(vector, 3))]
            case From.BUTTON:
                return self._button(proto.number(body, 1), proto.number(body, 2) == 1, now)
            case From.GESTURE:
                gesture = proto.number(body, 1)
                return [Head(up=gesture == 2)] if gesture in (2, 3) else []
            case From.DASHBOARD:
                return [DashboardOpened(on=True)]
            case From.VERSION:
                return [Identity("protocol", str(proto.number(body, 2))), Reply(("version",))]
            case _:
                return []

    def _button(self, number: int, down: bool, now: float) -> list[Event]:
        if number >= len(_BUTTONS):
            return []
        if down:
            self._pressed[number] = now
            return []
        since = self._pressed.pop(number, now)
        return [Button(_BUTTONS[number], long=now - since >= LONG_PRESS)]

    def _image_answer(self, body: dict[int, list[proto.Raw]]) -> list[Event]:
        stream = proto.text(body, 1)
        image = self._images.get(stream)
        if image is None:
            return []  # an answer about a picture that has been replaced
        missing = [index for index in proto.numbers(body, 3) if index < len(image.chunks)]
        if proto.number(body, 2) == 0:
            del self._images[stream]
            return [Reply(("image", stream))]
        if image.rounds >= IMAGE_ROUNDS or not missing:
            del self._images[stream]
            return [
                Reply(("image", stream), ok=False),
                Warn(f"the glasses refused a picture: {len(missing)} chunks missing"),
            ]
        image.rounds += 1
        packets = _chunk_packets(stream, image.chunks, missing)
        # The command that showed the picture still waits for the final answer, so these packets wait for none.
        again = [Packet(packet.data, response=packet.response, gap=packet.gap) for packet in packets]
        return [Send(Command("missing chunks", lambda _: again, tries=1))]

    @property
    def deadline(self) -> float | None:
        return min((half.since + FRAGMENT_TIMEOUT for half in self._fragments.values()), default=None)

    def handle_deadline(self, now: float) -> list[tuple[Arm, Event]]:
        for seq in [s for s, half in self._fragments.items() if now >= half.since + FRAGMENT_TIMEOUT]:
            del self._fragments[seq]
        return []


def _chunk_packets(stream: str, chunks: list[bytes], indexes: Sequence[int]) -> list[Packet]:
    """Image chunks; the last one waits for what the glasses say about the whole."""
    head = bytes((IMAGE_KIND,)) + int(stream, 16).to_bytes(2, "big")
    last = len(indexes) - 1
    return [
        Packet(
            head + bytes((index,)) + chunks[index],
            response=at == last,
            gap=CHUNK_GAP,
            reply=("image", stream) if at == last else None,
            timeout=IMAGE_WAIT,
        )
        for at, index in enumerate(indexes)
    ]


def _cut(body: str, size: int) -> str:
    """As much of the text as one packet takes; only the oldest firmware, which knows no fragments, needs it."""
    return body.encode()[: max(0, size)].decode("utf-8", "ignore")


def _json(data: bytes) -> list[Event]:
    """An event of the first, JSON-speaking generation."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    match value.get("type"):
        case "battery_status":
            level = value.get("level")
            if isinstance(level, bool) or not isinstance(level, int):
                return []
            return [
                Battery(max(0, min(100, level)), charging=bool(value.get("charging"))),
                Reply(("battery",)),
            ]
        case "charging_state":
            return [Charging(on=value.get("state") == "charging")]
        case "device_info":
            return [Identity("firmware", str(value.get("fw"))[:64]), Reply(("info",))]
        case "vad_event":
            return [Speech(on=value.get("state") == "active")]
        case "head_gesture" if value.get("gesture") in ("head_up", "head_down"):
            return [Head(up=value["gesture"] == "head_up")]
        case "button_event" if value.get("state") in ("up", "UP"):
            return [Button(str(value.get("button") or "center")[:64])]
        case "pong":
            return [Reply(("pong",))]
        case _:
            return []


# -------------------------------------------------------------------------------------------------------- layouts


def _texts(layout: Layout) -> tuple[str, ...]:
    match layout:
        case TextWall(body):
            return (body,)
        case DoubleTextWall(a, b) | DashboardCard(a, b) | ReferenceCard(a, b):
            return (a, b)
        case _:
            return ()


def _pages(layout: Layout) -> list[list[str]]:
    parts = [text.prepare(part, FONT).text for part in _texts(layout)]
    match layout:
        case DoubleTextWall() | DashboardCard():
            lines = text.columns(parts[0], parts[1], FONT, COLUMN, SECOND_COLUMN)
        case _:
            lines = text.wrap("\n".join(part for part in parts if part), FONT)
    return text.paginate(lines, LINES)


# -------------------------------------------------------------------------------------------------------- profile


class Nex(Profile):
    """Mentra Nex, sold as Mentra Display."""

    key = "nex"
    model = "Mentra Nex"
    arms = (Arm.WHOLE,)
    gatt = Gatt(service=_BASE.format("4860"), write=COMMANDS, notify=(REPLIES,))
    pace = Pace(heartbeat=8.0, heartbeat_timeout=1.5, battery=80.0)
    audio = AudioFormat(frame_bytes=AUDIO_FRAME)
    mtu = 205  # five audio frames in a notification
    capabilities = {
        # MentraOS ships no profile for this model; these are what its messages can do.
        "modelName": "Mentra Nex",
        "hasCamera": False,
        "camera": None,
        "hasDisplay": True,
        "display": {
            "count": 1,
            "isColor": False,
            "color": "green",
            "canDisplayBitmap": True,
            "resolution": {"width": WIDTH, "height": HEIGHT},
            "maxTextLines": LINES,
            "adjustBrightness": True,
        },
        "hasMicrophone": True,
        "microphone": {"count": 1, "hasVAD": True},
        "hasSpeaker": False,
        "speaker": None,
        "hasIMU": True,
        "imu": {"axisCount": 9, "hasAccelerometer": True, "hasCompass": True, "hasGyroscope": True},
        "hasButton": True,
        "button": {
            "count": 3,
            "buttons": [{"type": "press", "events": ["press", "long_press"], "isCapacitive": False}] * 3,
        },
        "hasLight": False,
        "light": None,
        "power": {"hasExternalBattery": False},
        "hasWifi": False,
    }

    def recognise(self, advert: Advert) -> Sighting | None:
        match = _NAME.match(advert.name or "")
        return None if match is None else Sighting(Arm.WHOLE, match[1].upper())

    def driver(self) -> NexDriver:
        return NexDriver()
