"""What a project's policy asks for at the gate: of whom, of how many, by when, and of what kind of work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ssot import intents, replay
from ssot.store import IdempotencyKey, Refused, Store
from ssot.task import review_digest
from tests import builders
from tests.builders import BOTH, EXECUTOR, REVIEWER, Ticks, Walk, a_store, operation, projects_file, refusal

SHOP = {"project": "shop"}


def at_gate(home: Path, *, ticks: Ticks | None = None, decision: str = "approve", **policy: Any) -> Walk:
    """A task of a project with this policy, at its gate."""
    projects_file(home, **policy)
    walk = Walk(a_store(home, ticks=ticks))
    walk.create(metadata=SHOP)
    walk.to_gate(decision)
    return walk


def dispatch_id(walk: Walk) -> str:
    current = walk.task.current
    assert current is not None
    assert current.dispatch is not None
    return current.dispatch.dispatch_id


# -------------------------------------------------------------------------------------------------- the record


def test_a_dispatch_records_the_policy_that_it_runs_under_and_a_later_file_changes_nothing(tmp_path: Path) -> None:
    walk = at_gate(tmp_path, quorum=2, approvers=["bob", "carol"])
    policy = walk.task.policy
    assert policy is not None
    assert (policy.project, policy.quorum, policy.approvers) == ("shop", 2, ("bob", "carol"))
    projects_file(tmp_path, quorum=1)
    walk.approve("bob")
    assert walk.task.status == "needs_review"
    assert refusal(walk, intents.Approve(), "alice").code == "not_an_approver"
    assert walk.approve("carol").task.status == "approved"


def test_a_task_without_a_project_records_none(tmp_path: Path) -> None:
    projects_file(tmp_path, quorum=2)
    walk = Walk(a_store(tmp_path))
    walk.create()
    walk.to_gate()
    assert walk.task.policy is None
    assert b"policy" not in builders.task_path(tmp_path, "T-1").read_bytes()
    assert walk.approve().task.status == "approved"


def test_what_the_task_leaves_open_its_project_says(tmp_path: Path) -> None:
    builders.write_projects(
        tmp_path, '[project.shop]\nexecutor = "remote"\nreviewer = "second"\nscope = ["src/**", "tests/**"]\n'
    )
    store = a_store(tmp_path)
    walk, own = Walk(store), Walk(store, "T-2")
    walk.create(metadata=SHOP)
    dispatch = walk.dispatch().task.attempts[-1].dispatch
    assert dispatch is not None
    assert (dispatch.executor, dispatch.reviewer, dispatch.scope) == ("remote", "second", ("src/**", "tests/**"))
    own.create(metadata=SHOP, scope=("docs/**",))
    dispatch = own.dispatch(executor="fake", reviewer="fake").task.attempts[-1].dispatch
    assert dispatch is not None
    assert (dispatch.executor, dispatch.reviewer, dispatch.scope) == ("fake", "fake", ("docs/**",))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[project.shop", "projects.toml"),
        ("[project.shop]\nexcutor = 'x'", "excutor"),
        ("[project.shop.policy]\nhuman_gate = false", "low_risk"),
        ("[project.shop.policy]\nquorum = 3\napprovers = ['a', 'b']", "never be met"),
        ("[project.shop.policy]\nquorum = '1'", "quorum"),
        ("[project.shop.policy]\ndeadline_outcome = 'approved'", "deadline_outcome"),
        ("[project.shop.policy]\ndecision_deadline_s = 60\nreminders_s = [60]", "reminders_s"),
        ("[project.other]", "shop"),
    ],
)
def test_a_projects_file_that_cannot_be_used_lets_nothing_be_dispatched(tmp_path: Path, text: str, says: str) -> None:
    builders.write_projects(tmp_path, text)
    walk = Walk(a_store(tmp_path))
    walk.create(metadata=SHOP)
    refused = refusal(walk, intents.Dispatch("d-1"), "dispatcher")
    assert refused.code == "bad_projects_file"
    assert says in refused.detail
    assert builders.events(tmp_path)[-1].data["code"] == "bad_projects_file"
    assert walk.task.attempts == ()


def test_a_change_of_the_projects_file_is_told_once_for_what_it_says(tmp_path: Path) -> None:
    walk = at_gate(tmp_path, quorum=2)
    path = projects_file(tmp_path, quorum=2)
    path.write_text("# a remark\n" + path.read_text())
    walk.store.notice_projects()
    (first,) = builders.events(tmp_path, "projects_changed")
    assert first.data["old"] is None
    assert first.seq < builders.events(tmp_path, "task_dispatched")[0].seq
    assert walk.task.policy is not None
    assert first.data["projects"] == {"shop": walk.task.policy.digest}
    projects_file(tmp_path, quorum=3)
    other = a_store(tmp_path, ticks=Ticks(builders.START_S + 60))
    other.notice_projects()
    walk.store.notice_projects()
    path.write_text("[[")
    walk.store.notice_projects()
    other.notice_projects()
    path.unlink()
    other.notice_projects()
    told = [event.data for event in builders.events(tmp_path, "projects_changed")]
    assert [one["old"] for one in told] == [None, *(one["new"] for one in told[:-1])]
    assert (len(told), "problem" in told[2], told[3]["new"]) == (4, True, None)
    other.save_checkpoint()
    a_store(tmp_path).notice_projects()
    assert len(builders.events(tmp_path, "projects_changed")) == 4


# ------------------------------------------------------------------------------------------------------ quorum


def test_a_quorum_is_met_by_distinct_people_on_one_digest(tmp_path: Path) -> None:
    walk = at_gate(tmp_path, quorum=3)
    digest = review_digest(walk.task)
    walk.approve("alice", reason="read", review_digest=digest)
    assert refusal(walk, intents.Approve(review_digest=digest), "alice").code == "already_approved"
    walk.approve("bob", review_digest=digest)
    assert (walk.task.status, len(walk.task.attempts[-1].approvals)) == ("needs_review", 2)
    done = walk.approve("carol", reason="me, too", review_digest=digest)
    assert [event.type for event in done.events] == ["approval_given", "task_approved"]
    decision = done.task.attempts[-1].decision
    assert decision is not None
    assert (decision.decision, decision.by, decision.reason) == ("approved", "carol", "me, too")
    assert [one.by for one in done.task.attempts[-1].approvals] == ["alice", "bob", "carol"]
    assert replay.check(tmp_path).ok


def test_a_name_at_the_command_line_is_the_same_person_everywhere(tmp_path: Path) -> None:
    walk = at_gate(tmp_path, quorum=2)
    walk.approve("alice")
    assert refusal(walk, intents.Approve(), "alice@cli").code == "already_approved"
    assert refusal(walk, intents.Approve(), f"{builders.EXECUTOR}@cli").code == "self_approval"
    walk.reject("bob")
    walk.dispatch()
    walk.ack("carol@cli")
    walk.result("carol@cli")
    assert refusal(walk, intents.SendVerdict(builders.verdict_body(walk.task)), "carol").code == "self_review"


def test_an_approval_of_what_stood_before_counts_no_more(tmp_path: Path) -> None:
    walk = at_gate(tmp_path, quorum=2)
    before = review_digest(walk.task)
    walk.approve("alice", review_digest=before)
    document = builders.read(tmp_path, "T-1")
    builders.drop(tmp_path, "T-1", {**document, "request_text": "Something else."})
    walk.store.scan()
    assert refusal(walk, intents.Approve(review_digest=before), "bob").code == "stale_review"
    walk.approve("bob")
    assert walk.task.status == "needs_review"
    assert walk.approve("alice").task.status == "approved"


def test_a_rejection_ends_it_whatever_was_approved(tmp_path: Path) -> None:
    walk = at_gate(tmp_path, quorum=2)
    walk.approve("alice")
    assert walk.reject("bob").task.status == "rejected"
    assert len(walk.task.attempts[-1].approvals) == 1
    assert refusal(walk, intents.Approve(), "carol").code == "invalid_transition"
    walk.to_gate()
    walk.approve("alice")
    assert walk.task.status == "needs_review", "approvals of another attempt do not count"


def test_the_same_key_gives_the_first_answer_with_what_it_owed(tmp_path: Path) -> None:
    walk = at_gate(tmp_path, quorum=2)
    keys = [IdempotencyKey(f"k-{n}", "b") for n in range(2)]
    answers = [
        walk.store.commit("T-1", intents.Approve(), actor=name, idempotency=key)
        for name, key in zip(("alice", "bob"), keys, strict=True)
    ]
    for answer, key in zip(answers, keys, strict=True):
        again = walk.store.commit("T-1", intents.Approve(), actor="alice", idempotency=key)
        assert (again.repeated, again.document) == (True, answer.document)


def test_what_others_decided_next_is_no_part_of_the_first_answer(tmp_path: Path) -> None:
    walk = at_gate(tmp_path, quorum=2)
    key = IdempotencyKey("k", "b")
    first = walk.store.commit("T-1", intents.Approve(), actor="alice", idempotency=key)
    walk.reject("bob")
    again = walk.store.commit("T-1", intents.Approve(), actor="alice", idempotency=key)
    assert (again.task.status, again.document) == ("needs_review", first.document)


def test_an_approval_lost_between_its_line_and_the_decision_is_made_good(tmp_path: Path) -> None:
    """A crash may leave the last approval without the decision that it owed."""
    walk = at_gate(tmp_path, quorum=2)
    walk.approve("alice")
    walk.approve("bob")
    walk.store.close()
    log = tmp_path / "audit" / "events.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    assert b'"task_approved"' in lines[-1]
    log.write_bytes(b"".join(lines[:-1]))
    (tmp_path / "audit" / ".lock").write_bytes(b"")
    builders.task_path(tmp_path, "T-1").unlink()
    store = a_store(tmp_path, ticks=Ticks(builders.START_S + 60))
    decision = store.task("T-1").attempts[-1].decision
    assert decision is not None
    assert (decision.by, builders.types(tmp_path, "T-1").count("task_approved")) == ("bob", 1)


# ------------------------------------------------------------------------------------- who decides, for whom


def test_who_made_or_dispatched_a_task_does_not_decide_it_under_four_eyes(tmp_path: Path) -> None:
    projects_file(tmp_path, four_eyes=True)
    walk = Walk(a_store(tmp_path))
    walk.do(builders.create(metadata=SHOP), "dora@cli")
    walk.do(intents.Dispatch("d-1"), "erin")
    walk.ack()
    walk.result()
    walk.verdict()
    for name in ("dora@cli", "dora", "erin"):
        assert refusal(walk, intents.Approve(), name).code == "four_eyes"
        assert refusal(walk, intents.Reject("no"), name).code == "four_eyes"
    assert walk.approve("alice").task.status == "approved"


def test_a_delegate_counts_as_both(tmp_path: Path) -> None:
    walk = at_gate(tmp_path, quorum=2, four_eyes=True)
    store = walk.store
    for actor, behalf, code in (
        ("bot", EXECUTOR, "self_approval"),
        ("bot", REVIEWER, "self_approval"),
        ("bot", builders.PERSON, "four_eyes"),
    ):
        with pytest.raises(Refused) as refused:
            store.commit("T-1", intents.Approve(), actor=actor, on_behalf_of=behalf)
        assert refused.value.code == code
    store.commit("T-1", intents.Approve(), actor="bot", on_behalf_of="bob")
    assert refusal(walk, intents.Approve(), "bob").code == "already_approved"
    assert refusal(walk, intents.Approve(), "bot").code == "already_approved"
    done = walk.approve("carol")
    assert done.task.status == "approved"
    assert done.task.attempts[-1].approvals[0].on_behalf_of == "bob"


def test_who_had_the_work_done_neither_reviews_nor_decides(tmp_path: Path) -> None:
    walk = Walk(a_store(tmp_path))
    walk.create()
    walk.dispatch()
    forged = builders.ack_body(walk.task, on_behalf_of="somebody-else")
    walk.store.commit("T-1", intents.SendAck(forged), actor="bot", on_behalf_of="alice")
    ack = walk.task.attempts[-1].ack
    assert ack is not None
    assert (ack.by, ack.on_behalf_of) == ("bot", "alice"), "the server says for whom, not the sender"
    walk.result("bot")
    verdict = intents.SendVerdict(builders.verdict_body(walk.task))
    assert refusal(walk, verdict, "alice").code == "self_review"
    with pytest.raises(Refused, match="cannot review"):
        walk.store.commit("T-1", verdict, actor="another", on_behalf_of="bot")
    walk.verdict()
    assert refusal(walk, intents.Approve(), "alice").code == "self_approval"
    assert walk.approve("bob").task.status == "approved"


@pytest.mark.parametrize(
    ("config", "acked", "said", "refused"),
    [
        (("gpt", "GPT"), None, None, "dispatch"),
        ((None, None), "gpt", "gpt", "verdict"),
        (("gpt", None), None, "Gpt", "verdict"),
        (("gpt", "claude"), "claude", "claude", None),
        ((None, None), "gpt", None, None),
        ((None, None), "gpt", "claude", None),
    ],
)
def test_two_models_of_one_family_are_no_two_opinions(
    tmp_path: Path,
    config: tuple[str | None, str | None],
    acked: str | None,
    said: str | None,
    refused: str | None,
) -> None:
    projects_file(tmp_path, distinct_model_family=True)
    walk = Walk(a_store(tmp_path))
    walk.create(metadata=SHOP)
    wish = intents.Dispatch("d-1", executor_family=config[0], reviewer_family=config[1])
    if refused == "dispatch":
        assert refusal(walk, wish, "dispatcher").code == "same_model_family"
        return
    walk.do(wish, "dispatcher")
    walk.ack(**({"model_family": acked} if acked else {}))
    walk.result()
    body = builders.verdict_body(walk.task, **({"model_family": said} if said else {}))
    if refused == "verdict":
        assert refusal(walk, intents.SendVerdict(body), REVIEWER).code == "same_model_family"
    else:
        assert walk.do(intents.SendVerdict(body), REVIEWER).task.status == "needs_review"


# ---------------------------------------------------------------------------------------------------- low risk

LOW = {"human_gate": False, "low_risk": ["docs/**", "*.md"]}


def delivered(home: Path, path: str = "docs/a.md", ops: tuple[str, ...] = ("docs/a.md",), **changes: Any) -> Walk:
    """A result of a low-risk project that touches a path, and edits others."""
    projects_file(home, **LOW, quorum=2)
    walk = Walk(a_store(home))
    walk.create(metadata=SHOP)
    walk.dispatch()
    walk.ack()
    log = tuple(operation(n, target=target, criterion_refs=BOTH) for n, target in enumerate(ops, 1))
    snapshot = builders.snapshot(builders.diff_text(path))
    walk.result(**{"work_log": log, "diff_snapshot": snapshot, **changes})
    return walk


def test_low_risk_is_decided_by_the_named_policy_on_a_verdict_that_approves(tmp_path: Path) -> None:
    walk = delivered(tmp_path)
    done = walk.verdict()
    assert [event.type for event in done.events] == ["verdict_received", "task_approved"]
    decision = done.task.attempts[-1].decision
    assert decision is not None
    assert (decision.by, done.events[-1].actor) == ("policy:shop", "policy:shop")
    assert decision.review_digest == review_digest(done.task)
    assert replay.check(tmp_path).ok


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        ({"path": "src/a.py"}, {}),
        ({"ops": ("docs/a.md", "src/a.py")}, {}),
        ({"ops": ("docs/../src/a.py",)}, {}),
        ({"diff_snapshot": None}, {}),
        ({"diff_snapshot": builders.snapshot("")}, {}),
        ({"outcome": "failed"}, {}),
        ({}, {"summary": " "}),
        ({}, {"issues": (builders.issue(1, severity="minor"),)}),
        ({}, {"decision": "reject", "issues": (builders.issue(1),)}),
    ],
)
def test_everything_else_waits_for_people(tmp_path: Path, result: dict[str, Any], verdict: dict[str, Any]) -> None:
    walk = delivered(tmp_path, **result)
    walk.verdict(**verdict)
    assert walk.task.status == "needs_review"
    walk.approve("alice")
    assert walk.approve("bob").task.status == "approved"


def test_a_rename_out_of_the_low_risk_paths_is_none(tmp_path: Path) -> None:
    moved = "diff --git a/src/a.md b/docs/a.md\nsimilarity index 100%\nrename from src/a.md\nrename to docs/a.md\n"
    walk = delivered(tmp_path, diff_snapshot=builders.snapshot(moved))
    assert walk.verdict().task.status == "needs_review"


def test_a_low_risk_verdict_without_its_decision_is_made_good(tmp_path: Path) -> None:
    walk = delivered(tmp_path)
    walk.verdict()
    walk.store.close()
    log = tmp_path / "audit" / "events.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    builders.task_path(tmp_path, "T-1").unlink()
    (tmp_path / "audit" / ".lock").write_bytes(b"")
    store = a_store(tmp_path, ticks=Ticks(builders.START_S + 60))
    assert store.task("T-1").status == "approved"
    assert builders.types(tmp_path, "T-1").count("task_approved") == 1


def test_an_attempt_inside_a_file_is_never_waved_through(tmp_path: Path) -> None:
    walk = delivered(tmp_path / "one")
    walk.verdict()
    document = builders.read(tmp_path / "one", "T-1")
    attempt = {**document["attempts"][0], "decision": None}
    for at, (extra, held) in enumerate((({}, True), ({"low_risk": None}, False))):
        home = tmp_path / f"two-{at}"
        projects_file(home, **LOW)
        builders.drop(home, "T-1", {**builders.minimal("T-1"), "attempts": [{**attempt, **extra}], "metadata": SHOP})
        store = a_store(home)
        if held:
            assert [one.reason for one in store.held_files()] == ["history_changed"]
        else:
            assert store.task("T-1").status == "needs_review"


# --------------------------------------------------------------------------------------------------- deadlines


def overdue(home: Path, outcome: str) -> tuple[Walk, Ticks]:
    ticks = Ticks()
    walk = at_gate(
        home, ticks=ticks, decision_deadline_s=3600, reminders_s=[1800, 600], deadline_outcome=outcome, quorum=2
    )
    return walk, ticks


def test_reminders_and_the_deadline_are_each_found_once_though_nobody_ran(tmp_path: Path) -> None:
    walk, ticks = overdue(tmp_path, "decision_overdue")
    began = ticks.now
    assert walk.store.view.due["T-1"].findings(began + 1700) == ()
    assert refusal(walk, intents.RemindOfDecision(dispatch_id(walk), 1800), "watchdog").code == "too_early"
    assert refusal(walk, intents.FindDecisionOverdue(dispatch_id(walk)), "watchdog").code == "too_early"
    assert refusal(walk, intents.RemindOfDecision(dispatch_id(walk), 7), "watchdog").code == "invalid_request"
    ticks.ahead(3100)
    walk.store.save_checkpoint()
    store = a_store(tmp_path, ticks=ticks)
    for _ in range(2):
        for finding in store.view.due["T-1"].findings(ticks.now):
            store.commit("T-1", finding, actor="watchdog")
    store.commit("T-1", intents.RemindOfDecision(dispatch_id(walk), 600), actor="watchdog")
    told = [event.data["before_s"] for event in builders.events(tmp_path, "decision_reminder")]
    assert sorted(told) == [600, 1800]
    ticks.ahead(600)
    (finding,) = store.view.due["T-1"].findings(ticks.now)
    for _ in range(2):
        store.commit("T-1", finding, actor="watchdog")
    assert len(builders.events(tmp_path, "decision_overdue")) == 1
    assert store.view.due == {}
    assert store.task("T-1").status == "needs_review"
    walk.store.refresh()
    walk.approve("alice")
    assert walk.approve("bob").task.status == "approved", "late, but decided by people"


def test_behind_the_deadline_nobody_is_reminded(tmp_path: Path) -> None:
    walk, ticks = overdue(tmp_path, "decision_overdue")
    ticks.ahead(4000)
    (finding,) = walk.store.view.due["T-1"].findings(ticks.now)
    assert isinstance(finding, intents.FindDecisionOverdue)
    assert walk.do(intents.RemindOfDecision(dispatch_id(walk), 600), "watchdog").events == ()


def test_an_expired_decision_is_a_rejection_by_the_policy(tmp_path: Path) -> None:
    walk, ticks = overdue(tmp_path, "expired")
    walk.approve("alice")
    ticks.ahead(4000)
    done = walk.do(intents.FindDecisionOverdue(dispatch_id(walk)), "watchdog")
    assert [event.type for event in done.events] == ["decision_overdue", "task_rejected"]
    decision = done.task.attempts[-1].decision
    assert decision is not None
    assert (done.task.status, decision.by) == ("rejected", "policy:shop")
    assert refusal(walk, intents.Approve(), "bob").code == "invalid_transition"
    assert replay.check(tmp_path).ok


def test_a_decision_in_time_leaves_nothing_overdue(tmp_path: Path) -> None:
    walk, ticks = overdue(tmp_path, "expired")
    walk.approve("alice")
    walk.approve("bob")
    ticks.ahead(4000)
    assert walk.store.view.due == {}
    refused = refusal(walk, intents.FindDecisionOverdue(dispatch_id(walk)), "watchdog")
    assert refused.code == "invalid_transition"
    assert walk.task.status == "approved"


# ---------------------------------------------------------------------------------------------------- evidence


def test_a_completed_result_shows_an_operation_for_every_criterion(tmp_path: Path) -> None:
    walk = builders.walk_to(a_store(tmp_path), "T-1", "acknowledged")
    body = builders.result_body(walk.task, work_log=(operation(1),))
    refused = refusal(walk, intents.SendResult(body), EXECUTOR)
    assert (refused.code, "AC-2" in refused.detail) == ("result_refused", True)
    walk.result(work_log=(operation(1),), outcome="failed")


def test_a_project_may_ask_for_a_run(tmp_path: Path) -> None:
    projects_file(tmp_path, require_run=True)
    walk = Walk(a_store(tmp_path))
    walk.create(metadata=SHOP)
    walk.dispatch()
    walk.ack()
    body = builders.result_body(walk.task, work_log=(operation(1, criterion_refs=BOTH),))
    assert refusal(walk, intents.SendResult(body), EXECUTOR).code == "result_refused"
    walk.result()


def test_a_project_may_refuse_bare_approvals(tmp_path: Path) -> None:
    projects_file(tmp_path, require_reading=True)
    walk = Walk(a_store(tmp_path))
    walk.create(metadata=SHOP)
    walk.dispatch()
    walk.ack()
    walk.result()
    bare = intents.SendVerdict(builders.verdict_body(walk.task, summary="  "))
    assert refusal(walk, bare, REVIEWER).code == "verdict_refused"
    walk.verdict()
    assert refusal(walk, intents.Approve("read")).code == "digest_required"
    digest = review_digest(walk.task)
    assert refusal(walk, intents.Approve(" ", digest)).code == "reason_required"
    assert walk.approve(reason="read", review_digest=digest).task.status == "approved"


def test_a_bare_approval_is_told_apart_where_it_is_taken(tmp_path: Path) -> None:
    walk = builders.walk_to(a_store(tmp_path), "T-1", "delivered")
    walk.verdict(summary="")
    assert builders.events(tmp_path, "verdict_received")[0].data["says_nothing"] is True


def test_attempts_that_are_used_up_are_never_a_success(tmp_path: Path) -> None:
    projects_file(tmp_path, max_attempts=2)
    walk = Walk(a_store(tmp_path))
    walk.create(metadata=SHOP)
    walk.to_gate("reject")
    walk.reject()
    walk.dispatch()
    walk.end()
    refused = refusal(walk, intents.Dispatch("d-3"), "dispatcher")
    assert (refused.code, walk.task.status, len(walk.task.attempts)) == ("attempts_exhausted", "pending", 2)


def test_the_digests_of_forwarded_issues_go_with_the_dispatch_and_are_checked_in_the_echo(tmp_path: Path) -> None:
    walk = Walk(a_store(tmp_path))
    walk.create()
    walk.to_gate("reject")
    walk.reject()
    dispatch = walk.dispatch().task.attempts[-1].dispatch
    assert dispatch is not None
    assert len(dispatch.issue_digests) == len(dispatch.issues) == 2
    wrong = builders.ack_body(walk.task, issue_digests=dispatch.issue_digests[::-1])
    refused = refusal(walk, intents.SendAck(wrong), EXECUTOR)
    assert (refused.code, refused.facts["where"]) == ("ack_mismatch", "issue_digests[0]")
    assert (refused.facts["expected"], refused.facts["got"]) == dispatch.issue_digests
    walk.ack(issue_digests=dispatch.issue_digests)


def test_a_store_that_starts_knows_every_deadline(tmp_path: Path) -> None:
    walk, _ = overdue(tmp_path, "expired")
    walk.approve("alice")
    from_log = a_store(tmp_path).view.due
    walk.store.save_checkpoint()
    assert a_store(tmp_path).view.due == from_log == walk.store.view.due
    assert json.loads(Store.detail(walk.store, "T-1") or b"")["attempts"][0]["approvals"][0]["by"] == "alice"


def test_the_example_of_a_projects_file_is_one(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "projects.toml"
    builders.write_projects(tmp_path, example.read_text())
    walk = Walk(a_store(tmp_path))
    walk.create(metadata=SHOP)
    walk.to_gate()
    walk.approve("bob")
    assert walk.approve("carol").task.status == "approved"
