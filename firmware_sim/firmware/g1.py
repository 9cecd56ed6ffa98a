"""Even Realities G1: two arms, text pages, bitmaps, microphone, events, as public drivers and captures know them.

Rules of this file:

- `_COMMANDS` is the whole command table; a command that is not in it is acknowledged and counted as unknown.
- C9 = done, CB = more packets expected, CA = refused. Where no public source shows an answer the comment says
  "our choice".
- A packet never raises: what cannot be read is refused or ignored, and counted.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from firmware_sim.firmware.base import (
    BLANK,
    REMOTE_USER_TERMINATED,
    Action,
    Arm,
    ArmState,
    AudioFormat,
    AudioSource,
    CharacteristicSpec,
    DisplaySpec,
    Effect,
    Firmware,
    ForgetBond,
    Identity,
    LogEntry,
    Microphone,
    NoTaker,
    PeripheralSpec,
    PictureItem,
    Screen,
    ServiceSpec,
    TextItem,
    UserInput,
)

LEFT, RIGHT = "left", "right"

SERVICE = "6e400001-b5a3-f393-e0a9-e50e24dcca9e"
TO_GLASSES = "6e400002-b5a3-f393-e0a9-e50e24dcca9e"
FROM_GLASSES = "6e400003-b5a3-f393-e0a9-e50e24dcca9e"

OK, MORE, FAIL = 0xC9, 0xCB, 0xCA

MTU_MAX = 251
"""What every driver asks for; the final value on hardware is not established."""

PAYLOAD_MAX = 200
"""Longest write that the official app makes; longer ones are said to crash the glasses. Here they go unanswered
(our choice), which a driver must notice."""

IDLE = 32.0
"""Seconds without a write after which an arm drops the link."""

REPLY_BYTES = 20
"""Short answers are padded with zeros to this length."""

TEXT_HEADER = 9
TEXT_STATES = {0x3: "ai", 0x4: "ai_complete", 0x5: "ai_manual", 0x6: "ai_error", 0x7: "text"}
PAGES_KEPT = 4
"""Half-received pages per arm. A driver sends one at a time; four survive any interleaving seen in the wild."""

PANEL = DisplaySpec(576, 136)
TEXT_WIDTH = 488
TEXT_LINES = 5
LINE_HEIGHT = 27
"""136 px / 5 lines."""
TEXT_LEFT = (PANEL.width - TEXT_WIDTH) // 2

BITMAP_ADDRESS = bytes.fromhex("001c0000")
BITMAP_CHUNK = 194
BITMAP_CHUNKS_MAX = 256
"""The packet number is one byte; 256 * 194 bytes also bounds the memory of a transfer."""
BMP_HEADER = 62

AUDIO_FRAMES = 10
AUDIO_FRAME_BYTES = 20
AUDIO_PERIOD = 0.1
"""Ten frames of 10 ms per notification."""

AI_LIMIT = 30.0
"""Seconds after which a held-touch recording ends by itself."""

HEAD_UP_ANGLE_MAX = 60
BRIGHTNESS_MAX = 63
"""Drivers disagree (41, 42, 63); the firmware takes them all."""

NOTIFICATION_SECONDS = 5
BUFFER_MAX = 64 * 1024
"""Largest reassembled notification or whitelist: 256 packets of at most 200 bytes fit."""

REBOOT = 3.0
"""Seconds off the air after a reboot command (our choice)."""
LID_CLOSE_DELAY = 0.5
"""Seconds between the lid event and the end of the link, so that the event still gets out (our choice)."""

BUILD_TEXT = (
    b"net build time: 2025-01-01 12:00:00, app build time 2025-01-01 12:00:00, ver 1.5.0, JBD DeviceID 4010"
)
"""Shape from captures ("net build ..."); dates are ours."""

# Event codes, F5 <code> [value].
EV_DOUBLE_TAP_EXIT = 0x00
EV_TAP = 0x01
EV_HEAD_UP = 0x02
EV_HEAD_DOWN = 0x03
EV_SILENT_ON = 0x04
EV_SILENT_OFF = 0x05
EV_WORN = 0x06
EV_NOT_WORN = 0x07
EV_CASE_OPEN = 0x08
EV_CHARGING = 0x09
EV_BATTERY = 0x0A
EV_CASE_CLOSED = 0x0B
EV_CASE_CHARGING = 0x0E
EV_CASE_BATTERY = 0x0F
EV_BOUND = 0x11
EV_LONG_PRESS = 0x12
EV_AI_START = 0x17
EV_AI_STOP = 0x18
EV_DASHBOARD_OPEN = 0x1E
EV_DASHBOARD_CLOSE = 0x1F
EV_DOUBLE_TAP = 0x20


def peripherals(
    channel: int, left_address: str, right_address: str, serial: str
) -> tuple[PeripheralSpec, ...]:
    """The two arms of one pair. `channel` 1 to 999 pairs them; `serial` has 14 ASCII characters.

    The name ends in the last three bytes of the arm's address, as seen on real devices.
    """
    service = ServiceSpec(
        SERVICE,
        (
            CharacteristicSpec(FROM_GLASSES, notify=True),
            CharacteristicSpec(TO_GLASSES, write=True, write_without_response=True),
        ),
    )
    # Parsers look for the NUL-terminated serial anywhere in the field, company id included, so the two id bytes
    # are padding (FF FF: "no company"). Name (20 B + 2) does not fit beside it in 31 bytes: it goes into the
    # scan response.
    manufacturer = b"\xff\xff" + serial.encode("ascii") + b"\0"
    return tuple(
        PeripheralSpec(
            arm=arm,
            name=f"Even G1_{channel}_{letter}_{address.replace(':', '')[-6:].upper()}",
            address=address,
            services=(service,),
            mtu_max=MTU_MAX,
            manufacturer_data=manufacturer,
        )
        for arm, letter, address in ((LEFT, "L", left_address), (RIGHT, "R", right_address))
    )


def build(
    identity: Identity, *, chance: Callable[[], float], audio: AudioSource, pictures: object = None
) -> EvenG1:
    """A pair for a room. The serial says: rectangular frame (S110), grey (A). It has no camera for `pictures`."""
    serial = f"S110LABD{identity.serial_number:06d}"
    left, right = identity.addresses[:2]
    return EvenG1(
        peripherals(identity.channel, left, right, serial), serial=serial, chance=chance, audio=audio
    )


@dataclass(slots=True)
class Page:
    """One text page while its packets arrive, and after, so that a repeated packet is recognised."""

    total: int
    newscreen: int
    parts: dict[int, bytes] = field(default_factory=dict)
    done: bool = False

    def add(self, index: int, data: bytes) -> bool:
        """Take a packet; True when the page is complete."""
        self.parts[index] = data
        self.done = len(self.parts) == self.total
        return self.done

    @property
    def text(self) -> str:
        # A character may be cut between two packets: join the bytes first.
        return b"".join(self.parts[i] for i in range(self.total)).decode("utf-8", "replace")


@dataclass(slots=True)
class ArmMemory:
    """What one arm keeps between writes."""

    pages: dict[int, Page] = field(default_factory=dict)
    stream: dict[int, dict[int, bytes]] = field(default_factory=dict)
    bitmap: dict[int, bytes] = field(default_factory=dict)
    app: Screen = BLANK
    greeted: bool = False
    debug: bool = False


@dataclass(slots=True)
class Settings:
    brightness: int = 21
    auto_brightness: bool = True
    head_up_angle: int = 30
    wear_detection: bool = True
    height: int = 4
    depth: int = 2
    auto_display: bool = True
    auto_display_seconds: int = NOTIFICATION_SECONDS
    language: int = 2
    dashboard_mode: int = 0
    dashboard_pane: int = 5


class EvenG1(Firmware):
    """One pair of Even G1."""

    model: ClassVar[str] = "g1"
    display: ClassVar[DisplaySpec | None] = PANEL

    def __init__(
        self,
        specs: tuple[PeripheralSpec, ...],
        *,
        serial: str,
        chance: Callable[[], float],
        audio: AudioSource | None = None,
        battery: int = 87,
        text_continue: int = MORE,
        left_microphone: int = OK,
    ) -> None:
        """`text_continue` answers every text packet but the last, `left_microphone` a microphone switch sent to
        the wrong arm; sources disagree on the first, none shows the second."""
        super().__init__(specs, chance=chance, audio=audio)
        self.serial = serial
        self.text_continue = text_continue
        self.left_microphone = left_microphone
        self.battery = {LEFT: battery, RIGHT: battery}
        self.settings = Settings()
        self.charging = False
        self.worn = True
        self.case_open = False
        self.in_case = False
        self.case_battery = 100
        self.case_charging = False
        self.silent = False
        self.head_up = False
        self.dashboard_open = False
        self.recording = False
        self.clock = ""
        self.weather = ""
        self.notes: dict[int, str] = {}
        self.notification: tuple[int, str] | None = None
        self.allowed_apps: frozenset[str] | None = None
        self._mic_on = False
        self._mic_seq = 0
        self._whitelist: dict[int, bytes] = {}
        self._pushes: dict[int, dict[int, bytes]] = {}
        self._memory = {name: ArmMemory() for name in self.arms}
        self._clock_bytes = b""
        self.unread = 0

    # -- links ---------------------------------------------------------------------------------------------------

    def _on_connected(self, arm: Arm, now: float) -> list[Effect]:
        memory = self._memory[arm.name]
        memory.pages, memory.stream, memory.bitmap = {}, {}, {}
        memory.greeted = False
        self._watch_idle(arm, now)
        return []

    def _watch_idle(self, arm: Arm, now: float) -> None:
        link = arm.link

        def expired(then: float) -> list[Effect]:
            if arm.link != link:
                return []
            if then < arm.last_write + IDLE:
                self._watch_idle(arm, then)
                return []
            return [self._hang_up(arm, REMOTE_USER_TERMINATED)]

        self._set_timer(("idle", arm.name), arm.last_write + IDLE, expired)

    def _on_lost(self, arm: Arm, now: float) -> list[Effect]:
        self._cancel_timer(("idle", arm.name))
        # The lens keeps what it shows: what real glasses do is not established, and a stale lens is the harder
        # case for a driver.
        return self._microphone_off() if arm.name == RIGHT else []

    # -- writes --------------------------------------------------------------------------------------------------

    def _on_write(self, arm: Arm, characteristic: str, data: bytes, now: float) -> list[Effect]:
        if len(data) > PAYLOAD_MAX:
            arm.counters.ignored_writes += 1
            return []
        handler = _COMMANDS.get(data[0])
        if handler is None:
            return self._unknown(arm, data, now)
        return handler(self, arm, data, now)

    def _reply(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        return self._answer(arm, FROM_GLASSES, data, now)

    def _status(self, arm: Arm, ok: bool) -> int:
        return FAIL if self._take_failure(arm) or not ok else OK

    def _ack(self, arm: Arm, data: bytes, now: float, ok: bool = True) -> list[Effect]:
        return self._reply(arm, bytes([data[0], self._status(arm, ok)]).ljust(REPLY_BYTES, b"\0"), now)

    def _unknown(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        arm.counters.unknown_commands += 1
        self.log.append(LogEntry(now, arm.name, "unknown", data))
        return self._ack(arm, data, now)

    # Session

    def _mtu_set(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        effects = self._ack(arm, data, now)
        memory = self._memory[arm.name]
        if not memory.greeted:
            memory.greeted = True
            effects += self._reply(arm, bytes([0xF5, EV_BOUND]), now)
        return effects

    def _debug_channel(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        self._memory[arm.name].debug = len(data) > 1 and data[1] == 1
        return []

    def _heartbeat(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        return self._reply(arm, data[:6], now)

    def _exit(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        return self._set_app(arm, BLANK) + self._ack(arm, data, now)

    def _unpair(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        return [ForgetBond(arm.name), self._hang_up(arm)]

    def _system(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        match data[1:2]:
            case b"\x74":
                return self._reply(arm, BUILD_TEXT[: arm.mtu - 3], now)
            case b"\x72":
                return self._reboot(now)
            case _:
                return self._ack(arm, data, now)

    def _reboot(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for arm in self.arms.values():
            self._memory[arm.name] = ArmMemory()
            effects += self._render(arm) + self._sleep(arm, now)
        self._set_timer("reboot", now + REBOOT, lambda then: self._wake_all(then))
        return effects

    def _wake_all(self, now: float) -> list[Effect]:
        if self.in_case and not self.case_open:
            return []
        return [effect for arm in self.arms.values() for effect in self._wake(arm, now)]

    # Text

    def _text(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        seq = data[1] if len(data) > 1 else 0

        def refuse() -> list[Effect]:
            return self._reply(arm, bytes([0x4E, FAIL, seq]), now)

        if len(data) < TEXT_HEADER:
            return refuse()
        total, index, newscreen = data[2], data[3], data[4]
        if total == 0 or index >= total or newscreen >> 4 not in TEXT_STATES or newscreen & 0x0F != 1:
            return refuse()
        pages, body = self._memory[arm.name].pages, data[TEXT_HEADER:]
        page = pages.get(seq)
        if (
            page is None
            or (page.total, page.newscreen) != (total, newscreen)
            or page.parts.get(index, body) != body
        ):
            # The number was used before for something else: this is a new page.
            page = Page(total, newscreen)
        pages.pop(seq, None)
        pages[seq] = page
        while len(pages) > PAGES_KEPT:
            del pages[next(iter(pages))]
        if self._take_failure(arm):
            return refuse()
        if page.add(index, body):
            shown = self._set_app(arm, _text_screen(TEXT_STATES[newscreen >> 4], page.text))
            return shown + self._reply(arm, bytes([0x4E, OK, seq]), now)
        if index == total - 1:
            return refuse()  # our choice: the page cannot be shown, a packet is missing
        return self._reply(arm, bytes([0x4E, self.text_continue, seq]), now)

    def _stream(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        if len(data) < 12 or data[1] != len(data):
            return self._ack(arm, data, now, ok=False)
        seq, sub, total, index = data[3], data[4], data[5], data[7]
        ok = sub in (2, 3) and 1 <= index <= total
        effects: list[Effect] = []
        if ok and sub == 3:
            streams = self._memory[arm.name].stream
            parts = streams.setdefault(seq, {})
            parts[index] = data[12:]
            if len(parts) >= total:
                text = b"".join(parts[i] for i in sorted(parts)).decode("utf-8", "replace")
                effects = self._set_app(arm, _text_screen("stream", text))
                del streams[seq]
            while len(streams) > PAGES_KEPT:
                del streams[next(iter(streams))]
        header = bytes([0x54, 0x0A, 0x00, seq, sub, total, 0x00, index, 0x00, self._status(arm, ok)])
        return effects + self._reply(arm, header, now)

    # Bitmaps

    def _bitmap_data(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        if len(data) < 2:
            return []
        chunks, index, body = self._memory[arm.name].bitmap, data[1], data[2:]
        if index == 0:
            chunks.clear()
            if body[:4] != BITMAP_ADDRESS:
                arm.counters.ignored_writes += 1
                return []
        if len(chunks) < BITMAP_CHUNKS_MAX:
            chunks[index] = body
        return []

    def _bitmap_end(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        chunks = self._memory[arm.name].bitmap
        whole = data[1:3] == b"\x0d\x0e" and bool(chunks) and sorted(chunks) == list(range(len(chunks)))
        return self._reply(arm, bytes([0x20, self._status(arm, whole)]), now)

    def _bitmap_show(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        chunks = self._memory[arm.name].bitmap
        stored = b"".join(chunks[i] for i in sorted(chunks))
        good = len(data) >= 5 and bool(stored) and zlib.crc32(stored) == int.from_bytes(data[1:5], "big")
        picture = _read_bmp(stored[len(BITMAP_ADDRESS) :]) if good else None
        status = self._status(arm, picture is not None)
        effects: list[Effect] = []
        if picture is not None and status == OK:
            effects = self._set_app(arm, Screen("bitmap", "", (picture,)))
        return effects + self._reply(arm, bytes([0x16]) + data[1:5].ljust(4, b"\0") + bytes([status]), now)

    # Microphone

    def _microphone(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        on = data[1:2] == b"\x01"
        if data[1:2] not in (b"\x00", b"\x01"):
            return self._reply(arm, bytes([0x0E, FAIL]) + data[1:2], now)
        if arm.name == LEFT:
            status = FAIL if self._take_failure(arm) else self.left_microphone
            return self._reply(arm, bytes([0x0E, status, on]), now)
        status = self._status(arm, True)
        effects = self._reply(arm, bytes([0x0E, status, on]), now)
        if status != OK:
            return effects
        return effects + (self._microphone_on(now) if on else self._microphone_off())

    def _microphone_on(self, now: float) -> list[Effect]:
        if self._mic_on:
            return []  # a repeated switch does not restart the stream
        self._mic_on, self._mic_seq = True, 0
        self._schedule_audio(now + AUDIO_PERIOD)
        return [Microphone(True)]

    def _schedule_audio(self, due: float) -> None:
        self._set_timer("mic", due, lambda now: self._stream_audio(due, now))

    def _microphone_off(self) -> list[Effect]:
        if not self._mic_on:
            return []
        self._mic_on = False
        self._cancel_timer("mic")
        return [Microphone(False)]

    def _stream_audio(self, due: float, now: float) -> list[Effect]:
        frames = self.audio.lc3(AUDIO_FRAME_BYTES, AUDIO_FRAMES)
        packet = bytes([0xF1, self._mic_seq]) + b"".join(frames)
        self._mic_seq = (self._mic_seq + 1) & 0xFF
        # Counted from the planned time: a late timer must not slow the stream down. After a long sleep it goes on
        # from now instead of sending a burst.
        self._schedule_audio((due if now - due < 5 * AUDIO_PERIOD else now) + AUDIO_PERIOD)
        return self._notify(self.arms[RIGHT], FROM_GLASSES, packet, now)

    @property
    def microphone(self) -> AudioFormat | None:
        return AudioFormat("lc3", 16000, AUDIO_FRAME_BYTES) if self._mic_on else None

    # Information

    def _battery(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        # 4119.0 mV and firmware 1.6.2, as in captures; only the percentage is alive.
        reply = bytes([0x2C, 0x66, self.battery[arm.name], 0x00, 0xE6, 0xA0, 0x19, 0, 0, 0, 1, 6, 2])
        return self._reply(arm, reply.ljust(REPLY_BYTES, b"\0"), now)

    def _serial(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        return self._reply(arm, (b"\x34\x00" + self.serial.encode("ascii")).ljust(REPLY_BYTES, b"\0"), now)

    def _status_query(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        if len(data) >= 5:
            return self._reply(arm, bytes([0x22, 0x05, 0x00, data[3], data[4], 0x0A, 0x01, 0x01]), now)
        return self._reply(arm, self._dashboard_status(), now)

    def _dashboard_status(self) -> bytes:
        low_power = min(self.battery.values()) < 20
        mode, pane = self.settings.dashboard_mode, self.settings.dashboard_pane
        return bytes([0x22, 0x0A, 0x00, 0x00, 0x01, min(self.unread, 255), low_power, mode, pane, 0x00])

    def _get(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        s = self.settings
        values: dict[int, list[int]] = {
            0x29: [s.brightness, s.auto_brightness],
            0x2B: [0x0C if self.silent else 0x0A],
            0x32: [s.head_up_angle],
            0x3A: [s.wear_detection],
            0x3B: [s.height, s.depth],
            0x3C: [s.auto_display, s.auto_display_seconds],
        }
        return self._reply(arm, bytes([data[0], OK, *values[data[0]]]).ljust(REPLY_BYTES, b"\0"), now)

    # Settings

    def _brightness(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        ok = len(data) >= 3 and data[1] <= BRIGHTNESS_MAX
        if ok:
            self.settings.brightness, self.settings.auto_brightness = data[1], data[2] == 1
        return self._ack(arm, data, now, ok)

    def _silent_mode(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        ok = data[1:2] in (b"\x0a", b"\x0c")
        effects = self._set_silent(data[1] == 0x0C) if ok else []
        return effects + self._ack(arm, data, now, ok)

    def _head_up_angle(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        ok = len(data) >= 2 and data[1] <= HEAD_UP_ANGLE_MAX
        if ok:
            self.settings.head_up_angle = data[1]
        return self._ack(arm, data, now, ok)

    def _wear_detection(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        ok = data[1:2] in (b"\x00", b"\x01")
        effects: list[Effect] = []
        if ok:
            self.settings.wear_detection = data[1] == 1
            effects = self._render_all()
        return effects + self._ack(arm, data, now, ok)

    def _hardware_set(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        if len(data) < 5:
            return self._ack(arm, data, now, ok=False)
        ok = data[1] == len(data)
        if ok and data[4] == 0x02 and len(data) >= 8:
            ok = data[6] <= 8 and 1 <= data[7] <= 9
            if ok:
                self.settings.height, self.settings.depth = data[6], data[7]
        return self._reply(arm, bytes([0x26, 0x06, 0x00, data[3], data[4], self._status(arm, ok)]), now)

    def _auto_display(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        ok = len(data) >= 3
        if ok:
            self.settings.auto_display, self.settings.auto_display_seconds = data[1] == 1, data[2]
        return self._ack(arm, data, now, ok)

    def _language(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        ok = len(data) >= 6
        if ok:
            self.settings.language = data[5]
        return self._ack(arm, data, now, ok)

    # Dashboard and notes

    def _dashboard(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        if len(data) < 5:
            return self._ack(arm, data, now, ok=False)
        # The right arm ignores a time that reached it before the left one.
        late_left = arm.name == RIGHT and data[4] == 0x01 and data[5:9] != self._clock_bytes[:4]
        if data[1] == len(data) and not late_left:
            self._dashboard_set(data)
        return self._reply(arm, data[:5], now) + self._render_all()

    def _dashboard_set(self, data: bytes) -> None:
        match data[4]:
            case 0x01 if len(data) >= 20:
                self._clock_bytes = data[5:9]
                (seconds,) = struct.unpack_from("<I", data, 5)
                minutes = seconds // 60 % (24 * 60)
                hour, minute = divmod(minutes, 60)
                twelve_hour = data[20:21] == b"\x00"
                suffix = (" AM" if hour < 12 else " PM") if twelve_hour else ""
                shown = (hour % 12 or 12) if twelve_hour else hour
                self.clock = f"{shown}:{minute:02d}{suffix}"
                (degrees,) = struct.unpack_from("b", data, 18)
                self.weather = f"{degrees}°{'F' if data[19] else 'C'}"
            case 0x06 if len(data) >= 7:
                self.settings.dashboard_mode, self.settings.dashboard_pane = data[5], data[6]

    def _quick_note(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        if len(data) < 8:
            return self._ack(arm, data, now, ok=False)
        if data[1] == len(data) and data[4] == 0x03 and len(data) >= 11:
            slot = data[9]
            if 1 <= slot <= 4:
                note = _read_note(data)
                self.notes.pop(slot, None)
                if note is not None:
                    self.notes[slot] = note
        header = bytes([0x1E, 0x10, 0x00]) + data[3:8]
        return self._reply(arm, header.ljust(16, b"\0"), now) + self._render_all()

    # Notifications

    def _whitelist_packet(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        if len(data) < 4 or data[1] == 0 or data[2] >= data[1]:
            return self._ack(arm, data, now, ok=False)
        if arm.name != LEFT:
            return self._ack(arm, data, now)
        total, index = data[1], data[2]
        if index == 0:
            self._whitelist.clear()
        self._whitelist[index] = data[3:]
        if index < total - 1:
            return self._more(arm, data, now)
        body = _joined(self._whitelist, total)
        self._whitelist.clear()
        apps = _read_whitelist(body)
        if apps is not None:
            self.allowed_apps = apps
        return self._ack(arm, data, now, ok=apps is not None)

    def _more(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        status = FAIL if self._take_failure(arm) else MORE
        return self._reply(arm, bytes([data[0], status]).ljust(REPLY_BYTES, b"\0"), now)

    def _push(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        if len(data) < 5 or data[2] == 0 or data[3] >= data[2]:
            return self._ack(arm, data, now, ok=False)
        if arm.name != LEFT:
            return self._ack(arm, data, now)
        number, total, index = data[1], data[2], data[3]
        if index == 0:
            self._pushes[number] = {}
        parts = self._pushes.setdefault(number, {})
        while len(self._pushes) > PAGES_KEPT:
            del self._pushes[next(iter(self._pushes))]
        parts[index] = data[4:]
        if index < total - 1:
            return self._more(arm, data, now)
        body = _joined(parts, total)
        self._pushes.pop(number, None)
        push = _read_push(body)
        if push is None:
            return self._ack(arm, data, now, ok=False)
        return self._take_push(push, now) + self._ack(arm, data, now)

    def _take_push(self, push: tuple[int, str, str], now: float) -> list[Effect]:
        number, app, text = push
        if self.allowed_apps is not None and app not in self.allowed_apps:
            return []  # acknowledged, not shown: the app is not on the list
        self.unread += 1
        if not self.settings.auto_display:
            return []
        self.notification = (number, text)
        self._set_timer("notification", now + self.settings.auto_display_seconds, self._end_notification)
        return self._render_all()

    def _end_notification(self, now: float) -> list[Effect]:
        self.notification = None
        return self._render_all()

    def _clear_push(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        ok = len(data) >= 5
        effects: list[Effect] = []
        if ok and self.notification is not None and self.notification[0] == int.from_bytes(data[1:5], "big"):
            self._cancel_timer("notification")
            effects = self._end_notification(now)
        return effects + self._ack(arm, data, now, ok)

    # -- what the wearer sees ------------------------------------------------------------------------------------

    def _set_app(self, arm: Arm, screen: Screen) -> list[Effect]:
        self._memory[arm.name].app = screen
        return self._render(arm)

    def _set_silent(self, on: bool) -> list[Effect]:
        self.silent = on
        return self._render_all()

    def _render_all(self) -> list[Effect]:
        return [effect for arm in self.arms.values() for effect in self._render(arm)]

    def _render(self, arm: Arm) -> list[Effect]:
        return self._show(arm, self._compose(arm))

    def _compose(self, arm: Arm) -> Screen:
        """The one place that decides between off, notification, app and dashboard."""
        app = self._memory[arm.name].app
        if self.silent or self.in_case or not self.battery[arm.name]:
            return BLANK
        if self.settings.wear_detection and not self.worn:
            return BLANK
        if self.notification is not None:
            return _text_screen("notification", self.notification[1])
        if app.kind != "blank":
            return app
        if self.dashboard_open or self.head_up:
            lines = [
                f"{self.clock} {self.weather}".strip() or "--:--",
                *(self.notes[s] for s in sorted(self.notes)),
            ]
            return _text_screen("dashboard", "\n".join(lines[:TEXT_LINES]))
        return BLANK

    # -- people --------------------------------------------------------------------------------------------------

    def user(self, what: UserInput, now: float) -> list[Effect]:
        """`side` is left, right or None (each action has its own default).

        Values: WEAR, CHARGE bool (default True); BATTERY 0 to 100; LONG_PRESS seconds held (default 1);
        CASE "open", "closed", "out", "charging", "not_charging" or its battery 0 to 100.
        """
        if what.side not in (None, LEFT, RIGHT):
            raise NoTaker(f"Even G1 has no side {what.side!r}: use left or right")
        match what.action:
            case Action.TAP:
                return self._touch(what.side or RIGHT, EV_TAP, now)
            case Action.DOUBLE_TAP:
                return self._double_tap(what.side or RIGHT, now)
            case Action.TRIPLE_TAP:
                effects = self._touch(what.side or RIGHT, EV_SILENT_OFF if self.silent else EV_SILENT_ON, now)
                return effects + self._set_silent(not self.silent)
            case Action.LONG_PRESS:
                return self._long_press(what.side or LEFT, _number(what, 1.0, 0.0, 60.0), now)
            case Action.LOOK_UP:
                return self._look(True, now)
            case Action.LOOK_DOWN:
                return self._look(False, now)
            case Action.WEAR:
                return self._wear(_flag(what), now)
            case Action.BATTERY:
                return self._set_battery(what.side, int(_number(what, None, 0, 100)), now)
            case Action.CHARGE:
                self.charging = _flag(what)
                return self._event_both(now, EV_CHARGING, int(self.charging))
            case Action.CASE:
                return self._case(what.value, now)
            case Action.PRESS | Action.SWIPE:
                raise NoTaker(
                    f"Even G1 has no button and no slider ({what.action.value}): use tap or long_press"
                )

    def _touch(self, side: str, code: int, now: float) -> list[Effect]:
        arm = self.arms[side]
        if arm.state is not ArmState.CONNECTED:
            raise NoTaker(f"the {side} arm is {arm.state.value}, not connected: nobody would hear the touch")
        if FROM_GLASSES not in arm.subscribed:
            raise NoTaker(
                f"the {side} arm is connected but its notifications are off: nobody would hear the touch"
            )
        return self._event(arm, now, code)

    def _double_tap(self, side: str, now: float) -> list[Effect]:
        if any(memory.app.kind != "blank" for memory in self._memory.values()):
            effects = self._touch(side, EV_DOUBLE_TAP_EXIT, now)
            for memory in self._memory.values():
                memory.app = BLANK
            self.recording = False
            return effects + self._render_all()
        effects = self._touch(side, EV_DOUBLE_TAP, now)
        self.dashboard_open = not self.dashboard_open
        code = EV_DASHBOARD_OPEN if self.dashboard_open else EV_DASHBOARD_CLOSE
        return effects + self._event(self.arms[side], now, code) + self._render_all()

    def _long_press(self, side: str, seconds: float, now: float) -> list[Effect]:
        if side == RIGHT:
            return self._touch(RIGHT, EV_LONG_PRESS, now)
        effects = self._touch(LEFT, EV_AI_START, now)
        self.recording = True
        self._set_timer("release", now + min(seconds, AI_LIMIT), self._release)
        return effects

    def _release(self, now: float) -> list[Effect]:
        self.recording = False
        return self._event(self.arms[LEFT], now, EV_AI_STOP)

    def _look(self, up: bool, now: float) -> list[Effect]:
        self.head_up = up
        # Both arms say it; drivers listen to the right one only.
        effects = self._event_both(now, EV_HEAD_UP if up else EV_HEAD_DOWN)
        if up:
            effects += self._notify(self.arms[RIGHT], FROM_GLASSES, self._dashboard_status(), now)
        return effects + self._render_all()

    def _wear(self, on: bool, now: float) -> list[Effect]:
        self.worn = on
        effects: list[Effect] = []
        if on and self.in_case:
            effects += self._case("out", now)
        return effects + self._event_both(now, EV_WORN if on else EV_NOT_WORN) + self._render_all()

    def _set_battery(self, side: str | None, percent: int, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for arm in self.arms.values():
            if side not in (None, arm.name):
                continue
            was_empty = self.battery[arm.name] == 0
            self.battery[arm.name] = percent
            effects += self._event(arm, now, EV_BATTERY, percent) + self._render(arm)
            if percent == 0:
                effects += self._sleep(arm, now)
            elif was_empty and not (self.in_case and not self.case_open):
                effects += self._wake(arm, now)
        return effects

    def _case(self, value: object, now: float) -> list[Effect]:
        match value:
            case "open":
                self.in_case, self.case_open, self.worn = True, True, False
                self._cancel_timer("lid")
                return self._render_all() + self._wake_all(now) + self._event_both(now, EV_CASE_OPEN)
            case "closed":
                self.in_case, self.case_open, self.worn = True, False, False
                self._set_timer("lid", now + LID_CLOSE_DELAY, self._lid_closed)
                return self._render_all() + self._event_both(now, EV_CASE_CLOSED)
            case "out":
                self.in_case = False
                self._cancel_timer("lid")
                return self._wake_all(now) + self._render_all()
            case "charging" | "not_charging":
                self.case_charging = value == "charging"
                return self._event_both(now, EV_CASE_CHARGING, int(self.case_charging))
            case int() if not isinstance(value, bool) and 0 <= value <= 100:
                self.case_battery = value
                return self._event_both(now, EV_CASE_BATTERY, value)
        raise NoTaker(f"the case cannot be {value!r}: open, closed, out, charging, not_charging or 0 to 100")

    def _lid_closed(self, now: float) -> list[Effect]:
        return [effect for arm in self.arms.values() for effect in self._sleep(arm, now)]

    def _event(self, arm: Arm, now: float, *values: int) -> list[Effect]:
        return self._notify(arm, FROM_GLASSES, bytes([0xF5, *values]), now)

    def _event_both(self, now: float, *values: int) -> list[Effect]:
        return [
            e for arm in self.arms.values() if arm.link is not None for e in self._event(arm, now, *values)
        ]

    def snapshot(self) -> dict[str, Any]:
        return {
            "serial": self.serial,
            "battery": dict(self.battery),
            "charging": self.charging,
            "worn": self.worn,
            "case": {
                "in": self.in_case,
                "open": self.case_open,
                "battery": self.case_battery,
                "charging": self.case_charging,
            },
            "silent": self.silent,
            "head_up": self.head_up,
            "brightness": self.settings.brightness,
            "auto_brightness": self.settings.auto_brightness,
            "head_up_angle": self.settings.head_up_angle,
            "wear_detection": self.settings.wear_detection,
            "position": [self.settings.height, self.settings.depth],
            "unread": self.unread,
        }


def _text_screen(kind: str, text: str) -> Screen:
    shown = text.rstrip("\n")
    if not shown.strip():
        return BLANK
    return Screen(kind, text, (TextItem(shown, TEXT_LEFT, 0, TEXT_WIDTH, LINE_HEIGHT, TEXT_LINES),))


def _read_bmp(data: bytes) -> PictureItem | None:
    """A 576-wide 1-bit Windows bitmap of at most 136 rows, or None. Lit is where the palette says white."""
    if len(data) < BMP_HEADER or data[:2] != b"BM":
        return None
    offset, width, height, bits = struct.unpack_from("<I4xiixxH", data, 10)
    rows = abs(height)
    if width != PANEL.width or bits != 1 or not 1 <= rows <= PANEL.height or offset < BMP_HEADER:
        return None
    stride = (width + 31) // 32 * 4
    if len(data) < offset + stride * rows:
        return None
    lines = [data[offset + stride * r :][: (width + 7) // 8] for r in range(rows)]
    if height > 0:  # rows stand bottom-up
        lines.reverse()
    zero, one = sum(data[54:57]), sum(data[58:61])
    picture = b"".join(lines)
    if zero > one:  # the palette is the other way round: a 0 bit is the bright one
        picture = bytes(b ^ 0xFF for b in picture)
    return PictureItem(0, 0, width, rows, picture)


def _read_note(data: bytes) -> str | None:
    """Title and body of a used slot, or None for an empty or unreadable one."""
    if len(data) < 12 or data[10] != 1:
        return None
    title_end = 12 + data[11]
    title = data[12:title_end].decode("utf-8", "replace")
    body_start = title_end + 2
    size = int.from_bytes(data[title_end:body_start], "little")
    body = data[body_start : body_start + size].decode("utf-8", "replace")
    return f"{title}: {body}".replace("\n", " ")


def _joined(parts: dict[int, bytes], total: int) -> bytes | None:
    if sorted(parts) != list(range(total)):
        return None
    return b"".join(parts[i] for i in range(total))[:BUFFER_MAX]


def _read_json(body: bytes | None) -> Any:
    if body is None:
        return None
    try:
        return json.loads(body.rstrip(b"\0"))
    except (ValueError, RecursionError):
        return None


def _read_whitelist(body: bytes | None) -> frozenset[str] | None:
    match _read_json(body):
        case {"app": {"list": list() as apps}}:
            return frozenset(str(app["id"]) for app in apps if isinstance(app, dict) and "id" in app)
    return None


def _read_push(body: bytes | None) -> tuple[int, str, str] | None:
    """(id, app, text to show), or None."""
    match _read_json(body):
        case {"ncs_notification": {"msg_id": int(number), "app_identifier": str(app)} as push}:
            lines = (push.get("display_name"), push.get("title"), push.get("subtitle"), push.get("message"))
            return number, app, "\n".join(line for line in lines if isinstance(line, str) and line)
    return None


def _flag(what: UserInput) -> bool:
    if what.value is None:
        return True
    if isinstance(what.value, bool):
        return what.value
    if what.value in ("on", "off"):
        return what.value == "on"
    raise NoTaker(f"{what.action.value} takes true or false (or on, off), not {what.value!r}")


def _number(what: UserInput, default: float | None, low: float, high: float) -> float:
    value = default if what.value is None else what.value
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise NoTaker(f"{what.action.value} takes a number from {low:g} to {high:g}, not {value!r}")


_Handler = Callable[[EvenG1, Arm, bytes, float], list[Effect]]

_COMMANDS: dict[int, _Handler] = {
    0x01: EvenG1._brightness,
    0x03: EvenG1._silent_mode,
    0x04: EvenG1._whitelist_packet,
    0x06: EvenG1._dashboard,
    0x0B: EvenG1._head_up_angle,
    0x0E: EvenG1._microphone,
    0x15: EvenG1._bitmap_data,
    0x16: EvenG1._bitmap_show,
    0x18: EvenG1._exit,
    0x1E: EvenG1._quick_note,
    0x20: EvenG1._bitmap_end,
    0x22: EvenG1._status_query,
    0x23: EvenG1._system,
    0x25: EvenG1._heartbeat,
    0x26: EvenG1._hardware_set,
    0x27: EvenG1._wear_detection,
    0x29: EvenG1._get,
    0x2B: EvenG1._get,
    0x2C: EvenG1._battery,
    0x32: EvenG1._get,
    0x34: EvenG1._serial,
    0x3A: EvenG1._get,
    0x3B: EvenG1._get,
    0x3C: EvenG1._get,
    0x3D: EvenG1._language,
    0x47: EvenG1._unpair,
    0x4B: EvenG1._push,
    0x4C: EvenG1._clear_push,
    0x4D: EvenG1._mtu_set,
    0x4E: EvenG1._text,
    0x4F: EvenG1._auto_display,
    0x54: EvenG1._stream,
    0xF4: EvenG1._debug_channel,
}
