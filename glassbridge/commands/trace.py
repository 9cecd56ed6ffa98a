"""Commands that look at what goes on: events of the cloud, recordings of the glasses.

Rules: events are the cloud's own trace, without anything that was said, typed or shown.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from glassbridge import target
from glassbridge.commands.run import Json
from glassbridge.output import CommandError, Exit, emit, show, talk

Url = Annotated[
    str | None, typer.Option("--url", help="Where it runs; default: the running `glassbridge dev`.")
]

#: The cloud answers a waiting request at the latest after so long. Seconds.
WAIT = 20
TRACE = "/api/admin/trace"

_HIDDEN = ("seq", "at", "user", "kind")


def event_line(record: dict[str, Any]) -> str:
    """One event for people: number, time, kind, and its members."""
    at = datetime.fromtimestamp(record["at"]).strftime("%H:%M:%S.%f")[:-3]
    if record["kind"] == "exchange":
        return f"{record['seq']:>6}  {at}  exchange         {exchange_line(record)}"
    members = " ".join(
        f"{name}={_value(value)}"
        for name, value in record.items()
        if name not in _HIDDEN and value not in (None, "")
    )
    return f"{record['seq']:>6}  {at}  {record['kind']:<16} {members}"


def exchange_line(record: dict[str, Any]) -> str:
    """`touch_event: glasses → edge 12 → cloud 0.8 → app 9 → ... → lens 41 ms, 63 in all`; `?` where nobody measured."""
    first, *hops = record["hops"]
    way = " → ".join(f"{hop['who']} {'?' if hop['ms'] is None else _value(hop['ms'])}" for hop in hops)
    return f"{record['about']} answered by {record['package']}: {first['who']} → {way} ms, {record['total_ms']:.0f} in all"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return str(value)


def until_interrupted(work: Coroutine[Any, Any, None]) -> bool:
    """Runs it to its end, or until Ctrl-C; True if it was interrupted.

    The signal becomes a cancellation between two steps of the loop. As an exception it would appear wherever Python
    happens to be: inside a finaliser it is dropped, and just before a system call it waits until that returns.
    """

    async def watched() -> bool:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
        done, _ = await asyncio.wait([task])
        if task in done and not task.cancelled():
            task.result()
        return task.cancelled()

    return asyncio.run(watched())


def events(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until interrupted.")] = False,
    kind: Annotated[
        list[str] | None, typer.Option("--kind", help="Only these: webhook, to_app, display, ... Repeatable.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """What the cloud did: webhooks, messages, displays with the time of each hop."""
    if context.invoked_subcommand is not None:
        return
    where = target.find(url)

    def say(records: list[dict[str, Any]]) -> None:
        for record in records:
            if not kind or record["kind"] in kind:
                emit(record) if as_json else show(event_line(record))

    if not follow:
        say(target.request(where, "GET", TRACE).json()["events"])
    elif until_interrupted(_follow(where, say)):
        raise KeyboardInterrupt


async def _follow(where: target.Target, say: Callable[[list[dict[str, Any]]], None]) -> None:
    """Everything that is there, then each event as it comes."""
    seen = 0
    with target.told(where):
        async with target.async_client(where, timeout=WAIT + 10) as client:
            while True:
                reply = await client.get(TRACE, params={"since": seen, "wait": WAIT if seen else 0})
                if not reply.is_success:
                    raise target.refusal(reply)
                records = reply.json()["events"]
                say(records)
                seen = max((record["seq"] for record in records), default=seen)
                if not seen:
                    await asyncio.sleep(0.5)


def resend(
    number: Annotated[int, typer.Argument(min=0, help="Number of the event, the first column of `events`.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Send one event of the glasses through its session once more."""
    done = target.request(target.find(url), "POST", f"/api/admin/trace/{number}/replay").json()
    if as_json:
        emit(done)
    else:
        show(f"event {done['replayed']} was sent again")


def record(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="Where to write it, e.g. demo.jsonl.")],
    url: Url = None,
) -> None:
    """Record what is done to the simulated glasses and what they show, until interrupted."""
    from httpx import HTTPError

    from glassbridge.recording import follow, header, line

    where = target.find(url)
    target.request(where, "GET", "/api/sim/state")
    count = 0

    async def work() -> None:
        nonlocal count
        async with target.async_client(where) as client:
            async for entry in follow(client, lambda: talk(f"recording to {file}; Ctrl-C ends it")):
                out.write(line(entry))
                out.flush()
                count += 1

    try:
        with file.open("wb") as out:
            out.write(header())
            out.flush()
            if until_interrupted(work()):
                if count:
                    talk(f"{count} lines in {file}; play them with: glassbridge replay {file} --expect-lens")
                else:
                    talk(f"nothing happened, so {file} is empty: tap the glasses, or speak, while it records")
    except HTTPError:
        raise CommandError(
            "the recording ended early", "the simulator went away", f"glassbridge replay {file}"
        ) from None


def replay(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A recording.")],
    expect_lens: Annotated[
        bool, typer.Option("--expect-lens", help="The lenses must show the same again; exit 1 if not.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> int:
    """Do again what was recorded."""
    from httpx import HTTPError

    from glassbridge.recording import expectations, read
    from glassbridge.recording import replay as play

    entries = read(file)
    where = target.find(url)
    target.request(where, "GET", "/api/sim/state")
    try:
        with target.client(where) as client:
            faults = play(client, entries, expect=expect_lens, folder=file.parent)
    except HTTPError as error:
        raise CommandError(
            "the replay ended early", type(error).__name__, "glassbridge dev", Exit.UNREACHABLE
        ) from None
    expected = len(expectations(entries)) if expect_lens else 0
    if as_json:
        emit({"ok": not faults, "faults": faults, "expected": expected})
    else:
        for fault in faults:
            show(fault)
        words = (
            f"{expected - len(faults)} of {expected} pictures appeared again" if expect_lens else "replayed"
        )
        show(words)
    return Exit.FAILED if faults else Exit.OK


def register(app: typer.Typer) -> None:
    """Adds these commands."""
    group = typer.Typer(invoke_without_command=True)
    group.callback()(events)
    group.command("replay")(resend)
    app.add_typer(group, name="events", rich_help_panel="Look closer")
    for command in (record, replay):
        app.command(rich_help_panel="Look closer")(command)
