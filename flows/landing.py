"""Landing: an approved change becomes one commit on its project's branch, once, or the log says why not.

What was approved is landed and nothing else: the digest of the decision is that of what stands in the task, the
decision stands in the log, the checks pass where the change will stand. A conflict is told; nothing is ever merged.
What cannot stand there is marked and may be dispatched again. The mark goes before the branch moves: a task of which
a new attempt may begin never has its change on the branch.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

from audit import mac
from audit.event import Draft, Event
from audit.reader import events_of
from audit.stamp import seconds_of
from flows.agents.enclosure import Confinement, Enclosure
from flows.agents.git import NoWorkplace
from flows.agents.subprocess_agent import SubprocessAgent
from flows.agents.workplace import FOLDER, Workplace, pinned, prepare_with
from flows.branch import Bench, Branch, BranchMoved, Change, Conflict, bench_at
from flows.checks import run_check
from flows.work import find_agent, see_task
from flows.workspace import Workspace
from ssot.claims import claim_file, try_claim
from ssot.gate import approvals_of
from ssot.intents import FailLanding, ResumeLanding
from ssot.observed import CheckRun
from ssot.projects import BadProjectsFile, Landing, Project
from ssot.states import stage_of
from ssot.store import Refused
from ssot.task import Attempt, Decision, Dispatch, Issue, Task, review_digest

LANDING: Final = "landing"
"""The actor of landings that nobody asked for by hand."""
TRIES: Final = 3
"""How often a branch may move under our hands before that is told."""
TAIL: Final = 500
Reason = Literal[
    "not_witnessed",
    "digest_differs",
    "other_project",
    "nothing_to_land",
    "checked_out",
    "conflict",
    "checks_failed",
    "branch_moved",
    "unusable",
]


class NotAsked(Exception):
    """There is nothing to land: the project does not ask for it, or nobody approved. No event tells of it."""


class BeingLanded(Exception):
    """Another process lands this very attempt."""


class LandingRefused(Exception):
    """The approved change was not landed. Recorded as `landing_refused`.

    Args:
        stands_on: the branch's head on which the change cannot stand.
        checks: those that were run there, where one of them failed.
    """

    def __init__(
        self, reason: Reason, detail: str, stands_on: str | None = None, checks: Sequence[CheckRun] = ()
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.stands_on = stands_on
        self.checks = checks

    @property
    def facts(self) -> dict[str, Any]:
        parent = {"parent": self.stands_on} if self.stands_on is not None else {}
        return {**parent, **({"checks": _told(self.checks, with_tail=True)} if self.checks else {})}

    @property
    def failed(self) -> tuple[CheckRun, ...]:
        """The checks that ran and failed; one that could not be run says nothing of the work."""
        return tuple(one for one in self.checks if one.exit_code != 0 and one.stopped != "closed")

    @property
    def needs_new_attempt(self) -> bool:
        return self.reason == "conflict" or bool(self.failed)


@dataclass(frozen=True, slots=True)
class Landed:
    """Where the change stands. `is_new`: this call brought it there and recorded it."""

    task_id: str
    branch: str
    commit: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class _Approved:
    """An approved attempt, and where its project wants it."""

    workspace: Workspace
    task: Task
    attempt: Attempt
    dispatch: Dispatch
    decision: Decision
    project: Project
    landing: Landing

    @property
    def branch(self) -> Branch:
        return Branch(self.checkout, self.landing.branch)

    @property
    def checkout(self) -> Path:
        return self.workspace.home / (self.project.checkout or "")

    def bench(self) -> AbstractContextManager[Bench]:
        """Named as the attempt's other places are: what a kill leaves is found by `remove_stale`."""
        home = self.workspace.home
        return bench_at(self.checkout, home / FOLDER, f"{claim_file(home, self.dispatch.dispatch_id).name}~bench-")

    @property
    def base(self) -> str | None:
        """Where the attempt's work began, as it was seen."""
        observed = self.attempt.result.observed if self.attempt.result is not None else None
        return observed.base if observed is not None else None


@dataclass(frozen=True, slots=True)
class _Put:
    """A change that stands on its branch."""

    commit: str
    parent: str | None = None
    checks: tuple[CheckRun, ...] = field(default=())


async def land(workspace: Workspace, task_id: str, actor: str) -> Landed:
    """Bring an approved attempt's change onto its project's branch. Safe to call twice, and to kill at any moment.

    Raises:
        NotAsked: the task is not approved, or its project does not ask for landing; nothing is recorded.
        BeingLanded: another process does it at this moment.
        LandingRefused: it cannot be; recorded, once for the same words.
        Refused (not_found), Busy, StorageFailed, Corrupt: nothing was recorded.
    """
    approved = await asyncio.to_thread(_approved, workspace, task_id)
    claim = await asyncio.to_thread(try_claim, workspace.home, approved.dispatch.dispatch_id)
    if claim is None:
        raise BeingLanded(f"{task_id} is being landed by another process: look again in a moment")
    with claim:
        return await _land(approved, actor)


