"""What came from outside, as the dispatcher meets it in the log: started where a rule says so, else left to people.

A rule counts for what the dispatcher meets from then on; it never reaches back to tasks that wait already.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Container, Iterable
from typing import Final

from audit.event import Draft
from audit.files import Signature
from flows.followed import Due, Followed
from flows.pipeline import DISPATCHER
from flows.release import OUTSIDE, order_by_rule
from flows.runner import Job
from flows.workspace import Workspace
from ssot import alarms
from ssot.ingest import xcode
from ssot.projects import FILE, BadProjectsFile, Projects, load
from ssot.store import Refused, Store
from ssot.task import Task

SETTLE_S: Final = 0.3
"""A projects file younger than this may still be being written."""
_ALARM: Final = "bad_projects_file"
_LOG = logging.getLogger("kircerta.dispatcher")


class ProjectsFile:
    """`config/projects.toml` as the dispatcher knows it: read when it changed; while it is broken an alarm stands."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: Projects | None = None
        self._read: Signature | bool | None = False  # False: not looked at yet

    def now(self) -> Projects | None:
        """The projects; None while their file cannot be used. Raises Busy, StorageFailed."""
        signature = self._signature()
        if signature == self._read:
            return self._known
        if signature is not None and 0 <= time.time() - signature.mtime_ns / 1e9 < SETTLE_S:
            return None  # whoever waits for it waits a turn longer
        self._known = self._loaded()
        self._read = signature
        return self._known

    def _signature(self) -> Signature | None:
        try:
            return Signature.of(os.stat(self._store.home / FILE))
        except OSError:
            return None

    def _loaded(self) -> Projects | None:
        try:
            found = load(self._store.home)
        except BadProjectsFile as error:
            self._tell("raised", f"{str(error)[:1000]}: no task from outside starts by itself")
            return None
        self._tell("cleared", f"{FILE} can be used")
        return found

    def _tell(self, state: alarms.State, reason: str) -> None:
        """Once, however many dispatchers came and went: the log knows whether the alarm stands."""
        told = alarms.draft(_ALARM, state, reason, {}, DISPATCHER)
        self._store.tell_alarms(lambda raised: [told] if (_ALARM in raised) != (state == "raised") else [])


class Arrivals:
    """Judges each arrival once, in the order of the log. Blocking: for a worker thread."""

    def __init__(self, workspace: Workspace, followed: Followed) -> None:
        self._store = workspace.store
        self._followed = followed
        self._file = ProjectsFile(workspace.store)
        self._given_up: dict[str, tuple[int, str]] = {}

    def give_up(self, job: Job, why: str) -> None:
        """A start that came to nothing again and again: it is told, and a person decides."""
        self._given_up[job.task_id] = (job.seq, why)

    def jobs(self, under_way: Container[str]) -> list[Job]:
        """What is to be started now, oldest first. Raises Busy, StorageFailed, Corrupt."""
        projects = self._file.now()
        due = self._followed.due("arrival", "build")
        self._followed.done(one.seq for one in due if not self._is_from_outside(one))
        if projects is None:  # nothing starts; nothing is forgotten
            return []
        jobs, settled = list[Job](), list[int]()
        for one in self._from_outside(due):
            if one.task_id in under_way:
                continue
            job = self._judged(one, projects)
            jobs.append(job) if job is not None else settled.append(one.seq)
        self._followed.done(settled)
        return jobs

    def _is_from_outside(self, one: Due) -> bool:
        entry = self._store.view.entries.get(one.task_id)
        return entry is not None and entry.source in OUTSIDE

    def _from_outside(self, due: Iterable[Due]) -> Iterable[Due]:
        return [one for one in due if self._is_from_outside(one)]

    def _judged(self, one: Due, projects: Projects) -> Job | None:
        """The start that an arrival asks for; None when there is none, or none any more."""
        entry = self._store.view.entries[one.task_id]
        if entry.source == "xcode":
            self._open_mending(self._store.task(one.task_id), projects)
        if one.what == "build" or entry.stage != "new" or not entry.dispatchable:
            return None
        if order_by_rule(projects, self._store.task(one.task_id)) is None:
            return None
        given_up = self._given_up.pop(one.task_id, None)
        if given_up is not None and given_up[0] == entry.seq:
            self._tell_given_up(one.task_id, given_up[1])
            return None
        return Job("auto_dispatch", one.task_id, entry.seq)

    def _tell_given_up(self, task_id: str, why: str) -> None:
        detail = f"a rule starts {task_id}, but it cannot be dispatched ({why}): a person decides"[:2000]
        data = {"move": "dispatch", "code": "auto_dispatch_failed", "detail": detail}
        self._store.note(Draft("move_refused", DISPATCHER, data, task_id, self._store.task(task_id).correlation_id))

    def _open_mending(self, build: Task, projects: Projects) -> None:
        """Open the task that mends a failed build, where its project asks for that. Its id makes it the only one."""
        if not xcode.has_failed(build):
            return
        try:
            found = projects.of(build)
        except BadProjectsFile:
            return
        if found is None or not found[1].task_for_failed_build:
            return
        task_id, create = xcode.mending(build)
        if task_id.casefold() in self._store.view.folded:
            return
        try:
            self._store.commit(task_id, create, actor=DISPATCHER)
        except Refused as refused:
            _LOG.warning("%s for the failed build of %s is not opened: %s", task_id, build.task_id, refused)
