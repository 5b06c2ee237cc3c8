"""What became of each attempt, how long its steps took, and how many got how far: from the table of events. Pure."""

from __future__ import annotations

from typing import Final

import pandas as pd

from reports.facts import events
from reports.places import Home

STEPS: Final = ("dispatched", "acknowledged", "delivered", "reviewed", "decided")
REFUSALS: Final = (
    "ack_mismatch",
    "result_refused",
    "verdict_refused",
    "scope_violation",
    "fidelity_violation",
    "move_refused",
)
_DAY_US: Final = 86_400_000_000
_DISPATCHED: Final = ("task_dispatched", "task_redispatched")
_DECIDED: Final = ("task_approved", "task_rejected")


def attempts(home: Home = None, log: pd.DataFrame | None = None) -> pd.DataFrame:
    """Every attempt that was dispatched, a row each, in the log's order.

    Args:
        log: the table of events, where it is at hand already.

    Columns: task_id, attempt (int64), dispatch_id; executor, reviewer (as asked for), acked_by, reviewed_by, decided_by
    (who it was); dispatched_us, acked_us, delivered_us, reviewed_us, decided_us, ended_us (int64, µs since 1970 UTC, -1:
    never); to_ack_s, to_result_s, to_verdict_s, to_decision_s (float: seconds from the step before, missing where it did
    not come); outcome, verdict, decision, ended (the reason); criteria, operations, forwarded (issues that went with
    the dispatch), issues (of the verdict), refused (int64: messages that were refused); again (bool: not the task's first).
    """
    log = events(home) if log is None else log
    found = _dispatches(log)
    for step, types, more in _PARTS:
        found = found.merge(_part(log, step, types, more), on="dispatch_id", how="left")
    found = found.merge(_decisions(log), on=["task_id", "attempt"], how="left")
    refused = log[log["type"].isin(REFUSALS)].groupby("dispatch_id").size().rename("refused")
    found = found.merge(refused, left_on="dispatch_id", right_index=True, how="left")
    for name in (*(f"{step}_us" for step in ("acked", "delivered", "reviewed", "decided", "ended")), "refused"):
        found[name] = found[name].fillna(0 if name == "refused" else -1).astype("int64")
    for name in ("operations", "issues"):
        found[name] = found[name].fillna(0).astype("int64")
    return _with_spans(found)


def _dispatches(log: pd.DataFrame) -> pd.DataFrame:
    rows = log[log["type"].isin(_DISPATCHED)]
    columns = ["subject", "attempt", "dispatch_id", "executor", "reviewer", "time_us", "criteria", "issues"]
    names = {"subject": "task_id", "time_us": "dispatched_us", "issues": "forwarded"}
    found = rows[columns].rename(columns=names).reset_index(drop=True)
    found["again"] = (rows["type"] == "task_redispatched").to_numpy()
    return found


_PARTS: Final[tuple[tuple[str, tuple[str, ...], dict[str, str]], ...]] = (
    ("acked", ("ack_received",), {"actor": "acked_by"}),
    ("delivered", ("result_received",), {"outcome": "outcome", "operations": "operations"}),
    ("reviewed", ("verdict_received",), {"actor": "reviewed_by", "decision": "verdict", "issues": "issues"}),
    ("ended", ("attempt_ended", "ack_timeout"), {"reason": "ended"}),
)


def _part(log: pd.DataFrame, step: str, types: tuple[str, ...], more: dict[str, str]) -> pd.DataFrame:
    rows = log[log["type"].isin(types)].drop_duplicates("dispatch_id")
    names = {"dispatch_id": "dispatch_id", "time_us": f"{step}_us", **more}
    return rows[list(names)].rename(columns=names)


def _decisions(log: pd.DataFrame) -> pd.DataFrame:
    rows = log[log["type"].isin(_DECIDED) & (log["attempt"] > 0)].drop_duplicates(["subject", "attempt"])
    names = {"subject": "task_id", "attempt": "attempt", "time_us": "decided_us", "actor": "decided_by"}
    return rows[[*names, "decision"]].rename(columns=names)


