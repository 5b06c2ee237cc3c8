"""Asks the Prefect server which runs are scheduled, and writes it down for those who must not wait for a server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

import httpx

from audit.files import StorageFailed
from audit.stamp import rfc3339
from flows.workspace import home_tag
from ssot import schedules
from ssot.schedules import ScheduledRun, Schedules

EVERY_S: Final = 60.0
PROJECT_TAG: Final = "project:"
"""A deployment with this tag and a project's name runs for that project alone."""
_TIMEOUT_S: Final = 5.0
_MOST: Final = 50


async def keep_schedules(home: Path, prefect_api_url: str) -> None:
    """Once a minute, until cancelled. A server that does not answer leaves what was known: it grows stale by itself."""
    async with httpx.AsyncClient(base_url=prefect_api_url, timeout=_TIMEOUT_S) as client:
        while True:
            try:
                schedules.save(home, await scheduled(client, home_tag(home), time.time()))
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, StorageFailed):
                pass
            await asyncio.sleep(EVERY_S)


async def scheduled(client: httpx.AsyncClient, tag: str, now: float) -> Schedules:
    """The next runs of the deployments with a tag. Raises httpx.HTTPError; ValueError, KeyError for an odd answer."""
    of_ours = {"deployments": {"tags": {"all_": [tag]}}}
    deployments = {one["id"]: one for one in await _filtered(client, "deployments", of_ours)}
    flows = {one["id"]: one["name"] for one in await _filtered(client, "flows", of_ours)}
    waiting = {
        **of_ours,
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": {"after_": rfc3339(now)}},
        "sort": "EXPECTED_START_TIME_ASC",
        "limit": _MOST,
    }
    runs = await _filtered(client, "flow_runs", waiting)
    known = [one for one in runs if one["deployment_id"] in deployments and one["flow_id"] in flows]
    return Schedules(
        at=rfc3339(now),
        runs=tuple(_run(one, deployments[one["deployment_id"]], flows[one["flow_id"]]) for one in known),
    )


async def _filtered(client: httpx.AsyncClient, what: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await client.post(f"/{what}/filter", json=wanted)
    answer.raise_for_status()
    return list(answer.json())


def _run(told: dict[str, Any], deployment: dict[str, Any], flow: str) -> ScheduledRun:
    named = (tag.removeprefix(PROJECT_TAG) for tag in deployment["tags"] if tag.startswith(PROJECT_TAG))
    at = str(told["expected_start_time"] or told["next_scheduled_start_time"]).replace("+00:00", "Z")
    return ScheduledRun(flow=flow, deployment=f"{flow}/{deployment['name']}", at=at, project=next(named, None))
