"""`GET /api/projects`."""

from __future__ import annotations

import time
from pathlib import Path

from audit.event import Draft
from audit.stamp import rfc3339
from ssot import schedules
from ssot.intents import EndAttempt
from ssot.schedules import ScheduledRun, Schedules
from ssot.standing import ProjectsPage
from ssot.store import Store
from tests.api.scene import AS_APPROVER, TASK_ID, api, at_stage, dispatched, post, task

TWO = """
[project.shop]
title = "The shop"
repositories = ["acme/shop"]
executor = "codex"
[project.shop.policy]
quorum = 2

[project.bakery]
"""


def written(home: Path, text: str) -> None:
    (home / "config").mkdir(exist_ok=True)
    (home / "config" / "projects.toml").write_text(text)


async def test_without_a_file_there_are_no_projects(home: Path, store: Store) -> None:
    task(store)
    async with api(home) as client:
        found = (await client.get("/api/projects")).json()
    assert (found["projects"], found["problem"]) == ([], None)
    assert found["others"]["pending"] == 1


async def test_each_project_shows_its_policy_its_runs_and_its_last_error(home: Path, store: Store) -> None:
    written(home, TWO)
    task(store, "T-2", metadata={"project": "shop"})
    task(store, "T-3", metadata={"project": "shoe"})
    task(store, "T-4", origin={"repository": "acme/shop"})
    dispatched(store, "d-1", "T-4")
    store.commit("T-4", EndAttempt("d-1", "executor_failed", "exit code 3"), actor="dispatcher")
    seq = store.last_seq()
    async with api(home) as client:
        body = await client.get("/api/projects")
    ProjectsPage.model_validate_json(body.content)
    shop, bakery = body.json()["projects"]
    assert (shop["name"], shop["title"], shop["executor"], shop["policy"]["quorum"]) == ("shop", "The shop", "codex", 2)
    assert shop["counts"] == {
        "total": 2, "pending": 2, "needs_review": 0, "approved": 0, "rejected": 0, "locked": 0,
    }  # fmt: skip
    assert (shop["last_run"]["task_id"], shop["last_run"]["outcome"]) == ("T-4", "failed")
    assert shop["last_error"]["seq"] == seq
    assert shop["last_error"]["detail"] == "executor_failed: exit code 3"
    assert (shop["state"], shop["reasons"][0]["code"], shop["next_run"]) == ("red", "failed", None)
    assert (bakery["state"], bakery["last_run"], bakery["last_error"]) == ("green", None, None)
    assert body.json()["misnamed"] == ["T-3"]


async def test_what_happens_shows_at_once_and_nothing_new_is_a_304(home: Path, store: Store) -> None:
    written(home, TWO)
    at_stage(store, "needs_review")
    async with api(home) as client:
        first = await client.get("/api/projects")
        tag = {"If-None-Match": first.headers["etag"]}
        assert (await client.get("/api/projects", headers=tag)).status_code == 304
        assert first.json()["others"]["needs_review"] == 1
        await post(client, "approve")
        second = await client.get("/api/projects", headers=tag)
        assert second.json()["others"]["approved"] == 1
        written(home, TWO + "\n[project.hello]\nchats = [5]\n")
        named = [one["name"] for one in (await client.get("/api/projects")).json()["projects"]]
    assert named == ["shop", "bakery", "hello"]


async def test_errors_that_come_while_it_runs_are_told_and_others_are_not(home: Path, store: Store) -> None:
    written(home, TWO)
    task(store, metadata={"project": "shop"})
    async with api(home) as client:
        assert (await client.get("/api/projects")).json()["projects"][0]["last_error"] is None
        store.note(Draft("result_refused", "agent", {"code": "result_refused", "detail": "no operation"}, TASK_ID))
        store.note(Draft("heartbeat", "agent", {}, TASK_ID))
        error = (await client.get("/api/projects")).json()["projects"][0]["last_error"]
    assert (error["type"], error["detail"], error["task_id"]) == ("result_refused", "no operation", TASK_ID)


async def test_a_file_that_cannot_be_used_is_a_problem_and_used_in_no_part(home: Path, store: Store) -> None:
    written(home, TWO + "colour = 'blue'\n")
    task(store)
    async with api(home) as client:
        answer = await client.get("/api/projects")
    assert answer.status_code == 200
    assert answer.json()["projects"] == []
    assert "config/projects.toml" in answer.json()["problem"]
    assert "colour" in answer.json()["problem"]


async def test_the_next_schedule_is_what_the_dispatcher_wrote_down(home: Path, store: Store) -> None:
    written(home, TWO)
    now = time.time()
    run = ScheduledRun(flow="dispatch_pending", deployment="dispatch_pending/kircerta", at=rfc3339(now + 40))
    schedules.save(home, Schedules(at=rfc3339(now), runs=(run,)))
    async with api(home) as client:
        shop = (await client.get("/api/projects")).json()["projects"][0]
    assert shop["next_run"] == {
        "flow": "dispatch_pending", "deployment": "dispatch_pending/kircerta", "at": run.at, "project": None,
    }  # fmt: skip


async def test_projects_are_read_by_whoever_may_read_tasks(home: Path, store: Store) -> None:
    async with api(home, read_auth=True) as client:
        assert (await client.get("/api/projects")).status_code == 401
        assert (await client.get("/api/projects", headers=AS_APPROVER)).status_code == 200


async def test_the_description_has_its_schema_and_an_example_that_fits(home: Path, store: Store) -> None:
    async with api(home) as client:
        described = (await client.get("/openapi.json")).json()
    told = described["paths"]["/api/projects"]["get"]["responses"]["200"]["content"]["application/json"]
    assert told["schema"] == {"$ref": "#/components/schemas/ProjectsPage"}
    assert told["example"]["projects"][0]["state"] == "green"
    assert "ShownProjectStanding" in described["components"]["schemas"]
