"""What may happen to a task. Pure: `decide` judges an intent, `evolve` applies an event; no clock, no files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from audit.event import Draft
from audit.stamp import Stamp, later, seconds_of
from ssot import gate, intents, messages
from ssot.counted import counted
from ssot.evolution import evolve, is_open
from ssot.gate import OWING, is_owed_by, owed
from ssot.intents import Intent
from ssot.messages import echo_difference
from ssot.past import forwarded_issues, people_barred, rejects_in_a_row
from ssot.ruling import HEARTBEAT_EVENT_S, NO_SIGNS, Case, No, Policy, Refusal, Refused, Ruling, Signs
from ssot.task import Build, Criterion, Dispatch, Task, Unlanded, issue_digest, plain

__all__ = [
    "HEARTBEAT_EVENT_S",
    "OWING",
    "Policy",
    "Refusal",
    "Refused",
    "Ruling",
    "Signs",
    "build_rank",
    "criteria_or_title",
    "decide",
    "echo_difference",
    "evolve",
    "forwarded_issues",
    "is_open",
    "is_owed_by",
    "move_name",
    "owed",
    "people_barred",
    "rejects_in_a_row",
    "title_from",
]


def decide(
    task_id: str,
    task: Task | None,
    intent: Intent,
    *,
    actor: str,
    stamp: Stamp,
    policy: Policy,
    signs: Signs = NO_SIGNS,
    on_behalf_of: str | None = None,
) -> Ruling:
    """Judge an intent on a task as it stands. Never raises for what a caller may get wrong: that is a refusal."""
    case = Case(task_id, task, actor, stamp, policy, signs, on_behalf_of)
    try:
        return _RULES[type(intent)](case, intent)
    except No as no:
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
        raise No("exists", f"a task {case.task_id} exists already")
    title = intent.title or title_from(intent.request_text)
    criteria = criteria_or_title(intent.acceptance_criteria, title)
    ids = [criterion.id for criterion in criteria]
    if len(set(ids)) < len(ids):
        raise No("invalid_request", "every criterion needs an id of its own")
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
        raise No(
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
        raise No(
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
        raise No(
            "locked",
            f"{task.task_id} is locked after {rejects_in_a_row(task)} rejected attempts: unlock it first",
        )
    event = case.require("dispatch", "it cannot be dispatched")
    number = task.attempts[-1].attempt + 1 if task.attempts else 1
    _check_terms(case, intent, number)
    if not task.acceptance_criteria:
        raise No("no_criteria", f"{task.task_id} has no acceptance criteria: nothing could be judged")
    due = forwarded_issues(task)
    if intent.issues is not None and intent.issues != due:
        raise No(
            "fidelity_violation",
            f"{task.task_id} must be dispatched with its {counted(len(due), 'issue')} verbatim and in order: "
            f"{messages.first_unlike(intent.issues, due)}",
            event="fidelity_violation",
        )
    dispatch = Dispatch(
        dispatch_id=intent.dispatch_id,
        at=case.stamp.now,
        by=case.actor,
        executor=intent.executor or intent.terms.executor or "fake",
        reviewer=intent.reviewer or intent.terms.reviewer or "fake",
        acceptance_criteria=task.acceptance_criteria,
        scope=task.scope or intent.terms.scope,
        issues=due,
        ack_deadline=later(case.stamp.now, intent.ack_timeout_s),
        issue_digests=tuple(issue_digest(issue) for issue in due),
        executor_family=intent.executor_family,
        reviewer_family=intent.reviewer_family,
        policy=intent.terms.policy,
    )
    return Ruling((case.draft(event, attempt=number, dispatch=plain(dispatch)),))


def _check_terms(case: Case, intent: intents.Dispatch, number: int) -> None:
    """Whether the task's project lets this attempt begin. A project that cannot be read lets none."""
    if intent.terms.problem:
        raise No("bad_projects_file", f"{case.task_id} cannot be dispatched: {intent.terms.problem}")
    policy = intent.terms.policy
    if policy is None:
        return
    if policy.max_attempts is not None and number > policy.max_attempts:
        raise No(
            "attempts_exhausted",
            f"{case.task_id} had its {counted(policy.max_attempts, 'attempt')} in the project {policy.project}: "
            "none of them came through, and no further one is begun",
            max_attempts=policy.max_attempts,
        )
    if policy.distinct_model_family:
        messages.check_families(intent.executor_family, intent.reviewer_family)


# ------------------------------------------------------------------------------------ landing


def _fail_landing(case: Case, intent: intents.FailLanding) -> Ruling:
    dispatch = messages.this_dispatch(case, intent.dispatch_id)
    event = case.require("fail_landing", "there is nothing of it to land")
    attempt = case.attempt
    work_log = attempt.result.work_log if attempt.result else ()
    problem = messages.issues_problem(intent.issues, dispatch.acceptance_criteria, work_log)
    if problem is not None or not intent.issues:
        raise No("invalid_issues", problem or "a landing that failed says what the next attempt has to heed")
    unlanded = Unlanded(
        by=case.actor,
        at=case.stamp.now,
        reason=intent.reason,
        branch=intent.branch,
        parent=intent.parent,
        issues=intent.issues,
    )
    stands = attempt.unlanded
    if stands is not None and unlanded.model_copy(update={"by": stands.by, "at": stands.at}) == stands:
        return Ruling()  # said already
    told = {"attempt": attempt.attempt, "unlanded": plain(unlanded)}
    return Ruling((case.draft(event, dispatch_id=dispatch.dispatch_id, **told),))


def _resume_landing(case: Case, intent: intents.ResumeLanding) -> Ruling:
    dispatch = messages.this_dispatch(case, intent.dispatch_id)
    event = case.require("resume_landing", "its landing did not fail")
    return Ruling((case.draft(event, dispatch_id=dispatch.dispatch_id, attempt=case.attempt.attempt),))


_RULES: Final[dict[type, Callable[[Case, Any], Ruling]]] = {
    intents.Create: _create,
    intents.Refresh: _refresh,
    intents.SetBuild: _build,
    intents.Dispatch: _dispatch,
    intents.SendAck: messages.ack,
    intents.SendHeartbeat: messages.heartbeat,
    intents.SendResult: messages.result,
    intents.SendVerdict: messages.verdict,
    intents.WarnOfSilence: messages.warn,
    intents.TimeOutAck: messages.time_out,
    intents.EndAttempt: messages.end_attempt,
    intents.RemindOfDecision: gate.remind,
    intents.FindDecisionOverdue: gate.find_overdue,
    intents.Approve: gate.approve,
    intents.Reject: gate.reject,
    intents.FailLanding: _fail_landing,
    intents.ResumeLanding: _resume_landing,
    intents.Unlock: gate.unlock,
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
    intents.RemindOfDecision: "remind",
    intents.FindDecisionOverdue: "overdue",
    intents.Approve: "approve",
    intents.Reject: "reject",
    intents.FailLanding: "fail_landing",
    intents.ResumeLanding: "resume_landing",
    intents.Unlock: "unlock",
}
