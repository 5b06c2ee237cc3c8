"""One dispatch on its way: its claim, its agents at work, and every commit that is made for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from audit.event import Draft
from audit.stamp import rfc3339, seconds_of
from flows.agents.packets import in_packets
from flows.agents.protocol import Agent, AgentFailed, Message, Session, Silent, job_line
from flows.agents.registry import Agents, BadAgentsFile, UnknownAgent
from flows.agents.subprocess_agent import SubprocessAgent
from flows.outcome import WAITING, Outcome, attempt_of, outcome_of
from flows.site import Site, ground_for, packet_folder
from flows.workspace import Workspace
from ssot import beats
from ssot.claims import Claim
from ssot.intents import Intent, SendAck, SendHeartbeat, SendResult, SendVerdict, WarnOfSilence
from ssot.rules import HEARTBEAT_EVENT_S
from ssot.states import OPEN, Stage, stage_of_attempt
from ssot.store import Refused
from ssot.task import Attempt, Dispatch, Part, Result, Task, plain
from ssot.texts import internalise

SLICE_S: Final = 1.0
"""How long an agent is listened to before the task is looked at again: somebody may have ended the attempt."""
MAX_REFUSED: Final = 8
"""Messages of one agent that may be refused before it is no longer listened to."""


Pair = tuple[Agent, Agent]
"""An executor and a reviewer."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt cannot go on: the reason that the log gets, and more for people."""

    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Unusable:
    """An agent that cannot be started any more: the name is unknown, or its configuration is broken."""

    name: str
    why: str
    principal: str = "dispatcher"
    local: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 3600.0

    def open(self, job: bytes) -> Any:
        raise AgentFailed("not_started", self.why)


class TaskMoved(Exception):
    """Somebody else moved the task on while an agent was listened to."""


