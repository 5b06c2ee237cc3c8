"""The bodies that people and agents send, beyond those that are parts of the task document."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ssot.task import Digest, Issue, Name, Part, Severity, Task


class ApproveBody(Part):
    """An approval. The digest says what was looked at; without it the approval is for what stands now."""

    reason: Annotated[str, Field(max_length=100_000)] | None = None
    review_digest: Annotated[str, Field(max_length=200)] | None = None


class IssueBody(Part):
    """An issue that a person adds: id and severity may be left out (then: the next free D-n, and major)."""

    issue_id: Name | None = None
    criterion_ref: Name
    op_refs: tuple[Name, ...] = ()
    severity: Severity = "major"
    text: str


class RejectBody(Part):
    """A rejection: why, and what to change."""

    reason: Annotated[str, Field(max_length=100_000)]
    issues: Annotated[tuple[IssueBody, ...], Field(max_length=1000)] = ()
    review_digest: Annotated[str, Field(max_length=200)] | None = None


class UnlockBody(Part):
    """Why a task may be dispatched again after too many rejections."""

    reason: Annotated[str, Field(max_length=100_000)]


class SessionBody(Part):
    """A token, as `kircerta token` prints it: what signs a browser in."""

    token: Annotated[str, Field(min_length=1, max_length=8192)]


class HeartbeatBody(Part):
    """A sign of life; `at` and `by` may be there, but the server sets them."""

    dispatch_id: Name
    note: Annotated[str, Field(max_length=1000)] = ""
    at: str = ""
    by: str = ""


class TaskDetail(Task):
    """The task document with its long texts in place, and what an approval of it has to name."""

    review_digest: Digest | None


def numbered(issues: tuple[IssueBody, ...], taken: frozenset[str]) -> tuple[Issue, ...]:
    """The issues with an id each: those without one get the next free D-n."""
    used = taken | {issue.issue_id for issue in issues if issue.issue_id is not None}
    free = (f"D-{n}" for n in range(1, len(used) + len(issues) + 1) if f"D-{n}" not in used)
    return tuple(
        Issue(
            issue_id=issue.issue_id or next(free),
            criterion_ref=issue.criterion_ref,
            op_refs=issue.op_refs,
            severity=issue.severity,
            text=issue.text,
        )
        for issue in issues
    )
