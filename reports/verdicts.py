"""What a report comes down to: figures held against what was promised. Pure; the figures are made elsewhere."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd

from reports.records import Acceptance, Run, Threshold
from reports.tables import Verdict, Verdicts, number
from ssot.counted import counted

_KEPT_UP: Final = {True: "yes", False: "no: the run is invalid", None: "no outcome yet"}


def of_run(run: Run) -> Verdicts:
    """A run's own thresholds, and before them whether it may be believed at all."""
    ended = {"finished": True, "crashed": False}.get(run.state)
    found = [
        Verdict("the run came to its end", run.problem or run.state, ended),
        Verdict("the generator kept up", _KEPT_UP[_kept_up(run)], _kept_up(run)),
        *(Verdict(f"generator: {one.expression}", _figure(one), one.ok) for one in run.gates),
    ]
    # what an invalid run measured is the generator, not the server: its thresholds neither hold nor fail
    invalid = run.outcome == "invalid"
    found += [Verdict(one.expression, _figure(one), None if invalid else one.ok) for one in run.thresholds]
    return Verdicts(f"{run.run_id} ({run.kind})", tuple(found))


def _figure(one: Threshold) -> str:
    return "no figure" if one.value is None else number(one.value)


def _kept_up(run: Run) -> bool | None:
    return None if run.outcome is None else run.outcome != "invalid"


def of_comparison(differences: pd.DataFrame) -> Verdicts:
    """Whether the candidate became slower: one line a kind and measure; nobody can tell under five runs a side."""
    found = []
    for row in differences.to_dict("records"):
        chance = "" if pd.isna(row["p"]) else f", p = {row['p']:.3f}"
        change = f"{number(row['baseline'])} to {number(row['candidate'])} ms ({row['change_%']:+.0f} %{chance})"
        told = f"{row['says']}: {change}"
        ok = None if row["says"] == "too few runs" else row["says"] != "slower"
        found.append(Verdict(f"{row['kind']} {row['measure']} did not become slower", told, ok))
    return Verdicts("Baseline against candidate", tuple(found))


def of_acceptance(found: Acceptance) -> Verdicts:
    """The modules of the acceptance."""
    modules = []
    for module in found.modules:
        held = sum(one.ok for one in module.checks)
        modules.append(Verdict(module.name, f"{held} of {counted(len(module.checks), 'check')}", module.ok))
    return Verdicts("Acceptance", tuple(modules))


def of_log(log: pd.DataFrame, chain: dict[str, Any], coverage: pd.DataFrame, attempts: pd.DataFrame) -> Verdicts:
    """Whether the log holds together, and whether what it tells kept to the rules."""
    problem, events = chain["problem"], counted(chain["events"], "event")
    gaps = missing(log)
    decided = coverage["digest_given"].dropna()
    own = self_decided(attempts, log)
    found = [
        Verdict(
            "the chain holds",
            problem or f"{events}, head {chain['head'][:19]}…",
            problem is None,
        ),
        Verdict("no seq is missing", f"{gaps:,} missing", gaps == 0),
        Verdict(
            "every line is an event", f"{log.attrs.get('unreadable', 0):,} are not", not log.attrs.get("unreadable")
        ),
        _share("issues went on verbatim", coverage.loc[coverage["due"] > 0, "verbatim"]),
        _share("ACKs repeat their dispatch", coverage["echoed"].dropna().astype("bool")),
        _ratio(
            "issues name a criterion and an operation", int(coverage["founded"].sum()), int(coverage["issues"].sum())
        ),
        Verdict("nobody decided their own work", f"{own:,} did", own == 0),
        Verdict("decisions on the digest that was shown", _of(int(decided.sum()), len(decided)), None),
    ]
    return Verdicts("The log", tuple(found))


def missing(log: pd.DataFrame) -> int:
    """How many seqs the log skips."""
    if log.empty:
        return 0
    return int(log["seq"].max()) - int(log["seq"].nunique())


def self_decided(attempts: pd.DataFrame, log: pd.DataFrame) -> int:
    """How many decisions and approvals came from who executed or reviewed any attempt of that task."""
    done = attempts[["task_id", "acked_by", "reviewed_by"]].melt("task_id", value_name="who").dropna()
    parts = set(zip(done["task_id"], done["who"].astype("str"), strict=True))
    decided = attempts.dropna(subset=["decided_by"])
    approvals = log[log["type"] == "approval_given"]
    pairs = [
        *zip(decided["task_id"], decided["decided_by"].astype("str"), strict=True),
        *zip(approvals["subject"], approvals["actor"].astype("str"), strict=True),
    ]
    return sum(pair in parts for pair in pairs)


def _share(what: str, held: pd.Series) -> Verdict:
    return _ratio(what, int(held.sum()), len(held))


def _ratio(what: str, held: int, count: int) -> Verdict:
    return Verdict(what, _of(held, count), None if count == 0 else bool(held == count))


def _of(held: int, count: int) -> str:
    return f"{held:,} of {count:,}" + (f" ({held / count:.1%})" if count else "")