async def _land(before: _Approved, actor: str) -> Landed:
    """With the claim: who had it before us may have said something of this attempt, or somebody begun another."""
    approved = await asyncio.to_thread(_approved, before.workspace, before.task.task_id)
    if approved.dispatch.dispatch_id != before.dispatch.dispatch_id:
        raise BeingLanded(f"{before.task.task_id} has another attempt by now: look again in a moment")
    return await _land_this(approved, actor)


async def _land_this(approved: _Approved, actor: str) -> Landed:
    known = await asyncio.to_thread(_recorded, approved)
    if known is not None:
        return known
    try:
        put = await _put(approved, actor)
    except (LandingRefused, NoWorkplace) as error:
        refused = error if isinstance(error, LandingRefused) else LandingRefused("unusable", str(error))
        await asyncio.to_thread(_note_refusal, approved, refused, actor)
        # A crash here leaves the attempt as it is: the next call is refused again, and marks it then.
        await asyncio.to_thread(_mark_unlanded, approved, refused, actor)
        raise refused from None
    # A crash here leaves a commit that the log does not know: the next call finds it by its trailers.
    await asyncio.to_thread(_note_landed, approved, put, actor)
    return Landed(approved.task.task_id, approved.landing.branch, put.commit, is_new=True)


def is_asked(workspace: Workspace, task: Task) -> bool | None:
    """Whether the project of a task wants approved changes landed; None while its file cannot be used."""
    reading = workspace.store.projects_file.now()
    if reading.said is None:
        return None
    try:
        found = reading.said.of(task)
    except BadProjectsFile:
        return False
    return found is not None and found[1].landing is not None


# ------------------------------------------------------------------------------------------------- what is landed


def _approved(workspace: Workspace, task_id: str) -> _Approved:
    task = see_task(workspace, task_id)
    name, project = _project(workspace, task)
    attempt = task.current
    if attempt is None or attempt.decision is None or attempt.dispatch is None or task.status != "approved":
        raise NotAsked(f"{task_id} is {task.status}: only what is approved is landed")
    if project.landing is None:
        raise NotAsked(f"the project {name} asks for no landing: [project.{name}.landing] branch = … in the file does")
    return _Approved(workspace, task, attempt, attempt.dispatch, attempt.decision, project, project.landing)


def _project(workspace: Workspace, task: Task) -> tuple[str, Project]:
    reading = workspace.store.projects_file.now()
    if reading.said is None:
        raise NotAsked(reading.problem)
    try:
        found = reading.said.of(task)
    except BadProjectsFile as error:
        raise NotAsked(str(error)) from None
    if found is None:
        raise NotAsked(f"{task.task_id} is of no project: where its change should go is not known")
    return found


def _check_it_is_what_was_approved(approved: _Approved) -> None:
    task, attempt, decision = approved.task, approved.attempt, approved.decision
    name = _project(approved.workspace, task)[0]
    recorded = approved.dispatch.policy.project if approved.dispatch.policy is not None else None
    if recorded != name:
        raise LandingRefused("other_project", f"the attempt ran for the project {recorded}, the task is {name}'s now")
    if attempt.witnessed is False and not approved.workspace.settings.trust_history:
        raise LandingRefused("not_witnessed", "the attempt came inside a file: this log did not see it happen")
    standing = review_digest(task)
    if decision.review_digest != standing:
        told = f"{decision.review_digest} was approved, {standing} stands now"
        raise LandingRefused("digest_differs", f"{task.task_id} was changed after its approval: {told}")


def _decided_by(approved: _Approved) -> Event:
    """The event of the decision; with the server's key at hand it bears its MAC."""
    folder = approved.workspace.store.audit_folder
    found = [event for event in events_of(folder, approved.task.task_id) if event.type == "task_approved"]
    event = next((one for one in found if one.data.get("attempt") == approved.attempt.attempt), None)
    if event is None:
        raise LandingRefused("not_witnessed", "the log has no approval of this attempt")
    key = approved.workspace.settings.store.mac_key
    if key is not None and not any(one.holds(event) for one in (key, *mac.kept(approved.workspace.home))):
        raise LandingRefused("not_witnessed", f"the approval at {event.seq} of the log does not bear the server's MAC")
    return event


