"""How each project stands, pure: its counts, its last run, its last error, and a light with the reasons for it.

Red: the project's last run failed, or a task of it is locked. Yellow: a task waits at the gate behind its
deadline, an executor is silent, or a task file is held. Green: none of these. A light needs no person to reset it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from audit.event import Event
from audit.stamp import seconds_of
from ssot.counted import counted
from ssot.gate import deadline_of
from ssot.projects import AutoDispatch, BadProjectsFile, Project, ProjectPolicy, Projects
from ssot.schedules import ScheduledRun
from ssot.states import Stage, stage_of_attempt
from ssot.task import Attempt, Name, Part, Status, Task, Timestamp

State = Literal["green", "yellow", "red"]
Outcome = Literal["running", "at_the_gate", "approved", "rejected", "failed"]
MAX_REASONS: Final = 20
PENDING_FLOWS: Final = frozenset({"dispatch_pending"})
"""Flows that take up every project's tasks."""
ERRORS: Final = frozenset(
    {
        "ack_timeout",
        "ack_mismatch",
        "attempt_ended",
        "landing_failed",
        "result_refused",
        "verdict_refused",
        "scope_violation",
        "fidelity_violation",
        "reject_lock",
        "task_invalid",
    }
)
"""Events that are a project's last error until another one comes."""


class Run(Part):
    """An attempt as a run: since when, and what became of it. `reason`: why it stopped, where it did."""

    task_id: str
    attempt: int
    at: Timestamp
    stage: Stage
    outcome: Outcome
    reason: str | None = None


class LastError(Part):
    """The newest event that tells of trouble with a task of the project."""

    seq: int
    type: str
    task_id: str
    at: Timestamp
    detail: str


class Reason(Part):
    """Why a light is not green: `failed` and `locked` are red; `overdue`, `silent` and `held` yellow."""

    code: Literal["failed", "locked", "overdue", "silent", "held"]
    task_id: str
    detail: str

    @property
    def state(self) -> State:
        return "red" if self.code in ("failed", "locked") else "yellow"


class Counts(Part):
    """Tasks by status, and how many of them are locked."""

    total: int = 0
    pending: int = 0
    needs_review: int = 0
    approved: int = 0
    rejected: int = 0
    locked: int = 0


class ProjectStanding(Part):
    """One project: what its file says, and how it stands. At most 20 reasons, the red ones first."""

    name: Name
    title: str
    repositories: tuple[str, ...]
    scope: tuple[str, ...]
    executor: str
    reviewer: str
    policy: ProjectPolicy
    auto_dispatch: tuple[AutoDispatch, ...]
    counts: Counts
    last_run: Run | None
    next_run: ScheduledRun | None
    last_error: LastError | None
    state: State
    reasons: tuple[Reason, ...]


class ProjectsPage(Part):
    """All projects in the order of their file. `problem`: why the file cannot be used; then it is used in no part.

    `others` counts tasks of no project; `misnamed` lists (at most 20) tasks that name one that there is not.
    """

    projects: tuple[ProjectStanding, ...] = ()
    problem: str | None = None
    others: Counts = Counts()
    misnamed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What a project's standing needs of one task. `project`: None for none; `misnamed`: it names an unknown one."""

    task_id: str
    project: str | None
    misnamed: bool
    status: Status
    locked: bool
    run: Run | None
    decide_until: str | None


def facts_of(task: Task, projects: Projects) -> TaskFacts:
    """A task as its project sees it."""
    name, misnamed = None, False
    try:
        name = found[0] if (found := projects.of(task)) else None
    except BadProjectsFile:
        misnamed = True
    return TaskFacts(
        task_id=task.task_id,
        project=name,
        misnamed=misnamed,
        status=task.status,
        locked=task.locked,
        run=_run_of(task),
        decide_until=deadline_of(task.current) if task.current and task.status == "needs_review" else None,
    )


