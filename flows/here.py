"""Dispatches run in this process, without Prefect: what `kircerta dispatch` does where no flows are served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal

from flows.agents.registry import BadAgentsFile, UnknownAgent
from flows.agents.workplace import remove_stale
from flows.outcome import WAITING, Outcome, outcome_of
from flows.overdue import settle_now
from flows.pipeline import RESUME, Order, take_to_gate
from flows.work import see_task
from flows.workspace import Workspace
from ssot.states import OPEN
from ssot.store import Refused

Wait = Literal["review", "decision", "none"]
_LOOK_S: Final = 0.05
_WATCHDOG_S: Final = 1.0


def run_here(
    workspace: Workspace,
    task_ids: Sequence[str],
    order: Order,
    *,
    wait: Wait = "review",
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Dispatch tasks and run their agents in this process; one outcome a task, in the order of `task_ids`.

    Args:
        wait: ``review`` until the attempt is at the gate or over; ``decision`` until a person decided it, too;
            ``none`` for remote agents: until the dispatch is in the log.
        progress: called whenever a task got somewhere.

    A refusal is an outcome named ``Refused``. Ctrl-C stops the agents; the attempts stay open and are gone on with
    when they are dispatched again. Raises UnknownAgent, BadAgentsFile, before anything is dispatched.
    """
    check_agents(workspace, order)
    remove_stale(workspace.home)
    return asyncio.run(_run_all(workspace, task_ids, order, wait, progress))


def check_agents(workspace: Workspace, order: Order) -> None:
    """Whether there are the agents that an order names. Raises UnknownAgent, BadAgentsFile."""
    agents = workspace.agents()
    if order.executor is not None:
        agents.executor(order.executor)
    if order.reviewer is not None:
        agents.reviewer(order.reviewer)


async def _run_all(
    workspace: Workspace, task_ids: Sequence[str], order: Order, wait: Wait, progress: Callable[[Outcome], None]
) -> list[Outcome]:
    slots = asyncio.Semaphore(workspace.settings.dispatch_concurrency)
    return await asyncio.gather(*(_run_one(workspace, one, order, wait, progress, slots) for one in task_ids))


async def _run_one(
    workspace: Workspace,
    task_id: str,
    order: Order,
    wait: Wait,
    progress: Callable[[Outcome], None],
    slots: asyncio.Semaphore,
) -> Outcome:
    outcome = await _go_on(workspace, task_id, order, slots)
    progress(outcome)
    while not _is_reached(outcome, wait):
        await _news_of(workspace, outcome)
        outcome = await _state_of(workspace, outcome, slots)
        progress(outcome)
    return outcome


async def _go_on(workspace: Workspace, task_id: str, order: Order, slots: asyncio.Semaphore) -> Outcome:
    try:
        async with slots:
            return await take_to_gate(workspace, task_id, order)
    except (Refused, UnknownAgent, BadAgentsFile) as error:
        return Outcome(task_id, "", "new", "Refused", str(error))


def _is_reached(outcome: Outcome, wait: Wait) -> bool:
    if wait == "none" or not outcome.dispatch_id:
        return True
    return outcome.stage not in OPEN and (wait == "review" or outcome.stage != "needs_review")


async def _news_of(workspace: Workspace, outcome: Outcome) -> None:
    """Wait until the task changes; meanwhile be the watchdog, in case that nobody else is."""
    next_turn = 0.0
    while (await asyncio.to_thread(see_task, workspace, outcome.task_id)).seq == outcome.seq:
        if time.monotonic() >= next_turn:
            await asyncio.to_thread(settle_now, workspace)
            next_turn = time.monotonic() + _WATCHDOG_S
        await asyncio.sleep(_LOOK_S)


async def _state_of(workspace: Workspace, before: Outcome, slots: asyncio.Semaphore) -> Outcome:
    """How the same dispatch stands now; where our agents have the next word, they are run."""
    task = await asyncio.to_thread(see_task, workspace, before.task_id)
    found = outcome_of(task, before.dispatch_id)
    if found is not None:
        return found
    outcome = await _go_on(workspace, before.task_id, RESUME, slots)
    return outcome if outcome.name == WAITING or outcome.dispatch_id == before.dispatch_id else before
