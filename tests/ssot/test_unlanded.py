"""An approved change that cannot stand on its branch: a new attempt may begin, with what the landing said."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssot import fidelity, intents, replay
from ssot.past import rejects_in_a_row
from ssot.task import review_digest
from ssot.trace import trace
from tests import builders
from tests.builders import Walk, a_store, issue, refusal, walk_to

SAID = (
    issue(1, issue_id="LANDING-1", severity="blocker", text="it does not apply\n"),
    issue(2, issue_id="LANDING-2", criterion_ref="AC-2", op_refs=("OP-2",), severity="blocker", text="ünlike \u2028"),
)


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    """At the gate with a reservation of the reviewer's, approved all the same; the landing then said two things."""
    made = walk_to(a_store(tmp_path), "T-1", "delivered")
    made.verdict("approve", issues=(issue(9, severity="minor"),))
    made.approve()
    made.fail_landing(*SAID)
    return made


def last_types(walk: Walk, count: int = 1) -> list[str]:
    return builders.types(walk.store.home)[-count:]


def test_the_next_attempt_carries_what_the_landing_said_verbatim(walk: Walk) -> None:
    assert walk.task.status == "approved"
    walk.dispatch()
    attempt = walk.task.attempts[-1]
    assert attempt.dispatch is not None
    assert (attempt.attempt, attempt.dispatch.issues, walk.task.status) == (2, SAID, "pending")
    assert last_types(walk) == ["task_redispatched"]


@pytest.mark.parametrize("given", [(), SAID[:1], SAID[::-1], (*SAID, issue(9, severity="minor"))])
def test_a_dispatch_with_other_issues_is_a_fidelity_violation(walk: Walk, given: tuple[builders.Issue, ...]) -> None:
    assert refusal(walk, intents.Dispatch("d-2", issues=given)).code == "fidelity_violation"
    assert walk.task.status == "approved"


def test_what_was_approved_stays_what_it_was(walk: Walk) -> None:
    decision = walk.task.attempts[-1].decision
    assert decision is not None
    assert review_digest(walk.task) == decision.review_digest
    walk.to_gate("reject")
    walk.reject()
    assert walk.task.attempts[0].decision == decision
    assert rejects_in_a_row(walk.task) == 1


def test_once_it_is_about_to_stand_no_new_attempt_begins(walk: Walk) -> None:
    walk.resume_landing()
    assert walk.task.attempts[-1].unlanded is None
    assert refusal(walk, intents.Dispatch("d-2")).code == "invalid_transition"


def test_a_new_attempt_ends_the_landing_of_the_one_before(walk: Walk) -> None:
    known = walk.task.attempts[-1].dispatch.dispatch_id  # type: ignore[union-attr]
    walk.to_gate()
    walk.approve()
    for late in (intents.ResumeLanding(known), intents.FailLanding(known, "conflict", "b", "1" * 40, SAID)):
        assert refusal(walk, late).code == "wrong_dispatch"


def test_the_same_words_are_said_once(walk: Walk) -> None:
    walk.fail_landing(*SAID)
    assert builders.types(walk.store.home).count("landing_failed") == 1
    walk.fail_landing(SAID[0])
    assert builders.types(walk.store.home).count("landing_failed") == 2


@pytest.mark.parametrize(
    "said", [(), (issue(1, criterion_ref="AC-9"),), (issue(1, op_refs=("OP-9",)),), (issue(1, op_refs=()),)]
)
def test_a_landing_says_what_the_next_attempt_can_heed(tmp_path: Path, said: tuple[builders.Issue, ...]) -> None:
    walk = walk_to(a_store(tmp_path), "T-1", "approved")
    wish = intents.FailLanding(walk.task.attempts[-1].dispatch.dispatch_id, "conflict", "b", "1" * 40, said)  # type: ignore[union-attr]
    assert refusal(walk, wish).code == "invalid_issues"
    assert walk.task.attempts[-1].unlanded is None


def test_nobody_opens_an_approved_task_by_editing_its_file(walk: Walk) -> None:
    mark = builders.read(walk.store.home, "T-1")["attempts"][0]["unlanded"]
    other = walk_to(walk.store, "T-2", "approved")
    document = builders.read(walk.store.home, "T-2")
    document["attempts"][0]["unlanded"] = mark
    builders.drop(walk.store.home, "T-2", document)
    document["attempts"][0] |= {"decision": None}
    document["attempts"][0]["dispatch"] |= {"dispatch_id": "d-3"}
    brought = {name: document[name] for name in ("source", "request_text", "created_at", "attempts")}
    builders.drop(walk.store.home, "T-3", {"task_id": "T-3", **brought})
    walk.store.scan()
    told = {event.data["file"]: event.data["reason"] for event in builders.events(walk.store.home, "task_invalid")}
    assert told == {"T-2.json": "history_changed", "T-3.json": "history_changed"}
    assert refusal(other, intents.Dispatch("d-9")).code == "invalid_transition"


def test_such_a_history_replays_and_its_fidelity_can_be_audited(walk: Walk) -> None:
    walk.to_gate("reject")
    walk.reject()
    walk.to_gate()
    walk.approve()
    walk.fail_landing()
    walk.resume_landing()
    assert replay.check(walk.store.home).ok
    found = fidelity.audit(walk.store.home)
    assert found.ok, found.differences
    assert (found.redispatches, found.forwarded) == (2, 4)


def test_a_trace_shows_what_became_of_what_the_landing_said(walk: Walk) -> None:
    walk.to_gate()
    first = trace(walk.task, str).attempts[0]
    assert [(one.told_by, one.issue_id, one.answer and one.answer.attempt) for one in first.issues] == [
        ("verdict", "IS-9", None),
        ("landing", "LANDING-1", 2),
        ("landing", "LANDING-2", 2),
    ]
    assert first.stage == "unlanded"
