"""What may happen to a task. Pure: `decide` judges an intent, `evolve` applies an event; no clock, no files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from audit.event import Draft, Event
from audit.stamp import Stamp, later, seconds_of
from ssot import diff, intents
from ssot.intents import Intent
from ssot.states import OPEN, Stage, move_from, stage_of, stages_of, status_of
from ssot.task import (
    Ack,
    Attempt,
    Build,
    Criterion,
    Decision,
    Dispatch,
    Ended,
    Issue,
    Operation,
    Part,
    Result,
    Task,
    Unlocked,
    Verdict,
    externalise,
    plain,
    review_digest,
)


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that rules depend on."""

    max_rejects: int = 3
    trust_history: bool = False


@dataclass(frozen=True, slots=True)
class Signs:
    """Signs of life of the current dispatch, as the log knows them: Unix seconds; 0 for none."""

    last_sign: float = 0.0
    last_heartbeat_event: float = 0.0
    warned_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something was refused: a stable code, a sentence for the caller, and facts for the event."""

    code: str
    detail: str
    facts: dict[str, Any] = field(default_factory=dict)


class Refused(Exception):
    """The rules said no. Ask differently; the refusal is in the log where that is worth knowing."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.code = refusal.code
        self.detail = refusal.detail
        self.facts = refusal.facts


@dataclass(frozen=True, slots=True)
class Ruling:
    """The events that follow from an intent; with a refusal they record it and what it revealed."""

    drafts: tuple[Draft, ...] = ()
    refusal: Refusal | None = None


HEARTBEAT_EVENT_S: Final = 5.0
"""Heartbeats are logged at most once in this many seconds per dispatch."""


class _No(Exception):
    """Carries a refusal from the check that found it to `decide`."""

    def __init__(self, code: str, detail: str, *, event: str = "move_refused", **facts: Any) -> None:
        super().__init__(detail)
        self.refusal = Refusal(code, detail, facts)
        self.event = event


# ---------------------------------------------------------------------------------------------- decide


@dataclass(frozen=True, slots=True)
class Case:
    """Everything a rule may look at: the task as it stands, who asks, when, and under which policy."""

    task_id: str
    task: Task | None
    actor: str
    stamp: Stamp
    policy: Policy
    signs: Signs

    @property
    def known(self) -> Task:
        if self.task is None:
            raise _No("not_found", f"there is no task {self.task_id}")
        return self.task

    @property
    def attempt(self) -> Attempt:
        current = self.known.current
        if current is None:
            raise _No("invalid_transition", f"{self.task_id} was never dispatched", stage="new")
        return current

    def draft(self, type: str, **data: Any) -> Draft:
        correlation = self.task.correlation_id if self.task else None
        return Draft(type, self.actor, data, self.task_id, correlation)

    def require(self, move: str, wish: str) -> str:
        """The event of a move, if the table allows it in the task's stage."""
        stage = stage_of(self.known)
        row = move_from(move, stage)
        if row is None:
            raise _No(
                "invalid_transition",
                f"{self.task_id} is {_told(self.known)}: {wish} (possible when it is {_either(stages_of(move))})",
                stage=stage,
                status=self.known.status,
            )
        return row.event


def decide(
    task_id: str,
    task: Task | None,
    intent: Intent,
    *,
    actor: str,
    stamp: Stamp,
    policy: Policy,
    signs: Signs = Signs(),
) -> Ruling:
    """Judge an intent on a task as it stands. Never raises for what a caller may get wrong: that is a refusal."""
    case = Case(task_id, task, actor, stamp, policy, signs)
    try:
        return _RULES[type(intent)](case, intent)
    except _No as no:
        if no.refusal.code in ("not_found", "exists"):  # nothing was asked of a task that could tell of it
            return Ruling(refusal=no.refusal)
        move = move_name(intent)
        facts = {
            "move": move,
            "code": no.refusal.code,
            "detail": no.refusal.detail[:2000],
            **no.refusal.facts,
        }
        return Ruling((case.draft(no.event, **facts),), no.refusal)


def move_name(intent: Intent) -> str:
    """The intent's word in the table of moves."""
    return _MOVE_NAMES[type(intent)]


