"""What other processes did is taken up when somebody asks, and is then exactly what the log says."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
import pytest

from audit.event import Corrupt
from ssot import intents
from ssot.store import Refused, Store
from ssot.view import Query
from tests import builders
from tests.builders import Walk, a_store, create, task_path, walk_to


@pytest.fixture
def mine(tmp_path: Path) -> Store:
    return a_store(tmp_path)


@pytest.fixture
def theirs(tmp_path: Path, mine: Store) -> Store:
    """Another process's store, as far as the first one can tell."""
    return a_store(tmp_path)


def whole(store: Store) -> dict[str, object]:
    """All that a store answers, once it is brought up to date."""
    store.refresh()
    view = store.view
    return {
        "documents": {task_id: store.document(task_id) for task_id in view.entries},
        "page": store.page(Query()),
        "counts": view.counts(),
        "opened": dict(view.opened),
        "folded": dict(view.folded),
        "change": view.last_change,
    }


def test_a_commit_leaves_what_others_did_to_other_tasks_for_later(mine: Store, theirs: Store) -> None:
    walk_to(theirs, "T-1", "needs_review")
    Walk(mine, "T-2").create()
    assert "T-1" not in mine.view.entries
    assert not mine.is_current()
    assert mine.task("T-1").status == "needs_review"
    assert mine.is_current()
    assert whole(mine) == whole(theirs)


@pytest.mark.parametrize("asked", ["page", "pending", "open_attempts", "refresh", "checkpoint"])
def test_whoever_asks_for_all_tasks_gets_all_news(mine: Store, theirs: Store, tmp_path: Path, asked: str) -> None:
    walk_to(theirs, "T-1", "acknowledged")
    walk_to(theirs, "T-2", "new")
    Walk(mine, "T-3").create()
    if asked == "page":
        assert orjson.loads(mine.page(Query()))["total"] == 3
    elif asked == "pending":
        assert mine.pending() == ["T-2", "T-3"]
    elif asked == "open_attempts":
        assert [attempt.task_id for attempt in mine.open_attempts()] == ["T-1"]
    elif asked == "refresh":
        mine.refresh()
    else:
        mine.save_checkpoint()
    assert set(mine.view.entries) == {"T-1", "T-2", "T-3"}
    assert whole(mine) == whole(a_store(tmp_path)) == whole(theirs)


def test_a_name_that_differs_in_case_from_another_processs_new_task_is_refused(mine: Store, theirs: Store) -> None:
    walk_to(theirs, "Task-1", "new")
    with pytest.raises(Refused) as refused:
        mine.commit("task-1", create(), actor="alice")
    assert refused.value.code == "exists"


def test_signs_of_life_among_the_news_count(mine: Store, theirs: Store) -> None:
    walk = walk_to(theirs, "T-1", "acknowledged")
    Walk(mine, "T-2").create()
    walk.heartbeat()
    Walk(mine, "T-3").create()
    (attempt,) = mine.open_attempts()
    assert attempt.signs.last_heartbeat_event > 0
    assert [attempt] == theirs.open_attempts()


def test_a_decision_falls_on_what_another_process_did_just_before(mine: Store, theirs: Store) -> None:
    walk_to(theirs, "T-1", "needs_review")
    Walk(mine, "T-2").create()
    walk = Walk(theirs, "T-1")
    walk.approve()
    with pytest.raises(Refused) as refused:
        mine.commit("T-1", intents.Reject("too late"), actor="bob")
    assert refused.value.code == "invalid_transition"


@pytest.mark.parametrize("file", ["removed", "older", "nonsense", "a claim"])
def test_files_that_do_not_show_the_news_send_us_to_the_log(
    mine: Store, theirs: Store, tmp_path: Path, file: str
) -> None:
    walk = walk_to(theirs, "T-1", "dispatched")
    mine.refresh()
    older = task_path(tmp_path, "T-1").read_bytes()
    walk.ack()
    document = orjson.loads(task_path(tmp_path, "T-1").read_bytes())
    claim = orjson.dumps({**document, "seq": document["seq"] + 5, "status": "approved"})
    if file == "removed":
        task_path(tmp_path, "T-1").unlink()
    else:
        written = {"older": older, "nonsense": b"{", "a claim": claim}[file]
        task_path(tmp_path, "T-1").write_bytes(written)
    mine.refresh()
    assert mine.document("T-1") == theirs.document("T-1")
    fresh = Store(tmp_path, source="kircerta/test")
    assert fresh.document("T-1") is None
    fresh.refresh()
    assert fresh.document("T-1") == theirs.document("T-1")
    assert fresh.open_attempts() == theirs.open_attempts()


def test_many_tasks_whose_files_are_gone_are_taken_from_the_log_in_one_go(
    mine: Store, theirs: Store, tmp_path: Path
) -> None:
    for number in range(6):
        walk_to(theirs, f"T-{number}", "delivered")
        task_path(tmp_path, f"T-{number}").unlink()
    fresh = Store(tmp_path, source="kircerta/test")
    assert whole(fresh) == whole(theirs)


def test_news_that_lead_to_another_document_than_they_name_stop_everything(
    mine: Store, theirs: Store, tmp_path: Path
) -> None:
    walk_to(theirs, "T-1", "new")
    Walk(mine, "T-2").create()
    last = builders.events(tmp_path)[-1]
    forged = orjson.loads(last.line) | {"seq": last.seq + 1, "prev": last.digest, "id": "e-x", "subject": "T-1"}
    forged |= {"type": "reject_lock", "data": {"document_sha256": "sha256:" + "1" * 64}}
    with (tmp_path / "audit" / "events.jsonl").open("ab") as file:
        file.write(orjson.dumps(forged) + b"\n")
    with pytest.raises(Corrupt, match="does not lead to the document it names"):
        mine.commit("T-2", intents.Dispatch("d-1"), actor="dispatcher")
    with pytest.raises(Corrupt):
        mine.page(Query())
    assert builders.events(tmp_path)[-1].id == "e-x"


def test_who_reads_a_task_file_meanwhile_reads_one_version_to_its_end(mine: Store, tmp_path: Path) -> None:
    walk = walk_to(mine, "T-1", "new")
    path = task_path(tmp_path, "T-1")
    before = path.read_bytes()
    fd = os.open(path, os.O_RDONLY)
    for number in range(40):
        walk.dispatch()
        walk.end(f"reason {number}")
    assert os.read(fd, len(before) + 1) == before
    os.close(fd)
