"""Builders: each gives a valid thing, so that a test says only what matters to it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from audit.event import Event
from audit.reader import read_events
from audit.stamp import Clock
from ssot import intents
from ssot.rules import Policy
from ssot.states import Stage, stage_of
from ssot.store import Committed, Refused, Store, StoreSettings
from ssot.task import AckBody, Criterion, DiffSnapshot, Echo, Issue, Operation, ResultBody, Task, VerdictBody

START_S = 1_750_000_000.0
"""Where the builders' clocks begin (Unix seconds)."""
EXECUTOR, REVIEWER, PERSON = "fake-executor", "fake-reviewer", "alice"
BOTH = ("AC-1", "AC-2")
"""The criteria of `create`."""


@dataclass
class Ticks:
    """A clock that a test turns: each look costs a millisecond; `ahead` jumps."""

    now: float = START_S
    step: float = 0.001
    ids: Iterable[int] = field(default_factory=lambda: count(1))

    def ahead(self, seconds: float) -> None:
        self.now += seconds

    @property
    def clock(self) -> Clock:
        numbers = iter(self.ids)
        return Clock(self._seconds, lambda prefix: f"{prefix}-{next(numbers):06d}")

    def _seconds(self) -> float:
        self.now += self.step
        return self.now


def a_store(
    home: Path,
    *,
    ticks: Ticks | None = None,
    max_rejects: int = 3,
    trust_history: bool = False,
    segment_bytes: int = 64 * 1024 * 1024,
    scan: bool = True,
) -> Store:
    """A store on a workspace; with the builders' clock unless `ticks` is given."""
    settings = StoreSettings(Policy(max_rejects, trust_history), lock_timeout_s=10.0, segment_bytes=segment_bytes)
    return Store.open(home, source="kircerta/test", settings=settings, clock=(ticks or Ticks()).clock, scan=scan)


# ------------------------------------------------------------------------------------------- intents, bodies


def create(request_text: str = "Add a greeting.\nIt says hello.", **more: Any) -> intents.Create:
    more.setdefault("acceptance_criteria", (Criterion(id="AC-1", text="it greets"), Criterion(id="AC-2", text="fast")))
    return intents.Create(request_text=request_text, **more)


def ack_body(task: Task, **changes: Any) -> AckBody:
    """The echo of the task's current dispatch, word for word."""
    dispatch = _dispatch(task)
    echo = tuple(
        Echo(criterion_ref=c.id, text=c.text, **({"blob": c.blob} if c.blob else {}))
        for c in dispatch.acceptance_criteria
    )
    whole = {"dispatch_id": dispatch.dispatch_id, "echo": echo, "scope": dispatch.scope, "issues": dispatch.issues}
    return AckBody(**{**whole, **changes})


def operation(number: int = 1, **changes: Any) -> Operation:
    whole = {
        "op_id": f"OP-{number}",
        "at": "2026-01-31T09:00:00Z",
        "action": "edit",
        "target": "src/a.py",
        "detail": "changed a line",
        "criterion_refs": ("AC-1",),
    }
    return Operation(**{**whole, **changes})


def diff_text(path: str = "src/a.py") -> str:
    return f"--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-old\n+new\n"


def snapshot(text: str | None = None) -> DiffSnapshot:
    text = diff_text() if text is None else text
    return DiffSnapshot(format="unified", base="0" * 40, sha256=hashlib.sha256(text.encode()).hexdigest(), text=text)


def result_body(task: Task, **changes: Any) -> ResultBody:
    told = tuple(one.id for one in _dispatch(task).acceptance_criteria)
    whole: dict[str, Any] = {
        "dispatch_id": _dispatch(task).dispatch_id,
        "outcome": "completed",
        "summary": "done",
        "work_log": (operation(1), operation(2, action="test", target="", exit_code=0, criterion_refs=told)),
        "diff_snapshot": snapshot(),
    }
    return ResultBody(**{**whole, **changes})


def issue(number: int = 1, **changes: Any) -> Issue:
    whole = {
        "issue_id": f"IS-{number}",
        "criterion_ref": "AC-1",
        "op_refs": ("OP-1",),
        "severity": "major",
        "text": f"issue {number}",
    }
    return Issue(**{**whole, **changes})


