"""What became of each attempt, how long its steps took, and how many got how far: from the table of events. Pure."""

from __future__ import annotations

from typing import Final

import pandas as pd

from audit.stamp import seconds_of
from reports.facts import events
from reports.places import Home
from reports.statistics import percentile
from ssot.runs import is_load_task

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

    Columns:
        task_id, attempt (int64), dispatch_id; executor, reviewer (as asked for), acked_by, reviewed_by, decided_by
        (who it was); dispatched_us, acked_us, delivered_us, reviewed_us, decided_us, ended_us (int64, µs
        since 1970 UTC, -1: never); to_ack_s, to_result_s, to_verdict_s, to_decision_s (float: seconds from
        the step before, missing where it did not come); outcome, verdict, decision, ended (the reason);
        criteria, operations, forwarded (issues that went with the dispatch), issues (of the verdict), refused
        (int64: messages that were); again (bool: not the first).
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

    Columns: who, attempts, refused (messages), issues (in verdicts), approved, rejected, median_s: the median of what
    their part took (the executor's from ACK to result, the reviewer's to the verdict, the approver's to the decision).
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
    """Events by type over time. Columns: at_us (the slice's begin), type, count (what counted events stand for)."""
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


def within(table: pd.DataFrame, column: str, since: str = "", until: str = "") -> pd.DataFrame:
    """The rows of a slice of time: from `since` on, before `until` (RFC 3339; empty: no bound)."""
    kept = pd.Series(data=True, index=table.index)
    if since:
        kept &= table[column] >= micros_of(since)
    if until:
        kept &= table[column] < micros_of(until)
    return table[kept]


def of_people(table: pd.DataFrame, column: str, load_runs: bool = False) -> pd.DataFrame:
    """The rows without those of tasks that load runs made for themselves, whose ids stand in `column`.

    `load_runs`: with them.
    """
    own = [] if load_runs else [one for one in table[column].dropna().unique() if is_load_task(str(one))]
    return table[~table[column].isin(own)] if own else table


def micros_of(moment: str) -> int:
    """A time (RFC 3339) as microseconds since 1970 UTC. Raises ValueError."""
    return round(seconds_of(moment) * 1e6)


def by_type(log: pd.DataFrame) -> pd.DataFrame:
    """Events by type, the most frequent first. Columns: type, events, count (what they stand for), first, last."""
    groups = log.groupby(log["type"].astype("str"))
    table = groups.agg(
        events=("seq", "size"), count=("count", "sum"), first=("time_us", "min"), last=("time_us", "max")
    )
    for name in ("first", "last"):
        table[name] = pd.to_datetime(table[name], unit="us", utc=True)
    return table.reset_index().sort_values(["events", "type"], ascending=[False, True])


def waits(found: pd.DataFrame) -> pd.DataFrame:
    """How long each step took. Columns: step, count, median, p95, longest (seconds, nearest rank)."""
    rows = []
    for name, step in _SPANS.items():
        values = found[name].dropna()
        told = {q: percentile(values, q) for q in (50, 95, 100)}
        rows.append({"step": step, "count": len(values), "median": told[50], "p95": told[95], "longest": told[100]})
    return pd.DataFrame(rows)


_SPANS: Final = {
    "to_ack_s": "dispatch to ACK",
    "to_result_s": "ACK to result",
    "to_verdict_s": "result to verdict",
    "to_decision_s": "verdict to decision",
}


def coverage_summary(coverage: pd.DataFrame) -> pd.DataFrame:
    """What can be traced, over all attempts. Columns: what, held, of (int64), share (float)."""
    delivered, decided = coverage[coverage["operations"] > 0], coverage["digest_given"].dropna()
    carried, echoed = coverage.loc[coverage["due"] > 0, "verbatim"], coverage["echoed"].dropna()
    counted = {
        "criteria that an operation names": (delivered["touched"].sum(), delivered["criteria"].sum()),
        "operations that name a criterion": (delivered["pointing"].sum(), delivered["operations"].sum()),
        "issues that name a criterion and an operation": (coverage["founded"].sum(), coverage["issues"].sum()),
        "dispatches that carry the issues verbatim": (carried.sum(), len(carried)),
        "ACKs that repeat the dispatch": (echoed.sum(), len(echoed)),
        "decisions on the digest that was shown": (decided.sum(), len(decided)),
    }
    rows = [(what, int(held), int(of), held / of if of else float("nan")) for what, (held, of) in counted.items()]
    return pd.DataFrame(rows, columns=["what", "held", "of", "share"])


def refusals(log: pd.DataFrame) -> pd.DataFrame:
    """Messages, dispatches and decisions that were refused. Columns: type, move, code, actor, count."""
    rows = log[log["type"].isin(REFUSALS)]
    keys = [rows[name].astype("str").fillna("") for name in ("type", "move", "code", "actor")]
    return rows.groupby(keys).size().rename("count").reset_index().sort_values("count", ascending=False)


def turned_away(log: pd.DataFrame) -> pd.DataFrame:
    """Requests and deliveries without a valid proof. Columns: type, route, address, count (how many, exactly)."""
    rows = log[log["type"].isin(("webhook_rejected", "auth_denied"))]
    keys = [rows[name].astype("str").fillna("") for name in ("type", "route", "address")]
    return rows["count"].groupby(keys).sum().reset_index().sort_values("count", ascending=False)


def alarms(log: pd.DataFrame) -> pd.DataFrame:
    """What the running system raised and cleared again. Columns: at (UTC), alarm, state, reason."""
    rows = log[log["type"] == "alert"]
    at = pd.to_datetime(rows["time_us"], unit="us", utc=True)
    return pd.DataFrame({"at": at, **{name: rows[name].astype("str") for name in ("alarm", "state", "reason")}})
