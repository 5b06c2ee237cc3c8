"""The whole loop on a real Prefect server: import, one run for all, the gate, decisions, verbatim issues, approval."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from audit.verify import verify
from flows.server import PrefectServer
from flows.workspace import Workspace, home_tag, using
from scripts.drills.kill_everything import Drill
from ssot.importers import read
from ssot.intents import Approve, Create, Reject
from tests.flows.conftest import on_prefect, prefect_server, settings_for

__all__ = ["on_prefect", "prefect_server"]  # fixtures

pytestmark = [pytest.mark.slow, pytest.mark.prefect]


def call(workspace: Workspace, name: str, **parameters: Any) -> Any:
    from flows import dispatch

    async def run() -> Any:
        with using(workspace):
            return await getattr(dispatch, name)(**parameters, return_state=True)

    return asyncio.run(run())


def import_checklist(workspace: Workspace, folder: Path) -> int:
    folder.mkdir()
    lines = "".join(f"- [ ] Task number {number}\n" for number in range(20))
    (folder / "todo.md").write_text(f"# Things to do\n\n{lines}")
    found = read(folder / "todo.md")
    wishes = [(draft.task_id, Create(draft.request_text, source="import", title=draft.title)) for draft in found.drafts]
    workspace.store.commit_many(wishes, actor="alice")
    return len(wishes)


def test_imported_tasks_go_through_one_run_to_the_gate_and_on_to_their_decisions(
    tmp_path: Path, on_prefect: PrefectServer
) -> None:
    workspace = Workspace.open(settings_for(tmp_path / "home"))
    count = import_checklist(workspace, tmp_path / "tasks")
    assert count == 20
    agents = {"executor": "fake-inproc", "reviewer": "fake-inproc:reject_first=1"}
    state = call(workspace, "dispatch_pending", limit=100, **agents)
    assert state.name == "Dispatched"
    ids = sorted(workspace.store.view.entries)
    assert {workspace.store.task(task_id).status for task_id in ids} == {"needs_review"}

    for task_id in ids[:3]:
        workspace.store.commit(task_id, Reject("as the reviewer says"), actor="alice")
        assert call(workspace, "redispatch", task_id=task_id).name == "NeedsReview"
        first, second = workspace.store.task(task_id).attempts
        assert first.verdict is not None
        assert second.dispatch is not None
        assert second.dispatch.issues == first.verdict.issues
        workspace.store.commit(task_id, Approve("now it is right"), actor="alice")
        assert call(workspace, "close_task", task_id=task_id).name == "Closed"
    for task_id in ids[3:]:
        workspace.store.commit(task_id, Approve(), actor="bob")
    assert {workspace.store.task(task_id).status for task_id in ids} == {"approved"}
    assert verify(workspace.store.audit_folder).problem is None
    wanted = {"flow_runs": {"tags": {"all_": [home_tag(workspace.home)]}}}
    runs = httpx.post(f"{on_prefect.api_url}/flow_runs/filter", json=wanted).json()
    assert len(runs) == 6
    workspace.store.close()


def test_the_drill_kills_dispatcher_and_server_and_nothing_is_lost(tmp_path: Path) -> None:
    report = Drill(tmp_path, tasks=6, seed=7).run(seconds=12.0)
    assert report.broken == []
    assert sum(report.kills.values()) >= 3
