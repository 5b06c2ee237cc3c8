"""What people who run agents complain of, each by its name: here it fails closed, and the log tells."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from api import examples
from flows.dispatcher import is_wanted_again
from flows.here import run_here
from flows.overdue import settle
from flows.pipeline import Order, again, take_to_gate
from flows.workspace import Workspace
from ssot import intents, replay
from ssot.store import Store
from ssot.task import review_digest
from tests import builders
from tests.api import scene
from tests.builders import EXECUTOR, REVIEWER, Ticks, Walk, a_store, projects_file, refusal, walk_to
from tests.flows.conftest import settings_for

SHOP = {"project": "shop"}


def test_an_agent_that_names_itself_reviewer_and_approves_its_own_work(tmp_path: Path) -> None:
    walk = walk_to(a_store(tmp_path), "T-1", "delivered")
    own = intents.SendVerdict(builders.verdict_body(walk.task))
    assert refusal(walk, own, EXECUTOR).code == "self_review"
    walk.verdict()
    for agent in (EXECUTOR, REVIEWER):
        assert refusal(walk, intents.Approve(), agent).code == "self_approval"
    assert walk.task.status == "needs_review"
    told = [event.data["code"] for event in builders.events(tmp_path, "move_refused")]
    assert told == ["self_review", "self_approval", "self_approval"]


def test_a_reviewer_that_is_the_implementer(tmp_path: Path) -> None:
    """Also under another name: as the delegate of the implementer, or as the same model in other clothes."""
    projects_file(tmp_path, distinct_model_family=True)
    walk = Walk(a_store(tmp_path))
    walk.create(metadata=SHOP)
    walk.dispatch()
    walk.ack(model_family="gpt")
    walk.result()
    body = builders.verdict_body(walk.task)
    with pytest.raises(builders.Refused) as refused:
        walk.store.commit("T-1", intents.SendVerdict(body), actor="second-bot", on_behalf_of=EXECUTOR)
    assert refused.value.code == "self_review"
    clothes = intents.SendVerdict(builders.verdict_body(walk.task, model_family="GPT"))
    assert refusal(walk, clothes, REVIEWER).code == "same_model_family"
    assert walk.task.current is not None
    assert walk.task.current.verdict is None


async def test_an_agents_act_logged_as_a_persons(tmp_path: Path) -> None:
    """What a body says of its author is not listened to, and a role that the token lacks is not lent."""
    store = a_home(tmp_path)
    scene.at_stage(store, "dispatched")
    async with scene.api(tmp_path) as client:
        answer = await scene.post(client, "ack", {**examples.ACK, "by": "alice", "on_behalf_of": "alice"})
        assert answer.json()["attempts"][0]["ack"]["by"] == scene.EXECUTOR
        assert "on_behalf_of" not in answer.json()["attempts"][0]["ack"]
        result = await scene.post(client, "result", {**examples.RESULT, "by": "alice"})
        assert result.json()["attempts"][0]["result"]["by"] == scene.EXECUTOR
        decision = await scene.post(client, "reject", **scene.AS_EXECUTOR)
        assert (decision.status_code, decision.json()["code"]) == (403, "forbidden")
    store.refresh()
    by = [event.actor for event in builders.events(tmp_path) if event.type in ("ack_received", "result_received")]
    assert by == [scene.EXECUTOR, scene.EXECUTOR]
    with pytest.raises(ValueError, match="no principal"):
        scene.bearer("policy:shop", "approver")
    store.close()


def test_done_with_no_work_behind_it(tmp_path: Path) -> None:
    projects_file(tmp_path, require_run=True)
    walk = Walk(a_store(tmp_path))
    walk.create(metadata=SHOP)
    walk.dispatch()
    walk.ack()
    one = builders.operation(1)
    for work in ((), (one,), (builders.operation(1, criterion_refs=builders.BOTH),)):
        body = builders.result_body(walk.task, work_log=work)
        assert refusal(walk, intents.SendResult(body), EXECUTOR).code == "result_refused"
    lie = builders.snapshot().model_copy(update={"sha256": "0" * 64})
    assert refusal(walk, intents.SendResult(builders.result_body(walk.task, diff_snapshot=lie)), EXECUTOR)
    assert builders.types(tmp_path).count("result_refused") == 4
    assert refusal(walk, intents.Approve()).code == "invalid_transition"


def test_an_approval_resolved_against_something_else_than_what_was_on_the_screen(tmp_path: Path) -> None:
    walk = walk_to(a_store(tmp_path), "T-1", "needs_review")
    seen = review_digest(walk.task)
    builders.drop(tmp_path, "T-1", {**builders.read(tmp_path, "T-1"), "request_text": "Delete everything."})
    walk.store.scan()
    refused = refusal(walk, intents.Approve(review_digest=seen))
    assert (refused.code, walk.task.status) == ("stale_review", "needs_review")
    assert refused.facts["given"] == seen


def test_a_rejection_that_wakes_nobody(tmp_path: Path) -> None:
    """It stands in the log what has to follow, and the next attempt carries every issue of it."""
    workspace = a_workspace(tmp_path)
    order = Order("fake-inproc", "fake-inproc:reject_first=1")
    run_here(workspace, ["T-1"], order)
    task = workspace.store.commit("T-1", intents.Reject("as the verdict says"), actor="alice").task
    workspace.store.close()
    reopened = Workspace.open(settings_for(tmp_path))
    assert is_wanted_again(reopened.store.task("T-1"), default=True)
    assert asyncio.run(take_to_gate(reopened, "T-1", again(task))).name == "NeedsReview"
    first, second = reopened.store.task("T-1").attempts
    assert first.verdict is not None
    assert second.dispatch is not None
    assert second.dispatch.issues == first.verdict.issues
    reopened.store.close()


@pytest.mark.parametrize("first", ["the answer", "the default"])
def test_an_answer_that_races_the_default(tmp_path: Path, first: str) -> None:
    """Whichever comes second is refused: there is one decision, and it does not change."""
    ticks = Ticks()
    projects_file(tmp_path, decision_deadline_s=60, deadline_outcome="expired")
    walk = Walk(a_store(tmp_path, ticks=ticks))
    walk.create(metadata=SHOP)
    walk.to_gate()
    other = Walk(a_store(tmp_path, ticks=ticks))
    ticks.ahead(61)
    assert walk.task.current is not None
    assert walk.task.current.dispatch is not None
    default = intents.FindDecisionOverdue(walk.task.current.dispatch.dispatch_id)
    answer = intents.Approve(review_digest=review_digest(walk.task))
    one, two = (answer, default) if first == "the answer" else (default, answer)
    status = walk.do(one).task.status
    assert status == ("approved" if first == "the answer" else "rejected")
    assert refusal(other, two, "bob").code == "invalid_transition"
    assert other.task.status == status
    decided = [kind for kind in builders.types(tmp_path) if kind in ("task_approved", "task_rejected")]
    assert len(decided) == 1


def test_approvals_lost_in_a_restart(tmp_path: Path) -> None:
    projects_file(tmp_path, quorum=3)
    ticks = Ticks()
    walk = Walk(a_store(tmp_path, ticks=ticks))
    walk.create(metadata=SHOP)
    walk.to_gate()
    for name in ("alice", "bob", "carol"):
        walk.approve(name)
        walk.store.close()
        (tmp_path / "audit" / ".lock").write_bytes(b"")
        builders.task_path(tmp_path, "T-1").unlink()
        walk = Walk(a_store(tmp_path, ticks=ticks))
    assert walk.task.status == "approved"
    assert [one.by for one in walk.task.attempts[-1].approvals] == ["alice", "bob", "carol"]


def test_pending_ones_that_never_go_away(tmp_path: Path) -> None:
    """A decision, an executor and a reviewer that never come: each has its end, found by whoever looks next."""
    projects_file(tmp_path, decision_deadline_s=60, deadline_outcome="expired")
    ticks = Ticks()
    settings = settings_for(tmp_path, execution_timeout_s=30, review_timeout_s=30, heartbeat_warning_s=3600)
    workspace = Workspace(settings, a_store(tmp_path, ticks=ticks))
    for number, steps in enumerate(((), ("ack",), ("ack", "result"), ("ack", "result", "verdict"))):
        walk = Walk(workspace.store, f"T-{number}")
        walk.create(metadata=SHOP)
        walk.dispatch(executor="remote", reviewer="remote")
        for step in steps:
            getattr(walk, step)()
    ticks.ahead(90)
    assert [one.recorded for one in settle(workspace, ticks.now)] == [True] * 4
    assert settle(workspace, ticks.now) == []
    attempts = [workspace.store.task(f"T-{number}").attempts[-1] for number in range(4)]
    reasons = [one.ended.reason if one.ended else one.decision.by if one.decision else "" for one in attempts]
    assert reasons == ["ack_timeout", "execution_timeout", "review_stalled", "policy:shop"]
    assert workspace.store.open_attempts() == []
    assert workspace.store.task("T-3").status == "rejected"
    workspace.store.close()


@pytest.mark.parametrize("mode", ["crash", "garbage", "reject_without_issues", "approve_with_blocker"])
def test_skipped_or_empty_review_stages_recorded_as_passed(tmp_path: Path, mode: str) -> None:
    """A reviewer that says nothing usable ends the attempt; where a policy decides, an empty verdict does not."""
    workspace = a_workspace(tmp_path)
    (outcome,) = run_here(workspace, ["T-1"], Order("fake-inproc", f"fake:mode={mode}"))
    assert (outcome.ok, outcome.name) == (False, "ReviewerFailed")
    walk = Walk(workspace.store)
    assert refusal(walk, intents.Approve()).code == "invalid_transition"
    assert walk.task.status == "pending"
    workspace.store.close()


def test_an_empty_verdict_under_a_policy_that_asks_nobody(tmp_path: Path) -> None:
    projects_file(tmp_path, human_gate=False, low_risk=["**"])
    walk = Walk(a_store(tmp_path))
    walk.create(metadata=SHOP)
    walk.dispatch()
    walk.ack()
    walk.result()
    assert walk.verdict(summary="").task.status == "needs_review"


def test_running_out_of_rounds_counted_as_success(tmp_path: Path) -> None:
    projects_file(tmp_path, max_attempts=2, auto_redispatch=True)
    workspace = Workspace(settings_for(tmp_path), a_store(tmp_path, max_rejects=9))
    walk = Walk(workspace.store)
    walk.create(metadata=SHOP)
    walk.to_gate("reject")
    walk.reject()
    assert is_wanted_again(walk.task, default=False)
    walk.to_gate("reject")
    walk.reject()
    assert not is_wanted_again(walk.task, default=True)
    (outcome,) = run_here(workspace, ["T-1"], Order("fake-inproc", "fake-inproc"))
    assert (outcome.ok, outcome.name) == (False, "Refused")
    assert (walk.task.status, builders.events(tmp_path)[-1].data["code"]) == ("rejected", "attempts_exhausted")
    workspace.store.close()


def test_gates_bypassed_inside_a_branch(tmp_path: Path) -> None:
    """A second attempt has a gate of its own, and a file that comes with a branch decides nothing."""
    projects_file(tmp_path, quorum=2)
    walk = Walk(a_store(tmp_path))
    walk.create(metadata=SHOP)
    walk.to_gate()
    walk.approve("alice")
    walk.reject("bob")
    walk.to_gate()
    walk.approve("carol")
    assert walk.task.status == "needs_review", "the approval of the first attempt is not lent to the second"
    on_the_branch: dict[str, Any] = builders.read(tmp_path, "T-1")
    said = {"decision": "approved", "by": "alice", "at": on_the_branch["created_at"], "reason": "", "issues": []}
    on_the_branch["attempts"][-1]["decision"] = {**said, "review_digest": review_digest(walk.task)}
    builders.drop(tmp_path, "T-1", on_the_branch)
    walk.store.scan()
    assert walk.task.status == "needs_review"
    assert builders.events(tmp_path, "task_invalid")[-1].data["reason"] == "forged_decision"
    on_the_branch["attempts"][-1] |= {"decision": None, "dispatch": {**on_the_branch["attempts"][-1]["dispatch"]}}
    on_the_branch["attempts"][-1]["dispatch"]["policy"]["quorum"] = 1
    builders.drop(tmp_path, "T-1", on_the_branch)
    walk.store.scan()
    assert builders.events(tmp_path, "task_invalid")[-1].data["reason"] == "history_changed"


def test_rubber_stamped_reviews(tmp_path: Path) -> None:
    """A project may ask for reading; where none does, a review that says nothing is told apart for good."""
    projects_file(tmp_path, require_reading=True)
    walk, free = Walk(a_store(tmp_path)), Walk(a_store(tmp_path), "T-2")
    walk.create(metadata=SHOP)
    walk.dispatch()
    walk.ack()
    walk.result()
    bare = intents.SendVerdict(builders.verdict_body(walk.task, summary=""))
    assert refusal(walk, bare, REVIEWER).code == "verdict_refused"
    walk.verdict()
    assert refusal(walk, intents.Approve("fine")).code == "digest_required"
    free.create()
    free.dispatch()
    free.ack()
    free.result()
    free.verdict(summary=" ")
    free.approve()
    (verdict,) = builders.events(tmp_path, "verdict_received", "T-2")
    (approved,) = builders.events(tmp_path, "task_approved", "T-2")
    assert (verdict.data["says_nothing"], approved.data["digest_given"]) == (True, False)
    assert replay.check(tmp_path).ok


def test_a_late_message_of_an_earlier_attempt_applied_to_the_next(tmp_path: Path) -> None:
    walk = walk_to(a_store(tmp_path), "T-1", "acknowledged")
    late = builders.result_body(walk.task)
    walk.end()
    assert refusal(walk, intents.SendResult(late), EXECUTOR).code == "attempt_ended"
    walk.dispatch()
    walk.ack()
    assert refusal(walk, intents.SendResult(late), EXECUTOR).code == "wrong_dispatch"
    assert walk.task.attempts[-1].result is None


def a_home(home: Path) -> Store:
    return Store.open(home, source="kircerta/test")


def a_workspace(home: Path) -> Workspace:
    workspace = Workspace.open(settings_for(home))
    workspace.store.commit("T-1", builders.create(), actor="alice@cli")
    return workspace
