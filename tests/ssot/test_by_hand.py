"""Files by hand: adopted, held, written again; nobody decides by a file, and no edit is lost."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.stamp import Stamp
from audit.verify import verify
from ssot import adopt, intents, replay
from ssot.adopt import Adopted, Held, Outdated
from ssot.shown import Seen
from ssot.store import Refused, Store
from ssot.task import Criterion
from ssot.texts import internalise
from ssot.watch import Watcher
from tests import builders
from tests.builders import EXECUTOR, Walk, a_store, age, drop, minimal, read, refusal, task_path, walk_to


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_store(tmp_path)


def adopted(home: Path) -> list[dict[str, Any]]:
    return [event.data for event in builders.events(home, "task_adopted")]


def held(home: Path) -> list[tuple[str, str, str]]:
    return [(e.data["file"], e.data["reason"], e.data["field"]) for e in builders.events(home, "task_invalid")]


def edit(home: Path, **changes: Any) -> bytes:
    """Save T-1's file as it stands with some fields changed."""
    raw = orjson.dumps({**read(home, "T-1"), **changes}, option=orjson.OPT_INDENT_2)
    drop(home, "T-1", raw)
    return raw


def settled(home: Path) -> None:
    """Log and files agree."""
    assert verify(home / "audit").problem is None
    found = replay.check(home)
    assert found.ok, found


# --------------------------------------------------------------------------------------------------- new files


def test_a_file_needs_only_four_fields(store: Store, tmp_path: Path) -> None:
    drop(tmp_path, "T-1", minimal("T-1"))
    store.scan()
    (data,) = adopted(tmp_path)
    task = store.task("T-1")
    assert (data["new"], data["with_history"]) == (True, False)
    assert (task.title, task.status, task.revision, task.seq) == ("Do T-1.", "pending", 1, 1)
    assert task.acceptance_criteria == (Criterion(id="AC-1", text="Do T-1."),)
    assert task_path(tmp_path, "T-1").read_bytes() == store.document("T-1")
    settled(tmp_path)


def test_null_says_nothing_in_a_new_file(store: Store, tmp_path: Path) -> None:
    said = {"scope": None, "metadata": None, "acceptance_criteria": None, "attempts": None, "title": None}
    drop(tmp_path, "T-1", orjson.dumps(minimal("T-1", **said)))
    store.scan()
    assert held(tmp_path) == []
    assert read(tmp_path, "T-1")["scope"] == []
    settled(tmp_path)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("2026-01-31T09:00:00+00:00", "2026-01-31T09:00:00Z"),
        ("2026-01-31T09:00:00.250000+02:00", "2026-01-31T07:00:00.250000Z"),
        ("2026-01-31T09:00:00.5Z", "2026-01-31T09:00:00.5Z"),
    ],
)
def test_a_time_with_another_offset_is_kept_in_utc(store: Store, tmp_path: Path, said: str, kept: str) -> None:
    drop(tmp_path, "T-1", orjson.dumps(minimal("T-1", created_at=said)))
    store.scan()
    assert read(tmp_path, "T-1")["created_at"] == kept
    settled(tmp_path)


@pytest.mark.parametrize("name", ["task_id", "source", "request_text", "created_at"])
def test_each_of_the_four_is_needed(store: Store, tmp_path: Path, name: str) -> None:
    document = minimal("T-1")
    del document[name]
    raw = json.dumps(document).encode()
    drop(tmp_path, "T-1", raw)
    store.scan()
    assert held(tmp_path) == [("T-1.json", "schema", name)]
    assert task_path(tmp_path, "T-1").read_bytes() == raw
    assert store.document("T-1") is None


@pytest.mark.parametrize("schema", [2, "1", True, 1.0])
def test_a_file_of_another_schema_is_held(store: Store, tmp_path: Path, schema: Any) -> None:
    drop(tmp_path, "T-1", minimal("T-1", schema=schema))
    store.scan()
    assert held(tmp_path) == [("T-1.json", "schema", "schema")]


def test_a_new_file_may_say_anything_where_the_store_computes(store: Store, tmp_path: Path) -> None:
    drop(tmp_path, "T-1", minimal("T-1", status="approved", revision=-5, seq="x", updated_at=None))
    store.scan()
    task = store.task("T-1")
    assert (task.status, task.revision, task.seq) == ("pending", 1, 1)


def test_a_new_file_keeps_what_is_free(store: Store, tmp_path: Path) -> None:
    free = {"blob": "sha256:not a blob", "text": "x" * 40_000, "deep": [{"blob": 1}]}
    drop(tmp_path, "T-1", minimal("T-1", metadata=free, origin={"blob": "x"}, chat_id=-5, message_id=7))
    store.scan()
    task = store.task("T-1")
    assert (task.metadata, task.origin, task.chat_id, task.message_id) == (free, {"blob": "x"}, -5, 7)
    settled(tmp_path)


def with_history(home: Path, stage: Any = "needs_review") -> dict[str, Any]:
    """A whole document that another workspace made."""
    elsewhere = home / "elsewhere"
    walk_to(a_store(elsewhere), "T-1", stage, scope=("src/**",))
    return read(elsewhere, "T-1")


def test_history_in_a_new_file_is_read_and_marked_but_not_approved(store: Store, tmp_path: Path) -> None:
    drop(tmp_path, "T-1", with_history(tmp_path))
    store.scan()
    walk = Walk(store)
    assert adopted(tmp_path)[0]["with_history"] is True
    assert (walk.task.status, walk.task.attempts[0].witnessed) == ("needs_review", False)
    assert refusal(walk, intents.Approve()).code == "unwitnessed"
    walk.reject()
    walk.to_gate()
    walk.approve(actor="bob")
    settled(tmp_path)


