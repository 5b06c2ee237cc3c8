"""The records of runs, of load and of calibration: the only writer of `reports/runs/<run_id>/run.json`.

A record says `running` from the first moment on. A run that was killed cannot say so itself: whoever starts the next
one looks whether its process lives, and marks it `crashed`.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson
from pydantic import ConfigDict, Field, ValidationError

from audit.event import Draft
from audit.files import FileLock, StorageFailed, read_regular, replace_file
from audit.stamp import rfc3339, seconds_of
from ssot import alarms
from ssot.task import Part

if TYPE_CHECKING:
    from ssot.store import Store

Kind = Literal["soak", "flood", "stress", "chaos"]
AnyKind = Literal["soak", "flood", "stress", "chaos", "calibration"]
"""The kinds of load run, and the calibration of a reviewer, which puts no load on anything."""
State = Literal["running", "finished", "crashed"]
Outcome = Literal["pass", "fail", "invalid"]
FOLDER: Final = Path("reports") / "runs"
RECORD: Final = "run.json"
ACTOR: Final = "load"
LONG_SOAK_S: Final = 7200.0
"""What takes two hours to show is shown by a soak of two hours only."""
RUN_ID: Final = re.compile(r"(soak|flood|stress|chaos|calibration)-\d{8}T\d{6}Z-[0-9a-f]{6}", re.ASCII)
_OWN_TASK: Final = re.compile(rf"load-{RUN_ID.pattern}-.+", re.ASCII)
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def new_run_id(kind: AnyKind, now: float | None = None) -> str:
    """A fresh id such as ``soak-20260131T090000Z-0f3a9c``."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() if now is None else now))
    return f"{kind}-{moment}-{secrets.token_hex(3)}"


def warm_up(lasted_s: float) -> float:
    """The share of a run's beginning that tells nothing of growth: caches fill then.

    An API's caches are full after some 25,000 decisions: 40 minutes at ten a second. So what lasted an hour or more is
    judged by its second half; of a shorter run the first tenth is left out, and its growth may be the caches'.
    """
    return 0.5 if lasted_s >= 3600 else 0.1


def task_prefix(run_id: str) -> str:
    """What the ids of the tasks begin with that a run makes for itself."""
    return f"load-{run_id}-"


def is_load_task(task_id: str) -> bool:
    """Whether a load run made this task. Nobody else dispatches or closes it: that would be another load."""
    return _OWN_TASK.fullmatch(task_id) is not None


class Bound(Part):
    """An expression such as ``read_p95<200`` and what came of it; `value` is null where nothing was measured."""

    expression: str
    value: float | None = None
    ok: bool = False


class Figures(Part):
    """One kind of operation. Response times run from the intended start to the last byte, in milliseconds.

    `errors` counts what was answered wrongly, not answered and never sent; service times run from when it was sent.
    """

    count: int
    errors: int
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    service_p50_ms: float | None = None
    service_p95_ms: float | None = None
    service_p99_ms: float | None = None
    service_max_ms: float | None = None
    never_sent: int = 0
    never_done: int = 0
    by_error: dict[str, int] = Field(default_factory=dict)


class Alarm(Part):
    """An alarm that the run provoked on a task of its own, and where in the log it is (null: it is not there)."""

    type: Literal["ack_timeout", "heartbeat_warning"]
    task_id: str
    dispatch_id: str
    provoked_at: str
    due_at: str
    seq: int | None = None
    time: str | None = None
    actor: str | None = None


class Slope(Part):
    """The trend of a series: Theil–Sen, with a 95 % interval; `grows` where all of it lies above zero."""

    name: str
    unit: str
    per_hour: float
    low: float
    high: float
    grows: bool


class Process(Part):
    """The process that wrote the record: a pid alone may belong to somebody else by now."""

    pid: int
    boot_id: str
    started_ticks: int


class RunRecord(Part):
    """`run.json`. What is not there yet is null."""

    model_config = ConfigDict(populate_by_name=True)

    run_id: str
    kind: AnyKind
    started_at: str
    finished_at: str | None = None
    state: State = "running"
    outcome: Outcome | None = None
    interrupted: bool = False
    problem: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    config: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    thresholds: tuple[Bound, ...] = ()
    gates: tuple[Bound, ...] = ()
    results: dict[str, Figures] = Field(default_factory=dict)
    phases: dict[str, dict[str, Figures]] = Field(default_factory=dict)
    streams: dict[str, float] = Field(default_factory=dict)
    measures: dict[str, float] = Field(default_factory=dict)
    slopes: tuple[Slope, ...] = ()
    log_seq: tuple[int, int] | None = None
    alarms: tuple[Alarm, ...] = ()
    chaos: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    not_shown: tuple[str, ...] = ()
    process: Process | None = Field(default=None, alias="_process")