def _diff_of(approved: _Approved) -> str:
    result = approved.attempt.result
    snapshot = result.diff_snapshot if result is not None else None
    if result is None or result.outcome != "completed" or snapshot is None:
        raise LandingRefused("nothing_to_land", "the approved result brings no change")
    blobs = approved.workspace.store.blobs
    text = snapshot.text if snapshot.text is not None else blobs.text(snapshot.blob or "")
    if hashlib.sha256(text.encode()).hexdigest() != snapshot.sha256:
        raise LandingRefused("digest_differs", "the diff is another one than its digest names")
    if not text.strip():
        raise LandingRefused("nothing_to_land", "the approved diff is empty")
    return text


def change_of(approved: _Approved, event: Event, diff: str) -> Change:
    """The commit to be: its trailers say where the log tells the rest."""
    task, decision = approved.task, approved.decision
    given = [(one.by, one.on_behalf_of) for one in approvals_of(task)]
    given.append((decision.by, decision.on_behalf_of))
    approvers = dict.fromkeys(by if whom is None else f"{by} (for {whom})" for by, whom in given)
    trailers = (
        ("Task", task.task_id),
        ("Attempt", str(approved.attempt.attempt)),
        *(("Approved-by", one) for one in approvers),
        ("Review-Digest", str(decision.review_digest)),
        ("Diff-Digest", "sha256:" + hashlib.sha256(diff.encode()).hexdigest()),
        ("Log-Position", f"{event.seq} {event.digest}"),
    )
    landing = approved.landing
    at = int(seconds_of(decision.at))
    return Change(diff, task.title or task.task_id, trailers, landing.name, landing.address, at)


# ------------------------------------------------------------------------------------------------- onto the branch


async def _put(approved: _Approved, actor: str) -> _Put:
    event = await asyncio.to_thread(_decided_by, approved)
    await asyncio.to_thread(_check_it_is_what_was_approved, approved)
    change = change_of(approved, event, await asyncio.to_thread(_diff_of, approved))
    with ExitStack() as bench_gone:
        bench = await asyncio.to_thread(bench_gone.enter_context, approved.bench())
        for left in reversed(range(TRIES)):
            try:
                return await _try_to_put(approved, change, bench, actor)
            except BranchMoved as moved:
                if not left:
                    raise LandingRefused("branch_moved", f"{moved}: try again") from None
    raise AssertionError("unreachable")


async def _try_to_put(approved: _Approved, change: Change, bench: Bench, actor: str) -> _Put:
    branch = approved.branch
    head = await asyncio.to_thread(branch.head)
    if head is not None:
        found = await asyncio.to_thread(bench.find, head, approved.base, change)
        if found is not None:
            await asyncio.to_thread(_take_mark_off, approved, actor)
            return _Put(found)
    if await asyncio.to_thread(branch.is_checked_out):
        raise LandingRefused("checked_out", f"{branch.name} is checked out: no work tree is changed; land on another")
    parent = head if head is not None else await asyncio.to_thread(pinned, approved.checkout, approved.project.base)
    try:
        commit = await asyncio.to_thread(bench.commit, parent, change)
    except Conflict as conflict:
        told = f"the change does not apply to {branch.name} at {parent[:12]}: it needs a new attempt"
        raise LandingRefused("conflict", f"{told} ({str(conflict)[:1000]})", parent) from None
    checks = await _checks(approved, parent, change.diff)
    failed = [one.criterion_ref for one in checks if one.exit_code != 0]
    if failed:
        told = f"on {branch.name} at {parent[:12]} the checks of {', '.join(failed)} do not pass"
        raise LandingRefused("checks_failed", told, parent, checks)
    why = f"kircerta: {approved.task.task_id}, attempt {approved.attempt.attempt}"
    await asyncio.to_thread(_take_mark_off, approved, actor)
    await asyncio.to_thread(branch.move, commit, head, why)
    return _Put(commit, parent, checks)


async def _checks(approved: _Approved, commit: str, diff: str) -> tuple[CheckRun, ...]:
    """The checks of the approved criteria, each in a clean place where the change stands on the commit."""
    workspace, dispatch = approved.workspace, approved.dispatch
    executor = await asyncio.to_thread(find_agent, workspace, "executor", dispatch.executor)
    configured = executor.confinement if isinstance(executor, SubprocessAgent) else None
    confinement = configured or Confinement()

    def around(place: Workplace) -> Enclosure:
        return Enclosure(place, workspace.home, confinement, read=(place.objects,))

    make = partial(prepare_with, workspace.home, approved.checkout, commit, dispatch.dispatch_id, "landing", diff)
    asked = [one for one in dispatch.acceptance_criteria if one.check is not None]
    return tuple([await run_check(one, make, around) for one in asked])


