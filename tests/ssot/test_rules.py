"""The rules: what an agent, a reviewer and a person may do to a task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.stamp import rfc3339
from ssot import intents, replay
from ssot.rules import forwarded_issues, rejects_in_a_row
from ssot.store import Refused, Store
from ssot.task import Criterion, Echo, review_digest
from tests import builders
from tests.builders import BOTH, EXECUTOR, PERSON, REVIEWER, Ticks, Walk, a_store, issue, operation, refusal, walk_to


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_store(tmp_path)


def refused(call: Callable[[], Any]) -> Refused:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value


def last(home: Path) -> Any:
    return builders.events(home)[-1]


# ------------------------------------------------------------------------------------------------- creation


def test_a_task_without_criteria_has_its_title_as_the_one(store: Store) -> None:
    task = store.commit("T-1", intents.Create("Fix it\nplease"), actor="cli").task
    assert task.title == "Fix it"
    assert task.acceptance_criteria == (Criterion(id="AC-1", text="Fix it"),)
    assert (task.revision, task.status, task.source) == (1, "pending", "manual")


def test_criteria_need_ids_of_their_own(store: Store) -> None:
    twice = (Criterion(id="A", text="x"), Criterion(id="A", text="y"))
    assert refusal(Walk(store), builders.create(acceptance_criteria=twice)).code == "invalid_request"
    assert store.document("T-1") is None


def test_a_task_is_made_once(store: Store) -> None:
    Walk(store).create()
    assert refusal(Walk(store), builders.create()).code == "exists"
    assert refusal(Walk(store, "t-1"), builders.create()).code == "exists", "unique ignoring case"


@pytest.mark.parametrize("bad", ["../T-1", "a/b", "", ".T", "a\n", "x" * 129, "T\0"])
def test_a_wrong_id_is_refused_before_a_path_is_built_from_it(store: Store, tmp_path: Path, bad: str) -> None:
    assert refusal(Walk(store, bad), builders.create()).code == "invalid_task_id"
    (answer,) = store.commit_many([(bad, builders.create())], actor="cli")
    assert isinstance(answer, Refused)
    assert answer.code == "invalid_task_id"
    assert [path.name for path in tmp_path.rglob("*.json")] == []


# ------------------------------------------------------------------------------------------------- dispatch


def test_a_dispatch_tells_what_the_task_says_now(store: Store) -> None:
    walk = walk_to(store, "T-1", "new", scope=("src/**",))
    attempt = walk.dispatch(ack_timeout_s=30.0).task.attempts[-1]
    assert attempt.dispatch is not None
    assert attempt.dispatch.acceptance_criteria == walk.task.acceptance_criteria
    assert (attempt.dispatch.scope, attempt.dispatch.issues) == (("src/**",), ())
    assert (attempt.dispatch.by, attempt.attempt) == ("dispatcher", 1)
    assert (attempt.dispatch.at, attempt.dispatch.ack_deadline) == (
        "2025-06-15T15:06:40.003000Z",
        "2025-06-15T15:07:10.003000Z",
    )


def test_a_redispatch_forwards_verdict_issues_then_decision_issues_verbatim(store: Store, tmp_path: Path) -> None:
    walk = walk_to(store, "T-1", "delivered")
    walk.verdict("reject", issues=(issue(2), issue(1, text="ünïcode \u2028\n")))
    walk.reject(issues=(issue(9), issue(3)))
    due = forwarded_issues(walk.task)
    assert [i.issue_id for i in due] == ["IS-2", "IS-1", "IS-9", "IS-3"]
    walk.dispatch(issues=due)
    assert walk.task.attempts[-1].dispatch.issues == due  # type: ignore[union-attr]
    assert last(tmp_path).type == "task_redispatched"


@pytest.mark.parametrize(
    "change",
    [
        lambda due: due[::-1],
        lambda due: due[1:],
        lambda due: (*due, issue(77)),
        lambda due: (due[0].model_copy(update={"text": due[0].text + " "}), *due[1:]),
        lambda due: (due[0].model_copy(update={"severity": "minor"}), *due[1:]),
        lambda due: (),
    ],
)
def test_any_other_issues_are_a_fidelity_violation(
    store: Store, tmp_path: Path, change: Callable[[Any], tuple[Any, ...]]
) -> None:
    walk = walk_to(store, "T-1", "delivered")
    walk.verdict("reject")
    walk.reject(issues=(issue(9),))
    document = store.document("T-1")
    wrong = change(forwarded_issues(walk.task))
    assert refusal(walk, intents.Dispatch("d-2", issues=wrong)).code == "fidelity_violation"
    assert last(tmp_path).type == "fidelity_violation"
    assert store.document("T-1") == document


def test_an_ended_attempt_forwards_the_same_issues_again(store: Store) -> None:
    walk = walk_to(store, "T-1", "delivered")
    walk.verdict("reject")
    walk.reject(issues=(issue(9),))
    due = forwarded_issues(walk.task)
    for number in (2, 3):
        walk.dispatch()
        walk.end()
        assert walk.task.attempts[-1].attempt == number
        assert forwarded_issues(walk.task) == due
    walk.dispatch()
    assert walk.task.attempts[-1].dispatch.issues == due  # type: ignore[union-attr]


def test_a_task_declined_before_any_dispatch_keeps_its_decision_in_attempt_0(store: Store) -> None:
    walk = walk_to(store, "T-1", "new")
    walk.reject(issues=(issue(1, op_refs=()),))
    (attempt,) = walk.task.attempts
    assert (attempt.attempt, attempt.dispatch) == (0, None)
    assert walk.task.status == "rejected"
    walk.dispatch()
    assert [a.attempt for a in walk.task.attempts] == [0, 1]
    assert [i.issue_id for i in walk.task.attempts[-1].dispatch.issues] == ["IS-1"]  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------------ ACK


def changed_echo(index: int, **changes: Any) -> Callable[[Any], dict[str, Any]]:
    def change(body: Any) -> dict[str, Any]:
        echo = list(body.echo)
        echo[index] = echo[index].model_copy(update=changes)
        return {"echo": tuple(echo)}

    return change


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (changed_echo(0, text="it greets "), "echo[0].text"),
        (changed_echo(1, text="Fast"), "echo[1].text"),
        (changed_echo(0, criterion_ref="AC-9"), "echo[0].criterion_ref"),
        (lambda body: {"echo": body.echo[::-1]}, "echo[0]"),
        (lambda body: {"echo": body.echo[:1]}, "echo[1]"),
        (lambda body: {"echo": ()}, "echo[0]"),
        (lambda body: {"echo": (*body.echo, Echo(criterion_ref="AC-3", text="more"))}, "echo[2]"),
        (lambda body: {"scope": ()}, "scope[0]"),
        (lambda body: {"scope": ("docs/**", "src/**")}, "scope[0]"),
        (lambda body: {"scope": (*body.scope, "x")}, "scope[2]"),
        (lambda body: {"issues": body.issues[::-1]}, "issues[0]"),
        (lambda body: {"issues": ()}, "issues[0]"),
        (lambda body: {"issues": (body.issues[0], body.issues[1].model_copy(update={"text": "x"}))}, "issues[1].text"),
    ],
)
def test_any_difference_in_the_echo_is_a_mismatch(
    store: Store, tmp_path: Path, change: Callable[[Any], dict[str, Any]], where: str
) -> None:
    walk = walk_to(store, "T-1", "delivered", scope=("src/**", "docs/**"))
    walk.verdict("reject")
    walk.reject()
    walk.dispatch()
    document = store.document("T-1")
    wrong = refused(lambda: walk.ack(**change(builders.ack_body(walk.task))))
    assert wrong.code == "ack_mismatch"
    assert wrong.facts["where"].startswith(where)
    event = last(tmp_path)
    assert (event.type, event.data["where"]) == ("ack_mismatch", wrong.facts["where"])
    assert store.document("T-1") == document
    walk.ack()
    assert walk.task.attempts[-1].ack is not None, "the attempt stays open for a right one"


def test_an_echo_of_the_same_letters_in_another_unicode_form_is_a_mismatch(store: Store) -> None:
    walk = walk_to(store, "T-1", "dispatched", acceptance_criteria=(Criterion(id="AC-1", text="caf\u00e9"),))
    other = (Echo(criterion_ref="AC-1", text="cafe\u0301"),)
    assert refused(lambda: walk.ack(echo=other)).code == "ack_mismatch"


def test_an_ack_after_its_deadline_ends_the_attempt(tmp_path: Path) -> None:
    ticks = Ticks()
    walk = walk_to(a_store(tmp_path, ticks=ticks), "T-1", "dispatched")
    ticks.ahead(31)
    assert refused(walk.ack).code == "attempt_ended"
    assert walk.task.attempts[-1].ended.reason == "ack_timeout"  # type: ignore[union-attr]
    assert last(tmp_path).type == "ack_timeout"
    assert refused(walk.ack).code == "attempt_ended"
    walk.dispatch()
    walk.ack()


def test_an_ack_does_not_time_out_before_its_deadline(tmp_path: Path) -> None:
    ticks = Ticks()
    walk = walk_to(a_store(tmp_path, ticks=ticks), "T-1", "dispatched")
    dispatch_id = walk.task.attempts[-1].dispatch.dispatch_id  # type: ignore[union-attr]
    assert refusal(walk, intents.TimeOutAck(dispatch_id)).code == "too_early"
    ticks.ahead(29)
    assert refusal(walk, intents.TimeOutAck(dispatch_id)).code == "too_early"
    ticks.ahead(2)
    walk.do(intents.TimeOutAck(dispatch_id))


def test_the_server_sets_who_and_when(store: Store) -> None:
    walk = walk_to(store, "T-1", "dispatched")
    walk.ack(by="somebody", at="1999-01-01T00:00:00Z")
    ack = walk.task.attempts[-1].ack
    assert ack is not None
    assert (ack.by, ack.at == walk.task.updated_at) == (EXECUTOR, True)


# --------------------------------------------------------------------------------------------------- result


def test_only_the_one_who_acknowledged_sends_the_result_and_heartbeats(store: Store, tmp_path: Path) -> None:
    walk = walk_to(store, "T-1", "acknowledged")
    assert refused(lambda: walk.result(actor="another")).code == "not_the_executor"
    assert refused(lambda: walk.heartbeat(actor="another")).code == "not_the_executor"
    assert walk.task.attempts[-1].result is None
    walk.result()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"work_log": ()}, "no operation"),
        ({"work_log": (operation(1), operation(1))}, "twice"),
        ({"work_log": (operation(1, criterion_refs=("AC-9",)),)}, "AC-9"),
        ({"diff_snapshot": builders.snapshot().model_copy(update={"sha256": "0" * 64})}, "sha256"),
        ({"diff_snapshot": builders.snapshot("this is no diff\n")}, "unified diff"),
        ({"summary": None, "blob": "sha256:" + "0" * 64}, "in full"),
        ({"work_log": (operation(1, detail=None, blob="sha256:" + "0" * 64),)}, "in full"),
    ],
)
def test_a_result_is_checked(store: Store, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    walk = walk_to(store, "T-1", "acknowledged")
    wrong = refused(lambda: walk.result(**changes))
    assert (wrong.code, says in wrong.detail) == ("result_refused", True), wrong.detail
    assert last(tmp_path).type == "result_refused"
    walk.result()
    assert walk.task.attempts[-1].result is not None, "a corrected message is taken"


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("src/a.py", True), ("./src//deep/a.py", True), ("src/x/../a.py", True), ("src/../etc/a.py", False),
        ("etc/passwd", False), ("srcx/a.py", False), ("src", False), ("../src/a.py", False), ("/src/a.py", False),
        ("SRC/a.py", False), ("src\\a.py", False),
    ],
)  # fmt: skip
def test_edits_stay_inside_the_scope(store: Store, tmp_path: Path, path: str, inside: bool) -> None:
    walk = walk_to(store, "T-1", "acknowledged", scope=("src/**",))
    changes = {"work_log": (operation(1, target=path, criterion_refs=BOTH),), "diff_snapshot": None}
    if inside:
        walk.result(**changes)
    else:
        wrong = refused(lambda: walk.result(**changes))
        assert (wrong.code, wrong.facts["paths"]) == ("scope_violation", [path])
        assert last(tmp_path).type == "scope_violation"


def test_the_paths_of_a_diff_stay_inside_the_scope(store: Store) -> None:
    walk = walk_to(store, "T-1", "acknowledged", scope=("src/**",))
    both = builders.diff_text("src/a.py") + builders.diff_text("secrets/key")
    wrong = refused(lambda: walk.result(diff_snapshot=builders.snapshot(both)))
    assert (wrong.code, wrong.facts["paths"]) == ("scope_violation", ["secrets/key"])
    reads = (
        operation(1, criterion_refs=BOTH),
        operation(2, action="read", target="/etc/hosts"),
        operation(3, action="run", target="make"),
    )
    walk.result(work_log=reads)


def test_a_renamed_file_counts_with_both_its_names(store: Store) -> None:
    walk = walk_to(store, "T-1", "acknowledged", scope=("src/**",))
    moved = "diff --git a/lib/a.py b/src/a.py\nsimilarity index 100%\nrename from lib/a.py\nrename to src/a.py\n"
    wrong = refused(lambda: walk.result(diff_snapshot=builders.snapshot(moved)))
    assert (wrong.code, wrong.facts["paths"]) == ("scope_violation", ["lib/a.py"])


def test_an_empty_scope_limits_nothing_inside_the_tree(store: Store) -> None:
    walk = walk_to(store, "T-1", "acknowledged")
    walk.result(
        work_log=(operation(1, target="any/where.py", criterion_refs=BOTH),),
        diff_snapshot=builders.snapshot(builders.diff_text("x")),
    )


# -------------------------------------------------------------------------------------------------- verdict


@pytest.mark.parametrize(
    ("decision", "issues", "says"),
    [
        ("reject", (), "at least one issue"),
        ("approve", (issue(1, severity="blocker"),), "blocker"),
        ("reject", (issue(1), issue(1)), "twice"),
        ("reject", (issue(1, criterion_ref="AC-9"),), "AC-9"),
        ("reject", (issue(1, op_refs=()),), "no operation"),
        ("reject", (issue(1, op_refs=("OP-1", "OP-9")),), "OP-9"),
        ("reject", (issue(1, text=None, blob="sha256:" + "0" * 64),), "in full"),
    ],
)
def test_a_verdict_is_checked(store: Store, tmp_path: Path, decision: str, issues: Any, says: str) -> None:
    walk = walk_to(store, "T-1", "delivered")
    wrong = refused(lambda: walk.verdict(decision, issues=issues))
    assert (wrong.code, says in wrong.detail) == ("verdict_refused", True), wrong.detail
    assert last(tmp_path).type == "verdict_refused"
    assert walk.task.status == "pending"
    walk.verdict(decision, issues=(issue(1),))
    assert walk.task.status == "needs_review"


def test_the_executor_cannot_review_its_own_work(store: Store) -> None:
    walk = walk_to(store, "T-1", "delivered")
    assert refused(lambda: walk.verdict(actor=EXECUTOR)).code == "self_review"
    assert walk.task.status == "pending"


# ------------------------------------------------------------------------------------------------- decisions


@pytest.mark.parametrize("actor", [EXECUTOR, REVIEWER])
@pytest.mark.parametrize("move", ["approve", "reject"])
def test_who_executed_or_reviewed_any_attempt_cannot_decide(store: Store, actor: str, move: str) -> None:
    walk = walk_to(store, "T-1", "delivered")
    walk.verdict("reject")
    walk.reject()
    walk.dispatch()
    walk.ack(actor="other-executor")
    walk.result(actor="other-executor")
    walk.verdict(actor="other-reviewer")
    for who in (actor, f"other-{actor.removeprefix('fake-')}"):
        assert refused(lambda who=who: getattr(walk, move)(actor=who)).code == "self_approval"  # type: ignore[misc]
    assert walk.task.status == "needs_review"
    getattr(walk, move)()


def test_who_executed_cannot_unlock(tmp_path: Path) -> None:
    walk = walk_to(a_store(tmp_path, max_rejects=1), "T-1", "rejected")
    assert refused(lambda: walk.unlock(actor=EXECUTOR)).code == "self_approval"
    walk.unlock()


def test_a_decision_on_something_else_than_what_stands_is_stale(store: Store, tmp_path: Path) -> None:
    walk = walk_to(store, "T-1", "needs_review")
    seen = review_digest(walk.task)
    for move in (walk.approve, walk.reject):
        assert refused(lambda move=move: move(review_digest="sha256:" + "0" * 64)).code == "stale_review"  # type: ignore[misc]
    done = walk.approve(review_digest=seen).task.attempts[-1].decision
    assert done is not None
    assert (done.review_digest, last(tmp_path).data["digest_given"]) == (seen, True)


def test_a_decision_without_a_digest_says_so_and_keeps_the_one_that_stood(store: Store, tmp_path: Path) -> None:
    walk = walk_to(store, "T-1", "needs_review")
    seen = review_digest(walk.task)
    done = walk.approve().task.attempts[-1].decision
    assert done is not None
    assert (done.review_digest, last(tmp_path).data["digest_given"]) == (seen, False)


def test_a_digest_given_for_a_task_that_was_never_reviewed_is_stale(store: Store) -> None:
    walk = walk_to(store, "T-1", "new")
    assert refused(lambda: walk.reject(review_digest="sha256:" + "0" * 64)).code == "stale_review"


def test_a_rejection_needs_a_reason_and_issues_that_point_at_something(store: Store) -> None:
    walk = walk_to(store, "T-1", "delivered")
    walk.verdict("reject")
    assert refused(lambda: walk.reject(reason=" \n")).code == "reason_required"
    for wrong in (issue(9, criterion_ref="AC-9"), issue(9, op_refs=("OP-9",)), issue(9, op_refs=()), issue(1)):
        assert refused(lambda wrong=wrong: walk.reject(issues=(wrong,))).code == "invalid_issues"  # type: ignore[misc]
    walk.reject(issues=(issue(9),))


# ---------------------------------------------------------------------------------------------------- lock


def test_the_lock_comes_with_the_last_rejection_that_is_allowed(store: Store, tmp_path: Path) -> None:
    walk = walk_to(store, "T-1", "new")
    for number in range(3):
        walk.to_gate()
        walk.reject()
        assert walk.task.locked == (number == 2)
    assert builders.types(tmp_path)[-2:] == ["task_rejected", "reject_lock"]
    assert last(tmp_path).actor == PERSON
    assert last(tmp_path).data["rejects"] == 3


def test_rejections_count_by_attempt_once_each_and_ended_attempts_do_not_break_the_row(store: Store) -> None:
    walk = walk_to(store, "T-1", "new")
    walk.reject()  # attempt 0
    walk.dispatch()
    walk.end()
    walk.reject()  # attempt 1, which had ended
    assert rejects_in_a_row(walk.task) == 2
    walk.dispatch()
    walk.end()
    assert rejects_in_a_row(walk.task) == 2
    walk.dispatch()
    walk.reject()  # attempt 3, under way
    assert rejects_in_a_row(walk.task) == 3
    assert walk.task.locked


def test_an_unlock_starts_the_count_anew(store: Store) -> None:
    walk = walk_to(store, "T-1", "new")
    for _ in range(3):
        walk.to_gate()
        walk.reject()
    walk.unlock()
    assert (walk.task.locked, walk.task.status, rejects_in_a_row(walk.task)) == (False, "rejected", 0)
    for number in range(3):
        walk.to_gate()
        walk.reject()
        assert walk.task.locked == (number == 2)


# -------------------------------------------------------------------------------------------- signs of life


def test_heartbeats_are_logged_at_most_once_in_five_seconds(tmp_path: Path) -> None:
    ticks = Ticks()
    walk = walk_to(a_store(tmp_path, ticks=ticks), "T-1", "acknowledged")
    document = walk.store.document("T-1")
    for _ in range(100):
        walk.heartbeat()
        ticks.ahead(0.2)
    beats = builders.events(tmp_path, "heartbeat")
    assert 4 <= len(beats) <= 5
    assert walk.store.document("T-1") == document, "a heartbeat changes no task"


def test_a_silence_is_warned_of_once(tmp_path: Path) -> None:
    ticks = Ticks()
    store = a_store(tmp_path, ticks=ticks)
    walk = walk_to(store, "T-1", "acknowledged")
    (attempt,) = store.open_attempts()

    def warn() -> None:
        (attempt,) = store.open_attempts()
        walk.do(intents.WarnOfSilence(attempt.dispatch_id, rfc3339(attempt.signs.last_sign)), "watchdog")

    ticks.ahead(40)
    for _ in range(3):
        warn()
        ticks.ahead(40)
    assert len(builders.events(tmp_path, "heartbeat_warning")) == 1
    stale = rfc3339(store.open_attempts()[0].signs.last_sign)
    walk.heartbeat()
    walk.do(intents.WarnOfSilence(attempt.dispatch_id, stale), "watchdog")
    assert len(builders.events(tmp_path, "heartbeat_warning")) == 1, "the silence was broken meanwhile"
    ticks.ahead(40)
    warn()
    warn()
    warnings = builders.events(tmp_path, "heartbeat_warning")
    assert len(warnings) == 2
    assert warnings[1].data["silent_s"] > 39
    assert a_store(tmp_path).open_attempts()[0].signs == store.open_attempts()[0].signs, "a restart knows it, too"


# ----------------------------------------------------------------------------------------------- what is kept


def test_a_refused_message_writes_nothing_but_its_event(store: Store, tmp_path: Path) -> None:
    walk = walk_to(store, "T-1", "needs_review")
    document = store.document("T-1")
    assert refusal(walk, intents.Dispatch("d-2")).code == "invalid_transition"
    assert store.document("T-1") == document == builders.task_path(tmp_path, "T-1").read_bytes()


def test_the_same_refusal_to_the_same_caller_is_recorded_once_in_a_while(store: Store, tmp_path: Path) -> None:
    walk = walk_to(store, "T-1", "needs_review")
    for _ in range(50):
        refusal(walk, intents.Dispatch("d-2"), "loop")
    refusal(walk, intents.Dispatch("d-2"), "another")
    assert len(builders.events(tmp_path, "move_refused")) == 2


def test_what_would_grow_too_large_is_refused_and_recorded(store: Store, tmp_path: Path) -> None:
    walk = walk_to(store, "T-1", "new")
    metadata = {"text": "x" * (9 << 20)}
    assert refusal(Walk(store, "T-2"), builders.create(metadata=metadata)).code == "too_large"
    assert store.document("T-2") is None
    answers = store.commit_many(
        [("T-3", builders.create()), ("T-4", builders.create(metadata=metadata)), ("T-5", builders.create())],
        actor="cli",
    )
    assert [getattr(answer, "code", "ok") for answer in answers] == ["ok", "too_large", "ok"]
    assert walk.dispatch().task.status == "pending"
    assert last(tmp_path).type == "task_dispatched"


def test_many_at_once_are_judged_one_after_the_other(store: Store, tmp_path: Path) -> None:
    wishes = [("T-1", builders.create()), ("T-1", builders.create("other")), ("t-1", builders.create())]
    answers = store.commit_many([*wishes, ("T-2", builders.create())], actor="cli")
    assert [getattr(answer, "code", "ok") for answer in answers] == ["ok", "exists", "exists", "ok"]
    assert builders.types(tmp_path) == ["task_created", "task_created"]
    moves = [("T-1", intents.Dispatch("d-1")), ("T-2", intents.Dispatch("d-2")), ("T-1", intents.Dispatch("d-3"))]
    answers = store.commit_many(moves, actor="cli")
    assert [getattr(answer, "code", "ok") for answer in answers] == ["ok", "ok", "invalid_transition"]


def test_a_thousand_criteria_and_two_thousand_operations_fit(store: Store, tmp_path: Path) -> None:
    criteria = tuple(Criterion(id=f"AC-{n}", text=f"criterion {n} " + "x" * 80) for n in range(1000))
    walk = walk_to(store, "T-1", "new", acceptance_criteria=criteria)
    walk.dispatch()
    walk.ack()
    walk.result(
        work_log=tuple(operation(n, detail="y" * 100, criterion_refs=(f"AC-{n % 1000}",)) for n in range(2000)),
        diff_snapshot=None,
    )
    issues = tuple(issue(n, criterion_ref=f"AC-{n}") for n in range(900))
    walk.verdict("reject", issues=issues)
    walk.reject(review_digest=review_digest(walk.task))
    walk.dispatch()
    assert all(len(event.line) < 64 * 1024 for event in builders.events(tmp_path))
    assert replay.check(tmp_path).ok
    assert a_store(tmp_path).document("T-1") == store.document("T-1")