def owed(task: Task, policy: Policy) -> Draft | None:
    """The event that must follow a task's last one, but may be missing after a crash: the lock on rejects."""
    rejects = rejects_in_a_row(task)
    decision = task.current.decision if task.current else None
    if task.locked or decision is None or task.status != "rejected" or rejects < policy.max_rejects:
        return None
    actor = decision.by
    data = {"rejects": rejects, "max_rejects": policy.max_rejects}
    return Draft("reject_lock", actor, data, task.task_id, task.correlation_id)


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
    found = attempt.verdict.issues if attempt.verdict else ()
    return found + (attempt.decision.issues if attempt.decision else ())


def people_barred(task: Task) -> frozenset[str]:
    """Who executed or reviewed any attempt of the task, and therefore cannot decide it."""
    parts = [part for a in task.attempts for part in (a.ack, a.result, a.verdict) if part is not None]
    return frozenset(part.by for part in parts)


def _told(task: Task) -> str:
    return f"{task.status} ({stage_of(task)})" if task.status == "pending" else task.status


def _either(stages: Sequence[Stage]) -> str:
    return " or ".join(stages)


# ------------------------------------------------------------------------------------ creation, dispatch


def title_from(request_text: str) -> str:
    """The first line that says something, at most 200 characters."""
    line = next((line.strip() for line in request_text.splitlines() if line.strip()), "untitled")
    line = "".join(char for char in line if char.isprintable()).strip() or "untitled"
    return line if len(line) <= 200 else line[:199].rstrip() + "…"


def criteria_or_title(criteria: tuple[Criterion, ...], title: str) -> tuple[Criterion, ...]:
    """A task without criteria cannot be judged: then its title is the one criterion."""
    return criteria or (Criterion(id="AC-1", text=title),)


def _create(case: Case, intent: intents.Create) -> Ruling:
    if case.task is not None:
        raise _No("exists", f"a task {case.task_id} exists already")
    title = intent.title or title_from(intent.request_text)
    criteria = criteria_or_title(intent.acceptance_criteria, title)
    ids = [criterion.id for criterion in criteria]
    if len(set(ids)) < len(ids):
        raise _No("invalid_request", "every criterion needs an id of its own")
    task = {
        "title": title,
        "source": intent.source,
        "request_text": intent.request_text,
        "acceptance_criteria": [plain(criterion) for criterion in criteria],
        "scope": list(intent.scope),
        "created_at": intent.created_at or case.stamp.now,
        "correlation_id": intent.correlation_id or case.stamp.new_id("c"),
        "origin": intent.origin,
        "build": plain(intent.build) if intent.build else None,
        "metadata": intent.metadata,
    }
    for name in ("chat_id", "message_id"):
        if getattr(intent, name) is not None:
            task[name] = getattr(intent, name)
    draft = case.draft("task_created", task=task)
    return Ruling((Draft(draft.type, draft.actor, draft.data, draft.subject, str(task["correlation_id"])),))


def _refresh(case: Case, intent: intents.Refresh) -> Ruling:
    task = case.known
    event = case.require("refresh", "it is not refreshed any more")
    stands, came = _moment(task.origin.get("updated_at")), _moment(intent.origin.get("updated_at"))
    if came < stands or (came == stands and not intent.equal_is_newer):
        raise _No(
            "out_of_order",
            f"{task.task_id} stands as of {task.origin.get('updated_at')}: this version is not newer",
            event="out_of_order_ignored",
            stands=str(task.origin.get("updated_at")),
            came=str(intent.origin.get("updated_at")),
        )
    title = intent.title or title_from(intent.request_text)
    changed = {
        "title": title,
        "blob": None,  # of a long text that stood before; a long new one sets its own
        "request_text": intent.request_text,
        "acceptance_criteria": [plain(one) for one in criteria_or_title(intent.acceptance_criteria, title)],
        "origin": {**task.origin, **intent.origin},
    }
    return Ruling((case.draft(event, task=changed),))


def _moment(told: Any) -> float:
    """Unix seconds of a time in an origin; the beginning of time where there is none."""
    try:
        return seconds_of(told) if isinstance(told, str) else 0.0
    except ValueError:
        return 0.0


