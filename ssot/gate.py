"""The rules at the gate: who may decide, on what they saw, and what follows from it by itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from audit.event import Draft, Event
from audit.stamp import later, seconds_of
from ssot import intents
from ssot.messages import issues_problem, says_nothing, this_dispatch
from ssot.past import identities, people_asking, people_barred, rejects_in_a_row
from ssot.ruling import Case, No, Policy, Ruling, told
from ssot.states import stage_of
from ssot.task import Approval, Attempt, Issue, RecordedPolicy, Task, plain, review_digest

POLICY_ACTOR: Final = "policy:"
"""What begins the name of an actor that is a policy. No token speaks for such a one: the colon is in no principal."""

OWING: Final = frozenset({"verdict_received", "approval_given", "decision_overdue", "task_rejected"})
"""The events that may owe another one, which then comes in the same commit."""

# ------------------------------------------------------------------------------------ what follows by itself


def is_wanted_again(task: Task, *, default: bool) -> bool:
    """Whether a task that was sent back starts its next attempt: where a person decided, and the project lets it.

    Declining a task does not, nor does a deadline that passed: there nobody said what to do otherwise. Nor does a
    landing that failed where a policy had approved: attempt after attempt would go by without a person.
    """
    attempt, policy = task.current, task.policy
    if task.locked or attempt is None or attempt.verdict is None or attempt.decision is None:
        return False
    if attempt.decision.by.startswith(POLICY_ACTOR):
        return False
    if policy is None:
        return default
    if policy.max_attempts is not None and attempt.attempt >= policy.max_attempts:
        return False
    return default if policy.auto_redispatch is None else policy.auto_redispatch


def is_owed_by(event: Event, following: Event) -> bool:
    """Whether the next event about the same task is the one that `event` owed."""
    if event.type == "task_rejected":
        return following.type == "reject_lock"
    if event.type == "approval_given":
        return following.type == "task_approved"
    return following.actor.startswith(POLICY_ACTOR) and following.type in ("task_approved", "task_rejected")


def owed(task: Task, policy: Policy, *, low_risk: bool = True) -> Draft | None:
    """The event that must follow a task's last one, but may be missing after a crash; None when nothing is owed.

    A quorum that is met, a low-risk verdict, a deadline whose outcome is `expired`, the lock on rejects: each follows
    from the document alone, so that whoever comes next says the same. `low_risk`: whether low risk may decide now.
    """
    if task.status == "needs_review":
        decided = _owed_decision(task, policy, low_risk=low_risk)
        return decided and Draft(*decided, task.task_id, task.correlation_id)
    return _owed_lock(task, policy)


def _owed_lock(task: Task, policy: Policy) -> Draft | None:
    rejects = rejects_in_a_row(task)
    decision = task.current.decision if task.current else None
    if task.locked or decision is None or task.status != "rejected" or rejects < policy.max_rejects:
        return None
    data = {"rejects": rejects, "max_rejects": policy.max_rejects}
    return Draft("reject_lock", decision.by, data, task.task_id, task.correlation_id)


_Owed = tuple[str, str, dict[str, Any]]
"""Type, actor and data of an event."""


def _owed_decision(task: Task, policy: Policy, *, low_risk: bool) -> _Owed | None:
    """The decision that the policy of the attempt demands; None while people have the word."""
    attempt, recorded = task.current, task.policy
    if attempt is None or attempt.verdict is None or recorded is None:
        return None
    if attempt.witnessed is False and not policy.trust_history:
        return None
    if recorded.quorum > 1 and len(given := approvals_of(task)) >= recorded.quorum:
        return _owed_approval(attempt, given)
    if low_risk and is_waved_through(attempt, recorded):
        return _by_policy(task, "approved", attempt.verdict.at, "everything that it touches is of low risk")
    if attempt.overdue_at is not None and recorded.deadline_outcome == "expired":
        return _by_policy(task, "rejected", attempt.overdue_at, f"nobody decided by {deadline_of(attempt)}")
    return None


def _owed_approval(attempt: Attempt, given: Sequence[Approval]) -> _Owed:
    """The decision that the last approval of a quorum brings, in the words of who gave it."""
    decision = {"decision": "approved", **plain(given[-1]), "issues": []}
    told = {"attempt": attempt.attempt, "approvals": len(given)}
    return "task_approved", given[-1].by, {"decision": decision, **told}


def _by_policy(task: Task, decision: str, at: str, reason: str) -> _Owed:
    assert task.current is not None
    assert task.policy is not None
    by = POLICY_ACTOR + task.policy.project
    said = {"decision": decision, "by": by, "at": at, "reason": reason, "issues": []}
    told = {"decision": {**said, "review_digest": review_digest(task)}, "attempt": task.current.attempt}
    return f"task_{decision}", by, told


def is_waved_through(attempt: Attempt, policy: RecordedPolicy) -> bool:
    """Whether the policy decides: it asks nobody for low risk, and a reader approved it without a reservation."""
    verdict, result = attempt.verdict, attempt.result
    return (
        not policy.human_gate
        and attempt.low_risk is True
        and attempt.witnessed is not False
        and result is not None
        and result.outcome == "completed"
        and verdict is not None
        and verdict.decision == "approve"
        and not verdict.issues
        and not says_nothing(verdict)
    )


def approvals_of(task: Task) -> tuple[Approval, ...]:
    """The approvals that count: those of what stands there now."""
    attempt, current = task.current, review_digest(task)
    return tuple(one for one in attempt.approvals if one.review_digest == current) if attempt else ()


# ------------------------------------------------------------------------------------------------- deadlines


@dataclass(frozen=True, slots=True)
class DueDecision:
    """When a decision is due (Unix seconds), and the reminders that were not said: when, and seconds before."""

    task_id: str
    dispatch_id: str
    due: float
    reminders: tuple[tuple[float, int], ...] = ()

    def findings(self, now: float) -> tuple[intents.RemindOfDecision | intents.FindDecisionOverdue, ...]:
        """What there is to say at a moment. Behind the deadline nobody is reminded of it any more."""
        if now > self.due:
            return (intents.FindDecisionOverdue(self.dispatch_id),)
        said = (before_s for moment, before_s in self.reminders if now >= moment)
        return tuple(intents.RemindOfDecision(self.dispatch_id, before_s) for before_s in said)


def due_decision(task: Task) -> DueDecision | None:
    """The deadline that a task at the gate still has before it; None when there is none, or it is known to be over."""
    attempt, policy = task.current, task.policy
    if attempt is None or policy is None or attempt.dispatch is None or stage_of(task) != "needs_review":
        return None
    if (deadline := deadline_of(attempt)) is None or attempt.overdue_at is not None:
        return None
    due = seconds_of(deadline)
    left = [(due - before_s, before_s) for before_s in policy.reminders_s if before_s not in attempt.reminded]
    return DueDecision(task.task_id, attempt.dispatch.dispatch_id, due, tuple(sorted(left)))


def deadline_of(attempt: Attempt) -> str | None:
    """Until when somebody has to decide."""
    policy = attempt.dispatch.policy if attempt.dispatch else None
    if policy is None or policy.decision_deadline_s is None or attempt.verdict is None:
        return None
    return later(attempt.verdict.at, float(policy.decision_deadline_s))


def remind(case: Case, intent: intents.RemindOfDecision) -> Ruling:
    this_dispatch(case, intent.dispatch_id)
    event = case.require("remind", "nobody is asked to decide it")
    attempt, due = case.attempt, _due_of(case)
    if intent.before_s in attempt.reminded or (policy := case.known.policy) is None:
        return Ruling()
    if intent.before_s not in policy.reminders_s:
        raise No("invalid_request", f"{case.task_id} has no reminder {intent.before_s} s before its deadline")
    now = seconds_of(case.stamp.now)
    if now < seconds_of(due) - intent.before_s:
        raise No("too_early", f"the decision on {case.task_id} is due at {due} only")
    if now > seconds_of(due):
        return Ruling()
    approvals = len(approvals_of(case.known))
    facts = {"due": due, "before_s": intent.before_s, "approvals": approvals, "quorum": policy.quorum}
    return Ruling((case.draft(event, dispatch_id=intent.dispatch_id, attempt=attempt.attempt, **facts),))


def find_overdue(case: Case, intent: intents.FindDecisionOverdue) -> Ruling:
    this_dispatch(case, intent.dispatch_id)
    event = case.require("overdue", "nobody is asked to decide it")
    attempt, due, policy = case.attempt, _due_of(case), case.known.policy
    if attempt.overdue_at is not None or policy is None:
        return Ruling()
    if seconds_of(case.stamp.now) <= seconds_of(due):
        raise No("too_early", f"the decision on {case.task_id} is due at {due} only")
    facts = {"due": due, "overdue_at": case.stamp.now, "outcome": policy.deadline_outcome}
    return Ruling((case.draft(event, dispatch_id=intent.dispatch_id, attempt=attempt.attempt, **facts),))


def _due_of(case: Case) -> str:
    due = deadline_of(case.attempt)
    if due is None:
        raise No("invalid_request", f"the decision on {case.task_id} has no deadline")
    return due


# ------------------------------------------------------------------------------------------------- decisions


def _check_decider(case: Case, given_digest: str | None) -> str | None:
    """Who may decide, on what they saw. Gives the current review digest."""
    task = case.known
    if any(name.startswith(POLICY_ACTOR) for name in case.who):
        raise No("not_an_approver", f"{case.actor}: a policy decides by itself, nobody decides in its name")
    if case.who & people_barred(task):
        raise No(
            "self_approval",
            f"{case.actor} executed or reviewed {task.task_id}, or had it done: somebody else has to decide it",
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


def _check_four_eyes(case: Case) -> None:
    policy = case.known.policy
    if policy is None or not policy.four_eyes:
        return
    if case.who & people_asking(case.known):
        raise No(
            "four_eyes",
            f"{case.actor} asked for {case.task_id}: the project {policy.project} wants somebody else to decide it",
        )


def _check_approver(case: Case, intent: intents.Approve, policy: RecordedPolicy) -> None:
    """What a project's policy asks of an approval beyond what is asked of every one."""
    if policy.approvers and case.actor not in policy.approvers:
        raise No(
            "not_an_approver",
            f"{case.actor} is none of the approvers of the project {policy.project}: {', '.join(policy.approvers)}",
        )
    if policy.require_reading and intent.review_digest is None:
        raise No("digest_required", "the project takes no approval without the review_digest of what was read")
    if policy.require_reading and not intent.reason.strip():
        raise No("reason_required", "the project takes no approval without a reason")


