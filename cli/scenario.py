"""A scripted run in a workspace of its own, in which every type of event occurs: the samples of docs/events.md."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from audit.event import Draft, Event
from audit.mac import MacKey
from audit.segments import ACTIVE
from audit.stamp import Clock
from flows.backfill import redelivery_requested
from flows.github import Failed, Hook, HookDelivery
from ssot import alarms, intents, retention, runs
from ssot.ingest import github, telegram, xcode
from ssot.ingest.delivery import Delivery
from ssot.rules import Policy
from ssot.store import Refused, Store, StoreSettings
from ssot.task import (
    AckBody,
    Criterion,
    DiffSnapshot,
    Echo,
    Issue,
    Operation,
    ResultBody,
    Task,
    VerdictBody,
)

BEGIN_S: Final = 1_793_520_000.0
"""2026-11-01T08:00:00Z"""
EXECUTOR, REVIEWER, PERSON = "fake-executor", "fake-reviewer", "alice"
DIFF: Final = """\
--- a/src/hello.py
+++ b/src/hello.py
@@ -1 +1 @@
-print("Hello!")
+print(f"Hello, {name}!")
"""


PROJECTS: Final = """\
[project.hello.policy]
quorum = 2
approvers = ["alice", "bob"]
decision_deadline_s = 86400
reminders_s = [3600]
"""


@dataclass(slots=True)
class _Time:
    """A clock that only moves when it is told to, and ids that count."""

    now: float = BEGIN_S
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda prefix: f"{prefix}-{next(self.numbers):024x}")


def play(home: Path) -> list[Event]:
    """Run the scenario in an empty folder; gives everything that was logged."""
    time = _Time()
    settings = StoreSettings(policy=Policy(max_rejects=1), mac_key=MacKey.derived("a secret for an example"))
    store = Store.open(home, source="kircerta/api", settings=settings, clock=time.clock())
    try:
        scene = _Scene(store, time)
        scene.straight_way()
        scene.refusals()
        scene.rejection_and_lock()
        scene.ends()
        scene.under_a_policy()
        scene.files_by_hand()
        scene.notes()
        scene.deliveries()
        scene.notifications()
        scene.torn_tail()
        scene.mutation()
        scene.landing()
        return list(store.events())
    finally:
        store.close()


class _Scene:
    """The moves of the scenario, one after another."""

    def __init__(self, store: Store, time: _Time) -> None:
        self._store = store
        self._time = time
        self._dispatches = itertools.count(1)

    def straight_way(self) -> None:
        """Created, dispatched, done, approved."""
        self._create("T-1")
        task = self._dispatch("T-1")
        self._ack(task)
        self._do("T-1", intents.SendHeartbeat(_dispatch_id(task), "reading src/hello.py"), EXECUTOR, after_s=6)
        self._result(task)
        self._verdict(task, "approve")
        self._do("T-1", intents.Approve("Read and understood.", self._digest("T-1")), PERSON)

    def refusals(self) -> None:
        """What agents may get wrong, and a decision that comes too late."""
        self._do("T-1", intents.Reject("Too late."), PERSON, refused=True)
        self._create("T-2")
        task = self._dispatch("T-2")
        wrong = _ack_of(task).model_copy(update={"echo": (Echo(criterion_ref="AC-1", text="something else"),)})
        self._do("T-2", intents.SendAck(wrong), EXECUTOR, refused=True)
        self._ack(task)
        silent_since = _rfc3339(self._time.now)
        self._do("T-2", intents.WarnOfSilence(_dispatch_id(task), silent_since), "watchdog", after_s=40)
        empty = _result_of(task).model_copy(update={"work_log": ()})
        self._do("T-2", intents.SendResult(empty), EXECUTOR, refused=True)
        outside = _result_of(task, target="setup.py")
        self._do("T-2", intents.SendResult(outside), EXECUTOR, refused=True)
        self._result(task)
        dangling = _verdict_of(task, "reject", op="OP-9")
        self._do("T-2", intents.SendVerdict(dangling), REVIEWER, refused=True)

    def rejection_and_lock(self) -> None:
        """Rejected, locked, unlocked, dispatched again with the issues, which may not change on the way."""
        task = self._store.task("T-2")
        self._verdict(task, "reject")
        self._do("T-2", intents.Reject("The empty name is not greeted."), PERSON)
        self._do("T-2", intents.Unlock("The criteria are clear now."), PERSON)
        self._do("T-2", intents.Dispatch("d-changed", issues=()), "dispatcher", refused=True)
        self._dispatch("T-2")

    def ends(self) -> None:
        """Attempts that stop before their verdict."""
        task = self._store.task("T-2")
        self._do("T-2", intents.TimeOutAck(_dispatch_id(task)), "watchdog", after_s=31)
        task = self._dispatch("T-2")
        self._do("T-2", intents.EndAttempt(_dispatch_id(task), "executor_failed", "exited: exit code 3"), "dispatcher")

    def under_a_policy(self) -> None:
        """A project that wants two approvals within a day: one came in time, and the deadline passed."""
        path = self._store.home / "config" / "projects.toml"
        path.parent.mkdir()
        path.write_text(PROJECTS)
        self._create("T-6", project="hello")
        task = self._dispatch("T-6")
        self._ack(task)
        self._result(task)
        self._verdict(task, "approve")
        self._do("T-6", intents.Approve("Read and understood.", self._digest("T-6")), PERSON)
        self._do("T-6", intents.RemindOfDecision(_dispatch_id(task), 3600), "watchdog", after_s=23.5 * 3600)
        self._do("T-6", intents.FindDecisionOverdue(_dispatch_id(task)), "watchdog", after_s=3600)

    def files_by_hand(self) -> None:
        """A file dropped by hand, one that is removed, one that does not parse."""
        self._drop(
            "T-3",
            b"""{"task_id": "T-3", "source": "manual", "request_text": "Say good night, too.",\
 "created_at": "2026-11-01T08:00:00Z"}""",
        )
        (self._store.tasks_folder / "T-3.json").unlink()
        self._store.scan()
        self._drop("T-4", b'{"task_id": "T-4", "source": "man')

    def notes(self) -> None:
        """What is told without changing a task."""
        moment = _rfc3339(self._time.now)
        denied = {
            "address": "203.0.113.7",
            "route": "/api/tasks/{task_id}/approve",
            "code": "unauthenticated",
            "count": 3,
            "first_at": moment,
            "last_at": moment,
        }
        self._store.note(Draft("auth_denied", "kircerta", denied))
        self._store.note(
            alarms.draft("low_disk", "raised", "400 MiB are free", {"free_bytes": 419430400}, "kircerta/api")
        )
        self._load_run()

    def _load_run(self) -> None:
        bounds = (runs.Bound(expression="read_p95<200", value=38.2, ok=True),)
        record = runs.RunRecord(
            run_id="soak-20261101T080000Z-0f3a9c",
            kind="soak",
            started_at=_rfc3339(self._time.now),
            config={},
            machine={},
            versions={},
            thresholds=bounds,
        )
        self._store.note(runs.started(record))
        over = record.model_copy(update={"state": "finished", "outcome": "pass"})
        self._store.note(runs.finished(over))
        self._store.note(retention.removed(over.model_copy(update={"finished_at": record.started_at})))

    def deliveries(self) -> None:
        """What comes from outside: an issue, its newer and an older version, a comment, builds, chat messages."""
        for number, (updated, body) in enumerate(
            (
                ("08:01", "- [ ] says good morning"),
                ("08:03", "- [ ] says good morning\n- [ ] until noon"),
                ("08:02", "- [ ] says hello"),
            )
        ):
            self._deliver(github.read("issues", f"{number}f2c5a10-b1f2-11f0-9a01", _issue_payload(updated, body)))
        comment = {**_issue_payload("08:03", ""), "action": "created"}
        comment["comment"] = {"body": "/approve looks good", "user": {"login": "octocat"}}
        self._deliver(github.read("issue_comment", "4f2c5a10-b1f2-11f0-9a01", comment))
        for _ in range(2):
            self._deliver(github.read("star", "5f2c5a10-b1f2-11f0-9a01", {"action": "created"}))
        self._store.note(redelivery_requested(Hook.named("example/greeter/4711"), _failed_attempt()))
        for event, progress in (("BUILD_CREATED", "PENDING"), ("BUILD_STARTED", "RUNNING")):
            self._deliver(xcode.read(_build_payload(event, progress)))
        for update_id in (871, 872):
            message = {"message_id": 5, "date": 1_793_520_000, "chat": {"id": -1001}, "text": "Say good night."}
            self._deliver(telegram.read({"update_id": update_id, "message": message}))
        moment = _rfc3339(self._time.now)
        rejected = {
            "address": "203.0.113.7",
            "route": "/webhooks/github",
            "count": 500,
            "codes": {"bad_signature": 500},
            "first_at": moment,
            "last_at": moment,
        }
        self._store.note(Draft("webhook_rejected", "anonymous", rejected))

    def notifications(self) -> None:
        """What people were told outside, and what did not get through."""
        gate = next(event for event in self._store.events() if event.type == "verdict_received")
        told = {"kind": "needs_review", "about": "T-1", "target": "team", "for_seq": gate.seq}
        self._store.note(Draft("notification_sent", "notifier", told, "T-1", gate.correlationid))
        failed = {**told, "target": "mail", "reason": "no answer within 10 s", "tries": 4}
        self._store.note(Draft("notification_failed", "notifier", failed, "T-1", gate.correlationid))

    def _deliver(self, delivery: Delivery) -> None:
        self._time.now += 1.0
        self._store.deliver(delivery)

    def torn_tail(self) -> None:
        """What a crash in the middle of a write leaves behind, and the next commit finds."""
        with (self._store.audit_folder / ACTIVE).open("ab") as log:
            log.write(b'{"specversion":"1.0","id":"e-torn","sou')
        self._create("T-5")

    def mutation(self) -> None:
        """A reviewer that writes where it was to read."""
        task = self._dispatch("T-5")
        self._ack(task)
        self._result(task)
        changed = intents.SendVerdict(_verdict_of(task, "approve"), mutated=("M src/hello.py",))
        self._do("T-5", changed, REVIEWER, refused=True)

    def landing(self) -> None:
        """An approved change that met a conflict, and stands on its branch once that is gone."""
        found = self._store.task("T-1")
        where = {"attempt": 1, "branch": "kircerta/approved"}
        parent, commit = (hashlib.sha256(name).hexdigest()[:40] for name in (b"parent", b"commit"))
        detail = f"the change does not apply to kircerta/approved at {parent[:12]}: it needs a new attempt"
        refused = {**where, "reason": "conflict", "detail": detail, "parent": parent}
        self._store.note(Draft("landing_refused", "landing", refused, "T-1", found.correlation_id))
        said = Issue(issue_id="LANDING-1", criterion_ref="AC-1", op_refs=("OP-1",), severity="blocker", text=detail)
        known = _dispatch_id(found)
        self._do("T-1", intents.FailLanding(known, "conflict", str(where["branch"]), parent, (said,)), "landing")
        self._do("T-1", intents.ResumeLanding(known), "landing")
        check = {"criterion_ref": "AC-1", "exit_code": 0, "duration_ms": 412}
        digest = self._digest("T-1")
        landed = {**where, "commit": commit, "parent": parent, "review_digest": digest, "checks": [check]}
        self._store.note(Draft("task_landed", "landing", landed, "T-1", found.correlation_id))

    # -------------------------------------------------------------------------------------------- moves

    def _do(
        self, task_id: str, intent: intents.Intent, actor: str, *, after_s: float = 1.0, refused: bool = False
    ) -> None:
        self._time.now += after_s
        try:
            self._store.commit(task_id, intent, actor=actor)
        except Refused:
            if not refused:
                raise
            return
        if refused:
            raise AssertionError(f"{task_id}: {intent} was not refused")

    def _create(self, task_id: str, **metadata: str) -> None:
        create = intents.Create(
            request_text="hello.py greets everybody alike. Let it greet people by their name.",
            title="Greet people by their name",
            acceptance_criteria=(Criterion(id="AC-1", text="`hello.py Ada` prints `Hello, Ada!`"),),
            scope=("src/**",),
            metadata=dict(metadata),
        )
        self._do(task_id, create, "alice@cli")

    def _dispatch(self, task_id: str) -> Task:
        self._do(task_id, intents.Dispatch(f"d-{next(self._dispatches)}"), "dispatcher")
        return self._store.task(task_id)

    def _ack(self, task: Task) -> None:
        self._do(task.task_id, intents.SendAck(_ack_of(task)), EXECUTOR)

    def _result(self, task: Task) -> None:
        self._do(task.task_id, intents.SendResult(_result_of(task)), EXECUTOR)

    def _verdict(self, task: Task, decision: str) -> None:
        self._do(task.task_id, intents.SendVerdict(_verdict_of(task, decision)), REVIEWER)

    def _digest(self, task_id: str) -> str | None:
        from ssot.task import review_digest

        return review_digest(self._store.task(task_id))

    def _drop(self, name: str, raw: bytes) -> None:
        """Put a file there as an editor would, old enough to be looked at now."""
        self._time.now += 1.0
        path = self._store.tasks_folder / f"{name}.json"
        path.write_bytes(raw)
        os.utime(path, (self._time.now, 1.0))
        self._store.scan()


def _rfc3339(seconds: float) -> str:
    from audit.stamp import rfc3339

    return rfc3339(seconds)


def _failed_attempt() -> Failed:
    newest = HookDelivery(
        id=61_204_711,
        guid="6f2c5a10-b1f2-11f0-9a01-0242ac120002",
        delivered_at=datetime(2026, 11, 1, 8, 4, tzinfo=UTC),
        status_code=502,
        event="issues",
    )
    return Failed(newest, tries=1)


def _issue_payload(updated: str, body: str) -> dict[str, Any]:
    issue = {
        "number": 7,
        "title": "Greet people in the morning",
        "body": body,
        "html_url": "https://github.com/octo-org/hello/issues/7",
        "created_at": "2026-11-01T08:00:00Z",
        "updated_at": f"2026-11-01T{updated}:00Z",
    }
    return {"action": "edited", "issue": issue, "repository": {"full_name": "octo-org/hello"}}


def _build_payload(event: str, progress: str) -> dict[str, Any]:
    run = {"number": 12, "createdDate": "2026-11-01T08:00:00Z", "executionProgress": progress}
    return {
        "metadata": {"attributes": {"eventType": event}},
        "ciProduct": {"attributes": {"name": "Hello"}},
        "ciBuildRun": {"id": "3c1d6a52-0f1e-4a6f-9a61-0d2c5b1a7e44", "attributes": run},
    }


def _dispatch_id(task: Task) -> str:
    assert task.current is not None
    assert task.current.dispatch is not None
    return task.current.dispatch.dispatch_id


def _ack_of(task: Task) -> AckBody:
    assert task.current is not None
    dispatch = task.current.dispatch
    assert dispatch is not None
    return AckBody(
        dispatch_id=dispatch.dispatch_id,
        echo=tuple(Echo(criterion_ref=one.id, text=one.text) for one in dispatch.acceptance_criteria),
        scope=dispatch.scope,
        issues=dispatch.issues,
    )


def _result_of(task: Task, target: str = "src/hello.py") -> ResultBody:
    edit = Operation(
        op_id="OP-1",
        at="2026-11-01T08:00:03Z",
        action="edit",
        target=target,
        detail="Greets by name.",
        criterion_refs=("AC-1",),
    )
    test = Operation(
        op_id="OP-2",
        at="2026-11-01T08:00:04Z",
        action="test",
        target="pytest -q",
        detail="1 passed",
        exit_code=0,
        criterion_refs=("AC-1",),
    )
    digest = hashlib.sha256(DIFF.encode()).hexdigest()
    return ResultBody(
        dispatch_id=_dispatch_id(task),
        outcome="completed",
        summary="hello.py greets by name.",
        work_log=(edit, test),
        diff_snapshot=DiffSnapshot(format="unified", base="4f2a91c", sha256=digest, text=DIFF),
    )


def _verdict_of(task: Task, decision: str, op: str = "OP-1") -> VerdictBody:
    issue = Issue(
        issue_id="IS-1", criterion_ref="AC-1", op_refs=(op,), severity="major", text="An empty name is greeted, too."
    )
    return VerdictBody(
        dispatch_id=_dispatch_id(task),
        decision="reject" if decision == "reject" else "approve",
        summary="One thing to change." if decision == "reject" else "The criterion is met.",
        issues=(issue,) if decision == "reject" else (),
    )