class Work:
    """What the steps of one dispatch share. It holds nothing that counts: after a kill it is made anew.

    Args:
        agents: those of an attempt that begins; of one that is gone on with they are found here, which reads a file.
    """

    def __init__(
        self, workspace: Workspace, task: Task, dispatch: Dispatch, claim: Claim, actor: str, agents: Pair | None = None
    ) -> None:
        self.workspace = workspace
        self.task = task
        self.dispatch = dispatch
        self.actor = actor
        self.refused: list[str] = []
        self.failure = ""
        self.patience: dict[str, float] = {}
        self._claim = claim
        self._sessions: dict[str, tuple[Session, AsyncExitStack]] = {}
        self._sites: dict[str, Site] = {}
        self._last_beat_event = 0.0
        self._may_have_signs = agents is None
        self.executor, self.reviewer = agents or agents_of(workspace, dispatch)

    # ------------------------------------------------------------------------------------ where it stands

    @property
    def attempt(self) -> Attempt:
        attempt = attempt_of(self.task, self.dispatch.dispatch_id)
        assert attempt is not None
        return attempt

    @property
    def stage(self) -> Stage:
        return stage_of_attempt(self.attempt)

    def outcome(self) -> Outcome | None:
        """How it came out; None while there is something to do for this process."""
        found = outcome_of(self.task, self.dispatch.dispatch_id)
        if found is not None or self.is_ours():
            return found
        return self._waiting("a remote agent has the next word")

    def _waiting(self, why: str) -> Outcome:
        return Outcome(self.task.task_id, self.dispatch.dispatch_id, self.stage, WAITING, why, self.task.seq)

    def is_ours(self) -> bool:
        """Whether the next move is that of an agent which we start."""
        if self.stage == "delivered":
            return self.reviewer.local
        ack = self.attempt.ack
        return self.executor.local and (ack is None or ack.by == self.executor.principal)

    # -------------------------------------------------------------------------------------------- commits

    async def look(self) -> None:
        """See the task as it stands now."""
        self.task = await asyncio.to_thread(see_task, self.workspace, self.task.task_id)

    async def commit(self, intent: Intent, actor: str) -> Refused | None:
        """Commit a move; gives the refusal, if it was refused. Busy, StorageFailed and Corrupt go on to the caller."""
        try:
            done = await self.workspace.commit(self.task.task_id, intent, actor)
        except Refused as refused:
            await self.look()
            return refused
        self.task = done.task
        return None

    async def note_refusal(self, event: str, move: str, detail: str, actor: str) -> None:
        """Record a message that does not even have the form of one."""
        known = self.dispatch.dispatch_id
        data = {"dispatch_id": known, "move": move, "code": event, "detail": detail[:2000]}
        draft = Draft(event, actor, data, self.task.task_id, self.task.correlation_id)
        await asyncio.to_thread(self.workspace.store.note, draft)
        self.refused.append(detail)

    async def sign_of_life(self, note: str) -> None:
        """The executor is alive: into the log at most once per 5 s, else into a private file."""
        now = time.monotonic()
        if now - self._last_beat_event >= HEARTBEAT_EVENT_S:
            self._last_beat_event = now
            await self.commit(SendHeartbeat(self.dispatch.dispatch_id, note), self.executor.principal)
        self._may_have_signs = True
        await asyncio.to_thread(beats.keep_sign, self.workspace.home, self.dispatch.dispatch_id)

    async def warn_if_silent(self) -> None:
        """Warn once of a silence that is too long, whoever notices it first."""
        warning = await asyncio.to_thread(due_warning, self.workspace, self.task.task_id, time.time())
        if warning is not None:
            await self.commit(warning, self.actor)

    # --------------------------------------------------------------------------------------------- agents

    async def session(self, role: str) -> Session:
        """The agent at work, started when it is not. Raises AgentFailed."""
        if role not in self._sessions:
            stack = AsyncExitStack()
            try:
                self._sessions[role] = (await self._start(role, stack), stack)
            except BaseException:
                self._sites.pop(role, None)
                await stack.aclose()
                raise
        return self._sessions[role][0]

    async def _start(self, role: str, stack: AsyncExitStack) -> Session:
        agent = self.executor if role == "executor" else self.reviewer
        try:
            job = self._job(role, agent, _not_here)
        except _LongText:
            job = await asyncio.to_thread(self._job, role, agent, self.workspace.store.blobs.text)
        site = await self._site_for(role, agent)
        if site is not None:
            self._sites[role] = site
            stack.push_async_callback(site.close)
            await site.open()
        if role == "reviewer" and isinstance(agent, SubprocessAgent) and agent.confinement is not None:
            job = await asyncio.to_thread(self._handed, job, agent.confinement.review_bytes, site)
        if site is None:
            return await stack.enter_async_context(agent.open(job))
        session = await stack.enter_async_context(site.agent.open(job))
        site.isolation = session.isolation
        return session

    async def _site_for(self, role: str, agent: Agent) -> Site | None:
        """Where an agent works, made anew; None for one that works without. Raises AgentFailed."""
        if not isinstance(agent, SubprocessAgent) or agent.confinement is None:
            return None
        ground = await asyncio.to_thread(ground_for, self.workspace, self.task, self.dispatch, agent)
        if ground is None:
            return None
        self._may_have_signs = True
        if role == "executor":
            return await Site.for_work(ground, agent)
        result = self.attempt.result
        assert result is not None
        return await Site.for_review(ground, agent, result, await asyncio.to_thread(self._diff_of, result))

    def _diff_of(self, result: Result) -> str:
        snapshot = result.diff_snapshot
        if snapshot is None:
            return ""
        return snapshot.text if snapshot.text is not None else self.workspace.store.blobs.text(snapshot.blob or "")

    def _handed(self, job: bytes, most_bytes: int, site: Site | None) -> bytes:
        """A review's job; one that is too large lies in packets where its reviewer finds them."""
        if len(job) <= most_bytes:
            return job
        known = self.dispatch.dispatch_id
        folder = site.place.private if site is not None else packet_folder(self.workspace.home, known)
        packets = in_packets(job, most_bytes, str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        for name, packet in packets.files.items():
            (folder / name).write_bytes(packet)
        return packets.job

    async def seen(self, intent: Intent) -> Intent:
        """What an agent sent, with what was seen from outside where it worked in a site of ours."""
        if isinstance(intent, SendAck):
            return replace(intent, watched="executor" in self._sites)
        if isinstance(intent, SendResult) and (site := self._sites.get("executor")) is not None:
            return replace(intent, facts=await site.facts(intent.body))
        if isinstance(intent, SendVerdict) and (site := self._sites.get("reviewer")) is not None:
            return replace(intent, mutated=await site.mutated())
        return intent

    def is_open(self, role: str) -> bool:
        return role in self._sessions

    def _job(self, role: str, agent: Agent, load: Callable[[str], str]) -> bytes:
        task, result = self.task, self.attempt.result
        return job_line(
            "dispatch" if role == "executor" else "review",
            task_id=task.task_id,
            title=task.title,
            request_text=task.request_text if task.request_text is not None else load(task.blob or ""),
            correlation_id=task.correlation_id,
            attempt=self.attempt.attempt,
            dispatch=told(self.dispatch, load),
            result=told(result, load) if result is not None else None,
            options=agent.options,
        )

    async def listen(self, role: str, until: float) -> Message | None:
        """The agent's next message; None when the moment `until` (monotonic) came first.

        Raises:
            TaskMoved: the attempt is no longer where it was.
            AgentFailed: there will be no more messages.
        """
        session = await self.session(role)
        slice_s = min(SLICE_S, self.workspace.settings.heartbeat_warning_s / 2)
        while (left := until - time.monotonic()) > 0:
            try:
                return await session.next(min(left, slice_s))
            except Silent:
                await self.check_unmoved()
                if role == "executor" and self.attempt.ack is not None:
                    await self.warn_if_silent()
        return None

    async def wait_until(self, until: float) -> None:
        """Wait for a moment (monotonic), with an eye on the task. Raises TaskMoved."""
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, SLICE_S))
            await self.check_unmoved()

    async def check_unmoved(self) -> None:
        """Raises TaskMoved when the attempt is no longer where it was."""
        stage = self.stage
        await self.look()
        if self.stage != stage:
            raise TaskMoved

    async def dismiss(self, role: str) -> None:
        """Stop the agent and everything that it started."""
        self._sites.pop(role, None)
        found = self._sessions.pop(role, None)
        if found is not None:
            await found[1].aclose()

    async def close(self) -> None:
        """Stop every agent and give the dispatch free."""
        try:
            for role in list(self._sessions):
                await self.dismiss(role)
            if self._may_have_signs and self.stage not in OPEN:
                await asyncio.to_thread(beats.forget_signs, self.workspace.home, self.dispatch.dispatch_id)
        finally:
            self._claim.release()


