"""What the Prefect server has scheduled, written down for those who must not wait for it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from audit.stamp import rfc3339, seconds_of
from flows.planned import keep_schedules, scheduled
from flows.server import PrefectServer
from flows.workspace import home_tag
from ssot import schedules
from ssot.schedules import Schedules
from tests.flows.test_dispatcher import until


def plan(url: str, flow: str, tags: list[str], after_s: float) -> None:
    """A deployment on the server, and a run of it that is going to start."""
    flow_id = made(url, "/flows/", {"name": flow})["id"]
    deployment = {"name": "kircerta-planned", "flow_id": flow_id, "tags": tags, "entrypoint": f"flows.dispatch.{flow}"}
    deployment_id = made(url, "/deployments/", deployment)["id"]
    at = {"type": "SCHEDULED", "state_details": {"scheduled_time": rfc3339(time.time() + after_s)}}
    made(url, f"/deployments/{deployment_id}/create_flow_run", {"state": at})


def made(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answers: list[httpx.Response] = []

    def is_taken() -> bool:  # 503 while SQLite is locked
        answers.append(httpx.post(url + path, json=body))
        return answers[-1].is_success

    until(is_taken)
    found: dict[str, Any] = answers[-1].json()
    return found


@pytest.mark.slow
@pytest.mark.prefect
def test_scheduled_runs_are_those_of_the_workspace_with_their_flow_and_project(
    tmp_path: Path, prefect_server: PrefectServer
) -> None:
    url, now = prefect_server.api_url, time.time()
    plan(url, "dispatch_pending", [home_tag(tmp_path), "project:shop"], 600)
    plan(url, "watchdog", [home_tag(tmp_path / "another")], 300)

    async def ask() -> Schedules:
        async with httpx.AsyncClient(base_url=url) as client:
            return await scheduled(client, home_tag(tmp_path), now)

    (run,) = asyncio.run(ask()).runs
    assert (run.flow, run.deployment, run.project) == (
        "dispatch_pending", "dispatch_pending/kircerta-planned", "shop",
    )  # fmt: skip
    assert abs(seconds_of(run.at) - now - 600) < 60


async def test_a_server_that_is_gone_leaves_what_was_known(tmp_path: Path) -> None:
    known = Schedules(at=rfc3339(time.time()))
    schedules.save(tmp_path, known)
    asking = asyncio.create_task(keep_schedules(tmp_path, "http://127.0.0.1:9/api"))
    await asyncio.sleep(0)
    done, _ = await asyncio.wait({asking}, timeout=0.3)
    assert not done
    asking.cancel()
    assert schedules.load(tmp_path) == known
