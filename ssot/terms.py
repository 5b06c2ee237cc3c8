"""Under which terms a task is dispatched now: what its project says. Reads the projects' file, writes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from audit.event import Draft
from ssot import projects
from ssot.intents import NO_PROJECT, Terms
from ssot.projects import BadProjectsFile, Projects
from ssot.task import Task

NOTICED_BY = "kircerta"


@dataclass(frozen=True, slots=True)
class Reading:
    """The projects' file as it was found: what it says, or why it cannot be used.

    `digest` names what it says, however it is written; of a file that cannot be used, its bytes; None where there is no
    project.
    """

    said: Projects | None
    digest: str | None
    problem: str = ""


class ProjectsFile:
    """`config/projects.toml` of a workspace, read at each question and parsed when its bytes are others."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._last: tuple[bytes, Reading] | None = None

    def now(self) -> Reading:
        """What the file says at this moment."""
        try:
            raw = projects.read(self._home)
        except BadProjectsFile as error:
            return Reading(None, _digest_of(str(error).encode()), str(error))
        if raw is None:
            return _NOTHING
        if self._last is None or self._last[0] != raw:
            self._last = (raw, _reading(raw))
        return self._last[1]


_NOTHING = Reading(Projects(), None)


def _reading(raw: bytes) -> Reading:
    try:
        said = projects.parse(raw)
    except BadProjectsFile as error:
        return Reading(None, _digest_of(raw), str(error))
    return Reading(said, said.digest if said.project else None)


def _digest_of(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def terms_for(reading: Reading, task: Task, creator: Callable[[], str | None]) -> Terms:
    """The terms of a task. `creator` finds out who made it: asked only where it matters."""
    if reading.said is None:
        return Terms(problem=reading.problem) if projects.may_have_one(task) else NO_PROJECT
    try:
        found = reading.said.of(task)
    except BadProjectsFile as error:
        return Terms(problem=str(error))
    if found is None:
        return NO_PROJECT
    name, project = found
    policy = project.recorded(name, creator() if project.policy.four_eyes else None)
    return Terms(policy, project.executor, project.reviewer, project.scope)


def change_of(reading: Reading, before: str | None) -> Draft | None:
    """The event that tells of a changed file; None while it says what it said."""
    if reading.digest == before:
        return None
    told = {name: one.digest for name, one in reading.said.project.items()} if reading.said else {}
    data = {"file": str(projects.FILE), "old": before, "new": reading.digest, "projects": told}
    return Draft("projects_changed", NOTICED_BY, {**data, **({"problem": reading.problem} if reading.problem else {})})
