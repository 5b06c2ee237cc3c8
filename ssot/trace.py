"""Traces a task, pure: each criterion to its operations, their hunks, the issues, and what the next attempt did.

A hunk belongs to an operation where an `edit` names its file (both paths normalised): several edits of one file share
all of its hunks. An issue is answered where the attempt that got it forwarded has an operation for the same criterion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final, Literal

from ssot import diff
from ssot.diff import DiffError, FilePatch, PathError
from ssot.gate import is_wanted_again
from ssot.states import Stage, stage_of, stage_of_attempt
from ssot.task import Action, Attempt, Criterion, Digest, Issue, Name, Operation, Part, Severity, Status, Task

TextOf = Callable[[str], str]
"""Gives the text of a digest (``sha256:<hex>``). May raise Corrupt."""
ToldBy = Literal["verdict", "decision", "landing"]
EVIDENCE: Final[frozenset[Action]] = frozenset({"run", "test"})
"""Operations that show something, beside those that read, change or note it."""


class TracedOperation(Part):
    """An operation, with the hunks of the file it edits and the issues that name it."""

    op_id: Name
    action: Action
    target: str
    exit_code: int | None
    criterion_refs: tuple[Name, ...]
    hunks: tuple[str, ...]
    issues: tuple[Name, ...]


class TracedHunk(Part):
    """The `hunk`th hunk of the diff's `file`th file, both from 1. `hunk` 0: a file that changed without any."""

    hunk_id: str
    file: int
    hunk: int
    path: str
    header: str
    added: int
    removed: int
    operations: tuple[Name, ...]


class Answer(Part):
    """What the attempt that an issue was forwarded to did for the issue's criterion. Empty: nothing (yet)."""

    attempt: int
    operations: tuple[Name, ...]


class TracedIssue(Part):
    """An issue of a verdict, a decision or a landing. `answer` is null where no attempt got it forwarded (yet)."""

    issue_id: Name
    told_by: ToldBy
    severity: Severity
    criterion_ref: Name
    op_refs: tuple[Name, ...]
    text: str | None
    blob: Digest | None
    answer: Answer | None


class TracedCriterion(Part):
    """A row of the matrix: one criterion as the attempt was told it."""

    criterion_ref: Name
    text: str | None
    blob: Digest | None
    operations: tuple[Name, ...]
    hunks: tuple[str, ...]
    issues: tuple[Name, ...]
    next_operations: tuple[Name, ...]
    """What the attempt that got this one's issues did for the same criterion."""


class Coverage(Part):
    """How much of an attempt can be traced: counts, so that they can be added up over attempts and tasks."""

    criteria: int = 0
    criteria_with_operation: int = 0
    criteria_with_evidence: int = 0
    """With a `run` or `test` operation."""
    criteria_with_hunk: int = 0
    criteria_with_issue: int = 0
    operations: int = 0
    operations_without_criterion: int = 0
    edits: int = 0
    edits_without_hunk: int = 0
    hunks: int = 0
    hunks_without_operation: int = 0
    issues: int = 0
    issues_forwarded: int = 0
    issues_answered: int = 0

    def __add__(self, other: Coverage) -> Coverage:
        return Coverage(**{name: getattr(self, name) + getattr(other, name) for name in Coverage.model_fields})


class TracedAttempt(Part):
    """One attempt's matrix, and what it points at. `problem` says why its diff shows no hunks, where it has a text."""

    attempt: int
    dispatch_id: Name | None
    stage: Stage
    delivered: bool
    criteria: tuple[TracedCriterion, ...]
    operations: tuple[TracedOperation, ...]
    hunks: tuple[TracedHunk, ...]
    issues: tuple[TracedIssue, ...]
    problem: str | None
    coverage: Coverage


class Trace(Part):
    """A task's attempts, oldest first. `coverage` is that of the last one with a result: what stands now."""

    task_id: str
    title: str
    status: Status
    revision: int
    seq: int
    waits: bool
    """Sent back, and the dispatcher is to dispatch it again."""
    attempts: tuple[TracedAttempt, ...]
    coverage: Coverage


def trace(task: Task, text_of: TextOf, *, auto_redispatch: bool = False) -> Trace:
    """Everything that can be traced in a task. `text_of` gives long texts; it is asked for diffs alone.

    `auto_redispatch`: whether a task whose policy does not say so is dispatched again by itself.
    """
    attempts = tuple(_Tracing(task, at, text_of).traced() for at in range(len(task.attempts)))
    delivered = [one.coverage for one in attempts if one.delivered]
    return Trace(
        task_id=task.task_id,
        title=task.title,
        status=task.status,
        revision=task.revision,
        seq=task.seq,
        waits=stage_of(task) in ("rejected", "unlanded") and is_wanted_again(task, default=auto_redispatch),
        attempts=attempts,
        coverage=delivered[-1] if delivered else Coverage(),
    )


