"""Mentra Nex ("Mentra Display"): protobuf or JSON over one service, text and pictures on one lens, microphone.

Rules of this file:

- The schema below is the vendor's mentraos_ble.proto, generation 1, restated; JSON v1.1 is translated to it on the way
  in and from it on the way out, so that `_COMMANDS` is the one command table.
- Glasses answer in the form in which the host spoke last: bare protobuf, protobuf behind a fragment header, or JSON.
- A packet never raises: what cannot be read is ignored and counted. Where no public source shows the behaviour the
  comment says "our choice".
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from firmware_sim.firmware.base import (
    ATT_HEADER,
    BLANK,
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
from firmware_sim.firmware.protobuf import (
    DecodeError,
    Kind,
    Schema,
    boolean,
    decode,
    encode,
    field_numbers,
    int32,
    many,
    message,
    real,
    string,
    uint,
)
from firmware_sim.firmware.raster import Canvas, read_bmp

MAIN = "main"

SERVICE = "00004860-0000-1000-8000-00805f9b34fb"
TO_GLASSES = "000071ff-0000-1000-8000-00805f9b34fb"
FROM_GLASSES = "000070ff-0000-1000-8000-00805f9b34fb"

MTU_MAX = 247
"""The chip's usual maximum; the real value is not established."""

JSON, PROTOBUF, AUDIO, IMAGE = 0x01, 0x02, 0xA0, 0xB0

PANEL = DisplaySpec(640, 480)
"""Guess: fits the vendor's default text position (20, 260 + 80) and size (48)."""
TEXT_Y_SHIFT = 80
TEXT_SIZE, TEXT_X, TEXT_Y = 48, 20, 260
TEXT_SCALE = 16
"""Sizes below 8 are the font scale of JSON v1.1; pixels per step are a guess."""

PING_PERIOD, PING_TIMEOUT, PING_MISSES_MAX = 10.0, 3.0, 3
LEAVE_DELAY = 0.5
"""Seconds after a disconnect request before the glasses hang up by themselves; the host does it after 0.25 s."""
LAST_FRAME = 30.0
"""Seconds that the last picture stays after a lost link ("a grace time", guess)."""
REBOOT = 3.0

AUDIO_FRAMES, AUDIO_FRAME_BYTES, FRAME_TIME = 5, 40, 0.01
MIC_LEAD_IN, MIC_TAIL = 0.2, 0.08
VOICE_HANG = 0.5
"""Seconds of silence after which voice counts as over (guess)."""

CHUNKS_MAX = 256
IMAGES_MAX = 4
"""Pictures received at the same time; a host sends one."""
IMAGE_PATIENCE = 1.0
"""Seconds without a chunk after which the glasses say which are missing (guess)."""
IMAGE_ROUNDS_MAX = 5
IMAGE_CACHE_MAX = 16
"""As the device information tells ("image_chunk_buffer")."""
QUEUE_MAX = 64
DASHBOARDS_MAX = 4
MESSAGES_MAX = 4
"""Fragmented messages collected at the same time."""
SCROLL_LINES_MAX = 500
SCROLL_STEP_MIN = 0.05
"""Seconds per line; faster scrolling would only be a blur and a load."""
IMU_PERIOD = 0.1

# --- the schema -----------------------------------------------------------------------------------------------------

_TEXT = (
    string(1, "text"),
    uint(2, "color"),
    uint(3, "x"),
    uint(4, "y"),
    uint(5, "size"),
    uint(6, "font_code"),
)
_CACHED = (uint(1, "image_id"), uint(2, "x"), uint(3, "y"), uint(4, "width"), uint(5, "height"))
_SCROLL = (
    string(1, "text"), uint(2, "color"), uint(3, "x"), uint(4, "y"), uint(5, "width"), uint(6, "height"),
    uint(7, "align"), uint(8, "line_spacing"), uint(9, "speed"), uint(10, "size"), boolean(11, "loop"),
    uint(12, "pause_ms"),
)  # fmt: skip
_PEN = (uint(1, "color"), uint(2, "stroke"))
_LINE = (*_PEN, uint(3, "x1"), uint(4, "y1"), uint(5, "x2"), uint(6, "y2"))
_RECT = (*_PEN, uint(3, "x"), uint(4, "y"), uint(5, "width"), uint(6, "height"))
_CIRCLE = (*_PEN, uint(3, "x"), uint(4, "y"), uint(5, "radius"))
_BATCH_COMMANDS = (
    message(1, "text", *_TEXT),
    message(2, "cached_image", *_CACHED),
    message(3, "line", *_LINE),
    message(4, "rect", *_RECT),
    message(5, "circle", *_CIRCLE),
    message(6, "scrolling_text", *_SCROLL),
)
_BATCH = (many(message(1, "commands", *_BATCH_COMMANDS)),)
_ENABLED = (boolean(1, "enabled"),)

PHONE_TO_GLASSES = Schema(
    string(1, "msg_id"),
    message(10, "disconnect"),
    message(11, "battery_state"),
    message(12, "glasses_info"),
    message(13, "pairing_mode"),
    message(14, "head_position"),
    message(15, "head_up_angle", uint(1, "angle")),
    message(16, "pong"),
    message(20, "mic_state", *_ENABLED),
    message(23, "set_vad_enabled", string(1, "msg_id"), boolean(2, "enabled")),
    message(24, "set_vad_config", string(1, "msg_id"), uint(2, "sensitivity")),
    message(25, "request_vad_status", string(1, "msg_id")),
    message(30, "display_text", *_TEXT),
    message(
        31, "display_image", string(1, "stream_id"), uint(2, "x"), uint(3, "y"), uint(4, "width"), uint(5, "height"),
        string(6, "encoding"), uint(7, "total_chunks"),
    ),
    message(
        32, "cache_image", string(1, "stream_id"), uint(2, "image_id"), uint(3, "width"), uint(4, "height"),
        string(5, "encoding"), uint(6, "total_chunks"),
    ),
    message(33, "display_cached_image", *_CACHED),
    message(34, "clear_cached_image", uint(1, "image_id")),
    message(35, "display_scrolling_text", *_SCROLL),
    message(36, "display_power", boolean(1, "on")),
    message(37, "brightness", uint(1, "value")),
    message(38, "auto_brightness", *_ENABLED),
    message(39, "auto_brightness_mult", real(1, "multiplier")),
    message(40, "draw_line", *_LINE),
    message(41, "draw_rect", *_RECT),
    message(42, "draw_circle", *_CIRCLE),
    message(43, "commit", boolean(1, "clear_before")),
    message(44, "display_distance", uint(1, "distance_cm")),
    message(45, "display_height", uint(1, "height")),
    message(46, "clear_display"),
    message(47, "cache_dashboard", uint(1, "dashboard_id"), message(2, "batch", *_BATCH)),
    message(48, "clear_dashboard", uint(1, "dashboard_id")),
    message(49, "dashboard_trigger", uint(1, "dashboard_id"), uint(2, "trigger"), uint(3, "duration_ms")),
    message(51, "queue_status_request"),
    message(52, "display_batch", *_BATCH),
    message(55, "imu_enabled", *_ENABLED),
    message(56, "imu_single"),
    message(57, "imu_stream", *_ENABLED),
    message(58, "head_gesture", uint(1, "gesture"), boolean(2, "enabled")),
    message(60, "restart"),
    message(61, "factory_reset"),
    message(70, "version_request", string(1, "msg_id")),
)  # fmt: skip

