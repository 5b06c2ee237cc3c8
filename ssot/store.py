"""The truth: the only writer of task files. Every change goes through the log first, then shows in its file."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import orjson

from audit import files, mac
from audit import log as audit_log
from audit.event import KINDS, MAX_LINE_BYTES, Corrupt, Draft, Event, encode
from audit.files import NotRegular, Signature, StorageFailed
from audit.log import AuditLog, LogReader, Place, Rewound, Transaction
from audit.stamp import Clock
from ssot import adopt, alarms, checkpoint, rules
from ssot.adopt import Adopted, Held, Outdated
from ssot.alarms import Raised
from ssot.blobs import Blobs
from ssot.decided import check_decided
from ssot.ingest import delivery as deliveries
from ssot.ingest.delivery import Delivered, Delivery
from ssot.intents import Create, Intent
from ssot.rules import Policy, Refusal, Signs
from ssot.task import (
    TASK_ID,
    Invalid,
    Task,
    document_bytes,
    document_digest,
    externalise,
    internalise,
    parse_known,
    review_digest,
)
from ssot.view import Entry, HeldFile, OpenAttempt, Query, View

SETTLE_S: Final = 0.3
"""A file that makes no sense and is younger than this may still be being written: it is looked at again later."""
RACY_NS: Final = 20_000_000
"""A file changed this shortly before it was looked at may change again without its times showing it."""
REFUSAL_S: Final = 10.0
"""The same refusal to the same caller is recorded once in this many seconds."""
_CHUNK: Final = 200
_ROOM_FOR_ENVELOPE: Final = 4096


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """What the store depends on: the rules' policy, its own limits (seconds, bytes), the server's key for decisions.

    Without a key decisions carry no MAC.
    """

    policy: Policy = Policy()
    lock_timeout_s: float = files.LOCK_TIMEOUT_S
    segment_bytes: int = audit_log.SEGMENT_BYTES
    mac_key: mac.MacKey | None = None


class Refused(Exception):
    """The rules said no. Ask differently; the refusal is in the log where that is worth knowing."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.code = refusal.code
        self.detail = refusal.detail
        self.facts = refusal.facts


