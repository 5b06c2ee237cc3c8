"""Reports as flows: the command writes them in a process of its own; the run links the page and shows what it says."""

from __future__ import annotations

from typing import Any, Final

import orjson
from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict

from flows import exhibits
from flows.command import carry_out
from flows.workspace import current
from ssot.settings import Settings

LONGEST_S: Final = 900
_WORDS: Final = {True: "holds", False: "**fails**", None: "open"}


class Verdict(BaseModel):
    """One thing that a report judged; `ok` is None where nobody can tell."""

    model_config = ConfigDict(frozen=True)

    what: str
    value: str
    ok: bool | None


class Made(BaseModel):
    """What `kircerta report --json` says of a report that it wrote."""

    model_config = ConfigDict(frozen=True)

    title: str
    ok: bool
    address: str
    verdicts: tuple[Verdict, ...]


class ReportFailed(Exception):
    """The command wrote no report; the message is what it said."""


@flow(name="report_run", flow_run_name="report {run_id}", persist_result=False)
async def report_run(run_id: str, against: list[str] | None = None) -> State[Any]:
    """Write a load run's report; with `against`, compare it with those runs."""
    others = [part for one in against or [] for part in ("--against", one)]
    return await _report(run_id, *others)


@flow(name="report_audit", flow_run_name="report audit", persist_result=False)
async def report_audit() -> State[Any]:
    """Write the log's report: who, what, how long, and whether the chain holds."""
    return await _report("audit")


async def _report(what: str, *options: str) -> State[Any]:
    """A report that says that something fails is a report: the run completes, under a name that says so."""
    settings = current().settings
    made = await write_report(settings, what, *options)
    key = "report-audit" if what == "audit" else "report-run"
    await acreate_markdown_artifact(page_of(made, settings.api_url), key=key, description=made.title)
    failing = [one.what for one in made.verdicts if one.ok is False]
    if failing:
        return Completed(name="SomethingFails", message=f"{made.address}: {', '.join(failing)}"[:500])
    return Completed(name="AllHolds", message=made.address)


async def write_report(settings: Settings, what: str, *options: str) -> Made:
    """Have the command write a report. Raises ReportFailed. Nothing is left running, whatever ends this."""
    try:
        said = await carry_out(settings, "report", "--json", *options, "--", what, longest_s=LONGEST_S)
    except TimeoutError:
        raise ReportFailed(f"the report of {what} took longer than {LONGEST_S} s") from None
    if said.code != 0:
        raise ReportFailed(said.last_word)
    return Made.model_validate(orjson.loads(said.out))


def page_of(made: Made, api_url: str) -> str:
    """The artifact: a link to the page, and a table of what it says."""
    address = f"{api_url.rstrip('/')}/{made.address}"
    rows = ((_WORDS[one.ok], exhibits.escaped(one.what), exhibits.escaped(one.value)) for one in made.verdicts)
    lines = [f"# {exhibits.escaped(made.title)}", "", f"[The report]({address})", ""]
    return "\n".join([*lines, *exhibits.table(("", "what", "figure"), rows)]) + "\n"
