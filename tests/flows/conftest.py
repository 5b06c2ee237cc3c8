"""Workspaces for flows, and one real Prefect server for all tests that need it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.server import PrefectServer, free_port, start_prefect_server, use_environment, wait_until_ready
from flows.workspace import Workspace
from ssot.intents import Create
from ssot.settings import Settings, load
from ssot.task import Criterion

Made = Callable[..., Workspace]
CRITERIA = (Criterion(id="AC-1", text="It works."), Criterion(id="AC-2", text="It is tested."))


def settings_for(home: Path, **overrides: Any) -> Settings:
    """Settings with short patience."""
    patience = {"ack_timeout_s": 5.0, "execution_timeout_s": 5.0, "review_timeout_s": 5.0, "prefect_api_url": None}
    return load(home=home, **{**patience, **overrides})


def add_task(workspace: Workspace, task_id: str = "T-1") -> str:
    """A task with two criteria and a scope."""
    wish = Create("Make it work.", acceptance_criteria=CRITERIA, scope=("src/**",))
    workspace.store.commit(task_id, wish, actor="alice")
    return task_id


def told(workspace: Workspace, task_id: str) -> list[str]:
    """The types of a task's events, in order."""
    return [event.type for event in workspace.store.events() if event.subject == task_id]


@pytest.fixture
def open_workspace(tmp_path: Path) -> Iterator[Made]:
    """Opens the test's workspace, with settings of its own each time."""
    opened: list[Workspace] = []

    def make(**overrides: Any) -> Workspace:
        opened.append(Workspace.open(settings_for(tmp_path, **overrides)))
        return opened[-1]

    yield make
    for workspace in opened:
        workspace.store.close()


@pytest.fixture
def workspace(open_workspace: Made) -> Workspace:
    return open_workspace()


_running: list[PrefectServer] = []


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A real server on a port of its own, one for all tests; this process is set up for it."""
    if _running:  # the fixture is used from several folders
        yield _running[0]
        return
    settings = load(home=tmp_path_factory.mktemp("prefect"))
    before = dict(os.environ)
    server = start_prefect_server(settings, free_port())
    try:
        wait_until_ready(server)
        use_environment(settings, server.api_url)
        _running.append(server)
        yield server
    finally:
        server.stop()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def on_prefect(prefect_server: PrefectServer) -> Iterator[PrefectServer]:
    """Flows that are called in this process run on the server, also where Prefect was imported before it was there."""
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_CSRF_SUPPORT_ENABLED, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_server.api_url, PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False}):
        yield prefect_server
