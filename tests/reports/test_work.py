"""What became of each attempt, against a log of which every event is known."""

from __future__ import annotations

from pathlib import Path

import orjson
import pandas as pd
import pytest

import reports
from reports import evidence, streams, verdicts, work
from reports.records import Run, with_times
from ssot.runs import task_prefix
from tests.reports import data


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    data.a_log(folder)
    return folder


@pytest.fixture(scope="module")
def attempts(home: Path) -> pd.DataFrame:
    return reports.attempts(home)


def test_each_step_of_an_attempt_has_its_time_and_its_person(attempts: pd.DataFrame) -> None:
    first = attempts[attempts["task_id"] == "T-1"].iloc[0]
    spans = first[["to_ack_s", "to_result_s", "to_verdict_s", "to_decision_s"]]
    assert spans.tolist() == [2.0, 10.0, 20.0, 60.0]
    people = first[["acked_by", "reviewed_by", "decided_by"]]
    assert people.tolist() == ["fake-executor", "fake-reviewer", "alice"]
    assert first[["verdict", "decision", "outcome", "operations"]].tolist() == ["approve", "approved", "completed", 2]


def test_a_second_attempt_is_told_from_the_first(attempts: pd.DataFrame) -> None:
    third = attempts[attempts["task_id"] == "T-3"]
    assert third["attempt"].tolist() == [1, 2]
    assert third["decision"].tolist() == ["rejected", "approved"]
    assert third["again"].tolist() == [False, True]
    assert third["forwarded"].tolist() == [0, 2]
    assert third["refused"].tolist() == [1, 0]


def test_an_attempt_that_ended_got_no_further(attempts: pd.DataFrame) -> None:
    ended = attempts[attempts["task_id"] == "T-6"].iloc[0]
    assert ended["ended"] == "ack_timeout"
    assert ended[["acked_us", "decided_us"]].tolist() == [-1, -1]


def test_the_funnel_counts_how_far_attempts_got(attempts: pd.DataFrame) -> None:
    """Seven attempts: T-6 was never acknowledged, T-5 waits at the gate; T-1, T-2 and T-3 were approved."""
    funnel = work.funnel(attempts)
    assert funnel["count"].tolist() == [7, 6, 6, 6, 5, 3]
    assert funnel["share"].iloc[-1] == pytest.approx(3 / 7)


def test_rounds_tell_what_became_of_first_and_second_attempts(attempts: pd.DataFrame) -> None:
    rounds = work.rounds(attempts).set_index("attempt")
    assert rounds.loc[1].to_dict() == {"dispatched": 6, "approved": 2, "rejected": 2, "ended": 1, "open": 1}
    assert rounds.loc[2].to_dict() == {"dispatched": 1, "approved": 1, "rejected": 0, "ended": 0, "open": 0}


def test_people_are_told_apart(attempts: pd.DataFrame) -> None:
    executors = work.by_person(attempts, "acked_by").set_index("who")
    assert executors.loc["fake-executor"].to_dict() == {
        "attempts": 6,
        "refused": 1,
        "issues": 4,
        "approved": 3,
        "rejected": 2,
        "median_s": 10.0,
    }
    assert work.by_person(attempts, "decided_by")["median_s"].tolist() == [60.0]


def test_waits_are_those_of_the_clock(attempts: pd.DataFrame) -> None:
    waits = work.waits(attempts).set_index("step")
    assert waits["median"].tolist() == [2.0, 10.0, 20.0, 60.0]
    assert waits["count"].tolist() == [6, 6, 6, 5]


def test_counted_refusals_are_summed(home: Path) -> None:
    log = reports.events(home)
    assert work.turned_away(log)["count"].tolist() == [7]
    assert work.refusals(log)[["type", "code", "count"]].to_numpy().tolist() == [["ack_mismatch", "ack_mismatch", 1]]
    assert int(work.per_time(log)["count"].sum()) == len(log) + 5


def test_a_slice_of_time_has_a_beginning_and_an_end(home: Path) -> None:
    log = reports.events(home)
    middle = "2025-06-15T15:10:00Z"
    before, after = work.within(log, "time_us", until=middle), work.within(log, "time_us", since=middle)
    assert len(before) + len(after) == len(log)
    assert before["time_us"].max() < work.micros_of(middle) <= after["time_us"].min()
    with pytest.raises(ValueError, match="someday"):
        work.micros_of("someday")


