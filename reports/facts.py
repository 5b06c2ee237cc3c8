"""The log as one tidy table: a row an event, what matters of its data in columns. Reads only."""

from __future__ import annotations

from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from reports.lines import TIME, Lines
from reports.places import Home, home_of

_TEXT, _INT = pa.string(), pa.int64()
_ISSUES: Final = pa.list_(pa.struct([("issue_id", _TEXT)]))
_DISPATCH: Final = pa.struct(
    [
        ("dispatch_id", _TEXT),
        ("executor", _TEXT),
        ("reviewer", _TEXT),
        ("acceptance_criteria", pa.list_(pa.struct([("id", _TEXT)]))),
        ("issues", _ISSUES),
    ]
)
_DECIDED: Final = pa.struct([("decision", _TEXT), ("issues", _ISSUES)])
_RESULT: Final = pa.struct([("outcome", _TEXT), ("work_log", pa.list_(pa.struct([("op_id", _TEXT)])))])
_DATA: Final = pa.struct(
    [
        ("attempt", _INT),
        ("dispatch_id", _TEXT),
        ("dispatch", _DISPATCH),
        ("result", _RESULT),
        ("verdict", _DECIDED),
        ("decision", _DECIDED),
        ("ended", pa.struct([("reason", _TEXT)])),
        ("move", _TEXT),
        ("code", _TEXT),
        ("reason", _TEXT),
        ("why", _TEXT),
        ("alarm", _TEXT),
        ("state", _TEXT),
        ("detail", _TEXT),
        ("count", _INT),
        ("sender", _TEXT),
        ("delivery_kind", _TEXT),
        ("address", _TEXT),
        ("route", _TEXT),
        ("digest_given", pa.bool_()),
        ("run_id", _TEXT),
    ]
)
_NAMES: Final = ("id", "time", "type", "subject", "actor", "source", "correlationid")
SCHEMA: Final = pa.schema([("seq", _INT), *((name, _TEXT) for name in _NAMES), ("data", _DATA)])
"""What is read of a line. A field stands here only if every type of event that has it gives it the same type."""

CATEGORIES: Final = (
    "type",
    "actor",
    "source",
    "executor",
    "reviewer",
    "decision",
    "outcome",
    "move",
    "code",
    "reason",
    "alarm",
    "state",
    "sender",
    "delivery_kind",
    "address",
    "route",
)


def events(home: Home = None) -> pd.DataFrame:
    """The log, a row an event, in its order; a million events take a few seconds.

    Columns (texts are missing, numbers as told, where an event has no such thing):
        seq (int64), id, time_us (int64, µs since 1970 UTC), type, subject (the task's id), actor, source,
        correlationid;
        attempt (int64, -1), dispatch_id; executor, reviewer, criteria (int64, 0: how many) of a dispatch;
        outcome and operations (int64, 0: how many) of a result; decision of a verdict (``approve``,
        ``reject``) or of a person (``approved``, ``rejected``); issues (int64, 0: how many) of a dispatch, verdict or
        decision; digest_given (of a decision); move and code of a refusal; reason (why an attempt ended, a delivery was
        ignored, a file restored, an alarm raised); alarm and state (``raised``, ``cleared``) of an alert; detail; count
        (int64, 1: how many refusals one event counts); sender, delivery_kind of a delivery; address, route of counted
        refusals; run_id.

    ``attrs`` of the table: `unreadable`, the lines that are no event and were left out; `torn_bytes` behind the last.
    """
    lines = Lines(home_of(home))
    parts = [_flat(table) for table in lines.tables(SCHEMA)]
    # of no line at all: a row, and then none of it (pandas cannot merge columns that were made of nothing)
    table = pa.concat_tables(parts or [_flat(pa.Table.from_pylist([{}], SCHEMA))]).unify_dictionaries()
    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get)
    frame = frame if parts else frame.iloc[:0]
    frame.attrs = {"unreadable": lines.unreadable, "torn_bytes": lines.torn_bytes}
    return frame


def _flat(table: pa.Table) -> pa.Table:
    data = table["data"]
    dispatch, result, verdict = (pc.struct_field(data, name) for name in ("dispatch", "result", "verdict"))
    decision, ended = pc.struct_field(data, "decision"), pc.struct_field(data, "ended")
    own = {name: pc.struct_field(data, name) for name in _PLAIN}
    issues = [_length(part, "issues") for part in (dispatch, verdict, decision)]
    columns = {
        "seq": table["seq"],
        "id": table["id"],
        "time_us": micros(table["time"]),
        **{name: table[name] for name in ("type", "subject", "actor", "source", "correlationid")},
        "attempt": pc.fill_null(pc.struct_field(data, "attempt"), -1),
        "dispatch_id": pc.coalesce(pc.struct_field(data, "dispatch_id"), pc.struct_field(dispatch, "dispatch_id")),
        "executor": pc.struct_field(dispatch, "executor"),
        "reviewer": pc.struct_field(dispatch, "reviewer"),
        "criteria": _length(dispatch, "acceptance_criteria"),
        "outcome": pc.struct_field(result, "outcome"),
        "operations": _length(result, "work_log"),
        "decision": pc.coalesce(pc.struct_field(verdict, "decision"), pc.struct_field(decision, "decision")),
        "issues": pc.add(pc.add(issues[0], issues[1]), issues[2]),
        "reason": pc.coalesce(pc.struct_field(ended, "reason"), own["reason"], own["why"]),
        "count": pc.fill_null(pc.struct_field(data, "count"), 1),
        **{name: own[name] for name in _PLAIN if name not in ("reason", "why")},
    }
    found = {name: pc.dictionary_encode(value) if name in CATEGORIES else value for name, value in columns.items()}
    return pa.table(found)


_PLAIN: Final = (
    "move",
    "code",
    "reason",
    "why",
    "alarm",
    "state",
    "detail",
    "sender",
    "delivery_kind",
    "address",
    "route",
    "digest_given",
    "run_id",
)


def _length(part: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    return pc.fill_null(pc.cast(pc.list_value_length(pc.struct_field(part, name)), _INT), 0)


def micros(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """RFC 3339 texts as microseconds since 1970."""
    return pc.cast(pc.cast(times, TIME), _INT)
