"""The task document and its parts: frozen, strict models of CONTRACT schema 1, and their one byte form."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

import orjson
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from audit import kept_json
from ssot import strict_json
from ssot.observed import Observed
from ssot.part import PRINCIPAL as PRINCIPAL
from ssot.part import TASK_ID as TASK_ID
from ssot.part import Digest as Digest
from ssot.part import HexDigest, Word, optional
from ssot.part import Invalid as Invalid
from ssot.part import Line as Line
from ssot.part import Name as Name
from ssot.part import Part as Part
from ssot.part import TaskId as TaskId
from ssot.part import Texted as Texted
from ssot.part import Timestamp as Timestamp
from ssot.texts import externalise

SCHEMA: Final = 1

Status = Literal["pending", "needs_review", "approved", "rejected"]
Source = Literal["manual", "import", "github", "xcode", "telegram"]
Severity = Literal["blocker", "major", "minor"]
Action = Literal["read", "edit", "run", "test", "note"]

P = TypeVar("P", bound=Part)


class Criterion(Texted):
    """An acceptance criterion. `check`, where given, is a command that shows it: words, or a line for the shell."""

    id: Name
    text: str | None
    blob: Digest | None = optional()
    check: Word | tuple[Word, ...] | None = optional()

    @model_validator(mode="after")
    def _check_is_a_command(self) -> Criterion:
        words = (self.check,) if isinstance(self.check, str) else self.check
        if words is not None and not (words and words[0].strip()):
            raise ValueError("check is a command: a line, or a list of words, that begins with a word")
        return self


class Echo(Texted):
    """One criterion as an executor repeats it."""

    criterion_ref: Name
    text: str | None
    blob: Digest | None = optional()


class Issue(Texted):
    """What a verdict or a decision asks to change: it points at a criterion and at operations of the work log."""

    issue_id: Name
    criterion_ref: Name
    op_refs: tuple[Name, ...] = ()
    severity: Severity
    text: str | None
    blob: Digest | None = optional()


class Operation(Texted):
    """One thing an executor did."""

    text_field: ClassVar[str] = "detail"

    op_id: Name
    at: Timestamp
    action: Action
    target: Line = ""
    detail: str | None = ""
    blob: Digest | None = optional()
    exit_code: int | None = None
    criterion_refs: tuple[Name, ...] = ()


class DiffSnapshot(Texted):
    """The change as a unified diff; `sha256` is bare hex over the UTF-8 bytes of the text."""

    format: Literal["unified"]
    base: Line
    sha256: HexDigest
    text: str | None
    blob: Digest | None = optional()


class RecordedPolicy(Part):
    """The policy of its project as a dispatch found it. It governs that attempt, whatever the file says later.

    `digest` is that of the project's table. Counts and seconds are whole numbers: they are part of what is reviewed.
    """

    project: Name
    digest: Digest
    human_gate: bool = True
    low_risk: tuple[Line, ...] = ()
    quorum: Annotated[int, Field(ge=1)] = 1
    approvers: tuple[Name, ...] = ()
    four_eyes: bool = False
    distinct_model_family: bool = False
    require_run: bool = False
    require_reading: bool = False
    max_attempts: Annotated[int, Field(ge=1)] | None = None
    auto_redispatch: bool | None = None
    decision_deadline_s: Annotated[int, Field(ge=1)] | None = None
    reminders_s: tuple[Annotated[int, Field(ge=1)], ...] = ()
    deadline_outcome: Literal["decision_overdue", "expired"] = "decision_overdue"
    created_by: Name | None = optional()
    """Who made the task, where four eyes have to be other ones."""


class Dispatch(Part):
    """A task handed to an executor: what it was told, and until when it has to answer."""

    dispatch_id: Name
    at: Timestamp
    by: Name
    executor: Name
    reviewer: Name
    acceptance_criteria: tuple[Criterion, ...]
    scope: tuple[Line, ...]
    issues: tuple[Issue, ...]
    ack_deadline: Timestamp
    issue_digests: tuple[Digest, ...] = optional(())
    """The digest of each forwarded issue, in order."""
    executor_family: Name | None = optional()
    reviewer_family: Name | None = optional()
    policy: RecordedPolicy | None = optional()


class Ack(Part):
    """What an executor sent to show that it understood: the dispatch, repeated."""

    dispatch_id: Name
    at: Timestamp
    by: Name
    echo: tuple[Echo, ...]
    scope: tuple[Line, ...] = ()
    issues: tuple[Issue, ...] = ()
    issue_digests: tuple[Digest, ...] = optional(())
    model_family: Name | None = optional()
    on_behalf_of: Name | None = optional()
    watched: Literal[True] | None = optional()
    """True: the executor works in a place of ours; a result that nobody held against the facts is not taken."""


class Result(Texted):
    """What an executor delivered."""

    text_field: ClassVar[str] = "summary"

    dispatch_id: Name
    at: Timestamp
    by: Name
    outcome: Literal["completed", "failed"]
    summary: str | None = ""
    blob: Digest | None = optional()
    work_log: tuple[Operation, ...] = ()
    diff_snapshot: DiffSnapshot | None = None
    on_behalf_of: Name | None = optional()
    observed: Observed | None = optional()
    """What was seen from outside while an agent worked in a place of ours; its own word is what stands above."""


class Verdict(Texted):
    """What a reviewer found."""

    text_field: ClassVar[str] = "summary"

    dispatch_id: Name
    at: Timestamp
    by: Name
    decision: Literal["approve", "reject"]
    summary: str | None = ""
    blob: Digest | None = optional()
    issues: tuple[Issue, ...] = ()
    model_family: Name | None = optional()
    on_behalf_of: Name | None = optional()


class AckBody(Ack):
    """An ACK on its way in: `at` and `by` may be there, but the server sets them. `watched` is nobody's to send."""

    at: str = ""
    by: str = ""
    watched: SkipJsonSchema[Literal[True] | None] = optional()

    @field_validator("watched")
    @classmethod
    def _only_by_who_watches(cls, value: bool | None) -> None:
        if value is not None:
            raise ValueError("whether somebody watches is not for the agent to say")


