"""How faithful the work is: issues, what was carried verbatim, and what points at what. Read from the log's own lines.

It compares what the log says with itself, without the rules that wrote it: a second opinion, not a repetition.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

import pandas as pd

from audit.verify import verify
from reports.lines import Lines
from reports.places import Home, home_of

_TYPES: Final = (
    "task_dispatched",
    "task_redispatched",
    "ack_received",
    "result_received",
    "verdict_received",
    "task_approved",
    "task_rejected",
)


@dataclass(slots=True)
class _Attempt:
    """What the log tells of one attempt, as it goes on."""

    task_id: str
    attempt: int
    dispatch: dict[str, Any]
    due: list[Any] | None
    issues: list[Any] = field(default_factory=list)
    row: dict[str, Any] = field(default_factory=dict)


def coverage(home: Home = None) -> pd.DataFrame:
    """How far each attempt can be traced, a row each, in the log's order.

    Columns (int64 where they count):
        task_id, attempt, dispatch_id; criteria, touched (criteria that an operation names); operations, pointing
        (operations that name a criterion); issues, founded (issues of the verdict and the decision that name
        a criterion of the dispatch and, where there is a result, an operation of its work log); due and
        forwarded (issues that had to go with this dispatch, and that did); verbatim (bool: they are the same,
        in order); echoed (True where the ACK repeats criteria, scope and issues word for word; missing
        without an ACK); digest_given (of the decision; missing without one).
    """
    found = [_row(one) for one in _trace(Lines(home_of(home)))]
    frame = pd.DataFrame(found, columns=list(_COLUMNS))
    return frame.astype({"echoed": "boolean", "digest_given": "boolean", "verbatim": "bool"})


_COLUMNS: Final = (
    "task_id",
    "attempt",
    "dispatch_id",
    "criteria",
    "touched",
    "operations",
    "pointing",
    "issues",
    "founded",
    "due",
    "forwarded",
    "verbatim",
    "echoed",
    "digest_given",
)


def _trace(lines: Lines) -> list[_Attempt]:
    found: list[_Attempt] = []
    current: dict[str, _Attempt] = {}
    for event in lines.events(*_TYPES):
        task_id, data = str(event.get("subject")), event["data"]
        dispatch = data.get("dispatch")
        if isinstance(dispatch, dict):
            before = current.get(task_id)
            one = _Attempt(task_id, data.get("attempt", 0), dispatch, _due(before))
            current[task_id] = one
            found.append(one)
        elif task_id in current:
            _note(current[task_id], data)
    return found


def _due(before: _Attempt | None) -> list[Any] | None:
    """The issues that must go on: those of the rejected attempt; where it just ended, those that it was given."""
    if before is None:
        return []
    return before.issues if "decided" in before.row else before.dispatch.get("issues")


def _note(one: _Attempt, data: dict[str, Any]) -> None:
    row = one.row
    if isinstance(ack := data.get("ack"), dict):
        row["echoed"] = _is_echo(one.dispatch, ack)
    elif isinstance(result := data.get("result"), dict):
        row["work_log"] = result.get("work_log") or []
    elif isinstance(verdict := data.get("verdict"), dict):
        one.issues = [*one.issues, *(verdict.get("issues") or [])]
    elif isinstance(decision := data.get("decision"), dict):
        one.issues = [*one.issues, *(decision.get("issues") or [])]
        row["decided"], row["digest_given"] = True, data.get("digest_given")


def _is_echo(dispatch: dict[str, Any], ack: dict[str, Any]) -> bool:
    told = [(one.get("id"), one.get("text"), one.get("blob")) for one in dispatch.get("acceptance_criteria") or ()]
    echo = [(one.get("criterion_ref"), one.get("text"), one.get("blob")) for one in ack.get("echo") or ()]
    return told == echo and all(dispatch.get(name) == ack.get(name) for name in ("scope", "issues"))


def _row(one: _Attempt) -> dict[str, Any]:
    criteria = {criterion.get("id") for criterion in one.dispatch.get("acceptance_criteria") or ()}
    work = one.row.get("work_log") or []
    named = {ref for operation in work for ref in operation.get("criterion_refs") or ()}
    forwarded = one.dispatch.get("issues") or []
    return {
        "task_id": one.task_id,
        "attempt": one.attempt,
        "dispatch_id": one.dispatch.get("dispatch_id"),
        "criteria": len(criteria),
        "touched": len(criteria & named),
        "operations": len(work),
        "pointing": sum(bool(operation.get("criterion_refs")) for operation in work),
        "issues": len(one.issues),
        "founded": sum(_is_founded(issue, criteria, work) for issue in one.issues),
        "due": len(one.due or ()),
        "forwarded": len(forwarded),
        "verbatim": (one.due or []) == forwarded,
        "echoed": one.row.get("echoed"),
        "digest_given": one.row.get("digest_given"),
    }


def _is_founded(issue: dict[str, Any], criteria: set[Any], work: list[dict[str, Any]]) -> bool:
    operations = {operation.get("op_id") for operation in work}
    refs = set(issue.get("op_refs") or ())
    return issue.get("criterion_ref") in criteria and (bool(refs) and refs <= operations if work else not refs)


def issues(home: Home = None) -> pd.DataFrame:
    """Every issue of a verdict or a decision, a row each, in the log's order.

    Columns: seq (int64), time_us (int64, µs since 1970 UTC), task_id, by, of (``verdict`` or ``decision``), issue_id,
    criterion, severity (``blocker``, ``major``, ``minor``), operations (int64: how many it names), text.
    """
    rows: list[dict[str, Any]] = []
    for event in Lines(home_of(home)).events("verdict_received", "task_rejected"):
        of = "verdict" if event["type"] == "verdict_received" else "decision"
        part = event["data"].get(of) or {}
        for issue in part.get("issues") or ():
            told = {"seq": event["seq"], "time_us": event["time"], "task_id": event.get("subject"), "of": of}
            rows.append({**told, "by": part.get("by"), **_issue(issue)})
    frame = pd.DataFrame(rows, columns=list(_ISSUE_COLUMNS))
    moments = pd.to_datetime(frame["time_us"], utc=True, format="ISO8601").dt.as_unit("us")
    frame["time_us"] = moments.astype("int64")
    return frame


_ISSUE_COLUMNS: Final = (
    "seq",
    "time_us",
    "task_id",
    "by",
    "of",
    "issue_id",
    "criterion",
    "severity",
    "operations",
    "text",
)


def _issue(issue: dict[str, Any]) -> dict[str, Any]:
    return {
        "issue_id": issue.get("issue_id"),
        "criterion": issue.get("criterion_ref"),
        "severity": issue.get("severity"),
        "operations": len(issue.get("op_refs") or ()),
        "text": issue.get("text"),
    }


def chain(home: Home = None) -> dict[str, Any]:
    """Whether the log holds together: events, segments, last_seq, head, problem (None: it holds), torn_bytes."""
    return asdict(verify(home_of(home) / "audit"))
