"""What happens to a dispatch, from hand-over to the gate: plain async code. Everything is derived from the task.

Running it again after a kill goes on with the same dispatch: an executor that is started again has its repeated ACK
compared and not committed twice, a delivered result goes straight to its reviewer. Nothing here approves anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from audit.files import Busy
from audit.stamp import random_id
from flows.agents.protocol import AgentFailed, Message
from flows.agents.registry import UnknownAgent, split_name
from flows.outcome import WAITING, Outcome, outcome_of
from flows.work import MAX_REFUSED, Failure, Pair, TaskMoved, Work, find_agent, monotonic_of, see_task
from flows.workspace import Workspace
from ssot.claims import Claim, try_claim
from ssot.intents import Dispatch, EndAttempt, Intent, SendAck, SendResult, SendVerdict, TimeOutAck
from ssot.rules import echo_difference, forwarded_issues
from ssot.states import OPEN, Stage, stage_of
from ssot.store import Refused
from ssot.task import AckBody, Invalid, Issue, ResultBody, Task, VerdictBody, parse_checked
from ssot.terms import terms_for

DISPATCHER: Final = "dispatcher"
FAKE: Final = "fake"
_BUSY_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0)
_UNREADABLE: Final = {"ack": "ack_mismatch", "result": "result_refused", "verdict": "verdict_refused"}

Heard = Message | Failure | None
"""What listening to an agent gave. None: the task moved on meanwhile, there is nothing to judge."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted of a task: to whom it goes, on whose behalf, and in which stages a new attempt may begin.

    Args:
        executor: who does the work; None: whom the task's project names, else `fake`. So it is with the reviewer.
        issues: exactly those that must be forwarded, where the caller says so (else the rules put them there).
        of: the stages in which a new attempt is made; an open attempt is continued in any case.
    """

    executor: str | None = None
    reviewer: str | None = None
    actor: str = DISPATCHER
    issues: tuple[Issue, ...] | None = None
    of: tuple[Stage, ...] = ("new", "ended", "rejected", "unlanded")


SENT_BACK: Final[tuple[Stage, ...]] = ("rejected", "unlanded")
"""The stages that ask for another attempt by what was said of this one."""
RESUME: Final = Order(of=())
"""Go on with what is open; begin nothing."""


def again(found: Task) -> Order:
    """The order that follows a rejection, or a landing that failed: that attempt's agents, and its issues verbatim."""
    dispatch = found.current.dispatch if found.current else None
    if dispatch is None:
        return RESUME
    return Order(dispatch.executor, dispatch.reviewer, issues=forwarded_issues(found), of=SENT_BACK)


def agent_names(workspace: Workspace, found: Task, order: Order) -> tuple[str, str]:
    """Who gets a task: whom the order names, else whom the task's project names, else `fake`."""
    if order.executor is not None and order.reviewer is not None:
        return order.executor, order.reviewer
    terms = terms_for(workspace.store.projects_file.now(), found, lambda: None)
    return order.executor or terms.executor or FAKE, order.reviewer or terms.reviewer or FAKE


def wish_for(workspace: Workspace, found: Task, order: Order) -> tuple[Dispatch, Pair]:
    """The dispatch that an order asks for, and its agents. Raises UnknownAgent, BadAgentsFile."""
    executor, reviewer = agent_names(workspace, found, order)
    agents = workspace.agents()
    pair = agents.executor(executor), agents.reviewer(reviewer)
    families = agents.model_family("executor", executor), agents.model_family("reviewer", reviewer)
    patience_s = workspace.settings.ack_timeout_s
    return Dispatch(random_id("d"), executor, reviewer, patience_s, order.issues, *families), pair


# ------------------------------------------------------------------------------------------------- hand-over


