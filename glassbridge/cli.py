"""The `glassbridge` command.

Rules: what a command needs is imported when it runs, so that `--help` and `tap` are quick. Every way out has an exit
code of the product page; an expected failure is three lines, never a traceback.
"""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from typing import Annotated

import typer
from typer.exceptions import TyperException

from glassbridge.commands import admin, glasses, run, trace, wearer
from glassbridge.output import CommandError, Exit, complain, show
from wire.errors import ConfigError

app = typer.Typer(
    name="glassbridge",
    help="A self-hosted bridge for smart glasses: try it with `glassbridge dev`, no glasses needed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        show(f"glassbridge {installed_version('glassbridge')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


run.register(app)
wearer.register(app)
glasses.register(app)
trace.register(app)
admin.register(app)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in words
    try:
        result = app(words, standalone_mode=False, prog_name="glassbridge")
        return result if isinstance(result, int) else Exit.OK
    except typer.Exit as done:
        return done.exit_code
    except TyperException as error:
        if (
            type(error).__name__ == "NoArgsIsHelpError"
        ):  # the help is shown already, as a group alone is no command
            return Exit.USAGE
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "glassbridge"
        complain(f"{where} was not understood", error.format_message(), f"{where} --help", as_json=as_json)
        return Exit.USAGE
    except CommandError as error:
        complain(error.what, error.why, error.fix, as_json=as_json)
        return error.code
    except ConfigError as error:
        complain(error.what, error.why, error.fix, as_json=as_json)
        return Exit.CONFIG
    except PermissionError as error:
        complain(
            f"{error.filename or 'a file'} may not be used",
            error.strerror or str(error),
            "run it as the owner, or choose another --data-dir",
            as_json=as_json,
        )
        return Exit.PERMISSION
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
