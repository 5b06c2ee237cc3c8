"""How a run ends: the name under which people find it, derived from the task alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ssot.states import Stage, stage_of_attempt
from ssot.task import Attempt, Task

WAITING: Final = "Waiting"
_BY_STAGE: Final[dict[Stage, str]] = {
    "needs_review": "NeedsReview",
    "approved": "Approved",
    "unlanded": "Approved",
    "rejected": "Rejected",
}
GOOD: Final = frozenset({"NeedsReview", "Approved", "Rejected", WAITING})
"""Names of runs that did what they were there for; every other one is a failure."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a run left its task.

    Args:
        dispatch_id: the dispatch that it was about; empty where there is none.
        stage: the stage of that dispatch's attempt.
        name: ``NeedsReview``, ``Waiting`` (for a remote agent, or another process runs it), ``AckTimeout``,
            ``ExecutorFailed``, ``ResultRefused``, ``ReviewerFailed``, ``Orphaned``, ``Refused`` …
        seq: the log's position at which the task stood so.
    """

    task_id: str
    dispatch_id: str
    stage: Stage
    name: str
    detail: str = ""
    seq: int = 0

    @property
    def ok(self) -> bool:
        return self.name in GOOD


def outcome_of(task: Task, dispatch_id: str | None = None) -> Outcome | None:
    """How a dispatch (the last one by default) came out; None while it is under way."""
    attempt = attempt_of(task, dispatch_id)
    stage = stage_of_attempt(attempt)
    name = _BY_STAGE.get(stage)
    if attempt is not None and attempt.ended is not None and name is None:
        name = "".join(word.capitalize() for word in attempt.ended.reason.split("_"))
    if name is None:
        return None
    known = attempt.dispatch.dispatch_id if attempt is not None and attempt.dispatch is not None else ""
    return Outcome(task.task_id, known, stage, name, seq=task.seq)


def attempt_of(task: Task, dispatch_id: str | None) -> Attempt | None:
    """The attempt of a dispatch; the last one where none is named."""
    if dispatch_id is None:
        return task.current
    return next(
        (one for one in task.attempts if one.dispatch is not None and one.dispatch.dispatch_id == dispatch_id), None
    )
