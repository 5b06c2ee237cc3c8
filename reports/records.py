"""Runs, their samples and series, the acceptance and the tasks, as the files in the workspace have them. Reads only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson
import pandas as pd
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from reports.places import Home, NoSuchRun, home_of, run_folder

NEVER: Final = -1
"""In samples: it was never sent, or never done."""


class _Read(BaseModel):
    """What others wrote: fields that are not known here are left aside."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=True)


class Threshold(_Read):
    """What a run, or its generator, was held to, and whether it kept to it."""

    expression: str
    value: float | None = None
    ok: bool | None = None


class Result(_Read):
    """What a run itself counted of one kind of operation; milliseconds."""

    count: int = 0
    errors: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None


class Run(_Read):
    """A run's `run.json`."""

    run_id: str
    kind: str
    started_at: str
    finished_at: str | None = None
    state: str = "running"
    outcome: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    machine: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, Any] = Field(default_factory=dict)
    problem: str | None = None
    thresholds: tuple[Threshold, ...] = ()
    gates: tuple[Threshold, ...] = ()
    results: dict[str, Result] = Field(default_factory=dict)
    log_seq: tuple[int, int] | None = None
    alarms: tuple[dict[str, Any], ...] = ()
    not_shown: tuple[str, ...] = ()
    calibration: dict[str, Any] | None = None

    def provoked(self) -> pd.DataFrame:
        """The alarms that the run provoked. Columns: type, task_id, seq (missing: not in the log), time."""
        return pd.DataFrame(self.alarms, columns=["type", "task_id", "seq", "time"])

    @property
    def is_valid(self) -> bool:
        """Whether its figures may be compared: it ran to its end, and its generator kept up."""
        return self.state == "finished" and self.outcome in ("pass", "fail")


class Check(_Read):
    """One check of the acceptance."""

    name: str
    ok: bool
    detail: str = ""


class Module(_Read):
    """One module of the acceptance; `not_shown` is what its short form cannot show."""

    name: str
    ok: bool
    checks: tuple[Check, ...] = ()
    not_shown: tuple[str, ...] = ()


class Acceptance(_Read):
    """`reports/acceptance.json`."""

    ok: bool
    started_at: str
    finished_at: str | None = None
    modules: tuple[Module, ...] = ()


def record(run_id: str = "", home: Home = None, kind: str | None = None) -> Run:
    """One run's record; without an id the newest (of a kind, else any load run). Raises NoSuchRun."""
    if run_id:
        return _run(run_folder(home, run_id) / "run.json")
    # the calibration of a reviewer is no load run: it is found by its kind, or by its id
    found = [run for run in all_runs(home) if (run.kind == kind if kind else run.kind != "calibration")]
    if not found:
        raise NoSuchRun(f"there is no {kind or ''} run in {home_of(home) / 'reports' / 'runs'}".replace("  ", " "))
    return found[-1]


def all_runs(home: Home = None) -> list[Run]:
    """Every record that can be read, the oldest first."""
    found = []
    for path in (home_of(home) / "reports" / "runs").glob("*/run.json"):
        try:
            found.append(_run(path))
        except ValueError:  # half-written by somebody else's tool: no record
            continue
    return sorted(found, key=lambda run: (run.started_at, run.run_id))


def _run(path: Path) -> Run:
    return Run.model_validate_json(path.read_bytes())


def runs(home: Home = None) -> pd.DataFrame:
    """Every run, the oldest first.

    Columns: run_id, kind, started_at (UTC), duration_s (float, missing while it runs), state (``running``,
    ``finished``, ``crashed``), outcome (``pass``, ``fail``, ``invalid``), broken (int: thresholds that did not hold),
    count and errors (int: over all kinds of operation), git_commit, git_dirty.
    """
    rows = []
    for run in all_runs(home):
        began, ended = (pd.Timestamp(moment) if moment else None for moment in (run.started_at, run.finished_at))
        rows.append(
            {
                "run_id": run.run_id,
                "kind": run.kind,
                "started_at": began,
                "duration_s": (ended - began).total_seconds() if began is not None and ended is not None else None,
                "state": run.state,
                "outcome": run.outcome,
                "broken": sum(one.ok is False for one in run.thresholds),
                "count": sum(one.count for one in run.results.values()),
                "errors": sum(one.errors for one in run.results.values()),
                "git_commit": run.git_commit,
                "git_dirty": run.git_dirty,
            }
        )
    return pd.DataFrame(rows, columns=list(_RUN_COLUMNS))


