"""Commands for whoever wears the glasses: doctor, pair, scan, service.

Rules: what takes longer than a second shows progress, on stderr. Nothing is changed by looking.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from glassbridge.commands.run import Config, DataDir, Json, edge, given
from glassbridge.output import CommandError, Exit, duration, emit, show, talk

Radio = Annotated[
    str | None, typer.Option("--radio", help="`default` (the system), or bumble:<HCI transport>.")
]
Seconds = Annotated[str, typer.Option("--for", metavar="TIME", help="How long to look: 10s.")]

service = typer.Typer(help="Run it at every boot, with systemd.", no_args_is_help=True)


class Role(StrEnum):
    EDGE = "edge"
    CLOUD = "cloud"


def _time(text: str) -> float:
    try:
        return duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _no_radio(error: Exception) -> CommandError:
    return CommandError("Bluetooth cannot be used", str(error), "glassbridge doctor", Exit.UNREACHABLE)


def doctor(
    radio: Radio = None, config: Config = None, data_dir: DataDir = None, as_json: Json = False
) -> int:
    """Why it does not work: one finding a line, with the command that fixes it."""
    from edge.config import EdgeConfig
    from edge.doctor import Level, examine, worst

    loaded = EdgeConfig.load(config, given(radio=radio, data_dir=data_dir))
    findings = asyncio.run(examine(loaded, lambda what: talk(f"looking at: {what}")))
    if as_json:
        emit(
            {
                "findings": [
                    {"level": one.level, "what": one.what, "why": one.why, "fix": one.fix} for one in findings
                ]
            }
        )
        return worst(findings)
    for one in findings:
        mark = {Level.OK: "ok     ", Level.WARNING: "warning", Level.ERROR: "error  "}[one.level]
        show(f"{mark}  {one.what}" + (f": {one.why}" if one.why else ""))
        if one.fix:
            show(f"         fix: {one.fix}")
    return worst(findings)


def pair(
    glasses: Annotated[
        str | None, typer.Option("--glasses", metavar="ADDRESS", help="Which, when several are in sight.")
    ] = None,
    who: Annotated[str, typer.Option("--user", help="Whose they are, when a daemon serves several.")] = "",
    seconds: Seconds = "10s",
    radio: Radio = None,
    config: Config = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Find your glasses, make sure that they answer, and remember them."""
    from edge.config import EdgeConfig
    from edge.daemon import Store
    from edge.pairing import pair as ritual
    from wire.errors import GlassesError

    loaded = EdgeConfig.load(config, given(radio=radio, data_dir=data_dir))
    talk("open the case beside this machine; the glasses must not be connected to a phone")
    try:
        found = asyncio.run(ritual(loaded.radio, glasses, _time(seconds), lambda words: talk(f"  {words}")))
    except GlassesError as error:
        raise _no_radio(error) from None
    addresses = {arm.value: address for arm, address in found.addresses.items()}
    Store(loaded.data_dir).save(who, {"model": found.model, "pair": found.pair, "addresses": addresses})
    if as_json:
        emit({"model": found.model, "pair": found.pair, "addresses": addresses})
        return
    arms = ", ".join(f"{arm} {address}" for arm, address in addresses.items())
    show(f"paired {found.name} ({arms}). Next: glassbridge edge run --cloud URL")


@edge.command("scan")
def edge_scan(
    seconds: Seconds = "10s",
    radio: Radio = None,
    config: Config = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Which glasses are in sight."""
    from edge.config import EdgeConfig
    from edge.pairing import look
    from wire.errors import GlassesError

    loaded = EdgeConfig.load(config, given(radio=radio, data_dir=data_dir))
    talk(f"looking for {_time(seconds):.0f} s")
    try:
        found = asyncio.run(look(loaded.radio, _time(seconds), lambda words: talk(f"  {words}")))
    except GlassesError as error:
        raise _no_radio(error) from None
    if as_json:
        emit(
            {
                "glasses": [
                    {
                        "model": one.model,
                        "pair": one.pair,
                        "complete": one.complete,
                        "arms": {
                            arm.value: [{"address": address, "rssi": rssi} for address, rssi in seen]
                            for arm, seen in one.arms.items()
                        },
                    }
                    for one in found
                ]
            }
        )
        return
    for one in found:
        state = "complete" if one.complete else "ambiguous" if one.ambiguous else "only a part"
        show(f"{one.name} {one.pair}: {state}")
    if not found:
        show("no glasses in sight: open the case, and disconnect them in the phone's app")


@service.command("install")
def service_install(
    role: Annotated[Role, typer.Argument(help="Which program.")] = Role.EDGE,
    for_user: Annotated[
        bool, typer.Option("--user/--system", help="For you, or for the whole machine.")
    ] = True,
    cloud: Annotated[
        str | None, typer.Option("--cloud", metavar="URL", help="For the edge: which cloud.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", dir_okay=False, help="For the edge: the core token.")
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the unit.")] = False,
) -> None:
    """Write a systemd unit, after showing it."""
    from glassbridge.systemd import make

    if role is Role.CLOUD and (cloud or token_file):
        raise typer.BadParameter("--cloud and --token-file are for the edge")
    arguments = []
    for option, value in (("--cloud", cloud), ("--token-file", token_file), ("--config", config)):
        if value is not None:
            arguments += [option, str(value.absolute() if isinstance(value, Path) else value)]
    unit = make(role.value, arguments, for_user=for_user, data_dir=data_dir.absolute() if data_dir else None)
    show(unit.text)
    if dry_run:
        return
    try:
        unit.path.parent.mkdir(parents=True, exist_ok=True)
        unit.path.write_text(unit.text)
    except PermissionError:
        raise CommandError(
            f"{unit.path} was not written",
            "only root may install a service for the whole machine",
            f"sudo glassbridge service install {role.value} --system   (or leave out --system)",
            Exit.PERMISSION,
        ) from None
    talk(f"written to {unit.path}; start it with:")
    show(unit.start)


def register(app: typer.Typer) -> None:
    """Adds these commands."""
    panel = "Wear glasses"
    app.command(rich_help_panel=panel)(doctor)
    app.command(rich_help_panel=panel)(pair)
    app.add_typer(service, name="service", rich_help_panel=panel)