class IdempotencyMismatch(Exception):
    """The idempotency key was used before, with another body."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Digests of principal, route and key, and of the body."""

    key: str
    body: str


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit left: the task, its exact document bytes, and the events that made it so (none for a repeat)."""

    task: Task
    document: bytes
    events: tuple[Event, ...] = ()
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class _Planned:
    """An event ready for the log, and the document it results in."""

    event: Event
    task: Task | None = None
    document: bytes = b""


@dataclass(slots=True)
class _Findings:
    """What a look at some task files came to: what to log, what to write again, and what to leave alone."""

    drafts: list[Draft] = field(default_factory=list)
    rewrite: list[str] = field(default_factory=list)
    untouchable: set[str] = field(default_factory=set)
    claimed: dict[str, str] = field(default_factory=dict)  # the names of new tasks, by their casefolded form


@dataclass(slots=True)
class _Ahead:
    """A task as its file shows it, and the last of its events that was passed by on the way there."""

    task: Task
    document: bytes
    passed: Event | None = None
    signs: dict[str, Event] = field(default_factory=dict)


class Store:
    """The tasks of one workspace, as one process sees them. Thread-safe; any number of processes at once.

    Args:
        home: the workspace.
        source: the process kind for the events, e.g. ``kircerta/api``.
    """

    def __init__(
        self, home: Path, *, source: str, settings: StoreSettings | None = None, clock: Clock | None = None
    ) -> None:
        self.home = home
        self.settings = settings or StoreSettings()
        self.tasks_folder = home / "ssot" / "tasks"
        self.audit_folder = home / "audit"
        self.private_folder = home / ".kircerta"
        self.blobs = Blobs(home / "ssot" / "blobs")
        self._prepare()
        self.log = AuditLog(self.audit_folder, source=source, clock=clock, segment_bytes=self.settings.segment_bytes)
        self._mutex = threading.RLock()
        self.view = View()
        self._reader = LogReader(self.audit_folder)
        self._seen: tuple[int, int] = (-1, -1)
        self._unsettled: set[str] = set()
        self._behind: set[str] = set()  # tasks whose files may not show what the log says
        self._standing: dict[
            str, tuple[Signature, str, int] | None
        ] = {}  # what was seen in files under this lock, when
        self._broken: Corrupt | None = None
        self._astray = False  # the view took in only a part of what its reader gave
        self._refused: dict[tuple[Any, ...], float] = {}
        self._checkpoint_seq = 0
        self._tasks: dict[str, tuple[bytes, Task]] = {}

    def _prepare(self) -> None:
        files.check_supported(self.home)
        try:
            for folder in (self.tasks_folder, self.blobs.folder, self.audit_folder, self.private_folder):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.storage_error(error, f"the workspace {self.home}") from None

    @classmethod
    def open(
        cls,
        home: Path,
        *,
        source: str,
        settings: StoreSettings | None = None,
        clock: Clock | None = None,
        scan: bool = True,
    ) -> Store:
        """A store that has read the log. `scan` compares every task file too; without it, only after a reboot."""
        store = cls(Path(home).absolute(), source=source, settings=settings, clock=clock)
        store._load()
        if scan or store._scan_is_due():
            store.scan()
        return store

    # --------------------------------------------------------------------------------------- catching up

    def _load(self) -> None:
        """Read the log, from the checkpoint on where there is a valid one."""
        with self._mutex:
            found = checkpoint.load(self.private_folder, self.audit_folder)
            if found is not None:
                self.view, self._reader = found
                self._checkpoint_seq = self._reader.place.seq
            self.refresh()

    def _scan_is_due(self) -> bool:
        """After a reboot files may have lost what was not flushed; also when nobody has looked yet."""
        try:
            fd = os.open(self.audit_folder / ".lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            marker = audit_log.Marker.load(fd)
            return marker.boot != audit_log.BOOT or marker.applied < 0
        finally:
            os.close(fd)

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

    def _apply(self, event: Event, planned: _Planned | None = None, *, ahead: dict[str, _Ahead] | None = None) -> None:
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
            document, _ = files.read_regular(self._path(str(event.subject)))
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
        document = self._from_file(entry)
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
            before = self._task_or_none(event.subject)
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
                cached = self._from_file(entry) or document_bytes(self._rebuilt(task_id, entry.seq))
                self.view.remember_document(task_id, cached)
            return cached

    def _from_file(self, entry: Entry) -> bytes | None:
        try:
            data, _ = files.read_regular(self._path(entry.task_id))
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
        found = self._task_or_none(task_id)
        if found is None:
            raise Refused(Refusal("not_found", f"there is no task {task_id[:200]}"))
        return found

    def _task_or_none(self, task_id: str) -> Task | None:
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
        if len(self._tasks) >= _CHUNK:
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

    # -------------------------------------------------------------------------------------------- commits

    def commit(
        self,
        task_id: str,
        intent: Intent,
        *,
        actor: str,
        idempotency: IdempotencyKey | None = None,
        timeout: float | None = None,
    ) -> Committed:
        """Judge an intent on the task as it stands now, and carry it out: log first, then the file.

        Raises:
            Refused: the rules said no (recorded in the log, but for an unknown task).
            IdempotencyMismatch: the key came with another body before.
            Busy, StorageFailed, Corrupt: nothing was done.
        """
        _check_task_id(task_id)
        with self._transaction(timeout) as transaction:
            if idempotency is not None and (first := self.view.recall(idempotency.key, transaction.stamp.now)):
                return self._repeat(first.seq, first.body, first.refused, idempotency)
            untouchable = self._reconcile([task_id], transaction, quiet=False)
            ruling = self._ruling(task_id, intent, actor, transaction)
            drafts = ruling.drafts
            if idempotency is not None:
                drafts = _with_idempotency(drafts, ruling.refusal, idempotency)
            elif drafts and self._was_just_told(drafts[0]):
                drafts = ()
            try:
                events = self._record(drafts, transaction, hold_back=untouchable)
            except Refused as refused:  # only now: it would grow too large
                self._record([self._move_refused(task_id, intent, actor, refused)], transaction)
                raise
            if ruling.refusal is not None:
                raise Refused(ruling.refusal)
            document = self.document(task_id)
            assert document is not None
            return Committed(self._parsed(task_id, document), document, tuple(events))

    def commit_many(self, intents: Sequence[tuple[str, Intent]], *, actor: str) -> list[Committed | Refused]:
        """Several intents on different tasks under one lock and, chunk by chunk, one sync. Answers in order."""
        answers: list[Committed | Refused] = []
        for begin in range(0, len(intents), _CHUNK):
            answers += self._commit_chunk(intents[begin : begin + _CHUNK], actor)
        return answers

    def _commit_chunk(self, chunk: Sequence[tuple[str, Intent]], actor: str) -> list[Committed | Refused]:
        with self._transaction(None) as transaction:
            names = [task_id for task_id, _ in chunk if TASK_ID.fullmatch(task_id)]
            untouchable = self._reconcile(names, transaction, quiet=False)
            refused: dict[int, Refused] = {}
            waiting: dict[int, tuple[Draft, ...]] = {}
            named: set[str] = set()
            for position, (task_id, intent) in enumerate(chunk):
                if task_id.casefold() in named:  # the earlier one has to stand before this one is judged
                    refused.update(self._record_each(waiting, transaction, untouchable))
                    waiting, named = {}, set()
                named.add(task_id.casefold())
                try:
                    ruling = self._ruling(task_id, intent, actor, transaction)
                except Refused as error:
                    refused[position] = error
                    continue
                waiting[position] = ruling.drafts
                if ruling.refusal is not None:
                    refused[position] = Refused(ruling.refusal)
            refused.update(self._record_each(waiting, transaction, untouchable))
            return [refused.get(at) or self._committed(task_id) for at, (task_id, _) in enumerate(chunk)]

    def _record_each(
        self, waiting: dict[int, tuple[Draft, ...]], transaction: Transaction, untouchable: frozenset[str]
    ) -> dict[int, Refused]:
        """Record all of them at once; where one would grow too large, one by one. Gives those that were refused."""
        try:
            self._record([draft for drafts in waiting.values() for draft in drafts], transaction, hold_back=untouchable)
            return {}
        except Refused:  # nothing was written yet
            refused = {}
            for position, drafts in waiting.items():
                try:
                    self._record(drafts, transaction, hold_back=untouchable)
                except Refused as error:
                    refused[position] = error
            return refused

    def _ruling(self, task_id: str, intent: Intent, actor: str, transaction: Transaction) -> rules.Ruling:
        """What the rules say to an intent on the task as it stands. Raises Refused for what is no rule's matter."""
        self._check_case(task_id, intent)
        return rules.decide(
            task_id,
            self._task_or_none(task_id),
            intent,
            actor=actor,
            stamp=transaction.stamp,
            policy=self.settings.policy,
            signs=self._signs(task_id),
        )

    def _committed(self, task_id: str) -> Committed:
        document = self.document(task_id)
        assert document is not None
        return Committed(self._parsed(task_id, document), document)

    def deliver(self, delivery: Delivery, timeout: float | None = None) -> Delivered:
        """What becomes of a delivery: its effect and the record that recognises it again are one event of one commit.

        Raises:
            Refused: what it asks for cannot be (too large, no task id); nothing was written.
            Busy, StorageFailed, Corrupt: nothing was done; the sender may come again.
        """
        if delivery.task_id is not None:
            _check_task_id(delivery.task_id)
        with self._transaction(timeout) as transaction:
            names = [delivery.task_id] if delivery.task_id is not None else []
            untouchable = self._reconcile(names, transaction, quiet=False)
            outcome = self._outcome(delivery, transaction)
            events = self._record([outcome.draft], transaction, hold_back=untouchable)
            return Delivered(delivery, events[0], outcome.effect, duplicate=outcome.duplicate)

    def _outcome(self, delivery: Delivery, transaction: Transaction) -> deliveries.Outcome:
        task_id = delivery.task_id
        seen = self.view.deliveries.get(bytes.fromhex(delivery.key))
        if seen is not None:
            first = audit_log.event_at(self.audit_folder, seen)
            if first is None:
                raise Corrupt(f"the log no longer holds seq {seen}")
            return deliveries.repeated(delivery, first)
        if task_id is not None and self.view.folded.get(task_id.casefold(), task_id) != task_id:
            return deliveries.ignored(delivery, "case_clash")
        task = self._task_or_none(task_id) if task_id is not None else None
        return deliveries.judge(delivery, task, transaction.stamp, self.settings.policy)

    def note(self, draft: Draft, timeout: float | None = None) -> Event:
        """Append an event that changes no task."""
        return self.note_all([draft], timeout)[0]

    def note_all(self, drafts: Sequence[Draft], timeout: float | None = None) -> list[Event]:
        """Append events that change no task: all of them in one write, or none."""
        for draft in drafts:
            if KINDS[draft.type].changes_task:
                raise ValueError(f"a {draft.type} changes its task: commit an intent")
        with self._transaction(timeout) as transaction:
            return self._record(drafts, transaction)

    def tell_alarms(
        self, look: Callable[[Mapping[str, Raised]], Sequence[Draft]], timeout: float | None = None
    ) -> None:
        """Log what `look` makes of the alarms that stand; asked under the lock: two processes raise an alarm once."""
        self.refresh()
        if not look(self.view.alarms):
            return
        with self._transaction(timeout) as transaction:
            self._record(list(look(self.view.alarms)), transaction)

    def _was_just_told(self, draft: Draft) -> bool:
        """Whether the same caller was refused the same thing within `REFUSAL_S`: a loop must not fill the disk."""
        if draft.type != "move_refused":
            return False
        key = (draft.subject, draft.actor, draft.data["move"], draft.data["code"])
        now = time.monotonic()
        if now - self._refused.get(key, -REFUSAL_S) < REFUSAL_S:
            return True
        if len(self._refused) > 4096:
            self._refused.clear()
        self._refused[key] = now
        return False

    def _move_refused(self, task_id: str, intent: Intent, actor: str, refused: Refused) -> Draft:
        entry = self.view.entries.get(task_id)
        data = {"move": rules.move_name(intent), "code": refused.code, "detail": refused.detail}
        return Draft("move_refused", actor, data, task_id, self.task(task_id).correlation_id if entry else None)

    def _signs(self, task_id: str) -> Signs:
        attempt = self.view.opened.get(task_id)
        return attempt.signs if attempt else Signs()

    def _check_case(self, task_id: str, intent: Intent) -> None:
        _check_task_id(task_id)
        known = self.view.folded.get(task_id.casefold())
        if known is not None and known != task_id and isinstance(intent, Create):
            raise Refused(Refusal("exists", f"{task_id} differs from the task {known} in case only"))

    def _repeat(self, seq: int, body: str, refused: dict[str, str] | None, idempotency: IdempotencyKey) -> Committed:
        """The first answer again."""
        if body != idempotency.body:
            raise IdempotencyMismatch("this Idempotency-Key came with another body before: use a new key")
        if refused is not None:
            raise Refused(Refusal(refused["code"], refused["detail"]))
        event = audit_log.event_at(self.audit_folder, seq)
        if event is None or event.subject is None:
            raise Corrupt(f"the log no longer holds seq {seq}")
        if KINDS[event.type].changes_task:
            task = self._at(event.subject, self._last_of_answer(event))
        else:
            task = self.task(event.subject)
        return Committed(task, document_bytes(task), repeated=True)

    def _last_of_answer(self, event: Event) -> int:
        """The seq up to which the first answer showed the task: a rejection may have locked it in the same commit."""
        if event.type == "task_rejected":
            following = audit_log.event_at(self.audit_folder, event.seq + 1)
            if following is not None and (following.type, following.subject) == ("reject_lock", event.subject):
                return following.seq
        return event.seq

    def _at(self, task_id: str, seq: int) -> Task:
        entry = self.view.entries.get(task_id)
        return self.task(task_id) if entry is not None and entry.seq == seq else self._rebuilt(task_id, seq)

    @contextmanager
    def _transaction(self, timeout: float | None) -> Iterator[Transaction]:
        """The workspace's lock, with this process's view brought up to date and crashed commits finished.

        The lock first, then the view: readers of this process never wait while another process holds the lock.
        """
        limit = self.settings.lock_timeout_s if timeout is None else timeout
        self.refresh()
        with self._named(), self.log.transact(self._reader, limit, self.refresh) as transaction, self._mutex:
            with self._all_or_broken():
                try:
                    transaction.begin(self._take_in)
                except Rewound:
                    self._start_over()
                    transaction.begin(self._take_in)
            self._note_seen()
            self._standing.clear()
            self._finish_others(transaction)
            try:
                yield transaction
            finally:
                self._mark_applied(transaction)

    def _finish_others(self, transaction: Transaction) -> None:
        """Do what a process that died behind its commit point left undone: its files, and the event it owed."""
        if transaction.applied == self._reader.place.seq and not self._behind:
            return
        if transaction.applied < 0:  # after a reboot, or a log that was replaced: look everywhere
            names, suspects = self._differing(), self._often_rejected()
        else:
            names = [e.subject for e in self.events(transaction.applied) if e.subject in self.view.entries if e.subject]
            suspects = names
        due = {
            task_id: lock
            for task_id in suspects
            if (lock := rules.owed(self.task(task_id), self.settings.policy)) is not None
        }
        untouchable = self._reconcile(sorted({*names, *due, *self._behind}), transaction, quiet=True)
        self._record(list(due.values()), transaction, hold_back=untouchable)

    def _often_rejected(self) -> list[str]:
        """Rejected tasks that may lack their lock, told by their rows alone."""
        found = []
        for _, task_id in self.view.by_group.get("rejected", ()):
            row = orjson.loads(self.view.entries[task_id].summary)
            attempts = row["attempt"] + 1  # at most: there may be an attempt 0
            if not row["locked"] and attempts >= self.settings.policy.max_rejects:
                found.append(task_id)
        return found

    def _mark_applied(self, transaction: Transaction) -> None:
        """Tell the next holder of the lock that the files show the log, if they do."""
        if not self._behind and not self._astray and transaction.applied != self._reader.place.seq:
            transaction.mark_applied()

    # ------------------------------------------------------------------------------------ log, then file

    def _record(
        self, drafts: Sequence[Draft], transaction: Transaction, *, hold_back: frozenset[str] = frozenset()
    ) -> list[Event]:
        """Append drafts durably, take them in, and show them in the task files (but those held back)."""
        if not drafts:
            return []
        plans = self._plan(drafts, transaction)
        shown = {p.task.task_id: p.document for p in plans if p.task is not None and p.task.task_id not in hold_back}
        self._behind.update(shown)
        events = transaction.append([plan.event for plan in plans])
        # From here on it has happened: a crash leaves the files to whoever takes the lock next.
        self._astray = True
        for plan, event in zip(plans, events, strict=True):
            self._apply(event, plan)
        self._astray = False
        self._note_seen()
        for task_id, document in shown.items():
            self._show(task_id, document)
        return events

    def _plan(self, drafts: Sequence[Draft], transaction: Transaction) -> list[_Planned]:
        plans: list[_Planned] = []
        tasks: dict[str, Task] = {}
        place: Place = self._reader.place
        waiting = list(drafts)
        while waiting:
            plan = self._plan_one(waiting.pop(0), transaction, place, tasks)
            plans.append(plan)
            place = audit_log.after(plan.event)
            if plan.event.type == "task_rejected" and plan.task is not None:
                lock = rules.owed(plan.task, self.settings.policy)
                waiting[:0] = [lock] if lock else []
        return plans

    def _plan_one(self, draft: Draft, transaction: Transaction, place: Place, tasks: dict[str, Task]) -> _Planned:
        slim, blobs = externalise(draft.data)
        data = orjson.loads(orjson.dumps(slim))
        self.blobs.keep(blobs)
        placed = transaction.place(replace(draft, data=data), place)
        if not KINDS[draft.type].changes_task:
            return _Planned(self._sealed(placed))
        task_id = draft.subject
        assert task_id is not None
        task = rules.evolve(tasks.get(task_id) or self._task_or_none(task_id), placed, data)
        document = document_bytes(task)
        if len(document) > files.MAX_FILE_BYTES:
            raise Refused(
                Refusal(
                    "too_large",
                    f"{task_id} would grow to {len(document)} bytes, more than {files.MAX_FILE_BYTES}",
                )
            )
        tasks[task_id] = task
        data["document_sha256"] = document_digest(document)
        return _Planned(self._sealed(placed), task, document)

    def _sealed(self, event: Event) -> Event:
        """The event with its line; values that do not fit 64 KiB move into one blob, largest first."""
        data = event.data
        sizes = {key: len(orjson.dumps(value)) for key, value in data.items()} if _may_be_long(data) else {}
        moved: dict[str, Any] = {}
        while sum(sizes.values()) > MAX_LINE_BYTES - _ROOM_FOR_ENVELOPE:
            largest = max(sizes, key=lambda key: sizes[key])
            moved[largest] = data[largest]
            del sizes[largest]
        if moved:
            raw = orjson.dumps(moved)
            name = document_digest(raw)
            self.blobs.keep({name.removeprefix("sha256:"): raw})
            kept = {key: value for key, value in data.items() if key not in moved}
            event = replace(event, data={**kept, "blob": name, "in_blob": sorted(moved)})
        event = self._marked(event)
        return replace(event, line=encode(event))

    def _marked(self, event: Event) -> Event:
        """A decision with the server's MAC; its key is kept first, for the time after this secret."""
        key = self.settings.mac_key
        if key is None or event.type not in mac.DECISIONS:
            return event
        with suppress(StorageFailed):  # the MAC counts as long as the secret does
            mac.keep(self.home, key)
        return key.marked(event)

    def _path(self, task_id: str) -> Path:
        return self.tasks_folder / f"{task_id}.json"

    def _temporary(self, task_id: str) -> Path:
        return self.tasks_folder / f".{task_id}.tmp"

    def _show(self, task_id: str, document: bytes) -> None:
        """Write the task file; it was looked at under this lock.

        Where the disk refuses, the log has it all the same: the next holder of the lock tries again.
        """
        path, temporary = self._path(task_id), self._temporary(task_id)
        entry = self.view.entries[task_id]
        entry.signature = None
        try:
            _remove(temporary)
            written = files.write_new(temporary, document, sync=False)
            exchanged = files.swap_in(temporary, path)
        except OSError:
            _remove(temporary)
            return
        if exchanged and not self._is_what_stood(task_id, temporary):
            self._give_way(task_id, written)
            return
        _remove(temporary)
        entry.signature, entry.checked_ns = written, time.time_ns()
        self._standing[task_id] = (written, entry.digest, entry.checked_ns)
        self._behind.discard(task_id)

    def _is_what_stood(self, task_id: str, displaced: Path) -> bool:
        """Whether a displaced file is the one that was looked at, and nobody's save of this very instant."""
        seen = self._standing.get(task_id)
        if seen is None:
            return False
        signature, digest, seen_ns = seen
        try:
            status = os.lstat(displaced)
            same = (status.st_ino, status.st_size, status.st_mtime_ns) == (
                signature.inode,
                signature.size,
                signature.mtime_ns,
            )
            if same and seen_ns - status.st_mtime_ns > RACY_NS:  # else a later save may bear the same time
                return True
            return document_digest(files.read_regular(displaced)[0]) == digest
        except (OSError, NotRegular):
            return False

    def _give_way(self, task_id: str, written: Signature) -> None:
        """Somebody saved in the instant of the exchange: their file goes back to its place, and is examined there."""
        path, temporary = self._path(task_id), self._temporary(task_id)
        self._standing[task_id] = (written, self.view.entries[task_id].digest, time.time_ns())
        self._unsettled.add(task_id)
        with suppress(OSError):
            if not files.swap_in(temporary, path) or self._is_what_stood(task_id, temporary):
                _remove(temporary)
            else:  # and saved once more: the newest stands, the other one is examined as a leftover
                files.swap_in(temporary, path)
        self._standing.pop(task_id)

    def _examine_leftover(self, name: str, transaction: Transaction, found: _Findings) -> None:
        """A file that a crash left aside: drop it if the log made it, else take it over as the edit that it is."""
        leftover = self._temporary(name)
        try:
            raw, _ = files.read_regular(leftover)
        except FileNotFoundError:
            return
        except NotRegular:
            _remove(leftover)
            return
        document = self.document(name) or b""
        if not document.startswith(raw):  # else it is ours, whole or cut short
            judgement = self._judge(name, raw, transaction, found)
            if isinstance(judgement, Adopted):
                self.blobs.keep(judgement.blobs)
                found.drafts.append(self._adoption(name, raw, judgement, self.task(name)))
                return  # it stays until the log has it
            if isinstance(judgement, Held):
                self._keep_aside(name, raw)
        _remove(leftover)

    def _keep_aside(self, task_id: str, raw: bytes) -> Path:
        """Somebody's save that cannot be taken over and came in the instant of a commit: kept, never thrown away."""
        folder = self.private_folder / "displaced"
        folder.mkdir(exist_ok=True)
        name = f"{task_id}.{document_digest(raw)[7:23]}.json"
        files.keep_durably(folder, name, raw)
        return folder / name

    # --------------------------------------------------------------------------------------- files by hand

    def scan(self, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Compare every task file with the log; adopt, hold, restore. Gives the number of files that differed."""
        with self._mutex, self._named():
            self.refresh()
            names = self._differing()
        for done in range(0, len(names), _CHUNK):
            self.examine(names[done : done + _CHUNK])
            progress(min(done + _CHUNK, len(names)), len(names))
        self._clear_leftovers()
        return len(names)

    def _clear_leftovers(self) -> None:
        """Temporary files of processes that died: under the lock nobody else is writing one."""
        with self._transaction(None) as transaction:
            for path in self.blobs.folder.glob(".*.tmp"):
                _remove(path)
            names = [path.name[1:-4] for path in self.tasks_folder.glob(".*.tmp")]
            self._reconcile([name for name in names if name in self.view.entries], transaction, quiet=True)

    def _differing(self) -> list[str]:
        """Names in the tasks folder whose files are not known to be what the log says; and those that are missing."""
        missing = set(self.view.entries)
        found = []
        with os.scandir(self.tasks_folder) as listing:
            for item in listing:
                if item.name.startswith(".") or not item.name.endswith(".json"):
                    continue
                task_id = item.name[:-5]
                missing.discard(task_id)
                try:
                    known = self._is_known(task_id, item.stat(follow_symlinks=False))
                except FileNotFoundError:  # removed in between
                    known = False
                if not known:
                    found.append(task_id)
        leftovers = [path.name[1:-4] for path in self.tasks_folder.glob(".*.tmp")]
        return sorted({*found, *missing, *(name for name in leftovers if name in self.view.entries)})

    def _is_known(self, task_id: str, status: os.stat_result) -> bool:
        """Whether a file is surely the one that was looked at before: same times, and not changed just before."""
        entry = self.view.entries.get(task_id)
        if entry is None or entry.signature is None or Signature.of(status) != entry.signature:
            return False
        return entry.checked_ns - max(status.st_mtime_ns, status.st_ctime_ns) > RACY_NS

    def examine(self, names: Sequence[str]) -> None:
        """Look at some task files (names without ``.json``) and take over, hold or restore what differs."""
        self.refresh()
        with self._mutex:
            worth_it = any(self._needs_a_look(name) for name in names)
        if worth_it:
            with self._transaction(None) as transaction:
                self._reconcile(names, transaction, quiet=False)

    def _needs_a_look(self, name: str) -> bool:
        try:
            status = os.lstat(self._path(name))
        except OSError:
            return name in self.view.entries
        if self._is_known(name, status):
            return False
        entry = self.view.entries.get(name)
        if entry is None:
            return True
        if self._from_file(entry) is None:
            return True
        entry.signature, entry.checked_ns = Signature.of(status), time.time_ns()
        return f"{name}.json" in self.view.held

    def unsettled_names(self) -> list[str]:
        """Files that made no sense but were very young: to be examined again when `SETTLE_S` has passed."""
        with self._mutex:
            names = sorted(self._unsettled)
            self._unsettled.clear()
            return names

    def _reconcile(self, names: Sequence[str], transaction: Transaction, *, quiet: bool) -> frozenset[str]:
        """Settle the difference between files and log. Gives the tasks whose files must not be written now.

        `quiet`: a missing or outdated file is what a crash leaves, nobody's doing; it is written without an event.
        """
        found = _Findings()
        for name in names:
            self._examine_one(name, transaction, found, quiet=quiet)
        self._record(found.drafts, transaction, hold_back=frozenset(found.untouchable))
        for task_id in found.rewrite:
            document = self.document(task_id)
            if document is not None:
                self._show(task_id, document)
        return frozenset(found.untouchable)

    def _examine_one(self, name: str, transaction: Transaction, found: _Findings, *, quiet: bool) -> None:
        self._behind.discard(name)
        entry = self.view.entries.get(name)
        if entry is not None:
            self._examine_leftover(name, transaction, found)
        self._standing[name] = None
        try:
            status = os.lstat(self._path(name))
            if entry is not None and entry.signature is not None and self._is_known(name, status):
                self._standing[name] = (entry.signature, entry.digest, entry.checked_ns)
                return
            raw, signature = files.read_regular(self._path(name))
        except FileNotFoundError:
            self._unsettled.discard(name)
            if entry is not None:
                self._write_again(name, "removed", found, quiet=quiet)
            return
        except OSError as error:
            self._hold(name, b"", Held("unreadable", "", str(error.strerror)), found)
            return
        except NotRegular as error:
            self._hold(name, b"", Held("not_regular", "", str(error)), found)
            return
        digest = document_digest(raw)
        self._standing[name] = (signature, digest, time.time_ns())
        if entry is not None and digest == entry.digest:
            entry.signature, entry.checked_ns = signature, time.time_ns()
            if self.view.held.pop(f"{name}.json", None):
                found.drafts.append(self._restoration(name, "repaired"))
            return
        self._take_or_hold(name, raw, signature, transaction, found, quiet=quiet)

    def _take_or_hold(
        self,
        name: str,
        raw: bytes,
        signature: Signature,
        transaction: Transaction,
        found: _Findings,
        *,
        quiet: bool,
    ) -> None:
        judgement = self._judge(name, raw, transaction, found)
        if _may_be_unfinished(judgement, signature, quiet=quiet):
            self._unsettled.add(name)
            found.untouchable.add(name)
            if name in self.view.entries:
                self._behind.add(name)
        elif isinstance(judgement, Held):
            self._hold(name, raw, judgement, found)
        elif isinstance(judgement, Outdated):
            self._write_again(name, judgement.why, found, quiet=quiet)
        else:
            self.blobs.keep(judgement.blobs)
            found.claimed[name.casefold()] = name
            found.drafts.append(self._adoption(name, raw, judgement, self._task_or_none(name)))

    def _write_again(self, name: str, why: str, found: _Findings, *, quiet: bool) -> None:
        self._behind.add(name)
        found.rewrite.append(name)
        if not quiet:
            found.drafts.append(self._restoration(name, why))

    def _judge(self, name: str, raw: bytes, transaction: Transaction, found: _Findings) -> adopt.Judgement:
        if not TASK_ID.fullmatch(name):
            return Held("wrong_name", "task_id", f"{name!r:.200} is no task id: rename the file")
        folded = name.casefold()
        twin = self.view.folded.get(folded) or found.claimed.get(folded, name)
        if twin != name:
            return Held("case_clash", "task_id", f"{name} differs from the task {twin} in case only: rename the file")
        return adopt.judge(
            name,
            raw,
            self._task_or_none(name),
            version_at=lambda seq: self._version_at(name, seq),
            made_by_log=lambda seq: self._made_by_log(name, seq, raw),
            has_blob=self.blobs.has,
            stamp=transaction.stamp,
        )

    def _version_at(self, task_id: str, seq: int) -> Task | None:
        event = audit_log.event_at(self.audit_folder, seq)
        if event is None or event.subject != task_id or "document_sha256" not in event.data:
            return None
        return self._at(task_id, seq)

    def _made_by_log(self, task_id: str, seq: int, raw: bytes) -> bool:
        event = audit_log.event_at(self.audit_folder, seq)
        return (
            event is not None and event.subject == task_id and event.data.get("document_sha256") == document_digest(raw)
        )

    def _hold(self, name: str, raw: bytes, held: Held, found: _Findings) -> None:
        """Leave the file alone and say why: once for the same bytes."""
        found.untouchable.add(name)
        file, digest = f"{name}.json".encode(errors="replace").decode()[:300], document_digest(raw)
        known = self.view.held.get(file)
        if known is not None and (known.file_sha256, known.reason) == (digest, held.reason):
            return
        entry = self.view.entries.get(name)
        data = {
            "file": file,
            "field": held.field[:300],
            "reason": held.reason,
            "detail": held.detail[:1000],
            "file_sha256": digest,
        }
        correlation = self.task(name).correlation_id if entry else None
        found.drafts.append(Draft("task_invalid", "file", data, name if TASK_ID.fullmatch(name) else None, correlation))

    def _restoration(self, name: str, why: str) -> Draft:
        return Draft("task_restored", "file", {"why": why}, name, self.task(name).correlation_id)

    def _adoption(self, name: str, raw: bytes, adopted: Adopted, current: Task | None) -> Draft:
        data = {
            "new": adopted.new,
            "with_history": adopted.with_history,
            "fields": sorted(adopted.task),
            "task": adopted.task,
            "file_sha256": document_digest(raw),
        }
        correlation = current.correlation_id if current else str(adopted.task["correlation_id"])
        return Draft("task_adopted", "file", data, name, correlation)

    # ------------------------------------------------------------------------------------------ checkpoint

    def save_checkpoint(self) -> None:
        """Write the private cache that makes the next start fast. It may be removed at any time."""
        with self._mutex:
            snapshot = checkpoint.take(self.view, self._reader)
        files.sync_filesystem(self.tasks_folder)  # a signature must not outlive the bytes it vouches for
        checkpoint.save(self.private_folder, snapshot)
        self._checkpoint_seq = snapshot.place.seq

    def checkpoint_age(self) -> int:
        """How many events a start would have to read again."""
        return self._reader.place.seq - self._checkpoint_seq

    def close(self) -> None:
        with self._mutex:
            self._reader.close()


def _check_task_id(task_id: str) -> None:
    """Before a path is built from it."""
    if not TASK_ID.fullmatch(task_id):
        raise Refused(Refusal("invalid_task_id", f"{task_id[:200]!r} is no task id"))


def _has_verdict(document: dict[str, Any]) -> bool:
    return bool(document["attempts"]) and document["attempts"][-1]["verdict"] is not None


def _may_be_long(data: dict[str, Any]) -> bool:
    return len(orjson.dumps(data)) > MAX_LINE_BYTES - _ROOM_FOR_ENVELOPE


def _with_idempotency(drafts: tuple[Draft, ...], refusal: Refusal | None, key: IdempotencyKey) -> tuple[Draft, ...]:
    """The first event of an answer remembers the key it answered."""
    if not drafts:
        return drafts
    record: dict[str, Any] = {"key": key.key, "body": key.body}
    if refusal is not None:
        record["refused"] = {"code": refusal.code, "detail": refusal.detail[:2000]}
    first = replace(drafts[0], data={**drafts[0].data, "idempotency": record})
    return (first, *drafts[1:])


def _may_be_unfinished(judgement: adopt.Judgement, signature: Signature, *, quiet: bool) -> bool:
    """Whether a file may be an editor's half-written one: it makes no sense, and is very young."""
    if isinstance(judgement, Adopted):
        return False
    if quiet and isinstance(judgement, Outdated) and judgement.why not in ("empty", "zeros"):
        return False  # a whole version of the log's own
    return 0 <= time.time() - signature.mtime_ns / 1e9 < SETTLE_S


def _remove(path: Path) -> None:
    with suppress(OSError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            return
        os.unlink(path)
