"""Run records as the load flows leave them: read as they are, refused where they are none."""

from __future__ import annotations

from pathlib import Path

import pytest

import reports
from reports import comparing
from reports.places import NoSuchRun
from tests.reports import data


def test_samples_know_response_service_and_lag(tmp_path: Path) -> None:
    data.a_run(tmp_path, "r-1", data.unanswered(data.operations([10.0, 20.0, 30.0], wait_us=4000), [2]))
    samples = reports.samples("r-1", tmp_path)
    assert samples["response_ms"].tolist()[:2] == [10.0, 20.0]
    assert samples["service_ms"].tolist()[:2] == [6.0, 16.0]
    assert samples["lag_ms"].tolist() == [4.0, 4.0, 4.0]
    assert samples["response_ms"].isna().tolist() == [False, False, True]
    assert str(samples["kind"].dtype) == "category"


@pytest.mark.parametrize("none", ["", None])
def test_an_empty_error_is_none(tmp_path: Path, none: str | None) -> None:
    data.a_run(tmp_path, "r-1", data.operations([1.0, 2.0], error=[none, "http_500"]))
    samples = reports.samples("r-1", tmp_path)
    assert samples["error"].isna().tolist() == [True, False]


def test_a_run_that_just_began_is_read(tmp_path: Path) -> None:
    unknown = {
        "finished_at": None,
        "outcome": None,
        "log_seq": None,
        "results": {},
        "thresholds": [],
        "git_commit": None,
    }
    data.a_run(
        tmp_path, "r-1", data.operations([1.0]), state="running", later="unknown fields are left aside", **unknown
    )
    assert reports.record("r-1", tmp_path).log_seq is None


def test_a_calibration_is_not_taken_for_the_newest_load_run(tmp_path: Path) -> None:
    data.a_calibration(tmp_path)
    with pytest.raises(NoSuchRun):
        reports.record(home=tmp_path)
    assert reports.record(home=tmp_path, kind="calibration").run_id == "calibration-1"


def test_what_was_never_sent_has_no_times(tmp_path: Path) -> None:
    found = data.operations([1.0])
    found[["sent_us", "done_us"]] = -1
    data.a_run(tmp_path, "r-1", found)
    row = reports.samples("r-1", tmp_path).iloc[0]
    assert row[["response_ms", "service_ms", "lag_ms"]].isna().all()


def test_runs_are_listed_the_oldest_first(tmp_path: Path) -> None:
    data.latency_run(tmp_path, "b", started_at="2026-11-01T09:00:00Z", finished_at="2026-11-01T09:01:30Z")
    data.latency_run(tmp_path, "a", started_at="2026-11-01T10:00:00Z", finished_at=None, state="running", outcome=None)
    (tmp_path / "reports" / "runs" / "half").mkdir()
    (tmp_path / "reports" / "runs" / "half" / "run.json").write_text('{"run_id": "half"')
    runs = reports.runs(tmp_path)
    assert runs["run_id"].tolist() == ["b", "a"]
    assert runs["duration_s"].tolist()[0] == 90
    assert runs["duration_s"].isna().tolist() == [False, True]
    assert reports.record("", tmp_path).run_id == "a"


@pytest.mark.parametrize("name", ["nope", "", "../r-1", "r-1/..", "/etc", ".", "r-1\n"])
def test_what_is_no_run_is_refused_with_what_there_is(tmp_path: Path, name: str) -> None:
    data.a_run(tmp_path, "r-1", data.operations([1.0]))
    with pytest.raises(NoSuchRun, match="1 run is there"):
        reports.samples(name, tmp_path)


def test_a_run_without_series_has_none(tmp_path: Path) -> None:
    data.a_run(tmp_path, "r-1", data.operations([1.0]))
    assert reports.series("r-1", tmp_path).empty


def test_the_newest_commit_is_compared_with_older_runs_of_its_kind(tmp_path: Path) -> None:
    data.runs_to_compare(tmp_path)
    groups = comparing.groups(home=tmp_path)
    assert [run.git_commit for run in groups["candidate"]] == ["bbbb"] * 5
    assert [run.git_commit for run in groups["baseline"]] == ["aaaa"] * 5
    named = comparing.groups(["stress-bbbb-0"], ["stress-invalid"], tmp_path)
    assert comparing.left_out(named)["run_id"].tolist() == ["stress-invalid"]
    assert comparing.samples_of(named, tmp_path)["baseline"] == []


def test_slower_reads_are_told_and_equal_writes_are_not(tmp_path: Path) -> None:
    """Reads take half as long again: 101 ms, 102 … against 151.5 and so on; the third of five is the median."""
    data.runs_to_compare(tmp_path)
    figures = comparing.per_run(comparing.samples_of(comparing.groups(home=tmp_path), tmp_path))
    told = comparing.differences(figures).set_index(["kind", "measure"])
    read = told.loc[("read", "p95")]
    assert (read["says"], read["runs"]) == ("slower", "5 against 5")
    assert (read["baseline"], read["candidate"]) == (pytest.approx(95 * 1.02), pytest.approx(95 * 1.02 * 1.5))
    assert read["p"] == pytest.approx(2 / 252)
    assert told.loc[("write", "p95"), "says"] == "no difference shown"


def test_without_a_run_nothing_is_compared(tmp_path: Path) -> None:
    with pytest.raises(NoSuchRun, match="nothing can be compared"):
        comparing.groups(home=tmp_path)