def _build(case: Case, intent: intents.SetBuild) -> Ruling:
    task = case.known
    event = case.require("build", "it takes no build state")
    if task.build is not None and build_rank(intent.build) < build_rank(task.build):
        raise _No(
            "out_of_order",
            f"the build of {task.task_id} is {task.build.progress} {task.build.status or ''}".rstrip()
            + f": {intent.build.progress} is older",
            event="out_of_order_ignored",
            stands=f"{task.build.progress}:{task.build.status or '-'}"[:200],
            came=f"{intent.build.progress}:{intent.build.status or '-'}"[:200],
        )
    return Ruling((case.draft(event, build=plain(intent.build)),))


_PROGRESS: Final = {"PENDING": 1, "RUNNING": 2, "COMPLETE": 3}
_BUILD_EVENTS: Final = {"BUILD_CREATED": 1, "BUILD_STARTED": 2, "BUILD_COMPLETED": 3}


def build_rank(build: Build) -> tuple[int, int, int]:
    """How far a build has come; a state that ranks lower never replaces a higher one.

    The progress counts first, then the type of the event that told it, then whether there is an outcome. A progress
    that is not known yet ranks as running (by the event's type where there is none): nothing follows COMPLETE.
    """
    told = _BUILD_EVENTS.get(_event_type(build.payload), 0)
    progress = told if build.progress is None else _PROGRESS.get(build.progress, 2)
    return progress, told, int(build.status is not None)


def _event_type(payload: Any) -> str:
    for key in ("metadata", "attributes", "eventType"):
        payload = payload.get(key) if isinstance(payload, dict) else None
    return payload if isinstance(payload, str) else ""


def _dispatch(case: Case, intent: intents.Dispatch) -> Ruling:
    task = case.known
    if task.locked:
        raise _No(
            "locked",
            f"{task.task_id} is locked after {rejects_in_a_row(task)} rejected attempts: unlock it first",
        )
    event = case.require("dispatch", "it cannot be dispatched")
    if not task.acceptance_criteria:
        raise _No("no_criteria", f"{task.task_id} has no acceptance criteria: nothing could be judged")
    due = forwarded_issues(task)
    if intent.issues is not None and intent.issues != due:
        raise _No(
            "fidelity_violation",
            f"{task.task_id} must be dispatched with its {len(due)} issues verbatim and in order: "
            f"{_first_unlike(intent.issues, due)}",
            event="fidelity_violation",
        )
    dispatch = Dispatch(
        dispatch_id=intent.dispatch_id,
        at=case.stamp.now,
        by=case.actor,
        executor=intent.executor,
        reviewer=intent.reviewer,
        acceptance_criteria=task.acceptance_criteria,
        scope=task.scope,
        issues=due,
        ack_deadline=later(case.stamp.now, intent.ack_timeout_s),
    )
    number = task.attempts[-1].attempt + 1 if task.attempts else 1
    return Ruling((case.draft(event, attempt=number, dispatch=plain(dispatch)),))


# ---------------------------------------------------------------------------------------- agent messages


def _this_dispatch(case: Case, dispatch_id: str) -> Dispatch:
    """The current dispatch, if the message belongs to it and the attempt is open."""
    attempt = case.attempt
    if attempt.dispatch is None or attempt.dispatch.dispatch_id != dispatch_id:
        current = attempt.dispatch.dispatch_id if attempt.dispatch else "none"
        raise _No(
            "wrong_dispatch",
            f"{case.task_id} is not at dispatch {dispatch_id[:80]}: its current one is {current}",
            dispatch_id=dispatch_id[:200],
        )
    if attempt.ended is not None:
        raise _No(
            "attempt_ended",
            f"attempt {attempt.attempt} of {case.task_id} ended ({attempt.ended.reason}): the message comes too late",
            dispatch_id=dispatch_id,
        )
    return attempt.dispatch


