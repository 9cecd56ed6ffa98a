"""Brilliant Frame: a Lua prompt over BLE, and the small program that we start there.

Rules: pure; bytes as docs/glasses/frame.md says. The prompt and the data channel have room for one write each, and the
next one overwrites what was not taken yet: so every write waits for an answer, heartbeats too. A message has a code of
its own (fresh for each attempt), and its answer names code and packet: a late or doubled answer proves nothing wrong.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

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
    Clock,
    Command,
    DashboardCard,
    DoubleTextWall,
    Driver,
    Event,
    Gatt,
    Gesture,
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
    PhotoData,
    PhotoFailed,
    Picture,
    Profile,
    ReferenceCard,
    Reply,
    Show,
    Sighting,
    TakePhoto,
    TextWall,
    Touch,
    Unknown,
    Unsupported,
    Warn,
)

# ------------------------------------------------------------------------------------------------------ the bytes

_BASE = "7a23000{}-5475-a6a4-654c-8431f6ad49c4"
COMMANDS = _BASE.format(2)
REPLIES = _BASE.format(3)
_NAME = re.compile(r"^Frame ([0-9A-F]{2})$")

DATA, BREAK, RESET = b"\x01", b"\x03", b"\x04"
SETTLE = 0.2  # what the vendor's libraries wait after break and reset
PROMPT_WAIT = 3.0  # the libraries wait 5 s; three attempts of 3 s tell more
ANSWER_WAIT = 2.0  # the program looks at its inbox every 10 ms; drawing and the camera hold it up for longer

WRITE_MAX = 244  # of 7a230002, and less than the 246 bytes that the prompt keeps
PAYLOAD_MIN = 61  # MTU 64; below it the program would take longer than a minute to arrive
MESSAGE_MAX = 0xFFFF  # two bytes of length
CODES = range(0x20, 0xFF)  # of messages to the program, in turn


class Ask:
    """First byte of a message to our program."""

    TEXT, PICTURE, MICROPHONE, BRIGHTNESS = b"T", b"P", b"M", b"B"
    BATTERY, CAPTURE, MOTION, HEAD_ANGLE = b"Q", b"C", b"I", b"H"


class Said:
    """First byte of what the glasses send. The numbers up to 0x0C are those of the vendor's libraries."""

    ACK = 0x01
    AUDIO, AUDIO_END = 0x05, 0x06
    PHOTO, PHOTO_END = 0x07, 0x08
    TAP, MOTION, BATTERY = 0x09, 0x0A, 0x0C
    READY, HEAD, AUDIO_NUMBERED = 0x10, 0x13, 0x15


