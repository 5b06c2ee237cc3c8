"""The store: one truth for many processes; what was answered once is answered again."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from audit.event import Corrupt, Draft
from audit.files import Busy, FileLock, StorageFailed
from audit.log import AuditLog
from audit.reader import LogReader
from ssot import intents, replay
from ssot.blobs import MAX_BLOB_BYTES
from ssot.store import IdempotencyKey, IdempotencyMismatch, Refused, Store, StoreSettings
from ssot.view import BadCursor, Query
from tests import builders
from tests.builders import PERSON, Ticks, Walk, a_store, create, drop, minimal, task_path, walk_to


def once(store: Store, intent: intents.Intent, key: str = "k", body: str = "b", task_id: str = "T-1") -> Any:
    return store.commit(task_id, intent, actor=PERSON, idempotency=IdempotencyKey(key, body))


# ----------------------------------------------------------------------------------------- several stores, one truth


def test_what_one_process_decides_another_reads_at_once(tmp_path: Path) -> None:
    one, two = a_store(tmp_path), a_store(tmp_path)
    walk = walk_to(one, "T-1", "needs_review")
    assert not two.is_current()
    two.refresh()
    assert two.is_current()
    assert two.document("T-1") == one.document("T-1")
    Walk(two).approve()
    with pytest.raises(Refused) as caught:
        walk.reject()
    assert caught.value.code == "invalid_transition", "nobody decides on a stale state"


def test_readers_get_what_stands_in_the_file(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk = walk_to(store, "T-1", "approved")
    assert store.document("T-1") == task_path(tmp_path, "T-1").read_bytes()
    detail = json.loads(store.detail("T-1") or b"")
    assert detail.pop("review_digest").startswith("sha256:")
    assert detail == json.loads(store.document("T-1") or b"")
    assert [store.detail("T-1") for _ in range(10)] == [store.detail("T-1")] * 10
    assert store.document("T-2") is store.detail("T-2") is None
    assert walk.task.status == "approved"


def test_a_document_that_left_memory_is_read_from_its_file_or_told_by_the_log(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk_to(store, "T-1", "approved")
    document = store.document("T-1")
    store.save_checkpoint()
    assert a_store(tmp_path).document("T-1") == document
    drop(tmp_path, "T-1", b"{ held")
    assert a_store(tmp_path).document("T-1") == document


def test_a_lock_that_is_not_free_is_busy_and_nothing_is_done(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk_to(store, "T-1", "new")
    count = store.last_seq()
    with FileLock(tmp_path / "audit" / ".lock").hold(), pytest.raises(Busy):
        store.commit("T-1", intents.Dispatch("d-1"), actor="x", timeout=0.05)
    store.refresh()
    assert store.last_seq() == count


def test_readers_do_not_wait_for_another_process_that_writes(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk_to(store, "T-1", "new")
    with FileLock(tmp_path / "audit" / ".lock").hold():
        waiting = threading.Thread(target=lambda: store.commit("T-1", intents.Dispatch("d-1"), actor="x"))
        waiting.start()
        begin = time.monotonic()
        for _ in range(20):
            store.refresh()
            assert store.page(Query())
            assert store.document("T-1")
        assert time.monotonic() - begin < 1
    waiting.join()


def test_others_decide_on_it_while_a_commit_is_still_taken_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = a_store(tmp_path), a_store(tmp_path)
    walk = walk_to(one, "T-1", "new")
    apply, stages = one._apply, list[str]()

    def let_the_other_in(*given: Any) -> None:
        two.refresh()
        stages.append(json.loads(task_path(tmp_path, "T-1").read_bytes())["attempts"][-1]["dispatch"]["by"])
        Walk(two).ack()
        monkeypatch.undo()
        apply(*given)

    monkeypatch.setattr(one, "_apply", let_the_other_in)
    assert walk.dispatch().task.attempts[-1].ack is None, "what was committed, not what came behind it"
    assert stages == ["dispatcher"], "the file shows a commit before the lock is given back"
    one.refresh()
    assert walk.task.attempts[-1].ack is not None
    assert replay.check(tmp_path).ok


# ------------------------------------------------------------------------------------------------- idempotency


def test_the_same_key_and_body_give_the_first_answer_again(tmp_path: Path) -> None:
    store = a_store(tmp_path, max_rejects=1)
    walk = walk_to(store, "T-1", "needs_review")
    first = once(store, intents.Reject("no"))
    assert first.task.locked
    walk.unlock()
    walk.dispatch()
    count = store.last_seq()
    for another in (store, a_store(tmp_path), a_store(tmp_path, max_rejects=1)):
        again = once(another, intents.Reject("no"))
        assert (again.document, again.repeated, again.events) == (first.document, True, ())
    store.save_checkpoint()
    assert once(a_store(tmp_path), intents.Reject("no")).document == first.document
    assert store.last_seq() == count


def test_the_same_key_with_another_body_is_a_mismatch(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk_to(store, "T-1", "needs_review")
    once(store, intents.Approve("yes"))
    with pytest.raises(IdempotencyMismatch):
        once(store, intents.Approve("yes!"), body="other")
    with pytest.raises(IdempotencyMismatch):
        once(a_store(tmp_path), intents.Approve("yes!"), body="other")


def test_a_refusal_is_the_first_answer_too(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk = walk_to(store, "T-1", "new")
    for _ in range(3):
        with pytest.raises(Refused) as caught:
            once(store, intents.Approve())
        assert caught.value.code == "invalid_transition"
    assert len(builders.events(tmp_path, "move_refused")) == 1
    walk.to_gate()
    with pytest.raises(Refused):
        once(store, intents.Approve())
    once(store, intents.Approve(), key="another")


def test_a_key_is_forgotten_after_24_hours(tmp_path: Path) -> None:
    ticks = Ticks()
    store = a_store(tmp_path, ticks=ticks)
    walk_to(store, "T-1", "needs_review")
    once(store, intents.Approve("yes"))
    ticks.ahead(24 * 3600 - 60)
    assert once(store, intents.Approve("yes")).repeated
    ticks.ahead(120)
    for each in (store, a_store(tmp_path, ticks=ticks)):
        with pytest.raises(Refused) as caught:
            once(each, intents.Approve("yes"), body="another body")
        assert caught.value.code == "invalid_transition"
        ticks.ahead(25 * 3600)


# -------------------------------------------------------------------------------------------------- checkpoint


def summary(store: Store) -> dict[str, Any]:
    return {
        "page": store.page(Query(limit=1000)),
        "documents": {task_id: store.document(task_id) for task_id in store.view.entries},
        "open": sorted(store.open_attempts(), key=lambda attempt: attempt.task_id),
        "held": sorted(store.held_files(), key=lambda held: held.file),
        "counts": store.view.counts(),
        "pending": store.pending(),
        "seq": store.last_seq(),
        "change": tuple(store.view.last_change),
        "keys": dict(store.view.remembered),
        "folded": dict(store.view.folded),
    }


def lively(home: Path) -> Store:
    store = a_store(home, segment_bytes=5000)
    for number, stage in enumerate(("new", "dispatched", "acknowledged", "delivered", "needs_review", "approved")):
        walk_to(store, f"T-{number}", stage)  # type: ignore[arg-type]
    once(store, intents.Approve("yes"), task_id="T-4")
    Walk(store, "T-2").heartbeat()
    drop(home, "H-1", b"{ held")
    store.scan()
    return store


def test_a_start_from_the_checkpoint_equals_a_start_from_nothing(tmp_path: Path) -> None:
    store = lively(tmp_path)
    store.save_checkpoint()
    Walk(store, "T-0").dispatch()
    from_checkpoint = a_store(tmp_path)
    assert from_checkpoint.checkpoint_age() > 0
    (tmp_path / ".kircerta" / "checkpoint.json").unlink()
    assert summary(from_checkpoint) == summary(a_store(tmp_path)) == summary(store)


def damage_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"T-1", b"T-2", 1))


@pytest.mark.parametrize(
    "damage",
    [
        damage_text,
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"{}\n{}"),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"offset":', b'"offset":1', 1)),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"digest":"sha256:', b'"digest":"sha256:0', 1)),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_thrown_away(tmp_path: Path, damage: Any) -> None:
    store = lively(tmp_path)
    store.save_checkpoint()
    damage(tmp_path / ".kircerta" / "checkpoint.json")
    assert summary(a_store(tmp_path)) == summary(store)


def test_a_checkpoint_of_another_history_is_thrown_away(tmp_path: Path) -> None:
    lively(tmp_path / "a").save_checkpoint()
    store = a_store(tmp_path / "b")
    walk_to(store, "T-9", "new")
    shutil.copy(tmp_path / "a" / ".kircerta" / "checkpoint.json", tmp_path / "b" / ".kircerta" / "checkpoint.json")
    assert summary(a_store(tmp_path / "b")) == summary(store)


def test_a_checkpoint_survives_a_rotation(tmp_path: Path) -> None:
    store = lively(tmp_path)
    store.save_checkpoint()
    for number in range(20):
        Walk(store, f"R-{number}").create()
    assert summary(a_store(tmp_path)) == summary(store)


def test_an_edit_made_while_nobody_ran_is_seen_though_there_is_a_checkpoint(tmp_path: Path) -> None:
    store = lively(tmp_path)
    store.scan()
    store.save_checkpoint()
    document = builders.read(tmp_path, "T-0")
    drop(tmp_path, "T-0", {**document, "title": "meanwhile"})
    assert a_store(tmp_path).task("T-0").title == "meanwhile"


# ------------------------------------------------------------------------------------------- logs that were replaced


def copy_log(home: Path) -> bytes:
    return (home / "audit" / "events.jsonl").read_bytes()


def put_log(home: Path, raw: bytes) -> None:
    (home / "audit" / "copy").write_bytes(raw)
    (home / "audit" / "copy").rename(home / "audit" / "events.jsonl")


def test_an_older_copy_of_the_log_is_taken_up(tmp_path: Path) -> None:
    """What the log does not know is held: files are never ahead of it, and nobody approves by a file."""
    store = a_store(tmp_path)
    walk = walk_to(store, "T-1", "needs_review")
    old = copy_log(tmp_path)
    walk.approve()
    put_log(tmp_path, old)
    builders.age(task_path(tmp_path, "T-1"))
    store.refresh()
    assert store.task("T-1").status == "needs_review"
    store.scan()
    assert [held.reason for held in store.held_files()] == ["forged_decision"]
    fresh = a_store(tmp_path)
    assert fresh.document("T-1") == store.document("T-1")
    Walk(fresh, "T-2").create()
    assert replay.check(tmp_path).held == ["T-1.json"]


def test_after_an_older_copy_crashed_commits_are_still_finished(tmp_path: Path) -> None:
    """The marker in the lock's sidecar knows of more events than there are: it says nothing any more."""
    store = a_store(tmp_path)
    walk = walk_to(store, "T-1", "new")
    old = copy_log(tmp_path)
    for _ in range(5):
        walk.dispatch()
        walk.end()
    put_log(tmp_path, old)
    task_path(tmp_path, "T-1").unlink()
    Walk(store, "T-2").create()
    assert replay.check(tmp_path).ok


