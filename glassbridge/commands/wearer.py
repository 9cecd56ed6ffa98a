"""Commands for whoever wears the glasses: doctor, pair, scan, service.

Rules: what takes longer than a second shows progress, on stderr. Nothing is changed by looking.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from glassbridge.commands.run import Config, DataDir, Json, edge, given
from glassbridge.output import CommandError, Exit, duration, emit, show, talk

if TYPE_CHECKING:
    from wire.errors import GlassesError

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


def _failed(error: GlassesError) -> CommandError:
    """What the radio or the glasses said, in words and with a way out."""
    from edge.doctor import FAULT_WORDS
    from wire.errors import GlassesFault

    words = FAULT_WORDS[error.fault]
    radio = {
        GlassesFault.ADAPTER_MISSING: Exit.UNREACHABLE,
        GlassesFault.ADAPTER_DOWN: Exit.UNREACHABLE,
        GlassesFault.ADAPTER_QUIET: Exit.UNREACHABLE,
        GlassesFault.PERMISSION: Exit.PERMISSION,
    }
    if error.fault in radio:
        return CommandError("Bluetooth cannot be used", words, "glassbridge doctor", radio[error.fault])
    cures = {
        GlassesFault.NOT_PAIRED: "Remove them from this machine's Bluetooth devices, follow their page in docs/glasses "
        "to end the old bond, then: glassbridge pair",
        GlassesFault.INCOMPATIBLE: "Update their firmware with the vendor's app, then: glassbridge pair",
        GlassesFault.BUSY: "Disconnect another Bluetooth device, then: glassbridge pair",
    }
    near = "Bring them within two metres, put them into the case for a moment, then: glassbridge pair"
    return CommandError("the glasses were not paired", f"{words} ({error})", cures.get(error.fault, near))


def _refuse_beside_a_daemon(socket_path: Path) -> None:
    """Glasses in the hands of a daemon do not advertise: searching would only find out that they are away."""
    from edge import control

    try:
        status = control.ask(socket_path, {"cmd": "status"})["status"]
    except (OSError, KeyError):
        return
    raise CommandError(
        "the edge daemon is running",
        f"process {status['pid']} holds the radio, and its glasses do not advertise to anybody else",
        "systemctl --user stop glassbridge-edge   (or Ctrl-C where it runs), then: glassbridge pair",
    )


def doctor(
    radio: Radio = None,
    cloud: Annotated[str | None, typer.Option("--cloud", metavar="URL", help="Which cloud to try.")] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", dir_okay=False, help="The core token to judge.")
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Why it does not work: one finding a line, with the command that fixes it."""
    from edge.config import EdgeConfig
    from edge.doctor import Level, examine, worst

    flags = given(radio=radio, cloud=cloud, token_file=token_file, data_dir=data_dir)
    loaded = EdgeConfig.load(config, flags)
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
    _refuse_beside_a_daemon(loaded.socket_path)
    talk("open the case beside this machine; the glasses must not be connected to a phone")
    try:
        found = asyncio.run(ritual(loaded.radio, glasses, _time(seconds), lambda words: talk(f"  {words}")))
    except GlassesError as error:
        raise _failed(error) from None
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
        raise _failed(error) from None
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


ForUser = Annotated[bool, typer.Option("--user/--system", help="For you, or for the whole machine.")]
Which = Annotated[Role, typer.Argument(help="Which program.")]


def _systemd(program: str = "systemctl") -> str:
    """Its path. Raises CommandError where there is no systemd."""
    found = shutil.which(program)
    if found is None:
        raise CommandError(
            f"{program} is not here",
            "services are run by systemd, on Linux"
            if sys.platform != "linux"
            else "this system has another init",
            "glassbridge edge run   (from whatever starts programs at boot on this system)",
            Exit.UNREACHABLE,
        )
    return found


def _not_root(path: Path, command: str) -> CommandError:
    return CommandError(
        f"{path} was not touched",
        "only root may change a service of the whole machine",
        f"sudo {command} --system   (or leave out --system)",
        Exit.PERMISSION,
    )


@service.command("install")
def service_install(
    role: Which = Role.EDGE,
    for_user: ForUser = True,
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
    if not dry_run:
        _systemd()
    arguments = []
    for option, value in (("--cloud", cloud), ("--config", config)):
        if value is not None:
            arguments += [option, str(value.absolute() if isinstance(value, Path) else value)]
    unit = make(
        role.value,
        arguments,
        for_user=for_user,
        data_dir=data_dir.absolute() if data_dir else None,
        token_file=token_file.absolute() if token_file else None,
    )
    if token_file is not None and not token_file.exists() and not dry_run:
        raise CommandError(
            f"there is no {token_file}",
            "the service could not say whose glasses these are",
            f"glassbridge token new --user YOU > {token_file} && chmod 600 {token_file}   (where the cloud runs)",
            Exit.CONFIG,
        )
    show(unit.text)
    if dry_run:
        return
    try:
        unit.path.parent.mkdir(parents=True, exist_ok=True)
        unit.path.write_text(unit.text)
    except PermissionError:
        raise _not_root(unit.path, f"glassbridge service install {role.value}") from None
    talk(f"written to {unit.path}; start it, now and at every boot, with:")
    show(unit.start)


@service.command("uninstall")
def service_uninstall(role: Which = Role.EDGE, for_user: ForUser = True) -> None:
    """Stop the service and remove its unit; paired glasses and other state stay."""
    from glassbridge.systemd import unit_name, unit_path

    path, name = unit_path(role.value, for_user=for_user), unit_name(role.value)
    if not path.exists():
        other = unit_path(role.value, for_user=not for_user)
        raise CommandError(
            f"{name} is not installed",
            f"there is no {path}",
            f"glassbridge service uninstall {role.value} {'--system' if for_user else '--user'}   ({other} exists)"
            if other.exists()
            else f"glassbridge service install {role.value}   (would install it)",
        )
    control = [_systemd(), *(["--user"] if for_user else [])]
    talk(f"stopping {name}")
    # Without a session of systemd (in a container, over su) there is nothing to stop; the unit goes all the same.
    stopped = subprocess.run(
        [*control, "disable", "--now", name], capture_output=True, text=True, timeout=60, check=False
    )
    if stopped.returncode:
        talk(f"systemctl: {stopped.stderr.strip().splitlines()[-1] if stopped.stderr.strip() else 'failed'}")
    try:
        path.unlink()
    except PermissionError:
        raise _not_root(path, f"glassbridge service uninstall {role.value}") from None
    subprocess.run([*control, "daemon-reload"], capture_output=True, timeout=60, check=False)
    show(f"removed {path}; paired glasses and settings are where they were")


@service.command("logs")
def service_logs(
    role: Which = Role.EDGE,
    for_user: ForUser = True,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 100,
) -> NoReturn:
    """What the service has said, from systemd's journal."""
    from glassbridge.systemd import unit_name

    journal = _systemd("journalctl")
    unit = f"--{'user-' if for_user else ''}unit={unit_name(role.value)}"
    wanted = [journal, unit, f"--lines={lines}", "--output=cat", *(["--follow"] if follow else [])]
    raise typer.Exit(subprocess.run(wanted, check=False).returncode)


def register(app: typer.Typer) -> None:
    """Adds these commands."""
    panel = "Wear glasses"
    app.command(rich_help_panel=panel)(doctor)
    app.command(rich_help_panel=panel)(pair)
    app.add_typer(service, name="service", rich_help_panel=panel)