def coverage_of(tasks: Iterable[Task], text_of: TextOf) -> Coverage:
    """The figures of many tasks in one: those of every attempt that delivered a result, added up."""
    total = Coverage()
    for task in tasks:
        for one in trace(task, text_of).attempts:
            total = total + one.coverage if one.delivered else total
    return total


@dataclass(frozen=True, slots=True)
class _Hunk:
    """A hunk on its way: the normalised paths by which an edit may name its file."""

    hunk_id: str
    file: int
    hunk: int
    patch: FilePatch
    paths: frozenset[str]

    @property
    def lines(self) -> tuple[str, ...]:
        return self.patch.hunks[self.hunk - 1].lines if self.hunk else ()

    @property
    def header(self) -> str:
        if not self.hunk:
            return ""
        one = self.patch.hunks[self.hunk - 1]
        ranges = f"@@ -{one.old_start},{one.old_count} +{one.new_start},{one.new_count} @@"
        return f"{ranges} {one.header}".rstrip()


class _Tracing:
    """One attempt of a task, looked at from all sides. Every side is indexed once: documents may be large."""

    def __init__(self, task: Task, at: int, text_of: TextOf) -> None:
        self.attempt = task.attempts[at]
        self.work = _work_of(self.attempt)
        self.issues = _issues_of(self.attempt)
        self.later = [_Later.of(attempt) for attempt in task.attempts[at + 1 :]] if self.issues else []
        self.problem: str | None = None
        self.hunks = self._read_hunks(text_of)
        by_path = _grouped((path, hunk.hunk_id) for hunk in self.hunks for path in hunk.paths)
        self.hunks_of = {op.op_id: by_path.get(_normal(op.target) or "", ()) for op in self.work if op.action == "edit"}
        self.operations_of = _grouped((hunk_id, op_id) for op_id, ids in self.hunks_of.items() for hunk_id in ids)
        self.working_on = _working_on(self.attempt)
        self.issues_on = _grouped((issue.criterion_ref, issue.issue_id) for _, issue in self.issues)
        self.first_issue_on = {issue.criterion_ref: issue for _, issue in reversed(self.issues)}
        self.issues_at = _grouped((op_id, issue.issue_id) for _, issue in self.issues for op_id in issue.op_refs)

    def _read_hunks(self, text_of: TextOf) -> tuple[_Hunk, ...]:
        snapshot = self.attempt.result.diff_snapshot if self.attempt.result else None
        if snapshot is None:
            return ()
        text = text_of(snapshot.blob) if snapshot.text is None and snapshot.blob else snapshot.text
        try:
            return tuple(hunk for n, patch in enumerate(diff.parse(text or ""), 1) for hunk in _hunks_of(n, patch))
        except DiffError as error:  # an attempt that came inside a file: the rules never saw it
            self.problem = f"the diff cannot be read: {error}"
            return ()

    def traced(self) -> TracedAttempt:
        dispatch = self.attempt.dispatch
        criteria = tuple(self._criterion(one) for one in (dispatch.acceptance_criteria if dispatch else ()))
        operations = tuple(self._operation(op) for op in self.work)
        hunks = tuple(self._hunk(hunk) for hunk in self.hunks)
        issues = tuple(self._issue(told_by, issue) for told_by, issue in self.issues)
        return TracedAttempt(
            attempt=self.attempt.attempt,
            dispatch_id=dispatch.dispatch_id if dispatch else None,
            stage=stage_of_attempt(self.attempt),
            delivered=self.attempt.result is not None,
            criteria=criteria,
            operations=operations,
            hunks=hunks,
            issues=issues,
            problem=self.problem,
            coverage=_coverage(criteria, operations, hunks, issues),
        )

    def _criterion(self, criterion: Criterion) -> TracedCriterion:
        operations = self.working_on.get(criterion.id, ())
        issue = self.first_issue_on.get(criterion.id)
        answer = self._answer(issue) if issue else None
        return TracedCriterion(
            criterion_ref=criterion.id,
            text=criterion.text,
            blob=criterion.blob,
            operations=operations,
            hunks=_each_once(hunk for op_id in operations for hunk in self.hunks_of.get(op_id, ())),
            issues=self.issues_on.get(criterion.id, ()),
            next_operations=answer.operations if answer else (),
        )

    def _operation(self, op: Operation) -> TracedOperation:
        return TracedOperation(
            op_id=op.op_id,
            action=op.action,
            target=op.target,
            exit_code=op.exit_code,
            criterion_refs=op.criterion_refs,
            hunks=self.hunks_of.get(op.op_id, ()),
            issues=self.issues_at.get(op.op_id, ()),
        )

    def _hunk(self, hunk: _Hunk) -> TracedHunk:
        return TracedHunk(
            hunk_id=hunk.hunk_id,
            file=hunk.file,
            hunk=hunk.hunk,
            path=hunk.patch.new_path or hunk.patch.old_path or "",
            header=hunk.header,
            added=sum(line.startswith("+") for line in hunk.lines),
            removed=sum(line.startswith("-") for line in hunk.lines),
            operations=self.operations_of.get(hunk.hunk_id, ()),
        )

    def _issue(self, told_by: ToldBy, issue: Issue) -> TracedIssue:
        return TracedIssue(
            issue_id=issue.issue_id,
            told_by=told_by,
            severity=issue.severity,
            criterion_ref=issue.criterion_ref,
            op_refs=issue.op_refs,
            text=issue.text,
            blob=issue.blob,
            answer=self._answer(issue),
        )

    def _answer(self, issue: Issue) -> Answer | None:
        """What became of an issue. An attempt that stopped handed it on: the first with a result counts."""
        carrying = list(takewhile(lambda one: issue in one.told, self.later))
        if not carrying:
            return None
        found = next((one for one in carrying if one.delivered), carrying[0])
        return Answer(attempt=found.attempt, operations=found.working_on.get(issue.criterion_ref, ()))


