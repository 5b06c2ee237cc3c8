"""`kircerta report`."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Run
from tests.reports import data


def test_a_report_is_written_and_its_verdicts_printed(run: Run, home: Path) -> None:
    data.latency_run(home)
    made = run("report", "stress-1")
    assert made.code == 0
    lines = made.out.splitlines()
    assert lines[-1] == str(home / "reports" / "runs" / "stress-1" / "report.html")
    assert any(line.split() == ["ok", "read_p95<200", "95"] for line in lines)
    assert Path(lines[-1]).read_text().startswith("<!doctype html>")
    assert Path(lines[-1]).with_suffix(".ipynb").is_file()


def test_what_there_is_no_run_of_is_wrong_use(run: Run, home: Path) -> None:
    for arguments in (("nope",), ("../x",), ("acceptance",), ("audit", "--against", "x"), ()):
        refused = run("report", *arguments)
        assert refused.code == 2, arguments
    assert "there are no runs yet" in run("report", "nope").err
    assert "`kircerta accept` makes one" in run("report", "acceptance").err


def test_runs_are_compared_with_those_that_are_named_and_machines_get_json(run: Run, home: Path) -> None:
    data.latency_run(home, "a")
    data.latency_run(home, "b")
    told = run("report", "b", "--against", "a", "--json").json
    assert (told["title"], told["ok"], told["address"]) == ("Comparison", True, "reports/runs/b/compare.html")
    assert Path(told["html"]) == home / told["address"]
    assert {one["ok"] for one in told["verdicts"]} == {None}
    assert "too few runs" in told["verdicts"][0]["value"]
    assert run("report", "b", "--against", "c").code == 2
