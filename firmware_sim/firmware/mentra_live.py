"""Mentra Live: a Bluetooth chip and an Android side behind one GATT service, camera, microphone, no display.

Rules of this file:

- `_CHIP` and `_ANDROID` are the whole command tables. The chip answers at once; the Android side must have booted.
- What differs between firmware generations stands in one `Build`; what fails in the field stands in `Quirks`.
- A packet never raises: what cannot be read is ignored and counted. Where no public source shows an answer the
  comment says "our choice".
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from firmware_sim.firmware import k900
from firmware_sim.firmware.base import (
    ATT_HEADER,
    Action,
    Arm,
    ArmState,
    AudioFormat,
    AudioSource,
    CharacteristicSpec,
    DisplaySpec,
    Effect,
    Firmware,
    Identity,
    InvalidTransition,
    LogEntry,
    Microphone,
    NoTaker,
    PeripheralSpec,
    ServiceSpec,
    UserInput,
)
from firmware_sim.firmware.k900 import ByteOrder
from firmware_sim.firmware.picture import GreenCard, PictureSource

MAIN = "main"

SERVICE = "00004860-0000-1000-8000-00805f9b34fb"
TO_GLASSES = "000071ff-0000-1000-8000-00805f9b34fb"
FROM_GLASSES = "000070ff-0000-1000-8000-00805f9b34fb"
FILES = "000072ff-0000-1000-8000-00805f9b34fb"
FILES_TO_GLASSES = "000073ff-0000-1000-8000-00805f9b34fb"
AUDIO = "6e400002-b5a3-f393-e0a9-e50e24dcca9e"
SPEAKER = "6e400003-b5a3-f393-e0a9-e50e24dcca9e"

COMPANY_ID = bytes.fromhex("22b8")
"""B822, little-endian as it stands in the advertisement."""

MTU_MAX = 512
WRITE_MAX = 253
"""Longest write that the chip takes before wire v2 is agreed; longer ones are lost, as in the field."""

BOOT_TIME = 4.0
"""Seconds until the Android side is up; the real time is not established."""
BOOT_BATTERY_MIN = 20
"""Percent at or below which the Android side does not boot unless it charges (drivers read it that way)."""
LAST_WORDS = 0.5
"""Seconds between "shutting down" and the end of the link (our choice)."""
HASTY = 0.020
"""Two writes closer together than this may cost the second one, see `Quirks`."""

ACK_TIMEOUT = 2.0
ACK_TIMEOUT_CHUNKED = 2.0
ACK_TIMEOUT_PER_CHUNK = 0.05
TRIES_MAX = 4
"""A message and three repeats."""
UNACKNOWLEDGED_MAX = 16
"""Messages waiting for the host's acknowledgement: more than a wearer can cause in the 8 s they live."""
SEEN_MAX = 64
"""Message ids remembered against repeats; a host repeats within 10 s and sends at most six messages a second."""
CHUNK_GAP = 0.05

AUDIO_FRAMES = 10
AUDIO_FRAME_BYTES = 40
AUDIO_PERIOD = 0.1

CAPTURE_TIME = 1.5
COMPRESSION_MS = 450
PACKET_GAP = 0.025
PACK_CLASSIC, PACK_DYNAMIC = 400, 470
TRANSFER_PATIENCE = 30.0
"""Seconds without a word of the host after which a transfer is given up and its memory freed."""
ROUNDS_MAX = 5
"""Repairs and restarts of one transfer; hosts give up after three."""
PICTURE_MAX = 0xFFFF * 64
"""Bytes of one picture: the packet index is 16 bits, and the smallest useful pack 64 bytes."""
PICTURE_SIZES = {"small": (240, 180), "medium": (480, 360), "large": (960, 720)}

STREAM_PATIENCE = 60.0
"""Seconds without keep-alive after which a video stream ends by itself."""
STREAM_START = 1.0
WIFI_TIME = 2.0

GATT = ServiceSpec(
    SERVICE,
    (
        CharacteristicSpec(TO_GLASSES, write=True, write_without_response=True),
        CharacteristicSpec(FROM_GLASSES, notify=True),
        CharacteristicSpec(FILES, notify=True),
        CharacteristicSpec(FILES_TO_GLASSES, write=True, write_without_response=True),
        CharacteristicSpec(AUDIO, notify=True),
        CharacteristicSpec(SPEAKER, write=True, write_without_response=True),
    ),
)


@dataclass(frozen=True, slots=True)
class Build:
    """One firmware generation."""

    name: str
    order: ByteOrder
    """Of the lengths the glasses send; they read both."""
    build_number: int
    """Below 5 nothing is acknowledged."""
    session_ids: bool = False
    split_version: bool = False
    chunk_over: int = 400
    """Frames longer than this leave as a chunked message."""
    verbose_chunks: bool = True
    reliable: bool = False
    """Important messages of the glasses carry an id and are repeated until the host acknowledges."""
    file_flags: int = 0
    pack_max: int = PACK_CLASSIC
    inflated_size: bool = True
    """The chip cuts at 400 whatever it says: a file in smaller packs is announced as packs * 400 bytes."""
    files: str = FILES
    old_audio: bool = False
    """A0 and frames on the reply characteristic."""
    wire_v2: bool = False


OLDEST = Build("XyBLE_", "big", 4, files=FROM_GLASSES, old_audio=True)
CLASSIC = Build("XyBLE_", "big", 5)
NEWEST = Build(
    "Xy_A",
    "little",
    31,
    session_ids=True,
    split_version=True,
    chunk_over=200,
    verbose_chunks=False,
    reliable=True,
    file_flags=0b11,
    pack_max=PACK_DYNAMIC,
    inflated_size=False,
    wire_v2=True,
)


