"""Every policy × every stage × every move, and at the gate × everybody who might decide: told by an own oracle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import pytest

from ssot import intents
from ssot.projects import ProjectPolicy
from ssot.states import MOVES, STAGES, Stage, move_from, stage_of
from ssot.task import Build, review_digest
from tests import builders
from tests.builders import EXECUTOR, REVIEWER
from tests.ssot.pure import Pure

LISTED = ("alice", "bob", "creator", EXECUTOR)
DEADLINES: tuple[dict[str, Any], ...] = (
    {},
    {"decision_deadline_s": 60, "reminders_s": (30,)},
    {"decision_deadline_s": 60, "reminders_s": (30,), "deadline_outcome": "expired"},
)


def policies() -> Iterator[ProjectPolicy]:
    """All of them: 288."""
    yes_no = (False, True)
    for gate, quorum, listed, four_eyes, run, reading, deadline, most in product(
        ({}, {"human_gate": False, "low_risk": ("src/**",)}, {"human_gate": False, "low_risk": ("docs/**",)}),
        (1, 2), yes_no, yes_no, (False,), yes_no, DEADLINES, (None, 1),
    ):  # fmt: skip
        yield ProjectPolicy(
            **gate,
            quorum=quorum,
            approvers=LISTED if listed else (),
            four_eyes=four_eyes,
            require_run=run,
            require_reading=reading,
            max_attempts=most,
            **deadline,
        )


POLICIES = list(policies())
NAMES = sorted({move.name for move in MOVES} - {"lock", "approval", "unlock"})


@cache
def reached(policy: ProjectPolicy) -> dict[Stage, Pure]:
    """The task in each stage that it can come to under a policy."""
    at: dict[Stage, Pure] = {}
    road = Pure(policy)
    for step in (road.create, road.dispatch, road.ack, road.result):
        step()
        at[stage_of(road.known)] = road.copy()
    road.verdict("reject")
    at["needs_review"] = road.copy()
    road.do(intents.Reject("no"), "carol")
    at["rejected"] = road
    ended = at["dispatched"].copy()
    ended.do(intents.EndAttempt(_dispatch_id(ended), "orphaned"), "watchdog")
    at["ended"] = ended
    approved = at["needs_review"].copy()
    for name in ("alice", "bob"):
        approved.do(intents.Approve("read", review_digest(approved.known)), name)
    at["approved"] = approved
    unlanded = approved.copy()
    unlanded.do(_failed_landing(unlanded, "conflict"), "landing")
    at["unlanded"] = unlanded
    return at


def _dispatch_id(pure: Pure) -> str:
    current = pure.known.current
    return current.dispatch.dispatch_id if current and current.dispatch else "d-none"


def _failed_landing(pure: Pure, reason: str) -> intents.FailLanding:
    return intents.FailLanding(_dispatch_id(pure), reason, "main", "1" * 40, (builders.issue(1),))


def an_intent(pure: Pure, name: str) -> tuple[intents.Intent, str]:
    """The move with everything right but, perhaps, its moment; and who makes it."""
    task, known = pure.known, _dispatch_id(pure)
    told = task.current is not None and task.current.dispatch is not None
    body = task if told else _dispatched().known
    made: dict[str, tuple[intents.Intent, str]] = {
        "refresh": (intents.Refresh("newer", origin={"updated_at": "2025-06-15T15:06:45Z"}), "github"),
        "build": (intents.SetBuild(Build(progress="RUNNING", status=None, number=1, payload={})), "xcode"),
        "dispatch": (intents.Dispatch("d-next"), "dispatcher"),
        "ack": (intents.SendAck(builders.ack_body(body, dispatch_id=known)), EXECUTOR),
        "heartbeat": (intents.SendHeartbeat(known), EXECUTOR),
        "warn": (intents.WarnOfSilence(known, "2099-01-01T00:00:00Z"), "watchdog"),
        "result": (intents.SendResult(builders.result_body(body, dispatch_id=known)), EXECUTOR),
        "verdict": (intents.SendVerdict(builders.verdict_body(body, dispatch_id=known)), REVIEWER),
        "time_out": (intents.TimeOutAck(known), "watchdog"),
        "end": (intents.EndAttempt(known, "orphaned"), "watchdog"),
        "remind": (intents.RemindOfDecision(known, 30), "watchdog"),
        "overdue": (intents.FindDecisionOverdue(known), "watchdog"),
        "fail_landing": (_failed_landing(pure, "checks_failed"), "landing"),
        "resume_landing": (intents.ResumeLanding(known), "landing"),
        "approve": (intents.Approve("read", review_digest(task)), "alice"),
        "reject": (intents.Reject("no"), "carol"),
    }
    return made[name]


def _dispatched() -> Pure:
    pure = Pure()
    pure.create()
    pure.dispatch()
    return pure


_AFTER_S = {"time_out": 60.0, "remind": 45.0, "overdue": 75.0}


@pytest.mark.parametrize("stage", STAGES)
def test_each_move_happens_where_the_table_has_it_under_every_policy(stage: Stage) -> None:
    for policy in POLICIES:
        stands = reached(policy)[stage]
        for name in NAMES:
            pure = stands.copy()
            pure.now += _AFTER_S.get(name, 0.0)
            before = len(pure.events)
            ruling = pure.do(*an_intent(pure, name))
            allowed = move_from(name, stage) is not None and not _is_barred_by_policy(policy, name, stage)
            assert (ruling.refusal is None) == allowed, (stage, name, policy, ruling.refusal)
            if ruling.refusal is not None:
                assert pure.known == stands.known
                assert [event.type for event in pure.events[before:]] in (["move_refused"], []), ruling
            elif name == "approve":
                assert stage_of(pure.known) == ("approved" if policy.quorum == 1 else "needs_review")
            elif name == "verdict":
                assert pure.known.status == ("approved" if "src/**" in policy.low_risk else "needs_review")
            elif name == "overdue":
                assert pure.known.status == ("rejected" if policy.deadline_outcome == "expired" else "needs_review")
            elif name != "build":
                move = move_from(name, stage)
                assert move is not None
                assert stage_of(pure.known) == (move.to or stage)


def _is_barred_by_policy(policy: ProjectPolicy, name: str, stage: Stage) -> bool:
    if name in ("remind", "overdue"):
        return policy.decision_deadline_s is None
    return name == "dispatch" and stage in ("ended", "rejected", "unlanded") and policy.max_attempts == 1


# ------------------------------------------------------------------------------------------------ who decides


@dataclass(frozen=True)
class Somebody:
    """Who might decide, and what they bring."""

    name: str
    behalf: str | None = None
    reason: str = "read"
    gives_digest: bool = True

    @property
    def who(self) -> set[str]:
        return {self.name} | ({self.behalf} if self.behalf else set())


PEOPLE = [
    Somebody("alice"), Somebody("bob"), Somebody("carol"), Somebody("creator"), Somebody("asker"),
    Somebody(EXECUTOR), Somebody(REVIEWER), Somebody("bot", EXECUTOR), Somebody("bot", "alice"),
    Somebody("bob", REVIEWER), Somebody("alice", "creator"), Somebody("alice", reason=" "),
    Somebody("alice", gives_digest=False), Somebody("policy:shop"),
]  # fmt: skip


def expected(policy: ProjectPolicy, one: Somebody, given: list[set[str]]) -> str:
    """What comes of an approval at the gate, told without the rules."""
    if one.name.startswith("policy:"):
        return "not_an_approver"
    if one.who & {EXECUTOR, REVIEWER}:
        return "self_approval"
    if policy.four_eyes and one.who & {"creator", "asker"}:
        return "four_eyes"
    if policy.approvers and one.name not in policy.approvers:
        return "not_an_approver"
    if policy.require_reading and not one.gives_digest:
        return "digest_required"
    if policy.require_reading and not one.reason.strip():
        return "reason_required"
    if policy.quorum == 1:
        return "approved"
    if any(one.who & before for before in given):
        return "already_approved"
    return "approved" if len(given) + 1 >= policy.quorum else "needs_review"


def test_an_approval_counts_for_exactly_whom_the_policy_means() -> None:
    for policy in POLICIES:
        gate = reached(policy)["needs_review"]
        for first in PEOPLE:
            one = gate.copy()
            came, given = _approve(one, first), []
            assert came == expected(policy, first, given), (policy, first)
            if came != "needs_review":
                continue
            given = [first.who]
            for second in PEOPLE:
                two = one.copy()
                assert _approve(two, second) == expected(policy, second, given), (policy, first, second)


def _approve(pure: Pure, one: Somebody) -> str:
    digest = review_digest(pure.known) if one.gives_digest else None
    ruling = pure.do(intents.Approve(one.reason, digest), one.name, one.behalf)
    return ruling.refusal.code if ruling.refusal is not None else pure.known.status


@pytest.mark.parametrize("one", PEOPLE, ids=lambda one: f"{one.name}-{one.behalf}-{one.reason}-{one.gives_digest}")
def test_a_rejection_needs_only_a_reason_and_clean_hands(one: Somebody) -> None:
    for policy in POLICIES:
        gate = reached(policy)["needs_review"].copy()
        came = gate.do(intents.Reject(one.reason), one.name, one.behalf)
        hands = expected(policy.model_copy(update={"approvers": (), "require_reading": False, "quorum": 1}), one, [])
        if not one.reason.strip():
            assert came.refusal is not None
        elif hands == "approved":
            assert gate.known.status == "rejected"
        else:
            assert came.refusal is not None
            assert came.refusal.code == hands