def test_history_may_be_approved_where_it_is_trusted(tmp_path: Path) -> None:
    store = a_store(tmp_path, trust_history=True)
    drop(tmp_path, "T-1", with_history(tmp_path))
    store.scan()
    assert Walk(store).approve().task.status == "approved"


def test_history_never_brings_a_decision(store: Store, tmp_path: Path) -> None:
    for number, stage in enumerate(("approved", "rejected")):
        document = {**with_history(tmp_path / str(number), stage), "task_id": f"T-{number}"}
        drop(tmp_path, f"T-{number}", document)
    store.scan()
    assert [reason for _, reason, _ in held(tmp_path)] == ["forged_decision"] * 2
    assert store.document("T-0") is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["attempts"][0].update(approvals=[{"by": "eve", "at": "2026-01-01T00:00:00Z", "reason": "",
                                                       "review_digest": None}]), "forged_decision"),
        (lambda d: d["attempts"][0].update(attempt=7), "schema"),
        (lambda d: d["attempts"][0].update(attempt=0), "schema"),
        (lambda d: d["attempts"][0].update(dispatch=None), "schema"),
        (lambda d: d["attempts"].append({**d["attempts"][0], "attempt": 2}), "history_changed"),
        (lambda d: d.update(attempts="none"), "schema"),
        (lambda d: d.update(locked=True), "field_changed"),
        (lambda d: d["attempts"][0]["dispatch"].update(surprise=1), "schema"),
    ],
)  # fmt: skip
def test_history_is_checked(store: Store, tmp_path: Path, change: Callable[[Any], Any], reason: str) -> None:
    document = with_history(tmp_path)
    change(document)
    drop(tmp_path, "T-1", document)
    store.scan()
    assert [found for _, found, _ in held(tmp_path)] == [reason]


def edits(target: str) -> Callable[[Any], Any]:
    """The first operation of an attempt edits this path."""
    return lambda a: a["result"]["work_log"][0].update(target=target)


def finds(decision: str, **issue: Any) -> Callable[[Any], Any]:
    """The verdict of an attempt has this decision and this one issue."""
    whole = {"issue_id": "IS-1", "criterion_ref": "AC-1", "op_refs": ["OP-1"], "severity": "major", "text": "mend it"}
    return lambda a: a["verdict"].update(decision=decision, issues=[{**whole, **issue}])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda a: a.update(ack=None), "result"),
        (lambda a: a.update(result=None), "verdict"),
        (lambda a: a.update(ended={"reason": "orphaned", "at": "2026-01-31T09:00:00Z"}), "ended"),
        (lambda a: a["ack"].update(dispatch_id="d-other"), "ack.dispatch_id"),
        (lambda a: a["verdict"].update(dispatch_id="d-other"), "verdict.dispatch_id"),
        (lambda a: a["ack"]["echo"].pop(), "ack.echo[1]"),
        (lambda a: a["ack"].update(scope=[]), "ack.scope[0]"),
        (lambda a: a["result"].update(by="somebody"), "result.by"),
        (lambda a: a["result"].update(work_log=[]), "result"),
        (lambda a: a["result"]["work_log"].append(a["result"]["work_log"][0]), "result"),
        (lambda a: a["result"]["work_log"][0].update(criterion_refs=["AC-9"]), "result"),
        (lambda a: a["result"]["diff_snapshot"].update(sha256="0" * 64), "result"),
        (edits("etc/passwd"), "result"),
        (lambda a: a["verdict"].update(by=EXECUTOR), "verdict.by"),
        (lambda a: a["verdict"].update(decision="reject"), "verdict"),
        (finds("approve", severity="blocker"), "verdict"),
        (finds("reject", criterion_ref="AC-9"), "verdict"),
        (finds("reject", op_refs=["OP-9"]), "verdict"),
        (finds("reject", op_refs=[]), "verdict"),
        (lambda a: a["dispatch"].update(issues=[{"issue_id": "IS-1", "criterion_ref": "AC-1", "op_refs": [],
                                                 "severity": "major", "text": "of nowhere"}]), "dispatch.issues"),
    ],
)  # fmt: skip
def test_history_that_no_log_would_have_let_happen_is_held(
    tmp_path: Path, change: Callable[[Any], Any], field: str
) -> None:
    """Also where it is trusted: what was never taken from an agent is not to be approved."""
    store = a_store(tmp_path, trust_history=True)
    document = with_history(tmp_path)
    change(document["attempts"][0])
    drop(tmp_path, "T-1", document)
    store.scan()
    assert held(tmp_path) == [("T-1.json", "schema", f"attempts[0].{field}")]
    assert store.document("T-1") is None


def test_a_history_of_several_attempts_with_long_texts_is_taken(tmp_path: Path) -> None:
    elsewhere = a_store(tmp_path / "elsewhere")
    walk = walk_to(elsewhere, "T-1", "ended", scope=("src/**",))
    walk.dispatch()
    walk.ack()
    patch = builders.diff_text() + "".join(f"--- a/src/{n}\n+++ b/src/{n}\n@@ -1 +1 @@\n-a\n+b\n" for n in range(999))
    walk.result(summary="x" * 40_000, diff_snapshot=builders.snapshot(patch))
    walk.verdict("reject")
    store = a_store(tmp_path)
    document = read(elsewhere.home, "T-1")
    assert document["attempts"][1]["result"]["diff_snapshot"]["text"] is None
    drop(tmp_path, "T-1", internalise(document, elsewhere.blobs.text, named=False))
    store.scan()
    drop(tmp_path, "T-2", {**document, "task_id": "T-2"})
    store.scan()
    assert held(tmp_path) == []
    assert [store.task(name).status for name in ("T-1", "T-2")] == ["needs_review"] * 2
    settled(tmp_path)


