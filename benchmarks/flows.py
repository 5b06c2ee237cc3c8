"""`dispatch_pending` against an empty Prefect flow of the same shape, and how soon a decision is followed."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from audit.stamp import seconds_of
from benchmarks import Row, at_least, at_most, for_information
from flows.agents.protocol import AgentFailed, job_line
from flows.outcome import Outcome
from flows.pipeline import Order, Steps
from flows.server import free_port, prefect_environment, start_prefect_server, wait_until_ready
from flows.workspace import Workspace, using
from ssot.intents import Create, Dispatch, Reject
from ssot.presence import dispatcher_of
from ssot.settings import load
from ssot.states import Stage
from ssot.task import Criterion, plain

TASKS = 100
ROUNDS = 5
CONCURRENCY = 16
DECISIONS = 20
CRITERIA = (Criterion(id="AC-1", text="It works."), Criterion(id="AC-2", text="It is tested."))
INPROC = Order("fake-inproc", "fake-inproc")
DISPATCHER = "from flows.dispatcher import run_dispatcher\nfrom ssot.settings import load\nrun_dispatcher(load())\n"


def run() -> list[Row]:
    """Measure on a Prefect server of our own, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="kircerta-bench-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        settings = load(home=home)
        server = start_prefect_server(settings, free_port())
        try:
            wait_until_ready(server)
            environment = {**os.environ, **prefect_environment(settings, server.api_url)}
            pending = _asked(environment, "pending")
            follow = _asked(environment, "follow")
        finally:
            server.stop()
    ours, empty, agents = (statistics.median(pending[name]) for name in ("ours", "empty", "agents"))
    ratio = (ours - agents) / empty
    compared = "the same flow, whose tasks do nothing"
    return [
        at_most(f"dispatch_pending, {TASKS} tasks, agents' own time aside", ours - agents, "s", compared, ratio, 1.25),
        for_information("the agents' own time of it", agents, "s"),
        at_least("dispatch_pending", TASKS * 60 / ours, "tasks/min", "200 tasks/min", TASKS * 60 / ours / 200, 1.0),
        at_most(
            "decision to the dispatch that follows it, median",
            follow["median"],
            "s",
            "0.3 s",
            follow["median"] / 0.3,
            1.0,
        ),
        for_information("decision to the dispatch that follows it, worst", follow["worst"], "s"),
    ]


