"""Plays a scenario against a running `dev`: inputs in, expectations on what the wearer sees and the app hears.

Rules: a scenario is a TOML file of `[[step]]` tables, each with exactly one of the verbs below; it is checked whole
before anything runs. A step that fails ends the play with its reason. Nothing is faked: inputs go to the simulated
firmware, expectations read its lenses and the app's own figures.

    input = "tap"            any input of /api/sim/input, with its members beside it (side, value, text, for, ...)
    lens = "app"             both lenses show exactly what the app sent last
    lens = "some words"      both lenses show these words
    hear = "file.wav"        plays the file into the microphone; the app must receive sound that follows it
    shot = "lens.png"        writes the left lens as a picture
    wait = "1s"              lets time pass
"""

from __future__ import annotations

import asyncio
import io
import math
import time
import tomllib
import wave
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from glassbridge.clock import SLICE, Face, loudness
from glassbridge.output import CommandError, Exit, duration, emit

if TYPE_CHECKING:
    from glassbridge.dev import Dev

VERBS = ("input", "lens", "hear", "shot", "wait")

#: How long an expectation may take to come true unless the step says otherwise, in seconds. A quiet machine needs 0.2.
WITHIN = 15.0
#: Steps one file may have: more is a program, not a scenario.
STEPS_MAX = 1000
#: How well the curve that the app heard must follow the curve that was played. LC3 at 16 kbit/s reaches 0.97.
LIKENESS_MIN = 0.8
#: Sound may arrive so much later than it was played, in seconds, counted in chunks that the app received meanwhile.
DELAY_MAX = 3.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its verb, what it says, and the members beside it."""

    number: int
    verb: str
    what: str
    more: dict[str, Any]
    within: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """A checked file."""

    path: Path
    title: str
    steps: tuple[Step, ...]


class Missed(Exception):
    """An expectation did not come true."""


def load(path: Path) -> Scenario:
    """Reads and checks a file. Raises CommandError (78)."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        steps = document.pop("step", [])
        title = document.pop("title", path.stem)
        if document:
            raise ValueError(f"unknown member {next(iter(document))!r}; known are title and [[step]]")
        if not isinstance(steps, list) or not 0 < len(steps) <= STEPS_MAX:
            raise ValueError(f"1 to {STEPS_MAX} [[step]] tables are needed")
        checked = tuple(_step(number, table) for number, table in enumerate(steps, 1))
    except (OSError, ValueError, RecursionError) as error:  # errors of TOML and of its text are ValueErrors
        raise CommandError(
            f"{path} is not a scenario", str(error), "compare it with examples/demo.toml", Exit.CONFIG
        ) from None
    return Scenario(path, str(title), checked)


def _step(number: int, table: Any) -> Step:
    if not isinstance(table, dict):
        raise ValueError(f"step {number} is no table")
    verbs = [verb for verb in VERBS if verb in table]
    if len(verbs) != 1:
        raise ValueError(f"step {number} needs exactly one of {', '.join(VERBS)}")
    more = dict(table)
    what = more.pop(verbs[0])
    within = more.pop("within", WITHIN)
    if not isinstance(what, str):
        raise ValueError(f"step {number}: {verbs[0]} must be a string")
    if verbs[0] != "input" and more:
        raise ValueError(f"step {number}: unknown member {next(iter(more))!r}")
    if verbs[0] == "wait":
        duration(what)
    return Step(number, verbs[0], what, more, duration(str(within)))


async def play(
    scenario: Scenario, dev: Dev, say: Callable[[str], None], *, began: float, as_json: bool = False
) -> int:
    """Connects, starts the clock, plays every step; the exit code. `began` (monotonic) is when the set was started."""
    results: list[dict[str, Any]] = []
    fault: str | None = None
    lit: float | None = None
    try:
        await dev.connected()
        face = await _clock(dev)
        await _lens(dev, face, "app", WITHIN)
        lit = time.monotonic() - began
        say(f"lit       both lenses show what the clock sent, {lit:.1f} s after the start")
        for step in scenario.steps:
            at = time.monotonic()
            words = await _do(step, scenario, dev, face)
            ms = (time.monotonic() - at) * 1000
            results.append({"step": step.number, "verb": step.verb, "ms": round(ms, 1)})
            say(f"ok {step.number:>2}     {words}, {ms:.0f} ms")
    except (Missed, CommandError, httpx.HTTPError) as error:
        number = len(results) + 1 if lit is not None else 0
        fault = f"step {number}: {error}" if number else str(error)
    total = time.monotonic() - began
    if as_json:
        emit(
            {
                "event": "result", "ok": fault is None, "reason": fault, "steps": results,
                "lit_s": None if lit is None else round(lit, 2), "total_s": round(total, 2),
            }
        )  # fmt: skip
    if fault is not None:
        say(f"FAILED    {fault}")
        return Exit.FAILED
    say(f"passed    {len(results)} steps of {scenario.title!r} in {total:.1f} s, lens lit after {lit:.1f} s")
    return Exit.OK


async def _clock(dev: Dev) -> Face:
    """Starts the built-in app; its face for our wearer."""
    assert dev.clock is not None
    outcome = await dev.start_clock()
    if not outcome.ok:
        raise Missed(f"the clock did not start: {outcome.words}")
    faces = dev.clock.faces
    if not faces:
        raise Missed("the clock was started, but has no session")
    return next(iter(faces.values()))