def verdict_body(task: Task, decision: str = "approve", **changes: Any) -> VerdictBody:
    issues = (issue(1), issue(2, severity="blocker")) if decision == "reject" else ()
    whole = {"dispatch_id": _dispatch(task).dispatch_id, "decision": decision, "summary": "seen", "issues": issues}
    return VerdictBody(**{**whole, **changes})


def _dispatch(task: Task) -> Any:
    assert task.current is not None
    assert task.current.dispatch is not None
    return task.current.dispatch


# --------------------------------------------------------------------------------------------------- walking


class Walk:
    """One task in a store, and the moves on it with valid bodies."""

    def __init__(self, store: Store, task_id: str = "T-1") -> None:
        self.store, self.task_id = store, task_id
        self._numbers = count(1)

    @property
    def task(self) -> Task:
        return self.store.task(self.task_id)

    def do(self, intent: intents.Intent, actor: str = PERSON) -> Committed:
        return self.store.commit(self.task_id, intent, actor=actor)

    def create(self, **more: Any) -> Committed:
        return self.do(create(**more))

    def dispatch(self, **more: Any) -> Committed:
        attempts = len(self.task.attempts)
        return self.do(intents.Dispatch(f"d-{self.task_id}-{attempts + 1}-{next(self._numbers)}", **more), "dispatcher")

    def ack(self, actor: str = EXECUTOR, **changes: Any) -> Committed:
        return self.do(intents.SendAck(ack_body(self.task, **changes)), actor)

    def heartbeat(self, actor: str = EXECUTOR) -> Committed:
        return self.do(intents.SendHeartbeat(_dispatch(self.task).dispatch_id), actor)

    def result(self, actor: str = EXECUTOR, **changes: Any) -> Committed:
        return self.do(intents.SendResult(result_body(self.task, **changes)), actor)

    def verdict(self, decision: str = "approve", actor: str = REVIEWER, **changes: Any) -> Committed:
        return self.do(intents.SendVerdict(verdict_body(self.task, decision, **changes)), actor)

    def end(self, reason: str = "executor_failed") -> Committed:
        return self.do(intents.EndAttempt(_dispatch(self.task).dispatch_id, reason), "watchdog")

    def approve(self, actor: str = PERSON, **more: Any) -> Committed:
        return self.do(intents.Approve(**more), actor)

    def reject(self, actor: str = PERSON, reason: str = "not yet", **more: Any) -> Committed:
        return self.do(intents.Reject(reason, **more), actor)

    def fail_landing(self, *issues: Issue) -> Committed:
        told = issues or (issue(1, issue_id="LANDING-1", severity="blocker", text="it does not apply"),)
        known = _dispatch(self.task).dispatch_id
        return self.do(intents.FailLanding(known, "conflict", "kircerta/approved", "1" * 40, told), "landing")

    def resume_landing(self) -> Committed:
        return self.do(intents.ResumeLanding(_dispatch(self.task).dispatch_id), "landing")

    def unlock(self, actor: str = PERSON, reason: str = "talked it over") -> Committed:
        return self.do(intents.Unlock(reason), actor)

    def to_gate(self, decision: str = "approve") -> Committed:
        """From new, ended or rejected through a whole attempt to the gate."""
        self.dispatch()
        self.ack()
        self.result()
        return self.verdict(decision)


_STEPS: dict[Stage, tuple[str, ...]] = {
    "new": (),
    "dispatched": ("dispatch",),
    "acknowledged": ("dispatch", "ack"),
    "delivered": ("dispatch", "ack", "result"),
    "needs_review": ("dispatch", "ack", "result", "verdict"),
    "approved": ("dispatch", "ack", "result", "verdict", "approve"),
    "unlanded": ("dispatch", "ack", "result", "verdict", "approve", "fail_landing"),
    "rejected": ("dispatch", "ack", "result", "verdict", "reject"),
    "ended": ("dispatch", "end"),
}


def walk_to(store: Store, task_id: str, stage: Stage, **created: Any) -> Walk:
    """A new task, brought to a stage."""
    walk = Walk(store, task_id)
    walk.create(**created)
    for step in _STEPS[stage]:
        getattr(walk, step)()
    assert stage_of(walk.task) == stage
    return walk


