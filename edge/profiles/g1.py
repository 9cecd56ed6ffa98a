"""Even Realities G1: two arms over Nordic UART, text pages (4E), bitmaps (15/20/16), LC3 microphone (0E/F1).

Rules: pure; bytes as docs/glasses/g1.md says. Left is told before right. Sequence numbers count per arm. Lengths of
answers are never tested exactly (firmware pads to 20 bytes).
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from edge.profiles import bitmap, text
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
    CaseBattery,
    CaseCharging,
    Charging,
    ClearNotify,
    Clock,
    Command,
    DashboardCard,
    DashboardOpened,
    DisplayPosition,
    DoubleTextWall,
    Driver,
    Event,
    Gatt,
    Gesture,
    Head,
    HeadUpAngle,
    Identity,
    Lane,
    Layout,
    Microphone,
    Notify,
    Pace,
    Packet,
    Picture,
    Place,
    Profile,
    ReferenceCard,
    Reply,
    Show,
    Sighting,
    Silent,
    SilentMode,
    TextWall,
    Touch,
    Unknown,
    Unsupported,
    Wear,
    WearDetection,
)

# ------------------------------------------------------------------------------------------------------ the panel

WIDTH, HEIGHT = 576, 136  # pixels of the panel; text uses 488 of the width
LINES = 5

#: Base widths of the vendor's proportional font as MentraOS measured it (MIT); a glyph takes 2 x (base + 1) pixels.
_BASE_WIDTHS = {
    1: "!',.:;il|¦·˙‘’‚",
    2: ' "()I[]`j°´¸ÌÍìíĳ˚˛₁',
    3: "*/1J\\_rt{}¨¯ÎÏîïˆˇ˜“”„•‹›⁰⁴⁵⁶⁷⁸⁹₀₂₃₄₅₆₇₈₉",
    4: "+-<=>EFL^bcdefghknopqsz±ÈÉÊË×ßçèéêëñòóôõö÷þĲšž˘˝…⁄−≠≤≥",
    5: "$023456789?BCDGHKNOPQRSTUZauvxy¢¥§«¬®»¿ÇÐÑÒÓÔÕÖÙÚÛÜÞàáâãäåðøùúûüýÿŠŽ฿ẞ†‡₿∂∏∑√∫≈◊",
    6: "#%AVXY£¼½ÀÁÂÃÄÅØÝŸ–—ⁱ⁲⁳™⅛⅞↑↓↕↖↗↘↙",
    7: "&@MWmw~¶¾‰€⅜⅝←→",
    8: "©Ææ↔∞",
    9: "◌",
}
FONT = text.Font(
    widths={c: 2 * (base + 1) for base, characters in _BASE_WIDTHS.items() for c in characters},
    wide=21,  # sources say 18 to 21; the larger keeps a line of CJK inside the panel
    other=12,  # the width of most letters of the table
    max_lines=LINES,
    width=488,
)
COLUMN = 244  # the left column ends at half of the text area ...
SECOND_COLUMN = 268  # ... and the right one begins at 55 %

# ------------------------------------------------------------------------------------------------------ the bytes

UART = Gatt(
    service="6e400001-b5a3-f393-e0a9-e50e24dcca9e",
    write="6e400002-b5a3-f393-e0a9-e50e24dcca9e",
    notify=("6e400003-b5a3-f393-e0a9-e50e24dcca9e",),
)
_NAME = re.compile(r"^(?:Even )?G1_(\d{1,3})_([LR])_([0-9A-Za-z]+)$")

OK, REFUSED, MORE = 0xC9, 0xCA, 0xCB

TEXT_MAX = 191  # UTF-8 bytes per 4E packet, as the vendor's own app sends; 200 in all is proven, above is not
CHUNK_MAX = 176  # body of 04 and 4B packets: 180 in all
PLAIN_TEXT = 0x71  # new content, no AI chrome
BMP_CHUNK = 194
BMP_ADDRESS = bytes.fromhex("001c0000")  # where the firmware keeps the picture; part of the CRC
BMP_GAP = 0.005  # the vendor's Android app waits 5 ms between picture packets
BRIGHTNESS_MAX = 41  # three of four sources; one says 42
AUDIO_BYTES = 202
AUDIO_FRAME = 20  # LC3 at 16 kbit/s

#: F5 codes that mean one thing. Unlisted codes are reported as Unknown.
_EVENTS: dict[int, Event] = {
    0x00: Touch(Gesture.DOUBLE_TAP),  # "leave the feature": the firmware has gone back to its own screen
    0x01: Touch(Gesture.SINGLE_TAP),
    0x02: Head(up=True),
    0x03: Head(up=False),
    0x04: Silent(on=True),
    0x05: Silent(on=False),
    0x06: Wear(Place.WORN),
    0x07: Wear(Place.OFF),
    0x08: Wear(Place.CASE_OPEN),
    0x0B: Wear(Place.CASE_CLOSED),
    0x12: Touch(Gesture.LONG_PRESS),
    0x17: Touch(Gesture.LONG_PRESS),
    0x1E: DashboardOpened(on=True),
    0x1F: DashboardOpened(on=False),
    0x20: Touch(Gesture.DOUBLE_TAP),
}
#: F5 codes that are understood and need nothing: bound, hold released.
_QUIET = frozenset({0x11, 0x18})
#: Families whose answers echo the header of the command; byte 3 is the sequence number.
_ECHOED = frozenset({0x06, 0x1E, 0x22, 0x26, 0x54})


class G1Driver(Driver):
    """Encodes and decodes for one pair of G1."""

    def __init__(self) -> None:
        self._seq: dict[tuple[Arm, int], int] = {}

    # -------------------------------------------------------------------------------------------------- commands

    def opened(self, arm: Arm) -> None:
        # Nothing is half-read: every notification of the G1 stands alone. Sequence numbers go on, so that an answer
        # that was under way on the old link cannot fit a command of the new one.
        return

    def init(self, arm: Arm) -> Sequence[Sequence[Command]]:
        # 4D FB announces an MTU of 251 (Android apps), 4D 01 is what iOS apps say.
        return ((_single("mtu 251", b"\x4d\xfb", 0x4D), _single("mtu 1", b"\x4d\x01", 0x4D)),)

    def greet(self, arm: Arm) -> Sequence[Command]:
        asks = [_single("battery", b"\x2c\x01", 0x2C), _single("firmware", b"\x23\x74", 0x23)]
        if arm is Arm.LEFT:
            asks.append(_single("serial", b"\x34", 0x34))
        return asks

    def heartbeat(self, arm: Arm) -> Command:
        def encode(_: int) -> Sequence[Packet]:
            seq = self._next(arm, 0x25, 255)
            return (
                Packet(
                    bytes((0x25, 0x06, 0x00, seq, 0x04, seq)),
                    reply=(0x25,),
                    timeout=G1.pace.heartbeat_timeout,
                ),
            )

        return Command("heartbeat", encode, lane=Lane.HEARTBEAT, tries=1)

    def commands(self, arm: Arm, action: Action) -> Sequence[Command]:
        match action:
            case Show(Picture(data)):
                bits = bitmap.lens_bits(data, WIDTH, HEIGHT)
                return (picture_command(bitmap.bmp(bits, WIDTH, HEIGHT)),)
            case Show(layout, page):
                return (self._text(arm, *_page(layout, page)),)
            case Microphone(on):
                # Only the right arm has a microphone; the left one can switch it on but never off again.
                return (_single("microphone", bytes((0x0E, on)), 0x0E, on),) if arm is Arm.RIGHT else ()
            case Brightness(percent, auto):
                level = round(max(0, min(100, percent)) * BRIGHTNESS_MAX / 100)
                return (_single("brightness", bytes((0x01, level, auto)), 0x01),)
            case HeadUpAngle(degrees):
                return (_single("head-up angle", bytes((0x0B, max(0, min(60, degrees)), 1)), 0x0B),)
            case DisplayPosition(height, depth):
                return (self._position(arm, max(0, min(8, height)), max(1, min(9, depth))),)
            case WearDetection(on):
                return (_single("wear detection", bytes((0x27, on)), 0x27),)
            case SilentMode(on):
                return (_single("silent mode", bytes((0x03, 0x0C if on else 0x0A, 0)), 0x03),)
            case AskBattery():
                return (_single("battery", b"\x2c\x01", 0x2C),)
            case Clock(epoch, utc_offset, twelve_hour):
                return (self._clock(arm, epoch + utc_offset, twelve_hour),)
            case Notify():
                if arm is not Arm.LEFT:
                    return ()
                return (_chunked("allow app", 0x04, b"", _whitelist(action)),
                        _chunked("notification", 0x4B, bytes((action.number % 256,)), _notification(action)))  # fmt: skip
            case ClearNotify(number):
                if arm is not Arm.LEFT:
                    return ()
                return (_single("clear notification", b"\x4c" + struct.pack(">I", number), 0x4C),)
            case _:
                raise Unsupported(f"Even Realities G1 has no {type(action).__name__}")

    def pages(self, layout: Layout) -> int:
        return len(_pages(layout))

    def warnings(self, layout: Layout) -> Sequence[str]:
        return text.lacking(_texts(layout), FONT)

    def _next(self, arm: Arm, family: int, modulus: int = 256) -> int:
        seq = self._seq.get((arm, family), 0)
        self._seq[arm, family] = (seq + 1) % modulus
        return seq

    def _text(self, arm: Arm, body: str, page: int, pages: int) -> Command:
        def encode(payload_max: int) -> Sequence[Packet]:
            return text_packets(self._next(arm, 0x4E), body, page, pages, payload_max)

        return Command("text", encode, lane=Lane.BULK, tries=1)

    def _clock(self, arm: Arm, local: float, twelve_hour: bool) -> Command:
        def encode(_: int) -> Sequence[Packet]:
            seq = self._next(arm, 0x06)
            packet = clock_packet(seq, local, twelve_hour)
            return (Packet(packet, reply=(0x06, seq)),)

        return Command("clock", encode)

    def _position(self, arm: Arm, height: int, depth: int) -> Command:
        def encode(_: int) -> Sequence[Packet]:
            first, second = self._next(arm, 0x26), self._next(arm, 0x26)
            # preview first, then commit: the vendor's order; a commit alone is not documented
            return (
                Packet(bytes((0x26, 0x08, 0, first, 0x02, 1, height, depth)), reply=(0x26, first), gap=0.1),
                Packet(bytes((0x26, 0x08, 0, second, 0x02, 0, height, depth)), reply=(0x26, second)),
            )

        return Command("display position", encode)

    # ---------------------------------------------------------------------------------------------------- decode

    def decode(self, arm: Arm, char: str, data: bytes, now: float) -> list[Event]:
        if not data:
            return [Unknown(data)]
        kind = data[0]
        second = data[1] if len(data) > 1 else -1
        if kind == 0xF1:
            return self._audio(arm, data)
        if kind == 0xF5 and second >= 0:
            return _event(arm, data)
        if kind == 0x25:
            return [Reply((0x25,))]
        if kind == 0x2C:
            return _battery(data)
        if kind == 0x4E and len(data) >= 3 and second in (OK, MORE, REFUSED):
            return [Reply((0x4E, data[2]), ok=second != REFUSED)]
        if kind == 0x0E and len(data) >= 3 and second in (OK, REFUSED):
            return [Reply((0x0E, bool(data[2])), ok=second == OK)]
        if kind == 0x16 and len(data) >= 6:
            return [Reply((0x16, data[1:5]), ok=data[5] == OK)]
        if kind in _ECHOED and len(data) >= 4 and second not in (OK, REFUSED):
            # 26 ends in a status byte; the others say nothing but the echo
            refused = kind == 0x26 and len(data) >= 6 and data[5] == REFUSED
            return [Reply((kind, data[3]), ok=not refused)]
        if kind == 0x34 and len(data) >= 3:
            return [Identity("serial", _ascii(data[2:16])), Reply((0x34,))]
        if data[:3] == b"net":
            return [Identity("firmware", _ascii(data)), Reply((0x23,))]
        if kind == 0xF4:
            return []  # debug text of the firmware
        if second in (OK, MORE, REFUSED):
            return [Reply((kind,), ok=second != REFUSED)]
        return [Unknown(data)]

    @staticmethod
    def _audio(arm: Arm, data: bytes) -> list[Event]:
        if arm is not Arm.RIGHT:
            return []  # the left arm has no microphone; some firmware echoes frames there
        if len(data) != AUDIO_BYTES:
            return [Unknown(data)]
        return [
            AudioPacket(data[1], tuple(data[i : i + AUDIO_FRAME] for i in range(2, AUDIO_BYTES, AUDIO_FRAME)))
        ]


def _event(arm: Arm, data: bytes) -> list[Event]:
    code = data[1]
    value = data[2] if len(data) > 2 else 0
    event = _EVENTS.get(code)
    if isinstance(event, Silent):
        return [
            Touch(Gesture.TRIPLE_TAP),
            event,
        ]  # the firmware switches on a triple tap and says only the result
    if event is not None:
        return [event]
    if code == 0x09:
        return [Charging(on=value != 0)]
    if code == 0x0A:
        return [Battery(min(value, 100))]
    if code == 0x0E:
        return [CaseCharging(on=value != 0)]
    if code == 0x0F:
        return [CaseBattery(min(value, 100))]
    return [] if code in _QUIET else [Unknown(data)]


def _battery(data: bytes) -> list[Event]:
    if len(data) < 3 or data[1] in (OK, REFUSED):
        return [Reply((0x2C,), ok=len(data) < 2 or data[1] != REFUSED)]
    return [Battery(min(data[2], 100)), Reply((0x2C,))]


def _ascii(data: bytes) -> str:
    return data.split(b"\0")[0].decode("ascii", "replace").strip()


# ------------------------------------------------------------------------------------------------------ encoders


def _single(name: str, data: bytes, *reply: object) -> Command:
    packets = (Packet(data, reply=reply),)
    return Command(name, lambda _: packets)


def text_packets(seq: int, body: str, page: int, pages: int, payload_max: int) -> list[Packet]:
    """One text screen. `page` counts from 1. Every packet is acknowledged with `seq`; UTF-8 may be cut anywhere."""
    raw = body.encode("utf-8", "replace")
    size = max(1, min(TEXT_MAX, payload_max - 9))
    chunks = [raw[i : i + size] for i in range(0, len(raw), size)] or [b""]
    if len(chunks) > 255:
        raise Unsupported(f"a page of {len(raw)} bytes does not fit into 255 packets of {size} bytes")
    return [
        Packet(
            bytes((0x4E, seq, len(chunks), index, PLAIN_TEXT, 0, 0, page, pages)) + chunk,
            response=index == len(chunks) - 1,
            reply=(0x4E, seq),
            # 2 s is what the vendor allows for text; an arm that has not answered after 1 s is retried with newer text
            timeout=1.0,
        )
        for index, chunk in enumerate(chunks)
    ]


def picture_command(file: bytes) -> Command:
    """A bitmap: data packets without answers, the end, then the checksum that makes it visible."""
    crc = zlib.crc32(BMP_ADDRESS + file).to_bytes(4, "big")

    def encode(payload_max: int) -> Sequence[Packet]:
        if payload_max < BMP_CHUNK + 6:
            # The firmware puts packet n at n x 194, so packets cannot be made smaller.
            raise Unsupported(
                f"pictures need an ATT payload of {BMP_CHUNK + 6} bytes, this link has {payload_max}"
            )
        return (
            *picture_packets(file),
            Packet(b"\x20\x0d\x0e", reply=(0x20,), timeout=3.0),
            Packet(b"\x16" + crc, reply=(0x16, crc), timeout=3.0),
        )

    return Command("picture", encode, lane=Lane.BULK, tries=1)


def picture_packets(file: bytes) -> list[Packet]:
    chunks = [file[i : i + BMP_CHUNK] for i in range(0, len(file), BMP_CHUNK)]
    return [
        Packet(
            bytes((0x15, index % 256)) + (BMP_ADDRESS if index == 0 else b"") + chunk,
            response=False,
            gap=BMP_GAP,
        )
        for index, chunk in enumerate(chunks)
    ]


def clock_packet(seq: int, local: float, twelve_hour: bool) -> bytes:
    """Time without weather: local wall time in seconds and milliseconds, icon and temperature none."""
    body = struct.pack("<IQ", int(local) & 0xFFFFFFFF, int(local * 1000))
    return bytes((0x06, 0x16, 0, seq, 0x01)) + body + bytes((0, 0, 0, 0 if twelve_hour else 1, 0))


def _chunked(name: str, code: int, prefix: bytes, body: bytes) -> Command:
    """A JSON body in numbered chunks, each acknowledged with the command's first byte."""

    def encode(payload_max: int) -> Sequence[Packet]:
        size = max(1, min(CHUNK_MAX, payload_max - 3 - len(prefix)))
        chunks = [body[i : i + size] for i in range(0, len(body), size)]
        if len(chunks) > 255:
            raise Unsupported(f"{name}: {len(body)} bytes do not fit into 255 packets of {size} bytes")
        return [
            Packet(bytes((code,)) + prefix + bytes((len(chunks), index)) + chunk, reply=(code,))
            for index, chunk in enumerate(chunks)
        ]

    return Command(name, encode)


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _whitelist(notify: Notify) -> bytes:
    return _json(
        {"calendar_enable": False, "call_enable": False, "msg_enable": False, "ios_mail_enable": False,
         "app": {"list": [{"id": notify.app_id[:31], "name": notify.app_name[:31]}], "enable": True}}
    )  # fmt: skip


