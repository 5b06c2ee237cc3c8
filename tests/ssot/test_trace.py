"""The trace of a task: who did what for which criterion, which hunks show it, and what became of the issues."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from ssot import diff
from ssot.task import Task, parse_document
from ssot.trace import Coverage, Trace, coverage_of, trace
from tests.builders import Walk, a_store, diff_text, issue, operation, snapshot, walk_to

SWE = Path(__file__).parents[3] / "shared" / "data" / "07_diffs_and_worklogs"


def no_text(digest: str) -> str:
    raise AssertionError(f"{digest} was asked for")


def traced(task: Task) -> Trace:
    return trace(task, no_text)


def two_hunks(path: str = "src/a.py") -> str:
    return f"{diff_text(path)}@@ -9,2 +9,3 @@ def f():\n same\n+more\n same\n"


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    made = Walk(a_store(tmp_path))
    made.create()
    return made


def test_a_task_that_was_never_dispatched_has_nothing_to_trace(walk: Walk) -> None:
    found = traced(walk.task)
    assert (found.task_id, found.attempts, found.coverage) == ("T-1", (), Coverage())


def test_what_was_sent_back_waits_while_it_is_to_be_dispatched_again(walk: Walk) -> None:
    walk.to_gate("reject")
    assert not trace(walk.task, no_text, auto_redispatch=True).waits, "nobody decided yet"
    walk.reject()
    assert trace(walk.task, no_text, auto_redispatch=True).waits
    assert not trace(walk.task, no_text, auto_redispatch=False).waits
    walk.dispatch()
    assert not trace(walk.task, no_text, auto_redispatch=True).waits


def test_what_was_approved_waits_for_no_dispatch(tmp_path: Path) -> None:
    approved = walk_to(a_store(tmp_path), "T-1", "approved").task
    assert not trace(approved, no_text, auto_redispatch=True).waits


def test_each_criterion_leads_to_its_operations_their_hunks_and_its_issues(walk: Walk) -> None:
    walk.dispatch()
    walk.ack()
    work = (
        operation(1, target="./src//a.py"),
        operation(2, criterion_refs=("AC-1", "AC-2")),
        operation(3, action="test", target="src/a.py", exit_code=0, criterion_refs=("AC-2",)),
        operation(4, action="note", target="", criterion_refs=()),
        operation(5, target="src/untouched.py"),
    )
    walk.result(work_log=work, diff_snapshot=snapshot(two_hunks() + diff_text("docs/b.md")))
    walk.verdict("reject", issues=(issue(1, op_refs=("OP-2", "OP-3"), criterion_ref="AC-2"),))
    (attempt,) = traced(walk.task).attempts
    first, second = attempt.criteria
    assert (first.operations, first.hunks, first.issues) == (("OP-1", "OP-2", "OP-5"), ("H-1.1", "H-1.2"), ())
    assert (second.operations, second.hunks, second.issues) == (("OP-2", "OP-3"), ("H-1.1", "H-1.2"), ("IS-1",))
    assert [op.hunks for op in attempt.operations] == [("H-1.1", "H-1.2")] * 2 + [()] * 3  # a test owns no hunk
    assert [op.issues for op in attempt.operations] == [(), ("IS-1",), ("IS-1",), (), ()]
    assert [(one.hunk_id, one.path, one.added, one.removed, one.operations) for one in attempt.hunks] == [
        ("H-1.1", "src/a.py", 1, 1, ("OP-1", "OP-2")),
        ("H-1.2", "src/a.py", 1, 0, ("OP-1", "OP-2")),
        ("H-2.1", "docs/b.md", 1, 1, ()),
    ]
    assert attempt.hunks[1].header == "@@ -9,2 +9,3 @@ def f():"
    assert attempt.coverage == Coverage(
        criteria=2,
        criteria_with_operation=2,
        criteria_with_evidence=1,
        criteria_with_hunk=2,
        criteria_with_issue=1,
        operations=5,
        operations_without_criterion=1,
        edits=3,
        edits_without_hunk=1,
        hunks=3,
        hunks_without_operation=1,
        issues=1,
    )


def test_an_issue_is_answered_by_what_the_next_attempt_does_for_its_criterion(walk: Walk) -> None:
    walk.to_gate("reject")  # IS-1 and IS-2 on AC-1
    walk.reject(issues=(issue(9, criterion_ref="AC-2"),))
    before = traced(walk.task).attempts[0]
    assert [one.answer for one in before.issues] == [None, None, None]
    assert before.coverage.issues_forwarded == 0
    walk.dispatch()
    handed_over = traced(walk.task).attempts[0]
    assert [(one.answer.attempt, one.answer.operations) for one in handed_over.issues if one.answer] == [(2, ())] * 3
    walk.end()
    walk.dispatch()  # the attempt that stopped hands the issues on: the third answers
    walk.ack()
    walk.result(outcome="failed", work_log=(operation(1, criterion_refs=("AC-1",)),))
    walk.verdict()
    found = traced(walk.task).attempts[0]
    assert [(one.told_by, one.issue_id) for one in found.issues] == [
        ("verdict", "IS-1"),
        ("verdict", "IS-2"),
        ("decision", "IS-9"),
    ]
    assert [one.answer and one.answer.attempt for one in found.issues] == [3, 3, 3]
    assert [one.answer and one.answer.operations for one in found.issues] == [("OP-1",), ("OP-1",), ()]
    assert [one.next_operations for one in found.criteria] == [("OP-1",), ()]
    assert (found.coverage.issues, found.coverage.issues_forwarded, found.coverage.issues_answered) == (3, 3, 2)


def test_issues_of_an_approved_attempt_are_forwarded_to_nobody(walk: Walk) -> None:
    walk.dispatch()
    walk.ack()
    walk.result()
    walk.verdict("approve", issues=(issue(1, severity="minor"),))
    walk.approve()
    (attempt,) = traced(walk.task).attempts
    assert [one.answer for one in attempt.issues] == [None]
    assert (attempt.coverage.issues, attempt.coverage.issues_forwarded) == (1, 0)


def test_files_without_hunks_and_both_names_of_a_renamed_file_belong_to_their_edits(walk: Walk) -> None:
    walk.dispatch()
    walk.ack()
    renamed = (
        "diff --git a/src/old.py b/src/new.py\nsimilarity index 100%\nrename from src/old.py\nrename to src/new.py\n"
    )
    refs = ("AC-1", "AC-2")
    work = tuple(operation(n, target=f"src/{name}.py", criterion_refs=refs) for n, name in ((1, "old"), (2, "new")))
    walk.result(work_log=work, diff_snapshot=snapshot(renamed))
    (hunk,) = traced(walk.task).attempts[0].hunks
    assert (hunk.hunk_id, hunk.hunk, hunk.header, hunk.path, hunk.operations) == (
        "H-1", 0, "", "src/new.py", ("OP-1", "OP-2"),
    )  # fmt: skip


def test_a_long_diff_is_read_from_its_blob(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk = walk_to(store, "T-1", "acknowledged")
    long = diff_text() + "@@ -9 +9,4000 @@\n same\n" + "+a line of the change\n" * 3999
    walk.result(diff_snapshot=snapshot(long))
    found = trace(walk.task, store.blobs.text)
    assert walk.task.attempts[0].result is not None
    assert walk.task.attempts[0].result.diff_snapshot.text is None  # type: ignore[union-attr]
    assert [(one.hunk_id, one.added) for one in found.attempts[0].hunks] == [("H-1.1", 1), ("H-1.2", 3999)]


def test_a_diff_that_nobody_checked_costs_its_hunks_and_nothing_else(walk: Walk) -> None:
    walk.to_gate()
    document = json.loads(walk.store.document("T-1") or b"")
    document["attempts"][0]["result"]["diff_snapshot"]["text"] = "no diff at all"
    (attempt,) = traced(parse_document(json.dumps(document).encode())).attempts
    assert attempt.problem is not None
    assert "line 1" in attempt.problem
    assert (attempt.hunks, attempt.coverage.edits_without_hunk) == ((), 1)


def test_figures_add_up_over_all_attempts_that_delivered(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for number in range(3):
        walk = walk_to(store, f"T-{number}", "rejected")
        walk.to_gate()
    walk_to(store, "T-9", "acknowledged")
    tasks = [store.task(task_id) for task_id in sorted(store.view.entries)]
    total = coverage_of(tasks, no_text)
    parts = [one.coverage for task in tasks for one in traced(task).attempts if one.delivered]
    assert len(parts) == 6
    assert total.criteria == sum(one.criteria for one in parts) == 12
    assert total.hunks == 6
    assert traced(tasks[0]).coverage == traced(tasks[0]).attempts[-1].coverage


def test_every_reference_in_a_trace_resolves_within_it(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk = walk_to(store, "T-1", "rejected")
    walk.to_gate("reject")
    walk.reject()
    walk.to_gate()
    for attempt in traced(walk.task).attempts:
        operations = {one.op_id for one in attempt.operations}
        hunks = {one.hunk_id for one in attempt.hunks}
        issues = {one.issue_id for one in attempt.issues}
        for row in attempt.criteria:
            assert operations.issuperset(row.operations)
            assert hunks.issuperset(row.hunks)
            assert issues.issuperset(row.issues)
        for op, hunk in itertools.product(attempt.operations, attempt.hunks):
            assert (hunk.hunk_id in op.hunks) == (op.op_id in hunk.operations)


@pytest.mark.skipif(not SWE.is_dir(), reason="the public diffs are not beside this checkout")
def test_every_hunk_of_real_diffs_is_found_and_belongs_to_the_edit_of_its_file(walk: Walk) -> None:
    texts = [path.read_text() for path in sorted(SWE.rglob("*.diff"))[:60]]
    counted = 0
    template = walk.to_gate().task
    for text in texts:
        try:
            patches = diff.parse(text)
        except diff.DiffError:
            continue
        result = template.attempts[0].result
        assert result is not None
        work = tuple(operation(n, target=p.new_path or p.old_path or "?") for n, p in enumerate(patches, 1))
        changed = result.model_copy(update={"work_log": work, "diff_snapshot": snapshot(text)})
        attempt = template.attempts[0].model_copy(update={"result": changed})
        found = traced(template.model_copy(update={"attempts": (attempt,)})).attempts[0]
        assert len(found.hunks) == sum(max(1, len(patch.hunks)) for patch in patches)
        assert found.coverage.hunks_without_operation == found.coverage.edits_without_hunk == 0
        counted += len(found.hunks)
    assert counted > 50
