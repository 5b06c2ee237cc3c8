"""What an event makes of its task. Pure, and the only code that makes a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from audit.event import Event
from ssot.states import OPEN, stage_of, status_of
from ssot.task import (
    Ack,
    Approval,
    Attempt,
    Build,
    Decision,
    Dispatch,
    Ended,
    Part,
    Result,
    Task,
    Unlanded,
    Unlocked,
    Verdict,
    plain,
)

PartT = TypeVar("PartT", bound=Part)


def evolve(task: Task | None, event: Event, data: dict[str, Any]) -> Task:
    """The task after an event that changes it. `data` is the event's, with what was kept outside the line put back.

    Pure, and the only code that makes a task: live commits, recovery and replay all come through here.
    """
    if event.type in ("task_created", "task_adopted"):
        return _evolve_whole(task, event, data)
    if task is None:
        raise ValueError(f"seq {event.seq}: {event.type} for {event.subject}, which does not exist")
    if event.type == "task_refreshed":
        return _evolve_whole(task, event, data)
    if event.type == "build_status":
        built = task.model_copy(update={"build": _part(Build, data["build"])})
        return _stamped(built, event, task.attempts, locked=task.locked)
    attempts, locked = _EVOLUTIONS[event.type](task, event, data)
    return _stamped(task, event, attempts, locked=locked)


def _stamped(task: Task, event: Event, attempts: tuple[Attempt, ...], *, locked: bool) -> Task:
    return task.model_copy(
        update={
            "attempts": attempts,
            "locked": locked,
            "status": status_of(attempts),
            "revision": task.revision + 1,
            "seq": event.seq,
            "updated_at": event.time,
        }
    )


def _evolve_whole(task: Task | None, event: Event, data: dict[str, Any]) -> Task:
    """A task that is made, or whose editable fields were changed by hand."""
    before = plain(task) if task is not None else {"attempts": [], "locked": False, "build": None, "revision": 0}
    after = {**before, **data["task"], "schema": 1, "task_id": event.subject}
    after.update(revision=before["revision"] + 1, seq=event.seq, updated_at=event.time, status="pending")
    whole = Task.model_validate(after, strict=False)
    return whole.model_copy(update={"status": status_of(whole.attempts)})


def _part(model: type[PartT], data: dict[str, Any]) -> PartT:
    return model.model_validate(data, strict=False)


def _with_part(task: Task, **parts: Part) -> tuple[Attempt, ...]:
    return _changed(task, **parts)


def _changed(task: Task, **fields: Any) -> tuple[Attempt, ...]:
    """The attempts, with something in the current one set."""
    return (*task.attempts[:-1], task.attempts[-1].model_copy(update=fields))


def _delivered(task: Task, data: dict[str, Any]) -> tuple[Attempt, ...]:
    low_risk = {"low_risk": True} if data.get("low_risk") else {}
    return _changed(task, result=_part(Result, data["result"]), **low_risk)


def _with_approval(task: Task, data: dict[str, Any]) -> tuple[Attempt, ...]:
    return _changed(task, approvals=(*task.attempts[-1].approvals, _part(Approval, data["approval"])))


_Evolution = Callable[[Task, Event, dict[str, Any]], tuple[tuple[Attempt, ...], bool]]


def _dispatched(task: Task, event: Event, data: dict[str, Any]) -> tuple[tuple[Attempt, ...], bool]:
    attempt = Attempt(attempt=data["attempt"], dispatch=_part(Dispatch, data["dispatch"]))
    return (*task.attempts, attempt), task.locked


def _decided(task: Task, event: Event, data: dict[str, Any]) -> tuple[tuple[Attempt, ...], bool]:
    decision = _part(Decision, data["decision"])
    if not task.attempts:  # declined before any dispatch
        return (Attempt(attempt=0, dispatch=None, decision=decision),), task.locked
    return _with_part(task, decision=decision), task.locked


_EVOLUTIONS: Final[dict[str, _Evolution]] = {
    "task_dispatched": _dispatched,
    "task_redispatched": _dispatched,
    "ack_received": lambda task, event, data: (_with_part(task, ack=_part(Ack, data["ack"])), task.locked),
    "result_received": lambda task, event, data: (_delivered(task, data), task.locked),
    "verdict_received": lambda task, event, data: (
        _with_part(task, verdict=_part(Verdict, data["verdict"])),
        task.locked,
    ),
    "ack_timeout": lambda task, event, data: (
        _with_part(task, ended=_part(Ended, data["ended"])),
        task.locked,
    ),
    "attempt_ended": lambda task, event, data: (
        _with_part(task, ended=_part(Ended, data["ended"])),
        task.locked,
    ),
    "approval_given": lambda task, event, data: (_with_approval(task, data), task.locked),
    "decision_reminder": lambda task, event, data: (
        _changed(task, reminded=(*task.attempts[-1].reminded, data["before_s"])),
        task.locked,
    ),
    "decision_overdue": lambda task, event, data: (_changed(task, overdue_at=data["overdue_at"]), task.locked),
    "task_approved": _decided,
    "task_rejected": _decided,
    "landing_failed": lambda task, event, data: (
        _with_part(task, unlanded=_part(Unlanded, data["unlanded"])),
        task.locked,
    ),
    "landing_resumed": lambda task, event, data: (_changed(task, unlanded=None), task.locked),
    "reject_lock": lambda task, event, data: (task.attempts, True),
    "task_unlocked": lambda task, event, data: (
        _with_part(task, unlocked=_part(Unlocked, data["unlocked"])),
        False,
    ),
}


def is_open(task: Task) -> bool:
    """Whether an attempt is under way."""
    return stage_of(task) in OPEN
