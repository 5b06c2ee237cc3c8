"""Group commit for runs of one process: what came while one batch was written goes into the log as the next one.

A commit alone costs a lock, a sync and half a millisecond of CPU; in a batch of four a third of that each.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from ssot.intents import Intent
from ssot.store import Committed, Refused, Store

_MOST = 64


@dataclass(frozen=True, slots=True)
class _Wish:
    task_id: str
    intent: Intent
    actor: str
    answer: Future[Committed] = field(default_factory=Future)


class Writer:
    """One thread that commits for everybody, in the order of asking. The store's promises hold for each commit."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kircerta-writer")
        self._wishes: deque[_Wish] = deque()
        self._guard = threading.Lock()
        self._is_awake = False

    def commit(self, task_id: str, intent: Intent, actor: str) -> Future[Committed]:
        """Commit a move. The future gives what `Store.commit` gives, or raises what it raises."""
        wish = _Wish(task_id, intent, actor)
        with self._guard:
            self._wishes.append(wish)
            if not self._is_awake:
                self._is_awake = True
                self._thread.submit(self._work)
        return wish.answer

    def _work(self) -> None:
        while batch := self._next_batch():
            for actor in dict.fromkeys(wish.actor for wish in batch):
                self._carry_out([wish for wish in batch if wish.actor == actor])

    def _next_batch(self) -> list[_Wish]:
        """What waits, but one wish a task: the next one of a task is judged on what this one makes of it."""
        with self._guard:
            batch: dict[str, _Wish] = {}
            while self._wishes and len(batch) < _MOST and self._wishes[0].task_id not in batch:
                wish = self._wishes.popleft()
                if wish.answer.set_running_or_notify_cancel():
                    batch[wish.task_id] = wish
            self._is_awake = bool(batch)
            return list(batch.values())

    def _carry_out(self, wishes: list[_Wish]) -> None:
        if len(wishes) == 1:
            self._alone(wishes[0])
            return
        try:
            answers = self._store.commit_many([(one.task_id, one.intent) for one in wishes], actor=wishes[0].actor)
        except Refused:  # one of them would not fit its file: nothing was done, each on its own then
            for one in wishes:
                self._alone(one)
        except BaseException as error:
            _fail(wishes, error)
        else:
            for one, answer in zip(wishes, answers, strict=True):
                if isinstance(answer, Refused):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)

    def _alone(self, wish: _Wish) -> None:
        try:
            wish.answer.set_result(self._store.commit(wish.task_id, wish.intent, actor=wish.actor))
        except BaseException as error:
            wish.answer.set_exception(error)


def _fail(wishes: Iterable[_Wish], error: BaseException) -> None:
    for one in wishes:
        one.answer.set_exception(error)
