"""What a process holds in memory: one entry a task, in list order, as ready-made bytes. Fed by the log alone."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final, get_args

import orjson
from sortedcontainers import SortedList

from audit import kept_json
from audit.event import Event
from audit.files import Signature
from audit.stamp import seconds_of
from ssot.alarms import Raised
from ssot.gate import DueDecision, due_decision
from ssot.rules import Signs
from ssot.runs import is_load_task
from ssot.states import OPEN, Stage, stage_of
from ssot.task import Source, Status, Task

DOCUMENT_CACHE_BYTES: Final = 64 * 1024 * 1024
IDEMPOTENCY_S: Final = 24 * 3600.0
MAX_DELIVERIES: Final = 500_000
"""Deliveries that are recognised when they come again (some 80 MB at most); of older ones the tasks themselves tell."""


@dataclass(slots=True)
class Entry:
    """What is known of one task without reading its file. `digest` is that of the document the log gives."""

    task_id: str
    order: str
    status: str
    source: str
    stage: Stage
    title: str
    seq: int
    revision: int
    digest: str
    summary: bytes
    dispatchable: bool
    signature: Signature | None = None
    checked_ns: int = 0


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """An attempt under way: who runs it, and the signs of life that the log shows."""

    task_id: str
    dispatch_id: str
    stage: Stage
    executor: str
    reviewer: str
    executor_principal: str
    since: float
    ack_deadline: float
    signs: Signs = Signs()


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A task file that waits for a person."""

    file: str
    reason: str
    field: str
    detail: str
    file_sha256: str
    seq: int


@dataclass(frozen=True, slots=True)
class Remembered:
    """The first answer to an idempotency key: which event, for which body, and the refusal if it was one."""

    seq: int
    time: float
    body: str
    task_id: str
    refused: dict[str, str] | None


@dataclass(frozen=True, slots=True)
class Query:
    """One page of the list. `text` is looked for in id and title, ignoring case."""

    status: str | None = None
    source: str | None = None
    text: str | None = None
    limit: int = 200
    cursor: str | None = None
    stage: str | None = None


class BadCursor(ValueError):
    """The cursor is none that a page gave out."""


def order_key(created_at: str) -> str:
    """A timestamp in a form whose text order is its time order (fractions have 0 to 9 digits)."""
    whole, _, fraction = created_at[:-1].partition(".")
    return f"{whole}.{fraction:0<9}"


def summary_bytes(task: Task, stage: Stage) -> bytes:
    """One row of the list."""
    current = task.current
    return kept_json.dumps(
        {
            "task_id": task.task_id,
            "title": task.title,
            "source": task.source,
            "status": task.status,
            "stage": stage,
            "locked": task.locked,
            "attempt": current.attempt if current else 0,
            "revision": task.revision,
            "seq": task.seq,
            "created_at": task.created_at,
            "updated_at": task.updated_at,
            "correlation_id": task.correlation_id,
        }
    )


def is_dispatchable(task: Task) -> bool:
    """Whether `dispatch_pending` may take the task.

    Imported items that are finished or drafts are passed by, and what a load run made for itself.
    """
    if is_load_task(task.task_id):
        return False
    imported = task.metadata.get("import")
    return not (isinstance(imported, dict) and (imported.get("finished") or imported.get("draft")))


Key = tuple[str, str]


