"""One workspace with every kind of record, and the notebooks run over it once, two at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest

from reports import render
from reports.render import Report
from reports.tables import TABLE
from tests.reports import data

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Made:
    """A report as it was written: its page, its notebook, and the tables in it."""

    report: Report

    @property
    def page(self) -> str:
        return self.report.html.read_text()

    @property
    def verdicts(self) -> dict[str, bool | None]:
        return {one["what"]: one["ok"] for one in self.report.verdicts}

    def table(self, caption: str) -> Rows:
        """A table's rows by its caption."""
        notebook = nbformat.read(self.report.notebook, as_version=4)
        for cell in notebook.cells:
            for output in cell.get("outputs", ()):
                found = output.get("data", {}).get(TABLE)
                if found and found["caption"] == caption:
                    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
        raise AssertionError(f"{self.report.notebook.name} has no table {caption!r}")


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("everything")
    data.everything(home)
    return home


@pytest.fixture(scope="session")
def made(everything: Path) -> dict[str, Made]:
    """Every notebook's report, by the notebook's name."""
    home = everything
    work: dict[str, Callable[[], Report]] = {
        "latency": lambda: render.report_run("stress-1", home),
        "soak": lambda: render.report_run("soak-1", home),
        "flood": lambda: render.report_run("flood-1", home),
        "compare": lambda: render.render(
            "compare", {"candidate": COMMIT_B, "baseline": COMMIT_A}, home / "out", home=home
        ),
        "audit": lambda: render.report_audit(home),
        "acceptance": lambda: render.report_acceptance(home),
        "calibration": lambda: render.report_run("calibration-1", home),
    }
    with ThreadPoolExecutor(max_workers=2) as pool:
        reports = {name: pool.submit(make) for name, make in work.items()}
        return {name: Made(report.result()) for name, report in reports.items()}


COMMIT_A = [f"stress-aaaa-{number}" for number in range(5)]
COMMIT_B = [f"stress-bbbb-{number}" for number in range(5)]
