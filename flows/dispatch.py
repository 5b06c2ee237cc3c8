"""The flows that people see: one dispatch, all that is pending, what follows a decision. Each step is a Prefect task.

The steps themselves stand in pipeline.py; here they get names, retries where a retry is safe, and states that the
Prefect UI shows and filters by. A run's state is never the truth: every flow asks the store what is left to do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Annotated, Any, Final

from prefect import flow, get_client, task
from prefect.artifacts import acreate_markdown_artifact, acreate_progress_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed
from prefect.tasks import Task as PrefectTask
from pydantic import Field

from audit.files import Busy
from flows import exhibits, pipeline
from flows.agents.registry import BadAgentsFile, UnknownAgent
from flows.outcome import Outcome
from flows.pipeline import RESUME, Order, Steps, again, take_to_gate, waits_for_us
from flows.release import OUTSIDE, order_by_rule, usable_projects
from flows.work import see_task
from flows.workspace import Workspace, current, home_tag
from ssot.counted import counted
from ssot.store import Refused
from ssot.task import Task, review_digest

TaskId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
AgentName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:=,/@+-]{0,199}$")]
# The forms of the UI take their descriptions from the Args of the flows' docstrings.
_LOG: Final = logging.getLogger("kircerta.flows")
_RETRY_AFTER_S: Final = [0.2, 0.5, 1.0, 2.0]
_PROGRESS_S: Final = 2.0

began: ContextVar[Callable[[], None]] = ContextVar("began", default=lambda: None)
"""Called on the first line of a flow: the dispatcher lets the next run be created then."""


def _was_busy(of: PrefectTask[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Only a busy workspace is worth a retry: nothing was done then. Everything else is found in the task again."""
    return isinstance(state.data, Busy) or isinstance(getattr(state.data, "result", None), Busy)


