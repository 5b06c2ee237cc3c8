"""Trouble while the system is under load: processes are killed, the disk fills, a clock jumps, files are edited.

By default on a workspace of its own, with an API and a dispatcher that nobody else needs. Afterwards every decision
that was acknowledged must be in the log, the log must verify, and replaying it must give the task files.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from audit.files import Busy, StorageFailed
from audit.segments import ACTIVE
from audit.stamp import Clock
from audit.verify import verify
from flows.load.plan import Plan
from flows.load.prepare import KEEPER, new_task
from flows.load.session import SOURCE
from flows.playground import Playground, end
from ssot import replay
from ssot.intents import Dispatch
from ssot.settings import Settings
from ssot.states import OPEN
from ssot.store import Refused, Store

_START_S: Final = 30.0
_SETTLE_S: Final = 15.0
_FULL_S: Final = 1.0
_JUMP_S: Final = -3600.0
_ADOPT_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 5.0
_DECISIONS: Final = frozenset({"task_approved", "task_rejected", "reject_lock"})


class Chaos:
    """Does one thing after the other while the load lasts. `ours` is None where the servers are somebody else's."""

    def __init__(self, settings: Settings, plan: Plan, ours: Playground | None) -> None:
        self._settings = settings
        self._ours = ours
        self._pause_s = min(_LONGEST_PAUSE_S, max(0.3, plan.duration_s / 14))
        self._store = Store.open(settings.home, source="kircerta/chaos", settings=settings.store, scan=False)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load-chaos", daemon=True)
        self._numbers = itertools.count(1)
        self._done: Counter[str] = Counter()
        self._problems: list[str] = []
        self._not_shown: list[str] = []
        self._dispatched: list[str] = []

    # --------------------------------------------------------------------------------------------- as Trouble

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Stop making trouble; everything runs again when this comes back."""
        self._over.set()
        self._thread.join(_START_S + _ADOPT_S)
        if self._ours is not None:
            self._ours.await_api()

    def report(self, acked: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
        """What was done, and every promise that does not hold."""
        with closing(self._store):
            self._await_work()
            self._check_decisions(acked)
            self._check_log()
        if self._ours is not None and self._problems:
            self._ours.is_worth_keeping = True
        return {
            "done": dict(self._done),
            "acknowledged": len(acked),
            "dispatched": len(self._dispatched),
            "problems": self._problems,
            "not_shown": self._not_shown,
            "workspace": str(self._settings.home) if self._problems else None,
        }

    # ------------------------------------------------------------------------------------------------ trouble

    def _run(self) -> None:
        for name, act in itertools.cycle(self._acts()):
            if self._over.wait(self._pause_s):
                return
            try:
                act()
                self._done[name] += 1
            except (Busy, StorageFailed, Refused):  # trouble met trouble: that is no broken promise
                self._done[f"{name}, not carried out"] += 1
            except Exception as error:
                self._problems.append(f"{name}: {type(error).__name__}: {error}"[:500])

    def _acts(self) -> list[tuple[str, Callable[[], None]]]:
        by_hand = [("file edited by hand", self._edit), ("file broken by hand", self._break)]
        if self._ours is None:
            self._not_shown += ["killed processes, a full disk, a clock that jumps: the servers are not the run's own"]
            return by_hand
        found = [("API killed", self._kill_api), by_hand[0], ("dispatcher killed", self._kill_dispatcher)]
        if hasattr(__import__("resource"), "prlimit"):
            found.append(("disk full", self._fill_disk))
        else:
            self._not_shown.append("a full disk: a running process's file size cannot be limited here")
        return [*found, by_hand[1], ("clock of one writer jumped", self._jump)]

    def _kill_api(self) -> None:
        assert self._ours is not None
        end(self._ours.api, signal.SIGKILL)
        self._ours.start_api()
        self._ours.await_api()

    def _kill_dispatcher(self) -> None:
        """In the midst of work: a task was dispatched for it just before."""
        assert self._ours is not None
        task_id = self._new_task("work")
        self._store.commit(
            task_id, Dispatch(f"d-{task_id}", executor="fake-inproc", reviewer="fake-inproc"), actor=KEEPER
        )
        self._dispatched.append(task_id)
        end(self._ours.dispatcher, signal.SIGKILL)
        self._ours.start_dispatcher()

    def _fill_disk(self) -> None:
        """The API's files may not grow for a second: its next append fails as on a full disk, with EFBIG."""
        import resource

        assert self._ours is not None
        assert self._ours.api is not None
        pid = self._ours.api.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        active = self._settings.home / "audit" / ACTIVE
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (active.stat().st_size, hard))
        self._over.wait(_FULL_S)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

    def _edit(self) -> None:
        """A title changed in an editor is adopted."""
        task_id = self._new_task("edited")
        path = self._path(task_id)
        title = f"Edited by hand, {task_id}"
        path.write_text(path.read_text().replace('"title": "Load run"', f'"title": "{title}"'))
        if not self._until(lambda: self._store.task(task_id).title == title):
            self._problems.append(f"{task_id}: an edit by hand was not adopted within {_ADOPT_S:g} s")

    def _break(self) -> None:
        """A file that makes no sense is held, and restored once it is removed."""
        task_id = self._new_task("broken")
        before = self._store.document(task_id)
        path = self._path(task_id)
        path.write_text("{ this is no task")
        self._over.wait(0.5)
        path.unlink()
        if not self._until(lambda: path.exists() and path.read_bytes() == before):
            self._problems.append(f"{task_id}: its removed file was not restored within {_ADOPT_S:g} s")

    def _jump(self) -> None:
        """A writer whose clock is an hour behind: the log's time must not decrease."""
        clock = Clock(lambda: time.time() + _JUMP_S)
        made = Store.open(self._settings.home, source=SOURCE, settings=self._settings.store, clock=clock, scan=False)
        with closing(made) as late:
            late.commit(f"chaos-clock-{next(self._numbers)}", new_task(), actor=KEEPER)

    def _new_task(self, name: str) -> str:
        task_id = f"chaos-{name}-{next(self._numbers)}"
        self._store.commit(task_id, new_task(), actor=KEEPER)
        return task_id

    def _path(self, task_id: str) -> Path:
        return self._store.tasks_folder / f"{task_id}.json"

    def _until(self, holds: Callable[[], bool]) -> bool:
        until = time.monotonic() + _ADOPT_S
        while time.monotonic() < until:
            self._store.refresh()
            if holds():
                return True
            time.sleep(0.05)
        return False

    # --------------------------------------------------------------------------------------------- afterwards

    def _await_work(self) -> None:
        """What was dispatched goes its way, whoever was killed meanwhile."""
        until = time.monotonic() + _SETTLE_S
        while (under_way := self._under_way()) and time.monotonic() < until:
            time.sleep(0.1)
        self._problems += [f"{task_id}: its dispatch is not carried on" for task_id in under_way]

    def _under_way(self) -> list[str]:
        self._store.refresh()
        return [one for one in self._dispatched if self._store.view.entries[one].stage in OPEN]

    def _check_decisions(self, acked: Sequence[tuple[str, str, int]]) -> None:
        """Every acknowledged decision stands in the log where its answer said."""
        told = {event.seq: event for event in self._store.events()}
        for task_id, decision, seq in acked:
            event = told.get(seq)
            if event is None or event.subject != task_id or event.type not in _DECISIONS:
                self._problems.append(f"{task_id}: its {decision}, acknowledged as event {seq}, is not in the log")

    def _check_log(self) -> None:
        verified = verify(self._store.audit_folder)
        if verified.problem:
            self._problems.append(f"the log does not verify: {verified.problem}")
        replayed = replay.check(self._settings.home)
        for name in ("differing", "missing", "extra", "held"):
            found = getattr(replayed, name)
            if found:
                self._problems.append(f"replay: {name}: {', '.join(found[:5])}")
        if replayed.problem:
            self._problems.append(f"replay: {replayed.problem}")
