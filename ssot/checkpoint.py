"""A private cache of the view at one position of the log. Only ever a cache: when in doubt it is thrown away."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from audit import files
from audit.event import Corrupt
from audit.files import Signature
from audit.reader import LogReader, Place, Rewound
from ssot.alarms import Raised
from ssot.gate import DueDecision
from ssot.rules import Signs
from ssot.view import Entry, HeldFile, OpenAttempt, Remembered, View

FORMAT: Final = 4
NAME: Final = "checkpoint.json"
_MAX_BYTES: Final = 4 * 1024**3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is written: a place in the log, and the rows as tuples."""

    place: Place
    inode: int
    offset: int
    body: dict[str, Any]
    rows: list[tuple[Entry, Signature | None, int]]


def take(view: View, reader: LogReader) -> Snapshot:
    """Copy what is needed; quick, since the owner's lock is held."""
    body = {
        "held": [asdict(held) for held in view.held.values()],
        "opened": [asdict(attempt) for attempt in view.opened.values()],
        "remembered": {key: asdict(first) for key, first in view.remembered.items()},
        "deliveries": [(key.hex(), seq) for key, seq in view.deliveries.items()],
        "alarms": [asdict(raised) for raised in view.alarms.values()],
        "last_change": list(view.last_change),
        "due": [asdict(one) for one in view.due.values()],
        "projects": view.projects,
    }
    # signatures as they are now: a later one may vouch for bytes that are not flushed yet
    rows = [(entry, entry.signature, entry.checked_ns) for entry in view.entries.values()]
    return Snapshot(reader.place, reader.inode, reader.offset, body, rows)


def save(folder: Path, snapshot: Snapshot) -> None:
    """Write a snapshot: a header line with its digest, then everything else."""
    payload = orjson.dumps({**snapshot.body, "rows": [_row(*row) for row in snapshot.rows]})
    header = orjson.dumps(
        {
            "format": FORMAT,
            "place": asdict(snapshot.place),
            "inode": snapshot.inode,
            "offset": snapshot.offset,
            "sha256": hashlib.sha256(payload).hexdigest(),
        }
    )
    files.replace_file(folder / NAME, header + b"\n" + payload)


def _row(entry: Entry, signature: Signature | None, checked_ns: int) -> list[Any]:
    times = [signature.inode, signature.size, signature.mtime_ns, signature.ctime_ns] if signature else None
    return [
        entry.task_id,
        entry.order,
        entry.status,
        entry.source,
        entry.stage,
        entry.title,
        entry.seq,
        entry.revision,
        entry.digest,
        entry.summary.decode(),
        entry.dispatchable,
        times,
        checked_ns,
    ]


def _entry(row: list[Any]) -> Entry:
    row[9] = row[9].encode()
    row[11] = Signature(*row[11]) if row[11] else None
    return Entry(*row)


def load(folder: Path, audit_folder: Path) -> tuple[View, LogReader] | None:
    """The view and a reader at its place; None when there is no checkpoint that fits the log as it stands."""
    try:
        raw, _ = files.read_regular(folder / NAME, _MAX_BYTES)
        head, _, payload = raw.partition(b"\n")
        header = orjson.loads(head)
        if header["format"] != FORMAT or header["sha256"] != hashlib.sha256(payload).hexdigest():
            return None
        reader = LogReader(audit_folder, Place(**header["place"]), header["offset"], header["inode"])
        return _view(orjson.loads(payload)), reader
    except (OSError, files.NotRegular, ValueError, KeyError, TypeError, Rewound, Corrupt):
        return None


def _view(body: dict[str, Any]) -> View:
    view = View()
    view.index_many([_entry(row) for row in body["rows"]])
    view.held = {held["file"]: HeldFile(**held) for held in body["held"]}
    for attempt in body["opened"]:
        attempt["signs"] = Signs(**attempt["signs"])
        view.opened[attempt["task_id"]] = OpenAttempt(**attempt)
    view.remembered = {key: Remembered(**first) for key, first in body["remembered"].items()}
    view.deliveries = {bytes.fromhex(key): seq for key, seq in body["deliveries"]}
    view.alarms = {raised["alarm"]: Raised(**raised) for raised in body["alarms"]}
    seq, cursor = body["last_change"]
    view.last_change = (seq, cursor)
    for due in body["due"]:
        due["reminders"] = tuple((moment, before_s) for moment, before_s in due["reminders"])
        view.due[due["task_id"]] = DueDecision(**due)
    view.projects = body["projects"]
    return view
