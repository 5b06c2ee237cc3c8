"""What a task's attempts come to: what has to be forwarded, how often it was rejected. Pure."""

from __future__ import annotations

from ssot.task import Issue, Task


def rejects_in_a_row(task: Task) -> int:
    """Rejected attempts since the last approval or unlock, each counted once; ended attempts do not break the row."""
    count = 0
    for attempt in reversed(task.attempts):
        if attempt.unlocked is not None:
            break
        if attempt.decision is not None:
            if attempt.decision.decision == "approved":
                break
            count += 1
    return count


def forwarded_issues(task: Task) -> tuple[Issue, ...]:
    """The issues that the next dispatch must carry, verbatim and in order."""
    attempt = task.current
    if attempt is None:
        return ()
    if attempt.decision is None and attempt.ended is not None:
        return attempt.dispatch.issues if attempt.dispatch else ()
    if attempt.unlanded is not None:
        return attempt.unlanded.issues
    found = attempt.verdict.issues if attempt.verdict else ()
    return found + (attempt.decision.issues if attempt.decision else ())


def people_barred(task: Task) -> frozenset[str]:
    """Who executed or reviewed any attempt of the task, or had it done, and therefore cannot decide it."""
    parts = [part for a in task.attempts for part in (a.ack, a.result, a.verdict) if part is not None]
    return frozenset(name for part in parts for name in identities(part.by, part.on_behalf_of))


def people_asking(task: Task) -> frozenset[str]:
    """Who asked for the task or for any of its dispatches."""
    dispatches = [a.dispatch for a in task.attempts if a.dispatch is not None]
    created = [one.policy.created_by for one in dispatches if one.policy is not None and one.policy.created_by]
    return frozenset(person(name) for name in (*created, *(one.by for one in dispatches)))


def identities(by: str, on_behalf_of: str | None) -> frozenset[str]:
    """The persons whom an act counts for: who did it, and on whose behalf."""
    return frozenset(person(name) for name in (by, on_behalf_of) if name is not None)


def person(name: str) -> str:
    """The person behind a name: at the command line the same one acts as ``<name>@cli``."""
    return name.removesuffix("@cli")
