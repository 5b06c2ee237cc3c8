"""Builders of fixed records: runs whose figures can be worked out by hand, and a log of which every event is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from audit.event import Draft
from ssot.store import Refused
from tests import builders
from tests.builders import Ticks, Walk

SAMPLES = pa.schema(
    [
        ("kind", pa.dictionary(pa.int8(), pa.string())),
        ("phase", pa.dictionary(pa.int8(), pa.string())),
        ("client", pa.int32()),
        ("intended_us", pa.int64()),
        ("sent_us", pa.int64()),
        ("done_us", pa.int64()),
        ("status", pa.int16()),
        ("error", pa.dictionary(pa.int8(), pa.string())),
        ("seq", pa.int64()),
    ]
)
SERIES = pa.schema([("at_us", pa.int64()), ("name", pa.dictionary(pa.int8(), pa.string())), ("value", pa.float64())])


def operations(
    response_ms: Sequence[float],
    *,
    kind: str = "read",
    phase: str = "main",
    every_us: int = 10_000,
    begin_us: int = 0,
    wait_us: int = 200,
    **more: Any,
) -> pd.DataFrame:
    """Operations at a steady rate, with these response times; each was sent `wait_us` after it was meant to be."""
    count = len(response_ms)
    intended = begin_us + np.arange(count, dtype=np.int64) * every_us
    done = intended + np.round(np.asarray(response_ms) * 1000).astype(np.int64)
    whole = {
        "kind": kind,
        "phase": phase,
        "client": np.arange(count) % 4,
        "intended_us": intended,
        "sent_us": np.minimum(intended + wait_us, done),
        "done_us": done,
        "status": 200,
        "error": "",
        "seq": -1,
    }
    return pd.DataFrame({**whole, **more}, index=range(count))


def unanswered(frame: pd.DataFrame, rows: Sequence[int], error: str = "timeout") -> pd.DataFrame:
    """The same, but these were never answered."""
    frame = frame.copy()
    frame.loc[list(rows), ["done_us", "status"]] = [-1, 0]
    frame["error"] = frame["error"].astype("object")
    frame.loc[list(rows), "error"] = error
    return frame


def stream(clients: int, events: int, *, every_us: int = 100_000, delay_ms: float = 2.0) -> pd.DataFrame:
    """What `clients` clients of a stream got of `events` events; the second lost seq 5 and got seq 7 twice."""
    each = [
        operations([delay_ms] * events, kind="stream", every_us=every_us, client=number, seq=np.arange(events) + 1)
        for number in range(clients)
    ]
    second = each[1]
    each[1] = pd.concat([second[second["seq"] != 5], second[second["seq"] == 7]]).sort_values("done_us")
    return pd.concat(each, ignore_index=True)


def watched(name: str, values: Sequence[float], *, every_us: int = 1_000_000) -> pd.DataFrame:
    return pd.DataFrame({"at_us": np.arange(len(values), dtype=np.int64) * every_us, "name": name, "value": values})


def a_run(
    home: Path, run_id: str, found: pd.DataFrame, series: pd.DataFrame | None = None, kind: str = "stress", **more: Any
) -> Path:
    """A run's folder, as the load flows leave it."""
    folder = home / "reports" / "runs" / run_id
    folder.mkdir(parents=True)
    record = {
        "run_id": run_id,
        "kind": kind,
        "started_at": "2026-11-01T08:00:00.000000Z",
        "finished_at": "2026-11-01T08:02:00.000000Z",
        "state": "finished",
        "outcome": "pass",
        "git_commit": "4f2a91c0",
        "git_dirty": False,
        "config": {"duration_s": 120, "rate": 100},
        "machine": {"cpus": 2},
        "versions": {"python": "3.11.2"},
        "thresholds": [{"expression": "read_p95<200", "value": 95.0, "ok": True}],
        "results": {
            "read": {"count": len(found), "errors": 0, "p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "max_ms": 100}
        },
        "log_seq": [1, 42],
        "alarms": [],
        **more,
    }
    (folder / "run.json").write_bytes(orjson.dumps(record))
    pq.write_table(pa.Table.from_pandas(found, SAMPLES, preserve_index=False), folder / "samples.parquet")
    if series is not None:
        pq.write_table(pa.Table.from_pandas(series, SERIES, preserve_index=False), folder / "series.parquet")
    return folder


def one_to_a_hundred(times: int = 100, **more: Any) -> pd.DataFrame:
    """1, 2, … 100 ms, over and over: the p-th percentile is p ms."""
    return operations(list(range(1, 101)) * times, **more)


def latency_run(home: Path, run_id: str = "stress-1", **more: Any) -> Path:
    """10,000 reads of 1 to 100 ms, and 200 writes of 5 ms of which two were never answered."""
    writes = unanswered(operations([5.0] * 200, kind="write", every_us=500_000), [50, 51])
    found = pd.concat([one_to_a_hundred(), writes], ignore_index=True)
    series = pd.concat([watched("generator_cpu", [0.3] * 100), watched("foreign_cpu", [0.02] * 100)])
    return a_run(home, run_id, found, series, **more)


def soak_run(home: Path, run_id: str = "soak-1") -> Path:
    """Five clients, 1,000 events each but for one's gap and repeat; memory grows by 1,000 bytes a second."""
    series = pd.concat(
        [
            watched("rss_bytes", [1e8 + 1000 * at for at in range(100)]),
            watched("fds", [40.0] * 100),
            watched("loop_lag_ms", [1.0, 2.0] * 50),
            watched("log_bytes", [500.0 * at for at in range(100)]),
            watched("generator_cpu", [0.2] * 100),
        ]
    )
    thresholds = [
        {"expression": "silence<5", "value": 0.2, "ok": True},
        {"expression": "rss<1", "value": 2, "ok": False},
    ]
    return a_run(home, run_id, stream(5, 1000), series, "soak", thresholds=thresholds, outcome="fail")


def flood_run(home: Path, run_id: str = "flood-1") -> Path:
    """Reads of 1 to 100 ms before and after; while 500 bad deliveries come, each takes twice as long."""
    third = 20_000_000
    parts = [
        one_to_a_hundred(20, phase="before"),
        operations([2.0 * ms for ms in range(1, 101)] * 20, phase="during", begin_us=third),
        one_to_a_hundred(20, phase="after", begin_us=2 * third),
        operations([1.0] * 500, kind="flood", phase="during", begin_us=third, every_us=40_000, status=401),
    ]
    return a_run(home, run_id, pd.concat(parts, ignore_index=True), kind="flood")


def runs_to_compare(home: Path) -> None:
    """Five runs of one commit and five of another: reads take half as long again, writes as long as before."""
    for number in range(5):
        for commit, factor, hour in (("aaaa", 1.0, 8), ("bbbb", 1.5, 9)):
            wobble = 1 + number / 100
            reads = operations([factor * wobble * ms for ms in range(1, 101)] * 5)
            writes = operations([wobble * ms for ms in range(1, 101)] * 5, kind="write")
            started = {"started_at": f"2026-11-01T{hour:02}:{number:02}:00Z", "git_commit": commit}
            a_run(home, f"stress-{commit}-{number}", pd.concat([reads, writes], ignore_index=True), **started)
    a_run(home, "stress-invalid", operations([1.0]), started_at="2026-11-01T07:00:00Z", outcome="invalid")


def a_log(home: Path) -> None:
    """Six tasks: two approved at once, one at its second attempt; one rejected, one at the gate, one never taken.

    Who executes takes 10 s, who reviews 20 s; people take 60 s. 7 bad deliveries were counted, in two events.
    """
    ticks = Ticks(step=0.0)
    store = builders.a_store(home, ticks=ticks)
    for name, verdict, decisions in (
        ("T-1", "approve", ("approve",)),
        ("T-2", "approve", ("approve",)),
        ("T-3", "reject", ("reject", "approve")),
        ("T-4", "reject", ("reject",)),
        ("T-5", "approve", ()),
    ):
        walk = Walk(store, name)
        walk.create()
        for number, decision in enumerate(decisions or ("",)):
            _one_round(walk, ticks, verdict if number == 0 else "approve")
            ticks.ahead(60)
            {"approve": walk.approve, "reject": walk.reject, "": lambda: None}[decision]()
    silent = Walk(store, "T-6")
    silent.create()
    silent.dispatch()
    ticks.ahead(31)
    silent.end("ack_timeout")
    for count in (3, 4):
        store.note(
            Draft(
                "webhook_rejected", "anonymous", {"address": "203.0.113.7", "route": "/webhooks/github", "count": count}
            )
        )
    store.close()


def _one_round(walk: Walk, ticks: Ticks, verdict: str) -> None:
    walk.dispatch()
    ticks.ahead(2)
    if walk.task_id == "T-3" and len(walk.task.attempts) == 1:
        _mumble(walk)
    walk.ack()
    ticks.ahead(10)
    walk.result()
    ticks.ahead(20)
    walk.verdict(verdict)


def _mumble(walk: Walk) -> None:
    """An echo that is none: refused."""
    try:
        walk.ack(echo=())
    except Refused:
        return
    raise AssertionError("an empty echo was taken")


def an_acceptance(home: Path) -> None:
    """Two modules: three checks hold, one does not."""
    held = {"name": "replay gives the files", "ok": True, "detail": "6 tasks"}
    modules = [
        {"name": "truth and gate", "ok": True, "checks": [held, {**held, "name": "nobody forges"}], "not_shown": []},
        {
            "name": "stream",
            "ok": False,
            "checks": [held, {"name": "no gap", "ok": False, "detail": "seq 5 <is> missing"}],
            "not_shown": ["two hours: this took 20 s"],
        },
    ]
    whole = {
        "modules": modules,
        "started_at": "2026-11-01T08:00:00Z",
        "finished_at": "2026-11-01T08:05:00Z",
        "ok": False,
    }
    (home / "reports").mkdir(exist_ok=True)
    (home / "reports" / "acceptance.json").write_bytes(orjson.dumps(whole))


def a_calibration(home: Path) -> None:
    """One miss of four, none of four good ones blocked."""
    share = {"count": 0, "of": 4, "rate": 0.0, "low": 0.0, "high": 0.49}
    miss = {"count": 1, "of": 4, "rate": 0.25, "low": 0.046, "high": 0.699}
    calibration = {"miss": miss, "false_block": share, "rubber_stamp": share, "unanswered": {**share, "of": 8}}
    more = {"irrespective": False, "told_apart": False, "missed_by_defect": {"off by one": miss}}
    folder = home / "reports" / "runs" / "calibration-1"
    folder.mkdir(parents=True)
    record = {
        "run_id": "calibration-1",
        "kind": "calibration",
        "started_at": "2026-01-31T09:00:00Z",
        "state": "finished",
        "outcome": "fail",
        "config": {"reviewer": "second", "cases": 8},
        "thresholds": [{"expression": "miss<=0.1", "value": 0.25, "ok": False}],
        "calibration": {**calibration, **more},
    }
    said = {"says_something": True, "issues": 0, "seconds": 0.5, "summary": "<b>AC-1</b>", "failure": ""}
    names = [(True, name) for name in ("one", "two", "three", "four")]
    cases = [
        {
            "name": f"{'good' if is_good else 'bad'}/{name}",
            "shown_as": f"case-{number:03}",
            "is_good": is_good,
            "defect": "" if is_good else "off by one",
            "decision": "approve" if is_good or name == "one" else "reject",
            **said,
        }
        for number, (is_good, name) in enumerate([*names, *((False, name) for _, name in names)], start=1)
    ]
    (folder / "run.json").write_bytes(orjson.dumps(record))
    (folder / "cases.json").write_bytes(orjson.dumps(cases))


def everything(home: Path) -> None:
    """One workspace with all of it."""
    a_log(home)
    latency_run(home)
    soak_run(home)
    flood_run(home)
    runs_to_compare(home)
    an_acceptance(home)
    a_calibration(home)
