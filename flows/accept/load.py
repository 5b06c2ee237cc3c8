"""Load in a short form, and whether a long run was ever made. A run whose generator could not keep up shows nothing."""

from __future__ import annotations

import secrets
from typing import Any, Final

from flows.accept.ground import Broken, Checks, Ground, NotShown, expect
from flows.accept.record import Check
from flows.load import runs
from ssot.counted import counted
from ssot.runs import Bound, Kind, RunRecord, lasted_s, long_soaks
from ssot.settings import Settings

SECRETS: Final = {"github_secret": secrets.token_urlsafe(24)}
LONG: Final = "a soak of two hours or more held everything"
NOT_SHOWN: Final = (
    "what only shows over minutes and hours (leaks, rare stalls, a p99 worth its name): these runs last seconds",
)
_SHORT: Final[dict[Kind, dict[str, Any]]] = {
    "stress": {"duration_s": 6.0},
    "flood": {"duration_s": 6.0, "flood_bytes": (1024, 1024 * 1024), "alarms": False},
    "chaos": {"duration_s": 8.0, "alarms": False},
}
_CARELESS: Final = (
    "stream_gaps",
    "stream_repeats",
    "alarms_missing",
    "lost_decisions",
    "flood_accepted",
    "chaos_problems",
)
"""What has to hold however busy the machine is."""


def checks(on: Ground) -> Checks:
    """Two checks a run: what may never break, and how long things took."""
    made: dict[Kind, RunRecord] = {}
    yield (
        "stress, 100 readers, 10 deciders and 50 streams at once: nothing is lost",
        lambda: _nothing_lost(_run(on, made, "stress")),
    )
    yield "stress: both alarms that are provoked meanwhile stand in the log", lambda: _alarms(_run(on, made, "stress"))
    yield "stress: reads, decisions and streams keep their times", lambda: _in_time(_run(on, made, "stress"))
    yield "flood, 50 bad signatures a second: none is taken", lambda: _nothing_lost(_run(on, made, "flood"))
    yield "flood: reads keep their times meanwhile", lambda: _in_time(_run(on, made, "flood"))
    yield (
        "chaos, servers killed, a full disk, files edited: every acknowledged decision stands",
        (lambda: _nothing_lost(_run(on, made, "chaos"))),
    )


def _run(on: Ground, made: dict[Kind, RunRecord], kind: Kind) -> RunRecord:
    """The short run of a kind, made once."""
    if kind not in made:
        asked = runs.asked(on.settings, kind, None, _SHORT[kind])
        made[kind] = runs.carry_out(on.settings, asked, own_server=kind == "chaos")
    record = made[kind]
    if record.problem is not None:
        raise NotShown(f"{record.run_id} broke off: {record.problem}")
    return record


def _nothing_lost(record: RunRecord) -> str:
    bounds = [one for one in record.thresholds if one.expression.startswith(_CARELESS)]
    broken = [one for one in bounds if not one.ok]
    problems = "; ".join((record.chaos or {}).get("problems", ())[:3])
    expect(not broken, f"{_where(record)}: {_told(broken)} {problems}".strip())
    done = sum((record.chaos or {}).get("done", {}).values())
    trouble = f"trouble was made {counted(done, 'time')}; " if record.chaos else ""
    count = ", ".join(f"{figures.count} {name}" for name, figures in record.results.items())
    return f"{_where(record)}: {count}; {trouble}{_told(bounds)}"


def _alarms(record: RunRecord) -> str:
    found = {one.type: one for one in record.alarms if one.seq is not None}
    missing = [one.task_id for one in record.alarms if one.seq is None]
    expect(not missing, f"{_where(record)}: not in the log: {', '.join(missing)}")
    if len(found) < 2:
        raise NotShown(f"{record.run_id} was too short to provoke both")
    return "; ".join(f"seq {one.seq}: {one.type} of {one.task_id}" for one in found.values())


def _in_time(record: RunRecord) -> str:
    """Figures of a run that is invalid say nothing about the server, be they good or bad."""
    gates = [one for one in record.gates if not one.ok]
    if gates:
        raise NotShown(f"{record.run_id} is INVALID on this machine at this moment: {_told(gates)}")
    bounds = [one for one in record.thresholds if not one.expression.startswith(_CARELESS)]
    broken = [one for one in bounds if not one.ok]
    if broken:
        raise Broken(f"{_where(record)}: {_told(broken)}")
    return f"{_where(record)}: {_told(bounds)}"


def _where(record: RunRecord) -> str:
    first, last = record.log_seq or (0, 0)
    if record.kind == "chaos":
        return f"{record.run_id} ({counted(last - first, 'event')} in a workspace of its own)"
    return f"{record.run_id} (seq {first} to {last})"


def _told(bounds: list[Bound]) -> str:
    return ", ".join(f"{one.expression} (was {'nothing' if one.value is None else f'{one.value:g}'})" for one in bounds)


# ------------------------------------------------------------------------------------- the long criterion


def long_soak(settings: Settings) -> tuple[list[Check], list[str]]:
    """The check of the workspace's newest soak of two hours or more, else what is not shown."""
    done = long_soaks(settings.home)
    passed = [one for one in done if one.outcome == "pass"]
    if not passed:
        others = ", ".join(f"{one.run_id} is {one.outcome}" for one in done[-3:])
        why = f"reports/runs has no finished one that passed{f' ({others})' if others else ''}"
        return [], [f"{LONG}: {why}; `kircerta load soak --duration 2h` makes one"]
    newest = passed[-1]
    later = [
        f"; later, {one.run_id} failed" for one in done if one.outcome == "fail" and one.started_at > newest.started_at
    ]
    commit = (newest.git_commit or "unknown")[:12] + (", changed" if newest.git_dirty else "")
    lasted = f"{lasted_s(newest) / 3600:.2f} h, commit {commit}, {_where(newest)}"
    return [Check(name=LONG, ok=True, detail=lasted + "".join(later[-1:]))], []
