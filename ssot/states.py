"""The whole state machine as one table. The rules obey it, the test matrix and the diagram in the docs come from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ssot.task import Attempt, Status, Task

Stage = Literal[
    "new", "dispatched", "acknowledged", "delivered", "needs_review", "approved", "unlanded", "rejected", "ended"
]

STAGES: Final[dict[Stage, tuple[Status, str]]] = {
    "new": ("pending", "never dispatched"),
    "dispatched": ("pending", "handed to an executor, which has not acknowledged yet"),
    "acknowledged": ("pending", "the executor works on it"),
    "delivered": ("pending", "the result waits for its reviewer"),
    "ended": ("pending", "the attempt stopped before its verdict"),
    "needs_review": ("needs_review", "the verdict is there; a person decides"),
    "approved": ("approved", "approved at its gate"),
    "unlanded": ("approved", "approved, but it cannot stand on its project's branch: it needs a new attempt"),
    "rejected": ("rejected", "rejected, declined, or not decided in time"),
}
"""Each stage with the status that the document shows for it, and what it means."""

Role = Literal["approver", "executor", "reviewer", "viewer", "admin"]
ROLES: Final[dict[Role, str]] = {
    "approver": "approves, rejects and unlocks tasks",
    "executor": "acknowledges dispatches, sends heartbeats and results",
    "reviewer": "sends verdicts",
    "viewer": "reads",
    "admin": "has all of these roles",
}


@dataclass(frozen=True, slots=True)
class Move:
    """One row: a move is possible in the stages `of`, leads to `to` (None: the stage stays) and makes `event`.

    `role` is what a caller over HTTP needs; None where the harness itself is the only caller.
    """

    name: str
    of: tuple[Stage, ...]
    to: Stage | None
    event: str
    role: Role | None


OPEN: Final[tuple[Stage, ...]] = ("dispatched", "acknowledged", "delivered")
"""Stages in which an attempt is under way."""

MOVES: Final[tuple[Move, ...]] = (
    Move("refresh", ("new",), None, "task_refreshed", None),
    Move("build", tuple(STAGES), None, "build_status", None),
    Move("dispatch", ("new",), "dispatched", "task_dispatched", None),
    Move("dispatch", ("ended", "rejected", "unlanded"), "dispatched", "task_redispatched", None),
    Move("ack", ("dispatched",), "acknowledged", "ack_received", "executor"),
    Move("heartbeat", ("acknowledged",), None, "heartbeat", "executor"),
    Move("warn", ("acknowledged",), None, "heartbeat_warning", None),
    Move("result", ("acknowledged",), "delivered", "result_received", "executor"),
    Move("verdict", ("delivered",), "needs_review", "verdict_received", "reviewer"),
    Move("time_out", ("dispatched",), "ended", "ack_timeout", None),
    Move("end", OPEN, "ended", "attempt_ended", None),
    Move("approve", ("needs_review",), "approved", "task_approved", "approver"),
    Move("approval", ("needs_review",), None, "approval_given", "approver"),
    Move("fail_landing", ("approved", "unlanded"), "unlanded", "landing_failed", None),
    Move("resume_landing", ("unlanded",), "approved", "landing_resumed", None),
    Move("remind", ("needs_review",), None, "decision_reminder", None),
    Move("overdue", ("needs_review",), None, "decision_overdue", None),
    Move("reject", ("new", *OPEN, "ended", "needs_review"), "rejected", "task_rejected", "approver"),
    Move("lock", ("rejected",), None, "reject_lock", None),
    Move("unlock", ("rejected",), None, "task_unlocked", "approver"),
)


def move_from(name: str, stage: Stage) -> Move | None:
    """The row of a move in a stage; None when it is not possible there."""
    return next((move for move in MOVES if move.name == name and stage in move.of), None)


def stages_of(name: str) -> tuple[Stage, ...]:
    """All stages in which a move is possible."""
    return tuple(stage for stage in STAGES if move_from(name, stage))


def role_of(name: str) -> Role | None:
    """The role that a move asks of its caller over HTTP."""
    return next(move.role for move in MOVES if move.name == name)


def stage_of_attempt(attempt: Attempt | None) -> Stage:
    """How far an attempt has come."""
    if attempt is None:
        return "new"
    if attempt.unlanded is not None:
        return "unlanded"
    if attempt.decision is not None:
        return attempt.decision.decision
    if attempt.verdict is not None:
        return "needs_review"
    if attempt.ended is not None:
        return "ended"
    if attempt.result is not None:
        return "delivered"
    if attempt.ack is not None:
        return "acknowledged"
    return "dispatched"


def stage_of(task: Task) -> Stage:
    """How far the task has come: that of its last attempt."""
    return stage_of_attempt(task.current)


def status_of(attempts: tuple[Attempt, ...]) -> Status:
    """The status, a pure function of the document."""
    return STAGES[stage_of_attempt(attempts[-1] if attempts else None)][0]