def _ack(case: Case, intent: intents.SendAck) -> Ruling:
    body = intent.body
    dispatch = _this_dispatch(case, body.dispatch_id)
    event = case.require("ack", "it takes no ACK now")
    if seconds_of(case.stamp.now) > seconds_of(dispatch.ack_deadline):
        return _late(case, dispatch)
    unlike = echo_difference(dispatch, body)
    if unlike is not None:
        where, expected, got = unlike
        raise _No(
            "ack_mismatch",
            f"the echo differs from the dispatch at {where}: expected {_shown(expected)}, got {_shown(got)}",
            event="ack_mismatch",
            dispatch_id=dispatch.dispatch_id,
            where=where,
            expected=_shown(expected),
            got=_shown(got),
        )
    ack = {**plain(body), "at": case.stamp.now, "by": case.actor}
    return Ruling((case.draft(event, dispatch_id=dispatch.dispatch_id, ack=ack),))


def _late(case: Case, dispatch: Dispatch) -> Ruling:
    """A late ACK finds out what the watchdog would have: the attempt is over."""
    refusal = Refusal(
        "attempt_ended",
        f"the ACK for {case.task_id} came after its deadline {dispatch.ack_deadline}",
        {"dispatch_id": dispatch.dispatch_id},
    )
    return Ruling((_timed_out(case, dispatch),), refusal)


def _timed_out(case: Case, dispatch: Dispatch) -> Draft:
    ended = {"reason": "ack_timeout", "at": case.stamp.now}
    return case.draft("ack_timeout", dispatch_id=dispatch.dispatch_id, ack_deadline=dispatch.ack_deadline, ended=ended)


def echo_difference(dispatch: Dispatch, body: Ack) -> tuple[str, Any, Any] | None:
    """The first place where an echo differs from its dispatch, with both values; None when it is word for word."""
    told = [{**plain(c), "criterion_ref": c.id} for c in dispatch.acceptance_criteria]
    for item in told:
        del item["id"]
    pairs = (
        ("echo", told, [plain(echo) for echo in body.echo]),
        ("scope", list(dispatch.scope), list(body.scope)),
        ("issues", [plain(i) for i in dispatch.issues], [plain(i) for i in body.issues]),
    )
    for name, expected, got in pairs:
        difference = _list_difference(name, externalise(expected)[0], externalise(got)[0])
        if difference is not None:
            return difference
    return None


def _list_difference(name: str, expected: list[Any], got: list[Any]) -> tuple[str, Any, Any] | None:
    for index in range(max(len(expected), len(got))):
        if index >= len(got):
            return f"{name}[{index}]", expected[index], "nothing"
        if index >= len(expected):
            return f"{name}[{index}]", "nothing", got[index]
        if expected[index] != got[index]:
            return _inner_difference(f"{name}[{index}]", expected[index], got[index])
    return None


def _inner_difference(where: str, expected: Any, got: Any) -> tuple[str, Any, Any]:
    if isinstance(expected, dict) and isinstance(got, dict):
        for key in [*expected, *got]:
            if expected.get(key) != got.get(key):
                return f"{where}.{key}", expected.get(key), got.get(key)
    return where, expected, got


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 1000 else text[:1000] + f"… ({len(text)} characters)"


def _first_unlike(given: Sequence[Part], due: Sequence[Part]) -> str:
    difference = _list_difference("issues", [plain(i) for i in due], [plain(i) for i in given])
    where, expected, got = difference or ("issues", "", "")
    return f"at {where} expected {_shown(expected)}, got {_shown(got)}"


def _only_executor(case: Case, what: str) -> None:
    ack = case.attempt.ack
    if ack is not None and ack.by != case.actor:
        raise _No(
            "not_the_executor",
            f"{ack.by} acknowledged this dispatch: only it may send {what}, not {case.actor}",
        )


def _heartbeat(case: Case, intent: intents.SendHeartbeat) -> Ruling:
    dispatch = _this_dispatch(case, intent.dispatch_id)
    event = case.require("heartbeat", "it takes no heartbeat now")
    _only_executor(case, "its heartbeats")
    if seconds_of(case.stamp.now) - case.signs.last_heartbeat_event < HEARTBEAT_EVENT_S:
        return Ruling()
    return Ruling((case.draft(event, dispatch_id=dispatch.dispatch_id, note=intent.note[:1000]),))


