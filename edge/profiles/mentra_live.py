"""Mentra Live: camera glasses without a display; framed JSON to two processors, photos as file packets, LC3 microphone.

Rules: pure; bytes as docs/glasses/mentra-live.md says. A small Bluetooth processor ("BES") answers `cs_*` commands itself
and passes everything else to an Android computer ("SoC") that may still be booting, so readiness is asked for, never
assumed. We write lengths little-endian and read both orders. Nothing incoming may grow without bound: a frame, a
chunked message and a photo each have a size and a time limit.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edge.profiles.base import (
    Action,
    Advert,
    Arm,
    AskBattery,
    AudioFormat,
    AudioPacket,
    Battery,
    Blank,
    Button,
    Clock,
    Command,
    Driver,
    Event,
    Gatt,
    Gesture,
    Identity,
    Lane,
    Microphone,
    Pace,
    Packet,
    PhotoData,
    PhotoFailed,
    Profile,
    Reply,
    Send,
    Show,
    Sighting,
    Speech,
    TakePhoto,
    Touch,
    Unknown,
    Unsupported,
    Warn,
)

# ------------------------------------------------------------------------------------------------------ the bytes

_BASE = "0000{}-0000-1000-8000-00805f9b34fb"
COMMANDS = _BASE.format("71ff")
REPLIES = _BASE.format("70ff")
FILES = _BASE.format("72ff")
MICROPHONE = "6e400002-b5a3-f393-e0a9-e50e24dcca9e"  # the UART service's RX UUID, used the other way round

START, END = b"##", b"$$"
JSON_TYPE = 0x30
FILE_TYPES = range(0x31, 0x36)
FRAME_OVERHEAD = 7
FILE_HEAD = 29
FILE_OVERHEAD = 32

JSON_MAX = 512  # the newest phone app's own limit for one frame
WRITE_MAX = 253  # many firmwares lose what is longer unless wire v2 was negotiated, which we never do
CHUNK_FROM = 200  # frames above this are sent as chunks
CHUNK_BYTES = 80  # of inner JSON text in one chunk
WRITE_GAP = 0.16  # least time between two writes
CHUNK_GAP = 0.05  # chunks of one message may follow faster
AUDIO_FRAME = 40  # LC3 at 32 kbit/s
BES_PACK = 400  # data bytes at which the Bluetooth processor cuts a file, whatever the header says

CHUNKED_MAX = 10  # chunked messages that may be half-read at a time
CHUNKED_TIMEOUT = 30.0
FILE_BYTES_MAX = 8 << 20  # a full-size JPEG is 3 to 5 MB
FILE_STALL = 1.0  # packets come 20 to 30 ms apart; after a second of silence the missing ones are asked for
FILE_ROUNDS = 3  # failure catalogue MED-03
FILE_DEADLINE = 30.0
PHOTOS_MAX = 8  # photo requests whose picture may still come

#: `sr_tpevt` numbers.
_GESTURES = (
    Gesture.SINGLE_TAP,
    Gesture.DOUBLE_TAP,
    Gesture.TRIPLE_TAP,
    Gesture.LONG_PRESS,
    Gesture.FORWARD_SWIPE,
    Gesture.BACKWARD_SWIPE,
    Gesture.UP_SWIPE,
    Gesture.DOWN_SWIPE,
)
CHARGE_EVERY = 2.0  # s between two questions whether a charger is there, however often levels are told
_BATTERY_TO_BOOT = 20  # percent; below it the SoC does not start


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def frame(text: str) -> bytes:
    """One JSON frame as the host sends it."""
    raw = text.encode("utf-8", "replace")
    return START + bytes((JSON_TYPE,)) + len(raw).to_bytes(2, "little") + raw + END


def bes(name: str, body: str = "", version: bool = True) -> bytes:
    """A command that the Bluetooth processor answers itself."""
    wrapped: dict[str, Any] = {"C": name}
    if version:
        wrapped["V"] = 1
    return frame(_compact({**wrapped, "B": body}))


def soc(message: dict[str, Any], wake: bool = False, limit: int = WRITE_MAX) -> list[bytes]:
    """A message to the Android side, in one frame or in chunks of at most `limit` bytes; with `wake` it rouses a
    sleeping SoC."""
    inner = _compact(message)
    whole = frame(_compact({"C": inner, "W": 1} if wake else {"C": inner}))
    if len(whole) <= min(CHUNK_FROM, limit):
        return [whole]
    number = message.get("mId")
    session = f"{number or 0}_{hashlib.sha256(inner.encode()).hexdigest()[:8]}"
    pieces = _pieces(inner, session, limit)
    frames = []
    for index, piece in enumerate(pieces):
        chunk: dict[str, Any] = {"t": "ck", "id": session, "c": index, "n": len(pieces), "d": piece}
        if number is not None and index == len(pieces) - 1:
            chunk["mId"] = number
        outer: dict[str, Any] = {"C": _compact(chunk)}
        frames.append(frame(_compact({**outer, "W": 1} if wake and index == 0 else outer)))
    return frames


def _pieces(inner: str, session: str, limit: int) -> list[str]:
    """`inner` in pieces of at most CHUNK_BYTES that still fit `limit` once quotes have been escaped twice."""
    pieces: list[str] = []
    rest = inner
    while rest:
        size = len(rest.encode()[:CHUNK_BYTES].decode("utf-8", "ignore"))
        worst = {"t": "ck", "id": session, "c": 999, "n": 999, "mId": 2**63 - 1}
        while size > 1 and len(frame(_compact({"C": _compact({**worst, "d": rest[:size]}), "W": 1}))) > limit:
            size -= 8 if size > 8 else 1
        pieces.append(rest[:size])
        rest = rest[size:]
    return pieces


def message_id(request_id: str) -> int:
    """A positive 63-bit number for a request: the same for a repetition, so the glasses act on it once."""
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big") >> 1 or 1


# --------------------------------------------------------------------------------------------------------- frames


@dataclass(frozen=True, slots=True)
class JsonFrame:
    text: bytes


@dataclass(frozen=True, slots=True)
class FileFrame:
    kind: int
    index: int
    file_size: int
    name: str
    flags: int
    pack_size: int
    data: bytes


class FrameReader:
    """Finds frames in one characteristic's notifications: whole, split, several in one, or with rubbish between."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> tuple[list[JsonFrame | FileFrame], bytes]:
        """The frames that are complete now, and the bytes that were skipped to find them."""
        self._buffer += data
        frames: list[JsonFrame | FileFrame] = []
        skipped = bytearray()
        while True:
            at = self._buffer.find(START)
            if at < 0:
                keep = 1 if self._buffer.endswith(b"#") else 0
                skipped += self._buffer[: len(self._buffer) - keep]
                del self._buffer[: len(self._buffer) - keep]
                break
            skipped += self._buffer[:at]
            del self._buffer[:at]
            found = self._first()
            if found is None:
                break
            size, item = found
            if item is None:
                skipped += self._buffer[:size]
            else:
                frames.append(item)
            del self._buffer[:size]
        return frames, bytes(skipped)

    def _first(self) -> tuple[int, JsonFrame | FileFrame | None] | None:
        """The frame at the start of the buffer and its size; (2, None) for a false start; None to wait for more."""
        buffer = self._buffer
        if len(buffer) < FRAME_OVERHEAD:
            return None
        if buffer[2] in FILE_TYPES:
            return self._file()
        if buffer[2] != JSON_TYPE:
            return 2, None
        waiting = False
        # Where both byte orders fit, which JSON never makes them do, the shorter: the cut of the stream must not decide.
        for length in sorted((int.from_bytes(buffer[3:5], "little"), int.from_bytes(buffer[3:5], "big"))):
            if length > JSON_MAX:
                continue
            total = length + FRAME_OVERHEAD
            if len(buffer) < total:
                waiting = True
            elif buffer[total - 2 : total] == END:
                return total, JsonFrame(bytes(buffer[5 : total - 2]))
        return None if waiting else (2, None)

    def _file(self) -> tuple[int, JsonFrame | FileFrame | None] | None:
        buffer = self._buffer
        if len(buffer) < FILE_OVERHEAD:
            return None
        total = FILE_OVERHEAD + int.from_bytes(buffer[3:5], "big")
        if len(buffer) >= total and buffer[total - 2 : total] == END and _sum_ok(buffer, total):
            return total, _file_frame(buffer, total)
        # Some firmware re-cuts packets without correcting the size: the end mark of what has arrived decides then.
        last = buffer.rfind(END)
        if last >= FILE_HEAD + 1 and last + 2 == len(buffer) and _sum_ok(buffer, last + 2):
            return last + 2, _file_frame(buffer, last + 2)
        if len(buffer) < total:
            return None
        return 2, None


