"""Files by hand: compares task files with the log, and says what to adopt, hold, or write again."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from audit import files
from audit.event import Draft
from audit.files import NotRegular, Signature
from audit.stamp import Stamp
from ssot import adopt
from ssot.adopt import Adopted, Held, Outdated
from ssot.known import Known
from ssot.shown import TaskFiles
from ssot.task import TASK_ID, Task, document_digest

SETTLE_S: Final = 0.3
"""A file that makes no sense and is younger than this may still be being written: it is looked at again later."""


@dataclass(slots=True)
class Findings:
    """What a look at some task files came to: what to log, what to write again, and what to leave alone."""

    drafts: list[Draft] = field(default_factory=list)
    rewrite: list[str] = field(default_factory=list)
    untouchable: set[str] = field(default_factory=set)
    claimed: dict[str, str] = field(default_factory=dict)  # the names of new tasks, by their casefolded form


class Reconciler:
    """Looks at task files beside the log. Whoever asked records and writes what follows, under the same lock."""

    def __init__(self, known: Known, shown: TaskFiles) -> None:
        self._known = known
        self._shown = shown

    def examine(self, names: Sequence[str], stamp: Stamp, *, quiet: bool) -> Findings:
        """What the files of these tasks come to.

        `quiet`: a missing or outdated file is what a crash leaves, nobody's doing; it is written without an event.
        Not one in `doubtful`: that somebody saved.
        """
        found = Findings()
        for name in names:
            self._examine_one(name, stamp, found, quiet=quiet and name not in self._shown.doubtful)
        return found

    def leftovers(self) -> list[str]:
        """Tasks that a process left a file aside for when it died."""
        names = (path.name[1:-4] for path in self._known.tasks_folder.glob(".*.tmp"))
        return [name for name in names if name in self._known.view.entries]

    def differing(self) -> list[str]:
        """Names in the tasks folder whose files are not known to be what the log says; and those that are missing."""
        missing = set(self._known.view.entries)
        found = []
        with os.scandir(self._known.tasks_folder) as listing:
            for item in listing:
                if item.name.startswith(".") or not item.name.endswith(".json"):
                    continue
                task_id = item.name[:-5]
                missing.discard(task_id)
                try:
                    known = self._shown.is_known(task_id, item.stat(follow_symlinks=False))
                except FileNotFoundError:  # removed in between
                    known = False
                if not known:
                    found.append(task_id)
        return sorted({*found, *missing, *self.leftovers()})

    def needs_a_look(self, name: str) -> bool:
        """Whether a file differs from the log, or waits for a person; told without the lock."""
        try:
            status = os.lstat(self._known.path(name))
        except OSError:
            return name in self._known.view.entries
        if self._shown.is_known(name, status):
            return False
        entry = self._known.view.entries.get(name)
        if entry is None:
            return True
        if self._known.from_file(entry) is None:
            return True
        return f"{name}.json" in self._known.view.held

    def is_as_the_log_says(self, name: str) -> bool:
        """Whether there is nothing to settle about a task: its file shows what the log says, and nothing lies aside.

        What was seen is noted for the exchange, as `examine` does.
        """
        self._known.take_up(name)
        entry = self._known.view.entries.get(name)
        if f"{name}.json" in self._known.view.held or os.path.lexists(self._shown.temporary(name)):
            return False
        self._shown.standing[name] = None
        try:
            status = os.lstat(self._known.path(name))
        except FileNotFoundError:
            return entry is None
        except OSError:
            return False
        if entry is None:
            return False
        if not self._shown.is_known(name, status) and self._known.from_file(entry) is None:
            return False
        assert entry.signature is not None
        self._shown.standing[name] = (entry.signature, entry.digest, entry.checked_ns)
        return True

    def _examine_one(self, name: str, stamp: Stamp, found: Findings, *, quiet: bool) -> None:
        self._known.take_up(name)
        self._shown.behind.discard(name)
        self._shown.doubtful.discard(name)
        entry = self._known.view.entries.get(name)
        if entry is not None:
            self._examine_leftover(name, stamp, found)
        self._shown.standing[name] = None
        try:
            status = os.lstat(self._known.path(name))
            is_held = f"{name}.json" in self._known.view.held  # that it stands again is to be told
            if entry is not None and entry.signature and not is_held and self._shown.is_known(name, status):
                self._shown.standing[name] = (entry.signature, entry.digest, entry.checked_ns)
                return
            raw, signature = files.read_regular(self._known.path(name))
        except FileNotFoundError:
            self._shown.unsettled.discard(name)
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
        self._shown.standing[name] = (signature, digest, time.time_ns())
        if entry is not None and digest == entry.digest:
            entry.signature, entry.checked_ns = signature, time.time_ns()
            if self._known.view.held.pop(f"{name}.json", None):
                found.drafts.append(self._restoration(name, "repaired"))
            return
        self._take_or_hold(name, raw, signature, stamp, found, quiet=quiet)

    def _take_or_hold(
        self,
        name: str,
        raw: bytes,
        signature: Signature,
        stamp: Stamp,
        found: Findings,
        *,
        quiet: bool,
    ) -> None:
        judgement = self._judge(name, raw, stamp, found)
        if _may_be_unfinished(judgement, signature, quiet=quiet):
            self._shown.unsettled.add(name)
            found.untouchable.add(name)
            if name in self._known.view.entries:
                self._shown.behind.add(name)
                self._shown.doubtful.add(name)
        elif isinstance(judgement, Held):
            self._hold(name, raw, judgement, found)
        elif isinstance(judgement, Outdated):
            self._write_again(name, judgement.why, found, quiet=quiet)
        else:
            self._known.blobs.keep(judgement.blobs)
            found.claimed[name.casefold()] = name
            found.drafts.append(self._adoption(name, raw, judgement, self._known.task_or_none(name)))

    def _write_again(self, name: str, why: str, found: Findings, *, quiet: bool) -> None:
        self._shown.behind.add(name)
        found.rewrite.append(name)
        if not quiet:
            found.drafts.append(self._restoration(name, why))

    def _judge(self, name: str, raw: bytes, stamp: Stamp, found: Findings) -> adopt.Judgement:
        if not TASK_ID.fullmatch(name):
            return Held("wrong_name", "task_id", f"{name!r:.200} is no task id: rename the file")
        folded = name.casefold()
        twin = self._known.view.folded.get(folded) or found.claimed.get(folded, name)
        if twin != name:
            return Held("case_clash", "task_id", f"{name} differs from the task {twin} in case only: rename the file")
        return adopt.judge(
            name,
            raw,
            self._known.task_or_none(name),
            version_at=lambda seq: self._known.version_at(name, seq),
            made_by_log=lambda seq: self._known.made_by_log(name, seq, raw),
            has_blob=self._known.blobs.has,
            stamp=stamp,
        )

    def _examine_leftover(self, name: str, stamp: Stamp, found: Findings) -> None:
        """A file that a crash left aside: drop it if the log made it, else take it over as the edit that it is."""
        leftover = self._shown.temporary(name)
        if not os.access(leftover, os.F_OK, follow_symlinks=False):
            return
        try:
            raw, _ = files.read_regular(leftover)
        except FileNotFoundError:
            return
        except NotRegular:
            files.remove(leftover)
            return
        document = self._known.document(name) or b""
        if not document.startswith(raw):  # else it is ours, whole or cut short
            judgement = self._judge(name, raw, stamp, found)
            if isinstance(judgement, Adopted):
                self._known.blobs.keep(judgement.blobs)
                found.drafts.append(self._adoption(name, raw, judgement, self._known.task(name)))
                return  # it stays until the log has it
            if isinstance(judgement, Held):
                self._shown.keep_aside(name, raw)
        files.remove(leftover)

    def _hold(self, name: str, raw: bytes, held: Held, found: Findings) -> None:
        """Leave the file alone and say why: once for the same bytes."""
        found.untouchable.add(name)
        file, digest = f"{name}.json".encode(errors="replace").decode()[:300], document_digest(raw)
        known = self._known.view.held.get(file)
        if known is not None and (known.file_sha256, known.reason) == (digest, held.reason):
            return
        entry = self._known.view.entries.get(name)
        data = {
            "file": file,
            "field": held.field[:300],
            "reason": held.reason,
            "detail": held.detail[:1000],
            "file_sha256": digest,
        }
        correlation = self._known.task(name).correlation_id if entry else None
        found.drafts.append(Draft("task_invalid", "file", data, name if TASK_ID.fullmatch(name) else None, correlation))

    def _restoration(self, name: str, why: str) -> Draft:
        return Draft("task_restored", "file", {"why": why}, name, self._known.task(name).correlation_id)

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


def _may_be_unfinished(judgement: adopt.Judgement, signature: Signature, *, quiet: bool) -> bool:
    """Whether a file may be an editor's half-written one: it makes no sense, and is very young."""
    if isinstance(judgement, Adopted):
        return False
    if quiet and isinstance(judgement, Outdated) and judgement.why not in ("empty", "zeros"):
        return False  # a whole version of the log's own
    return 0 <= time.time() - signature.mtime_ns / 1e9 < SETTLE_S
