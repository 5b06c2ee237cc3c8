"""One load run from its first record to its last: prepares, starts the generator, watches, sums up and judges."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow.compute as pc

from audit.event import Corrupt, Event
from audit.files import Busy, StorageFailed
from audit.reader import read_events
from audit.stamp import rfc3339
from flows.load import machine, measure, place, samples, verdict
from flows.load.alarms import Provocations, located
from flows.load.generator import Brief
from flows.load.plan import US, Plan
from flows.load.prepare import Feeder, retire
from flows.load.sender import Sender
from flows.load.slopes import UNITS, slope_of
from flows.load.thresholds import Expression
from flows.load.watch import Watch
from ssot.runs import LONG_SOAK_S, Alarm, Figures, RunRecord, Runs, Slope, new_run_id, task_prefix
from ssot.settings import Settings
from ssot.store import Store

SOURCE: Final = "kircerta/load"
SET_UP_S: Final = 14.0
_LEAD_S: Final = 0.3
_LOOK_S: Final = 0.2
_TURN_S: Final = 0.2
_AT_HAND_S: Final = 4.0
"""Seconds of decisions that lie ready at the gate."""
_LEAST_AT_HAND: Final = 10
_CLOSED_AT_HAND: Final = 60
_SENT_S: Final = 8.0
_SLOPES: Final = {"rss": "rss_bytes", "fds": "fds"}
_OVER_S: Final = 8.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, for whoever shows it."""

    step: str
    done_s: float
    of_s: float
    done: dict[str, list[int]] = field(default_factory=dict)
    p95_ms: dict[str, float | None] = field(default_factory=dict)
    streams_open: int = 0
    events: int = 0