class Runs:
    """The runs of a workspace. Every change of a record's state is told in the log, too."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.folder = store.home / FOLDER

    def path(self, run_id: str) -> Path:
        """A run's folder. Raises ValueError: what is no run id never becomes a path."""
        if not RUN_ID.fullmatch(run_id):
            raise ValueError(f"{run_id[:80]!r} is no run id")
        return self.folder / run_id

    def begin(self, record: RunRecord) -> Path:
        """Write the first record and tell it; gives the run's folder. Runs that died are marked first."""
        self.mark_crashed()
        folder = self.path(record.run_id)
        folder.mkdir(parents=True)
        self._write(record.model_copy(update={"process": this_process()}))
        self._store.note(started(record))
        return folder

    def finish(self, record: RunRecord) -> RunRecord:
        """Write the last record and tell it. The record comes first: an event without one would promise too much."""
        self._write(record)
        with suppress(StorageFailed):  # the record is there: that is what counts
            self._store.note(finished(record))
            self._tell_alarm(record)
        return record

    def _tell_alarm(self, record: RunRecord) -> None:
        """A broken threshold stands as an alarm until a run of its kind passes."""
        alarm = f"threshold_{record.kind}"
        stands = alarm in self._store.view.alarms
        if record.kind == "calibration":  # it tells of a reviewer, not of the running system
            return
        if record.outcome == "invalid" or stands == (record.outcome == "fail"):
            return
        broken = {one.expression: one.value for one in record.thresholds if not one.ok}
        reason = f"{record.run_id} broke {', '.join(broken)}" if broken else f"{record.run_id} held all thresholds"
        self._store.note(alarms.draft(alarm, "cleared" if stands else "raised", reason[:500], broken, ACTOR))

    def load(self, run_id: str) -> RunRecord:
        """One record. Raises OSError, ValueError."""
        return _read(self.path(run_id))

    def all(self) -> Iterator[RunRecord]:
        """Every record that can be read, oldest first."""
        yield from records(self._store.home)

    def mark_crashed(self) -> list[str]:
        """Mark the runs whose process is gone; gives their ids. Only one process does so at a time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock").hold():
            dead = [one for one in self.all() if one.state == "running" and not is_alive(one.process)]
            for record in dead:
                update = {"state": "crashed", "outcome": "invalid", "finished_at": rfc3339(time.time())}
                problem = "its process was killed: what it had measured until then stands beside this record"
                self.finish(record.model_copy(update={**update, "problem": problem}))
        return [record.run_id for record in dead]

    def _write(self, record: RunRecord) -> None:
        body = record.model_dump(mode="json", by_alias=True)
        replace_file(self.path(record.run_id) / RECORD, orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n")


def records(home: Path) -> Iterator[RunRecord]:
    """Every record of a workspace that can be read, oldest first. Opens nothing else."""
    for folder in sorted((home / FOLDER).glob("*-*"), key=lambda one: one.name.split("-")[1:]):
        if RUN_ID.fullmatch(folder.name):
            with suppress(OSError, ValueError, ValidationError):
                yield _read(folder)


def _read(folder: Path) -> RunRecord:
    raw, _ = read_regular(folder / RECORD)
    return RunRecord.model_validate(orjson.loads(raw), strict=False)


def long_soaks(home: Path) -> list[RunRecord]:
    """The soaks of two hours or more that came to their end, oldest first."""
    found = (one for one in records(home) if one.kind == "soak" and lasted_s(one) >= LONG_SOAK_S)
    return [one for one in found if one.state == "finished" and not one.interrupted]


def lasted_s(record: RunRecord) -> float:
    """For how long a run was under load: what it measured, else what its record's times leave for it."""
    if "lasted_s" in record.measures:
        return record.measures["lasted_s"]
    if record.finished_at is None:
        return 0.0
    between = seconds_of(record.finished_at) - seconds_of(record.started_at)
    return min(float(record.config.get("duration_s", 0.0)), between)


def started(record: RunRecord) -> Draft:
    """The event that a run begins."""
    return Draft("run_started", _actor(record), {"run_id": record.run_id, "kind": record.kind})


def finished(record: RunRecord) -> Draft:
    """The event that a run is over: how it ended, and which thresholds and gates do not hold."""
    broken = [bound.expression for bound in (*record.thresholds, *record.gates) if not bound.ok]
    data = {
        "run_id": record.run_id,
        "kind": record.kind,
        "state": record.state,
        "outcome": record.outcome,
        "broken": broken,
    }
    return Draft("run_finished", _actor(record), data)


def _actor(record: RunRecord) -> str:
    return "calibration" if record.kind == "calibration" else ACTOR


# --------------------------------------------------------------------------------------- is it still there


def this_process() -> Process:
    return Process(pid=os.getpid(), boot_id=_boot_id(), started_ticks=_started_ticks(os.getpid()) or 0)


def is_alive(process: Process | None) -> bool:
    """Whether this very process lives: the same boot, the same pid, started in the same moment."""
    if process is None or process.boot_id != _boot_id():
        return False
    return _started_ticks(process.pid) == process.started_ticks


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _started_ticks(pid: int) -> int | None:
    """When a process started, in the kernel's ticks; None where there is none, or only its remains."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _without_proc(pid)
    return None if told[0] in "ZX" else int(told[19])


def _without_proc(pid: int) -> int | None:
    """Where there is no /proc, a living pid has to do."""
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return 0
