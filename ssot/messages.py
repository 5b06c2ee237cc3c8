"""The rules for what agents send, and for what is missed when they send nothing. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from audit.event import Draft
from audit.stamp import seconds_of
from ssot import diff, intents
from ssot.facts import Facts, contradiction, with_diff
from ssot.past import identities
from ssot.ruling import HEARTBEAT_EVENT_S, Case, No, Refusal, Ruling
from ssot.task import (
    Ack,
    Attempt,
    Criterion,
    Dispatch,
    Issue,
    Operation,
    Part,
    RecordedPolicy,
    Result,
    ResultBody,
    Verdict,
    issue_digest,
    plain,
)
from ssot.texts import externalise

REMOTE: Final = "remote"
"""The name under which a dispatch leaves a role to whoever comes with a token. Each other name is started here."""
PLAYED: Final = frozenset({"fake", "fake-inproc", "replay"})
"""Agents that only play. What they say is nobody's word: who tries the protocol by hand may speak in their place."""


def this_dispatch(case: Case, dispatch_id: str) -> Dispatch:
    """The current dispatch, if the message belongs to it and the attempt is open."""
    attempt = case.attempt
    if attempt.dispatch is None or attempt.dispatch.dispatch_id != dispatch_id:
        current = attempt.dispatch.dispatch_id if attempt.dispatch else "none"
        raise No(
            "wrong_dispatch",
            f"{case.task_id} is not at dispatch {dispatch_id[:80]}: its current one is {current}",
            dispatch_id=dispatch_id[:200],
        )
    if attempt.ended is not None:
        raise No(
            "attempt_ended",
            f"attempt {attempt.attempt} of {case.task_id} ended ({attempt.ended.reason}): the message comes too late",
            dispatch_id=dispatch_id,
        )
    return attempt.dispatch


def ack(case: Case, intent: intents.SendAck) -> Ruling:
    body = intent.body
    dispatch = this_dispatch(case, body.dispatch_id)
    event = case.require("ack", "it takes no ACK now")
    _only_its_job("executor", dispatch.executor, case.actor, by_token=intent.by_token)
    if seconds_of(case.stamp.now) > seconds_of(dispatch.ack_deadline):
        return _late(case, dispatch)
    unlike = echo_difference(dispatch, body)
    if unlike is not None:
        where, expected, got = unlike
        raise No(
            "ack_mismatch",
            f"the echo differs from the dispatch at {where}: expected {shown(expected)}, got {shown(got)}",
            event="ack_mismatch",
            dispatch_id=dispatch.dispatch_id,
            where=where,
            expected=shown(expected),
            got=shown(got),
        )
    ack = {**case.signed(plain(body)), **({"watched": True} if intent.watched else {})}
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
        item.pop("check", None)  # that is ours to run
    pairs = (
        ("echo", told, [plain(echo) for echo in body.echo]),
        ("scope", list(dispatch.scope), list(body.scope)),
        ("issues", [plain(i) for i in dispatch.issues], [plain(i) for i in body.issues]),
        ("issue_digests", [issue_digest(i) for i in dispatch.issues], list(body.issue_digests)),
    )
    for name, expected, got in pairs if body.issue_digests else pairs[:-1]:  # an echo may leave the digests out
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


def shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 1000 else text[:1000] + f"… ({len(text)} characters)"


def first_unlike(given: Sequence[Part], due: Sequence[Part]) -> str:
    difference = _list_difference("issues", [plain(i) for i in due], [plain(i) for i in given])
    where, expected, got = difference or ("issues", "", "")
    return f"at {where} expected {shown(expected)}, got {shown(got)}"


def is_remote(name: str) -> bool:
    """Whether a dispatch leaves a role to an agent that comes by itself, with a token."""
    return name.partition(":")[0] == REMOTE


def _only_its_job(role: str, name: str, actor: str, *, by_token: bool) -> None:
    """An agent that is started here is the job that was started, in its cage: a token makes nobody that one."""
    if by_token and not is_remote(name) and name.partition(":")[0] not in PLAYED:
        raise No(
            f"not_the_{role}",
            f"the {role} of this dispatch is {name}, which is started here: "
            f"only its own job may speak for it, not {actor} with a token",
        )


def _only_executor(case: Case, what: str, *, by_token: bool) -> None:
    attempt = case.attempt
    if attempt.dispatch is not None:
        _only_its_job("executor", attempt.dispatch.executor, case.actor, by_token=by_token)
    ack = attempt.ack
    if ack is not None and ack.by != case.actor:
        raise No(
            "not_the_executor",
            f"{ack.by} acknowledged this dispatch: only it may send {what}, not {case.actor}",
        )


def heartbeat(case: Case, intent: intents.SendHeartbeat) -> Ruling:
    dispatch = this_dispatch(case, intent.dispatch_id)
    event = case.require("heartbeat", "it takes no heartbeat now")
    _only_executor(case, "its heartbeats", by_token=intent.by_token)
    if seconds_of(case.stamp.now) - case.signs.last_heartbeat_event < HEARTBEAT_EVENT_S:
        return Ruling()
    return Ruling((case.draft(event, dispatch_id=dispatch.dispatch_id, note=intent.note[:1000]),))


