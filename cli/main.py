"""The command: puts its parts together, and turns whatever goes wrong into one line and an exit code.

Importing this module and the others that define commands is cheap: what a command needs it imports when it runs.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Final

import typer

from cli import (
    accept,
    agents,
    audit_log,
    decisions,
    dispatch,
    doctor,
    evidence,
    keys,
    land,
    load,
    mcp,
    notify,
    processes,
    report,
    tasks,
    telegram,
    token,
    up,
    webhook,
)
from cli.failures import DOES_NOT_HOLD, INTERRUPTED, WRONG_USE, explain
from cli.screen import clean

NAME: Final = "kircerta"


@dataclass(slots=True)
class Manner:
    """How this run of the command tells of errors."""

    debug: bool = False


app = typer.Typer(
    name=NAME,
    help="Tasks for coding agents, with a gate that people hold and a log that cannot be rewritten.",
    epilog="Begin with: kircerta up. KIRCERTA_HOME names the workspace; it is the current folder otherwise.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(*, asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"{NAME} {version(NAME)}")
        raise typer.Exit


@app.callback()
def _manner(
    ctx: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from (or KIRCERTA_DEBUG=1).")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=lambda asked: _version(asked=asked), help="Show the version."
        ),
    ] = False,
) -> None:
    ctx.obj.debug |= debug


for part in (
    up,
    processes,
    telegram,
    notify,
    tasks,
    dispatch,
    agents,
    decisions,
    land,
    token,
    mcp,
    keys,
    audit_log,
    report,
    evidence,
    load,
    webhook,
    accept,
    doctor,
):
    part.add_to(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Gives the exit code: 0 done, 1 what was asked does not hold, 2 wrong use, 130 interrupted."""
    if os.name != "posix":
        print(f"{NAME}: it needs Unix file locks: use Linux, macOS or WSL2, not Windows itself", file=sys.stderr)
        return WRONG_USE
    manner = Manner(debug=os.environ.get("KIRCERTA_DEBUG", "") not in ("", "0"))
    with suppress(AttributeError):  # a stream that a test put there
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _run(arguments, manner)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read our output has had enough
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DOES_NOT_HOLD
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else DOES_NOT_HOLD


def _run(arguments: Sequence[str] | None, manner: Manner) -> int:
    command = typer.main.get_command(app)
    try:
        given = None if arguments is None else list(arguments)
        code = command.main(given, prog_name=NAME, standalone_mode=False, obj=manner)
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        return _tell_wrong_use(error)
    except BrokenPipeError:
        raise
    except Exception as error:
        if manner.debug:
            traceback.print_exc()
        line, code = explain(error)
        print(f"{NAME}: {_one_line(line)}", file=sys.stderr)
        return code


def _tell_wrong_use(error: typer.TyperException) -> int:
    """A wrong option or argument: what is wrong, and where the right ones are listed. No arguments at all: the help."""
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message)
        return error.exit_code
    hint = f" ({context.command_path} --help)" if context is not None else ""
    print(f"{NAME}: {_one_line(message).rstrip('.')}{hint}", file=sys.stderr)
    return error.exit_code


def _one_line(text: str) -> str:
    return " ".join(clean(text).split())


if __name__ == "__main__":
    sys.exit(main())
