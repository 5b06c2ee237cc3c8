"""What one process knows of a workspace: the log taken in, task after task. It reads, and never writes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from audit import files
from audit import log as audit_log
from audit.event import KINDS, Corrupt, Event
from audit.files import NotRegular
from audit.log import LogReader, Rewound
from ssot import alarms, rules
from ssot.blobs import Blobs
from ssot.decided import check_decided
from ssot.ingest import delivery as deliveries
from ssot.rules import Refusal, Refused
from ssot.task import (
    Invalid,
    Task,
    document_bytes,
    document_digest,
    internalise,
    parse_known,
    review_digest,
)
from ssot.view import Entry, HeldFile, OpenAttempt, Query, View

_KEPT_TASKS: Final = 200


@dataclass(frozen=True, slots=True)
class Planned:
    """An event ready for the log, and the document it results in."""

    event: Event
    task: Task | None = None
    document: bytes = b""


@dataclass(slots=True)
class _Ahead:
    """A task as its file shows it, and the last of its events that was passed by on the way there."""

    task: Task
    document: bytes
    passed: Event | None = None
    signs: dict[str, Event] = field(default_factory=dict)


class Known:
    """The tasks of one workspace as one process has taken them in. Thread-safe.

    Args:
        home: the workspace.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.tasks_folder = home / "ssot" / "tasks"
        self.audit_folder = home / "audit"
        self.private_folder = home / ".kircerta"
        self.blobs = Blobs(home / "ssot" / "blobs")
        self.view = View()
        self._mutex = threading.RLock()
        self._reader = LogReader(self.audit_folder)
        self._seen: tuple[int, int] = (-1, -1)
        self._broken: Corrupt | None = None
        self._astray = False  # the view took in only a part of what its reader gave
        self._checkpoint_seq = 0
        self._tasks: dict[str, tuple[bytes, Task]] = {}

    def close(self) -> None:
        with self._mutex:
            self._reader.close()

    # --------------------------------------------------------------------------------------- catching up

    def is_current(self) -> bool:
        """Whether everything in the log was taken in: one `stat`; safe on an event loop."""
        try:
            status = os.stat(self.audit_folder / audit_log.ACTIVE)
        except FileNotFoundError:
            return self._seen[0] <= 0
        except OSError:  # `refresh` will say what it is
            return False
        return (status.st_ino, status.st_size) == self._seen

    def refresh(self) -> None:
        """Take in what others wrote. Raises Corrupt."""
        if self._broken is None and not self._astray and self.is_current():
            return
        with self._mutex, self._all_or_broken(), self._named():
            try:
                if self._astray:
                    raise Rewound("the view is behind its reader")
                self._take_in(self._news())
            except Rewound:
                self._start_over()
            self._note_seen()

    def _news(self) -> Iterator[Event]:
        """What the log holds behind the reader, to its end."""
        while batch := self._reader.read(limit=4096):
            yield from batch

    def _start_over(self) -> None:
        """The log was replaced by another: forget everything, read it from its beginning."""
        self.view = View()
        self._tasks.clear()
        self._reader.restart()
        self._checkpoint_seq = 0
        self._astray = False
        self._take_in(self._news())

    def _note_seen(self) -> None:
        self._seen = self._reader.end

    def _take_in(self, events: Iterable[Event]) -> None:
        self._astray = True  # whatever stops this halfway: the next one begins anew
        ahead: dict[str, _Ahead] = {}
        for event in events:
            self._apply(event, ahead=ahead)
        if ahead:
            self._go_back(ahead)
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

    def _apply(self, event: Event, planned: Planned | None = None, *, ahead: dict[str, _Ahead] | None = None) -> None:
        """Bring the view behind one event. `ahead`: tasks whose files already show what is still to be read."""
        kind = KINDS.get(event.type)
        if kind is not None and kind.changes_task:
            if ahead is None or not self._is_passed_by(event, ahead):
                self._put(event, *((planned.task, planned.document) if planned else self._evolved(event)))
            self.view.last_change = (event.seq, event.cursor)
            self.view.held.pop(f"{event.subject}.json", None) if event.type == "task_adopted" else None
        elif kind is None and "document_sha256" in event.data:
            raise Corrupt(f"seq {event.seq} is a {event.type}, which a newer kircerta wrote: update this one")
        elif event.type in ("heartbeat", "heartbeat_warning"):
            if ahead and (far := ahead.get(event.subject or "")):
                far.signs[event.type] = event
            self.view.sign_of_life(event)
        elif event.type == "task_invalid":
            self.view.hold(event)
        elif event.type == "alert":
            self.view.alarms = alarms.standing(self.view.alarms, event)
        elif event.type == "task_restored":
            self.view.held.pop(f"{event.subject}.json", None)
        record = event.data.get("idempotency")
        if record is not None:
            self.view.remember(event, record)
        if "delivery_key" in event.data and event.type not in deliveries.REPEATS:
            self.view.remember_delivery(bytes.fromhex(event.data["delivery_key"]), event.seq)

    def _put(self, event: Event, task: Task | None, document: bytes) -> None:
        assert task is not None
        self.view.put(task, document, event.data["document_sha256"])
        self._keep_parsed(document, task)

    # While many events are read at once, a task's older versions interest nobody: its file already shows the newest,
    # and the log says by its digest that this is it. Only a file that promises too much sends us back into the log.

    def _is_passed_by(self, event: Event, ahead: dict[str, _Ahead]) -> bool:
        """Whether this event needs no evolving: the file shows its outcome, or that of a later one."""
        task_id = event.subject
        assert task_id is not None
        far = ahead.get(task_id)
        if far is None and task_id not in self.view.documents:
            far = self._ahead_of(event) or self._ahead_by_now(event)
        if far is None:
            return False
        far.passed = event
        if event.seq < far.task.seq:
            ahead[task_id] = far
            return True
        ahead.pop(task_id, None)
        if (event.seq, event.data.get("document_sha256")) == (far.task.seq, document_digest(far.document)):
            self._put(event, far.task, far.document)
        else:
            self._put(event, *self._rebuilt_as(event))
        self._tell_signs(far)
        return True

    def _ahead_of(self, event: Event) -> _Ahead | None:
        try:
            document, _ = files.read_regular(self.path(str(event.subject)))
            task = parse_known(document)
        except (OSError, NotRegular, Invalid):
            return None
        return _Ahead(task, document) if task.task_id == event.subject and task.seq >= event.seq else None

    def _ahead_by_now(self, event: Event) -> _Ahead | None:
        """The file still showed an older version, but may be exchanged at any moment: keep that version at hand.

        Where the exchange came in between, a second look at the file is far cheaper than the way through the log.
        """
        entry = self.view.entries.get(str(event.subject))
        if entry is None:
            return None
        document = self.from_file(entry)
        if document is None:
            return self._ahead_of(event)
        self.view.remember_document(entry.task_id, document)
        return None

    def _go_back(self, ahead: dict[str, _Ahead]) -> None:
        """The log ended before the files' promises came true: take these tasks from the log after all."""
        wanted = {task_id: far.passed.seq for task_id, far in ahead.items() if far.passed}
        tasks = self._rebuilt_many(wanted)
        for task_id, far in ahead.items():
            assert far.passed is not None
            self._put(far.passed, *self._checked(far.passed, tasks[task_id]))
            self._tell_signs(far)

    def _tell_signs(self, far: _Ahead) -> None:
        for event in sorted(far.signs.values(), key=lambda event: event.seq):
            self.view.sign_of_life(event)

    def _rebuilt_as(self, event: Event) -> tuple[Task, bytes]:
        return self._checked(event, self._rebuilt(str(event.subject), event.seq))

    def _checked(self, event: Event, task: Task) -> tuple[Task, bytes]:
        document = document_bytes(task)
        if document_digest(document) != event.data.get("document_sha256"):
            raise Corrupt(f"seq {event.seq} ({event.type} of {event.subject}) does not lead to the document it names")
        return task, document

    def _evolved(self, event: Event) -> tuple[Task, bytes]:
        """What an event makes of its task: computed, and compared with the digest that the event carries."""
        assert event.subject is not None
        try:
            before = self.task_or_none(event.subject)
            task = rules.evolve(before, event, self.facts(event))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Corrupt(f"seq {event.seq} ({event.type} of {event.subject}) makes no sense: {error!r:.300}") from None
        check_decided(event, before, task)
        return self._checked(event, task)

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
            entry = self.view.entries.get(task_id)
            if entry is None:
                return None
            cached = self.view.documents.get(task_id)
            if cached is None:
                cached = self.from_file(entry) or document_bytes(self._rebuilt(task_id, entry.seq))
                self.view.remember_document(task_id, cached)
            return cached

    def from_file(self, entry: Entry) -> bytes | None:
        try:
            data, _ = files.read_regular(self.path(entry.task_id))
        except (OSError, NotRegular):
            return None
        return data if document_digest(data) == entry.digest else None

    def _rebuilt(self, task_id: str, seq: int) -> Task:
        """The task as it stood after an event, from the log alone: slow, and right."""
        task: Task | None = None
        for event in audit_log.events_of(self.audit_folder, task_id):
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
        return orjson.dumps(body)

    def page(self, query: Query) -> bytes:
        """One page of the list, as JSON bytes."""
        with self._mutex:
            return self.view.page(query)

    def pending(self) -> list[str]:
        """Tasks that `dispatch_pending` takes, oldest first: never dispatched, no drafts, not finished before."""
        with self._mutex:
            keys = self.view.by_group.get("pending", ())
            entries = (self.view.entries[task_id] for _, task_id in keys)
            return [entry.task_id for entry in entries if entry.stage == "new" and entry.dispatchable]

    def open_attempts(self) -> list[OpenAttempt]:
        """All attempts under way."""
        with self._mutex:
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
        return audit_log.read_events(self.audit_folder, after)

    def at(self, task_id: str, seq: int) -> Task:
        entry = self.view.entries.get(task_id)
        return self.task(task_id) if entry is not None and entry.seq == seq else self._rebuilt(task_id, seq)

    def version_at(self, task_id: str, seq: int) -> Task | None:
        event = audit_log.event_at(self.audit_folder, seq)
        if event is None or event.subject != task_id or "document_sha256" not in event.data:
            return None
        return self.at(task_id, seq)

    def made_by_log(self, task_id: str, seq: int, raw: bytes) -> bool:
        event = audit_log.event_at(self.audit_folder, seq)
        return (
            event is not None and event.subject == task_id and event.data.get("document_sha256") == document_digest(raw)
        )

    def path(self, task_id: str) -> Path:
        return self.tasks_folder / f"{task_id}.json"


def _has_verdict(document: dict[str, Any]) -> bool:
    return bool(document["attempts"]) and document["attempts"][-1]["verdict"] is not None
