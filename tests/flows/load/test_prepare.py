"""The tasks of a load run: at the gate when they are needed, used again, put away; nobody else's is touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.load.prepare import MOST_ATTEMPTS, Feeder, retire, to_gate
from ssot.intents import Approve, Create, Reject
from ssot.runs import is_load_task, new_run_id
from ssot.store import Store

RUN = new_run_id("soak")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path, source="kircerta/test")
    yield opened
    opened.close()


def decide(store: Store, handed: list[tuple[str, str]]) -> None:
    for task_id, decision in handed:
        store.commit(task_id, Approve() if decision == "approve" else Reject("again"), actor="decider")


def test_so_many_are_at_hand_and_no_more_than_there_will_be_decisions(store: Store) -> None:
    feeder = Feeder(store, RUN, at_hand=5, decisions=7)
    first = feeder.turn()
    assert [decision for _, decision in first] == ["reject"] * 5
    assert feeder.turn() == []
    decide(store, first)
    assert len(feeder.turn()) == 2
    assert feeder.turn() == []
    assert all(is_load_task(one) for one in store.view.entries)


def test_a_rejected_task_is_used_again_over_the_lock_until_it_is_approved(store: Store) -> None:
    feeder = Feeder(store, RUN, at_hand=2, decisions=None)
    decided = 0
    for _ in range(MOST_ATTEMPTS):
        handed = feeder.turn()
        decide(store, handed)
        decided += len(handed)
    assert decided == 2 * MOST_ATTEMPTS
    assert {(one.status, len(store.task(one.task_id).attempts)) for one in store.view.entries.values()} == {
        ("approved", MOST_ATTEMPTS)
    }
    assert len(store.view.entries) == 2
    assert len(feeder.turn()) == 2  # fresh ones


def test_a_decision_that_did_not_come_through_is_handed_out_once_more(store: Store) -> None:
    feeder = Feeder(store, RUN, at_hand=2, decisions=2)
    handed = feeder.turn()
    decide(store, handed[:1])
    assert feeder.turn([handed[0][0], handed[1][0]]) == handed[1:]


def test_others_tasks_are_never_handed_out_or_put_away(store: Store) -> None:
    to_gate(store, ["T-1"])
    store.commit("T-2", Create("x"), actor="alice")
    feeder = Feeder(store, RUN, at_hand=3, decisions=3)
    assert "T-1" not in dict(feeder.turn(["T-1"]))
    assert retire(store, RUN) == 3
    assert {one: store.task(one).status for one in ("T-1", "T-2")} == {"T-1": "needs_review", "T-2": "pending"}
    assert retire(store, RUN) == 0


def test_dispatch_pending_passes_a_load_run_s_tasks_by(store: Store) -> None:
    store.commit(f"load-{RUN}-1", Create("x"), actor="load")
    store.commit("T-1", Create("x"), actor="alice")
    assert store.pending() == ["T-1"]