# ------------------------------------------------------------------------------------------------- a new attempt


def _mark_unlanded(approved: _Approved, refused: LandingRefused, actor: str) -> None:
    """What cannot stand where the branch is needs a new attempt: from here on one may begin."""
    if refused.stands_on is None or not refused.needs_new_attempt:
        return
    told = issues_of(approved.attempt, approved.dispatch, refused)
    known, branch = approved.dispatch.dispatch_id, approved.landing.branch
    with suppress(Refused):  # dispatched again meanwhile: there it is under way
        mark = FailLanding(known, refused.reason, branch, refused.stands_on, told)
        approved.workspace.store.commit(approved.task.task_id, mark, actor=actor)


def _take_mark_off(approved: _Approved, actor: str) -> None:
    """The change is about to stand on the branch. Raises NotAsked where another attempt has begun."""
    task_id, known = approved.task.task_id, approved.dispatch.dispatch_id
    now = see_task(approved.workspace, task_id)
    if stage_of(now) == "approved" and now.current is not None and now.current.dispatch == approved.dispatch:
        return
    try:
        approved.workspace.store.commit(task_id, ResumeLanding(known), actor=actor)
    except Refused as refused:
        raise NotAsked(f"{task_id} goes another way by now: {refused.detail}") from None


def issues_of(attempt: Attempt, dispatch: Dispatch, refused: LandingRefused) -> tuple[Issue, ...]:
    """What a landing said, as issues of the attempt that could not stand: one for each check that failed, or one."""
    failed = [(one.criterion_ref, f"{refused}\n{one.tail[-TAIL:]}".rstrip()) for one in refused.failed]
    said = failed or [(dispatch.acceptance_criteria[0].id, str(refused))]
    taken = {one.issue_id for one in (attempt.verdict.issues if attempt.verdict else ())}
    free = (name for n in count(1) if (name := f"LANDING-{n}") not in taken)
    return tuple(
        Issue(
            issue_id=next(free),
            criterion_ref=criterion,
            op_refs=_operations_for(attempt, criterion if failed else None),
            severity="blocker",
            text=text,
        )
        for criterion, text in said
    )


def _operations_for(attempt: Attempt, criterion: str | None) -> tuple[str, ...]:
    """The operations that are meant: those for a criterion, or the edits; all of them where there are none such."""
    work = attempt.result.work_log if attempt.result else ()
    meant = [op for op in work if (op.action == "edit" if criterion is None else criterion in op.criterion_refs)]
    return tuple(op.op_id for op in meant or work)


# ------------------------------------------------------------------------------------------------- in the log


def _recorded(approved: _Approved) -> Landed | None:
    """What the log says of this attempt's landing."""
    for event in events_of(approved.workspace.store.audit_folder, approved.task.task_id):
        if event.type == "task_landed" and event.data.get("attempt") == approved.attempt.attempt:
            return Landed(approved.task.task_id, event.data["branch"], event.data["commit"], is_new=False)
    return None


def _note_landed(approved: _Approved, put: _Put, actor: str) -> None:
    data = {
        **_about(approved),
        "commit": put.commit,
        "parent": put.parent,
        "review_digest": approved.decision.review_digest,
        "checks": _told(put.checks, with_tail=False),
    }
    _note(approved, "task_landed", actor, data)


def _note_refusal(approved: _Approved, refused: LandingRefused, actor: str) -> None:
    data = {**_about(approved), "reason": refused.reason, "detail": str(refused)[:2000], **refused.facts}
    folder = approved.workspace.store.audit_folder
    told = [one for one in events_of(folder, approved.task.task_id) if one.type == "landing_refused"]
    same = ("attempt", "branch", "reason", "detail")
    if not told or any(told[-1].data.get(key) != data[key] for key in same):
        _note(approved, "landing_refused", actor, data)


def _about(approved: _Approved) -> dict[str, Any]:
    return {"attempt": approved.attempt.attempt, "branch": approved.landing.branch}


def _note(approved: _Approved, event: str, actor: str, data: dict[str, Any]) -> None:
    task = approved.task
    approved.workspace.store.note(Draft(event, actor, data, task.task_id, task.correlation_id))


def _told(checks: Sequence[CheckRun], *, with_tail: bool) -> list[dict[str, Any]]:
    shown = {"criterion_ref", "exit_code", "duration_ms", "output_sha256"}
    return [
        {**one.model_dump(mode="json", include=shown), **({"tail": one.tail[-TAIL:]} if with_tail else {})}
        for one in checks
    ]
