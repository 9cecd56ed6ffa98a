"""Brilliant Labs Frame: a Lua prompt over BLE, colour display, camera, microphone, motion, one bond.

Rules of this file:

- The device runs whatever Lua it is sent (`lua.py`); this file is the hardware behind `frame.*` and the prompt with
  its real narrowness: one slot for text (occupied until that text has run), one for data, one packet in the radio.
- Time in Lua is virtual: a slice of `STEPS` steps takes `SLICE` seconds, a sleep takes what it says.
- A write never raises: what is no Lua prints an error, as on the device. Where no public source shows the behaviour
  the comment says "our choice".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from firmware_sim.firmware.base import (
    ATT_HEADER,
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
    Microphone,
    NoTaker,
    PeripheralSpec,
    PictureItem,
    Screen,
    ServiceSpec,
    TextItem,
    UserInput,
)
from firmware_sim.firmware.lua import Machine
from firmware_sim.firmware.lua_values import (
    Builtin,
    Fail,
    Function,
    LuaError,
    Run,
    Sleep,
    Table,
    Value,
    any_of,
    integer,
    number,
    text,
    tostring,
    truth,
    type_name,
)
from firmware_sim.firmware.picture import GreenCard, PictureSource

MAIN = "main"

SERVICE = "7a230001-5475-a6a4-654c-8431f6ad49c4"
TO_FRAME = "7a230002-5475-a6a4-654c-8431f6ad49c4"
FROM_FRAME = "7a230003-5475-a6a4-654c-8431f6ad49c4"

MTU_MAX = 247
PANEL = DisplaySpec(640, 400)

DATA, BREAK, RESET = 0x01, 0x03, 0x04

SLOT_MAX = 246
"""Bytes of one text; the slot has one more for the closing zero."""
POLL = 0.010
"""Seconds between two looks of the idle prompt at its slot."""
SLICE = 0.005
STEPS = 150
"""Lua steps (calls and loop turns) in one slice: enough to feed the radio, cheap enough for a busy loop that never
ends. The speed of the device is not established."""
SLICE_ALONE = 0.050
"""The slice while nobody is connected: a program that waits in a loop for a host must not keep this machine busy."""
TX_TIME = 0.005
"""Seconds until the radio took the packet before and has room for the next one (guess)."""

TEXT_LINE = 60
"""Pixels; the line height that the vendor's libraries use."""
COLORS = (
    "VOID", "WHITE", "GREY", "RED", "PINK", "DARKBROWN", "BROWN", "ORANGE", "YELLOW", "DARKGREEN", "GREEN",
    "LIGHTGREEN", "NIGHTBLUE", "SEABLUE", "SKYBLUE", "CLOUDBLUE",
)  # fmt: skip
DRAWINGS_MAX = 256
"""Texts and bitmaps of one screen; the real limit is the panel's memory."""

JPEG_HEADER = 623
"""Bytes before the scan data, the same for one quality and resolution; `read_raw` leaves them out."""
CAPTURE_TIME = 0.15
QUALITIES = {"VERY_LOW": 10, "LOW": 25, "MEDIUM": 50, "HIGH": 75, "VERY_HIGH": 90}

FIFO_SAMPLES = 32768
FILES_MAX, FILE_BYTES_MAX = 64, 256 * 1024
CALLBACK_GAP = 0.15
"""Seconds between the taps of a double or triple tap."""
GRAVITY, COMPASS = 4096, (100, -200, 300)
"""Raw readings at rest: one g, and some magnetic field."""
LOOK_UP_DEGREES = 30.0


def peripherals(address: str, *, encrypted: bool = True) -> tuple[PeripheralSpec, ...]:
    """One Frame; its name ends in the most significant byte of its address."""
    service = ServiceSpec(
        SERVICE,
        (
            CharacteristicSpec(TO_FRAME, write=True, write_without_response=True, encrypted=encrypted),
            CharacteristicSpec(FROM_FRAME, notify=True, encrypted=encrypted),
        ),
    )
    return (
        PeripheralSpec(
            arm=MAIN,
            name=f"Frame {address[:2].upper()}",
            address=address,
            services=(service,),
            mtu_max=MTU_MAX,
            advertised_services=(SERVICE,),
            interval=0.02,
        ),
    )


def build(
    identity: Identity,
    *,
    chance: Callable[[], float],
    audio: AudioSource,
    pictures: PictureSource | None = None,
) -> BrilliantFrame:
    return BrilliantFrame(peripherals(identity.addresses[0]), chance=chance, audio=audio, pictures=pictures)


