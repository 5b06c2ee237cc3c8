"""Agents: whatever a fake does wrong is refused, recorded and never becomes an approval; what was asked is carried."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import orjson

from audit.stamp import random_id
from flows.accept import on_prefect
from flows.accept.ground import Broken, Checks, Ground, body_of, expect, expect_refusal, told
from flows.agents.fake import EXECUTOR_MODES, REVIEWER_MODES
from flows.load.prepare import ack_of, dispatch_for, result_of, verdict_of
from flows.outcome import Outcome
from flows.overdue import settle_now
from flows.pipeline import Order, again, take_to_gate
from flows.workspace import Workspace
from ssot.counted import counted
from ssot.intents import Dispatch
from ssot.rules import forwarded_issues
from ssot.store import Refused

NOT_SHOWN: Final = ("agents that people use (Codex, Claude Code, OpenClaw): the fakes play what they may get wrong",)
_BRIEF_S: Final = 3.0
_LONG_S: Final = 25.0
_AT_ONCE: Final = 12


@dataclass(frozen=True, slots=True)
class Expected:
    """How a misbehaviour has to end: the outcome's name, and what stands in the log besides."""

    outcome: str
    event: str
    options: str = ""


_ACK_WRONG: Final = Expected("AckTimeout", "ack_mismatch")
_REFUSED: Final = Expected("ResultRefused", "result_refused")
_FAILED: Final = Expected("ExecutorFailed", "attempt_ended")
_AT_GATE: Final = Expected("NeedsReview", "verdict_received")
EXECUTORS: Final[Mapping[str, Expected]] = MappingProxyType(
    {
        "ok": _AT_GATE,
        "no_ack": Expected("AckTimeout", "ack_timeout"),
        "late_ack": Expected("AckTimeout", "ack_timeout", ",delay=6"),
        "wrong_echo": _ACK_WRONG,
        "wrong_order": _ACK_WRONG,
        "wrong_scope": _ACK_WRONG,
        "wrong_issues": _ACK_WRONG,
        "wrong_dispatch": Expected("AckTimeout", "move_refused"),
        "twice": _AT_GATE,
        "silent": Expected("ExecutionTimeout", "heartbeat_warning"),
        "slow": Expected("NeedsReview", "heartbeat", ",seconds=0.4,beat=0.1"),
        "failing": _AT_GATE,
        "out_of_scope": Expected("ResultRefused", "scope_violation"),
        "bad_diff": _REFUSED,
        "bad_sha": _REFUSED,
        "no_operations": _REFUSED,
        "dangling_refs": _REFUSED,
        "crash": _FAILED,
        "crash_before_ack": _FAILED,
        "garbage": _FAILED,
        "flood": Expected("ExecutorFailed", "attempt_ended", ",megabytes=40"),
        "flood_line": _FAILED,
        "fork": Expected("NeedsReview", "verdict_received", ",seconds=20"),
    }
)
_REVIEWER_FAILED: Final = Expected("ReviewerFailed", "attempt_ended")
_VERDICT_REFUSED: Final = Expected("ReviewerFailed", "verdict_refused")
REVIEWERS: Final[Mapping[str, Expected]] = MappingProxyType(
    {
        "ok": _AT_GATE,
        "reject": _AT_GATE,
        "dangling_refs": _VERDICT_REFUSED,
        "reject_without_issues": _VERDICT_REFUSED,
        "approve_with_blocker": _VERDICT_REFUSED,
        "silent": _REVIEWER_FAILED,
        "crash": _REVIEWER_FAILED,
        "garbage": Expected("ReviewerFailed", "attempt_ended"),
        "wrong_dispatch": Expected("ReviewerFailed", "move_refused"),
    }
)


