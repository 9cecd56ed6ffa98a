"""What was done to simulated glasses and what their lenses showed, as lines of JSON; and doing it again.

Rules: a line is an input with its time, or what one lens showed with its time. Replaying gives the same inputs at the same
distances. With expectations, each picture that stood until the next input (or the end) must appear again, pixel for
pixel; a failure says which, and draws what was expected beside what was there.
"""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
from PIL import Image

from glassbridge.output import CommandError, Exit

VERSION = 1
#: Inputs that a recording repeats. Sound from a file or a microphone is not kept: `say` speaks the same words.
REPEATED = frozenset(
    {"tap", "double_tap", "triple_tap", "long_press", "swipe", "press", "look_up", "look_down", "wear", "battery",
     "charge", "case", "say", "drop", "lag", "blackhole", "silence"}
)  # fmt: skip
#: Beyond the recorded time, a picture may take so much longer to appear. Seconds.
SLACK = 3.0
#: A recording is read whole; an hour of captions has about 20,000 lines.
LINES_MAX = 200_000
#: What a lens shows now, as bits.
FRAMEBUFFER = "/api/sim/framebuffer"


@dataclass(frozen=True, slots=True)
class Input:
    """Something done to the glasses; the body of `/api/sim/input`."""

    at: float
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """One lens, from this moment on."""

    at: float
    arm: str
    text: str
    pixels: bytes
    width: int


Line = Input | Shown


def line(entry: Line) -> bytes:
    """One line of a recording."""
    match entry:
        case Input(at, body):
            value: dict[str, Any] = {"t": round(at, 3), "input": body}
        case Shown(at, arm, text, pixels, width):
            packed = base64.b64encode(zlib.compress(pixels, 9)).decode()
            value = {"t": round(at, 3), "lens": arm, "text": text, "width": width, "pixels": packed}
    return orjson.dumps(value) + b"\n"


def header() -> bytes:
    """The first line."""
    return orjson.dumps({"glassbridge_recording": VERSION}) + b"\n"


def read(path: Path) -> list[Line]:
    """Every entry of a file. Raises CommandError (78)."""
    try:
        lines = path.read_bytes().splitlines()
        if (
            not lines
            or len(lines) > LINES_MAX
            or orjson.loads(lines[0]).get("glassbridge_recording") != VERSION
        ):
            raise ValueError("its first line does not say that it is a recording")
        return [_entry(orjson.loads(raw)) for raw in lines[1:]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise CommandError(
            f"{path} is not a recording", str(error), f"glassbridge record {path}", Exit.CONFIG
        ) from None


def _entry(value: dict[str, Any]) -> Line:
    at = float(value["t"])
    if "input" in value:
        return Input(at, dict(value["input"]))
    pixels = zlib.decompress(base64.b64decode(value["pixels"]))
    return Shown(at, str(value["lens"]), str(value["text"]), pixels, int(value["width"]))


def expectations(entries: Iterable[Line]) -> list[Shown]:
    """What must appear again: per arm, the last picture before each input, and the last of all."""
    found: list[Shown] = []
    current: dict[str, Shown] = {}
    for entry in entries:
        if isinstance(entry, Shown):
            current[entry.arm] = entry
        else:
            found += current.values()
            current.clear()
    return found + list(current.values())


async def follow(client: httpx.AsyncClient, opened: Callable[[], None]) -> AsyncIterator[Line]:
    """Everything that happens to the first device once `opened` was called, until the connection ends. Times from then."""
    async with client.stream("GET", "/api/sim/events", timeout=None) as reply:
        reply.raise_for_status()
        opened()
        began = time.monotonic()
        async for raw in reply.aiter_lines():
            if not raw.startswith("data: "):
                continue
            change = orjson.loads(raw[6:])
            at = time.monotonic() - began
            match change.get("kind"):
                case "input" if change.get("action") in REPEATED:
                    yield Input(
                        at,
                        {k: v for k, v in change.items() if k not in ("version", "kind", "device", "at_ms")},
                    )
                case "spoken":
                    yield Input(at, {"action": "say", "text": change["spoken"]["text"]})
                case "lens":
                    arm = change["arm"]
                    picture = await client.get(FRAMEBUFFER, params={"side": arm})
                    yield _shown(picture, at, arm, change["lens"]["text"])


def _shown(reply: httpx.Response, at: float, arm: str, text: str) -> Shown:
    reply.raise_for_status()
    return Shown(at, arm, text, reply.content, int(reply.headers["x-width"]))


def replay(client: httpx.Client, entries: list[Line], *, expect: bool, folder: Path) -> list[str]:
    """Does all inputs again; what did not appear again, in words. Pictures of the differences go into `folder`."""
    began = time.monotonic()
    faults: list[str] = []
    due = {id(shown) for shown in expectations(entries)} if expect else set()
    pending: list[Shown] = []
    for entry in entries:
        if isinstance(entry, Shown):
            if id(entry) in due:
                pending.append(entry)
            continue
        faults += _settle(client, pending, began, folder)
        pending = []
        time.sleep(max(0.0, began + entry.at - time.monotonic()))
        reply = client.post("/api/sim/input", json=entry.body)
        if not reply.is_success:
            faults.append(
                f"{entry.at:.1f} s: {entry.body.get('action')} was not taken: {reply.json().get('error')}"
            )
    return faults + _settle(client, pending, began, folder)


def _settle(client: httpx.Client, pending: list[Shown], began: float, folder: Path) -> list[str]:
    """Waits for each expected picture."""
    faults = []
    for wanted in pending:
        end = max(began + wanted.at, time.monotonic()) + SLACK
        while (actual := _now(client, wanted.arm)).pixels != wanted.pixels:
            if time.monotonic() > end:
                picture = folder / f"difference-{wanted.arm}-{wanted.at:.1f}s.png"
                difference(wanted, actual).save(picture)
                faults.append(
                    f"{wanted.at:.1f} s: the {wanted.arm} lens should show {' '.join(wanted.text.split())!r}; "
                    f"see {picture}"
                )
                break
            time.sleep(0.05)
    return faults


def _now(client: httpx.Client, arm: str) -> Shown:
    return _shown(client.get(FRAMEBUFFER, params={"side": arm}), 0.0, arm, "")


def difference(wanted: Shown, actual: Shown) -> Image.Image:
    """Missing pixels red, pixels too many blue, the rest green."""
    size = (wanted.width, len(wanted.pixels) * 8 // wanted.width)
    should = Image.frombytes("1", size, wanted.pixels).convert("L")
    does = Image.frombytes(
        "1", size, actual.pixels.ljust(len(wanted.pixels), b"\0")[: len(wanted.pixels)]
    ).convert("L")
    both = Image.composite(should, Image.new("L", size), does)
    black = Image.new("L", size)
    return Image.merge(
        "RGB",
        (Image.composite(black, should, both), both, Image.composite(black, does, both)),
    )