_VECTOR3 = (real(1, "x"), real(2, "y"), real(3, "z"))
_SET = (string(1, "msg_id"), boolean(2, "success"), string(3, "error"))

GLASSES_TO_PHONE = Schema(
    message(10, "battery_status", uint(1, "level"), boolean(2, "charging")),
    message(11, "charging_state", uint(1, "state")),
    message(
        12, "device_info", string(1, "fw_version"), string(2, "hw_model"),
        message(
            3, "features", boolean(1, "camera"), boolean(2, "display"), boolean(3, "audio_tx"),
            boolean(4, "audio_rx"), boolean(5, "imu"), boolean(6, "vad"), boolean(7, "mic_switching"),
            uint(8, "image_chunk_buffer"),
        ),
    ),
    message(13, "head_position", int32(1, "angle")),
    message(14, "head_up_angle_set", boolean(1, "success")),
    message(15, "ping", string(1, "msg_id")),
    message(20, "vad_event", uint(1, "state")),
    message(21, "vad_enabled_set", *_SET),
    message(22, "vad_configured", *_SET),
    message(23, "vad_status", string(1, "msg_id"), boolean(2, "enabled"), uint(3, "sensitivity")),
    message(
        30, "image_transfer_complete", string(1, "stream_id"), uint(2, "status"), many(uint(3, "missing_chunks"))
    ),
    message(
        31, "display_queue_info", uint(1, "queued_commands"), uint(2, "queue_bytes"), uint(3, "max_queue_size"),
        boolean(4, "last_commit_success"),
    ),
    message(
        40, "imu_data", message(1, "accel", *_VECTOR3), message(2, "gyro", *_VECTOR3), message(3, "mag", *_VECTOR3)
    ),
    message(41, "button_event", uint(1, "button"), uint(2, "state")),
    message(42, "head_gesture", uint(1, "gesture")),
    message(43, "dashboard_shown", uint(1, "dashboard_id"), uint(2, "source")),
    message(
        70, "version_response", string(1, "msg_id"), uint(2, "version"), string(10, "commit"),
        string(11, "build_date"),
    ),
)  # fmt: skip

OK, INCOMPLETE = 0, 1
BUTTONS = ("center", "left", "right")
UP, DOWN = 0, 1
GESTURES = ("nod", "shake", "head_up", "head_down", "tilt_left", "tilt_right")
HEAD_UP, HEAD_DOWN = 2, 3
TRIGGER_HEAD_UP, TRIGGER_HEAD_DOWN, TRIGGER_BUTTON = 0, 1, 2
SOURCE_GESTURE, SOURCE_BUTTON = 0, 1

# --- JSON v1.1 ------------------------------------------------------------------------------------------------------

JSON_COMMANDS = {
    "disconnect": "disconnect",
    "request_battery_state": "battery_state",
    "request_glasses_info": "glasses_info",
    "enter_pairing_mode": "pairing_mode",
    "request_head_position": "head_position",
    "set_head_up_angle": "head_up_angle",
    "ping": "pong",
    "set_mic_state": "mic_state",
    "set_vad_enabled": "set_vad_enabled",
    "configure_vad": "set_vad_config",
    "display_text": "display_text",
    "display_image": "display_image",
    "preload_image": "cache_image",
    "display_cached_image": "display_cached_image",
    "clear_cached_image": "clear_cached_image",
    "display_vertical_scrolling_text": "display_scrolling_text",
    "turn_off_display": "display_power",
    "turn_on_display": "display_power",
    "set_brightness": "brightness",
    "set_auto_brightness": "auto_brightness",
    "set_auto_brightness_multiplier": "auto_brightness_mult",
    "draw_line": "draw_line",
    "draw_rect": "draw_rect",
    "draw_circle": "draw_circle",
    "commit": "commit",
    "set_display_distance": "display_distance",
    "set_display_height": "display_height",
    "request_enable_imu": "imu_enabled",
    "request_imu_single": "imu_single",
    "request_imu_stream": "imu_stream",
    "request_head_gesture_event": "head_gesture",
    "restart_device": "restart",
    "factory_reset": "factory_reset",
}
"""The JSON name of each command, and what it is called in the schema."""

_ENUMS: dict[tuple[str, str], tuple[str, ...]] = {
    ("charging_state", "state"): ("not_charging", "charging"),
    ("vad_event", "state"): ("inactive", "active"),
    ("image_transfer_complete", "status"): ("ok", "incomplete"),
    ("button_event", "button"): BUTTONS,
    ("button_event", "state"): ("up", "down"),
    ("head_gesture", "gesture"): GESTURES,
    ("display_scrolling_text", "align"): ("left", "center", "right"),
}
"""Enumerations that JSON writes as words, in the order of their numbers."""

_JSON_NAMES = {"fw_version": "fw", "hw_model": "hw", "ping": "pong"}
"""Reply names that differ in JSON."""


