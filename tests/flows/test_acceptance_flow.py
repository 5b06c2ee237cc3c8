"""The nightly flows in the Prefect UI: the acceptance with its table, and the retention of runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flows.server import PrefectServer
from flows.workspace import Workspace, using
from tests.flows.test_report import artifact
from tests.ssot.test_retention import left, record, write

pytestmark = [pytest.mark.slow, pytest.mark.prefect]


def call(workspace: Workspace, flow: Any, **parameters: Any) -> Any:
    """Call a flow in this process; gives the state that its run ended in."""

    async def run() -> Any:
        with using(workspace):
            return await flow(**parameters, return_state=True)

    return asyncio.run(run())


def test_the_acceptance_ends_in_a_name_and_shows_every_check(workspace: Workspace, on_prefect: PrefectServer) -> None:
    from flows.accept.deployed import acceptance

    state = call(workspace, acceptance, modules=("webhooks",))
    assert (state.name, state.type.value) == ("Accepted", "COMPLETED"), state.message
    page = artifact(on_prefect, "acceptance")
    assert r"| holds | webhooks | Telegram\: a message becomes a task" in page
    assert f"[The page]({workspace.settings.api_url}/reports/acceptance.html)" in page
    assert (workspace.home / "reports" / "acceptance.html").is_file()


def test_what_does_not_hold_is_named_in_the_state() -> None:
    from flows.accept.deployed import page, state_of
    from flows.accept.record import Acceptance, Check, Module

    checks = (Check(name="a door is shut", ok=False, detail="it | was open"), Check(name="a light is on", ok=True))
    module = Module(name="stream", ok=False, seconds=1.0, checks=checks, not_shown=("the cellar",))
    when = "2026-01-01T00:00:00Z"
    found = Acceptance(
        started_at=when,
        finished_at=when,
        ok=False,
        version="1",
        git_commit=None,
        git_dirty=None,
        evidence="reports/.acceptance",
        modules=(module,),
    )
    state = state_of(found)
    assert (state.name, state.message) == ("NotAccepted", "stream: a door is shut")
    told = page(found, "http://127.0.0.1:8000/")
    assert r"| **fails** | stream | a door is shut | it \| was open |" in told
    assert "- not shown (stream): the cellar" in told
    assert "1 of 2 checks held, 1 thing is not shown" in told


def test_old_runs_go_and_the_run_says_which(workspace: Workspace, on_prefect: PrefectServer) -> None:
    from flows.prune_runs import prune_runs

    for day in (1, 2, 3):
        write(workspace.home, record(day))
    state = call(workspace, prune_runs, keep_last=1, older_than_days=1.0, keep=(record(2).run_id,))
    assert (state.name, state.message) == ("Removed", f"1 removed: {record(1).run_id}")
    assert left(workspace.home) == [2, 3]
    assert call(workspace, prune_runs).name == "NothingToRemove"