def result(case: Case, intent: intents.SendResult) -> Ruling:
    dispatch = this_dispatch(case, intent.body.dispatch_id)
    event = case.require("result", "it takes no result now")
    _only_executor(case, "its result", by_token=intent.by_token)
    if intent.facts is None and case.attempt.ack is not None and case.attempt.ack.watched:
        problem = (
            "this executor works in a place of ours: its result is taken there, where it is held against the facts"
        )
        raise No("result_refused", problem, event="result_refused", dispatch_id=dispatch.dispatch_id)
    body = _credible(dispatch, intent.body, intent.facts)
    result = case.signed(plain(body))
    if intent.facts is not None and intent.facts.observed is not None:
        result["observed"] = plain(intent.facts.observed)
    told = {"low_risk": True} if is_low_risk(dispatch.policy, body) else {}
    return Ruling((case.draft(event, dispatch_id=dispatch.dispatch_id, result=result, **told),))


def result_refusal(dispatch: Dispatch, body: ResultBody, facts: Facts) -> Refusal | None:
    """Why a result would be refused, its sender apart; None when it would be taken."""
    try:
        _credible(dispatch, body, facts)
    except No as no:
        return no.refusal
    return None


def _credible(dispatch: Dispatch, body: ResultBody, facts: Facts | None) -> ResultBody:
    """The result as it will stand, after everything about it was checked. Raises No."""
    problem = result_problem(dispatch, body)
    if problem is not None:
        raise No("result_refused", problem, event="result_refused", dispatch_id=dispatch.dispatch_id)
    body = with_diff(body, facts) if facts is not None else body
    outside = paths_outside(dispatch.scope, body)
    if outside:
        raise No(
            "scope_violation",
            f"the result touches {len(outside)} paths outside the scope {list(dispatch.scope)}: "
            f"{', '.join(outside[:5])}",
            event="scope_violation",
            dispatch_id=dispatch.dispatch_id,
            paths=list(outside[:50]),
        )
    false = contradiction(body, facts) if facts is not None else None
    if false is not None:
        told = {"dispatch_id": dispatch.dispatch_id, **false.difference}
        raise No("result_refused", false.detail, event="result_refused", **told)
    problem = evidence_problem(dispatch, body)
    if problem is not None:
        raise No("result_refused", problem, event="result_refused", dispatch_id=dispatch.dispatch_id)
    return body


def result_problem(dispatch: Dispatch, body: Result) -> str | None:
    """What is wrong with a result on its way in, its form and its references; None when nothing is."""
    if _has_blob(body):
        return "texts are sent in full; only the server replaces long ones by their digest"
    return recorded_result_problem(dispatch, body)


def recorded_result_problem(dispatch: Dispatch, body: Result) -> str | None:
    """The same of a result as it stands in a document, where long texts may be told by their digest."""
    if not body.work_log:
        return "the work log has no operation: a result must show what was done"
    twice = _first_repeated([operation.op_id for operation in body.work_log])
    if twice is not None:
        return f"the operation id {twice} stands twice in the work log"
    known = {criterion.id for criterion in dispatch.acceptance_criteria}
    for operation in body.work_log:
        for reference in operation.criterion_refs:
            if reference not in known:
                return f"operation {operation.op_id} points at {reference}, which is no criterion of this dispatch"
    return _diff_problem(body)


def evidence_problem(dispatch: Dispatch, body: Result) -> str | None:
    """What a result that says `completed` does not show."""
    if body.outcome != "completed":
        return None
    shown_for = {reference for operation in body.work_log for reference in operation.criterion_refs}
    bare = [one.id for one in dispatch.acceptance_criteria if one.id not in shown_for]
    if bare:
        return f"no operation is shown for {', '.join(bare[:5])}: a completed result shows one for every criterion"
    asked = dispatch.policy is not None and dispatch.policy.require_run
    if asked and not any(operation.action in ("run", "test") for operation in body.work_log):
        return "no operation of action run or test is shown, and the project asks for one"
    return None


def _diff_problem(body: Result) -> str | None:
    snapshot = body.diff_snapshot
    if snapshot is None:
        return None
    if snapshot.text is None:
        fits = snapshot.blob == f"sha256:{snapshot.sha256}"
        return None if fits else f"diff_snapshot.sha256 is {snapshot.sha256}, but the text's is {snapshot.blob}"
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
    return tuple(path for path in _touched(body) if not _inside(path, scope))


def is_low_risk(policy: RecordedPolicy | None, body: Result) -> bool:
    """Whether everything that a result touches, and something is, lies where its project asks nobody."""
    if policy is None or policy.human_gate or not policy.low_risk or body.outcome != "completed":
        return False
    snapshot = body.diff_snapshot
    if snapshot is None or not snapshot.text:
        return False
    touched = _touched(body)
    return bool(touched) and all(_inside(path, policy.low_risk) for path in touched)