class Sealed:
    """Carries a value past Prefect, which would walk through every line of a work log in search of futures."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


_Step = Callable[..., Awaitable[Any]]


def _sealed(step: _Step) -> _Step:
    async def run(*arguments: Any) -> Any:
        return Sealed(await step(*(one.value if isinstance(one, Sealed) else one for one in arguments)))

    return run


def _listening(step: _Step, name: str) -> _Step:
    """A step that runs once: what an agent said is not said again."""
    return task(name=name, cache_policy=NO_CACHE, persist_result=False)(_sealed(step))


def _committing(step: _Step, name: str) -> _Step:
    """A step that only judges and commits: it may run again when the workspace was busy.

    Without tags, as all steps: each tag would be one more question to the server before every step.
    """
    return task(
        name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(_RETRY_AFTER_S),
        retry_delay_seconds=_RETRY_AFTER_S,
        retry_condition_fn=_was_busy,
    )(_sealed(step))


def _opened(run: _Step) -> _Step:
    """The hand-over as the pipeline calls it: with plain values in and out."""

    async def hand_over(*arguments: Any) -> Any:
        return (await run(Sealed(arguments))).value

    return hand_over


def as_tasks(steps: Steps) -> Steps:
    """Steps as Prefect tasks."""

    async def hand_over(arguments: tuple[Workspace, str, Order]) -> Any:
        return await steps.hand_over(*arguments)

    return Steps(
        hand_over=_opened(_committing(hand_over, "dispatch")),
        receive_ack=_listening(steps.receive_ack, "ack"),
        check_echo=_committing(steps.check_echo, "echo check"),
        execute=_listening(steps.execute, "execution"),
        check_result=_committing(steps.check_result, "result check"),
        review=_listening(steps.review, "review"),
        check_verdict=_committing(steps.check_verdict, "verdict check"),
    )


STEPS: Final = as_tasks(pipeline.PLAIN)


# --------------------------------------------------------------------------------------------------- flows


@flow(name="dispatch_task", flow_run_name="{task_id}", persist_result=False)
async def dispatch_task(
    task_id: TaskId, executor: AgentName | None = None, reviewer: AgentName | None = None, begin: bool = True
) -> State[Any]:
    """Take one task to the gate: dispatch, ACK, echo check, execution, result check, review, verdict check.

    An attempt that is open already is gone on with, by its own agents; a second dispatch is never made. The run ends
    in `NeedsReview` when a person has the next word, `Waiting` when a remote agent has it, or in the name of what
    went wrong: `AckTimeout`, `ExecutorFailed`, `ResultRefused`, `ReviewerFailed` and the like.

    Args:
        task_id: The task's id, e.g. `T-7`.
        executor: Who does the work: `fake`, `fake-inproc`, `replay`, `remote`, or one of `config/agents.toml`; with
            options as in `fake:mode=slow,seconds=2`. Left empty: whom the task's project names, else `fake`.
        reviewer: Who judges the result, named in the same way.
        begin: Whether a new attempt may be begun. Off: only go on with an open one.
    """
    return await _one_dispatch(task_id, lambda found: Order(executor, reviewer) if begin else RESUME)


@flow(name="redispatch", flow_run_name="{task_id} again", persist_result=False)
async def redispatch(task_id: TaskId) -> State[Any]:
    """Begin the next attempt of a task that was rejected, or approved and could not land: the same agents, its issues.

    Args:
        task_id: The task's id, e.g. `T-7`.
    """
    return await _one_dispatch(task_id, again)


@flow(name="auto_dispatch", flow_run_name="{task_id}", persist_result=False)
async def auto_dispatch(task_id: TaskId) -> State[Any]:
    """Dispatch a new task from outside, where a rule in `config/projects.toml` lets it start without a person.

    Args:
        task_id: The task's id, e.g. `gh-acme_shop-7`.
    """
    projects = await asyncio.to_thread(usable_projects, current().home)
    return await _one_dispatch(task_id, lambda found: order_by_rule(projects, found) or RESUME)


@flow(name="close_task", flow_run_name="{task_id} closed", persist_result=False)
async def close_task(task_id: TaskId) -> State[Any]:
    """Put together what an approved task went through. The task itself is left as it is.

    Args:
        task_id: The task's id, e.g. `T-7`.
    """
    began.get()()
    workspace = current()
    found = await asyncio.to_thread(see_task, workspace, task_id)
    await _label(workspace, found, f"{task_id} closed")
    if found.status != "approved":
        return Completed(name="NotApproved", message=f"{task_id} is {found.status}: there is nothing to close")
    page = exhibits.closing_page(found, workspace.settings.api_url, review_digest(found))
    await acreate_markdown_artifact(page, key=exhibits.key_of(task_id), description=f"What {task_id} went through")
    return Completed(name="Closed", message=f"{task_id} was approved at attempt {len(found.attempts)}")


@flow(name="dispatch_pending", persist_result=False)
async def dispatch_pending(
    limit: Annotated[int, Field(ge=1, le=10_000)] = 100,
    concurrency: Annotated[int, Field(ge=1, le=64)] = 4,
    executor: AgentName | None = None,
    reviewer: AgentName | None = None,
    retry_ended: bool = False,
    include_outside: bool = False,
) -> State[Any]:
    """Take all pending tasks to the gate, in one run.

    Attempts that a dead process left open are gone on with first. Items that were imported as finished or as drafts
    are passed by. A new task from outside (GitHub, Xcode Cloud, Telegram) is taken where a rule of its project says so,
    with that project's agents; the others wait for a person.

    Args:
        limit: How many tasks to take at most, oldest first.
        concurrency: How many of them are under way at the same time.
        executor: Who does the work: `fake`, `fake-inproc`, `replay`, `remote`, or one of `config/agents.toml`; with
            options as in `fake:mode=slow,seconds=2`. Left empty: whom each task's project names, else `fake`.
        reviewer: Who judges the results, named in the same way.
        retry_ended: Whether tasks whose last attempt stopped midway are dispatched again, too.
        include_outside: Whether new tasks from outside are taken even where no rule says so: your decision, then.
    """
    began.get()()
    workspace = current()
    order = Order(executor, reviewer)
    found = await asyncio.to_thread(
        candidates, workspace, limit, retry_ended=retry_ended, include_outside=include_outside
    )
    return _state_of_all(await take_all(workspace, list(found), order, concurrency, by_rule=found))


# ------------------------------------------------------------------------------------------------- one task


async def _one_dispatch(task_id: str, order_for: Callable[[Task], Order]) -> State[Any]:
    began.get()()
    workspace = current()
    try:
        found = await asyncio.to_thread(see_task, workspace, task_id)
        await _label(workspace, found, run_name(found))
        outcome = await take_to_gate(workspace, task_id, order_for(found), STEPS)
    except (Refused, UnknownAgent, BadAgentsFile) as error:
        return Failed(name="Refused", message=str(error))
    await _exhibit(workspace, outcome)
    return state_of(outcome)


def run_name(found: Task) -> str:
    """A run is named after its task and the attempt that it is about."""
    last = found.attempts[-1].attempt if found.attempts else 0
    is_open = found.status == "pending" and found.current is not None and found.current.ended is None
    return f"{found.task_id} #{last if is_open or found.status == 'needs_review' else last + 1}"


def run_tags(workspace: Workspace, found: Task) -> list[str]:
    """What a run is found by: its task, the task's correlation id, its workspace."""
    return ["kircerta", home_tag(workspace.home), f"task:{found.task_id}", found.correlation_id]