#: Plain Lua 5.4 for the glasses, without double quotes and backslashes so that it travels inside a string. `take`
#: collects one message and acts on it; the loop sends what waits, one packet whenever the radio has room.
#: A break must end the program, so no pcall keeps one. The program ends with the link.
PROGRAM = " ".join(
    line.strip()
    for line in """
local F,B,D,M,C=frame,frame.bluetooth,frame.display,frame.microphone,string.char
local L=B.max_length()
local K=(L-2)//80*80
local I,O,taps={},{},0
local code,size,parts,got,idx=0
local mic,num,cam,wish,at,sum,imu,head,up=nil,0,nil,nil,0,0,nil,nil,false
local ti,th=0,0
local function put(s) if #O<64 then O[#O+1]=s end end
local function keep(ok,e) if not ok and tostring(e):find('break') then error(e,0) end return ok,e end
local run={
T=function(s)
local y=1
for l in (s..C(10)):gmatch('(.-)'..C(10)) do if #l>0 then D.text(l,1,y) end y=y+60 end
if #s==0 then D.text(' ',1,1) end
D.show() end,
P=function(s)
local a,b,c,d,e,f=s:byte(1,6)
D.bitmap(a*256+b,c*256+d,e*256+f,2,0,s:sub(7)) D.show() end,
M=function(s)
if mic then M.stop() mic=nil end
if s:byte()==1 then M.start{sample_rate=8000,bit_depth=8} mic='' end end,
B=function(s) D.set_brightness(s:byte()-2) end,
Q=function() put(C(12,math.floor(F.battery_level()))) end,
C=function(s)
local q,a,b,c,d=s:byte(1,5)
local n={'VERY_LOW','LOW','MEDIUM','HIGH','VERY_HIGH'}
wish={resolution=(a*256+b)*2,quality=n[q+1],pan=c*256+d-140}
cam,at,sum=0,0,0 end,
I=function(s) imu=s:byte()==1 end,
H=function(s) head=s:byte() up=false end}
local function take(p)
local c,st=p:byte(1),0
if c~=code then code,size,parts,got,idx=c,p:byte(2)*256+p:byte(3),{},0,0 p=p:sub(4)
else idx=idx+1 p=p:sub(2) end
parts[#parts+1]=p got=got+#p
if got>=size then
local m=table.concat(parts) code,parts=0,nil
if not keep(pcall(run[m:sub(1,1)],m:sub(2))) then st=1 end
end
put(C(1,c,idx%256,st)) end
pcall(M.stop)
B.receive_callback(function(s) if #I<8 then I[#I+1]=s end end)
F.imu.tap_callback(function() taps=taps+1 end)
put(C(16)..tostring(F.FIRMWARE_VERSION))
while B.is_connected() do
local now=F.time.utc()
if I[1] then take(table.remove(I,1)) end
while taps>0 do taps=taps-1 table.insert(O,1,C(9)) end
if mic and #O<4 then
local s=M.read(K)
if s then mic=mic..s end
while #mic>=K do put(C(21,num)..mic:sub(1,K)) num=(num+1)%256 mic=mic:sub(K+1) end end
if cam and cam<5 then
if now-at>.1 then at=now cam=cam+1 F.camera.auto{} if cam==5 then F.camera.capture(wish) end end
elseif cam==5 then if F.camera.image_ready() then cam=6 end
elseif cam and #O<4 then
local s=F.camera.read(L-1)
if s then sum=sum+#s put(C(7)..s) else put(C(8)..string.pack('>I4',sum)) cam=nil end end
if imu and now-ti>=.1 then
local r=F.imu.raw() local c,a=r.compass,r.accelerometer ti=now
put(C(10,0)..string.pack('<ffffff',c.x,c.y,c.z,a.x/4096,a.y/4096,a.z/4096)) end
if head and now-th>=.25 then
local u=F.imu.direction().pitch>(up and head-5 or head) th=now
if u~=up then up=u put(C(19,u and 1 or 0)) end end
while O[1] do
local ok,e=keep(pcall(B.send,O[1]))
if ok then table.remove(O,1) elseif tostring(e):find('busy') then break else error(e,0) end end
F.sleep((mic or cam or O[1]) and .001 or .01)
end
pcall(M.stop) D.text(' ',1,1) D.show()
""".strip().splitlines()
)

HEAD_UP_ANGLE = 20  # degrees, until the wearer sets one
TAP_BOUNCE = 0.04  # the vendor's libraries ignore repeats within this
TAP_WINDOW = 0.3  # ... and count taps within this

BRIGHTNESS_STEPS = 5  # -2 to 2 on the device
SAMPLES = 80  # 10 ms at 8 kHz: what one frame of sound takes as it comes
#: 8 kHz with 8 bits is 8 kB/s; 16 kHz with 16 bits would need more than this link carries.
AUDIO_MTU = 4 + 1 + SAMPLES + 1  # notification header and data prefix, code, ten milliseconds, number

PHOTO_SIDES = {"small": 256, "medium": 512, "large": 720, "full": 720}
PHOTO_QUALITY = {"none": 3, "medium": 2, "heavy": 1}  # of VERY_LOW 0 to VERY_HIGH 4
PHOTO_STALL = 5.0  # exposure takes 0.5 s, the capture less; then packets follow every 15 to 30 ms
PHOTO_DEADLINE = 25.0  # apps wait 30 s
PHOTO_BYTES_MAX = 1 << 20  # 720 pixels square are 100 to 200 kB

