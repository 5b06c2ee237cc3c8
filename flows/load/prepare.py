"""The tasks that a load run makes for itself, takes to the gate, and puts away afterwards. Nobody else's is touched.

A decision needs an attempt at the gate. Ten decisions a second for two hours would be 72,000 task files; so a rejected
task is dispatched again, by agents that the run plays itself, and approved at its eighth attempt: a ninth of the files,
while one document stays small enough to be written ten times a second.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from audit.stamp import random_id
from ssot.intents import Approve, Create, Dispatch, Intent, Reject, SendAck, SendResult, SendVerdict, Unlock
from ssot.runs import task_prefix
from ssot.states import Stage
from ssot.store import Store
from ssot.task import AckBody, Criterion, DiffSnapshot, Echo, Operation, ResultBody, Task, VerdictBody
from ssot.task import Dispatch as Dispatched

KEEPER: Final = "load"
EXECUTOR, REVIEWER, DECIDER = "load-executor", "load-reviewer", "load-decider"
MOST_ATTEMPTS: Final = 8
LONG_ACK_S: Final = 3600.0
_BATCH: Final = 10
"""Moves in one commit: others wait for the workspace's lock no longer than for a few of their own."""
_DIFF: Final = "--- a/src/hello.py\n+++ b/src/hello.py\n@@ -1 +1 @@\n-print('Hello!')\n+print('Hello, you!')\n"
_CRITERIA: Final = (Criterion(id="AC-1", text="It greets."), Criterion(id="AC-2", text="It says whom."))
_STEPS: Final[tuple[tuple[Stage, str], ...]] = (
    ("new", KEEPER),
    ("dispatched", EXECUTOR),
    ("acknowledged", EXECUTOR),
    ("delivered", REVIEWER),
)


class Feeder:
    """Keeps so many tasks at the gate that every decision finds one. One thread calls `turn`."""

    def __init__(self, store: Store, run_id: str, *, at_hand: int, decisions: int | None) -> None:
        self._store = store
        self._run_id = run_id
        self._prefix = task_prefix(run_id)
        self._numbers = itertools.count(1)
        self._at_hand = at_hand
        self._left = decisions
        """Decisions that can still come; None in a closed loop, where nobody knows."""
        self._ours: dict[str, int] = {}
        """Each of our tasks that is not approved yet, and the attempt of it that was handed out for a decision."""

    def turn(self, failed: Iterable[str] = ()) -> list[tuple[str, str]]:
        """Refill; gives what can be decided from now on, each with the decision. `failed` may be decided again."""
        self._store.refresh()
        for task_id in failed:
            self._take_back(task_id)
        waiting = sum(self._stage(task_id) == "needs_review" for task_id in self._ours)
        missing = max(0, self._at_hand - waiting)
        if self._left is not None:
            missing = min(missing, self._left)
        prepared = self._prepare(missing)
        if self._left is not None:
            self._left -= len(prepared)
        return [(task_id, self._decision_for(task_id)) for task_id in prepared]

    def _take_back(self, task_id: str) -> None:
        """A decision that did not come through: if the task still waits, it is handed out once more."""
        if task_id in self._ours and self._stage(task_id) == "needs_review":
            self._ours[task_id] = 0
            if self._left is not None:
                self._left += 1

    def _stage(self, task_id: str) -> Stage | None:
        entry = self._store.view.entries.get(task_id)
        return entry.stage if entry is not None else None

    def _prepare(self, wanted: int) -> list[str]:
        """Take so many tasks to the gate: rejected ones again, then fresh ones."""
        self._ours = {one: at for one, at in self._ours.items() if self._stage(one) != "approved"}
        at_gate = [one for one, at in self._ours.items() if at == 0 and self._stage(one) == "needs_review"]
        again = [one for one in self._ours if self._stage(one) == "rejected"][: max(0, wanted - len(at_gate))]
        fresh = [self._new_id() for _ in range(max(0, wanted - len(at_gate) - len(again)))]
        taken = [*at_gate[:wanted], *to_gate(self._store, fresh, again)]
        for task_id in taken:
            self._ours[task_id] = self._attempt(task_id)
        return taken

    def _new_id(self) -> str:
        return f"{self._prefix}{next(self._numbers)}"

    def _attempt(self, task_id: str) -> int:
        return len(self._store.task(task_id).attempts)

    def _decision_for(self, task_id: str) -> str:
        return "approve" if self._ours[task_id] >= MOST_ATTEMPTS else "reject"


