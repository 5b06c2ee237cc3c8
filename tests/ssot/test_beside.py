"""Commits side by side: the next one is decided while this one is still synced and shown, and is never ahead of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from audit import files
from audit.files import Busy, FileLock
from audit.log import Transaction
from audit.reader import read_events
from ssot import intents, replay
from ssot.rules import Refused
from ssot.store import IdempotencyKey, Store
from ssot.view import Query
from tests.builders import Walk, a_store, task_path, walk_to


class Slow:
    """Lets one thread wait in its sync, with its line written, until it may go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written, self.go_on = threading.Event(), threading.Event()
        self._sync, self._who = files.sync_data, -1
        monkeypatch.setattr(files, "sync_data", self._sync_data)

    def run(self, work: Callable[[], object]) -> threading.Thread:
        def begin() -> None:
            self._who = threading.get_ident()
            work()

        thread = threading.Thread(target=begin)
        thread.start()
        assert self.written.wait(10)
        return thread

    def _sync_data(self, fd: int) -> None:
        if threading.get_ident() == self._who:
            self.written.set()
            assert self.go_on.wait(10)
        self._sync(fd)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    return Slow(monkeypatch)


def two_tasks(home: Path) -> tuple[Store, Store]:
    """Two processes' stores, and two tasks at the gate that were left alone for a while."""
    one = a_store(home)
    walk_to(one, "T-1", "needs_review")
    walk_to(one, "T-2", "needs_review")
    two = a_store(home)
    two.refresh()
    return one, two


def test_the_next_one_is_decided_during_the_sync_and_appended_behind_it(
    tmp_path: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = two_tasks(tmp_path)
    decided, be_alone = threading.Event(), Transaction.be_alone

    def tell(transaction: Transaction, *given: object) -> None:
        if threading.current_thread() is follower:
            decided.set()
        be_alone(transaction, *given)  # type: ignore[arg-type]

    first = slow.run(lambda: one.commit("T-1", intents.Approve("first"), actor="alice"))
    monkeypatch.setattr(Transaction, "be_alone", tell)
    follower = threading.Thread(target=lambda: two.commit("T-2", intents.Approve("second"), actor="alice"))
    follower.start()
    assert decided.wait(10), "it is judged while the one before is in its sync"
    follower.join(0.2)
    assert [event.subject for event in read_events(tmp_path / "audit")][-1] == "T-1", (
        "and not written before it is done"
    )
    assert b'"decision": null' in task_path(tmp_path, "T-1").read_bytes(), "a file is never ahead of the durable log"
    slow.go_on.set()
    first.join()
    follower.join()
    assert [event.subject for event in read_events(tmp_path / "audit")][-2:] == ["T-1", "T-2"]
    assert replay.check(tmp_path).ok


def test_nobody_judges_a_task_whose_last_change_is_not_shown_yet(tmp_path: Path, slow: Slow) -> None:
    one, two = two_tasks(tmp_path)
    answers: list[str] = []

    def reject() -> None:
        try:
            two.commit("T-1", intents.Reject("second"), actor="bob")
        except Refused as refused:
            answers.append(refused.code)

    first = slow.run(lambda: one.commit("T-1", intents.Approve("first"), actor="alice"))
    second = threading.Thread(target=reject)
    second.start()
    second.join(0.2)
    assert second.is_alive()
    assert answers == []
    slow.go_on.set()
    first.join()
    second.join()
    assert answers == ["invalid_transition"]
    assert "task_restored" not in [event.type for event in read_events(tmp_path / "audit")]
    assert replay.check(tmp_path).ok


def test_who_dies_in_its_sync_leaves_its_file_to_the_next_one(tmp_path: Path) -> None:
    one, two = two_tasks(tmp_path)
    child = os.fork()
    if child == 0:
        files.sync_data = lambda fd: os._exit(7)
        with suppress(BaseException):
            one.commit("T-1", intents.Approve("first"), actor="alice")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert b'"decision": null' in task_path(tmp_path, "T-1").read_bytes()
    two.commit("T-2", intents.Approve("second"), actor="alice")
    assert two.task("T-1").status == "approved"
    assert replay.check(tmp_path).ok


def test_the_turn_is_waited_for_no_longer_than_the_lock(tmp_path: Path) -> None:
    one, _ = two_tasks(tmp_path)
    before = one.last_seq()
    for sidecar in (".turn", ".lock"):
        with FileLock(tmp_path / "audit" / sidecar).hold(), pytest.raises(Busy):
            one.commit("T-1", intents.Approve(), actor="alice", timeout=0.05)
    one.refresh()
    assert one.last_seq() == before
    one.commit("T-1", intents.Approve(), actor="alice", timeout=2)


@pytest.mark.parametrize("sidecar", [".turn", ".lock"])
def test_readers_wait_for_none_of_the_locks(tmp_path: Path, sidecar: str) -> None:
    one, _ = two_tasks(tmp_path)
    with FileLock(tmp_path / "audit" / sidecar).hold():
        waiting = threading.Thread(target=lambda: one.commit("T-1", intents.Approve(), actor="alice"))
        waiting.start()
        for _ in range(20):
            read = threading.Thread(target=lambda: (one.refresh(), one.page(Query()), one.document("T-1")))
            read.start()
            read.join(2)
            assert not read.is_alive()
    waiting.join()


def test_a_refusal_that_has_to_begin_again_is_recorded_once(tmp_path: Path) -> None:
    one, two = two_tasks(tmp_path)
    Walk(one).approve()
    (tmp_path / "audit" / ".lock").write_bytes(b"")  # nobody knows what the files show: it has to begin again, alone
    for _ in range(2):
        with pytest.raises(Refused):
            two.commit("T-1", intents.Approve(), actor="bob")
    assert [event.type for event in read_events(tmp_path / "audit")].count("move_refused") == 1


def test_a_first_answer_that_is_not_durable_yet_is_not_repeated(tmp_path: Path, slow: Slow) -> None:
    one, two = two_tasks(tmp_path)
    Walk(one).approve()
    key = IdempotencyKey("k", "b")
    answers: list[str] = []

    def approve_again(store: Store) -> None:
        try:
            store.commit("T-1", intents.Approve(), actor="bob", idempotency=key)
        except Refused as refused:
            answers.append(refused.code)

    first = slow.run(lambda: approve_again(one))
    second = threading.Thread(target=approve_again, args=(two,))
    second.start()
    second.join(0.2)
    assert answers == []
    slow.go_on.set()
    first.join()
    second.join()
    assert answers == ["invalid_transition"] * 2
    assert [event.type for event in read_events(tmp_path / "audit")].count("move_refused") == 1