def _run_of(task: Task) -> Run | None:
    attempt = next((one for one in reversed(task.attempts) if one.dispatch is not None), None)
    if attempt is None or attempt.dispatch is None:
        return None
    return Run(
        task_id=task.task_id,
        attempt=attempt.attempt,
        at=attempt.dispatch.at,
        stage=stage_of_attempt(attempt),
        outcome=_outcome(attempt),
        reason=attempt.ended.reason if attempt.ended else None,
    )


def _outcome(attempt: Attempt) -> Outcome:
    if attempt.decision is not None:
        return attempt.decision.decision
    if attempt.ended is not None or (attempt.result is not None and attempt.result.outcome == "failed"):
        return "failed"
    return "at_the_gate" if attempt.verdict is not None else "running"


def error_of(event: Event) -> LastError | None:
    """The error that an event tells of; None where it tells of none, or of no task."""
    if event.type not in ERRORS or event.subject is None:
        return None
    return LastError(
        seq=event.seq, type=event.type, task_id=event.subject, at=event.time, detail=_detail(event.data)[:1000]
    )


def _detail(data: dict[str, Any]) -> str:
    part = data.get("ended") or data.get("unlanded")
    reason = part.get("reason") if isinstance(part, dict) else data.get("reason")
    parts = [part for part in (reason, data.get("detail")) if isinstance(part, str) and part]
    return ": ".join(parts) or (f"after {counted(data['rejects'], 'rejection')} in a row" if "rejects" in data else "")


def standing(
    name: str,
    project: Project,
    tasks: Collection[TaskFacts],
    *,
    now: float,
    silent: frozenset[str],
    held: frozenset[str],
    errors: Iterable[LastError],
    next_run: ScheduledRun | None,
) -> ProjectStanding:
    """One project at the Unix time `now`.

    Args:
        tasks: those of this project.
        silent: ids of tasks whose executor was warned of and has not been heard since.
        held: ids of tasks whose files are held.
        errors: of this project's tasks.
    """
    runs = [task.run for task in tasks if task.run is not None]
    last_run = max(runs, key=lambda run: (seconds_of(run.at), run.task_id), default=None)
    reasons = sorted(
        [*_red(last_run, tasks), *_yellow(tasks, now, silent, held)], key=lambda one: (one.state == "yellow", one.code)
    )
    return ProjectStanding(
        name=name,
        title=project.title,
        repositories=project.repositories,
        scope=project.scope,
        executor=project.executor,
        reviewer=project.reviewer,
        policy=project.policy,
        auto_dispatch=project.auto_dispatch,
        counts=counts_of(tasks),
        last_run=last_run,
        next_run=next_run,
        last_error=max(errors, key=lambda error: error.seq, default=None),
        state=reasons[0].state if reasons else "green",
        reasons=tuple(reasons[:MAX_REASONS]),
    )


def _red(last_run: Run | None, tasks: Iterable[TaskFacts]) -> Iterable[Reason]:
    if last_run is not None and last_run.outcome == "failed":
        why = last_run.reason or "the executor says that it failed"
        yield Reason(code="failed", task_id=last_run.task_id, detail=f"the last run failed: {why}")
    for task in tasks:
        if task.locked:
            yield Reason(code="locked", task_id=task.task_id, detail="locked after too many rejections in a row")


def _yellow(tasks: Iterable[TaskFacts], now: float, silent: frozenset[str], held: frozenset[str]) -> Iterable[Reason]:
    for task in tasks:
        if task.decide_until is not None and now > seconds_of(task.decide_until):
            yield Reason(
                code="overdue", task_id=task.task_id, detail=f"a decision was due by {task.decide_until[:19]}Z"
            )
        if task.task_id in silent:
            yield Reason(code="silent", task_id=task.task_id, detail="nothing is heard of its executor")
        if task.task_id in held:
            yield Reason(code="held", task_id=task.task_id, detail="its file cannot be used as it stands")


def counts_of(tasks: Collection[TaskFacts]) -> Counts:
    by_status = dict.fromkeys(get_args(Status), 0)
    for task in tasks:
        by_status[task.status] += 1
    return Counts(total=len(tasks), locked=sum(task.locked for task in tasks), **by_status)