def _touched(body: Result) -> tuple[str, ...]:
    """The paths of a result: those of its diff and of its edits."""
    snapshot = body.diff_snapshot
    touched = list(diff.paths(snapshot.text)) if snapshot and snapshot.text else []
    touched += [operation.target for operation in body.work_log if operation.action == "edit"]
    return tuple(dict.fromkeys(touched))


def _inside(path: str, scope: Sequence[str]) -> bool:
    try:
        return diff.in_scope(diff.normalise(path), scope)
    except ValueError:
        return False


def verdict(case: Case, intent: intents.SendVerdict) -> Ruling:
    body = intent.body
    dispatch = this_dispatch(case, body.dispatch_id)
    event = case.require("verdict", "it takes no verdict now")
    attempt = case.attempt
    if attempt.ack is not None and case.who & identities(attempt.ack.by, attempt.ack.on_behalf_of):
        raise No("self_review", f"{case.actor} executed this attempt, or had it done: it cannot review it")
    _only_its_job("reviewer", dispatch.reviewer, case.actor, by_token=intent.by_token)
    _check_families(attempt, body)
    if intent.mutated:
        raise No(
            "mutation_detected",
            f"the reviewer changed what it was to read: {', '.join(intent.mutated[:5])}",
            event="mutation_detected",
            dispatch_id=dispatch.dispatch_id,
            paths=list(intent.mutated[:50]),
        )
    result = attempt.result
    problem = verdict_problem(dispatch, result.work_log if result else (), body)
    if problem is not None:
        raise No("verdict_refused", problem, event="verdict_refused", dispatch_id=dispatch.dispatch_id)
    verdict = case.signed(plain(body))
    told = {"says_nothing": True} if says_nothing(body) else {}
    return Ruling((case.draft(event, dispatch_id=dispatch.dispatch_id, verdict=verdict, **told),))


def says_nothing(verdict: Verdict) -> bool:
    """Whether a verdict shows no trace of a reading: a bare approval, without a summary and without an issue."""
    is_blank = verdict.blob is None and not (verdict.summary or "").strip()
    return verdict.decision == "approve" and is_blank and not verdict.issues


def _check_families(attempt: Attempt, body: Verdict) -> None:
    """Two models of one family are not two opinions, where the policy says so. The workspace's word counts first."""
    dispatch = attempt.dispatch
    if dispatch is None or dispatch.policy is None or not dispatch.policy.distinct_model_family:
        return
    executor = dispatch.executor_family or (attempt.ack.model_family if attempt.ack else None)
    check_families(executor, dispatch.reviewer_family or body.model_family)


def check_families(executor: str | None, reviewer: str | None) -> None:
    """Raises No where both families are known and the same."""
    if executor and reviewer and executor.casefold() == reviewer.casefold():
        raise No("same_model_family", f"executor and reviewer are both {executor}: the project asks for two families")


def verdict_problem(dispatch: Dispatch, work_log: Sequence[Operation], body: Verdict) -> str | None:
    """What is wrong with a verdict on its way in; None when nothing is."""
    if _has_blob(body):
        return "texts are sent in full; only the server replaces long ones by their digest"
    return recorded_verdict_problem(dispatch, work_log, body)


def recorded_verdict_problem(dispatch: Dispatch, work_log: Sequence[Operation], body: Verdict) -> str | None:
    """The same of a verdict as it stands in a document, where long texts may be told by their digest."""
    if body.decision == "reject" and not body.issues:
        return "a verdict of reject names at least one issue"
    if body.decision == "approve" and any(issue.severity == "blocker" for issue in body.issues):
        return "a verdict of approve has no issue of severity blocker"
    if dispatch.policy is not None and dispatch.policy.require_reading and says_nothing(body):
        return "a verdict says what was found: the project takes no bare approvals"
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


def warn(case: Case, intent: intents.WarnOfSilence) -> Ruling:
    dispatch = this_dispatch(case, intent.dispatch_id)
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


def time_out(case: Case, intent: intents.TimeOutAck) -> Ruling:
    dispatch = this_dispatch(case, intent.dispatch_id)
    case.require("time_out", "its ACK is not overdue")
    if seconds_of(case.stamp.now) <= seconds_of(dispatch.ack_deadline):
        raise No("too_early", f"the ACK of {case.task_id} is due at {dispatch.ack_deadline} only")
    return Ruling((_timed_out(case, dispatch),))


def end_attempt(case: Case, intent: intents.EndAttempt) -> Ruling:
    dispatch = this_dispatch(case, intent.dispatch_id)
    event = case.require("end", "no attempt is under way")
    ended = {"reason": intent.reason, "at": case.stamp.now}
    return Ruling((case.draft(event, dispatch_id=dispatch.dispatch_id, ended=ended, detail=intent.detail[:8000]),))
