"""Clocks that jump, and processes whose clocks disagree."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

from audit.stamp import Clock
from audit.verify import verify
from ssot.store import Refused, Store
from tests.faults import world


def jumping(seed: int) -> Clock:
    """A clock that is set back and forth by up to a year."""
    dice = random.Random(seed)
    return Clock(seconds=lambda: 1_790_000_000 + dice.uniform(-3e7, 3e7))


def test_time_in_the_log_never_goes_back_whatever_the_clock_does(tmp_path: Path) -> None:
    store = Store.open(tmp_path, source="kircerta/test", clock=jumping(1))
    for number in range(20):
        world.walk_to(store, f"T-{number}", "dispatched")
    times = [event.time for event in store.events()]
    assert all(earlier <= later for earlier, later in pairwise(times))
    assert verify(tmp_path / "audit").problem is None
    assert world.problems(tmp_path, []) == []


def test_processes_with_clocks_hours_apart_make_one_log_and_one_truth(tmp_path: Path) -> None:
    ahead = Store.open(tmp_path, source="kircerta/ahead", clock=Clock(seconds=lambda: 1_790_007_200))
    behind = Store.open(tmp_path, source="kircerta/behind", clock=Clock(seconds=lambda: 1_790_000_000))
    dice = random.Random(2)
    promises = []
    for _ in range(200):
        store, task_id = dice.choice([ahead, behind]), f"T-{dice.randrange(6)}"
        known = store.document(task_id)
        actor, intent = world.forward(store.task(task_id) if known else None, dice)
        try:
            promises += world.promises_of(store.commit(task_id, intent, actor=actor))
        except Refused:  # what the one has just done, the other may not have seen
            continue
    assert len(promises) > 100
    ahead.refresh()
    behind.refresh()
    assert {i: e.digest for i, e in ahead.view.entries.items()} == {i: e.digest for i, e in behind.view.entries.items()}
    assert world.problems(tmp_path, promises) == []