_RUN_COLUMNS: Final = (
    "run_id",
    "kind",
    "started_at",
    "duration_s",
    "state",
    "outcome",
    "broken",
    "count",
    "errors",
    "git_commit",
    "git_dirty",
)


def samples(run_id: str, home: Home = None) -> pd.DataFrame:
    """Every operation of a run, a row each.

    Columns: kind (``read``, ``write``, ``stream``, ``flood``, ``calibration`` …), phase (``main``, or ``before``,
    ``during``, ``after``), client (int32); intended_us, sent_us, done_us (int64, µs since the run began; -1: never);
    status (int16, HTTP), error (missing where it went well), seq (int64: the log's, of a stream; else -1);
    response_ms (float: from the intended start to the end, missing where it never ended: what a user waits),
    service_ms (float: from the sending to the end), lag_ms (float: how late the generator sent it).
    """
    return with_times(pq.read_table(run_folder(home, run_id) / "samples.parquet").to_pandas())


def with_times(frame: pd.DataFrame) -> pd.DataFrame:
    """The samples as they were written, with what follows from their moments; an empty error is none."""
    frame = frame.assign(error=frame["error"].astype("str").replace("", None).astype("category"))
    sent, done = frame["sent_us"].ne(NEVER), frame["done_us"].ne(NEVER)
    frame["response_ms"] = ((frame["done_us"] - frame["intended_us"]) / 1e3).where(done)
    frame["service_ms"] = ((frame["done_us"] - frame["sent_us"]) / 1e3).where(done & sent)
    frame["lag_ms"] = ((frame["sent_us"] - frame["intended_us"]) / 1e3).where(sent)
    return frame


def series(run_id: str, home: Home = None) -> pd.DataFrame:
    """What was watched during a run.

    Columns: at_us (int64, µs since the run began), name (``rss_bytes``, ``fds``, ``loop_lag_ms``, ``log_bytes``,
    ``generator_cpu``, ``foreign_cpu``, ``dispatch_lag_ms``), value (float).
    """
    path = run_folder(home, run_id) / "series.parquet"
    if not path.is_file():
        return pd.DataFrame({"at_us": pd.Series(dtype="int64"), "name": pd.Series(dtype="str"), "value": []})
    frame: pd.DataFrame = pq.read_table(path).to_pandas()
    return frame


def acceptance(home: Home = None) -> Acceptance:
    """The newest acceptance. Raises NoSuchRun where there was none."""
    path = home_of(home) / "reports" / "acceptance.json"
    if not path.is_file():
        raise NoSuchRun(f"there is no {path}: `kircerta accept` makes one")
    return Acceptance.model_validate_json(path.read_bytes())


def tasks(home: Home = None) -> pd.DataFrame:
    """The tasks as their files show them, a row each, ordered by task_id; files that do not parse are left out.

    Columns: task_id, title, source, status, locked (bool), revision, seq (int64: of its last event), criteria,
    attempts (int64: how many), created_us, updated_us (int64, µs since 1970 UTC; -1 where the file says none).
    """
    rows = []
    for path in sorted((home_of(home) / "ssot" / "tasks").glob("[!.]*.json")):
        try:
            document = orjson.loads(path.read_bytes())
            rows.append(_task_row(document))
        except (OSError, orjson.JSONDecodeError, AttributeError, TypeError):
            continue
    frame = pd.DataFrame(rows, columns=list(_TASK_COLUMNS))
    for name in ("created_us", "updated_us"):
        moments = pd.to_datetime(frame[name], utc=True, errors="coerce", format="ISO8601").dt.as_unit("us")
        frame[name] = moments.astype("int64").where(moments.notna(), NEVER).astype("int64")
    return frame


_TASK_COLUMNS: Final = (
    "task_id",
    "title",
    "source",
    "status",
    "locked",
    "revision",
    "seq",
    "criteria",
    "attempts",
    "created_us",
    "updated_us",
)


def _task_row(document: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: document.get(name) for name in ("task_id", "title", "source", "status")},
        "locked": bool(document.get("locked")),
        "revision": int(document.get("revision") or 0),
        "seq": int(document.get("seq") or 0),
        "criteria": len(document.get("acceptance_criteria") or ()),
        "attempts": len(document.get("attempts") or ()),
        "created_us": document.get("created_at"),
        "updated_us": document.get("updated_at"),
    }