def from_json(text: bytes) -> tuple[str, dict[str, Any]] | None:
    """(schema name, fields) of a JSON command, or None. A field of the wrong kind is left out."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    name = JSON_COMMANDS.get(kind) if isinstance(kind, str) else None
    if name is None:
        return None
    schema = PHONE_TO_GLASSES.by_name[name].schema
    assert schema is not None
    fields: dict[str, Any] = {}
    for spec in schema.fields:
        found = _json_value(name, spec.name, spec.kind, value.get(spec.name))
        if found is None and spec.name == "angle":
            found = _json_value(name, spec.name, spec.kind, value.get("value"))
        if found is not None:
            fields[spec.name] = found
    if name == "display_power":
        fields["on"] = kind == "turn_on_display"
    return name, fields


def _json_value(message_name: str, name: str, kind: Kind, value: Any) -> Any:
    words = _ENUMS.get((message_name, name))
    if words is not None and isinstance(value, str) and value.lower() in words:
        return words.index(value.lower())
    match kind, value:
        case Kind.BOOL, bool():
            return value
        case Kind.STRING, str():
            return value
        case Kind.FLOAT, int() | float() if not isinstance(value, bool):
            return float(value) if abs(value) < 1e30 else None
        case Kind.UINT, int() if not isinstance(value, bool):
            return min(max(value, 0), 0xFFFF_FFFF)
        case Kind.UINT, str():  # "0xF800"
            try:
                return min(int(value, 16), 0xFFFF_FFFF) if value.lower().startswith("0x") else None
            except ValueError:
                return None
    return None


def to_json(name: str, fields: dict[str, Any]) -> bytes:
    """A reply as JSON, with the fields that protobuf leaves out because they have their default value."""
    schema = GLASSES_TO_PHONE.by_name[name].schema
    assert schema is not None
    return json.dumps(
        {"type": _JSON_NAMES.get(name, name), **_spelled(name, schema, fields)}, separators=(",", ":")
    ).encode()


def _spelled(name: str, schema: Schema, fields: dict[str, Any]) -> dict[str, Any]:
    spelled: dict[str, Any] = {}
    for spec in schema.fields:
        key = _JSON_NAMES.get(spec.name, spec.name)
        value = fields.get(spec.name)
        if spec.repeated:
            spelled[key] = value or []
        elif spec.schema is not None:
            spelled[key] = _spelled(spec.name, spec.schema, value or {})
        elif words := _ENUMS.get((name, spec.name)):
            spelled[key] = words[value or 0]
        elif value is not None or spec.name != "msg_id":
            spelled[key] = value if value is not None else _DEFAULTS[spec.kind]
    return spelled


_DEFAULTS: dict[Kind, Any] = {Kind.UINT: 0, Kind.INT: 0, Kind.BOOL: False, Kind.STRING: "", Kind.FLOAT: 0.0}

# --- the machine ----------------------------------------------------------------------------------------------------


class Speech(enum.Enum):
    """How the host spoke last on this link."""

    BARE = "protobuf"
    FRAGMENTS = "protobuf with fragment header"
    JSON = "json"


class Headers(enum.Enum):
    """Which protobuf packets a firmware build can read."""

    BARE = "bare"
    FRAGMENTS = "fragments"
    DETECT = "detect"


class KeepAlive(enum.Enum):
    GLASSES = "glasses"
    """The glasses ask with tag 15, the host answers with tag 16 (schema and vendor's simulator)."""
    HOST = "host"
    """The host asks with tag 16, the glasses answer with tag 15 (newest app's names)."""


@dataclass(slots=True)
class Incoming:
    """A picture whose chunks arrive."""

    name: str
    total: int
    x: int
    y: int
    cache_as: int | None
    parts: dict[int, bytes] = field(default_factory=dict)
    last: int = 0
    """The chunk after which the glasses say what is missing."""
    rounds: int = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """One thing on the lens. What is drawn with the same key replaces it."""

    key: tuple[Any, ...]
    item: TextItem | PictureItem | None
    shape: tuple[str, tuple[int, ...]] | None = None
    """A line, rectangle or circle and its numbers."""


@dataclass(slots=True)
class Scroll:
    lines: list[str]
    shown: int
    step: float
    """Seconds per line."""
    pause: float
    loop: bool
    drawn: Drawn
    first: int = 0


@dataclass(slots=True)
class Settings:
    brightness: int = 50
    auto_brightness: bool = False
    multiplier: float = 1.0
    display_on: bool = True
    distance_cm: int = 0
    height: int = 0
    head_up_angle: int = 20
    vad_enabled: bool = False
    vad_sensitivity: int = 50
    imu_enabled: bool = False


def peripherals(address: str) -> tuple[PeripheralSpec, ...]:
    service = ServiceSpec(
        SERVICE,
        (
            CharacteristicSpec(TO_GLASSES, write=True, write_without_response=True, read=True),
            CharacteristicSpec(FROM_GLASSES, notify=True, read=True),
        ),
    )
    return (
        PeripheralSpec(
            arm=MAIN,
            name=f"MENTRA_DISPLAY_{address.replace(':', '')[-6:].upper()}",
            address=address,
            services=(service,),
            mtu_max=MTU_MAX,
            advertised_services=(SERVICE,),
        ),
    )


def build(
    identity: Identity, *, chance: Callable[[], float], audio: AudioSource, pictures: object = None
) -> MentraNex:
    """One for a room. It has no camera for `pictures`."""
    return MentraNex(peripherals(identity.addresses[0]), chance=chance, audio=audio)


class MentraNex(Firmware):
    """One Mentra Nex."""

    model: ClassVar[str] = "nex"
    display: ClassVar[DisplaySpec | None] = PANEL

    def __init__(
        self,
        specs: tuple[PeripheralSpec, ...],
        *,
        chance: Callable[[], float],
        audio: AudioSource | None = None,
        battery: int = 82,
        headers: Headers = Headers.DETECT,
        keep_alive: KeepAlive = KeepAlive.GLASSES,
        commit_needed: bool = False,
        battery_echo: bool = False,
    ) -> None:
        """`commit_needed`: drawings wait for a commit (design text) instead of being shown at once (running code).
        `battery_echo`: every packet is answered with the battery, as the vendor's own simulator does."""
        super().__init__(specs, chance=chance, audio=audio)
        self.headers = headers
        self.keep_alive = keep_alive
        self.commit_needed = commit_needed
        self.battery_echo = battery_echo
        self.battery = battery
        self.charging = False
        self.settings = Settings()
        self.head_angle = 0
        self.speaker_bytes = 0
        self._speech = Speech.BARE
        self._sequence = 0
        self._fragments: dict[int, dict[int, bytes]] = {}
        self._misses = 0
        self._welcome = True
        self._empty_text_ignored = False
        self._shown: dict[tuple[Any, ...], Drawn] = {}
        self._staged: list[Drawn] = []
        self._last_commit = True
        self._scroll: Scroll | None = None
        self._images: dict[int, Incoming] = {}
        self._cache: dict[int, PictureItem] = {}
        self._dashboards: dict[int, list[dict[str, Any]]] = {}
        self._triggers: dict[int, tuple[int, int]] = {}
        self._overlay: int | None = None
        self._quiet_gestures: set[int] = set()
        self._mic_on = False
        self._voice = False
        self._heard_at = 0.0

    @property
    def _arm(self) -> Arm:
        return self.arms[MAIN]

    def start(self, now: float) -> list[Effect]:
        return super().start(now) + self._render()

    # -- links ---------------------------------------------------------------------------------------------------

    def _on_connected(self, arm: Arm, now: float) -> list[Effect]:
        self._speech, self._misses = Speech.BARE, 0
        self._fragments.clear()
        self._cancel_timer("fade")
        return []

    def _on_subscribed(self, arm: Arm, characteristic: str, on: bool, now: float) -> list[Effect]:
        if characteristic == FROM_GLASSES:
            self._cancel_timer("ping")
            self._cancel_timer("pong")
            if on and self.keep_alive is KeepAlive.GLASSES:
                self._set_timer("ping", now + PING_PERIOD, self._ping)
        return []

    def _on_lost(self, arm: Arm, now: float) -> list[Effect]:
        for key in ("ping", "pong", "leave", "imu"):
            self._cancel_timer(key)
        for number in self._images:
            self._cancel_timer(("image", number))
        self._images.clear()
        self._set_timer("fade", now + LAST_FRAME, self._fade)
        return self._microphone_off(now)

    def _fade(self, now: float) -> list[Effect]:
        self._wipe()
        self._welcome, self._empty_text_ignored = True, False
        return self._render()

    def _ping(self, now: float) -> list[Effect]:
        self._set_timer("ping", now + PING_PERIOD, self._ping)
        if self._speech is Speech.JSON:
            return []  # JSON v1.1 leaves the asking to the host
        self._set_timer("pong", now + PING_TIMEOUT, self._ping_missed)
        return self._tell("ping", {}, now)

    def _ping_missed(self, now: float) -> list[Effect]:
        self._misses += 1
        if self._misses < PING_MISSES_MAX:
            return []
        self._cancel_timer("ping")
        return [self._hang_up(self._arm)] if self._arm.state is ArmState.CONNECTED else []

    # -- writes --------------------------------------------------------------------------------------------------

    def _on_write(self, arm: Arm, characteristic: str, data: bytes, now: float) -> list[Effect]:
        match data[0]:
            case 0x02:
                effects = self._protobuf(arm, data, now)
            case 0x01:
                effects = self._json(arm, data, now)
            case 0xB0:
                effects = self._image_chunk(arm, data, now)
            case 0xA0:
                self.speaker_bytes += max(0, len(data) - 2)
                effects = []
            case _:  # the app still sends commands of other glasses (04, 18): not ours
                arm.counters.ignored_writes += 1
                effects = []
        if self.battery_echo:
            effects = effects + self._reply("battery_status", self._battery_fields(), now)
        return effects

    def _json(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        command = from_json(data[1:])
        if command is None:
            arm.counters.ignored_writes += 1
            return []
        self._speech = Speech.JSON
        name, fields = command
        if name == "pong":  # "ping" in JSON: the host asks
            return self._reply("ping", {}, now)
        return _COMMANDS[name](self, fields, now)

    def _protobuf(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        body = data[1:]
        if self.headers is not Headers.FRAGMENTS:
            bare = _read(body)
            if bare is not None:
                self._speech = Speech.BARE
                return self._run(bare, now)
        looks_cut = len(data) >= 4 and data[2] >= 1 and data[3] < data[2]
        if self.headers is Headers.BARE or not looks_cut:
            return self._foreign(arm, body, now)
        sequence, total, index = data[1], data[2], data[3]
        parts = self._fragments.setdefault(sequence, {})
        parts[index] = data[4:]
        if len(parts) < total:
            while len(self._fragments) > MESSAGES_MAX:
                del self._fragments[next(iter(self._fragments))]
            return []
        del self._fragments[sequence]
        joined = b"".join(parts[i] for i in sorted(parts))
        whole = _read(joined)
        if whole is None:
            return self._foreign(arm, joined, now)
        self._speech = Speech.FRAGMENTS
        return self._run(whole, now)

    def _foreign(self, arm: Arm, body: bytes, now: float) -> list[Effect]:
        """Protobuf that this generation does not know, or no protobuf at all."""
        try:
            field_numbers(body)
        except DecodeError:
            arm.counters.ignored_writes += 1
        else:
            arm.counters.unknown_commands += 1
            self.log.append(LogEntry(now, arm.name, "unknown", body))
        return []

    def _run(self, fields: dict[str, Any], now: float) -> list[Effect]:
        names = [name for name in fields if name != "msg_id"]
        return [effect for name in names for effect in _COMMANDS[name](self, fields[name], now)]

    # -- saying things -------------------------------------------------------------------------------------------

    def _packets(self, name: str, fields: dict[str, Any]) -> list[bytes]:
        if self._speech is Speech.JSON:
            return [bytes([JSON]) + to_json(name, fields)]
        body = encode(GLASSES_TO_PHONE, {name: fields})
        if self._speech is Speech.BARE:
            return [bytes([PROTOBUF]) + body]
        size = self._arm.mtu - ATT_HEADER - 4
        parts = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
        self._sequence = (self._sequence + 1) & 0xFF
        return [bytes([PROTOBUF, self._sequence, len(parts), i]) + part for i, part in enumerate(parts)]

    def _reply(self, name: str, fields: dict[str, Any], now: float) -> list[Effect]:
        return [
            effect
            for packet in self._packets(name, fields)
            for effect in self._answer(self._arm, FROM_GLASSES, packet, now)
        ]

    def _tell(self, name: str, fields: dict[str, Any], now: float) -> list[Effect]:
        """Say something that nobody asked for."""
        return [
            effect
            for packet in self._packets(name, fields)
            for effect in self._notify(self._arm, FROM_GLASSES, packet, now)
        ]

    # -- session -------------------------------------------------------------------------------------------------

    def _pong(self, m: dict[str, Any], now: float) -> list[Effect]:
        self._misses = 0
        self._cancel_timer("pong")
        # An answer to an answer would go round for ever: only glasses that never ask may answer.
        return self._reply("ping", {}, now) if self.keep_alive is KeepAlive.HOST else []

    def _disconnect(self, m: dict[str, Any], now: float) -> list[Effect]:
        self._wipe()
        arm, link = self._arm, self._arm.link
        self._set_timer(
            "leave",
            now + LEAVE_DELAY,
            lambda then: [self._hang_up(arm)] if link is not None and arm.link == link else [],
        )
        return self._render()

    def _battery_fields(self) -> dict[str, Any]:
        return {"level": self.battery, "charging": self.charging}

    def _battery_state(self, m: dict[str, Any], now: float) -> list[Effect]:
        return self._reply("battery_status", self._battery_fields(), now)

    def _glasses_info(self, m: dict[str, Any], now: float) -> list[Effect]:
        features = {"display": True, "audio_tx": True, "imu": True, "image_chunk_buffer": IMAGE_CACHE_MAX}
        return self._reply(
            "device_info", {"fw_version": "1.2.3", "hw_model": "NEX", "features": features}, now
        )

    def _version(self, m: dict[str, Any], now: float) -> list[Effect]:
        return self._reply("version_response", {"msg_id": m.get("msg_id", ""), "version": 1}, now)

    def _nothing(self, m: dict[str, Any], now: float) -> list[Effect]:
        return []  # taken, with no effect that shows

    def _restart(self, m: dict[str, Any], now: float) -> list[Effect]:
        self._wipe()
        self._cache.clear()
        self._dashboards.clear()
        self._triggers.clear()
        self._welcome, self._empty_text_ignored = True, False
        self._set_timer("reboot", now + REBOOT, lambda then: self._wake(self._arm, then) + self._render())
        return self._sleep(self._arm, now) + self._render()

    def _factory_reset(self, m: dict[str, Any], now: float) -> list[Effect]:
        self.settings = Settings()
        return [ForgetBond(MAIN), *self._restart(m, now)]

    # -- settings ------------------------------------------------------------------------------------------------

    def _set_brightness(self, m: dict[str, Any], now: float) -> list[Effect]:
        self.settings.brightness = min(m.get("value", 0), 100)
        return []

    def _set_auto_brightness(self, m: dict[str, Any], now: float) -> list[Effect]:
        self.settings.auto_brightness = m.get("enabled", False)
        return []

    def _set_multiplier(self, m: dict[str, Any], now: float) -> list[Effect]:
        value = m.get("multiplier", 0.0)
        if math.isfinite(value):
            self.settings.multiplier = value
        return []

    def _set_power(self, m: dict[str, Any], now: float) -> list[Effect]:
        self.settings.display_on = m.get("on", False)
        return self._render()

    def _set_distance(self, m: dict[str, Any], now: float) -> list[Effect]:
        self.settings.distance_cm = m.get("distance_cm", 0)
        return []

    def _set_height(self, m: dict[str, Any], now: float) -> list[Effect]:
        self.settings.height = m.get("height", 0)
        return []

    def _set_head_up_angle(self, m: dict[str, Any], now: float) -> list[Effect]:
        angle = m.get("angle", 0)
        success = angle <= 60 and not self._take_failure(self._arm)
        if success:
            self.settings.head_up_angle = angle
        return self._reply("head_up_angle_set", {"success": success}, now)

    # -- motion --------------------------------------------------------------------------------------------------

    def _head_position(self, m: dict[str, Any], now: float) -> list[Effect]:
        return self._reply("head_position", {"angle": self.head_angle}, now)

    def _head_gesture(self, m: dict[str, Any], now: float) -> list[Effect]:
        gesture = m.get("gesture", 0)
        if gesture < len(GESTURES):
            (self._quiet_gestures.discard if m.get("enabled") else self._quiet_gestures.add)(gesture)
        return []

    def _motion(self) -> dict[str, Any]:
        """At rest one g points down; looking up turns it forward."""
        angle = math.radians(self.head_angle)
        return {"accel": {"x": math.sin(angle), "z": math.cos(angle)}}

    def _imu_enabled(self, m: dict[str, Any], now: float) -> list[Effect]:
        self.settings.imu_enabled = m.get("enabled", False)
        if not self.settings.imu_enabled:
            self._cancel_timer("imu")
        return []

    def _imu_single(self, m: dict[str, Any], now: float) -> list[Effect]:
        return self._reply("imu_data", self._motion(), now)

    def _imu_stream(self, m: dict[str, Any], now: float) -> list[Effect]:
        if m.get("enabled"):
            self._set_timer("imu", now + IMU_PERIOD, self._stream_motion)
        else:
            self._cancel_timer("imu")
        return []

    def _stream_motion(self, now: float) -> list[Effect]:
        self._set_timer("imu", now + IMU_PERIOD, self._stream_motion)
        return self._tell("imu_data", self._motion(), now)

    # -- microphone ----------------------------------------------------------------------------------------------

    def _mic_state(self, m: dict[str, Any], now: float) -> list[Effect]:
        if not m.get("enabled"):
            if self._mic_on and not self._has_timer("tail"):
                self._set_timer("tail", now + MIC_TAIL, self._microphone_off)
            return []
        self._cancel_timer("tail")
        if self._mic_on:
            return []
        self._mic_on = True
        self._set_timer("mic", now + MIC_LEAD_IN, self._stream_audio)
        return [Microphone(True)]

    def _microphone_off(self, now: float) -> list[Effect]:
        if not self._mic_on:
            return []
        self._mic_on, self._voice = False, False
        self._cancel_timer("mic")
        self._cancel_timer("tail")
        return [Microphone(False)]

    def _stream_audio(self, now: float, due: float | None = None) -> list[Effect]:
        count = min(AUDIO_FRAMES, (self._arm.mtu - 5) // AUDIO_FRAME_BYTES)
        # From the planned time, not from `now`: a late timer must not slow the stream down. A shell that slept for
        # long skips ahead instead of sending a burst.
        period = max(count, 1) * FRAME_TIME
        planned = now if due is None or now - due > 10 * period else due
        following = planned + period
        self._set_timer("mic", following, lambda then: self._stream_audio(then, following))
        if count < 1:
            return []
        frames = self.audio.lc3(AUDIO_FRAME_BYTES, count)
        packet = bytes([AUDIO, 0]) + b"".join(frames)
        return self._voice_changed(frames, now) + self._notify(self._arm, FROM_GLASSES, packet, now)

    def _voice_changed(self, frames: list[bytes], now: float) -> list[Effect]:
        if not self.settings.vad_enabled:
            return []
        if any(any(frame[:-8]) for frame in frames):
            self._heard_at = now
            if not self._voice:
                self._voice = True
                return self._tell("vad_event", {"state": 1}, now)
        elif self._voice and now - self._heard_at >= VOICE_HANG:
            self._voice = False
            return self._tell("vad_event", {"state": 0}, now)
        return []

    def _vad_enable(self, m: dict[str, Any], now: float) -> list[Effect]:
        success = not self._take_failure(self._arm)
        if success:
            self.settings.vad_enabled = m.get("enabled", False)
        return self._reply("vad_enabled_set", {"msg_id": m.get("msg_id", ""), "success": success}, now)

    def _vad_configure(self, m: dict[str, Any], now: float) -> list[Effect]:
        sensitivity = m.get("sensitivity", 0)
        success = sensitivity <= 100 and not self._take_failure(self._arm)
        answer = {"msg_id": m.get("msg_id", ""), "success": success}
        if success:
            self.settings.vad_sensitivity = sensitivity
        else:
            answer["error"] = "sensitivity is 0 to 100"
        return self._reply("vad_configured", answer, now)

    def _vad_status(self, m: dict[str, Any], now: float) -> list[Effect]:
        s = self.settings
        status = {"msg_id": m.get("msg_id", ""), "enabled": s.vad_enabled, "sensitivity": s.vad_sensitivity}
        return self._reply("vad_status", status, now)

    @property
    def microphone(self) -> AudioFormat | None:
        return AudioFormat("lc3", 16000, AUDIO_FRAME_BYTES) if self._mic_on else None

    # -- what the wearer sees ------------------------------------------------------------------------------------

    def _draw(self, *drawn: Drawn) -> list[Effect]:
        """Put something on the lens: at once, or behind the next commit."""
        self._welcome = False
        if self.commit_needed:
            self._last_commit = len(self._staged) + len(drawn) <= QUEUE_MAX
            self._staged += drawn[: QUEUE_MAX - len(self._staged)]
            return []
        for one in drawn:
            self._place(one)
        return self._render()

    def _place(self, drawn: Drawn) -> None:
        if drawn.key[0] == "text":
            # One text is on the lens at a time, scrolling or not.
            self._shown = {key: d for key, d in self._shown.items() if key[0] != "text"}
        self._shown.pop(drawn.key, None)
        while len(self._shown) >= QUEUE_MAX:
            del self._shown[next(iter(self._shown))]
        if drawn.item is not None or drawn.shape is not None:
            self._shown[drawn.key] = drawn
        if self._scroll is not None and self._scroll.drawn.key not in self._shown:
            self._stop_scroll()

    def _commit(self, m: dict[str, Any], now: float) -> list[Effect]:
        if self.commit_needed:
            if m.get("clear_before"):
                self._shown.clear()
                self._stop_scroll()
            for drawn in self._staged:
                self._place(drawn)
            self._staged.clear()
        # Where drawings show at once, what should be cleared "before" cannot be told from what was just drawn.
        return self._render()

    def _clear(self, m: dict[str, Any], now: float) -> list[Effect]:
        self._wipe()
        return self._render()

    def _wipe(self) -> None:
        self._shown.clear()
        self._staged.clear()
        self._stop_scroll()
        self._overlay = None
        self._cancel_timer("overlay")
        self._welcome = False

    def _display_text(self, m: dict[str, Any], now: float) -> list[Effect]:
        text = m.get("text", "")
        if self._welcome and not text.strip() and not self._empty_text_ignored:
            self._empty_text_ignored = True  # the first empty text does not end the welcome screen
            return []
        return self._draw(_text_drawn(m, ("text",)))

    def _display_scrolling(self, m: dict[str, Any], now: float) -> list[Effect]:
        scroll = _scroll(m)
        self._stop_scroll()
        effects = self._draw(scroll.drawn)
        if m.get("speed", 0) > 0 and len(scroll.lines) > scroll.shown:
            self._scroll = scroll
            self._set_timer("scroll", now + scroll.pause + scroll.step, self._scroll_on)
        return effects

    def _scroll_on(self, now: float) -> list[Effect]:
        scroll = self._scroll
        assert scroll is not None
        scroll.first += 1
        if scroll.first > len(scroll.lines) - scroll.shown:
            scroll.first = 0
        at_end = scroll.first == len(scroll.lines) - scroll.shown
        if at_end and not scroll.loop:
            self._scroll = None
        else:
            pause = scroll.pause if at_end or scroll.first == 0 else 0.0
            self._set_timer("scroll", now + scroll.step + pause, self._scroll_on)
        if scroll.drawn.key in self._shown and isinstance(scroll.drawn.item, TextItem):
            visible = "\n".join(scroll.lines[scroll.first : scroll.first + scroll.shown])
            item = scroll.drawn.item
            moved = TextItem(visible, item.x, item.y, item.width, item.line_height, item.lines_max)
            self._shown[scroll.drawn.key] = Drawn(scroll.drawn.key, moved)
        return self._render()

    def _stop_scroll(self) -> None:
        self._scroll = None
        self._cancel_timer("scroll")

    def _draw_line(self, m: dict[str, Any], now: float) -> list[Effect]:
        return self._draw(_shape("line", m, ("x1", "y1", "x2", "y2")))

    def _draw_rect(self, m: dict[str, Any], now: float) -> list[Effect]:
        return self._draw(_shape("rect", m, ("x", "y", "width", "height")))

    def _draw_circle(self, m: dict[str, Any], now: float) -> list[Effect]:
        return self._draw(_shape("circle", m, ("x", "y", "radius")))

    def _display_batch(self, m: dict[str, Any], now: float) -> list[Effect]:
        return self._draw(*self._batch(m.get("commands", [])))

    def _batch(self, commands: list[dict[str, Any]]) -> list[Drawn]:
        drawn: list[Drawn] = []
        for command in commands[:QUEUE_MAX]:
            for kind, m in command.items():
                match kind:
                    case "text":
                        drawn.append(_text_drawn(m, ("batch text", m.get("x", 0), m.get("y", 0))))
                    case "scrolling_text":
                        drawn.append(_scroll(m, "batch text").drawn)
                    case "cached_image":
                        drawn += self._cached(m)
                    case "line":
                        drawn.append(_shape("line", m, ("x1", "y1", "x2", "y2")))
                    case "rect":
                        drawn.append(_shape("rect", m, ("x", "y", "width", "height")))
                    case "circle":
                        drawn.append(_shape("circle", m, ("x", "y", "radius")))
        return drawn

    def _queue_status(self, m: dict[str, Any], now: float) -> list[Effect]:
        size = sum(len(d.item.bits) if isinstance(d.item, PictureItem) else 32 for d in self._staged)
        info = {"queued_commands": len(self._staged), "queue_bytes": size, "max_queue_size": QUEUE_MAX}
        return self._reply("display_queue_info", {**info, "last_commit_success": self._last_commit}, now)

    def _render(self) -> list[Effect]:
        return self._show(self._arm, self._compose())

    def _compose(self) -> Screen:
        """The one place that decides between off, dashboard, drawings and welcome."""
        if (
            not self.settings.display_on
            or not self.battery
            or self._arm.state in (ArmState.DARK, ArmState.LEAVING)
        ):
            return BLANK
        if self._overlay is not None and self._overlay in self._dashboards:
            shown = {d.key: d for d in self._batch(self._dashboards[self._overlay])}
            return _screen("dashboard", list(shown.values()))
        if self._welcome:
            name = self._arm.spec.name
            item = TextItem(name, TEXT_X, TEXT_Y, PANEL.width - TEXT_X, TEXT_SIZE, 1)
            return Screen("welcome", name, (item,))
        return _screen("text", list(self._shown.values()))

    # -- pictures ------------------------------------------------------------------------------------------------

    def _display_image(self, m: dict[str, Any], now: float) -> list[Effect]:
        return self._expect_image(m, None, now)

    def _cache_image(self, m: dict[str, Any], now: float) -> list[Effect]:
        return self._expect_image(m, m.get("image_id", 0), now)

    def _expect_image(self, m: dict[str, Any], cache_as: int | None, now: float) -> list[Effect]:
        name, total = m.get("stream_id", ""), m.get("total_chunks", 0)
        number = _stream_number(name)
        if number is None or not 1 <= total <= CHUNKS_MAX:
            self._arm.counters.ignored_writes += 1
            return []
        self._images.pop(number, None)
        while len(self._images) >= IMAGES_MAX:
            oldest = next(iter(self._images))
            del self._images[oldest]
            self._cancel_timer(("image", oldest))
        x, y = m.get("x", 0), m.get("y", 0)
        self._images[number] = Incoming(name, total, x, y, cache_as, last=total - 1)
        self._await_chunk(number, now)
        return []

    def _await_chunk(self, number: int, now: float) -> None:
        self._set_timer(
            ("image", number), now + IMAGE_PATIENCE, lambda then: self._image_incomplete(number, then)
        )

    def _image_chunk(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        number = int.from_bytes(data[1:3], "big")
        image = self._images.get(number)
        if len(data) < 5 or image is None or data[3] >= image.total:
            arm.counters.ignored_writes += 1
            return []
        image.parts[data[3]] = data[4:]
        if len(image.parts) == image.total:
            return self._image_complete(number, image, now)
        if data[3] == image.last:
            return self._image_incomplete(number, now)
        self._await_chunk(number, now)
        return []

    def _image_complete(self, number: int, image: Incoming, now: float) -> list[Effect]:
        del self._images[number]
        self._cancel_timer(("image", number))
        body = b"".join(image.parts[i] for i in range(image.total))
        picture = read_bmp(body, image.x, image.y, PANEL.width, PANEL.height)
        if picture is None or self._take_failure(self._arm):
            # Our choice: whole but unreadable. Nothing is missing, so sending it again would not help.
            return self._reply(
                "image_transfer_complete", {"stream_id": image.name, "status": INCOMPLETE}, now
            )
        effects = self._reply("image_transfer_complete", {"stream_id": image.name, "status": OK}, now)
        if image.cache_as is not None:
            self._cache.pop(image.cache_as, None)
            while len(self._cache) >= IMAGE_CACHE_MAX:
                del self._cache[next(iter(self._cache))]
            self._cache[image.cache_as] = picture
            return effects
        return self._draw(Drawn(("image", image.x, image.y), picture)) + effects

    def _image_incomplete(self, number: int, now: float) -> list[Effect]:
        image = self._images[number]
        missing = [i for i in range(image.total) if i not in image.parts]
        image.rounds += 1
        image.last = missing[-1]
        if image.rounds >= IMAGE_ROUNDS_MAX:
            del self._images[number]
            self._cancel_timer(("image", number))
        else:
            self._await_chunk(number, now)
        # The list is cut to what one notification carries: up to two bytes a chunk, up to four in JSON.
        head, each = (100, 4) if self._speech is Speech.JSON else (18, 2)
        room = max(1, (self._arm.mtu - ATT_HEADER - head) // each)
        report = {"stream_id": image.name, "status": INCOMPLETE, "missing_chunks": missing[:room]}
        return self._reply("image_transfer_complete", report, now)

    def _cached(self, m: dict[str, Any]) -> list[Drawn]:
        picture = self._cache.get(m.get("image_id", 0))
        if picture is None:
            return []
        x, y = m.get("x", 0), m.get("y", 0)
        return [Drawn(("image", x, y), PictureItem(x, y, picture.width, picture.height, picture.bits))]

    def _display_cached(self, m: dict[str, Any], now: float) -> list[Effect]:
        return self._draw(*self._cached(m))

    def _clear_cached(self, m: dict[str, Any], now: float) -> list[Effect]:
        self._cache.pop(m.get("image_id", 0), None)
        return []

    # -- dashboards kept in the glasses --------------------------------------------------------------------------

    def _cache_dashboard(self, m: dict[str, Any], now: float) -> list[Effect]:
        number = m.get("dashboard_id", 0)
        self._dashboards.pop(number, None)
        while len(self._dashboards) >= DASHBOARDS_MAX:
            oldest = next(iter(self._dashboards))
            del self._dashboards[oldest]
            self._triggers.pop(oldest, None)
        self._dashboards[number] = m.get("batch", {}).get("commands", [])
        return self._render()

    def _clear_dashboard(self, m: dict[str, Any], now: float) -> list[Effect]:
        number = m.get("dashboard_id", 0)
        self._dashboards.pop(number, None)
        self._triggers.pop(number, None)
        return self._render()

    def _dashboard_trigger(self, m: dict[str, Any], now: float) -> list[Effect]:
        number = m.get("dashboard_id", 0)
        if number in self._dashboards:
            self._triggers[number] = (m.get("trigger", 0), m.get("duration_ms", 0))
        return []

    def _triggered(self, trigger: int, source: int, now: float) -> list[Effect]:
        for number, (wanted, duration_ms) in self._triggers.items():
            if wanted == trigger:
                self._overlay = number
                self._cancel_timer("overlay")
                if duration_ms:
                    self._set_timer("overlay", now + duration_ms / 1000, self._end_overlay)
                shown = {"dashboard_id": number, "source": source}
                return self._render() + self._tell("dashboard_shown", shown, now)
        return []

    def _end_overlay(self, now: float) -> list[Effect]:
        self._overlay = None
        self._cancel_timer("overlay")
        return self._render()

    # -- people --------------------------------------------------------------------------------------------------

    def user(self, what: UserInput, now: float) -> list[Effect]:
        """Buttons (`side` left, right or None for the centre one), head, battery.

        Values: BATTERY 0 to 100; CHARGE bool (default True).
        """
        if what.side is not None and (what.action is not Action.PRESS or what.side not in BUTTONS):
            raise NoTaker(f"Mentra Nex has no {what.side} {what.action.value}: only its buttons have sides")
        match what.action:
            case Action.PRESS:
                self._heard("button")
                button = BUTTONS.index(what.side or "center")
                effects = self._tell("button_event", {"button": button, "state": DOWN}, now)
                effects += self._tell("button_event", {"button": button, "state": UP}, now)
                return effects + (self._triggered(TRIGGER_BUTTON, SOURCE_BUTTON, now) if button == 0 else [])
            case Action.LOOK_UP:
                return self._look(self.settings.head_up_angle + 10, HEAD_UP, TRIGGER_HEAD_UP, now)
            case Action.LOOK_DOWN:
                return self._look(0, HEAD_DOWN, TRIGGER_HEAD_DOWN, now)
            case Action.BATTERY:
                value = what.value
                if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 100:
                    raise NoTaker(f"battery takes a number from 0 to 100, not {value!r}")
                return self._set_battery(int(value), now)
            case Action.CHARGE:
                if what.value not in (None, True, False, "on", "off"):
                    raise NoTaker(f"charge takes true or false (or on, off), not {what.value!r}")
                self.charging = what.value in (None, True, "on")
                return self._tell("charging_state", {"state": int(self.charging)}, now)
        raise NoTaker(f"Mentra Nex has no sensor for {what.action.value}: use press, look_up or look_down")

    def _heard(self, what: str) -> None:
        arm = self._arm
        if arm.state is not ArmState.CONNECTED:
            raise NoTaker(f"the glasses are {arm.state.value}, not connected: nobody would hear the {what}")
        if FROM_GLASSES not in arm.subscribed:
            raise NoTaker(
                f"the glasses are connected but their notifications are off: nobody would hear the {what}"
            )

    def _look(self, angle: int, gesture: int, trigger: int, now: float) -> list[Effect]:
        self.head_angle = angle
        effects = self._end_overlay(now) if gesture == HEAD_DOWN and self._overlay is not None else []
        if gesture not in self._quiet_gestures:
            effects += self._tell("head_gesture", {"gesture": gesture}, now)
        return effects + self._triggered(trigger, SOURCE_GESTURE, now)

    def _set_battery(self, percent: int, now: float) -> list[Effect]:
        was_empty = self.battery == 0
        self.battery = percent
        effects = self._tell("battery_status", self._battery_fields(), now)
        if percent == 0:
            effects += self._sleep(self._arm, now)
        elif was_empty:
            effects += self._wake(self._arm, now)
        return effects + self._render()

    def snapshot(self) -> dict[str, Any]:
        return {
            "battery": self.battery,
            "charging": self.charging,
            "speech": self._speech.value,
            "display_on": self.settings.display_on,
            "brightness": self.settings.brightness,
            "auto_brightness": self.settings.auto_brightness,
            "head_angle": self.head_angle,
            "head_up_angle": self.settings.head_up_angle,
            "position": [self.settings.height, self.settings.distance_cm],
            "pictures_cached": len(self._cache),
            "voice": self._voice,
        }


def _read(body: bytes) -> dict[str, Any] | None:
    """One message of the schema, or None.

    A fragment header read as protobuf gives itself away: by a field that is not in the schema, by a second command in
    one message (a oneof has one), or by an id that is not printable.
    """
    try:
        numbers = field_numbers(body)
        fields = decode(PHONE_TO_GLASSES, body)
    except DecodeError:
        return None
    commands = [number for number in numbers if number != 1]
    if len(commands) != 1 or commands[0] not in PHONE_TO_GLASSES.by_number:
        return None
    return fields if fields.get("msg_id", "").isprintable() else None


def _stream_number(name: str) -> int | None:
    """The two id bytes of "002A"."""
    try:
        number = int(name, 16) if len(name) == 4 else -1
    except ValueError:
        return None
    return number if number >= 0 else None


def _line_height(m: dict[str, Any]) -> int:
    size = m.get("size", 0) or TEXT_SIZE
    return min(size * TEXT_SCALE if size < 8 else size, PANEL.height)


def _text_drawn(m: dict[str, Any], key: tuple[Any, ...]) -> Drawn:
    text = m.get("text", "").rstrip("\n")
    if not text.strip():
        return Drawn(key, None)
    x, y = min(m.get("x", 0), PANEL.width), min(m.get("y", 0) + TEXT_Y_SHIFT, PANEL.height)
    height = _line_height(m)
    return Drawn(key, TextItem(text, x, y, PANEL.width - x, height, (PANEL.height - y) // height))


def _scroll(m: dict[str, Any], kind: str = "text") -> Scroll:
    lines = m.get("text", "").split("\n")[:SCROLL_LINES_MAX]
    x, y = min(m.get("x", 0), PANEL.width), min(m.get("y", 0), PANEL.height)
    width = min(m.get("width", 0) or PANEL.width, PANEL.width - x)
    height = min(m.get("height", 0) or PANEL.height, PANEL.height - y)
    pitch = _line_height(m) + min(m.get("line_spacing", 0), PANEL.height)
    shown = max(1, height // pitch)
    item = TextItem("\n".join(lines[:shown]), x, y, width, pitch, shown) if any(lines) else None
    step = max(SCROLL_STEP_MIN, pitch / max(m.get("speed", 0), 1))
    pause = min(m.get("pause_ms", 0), 60_000) / 1000
    drawn = Drawn((kind, x, y), item)
    return Scroll(lines, shown, step, pause, m.get("loop", False), drawn)


def _shape(kind: str, m: dict[str, Any], names: tuple[str, ...]) -> Drawn:
    numbers = (*(m.get(name, 0) for name in names), m.get("stroke", 0) or 1)
    return Drawn((kind, *numbers), None, (kind, numbers))


def _screen(kind: str, drawn: list[Drawn]) -> Screen:
    items: list[TextItem | PictureItem] = []
    canvas: Canvas | None = None
    for one in drawn:
        if one.item is not None:
            items.append(one.item)
        if one.shape is not None:
            canvas = canvas or Canvas(PANEL.width, PANEL.height)
            match one.shape:
                case "line", numbers:
                    canvas.line(*numbers)
                case "rect", numbers:
                    canvas.rectangle(*numbers)
                case "circle", numbers:
                    canvas.circle(*numbers)
    if canvas is not None:
        items.append(canvas.picture())
    if not items:
        return BLANK
    text = "\n".join(item.text for item in items if isinstance(item, TextItem))
    if not text and kind == "text":
        kind = "bitmap"
    return Screen(kind, text, tuple(items))


_Handler = Callable[[MentraNex, dict[str, Any], float], list[Effect]]

_COMMANDS: dict[str, _Handler] = {
    "disconnect": MentraNex._disconnect,
    "battery_state": MentraNex._battery_state,
    "glasses_info": MentraNex._glasses_info,
    "pairing_mode": MentraNex._nothing,
    "head_position": MentraNex._head_position,
    "head_up_angle": MentraNex._set_head_up_angle,
    "pong": MentraNex._pong,
    "mic_state": MentraNex._mic_state,
    "set_vad_enabled": MentraNex._vad_enable,
    "set_vad_config": MentraNex._vad_configure,
    "request_vad_status": MentraNex._vad_status,
    "display_text": MentraNex._display_text,
    "display_image": MentraNex._display_image,
    "cache_image": MentraNex._cache_image,
    "display_cached_image": MentraNex._display_cached,
    "clear_cached_image": MentraNex._clear_cached,
    "display_scrolling_text": MentraNex._display_scrolling,
    "display_power": MentraNex._set_power,
    "brightness": MentraNex._set_brightness,
    "auto_brightness": MentraNex._set_auto_brightness,
    "auto_brightness_mult": MentraNex._set_multiplier,
    "draw_line": MentraNex._draw_line,
    "draw_rect": MentraNex._draw_rect,
    "draw_circle": MentraNex._draw_circle,
    "commit": MentraNex._commit,
    "display_distance": MentraNex._set_distance,
    "display_height": MentraNex._set_height,
    "clear_display": MentraNex._clear,
    "cache_dashboard": MentraNex._cache_dashboard,
    "clear_dashboard": MentraNex._clear_dashboard,
    "dashboard_trigger": MentraNex._dashboard_trigger,
    "queue_status_request": MentraNex._queue_status,
    "display_batch": MentraNex._display_batch,
    "imu_enabled": MentraNex._imu_enabled,
    "imu_single": MentraNex._imu_single,
    "imu_stream": MentraNex._imu_stream,
    "head_gesture": MentraNex._head_gesture,
    "restart": MentraNex._restart,
    "factory_reset": MentraNex._factory_reset,
    "version_request": MentraNex._version,
}