class ResultBody(Result):
    """A result on its way in: `at` and `by` may be there, but the server sets them. `observed` is nobody's to send."""

    at: str = ""
    by: str = ""
    observed: SkipJsonSchema[Observed | None] = optional()

    @field_validator("observed")
    @classmethod
    def _only_from_outside(cls, value: Observed | None) -> None:
        if value is not None:
            raise ValueError("what was observed is not for the agent to say")


class VerdictBody(Verdict):
    """A verdict on its way in: `at` and `by` may be there, but the server sets them."""

    at: str = ""
    by: str = ""


class Approval(Texted):
    """One person's approval of exactly what the digest names."""

    text_field: ClassVar[str] = "reason"

    by: Name
    at: Timestamp
    reason: str | None
    blob: Digest | None = optional()
    review_digest: Digest | None
    on_behalf_of: Name | None = optional()


class Decision(Texted):
    """What a person decided about an attempt, or the named policy of its project."""

    text_field: ClassVar[str] = "reason"

    decision: Literal["approved", "rejected"]
    by: Name
    at: Timestamp
    reason: str | None
    blob: Digest | None = optional()
    issues: tuple[Issue, ...]
    review_digest: Digest | None
    on_behalf_of: Name | None = optional()


class Ended(Part):
    """Why an attempt stopped before its verdict."""

    reason: Name
    at: Timestamp


class Unlocked(Texted):
    """Who unlocked the task after this attempt, and why. Rejections are counted anew from here."""

    text_field: ClassVar[str] = "reason"

    by: Name
    at: Timestamp
    reason: str | None
    blob: Digest | None = optional()
    on_behalf_of: Name | None = optional()


class Unlanded(Part):
    """Why an approved change cannot stand on its project's branch, as the landing said it: issues for a new attempt."""

    by: Name
    at: Timestamp
    reason: Name
    branch: Line
    parent: Line
    """The branch's head that the change was tried on."""
    issues: tuple[Issue, ...]


class Attempt(Part):
    """One go at a task, from the dispatch to the decision. Parts that have not happened are null."""

    attempt: Annotated[int, Field(ge=0)]
    dispatch: Dispatch | None
    ack: Ack | None = None
    result: Result | None = None
    verdict: Verdict | None = None
    approvals: tuple[Approval, ...] = ()
    decision: Decision | None = None
    ended: Ended | None = None
    unlocked: Unlocked | None = optional()
    unlanded: Unlanded | None = optional()
    """Set while a new attempt may begin although this one was approved."""
    witnessed: Literal[False] | None = optional()
    """False: the attempt came inside a file, this log did not see it happen."""
    low_risk: Literal[True] | None = optional()
    """True: everything that the result touches lies in the `low_risk` paths of the attempt's policy."""
    reminded: tuple[int, ...] = optional(())
    """Which reminders of the decision were said: seconds before its deadline."""
    overdue_at: Timestamp | None = optional()
    """When it was found that the decision's deadline had passed."""


class Build(Part):
    """State of an Xcode Cloud build; `payload` as it was received."""

    progress: str | None
    status: str | None
    number: int | None
    payload: Any