async def _label(workspace: Workspace, found: Task, name: str) -> None:
    """Name and tag the run, where whoever started it (the UI, a schedule) did not know how."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or (run.name == name and found.correlation_id in run.tags):
        return
    tags = sorted({*run.tags, *run_tags(workspace, found)})
    async with get_client() as client:
        await client.update_flow_run(run.id, name=name, tags=tags)


async def _exhibit(workspace: Workspace, outcome: Outcome) -> None:
    """Show the attempt in the run: the link, the criteria, the diff, the verdict."""
    page = await asyncio.to_thread(_page, workspace, outcome)
    description = f"{outcome.task_id}: {outcome.name}"
    try:
        await acreate_markdown_artifact(page, key=exhibits.key_of(outcome.task_id), description=description)
    except Exception as error:  # a server that went away: what happened has happened all the same
        _LOG.warning("%s is not shown: %r", outcome.task_id, error)


def _page(workspace: Workspace, outcome: Outcome) -> str:
    found = see_task(workspace, outcome.task_id)
    result = found.current.result if found.current else None
    snapshot = result.diff_snapshot if result else None
    text = snapshot.text if snapshot else None
    if snapshot is not None and snapshot.blob is not None:
        text = workspace.store.blobs.text(snapshot.blob)
    return exhibits.attempt_page(found, outcome, workspace.settings.api_url, text)


def state_of(outcome: Outcome) -> State[Any]:
    """The named state in which a run ends."""
    message = outcome.detail or f"{outcome.task_id} is {outcome.stage}"
    make = Completed if outcome.ok else Failed
    return make(name=outcome.name, message=message[:2000])


# ------------------------------------------------------------------------------------------------ many tasks


def candidates(
    workspace: Workspace, limit: int, *, retry_ended: bool = False, include_outside: bool = False
) -> dict[str, Order | None]:
    """What `dispatch_pending` takes, in order: attempts that wait for a process of ours, then pending tasks.

    Beside a task from outside stands the order of the rule that lets it start.
    """
    store = workspace.store
    store.refresh()
    open_ones = [
        one.task_id
        for one in sorted(store.open_attempts(), key=lambda one: one.ack_deadline)
        if waits_for_us(workspace, one.stage, one.executor, one.reviewer, one.executor_principal)
    ]
    ended = [one.task_id for one in list(store.view.entries.values()) if one.stage == "ended" and one.dispatchable]
    found: dict[str, Order | None] = dict.fromkeys(open_ones[:limit])
    projects = usable_projects(workspace.home)
    for task_id in store.pending():
        if len(found) >= limit:
            break
        from_outside = store.view.entries[task_id].source in OUTSIDE
        order = order_by_rule(projects, store.task(task_id)) if from_outside else None
        if order is not None or include_outside or not from_outside:
            found[task_id] = order
    left = limit - len(found)
    return found | dict.fromkeys(sorted(ended)[:left] if retry_ended else ())


async def take_all(
    workspace: Workspace,
    task_ids: list[str],
    order: Order,
    concurrency: int,
    steps: Steps = STEPS,
    *,
    by_rule: Mapping[str, Order | None] = MappingProxyType({}),
) -> list[Outcome]:
    """Take many tasks to the gate inside the run of this moment, and show where they stand.

    `by_rule`: the orders of those for which `order` does not hold.
    """
    slots = asyncio.Semaphore(concurrency)
    progress = _Progress(len(task_ids))

    async def one(task_id: str) -> Outcome:
        async with slots:
            outcome = await _guarded(workspace, task_id, by_rule.get(task_id) or order, steps)
        progress.count()
        return outcome

    showing = asyncio.create_task(progress.show())
    try:
        outcomes = await asyncio.gather(*(one(task_id) for task_id in task_ids))
    finally:
        await progress.finish(showing)
    page = exhibits.outcomes_page(outcomes, workspace.settings.api_url)
    await acreate_markdown_artifact(page, key="dispatch-pending", description="Where the tasks of this run stand")
    return outcomes


async def _guarded(workspace: Workspace, task_id: str, order: Order, steps: Steps) -> Outcome:
    """One task of many: what is wrong with it must not stop the others."""
    try:
        return await take_to_gate(workspace, task_id, order, steps)
    except (Refused, UnknownAgent, BadAgentsFile) as error:
        return Outcome(task_id, "", "new", "Refused", str(error))


class _Progress:
    """A bar in the UI, moved every two seconds: each move is a request."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._over = asyncio.Event()

    def count(self) -> None:
        self._done += 1

    async def finish(self, showing: asyncio.Task[None]) -> None:
        self._over.set()
        await showing

    async def show(self) -> None:
        if self._total == 0:
            return
        artifact = await acreate_progress_artifact(0.0, key="dispatch-pending-progress", description="Tasks done")
        while not self._over.is_set():
            until = time.monotonic() + _PROGRESS_S
            while time.monotonic() < until and not self._over.is_set():
                try:
                    await asyncio.wait_for(self._over.wait(), until - time.monotonic())
                except TimeoutError:
                    break
            await aupdate_progress_artifact(artifact, 100.0 * self._done / self._total)


def _state_of_all(outcomes: list[Outcome]) -> State[Any]:
    if not outcomes:
        return Completed(name="NothingPending", message="no task was pending")
    bad = [outcome for outcome in outcomes if not outcome.ok]
    message = f"{len(outcomes) - len(bad)} of {counted(len(outcomes), 'task went its way', 'tasks went their way')}"
    if bad:
        names = ", ".join(f"{one.task_id} {one.name}" for one in bad[:10])
        return Failed(name="SomeEnded", message=f"{message}; {names}")
    return Completed(name="Dispatched", message=message)
