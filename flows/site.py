"""Where one agent of a dispatch works: its place, its cage, what is run for it, and what is found there afterwards.

Only an agent of `config/agents.toml` gets one, and only where its task's project names a checkout. The built-in agents
play and touch nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from flows.agents.commands import Errands
from flows.agents.enclosure import Confinement, Enclosure
from flows.agents.git import NoWorkplace
from flows.agents.protocol import LIMITS, Agent, AgentFailed
from flows.agents.subprocess_agent import SubprocessAgent
from flows.agents.workplace import FOLDER, Workplace, pinned, prepare, prepare_with
from flows.agents.workplace import Facts as Found
from flows.branch import Branch
from flows.checks import run_check
from flows.workspace import Workspace
from ssot import beats
from ssot.claims import claim_file
from ssot.facts import Facts
from ssot.messages import result_refusal
from ssot.observed import CheckRun, Isolation, Observed
from ssot.projects import BadProjectsFile, Project
from ssot.task import Criterion, Dispatch, Result, ResultBody, Task

_SIGN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Ground:
    """What sites of a dispatch are made from."""

    workspace: Workspace
    dispatch: Dispatch
    checkout: Path
    base: str
    confinement: Confinement

    def place(self, base: str, purpose: str) -> Workplace:
        return prepare(self.workspace.home, self.checkout, base, self.dispatch.dispatch_id, purpose)

    @asynccontextmanager
    async def signs_of_life(self) -> AsyncIterator[None]:
        """While we run something for an executor, it is not silent."""

        async def sign() -> None:
            while True:
                await asyncio.to_thread(beats.keep_sign, self.workspace.home, self.dispatch.dispatch_id)
                await asyncio.sleep(_SIGN_S)

        signing = asyncio.create_task(sign())
        try:
            yield
        finally:
            signing.cancel()
            await asyncio.wait({signing})


def ground_for(workspace: Workspace, task: Task, dispatch: Dispatch, agent: Agent) -> Ground | None:
    """What an agent's site is made from; None where it works without one. Reads a file. Raises AgentFailed."""
    if not isinstance(agent, SubprocessAgent) or agent.confinement is None:
        return None
    project = _project(workspace, task)
    if project is None or project.checkout is None:
        if agent.confinement.isolation == "required":
            why = 'isolation = "required" needs a place to work: the task\'s project names no checkout'
            raise AgentFailed("not_started", why)
        return None
    checkout = workspace.home / project.checkout
    return Ground(workspace, dispatch, checkout, _base_for(task, project, checkout), agent.confinement)


def _base_for(task: Task, project: Project, checkout: Path) -> str:
    """Where work begins. What could not land on its branch is done anew on what stands there. Raises AgentFailed."""
    if project.landing is None or all(one.unlanded is None for one in task.attempts):
        return project.base
    try:
        return Branch(checkout, project.landing.branch).head() or project.base
    except NoWorkplace as error:
        raise AgentFailed("not_started", f"there is no place to work: {error}") from None


def _project(workspace: Workspace, task: Task) -> Project | None:
    reading = workspace.store.projects_file.now()
    if reading.said is None:
        raise AgentFailed("not_started", reading.problem)
    try:
        found = reading.said.of(task)
    except BadProjectsFile as error:
        raise AgentFailed("not_started", str(error)) from None
    return found[1] if found is not None else None