def test_what_load_runs_did_with_their_own_tasks_is_nobodys_work() -> None:
    own = f"{task_prefix('soak-20260131T090000Z-0f3a9c')}17"
    table = pd.DataFrame({"task_id": ["T-1", own, None, "load-my-cart"]})
    assert work.of_people(table, "task_id").index.to_list() == [0, 2, 3]
    assert len(work.of_people(table, "task_id", load_runs=True)) == 4


def test_coverage_follows_what_points_at_what(home: Path) -> None:
    """Two criteria each, and the work names both; the rejected attempts' two issues go on, word for word."""
    coverage = reports.coverage(home).set_index(["task_id", "attempt"])
    first, second = coverage.loc[("T-3", 1)], coverage.loc[("T-3", 2)]
    assert first[["criteria", "touched", "operations", "pointing", "issues", "founded"]].tolist() == [2, 2, 2, 2, 2, 2]
    assert second[["due", "forwarded", "verbatim", "echoed"]].tolist() == [2, 2, True, True]
    assert bool(coverage.loc[("T-6", 1), "echoed"] is pd.NA)
    summary = work.coverage_summary(reports.coverage(home)).set_index("what")
    assert summary.loc["issues that name a criterion and an operation", ["held", "of"]].tolist() == [4, 4]
    assert summary.loc["dispatches that carry the issues verbatim", ["held", "of"]].tolist() == [1, 1]


def test_issues_are_told_one_by_one(home: Path) -> None:
    issues = reports.issues(home)
    assert issues["task_id"].tolist() == ["T-3", "T-3", "T-4", "T-4"]
    assert issues["severity"].tolist() == ["major", "blocker"] * 2
    assert set(issues["by"]) == {"fake-reviewer"}


def judged(home: Path) -> dict[str, bool | None]:
    log = reports.events(home)
    found = verdicts.of_log(log, evidence.chain(home), reports.coverage(home), reports.attempts(log=log))
    return {one.what: one.ok for one in found.all}


def test_a_sound_log_is_judged_sound(home: Path) -> None:
    assert False not in judged(home).values()


def test_a_log_that_was_changed_is_told_by_what_it_says(tmp_path: Path) -> None:
    data.a_log(tmp_path)
    log = tmp_path / "audit" / "events.jsonl"
    lines = [orjson.loads(line) for line in log.read_bytes().splitlines()]
    kept = []
    for line in lines:
        if line["type"] == "task_redispatched":
            line["data"]["dispatch"]["issues"][0]["text"] = "something milder"
        if line["type"] == "task_approved" and line["subject"] == "T-2":
            line["actor"] = "fake-executor"
        if line["seq"] == 3:
            continue
        kept.append(orjson.dumps(line))
    log.write_bytes(b"\n".join(kept) + b"\n")
    found = judged(tmp_path)
    for what in ("the chain holds", "no seq is missing", "issues went on verbatim", "nobody decided their own work"):
        assert found[what] is False, what


def test_an_invalid_run_neither_passes_nor_fails() -> None:
    run = {
        "run_id": "r-1",
        "kind": "soak",
        "started_at": "2026-11-01T08:00:00Z",
        "state": "finished",
        "outcome": "invalid",
        "thresholds": [{"expression": "read_p95<200", "value": 900.0, "ok": False}],
    }
    told = {one.what: one.ok for one in verdicts.of_run(Run.model_validate(run)).all}
    assert told == {"the run came to its end": True, "the generator kept up": False, "read_p95<200": None}


def test_a_stream_is_judged_client_by_client() -> None:
    """Five clients of a thousand events; the second lost seq 5 and got seq 7 twice; an event every 100 ms."""
    samples = with_times(data.stream(5, 1000))
    clients = streams.by_client(samples).set_index("client")
    assert clients.loc[1, ["received", "missing", "repeated"]].tolist() == [1000, 1, 1]
    assert clients.loc[0, ["received", "missing", "repeated"]].tolist() == [1000, 0, 0]
    assert clients["longest_silence_s"].tolist() == [0.1, 0.2, 0.1, 0.1, 0.1]
    assert clients["p99"].tolist() == [2.0] * 5
    assert streams.together(samples) == {
        "clients": 5,
        "received": 5000,
        "missing": 1,
        "repeated": 1,
        "broken": 0,
        "longest_silence_s": 0.2,
    }