def refusal(walk: Walk, intent: intents.Intent, actor: str = PERSON) -> Refused:
    """The refusal of an intent; fails where it is carried out."""
    try:
        walk.do(intent, actor)
    except Refused as refused:
        return refused
    raise AssertionError(f"{intent} was not refused")


# ----------------------------------------------------------------------------------------------------- files


def projects_file(home: Path, name: str = "shop", **policy: Any) -> Path:
    """A projects' file with one project, which tasks name in their metadata; `policy` is its table."""
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in policy.items())
    return write_projects(home, f"[project.{name}]\n[project.{name}.policy]\n{lines}")


def write_projects(home: Path, text: str) -> Path:
    path = home / "config" / "projects.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def minimal(task_id: str, **more: Any) -> dict[str, Any]:
    """The least that a file by hand needs."""
    return {
        "task_id": task_id,
        "source": "manual",
        "request_text": f"Do {task_id}.",
        "created_at": "2026-01-31T09:00:00Z",
        **more,
    }


def task_path(home: Path, task_id: str) -> Path:
    return home / "ssot" / "tasks" / f"{task_id}.json"


def drop(home: Path, task_id: str, document: dict[str, Any] | bytes) -> Path:
    """Write a task file by hand, long enough ago that nobody takes it for half-written."""
    path = task_path(home, task_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document, indent=1).encode())
    age(path)
    return path


def age(path: Path, seconds: float = 2.0) -> None:
    """Make a file look as if it was saved a while ago."""
    moment = path.stat().st_mtime - seconds
    os.utime(path, (moment, moment))


def read(home: Path, task_id: str) -> dict[str, Any]:
    found = json.loads(task_path(home, task_id).read_bytes())
    assert isinstance(found, dict)
    return found


def events(home: Path, type: str | None = None, subject: str | None = None) -> list[Event]:
    """The log's events, all or some."""
    return [
        event
        for event in read_events(home / "audit")
        if type in (None, event.type) and subject in (None, event.subject)
    ]


def types(home: Path, subject: str | None = None) -> list[str]:
    return [event.type for event in events(home, subject=subject)]


# ----------------------------------------------------------------------------------------- payloads of others


def issue_payload(
    body: str | None = "- [ ] it greets",
    updated_at: str | None = "2026-01-31T09:00:00Z",
    *,
    action: str = "opened",
    number: int = 7,
    repository: str = "Octo-Org/Hello.World",
    title: str = "Greet people",
) -> dict[str, Any]:
    """A delivery of GitHub about an issue."""
    issue = {
        "number": number,
        "title": title,
        "body": body,
        "html_url": f"https://github.com/{repository}/issues/{number}",
        "user": {"login": "octocat"},
        "labels": [{"name": "agent"}],
        "created_at": "2026-01-30T08:00:00Z",
        "updated_at": updated_at,
    }
    return {"action": action, "issue": issue, "repository": {"full_name": repository}, "sender": {"login": "octocat"}}


def build_payload(
    progress: str | None = "PENDING", status: str | None = None, event: str = "", run_id: str = "0AB1-cd"
) -> dict[str, Any]:
    """A delivery of Xcode Cloud about a build run."""
    told = {"PENDING": "BUILD_CREATED", "RUNNING": "BUILD_STARTED", "COMPLETE": "BUILD_COMPLETED"}
    run = {"number": 12, "createdDate": "2026-01-30T10:00:00.123456789-07:00", "executionProgress": progress}
    return {
        "metadata": {"attributes": {"eventType": event or told.get(progress or "", "UNRECOGNIZED")}},
        "ciProduct": {"attributes": {"name": "Hello"}},
        "ciWorkflow": {"attributes": {"name": "Pull Requests"}},
        "ciBuildRun": {"id": run_id, "attributes": {**run, **({"completionStatus": status} if status else {})}},
    }


def update_payload(
    text: str | None = "Greet people.",
    update_id: int = 1,
    *,
    kind: str = "message",
    chat_id: int = -1001,
    message_id: int = 5,
    **more: Any,
) -> dict[str, Any]:
    """An update of Telegram."""
    message: dict[str, Any] = {
        "message_id": message_id,
        "date": 1_770_000_000,
        "chat": {"id": chat_id, "type": "group"},
    }
    return {"update_id": update_id, kind: {**message, **({"text": text} if text is not None else {}), **more}}
