"""Decisions come by events of their own: no other line may bring one along, or take one away. Pure."""

from __future__ import annotations

from typing import Any, Final

from audit.event import Corrupt, Event
from ssot.task import Task

WHOLE: Final = frozenset({"task_created", "task_adopted", "task_refreshed"})
"""Events that say how a task is, and not what was done to it: those could say anything."""


def check_decided(event: Event, before: Task | None, after: Task) -> None:
    """Raises Corrupt where a line that tells of a file or a delivery changes what was decided: it was forged.

    The store writes no such line; whoever appends one himself would get by the server's mark on decisions.
    """
    if event.type in WHOLE and _decided(before) != _decided(after):
        raise Corrupt(f"seq {event.seq} ({event.type} of {event.subject}) changes what was decided: it was forged")


def _decided(task: Task | None) -> list[tuple[Any, ...]]:
    attempts = task.attempts if task is not None else ()
    return [
        (one.attempt, one.decision, one.approvals, one.unlocked, one.unlanded)
        for one in attempts
        if one.decision is not None or one.approvals or one.unlocked is not None
    ]