# ------------------------------------------------------------------------------------------------------- edits


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("title", "Another title"),
        ("request_text", "Something else"),
        ("request_text", "long " * 10_000),
        ("acceptance_criteria", [{"id": "X", "text": "other"}]),
        ("scope", ["docs/**"]),
        ("metadata", {"a": [1, {"b": None}]}),
    ],
)
def test_what_people_may_change_is_taken_over(store: Store, tmp_path: Path, name: str, value: Any) -> None:
    walk_to(store, "T-1", "needs_review")
    edit(tmp_path, **{name: value})
    store.scan()
    (data,) = adopted(tmp_path)
    assert name in data["fields"]
    detail = json.loads(store.detail("T-1") or b"")
    assert detail[name] == value
    assert (detail["revision"], detail["status"]) == (6, "needs_review")
    settled(tmp_path)


def test_an_edit_counts_from_the_next_dispatch_on(store: Store, tmp_path: Path) -> None:
    walk = walk_to(store, "T-1", "dispatched")
    edit(tmp_path, scope=["docs/**"])
    walk.ack()
    assert walk.task.scope == ("docs/**",)
    assert walk.task.attempts[0].dispatch.scope == ()  # type: ignore[union-attr]


def test_the_same_file_again_is_no_edit(store: Store, tmp_path: Path) -> None:
    """Who writes task files writes them anew each time, in their own words."""
    said = minimal("T-1", created_at="2026-01-31T10:00:00+01:00", acceptance_criteria=[], origin=None, metadata=None)
    drop(tmp_path, "T-1", said)
    store.scan()
    drop(tmp_path, "T-1", said)
    store.scan()
    assert (len(adopted(tmp_path)), held(tmp_path), store.task("T-1").revision) == (1, [], 1)
    drop(tmp_path, "T-1", {**said, "request_text": "Do something else."})
    store.scan()
    assert (adopted(tmp_path)[1]["fields"], held(tmp_path)) == (["blob", "request_text"], [])
    settled(tmp_path)


def test_one_and_true_are_not_the_same(store: Store, tmp_path: Path) -> None:
    walk_to(store, "T-1", "new", metadata={"flag": 1})
    edit(tmp_path, metadata={"flag": True})
    store.scan()
    assert store.task("T-1").metadata == {"flag": True}
    assert store.task("T-1").metadata["flag"] is True


def test_a_long_text_can_be_made_short_again(store: Store, tmp_path: Path) -> None:
    walk_to(store, "T-1", "new", request_text="x" * 50_000)
    assert read(tmp_path, "T-1")["request_text"] is None
    edit(tmp_path, request_text="short")
    store.scan()
    task = store.task("T-1")
    assert (task.request_text, task.blob) == ("short", None)
    settled(tmp_path)


def test_other_spacing_and_recomputed_fields_are_no_edit(store: Store, tmp_path: Path) -> None:
    walk_to(store, "T-1", "new")
    drop(
        tmp_path, "T-1", json.dumps({**read(tmp_path, "T-1"), "status": "approved", "revision": 99, "seq": 1}).encode()
    )
    store.scan()
    assert adopted(tmp_path) == held(tmp_path) == []
    assert task_path(tmp_path, "T-1").read_bytes() == store.document("T-1")


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"locked": True}, "field_changed", "locked"),
        ({"source": "github"}, "field_changed", "source"),
        ({"created_at": "2026-01-01T00:00:00Z"}, "field_changed", "created_at"),
        ({"correlation_id": "c-other"}, "field_changed", "correlation_id"),
        ({"origin": {"url": "x"}}, "field_changed", "origin"),
        ({"build": {"progress": None, "status": None, "number": 1, "payload": {}}}, "field_changed", "build"),
        ({"chat_id": 5}, "field_changed", "chat_id"),
        ({"surprise": 1}, "unknown_field", "surprise"),
        ({"schema": 2}, "schema", "schema"),
        ({"task_id": "T-2"}, "wrong_name", "task_id"),
        ({"title": None}, "schema", "title"),
        ({"title": "two\nlines"}, "schema", "title"),
        ({"acceptance_criteria": [{"id": "A", "text": "x"}] * 2}, "schema", ""),
        ({"scope": [1]}, "schema", "scope[0]"),
        ({"attempts": []}, "history_changed", "attempts[0]"),
    ],
)
def test_a_breach_is_held(store: Store, tmp_path: Path, changes: dict[str, Any], reason: str, field: str) -> None:
    walk = walk_to(store, "T-1", "needs_review")
    good = store.document("T-1")
    raw = edit(tmp_path, **changes)
    store.scan()
    ((file, found, where),) = held(tmp_path)
    assert (file, found) == ("T-1.json", reason)
    assert where.startswith(field)
    assert task_path(tmp_path, "T-1").read_bytes() == raw, "never overwritten"
    assert store.document("T-1") == good == walk.store.document("T-1"), "the last good version is served"


DECISION = {"decision": "approved", "by": "eve", "at": "2026-01-31T09:00:00Z", "reason": "", "issues": []}


