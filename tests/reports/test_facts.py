"""The log as a table: what its columns say, and what becomes of lines that are none."""

from __future__ import annotations

import time
from pathlib import Path

import orjson
import pytest

import reports
from cli.scenario import play
from reports import work
from reports.facts import SCHEMA, events
from reports.lines import Lines
from tests.builders import Ticks, Walk, a_store, create, operation


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log in which every type of event occurs."""
    home = tmp_path_factory.mktemp("scenario")
    play(home)
    return home


def log_of(home: Path) -> Path:
    return home / "audit" / "events.jsonl"


def test_every_event_is_a_row_in_the_logs_order(scenario: Path) -> None:
    log = events(scenario)
    lines = [orjson.loads(line) for line in log_of(scenario).read_bytes().splitlines()]
    assert log["seq"].tolist() == [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    for column in ("id", "type", "actor", "source"):
        assert log[column].astype("str").tolist() == [line[column] for line in lines]
    assert log["subject"].dropna().tolist() == [line["subject"] for line in lines if "subject" in line]
    assert log["time_us"].iloc[0] == 1_793_520_001_000_000
    assert str(log["time_us"].dtype) == str(log["seq"].dtype) == "int64"
    assert log.attrs == {"unreadable": 0, "torn_bytes": 0}


def test_what_matters_of_the_data_stands_in_columns(scenario: Path) -> None:
    log = events(scenario)
    first = {name: log[log["type"] == name].iloc[0] for name in log["type"].astype("str").unique()}
    dispatch = first["task_dispatched"]
    told = dispatch[["attempt", "dispatch_id", "executor", "reviewer", "criteria", "issues"]]
    assert told.tolist() == [1, "d-1", "fake", "fake", 1, 0]
    assert first["task_redispatched"][["attempt", "issues"]].tolist() == [2, 1]
    assert first["result_received"][["outcome", "operations", "dispatch_id"]].tolist() == ["completed", 2, "d-1"]
    assert first["verdict_received"]["decision"] == "approve"
    assert first["task_approved"][["decision", "attempt", "digest_given"]].tolist() == ["approved", 1, True]
    assert first["ack_timeout"]["reason"] == "ack_timeout"
    assert first["task_restored"]["reason"] == "removed"
    assert first["move_refused"][["move", "code"]].tolist() == ["reject", "invalid_transition"]
    assert first["webhook_rejected"][["count", "address", "route"]].tolist() == [500, "203.0.113.7", "/webhooks/github"]
    assert first["webhook_ignored"][["sender", "delivery_kind", "reason"]].tolist() == [
        "github",
        "star.created",
        "not_followed",
    ]
    assert first["alert"][["alarm", "state"]].tolist() == ["low_disk", "raised"]
    assert work.alarms(log)["reason"].tolist() == ["400 MiB are free"]
    assert first["task_created"][["attempt", "count"]].tolist() == [-1, 1]


def test_a_torn_tail_is_no_line_yet(tmp_path: Path) -> None:
    play(tmp_path)
    whole = events(tmp_path)
    with log_of(tmp_path).open("ab") as log:
        log.write(b'{"specversion":"1.0","id":"e-')
    torn = events(tmp_path)
    assert torn.attrs["torn_bytes"] == 29
    assert len(torn) == len(whole)


def test_lines_that_are_no_event_are_left_out_and_counted(tmp_path: Path) -> None:
    play(tmp_path)
    lines = log_of(tmp_path).read_bytes().splitlines()
    lines[3] = b"not json"
    lines[5] = b'{"seq":6}'
    lines[7] = lines[7].replace(b'"time":"2026-', b'"time":"someday-')
    lines[9] = lines[9].replace(b'"time":"2026-11', b'"time":"2026-13')
    log_of(tmp_path).write_bytes(b"\n".join(lines) + b"\n")
    log = events(tmp_path)
    assert log.attrs["unreadable"] == 4
    assert set(range(1, len(lines) + 1)) - set(log["seq"]) == {4, 6, 8, 10}


def test_a_field_of_another_type_is_missing_and_the_rest_of_its_line_is_there(tmp_path: Path) -> None:
    play(tmp_path)
    lines = log_of(tmp_path).read_bytes().splitlines()
    lines[1] = lines[1].replace(b'"attempt":1', b'"attempt":"one"')
    log_of(tmp_path).write_bytes(b"\n".join(lines) + b"\n")
    row = events(tmp_path).iloc[1]
    assert row[["type", "attempt", "executor"]].tolist() == ["task_dispatched", -1, "fake"]


def test_segments_are_one_log(tmp_path: Path) -> None:
    store = a_store(tmp_path, segment_bytes=65536)
    for number in range(80):
        Walk(store, f"T-{number}").create(request_text="words " * 300)
    store.close()
    assert len(list((tmp_path / "audit").glob("events-*.jsonl"))) > 0
    assert events(tmp_path)["seq"].tolist() == list(range(1, 81))


def test_what_did_not_fit_its_line_is_read_from_its_blob(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    walk = Walk(store)
    walk.create()
    walk.dispatch()
    walk.ack()
    walk.result(
        work_log=tuple(
            operation(number, detail="word " * 50, criterion_refs=("AC-1", "AC-2")) for number in range(1, 301)
        )
    )
    store.close()
    assert b'"in_blob"' in log_of(tmp_path).read_bytes()
    row = events(tmp_path).iloc[-1]
    assert row[["type", "outcome", "operations"]].tolist() == ["result_received", "completed", 300]


def test_a_workspace_without_a_log_has_no_events(tmp_path: Path) -> None:
    log = events(tmp_path)
    assert log.empty
    assert list(log.columns)[:5] == ["seq", "id", "time_us", "type", "subject"]
    assert reports.attempts(log=log).empty
    assert reports.coverage(tmp_path).empty
    assert reports.issues(tmp_path).empty
    assert reports.tasks(tmp_path).empty
    assert reports.runs(tmp_path).empty


def test_only_the_types_asked_for_are_parsed(scenario: Path) -> None:
    found = [event["type"] for event in Lines(scenario).events("task_created", "alert")]
    assert set(found) == {"task_created", "alert"}
    assert found.count("task_created") == int(events(scenario)["type"].eq("task_created").sum())


def test_the_documented_columns_are_the_columns(scenario: Path) -> None:
    for table in (events(scenario), reports.attempts(scenario), reports.coverage(scenario), reports.issues(scenario)):
        assert len(table) > 0
    for function, table in (
        (events, events(scenario)),
        (reports.attempts, reports.attempts(scenario)),
        (reports.coverage, reports.coverage(scenario)),
        (reports.issues, reports.issues(scenario)),
        (reports.tasks, reports.tasks(scenario)),
        (reports.runs, reports.runs(scenario)),
    ):
        told = function.__doc__ or ""
        assert [name for name in table.columns if name not in told] == [], function.__name__


def test_a_task_is_a_row_of_its_file(scenario: Path) -> None:
    tasks = reports.tasks(scenario).set_index("task_id")
    assert tasks.loc["T-1", ["status", "source", "attempts", "criteria"]].tolist() == ["approved", "manual", 1, 1]
    log = events(scenario)
    changed = log[(log["subject"] == "T-1") & (log["type"] == "landing_resumed")]["time_us"]
    assert tasks.loc["T-1", "created_us"] == log["time_us"].iloc[0] == 1_793_520_001_000_000
    assert tasks.loc["T-1", "updated_us"] == changed.iloc[-1]
    assert "T-4" not in tasks.index  # its file does not parse


def test_events_are_narrowed_by_what_notebooks_ask_for() -> None:
    assert SCHEMA.names == ["seq", "id", "time", "type", "subject", "actor", "source", "correlationid", "data"]


@pytest.mark.slow
def test_a_million_events_load_in_seconds(tmp_path: Path) -> None:
    ticks = Ticks(step=0.0)
    store = a_store(tmp_path, ticks=ticks)
    for number in range(20):
        walk = Walk(store, f"T-{number}")
        walk.do(create())
        walk.to_gate()
        walk.approve()
    store.close()
    some = log_of(tmp_path).read_bytes()
    times = -(-1_000_000 // some.count(b"\n"))
    with log_of(tmp_path).open("wb") as log:
        for _ in range(times):
            log.write(some)
    began = time.process_time(), time.monotonic()
    found = events(tmp_path)
    spent, took = time.process_time() - began[0], time.monotonic() - began[1]
    log_of(tmp_path).unlink()
    assert len(found) >= 1_000_000
    assert spent < 30, f"{len(found):,} events took {spent:.1f} s of CPU, {took:.1f} s in all"