@dataclass(frozen=True, slots=True)
class _Later:
    """A later attempt, as the issues of an earlier one see it."""

    attempt: int
    told: frozenset[Issue]
    delivered: bool
    working_on: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, attempt: Attempt) -> _Later:
        told = frozenset(attempt.dispatch.issues if attempt.dispatch else ())
        return cls(attempt.attempt, told, attempt.result is not None, _working_on(attempt))


def _issues_of(attempt: Attempt) -> tuple[tuple[ToldBy, Issue], ...]:
    """An attempt's issues in the order in which they are forwarded."""
    verdict = attempt.verdict.issues if attempt.verdict else ()
    decision = attempt.decision.issues if attempt.decision else ()
    landing = attempt.unlanded.issues if attempt.unlanded else ()
    told: tuple[tuple[ToldBy, tuple[Issue, ...]], ...] = (
        ("verdict", verdict),
        ("decision", decision),
        ("landing", landing),
    )
    return tuple((by, issue) for by, issues in told for issue in issues)


def _work_of(attempt: Attempt) -> tuple[Operation, ...]:
    return attempt.result.work_log if attempt.result else ()


def _working_on(attempt: Attempt) -> dict[str, tuple[str, ...]]:
    """The operations for each criterion."""
    return _grouped((ref, op.op_id) for op in _work_of(attempt) for ref in op.criterion_refs)


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """What belongs to each name, in order, each once."""
    found: dict[str, dict[str, None]] = {}
    for name, one in pairs:
        found.setdefault(name, {})[one] = None
    return {name: tuple(ones) for name, ones in found.items()}


def _hunks_of(file: int, patch: FilePatch) -> Iterable[_Hunk]:
    paths = frozenset(path for one in (patch.old_path, patch.new_path) if one and (path := _normal(one)) is not None)
    if not patch.hunks:
        return [_Hunk(f"H-{file}", file, 0, patch, paths)]
    return [_Hunk(f"H-{file}.{n}", file, n, patch, paths) for n in range(1, len(patch.hunks) + 1)]


def _normal(path: str) -> str | None:
    try:
        return diff.normalise(path)
    except PathError:
        return None


def _each_once(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _coverage(
    criteria: Sequence[TracedCriterion],
    operations: Sequence[TracedOperation],
    hunks: Sequence[TracedHunk],
    issues: Sequence[TracedIssue],
) -> Coverage:
    known = {one.criterion_ref for one in criteria}
    shown = {ref for op in operations if op.action in EVIDENCE for ref in op.criterion_refs}
    edits = [op for op in operations if op.action == "edit"]
    return Coverage(
        criteria=len(criteria),
        criteria_with_operation=sum(bool(one.operations) for one in criteria),
        criteria_with_evidence=len(known & shown),
        criteria_with_hunk=sum(bool(one.hunks) for one in criteria),
        criteria_with_issue=sum(bool(one.issues) for one in criteria),
        operations=len(operations),
        operations_without_criterion=sum(not known & set(op.criterion_refs) for op in operations),
        edits=len(edits),
        edits_without_hunk=sum(not op.hunks for op in edits),
        hunks=len(hunks),
        hunks_without_operation=sum(not one.operations for one in hunks),
        issues=len(issues),
        issues_forwarded=sum(one.answer is not None for one in issues),
        issues_answered=sum(one.answer is not None and bool(one.answer.operations) for one in issues),
    )
