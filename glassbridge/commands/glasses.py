"""Commands that play the wearer of simulated glasses: touch, look, speak, break the radio, see the lens.

Rules: each is one request to `/api/sim/...` of the running `dev` (or of a simulator named with `--url`). An input that
nothing takes is an error with the simulator's own reason.
"""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from glassbridge import target
from glassbridge.braille import draw
from glassbridge.output import CommandError, duration, emit, show, talk

Url = Annotated[
    str | None, typer.Option("--url", help="Where it runs; default: the running `glassbridge dev`.")
]
Device = Annotated[
    str | None, typer.Option("--device", help="Which pair, when there are several (g1-1, ...).")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


class Side(StrEnum):
    LEFT = "left"
    RIGHT = "right"


class Direction(StrEnum):
    UP = "up"
    DOWN = "down"


class Switch(StrEnum):
    ON = "on"
    OFF = "off"


def _input(url: str | None, as_json: bool, done: str, action: str, device: str | None, **fields: Any) -> None:
    body = {"action": action, **{key: value for key, value in fields.items() if value is not None}}
    if device is not None:
        body["device"] = device
    reply = target.request(target.find(url), "POST", "/api/sim/input", json=body)
    if as_json:
        emit(reply.json())
    else:
        show(done)


def _seconds(text: str) -> float:
    try:
        return duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def tap(
    side: Annotated[Side, typer.Argument(help="Which temple.")] = Side.RIGHT,
    double: Annotated[bool, typer.Option("--double", help="Twice.")] = False,
    triple: Annotated[bool, typer.Option("--triple", help="Three times.")] = False,
    hold: Annotated[bool, typer.Option("--hold", help="Press long.")] = False,
    url: Url = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Touch a temple of the glasses."""
    if double + triple + hold > 1:
        raise typer.BadParameter("choose one of --double, --triple, --hold")
    action = "double_tap" if double else "triple_tap" if triple else "long_press" if hold else "tap"
    _input(url, as_json, f"{action.replace('_', ' ')} {side.value}", action, device, side=side.value)


def look(direction: Direction, url: Url = None, device: Device = None, as_json: Json = False) -> None:
    """Raise or lower the head."""
    _input(url, as_json, f"looking {direction.value}", f"look_{direction.value}", device)


def press(url: Url = None, device: Device = None, as_json: Json = False) -> None:
    """Press the button (models that have one)."""
    _input(url, as_json, "pressed", "press", device)


def battery(
    percent: Annotated[int, typer.Argument(min=0, max=100)],
    side: Annotated[Side | None, typer.Option("--side", help="Only this arm.")] = None,
    url: Url = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Set the charge of the battery, in percent."""
    _input(url, as_json, f"battery {percent} %", "battery", device, value=percent, side=side)


def wear(switch: Switch, url: Url = None, device: Device = None, as_json: Json = False) -> None:
    """Put the glasses on, or take them off."""
    words = "worn" if switch is Switch.ON else "taken off"
    _input(url, as_json, words, "wear", device, value=switch is Switch.ON)


def drop(
    side: Annotated[Side | None, typer.Argument(help="Which arm; both when left out.")] = None,
    seconds: Annotated[
        float, typer.Option("--for", parser=_seconds, metavar="TIME", help="Stay unreachable: 5s, 2m.")
    ] = 0.0,
    url: Url = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Break the radio link of one arm or both."""
    body: dict[str, Any] = {"for": seconds} if seconds else {}
    _input(url, as_json, f"dropped {side or 'both arms'}", "drop", device, side=side, **body)


def lag(
    delay: Annotated[float, typer.Argument(parser=_seconds, metavar="TIME", help="200ms, 1s; 0 ends it.")],
    side: Annotated[Side | None, typer.Option("--side", help="Only this arm.")] = None,
    url: Url = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Delay everything on the radio link."""
    ms = round(delay * 1000)
    _input(url, as_json, f"lag {ms} ms", "lag", device, ms=ms, side=side)


def say(
    words: Annotated[str | None, typer.Argument(help="What somebody says.")] = None,
    wav: Annotated[
        Path | None, typer.Option("--wav", exists=True, dir_okay=False, help="Play this file instead.")
    ] = None,
    url: Url = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Speak into the microphone of the glasses: typed words, or the sound of a WAV file."""
    if (words is None) == (wav is None):
        raise typer.BadParameter("give either words or --wav FILE")
    if words is not None:
        _input(url, as_json, f"said {len(words.split())} words", "say", device, text=words)
        return
    assert wav is not None
    fields = {"device": device} if device else {}
    try:
        with wav.open("rb") as file:
            reply = target.request(
                target.find(url),
                "POST",
                "/api/sim/input",
                files={"wav": (wav.name, file, "audio/wav")},
                data=fields,
            )
    except OSError as error:
        raise CommandError(f"{wav} was not played", error.strerror or str(error), f"ls -l {wav}") from None
    if as_json:
        emit(reply.json())
    else:
        show(f"playing {reply.json()['seconds']:.1f} s of sound")


def shot(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write a PNG here.")] = None,
    as_ascii: Annotated[bool, typer.Option("--ascii", help="Draw it in the terminal.")] = False,
    side: Annotated[Side, typer.Option("--side", help="Which lens.")] = Side.LEFT,
    url: Url = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """A picture of what the wearer sees now."""
    if output is None and not as_ascii and not as_json:
        raise typer.BadParameter("give -o FILE.png or --ascii")
    where = target.find(url)
    query = {"side": side.value} | ({"device": device} if device else {})
    if as_ascii:
        pixels = target.request(where, "GET", "/api/sim/framebuffer", params=query)
        columns = shutil.get_terminal_size().columns
        show(draw(pixels.content, int(pixels.headers["x-width"]), columns=columns) or "(the lens is dark)")
    if output is not None:
        picture = target.request(where, "GET", "/api/sim/screenshot", params=query)
        try:
            output.write_bytes(picture.content)
        except OSError as error:
            raise CommandError(
                f"{output} was not written", error.strerror or str(error), "choose another place with -o"
            ) from None
        if not as_json:
            talk(f"{output}: {len(picture.content)} bytes")
    if as_json:
        text = target.request(where, "GET", "/api/sim/screenshot", params={**query, "format": "text"})
        emit(
            {
                "side": side.value,
                "text": text.text,
                "version": int(text.headers["x-version"]),
                "file": str(output) if output else None,
            }
        )


def register(app: typer.Typer) -> None:
    """Adds these commands."""
    for command in (tap, look, press, battery, wear, drop, lag, say, shot):
        app.command(rich_help_panel="Simulated glasses")(command)