def _asked(environment: dict[str, str], what: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.flows", what]
    answer = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


# ---------------------------------------------------------------------------------------- dispatch_pending


class _NoWork:
    """Goes through the stages of a dispatch without doing anything."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.stage: Stage = "dispatched"

    def outcome(self) -> Outcome | None:
        return Outcome(self.task_id, "d-0", self.stage, "NeedsReview") if self.stage == "needs_review" else None

    async def close(self) -> None:
        return None


_NEXT: dict[Stage, Stage] = {"dispatched": "acknowledged", "acknowledged": "delivered", "delivered": "needs_review"}


def _empty_steps() -> Steps:
    from flows.dispatch import as_tasks

    async def begin(workspace: Workspace, task_id: str, order: Order) -> Any:
        return _NoWork(task_id)

    async def listen(work: Any) -> Any:
        return None

    async def judge(work: Any, heard: Any) -> None:
        work.stage = _NEXT[work.stage]

    return as_tasks(Steps(begin, listen, judge, listen, judge, listen, judge))


async def _pending() -> dict[str, list[float]]:
    from prefect import flow

    from flows import dispatch

    workspace = Workspace.open(load(ack_timeout_s=300.0))
    steps = _empty_steps()

    @flow(name="empty", persist_result=False)
    async def empty(count: int) -> None:
        ids = await asyncio.to_thread(lambda: [f"T-{number}" for number in range(count)])
        await dispatch.take_all(workspace, ids, INPROC, CONCURRENCY, steps)

    took: dict[str, list[float]] = {"ours": [], "empty": [], "agents": []}
    with using(workspace):
        for number in range(ROUNDS + 1):
            _make(workspace, f"r{number}")
            ours = await _timed(dispatch.dispatch_pending, TASKS, CONCURRENCY, INPROC.executor, INPROC.reviewer)
            nothing = await _timed(empty, TASKS)
            if number:  # the first round warms everything up
                took["ours"].append(ours)
                took["empty"].append(nothing)
                took["agents"].append(await _agents_alone(workspace, f"r{number}"))
    return took


def _make(workspace: Workspace, prefix: str) -> None:
    wishes = [
        (f"{prefix}-{number}", Create("Do it.", acceptance_criteria=CRITERIA, scope=("src/**",)))
        for number in range(TASKS)
    ]
    workspace.store.commit_many(wishes, actor="bench")


async def _timed(flow: Any, *arguments: Any) -> float:
    await asyncio.sleep(4.0)  # the server writes down what it was told before
    begun = time.perf_counter()
    await flow(*arguments)
    return time.perf_counter() - begun


async def _agents_alone(workspace: Workspace, prefix: str) -> float:
    """What the agents themselves take: the same jobs, with nobody who listens."""
    executor, reviewer = workspace.agents().executor("fake-inproc"), workspace.agents().reviewer("fake-inproc")
    jobs = [(agent, _job(workspace, f"{prefix}-{number}", kind)) for number in range(TASKS)
            for agent, kind in ((executor, "dispatch"), (reviewer, "review"))]  # fmt: skip
    begun = time.perf_counter()
    for agent, job in jobs:
        async with agent.open(job) as session:
            try:
                while True:
                    await session.next(1.0)
            except AgentFailed:
                continue
    return time.perf_counter() - begun


def _job(workspace: Workspace, task_id: str, kind: Any) -> bytes:
    task = workspace.store.task(task_id)
    attempt = task.attempts[0]
    assert attempt.dispatch is not None
    assert attempt.result is not None
    return job_line(kind, task_id=task_id, title=task.title, request_text=task.request_text or "",
                    correlation_id=task.correlation_id, attempt=1, dispatch=plain(attempt.dispatch),
                    result=plain(attempt.result))  # fmt: skip


# ---------------------------------------------------------------------------------------- after a decision


def _follow() -> dict[str, float]:
    """Rejections, one by one: the time from the decision in the log to the dispatch that its run made."""
    settings = load()
    workspace = Workspace.open(settings)
    log = (settings.home / "dispatcher.log").open("wb")
    dispatcher = subprocess.Popen([sys.executable, "-c", DISPATCHER], stdout=log, stderr=log)
    try:
        while dispatcher_of(settings.home) is None:
            time.sleep(0.05)
        took = [_followed(workspace, f"f-{number}") for number in range(DECISIONS + 2)][2:]
    finally:
        dispatcher.kill()
        dispatcher.wait()
        log.close()
    return {"median": statistics.median(took), "worst": max(took)}


def _followed(workspace: Workspace, task_id: str) -> float:
    store = workspace.store
    store.commit(task_id, Create("Do it.", acceptance_criteria=CRITERIA), actor="bench")
    store.commit(task_id, Dispatch(f"d-{task_id}"), actor="bench")
    _until(workspace, task_id, 1)
    time.sleep(0.3)
    store.commit(task_id, Reject("again"), actor="bench")
    _until(workspace, task_id, 2)
    moments = {event.type: seconds_of(event.time) for event in store.events() if event.subject == task_id}
    return moments["task_redispatched"] - moments["task_rejected"]


def _until(workspace: Workspace, task_id: str, attempts: int) -> None:
    while True:
        workspace.store.refresh()
        task = workspace.store.task(task_id)
        if task.status == "needs_review" and len(task.attempts) == attempts:
            return
        time.sleep(0.005)


if __name__ == "__main__":
    if sys.argv[1:] == ["pending"]:
        print(json.dumps(asyncio.run(_pending())))
    elif sys.argv[1:] == ["follow"]:
        print(json.dumps(_follow()))
    else:
        for row in run():
            print(row)
