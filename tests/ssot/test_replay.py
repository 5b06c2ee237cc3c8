"""Replaying the log gives the task files, byte for byte; reading only."""

from __future__ import annotations

import threading
from pathlib import Path

from audit.files import FileLock
from ssot import intents, replay
from tests import builders
from tests.builders import Walk, a_store, drop, minimal, task_path, walk_to


def test_an_honest_workspace_has_no_difference(tmp_path: Path) -> None:
    store = a_store(tmp_path, segment_bytes=4000)
    for number, stage in enumerate(("new", "needs_review", "approved", "rejected", "ended")):
        walk_to(store, f"T-{number}", stage)  # type: ignore[arg-type]
    counted: list[int] = []
    found = replay.check(tmp_path, counted.append)
    assert found.ok
    assert (found.tasks, found.events, counted[-1]) == (5, store.last_seq(), store.last_seq())


def test_each_difference_is_named(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for number in range(4):
        walk_to(store, f"T-{number}", "new")
    drop(tmp_path, "T-0", task_path(tmp_path, "T-0").read_bytes() + b" ")
    task_path(tmp_path, "T-1").unlink()
    drop(tmp_path, "X-1", minimal("X-1"))
    found = replay.check(tmp_path)
    assert (found.differing, found.missing, found.extra, found.held) == (["T-0"], ["T-1"], ["X-1.json"], [])
    assert not found.ok
    drop(tmp_path, "T-2", b"{ held")
    drop(tmp_path, "bad name", b"{}")
    store.scan()
    found = replay.check(tmp_path)
    assert (found.ok, found.held) == (True, ["T-2.json", "bad name.json"])
    drop(tmp_path, "T-2", b"{ held, and edited again")
    assert replay.check(tmp_path).differing == ["T-2"]


def test_nothing_is_written_and_no_lock_is_needed(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk_to(store, "T-1", "approved")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.rglob("*")}
    with FileLock(tmp_path / "audit" / ".lock").hold():
        assert replay.check(tmp_path).ok
    assert store.is_current()
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.rglob("*")} == before


def test_a_workspace_without_anything_is_fine(tmp_path: Path) -> None:
    assert replay.check(tmp_path).ok


def test_a_log_that_was_edited_is_a_problem(tmp_path: Path) -> None:
    walk_to(a_store(tmp_path), "T-1", "approved")
    log = tmp_path / "audit" / "events.jsonl"
    log.write_bytes(log.read_bytes().replace(b"changed a line", b"changed a life", 1))
    assert "breaks at seq" in str(replay.check(tmp_path).problem)


def test_writers_do_not_disturb_it(tmp_path: Path) -> None:
    store = a_store(tmp_path, segment_bytes=20_000)
    walks = [walk_to(store, f"T-{number}", "new") for number in range(10)]
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            walk = walks[number % 10]
            walk.dispatch()
            walk.do(intents.EndAttempt(walk.task.attempts[-1].dispatch.dispatch_id, "x" * 50), "w")  # type: ignore[union-attr]

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = [replay.check(tmp_path) for _ in range(8)]
    finally:
        done.set()
        writer.join()
    assert [each for each in found if not each.ok] == []


def test_more_tasks_than_are_kept_as_models(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    store.commit_many([(f"T-{n}", builders.create(f"task {n}")) for n in range(30)], actor="cli")
    Walk(store, "T-3").dispatch()
    assert replay.check(tmp_path, models=5).ok
