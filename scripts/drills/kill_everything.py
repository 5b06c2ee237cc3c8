"""The drill: dispatcher and Prefect server are killed at random moments while tasks are dispatched and decided.

Afterwards every task must be where its decisions sent it, with one dispatch an attempt, and the log must be whole.

    python scripts/drills/kill_everything.py [--tasks 30] [--seconds 60] [--seed 1]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from audit.verify import verify
from flows.outcome import outcome_of
from flows.server import PrefectServer, answers, free_port, prefect_environment, start_prefect_server
from flows.workspace import Workspace
from ssot.intents import Approve, Create, Dispatch, Reject
from ssot.presence import dispatcher_of
from ssot.settings import Settings, load
from ssot.states import stage_of
from ssot.store import Refused
from ssot.task import Criterion, Task

VICTIMS = ("dispatcher", "server", "both")
LEAST_KILLS = 3
DISPATCHER = "from flows.dispatcher import run_dispatcher\nfrom ssot.settings import load\nrun_dispatcher(load())\n"
AGENTS = {"executor": "fake:mode=slow,seconds=0.4,beat=0.2", "reviewer": "fake:reject_first=1"}


@dataclass
class Report:
    """What was done, and what does not hold afterwards."""

    kills: Counter[str] = field(default_factory=Counter)
    decisions: list[tuple[str, str, int]] = field(default_factory=list)
    runs: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    events: int = 0
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)

    def table(self) -> str:
        """The report for people."""
        rows = [
            *((f"killed: {victim}", str(self.kills[victim])) for victim in VICTIMS),
            ("dispatches", str(self.attempts)),
            ("decisions", str(len(self.decisions))),
            *((f"tasks {name}", str(count)) for name, count in sorted(self.runs.items())),
            ("events in the log", str(self.events)),
            ("seconds", f"{self.seconds:.0f}"),
            ("broken promises", str(len(self.broken))),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join([*(f"{name:<{width}}  {value:>6}" for name, value in rows), *self.broken])


class Drill:
    """A workspace, its dispatcher and its server, and somebody who kills them."""

    def __init__(self, home: Path, tasks: int, seed: int) -> None:
        self.port = free_port()
        self.settings = self._settings(home)
        self.workspace = Workspace.open(self.settings, "kircerta/drill")
        self.ids = [f"T-{number}" for number in range(1, tasks + 1)]
        self.chance = random.Random(seed)
        self.report = Report()
        self._server: PrefectServer | None = None
        self._dispatcher: subprocess.Popen[bytes] | None = None

    def _settings(self, home: Path) -> Settings:
        url = f"http://127.0.0.1:{self.port}/api"
        return load(home=home, prefect_api_url=url, ack_timeout_s=120.0, orphan_after_s=600.0)

    def run(self, seconds: float) -> Report:
        """Kill for so long, then let everything come to rest, and look."""
        begun = time.monotonic()
        try:
            self._start()
            self._wait_for_both(90)
            until = time.monotonic() + seconds
            while time.monotonic() < until or sum(self.report.kills.values()) < LEAST_KILLS:
                self._act()
                time.sleep(self.chance.uniform(0.2, 2.0))
                self._kill(self.chance.choice(VICTIMS))
                self._act()
                time.sleep(self.chance.uniform(0.0, 0.5))
                self._start()
            self._settle()
        finally:
            self._stop()
        self.report.seconds = time.monotonic() - begun
        self._check()
        return self.report

    # ------------------------------------------------------------------------------------------- processes

    def _start(self) -> None:
        if self._server is None:
            self._server = start_prefect_server(self.settings, self.port)
        if self._dispatcher is None:
            environment = {**os.environ, **prefect_environment(self.settings), "KIRCERTA_ORPHAN_AFTER_S": "600"}
            log = (self.settings.home / "dispatcher.log").open("ab")
            self._dispatcher = subprocess.Popen(
                [sys.executable, "-c", DISPATCHER], env=environment, stdout=log, stderr=log, cwd=self.settings.home
            )
            log.close()

    def _wait_for_both(self, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while not (answers(self.settings.prefect_api_url or "") and dispatcher_of(self.settings.home)):
            if time.monotonic() > deadline:
                raise SystemExit("dispatcher and server did not start: see the workspace's logs")
            time.sleep(0.1)

    def _kill(self, victim: str) -> None:
        if victim in ("dispatcher", "both") and self._dispatcher is not None:
            self._dispatcher.kill()
            self._dispatcher.wait()
            self._dispatcher = None
        if victim in ("server", "both") and self._server is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._server.process.pid, signal.SIGKILL)
            self._server.process.wait()
            self._server = None
        self.report.kills[victim] += 1

    def _stop(self) -> None:
        self._kill("both")
        self.report.kills["both"] -= 1

    # ---------------------------------------------------------------------------------------- what people do

    def _act(self) -> None:
        """Some tasks are dispatched, some of those at the gate are decided."""
        for task_id in self.chance.sample(self.ids, k=min(4, len(self.ids))):
            with suppress(Refused):
                self._act_on(task_id)

    def _act_on(self, task_id: str) -> None:
        store = self.workspace.store
        store.refresh()
        task = store.task(task_id) if task_id in store.view.entries else None
        if task is None:
            criteria = (Criterion(id="AC-1", text="It works."), Criterion(id="AC-2", text="It is tested."))
            store.commit(task_id, Create(f"Do {task_id}", acceptance_criteria=criteria), actor="alice")
            self._dispatch(task_id)
        elif stage_of(task) in ("new", "ended"):
            self._dispatch(task_id)
        elif stage_of(task) == "needs_review":
            self._decide(task)

    def _dispatch(self, task_id: str) -> None:
        self._count += 1
        intent = Dispatch(f"d-{self._count}", ack_timeout_s=self.settings.ack_timeout_s, **AGENTS)
        self.workspace.store.commit(task_id, intent, actor="cli")

    _count = 0

    def _decide(self, task: Task) -> None:
        """The first attempt is rejected, as its reviewer does; the second approved."""
        is_first = len(task.attempts) == 1
        intent = Reject("as the reviewer says") if is_first else Approve()
        done = self.workspace.store.commit(task.task_id, intent, actor="alice")
        self.report.decisions.append((task.task_id, "rejected" if is_first else "approved", done.task.seq))

    def _settle(self, patience_s: float = 180.0) -> None:
        """No more kills: everything that was asked for must come to its end."""
        self._start()
        deadline = time.monotonic() + patience_s
        for task_id in self.ids:
            with suppress(Refused):
                self._act_on(task_id)
        while time.monotonic() < deadline and not self._is_at_rest():
            time.sleep(0.1)

    def _is_at_rest(self) -> bool:
        for task_id in self.ids:
            with suppress(Refused):
                self._act_on(task_id)
        return all(stage_of(self.workspace.store.task(task_id)) == "approved" for task_id in self.ids)

    # -------------------------------------------------------------------------------------------- the promises

    def _check(self) -> None:
        report, store = self.report, self.workspace.store
        store.refresh()
        events = list(store.events())
        report.events = len(events)
        problem = verify(store.audit_folder).problem
        report.broken += [f"the log is broken: {problem}"] if problem else []
        for task_id in self.ids:
            task = store.task(task_id)
            outcome = outcome_of(task)
            report.runs[outcome.name if outcome else stage_of(task)] += 1
            report.attempts += len(task.attempts)
            report.broken += list(self._problems_of(task))
        seqs = {event.seq: event.type for event in events}
        for task_id, decision, seq in report.decisions:
            if seqs.get(seq) != f"task_{decision}":
                report.broken.append(f"{task_id}: the decision {decision} at seq {seq} is lost")
        dispatched = Counter(
            event.data["dispatch"]["dispatch_id"] for event in events if event.type.endswith("dispatched")
        )
        report.broken += [f"{one} was dispatched {count} times" for one, count in dispatched.items() if count > 1]

    def _problems_of(self, task: Task) -> Iterable[str]:
        if stage_of(task) != "approved":
            yield f"{task.task_id} is {stage_of(task)}: its dispatch or its decision was lost"
        if len(task.attempts) != 2:
            yield f"{task.task_id} has {len(task.attempts)} attempts instead of 2"
            return
        first, second = task.attempts
        if first.verdict is None or second.dispatch is None or second.dispatch.issues != first.verdict.issues:
            yield f"{task.task_id}: the issues were not forwarded verbatim"


def main() -> int:
    """Run the drill and print its table; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kircerta-drill-", ignore_cleanup_errors=True) as home:
        report = Drill(Path(home), given.tasks, given.seed).run(given.seconds)
    print(report.table())
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