def to_gate(store: Store, fresh: Sequence[str], again: Sequence[str] = ()) -> list[str]:
    """Take tasks to the gate, new ones and rejected ones; gives those that are there now."""
    _commit(store, fresh, _creation, KEEPER)
    _commit(store, [one for one in again if store.task(one).locked], _unlocking, KEEPER)
    _commit(store, again, lambda task: _dispatch(), KEEPER)
    ids = [*fresh, *again]
    for stage, actor in _STEPS:
        there = [one for one in ids if _stage_of(store, one) == stage]
        _commit(store, there, _MOVES[stage], actor)
    return [one for one in ids if _stage_of(store, one) == "needs_review"]


def _stage_of(store: Store, task_id: str) -> Stage | None:
    entry = store.view.entries.get(task_id)
    return entry.stage if entry is not None else None


def _commit(store: Store, ids: Sequence[str], move: Callable[[Task], Intent], actor: str) -> None:
    """One move on many tasks. What is refused shows in the task's stage: it is not where it should be."""
    for begin in range(0, len(ids), _BATCH):
        chunk = ids[begin : begin + _BATCH]
        if move is _creation:
            store.commit_many([(one, new_task()) for one in chunk], actor=actor)
        else:
            store.commit_many([(one, move(store.task(one))) for one in chunk], actor=actor)


# ----------------------------------------------------------------------------------------------- the moves


def new_task() -> Create:
    """A small task that says what it is for."""
    return Create(
        "Made by a load run, which decides and retires it itself.",
        title="Load run",
        acceptance_criteria=_CRITERIA,
        scope=("src/**",),
    )


def _creation(task: Task) -> Create:
    return new_task()


def _unlocking(task: Task) -> Unlock:
    return Unlock("The load run goes on with its task.")


def _dispatch(ack_timeout_s: float = LONG_ACK_S) -> Dispatch:
    return Dispatch(random_id("d"), executor="remote", reviewer="remote", ack_timeout_s=ack_timeout_s)


def dispatch_for(ack_timeout_s: float) -> Dispatch:
    """A dispatch to the run's own agents, which have so long for their ACK."""
    return _dispatch(ack_timeout_s)


def told(task: Task) -> Dispatched:
    """What the executor of the task's current attempt was told."""
    assert task.current is not None
    assert task.current.dispatch is not None
    return task.current.dispatch


def ack_of(task: Task) -> SendAck:
    """The echo, word for word."""
    dispatch = told(task)
    echo = tuple(Echo(criterion_ref=one.id, text=one.text) for one in dispatch.acceptance_criteria)
    body = AckBody(dispatch_id=dispatch.dispatch_id, echo=echo, scope=dispatch.scope, issues=dispatch.issues)
    return SendAck(body)


def result_of(task: Task) -> SendResult:
    """A delivery that fits what was told."""
    dispatch = told(task)
    operation = Operation(
        op_id="OP-1",
        at=dispatch.at,
        action="edit",
        target="src/hello.py",
        detail="Greets.",
        criterion_refs=tuple(one.id for one in dispatch.acceptance_criteria),
    )
    snapshot = DiffSnapshot(
        format="unified", base="4f2a91c", sha256=hashlib.sha256(_DIFF.encode()).hexdigest(), text=_DIFF
    )
    return SendResult(
        ResultBody(
            dispatch_id=dispatch.dispatch_id,
            outcome="completed",
            summary="It greets.",
            work_log=(operation,),
            diff_snapshot=snapshot,
        )
    )


def verdict_of(task: Task) -> SendVerdict:
    """A verdict that lets it through to the gate."""
    return SendVerdict(VerdictBody(dispatch_id=told(task).dispatch_id, decision="approve", summary="Both are met."))


_MOVES: Final[dict[Stage, Callable[[Task], Intent]]] = {
    "new": lambda task: _dispatch(),
    "dispatched": ack_of,
    "acknowledged": result_of,
    "delivered": verdict_of,
}


# ---------------------------------------------------------------------------------------------- afterwards


def retire(store: Store, run_id: str) -> int:
    """Put a run's tasks away: what waits at the gate is approved, what is under way rejected; gives their number."""
    store.refresh()
    ours = [one for one in list(store.view.entries.values()) if one.task_id.startswith(task_prefix(run_id))]
    at_gate = [one.task_id for one in ours if one.stage == "needs_review"]
    under_way = [one.task_id for one in ours if one.status == "pending"]
    over = f"The load run {run_id} is over."
    _commit(store, at_gate, lambda task: Approve(over), DECIDER)
    _commit(store, under_way, lambda task: Reject(over), DECIDER)
    return len(at_gate) + len(under_way)
