"""Runs against runs: which ones, the figures of each, and whether they differ. Reads records, writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import pandas as pd

from reports.places import Home, NoSuchRun
from reports.records import Run, all_runs, record, samples
from reports.statistics import difference, percentile

MEASURES: Final = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
Groups = dict[str, list[Run]]


def groups(candidate: Sequence[str] = (), baseline: Sequence[str] = (), home: Home = None) -> Groups:
    """The two groups of runs: ``baseline`` and ``candidate``.

    Args:
        candidate: run ids; without any, the newest valid run and those of the same commit and kind.
        baseline: run ids; without any, every older valid run of that kind and configuration.
    """
    known = [run for run in all_runs(home) if run.is_valid]
    if not known and not candidate:
        raise NoSuchRun("there is no run that came to its end and whose generator kept up: nothing can be compared")
    chosen = [record(one, home) for one in candidate] or _like(known[-1], known)
    if baseline:
        return {"baseline": [record(one, home) for one in baseline], "candidate": chosen}
    first, ids = chosen[0], {run.run_id for run in chosen}
    older = [run for run in known if run.run_id not in ids and run.kind == first.kind and run.config == first.config]
    return {"baseline": older, "candidate": chosen}


def _like(newest: Run, known: Sequence[Run]) -> list[Run]:
    """The newest run and its repetitions: same kind, configuration and commit, from a clean tree."""
    if newest.git_commit is None or newest.git_dirty:
        return [newest]
    wanted = (newest.kind, newest.git_commit, newest.config)
    return [run for run in known if (run.kind, run.git_commit, run.config) == wanted and not run.git_dirty]


def listed(chosen: Groups) -> pd.DataFrame:
    """The runs of each group. Columns: group, run_id, started_at, commit, outcome."""
    rows = [
        (name, run.run_id, run.started_at, run.git_commit, run.outcome) for name, of in chosen.items() for run in of
    ]
    return pd.DataFrame(rows, columns=["group", "run_id", "started_at", "commit", "outcome"])


def left_out(chosen: Groups) -> pd.DataFrame:
    """The runs that must not be compared, and why. Columns: group, run_id, why."""
    rows = [
        {"group": name, "run_id": run.run_id, "why": f"{run.state}, outcome {run.outcome}"}
        for name, of in chosen.items()
        for run in of
        if not run.is_valid
    ]
    return pd.DataFrame(rows, columns=["group", "run_id", "why"])


def samples_of(chosen: Groups, home: Home = None) -> dict[str, list[pd.DataFrame]]:
    """Each group's samples, a table a run; runs that must not be compared are left out."""
    return {name: [samples(run.run_id, home) for run in of if run.is_valid] for name, of in chosen.items()}


def per_run(measured: Mapping[str, Sequence[pd.DataFrame]], column: str = "response_ms") -> pd.DataFrame:
    """The figures of each run and kind: one run is one observation.

    Columns: group, run (number in its group), kind, count (answered), p50, p95, p99, max (of `column`, ms).
    """
    rows = []
    for name, of in measured.items():
        for number, found in enumerate(of):
            for kind, group in found[found["kind"] != "calibration"].groupby("kind"):
                figures = {measure: percentile(group[column], q) for measure, q in MEASURES.items()}
                rows.append(
                    {"group": name, "run": number, "kind": str(kind), "count": group[column].count(), **figures}
                )
    return pd.DataFrame(rows, columns=["group", "run", "kind", "count", *MEASURES])


def differences(
    figures: pd.DataFrame, measures: Sequence[str] = ("p50", "p95", "p99"), *, least: float = 0.1
) -> pd.DataFrame:
    """Whether each kind's figures differ between the groups: a permutation test over runs.

    Columns: kind, measure, baseline, candidate (medians over runs, ms), change (%), p (missing under five runs a side),
    runs (how many against how many), says.
    """
    rows = []
    for kind in dict.fromkeys(figures["kind"]):
        of = figures[figures["kind"] == kind]
        if of["group"].nunique() < 2:
            continue  # one side has none of it
        for measure in measures:
            sides = (of.loc[of["group"] == name, measure].to_numpy() for name in ("baseline", "candidate"))
            told = difference(*sides, least=least)
            rows.append(
                {
                    "kind": kind,
                    "measure": measure,
                    "baseline": told.before,
                    "candidate": told.after,
                    "change_%": told.change * 100,
                    "p": told.p,
                    "runs": f"{told.runs[0]} against {told.runs[1]}",
                    "says": told.says,
                }
            )
    return pd.DataFrame(rows, columns=["kind", "measure", "baseline", "candidate", "change_%", "p", "runs", "says"])
