"""`kircerta land`: an approved change onto its project's branch, in this process."""

from __future__ import annotations

import asyncio
from typing import Any

import typer

from cli import workspace
from cli.failures import Failure
from cli.screen import Json, put_json, say
from cli.tasks import TaskId, check_id


def add_to(parent: typer.Typer) -> None:
    parent.command(rich_help_panel="Decide", epilog="Example: kircerta land T-7")(land)


def land(task_id: TaskId, json: Json = False) -> None:
    """Land an approved change: one commit on the branch that config/projects.toml names for its project.

    Landing twice says the first commit. Exit code 1 with the reason when it is not landed: a conflict, a check that
    fails there, a change that is not the one that was approved. After the first two `kircerta dispatch` begins a new
    attempt, with what the landing said.
    """
    check_id(task_id)
    given = workspace.settings()
    from flows import landing
    from flows.workspace import Workspace

    with workspace.open_store(given) as store:
        try:
            landed = asyncio.run(landing.land(Workspace(given, store), task_id, workspace.actor()))
        except landing.LandingRefused as error:
            if not json:
                raise Failure(f"{task_id} was not landed: {error} ({error.reason})") from None
            put_json({"task_id": task_id, "landed": False, "reason": error.reason, "detail": str(error)})
            raise typer.Exit(1) from None
        except (landing.NotAsked, landing.BeingLanded) as error:
            raise Failure(str(error)) from None
    _tell(landed, json=json)


def _tell(landed: Any, *, json: bool) -> None:
    if json:
        told = {"branch": landed.branch, "commit": landed.commit, "is_new": landed.is_new}
        put_json({"task_id": landed.task_id, "landed": True, **told})
        return
    when = "" if landed.is_new else " since an earlier landing"
    say(f"{landed.task_id} stands on {landed.branch} as {landed.commit}{when}")
