"""Commands for whoever runs a cloud: users, tokens, apps, configuration, and the cloud itself.

Rules: everything about a running cloud goes through its admin API, so it takes effect at once; `cloud init` and
`config` work on files. What is secret is shown once, alone on stdout where a script can take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import orjson
import typer

from glassbridge import target
from glassbridge.commands.run import Config, DataDir, Json, given
from glassbridge.output import CommandError, Exit, duration, emit, show, talk

user = typer.Typer(help="People who wear glasses.", no_args_is_help=True)
token = typer.Typer(help="What their glasses identify themselves with.", no_args_is_help=True)
apps = typer.Typer(help="App servers that the cloud may start.", no_args_is_help=True)
cloud = typer.Typer(help="The server between glasses and apps.", no_args_is_help=True)
config = typer.Typer(help="What is set, and where it was set.", no_args_is_help=True)

Url = Annotated[str | None, typer.Option("--url", help="The cloud; default: the one on this machine.")]
User = Annotated[str, typer.Argument(metavar="EMAIL", help="Who: an e-mail address.")]
Package = Annotated[str, typer.Argument(help="The app's package name.")]


def _api(url: str | None, method: str, path: str, body: Any = None) -> dict[str, Any]:
    where = target.find(url)
    options = {} if body is None else {"json": body}
    reply: dict[str, Any] = target.request(where, method, f"/api/admin{path}", **options).json()
    return reply


def _say(reply: dict[str, Any], as_json: bool, words: str) -> None:
    if as_json:
        emit(reply)
    else:
        show(words)


def _table(rows: Sequence[tuple[str, ...]], empty: str) -> str:
    if len(rows) < 2:
        return empty
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


# -- users and tokens ---------------------------------------------------------------------------------------


@user.command("add")
def user_add(
    who: User,
    name: Annotated[str | None, typer.Option("--name", help="How to show it.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Add a wearer."""
    reply = _api(url, "POST", "/users", given(user=who, displayName=name))
    _say(reply, as_json, f"{who} is known. Next: glassbridge token new --user {who}")


@user.command("list")
def user_list(url: Url = None, as_json: Json = False) -> None:
    """All wearers."""
    reply = _api(url, "GET", "/users")
    _say(reply, as_json, "\n".join(str(one["user_id"]) for one in reply["users"]) or "no users yet")


@user.command("remove")
def user_remove(who: User, url: Url = None, as_json: Json = False) -> None:
    """Remove a wearer: the session ends, tokens are revoked, data is deleted."""
    _say(_api(url, "DELETE", f"/users/{quote(who, safe='')}"), as_json, f"{who} is removed")