async def hand_over(workspace: Workspace, task_id: str, order: Order) -> Work | Outcome:
    """Claim the open attempt of a task, or begin one; an outcome where there is nothing to do here.

    Raises:
        Refused: the rules do not allow the dispatch, or there is no such task.
        UnknownAgent: the order names an agent that there is not.
    """
    while True:
        found = await asyncio.to_thread(_prepare, workspace, task_id, order)
        if not isinstance(found, _Beginning):
            return found
        begun = await _begin(workspace, found, order)
        if begun is not None:
            return begun


@dataclass(frozen=True, slots=True)
class _Beginning:
    """A new attempt, claimed before it is in the log."""

    task: Task
    dispatch: Dispatch
    claim: Claim
    agents: Pair


def _prepare(workspace: Workspace, task_id: str, order: Order) -> Work | Outcome | _Beginning:
    task = see_task(workspace, task_id)
    stage = stage_of(task)
    if stage in OPEN:
        return _claim_open(workspace, task, order)
    if stage not in order.of:
        return outcome_of(task) or Outcome(task_id, "", stage, WAITING, "never dispatched", task.seq)
    intent, pair = wish_for(workspace, task, order)
    claim = try_claim(workspace.home, intent.dispatch_id)
    assert claim is not None
    return _Beginning(task, intent, claim, pair)


def _claim_open(workspace: Workspace, task: Task, order: Order) -> Work | Outcome:
    dispatch = task.current.dispatch if task.current else None
    assert dispatch is not None
    claim = try_claim(workspace.home, dispatch.dispatch_id)
    if claim is None:
        why = "another process runs it"
        return Outcome(task.task_id, dispatch.dispatch_id, stage_of(task), WAITING, why, task.seq)
    now = see_task(workspace, task.task_id)  # it may have gone on before we had the claim
    return _unless_over(Work(workspace, now, dispatch, claim, order.actor), claim)


async def _begin(workspace: Workspace, new: _Beginning, order: Order) -> Work | Outcome | None:
    """Begin an attempt; None when somebody else was faster: look again."""
    try:
        # A crash behind this line leaves an open attempt whose claim is free: the dispatcher runs it.
        done = await workspace.commit(new.task.task_id, new.dispatch, order.actor)
    except Refused as refused:
        new.claim.release()
        now = await asyncio.to_thread(see_task, workspace, new.task.task_id)
        if refused.code == "invalid_transition" and stage_of(now) != stage_of(new.task):
            return None
        raise
    except BaseException:
        new.claim.release()
        raise
    dispatch = done.task.current.dispatch if done.task.current else None
    assert dispatch is not None
    return _unless_over(Work(workspace, done.task, dispatch, new.claim, order.actor, new.agents), new.claim)


def _unless_over(work: Work, claim: Claim) -> Work | Outcome:
    """The work, if there is some for us; a remote agent is not waited for."""
    outcome = work.outcome()
    if outcome is None:
        return work
    claim.release()
    return outcome


# ------------------------------------------------------------------------------------------------- listening


async def receive_ack(work: Work) -> Heard:
    """Start the executor, where it is not at work, and wait for its ACK until the deadline."""
    until = monotonic_of(work.dispatch.ack_deadline)
    try:
        while (message := await work.listen("executor", until)) is not None:
            if message.type != "heartbeat":
                return message
    except TaskMoved:
        return None
    except AgentFailed as failed:
        if not work.refused:
            return Failure("executor_failed", str(failed))
        return await _stay_open(work, until)
    return Failure("ack_timeout")


async def _stay_open(work: Work, until: float) -> Heard:
    """Its ACK was refused and it has gone. The attempt stays open for a right one until the deadline all the same."""
    try:
        await work.wait_until(until)
    except TaskMoved:
        return None
    return Failure("ack_timeout")


async def execute(work: Work) -> Heard:
    """Listen to the executor at work: heartbeats are kept, its next other message is the answer."""
    patience = min(work.workspace.settings.execution_timeout_s, work.executor.timeout_s)
    until = _until(work, "execute", patience)
    try:
        if not work.is_open("executor") and (failure := await _hear_ack_again(work)) is not None:
            return failure
        while (message := await work.listen("executor", until)) is not None:
            if message.type == "heartbeat":
                await work.sign_of_life(str(message.body.get("note", "")))
            elif message.type != "ack" or not _repeats(work, message):
                return message
    except TaskMoved:
        return None
    except AgentFailed as failed:
        return Failure("result_refused" if work.refused else "executor_failed", _with_refusals(work, failed))
    return Failure("execution_timeout", f"no result within {patience:g} s")