@dataclass(slots=True)
class Quirks:
    """Failures that users of real units report; all off by default."""

    lose_hasty_writes: bool = False
    lose_microphone_commands: int = 0
    """How many of the next microphone switches are lost without a sign (MentraOS issue 2072)."""
    microphone_survives_loss: bool = False
    """The microphone stays on when the link goes (MentraOS issue 2247)."""
    skip_packets: set[int] = field(default_factory=set)
    """File packets lost once."""
    wrong_pack_size: bool = False
    """File headers whose size does not fit their data (MentraOS issue 3701)."""


class Soc(enum.Enum):
    """The Android side."""

    OFF = "off"
    BOOTING = "booting"
    READY = "ready"


SOC_TRANSITIONS: dict[Soc, frozenset[Soc]] = {
    Soc.OFF: frozenset({Soc.BOOTING}),
    Soc.BOOTING: frozenset({Soc.READY, Soc.OFF}),
    Soc.READY: frozenset({Soc.OFF}),
}


@dataclass(slots=True)
class Unacknowledged:
    frames: list[bytes]
    tries: int


@dataclass(slots=True)
class Photo:
    """The one photo that is taken or sent; it is forgotten when the host has it, gives up or goes."""

    request_id: str
    image_id: str
    size: tuple[int, int]
    name: str = ""
    packs: list[bytes] = field(default_factory=list)
    file_size: int = 0
    queue: deque[int] = field(default_factory=deque)
    rounds: int = 0


@dataclass(slots=True)
class Stream:
    stream_id: str
    status_type: str
    live: bool = False


def peripherals(build: Build, address: str, number: int = 1) -> tuple[PeripheralSpec, ...]:
    """The advertisement of one unit; `number` 0 to 65535 becomes the pairing code of a secure unit."""
    manufacturer = b""
    if build.name == NEWEST.name:
        flag, version, capabilities = 1, 2, 0
        code = number.to_bytes(2, "little")
        manufacturer = COMPANY_ID + bytes(5) + bytes([flag, version, capabilities]) + code + b"MP"
    name = build.name + (address.replace(":", "")[-4:] if build.name.endswith("_") else "")
    return (
        PeripheralSpec(
            arm=MAIN,
            name=name,
            address=address,
            services=(GATT,),
            mtu_max=MTU_MAX,
            manufacturer_data=manufacturer,
        ),
    )


def build(
    identity: Identity,
    *,
    chance: Callable[[], float],
    audio: AudioSource,
    pictures: PictureSource | None = None,
) -> MentraLive:
    """A unit for a room, of the newest firmware."""
    specs = peripherals(NEWEST, identity.addresses[0], identity.serial_number & 0xFFFF)
    return MentraLive(specs, chance=chance, audio=audio, pictures=pictures)


