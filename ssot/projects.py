"""The projects of a workspace, from `config/projects.toml`: whose tasks, which agents, which policy. Only `load` reads.

    [project.shop]
    repositories = ["acme/shop"]               # tasks from there are this project's; or metadata.project names it
    executor = "codex"
    reviewer = "second-pair"
    scope = ["src/**", "tests/**"]             # for tasks that bring none of their own

    [project.shop.policy]
    quorum = 2
    approvers = ["alice", "bob", "carol"]
    max_attempts = 5

    [[project.shop.auto_dispatch]]             # nothing from outside runs without such a rule
    source = "github"
    labels = ["agent"]

A file that cannot be read as it is meant is used in no part: what asks for it is refused.
"""

from __future__ import annotations

import fnmatch
import hashlib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import orjson
from pydantic import Field, field_validator, model_validator

from ssot import strict_toml
from ssot.counted import counted
from ssot.strict_toml import NotStrictTOML, Table
from ssot.task import PRINCIPAL, RecordedPolicy, Task

FILE: Final = Path("config") / "projects.toml"
MENDS: Final = "build_task"
"""In the origin of a task that was opened for a failed build: that build's own task."""
_AUTHOR: Final = "kircerta <kircerta@localhost>"

ProjectName = Annotated[str, Field(pattern=r"\A[a-z0-9][a-z0-9._-]{0,63}\z")]
AgentName = Annotated[str, Field(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:=,/@+-]{0,199}\z")]
Principal = Annotated[str, Field(pattern=rf"\A{PRINCIPAL.pattern}\z")]
Pattern = Annotated[str, Field(min_length=1, max_length=4096)]
Patterns = Annotated[tuple[Pattern, ...], Field(strict=False, max_length=1000)]
Seconds = Annotated[int, Field(ge=1, le=365 * 86400)]
InboundSource = Literal["github", "xcode", "telegram"]


class BadProjectsFile(ValueError):
    """`config/projects.toml` cannot be used. The message names the file and the key."""


class ProjectPolicy(Table):
    """What a project asks for at its gate. The defaults are what holds for a task without a project."""

    human_gate: bool = True
    """Off: a verdict of approve on a change that lies wholly in `low_risk` is decided by ``policy:<project>``."""
    low_risk: Patterns = ()
    """Globs of paths; the gate is off for changes that touch nothing else, and for those alone."""
    quorum: Annotated[int, Field(ge=1, le=100)] = 1
    """How many approvers have to approve one and the same digest."""
    approvers: Annotated[tuple[Principal, ...], Field(strict=False, max_length=1000)] = ()
    """Who may approve; empty: whoever has the role."""
    four_eyes: bool = False
    """Whether who made the task or asked for one of its dispatches is barred from deciding on it."""
    distinct_model_family: bool = False
    """Whether the reviewer's model has to be of another family than the executor's, where both are known."""
    require_run: bool = False
    """Whether a completed result has to show a `run` or `test` operation."""
    require_reading: bool = False
    """Whether bare approvals are refused: a verdict has to say something, an approval its reason and what was read."""
    max_attempts: Annotated[int, Field(ge=1, le=1000)] | None = None
    """No attempt is begun behind this number; None: only the lock on rejects ends it."""
    auto_redispatch: bool | None = None
    """Whether a rejection starts the next attempt by itself; None: as `KIRCERTA_AUTO_REDISPATCH` says."""
    decision_deadline_s: Seconds | None = None
    """Seconds from the verdict to the decision; what comes behind it is `deadline_outcome`. Never an approval."""
    reminders_s: Annotated[tuple[Seconds, ...], Field(strict=False, max_length=10)] = ()
    """When people are reminded: seconds before the deadline."""
    deadline_outcome: Literal["decision_overdue", "expired"] = "decision_overdue"
    """`decision_overdue`: it is said once and waits on; `expired`: `policy:<project>` rejects it, too."""

    @model_validator(mode="after")
    def _fail_closed(self) -> Self:
        if not self.human_gate and not self.low_risk:
            raise ValueError("human_gate = false needs low_risk: the globs of the paths for which nobody is asked")
        if self.approvers and len(set(self.approvers)) < self.quorum:
            raise ValueError(
                f"quorum = {self.quorum} can never be met by {counted(len(set(self.approvers)), 'approver')}"
            )
        if self.reminders_s and self.decision_deadline_s is None:
            raise ValueError("reminders_s needs decision_deadline_s")
        if self.decision_deadline_s is not None and max(self.reminders_s, default=0) >= self.decision_deadline_s:
            raise ValueError(
                "reminders_s are seconds before the deadline: each has to be less than decision_deadline_s"
            )
        if len(set(self.reminders_s)) < len(self.reminders_s):
            raise ValueError("reminders_s: each may stand once only")
        if self.deadline_outcome == "expired" and self.decision_deadline_s is None:
            raise ValueError('deadline_outcome = "expired" needs decision_deadline_s')
        return self


class AutoDispatch(Table):
    """A rule: which new tasks from outside start a dispatch by themselves. Everything that is given has to fit."""

    source: InboundSource
    repositories: Patterns = ()
    labels: Patterns = ()
    chats: Annotated[tuple[int, ...], Field(strict=False, max_length=1000)] = ()
    products: Patterns = ()
    failed_builds: bool = False
    """Of xcode: only the tasks that were opened for a failed build, not those of the builds themselves."""

    @model_validator(mode="after")
    def _of_its_source(self) -> Self:
        allowed = {
            "github": {"repositories", "labels"},
            "xcode": {"products", "failed_builds"},
            "telegram": {"chats"},
        }[self.source]
        narrowing = ("repositories", "labels", "chats", "products", "failed_builds")
        given = {name for name in narrowing if getattr(self, name)}
        if given - allowed:
            raise ValueError(f"{min(given - allowed)} says nothing about a task from {self.source}")
        return self

    def fits(self, task: Task) -> bool:
        """Whether the rule means this task."""
        origin = task.origin
        labels = origin.get("labels")
        return (
            task.source == self.source
            and (not self.repositories or _matches(origin.get("repository"), self.repositories))
            and (not self.labels or any(_matches(one, self.labels) for one in labels or ()))
            and (not self.chats or task.chat_id in self.chats)
            and (not self.products or _matches(origin.get("product"), self.products))
            and (not self.failed_builds or origin.get(MENDS) is not None)
        )


class Landing(Table):
    """Where approved changes of a project go. Without this table nothing is landed."""

    branch: Annotated[str, Field(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._/-]{0,199}\z")]
    """A branch of the checkout; made from the project's base at the first landing."""
    author: Annotated[str, Field(pattern=r"\A[^<>\x00-\x1f\x7f]{1,100} <[^<>\s\x00-\x1f\x7f]{1,200}>\z")] = _AUTHOR
    """Who the commits are by, as `Name <address>`."""

    @field_validator("branch")
    @classmethod
    def _is_a_branch(cls, value: str) -> str:
        parts = value.split("/")
        if ".." in value or any(not one or one.startswith(".") or one.endswith((".", ".lock")) for one in parts):
            raise ValueError(f"{value} is no name that git takes for a branch")
        return value

    @property
    def name(self) -> str:
        return self.author.rpartition(" <")[0].strip()

    @property
    def address(self) -> str:
        return self.author.rpartition(" <")[2].removesuffix(">")


class Project(Table):
    """One project: whose tasks it means, who works on them, and under which policy."""

    title: Annotated[str, Field(max_length=200)] = ""
    repositories: Patterns = ()
    chats: Annotated[tuple[int, ...], Field(strict=False, max_length=1000)] = ()
    products: Patterns = ()
    checkout: str | None = None
    """A local clone that agents get work trees of; relative to the workspace."""
    base: Annotated[str, Field(min_length=1, max_length=200, exclude_if=lambda value: value == "HEAD")] = "HEAD"
    """The branch or commit of the checkout that attempts begin at: pinned when an attempt's work begins."""
    landing: Annotated[Landing | None, Field(exclude_if=lambda value: value is None)] = None
    """Left out of the digest where it is not used: it would be another one than before."""
    scope: Patterns = ()
    executor: AgentName = "fake"
    reviewer: AgentName = "fake"
    policy: ProjectPolicy = ProjectPolicy()
    auto_dispatch: Annotated[tuple[AutoDispatch, ...], Field(strict=False, max_length=100)] = ()
    task_for_failed_build: bool = False
    """Whether a build that fails opens a task of its own, to mend it."""

    @property
    def digest(self) -> str:
        """``sha256:`` of what the project's table says, however it is written."""
        return _digest(self)

    def recorded(self, name: str, created_by: str | None = None) -> RecordedPolicy:
        """The policy as a dispatch records it."""
        told = self.policy.model_dump(mode="python")
        return RecordedPolicy(project=name, digest=self.digest, created_by=created_by, **told)

    @model_validator(mode="after")
    def _landing_needs_a_checkout(self) -> Self:
        if self.landing is not None and self.checkout is None:
            raise ValueError("landing needs checkout: the clone whose branch the approved changes go to")
        return self

    def means(self, task: Task) -> bool:
        """Whether a task that names no project is this one's, by where it came from."""
        return (
            _matches(task.origin.get("repository"), self.repositories)
            or _matches(task.origin.get("product"), self.products)
            or (task.chat_id is not None and task.chat_id in self.chats)
        )


class Projects(Table):
    """All projects of a workspace, in the order of their file."""

    project: dict[ProjectName, Project] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        """``sha256:`` of what the file says, however it is written."""
        return _digest(self)

    def of(self, task: Task) -> tuple[str, Project] | None:
        """The project of a task: the one that `metadata.project` names, else the first that means it.

        Raises:
            BadProjectsFile: the task names a project that there is not.
        """
        named = task.metadata.get("project")
        if named is not None:
            found = self.project.get(named) if isinstance(named, str) else None
            if found is None:
                raise BadProjectsFile(f"{task.task_id} names the project {named!r:.80}, which {FILE} does not have")
            return named, found
        return next(((name, one) for name, one in self.project.items() if one.means(task)), None)

    def starts_by_itself(self, task: Task) -> bool:
        """Whether a rule of the task's project lets it start a dispatch without a person."""
        found = self.of(task)
        return found is not None and any(rule.fits(task) for rule in found[1].auto_dispatch)


def may_have_one(task: Task) -> bool:
    """Whether any file could make a task some project's. One that names none and came from nowhere has none."""
    came_from = (task.origin.get("repository"), task.origin.get("product"), task.chat_id)
    return task.metadata.get("project") is not None or any(place is not None for place in came_from)


def load(home: Path) -> Projects:
    """The projects of a workspace as its file has them now; none where there is no file. Raises BadProjectsFile."""
    raw = read(home)
    return Projects() if raw is None else parse(raw)


def read(home: Path) -> bytes | None:
    """The file's bytes, None where there is no file. Raises BadProjectsFile."""
    try:
        return strict_toml.read(home / FILE)
    except NotStrictTOML as error:
        raise BadProjectsFile(f"{FILE}: {error}") from None


def parse(raw: bytes) -> Projects:
    """The projects of a file's bytes. Raises BadProjectsFile."""
    try:
        return strict_toml.parse(raw, Projects)
    except NotStrictTOML as error:
        raise BadProjectsFile(f"{FILE}: {error}") from None


def _digest(table: Table) -> str:
    told = orjson.dumps(table.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
    return "sha256:" + hashlib.sha256(told).hexdigest()


def _matches(told: Any, patterns: tuple[str, ...]) -> bool:
    return isinstance(told, str) and any(fnmatch.fnmatchcase(told.casefold(), one.casefold()) for one in patterns)
