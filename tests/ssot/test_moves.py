"""The moves matrix: every move in every stage, out of the one table."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssot import intents
from ssot.states import MOVES, ROLES, STAGES, Stage, move_from, role_of, stage_of, stages_of, status_of
from ssot.task import AckBody, Build, ResultBody, VerdictBody
from tests import builders
from tests.builders import EXECUTOR, PERSON, REVIEWER, Ticks, Walk, a_store, projects_file, refusal, walk_to

NAMES = sorted({move.name for move in MOVES} - {"lock", "approval"})
ACTORS = {"ack": EXECUTOR, "heartbeat": EXECUTOR, "result": EXECUTOR, "verdict": REVIEWER}


def an_intent(walk: Walk, name: str) -> intents.Intent:
    """The move with everything right but, perhaps, its moment."""
    task = walk.task
    dispatched = task.current is not None and task.current.dispatch is not None
    dispatch_id = task.current.dispatch.dispatch_id if dispatched else "d-none"  # type: ignore[union-attr]
    made: dict[str, intents.Intent] = {
        "refresh": intents.Refresh("a newer version", origin={"updated_at": "2025-06-15T15:06:45Z"}),
        "build": intents.SetBuild(Build(progress="RUNNING", status=None, number=1, payload={})),
        "dispatch": intents.Dispatch("d-next"),
        "ack": intents.SendAck(builders.ack_body(task) if dispatched else AckBody(dispatch_id="d-none", echo=())),
        "heartbeat": intents.SendHeartbeat(dispatch_id),
        "warn": intents.WarnOfSilence(dispatch_id, "2099-01-01T00:00:00Z"),
        "result": intents.SendResult(
            builders.result_body(task) if dispatched else ResultBody(dispatch_id="d-none", outcome="failed")
        ),
        "verdict": intents.SendVerdict(
            builders.verdict_body(task) if dispatched else VerdictBody(dispatch_id="d-none", decision="approve")
        ),
        "time_out": intents.TimeOutAck(dispatch_id),
        "end": intents.EndAttempt(dispatch_id, "orphaned"),
        "remind": intents.RemindOfDecision(dispatch_id, 600),
        "overdue": intents.FindDecisionOverdue(dispatch_id),
        "fail_landing": intents.FailLanding(dispatch_id, "checks_failed", "main", "2" * 40, (builders.issue(1),)),
        "resume_landing": intents.ResumeLanding(dispatch_id),
        "approve": intents.Approve("fine"),
        "reject": intents.Reject("not fine"),
        "unlock": intents.Unlock("go on"),
    }
    return made[name]


def prepared(tmp_path: Path, stage: Stage, name: str) -> tuple[Walk, Ticks]:
    ticks = Ticks()
    store = a_store(tmp_path, ticks=ticks, max_rejects=1 if name == "unlock" else 3)
    if name in ("remind", "overdue"):
        projects_file(tmp_path, decision_deadline_s=3600, reminders_s=[600])
    walk = walk_to(store, "T-1", stage, metadata={"project": "shop"} if name in ("remind", "overdue") else {})
    ticks.ahead({"time_out": 60, "remind": 3300, "overdue": 3700}.get(name, 0))
    return walk, ticks


def documented_code(stage: Stage, name: str) -> str:
    """The code of a refusal: the stage says no, unless the message belongs to no open attempt at all."""
    if name in ("refresh", "dispatch", "approve", "reject", "unlock") or stage in (
        "dispatched",
        "acknowledged",
        "delivered",
    ):
        return "invalid_transition"
    if stage == "ended":
        return "attempt_ended"
    return "invalid_transition"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", NAMES)
def test_a_move_happens_where_the_table_has_it_and_nowhere_else(tmp_path: Path, stage: Stage, name: str) -> None:
    walk, _ = prepared(tmp_path, stage, name)
    before, document = builders.types(tmp_path), walk.store.document("T-1")
    move = move_from(name, stage)
    if move is not None:
        done = walk.do(an_intent(walk, name), ACTORS.get(name, PERSON))
        new = builders.types(tmp_path)[len(before) :]
        assert new[0] == move.event
        assert stage_of(done.task) == (move.to or stage)
        assert done.task.status == STAGES[stage_of(done.task)][0]
    else:
        refused = refusal(walk, an_intent(walk, name), ACTORS.get(name, PERSON))
        assert refused.code == documented_code(stage, name)
        assert "T-1" in refused.detail
        (event,) = builders.events(tmp_path)[len(before) :]
        assert (event.type, event.data["move"], event.data["code"]) == ("move_refused", name, refused.code)
        assert walk.store.document("T-1") == document
        assert builders.task_path(tmp_path, "T-1").read_bytes() == document


@pytest.mark.parametrize("stage", STAGES)
def test_a_locked_task_is_not_dispatched_but_unlocked(tmp_path: Path, stage: Stage) -> None:
    walk = walk_to(a_store(tmp_path, max_rejects=1), "T-1", stage)
    assert walk.task.locked == (stage == "rejected")
    if stage == "rejected":
        assert refusal(walk, intents.Dispatch("d-2")).code == "locked"
        assert refusal(walk, intents.Unlock("  ")).code == "reason_required"
        walk.unlock()
        assert not walk.task.locked
        assert walk.dispatch().task.status == "pending"


def test_the_table_is_whole() -> None:
    assert {move.to for move in MOVES if move.to} | {"new"} == set(STAGES)
    for move in MOVES:
        assert set(move.of) <= set(STAGES)
        assert move.role is None or move.role in ROLES
    for name in NAMES:
        rows = [stage for move in MOVES if move.name == name for stage in move.of]
        assert len(rows) == len(set(rows)), f"{name} has two rows for a stage"
        assert set(rows) == set(stages_of(name))


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("approve", "approver"), ("reject", "approver"), ("unlock", "approver"), ("ack", "executor"),
        ("heartbeat", "executor"), ("result", "executor"), ("verdict", "reviewer"), ("dispatch", None),
        ("time_out", None), ("end", None), ("warn", None), ("refresh", None), ("build", None),
        ("remind", None), ("overdue", None), ("fail_landing", None), ("resume_landing", None),
    ],
)  # fmt: skip
def test_roles_are_those_of_the_table(name: str, role: str | None) -> None:
    assert role_of(name) == role


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"refresh", "build", "dispatch", "approve", "reject", "unlock"}))
def test_a_message_to_another_dispatch_is_refused(tmp_path: Path, name: str) -> None:
    stage = stages_of(name)[0]
    walk, _ = prepared(tmp_path, stage, name)
    intent = an_intent(walk, name)
    if isinstance(intent, intents.SendAck | intents.SendResult | intents.SendVerdict):
        intent = type(intent)(intent.body.model_copy(update={"dispatch_id": "d-other"}))  # type: ignore[arg-type]
    elif isinstance(intent, intents.WarnOfSilence):
        intent = intents.WarnOfSilence("d-other", intent.silent_since)
    elif isinstance(intent, intents.RemindOfDecision):
        intent = intents.RemindOfDecision("d-other", intent.before_s)
    elif isinstance(intent, intents.EndAttempt):
        intent = intents.EndAttempt("d-other", "orphaned")
    elif isinstance(intent, intents.FailLanding):
        intent = intents.FailLanding("d-other", intent.reason, intent.branch, intent.parent, intent.issues)
    else:
        intent = type(intent)("d-other")  # type: ignore[call-arg, arg-type, operator]
    assert refusal(walk, intent, ACTORS.get(name, PERSON)).code == "wrong_dispatch"


def test_status_is_derived_from_the_last_attempt(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for stage, (status, _) in STAGES.items():
        walk = walk_to(store, f"T-{stage}", stage)
        assert (walk.task.status, status_of(walk.task.attempts)) == (status, status)
    again = Walk(store, "T-rejected")
    again.dispatch()
    assert again.task.status == "pending"


@pytest.mark.parametrize("name", sorted({*NAMES} - {"unlock"}))
def test_an_unknown_task_is_not_found_and_leaves_no_trace(tmp_path: Path, name: str) -> None:
    store = a_store(tmp_path)
    other = walk_to(store, "T-1", "new")
    count = len(builders.events(tmp_path))
    assert refusal(Walk(store, "T-2"), an_intent(other, name)).code == "not_found"
    assert len(builders.events(tmp_path)) == count
