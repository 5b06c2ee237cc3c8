"""What one process knows of a workspace: the log taken in, task after task. It reads, and never writes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from audit import files, kept_json
from audit.event import KINDS, Corrupt, Event
from audit.files import NotRegular, Signature
from audit.reader import LogReader, Rewound, event_at, events_of, read_events
from audit.segments import ACTIVE
from ssot import alarms, rules
from ssot.blobs import Blobs
from ssot.decided import WHOLE, check_decided
from ssot.ingest import delivery as deliveries
from ssot.rules import Refusal, Refused
from ssot.task import Task, document_bytes, document_digest, parse_known, review_digest
from ssot.texts import internalise
from ssot.view import Entry, HeldFile, OpenAttempt, Query, View

_KEPT_TASKS: Final = 200
_KEPT_EVENTS: Final = 4096
_LOOKS: Final = 10


@dataclass(frozen=True, slots=True)
class Planned:
    """An event ready for the log, and the document it results in."""

    event: Event
    task: Task | None = None
    document: bytes = b""


@dataclass(slots=True)
class _News:
    """What the log tells of a task that the view does not show yet: the last event that changed it, and what it names.

    `events` are all that changed it since, None once they are too many to be kept; `signs` are the signs of life
    among them.
    """

    seq: int = 0
    type: str = ""
    digest: str = ""
    events: list[Event] | None = field(default_factory=list)
    signs: dict[str, Event] = field(default_factory=dict)


class Known:
    """The tasks of one workspace as one process has taken them in. Thread-safe.

    What others did to a task is news until somebody asks for the task: then its file usually shows the outcome, and
    the log says by its digest that this is it. Only a file that shows something else sends us to the events.

    Args:
        home: the workspace.

    Attributes:
        view: all tasks, as they stood at the last `refresh`, and newer where this process asked or wrote since.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.tasks_folder = home / "ssot" / "tasks"
        self.audit_folder = home / "audit"
        self._tasks_prefix = f"{self.tasks_folder}/"
        self._active = str(self.audit_folder / ACTIVE)
        self.private_folder = home / ".kircerta"
        self.blobs = Blobs(home / "ssot" / "blobs")
        self.view = View()
        self._mutex = threading.RLock()
        self._reader = LogReader(self.audit_folder)
        self._seen: tuple[int, int] = (-1, -1)
        self._broken: Corrupt | None = None
        self._astray = False  # the view took in only a part of what its reader gave
        self._checkpoint_seq = 0
        self._news: dict[str, _News] = {}
        self._kept_events = 0
        self._tasks: dict[str, tuple[bytes, Task]] = {}

    def close(self) -> None:
        with self._mutex:
            self._reader.close()

    # --------------------------------------------------------------------------------------- catching up

    def is_current(self) -> bool:
        """Whether everything in the log was taken in and up: one `stat`; safe on an event loop."""
        return not self._news and self._has_read_all()

    def _has_read_all(self) -> bool:
        try:
            status = os.stat(self._active)
        except FileNotFoundError:
            return self._seen[0] <= 0
        except OSError:  # reading will say what it is
            return False
        return (status.st_ino, status.st_size) == self._seen

    def refresh(self) -> None:
        """Bring the view behind everything that others wrote. Raises Corrupt."""
        if self._is_sound() and self.is_current():
            return
        with self._mutex, self._all_or_broken(), self._named():
            try:
                self._read_on()
                for _ in range(_LOOKS):  # a file may show what came meanwhile
                    if not self._take_up_shown() or not self._read_on():
                        break
            except Rewound:
                self._start_over()
            self._take_up_all()
            self._note_seen()

    def _catch_up(self) -> None:
        """Take in what others wrote, as news. Raises Corrupt."""
        if self._is_sound() and self._has_read_all():
            return
        with self._mutex, self._all_or_broken(), self._named():
            try:
                self._read_on()
            except Rewound:
                self._start_over()
            self._note_seen()

    def _is_sound(self) -> bool:
        return self._broken is None and not self._astray

    def _read_on(self) -> bool:
        """Take in what the log holds behind the reader, to its end. Whether there was anything."""
        if self._astray:
            raise Rewound("the view is behind its reader")
        before = self._reader.place.seq
        while batch := self._reader.read(limit=4096):
            self._take_in(batch)
        return self._reader.place.seq > before

    def _start_over(self) -> None:
        """The log was replaced by another: forget everything, read it from its beginning."""
        self.view = View()
        self._tasks.clear()
        self._news.clear()
        self._kept_events = 0
        self._reader.restart()
        self._checkpoint_seq = 0
        self._astray = False
        self._read_on()

    def _note_seen(self) -> None:
        self._seen = self._reader.end

    def _take_in(self, events: Iterable[Event]) -> None:
        self._astray = True  # whatever stops this halfway: the next one begins anew
        for event in events:
            self._apply(event)
        self._astray = False

    @contextmanager
    def _all_or_broken(self) -> Iterator[None]:
        """A log that contradicts itself leaves the view behind the reader: from then on this store answers nothing."""
        if self._broken is not None:
            raise Corrupt(str(self._broken))
        try:
            yield
        except Corrupt as error:
            self._broken = error
            raise

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What the disk refuses anywhere below gets the one name that callers know."""
        try:
            yield
        except OSError as error:
            raise files.storage_error(error, f"the workspace {self.home}") from error

    def _apply(self, event: Event, planned: Planned | None = None) -> None:
        """Bring the view behind one event; what it makes of its task is news, if it was not planned here."""
        kind = KINDS.get(event.type)
        if kind is not None and kind.changes_task:
            if planned is not None and planned.task is not None:
                self._put(planned.task, planned.document, event.data["document_sha256"])
            else:
                self._add_news(event)
            self.view.last_change = (event.seq, event.cursor)
            self.view.held.pop(f"{event.subject}.json", None) if event.type == "task_adopted" else None
        elif kind is None and "document_sha256" in event.data:
            raise Corrupt(f"seq {event.seq} is a {event.type}, which a newer kircerta wrote: update this one")
        elif event.type in ("heartbeat", "heartbeat_warning"):
            self._note_sign(event)
        elif event.type == "task_invalid":
            self.view.hold(event)
        elif event.type == "alert":
            self.view.alarms = alarms.standing(self.view.alarms, event)
        elif event.type == "projects_changed":
            self.view.projects = event.data["new"]
        elif event.type == "task_restored":
            self.view.held.pop(f"{event.subject}.json", None)
        record = event.data.get("idempotency")
        if record is not None:
            self.view.remember(event, record)
        if "delivery_key" in event.data and event.type not in deliveries.REPEATS:
            self.view.remember_delivery(bytes.fromhex(event.data["delivery_key"]), event.seq)

    def _put(self, task: Task, document: bytes, digest: str) -> Entry:
        entry = self.view.put(task, document, digest)
        self._keep_parsed(document, task)
        return entry

    # ---------------------------------------------------------------------------------------------- news

    def _add_news(self, event: Event) -> None:
        task_id = event.subject
        assert task_id is not None
        news = self._news.get(task_id)
        if news is None:
            news = self._news[task_id] = _News()
            self.view.folded[task_id.casefold()] = task_id
        news.seq, news.type, news.digest = event.seq, event.type, str(event.data.get("document_sha256"))
        if news.events is None:
            return
        news.events.append(event)
        self._kept_events += 1
        if self._kept_events > _KEPT_EVENTS:
            self._kept_events -= len(news.events)
            news.events = None

    def _note_sign(self, event: Event) -> None:
        news = self._news.get(event.subject or "")
        if news is not None:
            news.signs[event.type] = event
        else:
            self.view.sign_of_life(event)

    def take_up(self, task_id: str) -> None:
        """Bring the view behind the news of one task. Raises Corrupt."""
        if task_id in self._news:
            with self._mutex, self._all_or_broken(), self._named():
                if not self._take_up_one(task_id):
                    self._take_up_from_log([task_id])

    def _take_up_all(self) -> None:
        if self._news:
            with self._all_or_broken(), self._named():
                self._take_up_from_log(self._take_up_shown())

    def _take_up_shown(self) -> list[str]:
        """Take up what can be had without a way through the log. Gives the tasks that are left."""
        return [task_id for task_id in list(self._news) if not self._take_up_one(task_id)]

    def _take_up_one(self, task_id: str) -> bool:
        news = self._news[task_id]
        forgeable = any(event.type in WHOLE for event in news.events or ())
        task = self._evolved(task_id, news) if forgeable else None  # a file would not show what its event brought along
        shown = self._shown_as(task_id, news.digest) if task is None else None
        if shown is not None:
            document, signature, seen_ns = shown
            entry = self._close(task_id, news, self._parsed(task_id, document), document)
            entry.signature, entry.checked_ns = signature, seen_ns
            return True
        task = task or self._evolved(task_id, news)
        if task is None:
            return False
        self._close(task_id, news, task, document_bytes(task))
        return True

    def _take_up_from_log(self, names: list[str]) -> None:
        """Files that promise something else, or nothing: take these tasks from the log."""
        tasks = self._rebuilt_many({name: self._news[name].seq for name in names})
        for name in names:
            self._close(name, self._news[name], tasks[name], document_bytes(tasks[name]))

    def _close(self, task_id: str, news: _News, task: Task, document: bytes) -> Entry:
        """These news are told; compared with the digest that their last event carries."""
        if document_digest(document) != news.digest:
            raise Corrupt(f"seq {news.seq} ({news.type} of {task_id}) does not lead to the document it names")
        entry = self._put(task, document, news.digest)
        del self._news[task_id]
        self._kept_events -= len(news.events or ())
        for event in sorted(news.signs.values(), key=lambda event: event.seq):
            self.view.sign_of_life(event)
        return entry

    def _evolved(self, task_id: str, news: _News) -> Task | None:
        """What the events make of the task as it stood before; None where that or some of them are not at hand."""
        if not news.events:
            return None
        entry, task = self.view.entries.get(task_id), None
        if entry is not None:
            document = self.view.documents.get(task_id) or self.from_file(entry)
            if document is None:
                return None
            task = self._parsed(task_id, document)
        for event in news.events:
            before = task
            try:
                task = rules.evolve(before, event, self.facts(event))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise Corrupt(f"seq {event.seq} ({event.type} of {task_id}) makes no sense: {error!r:.300}") from None
            check_decided(event, before, task)
        return task

    def facts(self, event: Event) -> dict[str, Any]:
        """An event's data, with what did not fit its line put back."""
        blob = event.data.get("blob")
        if "in_blob" not in event.data or not isinstance(blob, str):
            return event.data
        return {**event.data, **orjson.loads(self.blobs.text(blob))}

    # -------------------------------------------------------------------------------------------- reading

    def document(self, task_id: str) -> bytes | None:
        """The task's exact document as the log gives it; None for an unknown task."""
        with self._mutex:
            self.take_up(task_id)
            entry = self.view.entries.get(task_id)
            if entry is None:
                return None
            cached = self.view.documents.get(task_id)
            if cached is None:
                cached = self.from_file(entry) or document_bytes(self._rebuilt(task_id, entry.seq))
                self.view.remember_document(task_id, cached)
            return cached

    def from_file(self, entry: Entry) -> bytes | None:
        """The document from its file, where that shows what the log says."""
        shown = self._shown_as(entry.task_id, entry.digest)
        if shown is None:
            return None
        document, entry.signature, entry.checked_ns = shown
        return document

    def _shown_as(self, task_id: str, digest: str) -> tuple[bytes, Signature, int] | None:
        """A file's bytes, signature, and when it was looked at (ns); None where these are not the bytes asked for."""
        try:
            seen_ns = time.time_ns()
            data, signature = files.read_regular(self.path(task_id))
        except (OSError, NotRegular):
            return None
        return (data, signature, seen_ns) if document_digest(data) == digest else None

    def _rebuilt(self, task_id: str, seq: int) -> Task:
        """The task as it stood after an event, from the log alone: slow, and right."""
        task: Task | None = None
        for event in events_of(self.audit_folder, task_id):
            if event.seq > seq:
                break
            if (kind := KINDS.get(event.type)) and kind.changes_task:
                task = rules.evolve(task, event, self.facts(event))
        if task is None:
            raise Corrupt(f"the log does not tell how {task_id} stood at seq {seq}")
        return task

    def _rebuilt_many(self, wanted: dict[str, int]) -> dict[str, Task]:
        """Several tasks as they stood after an event each; many of them in one go through the log."""
        if len(wanted) <= 3:
            return {task_id: self._rebuilt(task_id, seq) for task_id, seq in wanted.items()}
        tasks: dict[str, Task] = {}
        for event in self.events():
            if (
                event.seq <= wanted.get(event.subject or "", 0)
                and (kind := KINDS.get(event.type))
                and kind.changes_task
            ):
                assert event.subject is not None
                tasks[event.subject] = rules.evolve(tasks.get(event.subject), event, self.facts(event))
        return tasks

    def task(self, task_id: str) -> Task:
        """The task as it stands. Raises Refused (not_found)."""
        found = self.task_or_none(task_id)
        if found is None:
            raise Refused(Refusal("not_found", f"there is no task {task_id[:200]}"))
        return found

    def task_or_none(self, task_id: str) -> Task | None:
        document = self.document(task_id)
        return None if document is None else self._parsed(task_id, document)

    def _parsed(self, task_id: str, document: bytes) -> Task:
        """The task of a document; tasks are immutable, so the ones just worked on are kept at hand."""
        kept = self._tasks.get(task_id)
        if kept is not None and kept[0] is document:
            return kept[1]
        task = parse_known(document)
        self._keep_parsed(document, task)
        return task

    def _keep_parsed(self, document: bytes, task: Task) -> None:
        if len(self._tasks) >= _KEPT_TASKS:
            self._tasks.clear()
        self._tasks[task.task_id] = (document, task)

    def detail(self, task_id: str) -> bytes | None:
        """What the detail route answers: the document with its long texts in place, and its `review_digest`."""
        with self._mutex:
            document = self.document(task_id)
        return None if document is None else self.detail_of(document)

    def detail_of(self, document: bytes, task: Task | None = None) -> bytes:
        """The detail answer for a document as it stood at any time; `task` is its task, where it is at hand."""
        body = orjson.loads(document)
        if b'"blob"' in document:
            body = internalise(body, self.blobs.text)
        body["review_digest"] = review_digest(task or parse_known(document)) if _has_verdict(body) else None
        return kept_json.dumps(body)

    def page(self, query: Query) -> bytes:
        """One page of the list, as JSON bytes."""
        with self._mutex:
            self._take_up_all()
            return self.view.page(query)

    def pending(self) -> list[str]:
        """Tasks that `dispatch_pending` takes, oldest first: never dispatched, no drafts, not finished before."""
        with self._mutex:
            self._take_up_all()
            keys = self.view.by_group.get("pending", ())
            entries = (self.view.entries[task_id] for _, task_id in keys)
            return [entry.task_id for entry in entries if entry.stage == "new" and entry.dispatchable]

    def open_attempts(self) -> list[OpenAttempt]:
        """All attempts under way."""
        with self._mutex:
            self._take_up_all()
            return list(self.view.opened.values())

    def held_files(self) -> list[HeldFile]:
        """Task files that wait for a person, checked against what lies there now."""
        with self._mutex:
            return [held for held in self.view.held.values() if self._still_held(held)]

    def _still_held(self, held: HeldFile) -> bool:
        path = self.tasks_folder / held.file
        try:
            data, _ = files.read_regular(path)
        except FileNotFoundError:
            return False
        except (OSError, NotRegular):
            return True
        return document_digest(data) == held.file_sha256

    def last_seq(self) -> int:
        return self._reader.place.seq

    def events(self, after: int = 0) -> Iterator[Event]:
        """The log behind `after`, from the files."""
        return read_events(self.audit_folder, after)

    def at(self, task_id: str, seq: int) -> Task:
        self.take_up(task_id)
        entry = self.view.entries.get(task_id)
        return self.task(task_id) if entry is not None and entry.seq == seq else self._rebuilt(task_id, seq)

    def version_at(self, task_id: str, seq: int) -> Task | None:
        event = event_at(self.audit_folder, seq)
        if event is None or event.subject != task_id or "document_sha256" not in event.data:
            return None
        return self.at(task_id, seq)

    def made_by_log(self, task_id: str, seq: int, raw: bytes) -> bool:
        event = event_at(self.audit_folder, seq)
        return (
            event is not None and event.subject == task_id and event.data.get("document_sha256") == document_digest(raw)
        )

    def path(self, task_id: str) -> str:
        return f"{self._tasks_prefix}{task_id}.json"


def _has_verdict(document: dict[str, Any]) -> bool:
    return bool(document["attempts"]) and document["attempts"][-1]["verdict"] is not None