def _result(case: Case, intent: intents.SendResult) -> Ruling:
    body = intent.body
    dispatch = _this_dispatch(case, body.dispatch_id)
    event = case.require("result", "it takes no result now")
    _only_executor(case, "its result")
    problem = result_problem(dispatch, body)
    if problem is not None:
        raise _No("result_refused", problem, event="result_refused", dispatch_id=dispatch.dispatch_id)
    outside = paths_outside(dispatch.scope, body)
    if outside:
        raise _No(
            "scope_violation",
            f"the result touches {len(outside)} paths outside the scope {list(dispatch.scope)}: "
            f"{', '.join(outside[:5])}",
            event="scope_violation",
            dispatch_id=dispatch.dispatch_id,
            paths=list(outside[:50]),
        )
    result = {**plain(body), "at": case.stamp.now, "by": case.actor}
    return Ruling((case.draft(event, dispatch_id=dispatch.dispatch_id, result=result),))


def result_problem(dispatch: Dispatch, body: Result) -> str | None:
    """What is wrong with a result's form and references; None when nothing is."""
    if not body.work_log:
        return "the work log has no operation: a result must show what was done"
    if _has_blob(body):
        return "texts are sent in full; only the server replaces long ones by their digest"
    twice = _first_repeated([operation.op_id for operation in body.work_log])
    if twice is not None:
        return f"the operation id {twice} stands twice in the work log"
    known = {criterion.id for criterion in dispatch.acceptance_criteria}
    for operation in body.work_log:
        for reference in operation.criterion_refs:
            if reference not in known:
                return f"operation {operation.op_id} points at {reference}, which is no criterion of this dispatch"
    return _diff_problem(body)


def _diff_problem(body: Result) -> str | None:
    snapshot = body.diff_snapshot
    if snapshot is None or snapshot.text is None:
        return None
    digest = hashlib.sha256(snapshot.text.encode()).hexdigest()
    if digest != snapshot.sha256:
        return f"diff_snapshot.sha256 is {snapshot.sha256}, but the text's is {digest}"
    try:
        diff.parse(snapshot.text)
    except diff.DiffError as error:
        return f"diff_snapshot.text is no unified diff: {error}"
    return None


def paths_outside(scope: Sequence[str], body: Result) -> tuple[str, ...]:
    """The paths of a result, those of its diff and of its edits, that lie outside the scope."""
    snapshot = body.diff_snapshot
    touched = list(diff.paths(snapshot.text)) if snapshot and snapshot.text else []
    touched += [operation.target for operation in body.work_log if operation.action == "edit"]
    return tuple(dict.fromkeys(path for path in touched if not _inside(path, scope)))


def _inside(path: str, scope: Sequence[str]) -> bool:
    try:
        return diff.in_scope(diff.normalise(path), scope)
    except ValueError:
        return False


def _verdict(case: Case, intent: intents.SendVerdict) -> Ruling:
    body = intent.body
    dispatch = _this_dispatch(case, body.dispatch_id)
    event = case.require("verdict", "it takes no verdict now")
    attempt = case.attempt
    if attempt.ack is not None and attempt.ack.by == case.actor:
        raise _No("self_review", f"{case.actor} executed this attempt: it cannot review it")
    result = attempt.result
    problem = verdict_problem(dispatch, result.work_log if result else (), body)
    if problem is not None:
        raise _No("verdict_refused", problem, event="verdict_refused", dispatch_id=dispatch.dispatch_id)
    verdict = {**plain(body), "at": case.stamp.now, "by": case.actor}
    return Ruling((case.draft(event, dispatch_id=dispatch.dispatch_id, verdict=verdict),))


def verdict_problem(dispatch: Dispatch, work_log: Sequence[Operation], body: Verdict) -> str | None:
    """What is wrong with a verdict; None when nothing is."""
    if _has_blob(body):
        return "texts are sent in full; only the server replaces long ones by their digest"
    if body.decision == "reject" and not body.issues:
        return "a verdict of reject names at least one issue"
    if body.decision == "approve" and any(issue.severity == "blocker" for issue in body.issues):
        return "a verdict of approve has no issue of severity blocker"
    return issues_problem(body.issues, dispatch.acceptance_criteria, work_log)


