"""`kircerta accept`: the acceptance checklist, module by module, on workspaces of its own."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cli import workspace
from cli.failures import Failure, WrongUse
from cli.screen import Json, live, note, put_json, put_table, say

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flows.accept.record import Acceptance


def add_to(parent: typer.Typer) -> None:
    parent.command(name="accept", rich_help_panel="Check", epilog="Example: kircerta accept --module stream")(accept)


def accept(
    module: Annotated[
        list[str] | None,
        typer.Option(
            "--module",
            help="Only this one: truth-and-gate, stream, webhooks, agents or load. Several times.",
            show_default=False,
        ),
    ] = None,
    api: Annotated[
        str | None,
        typer.Option(
            help="The command that serves the API under test, e.g. another build's; `--port NUMBER` is added.",
            show_default=False,
        ),
    ] = None,
    page: Annotated[bool, typer.Option(help="Whether the page reports/acceptance.html is made, too.")] = True,
    json: Json = False,
) -> None:
    """Check what the project promises, in a minute or two. Exit code 1 where something does not hold.

    Nothing of the workspace is touched but reports/acceptance.json and its page: each module has a temporary workspace
    with an API of its own. A short form is no long run: only a soak of two hours in reports/runs counts as one.
    """
    given = workspace.settings()
    from flows.accept.checklist import MODULES, carry_out
    from flows.playground import API_COMMAND

    names = list(dict.fromkeys(module or ()))
    unknown = [name for name in names if name not in MODULES]
    if unknown:
        raise WrongUse(f"--module {unknown[0]}: it is one of {', '.join(MODULES)}")
    command = _command(api) if api is not None else API_COMMAND
    with live() as show, _ending_cleanly():
        found = carry_out(given, names, show=show, command=command)
        html = _page(given.home, show) if page else None
    put_json(found.model_dump(mode="json")) if json else _tell(found, html)
    if not found.ok:
        raise typer.Exit(Failure.code)


@contextmanager
def _ending_cleanly() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does: with the servers that it started."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _command(given: str) -> tuple[str, ...]:
    try:
        found = tuple(shlex.split(given))
    except ValueError as error:
        raise WrongUse(f"--api: {error}") from None
    if not found:
        raise WrongUse("--api: no command")
    return found


def _page(home: Path, show: Callable[[str], None]) -> Path | None:
    """The page; the record counts without it, too."""
    from reports import render
    from reports.places import NoSuchRun

    show("writing the page")
    try:
        return render.report_acceptance(home).html
    except (render.ReportFailed, NoSuchRun) as error:
        note(f"kircerta: no page was made: {error}")
        return None


def _tell(found: Acceptance, html: Path | None) -> None:
    rows = [
        ("ok" if check.ok else "fail", of.name, f"{check.name}: {check.detail}")
        for of in found.modules
        for check in of.checks
    ]
    put_table(("", "module", "check"), rows, styled="")
    for of in found.modules:
        for line in of.not_shown:
            say(f"not shown ({of.name}): {line}")
    for of in found.modules:
        held = sum(check.ok for check in of.checks)
        say(f"{of.name}: {held} of {len(of.checks)} hold, {of.seconds:.0f} s", "green" if of.ok else "red")
    only = f", of what was run; not run: {', '.join(found.not_run)}" if found.not_run else ""
    say(("ACCEPTED" if found.ok else "NOT ACCEPTED") + only, "green" if found.ok else "red")
    if html is not None:
        say(str(html))
