"""Commands that run one of the programs: dev, sim, edge, cloud.

Rules: each only turns flags into that program's configuration and hands over; what a flag means is said where it is
used. Flags that were not given are left out, so that files and the environment count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from glassbridge.output import emit, show

Json = Annotated[bool, typer.Option("--json", help="Machine-readable: a ready line, then nothing but JSON.")]
Config = Annotated[
    Path | None, typer.Option("--config", dir_okay=False, help="TOML file; flags and environment go first.")
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where state is kept.")]

sim = typer.Typer(
    help="Glasses that do not exist: simulated firmware on a virtual radio.", no_args_is_help=True
)
edge = typer.Typer(help="The daemon beside the glasses.", no_args_is_help=True)


def given(**flags: Any) -> dict[str, Any]:
    """What was given on the command line; the rest is for files, environment and defaults."""
    return {name: value for name, value in flags.items() if value is not None}


def dev(
    app: Annotated[
        list[str] | None, typer.Option("--app", metavar="URL", help="Also look for an app server here.")
    ] = None,
    once: Annotated[
        Path | None,
        typer.Option(
            "--once", metavar="FILE", exists=True, dir_okay=False, help="Play a scenario, then exit."
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the cloud; 0 = any.")] = 8002,
    model: Annotated[str, typer.Option("--model", help="Which glasses to simulate.")] = "g1",
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same glasses and radio.")] = 0,
    clock: Annotated[bool, typer.Option("--clock/--no-clock", help="Run the built-in app.")] = True,
    discover: Annotated[
        bool, typer.Option("--discover/--no-discover", help="Look for app servers on :3000 and :7010.")
    ] = True,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what the three programs log.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Simulated glasses, edge and cloud together, with the lens in your browser."""
    from glassbridge import dev as program

    return program.run(
        program.Options(
            apps=tuple(app or ()), once=once, port=port, model=model, seed=seed, clock=clock, discover=discover,
            verbose=verbose, as_json=as_json,
        )
    )  # fmt: skip


@sim.command("run")
def sim_run(
    model: Annotated[str, typer.Option("--model", help="g1, or several, comma-separated.")] = "g1",
    count: Annotated[int, typer.Option("--count", min=1, help="Pairs of each model.")] = 1,
    hci: Annotated[
        list[str] | None,
        typer.Option(
            "--hci", help="A port for a host: unix-server:PATH or tcp-server:HOST:PORT. Repeatable."
        ),
    ] = None,
    control_port: Annotated[
        int, typer.Option("--control-port", min=0, max=65535, help="0 = any free one.")
    ] = 0,
    scenario: Annotated[
        Path | None, typer.Option("--scenario", exists=True, dir_okay=False, help="Timed inputs to play.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same glasses and radio.")] = 0,
    btsnoop: Annotated[
        Path | None, typer.Option("--btsnoop", help="Record the HCI traffic for Wireshark.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Run simulated glasses until interrupted."""
    from firmware_sim.room import run

    models = [name.strip() for name in model.split(",")]
    return run(models, count, hci or [], control_port, scenario, seed, btsnoop, as_json)


@edge.command("run")
def edge_run(
    cloud: Annotated[str | None, typer.Option("--cloud", metavar="URL", help="wss://... or ws://...")] = None,
    radio: Annotated[
        str | None, typer.Option("--radio", help="`default` (the system), or bumble:<HCI transport>.")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", help="Whose glasses these are.")] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", dir_okay=False, help="File with the core token.")
    ] = None,
    glasses: Annotated[
        str | None, typer.Option("--glasses", help="Model, or address of the glasses.")
    ] = None,
    status_port: Annotated[
        int | None,
        typer.Option("--status-port", min=0, max=65535, help="Loopback port for /status, /metrics."),
    ] = None,
    btsnoop: Annotated[
        Path | None,
        typer.Option("--btsnoop", dir_okay=False, help="Capture what is said to the glasses, for Wireshark."),
    ] = None,
    simulated: Annotated[
        bool | None, typer.Option("--simulated", help="Mark the glasses as simulated on status pages.")
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Connect the glasses to the cloud, for ever."""
    from edge.config import EdgeConfig
    from edge.daemon import run

    flags = given(
        cloud=cloud, radio=radio, user=user, token_file=token_file, glasses=glasses,
        status_port=status_port, btsnoop=btsnoop, simulated=simulated, data_dir=data_dir,
    )  # fmt: skip
    return run(EdgeConfig.load(config, flags), json_ready=as_json)


@edge.command("status")
def edge_status(
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Draw it again every second, until Ctrl-C.")
    ] = False,
    config: Config = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """What the edge daemon on this machine is doing, and why."""
    from edge.config import EdgeConfig
    from glassbridge.edge_status import ask, draw, follow

    path = EdgeConfig.load(config, given(data_dir=data_dir)).socket_path
    if watch:
        follow(path, as_json=as_json)
    elif as_json:
        emit(ask(path))
    else:
        show(draw(ask(path)))


@edge.command("notify")
def edge_notify(
    title: Annotated[str, typer.Argument(help="First line.")],
    text: Annotated[str, typer.Argument(help="What it says.")] = "",
    app: Annotated[str, typer.Option("--app", metavar="NAME", help="Who says it.")] = "Glassbridge",
    who: Annotated[str, typer.Option("--user", help="For whom, when the daemon serves several.")] = "",
    config: Config = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Pass a notification of this machine on: to the glasses in their own style, and to apps."""
    from edge.config import EdgeConfig
    from glassbridge.edge_status import tell

    path = EdgeConfig.load(config, given(data_dir=data_dir)).socket_path
    said = tell(path, {"cmd": "notify", "title": title, "text": text, "app": app, "user": who})
    if as_json:
        emit(said)
    elif said["own_style"]:
        show(f"told the {said['model']}, and the apps that may read notifications")
    else:
        show(f"told the apps that may read notifications; {said['model']} shows none by itself")


def register(app: typer.Typer) -> None:
    """Adds these commands."""
    app.command(rich_help_panel="Run")(dev)
    app.add_typer(sim, name="sim", rich_help_panel="Run")
    app.add_typer(edge, name="edge", rich_help_panel="Run")