def _sum_ok(buffer: bytearray, total: int) -> bool:
    return buffer[total - 3] == sum(buffer[FILE_HEAD : total - 3]) & 0xFF


def _file_frame(buffer: bytearray, total: int) -> FileFrame:
    return FileFrame(
        kind=buffer[2],
        pack_size=int.from_bytes(buffer[3:5], "big"),
        index=int.from_bytes(buffer[5:7], "big"),
        file_size=int.from_bytes(buffer[7:11], "big"),
        name=bytes(buffer[11:27]).split(b"\0")[0].decode("ascii", "replace"),
        flags=int.from_bytes(buffer[27:29], "big"),
        data=bytes(buffer[FILE_HEAD : total - 3]),
    )


# --------------------------------------------------------------------------------------------------- half-read things


@dataclass
class _Chunked:
    total: int
    since: float
    pieces: dict[int, str] = field(default_factory=dict)


@dataclass
class _Transfer:
    """One file on its way from the glasses."""

    name: str
    size: int  # bytes, or 0 where the header cannot be believed
    since: float
    last: float
    packets: dict[int, bytes] = field(default_factory=dict)
    pack: int = 1  # data bytes of a full packet: only the last one is shorter, so the largest seen
    total: int = 0
    rounds: int = 0

    def missing(self) -> list[int]:
        return [index for index in range(self.total) if index not in self.packets]


