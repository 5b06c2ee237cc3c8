"""The truth: what may be asked of the tasks of a workspace. Rules judge it, and what they say is recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from audit.event import KINDS, Corrupt, Draft, Event
from audit.log import Transaction, Unfinished
from audit.reader import Rewound, event_at, events_of
from audit.stamp import Clock
from ssot import rules
from ssot.alarms import Raised
from ssot.ingest import delivery as deliveries
from ssot.ingest.delivery import Delivered, Delivery
from ssot.intents import Approve, Create, Dispatch, Intent, RemindOfDecision, Terms
from ssot.known import Planned
from ssot.recorder import Recorder, StoreSettings
from ssot.rules import Refusal, Refused, Signs
from ssot.task import TASK_ID, Task, document_bytes
from ssot.terms import ProjectsFile, Reading, change_of, terms_for

__all__ = ["Committed", "IdempotencyKey", "IdempotencyMismatch", "Refused", "Store", "StoreSettings", "Wish"]

REFUSAL_S: Final = 10.0
"""The same refusal to the same caller is recorded once in this many seconds."""
_CHUNK: Final = 200


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


Answer = Committed | Refused | IdempotencyMismatch
"""What `commit` gives, or raises."""


class Store(Recorder):
    """The tasks of one workspace, as one process sees them. Thread-safe; any number of processes at once.

    Args:
        home: the workspace.
        source: the process kind for the events, e.g. ``kircerta/api``.
    """

    def __init__(
        self, home: Path, *, source: str, settings: StoreSettings | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(home, source=source, settings=settings, clock=clock)
        self.projects_file = ProjectsFile(home)
        self._refused: dict[tuple[Any, ...], float] = {}

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

    def commit_all(self, wishes: Sequence[Wish], timeout: float | None = None) -> list[Answer]:
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

    def _looked_at(self, wish: Wish, transaction: Transaction) -> _Judged | Answer:
        try:
            _check_task_id(wish.task_id)
            first = self._first_answer(wish, transaction)
            return first if first is not None else _Judged(wish, *self._judged(wish, transaction))
        except (Refused, IdempotencyMismatch) as refused:
            return refused

    def _record_judged(
        self, judged: Sequence[_Judged], transaction: Transaction, untouchable: frozenset[str]
    ) -> Mapping[str, Sequence[Event] | Refused]:
        """Record all of them at once; of those that would grow too large, that they were refused.

        Gives what came of each task.
        """
        drafts = [draft for one in judged for draft in one.drafts]
        refused: dict[str, Refused] = {}
        try:
            events = self._record(drafts, transaction, hold_back=untouchable, last=True)
        except Refused:  # nothing was written yet
            refused = {one.wish.task_id: no for one in judged if (no := self._too_large(one, transaction)) is not None}
            drafts = [draft for one in judged for draft in self._fitting(one, refused)]
            events = self._record(drafts, transaction, hold_back=untouchable, last=True)
        came: dict[str, list[Event]] = {one.wish.task_id: [] for one in judged}
        for event in events:
            if event.subject in came:
                came[event.subject].append(event)
        return {**came, **refused}

    def _too_large(self, one: _Judged, transaction: Transaction) -> Refused | None:
        try:
            self._plan(one.drafts, transaction)
        except Refused as refused:
            return refused
        return None

    def _fitting(self, one: _Judged, refused: Mapping[str, Refused]) -> Sequence[Draft]:
        no = refused.get(one.wish.task_id)
        return one.drafts if no is None else [self._move_refused(one.wish, no)]

    def _answered(self, one: _Judged, told: Mapping[str, Sequence[Event] | Refused]) -> Answer:
        events = told[one.wish.task_id]
        if isinstance(events, Refused):
            return events
        try:
            return self._answer(one.wish, one.ruling, one.drafts, events)
        except Refused as refused:
            return refused

    def commit_many(self, intents: Sequence[tuple[str, Intent]], *, actor: str) -> list[Committed | Refused]:
        """Any number of intents of one actor, in order: as many at once as are about different tasks."""
        answers: list[Committed | Refused] = []
        for group in _of_different_tasks([Wish(task_id, intent, actor) for task_id, intent in intents]):
            for answer in self.commit_all(group):
                assert not isinstance(answer, IdempotencyMismatch)  # none of them has a key
                answers.append(answer)
        return answers

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
        first = next(events_of(self.audit_folder, task_id), None)
        return first.actor if first is not None else None

    def notice_projects(self) -> None:
        """Tell of a projects' file that says something else than before: once, whoever notices it."""
        self.refresh()
        if change_of(self.projects_file.now(), self.view.projects) is not None:
            with self._transaction(None) as transaction:
                self._record_projects(self.projects_file.now(), transaction)

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
            first = event_at(self.audit_folder, seen)
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
        event = event_at(self.audit_folder, seq)
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
            following = event_at(self.audit_folder, event.seq + 1)
            if following is None or following.subject != event.subject or not rules.is_owed_by(event, following):
                break
            event = following
        return event.seq


def _of_different_tasks(wishes: Sequence[Wish]) -> Iterator[list[Wish]]:
    """Groups of them, in order: the first wish about a task has to stand before the second one is judged."""
    group: dict[str, Wish] = {}
    for wish in wishes:
        if wish.task_id.casefold() in group or len(group) == _CHUNK:
            yield list(group.values())
            group = {}
        group[wish.task_id.casefold()] = wish
    if group:
        yield list(group.values())


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