def forge(home: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = read(home, "T-1")
    change(document)
    drop(home, "T-1", document)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["attempts"][0].update(decision={**DECISION, "review_digest": None}), "forged_decision"),
        (lambda d: d.update(attempts=[{"attempt": 0, "dispatch": None, "decision": DECISION}]), "forged_decision"),
        (lambda d: d["attempts"][0]["verdict"].update(decision="reject"), "history_changed"),
        (lambda d: d["attempts"][0]["ack"].update(by="eve"), "history_changed"),
        (lambda d: d["attempts"][0].update(ended={"reason": "x", "at": "2026-01-31T09:00:00Z"}), "history_changed"),
        (lambda d: d["attempts"][0].update(witnessed=False), "history_changed"),
        (lambda d: d["attempts"].append(d["attempts"][0]), "history_changed"),
        (lambda d: d["attempts"].clear(), "history_changed"),
        (lambda d: d.update(attempts=None), "history_changed"),
        (lambda d: d.update(attempts=[None]), "history_changed"),
    ],
)  # fmt: skip
def test_nobody_approves_by_editing_a_file(
    store: Store, tmp_path: Path, change: Callable[[Any], None], reason: str
) -> None:
    walk = walk_to(store, "T-1", "needs_review")
    forge(tmp_path, change)
    assert refusal(walk, intents.Dispatch("d-x")).code == "invalid_transition"
    assert [found for _, found, _ in held(tmp_path)] == [reason]
    assert walk.task.status == "needs_review"
    assert walk.task.attempts[0].decision is None


def test_a_decision_that_was_made_cannot_be_changed_by_hand(store: Store, tmp_path: Path) -> None:
    walk = walk_to(store, "T-1", "rejected")
    forge(tmp_path, lambda d: d["attempts"][0]["decision"].update(decision="approved"))
    store.scan()
    assert [found for _, found, _ in held(tmp_path)] == ["forged_decision"]
    assert walk.task.status == "rejected"


# ------------------------------------------------------------------------------------------------ what is held


def test_a_held_file_is_said_once_for_the_same_bytes(store: Store, tmp_path: Path) -> None:
    walk_to(store, "T-1", "new")
    for _ in range(3):
        drop(tmp_path, "T-1", b"{ not json")
        store.scan()
        store.commit("T-2", builders.create(), actor="cli") if store.document("T-2") is None else None
    a_store(tmp_path)
    store.save_checkpoint()
    a_store(tmp_path)
    assert len(held(tmp_path)) == 1
    drop(tmp_path, "T-1", b"{ not json either")
    store.scan()
    assert len(held(tmp_path)) == 2


def test_moves_on_a_task_with_a_held_file_go_on(store: Store, tmp_path: Path) -> None:
    walk = walk_to(store, "T-1", "new")
    drop(tmp_path, "T-1", b"{ not json")
    walk.to_gate()
    walk.approve()
    assert task_path(tmp_path, "T-1").read_bytes() == b"{ not json"
    assert json.loads(store.document("T-1") or b"")["status"] == "approved"
    assert [(f.file, f.reason) for f in store.held_files()] == [("T-1.json", "not_json")]
    found = replay.check(tmp_path)
    assert (found.held, found.ok) == (["T-1.json"], True)
    reopened = a_store(tmp_path)
    assert reopened.document("T-1") == store.document("T-1")
    assert len(held(tmp_path)) == 1


@pytest.mark.parametrize("how", ["removed", "valid", "edited", "older", "empty"])
def test_a_held_file_is_written_again_once_it_is_valid_or_removed(store: Store, tmp_path: Path, how: str) -> None:
    walk = walk_to(store, "T-1", "new")
    older = task_path(tmp_path, "T-1").read_bytes()
    walk.dispatch()
    drop(tmp_path, "T-1", b"{ not json")
    walk.ack()
    if how == "removed":
        task_path(tmp_path, "T-1").unlink()
    elif how == "valid":
        drop(tmp_path, "T-1", store.document("T-1") or b"")
    elif how == "edited":
        drop(tmp_path, "T-1", {**json.loads(store.document("T-1") or b""), "title": "new title"})
    else:
        drop(tmp_path, "T-1", older if how == "older" else b"")
    store.scan()
    assert task_path(tmp_path, "T-1").read_bytes() == store.document("T-1")
    assert store.held_files() == []
    assert walk.task.title == ("new title" if how == "edited" else "Add a greeting.")
    settled(tmp_path)
    assert a_store(tmp_path).held_files() == []


def test_a_repair_is_told_also_of_a_file_that_has_stood_for_a_moment(store: Store, tmp_path: Path) -> None:
    walk_to(store, "T-1", "new")
    drop(tmp_path, "T-1", b"{ not json")
    store.scan()
    drop(tmp_path, "T-1", store.document("T-1") or b"")
    time.sleep(0.03)  # then its times alone say that it is the log's own
    store.scan()
    assert [event.data["why"] for event in builders.events(tmp_path, "task_restored")] == ["repaired"]
    assert store.view.held == {}


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"\0"])
def test_an_empty_or_zeroed_file_is_written_again(store: Store, tmp_path: Path, content: bytes) -> None:
    walk_to(store, "T-1", "dispatched")
    drop(tmp_path, "T-1", content)
    store.scan()
    assert builders.types(tmp_path)[-1] == "task_restored"
    settled(tmp_path)


def test_an_empty_file_that_is_very_young_may_be_half_written_and_is_left_alone(store: Store, tmp_path: Path) -> None:
    walk = walk_to(store, "T-1", "new")
    whole = {**read(tmp_path, "T-1"), "title": "mine"}
    with task_path(tmp_path, "T-1").open("w") as editor:
        store.scan()
        walk.dispatch()
        a_store(tmp_path)
        assert task_path(tmp_path, "T-1").read_bytes() == b""
        json.dump(whole, editor)
    walk.ack()
    assert walk.task.title == "mine"
    settled(tmp_path)