class Trouble(Protocol):
    """What is done to the system while it is under load, and what is looked at afterwards."""

    def begin(self) -> None:
        """The load begins."""

    def end(self) -> None:
        """The load is over: everything runs again when this comes back."""

    def report(self, acked: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
        """What was done and what does not hold; `problems` is a list."""


@dataclass(slots=True)
class Asked:
    """What a run is asked to do, and what it is judged by."""

    plan: Plan
    thresholds: tuple[Expression, ...]
    gates: tuple[Expression, ...]
    token: str = ""
    trouble: Trouble | None = None
    show: Callable[[Progress], None] = lambda progress: None
    stop: threading.Event = field(default_factory=threading.Event)


def run(settings: Settings, asked: Asked, *, records: Settings | None = None) -> RunRecord:
    """Carry out a load run; gives its last record. Raises NotHere, before anything is written or with a record of it.

    Args:
        settings: those of the workspace that is under load.
        records: those of the workspace that keeps the record, where it is another one.
    """
    place.check(asked.plan, asked.token)
    with _opened(settings) as store:
        if records is None or records.home == settings.home:
            return _Run(settings, asked, store, store).carry_out()
        with _opened(records) as kept:
            return _Run(settings, asked, store, kept).carry_out()


def _opened(settings: Settings) -> closing[Store]:
    return closing(Store.open(settings.home, source=SOURCE, settings=settings.store, scan=False))


class _Run:
    """The state of one run. `store` is the workspace under load, `kept` the one that keeps the record."""

    def __init__(self, settings: Settings, asked: Asked, store: Store, kept: Store) -> None:
        self.settings, self.asked, self.plan = settings, asked, asked.plan
        self.store, self.runs = store, Runs(kept)
        self.run_id = new_run_id(asked.plan.kind)
        self.origin_ns, self.wall_origin_s = time.monotonic_ns(), time.time()
        self.record = self._first_record()
        self.begin_us = self.end_us = 0
        self.first_seq = 0
        self.is_over = threading.Event()
        decisions = None if self.plan.closed else int(self.plan.write_rate * self.plan.duration_s) + 1
        at_hand = max(_LEAST_AT_HAND, int(self.plan.write_rate * _AT_HAND_S))
        at_hand = _CLOSED_AT_HAND if self.plan.closed else min(at_hand, decisions or 0)
        self.feeder = Feeder(store, self.run_id, at_hand=at_hand, decisions=decisions) if self.plan.deciders else None
        self.provocations: Provocations | None = None

    def _first_record(self) -> RunRecord:
        commit, dirty = machine.commit()
        return RunRecord(
            run_id=self.run_id,
            kind=self.plan.kind,
            started_at=rfc3339(self.wall_origin_s),
            git_commit=commit,
            git_dirty=dirty,
            config={
                **self.plan.model_dump(mode="json", exclude={"kind"}),
                "thresholds": [str(one) for one in self.asked.thresholds],
                "gates": [str(one) for one in self.asked.gates],
                "settings": _without_secrets(self.settings),
            },
            machine=machine.described(),
            versions=machine.versions(),
        )

    def now_us(self) -> int:
        return (time.monotonic_ns() - self.origin_ns) // 1000

    # ------------------------------------------------------------------------------------------------ the run

    def carry_out(self) -> RunRecord:
        """From the first record to the last. What goes wrong in between stands in the last."""
        for crashed in self.runs.mark_crashed():
            with suppress(Exception):  # what it measured is worth having, but not worth failing for
                samples.settle(self.runs.path(crashed))
            self._put_away(crashed)
        folder = self.runs.begin(self.record)
        self.store.refresh()
        self.first_seq = self.store.last_seq()
        try:
            self._check_workspace()
            self._under_load(folder)
        except BaseException as error:
            self._fail(folder, error)
            raise
        finally:
            self._put_away(self.run_id)
        return self.record

    def _check_workspace(self) -> None:
        if self.runs.folder.parents[1] != self.settings.home:  # our own server: started for it
            return
        event = next(iter(self.store.events(self.first_seq - 1)))
        place.check_workspace(self.plan, self.settings, self.asked.token, event)

    def _under_load(self, folder: Path) -> None:
        brief = Brief(
            run_id=self.run_id,
            folder=str(folder),
            plan=self.plan,
            origin_ns=self.origin_ns,
            wall_origin_s=self.wall_origin_s,
            after_seq=self.store.last_seq(),
            token=self.asked.token,
            report_acks=self.asked.trouble is not None,
        )
        sender = Sender(brief)
        watch = Watch(self.settings.home, self.plan.base_url, sender.pid, self.now_us, self.asked.token)
        try:
            self._prepare(sender)
            self._send(sender, watch)
        finally:
            watch.stop()
            sender.close()
        self._sum_up(folder, sender, watch)

    def _prepare(self, sender: Sender) -> None:
        self._show("preparing", sender)
        self._feed(sender)
        until = time.monotonic() + SET_UP_S
        while not sender.wait("ready", _LOOK_S):
            self._show("calibrating", sender)
            if self.asked.stop.is_set() or time.monotonic() > until:
                return

    def _send(self, sender: Sender, watch: Watch) -> None:
        """The part that counts: from the first arrival to the last answer."""
        plan = self.plan
        self.begin_us = self.now_us() + int(_LEAD_S * US)
        self.end_us = self.begin_us + int(plan.duration_s * US)
        if plan.alarms:
            self.provocations = Provocations(self.settings, self.store, self.run_id, plan.duration_s + _LEAD_S)
        watch.start()
        keeper = threading.Thread(target=self._keep, args=(sender,), name="load-keeper", daemon=True)
        keeper.start()
        sender.order(go=self.begin_us)
        if self.asked.trouble is not None:
            self.asked.trouble.begin()
        try:
            self._await_sent(sender)
        finally:
            self.is_over.set()
            if self.asked.trouble is not None:
                self.asked.trouble.end()
            keeper.join(10)
        self._drain(sender)

    def _await_sent(self, sender: Sender) -> None:
        stopped = False
        until = time.monotonic() + self.plan.duration_s + _LEAD_S + _SENT_S
        while not sender.wait("sent", _LOOK_S):
            self._show("running", sender)
            if self.asked.stop.is_set() and not stopped:
                stopped = True
                self.end_us = min(self.end_us, self.now_us())
                until = time.monotonic() + _SENT_S
                sender.order(stop=True)
            if time.monotonic() > until:
                raise TimeoutError("the load generator did not come to its end")

    def _drain(self, sender: Sender) -> None:
        """Everybody catches up: the alarms that are due, the streams with what is in the log by now."""
        self._show("summing up", sender)
        if self.provocations is not None:
            self.provocations.settle(0.0 if self.asked.stop.is_set() else 4.0)
        self.store.refresh()
        self.last_seq = self.store.last_seq()
        sender.order(drain=self.last_seq)
        until = time.monotonic() + _OVER_S
        while not sender.wait("over", _LOOK_S) and time.monotonic() < until:
            self._show("summing up", sender)

    def _keep(self, sender: Sender) -> None:
        """Keep decisions at hand and alarms coming, until the run is over."""
        while not self.is_over.wait(_TURN_S):
            with suppress(Busy, StorageFailed):  # others came first, or the disk is full: the next turn comes soon
                self._feed(sender)
                if self.provocations is not None:
                    self.provocations.turn()

    def _feed(self, sender: Sender) -> None:
        if self.feeder is None:
            return
        tasks = self.feeder.turn(sender.take_failed())
        if tasks:
            sender.order(tasks=tasks)

    def _show(self, step: str, sender: Sender) -> None:
        said = sender.progress()
        done_s = (min(self.now_us(), self.end_us) - self.begin_us) / US if self.begin_us else 0.0
        self.asked.show(
            Progress(
                step,
                max(0.0, done_s),
                self.plan.duration_s,
                said.get("done", {}),
                said.get("p95_ms", {}),
                said.get("streams_open", 0),
                said.get("events", 0),
            )
        )

    # --------------------------------------------------------------------------------------------- summing up

    def _sum_up(self, folder: Path, sender: Sender, watch: Watch) -> None:
        table = samples.settle(folder)
        rows = sorted([*watch.rows, *((at, "dispatch_lag_ms", lag) for at, lag in sender.told.lags)])
        measure.write_series(folder, rows)
        measure.write_histograms(folder, table, self.plan.duration_s)
        results, phases = measure.results_of(table)
        told = sender.told.over or {}
        slopes = self._slopes(rows)
        alarms, decided = self._ledger()
        trouble = self.asked.trouble.report(sender.told.acked) if self.asked.trouble is not None else None
        special = {
            **self._special(told, rows, slopes),
            **_flood(results.get("flood")),
            "lost_decisions": float(max(0, _acknowledged(table) - decided)),
            "alarms_missing": float(sum(one.seq is None for one in alarms)),
        }
        if trouble is not None:
            special["chaos_problems"] = float(len(trouble["problems"]))
        gates = verdict.judged(self.asked.gates, self._gated(told, watch))
        thresholds = verdict.judged(self.asked.thresholds, measure.measured(results, phases, special))
        update = {
            "state": "finished",
            "outcome": verdict.outcome_of(thresholds, gates),
            "interrupted": self.asked.stop.is_set(),
            "thresholds": thresholds,
            "gates": gates,
            "results": results,
            "phases": phases,
            "streams": told.get("streams", {}),
            "measures": self._measures(told, watch, special),
            "slopes": slopes,
            "alarms": alarms,
            "chaos": trouble,
            "not_shown": tuple(self._not_shown(trouble, watch)),
            "machine": {**self.record.machine, "others": watch.others()},
        }
        self._finish(update)

    def _finish(self, update: dict[str, Any]) -> None:
        last = self.store.last_seq()
        self.record = self.record.model_copy(
            update={**update, "finished_at": rfc3339(time.time()), "log_seq": (self.first_seq, last)}
        )
        self.runs.finish(self.record)

    def _fail(self, folder: Path, error: BaseException) -> None:
        """Neither passed nor failed: the run itself broke. What it measured until then is kept."""
        with suppress(Exception):
            samples.settle(folder)
        with suppress(Exception):
            problem = f"{type(error).__name__}: {error}"[:1000]
            self._finish({"state": "finished", "outcome": "invalid", "problem": problem})

    def _put_away(self, run_id: str) -> None:
        """The run's own tasks do not stay at the gate. What cannot be put away now stays for the next run."""
        with suppress(Busy, StorageFailed, Corrupt):
            retire(self.store, run_id)

    def _slopes(self, rows: Sequence[tuple[int, str, float]]) -> tuple[Slope, ...]:
        if self.plan.kind != "soak":
            return ()
        inside = [row for row in rows if self.begin_us <= row[0] <= self.end_us]
        found = (slope_of(name, [(at, value) for at, which, value in inside if which == name]) for name in UNITS)
        return tuple(one for one in found if one is not None)

    def _ledger(self) -> tuple[tuple[Alarm, ...], int]:
        """What the log has of this run: its alarms and its decisions."""
        prefix = task_prefix(self.run_id)
        provoked = self.provocations.expected(self.wall_origin_s + self.end_us / US) if self.provocations else []
        wanted = {(one.type, one.task_id) for one in provoked}
        found: dict[tuple[str, str], Event] = {}
        decided = 0
        for event in read_events(self.store.audit_folder, max(0, self.first_seq - 1)):
            if event.subject is None or not event.subject.startswith(prefix):
                continue
            decided += event.type in ("task_approved", "task_rejected")
            if (event.type, event.subject) in wanted:
                found.setdefault((event.type, event.subject), event)
        return tuple(located(one, found) for one in provoked), decided

    def _special(
        self, told: dict[str, Any], rows: Sequence[tuple[int, str, float]], slopes: Sequence[Slope]
    ) -> dict[str, float]:
        streams = told.get("streams", {})
        found: dict[str, float] = {}
        if self.plan.streams and streams:
            gaps = streams["gaps"] + streams["missing"] + streams["resets"]
            found = {
                "stream_silence_max": streams["silence_max_s"],
                "stream_gaps": gaps,
                "stream_repeats": streams["repeats"],
                "stream_disconnections": streams["disconnections"],
            }
        low = {slope.name: slope.low for slope in slopes}
        found |= {f"{short}_slope_low": low[name] for short, name in _SLOPES.items() if name in low}
        lags = [value for _, name, value in rows if name == "loop_lag_ms"]
        return found | ({"loop_lag_max": max(lags)} if lags else {})

    def _gated(self, told: dict[str, Any], watch: Watch) -> dict[str, float]:
        """What the gates look at. A machine that does not tell of others is taken at its word."""
        names = ("generator_cpu", "dispatch_lag_p99", "achieved")
        found: dict[str, float] = {name: told[name] for name in names if name in told}
        foreign = watch.mean("foreign_cpu", self.begin_us, self.end_us)
        if foreign is not None or not machine.is_known():
            found["foreign_cpu"] = foreign or 0.0
        return found

    def _measures(self, told: dict[str, Any], watch: Watch, special: dict[str, float]) -> dict[str, float]:
        means = {name: watch.mean(name, self.begin_us, self.end_us) for name in ("server_cpu", "rss_bytes", "fds")}
        found = {
            "begin_s": self.begin_us / US,
            "lasted_s": max(0, self.end_us - self.begin_us) / US,
            **special,
            **self._gated(told, watch),
            **{f"{name}_mean": value for name, value in means.items() if value is not None},
        }
        return {name: round(float(value), 4) for name, value in found.items()}

    def _not_shown(self, trouble: dict[str, Any] | None, watch: Watch) -> list[str]:
        found = list(self.provocations.not_shown) if self.provocations is not None else []
        if self.provocations is not None and self.provocations.missing_types():
            found.append(f"{' and '.join(self.provocations.missing_types())}: the run was too short to provoke it")
        if watch.server_pid is None:
            found.append("the server's memory and files: its process cannot be seen")
        if self.plan.kind == "soak" and self.plan.duration_s < LONG_SOAK_S:
            found.append("what only shows over hours: this soak is shorter than two")
        return found + (list(trouble["not_shown"]) if trouble is not None else [])


def _flood(found: Figures | None) -> dict[str, float]:
    return {"flood_accepted": float(found.by_error.get("accepted", 0))} if found is not None else {}


def _acknowledged(table: Any) -> int:
    """Decisions that were answered with 200."""
    write = pc.equal(table["kind"].cast("string"), "write")
    return int(pc.sum(pc.and_(write, pc.equal(table["status"], 200))).as_py() or 0)


def _without_secrets(settings: Settings) -> dict[str, Any]:
    """The settings that shape a run; a secret is no setting of these."""
    names = ("ack_timeout_s", "heartbeat_warning_s", "max_rejects", "auto_redispatch", "read_auth", "segment_bytes")
    return {name: getattr(settings, name) for name in names}
