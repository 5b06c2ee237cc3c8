"""`GET /api/tasks/{task_id}/trace`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.traces import example
from ssot.store import Store
from ssot.trace import Trace
from tests.api.scene import AS_APPROVER, TASK_ID, api, at_stage, bring_to, post


def said(value: Any) -> Any:
    """A value without what is null: the framework leaves that out of examples."""
    if isinstance(value, list):
        return [said(one) for one in value]
    return {k: said(v) for k, v in value.items() if v is not None} if isinstance(value, dict) else value


TRACE = f"/api/tasks/{TASK_ID}/trace"


async def test_the_trace_is_as_its_description_and_example_say(home: Path, store: Store) -> None:
    at_stage(store, "needs_review")
    async with api(home) as client:
        answer = await client.get(TRACE)
        described = (await client.get("/openapi.json")).json()
    assert answer.status_code == 200
    found = Trace.model_validate_json(answer.content)
    assert [row.hunks for row in found.attempts[0].criteria] == [("H-1.1",)]
    entry = described["paths"]["/api/tasks/{task_id}/trace"]["get"]
    told = entry["responses"]["200"]["content"]["application/json"]
    assert told["schema"] == {"$ref": "#/components/schemas/Trace"}
    assert set(answer.json()) == set(described["components"]["schemas"]["Trace"]["properties"]) == set(told["example"])
    assert told["example"] == said(example())

    def without_place(body: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in body.items() if name not in ("seq", "revision", "title")}

    assert without_place(answer.json()) == without_place(example())


async def test_an_unchanged_trace_is_a_304_until_the_task_changes(home: Path, store: Store) -> None:
    at_stage(store, "acknowledged")
    async with api(home) as client:
        first = await client.get(TRACE)
        tag = {"If-None-Match": first.headers["etag"]}
        assert (await client.get(TRACE, headers=tag)).status_code == 304
        at_stage(store, "needs_review", task_id="T-2", dispatch_id="d-2")
        assert (await client.get(TRACE, headers=tag)).status_code == 304
        from_agent = await post(client, "result")
        assert from_agent.status_code == 200
        second = await client.get(TRACE, headers=tag)
    assert second.status_code == 200
    assert second.json()["coverage"]["criteria_with_operation"] == 1


async def test_a_decision_shows_in_the_trace_at_once_and_its_issues_in_the_next_attempt(
    home: Path, store: Store
) -> None:
    at_stage(store, "needs_review")
    async with api(home) as client:
        assert (await client.get(TRACE)).json()["attempts"][0]["stage"] == "needs_review"
        assert (await post(client, "reject")).status_code == 200
        bring_to(store, "needs_review", dispatch_id="d-2")
        first, second = (await client.get(TRACE)).json()["attempts"]
    assert first["stage"] == "rejected"
    decided = first["issues"][-1]
    assert (decided["told_by"], decided["answer"]) == ("decision", {"attempt": 2, "operations": ["OP-1", "OP-2"]})
    assert second["stage"] == "needs_review"


@pytest.mark.parametrize("task_id", ["T-404", "..", "T-1%0A"])
async def test_what_is_no_task_has_no_trace(home: Path, store: Store, task_id: str) -> None:
    at_stage(store, "new")
    async with api(home) as client:
        answer = await client.get(f"/api/tasks/{task_id}/trace")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_trace_is_read_by_whoever_may_read_the_task(home: Path, store: Store) -> None:
    at_stage(store, "new")
    async with api(home, read_auth=True) as client:
        assert (await client.get(TRACE)).status_code == 401
        assert (await client.get(TRACE, headers=AS_APPROVER)).status_code == 200