def test_older_versions_are_written_again(store: Store, tmp_path: Path) -> None:
    """As `git checkout` brings them back."""
    walk = walk_to(store, "T-1", "new")
    versions = [task_path(tmp_path, "T-1").read_bytes()]
    for step in (walk.dispatch, walk.ack, walk.result, walk.verdict, walk.approve):
        step()
        versions.append(task_path(tmp_path, "T-1").read_bytes())
    for old in versions[:-1]:
        drop(tmp_path, "T-1", old)
        store.scan()
        assert task_path(tmp_path, "T-1").read_bytes() == versions[-1]
    assert held(tmp_path) == adopted(tmp_path) == []
    assert {event.data["why"] for event in builders.events(tmp_path, "task_restored")} == {"older version"}


def test_a_removed_file_is_restored_with_an_event(store: Store, tmp_path: Path) -> None:
    walk_to(store, "T-1", "new")
    task_path(tmp_path, "T-1").unlink()
    store.scan()
    assert builders.events(tmp_path, "task_restored")[0].data["why"] == "removed"
    settled(tmp_path)


# ----------------------------------------------------------------------------------------- edits of older versions


def test_an_edit_that_began_from_an_older_version_is_merged(store: Store, tmp_path: Path) -> None:
    walk = walk_to(store, "T-1", "new")
    opened = read(tmp_path, "T-1")
    walk.to_gate()
    drop(tmp_path, "T-1", {**opened, "title": "mine", "metadata": {"note": 1}})
    walk.approve()
    task = walk.task
    assert (task.title, task.metadata, task.status, len(task.attempts)) == ("mine", {"note": 1}, "approved", 1)
    assert adopted(tmp_path)[0]["fields"] == ["metadata", "title"]
    settled(tmp_path)


def test_a_stale_edit_does_not_take_back_what_another_changed_meanwhile(store: Store, tmp_path: Path) -> None:
    walk_to(store, "T-1", "new")
    opened = read(tmp_path, "T-1")
    edit(tmp_path, scope=["docs/**"])
    store.scan()
    drop(tmp_path, "T-1", {**opened, "title": "mine"})
    store.scan()
    assert (store.task("T-1").title, store.task("T-1").scope) == ("mine", ("docs/**",))


def test_the_same_stale_edit_twice_is_one_edit(store: Store, tmp_path: Path) -> None:
    walk_to(store, "T-1", "new")
    opened = read(tmp_path, "T-1")
    for _ in range(2):
        drop(tmp_path, "T-1", {**opened, "title": "mine"})
        store.scan()
    assert len(adopted(tmp_path)) == 1


def test_an_older_version_with_forged_history_is_held(store: Store, tmp_path: Path) -> None:
    walk = walk_to(store, "T-1", "needs_review")
    opened = read(tmp_path, "T-1")
    walk.approve()
    opened["attempts"][0]["verdict"]["summary"] = "I never said that"
    drop(tmp_path, "T-1", opened)
    store.scan()
    assert [reason for _, reason, _ in held(tmp_path)] == ["history_changed"]


# ------------------------------------------------------------------------------------------------ names and kinds


@pytest.mark.parametrize("name", ["has space", "-dash", "ä", "x" * 130, "a\nb", "_x"])
def test_a_file_with_a_wrong_name_is_held(store: Store, tmp_path: Path, name: str) -> None:
    drop(tmp_path, name, minimal(name))
    store.scan()
    store.scan()
    assert [(reason, field) for _, reason, field in held(tmp_path)] == [("wrong_name", "task_id")]
    assert [file.reason for file in store.held_files()] == ["wrong_name"]


def test_a_name_that_is_no_utf8_is_held(store: Store, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "ssot" / "tasks") + b"/bad\xff.json"
    Path(os.fsdecode(path)).write_bytes(b"{}")
    age(Path(os.fsdecode(path)))
    store.scan()
    assert [reason for _, reason, _ in held(tmp_path)] == ["wrong_name"]


def test_a_name_that_differs_in_case_only_is_held(store: Store, tmp_path: Path) -> None:
    walk_to(store, "T-1", "new")
    drop(tmp_path, "t-1", minimal("t-1"))
    drop(tmp_path, "X-1", minimal("X-1"))
    drop(tmp_path, "x-1", minimal("x-1"))
    store.scan()
    assert [(file, reason) for file, reason, _ in held(tmp_path)] == [
        ("t-1.json", "case_clash"),
        ("x-1.json", "case_clash"),
    ]
    assert store.document("X-1") is not None


def test_what_is_no_regular_file_is_held_and_blocks_nobody(store: Store, tmp_path: Path) -> None:
    tasks = tmp_path / "ssot" / "tasks"
    walk = walk_to(store, "T-1", "new")
    drop(tmp_path, "elsewhere", minimal("elsewhere")).rename(tmp_path / "elsewhere.json")
    os.mkfifo(tasks / "fifo.json")
    (tasks / "link.json").symlink_to(tmp_path / "elsewhere.json")
    (tasks / "folder.json").mkdir()
    (tasks / "dangling.json").symlink_to("nowhere")
    (tasks / "ignored.txt").write_text("x")
    (tasks / ".hidden.json").write_text("x")
    age(tasks / "folder.json")
    store.scan()
    walk.dispatch()
    store.scan()
    assert sorted(file for file, reason, _ in held(tmp_path) if reason == "not_regular") == [
        "dangling.json",
        "fifo.json",
        "folder.json",
        "link.json",
    ]
    assert len(held(tmp_path)) == 4
    assert len(store.held_files()) == 4
    assert list(store.view.entries) == ["T-1"]