def told(part: Part, load: Callable[[str], str]) -> Any:
    """A part as JSON tells it to an agent, with its long texts in their places. `load` gives the text of a digest."""
    values = plain(part)
    raw = orjson.dumps(values)
    if b'"blob"' not in raw:
        return orjson.Fragment(raw)
    return internalise(values, load, named=False)


class _LongText(Exception):
    """A text of the job lies in a file of its own: the job is put together in a thread."""


def _not_here(digest: str) -> str:
    raise _LongText


def agents_of(workspace: Workspace, dispatch: Dispatch) -> Pair:
    """The agents of a dispatch that was made already. Reads a file."""
    executor = find_agent(workspace, "executor", dispatch.executor)
    return executor, find_agent(workspace, "reviewer", dispatch.reviewer)


def find_agent(workspace: Workspace, role: str, name: str) -> Agent:
    """The agent of a dispatch that was made already: one that cannot be used any more fails by being started."""
    try:
        agents: Agents = workspace.agents()
        return agents.executor(name) if role == "executor" else agents.reviewer(name)
    except (UnknownAgent, BadAgentsFile) as error:
        return Unusable(name, str(error))


def see_task(workspace: Workspace, task_id: str) -> Task:
    """The task as it stands now, with what other processes did. Raises Refused (not_found)."""
    workspace.store.refresh()
    return workspace.store.task(task_id)


def due_warning(workspace: Workspace, task_id: str, now: float) -> WarnOfSilence | None:
    """The warning that a working executor's silence calls for; None when it is not due, or was given."""
    opened = workspace.store.view.opened.get(task_id)
    if opened is None or opened.stage != "acknowledged":
        return None
    last = max(opened.signs.last_sign, beats.last_sign(workspace.home, opened.dispatch_id))
    if opened.signs.warned_at > last or now - last <= workspace.settings.heartbeat_warning_s:
        return None
    return WarnOfSilence(opened.dispatch_id, rfc3339(last))


def monotonic_of(timestamp: str) -> float:
    """A wall-clock moment on this process's monotonic clock."""
    return time.monotonic() + seconds_of(timestamp) - time.time()
