"""Several processes on one workspace: nothing lost, and of contradicting decisions exactly one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import pytest

from audit.verify import verify
from ssot import intents, replay
from ssot.rules import Policy
from ssot.store import IdempotencyKey, Refused, Store, StoreSettings
from tests import builders
from tests.builders import Walk, create, walk_to

pytestmark = pytest.mark.slow

Answers = list[tuple[Any, ...]]


def opened(home: str) -> Store:
    settings = StoreSettings(Policy(max_rejects=1000), lock_timeout_s=60, segment_bytes=100_000)
    return Store.open(Path(home), source="kircerta/race", settings=settings)


def create_own(home: str, name: str, answers: Queue[tuple[Any, ...]]) -> None:
    store = opened(home)
    for number in range(50):
        done = store.commit(f"{name}-{number}", create(), actor=name)
        answers.put((done.task.task_id, done.task.seq))


def edit_one(home: str, name: str, answers: Queue[tuple[Any, ...]]) -> None:
    """All of them begin and end attempts of one task: each commit is acknowledged or refused, none half."""
    store = opened(home)
    for number in range(50):
        task = store.task("T-1")
        current = task.current
        try:
            if current is None or current.ended is not None:
                done = store.commit("T-1", intents.Dispatch(f"d-{name}-{number}"), actor=name)
            else:
                done = store.commit("T-1", intents.EndAttempt(current.dispatch.dispatch_id, name), actor=name)  # type: ignore[union-attr]
            answers.put((name, done.events[0].seq, done.task.revision))
        except Refused:
            answers.put((name, None, None))


def decide(home: str, name: str, answers: Queue[tuple[Any, ...]]) -> None:
    store = opened(home)
    for number in range(25):
        intent: intents.Intent = intents.Approve(name) if name in ("w0", "w1") else intents.Reject(name)
        try:
            done = store.commit(f"T-{number}", intent, actor=name)
            answers.put((number, name, done.task.status))
        except Refused as refused:
            answers.put((number, refused.code, None))


def decide_once(home: str, name: str, answers: Queue[tuple[Any, ...]]) -> None:
    """The same request arrives at every replica."""
    store = opened(home)
    for number in range(25):
        key = IdempotencyKey(f"key-{number}", "body")
        done = store.commit(f"T-{number}", intents.Approve("yes"), actor="alice", idempotency=key)
        answers.put((number, done.document, done.repeated))


def race(home: Path, work: Callable[[str, str, Queue[tuple[Any, ...]]], None]) -> Answers:
    spawn = multiprocessing.get_context("spawn")
    answers: Queue[tuple[Any, ...]] = spawn.Queue()
    crowd = [spawn.Process(target=work, args=(str(home), f"w{number}", answers)) for number in range(4)]
    for process in crowd:
        process.start()
    found: Answers = []
    while any(process.is_alive() for process in crowd) or not answers.empty():
        while not answers.empty():
            found.append(answers.get())
        for process in crowd:
            process.join(0.01)
    for process in crowd:
        assert process.exitcode == 0
    answers.close()
    answers.join_thread()
    assert verify(home / "audit").problem is None
    settled = replay.check(home)
    assert settled.ok, settled
    return found


def test_different_tasks_are_all_there(tmp_path: Path) -> None:
    answers = race(tmp_path, create_own)
    assert len(answers) == 200
    events = {event.subject: event.seq for event in builders.events(tmp_path, "task_created")}
    assert events == dict(answers)


def test_on_one_task_no_update_is_lost(tmp_path: Path) -> None:
    Walk(opened(str(tmp_path))).create()
    done = [(seq, revision) for _, seq, revision in race(tmp_path, edit_one) if seq is not None]
    kinds = {event.seq: event.type for event in builders.events(tmp_path)}
    assert len({seq for seq, _ in done}) == len(done)
    assert all(kinds[seq] in ("task_dispatched", "task_redispatched", "attempt_ended") for seq, _ in done)
    assert sorted(revision for _, revision in done) == list(range(2, len(done) + 2))
    assert opened(str(tmp_path)).task("T-1").revision == len(done) + 1


def test_of_contradicting_decisions_exactly_one_wins(tmp_path: Path) -> None:
    store = opened(str(tmp_path))
    for number in range(25):
        walk_to(store, f"T-{number}", "needs_review")
    answers = race(tmp_path, decide)
    winners = [answer for answer in answers if answer[2] is not None]
    assert {code for _, code, status in answers if status is None} == {"invalid_transition"}
    assert sorted(number for number, _, _ in winners) == list(range(25))
    store.refresh()
    for number, name, status in winners:
        task = store.task(f"T-{number}")
        assert task.status == status
        assert task.attempts[-1].decision.by == name  # type: ignore[union-attr]


def test_one_request_at_every_replica_is_carried_out_once(tmp_path: Path) -> None:
    store = opened(str(tmp_path))
    for number in range(25):
        walk_to(store, f"T-{number}", "needs_review")
    answers = race(tmp_path, decide_once)
    assert len(builders.events(tmp_path, "task_approved")) == 25
    for number in range(25):
        mine = [(document, repeated) for n, document, repeated in answers if n == number]
        assert len(mine) == 4
        assert len({document for document, _ in mine}) == 1
        assert [repeated for _, repeated in mine].count(False) == 1
