"""A load run's record as a block of docs/PERFORMANCE.md: what `kircerta load` measured, not measured again here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

import reports
from benchmarks import Row, for_information
from reports.records import Run
from reports.statistics import slope
from ssot.runs import RunRecord, warm_up

MIB = 1024 * 1024


def read(folder: Path) -> tuple[RunRecord, list[Row]]:
    """A run's record and its rows. `folder` is reports/runs/<run id> of its workspace."""
    home, run_id = folder.absolute().parents[2], folder.name
    record = RunRecord.model_validate_json((folder / "run.json").read_bytes())
    return record, list(_rows(record, reports.record(run_id, home), reports.series(run_id, home)))


def head(record: RunRecord) -> str:
    """What ran, when, on which commit and machine, and what else used the machine meanwhile."""
    lasted = record.measures.get("lasted_s", 0.0)
    others = ", ".join(f"{one['name']} {one['cpu_share']:.0%}" for one in record.machine.get("others", [])[:3])
    machine = f"{record.machine['cores']} cores, {record.machine['system']}, Python {record.versions['python']}"
    changed = " with changes" if record.git_dirty else ""
    return (
        f"`kircerta load {record.kind}`: {record.run_id}, {lasted / 60:,.0f} min, outcome **{record.outcome}**, "
        f"commit {(record.git_commit or 'unknown')[:12]}{changed}, {machine}. "
        f"Others had {record.measures.get('foreign_cpu', 0.0):.0%} of the machine ({others})."
    )


def _rows(record: RunRecord, run: Run, series: pd.DataFrame) -> Iterator[Row]:
    for bound in (*record.thresholds, *record.gates):
        measure = re.split("[<>=!]", bound.expression, maxsplit=1)[0]
        yield Row(measure, bound.value or 0.0, "", target=bound.expression.removeprefix(measure), ok=bound.ok)
    for kind, of_kind in record.results.items():
        median = f"p50 {of_kind.p50_ms:g} ms, p95 {of_kind.p95_ms:g} ms, max {of_kind.max_ms:,.0f} ms"
        yield for_information(f"{kind}, p99 of {of_kind.count:,}", of_kind.p99_ms or 0.0, "ms", median)
    left_out = warm_up(record.measures.get("lasted_s", 0.0))
    yield from _growth(series, f"without the first {left_out:.0%} of the run, in which caches fill")


def _growth(series: pd.DataFrame, part: str) -> Iterator[Row]:
    names = {"rss_bytes": ("the server's memory at the end", MIB, "MiB"), "fds": ("its open files at the end", 1, "")}
    for name, (says, size, unit) in names.items():
        values = series.loc[series["name"] == name, "value"] / size
        found = slope(series, name)
        if values.empty:
            continue
        middle = values.iloc[len(values) // 2]
        told = f"{values.iloc[0]:,.0f} at the beginning, {middle:,.0f} in the middle"
        yield for_information(says, float(values.iloc[-1]), unit, told)
        interval = f"{found.low / size:+.2f} to {found.high / size:+.2f}"
        yield for_information(f"its growth an hour, {part}", found.per_hour / size, unit, interval)