@dataclass
class View:
    """All tasks of a workspace at one position of the log. Its owner guards it against concurrent use."""

    entries: dict[str, Entry] = field(default_factory=dict)
    folded: dict[str, str] = field(default_factory=dict)
    opened: dict[str, OpenAttempt] = field(default_factory=dict)
    held: dict[str, HeldFile] = field(default_factory=dict)
    remembered: dict[str, Remembered] = field(default_factory=dict)
    deliveries: dict[bytes, int] = field(default_factory=dict)
    """The seq of each delivery's outcome by its key, oldest first."""
    alarms: dict[str, Raised] = field(default_factory=dict)
    """The alarms that stand, by name."""
    last_change: tuple[int, str] = (0, "")
    due: dict[str, DueDecision] = field(default_factory=dict)
    """Decisions with a deadline that is not known to be over, by task."""
    projects: str | None = None
    """The digest of what the projects' file said when that was last told of."""
    by_all: SortedList[Key] = field(default_factory=SortedList)
    by_group: dict[str, SortedList[Key]] = field(default_factory=dict)
    documents: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    _cached_bytes: int = 0

    # ------------------------------------------------------------------------------------------ feeding

    def put(self, task: Task, document: bytes, digest: str) -> Entry:
        """Take in a task as an event left it."""
        stage = stage_of(task)
        self._track_decision(task)
        old = self.entries.get(task.task_id)
        entry = Entry(
            task_id=task.task_id,
            order=order_key(task.created_at),
            status=task.status,
            source=task.source,
            stage=stage,
            title=task.title,
            seq=task.seq,
            revision=task.revision,
            digest=digest,
            summary=summary_bytes(task, stage),
            dispatchable=is_dispatchable(task),
            signature=old.signature if old else None,
            checked_ns=0,
        )
        self._index(entry, old)
        self.remember_document(task.task_id, document)
        self._track(task, stage)
        return entry

    def _index(self, entry: Entry, old: Entry | None) -> None:
        self.entries[entry.task_id] = entry
        self.folded[entry.task_id.casefold()] = entry.task_id
        key = (entry.order, entry.task_id)
        if old is None:
            self.by_all.add(key)
            self._group(entry.source).add(key)
            self._group(entry.status).add(key)
        elif old.status != entry.status:
            self._group(old.status).discard(key)
            self._group(entry.status).add(key)

    def _group(self, name: str) -> SortedList[Key]:
        return self.by_group.setdefault(name, SortedList())

    def index_many(self, entries: list[Entry]) -> None:
        """Take in entries of a checkpoint at once: sorting once is ten times faster than adding one by one."""
        groups: dict[str, list[Key]] = {}
        for entry in entries:
            self.entries[entry.task_id] = entry
            self.folded[entry.task_id.casefold()] = entry.task_id
            key = (entry.order, entry.task_id)
            groups.setdefault(entry.status, []).append(key)
            groups.setdefault(entry.source, []).append(key)
        self.by_all = SortedList((entry.order, entry.task_id) for entry in entries)
        self.by_group = {name: SortedList(keys) for name, keys in groups.items()}

    def remember_document(self, task_id: str, document: bytes) -> None:
        """Keep the newest documents at hand; the others are read from their files."""
        self._cached_bytes += len(document) - len(self.documents.pop(task_id, b""))
        self.documents[task_id] = document
        while self._cached_bytes > DOCUMENT_CACHE_BYTES and len(self.documents) > 1:
            self._cached_bytes -= len(self.documents.popitem(last=False)[1])

    def _track_decision(self, task: Task) -> None:
        due = due_decision(task)
        if due is None:
            self.due.pop(task.task_id, None)
        else:
            self.due[task.task_id] = due

    def _track(self, task: Task, stage: Stage) -> None:
        attempt = task.current
        if stage not in OPEN or attempt is None or attempt.dispatch is None:
            self.opened.pop(task.task_id, None)
            return
        dispatch = attempt.dispatch
        before = self.opened.get(task.task_id)
        signs = before.signs if before and before.dispatch_id == dispatch.dispatch_id else Signs()
        if attempt.ack is not None:
            signs = Signs(max(signs.last_sign, seconds_of(attempt.ack.at)), signs.last_heartbeat_event, signs.warned_at)
        self.opened[task.task_id] = OpenAttempt(
            task_id=task.task_id,
            dispatch_id=dispatch.dispatch_id,
            stage=stage,
            executor=dispatch.executor,
            reviewer=dispatch.reviewer,
            executor_principal=attempt.ack.by if attempt.ack else "",
            since=seconds_of(task.updated_at),
            ack_deadline=seconds_of(dispatch.ack_deadline),
            signs=signs,
        )

    def sign_of_life(self, event: Event) -> None:
        """A heartbeat, or the warning that there was none."""
        attempt = self.opened.get(event.subject or "")
        if attempt is None or attempt.dispatch_id != event.data.get("dispatch_id"):
            return
        moment = seconds_of(event.time)
        signs = attempt.signs
        if event.type == "heartbeat":
            signs = Signs(moment, moment, signs.warned_at)
        else:
            signs = Signs(signs.last_sign, signs.last_heartbeat_event, moment)
        self.opened[attempt.task_id] = OpenAttempt(
            **{name: getattr(attempt, name) for name in OpenAttempt.__slots__ if name != "signs"}, signs=signs
        )

    def hold(self, event: Event) -> None:
        data = event.data
        self.held[data["file"]] = HeldFile(
            data["file"], data["reason"], data["field"], data["detail"], data["file_sha256"], event.seq
        )

    def remember(self, event: Event, record: dict[str, Any]) -> None:
        """Keep the first answer to an idempotency key for 24 hours."""
        moment = seconds_of(event.time)
        self.remembered[record["key"]] = Remembered(
            event.seq, moment, record["body"], event.subject or "", record.get("refused")
        )
        if len(self.remembered) % 1024 == 0:
            self.forget_before(moment - IDEMPOTENCY_S)

    def remember_delivery(self, key: bytes, seq: int) -> None:
        """Recognise a delivery from now on. The oldest is forgotten in the log's order: the same in every process."""
        self.deliveries.setdefault(key, seq)
        if len(self.deliveries) > MAX_DELIVERIES:
            del self.deliveries[next(iter(self.deliveries))]

    def recall(self, key: str, now: str) -> Remembered | None:
        """The first answer to an idempotency key, if it is not older than 24 hours."""
        first = self.remembered.get(key)
        return first if first is not None and first.time >= seconds_of(now) - IDEMPOTENCY_S else None

    def forget_before(self, moment: float) -> None:
        self.remembered = {key: first for key, first in self.remembered.items() if first.time >= moment}

    # ------------------------------------------------------------------------------------------- asking

    def page(self, query: Query) -> bytes:
        """One page as JSON: ``{"tasks": […], "total": n, "next_cursor": …}``. Raises BadCursor."""
        keys = self._matching(query)
        start = keys.bisect_right(_key_of(query.cursor)) if query.cursor else 0
        rows = keys[start : start + query.limit]
        following = _cursor_of(rows[-1]) if start + len(rows) < len(keys) and rows else None
        body = b",".join([self.entries[task_id].summary for _, task_id in rows])
        return b'{"tasks":[%b],"total":%d,"next_cursor":%b}' % (body, len(keys), orjson.dumps(following))

    def _matching(self, query: Query) -> SortedList[Key]:
        if query.stage in OPEN:  # few: they are looked up, not searched for
            opened = (self.entries[one.task_id] for one in self.opened.values() if one.stage == query.stage)
            return SortedList((entry.order, entry.task_id) for entry in opened if self._fits(entry, query))
        if query.status is None and query.source is None and query.stage is None and not query.text:
            return self.by_all
        groups = [self.by_group.get(name, SortedList()) for name in (query.status, query.source) if name is not None]
        if len(groups) == 1 and query.stage is None and not query.text:
            return groups[0]
        candidates = min(groups, key=len) if groups else self.by_all
        return SortedList(key for key in candidates if self._fits(self.entries[key[1]], query))

    @staticmethod
    def _fits(entry: Entry, query: Query) -> bool:
        wanted = ((query.status, entry.status), (query.source, entry.source), (query.stage, entry.stage))
        if any(asked not in (None, stands) for asked, stands in wanted):
            return False
        return not query.text or query.text.casefold() in f"{entry.task_id}\n{entry.title}".casefold()

    def counts(self) -> dict[str, int]:
        """How many tasks there are of each status and of each source, 0 where there are none."""
        return {name: len(self.by_group.get(name, ())) for name in (*get_args(Status), *get_args(Source))}


def _cursor_of(key: Key) -> str:
    return urlsafe_b64encode(orjson.dumps(key)).rstrip(b"=").decode()


def _key_of(cursor: str) -> Key:
    try:
        order, task_id = orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        return str(order), str(task_id)
    except (ValueError, TypeError):
        raise BadCursor(f"{cursor[:80]!r} is not a cursor that a page gave out") from None