@dataclass(slots=True)
class Task:
    """Lua that runs, rests or waits for its next slice."""

    run: Run
    callback: bool
    prompt: bool
    """A text from the slot, which stays occupied until its program ends."""
    wake: float


@dataclass(slots=True)
class Listening:
    """The microphone and what it heard and nobody read yet."""

    rate: int
    depth: int
    until: float
    """Sound up to here is in the queue."""
    queue: bytearray = field(default_factory=bytearray)
    running: bool = True


class BrilliantFrame(Firmware):
    """One Frame."""

    model: ClassVar[str] = "frame"
    display: ClassVar[DisplaySpec | None] = PANEL

    def __init__(
        self,
        specs: tuple[PeripheralSpec, ...],
        *,
        chance: Callable[[], float],
        audio: AudioSource | None = None,
        pictures: PictureSource | None = None,
        battery: int = 87,
        bond: str | None = None,
        files: dict[str, bytes] | None = None,
    ) -> None:
        """`bond` is the host it is paired with already, `files` what lies in its memory ("main.lua" runs at boot)."""
        super().__init__(specs, chance=chance, audio=audio)
        self.pictures: PictureSource = pictures or GreenCard()
        self.battery = battery
        self.bond = bond
        self.files: dict[str, bytes] = dict(files or {})
        self.directories = {"."}
        self.charging = False
        self.led = (0, 0, 0)
        self.brightness = 0
        self.pitch = 0.0
        self.zone = "+00:00"
        self._utc = 0.0
        """Seconds since 1970 when `now` is 0, as far as the host has told it."""
        self._now = 0.0
        self._out: list[Effect] = []
        self._tx_free = 0.0
        self._power_save = False
        self._reset_state()

    @property
    def _arm(self) -> Arm:
        return self.arms[MAIN]

    # -- power and bond --------------------------------------------------------------------------------------------

    def _reset_state(self) -> None:
        """What a reset of the Lua machine forgets."""
        self._machine = Machine()
        self._tasks: list[Task] = []
        self._slot: bytes | None = None
        self._data: bytes | None = None
        self._tapped = False
        self._break = self._reset = False
        self._on_data: Function | Builtin | None = None
        self._on_tap: Function | Builtin | None = None
        self._loaded: dict[str, Value] = {}
        self._back: list[TextItem | PictureItem] = []
        self._front: Screen | None = None
        self._black: set[str] = {"VOID"}
        self._picture: bytes | None = None
        self._picture_at = 0
        self._picture_ready = 0.0
        self._listening: Listening | None = None
        self._power_off = False

    def start(self, now: float) -> list[Effect]:
        return super().start(now) + self._boot(now)

    def _boot(self, now: float) -> list[Effect]:
        """Run main.lua, then show the prompt's own screen."""
        effects: list[Effect] = [Microphone(False)] if self.microphone is not None else []
        for task in self._tasks:
            task.run.close()
        self._cancel_timer("lua")
        self._reset_state()
        self._add_libraries()
        if "main.lua" in self.files:
            self._now = now
            self._begin(self._require([b"main"]))
            self._plan(now)
        return effects + self._render()

    def _go_dark(self, now: float) -> list[Effect]:
        effects: list[Effect] = [Microphone(False)] if self.microphone is not None else []
        for task in self._tasks:
            task.run.close()
        self._cancel_timer("lua")
        self._reset_state()
        return effects + self._sleep(self._arm, now) + self._render()

    def may_pair(self, arm_name: str, peer: str) -> bool:
        """Whether a host may pair: only while no key is stored, even for the host that has it already."""
        return self.bond is None

    def pairing_requested(self, arm_name: str, link: int, peer: str, now: float) -> list[Effect]:
        """A host asks to pair. Refusing ends the link, as the device does."""
        arm = self._current(arm_name, link)
        if arm is None or self.may_pair(arm_name, peer):
            return []
        return [self._hang_up(arm, REMOTE_USER_TERMINATED)]

    def paired(self, arm_name: str, link: int, peer: str, now: float) -> list[Effect]:
        """Pairing succeeded; the screen that invites to it changes only at the next boot, as older firmware does."""
        if self._current(arm_name, link) is not None:
            self.bond = peer
        return []

    def _on_connected(self, arm: Arm, now: float) -> list[Effect]:
        self._tx_free = now
        return []

    def _on_lost(self, arm: Arm, now: float) -> list[Effect]:
        return []  # programs run on; the next host finds them

    # -- writes ----------------------------------------------------------------------------------------------------

    def _on_write(self, arm: Arm, characteristic: str, data: bytes, now: float) -> list[Effect]:
        match data[0]:
            case 0x01:
                if self._on_data is None:
                    arm.counters.ignored_writes += 1
                    return []
                if self._data is not None:
                    arm.counters.ignored_writes += 1  # the one before was not taken yet and is lost
                self._data = data[1:]
            case 0x03:
                if not self._tasks:
                    return []
                self._break = True
            case 0x04:
                self._reset = True
            case _:
                if self._slot is not None:
                    arm.counters.ignored_writes += 1  # overwritten before the prompt looked
                self._slot = data[:SLOT_MAX].split(b"\0")[0]
        self._plan(now)
        return []

    # -- running Lua -----------------------------------------------------------------------------------------------

    def _plan(self, now: float) -> None:
        """Set the timer for the next slice, not later than it already is."""
        if self._tasks and not self._interrupted():
            due = max(now + SLICE if self._arm.link is not None else now + SLICE_ALONE, self._tasks[-1].wake)
        elif self._tasks or self._slot is not None or self._reset or self._callback_waits():
            due = now + POLL
        else:
            return
        planned = self._timers.get("lua")
        if planned is None or due < planned[0]:
            self._set_timer("lua", due, self._run_slice)

    def _interrupted(self) -> bool:
        return self._break or self._callback_waits()

    def _callback_waits(self) -> bool:
        if self._tasks and self._tasks[-1].callback:
            return False  # one at a time
        return (self._data is not None and self._on_data is not None) or (
            self._tapped and self._on_tap is not None
        )

    def _begin(self, run: Run, *, callback: bool = False, prompt: bool = False) -> None:
        self._tasks.append(Task(run, callback, prompt, self._now))

    def _end_tasks(self, tasks: list[Task]) -> None:
        """The slot is free again only now: what was written meanwhile is lost, so a host must wait for an answer."""
        for task in tasks:
            task.run.close()
            if task.prompt and self._slot is not None:
                self._slot = None
                self._arm.counters.ignored_writes += 1
        tasks.clear()

    def _run_slice(self, now: float) -> list[Effect]:
        self._now, self._out = now, []
        for _ in range(STEPS):
            if not self._step(now):
                break
        effects, self._out = self._out, []
        if self._power_off:
            return effects + self._go_dark(now)
        self._plan(now)
        return effects

    def _step(self, now: float) -> bool:
        """One step of whatever has its turn; False when nothing has before the next slice."""
        if not self._tasks:
            if self._reset:
                self._out += self._boot(now)
                return False
            if self._slot is not None:
                source, self._slot = self._slot, None
                self._start(source)
                return True
        if self._callback_waits():
            self._start_callback()
        if not self._tasks:
            return False
        task = self._tasks[-1]
        try:
            if self._break:
                self._break = False
                asked = task.run.throw(Fail("break signal"))
            elif task.wake > now:
                return False
            else:
                asked = next(task.run)
        except StopIteration:
            self._end_tasks([self._tasks.pop()])
            return not self._power_off
        except (LuaError, Fail) as error:
            # An error in a callback ends the program that it interrupted, too.
            self._end_tasks(self._tasks)
            self._say(error.text if isinstance(error, LuaError) else str(error).encode("utf-8", "replace"))
            return not self._power_off
        if isinstance(asked, Sleep):
            task.wake = now + asked.seconds
        return not self._power_off

    def _start(self, source: bytes) -> None:
        try:
            function = self._machine.load(source)
        except LuaError as error:
            self._say(error.text)
            return
        self._begin(self._machine.call(function, []), prompt=True)

    def _start_callback(self) -> None:
        if self._data is not None and self._on_data is not None:
            data, self._data = self._data, None
            self._begin(self._machine.call(self._on_data, [data]), callback=True)
        elif self._on_tap is not None:
            self._tapped = False
            self._begin(self._machine.call(self._on_tap, []), callback=True)

    # -- the radio -------------------------------------------------------------------------------------------------

    def _transmit(self, data: bytes) -> bool:
        """Hand a packet to the radio; False while the one before is still there."""
        if self._now < self._tx_free or self._arm.link is None:
            return False
        self._tx_free = self._now + TX_TIME
        self._out += self._notify(self._arm, FROM_FRAME, data, self._now)
        return True

    def _say(self, printed: bytes) -> None:
        """Print: what does not fit is cut, what finds the radio busy is lost without a sign."""
        if not self._transmit(printed[: self._arm.mtu - ATT_HEADER]):
            self._arm.counters.dropped_queue_full += 1

    # -- the libraries of the device -------------------------------------------------------------------------------

    def _add_libraries(self) -> None:
        m = self._machine
        m.globals.set(b"print", Builtin("print", self._print))
        m.globals.set(b"require", Builtin("require", self._require))
        frame = m.add(
            "frame",
            {
                "battery_level": lambda _: [self.battery],
                "sleep": self._sleep_call,
                "stay_awake": lambda _: [],
                "update": self._update,
                "fpga_read": self._fpga_read,
                "fpga_write": lambda _: [],
            },
        )
        frame.set(b"HARDWARE_VERSION", b"Frame")
        frame.set(b"FIRMWARE_VERSION", b"v25.288.1200")
        frame.set(b"GIT_TAG", b"d309634")
        m.add(
            "frame.bluetooth",
            {
                "max_length": lambda _: [self._arm.mtu - ATT_HEADER - 1],
                "address": lambda _: [self._arm.spec.address.encode()],
                "is_connected": lambda _: [self._arm.link is not None],
                "send": self._bluetooth_send,
                "receive_callback": self._receive_callback,
            },
        )
        m.add(
            "frame.display",
            {
                "text": self._display_text,
                "bitmap": self._display_bitmap,
                "show": self._display_show,
                "assign_color": self._assign_color,
                "assign_color_ycbcr": self._assign_color,
                "set_brightness": self._set_brightness,
                "power_save": self._display_power_save,
                "write_register": lambda _: [],
            },
        )
        m.add(
            "frame.camera",
            {
                "capture": self._capture,
                "image_ready": lambda _: [self._picture is not None and self._now >= self._picture_ready],
                "read": lambda args: self._read_picture(args, 0),
                "read_raw": lambda args: self._read_picture(args, JPEG_HEADER),
                "auto": lambda _: [],
                "set_shutter": lambda args: _checked(args, "set_shutter", 4, 16383),
                "set_gain": lambda args: _checked(args, "set_gain", 1, 248),
                "set_white_balance": lambda args: _checked(args, "set_white_balance", 0, 1023),
                "power_save": lambda _: [],
            },
        )
        m.add(
            "frame.microphone",
            {"start": self._mic_start, "stop": self._mic_stop, "read": self._mic_read},
        )
        m.add(
            "frame.imu",
            {"raw": self._imu_raw, "direction": self._imu_direction, "tap_callback": self._tap_callback},
        )
        m.add("frame.time", {"utc": self._time_utc, "zone": self._time_zone, "date": self._time_date})
        m.add("frame.led", {"set_color": self._set_led})
        m.add(
            "frame.file",
            {
                "open": self._file_open,
                "listdir": self._file_list,
                "remove": self._file_remove,
                "rename": self._file_rename,
                "mkdir": self._file_mkdir,
            },
        )

    def _print(self, args: list[Value]) -> list[Value]:
        for at, value in enumerate(args):
            if at:
                self._say(b"\t")
            self._say(tostring(value))
        return []

    def _require(self, args: list[Value]) -> Run:
        name = text(args, 0, "require").decode("utf-8", "replace")
        if name in self._loaded:
            return [self._loaded[name]]
        path = f"{name}.lua"
        if path not in self.files:
            raise Fail(
                f"module '{name}' not found:\n\tno field package.preload['{name}']\n\tno file '{path}'"
            )
        function = self._machine.load(self.files[path], path)
        results = yield from self._machine.call(function, [name.encode()])
        value = results[0] if results and results[0] is not None else True
        self._loaded[name] = value
        return [value]

    def _sleep_call(self, args: list[Value]) -> Run:
        if not args:
            self._power_off = True
            yield Sleep(math.inf)
        seconds = number(args, 0, "sleep")
        if not 0 <= seconds < 1e9:
            raise Fail("bad argument #1 to 'sleep' (number of seconds expected)")
        yield Sleep(seconds)
        return []

    def _update(self, args: list[Value]) -> list[Value]:
        self._power_off = True  # the bootloader advertises under another name; here the glasses are just gone
        return []

    def _fpga_read(self, args: list[Value]) -> list[Value]:
        count = integer(args, 1, "fpga_read")
        if not 0 <= count <= 255:
            raise Fail("bad argument #2 to 'fpga_read' (0 to 255 bytes)")
        return [bytes(count)]

    # Bluetooth

    def _bluetooth_send(self, args: list[Value]) -> list[Value]:
        data = text(args, 0, "send")
        if len(data) > self._arm.mtu - ATT_HEADER - 1:
            raise Fail("string length is greater than max_length()")
        if not self._transmit(bytes([DATA]) + data):
            raise Fail("bluetooth is busy")
        return []

    def _receive_callback(self, args: list[Value]) -> list[Value]:
        self._on_data = _callback(args)
        if self._on_data is None:
            self._data = None
        return []

    # Display

    def _display_text(self, args: list[Value]) -> list[Value]:
        shown = text(args, 0, "text").decode("utf-8", "replace").replace("\n", "")
        x, y = integer(args, 1, "text"), integer(args, 2, "text")
        if not 1 <= x <= PANEL.width or not 1 <= y <= PANEL.height:
            raise Fail("x must be 1 to 640 and y 1 to 400")
        color = "WHITE"
        options = any_of(args, 3)
        if isinstance(options, Table) and (name := options.field("color")) is not None:
            color = _color(name)
        if color not in self._black and shown.strip():
            self._add(TextItem(shown, x - 1, y - 1, PANEL.width - x + 1, TEXT_LINE, 1))
        return []

    def _display_bitmap(self, args: list[Value]) -> list[Value]:
        x, y, width = (integer(args, at, "bitmap") for at in range(3))
        colors, offset = integer(args, 3, "bitmap"), integer(args, 4, "bitmap")
        data = text(args, 5, "bitmap")
        if not 1 <= x <= PANEL.width or not 1 <= y <= PANEL.height or not 1 <= width <= PANEL.width:
            raise Fail("x must be 1 to 640, y 1 to 400 and width 1 to 640")
        if colors not in (2, 4, 16):
            raise Fail("total_colors must be either 2, 4 or 16")
        if not 0 <= offset <= 15:
            raise Fail("palette_offset must be between 0 and 15")
        picture = _lit(x - 1, y - 1, width, {2: 1, 4: 2, 16: 4}[colors], data)
        if picture is not None:
            self._add(picture)
        return []

    def _add(self, item: TextItem | PictureItem) -> None:
        if len(self._back) >= DRAWINGS_MAX:
            raise Fail("not enough memory")
        self._back.append(item)

    def _display_show(self, args: list[Value]) -> list[Value]:
        items, self._back = tuple(self._back), []  # what is drawn next begins on an empty screen
        if not items:
            self._front = BLANK
        else:
            lines = sorted((i for i in items if isinstance(i, TextItem)), key=lambda i: (i.y, i.x))
            kind = "text" if lines else "bitmap"
            self._front = Screen(kind, "\n".join(line.text for line in lines), items)
        self._out += self._render()
        return []

    def _assign_color(self, args: list[Value]) -> list[Value]:
        """Red, green, blue, or luma and two chromas: either way all zero is black, which is not lit."""
        name = _color(any_of(args, 0))
        parts = [integer(args, at, "assign_color") for at in (1, 2, 3)]
        if not all(0 <= part <= 255 for part in parts):
            raise Fail("colors must be between 0 and 255")
        (self._black.discard if any(parts) else self._black.add)(name)
        return []

    def _set_brightness(self, args: list[Value]) -> list[Value]:
        level = integer(args, 0, "set_brightness")
        if not -2 <= level <= 2:
            raise Fail("brightness must be -2, -1, 0, 1 or 2")
        self.brightness = level
        return []

    def _display_power_save(self, args: list[Value]) -> list[Value]:
        self._power_save = truth(any_of(args, 0))
        self._out += self._render()
        return []

    def _render(self) -> list[Effect]:
        return self._show(self._arm, self._compose())

    def _compose(self) -> Screen:
        """The one place that decides between off, what a program shows, and the prompt's own screen."""
        if self._power_save or self._arm.state in (ArmState.DARK, ArmState.LEAVING):
            return BLANK
        if self._front is not None:
            return self._front
        name = self._arm.spec.name
        words = f"{name} is Paired" if self.bond else f"Ready to Pair {name[-2:]}"
        return Screen("splash", words, (TextItem(words, 40, 170, PANEL.width - 40, TEXT_LINE, 1),))

    # Camera

    def _capture(self, args: list[Value]) -> list[Value]:
        options = any_of(args, 0)
        options = options if isinstance(options, Table) else Table()
        resolution, pan = options.field("resolution"), options.field("pan")
        quality = options.field("quality")
        resolution = 512 if resolution is None else integer([resolution], 0, "capture")
        if not 100 <= resolution <= 720 or resolution % 2:
            raise Fail("resolution must be an even number between 100 and 720")
        if pan is not None and not -140 <= integer([pan], 0, "capture") <= 140:
            raise Fail("pan must be between -140 and 140")
        name = "VERY_HIGH" if quality is None else text([quality], 0, "capture").decode("latin-1").upper()
        if name not in QUALITIES:
            raise Fail("quality must be VERY_LOW, LOW, MEDIUM, HIGH or VERY_HIGH")
        self._picture = self.pictures.jpeg(resolution, resolution, QUALITIES[name])
        self._picture_at = 0
        self._picture_ready = self._now + CAPTURE_TIME
        return []

    def _read_picture(self, args: list[Value], skip: int) -> list[Value]:
        count = integer(args, 0, "read")
        if count < 1:
            raise Fail("bytes must be greater than 0")
        if self._picture is None or self._now < self._picture_ready:
            return [None]
        begin = max(self._picture_at, skip)
        part = self._picture[begin : begin + count]
        self._picture_at = begin + len(part)
        if not part:
            self._picture = None
            return [None]
        return [part]

    # Microphone

    def _mic_start(self, args: list[Value]) -> list[Value]:
        options = any_of(args, 0)
        options = options if isinstance(options, Table) else Table()
        rate, depth = options.field("sample_rate"), options.field("bit_depth")
        rate = 8000 if rate is None else integer([rate], 0, "start")
        depth = 8 if depth is None else integer([depth], 0, "start")
        if rate not in (8000, 16000):
            raise Fail("invalid sample rate")
        if depth not in (8, 16):
            raise Fail("invalid bit depth")
        if self.microphone is None:
            self._out.append(Microphone(True))
        self._listening = Listening(rate, depth, self._now)
        return []

    def _mic_stop(self, args: list[Value]) -> list[Value]:
        listening = self._listening
        if listening is not None and listening.running:
            self._listen(listening)
            listening.running = False
            self._out.append(Microphone(False))
        return []

    def _listen(self, listening: Listening) -> None:
        """Bring the queue up to now; what is older than it holds is overwritten."""
        missed = int((self._now - listening.until) * listening.rate + 1e-6)
        listening.until += missed / listening.rate
        sound = self.audio.pcm(min(missed, FIFO_SAMPLES), listening.rate)
        listening.queue += (
            sound if listening.depth == 16 else sound[1::2]
        )  # the high byte is the 8-bit sample
        excess = len(listening.queue) - FIFO_SAMPLES * listening.depth // 8
        if excess > 0:
            del listening.queue[:excess]

    def _mic_read(self, args: list[Value]) -> list[Value]:
        count = integer(args, 0, "read")
        if count < 2 or count % 2:
            raise Fail("bytes must be a positive even number")
        listening = self._listening
        if listening is None:
            return [None]
        if listening.running:
            self._listen(listening)
        count = min(count, len(listening.queue) // 2 * 2 if listening.depth == 16 else len(listening.queue))
        sound = bytes(listening.queue[:count])
        del listening.queue[:count]
        if not sound and not listening.running:
            self._listening = None
            return [None]
        return [sound]

    @property
    def microphone(self) -> AudioFormat | None:
        listening = self._listening
        if listening is None or not listening.running:
            return None
        return AudioFormat("pcm", listening.rate, listening.depth // 8)

    # Motion, time, light

    def _imu_raw(self, args: list[Value]) -> list[Value]:
        angle = math.radians(self.pitch)
        gravity = (round(GRAVITY * math.sin(angle)), 0, round(GRAVITY * math.cos(angle)))
        raw = Table()
        for name, values in ((b"compass", COMPASS), (b"accelerometer", gravity)):
            axes = Table()
            for axis, value in zip((b"x", b"y", b"z"), values, strict=True):
                axes.set(axis, value)
            raw.set(name, axes)
        return [raw]

    def _imu_direction(self, args: list[Value]) -> list[Value]:
        direction = Table()
        for name, value in ((b"roll", 0.0), (b"pitch", self.pitch), (b"heading", 0.0)):
            direction.set(name, value)
        return [direction]

    def _tap_callback(self, args: list[Value]) -> list[Value]:
        self._on_tap = _callback(args)
        self._tapped = False
        return []

    def _time_utc(self, args: list[Value]) -> list[Value]:
        if args:
            told = number(args, 0, "utc")
            if not 0 <= told < 2**40:
                raise Fail("timestamp out of range")
            self._utc = told - self._now
            return []
        return [float(self._utc + self._now)]

    def _time_zone(self, args: list[Value]) -> list[Value]:
        if not args:
            return [self.zone.encode()]
        zone = text(args, 0, "zone").decode("latin-1")
        hours, _, minutes = zone[1:].partition(":")
        if (
            zone[:1] not in ("+", "-")
            or not (hours.isdigit() and minutes in ("00", "30", "45"))
            or int(hours) > 14
        ):
            raise Fail("must be in format '+hh:mm' or '-hh:mm'")
        self.zone = zone
        return []

    def _time_date(self, args: list[Value]) -> list[Value]:
        hours, _, minutes = self.zone[1:].partition(":")
        shift = (int(hours) * 3600 + int(minutes) * 60) * (-1 if self.zone[0] == "-" else 1)
        at = number(args, 0, "date") if args else self._utc + self._now
        try:
            date = datetime.fromtimestamp(at + shift, UTC)
        except (ValueError, OverflowError, OSError):
            raise Fail("timestamp out of range") from None
        fields = Table()
        for name, value in (
            ("second", date.second), ("minute", date.minute), ("hour", date.hour), ("day", date.day),
            ("month", date.month), ("year", date.year), ("weekday", date.isoweekday() % 7),
            ("day of year", date.timetuple().tm_yday),
        ):  # fmt: skip
            fields.set(name.encode(), value)
        return [fields]

    def _set_led(self, args: list[Value]) -> list[Value]:
        red, green, blue = (integer(args, at, "set_color") for at in range(3))
        if not all(0 <= part <= 100 for part in (red, green, blue)):
            raise Fail("colors must be between 0 and 100")
        self.led = (red, green, blue)
        return []

    # Files

    def _file_open(self, args: list[Value]) -> list[Value]:
        name = text(args, 0, "open").decode("utf-8", "replace")
        mode = {
            b"r": "read",
            b"read": "read",
            b"w": "write",
            b"write": "write",
            b"a": "append",
            b"append": "append",
        }
        how = mode.get(text(args, 1, "open", b"r"))
        if how is None:
            raise Fail("mode must be 'read', 'write', or 'append'")
        if how == "read" and name not in self.files:
            raise Fail("error opening file")
        if len(self.files) >= FILES_MAX and name not in self.files:
            raise Fail("no space left")
        if how == "write" or name not in self.files:
            self.files[name] = b""
        return [self._file_object(name, how)]

    def _file_object(self, name: str, how: str) -> Table:
        state = {"at": 0, "open": True}

        def body() -> bytes:
            if not state["open"] or name not in self.files:
                raise Fail("file is closed")
            return self.files[name]

        def read(args: list[Value]) -> list[Value]:
            rest = body()[state["at"] :]
            if len(args) > 1:
                part = rest[: max(0, integer(args, 1, "read"))]
            else:  # one line, its end included
                line, newline, _ = rest.partition(b"\n")
                part = line + newline
            state["at"] += len(part)
            return [part or None]

        def write(args: list[Value]) -> list[Value]:
            if how == "read":
                raise Fail("file is not open for writing")
            written = body() + text(args, 1, "write")
            others = sum(len(data) for path, data in self.files.items() if path != name)
            if others + len(written) > FILE_BYTES_MAX:
                raise Fail("no space left")
            self.files[name] = written
            return []

        def close(args: list[Value]) -> list[Value]:
            body()
            state["open"] = False
            return []

        handle = Table()
        for method, call in (("read", read), ("write", write), ("close", close)):
            handle.set(method.encode(), Builtin(method, call))
        return handle

    def _file_list(self, args: list[Value]) -> list[Value]:
        listed = Table()
        entries = [(name, 2, 0) for name in sorted(self.directories)]
        entries += [(name, 1, len(data)) for name, data in sorted(self.files.items())]
        for at, (name, kind, size) in enumerate(entries, 1):
            entry = Table()
            entry.set(b"name", name.encode())
            entry.set(b"type", kind)
            entry.set(b"size", size)
            listed.set(at, entry)
        return [listed]

    def _file_remove(self, args: list[Value]) -> list[Value]:
        name = text(args, 0, "remove").decode("utf-8", "replace")
        if name not in self.files and name not in self.directories - {"."}:
            raise Fail("error removing file")
        self.files.pop(name, None)
        self.directories.discard(name)
        return []

    def _file_rename(self, args: list[Value]) -> list[Value]:
        old, new = (text(args, at, "rename").decode("utf-8", "replace") for at in (0, 1))
        if old not in self.files:
            raise Fail("error renaming file")
        self.files[new] = self.files.pop(old)
        return []

    def _file_mkdir(self, args: list[Value]) -> list[Value]:
        name = text(args, 0, "mkdir").decode("utf-8", "replace")
        if len(self.directories) >= FILES_MAX:
            raise Fail("no space left")
        self.directories.add(name)
        return []

    # -- people ----------------------------------------------------------------------------------------------------

    def user(self, what: UserInput, now: float) -> list[Effect]:
        """Taps (they also wake a Frame that sleeps), head, battery, cradle.

        Values: BATTERY 0 to 100; CHARGE bool (default True); CASE "in" or "out" of the cradle, or "button", which
        forgets the paired host.
        """
        if what.side is not None:
            raise NoTaker(f"Frame has no side {what.side!r}: leave side out")
        match what.action:
            case Action.TAP:
                return self._taps(1, now)
            case Action.DOUBLE_TAP:
                return self._taps(2, now)
            case Action.TRIPLE_TAP:
                return self._taps(3, now)
            case Action.LOOK_UP | Action.LOOK_DOWN:
                self.pitch = LOOK_UP_DEGREES if what.action is Action.LOOK_UP else 0.0
                return []
            case Action.BATTERY:
                value = what.value
                if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 100:
                    raise NoTaker(f"battery takes a number from 0 to 100, not {value!r}")
                self.battery = int(value)
                return [] if self.battery else self._go_dark(now)
            case Action.CHARGE:
                if what.value not in (None, True, False, "on", "off"):
                    raise NoTaker(f"charge takes true or false (or on, off), not {what.value!r}")
                self.charging = what.value in (None, True, "on")
                return []
            case Action.CASE:
                return self._cradle(what.value, now)
        raise NoTaker(
            f"Frame has no sensor for {what.action.value}: it knows taps, its position and its cradle"
        )

    def _taps(self, count: int, now: float) -> list[Effect]:
        if self._arm.state is ArmState.DARK:
            if not self.battery:
                raise NoTaker("the battery is empty: charge the glasses first")
            return self.start(now)
        if self._on_tap is None:
            raise NoTaker("no program on the glasses listens for taps (frame.imu.tap_callback is not set)")
        for at in range(1, count):
            self._set_timer(("tap", at), now + at * CALLBACK_GAP, self._tap)
        return self._tap(now)

    def _tap(self, now: float) -> list[Effect]:
        self._tapped = self._on_tap is not None
        self._plan(now)
        return []

    def _cradle(self, value: object, now: float) -> list[Effect]:
        match value:
            case "in":
                self.charging = True
                return self._go_dark(now)
            case "out":
                self.charging = False
                return self.start(now) if self._arm.state is ArmState.DARK and self.battery else []
            case "button":
                self.bond = None
                return [ForgetBond(MAIN), *self._render()]
        raise NoTaker(f"the cradle knows in, out and button, not {value!r}")

    def snapshot(self) -> dict[str, Any]:
        return {
            "battery": self.battery,
            "charging": self.charging,
            "bonded": self.bond is not None,
            "program_running": bool(self._tasks),
            "listens_for_data": self._on_data is not None,
            "listens_for_taps": self._on_tap is not None,
            "files": sorted(self.files),
            "brightness": self.brightness,
            "led": list(self.led),
            "pitch": self.pitch,
        }


def _callback(args: list[Value]) -> Function | Builtin | None:
    value = any_of(args, 0)
    if value is None or isinstance(value, Function | Builtin):
        return value
    raise Fail("expected nil or function")


def _color(value: Value) -> str:
    name = value.decode("latin-1") if isinstance(value, bytes) else type_name(value).decode()
    if name not in COLORS:
        raise Fail(f"invalid color name: {name[:32]}")
    return name


def _checked(args: list[Value], name: str, low: int, high: int) -> list[Value]:
    for at in range(max(1, len(args))):
        if not low <= integer(args, at, name) <= high:
            raise Fail(f"bad argument #{at + 1} to '{name}' ({low} to {high})")
    return []


def _lit(x: int, y: int, width: int, depth: int, data: bytes) -> PictureItem | None:
    """A sprite as lit and unlit pixels: packed without gaps, most significant bits first, colour 0 unlit."""
    width_shown = min(width, PANEL.width - x)
    height = min(len(data) * 8 // depth // width, PANEL.height - y)
    if height < 1:
        return None
    row_bits, keep = width * depth, (1 << width_shown) - 1
    pixels = int.from_bytes(data, "big")
    total = len(data) * 8
    stride = (width_shown + 7) // 8
    rows = []
    for row in range(height):
        bits = pixels >> (total - (row + 1) * row_bits) & ((1 << row_bits) - 1)
        if depth > 1:
            bits = _any_bit(bits, width, depth)
        shown = bits >> (width - width_shown) & keep
        rows.append((shown << (stride * 8 - width_shown)).to_bytes(stride, "big"))
    return PictureItem(x, y, width_shown, height, b"".join(rows))


def _any_bit(bits: int, width: int, depth: int) -> int:
    """One bit per pixel: whether any of its `depth` bits is set."""
    mask = (1 << depth) - 1
    lit = 0
    for at in range(width):
        if bits >> at * depth & mask:
            lit |= 1 << at
    return lit
