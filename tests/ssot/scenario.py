"""One small history in which each type of event happens, the same at every run."""

from __future__ import annotations

from pathlib import Path

from audit.event import Draft
from ssot import intents
from ssot.ingest import github, telegram, xcode
from ssot.store import Refused, Store
from tests import builders
from tests.builders import EXECUTOR, REVIEWER, Ticks, Walk, a_store


def everything(home: Path) -> dict[str, bytes]:
    """Live through it; gives the first line of each type."""
    ticks = Ticks()
    store = a_store(home, ticks=ticks, max_rejects=1)
    walk = Walk(store, "T-1")
    walk.create(scope=("src/**",), correlation_id="c-fixed")
    walk.dispatch()
    _refused(lambda: walk.ack(scope=("elsewhere/**",)))
    walk.ack()
    walk.heartbeat()
    ticks.ahead(60)
    dispatch_id = walk.task.attempts[-1].dispatch.dispatch_id  # type: ignore[union-attr]
    walk.do(intents.WarnOfSilence(dispatch_id, "2025-06-15T15:06:45.000000Z"), "watchdog")
    _refused(lambda: walk.result(work_log=()))
    _refused(lambda: walk.result(work_log=(builders.operation(1, target="etc/passwd"),)))
    walk.result()
    _refused(lambda: walk.verdict("reject", issues=()))
    walk.verdict("reject")
    _refused(lambda: walk.approve(actor=EXECUTOR))
    walk.reject(issues=(builders.issue(3),))
    walk.unlock()
    _refused(lambda: walk.do(intents.Dispatch("d-x", issues=()), "dispatcher"))
    walk.dispatch()
    walk.end()
    walk.dispatch()
    ticks.ahead(60)
    walk.do(intents.TimeOutAck(walk.task.attempts[-1].dispatch.dispatch_id), "watchdog")  # type: ignore[union-attr]
    walk.to_gate()
    walk.approve()
    _under_a_policy(home, store, ticks)
    builders.drop(home, "T-2", builders.minimal("T-2", correlation_id="c-two"))
    builders.drop(home, "T-3", b'{"task_id": "T-3"}')
    store.scan()
    builders.task_path(home, "T-2").unlink()
    store.scan()
    store.note(Draft("auth_denied", "kircerta", {"count": 3, "address": "127.0.0.1"}))
    store.note(Draft("alert", "kircerta", {"text": "look at this"}))
    store.close()
    with (home / "audit" / "events.jsonl").open("ab") as log:
        log.write(b'{"torn')
    store = a_store(home, ticks=ticks)
    store.note(Draft("alert", "kircerta", {"text": "again"}))
    _deliveries(store)
    told = {"kind": "needs_review", "about": "T-1", "target": "team", "for_seq": 28}
    store.note(Draft("notification_sent", "notifier", told, "T-1", "c-fixed"))
    failed = {**told, "reason": "no answer within 10 s", "tries": 4}
    store.note(Draft("notification_failed", "notifier", failed, "T-1", "c-fixed"))
    mutating = Walk(store, "M-1")
    mutating.create(correlation_id="c-mutation")
    mutating.dispatch()
    mutating.ack()
    mutating.result()
    verdict = intents.SendVerdict(builders.verdict_body(mutating.task), mutated=("M src/a.py",))
    _refused(lambda: mutating.do(verdict, REVIEWER))
    store.note(Draft("run_removed", "retention", {"run_id": "r-1", "kind": "soak", "outcome": "pass"}))
    landing = {"attempt": 3, "branch": "kircerta/approved"}
    refused = {**landing, "reason": "conflict", "detail": "it does not apply", "parent": "1" * 40}
    store.note(Draft("landing_refused", "landing", refused, "T-1", "c-fixed"))
    landed = {**landing, "commit": "2" * 40, "parent": "1" * 40, "review_digest": "sha256:" + "3" * 64, "checks": []}
    store.note(Draft("task_landed", "landing", landed, "T-1", "c-fixed"))
    unlanded = Walk(store, "L-1")
    unlanded.create(correlation_id="c-landing")
    unlanded.to_gate()
    unlanded.approve()
    unlanded.fail_landing()
    unlanded.resume_landing()
    found: dict[str, bytes] = {}
    for event in builders.events(home):
        found.setdefault(event.type, event.line)
    return found


def _under_a_policy(home: Path, store: Store, ticks: Ticks) -> None:
    """A task whose project wants two approvals, and in time."""
    builders.projects_file(home, quorum=2, decision_deadline_s=3600, reminders_s=[600])
    walk = Walk(store, "P-1")
    walk.create(metadata={"project": "shop"}, correlation_id="c-project")
    walk.to_gate()
    walk.approve("bob", reason="read")
    dispatch_id = walk.task.attempts[-1].dispatch.dispatch_id  # type: ignore[union-attr]
    ticks.ahead(3300)
    walk.do(intents.RemindOfDecision(dispatch_id, 600), "watchdog")
    ticks.ahead(600)
    walk.do(intents.FindDecisionOverdue(dispatch_id), "watchdog")
    walk.approve("carol", reason="read, too")


def _deliveries(store: Store) -> None:
    """What comes from outside: new, newer, older, again, a build that goes on, a command in a comment."""
    for delivery_id, body in (("g-1", "- [ ] greets"), ("g-2", "- [ ] greets\n- [ ] quickly"), ("g-3", "late")):
        updated_at = "2026-01-31T09:00:00Z" if delivery_id == "g-2" else "2026-01-30T09:00:00Z"
        store.deliver(github.read("issues", delivery_id, builders.issue_payload(body, updated_at)))
    comment = {"action": "created", "comment": {"body": "/approve please"}, **builders.issue_payload("", "")}
    store.deliver(github.read("issue_comment", "g-4", {**comment, "action": "created"}))
    for _ in range(2):
        store.deliver(github.read("star", "g-5", {"action": "created"}))
    for progress in ("PENDING", "RUNNING"):
        store.deliver(xcode.read(builders.build_payload(progress)))
    for update_id in (7, 8):
        store.deliver(telegram.read(builders.update_payload("Greet people.", update_id)))
    store.note(Draft("webhook_rejected", "anonymous", {"count": 3, "address": "127.0.0.1"}))
    store.note(Draft("redelivery_requested", "backfill", {"hook": "octo-org/hello/7", "delivery_id": "g-6"}))
    store.note(Draft("run_started", "load", {"run_id": "r-1", "kind": "soak"}))
    store.note(Draft("run_finished", "load", {"run_id": "r-1", "kind": "soak", "outcome": "pass"}))


def _refused(move: object) -> None:
    try:
        move()  # type: ignore[operator]
    except Refused:
        return
    raise AssertionError("this was to be refused")
