"""The log first, then the file: the only writer of task files, and of the log below it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import orjson

from audit import files, mac
from audit import log as audit_log
from audit.event import KINDS, MAX_LINE_BYTES, Draft, Event
from audit.files import StorageFailed
from audit.log import AuditLog, Transaction
from audit.reader import Place, Rewound, after
from audit.stamp import Clock
from ssot import checkpoint, rules
from ssot.blobs import MAX_BLOB_BYTES
from ssot.known import Known, Planned
from ssot.reconcile import Reconciler
from ssot.rules import Policy, Refusal, Refused
from ssot.shown import Seen, TaskFiles
from ssot.task import Task, document_bytes, document_digest
from ssot.texts import MAX_INLINE_BYTES, externalise
from ssot.vouching import Voucher, needs_a_mark

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


class Recorder(Known):
    """What one process may do to a workspace: transactions that take in, append, show, and settle what differs.

    Whatever is decided about a task is `Store`'s; here it only comes to stand, in the log and then in the file.

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
        self._voucher = Voucher(home, self.audit_folder, self.settings.mac_key)
        self._shown = TaskFiles(self)
        self._reconciler = Reconciler(self, self._shown)

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
    ) -> Self:
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

    # --------------------------------------------------------------------------------------- transactions

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
            place = after(plan.event)
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