def _with_spans(found: pd.DataFrame) -> pd.DataFrame:
    steps = ("dispatched", "acked", "delivered", "reviewed", "decided")
    for before, step, name in zip(steps, steps[1:], ("ack", "result", "verdict", "decision"), strict=False):
        began, came = found[f"{before}_us"], found[f"{step}_us"]
        found[f"to_{name}_s"] = ((came - began) / 1e6).where((came >= 0) & (began >= 0))
    return found


def funnel(found: pd.DataFrame) -> pd.DataFrame:
    """How many attempts got how far. Columns: step, count, share (of the first step)."""
    reached = [found[f"{step}_us"].ge(0) for step in ("dispatched", "acked", "delivered", "reviewed", "decided")]
    approved = found["decision"].eq("approved").fillna(False)
    counts = [int(one.sum()) for one in reached] + [int(approved.sum())]
    whole = counts[0]
    return pd.DataFrame(
        {
            "step": [*STEPS, "approved"],
            "count": counts,
            "share": [count / whole if whole else float("nan") for count in counts],
        }
    )


def rounds(found: pd.DataFrame) -> pd.DataFrame:
    """What became of first, second, third … attempts.

    Columns: attempt, dispatched, approved, rejected, ended (without a verdict), open (int64).
    """
    kind = pd.Series("open", index=found.index)
    kind = kind.mask(found["ended"].notna(), "ended")
    kind = kind.mask(found["decision"].eq("rejected").fillna(False), "rejected")
    kind = kind.mask(found["decision"].eq("approved").fillna(False), "approved")
    table = pd.crosstab(found["attempt"], kind).reindex(columns=["approved", "rejected", "ended", "open"], fill_value=0)
    table.insert(0, "dispatched", table.sum(axis=1))
    table.columns.name = None
    return table.reset_index()


def by_person(found: pd.DataFrame, who: str) -> pd.DataFrame:
    """Attempts by ``acked_by``, ``reviewed_by`` or ``decided_by``.

    Columns: who, attempts, refused (messages), issues (in verdicts), approved, rejected, median_s: the median of what this
    person's part took (the executor's from ACK to result, the reviewer's to the verdict, the approver's to the decision).
    """
    span = {"acked_by": "to_result_s", "reviewed_by": "to_verdict_s", "decided_by": "to_decision_s"}[who]
    found = found.assign(
        approved=found["decision"].eq("approved").fillna(False).astype("int64"),
        rejected=found["decision"].eq("rejected").fillna(False).astype("int64"),
    )
    groups = found.dropna(subset=[who]).groupby(found[who].astype("str"), sort=True)
    table = groups.agg(
        attempts=("attempt", "size"),
        refused=("refused", "sum"),
        issues=("issues", "sum"),
        approved=("approved", "sum"),
        rejected=("rejected", "sum"),
        median_s=(span, "median"),
    )
    return table.rename_axis("who").reset_index().sort_values(["attempts", "who"], ascending=[False, True])


def per_time(log: pd.DataFrame, slices: int = 60) -> pd.DataFrame:
    """Events by type over time. Columns: at_us (where the slice begins), type, count (what counted events stand for)."""
    if log.empty:
        return pd.DataFrame({"at_us": [], "type": [], "count": []})
    step = step_of(log["time_us"], slices)
    begins = log["time_us"] // step * step
    grouped = log["count"].groupby([begins.rename("at_us"), log["type"].astype("str")]).sum()
    return grouped.reset_index()


def step_of(times_us: pd.Series, slices: int) -> int:
    """A round length for slices of time (µs) that gives at most so many."""
    span = int(times_us.max() - times_us.min()) if len(times_us) else 0
    for seconds in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400):
        if span <= seconds * 1_000_000 * slices:
            return seconds * 1_000_000
    return -(-span // slices // _DAY_US) * _DAY_US or _DAY_US
