"""The records of load runs: written first, finished or found dead, and told in the log."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from ssot import runs
from ssot.runs import Bound, Process, RunRecord, Runs
from ssot.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path, source="kircerta/test")
    yield opened
    opened.close()


def record(**more: object) -> RunRecord:
    given = {"run_id": runs.new_run_id("soak"), "kind": "soak", "started_at": "2026-11-01T08:00:00Z"}
    return RunRecord.model_validate({**given, "config": {}, "machine": {}, "versions": {}, **more})


def told(store: Store) -> list[str]:
    return [event.type for event in store.events()]


def dead_process() -> Process:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        ours = runs.this_process()
        return ours.model_copy(update={"pid": child.pid, "started_ticks": runs._started_ticks(child.pid)})


def test_a_run_is_on_disk_as_running_before_anything_else(store: Store) -> None:
    kept = Runs(store)
    folder = kept.begin(record())
    written = orjson.loads((folder / "run.json").read_bytes())
    assert (written["state"], written["outcome"], written["finished_at"]) == ("running", None, None)
    assert written["_process"]["pid"] == runs.this_process().pid
    assert told(store) == ["run_started"]


def test_a_finished_run_reads_back_as_it_was_written_and_names_what_broke(store: Store) -> None:
    kept = Runs(store)
    first = record()
    kept.begin(first)
    broken = Bound(expression="read_p95<200", value=312.0)
    last = kept.finish(first.model_copy(update={"state": "finished", "outcome": "fail", "thresholds": (broken,)}))
    assert kept.load(first.run_id) == last
    finished = [event for event in store.events() if event.type == "run_finished"]
    assert finished[0].data["broken"] == ["read_p95<200"]


def test_a_run_whose_process_is_gone_is_marked_crashed_once(store: Store) -> None:
    kept = Runs(store)
    gone = record()
    kept.begin(gone)
    kept._write(gone.model_copy(update={"process": dead_process()}))
    assert kept.mark_crashed() == [gone.run_id]
    assert kept.mark_crashed() == []
    found = kept.load(gone.run_id)
    assert (found.state, found.outcome) == ("crashed", "invalid")
    assert told(store) == ["run_started", "run_finished"]


def test_a_run_whose_process_lives_is_left_alone(store: Store) -> None:
    kept = Runs(store)
    kept.begin(record())
    assert kept.mark_crashed() == []


@pytest.mark.parametrize(
    "change", [{"boot_id": "another boot"}, {"started_ticks": 1}, {"pid": 2**22 + 1}], ids=["boot", "start", "pid"]
)
def test_the_same_pid_in_another_life_is_not_the_same_process(change: dict[str, object]) -> None:
    ours = runs.this_process()
    assert runs.is_alive(ours)
    assert not runs.is_alive(ours.model_copy(update=change))


def test_a_record_that_cannot_be_read_hides_no_other(store: Store) -> None:
    kept = Runs(store)
    good = record()
    kept.begin(good)
    torn = kept.path(runs.new_run_id("flood"))
    torn.mkdir()
    (torn / "run.json").write_text("{")
    assert [one.run_id for one in kept.all()] == [good.run_id]


@pytest.mark.parametrize(
    "run_id", ["../x", "soak", "soak-20261101T080000Z-0f3a9c/..", "soak-20261101T080000Z-0f3a9c\n"]
)
def test_what_is_no_run_id_never_becomes_a_path(store: Store, run_id: str) -> None:
    with pytest.raises(ValueError, match="is no run id"):
        Runs(store).path(run_id)


@pytest.mark.parametrize(
    ("task_id", "is_ours"),
    [
        ("load-soak-20261101T080000Z-0f3a9c-12", True),
        ("load-soak-20261101T080000Z-0f3a9c-alarm-1", True),
        ("load-balancer-1", False),
        ("load-soak-20261101T080000Z-0f3a9c", False),
        ("my-load-soak-20261101T080000Z-0f3a9c-1", False),
    ],
)
def test_only_what_a_run_made_is_a_load_task(task_id: str, is_ours: bool) -> None:
    assert runs.is_load_task(task_id) == is_ours


def test_a_broken_threshold_stands_as_an_alarm_until_a_run_of_its_kind_passes(store: Store) -> None:
    kept = Runs(store)
    for outcome, stands in (("fail", True), ("invalid", True), ("pass", False)):
        one = record()
        kept.begin(one)
        kept.finish(one.model_copy(update={"state": "finished", "outcome": outcome}))
        assert ("threshold_soak" in store.view.alarms) == stands
    assert told(store).count("alert") == 2
