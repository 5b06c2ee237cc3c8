"""The calibration of a reviewer as people start it in the Prefect UI: a form, a named end, a page."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from flows import exhibits
from flows.agents.registry import BadAgentsFile, UnknownAgent
from flows.calibration.cases import EXAMPLES, NoCases
from flows.calibration.run import Wish, calibrate
from flows.calibration.session import NotHere
from flows.workspace import Workspace, current
from ssot.runs import RunRecord

Rate = Annotated[float, Field(ge=0, le=1)]


@flow(name="calibrate_reviewer", flow_run_name="{reviewer}", persist_result=False)
async def calibrate_reviewer(
    reviewer: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:=,/@+-]{0,199}$")] = "fake",
    folder: str = "",
    seed: int = 1,
    max_miss: Rate = 1.0,
    max_false_block: Rate = 1.0,
    max_rubber_stamp: Rate = 1.0,
) -> State[Any]:
    """Put recorded work, known to be good or bad, before a reviewer, blind: what does it miss, what does it block?

    Args:
        reviewer: Who is calibrated, as a dispatch names it: `fake`, `replay`, or one of `config/agents.toml`.
        folder: Recordings in good/ and bad/ (or gold/ and agent_failed/); empty for the project's own.
        seed: Decides the order and the numbers of the cases.
        max_miss: The highest share of bad work that it may approve.
        max_false_block: The highest share of good work that it may reject.
        max_rubber_stamp: The highest share of its approvals that may say nothing.
    """
    workspace = current()
    limits = {"miss": max_miss, "false_block": max_false_block, "rubber_stamp": max_rubber_stamp}
    wish = Wish(Path(folder) if folder else EXAMPLES, seed, limits=limits)
    try:
        record = await asyncio.to_thread(_run, workspace, reviewer, wish)
    except (UnknownAgent, BadAgentsFile, NoCases, NotHere) as error:
        return Failed(name="Refused", message=str(error)[:2000])
    await acreate_markdown_artifact(page(record), key="calibration", description=f"{record.run_id}: {record.outcome}")
    return state_of(record)


def _run(workspace: Workspace, reviewer: str, wish: Wish) -> RunRecord:
    return calibrate(workspace.settings, workspace.store, workspace.agents().reviewer(reviewer), wish)


def state_of(record: RunRecord) -> State[Any]:
    """`Passed`, `ThresholdBroken`, or `Invalid` where most cases got no verdict."""
    broken = ", ".join(f"{one.expression} (was {one.value})" for one in record.thresholds if not one.ok)
    message = f"{record.run_id}: {broken or 'all thresholds hold'}"
    match record.outcome:
        case "pass":
            return Completed(name="Passed", message=message)
        case "fail":
            return Failed(name="ThresholdBroken", message=message)
        case _:
            return Failed(name="Invalid", message=message)


def page(record: RunRecord) -> str:
    """The shares with their intervals, and what was missed."""
    found: dict[str, Any] = record.calibration or {}
    rows = [(exhibits.escaped(name), *_cells(found[name])) for name in record.measures]
    missed = [(exhibits.escaped(name), *_cells(one)) for name, one in found["missed_by_defect"].items()]
    head = f"# {exhibits.escaped(record.config['reviewer'])}: {record.outcome}"
    lines = [head, "", *exhibits.table(("measure", "count", "rate", "95 % interval"), rows)]
    if missed:
        lines += ["", *exhibits.table(("defect", "missed", "rate", "95 % interval"), missed)]
    return "\n".join([*lines, "", *(f"- {exhibits.escaped(one)}" for one in record.not_shown)]) + "\n"


def _cells(one: dict[str, Any]) -> list[str]:
    if one["rate"] is None:
        return ["0 of 0", "none", "none"]
    return [f"{one['count']} of {one['of']}", f"{one['rate']:.0%}", f"{one['low']:.0%} to {one['high']:.0%}"]
