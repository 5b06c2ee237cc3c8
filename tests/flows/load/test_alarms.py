"""Provoked alarms: they come into the log, and nobody else's task is taken for one of ours."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.load.alarms import Provocations, located
from flows.load.prepare import dispatch_for
from ssot.intents import Create
from ssot.presence import become_dispatcher
from ssot.runs import new_run_id
from ssot.store import Store
from tests.flows.load.conftest import settings_for

RUN = new_run_id("soak")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path, source="kircerta/test")
    yield opened
    opened.close()


def provocations(store: Store, duration_s: float = 2.0) -> Provocations:
    return Provocations(settings_for(store.home, "http://127.0.0.1:9"), store, RUN, duration_s)


def test_both_alarms_come_into_the_log_where_no_dispatcher_lives(store: Store) -> None:
    made = provocations(store)
    made.turn()
    made.settle(5.0)
    events = {(event.type, event.subject or ""): event for event in store.events()}
    found = [located(one, events) for one in made.alarms]
    assert [one.type for one in found] == ["ack_timeout", "heartbeat_warning"]
    assert all(one.seq is not None and one.actor == "load" for one in found)
    assert "no dispatcher lives" in made.not_shown[0]


def test_a_task_of_somebody_else_that_is_overdue_is_left_to_the_watchdog(store: Store) -> None:
    store.commit("T-1", Create("x"), actor="alice")
    store.commit("T-1", dispatch_for(0.05), actor="alice")
    made = provocations(store)
    made.turn()
    made.settle(3.0)
    assert store.view.opened["T-1"].stage == "dispatched"


def test_with_a_dispatcher_alive_the_ack_is_left_to_it(store: Store) -> None:
    lock = become_dispatcher(store.home)
    try:
        made = provocations(store, duration_s=1.0)
        made.turn()
        made.settle(1.5)
    finally:
        os.close(lock)
    told = [event.type for event in store.events()]
    assert "ack_timeout" not in told  # this dispatcher sleeps: then it is missing, and the run says so
    assert "heartbeat_warning" in told
    assert "shorter than KIRCERTA_HEARTBEAT_WARNING_S" in made.not_shown[0]
    assert len(made.expected(time.time() + 1)) == 2


def test_an_alarm_whose_time_had_not_come_is_not_expected(store: Store) -> None:
    made = provocations(store, duration_s=60.0)
    made.turn()
    assert [one.type for one in made.expected(time.time() + 5)] == ["ack_timeout"]