@pytest.mark.parametrize("kind", ["fifo", "symlink", "folder"])
def test_a_task_file_replaced_by_something_else_is_held_and_the_task_goes_on(
    store: Store, tmp_path: Path, kind: str
) -> None:
    walk = walk_to(store, "T-1", "new")
    path = task_path(tmp_path, "T-1")
    path.unlink()
    {"fifo": lambda: os.mkfifo(path), "symlink": lambda: path.symlink_to("/etc/passwd"), "folder": path.mkdir}[kind]()
    walk.dispatch()
    assert [reason for _, reason, _ in held(tmp_path)] == ["not_regular"]
    assert walk.task.status == "pending"
    path.rmdir() if kind == "folder" else path.unlink()
    walk.ack()
    settled(tmp_path)


def test_a_file_over_8_mib_is_held(store: Store, tmp_path: Path) -> None:
    drop(tmp_path, "T-1", minimal("T-1", metadata={"x": "y" * (9 << 20)}))
    store.scan()
    assert [reason for _, reason, _ in held(tmp_path)] == ["not_regular"]


def test_a_file_whose_document_would_be_over_8_mib_is_held(store: Store, tmp_path: Path) -> None:
    """Compact it fits, pretty-printed it does not."""
    raw = json.dumps(minimal("T-1", metadata={"n": [1] * 1_500_000}), separators=(",", ":")).encode()
    assert len(raw) < 8 << 20
    drop(tmp_path, "T-1", raw)
    store.scan()
    assert [reason for _, reason, _ in held(tmp_path)] == ["too_large"]
    assert Walk(store, "T-2").create().task.status == "pending"


def test_a_text_kept_nowhere_is_held(store: Store, tmp_path: Path) -> None:
    document = minimal("T-1", blob="sha256:" + "0" * 64)
    del document["request_text"]
    drop(tmp_path, "T-1", document)
    store.scan()
    assert [(reason, field) for _, reason, field in held(tmp_path)] == [("schema", "blob")]


def test_a_text_that_is_kept_may_be_named(store: Store, tmp_path: Path) -> None:
    walk_to(store, "T-1", "new", request_text="x" * 40_000)
    document = minimal("T-2", blob="sha256:" + hashlib.sha256(b"x" * 40_000).hexdigest())
    del document["request_text"]
    drop(tmp_path, "T-2", document)
    drop(tmp_path, "T-3", {**document, "task_id": "T-3", "title": "named", "request_text": None})
    store.scan()
    assert held(tmp_path) == []
    assert json.loads(store.detail("T-2") or b"")["request_text"] == "x" * 40_000
    assert store.task("T-3").title == "named"
    settled(tmp_path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_a_file_says_it_is_judged(data: st.DataObject) -> None:
    """No content makes the judge fall over: it would stop everybody's work."""
    odd = st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["blob", "text", "attempt", "dispatch", "decision", "x"]), inner, max_size=4
            )
        ),
        max_leaves=8,
    )
    base = orjson.loads((Path(__file__).parent / "golden" / "task-schema-1.json").read_bytes())
    current = adopt.parse_known(orjson.dumps(base)) if data.draw(st.booleans()) else None
    for name in data.draw(st.lists(st.sampled_from([*base, "blob", "chat_id", "x"]), max_size=3)):
        base[name] = data.draw(odd)
    for name in data.draw(st.lists(st.sampled_from([*base]), max_size=2)):
        base.pop(name, None)
    if isinstance(base.get("attempts"), list) and base["attempts"] and isinstance(base["attempts"][0], dict):
        for name in data.draw(
            st.lists(st.sampled_from(["decision", "dispatch", "ended", "verdict", "attempt"]), max_size=2)
        ):
            base["attempts"][0][name] = data.draw(odd)
    judgement = adopt.judge(
        "T-1",
        orjson.dumps(base),
        current,
        version_at=lambda seq: None,
        made_by_log=lambda seq: False,
        has_blob=lambda name: False,
        stamp=Stamp("2026-01-31T09:00:00.000000Z", lambda prefix: f"{prefix}-1"),
    )
    assert isinstance(judgement, Held | Outdated | Adopted)


@settings(max_examples=60)
@given(st.binary(max_size=60))
def test_whatever_bytes_a_file_has_they_are_judged(raw: bytes) -> None:
    judgement = adopt.judge(
        "T-1",
        raw,
        None,
        version_at=lambda seq: None,
        made_by_log=lambda seq: False,
        has_blob=lambda name: False,
        stamp=Stamp("2026-01-31T09:00:00.000000Z", lambda prefix: f"{prefix}-1"),
    )
    assert isinstance(judgement, Held)


# ------------------------------------------------------------------------------------- in the instant of a commit


