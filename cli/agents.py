"""`kircerta agents`: which agents there are, whether they would run, and how far a reviewer can be relied on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import workspace
from cli.failures import Failure, WrongUse
from cli.screen import Json, progress, put_json, put_table, say

if TYPE_CHECKING:
    from flows.agents.readiness import Readiness
    from flows.agents.registry import Agents, Role
    from flows.calibration.run import Wish
    from ssot.runs import RunRecord
    from ssot.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Look at the agents: which there are, and whether they would run.")


def add_to(parent: typer.Typer) -> None:
    parent.add_typer(app, name="agents", rich_help_panel="Look")


@app.command("list", epilog="Example: kircerta agents list")
def list_agents(json: Json = False) -> None:
    """List the agents that a dispatch can name, built-in ones first. Nothing is started for it."""
    from flows.agents.readiness import all_agents, installed

    given, agents = _agents()
    found, programs = all_agents(agents, given.home), installed()
    if json:
        put_json({"agents": [_plain(one) for one in found], "profiles": programs})
        return
    rows = ((one.name, one.role, one.kind, one.principal or "-", _standing(one)) for one in found)
    put_table(("AGENT", "ROLE", "KIND", "PRINCIPAL", "STANDING"), rows, styled="STANDING")
    told = ", ".join(f"{name} ({'installed' if path else 'not installed'})" for name, path in programs.items())
    say(f"profiles for config/agents.toml: {told}, command (any other)", "dim")


@app.command(epilog="Example: kircerta agents check codex")
def check(
    name: Annotated[str | None, typer.Argument(help="Only this agent; without it all.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Say whether agents would run: the program and its version, what it is started with, which keys it would get.

    Nothing but `--version` is started. Exit code 1 where one would not run.
    """
    given, agents = _agents()
    found = _checked(given, agents, name)
    if json:
        put_json([_plain(one) for one in found])
    else:
        for one in found:
            _tell(one)
    bad = [one.name for one in found if not one.ok]
    if bad:
        raise Failure(f"{', '.join(dict.fromkeys(bad))} would not run")


# ------------------------------------------------------------------------------------------- calibrate

Rate = Annotated[float | None, typer.Option(min=0, max=1, help="The highest rate that may be.", show_default=False)]


@app.command(epilog="Example: kircerta agents calibrate claude --max-miss 0.2")
def calibrate(
    reviewer: Annotated[str, typer.Argument(help="The reviewer, as a dispatch names it.")],
    folder: Annotated[
        Path | None,
        typer.Option("--from", help="Recordings in good/ and bad/ (or gold/, agent_failed/); else the project's own."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the order and the numbers of the cases.")] = 1,
    most: Annotated[int | None, typer.Option(min=2, help="At most so many cases.", show_default=False)] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Reviews at the same time.")] = 2,
    max_miss: Rate = None,
    max_false_block: Rate = None,
    max_rubber_stamp: Rate = None,
    json: Json = False,
) -> None:
    """Put recorded work, known to be good or bad, before a reviewer, blind; say what it misses and what it blocks.

    Kept as a run in reports/runs/. It works in a workspace of its own: no task of yours is touched. Exit code 1 where a
    rate is above what may be, 3 where most cases got no verdict.
    """
    from flows.calibration.cases import EXAMPLES
    from flows.calibration.run import Wish

    asked = {"miss": max_miss, "false_block": max_false_block, "rubber_stamp": max_rubber_stamp}
    limits = {measure: limit for measure, limit in asked.items() if limit is not None}
    record = _calibrate(reviewer, Wish(folder or EXAMPLES, seed, most, concurrency, limits))
    if json:
        put_json(record.model_dump(mode="json", by_alias=True))
    else:
        _tell_run(record)
    if record.outcome != "pass":
        raise typer.Exit(3 if record.outcome == "invalid" else 1)


def _calibrate(name: str, wish: Wish) -> RunRecord:
    from flows.agents.registry import UnknownAgent
    from flows.calibration.cases import NoCases
    from flows.calibration.run import calibrate as run
    from flows.calibration.session import NotHere

    given, agents = _agents()
    try:
        agent = agents.reviewer(name)
        with workspace.open_store(given) as store, progress("cases") as tell:
            return run(given, store, agent, wish, tell)
    except (UnknownAgent, NoCases, NotHere) as error:
        raise WrongUse(str(error)) from None


_TOLD = {
    "miss": "bad work approved",
    "false_block": "good work rejected",
    "rubber_stamp": "approvals that say nothing",
    "unanswered": "cases without a verdict",
}


def _tell_run(record: RunRecord) -> None:
    found: dict[str, Any] = record.calibration or {}
    rows = ((said, f"{found[key]['count']} of {found[key]['of']}", *_shares(found[key])) for key, said in _TOLD.items())
    put_table(("WHAT", "COUNT", "RATE", "95 % INTERVAL"), rows)
    for defect, one in found["missed_by_defect"].items():
        say(f"  {defect}: {one['count']} of {one['of']} missed", "red" if one["count"] else "green")
    if not found["told_apart"]:
        why = "it decided all alike" if found["irrespective"] else "the intervals overlap"
        say(f"good and bad work are not told apart: {why}", "red")
    for one in record.not_shown:
        say(one, "dim")
    say(f"{record.run_id}: {record.outcome}", "green" if record.outcome == "pass" else "red")


def _shares(one: dict[str, Any]) -> tuple[str, str]:
    if one["rate"] is None:
        return "-", "-"
    return f"{one['rate']:.0%}", f"{one['low']:.0%} to {one['high']:.0%}"


def _agents() -> tuple[Settings, Agents]:
    from flows.agents.registry import Agents, BadAgentsFile

    given = workspace.settings()
    try:
        return given, Agents(given.home)
    except BadAgentsFile as error:
        raise WrongUse(str(error)) from None


def _checked(given: Settings, agents: Agents, name: str | None) -> list[Readiness]:
    """Each agent of that name in each role that it has, or all of them."""
    from flows.agents.readiness import ROLES, readiness
    from flows.agents.registry import UnknownAgent

    if name is None:
        pairs: list[tuple[Role, str]] = [(role, one) for role in ROLES for one in agents.names(role)]
    else:
        pairs = [(role, name) for role in ROLES if name.partition(":")[0] in agents.names(role)]
    try:
        if not pairs and name is not None:
            agents.executor(name)
        return [readiness(agents, given.home, role, one) for role, one in pairs]
    except UnknownAgent as error:
        raise WrongUse(str(error)) from None


def _plain(one: Readiness) -> dict[str, object]:
    return {**asdict(one), "ok": one.ok}


def _standing(one: Readiness) -> str:
    return "ok" if one.ok else f"fail {'; '.join(one.problems)}"


def _tell(one: Readiness) -> None:
    say(
        f"{one.name} ({one.role}, {one.kind}): {'would run' if one.ok else 'would not run'}",
        "green" if one.ok else "red",
    )
    if one.kind == "built-in":
        return
    told = {
        "program": f"{one.program or 'not found'}{f' ({one.version})' if one.version else ''}",
        "folder": one.folder,
        "gets": ", ".join(one.passed) or "no key",
        "not set": ", ".join(one.missing),
    }
    for what, said in told.items():
        if said:
            say(f"  {what}: {said}")
    for line in one.lines:
        say(f"  $ {' '.join(line)}")
    for line in one.shut_in:
        say(f"  shut in: $ {' '.join(line)}")
    for problem in one.problems:
        say(f"  {problem}", "red")
    for remark in one.remarks:
        say(f"  {remark}", "yellow")
