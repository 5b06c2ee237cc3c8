"""How far the dispatcher has followed the log, and what is due behind that. A crash repeats, it never skips."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import orjson

from audit.event import Event
from audit.files import StorageFailed, replace_file
from ssot.runs import is_load_task

What = Literal["closing", "landing", "arrival", "build"]
_WHAT: Final[dict[str, tuple[What, ...]]] = {
    "task_approved": ("closing", "landing"),
    "task_created": ("arrival",),
    "task_refreshed": ("arrival",),
    "build_status": ("build",),
}


@dataclass(frozen=True, slots=True)
class Due:
    """Something that an event of a task asks for."""

    seq: int
    what: What
    task_id: str


class Followed:
    """A position in the log, and what events behind it still ask for.

    A new workspace begins at its end. A crash between a run's end and this file's write does that once more: a closing
    page gets another version; a task that is dispatched already is left alone. A load run looks after its own tasks:
    they ask for nothing here. Safe to use from several threads.
    """

    def __init__(self, home: Path, last_seq: int) -> None:
        self._path = home / ".kircerta" / "followed.json"
        self._guard = threading.RLock()
        self._due: dict[tuple[int, What], Due] = {}
        self.seq = last_seq
        with suppress(OSError, ValueError, TypeError, KeyError):
            self.seq = min(int(orjson.loads(self._path.read_bytes())["seq"]), last_seq)
        self._seen = self.seq
        self.save()

    def take_in(self, event: Event) -> None:
        with self._guard:
            self._seen = event.seq
            if event.subject is None or is_load_task(event.subject):
                return
            for what in _WHAT.get(event.type, ()):
                self._due[event.seq, what] = Due(event.seq, what, event.subject)

    def due(self, *wanted: What) -> list[Due]:
        """What is still asked for, oldest first."""
        with self._guard:
            return [one for _, one in sorted(self._due.items()) if one.what in wanted]

    def done(self, seqs: Iterable[int], what: What | None = None) -> None:
        """What events asked for was done: all of it, or one thing."""
        with self._guard:
            wanted = set(seqs)
            found = [key for key in self._due if key[0] in wanted and what in (None, key[1])]
            for key in found:
                del self._due[key]
            if wanted:
                self.save()

    def save(self) -> None:
        with self._guard, suppress(StorageFailed):  # where it cannot be written, something is done once more
            self.seq = min(self._due)[0] - 1 if self._due else max(self._seen, self.seq)
            replace_file(self._path, orjson.dumps({"seq": self.seq}))