def test_no_save_is_lost_whatever_the_instant(store: Store, tmp_path: Path) -> None:
    """An editor saves all the time, in both of the ways that editors have, while commits replace the file."""
    walk = walk_to(store, "T-1", "new")
    path, done = task_path(tmp_path, "T-1"), threading.Event()
    saved: list[str] = []

    def keep_saving() -> None:
        number = 0
        while not done.is_set():
            try:
                document = json.loads(path.read_bytes())
            except (ValueError, FileNotFoundError):
                continue
            number += 1
            title = f"title {number}"
            raw = json.dumps({**document, "title": title})
            if number % 2:
                path.write_text(raw)
            else:
                (path.parent / ".editor~").write_text(raw)
                os.rename(path.parent / ".editor~", path)
            saved.append(title)
            # the next save builds on this one, as a person's would
            deadline = time.monotonic() + 5
            while store.task("T-1").title != title and time.monotonic() < deadline and not done.is_set():
                time.sleep(0.001)

    editor = threading.Thread(target=keep_saving)
    editor.start()
    try:
        for number in range(60):
            walk.dispatch()
            walk.end(f"reason {number}")
    finally:
        done.set()
        editor.join()
    within(3, lambda: store.scan() == 0 and store.task("T-1").title == saved[-1])
    taken = [data["task"]["title"] for data in adopted(tmp_path)]
    assert len(saved) > 5
    assert [title for title in saved if title not in taken] == []
    assert held(tmp_path) == []
    settled(tmp_path)


class Hooked(Store):
    """A store with an editor that saves right behind the compare, before the exchange."""

    save: Callable[[], None] | None = None

    def _show(self, task_id: str, document: bytes, digest: str) -> Seen | None:
        if self.save is not None:
            save, self.save = self.save, None
            save()
        return super()._show(task_id, document, digest)


def hooked(home: Path) -> Hooked:
    found = Hooked.open(home, source="kircerta/test", clock=builders.Ticks().clock)
    assert isinstance(found, Hooked)
    return found


def in_place(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)


def by_rename(path: Path, raw: bytes) -> None:
    (path.parent / ".x~").write_bytes(raw)
    (path.parent / ".x~").rename(path)


@pytest.mark.parametrize("how", [in_place, by_rename])
def test_a_save_between_compare_and_exchange_is_taken_over(tmp_path: Path, how: Callable[[Path, bytes], None]) -> None:
    store = hooked(tmp_path)
    walk = walk_to(store, "T-1", "new")
    path = task_path(tmp_path, "T-1")
    raw = json.dumps({**read(tmp_path, "T-1"), "title": "saved in that instant"}).encode()
    store.save = lambda: how(path, raw)
    walk.dispatch()
    assert path.read_bytes() == raw, "the save stays where it was made"
    walk.ack()
    assert walk.task.title == "saved in that instant"
    assert len(adopted(tmp_path)) == 1
    settled(tmp_path)


def test_a_save_of_the_same_length_in_the_same_tick_is_taken_over(tmp_path: Path) -> None:
    store = hooked(tmp_path)
    walk = walk_to(store, "T-1", "new")
    path = task_path(tmp_path, "T-1")

    def save() -> None:
        status = path.stat()
        path.write_bytes(path.read_bytes().replace(b'"Add a greeting."', b'"Add a greeting!"'))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # a coarse clock: the time did not move

    walk.dispatch()
    os.utime(path)  # changed just now, however long that commit took
    store.save = save
    walk.ack()
    walk.heartbeat()
    store.scan()
    assert walk.task.title == "Add a greeting!"
    settled(tmp_path)


def test_a_save_that_has_only_begun_in_that_instant_goes_on(tmp_path: Path) -> None:
    store = hooked(tmp_path)
    walk = walk_to(store, "T-1", "new")
    path = task_path(tmp_path, "T-1")
    whole = json.dumps({**read(tmp_path, "T-1"), "title": "slowly"})
    opened: list[Any] = []
    store.save = lambda: opened.append(path.open("w"))
    walk.dispatch()
    opened[0].write(whole)
    opened[0].close()
    walk.ack()
    assert walk.task.title == "slowly"
    settled(tmp_path)


def test_a_file_made_in_that_instant_where_there_was_none_is_taken_over(tmp_path: Path) -> None:
    store = hooked(tmp_path)
    store.save = lambda: task_path(tmp_path, "T-1").write_text(json.dumps(minimal("T-1", title="by hand")))
    Walk(store).create(title="by command")
    age(task_path(tmp_path, "T-1"))
    walk = Walk(store)
    walk.dispatch()
    # by hand it says another creation time and correlation: that is a breach, and a person decides
    assert [field for _, _, field in held(tmp_path)] == ["created_at"]
    assert walk.task.title == "by command"
    assert read(tmp_path, "T-1")["title"] == "by hand"


def test_something_odd_put_there_in_that_instant_is_left_alone(tmp_path: Path) -> None:
    store = hooked(tmp_path)
    walk = walk_to(store, "T-1", "new")
    path = task_path(tmp_path, "T-1")

    def save() -> None:
        path.unlink()
        path.mkdir()
        (path / "mine").write_text("x")

    store.save = save
    walk.dispatch()
    walk.ack()
    assert (path / "mine").read_text() == "x"
    assert [reason for _, reason, _ in held(tmp_path)] == ["not_regular"]
    assert walk.task.attempts[-1].ack is not None


# ------------------------------------------------------------------------------------ what a crash leaves aside


def leave_aside(home: Path, raw: bytes) -> Path:
    path = home / "ssot" / "tasks" / ".T-1.tmp"
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("touch", [lambda walk: walk.dispatch(), lambda walk: walk.store.scan()])
def test_leftovers_of_the_log_are_dropped(store: Store, tmp_path: Path, touch: Callable[[Walk], Any]) -> None:
    walk = walk_to(store, "T-1", "new")
    first = task_path(tmp_path, "T-1").read_bytes()
    edit(tmp_path, title="second")
    store.scan()
    second = task_path(tmp_path, "T-1").read_bytes()
    for raw in (first, second, second[:100], b""):
        leftover = leave_aside(tmp_path, raw)
        before = len(adopted(tmp_path))
        if raw == first:
            touch(walk)
        else:
            store.scan()
        assert not leftover.exists()
        assert (len(adopted(tmp_path)), held(tmp_path)) == (before, [])
    assert not (tmp_path / ".kircerta" / "displaced").exists()
    settled(tmp_path)