def checks(on: Ground) -> Checks:
    """Every fake of every mode, all at once; then what comes over HTTP, the watchdog, fidelity, and Prefect."""
    with on_prefect.starting(on) as server:
        outcomes = asyncio.run(_play_all(on))
        for mode, says in EXECUTOR_MODES.items():
            yield f"executor `{mode}`: {says}", _ended(on, outcomes, f"executor-{mode}", EXECUTORS.get(mode))
        for mode, says in REVIEWER_MODES.items():
            yield f"reviewer `{mode}`: {says}", _ended(on, outcomes, f"reviewer-{mode}", REVIEWERS.get(mode))
        yield "over HTTP: a wrong ACK is refused and the right one taken after it", lambda: _remote_ack(on)
        yield "over HTTP: only who acknowledged delivers, and only inside the scope", lambda: _remote_result(on)
        yield "over HTTP: the executor does not review, a verdict points at what there is", lambda: _remote_verdict(on)
        yield "no ACK in time: the watchdog ends the attempt", lambda: _late(on)
        yield "an executor that falls silent: the watchdog warns once", lambda: _silent(on)
        yield "a rejection's issues go into the next attempt verbatim and in order", lambda: _verbatim(on)
        yield "an attempt that carries other issues is refused", lambda: _altered(on)
        yield "every ACK in this log repeats its dispatch word for word", lambda: _echoes(on)
        yield "no agent's message ever became a decision", lambda: _undecided(on)
        yield on_prefect.NAME, lambda: on_prefect.look(on, server)


# ------------------------------------------------------------------------------------------ misbehaviour


async def _play_all(on: Ground) -> dict[str, Outcome | Exception]:
    """Every mode on a task of its own; those whose end is a time-out get brief patience, the others do not."""
    slots = asyncio.Semaphore(_AT_ONCE)
    given = {
        f"executor-{mode}": (Order(f"fake:mode={mode}{one.options}", "fake-inproc"), one)
        for mode, one in EXECUTORS.items()
    }
    given |= {f"reviewer-{mode}": (Order("fake-inproc", f"fake:mode={mode}"), one) for mode, one in REVIEWERS.items()}

    async def one(task_id: str, order: Order, expected: Expected) -> tuple[str, Outcome | Exception]:
        async with slots:
            try:
                return task_id, await take_to_gate(_patient(on, expected), task_id, order)
            except Exception as error:
                return task_id, error

    for task_id in given:
        on.task(task_id)
    return dict(await asyncio.gather(*(one(task_id, *wanted) for task_id, wanted in given.items())))


def _patient(on: Ground, expected: Expected) -> Workspace:
    patience = {"ack_timeout_s": _LONG_S, "execution_timeout_s": _LONG_S, "review_timeout_s": _LONG_S}
    brief = {
        "AckTimeout": "ack_timeout_s",
        "ExecutionTimeout": "execution_timeout_s",
        "ReviewerFailed": "review_timeout_s",
    }
    if expected.outcome in brief:
        patience[brief[expected.outcome]] = _BRIEF_S
    update: dict[str, Any] = {
        **patience,
        "heartbeat_warning_s": 0.8 if expected.event == "heartbeat_warning" else _LONG_S,
    }
    return Workspace(on.settings.model_copy(update=update), on.store)


def _ended(on: Ground, outcomes: Mapping[str, Outcome | Exception], task_id: str, expected: Expected | None) -> Any:
    def look() -> str:
        outcome = outcomes.get(task_id)
        if expected is None or outcome is None:
            raise Broken(f"{task_id}: nobody said how this has to end")
        if isinstance(outcome, Exception):
            raise outcome
        types = [one.type for one in on.events(subject=task_id)]
        wrong = [one for one in types if one in ("task_approved", "task_rejected")]
        expect(not wrong, f"{task_id}: {', '.join(wrong)} without a person")
        expect(outcome.name == expected.outcome, f"{task_id} ended as {outcome.name}: {outcome.detail}")
        expect(
            types.count("task_dispatched") == 1,
            f"{task_id} was dispatched {counted(types.count('task_dispatched'), 'time')}",
        )
        found, last = on.event(expected.event, task_id, within_s=0), on.events(subject=task_id)[-1]
        end = "" if last.seq == found.seq else f", seq {last.seq}: {last.type}"
        return f"{outcome.name}; seq {found.seq}: {found.type}{end}"

    return look


# ------------------------------------------------------------------------------------------- over HTTP


