"""The notebooks, run over fixed data: figures as worked out by hand, charts, pages that work offline."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from reports import render
from reports.places import NoSuchRun
from reports.render import NOTEBOOKS, ReportFailed, execute, inject
from scripts.dev.check_notebooks import look_at
from tests.reports.conftest import Made

STORIES = ("latency", "soak", "flood", "compare", "audit", "acceptance", "calibration")
CHARTS = {"latency": 5, "soak": 6, "flood": 5, "compare": 3, "audit": 6, "acceptance": 1, "calibration": 1}
ADDRESS = re.compile(r"(?:https?:)?//[a-z]|@import|url\((?!#)", re.IGNORECASE)


def test_there_are_no_others() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(STORIES)


@pytest.mark.parametrize("story", STORIES)
def test_a_notebook_is_kept_without_outputs_and_begins_with_its_parameters(story: str) -> None:
    notebook = nbformat.read(NOTEBOOKS / f"{story}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert list(look_at(notebook)) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda cells: cells[2].outputs.append({}), "has outputs"),
        (lambda cells: cells[2].update(execution_count=1), "has outputs"),
        (lambda cells: cells[2].update(source="def f(): ..."), "defines something"),
        (lambda cells: cells.pop(0), "not tagged"),
    ],
)
def test_what_a_notebook_must_not_hold_is_found(
    change: Callable[[list[nbformat.NotebookNode]], None], says: str
) -> None:
    notebook = nbformat.read(NOTEBOOKS / "latency.ipynb", as_version=4)
    change(notebook.cells)
    assert any(says in finding for finding in look_at(notebook))


@pytest.mark.parametrize("story", STORIES)
def test_a_page_needs_nothing_from_elsewhere(made: dict[str, Made], story: str) -> None:
    page = made[story].page
    assert ADDRESS.findall(re.sub(r"data:image/png;base64,[^\"]*", "", page)) == []
    for word in ("<script", " src=", " onload", "<link", "<iframe"):
        assert word not in page
    assert "default-src 'none'" in page
    assert len(page) < 600_000
    assert "Traceback" not in page


@pytest.mark.parametrize("story", STORIES)
def test_charts_are_drawn(made: dict[str, Made], story: str) -> None:
    svgs = re.findall(r"<svg.*?</svg>", made[story].page, re.DOTALL)
    assert len(svgs) == CHARTS[story]
    assert all('role="img"' in svg and svg.count("<path") + svg.count("<text") >= 2 for svg in svgs)


@pytest.mark.parametrize("story", STORIES)
def test_the_notebook_beside_the_page_names_no_folder_of_this_machine(made: dict[str, Made], story: str) -> None:
    for path in (made[story].report.notebook, made[story].report.html):
        assert str(path.parents[2]) not in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_latency_has_the_figures_worked_out_by_hand(made: dict[str, Made]) -> None:
    """10,000 reads of 1 to 100 ms; 200 writes of 5 ms, of which two were never answered; all sent 0.2 ms late."""
    read, write = made["latency"].table("Response time (ms)")
    assert [read[name] for name in ("count", "errors", "p50", "p95", "p99", "max", "note")] == [
        10_000,
        0,
        50,
        95,
        99,
        100,
        "",
    ]
    assert [write[name] for name in ("count", "errors", "p50", "max", "note")] == [200, 2, 5, 5, "few answers"]
    assert read["p99_low"] <= 99 <= read["p99_high"]
    caption = "Service time (ms): without the wait before the sending"
    assert made["latency"].table(caption)[0]["p50"] == pytest.approx(49.8)
    assert made["latency"].verdicts["read_p95<200"] is True


def test_soak_has_the_gap_the_repeat_and_the_slope(made: dict[str, Made]) -> None:
    together = {row["what"]: row["value"] for row in made["soak"].table("All clients together")}
    assert together == {
        "clients": 5,
        "received": 5000,
        "missing": 1,
        "repeated": 1,
        "broken": 0,
        "longest_silence_s": 0.2,
    }
    slopes = {row["what"]: row for row in made["soak"].table("Slopes")}
    assert (slopes["rss_bytes"]["per_hour"], slopes["rss_bytes"]["unit"]) == (pytest.approx(3.6e6 / 1024**2), "MiB")
    assert [slopes[name]["grows"] for name in ("rss_bytes", "fds", "loop_lag_ms", "log_bytes")] == [
        True,
        False,
        False,
        True,
    ]
    assert made["soak"].verdicts["rss<1"] is False
    assert not made["soak"].report.ok


def test_flood_shows_that_reads_took_twice_as_long(made: dict[str, Made]) -> None:
    rows = {row["phase"]: row for row in made["flood"].table("Everybody else (ms)")}
    assert {phase: (row["p50"], row["p95"], row["p99"]) for phase, row in rows.items()} == {
        "before": (50, 95, 99),
        "during": (100, 190, 198),
        "after": (50, 95, 99),
    }
    (flood,) = made["flood"].table("The flood (ms)")
    assert (flood["count"], flood["p99"]) == (500, 1)
    assert "500 401" in made["flood"].page


def test_compare_tells_reads_from_writes(made: dict[str, Made]) -> None:
    rows = {(row["kind"], row["measure"]): row for row in made["compare"].table("Medians over runs (ms)")}
    assert rows["read", "p95"]["says"] == "slower"
    assert rows["read", "p95"]["change_%"] == pytest.approx(50)
    assert rows["write", "p95"]["says"] == "no difference shown"
    assert made["compare"].verdicts["read p99 did not become slower"] is False
    assert made["compare"].verdicts["write p99 did not become slower"] is True


def test_audit_counts_what_the_log_holds(made: dict[str, Made]) -> None:
    rounds = made["audit"].table("Rounds")
    assert [row["approved"] for row in rounds] == [2, 1]
    seconds = {row["step"]: row["median"] for row in made["audit"].table("Seconds")}
    assert list(seconds.values()) == [2, 10, 20, 60]
    (away,) = made["audit"].table("Refused requests and deliveries (counted)")
    assert (away["route"], away["count"]) == ("/webhooks/github", 7)
    coverage = {row["what"]: (row["held"], row["of"]) for row in made["audit"].table("Of all attempts")}
    assert coverage["criteria that an operation names"] == (12, 12)
    assert coverage["ACKs that repeat the dispatch"] == (6, 6)
    chain = {row["what"]: row["value"] for row in made["audit"].table("From the first line to the last")}
    assert (chain["problem"], chain["missing seqs"], chain["unreadable"]) == (None, 0, 0)
    assert made["audit"].verdicts["the chain holds"] is True
    assert made["audit"].report.ok


def test_acceptance_says_what_failed_and_what_it_cannot_show(made: dict[str, Made]) -> None:
    assert made["acceptance"].verdicts == {"truth and gate": True, "stream": False}
    (lack,) = made["acceptance"].table("Not shown")
    assert lack == {"module": "stream", "what": "two hours: this took 20 s"}
    assert "seq 5 &lt;is&gt; missing" in made["acceptance"].page


def test_reports_lie_where_they_are_looked_for(made: dict[str, Made], everything: Path) -> None:
    reports = everything / "reports"
    assert made["soak"].report.html == reports / "runs" / "soak-1" / "report.html"
    assert re.fullmatch(r"\d{8}T\d{6}Z", made["audit"].report.html.parent.name)
    assert made["acceptance"].report.html == reports / "acceptance.html"
    assert [path.name for path in reports.rglob("*.tmp")] == []


def test_values_are_injected_behind_the_parameters() -> None:
    notebook = nbformat.read(NOTEBOOKS / "compare.ipynb", as_version=4)
    inject(notebook, {"candidate": ["a'b"], "least": 0.2})
    assert notebook.cells[1].source == 'candidate = ["a\'b"]\nleast = 0.2'
    assert notebook.cells[1].metadata.tags == ["injected-parameters"]
    with pytest.raises(ReportFailed, match="no parameter worst"):
        inject(notebook, {"worst": 1})


def test_a_cell_that_fails_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("raise ValueError('no such thing')")])
    with pytest.raises(ReportFailed, match="ValueError: no such thing"):
        execute(broken, tmp_path)
    with pytest.raises(NoSuchRun, match="no run"):
        render.report_run("nope", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_shows_what_was_missed_and_how_sure_that_is(made: dict[str, Made]) -> None:
    report = made["calibration"]
    rates = {row["measure"]: row for row in report.table("Rates")}
    assert (rates["bad work approved"]["count"], rates["bad work approved"]["of"]) == (1, 4)
    assert report.table("Missed, by defect")[0]["defect"] == "off by one"
    assert [row["name"] for row in report.table("Decided wrongly")] == ["bad/one"]
    assert report.verdicts["miss<=0.1"] is False
