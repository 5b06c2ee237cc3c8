"""The task files as they are shown: the only place that writes them, and looks at what it displaced."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from audit import files
from audit.blank import Blanks
from audit.files import NotRegular, Signature
from ssot.known import Known
from ssot.task import document_digest

RACY_NS: Final = 20_000_000
"""A file changed this shortly before it was looked at may change again without its times showing it."""


Seen = tuple[Signature, str, int]
"""A file as it was looked at: its signature, the digest of its bytes, and when (ns)."""


class TaskFiles:
    """The folder of task files. To be used under the workspace's lock only.

    `behind` are tasks whose files may not show what the log says, `doubtful` those of them whose files made no sense
    but were very young, `unsettled` all such files until somebody takes note of them; `standing` is what was seen in
    files under this hold of the lock.
    """

    def __init__(self, known: Known) -> None:
        self._known = known
        self._blanks = Blanks(known.private_folder / "blank", known.tasks_folder)
        self.behind: set[str] = set()
        self.doubtful: set[str] = set()
        self.unsettled: set[str] = set()
        self.standing: dict[str, Seen | None] = {}

    def temporary(self, task_id: str) -> str:
        """Where a version stands aside for the moment of its exchange."""
        return f"{self._known.tasks_folder}/.{task_id}.tmp"

    def prepare(self, count: int = 1) -> None:
        """What `show` needs and need not be done under the lock, for so many files."""
        self._blanks.ready(count)

    def clear_up(self) -> None:
        """Remove what processes that died had prepared."""
        self._blanks.clear_forgotten()

    def close(self) -> None:
        self._blanks.close()

    def show(self, task_id: str, document: bytes, digest: str) -> Seen | None:
        """Write the task file; it was looked at under this lock. Gives what stands there now, None where it is another.

        Where the disk refuses, the log has it all the same: the next holder of the lock tries again.
        """
        path, temporary = self._known.path(task_id), self.temporary(task_id)
        try:
            written = self._blanks.fill(temporary, document)
            exchanged = files.swap_in(temporary, path)
        except OSError:
            files.remove(temporary)
            return None
        if exchanged and not self._is_what_stood(task_id, temporary):
            self._give_way(task_id, (written, digest, time.time_ns()))
            return None
        if exchanged:
            self._blanks.take_back(temporary)
        seen = self.standing[task_id] = (written, digest, time.time_ns())
        self.behind.discard(task_id)
        return seen

    def _is_what_stood(self, task_id: str, displaced: str) -> bool:
        """Whether a displaced file is the one that was looked at, and nobody's save of this very instant."""
        seen = self.standing.get(task_id)
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

    def _give_way(self, task_id: str, written: Seen) -> None:
        """Somebody saved in the instant of the exchange: their file goes back to its place, and is examined there."""
        path, temporary = self._known.path(task_id), self.temporary(task_id)
        self.standing[task_id] = written
        self.unsettled.add(task_id)
        with suppress(OSError):
            if not files.swap_in(temporary, path) or self._is_what_stood(task_id, temporary):
                files.remove(temporary)
            else:  # and saved once more: the newest stands, the other one is examined as a leftover
                files.swap_in(temporary, path)
        self.standing.pop(task_id)

    def keep_aside(self, task_id: str, raw: bytes) -> Path:
        """Somebody's save that cannot be taken over and came in the instant of a commit: kept, never thrown away."""
        folder = self._known.private_folder / "displaced"
        folder.mkdir(exist_ok=True)
        name = f"{task_id}.{document_digest(raw)[7:23]}.json"
        files.keep_durably(folder, name, raw)
        return folder / name

    def is_known(self, task_id: str, status: os.stat_result) -> bool:
        """Whether a file is surely the one that was looked at before: same times, and not changed just before."""
        entry = self._known.view.entries.get(task_id)
        if entry is None or entry.signature is None or Signature.of(status) != entry.signature:
            return False
        return entry.checked_ns - max(status.st_mtime_ns, status.st_ctime_ns) > RACY_NS
