"""The truth: the only writer of task files. Every change goes through the log first, then shows in its file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from audit import files, mac
from audit import log as audit_log
from audit.event import KINDS, MAX_LINE_BYTES, Corrupt, Draft, Event
from audit.files import StorageFailed
from audit.log import AuditLog, Place, Rewound, Transaction, Unfinished
from audit.stamp import Clock
from ssot import checkpoint, rules
from ssot.alarms import Raised
from ssot.blobs import MAX_BLOB_BYTES
from ssot.ingest import delivery as deliveries
from ssot.ingest.delivery import Delivered, Delivery
from ssot.intents import Approve, Create, Dispatch, Intent, RemindOfDecision, Terms
from ssot.known import Known, Planned
from ssot.reconcile import Reconciler
from ssot.rules import Policy, Refusal, Refused, Signs
from ssot.shown import Seen, TaskFiles
from ssot.task import TASK_ID, Task, document_bytes, document_digest
from ssot.terms import ProjectsFile, Reading, change_of, terms_for
from ssot.texts import MAX_INLINE_BYTES, externalise
from ssot.vouching import Voucher, needs_a_mark

__all__ = ["Committed", "IdempotencyKey", "IdempotencyMismatch", "Refused", "Store", "StoreSettings", "Wish"]

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


class IdempotencyMismatch(Exception):
    """The idempotency key was used before, with another body."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Digests of principal, route and key, and of the body."""

    key: str
    body: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What a commit is asked to do: the arguments of `Store.commit`."""

    task_id: str
    intent: Intent
    actor: str
    on_behalf_of: str | None = None
    idempotency: IdempotencyKey | None = None


@dataclass(frozen=True, slots=True)
class _Judged:
    """A wish, what the rules say to it, and what is to be recorded of that."""

    wish: Wish
    ruling: rules.Ruling
    drafts: tuple[Draft, ...]


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit left: the task, its exact document bytes, and the events that made it so (none for a repeat)."""

    task: Task
    document: bytes
    events: tuple[Event, ...] = ()
    repeated: bool = False