def test_an_edit_that_a_crash_left_aside_is_taken_over(store: Store, tmp_path: Path) -> None:
    walk = walk_to(store, "T-1", "new")
    leftover = leave_aside(tmp_path, json.dumps({**read(tmp_path, "T-1"), "title": "mine"}).encode())
    walk.dispatch()
    assert walk.task.title == "mine"
    assert not leftover.exists()
    settled(tmp_path)


def test_a_leftover_that_makes_no_sense_is_kept(store: Store, tmp_path: Path) -> None:
    walk_to(store, "T-1", "new")
    leave_aside(tmp_path, b"somebody's words")
    store.scan()
    (kept,) = (tmp_path / ".kircerta" / "displaced").iterdir()
    assert kept.read_bytes() == b"somebody's words"


def test_other_programs_temporary_files_are_left_alone(store: Store, tmp_path: Path) -> None:
    walk_to(store, "T-1", "new")
    theirs = tmp_path / "ssot" / "tasks" / ".T-9.json.tmp"
    theirs.write_text("being written")
    store.scan()
    a_store(tmp_path)
    assert theirs.exists()


# ---------------------------------------------------------------------------------------------------- the watcher


@pytest.fixture
def watched(store: Store) -> Iterator[Store]:
    watcher = Watcher(store).start()
    yield store
    watcher.stop()
    assert watcher.problem is None


def within(seconds: float, condition: Callable[[], Any]) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "it took too long"
        time.sleep(0.002)
    return time.monotonic() - start


def test_a_single_edit_is_adopted_within_a_second(watched: Store, tmp_path: Path) -> None:
    walk_to(watched, "T-1", "new")
    path = task_path(tmp_path, "T-1")
    for number in range(3):
        raw = path.read_bytes().replace(b'"title": "', b'"title": "%d' % number, 1)
        (in_place, by_rename)[number % 2](path, raw)
        within(1.0, lambda number=number: watched.task("T-1").title.startswith(str(number)))  # type: ignore[misc]
    task_path(tmp_path, "T-2").write_text(json.dumps(minimal("T-2")))
    within(1.0, lambda: watched.document("T-2") is not None)


def test_a_removed_file_is_restored_within_a_second(watched: Store, tmp_path: Path) -> None:
    walk_to(watched, "T-1", "new")
    task_path(tmp_path, "T-1").unlink()
    within(1.0, task_path(tmp_path, "T-1").exists)


def test_a_folder_that_is_removed_is_made_and_watched_again(watched: Store, tmp_path: Path) -> None:
    """A checkout removes a folder together with its last file."""
    walk_to(watched, "T-1", "new")
    within(1.0, lambda: not any(watched.tasks_folder.glob(".*")))
    task_path(tmp_path, "T-1").unlink()
    watched.tasks_folder.rmdir()
    within(1.0, task_path(tmp_path, "T-1").exists)
    time.sleep(0.3)
    task_path(tmp_path, "T-2").write_text(json.dumps(minimal("T-2")))
    within(1.0, lambda: watched.document("T-2") is not None)
    assert builders.types(tmp_path, "T-1") == ["task_created", "task_restored"]


@pytest.mark.parametrize("how", ["empty", "zeros", "older version"])
def test_a_stale_file_is_rewritten_within_a_second_and_told(watched: Store, tmp_path: Path, how: str) -> None:
    walk = walk_to(watched, "T-1", "new")
    path = task_path(tmp_path, "T-1")
    stale = {"empty": b"", "zeros": b"\0" * 500, "older version": path.read_bytes()}[how]
    walk.dispatch()
    by_rename(path, stale)
    within(1.0, lambda: path.read_bytes() == watched.document("T-1"))
    assert [event.data["why"] for event in builders.events(tmp_path, "task_restored")] == [how]


def test_a_slowly_written_file_is_adopted_when_it_is_whole(watched: Store, tmp_path: Path) -> None:
    raw = json.dumps(minimal("T-1"))
    with task_path(tmp_path, "T-1").open("w") as file:
        for begin in range(0, len(raw), 40):
            file.write(raw[begin : begin + 40])
            file.flush()
            time.sleep(0.02)
    within(1.0, lambda: watched.document("T-1") is not None)
    assert held(tmp_path) == []


def test_what_was_saved_before_the_watcher_hung_its_bell_is_adopted(store: Store, tmp_path: Path) -> None:
    drop(tmp_path, "T-1", minimal("T-1"))
    watcher = Watcher(store).start()
    try:
        within(1.0, lambda: store.document("T-1") is not None)
    finally:
        watcher.stop()


@pytest.mark.slow
def test_a_thousand_files_at_once_are_adopted(watched: Store, tmp_path: Path) -> None:
    for number in range(1000):
        task_path(tmp_path, f"T-{number}").write_text(json.dumps(minimal(f"T-{number}")))
    within(30, lambda: watched.view.counts().get("pending") == 1000)
    assert len(adopted(tmp_path)) == 1000
    settled(tmp_path)


def test_a_refused_commit_leaves_an_edit_to_be_adopted(store: Store, tmp_path: Path) -> None:
    walk = walk_to(store, "T-1", "new")
    edit(tmp_path, title="mine")
    with pytest.raises(Refused):
        walk.approve()
    assert walk.task.title == "mine"
    settled(tmp_path)