class MentraLive(Firmware):
    """One Mentra Live."""

    model: ClassVar[str] = "live"
    display: ClassVar[DisplaySpec | None] = None

    def __init__(
        self,
        specs: tuple[PeripheralSpec, ...],
        *,
        chance: Callable[[], float],
        audio: AudioSource | None = None,
        pictures: PictureSource | None = None,
        build: Build = NEWEST,
        battery: int = 85,
        boot_time: float = BOOT_TIME,
        networks: dict[str, str] | None = None,
    ) -> None:
        """`networks` are the Wi-Fi networks in reach, name to password."""
        super().__init__(specs, chance=chance, audio=audio)
        self.pictures: PictureSource = pictures or GreenCard()
        self.build = build
        self.quirks = Quirks()
        self.battery = battery
        self.charging = False
        self.soc = Soc.OFF
        self.boot_time = boot_time
        self.networks = {"Home": "correct horse", "Cafe": ""} if networks is None else networks
        self.ssid = ""
        self.hotspot = False
        self.photo_mode = "photo"
        self.photos_saved = 0
        self.videos_saved = 0
        self.photo: Photo | None = None
        self.recording = ""
        self.stream: Stream | None = None
        self.speaker_bytes = 0
        self.files_received: dict[str, int] = {}
        self._epoch_ms = 1_735_689_600_000.0
        """Wall clock when `now` is 0; unset (2025-01-01) until the host tells the time."""
        self._session = 0
        self._mic_on = False
        self._mic_seq = 0
        self._vad = False
        self._reader = k900.FrameReader()
        self._chunks = k900.Chunks()
        self._fragments: dict[int, dict[int, bytes]] = {}
        self._v2 = False
        self._packet_mtu: int | None = None
        self._last_write = -1.0
        self._seen: deque[int] = deque(maxlen=SEEN_MAX)
        self._unacknowledged: dict[int, Unacknowledged] = {}
        self._message_id = int(chance() * 2**48) + 1
        self._message_number = 0

    @property
    def _arm(self) -> Arm:
        return self.arms[MAIN]

    # -- power ---------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        return super().start(now) + self._boot(now)

    def _soc_move(self, to: Soc) -> None:
        if to not in SOC_TRANSITIONS[self.soc]:
            raise InvalidTransition(f"Android side: {self.soc.value} to {to.value}")
        self.soc = to

    def _boot(self, now: float) -> list[Effect]:
        if self.soc is not Soc.OFF or (self.battery <= BOOT_BATTERY_MIN and not self.charging):
            return []
        self._soc_move(Soc.BOOTING)
        self._set_timer("boot", now + self.boot_time, self._booted)
        return self._forget_android()

    def _booted(self, now: float) -> list[Effect]:
        self._soc_move(Soc.READY)
        self._session += 1
        return []

    def _forget_android(self) -> list[Effect]:
        """What the Android side loses when it restarts or stops."""
        for number in self._unacknowledged:
            self._cancel_timer(("repeat", number))
        self._unacknowledged.clear()
        self._seen.clear()
        self._chunks.clear()
        self._fragments.clear()
        self.recording, self.hotspot, self.ssid = "", False, ""
        self._drop_photo()
        self._drop_stream()
        self._cancel_timer("wifi")
        return self._microphone_off()

    def _shut_down(self, now: float) -> list[Effect]:
        if self._arm.state in (ArmState.DARK, ArmState.LEAVING) or self._has_timer("dark"):
            return []
        effects = self._forget_android()
        self._cancel_timer("boot")
        if self.soc is not Soc.OFF:
            self._soc_move(Soc.OFF)
        self._set_timer("dark", now + LAST_WORDS, lambda then: self._sleep(self._arm, then))
        return effects + self._chip("sr_shut", {}, now, answer=False)

    # -- links ---------------------------------------------------------------------------------------------------

    def _on_connected(self, arm: Arm, now: float) -> list[Effect]:
        self._reader.clear()
        self._chunks.clear()
        self._fragments.clear()
        self._v2, self._packet_mtu, self._last_write = False, None, -1.0
        return []

    def _on_lost(self, arm: Arm, now: float) -> list[Effect]:
        # Half a file is of no use to the next link, and nobody is left to acknowledge.
        self._drop_photo()
        for number in self._unacknowledged:
            self._cancel_timer(("repeat", number))
        self._unacknowledged.clear()
        return [] if self.quirks.microphone_survives_loss else self._microphone_off()

    # -- writes --------------------------------------------------------------------------------------------------

    def _on_write(self, arm: Arm, characteristic: str, data: bytes, now: float) -> list[Effect]:
        if characteristic == SPEAKER:
            self.speaker_bytes += len(data)
            return []
        hasty = now - self._last_write < HASTY
        self._last_write = now
        if (hasty and self.quirks.lose_hasty_writes) or (len(data) > WRITE_MAX and not self._v2):
            arm.counters.ignored_writes += 1
            return []
        if characteristic == FILES_TO_GLASSES:
            return self._file_received(arm, data, now)
        frames = self._reader.feed(data)
        return [effect for frame in frames for effect in self._frame(arm, frame, now)]

    def _frame(self, arm: Arm, frame: k900.Frame, now: float) -> list[Effect]:
        if frame.kind == k900.FRAGMENT_TYPE and self.build.wire_v2:
            return self._fragment(arm, frame.payload, now)
        wrapped = k900.unwrap(frame.payload) if frame.kind == k900.JSON_TYPE else None
        match wrapped:
            case k900.Command(name, body):
                handler = _CHIP.get(name)
                if handler is None:
                    return self._unknown(arm, frame.payload, now)
                return handler(self, arm, body, now)
            case k900.Message(fields, wake):
                return self._android(arm, fields, wake, now)
            case _:
                arm.counters.ignored_writes += 1
                return []

    def _unknown(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        arm.counters.unknown_commands += 1
        self.log.append(LogEntry(now, arm.name, "unknown", data))
        return []

    def _fragment(self, arm: Arm, payload: bytes, now: float) -> list[Effect]:
        fragment = k900.read_fragment(payload)
        if fragment is None:
            arm.counters.ignored_writes += 1
            return []
        if fragment.flags & k900.HANDSHAKE:
            self._v2 = True
            return self._send([fragment.frame()], now)
        if not self._v2:
            arm.counters.ignored_writes += 1
            return []
        parts = self._fragments.setdefault(fragment.message_id, {})
        parts[fragment.index] = fragment.payload
        if len(parts) < fragment.count:
            while len(self._fragments) > k900.CHUNK_SESSIONS_MAX:
                del self._fragments[next(iter(self._fragments))]
            return []
        del self._fragments[fragment.message_id]
        fields = k900.read_object(b"".join(parts[i] for i in sorted(parts)))
        if fields is None:
            arm.counters.ignored_writes += 1
            return []
        fields = {k900.LONG_KEYS.get(key, key): value for key, value in fields.items()}
        return self._android(arm, fields, bool(fragment.flags & k900.WAKE), now)

    def _android(self, arm: Arm, fields: dict[str, Any], wake: bool, now: float) -> list[Effect]:
        """A message for the Android side: lost while that is not up, acknowledged once per copy, done once."""
        if self.soc is not Soc.READY:
            arm.counters.ignored_writes += 1
            return self._boot(now) if wake and self.soc is Soc.OFF else []
        number = fields.get("mId")
        if k900.is_chunk(fields):
            joined = self._chunks.add(fields, now)
            if joined is None:
                return []
            text, number = joined
            whole = k900.read_object(text)
            if whole is None:
                arm.counters.ignored_writes += 1
                return []
            fields, number = whole, whole.get("mId", number)
        kind = fields.get("type")
        effects: list[Effect] = []
        if isinstance(number, int) and not isinstance(number, bool) and kind not in ("msg_ack", "ping"):
            if self.build.build_number >= 5:
                effects = self._say({"type": "msg_ack", "mId": number, "timestamp": self._clock(now)}, now)
            if number in self._seen:
                return effects
            self._seen.append(number)
        if not isinstance(kind, str):
            arm.counters.ignored_writes += 1
            return effects
        handler = _ANDROID.get(kind)
        if handler is not None:
            return effects + handler(self, fields, now)
        if not kind.startswith(_TAKEN_SILENTLY):
            self._unknown(arm, k900.json_bytes(fields), now)
        return effects

    # -- saying things -------------------------------------------------------------------------------------------

    def _clock(self, now: float) -> int:
        """Wall clock in milliseconds, as far as the host has told it."""
        return round(self._epoch_ms + now * 1000)

    def _set_clock(self, fields: dict[str, Any], now: float) -> None:
        told = fields.get("timestamp")
        if isinstance(told, int | float) and not isinstance(told, bool) and 0 < told < 2**53:
            self._epoch_ms = told - now * 1000

    def _send(
        self, frames: list[bytes], now: float, *, answer: bool = True, gap: float = 0.0
    ) -> list[Effect]:
        """Frames in order, each cut to the MTU; at once when there is only one packet and it is no answer."""
        arm = self._arm
        room = arm.mtu - ATT_HEADER
        packets = [frame[i : i + room] for frame in frames for i in range(0, len(frame), room)]
        if not answer and len(packets) == 1:
            return self._notify(arm, FROM_GLASSES, packets[0], now)
        effects: list[Effect] = []
        for number, packet in enumerate(packets):
            if number:
                arm.last_due = max(arm.last_due, now) + gap
            effects += self._answer(arm, FROM_GLASSES, packet, now)
        return effects

    def _chip(self, name: str, body: Any, now: float, *, answer: bool = True) -> list[Effect]:
        return self._send([k900.command_frame(name, body, self.build.order)], now, answer=answer)

    def _say(
        self, fields: dict[str, Any], now: float, *, answer: bool = True, reliable: bool = False
    ) -> list[Effect]:
        """A message of the Android side. A reliable one is repeated until the host acknowledges it."""
        number = None
        if reliable and self.build.reliable:
            self._message_id += 1
            number = self._message_id
            fields = {**fields, "mId": number}
        frames = self._wrapped(fields, now)
        if number is not None:
            while len(self._unacknowledged) >= UNACKNOWLEDGED_MAX:
                oldest = next(iter(self._unacknowledged))
                self._cancel_timer(("repeat", oldest))
                del self._unacknowledged[oldest]
            self._unacknowledged[number] = Unacknowledged(frames, 1)
            self._expect_ack(number, len(frames), now)
        return self._send(frames, now, answer=answer, gap=CHUNK_GAP if len(frames) > 1 else 0.0)

    def _wrapped(self, fields: dict[str, Any], now: float) -> list[bytes]:
        if self._v2:
            short = {k900.SHORT_KEYS.get(key, key): value for key, value in fields.items()}
            overhead = ATT_HEADER + k900.FRAME_OVERHEAD + k900.FRAGMENT_HEADER.size
            size = max(1, min(k900.FRAGMENT_DATA_MAX, self._arm.mtu - overhead))
            self._message_number += 1
            cut = k900.fragments(self._message_number, k900.json_bytes(short), size)
            return [fragment.frame() for fragment in cut]
        text = k900.json_bytes(fields).decode()
        whole = k900.message_frame(text, self.build.order)
        if len(whole) <= self.build.chunk_over:
            return [whole]
        key = f"{fields.get('mId', 0)}_{self._clock(now)}"
        parts = k900.pieces(text)
        frames = []
        for index, part in enumerate(parts):
            if self.build.verbose_chunks:
                piece = {
                    "type": "chunked_msg",
                    "chunkId": key,
                    "chunk": index,
                    "total": len(parts),
                    "data": part,
                }
            else:
                piece = {"t": "ck", "id": key, "c": index, "n": len(parts), "d": part}
            if index == len(parts) - 1 and "mId" in fields:
                piece["mId"] = fields["mId"]
            frames.append(k900.message_frame(k900.json_bytes(piece).decode(), self.build.order))
        return frames

    def _expect_ack(self, number: int, frames: int, now: float) -> None:
        patience = ACK_TIMEOUT
        if frames > 1:
            patience += ACK_TIMEOUT_CHUNKED + ACK_TIMEOUT_PER_CHUNK * frames
        self._set_timer(("repeat", number), now + patience, lambda then: self._repeat(number, then))

    def _repeat(self, number: int, now: float) -> list[Effect]:
        waiting = self._unacknowledged[number]
        if waiting.tries >= TRIES_MAX:
            del self._unacknowledged[number]
            return []
        waiting.tries += 1
        self._expect_ack(number, len(waiting.frames), now)
        return self._send(waiting.frames, now, answer=False, gap=CHUNK_GAP)

    # -- the Bluetooth chip --------------------------------------------------------------------------------------

    def _heartbeat(self, arm: Arm, body: Any, now: float) -> list[Effect]:
        ready = int(self.soc is Soc.READY)
        return self._chip("sr_hrt", {"pt": self.battery, "ready": ready, "charg": int(self.charging)}, now)

    def _battery(self, arm: Arm, body: Any, now: float) -> list[Effect]:
        return self._chip("sr_batv", self._battery_body(), now)

    def _battery_body(self) -> dict[str, int]:
        return {"vt": 3300 + 9 * self.battery, "pt": self.battery}

    def _custom_audio(self, arm: Arm, body: Any, now: float) -> list[Effect]:
        if self.quirks.lose_microphone_commands > 0:
            self.quirks.lose_microphone_commands -= 1
            return []
        # The body is JSON text; an object is taken as well.
        wanted = k900.read_object(body) if isinstance(body, str) else body
        match wanted:
            case {"enable": bool(on)}:
                return self._microphone_on(now) if on else self._microphone_off()
        arm.counters.ignored_writes += 1
        return []

    def _shut_command(self, arm: Arm, body: Any, now: float) -> list[Effect]:
        return self._shut_down(now)

    def _file_acknowledged(self, arm: Arm, body: Any, now: float) -> list[Effect]:
        match body, self.photo:
            case {"state": 0, "index": int(index)}, Photo() as photo if 0 <= index < len(photo.packs):
                return self._resend(photo, [index], now)
        return []  # a good acknowledgement changes nothing: packets are paced, not windowed

    def _file_received(self, arm: Arm, data: bytes, now: float) -> list[Effect]:
        packet = k900.read_file_packet(data)
        if packet is None:
            arm.counters.ignored_writes += 1
            return self._chip("cs_flts", {"state": 0, "index": 0}, now)
        expected = self.files_received.get(packet.name, 0)
        if packet.index == 0:
            expected = 0
        if packet.index != expected:
            return self._chip("cs_flts", {"state": 0, "index": expected}, now)
        if len(self.files_received) >= 16:  # names only; the newest are enough to judge a sender
            del self.files_received[next(iter(self.files_received))]
        self.files_received[packet.name] = expected + 1
        return self._chip("cs_flts", {"state": 1, "index": expected + 1}, now)

    def _taken(self, arm: Arm, body: Any, now: float) -> list[Effect]:
        return []  # known, without an effect that this simulator shows

    # -- microphone ----------------------------------------------------------------------------------------------

    def _microphone_on(self, now: float) -> list[Effect]:
        if self._mic_on:
            return []
        self._mic_on, self._mic_seq = True, 0
        self._set_timer("mic", now + AUDIO_PERIOD, self._stream_audio)
        return [Microphone(True)]

    def _microphone_off(self) -> list[Effect]:
        if not self._mic_on:
            return []
        self._mic_on = False
        self._cancel_timer("mic")
        return [Microphone(False)]

    def _stream_audio(self, now: float, due: float | None = None) -> list[Effect]:
        arm = self._arm
        head = b"\xa0" if self.build.old_audio else bytes([0xF1, self._mic_seq])
        room = (arm.mtu - ATT_HEADER - len(head)) // AUDIO_FRAME_BYTES
        count = min(AUDIO_FRAMES, room)
        # From the planned time, not from `now`: a late timer must not slow the stream down. A shell that slept for
        # long skips ahead instead of sending a burst.
        planned = now if due is None or now - due > 5 * AUDIO_PERIOD else due
        following = planned + (count * AUDIO_PERIOD / AUDIO_FRAMES if count > 0 else AUDIO_PERIOD)
        self._set_timer("mic", following, lambda then: self._stream_audio(then, following))
        if count <= 0 or arm.state is not ArmState.CONNECTED:
            return []
        frames = self.audio.lc3(AUDIO_FRAME_BYTES, count)
        if self._vad and all(not any(frame[:-8]) for frame in frames):
            return []  # the chip sends nothing while it hears nothing
        self._mic_seq = (self._mic_seq + 1) & 0xFF
        return self._notify(
            arm, FROM_GLASSES if self.build.old_audio else AUDIO, head + b"".join(frames), now
        )

    @property
    def microphone(self) -> AudioFormat | None:
        return AudioFormat("lc3", 16000, AUDIO_FRAME_BYTES) if self._mic_on else None

    # -- the Android side: session -------------------------------------------------------------------------------

    def _phone_ready(self, m: dict[str, Any], now: float) -> list[Effect]:
        self._set_clock(m, now)
        ready: dict[str, Any] = {"type": "glasses_ready", "timestamp": self._clock(now)}
        if self.build.session_ids:
            ready["sid"] = f"boot-{self._session}"
        return self._say(ready, now)

    def _ping(self, m: dict[str, Any], now: float) -> list[Effect]:
        return self._say({"type": "pong"}, now)

    def _msg_ack(self, m: dict[str, Any], now: float) -> list[Effect]:
        number = m.get("mId")
        if isinstance(number, int) and self._unacknowledged.pop(number, None) is not None:
            self._cancel_timer(("repeat", number))
        return []

    def _auth_token(self, m: dict[str, Any], now: float) -> list[Effect]:
        good = isinstance(m.get("coreToken"), str) and m["coreToken"] != ""
        success = good and not self._take_failure(self._arm)
        return self._say({"type": "token_status", "success": success, "timestamp": self._clock(now)}, now)

    def _version(self, m: dict[str, Any], now: float) -> list[Effect]:
        first = {"app_version": "1.5.0", "build_number": str(self.build.build_number)}
        second = {"device_model": "MentraLive", "android_version": "11"}
        third = {"bt_mac_address": self._arm.spec.address, "firmware_version": "17.26.7.6"}
        if not self.build.split_version:
            return self._say({"type": "version_info", **first, **second, **third}, now)
        parts = (first, second, third)
        effects: list[Effect] = []
        for index, part in enumerate(parts, 1):
            head = {"type": f"version_info_{index}", "sid": f"boot-{self._session}", "chunkCount": len(parts)}
            effects += self._say({**head, **part}, now)
        return effects

    def _battery_state(self, m: dict[str, Any], now: float) -> list[Effect]:
        status = {"type": "battery_status", "percent": self.battery, "charging": self.charging}
        return self._say(status, now)

    def _reboot(self, m: dict[str, Any], now: float) -> list[Effect]:
        # The Bluetooth link stays: a host must watch `ready` and the session id.
        self._soc_move(Soc.OFF)
        return self._forget_android() + self._boot(now)

    def _shutdown(self, m: dict[str, Any], now: float) -> list[Effect]:
        return self._shut_down(now)

    def _system_time(self, m: dict[str, Any], now: float) -> list[Effect]:
        self._set_clock(m, now)
        return []

    def _packet_size(self, m: dict[str, Any], now: float) -> list[Effect]:
        mtu = m.get("mtu")
        if isinstance(mtu, int) and not isinstance(mtu, bool) and 23 <= mtu <= 1024:
            self._packet_mtu = mtu
        return []

    # -- the Android side: network -------------------------------------------------------------------------------

    def _wifi_status(self, m: dict[str, Any], now: float) -> list[Effect]:
        address = "192.168.1.77" if self.ssid else ""
        status = {"type": "wifi_status", "connected": bool(self.ssid), "ssid": self.ssid, "local_ip": address}
        return self._say(status, now)

    def _wifi_scan(self, m: dict[str, Any], now: float) -> list[Effect]:
        effects: list[Effect] = []
        last = len(self.networks) - 1
        for index, (ssid, password) in enumerate(self.networks.items()):
            result: dict[str, Any] = {"type": "wifi_scan_result", "networks": [ssid]}
            if self.build.reliable:
                known = {"ssid": ssid, "requiresPassword": bool(password), "signalStrength": -50 - 10 * index}
                result = {"type": "wifi_scan_result", "networks_neo": [known], "scan_complete": index == last}
            effects += self._say(result, now)
        return effects

    def _wifi_join(self, m: dict[str, Any], now: float) -> list[Effect]:
        ssid, password = m.get("ssid"), m.get("password")

        def joined(then: float) -> list[Effect]:
            known = isinstance(ssid, str) and self.networks.get(ssid) == (password or "")
            self.ssid = str(ssid) if known else ""
            return self._wifi_status({}, then)

        self._set_timer("wifi", now + WIFI_TIME, joined)
        return []

    def _hotspot(self, m: dict[str, Any], now: float) -> list[Effect]:
        self.hotspot = m.get("enabled") is True
        status: dict[str, Any] = {"type": "hotspot_status_update", "hotspot_enabled": self.hotspot}
        if self.hotspot:
            status |= {"hotspot_ssid": "MentraLive", "hotspot_password": "12345678"}
            status |= {"hotspot_gateway_ip": "192.168.43.1"}
        return self._say(status, now)

    # -- the Android side: camera --------------------------------------------------------------------------------

    def _take_photo(self, m: dict[str, Any], now: float) -> list[Effect]:
        request_id, image_id = m.get("requestId"), m.get("bleImgId")
        if not isinstance(request_id, str) or not request_id:
            self._arm.counters.ignored_writes += 1
            return []
        if self.photo is not None and self.photo.request_id == request_id:
            return []  # asked twice: one photo
        if self.photo is not None:
            return self._photo_failed(request_id, "CAMERA_BUSY", now)
        if m.get("transferMethod") not in ("ble", "auto"):
            # This simulator has no network of its own: it cannot upload by itself.
            return self._photo_failed(request_id, "NO_NETWORK", now)
        if (
            not isinstance(image_id, str)
            or not 0 < len(image_id.encode("utf-8", "replace")) <= k900.NAME_BYTES
        ):
            return self._photo_failed(request_id, "BAD_IMAGE_ID", now)
        if self._take_failure(self._arm):
            return self._photo_failed(request_id, "CAMERA_ERROR", now)
        size = PICTURE_SIZES.get(str(m.get("size")), PICTURE_SIZES["medium"])
        self.photo = Photo(request_id, image_id, size)
        if m.get("save") is True:
            self.photos_saved += 1
        self._set_timer("photo", now + CAPTURE_TIME, self._captured)
        return self._say({"type": "photo_status", "requestId": request_id, "status": "capturing"}, now)

    def _photo_failed(self, request_id: str, error: str, now: float) -> list[Effect]:
        response = {"type": "photo_response", "requestId": request_id, "success": False, "error": error}
        return self._say(response, now, reliable=True)

    def _captured(self, now: float) -> list[Effect]:
        photo = self.photo
        assert photo is not None
        jpeg = self.pictures.jpeg(*photo.size, 40)[:PICTURE_MAX]
        size = min(self.build.pack_max, (self._packet_mtu or self._arm.mtu) - ATT_HEADER - k900.FILE_OVERHEAD)
        if size < 1 or len(jpeg) > size * 0xFFFF:
            self._drop_photo()
            return self._photo_failed(photo.request_id, "MTU_TOO_SMALL", now)
        photo.packs = [jpeg[i : i + size] for i in range(0, len(jpeg), size)]
        photo.file_size = len(jpeg)
        if self.build.inflated_size and size != PACK_CLASSIC:
            photo.file_size = len(photo.packs) * PACK_CLASSIC
        photo.name = photo.image_id
        if len(photo.name) + 4 <= k900.NAME_BYTES:
            photo.name += ".jpg"
        ready = {"type": "ble_photo_ready", "bleImgId": photo.image_id, "requestId": photo.request_id}
        effects = self._say({**ready, "compressionDurationMs": COMPRESSION_MS}, now, reliable=True)
        if self.build.file_flags & 0b10:
            announce = {"fileName": photo.name, "totalPackets": len(photo.packs), "fileSize": photo.file_size}
            effects += self._say({"type": "file_announce", **announce}, now)
        return effects + self._resend(photo, range(len(photo.packs)), now)

    def _resend(self, photo: Photo, indexes: list[int] | range, now: float) -> list[Effect]:
        photo.queue = deque(indexes)
        # After the announcements: the last answer that waits leaves first.
        self._set_timer("photo", max(now, self._arm.last_due) + PACKET_GAP, self._next_packet)
        return []

    def _next_packet(self, now: float) -> list[Effect]:
        photo = self.photo
        assert photo is not None
        index = photo.queue.popleft()
        if photo.queue:
            self._set_timer("photo", now + PACKET_GAP, self._next_packet)
        else:
            self._set_timer("photo", now + TRANSFER_PATIENCE, self._transfer_timed_out)
        if index in self.quirks.skip_packets:
            self.quirks.skip_packets.discard(index)
            return []
        packet = k900.FilePacket(
            k900.PHOTO, index, photo.file_size, photo.name, self.build.file_flags, photo.packs[index]
        ).pack()
        if self.quirks.wrong_pack_size:
            packet = packet[:3] + PACK_CLASSIC.to_bytes(2, "big") + packet[5:]
        return self._notify(self._arm, self.build.files, packet, now)

    def _of_photo(self, m: dict[str, Any]) -> Photo | None:
        """The photo that the host speaks of, by its file name with or without extension."""
        photo, name = self.photo, m.get("fileName")
        if photo is None or not photo.packs or not isinstance(name, str):
            return None
        return photo if name.split(".")[0] == photo.image_id.split(".")[0] else None

    def _transfer_complete(self, m: dict[str, Any], now: float) -> list[Effect]:
        photo = self._of_photo(m)
        if photo is None:
            return []
        if m.get("success") is True:
            self._drop_photo()
            return []
        return self._again(photo, range(len(photo.packs)), now)

    def _missing_packets(self, m: dict[str, Any], now: float) -> list[Effect]:
        photo, missing = self._of_photo(m), m.get("missingPackets")
        if photo is None or not isinstance(missing, list):
            return []
        known = {i for i in missing if type(i) is int and 0 <= i < len(photo.packs)}
        if photo.queue:  # a long list comes in several messages
            photo.queue.extend(sorted(known.difference(photo.queue)))
            return []
        return self._again(photo, sorted(known), now) if known else []

    def _again(self, photo: Photo, indexes: list[int] | range, now: float) -> list[Effect]:
        photo.rounds += 1
        if photo.rounds <= ROUNDS_MAX:
            return self._resend(photo, indexes, now)
        return self._give_up("transfer_failed", now)

    def _transfer_timed_out(self, now: float) -> list[Effect]:
        return self._give_up("transfer_timeout", now)

    def _give_up(self, kind: str, now: float) -> list[Effect]:
        photo = self.photo
        assert photo is not None
        self._drop_photo()
        effects = self._say({"type": kind, "fileName": photo.name}, now)
        return effects + self._photo_failed(photo.request_id, kind.upper(), now)

    def _drop_photo(self) -> None:
        self.photo = None
        self._cancel_timer("photo")

    def _set_photo_mode(self, m: dict[str, Any], now: float) -> list[Effect]:
        mode = m.get("mode")
        if not isinstance(mode, str) or len(mode) > 64:
            return []
        self.photo_mode = mode
        return self._say({"type": "set_photo_mode_ack", "mode": mode}, now)

    def _gallery(self, m: dict[str, Any], now: float) -> list[Effect]:
        counts = {"photos": self.photos_saved, "videos": self.videos_saved}
        return self._say({"type": "gallery_status", **counts, "total": sum(counts.values())}, now)

    # -- the Android side: video ---------------------------------------------------------------------------------

    def _video(self, m: dict[str, Any], now: float) -> list[Effect]:
        request_id = str(m.get("requestId", ""))[:64]
        match m["type"]:
            case "start_video_recording" if not self.recording:
                self.recording = request_id or "video"
                return self._video_status(True, "recording_started", now)
            case "start_video_recording":
                return self._video_status(False, "already_recording", now)
            case "stop_video_recording" if self.recording:
                self.recording = ""
                self.videos_saved += 1
                return self._video_status(True, "recording_stopped", now)
            case "stop_video_recording":
                return self._video_status(False, "not_recording", now)
        return self._video_status(True, "recording" if self.recording else "idle", now)

    def _video_status(self, success: bool, status: str, now: float) -> list[Effect]:
        return self._say(
            {"type": "video_recording_status", "success": success, "status": status, "details": ""}, now
        )

    def _start_stream(self, m: dict[str, Any], now: float) -> list[Effect]:
        stream_id = m.get("streamId")
        if not isinstance(stream_id, str) or not stream_id:
            self._arm.counters.ignored_writes += 1
            return []
        kind = "rtmp_stream_status" if m["type"] == "start_rtmp_stream" else "stream_status"
        if not self.ssid:
            return self._say(
                {"type": kind, "status": "error", "streamId": stream_id, "error": "no Wi-Fi"}, now
            )
        self._drop_stream()
        self.stream = Stream(stream_id, kind)
        self._set_timer("stream", now + STREAM_START, self._stream_live)
        self._set_timer("stream_idle", now + STREAM_PATIENCE, self._stream_idle)
        return self._stream_status("initializing", now)

    def _stream_live(self, now: float) -> list[Effect]:
        assert self.stream is not None
        self.stream.live = True
        return self._stream_status("streaming", now)

    def _stream_idle(self, now: float) -> list[Effect]:
        effects = self._stream_status("timeout", now)
        self._drop_stream()
        return effects

    def _stream_status(self, status: str, now: float) -> list[Effect]:
        if self.stream is None:
            return []
        fields = {"type": self.stream.status_type, "status": status, "streamId": self.stream.stream_id}
        return self._say(fields, now, reliable=True)

    def _keep_stream(self, m: dict[str, Any], now: float) -> list[Effect]:
        if self.stream is None or m.get("streamId") != self.stream.stream_id:
            return []
        self._set_timer("stream_idle", now + STREAM_PATIENCE, self._stream_idle)
        ack = {"type": "keep_alive_ack", "streamId": self.stream.stream_id, "ackId": m.get("ackId")}
        return self._say({**ack, "timestamp": self._clock(now)}, now)

    def _stop_stream(self, m: dict[str, Any], now: float) -> list[Effect]:
        effects = self._stream_status("stopped", now)
        self._drop_stream()
        return effects

    def _drop_stream(self) -> None:
        self.stream = None
        self._cancel_timer("stream")
        self._cancel_timer("stream_idle")

    # -- the Android side: old microphone API --------------------------------------------------------------------

    def _mic_state(self, m: dict[str, Any], now: float) -> list[Effect]:
        return self._microphone_on(now) if m.get("enabled") is True else self._microphone_off()

    def _vad_state(self, m: dict[str, Any], now: float) -> list[Effect]:
        self._vad = m.get("enabled") is True
        return []

    # -- people --------------------------------------------------------------------------------------------------

    def user(self, what: UserInput, now: float) -> list[Effect]:
        """There is one temple to touch and one camera button.

        Values: SWIPE "forward", "back", "up" or "down"; PRESS "short" or "long" (default short; any press wakes
        glasses that are off); BATTERY 0 to 100; CHARGE bool (default True).
        """
        if what.side is not None:
            raise NoTaker(
                f"Mentra Live has one touch pad and one button, no side {what.side!r}: leave side out"
            )
        match what.action:
            case Action.TAP | Action.DOUBLE_TAP | Action.TRIPLE_TAP | Action.LONG_PRESS:
                return self._touch(_TOUCH[what.action], now)
            case Action.SWIPE:
                code = _SWIPE.get(str(what.value))
                if code is None:
                    raise NoTaker(f"a swipe goes {', '.join(_SWIPE)}, not {what.value!r}")
                return self._touch(code, now)
            case Action.PRESS:
                return self._press(what.value, now)
            case Action.BATTERY:
                return self._set_battery(what.value, now)
            case Action.CHARGE:
                if what.value not in (None, True, False, "on", "off"):
                    raise NoTaker(f"charge takes true or false (or on, off), not {what.value!r}")
                return self._charge(what.value in (None, True, "on"), now)
        raise NoTaker(
            f"Mentra Live reports no {what.action.value}: it has no head, wear or case sensor to report"
        )

    def _heard(self, what: str) -> None:
        arm = self._arm
        if arm.state is not ArmState.CONNECTED:
            raise NoTaker(f"the glasses are {arm.state.value}, not connected: nobody would hear the {what}")
        if FROM_GLASSES not in arm.subscribed:
            raise NoTaker(
                f"the glasses are connected but their notifications are off: nobody would hear the {what}"
            )

    def _touch(self, code: int, now: float) -> list[Effect]:
        self._heard("touch")
        return self._chip("sr_tpevt", {"type": code}, now, answer=False)

    def _press(self, value: object, now: float) -> list[Effect]:
        kind = "short" if value is None else value
        if kind not in ("short", "long"):
            raise NoTaker(f"a press is short or long, not {value!r}")
        if self._arm.state is ArmState.DARK:
            if not self.battery:
                raise NoTaker("the battery is empty: charge the glasses first")
            return self.start(now)
        self._heard("button")
        if self.soc is not Soc.READY:
            raise NoTaker(f"the camera side is {self.soc.value}: the button does nothing before it is ready")
        if self.photo_mode != "apps" and kind == "short":
            self.photos_saved += 1
        press = {
            "type": "button_press",
            "buttonId": "camera",
            "pressType": kind,
            "timestamp": self._clock(now),
        }
        return self._say(press, now, answer=False, reliable=True)

    def _set_battery(self, value: object, now: float) -> list[Effect]:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 100:
            raise NoTaker(f"battery takes a number from 0 to 100, not {value!r}")
        self.battery = int(value)
        if self.battery == 0:
            return self._shut_down(now)
        return self._tell_battery(now)

    def _charge(self, on: bool, now: float) -> list[Effect]:
        self.charging = on
        effects = self._tell_battery(now)
        if on and self.soc is Soc.OFF and self._arm.state in (ArmState.ADVERTISING, ArmState.CONNECTED):
            effects += self._boot(now)
        return effects

    def _tell_battery(self, now: float) -> list[Effect]:
        if self._arm.state is not ArmState.CONNECTED:
            return []
        return self._chip("sr_batv", self._battery_body(), now, answer=False)

    def snapshot(self) -> dict[str, Any]:
        photo = self.photo
        return {
            "battery": self.battery,
            "charging": self.charging,
            "android": self.soc.value,
            "wire_v2": self._v2,
            "wifi": bool(self.ssid),
            "hotspot": self.hotspot,
            "photo": None if photo is None else {"packets": len(photo.packs), "to_send": len(photo.queue)},
            "photos_saved": self.photos_saved,
            "recording": bool(self.recording),
            "streaming": self.stream is not None and self.stream.live,
            "speaker_bytes": self.speaker_bytes,
        }


_TOUCH = {Action.TAP: 0, Action.DOUBLE_TAP: 1, Action.TRIPLE_TAP: 2, Action.LONG_PRESS: 3}
_SWIPE = {"forward": 4, "back": 5, "up": 6, "down": 7}

_TAKEN_SILENTLY = ("rgb_led_", "imu_", "button_", "keep_awake", "user_email", "speak_pairing_code", "ota_")
"""Android messages that are acknowledged and show no effect here, by the beginning of their name."""

_ChipHandler = Callable[[MentraLive, Arm, Any, float], list[Effect]]
_AndroidHandler = Callable[[MentraLive, dict[str, Any], float], list[Effect]]

_CHIP: dict[str, _ChipHandler] = {
    "cs_hrt": MentraLive._heartbeat,
    "cs_batv": MentraLive._battery,
    "cs_flts": MentraLive._file_acknowledged,
    "cs_shut": MentraLive._shut_command,
    "cs_swst": MentraLive._taken,
    "enable_custom_audio_tx": MentraLive._custom_audio,
    "enable_custom_audio_rx": MentraLive._taken,
    "enable_hfp_audio_server": MentraLive._taken,
}

_ANDROID: dict[str, _AndroidHandler] = {
    "phone_ready": MentraLive._phone_ready,
    "ping": MentraLive._ping,
    "msg_ack": MentraLive._msg_ack,
    "auth_token": MentraLive._auth_token,
    "request_version": MentraLive._version,
    "request_battery_state": MentraLive._battery_state,
    "reboot": MentraLive._reboot,
    "shutdown": MentraLive._shutdown,
    "set_system_time": MentraLive._system_time,
    "set_ble_mtu": MentraLive._packet_size,
    "request_wifi_status": MentraLive._wifi_status,
    "request_wifi_scan": MentraLive._wifi_scan,
    "set_wifi_credentials": MentraLive._wifi_join,
    "set_hotspot_state": MentraLive._hotspot,
    "take_photo": MentraLive._take_photo,
    "transfer_complete": MentraLive._transfer_complete,
    "request_missing_packets": MentraLive._missing_packets,
    "set_photo_mode": MentraLive._set_photo_mode,
    "query_gallery_status": MentraLive._gallery,
    "start_video_recording": MentraLive._video,
    "stop_video_recording": MentraLive._video,
    "get_video_recording_status": MentraLive._video,
    "start_rtmp_stream": MentraLive._start_stream,
    "start_stream": MentraLive._start_stream,
    "keep_rtmp_stream_alive": MentraLive._keep_stream,
    "keep_stream_alive": MentraLive._keep_stream,
    "stop_rtmp_stream": MentraLive._stop_stream,
    "stop_stream": MentraLive._stop_stream,
    "set_mic_state": MentraLive._mic_state,
    "set_mic_vad_state": MentraLive._vad_state,
}
