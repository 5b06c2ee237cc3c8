"""Keeps a process's store up to date: takes over edits by hand within a second, and tells who waits for the log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from audit.event import Corrupt
from audit.files import Busy, StorageFailed
from audit.watch import POLL_S, Doorbell
from ssot.reconcile import SETTLE_S
from ssot.store import Store

CHECKPOINT_EVERY: Final = 20_000
"""Events after which the private checkpoint is written again."""
GATHER_S: Final = 0.02
"""How long names are gathered before the files are looked at."""
_LOG = logging.getLogger("kircerta.watch")


class Watcher:
    """A thread beside a store: follows the log and the task files until it is stopped.

    Args:
        on_news: called (in this thread) after new events were taken in, with the last seq.
        adopt: whether this process takes over edits by hand (the API and the dispatcher do).
    """

    def __init__(self, store: Store, on_news: Callable[[int], None] = lambda seq: None, *, adopt: bool = True) -> None:
        self._store = store
        self._on_news = on_news
        self._adopt = adopt
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kircerta-watch", daemon=True)
        self._again: dict[str, float] = {}
        self._told = store.last_seq()
        self._bell: Doorbell | None = None
        self.problem: str | None = None

    def start(self) -> Watcher:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        if self._bell is not None:
            self._bell.ring_out()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        store = self._store
        folders = [store.audit_folder, store.tasks_folder] if self._adopt else [store.audit_folder]
        bell = self._bell = Doorbell(folders)
        last_scan = 0.0
        missed: set[str | None] = {None} if self._adopt else set()  # what was saved before the bell hung
        try:
            while not self._stop.is_set():
                changed = bell.wait(0 if missed else self._patience())
                missed |= changed.get(store.tasks_folder, set())
                try:
                    if changed:
                        missed |= self._gather(bell)
                    self._turn(missed)
                    missed = set()  # what a busy workspace or a full disk kept from being looked at stays missed
                    if self._adopt and (bell.is_polling and time.monotonic() - last_scan > POLL_S):
                        store.scan()
                        last_scan = time.monotonic()
                    self.problem = None
                except (Busy, StorageFailed, Corrupt) as error:
                    self._say(str(error))
                except Exception as error:  # whatever it is: a thread that died would adopt nothing any more, silently
                    self._say(f"{type(error).__name__}: {error}")
        finally:
            bell.close()

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            _LOG.error("%s", problem)
        self.problem = problem
        self._stop.wait(0.5)

    def _gather(self, bell: Doorbell) -> set[str | None]:
        """Take in the log at once, then let the bell ring for a moment: each commit rings it several times."""
        self._store.refresh()
        self._tell()
        self._stop.wait(GATHER_S)
        return bell.wait(0).get(self._store.tasks_folder, set())

    def _patience(self) -> float:
        """How long to wait for the bell: less when a file has to be looked at again."""
        if not self._again:
            return POLL_S
        return max(0.01, min(POLL_S, min(self._again.values()) - time.monotonic()))

    def _turn(self, names: set[str | None]) -> None:
        """One round: the log first, then the files whose names rang or whose time has come."""
        store = self._store
        store.refresh()
        self._tell()
        if None in names:
            store.scan()
            self._note_unsettled()
        elif names or self._again:
            self._look_at({name[:-5] for name in names if name and name.endswith(".json") and name[0] != "."})
        self._tell()
        if store.checkpoint_age() > CHECKPOINT_EVERY:
            store.save_checkpoint()

    def _look_at(self, names: set[str]) -> None:
        now = time.monotonic()
        due = {name for name, when in self._again.items() if when <= now}
        for name in names:
            if not (self._store.tasks_folder / f"{name}.json").exists():
                self._again.setdefault(name, now + SETTLE_S)  # many editors move the old file away first
        ready = sorted(due | {name for name in names if name not in self._again})
        if ready:
            self._store.examine(ready)
        for name in due:
            del self._again[name]
        self._note_unsettled()

    def _note_unsettled(self) -> None:
        """Files that may still be being written: they are looked at again, though nothing rings for them."""
        for name in self._store.unsettled_names():
            self._again[name] = time.monotonic() + SETTLE_S

    def _tell(self) -> None:
        seq = self._store.last_seq()
        if seq != self._told:
            self._told = seq
            self._on_news(seq)