def _remote_ack(on: Ground) -> str:
    task_id = _dispatched(on, "remote")
    right = body_of(ack_of(on.store.task(task_id)).body)
    first, *others = right["echo"]
    wrong = {**right, "echo": [{**first, "text": f"{first['text']} More or less."}, *others]}
    refusals = [
        expect_refusal(on.say(task_id, "ack", right, by="alice", role="approver"), 403, "forbidden"),
        expect_refusal(on.say(task_id, "ack", wrong, by="remote-executor", role="executor"), 422, "ack_mismatch"),
    ]
    other = on.say(task_id, "ack", {**right, "dispatch_id": "d-another"}, by="remote-executor", role="executor")
    expect(other.status_code == 409, f"another dispatch_id was answered with {told(other)}")
    taken = on.say(task_id, "ack", right, by="remote-executor", role="executor")
    expect(taken.status_code == 200, f"the right ACK was answered with {told(taken)}")
    mismatch, received = on.event("ack_mismatch", task_id), on.event("ack_received", task_id)
    said = ", ".join([*refusals, told(other)])
    return f"{said}; seq {mismatch.seq}: ack_mismatch, seq {received.seq}: ack_received"


def _remote_result(on: Ground) -> str:
    task_id = "remote"
    on.store.refresh()
    right = body_of(result_of(on.store.task(task_id)).body)
    said = [_refused_to(on, task_id, "result", right, "another-executor", 403)]
    operation = {**right["work_log"][0], "target": "setup.py"}
    outside = {**right, "work_log": [operation]}
    answer = on.say(task_id, "result", outside, by="remote-executor", role="executor")
    said.append(expect_refusal(answer, 422, "scope_violation"))
    empty = on.say(task_id, "result", {**right, "work_log": []}, by="remote-executor", role="executor")
    expect(empty.status_code == 422, f"an empty work log was answered with {told(empty)}")
    taken = on.say(task_id, "result", right, by="remote-executor", role="executor")
    expect(taken.status_code == 200, f"the right result was answered with {told(taken)}")
    scope, received = on.event("scope_violation", task_id), on.event("result_received", task_id)
    return f"{', '.join(said)}, {told(empty)}; seq {scope.seq}: scope_violation, seq {received.seq}: result_received"


def _refused_to(on: Ground, task_id: str, part: str, body: Any, by: str, status: int) -> str:
    answer = on.say(task_id, part, body, by=by, role="executor")
    expect(answer.status_code == status, f"{by} sent a {part}: {told(answer)}")
    return told(answer)


def _remote_verdict(on: Ground) -> str:
    task_id = "remote"
    on.store.refresh()
    right = body_of(verdict_of(on.store.task(task_id)).body)
    own = on.say(task_id, "verdict", right, by="remote-executor", role="reviewer")
    issue = {"issue_id": "IS-1", "criterion_ref": "AC-99", "op_refs": ["OP-99"], "severity": "major", "text": "Where?"}
    dangling = {**right, "decision": "reject", "issues": [issue]}
    pointless = on.say(task_id, "verdict", dangling, by="remote-reviewer", role="reviewer")
    said = [expect_refusal(own, 403, "self_review"), expect_refusal(pointless, 422, "verdict_refused")]
    taken = on.say(task_id, "verdict", right, by="remote-reviewer", role="reviewer")
    expect(taken.status_code == 200, f"the right verdict was answered with {told(taken)}")
    status = orjson.loads(on.document(task_id))["status"]
    expect(status == "needs_review", f"the task is {status}")
    refused, received = on.event("verdict_refused", task_id), on.event("verdict_received", task_id)
    return f"{', '.join(said)}; seq {refused.seq}: verdict_refused, seq {received.seq}: verdict_received; needs_review"


def _dispatched(on: Ground, task_id: str, ack_timeout_s: float = 600.0) -> str:
    on.task(task_id)
    on.store.commit(task_id, dispatch_for(ack_timeout_s), actor="acceptance")
    return task_id


# --------------------------------------------------------------------------------------------- watchdog


def _late(on: Ground) -> str:
    task_id = _dispatched(on, "no-ack", 0.3)
    time.sleep(0.4)
    _watch(on)
    event = on.event("ack_timeout", task_id)
    return f"dispatched with 0.3 s for its ACK; seq {event.seq}: ack_timeout by {event.actor}"


