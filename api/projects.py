"""`GET /api/projects`: how each project stands. What tasks say of it is kept, and read again where one changed."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from contextlib import suppress
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from api import openapi
from api.answers import Tagged
from api.desk import Desk
from api.head import head_of
from api.openapi import Operation
from audit.reader import LogReader, Rewound
from audit.stamp import seconds_of
from ssot import schedules
from ssot.projects import BadProjectsFile, Projects, load
from ssot.standing import (
    PENDING_FLOWS,
    Counts,
    LastError,
    ProjectsPage,
    ProjectStanding,
    Run,
    TaskFacts,
    counts_of,
    error_of,
    facts_of,
    standing,
)
from ssot.store import Refused, Store
from ssot.task import plain

LOOK_BACK: Final = 50_000
"""How many of the newest events are looked at for last errors when it is first asked for; then all that follow."""
_MISNAMED: Final = 20


class ProjectRoutes:
    """One board a process."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._board: Board | None = None

    async def projects(self, request: Request) -> Response:
        self._desk.gate.reader(request)
        store = await self._desk.catch_up()
        if self._board is None or self._board.store is not store:
            self._board = Board(store)
        board = self._board
        at = ("projects", store.last_seq())  # who asks later may share only what has seen all that he has
        page = await self._desk.once(at, lambda: Tagged(orjson.dumps(plain(board.page(time.time())))))
        return page.answer(head_of(request.scope).if_none_match)


class Board:
    """What is known of a workspace's projects. Thread-safe; its methods read files: for worker threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._mutex = threading.Lock()
        self._file = ""
        self._facts: dict[str, tuple[str, TaskFacts]] = {}
        self._errors: dict[str, LastError] = {}
        self._reader: LogReader | None = None

    def page(self, now: float) -> ProjectsPage:
        """All projects at the Unix time `now`. Raises Corrupt."""
        try:
            projects = load(self.store.home)
        except BadProjectsFile as error:
            return ProjectsPage(problem=str(error))
        with self._mutex:
            self._take_in_tasks(projects)
            self._take_in_errors()
            return self._laid_out(projects, now)

    def _take_in_tasks(self, projects: Projects) -> None:
        if self._file != (file := projects.digest):
            self._file = file
            self._facts.clear()
        entries = list(self.store.view.entries.values())
        for entry in entries:
            known = self._facts.get(entry.task_id)
            if known is None or known[0] != entry.digest:
                with suppress(Refused):  # the log was replaced by another in this moment
                    self._facts[entry.task_id] = (entry.digest, facts_of(self.store.task(entry.task_id), projects))
        if len(self._facts) > len(entries):
            standing_now = {entry.task_id for entry in entries}
            self._facts = {task_id: known for task_id, known in self._facts.items() if task_id in standing_now}

    def _take_in_errors(self) -> None:
        try:
            if self._reader is None:
                self._reader = LogReader.after(self.store.audit_folder, max(0, self.store.last_seq() - LOOK_BACK))
            while events := self._reader.read(limit=1000):
                for event in events:
                    if (error := error_of(event)) is not None:
                        self._errors[error.task_id] = error
        except Rewound:  # another log stands there: what was known is of no use
            self._errors.clear()
            self._reader = None

    def _laid_out(self, projects: Projects, now: float) -> ProjectsPage:
        tasks: defaultdict[str | None, list[TaskFacts]] = defaultdict(list)
        for _, facts in self._facts.values():
            tasks[facts.project].append(facts)
        silent = frozenset(
            one.task_id for one in self.store.open_attempts() if one.signs.warned_at > one.signs.last_sign
        )
        held = frozenset(one.file.removesuffix(".json") for one in self.store.held_files())
        planned = schedules.load(self.store.home)
        made = [
            standing(
                name,
                project,
                tasks[name],
                now=now,
                silent=silent,
                held=held,
                errors=[error for one in tasks[name] if (error := self._errors.get(one.task_id)) is not None],
                next_run=planned.next_for(name, PENDING_FLOWS, now) if planned else None,
            )
            for name, project in projects.project.items()
        ]
        misnamed = sorted(one.task_id for one in tasks[None] if one.misnamed)
        return ProjectsPage(projects=tuple(made), others=counts_of(tasks[None]), misnamed=tuple(misnamed[:_MISNAMED]))


def operations(desk: Desk) -> list[Operation]:
    """The route, as the API's description lists it."""
    return [
        Operation(
            "GET",
            "/api/projects",
            ProjectRoutes(desk).projects,
            "list_projects",
            "How each project of config/projects.toml stands",
            description=(
                "`red`: its last run failed, or a task is locked; `yellow`: a decision is overdue, an executor silent "
                "or a task file held; `green` otherwise; `reasons` says which. `problem` says why the file cannot be "
                "used: then nothing of it is, and what depends on it is refused."
            ),
            tag="projects",
            role="viewer",
            answer=openapi.reference(ProjectsPage),
            answer_example=example(),
            problems=openapi.READ_PROBLEMS,
            tagged=True,
        )
    ]


def example() -> dict[str, Any]:
    """One project after its first approval."""
    told = {"title": "The shop", "repositories": ["acme/shop"], "executor": "codex", "policy": {"quorum": 2}}
    project = Projects.model_validate({"project": {"shop": told}}).project["shop"]
    run = Run(task_id="T-1", attempt=1, at="2026-01-31T09:00:00.000000Z", stage="approved", outcome="approved")
    facts = TaskFacts(
        "T-1",
        project="shop",
        misnamed=False,
        status="approved",
        locked=False,
        run=run,
        decide_until=None,
    )
    made: ProjectStanding = standing(
        "shop",
        project,
        [facts],
        now=seconds_of(run.at),
        silent=frozenset(),
        held=frozenset(),
        errors=[],
        next_run=schedules.ScheduledRun(
            flow="dispatch_pending", deployment="dispatch_pending/kircerta", at="2026-01-31T09:01:00Z"
        ),
    )
    return dict(orjson.loads(orjson.dumps(plain(ProjectsPage(projects=(made,), others=Counts())))))
