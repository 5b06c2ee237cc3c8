"""Makes big workspaces quickly: the log and the files are written in bulk, by the project's own encode and evolve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audit.event import Draft, Event
from audit.log import SEGMENT_BYTES
from audit.reader import Place, after
from audit.segments import ACTIVE
from audit.stamp import rfc3339
from ssot import rules
from ssot.task import Task, document_bytes, document_digest

BEGIN = 1_790_000_000.0
BLOCK = 500
"""Tasks whose histories are interleaved."""


def make_workspace(home: Path, tasks: int, events: int) -> None:
    """A workspace of that many tasks at their gates; what is missing to the number of events are heartbeats."""
    (home / "ssot" / "tasks").mkdir(parents=True)
    (home / "audit").mkdir()
    with_heartbeats = max(0, events - tasks * len(STEPS))
    log = _Log(home / "audit")
    made = 0
    for begin in range(0, tasks, BLOCK):
        numbers = range(begin, min(begin + BLOCK, tasks))
        made += len(numbers)
        heartbeats = with_heartbeats * made // tasks - log.heartbeats
        for task in _histories(log, numbers, heartbeats):
            (home / "ssot" / "tasks" / f"{task.task_id}.json").write_bytes(document_bytes(task))
    log.close()


def _histories(log: _Log, numbers: range, heartbeats: int) -> Iterator[Task]:
    tasks: dict[int, Task] = {}
    for step in range(len(STEPS)):
        for number in numbers:
            tasks[number] = log.move(f"T-{number:06}", tasks.get(number), STEPS[step](number))
            if STEPS[step] is _ack:
                place, each = number - numbers.start, heartbeats // len(numbers)
                log.beat(tasks[number], each + (place < heartbeats % len(numbers)))
    yield from tasks.values()


class _Log:
    """Appends in memory and writes segment by segment, as the real one would have."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._place = Place()
        self._first, self._size, self._lines = 1, 0, list[bytes]()
        self.heartbeats = 0

    def move(self, task_id: str, task: Task | None, draft: Draft) -> Task:
        event = self._placed(draft, task_id)
        moved = rules.evolve(task, event, event.data)
        event.data["document_sha256"] = document_digest(document_bytes(moved))
        self._append(event)
        return moved

    def beat(self, task: Task, count: int) -> None:
        for _ in range(count):
            data = {"dispatch_id": f"d-{task.task_id}", "note": "working"}
            self._append(self._placed(Draft("heartbeat", "fake-executor", data), task.task_id))
        self.heartbeats += count

    def _placed(self, draft: Draft, task_id: str) -> Event:
        seq = self._place.seq + 1
        return Event(
            seq=seq,
            id=f"e-{seq:024}",
            source="kircerta/bulk",
            type=draft.type,
            time=rfc3339(BEGIN + seq / 1000),
            actor=draft.actor,
            data=draft.data,
            prev=self._place.digest,
            subject=task_id,
            correlationid=f"c-{task_id}",
        )

    def _append(self, event: Event) -> None:
        sealed = event.sealed()
        self._place = after(sealed)
        if self._size >= SEGMENT_BYTES:
            self._flush(f"events-{self._first}.jsonl")
            self._first = sealed.seq
        self._lines.append(sealed.line + b"\n")
        self._size += len(sealed.line) + 1

    def _flush(self, name: str) -> None:
        with (self._folder / name).open("wb") as file:
            file.writelines(self._lines)
        self._size, self._lines = 0, []

    def close(self) -> None:
        self._flush(ACTIVE)


# ------------------------------------------------------------------------------------------- the steps

_CRITERIA = [
    {"id": "AC-1", "text": "The parser accepts an empty file and gives an empty list."},
    {"id": "AC-2", "text": "A line that cannot be read is reported with its number, and the others are kept."},
    {"id": "AC-3", "text": "The command ends with 1 when anything was reported."},
]


def _create(number: int) -> Draft:
    task: dict[str, Any] = {
        "title": f"Make the parser of format {number} forgiving",
        "source": "import",
        "request_text": f"The parser of format {number} gives up at the first bad line. It should go on.\n" * 3,
        "acceptance_criteria": _CRITERIA,
        "scope": ["src/**", "tests/**"],
        "created_at": rfc3339(BEGIN - 1e6 + number),
        "correlation_id": f"c-T-{number:06}",
        "origin": {},
        "build": None,
        "metadata": {},
    }
    return Draft("task_created", "importer", {"task": task})


def _dispatch(number: int) -> Draft:
    dispatch: dict[str, Any] = {
        "dispatch_id": f"d-T-{number:06}",
        "at": rfc3339(BEGIN),
        "by": "dispatcher",
        "executor": "fake",
        "reviewer": "fake",
        "acceptance_criteria": _CRITERIA,
        "scope": ["src/**", "tests/**"],
        "issues": [],
        "ack_deadline": rfc3339(BEGIN + 30),
    }
    return Draft("task_dispatched", "dispatcher", {"attempt": 1, "dispatch": dispatch})


def _ack(number: int) -> Draft:
    ack = {
        "dispatch_id": f"d-T-{number:06}",
        "at": rfc3339(BEGIN),
        "by": "fake-executor",
        "echo": [{"criterion_ref": criterion["id"], "text": criterion["text"]} for criterion in _CRITERIA],
        "scope": ["src/**", "tests/**"],
        "issues": [],
    }
    return Draft("ack_received", "fake-executor", {"dispatch_id": ack["dispatch_id"], "ack": ack})


def _result(number: int) -> Draft:
    operation = {
        "op_id": "OP-1",
        "at": rfc3339(BEGIN),
        "action": "edit",
        "target": f"src/format_{number}.py",
        "detail": "catches the error of one line and goes on",
        "exit_code": None,
        "criterion_refs": ["AC-2"],
    }
    result = {
        "dispatch_id": f"d-T-{number:06}",
        "at": rfc3339(BEGIN),
        "by": "fake-executor",
        "outcome": "completed",
        "summary": "Bad lines are reported and passed by.",
        "work_log": [operation],
        "diff_snapshot": None,
    }
    return Draft("result_received", "fake-executor", {"dispatch_id": result["dispatch_id"], "result": result})


def _verdict(number: int) -> Draft:
    verdict = {
        "dispatch_id": f"d-T-{number:06}",
        "at": rfc3339(BEGIN),
        "by": "fake-reviewer",
        "decision": "approve",
        "summary": "All criteria hold.",
        "issues": [],
    }
    return Draft("verdict_received", "fake-reviewer", {"dispatch_id": verdict["dispatch_id"], "verdict": verdict})


STEPS = (_create, _dispatch, _ack, _result, _verdict)
"""What brings a task to its gate: five events."""
