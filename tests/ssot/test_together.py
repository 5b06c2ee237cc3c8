"""Several commits on different tasks at once: one lock, one sync, and each is answered as if it had come alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit import files
from audit.reader import read_events
from ssot import intents, replay
from ssot.rules import Refused
from ssot.store import Committed, IdempotencyKey, IdempotencyMismatch, Store, Wish
from tests.builders import PERSON, a_store, create, drop, walk_to


def at_the_gate(home: Path, *names: str) -> Store:
    store = a_store(home)
    for name in names:
        walk_to(store, name, "needs_review")
    return store


def approval(name: str, **more: IdempotencyKey) -> Wish:
    return Wish(name, intents.Approve("fine"), PERSON, **more)


def too_large(name: str) -> Wish:
    return Wish(name, create(metadata={str(number): "x" * 20_000 for number in range(450)}), PERSON)


def types(home: Path, name: str) -> list[str]:
    return [event.type for event in read_events(home / "audit") if event.subject == name]


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The syncs of the log, to be cleared once a test's world stands."""
    seen, sync = list[int](), files.sync_data

    def note(fd: int) -> None:
        seen.append(fd)
        sync(fd)

    monkeypatch.setattr(files, "sync_data", note)
    return seen


def test_they_share_one_sync_and_each_gets_its_own_answer(tmp_path: Path, syncs: list[int]) -> None:
    store = at_the_gate(tmp_path, "T-1", "T-2", "T-3")
    syncs.clear()
    answers = store.commit_all([approval("T-1"), Wish("T-2", intents.Reject("no"), "bob"), approval("T-3")])
    assert len(syncs) == 1
    assert [one.task.status for one in answers if isinstance(one, Committed)] == ["approved", "rejected", "approved"]
    assert [[event.type for event in one.events] for one in answers if isinstance(one, Committed)] == [
        ["task_approved"],
        ["task_rejected"],
        ["task_approved"],
    ]
    assert replay.check(tmp_path).ok


def test_one_that_is_refused_hinders_no_other(tmp_path: Path) -> None:
    store = at_the_gate(tmp_path, "T-1", "T-2")
    walk_to(store, "T-3", "new")
    own = Wish("T-2", intents.Approve(), "fake-executor")
    answers = store.commit_all([approval("T-3"), approval("T-1"), own, approval("../x"), approval("T-9")])
    codes = [one.code if isinstance(one, Refused) else type(one).__name__ for one in answers]
    assert codes[:2] == ["invalid_transition", "Committed"]
    assert codes[3:] == ["invalid_task_id", "not_found"]
    assert types(tmp_path, "T-3")[-1] == "move_refused"
    assert replay.check(tmp_path).ok


def test_what_one_commit_owes_comes_with_it(tmp_path: Path) -> None:
    store = a_store(tmp_path, max_rejects=1)
    for name in ("T-1", "T-2"):
        walk_to(store, name, "needs_review")
    answers = store.commit_all([Wish("T-1", intents.Reject("no"), PERSON), approval("T-2")])
    events = [[event.type for event in one.events] for one in answers if isinstance(one, Committed)]
    assert events == [["task_rejected", "reject_lock"], ["task_approved"]]


def test_keys_are_remembered_and_repeated(tmp_path: Path) -> None:
    store = at_the_gate(tmp_path, "T-1", "T-2")
    keys = [IdempotencyKey(name, "body") for name in ("a", "b")]
    wishes = [approval(name, idempotency=key) for name, key in zip(("T-1", "T-2"), keys, strict=True)]
    first = store.commit_all(wishes)
    again = store.commit_all([wishes[0], approval("T-2", idempotency=IdempotencyKey("b", "another body"))])
    assert [one.document for one in first[:1] if isinstance(one, Committed)] == [
        one.document for one in again[:1] if isinstance(one, Committed) and one.repeated
    ]
    assert isinstance(again[1], IdempotencyMismatch)


