"""Reports as flows: written in a process of their own, linked and told in an artifact."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.server import PrefectServer
from flows.workspace import Workspace, using
from tests.flows.conftest import add_task, settings_for
from tests.reports import data

pytestmark = [pytest.mark.slow, pytest.mark.prefect]


def call(workspace: Workspace, name: str, **parameters: Any) -> Any:
    """Call a flow in this process; gives the state that its run ended in."""
    from flows import report

    async def run() -> Any:
        with using(workspace):
            return await getattr(report, name)(**parameters, return_state=True)

    return asyncio.run(run())


def artifact(server: PrefectServer, key: str) -> str:
    answer = httpx.post(f"{server.api_url}/artifacts/latest/filter", json={"artifacts": {"key": {"any_": [key]}}})
    (found,) = answer.json()
    return str(found["data"])


def test_the_logs_report_is_linked_with_its_verdicts(workspace: Workspace, on_prefect: PrefectServer) -> None:
    add_task(workspace)
    state = call(workspace, "report_audit")
    assert (state.name, state.type.value) == ("AllHolds", "COMPLETED")
    assert (workspace.home / state.message).is_file()
    page = artifact(on_prefect, "report-audit")
    assert f"[The report]({workspace.settings.api_url}/{state.message})" in page
    assert "| holds | the chain holds |" in page


def test_a_run_that_broke_a_threshold_is_told_and_the_flow_completes(
    workspace: Workspace, on_prefect: PrefectServer
) -> None:
    data.soak_run(workspace.home)
    state = call(workspace, "report_run", run_id="soak-1")
    assert (state.name, state.type.value) == ("SomethingFails", "COMPLETED")
    assert "rss<1" in state.message
    assert r"| **fails** | rss\<1 | 2 |" in artifact(on_prefect, "report-run")


def test_a_report_that_cannot_be_written_fails_with_what_the_command_said(tmp_path: Path) -> None:
    from flows.report import ReportFailed, write_report

    with pytest.raises(ReportFailed, match="'--help' is no run's id"):
        asyncio.run(write_report(settings_for(tmp_path), "--help"))


def test_no_secret_goes_to_the_process_that_writes_a_report(tmp_path: Path) -> None:
    from flows.command import environment

    settings = settings_for(tmp_path, jwt_secret="a secret that is long enough for HS256")
    os.environ["KIRCERTA_TELEGRAM_TOKEN"] = "123:abc"
    try:
        told = environment(settings)
    finally:
        del os.environ["KIRCERTA_TELEGRAM_TOKEN"]
    assert [name for name in told if name.startswith(("KIRCERTA_", "PREFECT_"))] == ["KIRCERTA_HOME"]