class Task(Texted):
    """The task document: one task, one file, the single source of truth."""

    text_field: ClassVar[str] = "request_text"

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    task_id: TaskId
    title: Line
    source: Source
    request_text: str | None
    blob: Digest | None = optional()
    chat_id: int | None = optional()
    message_id: int | None = optional()
    acceptance_criteria: tuple[Criterion, ...]
    scope: tuple[Line, ...]
    status: Status
    locked: bool
    revision: Annotated[int, Field(ge=1)]
    seq: Annotated[int, Field(ge=1)]
    created_at: Timestamp
    updated_at: Timestamp
    correlation_id: Name
    origin: dict[str, Any]
    build: Build | None
    attempts: tuple[Attempt, ...]
    metadata: dict[str, Any]

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Task:
        ids = [criterion.id for criterion in self.acceptance_criteria]
        if len(set(ids)) < len(ids):
            raise ValueError("acceptance_criteria: every id may stand once only")
        return self

    @property
    def current(self) -> Attempt | None:
        """The last attempt, None before the first dispatch."""
        return self.attempts[-1] if self.attempts else None

    @property
    def policy(self) -> RecordedPolicy | None:
        """The policy that governs the current attempt, None where its task has no project."""
        current = self.current
        return current.dispatch.policy if current is not None and current.dispatch is not None else None


# ---------------------------------------------------------------------------------------- bytes, digests


def document_bytes(task: Task) -> bytes:
    """The task's one byte form: UTF-8 JSON, pretty-printed, keys in schema order, newline at the end."""
    return kept_json.dumps(plain(task), orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def plain(part: BaseModel) -> dict[str, Any]:
    """A model as plain values, in schema order."""
    return part.model_dump(mode="python", by_alias=True)


def document_digest(document: bytes) -> str:
    """``sha256:`` and the digest of a document's exact bytes, as events carry it."""
    return "sha256:" + hashlib.sha256(document).hexdigest()


def review_digest(task: Task) -> str | None:
    """What a person approves: a digest of the canonical JSON (RFC 8785) of what they saw; None before a verdict."""
    attempt = task.current
    if attempt is None or attempt.verdict is None:
        return None
    shown = {
        "task_id": task.task_id,
        "request_text": task.request_text if task.blob is None else task.blob,
        "attempt": attempt.attempt,
        "dispatch": plain(attempt.dispatch) if attempt.dispatch else None,
        "result": plain(attempt.result) if attempt.result else None,
        "verdict": plain(attempt.verdict),
    }
    return "sha256:" + hashlib.sha256(_canonical(shown)).hexdigest()


def issue_digest(issue: Issue) -> str:
    """The digest that a forwarded issue is known by: of its canonical JSON, a long text by its own digest."""
    return "sha256:" + hashlib.sha256(_canonical(externalise(plain(issue))[0])).hexdigest()


def _canonical(shown: dict[str, Any]) -> bytes:
    """Canonical JSON (RFC 8785). Keys here are ASCII and numbers whole, so sorted compact JSON is already it."""
    return orjson.dumps(shown, option=orjson.OPT_SORT_KEYS)


# --------------------------------------------------------------------------------------------- parsing


def parse_document(raw: bytes) -> Task:
    """A complete task document from outside. Raises Invalid with the field and the reason."""
    check_json(raw)
    return parse_known(raw)


def parse_known(raw: bytes) -> Task:
    """A task document that this project wrote itself (its digest was compared): no second grammar check."""
    try:
        return Task.model_validate_json(raw)
    except ValidationError as error:
        raise explain(error) from None


def parse_part(model: type[P], raw: bytes) -> P:
    """One part from outside, e.g. the body of a request. Raises Invalid."""
    check_json(raw)
    return parse_checked(model, raw)


def parse_checked(model: type[P], raw: bytes) -> P:
    """One part from JSON that was found strict already. Raises Invalid."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise explain(error) from None


def check_json(raw: bytes) -> Any:
    """The strict grammar check at every entrance. Raises Invalid."""
    try:
        return strict_json.loads(raw)
    except strict_json.NotStrictJSON as error:
        raise Invalid("", str(error)) from None


def explain(error: ValidationError) -> Invalid:
    """The first violation as a field path and a reason."""
    first = error.errors(include_url=False, include_input=False)[0]
    field = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"]).lstrip(".")
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        reason = "this field is missing"
    elif first["type"] == "extra_forbidden":
        reason = "no such field is known here"
    more = error.error_count() - 1
    return Invalid(field, reason + (f" (and {more} more)" if more else ""))