def _silent(on: Ground) -> str:
    task_id = _dispatched(on, "silent")
    right = body_of(ack_of(on.store.task(task_id)).body)
    taken = on.say(task_id, "ack", right, by="quiet-executor", role="executor")
    expect(taken.status_code == 200, f"its ACK was answered with {told(taken)}")
    time.sleep(0.6)
    for _ in range(2):
        _watch(on)
    found = on.events("heartbeat_warning", task_id)
    expect(len(found) == 1, f"{len(found)} heartbeat_warning in the log after two turns")
    return f"silent for 0.6 s, where 0.5 s are allowed; seq {found[0].seq}: heartbeat_warning by {found[0].actor}, once"


def _watch(on: Ground) -> None:
    settle_now(Workspace(on.settings.model_copy(update={"heartbeat_warning_s": 0.5}), on.store))


# --------------------------------------------------------------------------------------------- fidelity


def _verbatim(on: Ground) -> str:
    workspace = Workspace(on.settings, on.store)
    on.task("carried")
    asyncio.run(take_to_gate(workspace, "carried", Order("fake-inproc", "fake-inproc:mode=reject")))
    own = {
        "issue_id": "D-1",
        "criterion_ref": "AC-2",
        "op_refs": ["OP-1"],
        "severity": "minor",
        "text": "Say whom: ünï.",
    }
    answer = on.decide("carried", "reject", {"reason": "Not yet.", "issues": [own]})
    expect(answer.status_code == 200, f"the rejection was answered with {told(answer)}")
    on.store.refresh()
    asyncio.run(take_to_gate(workspace, "carried", again(on.store.task("carried"))))
    first, second = orjson.loads(on.document("carried"))["attempts"]
    wanted = [*first["verdict"]["issues"], *first["decision"]["issues"]]
    expect(len(wanted) >= 3, f"only {counted(len(wanted), 'issue')} to carry")
    expect(second["dispatch"]["issues"] == wanted, "the second dispatch does not carry them verbatim")
    expect(second["ack"]["issues"] == wanted, "the second ACK does not repeat them")
    event = on.event("task_redispatched", "carried")
    return f"seq {event.seq}: task_redispatched with {counted(len(wanted), 'issue')}, the verdict's, then the person's"


def _altered(on: Ground) -> str:
    on.store.refresh()
    expect(on.decide("carried", "reject", {"reason": "Again."}).status_code == 200, "it could not be rejected again")
    on.store.refresh()
    wanted = forwarded_issues(on.store.task("carried"))
    softer = tuple(one.model_copy(update={"text": "Never mind."}) for one in wanted)
    try:
        on.store.commit("carried", Dispatch(random_id("d"), issues=softer), actor="acceptance")
    except Refused as refused:
        expect(refused.code == "fidelity_violation", f"refused with {refused.code}")
        return f"seq {on.event('fidelity_violation', 'carried').seq}: fidelity_violation; no attempt was made"
    raise Broken("a dispatch with other issues was made")


def _echoes(on: Ground) -> str:
    count = 0
    for task_id in sorted(on.store.view.entries):
        for attempt in orjson.loads(on.document(task_id))["attempts"]:
            ack, dispatch = attempt["ack"], attempt["dispatch"]
            if ack is None:
                continue
            count += 1
            echo = [(one["criterion_ref"], one["text"]) for one in ack["echo"]]
            criteria = [(one["id"], one["text"]) for one in dispatch["acceptance_criteria"]]
            same = echo == criteria and (ack["scope"], ack["issues"]) == (dispatch["scope"], dispatch["issues"])
            expect(same, f"{task_id}, attempt {attempt['attempt']}: its ACK repeats something else")
    expect(count > 0, "there is no ACK to look at")
    return f"{count} ACKs, each the criteria, scope and issues of its dispatch"


def _undecided(on: Ground) -> str:
    decided = on.events("task_approved") + on.events("task_rejected")
    others = [f"seq {one.seq}: {one.type} by {one.actor}" for one in decided if one.actor != "alice"]
    expect(not others, "; ".join(others))
    return f"{counted(len(decided), 'decision')} in {counted(on.last_seq(), 'event')}, all by the person who took them"
