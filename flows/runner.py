"""Runs a flow in this process for the dispatcher: on Prefect while its server answers, the bare pipeline when not."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

from flows.landing import LANDING, BeingLanded, LandingRefused, NotAsked, land
from flows.line import line_to
from flows.outcome import Outcome
from flows.pipeline import RESUME, Order, again, take_to_gate
from flows.release import order_by_rule, usable_projects
from flows.server import answers
from flows.work import see_task
from flows.workspace import Workspace, using
from ssot.presence import Link
from ssot.task import Task

Kind = Literal["dispatch_task", "redispatch", "auto_dispatch", "close_task", "land_approved"]
TRIES: Final = 3
"""How often the server is asked before a dispatch goes without it: nobody waits for a dashboard."""
CALLED: Final = "dispatcher"
"""The tag of runs that live in the dispatcher's process: with it they end."""
_ASK_S: Final = 0.5
_BEGIN_S: Final = 15.0
"""How long a run may take to its first line before it is called again without Prefect."""
_LOG = logging.getLogger("kircerta.dispatcher")


@dataclass(frozen=True, slots=True)
class Job:
    """What has to be run: which flow, for which task, as it stood at which position of the log."""

    kind: Kind
    task_id: str
    seq: int


class NotNow(Exception):
    """The Prefect server does not answer, and this flow is nothing without it."""


class Runner:
    """Calls flows. At most two runs are created at once: a SQLite server answers more of them with 503 and waits."""

    def __init__(self, workspace: Workspace, prefect_api_url: str | None) -> None:
        self.link: Link = "none" if prefect_api_url is None else "unknown"
        self._workspace = workspace
        self._url = prefect_api_url
        self._creating = asyncio.Semaphore(2)
        self._asked = 0.0

    async def run(self, job: Job) -> Outcome | None:
        """Run a flow to its end. Gives the outcome where the bare pipeline ran it.

        Raises NotNow, and what the bare pipeline raises. What a flow's own body raised is in its run's state.
        """
        if await self.is_up():
            try:
                await self._on_prefect(job)
                return None
            except Exception as error:  # whatever Prefect or its client raise: the dispatch goes on without them
                _LOG.warning("%s of %s goes on without Prefect: %r", job.kind, job.task_id, error)
                self._lost()
        return await self._bare(job)

    # ---------------------------------------------------------------------------------------- with Prefect

    async def is_up(self) -> bool:
        """Whether the server answers; asked again, a few times, only where it did not the last time."""
        if self._url is None:
            return False
        if self.link == "up":
            return True
        if self.link == "down" and time.monotonic() - self._asked < 2.0:
            return False
        for left in reversed(range(TRIES)):
            if await asyncio.to_thread(answers, self._url, 1.0):
                self.link = "up"
                return True
            if left and self.link != "down":
                await asyncio.sleep(_ASK_S)
        self._lost()
        return False

    def _lost(self) -> None:
        self._asked = time.monotonic()
        self.link = "down" if self._url is not None else "none"

    async def _on_prefect(self, job: Job) -> None:
        from prefect import tags

        from flows import dispatch

        found = await asyncio.to_thread(see_task, self._workspace, job.task_id)
        begun = asyncio.Event()
        call = _call_of(job, found)
        async with self._creating:
            with using(self._workspace), tags(CALLED, *dispatch.run_tags(self._workspace, found)):
                token = dispatch.began.set(begun.set)
                running = asyncio.create_task(_with_line(self._url or "", call))
                dispatch.began.reset(token)
            await self._until_begun(running, begun)
        await _finished(running)

    async def _until_begun(self, running: asyncio.Task[Any], begun: asyncio.Event) -> None:
        waiting = asyncio.create_task(begun.wait())
        try:
            await asyncio.wait({running, waiting}, timeout=_BEGIN_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            if not begun.is_set():
                running.cancel()
        if not begun.is_set() and not running.done():
            await asyncio.wait({running}, timeout=2.0)
            raise TimeoutError(f"the run did not begin within {_BEGIN_S:g} s")

    # ------------------------------------------------------------------------------------- without Prefect

    async def _bare(self, job: Job) -> Outcome | None:
        if job.kind == "close_task":
            if self._url is None:
                return None  # its page would have nowhere to be
            raise NotNow(f"{job.task_id} is closed once the Prefect server answers")
        if job.kind == "land_approved":
            await _land_bare(self._workspace, job.task_id)
            return None
        order = RESUME
        if job.kind == "redispatch":
            order = again(await asyncio.to_thread(see_task, self._workspace, job.task_id))
        elif job.kind == "auto_dispatch":
            order = await asyncio.to_thread(_by_rule, self._workspace, job.task_id)
        return await take_to_gate(self._workspace, job.task_id, order)


async def _land_bare(workspace: Workspace, task_id: str) -> None:
    """A refusal is in the log; there is nobody else to tell."""
    with suppress(NotAsked, LandingRefused):
        try:
            await land(workspace, task_id, LANDING)
        except BeingLanded as error:
            raise NotNow(str(error)) from None


def _by_rule(workspace: Workspace, task_id: str) -> Order:
    return order_by_rule(usable_projects(workspace.home), see_task(workspace, task_id)) or RESUME


def _call_of(job: Job, found: Task) -> Callable[[], Coroutine[Any, Any, Any]]:
    """The flow of a job, named and ready to be called."""
    from flows import dispatch
    from flows.land_approved import land_approved

    others = {
        "land_approved": land_approved,
        "close_task": dispatch.close_task,
        "redispatch": dispatch.redispatch,
        "auto_dispatch": dispatch.auto_dispatch,
    }
    flow: Any = others.get(job.kind)
    told: dict[str, Any] = {"task_id": job.task_id, "return_state": True}
    current = found.current.dispatch if found.current else None
    if flow is None:
        flow = dispatch.dispatch_task
        told["begin"] = False
        if current is not None:
            told |= {"executor": current.executor, "reviewer": current.reviewer}
    ends = {"close_task": "closed", "land_approved": "lands"}
    name = f"{job.task_id} {ends[job.kind]}" if job.kind in ends else dispatch.run_name(found)
    return lambda: flow.with_options(flow_run_name=name)(**told)


async def _with_line(prefect_api_url: str, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    from prefect.context import AsyncClientContext

    async with AsyncClientContext(line_to(prefect_api_url) or None):
        return await call()


async def _finished(running: asyncio.Task[Any]) -> None:
    """Wait for a run; when we are stopped, it is stopped too, and waited for."""
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        running.cancel()
        await asyncio.wait({running}, timeout=5.0)
        raise