WIDTH, HEIGHT = 640, 400
LINE_HEIGHT, LINES = 60, 6
SPACING = 4
#: Widths of the device's font in pixels, as the vendor publishes them; letters it does not list, it does not draw.
_GLYPHS = {
    5: "!'i|ı",
    6: ".:¡·",
    8: ",;l",
    9: "[",
    10: "(]ł",
    11: ")`jrÍìí",
    12: "I{}Ì",
    13: ' "c',
    14: "?Jt¢¿ç",
    15: "/357\\fs°Ïïš",
    16: "12CLezÇÉÎéîñûƒ",
    17: "$-69EFSZu~«µ»ÈÊËèêëõùúüŠž",
    18: "048BGPbdhknopq£×ÞðòóôöøþŽ€",
    19: "#+<=>DHKNUavÑÙÚÛÜßàáâãäå÷Ł",
    20: "&ORT^gxy±ÒÓÔÕÖØýÿ",
    21: "*VX",
    22: "AQ¥ÀÐÝŸ",
    23: "MWYÁÂÃÄÅ",
    25: "_",
    28: "m©",
    29: "®æ",
    30: "wŒœ",
    31: "@",
    32: "Æ",
    34: "%",
}
FONT = text.Font(
    widths={character: width + SPACING for width, group in _GLYPHS.items() for character in group},
    wide=40,  # not drawn at all; counted, so that a line of such letters stays short
    other=24,
    max_lines=LINES,
    width=WIDTH,
    missing="¿",
)
COLUMN, SECOND_COLUMN = 300, 330


def lua(payload_max: int) -> list[bytes]:
    """The program as statements that fit one write each; each prints its number when it has run."""
    pieces: list[bytes] = []
    rest = PROGRAM
    while rest:
        head = f"P[{len(pieces) + 1}]="
        size = min(payload_max, WRITE_MAX) - len(f'{head}""print({len(pieces) + 1})')
        pieces.append(f'{head}"{rest[:size]}"print({len(pieces) + 1})'.encode())
        rest = rest[size:]
    return pieces


def message(code: int, body: bytes, payload_max: int) -> list[bytes]:
    """A message in the framing of the vendor's libraries: its length in the first packet, its code in each."""
    if len(body) > MESSAGE_MAX:
        raise Unsupported(f"a message of {len(body)} bytes: {MESSAGE_MAX} is the most")
    head = DATA + bytes((code,))
    whole = len(body).to_bytes(2, "big") + body
    size = max(2, min(payload_max, WRITE_MAX) - len(head))
    return [head + whole[at : at + size] for at in range(0, len(whole), size)]