def _inflated(packet: FileFrame) -> bool:
    """Whether the size in the header counts packets of 400 bytes that were never that long ("BES lie")."""
    return not packet.flags & 2 and packet.file_size % BES_PACK == 0 and packet.pack_size != BES_PACK


def _stem(name: str) -> str:
    return name.partition(".")[0]


# --------------------------------------------------------------------------------------------------------- driver


class MentraLiveDriver(Driver):
    """The conversation with one Mentra Live."""

    def __init__(self) -> None:
        self._readers: dict[str, FrameReader] = {}
        self._chunks: dict[str, _Chunked] = {}
        self._files: dict[str, _Transfer] = {}
        self._photos: dict[str, str] = {}  # image name -> request id, oldest first
        self._seen: dict[int, None] = {}  # message ids that were acted on, oldest first
        self._boot: str | None = None  # the SoC's session; another one means that it has restarted
        self._old_audio = 0
        self._epoch_ms = 0
        self._charging: bool | None = None  # as `sr_hrt` said last
        self._charge_asked = -math.inf
        self._charge_at: float | None = None  # when to ask whether a charger is there

    def opened(self, arm: Arm) -> None:
        self._readers.clear()
        self._chunks.clear()
        self._charge_at = None
        # Half-read files stay: the glasses restart a transfer by name, and what has arrived is still right.

    def init(self, arm: Arm) -> Sequence[Sequence[Command]]:
        # 60 s of patience for a SoC that boots; the vendor's app polls every 2.5 s as well.
        heart = Command(
            "ready?",
            lambda _: (Packet(bes("cs_hrt", version=False), reply=("sr_hrt",), timeout=2.5, gap=WRITE_GAP),),
            tries=24,
        )
        return ((heart,), (self._ready(),))

    def _ready(self) -> Command:
        return self._to_soc(
            "phone ready",
            {"type": "phone_ready", "timestamp": self._epoch_ms},
            reply=("glasses_ready",),
            wake=True,
            timeout=2.5,
            tries=4,
        )

    def greet(self, arm: Arm) -> Sequence[Command]:
        return (
            self._battery(),
            self._to_soc("version", {"type": "request_version"}, reply=("version",), timeout=2.0, tries=2),
        )

    def heartbeat(self, arm: Arm) -> Command:
        # Asked of the SoC, not of the Bluetooth processor: a link to a dead computer is no link.
        return self._to_soc(
            "heartbeat", {"type": "ping"}, reply=("pong",), timeout=3.0, tries=1, lane=Lane.HEARTBEAT
        )

    def commands(self, arm: Arm, action: Action) -> Sequence[Command]:
        match action:
            case Show(Blank()):
                return ()
            case Show():
                raise Unsupported("Mentra Live has no display")
            case Microphone(on):
                data = bes("enable_custom_audio_tx", _compact({"enable": on}), version=False)
                return (Command("microphone", lambda _: (Packet(data, gap=WRITE_GAP),), tries=1),)
            case AskBattery():
                return (self._battery(),)
            case Clock(epoch, _, _):
                self._epoch_ms = int(epoch * 1000)
                return ()  # the SoC keeps its own time over Wi-Fi
            case TakePhoto():
                return (self._photo(action),)
            case _:
                raise Unsupported(f"Mentra Live has no {type(action).__name__}")

    @staticmethod
    def _battery() -> Command:
        data = bes("cs_batv")
        return Command("battery", lambda _: (Packet(data, reply=("sr_batv",), gap=WRITE_GAP),))

    def _photo(self, wish: TakePhoto) -> Command:
        number = message_id(wish.request_id)
        image = f"I{number % 1_000_000:06d}"
        while len(self._photos) >= PHOTOS_MAX:
            del self._photos[next(iter(self._photos))]
        self._photos[image] = wish.request_id
        return self._to_soc(
            "take photo",
            {
                "type": "take_photo",
                "requestId": wish.request_id,
                "transferMethod": "ble",
                "bleImgId": image,
                "size": wish.size,
                "compress": wish.compress,
                "silent": wish.silent,
                "flash": wish.flash,
                "mId": number,
            },
            reply=("ack", number),
            wake=True,
            timeout=4.0,
            tries=4,
        )

    @staticmethod
    def _to_soc(
        name: str,
        message: dict[str, Any],
        *,
        reply: tuple[Any, ...] | None = None,
        wake: bool = False,
        timeout: float = 2.0,
        tries: int = 1,
        lane: Lane = Lane.CONTROL,
    ) -> Command:
        def encode(payload_max: int) -> Sequence[Packet]:
            frames = soc(message, wake, min(WRITE_MAX, payload_max))
            last = len(frames) - 1
            return [
                Packet(
                    data,
                    reply=reply if index == last else None,
                    timeout=timeout + CHUNK_GAP * last,
                    gap=WRITE_GAP if index == last else CHUNK_GAP,
                )
                for index, data in enumerate(frames)
            ]

        return Command(name, encode, lane=lane, tries=tries)

    # ---------------------------------------------------------------------------------------------------- decode

    def decode(self, arm: Arm, char: str, data: bytes, now: float) -> list[Event]:
        if char == MICROPHONE:
            return _audio(data)
        if char == REPLIES and data[:1] == b"\xa0":  # the oldest firmware: frames without a number
            self._old_audio = (self._old_audio + 1) % 256
            return _audio(bytes((0xF1, self._old_audio)) + data[1:])
        frames, skipped = self._readers.setdefault(char, FrameReader()).feed(data)
        events: list[Event] = [Unknown(skipped)] if skipped else []
        for item in frames:
            match item:
                case JsonFrame(text):
                    events += self._json(text, now)
                case FileFrame():
                    events += self._file(item, now)
        return events

    def _json(self, text: bytes, now: float) -> list[Event]:
        outer = _object(text)
        if outer is None:
            return [Unknown(text)]
        command = outer.get("C")
        if not isinstance(command, str):
            return self._message(outer, now) if "type" in outer else [Unknown(text)]
        inner = _object(command)
        if inner is not None:
            return self._message(inner, now)
        body = outer.get("B")
        if isinstance(body, str):
            body = _object(body)
        return self._bes(command, body if isinstance(body, dict) else {}, now)

    def _bes(self, name: str, body: dict[str, Any], now: float) -> list[Event]:
        level = _int(body.get("pt"))
        match name:
            case "sr_hrt":
                events: list[Event] = []
                if level is not None:
                    if "charg" in body:
                        self._charging = bool(body["charg"])
                    events.append(Battery(_percent(level), self._charging))
                if body.get("ready"):
                    return [*events, Reply(("sr_hrt",))]
                if level is not None and level <= _BATTERY_TO_BOOT:
                    return [
                        *events,
                        Warn("the battery is too low for the glasses to start"),
                        Reply(("sr_hrt",), ok=False),
                    ]
                return events  # booting: asked again
            case "sr_batv":
                volts = _int(body.get("vt"))
                found: list[Event] = [Reply(("sr_batv",))]
                if level is not None:
                    # No source has a charging flag here; while `sr_hrt` has never said it, the voltage is all there is,
                    # as for the vendor's app. A full battery without a charger has more than 4 V as well.
                    charging = self._charging
                    if charging is None and volts is not None:
                        charging = volts > 4000
                    found.insert(0, Battery(_percent(level), charging))
                if self._charge_at is None:
                    # Told unasked when a charger comes or goes, too; whether it does, only the heartbeat says.
                    self._charge_at = max(now, self._charge_asked + CHARGE_EVERY)
                return found
            case "sr_tpevt":
                number = _int(body.get("type"))
                return (
                    [Touch(_GESTURES[number])] if number is not None and 0 <= number < len(_GESTURES) else []
                )
            case "cs_pho":
                return [Button("camera")]
            case "cs_vdo":
                return [Button("camera", long=True)]
            case "sr_vad":
                state = next(
                    (v for v in (body.get("vad"), body.get("state"), body.get("on")) if v is not None), None
                )
                return [] if state is None else [Speech(on=bool(state))]
            case "sr_shut":
                return [Warn("the glasses are shutting down")]
            case _:
                return []  # a dozen further notes of the processor; none concerns us

    def _message(self, message: dict[str, Any], now: float) -> list[Event]:
        kind = message.get("type")
        if message.get("t") == "ck" or kind == "chunked_msg":
            return self._chunk(message, now)
        number = _int(message.get("mId"))
        if kind == "msg_ack":
            return [] if number is None else [Reply(("ack", number))]
        events: list[Event] = []
        if number is not None:
            events.append(Send(self._acknowledge(number)))
            if number in self._seen:
                return events  # said again because our first answer was lost
            while len(self._seen) >= 64:
                del self._seen[next(iter(self._seen))]
            self._seen[number] = None
        return events + self._said(str(kind), message, now)

    def _said(self, kind: str, message: dict[str, Any], now: float) -> list[Event]:
        match kind:
            case "glasses_ready":
                sid = message.get("sid")
                restarted = self._boot is not None and sid is not None and sid != self._boot
                self._boot = str(sid) if sid is not None else self._boot
                greeting: list[Event] = [Reply(("glasses_ready",))]
                if restarted:
                    greeting.append(Warn("the glasses' computer has restarted"))
                return greeting
            case "pong":
                return [Reply(("pong",))]
            case "version_info" | "version_info_1" | "version_info_2" | "version_info_3":
                build = message.get("build_number") or message.get("app_version")
                events: list[Event] = [Reply(("version",))]
                return [Identity("firmware", str(build)[:64]), *events] if build is not None else events
            case "battery_status":
                level = _int(message.get("percent", message.get("level")))
                return (
                    []
                    if level is None
                    else [Battery(_percent(level), charging=bool(message.get("charging")))]
                )
            case "button_press":
                long = message.get("pressType") == "long"
                return [Button(str(message.get("buttonId") or "camera")[:64], long=long)]
            case "touch_event":
                try:
                    return [Touch(Gesture(str(message.get("gesture_name"))))]
                except ValueError:
                    return []
            case "photo_response" if message.get("success") is False:
                request = str(message.get("requestId") or "")
                self._forget_photo(request)
                return [PhotoFailed(request, _reason(message.get("error")))]
            case "transfer_failed" | "transfer_timeout":
                name = _stem(str(message.get("fileName") or ""))
                failed = self._photos.pop(name, None)
                self._files.pop(name, None)
                return [] if failed is None else [PhotoFailed(failed, "the glasses gave up the transfer")]
            case "ble_photo_ready":
                image, wanted = message.get("bleImgId"), message.get("requestId")
                if isinstance(image, str) and isinstance(wanted, str) and wanted in self._photos.values():
                    self._forget_photo(wanted)
                    self._photos[_stem(image)] = wanted  # the name the glasses will really use
                return []
            case _:
                return []

    def _forget_photo(self, request_id: str) -> None:
        for name in [name for name, request in self._photos.items() if request == request_id]:
            del self._photos[name]
            self._files.pop(name, None)

    def _acknowledge(self, number: int) -> Command:
        return self._to_soc("acknowledge", {"type": "msg_ack", "mId": number, "timestamp": self._epoch_ms})

    def _chunk(self, message: dict[str, Any], now: float) -> list[Event]:
        session = message.get("id", message.get("chunkId"))
        index, total = (
            _int(message.get("c", message.get("chunk"))),
            _int(message.get("n", message.get("total"))),
        )
        piece = message.get("d", message.get("data"))
        if not isinstance(session, str) or not isinstance(piece, str) or index is None or total is None:
            return []
        if not 0 <= index < total <= 256:
            return []
        half = self._chunks.get(session)
        if half is None or half.total != total:
            if len(self._chunks) >= CHUNKED_MAX:
                del self._chunks[next(iter(self._chunks))]
            half = self._chunks[session] = _Chunked(total, now)
        half.pieces[index] = piece
        if len(half.pieces) < total:
            return []
        del self._chunks[session]
        whole = _object("".join(half.pieces[i] for i in range(total)))
        if whole is None or whole.get("t") == "ck" or whole.get("type") == "chunked_msg":
            return [Warn("a message of the glasses arrived in pieces that do not fit together")]
        return self._message(whole, now)

    # ---------------------------------------------------------------------------------------------------- photos

    def _file(self, packet: FileFrame, now: float) -> list[Event]:
        name = _stem(packet.name)
        request = self._photos.get(name)
        if request is None:
            return []  # not asked for, failed meanwhile, or complete already: the rest of it is of no use
        transfer = self._files.get(name)
        if packet.file_size > FILE_BYTES_MAX:
            return self._give_up(
                name, f"a file of {packet.file_size} bytes is above the limit of {FILE_BYTES_MAX}"
            )
        inflated = _inflated(packet)
        if transfer is None:
            size = 0 if inflated else packet.file_size
            transfer = self._files[name] = _Transfer(packet.name, size, now, now)
        transfer.pack = BES_PACK if inflated else max(transfer.pack, packet.pack_size)
        transfer.total = max(1, -(-packet.file_size // transfer.pack))
        if packet.index >= transfer.total:
            return []
        transfer.packets[packet.index] = packet.data
        transfer.last = now
        if len(transfer.packets) < transfer.total:
            return []
        data = b"".join(transfer.packets[index] for index in range(transfer.total))
        if transfer.size and len(data) != transfer.size:
            return self._give_up(name, f"{len(data)} bytes arrived where {transfer.size} were announced")
        del self._files[name], self._photos[name]
        mime = "image/avif" if packet.name.endswith(".avif") or data[4:12] == b"ftypavif" else "image/jpeg"
        return [PhotoData(request, data, mime), Send(self._complete(transfer.name, True))]

    def _complete(self, name: str, success: bool) -> Command:
        message = {
            "type": "transfer_complete",
            "fileName": name,
            "success": success,
            "timestamp": self._epoch_ms,
        }
        return self._to_soc("transfer complete", message)

    def _give_up(self, name: str, reason: str) -> list[Event]:
        self._files.pop(name, None)
        request = self._photos.pop(name, None)
        return [] if request is None else [PhotoFailed(request, reason)]

    @property
    def deadline(self) -> float | None:
        times = [min(t.last + FILE_STALL, t.since + FILE_DEADLINE) for t in self._files.values()]
        times += [c.since + CHUNKED_TIMEOUT for c in self._chunks.values()]
        if self._charge_at is not None:
            times.append(self._charge_at)
        return min(times, default=None)

    def handle_deadline(self, now: float) -> list[tuple[Arm, Event]]:
        for session in [s for s, c in self._chunks.items() if now >= c.since + CHUNKED_TIMEOUT]:
            del self._chunks[session]
        events: list[Event] = []
        if self._charge_at is not None and now >= self._charge_at:
            self._charge_asked, self._charge_at = now, None
            ask = bes("cs_hrt", version=False)
            events.append(Send(Command("charging?", lambda _: (Packet(ask, gap=WRITE_GAP),), tries=1)))
        for name, transfer in list(self._files.items()):
            if now >= transfer.since + FILE_DEADLINE or (
                now >= transfer.last + FILE_STALL and transfer.rounds >= FILE_ROUNDS
            ):
                missing = len(transfer.missing())
                events += self._give_up(name, f"{missing} of {transfer.total} packets never arrived")
                events.append(Send(self._complete(transfer.name, False)))
            elif now >= transfer.last + FILE_STALL:
                transfer.rounds += 1
                transfer.last = now
                wanted = {
                    "type": "request_missing_packets",
                    "fileName": transfer.name,
                    "missingPackets": transfer.missing()[:64],  # a longer list is asked for in the next round
                }
                events.append(Send(self._to_soc("missing packets", wanted)))
        return [(Arm.WHOLE, event) for event in events]


def _audio(data: bytes) -> list[Event]:
    if len(data) < 2 + AUDIO_FRAME or data[0] != 0xF1:
        return [Unknown(data)]
    count = (len(data) - 2) // AUDIO_FRAME  # a tail that is no whole frame is dropped
    frames = tuple(data[2 + i * AUDIO_FRAME : 2 + (i + 1) * AUDIO_FRAME] for i in range(count))
    return [AudioPacket(data[1], frames)]


def _object(text: bytes | str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _int(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return int(value)
    except (ValueError, OverflowError):
        return None


def _percent(value: int) -> int:
    return max(0, min(100, value))


def _reason(error: object) -> str:
    said: object = error
    if isinstance(error, dict):
        said = error.get("message") or error.get("code")
    return str(said or "the camera failed")[:200]


# -------------------------------------------------------------------------------------------------------- profile


class MentraLive(Profile):
    """Mentra Live (K900 hardware)."""

    key = "live"
    model = "Mentra Live"
    arms = (Arm.WHOLE,)
    gatt = Gatt(
        service=_BASE.format("4860"),
        write=COMMANDS,
        notify=(REPLIES, FILES, MICROPHONE),
    )
    pace = Pace(heartbeat=10.0, heartbeat_timeout=3.0, mic_beat=None, battery=300.0)
    audio = AudioFormat(frame_bytes=AUDIO_FRAME)
    mtu = 435  # a file packet of 400 data bytes in one notification
    capabilities = {
        "modelName": "Mentra Live",
        "hasCamera": True,
        "camera": {
            "resolution": {"width": 1920, "height": 1080},
            "hasHDR": False,
            "hasFocus": True,
            "video": {
                "canRecord": True,
                "canStream": True,
                "supportedStreamTypes": ["rtmp"],
                "supportedResolutions": [
                    {"width": 1920, "height": 1080},
                    {"width": 1280, "height": 720},
                    {"width": 640, "height": 480},
                ],
            },
        },
        "hasDisplay": False,
        "display": None,
        "hasMicrophone": True,
        "microphone": {"count": 1, "hasVAD": True},
        "hasSpeaker": True,
        "speaker": {"count": 1, "isPrivate": False},
        "hasIMU": True,
        "imu": {"axisCount": 6, "hasAccelerometer": True, "hasCompass": False, "hasGyroscope": True},
        "hasButton": True,
        "button": {
            "count": 1,
            "buttons": [
                {"type": "press", "events": ["press", "double_press", "long_press"], "isCapacitive": False}
            ],
        },
        "hasLight": True,
        "light": {
            "count": 2,
            "lights": [
                {"id": "privacy", "purpose": "privacy", "isFullColor": False, "color": "white", "position": "front_facing"},
                {"id": "user_feedback", "purpose": "user_feedback", "isFullColor": True, "color": "rgb", "position": "user_facing"},
            ],
        },
        "power": {"hasExternalBattery": False},
        "hasWifi": True,
    }  # fmt: skip

    def recognise(self, advert: Advert) -> Sighting | None:
        name = advert.name or ""
        if name == "Xy_A" or name.startswith("XyBLE_") or name.upper().startswith(("MENTRA_LIVE",)):
            return Sighting(Arm.WHOLE, advert.address)
        return None

    def driver(self) -> MentraLiveDriver:
        return MentraLiveDriver()
