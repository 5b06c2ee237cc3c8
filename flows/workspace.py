"""What a run works on: the settings and the store of its process. Flows take only ids; here they find the rest."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from flows.agents.registry import Agents
from flows.writer import Writer
from ssot.intents import Intent
from ssot.settings import Settings, load
from ssot.store import Committed, Store

SOURCE = "kircerta/flows"


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace as one process sees it."""

    settings: Settings
    store: Store
    writer: Writer = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "writer", Writer(self.store))

    @property
    def home(self) -> Path:
        return self.settings.home

    def agents(self) -> Agents:
        """The agents as `config/agents.toml` has them now. Raises BadAgentsFile."""
        return Agents(self.home)

    @classmethod
    def open(cls, settings: Settings, source: str = SOURCE) -> Workspace:
        """Read the log and, after a reboot, compare the files."""
        return cls(settings, Store.open(settings.home, source=source, settings=settings.store, scan=False))

    async def commit(self, task_id: str, intent: Intent, actor: str) -> Committed:
        """`Store.commit`, off the event loop and together with what other runs commit at this moment."""
        return await asyncio.wrap_future(self.writer.commit(task_id, intent, actor))


_current: ContextVar[Workspace | None] = ContextVar("workspace", default=None)
_opening = threading.Lock()
_opened: list[Workspace] = []


@contextmanager
def using(workspace: Workspace) -> Iterator[Workspace]:
    """Flows that are called inside work on this workspace."""
    token = _current.set(workspace)
    try:
        yield workspace
    finally:
        _current.reset(token)


def current() -> Workspace:
    """The workspace of the run: that of `using`, else the one that the environment names, opened once a process."""
    given = _current.get()
    if given is not None:
        return given
    with _opening:
        if not _opened:
            _opened.append(Workspace.open(load()))
        return _opened[0]


def current_settings() -> Settings:
    """The settings of the run, for work that needs neither the log nor the tasks: nothing is opened for them."""
    given = _current.get()
    return load() if given is None else given.settings


def home_tag(home: Path) -> str:
    """The tag by which deployments and runs of a workspace are found on a server that serves several."""
    return "home:" + hashlib.sha256(str(home.absolute()).encode()).hexdigest()[:12]