def issues_problem(issues: Sequence[Issue], criteria: Sequence[Criterion], work_log: Sequence[Operation]) -> str | None:
    """The first issue that points at nothing; None when all references resolve."""
    twice = _first_repeated([issue.issue_id for issue in issues])
    if twice is not None:
        return f"the issue id {twice} stands twice"
    known = {criterion.id for criterion in criteria}
    operations = {operation.op_id for operation in work_log}
    for issue in issues:
        if issue.criterion_ref not in known:
            return f"issue {issue.issue_id} points at {issue.criterion_ref}, which is no criterion of this dispatch"
        if operations and not issue.op_refs:
            return f"issue {issue.issue_id} names no operation of the work log"
        dangling = next((ref for ref in issue.op_refs if ref not in operations), None)
        if dangling is not None:
            return f"issue {issue.issue_id} points at {dangling}, which is no operation of this result"
    return None


def _has_blob(value: Any) -> bool:
    if isinstance(value, Part):
        return getattr(value, "blob", None) is not None or any(_has_blob(item) for _, item in value)
    return isinstance(value, tuple) and any(_has_blob(item) for item in value)


def _first_repeated(ids: Sequence[str]) -> str | None:
    seen: set[str] = set()
    return next((i for i in ids if i in seen or seen.add(i)), None)  # type: ignore[func-returns-value]


# ------------------------------------------------------------------------------------ silence, time-outs


def _warn(case: Case, intent: intents.WarnOfSilence) -> Ruling:
    dispatch = _this_dispatch(case, intent.dispatch_id)
    event = case.require("warn", "its executor is not working")
    if case.signs.warned_at > seconds_of(intent.silent_since) or case.signs.last_sign > seconds_of(intent.silent_since):
        return Ruling()  # warned of this silence already, or it was broken meanwhile
    silence = seconds_of(case.stamp.now) - seconds_of(intent.silent_since)
    return Ruling(
        (
            case.draft(
                event,
                dispatch_id=dispatch.dispatch_id,
                silent_since=intent.silent_since,
                silent_s=round(silence, 3),
            ),
        )
    )


def _time_out(case: Case, intent: intents.TimeOutAck) -> Ruling:
    dispatch = _this_dispatch(case, intent.dispatch_id)
    case.require("time_out", "its ACK is not overdue")
    if seconds_of(case.stamp.now) <= seconds_of(dispatch.ack_deadline):
        raise _No("too_early", f"the ACK of {case.task_id} is due at {dispatch.ack_deadline} only")
    return Ruling((_timed_out(case, dispatch),))


def _end(case: Case, intent: intents.EndAttempt) -> Ruling:
    dispatch = _this_dispatch(case, intent.dispatch_id)
    event = case.require("end", "no attempt is under way")
    ended = {"reason": intent.reason, "at": case.stamp.now}
    return Ruling((case.draft(event, dispatch_id=dispatch.dispatch_id, ended=ended, detail=intent.detail[:8000]),))


# -------------------------------------------------------------------------------------------- decisions


def _check_decider(case: Case, given_digest: str | None) -> str | None:
    """Who may decide, on what they saw. Gives the current review digest."""
    task = case.known
    if case.actor in people_barred(task):
        raise _No(
            "self_approval",
            f"{case.actor} executed or reviewed {task.task_id}: somebody else has to decide it",
        )
    current = review_digest(task)
    if given_digest is not None and given_digest != current:
        raise _No(
            "stale_review",
            f"{task.task_id} changed since it was looked at: {given_digest[:80]} was reviewed, {current} stands now",
            given=given_digest[:200],
            current=current,
        )
    return current


def _decision(case: Case, decision: str, reason: str, issues: Sequence[Issue], reviewed: str | None) -> dict[str, Any]:
    return {
        "decision": decision,
        "by": case.actor,
        "at": case.stamp.now,
        "reason": reason,
        "issues": [plain(issue) for issue in issues],
        "review_digest": reviewed,
    }