def _decision(case: Case, decision: str, reason: str, issues: Sequence[Issue], reviewed: str | None) -> dict[str, Any]:
    said = {"reason": reason, "issues": [plain(issue) for issue in issues], "review_digest": reviewed}
    return {"decision": decision, **case.signature, **said}


def approve(case: Case, intent: intents.Approve) -> Ruling:
    event = case.require("approve", "it cannot be approved")
    reviewed = _check_decider(case, intent.review_digest)
    attempt, policy = case.attempt, case.known.policy
    if attempt.witnessed is False and not case.policy.trust_history:
        raise No(
            "unwitnessed",
            f"attempt {attempt.attempt} of {case.task_id} arrived inside a file; this log did not see it happen. "
            "Dispatch it again, or set KIRCERTA_TRUST_HISTORY=1",
        )
    facts = {"attempt": attempt.attempt, "digest_given": intent.review_digest is not None}
    if policy is not None:
        _check_four_eyes(case)
        _check_approver(case, intent, policy)
        if policy.quorum > 1:
            return _one_approval(case, intent, policy, reviewed, facts)
    decision = _decision(case, "approved", intent.reason, (), reviewed)
    return Ruling((case.draft(event, decision=decision, **facts),))


def _one_approval(
    case: Case, intent: intents.Approve, policy: RecordedPolicy, reviewed: str | None, facts: dict[str, Any]
) -> Ruling:
    """One of several. The decision itself is owed as soon as there are enough of them."""
    given = approvals_of(case.known)
    if any(case.who & identities(one.by, one.on_behalf_of) for one in given):
        raise No(
            "already_approved",
            f"{case.actor} approved {case.task_id} already: so far {len(given)} of {policy.quorum} people did",
        )
    approval = {**case.signature, "reason": intent.reason, "review_digest": reviewed}
    counted = {"approvals": len(given) + 1, "quorum": policy.quorum}
    return Ruling((case.draft("approval_given", approval=approval, **facts, **counted),))


def reject(case: Case, intent: intents.Reject) -> Ruling:
    event = case.require("reject", "it cannot be rejected")
    if not intent.reason.strip():
        raise No("reason_required", "a rejection needs a reason")
    reviewed = _check_decider(case, intent.review_digest)
    _check_four_eyes(case)
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
    unlocked = {**case.signature, "reason": intent.reason}
    return Ruling((case.draft("task_unlocked", unlocked=unlocked),))