def test_one_that_would_grow_too_large_is_refused_alone(tmp_path: Path) -> None:
    store = at_the_gate(tmp_path, "T-2")
    walk_to(store, "T-1", "new")
    answers = store.commit_all([too_large("T-3"), approval("T-2")])
    assert [one.code if isinstance(one, Refused) else one.task.status for one in answers] == ["too_large", "approved"]  # type: ignore[union-attr]
    assert types(tmp_path, "T-3") == ["move_refused"]
    assert replay.check(tmp_path).ok


def test_beside_one_that_would_grow_too_large_the_others_still_share_one_sync(tmp_path: Path, syncs: list[int]) -> None:
    store = at_the_gate(tmp_path, "T-1", "T-2")
    syncs.clear()
    answers = store.commit_all([approval("T-1"), too_large("T-3"), approval("T-2"), too_large("T-4")])
    told = [[event.type for event in one.events] if isinstance(one, Committed) else str(one)[:3] for one in answers]
    assert told == [["task_approved"], "T-3", ["task_approved"], "T-4"]
    assert types(tmp_path, "T-3") == types(tmp_path, "T-4") == ["move_refused"]
    assert len(syncs) == 1
    assert replay.check(tmp_path).ok


def test_where_the_disk_fails_nothing_was_done_of_any_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, append = at_the_gate(tmp_path, "T-1", "T-2"), files.append
    before, writes = store.last_seq(), list[bytes]()

    def fail_later(fd: int, data: bytes, end: int) -> None:
        writes.append(data)
        if len(writes) > 1:
            raise files.StorageFailed("no space left")
        append(fd, data, end)

    monkeypatch.setattr(files, "append", fail_later)
    wishes = [approval("T-1"), too_large("T-3"), approval("T-2")]
    assert len(store.commit_all(wishes)) == 3, "all of it is one write"
    with pytest.raises(files.StorageFailed):
        store.commit_all([approval("T-1"), too_large("T-4")])
    assert [event.seq for event in read_events(tmp_path / "audit")][-1] == before + 3


def test_an_edit_by_hand_is_taken_over_first(tmp_path: Path) -> None:
    store = at_the_gate(tmp_path, "T-1", "T-2")
    drop(tmp_path, "T-1", b"{ held")
    answers = store.commit_all([approval("T-1"), approval("T-2")])
    assert [one.task.status for one in answers if isinstance(one, Committed)] == ["approved"] * 2
    assert (tmp_path / "ssot" / "tasks" / "T-1.json").read_bytes() == b"{ held"


def test_two_about_one_task_do_not_go_together(tmp_path: Path) -> None:
    store = at_the_gate(tmp_path, "T-1")
    with pytest.raises(ValueError, match="about one task"):
        store.commit_all([approval("T-1"), approval("t-1")])
    assert store.task("T-1").status == "needs_review"


def test_any_number_go_together_in_groups_and_are_answered_in_order(tmp_path: Path, syncs: list[int]) -> None:
    store, names = a_store(tmp_path), [f"T-{number}" for number in range(401)]
    syncs.clear()
    answers = store.commit_many([(name, create()) for name in names], actor=PERSON)
    assert [one.task.task_id for one in answers if isinstance(one, Committed)] == names
    assert len(syncs) == 3, "200 and 200 and one"
    assert store.commit_many([], actor=PERSON) == []


@pytest.mark.parametrize("names", [("T-1", "T-1"), ("T-1", "t-1"), ("t-1", "T-1")])
def test_the_first_one_about_a_task_stands_before_the_second_is_judged(tmp_path: Path, names: tuple[str, str]) -> None:
    first, second = names
    wishes = [("A", create()), (first, create()), (second, create()), (first, intents.Reject("no")), ("B", create())]
    answers = a_store(tmp_path).commit_many(wishes, actor=PERSON)
    told = [one.code if isinstance(one, Refused) else (one.task.task_id, one.task.status) for one in answers]
    assert told == [("A", "pending"), (first, "pending"), "exists", (first, "rejected"), ("B", "pending")]
