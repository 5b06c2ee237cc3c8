"""Which tasks from outside may be dispatched without a person: those that a rule in `config/projects.toml` names."""

from __future__ import annotations

from pathlib import Path
from typing import Final, get_args

from flows.pipeline import Order
from ssot.projects import BadProjectsFile, InboundSource, Projects, load
from ssot.task import Task

OUTSIDE: Final = frozenset(get_args(InboundSource))
"""The sources of tasks that nobody here asked for."""


def order_by_rule(projects: Projects | None, task: Task) -> Order | None:
    """The order that a rule gives for a new task: its project's agents, in the rule's name; None: a person decides.

    Args:
        projects: None where their file cannot be used: then no rule holds.
    """
    try:
        if projects is None or not projects.starts_by_itself(task):
            return None
        found = projects.of(task)
    except BadProjectsFile:  # the task names a project that there is not
        return None
    assert found is not None
    name, project = found
    return Order(project.executor, project.reviewer, actor=f"rule:{name}", of=("new",))


def usable_projects(home: Path) -> Projects | None:
    """The projects of a workspace; None where their file cannot be used."""
    try:
        return load(home)
    except BadProjectsFile:
        return None