async def _do(step: Step, scenario: Scenario, dev: Dev, face: Face) -> str:
    """Does one step; what was done, in words. Raises Missed."""
    match step.verb:
        case "input":
            await _input(dev, {"action": step.what, **step.more})
            return f"{step.what} {step.more.get('side', '')}".strip()
        case "lens":
            await _lens(dev, face, step.what, step.within)
            shown = "what the app sent" if step.what == "app" else repr(step.what)
            return f"both lenses show {shown}"
        case "hear":
            likeness = await _hear(dev, face, scenario.path.parent / step.what, step.within)
            return f"the app heard {step.what}, likeness of the loudness curves {likeness:.2f}"
        case "shot":
            picture = await dev.http.get(f"{dev.control}/api/sim/screenshot?side=left")
            await asyncio.to_thread(Path(step.what).write_bytes, picture.raise_for_status().content)
            return f"{step.what} written"
        case _:
            await asyncio.sleep(duration(step.what))
            return f"waited {step.what}"


async def _input(dev: Dev, body: dict[str, Any]) -> None:
    reply = await dev.http.post(f"{dev.control}/api/sim/input", json=body)
    if not reply.is_success:
        raise Missed(f"the glasses did not take {body['action']}: {reply.json().get('error')}")


def words_of(text: str) -> str:
    """Text without the breaks and padding that a lens adds."""
    return " ".join(text.split())


async def _lens(dev: Dev, face: Face, wanted: str, within: float) -> None:
    """Waits until every arm shows `wanted`. Raises Missed with what they show instead."""
    texts: dict[str, str] = {}
    try:
        async with asyncio.timeout(within):
            while True:
                device = await dev.sim_state()
                texts = {name: words_of(arm["lens"]["text"]) for name, arm in device["arms"].items()}
                target = words_of(face.shown)
                if wanted == "app" and target and all(text == target for text in texts.values()):
                    return
                if wanted != "app" and all(words_of(wanted) in text for text in texts.values()):
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        shown = "; ".join(f"{name}: {text!r}" for name, text in texts.items())
        hoped = repr(words_of(face.shown)) if wanted == "app" else repr(wanted)
        raise Missed(f"the lenses should show {hoped} within {within:.0f} s, but show {shown}") from None


async def _hear(dev: Dev, face: Face, path: Path, within: float) -> float:
    """Plays a file; waits until the app has heard it. Raises Missed. Returns the likeness."""
    try:
        raw = await asyncio.to_thread(path.read_bytes)
        played = curve_of_wav(raw)
    except (OSError, wave.Error, EOFError, ValueError) as error:
        raise Missed(f"{path} cannot be played: {error}") from None
    await _microphone(dev, within)
    face.levels.clear()
    reply = await dev.http.post(f"{dev.control}/api/sim/input", files={"wav": (path.name, raw, "audio/wav")})
    if not reply.is_success:
        raise Missed(f"the microphone did not take {path.name}: {reply.json().get('error')}")
    seconds = len(played) * SLICE
    best = 0.0
    try:
        async with asyncio.timeout(seconds + within):
            while best < LIKENESS_MIN:
                await asyncio.sleep(0.1)
                best = likeness(played, curve(face.levels))
    except TimeoutError:
        heard = len(face.levels) * SLICE
        raise Missed(
            f"the app heard {heard:.1f} s of sound, but its loudness does not follow {path.name}: "
            f"likeness {best:.2f}, at least {LIKENESS_MIN} is needed"
        ) from None
    return best


async def _microphone(dev: Dev, within: float) -> None:
    try:
        async with asyncio.timeout(within):
            while True:
                if (await dev.sim_state())["microphone"]["on"]:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise Missed(f"the microphone was not switched on within {within:.0f} s") from None


# -- loudness curves: pure ----------------------------------------------------------------------------------


def curve(levels: Iterable[float]) -> list[float]:
    """Loudness in dB as amplitudes."""
    return [10 ** (level / 20) for level in levels]


def curve_of_wav(raw: bytes) -> list[float]:
    """The same of a WAV file, 16 bit. Raises wave.Error, EOFError or ValueError."""
    with wave.open(io.BytesIO(raw)) as file:
        if file.getsampwidth() != 2:
            raise ValueError("16 bits per sample are needed")
        frames = int(file.getframerate() * SLICE)
        found = []
        while len(pcm := file.readframes(frames)) == frames * 2 * file.getnchannels():
            found.append(10 ** (loudness(pcm) / 20))
    if not found:
        raise ValueError("it is shorter than 20 ms")
    return found


def likeness(played: Sequence[float], heard: Sequence[float]) -> float:
    """The best correlation of the two curves over all delays at which all that was played has been heard; -1 to 1."""
    best = -1.0
    for delay in range(min(len(heard) - len(played), int(DELAY_MAX / SLICE)) + 1):
        best = max(best, _correlation(played, heard[delay : delay + len(played)]))
    return best


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    mean_one, mean_other = sum(one) / len(one), sum(other) / len(other)
    shared = sum((a - mean_one) * (b - mean_other) for a, b in zip(one, other, strict=True))
    spread = math.sqrt(sum((a - mean_one) ** 2 for a in one) * sum((b - mean_other) ** 2 for b in other))
    return shared / spread if spread else 0.0