def _approve(case: Case, intent: intents.Approve) -> Ruling:
    event = case.require("approve", "it cannot be approved")
    reviewed = _check_decider(case, intent.review_digest)
    attempt = case.attempt
    if attempt.witnessed is False and not case.policy.trust_history:
        raise _No(
            "unwitnessed",
            f"attempt {attempt.attempt} of {case.task_id} arrived inside a file; this log did not see it happen. "
            "Dispatch it again, or set KIRCERTA_TRUST_HISTORY=1",
        )
    decision = _decision(case, "approved", intent.reason, (), reviewed)
    return Ruling(
        (
            case.draft(
                event,
                decision=decision,
                attempt=attempt.attempt,
                digest_given=intent.review_digest is not None,
            ),
        )
    )


def _reject(case: Case, intent: intents.Reject) -> Ruling:
    event = case.require("reject", "it cannot be rejected")
    if not intent.reason.strip():
        raise _No("reason_required", "a rejection needs a reason")
    reviewed = _check_decider(case, intent.review_digest)
    task, attempt = case.known, case.known.current
    criteria = attempt.dispatch.acceptance_criteria if attempt and attempt.dispatch else task.acceptance_criteria
    work_log = attempt.result.work_log if attempt and attempt.result else ()
    problem = issues_problem(intent.issues, criteria, work_log)
    if problem is None and attempt and attempt.verdict:
        shared = {i.issue_id for i in attempt.verdict.issues} & {i.issue_id for i in intent.issues}
        problem = f"the issue id {min(shared)} stands in the verdict already" if shared else None
    if problem is not None:
        raise _No("invalid_issues", problem)
    rejected = case.draft(
        event,
        decision=_decision(case, "rejected", intent.reason, intent.issues, reviewed),
        attempt=attempt.attempt if attempt else 0,
        digest_given=intent.review_digest is not None,
    )
    return Ruling((rejected,))


def _unlock(case: Case, intent: intents.Unlock) -> Ruling:
    task = case.known
    if not task.locked:
        raise _No("invalid_transition", f"{task.task_id} is {_told(task)} and not locked", stage=stage_of(task))
    if not intent.reason.strip():
        raise _No("reason_required", "an unlock needs a reason")
    _check_decider(case, None)
    unlocked = {"by": case.actor, "at": case.stamp.now, "reason": intent.reason}
    return Ruling((case.draft("task_unlocked", unlocked=unlocked),))


_RULES: Final[dict[type, Callable[[Case, Any], Ruling]]] = {
    intents.Create: _create,
    intents.Refresh: _refresh,
    intents.SetBuild: _build,
    intents.Dispatch: _dispatch,
    intents.SendAck: _ack,
    intents.SendHeartbeat: _heartbeat,
    intents.SendResult: _result,
    intents.SendVerdict: _verdict,
    intents.WarnOfSilence: _warn,
    intents.TimeOutAck: _time_out,
    intents.EndAttempt: _end,
    intents.Approve: _approve,
    intents.Reject: _reject,
    intents.Unlock: _unlock,
}

_MOVE_NAMES: Final[dict[type, str]] = {
    intents.Create: "create",
    intents.Refresh: "refresh",
    intents.SetBuild: "build",
    intents.Dispatch: "dispatch",
    intents.SendAck: "ack",
    intents.SendHeartbeat: "heartbeat",
    intents.SendResult: "result",
    intents.SendVerdict: "verdict",
    intents.WarnOfSilence: "warn",
    intents.TimeOutAck: "time_out",
    intents.EndAttempt: "end",
    intents.Approve: "approve",
    intents.Reject: "reject",
    intents.Unlock: "unlock",
}

# ---------------------------------------------------------------------------------------------- evolve

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
    return (*task.attempts[:-1], task.attempts[-1].model_copy(update=parts))


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
    "result_received": lambda task, event, data: (
        _with_part(task, result=_part(Result, data["result"])),
        task.locked,
    ),
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
    "task_approved": _decided,
    "task_rejected": _decided,
    "reject_lock": lambda task, event, data: (task.attempts, True),
    "task_unlocked": lambda task, event, data: (
        _with_part(task, unlocked=_part(Unlocked, data["unlocked"])),
        False,
    ),
}


def is_open(task: Task) -> bool:
    """Whether an attempt is under way."""
    return stage_of(task) in OPEN