def _notification(notify: Notify) -> bytes:
    return _json(
        {"ncs_notification": {
            "msg_id": notify.number, "action": 0, "app_identifier": notify.app_id[:31],
            "title": notify.title[:80], "subtitle": notify.subtitle[:80], "message": notify.text[:400],
            "time_s": notify.epoch, "date": "", "display_name": notify.app_name[:31]}}
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------- layouts


def _texts(layout: Layout) -> tuple[str, ...]:
    match layout:
        case TextWall(body):
            return (body,)
        case DoubleTextWall(left, right) | DashboardCard(left, right):
            return (left, right)
        case ReferenceCard(title, body):
            return (title, body)
        case _:
            return ()


def _pages(layout: Layout) -> list[list[str]]:
    parts = [text.prepare(part, FONT).text for part in _texts(layout)]
    match layout:
        case TextWall():
            lines = text.wrap(parts[0], FONT)
        case DoubleTextWall() | DashboardCard():
            lines = text.columns(parts[0], parts[1], FONT, COLUMN, SECOND_COLUMN)
        case ReferenceCard():
            lines = text.wrap("\n".join(part for part in parts if part), FONT)
        case _:
            lines = []
    return text.paginate(lines, FONT.max_lines)


def _page(layout: Layout, page: int) -> tuple[str, int, int]:
    """The text of one page with its number from 1 and the number of pages."""
    pages = _pages(layout)
    index = max(0, min(page, len(pages) - 1))
    lines = pages[index]
    if isinstance(layout, Blank) or not lines:
        return " ", 1, 1  # one space is how MentraOS clears; an empty text is not documented
    # The vendor's app centres short pages: two empty lines above one to three lines, one above four.
    above = "\n\n" if len(lines) < 4 else "\n" if len(lines) == 4 else ""
    return above + "".join(text.visual_order(line) + "\n" for line in lines), index + 1, len(pages)


# -------------------------------------------------------------------------------------------------------- profile


class G1(Profile):
    """Even Realities G1, rectangular or round frame."""

    key = "g1"
    model = "Even Realities G1"
    arms = (Arm.LEFT, Arm.RIGHT)
    gatt = UART
    pace = Pace(heartbeat=8.0, heartbeat_timeout=1.5, mic_beat=1800.0, battery=80.0)
    audio = AudioFormat(frame_bytes=AUDIO_FRAME)
    mtu = 205  # a sound packet is 202 bytes; pictures need 203
    bonds = True
    taps_are_buttons = True
    capabilities = {
        "modelName": "Even Realities G1",
        "hasCamera": False,
        "camera": None,
        "hasDisplay": True,
        "display": {
            "count": 2,
            "isColor": False,
            "color": "green",
            "canDisplayBitmap": True,
            "resolution": {"width": 640, "height": 200},
            "fieldOfView": {"horizontal": 25},
            "maxTextLines": 5,
            "adjustBrightness": True,
        },
        "hasMicrophone": True,
        "microphone": {"count": 1, "hasVAD": False},
        "hasSpeaker": False,
        "speaker": None,
        "hasIMU": True,
        "imu": None,
        "hasButton": False,
        "button": None,
        "hasLight": False,
        "light": None,
        "power": {"hasExternalBattery": False},
        "hasWifi": False,
    }

    def recognise(self, advert: Advert) -> Sighting | None:
        match = _NAME.match(advert.name or "")
        if match is None:
            return None
        # The channel number is equal on both arms; it is not unique in the world, so addresses are remembered.
        return Sighting(Arm.LEFT if match[2] == "L" else Arm.RIGHT, match[1])

    def driver(self) -> G1Driver:
        return G1Driver()
