"""What the fault drills share: moves for any stage of a task, promises made, and the check that all is well."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from audit.event import KINDS, Event
from audit.reader import read_events
from audit.verify import verify
from ssot import intents, rules
from ssot.blobs import Blobs
from ssot.intents import Intent
from ssot.states import Stage, stage_of
from ssot.store import Committed, Store
from ssot.task import AckBody, Echo, Issue, Operation, ResultBody, Task, VerdictBody, document_bytes, document_digest

REFERENCE = "2026-01-01T00:00:00Z"


# ------------------------------------------------------------------------------------------------ moves


def ack_of(task: Task) -> AckBody:
    """A right ACK for the task's current dispatch."""
    assert task.current
    assert task.current.dispatch
    dispatch = task.current.dispatch
    echo = tuple(Echo(criterion_ref=c.id, text=c.text) for c in dispatch.acceptance_criteria)
    return AckBody(dispatch_id=dispatch.dispatch_id, echo=echo, scope=dispatch.scope, issues=dispatch.issues)


def result_of(task: Task, summary: str = "done") -> ResultBody:
    """A right result for the task's current dispatch."""
    operation = Operation(op_id="OP-1", at=REFERENCE, action="note", detail="looked at it", criterion_refs=("AC-1",))
    return ResultBody(dispatch_id=dispatch_id(task), outcome="completed", summary=summary, work_log=(operation,))


def verdict_of(task: Task, *, approve: bool = True) -> VerdictBody:
    """A right verdict on the task's current result."""
    if approve:
        return VerdictBody(dispatch_id=dispatch_id(task), decision="approve", summary="seen")
    issue = Issue(issue_id="IS-1", criterion_ref="AC-1", op_refs=("OP-1",), severity="major", text="not yet")
    return VerdictBody(dispatch_id=dispatch_id(task), decision="reject", summary="seen", issues=(issue,))


def dispatch_id(task: Task) -> str:
    assert task.current
    assert task.current.dispatch
    return task.current.dispatch.dispatch_id


def forward(task: Task | None, dice: random.Random) -> tuple[str, Intent]:
    """Who does what next to bring a task towards a decision, now and then on a side road."""
    if task is None:
        return "importer", intents.Create(request_text=f"Do the thing number {dice.randrange(10**9)}")
    if task.locked:
        return "alice", intents.Unlock(reason="another try")
    side = dice.random() < 0.1
    match stage_of(task):
        case "dispatched":
            return "executor", intents.SendAck(ack_of(task))
        case "acknowledged":
            ended = intents.EndAttempt(dispatch_id(task), "executor_failed")
            return ("dispatcher", ended) if side else ("executor", intents.SendResult(result_of(task)))
        case "delivered":
            return "reviewer", intents.SendVerdict(verdict_of(task, approve=dice.random() < 0.5))
        case "needs_review":
            approve = dice.random() < 0.4
            return ("alice", intents.Approve("fine")) if approve else ("bob", intents.Reject("not like this"))
        case _:  # new, ended, rejected; an approved one is refused, which is as good a commit as any
            return "dispatcher", intents.Dispatch(f"d-{dice.randrange(10**12)}", ack_timeout_s=3600)


def walk_to(store: Store, task_id: str, stage: Stage) -> Task:
    """Bring a new task to a stage on the straight road to its approval."""
    steps: list[tuple[str, Any]] = [
        ("importer", lambda task: intents.Create(request_text=f"Do the thing of {task_id}")),
        ("dispatcher", lambda task: intents.Dispatch(f"d-{task_id}", ack_timeout_s=3600)),
        ("executor", lambda task: intents.SendAck(ack_of(task))),
        ("executor", lambda task: intents.SendResult(result_of(task))),
        ("reviewer", lambda task: intents.SendVerdict(verdict_of(task))),
        ("alice", lambda task: intents.Approve("fine")),
    ]
    task = None
    for actor, make in steps:
        task = store.commit(task_id, make(task), actor=actor).task
        if stage_of(task) == stage:
            return task
    raise AssertionError(f"no straight road leads to {stage}")


# --------------------------------------------------------------------------------------------- promises


@dataclass(frozen=True, slots=True)
class Promise:
    """An event whose commit was acknowledged to somebody: it must stand in the log, as it is, for ever."""

    seq: int
    type: str
    subject: str
    digest: str

    @classmethod
    def of(cls, event: Event) -> Promise:
        return cls(event.seq, event.type, event.subject or "", event.digest)


def promises_of(committed: Committed) -> list[Promise]:
    return [Promise.of(event) for event in committed.events]


# ------------------------------------------------------------------------------------------------ check


def settle(home: Path) -> None:
    """What any process does when it starts: open, read the log, compare the files."""
    store = Store.open(home, source="kircerta/settle")
    store.scan()
    store.close()


def problems(home: Path, promises: list[Promise]) -> list[str]:
    """Everything that is not as it has to be in a settled workspace; empty when all is well."""
    found = []
    verified = verify(home / "audit")
    if verified.problem or verified.torn_bytes:
        found.append(f"verify: {verified.problem or f'{verified.torn_bytes} torn bytes'}")
    log = {event.seq: event for event in read_events(home / "audit")}
    for promise in promises:
        stands = log.get(promise.seq)
        if stands is None or Promise.of(stands) != promise:
            found.append(f"lost: {promise}, where {stands and (stands.type, stands.subject)} stands")
    found += differences(home, list(log.values()))
    leftovers = [path.name for path in (home / "ssot" / "tasks").iterdir() if not path.name.endswith(".json")]
    found += [f"left over: {name}" for name in leftovers]
    found += [f"left over: {path.name}" for path in (home / "ssot" / "blobs").glob(".*")]
    return found


def differences(home: Path, log: list[Event]) -> list[str]:
    """Where replaying the log from nothing does not give the task files, byte for byte."""
    tasks = replayed(home, log)
    found = []
    for task_id, task in tasks.items():
        path = home / "ssot" / "tasks" / f"{task_id}.json"
        if not path.exists() or path.read_bytes() != document_bytes(task):
            found.append(f"{task_id}: its file is not what the log says at seq {task.seq}")
    known = {f"{task_id}.json" for task_id in tasks}
    strangers = [path.name for path in (home / "ssot" / "tasks").glob("*.json") if path.name not in known]
    return found + [f"{name}: the log does not know it" for name in strangers]


def replayed(home: Path, log: list[Event]) -> dict[str, Task]:
    """The tasks as the log alone gives them, each step compared with the digest that its event carries."""
    blobs, tasks = Blobs(home / "ssot" / "blobs"), dict[str, Task]()
    for event in log:
        kind = KINDS.get(event.type)
        if kind is None or not kind.changes_task or event.subject is None:
            continue
        data = event.data
        if "in_blob" in data:
            data = {**data, **orjson.loads(blobs.text(data["blob"]))}
        task = rules.evolve(tasks.get(event.subject), event, data)
        assert document_digest(document_bytes(task)) == event.data["document_sha256"], event.seq
        tasks[event.subject] = task
    return tasks