class Store(Known):
    """The tasks of one workspace, as one process sees them. Thread-safe; any number of processes at once.

    Args:
        home: the workspace.
        source: the process kind for the events, e.g. ``kircerta/api``.
    """

    def __init__(
        self, home: Path, *, source: str, settings: StoreSettings | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(home)
        self.settings = settings or StoreSettings()
        self._prepare()
        self.log = AuditLog(self.audit_folder, source=source, clock=clock, segment_bytes=self.settings.segment_bytes)
        self.projects_file = ProjectsFile(home)
        self._voucher = Voucher(home, self.audit_folder, self.settings.mac_key)
        self._shown = TaskFiles(self)
        self._reconciler = Reconciler(self, self._shown)
        self._refused: dict[tuple[Any, ...], float] = {}

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

    # -------------------------------------------------------------------------------------------- commits

    def commit(
        self,
        task_id: str,
        intent: Intent,
        *,
        actor: str,
        on_behalf_of: str | None = None,
        idempotency: IdempotencyKey | None = None,
        timeout: float | None = None,
    ) -> Committed:
        """Judge an intent on the task as it stands now, and carry it out: log first, then the file.

        `on_behalf_of`: for whom the actor acts, where it acts for another; the act counts for both.

        Raises:
            Refused: the rules said no (recorded in the log, but for an unknown task).
            IdempotencyMismatch: the key came with another body before.
            Busy, StorageFailed, Corrupt: nothing was done.
        """
        return self._commit(Wish(task_id, intent, actor, on_behalf_of, idempotency), timeout)

    def _commit(self, asked: Wish, timeout: float | None) -> Committed:
        _check_task_id(asked.task_id)
        deadline = time.monotonic() + self._limit(timeout)
        try:
            return self._commit_beside(asked, deadline)
        except Unfinished:
            return self._commit_alone(asked, deadline)

    def _commit_beside(self, asked: Wish, deadline: float) -> Committed:
        """Decide while another process still syncs and shows what it appended, where that is about other tasks.

        Raises Unfinished where there is more to do than that; nothing was done then.
        """
        self._make_ready([asked.task_id])
        limit = max(0.0, deadline - time.monotonic())
        with self._named(), self.log.transact(self._reader, limit, self._catch_up, alone=False) as transaction:
            with self._mutex:
                self._begin_beside(asked, transaction)
                if (first := self._first_answer(asked, transaction)) is not None:
                    return first
                ruling, drafts = self._judged(asked, transaction)
                plans = self._plan_beside(drafts, transaction)
            if plans:  # others' lock without the mutex: readers of this process never wait for it
                transaction.be_alone(deadline, self._catch_up)
            with self._mutex:
                if plans:
                    self._check_finished(plans, transaction)
                return self._answer(asked, ruling, drafts, self._carry_out(plans, transaction, last=True))

    def _begin_beside(self, asked: Wish, transaction: Transaction) -> None:
        if not self._is_sound():
            raise Unfinished
        with self._all_or_broken():
            try:
                transaction.begin_beside(self._take_in)
            except Rewound:
                raise Unfinished from None
        self._note_seen()
        self._shown.standing.clear()
        self._voucher.left_to_the_server = False
        if self._shown.behind or not self._reconciler.is_as_the_log_says(asked.task_id):
            raise Unfinished  # somebody's edit, or a change that is not shown, and so perhaps not durable, yet
        if isinstance(asked.intent, Dispatch) and change_of(self.projects_file.now(), self.view.projects) is not None:
            raise Unfinished  # that is told of first
        transaction.take_stamp()

    def _plan_beside(self, drafts: Sequence[Draft], transaction: Transaction) -> list[Planned]:
        try:
            return self._plan(drafts, transaction)
        except Refused:  # it would grow too large, which is recorded
            raise Unfinished from None

    def _check_finished(self, plans: Sequence[Planned], transaction: Transaction) -> None:
        """Whether the plans still continue the log, and all before them is done. Raises Unfinished."""
        transaction.check_finished()
        if not self._is_sound() or plans[0].event.prev != self._reader.place.digest:  # the log was replaced
            raise Unfinished

    def _commit_alone(self, asked: Wish, deadline: float) -> Committed:
        with self._transaction(max(0.0, deadline - time.monotonic()), [asked.task_id]) as transaction:
            if (first := self._first_answer(asked, transaction)) is not None:
                return first
            untouchable = self._reconcile([asked.task_id], transaction, quiet=False)
            ruling, drafts = self._judged(asked, transaction)
            try:
                events = self._record(drafts, transaction, hold_back=untouchable, last=True)
            except Refused as refused:  # only now: it would grow too large
                self._record([self._move_refused(asked, refused)], transaction)
                raise
            return self._answer(asked, ruling, drafts, events)

    def _judged(self, asked: Wish, transaction: Transaction) -> tuple[rules.Ruling, tuple[Draft, ...]]:
        """What the rules say, and what is to be recorded of it."""
        ruling = self._ruling(asked.task_id, asked.intent, asked.actor, transaction, asked.on_behalf_of)
        if asked.idempotency is not None:
            return ruling, _with_idempotency(ruling.drafts, ruling.refusal, asked.idempotency)
        return ruling, () if ruling.drafts and self._was_just_told(ruling.drafts[0]) else ruling.drafts

    def _answer(self, asked: Wish, ruling: rules.Ruling, drafts: Sequence[Draft], events: Sequence[Event]) -> Committed:
        if drafts:
            self._note_told(drafts[0])
        if ruling.refusal is not None:
            raise Refused(ruling.refusal)
        document = self.document(asked.task_id)
        assert document is not None
        return Committed(self._parsed(asked.task_id, document), document, tuple(events))

    def _first_answer(self, asked: Wish, transaction: Transaction) -> Committed | None:
        """What the same key was answered before; None where it is new."""
        key = asked.idempotency
        first = self.view.recall(key.key, transaction.stamp.now) if key is not None else None
        if key is None or first is None:
            return None
        if first.seq > transaction.applied and not transaction.is_alone:
            raise Unfinished  # it may not be durable yet
        return self._repeat(first.seq, first.body, first.refused, key)

    def commit_all(self, wishes: Sequence[Wish], timeout: float | None = None) -> list[Committed | Exception]:
        """Commits on different tasks under one lock and with one sync: each gets what `commit` would give or raise.

        Raises Busy, StorageFailed, Corrupt: nothing was done of any of them.
        """
        if len({wish.task_id.casefold() for wish in wishes}) < len(wishes):
            raise ValueError("two of these are about one task: the first has to stand before the second is judged")
        if len(wishes) == 1:
            try:
                return [self._commit(wishes[0], timeout)]
            except (Refused, IdempotencyMismatch) as refused:
                return [refused]
        names = [wish.task_id for wish in wishes if TASK_ID.fullmatch(wish.task_id)]
        with self._transaction(timeout, names) as transaction:
            untouchable = self._reconcile(names, transaction, quiet=False)
            found = [self._looked_at(wish, transaction) for wish in wishes]
            told = self._record_judged([one for one in found if isinstance(one, _Judged)], transaction, untouchable)
            return [self._answered(one, told) if isinstance(one, _Judged) else one for one in found]

    def _looked_at(self, wish: Wish, transaction: Transaction) -> _Judged | Committed | Exception:
        try:
            _check_task_id(wish.task_id)
            first = self._first_answer(wish, transaction)
            return first if first is not None else _Judged(wish, *self._judged(wish, transaction))
        except (Refused, IdempotencyMismatch) as refused:
            return refused

    def _record_judged(
        self, judged: Sequence[_Judged], transaction: Transaction, untouchable: frozenset[str]
    ) -> dict[str, Sequence[Event] | Refused]:
        """Record all of them at once; where one would grow too large, one by one. Gives what came of each task."""
        drafts = [draft for one in judged for draft in one.drafts]
        try:
            events = self._record(drafts, transaction, hold_back=untouchable, last=True)
        except Refused:  # nothing was written yet
            return {one.wish.task_id: self._record_one(one, transaction, untouchable) for one in judged}
        names = {one.wish.task_id for one in judged}
        return {name: [event for event in events if event.subject == name] for name in names}

    def _record_one(
        self, one: _Judged, transaction: Transaction, untouchable: frozenset[str]
    ) -> Sequence[Event] | Refused:
        try:
            return self._record(one.drafts, transaction, hold_back=untouchable)
        except Refused as refused:  # it would grow too large
            self._record([self._move_refused(one.wish, refused)], transaction)
            return refused

    def _answered(self, one: _Judged, told: Mapping[str, Sequence[Event] | Refused]) -> Committed | Exception:
        events = told[one.wish.task_id]
        if isinstance(events, Refused):
            return events
        try:
            return self._answer(one.wish, one.ruling, one.drafts, events)
        except Refused as refused:
            return refused

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

    def _ruling(
        self, task_id: str, intent: Intent, actor: str, transaction: Transaction, on_behalf_of: str | None = None
    ) -> rules.Ruling:
        """What the rules say to an intent on the task as it stands. Raises Refused for what is no rule's matter."""
        self._check_case(task_id, intent)
        task = self.task_or_none(task_id)
        if isinstance(intent, Dispatch) and task is not None:
            intent = replace(intent, terms=self._terms(task, transaction))
        elif isinstance(intent, Approve | RemindOfDecision) and task is not None:
            task = self._voucher.counted(task)
        return rules.decide(
            task_id,
            task,
            intent,
            actor=actor,
            stamp=transaction.stamp,
            policy=self.settings.policy,
            signs=self._signs(task_id),
            on_behalf_of=on_behalf_of,
        )

    def _terms(self, task: Task, transaction: Transaction) -> Terms:
        """The terms of a dispatch at this moment. A file that says something new is told of before the dispatch is."""
        reading = self.projects_file.now()
        self._record_projects(reading, transaction)
        return terms_for(reading, task, lambda: self._creator_of(task.task_id))

    def _record_projects(self, reading: Reading, transaction: Transaction) -> None:
        changed = change_of(reading, self.view.projects)
        if changed is not None and not transaction.is_alone:
            raise Unfinished
        if changed is not None:
            self._record([changed], transaction)

    def _creator_of(self, task_id: str) -> str | None:
        first = next(audit_log.events_of(self.audit_folder, task_id), None)
        return first.actor if first is not None else None

    def notice_projects(self) -> None:
        """Tell of a projects' file that says something else than before: once, whoever notices it."""
        self.refresh()
        if change_of(self.projects_file.now(), self.view.projects) is not None:
            with self._transaction(None) as transaction:
                self._record_projects(self.projects_file.now(), transaction)

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
        names = [delivery.task_id] if delivery.task_id is not None else []
        with self._transaction(timeout, names) as transaction:
            untouchable = self._reconcile(names, transaction, quiet=False)
            outcome = self._outcome(delivery, transaction)
            events = self._record([outcome.draft], transaction, hold_back=untouchable, last=True)
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
        task = self.task_or_none(task_id) if task_id is not None else None
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
            return self._record(drafts, transaction, last=True)

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
        return time.monotonic() - self._refused.get(_refusal_key(draft), -REFUSAL_S) < REFUSAL_S

    def _note_told(self, draft: Draft) -> None:
        if draft.type == "move_refused":
            if len(self._refused) > 4096:
                self._refused.clear()
            self._refused[_refusal_key(draft)] = time.monotonic()

    def _move_refused(self, asked: Wish, refused: Refused) -> Draft:
        task = self.task_or_none(asked.task_id)
        data = {"move": rules.move_name(asked.intent), "code": refused.code, "detail": refused.detail}
        return Draft("move_refused", asked.actor, data, asked.task_id, task.correlation_id if task else None)

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
            task = self.at(event.subject, self._last_of_answer(event))
        else:
            task = self.task(event.subject)
        return Committed(task, document_bytes(task), repeated=True)

    def _last_of_answer(self, event: Event) -> int:
        """The seq up to which the first answer showed the task: what an event owed came in the same commit."""
        while event.type in rules.OWING:
            following = audit_log.event_at(self.audit_folder, event.seq + 1)
            if following is None or following.subject != event.subject or not rules.is_owed_by(event, following):
                break
            event = following
        return event.seq

    @contextmanager
    def _transaction(self, timeout: float | None, names: Sequence[str] = ()) -> Iterator[Transaction]:
        """The workspace's lock, with this process's view brought up to date and crashed commits finished.

        The lock first, then the view: readers of this process never wait while another process holds the lock.
        `names` are the tasks that it is about: what nobody changes until then need not be read under the lock.
        """
        limit = self._limit(timeout)
        self._make_ready(names)
        with self._named(), self.log.transact(self._reader, limit, self._catch_up) as transaction, self._mutex:
            with self._all_or_broken():
                try:
                    transaction.begin(self._take_in)
                except Rewound:
                    self._start_over()
                    transaction.begin(self._take_in)
            self._note_seen()
            self._shown.standing.clear()
            self._voucher.left_to_the_server = False
            self._finish_others(transaction)
            try:
                yield transaction
            finally:
                if not self._astray:
                    self._mark_applied(transaction)

    def _limit(self, timeout: float | None) -> float:
        return self.settings.lock_timeout_s if timeout is None else timeout

    def _make_ready(self, names: Sequence[str]) -> None:
        """Do before the lock what need not be done under it."""
        self._catch_up()
        self._shown.prepare(max(1, len(names)))
        with self._mutex, self._named():
            for name in names:
                self._reconciler.needs_a_look(name)
                self.task_or_none(name)

    def _finish_others(self, transaction: Transaction) -> None:
        """Do what a process that died behind its commit point left undone: its files, and the event it owed."""
        if transaction.applied == self._reader.place.seq and not self._shown.behind:
            return
        self._take_up_all()
        if transaction.applied < 0:  # after a reboot, or a log that was replaced: look everywhere
            names, suspects = self._reconciler.differing(), [*self._often_rejected(), *self._at_the_gate()]
        else:
            names = [e.subject for e in self.events(transaction.applied) if e.subject in self.view.entries if e.subject]
            suspects = names
        due = {
            task_id: draft
            for task_id in suspects
            if (draft := self._voucher.owed(self.task(task_id), self.settings.policy)) is not None
        }
        untouchable = self._reconcile(sorted({*names, *due, *self._shown.behind}), transaction, quiet=True)
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

    def _at_the_gate(self) -> list[str]:
        """Tasks whose decision may be owed: only a policy owes one."""
        waiting = (task_id for _, task_id in self.view.by_group.get("needs_review", ()))
        return [task_id for task_id in waiting if b'"policy": {' in (self.document(task_id) or b"")]

    def _mark_applied(self, transaction: Transaction) -> None:
        """Tell the next holder of the lock that the files show the log, if they do, and nothing is left to it."""
        if transaction.is_over or self._voucher.left_to_the_server or self._shown.behind:
            return
        if transaction.applied != self._reader.place.seq:
            transaction.mark_applied()

    # ------------------------------------------------------------------------------------ log, then file

    def _record(
        self,
        drafts: Sequence[Draft],
        transaction: Transaction,
        *,
        hold_back: frozenset[str] = frozenset(),
        last: bool = False,
    ) -> list[Event]:
        """Append drafts durably, show them in the task files (but those held back), and take them in.

        `last`: nothing else happens in this transaction, so that others have the lock while this process takes them in.
        """
        plans = self._plan(drafts, transaction)
        return self._carry_out(plans, transaction, hold_back=hold_back, last=last)

    def _carry_out(
        self,
        plans: Sequence[Planned],
        transaction: Transaction,
        *,
        hold_back: frozenset[str] = frozenset(),
        last: bool = False,
    ) -> list[Event]:
        if not plans:
            return []
        shown = {p.task.task_id: p for p in plans if p.task is not None and p.task.task_id not in hold_back}
        self._shown.behind.update(shown)
        events = transaction.append([plan.event for plan in plans], last=last)
        # From here on it has happened: a crash leaves the files to whoever comes next.
        self._astray = True
        written = {
            task_id: self._show(task_id, plan.document, plan.event.data["document_sha256"])
            for task_id, plan in shown.items()
        }
        if last:
            self._mark_applied(transaction)
            transaction.end()
        for plan, event in zip(plans, events, strict=True):
            self._apply(event, plan)
        self._astray = False
        self._note_seen()
        for task_id, seen in written.items():
            self._note_shown(task_id, seen)
        return events

    def _plan(self, drafts: Sequence[Draft], transaction: Transaction) -> list[Planned]:
        plans: list[Planned] = []
        tasks: dict[str, Task] = {}
        place: Place = self._reader.place
        waiting = list(drafts)
        while waiting:
            plan = self._plan_one(waiting.pop(0), transaction, place, tasks)
            plans.append(plan)
            place = audit_log.after(plan.event)
            if plan.event.type in rules.OWING and plan.task is not None:
                due = self._voucher.owed(plan.task, self.settings.policy, plan.event)
                waiting[:0] = [due] if due else []
        return plans

    def _plan_one(self, draft: Draft, transaction: Transaction, place: Place, tasks: dict[str, Task]) -> Planned:
        data = self._slim(draft.data)
        placed = transaction.place(Draft(draft.type, draft.actor, data, draft.subject, draft.correlationid), place)
        if not KINDS[draft.type].changes_task:
            return Planned(self._sealed(placed))
        task_id = draft.subject
        assert task_id is not None
        task = rules.evolve(tasks.get(task_id) or self.task_or_none(task_id), placed, data)
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
        return Planned(self._sealed(placed, task), task, document)

    def _sealed(self, event: Event, task: Task | None = None) -> Event:
        """The event with its line; values that do not fit 64 KiB move into one blob, largest first."""
        with suppress(ValueError):
            return self._marked(event, task).sealed()
        data = event.data
        sizes = {key: len(orjson.dumps(value)) for key, value in data.items()}
        moved: dict[str, Any] = {}
        while sum(sizes.values()) > MAX_LINE_BYTES - _ROOM_FOR_ENVELOPE:
            largest = max(sizes, key=lambda key: sizes[key])
            moved[largest] = data[largest]
            del sizes[largest]
        if moved:
            raw = orjson.dumps(moved)
            name = document_digest(raw)
            self._keep({name.removeprefix("sha256:"): raw})
            kept = {key: value for key, value in data.items() if key not in moved}
            event = replace(event, data={**kept, "blob": name, "in_blob": sorted(moved)})
        return self._marked(event, task).sealed()

    def _slim(self, data: dict[str, Any]) -> dict[str, Any]:
        """Plain values as their line will show them, without the long texts, which are kept as blobs."""
        raw = orjson.dumps(data)
        if len(raw) > MAX_INLINE_BYTES:  # else none of its texts is
            slim, blobs = externalise(data)
            raw = orjson.dumps(slim)
            self._keep(blobs)
        slimmed: dict[str, Any] = orjson.loads(raw)
        return slimmed

    def _keep(self, blobs: dict[str, bytes]) -> None:
        """Keep texts before the line that names them. Raises Refused for one that nobody could read back."""
        largest = max(map(len, blobs.values()), default=0)
        if largest > MAX_BLOB_BYTES:
            raise Refused(Refusal("too_large", f"a text has {largest} bytes, more than {MAX_BLOB_BYTES}"))
        self.blobs.keep(blobs)

    def _marked(self, event: Event, task: Task | None) -> Event:
        """What needs a mark, with the server's MAC; its key is kept first, for the time after this secret."""
        key = self.settings.mac_key
        if key is None or not needs_a_mark(event, task):
            return event
        with suppress(StorageFailed):  # the MAC counts as long as the secret does
            mac.keep(self.home, key)
        return key.marked(event)

    def _show(self, task_id: str, document: bytes, digest: str) -> Seen | None:
        return self._shown.show(task_id, document, digest)

    def _note_shown(self, task_id: str, seen: Seen | None) -> None:
        """Remember what stands in a task's file, so that it need not be read to be known."""
        entry = self.view.entries[task_id]
        entry.signature, _, entry.checked_ns = seen or (None, "", 0)

    # --------------------------------------------------------------------------------------- files by hand

    def scan(self, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Compare every task file with the log; adopt, hold, restore. Gives the number of files that differed."""
        with self._mutex, self._named():
            self.refresh()
            self.tasks_folder.mkdir(exist_ok=True)  # a checkout removes it together with its last file
            names = self._reconciler.differing()
        for done in range(0, len(names), _CHUNK):
            self.examine(names[done : done + _CHUNK])
            progress(min(done + _CHUNK, len(names)), len(names))
        self._clear_leftovers()
        return len(names)

    def _clear_leftovers(self) -> None:
        """Temporary files of processes that died: under the lock nobody else is writing one."""
        with self._transaction(None) as transaction:
            for path in self.blobs.folder.glob(".*.tmp"):
                files.remove(path)
            self._shown.clear_up()
            self._reconcile(self._reconciler.leftovers(), transaction, quiet=True)

    def examine(self, names: Sequence[str]) -> None:
        """Look at some task files (names without ``.json``) and take over, hold or restore what differs."""
        self.refresh()
        with self._mutex:
            worth_it = any(self._reconciler.needs_a_look(name) for name in names)
        if worth_it:
            with self._transaction(None) as transaction:
                self._reconcile(names, transaction, quiet=False)

    def unsettled_names(self) -> list[str]:
        """Files that made no sense but were very young: to be examined again when `SETTLE_S` has passed."""
        with self._mutex:
            names = sorted(self._shown.unsettled)
            self._shown.unsettled.clear()
            return names

    def _reconcile(self, names: Sequence[str], transaction: Transaction, *, quiet: bool) -> frozenset[str]:
        """Settle the difference between files and log. Gives the tasks whose files must not be written now.

        `quiet`: a missing or outdated file is what a crash leaves, nobody's doing; it is written without an event.
        """
        found = self._reconciler.examine(names, transaction.stamp, quiet=quiet)
        self._record(found.drafts, transaction, hold_back=frozenset(found.untouchable))
        for task_id in found.rewrite:
            document = self.document(task_id)
            if document is not None:
                self._note_shown(task_id, self._show(task_id, document, self.view.entries[task_id].digest))
        return frozenset(found.untouchable)

    # ------------------------------------------------------------------------------------------ checkpoint

    def save_checkpoint(self) -> None:
        """Write the private cache that makes the next start fast. It may be removed at any time."""
        with self._mutex:
            self._take_up_all()
            snapshot = checkpoint.take(self.view, self._reader)
        files.sync_filesystem(self.tasks_folder)  # a signature must not outlive the bytes it vouches for
        checkpoint.save(self.private_folder, snapshot)
        self._checkpoint_seq = snapshot.place.seq

    def close(self) -> None:
        super().close()
        self._shown.close()
        self.log.close()

    def checkpoint_age(self) -> int:
        """How many events a start would have to read again."""
        return self._reader.place.seq - self._checkpoint_seq


def _refusal_key(draft: Draft) -> tuple[Any, ...]:
    return draft.subject, draft.actor, draft.data["move"], draft.data["code"]


def _check_task_id(task_id: str) -> None:
    """Before a path is built from it."""
    if not TASK_ID.fullmatch(task_id):
        raise Refused(Refusal("invalid_task_id", f"{task_id[:200]!r} is no task id"))


def _with_idempotency(drafts: tuple[Draft, ...], refusal: Refusal | None, key: IdempotencyKey) -> tuple[Draft, ...]:
    """The first event of an answer remembers the key it answered."""
    if not drafts:
        return drafts
    record: dict[str, Any] = {"key": key.key, "body": key.body}
    if refusal is not None:
        record["refused"] = {"code": refusal.code, "detail": refusal.detail[:2000]}
    first = replace(drafts[0], data={**drafts[0].data, "idempotency": record})
    return (first, *drafts[1:])
