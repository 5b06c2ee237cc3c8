"""A calibration as a run: its record in `reports/runs/`, and beside it what became of each case."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import orjson

from audit.files import replace_file
from audit.stamp import rfc3339
from flows.agents.protocol import Agent
from flows.calibration import figures, session
from flows.calibration.cases import EXAMPLES, blind, load
from flows.calibration.figures import Calibration, Judged
from flows.calibration.session import Progress
from flows.load import machine
from ssot.runs import Bound, Figures, Outcome, RunRecord, Runs, new_run_id
from ssot.settings import Settings
from ssot.store import Store

CASES_FILE: Final = "cases.json"
MEASURES: Final = ("miss", "false_block", "rubber_stamp", "unanswered")
MOST_UNANSWERED: Final = 0.5
"""Of more cases without a verdict than this the other figures say nothing."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a calibration. `limits`: the highest rate that may be, by measure; measures are MEASURES."""

    folder: Path = EXAMPLES
    seed: int = 1
    most: int | None = None
    concurrency: int = 2
    limits: Mapping[str, float] = field(default_factory=dict)


def calibrate(
    settings: Settings, store: Store, reviewer: Agent, wish: Wish, progress: Progress = lambda done, of: None
) -> RunRecord:
    """Calibrate a reviewer and keep the run. Raises NoCases, NotHere, before anything is written."""
    cases = blind(load(wish.folder), wish.seed, wish.most)
    if not reviewer.local:
        raise session.NotHere(
            f"{reviewer.name} comes by itself: only a reviewer that is started here can be calibrated"
        )
    runs, begun = Runs(store), _begun(reviewer, wish, len(cases))
    folder = runs.begin(begun)
    first = store.last_seq()
    try:
        judged = session.judge(settings, reviewer, cases, concurrency=wish.concurrency, progress=progress)
    except BaseException as error:
        update = {"state": "crashed", "outcome": "invalid", "problem": f"{type(error).__name__}: {error}"[:2000]}
        runs.finish(begun.model_copy(update={**update, "finished_at": rfc3339(time.time())}))
        raise
    replace_file(folder / CASES_FILE, orjson.dumps([asdict(one) for one in judged], option=orjson.OPT_INDENT_2))
    return runs.finish(_finished(begun, judged, wish, (first, store.last_seq())))


def _begun(reviewer: Agent, wish: Wish, cases: int) -> RunRecord:
    commit, dirty = machine.commit()
    return RunRecord(
        run_id=new_run_id("calibration"),
        kind="calibration",
        started_at=rfc3339(time.time()),
        git_commit=commit,
        git_dirty=dirty,
        config={
            "reviewer": reviewer.name,
            "principal": reviewer.principal,
            "cases": cases,
            "from": "examples/calibration" if wish.folder == EXAMPLES else str(wish.folder),
            "seed": wish.seed,
            "concurrency": wish.concurrency,
        },
        machine=machine.described(),
        versions=machine.versions(),
    )


def _finished(begun: RunRecord, judged: Sequence[Judged], wish: Wish, log_seq: tuple[int, int]) -> RunRecord:
    found = figures.calibrated(judged)
    bounds = tuple(_bound(measure, limit, found) for measure, limit in wish.limits.items())
    defects = {name: asdict(one) for name, one in figures.by_defect(judged).items()}
    return begun.model_copy(
        update={
            "state": "finished",
            "finished_at": rfc3339(time.time()),
            "outcome": outcome_of(found, bounds),
            "thresholds": bounds,
            "results": {"review": _times(judged)},
            "measures": found.measures(),
            "calibration": {**found.plain(), "missed_by_defect": defects},
            "log_seq": log_seq,
            "not_shown": _not_shown(found),
        }
    )


def _bound(measure: str, limit: float, found: Calibration) -> Bound:
    value = found.measures().get(measure)
    return Bound(expression=f"{measure}<={limit:g}", value=value, ok=value is not None and value <= limit)


def outcome_of(found: Calibration, bounds: Sequence[Bound]) -> Outcome:
    """`invalid` where most cases got no verdict; otherwise whether all that was asked holds."""
    if (found.unanswered.rate or 0.0) > MOST_UNANSWERED:
        return "invalid"
    return "pass" if all(bound.ok for bound in bounds) else "fail"


def _times(judged: Sequence[Judged]) -> Figures:
    times = sorted(one.seconds * 1000 for one in judged)

    def at(share: float) -> float | None:
        return round(times[min(len(times) - 1, int(share * len(times)))], 3) if times else None

    errors = sum(one.decision is None for one in judged)
    return Figures(count=len(judged), errors=errors, p50_ms=at(0.5), p95_ms=at(0.95), p99_ms=at(0.99), max_ms=at(1.0))


def _not_shown(found: Calibration) -> tuple[str, ...]:
    """What the run cannot say."""
    said = []
    if min(found.miss.of, found.false_block.of) < 30:
        counts = f"{found.miss.of} bad and {found.false_block.of} good cases were judged"
        said.append(f"{counts}: the intervals are wide, read them and not the rates")
    return tuple(said)
