"""The log over HTTP: pages of events, each exactly the line that stands in the file."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from api.answers import Answer
from api.desk import Desk
from api.parameters import moment, query_parameters, unusable, whole_number
from audit.event import KINDS, Event
from audit.reader import LogReader, Rewound, seq_before
from ssot.task import TASK_ID

MAX_EVENTS: Final = 1000
SCAN_LINES: Final = 5_000
"""How many lines one request looks at; `next_after` tells where the next one goes on."""
_BATCH: Final = 1000
_PAGE_BYTES: Final = 8 * 1024 * 1024
_MAX_SEQ: Final = 2**53
_TYPE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)  # also one that a newer kircerta writes


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events, and how many at most. `since` is included, `until` is not."""

    after: int = 0
    limit: int = 100
    type: str | None = None
    subject: str | None = None
    since: str | None = None
    until: str | None = None

    def takes(self, event: Event) -> bool:
        return self.type in (None, event.type) and self.subject in (None, event.subject)


class AuditRoutes:
    """`GET /api/audit`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def events(self, request: Request) -> Response:
        self._desk.gate.reader(request)
        wanted = filter_of(request.scope["query_string"])
        store = await self._desk.catch_up()
        body = await asyncio.to_thread(page, store.audit_folder, store.last_seq(), wanted)
        return Answer(200, body)


def filter_of(raw: bytes) -> Filter:
    """What a query string asks for. Raises Problem (invalid_query)."""
    found = query_parameters(raw, ("after", "limit", "type", "subject", "since", "until"))
    kind, subject = found.get("type"), found.get("subject")
    if kind is not None and not _TYPE.fullmatch(kind):
        raise unusable("type", f"is a type of event, e.g. {next(iter(KINDS))}")
    if subject is not None and not TASK_ID.fullmatch(subject):
        raise unusable("subject", "is a task id")
    return Filter(
        after=whole_number(found, "after", default=0, least=0, most=_MAX_SEQ),
        limit=whole_number(found, "limit", default=100, least=1, most=MAX_EVENTS),
        type=kind,
        subject=subject,
        since=moment(found, "since"),
        until=moment(found, "until"),
    )


def page(folder: Path, last_seq: int, wanted: Filter) -> bytes:
    """One page as JSON: the lines as they stand, and where to go on. Raises Corrupt."""
    lines, at = _scan(folder, _begin(folder, last_seq, wanted), last_seq, wanted)
    following = b"null" if at is None else b"%d" % at
    return b'{"events":[%b],"next_after":%b}' % (b",".join(lines), following)


def _scan(folder: Path, after: int, last_seq: int, wanted: Filter) -> tuple[list[bytes], int | None]:
    """The lines taken, and the seq of the last one looked at; None when nothing more is there now."""
    lines: list[bytes] = []
    size = looked_at = 0
    step = wanted.limit if wanted.type is None and wanted.subject is None else _BATCH
    try:
        reader = LogReader.after(folder, after)
    except Rewound:  # nothing stands behind that seq
        return [], None
    try:
        while looked_at < SCAN_LINES and (batch := reader.read(limit=min(step, SCAN_LINES - looked_at))):
            for event in batch:
                looked_at += 1
                if wanted.until is not None and event.time >= wanted.until:
                    return lines, None
                if wanted.takes(event):
                    lines.append(event.line)
                    size += len(event.line)
                if len(lines) >= wanted.limit or size >= _PAGE_BYTES:
                    return lines, event.seq if event.seq < last_seq else None
        return lines, reader.place.seq if looked_at and reader.place.seq < last_seq else None
    finally:
        reader.close()


def _begin(folder: Path, last_seq: int, wanted: Filter) -> int:
    """The seq behind which a page may begin."""
    return wanted.after if wanted.since is None else max(wanted.after, seq_before(folder, wanted.since, last_seq))