def capture(quality: int, side: int, pan: int = 0) -> bytes:
    """The libraries' message for one photo: `quality` 0-4, `side` 100-720 pixels (even), `pan` -140 to 140."""
    return struct.pack(">BHHB", quality, side // 2, pan + 140, 0)


@dataclass
class _Photo:
    """A picture on its way from the glasses."""

    request_id: str
    since: float | None = (
        None  # nothing has come yet: only the deadline from the first look at the clock counts
    )
    last: float = 0.0
    data: bytearray = field(default_factory=bytearray)
    lost: bool = False  # its link has ended, and with it the program that held the picture


class FrameDriver(Driver):
    """The conversation with one Brilliant Frame."""

    def __init__(self) -> None:
        self._code = 0
        self._photo: _Photo | None = None
        self._taps = 0
        self._tapped: float | None = None
        self._sample = 0  # the last one heard, for the one in between
        self._audio = 0
        self._head_up_angle = HEAD_UP_ANGLE

    def opened(self, arm: Arm) -> None:
        self._taps, self._tapped = 0, None
        self._sample = 0
        if self._photo is not None:
            self._photo.lost = True

    def init(self, arm: Arm) -> Sequence[Sequence[Command]]:
        return (
            (Command("Lua prompt", _prompt, tries=2),),
            (Command("program", _upload, tries=2),),
            # If the program runs but its first word was lost, it answers a question.
            (Command("start", _start, tries=1), self._message("present?", Ask.BATTERY)),
        )

    def greet(self, arm: Arm) -> Sequence[Command]:
        return (
            self._message("battery", Ask.BATTERY),
            self._message("head-up angle", Ask.HEAD_ANGLE + bytes((self._head_up_angle,))),
        )

    def heartbeat(self, arm: Arm) -> Command:
        # In the queue with everything else: between the packets of another message it could overwrite one of them.
        return self._message("heartbeat", Ask.BATTERY, tries=1)

    def commands(self, arm: Arm, action: Action) -> Sequence[Command]:
        match action:
            case Show(Picture(data)):
                return (self._message("picture", _picture(data), lane=Lane.BULK, tries=1),)
            case Show(Blank()):
                return (self._message("blank", Ask.TEXT, lane=Lane.BULK, tries=1),)
            case Show(layout, page):
                pages = _pages(layout)
                lines = pages[max(0, min(page, len(pages) - 1))]
                body = "\n".join(text.visual_order(line) for line in lines)
                return (self._message("text", Ask.TEXT + body.encode(), lane=Lane.BULK, tries=1),)
            case Microphone(on):
                return (
                    self._message("microphone", Ask.MICROPHONE + bytes((on,)), mtu=AUDIO_MTU if on else 0),
                )
            case Brightness(percent, _):
                step = round(max(0, min(100, percent)) / 100 * (BRIGHTNESS_STEPS - 1))
                return (self._message("brightness", Ask.BRIGHTNESS + bytes((step,))),)
            case HeadUpAngle(degrees):
                self._head_up_angle = max(0, min(60, degrees))
                return (self._message("head-up angle", Ask.HEAD_ANGLE + bytes((self._head_up_angle,))),)
            case AskBattery():
                return (self._message("battery", Ask.BATTERY),)
            case Imu(on):
                return (self._message("motion", Ask.MOTION + bytes((on,))),)
            case TakePhoto():
                return (self._take_photo(action),)
            case Clock():
                return ()  # nothing on these glasses shows the time by itself
            case _:
                raise Unsupported(f"Brilliant Frame has no {type(action).__name__}")

    def pages(self, layout: Layout) -> int:
        return len(_pages(layout))

    def warnings(self, layout: Layout) -> Sequence[str]:
        return text.lacking(_texts(layout), FONT)

    def _message(
        self, name: str, body: bytes, *, lane: Lane = Lane.CONTROL, tries: int = 3, mtu: int = 0
    ) -> Command:
        def encode(payload_max: int) -> Sequence[Packet]:
            if payload_max + 3 < mtu:
                raise Unsupported(f"{name}: needs an MTU of {mtu}, this link has {payload_max + 3}")
            code = self._code = CODES[(self._code - CODES.start + 1) % len(CODES)]
            return [
                Packet(data, reply=("ack", code, index % 256), timeout=ANSWER_WAIT)
                for index, data in enumerate(message(code, body, payload_max))
            ]

        return Command(name, encode, lane=lane, tries=tries)

    def _take_photo(self, wish: TakePhoto) -> Command:
        if self._photo is not None:
            raise Unsupported("the camera is busy with another photo: ask again when that has come")
        self._photo = _Photo(wish.request_id)
        body = capture(PHOTO_QUALITY.get(wish.compress, 3), PHOTO_SIDES.get(wish.size, 512))
        return self._message("take photo", Ask.CAPTURE + body)

    # ---------------------------------------------------------------------------------------------------- decode

    def decode(self, arm: Arm, char: str, data: bytes, now: float) -> list[Event]:
        photo = self._photo
        if photo is not None and photo.lost:
            return [*self._photo_failed("the link was lost"), *self._read(data, now)]
        if photo is not None and photo.since is None:
            photo.since = photo.last = now
        return self._read(data, now)

    def _read(self, data: bytes, now: float) -> list[Event]:
        if not data:
            return [Unknown(data)]
        if data[:1] != DATA:
            return _printed(data)
        kind, body = data[1] if len(data) > 1 else -1, data[2:]
        match kind:
            case Said.ACK if len(body) == 3:
                return [Reply(("ack", body[0], body[1]), ok=body[2] == 0)]
            case Said.READY:
                version = body.decode("utf-8", "replace")[:64]
                return [*([Identity("firmware", version)] if version else []), Reply(("ready",))]
            case Said.AUDIO:
                self._audio = (self._audio + 1) % 256  # without a number, a lost packet cannot be seen
                return [AudioPacket(self._audio, (self._pcm(body),))] if body else []
            case Said.AUDIO_NUMBERED if len(body) > SAMPLES and len(body) % SAMPLES == 1:
                pcm = self._pcm(body[1:])
                size = 4 * SAMPLES  # twice the rate, twice the bytes
                frames = tuple(pcm[at : at + size] for at in range(0, len(pcm), size))
                return [AudioPacket(body[0], frames)]
            case Said.AUDIO_END:
                return []
            case Said.PHOTO:
                return self._photo_data(body, now)
            case Said.PHOTO_END:
                return self._photo_end(body)
            case Said.TAP:
                return self._tap(now)
            case Said.MOTION:
                return _motion(body) or [Unknown(data)]
            case Said.BATTERY if len(body) == 1:
                return [Battery(min(100, body[0]))]
            case Said.HEAD if len(body) == 1:
                return [Head(up=body[0] == 1)]
            case _:
                return [Unknown(data)]

    def _pcm(self, data: bytes) -> bytes:
        """Signed 8-bit samples at 8 kHz as 16 bit at 16 kHz: between two samples goes their mean."""
        samples = array("b", data)
        wide = [0] * (2 * len(samples))
        wide[0::2] = [(a + b) << 7 for a, b in zip(chain((self._sample,), samples), samples, strict=False)]
        wide[1::2] = [value << 8 for value in samples]
        self._sample = samples[-1]
        return struct.pack(f"<{len(wide)}h", *wide)

    def _tap(self, now: float) -> list[Event]:
        if self._tapped is not None and now - self._tapped < TAP_BOUNCE:
            return []
        self._taps += 1
        self._tapped = now
        return []

    def _photo_data(self, data: bytes, now: float) -> list[Event]:
        photo = self._photo
        if photo is None:
            return []
        photo.last = now
        photo.data += data
        if len(photo.data) > PHOTO_BYTES_MAX:
            return self._photo_failed(f"a picture above the limit of {PHOTO_BYTES_MAX} bytes")
        return []

    def _photo_end(self, body: bytes) -> list[Event]:
        photo = self._photo
        if photo is None:
            return []
        size = int.from_bytes(body, "big") if len(body) == 4 else len(photo.data)
        if len(photo.data) != size:
            return self._photo_failed(f"{len(photo.data)} of {size} bytes arrived")
        if photo.data[:2] != b"\xff\xd8" or photo.data[-2:] != b"\xff\xd9":
            return self._photo_failed("what arrived is no whole JPEG picture")
        self._photo = None
        return [PhotoData(photo.request_id, bytes(photo.data))]

    def _photo_failed(self, reason: str) -> list[Event]:
        photo, self._photo = self._photo, None
        return [] if photo is None else [PhotoFailed(photo.request_id, reason)]

    @property
    def deadline(self) -> float | None:
        times: list[float] = []
        if self._tapped is not None:
            times.append(self._tapped + TAP_WINDOW)
        if self._photo is not None and self._photo.since is not None:
            times.append(min(self._photo.last + PHOTO_STALL, self._photo.since + PHOTO_DEADLINE))
        return min(times, default=None)

    def handle_deadline(self, now: float) -> list[tuple[Arm, Event]]:
        events: list[Event] = []
        if self._tapped is not None and now >= self._tapped + TAP_WINDOW:
            gestures = (Gesture.SINGLE_TAP, Gesture.DOUBLE_TAP, Gesture.TRIPLE_TAP)
            events.append(Touch(gestures[min(self._taps, 3) - 1]))
            self._taps, self._tapped = 0, None
        photo = self._photo
        if photo is not None and photo.since is not None:
            end = min(photo.last + PHOTO_STALL, photo.since + PHOTO_DEADLINE)
            if now >= end:
                events += self._photo_failed(f"the glasses stopped sending after {len(photo.data)} bytes")
        return [(Arm.WHOLE, event) for event in events]


# ------------------------------------------------------------------------------------------------ prompt and prints


def _prompt(payload_max: int) -> Sequence[Packet]:
    """Whatever runs on the glasses ends, Lua starts afresh, and the prompt answers."""
    if payload_max < PAYLOAD_MIN:
        raise Unsupported(
            f"this link carries an MTU of {payload_max + 3}, Brilliant Frame needs {PAYLOAD_MIN + 3}: "
            "its program does not fit through"
        )
    return (
        *(Packet(control, gap=SETTLE) for control in (BREAK, RESET, BREAK)),
        Packet(b"P={}print(0)", reply=("print", b"0"), timeout=PROMPT_WAIT),
    )


def _upload(payload_max: int) -> Sequence[Packet]:
    return [
        Packet(data, reply=("print", str(number).encode()), timeout=PROMPT_WAIT)
        for number, data in enumerate(lua(payload_max), 1)
    ]


def _start(_: int) -> Sequence[Packet]:
    run = f"p,P=table.concat(P)assert(#p=={len(PROGRAM)})load(p)()"
    return (Packet(run.encode(), reply=("ready",), timeout=PROMPT_WAIT),)


def _printed(data: bytes) -> list[Event]:
    """What Lua printed: the number of a statement that has run, or why one did not."""
    if data.isdigit():
        return [Reply(("print", data))]
    words = data.decode("utf-8", "replace")
    if "break signal" in words:
        return []  # ours
    return [Warn(f"Lua on the glasses: {words[:160]}")] if data[:1] == b"[" else [Unknown(data)]


def _motion(body: bytes) -> list[Event]:
    """A pad byte, then compass and acceleration as the old libraries (12 bytes) or the current ones (24) have them."""
    match len(body):
        case 13:
            *_, x, y, z = struct.unpack("<6h", body[1:])
            return [Motion(x / 4096, y / 4096, z / 4096)]
        case 25:
            *_, x, y, z = struct.unpack("<6f", body[1:])
            return [Motion(x, y, z)]
        case _:
            return []


# -------------------------------------------------------------------------------------------------------- layouts


def _picture(data: str) -> bytes:
    """The lit part of a picture, in whole bytes: what is dark need not travel."""
    bits = bitmap.lens_bits(data, WIDTH, HEIGHT)
    row = WIDTH // 8
    rows = [bits[at : at + row] for at in range(0, len(bits), row)]
    lit = [number for number, line in enumerate(rows) if any(line)]
    if not lit:
        return Ask.TEXT
    columns = [number for number in range(row) if any(line[number] for line in rows)]
    left, right = columns[0], columns[-1] + 1
    body = b"".join(line[left:right] for line in rows[lit[0] : lit[-1] + 1])
    place = struct.pack(">HHH", 8 * left + 1, lit[0] + 1, 8 * (right - left))  # counted from 1 on this device
    return Ask.PICTURE + place + body


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


class Frame(Profile):
    """Brilliant Labs Frame."""

    key = "frame"
    model = "Brilliant Frame"
    arms = (Arm.WHOLE,)
    gatt = Gatt(service=_BASE.format(1), write=COMMANDS, notify=(REPLIES,))
    pace = Pace(heartbeat=8.0, heartbeat_timeout=ANSWER_WAIT, battery=80.0)
    audio = AudioFormat(frame_bytes=0)
    mtu = AUDIO_MTU
    bonds = True
    unpair = (
        "Frame keeps one bond: press the button in its cradle until the display says Ready to Pair, remove the "
        "glasses from this machine's Bluetooth list, then pair again"
    )
    taps_are_buttons = True
    capabilities = {
        # MentraOS ships no profile for this model; these are what the vendor's documents say.
        "modelName": "Brilliant Frame",
        "hasCamera": True,
        "camera": {"resolution": {"width": 720, "height": 720}, "hasHDR": False, "hasFocus": False},
        "hasDisplay": True,
        "display": {
            "count": 1,
            "isColor": True,
            "color": "full",
            "canDisplayBitmap": True,
            "resolution": {"width": WIDTH, "height": HEIGHT},
            "maxTextLines": LINES,
            "adjustBrightness": True,
        },
        "hasMicrophone": True,
        "microphone": {"count": 1, "hasVAD": False},
        "hasSpeaker": False,
        "speaker": None,
        "hasIMU": True,
        "imu": {"axisCount": 6, "hasAccelerometer": True, "hasCompass": True, "hasGyroscope": False},
        "hasButton": False,
        "button": None,
        "hasLight": False,
        "light": None,
        "power": {"hasExternalBattery": False},
        "hasWifi": False,
    }

    def recognise(self, advert: Advert) -> Sighting | None:
        match = _NAME.match(advert.name or "")
        # Two digits of the address are no name of a pair in a room of many: the address itself is.
        return None if match is None else Sighting(Arm.WHOLE, advert.address)

    def driver(self) -> FrameDriver:
        return FrameDriver()