async def _hear_ack_again(work: Work) -> Failure | None:
    """An executor that is started again on an acknowledged attempt says its ACK again: it must be the same."""
    until = time.monotonic() + work.workspace.settings.ack_timeout_s
    while (message := await work.listen("executor", until)) is not None:
        if message.type == "ack":
            if _repeats(work, message):
                return None
            await work.note_refusal(
                "ack_mismatch", "ack", "the repeated ACK is not the one given", work.executor.principal
            )
            return Failure("executor_failed", "started again, the executor repeated something else")
    return Failure("executor_failed", "started again, the executor did not repeat its ACK in time")


def _repeats(work: Work, message: Message) -> bool:
    try:
        body = parse_checked(AckBody, message.part())
    except Invalid:
        return False
    return body.dispatch_id == work.dispatch.dispatch_id and echo_difference(work.dispatch, body) is None


async def review(work: Work) -> Heard:
    """Start the reviewer, where it is not at work, and wait for what it says."""
    patience = min(work.workspace.settings.review_timeout_s, work.reviewer.timeout_s)
    until = _until(work, "review", patience)
    try:
        while (message := await work.listen("reviewer", until)) is not None:
            if message.type != "heartbeat":
                return message
    except TaskMoved:
        return None
    except AgentFailed as failed:
        return Failure("reviewer_failed", _with_refusals(work, failed))
    return Failure("reviewer_failed", f"no verdict within {patience:g} s")


def _until(work: Work, step: str, patience_s: float) -> float:
    """The end of a step's patience: it starts once, not again with each message."""
    return work.patience.setdefault(step, time.monotonic() + patience_s)


def _with_refusals(work: Work, failed: AgentFailed) -> str:
    return "; ".join([*work.refused, str(failed)])


# ------------------------------------------------------------------------------------------------- judging


async def check_echo(work: Work, heard: Heard) -> None:
    """Compare the ACK with the dispatch. A wrong one is in the log; the executor may try again."""
    await _judge(work, "executor", heard)


async def check_result(work: Work, heard: Heard) -> None:
    """Check the result. A refused one is in the log; another may follow while the executor runs."""
    await _judge(work, "executor", heard)
    if work.stage != "acknowledged":
        await work.dismiss("executor")


async def check_verdict(work: Work, heard: Heard) -> None:
    """Check the verdict. With a valid one the task is at the gate."""
    await _judge(work, "reviewer", heard)
    if work.stage != "delivered":
        await work.dismiss("reviewer")


async def _judge(work: Work, role: str, heard: Heard) -> None:
    """Commit what was heard; the rules judge it. Safe to run again when the workspace was busy."""
    if heard is None:
        return
    if isinstance(heard, Failure):
        await _end(work, heard)
        return
    principal = work.executor.principal if role == "executor" else work.reviewer.principal
    try:
        intent = intent_of(heard)
    except Invalid as invalid:
        await work.note_refusal(_UNREADABLE[heard.type], heard.type, f"{heard.type}: {invalid}", principal)
    else:
        refused = await work.commit(await work.seen(intent), principal)
        if refused is None:
            work.refused.clear()
        else:
            work.refused.append(f"{refused.code}: {refused.detail}")
    if len(work.refused) >= MAX_REFUSED and work.stage in OPEN:
        reason = "reviewer_failed" if role == "reviewer" else "executor_failed"
        await _end(work, Failure(reason, f"{MAX_REFUSED} messages were refused; the last: {work.refused[-1]}"))


