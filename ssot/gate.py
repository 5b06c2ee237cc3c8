"""The rules at the gate: who may decide, on what they saw, and what follows from it by itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from audit.event import Draft
from ssot import intents
from ssot.messages import issues_problem
from ssot.past import people_barred, rejects_in_a_row
from ssot.ruling import Case, No, Policy, Ruling, told
from ssot.states import stage_of
from ssot.task import Issue, Task, plain, review_digest


def owed(task: Task, policy: Policy) -> Draft | None:
    """The event that must follow a task's last one, but may be missing after a crash: the lock on rejects."""
    rejects = rejects_in_a_row(task)
    decision = task.current.decision if task.current else None
    if task.locked or decision is None or task.status != "rejected" or rejects < policy.max_rejects:
        return None
    actor = decision.by
    data = {"rejects": rejects, "max_rejects": policy.max_rejects}
    return Draft("reject_lock", actor, data, task.task_id, task.correlation_id)


def _check_decider(case: Case, given_digest: str | None) -> str | None:
    """Who may decide, on what they saw. Gives the current review digest."""
    task = case.known
    if case.actor in people_barred(task):
        raise No(
            "self_approval",
            f"{case.actor} executed or reviewed {task.task_id}: somebody else has to decide it",
        )
    current = review_digest(task)
    if given_digest is not None and given_digest != current:
        raise No(
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


def approve(case: Case, intent: intents.Approve) -> Ruling:
    event = case.require("approve", "it cannot be approved")
    reviewed = _check_decider(case, intent.review_digest)
    attempt = case.attempt
    if attempt.witnessed is False and not case.policy.trust_history:
        raise No(
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


def reject(case: Case, intent: intents.Reject) -> Ruling:
    event = case.require("reject", "it cannot be rejected")
    if not intent.reason.strip():
        raise No("reason_required", "a rejection needs a reason")
    reviewed = _check_decider(case, intent.review_digest)
    task, attempt = case.known, case.known.current
    criteria = attempt.dispatch.acceptance_criteria if attempt and attempt.dispatch else task.acceptance_criteria
    work_log = attempt.result.work_log if attempt and attempt.result else ()
    problem = issues_problem(intent.issues, criteria, work_log)
    if problem is None and attempt and attempt.verdict:
        shared = {i.issue_id for i in attempt.verdict.issues} & {i.issue_id for i in intent.issues}
        problem = f"the issue id {min(shared)} stands in the verdict already" if shared else None
    if problem is not None:
        raise No("invalid_issues", problem)
    rejected = case.draft(
        event,
        decision=_decision(case, "rejected", intent.reason, intent.issues, reviewed),
        attempt=attempt.attempt if attempt else 0,
        digest_given=intent.review_digest is not None,
    )
    return Ruling((rejected,))


def unlock(case: Case, intent: intents.Unlock) -> Ruling:
    task = case.known
    if not task.locked:
        raise No("invalid_transition", f"{task.task_id} is {told(task)} and not locked", stage=stage_of(task))
    if not intent.reason.strip():
        raise No("reason_required", "an unlock needs a reason")
    _check_decider(case, None)
    unlocked = {"by": case.actor, "at": case.stamp.now, "reason": intent.reason}
    return Ruling((case.draft("task_unlocked", unlocked=unlocked),))
