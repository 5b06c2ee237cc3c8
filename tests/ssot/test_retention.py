"""Retention: what is old and unnamed goes, what anybody counts on stays, and the log tells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from audit.stamp import rfc3339, seconds_of
from ssot import replay
from ssot.retention import BASELINES, prune, removable
from ssot.runs import FOLDER, Kind, RunRecord, records, this_process
from ssot.store import Store
from tests.builders import create

DAY_S = 86400.0
BEGIN_S = seconds_of("2026-01-01T00:00:00Z")


def record(day: int, *, hours: float = 0.1, kind: Kind = "soak", **more: Any) -> RunRecord:
    """A finished run of that day that passed."""
    began = BEGIN_S + day * DAY_S
    times = {"started_at": rfc3339(began), "finished_at": rfc3339(began + hours * 3600 + 10)}
    what = {"config": {"duration_s": hours * 3600}, "machine": {}, "versions": {}}
    state = {"state": "finished", "outcome": "pass", "measures": {"lasted_s": hours * 3600}}
    named = f"{kind}-202601{day:02d}T000000Z-0f3a9c"
    return RunRecord(**{"run_id": named, "kind": kind, **times, **what, **state, **more})  # type: ignore[arg-type]


def write(home: Path, made: RunRecord) -> Path:
    folder = home / FOLDER / made.run_id
    folder.mkdir(parents=True)
    (folder / "run.json").write_bytes(orjson.dumps(made.model_dump(mode="json", by_alias=True)))
    (folder / "samples.parquet").write_bytes(b"samples")
    return folder


def left(home: Path) -> list[int]:
    """The days of the runs that are still there."""
    return [int(one.run_id.partition("-202601")[2][:2]) for one in records(home)]


def now(day: int) -> float:
    return BEGIN_S + day * DAY_S


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path, source="kircerta/tests")
    yield opened
    opened.close()


def test_the_last_of_each_kind_stay_and_so_does_what_is_not_old() -> None:
    found = [*(record(day) for day in range(1, 8)), record(1, kind="stress"), record(9, kind="stress")]
    gone = removable(found, now(12), keep_last=2, older_than_s=7 * DAY_S)
    assert [one.run_id[:13] for one in gone] == ["soak-20260101", "soak-20260102", "soak-20260103", "soak-20260104"]
    assert not list(removable(found, now(12), keep_last=7, older_than_s=0))
    assert not list(removable(found, now(12), keep_last=1, older_than_s=30 * DAY_S))


def test_a_removed_run_is_told_in_the_log_and_nothing_else_is_touched(store: Store) -> None:
    home = store.home
    for day in range(1, 5):
        write(home, record(day))
    store.commit("T-1", create(), actor="alice")
    (home / FOLDER / "notes").mkdir()
    assert prune(store, now(30), keep_last=1, older_than_s=DAY_S) == [record(day).run_id for day in (1, 2, 3)]
    assert left(home) == [4]
    told = [event for event in store.events() if event.type == "run_removed"]
    assert [event.data["run_id"] for event in told] == [record(day).run_id for day in (1, 2, 3)]
    assert told[0].data["outcome"] == "pass"
    assert sorted(path.name for path in (home / FOLDER).iterdir()) == [".lock", "notes", record(4).run_id]
    assert replay.check(home).ok
    assert prune(store, now(30), keep_last=1, older_than_s=DAY_S) == []


def test_what_is_named_stays_and_so_does_the_proof_of_two_hours(store: Store) -> None:
    home = store.home
    for day, hours in ((1, 0.1), (2, 0.1), (3, 2.0), (4, 2.0), (5, 0.1), (6, 0.1)):
        write(home, record(day, hours=hours))
    (home / BASELINES).write_text(f"# what others are measured against\n{record(1).run_id}  # before the rewrite\n\n")
    prune(store, now(30), keep_last=1, older_than_s=0, keep=(record(2).run_id,))
    assert left(home) == [1, 2, 4, 6]


def test_a_run_that_goes_on_and_one_that_cannot_be_read_stay(store: Store) -> None:
    home = store.home
    write(home, record(1, state="running", outcome=None, finished_at=None, process=this_process()))
    torn = write(home, record(2))
    (torn / "run.json").write_bytes(b"{")
    for day in (3, 4):
        write(home, record(day))
    prune(store, now(30), keep_last=1, older_than_s=0)
    assert left(home) == [1, 4]
    assert (torn / "samples.parquet").exists()


def test_a_link_among_the_runs_is_never_followed(store: Store, tmp_path: Path) -> None:
    outside = write(tmp_path / "elsewhere", record(1))
    (store.home / FOLDER).mkdir(parents=True)
    os.symlink(outside, store.home / FOLDER / outside.name)
    write(store.home, record(2))
    prune(store, now(30), keep_last=1, older_than_s=0)
    assert left(store.home) == [2]
    assert (outside / "samples.parquet").exists()


def test_what_a_killed_turn_left_halfway_is_removed_by_the_next(store: Store) -> None:
    gone = write(store.home, record(1))
    gone.rename(gone.with_name(f".removed-{gone.name}"))
    write(store.home, record(2))
    prune(store, now(30), keep_last=1, older_than_s=0)
    assert sorted(path.name for path in (store.home / FOLDER).iterdir()) == [".lock", record(2).run_id]


def test_a_list_that_cannot_be_read_protects_all(store: Store) -> None:
    for day in (1, 2):
        write(store.home, record(day))
    (store.home / BASELINES).mkdir()
    with pytest.raises(IsADirectoryError):
        prune(store, now(30), keep_last=1, older_than_s=0)
    assert left(store.home) == [1, 2]
