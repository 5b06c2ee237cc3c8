"""What somebody wants of a task: plain, frozen values that the rules judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ssot.facts import Facts
from ssot.task import AckBody, Build, Criterion, Issue, RecordedPolicy, ResultBody, Source, VerdictBody


@dataclass(frozen=True, slots=True)
class Create:
    """Make a task. `created_at` None means now; no criteria means that the title is the one criterion."""

    request_text: str
    source: Source = "manual"
    title: str | None = None
    acceptance_criteria: tuple[Criterion, ...] = ()
    scope: tuple[str, ...] = ()
    created_at: str | None = None
    correlation_id: str | None = None
    origin: dict[str, Any] = field(default_factory=dict)
    build: Build | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    chat_id: int | None = None
    message_id: int | None = None


@dataclass(frozen=True, slots=True)
class Refresh:
    """Take over the sender's newer version of a task that was never dispatched.

    `origin` is laid over the task's own; its `updated_at` has to be newer than the one that stands there. With
    `equal_is_newer` the same moment will do: senders that tell whole seconds may change twice in one.
    """

    request_text: str
    title: str | None = None
    acceptance_criteria: tuple[Criterion, ...] = ()
    origin: dict[str, Any] = field(default_factory=dict)
    equal_is_newer: bool = False


@dataclass(frozen=True, slots=True)
class SetBuild:
    """The build of the task has come to this state."""

    build: Build


@dataclass(frozen=True, slots=True)
class Terms:
    """What the task's project says to a dispatch that names no agent, and to a task without a scope.

    `problem` is why nothing can be said: then nothing is dispatched.
    """

    policy: RecordedPolicy | None = None
    executor: str | None = None
    reviewer: str | None = None
    scope: tuple[str, ...] = ()
    problem: str = ""


NO_PROJECT = Terms()


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Hand the task to an executor. `issues`, where given, must be exactly those that have to be forwarded.

    Agents that are not named are those of the task's project, else `fake`. `terms` are always set by the store.
    """

    dispatch_id: str
    executor: str | None = None
    reviewer: str | None = None
    ack_timeout_s: float = 30.0
    issues: tuple[Issue, ...] | None = None
    executor_family: str | None = None
    reviewer_family: str | None = None
    terms: Terms = NO_PROJECT


@dataclass(frozen=True, slots=True)
class SendAck:
    """`watched`: the executor works in a place where its result will be held against the facts.

    `by_token`: it came with a token, over HTTP or MCP, and from no job that was started here. So with all messages.
    """

    body: AckBody
    watched: bool = False
    by_token: bool = False


@dataclass(frozen=True, slots=True)
class SendHeartbeat:
    dispatch_id: str
    note: str = ""
    by_token: bool = False


@dataclass(frozen=True, slots=True)
class SendResult:
    """`facts` is what was seen from outside, where somebody watched: the result is held against it, and carries it."""

    body: ResultBody
    facts: Facts | None = None
    by_token: bool = False


@dataclass(frozen=True, slots=True)
class SendVerdict:
    """`mutated` names what a reviewer changed in the tree that it was to read (`M path`)."""

    body: VerdictBody
    mutated: tuple[str, ...] = ()
    by_token: bool = False


@dataclass(frozen=True, slots=True)
class WarnOfSilence:
    """The executor has said nothing since `silent_since`."""

    dispatch_id: str
    silent_since: str


@dataclass(frozen=True, slots=True)
class TimeOutAck:
    """The ACK's deadline has passed."""

    dispatch_id: str


@dataclass(frozen=True, slots=True)
class EndAttempt:
    """The attempt cannot go on: ``executor_failed``, ``reviewer_failed``, ``orphaned`` …"""

    dispatch_id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RemindOfDecision:
    """The decision's deadline is `before_s` seconds away, or nearer."""

    dispatch_id: str
    before_s: int


@dataclass(frozen=True, slots=True)
class FindDecisionOverdue:
    """The decision's deadline has passed."""

    dispatch_id: str


@dataclass(frozen=True, slots=True)
class Approve:
    reason: str = ""
    review_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    reason: str
    issues: tuple[Issue, ...] = ()
    review_digest: str | None = None


@dataclass(frozen=True, slots=True)
class FailLanding:
    """The approved change of this dispatch cannot stand on `branch` at `parent`; `issues` are what the landing says."""

    dispatch_id: str
    reason: str
    branch: str
    parent: str
    issues: tuple[Issue, ...]


@dataclass(frozen=True, slots=True)
class ResumeLanding:
    """The change is about to stand on its branch after all: from here on no new attempt may begin."""

    dispatch_id: str


@dataclass(frozen=True, slots=True)
class Unlock:
    reason: str


Intent = (
    Create
    | Refresh
    | SetBuild
    | Dispatch
    | SendAck
    | SendHeartbeat
    | SendResult
    | SendVerdict
    | WarnOfSilence
    | TimeOutAck
    | EndAttempt
    | RemindOfDecision
    | FindDecisionOverdue
    | Approve
    | Reject
    | FailLanding
    | ResumeLanding
    | Unlock
)