def intent_of(message: Message) -> Intent:
    """What an agent's message asks for. Raises Invalid."""
    if message.type == "ack":
        return SendAck(parse_checked(AckBody, message.part()))
    if message.type == "result":
        return SendResult(parse_checked(ResultBody, message.part()))
    return SendVerdict(parse_checked(VerdictBody, message.part()))


async def _end(work: Work, failure: Failure) -> None:
    """End the attempt, unless it is not where it was any more."""
    work.failure = failure.detail
    dispatch_id = work.dispatch.dispatch_id
    if failure.reason == "ack_timeout":
        refused = await work.commit(TimeOutAck(dispatch_id), work.actor)
        if refused is not None and refused.code == "too_early":  # the log's clock is held behind a clock that jumped
            await asyncio.sleep(0.05)
        return
    await work.commit(EndAttempt(dispatch_id, failure.reason, failure.detail), work.actor)


# ------------------------------------------------------------------------------------------------- the whole


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a dispatch. Those that listen run once; those that commit may be run again when it was busy."""

    hand_over: Callable[[Workspace, str, Order], Awaitable[Work | Outcome]]
    receive_ack: Callable[[Work], Awaitable[Heard]]
    check_echo: Callable[[Work, Heard], Awaitable[None]]
    execute: Callable[[Work], Awaitable[Heard]]
    check_result: Callable[[Work, Heard], Awaitable[None]]
    review: Callable[[Work], Awaitable[Heard]]
    check_verdict: Callable[[Work, Heard], Awaitable[None]]


def patiently(step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A committing step that is run again while the workspace is busy: nothing was done then."""

    async def patient(*args: Any) -> Any:
        for pause in _BUSY_PAUSES_S:
            try:
                return await step(*args)
            except Busy:
                await asyncio.sleep(pause)
        return await step(*args)

    return patient


PLAIN: Final = Steps(hand_over, receive_ack, check_echo, execute, check_result, review, check_verdict)
"""The steps as they are: whoever runs them sees to it that those which commit are run again when it was busy."""
BARE: Final = replace(
    PLAIN,
    hand_over=patiently(hand_over),
    check_echo=patiently(check_echo),
    check_result=patiently(check_result),
    check_verdict=patiently(check_verdict),
)
"""The steps without Prefect."""


async def take_to_gate(workspace: Workspace, task_id: str, order: Order, steps: Steps = BARE) -> Outcome:
    """Take a task through its dispatch: to the gate, to the end of the attempt, or to where a remote agent is next.

    Raises:
        Refused: the rules do not allow the dispatch.
        UnknownAgent: the order names an agent that there is not.
        Busy, StorageFailed, Corrupt: the attempt stays open, for whoever takes it up next.
    """
    with workspace.writer.under_way():
        work = await steps.hand_over(workspace, task_id, order)
        return work if isinstance(work, Outcome) else await follow(work, steps)


async def follow(work: Work, steps: Steps = BARE) -> Outcome:
    """The steps that are left of a dispatch, in their order."""
    try:
        while (outcome := work.outcome()) is None:
            if work.stage == "dispatched":
                await steps.check_echo(work, await steps.receive_ack(work))
            elif work.stage == "acknowledged":
                await steps.check_result(work, await steps.execute(work))
            else:
                await steps.check_verdict(work, await steps.review(work))
    finally:
        await work.close()
    return outcome if outcome.ok else replace(outcome, detail=work.failure)


def is_remote(name: str) -> bool:
    """Whether an agent of that name comes by itself. A name that is none counts as local: its attempt fails, named."""
    try:
        return split_name(name)[0] == "remote"
    except UnknownAgent:
        return False


def waits_for_us(workspace: Workspace, stage: Stage, executor: str, reviewer: str, acknowledged_by: str) -> bool:
    """Whether the next move of an open attempt is one that a process of this workspace has to make."""
    if stage == "delivered":
        return not is_remote(reviewer)
    if is_remote(executor):
        return False
    return not acknowledged_by or acknowledged_by == find_agent(workspace, "executor", executor).principal
