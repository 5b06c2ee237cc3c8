"""The watchdog as a flow: started by its schedule or from the UI, it needs no other process of ours alive."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import exhibits
from flows.overdue import Overdue, settle_now
from flows.workspace import current
from ssot.intents import EndAttempt, FindDecisionOverdue, RemindOfDecision, TimeOutAck


@flow(name="watchdog", persist_result=False)
async def watchdog() -> State[Any]:
    """Find what is overdue and record it once: ACKs, signs of life, reviews, decisions, attempts that nobody runs."""
    workspace = current()
    found = [one for one in await asyncio.to_thread(settle_now, workspace) if one.recorded]
    if not found:
        return Completed(name="NothingOverdue", message="nothing is overdue")
    api_url = workspace.settings.api_url
    rows = ((exhibits.link_to(api_url, one.task_id), exhibits.escaped(what(one))) for one in found)
    page = "\n".join(exhibits.table(("task", "found"), rows)) + "\n"
    await acreate_markdown_artifact(page, key="watchdog", description="What was overdue")
    return Completed(
        name="FoundOverdue", message=f"{len(found)} found: " + ", ".join(one.task_id for one in found[:20])
    )


def what(one: Overdue) -> str:
    """What was found, in a word for people."""
    if isinstance(one.finding, TimeOutAck):
        return "no ACK in time"
    if isinstance(one.finding, RemindOfDecision):
        return f"nobody has decided yet: due within {one.finding.before_s} s"
    if isinstance(one.finding, FindDecisionOverdue):
        return "the deadline of its decision has passed"
    if isinstance(one.finding, EndAttempt):
        return f"{one.finding.reason}: {one.finding.detail}"
    return f"silent since {one.finding.silent_since}"
