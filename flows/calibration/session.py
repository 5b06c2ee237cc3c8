"""One calibration: each case goes through the real pipeline in a workspace that is made for it and thrown away."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from audit.stamp import random_id
from flows.agents.inproc_agent import InprocessAgent
from flows.agents.protocol import Agent
from flows.calibration.cases import Case
from flows.calibration.figures import Judged
from flows.pipeline import follow
from flows.work import Work
from flows.workspace import Workspace
from ssot.claims import try_claim
from ssot.diff import DiffError, paths
from ssot.intents import Create, Dispatch
from ssot.settings import Settings
from ssot.task import Attempt, Criterion

ACTOR: Final = "dispatcher"
"""A reviewer reads who dispatched what: nothing there may tell that this is no work like any other."""
_MAX_SUMMARY: Final = 2000
Progress = Callable[[int, int], None]


class NotHere(ValueError):
    """This reviewer cannot be calibrated here; the message says why."""


def judge(
    settings: Settings,
    reviewer: Agent,
    cases: Sequence[Case],
    *,
    concurrency: int = 2,
    progress: Progress = lambda done, of: None,
) -> list[Judged]:
    """Put every case before the reviewer; what it made of them, in their order. Raises NotHere.

    The user's tasks and log are not touched: the only thing of that workspace that is used is the reviewer itself.
    """
    if not reviewer.local:
        raise NotHere(f"{reviewer.name} comes by itself: only a reviewer that is started here can be calibrated")
    with tempfile.TemporaryDirectory(prefix="kircerta-calibration-") as folder:
        workspace = Workspace.open(settings.model_copy(update={"home": Path(folder)}))
        with closing(workspace.store):
            return asyncio.run(_all(workspace, reviewer, cases, concurrency, progress))


async def _all(
    workspace: Workspace, reviewer: Agent, cases: Sequence[Case], concurrency: int, progress: Progress
) -> list[Judged]:
    slots, done = asyncio.Semaphore(concurrency), 0

    async def one(case: Case) -> Judged:
        nonlocal done
        async with slots:
            judged = await _one(workspace, reviewer, case)
        done += 1
        progress(done, len(cases))
        return judged

    return await asyncio.gather(*(one(case) for case in cases))


async def _one(workspace: Workspace, reviewer: Agent, case: Case) -> Judged:
    began = time.monotonic()
    work = await _handed_over(workspace, reviewer, case)
    outcome = await follow(work)
    verdict = work.attempt.verdict
    return Judged(
        name=case.name,
        shown_as=case.shown_as,
        is_good=case.is_good,
        defect=case.task.defect,
        decision=verdict.decision if verdict else None,
        says_something=_says_something(work.attempt, case),
        issues=len(verdict.issues) if verdict else 0,
        seconds=time.monotonic() - began,
        summary=(verdict.summary or "")[:_MAX_SUMMARY] if verdict else "",
        failure="" if verdict else f"{outcome.name}: {outcome.detail}"[:_MAX_SUMMARY],
    )


async def _handed_over(workspace: Workspace, reviewer: Agent, case: Case) -> Work:
    criteria = tuple(
        Criterion(id=f"AC-{number}", text=text) for number, text in enumerate(case.task.acceptance_criteria, start=1)
    )
    create = Create(case.task.request_text, title=case.task.title, acceptance_criteria=criteria)
    await workspace.commit(case.shown_as, create, ACTOR)
    executor = InprocessAgent("executor", "executor", case.work)
    dispatch_id = random_id("d")
    claim = try_claim(workspace.home, dispatch_id)
    assert claim is not None
    intent = Dispatch(dispatch_id, executor.name, reviewer.name, workspace.settings.ack_timeout_s)
    begun = await workspace.commit(case.shown_as, intent, ACTOR)
    dispatch = begun.task.current.dispatch if begun.task.current else None
    assert dispatch is not None
    return Work(workspace, begun.task, dispatch, claim, ACTOR, (executor, reviewer))


def _says_something(attempt: Attempt, case: Case) -> bool:
    """Whether a verdict names anything of the work: a criterion, an operation, a file, or a test of it."""
    verdict, result = attempt.verdict, attempt.result
    if verdict is None or result is None:
        return False
    if verdict.issues:
        return True
    said = (verdict.summary or "").casefold()
    return any(name.casefold() in said for name in _names(attempt, case))


def _names(attempt: Attempt, case: Case) -> Iterable[str]:
    assert attempt.dispatch is not None
    assert attempt.result is not None
    yield from (one.id for one in attempt.dispatch.acceptance_criteria)
    yield from (op.op_id for op in attempt.result.work_log)
    try:
        yield from (Path(path).name for path in paths(case.recording.diff))
    except DiffError:
        return
    yield from (test.name.rpartition("::")[2].partition("[")[0] for test in case.recording.tests.found)
