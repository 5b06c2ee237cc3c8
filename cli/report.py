"""`kircerta report`: runs a notebook over a run, over runs against runs, over the log or the acceptance."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli import workspace
from cli.failures import Failure, WrongUse
from cli.screen import Json, progress, put_json, put_table, say

if TYPE_CHECKING:
    from reports.render import Report

WORDS: Final = {True: "ok", False: "fail", None: "open"}
_LOOK_S: Final = 0.5


def add_to(parent: typer.Typer) -> None:
    parent.command(name="report", rich_help_panel="Look", epilog="Example: kircerta report audit")(report)


def report(
    what: Annotated[
        str, typer.Argument(metavar="RUN_ID|audit|acceptance", help="A run of reports/runs, or one of these words.")
    ],
    against: Annotated[
        list[str] | None,
        typer.Option("--against", help="Compare the run with this one; repeatable. Five a side show a difference."),
    ] = None,
    json: Json = False,
) -> None:
    """Write a report: a page that works offline, and the notebook that it was made with. Prints where they are.

    A run's report goes beside its record, the log's into reports/audit. What is found is printed; that something does
    not hold is no error of the report: the exit code is 0 once it is written, and 1 where there is no such run.
    """
    if against and what in ("audit", "acceptance"):
        raise WrongUse(f"--against compares runs: {what} is none")
    home = workspace.settings().home
    with _telling():
        made = _make(what, list(against or ()), home)
    if json:
        paths = {"html": str(made.html), "notebook": str(made.notebook)}
        address = made.html.relative_to(home).as_posix()
        put_json({"title": made.title, "ok": made.ok, "verdicts": list(made.verdicts), "address": address, **paths})
        return
    rows = [(WORDS[one["ok"]], one["what"], one["value"]) for one in made.verdicts]
    put_table(("", made.title, ""), rows, styled="")
    say(str(made.html))


def _make(what: str, against: list[str], home: Path) -> Report:
    from reports.places import RUN_ID, NoSuchRun, run_folder

    try:
        if what not in ("audit", "acceptance"):
            for run_id in (what, *against):  # before the seconds that the import of the notebooks' machinery takes
                if not RUN_ID.fullmatch(run_id):
                    raise WrongUse(f"{run_id[:80]!r} is no run's id")
                run_folder(home, run_id)
        return _made(what, against, home)
    except NoSuchRun as error:
        raise Failure(str(error)) from None


def _made(what: str, against: list[str], home: Path) -> Report:
    from reports import render

    try:
        if what == "audit":
            return render.report_audit(home)
        if what == "acceptance":
            return render.report_acceptance(home)
        return render.report_comparison(what, against, home) if against else render.report_run(what, home)
    except render.ReportFailed as error:
        raise Failure(str(error)) from None


@contextmanager
def _telling() -> Iterator[None]:
    """Tells from a thread how long it has been going on: the work stays in the main one, where Ctrl-C reaches it."""
    done = threading.Event()

    def tell_on() -> None:
        waited = 0.0
        while not done.wait(_LOOK_S):
            waited += _LOOK_S
            tell(int(waited), None)

    with progress("making the report, seconds") as tell:
        teller = threading.Thread(target=tell_on, daemon=True)
        teller.start()
        try:
            yield
        finally:
            done.set()
            teller.join()