@token.command("new")
def token_new(
    who: Annotated[str, typer.Option("--user", metavar="EMAIL", help="For whom.")],
    ttl: Annotated[
        str | None, typer.Option("--ttl", metavar="TIME", help="Good for so long: 12h, 30m.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", help="To recognise it later.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a core token. It is shown once: alone on stdout, so that `> token-file` works."""
    try:
        seconds = None if ttl is None else duration(ttl)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    reply = _api(url, "POST", "/tokens", given(user=who, ttl=seconds, label=label))
    if as_json:
        emit(reply)
        return
    talk(f"core token {reply['tokenId']} for {reply['user']}; it is not shown again")
    show(reply["token"])


@token.command("list")
def token_list(
    who: Annotated[str | None, typer.Option("--user", metavar="EMAIL", help="Only this wearer's.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Tokens that were made, without the tokens themselves."""
    reply = _api(url, "GET", "/tokens" + (f"?user={quote(who, safe='')}" if who else ""))
    rows = [("ID", "USER", "LABEL", "STATE")] + [
        (one["token_id"], one["user_id"], one["label"], "revoked" if one.get("revoked_at") else "good")
        for one in reply["tokens"]
    ]
    _say(reply, as_json, _table(rows, "no tokens yet"))


@token.command("revoke")
def token_revoke(
    token_id: Annotated[str, typer.Argument(help="The ID that `token list` shows.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a token useless; glasses that came with it are disconnected."""
    _say(_api(url, "DELETE", f"/tokens/{quote(token_id, safe='')}"), as_json, f"token {token_id} is revoked")


# -- apps ---------------------------------------------------------------------------------------------------


@apps.command("add")
def app_add(
    package: Annotated[str, typer.Option("--package", help="Package name, as the app has it.")],
    public_url: Annotated[str, typer.Option("--url", metavar="URL", help="Where the app server listens.")],
    name: Annotated[str | None, typer.Option("--name", help="How to show it.")] = None,
    permission: Annotated[
        list[str] | None,
        typer.Option("--permission", help="What it may have: MICROPHONE, LOCATION, ... Repeatable."),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", exists=True, dir_okay=False, help="File with an API key to use."),
    ] = None,
    everybody: Annotated[
        bool, typer.Option("--for-all/--not-installed", help="Install it for everybody.")
    ] = True,
    at: Annotated[
        str | None, typer.Option("--cloud", metavar="URL", help="The cloud; default: on this machine.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Register an app server; its API key is shown once."""
    body = given(
        packageName=package,
        publicUrl=public_url,
        name=name,
        permissions=[{"type": one.upper()} for one in permission or ()],
        apiKey=key_file.read_text().strip() if key_file else None,
        installFor="all" if everybody else None,
    )
    _registered(_api(at, "POST", "/apps", body), as_json)


@apps.command("import")
def app_import(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="What `app export` or `mentra app export` wrote, or an app_config.json.",
        ),
    ],
    package: Annotated[
        str | None,
        typer.Option(
            "--package",
            metavar="NAME",
            help="The registered app that it describes, if the file does not say: settings, tools, permissions.",
        ),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="Where the app listens, if not where the file says."),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--cloud", metavar="URL", help="The cloud; default: on this machine.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Register an app from its exported JSON."""
    try:
        body = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as error:
        raise CommandError(
            f"{file} was not imported", f"it is not JSON ({error})", "export it again"
        ) from None
    if not isinstance(body, dict):
        raise CommandError(f"{file} was not imported", "it holds no JSON object", "export it again")
    if "packageName" not in body:
        if package is None:
            raise CommandError(
                f"{file} was not imported",
                "it has no packageName, as the app_config.json of a template has none",
                f"glassbridge app import {file} --package NAME   (of an app in `glassbridge app list`)",
                Exit.USAGE,
            )
        body = {**_api(at, "GET", f"/apps/{quote(package, safe='')}")["app"], **body}
    elif package not in (None, body["packageName"]):
        raise CommandError(
            f"{file} was not imported",
            f"it describes {body['packageName']}, not {package}",
            f"glassbridge app import {file}",
            Exit.USAGE,
        )
    else:
        body.setdefault("installFor", "all")
    if public_url:
        body["publicUrl"] = public_url
    _registered(_api(at, "POST", "/apps", body), as_json)


def _registered(reply: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(reply)
        return
    for warning in reply.get("warnings", ()):
        talk(f"warning: {warning}")
    talk(f"{reply['app']['packageName']} is registered at {reply['app']['publicUrl']}")
    if "apiKey" in reply:
        talk("its API key, not shown again:")
        show(reply["apiKey"])


@apps.command("export")
def app_export(package: Package, url: Url = None) -> None:
    """The app's record as JSON, for `app import` elsewhere; without its key."""
    emit(_api(url, "GET", f"/apps/{quote(package, safe='')}")["app"])


@apps.command("list")
def app_list(url: Url = None, as_json: Json = False) -> None:
    """All registered apps."""
    reply = _api(url, "GET", "/apps")
    rows = [("PACKAGE", "NAME", "URL")] + [
        (one["packageName"], one["name"], one["publicUrl"]) for one in reply["apps"]
    ]
    _say(reply, as_json, _table(rows, "no apps yet: glassbridge app add --help"))


@apps.command("remove")
def app_remove(package: Package, url: Url = None, as_json: Json = False) -> None:
    """Forget an app; it is stopped wherever it runs."""
    _say(_api(url, "DELETE", f"/apps/{quote(package, safe='')}"), as_json, f"{package} is removed")


@apps.command("rotate-key")
def app_rotate_key(package: Package, url: Url = None, as_json: Json = False) -> None:
    """Give an app a new API key, shown once; the old one is useless at once."""
    reply = _api(url, "POST", f"/apps/{quote(package, safe='')}/rotate-key")
    if as_json:
        emit(reply)
        return
    talk(f"{package} needs this key from now on; it is not shown again:")
    show(reply["apiKey"])


def _whose(who: str | None, url: str | None) -> str:
    found = who or target.find(url).user
    if found is None:
        raise typer.BadParameter("whose glasses? name the wearer with --user EMAIL")
    return quote(found, safe="")


@apps.command("start")
def app_start(
    package: Package,
    who: Annotated[str | None, typer.Option("--user", metavar="EMAIL", help="On whose glasses.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Start an app on somebody's glasses."""
    reply = _api(url, "POST", f"/sessions/{_whose(who, url)}/apps/{quote(package, safe='')}/start")
    _say(reply, as_json, f"{package} runs")


@apps.command("stop")
def app_stop(
    package: Package,
    who: Annotated[str | None, typer.Option("--user", metavar="EMAIL", help="On whose glasses.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Stop an app on somebody's glasses."""
    reply = _api(url, "POST", f"/sessions/{_whose(who, url)}/apps/{quote(package, safe='')}/stop")
    _say(reply, as_json, f"{package} is stopped")


# -- the cloud itself ---------------------------------------------------------------------------------------


@cloud.command("init")
def cloud_init(
    data_dir: DataDir = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535)] = 8002,
    public_url: Annotated[
        str | None, typer.Option("--public-url", metavar="URL", help="How apps and glasses reach it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the configuration and the secrets; the administrator's token is shown once."""
    import os

    from cloud.config import default_data_dir
    from cloud.setup import initialise

    made = initialise(data_dir or default_data_dir(os.environ), host=host, port=port, public_url=public_url)
    if as_json:
        emit(
            {
                "config": str(made.config_path),
                "secrets": str(made.secrets_path),
                "adminToken": made.admin_token,
            }
        )
        return
    talk(f"configuration  {made.config_path}" + ("" if made.config_made else "  (was there)"))
    talk(f"secrets        {made.secrets_path}" + ("  (was there)" if made.admin_token is None else ""))
    if made.admin_token is None:
        talk("the administrator's token was shown when the secrets were made; it cannot be shown again")
        talk("lost? put the SHA-256 of a new one into admin_token_sha256 in secrets.toml")
        return
    talk("administrator's token, not shown again; commands read it from GLASSBRIDGE_ADMIN_TOKEN:")
    show(made.admin_token)


@cloud.command("run")
def cloud_run(
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="0 = any free one.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that share the port.")
    ] = None,
    file: Config = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Serve glasses and apps until interrupted."""
    from cloud.config import CloudConfig
    from cloud.server import run

    flags = given(host=host, port=port, workers=workers, data_dir=str(data_dir) if data_dir else None)
    return run(CloudConfig.load(file, flags), json_ready=as_json)


@cloud.command("migrate")
def cloud_migrate(file: Config = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Copy everything from this machine's SQLite into the PostgreSQL that `store.url` names; the cloud must be stopped."""
    import asyncio

    from cloud.config import CloudConfig
    from wire.errors import ConfigError

    loaded = CloudConfig.load(file, given(data_dir=str(data_dir) if data_dir else None))
    if loaded.store.url is None:
        raise ConfigError(
            "store.url",
            "it names no PostgreSQL to move to",
            'Set it: GLASSBRIDGE_STORE__URL="postgresql://user:password@host/name" glassbridge cloud migrate',
        )
    try:
        from cloud.store.move import move
    except ImportError as error:
        raise ConfigError(
            "store.url", "the driver for PostgreSQL is not installed", "pip install 'glassbridge[cluster]'"
        ) from error
    counts = asyncio.run(move(loaded.directory, loaded.store.url.get_secret_value()))
    if as_json:
        emit({"moved": dict(counts)})
        return
    show(_table([("TABLE", "ROWS"), *((name, str(count)) for name, count in counts.items())], ""))
    talk("everything is copied; the file and the photos are left where they were")


@cloud.command("check")
def cloud_check(
    url: Annotated[str, typer.Argument(metavar="URL", help="As glasses and apps reach it: https://...")],
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", exists=True, dir_okay=False, help="A core token: also tries an idle socket."
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Health, TLS, the upgrade through the proxy, idle time-outs: one finding a line, with its cure."""
    import asyncio

    from cloud.check import Finding, Verdict, check

    core_token = token_file.read_text().strip() if token_file else None
    findings: list[Finding] = []

    async def all_findings() -> None:
        async for finding in check(url, token=core_token):
            findings.append(finding)
            if as_json:
                emit(
                    {
                        "step": finding.step,
                        "verdict": finding.verdict,
                        "found": finding.found,
                        "fix": finding.fix,
                    }
                )
                continue
            show(f"{finding.verdict.value:<8} {finding.step:<16} {finding.found}")
            if finding.fix:
                show(f"{'':<26}fix: {finding.fix}")

    asyncio.run(all_findings())
    return Exit.FAILED if any(finding.verdict is Verdict.FAILED for finding in findings) else Exit.OK


@config.command("show")
def config_show(
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    file: Config = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Every setting of the cloud with its value; secrets are hidden."""
    from cloud.config import CloudConfig

    settings = CloudConfig.load(file, given(data_dir=str(data_dir) if data_dir else None)).settings()
    if as_json:
        emit(
            {
                "settings": [
                    {"key": s.key, "value": s.value, "origin": s.origin, "about": s.about} for s in settings
                ]
            }
        )
        return
    rows = [("SETTING", "VALUE", "FROM" if origin else "MEANING")]
    rows += [(s.key, s.value, s.origin if origin else s.about) for s in settings]
    show(_table(rows, ""))


@config.command("check")
def config_check(file: Config = None, data_dir: DataDir = None, as_json: Json = False) -> int:
    """Whether the cloud would start with this configuration (exit 0), or why not (78). Changes nothing."""
    from cloud.config import CloudConfig

    loaded = CloudConfig.load(file, given(data_dir=str(data_dir) if data_dir else None))
    if loaded.auth.secret is not None or not loaded.is_loopback:
        loaded.ready_to_serve()  # on loopback, serving would make the secrets that are missing; checking does not
    _say({"ok": True}, as_json, "the configuration is good")
    return Exit.OK


def register(app: typer.Typer) -> None:
    """Adds these commands."""
    panel = "Serve others"
    for group, name in (
        (cloud, "cloud"),
        (user, "user"),
        (token, "token"),
        (apps, "app"),
        (config, "config"),
    ):
        app.add_typer(group, name=name, rich_help_panel=panel)