class Site:
    """A place with an agent to work there. `close` removes it, with everything in it."""

    def __init__(self, ground: Ground, place: Workplace, agent: SubprocessAgent, *, is_review: bool) -> None:
        self.place = place
        self.isolation: Isolation | None = None
        self._ground = ground
        command = tuple(_found_in(agent.cwd or ground.workspace.home, word) for word in agent.command)
        self._enclosure = Enclosure(
            place,
            ground.workspace.home,
            ground.confinement,
            read=(place.objects, *(word for word in command if Path(word).is_absolute() and Path(word).is_file())),
            tree_is_read_only=is_review,
            env=agent.env,
        )
        self._errands = Errands(self._enclosure, ground.signs_of_life)
        self._reviewed = ""
        output = ground.confinement.output_bytes or LIMITS.output_bytes
        limits = replace(agent.limits, output_bytes=output)
        self.agent = replace(agent, command=command, enclosure=self._enclosure, limits=limits)

    @classmethod
    async def for_work(cls, ground: Ground, agent: SubprocessAgent) -> Site:
        """A clean tree at the project's commit. Raises AgentFailed."""
        return await _made(partial(_work_place, ground), lambda place: cls(ground, place, agent, is_review=False))

    @classmethod
    async def for_review(cls, ground: Ground, agent: SubprocessAgent, result: Result, diff: str) -> Site:
        """The tree as the result left it, to be read. Raises AgentFailed."""
        build = partial(_review_place, ground, result, diff)
        site = await _made(build, lambda place: cls(ground, place, agent, is_review=True))
        site._reviewed = (await asyncio.to_thread(site.place.facts)).tree
        return site

    async def open(self) -> None:
        """Be there for the agent. Raises AgentFailed."""
        try:
            await asyncio.to_thread(self._enclosure.make_folders)
            await self._errands.open()
        except OSError as error:
            raise AgentFailed("not_started", f"its place cannot be made ready: {error}") from None

    async def close(self) -> None:
        try:
            await self._errands.close()
        finally:
            await asyncio.to_thread(self.place.discard)

    # ----------------------------------------------------------------------------------- what an executor did

    async def facts(self, body: ResultBody) -> Facts:
        """What a result is held against; with the checks, where it would be taken."""
        try:
            found = await asyncio.to_thread(self.place.facts)
        except NoWorkplace as error:
            return Facts(None, problem=str(error))
        facts = await asyncio.to_thread(self._held_against, body, found)
        if body.outcome != "completed" or result_refusal(self._ground.dispatch, body, facts) is not None:
            return facts
        assert facts.observed is not None
        checks = await self._checks(found)
        return replace(facts, observed=facts.observed.model_copy(update={"checks": checks}))

    def _held_against(self, body: ResultBody, found: Found) -> Facts:
        facts = Facts(self._observed(found), found.diff)
        claimed = body.diff_snapshot.text if body.diff_snapshot is not None else None
        if not claimed:
            return facts
        try:
            tree = self.place.tree_of(claimed if claimed.endswith("\n") else claimed + "\n")
            differs = self.place.difference(tree, found.tree) if tree != found.tree else ()
        except NoWorkplace as error:
            return replace(facts, problem=f"the diff does not fit the commit that the work began at: {error}")
        return replace(facts, differs=differs)

    def _observed(self, found: Found) -> Observed:
        told = self.isolation or Isolation(missing=("nothing was told of it",))
        by_agent = self._ground.confinement.commands == "reported"
        return Observed(
            isolation=told,
            base=found.base,
            tree=found.tree,
            changed=found.changed,
            commands_by="agent" if by_agent else "harness",
            commands=tuple(self._errands.seen),
        )

    async def _checks(self, found: Found) -> tuple[CheckRun, ...]:
        asked = [one for one in self._ground.dispatch.acceptance_criteria if one.check is not None]
        async with self._ground.signs_of_life():
            return tuple([await self._check(one, found) for one in asked])

    async def _check(self, criterion: Criterion, found: Found) -> CheckRun:
        return await run_check(
            criterion,
            lambda: _place_with(self._ground, found.base, "check", found.diff),
            lambda clean: replace(self._enclosure, place=clean),
        )

    # ----------------------------------------------------------------------------------- what a reviewer did

    async def mutated(self) -> tuple[str, ...]:
        """What was changed in a tree that was to be read, as `M path`."""
        try:
            found = await asyncio.to_thread(self.place.facts)
            if found.tree == self._reviewed:
                return ()
            return await asyncio.to_thread(self.place.difference, self._reviewed, found.tree)
        except NoWorkplace as error:
            return (str(error),)


def _found_in(folder: Path, word: str) -> str:
    """A word of a command that names a file of the folder, by its whole path: in the tree it would not be found."""
    try:
        return str(folder / word) if word and (folder / word).is_file() else word
    except (OSError, ValueError):  # too long for a name: it is none
        return word


async def _made(build: Callable[[], Workplace], site: Callable[[Workplace], Site]) -> Site:
    try:
        return site(await asyncio.to_thread(build))
    except (NoWorkplace, OSError) as error:
        raise AgentFailed("not_started", f"there is no place to work: {error}") from None


def _work_place(ground: Ground) -> Workplace:
    return ground.place(ground.base, "work")


def _review_place(ground: Ground, result: Result, diff: str) -> Workplace:
    return _place_with(ground, _base_of(ground, result), "review", diff)


def _base_of(ground: Ground, result: Result) -> str:
    """Where the work began: as it was seen, else as it was claimed, where there is such a commit."""
    if result.observed is not None:
        return result.observed.base
    if result.diff_snapshot is not None:
        with suppress(NoWorkplace):
            return pinned(ground.checkout, result.diff_snapshot.base)
    return ground.base


def _place_with(ground: Ground, base: str, purpose: str, diff: str) -> Workplace:
    home, dispatch_id = ground.workspace.home, ground.dispatch.dispatch_id
    return prepare_with(home, ground.checkout, base, dispatch_id, purpose, diff)


def packet_folder(home: Path, dispatch_id: str) -> Path:
    """Where the packets of a review lie whose reviewer has no site. Goes away like one."""
    return home / FOLDER / f"{claim_file(home, dispatch_id).name}~review" / "home"