def test_a_tampered_log_stops_the_store_for_good(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk_to(store, "T-1", "needs_review")
    whole = copy_log(tmp_path)
    put_log(tmp_path, whole.replace(b"it greets", b"it beeps!", 1))
    for _ in range(2):
        with pytest.raises(Corrupt):
            store.refresh()
        with pytest.raises(Corrupt):
            store.commit("T-1", intents.Approve(), actor=PERSON)
    with pytest.raises(Corrupt):
        a_store(tmp_path)


def test_an_event_that_does_not_lead_to_its_document_stops_the_store(tmp_path: Path) -> None:
    walk_to(a_store(tmp_path), "T-1", "new")
    wrong: list[dict[str, Any]] = [{"document_sha256": "sha256:" + "0" * 64}, {"nonsense": 1}]
    for number, data in enumerate(wrong):
        home = tmp_path / f"copy-{number}"
        shutil.copytree(tmp_path / "audit", home / "audit")
        log, reader = AuditLog(home / "audit", source="kircerta/test"), LogReader(home / "audit")
        with log.transact(reader) as transaction:
            transaction.begin(lambda events: None)
            transaction.append([transaction.place(Draft("task_approved", "eve", data, "T-1", "c"))])
        reader.close()
        with pytest.raises(Corrupt, match="seq 2"):
            a_store(home)
        assert replay.check(home).problem is not None


def test_an_event_of_a_newer_kircerta_that_changes_tasks_stops_this_one(tmp_path: Path) -> None:
    log, reader = AuditLog(tmp_path / "audit", source="kircerta/test"), LogReader(tmp_path / "audit")
    (tmp_path / "audit").mkdir()
    with log.transact(reader) as transaction:
        transaction.begin(lambda events: None)
        transaction.append(
            [transaction.place(Draft("task_teleported", "x", {"document_sha256": "sha256:" + "0" * 64}, "T-1"))]
        )
    reader.close()
    with pytest.raises(Corrupt, match="newer"):
        a_store(tmp_path)


# ------------------------------------------------------------------------------------------------------- the list


def ids(page: bytes) -> list[str]:
    return [row["task_id"] for row in json.loads(page)["tasks"]]


def test_pages_follow_each_other_without_gap_or_repeat(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    times = ["2025-12-31T23:59:59.999999Z", "2026-01-01T09:00:00Z", "2026-01-01T09:00:00.5Z", "2026-01-01T09:00:01Z"]
    for number in range(25):
        Walk(store, f"T-{number:02d}").create(created_at=times[number % 4])
    seen: list[str] = []
    cursor = None
    while True:
        page = store.page(Query(limit=7, cursor=cursor))
        assert json.loads(page)["total"] == 25
        seen += ids(page)
        cursor = json.loads(page)["next_cursor"]
        if cursor is None:
            break
    assert len(set(seen)) == 25
    assert seen == sorted(seen, key=lambda task_id: (times.index(store.task(task_id).created_at), task_id))


def test_the_list_is_filtered(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk_to(store, "A-1", "approved", title="Größe")
    walk_to(store, "B-2", "new", source="import", title="other")
    walk_to(store, "C-3", "new", title="third")
    assert ids(store.page(Query(status="pending"))) == ["B-2", "C-3"]
    assert ids(store.page(Query(source="import"))) == ["B-2"]
    assert ids(store.page(Query(status="pending", source="manual"))) == ["C-3"]
    assert ids(store.page(Query(text="GRÖSSE"))) == ["A-1"]
    assert ids(store.page(Query(text="b-2", status="pending"))) == ["B-2"]
    assert ids(store.page(Query(status="rejected"))) == []
    Walk(store, "B-2").reject()
    assert ids(store.page(Query(status="rejected"))) == ["B-2"]


@pytest.mark.parametrize("cursor", ["x", "!!!", "e30", "W10", "WzEsMiwzXQ", ""])
def test_a_cursor_that_no_page_gave_is_refused(tmp_path: Path, cursor: str) -> None:
    store = a_store(tmp_path)
    if cursor:
        with pytest.raises(BadCursor):
            store.page(Query(cursor=cursor))
    else:
        assert ids(store.page(Query(cursor=cursor))) == []


def test_finished_imports_and_drafts_are_not_dispatched_by_themselves(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk_to(store, "T-1", "new")
    walk_to(store, "T-2", "new", metadata={"import": {"finished": True}})
    walk_to(store, "T-3", "new", metadata={"import": {"draft": True}})
    walk_to(store, "T-4", "ended")
    assert store.pending() == ["T-1"]


# -------------------------------------------------------------------------------------------------------- the disk


def test_a_task_file_that_cannot_be_written_fails_no_commit_and_is_written_later(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk = walk_to(store, "T-1", "new")
    blocker = tmp_path / "ssot" / "tasks" / ".T-1.tmp"
    blocker.mkdir()  # nothing can be written beside the file
    walk.dispatch()
    walk.ack()
    assert json.loads(store.document("T-1") or b"")["attempts"][0]["ack"]
    assert builders.read(tmp_path, "T-1")["attempts"] == []
    blocker.rmdir()
    other = a_store(tmp_path, scan=False)
    Walk(other, "T-2").create()
    assert replay.check(tmp_path).ok


def test_a_text_that_could_not_be_read_back_is_refused_and_the_task_goes_on(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk = walk_to(store, "T-1", "acknowledged")
    with pytest.raises(Refused) as refused:
        walk.result(summary="x" * (MAX_BLOB_BYTES + 1))
    assert refused.value.code == "too_large"
    assert builders.types(tmp_path, "T-1")[-1] == "move_refused"
    walk.result(summary="x" * MAX_BLOB_BYTES)
    assert len(json.loads(store.detail("T-1") or b"")["attempts"][0]["result"]["summary"]) == MAX_BLOB_BYTES


def test_a_workspace_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageFailed, match="workspace"):
        a_store(tmp_path / "file")


def test_an_unreadable_moment_does_not_lose_events(tmp_path: Path) -> None:
    """A blob that cannot be read while the log is taken in: the view begins anew, nothing is skipped."""
    one, two = a_store(tmp_path), a_store(tmp_path)
    walk_to(one, "T-1", "new")
    two.refresh()
    big = tuple(builders.Criterion(id=f"A-{n}", text="x" * 900) for n in range(100))
    Walk(one, "T-2").create(acceptance_criteria=big)
    Walk(one, "T-3").create()
    task_path(tmp_path, "T-2").unlink()  # else it is taken from there
    (tmp_path / "aside").mkdir()
    blobs = tmp_path / "ssot" / "blobs"
    blobs.rename(tmp_path / "aside" / "blobs")
    blobs.write_text("not a folder")
    with pytest.raises(StorageFailed):
        two.refresh()
    blobs.unlink()
    (tmp_path / "aside" / "blobs").rename(blobs)
    two.refresh()
    assert summary(two) == summary(one)


def test_threads_of_one_process_commit_side_by_side(tmp_path: Path) -> None:
    store = Store.open(tmp_path, source="kircerta/test", settings=StoreSettings(lock_timeout_s=30))
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for number in range(15):
                store.commit(f"{name}-{number}", create(), actor=name)
                store.refresh()
                assert store.document(f"{name}-{number}") is not None
        except BaseException as error:
            failures.append(error)

    crowd = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert failures == []
    assert replay.check(tmp_path).ok
    assert store.view.counts()["pending"] == 60


def test_a_note_changes_no_task(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    with pytest.raises(ValueError, match="commit an intent"):
        store.note(Draft("task_approved", "eve", {}, "T-1"))
    assert store.note(Draft("alert", "x", {"text": "y"})).seq == 1


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    store = a_store(tmp_path, segment_bytes=1000)
    walk = walk_to(store, "T-1", "new")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        walk.dispatch()
        walk.end()
        drop(tmp_path, "H", b"{" + os.urandom(3).hex().encode())
        store.scan()
        replay.check(tmp_path)
        list(store.events(3))
        a_store(tmp_path).close()
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_minimal_files_are_listed_by_their_time(tmp_path: Path) -> None:
    drop(tmp_path, "T-2", minimal("T-2", created_at="2025-01-01T00:00:00.1Z"))
    drop(tmp_path, "T-1", minimal("T-1", created_at="2025-01-01T00:00:00.25Z"))
    assert ids(a_store(tmp_path).page(Query())) == ["T-2", "T-1"]


@pytest.mark.parametrize(("text", "is_kept_apart"), [("é" * 16_384, False), ("é" * 16_384 + "!", True)])
def test_a_text_over_32_kib_lies_in_a_file_of_its_own(tmp_path: Path, text: str, is_kept_apart: bool) -> None:
    store = a_store(tmp_path)
    done = walk_to(store, "T-1", "needs_review").reject(reason=text)
    told = done.events[0].data["decision"]
    assert (told["reason"] is None, "blob" in told) == (is_kept_apart, is_kept_apart)
    assert len(list(store.blobs.folder.iterdir())) == is_kept_apart
    assert json.loads(store.detail("T-1") or b"")["attempts"][0]["decision"]["reason"] == text
